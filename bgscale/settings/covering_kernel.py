"""What masks leave visible of others, counted a word of 64 pixels at a time; compiled.

The count of bits is written out: compilers know the pattern, and take the instruction for it where
the processor has one.
"""

import numpy as np
import numpy.typing as npt

from bgscale.compiled import compiled

_PAIRS, _FOURS = np.uint64(0x5555555555555555), np.uint64(0x3333333333333333)
_BYTES, _SUM = np.uint64(0x0F0F0F0F0F0F0F0F), np.uint64(0x0101010101010101)
_ONE, _TWO, _FOUR, _TOP = np.uint64(1), np.uint64(2), np.uint64(4), np.uint64(56)


def _best(
    out: npt.NDArray[np.int64],
    slots: npt.NDArray[np.int64],
    localization: npt.NDArray[np.int64],
    own: npt.NDArray[np.uint64],
    donors: npt.NDArray[np.uint64],
) -> None:
    """Fill ``out[i]`` with the first of the slots of which the least stays visible.

    Parameters
    ----------
    out : array (cell,), int64
    slots : array (candidate, cell), int64
        Negative: the cell has none.
    localization : array (cell,), int64
    own : array (cell, word), uint64
    donors : array (localization, slot, word), uint64
    """
    for i in range(len(out)):
        out[i] = slots[0, i]
        if slots[0, i] < 0:
            continue
        fewest = np.uint64(0xFFFFFFFFFFFFFFFF)
        for c in range(len(slots)):
            donor, visible = donors[localization[i], slots[c, i]], np.uint64(0)
            for w in range(own.shape[1]):
                bits = donor[w] & ~own[i, w]
                bits = bits - ((bits >> _ONE) & _PAIRS)
                bits = (bits & _FOURS) + ((bits >> _TWO) & _FOURS)
                bits = (bits + (bits >> _FOUR)) & _BYTES
                visible += (bits * _SUM) >> _TOP
            if visible < fewest:
                fewest, out[i] = visible, slots[c, i]


best = compiled(_best)
