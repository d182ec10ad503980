"""Features averaged over several random backgrounds: who lends them, and what is left of a crop."""

import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare
from screens import config_of
from strategies import pool_of, screens_of_cells
from test_run import Counter, values_of

from bgscale import open_results
from bgscale.config import RunConfig
from bgscale.errors import ConfigError, InterruptedRunError, StoreMismatchError
from bgscale.models import load_model
from bgscale.pipeline.order import Order
from bgscale.report.gather import open_run
from bgscale.report.methods import _averaged
from bgscale.results import Store
from bgscale.run import Run
from bgscale.schema import CENTRE_CELL, Missing
from bgscale.settings import (
    SETTINGS,
    Cells,
    Pool,
    compose,
    draw_of_classes,
    on_backgrounds,
    select_donors,
    spread_classes,
)
from bgscale.stages.averaging import averaged, mean, views
from bgscale.stages.batches import Batches
from bgscale.stages.embedding import _read_and_swap, features
from bgscale.stages.job import Job

K = 3
"""Backgrounds of a cell here."""
AVERAGED = {"tiny": {"seed": 1, "backgrounds": K}}
IDS = np.arange(9000, dtype=np.uint64)


# who lends


@pytest.mark.parametrize(("classes", "backgrounds"), [(3, 8), (5, 2), (4, 4), (1, 3), (15, 8)])
def test_each_class_stands_behind_every_cell_equally_often(classes, backgrounds):
    found = spread_classes(IDS, classes, backgrounds=backgrounds, seed=0, purpose="p")
    assert found.shape == (backgrounds, len(IDS))
    each = np.stack([(found == k).sum(0) for k in range(classes)])
    assert (each.max(0) - each.min(0)).max() <= 1
    for background in found:
        counts = np.bincount(background, minlength=classes)
        assert classes == 1 or chisquare(counts).pvalue > 1e-3


def test_backgrounds_are_those_of_the_cell_whoever_is_beside_it():
    whole = spread_classes(IDS, 5, backgrounds=4, seed=0, purpose="p")
    part = spread_classes(IDS[5:8][::-1], 5, backgrounds=4, seed=0, purpose="p")
    np.testing.assert_array_equal(part, whole[:, 5:8][:, ::-1])
    for other in ({"seed": 1, "purpose": "p"}, {"seed": 0, "purpose": "q"}):
        assert (spread_classes(IDS, 5, backgrounds=4, **other) != whole).mean() > 0.7


@given(screens_of_cells(), st.integers(0, 5), st.integers(1, 9))
def test_a_donor_has_the_class_asked_for_and_is_never_of_the_cells_protein(
    cells, seed, backgrounds
):
    chosen = select_donors(cells, per_class=20, per_field=0, seed=seed, purpose="bank")
    pool = pool_of(cells, chosen)
    classes = len(pool.sizes)
    how: dict[str, Any] = {"seed": seed, "purpose": "p"}
    k = spread_classes(cells.ids, classes, backgrounds=backgrounds, **how).ravel()
    many = on_backgrounds(cells, backgrounds=backgrounds, **how)
    assert len(np.unique(many.ids)) == backgrounds * len(cells)
    slot = draw_of_classes(many, pool, k, **how)[0]
    assert (slot < pool.sizes[k]).all()
    there = slot >= 0
    protein, field = pool.protein[k, slot], pool.field[k, slot]
    of_one = pool.of_one_protein[k]
    assert (protein != many.protein)[there & ~of_one].all()
    assert ((protein != many.protein) | (field != many.field))[there].all()
    # a cell has no donor only where the class has none but its own protein, or field
    for i in np.flatnonzero(~there):
        own = pool.protein[k[i], : pool.sizes[k[i]]] == many.protein[i]
        assert own.all()
    again = draw_of_classes(many.take(np.arange(1)), pool, k[:1], **how)
    np.testing.assert_array_equal(again[0], slot[:1])


def test_a_cell_without_a_class_has_backgrounds_of_all_classes():
    pool = Pool(np.array([4, 4]), np.arange(8).reshape(2, 4), np.arange(8).reshape(2, 4))
    cells = Cells(IDS, np.full(len(IDS), 99), np.full(len(IDS), 99), np.zeros((len(IDS), 2), bool))
    k = spread_classes(IDS, 2, backgrounds=2, seed=0, purpose="p").ravel()
    many = on_backgrounds(cells, backgrounds=2, seed=0, purpose="p")
    (slot,) = draw_of_classes(many, pool, k, seed=0, purpose="p")
    counts = np.bincount(4 * k + slot, minlength=8)
    assert chisquare(counts).pvalue > 1e-3


# what is made of them


@pytest.fixture(scope="module")
def job(small_screen: Path, finished: Path) -> Job:
    job = Job(config_of(small_screen, finished.parent, settings=list(SETTINGS)))
    assert job.store.exists()
    return job


@pytest.fixture(scope="module")
def model():
    return load_model("tiny", seed=1, overrides={"micro_batch": 48})


@pytest.fixture(scope="module")
def channels(job, model):
    return job.role_indices(model.spec.channels, who="")


NAMES = ["original", "same", "same_dilated_2", "background_only", "cell_free"]


def read(job, model, names=NAMES, part=slice(0, 40), backgrounds=K):
    settings = [SETTINGS[name] for name in names]
    return _read_and_swap(job, model, "crops", settings, part, backgrounds=backgrounds)


def ranges(image, mask):
    """0.1 and 99.9 percentiles of the pixels in each centre cell."""
    found = [
        np.percentile(i[:, m == CENTRE_CELL], (0.1, 99.9), axis=1).T
        for i, m in zip(image, mask, strict=True)
    ]
    return np.float32(found)


def test_features_are_the_mean_over_the_crop_on_each_background(job, model, channels):
    block, wanted = read(job, model)
    found = features(job, model, block, wanted, channels)
    bank = job.bank("donors")
    flat = [a.reshape(-1, *a.shape[2:])[:, channels] for a in (bank.image, bank.range)]
    for (setting, swapped), made in zip(wanted, found, strict=True):
        rows, mask = swapped.rows, block.dilated(setting.dilate_px).mask
        assert len(rows) > 20
        image = block.image if swapped.image is None else swapped.image
        expected = 0
        for place in swapped.averaged:
            donor, bounds = (a[place[rows]] for a in flat)
            crops = compose(
                image[rows][:, channels], mask[rows], donor,
                centre_range=ranges(image[rows], mask[rows])[:, channels], donor_range=bounds,
            )  # fmt: skip
            expected = expected + model.embed(crops, mask[rows])["profile"]
        got = made["profile"]
        np.testing.assert_array_equal(got[rows], expected / np.float32(K), err_msg=setting.name)
        assert np.isnan(np.delete(got, rows, 0)).all()


def test_nothing_but_the_centre_cell_is_read_of_a_crop(job, model, channels):
    block, wanted = read(job, model, ["original", "same"])
    before = features(job, model, block, wanted, channels)
    inside = (block.mask == CENTRE_CELL)[:, None]
    bare = replace(block, image=np.where(inside, block.image, 7).astype(block.image.dtype))
    changed = replace(block, image=np.where(inside, 7, block.image).astype(block.image.dtype))
    for one, two, three in zip(
        before,
        features(job, model, bare, wanted, channels),
        features(job, model, changed, wanted, channels),
        strict=True,
    ):
        np.testing.assert_array_equal(one["profile"], two["profile"])
        assert not np.array_equal(one["profile"], three["profile"], equal_nan=True)


def test_the_range_of_the_protein_does_not_show(job, model, channels):
    """It is the brightness of other cells; `different`, which is not averaged, maps onto it."""
    for backgrounds in (K, 0):
        block, wanted = read(job, model, ["original", "different"], backgrounds=backgrounds)
        brighter = replace(block, range=3 * block.range)
        one, two = (features(job, model, b, wanted, channels)[1] for b in (block, brighter))
        same = np.array_equal(one["profile"], two["profile"], equal_nan=True)
        assert same == bool(backgrounds)


def test_settings_stand_on_other_backgrounds_and_come_near_each_other(job, model, channels):
    """The more backgrounds, the less is left between `original` and `different`."""

    def apart(backgrounds):
        block, wanted = read(job, model, ["original", "different"], backgrounds=backgrounds)
        first, second = (f["profile"] for f in features(job, model, block, wanted, channels))
        both = np.isfinite(first[:, 0]) & np.isfinite(second[:, 0])
        return np.square(first[both] - second[both]).sum(1).mean()

    alone, few, many = apart(0), apart(2), apart(12)
    assert 0 < many < few / 2 < alone / 2


def test_where_there_is_no_background_nothing_is_averaged(job, model, channels):
    names = ["masked", "masked_mean", "masked_dilated_2"]
    block, wanted = read(job, model, names)
    assert all(swapped.averaged is None for _, swapped in wanted)
    assert len(views(job, wanted[:1])) == 1
    _, plain = read(job, model, names, backgrounds=0)
    for one, two in zip(
        features(job, model, block, wanted, channels),
        features(job, model, block, plain, channels),
        strict=True,
    ):
        np.testing.assert_array_equal(one["profile"], two["profile"])


def test_what_a_setting_misses_it_still_misses_and_who_lacks_a_donor_has_a_reason(job, model):
    block, wanted = read(job, model)
    _, plain = read(job, model, backgrounds=0)
    for (_, swapped), (_, own) in zip(wanted, plain, strict=True):
        np.testing.assert_array_equal(swapped.missing, own.missing)
        np.testing.assert_array_equal(swapped.donor, own.donor)
    alone = Job(job.config)
    bank = job.bank("donors")
    # the first class has donors of the first cell's own protein and field alone
    i = int(wanted[0][1].rows[0])
    protein, field = bank.pool.protein.copy(), bank.pool.field.copy()
    protein[0], field[0] = block.cells.protein[i], block.cells.field[i]
    lone = replace(bank, pool=replace(bank.pool, protein=protein, field=field))
    object.__setattr__(alone, "bank", lambda _: lone)
    found = averaged(alone, block, *plain[0], backgrounds=len(bank.pool.sizes))
    same = (block.cells.protein == protein[0, 0]) & (block.cells.field == field[0, 0])
    assert (found.missing[same & block.usable] == Missing.NO_DONOR).all()
    np.testing.assert_array_equal(found.missing[~same], plain[0][1].missing[~same])


def test_a_gpu_composes_the_same_backgrounds(job, model, channels):
    block, wanted = read(job, model, ["original", "same", "cell_free"])
    passes = views(job, wanted)
    assert len(passes) == K
    for view in passes:
        batches = Batches(job, model, block, view, channels)
        for start in range(0, len(batches), 48):
            part = slice(start, min(start + 48, len(batches)))
            here, _ = batches(part)
            there, _ = batches._on_device(*batches._runs(part))
            assert torch.equal(here, there)


def test_on_plates_a_cell_stands_on_other_proteins_of_all_plates(plates: Path) -> None:
    job = Job(RunConfig.from_dict(open_results(plates).attrs["config"]))
    pool = job.bank("donors").pool
    assert not pool.of_one_protein.any()
    for plate in job.plates:
        block, wanted = _read_and_swap(
            job, load_model("tiny"), plate, [SETTINGS["original"]], slice(0, 30), backgrounds=6
        )
        ((_, swapped),) = wanted
        at = swapped.averaged[:, swapped.rows]
        assert (pool.protein.ravel()[at] != block.cells.protein[swapped.rows]).all()
        lent = job.plate_of_field[pool.field.ravel()[at]]
        assert set(lent.ravel().tolist()) == set(range(len(job.plates)))


def test_the_mean_is_added_in_the_order_it_comes():
    values = [np.float32([1e8]), np.float32([1]), np.float32([-1e8])]
    made = [{"profile": v} for v in values]
    assert mean(made)["profile"] == ((values[0] + values[1]) + values[2]) / np.float32(3)


# in a run


@pytest.fixture(scope="module")
def store(small_screen: Path, finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Store of the finished run, its model averaged anew; stopped in the middle of it once."""
    folder = tmp_path_factory.mktemp("averaged")
    for name in (finished.name, f"{finished.name}.progress"):
        shutil.copytree(finished.parent / name, folder / name)
    config = config_of(small_screen, folder, models=AVERAGED)
    with pytest.raises(StoreMismatchError, match="embed/tiny/crops"):
        Run.from_config(config).check()

    class Stops(Counter):
        def unit_done(self, unit: Any, summary: Any) -> None:
            super().unit_done(unit, summary)
            if self.done.get("embed") == 2:
                signal.raise_signal(signal.SIGTERM)

    first, second = Stops(), Counter()
    with pytest.raises(InterruptedRunError):
        Run.from_config(config).execute(until="grid", redo=True, listener=first)
    Run.from_config(config).execute(until="grid", listener=second)
    # nothing but what reads the model is made anew
    assert set(first.done) == {"embed"}
    assert set(second.done) == {"embed", "grid"}
    return Path(config.store)


def test_units_of_any_size_give_the_same(small_screen: Path, store: Path, tmp_path: Path) -> None:
    config = config_of(small_screen, tmp_path, models=AVERAGED, shard_cells=192)
    Run.from_config(config).execute(until="grid")
    one, two = values_of(store), values_of(Path(config.store))
    names = [n for n in one if "/embeddings/tiny" in n or n.startswith("/grid/tiny")]
    assert len(names) == 8
    for name in names:
        np.testing.assert_array_equal(one[name], two[name], err_msg=name)


def test_both_experiments_are_averaged_and_say_so(finished: Path, store: Path) -> None:
    plain, made = Store(str(finished)), Store(str(store))
    for node in ("plates/crops/embeddings/tiny", "grid/tiny"):
        assert made.attrs(node)["backgrounds"] == K
        assert "backgrounds" not in plain.attrs(node)
        layer = "profile" if node.startswith("plates") else made_layer(made, node)
        before, after = (s.read(f"{node}/{layer}/embedding") for s in (plain, made))
        axis = 1 if node.startswith("plates") else 0
        names = list(made.attrs(node)["coords"]["setting"])
        for s, name in enumerate(names):
            one, two = before.take(s, axis), after.take(s, axis)
            np.testing.assert_array_equal(np.isnan(one), np.isnan(two), err_msg=name)
            assert np.array_equal(one, two, equal_nan=True) == (name == "masked")


def made_layer(store: Store, node: str) -> str:
    spec = store.attrs(node)["model"]
    return str(spec["classification_layer"])


def test_problems_of_experiment_1_stand_on_backgrounds_of_their_own(store: Path) -> None:
    made = Store(str(store))
    names = list(made.attrs("grid/tiny")["coords"]["setting"])
    layer = made_layer(made, "grid/tiny")
    values = made.read(f"grid/tiny/{layer}/embedding", names.index("different"))
    assert not np.array_equal(values[1], values[2], equal_nan=True)


def test_the_methods_of_a_report_say_so(finished: Path, store: Path) -> None:
    assert "each cell on 3 backgrounds" in _averaged(open_run(store), "tiny")
    assert not _averaged(open_run(finished), "tiny")


def test_the_plan_says_what_it_costs(small_screen: Path, tmp_path: Path) -> None:
    def purposes(**section):
        config = config_of(small_screen, tmp_path, models={"tiny": {"seed": 1, **section}})
        return {item.stage: item.purpose for item in Run.from_config(config).plan()}

    for stage in ("embed/tiny/crops", "grid/tiny"):
        assert purposes(backgrounds=8)[stage].endswith("each on 8 backgrounds")
        assert "backgrounds" not in purposes()[stage]


def test_without_the_option_tokens_are_as_before_it(
    small_screen: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stores that were made when there was no such option are not made anew."""
    told: dict[str, dict[str, Any]] = {}
    plain = Order.named

    def noted(order: Order, kind: str, *args: Any, **payload: Any) -> str:
        told[kind] = payload
        return plain(order, kind, *args, **payload)

    monkeypatch.setattr(Order, "named", noted)
    Run.from_config(config_of(small_screen, tmp_path)).plan()
    assert not any("backgrounds" in payload for payload in told.values())
    Run.from_config(config_of(small_screen, tmp_path, models=AVERAGED)).plan()
    assert {kind for kind, payload in told.items() if "backgrounds" in payload} == {"embed", "grid"}


@pytest.mark.parametrize("backgrounds", [-1, 65])
def test_so_many_backgrounds_are_refused(backgrounds: int) -> None:
    with pytest.raises(ConfigError, match=r"models.tiny.backgrounds = .*expected"):
        RunConfig.from_dict({"models": {"tiny": {"backgrounds": backgrounds}}})
