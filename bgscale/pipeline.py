"""The stages of a run, their order, and what each result depends on.

A stage is complete when all its units are; the next one starts then. Its *token* is a hash of
everything upstream that can change what it writes: a changed classifier redoes the classifiers and
what follows, not the embeddings.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from bgscale.distribute.units import Unit, plan_units
from bgscale.stages import cells, embedding, experiments
from bgscale.stages.job import Job, open_job

VERSIONS = {
    "proteins": 1,
    "cut": 1,
    "ranges": 1,
    "donors": 1,
    "bank": 1,
    "sample": 1,
    "embed": 1,
    "grid": 2,
    "evaluate": 1,
    "classifiers": 1,
    "proportions": 1,
    "shifts": 1,
}
"""Raised when the code of a stage starts to give other values."""

_WORK: dict[str, Callable[[Job, Unit], cells.Done]] = {
    "proteins": cells.proteins,
    "cut": cells.cut,
    "ranges": cells.ranges,
    "donors": cells.donors,
    "bank": cells.bank,
    "sample": embedding.sample,
    "embed": embedding.embed,
    "grid": embedding.grid,
    "evaluate": experiments.evaluate,
    "classifiers": experiments.classifiers,
    "proportions": experiments.proportions,
    "shifts": experiments.shifts,
}


@dataclass(frozen=True)
class Stage:
    """One stage of a run.

    Parameters
    ----------
    name : str
        "embed/tiny/crops": kind, model, plate, as far as they apply.
    token : str
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
    nodes: tuple[str, ...]
    length: Callable[[Job], int]
    write_size: Callable[[Job], int]
    prepare: Callable[[Job], None]
    purpose: str

    def units(self, job: Job) -> list[Unit]:
        """Return the write units."""
        return plan_units(self.name, self.length(job), self.write_size(job), self.token)


def work(unit: Unit, text: str) -> cells.Done:
    """Do a unit of the job; the one function that workers run."""
    return _WORK[unit.stage.partition("/")[0]](open_job(text), unit)


def stages(job: Job) -> list[Stage]:
    """Return the stages of a run in their order.

    Needs the screen, not the store. Unknown settings, models and weights that do not fit raise
    here, before anything is computed.
    """
    config = job.config
    screen = config.screen
    plate = job.screen.name
    token: dict[str, str] = {}

    def named(kind: str, suffix: str, depends: list[str], **payload: Any) -> str:
        name = f"{kind}/{suffix}" if suffix else kind
        text = json.dumps(
            [kind, VERSIONS[kind], payload, [token[d] for d in depends]], sort_keys=True
        )
        token[name] = hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
        return name

    found: list[Stage] = []

    def add(
        name: str,
        nodes: tuple[str, ...],
        purpose: str,
        prepare: Callable[[Job], None] = _nothing,
        length: Callable[[Job], int] = _one,
        write_size: Callable[[Job], int] = _one,
    ) -> None:
        found.append(Stage(name, token[name], nodes, length, write_size, prepare, purpose))

    plate_map = job.screen.plate_map
    proteins = named("proteins", "", [], map=plate_map.identity())
    add(proteins, ("proteins",), "classes of each protein")
    cut = named(
        "cut",
        plate,
        [],
        screen=job.screen.identity(),
        channels=[getattr(screen, role) for role in job.channels],
        mask=screen.mask,
        shard_cells=config.shard_cells,
    )
    add(
        cut,
        (f"plates/{plate}/cells", f"plates/{plate}/crops"),
        "cells: read, find, cut",
        cells.create_cells,
        lambda j: len(j.screen.items),
        lambda j: cells.shard_cells(j, len(j.screen.items)),
    )
    ranges = named("ranges", plate, [cut], scaling=screen.intensity_scaling, seed=config.seed)
    add(
        ranges,
        (f"plates/{plate}/ranges",),
        "intensity range of each protein",
        cells.create_ranges,
        lambda j: j.store.array(f"plates/{plate}/ranges/protein").shape[0],
        lambda _: cells.RANGE_GROUPS,
    )
    donors = named(
        "donors",
        "",
        [ranges],
        classes=plate_map.class_identity(),
        seed=config.seed,
        donors=config.donors.model_dump(exclude={"candidates"}),
        fields=config.evaluation.fields,
        crops_per_class=config.classification.crops_per_class,
        folds=config.classification.folds,
    )
    add(donors, cells.BANKS, "who lends a background")
    bank = named("bank", "", [donors])
    add(bank, (), "donor bank", length=lambda j: len(cells.BANKS) * len(j.classes))
    sample = named(
        "sample",
        "",
        [bank],
        settings=[s.to_config() for s in job.settings],
        candidates=config.donors.candidates,
    )
    add(sample, ("sample",), "a sample for the eye", embedding.create_sample)
    for name in config.models:
        _add_model(job, name, plate, bank, named, add)
    return found


def _add_model(
    job: Job,
    name: str,
    plate: str,
    bank: str,
    named: Callable[..., str],
    add: Callable[..., None],
) -> None:
    config = job.config
    model = embedding.model_of(job.text, name)
    job.role_indices(model.spec.channels, who=f"model {name!r}")
    payload = {
        "spec": model.spec.to_config(),
        "settings": [setting.to_config() for setting in job.settings],
        "pixel_size_um": config.screen.pixel_size_um,
        "candidates": config.donors.candidates,
        "processor": embedding.processor(),
    }
    embed = named("embed", f"{name}/{plate}", [bank], **payload)
    add(
        embed,
        (f"plates/{plate}/embeddings/{name}",),
        f"{name}: embed cells under all settings",
        lambda j: embedding.create_embeddings(j, name, plate),
        lambda j: len(j.screen.items),
        lambda j: cells.shard_cells(j, len(j.screen.items)),
    )
    grid = named("grid", name, [bank], **payload)
    add(
        grid,
        (f"grid/{name}",),
        f"{name}: embed crops of experiment 1",
        lambda j: embedding.create_grid(j, name),
        lambda j: len(embedding.grid_problems(j)),
    )
    section = config.classification
    evaluate = named(
        "evaluate",
        name,
        [grid],
        folds=section.folds,
        penalty=section.penalty,
        max_iterations=section.max_iterations,
    )
    add(
        evaluate,
        (f"evaluation/{name}",),
        f"{name}: classify pairs of classes",
        lambda j: experiments.create_evaluation(j, name),
        lambda j: len(j.classes),
    )
    classifiers = named(
        "classifiers",
        name,
        [embed],
        seed=config.seed,
        fields=config.evaluation.fields,
        proportions=config.proportions.model_dump(),
    )
    add(
        classifiers,
        (f"classifiers/{name}",),
        f"{name}: fit classifiers of localization",
        lambda j: experiments.create_classifiers(j, name),
        lambda j: len(j.settings),
    )
    proportions = named("proportions", name, [classifiers])
    add(
        proportions,
        (f"proportions/{name}",),
        f"{name}: proportions of each protein",
        lambda j: experiments.create_proportions(j, name),
        lambda j: len(j.proteins),
        lambda _: experiments.PROTEINS_A_UNIT,
    )
    shifts = named("shifts", name, [proportions])
    add(shifts, (f"shifts/{name}",), f"{name}: shifts against original",
        lambda j: experiments.create_shifts(j, name))  # fmt: skip


def _nothing(job: Job) -> None:
    """Prepare nothing: the stage's unit creates what it writes."""


def _one(job: Job) -> int:
    return 1
