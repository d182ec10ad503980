"""Where a plate lies: a folder, or a prefix of an S3 bucket. Files are read by key, never written.

Owns the way to the bytes, and that no key and no link leads out of the plate. What the bytes mean
is in `metadata` and `pixels`. A file that is not there is None; what cannot be read is an OSError.
"""

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, TypeVar

from zarr.abc.store import Store
from zarr.storage import LocalStore, ObjectStore

from bgscale.errors import InputError
from bgscale.places.bucket import opened

LARGEST_METADATA_BYTES = 256 * 2**20
"""Consolidated metadata of a plate can have some tens of MiB; what is larger is not read."""
S3_READERS = 16
"""Requests at a time when the wells of a plate on an object store are read."""
S3 = "s3://"
T = TypeVar("T")


class Files(Protocol):
    """The files of one plate, by key: names joined by "/"."""

    readers: int
    """Threads that are worth while for many small reads."""

    def read(self, key: str) -> bytes | None:
        """Return a metadata file."""

    def part(self, key: str, start: int, length: int) -> bytes | None:
        """Return some bytes of a file; a negative start counts from its end."""

    def folders(self, key: str) -> set[str]:
        """Return the names of the folders right below a folder."""

    def check(self, key: str, largest_bytes: int) -> None:
        """Raise OSError where a file lies outside, is no plain file, or is larger than that."""

    def store(self) -> Store:
        """Return the store that Zarr reads."""


class LocalFiles:
    """A folder; a link that leads out of it is refused.

    Parameters
    ----------
    location : str
    """

    readers = 1

    def __init__(self, location: str) -> None:
        self.root = Path(location).resolve()

    def _inside(self, key: str) -> Path:
        path = Path(os.path.realpath(self.root / key))
        if not path.is_relative_to(self.root):
            msg = f"{key} leads out of the plate, to {path}: links may not leave it"
            raise PermissionError(msg)
        return path

    def _file(self, key: str) -> Path | None:
        path = self._inside(key)
        try:
            mode = path.stat().st_mode
        except (FileNotFoundError, NotADirectoryError):
            return None
        if stat.S_ISDIR(mode):
            return None
        if not stat.S_ISREG(mode):
            msg = f"{key} is no plain file"
            raise PermissionError(msg)
        return path

    def read(self, key: str) -> bytes | None:
        """Return a metadata file."""
        path = self._file(key)
        if path is None:
            return None
        with path.open("rb") as file:
            content = file.read(LARGEST_METADATA_BYTES + 1)
        return _bounded(key, content)

    def part(self, key: str, start: int, length: int) -> bytes | None:
        """Return some bytes of a file; a negative start counts from its end."""
        path = self._file(key)
        if path is None:
            return None
        with path.open("rb") as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(max(end + start, 0) if start < 0 else start)
            return file.read(min(length, end))

    def folders(self, key: str) -> set[str]:
        """Return the names of the folders right below a folder; a link leads where it leads."""
        try:
            with os.scandir(self._inside(key)) as entries:
                return {entry.name for entry in entries if entry.is_dir()}
        except (FileNotFoundError, NotADirectoryError):
            return set()

    def check(self, key: str, largest_bytes: int) -> None:
        """Raise OSError where a file lies outside, is no plain file, or is larger than that."""
        path = self._file(key)
        if path is not None and (size := path.stat().st_size) > largest_bytes:
            msg = f"{key} has {size} bytes; its metadata allow {largest_bytes} at most"
            raise OSError(msg)

    def store(self) -> Store:
        """Return the store that Zarr reads."""
        return LocalStore(self.root, read_only=True)


class S3Files:
    """A prefix of a bucket; endpoint and credentials come from the AWS_* variables.

    Parameters
    ----------
    location : str
        s3://bucket/prefix
    """

    readers = S3_READERS

    def __init__(self, location: str) -> None:
        bucket, _, prefix = location.removeprefix(S3).rstrip("/").partition("/")
        if not bucket:
            msg = f"{location} names no bucket; expected s3://bucket/prefix"
            raise InputError(msg)
        try:
            self._store: Any = opened(bucket, prefix)
        except ImportError:
            msg = f"{location}: reading s3:// needs obstore: pip install 'bgscale[s3]'"
            raise InputError(msg) from None

    def read(self, key: str) -> bytes | None:
        """Return a metadata file."""
        import obstore

        def get() -> bytes:
            answer = obstore.get(self._store, key)
            if answer.meta["size"] > LARGEST_METADATA_BYTES:
                return b" " * (LARGEST_METADATA_BYTES + 1)
            return bytes(answer.bytes())

        content = _asked(key, get)
        return None if content is None else _bounded(key, content)

    def part(self, key: str, start: int, length: int) -> bytes | None:
        """Return some bytes of a file; a negative start counts from its end."""
        import obstore

        span: Any = {"suffix": -start} if start < 0 else [start, start + length]
        content = _asked(
            key, lambda: bytes(obstore.get(self._store, key, options={"range": span}).bytes())
        )
        return None if content is None else content[:length]

    def folders(self, key: str) -> set[str]:
        """Return the names of the folders right below a folder."""
        import obstore

        found = _asked(key, lambda: obstore.list_with_delimiter(self._store, key or None))
        prefixes = found["common_prefixes"] if found else []
        return {str(prefix).rstrip("/").rsplit("/", 1)[-1] for prefix in prefixes}

    def check(self, key: str, largest_bytes: int) -> None:
        """Do nothing: there are no links in a bucket, and asking for a size costs a request."""

    def store(self) -> Store:
        """Return the store that Zarr reads."""
        return ObjectStore(self._store, read_only=True)


def files_at(location: str) -> Files:
    """Return the files of a location.

    Raises
    ------
    InputError
        A kind of address that cannot be read, or obstore is absent.
    """
    if location.startswith(S3):
        return S3Files(location)
    if "://" in location:
        scheme = location.partition("://")[0]
        msg = f"{location}: {scheme}:// cannot be read; expected a folder or s3://bucket/prefix"
        raise InputError(msg)
    return LocalFiles(location)


def _bounded(key: str, content: bytes) -> bytes:
    if len(content) > LARGEST_METADATA_BYTES:
        msg = f"{key} has more than {LARGEST_METADATA_BYTES} bytes: no metadata file has"
        raise OSError(msg)
    return content


def _asked(key: str, request: Callable[[], T]) -> T | None:
    """Return what an object store answers, or None where there is no such object."""
    from obstore.exceptions import BaseError, NotFoundError

    try:
        return request()
    except (FileNotFoundError, NotFoundError):
        return None
    except BaseError as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        msg = f"{first} (endpoint and credentials are those of the AWS_* variables)"
        raise OSError(msg) from None
