"""The loop that puts cells on other backgrounds, compiled: one pass, nothing in between.

Owns the pixels of `compose`, which says what they mean. numpy makes and reads five arrays of the
size of the crops for it. No fused multiply-add: the values are those of numpy, to the bit.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from bgscale.compiled import compiled
from bgscale.schema import CENTRE_CELL

_CENTRE = np.uint8(CENTRE_CELL)


def _swapped(
    out: npt.NDArray[np.float32],
    image: npt.NDArray[Any],
    mask: npt.NDArray[np.uint8],
    bank: npt.NDArray[Any],
    rows: npt.NDArray[np.int64],
    donors: npt.NDArray[np.int64],
    channels: npt.NDArray[np.int64],
    scale: npt.NDArray[np.float32],
) -> None:
    """Fill ``out[j]`` with cell ``rows[j]`` on donor ``donors[j]``.

    Parameters
    ----------
    out : array (n, channel, pixel), float32
    image : array (cell, channel of the screen, pixel)
    mask : array (cell, pixel), uint8
    bank : array (donor, channel of the screen, pixel)
    rows, donors : array (n,), int64
    channels : array (channel,), int64
    scale : array (n, channel, 3), float32
        Low end of the donor, gain, low end of the centre; n = 0: as imaged.
    """
    as_imaged = len(scale) == 0
    for j in range(len(rows)):
        own = mask[rows[j]]
        for c in range(len(channels)):
            target, centre = out[j, c], image[rows[j], channels[c]]
            donor = bank[donors[j], channels[c]]
            if as_imaged:
                for p in range(len(target)):
                    value = np.float32(donor[p])
                    target[p] = np.float32(centre[p]) if own[p] == _CENTRE else value
            else:
                low, gain, high = scale[j, c, 0], scale[j, c, 1], scale[j, c, 2]
                for p in range(len(target)):
                    value = (np.float32(donor[p]) - low) * gain + high
                    target[p] = np.float32(centre[p]) if own[p] == _CENTRE else value


swapped = compiled(_swapped)
