"""From the screen to cells, donors, windows and centre cells: everything that is not a model's.

`cut` reads each crop file once and writes crops, masks and the cell table, a shard at a time.
`ranges` takes each protein's intensity range. `donors` chooses, from the tables alone, who lends a
background and which cells experiment 1 takes. `bank` copies the chosen, contiguous by class, so
that no later unit reads donors at random.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from bgscale import crops as crop_kernels
from bgscale import draw, segment
from bgscale.distribute.units import Unit
from bgscale.errors import InputError, UnitError
from bgscale.results import INNER_CELLS
from bgscale.schema import MEDIUM, Reason
from bgscale.settings import Cells, Ints, select_donors
from bgscale.stages.job import Job, PlateCells

RANGE_CELLS = 512
"""Cells of a protein that its intensity range is taken from: all, or so many by hash."""
RANGE_GROUPS = 64
"""Proteins whose ranges one unit takes."""
MIN_SHARDS = 16
BANKS = ("donors", "windows", "centres")

Done = tuple[list[str], dict[str, Any]]


def shard_cells(job: Job, cells: int) -> int:
    """Return cells a shard: 4,096, fewer on small screens so that there is work for all."""
    if job.config.shard_cells:
        return job.config.shard_cells
    even = -(-cells // (MIN_SHARDS * INNER_CELLS)) * INNER_CELLS
    return min(max(even, INNER_CELLS), 4096)


def proteins(job: Job, unit: Unit) -> Done:
    """Write which classes each protein has, and the plate map's further columns."""
    del unit
    screen, store = job.screen, job.store
    if len(screen.classes) < 2:
        msg = (
            f"column {job.config.screen.class_column!r} has {len(screen.classes)} class "
            f"({', '.join(screen.classes)}); expected at least 2 to tell apart"
        )
        raise InputError(msg)
    coords = {"protein": screen.proteins, "localization": screen.classes}
    store.create_group("proteins", coords=coords, plate_map=screen.plate_map.columns)
    shape = {"protein": len(screen.proteins), "localization": len(screen.classes)}
    store.create_array(
        "proteins/label", shape, "uint8", chunk={}, long_name="whether the protein has the class"
    )
    region = [(0, shape["protein"])]
    return store.write("proteins/label", region, screen.plate_map.labels.astype("uint8")), {}


def create_cells(job: Job) -> None:
    """Create the cell table and crop arrays of each plate, with their final shape."""
    screen, store = job.screen, job.store
    plate, n = screen.name, len(screen.items)
    write = {"cell": shard_cells(job, n)}
    names = {
        "protein": list(screen.proteins),
        "field": screen.field_names,
        "reason": {int(r): r.text for r in Reason},
    }
    node = f"plates/{plate}/cells"
    store.create_group(node, coords={}, description="one row a cell, in the order of the crops")
    for name, (dtype, units, text) in _COLUMNS.items():
        attrs: dict[str, Any] = {"long_name": text, "units": units, "names": names.get(name)}
        kept = {key: value for key, value in attrs.items() if value}
        store.create_array(f"{node}/{name}", {"cell": n}, dtype, chunk=write, **kept)
    node = f"plates/{plate}/crops"
    store.create_group(node, coords={"channel": job.channels}, description="single-cell crops")
    y, x = screen.crop_shape
    dims = {"cell": n, "channel": len(job.channels), "y": y, "x": x}
    chunk = {"cell": INNER_CELLS}
    store.create_array(
        f"{node}/image", dims, screen.dtype, chunk=chunk, shard=write, units="counts",
        long_name="pixels as imaged",
    )  # fmt: skip
    store.create_array(
        f"{node}/mask",
        {d: s for d, s in dims.items() if d != "channel"},
        "uint8",
        chunk=chunk,
        shard=write,
        long_name="0 medium, 1 centre cell, 2 other cells",
    )


_COLUMNS: dict[str, tuple[str, str, str]] = {
    "id": ("uint64", "", "identity: hash of plate, well, field and number"),
    "protein": ("int32", "", "code of the protein"),
    "field": ("int32", "", "code of plate, well and field"),
    "number": ("int64", "", "number of the crop in its field"),
    "reason": ("uint8", "", "why the cell cannot be used; 0: usable"),
    "area": ("int32", "px", "area of the centre cell"),
    "neighbours": ("int32", "", "number of other cells in the crop"),
    "neighbour_area": ("int32", "px", "area of other cells in the crop"),
    "medium_area": ("int32", "px", "area without cells in the crop"),
}


def cut(job: Job, unit: Unit) -> Done:
    """Read crops, find the centre cell and its neighbours, measure, write one shard."""
    screen, store = job.screen, job.store
    rows = np.arange(unit.start, unit.stop)
    block = screen.read(rows)
    cytosol = job.channels.index("cytosol") if "cytosol" in job.channels else None
    mask, found = segment.masks(
        block.image[:, cytosol] if cytosol is not None else None, block.mask, block.reason == 0
    )
    reason = block.reason.copy()
    reason[(reason == Reason.OK) & ~found] = Reason.NO_CENTRE_CELL
    measures = crop_kernels.measure(mask)
    items = screen.items.iloc[unit.start : unit.stop]
    columns = {
        "id": screen.cell_ids[rows],
        "protein": screen.protein_codes[rows],
        "field": screen.field_codes[rows],
        "number": items["number"].to_numpy(),
        "reason": reason,
        **measures,
    }
    region = [(unit.start, unit.stop)]
    files = []
    for name, (dtype, _, _) in _COLUMNS.items():
        path = f"plates/{screen.name}/cells/{name}"
        files += store.write(path, region, np.asarray(columns[name]).astype(dtype))
    files += store.write(f"plates/{screen.name}/crops/image", region, block.image)
    files += store.write(f"plates/{screen.name}/crops/mask", region, mask)
    counts = np.bincount(reason, minlength=len(Reason))
    return files, {"cells": len(rows), **{r.name: int(counts[r]) for r in Reason if counts[r]}}


def create_ranges(job: Job) -> None:
    """Create the table of intensity ranges: a row per protein, or per protein and field."""
    store = job.store
    for plate in job.plates:
        protein, field = _groups(job, plate)
        node = f"plates/{plate}/ranges"
        store.create_group(
            node, coords={"channel": job.channels}, description="intensities of each protein"
        )
        size = {"group": len(protein)}
        for name, codes in (("protein", protein), ("field", field)):
            store.create_array(f"{node}/{name}", size, "int32", chunk={})
            store.write(f"{node}/{name}", [(0, len(codes))], codes.astype(np.int32))
        store.create_array(
            f"{node}/range",
            {**size, "channel": len(job.channels), "bound": 2},
            "float32",
            chunk={"group": RANGE_GROUPS},
            units="counts",
            long_name="0.1 and 99.9 percentile of the pixels",
        )


def _groups(job: Job, plate: str) -> tuple[Ints, Ints]:
    """Return protein and field (-1: all fields) of each group of one intensity range."""
    table = job.cells(plate)
    protein, field = table.cells.protein[table.usable], table.cells.field[table.usable]
    if job.config.screen.intensity_scaling == "plate":
        field = np.full_like(field, -1)
    pairs = np.unique(np.stack([protein, field]), axis=1)
    return pairs[0], pairs[1]


def ranges(job: Job, unit: Unit) -> Done:
    """Take the intensity ranges of some proteins of a plate."""
    plate = unit.stage.split("/")[1]
    table, node = job.cells(plate), f"plates/{plate}/ranges"
    groups = slice(unit.start, unit.stop)
    proteins, fields = (
        job.store.read(f"{node}/protein", groups),
        job.store.read(f"{node}/field", groups),
    )
    bounds = np.empty((len(proteins), len(job.channels), 2), np.float32)
    for i, (protein, field) in enumerate(zip(proteins, fields, strict=True)):
        member = table.usable & (table.cells.protein == protein)
        rows = np.flatnonzero(member & ((field < 0) | (table.cells.field == field)))
        first = draw.order(job.config.seed, "range", table.cells.ids[rows])[:RANGE_CELLS]
        bounds[i] = crop_kernels.intensity_range(
            job.store.read_rows(f"plates/{plate}/crops/image", rows[first])
        )
    return job.store.write(f"{node}/range", [(unit.start, unit.stop)], bounds), {}


def cell_ranges(job: Job, plate: str, rows: Ints) -> npt.NDArray[np.float32]:
    """Return the intensity range of each cell's protein: (cell, channel, bound), float32."""
    node, cells = f"plates/{plate}/ranges", job.cells(plate).cells
    protein = job.store.read(f"{node}/protein").astype(np.int64)
    field = job.store.read(f"{node}/field").astype(np.int64)
    by_field = job.config.screen.intensity_scaling == "field"
    width = int(cells.field.max(initial=0)) + 2
    keys = protein * width + field + 1
    wanted = cells.protein[rows] * width + (cells.field[rows] + 1 if by_field else 0)
    place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    bounds = job.store.read(f"{node}/range")[place]
    return np.where((keys[place] == wanted)[:, None, None], bounds, np.float32(0))


def donors(job: Job, unit: Unit) -> Done:
    """Choose donors, windows and centre cells, write who they are, create the banks' arrays."""
    del unit
    if len(job.plates) != 1:
        msg = f"the donor bank of {len(job.plates)} plates; expected a crops screen, one plate"
        raise InputError(msg)
    plate = job.plates[0]
    table = job.cells(plate)
    medium = job.store.read(f"plates/{plate}/cells/medium_area")
    able = table.usable & table.evaluated
    files: list[str] = []
    summary = {}
    for bank in BANKS:
        eligible = able & (medium >= crop_kernels.MIN_MEDIUM_PX) if bank == "windows" else able
        rows = np.flatnonzero(eligible)
        chosen = [rows[picked] for picked in _choose(job, bank, table.cells.take(rows))]
        files += _write_index(job, bank, table, chosen)
        summary[bank] = [len(c) for c in chosen]
    return files, summary


def _choose(job: Job, bank: str, cells: Cells) -> list[Ints]:
    section, seed = job.config.donors, job.config.seed
    if bank == "centres":
        return _choose_centres(job, cells)
    wanted = section.per_class if bank == "donors" else section.windows_per_class
    chosen = select_donors(
        cells, per_class=wanted, per_field=section.per_field, seed=seed, purpose=bank
    )
    for name, rows in zip(job.classes, chosen, strict=True):
        if len(rows) < section.min_pool:
            what = "donor pool" if bank == "donors" else "pool of cell-free windows"
            msg = (
                f"{what} for class {name!r} has {len(rows)} cells of single-class proteins, need "
                f"at least {section.min_pool}: lower donors.min_pool or merge rare classes"
            )
            raise InputError(msg)
    return chosen


def _choose_centres(job: Job, cells: Cells) -> list[Ints]:
    """Return experiment 1's cells of each class, in the seeded order its folds are cut from."""
    section = job.config.classification
    single = cells.labels.sum(1) == 1
    members = [np.flatnonzero(single & cells.labels[:, k]) for k in range(len(job.classes))]
    smallest = min(range(len(members)), key=lambda k: len(members[k]))
    count = min(section.crops_per_class, len(members[smallest]))
    if count < section.folds:
        msg = (
            f"class {job.classes[smallest]!r} has {count} usable cells of single-class proteins; "
            f"{section.folds} folds need at least {section.folds}: merge rare classes in the "
            "plate map, or lower classification.folds"
        )
        raise InputError(msg)
    order = (draw.order(job.config.seed, "centre", cells.ids[rows]) for rows in members)
    return [rows[first[:count]] for rows, first in zip(members, order, strict=True)]


def _write_index(job: Job, bank: str, table: PlateCells, chosen: list[Ints]) -> list[str]:
    store, classes = job.store, len(job.classes)
    width = max(map(len, chosen))
    slot = "draw" if bank == "centres" else "slot"
    dims = {"localization": classes, slot: width}
    rows = np.full((classes, width), -1, np.int64)
    for k, members in enumerate(chosen):
        rows[k, : len(members)] = members
    filled = rows >= 0
    bounds = cell_ranges(job, table.plate, np.where(filled, rows, 0).ravel())
    arrays = {
        "row": rows,
        "id": np.where(filled, table.cells.ids[rows], np.uint64(0)),
        "protein": np.where(filled, table.cells.protein[rows], -1).astype(np.int32),
        "field": np.where(filled, table.cells.field[rows], -1).astype(np.int32),
    }
    store.create_group(
        bank, coords={"localization": job.classes, "channel": job.channels}, plate=table.plate
    )
    files = []
    for name, values in arrays.items():
        store.create_array(f"{bank}/{name}", dims, values.dtype, chunk={})
        files += store.write(f"{bank}/{name}", [(0, classes)], values)
    store.create_array(f"{bank}/size", {"localization": classes}, "int32", chunk={})
    sizes = np.array([len(c) for c in chosen], np.int32)
    files += store.write(f"{bank}/size", [(0, classes)], sizes)
    shape = {**dims, "channel": len(job.channels)}
    store.create_array(f"{bank}/range", {**shape, "bound": 2}, "float32", chunk={}, units="counts")
    files += store.write(
        f"{bank}/range", [(0, classes)], bounds.reshape(classes, width, len(job.channels), 2)
    )
    source = store.array(f"plates/{table.plate}/crops/image")
    y, x = source.shape[-2:]
    layout: dict[str, Any] = {
        "chunk": {"localization": 1, slot: INNER_CELLS},
        "shard": {"localization": 1},
    }
    store.create_array(f"{bank}/image", {**shape, "y": y, "x": x}, source.dtype, **layout)
    store.create_array(f"{bank}/mask", {**dims, "y": y, "x": x}, "uint8", **layout)
    return files


def bank(job: Job, unit: Unit) -> Done:
    """Copy the chosen crops of one class; as windows, with their cells replaced by medium."""
    which, k = BANKS[unit.start // len(job.classes)], unit.start % len(job.classes)
    store = job.store
    plate = store.attrs(which)["plate"]
    size = int(store.read(f"{which}/size")[k])
    rows = store.read(f"{which}/row", k)
    files = []
    block: dict[str, npt.NDArray[Any]] = {}
    for name in ("image", "mask"):
        chosen = store.read_rows(f"plates/{plate}/crops/{name}", rows[:size])
        block[name] = np.zeros((len(rows), *chosen.shape[1:]), chosen.dtype)
        block[name][:size] = chosen
    if which == "windows":
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
    for name, values in block.items():
        files += store.write(f"{which}/{name}", [(k, k + 1)], values[None])
    return files, {}
