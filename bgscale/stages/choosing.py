"""Cells that are chosen from a whole screen, without all of its cells in memory at once.

The tables of the plates are gone through twice: who has candidates at all says how many cells each
protein gives; then each plate is narrowed down to those that might be taken.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from bgscale.settings import Cells, Ints, select_donors, shares, shortlist
from bgscale.stages.job import Job, PlateCells


@dataclass(frozen=True)
class Candidates:
    """Crops or windows that may be chosen.

    Parameters
    ----------
    cells : Cells
        Codes of fields are those of all plates.
    rows : array (cell,), int64
        Row among those of all plates.
    """

    cells: Cells
    rows: Ints

    def take(self, rows: npt.NDArray[Any]) -> "Candidates":
        """Return some of them (indices or a mask)."""
        return Candidates(self.cells.take(rows), self.rows[rows])


def joined(parts: Iterable[Candidates]) -> Candidates:
    """Return the candidates of all plates."""
    found = list(parts)
    cells = Cells(
        *(
            np.concatenate([getattr(part.cells, name) for part in found])
            for name in ("ids", "protein", "field", "labels")
        )
    )
    return Candidates(cells, np.concatenate([part.rows for part in found]))


def evaluated(table: PlateCells) -> Ints:
    """Return the rows of a cell table that take part in the evaluation."""
    return np.flatnonzero(table.usable & table.evaluated)


def evaluated_cells(job: Job, plates: Sequence[str]) -> Iterator[tuple[PlateCells, Candidates]]:
    """Yield each of the first plates with its usable cells in fields that are evaluated."""
    start = 0
    for plate in plates:
        table = job.cells(plate)
        own = evaluated(table)
        cells = table.cells.take(own)
        codes = Cells(cells.ids, cells.protein, cells.field + job.first_fields[plate], cells.labels)
        yield table, Candidates(codes, start + own)
        start += len(table.cells)


def choose(
    job: Job,
    candidates: Callable[[], Iterator[Candidates]],
    *,
    per_class: int,
    per_field: int,
    purpose: str,
) -> tuple[Candidates, list[Ints]]:
    """Choose cells as for a donor bank: `select_donors`, of the candidates of all plates.

    Parameters
    ----------
    candidates : callable
        Goes through the plates; called twice.

    Returns
    -------
    Candidates
        Those that were left when plates had been narrowed down.
    list of array (slot,), int64
        Which of them are chosen, by class.
    """
    seed = job.config.seed
    present = np.zeros(len(job.labels), np.bool_)
    for own in candidates():
        present[own.cells.protein] = True
    share = shares(job.labels, present, per_class=per_class, seed=seed, purpose=purpose)
    found = joined(
        own.take(shortlist(own.cells, share, seed=seed, purpose=purpose)) for own in candidates()
    )
    chosen = select_donors(
        found.cells, per_class=per_class, per_field=per_field, seed=seed, purpose=purpose
    )
    return found, chosen
