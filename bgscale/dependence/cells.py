"""To whom it is done: what each localization loses, and cells by the neighbours they have."""

from itertools import pairwise

import numpy as np
import xarray as xr

from bgscale.accuracy import CONTRASTS, localization_means
from bgscale.dependence.decisions import (
    Floats,
    checked,
    clusters,
    decisions_of,
    fold_means,
    grouped,
    no_estimates,
    put,
    told_right,
)
from bgscale.intervals import Estimate, clustered

NEIGHBOUR_COUNTS = (0, 1, 2, 3, 4)
"""Bins of the number of neighbours; the last is open."""
NEIGHBOUR_SHARES = (0.0, 0.1, 0.2, 0.4, 1.0)
"""Upper bounds of the bins of the neighbours' share of the window; the first is none at all."""


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
    settings, names, each = checked(evaluation, "accuracy", "decision")
    values, decision, n = fold_means(evaluation), decisions_of(evaluation, "decision"), len(names)
    codes = grouped(groups)
    contrasts = [pair for pair in CONTRASTS if set(pair) <= set(settings)]
    right = [told_right(decision[s], each=each[s])[0] for s in range(len(settings))]
    without = [_without(values[s], each=each[s]) for s in range(len(settings))]
    shape = len(settings), n
    accuracy, recall = no_estimates(shape), no_estimates(shape)
    losses, recall_losses = (no_estimates((len(contrasts), n)) for _ in range(2))
    for k in range(n):
        own = None if codes is None else codes[k]
        for s in range(len(settings)):
            accuracy[s, k] = _left_out(without[s][:, k], k).within(0, 1)
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
            **clusters(groups),
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
        put(out, name, dims, found, what)
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
    settings, names, each = checked(evaluation, "decision")
    decision, codes = decisions_of(evaluation, "decision"), grouped(groups)
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
            **clusters(groups),
        },
    )
    for name, which in bins.items():
        recall, standardised = (no_estimates((len(settings), len(labels[name]))) for _ in range(2))
        losses = no_estimates((len(contrasts), len(labels[name])))
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
        put(out, f"recall_by_{name}", ("setting", name), recall,
              f"share of cells told right, {what}")  # fmt: skip
        put(out, f"standardised_by_{name}", ("setting", name), standardised,
              f"the same, classes weighing equally, {what}")  # fmt: skip
        put(out, f"difference_by_{name}", ("contrast", name), losses,
              f"difference of that share, cell by cell, {what}")  # fmt: skip
    return out
