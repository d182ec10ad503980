"""The fields of plates: find their cells, and write label images as OME-Zarr where asked for.

A field that fails is marked with the reason, has no labels, and the run goes on. What is measured
of the cells, and how they are cut, is `stages.gathering`: a changed crop size redoes that alone.
"""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bgscale import fields, ngff
from bgscale.distribute.units import Unit
from bgscale.errors import FieldError, InputError, SchemaError, nearest
from bgscale.places import is_remote
from bgscale.schema import Reason
from bgscale.screen import PlateScreen
from bgscale.stages.cells import MIN_SHARDS, Done
from bgscale.stages.job import Job

FIELDS_A_UNIT = 16
MIN_CELL_PX = 50
"""A field holds no more cells than its pixels over this."""


def plate_screen(job: Job) -> PlateScreen:
    """Return the screen, which must be one of plates."""
    if job.screen.kind != "plates":
        msg = f"a screen of {job.screen.kind} has no fields to read"
        raise InputError(msg)
    return job.screen


def field_step(job: Job, plate: str) -> int:
    """Return fields a unit: 16, fewer on small screens so that there is work for all."""
    n = len(plate_screen(job).fields[plate])
    return max(1, min(-(-n // MIN_SHARDS), FIELDS_A_UNIT))


def segmenter_of(job: Job) -> Any:
    """Return the segmenter that the config names, with its options."""
    section = job.config.cells
    return fields.SEGMENTERS[section.segmenter].from_config(section.options)


def check_plan(job: Job, plate: str) -> None:
    """Raise what cannot go well: labels that no field has, crops or windows that do not fit."""
    section, screen = job.config.cells, plate_screen(job)
    shape, size = screen.layouts[plate].shape, section.crop_size_px
    if size > min(shape):
        msg = f"cells.crop_size_px = {size}: the fields of plate {plate} have {shape[0]}x{shape[1]}"
        raise InputError(msg)
    windows = [s.name for s in job.settings if s.source == "window"]
    if windows and not section.windows_per_field:
        msg = f"cells.windows_per_field = 0, but the setting {windows[0]} needs cell-free windows"
        raise InputError(msg)
    if section.labels:
        known = screen.label_names(plate)
        if section.labels not in known:
            have = ", ".join(known) or "none"
            msg = (
                f"cells.labels: no label image {section.labels!r}{nearest(section.labels, known)} "
                f"in the fields of plate {plate} that were looked at; there are {have}"
            )
            raise InputError(msg)


def cell_room(shape: tuple[int, int]) -> int:
    """Return how many cells a field of this shape may hold."""
    return shape[0] * shape[1] // MIN_CELL_PX


def create_labels(job: Job, plate: str) -> None:
    """Create the label images of a plate, and why some fields have none."""
    screen, store = plate_screen(job), job.store
    n, shape = len(screen.fields[plate]), screen.layouts[plate].shape
    step, node = {"field": field_step(job, plate)}, f"plates/{plate}/labels"
    store.create_group(node, coords={}, description="label images of the fields")
    store.create_array(
        f"{node}/label", {"field": n, "y": shape[0], "x": shape[1]}, "uint16",
        chunk={"field": 1}, shard=step, long_name="0 medium, else the number of the cell",
    )  # fmt: skip
    store.create_array(
        f"{node}/reason", {"field": n}, "uint8", chunk=step,
        long_name="why the field has no labels; 0: it has", names={int(r): r.text for r in Reason},
    )  # fmt: skip


def lose_fields(job: Job, unit: Unit) -> Done:
    """Mark the fields of a unit that cannot be done."""
    return segment(job, unit, lost=True)


def segment(job: Job, unit: Unit, *, lost: bool = False) -> Done:
    """Find the cells of some fields of a plate; or mark them as lost."""
    plate, store, screen = unit.stage.split("/")[1], job.store, plate_screen(job)
    names, n = screen.field_names(plate), unit.stop - unit.start
    label = np.zeros((n, *screen.layouts[plate].shape), np.uint16)
    reason = np.full(n, Reason.LOST if lost else Reason.OK, np.uint8)
    failures = []
    for i in range(0 if lost else n):
        try:
            image = screen.read(plate, unit.start + i)
            label[i] = _labels(job, plate, unit.start + i, image)
        except FieldError as error:
            reason[i] = error.reason
            name = names[unit.start + i]
            failures.append({"field": name, "reason": int(error.reason), "text": str(error)})
    region, node = [(unit.start, unit.stop)], f"plates/{plate}/labels"
    files = store.write(f"{node}/label", region, label)
    files += store.write(f"{node}/reason", region, reason)
    return files, {"fields": n, "failures": failures}


def _labels(job: Job, plate: str, index: int, image: npt.NDArray[Any]) -> npt.NDArray[np.int32]:
    """Return the labels of a field: the plate's own where the config says so, else segmented."""
    section, screen = job.config.cells, plate_screen(job)
    layout = screen.layouts[plate]
    if section.labels:
        own = screen.read_labels(plate, index, section.labels)
        # as the plate numbers them, without gaps
        labels = np.unique(own, return_inverse=True)[1].reshape(own.shape).astype(np.int32)
        labels += int(own.min() > 0)
        try:
            fields.check_labels(labels, layout.shape)
        except ValueError as error:
            where = screen.field_names(plate)[index]
            raise FieldError(Reason.LABELS, f"{where}: {error}") from error
    else:
        labels = _segmented(job, image, layout.pixel_size_um, screen.field_names(plate)[index])
    room = cell_room(layout.shape)
    if labels.max(initial=0) > min(room, np.iinfo(np.uint16).max):
        where = screen.field_names(plate)[index]
        msg = f"{where}: {labels.max()} labels; expected at most {room} in such a field"
        raise FieldError(Reason.LABELS, msg)
    return labels


def _segmented(
    job: Job, image: npt.NDArray[Any], pixel_size_um: float, where: str
) -> npt.NDArray[np.int32]:
    """Return the segmenter's labels; what goes wrong in a plug-in concerns its field alone."""
    find = segmenter_of(job)
    try:
        labels = find(image, channels=job.channels, pixel_size_um=pixel_size_um)
        fields.check_labels(labels, image.shape[1:])
    except InputError as error:
        if not isinstance(error, SchemaError):
            raise
        msg = f"{where}: segmenter {job.config.cells.segmenter!r}: {error}"
        raise FieldError(Reason.LABELS, msg) from error
    except Exception as error:
        msg = f"{where}: segmenter {job.config.cells.segmenter!r} failed: {error!r}"
        raise FieldError(Reason.LABELS, msg) from error
    return np.asarray(labels, np.int32)


def labels_location(job: Job, plate: str) -> Path:
    """Return where a plate's label images are written: beside the store."""
    if is_remote(job.config.store):
        msg = "cells.write_labels: labels are written to a folder; the store lies in a bucket"
        raise InputError(msg)
    store = Path(job.config.store)
    return store.with_name(store.name.removesuffix(".zarr") + ".labels") / f"{plate}.zarr"


def create_label_plate(job: Job, plate: str) -> None:
    """Create the OME-Zarr plate that gets the label images, anew."""
    shutil.rmtree(labels_location(job, plate), ignore_errors=True)
    wells: dict[str, list[str]] = {}
    for ref in plate_screen(job).fields[plate]:
        wells.setdefault(ref.well, []).append(ref.field)
    ngff.create_plate(labels_location(job, plate), name=plate, fields=wells)


def write_labels(job: Job, unit: Unit) -> Done:
    """Write the label images of some fields as OME-Zarr, over the channel they were found in."""
    plate, store = unit.stage.split("/")[1], job.store
    screen, path = plate_screen(job), labels_location(job, plate)
    size = screen.layouts[plate].pixel_size_um or None
    shown = "cytosol" if "cytosol" in job.channels else job.channels[0]
    reason = store.read(f"plates/{plate}/labels/reason")
    failures = []
    for f in range(unit.start, unit.stop):
        if reason[f] != Reason.OK:
            continue
        ref = screen.fields[plate][f]
        try:
            image = screen.read(plate, f)[[job.channels.index(shown)]]
        except FieldError as error:
            failures.append({"reason": int(error.reason), "text": str(error)})
            continue
        ngff.write_field(path, ref.well, ref.field, image, channels=[shown], pixel_size_um=size)
        label = store.read(f"plates/{plate}/labels/label", f).astype(np.int32)
        ngff.write_labels(path, ref.well, ref.field, label, name="cells", pixel_size_um=size)
    return [], {"fields": unit.stop - unit.start, "failures": failures}
