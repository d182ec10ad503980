"""All pairs of classes under one setting and background.

Owns the unit of experiment 1. The one idea: the inner products within a class are computed once and
serve all its pairs; those between two classes are computed once and serve all folds.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from bgscale.errors import InputError
from bgscale.evaluate.folds import Integers, grouped_folds, published_folds
from bgscale.evaluate.pair import check_options
from bgscale.evaluate.solvers import (
    FOLDS,
    MAX_ITERATIONS,
    PENALTY,
    TOLERANCE,
    Bools,
    Floats,
    Options,
    Problem,
    Solver,
    solve,
)


class PairScores(NamedTuple):
    """All problems of one setting and background; a before b, empty elsewhere.

    Attributes
    ----------
    accuracy : array (a, b, fold), float64, [0, 1]
        Share of the held-out cells that are told right; NaN where there is no problem.
    converged : array (a, b, fold), bool
        False where the solver stopped early, and where there is no problem.
    iterations : array (a, b, fold), int64
        -1 where there is no problem.
    decision : array (a, b, member, draw), int8
        Whether a cell of a (member 0) or b (member 1) was told right where it was held out: 1 or 0;
        -1 where there is none.
    coef : array (a, b, fold, feature), float64
    intercept : array (a, b, fold), float64
        ``features @ coef + intercept > 0`` says b; NaN where there is no problem.
    grouped_accuracy : array (a, b, fold), float64
        The same with folds that divide no group; NaN where a class has fewer than two groups, and
        in the folds for which there are not enough groups.
    grouped_converged : array (a, b, fold), bool
    """

    accuracy: Floats
    converged: Bools
    iterations: Integers
    decision: npt.NDArray[np.int8]
    coef: Floats
    intercept: Floats
    grouped_accuracy: Floats
    grouped_converged: Bools


def _present(features: npt.NDArray[np.floating], names: Sequence[str]) -> Bools:
    """Return which draws exist: (localization, draw); a missing one has NaN in all features."""
    finite: Bools = np.isfinite(features).all(axis=2)
    broken = ~finite & ~np.isnan(features).all(axis=2)
    if broken.any():
        k, draw = np.argwhere(broken)[0]
        msg = (
            f"localization {names[k]!r}: draw {draw} has NaN or infinite values in some features; "
            "expected all finite, or all NaN for a missing draw: the model's output is not usable"
        )
        raise InputError(msg)
    return finite


def classify(
    features: npt.NDArray[np.floating],
    *,
    localizations: Sequence[str],
    solver: Solver = "exact",
    groups: npt.NDArray[np.integer] | None = None,
    folds: int = FOLDS,
    penalty: float = PENALTY,
    tolerance: float = TOLERANCE,
    max_iterations: int = MAX_ITERATIONS,
) -> PairScores:
    """Cross-validate every pair of classes under one setting and background.

    Parameters
    ----------
    features : array (localization, draw, feature), float
        A draw that is missing has NaN in all features. A class with fewer than `folds` draws has no
        problem.
    localizations : sequence of str
        Names, in the order of `features`.
    solver : "exact" or "libsvm"
        See `svm_accuracy`.
    groups : array (localization, draw), int, optional
        The protein, field or well of each draw; the same problems are then also scored with the
        cells of a group held out together.
    folds, penalty, tolerance, max_iterations
        As in `svm_accuracy`.

    Returns
    -------
    PairScores

    Raises
    ------
    InputError
        A shape that does not fit, a draw with some features missing, an option out of range.
    """
    n = len(localizations)
    if features.ndim != 3 or len(features) != n:
        msg = (
            f"features have shape {features.shape}; expected (localization, draw, feature) with "
            f"{n} localizations"
        )
        raise InputError(msg)
    draws, width = features.shape[1:]
    if groups is not None and groups.shape != (n, draws):
        msg = f"groups have shape {groups.shape}; expected {(n, draws)}, one for each draw"
        raise InputError(msg)
    options = Options(solver, penalty, tolerance, max_iterations)
    check_options(folds, options)
    present = _present(features, localizations)
    scores = PairScores(
        np.full((n, n, folds), np.nan),
        np.zeros((n, n, folds), np.bool_),
        np.full((n, n, folds), -1, np.int64),
        np.full((n, n, 2, draws), -1, np.int8),
        np.full((n, n, folds, width), np.nan),
        np.full((n, n, folds), np.nan),
        np.full((n, n, folds), np.nan),
        np.zeros((n, n, folds), np.bool_),
    )
    usable = [k for k in range(n) if present[k].sum() >= folds]
    cells = {k: np.asarray(features[k, present[k]], np.float64) for k in usable}
    own = {k: cells[k] @ cells[k].T for k in usable}
    for at, a in enumerate(usable):
        for b in usable[at + 1 :]:
            both = np.concatenate([cells[a], cells[b]])
            problem = Problem(both, len(cells[a]), (own[a], own[b]))
            partitions = [published_folds(len(cells[a]), len(cells[b]), folds)]
            if groups is not None:
                ids = groups[a, present[a]], groups[b, present[b]]
                partitions.append(grouped_folds(*ids, folds))
            fits, *grouped = solve(problem, partitions, folds, options)
            scores.accuracy[a, b] = fits.accuracy
            scores.converged[a, b] = fits.converged
            scores.iterations[a, b] = fits.iterations
            scores.coef[a, b], scores.intercept[a, b] = fits.coef, fits.intercept
            scores.decision[a, b, 0, present[a]] = fits.right[: len(cells[a])]
            scores.decision[a, b, 1, present[b]] = fits.right[len(cells[a]) :]
            for fits in grouped:
                scores.grouped_accuracy[a, b] = fits.accuracy
                scores.grouped_converged[a, b] = fits.converged
    return scores
