"""How touching cells are parted, and what was parted inside one cell is joined again.

Owns seeds, the borders between cells and the rules for joining; knows no medium and no noise. All
sizes are shares of a typical cell's diameter in pixels.
"""

from typing import Any

import cv2
import fill_voids
import numpy as np
import numpy.typing as npt
from scipy import ndimage
from skimage.segmentation import watershed

from bgscale.fields.labels import Labels

Image = npt.NDArray[np.float32]
Mask = npt.NDArray[np.uint8]

SEAM_WIDTH, SEAM_CURVATURE = 0.07, 0.02
"""Width of the dark seam between touching cells, as a share of the diameter, and how bent the
light is across it, as a share of the light around."""
PEAK_REACH, PEAK_DEPTH = 0.22, 0.08
"""Two seeds are at least so far apart, and lie so deep in a core."""
REACH = 0.4
"""A cell ends at most so far beyond its core."""
SAME_CELL, SAME_SHARE = 0.93, 0.4
"""Parts whose union fills so much of its convex hull are one cell, where it reaches this share of
their brightness; two touching cells fill 0.78 (median), 0.9 at most, in simulated fields."""
BUD_UNION, BUD_SHARE = 0.84, 0.3
"""The same for a mother and her bud."""
LEAST_CONTACT, BUD_CONTACT = 0.6, 0.75
"""Their common border, in diameters of the smaller part."""
ROUNDS = 3
_CROSS = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
_SQUARE = np.ones((3, 3), np.uint8)


def disk(radius: float) -> Mask:
    """Return a disk as a structuring element, of radius 1 at least."""
    side = 2 * max(round(radius), 1) + 1
    return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side)), np.uint8)


def parted(mask: Mask, level: Image, diameter_px: float) -> Labels:
    """Return one label for each part of a mask that may be a cell.

    Parameters
    ----------
    mask : array (y, x), uint8
        1 in cells.
    level : array (y, x), float32
        Logarithm of the light, 0 in the medium.
    diameter_px : float
        Of a typical cell.

    Returns
    -------
    array (y, x), int32
        0 outside the mask, and where no core is near.
    """
    core = _cores(mask, level, diameter_px)
    distance = cv2.distanceTransform(core, cv2.DIST_L2, cv2.DIST_MASK_5)
    distance = cv2.GaussianBlur(distance, (0, 0), 0.05 * diameter_px)
    side = 2 * max(round(PEAK_REACH * diameter_px), 1) + 1
    highest = cv2.dilate(distance, np.ones((side, side), np.uint8))
    peaks = (distance >= highest) & (distance > PEAK_DEPTH * diameter_px)
    _, seeds = cv2.connectedComponents(peaks.astype(np.uint8), connectivity=8)
    labels = _basins(core, seeds, distance)
    return _flooded(labels, mask, max(round(REACH * diameter_px), 1))


def _cores(mask: Mask, level: Image, diameter_px: float) -> Mask:
    """Return the mask without the dark seams between cells."""
    # local brightness made equal, so that a seam beside a bright cell counts as any other
    coarse = max(int(diameter_px / 7), 1)
    small = cv2.resize(
        level,
        tuple(max(n // coarse, 1) for n in level.shape[::-1]),
        interpolation=cv2.INTER_AREA,
    )
    widest = cv2.dilate(small, disk(0.25 * diameter_px / coarse))
    around = cv2.GaussianBlur(widest, (0, 0), 0.2 * diameter_px / coarse)
    around = cv2.resize(around, level.shape[::-1], interpolation=cv2.INTER_LINEAR)
    even = cv2.divide(level, cv2.max(around, 1e-6))
    width = SEAM_WIDTH * diameter_px
    bent = cv2.Laplacian(cv2.GaussianBlur(even, (0, 0), width), cv2.CV_32F)
    core = mask & (bent <= SEAM_CURVATURE / width**2).view(np.uint8)
    # vacuoles are dark as well
    core = fill_voids.fill(core).view(np.uint8)
    return np.asarray(
        cv2.morphologyEx(core, cv2.MORPH_OPEN, disk(0.06 * diameter_px)), np.uint8
    )


def _basins(core: Mask, seeds: npt.NDArray[np.int32], distance: Image) -> Labels:
    """Give each core its seed's number; cores with several are parted where they are thin."""
    count, pieces = cv2.connectedComponents(core, connectivity=4)
    places = np.flatnonzero(seeds)
    numbers, within = seeds.ravel()[places], pieces.ravel()[places]
    piece_of = np.zeros(int(numbers.max(initial=0)) + 1, np.int64)
    piece_of[numbers] = within
    held = np.bincount(piece_of[1:], minlength=count)
    single = np.flatnonzero(held[piece_of] == 1)
    single = single[single > 0]
    number_of = np.zeros(count, np.int32)
    number_of[piece_of[single]] = single
    labels = number_of[pieces]
    several = np.flatnonzero(held > 1)
    several = several[several > 0]
    boxes = ndimage.find_objects(pieces) if len(several) else []
    for piece in several.tolist():
        box = boxes[piece - 1]
        part = pieces[box] == piece
        basins = watershed(-distance[box], np.where(part, seeds[box], 0), mask=part)
        labels[box][part] = basins[part]
    return np.asarray(labels, np.int32)


def _flooded(labels: Labels, mask: Mask, most: int) -> Labels:
    """Let all labels grow at the same pace, in the mask, until they meet."""
    # float32 holds whole numbers up to 2**24 and is what OpenCV dilates
    grown = labels.astype(np.float32)
    for step in range(most):
        free = cv2.bitwise_and(mask, (grown == 0).view(np.uint8))
        if not cv2.countNonZero(free):
            break
        cv2.copyTo(cv2.dilate(grown, _SQUARE if step % 2 else _CROSS), free, grown)
    return grown.astype(np.int32)


def rejoined(labels: Labels, light: Image, own: Image, bud: float) -> Labels:
    """Join what was parted inside one cell, by a vacuole, and buds with their mothers.

    Parts of one cell are convex together. A bud is smaller than its mother, by the share `bud` of
    her diameter at most, and meets her along a wide neck; cells that merely touch do not.

    Parameters
    ----------
    labels : array (y, x), int32
    light : array (y, x), float32
        Above the medium.
    own : array (label + 1,), float32
        Light of each, as `brightness` returns it.
    bud : float
        Largest diameter of a bud over that of its mother.

    Returns
    -------
    array (y, x), int32
        Some numbers are not used any more.
    """
    for _ in range(ROUNDS):
        count = int(labels.max(initial=0))
        one, other, contact = _borders(labels)
        if not len(one):
            break
        area = np.bincount(labels.ravel(), minlength=count + 1)
        swap = area[one] > area[other]
        small, large = np.where(swap, other, one), np.where(swap, one, other)
        wide = contact / (2 * np.sqrt(area[small] / np.pi))
        is_bud = (area[small] < bud**2 * area[large]) & (wide >= BUD_CONTACT)
        boxes = ndimage.find_objects(labels)
        joins: list[tuple[float, int, int]] = []
        for i in np.flatnonzero(wide >= LEAST_CONTACT).tolist():
            a, b = int(small[i]), int(large[i])
            window = _window(boxes[a - 1], boxes[b - 1])
            part, shown = labels[window], light[window]
            union = _solidity(part, shown, (a, b), own, SAME_SHARE) - SAME_CELL
            if is_bud[i] and union < 0:
                union = _solidity(part, shown, (a, b), own, BUD_SHARE) - BUD_UNION
            if union >= 0:
                joins.append((-union, a, b))
        into = np.arange(count + 1, dtype=np.int32)
        touched: set[int] = set()
        for _, a, b in sorted(joins):
            if not touched & {a, b}:
                touched |= {a, b}
                into[a] = b
        if not touched:
            break
        labels = into[labels]
    return labels


def _borders(
    labels: Labels,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return pairs of labels that touch, the smaller first, and along how many pixels."""
    count = int(labels.max(initial=0)) + 1
    codes = []
    for here, there in ((labels[:, :-1], labels[:, 1:]), (labels[:-1], labels[1:])):
        meet = (here != there) & (here > 0) & (there > 0)
        a, b = here[meet].astype(np.int64), there[meet].astype(np.int64)
        codes.append(np.minimum(a, b) * count + np.maximum(a, b))
    pairs, contact = np.unique(np.concatenate(codes), return_counts=True)
    return pairs // count, pairs % count, contact


def _window(one: Any, other: Any) -> tuple[slice, ...]:
    return tuple(
        slice(min(a.start, b.start), max(a.stop, b.stop)) for a, b in zip(one, other, strict=True)
    )


def _solidity(
    part: Labels, light: Image, pair: tuple[int, int], own: Image, share: float
) -> float:
    """Return the area of two labels, where they reach a share of their light, over its hull's."""
    a, b = pair
    bright = ((part == a) & (light > share * own[a])) | ((part == b) & (light > share * own[b]))
    contours, _ = cv2.findContours(
        bright.view(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE
    )
    if not contours:
        return 0.0
    hull = cv2.contourArea(cv2.convexHull(np.concatenate(contours)))
    return sum(map(cv2.contourArea, contours)) / max(hull, 1.0)


def brightness(light: Image, labels: Labels) -> Image:
    """Return the light of each label's brighter part, above its own mean: (label + 1,), float32."""
    count = int(labels.max(initial=0)) + 1
    inside = labels > 0
    cells, values = labels[inside], light[inside]
    mean = np.bincount(cells, values, count) / np.maximum(np.bincount(cells, minlength=count), 1)
    upper = values >= mean[cells]
    cells, values = cells[upper], values[upper]
    total = np.bincount(cells, values, count) / np.maximum(np.bincount(cells, minlength=count), 1)
    return np.asarray(total, np.float32)
