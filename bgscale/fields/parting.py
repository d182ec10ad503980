"""How touching cells are parted, and what was parted inside one cell is joined again.

Owns seeds, the borders between cells and the rules for joining; knows no medium and no noise. All
sizes are shares of a typical cell's diameter in pixels.
"""

import math
from dataclasses import dataclass
from typing import Any, TypeAlias

import cv2
import numpy as np
import numpy.typing as npt
from scipy import ndimage

from bgscale.fields.labels import Labels

Image: TypeAlias = npt.NDArray[Any]
"""float32: light, or its logarithm."""
Mask: TypeAlias = npt.NDArray[Any]
"""uint8: 1 in, 0 out."""
Box: TypeAlias = tuple[slice, slice]

SEED_PX = 12
"""Seeds are found in an image that is smaller by a whole factor, where a cell is not narrower."""
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
LEAST_CONTACT, BUD_CONTACT = 0.7, 0.75
"""Their common border, in diameters of the smaller part."""
ROUNDS = 3
CROSS = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
_SQUARE = np.ones((3, 3), np.uint8)


def disk(radius: float) -> Mask:
    """Return a disk as a structuring element, of radius 1 at least."""
    side = 2 * max(round(radius), 1) + 1
    return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side)), np.uint8)


@dataclass
class Parts:
    """Parts of a field, each a cell.

    Parameters
    ----------
    labels : array (y, x), int
        0 in the medium; not all numbers need be used.
    boxes : dict of int to two slices
        Where each label is.
    light : list of float
        Of each label's brighter part, above its own mean; the first entry is the medium's.
    area : list of int
        Of each label, in pixels.
    """

    labels: npt.NDArray[np.integer[Any]]
    boxes: dict[int, Box]
    light: list[float]
    area: list[int]


def blurred(image: Image, sigma: float) -> Image:
    """Return the image after a Gaussian, cut off at two and a half standard deviations."""
    side = 2 * max(round(2.5 * sigma), 1) + 1
    return np.asarray(cv2.GaussianBlur(image, (side, side), sigma), np.float32)


def parted(mask: Mask, level: Image, light: Image, diameter_px: float, *, bud: float) -> Parts:
    """Part a mask into cells.

    Parameters
    ----------
    mask : array (y, x), uint8
        1 in cells.
    level : array (y, x), float32
        Logarithm of the light, 0 in the medium.
    light : array (y, x), float32
        Above the medium.
    diameter_px : float
        Of a typical cell.
    bud : float
        Largest diameter of a bud, over that of her mother, of whom it is a part.

    Returns
    -------
    Parts
    """
    labels = _flooded(_seeded(mask, level, diameter_px), mask, max(round(REACH * diameter_px), 1))
    parts = _measured(labels, mask, light)
    _rejoin(parts, light, bud)
    return parts


def _seeded(mask: Mask, level: Image, diameter_px: float) -> Labels:
    """Return the cores of cells, numbered: found where a cell is some `SEED_PX` wide."""
    coarse = max(int(diameter_px / SEED_PX), 1)
    size = [max(n // coarse, 1) for n in level.shape[::-1]]
    if coarse > 1:
        diameter_px /= coarse
        mask = cv2.threshold(
            cv2.resize(mask * np.uint8(255), size, interpolation=cv2.INTER_AREA), 127, 1, 0
        )[1]
    core = _cores(mask, cv2.resize(level, size, interpolation=cv2.INTER_AREA), diameter_px)
    depth = cv2.distanceTransform(core, cv2.DIST_L2, cv2.DIST_MASK_5)
    depth = blurred(depth, 0.05 * diameter_px)
    reach = max(round(PEAK_REACH * diameter_px), 1)
    highest = cv2.dilate(depth, np.ones((2 * reach + 1, 2 * reach + 1), np.uint8))
    peaks = (depth >= highest) & (depth > PEAK_DEPTH * diameter_px)
    labels = _disks(core, peaks, depth, reach)
    return labels


def _cores(mask: Mask, level: Image, diameter_px: float) -> Mask:
    """Return the mask without the dark seams between cells."""
    # local brightness made equal, so that a seam beside a bright cell counts as any other
    widest = cv2.dilate(level, disk(0.25 * diameter_px))
    around = blurred(widest, 0.2 * diameter_px)
    even = level / np.maximum(around, np.float32(1e-6))
    width = SEAM_WIDTH * diameter_px
    bent = cv2.Laplacian(blurred(even, width), cv2.CV_32F)
    core: Mask = mask & (bent <= SEAM_CURVATURE / width**2).view(np.uint8)
    # vacuoles are dark as well
    outlines, _ = cv2.findContours(core, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(core, outlines, -1, 1, cv2.FILLED)
    return np.asarray(cv2.morphologyEx(core, cv2.MORPH_OPEN, disk(0.06 * diameter_px)), np.uint8)


def _disks(core: Mask, peaks: npt.NDArray[np.bool_], depth: Image, reach: int) -> Labels:
    """Give a number to each core with a peak; one with several parts as overlapping disks do.

    A peak stands for the disk that fits into the core there. Two disks part along the line through
    the points where their edges cross.
    """
    count, pieces = cv2.connectedComponents(core, connectivity=8)
    y, x = np.divmod(np.flatnonzero(peaks), core.shape[1])
    piece_of = pieces[y, x]
    held = np.bincount(piece_of, minlength=count)
    inside = np.flatnonzero(core.view(bool))
    pieces.ravel()[inside] *= (held > 0)[pieces.ravel()[inside]]
    order = np.argsort(piece_of, kind="stable")
    stops = np.cumsum(held)
    several = {int(p): order[stops[p] - held[p] : stops[p]] for p in np.flatnonzero(held > 1)}
    if not several:
        return np.asarray(pieces, np.int32)
    boxes = ndimage.find_objects(pieces)
    number = count
    for piece, disks in several.items():
        part = pieces[boxes[piece - 1]]
        top, left = (side.start for side in boxes[piece - 1])
        # pixels of one level are one peak
        disks = _apart(disks, y, x, reach)
        rows, columns = np.nonzero(part == piece)
        away = (rows[:, None] + top - y[disks]) ** 2 + (columns[:, None] + left - x[disks]) ** 2
        nearest = (away - depth[y[disks], x[disks]] ** 2).argmin(1)
        part[rows, columns] = number + nearest
        number += len(disks)
    return np.asarray(pieces, np.int32)


def _apart(
    peaks: npt.NDArray[np.int64], y: npt.NDArray[np.int64], x: npt.NDArray[np.int64], reach: int
) -> npt.NDArray[np.int64]:
    chosen: list[int] = []
    for i in peaks.tolist():
        if all(max(abs(y[i] - y[j]), abs(x[i] - x[j])) > reach for j in chosen):
            chosen.append(i)
    return np.array(chosen, np.int64)


def _flooded(seeds: Labels, mask: Mask, most: int) -> npt.NDArray[np.integer[Any]]:
    """Let all labels grow at the same pace, in the mask, until they meet.

    The seeds may be those of a smaller image.
    """
    # what OpenCV dilates; float32 holds whole numbers up to 2**24
    kind = np.uint16 if seeds.max(initial=0) < 2**16 else np.float32
    labels = cv2.resize(seeds.astype(kind), mask.shape[::-1], interpolation=cv2.INTER_NEAREST)
    before = -1
    for step in range(most):
        free = cv2.bitwise_and(mask, (labels == 0).view(np.uint8))
        left = cv2.countNonZero(free)
        if left in (0, before):
            break
        before = left
        cv2.copyTo(cv2.dilate(labels, _SQUARE if step % 2 else CROSS), free, labels)
    return np.asarray(labels, np.uint16 if kind is np.uint16 else np.int32)


def _measured(labels: npt.NDArray[np.integer[Any]], mask: Mask, light: Image) -> Parts:
    inside = mask.view(bool)
    cells, values = labels[inside], light[inside]
    area = np.bincount(cells)
    count = len(area)
    mean = np.bincount(cells, values, count) / np.maximum(area, 1)
    upper = values >= mean[cells]
    cells, values = cells[upper], values[upper]
    pixels = np.maximum(np.bincount(cells, minlength=count), 1)
    brighter = np.bincount(cells, values, count) / pixels
    # every other pixel is enough to tell where a cell is
    rows, columns = labels.shape
    boxes = {
        label: (
            slice(max(2 * box[0].start - 2, 0), min(2 * box[0].stop + 1, rows)),
            slice(max(2 * box[1].start - 2, 0), min(2 * box[1].stop + 1, columns)),
        )
        for label, box in enumerate(ndimage.find_objects(labels[::2, ::2]), 1)
        if box is not None
    }
    return Parts(labels, boxes, brighter.tolist(), area.tolist())


def _rejoin(parts: Parts, light: Image, bud: float) -> None:
    """Join what was parted inside one cell, by a vacuole, and buds with their mothers, in place.

    Parts of one cell are convex together. A bud is smaller than its mother and meets her along a
    wide neck; cells that merely touch do not.
    """
    contacts = _contacts(parts.labels)
    judged: dict[tuple[int, int], float] = {}
    for _ in range(ROUNDS):
        for pair, contact in contacts.items():
            if pair not in judged and parts.boxes.keys() >= {*pair}:
                judged[pair] = _oneness(parts, light, pair, contact, bud)
        joined: dict[int, int] = {}
        touched: set[int] = set()
        same = [pair for pair, oneness in judged.items() if oneness >= 0]
        for pair in sorted(same, key=lambda pair: (-judged[pair], pair)):
            if touched.isdisjoint(pair):
                touched.update(pair)
                small, large = sorted(pair, key=lambda i: (parts.area[i], i))
                joined[small] = large
                _join(parts, small, large)
        if not joined:
            return
        judged = {pair: one for pair, one in judged.items() if touched.isdisjoint(pair)}
        merged: dict[tuple[int, int], int] = {}
        for (a, b), contact in contacts.items():
            a, b = joined.get(a, a), joined.get(b, b)
            if a != b:
                merged[min(a, b), max(a, b)] = merged.get((min(a, b), max(a, b)), 0) + contact
        contacts = merged


def _contacts(labels: npt.NDArray[np.integer[Any]]) -> dict[tuple[int, int], int]:
    """Return pairs of labels that touch, the smaller first, and along how many pixels."""
    flat, columns = labels.ravel(), labels.shape[1]
    count = int(flat.max(initial=0)) + 1
    codes = []
    for step in (1, columns):
        edge = np.flatnonzero(flat[:-step] != flat[step:])
        if step == 1:
            edge = edge[edge % columns != columns - 1]
        a, b = flat[edge].astype(np.int64), flat[edge + step].astype(np.int64)
        code = np.minimum(a, b) * count + np.maximum(a, b)
        codes.append(code[code >= count])
    pairs, lengths = np.unique(np.concatenate(codes), return_counts=True)
    return {
        divmod(pair, count): length
        for pair, length in zip(pairs.tolist(), lengths.tolist(), strict=True)
    }


def _oneness(parts: Parts, light: Image, pair: tuple[int, int], contact: int, bud: float) -> float:
    """Return how much more two parts fill their joint hull than one cell must; -1 at least."""
    small, large = sorted((parts.area[pair[0]], parts.area[pair[1]]))
    wide = contact / (2 * math.sqrt(small / math.pi))
    if wide < LEAST_CONTACT:
        return -1.0
    if small < bud**2 * large and wide >= BUD_CONTACT:
        return _solidity(parts, light, pair, BUD_SHARE) - BUD_UNION
    return _solidity(parts, light, pair, SAME_SHARE) - SAME_CELL


def _solidity(parts: Parts, light: Image, pair: tuple[int, int], share: float) -> float:
    """Return the area of two labels, where they reach a share of their light, over its hull's."""
    window = _around(parts.boxes[pair[0]], parts.boxes[pair[1]])
    here, shown = parts.labels[window], light[window]
    one, other = (
        (here == label) & (shown > np.float32(share * parts.light[label])) for label in pair
    )
    both = (one | other).view(np.uint8)
    outlines, _ = cv2.findContours(both, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    if not outlines:
        return 0.0
    hull = cv2.contourArea(cv2.convexHull(np.concatenate(outlines)))
    return float(sum(map(cv2.contourArea, outlines)) / max(hull, 1.0))


def _join(parts: Parts, small: int, large: int) -> None:
    box = parts.boxes.pop(small)
    here = parts.labels[box]
    here[here == small] = large
    parts.boxes[large] = _around(box, parts.boxes[large])
    area = parts.area[small] + parts.area[large]
    total = sum(parts.light[i] * parts.area[i] for i in (small, large))
    parts.light[large], parts.area[large] = total / area, area


def _around(one: Box, other: Box) -> Box:
    rows, columns = (
        slice(min(a.start, b.start), max(a.stop, b.stop)) for a, b in zip(one, other, strict=True)
    )
    return rows, columns
