"""Linear SVMs of one pair of classes, one per fold.

Owns what a fit gives and which solver makes it. `libsvm` stops where the published figures stopped.
`exact` always converges: by libsvm where that is quick, else by the interior-point method, whose
cost hardly depends on the problem. The one idea: what decides is how far libsvm comes in as many
iterations as the other method costs, never a clock, so that results are the same everywhere.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
from sklearn import config_context
from sklearn.svm import SVC

from bgscale.evaluate.folds import Integers
from bgscale.evaluate.interior import hyperplanes

Floats: TypeAlias = npt.NDArray[np.float64]
Bools: TypeAlias = npt.NDArray[np.bool_]
Solver: TypeAlias = Literal["exact", "libsvm"]

FOLDS = 5
PENALTY = 1.0
TOLERANCE = 1e-3
MAX_ITERATIONS = 100_000

PATIENCE = (0.2, 0.75)
"""Iterations of libsvm, by squared feature, after which `exact` gives it up.

Both methods take a time that is proportional to the cells, but an iteration is three times as quick
where few cells are support vectors. Then the second number holds: so many iterations take longer
than an interior-point fit, and as the first fold decides for those after it, a pair takes hardly
longer than it takes libsvm without a limit. Otherwise the first number holds, as the fits that have
many support vectors need many more iterations yet."""
FEW_SUPPORT = 0.25
"""Share of the cells up to which support vectors are few."""
FEWEST_ITERATIONS = 1_000
QUICK = 300
"""Iterations below which a fit looks at so few cells that inner products of all do not pay."""
ROUNDING = 1e-9
"""Decisions that are closer to zero than this share of their terms are summed as libsvm does."""


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
    """The cells of two classes, those of class a first.

    Attributes
    ----------
    features : array (cell, feature), float64
    cells_a : int
        How many are of class a.
    own : pair of arrays (cell, cell), float64, optional
        The inner products within each class, where they are known.
    known_gram : array (cell, cell), float64, optional
        Where `features` are derived from it.
    """

    features: Floats
    cells_a: int
    own: tuple[Floats, Floats] | None = None
    known_gram: Floats | None = None

    @cached_property
    def in_b(self) -> Bools:
        """Whether each cell is of class b."""
        return np.arange(len(self.features)) >= self.cells_a

    @cached_property
    def gram(self) -> Floats:
        """Inner products of all cells."""
        if self.known_gram is not None:
            return self.known_gram
        n, a, b = self.cells_a, self.features[: self.cells_a], self.features[self.cells_a :]
        within_a, within_b = (a @ a.T, b @ b.T) if self.own is None else self.own
        gram = np.empty((len(self.features), len(self.features)))
        gram[:n, :n], gram[n:, n:] = within_a, within_b
        np.matmul(a, b.T, out=gram[:n, n:])
        gram[n:, :n] = gram[:n, n:].T
        return gram


class Partition(NamedTuple):
    """Which cells each fold holds out.

    Attributes
    ----------
    fold : array (cell,), int64
        The fold that holds out each cell.
    tested : array (cell,), bool, optional
        Cells that are held out of all folds, and tested in their own; the others are not. None: all
        are tested in their own fold and trained with in the others.
    """

    fold: Integers
    tested: Bools | None = None

    def test(self, fold: int) -> Bools:
        """Return which cells a fold is tested with."""
        held_out: Bools = self.fold == fold
        return held_out if self.tested is None else held_out & self.tested

    def train(self, fold: int) -> Bools:
        """Return which cells a fold is fitted with."""
        others: Bools = self.fold != fold
        return others if self.tested is None else others & ~self.tested


class Fits(NamedTuple):
    """What the fits of one pair give; F is the number of folds.

    Attributes
    ----------
    accuracy : array (fold,), float64
        Share of the held-out cells that are told right; NaN where a fold has no fit.
    converged : array (fold,), bool
    iterations : array (fold,), int64
        Of libsvm, or steps of the interior-point method.
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

    @classmethod
    def none(cls, cells: int, features: int, folds: int) -> "Fits":
        """Return fits of which none is made."""
        return cls(
            np.full(folds, np.nan),
            np.zeros(folds, np.bool_),
            np.full(folds, -1, np.int64),
            np.zeros(cells, np.bool_),
            np.full((folds, features), np.nan),
            np.full(folds, np.nan),
        )


class _QuietSVC(SVC):  # type: ignore[misc, unused-ignore]
    """SVC that leaves it to the caller to report a fit that has not converged."""

    def _warn_from_fit_status(self) -> None:
        # warnings.catch_warnings is not safe with several fits on threads of one process.
        pass


@lru_cache(maxsize=1)
def _counts_all_cells() -> bool:
    """Whether the numbers of support vectors count cells of no weight too."""
    svc = SVC(kernel="precomputed").fit(np.eye(3), [0, 0, 1], sample_weight=[0.0, 1.0, 1.0])
    return int(svc.support_[0]) == 1


class _Libsvm:
    """libsvm on the cells of one pair, at first on features, then on inner products."""

    def __init__(self, problem: Problem, options: Options, limit: int) -> None:
        self.problem, self.by_gram = problem, problem.known_gram is not None
        self.options = {"C": options.penalty, "tol": options.tolerance, "max_iter": limit}
        self.support = 0.0

    def fit(self, fits: Fits, fold: int, partition: Partition) -> bool:
        """Fit one fold; return whether it has converged."""
        problem, fitted = self.problem, partition.train(fold)
        test, train = np.flatnonzero(partition.test(fold)), np.flatnonzero(fitted)
        if self.by_gram:
            # cells of no weight are left out by libsvm, which saves to copy the others
            svc = _QuietSVC(kernel="precomputed", **self.options)
            svc.fit(problem.gram, problem.in_b, sample_weight=fitted * 1.0)
            support = svc.support_ if _counts_all_cells() else train[svc.support_]
            inner = problem.gram[np.ix_(test, support)]
        else:
            svc = _QuietSVC(kernel="linear", **self.options)
            svc.fit(problem.features[train], problem.in_b[train])
            support = train[svc.support_]
            inner = problem.features[test] @ problem.features[support].T
        self.support = len(support) / len(train)
        weights, intercept = svc.dual_coef_[0], svc.intercept_[0]
        value = inner @ weights + intercept
        told = value > 0
        # where a sum in another order may have another sign: libsvm's order, ties are of class b
        size = np.abs(inner) @ np.abs(weights) + abs(intercept)
        close = np.abs(value) <= ROUNDING * size
        if close.any():
            told[close] = np.cumsum(inner[close] * weights, axis=1)[:, -1] + intercept >= 0
        fits.right[test] = told == problem.in_b[test]
        fits.accuracy[fold] = fits.right[test].mean()
        fits.converged[fold] = svc.fit_status_ == 0
        fits.iterations[fold] = svc.n_iter_[0]
        fits.coef[fold] = weights @ problem.features[support]
        fits.intercept[fold] = intercept
        self.by_gram = self.by_gram or svc.n_iter_[0] > QUICK
        return bool(fits.converged[fold])


def _interior(
    problem: Problem, fits: Fits, folds: Sequence[int], partition: Partition, penalty: float
) -> None:
    """Fit some folds by the interior-point method."""
    if not folds:
        return
    train = np.stack([partition.train(fold) for fold in folds])
    found = hyperplanes(problem.features, problem.in_b, train, penalty=penalty)
    for at, fold in enumerate(folds):
        test = partition.test(fold)
        told = problem.features[test] @ found.coef[at] + found.intercept[at] > 0
        fits.right[test] = told == problem.in_b[test]
        fits.accuracy[fold] = fits.right[test].mean()
        fits.coef[fold], fits.intercept[fold] = found.coef[at], found.intercept[at]
        fits.converged[fold], fits.iterations[fold] = found.converged[at], found.steps[at]


def solve(
    problem: Problem, partitions: Sequence[Partition], folds: int, options: Options
) -> list[Fits]:
    """Fit every fold of every partition of a pair's cells.

    Parameters
    ----------
    problem : Problem
    partitions : sequence of Partition
        A fold that leaves a class without cells, one that holds out cells of one class or none, and
        one that tests none has no fit: what it would give is no accuracy. What a partition gives
        does not depend on those after it.
    folds : int
    options : Options

    Returns
    -------
    list of Fits
        One for each partition.
    """
    cells, width = problem.features.shape
    exact = options.solver == "exact"
    first, longest = (
        max(FEWEST_ITERATIONS, int(patience * min(width, cells) ** 2)) for patience in PATIENCE
    )
    libsvm = _Libsvm(problem, options, first if exact else options.max_iterations)
    quick = True
    made = []
    with config_context(assume_finite=True, skip_parameter_validation=True):
        for partition in partitions:
            fits = Fits.none(cells, width, folds)
            open_folds = []
            for fold in range(folds):
                sides = partition.train(fold), partition.fold == fold
                of_both = all(len(np.unique(problem.in_b[side])) == 2 for side in sides)
                if not of_both or not partition.test(fold).any():
                    continue
                converged = quick and libsvm.fit(fits, fold, partition)
                if exact and quick and not converged and libsvm.support <= FEW_SUPPORT:
                    libsvm.options["max_iter"] = longest
                    converged = libsvm.fit(fits, fold, partition)
                if exact and not converged:
                    quick = False
                    open_folds.append(fold)
            _interior(problem, fits, open_folds, partition, options.penalty)
            made.append(fits)
    return made
