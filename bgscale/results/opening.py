"""A run store opened as a lazy tree of Datasets: names of codes and dims become coordinates."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from bgscale.errors import InputError
from bgscale.results.store import Store

LOCATION = "bgscale_store"
"""Where a tree keeps the address of its store; it is no attribute, so that it is never written."""


def open_results(path: str | Path, *, nodes: Sequence[str] | None = None) -> xr.DataTree:
    """Open a run store as a lazy tree of Datasets.

    Parameters
    ----------
    path : str or path
        A folder, or s3://bucket/prefix.
    nodes : sequence of str, optional
        Only these, of which any may be absent: a store of many plates is open at once then. By
        default all.

    Returns
    -------
    xarray.DataTree
        A node per group, as ``tree["evaluation/tiny"]``. Dims that have names carry them as
        coordinates; variables that are codes have their names in ``attrs["names"]``.

    Raises
    ------
    StoreMismatchError
        Not a run store, or one of another version.
    """
    store = Store(path)
    store.attrs()
    if nodes is None:
        tree = xr.open_datatree(
            store.zarr, engine="zarr", consolidated=False, chunks=None, zarr_format=3
        )
        found = {node.path: node.to_dataset(inherit=False) for node in tree.subtree}
    else:
        there = ["", *(node for node in nodes if store.has(node))]
        found = {
            f"/{node}": xr.open_dataset(
                store.zarr,
                engine="zarr",
                group=node or None,
                consolidated=False,
                chunks=None,
                zarr_format=3,
            )
            for node in there
        }
    named = {}
    for name, dataset in found.items():
        coords = dataset.attrs.pop("coords", {})
        pairs = {
            name: values if _is_along(values) else (name, values) for name, values in coords.items()
        }
        named[name] = dataset.assign_coords(
            {n: (dim, np.asarray(v)) for n, (dim, v) in pairs.items() if dim in dataset.dims}
        )
    named["/"].encoding[LOCATION] = store.location
    return xr.DataTree.from_dict(named)


def location_of(tree: xr.DataTree) -> str:
    """Return where the store of a tree lies that `open_results` has opened.

    Raises
    ------
    InputError
        It was opened in another way.
    """
    location = tree.root.encoding.get(LOCATION)
    if location is None:
        msg = "the tree does not know its store: open it with bgscale.open_results, or give a path"
        raise InputError(msg)
    return str(location)


def _is_along(values: Sequence[Any]) -> bool:
    """Whether a stored coordinate is (dim, values), along a dim of another name."""
    return len(values) == 2 and isinstance(values[1], list)
