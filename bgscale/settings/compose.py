"""How a background is put around the centre cell, whose pixels stay exactly as imaged."""

from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from bgscale.errors import InputError
from bgscale.schema import CENTRE_CELL

Floats: TypeAlias = npt.NDArray[np.float32]
Ints: TypeAlias = npt.NDArray[np.int64]


def compose(
    centre: npt.NDArray[Any],
    mask: npt.NDArray[np.uint8],
    donor: npt.NDArray[Any],
    *,
    centre_range: Floats | None = None,
    donor_range: Floats | None = None,
) -> Floats:
    """Put each centre cell on its donor's background.

    Parameters
    ----------
    centre, donor : array (cell, channel, y, x), camera counts
    mask : array (cell, y, x), uint8
        1 is the centre cell.
    centre_range, donor_range : array (cell, channel, 2), float32, optional
        Low and high end of the intensities of the centre's and of the donor's protein; the donor is
        mapped affinely from its own range onto the centre's (shifted only, where its own is a
        single value). None leaves it as imaged.

    Returns
    -------
    array (cell, channel, y, x), float32
        Foreground exactly as imaged; the donor's own centre cell stays where it is not covered.

    Examples
    --------
    >>> centre, donor = np.full((1, 1, 2, 2), 7.0), np.full((1, 1, 2, 2), 3.0)
    >>> mask = np.array([[[1, 0], [0, 2]]], np.uint8)
    >>> compose(centre, mask, donor)[0, 0].tolist()
    [[7.0, 3.0], [3.0, 3.0]]
    """
    if centre.shape != donor.shape:
        msg = f"centre has shape {centre.shape}, donor {donor.shape}; expected the same"
        raise InputError(msg)
    every = np.arange(len(centre))
    channels = np.arange(centre.shape[1])
    scale = None
    if centre_range is not None and donor_range is not None:
        scale = scaling(centre_range, donor_range)
    out = np.empty(centre.shape, np.float32)
    compose_into(out, centre, mask, donor, every, every, channels, scale)
    return out


def scaling(centre_range: Floats, donor_range: Floats) -> Floats:
    """Return what maps donors onto the ranges of the centres' proteins.

    Parameters
    ----------
    centre_range, donor_range : array (cell, channel, 2), float32
        Low and high end of each.

    Returns
    -------
    array (cell, channel, 3), float32
        Low end of the donor; gain, 1 where the donor's range is a single value; low end of the
        centre. The low end is taken off first: gain * counts + offset would round at the offset's
        size.
    """
    old, new = donor_range.astype(np.float32), centre_range.astype(np.float32)
    old_span, new_span = old[..., 1] - old[..., 0], new[..., 1] - new[..., 0]
    ranged = old_span > 0
    gain = np.where(ranged, new_span, 1) / np.where(ranged, old_span, 1)
    return np.stack([old[..., 0], gain.astype(np.float32), new[..., 0]], axis=-1)


def compose_into(
    out: Floats,
    image: npt.NDArray[Any],
    mask: npt.NDArray[np.uint8],
    bank: npt.NDArray[Any],
    rows: Ints,
    donors: Ints,
    channels: Ints,
    scale: Floats | None = None,
) -> None:
    """Fill ``out[j]`` with cell ``rows[j]`` on donor ``donors[j]`` of the bank.

    Parameters
    ----------
    out : array (n, channel, y, x), float32
        In one piece.
    image : array (cell, channel of the screen, y, x)
    mask : array (cell, y, x), uint8
    bank : array (donor, channel of the screen, y, x)
    rows, donors : array (n,), int64
    channels : array (channel,), int64
        Of the screen, in the order that is wanted.
    scale : array (n, channel, 3), float32, optional
        See `scaling`; None leaves the donors as imaged.
    """
    # compiled when first used: it takes a second to load
    from bgscale.settings.kernel import swapped

    if scale is None:
        scale = np.empty((0, len(channels), 3), np.float32)
    swapped(_flat(out), _flat(image), _flat(mask), _flat(bank), rows, donors, channels, scale)


def _flat(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return (..., y, x) as (..., pixel), without a copy where it lies in one piece."""
    *first, height, width = values.shape
    return np.ascontiguousarray(values).reshape(*first, height * width)


def dilate(mask: npt.NDArray[np.uint8], pixels: int) -> npt.NDArray[np.uint8]:
    """Return masks whose centre cells take in all that lies within so many pixels.

    Other cells that lie so near are taken in as well.

    Parameters
    ----------
    mask : array (cell, y, x), uint8
    pixels : int
        Distance between the centres of pixels.

    Returns
    -------
    array (cell, y, x), uint8

    Examples
    --------
    >>> mask = np.array([[[0, 0, 0, 2], [0, 1, 0, 2], [0, 0, 0, 2]]], np.uint8)
    >>> dilate(mask, 1)[0].tolist()
    [[0, 1, 0, 2], [1, 1, 1, 2], [0, 1, 0, 2]]
    """
    y, x = np.ogrid[-pixels : pixels + 1, -pixels : pixels + 1]
    near = (y * y + x * x <= pixels * pixels)[None]
    grown = ndimage.binary_dilation(mask == CENTRE_CELL, near)
    return np.where(grown, np.uint8(CENTRE_CELL), mask)


def blocks(length: int, size: int) -> Iterator[slice]:
    """Yield slices that cover ``[0, length)`` in steps of `size`."""
    for start in range(0, length, size):
        yield slice(start, min(start + size, length))
