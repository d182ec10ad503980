"""Tests of shifts: p is uniform where nothing moved, small where much did, and never luck."""

import numpy as np
import pytest
from scipy import stats

from bgscale import proportions as pr
from bgscale.proportions import significance

MEAN = np.array([0.6, 0.3, 0.1])
SPREAD = 1e-4 * (np.diag(MEAN) - np.outer(MEAN, MEAN)) * 10


def assess(mean, *, baseline=MEAN, covariance=SPREAD, df=1e6, name="P", tau=0.1, draws=10_000):
    return pr.assess(
        baseline, mean, covariance, df, pr.Draws(0, "m", name, len(mean)), tau=tau, draws=draws
    )


def chance(seed, count):
    """Means that differ from MEAN by chance alone."""
    rng = np.random.default_rng(seed)
    return MEAN + rng.multivariate_normal(np.zeros(3), SPREAD, size=count)


def test_draws_are_standard_normal_independent_and_functions_of_names():
    normal, places = pr.Draws(0, "m", "P", 3).block(0)
    rows = np.vstack([normal, places.interpolated(significance._SCORES)])
    assert stats.kstest(rows.ravel(), "norm").pvalue > 0.01
    assert abs(np.corrcoef(rows) - np.eye(4)).max() < 0.05
    np.testing.assert_array_equal(normal, pr.Draws(0, "m", "P", 3).block(0)[0])
    for other in (pr.Draws(1, "m", "P", 3), pr.Draws(0, "n", "P", 3), pr.Draws(0, "m", "Q", 3)):
        assert (other.block(0)[0] != normal).all()
    later = pr.Draws(0, "m", "P", 3)
    assert (later.block(1)[0] != normal).all()


def test_scales_are_interpolated_as_numpy_does():
    score = np.random.default_rng(0).normal(scale=3, size=1000)
    found = significance._Places.of(score).interpolated(significance._scales(3.0))
    grid = significance._SCORES
    assert (np.abs(score) > grid[-1]).any()
    np.testing.assert_allclose(found, np.interp(score, grid, significance._scales(3.0)), rtol=1e-12)


@pytest.mark.parametrize("df", [1.5, 4.7, 1e6])
def test_errors_are_a_multivariate_t(df):
    draws = significance._errors(pr.Draws(0, "m", "P", 3), 0, np.eye(3), df)
    assert stats.kstest(draws[0], stats.t(df).cdf).pvalue > 0.01


def test_p_is_uniform_where_nothing_moved():
    p = [assess(mean, name=f"P{i}").p for i, mean in enumerate(chance(0, 100))]
    assert stats.kstest(p, "uniform").pvalue > 0.01


def test_a_large_shift_is_found_with_ten_times_the_draws():
    tested = assess([0.4, 0.4, 0.2])
    assert tested.draws == 100_000
    assert tested.p < 1e-4
    assert tested.p_substantial < 0.05
    assert assess(chance(0, 1)[0]).draws == 10_000


def test_substantial_is_more_than_different():
    little = assess([0.55, 0.35, 0.1], covariance=SPREAD / 10)
    assert little.p < 0.01
    assert little.p_substantial > 0.9
    assert assess([0.55, 0.35, 0.1], covariance=SPREAD / 10, tau=0.02).p_substantial < 0.05


def test_a_shift_of_just_tau_is_substantial_at_the_level_of_the_test():
    moved = MEAN + 0.1 * np.array([-1, 1, 0])
    rng = np.random.default_rng(1)
    noise = rng.multivariate_normal(np.zeros(3), SPREAD / 4, size=80)
    p = [
        assess(moved + e, covariance=SPREAD / 4, name=f"P{i}").p_substantial
        for i, e in enumerate(noise)
    ]
    assert 0 < np.mean(np.array(p) < 0.05) <= 0.13


def test_the_interval_holds_the_true_divergence():
    moved = MEAN + 0.08 * np.array([-1, 0.5, 0.5])
    true = float(pr.kl_divergence(MEAN, moved))
    rng = np.random.default_rng(2)
    noise = rng.multivariate_normal(np.zeros(3), SPREAD, size=80)
    held = [
        (t := assess(moved + e, name=f"P{i}")).low <= true <= t.high for i, e in enumerate(noise)
    ]
    assert 0.88 <= np.mean(held) <= 1


def test_the_interval_starts_at_no_shift_where_that_is_not_excluded():
    tested = assess([0.59, 0.3, 0.11])
    assert tested.p > 0.025
    assert tested.low == 0 < tested.high


def test_the_interval_is_nothing_where_even_no_shift_would_show_more():
    tested = assess(MEAN + 1e-5 * np.array([1, -1, 0]))
    assert tested.p > 0.975
    assert (tested.low, tested.high) == (0, 0)


def test_chance_adds_to_the_divergence_what_the_null_says():
    found = pr.kl_divergence(MEAN, chance(4, 4000))
    assert assess(chance(4, 1)[0]).null_mean == pytest.approx(found.mean(), rel=0.1)


def test_q_is_that_of_scipy_and_what_is_not_tested_takes_no_part():
    p = np.random.default_rng(0).random((2, 3, 50)) ** 3
    q = pr.false_discovery(p)
    np.testing.assert_allclose(q, stats.false_discovery_control(p, axis=-1))
    some = np.insert(p, 7, np.nan, axis=-1)
    np.testing.assert_array_equal(pr.false_discovery(some)[..., 8:], q[..., 7:])
    assert np.isnan(pr.false_discovery(some)[..., 7]).all()
    assert np.isnan(pr.false_discovery([np.nan, np.nan])).all()
