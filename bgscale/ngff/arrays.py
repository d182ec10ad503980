"""What the JSON of a Zarr array says, before Zarr sees it: shape, dtype, chunks, codecs.

Pure. An array that is too large, of no numbers, or encoded by what is not known to be harmless is
refused here, so that nothing is allocated for it and nothing of it is run.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bgscale.ngff.checked import Json, item, kind_of, objects, whole_numbers, wrong
from bgscale.schema import Reason

LARGEST_PLANE_PX = 2**28
LARGEST_CHUNK_BYTES = 2**30
MOST_CHANNELS = 4096
BYTES_PER_INDEX_ENTRY = 16
COMPRESSORS = ("blosc", "zstd", "lz4", "zlib", "gzip", "bz2", "lzma")
FILTERS = ("delta", "shuffle", "packbits", "bitround", "quantize", "fixedscaleoffset", "pcodec")
CHECKSUMS = ("crc32", "crc32c", "adler32", "fletcher32", "jenkins_lookup3")
CODECS = frozenset({"bytes", "transpose", *COMPRESSORS, *FILTERS, *CHECKSUMS})
"""Codecs of numbers. Others are not run: `pickle` would run what the plate tells it to."""
INDEX_CODECS = frozenset({"bytes", "crc32c"})
_V2_DTYPE = re.compile(r"[<>|=](?:[ui][1248]|f[248])")
_V3_DTYPE = re.compile(r"u?int(?:8|16|32|64)|float(?:16|32|64)")


@dataclass(frozen=True)
class ArrayInfo:
    """What the JSON of a Zarr array says.

    Parameters
    ----------
    shape : tuple of int
    dtype : dtype
        As stored, with its byte order.
    chunks : tuple of int
        What is decoded at once: the inner chunks where there are shards.
    document : dict
        The JSON itself, for Zarr.
    shards : tuple of int or None
    index_at_end : bool
        Where the index of a shard is; of no meaning without shards.
    index_bytes : int
        Its size with the checksum; 0 without shards.
    dimension_names : tuple of str or None, or None
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    chunks: tuple[int, ...]
    document: dict[str, Any]
    shards: tuple[int, ...] | None = None
    index_at_end: bool = True
    index_bytes: int = 0
    dimension_names: tuple[str | None, ...] | None = None


def array_v2(document: dict[str, Any]) -> ArrayInfo:
    """Return what a `.zarray` says."""
    shape = whole_numbers("shape", item(".zarray", document, "shape", list))
    chunks = whole_numbers("chunks", item(".zarray", document, "chunks", list), len(shape))
    dtype = document.get("dtype")
    if document.get("zarr_format") != 2 or not isinstance(dtype, str):
        msg = (
            f".zarray has format {kind_of(document.get('zarr_format'))} and dtype {kind_of(dtype)}"
        )
        raise wrong(msg)
    if not _V2_DTYPE.fullmatch(dtype):
        msg = f"dtype is {dtype[:40]!r}; expected a number"
        raise wrong(msg)
    filters = item(".zarray", document, "filters", list, None) or []
    compressor = item(".zarray", document, "compressor", dict, None)
    for codec in [*objects("filters", filters), *([compressor] if compressor else [])]:
        _check_codec(item("codec", codec, "id", str), CODECS)
    return ArrayInfo(tuple(shape), np.dtype(dtype), tuple(chunks), document)


def array_v3(document: dict[str, Any]) -> ArrayInfo:
    """Return what the `zarr.json` of an array says."""
    if document.get("zarr_format") != 3 or document.get("node_type") != "array":
        msg = "zarr.json is of no Zarr v3 array"
        raise wrong(msg)
    shape = whole_numbers("shape", item("zarr.json", document, "shape", list))
    dtype = document.get("data_type")
    if not isinstance(dtype, str) or not _V3_DTYPE.fullmatch(dtype):
        msg = f"data_type is {str(dtype)[:40]!r}; expected a number"
        raise wrong(msg)
    grid = item("zarr.json", document, "chunk_grid", dict)
    if grid.get("name") != "regular":
        msg = f"chunk_grid is {str(grid.get('name'))[:40]!r}; expected 'regular'"
        raise wrong(msg)
    outer = _chunk_shape("chunk_grid", grid, len(shape))
    codecs = objects("codecs", item("zarr.json", document, "codecs", list))
    sharded = len(codecs) == 1 and codecs[0].get("name") == "sharding_indexed"
    names = _dimension_names(document, len(shape))
    if not sharded:
        _check_codecs(codecs, CODECS)
        return ArrayInfo(
            tuple(shape), np.dtype(dtype), tuple(outer), document, dimension_names=names
        )
    inner = _chunk_shape("sharding_indexed", codecs[0], len(shape))
    if any(o % i for o, i in zip(outer, inner, strict=True)):
        msg = f"shards of {outer} are not made of whole chunks of {inner}"
        raise wrong(msg)
    config = codecs[0]["configuration"]
    _check_codecs(objects("codecs", item("sharding_indexed", config, "codecs", list)), CODECS)
    default = [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}]
    index = objects("codecs", item("sharding_indexed", config, "index_codecs", list, default))
    _check_codecs(index, INDEX_CODECS)
    entries = math.prod(o // i for o, i in zip(outer, inner, strict=True))
    size = entries * BYTES_PER_INDEX_ENTRY + 4 * sum(c["name"] == "crc32c" for c in index)
    return ArrayInfo(
        tuple(shape),
        np.dtype(dtype),
        tuple(inner),
        document,
        shards=tuple(outer),
        index_at_end=config.get("index_location", "end") == "end",
        index_bytes=size,
        dimension_names=names,
    )


def _chunk_shape(where: str, node: Json, length: int) -> list[int]:
    config = item(where, node, "configuration", dict)
    return whole_numbers(f"{where} shape", item(where, config, "chunk_shape", list), length)


def _dimension_names(document: Json, length: int) -> tuple[str | None, ...] | None:
    names = item("zarr.json", document, "dimension_names", list, None)
    if names is None:
        return None
    if len(names) != length or not all(n is None or isinstance(n, str) for n in names):
        msg = f"dimension_names is {str(names)[:80]}; expected {length} names, one per axis"
        raise wrong(msg)
    return tuple(names)


def _check_codecs(codecs: Sequence[Json], known: frozenset[str]) -> None:
    for codec in codecs:
        name = item("codec", codec, "name", str).removeprefix("numcodecs.")
        _check_codec(name, known)
        config = item("codec", codec, "configuration", dict, None) or {}
        if known is INDEX_CODECS and config.get("endian", "little") != "little":
            msg = "the index of the shards is big-endian; expected little"
            raise wrong(msg)


def _check_codec(name: str, known: frozenset[str]) -> None:
    if name not in known:
        msg = f"codec {name[:40]!r} is not run; expected one of {', '.join(sorted(known))}"
        raise wrong(msg)


def check_array(array: ArrayInfo, axes: Sequence[str], named: Sequence[str]) -> None:
    """Raise where an array does not fit its axes, or is too large to be read."""
    if len(array.shape) != len(axes):
        msg = f"there are {len(axes)} axes ({', '.join(axes)}); the array has {len(array.shape)}"
        raise wrong(msg)
    if array.dimension_names is not None:
        for name, axis in zip(array.dimension_names, named, strict=True):
            if name is not None and name.lower() != axis.lower():
                got = ", ".join(map(str, array.dimension_names))
                msg = f"dimension_names are {got[:80]}; the axes are {', '.join(named)[:80]}"
                raise wrong(msg)
    length = dict(zip(axes, array.shape, strict=True))
    if length["y"] * length["x"] > LARGEST_PLANE_PX or length.get("c", 1) > MOST_CHANNELS:
        msg = (
            f"shape {array.shape} is larger than allowed: {LARGEST_PLANE_PX} pixels a plane, "
            f"{MOST_CHANNELS} channels"
        )
        raise wrong(msg, Reason.TOO_LARGE)
    chunk = math.prod(array.chunks) * array.dtype.itemsize
    if max(chunk, array.index_bytes) > LARGEST_CHUNK_BYTES:
        msg = (
            f"chunks of {array.chunks} {array.dtype.name} have {chunk} bytes, the index of a shard "
            f"{array.index_bytes}; allowed are {LARGEST_CHUNK_BYTES}: write smaller chunks"
        )
        raise wrong(msg, Reason.TOO_LARGE)
