"""Where the centre cell of a cut crop is, and where its neighbours are.

Owns masks of crops: 0 medium, 1 centre cell, 2 other cells. Whole fields come with plates. The
classical chain: smooth, threshold, distance transform, watershed.
"""

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from skimage import segmentation

from bgscale.errors import InputError
from bgscale.schema import CENTRE_CELL, MEDIUM, OTHER_CELL

SMOOTHING_PX = 1.5
SEAM_PX, SEAM_CURVATURE = 2.0, 0.006
"""Width of the dark seam between touching cells, and how bent it is, of the brightest level."""
SEED_DISTANCE_PX = 7
MIN_CELL_PX = 60
DIM_CELL_DEPTH_PX = 4
"""How deep a cell that only the faint threshold shows is at least; haze around cells is thinner."""
CENTRE_REACH_PX = 4
"""The centre cell comes at least this near to the middle of its crop."""
RIM_PX = 2
"""How far a cell's own blurred edge may reach beyond the threshold."""
FAINTEST = 0.02
"""Share of the brightest pixel below which differences do not count."""
MIN_CONTRAST = 3.6
"""Cells minus medium, in standard deviations of the medium: noise alone reaches 3.3."""
MIN_SLOPE_PER_PX = 0.055
"""Slope at the cells' edge, as a share of that difference: uneven light alone reaches 0.045."""
LEVELS = 256
CROSS = ndimage.generate_binary_structure(2, 1)
SQUARE = ndimage.generate_binary_structure(2, 2)

Mask: TypeAlias = npt.NDArray[np.uint8]
Labels: TypeAlias = npt.NDArray[np.int32]
Bools: TypeAlias = npt.NDArray[np.bool_]
Image: TypeAlias = npt.NDArray[np.float64]

_watershed: Any = segmentation.watershed


def cells_of(image: npt.NDArray[Any]) -> tuple[Labels, Bools]:
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
    bright = level > _otsu(level)
    if not _stands_out(smooth, bright, ~bright):
        return nothing
    faint = np.log(smooth + FAINTEST * smooth.max())
    foreground = ndimage.binary_opening(faint > _otsu(faint), CROSS) | bright
    bright = ndimage.binary_fill_holes(ndimage.binary_opening(bright, CROSS, iterations=2))
    # a seam goes through from edge to edge; a vacuole is a hole, and filled
    seam = ndimage.gaussian_laplace(level, SEAM_PX) > SEAM_CURVATURE * level.max()
    core = ndimage.binary_fill_holes(ndimage.binary_opening(bright & ~seam, CROSS))
    distance = ndimage.gaussian_filter(ndimage.distance_transform_edt(core), 1.0)
    seeds = bright & (distance == ndimage.maximum_filter(distance, 2 * SEED_DISTANCE_PX + 1))
    markers, _ = ndimage.label(seeds, SQUARE)
    # cells part where it is thin and where it is dark between them
    labels = _watershed(-distance * level, markers, mask=bright)
    areas = np.bincount(labels.ravel())
    labels[(areas < MIN_CELL_PX)[labels]] = 0
    # crops are cut around a cell: where none is seen it may be dim beside its neighbours
    middle = tuple(slice(n // 2 - CENTRE_REACH_PX, n // 2 + CENTRE_REACH_PX) for n in image.shape)
    if not labels[middle].any():
        labels, foreground = _with_dim_cells(labels, foreground, smooth, level)
    return _with_rims(labels, foreground), foreground


def _otsu(values: Image) -> float:
    """Return Otsu's threshold: the one that makes the variance between both sides largest."""
    low, high = values.min(), values.max()
    # divided, not multiplied: the largest value must come out as exactly the last level
    bins = ((values - low) / (high - low) * (LEVELS - 1)).astype(np.int64)
    count = np.bincount(bins.ravel(), minlength=LEVELS).astype(np.float64)
    below = np.cumsum(count)[:-1]
    above = count.sum() - below
    weight = np.cumsum(count * np.arange(LEVELS))
    apart = weight[:-1] / below - (weight[-1] - weight[:-1]) / above
    best = int((below * above * apart**2).argmax())
    # a hair below the next level, which is above the threshold even where it is the largest value
    return float(low + (best + 1 - 1e-9) * (high - low) / (LEVELS - 1))


def _stands_out(smooth: Image, part: Bools, around: Bools) -> bool:
    """Return whether a part has more light, and an edge: not noise, and not uneven light."""
    outside = smooth[around]
    contrast = smooth[part].mean() - outside.mean()
    if contrast < MIN_CONTRAST * outside.std():
        return False
    edge = part & ndimage.binary_dilation(around, CROSS)
    slope = np.hypot(*np.gradient(smooth))[edge]
    return bool(slope.size and slope.mean() >= MIN_SLOPE_PER_PX * contrast)


def _with_dim_cells(
    labels: Labels, foreground: Bools, smooth: Image, level: Image
) -> tuple[Labels, Bools]:
    """Return labels and foreground with cells that are dim beside the others, apart from them."""
    dark = ~ndimage.binary_dilation(foreground, CROSS, iterations=2 * RIM_PX)
    rest = foreground & ~grown(labels > 0)
    if dark.any() and np.ptp(level[dark]) > 0:
        rest |= dark & (level > _otsu(level[dark]))
    parts, count = ndimage.label(ndimage.binary_opening(rest, CROSS, iterations=2))
    if not count:
        return labels, foreground
    depth = ndimage.distance_transform_edt(rest)
    medium = ~foreground & ~rest
    for number in range(1, count + 1):
        part = parts == number
        large = part.sum() >= MIN_CELL_PX and depth[part].max() >= DIM_CELL_DEPTH_PX
        if large and medium.any() and _stands_out(smooth, part, medium):
            labels[part] = labels.max() + 1
    return labels, foreground | (labels > 0)


def _with_rims(labels: Labels, foreground: Bools) -> Labels:
    """Return the labels grown into the foreground around them; a pixel goes to the nearest."""
    distance, (y, x) = ndimage.distance_transform_edt(labels == 0, return_indices=True)
    return np.where(foreground & (distance <= RIM_PX), labels[y, x], labels).astype(np.int32)


def grown(cells: Bools) -> Bools:
    """Return the cells with their rim."""
    return np.asarray(ndimage.binary_dilation(cells, CROSS, iterations=RIM_PX))


def centre_mask(labels: npt.NDArray[Any]) -> Mask:
    """Return the mask of a crop from instance labels.

    The label nearest to the middle of the crop, at most `CENTRE_REACH_PX` away, is the centre cell;
    of labels equally near, the one whose own middle is nearer. Where there is none the mask has
    no 1.

    Examples
    --------
    >>> labels = np.zeros((8, 8), int)
    >>> labels[3:6, 3:6], labels[:2, :2] = 7, 3
    >>> centre_mask(labels)[4].tolist()
    [0, 0, 0, 1, 1, 1, 0, 0]
    """
    mask = np.where(labels > 0, OTHER_CELL, MEDIUM).astype(np.uint8)
    y, x = np.nonzero(mask)
    if not len(y):
        return mask
    y_off, x_off = y - labels.shape[0] // 2, x - labels.shape[1] // 2
    square = y_off**2 + x_off**2
    if square.min() > CENTRE_REACH_PX**2:
        return mask
    members = labels[y, x]
    nearest = np.unique(members[square == square.min()])
    middles = [
        np.hypot(y_off[members == label].mean(), x_off[members == label].mean())
        for label in nearest
    ]
    mask[labels == nearest[int(np.argmin(middles))]] = CENTRE_CELL
    return mask


def mask_of(raw: npt.NDArray[Any] | None, cytosol: npt.NDArray[Any] | None) -> Mask:
    """Return the mask of a crop from its mask file, from its cytosol channel, or from both.

    Parameters
    ----------
    raw : array (y, x), optional
        As the file has it: instance labels, or one value (such as 255) beside 0, whose connected
        part at the middle of the crop is the centre cell. Neighbours that such a file does not
        show are segmented.
    cytosol : array (y, x), optional
    """
    if raw is not None:
        instances = len(np.unique(raw[raw > 0])) > 1
        # one cell's pixels may meet at corners only
        labels = raw if instances else ndimage.label(raw > 0, SQUARE)[0]
        mask = centre_mask(labels)
        if cytosol is not None and not instances:
            mask[_neighbours(cytosol, mask)] = OTHER_CELL
        return mask
    if cytosol is None:
        msg = "neither a mask file nor a cytosol channel to find cells in"
        raise InputError(msg)
    labels, foreground = cells_of(cytosol)
    mask = centre_mask(labels)
    mask[foreground & (mask == MEDIUM)] = OTHER_CELL
    return mask


def _neighbours(cytosol: npt.NDArray[Any], mask: Mask) -> Bools:
    """Return where the cytosol shows cells that the mask does not, but for the rim of its own."""
    labels, foreground = cells_of(cytosol)
    shown = mask != MEDIUM
    count = int(labels.max()) + 1
    inside = np.bincount(labels[shown], minlength=count)
    own = inside > np.bincount(labels.ravel(), minlength=count) / 2
    own[0] = True
    rest = foreground & ~shown & ~(grown(shown) & own[labels])
    # what is left of a rim that reaches further is thin
    return np.asarray(ndimage.binary_opening(rest, CROSS))


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
        out[i] = mask_of(None if raw is None else raw[i], None if cytosol is None else cytosol[i])
    return out, (out == CENTRE_CELL).any((1, 2))
