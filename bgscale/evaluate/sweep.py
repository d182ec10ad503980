"""All pairs of classes under one setting and background.

Owns the unit of experiment 1. The one idea: the inner products within a class are computed once and
serve all its pairs; those between two classes are computed once and serve all folds.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from bgscale.errors import InputError
from bgscale.evaluate.folds import Integers, draw_folds, grouped_folds
from bgscale.evaluate.pair import check_options
from bgscale.evaluate.solvers import (
    FOLDS,
    MAX_ITERATIONS,
    PENALTY,
    TOLERANCE,
    Bools,
    Fits,
    Floats,
    Options,
    Partition,
    Problem,
    Solver,
    solve,
)


class PairScores(NamedTuple):
    """All problems of one setting and background; a before b, empty elsewhere.

    Attributes
    ----------
    accuracy : array (a, b, fold), float64, [0, 1]
        Share of the held-out cells that are told right; NaN where there is no problem, and in a
        fold that holds out no cell of a class: that would be a recall.
    converged : array (a, b, fold), bool
        False where the solver stopped early, and where there is no problem.
    iterations : array (a, b, fold), int64
        -1 where there is no problem.
    decision : array (a, b, member, draw), int8
        Whether a cell of a (member 0) or b (member 1) was told right where it was held out: 1 or 0;
        -1 where there is none, or no fit.
    coef : array (a, b, fold, feature), float64
    intercept : array (a, b, fold), float64
        ``features @ coef + intercept > 0`` says b; NaN where there is no problem.
    grouped_accuracy : array (a, b, fold), float64
        The same with folds that divide no group, each cell told by a fit that has seen neither its
        group's fold nor its own published one: see `classify`. NaN where a class has fewer than two
        groups, and in the folds for which there are not enough groups.
    grouped_converged : array (a, b, fold), bool
        Whether all fits of the fold have.
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


class _Grouped(NamedTuple):
    """What folds that divide no group give; arrays (fold,)."""

    accuracy: Floats
    converged: Bools


def _crossed(published: Integers, grouped: Integers, folds: int) -> list[Partition]:
    """Return grouped folds, once for each published fold whose cells they are tested with."""
    return [Partition(grouped, published == fold) for fold in range(folds)]


def _together(partitions: Sequence[Partition], several: Sequence[Fits], in_b: Bools) -> _Grouped:
    """Return what grouped folds give, from the fits of each published fold."""
    folds = len(several[0].accuracy)
    found = _Grouped(np.full(folds, np.nan), np.zeros(folds, np.bool_))
    for fold in range(folds):
        fitted = [
            (fits, partition.test(fold))
            for partition, fits in zip(partitions, several, strict=True)
            if np.isfinite(fits.accuracy[fold])
        ]
        if not fitted or len(np.unique(in_b[np.any([test for _, test in fitted], axis=0)])) < 2:
            continue
        found.accuracy[fold] = np.concatenate([fits.right[test] for fits, test in fitted]).mean()
        found.converged[fold] = all(fits.converged[fold] for fits, _ in fitted)
    return found


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

    A draw has the same published fold whichever others are missing, and donors are dealt so that
    none is on both sides. Grouped folds divide donors: a classifier would take a held-out crop for
    the class that it has seen on that background, under `different` for the wrong one. So a cell is
    held out from both: it is told by a fit without the cells of its group's fold and without those
    of its published fold. Under every setting these are the same cells.

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
        cells of a group held out together, `folds` fits for each of their folds.
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
    fold_of = draw_folds(draws, folds) if usable else np.empty((2, draws), np.int64)
    own = {k: cells[k] @ cells[k].T for k in usable}
    for at, a in enumerate(usable):
        for b in usable[at + 1 :]:
            both = np.concatenate([cells[a], cells[b]])
            problem = Problem(both, len(cells[a]), (own[a], own[b]))
            published = np.concatenate([fold_of[0, present[a]], fold_of[1, present[b]]])
            partitions = []
            if groups is not None:
                grouped = grouped_folds(groups[a, present[a]], groups[b, present[b]], folds)
                partitions = _crossed(published, grouped, folds)
            fits, *others = solve(problem, [Partition(published), *partitions], folds, options)
            scores.accuracy[a, b] = fits.accuracy
            scores.converged[a, b] = fits.converged
            scores.iterations[a, b] = fits.iterations
            scores.coef[a, b], scores.intercept[a, b] = fits.coef, fits.intercept
            told = np.where(np.isfinite(fits.accuracy)[published], fits.right, -1)
            scores.decision[a, b, 0, present[a]] = told[: len(cells[a])]
            scores.decision[a, b, 1, present[b]] = told[len(cells[a]) :]
            if others:
                together = _together(partitions, others, problem.in_b)
                scores.grouped_accuracy[a, b] = together.accuracy
                scores.grouped_converged[a, b] = together.converged
    return scores
