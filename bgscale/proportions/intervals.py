"""Intervals of proportions: of the mean softmax, and of the corrected proportions.

The one idea: the two answer different questions. The mean softmax of fresh fields of the protein
differs by fields, cells and classifier. What share of cells *is* where differs also because no
protein looks quite like its class: how far proteins of one class differ is seen in the confusion.
"""

from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from scipy.special import expit, logit, stdtrit

from bgscale.draw import digest64, integers, philox
from bgscale.proportions.sums import correct_proportions

FloatArray: TypeAlias = npt.NDArray[np.float64]
IntArray: TypeAlias = npt.NDArray[np.int64]

INTERVAL = 0.95


def logit_interval(
    mean: npt.ArrayLike, variance: npt.ArrayLike, df: npt.ArrayLike
) -> tuple[FloatArray, FloatArray]:
    """Return the bounds of proportions, by a t distribution on the logit scale.

    Parameters
    ----------
    mean, variance, df : arrays that broadcast
        A proportion of exactly 0 or 1 without variance has itself as its bounds.

    Returns
    -------
    low, high : arrays, float64
        NaN where the mean is.

    Examples
    --------
    >>> low, high = logit_interval([0.5, 0.01], [0.01, 0.0001], 10)
    >>> low.round(3).tolist(), high.round(3).tolist()
    ([0.291, 0.001], [0.709, 0.088])
    """
    m, v, nu = np.broadcast_arrays(*(np.asarray(x, np.float64) for x in (mean, variance, df)))
    low, high = m.copy(), m.copy()
    inside = (m > 0) & (m < 1) & (v > 0) & np.isfinite(v)
    reach = stdtrit(nu[inside], (1 + INTERVAL) / 2) * np.sqrt(v[inside])
    reach = np.minimum(reach / (m[inside] * (1 - m[inside])), 700.0)
    low[inside] = expit(logit(m[inside]) - reach)
    high[inside] = expit(logit(m[inside]) + reach)
    wide = np.isinf(v) & ~np.isnan(m)
    low[wide], high[wide] = 0.0, 1.0
    return low, high


@dataclass(frozen=True, eq=False)
class Confusions:
    """The out-of-fold confusions of one setting, and how far they are from sure.

    Parameters
    ----------
    mean : array (localization, localization), float64
        Rows are true localizations; NaN rows have no cells.
    deviation : tuple over localizations of arrays (protein, localization)
        How far the mean softmax of each single-localization protein is from its row.
    replicates : array (replicate, localization, localization), float64
        The confusions under the classifier replicates.
    """

    mean: FloatArray
    deviation: tuple[FloatArray, ...]
    replicates: FloatArray

    def moved_to(self, mean: FloatArray) -> "Confusions":
        """Return the same spread about the confusions of one protein's own cells."""
        return replace(self, mean=mean, replicates=self.replicates + (mean - self.mean))


def gather_confusions(
    mean: npt.ArrayLike,
    n_cells: npt.ArrayLike,
    noise: npt.ArrayLike,
    target: npt.ArrayLike,
    confusion: FloatArray,
    replicates: FloatArray,
) -> Confusions:
    """Return how far proteins of each localization differ beyond what their own cells explain.

    Deviations are scaled so that their mean square is that of a protein that is not among those
    that made the row. A localization of one protein borrows those of the others, with the two
    localizations changing places.

    Parameters
    ----------
    mean : array (protein, localization)
        Mean softmax; NaN without cells.
    n_cells : array (protein,)
    noise : array (protein, localization)
        Variance of `mean` that cells and fields explain.
    target : array (protein,), int
        Localization, -1: several or none.
    confusion, replicates
        As in `Confusions`.
    """
    m, n, v = (np.asarray(x, np.float64) for x in (mean, n_cells, noise))
    own = np.asarray(target, np.int64)
    k = len(confusion)
    found: list[FloatArray] = []
    for a in range(k):
        rows = np.flatnonzero((own == a) & (n > 0))
        if len(rows) < 2:
            found.append(np.zeros((0, k)))
            continue
        centre = m[rows].mean(0)
        away = m[rows] - centre
        seen = (away**2).sum() / (len(rows) - 1)
        explained = float(np.minimum(v[rows], 1).sum(1).mean())
        kept = max(1 - explained / seen, 0.0) if seen > 0 else 0.0
        found.append(away * np.sqrt(kept * (len(rows) + 1) / (len(rows) - 1)))
    borrowed = []
    for a in range(k):
        swapped = []
        for b, away in enumerate(found):
            order = np.arange(k)
            order[[a, b]] = order[[b, a]]
            swapped.append(away[:, order])
        borrowed.append(np.concatenate(swapped))
    deviation = tuple(
        own_rows if len(own_rows) else other
        for own_rows, other in zip(found, borrowed, strict=True)
    )
    return Confusions(np.asarray(confusion), deviation, np.asarray(replicates))


def corrected_interval(
    mean: FloatArray,
    corrected: FloatArray,
    variance: FloatArray,
    replicates: FloatArray,
    confusions: Confusions,
    *,
    key: tuple[object, ...],
    draws: int,
) -> tuple[FloatArray, FloatArray]:
    """Return the bounds of a protein's corrected proportions.

    Each draw moves the mean softmax by the noise of its cells, by how far some protein of each
    localization is from its class, and by a classifier replicate, and is corrected again.

    Parameters
    ----------
    mean, corrected, variance : arrays (localization,), float64
        Mean softmax, what `correct_proportions` makes of it, and the variance of the mean that
        cells and fields explain.
    replicates : array (replicate, localization), float64
        Mean softmax under the classifier replicates.
    confusions : Confusions
    key : tuple
        What the draws are a function of: seed, model, fit, setting, protein.
    draws : int

    Returns
    -------
    low, high : arrays (localization,), float64
    """
    k = len(mean)
    seed, purpose = digest64(*key), "corrected"
    ids = np.arange(draws, dtype=np.uint64)
    moved = np.tile(mean, (draws, 1))
    words = philox(digest64(seed, "field"), np.arange(draws * k, dtype=np.uint64))
    uniform = (words[:, :2].astype(np.float64) + 0.5) * 2.0**-32
    normal = np.sqrt(-2 * np.log(uniform[:, 0])) * np.cos(2 * np.pi * uniform[:, 1])
    cells = _multinomial_shape(normal.reshape(draws, k), mean)
    moved += cells * np.sqrt(np.minimum(variance, 1.0))
    for a, away in enumerate(confusions.deviation):
        if corrected[a] > 0 and len(away):
            moved += corrected[a] * away[integers(seed, purpose, ids, len(away), a)]
    if len(replicates) > 1:
        known = np.where(np.isfinite(confusions.replicates), confusions.replicates, 0.0)
        unexplained = replicates - np.einsum("a,rak->rk", corrected, known)
        unexplained = unexplained - unexplained.mean(0)
        moved += unexplained[integers(seed, purpose, ids, len(unexplained), k)]
    again = correct_proportions(np.maximum(moved, 0.0), confusions.mean)
    low, high = np.quantile(again, [(1 - INTERVAL) / 2, (1 + INTERVAL) / 2], axis=0)
    return np.minimum(low, corrected), np.maximum(high, corrected)


def _multinomial_shape(normal: FloatArray, mean: FloatArray) -> FloatArray:
    """Return standard normals that are correlated as the shares of a multinomial are.

    Only the variances of the proportions are kept; a protein of two localizations gains in one
    what it loses in the other, and independent noise would halve the variance of that.
    """
    weighted = normal * np.sqrt(mean)
    weighted -= mean * weighted.sum(1, keepdims=True)
    return np.asarray(weighted / np.sqrt(np.maximum(mean * (1 - mean), 1e-12)))
