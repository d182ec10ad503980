"""Decisions about held-out cells, out of a store's nodes; estimates, back into Datasets."""

from collections.abc import Sequence
from itertools import combinations
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import xarray as xr

from bgscale.errors import SchemaError
from bgscale.intervals import NO_VALUE, REASONS, Estimate

Floats: TypeAlias = npt.NDArray[np.float64]
Integers: TypeAlias = npt.NDArray[np.int64]

OWN_CLASS = max(REASONS) + 1
ALL_REASONS = {**REASONS, OWN_CLASS: "the background is that of the class itself"}


def checked(dataset: xr.Dataset, *names: str) -> tuple[list[str], list[str], list[bool]]:
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


def fold_means(dataset: xr.Dataset) -> Floats:
    """Return accuracies (setting, a, b, background); one without a fold has none."""
    dims = ("setting", "localization_a", "localization_b", "background", "fold")
    means: Floats = dataset["accuracy"].transpose(*dims).values.mean(axis=-1)
    return means


def decisions_of(dataset: xr.Dataset, variable: str) -> npt.NDArray[np.int8]:
    """Return decisions (setting, a, b, background, member, draw)."""
    dims = ("setting", "localization_a", "localization_b", "background", "member", "draw")
    values: npt.NDArray[np.int8] = dataset[variable].transpose(*dims).values
    return values


def grouped(groups: xr.DataArray | None) -> Integers | None:
    """Return the group of each cell: (localization, draw); None: not known."""
    return None if groups is None else groups.transpose("localization", "draw").values


def put(dataset: xr.Dataset, name: str, dims: Sequence[str], found: npt.NDArray[np.object_],
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


def no_estimates(shape: tuple[int, ...]) -> npt.NDArray[np.object_]:
    """Return a table of this shape in which there is no value yet."""
    found = np.empty(shape, np.object_)
    for at in np.ndindex(shape):
        found[at] = Estimate(np.nan, np.nan, np.nan, 0, 0, NO_VALUE)
    return found


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


def clusters(groups: xr.DataArray | None) -> dict[str, str]:
    """Return, as attributes, which cells the intervals take together."""
    kind = "none" if groups is None else str(groups.attrs.get("kind", "group"))
    return {"groups": kind, "intervals": f"95%, cells taken together by {kind} (linearised, t)"}
