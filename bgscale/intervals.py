"""A mean over cells or pairs, its interval, and why there is none.

Owns what cells in groups (of one protein, well or field) and pairs that share a class do to an
interval. The one idea: only groups are independent, so their number is the degrees of freedom, and
where there is one, or no spread to go by, there is no interval and the reason is said.

References
----------
Korn & Graubard (1998), Confidence intervals for proportions with small expected number of positive
counts estimated from survey data. Survey Methodology 24:193-201.
Efron & Stein (1981), The jackknife estimate of variance. Annals of Statistics 9:586-596.
"""

from typing import NamedTuple, Self, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy.stats import t as student

COVERAGE = 0.95
PRESENT, NO_VALUE, NO_GROUPS, NO_SPREAD, NO_CLASS = range(5)
REASONS = {
    PRESENT: "there is a value and an interval",
    NO_VALUE: "no cell or pair to take it from",
    NO_GROUPS: "fewer than two groups: no interval",
    NO_SPREAD: "all alike: no spread to take an interval from",
    NO_CLASS: "a class has no such cell",
}

Floats: TypeAlias = npt.NDArray[np.float64]


class Estimate(NamedTuple):
    """A mean with its interval.

    Attributes
    ----------
    value, low, high : float
        NaN where there is none.
    cells : int
        How many cells or pairs it is the mean of.
    groups : int
        How many independent groups these make.
    reason : int
        A code of `REASONS`.
    """

    value: float
    low: float
    high: float
    cells: int
    groups: int
    reason: int

    @classmethod
    def of_jackknife(cls, value: float, without: Floats) -> Self:
        """Return the interval of a value from what it is without each class."""
        without = without[np.isfinite(without)]
        n = len(without)
        if not np.isfinite(value):
            return cls(np.nan, np.nan, np.nan, 0, 0, NO_VALUE)
        if n < 2:
            return cls(value, np.nan, np.nan, n, n, NO_GROUPS)
        se = float(np.sqrt((n - 1) / n * np.sum((without - without.mean()) ** 2)))
        if se <= np.finfo(float).eps:
            return cls(value, np.nan, np.nan, n, n, NO_SPREAD)
        half = se * float(student.ppf(0.5 + COVERAGE / 2, n - 1))
        return cls(value, value - half, value + half, n, n, PRESENT)

    def within(self, low: float, high: float) -> Self:
        """Return it with its interval cut to what can be: of few classes t reaches beyond.

        Examples
        --------
        >>> Estimate(0.9, 0.7, 1.1, 3, 3, PRESENT).within(0, 1).high
        1.0
        """
        bounds = np.clip((self.low, self.high), low, high)
        return self._replace(low=float(bounds[0]), high=float(bounds[1]))


def over_classes(values: Floats) -> Estimate:
    """Return the mean over the pairs of a symmetric table, its interval by leaving out classes.

    Parameters
    ----------
    values : array (localization, localization), float64
        NaN where there is no pair.
    """
    upper = np.where(np.triu(np.ones(values.shape, np.bool_), 1), values, np.nan)
    used = np.isfinite(upper)
    members = np.flatnonzero(used.any(0) | used.any(1))
    if not used.any():
        return Estimate(np.nan, np.nan, np.nan, 0, 0, NO_VALUE)
    without = np.full(len(members), np.nan)
    for i, k in enumerate(members):
        rest = np.delete(np.delete(upper, k, 0), k, 1)
        if np.isfinite(rest).any():
            without[i] = rest[np.isfinite(rest)].mean()
    found = Estimate.of_jackknife(float(upper[used].mean()), without)
    return found._replace(cells=int(used.sum()))


def clustered(
    values: npt.NDArray[np.floating],
    groups: npt.NDArray[np.integer] | None,
    *,
    bounded: bool = True,
    strata: npt.NDArray[np.integer] | None = None,
    wanted: int = 0,
) -> Estimate:
    """Return the mean of values whose groups are independent, with its 95% interval.

    Parameters
    ----------
    values : array (cell,), float
        NaN where there is none.
    groups : array (cell,), int, optional
        The group of each; None: not known, so that there is no interval.
    bounded : bool
        Values lie between 0 and 1: Wilson's interval with the effective number of cells. Else
        mean +/- t standard errors.
    strata : array (cell,), int, optional
        Means of strata weigh the same, whatever their size.
    wanted : int
        So many strata must be there.

    Returns
    -------
    Estimate

    Notes
    -----
    The variance of a mean over G groups is G / (G - 1) times the sum over groups of the squared sum
    of weighted residuals; t has G - 1 degrees of freedom. A share of exactly 0 or 1 has no
    residual: its groups then count as one cell each.

    Examples
    --------
    >>> right = np.array([1.0, 1, 0, 1, 1, 1])
    >>> found = clustered(right, np.array([0, 0, 1, 1, 2, 2]))
    >>> round(found.value, 3), found.groups, found.low > 0, found.high < 1
    (0.833, 3, True, True)
    >>> clustered(right, None).reason == NO_GROUPS
    True
    """
    there = np.isfinite(values)
    kept = np.asarray(values[there], np.float64)
    n = len(kept)
    if not n:
        return Estimate(np.nan, np.nan, np.nan, 0, 0, NO_VALUE)
    of = (
        np.zeros(n, np.int64)
        if strata is None
        else np.unique(strata[there], return_inverse=True)[1]
    )
    sizes = np.bincount(of)
    if len(sizes) < wanted:
        return Estimate(np.nan, np.nan, np.nan, n, 0, NO_CLASS)
    means = np.bincount(of, kept) / sizes
    value = float(means.mean())
    if groups is None:
        return Estimate(value, np.nan, np.nan, n, 0, NO_GROUPS)
    codes = np.unique(groups[there], return_inverse=True)[1]
    count = int(codes.max()) + 1
    if count < 2:
        return Estimate(value, np.nan, np.nan, n, count, NO_GROUPS)
    residual = (kept - means[of]) / (len(sizes) * sizes[of])
    variance = count / (count - 1) * float(np.sum(np.bincount(codes, residual) ** 2))
    quantile = float(student.ppf(0.5 + COVERAGE / 2, count - 1))
    if not bounded:
        if variance <= np.finfo(float).eps ** 2:
            return Estimate(value, np.nan, np.nan, n, count, NO_SPREAD)
        half = quantile * float(np.sqrt(variance))
        return Estimate(value, value - half, value + half, n, count, PRESENT)
    spread = value * (1 - value)
    # as many independent cells as would give this variance
    effective = min(spread / max(variance, spread / n), float(n)) if spread > 0 else float(count)
    return Estimate(value, *_wilson(value, effective, quantile), n, count, PRESENT)


def _wilson(share: float, cells: float, quantile: float) -> tuple[float, float]:
    """Return Wilson's interval of a share."""
    square = quantile * quantile / cells
    centre = (share + square / 2) / (1 + square)
    half = quantile / (1 + square) * np.sqrt(share * (1 - share) / cells + square / (4 * cells))
    return max(float(centre - half), 0.0), min(float(centre + half), 1.0)
