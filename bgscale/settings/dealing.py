"""Donors of experiment 1: dealt from a seeded deck to a fixed list of cells."""

import numpy as np
from scipy.optimize import linear_sum_assignment

from bgscale import draw
from bgscale.schema import Missing
from bgscale.settings.covering import Bits, Ints, uncovered_bits
from bgscale.settings.donors import Cells, Donors, Pool, by_plate
from bgscale.settings.registry import Setting


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

    The published folds of experiment 1 must not share backgrounds: a classifier that has seen a
    background with one class takes a held-out crop on it for that class. Under `same` that is
    right, and under `different`, where both classes of a pair draw on the same donors, wrong. So
    donors are dealt, not drawn, and each donor to cells of one fold only, whatever their class
    (grouped folds divide donors, and so are fitted without the cells of the published fold too:
    `evaluate.classify`). And what stays visible of a donor's own centre cell tells its class too:
    of all ways to deal, the one is taken that leaves the fewest such pixels, its blurred rim
    included (a linear assignment of cells to the seeded deck).

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
        Of the cross-validation: successive parts of the cells. These are the published folds where
        they are equal: the cells are a multiple of the folds.
    covered : bool
        False: dealt in the deck's order, whatever stays visible.
    own_bits : array (cell, word), uint64
        Masks of the cells, from `pack`.
    donor_bits : array (slot, word), uint64
        Those of the class's donors, with a rim of `covering.RIM_PX`.
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
    if plate_of is not None and by_plate(setting, plate_of):
        allowed = allowed & (plate_of[fields] == plate_of[cells.field][:, None])
        absent = Missing.NO_DONOR_ON_PLATE
    purpose = f"deal/{setting.source}/{setting.choice}/{localization}"
    deck = draw.order(seed, purpose, np.arange(size, dtype=np.uint64))
    visible = np.zeros((n, size), np.float64)
    if covered:
        dealt = donor_bits[deck]
        for i in range(n):
            visible[i] = uncovered_bits(own_bits[i], dealt)
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
