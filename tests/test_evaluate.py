"""The table of experiment 1 aggregates as it says."""

import numpy as np
import pytest
import xarray as xr

from bgscale.errors import InputError, SchemaError
from bgscale.evaluate import accuracy_dataset, classify, neighbour_share, table

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
    assert value(t, "low", setting="same") == pytest.approx(0.75 - 3.182446 * se)  # t, 3 d.f.
    assert 0.75 + 3.182446 * se > 1
    assert value(t, "high", setting="same") == 1, "an accuracy is not above 1"
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
    assert "different: 8.3% of the fits have not converged" in t.attrs["note"]


def test_a_sweep_goes_through_to_a_table():
    own = np.random.Generator(np.random.Philox(key=20))
    names = ["actin", "ER", "Golgi", "nucleus"]
    accuracy = np.full((2, 4, 4, 5, 5), np.nan)
    converged = np.zeros(accuracy.shape, bool)
    for s, b in [(0, 0), *((1, 1 + g) for g in range(4))]:
        crops = own.normal(size=(4, 10, 6)) + own.normal(size=(4, 1, 6))
        scores = classify(crops, localizations=names)
        accuracy[s, :, :, b], converged[s, :, :, b] = scores.accuracy, scores.converged
    ds = accuracy_dataset(
        accuracy,
        converged,
        settings=["same", "different"],
        localizations=names,
        each_background=["different"],
    )
    assert ds["accuracy"].dims == (
        "setting",
        "localization_a",
        "localization_b",
        "background",
        "fold",
    )
    assert list(ds["background"].values) == ["own", *names]
    t = table(ds)
    assert t.attrs["note"] == ""
    np.testing.assert_array_equal(t["problems"], [[3] * 4, [6] * 4])
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
