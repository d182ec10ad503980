"""The files of a microscope's folder: listed, their TIFF headers checked, their pages read.

Nothing outside the folder is followed: links are left out, and names that metadata give are looked
up in the list. A header is believed only as far as the file holds what it says.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt
import tifffile

from bgscale.errors import FieldError, InputError, nearest_file
from bgscale.schema import Reason, natural

MOST_PIXELS = 2**28
"""Of one plane; a camera has a hundredth of it."""
LARGEST_TILE_PX = 4096**2
"""Of an image that is smaller than its tiles."""
LEFT_OUT = (".zarr", ".progress")
"""Folders that no microscope writes and that hold very many files."""
TIFF_SUFFIXES = (".tif", ".tiff")


@dataclass(frozen=True)
class Entry:
    """Size and time of change of a file."""

    bytes: int
    modified_ns: int


@dataclass(frozen=True)
class Layout:
    """What all planes of a plate have in common.

    Parameters
    ----------
    shape : (int, int)
        y, x.
    dtype : numpy.dtype
        In the machine's byte order.
    """

    shape: tuple[int, int]
    dtype: np.dtype[Any]

    def __str__(self) -> str:
        return f"{self.shape[0]} x {self.shape[1]} {self.dtype}"


class Folder:
    """A folder of images.

    Parameters
    ----------
    root : path

    Raises
    ------
    InputError
        There is no such folder.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        if not self.root.is_dir():
            what = "is a file, not a folder" if self.root.exists() else "no such folder"
            msg = f"{self.root}: {what}{nearest_file(self.root)}"
            raise InputError(msg)

    @cached_property
    def entries(self) -> dict[str, Entry]:
        """Every file by its relative name, in natural order; hidden ones and links are left out."""
        try:
            return dict(sorted(_walk(self.root, ""), key=lambda item: natural(item[0])))
        except OSError as error:
            msg = f"cannot list {self.root}: {error}"
            raise InputError(msg) from None

    @property
    def tiffs(self) -> list[str]:
        """Names of the files that are TIFFs by their suffix."""
        return [name for name in self.entries if name.lower().endswith(TIFF_SUFFIXES)]

    def named(self, name: str) -> str:
        """Return the folder's own name for a part of it: the part's last folder, or the root's."""
        return PurePosixPath(name).name or self.root.resolve().name or "plate"

    def blocks(self, name: str, size: int = 2**20) -> Iterator[bytes]:
        """Yield the contents of a file of metadata."""
        try:
            with (self.root / name).open("rb") as file:
                while block := file.read(size):
                    yield block
        except OSError as error:
            msg = f"cannot read {self.root / name}: {error.strerror}"
            raise InputError(msg) from None

    def nothing_found(self, looked_for: str) -> InputError:
        """Return the error that says what was looked for and what is there."""
        there = ", ".join(list(self.entries)[:3]) or "nothing"
        return InputError(
            f"no file of {self.root} is named {looked_for}; there are {len(self.entries)} files, "
            f"such as {there} (hidden files and links are left out)"
        )


def _walk(folder: Path, prefix: str) -> Iterator[tuple[str, Entry]]:
    with os.scandir(folder) as found:
        for item in found:
            if item.name.startswith("."):
                continue
            if item.is_dir(follow_symlinks=False):
                if not item.name.endswith(LEFT_OUT):
                    yield from _walk(folder / item.name, f"{prefix}{item.name}/")
            elif item.is_file(follow_symlinks=False):
                stat = item.stat(follow_symlinks=False)
                yield prefix + item.name, Entry(stat.st_size, stat.st_mtime_ns)


def beside(file: str, name: str) -> str:
    """Return the relative name of a file that the metadata of `file` names, in the same folder.

    Raises
    ------
    InputError
        The name leads elsewhere; it is not followed.
    """
    parts = PurePosixPath(name).parts
    if not parts or ".." in parts or name.startswith("/") or "\\" in name or ":" in name:
        msg = f"{file} names a file {name!r}: expected a file below the same folder, without '..'"
        raise InputError(msg)
    return str(PurePosixPath(file).parent / PurePosixPath(*parts))


@contextmanager
def opened(path: Path) -> Iterator[tifffile.TiffFile]:
    """Open a TIFF.

    Raises
    ------
    FieldError
        It cannot be read, or what is done with it within the block cannot be.
    """
    try:
        with tifffile.TiffFile(path) as tiff:
            yield tiff
    except (FieldError, InputError, MemoryError):
        raise
    except Exception as error:  # tifffile raises of all kinds on damaged files
        text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        msg = f"{path.name}: {text or type(error).__name__}"
        raise FieldError(Reason.UNREADABLE, msg) from error


def layout_of(tiff: tifffile.TiffFile, page: int, *, single: bool) -> Layout:
    """Return the layout of a page, after checks that the file can hold it.

    Parameters
    ----------
    tiff : TiffFile
        Within `opened`, which turns what it raises into field errors.
    page : int
    single : bool
        Whether the file must have no other page.

    Raises
    ------
    FieldError
        Not one grey image, too large, or cut off.
    InputError
        Compressed in a way that needs imagecodecs.
    """
    name = tiff.filehandle.name
    if single and len(tiff.pages) != 1:
        msg = f"{name} has {len(tiff.pages)} pages; expected one image a file"
        raise FieldError(Reason.WRONG_SHAPE, msg)
    if page >= len(tiff.pages):
        msg = f"{name} has {len(tiff.pages)} pages; expected {page + 1} or more"
        raise FieldError(Reason.UNREADABLE, msg)
    found = tiff.pages[page]
    if not isinstance(found, tifffile.TiffPage) or found.dtype is None:
        msg = f"{name}: page {page} has no pixels of a known type"
        raise FieldError(Reason.UNREADABLE, msg)
    if found.dtype.kind not in "uif" or len(found.shape) != 2:
        shape = " x ".join(map(str, found.shape))
        msg = f"{name} is {shape} {found.dtype}; expected one grey image, integer or float"
        raise FieldError(Reason.WRONG_SHAPE, msg)
    pixels = int(found.shape[0]) * int(found.shape[1])
    if not 0 < pixels <= MOST_PIXELS:
        msg = f"{name} has {pixels} pixels; expected 1 to {MOST_PIXELS}"
        raise FieldError(Reason.TOO_LARGE, msg)
    if found.is_tiled and found.tilewidth * found.tilelength > max(4 * pixels, LARGEST_TILE_PX):
        msg = f"{name} has tiles of {found.tilelength} x {found.tilewidth} for {pixels} pixels"
        raise FieldError(Reason.TOO_LARGE, msg)
    _check_held(tiff, found)
    _check_codec(found, name)
    return Layout((int(found.shape[0]), int(found.shape[1])), found.dtype.newbyteorder("="))


def _check_held(tiff: tifffile.TiffFile, page: tifffile.TiffPage) -> None:
    """Raise unless every part of a page lies in the file; absent parts would be read as zeros."""
    name, held = tiff.filehandle.name, tiff.filehandle.size
    starts, sizes = page.dataoffsets, page.databytecounts
    if not sizes or len(starts) != len(sizes) or min(sizes) <= 0:
        msg = f"{name}: part of the image is not in the file"
        raise FieldError(Reason.UNREADABLE, msg)
    last = max(start + size for start, size in zip(starts, sizes, strict=True))
    if last > held:
        msg = f"{name} is cut off: {held} bytes; its header expects {last}"
        raise FieldError(Reason.UNREADABLE, msg)
    if page.compression == 1 and page.nbytes > sum(sizes):
        msg = f"{name}: {page.nbytes} bytes of pixels by its size, {sum(sizes)} in the file"
        raise FieldError(Reason.UNREADABLE, msg)


def _check_codec(page: tifffile.TiffPage, name: str) -> None:
    try:
        tifffile.TIFF.DECOMPRESSORS[page.compression]
        tifffile.TIFF.UNPREDICTORS[page.predictor]
    except KeyError as error:
        if find_spec("imagecodecs") is not None:
            msg = f"{name} is compressed in an unknown way: {error.args[0]}"
            raise FieldError(Reason.UNREADABLE, msg) from None
        how = getattr(page.compression, "name", page.compression)
        msg = f"{name} is compressed ({how}), which needs another package: pip install imagecodecs"
        raise InputError(msg) from None


def read_page(
    tiff: tifffile.TiffFile, page: int, expected: Layout, *, single: bool
) -> npt.NDArray[Any]:
    """Return a page as array (y, x), in the plate's dtype.

    Raises
    ------
    FieldError
        Another layout than the plate's, or damaged.
    InputError
        Compressed in a way that needs imagecodecs.
    """
    found = layout_of(tiff, page, single=single)
    if found != expected:
        msg = f"{tiff.filehandle.name} is {found}; the plate's images are {expected}"
        raise FieldError(Reason.WRONG_SHAPE, msg)
    # processes share the machine already: no threads of its own
    return np.asarray(tiff.pages[page].asarray(maxworkers=1), expected.dtype)
