"""Which background does the harm, and which cells are taken for the class of theirs."""

import numpy as np
import numpy.typing as npt
import xarray as xr

from bgscale.dependence.decisions import (
    OWN_CLASS,
    Floats,
    checked,
    clusters,
    decisions_of,
    fold_means,
    grouped,
    no_estimates,
    put,
)
from bgscale.intervals import clustered, over_classes


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
    settings, names, each = checked(evaluation, "accuracy")
    accuracy, n = fold_means(evaluation), len(names)
    chosen = [s for s, one in enumerate(each) if one]
    imaged = _both_ways(accuracy[settings.index("original"), :, :, 0])
    by_class, overall = no_estimates((len(chosen), n, n)), no_estimates((len(chosen), n))
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
        coords=_coords([settings[s] for s in chosen], names),
        attrs={
            "description": "accuracy on each background less that of the same pairs as imaged",
            "intervals": "overall: jackknife over classes; change: over partners (t)",
        },
    )
    put(out, "change", ("setting", "localization", "background"), by_class,
          "accuracy on this background less that as imaged")  # fmt: skip
    put(out, "overall", ("setting", "background"), overall,
          "accuracy on this background less that as imaged, all pairs")  # fmt: skip
    return out


def _both_ways(pairs: Floats) -> Floats:
    """Return values of pairs (a, b), a before b, for (b, a) as well."""
    return np.where(np.isnan(pairs), pairs.T, pairs)


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
    settings, names, each = checked(controls, "transferred_decision")
    checked(evaluation, "decision")
    moved, imaged = (
        decisions_of(controls, "transferred_decision"),
        decisions_of(evaluation, "decision"),
    )
    codes, n = grouped(groups), len(names)
    chosen = [s for s, one in enumerate(each) if one]
    original = settings.index("original")
    shape = len(chosen), n, n
    swapped, excess = no_estimates(shape), no_estimates(shape)
    as_imaged, on_same = no_estimates((n, n)), no_estimates((n, n))
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
        coords=_coords([settings[s] for s in chosen], names),
        attrs={
            "description": "cells that classifiers of crops as imaged take for the class of their "
            "background",
            **clusters(groups),
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
        put(out, name, dims, found, what)
    return out


def _taken(decision: npt.NDArray[np.int8]) -> Floats:
    """Return 1 where a cell is told as the other class, 0 where as its own, NaN where neither."""
    return np.where(decision >= 0, 1.0 - decision, np.nan)


def _coords(settings: list[str], names: list[str]) -> dict[str, list[str]]:
    return {"setting": settings, "localization": names, "background": names}
