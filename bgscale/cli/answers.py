"""Commands that answer from a run store."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bgscale.cli.root import FOLDER, STORE, TABLE, main, tell
from bgscale.errors import InputError

if TYPE_CHECKING:
    from bgscale.accuracy import Aggregate


@main.command()
@click.argument("store", type=STORE, required=False)
@click.option("--model", default="", help="Only this model; by default all of the store.")
@click.option("--published", type=FOLDER, help="Folder of published results_*.csv instead.")
@click.option(
    "--aggregate",
    type=click.Choice(["symmetric", "published"]),
    help="symmetric: mean over all pairs and backgrounds; published: with the paper's quirks. "
    "By default what the run's config says, else symmetric.",
)
@click.option(
    "--differ-in",
    metavar="COLUMN",
    default="",
    help="Only pairs of classes that differ in this column of the plate map.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def table(
    store: Path | None,
    model: str,
    published: Path | None,
    aggregate: "Aggregate | None",
    differ_in: str,
    as_json: bool,  # noqa: FBT001
) -> None:
    """Print the table of accuracies under the background settings.

    Of a run store, or with --published of a folder with the published results_base.csv,
    results_same.csv, results_diff.csv, results_batch.csv and results_mask.csv.
    """
    from bgscale.table import format_table, read_published, to_json
    from bgscale.table import table as made_from

    if (store is None) == (published is None):
        msg = "give either STORE or --published DIR"
        raise InputError(msg)
    if published is not None:
        dataset = read_published(published)
        made = {published.resolve().name: made_from(dataset, aggregate=aggregate or "symmetric")}
    else:
        from bgscale.summary import tables

        made = tables(str(store), model=model, aggregate=aggregate, differ_in=differ_in)
    if as_json:
        click.echo(json.dumps({name: to_json(one) for name, one in made.items()}, indent=2))
    else:
        click.echo(format_table(made, title=str(published or store)), nl=False)


@main.command()
@click.argument("store", type=STORE)
@click.option("--model", default="", help="Only this model; by default all of the store.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
def controls(store: Path, model: str, as_json: bool) -> None:  # noqa: FBT001
    """Say which background does the harm, to which class, and whether neighbours do it.

    Of a finished run: classifiers trained on original and tested on other backgrounds, each class
    on the other's background, accuracy by background and by neighbours, loss by localization.
    """
    from bgscale.controls import findings, format_findings, to_json

    found = findings(str(store), model=model)
    if as_json:
        click.echo(json.dumps(to_json(found), indent=2))
    else:
        click.echo(format_findings(found, title=str(store)), nl=False)


@main.command()
@click.argument("store", type=STORE)
@click.option("-o", "--output", type=TABLE, help="Also draw the plates: a .png, .pdf or .svg file.")
@click.option("--json", "as_json", is_flag=True, help="Print the wells to look at as JSON.")
def quality(store: Path, output: Path | None, as_json: bool) -> None:  # noqa: FBT001
    """Say which wells to look at before their cells are believed.

    Cells, size, focus, saturation and medium of each well of a run store of plates, compared with
    the other wells of its plate.
    """
    from bgscale.quality import format_quality, summarise, suspicious
    from bgscale.summary import field_table

    dataset = summarise(field_table(store))
    if as_json:
        click.echo(suspicious(dataset).to_json(orient="records", indent=2))
    else:
        click.echo(format_quality(dataset))
    if output is not None:
        from bgscale import plot

        tell(f"wrote {plot.save(plot.quality(dataset), output)}")
