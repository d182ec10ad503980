"""From a crops screen to cells, and the intensity ranges of proteins.

`cut` reads each crop file once and writes crops, masks and the cell table, a shard at a time.
`ranges` takes each protein's intensity range. Fields of plates are the work of `stages.fields`,
donors that of `stages.banks`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from bgscale import crops as crop_kernels
from bgscale import draw, segment
from bgscale.distribute.ledger import Files
from bgscale.distribute.units import Unit
from bgscale.errors import InputError
from bgscale.results import INNER_CELLS
from bgscale.schema import Reason
from bgscale.screen import Screen
from bgscale.settings import Ints
from bgscale.stages.job import Job

RANGE_CELLS = 512
"""Cells of a protein that its intensity range is taken from: all, or so many by hash."""
RANGE_GROUPS = 64
"""Proteins whose ranges one unit takes."""
MIN_SHARDS = 16
_GROUP = ("protein", "field")
"""What an intensity range is taken by."""

Done = tuple[Files, dict[str, Any]]


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
    coords = {"protein": screen.proteins, "localization": screen.classes}
    store.create_group("proteins", coords=coords, plate_map=screen.plate_map.columns)
    shape = {"protein": len(screen.proteins), "localization": len(screen.classes)}
    store.create_array(
        "proteins/label", shape, "uint8", chunk={}, long_name="whether the protein has the class"
    )
    region = [(0, shape["protein"])]
    return store.write("proteins/label", region, screen.plate_map.labels.astype("uint8")), {}


def _crops_screen(job: Job) -> Screen:
    if job.screen.kind != "crops":
        msg = f"a screen of {job.screen.kind} has no crops to read"
        raise InputError(msg)
    return job.screen


def create_cells(job: Job) -> None:
    """Create the cell table and crop arrays of a crops screen, with their final shape."""
    screen = _crops_screen(job)
    plate, n = screen.plates[0], len(screen.items)
    create_table(job, plate, n, _COLUMNS, screen.field_names())
    create_crops(job, plate, n, screen.crop_shape, screen.dtype)


Columns = Mapping[str, tuple[str, str, str]]
"""Name -> dtype, unit, what it is."""


def create_table(
    job: Job, plate: str, n: int, columns: Columns, field_names: Sequence[str]
) -> None:
    """Create the cell table of a plate."""
    names = {
        "protein": list(job.proteins),
        "field": list(field_names),
        "reason": {int(r): r.text for r in Reason},
    }
    node = f"plates/{plate}/cells"
    job.store.create_group(node, coords={}, description="one row a cell, in the order of the crops")
    for name, (dtype, units, text) in columns.items():
        attrs: dict[str, Any] = {"long_name": text, "units": units, "names": names.get(name)}
        kept = {key: value for key, value in attrs.items() if value}
        job.store.create_array(
            f"{node}/{name}", {"cell": n}, dtype, chunk={"cell": shard_cells(job, n)}, **kept
        )


def create_crops(
    job: Job, plate: str, n: int, shape: tuple[int, int], dtype: np.dtype[Any]
) -> None:
    """Create the crops and masks of a plate."""
    node = f"plates/{plate}/crops"
    job.store.create_group(node, coords={"channel": job.channels}, description="single-cell crops")
    dims = {"cell": n, "channel": len(job.channels), "y": shape[0], "x": shape[1]}
    layout: dict[str, Any] = {
        "chunk": {"cell": INNER_CELLS},
        "shard": {"cell": shard_cells(job, n)},
    }
    job.store.create_array(
        f"{node}/image", dims, dtype, units="counts", long_name="pixels as imaged", **layout
    )
    del dims["channel"]
    job.store.create_array(
        f"{node}/mask", dims, "uint8", long_name="0 medium, 1 centre cell, 2 other cells", **layout
    )


_COLUMNS: Columns = {
    "id": ("uint64", "", "identity: hash of plate, well, field and number"),
    "protein": ("int32", "", "code of the protein; -1: none"),
    "field": ("int32", "", "code of plate, well and field"),
    "number": ("int64", "", "number of the cell in its field"),
    "reason": ("uint8", "", "why the cell cannot be used; 0: usable"),
    "area": ("int32", "px", "area of the centre cell"),
    "neighbours": ("int32", "", "number of other cells in the crop"),
    "neighbour_area": ("int32", "px", "area of other cells in the crop"),
    "medium_area": ("int32", "px", "area without cells in the crop"),
}


def lose_cells(job: Job, unit: Unit) -> Done:
    """Mark the crops of a unit that cannot be done."""
    return cut(job, unit, lost=True)


def cut(job: Job, unit: Unit, *, lost: bool = False) -> Done:
    """Read crops, find the centre cell and its neighbours, measure, write a shard; or mark it."""
    screen, store = _crops_screen(job), job.store
    rows = np.arange(unit.start, unit.stop)
    if lost:
        like = store.array(f"plates/{screen.plates[0]}/crops/image")
        image = np.zeros((len(rows), *like.shape[1:]), like.dtype)
        mask = np.zeros((len(rows), *like.shape[2:]), np.uint8)
        reason = np.full(len(rows), Reason.LOST, np.uint8)
    else:
        block = screen.read(rows)
        image, reason = block.image, block.reason.copy()
        cytosol = job.channels.index("cytosol") if "cytosol" in job.channels else None
        mask, found = segment.masks(
            image[:, cytosol] if cytosol is not None else None, block.mask, reason == Reason.OK
        )
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
    plate = screen.plates[0]
    for name, (dtype, _, _) in _COLUMNS.items():
        path = f"plates/{plate}/cells/{name}"
        files += store.write(path, region, np.asarray(columns[name]).astype(dtype))
    files += store.write(f"plates/{plate}/crops/image", region, image)
    files += store.write(f"plates/{plate}/crops/mask", region, mask)
    counts = np.bincount(reason, minlength=max(Reason) + 1)
    return files, {"cells": len(rows), **{r.name: int(counts[r]) for r in Reason if counts[r]}}


def create_ranges(job: Job, plate: str) -> None:
    """Create the table of intensity ranges: a row per protein, or per protein and field."""
    store = job.store
    protein, field = _groups(job, plate)
    node = f"plates/{plate}/ranges"
    store.create_group(
        node, coords={"channel": job.channels}, description="intensities of each protein"
    )
    size = {"group": len(protein)}
    for name, codes in zip(_GROUP, (protein, field), strict=True):
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
    if job.config.screen.intensity_scaling != "field":
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


def cell_ranges(job: Job, plate: str, protein: Ints, field: Ints) -> npt.NDArray[np.float32]:
    """Return the intensity range of the protein of each cell: (cell, channel, bound), float32.

    Zeros where there is none.
    """
    node = f"plates/{plate}/ranges"
    of_protein, of_field = (job.store.read(f"{node}/{n}").astype(np.int64) for n in _GROUP)
    by_field = job.config.screen.intensity_scaling == "field"
    width = job.field_count(plate) + 1
    keys = of_protein * width + of_field + 1
    wanted = protein * width + (field + 1 if by_field else 0)
    bounds = job.store.read(f"{node}/range")
    out = np.zeros((len(wanted), *bounds.shape[1:]), np.float32)
    if len(keys):
        place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
        known = keys[place] == wanted
        out[known] = bounds[place[known]]
    return out
