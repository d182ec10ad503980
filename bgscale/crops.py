"""Kernels on single-cell crops: intensity ranges, what surrounds a cell, and medium without cells.

Pure: arrays in, arrays out. Segmentation belongs to `segment`, swapping to `settings`.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from bgscale.draw import UInt64Array, integers
from bgscale.schema import CENTRE_CELL, MEDIUM, OTHER_CELL

RANGE_PERCENTILES = (0.1, 99.9)
FAR_WEIGHT = 0.01
"""Share of medium around a pixel below which the mean of all medium counts more than it."""
HALO_PX = 4
"""Medium this near to a cell carries its blur and is not taken for medium."""
MIN_MEDIUM_PX = 200
"""A crop with less medium, counted beyond the halo of its cells, makes no cell-free window."""
OUTLIER_SPREADS = 6.0
"""Median absolute deviations, scaled to standard deviations, beyond which medium stands out."""
SMOOTHING_PX = 8.0
"""Standard deviation of what counts as uneven illumination and haze; finer is noise."""


def intensity_range(images: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Return the 0.1 and 99.9 percentiles of all pixels, by channel.

    Parameters
    ----------
    images : array (cell, channel, y, x), counts

    Returns
    -------
    array (channel, bound), float32
    """
    pixels = np.moveaxis(images, 1, 0).reshape(images.shape[1], -1)
    return np.asarray(np.percentile(pixels, RANGE_PERCENTILES, axis=1).T, np.float32)


def usable_medium(mask: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    """Return where there is medium beyond the halo of cells: (..., y, x), bool."""
    return ~_with_halo(mask != MEDIUM)


def _with_halo(where: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    width = 2 * HALO_PX + 1
    return np.asarray(ndimage.maximum_filter(where, size=width, axes=(-2, -1)), bool)


def measure(mask: npt.NDArray[np.uint8]) -> dict[str, npt.NDArray[np.int32]]:
    """Return areas and number of neighbours of each crop.

    Parameters
    ----------
    mask : array (cell, y, x), uint8
        0 medium, 1 centre cell, 2 other cells.

    Returns
    -------
    dict of str to array (cell,), int32
        ``area``, ``neighbour_area``, ``medium_area`` (beyond the cells' halo), in pixels, and
        ``neighbours``, the number of connected parts of other cells.
    """
    neighbours = [ndimage.label(m == OTHER_CELL)[1] for m in mask]
    areas = {
        "area": mask == CENTRE_CELL,
        "neighbour_area": mask == OTHER_CELL,
        "medium_area": usable_medium(mask),
    }
    out = {name: where.sum((1, 2), dtype=np.int32) for name, where in areas.items()}
    return out | {"neighbours": np.array(neighbours, np.int32)}


def fill_with_medium(
    image: npt.NDArray[Any], *, hole: npt.NDArray[np.bool_], mask: npt.NDArray[np.uint8], cell: int
) -> npt.NDArray[Any] | None:
    """Replace pixels by synthetic medium of the same crop.

    The medium beyond the cells' halo is taken apart into a smooth part (uneven light, haze) and
    residuals (noise). The hole, with its halo, gets the smooth part continued under it, by
    normalised convolution, plus residuals drawn from the crop's own medium: the same pixel for all
    channels, by the identity of the cell. Illumination, haze and noise of the image stay; what is
    left of neighbouring cells' sharp light does not.

    Parameters
    ----------
    image : array (channel, y, x), counts
    hole : array (y, x), bool
        Pixels to replace; their halo is replaced as well, as far as it shows no other cell. Where
        no cell is left, medium that stands out of the rest (a cell that was missed) goes too.
    mask : array (y, x), uint8
        0 medium, 1 centre cell, 2 other cells.
    cell : int
        Identity of the cell.

    Returns
    -------
    array (channel, y, x) of the image's dtype, or None
        None where there is too little medium (`MIN_MEDIUM_PX`).
    """
    medium = usable_medium(mask)
    if medium.sum() < MIN_MEDIUM_PX:
        return None
    medium &= ~_outliers(image, medium)
    smooth = _smooth(image.astype(np.float64), medium)
    where = np.flatnonzero(medium)
    residual = (image - smooth).reshape(len(image), -1)[:, where]
    residual -= residual.mean(1, keepdims=True)
    kept = (mask != MEDIUM) & ~hole
    grown = _with_halo(hole) & ~kept
    if not kept.any():
        # no cell is to be seen: what stands out of the medium is light of one
        grown |= ~medium
    target = np.flatnonzero(grown)
    ids: UInt64Array = target.astype(np.uint64)
    drawn = residual[:, integers(cell, "medium", ids, len(where))]
    out = image.copy().reshape(len(image), -1)
    values = smooth.reshape(len(image), -1)[:, target] + drawn
    if np.issubdtype(image.dtype, np.integer):
        limits = np.iinfo(image.dtype)
        values = np.clip(np.rint(values), limits.min, limits.max)
    out[:, target] = values.astype(image.dtype)
    return out.reshape(image.shape)


def _outliers(image: npt.NDArray[Any], medium: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Return medium that stands out of the rest in any channel: debris, a cell that was missed."""
    blurred = ndimage.gaussian_filter(image.astype(np.float64), (0, 1, 1), mode="nearest")
    out = np.zeros(medium.shape, bool)
    for plane in blurred:
        middle = np.median(plane[medium])
        spread = 1.4826 * np.median(np.abs(plane[medium] - middle))
        # where most pixels are equal, the few that are not are noise too
        spread = spread or plane[medium].std()
        out |= medium & (np.abs(plane - middle) > OUTLIER_SPREADS * spread)
    # uneven haze may make many: then it is the medium
    return out if out.sum() < medium.sum() / 4 else np.zeros_like(out)


def _smooth(image: npt.NDArray[np.float64], medium: npt.NDArray[np.bool_]) -> npt.NDArray[Any]:
    """Return the medium's smooth part everywhere: a normalised convolution of its pixels.

    Far from all medium it turns into the medium's mean, without a step.
    """
    weight = ndimage.gaussian_filter(medium.astype(np.float64), SMOOTHING_PX, mode="nearest")
    out = np.empty_like(image)
    for channel, plane in enumerate(image):
        mean = plane[medium].mean()
        total = ndimage.gaussian_filter((plane - mean) * medium, SMOOTHING_PX, mode="nearest")
        out[channel] = mean + total / (weight + FAR_WEIGHT)
    return out
