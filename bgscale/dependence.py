"""What an accuracy owes to the background: which one does the harm, to whom, and by which cells.

Owns questions that single cells answer: the shares of cells that are told right, by class, by
background, by neighbours. Refuses to own the classifiers and the table of accuracies. The one idea:
a cell is told right or wrong by the classifiers that have not seen it; everything here is a mean of
that over some cells or pairs, and its interval knows that cells of one protein (or well, or field)
are alike, and that pairs share their classes.
"""

from collections.abc import Sequence
from itertools import combinations, pairwise
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import xarray as xr

from bgscale.accuracy import CONTRASTS, localization_means
from bgscale.errors import SchemaError
from bgscale.intervals import (
    NO_GROUPS,
    NO_SPREAD,
    NO_VALUE,
    PRESENT,
    REASONS,
    Estimate,
    clustered,
    over_classes,
)

Floats: TypeAlias = npt.NDArray[np.float64]
Integers: TypeAlias = npt.NDArray[np.int64]

NEIGHBOUR_COUNTS = (0, 1, 2, 3, 4)
"""Bins of the number of neighbours; the last is open."""
NEIGHBOUR_SHARES = (0.0, 0.1, 0.2, 0.4, 1.0)
"""Upper bounds of the bins of the neighbours' share of the window; the first is none at all."""
OWN_CLASS = max(REASONS) + 1
ALL_REASONS = {**REASONS, OWN_CLASS: "the background is that of the class itself"}

__all__ = [
    "NEIGHBOUR_COUNTS",
    "NEIGHBOUR_SHARES",
    "NO_GROUPS",
    "NO_SPREAD",
    "NO_VALUE",
    "PRESENT",
    "background_confusion",
    "background_harm",
    "by_neighbours",
    "sensitivity",
    "told_right",
]


def _checked(dataset: xr.Dataset, *names: str) -> tuple[list[str], list[str], list[bool]]:
    """Return settings, localizations and which settings have each background."""
    missing = {*names, "each_background"} - set(dataset.variables)
    if missing:
        msg = (
            f"dataset has {', '.join(map(str, dataset.variables))}; expected also "
            f"{', '.join(sorted(missing))}: it is a node evaluation/<model> or controls/<model>"
        )
        raise SchemaError(msg)
    return (
        [str(s) for s in dataset["setting"].values],
        [str(k) for k in dataset["localization_a"].values],
        [bool(each) for each in dataset["each_background"].values],
    )


def _fold_means(dataset: xr.Dataset) -> Floats:
    """Return accuracies (setting, a, b, background); one without a fold has none."""
    dims = ("setting", "localization_a", "localization_b", "background", "fold")
    means: Floats = dataset["accuracy"].transpose(*dims).values.mean(axis=-1)
    return means


def _decisions(dataset: xr.Dataset, variable: str) -> npt.NDArray[np.int8]:
    dims = ("setting", "localization_a", "localization_b", "background", "member", "draw")
    values: npt.NDArray[np.int8] = dataset[variable].transpose(*dims).values
    return values


def _grouped(groups: xr.DataArray | None) -> Integers | None:
    return None if groups is None else groups.transpose("localization", "draw").values


def _with(dataset: xr.Dataset, name: str, dims: Sequence[str], found: npt.NDArray[np.object_],
          what: str) -> None:  # fmt: skip
    """Add estimates, their bounds, counts and reasons as variables."""
    texts = {
        "": what,
        "_low": f"lower end of the 95% interval: {what}",
        "_high": f"upper end of the 95% interval: {what}",
        "_n_cells": f"cells or pairs behind it: {what}",
        "_n_groups": f"independent groups behind its interval: {what}",
        "_reason": f"why there is no value or no interval: {what}",
    }
    for i, (suffix, text) in enumerate(texts.items()):
        dtype = np.float64 if i < 3 else np.int64 if i < 5 else np.int8
        values = np.array([one[i] for one in found.ravel()], dtype).reshape(found.shape)
        attrs: dict[str, object] = {"units": "1", "long_name": text}
        if suffix == "_reason":
            names = {str(code): reason for code, reason in ALL_REASONS.items()}
            attrs = {"long_name": text, "names": names}
        dataset[name + suffix] = (tuple(dims), values, attrs)


def _table(shape: tuple[int, ...]) -> npt.NDArray[np.object_]:
    found = np.empty(shape, np.object_)
    for at in np.ndindex(shape):
        found[at] = Estimate(np.nan, np.nan, np.nan, 0, 0, NO_VALUE)
    return found


def background_harm(evaluation: xr.Dataset) -> xr.Dataset:
    """Return what each background class takes from, or gives to, the accuracy.

    The accuracy with both classes on the background of a third, less that of the same pair as
    imaged; below zero the background does harm.

    Parameters
    ----------
    evaluation : Dataset
        Node evaluation/<model>: accuracy (setting, localization_a, localization_b, background,
        fold), each_background (setting).

    Returns
    -------
    Dataset
        Over the settings with each background: `change` (setting, localization, background), the
        mean over the partners of a localization, its interval over these (t); `overall` (setting,
        background), the mean over all pairs, its interval by jackknife over classes. Each with
        `_low`, `_high`, `_n_cells` (here: pairs), `_n_groups` (here: classes) and `_reason`.
    """
    settings, names, each = _checked(evaluation, "accuracy")
    accuracy, n = _fold_means(evaluation), len(names)
    chosen = [s for s, one in enumerate(each) if one]
    imaged = _both_ways(accuracy[settings.index("original"), :, :, 0])
    by_class, overall = _table((len(chosen), n, n)), _table((len(chosen), n))
    for i, s in enumerate(chosen):
        for g in range(n):
            change = _both_ways(accuracy[s, :, :, 1 + g]) - imaged
            change[g], change[:, g] = np.nan, np.nan
            overall[i, g] = over_classes(change)
            for k in range(n):
                by_class[i, k, g] = clustered(change[k], np.arange(n), bounded=False)
                if k == g:
                    by_class[i, k, g] = by_class[i, k, g]._replace(reason=OWN_CLASS)
    out = xr.Dataset(
        coords={
            "setting": [settings[s] for s in chosen],
            "localization": names,
            "background": names,
        },
        attrs={
            "description": "accuracy on each background less that of the same pairs as imaged",
            "intervals": "overall: jackknife over classes; change: over partners (t)",
        },
    )
    _with(out, "change", ("setting", "localization", "background"), by_class,
          "accuracy on this background less that as imaged")  # fmt: skip
    _with(out, "overall", ("setting", "background"), overall,
          "accuracy on this background less that as imaged, all pairs")  # fmt: skip
    return out


def _both_ways(pairs: Floats) -> Floats:
    """Return values of pairs (a, b), a before b, for (b, a) as well."""
    return np.where(np.isnan(pairs), pairs.T, pairs)


def told_right(
    decision: npt.NDArray[np.int8], *, each: bool, others: bool = True
) -> tuple[Floats, Floats]:
    """Return in what share of its pairs a cell is told right.

    Parameters
    ----------
    decision : array (a, b, background, member, draw), int8
        1 right, 0 wrong, -1 none; of one setting.
    each : bool
        Whether the setting has each background; those of the pair itself are left out.
    others : bool
        False: also count backgrounds of the pair itself.

    Returns
    -------
    right : array (localization, draw), float64
        Mean over the other classes, of the mean over backgrounds; NaN where there is none.
    by_pair : array (localization, localization, draw), float64
        The same by other class.
    """
    n, draws = decision.shape[0], decision.shape[-1]
    by_pair = np.full((n, n, draws), np.nan)
    for a, b in combinations(range(n), 2):
        use = np.ones(n + 1, np.bool_)
        if each and others:
            use[[1 + a, 1 + b]] = False
        for member, (own, other) in enumerate(((a, b), (b, a))):
            told = decision[a, b, use, member]
            by_pair[own, other] = _mean(told, told >= 0, axis=0)
    return _mean(by_pair, np.isfinite(by_pair), axis=1), by_pair


def _mean(values: npt.NDArray[np.generic], use: npt.NDArray[np.bool_], *, axis: int) -> Floats:
    count = use.sum(axis)
    total = np.where(use, values, 0).sum(axis, dtype=np.float64)
    mean: Floats = np.divide(total, count, out=np.full(count.shape, np.nan), where=count > 0)
    return mean


def background_confusion(
    evaluation: xr.Dataset, controls: xr.Dataset, *, groups: xr.DataArray | None = None
) -> xr.Dataset:
    """Return how often a cell on another class's background is taken for that class.

    The classifier that tells the cell's class from the background's was fitted on crops as imaged,
    and has not seen the cell.

    Parameters
    ----------
    evaluation : Dataset
        Node evaluation/<model>: decision (setting, localization_a, localization_b, background,
        member, draw).
    controls : Dataset
        Node controls/<model>: transferred_decision, of the same dims.
    groups : array (localization, draw), int, optional
        Protein, well or field of each cell; without, there are no intervals.

    Returns
    -------
    Dataset
        `told_as_background` (setting, localization, background), the share of cells of a
        localization that are taken for the class of their background; beside it `as_imaged` and
        `on_same`, the shares that the same classifier takes for that class as imaged and on
        backgrounds of the cell's own class; `excess`, the first less `as_imaged`, cell by cell.
        Each with `_low`, `_high`, `_n_cells`, `_n_groups` and `_reason`.
    """
    settings, names, each = _checked(controls, "transferred_decision")
    _checked(evaluation, "decision")
    moved, imaged = _decisions(controls, "transferred_decision"), _decisions(evaluation, "decision")
    codes, n = _grouped(groups), len(names)
    chosen = [s for s, one in enumerate(each) if one]
    original = settings.index("original")
    shape = len(chosen), n, n
    swapped, excess = _table(shape), _table(shape)
    as_imaged, on_same = _table((n, n)), _table((n, n))
    for k in range(n):
        own = None if codes is None else codes[k]
        for g in range(n):
            if g == k:
                for found in (swapped[:, k, g], excess[:, k, g]):
                    found[:] = [one._replace(reason=OWN_CLASS) for one in found]
                for found in (as_imaged, on_same):
                    found[k, g] = found[k, g]._replace(reason=OWN_CLASS)
                continue
            pair = (min(k, g), max(k, g))
            member = int(k > g)
            first = _taken(imaged[original, *pair, 0, member])
            as_imaged[k, g] = clustered(first, own)
            if "same" in settings:
                same = _taken(moved[settings.index("same"), *pair, 0, member])
                on_same[k, g] = clustered(same, own)
            for i, s in enumerate(chosen):
                taken = _taken(moved[s, *pair, 1 + g, member])
                swapped[i, k, g] = clustered(taken, own)
                excess[i, k, g] = clustered(taken - first, own, bounded=False)
    out = xr.Dataset(
        coords={
            "setting": [settings[s] for s in chosen],
            "localization": names,
            "background": names,
        },
        attrs={
            "description": "cells that classifiers of crops as imaged take for the class of their "
            "background",
            **_clusters(groups),
        },
    )
    of_pair = ("localization", "background")
    for name, dims, found, what in (
        ("told_as_background", ("setting", *of_pair), swapped,
         "share of cells taken for the class of their background"),
        ("as_imaged", of_pair, as_imaged, "share of cells taken for that class, as imaged"),
        ("on_same", of_pair, on_same,
         "share of cells taken for that class, on backgrounds of their own class"),
        ("excess", ("setting", *of_pair), excess,
         "share taken for the class of their background, less the share as imaged"),
    ):  # fmt: skip
        _with(out, name, dims, found, what)
    return out


def _taken(decision: npt.NDArray[np.int8]) -> Floats:
    """Return 1 where a cell is told as the other class, 0 where as its own, NaN where neither."""
    return np.where(decision >= 0, 1.0 - decision, np.nan)


def _clusters(groups: xr.DataArray | None) -> dict[str, str]:
    kind = "none" if groups is None else str(groups.attrs.get("kind", "group"))
    return {"groups": kind, "intervals": f"95%, cells taken together by {kind} (linearised, t)"}


def sensitivity(evaluation: xr.Dataset, *, groups: xr.DataArray | None = None) -> xr.Dataset:
    """Return how much each localization loses when its background changes.

    Parameters
    ----------
    evaluation : Dataset
        Node evaluation/<model>: accuracy, decision, each_background.
    groups : array (localization, draw), int, optional
        Protein, well or field of each cell; without, recall has no intervals.

    Returns
    -------
    Dataset
        `accuracy` (setting, localization), the mean over the pairs of a localization; `recall`,
        the share of its own cells that are told right. By contrast (such as original - different):
        `accuracy_difference`, its interval by jackknife over the other classes (as partner and as
        background), and `recall_difference`, cell by cell. Each with `_low`, `_high`, `_n_cells`
        (of accuracies: pairs), `_n_groups` and `_reason`.
    """
    settings, names, each = _checked(evaluation, "accuracy", "decision")
    values, decision, n = _fold_means(evaluation), _decisions(evaluation, "decision"), len(names)
    codes = _grouped(groups)
    contrasts = [pair for pair in CONTRASTS if set(pair) <= set(settings)]
    right = [told_right(decision[s], each=each[s])[0] for s in range(len(settings))]
    without = [_without(values[s], each=each[s]) for s in range(len(settings))]
    shape = len(settings), n
    accuracy, recall = _table(shape), _table(shape)
    losses, recall_losses = (_table((len(contrasts), n)) for _ in range(2))
    for k in range(n):
        own = None if codes is None else codes[k]
        for s in range(len(settings)):
            accuracy[s, k] = _left_out(without[s][:, k], k)
            recall[s, k] = clustered(right[s][k], own)
        for c, (first, second) in enumerate(contrasts):
            i, j = settings.index(first), settings.index(second)
            losses[c, k] = _left_out(without[i][:, k] - without[j][:, k], k)
            recall_losses[c, k] = clustered(right[i][k] - right[j][k], own, bounded=False)
    out = xr.Dataset(
        coords={
            "setting": settings,
            "localization": names,
            "contrast": [" - ".join(pair) for pair in contrasts],
        },
        attrs={
            "description": "what each localization loses when its background changes",
            **_clusters(groups),
            "accuracy_intervals": "95%, jackknife over the other classes",
        },
    )
    by_setting, by_contrast = ("setting", "localization"), ("contrast", "localization")
    for name, dims, found, what in (
        ("accuracy", by_setting, accuracy, "mean accuracy over the pairs of a localization"),
        ("recall", by_setting, recall, "share of a localization's cells that are told right"),
        ("accuracy_difference", by_contrast, losses, "difference of accuracy"),
        ("recall_difference", by_contrast, recall_losses, "difference of recall, cell by cell"),
    ):
        _with(out, name, dims, found, what)
    return out


def _without(values: Floats, *, each: bool) -> Floats:
    """Return the mean accuracy of each class; row 1 + k, without class k: (1 + n, localization)."""
    n = len(values)
    problems = values[:, :, 1:] if each else values[:, :, :1]
    found = np.full((1 + n, n), np.nan)
    found[0] = localization_means(problems, each=each)
    for k in range(n):
        keep = np.delete(np.arange(n), k)
        backgrounds = keep if each else np.arange(1)
        rest = problems[np.ix_(keep, keep, backgrounds)]
        found[1 + k, keep] = localization_means(rest, each=each)
    return found


def _left_out(values: Floats, k: int) -> Estimate:
    """Return the jackknife of class k's mean: entry 0 is of all, 1 + j is without class j."""
    return Estimate.of_jackknife(float(values[0]), np.delete(values[1:], k))


def by_neighbours(
    evaluation: xr.Dataset,
    *,
    neighbours: xr.DataArray,
    share: xr.DataArray,
    groups: xr.DataArray | None = None,
) -> xr.Dataset:
    """Return how well cells are told by how many neighbours they were imaged with.

    Cells without neighbours are a natural control: their own background is medium.

    Parameters
    ----------
    evaluation : Dataset
        Node evaluation/<model>: decision, each_background.
    neighbours : array (localization, draw), int
        Other cells in the window of each cell, as imaged.
    share : array (localization, draw), float, [0, 1]
        Share of the window's pixels that they cover.
    groups : array (localization, draw), int, optional
        Protein, well or field of each cell; without, there are no intervals.

    Returns
    -------
    Dataset
        By `neighbours` (0, 1, .. and more) and by bin of their `share`: `recall_by_neighbours`,
        `recall_by_share` (setting, bin), the share of cells told right, all classes together;
        `standardised_by_...`, the mean over classes of the same, so that crowded classes weigh no
        more in crowded bins (none where a class has no such cell); `difference_by_...` (contrast,
        bin), cell by cell. Each with `_low`, `_high`, `_n_cells`, `_n_groups` and `_reason`.
    """
    settings, names, each = _checked(evaluation, "decision")
    decision, codes = _decisions(evaluation, "decision"), _grouped(groups)
    right = [told_right(decision[s], each=each[s])[0] for s in range(len(settings))]
    contrasts = [pair for pair in CONTRASTS if set(pair) <= set(settings)]
    classes = np.broadcast_to(np.arange(len(names))[:, None], right[0].shape)
    counts = neighbours.transpose("localization", "draw").values
    covered = share.transpose("localization", "draw").values
    bins = {
        "neighbours": np.minimum(counts, NEIGHBOUR_COUNTS[-1]),
        "share": np.searchsorted(NEIGHBOUR_SHARES, covered, "left"),
    }
    bounds = ["0", *(f"{low:g}-{high:g}" for low, high in pairwise(NEIGHBOUR_SHARES))]
    labels = {
        "neighbours": [*map(str, NEIGHBOUR_COUNTS[:-1]), f"{NEIGHBOUR_COUNTS[-1]} or more"],
        "share": bounds,
    }
    out = xr.Dataset(
        coords={
            "setting": settings,
            "contrast": [" - ".join(pair) for pair in contrasts],
            **labels,
        },
        attrs={
            "description": "cells told right, by the neighbours that they were imaged with",
            **_clusters(groups),
        },
    )
    for name, which in bins.items():
        recall, standardised = (_table((len(settings), len(labels[name]))) for _ in range(2))
        losses = _table((len(contrasts), len(labels[name])))
        for i in range(len(labels[name])):
            here = which == i
            own = None if codes is None else codes[here]
            of = classes[here]
            for s in range(len(settings)):
                recall[s, i] = clustered(right[s][here], own)
                standardised[s, i] = clustered(right[s][here], own, strata=of, wanted=len(names))
            for c, (first, second) in enumerate(contrasts):
                loss = right[settings.index(first)] - right[settings.index(second)]
                losses[c, i] = clustered(loss[here], own, bounded=False)
        what = f"by {'number' if name == 'neighbours' else 'share of pixels'} of neighbours"
        _with(out, f"recall_by_{name}", ("setting", name), recall,
              f"share of cells told right, {what}")  # fmt: skip
        _with(out, f"standardised_by_{name}", ("setting", name), standardised,
              f"the same, classes weighing equally, {what}")  # fmt: skip
        _with(out, f"difference_by_{name}", ("contrast", name), losses,
              f"difference of that share, cell by cell, {what}")  # fmt: skip
    return out
