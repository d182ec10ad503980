"""Cells are scored shard by shard: sums come out the same, each shard is read once."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from screens import config_of
from test_proportions import assert_same_bits

from bgscale import open_results, results
from bgscale import proportions as pr
from bgscale.config import RunConfig
from bgscale.distribute.units import Unit
from bgscale.errors import InputError
from bgscale.results import Store
from bgscale.run import Run
from bgscale.stages import predictions, proportions, shifts
from bgscale.stages.choosing import evaluated
from bgscale.stages.classifiers import groups_of
from bgscale.stages.job import Job

K, D, SETTINGS, FOLDS, CLASSIFIERS = 4, 7, 3, 3, 4
FITS = ([0, 0, 0], [0, 1, 2])


def panel(seed: int) -> tuple[pr.Panel, list[list[pr.Classifier]]]:
    """Return random classifiers, stacked and one by one."""
    rng = np.random.default_rng(seed)
    rows = [
        [
            pr.Classifier(
                rng.normal(size=(K, D)),
                np.r_[rng.normal(size=K - 1), -np.inf],
                rng.normal(size=D),
                rng.uniform(0.5, 2, D),
                True,
                1,
                np.full(K, 1 / K),
            )
            for _ in range(CLASSIFIERS)
        ]
        for _ in range(FOLDS)
    ]
    return pr.stack(rows), rows


def cells(n: int = 700) -> tuple[np.ndarray, ...]:
    """Return features, folds, proteins and fields; some cells lack a setting, some proteins all."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, SETTINGS, D)).astype(np.float32)
    protein = rng.integers(0, 9, n) * 3
    x[rng.random((n, SETTINGS)) < 0.1] = np.nan
    x[protein == 6, 1] = np.nan
    x[protein == 9, 0] = np.nan
    return x, protein // 3 % FOLDS, protein, rng.integers(0, 4, n)


@pytest.fixture(scope="module")
def panels() -> list[tuple[pr.Panel, list[list[pr.Classifier]]]]:
    return [panel(seed) for seed in range(SETTINGS)]


def test_streamed_sums_are_those_of_every_replicates_softmax(panels: Any) -> None:
    x, fold, protein, field = cells()
    probability, states = pr.score_settings([p for p, _ in panels], FITS, x, fold, protein, field)
    present = np.isfinite(x).all(axis=2).T
    for f, fit in enumerate(FITS):
        p = np.full((SETTINGS, CLASSIFIERS, len(x), K), np.nan)
        for s, which in enumerate(fit):
            seen = np.flatnonzero(present[s])
            p[s][:, seen] = pr.predict_out_of_fold(panels[which][1], x[seen, s], fold[seen])
        expected = pr.accumulate(p[:, 0], present, protein, field, replicates=p[:, 1:])
        assert_same_bits(states[f], expected)
        np.testing.assert_array_equal(probability[f], p[:, 0])
    assert states[0].replicate_sums.any()
    assert (states[0].replicate_baseline[1] != states[0].replicate_baseline[0]).any()
    assert not states[0].replicate_baseline[1][states[0].protein == 6].any()


def test_shards_of_any_size_add_to_the_same_bits(panels: Any) -> None:
    arrays = cells()
    stacked = [p for p, _ in panels]
    _, whole = pr.score_settings(stacked, FITS, *arrays)
    rng = np.random.default_rng(1)
    for f in range(len(FITS)):
        total = pr.ProportionState.zero(SETTINGS, K, CLASSIFIERS - 1)
        for part in np.split(rng.permutation(700), [0, 1, 240, 555]):
            total = total + pr.score_settings(stacked, FITS, *(a[part] for a in arrays))[1][f]
        assert_same_bits(total, whole[f])


def test_classifiers_that_could_not_be_fitted_score_nobody(panels: Any) -> None:
    stacked = [p for p, _ in panels]
    nothing = np.full((FOLDS, CLASSIFIERS, K, D), np.nan)
    stacked[1] = pr.panel_of(nothing, nothing[..., 0], nothing[:, :, 0], nothing[:, :, 0])
    probability, states = pr.score_settings(stacked, FITS, *cells())
    assert np.isnan(probability[1, 1]).all()
    assert not states[1].n[1].any()
    assert not states[1].replicate_baseline[1].any()
    assert states[1].n[2].any()


# --- in a run ----------------------------------------------------------------------------------


def test_every_shards_features_are_read_once(
    small_screen: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(small_screen, tmp_path)
    run = Run.from_config(config)
    run.execute(until="classifiers")
    reads: list[tuple[str, Any]] = []
    plain = Store.read

    def read(self: Store, name: str, *selection: Any) -> Any:
        reads.append((name, selection))
        return plain(self, name, *selection)

    def rows_of(array: Any, wanted: Any, *at: Any) -> Any:
        reads.append((array.name, at))
        return results.rows_of(array, wanted, *at)

    monkeypatch.setattr(Store, "read", read)
    monkeypatch.setattr(proportions, "rows_of", rows_of)
    run.execute(until="reliability")
    of_features = [where for name, where in reads if name.endswith("/profile/embedding")]
    shards = len(next(s for s in run.stages if s.name == "predict/tiny/crops").units(run._job))
    assert shards > 1
    assert sorted((w[0].start, w[0].stop) for w in of_features) == [
        (start, min(start + 64, len(run.screen.items)))
        for start in range(0, len(run.screen.items), 64)
    ]
    # and every protein's softmax once a fit and setting
    softmax = Counter(where for name, where in reads if name.endswith("/probability"))
    assert set(softmax.values()) == {1}
    assert len(softmax) == 2 * len(config.settings)


def test_the_softmax_of_cells_means_to_the_proportions_of_proteins(plates: Path) -> None:
    tree = open_results(plates)
    made = tree["proportions/tiny"].to_dataset().load()
    found, owner = [], []
    for plate in ("P1", "P2"):
        found.append(tree[f"plates/{plate}/predictions/tiny"]["probability"].to_numpy())
        owner.append(tree[f"plates/{plate}/cells"]["protein"].to_numpy())
    p, protein = np.concatenate(found), np.concatenate(owner)
    for code in range(made.sizes["protein"]):
        own = p[protein == code]
        both = np.isfinite(own).all(axis=3) & np.isfinite(own[:, :, :1]).all(axis=3)
        np.testing.assert_array_equal(made["n_cells"][:, :, code], both.sum(axis=0))
        total = np.where(both[..., None], own, 0).sum(axis=0)
        mean = made["proportion"][:, :, code].to_numpy()
        assert np.isnan(mean).all(axis=2).tolist() == (both.sum(axis=0) == 0).tolist()
        expected = mean * both.sum(axis=0)[..., None]
        np.testing.assert_allclose(np.nan_to_num(expected), total, atol=1e-4)


def test_a_unit_of_proteins_reads_the_plates_that_hold_them(
    plates: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = open_results(plates)
    config = RunConfig.from_dict(tree.attrs["config"])
    # of the published fit a process needs to know once which fold each protein of the screen is in
    converged = config.proportions.model_copy(update={"hyperparameters": "converged"})
    job = Job(config.model_copy(update={"proportions": converged}))
    lone = set(tree["plates/P1/cells"]["protein"].to_numpy()) - set(
        tree["plates/P2/cells"]["protein"].to_numpy()
    )
    code = min(int(protein) for protein in lone if protein >= 0)
    reads: list[str] = []
    plain, rows = Store.read, Store.read_rows

    def read(self: Store, name: str, *selection: Any) -> Any:
        reads.append(name)
        return plain(self, name, *selection)

    def read_rows(self: Store, name: str, wanted: Any, *at: Any) -> Any:
        reads.append(name)
        return rows(self, name, wanted, *at)

    monkeypatch.setattr(Store, "read", read)
    monkeypatch.setattr(Store, "read_rows", read_rows)
    monkeypatch.setattr(Store, "write", lambda self, name, region, values: [])
    asked: list[str] = []
    fields = Job.field_count

    def field_count(self: Job, plate: str) -> int:
        asked.append(plate)
        return fields(self, plate)

    monkeypatch.setattr(Job, "field_count", field_count)
    for _ in range(2):
        stage = Unit("proportions/tiny", code, code + 1, "token")
        _, summary = proportions.proportions(job, stage)
        assert summary["cells"] > 0
    of_other = Counter(name for name in reads if name.startswith("plates/P2/"))
    # how many fields the plates before it have, too
    assert Counter(asked) == {"P1": 1, "P2": 1}
    # which proteins it has is asked once, however many units there are
    slots = "plates/P2/predictions/tiny/sums"
    assert of_other == {f"{slots}/{code}": 1 for code in ("protein", "field_protein", "field")}


def test_what_all_units_of_shifts_need_is_read_once(
    plates: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = Job(RunConfig.from_dict(open_results(plates).attrs["config"]))
    reads: list[str] = []
    plain = Store.read

    def read(self: Store, name: str, *selection: Any) -> Any:
        reads.append(name)
        return plain(self, name, *selection)

    monkeypatch.setattr(Store, "read", read)
    monkeypatch.setattr(Store, "write", lambda self, name, region, values: [])
    for code in (0, 1, 2):
        shifts.shifts(job, Unit("shifts/tiny", code, code + 1, "token"))
    confusions = Counter(name for name in reads if name.endswith("confusion"))
    once = {"pooled/tiny/confusion": 2 * len(job.settings)}
    assert confusions == once | {
        "pooled/tiny/replicate_confusion": 2 * len(job.settings),
        "pooled/tiny/background_confusion": 2 * 3,
    }


def test_what_is_kept_is_said(plates: Path) -> None:
    tree = open_results(plates)
    for node in ("plates/P1/predictions/tiny", "classifiers/tiny", "reliability/tiny"):
        dataset = tree[node].to_dataset()
        assert dataset.attrs["description"]
        for name, variable in dataset.data_vars.items():
            assert variable.attrs["long_name"], name
            assert variable.attrs["units"], name
    assert tree["classifiers/tiny"].attrs["hyperparameters"] == "published"
    assert not tree["classifiers/tiny"]["mean"].to_numpy().any()
    counted = tree["reliability/tiny"]["n_cells"].sel(label="top").sum("bin")
    assert (counted.sel(setting="original") > 0).all()


def test_slots_hold_the_most_proteins_of_any_shard(finished: Path) -> None:
    tree = open_results(finished)
    code = tree["plates/crops/cells"]["protein"].to_numpy()
    shards = [np.unique(code[at : at + 64]) for at in range(0, len(code), 64)]
    kept = tree["plates/crops/predictions/tiny/sums"]["protein"].to_numpy()
    assert kept.shape == (len(shards), max(map(len, shards)))
    for own, slots in zip(shards, kept, strict=True):
        np.testing.assert_array_equal(slots[slots != predictions.NONE], own)
    job = Job(RunConfig.from_dict(tree.attrs["config"]))
    ends = predictions.shards_with(job, "tiny", int(code[0]), int(code[0]) + 1)
    assert [shard for _, shard, *_ in ends] == [i for i, s in enumerate(shards) if code[0] in s]


# --- the published fit -------------------------------------------------------------------------


def mixed(n: int = 3000, k: int = 3, d: int = 6) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    targets = rng.integers(0, k, n)
    return (rng.normal(size=(k, d))[targets] + rng.normal(size=(n, d))).astype(np.float32), targets


def test_the_published_fit_is_torchs_adam_on_the_same_batches() -> None:
    import torch

    from bgscale.draw import words
    from bgscale.proportions import published

    x, t = mixed()
    ours = pr.fit_published(x, t, n_localizations=3, seed=4)
    layer = torch.nn.Linear(6, 3)
    start = published.first_weights(3, 6, 4)
    with torch.no_grad():
        layer.weight[:] = torch.from_numpy(start[:, :-1])
        layer.bias[:] = torch.from_numpy(start[:, -1])
    adam = torch.optim.Adam(layer.parameters(), lr=1e-3)
    for epoch in range(5):
        order = np.argsort(words(4, "epoch", np.arange(len(x), dtype=np.uint64), epoch))
        for rows in np.split(order, range(128, len(x), 128)):
            adam.zero_grad()
            loss = torch.nn.functional.cross_entropy(
                layer(torch.from_numpy(x[rows])), torch.from_numpy(t[rows])
            )
            loss.backward()
            adam.step()
    assert ours.iterations == 5 * 24
    np.testing.assert_allclose(ours.coef, layer.weight.detach().numpy(), atol=2e-5)
    np.testing.assert_allclose(ours.intercept, layer.bias.detach().numpy(), atol=2e-5)
    assert not ours.converged
    assert np.abs(ours.coef - start[:, :-1]).max() > 0.05


def test_the_published_fit_follows_from_its_seed_and_its_weights() -> None:
    x, t = mixed(400)
    first, again, other = (
        pr.fit_published(x, t, n_localizations=5, seed=seed) for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first.coef, again.coef)
    assert (first.coef != other.coef).any()
    assert np.isneginf(first.intercept).tolist() == [False] * 3 + [True] * 2
    weights = np.random.default_rng(2).poisson(1, len(x))
    shown = pr.fit_published(x, t, n_localizations=3, seed=0, weights=weights)
    repeated = pr.fit_published(
        np.repeat(x, weights, axis=0), np.repeat(t, weights), n_localizations=3, seed=0
    )
    np.testing.assert_array_equal(shown.coef, repeated.coef)
    with pytest.raises(InputError, match="integer"):
        pr.fit_published(x, t, n_localizations=3, seed=0, weights=weights / 2)


def test_mixtures_are_found_again_where_classes_were_not_equally_common() -> None:
    rng = np.random.default_rng(0)
    centre = rng.normal(size=(3, 6))

    def seen(counts: list[int]) -> tuple[np.ndarray, np.ndarray]:
        t = np.repeat(np.arange(3), counts)
        return (centre[t] + rng.normal(size=(len(t), 6))).astype(np.float32), t

    x, t = seen([24_000, 6000, 1500])
    # as often as it takes to converge
    fit = pr.fit_published(np.tile(x, (8, 1)), np.tile(t, 8), n_localizations=4, seed=0)
    np.testing.assert_allclose(fit.prior, [24 / 31.5, 6 / 31.5, 1.5 / 31.5, 0])
    p = pr.predict(fit, seen([1000, 2000, 3000])[0])
    share = np.array([1, 2, 3, 0]) / 6
    np.testing.assert_allclose(pr.mixture(p, fit.prior), share, atol=0.05)
    assert np.abs(pr.mixture(p) - share).max() > 0.2


def test_mixtures_of_a_run_know_how_common_classes_were(
    plates: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = open_results(plates)
    prior = tree["classifiers/tiny"]["prior"].sel(replicate=0)
    np.testing.assert_allclose(prior.sum("localization"), 1)
    assert float(prior.max()) > 1.2 * float(prior.min())
    job, code = Job(RunConfig.from_dict(tree.attrs["config"])), 3
    groups, fold, softmax = groups_of(job), [], []
    for plate in job.plates:
        table = job.cells(plate)
        own = evaluated(table)
        own = own[table.cells.protein[own] == code]
        field = table.cells.field[own] + job.first_fields[plate]
        fold.append(groups.folds.fold[groups.of(table.cells.protein[own], field)])
        node = tree[f"plates/{plate}/predictions/tiny"]
        softmax.append(node["probability"].isel(cell=own).to_numpy())
    asked: list[Any] = []

    def mixture(softmax: np.ndarray, prior: np.ndarray) -> np.ndarray:
        asked.append((softmax, prior))
        return np.zeros(softmax.shape[1])

    monkeypatch.setattr(proportions.kernels, "mixture", mixture)
    monkeypatch.setattr(Store, "write", lambda self, name, region, values: [])
    proportions.proportions(job, Unit("proportions/tiny", code, code + 1, "token"))
    p, each = np.concatenate(softmax), iter(asked)
    for f, fit in enumerate(("fixed", "matched")):
        for s, setting in enumerate(job.config.settings):
            there = np.isfinite(p[:, f, s]).all(1)
            trained_on = "original" if fit == "fixed" else setting
            of_fold = prior.sel(setting=trained_on).to_numpy()
            seen, known = next(each)
            np.testing.assert_array_equal(seen, p[there, f, s])
            np.testing.assert_array_equal(known, of_fold[np.concatenate(fold)[there]])


def test_hyperparameters_are_an_option_of_every_fold() -> None:
    x, _ = mixed(600)
    names = [f"P{i}" for i in range(12)]
    labels = np.eye(3, dtype=bool)[np.arange(12) % 3]
    folds = pr.assign_folds(names, labels, range(12), range(12), seed=0, n_folds=2)
    group = np.arange(600) % 12
    weights = pr.replicate_weights(folds, seed=0, replicates=1)
    fits = [
        pr.fit_out_of_fold(x, group, folds, weights=weights, hyperparameters=how)
        for how in ("converged", "published")
    ]
    assert [[c.converged for c in row] for row in fits[0]] == [[True, True]] * 2
    assert [[c.converged for c in row] for row in fits[1]] == [[False, False]] * 2
    assert (fits[1][0][0].coef != fits[1][0][1].coef).any()


# --- reliability -------------------------------------------------------------------------------


def judged(n: int, sharper: float, seed: int = 0, shares: Any = (0.7, 0.2, 0.1)) -> tuple[Any, ...]:
    """Return calibrated posteriors under equal priors, made `sharper`, of unevenly many cells."""
    rng = np.random.default_rng(seed)
    t = np.repeat(np.arange(3), (np.array(shares) * n).astype(int))
    centres = 1.5 * np.eye(3)
    x = centres[t] + rng.normal(size=(len(t), 3))
    logit = x @ centres.T
    p = np.exp(sharper * (logit - logit.max(axis=1, keepdims=True)))
    return (
        p[None] / p.sum(axis=1)[None, :, None],
        t,
        np.ones((1, len(t)), bool),
        t * 50 + (np.arange(len(t)) % 40),
    )


NAMES = {"settings": ["original"], "localizations": ["A", "B", "C"]}


def test_equal_priors_lie_on_the_diagonal_although_classes_are_not_equal() -> None:
    good = pr.reliability(*judged(40_000, 1.0), **NAMES)
    full = good["n_cells"] > 500
    gap = np.abs(good["confidence"] - good["observed"]).where(full)
    assert float(gap.max()) < 0.05
    assert float(good["calibration_error"].max()) < 0.02
    naive = judged(40_000, 1.0)
    mean, truth = naive[0][0, :, 2].mean(), (naive[1] == 2).mean()
    assert mean > truth + 0.03, "unweighted it would not"


def test_overconfidence_is_found_and_its_interval_holds_it() -> None:
    sharp = pr.reliability(*judged(40_000, 3.0), **NAMES).sel(setting="original", label="top")
    assert float(sharp["calibration_error"]) > 0.05
    assert float(sharp["observed"][-1]) < float(sharp["confidence"][-1]) - 0.03
    held = []
    for seed in range(20):
        found = pr.reliability(*judged(3000, 3.0, seed), **NAMES)
        found = found.sel(setting="original", label="top")
        low, high = (float(found[f"calibration_error_{b}"]) for b in ("low", "high"))
        assert low < high
        held.append(low <= float(sharp["calibration_error"]) <= high)
    assert sum(held) >= 16


def test_counts_add_to_the_same_in_any_split() -> None:
    p, t, present, protein = judged(2000, 2.0)
    present = np.random.default_rng(0).random(present.shape) < 0.8
    t = np.where(protein % 7 == 0, -1, t)
    whole = pr.count_reliability(p, t, present, protein)
    parts = np.split(np.random.default_rng(1).permutation(len(t)), [1, 700])
    total = None
    for part in parts:
        one = pr.count_reliability(p[:, part], t[part], present[:, part], protein[part])
        total = one if total is None else total + one
    assert_same_bits(total, whole)
    assert not (whole.protein % 7 == 0).any()
    assert whole.cells[0, :, -1].sum() == (present[0] & (t >= 0)).sum()


def test_reliability_counts_every_label_by_hand() -> None:
    p = np.array([[[0.62, 0.38, 0.0], [0.62, 0.38, 0.0], [0.1, 0.2, 0.7]]])
    found = pr.reliability(p, [0, 1, 2], np.ones((1, 3), bool), [0, 1, 2], **NAMES)
    top = found.sel(setting="original", label="top")
    assert top["n_cells"].to_numpy().tolist() == [0] * 6 + [2, 1, 0, 0]
    np.testing.assert_allclose(top["observed"][6:8], [0.5, 1.0])
    np.testing.assert_allclose(top["confidence"][6:8], [0.62, 0.7], atol=1e-6)
    assert np.isnan(top["observed"][0])
    error = (0.62 * 2 - 1 + 1 - 0.7) / 3
    np.testing.assert_allclose(top["calibration_error"], error, atol=1e-6)
    second = found.sel(setting="original", label="B")
    np.testing.assert_allclose(second["observed"][3], 0.5)


def test_reliability_of_nobody_is_missing_and_wrong_input_is_refused() -> None:
    p, t, present, protein = judged(100, 1.0)
    nobody = pr.reliability(p, t, ~present, protein, **NAMES)
    assert not nobody["n_cells"].any()
    assert np.isnan(nobody["calibration_error"]).all()
    with pytest.raises(InputError, match="one per cell"):
        pr.count_reliability(p, t[1:], present, protein)
    with pytest.raises(InputError, match="3 localizations"):
        pr.count_reliability(p, t + 2, present, protein)
    counts = pr.count_reliability(p, t, present, protein)
    with pytest.raises(InputError, match="names of 2"):
        pr.reliability_of(counts, settings=["a", "b"], localizations=NAMES["localizations"])
    with pytest.raises(InputError, match="do not add"):
        _ = counts + pr.count_reliability(p, t, present, protein, bins=5)
