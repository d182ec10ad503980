"""Where the centre cell of a cut crop is, and where its neighbours are.

Owns masks of crops: 0 medium, 1 centre cell, 2 other cells. Whole fields come with plates. The
classical chain (smooth, threshold, distance transform, watershed) is scikit-image's and SciPy's.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from skimage.feature import peak_local_max
from skimage.filters import threshold_otsu
from skimage.segmentation import watershed

from bgscale.errors import InputError
from bgscale.schema import CENTRE_CELL, MEDIUM, OTHER_CELL

SMOOTHING_PX = 1.5
SEED_DISTANCE_PX = 7
MIN_CELL_PX = 60
CENTRE_REACH_PX = 8
"""The centre cell comes at least this near to the middle of its crop."""
RIM_PX = 2
"""How far a cell's own blurred edge may reach beyond the threshold."""
FAINTEST = 0.02
"""Share of the brightest pixel below which differences do not count."""
MIN_CONTRAST = 3.0
"""Difference of cells and medium, in standard deviations of the medium, below which none is seen."""

Mask = npt.NDArray[np.uint8]


def cells_of(image: npt.NDArray[Any]) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.bool_]]:
    """Return the cells of one small image, and everything that is no medium.

    Parameters
    ----------
    image : array (y, x), counts
        A channel that shows whole cells.

    Returns
    -------
    labels : array (y, x), int32
        One number a cell; fragments at the edge, too small to be told, have none.
    foreground : array (y, x), bool
        Cells and fragments, the dim ones too.
    """
    smooth = ndimage.gaussian_filter(image.astype(np.float64), SMOOTHING_PX, mode="nearest")
    nothing = np.zeros(image.shape, np.int32), np.zeros(image.shape, bool)
    smooth -= smooth.min()
    if smooth.max() == 0:
        return nothing
    # the root brings dim and bright cells together, the logarithm the dimmest too
    level = np.sqrt(smooth)
    bright = level > threshold_otsu(level)
    outside = smooth[~bright]
    if smooth[bright].mean() - outside.mean() < MIN_CONTRAST * outside.std():
        return nothing
    faint = np.log(smooth + FAINTEST * smooth.max())
    foreground = ndimage.binary_opening(faint > threshold_otsu(faint), iterations=1) | bright
    bright = ndimage.binary_fill_holes(ndimage.binary_opening(bright, iterations=2))
    distance = ndimage.gaussian_filter(ndimage.distance_transform_edt(bright), 1.0)
    seeds = peak_local_max(
        distance, min_distance=SEED_DISTANCE_PX, labels=bright.astype(int), exclude_border=False
    )
    markers = np.zeros(image.shape, np.int32)
    markers[tuple(seeds.T)] = np.arange(1, len(seeds) + 1)
    # cells part where it is thin and where it is dark between them
    labels = watershed(-distance * level, markers, mask=bright)
    areas = np.bincount(labels.ravel())
    labels[(areas < MIN_CELL_PX)[labels]] = 0
    labels = watershed(-level, labels, mask=foreground & (grown(labels > 0)))
    return np.asarray(labels, np.int32), foreground


def grown(cells: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Return the cells with their rim."""
    return np.asarray(ndimage.binary_dilation(cells, iterations=RIM_PX))


def centre_mask(labels: npt.NDArray[Any]) -> Mask:
    """Return the mask of a crop from instance labels.

    The label nearest to the middle of the crop, at most `CENTRE_REACH_PX` away, is the centre cell;
    where there is none the mask has no 1.

    Examples
    --------
    >>> labels = np.zeros((8, 8), int)
    >>> labels[3:6, 3:6], labels[:2, :2] = 7, 3
    >>> centre_mask(labels)[4].tolist()
    [0, 0, 0, 1, 1, 1, 0, 0]
    """
    mask = np.where(labels > 0, OTHER_CELL, MEDIUM).astype(np.uint8)
    y, x = np.nonzero(labels)
    if len(y):
        middle = labels.shape[0] // 2, labels.shape[1] // 2
        distance = np.hypot(y - middle[0], x - middle[1])
        # of pixels equally near, the label with the nearer centre of mass
        nearest = int(distance.argmin())
        if distance[nearest] <= CENTRE_REACH_PX:
            mask[labels == labels[y[nearest], x[nearest]]] = CENTRE_CELL
    return mask


def mask_of(raw: npt.NDArray[Any] | None, cytosol: npt.NDArray[Any] | None) -> Mask:
    """Return the mask of a crop from its mask file, from its cytosol channel, or from both.

    Parameters
    ----------
    raw : array (y, x), optional
        As the file has it: instance labels, or two values (0 and 255), whose part at the middle of
        the crop is the centre cell. Neighbours that it does not show are segmented.
    cytosol : array (y, x), optional
    """
    if raw is None and cytosol is None:
        msg = "neither a mask file nor a cytosol channel to find cells in"
        raise InputError(msg)
    if raw is None:
        labels, foreground = cells_of(cytosol)
    else:
        values = np.unique(raw)
        labels = raw.astype(np.int64) if len(values) > 2 else ndimage.label(raw > 0)[0]
        foreground = labels > 0
        if cytosol is not None and len(values) <= 2:
            foreground = foreground | (cells_of(cytosol)[1] & ~grown(foreground))
    mask = centre_mask(labels)
    mask[foreground & (mask == MEDIUM)] = OTHER_CELL
    return mask


def masks(
    cytosol: npt.NDArray[Any] | None, raw: npt.NDArray[Any] | None, readable: npt.NDArray[np.bool_]
) -> tuple[Mask, npt.NDArray[np.bool_]]:
    """Return the masks of a block of crops, and which have a centre cell.

    Parameters
    ----------
    cytosol : array (cell, y, x), optional
    raw : array (cell, y, x), optional
        Mask files.
    readable : array (cell,), bool
        The others get an empty mask.

    Returns
    -------
    mask : array (cell, y, x), uint8
    found : array (cell,), bool
    """
    source = cytosol if raw is None else raw
    if source is None:
        msg = "neither mask files nor a cytosol channel to find cells in"
        raise InputError(msg)
    out = np.zeros(source.shape, np.uint8)
    for i in np.flatnonzero(readable):
        out[i] = mask_of(
            None if raw is None else raw[i], None if cytosol is None else cytosol[i]
        )
    return out, (out == CENTRE_CELL).any((1, 2))
