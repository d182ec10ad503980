"""What is measured of the cells of a field, and of the field as an image."""

from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from scipy import ndimage

from bgscale.fields.labels import Labels
from bgscale.fields.windows import corners_of, medium_levels

Table = dict[str, npt.NDArray[Any]]

HALO_PX = 4
"""As for already cut crops: medium this near to a cell carries its blur."""
BRIGHT_SPREADS, BRIGHT_FACTOR = 5.0, 4.0
"""A cell so many robust standard deviations, and so many times, brighter than the field's others
is dead, or debris: dead yeast lights up in every channel."""
LEAST_SOLIDITY = 0.75
LARGEST_FACTOR = 4.0
"""Of the median area: clumps that could not be parted."""
FEWEST_CELLS = 8
"""Cells that a comparison with the field's others needs."""


def measure(
    labels: Labels, image: npt.NDArray[Any], *, channels: Sequence[str], crop_size_px: int
) -> Table:
    """Measure each cell of a field.

    Parameters
    ----------
    labels : array (y, x), int32
        Numbers from 1 without gaps.
    image : array (channel, y, x), counts
    channels : sequence of str
        Their roles.
    crop_size_px : int
        Side of the window around each cell.

    Returns
    -------
    dict of str to array (cell,)
        In the order of the labels. ``label``; ``y``, ``x`` (centroid, px); ``area`` (px);
        ``eccentricity`` (of the ellipse with the same second moments); ``solidity`` (area over
        that of the convex hull); ``border_distance`` (px from its nearest pixel to the border of
        the field, 0 where it reaches it); ``mean_<role>`` (counts above the field's medium);
        and of its window ``neighbours``, ``neighbour_area``, ``medium_area`` (beyond `HALO_PX` of
        any cell, in the field) and ``padded_area`` (outside the field).
    """
    n = int(labels.max(initial=0))
    rows, columns = np.nonzero(labels)
    cell = labels[rows, columns].astype(np.int64) - 1
    area = np.bincount(cell, minlength=n)

    def mean(values: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        return np.asarray(np.bincount(cell, values, minlength=n) / area)

    y, x = mean(rows), mean(columns)
    boxes = ndimage.find_objects(labels)
    edges = np.array([[s.start, s.stop] for box in boxes for s in box], np.int64).reshape(n, 4)
    far = np.array([labels.shape[0], labels.shape[1]])
    border = np.minimum(edges[:, [0, 2]], far - edges[:, [1, 3]]).min(1, initial=labels.size)
    table: Table = {
        "label": np.arange(1, n + 1),
        "y": y,
        "x": x,
        "area": area,
        "eccentricity": _eccentricity(mean, rows - y[cell], columns - x[cell]),
        "solidity": _solidity(labels, boxes, area),
        "border_distance": border,
    }
    levels = medium_levels(image, labels)
    for role, plane, level in zip(channels, image, levels, strict=True):
        table[f"mean_{role}"] = mean(plane[rows, columns].astype(np.float64)) - float(level)
    return table | _around(labels, y, x, crop_size_px)


def _eccentricity(mean: Any, y: npt.NDArray[Any], x: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    # a pixel has an extent of its own: 1/12 in each direction
    yy, xx, xy = mean(y * y) + 1 / 12, mean(x * x) + 1 / 12, mean(x * y)
    middle, apart = (yy + xx) / 2, np.hypot((yy - xx) / 2, xy)
    square = np.maximum(1 - (middle - apart) / (middle + apart), 0)
    return np.asarray(np.sqrt(square), np.float64)


def _solidity(
    labels: Labels, boxes: Sequence[Any], area: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    hull = np.empty(len(boxes))
    for i, box in enumerate(boxes):
        own = labels[box] == i + 1
        y = np.flatnonzero(own.any(1))
        first, last = own[y].argmax(1), own.shape[1] - own[y, ::-1].argmax(1)
        # the outer corners of each row's first and last pixel
        corners = np.stack([np.r_[first, first, last, last], np.r_[y, y + 1, y, y + 1]], -1)
        hull[i] = cv2.contourArea(cv2.convexHull(corners.astype(np.int32)))
    return area / np.maximum(hull, 1)


def _around(
    labels: Labels, y: npt.NDArray[np.float64], x: npt.NDArray[np.float64], size: int
) -> Table:
    """Return what is in the window of each cell beside itself."""
    cells = (labels > 0).astype(np.uint8)
    wide = 2 * HALO_PX + 1
    medium = 1 - cv2.dilate(cells, np.ones((wide, wide), np.uint8))
    total = cv2.integral(medium)
    low = np.maximum(corners_of(y, x, size), 0)
    high = np.minimum(corners_of(y, x, size) + size, labels.shape)
    n = len(y)
    table: Table = {
        name: np.zeros(n, np.int64)
        for name in ("neighbours", "neighbour_area", "medium_area", "padded_area")
    }
    for i, ((top, left), (bottom, right)) in enumerate(
        zip(low.tolist(), high.tolist(), strict=True)
    ):
        present = np.bincount(labels[top:bottom, left:right].ravel(), minlength=n + 1)
        present[[0, i + 1]] = 0
        table["neighbours"][i] = np.count_nonzero(present)
        table["neighbour_area"][i] = present.sum()
    (top, left), (bottom, right) = low.T, high.T
    table["medium_area"] = (
        total[bottom, right] - total[top, right] - total[bottom, left] + total[top, left]
    ).astype(np.int64)
    table["padded_area"] = size * size - (bottom - top) * (right - left)
    return table


def debris(measures: Mapping[str, npt.NDArray[Any]]) -> npt.NDArray[np.bool_]:
    """Return which cells of a field are no single living cell: (cell,), bool.

    Of odd shape (solidity below `LEAST_SOLIDITY`); or, compared with the field's others, far too
    bright in the cytosol (or the first channel there is) or far too large.

    Parameters
    ----------
    measures : mapping of str to array (cell,)
        As `measure` returns them.
    """
    odd = np.asarray(measures["solidity"] < LEAST_SOLIDITY)
    if len(odd) < FEWEST_CELLS:
        return odd
    intensities = [name for name in measures if name.startswith("mean_")]
    name = "mean_cytosol" if "mean_cytosol" in measures else intensities[0]
    light = np.log(np.maximum(measures[name], 1.0))
    middle = np.median(light)
    spread = 1.4826 * np.median(np.abs(light - middle))
    bright = light > middle + max(BRIGHT_SPREADS * spread, np.log(BRIGHT_FACTOR))
    large = measures["area"] > LARGEST_FACTOR * np.median(measures["area"])
    return np.asarray(odd | bright | large)


def quality(image: npt.NDArray[Any], labels: Labels, channels: Sequence[str]) -> dict[str, float]:
    """Measure a field as an image.

    Parameters
    ----------
    image : array (channel, y, x), counts
    labels : array (y, x), int32
    channels : sequence of str
        Roles.

    Returns
    -------
    dict of str to float
        By role: ``focus_<role>``, the standard deviation of the Laplacian (after a Gaussian of
        1 px) over cells and their rims, over the cells' mean above the medium, NaN without cells;
        ``saturated_<role>``, the share of pixels at the largest value, where at least two are at
        the dtype's end; ``medium_<role>``, the median of the medium.

    References
    ----------
    Pech-Pacheco et al. (2000), Diatom autofocusing in brightfield microscopy: a comparative study.
    ICPR 2000 (variance of the Laplacian).
    """
    cells = labels > 0
    rim = cv2.dilate(cells.astype(np.uint8), np.ones((5, 5), np.uint8)).astype(bool)
    out: dict[str, float] = {}
    for role, plane, level in zip(channels, image, medium_levels(image, labels), strict=True):
        out[f"focus_{role}"] = float("nan")
        if cells.any():
            smooth = cv2.GaussianBlur(plane.astype(np.float32), (0, 0), 1.0)
            edges = cv2.Laplacian(smooth, cv2.CV_32F)[rim]
            signal = max(float(plane[cells].mean()) - float(level), 1e-9)
            out[f"focus_{role}"] = float(edges.std()) / signal
        out[f"saturated_{role}"] = _saturated(plane)
        out[f"medium_{role}"] = float(level)
    return out


def _saturated(plane: npt.NDArray[Any]) -> float:
    """Return the share of pixels at a camera's end: of the dtype, or of 10 to 14 bits."""
    highest = plane.max()
    at_top = float((plane == highest).mean())
    if plane.dtype.kind not in "iu":
        return 0.0
    ends = {2**bits - 1 for bits in (8, 10, 12, 14, 16)} | {int(np.iinfo(plane.dtype).max)}
    return at_top if int(highest) in ends and at_top * plane.size >= 2 else 0.0
