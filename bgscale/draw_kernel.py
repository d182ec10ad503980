"""Philox4x32-10, compiled: one pass over many counters; numpy makes some hundred for it."""

import numpy as np
import numpy.typing as npt

from bgscale.compiled import compiled

_MULTIPLIERS = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_WEYL = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)
_LOW, _SHIFT = np.uint64(0xFFFFFFFF), np.uint64(32)


def _philox(
    out: npt.NDArray[np.uint32],
    counter: npt.NDArray[np.uint64],
    key: np.uint64,
    stream: np.uint64,
    rounds: int,
) -> None:
    """Fill ``out[i]`` with the four words of ``counter[i]``."""
    m0, m1 = _MULTIPLIERS
    for i in range(len(counter)):
        c0, c1 = counter[i] & _LOW, counter[i] >> _SHIFT
        c2, c3 = stream & _LOW, stream >> _SHIFT
        k0, k1 = key & _LOW, key >> _SHIFT
        for _ in range(rounds):
            p0, p1 = m0 * c0, m1 * c2
            c0, c1 = (p1 >> _SHIFT) ^ c1 ^ k0, p1 & _LOW
            c2, c3 = (p0 >> _SHIFT) ^ c3 ^ k1, p0 & _LOW
            k0, k1 = (k0 + _WEYL[0]) & _LOW, (k1 + _WEYL[1]) & _LOW
        out[i, 0], out[i, 1] = np.uint32(c0), np.uint32(c1)
        out[i, 2], out[i, 3] = np.uint32(c2), np.uint32(c3)


philox = compiled(_philox)
