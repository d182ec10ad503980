"""Which donors lent the backgrounds of a run, and how often each.

Owns the counts. A large screen uses each donor of its bank hundreds of times: how many backgrounds
there were in truth is the number of donors, not that of cells.
"""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from bgscale.asked import check_complete, pick
from bgscale.errors import InputError
from bgscale.results import Store
from bgscale.settings import get_setting

ALL = "all"
_BANKS = {"crop": "donors", "window": "windows"}


def lent(store: str | Path, *, model: str = "") -> pd.DataFrame:
    """Return how many donors lent the backgrounds under each setting that swaps them.

    Parameters
    ----------
    store : str or path
    model : str
        By default the first: donors hang on the cell and the seed, not on the model. Of a model
        that is averaged over backgrounds the setting's own donors are counted.

    Returns
    -------
    DataFrame
        By `setting` and `localization` of the donor (and "all"): `cells` that have one, `donors`
        that were used, of how many `in_bank`, their `proteins` and `fields`, and how often one that
        was used is in the median (`median_uses`) and at most (`most_uses`).

    Raises
    ------
    InputError
        No run store, no such model, its cells are not all embedded yet, or no setting swaps.
    """
    opened = Store(store)
    config, plates = opened.attrs()["config"], opened.attrs()["plates"]
    name = pick("model", model or next(iter(config["models"])), list(config["models"]))
    nodes = [f"plates/{plate}/embeddings/{name}" for plate in plates]
    for node in nodes:
        if not opened.has(node):
            msg = f"{opened.location} has no {node} yet: `bgscale run` makes it"
            raise InputError(msg)
    check_complete(opened, [f"embed/{name}/{plate}" for plate in plates])
    swapping = [name for name in config["settings"] if get_setting(name).swaps]
    if not swapping:
        msg = f"no setting of {opened.location} takes its background from elsewhere"
        raise InputError(msg)
    banks = {kind: _Bank(opened, kind) for kind in _BANKS.values() if opened.has(kind)}
    uses = {s: np.zeros(len(_of(banks, s).ids), np.int64) for s in swapping}
    for node in nodes:
        donor = opened.read(f"{node}/donor")
        for setting, counts in uses.items():
            own = donor[:, config["settings"].index(setting)]
            counts += _of(banks, setting).uses(own[own != 0])
    rows = [row for setting in swapping for row in _of(banks, setting).rows(setting, uses[setting])]
    return pd.DataFrame(rows)


def _of(banks: "dict[str, _Bank]", setting: str) -> "_Bank":
    return banks[_BANKS[get_setting(setting).source]]


class _Bank:
    """The donors of a bank, sorted by identity."""

    def __init__(self, store: Store, kind: str) -> None:
        there = store.read(f"{kind}/row") >= 0
        ids = store.read(f"{kind}/id")[there]
        order = np.argsort(ids)
        self.ids = ids[order]
        self.localization = np.nonzero(there)[0][order]
        self.protein, self.field = (
            store.read(f"{kind}/{n}")[there][order] for n in ("protein", "field")
        )
        self.names = [str(n) for n in store.attrs(kind)["coords"]["localization"]]

    def uses(self, donors: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
        """Return how often each is among some donors."""
        return np.bincount(np.searchsorted(self.ids, donors), minlength=len(self.ids))

    def rows(self, setting: str, uses: npt.NDArray[np.int64]) -> list[dict[str, Any]]:
        """Return what is said of a setting: of all localizations, and of each."""
        chosen = [(ALL, np.ones(len(uses), np.bool_))]
        chosen += [(name, self.localization == k) for k, name in enumerate(self.names)]
        found = []
        for name, own in chosen:
            used = own & (uses > 0)
            times = uses[used]
            found.append(
                {
                    "setting": setting,
                    "localization": name,
                    "cells": int(times.sum()),
                    "donors": int(used.sum()),
                    "in_bank": int(own.sum()),
                    "proteins": len(np.unique(self.protein[used])),
                    "fields": len(np.unique(self.field[used])),
                    "median_uses": float(np.median(times)) if len(times) else float("nan"),
                    "most_uses": int(times.max(initial=0)),
                }
            )
        return found
