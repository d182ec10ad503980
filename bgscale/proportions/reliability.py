"""Can the softmax be believed: of cells that got 0.8, are 8 in 10 what they were said to be.

Owns the counts behind a reliability diagram, which add like all other sums, and what is divided
from them. Cells are those of single-localization proteins, scored out of fold: of them the truth is
known, as far as an annotation is one.

The classifier is fitted with balanced classes: its softmax is a posterior under *equal priors*. So
cells are weighted here so that every localization counts the same, however many cells it has; else
a calibrated classifier would look overconfident of what is rare. (One fitted with
``hyperparameters = "published"`` is not balanced, and is not expected to lie on the diagonal where
training cells were not.)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import xarray as xr

from bgscale.draw import words
from bgscale.errors import InputError
from bgscale.proportions.classifier import one_thread

FloatArray: TypeAlias = npt.NDArray[np.float64]
IntArray: TypeAlias = npt.NDArray[np.int64]

N_BINS = 10
"""Bins of equal width, from 0 to 1."""
CONFIDENCE_SCALE = 2**24
"""Integer steps per 1 in sums of confidence: whole numbers that a float64 holds exactly."""
DRAWS = 400
"""Draws of protein weights that an interval is taken from."""
COVERAGE = 0.95
TOP = "top"
"""Label of the localization that a cell is given most of, whichever it is."""


@dataclass(frozen=True, eq=False)
class ReliabilityCounts:
    """Cells by protein and by what they were given of each localization; they add.

    Parameters
    ----------
    protein : array (protein,), int64
        Codes, sorted; single-localization proteins alone.
    target : array (protein,), int64
        Localization of each.
    cells : array (setting, protein, label, bin), int64
        Cells by their confidence. Labels are the localizations and, last, `TOP`.
    confidence : array (setting, protein, label, bin), int64
        Sums of it, in steps of 1 / `CONFIDENCE_SCALE`.
    correct : array (setting, protein, bin), int64
        Cells whose top localization is their protein's. Of the other labels this follows from
        `target`.
    """

    protein: IntArray
    target: IntArray
    cells: IntArray
    confidence: IntArray
    correct: IntArray

    def __add__(self, other: "ReliabilityCounts") -> "ReliabilityCounts":
        """Return the counts over the cells of both.

        Raises
        ------
        InputError
            They differ in settings, labels or bins.
        """
        mine, theirs = ((len(c.cells), *c.cells.shape[2:]) for c in (self, other))
        if mine != theirs:
            msg = (
                f"counts {self.cells.shape} and {other.cells.shape} of (setting, protein, "
                "label, bin) do not add: both must have the same settings, labels and bins"
            )
            raise InputError(msg)
        protein = np.union1d(self.protein, other.protein)
        target = np.empty(len(protein), np.int64)
        sums: dict[str, IntArray] = {}
        for name in ("cells", "confidence", "correct"):
            like = getattr(self, name)
            sums[name] = np.zeros((len(like), len(protein), *like.shape[2:]), np.int64)
        for one in (self, other):
            place = np.searchsorted(protein, one.protein)
            target[place] = one.target
            for name, whole in sums.items():
                whole[:, place] += getattr(one, name)
        return ReliabilityCounts(protein, target, **sums)


def count_reliability(
    probabilities: npt.ArrayLike,
    target: npt.ArrayLike,
    present: npt.ArrayLike,
    protein: npt.ArrayLike,
    *,
    bins: int = N_BINS,
) -> ReliabilityCounts:
    """Count a block of cells.

    Parameters
    ----------
    probabilities : array (setting, cell, localization), float
        Softmax, out of fold; not read where a cell is not present.
    target : array (cell,), int
        Localization of the cell's protein; -1 for several, none, or one that is not learned: such
        cells are left out.
    present : array (setting, cell), bool
    protein : array (cell,), int
        Codes that mean the same in every block.
    bins : int

    Returns
    -------
    ReliabilityCounts
    """
    p, seen = np.asarray(probabilities), np.asarray(present, np.bool_)
    truth, code = np.asarray(target, np.int64), np.asarray(protein, np.int64)
    if p.ndim != 3 or seen.shape != p.shape[:2] or not len(truth) == len(code) == p.shape[1]:
        msg = (
            f"probabilities {p.shape}, present {seen.shape}, {len(truth)} targets and {len(code)} "
            "protein codes: expected (setting, cell, localization), (setting, cell), one per cell"
        )
        raise InputError(msg)
    n_settings, _, k = p.shape
    if bins < 1 or truth.max(initial=-1) >= k:
        msg = (
            f"{bins} bins, targets to {truth.max(initial=-1)} of {k} localizations: give 1 or more"
        )
        raise InputError(msg)
    known = np.flatnonzero(truth >= 0)
    proteins, first, slot = np.unique(code[known], return_index=True, return_inverse=True)
    shape = len(proteins), k + 1, bins
    cells, confidence = (np.zeros((n_settings, *shape), np.int64) for _ in range(2))
    correct = np.zeros((n_settings, len(proteins), bins), np.int64)
    for s in range(n_settings):
        here = seen[s, known]
        own, place, right = p[s, known[here]], slot[here], truth[known[here]]
        top = own.argmax(axis=1)
        given = np.concatenate([own, own.max(axis=1, keepdims=True)], axis=1)
        steps = np.rint(given * CONFIDENCE_SCALE)
        box = np.clip((given * bins).astype(np.int64), 0, bins - 1)
        flat = ((place[:, None] * (k + 1) + np.arange(k + 1)) * bins + box).ravel()
        size = int(np.prod(shape))
        cells[s] = np.bincount(flat, minlength=size).reshape(shape)
        # sums of whole numbers below 2**53: exact, in any order
        summed = np.bincount(flat, steps.ravel(), size).astype(np.int64)
        confidence[s] = summed.reshape(shape)
        hit = np.flatnonzero(top == right)
        correct[s] = np.bincount(
            place[hit] * bins + box[hit, k], minlength=len(proteins) * bins
        ).reshape(-1, bins)
    return ReliabilityCounts(proteins, truth[known[first]], cells, confidence, correct)


def reliability_of(
    counts: ReliabilityCounts,
    *,
    settings: Sequence[str],
    localizations: Sequence[str],
    seed: int = 0,
) -> xr.Dataset:
    """Divide: what share of the cells of a bin are what they were said to be, and how far off.

    Every localization has the same total weight. Intervals come from weighting *proteins* at
    random (exponential weights, a Bayesian bootstrap), within their localization: the cells of one
    protein are wrong together. The calibration error is a sum of absolute values, which chance
    only adds to; its interval is the basic one (2 estimate - quantile), which takes that off, and
    may so lie below the estimate. A localization of one protein adds nothing to the widths.

    Parameters
    ----------
    counts : ReliabilityCounts
    settings, localizations : sequences of str
    seed : int
        Of the weights.

    Returns
    -------
    Dataset
        Over (setting, label, bin): `confidence`, `observed`, `observed_low`, `observed_high`,
        `n_cells`; over (setting, label): `calibration_error`, with `_low` and `_high`. Labels are
        the localizations and `TOP`. NaN where a bin, or a setting, has no cells.

    References
    ----------
    Rubin (1981), The Bayesian bootstrap. Annals of Statistics 9:130-134.
    Naeini, Cooper & Hauskrecht (2015), Obtaining well calibrated probabilities using Bayesian
    binning. AAAI 29:2901-2907.
    """
    n_settings, _, labels, bins = counts.cells.shape
    if labels != len(localizations) + 1 or n_settings != len(settings):
        msg = (
            f"counts of {n_settings} settings and {labels - 1} localizations; got names of "
            f"{len(settings)} and {len(localizations)}"
        )
        raise InputError(msg)
    shape = n_settings, labels, bins
    out = {name: np.full(shape, np.nan) for name in _OF_BINS}
    out |= {name: np.full(shape[:2], np.nan) for name in _OF_LABELS}
    random = _weights(counts, seed)
    tail = (1 - COVERAGE) / 2
    for s in range(n_settings):
        weight, given, right = _balanced(counts, s, random)
        if not weight.any():
            continue
        with np.errstate(invalid="ignore"):
            observed = right / weight
            out["confidence"][s], out["observed"][s] = given[0] / weight[0], observed[0]
            error = np.abs(given - right).sum(axis=2) / weight.sum(axis=2)
        low, high = np.quantile(observed[1:], [tail, 1 - tail], axis=0)
        out["observed_low"][s], out["observed_high"][s] = low, high
        low, high = np.quantile(error[1:], [tail, 1 - tail], axis=0)
        out["calibration_error"][s] = error[0]
        out["calibration_error_low"][s] = np.clip(2 * error[0] - high, 0, 1)
        out["calibration_error_high"][s] = np.clip(2 * error[0] - low, 0, 1)
    described: dict[str, Any] = {}
    for name, values in out.items():
        dims = ("setting", "label", "bin")[: values.ndim]
        attrs = {"units": "1", "long_name": DESCRIPTIONS[name]}
        described[name] = (dims, values, attrs)
    attrs = {"units": "1", "long_name": DESCRIPTIONS["n_cells"]}
    described["n_cells"] = (("setting", "label", "bin"), counts.cells.sum(axis=1), attrs)
    edges = np.arange(bins) / bins
    coords = {"setting": list(settings), "label": [*localizations, TOP], "bin": edges}
    description = (
        "of cells of single-localization proteins, out of fold: what share is what the softmax "
        "says; every localization has the same total weight"
    )
    return xr.Dataset(described, coords=coords, attrs={"description": description})


_OF_BINS = ("confidence", "observed", "observed_low", "observed_high")
_OF_LABELS = ("calibration_error", "calibration_error_low", "calibration_error_high")
DESCRIPTIONS = {
    "confidence": "mean softmax that the cells of the bin have of the label",
    "observed": "share of them whose localization it is; of top, whose top localization is right",
    "observed_low": "lower bound of the share, 95%, proteins drawn within their localization",
    "observed_high": "upper bound of the share, 95%, proteins drawn within their localization",
    "n_cells": "cells in the bin",
    "calibration_error": "expected calibration error: mean |confidence - observed| over the cells",
    "calibration_error_low": "its lower bound, 95%, what chance adds taken off",
    "calibration_error_high": "its upper bound, 95%, what chance adds taken off",
}
"""What each variable is, in words."""


def reliability(
    probabilities: npt.ArrayLike,
    target: npt.ArrayLike,
    present: npt.ArrayLike,
    protein: npt.ArrayLike,
    *,
    settings: Sequence[str],
    localizations: Sequence[str],
    seed: int = 0,
) -> xr.Dataset:
    """Return the reliability of cells that are all in memory; see `reliability_of`.

    Examples
    --------
    >>> p = np.array([[[0.9, 0.1]] * 9 + [[0.9, 0.1]]])
    >>> found = reliability(
    ...     p, [0] * 9 + [1], np.ones((1, 10), bool), range(10),
    ...     settings=["original"], localizations=["A", "B"],
    ... )
    >>> round(float(found["observed"].sel(label="top", bin=0.9).item()), 2)
    0.5
    """
    counts = count_reliability(probabilities, target, present, protein)
    return reliability_of(counts, settings=settings, localizations=localizations, seed=seed)


def _weights(counts: ReliabilityCounts, seed: int) -> FloatArray:
    """Return weights of the proteins: ones, then the draws: (1 + draw, protein)."""
    out = np.ones((1 + DRAWS, len(counts.protein)))
    for draw in range(DRAWS):
        word = words(seed, "reliability", counts.protein.astype(np.uint64), draw)
        out[1 + draw] = -np.log1p(-((word >> np.uint64(11)) * 2.0**-53)) + 2.0**-60
    return out


def _balanced(
    counts: ReliabilityCounts, s: int, random: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return weights of cells, of their confidence, and of the right ones: (draw, label, bin)."""
    _, _, labels, bins = counts.cells.shape
    shape = len(random), labels, bins
    weight, given, right = (np.zeros(shape) for _ in range(3))
    for c in np.unique(counts.target):
        own = np.flatnonzero(counts.target == c)
        drawn = random[:, own]
        cells = counts.cells[s, own]
        # the last label is that of all cells, each once
        total = drawn @ cells[:, -1].sum(axis=1)
        if not total[0]:
            continue
        drawn = drawn / total[:, None]
        with one_thread():
            here = (drawn @ cells.reshape(len(own), -1).astype(np.float64)).reshape(shape)
            steps = counts.confidence[s, own].reshape(len(own), -1) / CONFIDENCE_SCALE
            given += (drawn @ steps).reshape(shape)
            right[:, -1] += drawn @ counts.correct[s, own].astype(np.float64)
        weight += here
        right[:, c] += here[:, c]
    return weight, given, right
