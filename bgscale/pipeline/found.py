"""The stages that find and cut cells, in fields of plates or in crops."""

from functools import partial
from typing import Any

import numpy as np

from bgscale.pipeline.order import Growth, Order, cell_count, shard_size
from bgscale.screen import PlateScreen, Screen
from bgscale.stages import cells, fields, gathering
from bgscale.stages.job import Job


def add_crops(job: Job, screen: Screen, growth: Growth, order: Order) -> list[str]:
    """Add the stage that reads crops; return what later ones depend on."""
    config, (plate,) = job.config, screen.plates
    cut = order.named(
        "cut",
        plate,
        [],
        inputs=screen.identity(),
        follows=growth.attempts.get(plate, 0),
        channels=[getattr(config.screen, role) for role in job.channels],
        mask=config.screen.mask,
        shard_cells=config.shard_cells,
    )
    order.add(
        cut,
        (f"plates/{plate}/cells", f"plates/{plate}/crops"),
        "cells: read, find, cut",
        cells.create_cells,
        partial(cell_count, plate=plate),
        partial(shard_size, plate=plate),
    )
    return [cut]


def add_plates(job: Job, screen: PlateScreen, growth: Growth, order: Order) -> list[str]:
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
        segment.append(order.named("segment", plate, [], inputs=inputs, **how))
        by_field = partial(_fields, plate=plate), partial(fields.field_step, plate=plate)
        prepare = partial(fields.create_labels, plate=plate)
        own = (node.format(plate, "labels"),)
        order.add(segment[-1], own, "fields: find cells", prepare, *by_field)
    if section.write_labels:
        for plate, stage in zip(screen.plates, segment, strict=True):
            labels = order.named("labels", plate, [stage])
            by_field = partial(_fields, plate=plate), partial(fields.field_step, plate=plate)
            prepare = partial(fields.create_label_plate, plate=plate)
            order.add(labels, (), "label images as OME-Zarr", prepare, *by_field)
    for plate, stage in zip(screen.plates, segment, strict=True):
        measure.append(
            order.named(
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
        order.add(measure[-1], owned, "fields: measure cells", prepare, *by_field)
    for plate, stage in zip(screen.plates, measure, strict=True):
        gather.append(
            order.named(
                "gather",
                plate,
                [stage],
                inputs=[_names(screen, plate), screen.field_proteins(plate).tolist()],
                shard_cells=config.shard_cells,
            )
        )
        owned = tuple(node.format(plate, name) for name in ("cells", "crops"))
        order.add(gather[-1], owned, "one table of a plate's cells")
    for plate, stage in zip(screen.plates, gather, strict=True):
        cut.append(order.named("cut", plate, [stage]))
        order.add(
            cut[-1], (), "cells: cut",
            length=partial(cell_count, plate=plate),
            write_size=partial(shard_size, plate=plate),
        )  # fmt: skip
    return cut


def _names(screen: PlateScreen, plate: str) -> dict[int, str]:
    """Return code and name of the proteins of a plate."""
    return {int(c): screen.proteins[c] for c in np.unique(screen.field_proteins(plate)) if c >= 0}


def _fields(job: Job, plate: str) -> int:
    return len(fields.plate_screen(job).fields[plate])
