"""Who lends a background: the choice of a donor bank, and of a donor for every cell.

A donor is a function of (seed, purpose, cell id), or is dealt from a seeded deck to a fixed list of
cells: never of batch, order or worker.
"""

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.optimize import linear_sum_assignment

from bgscale import draw
from bgscale.schema import CENTRE_CELL, Missing
from bgscale.settings.registry import Setting

RIM_PX = 2
"""Blur lights a donor beyond its own centre cell, and tells its class as well."""

Ints: TypeAlias = npt.NDArray[np.int64]
Bools: TypeAlias = npt.NDArray[np.bool_]
Bits: TypeAlias = npt.NDArray[np.uint8]


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


def select_donors(
    cells: Cells, *, per_class: int, per_field: int, seed: int, purpose: str
) -> list[Ints]:
    """Choose the donor bank: rows of `cells`, one sorted list per class.

    Only cells of proteins with a single class lend their background. Every protein gives equally
    many (``per_class / proteins``; a protein with fewer gives all it has), and no field more than
    `per_field`; among the candidates a hash of the cell decides. Where a class has more proteins
    than `per_class`, drawn proteins give one cell each.

    Parameters
    ----------
    cells : Cells
        Candidates; rows with several labels or none are passed over.
    per_class, per_field : int
        `per_field` 0: twice an even share of the protein's fields.

    Returns
    -------
    list of array (slot,), int64
        Sorted by protein, field and identity, so that a protein is one range.
    """
    single = cells.labels.sum(1) == 1
    chosen = []
    for k in range(cells.labels.shape[1]):
        rows = np.flatnonzero(single & cells.labels[:, k])
        rows = rows[draw.order(seed, purpose, cells.ids[rows])]
        # cells of a protein together, in that order
        rows = rows[np.argsort(cells.protein[rows], kind="stable")]
        proteins, starts = np.unique(cells.protein[rows], return_index=True)
        groups = np.split(rows, starts[1:]) if len(proteins) else []
        if len(proteins) > per_class:
            drawn = draw.order(seed, f"{purpose}/protein", proteins.astype(np.uint64))
            groups = [groups[i] for i in drawn[:per_class].tolist()]
        quota = per_class // max(len(groups), 1)
        picked = [_of_protein(own, cells.field, quota, per_field) for own in groups]
        taken = np.concatenate(picked) if picked else np.empty(0, np.int64)
        chosen.append(
            taken[np.lexsort((cells.ids[taken], cells.field[taken], cells.protein[taken]))]
        )
    return chosen


def _of_protein(rows: Ints, field: Ints, quota: int, per_field: int) -> Ints:
    """Return the first `quota` rows that keep each field below its cap."""
    fields, codes = np.unique(field[rows], return_inverse=True)
    cap = per_field or -(-2 * quota // len(fields))
    # rank of a row within its field, in the order given
    by_field = np.argsort(codes, kind="stable")
    starts = np.searchsorted(codes[by_field], np.arange(len(fields)))
    rank = np.empty(len(rows), np.int64)
    rank[by_field] = np.arange(len(rows)) - starts[codes[by_field]]
    return rows[rank < cap][:quota]


def draw_donors(
    setting: Setting,
    cells: Cells,
    pool: Pool,
    *,
    seed: int,
    candidate: int = 0,
    plate_of: Ints | None = None,
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
    candidate : int
        Number of the draw: the class stays, the donor of it is drawn anew.
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
    lone = pool.of_one_protein
    allowed = cells.labels if setting.choice != "different" else ~cells.labels
    if not _by_plate(setting, plate_of):
        return _drawn(setting, cells, pool, allowed, lone, seed, candidate)
    assert plate_of is not None
    n = len(cells)
    found = Donors(np.full(n, -1), np.full(n, -1), np.zeros(n, np.uint8))
    own_plate = plate_of[cells.field]
    for plate in np.unique(own_plate):
        rows = np.flatnonzero(own_plate == plate)
        there, slots = pool.on(int(plate), plate_of)
        offered = allowed[rows] & (there.sizes > 0)
        drawn = _drawn(setting, cells.take(rows), there, offered, lone, seed, candidate)
        absent = allowed[rows].any(1) & (drawn.missing == Missing.NO_DONOR)
        found.missing[rows] = np.where(absent, Missing.NO_DONOR_ON_PLATE, drawn.missing)
        found.localization[rows] = drawn.localization
        found.slot[rows] = np.where(drawn.slot < 0, -1, slots[drawn.localization, drawn.slot])
    return found


def _by_plate(setting: Setting, plate_of: Ints | None) -> bool:
    """Whether donors are to be found plate by plate."""
    return setting.same_plate and plate_of is not None and bool((plate_of != plate_of[:1]).any())


def _drawn(
    setting: Setting,
    cells: Cells,
    pool: Pool,
    allowed: Bools,
    lone: Bools,
    seed: int,
    candidate: int,
) -> Donors:
    """Draw a donor of an allowed class for each cell; `lone` are the classes of one protein."""
    purpose = f"donor/{setting.source}/{setting.choice}"
    n, classes = cells.labels.shape
    missing = np.zeros(n, np.uint8)
    if setting.source == "crop":
        missing[~cells.labels.any(1)] = Missing.NO_LABEL
    localization = _nth_true(allowed, seed, purpose + "/class", cells.ids)
    missing[(localization < 0) & (missing == 0)] = Missing.NO_DONOR
    slot = np.full(n, -1, np.int64)
    for k in range(classes):
        rows = np.flatnonzero((localization == k) & (missing == 0))
        if len(rows):
            own, bound = cells.take(rows), lone[k]
            slot[rows] = draw_slots(setting, own, pool, k, bound, seed, purpose, candidate)
    missing[(slot < 0) & (missing == 0)] = Missing.NO_DONOR
    localization[missing != 0] = -1
    return Donors(localization, slot, missing)


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
    k: int,
    lone: np.bool_,
    seed: int,
    purpose: str,
    candidate: int,
) -> Ints:
    """Return a slot of class k per cell, outside its own protein (or field); -1: none is left."""
    size = int(pool.sizes[k])
    proteins, fields = pool.protein[k, :size], pool.field[k, :size]
    low = np.searchsorted(proteins, cells.protein, "left")
    high = np.searchsorted(proteins, cells.protein, "right")
    # within a protein's range the fields are sorted: a joint key finds the field's range
    width = 1 + max(int(fields.max(initial=0)), int(cells.field.max(initial=0)))
    joint = proteins * width + fields
    own = cells.protein * width + cells.field
    field_low = np.searchsorted(joint, own, "left")
    field_high = np.searchsorted(joint, own, "right")
    if setting.choice == "protein":
        first, last, skip_low, skip_high = low, high, field_low, field_high
    else:
        first, last = np.zeros_like(low), np.full_like(high, size)
        alone = lone & (high - low == size)
        skip_low = np.where(alone, field_low, low)
        skip_high = np.where(alone, field_high, high)
    count = (last - first) - (skip_high - skip_low)
    slot = first + draw.integers(
        seed, purpose + "/slot", cells.ids, np.maximum(count, 0), candidate
    )
    slot += np.where(slot >= skip_low, skip_high - skip_low, 0)
    return np.where(count > 0, slot, -1)


def deal_donors(
    setting: Setting,
    cells: Cells,
    pool: Pool,
    *,
    localization: int,
    seed: int,
    folds: int,
    covered: bool,
    own_bits: Bits,
    donor_bits: Bits,
    plate_of: Ints | None = None,
) -> Donors:
    """Deal donors of one class to the cells of experiment 1, no donor twice as far as they reach.

    The folds of experiment 1 must not share backgrounds: a classifier that has seen a background
    with one class takes a held-out crop on it for that class. Under `same` that is right, and under
    `different`, where both classes of a pair draw on the same donors, wrong. So donors are dealt,
    not drawn, and each donor to cells of one fold only, whatever their class. And what stays
    visible of a donor's own centre cell tells its class too: of all ways to deal, the one is taken
    that leaves the fewest such pixels, its blurred rim included (a linear assignment of cells to
    the seeded deck).

    Parameters
    ----------
    setting : Setting
        One whose donors are crops or windows.
    cells : Cells
        In the order of the draw.
    pool : Pool
    localization : int
        Class of the donors.
    seed : int
    folds : int
        Of the cross-validation: successive parts of the cells, nearly equal.
    covered : bool
        False: dealt in the deck's order, whatever stays visible.
    own_bits : array (cell, byte), uint8
        Masks of the cells, from `pack`.
    donor_bits : array (slot, byte), uint8
        Those of the class's donors, with a rim of `RIM_PX`.
    plate_of : array (field,), int64, optional
        As in `draw_donors`.

    Returns
    -------
    Donors
    """
    size, n = int(pool.sizes[localization]), len(cells)
    proteins, fields = pool.protein[localization, :size], pool.field[localization, :size]
    own = proteins == cells.protein[:, None]
    here = own & (fields == cells.field[:, None])
    if setting.choice == "protein":
        allowed = own & ~here
    else:
        allowed = np.where(own.all(1)[:, None], ~here, ~own)
    absent = Missing.NO_DONOR
    if plate_of is not None and _by_plate(setting, plate_of):
        allowed = allowed & (plate_of[fields] == plate_of[cells.field][:, None])
        absent = Missing.NO_DONOR_ON_PLATE
    purpose = f"deal/{setting.source}/{setting.choice}/{localization}"
    deck = draw.order(seed, purpose, np.arange(size, dtype=np.uint64))
    visible = np.zeros((n, size), np.float64)
    if covered:
        for i in range(n):
            visible[i] = uncovered_bits(own_bits[i], donor_bits[deck])
    allowed = allowed[:, deck]
    of_fold = allowed & ((np.arange(n) * folds // n)[:, None] == np.arange(size) % folds)
    # a small pool may have nobody for a cell in its fold
    allowed = np.where(of_fold.any(1)[:, None], of_fold, allowed)
    # dearer than any deal without a forbidden pair
    cost = np.where(allowed, visible, 1 + n * (1 + visible.max(initial=0)))
    slot = np.full(n, -1, np.int64)
    waiting = np.flatnonzero(allowed.any(1))
    while len(waiting):  # once, unless there are fewer donors than cells
        row, place = linear_sum_assignment(cost[waiting])
        given = allowed[waiting[row], place]
        slot[waiting[row[given]]] = deck[place[given]]
        waiting = np.delete(waiting, row[given])
    missing = np.where(slot < 0, absent, Missing.PRESENT).astype(np.uint8)
    return Donors(np.where(slot < 0, -1, localization), slot, missing)


def pack(mask: npt.NDArray[np.uint8], *, rim_px: int = 0) -> Bits:
    """Return the centre cells of masks (..., y, x), grown by a rim, as bits: (..., byte), uint8."""
    cells = mask == CENTRE_CELL
    if rim_px:
        cells = ndimage.maximum_filter(cells, 2 * rim_px + 1, axes=(-2, -1))
    return np.packbits(cells.reshape(*mask.shape[:-2], -1), axis=-1)


def uncovered_bits(mask: Bits, donor_mask: Bits) -> Ints:
    """Return `uncovered_px` of masks that `pack` has packed: (cell,), int64."""
    return np.asarray(np.bitwise_count(donor_mask & ~mask).sum(-1, dtype=np.int64))


def uncovered_px(
    mask: npt.NDArray[np.uint8], donor_mask: npt.NDArray[np.uint8]
) -> npt.NDArray[np.int32]:
    """Return how many pixels of the donor's own centre cell stay visible: (cell,), int32."""
    visible = (donor_mask == CENTRE_CELL) & (mask != CENTRE_CELL)
    return np.asarray(visible.sum((1, 2), dtype=np.int32))
