"""What the cells of a field are like, what surrounds them, and how good the field is.

Owns numbers about cells and fields, and the rules that call a cell debris. It finds no cell. Every
measure is a sum over pixels by label, so a field of a thousand cells costs what its pixels cost.
"""

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import cv2
import numpy as np
import numpy.typing as npt
from scipy import ndimage

HALO_PX = 4
"""Medium this near to a cell carries its blur and is not taken for medium."""
WINDOWS_AT_ONCE = 256
FOCUS_SMOOTHING_PX = 1.0
SATURATED_LEAST = 8
"""So many pixels at the highest value, and more than just below it, are no chance."""

DEBRIS_LEAST_CELLS = 8
"""With fewer cells "brighter than the others" has no meaning."""
DEBRIS_TIMES, DEBRIS_SPREADS = 2.5, 4.0
"""Brighter than the field's median cell so many times, and by so many robust deviations."""
DEBRIS_ECCENTRICITY = 0.97
DEBRIS_COMPACTNESS = 0.75

Floats: TypeAlias = npt.NDArray[np.float64]


def medium_medians(image: npt.NDArray[Any], labels: npt.NDArray[np.int32]) -> Floats:
    """Return the median of each channel over the medium: (channel,), float64, counts.

    In a field full of cells, without any medium, each channel's lowest pixel stands for it.
    """
    medium = labels == 0
    if not medium.any():
        return np.asarray(image.reshape(len(image), -1).min(1), np.float64)
    return np.array([_median(plane[medium]) for plane in image])


def _median(values: npt.NDArray[Any]) -> float:
    """Return the median; by counting where the values are few, which is ten times faster."""
    if values.dtype not in (np.uint8, np.uint16):
        return float(np.median(values))
    below = np.cumsum(np.bincount(values))
    lower, upper = np.searchsorted(below, [(len(values) - 1) // 2 + 1, len(values) // 2 + 1])
    return float(lower + upper) / 2


def measure(
    labels: npt.NDArray[np.int32],
    image: npt.NDArray[Any],
    *,
    channels: Sequence[str],
    crop_size_px: int,
) -> dict[str, npt.NDArray[Any]]:
    """Return what each cell of a field is like.

    Parameters
    ----------
    labels : array (y, x), int32
        As `check_labels` wants them.
    image : array (channel, y, x), counts
    channels : sequence of str
        Role of each channel.
    crop_size_px : int
        Side of the window [int(y) - half, int(y) + half) whose surroundings are measured.

    Returns
    -------
    dict of str to array (cell,)
        ``label`` int32. ``y``, ``x`` (middle of its pixels) float64, pixels. ``area`` int32,
        pixels. ``y0``, ``x0``, ``y1``, ``x1`` int32: smallest box [y0, y1) x [x0, x1).
        ``border_distance`` int32: pixels between the cell and the nearest edge of the field; 0
        touches it. ``eccentricity`` float64: that of the ellipse with the same second moments.
        ``compactness`` float64: area over that ellipse's area; 1 for any ellipse, less for what is
        bent, ragged or in parts. ``mean_<role>`` float64: mean counts above the median of the
        field's medium. ``neighbours`` int32: other labels in the window; ``neighbour_area`` int32:
        their pixels there. ``medium_area`` int32: pixels of the window, in the field, more than
        `HALO_PX` from any cell. ``padded_area`` int32: pixels of the window outside the field.
    """
    count = int(labels.max()) if labels.size else 0
    height, width = labels.shape
    where = np.flatnonzero(labels)
    of = labels.ravel()[where]
    rows, columns = np.divmod(where, width)

    def total(values: npt.NDArray[Any]) -> Floats:
        return np.bincount(of, weights=values, minlength=count + 1)[1:]

    area = np.bincount(of, minlength=count + 1)[1:]
    size = np.maximum(area, 1)
    y, x = total(rows) / size, total(columns) / size
    # about the cell's own middle: sums of squares of whole coordinates would cancel
    dy, dx = rows - np.append(0.0, y)[of], columns - np.append(0.0, x)[of]
    # 1/12: a pixel is a square, not a point
    yy, xx = total(dy * dy) / size + 1 / 12, total(dx * dx) / size + 1 / 12
    xy = total(dy * dx) / size
    apart = np.hypot((yy - xx) / 2, xy)
    long, short = (yy + xx) / 2 + apart, (yy + xx) / 2 - apart
    boxes = [box or (slice(0, 0), slice(0, 0)) for box in ndimage.find_objects(labels, count)]
    y0, y1, x0, x1 = (
        np.array([[b[0].start, b[0].stop, b[1].start, b[1].stop] for b in boxes], np.int32)
        .reshape(-1, 4)
        .T
    )
    out: dict[str, npt.NDArray[Any]] = {
        "label": np.arange(1, count + 1, dtype=np.int32),
        "y": y,
        "x": x,
        "area": area.astype(np.int32),
        "y0": y0,
        "x0": x0,
        "y1": y1,
        "x1": x1,
        "border_distance": np.minimum.reduce([y0, x0, height - y1, width - x1]).astype(np.int32),
        "eccentricity": np.sqrt(1 - short / long),
        "compactness": size / (4 * np.pi * np.sqrt(long * short)),
    }
    medians = medium_medians(image, labels)
    for role, plane, medium in zip(channels, image, medians, strict=True):
        out[f"mean_{role}"] = total(plane.ravel()[where]) / size - medium
    return out | _surroundings(labels, out, crop_size_px)


def _surroundings(
    labels: npt.NDArray[np.int32], cells: Mapping[str, npt.NDArray[Any]], size_px: int
) -> dict[str, npt.NDArray[np.int32]]:
    """Return neighbours, neighbour_area, medium_area and padded_area of each cell's window."""
    height, width = labels.shape
    half = size_px // 2
    top, left = cells["y"].astype(np.int64) - half, cells["x"].astype(np.int64) - half
    bounds = (
        np.clip(top, 0, height),
        np.clip(top + size_px, 0, height),
        np.clip(left, 0, width),
        np.clip(left + size_px, 0, width),
    )
    occupied = (labels > 0).astype(np.uint8)
    kernel = np.ones((2 * HALO_PX + 1,) * 2, np.uint8)
    covered = _window_sums(occupied, *bounds)
    haloed = _window_sums(cv2.dilate(occupied, kernel), *bounds)
    inside = (bounds[1] - bounds[0]) * (bounds[3] - bounds[2])
    count = len(top)
    seen = np.zeros(count, np.int64)
    own = np.zeros(count, np.int64)
    padded = np.pad(labels, half)
    views = np.lib.stride_tricks.sliding_window_view(padded, (size_px, size_px))
    for start in range(0, count, WINDOWS_AT_ONCE):
        which = np.arange(start, min(start + WINDOWS_AT_ONCE, count))
        around = views[top[which] + half, left[which] + half]
        rows = np.arange(len(which), dtype=np.int32)[:, None, None] * np.int32(count + 1)
        table = np.bincount((around + rows).ravel(), minlength=len(which) * (count + 1))
        table = table.reshape(len(which), -1)
        own[which] = table[np.arange(len(which)), which + 1]
        seen[which] = (table[:, 1:] > 0).sum(1) - (own[which] > 0)
    found = {
        "neighbours": seen,
        "neighbour_area": covered - own,
        "medium_area": inside - haloed,
        "padded_area": size_px**2 - inside,
    }
    return {name: values.astype(np.int32) for name, values in found.items()}


def _window_sums(
    plane: npt.NDArray[np.uint8],
    y0: npt.NDArray[np.int64],
    y1: npt.NDArray[np.int64],
    x0: npt.NDArray[np.int64],
    x1: npt.NDArray[np.int64],
) -> npt.NDArray[np.int64]:
    total = np.asarray(cv2.integral(plane), np.int64)
    return np.asarray(total[y1, x1] - total[y0, x1] - total[y1, x0] + total[y0, x0])


def debris(measures: Mapping[str, npt.NDArray[Any]]) -> npt.NDArray[np.bool_]:
    """Return which cells are dead bright cells or debris.

    A cell is, where its mean cytosol (without one: protein) is more than `DEBRIS_TIMES` that of the
    field's median cell and further from it than `DEBRIS_SPREADS` robust standard deviations
    (1.4826 median absolute deviations of the logarithm), in a field of `DEBRIS_LEAST_CELLS` or
    more; or where its shape is a sliver (`DEBRIS_ECCENTRICITY`) or ragged (`DEBRIS_COMPACTNESS`).
    Cells at the field's edge are cut, and not judged by shape.

    Parameters
    ----------
    measures : mapping of str to array (cell,)
        What `measure` returns.

    Returns
    -------
    array (cell,), bool
    """
    whole = measures["border_distance"] > 0
    odd = (measures["eccentricity"] > DEBRIS_ECCENTRICITY) | (
        measures["compactness"] < DEBRIS_COMPACTNESS
    )
    out = np.asarray(whole & odd, bool)
    light = next((measures[k] for k in ("mean_cytosol", "mean_protein") if k in measures), None)
    if light is None or len(light) < DEBRIS_LEAST_CELLS:
        return out
    level = np.log(np.maximum(light, 1e-6 * max(float(light.max()), 1e-6)))
    above = level - np.median(level)
    spread = 1.4826 * np.median(np.abs(above))
    return out | (above > max(np.log(DEBRIS_TIMES), DEBRIS_SPREADS * spread))


def quality(
    image: npt.NDArray[Any], labels: npt.NDArray[np.int32], channels: Sequence[str]
) -> dict[str, float]:
    """Return what tells good fields from bad ones.

    Parameters
    ----------
    image : array (channel, y, x), counts
    labels : array (y, x), int32
    channels : sequence of str
        Role of each channel.

    Returns
    -------
    dict of str to float
        ``cells``; ``area_median_px`` (NaN without cells); and for each role ``focus_<role>``:
        variance of the Laplacian of the smoothed channel over the cells, divided by the square of
        their mean above the medium, so that it depends on sharpness and not on brightness (NaN
        without cells, or where they are no brighter than the medium); ``saturated_<role>``: share
        of pixels at the dtype's largest value, or at the channel's own highest value where that is
        repeated more than chance would (a camera of 12 bits); ``medium_<role>``: median counts of
        the medium.

    References
    ----------
    Pech-Pacheco et al. (2000), Diatom autofocusing in brightfield microscopy: a comparative study.
    ICPR 15.
    """
    areas = np.bincount(labels.ravel())[1:]
    areas = areas[areas > 0]
    out = {
        "cells": float(len(areas)),
        "area_median_px": float(np.median(areas)) if len(areas) else float("nan"),
    }
    cells = labels > 0
    for role, plane, medium in zip(channels, image, medium_medians(image, labels), strict=True):
        out[f"focus_{role}"] = _focus(plane, cells, medium)
        out[f"saturated_{role}"] = _saturated(plane)
        out[f"medium_{role}"] = float(medium)
    return out


def _focus(plane: npt.NDArray[Any], cells: npt.NDArray[np.bool_], medium: float) -> float:
    light = plane.astype(np.float32)
    contrast = float(light[cells].mean(dtype=np.float64)) - medium if cells.any() else 0.0
    if contrast <= 0:
        return float("nan")
    smooth = cv2.GaussianBlur(light, (0, 0), FOCUS_SMOOTHING_PX)
    curvature = cv2.Laplacian(smooth, cv2.CV_32F)[cells]
    return float(curvature.var(dtype=np.float64)) / contrast**2


def _saturated(plane: npt.NDArray[Any]) -> float:
    top, low = plane.max(), plane.min()
    at_top = int((plane == top).sum())
    if np.issubdtype(plane.dtype, np.integer) and top == np.iinfo(plane.dtype).max:
        return at_top / plane.size
    # the highest hundredth of the range below the top holds fewer, unless it is no clipped tail
    span = float(top) - float(low)
    just_below = int((plane >= float(top) - 0.01 * span).sum()) - at_top
    repeated = span > 0 and at_top >= SATURATED_LEAST and at_top > just_below
    return at_top / plane.size if repeated else 0.0
