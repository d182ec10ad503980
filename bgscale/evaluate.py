"""How well a linear SVM tells two localizations apart, pair by pair.

Owns the published procedure: folds, solver, and which problems there are. Refuses to own where
features come from and what is made of the accuracies (`bgscale.accuracy`). The one idea: a problem
is a Gram matrix. It is put together from blocks of classes that pairs share, and serves all folds,
so that the time goes to the published solver.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from sklearn import config_context
from sklearn.model_selection import StratifiedKFold
from sklearn.svm import SVC

from bgscale.accuracy import Bools, Floats, accuracy_dataset, neighbour_share, table
from bgscale.errors import InputError

__all__ = [
    "SvmScores",
    "SweepRow",
    "accuracy_dataset",
    "neighbour_share",
    "svm_accuracy",
    "svm_accuracy_from_gram",
    "sweep_row",
    "table",
]

FOLDS = 5
PENALTY = 1.0
TOLERANCE = 1e-3
MAX_ITERATIONS = 100_000


class SvmScores(NamedTuple):
    """What five fits give; arrays (fold,).

    Attributes
    ----------
    accuracy : float64, [0, 1]
        Share of the fold's cells that are told right.
    converged : bool
        False where the solver stopped at its iteration limit.
    iterations : int64
    """

    accuracy: Floats
    converged: Bools
    iterations: npt.NDArray[np.int64]


class SweepRow(NamedTuple):
    """All problems of one first class; arrays (setting, localization_b, background, fold).

    Attributes
    ----------
    accuracy : float64, [0, 1]; NaN where there is no such problem
        Entry 0 of `background` is the setting's own background, entry 1 + g background class g.
    converged : bool; False where there is no such problem
    """

    accuracy: Floats
    converged: Bools


class _QuietSVC(SVC):  # type: ignore[misc, unused-ignore]
    """SVC that leaves it to the caller to report a fit that has not converged."""

    def _warn_from_fit_status(self) -> None:
        # warnings.catch_warnings is not safe with several fits on threads of one process.
        pass


@lru_cache(maxsize=64)
def _splits(
    cells_a: int, cells_b: int, folds: int
) -> list[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
    """Return (train, test) cell numbers of the unshuffled stratified folds."""
    labels = np.repeat([0, 1], [cells_a, cells_b])
    return list(StratifiedKFold(folds).split(labels, labels))


def svm_accuracy(
    features_a: npt.NDArray[np.floating],
    features_b: npt.NDArray[np.floating],
    *,
    folds: int = FOLDS,
    penalty: float = PENALTY,
    tolerance: float = TOLERANCE,
    max_iterations: int = MAX_ITERATIONS,
) -> SvmScores:
    """Return the cross-validated accuracy of a linear SVM that tells class a from class b.

    The published procedure: raw features, ``SVC(kernel="linear", C=1)``, 5 stratified folds in the
    order of the cells. Features that are the same for all cells carry nothing: the result is then
    the accuracy of a guess (0.5 for classes of equal size).

    Parameters
    ----------
    features_a, features_b : arrays (cell, feature), float, finite
        The two classes may have different numbers of cells, each at least `folds`.
    folds : int
    penalty : float
        C of the hinge loss.
    tolerance : float
        The solver's stopping tolerance.
    max_iterations : int
        The solver's limit per fit; -1 for none. The published figures used 100,000.

    Returns
    -------
    SvmScores

    Examples
    --------
    >>> a = np.linspace(0.0, 1.0, 20).reshape(10, 2)
    >>> svm_accuracy(a, a + 5.0).accuracy.tolist()
    [1.0, 1.0, 1.0, 1.0, 1.0]
    """
    cells = []
    for name, features in (("features_a", features_a), ("features_b", features_b)):
        if features.ndim != 2:
            msg = f"{name} has shape {features.shape}; expected (cell, feature)"
            raise InputError(msg)
        bad = np.flatnonzero(~np.isfinite(features).all(axis=1))
        if bad.size:
            msg = (
                f"{name}: {bad.size} of {len(features)} cells have NaN or infinite features "
                f"(first: row {bad[0]}); expected finite features: leave these cells out"
            )
            raise InputError(msg)
        cells.append(np.asarray(features, np.float64))
    a, b = cells
    if a.shape[1] != b.shape[1]:
        msg = (
            f"features_a has {a.shape[1]} features and features_b {b.shape[1]}; expected equally "
            "many: give features of one layer of one model"
        )
        raise InputError(msg)
    return svm_accuracy_from_gram(
        a @ a.T,
        a @ b.T,
        b @ b.T,
        folds=folds,
        penalty=penalty,
        tolerance=tolerance,
        max_iterations=max_iterations,
    )


def svm_accuracy_from_gram(
    aa: Floats,
    ab: Floats,
    bb: Floats,
    *,
    folds: int = FOLDS,
    penalty: float = PENALTY,
    tolerance: float = TOLERANCE,
    max_iterations: int = MAX_ITERATIONS,
) -> SvmScores:
    """Do as `svm_accuracy`, from inner products, so that class blocks are shared between pairs.

    Parameters
    ----------
    aa, ab, bb : arrays (cell_a, cell_a), (cell_a, cell_b), (cell_b, cell_b), float64
        Inner products of the cells' raw features.
    folds, penalty, tolerance, max_iterations
        As in `svm_accuracy`.

    Returns
    -------
    SvmScores
    """
    n_a, n_b = ab.shape
    if aa.shape != (n_a, n_a) or bb.shape != (n_b, n_b):
        msg = (
            f"Gram blocks have shapes aa {aa.shape}, ab {ab.shape}, bb {bb.shape}; expected "
            f"({n_a}, {n_a}), ({n_a}, {n_b}), ({n_b}, {n_b})"
        )
        raise InputError(msg)
    if folds < 2 or penalty <= 0 or tolerance <= 0 or max_iterations < -1 or max_iterations == 0:
        msg = (
            f"got folds={folds}, penalty={penalty}, tolerance={tolerance}, "
            f"max_iterations={max_iterations}; expected at least 2 folds, penalty and tolerance "
            "above 0, and a positive iteration limit (or -1 for none)"
        )
        raise InputError(msg)
    for name, n in (("a", n_a), ("b", n_b)):
        if n < folds:
            msg = (
                f"class {name} has {n} cells; expected at least {folds}, one per fold: give more "
                "cells, lower `folds` or leave the class out"
            )
            raise InputError(msg)
    gram = np.block([[aa, ab], [ab.T, bb]])
    if not np.isfinite(gram).all():
        msg = "Gram blocks hold NaN or infinite values; expected finite ones: check the features"
        raise InputError(msg)
    labels = np.repeat([0, 1], [n_a, n_b])
    scores = SvmScores(np.empty(folds), np.empty(folds, np.bool_), np.empty(folds, np.int64))
    svc = _QuietSVC(kernel="precomputed", C=penalty, tol=tolerance, max_iter=max_iterations)
    with config_context(assume_finite=True, skip_parameter_validation=True):
        for fold, (train, test) in enumerate(_splits(n_a, n_b, folds)):
            svc.fit(gram[np.ix_(train, train)], labels[train])
            told = svc.predict(gram[np.ix_(test, train)])
            scores.accuracy[fold] = np.mean(told == labels[test])
            scores.converged[fold] = svc.fit_status_ == 0
            scores.iterations[fold] = svc.n_iter_[0]
    return scores


def _present_cells(block: npt.NDArray[np.floating], where: str) -> Floats:
    """Return the draws of (draw, feature) that exist; a missing draw has NaN in all features."""
    cells = np.asarray(block, np.float64)
    finite = np.isfinite(cells)
    present = finite.any(axis=1) | np.isinf(cells).any(axis=1)
    broken = np.flatnonzero(present & ~finite.all(axis=1))
    if broken.size:
        msg = (
            f"{where}: draw {broken[0]} has NaN or infinite values in some features; expected all "
            "finite, or all NaN for a missing draw: the model's output is not usable"
        )
        raise InputError(msg)
    return cells if present.all() else cells[present]


def sweep_row(
    a: int,
    features: Mapping[str, npt.NDArray[np.floating]],
    *,
    localizations: Sequence[str],
    folds: int = FOLDS,
    penalty: float = PENALTY,
    tolerance: float = TOLERANCE,
    max_iterations: int = MAX_ITERATIONS,
) -> SweepRow:
    """Return the accuracies of all problems of localization `a` against those after it.

    One call is one unit of work. Blocks are read one at a time by integer indices, so `features`
    may hold anything that is indexed like an array.

    Parameters
    ----------
    a : int
        Number of the first class.
    features : mapping of setting to array
        (localization, draw, feature), float, for a setting with one background per cell: one
        problem per pair. (background, localization, draw, feature) for a setting with crops on the
        background of each class: one problem per pair and background. Draws that are missing have
        NaN in all features; a class with fewer than `folds` draws has no problem.
    localizations : sequence of str
        Names in the screen's order.
    folds, penalty, tolerance, max_iterations
        As in `svm_accuracy`.

    Returns
    -------
    SweepRow
        Settings in the order of `features`.
    """
    n = len(localizations)
    shape = (len(features), n, 1 + n, folds)
    row = SweepRow(np.full(shape, np.nan), np.zeros(shape, np.bool_))
    for s, (setting, grid) in enumerate(features.items()):
        each = grid.ndim == 4
        if (grid.shape[:2] != (n, n)) if each else (grid.ndim != 3 or grid.shape[0] != n):
            msg = (
                f"grid of setting {setting!r} has shape {grid.shape}; expected ({n}, draw, "
                f"feature) or ({n}, {n}, draw, feature) for {n} localizations"
            )
            raise InputError(msg)
        for g in range(n) if each else (-1,):
            where = f"setting {setting!r}" + (f", background {localizations[g]!r}" if each else "")
            cells_a = _present_cells(
                grid[g, a] if each else grid[a], f"{where}, localization {localizations[a]!r}"
            )
            if len(cells_a) < folds:
                continue
            aa = cells_a @ cells_a.T
            for b in range(a + 1, n):
                cells_b = _present_cells(
                    grid[g, b] if each else grid[b], f"{where}, localization {localizations[b]!r}"
                )
                if len(cells_b) < folds:
                    continue
                scores = svm_accuracy_from_gram(
                    aa,
                    cells_a @ cells_b.T,
                    cells_b @ cells_b.T,
                    folds=folds,
                    penalty=penalty,
                    tolerance=tolerance,
                    max_iterations=max_iterations,
                )
                row.accuracy[s, b, 1 + g] = scores.accuracy
                row.converged[s, b, 1 + g] = scores.converged
    return row
