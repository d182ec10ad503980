"""Groups, arrays and whole shards of a run store, in a folder or in a bucket.

Arrays are created once with their final shape, and written in whole shards only. Empty chunks are
written too: a missing shard then means a missing unit, never a block of zeros. Strings are never
stored in arrays: names of codes and of dims stand in the attributes.
"""

import errno
import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec

from bgscale.errors import AlignmentError, BgscaleError, InputError, SchemaError, StoreMismatchError
from bgscale.places import Bucket, Place, place_at, spelled
from bgscale.results.mistaken import instead_of_a_store, of_another_version
from bgscale.schema import STORE_VERSION

INNER_CELLS = 64
DENSE = 4
"""A block is read whole where at least one of so many of its rows is wanted."""
Region = Sequence[tuple[int, int]]


class Store:
    """A run store on a file system or an object store.

    Parameters
    ----------
    path : str or path
        Folder of the Zarr hierarchy, or s3://bucket/prefix.

    Raises
    ------
    InputError
        An address that is not of a place in a bucket, or obstore is absent.
    """

    def __init__(self, path: str | Path) -> None:
        self.place: Place = place_at(path)
        self.location = spelled(path)

    @property
    def path(self) -> Path:
        """The folder.

        Raises
        ------
        InputError
            The store lies in a bucket: `location` says where.
        """
        if isinstance(self.place, Bucket):
            msg = f"{self.location} lies in a bucket; expected a run store in a folder"
            raise InputError(msg)
        return Path(self.location)

    @cached_property
    def zarr(self) -> Any:
        """What Zarr and xarray open."""
        if isinstance(self.place, Bucket):
            from bgscale.results.bucket import zarr_store

            return zarr_store(self.place)
        return self.location

    def _at(self, node: str) -> str:
        return f"{self.location}/{node}" if node else self.location

    def _is_taken(self) -> bool:
        """Whether something that is no run store lies where one shall be."""
        if isinstance(self.place, Bucket):
            return not self.place.is_empty()
        path = self.path
        if not path.is_dir():
            return path.exists()
        # one that was killed while it made the store leaves this much
        return any(item.suffix != ".partial" for item in path.iterdir())

    def exists(self) -> bool:
        """Whether there is a store already."""
        return self.has("")

    def create(self, attrs: Mapping[str, Any]) -> None:
        """Make the root group.

        Raises
        ------
        InputError
            The target is there and is no run store, or cannot be written.
        """
        try:
            if self._is_taken():
                msg = f"{self.location} is there and is not a run store: choose another 'store'"
                raise InputError(msg)
            # in one step: a store without a version is nobody's
            zarr.create_group(
                self.zarr, zarr_format=3, attributes={"bgscale_store": STORE_VERSION, **attrs}
            )
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise
            msg = f"cannot write the run store {self.location}: {error.strerror or error}"
            raise InputError(msg) from None

    def attrs(self, node: str = "") -> dict[str, Any]:
        """Return the attributes of a node; of the root they are checked to be a run store's.

        Raises
        ------
        StoreMismatchError
            The folder is no run store, or one of another version.
        """
        try:
            content = self.place.read(_metadata(node))
            if content is None:
                what = "it has no zarr.json" if node else instead_of_a_store(self.place)
                msg = f"{self._at(node)} is not a run store of bgscale: {what}"
                raise StoreMismatchError(msg)
            attrs: dict[str, Any] = json.loads(content).get("attributes", {})
        except (OSError, ValueError, AttributeError, RecursionError) as error:
            if isinstance(error, BgscaleError):
                raise
            msg = f"{self._at(node)} is not a run store of bgscale: {error}"
            raise StoreMismatchError(msg) from None
        if not node and attrs.get("bgscale_store") != STORE_VERSION:
            raise StoreMismatchError(of_another_version(self.location, attrs))
        return attrs

    def update_attrs(self, attrs: Mapping[str, Any], node: str = "") -> None:
        """Set attributes of a node."""
        zarr.open_group(self.zarr, path=node, mode="r+", zarr_format=3).attrs.update(dict(attrs))

    def create_group(self, node: str, *, coords: Mapping[str, Sequence[Any]], **attrs: Any) -> None:
        """Make a group.

        `coords` names the positions along dims; a further coordinate is (dim, values).
        """
        self.remove(node)
        values = {dim: list(names) for dim, names in coords.items()}
        group = zarr.open_group(self.zarr, mode="r+", zarr_format=3).require_group(node)
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
                -(-max(min(shard.get(d, n), n), 1) // c) * c
                for (d, n), c in zip(dims.items(), inner, strict=True)
            )
        codecs = [
            BloscCodec(
                cname="lz4", clevel=5, shuffle="bitshuffle", typesize=np.dtype(dtype).itemsize
            ),
            Crc32cCodec(),
        ]
        zarr.create_array(
            store=self.zarr,
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
        self.place.remove(node)

    def move(self, node: str, to: str) -> None:
        """Give a node another name; what had it is removed."""
        self.remove(to)
        self.place.move(node, to)

    def sweep(self, silent_s: float = 0.0) -> int:
        """Remove what writers that were killed left half written; return how many files.

        Only the run that holds the store may: what others are writing looks the same. Where
        several processes share a run, `silent_s` spares what was written to within so long.
        """
        return self.place.sweep(silent_s)

    def flush(self, nodes: Iterable[str]) -> None:
        """Return when the metadata of nodes, and of all above and below, are on the disk.

        Done-records are not enough for what is created before the first unit writes.
        """
        if isinstance(self.place, Bucket):
            return
        keys = {_metadata("")}
        for node in nodes:
            parts = node.split("/")
            keys |= {_metadata("/".join(parts[: i + 1])) for i in range(len(parts))}
            keys |= {k for k in self.place.below(node) if k.endswith("/zarr.json")}
        there = self.place.sizes(keys)
        self.place.flush([key for key in sorted(keys) if there[key] is not None])

    def has(self, node: str) -> bool:
        """Whether there is such a node."""
        key = _metadata(node)
        return self.place.sizes([key])[key] is not None

    def array(self, name: str) -> Any:
        """Return the Zarr array, for reading."""
        return zarr.open_array(self.zarr, path=name, mode="r", zarr_format=3)

    def read(self, name: str, *selection: slice | int) -> npt.NDArray[Any]:
        """Return a block of an array."""
        return np.asarray(self.array(name)[selection or ...])

    def read_rows(self, name: str, rows: npt.NDArray[np.int64], *at: int) -> npt.NDArray[Any]:
        """Return rows of an array: `rows_of`."""
        return rows_of(self.array(name), rows, *at)

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
        opened = zarr.open_array(self.zarr, path=name, mode="r+", zarr_format=3)
        array = opened.with_config({"write_empty_chunks": True, "order": "C"})
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
        grid = [range(a // w, -(-b // w)) for (a, b), w in zip(full, step, strict=True)]
        first = [g.start for g in grid]
        keys = (
            array.metadata.encode_chunk_key(tuple(i + o for i, o in zip(k, first, strict=True)))
            for k in np.ndindex(*map(len, grid))
        )
        files = [f"{name}/{key}" for key in keys]
        place = tuple(slice(a, b) for a, b in full)
        try:
            array[place] = data
        except (OSError, BgscaleError):
            raise
        except Exception:  # noqa: BLE001  whatever a codec says of bytes that are none of its own
            # the last shard is read before it is written, and a torn one would stay for ever
            self.place.delete(files)
            array[place] = data
        return files


def rows_of(array: Any, rows: npt.NDArray[np.int64], *at: int) -> npt.NDArray[Any]:
    """Return rows of an opened array, in any order; such as lie together are read as one block.

    `at` is where on the dims that follow; of all others there is everything.
    """
    if not len(rows):
        return np.empty((0, *array.shape[1 + len(at) :]), array.dtype)
    first, last = int(rows.min()), int(rows.max()) + 1
    if last - first <= DENSE * len(rows):
        return np.asarray(array[(slice(first, last), *at)])[rows - first]
    unique, place = np.unique(rows, return_inverse=True)
    return np.asarray(array.oindex[(unique, *at)])[place]


def _metadata(node: str) -> str:
    return f"{node}/zarr.json" if node else "zarr.json"
