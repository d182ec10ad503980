"""Commands that write a run's results for other programs."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bgscale.cli.root import STORE, main, tell

if TYPE_CHECKING:
    from bgscale.export import Selection
    from bgscale.export.selection import Progress

OUT = click.Path(path_type=Path)


@main.group()
def export() -> None:
    """Write a run's results for other programs: AnnData, Parquet, CSV, OME-Zarr.

    An export appears at once and whole; the store and the screen are only read. What is there is
    replaced with --overwrite alone, and a folder only if an export made it.
    """


def _names(context: click.Context, parameter: click.Parameter, value: str) -> tuple[str, ...]:
    del context, parameter
    return tuple(name.strip() for name in value.split(",") if name.strip())


_OVERWRITE = click.option("--overwrite", is_flag=True, help="Replace what an export wrote there.")
_PLATES = click.option(
    "--plates", default="", callback=_names, metavar="A,B", help="Only these plates."
)


def _of_cells(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the arguments and options that say which cells, with which features."""
    for option in reversed(
        [
            click.argument("store", type=STORE),
            click.argument("out", type=OUT),
            click.option("--model", default="", help="By default the only one."),
            click.option("--layer", default="", help="By default that of the proportions."),
            click.option(
                "--settings", default="", callback=_names, metavar="A,B",
                help="Only these background settings.",
            ),
            click.option(
                "--proteins", default="", callback=_names, metavar="A,B",
                help="Only cells of these proteins.",
            ),
            _PLATES,
            click.option(
                "--usable-only/--all", "usable_only", default=True, show_default=True,
                help="Only cells that can be used; or all, features are NaN where there are none.",
            ),
            _OVERWRITE,
        ]
    ):  # fmt: skip
        command = option(command)
    return command


@contextmanager
def _bar(store: Path, purpose: str) -> "Iterator[Progress]":
    from bgscale.progress import Narrator

    with Narrator.of_store(str(store)) as narrator, narrator.task(purpose) as advance:
        yield advance


def _chosen(store: Path, usable_only: bool, **names: Any) -> "Selection":  # noqa: FBT001
    from bgscale.export import choose

    selection = choose(str(store), everything=not usable_only, **names)
    if selection.is_random:
        tell(f"{selection.model} has random weights: its features say nothing of a trained model")
    return selection


def _say(selection: "Selection", out: Path) -> None:
    shown = ", ".join(f"{n} {text}" for text, n in selection.left_out.items())
    left = f"; left out: {shown}" if shown else ""
    tell(
        f"wrote {out}: {selection.n_cells} cells, {len(selection.settings)} settings, "
        f"{selection.width} features of {selection.model}/{selection.layer}{left}"
    )


@export.command()
@_of_cells
def anndata(store: Path, out: Path, usable_only: bool, overwrite: bool, **names: Any) -> None:  # noqa: FBT001
    r"""Write cells and features as AnnData: OUT.h5ad or OUT.zarr, for scanpy.

    obs has a row a cell; X and obsm["original"], obsm["masked"], ... are features under each
    setting; uns["bgscale"] is JSON that says where they come from. A cell has the same name, its
    identity, in every export.
    """
    from bgscale.export import to_anndata

    selection = _chosen(store, usable_only, **names)
    with _bar(store, "export AnnData") as advance:
        to_anndata(selection, out, overwrite=overwrite, progress=advance)
    _say(selection, out)


@export.command()
@_of_cells
def parquet(store: Path, out: Path, usable_only: bool, overwrite: bool, **names: Any) -> None:  # noqa: FBT001
    """Write profiles as a folder OUT of Parquet tables, SETTING/PLATE.parquet, for pycytominer.

    What is known of cells is in columns Metadata_...; all others are features,
    MODEL_LAYER_0 and on.
    """
    from bgscale.export import to_parquet

    selection = _chosen(store, usable_only, **names)
    with _bar(store, "export Parquet") as advance:
        to_parquet(selection, out, overwrite=overwrite, progress=advance)
    _say(selection, out)


@export.command()
@click.argument("store", type=STORE)
@click.argument("out", type=OUT)
@click.option("--model", default="", help="Only this model; by default all of the store.")
@_OVERWRITE
def csv(store: Path, out: Path, model: str, overwrite: bool) -> None:  # noqa: FBT001
    """Write what the run found as a folder OUT of long tables, for R and spreadsheets.

    accuracy, table, contrasts, proportions, shifts, shifts_by_localization, confusion, reliability,
    proteins.
    What is missing is NA; a text that begins like a formula (= + - @) gets an apostrophe in front.
    """
    from bgscale.export import to_csv

    rows = to_csv(str(store), out, model=model, overwrite=overwrite)
    tell(f"wrote {out}: " + ", ".join(f"{name} ({n} rows)" for name, n in rows.items()))


@export.command()
@click.argument("store", type=STORE)
@click.argument("out", type=OUT)
@_PLATES
@click.option("--screen", default="", help="Where the plates are, if they have moved.")
@_OVERWRITE
def omezarr(
    store: Path,
    out: Path,
    plates: tuple[str, ...],
    screen: str,
    overwrite: bool,  # noqa: FBT001
) -> None:
    """Write a copy of the plates to a folder OUT, with label images and tables, for ngio.

    A field has the channels and the plane that the run saw, the labels `cells`, and the tables
    `cells` and `proportions`. The plates of the screen are only read.
    """
    from bgscale.export import to_omezarr

    with _bar(store, "export OME-Zarr") as advance:
        copied = to_omezarr(
            str(store), out, plates=plates, screen=screen, overwrite=overwrite, progress=advance
        )
    tell(f"wrote {out}: {copied.fields} fields, {copied.cells} cells")
    for name, why in copied.left_out.items():
        tell(f"left out {name}: {why}")
