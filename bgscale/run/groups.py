"""Do what is missing of a group of stages: the same stage of each plate.

Owns what comes before and after their units: arrays are created, what was put aside is dropped.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bgscale import pipeline
from bgscale.distribute.account import Stop
from bgscale.distribute.execute import run_units
from bgscale.distribute.ledger import Ledger
from bgscale.distribute.listener import Listener
from bgscale.distribute.parts import Part
from bgscale.pipeline import Stage
from bgscale.results import Store
from bgscale.run.engines import needed_by
from bgscale.run.upkeep import drop_aside, prepare
from bgscale.stages.job import Job

if TYPE_CHECKING:
    from bgscale.distribute.execute import Client


@dataclass(frozen=True)
class Means:
    """What units are done with.

    Parameters
    ----------
    listener : Listener
    stop : Stop
    lock : callable
        Holds the store, for the length of a ``with`` block, while arrays are created.
    client : distributed.Client, optional
    gpu : mapping, optional
        What a worker must have that runs networks.
    part : Part, optional
    """

    listener: Listener
    stop: Stop
    lock: Callable[[], AbstractContextManager[object]]
    client: "Client | None" = None
    gpu: Mapping[str, float] | None = None
    part: Part | None = None


def do_group(
    store: Store, job: Job, group: Sequence[Stage], stages: Sequence[Stage], means: Means
) -> None:
    """Do the units of a group that are missing.

    Parameters
    ----------
    store : Store
    job : Job
    group : sequence of Stage
        From `pipeline.groups`.
    stages : sequence of Stage
        All of the run.
    means : Means

    Raises
    ------
    InputError, UnitError, DiskFullError, InterruptedRunError
        See `bgscale.distribute.execute.run_units`.
    """
    made, ledger, first = store.attrs()["stages"], Ledger(store.location), group[0]
    missing = [s for s in group if made.get(s.name, {}).get("token") != s.token]
    if missing:
        with means.lock():
            for stage in missing:
                prepare(store, job, stage, stages)
    of_name = {stage.name: stage for stage in group}

    def complete(name: str) -> None:
        drop_aside(store, of_name[name])
        if means.part is None:
            ledger.bind(name)

    units = {stage.name: stage.units(job) for stage in group}
    for name, own in units.items():
        if not own:
            # of a plate without a cell
            complete(name)
    run_units(
        pipeline.work,
        [unit for own in units.values() for unit in own],
        job.text,
        ledger=ledger,
        client=means.client,
        listener=means.listener,
        called=first.group if len(group) > 1 else first.name,
        purpose=first.purpose,
        stop=means.stop,
        set_aside=pipeline.set_aside if first.can_lose else None,
        resources=needed_by(job, first.name.split("/")[1], means.gpu) if first.embeds else None,
        part=means.part,
        complete=complete,
    )
