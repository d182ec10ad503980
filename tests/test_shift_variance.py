"""Variances of shifts: what a protein cannot tell is borrowed, and means vary as is said."""

import numpy as np
import pytest

from bgscale import proportions as pr
from bgscale.proportions.variance import _beyond_noise


def cells(seed, *, proteins=40, fields=4, size=30, field_sd=0.0, moved=0.0):
    """Softmax of two localizations under two settings, with a shift that varies by field."""
    rng = np.random.default_rng(seed)
    protein = np.repeat(np.arange(proteins), fields * size)
    field = np.repeat(np.arange(proteins * fields), size)
    first = rng.uniform(0.3, 0.5, len(protein))
    by_field = field_sd * rng.normal(size=proteins * fields)[field]
    second = np.clip(first + moved + by_field + rng.normal(0, 0.03, len(protein)), 0.01, 0.99)
    p = np.stack([np.stack([x, 1 - x], axis=1) for x in (first, second)])
    return p, protein, field


def state_of(p, protein, field, **more):
    return pr.accumulate(p, np.ones(p.shape[:2], bool), protein, field, **more)


def test_moments_are_those_of_the_cells():
    p, protein, field = cells(0, proteins=3, size=7, field_sd=0.02)
    moments, within = pr.shift_moments(state_of(p, protein, field))
    delta = (p[1] - p[0])[protein == 1].reshape(4, 7, 2)
    about = delta - delta.mean(1, keepdims=True)
    expected = np.einsum("fck,fcl->kl", about, about) / (28 - 4)
    np.testing.assert_allclose(within[1, 1], expected, atol=1e-10)
    between = 7 * np.square(delta.mean(1) - delta.mean((0, 1))).sum() / 3
    np.testing.assert_allclose(moments.between[1, 1], between, atol=1e-9)
    assert moments.n_cells[1].tolist() == [28] * 3
    assert moments.field_size[1] == pytest.approx(7)
    assert moments.clumping[1] == pytest.approx(1 / 4)
    # two localizations are one dimension
    assert moments.df[1] == pytest.approx(3)


def test_moments_of_proportions_are_those_of_the_cells():
    p, protein, field = cells(0, proteins=3, size=7)
    moments = pr.level_moments(state_of(p, protein, field))
    own = p[0, protein == 2, 0].reshape(4, 7)
    assert moments.within[0, 2, 0] == pytest.approx(own.var(1, ddof=1).mean(), abs=1e-9)
    assert moments.between[0, 2, 0] == pytest.approx(7 * own.mean(1).var(ddof=1), abs=1e-9)


def test_the_prior_of_variances_comes_back():
    rng = np.random.default_rng(1)
    nu = rng.choice([1.0, 2.5, 7.0], 30_000)
    true = 0.7 * 6 / rng.chisquare(6, len(nu))
    d0, s0 = pr.fit_prior(true * rng.chisquare(nu) / nu, nu)
    assert d0 == pytest.approx(6, rel=0.1)
    assert s0 == pytest.approx(0.7, rel=0.03)
    equal = pr.fit_prior(2 * rng.chisquare(nu) / nu, nu)
    assert equal[0] > 50, "variances that do not differ have a narrow prior"
    assert pr.fit_prior([1.0], [3.0]) == (0.0, 1.0)


@pytest.mark.parametrize("count", [2, 4, 12])
def test_the_spread_of_few_variances_is_unbiased(count):
    rng = np.random.default_rng(2)
    noise = rng.choice([0.4, 1.6, 4.9], (20_000, count))
    values = 3 + rng.normal(0, np.sqrt(0.5 + noise))
    centre, spread = np.mean([_beyond_noise(*one) for one in zip(values, noise, strict=True)], 0)
    assert centre == pytest.approx(3, abs=0.05)
    assert spread == pytest.approx(0.5, abs=0.1)


def test_the_correlation_within_fields_comes_back():
    moments, _ = pr.shift_moments(state_of(*cells(2, proteins=300, field_sd=0.01)))
    expected = 0.01**2 / 0.03**2
    pooled = pr.pool(moments, min_cells=20)
    assert pooled.correlation[1] == pytest.approx(expected, rel=0.15)
    none, _ = pr.shift_moments(state_of(*cells(2, proteins=300)))
    assert pr.pool(none, min_cells=20).correlation[1] < 0.01


def test_the_variance_of_a_mean_shift_is_that_of_fresh_fields():
    p, protein, field = cells(3, proteins=800, fields=2, field_sd=0.02)
    state = state_of(p, protein, field)
    moments, _ = pr.shift_moments(state)
    found = pr.estimate_shifts(state, pr.pool(moments, min_cells=20), min_cells=20)
    shift = (found.proportions.mean - found.proportions.baseline)[1, :, 0]
    said = found.covariance[1, :, 0, 0]
    assert said.mean() == pytest.approx(shift.var(), rel=0.15)
    # by cells alone it would be a sixth of that
    assert said.mean() > 4 * 0.03**2 / 60


def test_classifier_replicates_add_their_covariance():
    p, protein, field = cells(4, proteins=2)
    move = np.array([-0.02, 0.0, 0.05])
    again = np.stack([p] * 3, axis=1)
    again[1, :, :, 0] += move[:, None]
    again[1, :, :, 1] -= move[:, None]
    state = state_of(p, protein, field, replicates=again)
    covariance = pr.classifier_covariance(state, shift=True)
    np.testing.assert_allclose(covariance[1, 0], move.var(ddof=1) * np.array([[1, -1], [-1, 1]]))
    np.testing.assert_allclose(covariance[0], 0)
    pooled = pr.pool(pr.shift_moments(state)[0], min_cells=20)
    bare = pr.estimate_shifts(state_of(p, protein, field), pooled, min_cells=20)
    full = pr.estimate_shifts(state, pooled, min_cells=20)
    np.testing.assert_allclose(full.covariance - bare.covariance, covariance)


def test_one_field_borrows_the_prior_and_says_so():
    p, protein, field = cells(5, field_sd=0.02)
    alone = (protein != 0) | (field == 0)
    state = state_of(p[:, alone], protein[alone], field[alone])
    moments, within = pr.shift_moments(state)
    pooled = pr.pool(moments, min_cells=20)
    found = pr.estimate_shifts(state, pooled, min_cells=20)
    assert found.reason[1, 0] == pr.ShiftReason.ONE_FIELD
    assert found.reason[1, 1] == pr.ShiftReason.TESTED
    assert found.df[1, 0] == max(pooled.df[1], 1)
    expected = pooled.scale[1] * (1 / 30 + pooled.correlation[1]) * within[1, 0]
    np.testing.assert_allclose(found.covariance[1, 0], expected)


@pytest.mark.parametrize(
    ("case", "reason"),
    [
        ("one cell", "FEW_CELLS"),
        ("identical crops", "TESTED"),
        ("all moved alike", "NO_SPREAD"),
        ("missing", "NO_CELLS"),
        ("a cell a field", "TESTED"),
        ("very many", "TESTED"),
    ],
)
def test_bad_proteins_have_a_reason_and_no_unreasoned_nan(case, reason):
    p, protein, field = cells(6, proteins=5)
    present = np.ones(p.shape[:2], bool)
    own = np.flatnonzero(protein == 2)
    if case == "one cell":
        present[:, own[1:]] = False
    elif case == "identical crops":
        p[1, own] = p[0, own]
    elif case == "all moved alike":
        p[0, own], p[1, own] = [0.25, 0.75], [0.5, 0.5]
    elif case == "missing":
        present[1, own] = False
    elif case == "a cell a field":
        field[own] = 1000 + np.arange(len(own))
    else:
        p = np.concatenate([p, *[p[:, own]] * 400], axis=1)
        present = np.ones(p.shape[:2], bool)
        protein = np.concatenate([protein, *[protein[own]] * 400])
        field = np.concatenate([field, *[field[own]] * 400])
    state = pr.accumulate(p, present, protein, field)
    level = pr.level_moments(state)
    pooled = pr.pool(pr.shift_moments(state)[0], min_cells=20)
    found = pr.estimate_shifts(state, pooled, min_cells=20)
    assert pr.ShiftReason(found.reason[1, 2]).name == reason
    assert np.isfinite(found.covariance).all()
    variance, df = pr.level_variance(level, pr.pool(level, min_cells=20))
    assert not np.isnan(variance).any()
    assert (df >= 1).all()
    tested = found.assess(1, 2, pr.Draws(0, "m", "P2", 2), tau=0.1, draws=10_000)
    assert (tested is None) == (found.reason[1, 2] not in pr.TESTED)
    if case == "identical crops":
        assert (tested.p, tested.low, tested.high, tested.null_mean) == (1, 0, 0, 0)
    elif tested is not None:
        assert np.isfinite([tested.p, tested.low, tested.high, tested.null_mean]).all()


def test_the_reference_is_not_tested_and_few_cells_are_said_there_too():
    p, protein, field = cells(7, proteins=3, size=10)
    few = (protein != 1) | (field == field[protein == 1][0])
    state = state_of(p[:, few], protein[few], field[few])
    pooled = pr.pool(pr.shift_moments(state)[0], min_cells=20)
    reason = pr.estimate_shifts(state, pooled, min_cells=20).reason[0]
    names = [pr.ShiftReason(r).name for r in reason]
    assert names == ["REFERENCE", "FEW_CELLS", "REFERENCE"]
