"""The plate map: which protein is where, and which classes it has.

One CSV (or Parquet) row per protein, or per plate, well and protein. Checked as a whole against the
screen: a wrong map is one clear error before anything is computed.
"""

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
        kept = labels.any(0)
        classes = tuple(c for c, keep in zip(self.classes, kept, strict=True) if keep)
        columns = {name: [values[i] for i in rows] for name, values in self.columns.items()}
        return PlateMap(classes, labels[:, kept], columns)


def protein_as_class(proteins: Sequence[str]) -> PlateMap:
    """Return the map in which every protein is a class of its own."""
    return PlateMap(
        tuple(proteins), np.eye(len(proteins), dtype=bool), {"protein": list(proteins)}
    )


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
            msg = (
                f"plate map {path} has no column {column!r}{nearest(column, table.columns)}; it "
                f"has {', '.join(table.columns)}: name the class with screen.class_column"
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
    try:
        if path.suffix == ".parquet":
            return pd.read_parquet(path).astype(str)
        return pd.read_csv(path, dtype=str, keep_default_na=False, skipinitialspace=True)
    except FileNotFoundError:
        msg = (
            f"no plate map {path}: `bgscale init SCREEN` writes a template; where the class is the "
            'protein set plate_map = "" and class_column = "protein"'
        )
        raise InputError(msg) from None
    except (OSError, ValueError, ImportError) as error:
        msg = f"cannot read the plate map {path}: {error}"
        raise InputError(msg) from None


def _check_proteins(path: Path, table: pd.DataFrame, proteins: Sequence[str]) -> None:
    mapped = dict.fromkeys(table["protein"])
    unknown = [p for p in mapped if p not in set(proteins)]
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
        msg = f"plate map {path}: line {repeated.index[0] + 2} repeats {key}; keep one row for it"
        raise InputError(msg)
    classes = table.groupby("protein", sort=False)[class_column].agg(lambda c: sorted(set(c)))
    for protein, found in classes.items():
        if len(found) > 1:
            shown = " and ".join(map(repr, found[:SHOWN]))
            msg = f"plate map {path}: protein {protein!r} has {shown}; give it the same everywhere"
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
