"""Zarr hierarchies of others' formats, written by exports; they are no run stores."""

from pathlib import Path
from typing import Any

import zarr


def new_group(path: str | Path) -> Any:
    """Return the root group of a new Zarr v2 hierarchy, which every program that reads Zarr opens.

    Parameters
    ----------
    path : path
        A folder; what is there is replaced.
    """
    return zarr.open_group(str(path), mode="w", zarr_format=2)
