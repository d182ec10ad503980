"""Folders of Opera Phenix and Operetta: Harmony's file names, and its index where there is one.

The index gives names of channels, pixel size, plate name, and the place of files with other names.
The TIFFs' own resolution is that of the camera (6.5 µm), not of the sample: it is not used.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from xml.etree.ElementTree import Element

from bgscale.importers.folder import TIFF_SUFFIXES, Folder, beside
from bgscale.importers.found import Found, Plane, Source, field_called, well_at
from bgscale.importers.markup import elements, micrometres

NAME = re.compile(
    r"r(?P<row>\d+)c(?P<column>\d+)f(?P<field>\d+)p(?P<plane>\d+)-ch(?P<channel>\d+)"
    r"sk(?P<slow>\d+)fk(?P<fast>\d+)fl\d+\.tiff?",
    re.IGNORECASE,
)
EXAMPLE = "r01c01f01p01-ch1sk1fk1fl1.tiff"
INDEXES = ("index.idx.xml", "index.xml")
"""Names of the index, the preferred first."""


@dataclass
class _Index:
    """What Harmony's index says of a plate; places are by file name."""

    name: str = ""
    channel_names: dict[str, str] = field(default_factory=dict)
    pixel_sizes_um: set[float] = field(default_factory=set)
    places: dict[str, dict[str, str]] = field(default_factory=dict)


def find(folder: Folder, pattern: str | None = None) -> list[Found]:
    """Return a plate per folder of images."""
    grouped: dict[str, list[str]] = {}
    for name in folder.tiffs:
        grouped.setdefault(str(PurePosixPath(name).parent), []).append(name)
    indexes = {n.lower(): n for n in folder.entries if n.lower().endswith(INDEXES)}
    found = [_plate(folder, group, names, indexes) for group, names in grouped.items()]
    plates = [plate for plate in found if plate.planes]
    if not plates:
        looked_for = f"as Harmony names images, such as {EXAMPLE}"
        raise folder.nothing_found(looked_for)
    return plates


def _plate(folder: Folder, group: str, names: list[str], indexes: dict[str, str]) -> Found:
    index = _index(folder, group, indexes)
    planes = []
    for name in names:
        own = PurePosixPath(name).name
        fits = NAME.fullmatch(own)
        place = fits.groupdict() if fits else index.places.get(own)
        if place is not None:
            planes.append(_plane(name, place))
    notes = []
    absent = [n for n in index.places if str(PurePosixPath(group) / n) not in folder.entries]
    if absent:
        notes.append(
            f"{len(absent)} of {len(index.places)} images of the index are not in the folder, such "
            f"as {absent[0]}"
        )
    sizes = sorted(index.pixel_sizes_um)
    if len(sizes) > 1:
        notes.append(
            f"the index gives pixel sizes of {', '.join(map(str, sizes))} µm: none is kept"
        )
    return Found(
        name=index.name or _name(folder, group),
        planes=tuple(planes),
        channel_names=index.channel_names,
        pixel_size_um=sizes[0] if len(sizes) == 1 else None,
        notes=tuple(notes),
    )


def _name(folder: Folder, group: str) -> str:
    """Return the name of the measurement's folder, which holds the folder Images."""
    path = folder.root.resolve() / group
    return (path.parent if path.name.lower() == "images" else path).name


def _plane(name: str, place: dict[str, str]) -> Plane:
    return Plane(
        well=well_at(place["row"], str(int(place["column"]))),
        field=field_called(place["field"]),
        channel=f"ch{int(place['channel'])}",
        z=str(int(place["plane"])),
        time=f"{int(place['slow'])}.{int(place['fast'])}",
        source=Source(name),
    )


def _index(folder: Folder, group: str, indexes: dict[str, str]) -> _Index:
    """Read the index that lies with the images, or one folder above them."""
    above = [str(PurePosixPath(group).parent)] if group != "." else []
    for place in (group, *above):
        for index in INDEXES:
            name = indexes.get(str(PurePosixPath(place) / index).lower())
            if name is not None:
                return _read(elements(folder.blocks(name), ("Plate", "Entry", "Image"), name), name)
    return _Index()


def _read(found: Iterable[Element], where: str) -> _Index:
    index = _Index()
    for element in found:
        if element.tag == "Plate":
            index.name = index.name or (element.findtext("Name") or "").strip()
            continue
        channel = element.get("ChannelID") or element.findtext("ChannelID") or ""
        if channel.isdecimal():
            name = (element.findtext("ChannelName") or "").strip()
            if name:
                index.channel_names.setdefault(f"ch{int(channel)}", name)
            _add_pixel_size(index, element)
        url = element.findtext("URL")
        if element.tag == "Image" and url:
            _add_place(index, element, url, where)
    return index


def _add_pixel_size(index: _Index, element: Element) -> None:
    width = element.find("ImageResolutionX")
    size = None if width is None else micrometres(width.text, width.get("Unit", "m"))
    if size is not None:
        index.pixel_sizes_um.add(size)


def _add_place(index: _Index, element: Element, url: str, where: str) -> None:
    if not url.lower().endswith(TIFF_SUFFIXES):
        return
    tags = {"row": "Row", "column": "Col", "field": "FieldID", "plane": "PlaneID"}
    tags |= {"channel": "ChannelID", "slow": "TimepointID"}
    place = {key: (element.findtext(tag) or "").strip() for key, tag in tags.items()}
    if all(value.isdecimal() for value in place.values()):
        index.places[PurePosixPath(beside(where, url)).name] = place | {"fast": "1"}
