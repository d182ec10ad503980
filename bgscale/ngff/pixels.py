"""Planes of one array: read through Zarr, with what is missing found instead of filled.

Zarr gives fill values for a chunk that is not there. An image must have all its chunks, so the
store is wrapped: a key that Zarr asks for and that is absent ends the read, and so does an absent
inner chunk in the index of a shard. Only keys that the planes need are looked at.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr
from zarr.abc.store import ByteRequest, Store
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import StorePath, WrapperStore

from bgscale.errors import FieldError, InputError
from bgscale.ngff.arrays import BYTES_PER_INDEX_ENTRY, LARGEST_CHUNK_BYTES, ArrayInfo
from bgscale.ngff.files import Files
from bgscale.schema import Reason

PROJECTIONS = ("max", "mean", "middle")
ABSENT = np.uint64(2**64 - 1)
SLACK_BYTES = 65536
"""What a codec may add to a chunk that it could not make smaller."""


class _MissingChunkError(Exception):
    """A chunk that an image needs is not in the store."""


class _Guarded(WrapperStore[Store]):
    """A store in which files are plain, inside, of sensible size and, if `strict`, there."""

    def __init__(self, store: Store, files: Files, largest_bytes: int, *, strict: bool) -> None:
        super().__init__(store)
        self.files, self.largest_bytes, self.strict = files, largest_bytes, strict

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """Return the bytes of a chunk."""
        self.files.check(key, self.largest_bytes)
        found = await self._store.get(key, prototype, byte_range)
        if found is None and self.strict:
            raise _MissingChunkError(key)
        return found


@dataclass(frozen=True)
class Planes:
    """An array of which planes are read.

    Parameters
    ----------
    files : Files
    path : str
        Of the array in the plate.
    info : ArrayInfo
    axes : tuple of str
    strict : bool
        Whether a chunk that is not there is an error; else it holds the fill value.
    """

    files: Files
    path: str
    info: ArrayInfo
    axes: tuple[str, ...]
    strict: bool

    def length(self, axis: str) -> int:
        """Return the length of an axis, 1 where there is none."""
        return self.info.shape[self.axes.index(axis)] if axis in self.axes else 1

    def read(self, channels: Sequence[int], *, time: int, z: str | int) -> npt.NDArray[Any]:
        """Return planes: (channel, y, x), of the stored dtype in native byte order.

        Raises
        ------
        FieldError
            MISSING_CHUNKS, UNREADABLE, or WRONG_SHAPE for a time or z that is not there.
        InputError
            A projection that is not known.
        """
        self._check_index("t", "time", time)
        start, stop = self._z_range(z)
        indices: dict[str, npt.NDArray[np.uint64]] = {}
        try:
            array = self._open()
            planes = [self._plane(array, c, time, start, stop, z, indices) for c in channels]
        except _MissingChunkError as error:
            msg = f"{self.path}: chunk {error} is missing: restore it, or write the field again"
            raise FieldError(Reason.MISSING_CHUNKS, msg) from None
        except (FieldError, MemoryError):
            raise
        except Exception as error:  # damaged bytes raise whatever their codec raises
            text = (str(error).strip().splitlines() or [type(error).__name__])[0]
            msg = f"{self.path} cannot be read: {text[:200]}"
            raise FieldError(Reason.UNREADABLE, msg) from error
        shape = (0, self.length("y"), self.length("x"))
        native = self.info.dtype.newbyteorder("=")
        return np.stack(planes) if planes else np.empty(shape, native)

    def _open(self) -> "zarr.Array[Any]":
        unit = math.prod(self.info.shards or self.info.chunks) * self.info.dtype.itemsize
        largest = 2 * unit + self.info.index_bytes + SLACK_BYTES
        store = _Guarded(self.files.store(), self.files, largest, strict=self.strict)
        return zarr.Array.from_dict(StorePath(store, self.path), self.info.document)

    def _check_index(self, axis: str, what: str, index: int) -> None:
        if not 0 <= index < self.length(axis):
            msg = f"{self.path} has no {what} {index}: there are {self.length(axis)}, from 0"
            raise FieldError(Reason.WRONG_SHAPE, msg)

    def _z_range(self, z: str | int) -> tuple[int, int]:
        planes = self.length("z")
        if isinstance(z, str):
            if z not in PROJECTIONS:
                msg = f"z is {z!r}; expected one of {', '.join(PROJECTIONS)}, or a number"
                raise InputError(msg)
            return (planes // 2, planes // 2 + 1) if z == "middle" else (0, planes)
        self._check_index("z", "plane", z)
        return z, z + 1

    def _plane(
        self,
        array: "zarr.Array[Any]",
        channel: int,
        time: int,
        start: int,
        stop: int,
        z: str | int,
        indices: dict[str, npt.NDArray[np.uint64]],
    ) -> npt.NDArray[Any]:
        """Return one plane (y, x); a stack is gone through in blocks of whole chunks."""
        native = self.info.dtype.newbyteorder("=")
        plane_bytes = self.length("y") * self.length("x") * native.itemsize
        deep = self.info.chunks[self.axes.index("z")] if "z" in self.axes else 1
        deep = max(min(deep, LARGEST_CHUNK_BYTES // max(plane_bytes, 1)), 1)
        total: npt.NDArray[Any] | None = None
        for low in range(start, stop, deep):
            place = {"t": slice(time, time + 1), "c": slice(channel, channel + 1)}
            place["z"] = slice(low, min(low + deep, stop))
            selection = tuple(
                place.get(axis, slice(0, n))
                for axis, n in zip(self.axes, self.info.shape, strict=True)
            )
            if self.strict and self.info.shards:
                self._check_shards(array, selection, indices)
            block = self._as_zyx(np.asarray(array[selection])).astype(native, copy=False)
            if z == "mean":
                part = block.sum(0, dtype=np.float64)
                total = part if total is None else total + part
            else:
                part = block.max(0)
                total = part if total is None else np.maximum(total, part)
        assert total is not None
        if z == "mean":
            total = total / (stop - start)
            total = np.rint(total) if native.kind in "ui" else total
        return total.astype(native, copy=False)

    def _as_zyx(self, block: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return a block of one time and one channel as (z, y, x)."""
        rest = [axis for axis in ("t", "c", "z", "y", "x") if axis in self.axes]
        block = block.transpose([self.axes.index(axis) for axis in rest])
        return block.reshape(-1, *block.shape[-2:])

    def _check_shards(
        self,
        array: "zarr.Array[Any]",
        selection: tuple[slice, ...],
        indices: dict[str, npt.NDArray[np.uint64]],
    ) -> None:
        """Raise where an inner chunk that a selection needs is not in its shard."""
        info = self.info
        assert info.shards is not None
        per_shard = [s // c for s, c in zip(info.shards, info.chunks, strict=True)]
        # inner chunks of the whole array, from and to, along each axis
        low = [s.start // c for s, c in zip(selection, info.chunks, strict=True)]
        high = [(s.stop - 1) // c + 1 for s, c in zip(selection, info.chunks, strict=True)]
        ranges = [
            range(a // n, (b - 1) // n + 1) for a, b, n in zip(low, high, per_shard, strict=True)
        ]
        largest = 2 * math.prod(info.chunks) * info.dtype.itemsize + SLACK_BYTES
        for shard in itertools.product(*ranges):
            key = f"{self.path}/{array.metadata.encode_chunk_key(shard)}"
            if key not in indices:
                indices[key] = self._shard_index(key, per_shard)
            inside = tuple(
                slice(max(a - i * n, 0), min(b - i * n, n))
                for i, a, b, n in zip(shard, low, high, per_shard, strict=True)
            )
            entries = indices[key][inside].reshape(-1, 2)
            absent = int((entries == ABSENT).all(1).sum())
            if absent:
                msg = f"{key} ({absent} of the {len(entries)} chunks needed of it)"
                raise _MissingChunkError(msg)
            if (entries[:, 1] > largest).any():
                msg = f"{key}: its index says that a chunk has {int(entries[:, 1].max())} bytes"
                raise FieldError(Reason.UNREADABLE, msg)

    def _shard_index(self, key: str, per_shard: Sequence[int]) -> npt.NDArray[np.uint64]:
        """Return the index of a shard: (*chunk, 2), offset and length."""
        size = self.info.index_bytes
        raw = self.files.part(key, -size if self.info.index_at_end else 0, size)
        if raw is None:
            raise _MissingChunkError(key)
        if len(raw) != size:
            msg = f"{key} has {len(raw)} bytes; its index alone has {size}: it is cut short"
            raise FieldError(Reason.UNREADABLE, msg)
        held = math.prod(per_shard) * BYTES_PER_INDEX_ENTRY
        return np.frombuffer(raw[:held], "<u8").astype(np.uint64).reshape(*per_shard, 2)
