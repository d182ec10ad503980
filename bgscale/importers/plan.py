"""What an import would do: which planes make which field, and what is wrong with them.

Everything that names and headers tell is known here, before a pixel is read: two files for one
plane refuse the whole import, a field that lacks a channel is named as one that will fail.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bgscale.errors import FieldError, InputError, nearest
from bgscale.importers.folder import Entry, Folder, Layout, layout_of, opened
from bgscale.importers.found import Found, Plane, Source
from bgscale.schema import Reason, natural

LOOKED_AT = 32
"""Headers that are read to know the layout of a plate, spread over it."""
MAXIMUM = "max"
_NUMBERED = re.compile(r"^(ch|w|c)(?=\d+$)")
COLUMNS = ["well", "field", "channel", "z", "t", "file", "page", "bytes", "modified_ns"]


@dataclass(frozen=True, eq=False)
class PlatePlan:
    """One plate to be written.

    Parameters
    ----------
    name : str
        Its folder is ``NAME.zarr``.
    table : DataFrame
        A row per plane that is read: well, field, channel (its name), z and t (from 0, in the
        natural order of what the files say), file, page, bytes and time of change of the file.
    channels : tuple of str
        In the order of the written channels.
    pixel_size_um : float or None
    shape : (int, int)
        y, x of every field.
    dtype : numpy.dtype
    problems : mapping of (well, field) to (Reason, str)
        Fields that cannot be imported as they are.
    notes : tuple of str
    single_pages : bool
        Whether every file is one plane.
    """

    name: str
    table: pd.DataFrame
    channels: tuple[str, ...]
    pixel_size_um: float | None
    shape: tuple[int, int]
    dtype: np.dtype[Any]
    problems: Mapping[tuple[str, str], tuple[Reason, str]]
    notes: tuple[str, ...]
    single_pages: bool

    @property
    def fields(self) -> dict[str, list[str]]:
        """Fields of each well, both in natural order."""
        pairs = dict.fromkeys(zip(self.table["well"], self.table["field"], strict=True))
        found: dict[str, list[str]] = {}
        for well, name in pairs:
            found.setdefault(well, []).append(name)
        return found

    @property
    def field_bytes(self) -> int:
        """Bytes of the pixels of one field as it is written, before compression."""
        return len(self.channels) * self.shape[0] * self.shape[1] * self.dtype.itemsize


@dataclass(frozen=True, eq=False)
class ImportPlan:
    """All plates of a folder.

    Parameters
    ----------
    kind : str
    root : path
    plates : tuple of PlatePlan
    notes : tuple of str
        What concerns no single plate.
    """

    kind: str
    root: Path
    plates: tuple[PlatePlan, ...]
    notes: tuple[str, ...]


def plan_plates(
    folder: Folder,
    found: Sequence[Found],
    *,
    channels: Mapping[str, str],
    pixel_size_um: float | None,
    z: str | int,
    time: int,
) -> list[PlatePlan]:
    """Return the plans of what an importer has found.

    Parameters
    ----------
    folder : Folder
    found : sequence of Found
    channels : mapping of str to str
        Channel as the files (or their metadata) name it -> its new name.
    pixel_size_um : float, optional
        Replaces what the metadata say.
    z : "max" or int
        Maximum over all planes, or one of them, from 0.
    time : int
        Time point, from 0.

    Raises
    ------
    InputError
        Two files for one plane, no such channel, plane or time point, no file that can be read.
    """
    _check_choice(z, time, pixel_size_um)
    used: set[str] = set()
    plans = [
        _plan(folder, one, channels, pixel_size_um, z, time, used) for one in _with_names(found)
    ]
    unknown = [key for key in channels if key not in used]
    if unknown:
        known = sorted({p.channel for f in found for p in f.planes}, key=natural)
        msg = f"no channel {unknown[0]!r}{nearest(unknown[0], known)}; there are {', '.join(known)}"
        raise InputError(msg)
    return plans


def _check_choice(z: str | int, time: int, pixel_size_um: float | None) -> None:
    if z != MAXIMUM and not (isinstance(z, int) and z >= 0):
        msg = f"z {z!r}: expected 'max' or the number of a plane, from 0"
        raise InputError(msg)
    if time < 0:
        msg = f"time {time}: expected the number of a time point, from 0"
        raise InputError(msg)
    if pixel_size_um is not None and not 0 < pixel_size_um < np.inf:
        msg = f"pixel size {pixel_size_um} µm: expected a positive number"
        raise InputError(msg)


def _with_names(found: Sequence[Found]) -> list[Found]:
    """Return the plates with names that are good for folders and differ."""
    named = []
    taken: set[str] = set()
    for plate in found:
        plain = "".join(c if c.isalnum() or c in "-_+. " else "_" for c in plate.name)
        base = plain.strip(". ") or "plate"
        name, again = base, 1
        while name.casefold() in taken:
            again += 1
            name = f"{base}_{again}"
        taken.add(name.casefold())
        notes = plate.notes
        if name != plate.name:
            notes += (f"the plate {plate.name!r} is called {name!r}",)
        named.append(replace(plate, name=name, notes=notes))
    return named


def _plan(
    folder: Folder,
    found: Found,
    renamed: Mapping[str, str],
    pixel_size_um: float | None,
    z: str | int,
    time: int,
    used: set[str],
) -> PlatePlan:
    if not found.planes:
        msg = f"plate {found.name}: none of its files is in {folder.root}: {'; '.join(found.notes)}"
        raise InputError(msg)
    _check_twins(folder, found)
    ids = sorted({plane.channel for plane in found.planes}, key=natural)
    names = _channel_names(found, ids, renamed, used)
    notes = list(found.notes)
    planes = sorted(_at_z(found.name, _at_time(found, time, notes), z, notes), key=_place_on_plate)
    there = {(plane.well, plane.field) for plane, _ in planes}
    lost = sorted({(plane.well, plane.field) for plane in found.planes} - there)
    if lost:
        shown = "/".join(lost[0])
        notes.append(f"{len(lost)} fields have no image there and are left out, such as {shown}")
    rows = []
    for plane, depth in planes:
        entry = folder.entries.get(plane.source.file, Entry(0, 0))
        place = (plane.well, plane.field, names[plane.channel], depth, time)
        rows.append((*place, plane.source.file, plane.source.page, entry.bytes, entry.modified_ns))
    table = pd.DataFrame(rows, columns=COLUMNS)
    channels = tuple(names[key] for key in ids)
    layout = _layout(folder, table, notes, single=found.single_pages)
    size = pixel_size_um if pixel_size_um is not None else found.pixel_size_um
    if size is None:
        notes.append("pixel size unknown: give it (--pixel-size), in micrometres")
    return PlatePlan(
        name=found.name,
        table=table,
        channels=channels,
        pixel_size_um=size,
        shape=layout.shape,
        dtype=layout.dtype,
        problems=_problems(table, channels),
        notes=tuple(notes),
        single_pages=found.single_pages,
    )


def _place_on_plate(item: tuple[Plane, int]) -> tuple[Any, ...]:
    plane, depth = item
    letters = len(plane.well.rstrip("0123456789"))
    return (letters, *map(natural, (plane.well, plane.field, plane.channel)), depth)


def _check_twins(folder: Folder, found: Found) -> None:
    first: dict[tuple[str, ...], Source] = {}
    for plane in found.planes:
        key = (plane.well, plane.field, plane.channel, plane.z, plane.time)
        twin = first.setdefault(key, plane.source)
        if twin is not plane.source:
            one, two = (
                s.file if found.single_pages else f"{s.file} (page {s.page})"
                for s in (twin, plane.source)
            )
            msg = (
                f"{folder.root}: {one} and {two} are the same plane (plate {found.name}, well "
                f"{plane.well}, field {plane.field}, channel {plane.channel}); remove one of them"
            )
            raise InputError(msg)


def _channel_names(
    found: Found, ids: list[str], renamed: Mapping[str, str], used: set[str]
) -> dict[str, str]:
    """Return id -> name: as asked, as the metadata say, or the id itself."""
    said = {key: found.channel_names.get(key, key) for key in ids}
    shared = Counter(said.values())
    told = {key: name if shared[name] == 1 else f"{name} ({key})" for key, name in said.items()}
    names = dict(told)
    for asked, name in renamed.items():
        # "ch1", "1", or the name that the metadata give
        fitting = [k for k in ids if asked in (k, _NUMBERED.sub("", k), said[k], told[k])]
        if len(fitting) > 1:
            msg = f"channel {asked!r} can be any of {', '.join(fitting)}: name it by one of these"
            raise InputError(msg)
        if fitting:
            names[fitting[0]] = name
            used.add(asked)
    double = [name for name, n in Counter(names.values()).items() if n > 1 or not name.strip()]
    if double:
        msg = f"channels {names}: {double[0]!r} is no name of one channel; give each its own"
        raise InputError(msg)
    return names


def _at_time(found: Found, time: int, notes: list[str]) -> list[Plane]:
    times = sorted({plane.time for plane in found.planes}, key=natural)
    if time >= len(times):
        msg = f"plate {found.name} has {len(times)} time points; there is no number {time} (from 0)"
        raise InputError(msg)
    if len(times) > 1:
        notes.append(f"time point {time + 1} of {len(times)} is taken, the others are left out")
    return [plane for plane in found.planes if plane.time == times[time]]


def _at_z(
    name: str, planes: list[Plane], z: str | int, notes: list[str]
) -> list[tuple[Plane, int]]:
    """Return the planes that are read, each with its number in its channel's stack."""
    depths: dict[str, dict[str, int]] = {}
    for channel in dict.fromkeys(plane.channel for plane in planes):
        there = sorted({p.z for p in planes if p.channel == channel}, key=natural)
        depths[channel] = {text: i for i, text in enumerate(there)}
    numbered = [(plane, depths[plane.channel][plane.z]) for plane in planes]
    deepest = max(map(len, depths.values()))
    if deepest > 1:
        how = "their maximum is taken" if z == MAXIMUM else f"number {z} is taken (from 0)"
        notes.append(f"{deepest} planes in z: {how}")
    if z == MAXIMUM:
        return numbered
    short = [c for c, there in depths.items() if 1 < len(there) <= int(z)]
    if short or int(z) >= deepest:
        msg = f"plate {name} has {deepest} planes in z; there is no number {z} (from 0)"
        raise InputError(msg)
    # a channel that was taken once has no other plane to choose
    return [(plane, i) for plane, i in numbered if i == z or len(depths[plane.channel]) == 1]


def _layout(folder: Folder, table: pd.DataFrame, notes: list[str], *, single: bool) -> Layout:
    """Return the layout that most of some planes have."""
    places = list(zip(table["file"], table["page"], strict=True))
    layouts: Counter[Layout] = Counter()
    example: dict[Layout, str] = {}
    first_error = ""
    for file, page in places[:: -(-len(places) // LOOKED_AT)]:
        try:
            with opened(folder.root / file) as tiff:
                layout = layout_of(tiff, page, single=single)
        except FieldError as error:
            first_error = first_error or str(error)
            continue
        layouts[layout] += 1
        example.setdefault(layout, file)
    if not layouts:
        msg = f"{folder.root}: none of the files looked at is a sound TIFF: {first_error}"
        raise InputError(msg)
    usual = layouts.most_common(1)[0][0]
    others = [f"{example[layout]} is {layout}" for layout in layouts if layout != usual]
    if others:
        notes.append(f"images differ: most are {usual}, but {others[0]}; such fields will fail")
    return usual


def _problems(
    table: pd.DataFrame, channels: tuple[str, ...]
) -> dict[tuple[str, str], tuple[Reason, str]]:
    """Return the fields that lack a channel or part of a stack."""
    counts: dict[tuple[str, str], Counter[str]] = {}
    for well, name, channel in zip(table["well"], table["field"], table["channel"], strict=True):
        counts.setdefault((well, name), Counter())[channel] += 1
    usual = {}
    for channel in channels:
        depths = Counter(there[channel] for there in counts.values() if channel in there)
        usual[channel] = max(depths, key=lambda n: (depths[n], n))
    found: dict[tuple[str, str], tuple[Reason, str]] = {}
    for place, there in counts.items():
        for channel in channels:
            if not there[channel]:
                text = f"channel {channel!r} is missing"
                found.setdefault(place, (Reason.MISSING_CHANNEL, text))
            elif there[channel] < usual[channel]:
                text = f"channel {channel!r} has {there[channel]} of {usual[channel]} planes"
                found.setdefault(place, (Reason.MISSING_CHUNKS, text))
    return found
