"""The stages of a run, their order, and what each result depends on.

A stage is complete when all its units are; the next one starts then. Its *token* is a hash of
everything upstream that can change what it writes: a changed classifier redoes the classifiers and
what follows, not the embeddings.

Two hashes more say why a token is another one. The *recipe* is the config's part: the parameters of
the stage and of all before it. *Inputs* are what the stage takes from outside the run: pixels, the
plate map. Where both are as before, more or other cells have come from the stages before, and the
stage is made anew without asking.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from bgscale.distribute.units import Unit, plan_units
from bgscale.screen import PlateScreen, Screen
from bgscale.stages import (
    banks,
    cells,
    classification,
    classifiers,
    embedding,
    fields,
    gathering,
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
    "donors": 1,
    "bank": 1,
    "sample": 2,
    "embed": 3,
    "grid": 2,
    "evaluate": 3,
    "controls": 1,
    "classifiers": 1,
    "predict": 1,
    "proportions": 2,
    "reliability": 1,
    "pooled": 1,
    "shifts": 2,
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
    "sample": embedding.sample,
    "embed": embedding.embed,
    "grid": embedding.grid,
    "evaluate": classification.evaluate,
    "controls": classification.controls,
    "classifiers": classifiers.classifiers,
    "predict": predictions.predict,
    "proportions": proportions.proportions,
    "reliability": reliability.reliability,
    "pooled": shifts.pooled,
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


def work(unit: Unit, text: str) -> cells.Done:
    """Do a unit of the job; the one function that workers run."""
    return _WORK[unit.stage.partition("/")[0]](open_job(text), unit)


@dataclass(frozen=True)
class Growth:
    """What earlier runs of a store leave to later ones.

    Parameters
    ----------
    drawn : dict of str to str
        Token of each plate that the donor bank was drawn from; empty: it is drawn from all.
    proteins : int
        How many proteins there were then.
    attempts : dict of str to int
        How often what failed on a plate, or the lost units of a stage, was retried.
    samples : dict of str to dict
        Checksums of some fields of each plate; see `PlateScreen.samples`.
    """

    drawn: Mapping[str, str] = field(default_factory=dict)
    proteins: int = 0
    attempts: Mapping[str, int] = field(default_factory=dict)
    samples: Mapping[str, Mapping[str, int]] = field(default_factory=dict)


def set_aside(unit: Unit, text: str) -> cells.Done:
    """Mark what a unit would have made as lost; where `Stage.can_lose`."""
    return _LOSE[unit.stage.partition("/")[0]](open_job(text), unit)


def stages(job: Job, growth: Growth | None = None) -> list[Stage]:
    """Return the stages of a run in their order.

    Needs the screen, not the store. Unknown settings, models and weights that do not fit raise
    here, before anything is computed.
    """
    growth = growth or Growth()
    config = job.config
    screen, opened = config.screen, job.screen
    hashes: dict[str, tuple[str, str, str, str]] = {}

    def named(
        kind: str,
        suffix: str,
        depends: Sequence[str],
        *,
        inputs: Any = None,
        follows: Any = None,
        bound: bool = True,
        **payload: Any,
    ) -> str:
        """Name a stage.

        Asked about: its config (`payload`) and `inputs`. Not asked about: `follows`, and what the
        stages before it have made, as far as `bound` to it.
        """
        name = f"{kind}/{suffix}" if suffix else kind
        before = [hashes[d] for d in depends]
        recipe = _hash(kind, VERSIONS[kind], payload, sorted({b[1] for b in before}))
        given = _hash(inputs)
        tokens = [b[0] for b in before] if bound else []
        core = _hash(recipe, given, tokens)
        hashes[name] = _hash(core, follows), recipe, given, core
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
        found.append(Stage(name, *hashes[name], nodes, length, write_size, prepare, purpose))

    plate_map = opened.plate_map
    known = growth.proteins or len(opened.proteins)
    classes = plate_map.class_identity(known)
    # of a protein that is known, only its classes bind
    proteins = named("proteins", "", [], inputs=classes, follows=plate_map.identity())
    add(proteins, ("proteins",), "classes of each protein")
    if opened.kind == "plates":
        cut = _add_plates(job, opened, growth, named, add)
    else:
        cut = _add_crops(job, opened, growth, named, add)
    ranges = []
    for plate, stage in zip(opened.plates, cut, strict=True):
        name = named("ranges", plate, [stage], scaling=screen.intensity_scaling, seed=config.seed)
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
        bound=False,
        inputs=classes,
        follows=growth.drawn
        or {p: hashes[r][0] for p, r in zip(opened.plates, ranges, strict=True)},
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
        follows=[s.to_config() for s in job.settings],
        candidates=config.donors.candidates,
    )
    add(sample, ("sample",), "a sample for the eye", embedding.create_sample)
    for name in config.models:
        own = dict(zip(opened.plates, ranges, strict=True))
        _add_model(job, name, own, bank, growth, named, add)
    return found


def _add_model(
    job: Job,
    name: str,
    ranges: Mapping[str, str],
    bank: str,
    growth: Growth,
    named: "Named",
    add: "Add",
) -> None:
    config = job.config
    model = embedding.model_of(job.text, name)
    job.role_indices(model.spec.channels, who=f"model {name!r}")
    classification.check_groups(job)
    settings = [setting.to_config() for setting in job.settings]
    payload = {
        "spec": model.spec.to_config(),
        "pixel_size_um": job.pixel_size_um,
        "candidates": config.donors.candidates,
        "engine": model.engine.to_config(),
    }
    embed = [
        named("embed", f"{name}/{plate}", [bank, own], follows=settings, **payload)
        for plate, own in ranges.items()
    ]
    for stage, plate in zip(embed, ranges, strict=True):
        add(
            stage,
            (f"plates/{plate}/embeddings/{name}",),
            f"{name}: embed cells under all settings",
            partial(embedding.create_embeddings, name=name, plate=plate),
            partial(_cells, plate=plate),
            partial(_shard, plate=plate),
        )
    folds = config.classification.folds
    grid = named("grid", name, [bank], follows=settings, folds=folds, **payload)
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
        solver=section.solver,
        groups=section.groups,
    )
    add(
        evaluate,
        (f"evaluation/{name}",),
        f"{name}: classify pairs of classes",
        lambda j: classification.create_evaluation(j, name),
        lambda j: len(embedding.grid_problems(j)),
    )
    controls = named("controls", name, [evaluate])
    add(
        controls,
        (f"controls/{name}",),
        f"{name}: test classifiers on other backgrounds",
        lambda j: classification.create_controls(j, name),
        lambda j: len(j.settings),
    )
    fitted = named(
        "classifiers",
        name,
        embed,
        follows=[growth.attempts.get(stage, 0) for stage in embed],
        seed=config.seed,
        fields=config.evaluation.fields,
        proportions=config.proportions.model_dump(),
    )
    add(fitted, (f"classifiers/{name}",), f"{name}: fit classifiers of localization",
        lambda j: classifiers.create_classifiers(j, name),
        lambda j: len(j.settings))  # fmt: skip
    told = [
        named("predict", f"{name}/{plate}", [fitted, features])
        for plate, features in zip(ranges, embed, strict=True)
    ]
    for stage, plate in zip(told, ranges, strict=True):
        add(
            stage,
            (predictions.node_of(plate, name),),
            f"{name}: score cells out of fold",
            partial(predictions.create_predictions, name=name, plate=plate),
            partial(_cells, plate=plate),
            partial(_shard, plate=plate),
        )
    made = named("proportions", name, told)
    add(made, (f"proportions/{name}",), f"{name}: proportions of each protein",
        lambda j: proportions.create_proportions(j, name),
        lambda j: len(j.proteins), lambda _: proportions.PROTEINS_A_UNIT)  # fmt: skip
    trusted = named("reliability", name, told)
    add(trusted, (f"reliability/{name}",), f"{name}: whether the softmax can be believed",
        lambda j: reliability.create_reliability(j, name))  # fmt: skip
    spread = named("pooled", name, [made], min_cells=config.shifts.min_cells)
    add(spread, (f"pooled/{name}",), f"{name}: what proteins say of chance",
        lambda j: shifts.create_pooled(j, name))  # fmt: skip
    moved = named("shifts", name, [spread], seed=config.seed, shifts=config.shifts.model_dump())
    add(moved, (f"shifts/{name}",), f"{name}: shifts against original, tested",
        lambda j: shifts.create_shifts(j, name),
        lambda j: len(j.proteins), lambda _: shifts.PROTEINS_A_UNIT)  # fmt: skip
    # into the shifts' node: a rate of discoveries needs the p of all units
    add(named("discoveries", name, [moved]), (), f"{name}: shifts that are discoveries")


Named = Callable[..., str]
Add = Callable[..., None]


def _add_crops(job: Job, screen: Screen, growth: Growth, named: Named, add: Add) -> list[str]:
    """Add the stage that reads crops; return what later ones depend on."""
    config, (plate,) = job.config, screen.plates
    cut = named(
        "cut",
        plate,
        [],
        inputs=screen.identity(),
        follows=growth.attempts.get(plate, 0),
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


def _add_plates(job: Job, screen: PlateScreen, growth: Growth, named: Named, add: Add) -> list[str]:
    """Add the stages that find and cut cells in fields; return what later ones depend on."""
    config, node = job.config, "plates/{}/{}"
    section = config.cells
    segment, measure, gather, cut = [], [], [], []
    for plate in screen.plates:
        fields.check_plan(job, plate)
        how: dict[str, Any] = {"labels": section.labels}
        if not section.labels:
            how = {"segmenter": section.segmenter, **fields.segmenter_of(job).to_config()}
        inputs = screen.identity(plate, growth.samples.get(plate))
        segment.append(named("segment", plate, [], inputs=inputs, **how))
        by_field = partial(_fields, plate=plate), partial(fields.field_step, plate=plate)
        prepare = partial(fields.create_labels, plate=plate)
        own = (node.format(plate, "labels"),)
        add(segment[-1], own, "fields: find cells", prepare, *by_field)
        if section.write_labels:
            labels = named("labels", plate, [segment[-1]])
            prepare = partial(fields.create_label_plate, plate=plate)
            add(labels, (), "label images as OME-Zarr", prepare, *by_field)
    for plate, stage in zip(screen.plates, segment, strict=True):
        measure.append(
            named(
                "measure",
                plate,
                [stage],
                follows=growth.attempts.get(plate, 0),
                seed=config.seed,
                crop=[section.crop_size_px, section.border_px],
                windows=[section.windows_per_field, section.margin_px],
            )
        )
        owned = tuple(node.format(plate, name) for name in ("fields", "found", "windows"))
        prepare = partial(gathering.create_measures, plate=plate)
        by_field = partial(_fields, plate=plate), partial(fields.field_step, plate=plate)
        add(measure[-1], owned, "fields: measure cells", prepare, *by_field)
    for plate, stage in zip(screen.plates, measure, strict=True):
        gather.append(
            named(
                "gather",
                plate,
                [stage],
                inputs=[_names(screen, plate), screen.field_proteins(plate).tolist()],
                shard_cells=config.shard_cells,
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


def _names(screen: PlateScreen, plate: str) -> dict[int, str]:
    """Return code and name of the proteins of a plate."""
    return {int(c): screen.proteins[c] for c in np.unique(screen.field_proteins(plate)) if c >= 0}


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


def _hash(*values: Any) -> str:
    text = json.dumps(values, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _nothing(job: Job) -> None:
    """Prepare nothing: the stage's unit creates what it writes."""


def _one(job: Job) -> int:
    return 1
