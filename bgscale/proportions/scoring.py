"""The softmax of cells, out of fold: by a classifier, and by its replicates as sums alone.

The one idea: a cell's softmax is a function of the cell and the classifier, to the bit, whatever
block it comes in. One product scores a batch of cells by a classifier and all its replicates; of
the replicates nothing is kept but integer sums, so that they cost no memory.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from bgscale.errors import InputError
from bgscale.proportions.classifier import Classifier, finite, one_thread
from bgscale.proportions.sums import SUM_SCALE, ProportionState, accumulate

FloatArray: TypeAlias = npt.NDArray[np.float64]
IntArray: TypeAlias = npt.NDArray[np.int64]
BoolArray: TypeAlias = npt.NDArray[np.bool_]

# Multiples of the row counts that BLAS kernels work in (4, 6, 8, 12, 16, 24, 48), so that neither
# a cell's place in a batch nor how many replicates are scored with it changes its bits.
_BATCH_CELLS = 240
_PRODUCT_ROWS = 48


@dataclass(frozen=True, eq=False)
class Panel:
    """The classifiers of all folds and their replicates, stacked for one product a fold.

    Parameters
    ----------
    slope : array (fold, row, feature), float64
        Coefficients of raw features. Rows are (classifier, localization), padded with zeros.
    offset : array (fold, row), float64
    classifiers, localizations : int
        Of a fold: the classifier and its replicates; of a classifier.
    """

    slope: FloatArray
    offset: FloatArray
    classifiers: int
    localizations: int

    @property
    def fitted(self) -> bool:
        """Whether there are classifiers: those that could not be fitted are NaN."""
        return bool(np.isfinite(self.slope).all())


def panel_of(
    coef: npt.ArrayLike, intercept: npt.ArrayLike, mean: npt.ArrayLike, scale: npt.ArrayLike
) -> Panel:
    """Stack classifiers.

    Parameters
    ----------
    coef : array (fold, classifier, localization, feature)
    intercept : array (fold, classifier, localization)
    mean, scale : arrays (fold, classifier, feature)

    Returns
    -------
    Panel
    """
    slope = np.asarray(coef, np.float64) / np.asarray(scale, np.float64)[:, :, None]
    folds, classifiers, localizations, features = slope.shape
    rows = classifiers * localizations
    # summed by itself: a product would round by how many are stacked
    centre = (slope * np.asarray(mean, np.float64)[:, :, None]).sum(axis=-1)
    offset = np.asarray(intercept, np.float64) - centre
    padded = np.zeros((folds, -(-rows // _PRODUCT_ROWS) * _PRODUCT_ROWS, features))
    padded[:, :rows] = slope.reshape(folds, rows, features)
    return Panel(padded, offset.reshape(folds, rows), classifiers, localizations)


def stack(classifiers: Sequence[Sequence[Classifier]]) -> Panel:
    """Stack what `fit_out_of_fold` returns."""
    parts = ("coef", "intercept", "mean", "scale")
    return panel_of(
        *(np.array([[getattr(c, p) for c in row] for row in classifiers]) for p in parts)
    )


def _batches(
    panel: Panel, fold: int, x: FloatArray, cells: IntArray
) -> Iterator[tuple[IntArray, FloatArray]]:
    """Yield some of the cells, and their softmax (classifier, localization, cell)."""
    batch = np.zeros((_BATCH_CELLS, x.shape[1]))
    shape = panel.classifiers, panel.localizations, _BATCH_CELLS
    rows = shape[0] * shape[1]
    for at in range(0, len(cells), _BATCH_CELLS):
        own = cells[at : at + _BATCH_CELLS]
        batch[: len(own)] = x[own]
        product = (panel.slope[fold] @ batch.T)[:rows]
        product += panel.offset[fold, :, None]
        p = product.reshape(shape)
        p -= p.max(axis=1, keepdims=True)
        np.exp(p, out=p)
        p /= p.sum(axis=1, keepdims=True)
        yield own, p[:, :, : len(own)]


def _checked(panel: Panel, features: npt.ArrayLike) -> FloatArray:
    x = finite(features, "features")
    if x.shape[1] != panel.slope.shape[2]:
        msg = (
            f"cells have {x.shape[1]} features, the classifier was fitted on "
            f"{panel.slope.shape[2]}: use the model and layer of the fit"
        )
        raise InputError(msg)
    return x


def predict(classifier: Classifier, features: npt.ArrayLike) -> FloatArray:
    """Return the softmax over localizations: (cell, localization), float64.

    Cells are multiplied in padded batches of one size, so that a cell's result does not depend on
    the block it comes in. Leave out cells that have no features: they are refused, not passed on.
    """
    x = np.asarray(features)
    softmax: FloatArray = predict_out_of_fold([[classifier]], x, np.zeros(len(x), np.int64))[0]
    return softmax


def predict_out_of_fold(
    classifiers: Sequence[Sequence[Classifier]], features: npt.ArrayLike, fold: npt.ArrayLike
) -> FloatArray:
    """Score every cell by the classifiers that omit its fold.

    Parameters
    ----------
    classifiers : sequence over folds of equally long sequences of Classifier
    features : array (cell, feature), float
    fold : array (cell,), int

    Returns
    -------
    array (classifier, cell, localization), float64
        The classifier first, then its replicates.
    """
    panel = stack(classifiers)
    x, fold = _checked(panel, features), np.asarray(fold, np.int64)
    if fold.shape != (len(x),) or (
        fold.size and not 0 <= fold.min() <= fold.max() < len(classifiers)
    ):
        msg = f"{fold.shape} folds for {len(x)} cells and {len(classifiers)} classifiers"
        raise InputError(msg)
    out = np.empty((panel.classifiers, len(x), panel.localizations))
    with one_thread():
        for own in range(len(classifiers)):
            for cells, p in _batches(panel, own, x, np.flatnonzero(fold == own)):
                out[:, cells] = p.swapaxes(1, 2)
    return out


def score(
    panel: Panel, features: npt.ArrayLike, fold: IntArray, slot: IntArray, counted: BoolArray
) -> tuple[FloatArray, IntArray]:
    """Score cells out of fold, and sum what the replicates say of them.

    Parameters
    ----------
    panel : Panel
    features : array (cell, feature), float
    fold : array (cell,), int
    slot : array (cell,), int
        Which sum a cell enters, its protein's; numbered from 0.
    counted : array (cell,), bool
        Whether it enters it.

    Returns
    -------
    softmax : array (cell, localization), float64
        Of the classifier itself.
    sums : array (slot, replicate, localization), int64
        Of the replicates' softmax, in steps of 1 / `SUM_SCALE`.
    """
    x = _checked(panel, features)
    out = np.empty((len(x), panel.localizations))
    slots = int(slot.max(initial=-1)) + 1
    sums = np.zeros((slots, panel.classifiers - 1, panel.localizations), np.int64)
    order = np.lexsort((slot, fold))
    starts = np.searchsorted(fold[order], np.arange(len(panel.slope) + 1))
    with one_thread():
        for own, (start, stop) in enumerate(pairwise(starts.tolist())):
            for cells, p in _batches(panel, own, x, order[start:stop]):
                out[cells] = p[0].T
                steps = p[1:]
                # whole numbers below 2**53 add exactly as floats, and faster
                steps *= SUM_SCALE
                np.rint(steps, out=steps)
                if not counted[cells].all():
                    steps[:, :, ~counted[cells]] = 0
                here = slot[cells]
                runs = np.flatnonzero(np.diff(here, prepend=-1))
                added = np.add.reduceat(steps, runs, axis=2).astype(np.int64)
                sums[here[runs]] += added.transpose(2, 0, 1)
    return out, sums


def score_settings(
    panels: Sequence[Panel],
    fits: Sequence[Sequence[int]],
    features: npt.NDArray[np.floating[Any]],
    fold: npt.ArrayLike,
    protein: npt.ArrayLike,
    field: npt.ArrayLike,
) -> tuple[FloatArray, list[ProportionState]]:
    """Score a block of cells under every setting and fit, and sum.

    Parameters
    ----------
    panels : sequence of Panel
    fits : sequence over fits of sequences over settings of int
        Which panel scores the cells under a setting. Setting 0 is `original`.
    features : array (cell, setting, feature), float
        NaN where a cell is missing under a setting.
    fold, protein, field : arrays (cell,), int

    Returns
    -------
    probability : array (fit, setting, cell, localization), float64
        NaN where a cell is missing, or the panel could not be fitted.
    states : list over fits of ProportionState
        As `accumulate` gives them.
    """
    present = np.isfinite(features).all(axis=2).T
    deal, key = np.asarray(fold, np.int64), np.asarray(protein, np.int64)
    proteins, slot = np.unique(key, return_inverse=True)
    n_settings, k, replicates = len(present), panels[0].localizations, panels[0].classifiers - 1
    made: dict[tuple[int, int], tuple[FloatArray, IntArray]] = {}
    probability = np.full((len(fits), n_settings, len(deal), k), np.nan)
    shape = n_settings, len(proteins), replicates, k
    states = []

    def scored(which: int, s: int, cells: IntArray, counted: BoolArray) -> None:
        p, sums = score(panels[which], features[cells, s], deal[cells], slot[cells], counted[cells])
        full = np.zeros(shape[1:], np.int64)
        full[: len(sums)] = sums
        made[which, s] = p, full

    for f, uses in enumerate(fits):
        fitted = np.array([panels[which].fitted for which in uses])
        here = present & fitted[:, None]
        again, baseline = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        for s, which in enumerate(uses):
            both = here[s] & here[0]
            cells = np.flatnonzero(here[s])
            if (which, s) not in made:
                scored(which, s, cells, both)
            probability[f, s, cells], again[s] = made[which, s]
            baseline[s] = _under_original(
                panels[uses[0]], again[0], features[:, 0], deal, slot, here[0], both
            )
        state = accumulate(probability[f], here, key, field)
        states.append(replace(state, replicate_sums=again, replicate_baseline=baseline))
    return probability, states


def _under_original(
    panel: Panel,
    sums: IntArray,
    features: npt.NDArray[np.floating[Any]],
    fold: IntArray,
    slot: IntArray,
    seen: BoolArray,
    both: BoolArray,
) -> IntArray:
    """Return the replicates' sums over the cells that are present under a setting too.

    Mostly these are all that were `seen`, or none of a protein's; the few that are not are scored
    again, and taken away.
    """
    some = np.bincount(slot[both], minlength=len(sums)) > 0
    lacking = np.flatnonzero(seen & ~both & some[slot])
    out = np.where(some[:, None, None], sums, 0)
    if len(lacking):
        every = np.ones(len(lacking), np.bool_)
        _, less = score(panel, features[lacking], fold[lacking], slot[lacking], every)
        out[: len(less)] -= less
    return out
