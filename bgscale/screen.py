"""INPUT: a screen of cells, opened read-only.

`open_screen` returns a `Screen` of already cut crops, as the PCI and PIFiA data sets are handed
out: one TIFF per cell and channel, in a folder or a zip. What is wrong with the screen as a whole
raises here; a single bad crop gets a reason code when it is read.
"""

import hashlib
import io
import logging
import os
import re
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
import tifffile

from bgscale import draw
from bgscale.errors import InputError, nearest
from bgscale.platemap import PlateMap, nearest_file, protein_as_class, read_plate_map
from bgscale.schema import CHANNEL_ROLES, Reason

PATTERNS = {
    "pci": "{protein}/{protein}_{field}_rfp_{cell}_{channel}.tif",
    "pifia": "{protein}/{protein}_{channel}_{cell}.tiff",
    "bgscale": "{protein}/{protein}_{field}_{cell}_{channel}.tif",
}
PLACEHOLDERS = {
    "plate": r"[^/]+?",
    "well": r"[^/]+?",
    "protein": r"[^/]+?",
    "field": r"[^/_]+?",
    "cell": r"\d+",
    "channel": r"[^/_]+?",
}
NO_FIELD = "1"
"""Field of crops whose names do not tell theirs: all of a protein are then one field."""
PLATE = "crops"
CHECKED_SIZES, CHECKED_MORE = 256, 64
"""Files whose header is looked at on opening: one of each size, and some spread over the screen."""
HASHED_FILES = 10_000
"""Files of a folder whose contents are part of the screen's identity: all, or so many by hash."""
LARGEST_FILE_BYTES = 64 * 2**20
"""A crop is some kilobytes; what is larger is not one, and is not read."""
SHOWN = 3

# damaged files are counted with their reason, not told one by one
logging.getLogger("tifffile").setLevel(logging.CRITICAL)


@dataclass(frozen=True)
class CropBlock:
    """Some crops, read.

    Parameters
    ----------
    image : array (cell, channel, y, x)
        Zeros where `reason` is not 0.
    mask : array (cell, y, x), uint32, or None
        As the mask files have it.
    reason : array (cell,), uint8
        `schema.Reason` codes.
    """

    image: npt.NDArray[Any]
    mask: npt.NDArray[Any] | None
    reason: npt.NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Screen:
    """A crops screen.

    Parameters
    ----------
    items : DataFrame
        A row per crop, sorted by protein, well, field and number: protein, well, field, number,
        and the file of each role ("protein_file", ...).
    sizes : dict of str to int
        Bytes of every file used.
    channels : tuple of str
        Roles, in the order of the crops' channels.
    crop_shape : (int, int)
    dtype : dtype
        uint16 or float32.
    file_dtype : dtype
        Of the files; uint8 is kept as uint16, other numbers as float32.
    plate_map : PlateMap
    opened_with : dict
        Arguments of `open_screen`, so that another process opens the same.
    """

    items: pd.DataFrame
    sizes: dict[str, int]
    channels: tuple[str, ...]
    crop_shape: tuple[int, int]
    dtype: np.dtype[Any]
    file_dtype: np.dtype[Any]
    plate_map: PlateMap
    opened_with: dict[str, Any]

    kind: Literal["crops"] = "crops"
    name: str = PLATE

    @cached_property
    def proteins(self) -> tuple[str, ...]:
        """Names of the proteins, in natural order."""
        return tuple(self.items["protein"].unique())

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes."""
        return self.plate_map.classes

    @cached_property
    def protein_codes(self) -> npt.NDArray[np.int32]:
        """Code of each crop's protein: (cell,), int32."""
        return pd.Categorical(self.items["protein"], self.proteins).codes.astype(np.int32)

    @cached_property
    def _fields(self) -> tuple[npt.NDArray[np.int32], list[str]]:
        full = f"{PLATE}/" + self.items["well"] + "/" + self.items["field"]
        codes, names = pd.factorize(full)
        return codes.astype(np.int32), [str(name) for name in names]

    @property
    def field_codes(self) -> npt.NDArray[np.int32]:
        """Code of each crop's plate, well and field: (cell,), int32."""
        return self._fields[0]

    @property
    def field_names(self) -> list[str]:
        """Full names of the fields: plate/well/field."""
        return self._fields[1]

    @cached_property
    def cell_ids(self) -> draw.UInt64Array:
        """Identity of each crop's cell: (cell,), uint64."""
        wells, fields = self.items["well"].tolist(), self.items["field"].tolist()
        return draw.cell_ids(PLATE, wells, fields, self.items["number"].to_numpy())

    def identity(self) -> str:
        """Return a hash of the crops and their files; not of where these lie, nor of their dates.

        It holds their names, sizes and contents: the checksums that a zip keeps; of a folder with
        more than `HASHED_FILES` files, the contents of so many.
        """
        return self._identity

    @cached_property
    def _identity(self) -> str:
        names = sorted(self.sizes)
        ids = np.array([draw.digest64(name) for name in names], np.uint64)
        with _Files(Path(self.opened_with["path"])) as files:
            if not files.zipped:
                names = [names[i] for i in draw.order(0, "identity", ids)[:HASHED_FILES]]
            contents = [f"{name} {files.checksum(name):08x}" for name in sorted(names)]
        sizes = [f"{name} {size}" for name, size in sorted(self.sizes.items())]
        roles = [self.opened_with[role] for role in (*CHANNEL_ROLES, "mask")]
        facts = f"{roles} {self.crop_shape} {self.dtype}"
        text = "\n".join([*sizes, *contents, facts]).encode()
        return hashlib.blake2b(text + self.cell_ids.tobytes(), digest_size=16).hexdigest()

    def read(self, rows: npt.NDArray[np.int64]) -> CropBlock:
        """Read some crops; a bad one gets a reason and zeros, never an exception."""
        n, shape = len(rows), self.crop_shape
        image = np.zeros((n, len(self.channels), *shape), self.dtype)
        mask = np.zeros((n, *shape), np.uint32) if self.opened_with["mask"] else None
        reason = np.zeros(n, np.uint8)
        roles = [*self.channels, *(["mask"] if mask is not None else [])]
        names = self.items[[f"{role}_file" for role in roles]].to_numpy()[rows]
        with _Files(Path(self.opened_with["path"])) as files:
            for i in range(n):
                planes = [
                    self._plane(files, name, labels=role == "mask")
                    for role, name in zip(roles, names[i].tolist(), strict=True)
                ]
                reason[i] = next((code for code, _ in planes if code), Reason.OK)
                if reason[i] == Reason.OK:
                    image[i] = [plane for _, plane in planes[: len(self.channels)]]
                    if mask is not None:
                        mask[i] = np.maximum(planes[-1][1], 0)
        return CropBlock(image, mask, reason)

    def _plane(
        self, files: "_Files", name: str, *, labels: bool
    ) -> tuple[Reason, npt.NDArray[Any]]:
        nothing = np.zeros(self.crop_shape, self.dtype)
        try:
            with files.open(name) as tiff:
                # before a pixel is read: a damaged header may ask for any size
                shape, dtype = _header(tiff)
                if shape != self.crop_shape or not (labels or dtype == self.file_dtype):
                    return Reason.WRONG_SHAPE, nothing
                plane = tiff.pages.first.asarray()
        except Exception:  # noqa: BLE001  damaged bytes make a parser raise anything
            return Reason.UNREADABLE, nothing
        if not labels:
            with np.errstate(over="ignore"):
                plane = plane.astype(self.dtype)
        if not np.isfinite(plane).all():
            return Reason.NOT_FINITE, nothing
        if not labels and plane.min() == plane.max():
            return Reason.CONSTANT, nothing
        return Reason.OK, plane

    def plate_map_template(self) -> str:
        """Return CSV text with a row per protein and an empty class."""
        return "protein,localization\n" + "".join(f"{p},\n" for p in self.proteins)

    def summary(self) -> str:
        """Return one line: how many of what."""
        fields = len(self.field_names)
        return (
            f"{len(self.items)} crops of {len(self.proteins)} proteins, {fields} fields, "
            f"{self.crop_shape[0]}x{self.crop_shape[1]} {self.dtype}, channels "
            f"{', '.join(self.channels)}"
        )

    def facts(self) -> dict[str, Any]:
        """Return what the screen holds, as plain JSON types."""
        return {
            "path": str(self.opened_with["path"]),
            "pattern": self.opened_with["pattern"],
            "crops": len(self.items),
            "proteins": self.items.groupby("protein", sort=False).size().to_dict(),
            "fields": len(self.field_names),
            "channels": {role: self.opened_with[role] for role in self.channels},
            "masks": self.opened_with["mask"] or None,
            "shape": list(self.crop_shape),
            "dtype": str(self.dtype),
            "classes": {
                name: int(count)
                for name, count in zip(self.classes, self.plate_map.labels.sum(0), strict=True)
            },
        }


def open_screen(
    path: str | Path,
    *,
    plate_map: str | Path | None = None,
    class_column: str = "localization",
    pattern: str | None = None,
    protein: str = "gfp",
    cytosol: str | None = "rfp",
    nucleus: str | None = None,
    mask: str | None = None,
    pixel_size_um: float | None = None,
    intensity_scaling: str = "plate",
    proteins: Sequence[str] | None = None,
    limit: int | None = None,
) -> Screen:
    """Open a folder or zip of already cut crops; nothing is written to it.

    Parameters
    ----------
    path : path
    plate_map : path, optional
        CSV with a row per protein; not needed where `class_column` is "protein".
    class_column : str
    pattern : str, optional
        "pci", "pifia", "bgscale", or a template with {protein}, {field}, {cell}, {channel}; by
        default the named one that fits most files.
    protein, cytosol, nucleus, mask : str, optional
        What the files call these channels. With neither masks nor cytosol no cell can be found.
    pixel_size_um : float, optional
    intensity_scaling : {"plate", "field"}
        "field" where every field was scaled by itself.
    proteins : sequence of str, optional
        Only these.
    limit : int, optional
        At most so many cells, the same number of each protein, chosen by hash.

    Returns
    -------
    Screen

    Raises
    ------
    InputError
        The screen or its plate map is wrong as a whole.
    """
    path = Path(path)
    if limit is not None and limit < 0:
        msg = f"limit is {limit}; expected a number of cells, or 0 for all"
        raise InputError(msg)
    if intensity_scaling not in ("plate", "field"):
        msg = f"intensity_scaling is {intensity_scaling!r}; expected 'plate' or 'field'"
        raise InputError(msg)
    if not cytosol and not mask:
        msg = "neither masks nor a cytosol channel: name one of screen.mask and screen.cytosol"
        raise InputError(msg)
    roles = {"protein": protein, "cytosol": cytosol, "nucleus": nucleus, "mask": mask}
    wanted = {role: str(name) for role, name in roles.items() if name}
    with _Files(path) as files:
        pattern, found = _match(files, pattern)
        items = _items(path, found, wanted)
        items = _subset(items, proteins, limit)
        used = items[[f"{role}_file" for role in wanted]].to_numpy().ravel().tolist()
        sizes = {name: files.sizes[name] for name in used}
        shape, dtype = _layout(files, items, list(wanted))
    everyone = sorted({item["protein"] for item in found}, key=_natural)
    if plate_map:
        table = read_plate_map(plate_map, class_column, everyone)
    elif class_column == "protein":
        table = protein_as_class(everyone)
    else:
        msg = (
            f"no plate map, and the class is {class_column!r}: give screen.plate_map, or set "
            'screen.class_column = "protein"'
        )
        raise InputError(msg)
    table = table.of([everyone.index(p) for p in items["protein"].unique()])
    opened_with = {
        "path": str(path),
        "plate_map": str(plate_map or ""),
        "class_column": class_column,
        "pattern": pattern,
        **{role: name or "" for role, name in roles.items()},
        "pixel_size_um": pixel_size_um or 0.0,
        "intensity_scaling": intensity_scaling,
        "proteins": tuple(proteins or ()),
        "limit": limit or 0,
    }
    channels = tuple(role for role in CHANNEL_ROLES if role in wanted)
    return Screen(items, sizes, channels, shape, _stored(dtype), dtype, table, opened_with)


def channel_names(path: str | Path, pattern: str | None = None) -> list[str]:
    """Return what the files of a crops screen call their channels."""
    with _Files(Path(path)) as files:
        _, found = _match(files, pattern)
    return list(dict.fromkeys(item["channel"] for item in found))


class _Files:
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

    def __enter__(self) -> "_Files":
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


def _regex(pattern: str) -> re.Pattern[str]:
    """Return the expression of a template; a placeholder that comes again must agree."""
    template = PATTERNS.get(pattern, pattern)
    parts = re.split(r"\{(\w*)\}", template)
    known = ", ".join(f"{{{name}}}" for name in PLACEHOLDERS)
    seen: set[str] = set()
    expression = r"(?:[^/]+/)?"
    for i, part in enumerate(parts):
        if i % 2 == 0:
            expression += re.escape(part)
        elif part not in PLACEHOLDERS:
            msg = f"pattern {pattern!r}: unknown placeholder {{{part}}}; known: {known}"
            raise InputError(msg)
        else:
            expression += f"(?P={part})" if part in seen else f"(?P<{part}>{PLACEHOLDERS[part]})"
            seen.add(part)
    absent = [f"{{{name}}}" for name in ("protein", "cell", "channel") if name not in seen]
    if absent:
        named = ", ".join(PATTERNS)
        msg = f"pattern {pattern!r} lacks {', '.join(absent)}; named patterns: {named}"
        raise InputError(msg)
    return re.compile(re.sub(r"\\\.tiff?$", r"\\.tiff?", expression), re.IGNORECASE)


def _match(files: _Files, pattern: str | None) -> tuple[str, list[dict[str, str]]]:
    """Return the pattern, and what it says of each file it fits."""
    tried = {name: _regex(name) for name in ([pattern] if pattern else PATTERNS)}
    found = {
        name: [
            match.groupdict() | {"name": file}
            for file in files.sizes
            if (match := expression.fullmatch(file))
        ]
        for name, expression in tried.items()
    }
    best = max(found, key=lambda name: len(found[name]))
    if not found[best]:
        looked = " or ".join(repr(PATTERNS.get(name, name)) for name in tried)
        there = ", ".join(list(files.sizes)[:SHOWN]) or "nothing"
        msg = (
            f"no file of {files.path} is named {looked}; there are {len(files.sizes)} files, such "
            f"as {there}: set screen.pattern (hidden files and links are left out)"
        )
        raise InputError(msg)
    return best, found[best]


def _items(path: Path, found: list[dict[str, str]], wanted: dict[str, str]) -> pd.DataFrame:
    """Return a row per crop with the file of each role, in natural order."""
    names = {channel: role for role, channel in wanted.items()}
    if len(names) < len(wanted):
        shown = ", ".join(f"screen.{role} {channel!r}" for role, channel in wanted.items())
        msg = f"each role needs a channel of its own, got {shown}"
        raise InputError(msg)
    there = dict.fromkeys(item["channel"] for item in found)
    for role, channel in wanted.items():
        if channel not in there:
            msg = (
                f"{path}: no file of channel {channel!r} (screen.{role})"
                f"{nearest(channel, there)}; the channels are {', '.join(there)}"
            )
            raise InputError(msg)
    crops: dict[tuple[str, str, str, int], dict[str, str]] = {}
    for item in found:
        if item["channel"] in names:
            well = "/".join(item[k] for k in ("plate", "well") if item.get(k)) or item["protein"]
            key = (item["protein"], well, item.get("field") or NO_FIELD, int(item["cell"]))
            twin = crops.setdefault(key, {}).setdefault(names[item["channel"]], item["name"])
            if twin != item["name"]:
                msg = (
                    f"{path}: {twin} and {item['name']} are the same cell and channel; remove one, "
                    "or tell them apart with screen.pattern"
                )
                raise InputError(msg)
    lacking = [(key, roles) for key, roles in crops.items() if len(roles) < len(wanted)]
    if lacking:
        shown = "; ".join(
            f"{next(iter(roles.values()))} has no {wanted[role]}"
            for _, roles in lacking[:SHOWN]
            for role in wanted
            if role not in roles
        )
        msg = f"{path}: {len(lacking)} crops lack a channel: {shown}; remove them or add the files"
        raise InputError(msg)
    order = sorted(crops, key=lambda key: (*map(_natural, key[:3]), key[3]))
    rows = [(*key, *(crops[key][role] for role in wanted)) for key in order]
    columns = ["protein", "well", "field", "number", *(f"{role}_file" for role in wanted)]
    return pd.DataFrame(rows, columns=columns)


def _natural(text: str) -> list[tuple[int, int | str]]:
    """Return a sort key that puts 2 before 10."""
    parts = re.split(r"(\d+)", text)
    return [(0, int(p)) if p.isdecimal() else (1, p) for p in parts if p]


def _subset(items: pd.DataFrame, proteins: Sequence[str] | None, limit: int | None) -> pd.DataFrame:
    """Return the crops of some proteins, at most `limit`, as many of each protein."""
    if proteins:
        known = items["protein"].unique().tolist()
        for name in proteins:
            if name not in known:
                msg = f"no protein {name!r} on the screen{nearest(name, known)}"
                raise InputError(msg)
        items = items[items["protein"].isin(proteins)]
    if limit and limit < len(items):
        wells, fields = items["well"].tolist(), items["field"].tolist()
        ids = draw.cell_ids(PLATE, wells, fields, items["number"].to_numpy())
        ranked = items.iloc[draw.order(0, "limit", ids)]
        turn = ranked.groupby("protein", sort=False).cumcount()
        kept = turn.sort_values(kind="stable").index[:limit]
        items = items.loc[sorted(kept)]
    return items.reset_index(drop=True)


def _stored(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return what crops of a dtype are kept as: uint16, or else float32."""
    return np.dtype("uint16" if dtype in (np.uint8, np.uint16) else "float32")


def _header(tiff: tifffile.TiffFile) -> tuple[tuple[int, ...], np.dtype[Any]]:
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


def _layouts(files: _Files, names: Sequence[str]) -> dict[tuple[tuple[int, ...], Any], str]:
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
                layout = _header(tiff)
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


def _layout(
    files: _Files, items: pd.DataFrame, roles: list[str]
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
