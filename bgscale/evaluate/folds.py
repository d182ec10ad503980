"""Folds of one pair of classes: as published, and with groups that are never divided.

Owns in which fold a cell is held out. The one idea: folds are one number per cell, and depend on
nothing but the pair's own cells.
"""

from functools import lru_cache
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from sklearn.model_selection import StratifiedKFold

Integers: TypeAlias = npt.NDArray[np.int64]

NO_FOLD = -1


@lru_cache(maxsize=64)
def published_folds(cells_a: int, cells_b: int, folds: int) -> Integers:
    """Return the fold that holds out each cell, those of class a first.

    The published folds: stratified by class, not shuffled, so that the order of the cells decides.

    Parameters
    ----------
    cells_a, cells_b : int
        Each at least `folds`.
    folds : int

    Returns
    -------
    array (cell,), int64
        Read only.

    Examples
    --------
    >>> published_folds(4, 2, 2).tolist()
    [0, 0, 1, 1, 0, 1]
    """
    labels = np.repeat([0, 1], [cells_a, cells_b])
    held_out = np.empty(len(labels), np.int64)
    for fold, (_, test) in enumerate(StratifiedKFold(folds).split(labels, labels)):
        held_out[test] = fold
    # kept: pairs of as many cells have the same
    held_out.setflags(write=False)
    return held_out


def draw_folds(draws: int, folds: int) -> Integers:
    """Return the published fold of each draw of a pair, whichever of them are missing.

    A draw stays in its fold where others are missing, so that its donor, which is dealt to cells of
    one fold, does too. Where none is missing these are the folds of the draws that are present.

    Parameters
    ----------
    draws : int
        At least `folds`.
    folds : int

    Returns
    -------
    array (member, draw), int64

    Examples
    --------
    >>> draw_folds(4, 2).tolist()
    [[0, 0, 1, 1], [0, 0, 1, 1]]
    """
    return published_folds(draws, draws, folds).reshape(2, draws)


def grouped_folds(groups_a: Integers, groups_b: Integers, folds: int) -> Integers:
    """Return the fold that holds out each cell, where the cells of a group are held out together.

    Groups (proteins, fields or wells) are dealt by decreasing size to the fold with the fewest
    cells of their class, so that folds are balanced in both classes. Those that have cells of both
    classes come first: each goes where it meets the fewest cells of both. So each fold has cells of
    both classes. There are as many folds as the class with the fewest groups has, at most `folds`.

    Parameters
    ----------
    groups_a, groups_b : arrays (cell,), int
        The group of each cell.
    folds : int

    Returns
    -------
    array (cell,), int64
        Cells of class a first; `NO_FOLD` throughout where a class has a single group.

    Examples
    --------
    >>> grouped_folds(np.array([4, 4, 7, 8]), np.array([1, 2, 2]), 5).tolist()
    [0, 0, 1, 1, 1, 0, 0]
    """
    filled = min(folds, len(np.unique(groups_a)), len(np.unique(groups_b)))
    if filled < 2:
        return np.full(len(groups_a) + len(groups_b), NO_FOLD)
    sizes: dict[int, list[int]] = {}
    for member, groups in enumerate((groups_a, groups_b)):
        for name, size in zip(*(v.tolist() for v in np.unique_counts(groups)), strict=True):
            sizes.setdefault(name, [0, 0])[member] = size
    totals = len(groups_a), len(groups_b)

    def first(name: int) -> tuple[bool, int, int]:
        # last the number, so that groups of one size are dealt by it
        a, b = sizes[name]
        return not (a and b), -(a * totals[1] + b * totals[0]), name

    placed: dict[int, int] = {}
    cells = [[0, 0] for _ in range(filled)]
    for name in sorted(sizes, key=first):
        a, b = sizes[name]
        # whole numbers, and none of an empty fold: no rounding decides
        met = [own[0] * a * totals[1] ** 2 + own[1] * b * totals[0] ** 2 for own in cells]
        placed[name] = met.index(min(met))
        cells[placed[name]][0] += a
        cells[placed[name]][1] += b
    return np.array([placed[int(g)] for g in (*groups_a, *groups_b)], np.int64)
