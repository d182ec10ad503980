"""Published accuracies in, tables for people and programs out.

Owns the folder format of the published pairwise accuracies, and the text and JSON of a table.
Refuses to own the aggregation (`bgscale.accuracy`). The one idea: a published folder becomes the
same dataset as our own sweep, so that everything after it is one code path.
"""

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from bgscale.accuracy import ACCURACY_DIMS, accuracy_dataset, neighbour_share, table
from bgscale.errors import InputError, nearest

__all__ = ["format_table", "neighbour_share", "read_published", "table", "to_json"]

PUBLISHED_FILES = {
    "original": "results_base.csv",
    "masked": "results_mask.csv",
    "cell_free": "results_batch.csv",
    "same": "results_same.csv",
    "different": "results_diff.csv",
}
"""The settings in the order of the paper's columns, and the files of the published folders."""
EACH_BACKGROUND = ("cell_free", "different")
COLUMN_GAP = "  "
NO_VALUE = "none"


class _Row(NamedTuple):
    """One line of a published file; `background` is None where the file has no such column."""

    line: int
    a: str
    b: str
    background: str | None
    accuracy: float
    sd: float


def _fraction(text: str, column: str, where: str, *, high: float) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0.0 <= value <= high:
        msg = f"{where}: {column} is {text!r}; expected a number from 0 to {high:g}: correct it"
        raise InputError(msg)
    return value


def _read_rows(path: Path, *, each: bool) -> list[_Row]:
    """Return the rows of one file, in its order."""
    columns = ["Location1", "Location2", *(["Background"] if each else []), "Accuracy"]
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        msg = f"cannot read {path}: {error}; expected a CSV file in UTF-8"
        raise InputError(msg) from error
    lines = csv.reader(text.splitlines())
    header = [name.strip() for name in next(lines, [])]
    absent = [name for name in columns if name not in header]
    if absent:
        msg = (
            f"{path} has columns {', '.join(header) or 'none'}; expected "
            f"{', '.join(columns)} and StdDev: {', '.join(absent)} not found"
        )
        raise InputError(msg)
    rows = []
    for cells in lines:
        values = [cell.strip() for cell in cells]
        if not any(values):
            continue
        where = f"{path}, line {lines.line_num}"
        if len(values) != len(header):
            msg = f"{where} has {len(values)} values; expected {len(header)}: repair the line"
            raise InputError(msg)
        row = dict(zip(header, values, strict=True))
        for name in columns[:-1]:
            if not row[name]:
                msg = f"{where}: {name} is empty; expected the name of a localization"
                raise InputError(msg)
        if row["Location1"] == row["Location2"]:
            msg = f"{where} pairs {row['Location1']!r} with itself; expected two localizations"
            raise InputError(msg)
        rows.append(
            _Row(
                lines.line_num,
                row["Location1"],
                row["Location2"],
                row["Background"] if each else None,
                _fraction(row["Accuracy"], "Accuracy", where, high=1.0),
                _fraction(row["StdDev"], "StdDev", where, high=0.5)
                if row.get("StdDev")
                else math.nan,
            )
        )
    if not rows:
        msg = f"{path} has no rows; expected one for each pair of localizations"
        raise InputError(msg)
    return rows


def _class_order(rows: Iterable[_Row]) -> tuple[list[str], bool]:
    """Return the classes so that the first of a pair stands first, and whether that was possible.

    The published aggregate depends on this order; that of the rows does not show it reliably. Where
    pairs contradict each other it is the order of first appearance.
    """
    rows = list(rows)
    appearance = list(dict.fromkeys(name for row in rows for name in (row.a, row.b)))
    after = TopologicalSorter[str](dict.fromkeys(appearance, ()))
    for row in rows:
        after.add(row.b, row.a)
    try:
        return list(after.static_order()), True
    except CycleError:
        return appearance, False


def read_published(folder: str | Path) -> xr.Dataset:
    """Return the published pairwise accuracies of a model as an accuracy dataset.

    Parameters
    ----------
    folder : path
        Holds `results_{base,mask,batch,same,diff}.csv` with columns Location1, Location2,
        Background (only in `batch` and `diff`), Accuracy and, optionally, StdDev. Rows may come in
        any order.

    Returns
    -------
    Dataset
        As `bgscale.accuracy.accuracy_dataset` makes it, with one fold, which is the mean over the
        published folds, and `fold_sd`, their standard deviation. What was odd but harmless stands
        in the attribute `note`, a line each.
    """
    folder = Path(folder)
    found = sorted(p.name for p in folder.glob("*.csv")) if folder.is_dir() else []
    absent = [name for name in PUBLISHED_FILES.values() if name not in found]
    if absent:
        there = ", ".join(found) if found else "no CSV file" if folder.is_dir() else "no folder"
        msg = (
            f"{folder}: {', '.join(absent)} not found; got {there}; expected one file for each "
            f"setting: {', '.join(f'{f} ({s})' for s, f in PUBLISHED_FILES.items())}"
        )
        raise InputError(msg)
    files = {
        setting: _read_rows(folder / name, each=setting in EACH_BACKGROUND)
        for setting, name in PUBLISHED_FILES.items()
    }
    notes = []
    names, ordered = _class_order(row for rows in files.values() for row in rows)
    known = set(_class_order(files["original"])[0])
    if not ordered:
        notes.append(
            "pairs stand in contradicting orders (a, b and b, a): the published aggregate counts a "
            "pair for the class that appears first in results_base.csv"
        )
    index = {name: i for i, name in enumerate(names)}
    n = len(names)
    accuracy = np.full((len(files), n, n, 1 + n, 1), np.nan)
    sd = accuracy.copy()
    for s, (setting, rows) in enumerate(files.items()):
        path = folder / PUBLISHED_FILES[setting]
        lines: dict[tuple[int, int, int], int] = {}
        repeated = 0
        for row in rows:
            for name in (row.a, row.b, row.background):
                if name is not None and name not in known:
                    msg = (
                        f"{path}, line {row.line}: {name!r} is not a localization of "
                        f"{PUBLISHED_FILES['original']}{nearest(name, known)}; known: "
                        f"{', '.join(sorted(known))}"
                    )
                    raise InputError(msg)
            a, b = sorted((index[row.a], index[row.b]))
            at = (a, b, 0 if row.background is None else 1 + index[row.background])
            if at in lines and accuracy[s, *at, 0] != row.accuracy:
                on = "" if row.background is None else f" on {row.background}"
                msg = (
                    f"{path}: lines {lines[at]} and {row.line} give two accuracies for {row.a} and "
                    f"{row.b}{on}: {accuracy[s, *at, 0]:g} and {row.accuracy:g}; expected one: "
                    "remove the other"
                )
                raise InputError(msg)
            repeated += at in lines
            lines.setdefault(at, row.line)
            accuracy[s, *at, 0], sd[s, *at, 0] = row.accuracy, row.sd
        if repeated:
            notes.append(f"{path.name}: {repeated} repeated rows, equal to the first, left out")
    dataset = accuracy_dataset(
        accuracy, settings=list(files), localizations=names, each_background=EACH_BACKGROUND
    )
    dataset["fold_sd"] = (ACCURACY_DIMS[:-1], sd[..., 0])
    dataset["fold_sd"].attrs = {
        "description": "population standard deviation of the accuracy over the folds",
        "units": "1",
    }
    dataset.attrs = {"source": "published", "note": "\n".join(notes)}
    return dataset


def format_table(tables: xr.Dataset | Mapping[str, xr.Dataset], *, title: str) -> str:
    """Return tables as aligned text: a row for each model, the paper's columns first.

    Parameters
    ----------
    tables : Dataset or mapping of model name to Dataset
        As `bgscale.rows.full_table` or `bgscale.accuracy.table` make them.
    title : str
        First line.

    Returns
    -------
    str
        Lines end with a newline. "0.946 +/- 0.020" is the mean and 3 standard errors; below it
        stands the error by jackknife over classes, which is the one to go by.
    """
    named = {"accuracy": tables} if isinstance(tables, xr.Dataset) else dict(tables)
    settings = list(dict.fromkeys(str(s) for t in named.values() for s in t["setting"].values))
    paper = [s for s in PUBLISHED_FILES if s in settings]
    settings = paper + [s for s in settings if s not in paper]
    grid = [["", *settings]]
    for model, one in named.items():
        rows = one.reindex(setting=settings)
        for prefix, label in {"": model, **one.attrs.get("rows", {})}.items():
            mean, error, jackknife = (
                rows[prefix + name].values
                for name in ("mean", "published_error", "jackknife_error")
            )
            pairs = zip(mean, error, strict=True)
            row = f"  {label}" if prefix else label
            grid.append([row, *(f"{_digits(m)} +/- {_digits(e)}" for m, e in pairs)])
            # Under the number of the line above it, so that the two errors can be compared.
            grid.append(["  jackknife", *(f"{'':5} +/- {_digits(e)}" for e in jackknife)])
    out = [title, "mean accuracy +/- 3 standard errors over localizations, and by jackknife", ""]
    out += [*_aligned(grid), ""]
    for model, one in named.items():
        of = f"{model}: " if len(named) > 1 else ""
        out.append(f"{of}{one.attrs['aggregate']} aggregate, {one.sizes['localization']} classes")
        contrasts = [
            [
                f"  {c}{', ' if label else ''}{label}",
                _digits(d),
                f"95% interval {_digits(low)} to {_digits(high)} (jackknife)",
            ]
            for prefix, label in {"": "", **one.attrs.get("rows", {})}.items()
            for c, d, low, high in zip(
                one["contrast"].values,
                *(one[f"{prefix}difference{end}"].values for end in ("", "_low", "_high")),
                strict=True,
            )
            if not prefix or math.isfinite(d)
        ]
        out += _aligned(contrasts)
        share = neighbour_share(one)
        if "background_only" in one["setting"].values:
            low, high = _digits(share["share_low"]), _digits(share["share_high"])
            out.append(
                f"  neighbours' share of what the background tells  {_digits(share['share'])}"
                f"  95% interval {low} to {high} (jackknife)"
            )
            if share.attrs["note"]:
                out.append(f"  note: {share.attrs['note']}")
        out += [f"  note: {line}" for line in one.attrs["note"].splitlines()]
    return "\n".join(line.rstrip() for line in out) + "\n"


def _digits(value: Any) -> str:
    return f"{float(value):.3f}" if math.isfinite(value) else NO_VALUE


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows as lines in which columns begin at the same place."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        COLUMN_GAP.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def to_json(table: xr.Dataset) -> dict[str, Any]:
    """Return a table as plain types for `json.dumps`; what is missing is None.

    Parameters
    ----------
    table : Dataset
        As `bgscale.accuracy.table` makes it.

    Returns
    -------
    dict
        `aggregate`; `rows`, the prefixes of further ways to get accuracies, each with its title;
        `settings` and `contrasts`, by name the values by variable; of a setting's
        `localization_mean` and `problems` the values by localization; `neighbour_share`; `notes`.
    """
    settings: dict[str, Any] = {}
    contrasts: dict[str, Any] = {}
    for name, variable in table.data_vars.items():
        holder, dim = (
            (contrasts, "contrast") if "contrast" in variable.dims else (settings, "setting")
        )
        if str(name).endswith("mean_without"):
            continue
        for key in table[dim].values:
            entry = variable.sel({dim: key})
            holder.setdefault(str(key), {})[str(name)] = (
                {str(c): _plain(entry.sel(localization=c)) for c in table["localization"].values}
                if entry.ndim
                else _plain(entry)
            )
    share = neighbour_share(table)
    return {
        "aggregate": table.attrs["aggregate"],
        "rows": dict(table.attrs.get("rows", {})),
        "settings": settings,
        "contrasts": contrasts,
        "neighbour_share": {
            **{str(name): _plain(value) for name, value in share.data_vars.items()},
            "note": share.attrs["note"],
        },
        "notes": table.attrs["note"].splitlines(),
    }


def _plain(value: xr.DataArray) -> float | int | None:
    number: float | int = value.item()
    return number if math.isfinite(number) else None
