"""Commands that run: plan, rates, run, train, and how far it is."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bgscale.cli.root import RUN_TOML, STORE, TABLE, cluster, finish, main, say_left_out, tell

if TYPE_CHECKING:
    from bgscale.config import RunConfig

FIRST_LOOK_POOL = 2
"""Smallest donor pool that is enough for a run with --limit or --proteins."""


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
    # what a look has made would have to be redone by the whole run
    look = config.store.removesuffix(".zarr") + ".look.zarr"
    tell(f"first look, into {look}")
    return config.model_copy(update={"screen": screen, "donors": donors, "store": look})


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
            help="At most N crops or fields, spread over the proteins, for a first look.",
        ),
    ):
        command = option(command)
    return command


@main.command()
@click.argument("run_toml", type=RUN_TOML)
@click.option("--costs", is_flag=True, help="Print the cost sheet: hours on several machines.")
@click.option(
    "--rates",
    type=TABLE,
    metavar="FILE",
    help="Rates of a machine of yours, from `bgscale rates`; they go before the package's.",
)
@click.option(
    "--workers",
    default=0,
    type=click.IntRange(min=0),
    metavar="N",
    help="In the cost sheet, also for N workers of one core each.",
)
@click.option(
    "--gpus",
    default=0,
    type=click.IntRange(min=0),
    metavar="M",
    help="In the cost sheet, also for M workers with a GPU each.",
)
@click.option(
    "--cluster",
    default="",
    metavar="X",
    help="In the cost sheet, also for the workers of this cluster: local:N, or PROFILE.toml.",
)
@_first_look
def plan(
    run_toml: Path,
    costs: bool,  # noqa: FBT001
    rates: Path | None,
    workers: int,
    gpus: int,
    cluster: str,
    limit: int,
    proteins: str,
) -> None:
    """Say what a run would do, write and take; computes nothing.

    Hours are those of this machine's cores for what is left to do. The cost sheet has other
    machines as well, and says of each stage where its rate was measured.
    """
    from bgscale.run import Run
    from bgscale.run.costs import asked_machine, sheet
    from bgscale.run.rates import load_rates

    machine = asked_machine(cluster, workers, gpus)
    own = load_rates(rates) if rates else None
    config = _load(run_toml, limit, proteins)
    models = dict(config.models)
    for name, model in config.models.items():
        if model.weights and not Path(model.weights).is_file():
            tell(f"no file {model.weights} yet: `bgscale train {run_toml}` writes it")
            models[name] = model.model_copy(update={"weights": ""})
    run = Run.from_config(config.model_copy(update={"models": models}))
    found = run.costs(own)
    click.echo(run.describe_plan(found))
    if costs or machine:
        click.echo("\n" + sheet(found, machine))


@main.command()
@click.argument("store", type=STORE)
@click.option(
    "-o", "--output", type=TABLE, required=True, metavar="FILE", help="JSON file to write."
)
def rates(store: Path, output: Path) -> None:
    """Write what the stages of a run have taken, for `bgscale plan --rates`.

    Any run store will do whose screen is still where it was; what it has not done, and what other
    networks would take, is not known of it. Make it with one-threaded workers (--cluster local),
    on a machine that does nothing else.
    """
    from bgscale.places import spelled
    from bgscale.run.rates import of_store

    found = of_store(spelled(store))
    output.write_text(found.model_dump_json(indent=1) + "\n", encoding="utf-8")
    kinds = sorted({rate.stage for rate in found.stages})
    networks = [f"{rate.architecture} ({rate.engine})" for rate in found.networks]
    tell(f"{output}: rates of {', '.join([*kinds, *networks])}")


@main.command()
@click.argument("run_toml", type=RUN_TOML)
@cluster("serial")
@click.option("--redo", is_flag=True, help="Replace what another config has made in the store.")
@click.option(
    "--retry-failed",
    is_flag=True,
    help="Try fields or crops again that failed; what holds any that is mended is made anew.",
)
@click.option(
    "--redraw",
    is_flag=True,
    help="Draw donors anew, from plates that came later as well.",
)
@click.option(
    "--part",
    default="",
    metavar="I/N",
    help="Be process I (from 0) of N that share the run without a scheduler, as a job array does.",
)
@click.option(
    "--wait",
    default=0.0,
    type=click.FloatRange(min=0),
    metavar="MINUTES",
    help="Wait so long for another run of this store to end, or to be known as dead.",
)
@_first_look
def run(
    run_toml: Path,
    cluster: str,
    redo: bool,  # noqa: FBT001
    retry_failed: bool,  # noqa: FBT001
    redraw: bool,  # noqa: FBT001
    part: str,
    wait: float,
    limit: int,
    proteins: str,
) -> None:
    """Do everything that is missing in a run.

    Stopped by Ctrl-C, a full disk or a crash, a second `bgscale run` goes on where it was. Plates
    that came later are added; the donors stay those that were drawn before. A store that another
    config has made is refused, unless --redo is given.
    """
    from bgscale.distribute.cluster import connect
    from bgscale.distribute.parts import Part
    from bgscale.progress import Narrator
    from bgscale.run import Run

    share = Part.parse(part) if part else None
    run = Run.from_config(_load(run_toml, limit, proteins))
    for notice in run.notices():
        tell(notice)
    plates = run.check(redo=redo, retry_failed=retry_failed, redraw=redraw)
    if retry_failed:
        tell(f"made anew: {', '.join(plates)}" if plates else "nothing that failed can be used now")
    # nobody waits for workers that would have nothing to do
    where = "serial" if run.is_complete() else cluster
    with connect(where, tell=tell) as client, Narrator.of_store(run.config.store) as narrator:
        outcome = run.execute(
            client,
            redo=redo,
            retry_failed=retry_failed,
            redraw=redraw,
            listener=narrator,
            part=share,
            patience_s=60 * wait,
        )
    tell(f"done: {outcome.store}; `bgscale table {outcome.store}` prints the table")
    finish(outcome)


@main.command()
@click.argument("store", type=STORE)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def status(store: Path, as_json: bool) -> None:  # noqa: FBT001
    """Say how far the run of a store is, also while it runs."""
    from bgscale.places import spelled
    from bgscale.run import status as of

    values = of(spelled(store))
    if as_json:
        click.echo(json.dumps(values, indent=2))
        return
    for name, stage in values["stages"].items():
        state = "done" if stage["done"] == stage["units"] else "to do"
        units = "?" if stage["units"] is None else stage["units"]
        click.echo(f"{name:<32} {stage['done']:>6} of {units:>6} units  {state}")
    click.echo(f"run by {values['driver']}" if values["driver"] else "no run works on it now")
    running = values["running"]
    if running is not None:
        left = running["seconds_left"]
        until = "" if left is None else f", about {left // 60} min {left % 60} s left of this stage"
        click.echo(f"at {running['stage']}: {running['units_a_minute']:g} units a minute{until}")
    for failure in values["failures"]:
        click.echo(f"unit {failure['unit']} failed: {failure['error']}")


@main.command()
@click.argument("run_toml", type=RUN_TOML)
@cluster("serial")
@click.option(
    "--invariant",
    is_flag=True,
    help="Train a model that does not see the neighbours, as training.invariant = true does.",
)
@click.option("--restart", is_flag=True, help="Forget the checkpoint of an earlier training.")
@click.option("--redo", is_flag=True, help="Replace what another config has made in the store.")
@_first_look
def train(
    run_toml: Path,
    cluster: str,
    invariant: bool,  # noqa: FBT001
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
    from bgscale.run import outcome, train_model

    config = _load(run_toml, limit, proteins)
    if invariant:
        training = config.training.model_copy(update={"invariant": True})
        config = config.model_copy(update={"training": training})
    with connect(cluster, tell=tell) as client, Narrator.of_store(config.store) as narrator:
        result = train_model(config, client, listener=narrator, restart=restart, redo=redo)
    say_left_out(outcome(config.store))
    tell(f"{result}; `bgscale run {run_toml}` uses it")
