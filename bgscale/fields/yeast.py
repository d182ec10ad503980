"""The default segmenter: budding yeast from a channel that shows whole cells.

Cells are found where there is more light than in the medium around, whose uneven part is taken away
first; parted where they are thin and where it is dark between them; and trimmed, each by its own
brightness, so that a bright cell's haze is not taken for its body nor a dim neighbour for haze. A
field in which nothing stands out of the noise has no cells.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

import cv2
import fill_voids
import numpy as np
import numpy.typing as npt
from scipy import ndimage
from skimage.segmentation import watershed

from bgscale.errors import ConfigError, nearest
from bgscale.fields.labels import Labels

Image = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]

SHOWN_IN = ("cytosol", "nucleus", "protein")
"""The first channel that is there is segmented; without cytosol cells are found by what light they
have, which is less sure."""
PIXEL_UM = 0.2
"""Taken where the size of a pixel is not known."""
_LEVELS = 512


@dataclass(frozen=True)
class YeastSegmenter:
    """Finds budding yeast.

    Parameters
    ----------
    diameter_um : float
        Of a typical mother cell.
    smallest_um : float
        Diameter of the smallest bud that counts as a cell.
    contrast : float
        How many standard deviations of the medium's noise a cell is brighter than the medium.
    edge : float
        A cell reaches to where its light has fallen to this share of its own brightness.

    Examples
    --------
    >>> from bgscale.simulate import ScreenSpec, simulate_field
    >>> field = simulate_field(ScreenSpec(field_size_px=256, cells_per_field=12), 0, 0)
    >>> roles = ("protein", "cytosol", "nucleus")
    >>> labels = YeastSegmenter()(field.image, channels=roles, pixel_size_um=0.17)
    >>> bool(abs(int(labels.max()) - len(field.cells)) <= 2)
    True
    """

    diameter_um: float = 5.0
    smallest_um: float = 1.6
    contrast: float = 6.0
    edge: float = 0.2
    contact: float = 0.6
    convex: float = 0.88

    name = "yeast"

    def __post_init__(self) -> None:
        for key, value in asdict(self).items():
            if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
                msg = f"cells.options.{key} = {value!r}: expected a positive number"
                raise ConfigError(msg)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Return the segmenter with these options; unknown ones raise, with the nearest."""
        known = [str(key) for key in cls.__dataclass_fields__]
        for key in config:
            if key not in known:
                msg = f"unknown option cells.options.{key}{nearest(key, known)}; known: "
                raise ConfigError(msg + ", ".join(known))
        return cls(**config)

    def to_config(self) -> dict[str, Any]:
        """Return the options as plain JSON types."""
        return asdict(self)

    def __call__(
        self, image: npt.NDArray[Any], *, channels: Sequence[str], pixel_size_um: float
    ) -> Labels:
        """Return the cells of a field.

        Parameters
        ----------
        image : array (channel, y, x), counts
        channels : sequence of str
            Roles; cytosol is used where it is there.
        pixel_size_um : float
            0 where it is not known: then `PIXEL_UM`.

        Returns
        -------
        array (y, x), int32
            0 medium, cells from 1 in the order of their first pixels.
        """
        role = next(role for role in SHOWN_IN if role in channels)
        plane = np.ascontiguousarray(image[list(channels).index(role)], np.float32)
        threads = cv2.getNumThreads()
        cv2.setNumThreads(1)
        try:
            return self._cells(plane, self.diameter_um / (pixel_size_um or PIXEL_UM))
        finally:
            cv2.setNumThreads(threads)

    def _cells(self, plane: Image, diameter_px: float) -> Labels:
        nothing = np.zeros(plane.shape, np.int32)
        smooth = cv2.GaussianBlur(plane, (0, 0), 0.04 * diameter_px)
        light, noise = without_medium(smooth, diameter_px)
        if noise <= 0:
            return nothing
        level = np.log1p(np.maximum(light, 0) / (self.contrast * noise))
        threshold = max(_otsu(level), float(np.log(2.0)))
        mask = (level > threshold).astype(np.uint8)
        mask = cv2.morphologyEx(mask, cv2.MORPH_OPEN, _disk(0.05 * diameter_px))
        if not mask.any():
            return nothing
        labels = self._parted(mask, level, diameter_px)
        labels = self._trimmed(self._rejoined(labels), light)
        smallest_px = np.pi / 4 * (diameter_px * self.smallest_um / self.diameter_um) ** 2
        return self._kept(labels, light, noise, smallest_px)

    def _parted(self, mask: npt.NDArray[np.uint8], level: Image, diameter_px: float) -> Labels:
        """Part touching cells: where it is thin, and where it is dark between them."""
        # local brightness made equal, so that a seam beside a bright cell counts as any other
        around = cv2.GaussianBlur(
            cv2.dilate(level, _disk(0.25 * diameter_px)), (0, 0), 0.2 * diameter_px
        )
        even = level / np.maximum(around, 1e-6)
        width = 0.07 * diameter_px
        bent = cv2.Laplacian(cv2.GaussianBlur(even, (0, 0), width), cv2.CV_32F) * width**2
        seam = (bent > SEAM) & (mask > 0)
        core = mask.copy()
        core[seam] = 0
        core = fill_voids.fill(core).astype(np.uint8)
        core = cv2.morphologyEx(core, cv2.MORPH_OPEN, _disk(0.06 * diameter_px))
        distance = cv2.distanceTransform(core, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        distance = cv2.GaussianBlur(distance, (0, 0), 0.05 * diameter_px)
        reach = _disk(0.24 * diameter_px)
        peaks = (distance >= cv2.dilate(distance, reach)) & (distance > 0.08 * diameter_px)
        _, markers = cv2.connectedComponents(peaks.astype(np.uint8), connectivity=8)
        return np.asarray(
            watershed(-distance * (0.3 + even), markers, mask=mask > 0), np.int32
        )

    def _rejoined(self, labels: Labels) -> Labels:
        """Join what was parted inside one cell, by a vacuole: its halves meet along a wide border.

        Cells that touch, or a mother and her bud, meet in a neck, and together are not convex.
        """
        for _ in range(ROUNDS):
            count = int(labels.max())
            one, other, contact = _borders(labels)
            area = np.bincount(labels.ravel(), minlength=count + 1)
            across = 2 * np.sqrt(np.minimum(area[one], area[other]) / np.pi)
            wide = np.flatnonzero(contact >= self.contact * across)
            boxes = ndimage.find_objects(labels)
            joined = np.arange(count + 1)
            touched: set[int] = set()
            convex = np.array(
                [_joint_solidity(labels, boxes, int(one[i]), int(other[i])) for i in wide]
            )
            for place in np.argsort(-convex, kind="stable"):
                a, b = int(one[wide[place]]), int(other[wide[place]])
                if convex[place] < self.convex or touched & {a, b}:
                    continue
                touched |= {a, b}
                joined[b] = a
            if not touched:
                break
            labels = joined[labels].astype(np.int32)
        return labels

    def _trimmed(self, labels: Labels, light: Image) -> Labels:
        """Let each cell reach to where its light has fallen to a share of its own brightness."""
        count = int(labels.max())
        inside = labels > 0
        cells = labels[inside]
        own = _upper_quartile(light[inside], cells, count)
        bright = np.zeros(labels.shape, np.uint8)
        bright[inside] = light[inside] > self.edge * own[cells]
        # what is dark within one cell is a vacuole; between several it is medium
        dark = (fill_voids.fill(bright) > bright).astype(np.uint8)
        _, holes = cv2.connectedComponents(dark, connectivity=4)
        where = holes > 0
        low = np.full(int(holes.max()) + 1, count + 1)
        high = np.zeros_like(low)
        np.minimum.at(low, holes[where], labels[where])
        np.maximum.at(high, holes[where], labels[where])
        vacuole = where & (low == high)[holes] & (low > 0)[holes]
        return np.where((bright > 0) | vacuole, labels, 0).astype(np.int32)

    def _kept(self, labels: Labels, light: Image, noise: float, smallest_px: float) -> Labels:
        """Leave out what is too small, and what is no brighter than all around it: a gap, haze."""
        count = int(labels.max())
        grown = cv2.dilate(labels.astype(np.float32), np.ones((5, 5), np.uint8)).astype(np.int32)
        ring = (grown > 0) & (labels != grown)
        area = np.bincount(labels.ravel(), minlength=count + 1)
        inner = np.bincount(labels.ravel(), light.ravel(), count + 1) / np.maximum(area, 1)
        edge = np.bincount(grown[ring], minlength=count + 1)
        outer = np.bincount(grown[ring], light[ring], count + 1) / np.maximum(edge, 1)
        keep = (area >= smallest_px) & (inner > outer) & (inner > self.contrast * noise)
        keep[0] = False
        return _numbered(np.where(keep[labels], labels, 0).astype(np.int32))


SEAM = 0.02
ROUNDS = 3


def _borders(
    labels: Labels,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return pairs of labels that touch, the smaller first, and along how many pixels."""
    count = int(labels.max()) + 1
    codes = []
    for here, there in ((labels[:, :-1], labels[:, 1:]), (labels[:-1], labels[1:])):
        meet = (here != there) & (here > 0) & (there > 0)
        a, b = here[meet].astype(np.int64), there[meet].astype(np.int64)
        codes.append(np.minimum(a, b) * count + np.maximum(a, b))
    pairs, contact = np.unique(np.concatenate(codes), return_counts=True)
    return pairs // count, pairs % count, contact


def _joint_solidity(labels: Labels, boxes: list[Any], a: int, b: int) -> float:
    """Return the area of two labels over that of their joint convex hull."""
    both = [boxes[a - 1], boxes[b - 1]]
    window = tuple(
        slice(min(box[axis].start for box in both), max(box[axis].stop for box in both))
        for axis in (0, 1)
    )
    part = labels[window]
    y, x = np.nonzero((part == a) | (part == b))
    corners = np.concatenate([np.stack([x + i, y + j], -1) for i in (0, 1) for j in (0, 1)])
    hull = cv2.contourArea(cv2.convexHull(corners.astype(np.int32)))
    return len(y) / max(hull, 1.0)


def without_medium(smooth: Image, diameter_px: float) -> tuple[Image, float]:
    """Take the medium's uneven light away.

    The medium is what is darkest within some cells' reach: a low quantile of blocks a cell and a
    half wide, smoothed. Returned is the light above it, and the standard deviation of its noise.
    """
    block = max(int(1.5 * diameter_px), 8)
    rows, columns = (max(n // block, 1) for n in smooth.shape)
    height, width = smooth.shape[0] // rows, smooth.shape[1] // columns
    blocks = smooth[: rows * height, : columns * width].reshape(rows, height, columns, width)
    low = np.quantile(blocks, 0.1, axis=(1, 3)).astype(np.float32)
    # a block full of cells takes the darkest of those around it
    low = cv2.GaussianBlur(_opened(low), (0, 0), 1.5)
    medium = cv2.resize(low, smooth.shape[::-1], interpolation=cv2.INTER_CUBIC)
    light = smooth - medium
    # the lower half of the medium's noise is not touched by cells
    below = light[light < np.median(light[light < np.quantile(light, 0.5)])]
    middle = float(np.quantile(light, 0.1))
    del below
    residual = light[np.abs(light - middle) < 6 * max(abs(middle), 1e-6) + 1e-6]
    centre = _mode(light)
    lower = light[light < centre]
    noise = float(np.sqrt(np.mean((lower - centre) ** 2))) if lower.size else 0.0
    del residual
    return light - centre, noise


def _opened(low: Image) -> Image:
    square = np.ones((5, 5), np.uint8)
    return np.asarray(cv2.dilate(cv2.erode(low, square), np.ones((3, 3), np.uint8)), np.float32)


def _mode(values: Image) -> float:
    """Return the most frequent value: the medium's, of light without its uneven part."""
    low, high = np.quantile(values, (0.001, 0.9))
    counts, edges = np.histogram(values, 256, (low, high))
    smooth = np.convolve(counts, np.ones(9) / 9, "same")
    best = int(smooth.argmax())
    return float((edges[best] + edges[best + 1]) / 2)


def _otsu(values: Image) -> float:
    """Return the threshold that makes the variance between both sides largest (Otsu 1979)."""
    counts, edges = np.histogram(values, _LEVELS)
    middles = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)[:-1].astype(np.float64)
    above = counts.sum() - below
    weight = np.cumsum(counts * middles)
    with np.errstate(divide="ignore", invalid="ignore"):
        apart = weight[:-1] / below - (weight[-1] - weight[:-1]) / above
        between = np.nan_to_num(below * above * apart**2)
    return float(edges[1 + int(between.argmax())])


def _disk(radius: float) -> npt.NDArray[np.uint8]:
    side = 2 * max(round(radius), 1) + 1
    return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side)), np.uint8)


def _upper_quartile(
    values: npt.NDArray[np.float32], cells: npt.NDArray[np.int32], count: int
) -> npt.NDArray[np.float32]:
    """Return the upper quartile of each cell's values: (cell + 1,)."""
    order = np.lexsort((values, cells))
    stops = np.cumsum(np.bincount(cells, minlength=count + 1))
    sizes = np.diff(stops, prepend=0)
    place = np.clip(stops - 1 - sizes // 4, 0, len(values) - 1)
    return values[order][place]


def _numbered(labels: Labels) -> Labels:
    """Return the labels numbered from 1 in the order of their first pixels."""
    there = np.flatnonzero(labels)
    values, first = np.unique(labels.ravel()[there], return_index=True)
    lookup = np.zeros(int(labels.max(initial=0)) + 1, np.int32)
    lookup[values[np.argsort(first)]] = np.arange(1, len(values) + 1)
    return np.asarray(lookup[labels], np.int32)
