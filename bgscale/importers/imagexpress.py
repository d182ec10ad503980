"""Folders of ImageXpress: MetaXpress' file names, its HTD file, its calibration in the TIFFs.

Thumbnails are passed over, and so are the projections that MetaXpress keeps beside a stack.
"""

import csv
import re
from collections.abc import Iterator
from pathlib import PurePosixPath

from bgscale.errors import FieldError
from bgscale.importers.folder import Folder, opened
from bgscale.importers.found import ONLY, Found, Plane, Source, field_called, well_called
from bgscale.importers.markup import elements, micrometres

NAME = re.compile(
    r"(?:(?P<prefix>[^/]+?)_)??(?P<well>[A-Z]{1,2}\d{1,2})"
    r"(?:_s(?P<site>\d+?))?(?:_w(?P<wave>\d+?))?"
    r"(?:_z(?P<z>\d+?))?(?:_t(?P<time>\d+?))?(?P<thumb>_thumb)?"
    r"(?:[0-9A-F]{8}(?:-[0-9A-F]{4}){3}-[0-9A-F]{12})?\.tiff?",
    re.IGNORECASE,
)
"""The shortest prefix counts: in A01_s1_w1 neither s1 nor w1 is a well."""
EXAMPLE = "PLATE_A01_s1_w1.tif"
PART = re.compile(r"(?P<kind>TimePoint|ZStep)_(?P<number>\d+)", re.IGNORECASE)
PROJECTION = "0"
"""Step of an image that lies beside the folders ZStep_N, or in ZStep_0."""
LARGEST_HTD_BYTES = 2**20


def find(folder: Folder, pattern: str | None = None) -> list[Found]:
    """Return a plate per folder and prefix of names."""
    plates: dict[tuple[str, str], list[Plane]] = {}
    thumbs: dict[tuple[str, str], int] = {}
    for name in folder.tiffs:
        path = PurePosixPath(name)
        fits = NAME.fullmatch(path.name)
        if not fits:
            continue
        above = path.parts[:-1]
        steps = {s["kind"].lower(): s["number"] for p in above if (s := PART.fullmatch(p))}
        rest = [p for p in above if not PART.fullmatch(p)]
        key = ("/".join(rest), fits["prefix"] or "")
        if fits["thumb"]:
            thumbs[key] = thumbs.get(key, 0) + 1
        else:
            plates.setdefault(key, []).append(_plane(name, fits.groupdict(), steps))
    if not plates:
        looked_for = f"as MetaXpress names images, such as {EXAMPLE}"
        raise folder.nothing_found(looked_for)
    prefixes = [prefix for _, prefix in plates]
    found = []
    for (group, prefix), planes in plates.items():
        # one protocol's prefix can stand for all plates of a screen: then the folders tell them
        name = prefix if prefix and prefixes.count(prefix) == 1 else folder.named(group)
        found.append(_plate(folder, group, name, planes, thumbs.get((group, prefix), 0)))
    return found


def _plane(name: str, place: dict[str, str | None], steps: dict[str, str]) -> Plane:
    return Plane(
        well=well_called(place["well"] or ""),
        field=field_called(place["site"] or ONLY),
        channel=f"w{int(place['wave'] or ONLY)}",
        z=str(int(steps.get("zstep") or place["z"] or PROJECTION)),
        time=str(int(steps.get("timepoint") or place["time"] or ONLY)),
        source=Source(name),
    )


def _plate(folder: Folder, group: str, name: str, planes: list[Plane], thumbs: int) -> Found:
    stacks = {(p.well, p.field, p.channel, p.time) for p in planes if p.z != PROJECTION}
    kept: list[Plane] = []
    projections: list[Plane] = []
    for p in planes:
        beside = p.z == PROJECTION and (p.well, p.field, p.channel, p.time) in stacks
        (projections if beside else kept).append(p)
    notes = []
    if thumbs:
        notes.append(f"{thumbs} thumbnails are passed over")
    if projections:
        notes.append(
            f"{len(projections)} projections beside stacks are passed over, such as "
            f"{projections[0].source.file}"
        )
    names, sites = _protocol(folder, group, name)
    fields: dict[str, set[str]] = {}
    for plane in kept:
        fields.setdefault(plane.well, set()).add(plane.field)
    fewer = [well for well, there in fields.items() if len(there) < sites]
    if fewer:
        notes.append(
            f"the HTD file has {sites} sites a well; {len(fewer)} wells have fewer, such as "
            f"{fewer[0]} with {len(fields[fewer[0]])}"
        )
    return Found(
        name=name,
        planes=tuple(kept),
        channel_names=names,
        pixel_size_um=_calibration(folder, kept),
        notes=tuple(notes),
    )


def _protocol(folder: Folder, group: str, name: str) -> tuple[dict[str, str], int]:
    """Return names of wavelengths and the number of sites, from the HTD file; 0 if unknown."""
    beside = [
        n
        for n in folder.entries
        if n.lower().endswith(".htd") and str(PurePosixPath(n).parent) == (group or ".")
    ]
    own = [n for n in beside if PurePosixPath(n).stem.lower() == name.lower()] or beside
    if not own or folder.entries[own[0]].bytes > LARGEST_HTD_BYTES:
        return {}, 0
    text = b"".join(folder.blocks(own[0])).decode("latin-1")
    names: dict[str, str] = {}
    sites = 0
    for key, values in _rows(text):
        if (wave := re.fullmatch(r"WaveName(\d+)", key)) and values and values[0]:
            names[f"w{int(wave[1])}"] = values[0]
        elif re.fullmatch(r"SiteSelection\d+", key):
            sites += sum(value.upper() == "TRUE" for value in values)
    return names, sites


def _rows(text: str) -> Iterator[tuple[str, list[str]]]:
    try:
        for row in csv.reader(text.replace("\0", "").splitlines(), skipinitialspace=True):
            if row:
                yield row[0].strip(), [value.strip() for value in row[1:]]
    except csv.Error:
        return


def _calibration(folder: Folder, planes: list[Plane]) -> float | None:
    """Return the pixel size that MetaXpress writes into a TIFF's description."""
    try:
        with opened(folder.root / planes[0].source.file) as tiff:
            text = tiff.pages.first.description
    except FieldError:
        return None
    if not text.lstrip().startswith("<MetaData"):
        return None
    found = {
        prop.get("id", ""): prop.get("value", "")
        for prop in elements([text.encode()], ["prop"], planes[0].source.file)
    }
    unit = found.get("spatial-calibration-units", "")
    if found.get("spatial-calibration-state", "on").lower() not in ("on", "true", "1"):
        return None
    return micrometres(found.get("spatial-calibration-x"), unit)
