"""A folder of files: written beside their place and moved there, and on the disk before they count.

A move or a link is one step to every reader. That it lasts is another matter: file, and every
folder on the way to it, are flushed.
"""

import errno
import itertools
import os
import shutil
import stat
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from bgscale.places.keys import is_key
from bgscale.places.waiting import each
from bgscale.places.writer import is_left_over, partial_name

LARGEST_READ_BYTES = 256 * 2**20
"""Records and metadata have some tens of MiB at most; what is larger is not read."""
BLOCK_BYTES = 1 << 20
READERS = 8
_NO_HARD_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)
_NO_FLUSH = (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP)
"""What some network file systems say to the flush of a folder, which they do not need."""
_NUMBER = itertools.count()


class Folder:
    """A folder, which need not be there yet.

    Parameters
    ----------
    location : str or path
    """

    readers = READERS

    def __init__(self, location: str | Path) -> None:
        self.root = Path(location)
        self.location = str(location)
        self._real: dict[Path, bool] = {}

    def path(self, key: str) -> Path:
        """Return where a file is.

        Raises
        ------
        PermissionError
            The key leads out of the folder.
        """
        if not is_key(key):
            msg = f"{key!r} leads out of {self.root}"
            raise PermissionError(msg)
        return self.root / key

    def _opened(self, key: str) -> int:
        # a named pipe would keep its reader waiting
        handle = os.open(self.path(key), os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        mode = os.fstat(handle).st_mode
        if not stat.S_ISREG(mode):
            os.close(handle)
            if stat.S_ISDIR(mode):
                raise FileNotFoundError(errno.ENOENT, "No such file", key)
            msg = f"{key} is no plain file"
            raise PermissionError(msg)
        return handle

    def read(self, key: str) -> bytes | None:
        """Return a small file."""
        try:
            handle = self._opened(key)
        except (FileNotFoundError, NotADirectoryError):
            return None
        with os.fdopen(handle, "rb") as file:
            content = file.read(LARGEST_READ_BYTES + 1)
        if len(content) > LARGEST_READ_BYTES:
            msg = f"{key} has more than {LARGEST_READ_BYTES} bytes: none of its kind has"
            raise OSError(msg)
        return content

    def blocks(self, key: str) -> Iterator[bytes]:
        """Yield the content of a file, piece by piece."""
        with os.fdopen(self._opened(key), "rb") as file:
            while block := file.read(BLOCK_BYTES):
                yield block

    def _written(self, path: Path, content: bytes) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(partial_name(path.name, next(_NUMBER)))
        try:
            with part.open("xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        return part

    def create(self, key: str, content: bytes) -> bool:
        """Make a file, whole and lasting; False where there is one of other content already."""
        path = self.path(key)
        part = self._written(path, content)
        try:
            os.link(part, path)
        except FileExistsError:
            # a network file system can do it and lose the answer
            return self.read(key) == content
        except OSError as error:
            if error.errno not in _NO_HARD_LINKS:
                raise
            return self._create_without_links(path, content)
        finally:
            part.unlink(missing_ok=True)
        self._flush_folders([path])
        return True

    def _create_without_links(self, path: Path, content: bytes) -> bool:
        """Make a file that may be seen half written: its readers must notice."""
        try:
            with path.open("xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        except FileExistsError:
            return path.read_bytes() == content
        self._flush_folders([path])
        return True

    def replace(self, key: str, content: bytes) -> None:
        """Make a file, whole and lasting, whatever was there."""
        path = self.path(key)
        self._move(self._written(path, content), path)

    def swap(self, key: str, old: bytes, new: bytes) -> bool:
        """Make a file in the place of one with the content `old`; False where it is another.

        Between the look and the move another process may do the same: the last one's stays.
        """
        path = self.path(key)
        part = self._written(path, new)
        if self.read(key) != old:
            part.unlink(missing_ok=True)
            return False
        self._move(part, path)
        return True

    def _move(self, part: Path, path: Path) -> None:
        try:
            part.replace(path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        self._flush_folders([path])

    def delete(self, keys: Iterable[str]) -> None:
        """Remove files; it is no error where they are gone."""
        for key in keys:
            self.path(key).unlink(missing_ok=True)

    def remove(self, key: str) -> None:
        """Remove all files below a folder, and the folder."""
        self.delete([f"{key}/{name}" for name in self.names(key)])
        shutil.rmtree(self.path(key), ignore_errors=True)

    def move(self, key: str, to: str) -> None:
        """Give a folder another name, which is free."""
        target = self.path(to)
        target.parent.mkdir(parents=True, exist_ok=True)
        self.path(key).rename(target)

    def names(self, key: str) -> set[str]:
        """Return the names of the files right below a folder."""
        try:
            with os.scandir(self.path(key)) as entries:
                return {entry.name for entry in entries if entry.is_file(follow_symlinks=False)}
        except (FileNotFoundError, NotADirectoryError):
            return set()

    def below(self, key: str) -> Iterator[str]:
        """Yield the keys of all files below a folder; links are not followed."""
        for folder, _, names in os.walk(self.path(key)):
            at = Path(folder).relative_to(self.root).as_posix()
            yield from (f"{at}/{name}" for name in names)

    def sizes(self, keys: Iterable[str]) -> dict[str, int | None]:
        """Return the size of plain files; None where there is none, or the key leads out."""
        asked = list(keys)
        return dict(zip(asked, each(self._size, asked, READERS), strict=True))

    def _size(self, key: str) -> int | None:
        if not is_key(key):
            return None
        try:
            status = os.lstat(f"{self.location}/{key}")
        except OSError:
            return None
        return status.st_size if stat.S_ISREG(status.st_mode) else None

    def leads_out(self, key: str) -> bool:
        """Whether a key, or a link on its way, leads out of this folder."""
        if not is_key(key):
            return True
        path = self.root / key
        if path.is_symlink():
            return not self._is_within(path)
        if path.parent not in self._real:
            self._real[path.parent] = self._is_within(path.parent)
        return not self._real[path.parent]

    def _is_within(self, path: Path) -> bool:
        return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(self.root))

    def flush(self, keys: Iterable[str]) -> None:
        """Return when files, and the folders that name them, are safely on the disk."""
        paths = [self.path(key) for key in keys]
        for path in paths:
            # Zarr's local store replaces files in one step, and never flushes them
            with path.open("rb") as file:
                os.fsync(file.fileno())
        self._flush_folders(paths)

    def _flush_folders(self, paths: Iterable[Path]) -> None:
        if os.name == "nt":
            # folders cannot be opened there
            return
        folders = {f for p in paths for f in p.parents if f.is_relative_to(self.root)}
        for folder in sorted(folders, reverse=True):
            handle = os.open(folder, os.O_RDONLY)
            try:
                os.fsync(handle)
            except OSError as error:
                if error.errno not in _NO_FLUSH:
                    raise
            finally:
                os.close(handle)

    def modified(self, key: str) -> float | None:
        """Return when a file was written, as the file server's clock has it."""
        try:
            # opened, not asked for by name: a network file system answers from memory then
            handle = self._opened(key)
        except (FileNotFoundError, NotADirectoryError):
            return None
        try:
            return os.fstat(handle).st_mtime
        finally:
            os.close(handle)

    def now(self) -> float:
        """Return what the file server's clock says."""
        part = self._written(self.root / "clock", b"?")
        try:
            return part.stat().st_mtime
        finally:
            part.unlink(missing_ok=True)

    def sweep(self, silent_s: float = 0.0) -> int:
        """Remove what writers that are gone left half written; return how many there were.

        With `silent_s` only what was not written to for so long.
        """
        found = [
            Path(folder) / name
            for folder, _, names in os.walk(self.root)
            for name in filter(is_left_over, names)
        ]
        before = self.now() - silent_s if found and silent_s else float("inf")
        count = 0
        for path in found:
            with suppress(FileNotFoundError):
                if path.stat().st_mtime <= before:
                    path.unlink()
                    count += 1
        return count
