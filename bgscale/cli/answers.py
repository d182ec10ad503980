"""Commands that answer from a run store."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bgscale.cli.root import DIFFER_IN, FOLDER, STORE, TABLE, main, tell
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
@DIFFER_IN
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
@click.option("--model", default="", help="Only this model; by default all of the store.")
@click.option("--setting", default="masked", show_default=True, help="Against original.")
@click.option(
    "--fit",
    type=click.Choice(["fixed", "matched"]),
    default="fixed",
    show_default=True,
    help="fixed: classifier fitted on original; matched: fitted under the setting.",
)
@click.option("--count", default=20, show_default=True, help="Proteins to print, the surest first.")
@click.option("--json", "as_json", is_flag=True, help="Print all proteins as JSON.")
def shifts(
    store: Path,
    model: str,
    setting: str,
    fit: str,
    count: int,
    as_json: bool,  # noqa: FBT001
) -> None:
    """Say which proteins' proportions move with the background, and which only by chance.

    KL in nats with its 95% interval, p, q (false discovery rate), and which shifts are substantial;
    beside it how many have a large KL, by size alone.
    """
    from bgscale.asked import models_with
    from bgscale.results import Store, open_results
    from bgscale.shifted import format_shifts, shift_shares, shifted

    models = models_with(Store(str(store)), "shifts", model)
    tree = open_results(str(store), nodes=[f"shifts/{name}" for name in models])
    found = {}
    for name in models:
        frame = shifted(tree, name, setting=setting, fit=fit)
        shares = shift_shares(tree, name, setting=setting, fit=fit)
        if as_json:
            proteins = json.loads(frame.to_json(orient="index"))
            found[name] = {**shares, "shifts": proteins}
        else:
            title = f"{store} {name}: {setting} against original, {fit} classifier"
            click.echo(format_shifts(frame, shares, count=count, title=title))
    if as_json:
        click.echo(json.dumps(found, indent=2))


@main.command()
@click.argument("store", type=STORE)
@click.option("--model", default="", help="By default the first: donors do not depend on it.")
@click.option("--json", "as_json", is_flag=True, help="Print the table as JSON.")
def donors(store: Path, model: str, as_json: bool) -> None:  # noqa: FBT001
    """Say which donors lent the backgrounds, and how often each.

    By setting and localization of the donor: cells on such backgrounds, donors that were used and
    that are in the bank, their proteins and fields, and how often one was used.
    """
    from bgscale.lent import lent

    frame = lent(str(store), model=model)
    if as_json:
        click.echo(frame.to_json(orient="records", indent=2))
    else:
        click.echo(frame.to_string(index=False))


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
