"""The stages of one model: its features, and both experiments on them."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from bgscale.pipeline.order import Growth, Order, cell_count, shard_size
from bgscale.stages import (
    classification,
    classifiers,
    embedding,
    pooling,
    predictions,
    proportions,
    reliability,
    shifts,
)
from bgscale.stages import grid as grids
from bgscale.stages.job import Job


def add_model(
    job: Job, name: str, ranges: Mapping[str, str], bank: str, growth: Growth, order: Order
) -> None:
    """Add the stages of a model.

    Parameters
    ----------
    job : Job
    name : str
        Of the model.
    ranges : mapping of str to str
        By plate, the stage that its cells are ready after.
    bank : str
        The stage that fills the donor bank.
    growth : Growth
    order : Order
        Gets the stages.
    """
    model = embedding.model_of(job.text, name)
    job.role_indices(model.spec.channels, who=f"model {name!r}")
    classification.check_groups(job)
    how: dict[str, Any] = {
        "follows": [setting.to_config() for setting in job.settings],
        "spec": model.spec.to_config(),
        "pixel_size_um": job.pixel_size_um,
        "candidates": job.config.donors.candidates,
        "engine": model.engine.to_config(),
    }
    if job.config.models[name].backgrounds:
        # no key where none is asked for: stores made before this option stay as they are
        how["backgrounds"] = job.config.models[name].backgrounds
    plates = list(ranges)
    embed = [order.named("embed", f"{name}/{p}", [bank, ranges[p]], **how) for p in plates]
    for stage, plate in zip(embed, plates, strict=True):
        order.add(
            stage,
            (f"plates/{plate}/embeddings/{name}",),
            f"{name}: embed cells under all settings{_each(how)}",
            partial(embedding.create_embeddings, name=name, plate=plate),
            partial(cell_count, plate=plate),
            partial(embedding.cells_a_unit, name=name, plate=plate),
        )
    _add_accuracies(job, name, bank, how, order)
    _add_proportions(job, name, dict(zip(plates, embed, strict=True)), growth, order)


def _each(how: Mapping[str, Any]) -> str:
    """Return what a plan says of the cost of averaging."""
    return f", each on {how['backgrounds']} backgrounds" if "backgrounds" in how else ""


def _add_accuracies(job: Job, name: str, bank: str, how: Mapping[str, Any], order: Order) -> None:
    """Add experiment 1: its crops, the classifiers of pairs, and their controls."""
    section = job.config.classification
    grid = order.named("grid", name, [bank], folds=section.folds, **how)
    order.add(
        grid,
        (f"grid/{name}",),
        f"{name}: embed crops of experiment 1{_each(how)}",
        lambda j: grids.create_grid(j, name),
        lambda j: len(grids.grid_problems(j)),
    )
    evaluate = order.named(
        "evaluate",
        name,
        [grid],
        folds=section.folds,
        penalty=section.penalty,
        max_iterations=section.max_iterations,
        solver=section.solver,
        groups=section.groups,
    )
    order.add(
        evaluate,
        (f"evaluation/{name}",),
        f"{name}: classify pairs of classes",
        lambda j: classification.create_evaluation(j, name),
        lambda j: len(grids.grid_problems(j)),
    )
    order.add(
        order.named("controls", name, [evaluate]),
        (f"controls/{name}",),
        f"{name}: test classifiers on other backgrounds",
        lambda j: classification.create_controls(j, name),
        lambda j: len(j.settings),
    )


def _add_proportions(
    job: Job, name: str, embed: Mapping[str, str], growth: Growth, order: Order
) -> None:
    """Add experiment 2: from classifiers of localization to shifts that are discoveries."""
    config = job.config
    fitted = order.named(
        "classifiers",
        name,
        list(embed.values()),
        follows=[growth.attempts.get(stage, 0) for stage in embed.values()],
        seed=config.seed,
        fields=config.evaluation.fields,
        proportions=config.proportions.model_dump(),
    )
    order.add(
        fitted,
        (f"classifiers/{name}",),
        f"{name}: fit classifiers of localization",
        lambda j: classifiers.create_classifiers(j, name),
        lambda j: len(j.settings),
    )
    told = {p: order.named("predict", f"{name}/{p}", [fitted, s]) for p, s in embed.items()}
    for plate, stage in told.items():
        order.add(
            stage,
            (predictions.node_of(plate, name),),
            f"{name}: score cells out of fold",
            partial(predictions.create_predictions, name=name, plate=plate),
            partial(cell_count, plate=plate),
            partial(shard_size, plate=plate),
        )
    made = _of_proteins(name, list(told.values()), order)
    pooled = order.named("pooled", name, [made], min_cells=config.shifts.min_cells)
    order.add(
        pooled,
        (f"pooled/{name}",),
        f"{name}: what proteins say of chance",
        lambda j: pooling.create_pooled(j, name),
    )
    tested = order.named(
        "shifts", name, [pooled], seed=config.seed, shifts=config.shifts.model_dump()
    )
    order.add(
        tested,
        (f"shifts/{name}",),
        f"{name}: shifts against original, tested",
        lambda j: shifts.create_shifts(j, name),
        lambda j: len(j.proteins),
        lambda _: pooling.PROTEINS_A_UNIT,
    )
    # into the shifts' node: a rate of discoveries needs the p of all units
    found = order.named("discoveries", name, [tested])
    order.add(found, (), f"{name}: shifts that are discoveries")


def _of_proteins(name: str, told: Sequence[str], order: Order) -> str:
    """Add what is summed over cells; return the stage of the proportions."""
    made = order.named("proportions", name, told)
    order.add(
        made,
        (f"proportions/{name}",),
        f"{name}: proportions of each protein",
        lambda j: proportions.create_proportions(j, name),
        lambda j: len(j.proteins),
        lambda j: proportions.proteins_a_unit(len(j.proteins)),
    )
    order.add(
        order.named("reliability", name, told),
        (f"reliability/{name}",),
        f"{name}: whether the softmax can be believed",
        lambda j: reliability.create_reliability(j, name),
    )
    return made
