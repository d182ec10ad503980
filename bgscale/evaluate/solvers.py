"""Linear SVMs of one pair of classes, one per fold.

Owns what a fit gives and which solver makes it: `libsvm` stops where the published figures stopped,
`exact` goes on until it has converged. The one idea: a solver gets the inner products of all cells
once, and cuts every fold out of them.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
from sklearn import config_context
from sklearn.svm import SVC

from bgscale.evaluate.folds import Integers

Floats: TypeAlias = npt.NDArray[np.float64]
Bools: TypeAlias = npt.NDArray[np.bool_]
Solver: TypeAlias = Literal["exact", "libsvm"]

FOLDS = 5
PENALTY = 1.0
TOLERANCE = 1e-3
MAX_ITERATIONS = 100_000


@dataclass(frozen=True)
class Options:
    """What a solver is told.

    Attributes
    ----------
    solver : "exact" or "libsvm"
    penalty : float
        C of the hinge loss.
    tolerance : float
        libsvm's stopping tolerance.
    max_iterations : int
        libsvm's limit per fit, -1 for none; `exact` has none.
    """

    solver: Solver = "exact"
    penalty: float = PENALTY
    tolerance: float = TOLERANCE
    max_iterations: int = MAX_ITERATIONS


@dataclass(frozen=True)
class Problem:
    """The cells of two classes.

    Attributes
    ----------
    features : array (cell, feature), float64
        Those of class a first.
    gram : array (cell, cell), float64
        Their inner products.
    cells_a : int
        How many are of class a.
    """

    features: Floats
    gram: Floats
    cells_a: int

    @cached_property
    def in_b(self) -> Bools:
        """Whether each cell is of class b."""
        return np.arange(len(self.gram)) >= self.cells_a


class Fits(NamedTuple):
    """What the fits of one pair give; F is the number of folds.

    Attributes
    ----------
    accuracy : array (fold,), float64
        Share of the held-out cells that are told right; NaN where a fold has no fit.
    converged : array (fold,), bool
    iterations : array (fold,), int64
    right : array (cell,), bool
        Whether each cell is told right where it is held out.
    coef : array (fold, feature), float64
    intercept : array (fold,), float64
        ``features @ coef + intercept > 0`` says class b.
    """

    accuracy: Floats
    converged: Bools
    iterations: Integers
    right: Bools
    coef: Floats
    intercept: Floats


class _QuietSVC(SVC):  # type: ignore[misc, unused-ignore]
    """SVC that leaves it to the caller to report a fit that has not converged."""

    def _warn_from_fit_status(self) -> None:
        # warnings.catch_warnings is not safe with several fits on threads of one process.
        pass


def no_fits(cells: int, features: int, folds: int) -> Fits:
    """Return fits of which none is made."""
    return Fits(
        np.full(folds, np.nan),
        np.zeros(folds, np.bool_),
        np.full(folds, -1),
        np.zeros(cells, np.bool_),
        np.full((folds, features), np.nan),
        np.full(folds, np.nan),
    )


def solve(problem: Problem, held_out: Integers, folds: int, options: Options) -> Fits:
    """Fit every fold of a pair.

    Parameters
    ----------
    problem : Problem
    held_out : array (cell,), int64
        The fold that holds out each cell; a fold that leaves a class without cells, and one that
        holds out none, has no fit.
    folds : int
    options : Options

    Returns
    -------
    Fits
    """
    cells, width = problem.features.shape
    fits = no_fits(cells, width, folds)
    cap = options.max_iterations
    svc = _QuietSVC(kernel="precomputed", C=options.penalty, tol=options.tolerance, max_iter=cap)
    with config_context(assume_finite=True, skip_parameter_validation=True):
        for fold in range(folds):
            test, train = np.flatnonzero(held_out == fold), np.flatnonzero(held_out != fold)
            if not len(test) or len(np.unique(problem.in_b[train])) < 2:
                continue
            svc.fit(problem.gram[np.ix_(train, train)], problem.in_b[train])
            told = svc.predict(problem.gram[np.ix_(test, train)])
            fits.right[test] = told == problem.in_b[test]
            fits.accuracy[fold] = fits.right[test].mean()
            fits.converged[fold] = svc.fit_status_ == 0
            fits.iterations[fold] = svc.n_iter_[0]
            fits.coef[fold] = svc.dual_coef_[0] @ problem.features[train[svc.support_]]
            fits.intercept[fold] = svc.intercept_[0]
    return fits
