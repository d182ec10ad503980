"""What a stage of a run is, and the function that does one of its units.

Owns `Stage`, and which function of `bgscale.stages` each kind of stage calls.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby

from bgscale.distribute.units import Unit, plan_units
from bgscale.stages import (
    banks,
    cells,
    classification,
    classifiers,
    embedding,
    fields,
    gathering,
    grid,
    pooling,
    predictions,
    proportions,
    reliability,
    shifts,
)
from bgscale.stages.job import Job, open_job

VERSIONS = {
    "proteins": 1,
    "segment": 1,
    "measure": 1,
    "gather": 1,
    "labels": 1,
    "cut": 1,
    "ranges": 1,
    "donors": 2,
    "bank": 1,
    "sample": 2,
    "embed": 3,
    "grid": 2,
    "evaluate": 4,
    "controls": 2,
    "classifiers": 2,
    "predict": 2,
    "proportions": 4,
    "reliability": 1,
    "pooled": 3,
    "shifts": 3,
    "discoveries": 1,
}
"""Raised when the code of a stage starts to give other values."""


def _cut(job: Job, unit: Unit) -> cells.Done:
    return cells.cut(job, unit) if job.screen.kind == "crops" else gathering.cut(job, unit)


_WORK: dict[str, Callable[[Job, Unit], cells.Done]] = {
    "proteins": cells.proteins,
    "segment": fields.segment,
    "measure": gathering.measure,
    "gather": gathering.gather,
    "labels": fields.write_labels,
    "cut": _cut,
    "ranges": cells.ranges,
    "donors": banks.donors,
    "bank": banks.bank,
    "sample": grid.sample,
    "embed": embedding.embed,
    "grid": grid.grid,
    "evaluate": classification.evaluate,
    "controls": classification.controls,
    "classifiers": classifiers.classifiers,
    "predict": predictions.predict,
    "proportions": proportions.proportions,
    "reliability": reliability.reliability,
    "pooled": pooling.pooled,
    "shifts": shifts.shifts,
    "discoveries": shifts.discoveries,
}


_LOSE: dict[str, Callable[[Job, Unit], cells.Done]] = {
    "segment": fields.lose_fields,
    "measure": gathering.lose_measures,
    "cut": lambda job, unit: (cells if job.screen.kind == "crops" else gathering).lose_cells(
        job, unit
    ),
    "embed": embedding.lose_features,
}
"""Stages that can mark what a unit would have made as lost, and go on without it."""


@dataclass(frozen=True)
class Stage:
    """One stage of a run.

    Parameters
    ----------
    name : str
        "embed/tiny/crops": kind, model, plate, as far as they apply.
    token, recipe, inputs, core : str
        Hashes: of all that can change what it writes; of the config's part of that; of what it
        takes from outside the run; of all but what merely adds to it, such as further settings.
    nodes : tuple of str
        What the stage owns in the store; removed when it is redone.
    length, write_size : callable
        Units are cut from ``[0, length)``; asked when the stage before is complete.
    prepare : callable
        Creates the stage's arrays; runs once, in the driver.
    purpose : str
        What a person reads beside the progress bar.
    """

    name: str
    token: str
    recipe: str
    inputs: str
    core: str
    nodes: tuple[str, ...]
    length: Callable[[Job], int]
    write_size: Callable[[Job], int]
    prepare: Callable[[Job], None]
    purpose: str

    @property
    def group(self) -> str:
        """Its name without its plate: stages of a group are the same of each plate.

        None of them depends on another.
        """
        plate = plate_of(self.name)
        return self.name.removesuffix(f"/{plate}") if plate else self.name

    @property
    def can_lose(self) -> bool:
        """Whether the run can go on without a unit."""
        return self.name.partition("/")[0] in _LOSE

    @property
    def embeds(self) -> bool:
        """Whether its units run a network, and so belong on a GPU where there is one."""
        return self.name.partition("/")[0] in ("embed", "grid")

    @property
    def keeps_settings(self) -> bool:
        """Whether what was made under some settings serves when others are added."""
        return self.embeds

    def units(self, job: Job) -> list[Unit]:
        """Return the write units."""
        return plan_units(self.name, self.length(job), self.write_size(job), self.token)


def plate_of(stage: str) -> str:
    """Return the plate of a stage's name; empty where it has none.

    Examples
    --------
    >>> plate_of("cut/P1"), plate_of("embed/tiny/P1"), plate_of("shifts/tiny")
    ('P1', 'P1', '')
    """
    kind, *rest = stage.split("/")
    if kind in ("embed", "predict"):
        return rest[1]
    return rest[0] if kind in ("segment", "labels", "measure", "gather", "cut", "ranges") else ""


def groups(stages: Sequence[Stage]) -> list[list[Stage]]:
    """Return stages in their order, those together that follow each other and are of one group."""
    return [list(several) for _, several in groupby(stages, key=lambda stage: stage.group)]


def work(unit: Unit, text: str) -> cells.Done:
    """Do a unit of the job; the one function that workers run."""
    started, busy = time.perf_counter(), time.process_time()
    files, summary = _WORK[unit.stage.partition("/")[0]](open_job(text), unit)
    took = {"seconds": time.perf_counter() - started, "cpu_seconds": time.process_time() - busy}
    return files, {**summary, **{clock: round(spent, 4) for clock, spent in took.items()}}


def set_aside(unit: Unit, text: str) -> cells.Done:
    """Mark what a unit would have made as lost; where `Stage.can_lose`."""
    return _LOSE[unit.stage.partition("/")[0]](open_job(text), unit)
