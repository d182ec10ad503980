"""From crops in camera counts to what a network reads: channels, pixel size, window size.

Pure: arrays in, arrays out. The normalisation belongs to the model's spec, the composition of
backgrounds to `settings`.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

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
    pixels = torch.from_numpy(image)
    labels = torch.from_numpy(masks.astype(np.float32))[:, None]
    if factor != 1.0:
        target = [max(round(n * factor), 1) for n in crops.shape[-2:]]
        pixels = functional.interpolate(
            pixels, size=target, mode="bilinear", antialias=True, align_corners=False
        )
        labels = functional.interpolate(labels, size=target, mode="nearest-exact")
    pixels, labels = (_cut_or_pad(a, size_px) for a in (pixels, labels))
    return pixels.numpy(), labels[:, 0].numpy().astype(np.uint8)


def _cut_or_pad(images: torch.Tensor, size_px: int) -> torch.Tensor:
    """Return the central window; where the image is smaller, its edge is repeated."""
    height, width = images.shape[-2:]
    pads = []
    for n in (width, height):
        # the centre of a window of n pixels is pixel n // 2
        before = size_px // 2 - n // 2
        pads += [before, size_px - n - before]
    grown = functional.pad(images, [max(p, 0) for p in pads], mode="replicate")
    left, top = max(-pads[0], 0), max(-pads[2], 0)
    return grown[..., top : top + size_px, left : left + size_px].contiguous()
