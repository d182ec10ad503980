"""The further rows of the table of accuracies: other ways to come by the same accuracies.

Owns grouped folds, classifiers that were trained on `original`, and conflicts as rows beside the
published one. The one idea: each is a dataset of accuracies, so one aggregation serves all, and
their figures can be compared column by column.
"""

import math

import numpy as np
import numpy.typing as npt
import xarray as xr

from bgscale.accuracy import ACCURACY_DIMS, Aggregate, table
from bgscale.schema import OWN_BACKGROUND

GROUPED, TRANSFERRED, CONFLICT = "grouped_", "transferred_", "conflict_"
"""Prefixes of the variables of a row."""
TITLES = {TRANSFERRED: "trained on original", CONFLICT: "conflict"}
_NOT_KEPT = ("problems", "localizations")


def full_table(
    evaluation: xr.Dataset,
    controls: xr.Dataset | None = None,
    *,
    aggregate: Aggregate = "symmetric",
    pairs: npt.NDArray[np.bool_] | None = None,
) -> xr.Dataset:
    """Return the table of accuracies with all the rows that there are.

    Parameters
    ----------
    evaluation : Dataset
        Node evaluation/<model>: accuracy, converged and, with grouped folds, grouped_accuracy,
        grouped_converged; attributes `groups`, `groups_note`.
    controls : Dataset, optional
        Node controls/<model>: transferred, conflict, conflict_converged.
    aggregate, pairs
        As `bgscale.accuracy.table` takes them.

    Returns
    -------
    Dataset
        As `bgscale.accuracy.table` makes it, and the same variables of each further row with its
        prefix: `grouped_mean` and so on. The attribute `rows` has their titles, by prefix; what
        cannot be computed is NaN, and `note` says why.
    """
    out = table(evaluation, aggregate=aggregate, pairs=pairs)
    out.attrs["rows"] = {}
    if "grouped_accuracy" in evaluation:
        kind = str(evaluation.attrs["groups"])
        if kind == "none":
            note = f"no grouped folds: {evaluation.attrs['groups_note']}"
            out.attrs["note"] = "\n".join([*out.attrs["note"].splitlines(), note])
        else:
            grouped = table(_grouped(evaluation), aggregate=aggregate, pairs=pairs)
            out = beside(out, grouped, prefix=GROUPED, title=f"grouped by {kind}")
    if controls is not None:
        made = control_tables(controls, aggregate=aggregate, pairs=pairs)
        for prefix, title in TITLES.items():
            if made[prefix.rstrip("_")].sizes["setting"]:
                out = beside(out, made[prefix.rstrip("_")], prefix=prefix, title=title)
    return out


def _grouped(evaluation: xr.Dataset) -> xr.Dataset:
    """Return the accuracies with grouped folds, as a dataset with one fold: their mean.

    Pairs have as many folds as the class with fewest groups has groups; the others are empty.
    """
    accuracy, converged = (
        evaluation[f"grouped_{name}"].transpose(*ACCURACY_DIMS).values.astype(np.float64)
        for name in ("accuracy", "converged")
    )
    filled = np.isfinite(accuracy)
    count = filled.sum(axis=-1, keepdims=True)

    def mean(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        total = np.where(filled, values, 0).sum(axis=-1, keepdims=True)
        return np.asarray(
            np.divide(total, count, out=np.full(count.shape, np.nan), where=count > 0)
        )

    coords = {name: evaluation.coords[name] for name in (*ACCURACY_DIMS[:-1], "each_background")}
    return xr.Dataset(
        {
            "accuracy": (ACCURACY_DIMS, mean(accuracy)),
            "converged": (ACCURACY_DIMS, mean(converged)),
        },
        coords=coords,
        attrs={"note": evaluation.attrs.get("groups_note", "")},
    )


def control_tables(
    controls: xr.Dataset,
    *,
    aggregate: Aggregate = "symmetric",
    pairs: npt.NDArray[np.bool_] | None = None,
) -> dict[str, xr.Dataset]:
    """Return the tables of classifiers trained on `original`, and of conflicts.

    Parameters
    ----------
    controls : Dataset
        Node controls/<model>: transferred (setting, localization_a, localization_b, background,
        fold), conflict and conflict_converged (setting, localization_a, localization_b, fold).
    aggregate, pairs
        As `bgscale.accuracy.table` takes them.

    Returns
    -------
    dict of str to Dataset
        `transferred`, and `conflict` of the settings with each background: as
        `bgscale.accuracy.table` makes them.
    """
    moved = controls[["transferred"]].rename(transferred="accuracy")
    each = controls["each_background"].values.astype(np.bool_)
    against = controls[["conflict", "conflict_converged"]].isel(setting=each)
    against = against.rename(conflict="accuracy", conflict_converged="converged")
    # one problem a pair, on the backgrounds that the pair says
    against = against.expand_dims(background=[OWN_BACKGROUND]).transpose(*ACCURACY_DIMS)
    absent = {"accuracy": math.nan, "converged": 0}
    against = against.reindex(background=controls["background"], fill_value=absent)
    against = against.assign_coords(each_background=("setting", np.zeros(each.sum(), np.bool_)))
    return {
        name: table(dataset.drop_attrs(), aggregate=aggregate, pairs=pairs)
        for name, dataset in (("transferred", moved), ("conflict", against))
    }


def beside(table: xr.Dataset, other: xr.Dataset, *, prefix: str, title: str) -> xr.Dataset:
    """Return a table with another way to come by its accuracies beside it.

    Parameters
    ----------
    table, other : Dataset
        As `bgscale.accuracy.table` makes them; the first with the attribute `rows`.
    prefix : str
        Of the other's variables: ``grouped_mean`` and so on.
    title : str
        What a person reads in front of its row.
    """
    kept = other.drop_vars(_NOT_KEPT)
    kept = kept.reindex(setting=table["setting"], contrast=table["contrast"])
    out = table.merge(kept.rename({name: prefix + str(name) for name in kept.data_vars}))
    notes = [f"{title}: {line}" for line in other.attrs["note"].splitlines()]
    note = "\n".join([*table.attrs["note"].splitlines(), *notes])
    out.attrs = {**table.attrs, "rows": {**table.attrs["rows"], prefix: title}, "note": note}
    return out
