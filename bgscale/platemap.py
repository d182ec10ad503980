"""The plate map: which protein is where, and which classes it has.

One CSV (or Parquet) row per protein, or per plate, well and protein. Checked as a whole against the
screen: a wrong map is one clear error before anything is computed.
"""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from bgscale import draw
from bgscale.errors import InputError, nearest

SEPARATOR = ";"
SHOWN = 3


@dataclass(frozen=True, eq=False)
class PlateMap:
    """The classes of each protein of a screen.

    Parameters
    ----------
    classes : tuple of str
        In order of their first appearance.
    labels : array (protein, localization), bool
    columns : dict of str to list
        Every column of the map by protein, as text.
    """

    classes: tuple[str, ...]
    labels: npt.NDArray[np.bool_]
    columns: dict[str, list[str]]

    def class_identity(self) -> str:
        """Return a hash of the classes of each protein."""
        return f"{draw.digest64(self.columns['protein'], self.classes, self.labels.tolist()):016x}"

    def identity(self) -> str:
        """Return a hash of the whole map."""
        return f"{draw.digest64(self.class_identity(), self.columns):016x}"

    def of(self, rows: Sequence[int]) -> "PlateMap":
        """Return the map of some of its proteins; classes that none of them has are left out."""
        labels = self.labels[list(rows)]
        kept = np.flatnonzero(labels.any(0))
        classes = tuple(self.classes[i] for i in kept)
        columns = {name: [values[i] for i in rows] for name, values in self.columns.items()}
        return PlateMap(classes, labels[:, kept], columns)


def protein_as_class(proteins: Sequence[str]) -> PlateMap:
    """Return the map in which every protein is a class of its own."""
    return PlateMap(tuple(proteins), np.eye(len(proteins), dtype=bool), {"protein": list(proteins)})


def read_plate_map(path: str | Path, class_column: str, proteins: Sequence[str]) -> PlateMap:
    """Read a plate map and check it against the proteins of a screen.

    Parameters
    ----------
    path : path
        CSV, or Parquet by its suffix.
    class_column : str
        Several classes are joined by ";", an empty cell is none. "protein" makes each its own.
    proteins : sequence of str
        Of the screen, sorted.

    Raises
    ------
    InputError
        No such file or column, unknown or absent proteins, two classes for one protein, no class.
    """
    path = Path(path)
    table = _read(path)
    for column in ("protein", class_column):
        if column not in table:
            todo = "name the class with screen.class_column"
            if column == "protein":
                todo = "it needs one, with the names as the files of the screen have them"
            msg = (
                f"plate map {path} has no column {column!r}{nearest(column, table.columns)}; it "
                f"has {', '.join(table.columns)}: {todo}"
            )
            raise InputError(msg)
    _check_proteins(path, table, proteins)
    by_protein = _one_row_each(path, table, class_column)
    rows = by_protein.loc[list(proteins)]
    columns = {"protein": list(proteins)} | {
        str(c): rows[c].tolist() for c in rows.columns if c != "protein"
    }
    if class_column == "protein":
        return PlateMap(tuple(proteins), np.eye(len(proteins), dtype=bool), columns)
    named = {
        protein: _split(path, protein, text) for protein, text in by_protein[class_column].items()
    }
    wanted = set(proteins)
    order = [named[p] for p in by_protein.index if p in wanted]
    classes = tuple(dict.fromkeys(name for names in order for name in names))
    if not classes:
        msg = (
            f"plate map {path}: column {class_column!r} is empty for every protein of the screen; "
            "fill in at least two classes"
        )
        raise InputError(msg)
    labels = np.array([[c in named[p] for c in classes] for p in proteins], bool)
    return PlateMap(classes, labels, columns)


def _read(path: Path) -> pd.DataFrame:
    """Return the map as text without blanks around it; the index is the line in the file."""
    try:
        if path.suffix == ".parquet":
            table = pd.read_parquet(path)
            table = table.astype(object).where(table.notna(), "")
            header = [str(column).strip() for column in table.columns]
            lines = dict(enumerate(table.to_numpy().tolist(), 1))
        else:
            header, lines = _read_csv(path)
    except FileNotFoundError:
        msg = (
            f"no plate map {path}{nearest_file(path)}: `bgscale init SCREEN` writes a template; "
            'where the class is the protein set plate_map = "" and class_column = "protein"'
        )
        raise InputError(msg) from None
    except (OSError, ValueError, ImportError, csv.Error) as error:
        msg = f"cannot read the plate map {path}; expected CSV text with a header line: {error}"
        raise InputError(msg) from None
    twins = [name for name in header if header.count(name) > 1]
    if twins:
        msg = f"plate map {path}: two columns are named {twins[0]!r}; keep one"
        raise InputError(msg)
    cells = [[str(cell).strip() for cell in row] for row in lines.values()]
    return pd.DataFrame(cells, index=list(lines), columns=header, dtype=object)


def _read_csv(path: Path) -> tuple[list[str], dict[int, list[str]]]:
    """Return the header, and the rows by their line; pandas would take a row of another width."""
    header: list[str] = []
    lines: dict[int, list[str]] = {}
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, strict=True)
        for row in reader:
            if not any(cell.strip() for cell in row):
                continue
            if not header:
                header = [cell.strip() for cell in row]
            elif len(row) > len(header) and any(cell.strip() for cell in row[len(header) :]):
                msg = f"line {reader.line_num} has {len(row)} cells, the header {len(header)}"
                raise ValueError(msg)
            else:
                lines[reader.line_num] = (row + [""] * len(header))[: len(header)]
    if not header or "\0" in "".join(header):
        msg = "it is binary" if header else "it is empty"
        raise ValueError(msg)
    return header, lines


def nearest_file(path: Path) -> str:
    """Return `errors.nearest` of the names that lie where `path` should."""
    try:
        return nearest(path.name, [p.name for p in path.parent.iterdir()])
    except OSError:
        return ""


def _check_proteins(path: Path, table: pd.DataFrame, proteins: Sequence[str]) -> None:
    mapped, known = dict.fromkeys(table["protein"]), set(proteins)
    unknown = [p for p in mapped if p not in known]
    absent = [p for p in proteins if p not in mapped]
    if unknown:
        shown = ", ".join(f"{p!r}{nearest(p, proteins)}" for p in unknown[:SHOWN])
        msg = (
            f"plate map {path}: {len(unknown)} of its proteins are not on the screen: {shown}; "
            "remove their rows, or correct the names"
        )
        raise InputError(msg)
    if absent:
        shown = ", ".join(f"{p!r}" for p in absent[:SHOWN])
        msg = (
            f"plate map {path}: {len(absent)} proteins of the screen have no row: {shown}; add "
            "them, with an empty class where none is known"
        )
        raise InputError(msg)


def _one_row_each(path: Path, table: pd.DataFrame, class_column: str) -> pd.DataFrame:
    keys = [c for c in ("plate", "well") if c in table] + ["protein"]
    repeated = table[table.duplicated(keys)]
    if len(repeated):
        row = repeated.iloc[0]
        key = ", ".join(f"{k} {row[k]!r}" for k in keys)
        msg = f"plate map {path}: line {repeated.index[0]} repeats {key}; keep one row for it"
        raise InputError(msg)
    if class_column != "protein":
        first: dict[str, str] = {}
        for protein, text in zip(table["protein"], table[class_column], strict=True):
            one = first.setdefault(protein, text)
            if set(_split(path, protein, one)) != set(_split(path, protein, text)):
                msg = (
                    f"plate map {path}: protein {protein!r} has {one!r} and {text!r}; give it the "
                    "same everywhere"
                )
                raise InputError(msg)
    return table.drop_duplicates("protein").set_index("protein", drop=False)


def _split(path: Path, protein: Any, text: str) -> list[str]:
    if not text.strip():
        return []
    names = [name.strip() for name in text.split(SEPARATOR)]
    if "" in names or len(set(names)) < len(names):
        msg = (
            f"plate map {path}: protein {protein!r} has classes {text!r}; expected different names "
            f"joined by {SEPARATOR!r}, none of them empty"
        )
        raise InputError(msg)
    return names
