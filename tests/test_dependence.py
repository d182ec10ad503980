"""What accuracies owe to the background: planted answers are found, and missing ones said."""

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from bgscale import dependence as dep
from bgscale.errors import InputError, SchemaError
from bgscale.evaluate import classify, codes_of, conflict, grouping, transferred
from bgscale.intervals import (
    NO_CLASS,
    NO_GROUPS,
    NO_SPREAD,
    NO_VALUE,
    PRESENT,
    clustered,
    over_classes,
)

NAMES = ["actin", "bud", "golgi", "nucleus"]
SETTINGS = {"original": False, "same": False, "different": True}
DRAWS, FOLDS = 40, 5


def dataset(n=4, **variables):
    """Return an evaluation with these variables; the others say that all is told right."""
    dims = ("setting", "localization_a", "localization_b", "background", "fold")
    of_cells = (*dims[:-1], "member", "draw")
    accuracy = np.full((3, n, n, 1 + n, FOLDS), np.nan)
    decision = np.full((3, n, n, 1 + n, 2, DRAWS), -1, np.int8)
    for s, each in enumerate(SETTINGS.values()):
        for a, b in zip(*np.triu_indices(n, 1), strict=True):
            accuracy[s, a, b, slice(1, None) if each else 0] = 0.9
            decision[s, a, b, slice(1, None) if each else 0] = 1
    values = {"accuracy": accuracy, "decision": decision}
    for name, change in variables.items():
        change(values[name])
    return xr.Dataset(
        {"accuracy": (dims, accuracy), "decision": (of_cells, decision)},
        coords={
            "setting": list(SETTINGS),
            "localization_a": NAMES[:n],
            "localization_b": NAMES[:n],
            "background": ["own", *NAMES[:n]],
            "each_background": ("setting", list(SETTINGS.values())),
        },
    )


def controls_of(evaluation):
    return evaluation[["decision"]].rename(decision="transferred_decision")


def groups_of(each=4, n=4):
    """Return groups of `each` cells, none in two classes."""
    codes = np.arange(DRAWS) // each + 1000 * np.arange(n)[:, None]
    return xr.DataArray(codes, dims=("localization", "draw"), attrs={"kind": "protein"})


# intervals


def test_the_interval_of_a_share_covers_where_cells_of_a_group_are_alike():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(16), 30)
    hits, naive = 0, 0
    for _ in range(400):
        chance = rng.beta(4, 2, 16)[groups]
        right = (rng.random(len(groups)) < chance).astype(float)
        found = clustered(right, groups)
        hits += found.low <= 4 / 6 <= found.high
        alone = clustered(right, np.arange(len(groups)))
        naive += alone.low <= 4 / 6 <= alone.high
    assert 0.92 <= hits / 400 <= 0.99
    assert naive / 400 < 0.75


def test_the_interval_of_a_difference_covers():
    rng = np.random.default_rng(1)
    groups = np.repeat(np.arange(10), 8)
    hits = 0
    for _ in range(400):
        values = rng.normal(0.2, 0.3, 10)[groups] + rng.normal(0, 1, 80)
        found = clustered(values, groups, bounded=False)
        hits += found.low <= 0.2 <= found.high
    assert 0.92 <= hits / 400 <= 0.98


@settings(max_examples=60)
@given(st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=2, max_size=40), st.integers(1, 7))
def test_a_share_lies_in_its_interval_and_that_between_0_and_1(values, size):
    groups = np.arange(len(values)) // size
    found = clustered(np.array(values), groups)
    assert found.cells == len(values)
    if found.groups > 1:
        assert 0 <= found.low <= found.value + 1e-12
        assert found.value - 1e-12 <= found.high <= 1
        assert found.high - found.low > 0
    else:
        assert found.reason == NO_GROUPS
        assert np.isnan([found.low, found.high]).all()


def test_no_interval_comes_without_a_reason():
    ones, codes = np.ones(6), np.arange(6) // 2
    assert clustered(np.full(6, np.nan), codes).reason == NO_VALUE
    assert clustered(ones, np.zeros(6, int)).reason == NO_GROUPS
    assert clustered(ones, None).reason == NO_GROUPS
    assert clustered(ones, codes, bounded=False).reason == NO_SPREAD
    assert clustered(ones, codes, strata=np.zeros(6, int), wanted=2).reason == NO_CLASS
    # all right is no proof of never wrong
    always = clustered(ones, codes)
    assert (always.reason, always.value, always.high) == (PRESENT, 1, 1)
    assert always.low < 0.5
    assert over_classes(np.full((3, 3), np.nan)).reason == NO_VALUE


def test_strata_weigh_the_same():
    values = np.array([1.0] * 8 + [0.0, 0.0])
    strata = np.array([0] * 8 + [1, 1])
    assert clustered(values, np.arange(10), strata=strata).value == 0.5
    assert clustered(values, np.arange(10)).value == 0.8


# which background does the harm


def harmful(values):
    values[2, :, :, 1 + 3] -= 0.3  # on the nucleus
    values[2, 0, 1, 1 + 2] += 0.06


def test_the_background_that_does_the_harm_is_found():
    found = dep.background_harm(dataset(accuracy=harmful)).sel(setting="different")
    overall = found["overall"].to_series()
    assert overall["nucleus"] == pytest.approx(-0.3)
    assert overall["golgi"] == pytest.approx(0.02)
    assert overall["actin"] == pytest.approx(0)
    of_pair = found["change"].sel(localization="actin", background="golgi")
    assert float(of_pair) == pytest.approx(0.03)
    assert (found["overall_n_cells"] == 3).all()
    assert found["change_reason"].sel(localization="bud", background="bud") == dep.OWN_CLASS


def test_what_is_missing_has_a_reason():
    def lost(values):
        values[2, 0, :, 1 + 2] = np.nan

    found = dep.background_harm(dataset(accuracy=lost)).sel(setting="different")
    assert np.isnan(found["change"].sel(localization="actin", background="golgi"))
    assert found["change_reason"].sel(localization="actin", background="golgi") == dep.NO_VALUE
    for name in ("change", "overall"):
        assert not (np.isnan(found[name]) & (found[f"{name}_reason"] == dep.PRESENT)).any()
        low = np.isnan(found[f"{name}_low"])
        assert not (low & (found[f"{name}_reason"] == dep.PRESENT)).any()
    two = dep.background_harm(dataset(2))
    assert np.isnan(two["overall"]).all()
    assert (two["overall_reason"] == dep.NO_VALUE).all()


# confusion


def confusing(values):
    # actin on the golgi's background is taken for golgi, but for the first quarter
    values[2, 0, 2, 1 + 2, 0, 10:] = 0
    # as imaged one in ten is; member 1 of (actin, golgi) is golgi
    values[0, 0, 2, 0, 0, ::10] = 0
    values[2, 0, 2, 1 + 0, 1, :20] = 0


def test_cells_that_are_taken_for_the_class_of_their_background_are_counted():
    evaluation = dataset(decision=confusing)
    found = dep.background_confusion(evaluation, controls_of(evaluation), groups=groups_of())
    at = found.sel(setting="different", localization="actin", background="golgi")
    assert float(at["told_as_background"]) == 0.75
    assert float(at["as_imaged"]) == 0.1
    assert float(at["on_same"]) == 0
    assert float(at["excess"]) == pytest.approx(0.65)
    assert at["told_as_background_low"] < 0.75 < at["told_as_background_high"]
    assert (int(at["excess_n_cells"]), int(at["excess_n_groups"])) == (40, 10)
    other = found.sel(setting="different", localization="golgi", background="actin")
    assert float(other["told_as_background"]) == 0.5
    own = found.sel(setting="different", localization="bud", background="bud")
    assert np.isnan(own["told_as_background"])
    assert own["as_imaged_reason"] == own["told_as_background_reason"] == dep.OWN_CLASS
    assert found.attrs["groups"] == "protein"


def test_without_groups_there_are_shares_and_no_intervals():
    evaluation = dataset(decision=confusing)
    found = dep.background_confusion(evaluation, controls_of(evaluation))
    at = found.sel(setting="different", localization="actin", background="golgi")
    assert float(at["told_as_background"]) == 0.75
    assert np.isnan(at["told_as_background_low"])
    assert at["told_as_background_reason"] == dep.NO_GROUPS


# sensitivity


def sensitive(values):
    values[2, 0, :] -= 0.2
    values[2, 0, 1, :] -= 0.05


def test_the_localization_that_suffers_is_found():
    def wrong(values):
        values[2, 0, :, :, 0, ::2] = np.where(values[2, 0, :, :, 0, ::2] < 0, -1, 0)

    found = dep.sensitivity(dataset(accuracy=sensitive, decision=wrong), groups=groups_of())
    loss = found["accuracy_difference"].sel(contrast="original - different")
    assert loss.sel(localization="actin").item() == pytest.approx(0.2 + 0.05 / 3)
    assert loss.sel(localization="nucleus").item() == pytest.approx(0.2 / 3)
    assert loss.to_series().idxmax() == "actin"
    recall = found["recall_difference"].sel(contrast="same - different")
    np.testing.assert_allclose(recall, [0.5, 0, 0, 0])
    assert found["recall"].sel(setting="different", localization="actin") == 0.5
    assert (
        found["recall_difference_reason"].sel(localization="bud").values.tolist()
        == [dep.NO_SPREAD] * 2
    )
    assert (found["recall_n_groups"] == 10).all()


def test_backgrounds_of_the_pair_do_not_count():
    def wrong(values):
        values[2, 0, 1, 1:3] = 0
        values[2, 0, 1, 3:] = 1

    found = dep.sensitivity(dataset(decision=wrong), groups=groups_of())
    assert (found["recall"] == 1).all()


# neighbours


def test_the_dependence_on_neighbours_is_found_and_cells_without_any_are_there():
    rng = np.random.default_rng(0)
    counts = rng.integers(0, 7, (4, DRAWS))
    counts[1] = np.maximum(counts[1], 1)

    def wrong(values):
        for k in range(4):
            for other in range(4):
                a, b, member = min(k, other), max(k, other), int(k > other)
                crowded = counts[k] >= 2
                told = values[0, a, b, 0, member]
                told[crowded & (told >= 0)] = 0

    found = dep.by_neighbours(
        dataset(decision=wrong),
        neighbours=xr.DataArray(counts, dims=("localization", "draw")),
        share=xr.DataArray(counts / 10, dims=("localization", "draw")),
        groups=groups_of(1),
    )
    assert found["neighbours"].values.tolist() == ["0", "1", "2", "3", "4 or more"]
    assert found["recall_by_neighbours"].sel(setting="original").values.tolist() == [1, 1, 0, 0, 0]
    assert (found["recall_by_neighbours"].sel(setting="different") == 1).all()
    expected = [(counts == i).sum() for i in range(4)] + [(counts >= 4).sum()]
    cells = found["recall_by_neighbours_n_cells"].sel(setting="original")
    assert cells.values.tolist() == expected
    loss = found["difference_by_neighbours"].sel(contrast="original - different")
    assert loss.values.tolist() == [0, 0, -1, -1, -1]
    # no bud without neighbours
    none = found.sel(setting="original", neighbours="0")
    assert none["standardised_by_neighbours_reason"] == NO_CLASS
    by_share = found["recall_by_share"].sel(setting="original")
    assert found["share"].values.tolist() == ["0", "0-0.1", "0.1-0.2", "0.2-0.4", "0.4-1"]
    assert by_share.values.tolist() == [1, 1, 0, 0, 0]


@pytest.mark.parametrize("n", [1, 2])
def test_with_one_or_two_classes_every_gap_has_its_reason(n):
    evaluation = dataset(n)
    counts = xr.DataArray(np.zeros((n, DRAWS), int), dims=("localization", "draw"))
    groups = groups_of(n=n)
    for found in (
        dep.background_harm(evaluation),
        dep.background_confusion(evaluation, controls_of(evaluation), groups=groups),
        dep.sensitivity(evaluation, groups=groups),
        dep.by_neighbours(evaluation, neighbours=counts, share=counts * 0.1, groups=groups),
    ):
        for name in found.data_vars:
            if f"{name}_reason" in found:
                gap = np.isnan(found[name]) | np.isnan(found[f"{name}_low"])
                assert (found[f"{name}_reason"].where(gap, 1) > 0).all(), name


def test_every_variable_says_what_it_is():
    evaluation = dataset()
    counts = xr.DataArray(np.zeros((4, DRAWS), int), dims=("localization", "draw"))
    for found in (
        dep.background_harm(evaluation),
        dep.background_confusion(evaluation, controls_of(evaluation), groups=groups_of()),
        dep.sensitivity(evaluation, groups=groups_of()),
        dep.by_neighbours(evaluation, neighbours=counts, share=counts * 0.1, groups=groups_of()),
    ):
        assert found.attrs["description"]
        for name, variable in found.data_vars.items():
            assert variable.attrs["long_name"], name
            assert variable.attrs.get("units") == "1" or name.endswith("_reason")


def test_a_dataset_that_is_none_of_these_is_refused():
    with pytest.raises(SchemaError, match="expected also decision"):
        dep.sensitivity(dataset().drop_vars("decision"))


# groups


FIELD = np.array([[0, 1, 2, -1], [3, 4, 4, 5]])
FIELDS = ["p1/A1/1", "p1/A1/2", "p1/A2/1", "p1/B1/1", "p2/B1/1", "p2/B1/2"]


def test_a_well_is_one_of_a_plate():
    codes = codes_of(FIELD, FIELD, FIELDS, wells=True)
    assert codes["well"].tolist() == [[0, 0, 1, -1], [2, 3, 3, 3]]
    assert codes["plate"].tolist() == [[0, 0, 0, -1], [0, 1, 1, 1]]
    assert "well" not in codes_of(FIELD, FIELD, FIELDS, wells=False)


@pytest.mark.parametrize(
    ("protein", "kind"), [([[0, 0, 1, -1], [2, 3, 3, 3]], "protein"), ([[0] * 4, [1] * 4], "well")]
)
def test_auto_takes_the_coarsest_that_every_class_has_two_of(protein, kind):
    codes = codes_of(np.array(protein), FIELD, FIELDS, wells=True)
    found = grouping("auto", codes, localizations=["a", "b"])
    assert (found.kind, found.note) == (kind, "")
    np.testing.assert_array_equal(found.codes, codes[kind])


def test_where_nothing_can_be_grouped_the_reason_is_said():
    codes = codes_of(np.array([[0, 0], [1, 2]]), np.array([[0, 0], [3, 4]]), FIELDS, wells=False)
    found = grouping("auto", codes, localizations=["a", "b"])
    assert (found.kind, found.codes) == ("none", None)
    assert found.note == "a: a single protein; a: a single field"
    asked = grouping("protein", codes, localizations=["a", "b"])
    assert asked.kind == "protein"
    assert asked.note.startswith("a: a single protein")
    assert grouping("none", codes, localizations=["a", "b"]).codes is None


# what classifiers of original say elsewhere


@pytest.fixture(scope="module")
def cells():
    """Three classes that are told apart well but not perfectly; one draw is missing."""
    rng = np.random.default_rng(3)
    features = rng.normal(0, 1, (3, 30, 6)) + 1.2 * rng.normal(0, 1, (3, 1, 6))
    features[1, 7] = np.nan
    return features, classify(features, localizations=["a", "b", "c"])


def test_on_the_crops_that_they_were_fitted_with_nothing_changes(cells):
    features, scores = cells
    present = np.isfinite(features).all(2)
    found = transferred(features, scores.coef, scores.intercept, present=present)
    np.testing.assert_array_equal(found.decision, scores.decision)
    np.testing.assert_allclose(found.accuracy, scores.accuracy)
    assert 0.6 < np.nanmean(found.accuracy) < 1


def test_cells_that_are_missing_elsewhere_are_left_out_and_the_others_keep_their_fold(cells):
    features, scores = cells
    present = np.isfinite(features).all(2)
    other = features.copy()
    other[0, :6] = np.nan  # all that the first fold holds out of a
    found = transferred(other, scores.coef, scores.intercept, present=present)
    assert (found.decision[0, 1, 0, :6] == -1).all()
    np.testing.assert_array_equal(found.decision[0, 1, 0, 6:], scores.decision[0, 1, 0, 6:])
    assert np.isnan(found.accuracy[0, 1, 0])
    np.testing.assert_allclose(found.accuracy[0, 1, 1:], scores.accuracy[0, 1, 1:])


def test_what_a_classifier_took_from_the_background_turns_against_it(cells):
    features, scores = cells
    present = np.isfinite(features).all(2)
    swapped = features[[1, 0, 2]]
    found = transferred(swapped, scores.coef, scores.intercept, present=present)
    assert np.nanmean(found.accuracy[0, 1]) < 0.4


@pytest.mark.parametrize("value", [0.0, 3.5])
def test_crops_that_are_all_alike_are_guessed_and_a_class_without_cells_has_no_problem(value):
    features = np.full((3, 10, 4), value)
    features[2] = np.nan
    scores = classify(features, localizations=["a", "b", "c"])
    present = np.isfinite(features).all(2)
    found = transferred(features, scores.coef, scores.intercept, present=present)
    np.testing.assert_allclose(found.accuracy[0, 1], 0.5)
    assert (found.decision[0, 1] == 1).sum() == 10
    assert np.isnan(found.accuracy[:, 2]).all()
    against = conflict(np.stack([features] * 3), localizations=["a", "b", "c"])
    np.testing.assert_allclose(against.accuracy[0, 1], 0.5)
    assert np.isnan(against.accuracy[:, 2]).all()


def test_other_features_are_refused(cells):
    features, scores = cells
    present = np.isfinite(features).all(2)
    with pytest.raises(InputError, match=r"shape \(3, 30, 5\)"):
        transferred(features[..., :5], scores.coef, scores.intercept, present=present)


def test_where_cell_and_background_weigh_the_same_a_conflict_leaves_chance():
    rng = np.random.default_rng(5)
    centre = 2.0 * np.eye(4)[:3]
    noise = rng.normal(0, 1, (3, 3, 60, 4))
    # (background, localization, draw, feature)
    alike = centre[:, None, None] + centre[None, :, None] + noise
    found = conflict(alike, localizations=["a", "b", "c"])
    assert 0.3 < np.nanmean(found.accuracy) < 0.65
    told_by_cell = conflict(centre[None, :, None] + noise, localizations=["a", "b", "c"])
    assert np.nanmean(told_by_cell.accuracy) > 0.85
    assert np.isnan(found.accuracy[np.tril_indices(3)]).all()
    assert found.converged[np.triu_indices(3, 1)].all()
