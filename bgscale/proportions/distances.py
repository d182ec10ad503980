"""Distances between two distributions over localizations.

The one idea: both are normalised first, and what is missing is NaN.
"""

import math
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from scipy.special import rel_entr

from bgscale.errors import InputError

FloatArray: TypeAlias = npt.NDArray[np.float64]

KL_FLOOR = 1e-10
"""Proportions are clipped here before a logarithm, as published."""


def kl_divergence(p: npt.ArrayLike, q: npt.ArrayLike) -> FloatArray:
    """Return KL(p || q) in nats, both normalised and then clipped at 1e-10, as published.

    Parameters
    ----------
    p, q : arrays (..., localization), 0 or more
        Rows that are NaN or sum to 0 are missing and give NaN.

    Returns
    -------
    array (...), float64

    Examples
    --------
    >>> round(float(kl_divergence([0.5, 0.5], [0.25, 0.75])), 4)
    0.1438
    """
    a, b = (np.maximum(x, KL_FLOOR) for x in _normalised(p, q))
    return np.asarray((a * np.log(a / b)).sum(axis=-1))


def jensen_shannon(p: npt.ArrayLike, q: npt.ArrayLike) -> FloatArray:
    """Return the Jensen-Shannon divergence in nats, 0 to ln 2; SciPy returns its square root."""
    a, b = _normalised(p, q)
    middle = (a + b) / 2
    divergence = (rel_entr(a, middle) + rel_entr(b, middle)).sum(axis=-1) / 2
    return np.asarray(np.maximum(divergence, 0.0))  # rounding may leave -1e-17


def total_variation(p: npt.ArrayLike, q: npt.ArrayLike) -> FloatArray:
    """Return the total variation distance, 0 to 1: the share of cells that would have to move."""
    a, b = _normalised(p, q)
    return np.asarray(np.abs(a - b).sum(axis=-1) / 2)


def summary(values: npt.ArrayLike) -> dict[str, float]:
    """Return the published summary of a distance over proteins, and how many are missing.

    The standard deviation has ddof 1; missing values (NaN) are counted and left out.
    """
    x = np.asarray(values, np.float64).ravel()
    present = x[~np.isnan(x)]
    result = {"n": float(present.size), "missing": float(x.size - present.size)}
    if present.size < 2:
        names = ("mean", "sd", "min", "q25", "median", "q75", "max")
        return result | dict.fromkeys(names, math.nan)
    quartiles = np.quantile(present, [0, 0.25, 0.5, 0.75, 1]).tolist()
    result |= {"mean": float(present.mean()), "sd": float(present.std(ddof=1))}
    return result | dict(zip(("min", "q25", "median", "q75", "max"), quartiles, strict=True))


def _normalised(p: npt.ArrayLike, q: npt.ArrayLike) -> tuple[FloatArray, FloatArray]:
    a, b = np.asarray(p, np.float64), np.asarray(q, np.float64)
    if a.shape[-1:] != b.shape[-1:] or any(((x < 0) | np.isinf(x)).any() for x in (a, b)):
        msg = f"distributions {a.shape}, {b.shape}: need one length, and values of 0 or more"
        raise InputError(msg)
    return _mean_one(a), _mean_one(b)


def _mean_one(x: FloatArray) -> FloatArray:
    total = np.broadcast_to(x.sum(axis=-1, keepdims=True), x.shape)
    out = np.full(x.shape, np.nan)
    np.divide(x, total, out=out, where=total > 0)
    return out
