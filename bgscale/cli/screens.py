"""Commands about screens: look at one, import one, map its wells, begin a run of it."""

import json
import sys
from pathlib import Path

import click

from bgscale.cli.root import FOLDER, RUN_TOML, TABLE, cluster, finish, main, tell
from bgscale.errors import EXIT_SOME_FAILED, InputError

FAILURES_SHOWN = 20


@main.command()
@click.option(
    "--folder", type=FOLDER, default="bgscale-demo", show_default=True, help="Where to write."
)
@click.option("--seed", default=0, show_default=True, help="Of the simulated screen and the run.")
@click.option(
    "--neighbours",
    type=click.Choice(["same_strain", "independent"]),
    default="same_strain",
    show_default=True,
    help="Neighbours of the centre cell's own strain (a real well), or drawn independently of it "
    "(a mixed culture: backgrounds carry no information).",
)
@cluster("local")
def demo(folder: Path, seed: int, neighbours: str, cluster: str) -> None:
    """Simulate a screen and run everything on it.

    Takes minutes on a laptop. Simulates proteins of 15 localizations, trains the model `tiny`,
    runs both experiments, prints the table in the paper's form and the most shifted proteins, and
    writes two figures. Run again,
    it does only what is missing.
    """
    from bgscale.demo import run_demo

    finish(run_demo(folder, seed=seed, neighbours=neighbours, cluster=cluster, tell=tell))


@main.command()
@click.argument("screen", required=False)
@click.option(
    "-o", "--output", type=RUN_TOML, default="run.toml", show_default=True, help="File to write."
)
@click.option("--pattern", default="", help="How the screen's files are named (see run.toml).")
@click.option("--force", is_flag=True, help="Replace files that are there.")
def init(screen: str | None, output: Path, pattern: str, force: bool) -> None:  # noqa: FBT001
    """Write a commented run.toml and a plate-map template.

    With SCREEN (OME-Zarr plates, a glob of them, or a folder or zip of crops) the template lists
    its wells or proteins and run.toml its channels; without, both are examples to edit.
    """
    from bgscale.config import RunConfig
    from bgscale.scaffold import scaffold

    for path in scaffold(screen, output, pattern=pattern, force=force):
        tell(f"wrote {path}")
    if screen is not None:
        section = RunConfig.from_toml(output).screen
        roles = {role: getattr(section, role) for role in ("protein", "cytosol", "nucleus")}
        taken = ", ".join(f"{role} = {name!r}" for role, name in roles.items() if name)
        tell(f"channels, guessed by their names: {taken}")
    tell("next: look at the channels in run.toml, fill in the class column of the plate map, then")
    tell(f"      bgscale train {output}; bgscale run {output}")


@main.command()
@click.argument("screen")
@click.option("--pattern", default="", help="How the files are named (see run.toml).")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def info(screen: str, pattern: str, as_json: bool) -> None:  # noqa: FBT001
    """Say what a screen holds, and whether it is sound.

    SCREEN is OME-Zarr plates (one, a glob, a folder of them, or s3://...), a folder or zip of
    crops, or a run.toml, whose screen is then described with its plate map.
    """
    from bgscale.scaffold import describe

    values, text = describe(screen, pattern=pattern)
    click.echo(json.dumps(values, indent=2) if as_json else text)


@main.command(name="import")
@click.argument("kind", type=click.Choice(["phenix", "imagexpress", "ometiff", "template"]))
@click.argument("folder", type=FOLDER)
@click.argument("out", type=FOLDER)
@click.option("--dry-run", is_flag=True, help="Print what was understood; write nothing.")
@click.option(
    "--pattern",
    help="template: how files are named, as '{plate}/r{row}c{column}f{field}-ch{channel}.tiff'.",
)
@click.option(
    "--channel", "channels", multiple=True, metavar="ID=NAME", help="Name a channel, as 1=GFP."
)
@click.option(
    "--pixel-size", type=click.FloatRange(min=0, min_open=True), help="Micrometres a pixel."
)
@click.option(
    "--z", default="max", show_default=True, help="Projection over z, or a plane's number."
)
@click.option("--time", default=0, type=click.IntRange(min=0), help="Which time point.")
@click.option("--plate", help="Name of the plate, where the folder holds one.")
@cluster("serial")
def import_(
    kind: str,
    folder: Path,
    out: Path,
    dry_run: bool,  # noqa: FBT001
    pattern: str | None,
    channels: tuple[str, ...],
    pixel_size: float | None,
    z: str,
    time: int,
    plate: str | None,
    cluster: str,
) -> None:
    """Import the folders a microscope wrote into OME-Zarr plates.

    \b
    phenix       Opera Phenix and Operetta, with or without Index.idx.xml
    imagexpress  ImageXpress, MetaXpress
    ometiff      OME-TIFF with plate metadata
    template     anything else, with --pattern

    OUT gets PLATE.zarr for each plate (one that ends in .zarr is the only plate). FOLDER is only
    read. Stopped, a second import goes on; a file that cannot be read fails its field alone.
    """  # noqa: D301  click needs the backspace character
    from bgscale.distribute.cluster import connect
    from bgscale.importers import describe, plan_import, run_import
    from bgscale.progress import Narrator

    plan = plan_import(
        kind,
        folder,
        pattern=pattern,
        channels=dict(_pair(text) for text in channels),
        pixel_size_um=pixel_size,
        z=int(z) if z.isdecimal() else z,
        time=time,
        plate=plate,
    )
    if dry_run:
        click.echo(describe(plan))
        return
    tell(describe(plan))
    with connect(cluster, tell=tell) as client, Narrator.of_store(str(out)) as narrator:
        outcome = run_import(plan, out, client=client, listener=narrator)
    tell(f"{outcome.written} fields written, {outcome.already} were there: {out}")
    for name, text in outcome.failed[:FAILURES_SHOWN]:
        tell(f"  {name}: {text}")
    if outcome.failed:
        tell(f"{len(outcome.failed)} fields could not be imported")
        sys.exit(EXIT_SOME_FAILED)


def _pair(text: str) -> tuple[str, str]:
    key, equals, name = text.partition("=")
    if not (key and equals and name):
        msg = f"--channel {text!r}: expected ID=NAME, such as 1=GFP"
        raise InputError(msg)
    return key, name


@main.command(name="map")
@click.argument("kind", type=click.Choice(["huh2003"]))
@click.argument("file", type=TABLE)
@click.option("--onto", type=TABLE, help="Plate map whose proteins get their localizations.")
@click.option("--column", help="Its column with their names; by default the one that fits.")
@click.option("--drop", multiple=True, metavar="NAME", help="A localization to leave out.")
@click.option("-o", "--output", type=TABLE, required=True, help="CSV to write.")
def map_(
    kind: str,
    file: Path,
    onto: Path | None,
    column: str | None,
    drop: tuple[str, ...],
    output: Path,
) -> None:
    """Make a published table of localizations usable as a plate map.

    huh2003: FILE is the table of the yeast GFP collection (Huh et al. 2003), plain or compressed.
    Alone it becomes a CSV of orf, gene and localization; with --onto its localizations are filled
    into a plate map, by open reading frame or gene.
    """
    del kind
    from bgscale.annotations import annotate, huh2003

    table = huh2003(file, drop=drop)
    if onto is None:
        table.to_csv(output, index=False, lineterminator="\n")
        tell(f"wrote {output}: {len(table)} open reading frames")
    else:
        tell(str(annotate(onto, table, output, column=column)))
        tell(f"wrote {output}")
