"""The accuracy of one pair of classes, from its features or from its inner products.

Owns what may be asked of a single problem, and refuses what cannot be answered.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from bgscale.errors import InputError
from bgscale.evaluate.folds import Integers, published_folds
from bgscale.evaluate.interior import factor
from bgscale.evaluate.solvers import (
    FOLDS,
    MAX_ITERATIONS,
    PENALTY,
    TOLERANCE,
    Bools,
    Floats,
    Options,
    Partition,
    Problem,
    Solver,
    solve,
)


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
    iterations: Integers


def check_options(folds: int, options: Options) -> None:
    """Refuse what no solver can do.

    Raises
    ------
    InputError
        Names the option and what is expected of it.
    """
    if options.solver not in ("exact", "libsvm"):
        msg = f"solver is {options.solver!r}; expected 'exact' or 'libsvm'"
        raise InputError(msg)
    limit = options.max_iterations
    if folds < 2 or options.penalty <= 0 or options.tolerance <= 0 or limit < -1 or limit == 0:
        msg = (
            f"got folds={folds}, penalty={options.penalty}, tolerance={options.tolerance}, "
            f"max_iterations={limit}; expected at least 2 folds, penalty and tolerance "
            "above 0, and a positive iteration limit (or -1 for none)"
        )
        raise InputError(msg)


def _scores(problem: Problem, folds: int, options: Options) -> SvmScores:
    cells_b = len(problem.features) - problem.cells_a
    for name, n in (("a", problem.cells_a), ("b", cells_b)):
        if n < folds:
            msg = (
                f"class {name} has {n} cells; expected at least {folds}, one per fold: give more "
                "cells, lower `folds` or leave the class out"
            )
            raise InputError(msg)
    held_out = published_folds(problem.cells_a, cells_b, folds)
    (fits,) = solve(problem, [Partition(held_out)], folds, options)
    return SvmScores(fits.accuracy, fits.converged, fits.iterations)


def svm_accuracy(
    features_a: npt.NDArray[np.floating],
    features_b: npt.NDArray[np.floating],
    *,
    solver: Solver = "exact",
    folds: int = FOLDS,
    penalty: float = PENALTY,
    tolerance: float = TOLERANCE,
    max_iterations: int = MAX_ITERATIONS,
) -> SvmScores:
    """Return the cross-validated accuracy of a linear SVM that tells class a from class b.

    Raw features, hinge loss with C = 1, 5 stratified folds in the order of the cells. Features that
    are the same for all cells carry nothing: the result is then the accuracy of a guess (0.5 for
    classes of equal size).

    Parameters
    ----------
    features_a, features_b : arrays (cell, feature), float, finite
        The two classes may have different numbers of cells, each at least `folds`.
    solver : "exact" or "libsvm"
        ``libsvm`` is the published procedure, ``SVC(kernel="linear", C=1, max_iter=100_000)``;
        ``exact`` always converges.
    folds : int
    penalty : float
        C of the hinge loss.
    tolerance : float
        libsvm's stopping tolerance, also where ``exact`` uses it.
    max_iterations : int
        libsvm's limit per fit; -1 for none. The published figures used 100,000. ``exact`` has no
        limit.

    Returns
    -------
    SvmScores

    Raises
    ------
    InputError
        Features that are not finite or of another shape, too few cells, an option out of range.

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
    options = Options(solver, penalty, tolerance, max_iterations)
    check_options(folds, options)
    return _scores(Problem(np.concatenate([a, b]), len(a)), folds, options)


def svm_accuracy_from_gram(
    aa: Floats,
    ab: Floats,
    bb: Floats,
    *,
    solver: Solver = "exact",
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
    solver, folds, penalty, tolerance, max_iterations
        As in `svm_accuracy`.

    Returns
    -------
    SvmScores

    Raises
    ------
    InputError
        Blocks that do not fit together or are not finite; otherwise as `svm_accuracy`.
    """
    n_a, n_b = ab.shape
    if aa.shape != (n_a, n_a) or bb.shape != (n_b, n_b):
        msg = (
            f"Gram blocks have shapes aa {aa.shape}, ab {ab.shape}, bb {bb.shape}; expected "
            f"({n_a}, {n_a}), ({n_a}, {n_b}), ({n_b}, {n_b})"
        )
        raise InputError(msg)
    options = Options(solver, penalty, tolerance, max_iterations)
    check_options(folds, options)
    gram = np.block([[aa, ab], [ab.T, bb]])
    if not np.isfinite(gram).all():
        msg = "Gram blocks hold NaN or infinite values; expected finite ones: check the features"
        raise InputError(msg)
    features = factor(gram) if solver == "exact" else np.empty((len(gram), 0))
    return _scores(Problem(features, n_a, known_gram=gram), folds, options)
