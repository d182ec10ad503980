"""Which cells are in a donor bank: equally many of every protein of a class, by a hash of the cell.

A screen has more cells than a process should hold. So its candidates are narrowed down a part at a
time, and the bank is chosen from what is left of all parts: the same as from all of them.
"""

import numpy as np

from bgscale import draw
from bgscale.settings.covering import Ints
from bgscale.settings.donors import Bools, Cells


def shares(labels: Bools, present: Bools, *, per_class: int, seed: int, purpose: str) -> Ints:
    """Return how many cells each protein gives to the bank of its class.

    Parameters
    ----------
    labels : array (protein, localization), bool
        The classes of each protein; one of several, or of none, gives nothing.
    present : array (protein,), bool
        Whether it has a candidate.
    per_class : int
        Equally many of every protein; of more proteins than `per_class`, drawn ones give one each.

    Returns
    -------
    array (protein,), int64
    """
    share = np.zeros(len(labels), np.int64)
    giving = present & (labels.sum(1) == 1)
    for k in range(labels.shape[1]):
        proteins = np.flatnonzero(giving & labels[:, k])
        if len(proteins) > per_class:
            drawn = draw.order(seed, f"{purpose}/protein", proteins.astype(np.uint64))
            proteins = proteins[drawn[:per_class]]
        share[proteins] = per_class // max(len(proteins), 1)
    return share


def shortlist(cells: Cells, share: Ints, *, seed: int, purpose: str) -> Ints:
    """Return the rows of cells that `select_donors` might choose, whatever other cells there are.

    Of a screen, a part at a time can so be narrowed down, and the bank chosen from what is left.

    Parameters
    ----------
    cells : Cells
        All candidates of their fields.
    share : array (protein,), int64
        Of all candidates: `shares`.

    Returns
    -------
    array (row,), int64
        Sorted.
    """
    rows = np.flatnonzero(share[cells.protein] > 0)
    rows = rows[draw.order(seed, purpose, cells.ids[rows])]
    # the cells of a field together, in that order
    rows = rows[np.lexsort((cells.field[rows], cells.protein[rows]))]
    protein, field = cells.protein[rows], cells.field[rows]
    begins = np.ones(len(rows), np.bool_)
    begins[1:] = (protein[1:] != protein[:-1]) | (field[1:] != field[:-1])
    first = np.maximum.accumulate(np.where(begins, np.arange(len(rows)), 0))
    return np.sort(rows[np.arange(len(rows)) - first < share[protein]])


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
    count, classes = int(cells.protein.max(initial=-1)) + 1, cells.labels.shape[1]
    labels, present = np.zeros((count, classes), np.bool_), np.zeros(count, np.bool_)
    labels[cells.protein], present[cells.protein] = cells.labels, True
    share = shares(labels, present, per_class=per_class, seed=seed, purpose=purpose)
    chosen = []
    for k in range(classes):
        rows = np.flatnonzero(((share > 0) & labels[:, k])[cells.protein])
        rows = rows[draw.order(seed, purpose, cells.ids[rows])]
        # cells of a protein together, in that order
        rows = rows[np.argsort(cells.protein[rows], kind="stable")]
        starts = np.flatnonzero(np.diff(cells.protein[rows], prepend=-1))
        groups = np.split(rows, starts[1:]) if len(rows) else []
        picked = [
            _of_protein(own, cells.field, int(share[cells.protein[own[0]]]), per_field)
            for own in groups
        ]
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
