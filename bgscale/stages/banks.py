"""Who lends a background, and which cells experiment 1 takes: chosen from tables, then copied.

`donors` chooses, from the tables alone, donors, cell-free windows and centre cells. `bank` copies
the chosen, contiguous by class, so that no later unit reads donors at random. Real windows come
from the fields of plates; already cut crops have none, and get their cells replaced by medium.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from bgscale import crops as crop_kernels
from bgscale import draw
from bgscale.distribute.units import Unit
from bgscale.errors import InputError, UnitError
from bgscale.results import INNER_CELLS
from bgscale.schema import MEDIUM
from bgscale.settings import Cells, Ints
from bgscale.stages.cells import Done, cell_ranges
from bgscale.stages.choosing import Candidates, choose, evaluated, evaluated_cells, joined
from bgscale.stages.job import Job

BANKS = ("donors", "windows", "centres")
WINDOW_NUMBER = 1 << 40
"""Identities of windows are numbered from here, those of cells in a field from 1."""


def donors(job: Job, unit: Unit) -> Done:
    """Choose donors, windows and centre cells, write who they are, create the banks' arrays."""
    del unit
    job.in_fields(job.field_names, job.config.evaluation.fields, "evaluation.fields")
    if not any(job.cells(plate).usable.any() for plate in job.drawn_plates):
        msg = (
            f"no cell that can be used on {', '.join(job.drawn_plates)}: `bgscale status` and the "
        )
        msg += "reason codes in plates/*/cells and plates/*/fields say why"
        raise InputError(msg)
    files: list[str] = []
    summary = {}
    for bank in BANKS:
        found, chosen = _choose(job, bank)
        files += _write_index(job, bank, found, chosen)
        summary[bank] = [len(c) for c in chosen]
    return files, summary


def candidates(job: Job, bank: str) -> Iterator[Candidates]:
    """Yield, by plate, who may be taken: usable cells in fields that are evaluated.

    What lends its background lies wholly in its field.
    """
    if bank == "windows" and job.has_windows:
        yield from _windows(job)
        return
    for table, found in evaluated_cells(job, job.drawn_plates):
        node, own = f"plates/{table.plate}/cells", evaluated(table)
        able = np.ones(len(own), np.bool_)
        if bank != "centres" and job.has_windows:
            able &= job.store.read(f"{node}/padded_area")[own] == 0
        if bank == "windows":
            able &= job.store.read(f"{node}/medium_area")[own] >= crop_kernels.MIN_MEDIUM_PX
        yield found.take(able)


def _windows(job: Job) -> Iterator[Candidates]:
    """Yield, by plate, the cell-free windows that were found in its fields."""
    start = 0
    for plate in job.drawn_plates:
        node = f"plates/{plate}/windows"
        field, present = (job.store.read(f"{node}/{name}") for name in ("field", "present"))
        field = field.astype(np.int64)
        attrs = job.store.array(f"plates/{plate}/cells/field").attrs["names"]
        evaluated = job.in_fields(attrs, job.config.evaluation.fields)
        protein = job.store.read(f"plates/{plate}/fields/protein").astype(np.int64)[field]
        rows = np.flatnonzero(present.astype(bool) & evaluated[field] & (protein >= 0))
        names = [attrs[f].split("/") for f in field[rows]]
        ids = draw.cell_ids(
            plate,
            [name[-2] for name in names],
            [name[-1] for name in names],
            WINDOW_NUMBER + rows,
        )
        protein = protein[rows]
        codes = job.first_fields[plate] + field[rows]
        yield Candidates(Cells(ids, protein, codes, job.labels_of(protein)), start + rows)
        start += len(field)


def _choose(job: Job, bank: str) -> tuple[Candidates, list[Ints]]:
    """Return candidates, and which of them are in the bank, by class."""
    section = job.config.donors
    if bank == "centres":
        return _choose_centres(job)
    found, chosen = choose(
        job,
        lambda: candidates(job, bank),
        per_class=section.per_class if bank == "donors" else section.windows_per_class,
        per_field=section.per_field,
        purpose=f"{bank}/{section.bank}" if section.bank else bank,
    )
    needed = bank == "donors" or any(s.source == "window" for s in job.settings)
    for name, rows in zip(job.classes, chosen, strict=True):
        if needed and len(rows) < section.min_pool:
            what = "donor pool" if bank == "donors" else "pool of cell-free windows"
            more = "" if bank == "donors" else "leave cell_free out of settings, "
            lower = "lower donors.min_pool, " if len(rows) else ""
            msg = (
                f"{what} for class {name!r} has {len(rows)} of single-class proteins, need "
                f"at least {section.min_pool}: {lower}{more} merge rare classes or add cells"
            )
            raise InputError(msg)
    return found, chosen


def _choose_centres(job: Job) -> tuple[Candidates, list[Ints]]:
    """Return experiment 1's cells of each class, in the seeded order its folds are cut from."""
    section = job.config.classification
    found = joined(
        own.take(np.concatenate(_centres(job, own.cells, section.crops_per_class)))
        for own in candidates(job, "centres")
    )
    members = _centres(job, found.cells, section.crops_per_class)
    smallest = min(range(len(members)), key=lambda k: len(members[k]))
    count = min(section.crops_per_class, len(members[smallest]))
    # else the folds of two classes are not of the same draws, and share donors
    count -= count % section.folds
    if not count:
        msg = (
            f"class {job.classes[smallest]!r} has {len(members[smallest])} usable cells of "
            f"single-class proteins; {section.folds} folds need at least {section.folds}: merge "
            "rare classes in the plate map, or lower classification.folds"
        )
        raise InputError(msg)
    return found, [rows[:count] for rows in members]


def _centres(job: Job, cells: Cells, count: int) -> list[Ints]:
    """Return the first cells of single-class proteins, by class, in their seeded order."""
    single, members = cells.labels.sum(1) == 1, []
    for k in range(len(job.classes)):
        rows = np.flatnonzero(single & cells.labels[:, k])
        members.append(rows[draw.order(job.config.seed, "centre", cells.ids[rows])[:count]])
    return members


def _write_index(job: Job, bank: str, found: Candidates, chosen: list[Ints]) -> list[str]:
    store, classes = job.store, len(job.classes)
    width = max(max(map(len, chosen)), 1)
    slot = "draw" if bank == "centres" else "slot"
    dims = {"localization": classes, slot: width}
    place = np.full((classes, width), -1, np.int64)
    for k, members in enumerate(chosen):
        place[k, : len(members)] = members
    filled, cells = place >= 0, found.cells

    def of(values: npt.NDArray[Any], dtype: npt.DTypeLike, empty: int) -> npt.NDArray[Any]:
        out = np.full(place.shape, empty, dtype)
        out[filled] = values[place[filled]]
        return out

    arrays = {
        "row": of(found.rows, np.int64, -1),
        "id": of(cells.ids, np.uint64, 0),
        "protein": of(cells.protein, np.int32, -1),
        "field": of(cells.field, np.int32, -1),
    }
    store.create_group(bank, coords={"localization": job.classes, "channel": job.channels})
    files = []
    for name, values in arrays.items():
        store.create_array(f"{bank}/{name}", dims, values.dtype, chunk={})
        files += store.write(f"{bank}/{name}", [(0, classes)], values)
    store.create_array(f"{bank}/size", {"localization": classes}, "int32", chunk={})
    sizes = np.array([len(c) for c in chosen], np.int32)
    files += store.write(f"{bank}/size", [(0, classes)], sizes)
    shape = {**dims, "channel": len(job.channels)}
    bounds = np.zeros((*place.shape, len(job.channels), 2), np.float32)
    bounds[filled] = _ranges(job, bank, arrays["row"][filled], arrays["protein"][filled])
    store.create_array(f"{bank}/range", {**shape, "bound": 2}, "float32", chunk={}, units="counts")
    files += store.write(f"{bank}/range", [(0, classes)], bounds)
    source = store.array(f"plates/{job.plates[0]}/crops/image")
    y, x = source.shape[-2:]
    layout: dict[str, Any] = {
        "chunk": {"localization": 1, slot: INNER_CELLS},
        "shard": {"localization": 1},
    }
    store.create_array(f"{bank}/image", {**shape, "y": y, "x": x}, source.dtype, **layout)
    store.create_array(f"{bank}/mask", {**dims, "y": y, "x": x}, "uint8", **layout)
    return files


def _ranges(job: Job, bank: str, rows: Ints, protein: Ints) -> npt.NDArray[np.float32]:
    """Return the intensity range of each chosen one: of its protein on its plate."""
    out = np.zeros((len(rows), len(job.channels), 2), np.float32)
    windows = bank == "windows" and job.has_windows
    for plate, here, own in job.parts(rows, "windows/field" if windows else "cells/id"):
        node = f"plates/{plate}/{'windows' if windows else 'cells'}/field"
        field = job.store.read(node).astype(np.int64)[own]
        out[here] = cell_ranges(job, plate, protein[here].astype(np.int64), field)
    return out


def bank(job: Job, unit: Unit) -> Done:
    """Copy the chosen crops of one class; as windows, without cells."""
    which, k = BANKS[unit.start // len(job.classes)], unit.start % len(job.classes)
    store = job.store
    size = int(store.read(f"{which}/size")[k])
    rows = store.read(f"{which}/row", k)[:size]
    real = which == "windows" and job.has_windows
    block = {
        name: np.zeros(
            store.array(f"{which}/{name}").shape[1:], store.array(f"{which}/{name}").dtype
        )
        for name in ("image", "mask")
    }
    if size and real:
        block["image"][:size] = job.read_rows("windows/image", rows, sized_by="windows/field")
    elif size:
        block["image"][:size] = job.read_rows("crops/image", rows)
        block["mask"][:size] = job.read_rows("crops/mask", rows)
    if which == "windows" and not real:
        ids = store.read(f"{which}/id", k)
        for i in range(size):
            mask = block["mask"][i]
            filled = crop_kernels.fill_with_medium(
                block["image"][i], hole=mask != MEDIUM, mask=mask, cell=int(ids[i])
            )
            if filled is None:
                msg = f"window {i} of class {job.classes[k]!r} has too little medium"
                raise UnitError(msg)
            block["image"][i] = filled
        block["mask"][:] = MEDIUM
    files = []
    for name, values in block.items():
        files += store.write(f"{which}/{name}", [(k, k + 1)], values[None])
    return files, {}
