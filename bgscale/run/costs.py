"""What a run costs: hours of a core, of a GPU, and of machines of several, from measured rates.

A stage's units are independent and take equally long, and those of all plates go together; a stage
begins when the one before it is complete on all plates. So a machine needs as many rounds of a
stage as its workers go into the units of all plates.
Every line names where its rate was measured; without a rate a time is not known, and is not left
out of a sum without a word.
"""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from bgscale.distribute.cluster import workers_of
from bgscale.distribute.ledger import Ledger
from bgscale.places.space import human
from bgscale.run.plan import StagePlan
from bgscale.run.rates import (
    ClusterRate,
    Found,
    Rates,
    measured,
    network_rate,
    packaged,
    stage_rate,
)
from bgscale.stages.embedding import SHARDS_A_GPU_UNIT, model_of
from bgscale.stages.job import Job

NOT_KNOWN = "?"
HOUR = 3600.0


@dataclass(frozen=True)
class Machine:
    """Workers that share the units of a run.

    Parameters
    ----------
    cores, gpus : int
        With GPUs, these alone embed.
    title : str
        Of a column; empty: the numbers.
    """

    cores: int
    gpus: int = 0
    title: str = ""

    def __str__(self) -> str:
        said = f"{self.cores} core{'s' * (self.cores != 1)}"
        if self.gpus:
            said += f" + {self.gpus} GPU{'s' * (self.gpus != 1)}"
        return self.title or said


MACHINES = (Machine(2), Machine(64), Machine(64, 1), Machine(64, 8))
"""Columns of the cost sheet."""


class Cost(NamedTuple):
    """What is left of a stage, in seconds; None: not known.

    Attributes
    ----------
    stage, kind, model : str
    embeds : bool
    units : int
    core, gpu : Found or None
        Seconds of all that is left on cores, and on GPUs, with their sources.
    disk_bytes : int
    """

    stage: str
    kind: str
    model: str
    embeds: bool
    units: int
    core: Found | None
    gpu: Found | None
    disk_bytes: int

    def workers_of(self, machine: Machine) -> int:
        """Return how many workers of a machine share its units."""
        return machine.gpus if self.embeds and machine.gpus else machine.cores

    def found_for(self, machine: Machine) -> Found | None:
        """Return the seconds of one of these workers; None: not known."""
        return self.gpu if self.embeds and machine.gpus else self.core

    def units_of(self, machine: Machine) -> int:
        """Return into how many units it is cut for them."""
        shards = SHARDS_A_GPU_UNIT if self.kind == "embed" and machine.gpus else 1
        return math.ceil(self.units / shards)


def seconds_on(
    machine: Machine, several: Sequence[Cost], cluster: ClusterRate | None = None
) -> float | None:
    """Return how long a machine takes for the same stage of some plates; None: not known."""
    several = [cost for cost in several if cost.units]
    if not several:
        return 0.0
    found = [cost.found_for(machine) for cost in several]
    if None in found:
        return None
    seconds = sum(each.seconds for each in found if each)
    units, workers = sum(c.units_of(machine) for c in several), several[0].workers_of(machine)
    rounds = math.ceil(units / workers)
    dispatched = units * cluster.unit_seconds if cluster and workers > 1 else 0.0
    return max(rounds * seconds / units, dispatched)


@dataclass(frozen=True)
class Costs:
    """What is left of a run, and what it takes.

    Parameters
    ----------
    plan : sequence of StagePlan
    stages : sequence of Cost
        The same stages.
    cluster : ClusterRate, optional
        What distributing costs.
    processor : str
        What the rates of the package were measured on.
    """

    plan: Sequence[StagePlan]
    stages: Sequence[Cost]
    cluster: ClusterRate | None
    processor: str

    @property
    def groups(self) -> dict[tuple[str, str], list[Cost]]:
        """The stages by kind and model: those of a group are the same of each plate."""
        found: dict[tuple[str, str], list[Cost]] = {}
        for cost in self.stages:
            found.setdefault((cost.kind, cost.model), []).append(cost)
        return found

    def hours(self) -> dict[str, str]:
        """Return what each stage takes on this machine, as text: its part of its group's time."""
        here = this_machine()
        said: dict[str, str] = {}
        for several in self.groups.values():
            whole = seconds_on(here, several, self.cluster)
            left = {c.stage: c.found_for(here) for c in several if c.units}
            work = {stage: found.seconds for stage, found in left.items() if found}
            share = (whole or 0.0) / (sum(work.values()) or 1.0)
            said |= dict.fromkeys((c.stage for c in several), hours(0.0))
            said |= {s: hours(None if whole is None else share * work[s]) for s in left}
        return said

    def total(self) -> str:
        """Return the sum of that as a sentence."""
        if not any(cost.units for cost in self.stages):
            return "nothing is left to do"
        here = this_machine()
        unknown = [c for c in self.stages if c.units and c.found_for(here) is None]
        more = f", without {_listed(unknown)}, not known" if unknown else ""
        left = hours(self.seconds_on(here))
        return f"what is left takes about {left} hours on the {here} here{more}; --costs says more"

    def seconds_on(self, machine: Machine) -> float:
        """Return how long a machine takes for all stages whose time is known."""
        found = (seconds_on(machine, several, self.cluster) for several in self.groups.values())
        return sum(seconds or 0.0 for seconds in found)


def this_machine() -> Machine:
    """Return the cores that this process may use."""
    affine = hasattr(os, "sched_getaffinity")
    return Machine(len(os.sched_getaffinity(0)) if affine else os.cpu_count() or 1)


def asked_machine(cluster: str, workers: int, gpus: int) -> Machine | None:
    """Return the machine that a user asks about; None: none.

    Parameters
    ----------
    cluster : str
        As `bgscale.connect` takes it; empty: `workers` and `gpus` say it.
    workers, gpus : int
        Worker processes, one core each, and those with a GPU; they replace the profile's.

    Raises
    ------
    InputError
        The cluster is none, or does not say how many workers it has.
    """
    if not (cluster or workers or gpus):
        return None
    cores, cards = (0, 0)
    if cluster:
        cores, cards = workers_of(cluster, known=bool(workers))
    return Machine(workers or cores or this_machine().cores, gpus or cards)


def costs_of(
    job: Job, plan: Sequence[StagePlan], ledger: Ledger, rates: Rates | None = None
) -> Costs:
    """Return what a plan costs: by this run's own units, then `rates`, then the package's."""
    mine = measured(job, plan, ledger, made_by="this run", source="this run")
    base = packaged()
    known = [mine, *([rates] if rates else []), base]
    cluster = next((some.cluster for some in known if some.cluster), None)
    stages, networks = [], {}
    for item in plan:
        amount, left = item.amount, max(item.left, 0.0)
        core = gpu = None
        if amount.embeds:
            if amount.model not in networks:
                model = model_of(job.text, amount.model)
                networks[amount.model] = [
                    network_rate(model, model.engine, device, known) for device in ("cpu", "gpu")
                ]  # fmt: skip
            core, gpu = networks[amount.model]
        else:
            core = stage_rate(amount.kind, known)
        units = item.need.units if item.units is None else item.units
        work = amount.work * left
        stages.append(
            Cost(
                item.stage, amount.kind, amount.model, amount.embeds, max(units - item.done, 0),
                core and Found(core.seconds * work, core.source),
                gpu and Found(gpu.seconds * work, gpu.source),
                round(item.need.disk_bytes * left),
            )
        )  # fmt: skip
    return Costs(plan, stages, cluster, base.processor)


def sheet(costs: Costs, asked: Machine | None = None) -> str:
    """Return the cost sheet as text: a line for all plates of a stage, with its source."""
    machines = list(dict.fromkeys([*MACHINES, *([asked] if asked else [])]))
    titles = ["core-hours", "GPU-hours", "disk", *map(str, machines)]
    table = [["what is left of", *titles]]
    sources: list[str] = []
    for (kind, model), several in costs.groups.items():
        table.append([f"{kind}/{model}" if model else kind, *_cells([several], machines, costs)])
        sources.append(_source(several[0]))
    whole = list(costs.groups.values())
    table.append(["in all", *_cells(whole, machines, costs, whole=False)])
    sources.append("")
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    head, *rows = ("  ".join(
        [row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]
    ) for row in table)  # fmt: skip
    lines = [f"{head}  measured in"]
    lines += [f"{row}  {source}".rstrip() for row, source in zip(rows, sources, strict=True)]
    return "\n".join([*lines, "", *_notes(costs, machines)])


def _cells(
    groups: Sequence[Sequence[Cost]],
    machines: Sequence[Machine],
    costs: Costs,
    *,
    whole: bool = True,
) -> list[str]:
    """Return hours and bytes of some groups; `whole`: one that is not known hides the others."""
    several = [cost for group in groups for cost in group]
    core = [cost.core and cost.core.seconds for cost in several if cost.units]
    gpu = [cost.gpu and cost.gpu.seconds for cost in several if cost.units and cost.embeds]
    columns = [core, gpu]
    columns += [[seconds_on(m, group, costs.cluster) for group in groups] for m in machines]
    disk = human(sum(cost.disk_bytes for cost in several))
    texts = [_sum(column, whole=whole) for column in columns]
    if not any(cost.embeds for cost in several):
        texts[1] = "-"
    return [*texts[:2], disk, *texts[2:]]


def _sum(seconds: Sequence[float | None], *, whole: bool) -> str:
    known = [value for value in seconds if value is not None]
    if len(known) < len(seconds) and (whole or not known):
        return NOT_KNOWN
    return hours(sum(known)) + (f" + {NOT_KNOWN}" if len(known) < len(seconds) else "")


def hours(seconds: float | None) -> str:
    """Return seconds as hours, for people.

    Examples
    --------
    >>> hours(36), hours(5400), hours(3_600_000), hours(1), hours(0), hours(None)
    ('0.01', '1.5', '1,000', '<0.01', '0', '?')
    """
    if seconds is None:
        return NOT_KNOWN
    value = seconds / HOUR
    if 0 < value < 0.01:
        return "<0.01"
    return f"{value:,.0f}" if value >= 100 else f"{value:.2g}" if value < 10 else f"{value:.1f}"


def _source(cost: Cost) -> str:
    said = cost.core.source if cost.core else "not measured"
    if cost.embeds:
        said += f"; GPU: {cost.gpu.source if cost.gpu else 'not measured'}"
    return said


def _notes(costs: Costs, machines: Sequence[Machine]) -> list[str]:
    """Return what is assumed, and what is not known."""
    lines = [
        "Hours are of what is left. Units of a stage are independent and taken to be equally long,",
        "those of all plates go together, and a stage begins when the one before is complete; with",
        "GPUs these alone embed.",
    ]
    if costs.cluster:
        rate = costs.cluster
        lines += [
            f"Cores are taken to work side by side without loss: {rate.processes} workers of a "
            f"cluster took {rate.ratio:.2f} of the time",
            f"of {rate.processes} lone processes, and a unit costs the scheduler "
            f"{1000 * rate.unit_seconds:.1f} ms ({rate.source}); more workers that share",
            "a disk or a memory bus were not measured.",
        ]
    lines.append(f"Rates of the package are of one core of {costs.processor}; of your own machine:")
    lines.append("`bgscale rates STORE -o rates.json`, then --rates rates.json.")
    unknown = [c for c in costs.stages if c.units and c.core is None]
    cards = [c for c in costs.stages if c.units and c.embeds and c.gpu is None]
    if unknown:
        lines.append(f"{NOT_KNOWN}: nothing like {_listed(unknown)} was measured.")
    if cards and any(machine.gpus for machine in machines):
        lines.append(f"{NOT_KNOWN} with GPUs: not measured on any: {_listed(cards)}.")
    return lines


def _listed(several: Sequence[Cost]) -> str:
    names = dict.fromkeys(f"{c.kind}/{c.model}" if c.model else c.kind for c in several)
    return ", ".join(names)
