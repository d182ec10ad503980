"""The SVMs of a pair: as published, exact, and how a sweep puts them together."""

import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import PredefinedSplit, cross_val_score
from sklearn.svm import SVC

from bgscale.errors import InputError
from bgscale.evaluate import classify, grouped_folds, svm_accuracy, svm_accuracy_from_gram
from bgscale.settings import Cells, Pool, deal_donors, get_setting

rng = np.random.Generator(np.random.Philox(key=20))


def problem(separation: float, *, scale: float = 1.0, cells: tuple[int, int] = (60, 60)):
    """Two classes of skewed non-negative features, as those of a network after its ReLU."""
    a, b = (rng.gamma(1.0, scale, (n, 24)).astype(np.float32) for n in cells)
    return a, (b + separation * scale * rng.normal(size=24)).astype(np.float32)


def plain_svc(a, b, *, cv=5, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        svc = SVC(**{"kernel": "linear", "C": 1.0, "max_iter": 100_000} | options)
        labels = np.repeat([0, 1], [len(a), len(b)])
        return cross_val_score(svc, np.concatenate([a, b]), labels, cv=cv)


# The solver


@pytest.mark.parametrize("separation", [0.0, 0.05, 0.2, 0.4, 2.0])
@pytest.mark.parametrize("scale", [0.1, 1.0, 5.0])
@pytest.mark.parametrize("cells", [(60, 60), (33, 71)])
def test_accuracies_equal_plain_svc_fold_by_fold(separation, scale, cells):
    a, b = problem(separation, scale=scale, cells=cells)
    np.testing.assert_array_equal(svm_accuracy(a, b, solver="libsvm").accuracy, plain_svc(a, b))


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
    scores = svm_accuracy(a, b, solver="libsvm", max_iterations=50)
    assert not scores.converged.any()
    assert (scores.iterations == 50).all()
    np.testing.assert_array_equal(scores.accuracy, plain_svc(a, b, max_iter=50))
    assert svm_accuracy(*problem(2.0)).converged.all()


def test_iteration_limit_does_not_warn_on_several_threads():
    problems = [problem(0.05, scale=5.0) for _ in range(8)]
    with ThreadPoolExecutor(4) as pool:
        scores = list(
            pool.map(lambda p: svm_accuracy(*p, solver="libsvm", max_iterations=50), problems)
        )
    assert not any(s.converged.any() for s in scores)


@pytest.mark.parametrize(
    ("option", "value"),
    [("penalty", 1e-3), ("tolerance", 1.0), ("max_iterations", 5), ("folds", 3)],
)
def test_each_option_changes_the_result(option, value):
    a, b = problem(0.2)
    changed = svm_accuracy(a, b, solver="libsvm", **{option: value})
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

NAMES = ["actin", "ER", "Golgi", "nucleus"]


@pytest.fixture
def crops():
    own = np.random.Generator(np.random.Philox(key=21))
    return own.normal(size=(4, 10, 6)) + own.normal(size=(4, 1, 6))


@pytest.mark.parametrize("solver", ["exact", "libsvm"])
def test_a_block_holds_every_pair_once(crops, solver):
    scores = classify(crops, localizations=NAMES, solver=solver)
    upper = np.triu(np.ones((4, 4), bool), 1)
    assert scores.accuracy.shape == scores.converged.shape == scores.iterations.shape == (4, 4, 5)
    assert scores.decision.shape == (4, 4, 2, 10)
    assert scores.coef.shape == (4, 4, 5, 6)
    for values in (scores.accuracy, scores.intercept, scores.coef.sum(axis=3)):
        np.testing.assert_array_equal(np.isfinite(values), np.repeat(upper[:, :, None], 5, axis=2))
    np.testing.assert_array_equal(scores.converged.all(axis=2), upper)
    np.testing.assert_array_equal((scores.iterations >= 0).all(axis=2), upper)
    np.testing.assert_array_equal((scores.decision >= 0).all(axis=(2, 3)), upper)
    for a, b in zip(*np.nonzero(upper), strict=True):
        np.testing.assert_array_equal(scores.accuracy[a, b], plain_svc(crops[a], crops[b]))


@pytest.mark.parametrize("solver", ["exact", "libsvm"])
def test_hyperplanes_and_decisions_are_those_of_the_accuracies(crops, solver):
    scores = classify(crops, localizations=NAMES, solver=solver)
    for a, b in ((0, 1), (1, 3)):
        for fold in range(5):
            held = slice(2 * fold, 2 * fold + 2)
            value = np.stack([crops[a, held], crops[b, held]]) @ scores.coef[a, b, fold]
            says_b = value + scores.intercept[a, b, fold] > 0
            right = says_b == np.array([False, True])[:, None]
            np.testing.assert_array_equal(scores.decision[a, b, :, held], right)
            assert scores.accuracy[a, b, fold] == right.mean()


def test_pairs_do_not_depend_on_each_other(crops):
    whole = classify(crops, localizations=NAMES)
    two = classify(crops[[1, 3]], localizations=["ER", "nucleus"])
    for one, other in zip(whole, two, strict=True):
        np.testing.assert_array_equal(one[1, 3], other[0, 1])


def test_missing_draws_are_left_out_and_classes_with_too_few_have_no_problem(crops):
    crops[2, 8] = np.nan
    crops[3, 4:] = np.nan
    scores = classify(crops, localizations=NAMES)
    there = np.delete(np.arange(10), 8)
    folds = PredefinedSplit(np.concatenate([np.arange(10), there]) // 2)
    np.testing.assert_array_equal(
        scores.accuracy[0, 2], plain_svc(crops[0], crops[2, there], cv=folds)
    )
    np.testing.assert_array_equal(scores.decision[0, 2, 1] >= 0, np.arange(10) != 8)
    assert np.isnan(scores.accuracy[:, 3]).all()
    assert (scores.decision[:, 3] == -1).all()
    assert np.isfinite(scores.accuracy[0, 1]).all()


def test_a_draw_keeps_its_fold_whichever_others_are_missing():
    own = np.random.Generator(np.random.Philox(key=24))
    features = own.normal(size=(2, 20, 6))
    missing = features.copy()
    missing[1, [0, 2, 5]] = np.nan
    there = np.isfinite(missing).all(axis=2)
    for folds in (4, 5):
        held_out = np.arange(20) * folds // 20
        scores = classify(missing, localizations=["a", "b"], folds=folds)
        for fold in range(folds):
            value = missing @ scores.coef[0, 1, fold] + scores.intercept[0, 1, fold]
            told = (value > 0) == np.array([False, True])[:, None]
            tested = there & (held_out == fold)
            np.testing.assert_array_equal(scores.decision[0, 1][tested], told[tested])
            assert scores.accuracy[0, 1, fold] == told[tested].mean()


def test_a_fold_that_holds_out_one_class_only_has_no_accuracy(crops):
    crops[2, 8:] = np.nan  # all that the last fold holds out of the class
    scores = classify(crops, localizations=NAMES)
    np.testing.assert_array_equal(np.isnan(scores.accuracy[0, 2]), np.arange(5) == 4)
    np.testing.assert_array_equal(np.isnan(scores.intercept[0, 2]), np.arange(5) == 4)
    np.testing.assert_array_equal(scores.decision[0, 2] >= 0, np.tile(np.arange(10) < 8, (2, 1)))
    assert np.isfinite(scores.accuracy[0, 1]).all()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_draw_with_some_features_missing_is_refused_by_name(crops, value):
    crops[3, 6, 1] = value
    with pytest.raises(InputError, match="localization 'nucleus': draw 6"):
        classify(crops, localizations=NAMES)


def test_blocks_of_another_shape_are_refused(crops):
    with pytest.raises(InputError, match=r"features have shape \(3, 10, 6\)"):
        classify(crops[:3], localizations=NAMES)
    with pytest.raises(InputError, match=r"groups have shape \(4, 9\)"):
        classify(crops, localizations=NAMES, groups=np.zeros((4, 9), int))
    with pytest.raises(InputError, match="solver is 'fast'"):
        classify(crops, localizations=NAMES, solver="fast")


# Grouped folds


def test_no_group_is_on_both_sides_and_both_classes_are_balanced():
    own = np.random.Generator(np.random.Philox(key=22))
    for _ in range(20):
        a, b = own.integers(0, 9, 80), 20 + own.integers(0, 30, 50)
        held_out = grouped_folds(a, b, 5)
        groups = np.concatenate([a, b])
        for group in np.unique(groups):
            assert len(np.unique(held_out[groups == group])) == 1
        for part, largest in (
            (held_out[:80], np.bincount(a).max()),
            (held_out[80:], np.bincount(b).max()),
        ):
            cells = np.bincount(part, minlength=5)
            assert (cells > 0).all()
            assert np.ptp(cells) <= largest


def test_a_group_of_both_classes_is_not_divided():
    a, b = np.array([1, 1, 2, 2, 3, 3]), np.array([3, 3, 3, 4, 5, 6])
    held_out = grouped_folds(a, b, 3)
    assert len(set(held_out[[4, 5, 6, 7, 8]])) == 1
    assert set(held_out[:6]) == set(held_out[6:]) == {0, 1, 2}


def test_each_fold_holds_out_both_classes_where_they_share_groups():
    plates = np.repeat([1, 2, 3], [300, 300, 400]), np.repeat([1, 2], [500, 500])
    own = np.random.Generator(np.random.Philox(key=25))
    several = [(own.integers(0, n, 80), own.integers(m, n + 4, 90)) for n in (3, 6) for m in (0, 2)]
    for a, b in (plates, *several):
        held_out = grouped_folds(a, b, 5)
        filled = set(range(min(5, len(np.unique(a)), len(np.unique(b)))))
        assert set(held_out[: len(a)].tolist()) == set(held_out[len(a) :].tolist()) == filled
        groups = np.concatenate([a, b])
        assert all(len(np.unique(held_out[groups == one])) == 1 for one in np.unique(groups))
    np.testing.assert_array_equal(np.bincount(grouped_folds(*plates, 5)[1000:]), [500, 500])


def test_groups_of_both_classes_are_balanced_in_both():
    a, b = np.repeat([1, 2, 3, 4], [10, 9, 8, 7]), np.repeat([1, 2, 3, 4], [1, 30, 30, 1])
    held_out = grouped_folds(a, b, 2)
    np.testing.assert_array_equal(np.bincount(held_out[:34]), [16, 18])
    np.testing.assert_array_equal(np.bincount(held_out[34:]), [31, 31])


def test_groups_are_dealt_by_size_then_number_whatever_the_order_of_the_cells():
    a, b = np.array([7, 5, 5, 3, 3]), np.array([1, 2])
    np.testing.assert_array_equal(grouped_folds(a, b, 2), [0, 1, 1, 0, 0, 0, 1])
    order = np.array([3, 1, 0, 4, 2])
    np.testing.assert_array_equal(
        grouped_folds(a[order], b, 2)[:5], np.array([0, 1, 1, 0, 0])[order]
    )


def test_a_class_that_is_told_by_its_groups_alone_falls_when_they_are_held_out():
    own = np.random.Generator(np.random.Philox(key=23))
    groups = np.stack([np.repeat(np.arange(6), 10), 6 + np.repeat(np.arange(6), 10)])
    features = 5.0 * own.normal(size=(12, 30))[groups] + own.normal(size=(2, 60, 30))
    order = own.permutation(60)
    scores = classify(features[:, order], localizations=["a", "b"], groups=groups[:, order])
    assert scores.accuracy[0, 1].mean() > 0.95
    assert scores.grouped_accuracy[0, 1].mean() < 0.8
    assert scores.grouped_converged[0, 1].all()


def on_dealt_backgrounds(seed):
    """Crops of two classes that nothing tells apart, on backgrounds that tell nothing either.

    Returns features under `same` and `different`, and the protein of each: (class, draw).
    """
    own = np.random.Generator(np.random.Philox(key=seed))
    draws, donors, classes = 60, 70, np.eye(3, dtype=bool)
    protein = np.stack([own.permutation(np.arange(draws) % 3) + 3 * k for k in range(2)])
    lent = np.sort(own.integers(0, 3, (3, donors)), axis=1) + 3 * np.arange(3)[:, None]
    pool = Pool(np.full(3, donors), lent, np.arange(3 * donors).reshape(3, donors))
    background = own.normal(size=(3, donors, 40))

    def on(name, k, lender):
        ids, nowhere = np.arange(draws, dtype=np.uint64), np.full(draws, -1)
        dealt = deal_donors(
            get_setting(name),
            Cells(ids, protein[k], nowhere, np.repeat(classes[[k]], draws, axis=0)),
            pool,
            localization=lender,
            seed=seed,
            folds=5,
            covered=False,
            own_bits=np.zeros((draws, 1), np.uint64),
            donor_bits=np.zeros((donors, 1), np.uint64),
        )
        return background[lender, dealt.slot] + 0.3 * own.normal(size=(draws, 40))

    same = np.stack([on("same", k, k) for k in range(2)])
    return same, np.stack([on("different", k, 2) for k in range(2)]), protein


def test_with_grouped_folds_too_no_donor_is_seen_with_the_other_class():
    accuracies = []
    for seed in range(20):
        same, different, protein = on_dealt_backgrounds(seed)
        for features in (same, different):
            scores = classify(features, localizations=["a", "b"], groups=protein)
            accuracies.append(
                (scores.accuracy[0, 1].mean(), scores.grouped_accuracy[0, 1, :3].mean())
            )
    of_setting = np.reshape(accuracies, (20, 2, 2))
    np.testing.assert_allclose(of_setting.mean(axis=0), 0.5, atol=0.03)
    gap = of_setting[:, 0] - of_setting[:, 1]
    error = gap.std(axis=0, ddof=1) / np.sqrt(20)
    assert (np.abs(gap.mean(axis=0)) <= 2 * error).all()


def test_grouped_folds_tell_each_cell_without_its_group_and_its_published_fold(crops):
    groups = np.arange(4)[:, None] * 10 + np.arange(10) % 3
    scores = classify(crops, localizations=NAMES, groups=groups)
    both, group = np.concatenate([crops[0], crops[1]]), np.concatenate([groups[0], groups[1]])
    published, in_b = np.tile(np.arange(10) // 2, 2), np.arange(20) >= 10
    grouped = grouped_folds(groups[0], groups[1], 5)
    right = np.zeros(20, bool)
    for i in range(20):
        train = (grouped != grouped[i]) & (published != published[i])
        assert not np.isin(group[train], group[i]).any()
        svc = SVC(kernel="linear", C=1.0).fit(both[train], in_b[train])
        right[i] = svc.predict(both[[i]])[0] == in_b[i]
    expected = [right[grouped == fold].mean() for fold in range(3)]
    np.testing.assert_array_equal(scores.grouped_accuracy[0, 1], [*expected, np.nan, np.nan])


def test_too_few_groups_fill_fewer_folds_or_none(crops):
    groups = np.array([np.arange(10) // 4, np.arange(10), np.zeros(10), np.arange(10)], int)
    scores = classify(crops, localizations=NAMES, groups=groups + 100 * np.arange(4)[:, None])
    filled = np.isfinite(scores.grouped_accuracy).sum(axis=2)
    np.testing.assert_array_equal(filled, [[0, 3, 0, 3], [0, 0, 0, 5], [0] * 4, [0] * 4])
    np.testing.assert_array_equal(scores.grouped_converged.sum(axis=2), filled)
    assert np.isnan(classify(crops, localizations=NAMES).grouped_accuracy).all()


def test_published_folds_are_the_same_with_and_without_groups(crops):
    groups = np.arange(40).reshape(4, 10) // 2
    with_groups = classify(crops, localizations=NAMES, groups=groups)
    np.testing.assert_array_equal(
        with_groups.accuracy, classify(crops, localizations=NAMES).accuracy
    )
