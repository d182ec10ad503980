"""From fields to cells, in three steps: measure, gather, cut.

How many cells there are is known only when all fields are segmented. So `measure` keeps, for each
field, a table with room for more cells than can fit, and cell-free windows; `gather` gives each
cell its row, in the order of fields and labels, and creates the plate's arrays once, with their
final shape; `cut` fills them, a shard at a time. A field that cannot be read has no cells; one
that is lost later has cells that cannot be used.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from bgscale import draw, fields
from bgscale.distribute.units import Unit
from bgscale.errors import FieldError
from bgscale.schema import Reason
from bgscale.stages.cells import Columns, Done, create_crops, create_table
from bgscale.stages.fields import FIELDS_A_UNIT, cell_room, field_step, plate_screen
from bgscale.stages.job import Job

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
"""Columns that `gather` and `cut` make; the others are measured."""


def found_columns(job: Job) -> tuple[str, ...]:
    """Return the columns of the table of found cells: what is measured, by field and slot."""
    measured = [name for name in _CELL_COLUMNS if name not in _DERIVED]
    return ("reason", *measured, *(_INTENSITY.format(role) for role in job.channels))


def _quality_names(job: Job) -> tuple[str, ...]:
    kinds = ("focus", "saturated", "medium")
    return tuple(f"{kind}_{role}" for kind in kinds for role in job.channels)


def create_measures(job: Job, plate: str) -> None:
    """Create what measuring writes: a row per field, its windows, and room for its cells."""
    screen, store, section = plate_screen(job), job.store, job.config.cells
    n, layout = len(screen.fields[plate]), screen.layouts[plate]
    step = {"field": field_step(job, plate)}
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
    node = f"plates/{plate}/found"
    store.create_group(
        node, coords={"column": found_columns(job)}, description="cells by field, before `cells`"
    )
    dims = {"field": n, "slot": cell_room(layout.shape), "column": len(found_columns(job))}
    store.create_array(f"{node}/table", dims, "float64", chunk=step, fill=float("nan"))
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


def lose_measures(job: Job, unit: Unit) -> Done:
    """Mark the fields of a unit that cannot be done."""
    return measure(job, unit, lost=True)


def lose_cells(job: Job, unit: Unit) -> Done:
    """Mark the cells of a unit that cannot be done."""
    return cut(job, unit, lost=True)


def measure(job: Job, unit: Unit, *, lost: bool = False) -> Done:
    """Measure the cells of some fields, and take their cell-free windows; or mark them as lost."""
    plate, store, section = unit.stage.split("/")[1], job.store, job.config.cells
    screen = plate_screen(job)
    names = screen.field_names(plate)
    n, slots, size = unit.stop - unit.start, max(section.windows_per_field, 1), section.crop_size_px
    found_names = found_columns(job)
    found = np.full((n, *store.array(f"plates/{plate}/found/table").shape[1:]), np.nan)
    windows = np.zeros((n * slots, len(job.channels), size, size), screen.layouts[plate].dtype)
    corners = np.full((n * slots, 2), -1, np.int32)
    columns: dict[str, npt.NDArray[Any]] = {
        "reason": store.read(f"plates/{plate}/labels/reason", slice(unit.start, unit.stop)),
        "cells": np.zeros(n, np.int32),
        "usable_cells": np.zeros(n, np.int32),
        "area_median": np.full(n, np.nan, np.float32),
        **{name: np.full(n, np.nan, np.float32) for name in _quality_names(job)},
    }
    if lost:
        columns["reason"][columns["reason"] == Reason.OK] = Reason.LOST
    failures = []
    for i in np.flatnonzero(columns["reason"] == Reason.OK).tolist():
        name = names[unit.start + i]
        try:
            image = screen.read(plate, unit.start + i)
        except FieldError as error:
            columns["reason"][i] = error.reason
            failures.append({"field": name, "reason": int(error.reason), "text": str(error)})
            continue
        labels = store.read(f"plates/{plate}/labels/label", unit.start + i).astype(np.int32)
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
    found = dict(zip(found_columns(job), np.concatenate([t for _, t in tables]).T, strict=True))
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
    all_columns = {**_CELL_COLUMNS} | {
        _INTENSITY.format(role): ("float32", "counts", f"mean {role} above the field's medium")
        for role in job.channels
    }
    code, reason = f"plates/{plate}/fields/protein", f"plates/{plate}/found/reason"
    for name in (code, reason):
        store.remove(name)
    store.create_array(
        code, {"field": len(names)}, "int32", chunk={}, fill=-1,
        long_name="code of the well's protein; -1: blank",
    )  # fmt: skip
    store.create_array(reason, {"cell": n}, "uint8", chunk={}, long_name="reason, before `cut`")
    files = store.write(code, [(0, len(names))], screen.field_proteins(plate))
    files += store.write(reason, [(0, n)], found["reason"].astype(np.uint8))
    create_table(job, plate, n, all_columns, names)
    size = section.crop_size_px
    create_crops(job, plate, n, (size, size), layout.dtype)
    for name, (dtype, _, _) in all_columns.items():
        if name != "reason":
            path = f"plates/{plate}/cells/{name}"
            files += store.write(path, [(0, n)], columns[name].astype(dtype))
    return files, {"cells": n}


def cut(job: Job, unit: Unit, *, lost: bool = False) -> Done:
    """Cut the crops of one shard of cells, exact windows of their fields; or mark them as lost.

    Cells of a field that could be read when it was measured, and now cannot, get its reason.
    """
    plate, store = unit.stage.split("/")[1], job.store
    screen, node = plate_screen(job), f"plates/{plate}"
    rows = slice(unit.start, unit.stop)
    field, number, y, x = (
        store.read(f"{node}/cells/{name}", rows) for name in ("field", "number", "y", "x")
    )
    reason = store.read(f"{node}/found/reason", rows)
    shape = store.array(f"{node}/crops/image").shape[1:]
    image = np.zeros((unit.stop - unit.start, *shape), store.array(f"{node}/crops/image").dtype)
    mask = np.zeros((len(image), *shape[1:]), np.uint8)
    failures = []
    if lost:
        reason[reason == Reason.OK] = Reason.LOST
    for f in [] if lost else np.unique(field).tolist():
        here = np.flatnonzero(field == f)
        try:
            pixels = screen.read(plate, f)
        except FieldError as error:
            reason[here] = error.reason
            failures.append({"reason": int(error.reason), "text": str(error)})
            continue
        image[here], mask[here] = fields.windows_of(
            pixels,
            store.read(f"{node}/labels/label", f),
            y[here],
            x[here],
            number[here],
            size_px=shape[-1],
        )
    region = [(unit.start, unit.stop)]
    files = store.write(f"{node}/cells/reason", region, reason)
    files += store.write(f"{node}/crops/image", region, image)
    files += store.write(f"{node}/crops/mask", region, mask)
    return files, {"cells": len(image), "failures": failures}
