"""The command line: few verbs around a run.toml. Logic lives in the library; this file says it.

Results go to stdout, everything else to stderr. Exit codes: 0 done; 1 failure; 2 bad usage or bad
input; 3 finished, with cells that could not be used; 74 disk full; 75 stopped, run again.
"""

import errno
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bgscale import __version__
from bgscale.errors import (
    EXIT_BAD_INPUT,
    EXIT_DISK,
    EXIT_SOME_FAILED,
    EXIT_TRY_AGAIN,
    BgscaleError,
    InputError,
)

if TYPE_CHECKING:
    from bgscale.accuracy import Aggregate
    from bgscale.config import RunConfig
    from bgscale.run import Outcome, Run

FIRST_LOOK_POOL = 2
"""Smallest donor pool that is enough for a run with --limit or --proteins."""
RUN_TOML = click.Path(path_type=Path, dir_okay=False)
STORE = click.Path(path_type=Path, file_okay=False)
FOLDER = click.Path(path_type=Path, file_okay=False)


def _cluster(default: str) -> Callable[..., Any]:
    return click.option(
        "--cluster",
        default=default,
        show_default=True,
        metavar="X",
        help="Where units run: serial (here, one after the other), local or local:N (N worker "
        "processes on this machine), or tcp://HOST:PORT of a running Dask scheduler.",
    )


class _Group(click.Group):
    """Turns errors into one line and an exit code; lists commands in the order of use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BgscaleError as error:
            _fail(str(error), error.exit_code)
        except KeyboardInterrupt:
            _fail("interrupted; what was done is kept: run again to go on", EXIT_TRY_AGAIN)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                _fail(f"no space left on the device: {error}; free some, then run again", EXIT_DISK)
            if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
                _fail(f"cannot write: {error}; choose a target you may write to", EXIT_BAD_INPUT)
            raise


def _fail(message: str, code: int) -> None:
    click.echo(f"error: {message}", err=True)
    sys.exit(code)


def _tell(message: str = "") -> None:
    click.echo(message, err=True)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="bgscale")
def main() -> None:
    """Measure whether a single-cell embedding reads the neighbours.

    bgscale puts every cell of a screen on other backgrounds, embeds it again, and says how far
    classification and the localization proportions of each protein move.

    \b
    First look, nothing needed:    bgscale demo
    Your own crops:                bgscale init SCREEN, then edit run.toml and platemap.csv
                                   bgscale train run.toml
                                   bgscale run run.toml
                                   bgscale table results.zarr
    """  # noqa: D301  click needs the backspace character


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
@_cluster("local")
def demo(folder: Path, seed: int, neighbours: str, cluster: str) -> None:
    """Simulate a screen and run everything on it.

    Takes minutes on a laptop. Simulates proteins of 15 localizations, trains the model `tiny`,
    runs both experiments, prints the table in the paper's form and the most shifted proteins, and
    writes two figures. Run again,
    it does only what is missing.
    """
    from bgscale.demo import run_demo

    _finish(run_demo(folder, seed=seed, neighbours=neighbours, cluster=cluster, tell=_tell))


@main.command()
@click.argument("screen", type=click.Path(path_type=Path), required=False)
@click.option(
    "-o", "--output", type=RUN_TOML, default="run.toml", show_default=True, help="File to write."
)
@click.option("--pattern", default="", help="How the screen's files are named (see run.toml).")
@click.option("--force", is_flag=True, help="Replace files that are there.")
def init(screen: Path | None, output: Path, pattern: str, force: bool) -> None:  # noqa: FBT001
    """Write a commented run.toml and a plate-map template.

    With SCREEN (a folder or zip of crops) the template lists its proteins and run.toml its
    channels; without, both are examples to edit.
    """
    from bgscale.scaffold import scaffold

    for path in scaffold(screen, output, pattern=pattern, force=force):
        _tell(f"wrote {path}")
    _tell("next: fill in the class column of the plate map, then `bgscale plan run.toml`")


@main.command()
@click.argument("screen", type=click.Path(path_type=Path))
@click.option("--pattern", default="", help="How the files are named (see run.toml).")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def info(screen: Path, pattern: str, as_json: bool) -> None:  # noqa: FBT001
    """Say what a screen holds, and whether it is sound.

    SCREEN is a folder or zip of crops, or a run.toml, whose screen is then described with its plate
    map.
    """
    from bgscale.scaffold import describe

    values, text = describe(screen, pattern=pattern)
    click.echo(json.dumps(values, indent=2) if as_json else text)


def _load(run_toml: Path, limit: int = 0, proteins: str = "") -> "RunConfig":
    from bgscale.config import RunConfig

    config = RunConfig.from_toml(run_toml)
    changed: dict[str, Any] = {}
    if limit:
        changed["limit"] = limit
    if proteins:
        changed["proteins"] = tuple(p.strip() for p in proteins.split(",") if p.strip())
    screen = config.screen.model_copy(update=changed)
    if not changed:
        return config
    # few cells must do for a look
    floor = min(config.donors.min_pool, FIRST_LOOK_POOL)
    donors = config.donors.model_copy(update={"min_pool": floor})
    return config.model_copy(update={"screen": screen, "donors": donors})


def _first_look(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.option(
            "--proteins", default="", metavar="A,B", help="Only these proteins, for a first look."
        ),
        click.option(
            "--limit",
            default=0,
            type=click.IntRange(min=0),
            metavar="N",
            help="At most N cells, spread over the proteins, for a first look.",
        ),
    ):
        command = option(command)
    return command


@main.command()
@click.argument("run_toml", type=RUN_TOML)
@_first_look
def plan(run_toml: Path, limit: int, proteins: str) -> None:
    """Say what a run would do; computes nothing."""
    from bgscale.run import Run

    run = Run.from_config(_load(run_toml, limit, proteins))
    click.echo(run.describe_plan())


@main.command()
@click.argument("run_toml", type=RUN_TOML)
@_cluster("serial")
@click.option("--redo", is_flag=True, help="Replace what another config has made in the store.")
@_first_look
def run(run_toml: Path, cluster: str, redo: bool, limit: int, proteins: str) -> None:  # noqa: FBT001
    """Do everything that is missing in a run.

    Stopped by Ctrl-C, a full disk or a crash, a second `bgscale run` goes on where it was. A store
    that another config has made is refused, unless --redo is given.
    """
    from bgscale.run import Run

    _execute(Run.from_config(_load(run_toml, limit, proteins)), cluster, redo=redo)


def _execute(run: "Run", cluster: str, *, redo: bool = False) -> None:
    from bgscale.distribute.cluster import connect
    from bgscale.progress import Narrator

    for notice in run.notices():
        _tell(notice)
    run.check(redo=redo)
    with connect(cluster) as client, Narrator.of_store(run.config.store) as narrator:
        outcome = run.execute(client, redo=redo, listener=narrator)
    _tell(f"done: {outcome.store}; `bgscale table {outcome.store}` prints the table")
    _finish(outcome)


def _finish(outcome: "Outcome") -> None:
    """Say what was set aside, and end with 3 if anything was."""
    if outcome.unusable:
        counts = ", ".join(f"{n} {text}" for text, n in outcome.unusable.items())
        total = sum(outcome.unusable.values())
        _tell(f"{total} of {outcome.cells} cells could not be used: {counts}")
        sys.exit(EXIT_SOME_FAILED)


@main.command()
@click.argument("store", type=STORE)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def status(store: Path, as_json: bool) -> None:  # noqa: FBT001
    """Say how far the run of a store is, also while it runs."""
    from bgscale.run import status as of

    values = of(store)
    if as_json:
        click.echo(json.dumps(values, indent=2))
        return
    for name, stage in values["stages"].items():
        state = "done" if stage["done"] == stage["units"] else "to do"
        units = "?" if stage["units"] is None else stage["units"]
        click.echo(f"{name:<32} {stage['done']:>6} of {units:>6} units  {state}")


@main.command()
@click.argument("run_toml", type=RUN_TOML)
@_cluster("serial")
@click.option("--restart", is_flag=True, help="Forget the checkpoint of an earlier training.")
@click.option("--redo", is_flag=True, help="Replace what another config has made in the store.")
@_first_look
def train(
    run_toml: Path,
    cluster: str,
    restart: bool,  # noqa: FBT001
    redo: bool,  # noqa: FBT001
    limit: int,
    proteins: str,
) -> None:
    """Fit an embedding model on the screen's own cells.

    The task is PIFiA's: which protein does a crop show? Fields are kept apart: none is both in the
    training and in the validation. Writes the file that `models.NAME.weights` names; stopped, it
    goes on from its last epoch.
    """
    from bgscale.distribute.cluster import connect
    from bgscale.progress import Narrator
    from bgscale.run import train_model

    config = _load(run_toml, limit, proteins)
    with connect(cluster) as client, Narrator.of_store(config.store) as narrator:
        result = train_model(config, client, listener=narrator, restart=restart, redo=redo)
    _tell(f"{result}; `bgscale run {run_toml}` uses it")


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


if __name__ == "__main__":
    main()
