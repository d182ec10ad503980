"""From crops in camera counts to what a network reads: channels, pixel size, window size.

Pure: arrays in, arrays out. The normalisation belongs to the model's spec, the composition of
backgrounds to `settings`.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from bgscale.models.spec import ModelSpec

SAME_PIXEL_SIZE = 0.01
"""Pixel sizes that differ by less than this share are taken as equal."""


def zoom(spec: ModelSpec, pixel_size_um: float | None) -> float:
    """Return the factor by which crops are enlarged for the model; 1 where a size is not known."""
    if not pixel_size_um or not spec.pixel_size_um:
        return 1.0
    factor = pixel_size_um / spec.pixel_size_um
    return 1.0 if abs(factor - 1) < SAME_PIXEL_SIZE else factor


def fit_window(
    crops: npt.NDArray[Any], masks: npt.NDArray[np.uint8], *, size_px: int, factor: float = 1.0
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]:
    """Rescale crops about their centre and cut or pad them to the model's window.

    Parameters
    ----------
    crops : array (cell, channel, y, x), counts
    masks : array (cell, y, x), uint8
    size_px : int
        Side of the model's input window.
    factor : float
        Enlargement; below 1 the crop shrinks and its edge pixels are repeated around it.

    Returns
    -------
    crops : array (cell, channel, size_px, size_px), float32
    masks : array (cell, size_px, size_px), uint8
        By nearest neighbour.

    Examples
    --------
    >>> crops, masks = np.ones((2, 1, 64, 64)), np.ones((2, 64, 64), np.uint8)
    >>> [a.shape for a in fit_window(crops, masks, size_px=64, factor=0.5)]
    [(2, 1, 64, 64), (2, 64, 64)]
    """
    image = np.ascontiguousarray(crops, np.float32)
    if factor == 1.0 and crops.shape[-2:] == (size_px, size_px):
        return image, masks
    height, width = crops.shape[-2:]
    rows, columns = (_weights(n, size_px, factor) for n in (height, width))
    y, x = (_nearest(n, size_px, factor) for n in (height, width))
    # matmul goes image by image: what a crop becomes does not depend on how many there are
    return np.matmul(np.matmul(rows, image), columns.T), masks[:, y[:, None], x]


def _places(n: int, size_px: int, factor: float) -> npt.NDArray[np.float64]:
    """Return where the window's pixels lie in an image of n pixels, beyond its edges too.

    The centre of n pixels is pixel ``n // 2``: it stays the centre at every size and factor.
    """
    return n // 2 + (np.arange(size_px) - size_px // 2) / factor


def _nearest(n: int, size_px: int, factor: float) -> npt.NDArray[np.int64]:
    places = np.floor(_places(n, size_px, factor) + 0.5).astype(np.int64)
    return np.clip(places, 0, n - 1)


def _weights(n: int, size_px: int, factor: float) -> npt.NDArray[np.float32]:
    """Return the linear interpolation along one axis: (size_px, n), rows sum to 1.

    Below factor 1 the triangle is widened, so that shrinking averages and does not alias.
    """
    places = _places(n, size_px, factor)
    reach = max(1.0, 1 / factor)
    out = np.zeros((size_px, n))
    span = np.arange(-int(reach) - 1, int(reach) + 2)
    near = np.floor(places).astype(np.int64)[:, None] + span
    triangle = np.maximum(1 - np.abs(near - places[:, None]) / reach, 0)
    # what lies beyond an edge reads the edge pixel
    np.add.at(out, (np.arange(size_px)[:, None], np.clip(near, 0, n - 1)), triangle)
    weights: npt.NDArray[np.float32] = (out / out.sum(1, keepdims=True)).astype(np.float32)
    return weights
