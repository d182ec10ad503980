"""Who lends a background: a donor of the bank for every cell.

A donor is a function of (seed, purpose, cell id): never of batch, order or worker. Experiment 1
deals them instead: `dealing`. Who is in the bank: `choosing`.
"""

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from bgscale import draw
from bgscale.schema import Missing
from bgscale.settings.covering import Ints
from bgscale.settings.registry import Setting

Bools: TypeAlias = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Cells:
    """What the draw needs to know of cells.

    Parameters
    ----------
    ids : array (cell,), uint64
    protein, field : array (cell,), int64
        Codes; a field code stands for (plate, well, field).
    labels : array (cell, localization), bool
        The classes of the cell's protein.
    """

    ids: draw.UInt64Array
    protein: Ints
    field: Ints
    labels: Bools

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, rows: npt.NDArray[Any]) -> "Cells":
        """Return the cells of these rows (indices or a mask)."""
        return Cells(self.ids[rows], self.protein[rows], self.field[rows], self.labels[rows])


@dataclass(frozen=True)
class Pool:
    """Who is in a donor bank: per class, sorted by protein and field.

    Parameters
    ----------
    sizes : array (localization,), int64
        Filled slots of each class.
    protein, field : array (localization, slot), int64
        Codes; what lies beyond `sizes` is -1.
    """

    sizes: Ints
    protein: Ints
    field: Ints

    @property
    def of_one_protein(self) -> Bools:
        """Whether all donors of a class are of the same protein: (localization,), bool."""
        filled = np.arange(self.protein.shape[1]) < self.sizes[:, None]
        return np.asarray((~filled | (self.protein == self.protein[:, :1])).all(1))

    def on(self, plate: int, plate_of: Ints) -> tuple["Pool", Ints]:
        """Return the donors from one plate, and the slot that each has here.

        Parameters
        ----------
        plate : int
        plate_of : array (field,), int64
            Plate of each field code.
        """
        places = [
            np.flatnonzero(plate_of[self.field[k, :size]] == plate)
            for k, size in enumerate(self.sizes.tolist())
        ]
        slots = np.full((len(places), max(max(map(len, places)), 1)), -1, np.int64)
        protein, field = slots.copy(), slots.copy()
        for k, own in enumerate(places):
            slots[k, : len(own)] = own
            protein[k, : len(own)], field[k, : len(own)] = self.protein[k, own], self.field[k, own]
        return Pool(np.array([len(own) for own in places]), protein, field), slots


@dataclass(frozen=True)
class Donors:
    """Which donor each cell got.

    Parameters
    ----------
    localization, slot : array (cell,), int64
        Place in the bank; -1 where there is none.
    missing : array (cell,), uint8
        `schema.Missing` codes.
    """

    localization: Ints
    slot: Ints
    missing: npt.NDArray[np.uint8]

    def take(self, part: slice) -> "Donors":
        """Return the donors of some of the cells."""
        return Donors(self.localization[part], self.slot[part], self.missing[part])


def draw_donors(
    setting: Setting, cells: Cells, pool: Pool, *, seed: int, plate_of: Ints | None = None
) -> Donors:
    """Draw one donor per cell.

    Parameters
    ----------
    setting : Setting
        One that swaps.
    cells : Cells
    pool : Pool
        Of crops or of windows, as the setting's source says.
    seed : int
    plate_of : array (field,), int64, optional
        Plate of each field code, for settings of the same plate; None: all are of one.

    Returns
    -------
    Donors

    Notes
    -----
    A donor is never of the cell's own protein; where a class has one protein only, it is of another
    field. `same` draws its class uniformly from the cell's own, `different` and `cell_free` from
    the others. A cell without a class has no `same` and no `different`. On its own plate a cell
    draws from the classes that have donors there; where all have, it is the class that it draws
    from all plates.
    """
    return draw_candidates(setting, cells, pool, seed=seed, plate_of=plate_of)[0]


def draw_candidates(
    setting: Setting,
    cells: Cells,
    pool: Pool,
    *,
    seed: int,
    candidates: int = 1,
    plate_of: Ints | None = None,
) -> tuple[Donors, Ints]:
    """Draw several donors per cell: `draw_donors`, again and again.

    The class of the background stays; the donor of it is drawn anew.

    Returns
    -------
    Donors
        The first ones.
    array (candidate, cell), int64
        Slots of all, the first included; -1 where there is none, which is so for all or for none.
    """
    lone = pool.of_one_protein
    allowed = cells.labels if setting.choice != "different" else ~cells.labels
    if not by_plate(setting, plate_of):
        return _drawn(setting, cells, pool, allowed, lone, seed, candidates)
    assert plate_of is not None
    n = len(cells)
    localization, missing = np.full(n, -1), np.zeros(n, np.uint8)
    every = np.full((candidates, n), -1)
    own_plate = plate_of[cells.field]
    for plate in np.unique(own_plate):
        rows = np.flatnonzero(own_plate == plate)
        there, slots = pool.on(int(plate), plate_of)
        offered = allowed[rows] & (there.sizes > 0)
        own = cells.take(rows)
        drawn, places = _drawn(setting, own, there, offered, lone, seed, candidates)
        absent = allowed[rows].any(1) & (drawn.missing == Missing.NO_DONOR)
        missing[rows] = np.where(absent, Missing.NO_DONOR_ON_PLATE, drawn.missing)
        localization[rows] = drawn.localization
        every[:, rows] = np.where(places < 0, -1, slots[drawn.localization, places])
    return Donors(localization, every[0], missing), every


def by_plate(setting: Setting, plate_of: Ints | None) -> bool:
    """Whether donors are to be found plate by plate."""
    return setting.same_plate and plate_of is not None and bool((plate_of != plate_of[:1]).any())


def _drawn(
    setting: Setting,
    cells: Cells,
    pool: Pool,
    allowed: Bools,
    lone: Bools,
    seed: int,
    candidates: int,
) -> tuple[Donors, Ints]:
    """Draw donors of an allowed class for each cell; `lone` are the classes of one protein."""
    purpose = f"donor/{setting.source}/{setting.choice}"
    missing = np.zeros(len(cells), np.uint8)
    if setting.source == "crop":
        missing[~cells.labels.any(1)] = Missing.NO_LABEL
    localization = _nth_true(allowed, seed, purpose + "/class", cells.ids)
    missing[(localization < 0) & (missing == 0)] = Missing.NO_DONOR
    asked = np.where(missing == 0, localization, -1)
    slots = draw_slots(setting, cells, pool, asked, lone, seed, purpose, candidates)
    missing[(slots[0] < 0) & (missing == 0)] = Missing.NO_DONOR
    localization[missing != 0] = -1
    return Donors(localization, slots[0], missing), slots


def _nth_true(allowed: Bools, seed: int, purpose: str, ids: draw.UInt64Array) -> Ints:
    """Return a uniformly drawn true column per row, -1 where there is none."""
    counts = allowed.sum(1)
    nth = draw.integers(seed, purpose, ids, counts)
    column = (np.cumsum(allowed, 1) > nth[:, None]).argmax(1)
    return np.where(counts > 0, column, -1)


def draw_slots(
    setting: Setting,
    cells: Cells,
    pool: Pool,
    localization: Ints,
    lone: Bools,
    seed: int,
    purpose: str,
    candidates: int,
) -> Ints:
    """Return slots of a class per cell, outside its own protein (or field).

    Parameters
    ----------
    setting : Setting
    cells : Cells
    pool : Pool
    localization : array (cell,), int64
        Class that lends; -1: none does.
    lone : array (localization,), bool
        Classes of one protein.
    seed : int
    purpose : str
    candidates : int

    Returns
    -------
    array (candidate, cell), int64
        -1 where none is left to lend.
    """
    first, skip, skipped, count = np.zeros((4, len(cells)), np.int64)
    for k in np.unique(localization[localization >= 0]).tolist():
        rows = np.flatnonzero(localization == k)
        found = _openings(setting, cells.protein[rows], cells.field[rows], pool, k, lone=lone[k])
        first[rows], skip[rows], skipped[rows], count[rows] = found
    slots = draw.several(seed, purpose + "/slot", cells.ids, np.maximum(count, 0), candidates)
    slots += first
    slots += np.where(slots >= skip, skipped, 0)
    return np.where(count > 0, slots, -1)


def _openings(
    setting: Setting, protein: Ints, field: Ints, pool: Pool, k: int, *, lone: np.bool_
) -> tuple[Ints, Ints, Ints, Ints]:
    """Return which slots of a class cells may draw, each (cell,), int64.

    They begin at the first; from the second on some are skipped, as many as the third says; the
    fourth is how many there are.
    """
    size = int(pool.sizes[k])
    proteins, fields = pool.protein[k, :size], pool.field[k, :size]
    low = np.searchsorted(proteins, protein, "left")
    high = np.searchsorted(proteins, protein, "right")
    # within a protein's range the fields are sorted: a joint key finds the field's range
    width = 1 + max(int(fields.max(initial=0)), int(field.max(initial=0)))
    joint = proteins * width + fields
    own = protein * width + field
    field_low = np.searchsorted(joint, own, "left")
    field_high = np.searchsorted(joint, own, "right")
    if setting.choice == "protein":
        first, last, skip_low, skip_high = low, high, field_low, field_high
    else:
        first, last = np.zeros_like(low), np.full_like(high, size)
        alone = lone & (high - low == size)
        skip_low = np.where(alone, field_low, low)
        skip_high = np.where(alone, field_high, high)
    skipped = skip_high - skip_low
    return first, skip_low, skipped, (last - first) - skipped
