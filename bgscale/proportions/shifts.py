"""From the sums of some proteins to their tested shifts.

Owns the order of the steps: variance, reason, test. The one idea: a protein's result is a function
of its own sums, of what is pooled over all proteins, and of its name; not of who is done with it.
"""

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from bgscale.proportions.discovery import TESTED, ShiftReason
from bgscale.proportions.significance import Draws, Tested, assess
from bgscale.proportions.sums import Proportions, ProportionState
from bgscale.proportions.variance import (
    Moments,
    Pooled,
    classifier_covariance,
    shift_moments,
    variance_factor,
)

FloatArray: TypeAlias = npt.NDArray[np.float64]
IntArray: TypeAlias = npt.NDArray[np.int64]

_NO_SPREAD = 1e-18
"""Trace of a covariance below which it is rounding."""


@dataclass(frozen=True, eq=False)
class Shifts:
    """The shifts of some proteins against `original`, ready to be tested.

    Parameters
    ----------
    proportions : Proportions
    n_fields : array (setting, protein), int64
    covariance : array (setting, protein, localization, localization), float64
        Of the shift, over fresh cells, fields and training proteins.
    df : array (setting, protein), float64
    reason : array (setting, protein), uint8
        `ShiftReason`.
    """

    proportions: Proportions
    n_fields: IntArray
    covariance: FloatArray
    df: FloatArray
    reason: npt.NDArray[np.uint8]

    def assess(
        self, setting: int, protein: int, source: Draws, *, tau: float, draws: int
    ) -> Tested | None:
        """Test one shift; None where the reason says that it cannot be."""
        if self.reason[setting, protein] not in TESTED:
            return None
        return assess(
            self.proportions.baseline[setting, protein],
            self.proportions.mean[setting, protein],
            self.covariance[setting, protein],
            float(self.df[setting, protein]),
            source,
            tau=tau,
            draws=draws,
        )


def estimate_shifts(state: ProportionState, pooled: Pooled, *, min_cells: int) -> Shifts:
    """Estimate shifts and their covariance: phi W (1/n + rho sum n_f^2 / n^2) + classifier.

    Parameters
    ----------
    state : ProportionState
        Of some proteins.
    pooled : Pooled
        Of the shifts of all proteins, from `pool`.
    min_cells : int
        Fewer cells are not tested.

    Returns
    -------
    Shifts
    """
    moments, within = shift_moments(state)
    factor, df = variance_factor(moments, pooled)
    n = moments.n_cells
    factor = np.where(n > 0, factor, 0.0)
    covariance = factor[..., None, None] * within + classifier_covariance(state, shift=True)
    final = state.finalize()
    reason = np.full(n.shape, ShiftReason.TESTED, np.uint8)
    reason[moments.n_fields == 1] = ShiftReason.ONE_FIELD
    still = np.trace(covariance, axis1=-2, axis2=-1) < _NO_SPREAD
    moved = np.abs(final.mean - final.baseline).max(-1, initial=0) > 0
    reason[still & moved] = ShiftReason.NO_SPREAD
    reason[0] = ShiftReason.REFERENCE
    reason[n < min_cells] = ShiftReason.FEW_CELLS
    reason[n == 0] = ShiftReason.NO_CELLS
    return Shifts(final, moments.n_fields, covariance, df, reason)


def level_variance(moments: Moments, pooled: Pooled) -> tuple[FloatArray, FloatArray]:
    """Return the variance of each mean softmax that cells and fields explain, and its df.

    Parameters
    ----------
    moments : Moments
        From `level_moments`.
    pooled : Pooled
        Of the proportions of all proteins.

    Returns
    -------
    variance, df : arrays (setting, protein, localization), float64
        Infinite with fewer than two cells. Without the classifier's share, which is the same for
        fresh fields of the protein: `classifier_covariance`.
    """
    factor, df = variance_factor(moments, pooled)
    variance = np.full(moments.within.shape, np.inf)
    np.multiply(moments.within, factor, out=variance, where=moments.n_cells > 1)
    return variance, df
