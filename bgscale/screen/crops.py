"""A screen of already cut crops: what it holds, reading it, opening it."""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from bgscale import draw
from bgscale.errors import InputError
from bgscale.platemap import PlateMap, protein_as_class, read_plate_map
from bgscale.schema import CHANNEL_ROLES, Reason, natural
from bgscale.screen.files import CropFiles, header, layout_of, stored
from bgscale.screen.names import PLATE, crop_table, match, subset

HASHED_FILES = 10_000
"""Files of a folder whose contents are part of the screen's identity: all, or so many by hash."""


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
    plates: tuple[str, ...] = (PLATE,)

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

    def field_names(self, plate: str = PLATE) -> list[str]:
        """Return the full names of the fields: plate/well/field."""
        del plate
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
        with CropFiles(Path(self.opened_with["path"])) as files:
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
        with CropFiles(Path(self.opened_with["path"])) as files:
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
        self, files: CropFiles, name: str, *, labels: bool
    ) -> tuple[Reason, npt.NDArray[Any]]:
        nothing = np.zeros(self.crop_shape, self.dtype)
        try:
            with files.open(name) as tiff:
                # before a pixel is read: a damaged header may ask for any size
                shape, dtype = header(tiff)
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
        fields = len(self.field_names())
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
            "fields": len(self.field_names()),
            "channels": {role: self.opened_with[role] for role in self.channels},
            "masks": self.opened_with["mask"] or None,
            "shape": list(self.crop_shape),
            "dtype": str(self.dtype),
            "classes": {
                name: int(count)
                for name, count in zip(self.classes, self.plate_map.labels.sum(0), strict=True)
            },
        }


def open_crops(path: Path, opened_with: dict[str, Any]) -> Screen:
    """Open a folder or zip of crops; the rest is as `open_screen` takes it."""
    class_column, plate_map = opened_with["class_column"], opened_with["plate_map"]
    wanted = {role: opened_with[role] for role in (*CHANNEL_ROLES, "mask") if opened_with[role]}
    if not wanted.keys() & {"cytosol", "mask"}:
        msg = "neither masks nor a cytosol channel: name one of screen.mask and screen.cytosol"
        raise InputError(msg)
    with CropFiles(path) as files:
        pattern, found = match(files, opened_with["pattern"] or None)
        items = crop_table(path, found, wanted)
        items = subset(items, opened_with["proteins"], opened_with["limit"])
        used = items[[f"{role}_file" for role in wanted]].to_numpy().ravel().tolist()
        sizes = {name: files.sizes[name] for name in used}
        shape, dtype = layout_of(files, items, list(wanted))
    everyone = sorted({item["protein"] for item in found}, key=natural)
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
    channels = tuple(role for role in CHANNEL_ROLES if role in wanted)
    opened_with = {**opened_with, "pattern": pattern}
    return Screen(items, sizes, channels, shape, stored(dtype), dtype, table, opened_with)


def channel_names(path: str | Path, pattern: str | None = None) -> list[str]:
    """Return what the files of a crops screen call their channels."""
    with CropFiles(Path(path)) as files:
        _, found = match(files, pattern)
    return list(dict.fromkeys(item["channel"] for item in found))
