"""Where files lie: a folder, or a prefix of an S3 bucket. They are written whole or not at all.

Owns keys, exclusive creation, what it takes until a file is on the disk, and how an object store's
errors are told. What the files mean is not known here. A key is names joined by "/".
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol

from bgscale.errors import InputError
from bgscale.places.bucket import S3, Bucket
from bgscale.places.folder import Folder
from bgscale.places.keys import is_key
from bgscale.places.waiting import each

__all__ = ["Bucket", "Folder", "Place", "each", "is_key", "is_remote", "place_at", "spelled"]


class Place(Protocol):
    """Files by key. A file that is not there is None; what cannot be read is an OSError."""

    location: str
    readers: int
    """Threads that are worth while for many small requests."""

    def read(self, key: str) -> bytes | None:
        """Return a small file."""

    def blocks(self, key: str) -> Iterator[bytes]:
        """Yield the content of a file, piece by piece; FileNotFoundError where there is none."""

    def create(self, key: str, content: bytes) -> bool:
        """Make a file, whole and lasting; False where there is one of other content already."""

    def replace(self, key: str, content: bytes) -> None:
        """Make a file, whole and lasting, whatever was there."""

    def swap(self, key: str, old: bytes, new: bytes) -> bool:
        """Make a file in the place of one with the content `old`; False where it is another."""

    def delete(self, keys: Iterable[str]) -> None:
        """Remove files; it is no error where they are gone."""

    def remove(self, key: str) -> None:
        """Remove all files below a folder, and the folder; those right in it first.

        So where one of these is still there after others were read, they were all there.
        """

    def move(self, key: str, to: str) -> None:
        """Give all files below a folder, and the folder, another name, which is free."""

    def names(self, key: str) -> set[str]:
        """Return the names of the files right below a folder."""

    def below(self, key: str) -> Iterator[str]:
        """Yield the keys of all files below a folder."""

    def sizes(self, keys: Iterable[str]) -> dict[str, int | None]:
        """Return the size of plain files; None where there is none, or the key leads out."""

    def leads_out(self, key: str) -> bool:
        """Whether a key, or a link on its way, leads out of this place."""

    def flush(self, keys: Iterable[str]) -> None:
        """Return when files, and the folders that name them, are safely on the disk."""

    def modified(self, key: str) -> float | None:
        """Return when a file was written, in seconds, as the place's own clock has it."""

    def now(self) -> float:
        """Return what the place's own clock says: clocks of hosts differ."""

    def sweep(self, silent_s: float = 0.0) -> int:
        """Remove what writers that are gone left half written; return how many there were.

        With `silent_s` only what was not written to for so long.
        """


def spelled(location: str | Path) -> str:
    """Return a location as text; a Path of an address has lost one of its slashes.

    Examples
    --------
    >>> spelled(Path("s3://bucket/results.zarr"))
    's3://bucket/results.zarr'
    >>> spelled("results.zarr/")
    'results.zarr'
    """
    text = str(location)
    folded = S3.replace("//", "/")
    if text.startswith(folded) and not text.startswith(S3):
        text = S3 + text.removeprefix(folded)
    scheme, found, rest = text.partition("://")
    return f"{scheme}{found}{rest.rstrip('/')}" if found else str(Path(text))


def is_remote(location: str | Path) -> bool:
    """Whether a location is an address, not a folder."""
    return "://" in spelled(location)


def place_at(location: str | Path) -> Place:
    """Return the place at a location.

    Raises
    ------
    InputError
        A kind of address that is not known, or obstore is absent.
    """
    text = spelled(location)
    if text.startswith(S3):
        return Bucket(text)
    if is_remote(text):
        scheme = text.partition("://")[0]
        msg = f"{text}: {scheme}:// is not known; expected a folder or s3://bucket/prefix"
        raise InputError(msg)
    return Folder(text)
