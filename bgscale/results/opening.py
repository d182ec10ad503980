"""A run store opened as a lazy tree of Datasets: names of codes and dims become coordinates."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from bgscale.results.store import Store


def open_results(path: str | Path) -> xr.DataTree:
    """Open a run store as a lazy tree of Datasets.

    Parameters
    ----------
    path : str or path
        A folder, or s3://bucket/prefix.

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
    tree = xr.open_datatree(
        store.zarr, engine="zarr", consolidated=False, chunks=None, zarr_format=3
    )
    named = {}
    for node in tree.subtree:
        dataset = node.to_dataset(inherit=False)
        coords = dataset.attrs.pop("coords", {})
        pairs = {
            name: values if _is_along(values) else (name, values) for name, values in coords.items()
        }
        named[node.path] = dataset.assign_coords(
            {n: (dim, np.asarray(v)) for n, (dim, v) in pairs.items() if dim in dataset.dims}
        )
    return xr.DataTree.from_dict(named)


def _is_along(values: Sequence[Any]) -> bool:
    """Whether a stored coordinate is (dim, values), along a dim of another name."""
    return len(values) == 2 and isinstance(values[1], list)
