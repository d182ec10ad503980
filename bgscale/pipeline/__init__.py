"""The stages of a run, their order, and what each result depends on.

A stage is complete when all its units are. The same of all plates go together, as none of them
depends on another; the next ones start when all are complete. How a stage knows whether it
has to be redone: `bgscale.pipeline.order`.
"""

from functools import partial

from bgscale.pipeline.found import add_crops, add_plates
from bgscale.pipeline.models import add_model
from bgscale.pipeline.order import Growth, Order
from bgscale.pipeline.stage import VERSIONS, Stage, groups, plate_of, set_aside, work
from bgscale.stages import banks, cells, grid
from bgscale.stages.job import Job

__all__ = ["VERSIONS", "Growth", "Stage", "groups", "plate_of", "set_aside", "stages", "work"]


def stages(job: Job, growth: Growth | None = None) -> list[Stage]:
    """Return the stages of a run in their order.

    Needs the screen, not the store. Unknown settings, models and weights that do not fit raise
    here, before anything is computed.
    """
    growth = growth or Growth()
    config = job.config
    screen, opened = config.screen, job.screen
    order = Order()
    plate_map = opened.plate_map
    known = growth.proteins or len(opened.proteins)
    classes = plate_map.class_identity(known)
    # of a protein that is known, only its classes bind
    proteins = order.named("proteins", "", [], inputs=classes, follows=plate_map.identity())
    order.add(proteins, ("proteins",), "classes of each protein")
    if opened.kind == "plates":
        cut = add_plates(job, opened, growth, order)
    else:
        cut = add_crops(job, opened, growth, order)
    ranges = []
    for plate, stage in zip(opened.plates, cut, strict=True):
        name = order.named(
            "ranges", plate, [stage], scaling=screen.intensity_scaling, seed=config.seed
        )
        ranges.append(name)
        order.add(
            name,
            (f"plates/{plate}/ranges",),
            "intensity range of each protein",
            partial(cells.create_ranges, plate=plate),
            partial(_range_groups, plate=plate),
            lambda _: cells.RANGE_GROUPS,
        )
    donors = order.named(
        "donors",
        "",
        ranges,
        bound=False,
        inputs=classes,
        follows=growth.drawn
        or {p: order.token(r) for p, r in zip(opened.plates, ranges, strict=True)},
        seed=config.seed,
        donors=config.donors.model_dump(exclude={"candidates"}),
        fields=config.evaluation.fields,
        crops_per_class=config.classification.crops_per_class,
        folds=config.classification.folds,
    )
    order.add(donors, banks.BANKS, "who lends a background")
    bank = order.named("bank", "", [donors])
    order.add(bank, (), "donor bank", length=lambda j: len(banks.BANKS) * len(j.classes))
    sample = order.named(
        "sample",
        "",
        [bank],
        follows=[s.to_config() for s in job.settings],
        candidates=config.donors.candidates,
    )
    order.add(sample, ("sample",), "a sample for the eye", grid.create_sample)
    for name in config.models:
        own = dict(zip(opened.plates, ranges, strict=True))
        add_model(job, name, own, bank, growth, order)
    return order.stages


def _range_groups(job: Job, plate: str) -> int:
    return int(job.store.array(f"plates/{plate}/ranges/protein").shape[0])
