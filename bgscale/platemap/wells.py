"""The map by plate and well: which protein is where, and which wells are controls or blanks."""

import csv
import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pandas as pd

from bgscale import draw
from bgscale.errors import InputError, nearest
from bgscale.platemap.proteins import PlateMap, protein_as_class
from bgscale.platemap.table import (
    CLASS_TODO,
    SEPARATOR,
    SHOWN,
    check_column,
    check_repeats,
    labelled,
    lines_of,
    read_table,
)
from bgscale.schema import natural

SAMPLE, CONTROL, BLANK = KINDS = ("sample", "control", "blank")
Well: TypeAlias = tuple[str, str]
"""Plate, and well as in "A01"."""


@dataclass(frozen=True, eq=False)
class WellMap:
    """What is in each well of the plates of a screen.

    Parameters
    ----------
    map : PlateMap
        By protein. Where the wells of a protein differ in a further column (plate, replicate), its
        entry has all their values, joined by ";".
    proteins : tuple of str
        In natural order; a protein's code is its place here.
    control : array (protein,), bool
        Proteins that are a control in any well.
    protein_of : dict of (plate, well) to int
        Code of each well's protein, -1 in a blank. In the order of the screen's wells.
    kind_of : dict of (plate, well) to str
        "sample", "control" or "blank".
    columns : dict of str to list of str
        Every column of the map by well, in that order.
    passed_over : int
        Rows of plates that are not opened, and of blanks that were not imaged.
    """

    map: PlateMap
    proteins: tuple[str, ...]
    control: npt.NDArray[np.bool_]
    protein_of: dict[Well, int]
    kind_of: dict[Well, str]
    columns: dict[str, list[str]]
    passed_over: int

    def identity(self) -> str:
        """Return a hash of everything the map says of the opened plates."""
        return f"{draw.digest64(self.map.identity(), list(self.protein_of), self.columns):016x}"

    def reordered(self, proteins: Sequence[str], classes: Sequence[str]) -> "WellMap":
        """Return the map with its proteins, and its classes, in this order."""
        place = {name: i for i, name in enumerate(self.proteins)}
        rows = [place[name] for name in proteins]
        code = {old: new for new, old in enumerate(rows)}
        return replace(
            self,
            map=self.map.reordered(rows, classes),
            proteins=tuple(proteins),
            control=self.control[rows],
            protein_of={well: code.get(old, -1) for well, old in self.protein_of.items()},
        )

    def of(self, rows: Sequence[int]) -> "WellMap":
        """Return the map of some of its proteins and their wells alone."""
        codes = {old: new for new, old in enumerate(rows)}
        kept = [well for well, code in self.protein_of.items() if code in codes]
        place = {well: i for i, well in enumerate(self.protein_of)}
        return WellMap(
            map=self.map.of(rows),
            proteins=tuple(self.proteins[i] for i in rows),
            control=self.control[list(rows)],
            protein_of={well: codes[self.protein_of[well]] for well in kept},
            kind_of={well: self.kind_of[well] for well in kept},
            columns={n: [v[place[well]] for well in kept] for n, v in self.columns.items()},
            passed_over=self.passed_over,
        )


def every_well(wells: Sequence[Well]) -> WellMap:
    """Return the map in which every well is a protein, and a class, of its own: "P1/A01"."""
    named = {f"{plate}/{well}": (plate, well) for plate, well in wells}
    proteins = tuple(sorted(named, key=natural))
    code = {named[name]: i for i, name in enumerate(proteins)}
    columns = {"plate": [p for p, _ in wells], "well": [w for _, w in wells]}
    return WellMap(
        map=protein_as_class(proteins),
        proteins=proteins,
        control=np.zeros(len(proteins), bool),
        protein_of={well: code[well] for well in wells},
        kind_of=dict.fromkeys(wells, SAMPLE),
        columns=columns | {"protein": ["/".join(well) for well in wells]},
        passed_over=0,
    )


def read_well_map(path: str | Path, class_column: str, wells: Sequence[Well]) -> WellMap:
    """Read a plate map by well and check it against the wells of a screen.

    Parameters
    ----------
    path : path
        CSV, or Parquet by its suffix. Columns: plate (may be absent where one plate is opened),
        well (`A1`, `a01` and `A01` are the same), protein, the class column, and if need be kind:
        "sample" (or nothing), "control" or "blank". A blank has no protein: its cells are not
        analysed. A protein may have any number of wells.
    class_column : str
        Several classes are joined by ";", an empty cell is none. "protein" makes each its own.
        Classes are ordered by the wells of the screen, not by the rows of the map.
    wells : sequence of (plate, well)
        Of the opened plates, as in ("P1", "A01").

    Raises
    ------
    InputError
        No such file or column; a row without its well, one without its plate, a well that is not
        there; a sample without a row; a repeated well; an unknown kind; a protein with different
        classes; no class or no protein at all.
    """
    path = Path(path)
    table = read_table(path)
    check_column(path, table, "well", "`bgscale init` writes a template with every well")
    check_column(path, table, "protein", "it needs one, empty where the kind is 'blank'")
    check_column(path, table, class_column, CLASS_TODO)
    everything = len(table)
    table = _of_opened_plates(path, table, wells)
    table = _with_kinds(path, table)
    check_repeats(path, table, ["plate", "well"])
    table = _of_imaged_wells(path, table, wells)
    filled = table[table["kind"] != BLANK]
    if filled.empty:
        msg = (
            f"plate map {path}: no well of the screen has a protein; fill in the column 'protein' "
            f"of the {len(table)} rows"
        )
        raise InputError(msg)
    proteins = tuple(sorted(filled["protein"].unique(), key=natural))
    classes, labels = labelled(path, filled, class_column, proteins)
    columns = {"protein": list(proteins)}
    for name in filled.columns.drop("protein"):
        mine: dict[str, dict[str, None]] = {p: {} for p in proteins}
        for protein, value in zip(filled["protein"], filled[name], strict=True):
            # classes may come in another order from well to well
            if value and not (name == class_column and mine[protein]):
                mine[protein][value] = None
        columns[str(name)] = [SEPARATOR.join(values) for values in mine.values()]
    code = {protein: i for i, protein in enumerate(proteins)} | {"": -1}
    kinds, of_well = table["kind"].tolist(), table["protein"].tolist()
    controls = {p for p, kind in zip(of_well, kinds, strict=True) if kind == CONTROL}
    return WellMap(
        map=PlateMap(classes, labels, columns),
        proteins=proteins,
        control=np.array([p in controls for p in proteins], bool),
        protein_of={well: code[p] for well, p in zip(wells, of_well, strict=True)},
        kind_of=dict(zip(wells, kinds, strict=True)),
        columns={str(c): table[c].tolist() for c in table.columns},
        passed_over=everything - len(table),
    )


def well_map_template(wells: Iterable[Well]) -> str:
    """Return CSV text with a row per plate and well, to be filled in.

    Examples
    --------
    >>> print(well_map_template([("P1", "A01"), ("P1", "A02")]), end="")
    plate,well,protein,localization,kind
    P1,A01,,,
    P1,A02,,,
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["plate", "well", "protein", "localization", "kind"])
    writer.writerows([plate, well, "", "", ""] for plate, well in wells)
    return text.getvalue()


def canonical_well(text: str) -> str:
    """Return a well as "A01"; what is not letters and a number is kept as it is.

    Examples
    --------
    >>> canonical_well("a1"), canonical_well("A001"), canonical_well("Ax")
    ('A01', 'A01', 'Ax')
    """
    fits = re.fullmatch(r"([A-Za-z]+)([0-9]{1,6})", text)
    return f"{fits[1].upper()}{int(fits[2]):02d}" if fits else text


def _of_opened_plates(path: Path, table: pd.DataFrame, wells: Sequence[Well]) -> pd.DataFrame:
    """Return the rows of opened plates, each with its plate and canonical well."""
    plates = list(dict.fromkeys(plate for plate, _ in wells))
    if "plate" not in table:
        if len(plates) != 1:
            msg = (
                f"plate map {path} has no column 'plate', and {len(plates)} plates are opened: add "
                f"the column, with the names {', '.join(map(repr, plates[:SHOWN]))} ..."
            )
            raise InputError(msg)
        table = table.assign(plate=plates[0])
    named = [text.removesuffix(".zarr").removesuffix(".ome") for text in table["plate"]]
    table = table.assign(plate=named, well=[canonical_well(text) for text in table["well"]])
    for column in ("plate", "well"):
        empty = table.index[table[column] == ""]
        if len(empty):
            msg = f"plate map {path}: {lines_of(empty)} has no {column}: fill in column {column!r}"
            raise InputError(msg)
    there = set(table["plate"])
    absent = [plate for plate in plates if plate not in there]
    if absent:
        shown = ", ".join(f"{p!r}{nearest(p, there)}" for p in absent[:SHOWN])
        msg = (
            f"plate map {path}: {len(absent)} of {len(plates)} opened plates have no row: {shown}; "
            "correct the names in the column 'plate', or open the plates that are meant"
        )
        raise InputError(msg)
    return table[table["plate"].isin(plates)]


def _with_kinds(path: Path, table: pd.DataFrame) -> pd.DataFrame:
    """Return the table with every kind filled in; raise where one does not fit its protein."""
    kinds = [kind.casefold() or SAMPLE for kind in table.get("kind", [""] * len(table))]
    table = table.assign(kind=kinds)
    for line, kind in zip(table.index, kinds, strict=True):
        if kind not in KINDS:
            msg = (
                f"plate map {path}: line {line} has the kind {kind!r}{nearest(kind, KINDS)}; "
                f"expected {', '.join(map(repr, KINDS))} or nothing"
            )
            raise InputError(msg)
    empty, blank = table["protein"] == "", table["kind"] == BLANK
    nameless, named = table.index[empty & ~blank], table.index[blank & ~empty]
    if len(nameless):
        msg = (
            f"plate map {path}: {lines_of(nameless)} has no protein; fill it in, or write 'blank' "
            "in the column 'kind' of a well that is not to be analysed"
        )
        raise InputError(msg)
    if len(named):
        msg = (
            f"plate map {path}: {lines_of(named)} is a blank with the protein "
            f"{table['protein'][named[0]]!r}; remove the protein, or set another kind"
        )
        raise InputError(msg)
    return table


def _of_imaged_wells(path: Path, table: pd.DataFrame, wells: Sequence[Well]) -> pd.DataFrame:
    """Return a row for each of `wells`, in their order."""
    keys = list(zip(table["plate"], table["well"], strict=True))
    line_of = dict(zip(keys, table.index, strict=True))
    known = set(wells)
    blank = dict(zip(keys, table["kind"] == BLANK, strict=True))
    strange = [key for key in keys if key not in known and not blank[key]]
    absent = [key for key in wells if key not in line_of]
    if strange:
        plate, well = strange[0]
        near = nearest(well, [w for p, w in absent or wells if p == plate])
        others = f" and {len(strange) - 1} more" if len(strange) > 1 else ""
        msg = (
            f"plate map {path}: line {line_of[strange[0]]}{others}: plate {plate!r} has no well "
            f"{well!r}{near}; correct or remove the row, or set its kind to 'blank' with no protein"
        )
        raise InputError(msg)
    if absent:
        shown = ", ".join("/".join(key) for key in absent[:SHOWN])
        msg = (
            f"plate map {path}: {len(absent)} of {len(wells)} wells have no row: {shown}; add a "
            "row for each, with an empty protein and the kind 'blank' where none is"
        )
        raise InputError(msg)
    return table.loc[[line_of[key] for key in wells]]
