"""The stages of a run, their order, and what each result depends on.

A stage is complete when all its units are; the next one starts then. Its *token* is a hash of
everything upstream that can change what it writes: a changed classifier redoes the classifiers and
what follows, not the embeddings.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from bgscale.distribute.units import Unit, plan_units
from bgscale.screen import PlateScreen, Screen
from bgscale.stages import banks, cells, embedding, experiments, fields
from bgscale.stages.job import Job, open_job

VERSIONS = {
    "proteins": 1,
    "segment": 1,
    "gather": 1,
    "labels": 1,
    "cut": 1,
    "ranges": 1,
    "donors": 1,
    "bank": 1,
    "sample": 2,
    "embed": 2,
    "grid": 2,
    "evaluate": 1,
    "classifiers": 1,
    "proportions": 1,
    "shifts": 1,
}
"""Raised when the code of a stage starts to give other values."""


def _cut(job: Job, unit: Unit) -> cells.Done:
    return cells.cut(job, unit) if job.screen.kind == "crops" else fields.cut(job, unit)


_WORK: dict[str, Callable[[Job, Unit], cells.Done]] = {
    "proteins": cells.proteins,
    "segment": fields.segment,
    "gather": fields.gather,
    "labels": fields.write_labels,
    "cut": _cut,
    "ranges": cells.ranges,
    "donors": banks.donors,
    "bank": banks.bank,
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
    screen, opened = config.screen, job.screen
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

    plate_map = opened.plate_map
    proteins = named("proteins", "", [], map=plate_map.identity())
    add(proteins, ("proteins",), "classes of each protein")
    if opened.kind == "plates":
        cut = _add_plates(job, opened, named, add)
    else:
        cut = _add_crops(job, opened, named, add)
    ranges = []
    for plate in opened.plates:
        name = named("ranges", plate, cut, scaling=screen.intensity_scaling, seed=config.seed)
        ranges.append(name)
        add(
            name,
            (f"plates/{plate}/ranges",),
            "intensity range of each protein",
            partial(cells.create_ranges, plate=plate),
            partial(_range_groups, plate=plate),
            lambda _: cells.RANGE_GROUPS,
        )
    donors = named(
        "donors",
        "",
        ranges,
        classes=plate_map.class_identity(),
        seed=config.seed,
        donors=config.donors.model_dump(exclude={"candidates"}),
        fields=config.evaluation.fields,
        crops_per_class=config.classification.crops_per_class,
        folds=config.classification.folds,
    )
    add(donors, banks.BANKS, "who lends a background")
    bank = named("bank", "", [donors])
    add(bank, (), "donor bank", length=lambda j: len(banks.BANKS) * len(j.classes))
    sample = named(
        "sample",
        "",
        [bank],
        settings=[s.to_config() for s in job.settings],
        candidates=config.donors.candidates,
    )
    add(sample, ("sample",), "a sample for the eye", embedding.create_sample)
    for name in config.models:
        _add_model(job, name, opened.plates, bank, named, add)
    return found


def _add_model(
    job: Job,
    name: str,
    plates: Sequence[str],
    bank: str,
    named: "Named",
    add: "Add",
) -> None:
    config = job.config
    model = embedding.model_of(job.text, name)
    job.role_indices(model.spec.channels, who=f"model {name!r}")
    payload = {
        "spec": model.spec.to_config(),
        "settings": [setting.to_config() for setting in job.settings],
        "pixel_size_um": job.pixel_size_um,
        "candidates": config.donors.candidates,
        "processor": embedding.processor(),
    }
    embed = [named("embed", f"{name}/{plate}", [bank], **payload) for plate in plates]
    for stage, plate in zip(embed, plates, strict=True):
        add(
            stage,
            (f"plates/{plate}/embeddings/{name}",),
            f"{name}: embed cells under all settings",
            partial(embedding.create_embeddings, name=name, plate=plate),
            partial(_cells, plate=plate),
            partial(_shard, plate=plate),
        )
    grid = named("grid", name, [bank], folds=config.classification.folds, **payload)
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
        embed,
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


Named = Callable[..., str]
Add = Callable[..., None]


def _add_crops(job: Job, screen: Screen, named: Named, add: Add) -> list[str]:
    """Add the stage that reads crops; return what later ones depend on."""
    config, (plate,) = job.config, screen.plates
    cut = named(
        "cut",
        plate,
        [],
        screen=screen.identity(),
        channels=[getattr(config.screen, role) for role in job.channels],
        mask=config.screen.mask,
        shard_cells=config.shard_cells,
    )
    add(
        cut,
        (f"plates/{plate}/cells", f"plates/{plate}/crops"),
        "cells: read, find, cut",
        cells.create_cells,
        partial(_cells, plate=plate),
        partial(_shard, plate=plate),
    )
    return [cut]


def _add_plates(job: Job, screen: PlateScreen, named: Named, add: Add) -> list[str]:
    """Add the stages that find and cut cells in fields; return what later ones depend on."""
    config, node = job.config, "plates/{}/{}"
    section = config.cells
    segment, gather, cut = [], [], []
    for plate in screen.plates:
        fields.check_plan(job, plate)
        how: dict[str, Any] = {"labels": section.labels}
        if not section.labels:
            how = {"segmenter": section.segmenter, **fields.segmenter_of(job).to_config()}
        segment.append(
            named(
                "segment",
                plate,
                [],
                screen=screen.identity(plate),
                seed=config.seed,
                crop=[section.crop_size_px, section.border_px],
                windows=[section.windows_per_field, section.margin_px],
                **how,
            )
        )
        add(
            segment[-1],
            tuple(node.format(plate, name) for name in ("fields", "found", "labels", "windows")),
            "fields: find cells",
            partial(fields.create_fields, plate=plate),
            partial(_fields, plate=plate),
            partial(fields.field_step, plate=plate),
        )
        if section.write_labels:
            labels = named("labels", plate, [segment[-1]])
            add(
                labels, (), "label images as OME-Zarr",
                partial(fields.create_labels, plate=plate),
                partial(_fields, plate=plate),
                partial(fields.field_step, plate=plate),
            )  # fmt: skip
    for plate, stage in zip(screen.plates, segment, strict=True):
        gather.append(
            named(
                "gather",
                plate,
                [stage],
                shard_cells=config.shard_cells,
                names=screen.proteins,
                proteins=screen.field_proteins(plate).tolist(),
            )
        )
        owned = tuple(node.format(plate, name) for name in ("cells", "crops"))
        add(gather[-1], owned, "one table of a plate's cells")
    for plate, stage in zip(screen.plates, gather, strict=True):
        cut.append(named("cut", plate, [stage]))
        add(
            cut[-1], (), "cells: cut",
            length=partial(_cells, plate=plate),
            write_size=partial(_shard, plate=plate),
        )  # fmt: skip
    return cut


def _fields(job: Job, plate: str) -> int:
    return len(fields.plate_screen(job).fields[plate])


def _cells(job: Job, plate: str) -> int:
    """Return how many cells a plate has; of a screen of plates once it is segmented."""
    if job.screen.kind == "crops":
        return len(job.screen.items)
    return int(job.store.array(f"plates/{plate}/cells/id").shape[0])


def _shard(job: Job, plate: str) -> int:
    return cells.shard_cells(job, _cells(job, plate))


def _range_groups(job: Job, plate: str) -> int:
    return int(job.store.array(f"plates/{plate}/ranges/protein").shape[0])


def _nothing(job: Job) -> None:
    """Prepare nothing: the stage's unit creates what it writes."""


def _one(job: Job) -> int:
    return 1
