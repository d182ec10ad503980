"""A run is a list of write units. This docstring is the design note of the whole package.

A *unit* is one piece of one stage: it owns whole shards (or whole chunks, where an array has no
shards) of the arrays it writes, and nobody else writes there. Units of one stage can be done in any
order, twice, by anyone, with the same result; so can those of the same stage of all plates, which
go together. A stage starts when those that it depends on are complete.

Why not one lazy ``dask.array`` graph over everything?

- *Resume.* A graph knows which keys it holds in memory, not what is safe on the disk. A unit leaves
  a done-record (`ledger`), so a run of ten hours loses at most the units that were running.
- *Swaps are not local.* A cell's donor comes from anywhere; as a graph that is all-to-all. Here a
  worker holds the donor bank and a unit carries its region, a few bytes.
- *Bounded memory and scheduler load.* A window of units is in flight, futures are dropped when they
  are done; the scheduler never sees the 128,000 fields of a proteome at once.
- *Writes.* ``da.store`` into shards from several tasks corrupts them silently; a unit cannot.
"""

from dataclasses import dataclass

from bgscale.errors import AlignmentError


@dataclass(frozen=True)
class Unit:
    """One write unit.

    Parameters
    ----------
    stage : str
        Name of the stage, a path ("embed/tiny/crops").
    start, stop : int
        Region along the stage's leading dimension.
    token : str
        Hash of everything upstream that can change what the unit writes.
    """

    stage: str
    start: int
    stop: int
    token: str

    @property
    def name(self) -> str:
        """Name of the unit in logs and in the ledger."""
        return f"{self.stage}/{self.start:09d}-{self.stop:09d}"


def plan_units(stage: str, length: int, write_size: int, token: str) -> list[Unit]:
    """Cut ``[0, length)`` into units of `write_size`, the last one shorter.

    Examples
    --------
    >>> [(u.start, u.stop) for u in plan_units("cut/crops", 250, 128, "t")]
    [(0, 128), (128, 250)]
    """
    if write_size < 1:
        msg = f"stage {stage!r}: write size {write_size}; expected 1 or more"
        raise AlignmentError(msg)
    starts = range(0, length, write_size)
    return [Unit(stage, s, min(s + write_size, length), token) for s in starts]
