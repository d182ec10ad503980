"""How far chance alone moves a protein's proportions, and their shift between settings.

Owns the variance of means over fields and cells: within fields, between fields, and by the
classifier. The one idea: a protein with a few fields cannot tell its own spread between fields, so
it borrows from all proteins what they show of it (the correlation within fields, and how far
proteins differ in it), as limma does for the variances of genes.

References
----------
Smyth (2004), Linear models and empirical Bayes methods for assessing differential expression in
microarray experiments. Statistical Applications in Genetics and Molecular Biology 3:3.
"""

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from scipy.special import digamma, polygamma

from bgscale.proportions.sums import ProportionState, in_units

FloatArray: TypeAlias = npt.NDArray[np.float64]
IntArray: TypeAlias = npt.NDArray[np.int64]

MOST_CELLS_A_FIELD = 200
"""A field's weight in the pooled correlation grows with its cells up to here."""
LARGEST_DF = 1e6
"""Degrees of freedom of a prior whose spread is not told from 0."""
_LEAST_SPREAD = 1e-12
"""Variances of proportions below this are rounding: cells are the same."""


@dataclass(frozen=True, eq=False)
class Moments:
    """Spread of cells within fields and of fields within proteins.

    ``...`` is (setting, protein) for a shift, and (setting, protein, localization) for a single
    proportion; every array broadcasts to it.

    Parameters
    ----------
    n_cells, n_fields : arrays (...), int64
        Fields are counted where they have cells under the setting.
    clumping : array (...), float64
        Sum over fields of n_f squared, by n squared: 1 / F for equal fields.
    field_size : array (...), float64
        Effective number of cells a field, n0; 0 with one field.
    within, between : arrays (...), float64
        Traces of the covariance of cells within fields, and of field means, times their cells.
    df : array (...), float64
        Degrees of freedom of `between`; 0 where it is not estimated.
    """

    n_cells: IntArray
    n_fields: IntArray
    clumping: FloatArray
    field_size: FloatArray
    within: FloatArray
    between: FloatArray
    df: FloatArray


@dataclass(frozen=True, eq=False)
class Pooled:
    """What all proteins together say of the spread between fields, by setting.

    Parameters
    ----------
    correlation : array (setting,), float64
        Within fields, of cells of one protein; rho.
    df, scale : arrays (setting,), float64
        The scaled inverse chi-square prior (d0, s0) of a protein's own factor; 0 and 1 where fewer
        than two proteins have two fields.
    """

    correlation: FloatArray
    df: FloatArray
    scale: FloatArray


def shift_moments(state: ProportionState) -> tuple[Moments, FloatArray]:
    """Return the moments of each protein's shift, and its covariance within fields.

    Parameters
    ----------
    state : ProportionState

    Returns
    -------
    Moments, by (setting, protein)
    array (setting, protein, localization, localization), float64
        With one cell a field, that of all cells about the protein's mean.
    """
    n, means, total = _by_field(state, in_units(state.sums) - in_units(state.baseline))
    starts = _starts(state)
    cells, count, clumping, size = _sizes(n, starts)
    weighted = n[..., None, None] * means[..., :, None] * means[..., None, :]
    cross = in_units(state.cross)
    own = cross - np.add.reduceat(weighted, starts, axis=1)
    shift = total / np.maximum(cells, 1)[..., None]
    squared = cells[..., None, None] * shift[..., :, None] * shift[..., None, :]
    spare = cells - count
    lumped = (cross - squared) / np.maximum(cells - 1, 1)[..., None, None]
    within = np.where(
        (spare > 0)[..., None, None], own / np.maximum(spare, 1)[..., None, None], lumped
    )
    trace = np.maximum(np.trace(within, axis1=-2, axis2=-1), 0.0)
    apart = np.add.reduceat(n * (means**2).sum(-1), starts, axis=1) - cells * (shift**2).sum(-1)
    between = np.maximum(apart, 0) / np.maximum(count - 1, 1)
    known = (count > 1) & (spare > 0) & (trace > _LEAST_SPREAD)
    dimensions = np.ones_like(trace)
    np.divide(trace**2, (within**2).sum((-2, -1)), out=dimensions, where=known)
    df = np.where(known, (count - 1) * dimensions, 0.0)
    return Moments(cells, count, clumping, size, trace, between, df), within


def level_moments(state: ProportionState) -> Moments:
    """Return the moments of each proportion: (setting, protein, localization)."""
    n, means, total = _by_field(state, in_units(state.sums))
    starts = _starts(state)
    by_protein = _sizes(n, starts)
    cells, count = by_protein[0][..., None], by_protein[1][..., None]
    clumping, size = by_protein[2][..., None], by_protein[3][..., None]
    squares = in_units(state.squares)
    about_fields = np.add.reduceat(n[..., None] * means**2, starts, axis=1)
    mean = total / np.maximum(cells, 1)
    spare = cells - count
    lumped = (squares - cells * mean**2) / np.maximum(cells - 1, 1)
    within = np.where(spare > 0, (squares - about_fields) / np.maximum(spare, 1), lumped)
    within = np.maximum(within, 0.0)
    between = np.maximum(about_fields - cells * mean**2, 0) / np.maximum(count - 1, 1)
    known = (count > 1) & (spare > 0) & (within > _LEAST_SPREAD)
    df = np.where(known, count - 1.0, 0.0)
    return Moments(cells, count, clumping, size, within, between, df)


def pool(moments: Moments, *, min_cells: int) -> Pooled:
    """Pool over proteins (and localizations) what single ones cannot tell.

    Parameters
    ----------
    moments : Moments
        Of all proteins of the screen.
    min_cells : int
        Proteins with fewer cells say nothing.

    Returns
    -------
    Pooled
    """
    settings = len(moments.within)
    rho, df, scale = np.zeros(settings), np.zeros(settings), np.ones(settings)
    for s in range(settings):
        shape = moments.within.shape[1:]
        n, fields, size = (
            np.broadcast_to(x[s], shape)
            for x in (moments.n_cells, moments.n_fields, moments.field_size)
        )
        seen = (moments.df[s] > 0) & (n >= min_cells)
        if not seen.any():
            continue
        ratio = moments.between[s][seen] / moments.within[s][seen]
        weights = (fields[seen] - 1) * np.minimum(size[seen], MOST_CELLS_A_FIELD)
        rho[s] = max(float(np.average((ratio - 1) / size[seen], weights=weights)), 0.0)
        df[s], scale[s] = fit_prior(ratio / (1 + size[seen] * rho[s]), moments.df[s][seen])
    return Pooled(rho, df, scale)


def fit_prior(ratio: npt.ArrayLike, df: npt.ArrayLike) -> tuple[float, float]:
    """Fit a scaled inverse chi-square prior to variances, by the moments of their logarithms.

    Parameters
    ----------
    ratio : array (n,), 0 or more
        Each a variance of its own, estimated with `df` degrees of freedom.
    df : array (n,), more than 0
        May be fractional.

    Returns
    -------
    d0, s0 : float
        Degrees of freedom (0 with fewer than two variances: nothing is borrowed) and scale.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> true = 2 * 8 / rng.chisquare(8, 20000)
    >>> d0, s0 = fit_prior(true * rng.chisquare(3, 20000) / 3, np.full(20000, 3.0))
    >>> round(d0), round(s0, 1)
    (8, 2.0)
    """
    r, nu = np.asarray(ratio, np.float64), np.asarray(df, np.float64)
    if len(r) < 2 or not (r > 0).any():
        return 0.0, 1.0
    # as limma: an exact zero would be an outlier without bound
    r = np.maximum(r, 1e-5 * np.median(r[r > 0]))
    e = np.log(r) - digamma(nu / 2) + np.log(nu / 2)
    noise = polygamma(1, nu / 2)
    centre, spread = _beyond_noise(e, noise)
    if spread <= 2 / LARGEST_DF:
        return LARGEST_DF, float(np.exp(centre))
    half = _inverse_trigamma(spread)
    return min(2 * half, LARGEST_DF), float(np.exp(centre + digamma(half) - np.log(half)))


def _beyond_noise(values: FloatArray, noise: FloatArray) -> tuple[float, float]:
    """Return the mean of values, and their variance less that by which each is known to vary."""
    # precise ones count more; the weights depend on the noise alone, so both are unbiased
    weights = 1 / (noise + 0.5)
    weights /= weights.sum()
    centre = float(weights @ values)
    # of each variance what is left about a mean that the value is part of: n - 1 of n, if equal
    left = weights * (1 - weights)
    return centre, float((weights @ (values - centre) ** 2 - left @ noise) / left.sum())


def variance_factor(moments: Moments, pooled: Pooled) -> tuple[FloatArray, FloatArray]:
    """Return by what the covariance within fields is multiplied for that of the mean, and the df.

    Returns
    -------
    factor : array (...), float64
        phi (1 / n + rho sum n_f^2 / n^2); infinite without cells.
    df : array (...), float64
        d0 + nu; 1 where neither the protein nor the others tell a spread between fields.
    """
    extra = (slice(None), *[None] * (moments.within.ndim - 1))
    rho, d0, s0 = (x[extra] for x in (pooled.correlation, pooled.df, pooled.scale))
    expected = moments.within * (1 + moments.field_size * rho)
    ratio = np.zeros_like(moments.within)
    np.divide(moments.between, expected, out=ratio, where=moments.df > 0)
    df = d0 + moments.df
    phi = np.broadcast_to(s0, df.shape).copy()
    np.divide(d0 * s0 + moments.df * ratio, df, out=phi, where=df > 0)
    with np.errstate(divide="ignore"):
        factor = phi * (1 / moments.n_cells.astype(np.float64) + rho * moments.clumping)
    return factor, np.maximum(df, 1.0)


def classifier_covariance(state: ProportionState, *, shift: bool) -> FloatArray:
    """Return the covariance, over classifier replicates, of each shift or proportion.

    Returns
    -------
    array (setting, protein, localization, localization), float64
        0 with fewer than two replicates.
    """
    sums = state.replicate_sums
    if shift:
        sums = sums - state.replicate_baseline
    count, k = sums.shape[2:]
    if count < 2:
        return np.zeros((*sums.shape[:2], k, k))
    n = np.add.reduceat(state.n, _starts(state), axis=1)
    again = in_units(sums) / np.maximum(n, 1)[..., None, None]
    again = again - again.mean(2, keepdims=True)
    return np.asarray(again.swapaxes(-1, -2) @ again / (count - 1))


def _starts(state: ProportionState) -> IntArray:
    return np.searchsorted(state.group[:, 0], state.protein).astype(np.int64)


def _by_field(
    state: ProportionState, sums: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return cells, mean by field (0 without cells), and sums by protein."""
    n = state.n.astype(np.float64)
    means = sums / np.maximum(n, 1)[..., None]
    return n, means, np.add.reduceat(sums, _starts(state), axis=1)


def _sizes(n: FloatArray, starts: IntArray) -> tuple[IntArray, IntArray, FloatArray, FloatArray]:
    """Return cells, fields, sum of n_f^2 / n^2, and effective cells a field."""
    cells = np.add.reduceat(n, starts, axis=1)
    count = np.add.reduceat((n > 0).astype(np.int64), starts, axis=1)
    clumping = np.add.reduceat(n**2, starts, axis=1) / np.maximum(cells, 1) ** 2
    size = np.where(count > 1, cells * (1 - clumping) / np.maximum(count - 1, 1), 0.0)
    return cells.astype(np.int64), count, clumping, size


def _inverse_trigamma(y: float) -> float:
    """Solve trigamma(x) = y by Newton's method on 1 / trigamma, which is nearly linear."""
    x = 0.5 + 1 / y
    for _ in range(50):
        now = float(polygamma(1, x))
        step = now * (1 - now / y) / float(polygamma(2, x))
        x += step
        if abs(step) < 1e-10 * x:
            break
    return x
