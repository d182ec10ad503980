"""What is cut out of a field: windows around cells with their masks, and windows without cells.

Owns geometry only. A window is `[int(y) - half, int(y) + half)` pixel for pixel, as in crops screens;
what lies outside the field is filled with the median of the medium, and is marked as medium.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from bgscale.draw import UInt64Array, words
from bgscale.errors import InputError
from bgscale.fields.measures import medium_medians
from bgscale.schema import CENTRE_CELL, OTHER_CELL

MOST_CANDIDATES = 20_000
"""Corners that are tried in one field; where more would do, they are taken from a lattice."""
MOST_OVERLAP = 0.5
"""Share of a window that another one of the same field may cover."""


def corners_of(y: npt.NDArray[Any], x: npt.NDArray[Any], size_px: int) -> npt.NDArray[np.int64]:
    """Return first row and column of the window around each point: (window, 2), int64."""
    if size_px < 2 or size_px % 2:
        msg = f"size_px is {size_px}, expected an even number of pixels"
        raise InputError(msg)
    return np.stack([np.asarray(y), np.asarray(x)], -1).astype(np.int64) - size_px // 2


def windows_of(
    image: npt.NDArray[Any],
    labels: npt.NDArray[np.int32],
    y: npt.NDArray[Any],
    x: npt.NDArray[Any],
    number: npt.NDArray[Any],
    *,
    size_px: int,
) -> tuple[npt.NDArray[Any], npt.NDArray[np.uint8]]:
    """Cut the windows around cells, and their masks.

    Parameters
    ----------
    image : array (channel, y, x), counts
    labels : array (y, x), int32
    y, x : arrays (cell,)
        Middles of the cells, in pixels.
    number : array (cell,), int
        Label of each.
    size_px : int
        Even.

    Returns
    -------
    crops : array (cell, channel, y, x) of the image's dtype
        Outside the field: median of the channel's medium.
    masks : array (cell, y, x), uint8
        0 medium, 1 the cell with that number, 2 other cells.
    """
    corners = corners_of(y, x, size_px)
    medians = medium_medians(image, labels)
    if np.issubdtype(image.dtype, np.integer):
        medians = np.rint(medians)
    height, width = labels.shape
    crops = np.empty((len(corners), len(image), size_px, size_px), image.dtype)
    around = np.zeros((len(corners), size_px, size_px), np.int32)
    for i, (top, left) in enumerate(corners.tolist()):
        rows = slice(max(top, 0), max(min(top + size_px, height), 0))
        columns = slice(max(left, 0), max(min(left + size_px, width), 0))
        part = image[:, rows, columns]
        if part.shape[1:] == (size_px, size_px):
            crops[i], around[i] = part, labels[rows, columns]
            continue
        crops[i] = medians.astype(image.dtype)[:, None, None]
        inside = (
            slice(rows.start - top, rows.stop - top),
            slice(columns.start - left, columns.stop - left),
        )
        crops[i][:, *inside] = part
        around[i][inside] = labels[rows, columns]
    masks = np.where(around > 0, np.uint8(OTHER_CELL), np.uint8(0))
    masks[around == np.asarray(number, np.int32)[:, None, None]] = CENTRE_CELL
    # label 0 is the medium, and no cell's number
    masks[around == 0] = 0
    return crops, masks


def free_windows(
    labels: npt.NDArray[np.int32], *, size_px: int = 64, margin_px: int = 8, most: int, seed_id: int
) -> npt.NDArray[np.int64]:
    """Choose windows of a field that have no cell in them or near them.

    One after another, in a seeded order, the window is taken that overlaps least with those taken;
    none is taken that one of them covers by more than half.

    Parameters
    ----------
    labels : array (y, x), int32
    size_px : int
    margin_px : int
        No cell is this near to a window, in rows or columns; what lies outside the field is free.
    most : int
    seed_id : int
        Identity of the field with the seed: 64 bits.

    Returns
    -------
    array (window, 2), int64
        First row and column; windows lie in the field. Fewer than `most` where there is no room.

    Examples
    --------
    >>> labels = np.zeros((64, 128), np.int32)
    >>> labels[:, :40] = 1
    >>> free_windows(labels, size_px=64, most=1, seed_id=3)[:, 1] >= 48
    array([ True])
    """
    corners = _free_corners(labels, size_px, margin_px)
    if not len(corners) or most < 1:
        return np.empty((0, 2), np.int64)
    places: UInt64Array = (corners[:, 0] * labels.shape[1] + corners[:, 1]).astype(np.uint64)
    corners = corners[np.lexsort((places, words(seed_id, "free window", places)))]
    overlap = np.zeros(len(corners))
    open_ = np.ones(len(corners), bool)
    taken: list[int] = []
    while len(taken) < most and open_.any():
        best = int(np.where(open_, overlap, np.inf).argmin())
        taken.append(best)
        shared = np.maximum(size_px - np.abs(corners - corners[best]), 0).prod(1) / size_px**2
        overlap += shared
        open_ &= shared <= MOST_OVERLAP
    return corners[taken]


def _free_corners(
    labels: npt.NDArray[np.int32], size_px: int, margin_px: int
) -> npt.NDArray[np.int64]:
    """Return corners of windows without cells, all or those of a lattice: (corner, 2)."""
    height, width = labels.shape
    if min(height, width) < size_px:
        return np.empty((0, 2), np.int64)
    total = np.zeros((height + 1, width + 1), np.int32)
    np.cumsum(labels > 0, axis=0, out=total[1:, 1:])
    np.cumsum(total[1:, 1:], axis=1, out=total[1:, 1:])
    top, left = np.arange(height - size_px + 1), np.arange(width - size_px + 1)
    low_y, low_x = np.maximum(top - margin_px, 0), np.maximum(left - margin_px, 0)
    high_y = np.minimum(top + size_px + margin_px, height)
    high_x = np.minimum(left + size_px + margin_px, width)
    covered = total[high_y][:, high_x] - total[low_y][:, high_x]
    covered += total[low_y][:, low_x] - total[high_y][:, low_x]
    free = covered == 0
    step = 1
    while free[::step, ::step].sum() > MOST_CANDIDATES:
        step *= 2
    return np.argwhere(free[::step, ::step]).astype(np.int64) * step
