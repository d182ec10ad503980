"""What every question has in common: whose store, which model, setting and fit, which proteins."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import xarray as xr

from bgscale.asked import check_complete, goes_on, pick, pick_all
from bgscale.errors import InputError
from bgscale.results import Store, location_of

Source: TypeAlias = str | Path | Store | xr.DataTree
"""A run store: its address, the store, or the tree that `open_results` made of it."""
ORIGINAL = "original"
NO_CLASS = "none"
"""Localization of a protein that has none."""


@dataclass(frozen=True)
class Proteins:
    """The proteins of a store, and their localizations.

    Parameters
    ----------
    store : Store
    """

    store: Store

    @cached_property
    def _coords(self) -> dict[str, Any]:
        if not self.store.has("proteins"):
            msg = f"{self.store.location} has no proteins yet: {goes_on(self.store)}"
            raise InputError(msg)
        return dict(self.store.attrs("proteins")["coords"])

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the proteins."""
        return tuple(self._coords["protein"])

    @property
    def localizations(self) -> tuple[str, ...]:
        """Names of the localizations."""
        return tuple(self._coords["localization"])

    @cached_property
    def label(self) -> npt.NDArray[np.bool_]:
        """Which localizations each protein has: (protein, localization), bool."""
        return self.store.read("proteins/label").astype(bool)

    @cached_property
    def texts(self) -> list[str]:
        """The localizations of each protein as one text."""
        names = np.array(self.localizations, object)
        return [";".join(names[own]) or NO_CLASS for own in self.label]

    def chosen(self, protein: Sequence[str], localization: Sequence[str]) -> npt.NDArray[np.int64]:
        """Return the codes of proteins of these names that have one of these localizations.

        Raises
        ------
        InputError
            There is no such protein or localization; the nearest is said.
        """
        named = np.isin(self.names, pick_all("protein", protein, self.names))
        classes = pick_all("localization", localization, self.localizations)
        if localization:
            named &= self.label[:, np.isin(self.localizations, classes)].any(axis=1)
        return np.flatnonzero(named)


def several(names: str | Sequence[str]) -> tuple[str, ...]:
    """Return names as a tuple; a text is one name.

    Examples
    --------
    >>> several("NUP2"), several(["NUP2", "NUP60"])
    (('NUP2',), ('NUP2', 'NUP60'))
    """
    return (names,) if isinstance(names, str) else tuple(names)


def store_of(source: Source) -> Store:
    """Return the store that is asked; it is one.

    Raises
    ------
    StoreMismatchError
        No run store, or one of another version.
    """
    if isinstance(source, xr.DataTree):
        source = location_of(source)
    store = source if isinstance(source, Store) else Store(source)
    store.attrs()
    return store


def wells_of(names: Sequence[str]) -> tuple[npt.NDArray[np.str_], npt.NDArray[np.str_]]:
    """Return well and field of the full names of fields (plate/well/field)."""
    parts = [name.split("/")[-2:] for name in names]
    return np.array([well for well, _ in parts], str), np.array([field for _, field in parts], str)


def model_of(store: Store, model: str, plates: Sequence[str]) -> str:
    """Return the model asked for, or the only one, whose cells are classified on all these plates.

    Raises
    ------
    InputError
        No such model, several and none is named, or its predictions are not complete.
    """
    known = list(store.attrs().get("config", {}).get("models", {}))
    name = pick("model", model, known)
    without = [p for p in plates if not store.has(f"plates/{p}/predictions/{name}/probability")]
    if without:
        where = ", ".join(without)
        there = [plate for plate in plates if plate not in without]
        hint = f"; of plate {', '.join(there)} there are" if there else ""
        msg = (
            f"{store.location} has no predictions of model {name!r} for the cells of plate "
            f"{where} yet{hint}: {goes_on(store)}"
        )
        raise InputError(msg)
    check_complete(store, [f"{s}/{name}/{p}" for p in plates for s in ("embed", "predict")])
    return name
