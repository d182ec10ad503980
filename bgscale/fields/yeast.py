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
import numpy as np
import numpy.typing as npt

from bgscale.errors import ConfigError, InputError, nearest
from bgscale.fields.labels import Labels
from bgscale.fields.parting import CROSS, Image, Parts, blurred, disk, parted

SHOWN_IN = ("cytosol", "nucleus", "protein")
"""The first channel that is there is segmented; without cytosol cells are found by what light they
have, which is less sure."""
PIXEL_UM = 0.2
"""Taken where the size of a pixel is not known."""
CLEAR = 2.5
"""A cell's own light over the contrast that its faintest pixel has at least: haze has less."""
HAZE = 0.15
"""Light between cells, as a share of theirs, that is taken for medium at most."""
BELOW, SURFACE_ROUNDS = 0.05, 8
"""Share of blocks that lie below the medium's surface, were none of them full of cells."""
LEAST_NOISE = 1e-4
"""Of the brightest pixel: images made by computers have medium without noise."""
FLOAT_ROUNDING = 1e-6
DARKEST = 0.2
"""Share of pixels whose grain is looked at: there is so much medium in the fullest field."""
SAMPLE = 40_000
"""Pixels that a histogram is made of, about."""
_BLOCK, _LEVELS = 9, 512


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
    bud : float
        A bud is part of its mother up to this share of her diameter; 0.01 keeps all apart.

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
    edge: float = 0.15
    bud: float = 0.7

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
        role = next((role for role in SHOWN_IN if role in channels), None)
        if role is None:
            msg = f"channels are {', '.join(channels) or 'none'}; to find cells, one must be "
            raise InputError(msg + ", ".join(SHOWN_IN))
        plane = np.ascontiguousarray(image[list(channels).index(role)], np.float32)
        threads = cv2.getNumThreads()
        cv2.setNumThreads(1)
        try:
            return self._cells(plane, self.diameter_um / (pixel_size_um or PIXEL_UM))
        finally:
            cv2.setNumThreads(threads)

    def _cells(self, plane: Image, diameter_px: float) -> Labels:
        nothing = np.zeros(plane.shape, np.int32)
        # a pixel alone is the camera's
        smooth = blurred(cv2.medianBlur(plane, 3), 0.04 * diameter_px)
        light, noise = without_medium(smooth, diameter_px)
        if noise <= 0:
            return nothing
        level = np.maximum(light, np.float32(0))
        level *= np.float32(1 / (self.contrast * noise))
        level += 1
        level = cv2.log(level, dst=level)
        threshold = max(_otsu(_sample(level)), float(np.log(2.0)))
        above = (level > threshold).view(np.uint8)
        mask = cv2.morphologyEx(above, cv2.MORPH_OPEN, disk(0.05 * diameter_px))
        if not mask.any():
            return nothing
        parts = parted(mask, level, light, diameter_px, bud=self.bud)
        smallest_px = np.pi / 4 * (diameter_px * self.smallest_um / self.diameter_um) ** 2
        return self._outlined(parts, light, CLEAR * self.contrast * noise, smallest_px)

    def _outlined(self, parts: Parts, light: Image, dimmest: float, smallest_px: float) -> Labels:
        """Draw each cell as one piece without holes, as far as its own light reaches.

        Left out is what is too small or too dim.
        """
        cells = []
        for label, box in parts.boxes.items():
            if parts.light[label] < dimmest or parts.area[label] < smallest_px:
                continue
            here = parts.labels[box]
            own = here == label
            body = (own & (light[box] > np.float32(self.edge * parts.light[label]))).view(np.uint8)
            body = cv2.morphologyEx(body, cv2.MORPH_OPEN, CROSS)
            outlines, _ = cv2.findContours(body, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
            if not outlines:
                continue
            if len(outlines) > 1:
                outlines = [max(outlines, key=cv2.contourArea)]
                body[:] = 0
            body = cv2.drawContours(body, outlines, 0, 1, cv2.FILLED)
            cell = body.view(bool) & (own | (here == 0))
            if np.count_nonzero(cell) < smallest_px:
                continue
            y, x = divmod(int(cell.argmax()), cell.shape[1])
            cells.append(((box[0].start + y, box[1].start + x), box, cell))
        drawn = np.zeros(light.shape, np.int32)
        for number, (_, box, cell) in enumerate(sorted(cells, key=lambda one: one[0]), 1):
            drawn[box][cell] = number
        return drawn


def without_medium(smooth: Image, diameter_px: float) -> tuple[Image, float]:
    """Take the medium's uneven light away.

    The medium is what is darkest in blocks, a cell and a half wide, and around them; where there
    are cells only, not much more than a smooth surface under the whole field.

    Returns
    -------
    light : array (y, x), float32
        Above the medium.
    noise : float
        Standard deviation of the medium, 0 where all is the same.
    """
    rows, columns = (max(round(n / (1.5 * diameter_px)), 1) for n in smooth.shape)
    step = max(int(diameter_px / 8), 1)
    small = np.ascontiguousarray(smooth[::step, ::step])
    small = cv2.resize(small, (columns * _BLOCK, rows * _BLOCK), interpolation=cv2.INTER_AREA)
    blocks = small.reshape(rows, _BLOCK, columns, _BLOCK).swapaxes(1, 2).reshape(rows, columns, -1)
    rank = blocks.shape[2] // 10
    low = np.partition(blocks, rank, axis=2)[:, :, rank]
    surface = _surface(low)
    brightest = np.quantile(_sample(small), 0.99, method="lower")
    around = cv2.dilate(cv2.erode(low, np.ones((5, 5), np.uint8)), np.ones((3, 3), np.uint8))
    around = cv2.GaussianBlur(around, (0, 0), 1.5)
    most = surface + np.float32(HAZE) * np.maximum(brightest - surface, 0)
    medium = cv2.resize(
        np.minimum(around, most), smooth.shape[::-1], interpolation=cv2.INTER_LINEAR
    )
    light = smooth - medium
    sample = _sample(light)
    centre = _mode(sample)
    lower = sample[sample < centre]
    noise = 1.4826 * float(np.median(centre - lower)) if len(lower) else 0.0
    light -= np.float32(centre)
    rounding = FLOAT_ROUNDING * float(np.abs(sample).max() + np.abs(low).max())
    least = max(LEAST_NOISE * float(light.max()), rounding, _grain(light, diameter_px))
    return light, max(noise, least)


def _grain(light: Image, diameter_px: float) -> float:
    """Return the spread of nearby pixels among the darkest: less than the medium's noise."""
    step, apart = _step(light), max(round(0.1 * diameter_px), 1)
    here, there = light[::step, :-apart:step], light[::step, apart::step]
    dark = np.quantile(here, DARKEST) if here.size else 0.0
    both = (here <= dark) & (there <= dark)
    if not both.any():
        return 0.0
    return float(1.4826 / np.sqrt(2) * np.median(np.abs(here[both] - there[both])))


def _surface(low: Image) -> Image:
    """Fit a surface of second order from below: blocks full of cells hardly count."""
    rows, columns = low.shape
    y, x = np.meshgrid(np.linspace(-1, 1, rows), np.linspace(-1, 1, columns), indexing="ij")
    terms = np.stack([np.ones_like(y), y, x, y * y, y * x, x * x], -1).reshape(-1, 6)
    least = float(low.min())
    values = low.ravel().astype(np.float64) - least
    scale = float(values.max()) or 1.0
    fitted = np.zeros(len(values))
    for _ in range(SURFACE_ROUNDS):
        above = (values - fitted) / scale
        weight = np.where(above > 0, BELOW, 1 - BELOW) / (np.abs(above) + 1e-3)
        moment = terms.T @ (terms * weight[:, None]) + 1e-6 * np.eye(6)
        fitted = terms @ np.linalg.solve(moment, terms.T @ (weight * values))
    return (fitted + least).reshape(rows, columns).astype(np.float32)


def _step(image: Image) -> int:
    return max(int(np.sqrt(image.size / SAMPLE)), 1)


def _sample(image: Image) -> Image:
    return image[:: _step(image), :: _step(image)].ravel()


def _mode(values: Image) -> float:
    """Return the most frequent value: the medium's, of light without its uneven part.

    In a field full of cells their light is more frequent, so only the lower half is looked at.
    """
    lowest, most, brightest = np.quantile(values, (0.001, 0.9, 0.99)).tolist()
    counts, low, width = _histogram(values, lowest, min(most, brightest / 2))
    smooth = np.convolve(counts, np.ones(17) / 17, "same")
    return low + (int(smooth.argmax()) + 0.5) * width


def _otsu(values: Image) -> float:
    """Return the threshold that makes the variance between both sides largest (Otsu 1979)."""
    counts, low, width = _histogram(values, float(values.min()), float(values.max()))
    below = np.cumsum(counts)[:-1].astype(np.float64)
    above = counts.sum() - below
    weight = np.cumsum(counts * np.arange(_LEVELS))
    with np.errstate(divide="ignore", invalid="ignore"):
        apart = weight[:-1] / below - (weight[-1] - weight[:-1]) / above
        between = np.nan_to_num(below * above * apart**2)
    return low + (1 + int(between.argmax())) * width


def _histogram(
    values: Image, low: float, high: float
) -> tuple[npt.NDArray[np.int64], float, float]:
    """Return counts of the values between two ends, the first end, and the width of a bin."""
    width = (high - low if high > low else 1.0) / _LEVELS
    bins = (values - np.float32(low)) / np.float32(width)
    bins = bins[(bins >= 0) & (bins < _LEVELS)].astype(np.int32)
    return np.bincount(bins, minlength=_LEVELS), low, width
