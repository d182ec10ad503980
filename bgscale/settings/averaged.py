"""Several backgrounds for one cell, over which its features are averaged.

Owns who lends them. The one idea: the classes of the backgrounds are the same for every cell,
whatever its own; were its own left out, as `different` does, a cell's class would be told by the
class that is never behind it.
"""

from dataclasses import replace

import numpy as np

from bgscale import draw
from bgscale.settings.covering import Ints
from bgscale.settings.donors import Cells, Pool, draw_slots
from bgscale.settings.registry import Setting

AVERAGED = Setting(
    "averaged", "crop", scale=True, description="one of several backgrounds of any class"
)
"""Not in the registry: it is not a setting that one asks for, but how a model reads one."""


def spread_classes(
    ids: draw.UInt64Array, classes: int, *, backgrounds: int, seed: int, purpose: str
) -> Ints:
    """Return the class of each background of each cell: (background, cell), int64.

    The classes in an order of the cell's own, over and over: none is there twice before all are
    there once.

    Parameters
    ----------
    ids : array (cell,), uint64
    classes, backgrounds : int
    seed : int
    purpose : str

    Examples
    --------
    >>> ids = np.arange(2, dtype=np.uint64)
    >>> spread_classes(ids, 2, backgrounds=4, seed=0, purpose="").tolist()
    [[0, 1], [1, 0], [0, 1], [1, 0]]
    """
    words = [draw.words(seed, f"{purpose}/class", ids, k) for k in range(classes)]
    turn = np.argsort(words, axis=0, kind="stable").astype(np.int64)
    return turn[np.arange(backgrounds) % classes]


def on_backgrounds(cells: Cells, *, backgrounds: int, seed: int, purpose: str) -> Cells:
    """Return every cell so many times, each time with an identity of its own to draw by.

    Returns
    -------
    Cells
        First all cells for the first background, then for the second.
    """
    ids = [draw.words(seed, f"{purpose}/background", cells.ids, j) for j in range(backgrounds)]
    return replace(
        cells.take(np.tile(np.arange(len(cells)), backgrounds)),
        ids=np.concatenate([np.zeros(0, np.uint64), *ids]),
    )


def draw_of_classes(
    cells: Cells, pool: Pool, localization: Ints, *, seed: int, purpose: str, candidates: int = 1
) -> Ints:
    """Return donors of a given class for each cell: (candidate, cell), int64, slots; -1: none.

    Never of the cell's own protein; where the class has one protein only, of another field.

    Parameters
    ----------
    cells : Cells
    pool : Pool
    localization : array (cell,), int64
    seed : int
    purpose : str
    candidates : int
        Draws.
    """
    lone = pool.of_one_protein
    return draw_slots(AVERAGED, cells, pool, localization, lone, seed, purpose, candidates)
