"""What of a store is drawn: nodes and names are checked here, before anything is."""

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
import xarray as xr

from bgscale.errors import InputError, nearest
from bgscale.summary import node

LISTED = 20
"""Names that an error lists."""


def read(tree: xr.DataTree, kind: str, model: str, names: Sequence[str]) -> xr.Dataset:
    """Return variables of a node of a model, loaded; coefficients and the like stay where they are.

    Raises
    ------
    InputError
        There is no such node or variable yet, or nothing in it.
    """
    dataset = node(tree, kind, model)
    lacking = [name for name in names if name not in dataset.variables]
    if lacking:
        msg = (
            f"{kind} of model {model!r} has no {', '.join(lacking)}: an older version made this "
            "store; `bgscale run` says what it would make anew"
        )
        raise InputError(msg)
    loaded = dataset[list(names)].load()
    first = loaded[names[0]]
    # decisions are -1, and other values NaN, where nothing was written yet
    if not (first >= 0 if first.dtype.kind == "i" else np.isfinite(first)).any():
        msg = (
            f"{kind} of model {model!r} is not done yet: `bgscale run` goes on with it, "
            "`bgscale status` says how far it is"
        )
        raise InputError(msg)
    return loaded


def known(dim: str, value: str, names: Iterable[object]) -> None:
    """Raise InputError if a name is not one of those that are there; the nearest one is said."""
    there = [str(name) for name in names]
    if value not in there:
        listed = ", ".join(there[:LISTED]) or "none"
        more = f" and {len(there) - LISTED:,} more" if len(there) > LISTED else ""
        msg = f"no {dim} {value!r}{nearest(value, there)}; there are {listed}{more}"
        raise InputError(msg)


def pick(dataset: xr.Dataset, **names: str) -> xr.Dataset:
    """Return a Dataset at names of its dims; see `known`."""
    for dim, value in names.items():
        known(dim, value, dataset[dim].to_numpy())
    return dataset.sel(names)


def changed_settings(dataset: xr.Dataset) -> list[str]:
    """Return the settings that are compared with `original`.

    Raises
    ------
    InputError
        There is none.
    """
    settings = [str(s) for s in dataset["setting"].to_numpy() if s != "original"]
    if not settings:
        msg = (
            "this run has the setting original alone: name others in run.toml (settings) and "
            "`bgscale run`"
        )
        raise InputError(msg)
    return settings


def finite(values: npt.NDArray[np.float64], what: str) -> npt.NDArray[np.bool_]:
    """Return which values there are; raise InputError if there is none."""
    there = np.isfinite(values)
    if not there.any():
        msg = f"{what}: there is no value to show"
        raise InputError(msg)
    return np.asarray(there)
