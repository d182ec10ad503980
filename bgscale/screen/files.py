"""The files of a crops screen: listed, read, their headers checked.

Owns what lies in a folder or a zip, and what can be wrong with a TIFF. What the names mean is in
`names`. A header is believed only as far as the file holds what it says.
"""

import io
import logging
import os
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import tifffile

from bgscale.errors import InputError, nearest_file

CHECKED_SIZES, CHECKED_MORE = 256, 64
"""Files whose header is looked at on opening: one of each size, and some spread over the screen."""
LARGEST_FILE_BYTES = 64 * 2**20
"""A crop is some kilobytes; what is larger is not one, and is not read."""
SHOWN = 3

# damaged files are counted with their reason, not told one by one
logging.getLogger("tifffile").setLevel(logging.CRITICAL)


class CropFiles:
    """The files of a folder or of a zip, by relative name; nothing outside is ever followed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._archive: zipfile.ZipFile | None = None
        try:
            if path.is_dir():
                return
            self._archive = zipfile.ZipFile(path)
        except FileNotFoundError:
            msg = f"no such folder or zip: {path}{nearest_file(path)}"
            raise InputError(msg) from None
        except (zipfile.BadZipFile, OSError) as error:
            msg = f"cannot open {path}; expected a folder or a zip of crops: {error}"
            raise InputError(msg) from None

    def __enter__(self) -> "CropFiles":
        return self

    def __exit__(self, *_: object) -> None:
        if self._archive is not None:
            self._archive.close()

    @property
    def zipped(self) -> bool:
        """Whether they are in a zip, which knows their checksums."""
        return self._archive is not None

    @cached_property
    def sizes(self) -> dict[str, int]:
        """Bytes of every file by its name, sorted; hidden files and folders are left out."""
        if self._archive is not None:
            entries = [i for i in self._archive.infolist() if not i.is_dir()]
            seen = ((i.filename, i.file_size) for i in entries)
            found = {n: s for n, s in seen if not any(p[:1] == "." for p in n.split("/"))}
        else:
            try:
                found = dict(_walk(self.path))
            except OSError as error:
                msg = f"cannot list {self.path}: {error}"
                raise InputError(msg) from None
        return {name: found[name] for name in sorted(found)}

    def open(self, name: str) -> tifffile.TiffFile:
        """Open a TIFF, read as a whole, so that no header can ask for more than the file has."""
        return tifffile.TiffFile(io.BytesIO(self._bytes(name)))

    def checksum(self, name: str) -> int:
        """Return the CRC-32 of a file's contents."""
        if self._archive is not None:
            return self._archive.getinfo(name).CRC
        with (self.path / name).open("rb") as file:
            return zlib.crc32(file.read(LARGEST_FILE_BYTES))

    def _bytes(self, name: str) -> bytes:
        opened = self._archive.open(name) if self._archive else (self.path / name).open("rb")
        with opened as file:
            content = file.read(LARGEST_FILE_BYTES)
        if len(content) == LARGEST_FILE_BYTES:
            msg = f"{name} is too large for a crop"
            raise InputError(msg)
        return content


def _walk(folder: Path, prefix: str = "") -> Iterator[tuple[str, int]]:
    """Yield name and size of every file below a folder; a link could lead out of it."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                yield from _walk(folder / entry.name, f"{prefix}{entry.name}/")
            elif entry.is_file(follow_symlinks=False):
                yield prefix + entry.name, entry.stat(follow_symlinks=False).st_size


def stored(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return what crops of a dtype are kept as: uint16, or else float32."""
    return np.dtype("uint16" if dtype in (np.uint8, np.uint16) else "float32")


def header(tiff: tifffile.TiffFile) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Return shape, with the number of pages where there are several, and dtype."""
    page, pages = tiff.pages.first, len(tiff.pages)
    if page.dtype is None or page.dtype.kind not in "buif":
        msg = f"no pixels that are numbers: {page.dtype}"
        raise ValueError(msg)
    held = tiff.filehandle.size
    if not page.nbytes or (page.compression == 1 and page.nbytes > held):
        msg = f"{page.nbytes} bytes of pixels in a file of {held}"
        raise ValueError(msg)
    shape = page.shape if pages == 1 else (pages, *page.shape)
    return tuple(map(int, shape)), page.dtype.newbyteorder("=")


def _layouts(files: CropFiles, names: Sequence[str]) -> dict[tuple[tuple[int, ...], Any], str]:
    """Return the layouts of some files, looked at as far as needed, with a file of each."""
    first: dict[int, str] = {}
    for name in names:
        first.setdefault(files.sizes[name], name)
    by_size = list(first.values())
    looked = by_size[:: -(-len(by_size) // CHECKED_SIZES)]
    looked += names[:: -(-len(names) // CHECKED_MORE)]
    found: dict[tuple[tuple[int, ...], Any], str] = {}
    for name in dict.fromkeys(looked):
        try:
            with files.open(name) as tiff:
                layout = header(tiff)
                if layout not in found and len(layout[0]) == 2:
                    tiff.pages.first.asarray()
        except Exception as error:  # noqa: BLE001  damaged: it gets its reason when it is read
            if "imagecodecs" in str(error):
                msg = f"{files.path}: {name} is compressed ({error}): install imagecodecs"
                raise InputError(msg) from None
            continue
        found.setdefault(layout, name)
    if not found:
        msg = (
            f"{files.path}: none of the files that fit the pattern is a sound TIFF, such as "
            f"{looked[0]}"
        )
        raise InputError(msg)
    return found


def layout_of(
    files: CropFiles, items: pd.DataFrame, roles: list[str]
) -> tuple[tuple[int, int], np.dtype[Any]]:
    """Return shape and dtype of the crops' files; mask files must have the same shape."""
    images = [c for c in items.columns if c.endswith("_file") and c != "mask_file"]
    layouts = _layouts(files, items[images].to_numpy().ravel().tolist())
    described = [f"{name} is {_shape(s)} {d}" for (s, d), name in layouts.items()]
    if len(layouts) > 1:
        msg = (
            f"{files.path}: crops differ in size, dtype or number of channels: "
            f"{'; '.join(described[:SHOWN])}; expected the same of all: remove the others, or open "
            "them as a screen of their own"
        )
        raise InputError(msg)
    shape, dtype = next(iter(layouts))
    if len(shape) != 2:
        msg = (
            f"{files.path}: {described[0]}; expected one grey image per file: write each channel "
            "to a file of its own"
        )
        raise InputError(msg)
    if "mask" in roles:
        for (other, _), name in _layouts(files, items["mask_file"].tolist()).items():
            if other != shape:
                msg = f"{files.path}: mask {name} is {_shape(other)}; the crops are {_shape(shape)}"
                raise InputError(msg)
    return (shape[0], shape[1]), dtype


def _shape(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))
