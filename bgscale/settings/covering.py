"""What stays visible of a donor's own centre cell where the foreground does not cover it.

It tells the donor's class, so that of several donors the one is taken of which least is seen. Masks
are packed, a bit a pixel: a cell looks at dozens of them.
"""

from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from bgscale.schema import CENTRE_CELL

RIM_PX = 2
"""Blur lights a donor beyond its own centre cell, and tells its class as well."""
_WORD_BYTES = 8

Bits: TypeAlias = npt.NDArray[np.uint64]
Ints: TypeAlias = npt.NDArray[np.int64]


def pack(mask: npt.NDArray[np.uint8], *, rim_px: int = 0) -> Bits:
    """Return the centre cells of masks (..., y, x), grown by a rim, as bits: (..., word), uint64.

    Bits beyond the last pixel are 0.
    """
    cells = mask == CENTRE_CELL
    if rim_px:
        cells = ndimage.maximum_filter(cells, 2 * rim_px + 1, axes=(-2, -1))
    packed = np.packbits(cells.reshape(*mask.shape[:-2], -1), axis=-1)
    missing = -packed.shape[-1] % _WORD_BYTES
    whole = np.pad(packed, [(0, 0)] * (packed.ndim - 1) + [(0, missing)]) if missing else packed
    return whole.view(np.uint64)


def uncovered_bits(mask: Bits, donor_mask: Bits) -> Ints:
    """Return how many pixels of the donor's own centre cell stay visible: (cell,), int64.

    Masks are those of `pack`.
    """
    return np.asarray(np.bitwise_count(donor_mask & ~mask).sum(-1, dtype=np.int64))


def best_covered(own: Bits, donors: Bits, localization: Ints, slots: Ints) -> Ints:
    """Return, of several donors of each cell, the one that it covers best, the first of several.

    Parameters
    ----------
    own : array (cell, word), uint64
        Masks of the cells, from `pack`.
    donors : array (localization, slot, word), uint64
        Those of the bank.
    localization : array (cell,), int64
        Class of all donors of a cell.
    slots : array (candidate, cell), int64
        Their slots; negative: the cell has none.

    Returns
    -------
    array (cell,), int64
        Slots; where there is none, the negative one that was given.

    Examples
    --------
    >>> own, donors = np.array([[0b0111]], np.uint64), np.array([[[0b1111], [0b0110]]], np.uint64)
    >>> best_covered(own, donors, np.array([0]), np.array([[0], [1]])).tolist()
    [1]
    """
    # compiled when first used: it takes a second to load
    from bgscale.settings.covering_kernel import best

    out = np.empty(slots.shape[1], np.int64)
    best(out, np.ascontiguousarray(slots), np.ascontiguousarray(localization), own, donors)
    return out
