"""The command that sets models side by side."""

import json
from pathlib import Path

import click

from bgscale.cli.root import DIFFER_IN, STORE, main


@main.command()
@click.argument("stores", type=STORE, nargs=-1, required=True)
@click.option("--model", "models", multiple=True, help="Only these; the first is compared with.")
@DIFFER_IN
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def compare(
    stores: tuple[Path, ...],
    models: tuple[str, ...],
    differ_in: str,
    as_json: bool,  # noqa: FBT001
) -> None:
    """Compare models of one screen: accuracy, the harm of backgrounds, shifts, and cost.

    All models of one or several run stores that hold the same cells; differences to the first model
    are paired. With several stores a model of the same name is called STORE:MODEL.
    """
    from bgscale.comparison import compare as made_from
    from bgscale.comparison import format_comparison, to_json

    found = made_from([str(store) for store in stores], models=models, differ_in=differ_in)
    if as_json:
        click.echo(json.dumps(to_json(found), indent=2))
    else:
        click.echo(format_comparison(found, title=", ".join(map(str, stores))), nl=False)
