"""The table a plate map is: read as text, and checked where both kinds of map agree."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from bgscale.errors import InputError, nearest, nearest_file

SEPARATOR = ";"
SHOWN = 3
CLASS_TODO = "name the class with screen.class_column"


def read_table(path: Path) -> pd.DataFrame:
    """Return a map as text without blanks around it; the index is the line in the file.

    Raises
    ------
    InputError
        No such file, no table, or two columns of one name.
    """
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


def check_column(path: Path, table: pd.DataFrame, column: str, todo: str) -> None:
    """Raise `InputError` where a column is absent; `todo` says what to do."""
    if column not in table:
        msg = (
            f"plate map {path} has no column {column!r}{nearest(column, table.columns)}; it "
            f"has {', '.join(table.columns)}: {todo}"
        )
        raise InputError(msg)


def check_repeats(path: Path, table: pd.DataFrame, keys: list[str]) -> None:
    """Raise `InputError` where two rows agree in all the columns `keys`."""
    repeated = table[table.duplicated(keys)]
    if len(repeated):
        row = repeated.iloc[0]
        first = table.index[(table[keys] == row[keys]).all(axis=1)][0]
        key = ", ".join(f"{k} {row[k]!r}" for k in keys)
        msg = (
            f"plate map {path}: line {repeated.index[0]} repeats {key} of line {first}; keep one "
            "row for it"
        )
        raise InputError(msg)


def lines_of(lines: Sequence[int] | pd.Index) -> str:
    """Return the first of some lines, and how many more there are."""
    more = f" (and {len(lines) - 1} more)" if len(lines) > 1 else ""
    return f"line {lines[0]}{more}"


def labelled(
    path: Path, table: pd.DataFrame, class_column: str, proteins: Sequence[str]
) -> tuple[tuple[str, ...], npt.NDArray[np.bool_]]:
    """Return the classes in the order of the map, and which of them each protein has."""
    if class_column == "protein":
        return tuple(proteins), np.eye(len(proteins), dtype=bool)
    first: dict[str, tuple[int, str]] = {}
    named: dict[str, list[str]] = {}
    for line, protein, text in zip(table.index, table["protein"], table[class_column], strict=True):
        names = _split(path, protein, text)
        line_before, before = first.setdefault(protein, (line, text))
        if set(named.setdefault(protein, names)) != set(names):
            msg = (
                f"plate map {path}: protein {protein!r} has {before!r} in line {line_before} and "
                f"{text!r} in line {line}; give it the same everywhere"
            )
            raise InputError(msg)
    classes = tuple(dict.fromkeys(name for names in named.values() for name in names))
    if not classes:
        msg = (
            f"plate map {path}: column {class_column!r} is empty for every protein of the screen; "
            "fill in at least two classes"
        )
        raise InputError(msg)
    return classes, np.array([[c in named[p] for c in classes] for p in proteins], bool)


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
