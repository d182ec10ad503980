"""CSV for R and spreadsheets: what the run found, in long tables, one file each.

Numbers are as precise as in the store, what is missing is NA. A text that a spreadsheet would take
for a formula (it begins with = + - @, a tab or a line end) gets an apostrophe in front.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr

from bgscale.asked import check_complete, pick, provenance
from bgscale.controls import findings
from bgscale.errors import InputError
from bgscale.export.target import beside, check_apart, write_about
from bgscale.results import Store, open_results
from bgscale.schema import OWN_BACKGROUND
from bgscale.summary import node as dataset_of
from bgscale.summary import tables

FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")
NOT_A_VALUE = "NA"
MOST_COLUMNS = 8
"""A dim that is none of a table's rows becomes columns if it has names, and no more than these."""


class _Long(NamedTuple):
    """A long table: what is in a node, by which dims, of which one is a must."""

    file: str
    node: str
    rows: tuple[str, ...]
    by: str


_TABLES = (
    _Long(
        "accuracy", "evaluation",
        ("setting", "localization_a", "localization_b", "background", "fold"), "localization_a",
    ),
    _Long(
        "proportions", "proportions", ("fit", "setting", "protein", "localization"), "protein"
    ),
    _Long("shifts", "shifts", ("fit", "setting", "protein"), "protein"),
    _Long(
        "shifts_by_localization", "shifts", ("fit", "setting", "protein", "localization"),
        "localization",
    ),
    _Long(
        "confusion", "shifts", ("fit", "setting", "localization_true", "localization"),
        "localization_true",
    ),
    _Long(
        "confusion", "pooled", ("fit", "setting", "localization_true", "localization"),
        "localization_true",
    ),
    _Long("reliability", "reliability", ("fit", "setting", "label", "bin"), "label"),
)  # fmt: skip
_NODES = tuple(dict.fromkeys(table.node for table in _TABLES))
_STAGES = ("evaluate", "proportions", "shifts")
_LATER_STAGES = ("controls", "pooled", "discoveries", "reliability")
"""Stages that stores have since they were introduced."""


def to_csv(
    store: str | Path, out: str | Path, *, model: str = "", overwrite: bool = False
) -> dict[str, int]:
    """Write a folder of CSV files.

    Parameters
    ----------
    store : str or path
    out : path
        Folder.
    model : str
        By default all models of the store.
    overwrite : bool

    Returns
    -------
    dict of str to int
        Rows of each file.

    Raises
    ------
    InputError
        No such model (the nearest is said), the run is not complete, or the place is taken.
    """
    opened = Store(store)
    known = list(opened.attrs().get("config", {}).get("models", {}))
    check_apart(out, opened.location)
    models = [pick("model", model, known)] if model else known
    planned = opened.attrs().get("planned", [])
    later = [f"{s}/{n}" for n in models for s in _LATER_STAGES if f"{s}/{n}" in planned]
    check_complete(opened, [*(f"{s}/{n}" for n in models for s in _STAGES), *later])
    tree = open_results(opened.location)
    absent = [
        f"{node}/{name}"
        for name in models
        for node in ("evaluation", "proportions", "shifts")
        if not opened.has(f"{node}/{name}")
    ]
    if absent:
        msg = f"{opened.location} has no {', '.join(absent)} yet: `bgscale run` makes them"
        raise InputError(msg)
    parts: dict[str, list[pd.DataFrame]] = {}
    left = []
    for node in _NODES:
        for name in models:
            if not opened.has(f"{node}/{name}"):
                continue
            dataset, taken = dataset_of(tree, node, name), set[str]()
            for table in (t for t in _TABLES if t.node == node):
                found = _variables(dataset, table)
                taken |= set(found)
                if found:
                    frame = _long(dataset, table, found).assign(model=name)
                    parts.setdefault(table.file, []).append(frame)
            left += [f"{node}/{name}/{v}" for v in map(str, dataset) if v not in taken]
    frames = {
        file: _model_first(pd.concat(long, ignore_index=True)) for file, long in parts.items()
    }
    frames |= _summaries(opened.location, models)
    frames |= _findings(opened, models)
    frames["proteins"] = _proteins(tree)
    with beside(out, overwrite=overwrite) as part:
        part.mkdir()
        for name, frame in frames.items():
            write_csv(frame, part / f"{name}.csv")
        write_about(part, provenance(opened, models=models, not_exported=left))
    return {f"{name}.csv": len(frame) for name, frame in frames.items()}


def harmless(text: object) -> object:
    """Return a text as it may stand in a spreadsheet; what is no text as it is.

    Examples
    --------
    >>> harmless("=1+1"), harmless("NUP2"), harmless(-1.0)
    ("'=1+1", 'NUP2', -1.0)
    """
    return f"'{text}" if isinstance(text, str) and text.startswith(FORMULA) else text


def write_csv(frame: pd.DataFrame, path: Path | TextIO) -> None:
    """Write a table: UTF-8, a line end per row, quotes where they are needed, NA, no formulas."""
    safe = frame.rename(columns=harmless)
    for name in safe.columns:
        if not pd.api.types.is_numeric_dtype(safe[name].dtype):
            safe[name] = safe[name].astype(object).map(harmless)
    safe.to_csv(path, index=False, na_rep=NOT_A_VALUE, encoding="utf-8", lineterminator="\n")


def _variables(dataset: xr.Dataset, table: _Long) -> list[str]:
    """Return the variables that belong into a table: none of the sums, which are integer steps."""
    found = []
    for name, variable in dataset.data_vars.items():
        dims = set(map(str, variable.dims))
        extra = [d for d in dims if d not in table.rows]
        by = dims if table.file != "proportions" else dims | {"localization"}
        if (
            table.by in by
            and all(d in dataset.coords and dataset.sizes[d] <= MOST_COLUMNS for d in extra)
            and not any(d.startswith("localization") for d in extra)
            and not str(variable.attrs.get("units", "")).startswith("1/")
        ):
            found.append(str(name))
    return sorted(found)


def _long(dataset: xr.Dataset, table: _Long, variables: Sequence[str]) -> pd.DataFrame:
    """Return variables of a table as columns, a row for each place in its dims."""
    columns = {}
    rows = [d for d in table.rows if d in dataset.sizes]
    shape = [dataset.sizes[d] for d in rows]
    for name in variables:
        variable = dataset[name].load()
        extra = [d for d in map(str, variable.dims) if d not in rows]
        for place in np.ndindex(*(variable.sizes[d] for d in extra)):
            at = dict(zip(extra, place, strict=True))
            part = variable.isel(at)
            labels = [str(dataset[d].to_numpy()[i]) for d, i in at.items()]
            whole = part.expand_dims({d: dataset.sizes[d] for d in rows if d not in part.dims})
            values = whole.transpose(*rows).to_numpy().reshape(-1)
            columns["_".join([name, *labels])] = _named(values, variable.attrs.get("names"))
    places = np.indices(shape).reshape(len(rows), -1)
    index = {
        d: dataset[d].to_numpy()[i] if d in dataset.coords else i
        for d, i in zip(rows, places, strict=True)
    }
    frame = pd.DataFrame({**index, **columns})
    if table.file == "accuracy":
        frame = frame[_problems(dataset, dict(zip(rows, places, strict=True)))]
    return frame


def _named(values: npt.NDArray[Any], names: Any) -> npt.NDArray[Any]:
    """Return the names of codes; values that are no codes as they are."""
    if not names:
        return values
    known = names if isinstance(names, dict) else {str(i): name for i, name in enumerate(names)}
    return np.array([known[str(code)] for code in values.tolist()], object)


def _problems(dataset: xr.Dataset, at: Mapping[str, Any]) -> Any:
    """Return which rows are problems of experiment 1: each pair once, on backgrounds it is put on.

    A problem that could not be solved stays, as NA.
    """
    once = at["localization_a"] < at["localization_b"]
    if "each_background" not in dataset.coords:
        return once
    each = dataset["each_background"].to_numpy()[at["setting"]]
    own = dataset["background"].to_numpy()[at["background"]] == OWN_BACKGROUND
    return once & (each != own)


def _model_first(frame: pd.DataFrame) -> pd.DataFrame:
    return frame[["model", *(c for c in frame.columns if c != "model")]]


def _summaries(store: str, models: Sequence[str]) -> dict[str, pd.DataFrame]:
    """Return the table of accuracies and its contrasts, as `bgscale table` prints them."""
    made: dict[str, list[pd.DataFrame]] = {"table": [], "contrasts": []}
    for name in models:
        dataset = tables(store, model=name)[name]
        for file, dim in (("table", "setting"), ("contrasts", "contrast")):
            own = [v for v in dataset.data_vars if dataset[v].dims == (dim,)]
            frame = dataset[own].to_dataframe()[own].reset_index()
            made[file].append(frame.assign(model=name, aggregate=dataset.attrs["aggregate"]))
    return {file: _model_first(pd.concat(frames)) for file, frames in made.items()}


def _findings(store: Store, models: Sequence[str]) -> dict[str, pd.DataFrame]:
    """Return what the controls say, a table for each set of dims; nothing of stores without."""
    if not all(store.has(f"controls/{name}") for name in models):
        return {}
    parts: dict[str, list[pd.DataFrame]] = {}
    for name in models:
        found = findings(store.location, model=name)[name]
        for kind in ("harm", "confusion", "sensitivity", "neighbours"):
            by_dims: dict[tuple[str, ...], list[str]] = {}
            for variable in found[kind].data_vars.values():
                by_dims.setdefault(tuple(map(str, variable.dims)), []).append(str(variable.name))
            for dims, variables in by_dims.items():
                frame = _long(found[kind], _Long(kind, "controls", dims, dims[0]), variables)
                parts.setdefault(f"{kind}_by_{'_'.join(dims)}", []).append(frame.assign(model=name))
    return {file: _model_first(pd.concat(frames)) for file, frames in parts.items()}


def _proteins(tree: xr.DataTree) -> pd.DataFrame:
    """Return the plate map by protein, and whether each protein has each class."""
    dataset = tree.children["proteins"].to_dataset(inherit=False).load()
    columns = {n: v for n, v in dataset.attrs.get("plate_map", {}).items() if n != "protein"}
    classes = zip(dataset["localization"].to_numpy(), dataset["label"].to_numpy().T, strict=True)
    columns |= {f"is_{name}": own.astype(int) for name, own in classes}
    return pd.DataFrame({"protein": dataset["protein"].to_numpy(), **columns})
