"""Linear SVMs by an interior-point method: exact, at a cost that hardly depends on difficulty.

Owns the fits that are too hard for libsvm. The one idea: there are far fewer features than cells,
so a Newton step on all cells is one small system of features. Several training sets of the same
cells are solved side by side, in float64, on the processor or on a graphics card.

The problem is ``min |w|^2 / 2 + C sum max(0, 1 - y (x w + b))``. Its optimality conditions, with
multipliers alpha in [0, C] of the margins and slacks of both bounds, are followed to zero
complementarity by predictor and corrector steps [1]_ [2]_. The hyperplane stays a variable of its
own, so that it does not suffer from the cancellation that eliminating it brings. A fit has
converged when its duality gap, which bounds how far it is from the optimum, is closed.

References
----------
.. [1] Ferris and Munson 2002, Interior-point methods for massive support vector machines, SIAM
   Journal on Optimization 13:783-804.
.. [2] Mehrotra 1992, On the implementation of a primal-dual interior point method, SIAM Journal on
   Optimization 2:575-601.
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.linalg import cho_factor, cho_solve
from scipy.linalg.lapack import dpstrf

from bgscale.evaluate.folds import Integers

GAP = 1e-8
"""Duality gap that a fit is taken to, as a share of the objective."""
ENOUGH = 1e-6
"""Gap at which a fit has converged too, where rounding keeps it from a smaller one."""
MAX_STEPS = 100
"""Some 15 are needed."""
INSIDE = 0.99
"""Share of the way to the nearest bound that a step goes."""
JITTER = 1e-13
"""Added to the diagonal, relatively: features may be copies of each other."""
CONSTANT = 1e-12
"""Spread of features, as a share of their size, below which they are the same for all cells."""


class Hyperplanes(NamedTuple):
    """One for each training set; arrays (fit,), and (fit, feature) for `coef`."""

    coef: npt.NDArray[np.float64]
    intercept: npt.NDArray[np.float64]
    converged: npt.NDArray[np.bool_]
    steps: Integers


def factor(gram: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return features (cell, rank) that have these inner products."""
    lower, pivots, rank, _ = dpstrf(gram, lower=1)
    features = np.empty((len(gram), rank))
    features[pivots - 1] = np.tril(lower)[:, :rank]
    return features


def best_intercepts(
    values: npt.NDArray[np.float64], sign: npt.NDArray[np.float64], train: npt.NDArray[np.bool_]
) -> npt.NDArray[np.float64]:
    """Return the intercept of least hinge loss, the middle one where there are several.

    Parameters
    ----------
    values : array (fit, cell), float64
        Features times coefficients.
    sign : array (cell,), float64
        1 for class b, -1 for class a.
    train : array (fit, cell), bool

    Returns
    -------
    array (fit,), float64
    """
    found = np.empty(len(values))
    for fit, use in enumerate(train):
        # the loss falls until as many kinks are passed as there are cells of class b
        kinks = np.sort((sign - values[fit])[use])
        count = int((sign[use] > 0).sum())
        found[fit] = (kinks[count - 1] + kinks[count]) / 2
    return found


class _Normal:
    """Factors of ``diag(1, .., 1, 0) + A' D A``, one for each fit."""

    def __init__(self, cells: Any, weights: Any) -> None:
        self.numpy = isinstance(cells, np.ndarray)
        width = cells.shape[1]
        if self.numpy:
            self.factors = []
            for row in weights:
                use = row > 0
                scaled = cells[use] * np.sqrt(row[use])[:, None]
                matrix = scaled.T @ scaled  # numpy sees that it is symmetric
                matrix.flat[:: width + 1] *= 1.0 + JITTER
                matrix.flat[: -1 : width + 1] += 1.0
                self.factors.append(cho_factor(matrix, lower=True, check_finite=False))
            return
        import torch

        scaled = cells * torch.sqrt(weights)[:, :, None]
        matrix = scaled.mT @ scaled
        diagonal = torch.diagonal(matrix, dim1=1, dim2=2)
        diagonal *= 1.0 + JITTER
        diagonal[:, :-1] += 1.0
        self.lower = torch.linalg.cholesky(matrix)

    def solve(self, right: Any) -> Any:
        """Return the solutions (fit, feature) for right-hand sides (fit, feature)."""
        if self.numpy:
            pairs = zip(self.factors, right, strict=True)
            return np.stack([cho_solve(each, one, check_finite=False) for each, one in pairs])
        import torch

        return torch.cholesky_solve(right[:, :, None], self.lower)[:, :, 0]


def _host(values: Any) -> npt.NDArray[Any]:
    return np.asarray(values if isinstance(values, np.ndarray) else values.cpu())


def hyperplanes(
    features: npt.NDArray[np.float64],
    in_b: npt.NDArray[np.bool_],
    train: npt.NDArray[np.bool_],
    *,
    penalty: float,
    gap: float = GAP,
    device: str = "cpu",
) -> Hyperplanes:
    """Fit a linear SVM on each of several training sets.

    Parameters
    ----------
    features : array (cell, feature), float64, finite
        More features than cells are first brought down to as many as there are cells.
    in_b : array (cell,), bool
        The class of each cell.
    train : array (fit, cell), bool
        The cells of each training set; each has cells of both classes.
    penalty : float
        C of the hinge loss.
    gap : float
        Relative duality gap at which a fit has converged.
    device : str
        "cpu" is numpy; "cuda" is torch on that device, as is "torch" on the processor.

    Returns
    -------
    Hyperplanes
        ``features @ coef + intercept > 0`` says class b. Features that are the same for all cells
        give zero coefficients.
    """
    mean = features.mean(axis=0)
    centred = features - mean
    scale = float(np.sqrt(np.einsum("nd,nd->n", centred, centred).mean()))
    size = float(np.abs(features).max(initial=0.0))
    if scale <= CONSTANT * size * np.sqrt(max(features.shape[1], 1)):
        centred, scale = np.zeros_like(centred), 1.0
    centred /= scale
    wide = centred.shape[1] > len(centred)
    reduced = factor(centred @ centred.T) if wide else centred
    sign = np.where(in_b, 1.0, -1.0)
    weights, alpha, converged, steps = _follow(
        reduced, sign, train, penalty * scale * scale, gap, device
    )
    coef = (alpha * sign * train) @ centred if wide else weights
    values = coef @ centred.T
    intercept = best_intercepts(values, sign, train)
    coef = coef / scale
    return Hyperplanes(coef, intercept - coef @ mean, converged, steps)


def _follow(
    features: npt.NDArray[np.float64],
    sign: npt.NDArray[np.float64],
    train: npt.NDArray[np.bool_],
    bound: float,
    gap: float,
    device: str,
) -> tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[np.bool_], Integers]:
    """Return weights, multipliers, convergence and steps of each fit."""
    xp: Any = np
    cells: Any = np.concatenate([features, np.ones((len(features), 1))], axis=1)
    of_b, of_a = (train & (sign > 0)).sum(axis=1), (train & (sign < 0)).sum(axis=1)
    fewer = np.minimum(of_a, of_b)[:, None]
    ofclass = np.where(sign > 0, of_b[:, None], of_a[:, None])
    start = np.where(train, 0.5 * bound * fewer / ofclass, 0.5 * bound)
    state: list[Any] = [
        np.zeros((len(train), cells.shape[1])),  # coefficients and intercept
        start,  # multipliers
        bound - start,  # what is left of them to the bound: near it the difference is all rounding
        np.ones(train.shape),  # slack at 0
        np.full(train.shape, 2.0),  # slack at the bound
    ]
    used: Any = train.astype(np.float64)
    number: Any = used.sum(axis=1)
    signs: Any = sign
    if device != "cpu":
        import torch

        xp, where = torch, "cpu" if device == "torch" else device
        cells, signs, used, number = (
            torch.as_tensor(each, device=where) for each in (cells, sign, used, number)
        )
        state = [torch.as_tensor(each, device=where) for each in state]
    steps = np.zeros(len(train), np.int64)
    live, smallest = np.arange(len(train)), np.full(len(train), np.inf)
    best = [_host(each).copy() for each in state[:2]]
    for step in range(MAX_STEPS + 1):
        now = [each[live] for each in state]
        left = _host(_gap(cells, signs, used[live], now, bound, xp))
        better = left < smallest[live]
        smallest[live[better]] = left[better]
        for whole, part in zip(best, now, strict=False):
            whole[live[better]] = _host(part)[better]
        ended = (left <= gap) | (~better & (smallest[live] <= ENOUGH))
        now, live = [each[~ended] for each in now], live[~ended]
        if not len(live) or step == MAX_STEPS:
            break
        with np.errstate(all="ignore"):  # fits that rounding breaks end here
            stepped = _step(cells, signs, used[live], number[live], now, xp)
        finite = _host(sum(xp.isfinite(each).all(1) * 1 for each in stepped)) == len(stepped)
        live = live[finite]
        for whole, part in zip(state, stepped, strict=True):
            whole[live] = part[finite]
        steps[live] += 1
    return best[0][:, :-1], best[1], smallest <= max(gap, ENOUGH), steps


def _gap(cells: Any, sign: Any, used: Any, state: Any, bound: float, xp: Any) -> Any:
    """Return the relative duality gap of each fit, or its imbalance where that is larger."""
    plane, alpha, *_ = state
    loss = 1.0 - sign * (plane @ cells.T)
    loss = (xp.where(loss > 0, loss, 0.0) * used).sum(1)
    primal = 0.5 * (plane[:, :-1] ** 2).sum(1) + bound * loss
    total = (alpha * used).sum(1)
    dual = (alpha * sign * used) @ cells
    distance = primal - total + 0.5 * (dual[:, :-1] ** 2).sum(1)
    return xp.maximum(xp.abs(distance) / primal, xp.abs(dual[:, -1]) / total)


def _longest(values: Any, change: Any, xp: Any) -> Any:
    """Return the largest step of each fit that leaves the values positive."""
    falls = change < 0
    return xp.amin(xp.where(falls, values, np.inf) / xp.where(falls, -change, 1.0), 1)


def _step(cells: Any, sign: Any, used: Any, number: Any, state: Any, xp: Any) -> tuple[Any, ...]:
    """Return the state after one predictor and corrector step."""
    plane, alpha, room, low, high = state
    miss = 1.0 + low - high - sign * (plane @ cells.T)
    tie = (alpha * sign * used) @ cells
    tie[:, :-1] -= plane[:, :-1]
    weights = used / (low / alpha + high / room)
    normal = _Normal(cells, weights)

    def newton(low_target: Any, high_target: Any) -> tuple[Any, ...]:
        right = miss - high_target / room + high + low_target / alpha - low
        d_plane = normal.solve(tie + (sign * weights * right) @ cells)
        d_alpha = weights * (right - sign * (d_plane @ cells.T))
        d_low = used * (low_target / alpha - low - low / alpha * d_alpha)
        d_high = used * (high_target / room - high + high / room * d_alpha)
        pairs = ((alpha, d_alpha), (room, -d_alpha), (low, d_low), (high, d_high))
        longest = xp.amin(xp.stack([_longest(*pair, xp) for pair in pairs]), 0)
        return d_plane, d_alpha, -d_alpha, d_low, d_high, longest

    mean = ((alpha * low + room * high) * used).sum(1) / (2.0 * number)
    zero = xp.zeros_like(alpha)
    _, d_alpha, _, d_low, d_high, longest = newton(zero, zero)
    way = xp.where(longest < 1.0, longest, 1.0)[:, None]
    after = (alpha + way * d_alpha) * (low + way * d_low)
    after = after + (room - way * d_alpha) * (high + way * d_high)
    ahead = (after * used).sum(1) / (2.0 * number)
    centre = (mean * (ahead / mean) ** 3)[:, None]
    *change, longest = newton(centre - d_alpha * d_low, centre + d_alpha * d_high)
    longest = INSIDE * longest
    way = xp.where(longest < 1.0, longest, 1.0)[:, None]
    return tuple(one + way * d_one for one, d_one in zip(state, change, strict=True))
