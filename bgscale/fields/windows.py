"""Windows of a field: around each cell, and where there is none."""

from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from bgscale import draw
from bgscale.fields.labels import Labels
from bgscale.schema import CENTRE_CELL, MEDIUM, OTHER_CELL

STEP_PX = 4
"""Corners of cell-free windows are multiples of it."""


def corners_of(
    y: npt.NDArray[np.float64], x: npt.NDArray[np.float64], size_px: int
) -> npt.NDArray[np.int64]:
    """Return the first row and column of each cell's window: array (cell, 2), int64.

    The window of a cell at (y, x) is ``[int(y) - half, int(y) + half)``, and so in x.

    Examples
    --------
    >>> corners_of(np.array([40.9]), np.array([10.0]), 64).tolist()
    [[8, -22]]
    """
    return np.stack([y, x], -1).astype(np.int64) - size_px // 2


def windows_of(
    image: npt.NDArray[Any],
    labels: Labels,
    y: npt.NDArray[np.float64],
    x: npt.NDArray[np.float64],
    number: npt.NDArray[np.int64],
    *,
    size_px: int,
) -> tuple[npt.NDArray[Any], npt.NDArray[np.uint8]]:
    """Cut the window of each cell out of its field, pixel for pixel.

    Parameters
    ----------
    image : array (channel, y, x), counts
    labels : array (y, x), int
        0 medium, else the number of the cell.
    y, x : array (cell,), float64
        Centroids.
    number : array (cell,), int
        Label of each cell.
    size_px : int
        Even.

    Returns
    -------
    crops : array (cell, channel, y, x) of the image's dtype
        What lies outside the field is the median of the channel's medium in it.
    masks : array (cell, y, x), uint8
        0 medium, 1 the cell, 2 other cells; 0 outside the field.
    """
    half = size_px // 2
    around = (half, half)
    filled = [
        np.pad(plane, around, constant_values=level)
        for plane, level in zip(image, medium_levels(image, labels), strict=True)
    ]
    padded, padded_labels = np.stack(filled), np.pad(labels, around)
    crops = np.empty((len(y), len(image), size_px, size_px), image.dtype)
    masks = np.empty((len(y), size_px, size_px), np.uint8)
    for i, (top, left) in enumerate((corners_of(y, x, size_px) + half).tolist()):
        window = (slice(top, top + size_px), slice(left, left + size_px))
        crops[i] = padded[:, *window]
        here = padded_labels[window]
        masks[i] = np.where(here > 0, OTHER_CELL, MEDIUM)
        masks[i][here == number[i]] = CENTRE_CELL
    return crops, masks


def medium_levels(image: npt.NDArray[Any], labels: Labels) -> npt.NDArray[Any]:
    """Return the median of each channel's medium, of all pixels where there is none: (channel,)."""
    medium = labels == 0
    if not medium.any():
        medium = ~medium
    # plane by plane: of all at once the same pixels take five times as long to pick
    pixels = (plane[medium] for plane in image)
    if image.dtype == np.uint16:
        # counting is many times faster than sorting
        n = np.count_nonzero(medium)
        middle = [(n + 1) // 2, n // 2 + 1]
        below = (np.bincount(plane).cumsum() for plane in pixels)
        return np.array([np.searchsorted(b, middle).mean() for b in below]).astype(image.dtype)
    return np.array([np.median(plane) for plane in pixels]).astype(image.dtype)


def free_windows(
    labels: Labels, *, size_px: int, margin_px: int, most: int, seed_id: int
) -> npt.NDArray[np.int64]:
    """Choose windows of a field in which there is no cell, nor near them.

    Parameters
    ----------
    labels : array (y, x), int
    size_px : int
    margin_px : int
        At least so many pixels lie between a window and any cell.
    most : int
        So many windows, or fewer where there is no room.
    seed_id : int
        64 bits that name the field: which windows are taken depends on it and the labels alone.

    Returns
    -------
    array (window, 2), int64
        First row and column. Windows lie apart from each other as long as there is room, then they
        overlap by half at most, then by three quarters.
    """
    chosen: list[tuple[int, int]] = []
    rows, columns = labels.shape
    if most < 1 or min(rows, columns) < size_px:
        return np.empty((0, 2), np.int64)
    wide = 2 * margin_px + 1
    near = cv2.dilate((labels > 0).astype(np.uint8), np.ones((wide, wide), np.uint8))
    total = cv2.integral(near)
    top = np.arange(0, rows - size_px + 1, STEP_PX)[:, None]
    left = np.arange(0, columns - size_px + 1, STEP_PX)[None]
    inside = (
        total[top + size_px, left + size_px]
        - total[top, left + size_px]
        - total[top + size_px, left]
        + total[top, left]
    )
    free = np.argwhere(inside == 0).astype(np.int64) * STEP_PX
    places = draw.order(seed_id, "window", (free[:, 0] * columns + free[:, 1]).astype(np.uint64))
    for apart in (size_px, size_px // 2, size_px // 4):
        for y, x in _apart(free[places], chosen, apart):
            chosen.append((y, x))
            if len(chosen) == most:
                return np.array(chosen, np.int64)
    return np.array(chosen, np.int64).reshape(-1, 2)


def _apart(
    free: npt.NDArray[np.int64], chosen: list[tuple[int, int]], apart: int
) -> Iterator[tuple[int, int]]:
    """Yield, in order, corners at least `apart` from all that are chosen, also meanwhile."""
    left = free
    for y, x in chosen:
        left = left[(abs(left - (y, x)) >= apart).any(1)]
    while len(left):
        y, x = (int(v) for v in left[0])
        yield y, x
        left = left[(abs(left - (y, x)) >= apart).any(1)]
