"""Intervals of proportions: wide where little is known, and never outside of 0 to 1."""

import numpy as np
import pytest
from scipy import stats

from bgscale import proportions as pr

CONFUSION = np.array([[0.8, 0.1, 0.1], [0.15, 0.7, 0.15], [0.1, 0.1, 0.8]])

NONE = np.zeros((0, 3, 3))


def confusions(spread=0.0, replicates=NONE):
    rng = np.random.default_rng(0)
    away = spread * rng.normal(size=(3, 40, 3))
    return pr.Confusions(CONFUSION, tuple(away - away.mean(2, keepdims=True)), replicates)


def interval(share, *, variance=1e-6, draws=400, key=("P",), found=None, replicates=None):
    mean = np.asarray(share) @ CONFUSION
    found = found or confusions()
    again = np.zeros((0, 3)) if replicates is None else replicates
    return pr.corrected_interval(
        mean, np.asarray(share), np.full(3, variance), again, found, key=key, draws=draws
    )


def test_the_logit_interval_is_that_of_t_and_stays_inside():
    low, high = pr.logit_interval([0.5, 0.001, 1.0], [1e-4, 1e-3, 0.0], [5, 2, 9])
    reach = stats.t.ppf(0.975, 5) * 0.01 / 0.25
    assert low[0] == pytest.approx(1 / (1 + np.exp(reach)))
    assert 0 <= low[1] < 1e-12
    assert 0.99 < high[1] <= 1
    assert (low[2], high[2]) == (1, 1)
    unknown = pr.logit_interval(0.3, np.inf, 1)
    assert [float(x) for x in unknown] == [0, 1]
    assert np.isnan(pr.logit_interval(np.nan, 1e-3, 2)).all()


def test_corrected_bounds_hold_the_estimate_and_grow_with_each_cause():
    share = np.array([0.7, 0.3, 0.0])
    moved = 0.03 * np.random.default_rng(1).normal(size=(20, 3))
    widths = []
    for more in (
        {},
        {"variance": 1e-3},
        {"found": confusions(0.03)},
        {"found": confusions(replicates=np.tile(CONFUSION, (20, 1, 1))), "replicates": moved},
    ):
        low, high = interval(share, **more)
        assert (low <= share).all()
        assert (share <= high).all()
        assert (low >= 0).all()
        assert (high <= 1).all()
        widths.append((high - low)[0])
    assert min(widths[1:]) > 5 * widths[0]


def test_a_protein_of_two_localizations_gains_in_one_what_it_loses_in_the_other():
    # so the contrast varies by both together: 2 sd sqrt(n) of a binomial share
    n = 100
    mean = np.array([0.5, 0.5, 0.0])
    exact = pr.Confusions(np.eye(3), tuple(np.zeros((1, 3)) for _ in range(3)), np.zeros((0, 3, 3)))
    low, high = pr.corrected_interval(
        mean, mean, mean * (1 - mean) / n, np.zeros((0, 3)), exact, key=("P",), draws=2000
    )
    expected = stats.norm.ppf(0.975) * 2 * np.sqrt(0.25 / n)
    assert (high - low)[0] == pytest.approx(expected, rel=0.08)


def test_corrected_bounds_are_functions_of_names():
    share = np.array([0.7, 0.3, 0.0])
    first, again, other = (
        interval(share, variance=1e-3, key=(0, "m", name)) for name in ("P", "P", "Q")
    )
    np.testing.assert_array_equal(first, again)
    assert (first[0] != other[0]).any()


def test_deviations_are_those_of_a_protein_that_is_not_among_them():
    rng = np.random.default_rng(2)
    target = np.repeat([0, 1, 2], 200)
    true = CONFUSION[target] + 0.02 * rng.normal(size=(600, 3))
    noise = 0.03
    seen = true + noise * rng.normal(size=(600, 3))
    found = pr.gather_confusions(
        seen, np.full(600, 50), np.full((600, 3), noise**2), target, CONFUSION, np.zeros((0, 3, 3))
    )
    for away in found.deviation:
        assert away.std() == pytest.approx(0.02, rel=0.1), "without the noise of their own cells"


def test_a_localization_of_one_protein_borrows_the_deviations_of_the_others():
    target = np.array([0, 0, 1, 2, 2])
    mean = CONFUSION[target] + np.array([0.1, -0.1, 0, 0.05, -0.05])[:, None] * [1, -1, 0]
    found = pr.gather_confusions(
        mean, np.full(5, 50), np.zeros((5, 3)), target, CONFUSION, np.zeros((0, 3, 3))
    )
    assert [len(a) for a in found.deviation] == [2, 4, 2]
    # localization 0's deviations are in 0 and 1; borrowed by 1 the two change places
    np.testing.assert_allclose(found.deviation[1][:2], found.deviation[0][:, [1, 0, 2]])


def test_proteins_without_cells_say_nothing_of_their_class():
    target = np.array([0, 0, 0, 1, 1, 2, 2])
    mean = CONFUSION[target] + 0.05 * np.random.default_rng(3).normal(size=(7, 3))
    cells = np.array([50, 50, 0, 50, 50, 50, 50])
    mean[2] = np.nan
    variance = np.where(cells > 0, 1e-4, np.inf)[:, None] * np.ones(3)
    found = pr.gather_confusions(mean, cells, variance, target, CONFUSION, np.zeros((0, 3, 3)))
    assert len(found.deviation[0]) == 2
    assert np.isfinite(found.deviation[0]).all()
