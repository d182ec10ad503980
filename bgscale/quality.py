"""Which wells of a plate to look at before their cells are believed: sums and medians, and flags.

Owns how fields become wells and what is odd about a well. It measures no pixel and sets no cell
aside: a flag is a hint to a person. The one idea: a well is compared with the other wells of its
plate, since plates differ in lamp, focus and growth.

A well is odd where its value lies a factor above or below the median of the plate's wells. The
factor is that of `SPREADS` robust standard deviations (1.4826 times the median absolute deviation
of the logarithms), but never less than the first number of `BOUNDS` (a plate of equal wells has no
odd one) and never more than the second (a plate of very different wells still has empty ones).
Where fewer than `FEWEST_WELLS` can be compared, it is the second. In the order of `Flag`:

- failed: none of the well's fields could be used;
- empty: no cell in any field that could be used;
- out of focus: the focus measure of the cytosol channel (else of the nucleus, else of the protein,
  whose focus measure hangs on where the protein is) is far below the plate's;
- saturated: more than `SATURATED_SHARE` of the pixels of a channel, whatever the plate's others;
- few cells, many cells: cells a field, so that a failed field does not count twice;
- cell size: the median area of the cells is far from the plate's;
- medium: the medium of a channel is far from the plate's;
- some failed: some of the fields could not be used.

A blank well may be empty: it is only flagged where its fields failed, and no well is compared with
it.
"""

import re
from collections.abc import Sequence
from enum import IntEnum

import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr

from bgscale.errors import SchemaError, nearest
from bgscale.schema import Reason

SPREADS = 4.0
BOUNDS = {"cells": (2.0, 10.0), "focus": (1.5, 4.0), "area": (1.25, 2.0), "medium": (1.5, 4.0)}
"""Factors: within the first a well is never odd, beyond the second always."""
FEWEST_WELLS = 8
SATURATED_SHARE = 0.001
FOCUS_CHANNELS = ("cytosol", "nucleus", "protein")
"""The first that is there is compared: cells look alike in it, whatever protein is tagged."""
MEASURES = ("focus", "saturated", "medium")
COLUMNS = ("plate", "well", "field", "reason", "cells", "usable_cells", "area_median_px")
LARGEST_PLATE = (48, 72)
"""Rows and columns of a plate of 3,456 wells; a well beyond has a row of its own."""
SHOWN_WELLS = 12
BLANK = "blank"
ABOUT = {
    "cells": {"long_name": "cells", "units": "1"},
    "usable_cells": {"long_name": "usable cells", "units": "1"},
    "fields": {"long_name": "fields", "units": "1"},
    "failed_fields": {"long_name": "failed fields", "units": "1"},
    "area_median": {"long_name": "median cell area", "units": "px"},
    "focus": {"long_name": "focus measure", "units": "1"},
    "saturated": {"long_name": "share of saturated pixels", "units": "1"},
    "medium": {"long_name": "medium", "units": "counts"},
}


class Flag(IntEnum):
    """What is odd about a well; of several the first is its code."""

    OK = 0
    FAILED = 1
    EMPTY = 2
    OUT_OF_FOCUS = 3
    SATURATED = 4
    FEW_CELLS = 5
    MANY_CELLS = 6
    CELL_SIZE = 7
    MEDIUM = 8
    SOME_FAILED = 9
    NO_WELL = 10

    @property
    def text(self) -> str:
        """What a person reads."""
        return "ok" if self is Flag.OK else self.name.lower().replace("_", " ")

    @property
    def is_odd(self) -> bool:
        """Whether a well with this flag is to be looked at."""
        return Flag.OK < self < Flag.NO_WELL


def _channels(fields: pd.DataFrame) -> list[str]:
    """Return the channels that are measured; raise where a column is lacking."""
    prefix = f"{MEASURES[0]}_"
    channels = [str(c).removeprefix(prefix) for c in fields.columns if str(c).startswith(prefix)]
    wanted = [*COLUMNS, *(f"{m}_{c}" for m in MEASURES for c in channels or FOCUS_CHANNELS[-1:])]
    for name in wanted:
        if name not in fields:
            known = [str(column) for column in fields.columns]
            msg = f"the table of fields has no column {name!r}{nearest(name, known)}; it has "
            raise SchemaError(msg + ", ".join(known))
    repeated = fields[fields.duplicated(["plate", "well", "field"])]
    if len(repeated):
        name = "/".join(str(repeated.iloc[0][c]) for c in ("plate", "well", "field"))
        msg = f"the table of fields has {name} twice; give each field one row"
        raise SchemaError(msg)
    strange = set(fields["reason"]) - set(Reason)
    if strange:
        msg = f"the table of fields has an unknown reason {strange.pop()}; expected codes of Reason"
        raise SchemaError(msg)
    if fields.empty:
        msg = "the table of fields is empty; expected a row per field"
        raise SchemaError(msg)
    return channels


def _by_well(fields: pd.DataFrame, channels: Sequence[str]) -> pd.DataFrame:
    """Return a row per plate and well: sums of cells, means and medians of what is measured."""
    keys = ["plate", "well"]
    failed = fields["reason"].map(lambda code: Reason(code).is_failure).astype(bool)
    kind = fields["kind"] if "kind" in fields else pd.Series("", fields.index)
    counted = fields[keys].assign(fields=1, failed_fields=failed, blank=kind == BLANK)
    wells = counted.groupby(keys, sort=False).agg(
        fields=("fields", "sum"), failed_fields=("failed_fields", "sum"), blank=("blank", "any")
    )
    used = fields[~failed].groupby(keys, sort=False)
    # focus and area of a field without cells say nothing
    peopled = fields[~failed & (fields["cells"] > 0)].groupby(keys, sort=False)
    for name in ("cells", "usable_cells"):
        wells[name] = used[name].sum()
    wells["area_median"] = peopled["area_median_px"].median()
    for c in channels:
        wells[f"focus_{c}"] = peopled[f"focus_{c}"].median()
        wells[f"saturated_{c}"] = used[f"saturated_{c}"].mean()
        wells[f"medium_{c}"] = used[f"medium_{c}"].median()
    return wells


def _place(well: str) -> tuple[int, int] | None:
    """Return row and column of a well, from 0; None of one that is not in rows and columns."""
    fits = re.fullmatch(r"([A-Z]{1,2})([0-9]{1,3})", well)
    if not fits:
        return None
    letters = fits[1]
    row = ord(letters[-1]) - ord("A") + 26 * (ord(letters[0]) - ord("A") + 1) * (len(letters) - 1)
    column = int(fits[2]) - 1
    inside = row < LARGEST_PLATE[0] and 0 <= column < LARGEST_PLATE[1]
    return (row, column) if inside else None


def _row_name(row: int) -> str:
    return (chr(ord("A") + row // 26 - 1) if row >= 26 else "") + chr(ord("A") + row % 26)


def _on_plates(wells: pd.DataFrame, channels: Sequence[str]) -> xr.Dataset:
    """Return the wells in their places: dims plate, row, column; NaN where there is none."""
    plates = list(dict.fromkeys(wells.index.get_level_values("plate")))
    names = wells.index.get_level_values("well")
    place = {well: _place(well) for well in dict.fromkeys(names)}
    placed = [p for p in place.values() if p]
    rows = [_row_name(r) for r in range(max((r for r, _ in placed), default=-1) + 1)]
    columns = range(1, max((c for _, c in placed), default=0) + 2)
    name_of = np.array([[f"{row}{c:02d}" for c in columns] for row in rows], object)
    name_of = name_of.reshape(len(rows), len(columns))
    for well in sorted(well for well, p in place.items() if p is None):
        place[well] = (len(rows), 0)
        rows.append(well)
        name_of = np.vstack([name_of, [well, *[""] * (len(columns) - 1)]])
    number = {plate: i for i, plate in enumerate(plates)}
    at_plate = np.array([number[p] for p in wells.index.get_level_values("plate")])
    at = np.array([place[well] for well in names], np.int64)
    data = {}
    for name in wells.columns:
        data[name] = np.full((len(plates), *name_of.shape), np.nan)
        data[name][at_plate, at[:, 0], at[:, 1]] = wells[name].to_numpy(np.float64)
    dims = ("plate", "row", "column")
    stacked = {m: np.stack([data.pop(f"{m}_{c}") for c in channels]) for m in MEASURES}
    return xr.Dataset(
        {name: (dims, values, ABOUT.get(name, {})) for name, values in data.items()}
        | {name: (("channel", *dims), values, ABOUT[name]) for name, values in stacked.items()},
        coords={
            "plate": plates,
            "row": rows,
            "column": list(columns),
            "channel": list(channels),
            "well": (("row", "column"), name_of),
        },
    )


def _compare(
    values: xr.DataArray, least: float, most: float
) -> tuple[xr.DataArray, xr.DataArray, xr.DataArray]:
    """Return the plate's median, and which wells lie far below and far above it."""
    within = ("row", "column")
    logs: xr.DataArray = xr.apply_ufunc(np.log10, values.where(values > 0))
    centre = logs.median(within)
    spread = 1.4826 * abs(logs - centre).median(within)
    factor = 10 ** (SPREADS * spread).clip(np.log10(least), np.log10(most))
    factor = factor.where(logs.count(within) >= FEWEST_WELLS, most)
    typical = 10**centre
    return typical, values < typical / factor, values > typical * factor


def summarise(fields: pd.DataFrame) -> xr.Dataset:
    """Return what a table of fields says of wells and plates.

    Parameters
    ----------
    fields : DataFrame
        A row per field: plate, well ("A01"), field, reason (`Reason` code), cells, usable_cells,
        area_median_px, and per channel focus_<channel>, saturated_<channel> (share of pixels) and
        medium_<channel> (camera counts). Measures may be NaN where there is nothing to measure;
        those of failed fields are not looked at. An optional column kind says "blank" of wells
        without a sample.

    Returns
    -------
    Dataset
        Dims plate, row ("A", "B", ...), column (1, 2, ...), channel. Rows and columns reach from
        the first of a plate to the last that any plate has; a well that is not there is NaN, its
        name stands in the coordinate `well` (row, column) all the same. cells, usable_cells,
        fields, failed_fields; area_median (pixels), focus, saturated, medium (both by channel);
        odd (rule, plate, row, column), bool: the rules that a well breaks; flag, uint8: the first
        of them, a `Flag`, whose text is in ``attrs["names"]``. By plate: typical_cells (a field),
        typical_area, typical_focus, typical_medium, the medians that wells are compared with.

    Raises
    ------
    SchemaError
        A column is lacking, a field is repeated, or there is none.

    Examples
    --------
    >>> table = pd.DataFrame({"plate": "P1", "well": ["A01", "B03"], "field": "1", "reason": 0,
    ...     "cells": [80, 0], "usable_cells": [70, 0], "area_median_px": [800, float("nan")],
    ...     "focus_protein": 0.1, "saturated_protein": 0.0, "medium_protein": 110.0})
    >>> dataset = summarise(table)
    >>> dict(dataset.sizes)
    {'plate': 1, 'row': 2, 'column': 3, 'channel': 1, 'rule': 9}
    >>> suspicious(dataset)
      plate well   flag               reason
    0    P1  B03  empty  no cells in 1 field
    """
    channels = _channels(fields)
    dataset = _on_plates(_by_well(fields, channels), channels)
    there, blank = dataset["fields"].notnull(), dataset["blank"] == 1
    used = dataset["fields"] - dataset["failed_fields"]
    focus_channel = next((c for c in FOCUS_CHANNELS if c in channels), channels[0])
    compared = {
        "cells": dataset["cells"] / used.where(used > 0),
        "focus": dataset["focus"].sel(channel=focus_channel, drop=True),
        "area": dataset["area_median"],
        "medium": dataset["medium"],
    }
    typical, low, high = {}, {}, {}
    for name, values in compared.items():
        typical[name], low[name], high[name] = _compare(values.where(~blank), *BOUNDS[name])
    empty = dataset["cells"] == 0
    broken = {
        Flag.FAILED: used == 0,
        Flag.EMPTY: empty & ~blank,
        Flag.OUT_OF_FOCUS: low["focus"],
        Flag.SATURATED: (dataset["saturated"] > SATURATED_SHARE).any("channel") & ~blank,
        Flag.FEW_CELLS: low["cells"] & ~empty,
        Flag.MANY_CELLS: high["cells"],
        Flag.CELL_SIZE: low["area"] | high["area"],
        Flag.MEDIUM: (low["medium"] | high["medium"]).any("channel"),
        Flag.SOME_FAILED: (dataset["failed_fields"] > 0) & (used > 0),
    }
    odd = xr.concat([one.drop_vars("well") for one in broken.values()], "rule", coords="minimal")
    odd = odd.transpose("rule", ...).assign_coords(rule=[flag.text for flag in broken])
    first = (odd.argmax("rule") + 1).where(odd.any("rule"), int(Flag.OK))
    flag = first.where(there, int(Flag.NO_WELL)).astype(np.uint8)
    made = dataset.drop_vars("blank").assign(
        {
            "odd": odd.assign_attrs(long_name="rules that the well breaks"),
            "flag": flag.assign_attrs(long_name="first of the rules", names=[f.text for f in Flag]),
            **{f"typical_{name}": values for name, values in typical.items()},
        }
    )
    return made.assign_attrs(focus_channel=focus_channel)


def suspicious(dataset: xr.Dataset) -> pd.DataFrame:
    """Return the flagged wells of `summarise`, with what is odd about them in words.

    Returns
    -------
    DataFrame
        plate, well, flag (its text), reason (of every rule that the well breaks).
    """
    flags = dataset["flag"].to_numpy()
    found = []
    for p, r, c in zip(*np.nonzero((flags > Flag.OK) & (flags < Flag.NO_WELL)), strict=True):
        one = dataset.isel(plate=p, row=r, column=c)
        flag = Flag(int(flags[p, r, c])).text
        reason = "; ".join(_reasons(one))
        found.append((str(one["plate"].item()), str(one["well"].item()), flag, reason))
    return pd.DataFrame(found, columns=["plate", "well", "flag", "reason"])


def _reasons(one: xr.Dataset) -> list[str]:
    """Return what each rule that a well breaks found."""
    fields, failed = int(one["fields"]), int(one["failed_fields"])
    used = fields - failed
    broken = {str(n) for n, odd in zip(one["rule"].values, one["odd"].values, strict=True) if odd}
    channels = [str(name) for name in one["channel"].values]
    a_field = float(one["cells"]) / used if used else 0.0
    focus = one["focus"].sel(channel=one.attrs["focus_channel"])
    saturated = [
        f"{share:.2%} of the {channel} pixels are saturated"
        for channel, share in zip(channels, one["saturated"].values, strict=True)
        if share > SATURATED_SHARE
    ]
    cells = f"{a_field:.1f} cells a field, the plate's wells have {one['typical_cells']:.1f}"
    text = {
        Flag.FAILED: f"{_count(failed, 'field')} failed, none is left",
        Flag.EMPTY: f"no cells in {_count(used, 'field')}",
        Flag.OUT_OF_FOCUS: f"focus {focus:.3g} in {one.attrs['focus_channel']}, the plate's wells "
        f"have {one['typical_focus']:.3g}",
        Flag.SATURATED: " and ".join(saturated),
        Flag.FEW_CELLS: cells,
        Flag.MANY_CELLS: cells,
        Flag.CELL_SIZE: f"cells of {one['area_median']:.0f} px, the plate's wells have "
        f"{one['typical_area']:.0f}",
        Flag.MEDIUM: f"medium of {_pairs(channels, one['medium'].values)}, the plate's wells have "
        f"{_pairs(channels, one['typical_medium'].values)}",
        Flag.SOME_FAILED: f"{failed} of {_count(fields, 'field')} failed",
    }
    return [words for flag, words in text.items() if flag.text in broken]


def _count(number: int, what: str) -> str:
    return f"{number} {what}" + ("s" if number != 1 else "")


def _pairs(names: Sequence[str], values: npt.NDArray[np.float64]) -> str:
    return ", ".join(f"{name} {value:.0f}" for name, value in zip(names, values, strict=True))


def format_quality(dataset: xr.Dataset) -> str:
    """Return a line per plate, and below it the wells to look at.

    Examples
    --------
    >>> table = pd.DataFrame({"plate": "P1", "well": ["A01", "B03"], "field": "1", "reason": 0,
    ...     "cells": [80, 0], "usable_cells": [70, 0], "area_median_px": [800, float("nan")],
    ...     "focus_protein": 0.1, "saturated_protein": 0.0, "medium_protein": 110.0})
    >>> print(format_quality(summarise(table)))
    plate    wells  fields  failed    cells   usable  cells/field  area px  odd wells
    P1           2       2       0       80       70           80      800          1
      empty: B03
    """
    width = max(5, *(len(str(name)) for name in dataset["plate"].values))
    lines = [
        f"{'plate':<{width}}  {'wells':>6}{'fields':>8}{'failed':>8}{'cells':>9}{'usable':>9}"
        f"{'cells/field':>13}{'area px':>9}{'odd wells':>11}"
    ]
    for p, plate in enumerate(dataset["plate"].values):
        one = dataset.isel(plate=p)
        flags = one["flag"].to_numpy()
        sums = {
            name: f"{int(np.nansum(one[name])):,}"
            for name in ("fields", "failed_fields", "cells", "usable_cells")
        }
        odd = {f: one["well"].to_numpy()[flags == f].tolist() for f in Flag if f.is_odd}
        lines.append(
            f"{plate:<{width}}  {int((flags != Flag.NO_WELL).sum()):>6}{sums['fields']:>8}"
            f"{sums['failed_fields']:>8}{sums['cells']:>9}{sums['usable_cells']:>9}"
            f"{one['typical_cells']:>13.3g}{one['typical_area']:>9.0f}"
            f"{sum(map(len, odd.values())):>11}"
        )
        for flag, wells in odd.items():
            if wells:
                more = f" and {len(wells) - SHOWN_WELLS} more" if len(wells) > SHOWN_WELLS else ""
                lines.append(f"  {flag.text}: {', '.join(wells[:SHOWN_WELLS])}{more}")
    return "\n".join(lines)
