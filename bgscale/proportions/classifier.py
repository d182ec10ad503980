"""The classifier of single cells: multinomial logistic regression, fitted out of fold.

Owns the fit. The one idea: every fit that a protein's cells are scored by is a fit that the protein
had no part in.
"""

import functools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize
from threadpoolctl import ThreadpoolController

from bgscale.errors import InputError
from bgscale.proportions.folds import Folds

FloatArray: TypeAlias = npt.NDArray[np.float64]
IntArray: TypeAlias = npt.NDArray[np.int64]

PENALTY = 1e-3
"""Ridge penalty on the coefficients of standardised features, per unit of mean cross entropy."""
TOLERANCE = 1e-6
"""Largest gradient of the mean cross entropy at which a fit counts as converged."""
REPLICATE_TOLERANCE = 1e-4
"""The same for replicates: their spread differs by under 0.2% from that of fits to 1e-7."""
MAX_ITERATIONS = 2000


@dataclass(frozen=True, eq=False)
class Classifier:
    """A multinomial logistic regression of localization on features.

    Parameters
    ----------
    coef : array (localization, feature), float64
        For standardised features.
    intercept : array (localization,), float64
        Minus infinity for a localization without training cells: its probability is exactly 0.
    mean, scale : arrays (feature,), float64
        Standardisation; the scale of a constant feature is 1.
    converged : bool
    iterations : int
    prior : array (localization,), float64
        Share of each localization in the training: of the weights, if classes were balanced equal.
    """

    coef: FloatArray
    intercept: FloatArray
    mean: FloatArray
    scale: FloatArray
    converged: bool
    iterations: int
    prior: FloatArray


def fit_classifier(
    features: npt.ArrayLike,
    targets: npt.ArrayLike,
    *,
    n_localizations: int,
    weights: npt.ArrayLike | None = None,
    penalty: float = PENALTY,
    start: Classifier | None = None,
    tolerance: float = TOLERANCE,
) -> Classifier:
    """Fit by L-BFGS, in float64 and on one thread: the same cells in the same order, the same bits.

    Cells are weighted so that every localization has the same total: else the intercepts learn
    how common each is *in the list of training proteins*, and pull every protein towards that.

    Parameters
    ----------
    features : array (cell, feature), float
    targets : array (cell,), int
        Localization of each cell.
    n_localizations : int
    weights : array (cell,), optional
        Relative weights within a localization, for example of a replicate.
    penalty : float
        Of the mean cross entropy, so that it means the same for any number of cells.
    start : Classifier, optional
        Where to start; its standardisation is kept.
    tolerance : float
        Largest absolute gradient at which the fit is converged.

    Returns
    -------
    Classifier
    """
    x, classes, code, w = _training(features, targets, weights, n_localizations, penalty)
    w = w / np.bincount(code, w)[code] / len(classes)

    if start is None:
        mean, scale = x.mean(axis=0), x.std(axis=0)
        constant = np.ptp(x, axis=0) == 0  # where mean and sd are rounded, not exact
        mean[constant], scale[constant] = x[0, constant], 1.0
    else:
        mean, scale = start.mean, start.scale
    design = np.ones((x.shape[1] + 1, len(x)))
    design[:-1] = ((x - mean) / scale).T
    theta = np.zeros((len(classes), len(design)))
    if start is not None:
        theta[:, :-1] = start.coef[classes]
        known = np.isfinite(start.intercept[classes])
        theta[known, -1] = start.intercept[classes][known]
    options = {"gtol": tolerance, "ftol": 0.0, "maxiter": MAX_ITERATIONS, "maxfun": 10**6}
    with one_thread():
        result = minimize(
            _loss,
            theta.ravel(),
            args=(design, code, w, penalty),
            jac=True,
            method="L-BFGS-B",
            options=options,
        )
    theta = result.x.reshape(theta.shape)
    coef = np.zeros((n_localizations, x.shape[1]))
    intercept = np.full(n_localizations, -np.inf)
    coef[classes], intercept[classes] = theta[:, :-1], theta[:, -1]
    prior = np.zeros(n_localizations)
    prior[classes] = 1 / len(classes)
    converged = bool(np.abs(result.jac).max() <= tolerance)
    return Classifier(coef, intercept, mean, scale, converged, int(result.nit), prior)


def fit_published(
    features: npt.ArrayLike,
    targets: npt.ArrayLike,
    *,
    n_localizations: int,
    seed: int,
    weights: npt.ArrayLike | None = None,
) -> Classifier:
    """Fit as published: a few epochs of Adam on raw features, without a penalty.

    Classes are as common as their cells are. It is not `converged`: it ends with its epochs.

    Parameters
    ----------
    features : array (cell, feature), float
        Rounded to float32.
    targets : array (cell,), int
    n_localizations : int
    seed : int
        Of the first weights and of the order of the cells.
    weights : array (cell,), int, optional
        How often an epoch shows a cell.

    Returns
    -------
    Classifier
    """
    from bgscale.proportions.published import adam

    x, classes, code, w = _training(features, targets, weights, n_localizations, 0.0, np.float32)
    if (w != np.rint(w)).any():
        msg = f"weights such as {w[w != np.rint(w)][0]}: how often a cell is shown is an integer"
        raise InputError(msg)
    cells = np.ascontiguousarray(x), code.astype(np.int64), w.astype(np.int64)
    with one_thread():
        theta, steps = adam(*cells, classes=len(classes), seed=seed)
    coef = np.zeros((n_localizations, x.shape[1]))
    intercept = np.full(n_localizations, -np.inf)
    coef[classes], intercept[classes] = theta[:, :-1], theta[:, -1]
    plain = np.zeros(x.shape[1]), np.ones(x.shape[1])
    prior = np.zeros(n_localizations)
    prior[classes] = np.bincount(code, w) / w.sum()
    return Classifier(coef, intercept, *plain, False, steps, prior)  # noqa: FBT003


def _training(
    features: npt.ArrayLike,
    targets: npt.ArrayLike,
    weights: npt.ArrayLike | None,
    n_localizations: int,
    penalty: float,
    dtype: type[np.floating[Any]] = np.float64,
) -> tuple[npt.NDArray[Any], IntArray, IntArray, FloatArray]:
    """Return features, classes, class codes and weights of the cells that count, checked."""
    x = finite(features, "training features", dtype)
    t = np.asarray(targets, np.int64)
    w = np.ones(len(x)) if weights is None else np.asarray(weights, np.float64)
    weighted = w.shape == (len(x),) and bool((np.isfinite(w) & (w >= 0)).all())
    if t.shape != (len(x),) or not weighted or not penalty >= 0:
        msg = (
            f"targets {t.shape}, weights {w.shape} and penalty {penalty} for {len(x)} cells: give "
            "one target and one finite weight of 0 or more per cell, and a penalty of 0 or more"
        )
        raise InputError(msg)
    if t.size and not 0 <= t.min() <= t.max() < n_localizations:
        msg = f"targets run from {t.min()} to {t.max()}, expected 0 to {n_localizations - 1}"
        raise InputError(msg)
    if not (w > 0).all():
        x, t, w = x[w > 0], t[w > 0], w[w > 0]
    classes, code = np.unique(t, return_inverse=True)
    if len(classes) < 2:
        msg = f"training cells show {len(classes)} localization(s), need 2: add other proteins"
        raise InputError(msg)
    return x, classes, code, w


def _loss(
    flat: FloatArray, design: FloatArray, code: IntArray, w: FloatArray, penalty: float
) -> tuple[float, FloatArray]:
    """Return penalised cross entropy and gradient; cells run along the contiguous last axis."""
    theta = flat.reshape(-1, len(design))
    cells = np.arange(len(code))
    p = theta @ design
    p -= p.max(axis=0)
    own = p[code, cells]
    np.exp(p, out=p)
    total = p.sum(axis=0)
    p *= w / total
    p[code, cells] -= w
    gradient = p @ design.T
    gradient[:, :-1] += penalty * theta[:, :-1]
    ridge = 0.5 * penalty * np.square(theta[:, :-1]).sum()
    return float(w @ (np.log(total) - own) + ridge), gradient.ravel()


def fit_out_of_fold(
    features: npt.ArrayLike,
    group: npt.ArrayLike,
    folds: Folds,
    *,
    weights: npt.ArrayLike,
    penalty: float = PENALTY,
    hyperparameters: Literal["converged", "published"] = "converged",
    seed: int = 0,
) -> list[list[Classifier]]:
    """Fit, for every fold, the classifier that omits it, and its replicates.

    Fit on `original` for ``fixed``, on the cells under a setting for ``matched``.

    Parameters
    ----------
    features : array (cell, feature), float
        Cells of groups without a target are left aside.
    group : array (cell,), int
        Index into `folds`.
    folds : Folds
    weights : array (replicate, group)
        From `replicate_weights`; may have no replicates.
    penalty : float
    hyperparameters : {"converged", "published"}
        By `fit_classifier`, or by `fit_published`, which has no penalty.
    seed : int
        Of the published fit.

    Returns
    -------
    list over folds of lists of 1 + replicate classifiers
    """
    x = np.asarray(features)
    cell_group = np.asarray(group, np.int64)
    weights = np.asarray(weights)
    classifiers = []
    for fold in range(int(folds.fold.max()) + 1):
        train = np.flatnonzero((folds.target >= 0)[cell_group] & (folds.fold != fold)[cell_group])
        cells = x[train], folds.target[cell_group[train]]
        how: dict[str, Any] = {"n_localizations": len(folds.learnable)}
        if hyperparameters == "published":
            shown = [None, *(w[cell_group[train]] for w in weights)]
            classifiers.append([fit_published(*cells, **how, seed=seed, weights=w) for w in shown])
            continue
        fit = functools.partial(fit_classifier, *cells, **how, penalty=penalty)
        first = fit()
        replicates = [
            fit(weights=w[cell_group[train]], start=first, tolerance=REPLICATE_TOLERANCE)
            for w in weights
        ]
        classifiers.append([first, *replicates])
    return classifiers


@functools.cache
def _blas() -> Any:
    return ThreadpoolController()


_HERE = threading.local()


@contextmanager
def one_thread() -> Iterator[None]:
    """Keep BLAS on one thread: how a product is split over threads changes its last bits.

    Asking the libraries takes a millisecond: who does many small things does them inside one, in
    which further ones cost nothing.
    """
    if getattr(_HERE, "inside", False):
        yield
        return
    with _blas().limit(limits=1, user_api="blas"):
        _HERE.inside = True
        try:
            yield
        finally:
            _HERE.inside = False


def finite(
    features: npt.ArrayLike, what: str, dtype: type[np.floating[Any]] = np.float64
) -> npt.NDArray[Any]:
    """Return features (cell, feature) as float64, or as `dtype`.

    Raises
    ------
    InputError
        Another shape, or a value that is NaN or infinite; `what` says whose.
    """
    x = np.asarray(features, dtype)
    if x.ndim != 2:
        msg = f"{what} have shape {x.shape}, expected (cell, feature)"
        raise InputError(msg)
    bad = np.flatnonzero(~np.isfinite(x).all(axis=1))
    if bad.size:
        msg = (
            f"{what} of {bad.size} of {len(x)} cells are NaN or infinite, first those of cell "
            f"{bad[0]}: leave out cells that are missing under a setting"
        )
        raise InputError(msg)
    return x
