"""The command that draws a run's figures."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from bgscale.cli.root import FOLDER, STORE, main, tell
from bgscale.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence


@main.command()
@click.argument("store", type=STORE)
@click.option("-o", "--output", type=FOLDER, required=True, help="Folder to write them to.")
@click.option("--model", default="", help="Only of this model; by default of all of the store.")
@click.option(
    "--format",
    "kind",
    type=click.Choice(["svg", "pdf", "png"]),
    default="svg",
    show_default=True,
    help="svg and pdf: lines and letters, for print; png: 300 dots an inch.",
)
@click.option(
    "--figure",
    "figures",
    multiple=True,
    metavar="NAME",
    help="Only this one; may be repeated: settings, accuracy, table, sensitivity, harm, confusion, "
    "neighbours, shift_distribution, volcano, proportions, reliability, quality, "
    "comparison, shift_comparison (models side by side).",
)
@click.option(
    "--protein",
    "proteins",
    multiple=True,
    metavar="NAME",
    help="Whose proportions are drawn; may be repeated. By default the surest shifted one.",
)
def plot(
    store: Path,
    output: Path,
    model: str,
    kind: str,
    figures: "Sequence[str]",
    proteins: "Sequence[str]",
) -> None:
    """Draw the figures of a run, ready to be printed: 89 or 183 mm wide, letters of 7 points.

    All that the store can give; which it cannot, and why, is said. A figure that was asked for by
    name and cannot be drawn ends it with 2.
    """
    from bgscale.plot import every, save

    drawings = every(str(store), model=model, figures=figures, proteins=proteins)
    output.mkdir(parents=True, exist_ok=True)
    missed = []
    for drawing in drawings:
        try:
            axes = drawing.draw()
        except InputError as error:
            missed.append(drawing.figure)
            tell(f"not drawn: {drawing.name}: {error}")
            continue
        click.echo(str(save(axes, output / f"{drawing.name}.{kind}")))
    tell(f"drew {len(drawings) - len(missed)} figures, could not draw {len(missed)}")
    if ((figures or proteins) and missed) or len(missed) == len(drawings):
        msg = f"could not draw {', '.join(dict.fromkeys(missed))}: see above"
        raise InputError(msg)
