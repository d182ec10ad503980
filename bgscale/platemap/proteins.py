"""The map by protein: which classes each has."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from bgscale import draw
from bgscale.errors import InputError, nearest
from bgscale.platemap.table import (
    CLASS_TODO,
    SHOWN,
    check_column,
    check_repeats,
    labelled,
    read_table,
)


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

    def class_identity(self, first: int | None = None) -> str:
        """Return a hash of the classes of each protein, or of the first ones."""
        names, labels = self.columns["protein"][:first], self.labels[:first].tolist()
        return f"{draw.digest64(names, self.classes, labels):016x}"

    def identity(self) -> str:
        """Return a hash of the whole map."""
        return f"{draw.digest64(self.class_identity(), self.columns):016x}"

    def reordered(self, rows: Sequence[int], classes: Sequence[str]) -> "PlateMap":
        """Return the map with its proteins in the order of `rows`, and its classes in this one."""
        labels = self.labels[np.ix_(rows, [self.classes.index(c) for c in classes])]
        columns = {name: [values[i] for i in rows] for name, values in self.columns.items()}
        return PlateMap(tuple(classes), labels, columns)

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
    table = read_table(path)
    todo = "it needs one, with the names as the files of the screen have them"
    check_column(path, table, "protein", todo)
    check_column(path, table, class_column, CLASS_TODO)
    _check_proteins(path, table, proteins)
    keys = [c for c in ("plate", "well") if c in table] + ["protein"]
    check_repeats(path, table, keys)
    classes, labels = labelled(path, table, class_column, proteins)
    rows = table.drop_duplicates("protein").set_index("protein").loc[list(proteins)]
    columns = {str(c): rows[c].tolist() for c in rows.columns}
    return PlateMap(classes, labels, {"protein": list(proteins)} | columns)


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
