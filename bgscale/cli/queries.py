"""The command that answers questions about proteins and cells of a run store."""

import io
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bgscale.cli.root import FOLDER, STORE, TABLE, main, tell
from bgscale.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

ROWS_SHOWN = 20
CROPS_WRITTEN = 50
CROPS_AT_ONCE = 64
DIGITS = 3
SHARE = click.FloatRange(0, 1)
_THRESHOLDS = ("min_kl", "min_tv", "max_q", "significant", "substantial")


def _several(*names: str, help: str) -> Callable[..., Any]:
    return click.option(*names, multiple=True, metavar="NAME", help=f"{help} May be repeated.")


@main.command()
@click.argument("store", type=STORE)
@_several("--protein", help="Only this protein.")
@_several("--localization", help="Only proteins that are known to have this localization.")
@_several("--plate", help="Only cells of this plate; of proteins those that have any there.")
@_several("--well", help="Only cells of this well, with --cells.")
@_several("--setting", help="Against original; all: every one of the run. By default masked.")
@click.option("--model", default="", help="By default the only one of the store.")
@click.option(
    "--fit",
    type=click.Choice(["fixed", "matched"]),
    default="fixed",
    show_default=True,
    help="fixed: classifier fitted on original; matched: fitted under the setting.",
)
@click.option(
    "--min-kl",
    default=0.0,
    type=click.FloatRange(min=0),
    metavar="NAT",
    help="Only shifts with at least this KL.",
)
@click.option(
    "--min-tv", default=0.0, type=SHARE, metavar="SHARE", help="... this total variation."
)
@click.option(
    "--max-q",
    default=1.0,
    type=SHARE,
    metavar="RATE",
    help="... at most this false discovery rate.",
)
@click.option("--significant", is_flag=True, help="Only significant shifts.")
@click.option("--substantial", is_flag=True, help="Only substantial shifts.")
@click.option("--cells", is_flag=True, help="Rows are cells.")
@click.option(
    "--changed/--unchanged",
    default=None,
    help="Only cells whose class changes between original and the setting, or does not.",
)
@click.option(
    "--crops", type=FOLDER, metavar="DIR", help="Write a PNG of each cell under the settings."
)
@click.option("--arrays", is_flag=True, help="With --crops: its arrays as .npz, no PNG.")
@click.option(
    "--limit",
    type=click.IntRange(min=0),
    help=f"Rows; 0: all. By default {ROWS_SHOWN} of a table, {CROPS_WRITTEN} crops, all of CSV and "
    "JSON.",
)
@click.option(
    "--sort", default="", metavar="COLUMN", help="Sort by a column; -COLUMN: the largest first."
)
@click.option("--csv", "form", flag_value="csv", help="Print CSV.")
@click.option("--json", "form", flag_value="json", help="Print JSON.")
@click.option("-o", "--output", type=TABLE, help="Write to a file: .csv, .json, or as told.")
def query(
    store: Path,
    cells: bool,  # noqa: FBT001
    crops: Path | None,
    arrays: bool,  # noqa: FBT001
    limit: int | None,
    sort: str,
    form: str | None,
    output: Path | None,
    **asked: Any,
) -> None:
    """Ask which proteins have shifted, or which of their cells have changed class.

    \b
    bgscale query STORE --protein NUP2 --setting all
    bgscale query STORE --localization nucleus --min-tv 0.2 --substantial
    bgscale query STORE --protein NUP2 --changed --crops nup2

    A row is a protein, under each setting: cells, fields, KL with its 95% interval, total
    variation, q, and the localization most cells have under original and under the setting. With
    --cells, --changed, --unchanged or --crops it is a cell: what it is taken for, and how surely.
    """  # noqa: D301  click needs the backspace character
    from bgscale.places import spelled
    from bgscale.results import Store

    opened = Store(spelled(store))
    opened.attrs()
    for out in (crops, output):
        if out is not None:
            from bgscale.export.target import check_apart

            check_apart(out, opened.location)
            if not out.resolve().parent.is_dir():
                msg = f"{out}: there is no folder {out.resolve().parent}: make it first"
                raise InputError(msg)
    of_cells = cells or crops is not None or asked["changed"] is not None
    form = form or _form_of(output)
    asked["setting"] = () if "all" in asked["setting"] else asked["setting"] or ("masked",)
    if arrays and crops is None:
        msg = "--arrays says how --crops DIR is written: give --crops as well"
        raise InputError(msg)
    frame = _cells(opened, asked) if of_cells else _proteins(opened, asked)
    frame = _sorted(frame, sort)
    count = limit
    if count is None:
        count = 0 if form and crops is None else CROPS_WRITTEN if crops else ROWS_SHOWN
    found = len(frame)
    frame = frame.head(count) if count else frame
    if not found:
        tell("no row: nothing in the store is so")
    elif len(frame) < found:
        tell(f"the first {len(frame)} of {found} rows; --limit 0 for all")
    if crops is not None:
        frame = _write_crops(opened, frame, crops, asked, arrays=arrays)
    _print(frame, form, output)


def _form_of(output: Path | None) -> str | None:
    suffix = output.suffix.lower() if output else ""
    return suffix[1:] if suffix in (".csv", ".json") else None


def _proteins(store: Any, asked: dict[str, Any]) -> "pd.DataFrame":
    from bgscale.query import proteins

    if asked["well"]:
        msg = "--well is of cells: give --cells as well"
        raise InputError(msg)
    names = {key: value for key, value in asked.items() if key not in ("well", "changed")}
    if asked["plate"]:
        tell("figures are of all cells of a protein, also on other plates")
    return proteins(store, **names)


def _cells(store: Any, asked: dict[str, Any]) -> "pd.DataFrame":
    """Return cells; thresholds are of their proteins under the setting."""
    import pandas as pd

    from bgscale.query import cells, proteins
    from bgscale.query.asking import Proteins

    names = {key: value for key, value in asked.items() if key not in _THRESHOLDS}
    limits = {key: asked[key] for key in _THRESHOLDS}
    which = None
    if any(limits[key] != value for key, value in _NO_LIMITS.items()):
        chosen = {key: v for key, v in names.items() if key not in ("well", "changed")}
        which = proteins(store, **chosen, **limits)[["protein", "setting"]]
        # of one at least: an answer without rows has its columns all the same
        names["protein"] = tuple(which["protein"].unique()) or Proteins(store).names[:1]
        names["localization"] = ()
    frame = cells(store, **names)
    if which is not None:
        pairs = pd.MultiIndex.from_frame(frame[["protein", "setting"]])
        frame = frame[pairs.isin(pd.MultiIndex.from_frame(which))].reset_index(drop=True)
    return frame


_NO_LIMITS: dict[str, Any] = {
    "min_kl": 0.0, "min_tv": 0.0, "max_q": 1.0, "significant": False, "substantial": False,
}  # fmt: skip


def _sorted(frame: "pd.DataFrame", column: str) -> "pd.DataFrame":
    from bgscale.asked import pick

    if not column:
        return frame
    name = pick("column", column.removeprefix("-"), list(frame.columns))
    return frame.sort_values(
        name, ascending=not column.startswith("-"), kind="stable", ignore_index=True
    )


def _write_crops(
    store: Any, frame: "pd.DataFrame", folder: Path, asked: dict[str, Any], *, arrays: bool
) -> "pd.DataFrame":
    """Write the crops of cells under original and the settings asked for, and their table."""
    from bgscale.asked import pick
    from bgscale.export.tables import write_csv
    from bgscale.query import crops, write_crops

    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        msg = f"{folder} is there and is not empty: choose another folder for crops"
        raise InputError(msg)
    model = pick("model", asked["model"], list(store.attrs()["config"]["models"]))
    settings = ["original", *asked["setting"]] if asked["setting"] else None
    once, files = frame.drop_duplicates("cell"), dict[str, str]()
    folder.mkdir(parents=True, exist_ok=True)
    for plate, own in once.groupby("plate", sort=False):
        for start in range(0, len(own), CROPS_AT_ONCE):
            part = own.iloc[start : start + CROPS_AT_ONCE]
            rows = part["row"].to_numpy()
            made = crops(store.location, str(plate), rows, model=model, settings=settings)
            paths = write_crops(made, folder, format="npz" if arrays else "png")
            files |= {n: path.name for n, path in zip(part["cell"], paths, strict=True)}
    named = frame.assign(file=[files[name] for name in frame["cell"]])
    write_csv(named, folder / "cells.csv")
    tell(f"wrote {len(files)} files and cells.csv to {folder}")
    return named


def _print(frame: "pd.DataFrame", form: str | None, output: Path | None) -> None:
    left = frame.attrs.get("left_out", {})
    if left:
        shown = ", ".join(f"{n} {text}" for text, n in left.items())
        tell(f"cells that cannot be used are left out: {shown}")
    if form == "csv":
        from bgscale.export.tables import write_csv

        buffer = io.StringIO()
        write_csv(frame, buffer)
        text = buffer.getvalue()
    elif form == "json":
        text = frame.to_json(orient="records", indent=2, force_ascii=False) + "\n"
    else:
        width = shutil.get_terminal_size().columns if sys.stdout.isatty() and not output else None
        text, more = table_text(frame, width)
        if more:
            tell(f"{len(more)} columns do not fit: {', '.join(more)}; --csv and --json have them")
    if output is None:
        click.echo(text, nl=False)
    else:
        output.write_text(text, encoding="utf-8", newline="\n")
        tell(f"wrote {output}: {len(frame)} rows")


def table_text(frame: "pd.DataFrame", width: int | None) -> tuple[str, list[str]]:
    """Return rows as text no wider than `width` (None: as wide as they are), and what is left out.

    A character that cannot be printed is shown by its code: a name must not steer the terminal.
    """
    if not len(frame):
        return "", []
    columns = {str(name): [str(name), *map(_shown, frame[name])] for name in frame.columns}
    lines, left = [""] * (len(frame) + 1), list[str]()
    for name, texts in columns.items():
        size = max(map(len, texts))
        gap = 2 if lines[0] else 0
        if left or (width is not None and lines[0] and len(lines[0]) + gap + size > width):
            left.append(name)
            continue
        numeric = frame[name].dtype.kind in "fiu"
        cells = [text.rjust(size) if numeric else text.ljust(size) for text in texts]
        lines = [line + " " * gap + cell for line, cell in zip(lines, cells, strict=True)]
    return "".join(line.rstrip() + "\n" for line in lines), left


def _shown(value: object) -> str:
    """Return a value as a person reads it."""
    if isinstance(value, str):
        return "".join(c if c.isprintable() else repr(c)[1:-1] for c in value)
    if isinstance(value, float):
        return "-" if value != value else f"{value:.{DIGITS}f}" if abs(value) >= 1e-3 else (
            "0" if value == 0 else f"{value:.0e}"
        )  # fmt: skip
    return "-" if str(value) == "<NA>" else str(value)
