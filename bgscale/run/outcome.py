"""How a run ended: from the store alone."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bgscale.places import spelled
from bgscale.results import Store
from bgscale.schema import Missing, Reason


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Parameters
    ----------
    store : str
    cells : int
        Cells of the screen.
    unusable : dict of str to int
        Cells that something was wrong with, by reason.
    set_aside : dict of str to int
        Cells that are left out by rule, such as those the border of a field cuts.
    failed_fields : dict of str to int
        Fields of plates that could not be used, or are not there, by reason.
    """

    store: str
    cells: int
    unusable: dict[str, int]
    set_aside: dict[str, int]
    failed_fields: dict[str, int]

    @property
    def is_complete(self) -> bool:
        """Whether nothing was wrong with any field or cell."""
        return not (self.unusable or self.failed_fields)


def outcome(path: str | Path) -> Outcome:
    """Return how many cells a store has, and what of cells and fields cannot be used, by reason."""
    store = Store(path)
    cells = np.zeros(max(Reason) + 1, np.int64)
    fields = np.zeros_like(cells)
    for plate in store.attrs()["plates"]:
        if store.has(f"plates/{plate}/cells"):
            cells += np.bincount(store.read(f"plates/{plate}/cells/reason"), minlength=len(cells))
            cells += _lost(store, plate)
        if store.has(f"plates/{plate}/fields"):
            missing = [p["reason"] for p in store.attrs(f"plates/{plate}/fields")["problems"]]
            reason = store.read(f"plates/{plate}/fields/reason")
            fields += np.bincount([*reason, *missing], minlength=len(cells))
    bad = [r for r in Reason if r.is_failure]
    return Outcome(
        spelled(path),
        int(cells.sum()),
        {r.text: int(cells[r]) for r in bad if cells[r]},
        {r.text: int(cells[r]) for r in Reason if r and r not in bad and cells[r]},
        {r.text: int(fields[r]) for r in bad if fields[r]},
    )


def _lost(store: Store, plate: str) -> npt.NDArray[np.int64]:
    """Return how many cells could not be embedded, among the reasons; any model counts once."""
    counts = np.zeros(max(Reason) + 1, np.int64)
    lost = None
    for model in store.attrs()["config"]["models"]:
        node = f"plates/{plate}/embeddings/{model}"
        if not store.has(node):
            continue
        missing = store.read(f"{node}/missing") == Missing.LOST
        lost = missing.any(1) if lost is None else lost | missing.any(1)
    if lost is not None:
        counts[Reason.LOST] = lost.sum()
        counts[Reason.OK] = -counts[Reason.LOST]
    return counts


def versions() -> dict[str, str]:
    """Return the versions of what computes."""
    from importlib.metadata import version

    names = ("bgscale", "numpy", "torch", "zarr", "scikit-learn", "scikit-image", "dask", "xarray")
    return {name: version(name) for name in names}
