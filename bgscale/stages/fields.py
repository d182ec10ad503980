"""From fields of plates to cells: segment, gather, cut.

How many cells there are is known only when all fields are segmented. So `segment` keeps, for each
field, its label image and a table with room for more cells than can fit; `gather` gives each cell
its row, in the order of fields and labels, and creates the plate's arrays once, with their final
shape; `cut` fills them, a shard at a time. A field that fails is marked with the reason and has no
cells.
"""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bgscale import draw, fields, ngff
from bgscale.distribute.units import Unit
from bgscale.errors import FieldError, InputError, SchemaError, UnitError, nearest
from bgscale.schema import Reason
from bgscale.screen import PlateScreen
from bgscale.stages.cells import MIN_SHARDS, Columns, Done, create_crops, create_table
from bgscale.stages.job import Job

FIELDS_A_UNIT = 16
MIN_CELL_PX = 50
"""A field holds no more cells than its pixels over this."""

_FIELD_COLUMNS: dict[str, tuple[str, str, str]] = {
    "reason": ("uint8", "", "why the field cannot be used; 0: usable"),
    "cells": ("int32", "", "cells found"),
    "usable_cells": ("int32", "", "cells that can be used"),
    "area_median": ("float32", "px", "median area of its cells"),
}
_CELL_COLUMNS: Columns = {
    "id": ("uint64", "", "identity: hash of plate, well, field and label"),
    "protein": ("int32", "", "code of the protein; -1: blank well"),
    "field": ("int32", "", "code of plate, well and field"),
    "number": ("int64", "", "label in the field"),
    "reason": ("uint8", "", "why the cell cannot be used; 0: usable"),
    "y": ("float64", "px", "centroid; the crop is [int(y) - half, int(y) + half)"),
    "x": ("float64", "px", "centroid"),
    "area": ("int32", "px", "area"),
    "eccentricity": ("float32", "1", "of the ellipse with the same moments"),
    "solidity": ("float32", "1", "share of its convex hull that the cell fills"),
    "border_distance": ("int32", "px", "to the border of the field; 0: the cell reaches it"),
    "neighbours": ("int32", "", "number of other cells in the crop"),
    "neighbour_area": ("int32", "px", "area of other cells in the crop"),
    "medium_area": ("int32", "px", "area in the crop beyond the halo of cells, in the field"),
    "padded_area": ("int32", "px", "area of the crop that lies outside the field"),
}
_INTENSITY = "mean_{}"
_DERIVED = ("id", "protein", "field", "reason")
"""Columns that `gather` makes; the others are measured."""


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


def _found_columns(job: Job) -> tuple[str, ...]:
    """Return the columns of the table of found cells: what is measured, by field and slot."""
    measured = [name for name in _CELL_COLUMNS if name not in _DERIVED]
    return ("reason", *measured, *(_INTENSITY.format(role) for role in job.channels))


def create_fields(job: Job, plate: str) -> None:
    """Create what segmentation writes: a row per field, its labels, windows, and room for cells."""
    screen, store, section = plate_screen(job), job.store, job.config.cells
    n, layout = len(screen.fields[plate]), screen.layouts[plate]
    step = {"field": field_step(job, plate)}
    size = {"y": layout.shape[0], "x": layout.shape[1]}
    node = f"plates/{plate}/fields"
    store.create_group(
        node,
        coords={"field": screen.field_names(plate)},
        description="one row a field",
        problems=screen.problems(plate),
        pixel_size_um=layout.pixel_size_um,
    )
    columns = dict(_FIELD_COLUMNS)
    for name in _quality_names(job):
        columns[name] = ("float32", "", f"quality of the image: {name}")
    for name, (dtype, units, text) in columns.items():
        attrs: dict[str, Any] = {"long_name": text} | ({"units": units} if units else {})
        if name == "reason":
            attrs["names"] = {int(r): r.text for r in Reason}
        fill = float("nan") if dtype == "float32" else 0
        store.create_array(f"{node}/{name}", {"field": n}, dtype, chunk=step, fill=fill, **attrs)
    room = layout.shape[0] * layout.shape[1] // MIN_CELL_PX
    node = f"plates/{plate}/found"
    store.create_group(
        node, coords={"column": _found_columns(job)}, description="cells by field, before `cells`"
    )
    dims = {"field": n, "slot": room, "column": len(_found_columns(job))}
    store.create_array(f"{node}/table", dims, "float64", chunk=step, fill=float("nan"))
    node = f"plates/{plate}/labels"
    store.create_group(node, coords={}, description="label images of the fields")
    store.create_array(
        f"{node}/label", {"field": n, **size}, "uint16", chunk={"field": 1}, shard=step,
        long_name="0 medium, else the number of the cell",
    )  # fmt: skip
    node = f"plates/{plate}/windows"
    store.create_group(node, coords={"channel": job.channels}, description="windows without cells")
    slots = max(section.windows_per_field, 1)
    each = {"window": step["field"] * slots}
    crop = {"y": section.crop_size_px, "x": section.crop_size_px}
    for name, dtype, text in (
        ("field", "int32", "code of the field"),
        ("present", "uint8", "whether there is such a window"),
        ("top", "int32", "its first row in the field"),
        ("left", "int32", "its first column in the field"),
    ):
        store.create_array(
            f"{node}/{name}", {"window": n * slots}, dtype, chunk=each, long_name=text
        )
    store.create_array(
        f"{node}/image", {"window": n * slots, "channel": len(job.channels), **crop}, layout.dtype,
        chunk={"window": slots}, shard=each, units="counts", long_name="pixels as imaged",
    )  # fmt: skip


def _quality_names(job: Job) -> tuple[str, ...]:
    kinds = ("focus", "saturated", "medium")
    return tuple(f"{kind}_{role}" for kind in kinds for role in job.channels)


def segment(job: Job, unit: Unit) -> Done:
    """Find and measure the cells of some fields of a plate."""
    plate, store, section = unit.stage.split("/")[1], job.store, job.config.cells
    screen = plate_screen(job)
    layout, names = screen.layouts[plate], screen.field_names(plate)
    n, slots = unit.stop - unit.start, max(section.windows_per_field, 1)
    found_names = _found_columns(job)
    shape = store.array(f"plates/{plate}/found/table").shape[1:]
    found = np.full((n, *shape), np.nan)
    label = np.zeros((n, *layout.shape), np.uint16)
    size = section.crop_size_px
    windows = np.zeros((n * slots, len(job.channels), size, size), layout.dtype)
    corners = np.full((n * slots, 2), -1, np.int32)
    columns: dict[str, npt.NDArray[Any]] = {
        "reason": np.zeros(n, np.uint8),
        "cells": np.zeros(n, np.int32),
        "usable_cells": np.zeros(n, np.int32),
        "area_median": np.full(n, np.nan, np.float32),
        **{name: np.full(n, np.nan, np.float32) for name in _quality_names(job)},
    }
    failures = []
    for i in range(n):
        name = names[unit.start + i]
        try:
            image = screen.read(plate, unit.start + i)
            labels = _labels(job, plate, unit.start + i, image)
        except FieldError as error:
            columns["reason"][i] = error.reason
            failures.append({"field": name, "reason": int(error.reason), "text": str(error)})
            continue
        label[i] = labels
        measures = fields.measure(labels, image, channels=job.channels, crop_size_px=size)
        count = len(measures["label"])
        at_border = measures["border_distance"] < section.border_px
        reason = np.where(at_border, Reason.CUT_BY_BORDER, Reason.OK)
        reason = np.where(fields.debris(measures), Reason.DEBRIS, reason)
        table = {"reason": reason, **measures, "number": measures["label"]}
        for c, column in enumerate(found_names):
            found[i, :count, c] = table[column]
        columns["cells"][i] = count
        columns["usable_cells"][i] = int((reason == Reason.OK).sum())
        columns["area_median"][i] = np.median(measures["area"]) if count else np.nan
        quality = fields.quality(image, labels, job.channels)
        for column in _quality_names(job):
            columns[column][i] = quality[column]
        free = fields.free_windows(
            labels,
            size_px=size,
            margin_px=section.margin_px,
            most=section.windows_per_field,
            seed_id=draw.digest64(job.config.seed, name),
        )
        for w, (top, left) in enumerate(free.tolist()):
            corners[i * slots + w] = top, left
            windows[i * slots + w] = image[:, top : top + size, left : left + size]
    region, wide = [(unit.start, unit.stop)], [(unit.start * slots, unit.stop * slots)]
    node = f"plates/{plate}"
    files = []
    for column, values in columns.items():
        files += store.write(f"{node}/fields/{column}", region, values)
    files += store.write(f"{node}/found/table", region, found)
    files += store.write(f"{node}/labels/label", region, label)
    of_windows: dict[str, npt.NDArray[Any]] = {
        "field": np.repeat(np.arange(unit.start, unit.stop, dtype=np.int32), slots),
        "present": (corners[:, 0] >= 0).astype(np.uint8),
        "top": corners[:, 0],
        "left": corners[:, 1],
        "image": windows,
    }
    for column, values in of_windows.items():
        files += store.write(f"{node}/windows/{column}", wide, values)
    return files, {"cells": int(columns["cells"].sum()), "failures": failures}


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
    room = layout.shape[0] * layout.shape[1] // MIN_CELL_PX
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
    store = Path(job.config.store)
    return store.with_name(store.name.removesuffix(".zarr") + ".labels") / f"{plate}.zarr"


def create_labels(job: Job, plate: str) -> None:
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
    reason = store.read(f"plates/{plate}/fields/reason")
    for f in range(unit.start, unit.stop):
        if reason[f] != Reason.OK:
            continue
        ref = screen.fields[plate][f]
        image = screen.read(plate, f)[[job.channels.index(shown)]]
        ngff.write_field(path, ref.well, ref.field, image, channels=[shown], pixel_size_um=size)
        label = store.read(f"plates/{plate}/labels/label", f).astype(np.int32)
        ngff.write_labels(path, ref.well, ref.field, label, name="cells", pixel_size_um=size)
    return [], {"fields": unit.stop - unit.start}


def gather(job: Job, unit: Unit) -> Done:
    """Give each cell of a plate its row, and create the plate's cell table and crops."""
    plate, store = unit.stage.split("/")[1], job.store
    screen = plate_screen(job)
    section, layout, names = job.config.cells, screen.layouts[plate], screen.field_names(plate)
    tables = []
    for start in range(0, len(names), FIELDS_A_UNIT):
        block = store.read(f"plates/{plate}/found/table", slice(start, start + FIELDS_A_UNIT))
        field, slot = np.nonzero(np.isfinite(block[:, :, 0]))
        tables.append((field + start, block[field, slot]))
    field = np.concatenate([f for f, _ in tables])
    found = dict(zip(_found_columns(job), np.concatenate([t for _, t in tables]).T, strict=True))
    del tables
    wells, short = zip(*(name.split("/")[-2:] for name in names), strict=True)
    columns: dict[str, npt.NDArray[Any]] = {
        **found,
        "field": field,
        "protein": screen.field_proteins(plate)[field],
        "id": draw.cell_ids(
            plate, [wells[f] for f in field], [short[f] for f in field], found["number"]
        ),
    }
    n = len(field)
    intensities = {
        _INTENSITY.format(role): ("float32", "counts", f"mean {role} above the field's medium")
        for role in job.channels
    }
    code = f"plates/{plate}/fields/protein"
    store.remove(code)
    store.create_array(
        code, {"field": len(names)}, "int32", chunk={}, fill=-1,
        long_name="code of the well's protein; -1: blank",
    )  # fmt: skip
    files = store.write(code, [(0, len(names))], screen.field_proteins(plate))
    create_table(job, plate, n, {**_CELL_COLUMNS, **intensities}, names)
    size = section.crop_size_px
    create_crops(job, plate, n, (size, size), layout.dtype)
    for name, (dtype, _, _) in {**_CELL_COLUMNS, **intensities}.items():
        path = f"plates/{plate}/cells/{name}"
        files += store.write(path, [(0, n)], columns[name].astype(dtype))
    return files, {"cells": n}


def cut(job: Job, unit: Unit) -> Done:
    """Cut the crops of one shard of cells, exact windows of their fields."""
    plate, store = unit.stage.split("/")[1], job.store
    screen, node = plate_screen(job), f"plates/{plate}"
    rows = slice(unit.start, unit.stop)
    field, number, y, x = (
        store.read(f"{node}/cells/{name}", rows) for name in ("field", "number", "y", "x")
    )
    shape = store.array(f"{node}/crops/image").shape[1:]
    image = np.zeros((unit.stop - unit.start, *shape), store.array(f"{node}/crops/image").dtype)
    mask = np.zeros((len(image), *shape[1:]), np.uint8)
    for f in np.unique(field).tolist():
        here = np.flatnonzero(field == f)
        try:
            pixels = screen.read(plate, f)
        except FieldError as error:
            msg = f"the field could be read when it was segmented, and now cannot: {error}"
            raise UnitError(msg) from error
        image[here], mask[here] = fields.windows_of(
            pixels,
            store.read(f"{node}/labels/label", f),
            y[here],
            x[here],
            number[here],
            size_px=shape[-1],
        )
    region = [(unit.start, unit.stop)]
    files = store.write(f"{node}/crops/image", region, image)
    files += store.write(f"{node}/crops/mask", region, mask)
    return files, {"cells": len(image)}
