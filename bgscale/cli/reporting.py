"""The command that writes a run's report."""

from pathlib import Path

import click

from bgscale.cli.root import STORE, TABLE, main, tell


@main.command()
@click.argument("store", type=STORE)
@click.option(
    "-o", "--output", type=TABLE, default=Path("report.html"), show_default=True,
    help="The page: one HTML file; one that is there is replaced.",
)  # fmt: skip
@click.option("--model", default="", help="Only this model; by default all of the store.")
@click.option(
    "--montages", default=60, show_default=True, type=click.IntRange(min=0),
    help="Of how many of the most shifted proteins cells are shown.",
)  # fmt: skip
@click.option("--protein", multiple=True, metavar="NAME", help="Also show cells of this protein.")
@click.option(
    "--cells", default=6, show_default=True, type=click.IntRange(0, 24),
    help="Cells of each of these proteins.",
)  # fmt: skip
def report(
    store: Path,
    output: Path,
    model: str,
    montages: int,
    protein: tuple[str, ...],
    cells: int,
) -> None:
    """Write what a run found as one page: figures, all proteins, cells, and methods.

    One file that opens from the disk and asks for nothing over the network; report.html#NUP2 opens
    a protein. Of a run that is not complete, what there is.
    """
    from bgscale.places import spelled
    from bgscale.report import write

    made = write(
        spelled(store), output, model=model, montages=montages, proteins=protein, cells=cells
    )
    tell(f"wrote {made} ({made.stat().st_size / 1e6:.1f} MB): open it in a browser")
