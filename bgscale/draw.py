"""Counter-based random numbers: every choice is a function of (seed, purpose, identity).

Nothing here has a state, so no choice depends on the order of the work, on the size of a unit or
on how many workers there are. The generator is Philox4x32-10 (Salmon et al. 2011), written over
whole arrays: NumPy's own Philox has one state per stream, and a stream per cell costs 20 us each.

References
----------
Salmon, Moraes, Dror & Shaw (2011), Parallel random numbers: as easy as 1, 2, 3. SC'11.
"""

import hashlib
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

UInt32Array: TypeAlias = npt.NDArray[np.uint32]
UInt64Array: TypeAlias = npt.NDArray[np.uint64]

_MULTIPLIER = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_WEYL = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10
_LOW = np.uint64(0xFFFFFFFF)
_SHIFT = np.uint64(32)
MANY = 2048
"""Counters from which on a compiled loop pays; it takes a second to load."""


def digest64(*parts: object) -> int:
    """Return a 64-bit hash of the parts, the same in every process.

    Examples
    --------
    >>> digest64("plate", "A01", 1) == digest64("plate", "A01", 1)
    True
    """
    text = "\0".join(str(part) for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def philox(key: int, counter: UInt64Array, stream: int = 0) -> UInt32Array:
    """Return four random words per counter.

    Parameters
    ----------
    key : int
        64 bits; seed and purpose, mixed by `digest64`.
    counter : array (n,), uint64
        One per item; low half of the 128-bit counter.
    stream : int
        High half of the counter; numbers the draws of one item.

    Returns
    -------
    array (n, 4), uint32
    """
    counter = np.atleast_1d(np.asarray(counter, np.uint64))
    if len(counter) >= MANY:
        return _compiled_philox(key, counter, stream)
    c0, c1 = counter & _LOW, counter >> _SHIFT
    c2 = np.full_like(counter, stream & 0xFFFFFFFF)
    c3 = np.full_like(counter, (stream >> 32) & 0xFFFFFFFF)
    k0, k1 = key & 0xFFFFFFFF, (key >> 32) & 0xFFFFFFFF
    for _ in range(_ROUNDS):
        p0, p1 = _MULTIPLIER[0] * c0, _MULTIPLIER[1] * c2
        c0, c1, c2, c3 = (
            (p1 >> _SHIFT) ^ c1 ^ np.uint64(k0),
            p1 & _LOW,
            (p0 >> _SHIFT) ^ c3 ^ np.uint64(k1),
            p0 & _LOW,
        )
        k0, k1 = (k0 + _WEYL[0]) & 0xFFFFFFFF, (k1 + _WEYL[1]) & 0xFFFFFFFF
    return np.stack([c0, c1, c2, c3], axis=-1).astype(np.uint32)


def _compiled_philox(key: int, counter: UInt64Array, stream: int) -> UInt32Array:
    from bgscale import draw_kernel

    out = np.empty((len(counter), 4), np.uint32)
    both = np.uint64(key), np.uint64(stream)
    draw_kernel.philox(out, np.ascontiguousarray(counter), *both, _ROUNDS)
    return out


def words(seed: int, purpose: str, ids: UInt64Array, stream: int = 0) -> UInt64Array:
    """Return one random 64-bit word per id: (n,), uint64."""
    w = philox(digest64(seed, purpose), ids, stream).astype(np.uint64)
    return (w[:, 1] << _SHIFT) | w[:, 0]


def integers(
    seed: int, purpose: str, ids: UInt64Array, bound: npt.ArrayLike, stream: int = 0
) -> npt.NDArray[np.int64]:
    """Return a uniform integer in [0, bound) per id; `bound` may differ from id to id.

    The 32-bit word is scaled by multiplication: its bias is below bound / 2**32. Where `bound` is
    0 the result is 0; the caller decides what an empty choice means.

    Examples
    --------
    >>> integers(0, "donor", np.arange(3, dtype=np.uint64), 10).tolist()
    [0, 6, 3]
    """
    return _scaled(philox(digest64(seed, purpose), ids, stream), bound)


def several(
    seed: int, purpose: str, ids: UInt64Array, bound: npt.ArrayLike, streams: int
) -> npt.NDArray[np.int64]:
    """Return the `integers` of the streams from 0 on: (stream, id).

    Examples
    --------
    >>> several(0, "donor", np.arange(3, dtype=np.uint64), 10, 2).tolist()
    [[0, 6, 3], [2, 7, 7]]
    """
    key = digest64(seed, purpose)
    found = np.empty((streams, len(ids)), np.int64)
    make = _compiled_philox if found.size >= MANY else philox
    for stream in range(streams):
        found[stream] = _scaled(make(key, ids, stream), bound)
    return found


def _scaled(drawn: UInt32Array, bound: npt.ArrayLike) -> npt.NDArray[np.int64]:
    word = drawn[:, 0].astype(np.uint64)
    return ((word * np.asarray(bound, np.uint64)) >> _SHIFT).astype(np.int64)


def order(seed: int, purpose: str, ids: UInt64Array) -> npt.NDArray[np.int64]:
    """Return the seeded permutation that sorts the ids by their random word: (n,), int64.

    It depends on the set of ids only, not on the order they come in.
    """
    return np.lexsort((ids, words(seed, purpose, ids))).astype(np.int64)


def cell_ids(
    plate: str, wells: Sequence[str], fields: Sequence[str], labels: npt.ArrayLike
) -> UInt64Array:
    """Return a cell's identity, a hash of plate, well, field and label: (cell,), uint64.

    Parameters
    ----------
    plate : str
    wells, fields : sequences of str, one per cell
    labels : array (cell,), int
        Label in the field, or number of the crop.
    """
    hashes = {
        pair: digest64(plate, *pair) for pair in dict.fromkeys(zip(wells, fields, strict=True))
    }
    parents = np.array([hashes[p] for p in zip(wells, fields, strict=True)], np.uint64)
    numbers = np.asarray(labels).astype(np.uint64)
    return _mix(parents + numbers * np.uint64(0x9E3779B97F4A7C15))


def cell_names(ids: UInt64Array) -> list[str]:
    """Return the names of cells: their identities in hexadecimal, the same in every export.

    Examples
    --------
    >>> cell_names(np.array([255], np.uint64))
    ['00000000000000ff']
    """
    return [f"{i:016x}" for i in ids.tolist()]


def _mix(x: UInt64Array) -> UInt64Array:
    """Return splitmix64's finalizer of `x`, a bijection of 64 bits."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
