"""Of several donors the one is taken whose own centre cell is covered best."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgscale import draw
from bgscale.schema import CENTRE_CELL
from bgscale.settings import best_covered, pack, uncovered_bits

SIZES = [(8, 8), (7, 9), (64, 64), (60, 60)]
"""Among them such whose pixels fill no whole number of words."""


def masks(rng: np.random.Generator, n: int, shape: tuple[int, int]) -> np.ndarray:
    return rng.integers(0, 3, (n, *shape), np.uint8)


@given(st.sampled_from(SIZES), st.integers(1, 5), st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_the_donor_that_is_covered_best_is_taken(
    shape: tuple[int, int], cells: int, candidates: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    own, bank = masks(rng, cells, shape), masks(rng, 6, shape).reshape(2, 3, *shape)
    k, slots = rng.integers(0, 2, cells), rng.integers(0, 3, (candidates, cells))
    slots[:, rng.random(cells) < 0.2] = -1
    taken = best_covered(pack(own), pack(bank), k, slots)
    for i in range(cells):
        if slots[0, i] < 0:
            assert taken[i] == -1
            continue
        visible = [
            ((bank[k[i], s] == CENTRE_CELL) & (own[i] != CENTRE_CELL)).sum() for s in slots[:, i]
        ]
        assert taken[i] == slots[int(np.argmin(visible)), i]


@pytest.mark.parametrize("shape", SIZES)
def test_packed_masks_count_the_same_pixels(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    own, donors = masks(rng, 9, shape), masks(rng, 9, shape)
    visible = ((donors == CENTRE_CELL) & (own != CENTRE_CELL)).sum((1, 2))
    assert visible.max() > 0
    np.testing.assert_array_equal(uncovered_bits(pack(own), pack(donors)), visible)


@pytest.mark.parametrize("n", [1, draw.MANY])
def test_several_draws_are_the_draws_of_each_stream(n: int) -> None:
    ids, bound = np.arange(n, dtype=np.uint64) * 7919, np.arange(n) % 11
    found = draw.several(3, "donor", ids, bound, 4)
    each = [draw.integers(3, "donor", ids, bound, stream) for stream in range(4)]
    np.testing.assert_array_equal(found, each)
    assert n == 1 or len(np.unique(found, axis=0)) == 4
