"""Known localizations of proteins, brought onto a plate map.

Owns what published tables look like, and the join of such a table with a plate map. It downloads
nothing, and decides no class that the map states already. Two lines give every strain of a map the
localizations of the yeast GFP collection::

    known = huh2003("yeastgfp.csv.xz", drop=("ambiguous",))
    print(annotate("platemap.csv", known, "annotated.csv"))

Names of localizations are those of the published table. Fifteen of its categories are, word for
word, the fifteen classes of the background-swap protocol, so nothing is renamed there: actin, bud
neck, cell periphery, cytoplasm, endosome, ER, Golgi, mitochondrion, nuclear periphery, nucleolus,
nucleus, peroxisome, spindle pole, vacuolar membrane, vacuole. The other seven (bud, early Golgi,
ER to Golgi, late Golgi, lipid particle, microtubule, punctate composite) have no class of their own
in the protocol and keep their names; to leave some out, name them in `drop`. "ambiguous" is a
statement about the scoring, not a place: it is kept unless dropped.

References
----------
Huh, Falvo, Gerke, Carroll, Howson, Weissman & O'Shea (2003), Global analysis of protein
localization in budding yeast. Nature 425:686-691.
"""

import bz2
import csv
import gzip
import lzma
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pandas as pd

from bgscale.errors import InputError, nearest, nearest_file
from bgscale.platemap import SEPARATOR, SHOWN, read_table

AMBIGUOUS = "ambiguous"
HUH2003 = (
    "actin", "bud", "bud neck", "cell periphery", "cytoplasm", "early Golgi", "endosome", "ER",
    "ER to Golgi", "Golgi", "late Golgi", "lipid particle", "microtubule", "mitochondrion",
    "nuclear periphery", "nucleolus", "nucleus", "peroxisome", "punctate composite",
    "spindle pole", "vacuolar membrane", "vacuole",
)  # fmt: skip
"""The 22 categories; the tables have a 23rd column, "ambiguous"."""
LARGEST_TABLE = 2**26
"""Characters; the published table has half a million."""
QUOTES = "'\"’‘`´ "
PRIMED = ("IMP2'", "MSF1'")
"""Genes whose prime tells them from another gene: IMP2 is YMR035W, MSF1 is YPR047W."""
TRUE, FALSE = ("t", "true", "1", "x"), ("f", "false", "0", "")
OPENERS: dict[str, Callable[..., IO[Any]]] = {
    ".xz": lzma.open, ".gz": gzip.open, ".bz2": bz2.open
}  # fmt: skip


@dataclass(frozen=True)
class Annotated:
    """What came of bringing an annotation onto a plate map.

    Parameters
    ----------
    column : str
        Of the plate map, where the names of proteins were found.
    matched : int
        Different names of that column that the annotation knows.
    without : tuple of str
        Those among them that it gives no localization.
    unmatched : tuple of str
        Names that the annotation does not know; their rows keep an empty class.
    kept : int
        Rows that stated a class already, and keep it.
    """

    column: str
    matched: int
    without: tuple[str, ...]
    unmatched: tuple[str, ...]
    kept: int

    def __str__(self) -> str:
        total = self.matched + len(self.unmatched)
        lines = [f"{self.matched} of {total} names in the column {self.column!r} were found"]
        for names, what in ((self.without, "have no localization"), (self.unmatched, "not found")):
            if names:
                more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
                lines.append(f"{len(names)} {what}: {', '.join(names[:SHOWN])}{more}")
        if self.kept:
            lines.append(f"{self.kept} rows had a class already and keep it")
        return "\n".join(lines)


def huh2003(path: str | Path, *, drop: Sequence[str] = ()) -> pd.DataFrame:
    """Read the localizations of the yeast GFP collection (Huh et al. 2003).

    Parameters
    ----------
    path : path
        The published table, with a column per localization that says T or F: comma or tab
        separated, plain or compressed (.xz, .gz, .bz2).
    drop : sequence of str
        Localizations to leave out, as in ("ambiguous", "punctate composite").

    Returns
    -------
    DataFrame
        A row per open reading frame, in the order of the table: orf ("YAL001C"), gene ("TFC3", or
        empty; quote marks around it or at its end are removed but for `PRIMED`), localization
        (several joined by ";", in the order of `HUH2003`; or empty).

    Raises
    ------
    InputError
        No such file, no such table, a cell that is neither T nor F, or an unknown name in `drop`.
    """
    path = Path(path)
    known = (*HUH2003, AMBIGUOUS)
    for name in drop:
        if name not in known:
            msg = f"no localization {name!r} to drop{nearest(name, known)}; there are "
            raise InputError(msg + ", ".join(known))
    rows = _rows(path)
    header = {_plain(name): i for i, name in enumerate(rows[0])}
    orf, gene = (
        next((header[n] for n in names if n in header), None)
        for names in (("yorf", "orf"), ("gene name", "gene"))
    )
    column = {name: header.get(_plain(name)) for name in HUH2003}
    absent = [name for name, i in column.items() if i is None]
    if orf is None or gene is None or absent:
        lacking = "yORF" if orf is None else "gene name" if gene is None else absent[0]
        msg = (
            f"{path} has no column {lacking!r}{nearest(lacking, rows[0])}; expected the table of "
            "Huh et al. 2003, with yORF, gene name and a T/F column per localization"
        )
        raise InputError(msg)
    column[AMBIGUOUS] = header.get(AMBIGUOUS)
    read = {name: i for name, i in column.items() if i is not None and name not in drop}
    made, seen = [], set()
    for line, row in enumerate(rows[1:], 2):
        if len(row) < len(rows[0]):
            msg = f"{path}: row {line} has {len(row)} cells, the header {len(rows[0])}"
            raise InputError(msg)
        name = row[orf].strip(QUOTES).upper()
        if not name or name in seen:
            msg = f"{path}: row {line} {'repeats' if name else 'has no'} yORF {name}; keep one"
            raise InputError(msg)
        seen.add(name)
        here = [place for place, i in read.items() if _is_true(path, line, place, row[i])]
        made.append((name, _gene(row[gene]), SEPARATOR.join(here)))
    return pd.DataFrame(made, columns=["orf", "gene", "localization"], dtype=object)


def annotate(
    plate_map: str | Path,
    annotation: pd.DataFrame,
    out: str | Path,
    *,
    column: str | None = None,
    class_column: str = "localization",
) -> Annotated:
    """Write a plate map with the localizations that an annotation knows.

    Names are compared without regard to case and to quote marks around them, as open reading frames
    first, then as genes. A class that the map states already is kept; all other columns and the
    order of the rows stay.

    Parameters
    ----------
    plate_map : path
        CSV or Parquet.
    annotation : DataFrame
        orf, gene, localization, as `huh2003` returns them.
    out : path
        CSV; may be `plate_map` itself.
    column : str, optional
        Of the plate map, with the names of proteins; by default the one in which most are known.
    class_column : str
        Where localizations are written; made where it is not there.

    Returns
    -------
    Annotated
        What was found and what was not; as text it says so.

    Raises
    ------
    InputError
        No such file or column, or no name of the map is known.
    """
    path = Path(plate_map)
    table = read_table(path)
    localization_of = _by_name(annotation)
    if column is None:
        column = _column_of_names(
            path, table.drop(columns=class_column, errors="ignore"), annotation
        )
    elif column not in table:
        msg = f"plate map {path} has no column {column!r}{nearest(column, table.columns)}; it has "
        raise InputError(msg + ", ".join(table.columns))
    names = table[column].tolist()
    stated = table[class_column].tolist() if class_column in table else [""] * len(table)
    found = {name: localization_of.get(_gene(name).casefold()) for name in names if name}
    matched = [name for name, places in found.items() if places is not None]
    if not matched:
        some = ", ".join(map(repr, list(found)[:SHOWN])) or "nothing"
        msg = (
            f"plate map {path}: no name of the column {column!r} is known as an open reading frame "
            f"or a gene; it holds {some}: name another column"
        )
        raise InputError(msg)
    filled = [text or found.get(name) or "" for name, text in zip(names, stated, strict=True)]
    table.assign(**{class_column: filled}).to_csv(Path(out), index=False, lineterminator="\n")
    return Annotated(
        column=column,
        matched=len(matched),
        without=tuple(name for name in matched if not found[name]),
        unmatched=tuple(name for name, places in found.items() if places is None),
        kept=sum(map(bool, stated)),
    )


def _by_name(annotation: pd.DataFrame) -> dict[str, str]:
    """Return the localizations of each name; a gene that names two frames is none of them."""
    genes = annotation["gene"].str.casefold()
    count = Counter(genes)
    pairs = [
        (gene, text)
        for gene, text in zip(genes, annotation["localization"], strict=True)
        if gene and count[gene] == 1
    ]
    return dict(pairs) | dict(
        zip(annotation["orf"].str.casefold(), annotation["localization"], strict=True)
    )


def _column_of_names(path: Path, table: pd.DataFrame, annotation: pd.DataFrame) -> str:
    """Return the column in which most names are known; of equals the first."""
    known = set(annotation["orf"].str.casefold()) | set(annotation["gene"].str.casefold()) - {""}
    counts = {
        str(name): sum(_gene(text).casefold() in known for text in table[name])
        for name in table.columns
    }
    best = max(counts, key=lambda name: counts[name], default="")
    if not counts.get(best):
        msg = (
            f"plate map {path}: no column of {', '.join(table.columns)} holds names the "
            "annotation knows (as 'YAL001C' or 'TFC3'); add a column with them"
        )
        raise InputError(msg)
    return best


def _gene(text: str) -> str:
    """Return the name of a gene without the marks that spreadsheets leave on it."""
    name = text.strip()
    return name if name.upper() in PRIMED else name.strip(QUOTES)


def _plain(name: str) -> str:
    """Return the name of a column as spreadsheets and R agree on it."""
    return " ".join(name.strip(QUOTES).casefold().replace(".", " ").replace("_", " ").split())


def _is_true(path: Path, line: int, place: str, text: str) -> bool:
    plain = text.strip().casefold()
    if plain not in TRUE and plain not in FALSE:
        msg = f"{path}: row {line} has {text!r} in the column {place!r}; expected T or F"
        raise InputError(msg)
    return plain in TRUE


def _rows(path: Path) -> list[list[str]]:
    """Return the rows that are not empty; at least one."""
    try:
        with OPENERS.get(path.suffix, open)(path, "rt", encoding="utf-8-sig", newline="") as file:
            text = file.read(LARGEST_TABLE + 1)
        if len(text) > LARGEST_TABLE:
            msg = f"it has more than {LARGEST_TABLE} characters"
            raise ValueError(msg)
        lines = text.splitlines()
        separator = "\t" if lines and "\t" in lines[0] else ","
        rows = [row for row in csv.reader(lines, delimiter=separator, strict=True) if any(row)]
        if not rows:
            msg = "it is empty"
            raise ValueError(msg)
    except FileNotFoundError:
        msg = f"no table of localizations {path}{nearest_file(path)}"
        raise InputError(msg) from None
    except (OSError, EOFError, ValueError, lzma.LZMAError, csv.Error) as error:
        msg = f"cannot read the table of localizations {path}; expected CSV text: {error}"
        raise InputError(msg) from None
    return rows
