"""How a background is put around the centre cell, whose pixels stay exactly as imaged."""

from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from bgscale.errors import InputError
from bgscale.schema import CENTRE_CELL

Floats: TypeAlias = npt.NDArray[np.float32]


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
    background: Floats = donor.astype(np.float32)
    if centre_range is not None and donor_range is not None:
        new: Floats = centre_range.astype(np.float32)[..., None, None]
        old: Floats = donor_range.astype(np.float32)[..., None, None]
        old_span, new_span = old[:, :, 1] - old[:, :, 0], new[:, :, 1] - new[:, :, 0]
        ranged = old_span > 0
        gain = np.where(ranged, new_span, 1) / np.where(ranged, old_span, 1)
        # the low end is taken off first: gain * counts + offset would round at the offset's size
        background = (background - old[:, :, 0]) * gain.astype(np.float32) + new[:, :, 0]
    foreground = (mask == CENTRE_CELL)[:, None]
    return np.where(foreground, centre.astype(np.float32), background)


def blocks(length: int, size: int) -> Iterator[slice]:
    """Yield slices that cover ``[0, length)`` in steps of `size`."""
    for start in range(0, length, size):
        yield slice(start, min(start + size, length))
