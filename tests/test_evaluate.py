"""The SVM sweep is the published procedure, and the table aggregates as it says."""

import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import xarray as xr
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import cross_val_score
from sklearn.svm import SVC

from bgscale.errors import InputError, SchemaError
from bgscale.evaluate import (
    accuracy_dataset,
    neighbour_share,
    svm_accuracy,
    svm_accuracy_from_gram,
    sweep_row,
    table,
)

rng = np.random.Generator(np.random.Philox(key=20))


def problem(separation: float, *, scale: float = 1.0, cells: tuple[int, int] = (60, 60)):
    """Two classes of skewed non-negative features, as those of a network after its ReLU."""
    a, b = (rng.gamma(1.0, scale, (n, 24)).astype(np.float32) for n in cells)
    return a, (b + separation * scale * rng.normal(size=24)).astype(np.float32)


def plain_svc(a, b, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        svc = SVC(**{"kernel": "linear", "C": 1.0, "max_iter": 100_000} | options)
        labels = np.repeat([0, 1], [len(a), len(b)])
        return cross_val_score(svc, np.concatenate([a, b]), labels, cv=5)


# The solver


@pytest.mark.parametrize("separation", [0.0, 0.05, 0.2, 0.4, 2.0])
@pytest.mark.parametrize("scale", [0.1, 1.0, 5.0])
@pytest.mark.parametrize("cells", [(60, 60), (33, 71)])
def test_accuracies_equal_plain_svc_fold_by_fold(separation, scale, cells):
    a, b = problem(separation, scale=scale, cells=cells)
    np.testing.assert_array_equal(svm_accuracy(a, b).accuracy, plain_svc(a, b))


def test_difficulties_of_that_test_span_chance_to_certainty():
    assert svm_accuracy(*problem(0.0)).accuracy.mean() < 0.65
    assert svm_accuracy(*problem(2.0)).accuracy.mean() > 0.95


def test_gram_blocks_give_the_same_scores_as_features():
    a, b = problem(0.3)
    wide_a, wide_b = a.astype(np.float64), b.astype(np.float64)
    scores = svm_accuracy_from_gram(wide_a @ wide_a.T, wide_a @ wide_b.T, wide_b @ wide_b.T)
    for one, other in zip(scores, svm_accuracy(a, b), strict=True):
        np.testing.assert_array_equal(one, other)


def test_iteration_limit_is_recorded_and_does_not_warn():
    a, b = problem(0.05, scale=5.0)
    scores = svm_accuracy(a, b, max_iterations=50)
    assert not scores.converged.any()
    assert (scores.iterations == 50).all()
    np.testing.assert_array_equal(scores.accuracy, plain_svc(a, b, max_iter=50))
    assert svm_accuracy(*problem(2.0)).converged.all()


def test_iteration_limit_does_not_warn_on_several_threads():
    problems = [problem(0.05, scale=5.0) for _ in range(8)]
    with ThreadPoolExecutor(4) as pool:
        scores = list(pool.map(lambda p: svm_accuracy(*p, max_iterations=50), problems))
    assert not any(s.converged.any() for s in scores)


@pytest.mark.parametrize(
    ("option", "value"),
    [("penalty", 1e-3), ("tolerance", 1.0), ("max_iterations", 5), ("folds", 3)],
)
def test_each_option_changes_the_result(option, value):
    a, b = problem(0.2)
    changed = svm_accuracy(a, b, **{option: value})
    assert not np.array_equal(changed.iterations, svm_accuracy(a, b).iterations)


def test_order_of_cells_decides_the_folds():
    a, b = problem(0.2)
    assert not np.array_equal(svm_accuracy(a, b).accuracy, svm_accuracy(a[::-1], b).accuracy)


def test_constant_features_are_told_by_guessing():
    constant = np.full((20, 3), 7.5)
    np.testing.assert_array_equal(svm_accuracy(constant, constant).accuracy, np.full(5, 0.5))
    zero = np.zeros((20, 3))
    np.testing.assert_array_equal(svm_accuracy(zero, zero).accuracy, np.full(5, 0.5))


def test_features_that_cannot_be_used_are_refused():
    a, b = problem(1.0)
    holed = b.copy()
    holed[7, 3] = np.nan
    with pytest.raises(InputError, match=r"features_b: 1 of 60 cells have NaN.*row 7"):
        svm_accuracy(a, holed)
    with pytest.raises(InputError, match=r"class b has 4 cells; expected at least 5"):
        svm_accuracy(a, b[:4])
    with pytest.raises(InputError, match="24 features and features_b 23"):
        svm_accuracy(a, b[:, 1:])
    with pytest.raises(InputError, match=r"features_a has shape .*expected \(cell, feature\)"):
        svm_accuracy(a[0], b)
    with pytest.raises(InputError, match="Gram blocks have shapes"):
        svm_accuracy_from_gram(np.eye(6), np.ones((5, 7)), np.eye(7))
    with pytest.raises(InputError, match="NaN"):
        svm_accuracy_from_gram(np.eye(6), np.full((6, 6), np.nan), np.eye(6))
    with pytest.raises(InputError, match="penalty=0"):
        svm_accuracy(a, b, penalty=0.0)


# The sweep


@pytest.fixture(scope="module")
def grids():
    n, draws, width = 4, 10, 6
    centres = rng.normal(size=(n, 1, width))
    own = rng.normal(size=(n, draws, width)) + centres
    each = rng.normal(size=(n, n, draws, width)) + centres + centres[:, None]
    return {"same": own, "different": each, "self_swap": own + 1.0}


NAMES = ["actin", "ER", "Golgi", "nucleus"]


def test_a_row_holds_every_problem_of_its_class_and_no_other(grids):
    a = 1
    row = sweep_row(a, grids, localizations=NAMES)
    assert row.accuracy.shape == row.converged.shape == (3, 4, 5, 5)
    expected = np.zeros((3, 4, 5), bool)
    expected[[0, 2], 2:, 0] = True
    expected[1, 2:, 1:] = True
    np.testing.assert_array_equal(np.isfinite(row.accuracy).all(axis=-1), expected)
    np.testing.assert_array_equal(row.converged.all(axis=-1), expected)
    for b in (2, 3):
        np.testing.assert_array_equal(
            row.accuracy[0, b, 0], plain_svc(grids["same"][a], grids["same"][b])
        )
        for g in range(4):
            block = grids["different"][g]
            np.testing.assert_array_equal(row.accuracy[1, b, 1 + g], plain_svc(block[a], block[b]))


def test_rows_do_not_depend_on_each_other_and_the_last_has_no_problem(grids):
    assert np.isnan(sweep_row(3, grids, localizations=NAMES).accuracy).all()
    whole = sweep_row(0, grids, localizations=NAMES).accuracy[0]
    alone = sweep_row(0, {"same": grids["same"]}, localizations=NAMES).accuracy[0]
    np.testing.assert_array_equal(whole, alone)


def test_missing_draws_are_left_out_and_classes_with_too_few_have_no_problem(grids):
    own = grids["same"].copy()
    own[2, 8:] = np.nan
    own[3, 4:] = np.nan
    accuracy = sweep_row(0, {"same": own}, localizations=NAMES).accuracy[0, :, 0]
    np.testing.assert_array_equal(accuracy[2], plain_svc(own[0], own[2, :8]))
    assert np.isnan(accuracy[3]).all()
    assert np.isfinite(accuracy[1]).all()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_draw_with_some_features_missing_is_refused_by_name(grids, value):
    each = grids["different"].copy()
    each[2, 3, 6, 1] = value
    with pytest.raises(InputError, match="background 'Golgi', localization 'nucleus': draw 6"):
        sweep_row(0, {"different": each}, localizations=NAMES)


def test_a_grid_of_another_shape_is_refused(grids):
    with pytest.raises(InputError, match="grid of setting 'same' has shape"):
        sweep_row(0, {"same": grids["same"][:3]}, localizations=NAMES)


# The dataset and its table


def by_hand(names, settings, **options):
    """Accuracy dataset from {setting: {(a, b): accuracy or {g: accuracy}}}."""
    n = len(names)
    accuracy = np.full((len(settings), n, n, 1 + n, 1), np.nan)
    each = []
    for s, (setting, problems) in enumerate(settings.items()):
        for (a, b), value in problems.items():
            at = (s, names.index(a), names.index(b))
            if isinstance(value, dict):
                each.append(setting)
                for g, one in value.items():
                    accuracy[(*at, 1 + names.index(g))] = one
            else:
                accuracy[(*at, 0)] = value
    return accuracy_dataset(
        accuracy, settings=list(settings), localizations=names, each_background=each, **options
    )


FOUR = list("abcd")
OWN = {"ab": 0.6, "ac": 0.7, "ad": 0.8, "bc": 0.9, "bd": 0.5, "cd": 1.0}
# In the pair, where it must not count, 0.1; outside it the two backgrounds of each pair.
OUTSIDE = {
    "ab": {"a": 0.1, "b": 0.1, "c": 0.5, "d": 0.7},
    "ac": {"a": 0.1, "c": 0.1, "b": 0.6, "d": 0.8},
    "ad": {"a": 0.1, "d": 0.1, "b": 0.7, "c": 0.9},
    "bc": {"b": 0.1, "c": 0.1, "a": 0.8, "d": 0.6},
    "bd": {"b": 0.1, "d": 0.1, "a": 0.5, "c": 0.5},
    "cd": {"c": 0.1, "d": 0.1, "a": 0.9, "b": 0.7},
}


@pytest.fixture
def four():
    own = {tuple(k): v for k, v in OWN.items()}
    each = {tuple(k): v for k, v in OUTSIDE.items()}
    return by_hand(FOUR, {"original": own, "same": own, "different": each})


def value(t, name, **labels):
    return float(t[name].sel(**labels))


def test_symmetric_means_by_hand(four):
    t = table(four)
    expected = {"a": 2.1 / 3, "b": 2.0 / 3, "c": 2.6 / 3, "d": 2.3 / 3}
    for name, mean in expected.items():
        assert value(t, "localization_mean", setting="same", localization=name) == pytest.approx(
            mean
        )
    assert value(t, "mean", setting="original") == value(t, "mean", setting="same")
    assert value(t, "mean", setting="same") == pytest.approx(0.75)
    # pairs: ab .6, ac .7, ad .8, bc .7, bd .5, cd .8
    outside = [2.1 / 3, 1.8 / 3, 2.2 / 3, 2.1 / 3]
    np.testing.assert_allclose(t["localization_mean"].sel(setting="different"), outside)
    sd = np.std(list(expected.values()), ddof=1)
    assert value(t, "published_error", setting="same") == pytest.approx(3 * sd / 2)
    np.testing.assert_array_equal(t["problems"].sel(setting="different"), [6, 6, 6, 6])
    assert t.attrs["note"] == ""


def test_published_means_by_hand(four):
    t = table(four, aggregate="published")
    first = [2.1 / 3, 1.4 / 2, 1.0, np.nan]
    np.testing.assert_allclose(t["localization_mean"].sel(setting="original"), first)
    assert value(t, "localizations", setting="original") == 3
    assert value(t, "mean", setting="original") == pytest.approx(0.8)
    sd = np.std(first[:3], ddof=1)
    assert value(t, "published_error", setting="original") == pytest.approx(3 * sd / np.sqrt(3))
    assert value(t, "mean", setting="same") == pytest.approx(0.75)
    # first background: ab on c .5, ac on b .6, ad on b .7, bc on a .8, bd on a .5, cd on a .9
    outside = [1.8 / 3, 1.8 / 3, 2.3 / 3, 2.1 / 3]
    np.testing.assert_allclose(t["localization_mean"].sel(setting="different"), outside)


def test_jackknife_by_hand(four):
    t = table(four)
    without = [2.4 / 3, 2.5 / 3, 1.9 / 3, 2.2 / 3]  # mean of the three pairs that are left
    np.testing.assert_allclose(t["mean_without"].sel(setting="same"), without)
    # left out as background too: without d, ab on c, ac on b, bc on a
    np.testing.assert_allclose(
        t["mean_without"].sel(setting="different"),
        [
            (0.6 + 0.5 + 0.7) / 3,
            (0.8 + 0.9 + 0.9) / 3,
            (0.7 + 0.7 + 0.5) / 3,
            (0.5 + 0.6 + 0.8) / 3,
        ],
    )
    se = np.sqrt(3 / 4 * np.sum((np.array(without) - np.mean(without)) ** 2))
    assert value(t, "jackknife_se", setting="same") == pytest.approx(se)
    assert value(t, "jackknife_error", setting="same") == pytest.approx(3 * se)
    assert value(t, "high", setting="same") == pytest.approx(0.75 + 3.182446 * se)  # t, 3 d.f.
    contrast = {"contrast": "same - different"}
    d = np.array(without) - t["mean_without"].sel(setting="different").values
    d_se = np.sqrt(3 / 4 * np.sum((d - d.mean()) ** 2))
    difference = 0.75 - 8.2 / 12
    assert value(t, "difference", **contrast) == pytest.approx(difference)
    assert value(t, "difference_se", **contrast) == pytest.approx(d_se)
    assert value(t, "difference_low", **contrast) == pytest.approx(difference - 3.182446 * d_se)


def test_folds_are_averaged_and_a_fold_without_a_value_leaves_none():
    accuracy = np.full((1, 3, 3, 4, 2), np.nan)
    accuracy[0, 0, 1, 0], accuracy[0, 0, 2, 0], accuracy[0, 1, 2, 0] = (
        (0.6, 0.8),
        (1, 1),
        (1, np.nan),
    )
    ds = accuracy_dataset(
        accuracy, settings=["same"], localizations=list("abc"), each_background=[]
    )
    t = table(ds)
    np.testing.assert_allclose(t["localization_mean"][0], [0.85, 0.7, 1.0])
    assert "same: 1 of 3 problems missing" in t.attrs["note"]


def test_pairs_restrict_the_table_whichever_triangle_they_are_in(four):
    chosen = np.zeros((4, 4), bool)
    chosen[0, 1] = chosen[2, 1] = chosen[2, 2] = True
    t = table(four, pairs=chosen)
    np.testing.assert_allclose(t["localization_mean"].sel(setting="same"), [0.6, 0.75, 0.9, np.nan])
    np.testing.assert_array_equal(t["problems"].sel(setting="different"), [2, 4, 2, 0])
    xr.testing.assert_equal(t, table(four, pairs=xr.DataArray(chosen | chosen.T)))
    with pytest.raises(InputError, match="pairs is int64"):
        table(four, pairs=chosen.astype(np.int64))


def test_two_localizations_have_no_background_outside_and_no_jackknife():
    ab = {("a", "b"): 0.9}
    t = table(by_hand(["a", "b"], {"same": ab, "different": {("a", "b"): {"a": 0.6, "b": 0.7}}}))
    assert value(t, "mean", setting="same") == pytest.approx(0.9)
    assert np.isnan(value(t, "jackknife_se", setting="same"))
    assert np.isnan(value(t, "mean", setting="different"))
    assert np.isnan(value(t, "difference", contrast="same - different"))
    assert "different: 2 localizations leave no background outside the pair" in t.attrs["note"]
    assert "same: no jackknife error, 2 classes less one leave no pair" in t.attrs["note"]


def test_three_localizations_have_a_jackknife_only_without_backgrounds():
    names = list("abc")
    own = {("a", "b"): 0.9, ("a", "c"): 0.8, ("b", "c"): 0.7}
    each = {("a", "b"): {"c": 0.6}, ("a", "c"): {"b": 0.6}, ("b", "c"): {"a": 0.9}}
    t = table(by_hand(names, {"same": own, "different": each}))
    assert value(t, "jackknife_se", setting="same") > 0
    assert value(t, "mean", setting="different") == pytest.approx(0.7)
    assert np.isnan(value(t, "jackknife_se", setting="different"))
    assert "different: no jackknife error, 3 classes less one leave no pair" in t.attrs["note"]


@pytest.mark.parametrize("names", [["a"], []])
def test_no_pair_gives_no_number_and_no_warning(names):
    t = table(by_hand(names, {"original": {}, "same": {}}), aggregate="published")
    assert np.isnan(t["mean"]).all()


def test_published_figure_of_a_single_pair_has_no_error_and_says_so():
    t = table(by_hand(["a", "b"], {"original": {("a", "b"): 0.9}}), aggregate="published")
    assert value(t, "mean", setting="original") == pytest.approx(0.9)
    assert "original: one localization with a value has no published error" in t.attrs["note"]


def test_fits_that_stopped_early_are_counted_where_they_are_used(four):
    converged = np.isfinite(four["accuracy"].values)
    converged[2, 0, 1, 1] = False  # different, ab on a: not in the table
    arguments = {
        "settings": ["original", "same", "different"],
        "localizations": FOUR,
        "each_background": ["different"],
    }
    t = table(accuracy_dataset(four["accuracy"].values, converged, **arguments))
    np.testing.assert_array_equal(t["converged"], [1, 1, 1])
    converged[2, 0, 1, 3] = False  # on c
    t = table(accuracy_dataset(four["accuracy"].values, converged, **arguments))
    assert value(t, "converged", setting="different") == pytest.approx(11 / 12)
    assert "different: 8.3% of the fits stopped" in t.attrs["note"]


def test_a_sweep_goes_through_to_a_table(grids):
    rows = [sweep_row(a, grids, localizations=NAMES) for a in range(4)]
    ds = accuracy_dataset(
        np.stack([row.accuracy for row in rows], axis=1),
        np.stack([row.converged for row in rows], axis=1),
        settings=list(grids),
        localizations=NAMES,
        each_background=["different"],
    )
    assert ds["accuracy"].dims == (
        "setting",
        "localization_a",
        "localization_b",
        "background",
        "fold",
    )
    assert list(ds["background"].values) == ["own", *NAMES]
    t = table(ds)
    assert t.attrs["note"] == ""
    np.testing.assert_array_equal(t["problems"], [[3] * 4, [6] * 4, [3] * 4])
    xr.testing.assert_equal(t, table(ds.transpose()))


def test_datasets_that_are_not_accuracies_are_refused(four):
    with pytest.raises(SchemaError, match="expected accuracy"):
        table(four.drop_vars("each_background"))
    with pytest.raises(SchemaError, match="expected accuracy"):
        table(four.isel(fold=0))
    with pytest.raises(InputError, match="aggregate is 'mean'"):
        table(four, aggregate="mean")
    with pytest.raises(InputError, match="none of them 'own'"):
        by_hand(["own", "a"], {"same": {}})
    with pytest.raises(InputError, match="accuracy has shape"):
        accuracy_dataset(
            np.ones((1, 2, 2)), settings=["same"], localizations=["a"], each_background=[]
        )


# The controls


def controls(background, medium):
    return by_hand(
        FOUR,
        {
            "background_only": {tuple(k): v for k, v in zip(OWN, background, strict=True)},
            "medium_only": {tuple(k): v for k, v in zip(OWN, medium, strict=True)},
        },
    )


def test_neighbour_share_by_hand():
    background = np.array([0.9, 0.8, 0.9, 1.0, 0.9, 0.9])
    share = neighbour_share(table(controls(background, background - 0.1)))
    assert float(share["background_only"]) == pytest.approx(0.9)
    assert float(share["medium_only"]) == pytest.approx(0.8)
    assert float(share["share"]) == pytest.approx(0.25)
    # without a: bc bd cd; without b: ac ad cd; c: ab ad bd; d: ab ac bc
    without = 0.1 / (np.array([2.8, 2.6, 2.7, 2.7]) / 3 - 0.5)
    se = np.sqrt(3 / 4 * np.sum((without - without.mean()) ** 2))
    assert float(share["share_se"]) == pytest.approx(se)
    assert float(share["share_high"]) == pytest.approx(0.25 + 3.182446 * se)
    assert share.attrs["note"] == ""


def test_neighbour_share_is_missing_with_the_reason(four):
    share = neighbour_share(table(four))
    assert np.isnan(float(share["share"]))
    assert share.attrs["note"] == "not evaluated: background_only, medium_only"
    share = neighbour_share(table(controls([0.5] * 6, [0.5] * 6)))
    assert np.isnan(float(share["share"]))
    assert float(share["background_only"]) == 0.5
    assert "not above chance" in share.attrs["note"]
