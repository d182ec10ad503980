"""Which cells: those behind a protein's figures, and what each was taken for under a setting.

The rows of a protein are found in the tables of cells; of the softmax, which is much larger, only
the shards that hold these rows are read, and no pixel.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from bgscale.asked import pick, pick_all
from bgscale.draw import cell_names
from bgscale.query.asking import ORIGINAL, Proteins, Source, model_of, several, store_of, wells_of
from bgscale.results import Store
from bgscale.schema import Missing, Reason, natural

COLUMNS = (
    "protein",
    "plate",
    "well",
    "field",
    "setting",
    "predicted_original",
    "predicted",
    "changed",
    "probability_original",
    "probability",
    "donor_localization",
    "neighbours",
    "localization",
    "cell",
    "number",
    "row",
    "donor",
    "missing_original",
    "missing",
)
"""In the order in which they are worth seeing."""
NOT_EVALUATED = "not evaluated"
"""Why a cell that was embedded has no class: its field is not evaluated, or no classifier is."""
_TABLE = ("id", "protein", "field", "number", "neighbours")
_SWAP = ("missing", "donor", "donor_class")
_MISSING = ["", *(m.name.lower().replace("_", " ") for m in Missing if m != Missing.PRESENT)]

Ints = npt.NDArray[np.int64]


def cells(
    source: Source,
    *,
    model: str = "",
    protein: str | Sequence[str] = (),
    localization: str | Sequence[str] = (),
    plate: str | Sequence[str] = (),
    well: str | Sequence[str] = (),
    setting: str | Sequence[str] = "masked",
    fit: str = "fixed",
    changed: bool | None = None,
) -> pd.DataFrame:
    """Return cells and what they are taken for, under `original` and under settings.

    Parameters
    ----------
    source : str, path, Store or DataTree
        A run store, or what `open_results` made of it.
    model : str
        By default the only one.
    protein, localization, plate, well : str or sequence of str
        Only cells of these proteins; of proteins with any of these localizations; of these plates;
        of these wells. By default all.
    setting : str or sequence of str
        A row each; (): all of the run but `original`.
    fit : {"fixed", "matched"}
    changed : bool, optional
        Only cells whose class changes between `original` and the setting (True), or does not
        (False); by default all that can be used, also those that have no class.

    Returns
    -------
    DataFrame
        Columns `COLUMNS`, a row a cell and setting, in the order of the store: the cell's name, as
        in exports; plate, well, field and number in it; its protein, and the localizations known
        of that; the class of the largest softmax under `original` and under the setting, with that
        softmax (out of fold); whether the class changes (NA: it lacks one); the localization and
        the name of the donor of its background ("": its own); number of neighbours in the crop; row
        in the plate's table; why it has no value ("": it has). ``attrs["left_out"]`` counts cells
        that cannot be used, by why.

    Raises
    ------
    InputError
        No such name (the nearest is said), or the predictions are not complete.
    """
    store = store_of(source)
    known = Proteins(store)
    codes, well = known.chosen(several(protein), several(localization)), several(well)
    plates = pick_all("plate", several(plate), store.attrs()["plates"])
    name = model_of(store, model, plates)
    about = store.attrs(f"plates/{plates[0]}/predictions/{name}")["coords"]
    settings = list(about["setting"])
    wanted = pick_all("setting", several(setting), [s for s in settings if s != ORIGINAL])
    chosen = pick("fit", fit, about["fit"])
    ask = _Ask(store, known, name, about["fit"].index(chosen), tuple(settings), wanted)
    rows = {one: _rows(store, one, codes, well) for one in plates}
    _check_wells(store, plates, well)
    usable, left = {}, dict[str, int]()
    for one, own in rows.items():
        reason = store.read_rows(f"plates/{one}/cells/reason", own)
        usable[one] = own[reason == Reason.OK]
        for code in Reason:
            count = int((reason == code).sum())
            if count and code != Reason.OK:
                left[code.text] = left.get(code.text, 0) + count
    frames = [_of_plate(ask, one, own) for one, own in usable.items() if len(own)]
    empty = pd.DataFrame(columns=list(COLUMNS))
    frame = pd.concat(frames, ignore_index=True) if frames else empty
    if changed is not None:
        moved = frame["changed"].fillna(not changed).astype(bool)
        frame = frame[moved == changed].reset_index(drop=True)
    frame.attrs["left_out"] = left
    return frame


@dataclass(frozen=True)
class _Ask:
    """What is wanted of cells.

    Parameters
    ----------
    store : Store
    proteins : Proteins
    model : str
    fit : int
        Its number.
    settings : tuple of str
        All of the run.
    wanted : tuple of str
    """

    store: Store
    proteins: Proteins
    model: str
    fit: int
    settings: tuple[str, ...]
    wanted: tuple[str, ...]


def _rows(store: Store, plate: str, codes: Ints, wells: Sequence[str]) -> Ints:
    """Return the rows of a plate's cells of these proteins, in these wells."""
    node = f"plates/{plate}/cells"
    rows: Ints = np.flatnonzero(np.isin(store.read(f"{node}/protein"), codes))
    if wells:
        of_field, _ = wells_of(store.array(f"{node}/field").attrs["names"])
        inside: npt.NDArray[np.bool_] = np.isin(of_field, wells)
        rows = rows[inside[store.read_rows(f"{node}/field", rows)]]
    return rows


def _check_wells(store: Store, plates: Sequence[str], wells: Sequence[str]) -> None:
    """Raise where a well is on none of these plates."""
    if wells:
        names = (store.array(f"plates/{p}/cells/field").attrs["names"] for p in plates)
        there = sorted({well for own in names for well in wells_of(own)[0].tolist()}, key=natural)
        pick_all("well", wells, there)


def _of_plate(ask: _Ask, plate: str, rows: Ints) -> pd.DataFrame:
    """Return some cells of a plate: a row a cell and setting."""
    store, at = ask.store, [ask.settings.index(name) for name in ask.wanted]
    first = ask.settings.index(ORIGINAL)
    table = {n: store.read_rows(f"plates/{plate}/cells/{n}", rows) for n in _TABLE}
    well, field = wells_of(store.array(f"plates/{plate}/cells/field").attrs["names"])
    node = f"plates/{plate}/embeddings/{ask.model}"
    swap = {n: store.read_rows(f"{node}/{n}", rows) for n in _SWAP}
    softmax = f"plates/{plate}/predictions/{ask.model}/probability"
    top = {s: _top(store.read_rows(softmax, rows, ask.fit, s)) for s in {first, *at}}
    names = np.array([*ask.proteins.localizations, ""])
    of_protein = np.array(ask.proteins.texts)
    code, missing = table["protein"], np.array([*_MISSING, NOT_EVALUATED])

    def why(s: int) -> npt.NDArray[Any]:
        unclassified = (swap["missing"][:, s] == Missing.PRESENT) & (top[s][0] < 0)
        return missing[np.where(unclassified, len(missing) - 1, swap["missing"][:, s])]

    parts = []
    for setting, s in zip(ask.wanted, at, strict=True):
        (before, likely), (after, probability) = top[first], top[s]
        lent = swap["donor"][:, s]
        frame = pd.DataFrame(
            {
                "cell": cell_names(table["id"]),
                "plate": plate,
                "well": well[table["field"]],
                "field": field[table["field"]],
                "protein": np.array(ask.proteins.names)[code],
                "localization": of_protein[code],
                "setting": setting,
                "predicted_original": names[before],
                "probability_original": likely,
                "predicted": names[after],
                "probability": probability,
                "changed": pd.array(before != after, dtype="boolean"),
                "donor_localization": names[swap["donor_class"][:, s]],
                "neighbours": table["neighbours"],
                "number": table["number"],
                "row": rows,
                "donor": np.where(lent == 0, "", np.array(cell_names(lent), object)),
                "missing_original": why(first),
                "missing": why(s),
            }
        )
        frame.loc[(before < 0) | (after < 0), "changed"] = pd.NA
        parts.append(frame)
    both = pd.concat(parts, ignore_index=True)
    return both.sort_values("row", kind="stable")[list(COLUMNS)]


def _top(softmax: npt.NDArray[np.float32]) -> tuple[Ints, npt.NDArray[np.float32]]:
    """Return the likeliest class of each cell and its softmax; -1 and NaN: it has none."""
    there = np.isfinite(softmax.sum(axis=1, keepdims=True))
    best = np.where(there, softmax, -1).argmax(axis=1)
    likely = softmax[np.arange(len(best)), best]
    has = there[:, 0]
    return np.where(has, best, -1), np.where(has, likely, np.float32(np.nan))
