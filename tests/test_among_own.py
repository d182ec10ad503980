"""Corrected proportions of cells among their own: the confusions of a class by its background."""

import numpy as np
import pytest

from bgscale import proportions as pr
from bgscale.errors import InputError

K = 4


def by_background(pull=(0.6, 0.1, 0.3, 0.3)):
    """Return confusions of a model that takes a share of a class's cells for their background."""
    sharp, pulled = 0.7 * np.eye(K) + 0.3 / K, np.asarray(pull)[:, None, None]
    return (1 - pulled) * sharp[:, None, :] + pulled * sharp[None, :, :]


def sums_of(confusions, n):
    return n, np.rint(confusions * n[..., None] * pr.SUM_SCALE).astype(np.int64)


def test_a_mixture_among_its_own_cells_is_found_again_where_same_confusions_fail():
    confusions, share = by_background(), np.array([0.65, 0.35, 0.0, 0.0])
    mean = np.einsum("a,b,abk->k", share, share, confusions)
    found, seen = pr.correct_among_own(mean, confusions)
    np.testing.assert_allclose(found, share, atol=1e-5)
    np.testing.assert_allclose(share @ seen, mean, atol=1e-5)
    as_singles = pr.correct_proportions(mean, np.einsum("aak->ak", confusions))
    assert abs(as_singles - share).max() > 0.05


def test_a_model_blind_to_the_background_is_corrected_as_before():
    confusions = by_background(np.zeros(K))
    mean = np.array([0.4, 0.3, 0.2, 0.1])
    found, seen = pr.correct_among_own(mean, confusions)
    np.testing.assert_allclose(found, pr.correct_proportions(mean, confusions[:, 0]), atol=1e-6)
    np.testing.assert_allclose(seen, confusions[:, 0])


def test_cells_are_summed_by_their_class_and_that_of_their_background_in_any_order():
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(K), 200)
    p[:7] = np.nan
    own, other = rng.integers(-1, K, 200), rng.integers(-1, K, 200)
    n, sums = pr.sum_by_background(p, own, other)
    seen = (own == 2) & (other == 1) & np.isfinite(p).all(1)
    assert n[2, 1] == seen.sum() > 0
    np.testing.assert_allclose(pr.in_units(sums)[2, 1], p[seen].sum(0))
    order = rng.permutation(200)
    parts = [pr.sum_by_background(p[o], own[o], other[o]) for o in np.array_split(order, 3)]
    np.testing.assert_array_equal(sum(part[1] for part in parts), sums)


def test_many_cells_tell_of_their_pair_and_few_follow_what_all_pairs_tell():
    truth = by_background(np.full(K, 0.3))
    odd = truth.copy()
    odd[0, 1] = np.full(K, 1 / K)
    off = 1 - np.eye(K, dtype=np.int64)
    own = np.einsum("aak->ak", truth)
    many = pr.confusion_by_background(*sums_of(odd, 100_000 * off), own)
    np.testing.assert_allclose(many[0, 1], 1 / K, atol=1e-3)
    few = 1000 * off
    few[0, 1] = 1
    found = pr.confusion_by_background(*sums_of(odd, few), own)
    np.testing.assert_allclose(found[0, 1], truth[0, 1], atol=0.03)
    np.testing.assert_array_equal(found[2, 2], own[2])


def test_a_class_of_which_nothing_is_known_is_left_out_or_as_among_its_own():
    truth, n = by_background(), 1000 * (1 - np.eye(K, dtype=np.int64))
    own = np.einsum("aak->ak", truth).copy()
    # nobody stands on class 3, and class 3 has no cells
    n[:, 3] = n[3] = 0
    own[3] = np.nan
    found = pr.confusion_by_background(*sums_of(truth, n), own)
    assert np.isnan(found[3]).all()
    np.testing.assert_array_equal(found[0, 3], own[0])
    share = np.array([0.5, 0.0, 0.5, 0.0])
    best, _ = pr.correct_among_own(np.einsum("a,b,abk->k", share, share, truth), found)
    np.testing.assert_allclose(best, share, atol=1e-3)
    with pytest.raises(InputError, match="none of 4 localizations has cells"):
        pr.correct_among_own(share, np.full((K, K, K), np.nan))
