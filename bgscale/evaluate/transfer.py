"""Classifiers fitted on crops as imaged, tested on the same held-out cells with other backgrounds.

Owns two controls of experiment 1. `transferred`: the classifier stays, the background changes, so
that what it loses is what it had taken from the background. `conflict`: class a on b's backgrounds
against class b on a's, where background and cell point to different classes.
"""

from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from bgscale.errors import InputError
from bgscale.evaluate.folds import NO_FOLD, Integers, draw_folds
from bgscale.evaluate.solvers import FOLDS, MAX_ITERATIONS, PENALTY, Bools, Floats, Solver
from bgscale.evaluate.sweep import classify


class Transferred(NamedTuple):
    """What classifiers of `original` say of crops under another setting; a before b.

    Attributes
    ----------
    accuracy : array (a, b, fold), float64
        Share of the held-out cells that are told right; NaN where a class has none.
    decision : array (a, b, member, draw), int8
        1 told right, 0 told wrong, -1 none.
    """

    accuracy: Floats
    decision: npt.NDArray[np.int8]


class Conflict(NamedTuple):
    """Each class on the other's backgrounds; a before b.

    Attributes
    ----------
    accuracy : array (a, b, fold), float64
    converged : array (a, b, fold), bool
    decision : array (a, b, member, draw), int8
    """

    accuracy: Floats
    converged: Bools
    decision: npt.NDArray[np.int8]


def transferred(
    features: npt.NDArray[np.floating],
    coef: Floats,
    intercept: Floats,
    *,
    present: Bools,
) -> Transferred:
    """Test fitted classifiers on other crops of the cells that each held out.

    Parameters
    ----------
    features : array (localization, draw, feature), float
        Of the same cells under another setting; NaN in all features where a cell is missing.
    coef : array (a, b, fold, feature), float64
    intercept : array (a, b, fold), float64
        As `classify` gives them.
    present : array (localization, draw), bool
        Which draws the classifiers were fitted with.

    Returns
    -------
    Transferred

    Raises
    ------
    InputError
        The features are of another shape than those of the fits.
    """
    n, draws, width = features.shape
    folds = coef.shape[2]
    if coef.shape != (n, n, folds, width) or present.shape != (n, draws):
        msg = (
            f"features have shape {features.shape}, coef {coef.shape}, present {present.shape}; "
            "expected (localization, draw, feature), (a, b, fold, feature), (localization, draw)"
        )
        raise InputError(msg)
    here = present & np.isfinite(features).all(axis=2)
    accuracy = np.full((n, n, folds), np.nan)
    decision = np.full((n, n, 2, draws), -1, np.int8)
    for a, b in combinations(range(n), 2):
        if not np.isfinite(intercept[a, b]).all():
            continue
        held_out = _held_out(present[a], present[b], folds)
        for member, k in enumerate((a, b)):
            rows = np.flatnonzero(here[k])
            fold = held_out[member, rows]
            margin = np.einsum("if,if->i", features[k, rows], coef[a, b, fold])
            says_b = margin + intercept[a, b, fold] > 0
            decision[a, b, member, rows] = says_b == bool(member)
        for fold in range(folds):
            told = [
                decision[a, b, m][(held_out[m] == fold) & here[k]] for m, k in enumerate((a, b))
            ]
            if all(len(own) for own in told):
                accuracy[a, b, fold] = np.mean(np.concatenate(told))
    return Transferred(accuracy, decision)


def _held_out(present_a: Bools, present_b: Bools, folds: int) -> Integers:
    """Return the fold that holds out each draw: (member, draw); `NO_FOLD` where it is missing."""
    return np.where([present_a, present_b], draw_folds(len(present_a), folds), NO_FOLD)


def conflict(
    features: npt.NDArray[np.floating],
    *,
    localizations: Sequence[str],
    solver: Solver = "exact",
    folds: int = FOLDS,
    penalty: float = PENALTY,
    max_iterations: int = MAX_ITERATIONS,
) -> Conflict:
    """Cross-validate each pair with either class on the other's backgrounds.

    Parameters
    ----------
    features : array (background, localization, draw, feature), float
    localizations : sequence of str
    solver, folds, penalty, max_iterations
        As `classify` takes them.

    Returns
    -------
    Conflict
        NaN, false and -1 where there is no problem.
    """
    n, draws = features.shape[1:3]
    found = Conflict(
        np.full((n, n, folds), np.nan),
        np.zeros((n, n, folds), np.bool_),
        np.full((n, n, 2, draws), -1, np.int8),
    )
    for a, b in combinations(range(n), 2):
        scores = classify(
            np.stack([features[b, a], features[a, b]]),
            localizations=[localizations[a], localizations[b]],
            solver=solver,
            folds=folds,
            penalty=penalty,
            max_iterations=max_iterations,
        )
        found.accuracy[a, b] = scores.accuracy[0, 1]
        found.converged[a, b] = scores.converged[0, 1]
        found.decision[a, b] = scores.decision[0, 1]
    return found
