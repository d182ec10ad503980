"""What a person asks first of a run store: the table, the shifts, and what to beware of."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr

from bgscale.accuracy import Aggregate
from bgscale.asked import check_complete, models_with
from bgscale.errors import InputError, nearest
from bgscale.proportions import summary
from bgscale.results import Store, open_results
from bgscale.rows import full_table


def node(tree: xr.DataTree, kind: str, model: str) -> xr.Dataset:
    """Return the Dataset of a model ("evaluation", "proportions", "shifts").

    Raises
    ------
    InputError
        There is no such model; those that are there are named.
    """
    known = list(tree[kind].children) if kind in tree.children else []
    if model not in known:
        have = ", ".join(known) or "none yet: `bgscale run` makes them"
        msg = f"no {kind} of model {model!r}{nearest(model, known)}; there are {have}"
        raise InputError(msg)
    return tree.children[kind].children[model].to_dataset(inherit=False)


def tables(
    store: str | Path, *, model: str = "", aggregate: Aggregate | None = None, differ_in: str = ""
) -> dict[str, xr.Dataset]:
    """Return the table of accuracies of each model of a store.

    Parameters
    ----------
    store : str or path
    model : str
        Only this one.
    aggregate : {"symmetric", "published"}, optional
        By default what the run's config says.
    differ_in : str
        Only pairs of classes that differ in this column of the plate map.

    Returns
    -------
    dict of str to Dataset
        As `bgscale.rows.full_table` makes them; the notes say what to beware of.
    """
    tree = open_results(store)
    names = models_with(Store(store), "evaluation", model)
    chosen: Aggregate = aggregate or tree.attrs["config"]["classification"]["aggregate"]
    pairs = pairs_that_differ(tree, differ_in) if differ_in else None
    made = {}
    for name in names:
        dataset = node(tree, "evaluation", name).load()
        dataset.attrs["note"] = "\n".join(_notes(tree, name, dataset, differ_in))
        # of a run that is not finished, or an older one, there are none
        known = tree["controls"].children if "controls" in tree.children else {}
        tested = node(tree, "controls", name) if name in known else None
        made[name] = full_table(dataset, tested, aggregate=chosen, pairs=pairs)
    return made


def _notes(tree: xr.DataTree, name: str, dataset: xr.Dataset, differ_in: str) -> list[str]:
    notes = []
    if dataset.attrs["random_weights"]:
        notes.append("random weights: these figures say nothing of a trained model")
    asked = tree.attrs["config"]["classification"]
    wanted, folds = asked["crops_per_class"], asked["folds"]
    draws = tree["centres"].sizes["draw"]
    counted = f"{draws} crops a class"
    if draws != wanted:
        counted += f": a multiple of the {folds} folds"
    if draws != wanted - wanted % folds:
        counted += ", and the smallest class has too few for more"
    notes.append(counted)
    if differ_in:
        notes.append(f"only pairs of classes that differ in {differ_in!r}")
    zoom = tree[f"grid/{name}"].attrs["crops_enlarged_by"]
    if zoom != 1:
        notes.append(f"crops were enlarged {zoom:.3g} times to the model's pixel size")
    if not np.isfinite(dataset["accuracy"]).any():
        msg = f"the evaluation of model {name!r} is not done yet: `bgscale run` goes on with it"
        raise InputError(msg)
    return notes


def pairs_that_differ(tree: xr.DataTree, column: str) -> npt.NDArray[np.bool_]:
    """Return which pairs of classes differ in a column of the plate map.

    A class has the values of its single-class proteins; a pair differs if they have none in common.

    Returns
    -------
    array (localization, localization), bool
    """
    proteins = tree["proteins"].to_dataset()
    columns: dict[str, list[Any]] = proteins.attrs["plate_map"]
    if column not in columns:
        msg = f"the plate map has no column {column!r}{nearest(column, columns)}; it has "
        raise InputError(msg + ", ".join(columns))
    label = proteins["label"].to_numpy().astype(bool)
    single = label.sum(1) == 1
    values = [
        {v for v, mine in zip(columns[column], single & label[:, k], strict=True) if mine}
        for k in range(label.shape[1])
    ]
    return np.array([[a.isdisjoint(b) for b in values] for a in values])


def most_shifted(
    tree: xr.DataTree, model: str, *, setting: str = "masked", fit: str = "fixed", count: int = 10
) -> pd.DataFrame:
    """Return the proteins whose proportions move most between `original` and a setting.

    Returns
    -------
    DataFrame
        protein, label (its classes), n_cells, kl (nats), total_variation, q (false discovery rate
        at which the shift is significant) and q_substantial (the same, of being substantial), and
        the largest loss and gain among the localizations.
    """
    shifts = node(tree, "shifts", model).sel(fit=fit, setting=setting)
    made = node(tree, "proportions", model).sel(fit=fit)
    label = tree["proteins"].to_dataset()["label"].astype(bool)
    kl = shifts["kl"].to_series().dropna().nlargest(count)
    rows = []
    for protein, value in kl.items():
        original, changed = (
            made["proportion"].sel(setting=s, protein=protein) for s in ("original", setting)
        )
        moved = (changed - original).to_series()
        own = label.sel(protein=protein)
        down, up = moved.idxmin(), moved.idxmax()
        rows.append(
            {
                "protein": protein,
                "label": ";".join(own["localization"].to_numpy()[own.to_numpy()]) or "none",
                "n_cells": int(made["n_cells"].sel(setting=setting, protein=protein)),
                "kl": float(value),
                **{
                    name: float(shifts[name].sel(protein=protein))
                    for name in ("total_variation", "q", "q_substantial")
                },
                "from": f"{down} {original.sel(localization=down):.2f}"
                f" -> {changed.sel(localization=down):.2f}",
                "to": f"{up} {original.sel(localization=up):.2f}"
                f" -> {changed.sel(localization=up):.2f}",
            }
        )
    return pd.DataFrame(rows)


def shift_summary(tree: xr.DataTree, model: str, *, setting: str, fit: str) -> Mapping[str, float]:
    """Return mean, spread and quartiles of KL over proteins, as published, and how many miss."""
    return summary(node(tree, "shifts", model)["kl"].sel(fit=fit, setting=setting).to_numpy())


def field_table(store: str | Path) -> pd.DataFrame:
    """Return a row per field of the plates of a store, as `bgscale.quality.summarise` takes it.

    Also of fields and wells that the plate's metadata name and that are not there.

    Raises
    ------
    InputError
        The screen is one of crops, or its fields are not segmented yet.
    """
    tree, opened = open_results(store), Store(store)
    gathered = {f"gather/{plate}" for plate in tree.attrs["plates"]}
    check_complete(opened, sorted(gathered & set(opened.attrs().get("stages", {}))))
    tables = []
    for plate in tree.attrs["plates"]:
        fields = tree.children["plates"].children.get(plate) if "plates" in tree.children else None
        if fields is None or "fields" not in fields.children:
            msg = (
                f"{store} has no fields of plate {plate!r}: quality is that of plates, and "
                "`bgscale run` segments them first"
            )
            raise InputError(msg)
        dataset = fields.children["fields"].to_dataset(inherit=False).load()
        table = dataset.to_dataframe().reset_index(names="name")
        parts = table.pop("name").str.rsplit("/", n=2, expand=True)
        table.insert(0, "plate", plate)
        table.insert(1, "well", parts[1])
        table.insert(2, "field", parts[2])
        blank = table["protein"] < 0 if "protein" in table else False
        table["kind"] = np.where(blank, "blank", "sample")
        missing = pd.DataFrame(
            [{"plate": plate, "cells": 0, "usable_cells": 0, "kind": "sample"} | problem
             for problem in dataset.attrs["problems"]]
        ).drop(columns="text", errors="ignore")  # fmt: skip
        named = table.rename(columns={"area_median": "area_median_px"})
        tables.append(pd.concat([named, missing], ignore_index=True) if len(missing) else named)
    return pd.concat(tables, ignore_index=True)
