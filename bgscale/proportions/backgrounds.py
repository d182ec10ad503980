"""Corrected proportions of cells that stand among neighbours of their own protein.

The confusions of a class come from cells among neighbours of that class. In a protein of two
localizations a cell of one stands among cells of both, and a model that reads the neighbours
confuses it otherwise. How, the cells of known class tell under `different`, where each stands on a
background of a known other class.
"""

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from bgscale.errors import InputError
from bgscale.proportions.sums import correct_proportions, in_steps, in_units

FloatArray: TypeAlias = npt.NDArray[np.float64]
IntArray: TypeAlias = npt.NDArray[np.int64]
BoolArray: TypeAlias = npt.NDArray[np.bool_]

PRIOR_CELLS = 20
"""Cells that the additive confusion weighs as much as: few cells stand on each pair of classes."""
_PASSES = 50
"""Of the alternating fit: far more than it needs."""
_STEPS, _TOLERANCE = 60, 1e-6


def sum_by_background(
    p: npt.ArrayLike, target: npt.ArrayLike, background: npt.ArrayLike
) -> tuple[IntArray, IntArray]:
    """Sum the softmax of cells by their class and by that of their background.

    Parameters
    ----------
    p : array (cell, localization)
        NaN where there is none.
    target, background : array (cell,), int
        Class of the cell, and of the donor of its background; -1: several, none or unknown.

    Returns
    -------
    n : array (localization of the cell, of the background), int64
    sums : array (localization of the cell, of the background, localization), int64
        In steps of 1 / `SUM_SCALE`.
    """
    values = np.asarray(p, np.float64)
    own, other = np.asarray(target, np.int64), np.asarray(background, np.int64)
    k = values.shape[1]
    seen = (own >= 0) & (other >= 0) & np.isfinite(values).all(1)
    pair = own[seen] * k + other[seen]
    sums = np.zeros((k * k, k), np.int64)
    np.add.at(sums, pair, in_steps(values[seen]))
    return np.bincount(pair, minlength=k * k).reshape(k, k), sums.reshape(k, k, k)


def confusion_by_background(n: IntArray, sums: IntArray, own: FloatArray) -> FloatArray:
    """Return the confusions of cells of each class on backgrounds of each class.

    What few cells tell of a pair of classes is drawn to the sum of a part of the cell's class and
    a part of the background's, fitted to all pairs.

    Parameters
    ----------
    n, sums
        Of `sum_by_background`, under `different`.
    own : array (localization of the cell, localization), float64
        Confusions on backgrounds of the cell's own class: under `original`.

    Returns
    -------
    array (localization of the cell, of the background, localization), float64
        Rows are NaN where `own` is, and `own` where nothing is known of a background.
    """
    total, k = in_units(sums), len(own)
    additive = _additive(n.astype(np.float64), total)
    mean = (total + PRIOR_CELLS * additive) / (n + PRIOR_CELLS)[..., None]
    mean = np.maximum(mean, 0.0)
    with np.errstate(invalid="ignore"):
        mean /= mean.sum(-1, keepdims=True)
    mean[np.arange(k), np.arange(k)] = own
    mean = np.where(np.isfinite(mean), mean, own[:, None, :])
    mean[~np.isfinite(own).all(1)] = np.nan
    return mean


def _additive(n: FloatArray, total: FloatArray) -> FloatArray:
    """Fit the mean of each pair as a part of its row and a part of its column, by cells.

    NaN for a class that no cell has, and for one that no background has.
    """
    rows, columns = n.sum(1)[:, None], n.sum(0)[:, None]
    with np.errstate(invalid="ignore", divide="ignore"):
        of_row, of_column = total.sum(1) / rows, np.zeros(total.shape[1:])
        for _ in range(_PASSES):
            of_column = (total - n[..., None] * np.nan_to_num(of_row)[:, None]).sum(0) / columns
            of_row = (total - n[..., None] * np.nan_to_num(of_column)).sum(1) / rows
    return np.asarray(of_row[:, None] + of_column)


def correct_among_own(
    mean_softmax: npt.ArrayLike, by_background: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Return the proportions of a protein whose cells are among their own, and their confusions.

    With proportions q, cells of class a stand on backgrounds of class b in q[b] of the cases, and
    are confused as the mean of their confusions: the q is sought whose own confusions correct the
    mean softmax to q.

    Parameters
    ----------
    mean_softmax : array (localization,), float64
    by_background : array (localization of the cell, of the background, localization), float64
        From `confusion_by_background`.

    Returns
    -------
    proportions : array (localization,), float64
    confusions : array (localization, localization), float64
        Of this protein's cells.

    Raises
    ------
    InputError
        No class is known.
    """
    m = np.asarray(mean_softmax, np.float64)
    known = np.atleast_1d(np.isfinite(by_background).all((1, 2)))
    if not known.any():
        msg = f"none of {len(m)} localizations has cells: nothing can be corrected"
        raise InputError(msg)
    # a class without cells is nobody's background either: its proportion is 0
    finite = np.where(np.isfinite(by_background), by_background, 0.0)
    q = correct_proportions(m, np.einsum("aak->ak", by_background))
    for _ in range(_STEPS):
        confusions = _seen(q, finite, known)
        again = correct_proportions(m, confusions)
        done = float(np.abs(again - q).max()) < _TOLERANCE
        # half a step: a whole one may go to and fro
        q = (q + again) / 2
        if done:
            break
    return q, _seen(q, finite, known)


def _seen(q: FloatArray, finite: FloatArray, known: BoolArray) -> FloatArray:
    confusions: FloatArray = np.einsum("b,abk->ak", q, finite)
    confusions[~known] = np.nan
    return confusions
