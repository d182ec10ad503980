"""Which of many shifts are discoveries, and why some were not tested.

Owns the false discovery rate over proteins and the reason codes. The one idea: what was not tested
has a reason and takes no part.
"""

from enum import IntEnum
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

FloatArray: TypeAlias = npt.NDArray[np.float64]


class ShiftReason(IntEnum):
    """Why a shift was not tested, or what its test lacks."""

    TESTED = 0
    NO_CELLS = 1
    """No cell of the protein is there under the setting, or no classifier was fitted."""
    FEW_CELLS = 2
    """Fewer cells than a test needs."""
    NO_SPREAD = 3
    """All cells moved by exactly the same: chance cannot be told."""
    REFERENCE = 4
    """The setting is `original` itself."""
    ONE_FIELD = 5
    """Tested, with the spread between fields of the other proteins: it has none of its own."""


TESTED = (ShiftReason.TESTED, ShiftReason.ONE_FIELD)


def false_discovery(p: npt.ArrayLike) -> FloatArray:
    """Return Benjamini & Hochberg's q along the last axis; what is NaN is not a test.

    References
    ----------
    Benjamini & Hochberg (1995), Controlling the false discovery rate. JRSS B 57:289-300.

    Examples
    --------
    >>> false_discovery([0.01, np.nan, 0.5, 0.02]).round(3).tolist()
    [0.03, nan, 0.5, 0.03]
    """
    values = np.asarray(p, np.float64)
    out = np.full(values.shape, np.nan)
    for index in np.ndindex(values.shape[:-1]):
        seen = np.flatnonzero(~np.isnan(values[index]))
        order = seen[np.argsort(values[index][seen], kind="stable")]
        scaled = values[index][order] * len(order) / np.arange(1, len(order) + 1)
        smallest = np.minimum.accumulate(scaled[::-1])[::-1]
        out[index][order] = np.minimum(smallest, 1.0)
    return out
