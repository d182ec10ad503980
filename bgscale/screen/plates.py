"""A screen of OME-Zarr plates: its fields, what is in which well, and reading a field.

Plates are opened read-only. Their metadata are read once, when the screen is opened; those of a
field when its pixels are. What is wrong with the screen as a whole raises then; a single bad field
raises `FieldError` with its reason when it is read, and its run marks it and goes on.
"""

import hashlib
import json
import zlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from bgscale import draw
from bgscale.errors import FieldError, InputError, nearest
from bgscale.ngff import FieldRef, ImageInfo, Plate, find_plates, open_plate
from bgscale.platemap import WellMap, every_well, read_well_map, well_map_template
from bgscale.schema import CHANNEL_ROLES, Reason
from bgscale.screen.files import stored

HASHED_FIELDS = 2
"""Fields of a plate whose pixels are part of its identity: reading all is the work of the run."""
LOOKED_AT = 16
"""Fields of a plate that may be damaged before the plate is refused."""


@dataclass(frozen=True)
class Layout:
    """What all fields of a plate have in common, taken from the first that can be read.

    Parameters
    ----------
    shape : (int, int)
    dtype : dtype
        Of the crops; uint8 is kept as uint16, other numbers as float32.
    pixel_size_um : float
        0 where it is not known.
    """

    shape: tuple[int, int]
    dtype: np.dtype[Any]
    pixel_size_um: float


@dataclass(frozen=True, eq=False)
class PlateScreen:
    """A screen of plates.

    Parameters
    ----------
    handles : dict of str to Plate
        Sorted by name.
    fields : dict of str to tuple of FieldRef
        Of each plate, those that are used.
    channels : tuple of str
        Roles, in the order of the crops' channels.
    wells : WellMap
    opened_with : dict
        Arguments of `open_screen`, so that another process opens the same.
    """

    handles: dict[str, Plate]
    fields: dict[str, tuple[FieldRef, ...]]
    channels: tuple[str, ...]
    wells: WellMap
    opened_with: dict[str, Any]

    kind: Literal["plates"] = "plates"

    @property
    def plates(self) -> tuple[str, ...]:
        """Names of the plates."""
        return tuple(self.handles)

    @property
    def plate_map(self) -> Any:
        """The classes of each protein."""
        return self.wells.map

    @property
    def proteins(self) -> tuple[str, ...]:
        """Names of the proteins, in natural order."""
        return self.wells.proteins

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes."""
        return self.wells.map.classes

    def continued(
        self, plates: Sequence[str], proteins: Sequence[str], classes: Sequence[str]
    ) -> "PlateScreen":
        """Return the screen with these first, which an earlier run has numbered, in their order.

        Where one of them is no more, the screen as it is.
        """
        known = (plates, proteins, classes)
        have = (self.plates, self.proteins, self.classes)
        if any(set(old) - set(now) for old, now in zip(known, have, strict=True)):
            return self
        first, named, kinds = (
            [*old, *(n for n in now if n not in set(old))]
            for old, now in zip(known, have, strict=True)
        )
        if (first, named, kinds) == tuple(map(list, have)):
            return self
        found = replace(
            self,
            handles={name: self.handles[name] for name in first},
            fields={name: self.fields[name] for name in first},
            wells=self.wells.reordered(named, kinds),
        )
        # what was read of the plates already
        for name in {"layouts", "_samples"} & set(self.__dict__):
            found.__dict__[name] = self.__dict__[name]
        return found

    def field_names(self, plate: str) -> list[str]:
        """Return the full names of a plate's fields: plate/well/field."""
        return [f"{ref.plate}/{ref.well}/{ref.field}" for ref in self.fields[plate]]

    def field_proteins(self, plate: str) -> npt.NDArray[np.int32]:
        """Return the code of each field's protein, -1 for blanks: (field,), int32."""
        codes = [self.wells.protein_of.get((plate, ref.well), -1) for ref in self.fields[plate]]
        return np.array(codes, np.int32)

    def problems(self, plate: str) -> list[dict[str, Any]]:
        """Return the wells and fields that the plate's metadata name and that are not there."""
        return [
            {"well": p.well, "field": p.field, "reason": int(p.reason), "text": p.text}
            for p in self.handles[plate].problems
        ]

    @cached_property
    def layouts(self) -> dict[str, Layout]:
        """The layout of each plate's fields."""
        found = {name: self._layout(name) for name in self.handles}
        dtypes = {layout.dtype for layout in found.values()}
        if len(dtypes) > 1:
            shown = ", ".join(f"{n} {layout.dtype}" for n, layout in found.items())
            msg = f"plates of several dtypes: {shown}; expected one, run them apart"
            raise InputError(msg)
        return found

    def _layout(self, plate: str) -> Layout:
        """Return the commonest layout of the first fields, of equally many the first one's."""
        found: list[Layout] = []
        problem: FieldError | None = None
        for ref in self.fields[plate][:LOOKED_AT]:
            try:
                info = self.handles[plate].image(ref)
                self.handles[plate].channel_indices(ref, self._channel_names)
            except FieldError as error:
                problem = problem or error
                continue
            self._check_planes(plate, dict(zip(info.axes, info.shape, strict=True)))
            size = self.opened_with["pixel_size_um"] or info.pixel_size_um or 0.0
            shape = (int(info.shape[-2]), int(info.shape[-1]))
            found.append(Layout(shape, stored(np.dtype(info.dtype)), float(size)))
        if not found:
            looked = min(LOOKED_AT, len(self.fields[plate]))
            msg = f"{problem}; so are all {looked} fields of plate {plate} that were looked at"
            raise InputError(msg)
        return max(found, key=found.count)

    def _check_planes(self, plate: str, axes: dict[str, int]) -> None:
        """Raise where the time point or plane that is asked for is not there."""
        asked = {"t": ("time", self.opened_with["time"]), "z": ("z", self.opened_with["z"])}
        for axis, (key, value) in asked.items():
            count = axes.get(axis, 1)
            if str(value).isdecimal() and int(value) >= count:
                msg = f"screen.{key} = {value}: plate {plate} has {count}, numbered from 0"
                raise InputError(msg)

    def label_names(self, plate: str) -> tuple[str, ...]:
        """Return the names of label images that any of the first fields has."""
        names: dict[str, None] = {}
        for ref in self.fields[plate][:LOOKED_AT]:
            with suppress(FieldError):
                names |= dict.fromkeys(self.handles[plate].image(ref).labels)
        return tuple(names)

    @property
    def _channel_names(self) -> list[str | int]:
        names = [self.opened_with[role] for role in self.channels]
        return [int(name) if name.isdecimal() else name for name in names]

    def read(self, plate: str, index: int) -> npt.NDArray[Any]:
        """Return a field: array (channel, y, x), channels in the order of `channels`.

        Raises
        ------
        FieldError
            It cannot be used; with the reason.
        """
        ref, layout, handle = self.fields[plate][index], self.layouts[plate], self.handles[plate]
        where = f"{ref.plate}/{ref.well}/{ref.field}"
        info = handle.image(ref)
        if tuple(info.shape[-2:]) != layout.shape or stored(np.dtype(info.dtype)) != layout.dtype:
            msg = (
                f"{where} is {info.shape[-2]}x{info.shape[-1]} {info.dtype}, the plate's fields "
                f"are {layout.shape[0]}x{layout.shape[1]} {layout.dtype}"
            )
            raise FieldError(Reason.WRONG_SHAPE, msg)
        z = self.opened_with["z"]
        image = handle.read(
            ref,
            channels=self._channel_names,
            time=self.opened_with["time"],
            z=int(z) if z.isdecimal() else z,
        )
        with np.errstate(over="ignore"):
            image = image.astype(layout.dtype, copy=False)
        if not np.isfinite(image).all():
            raise FieldError(Reason.NOT_FINITE, f"{where}: NaN or infinite pixels")
        flat = [r for r, p in zip(self.channels, image, strict=True) if p.min() == p.max()]
        if flat:
            raise FieldError(Reason.CONSTANT, f"{where}: all pixels of {flat[0]} are equal")
        return image

    def read_labels(self, plate: str, index: int, name: str) -> npt.NDArray[np.int32]:
        """Return a label image that the plate has: (y, x), int32; `FieldError` where it cannot."""
        ref = self.fields[plate][index]
        z = self.opened_with["z"]
        return self.handles[plate].read_labels(
            ref,
            name,
            shape=self.layouts[plate].shape,
            time=self.opened_with["time"],
            z=int(z) if z.isdecimal() else z,
        )

    @cached_property
    def _samples(self) -> dict[str, dict[str, int]]:
        """Checksums of the pixels of `HASHED_FIELDS` fields of each plate, chosen by hash."""
        found: dict[str, dict[str, int]] = {}
        for plate in self.plates:
            names = self.field_names(plate)
            ids = np.array([draw.digest64(name) for name in names], np.uint64)
            found[plate] = {}
            for i in draw.order(0, "identity", ids)[:HASHED_FIELDS].tolist():
                with suppress(FieldError):
                    found[plate][names[i]] = zlib.crc32(self.read(plate, i).tobytes())
        return found

    def samples(self, plate: str, before: Mapping[str, int] | None = None) -> dict[str, int]:
        """Return checksums of the pixels of few fields of a plate, by the field's full name.

        Those taken `before`, where none of them is contradicted: a field that was lost or mended
        since then does not make another plate.
        """
        now = self._samples[plate]
        if before and all(before[name] == now[name] for name in now if name in before):
            return dict(before)
        return now

    def identity(self, plate: str, before: Mapping[str, int] | None = None) -> str:
        """Return a hash of a plate: its fields, layout, channels, and `samples`."""
        layout = self.layouts[plate]
        facts = [
            self.field_names(plate), layout.shape, str(layout.dtype), layout.pixel_size_um,
            [self.opened_with[role] for role in self.channels], self.opened_with["time"],
            self.opened_with["z"], self.samples(plate, before),
        ]  # fmt: skip
        return hashlib.blake2b(json.dumps(facts).encode(), digest_size=16).hexdigest()

    def plate_map_template(self) -> str:
        """Return CSV text with a row per plate and well."""
        return well_map_template(_wells_of(self.handles))

    def summary(self) -> str:
        """Return one line: how many of what."""
        wells = len({(r.plate, r.well) for refs in self.fields.values() for r in refs})
        fields = sum(map(len, self.fields.values()))
        layout = self.layouts[self.plates[0]]
        counts = {
            "plate": len(self.plates), "well": wells, "field": fields,
            "protein": len(self.proteins),
        }  # fmt: skip
        said = ", ".join(f"{n} {what}{'s' * (n != 1)}" for what, n in counts.items())
        size = f"{layout.shape[0]}x{layout.shape[1]} {layout.dtype}"
        return f"{said}, fields of {size}, channels {', '.join(self.channels)}"

    def _seen(self, plate: str) -> dict[str, Any]:
        """Return channels and axes of the plate's first sound field."""
        info = _first_image(self.handles[plate])
        if info is None:
            return {"channels": [], "axes": {}}
        axes = dict(zip(info.axes, map(int, info.shape), strict=True))
        return {"channels": list(info.channels), "axes": axes}

    def facts(self) -> dict[str, Any]:
        """Return what the screen holds, as plain JSON types."""
        return {
            "path": str(self.opened_with["path"]),
            "plates": {
                name: {
                    "version": handle.version,
                    "wells": len({ref.well for ref in self.fields[name]}),
                    "fields": len(self.fields[name]),
                    "shape": list(self.layouts[name].shape),
                    "dtype": str(self.layouts[name].dtype),
                    "pixel_size_um": self.layouts[name].pixel_size_um,
                    "labels": list(self.label_names(name)),
                    **self._seen(name),
                    "time": self.opened_with["time"],
                    "z": self.opened_with["z"],
                    "problems": self.problems(name),
                }
                for name, handle in self.handles.items()
            },
            "proteins": list(self.proteins),
            "channels": {role: self.opened_with[role] for role in self.channels},
        }


def _wells_of(handles: dict[str, Plate]) -> list[tuple[str, str]]:
    """Return (plate, well) of every well that the metadata name, also of those that are missing."""
    return [
        (name, well)
        for name, handle in handles.items()
        for well in dict.fromkeys([
            *(ref.well for ref in handle.fields), *(p.well for p in handle.problems if p.well)
        ])
    ]  # fmt: skip


def open_plates(path: str, opened_with: dict[str, Any]) -> PlateScreen:
    """Open the plates that `path` names; the rest is as `open_screen` takes it."""
    handles: dict[str, Plate] = {}
    for location in find_plates(path):
        plate = open_plate(location)
        if plate.name in handles:
            msg = f"two plates are named {plate.name!r}: {handles[plate.name].location}, {location}"
            raise InputError(msg)
        if not plate.fields:
            msg = f"plate {location} has no field that can be read"
            raise InputError(msg + "".join(f": {p.text}" for p in plate.problems[:1]))
        handles[plate.name] = plate
    handles = dict(sorted(handles.items()))
    z = opened_with["z"]
    if z not in ("max", "mean", "middle") and not z.isdecimal():
        msg = f"z is {z!r}; expected 'max', 'mean', 'middle' or a number"
        raise InputError(msg)
    wells = _wells_of(handles)
    if opened_with["plate_map"]:
        well_map = read_well_map(Path(opened_with["plate_map"]), opened_with["class_column"], wells)
    elif opened_with["class_column"] == "protein":
        well_map = every_well(wells)
    else:
        msg = (
            f"no plate map, and the class is {opened_with['class_column']!r}: give "
            'screen.plate_map, or set screen.class_column = "protein" (each well is then its own)'
        )
        raise InputError(msg)
    fields = {name: handle.fields for name, handle in handles.items()}
    if opened_with["proteins"]:
        well_map = _of_proteins(well_map, opened_with["proteins"])
        fields = {
            name: tuple(r for r in refs if well_map.protein_of.get((name, r.well), -1) >= 0)
            for name, refs in fields.items()
        }
    if opened_with["limit"]:
        fields = _limited(fields, well_map, opened_with["limit"])
    used = {name: refs for name, refs in fields.items() if refs}
    channels = tuple(role for role in CHANNEL_ROLES if opened_with[role])
    handles = {name: handles[name] for name in used}
    screen = PlateScreen(handles, used, channels, well_map, opened_with)
    screen.layouts  # noqa: B018  refuses now what cannot be read at all
    return screen


def _first_image(plate: Plate) -> ImageInfo | None:
    """Return the metadata of the first field that has sound ones."""
    for ref in plate.fields[:LOOKED_AT]:
        with suppress(FieldError):
            return plate.image(ref)
    return None


def plate_channels(path: str) -> list[str]:
    """Return what the first field of the first plate calls its channels; their number at least."""
    plate = open_plate(find_plates(path)[0])
    info = _first_image(plate)
    if info is None:
        return []
    count = dict(zip(info.axes, info.shape, strict=True)).get("c", 1)
    return list(info.channels) or [""] * count


def _of_proteins(well_map: WellMap, names: Sequence[str]) -> WellMap:
    for name in names:
        if name not in well_map.proteins:
            msg = f"no protein {name!r} on the screen{nearest(name, well_map.proteins)}"
            raise InputError(msg)
    return well_map.of([i for i, p in enumerate(well_map.proteins) if p in set(names)])


def _limited(
    fields: dict[str, tuple[FieldRef, ...]], well_map: WellMap, limit: int
) -> dict[str, tuple[FieldRef, ...]]:
    """Return at most `limit` fields, as many of each protein, chosen by hash."""
    every = [ref for refs in fields.values() for ref in refs]
    ids = np.array([draw.digest64(r.plate, r.well, r.field) for r in every], np.uint64)
    turns: dict[int, int] = {}
    ranked = []
    for place, i in enumerate(draw.order(0, "limit", ids).tolist()):
        protein = well_map.protein_of.get((every[i].plate, every[i].well), -1)
        turns[protein] = turns.get(protein, 0) + 1
        ranked.append((protein < 0, turns[protein], place, i))
    kept = {every[i] for *_, i in sorted(ranked)[:limit]}
    return {name: tuple(r for r in refs if r in kept) for name, refs in fields.items()}
