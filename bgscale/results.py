"""The run store: a Zarr v3 hierarchy that xarray opens as a tree. OUTPUT; nothing else writes it.

Arrays are created once with their final shape, and written in whole shards only. Empty chunks are
written too: a missing shard then means a missing unit, never a block of zeros. Strings are never
stored in arrays: names of codes and of dims stand in the attributes.
"""

import errno
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec

from bgscale.errors import AlignmentError, InputError, SchemaError, StoreMismatchError
from bgscale.schema import STORE_VERSION

INNER_CELLS = 64
DENSE = 4
"""A block is read whole where at least one of so many of its rows is wanted."""
Region = Sequence[tuple[int, int]]


class Store:
    """A run store on a local file system.

    Parameters
    ----------
    path : str or path
        Folder of the Zarr hierarchy.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def exists(self) -> bool:
        """Whether there is a store already."""
        return (self.path / "zarr.json").is_file()

    def create(self, attrs: Mapping[str, Any]) -> None:
        """Make the root group.

        Raises
        ------
        InputError
            The target is there and is no run store, or cannot be written.
        """
        try:
            if self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
                msg = f"{self.path} is there and is not a run store: choose another 'store'"
                raise InputError(msg)
            group = zarr.create_group(str(self.path), zarr_format=3)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise
            msg = f"cannot write the run store {self.path}: {error.strerror or error}"
            raise InputError(msg) from None
        group.attrs.update({"bgscale_store": STORE_VERSION, **attrs})

    def attrs(self, node: str = "") -> dict[str, Any]:
        """Return the attributes of a node; of the root they are checked to be a run store's.

        Raises
        ------
        StoreMismatchError
            The folder is no run store, or one of another version.
        """
        try:
            meta = json.loads((self.path / node / "zarr.json").read_text(encoding="utf-8"))
            attrs: dict[str, Any] = meta.get("attributes", {})
        except (OSError, ValueError, AttributeError) as error:
            msg = f"{self.path / node} is not a run store of bgscale: {error}"
            raise StoreMismatchError(msg) from None
        if not node and attrs.get("bgscale_store") != STORE_VERSION:
            got = attrs.get("bgscale_store", "none")
            msg = (
                f"{self.path} has store version {got}, this bgscale reads {STORE_VERSION}: "
                "choose another 'store', or the bgscale that made it"
            )
            raise StoreMismatchError(msg)
        return attrs

    def update_attrs(self, attrs: Mapping[str, Any], node: str = "") -> None:
        """Set attributes of a node."""
        zarr.open_group(str(self.path), path=node, mode="r+").attrs.update(dict(attrs))

    def create_group(self, node: str, *, coords: Mapping[str, Sequence[Any]], **attrs: Any) -> None:
        """Make a group.

        `coords` names the positions along dims; a further coordinate is (dim, values).
        """
        self.remove(node)
        values = {dim: list(names) for dim, names in coords.items()}
        group = zarr.open_group(str(self.path), mode="r+").require_group(node)
        group.attrs.update({"coords": values, **attrs})

    def create_array(
        self,
        name: str,
        dims: Mapping[str, int],
        dtype: npt.DTypeLike,
        *,
        chunk: Mapping[str, int],
        shard: Mapping[str, int] | None = None,
        fill: float = 0,
        **attrs: Any,
    ) -> None:
        """Make an array of a group; dims not in `chunk` or `shard` are whole.

        Attributes such as ``long_name``, ``units`` and ``names`` (of codes) are kept with it.
        """
        inner = tuple(max(min(chunk.get(d, n), n), 1) for d, n in dims.items())
        outer = None
        if shard is not None:
            outer = tuple(
                -(-min(shard.get(d, n), max(n, 1)) // c) * c
                for (d, n), c in zip(dims.items(), inner, strict=True)
            )
        codecs = [
            BloscCodec(
                cname="lz4", clevel=5, shuffle="bitshuffle", typesize=np.dtype(dtype).itemsize
            ),
            Crc32cCodec(),
        ]
        zarr.create_array(
            store=str(self.path),
            name=name,
            shape=tuple(dims.values()),
            dtype=dtype,
            chunks=inner,
            shards=outer,
            compressors=codecs,
            fill_value=fill,
            dimension_names=tuple(dims),
            attributes=dict(attrs),
            zarr_format=3,
        )

    def remove(self, node: str) -> None:
        """Remove a node and all below it."""
        shutil.rmtree(self.path / node, ignore_errors=True)

    def sweep(self) -> None:
        """Remove what writers that were killed left half written."""
        for path in self.path.rglob("*.partial"):
            path.unlink(missing_ok=True)

    def has(self, node: str) -> bool:
        """Whether there is such a node."""
        return (self.path / node / "zarr.json").is_file()

    def array(self, name: str) -> Any:
        """Return the Zarr array, for reading."""
        return zarr.open_array(str(self.path), path=name, mode="r")

    def read(self, name: str, *selection: slice | int) -> npt.NDArray[Any]:
        """Return a block of an array."""
        return np.asarray(self.array(name)[selection or ...])

    def read_rows(self, name: str, rows: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
        """Return rows of an array, in any order; rows that lie together are read as one block."""
        array = self.array(name)
        if not len(rows):
            return np.empty((0, *array.shape[1:]), array.dtype)
        first, last = int(rows.min()), int(rows.max()) + 1
        if last - first <= DENSE * len(rows):
            return np.asarray(array[first:last])[rows - first]
        unique, place = np.unique(rows, return_inverse=True)
        return np.asarray(array.oindex[unique])[place]

    def write(self, name: str, region: Region, data: npt.NDArray[Any]) -> list[str]:
        """Write whole shards; return the files written, relative to the store.

        Parameters
        ----------
        name : str
        region : sequence of (start, stop)
            Of the leading dims; the others are whole.
        data : array
            Of the region's shape.

        Raises
        ------
        AlignmentError
            The region does not cover whole shards.
        SchemaError
            The block has another shape than the region.
        """
        # `config=` of open_array is not heeded (zarr 3.1.6)
        array = zarr.open_array(str(self.path), path=name, mode="r+").with_config(
            {"write_empty_chunks": True, "order": "C"}
        )
        step = array.shards or array.chunks
        full = [*region, *((0, n) for n in array.shape[len(region) :])]
        for axis, ((start, stop), size, width) in enumerate(
            zip(full, array.shape, step, strict=True)
        ):
            late, over = start % width, stop % width if stop != size else 0
            if late or over or not (0 <= start < stop <= size or start == stop == size == 0):
                msg = (
                    f"array {name!r}, axis {axis}: region [{start}, {stop}) of length {size} does "
                    f"not cover whole shards of {width}: it starts {late} and ends {over} past a "
                    "border; plan its units with plan_units"
                )
                raise AlignmentError(msg)
        expected = tuple(stop - start for start, stop in full)
        if data.shape != expected:
            msg = f"array {name!r}: got a block of shape {data.shape}, region {full} has {expected}"
            raise SchemaError(msg)
        array[tuple(slice(a, b) for a, b in full)] = data
        grid = [range(a // w, -(-b // w)) for (a, b), w in zip(full, step, strict=True)]
        first = [g.start for g in grid]
        keys = (
            array.metadata.encode_chunk_key(tuple(i + o for i, o in zip(k, first, strict=True)))
            for k in np.ndindex(*map(len, grid))
        )
        return [f"{name}/{key}" for key in keys]


def open_results(path: str | Path) -> xr.DataTree:
    """Open a run store as a lazy tree of Datasets.

    Parameters
    ----------
    path : str or path

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
    Store(path).attrs()
    tree = xr.open_datatree(str(path), engine="zarr", consolidated=False, chunks=None)
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
