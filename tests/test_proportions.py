"""Proportions: folds hide a protein from its judge, sums have no order, shares come back."""

import dataclasses
import math

import numpy as np
import pytest
from scipy.spatial.distance import jensenshannon
from scipy.stats import entropy, poisson

from bgscale import proportions as pr
from bgscale.draw import digest64
from bgscale.errors import InputError
from bgscale.proportions import classifier

# --- folds -------------------------------------------------------------------------------------


def screen(proteins_per_class=(7, 5, 3, 1), unlabelled=6, several=6, fields=3):
    """Names, labels and (protein, field) groups of a small screen."""
    k = len(proteins_per_class)
    rows = [np.eye(k, dtype=bool)[c] for c, n in enumerate(proteins_per_class) for _ in range(n)]
    rows += [np.zeros(k, bool)] * unlabelled + [np.arange(k) < 2] * several
    names = [f"P{i}" for i in range(len(rows))]
    protein = np.repeat(np.arange(len(rows)), fields)
    field = np.array([digest64(p, f) for p in names for f in range(fields)], np.uint64)
    return names, np.array(rows), protein, field


def test_every_group_has_a_fold_and_proteins_stay_whole_unless_their_class_went_by_field():
    names, labels, protein, field = screen()
    folds = pr.assign_folds(names, labels, protein, field, seed=3)
    assert folds.by_field.tolist() == [False, False, True, True]
    assert folds.learnable.all()
    by_field = np.isin(folds.target, np.flatnonzero(folds.by_field))
    for p in range(len(names)):
        mine = protein == p
        n_folds = len(set(folds.fold[mine]))
        assert n_folds > 1 if by_field[mine].all() else n_folds == 1
    assert ((folds.fold >= 0) & (folds.fold < 5)).all()


def test_folds_are_stratified_for_fitted_and_unfitted_proteins_alike():
    names, labels, protein, field = screen((10, 15, 5), unlabelled=10, several=20, fields=1)
    folds = pr.assign_folds(names, labels, protein, field, seed=0)
    for stratum in np.unique(labels, axis=0):
        mine = (labels[protein] == stratum).all(axis=1)
        counts = np.bincount(folds.fold[mine], minlength=5)
        assert counts.max() - counts.min() <= 1
    assert folds.target[labels[protein].sum(axis=1) != 1].tolist() == [-1] * 30


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("counts", [(7, 5, 3, 1), (1, 1), (2, 9), (5, 5, 5, 4)])
def test_every_fold_keeps_every_learnable_class_in_training(counts, seed):
    names, labels, protein, field = screen(counts, fields=2)
    folds = pr.assign_folds(names, labels, protein, field, seed=seed)
    for fold in range(5):
        assert set(folds.target[folds.fold != fold]) - {-1} == set(range(len(counts)))


def test_folds_depend_on_names_and_seed_not_on_order():
    names, labels, protein, field = screen()
    folds = pr.assign_folds(names, labels, protein, field, seed=0)
    shuffled = np.random.default_rng(0).permutation(len(names))
    where = np.argsort(shuffled)
    order = np.random.default_rng(1).permutation(len(protein))
    again = pr.assign_folds(
        [names[i] for i in shuffled], labels[shuffled], where[protein[order]], field[order], seed=0
    )
    np.testing.assert_array_equal(again.fold, folds.fold[order])
    np.testing.assert_array_equal(again.unit, folds.unit[order])
    np.testing.assert_array_equal(again.drawn, folds.drawn[order])
    other = pr.assign_folds(names, labels, protein, field, seed=1)
    assert (other.fold != folds.fold).any()


def test_number_of_folds_is_an_option_and_may_exceed_a_class():
    names, labels, protein, field = screen((4, 4), fields=2)
    assert not pr.assign_folds(names, labels, protein, field, seed=0, n_folds=3).by_field.any()
    assert pr.assign_folds(names, labels, protein, field, seed=0).by_field.all()


def test_a_class_with_one_protein_in_one_field_is_stated_and_left_out_of_the_classifier():
    names, labels, protein, field = screen((6, 6, 1, 0), fields=1)
    folds = pr.assign_folds(names, labels, protein, field, seed=0)
    assert folds.learnable.tolist() == [True, True, False, False]
    assert set(folds.target) == {-1, 0, 1}


def test_a_screen_with_one_learnable_class_is_refused_with_what_to_do():
    names, labels, protein, field = screen((6, 1), fields=1)
    with pytest.raises(InputError, match=r"1 of 2 localizations.*another label column"):
        pr.assign_folds(names, labels, protein, field, seed=0)


def test_malformed_groups_are_refused():
    names, labels, protein, field = screen()
    with pytest.raises(InputError, match="one row per protein"):
        pr.assign_folds(names[:-1], labels, protein, field, seed=0)
    with pytest.raises(InputError, match="group that has cells once"):
        pr.assign_folds(names, labels, np.r_[protein, 0], np.r_[field, field[:1]], seed=0)
    with pytest.raises(InputError, match="group that has cells once"):
        pr.assign_folds(names, labels, protein[:-1], field, seed=0)
    with pytest.raises(InputError, match="group_protein"):
        pr.assign_folds(names, labels, protein + 1, field, seed=0)
    with pytest.raises(InputError, match="1 folds"):
        pr.assign_folds(names, labels, protein, field, seed=0, n_folds=1)


# --- replicates --------------------------------------------------------------------------------


def test_replicate_weights_are_poisson_by_protein():
    names, labels, protein, field = screen((1500, 1500), unlabelled=0, several=0, fields=2)
    folds = pr.assign_folds(names, labels, protein, field, seed=0)
    weights = pr.replicate_weights(folds, seed=0)
    assert weights.shape == (20, len(protein))
    np.testing.assert_array_equal(weights[:, 0::2], weights[:, 1::2])
    share = np.bincount(weights[:, ::2].ravel(), minlength=5)[:5] / weights[:, ::2].size
    np.testing.assert_allclose(share, poisson.pmf(range(5), 1), atol=0.01)
    assert abs(np.corrcoef(weights[0], weights[1])[0, 1]) < 0.06


@pytest.mark.parametrize("proteins", [1, 2, 4])
def test_replicates_draw_proteins_also_where_folds_went_by_field(proteins):
    names, labels, protein, field = screen((proteins, 9), unlabelled=0, several=0, fields=3)
    folds = pr.assign_folds(names, labels, protein, field, seed=0)
    assert folds.by_field[0]
    weights = pr.replicate_weights(folds, seed=0, replicates=50)
    for p in range(proteins):
        same = (weights[:, protein == p] == weights[:, protein == p][:, :1]).all()
        # of the only one its fields are drawn: it cannot be left out
        assert same == (proteins > 1)


def test_a_weight_is_the_same_whatever_else_is_in_the_screen_or_how_many_replicates():
    names, labels, protein, field = screen((40, 40), fields=2)
    folds = pr.assign_folds(names, labels, protein, field, seed=0)
    weights = pr.replicate_weights(folds, seed=5)
    kept = protein % 3 > 0
    fewer = pr.assign_folds(names, labels, protein[kept], field[kept], seed=0)
    np.testing.assert_array_equal(pr.replicate_weights(fewer, seed=5), weights[:, kept])
    np.testing.assert_array_equal(pr.replicate_weights(folds, seed=5, replicates=4), weights[:4])
    assert (pr.replicate_weights(folds, seed=6) != weights).any()


def test_no_replicate_leaves_a_fold_without_a_class():
    names, labels, protein, field = screen((1, 2, 5, 9), fields=2)
    folds = pr.assign_folds(names, labels, protein, field, seed=0)
    weights = pr.replicate_weights(folds, seed=0, replicates=100)
    raw = np.stack([pr.folds._poisson(0, folds.drawn, r) for r in range(100)])
    assert (weights != raw).any(), "the case must arise"
    for fold in range(5):
        for target in range(4):
            train = (folds.fold != fold) & (folds.target == target)
            assert (weights[:, train].sum(axis=1) > 0).all()
    outside = folds.target == -1
    np.testing.assert_array_equal(weights[:, outside], raw[:, outside])


# --- the classifier ----------------------------------------------------------------------------


def gaussians(n=900, k=3, d=6, seed=0, spread=1.6):
    rng = np.random.default_rng(seed)
    targets = rng.integers(0, k, n)
    centres = np.random.default_rng(99).normal(size=(k, d))
    return centres[targets] + spread * rng.normal(size=(n, d)), targets


def test_the_fit_is_the_penalised_optimum_that_scikit_learn_finds():
    from sklearn.linear_model import LogisticRegression

    x, t = gaussians()
    ours = pr.fit_classifier(x, t, n_localizations=3, penalty=1e-2, tolerance=1e-9)
    assert ours.converged
    weight = 1 / np.bincount(t)[t] / 3
    theirs = LogisticRegression(C=1 / 1e-2, tol=1e-10, max_iter=5000)
    theirs.fit((x - x.mean(axis=0)) / x.std(axis=0), t, sample_weight=weight)
    np.testing.assert_allclose(ours.coef, theirs.coef_, atol=1e-5)
    z = (x - ours.mean) / ours.scale
    np.testing.assert_allclose(pr.predict(ours, x), theirs.predict_proba(z), atol=1e-5)


def test_the_penalty_and_the_tolerance_change_the_fit():
    x, t = gaussians()
    fits = [
        pr.fit_classifier(x, t, n_localizations=3, penalty=p, tolerance=tol)
        for p, tol in [(1e-3, 1e-6), (1e-1, 1e-6), (1e-3, 1e-2)]
    ]
    assert np.abs(fits[0].coef).sum() > 1.5 * np.abs(fits[1].coef).sum()
    assert fits[2].iterations < fits[0].iterations
    assert all(f.converged for f in fits)


def test_a_fit_that_cannot_converge_says_so():
    x = np.array([[-1.0], [1.0]] * 20)
    fit = pr.fit_classifier(x, [0, 1] * 20, n_localizations=2, penalty=0.0, tolerance=0.0)
    assert not fit.converged


def test_a_fit_has_the_same_bits_again_and_a_warm_start_goes_to_the_same_place():
    x, t = gaussians()
    cold = pr.fit_classifier(x, t, n_localizations=3)
    again = pr.fit_classifier(x, t, n_localizations=3)
    np.testing.assert_array_equal(cold.coef, again.coef)
    warm = pr.fit_classifier(x, t, n_localizations=3, start=cold)
    assert warm.iterations <= 1
    weights = np.random.default_rng(0).poisson(1, len(x))
    from_start = pr.fit_classifier(x, t, n_localizations=3, weights=weights, start=cold)
    from_zero = pr.fit_classifier(
        x,
        t,
        n_localizations=3,
        weights=weights,
        start=dataclasses.replace(cold, coef=0 * cold.coef, intercept=0 * cold.intercept),
    )
    np.testing.assert_allclose(from_start.coef, from_zero.coef, atol=2e-4)
    assert from_start.iterations < from_zero.iterations
    assert np.abs(from_start.coef - cold.coef).max() > 1e-2


def test_rare_and_common_classes_have_the_same_total_weight():
    x, t = gaussians(3000)
    kept = (t != 0) | (np.arange(len(t)) % 8 == 0)
    fit = pr.fit_classifier(x[kept], t[kept], n_localizations=3)
    p = pr.predict(fit, x[kept])
    means = np.stack([p[t[kept] == c].mean(axis=0) for c in range(3)])
    np.testing.assert_allclose(means.mean(axis=0), 1 / 3, atol=1e-3)
    doubled = pr.fit_classifier(
        np.r_[x, x[t == 1]], np.r_[t, t[t == 1]], n_localizations=3, weights=None
    )
    single = pr.fit_classifier(x, t, n_localizations=3, start=doubled)
    np.testing.assert_allclose(doubled.coef, single.coef, atol=1e-3)


def test_weights_count_cells():
    x, t = gaussians(300)
    weights = np.random.default_rng(1).poisson(1, len(x))
    start = pr.fit_classifier(x, t, n_localizations=3)
    weighted = pr.fit_classifier(x, t, n_localizations=3, weights=weights, start=start)
    repeated = pr.fit_classifier(
        np.repeat(x, weights, axis=0), np.repeat(t, weights), n_localizations=3, start=start
    )
    np.testing.assert_allclose(weighted.coef, repeated.coef, atol=1e-4)


def test_constant_features_and_foreign_units_do_no_harm():
    x, t = gaussians()
    plain = pr.fit_classifier(x, t, n_localizations=3)
    odd = np.c_[x * 1e4 + 7e5, np.full(len(x), 0.1), np.full(len(x), 1e6 / 3)]
    fit = pr.fit_classifier(odd, t, n_localizations=3)
    assert not fit.coef[:, -2:].any()
    np.testing.assert_allclose(pr.predict(fit, odd), pr.predict(plain, x), atol=1e-6)


def test_a_class_without_cells_has_probability_zero_and_says_so():
    x, t = gaussians()
    code = np.array([0, 2, 3])[t]
    fit = pr.fit_classifier(x, code, n_localizations=5)
    assert np.isneginf(fit.intercept).tolist() == [False, True, False, False, True]
    p = pr.predict(fit, x)
    assert not p[:, [1, 4]].any()
    np.testing.assert_allclose(p.sum(axis=1), 1)
    plain = pr.fit_classifier(x, t, n_localizations=3)
    np.testing.assert_array_equal(p[:, [0, 2, 3]], pr.predict(plain, x))
    back = pr.fit_classifier(x, code % 3, n_localizations=5, start=fit)
    assert np.isfinite(back.intercept[[0, 2]]).all()


def test_wrong_input_to_a_fit_is_refused_with_the_cell():
    x, t = gaussians(50)
    bad = x.copy()
    bad[7, 2] = np.nan
    with pytest.raises(
        InputError, match="1 of 50 cells are NaN or infinite, first those of cell 7"
    ):
        pr.fit_classifier(bad, t, n_localizations=3)
    with pytest.raises(InputError, match="show 1 localization"):
        pr.fit_classifier(x, 0 * t, n_localizations=3)
    with pytest.raises(InputError, match="show 1 localization"):
        pr.fit_classifier(x, t, n_localizations=3, weights=(t == 1).astype(float))
    with pytest.raises(InputError, match="expected 0 to 1"):
        pr.fit_classifier(x, t, n_localizations=2)
    with pytest.raises(InputError, match="weight of 0 or more"):
        pr.fit_classifier(x, t, n_localizations=3, weights=-np.ones(50))
    with pytest.raises(InputError, match="penalty of 0 or more"):
        pr.fit_classifier(x, t, n_localizations=3, penalty=-1)
    with pytest.raises(InputError, match="one target"):
        pr.fit_classifier(x, t[:-1], n_localizations=3)
    fit = pr.fit_classifier(x, t, n_localizations=3)
    with pytest.raises(InputError, match="5 features, the classifier was fitted on 6"):
        pr.predict(fit, x[:, :5])
    with pytest.raises(InputError, match="first those of cell 7"):
        pr.predict(fit, bad)
    with pytest.raises(InputError, match=r"expected \(cell, feature\)"):
        pr.predict(fit, x[0])


def test_a_cells_softmax_has_the_same_bits_in_any_block():
    rng = np.random.default_rng(0)
    x, t = gaussians(3000, k=15, d=64)
    x = x.astype(np.float32)
    fit = pr.fit_classifier(x, t, n_localizations=15, tolerance=1e-2)
    whole = pr.predict(fit, x)
    for _ in range(10):
        shuffled = rng.permutation(len(x))
        out = np.empty_like(whole)
        for part in np.split(shuffled, np.sort(rng.integers(0, len(x), 6))):
            out[part] = pr.predict(fit, x[part])
        np.testing.assert_array_equal(out, whole)
    assert pr.predict(fit, x[:0]).shape == (0, 15)


def test_no_protein_is_scored_by_a_classifier_that_saw_it_and_by_field_no_field():
    # A leak would show: features carry the group's own name, and nothing of its class.
    names, labels, protein, field = screen((6, 6, 2), unlabelled=2, several=0, fields=2)
    folds = pr.assign_folds(names, labels, protein, field, seed=0)
    weights = pr.replicate_weights(folds, seed=0, replicates=2)
    group = np.repeat(np.arange(len(protein)), 4)
    units = np.unique(folds.unit, return_inverse=True)[1]
    x = np.eye(units.max() + 1)[units[group]]
    classifiers = pr.fit_out_of_fold(x, group, folds, weights=weights)
    assert [len(c) for c in classifiers] == [3] * 5
    for fold, (first, *_) in enumerate(classifiers):
        seen = np.abs(first.coef).sum(axis=0) > 0
        left_out = folds.fold == fold
        assert not seen[units[left_out]].any()
        assert seen[units[~left_out & (folds.target >= 0)]].all()
        assert not seen[units[folds.target < 0]].any()
        assert np.isfinite(first.intercept).all()
    p = pr.predict_out_of_fold(classifiers, x, folds.fold[group])
    assert p.shape == (3, len(x), 3)
    own = classifiers[folds.fold[group[5]]][1]
    np.testing.assert_array_equal(p[1, 5], pr.predict(own, x[5:6])[0])
    with pytest.raises(InputError, match="5 classifiers"):
        pr.predict_out_of_fold(classifiers, x, folds.fold[group] + 1)


# --- the sums ----------------------------------------------------------------------------------


def block(n=400, settings=3, k=4, replicates=2, seed=0):
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.full(k, 0.4), (settings, n))
    r = rng.dirichlet(np.full(k, 0.4), (settings, replicates, n))
    present = rng.random((settings, n)) < 0.8
    protein, field = rng.integers(0, 9, n) * 3, rng.integers(0, 4, n)
    present[2, protein == 6] = False
    p[~present] = np.nan
    return p, present, protein, field, r


def summed(cells, p, present, protein, field, r):
    return pr.accumulate(
        p[:, cells], present[:, cells], protein[cells], field[cells], replicates=r[:, :, cells]
    )


def assert_same_bits(a, b):
    for name in (f.name for f in dataclasses.fields(a)):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)


@pytest.mark.parametrize("seed", range(8))
def test_any_order_and_any_split_into_blocks_give_the_same_bits(seed):
    arrays = block()
    whole = summed(np.arange(400), *arrays)
    rng = np.random.default_rng(seed)
    total = pr.ProportionState.zero(3, 4, 2)
    for part in np.split(rng.permutation(400), np.sort(rng.integers(0, 400, 2 + 3 * seed))):
        total = total + summed(part, *arrays) if seed % 2 else summed(part, *arrays) + total
    assert_same_bits(total, whole)
    assert whole.cross.any()
    assert whole.replicate_sums.any()


def test_the_sums_are_those_of_the_statistics():
    p, present, protein, field, r = block()
    state = summed(np.arange(400), p, present, protein, field, r)
    assert state.protein.tolist() == sorted(set(protein.tolist()))
    for s in range(3):
        both = present[0] & present[s]
        for row, (a, f) in enumerate(state.group):
            mine = both & (protein == a) & (field == f)
            assert state.n[s, row] == mine.sum()
            for kept, under in ((state.sums, s), (state.baseline, 0)):
                np.testing.assert_allclose(
                    pr.in_units(kept[s, row]), p[under, mine].sum(axis=0), atol=1e-9
                )
        for row, a in enumerate(state.protein):
            mine = both & (protein == a)
            delta = p[s, mine] - p[0, mine]
            close = {"atol": 1e-9}
            np.testing.assert_allclose(pr.in_units(state.cross[s, row]), delta.T @ delta, **close)
            np.testing.assert_allclose(
                pr.in_units(state.squares[s, row]), (p[s, mine] ** 2).sum(axis=0), **close
            )
            for kept, under in ((state.replicate_sums, s), (state.replicate_baseline, 0)):
                np.testing.assert_allclose(
                    pr.in_units(kept[s, row]), r[under][:, mine].sum(axis=1), **close
                )


def test_finalize_divides_by_the_cells_that_are_there_and_marks_what_is_missing():
    p, present, protein, field, r = block()
    result = summed(np.arange(400), p, present, protein, field, r).finalize()
    mine = present[0] & present[1] & (protein == 9)
    row = result.protein.tolist().index(9)
    assert result.n_cells[1, row] == mine.sum()
    np.testing.assert_allclose(result.mean[1, row], p[1, mine].mean(axis=0), atol=1e-10)
    np.testing.assert_allclose(result.baseline[1, row], p[0, mine].mean(axis=0), atol=1e-10)
    missing = result.n_cells == 0
    assert missing.sum() == 1
    np.testing.assert_array_equal(np.isnan(result.mean).all(axis=2), missing)
    np.testing.assert_array_equal(np.isnan(result.mean).any(axis=2), missing)
    np.testing.assert_array_equal(np.isnan(result.baseline).any(axis=2), missing)
    assert pr.ProportionState.zero(3, 4).finalize().mean.shape == (3, 0, 4)


def test_ten_million_cells_fit_in_the_integers():
    assert 10**7 * pr.SUM_SCALE < 2**63
    assert 1 / pr.SUM_SCALE < 0.1 * pr.KL_FLOOR
    one = pr.accumulate(np.eye(2)[[[0]] * 2], np.ones((2, 1), bool), [0], [0])
    for _ in range(24):
        one = one + one
    assert one.finalize().mean[0, 0].tolist() == [1.0, 0.0]
    assert one.n[0, 0] == 2**24


def test_sums_refuse_what_is_no_softmax_and_what_does_not_fit():
    p, present, protein, field, r = block()
    with pytest.raises(InputError, match="do not sum to 1"):
        pr.accumulate(np.nan_to_num(p) * 2, present, protein, field)
    with pytest.raises(InputError, match="NaN"):
        pr.accumulate(p, np.ones_like(present), protein, field)
    with pytest.raises(InputError, match="one code per cell"):
        pr.accumulate(p, present, protein[1:], field[1:])
    with pytest.raises(InputError, match="do not go with"):
        pr.accumulate(p, present, protein, field, replicates=r[:2])
    with pytest.raises(InputError, match="do not add"):
        _ = pr.ProportionState.zero(3, 4) + pr.ProportionState.zero(3, 5)


# --- from cells to proportions -----------------------------------------------------------------


@pytest.fixture(scope="module")
def planted():
    """Proteins of one localization and of two in known shares, overlapping Gaussian features."""
    rng = np.random.default_rng(0)
    k, d, n, fields = 5, 16, 160, 2
    centres = rng.normal(size=(k, d))
    shares = np.vstack([np.repeat(np.eye(k), 8, axis=0), np.zeros((20, k))])
    for row in shares[8 * k :]:
        a, b = rng.choice(k, 2, replace=False)
        row[a] = rng.uniform(0.15, 0.85)
        row[b] = 1 - row[a]
    protein = np.repeat(np.arange(len(shares)), n)
    field = np.tile(np.repeat(np.arange(fields), n // fields), len(shares))
    truth = np.array([rng.choice(k, p=shares[i]) for i in protein])
    x = centres[truth] + 1.1 * rng.normal(size=(len(truth), d))
    x += 0.15 * rng.normal(size=(len(shares), d))[protein]
    swapped = x + 0.8 * rng.normal(size=x.shape)
    group = protein * fields + field
    folds = pr.assign_folds(
        [f"P{i}" for i in range(len(shares))],
        shares > 0,
        np.repeat(np.arange(len(shares)), fields),
        np.arange(len(shares) * fields),
        seed=0,
    )
    weights = pr.replicate_weights(folds, seed=0, replicates=3)
    fitted = [pr.fit_out_of_fold(f, group, folds, weights=weights) for f in (x, swapped)]
    states = {}
    for fit, classifiers in (("fixed", [fitted[0]] * 2), ("matched", fitted)):
        p = np.stack(
            [
                pr.predict_out_of_fold(c, f, folds.fold[group])
                for c, f in zip(classifiers, (x, swapped), strict=True)
            ]
        )
        present = np.ones(p.shape[:1] + p.shape[2:3], bool)
        states[fit] = pr.accumulate(p[:, 0], present, protein, field, replicates=p[:, 1:])
    return shares, folds.target[::fields], states, fitted


def test_all_fits_converge(planted):
    for classifiers in planted[3]:
        assert all(c.converged for fold in classifiers for c in fold)


def test_planted_proportions_come_back_and_better_corrected(planted):
    shares, target, states, _ = planted
    heterogeneous = target < 0
    result, confusions = states["fixed"].finalize(), pr.confusion(states["fixed"], target)
    raw = pr.total_variation(result.mean[0], shares)[heterogeneous]
    corrected = pr.correct_proportions(result.mean[0], confusions[0])
    better = pr.total_variation(corrected, shares)[heterogeneous]
    assert raw.mean() < 0.15
    assert better.mean() < 0.08
    assert better.mean() < 0.6 * raw.mean()
    np.testing.assert_allclose(corrected.sum(axis=-1), 1)
    assert (corrected >= 0).all()


def test_matched_moves_when_cells_become_harder_to_tell_and_correction_undoes_it(planted):
    _, target, states, _ = planted
    state = states["matched"]
    result, confusions = state.finalize(), pr.confusion(state, target)
    assert np.diagonal(confusions[1]).mean() < np.diagonal(confusions[0]).mean() - 0.05
    raw = pr.total_variation(result.baseline[1], result.mean[1])[target < 0]
    corrected = pr.total_variation(
        *(pr.correct_proportions(result.mean[s], confusions[s]) for s in (0, 1))
    )[target < 0]
    assert corrected.mean() < 0.6 * raw.mean()
    fixed = states["fixed"].finalize()
    assert np.array_equal(fixed.mean[0], result.mean[0])
    assert not np.allclose(fixed.mean[1], result.mean[1])


def test_confusion_is_the_mean_softmax_of_the_cells_of_each_true_class(planted):
    _, target, states, _ = planted
    state = states["fixed"]
    result, confusions = state.finalize(), pr.confusion(state, target)
    np.testing.assert_allclose(
        confusions[1, 2], result.mean[1, target == 2].mean(axis=0), atol=1e-9
    )
    np.testing.assert_allclose(confusions.sum(axis=-1), 1)
    nobody = pr.confusion(state, np.where(target == 2, -1, target))
    assert np.isnan(nobody[:, 2]).all()
    assert np.isfinite(nobody[:, [0, 1, 3, 4]]).all()


def test_correction_inverts_a_known_confusion_and_stays_on_the_simplex():
    rng = np.random.default_rng(0)
    c = 0.7 * np.eye(4) + 0.3 * rng.dirichlet(np.ones(4), 4)
    truth = rng.dirichlet(np.full(4, 0.5), (3, 10))
    np.testing.assert_allclose(pr.correct_proportions(truth @ c, c), truth, atol=1e-8)
    outside = pr.correct_proportions([1.0, 0, 0, 0], c)
    assert outside.min() >= 0
    assert math.isclose(outside.sum(), 1)
    grid = rng.dirichlet(np.full(4, 0.5), 50_000)
    misfit = ((grid @ c - [1.0, 0, 0, 0]) ** 2).sum(axis=1).min()
    assert ((outside @ c - [1.0, 0, 0, 0]) ** 2).sum() <= misfit + 1e-12


def test_correction_leaves_missing_missing_and_unknown_classes_at_zero():
    c = np.array([[0.9, 0.1, 0.0], [0.2, 0.8, 0.0], [np.nan] * 3])
    q = pr.correct_proportions([[0.55, 0.45, 0.0], [np.nan] * 3], c)
    np.testing.assert_allclose(q[0], [0.5, 0.5, 0.0], atol=1e-12)
    assert np.isnan(q[1]).all()
    with pytest.raises(InputError, match="0 known rows"):
        pr.correct_proportions([0.5, 0.5], np.full((2, 2), np.nan))


# --- distances ---------------------------------------------------------------------------------


def test_kl_has_its_hand_values_and_those_of_scipy():
    assert pr.kl_divergence([0.5, 0.5], [0.5, 0.5]) == 0
    expected = 0.5 * math.log(2) + 0.5 * math.log(2 / 3)
    assert math.isclose(pr.kl_divergence([2, 2], [1, 3]), expected)
    p, q = np.random.default_rng(0).dirichlet(np.full(15, 0.3), (2, 7, 20)) + 1e-6
    np.testing.assert_allclose(pr.kl_divergence(p, q), entropy(p, q, axis=-1), atol=1e-12)
    np.testing.assert_allclose(pr.jensen_shannon(p, q), jensenshannon(p, q, axis=-1) ** 2)
    np.testing.assert_allclose(pr.kl_divergence(p, q[0]), entropy(p, q[:1], axis=-1), atol=1e-12)


def test_kl_clips_after_it_normalises():
    assert math.isclose(pr.kl_divergence([1, 0], [0, 1]), math.log(1e10), rel_tol=1e-8)
    assert math.isclose(pr.kl_divergence([1e12, 0], [0, 1e-12]), math.log(1e10), rel_tol=1e-8)


def test_bounded_distances_reach_their_bounds():
    assert math.isclose(pr.jensen_shannon([1, 0], [0, 1]), math.log(2))
    assert pr.jensen_shannon([0.3, 0.7], [0.3, 0.7]) == 0
    assert pr.total_variation([1, 0], [0, 1]) == 1
    assert math.isclose(pr.total_variation([5, 5], [1, 3]), 0.25)


@pytest.mark.parametrize("distance", [pr.kl_divergence, pr.jensen_shannon, pr.total_variation])
def test_missing_distributions_give_nan_and_wrong_ones_are_refused(distance):
    p = np.array([[0.5, 0.5], [np.nan, np.nan], [0, 0]])
    assert np.isnan(distance(p, [0.5, 0.5])).tolist() == [False, True, True]
    with pytest.raises(InputError, match="0 or more"):
        distance([0.5, 0.5], [-0.5, 1.5])
    with pytest.raises(InputError, match="one length"):
        distance([0.5, 0.5], [1.0])


def test_summary_counts_what_is_missing():
    s = pr.summary([1.0, 2, 3, 4, 10, np.nan])
    assert (s["n"], s["missing"], s["mean"], s["median"]) == (5, 1, 4, 3)
    assert math.isclose(s["sd"], np.std([1, 2, 3, 4, 10], ddof=1))
    assert (s["min"], s["q25"], s["q75"], s["max"]) == (1, 2, 4, 10)
    assert math.isnan(pr.summary([1.0])["sd"])


def test_one_thread_within_itself_asks_the_libraries_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    controller = classifier._blas()
    limit = controller.limit

    def counted(**how: object) -> object:
        asked.append(how)
        return limit(**how)

    def several(times: int) -> None:
        with classifier.one_thread():
            for _ in range(times):
                with classifier.one_thread():
                    pass
            assert times == 3

    monkeypatch.setattr(controller, "limit", counted)
    several(3)
    assert len(asked) == 1
    with pytest.raises(AssertionError):
        several(1)
    asked.clear()
    # what has failed inside has not left it open
    with classifier.one_thread():
        pass
    assert len(asked) == 1
