"""Folders of OME-TIFF whose metadata say where on a plate each image belongs.

The metadata stand in the files or in one companion; they are followed within the folder only. What
they claim of pages is checked when the pages are read.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from xml.etree.ElementTree import Element

from bgscale.errors import FieldError, InputError
from bgscale.importers.folder import Folder, beside, opened
from bgscale.importers.found import Found, Plane, Source, well_at
from bgscale.importers.markup import elements, micrometres

COMPANION = ".companion.ome"
MOST_PLANES = 10**5
"""Of one image."""
MOST_PLANES_IN_ALL = 10**7


@dataclass
class _Image:
    """One image of the metadata.

    Parameters
    ----------
    planes : list of (channel, z, time, file, page)
    """

    channels: list[str] = field(default_factory=list)
    pixel_size_um: float | None = None
    planes: list[tuple[int, int, int, str, int]] = field(default_factory=list)


@dataclass
class _Document:
    """What all metadata of a folder say; images are named by (document, id)."""

    images: dict[tuple[str, str], _Image] = field(default_factory=dict)
    wells: dict[str, dict[tuple[int, int], list[tuple[str, str]]]] = field(default_factory=dict)
    """Plate name -> (row, column) -> images in their order."""
    covered: set[str] = field(default_factory=set)
    """Files that the metadata name, which then need not be asked."""
    planes: int = 0


def find(folder: Folder, pattern: str | None = None) -> list[Found]:
    """Return the plates that the metadata describe."""
    document = _Document()
    companions = [name for name in folder.entries if name.lower().endswith(COMPANION)]
    for name in companions:
        _add(document, name, folder.blocks(name), folder)
    unread = 0
    for name in folder.tiffs:
        if name in document.covered:
            continue
        text = _description(folder, name)
        if text is None:
            unread += 1
        else:
            _add(document, name, [text], folder)
    if not document.wells:
        if not folder.tiffs:
            looked_for = "*.ome.tiff"
            raise folder.nothing_found(looked_for)
        msg = (
            f"{folder.root}: no OME metadata with a plate in {len(folder.tiffs)} TIFF files; "
            "expected elements Plate, Well and WellSample: import by template instead"
        )
        raise InputError(msg)
    notes = (f"{unread} TIFF files have no OME metadata and are passed over",) if unread else ()
    return [_plate(folder, document, name, notes) for name in document.wells]


def _description(folder: Folder, name: str) -> bytes | None:
    """Return the OME metadata of a file, or None."""
    try:
        with opened(folder.root / name) as tiff:
            text = tiff.pages.first.description
    except FieldError:
        return None
    if not text.rstrip("\0 \r\n\t").endswith("OME>"):
        return None
    # tifffile has decoded it: the encoding that it declares is no longer its own
    return re.sub(r"^\s*<\?xml[^>]*\?>", "", text).rstrip("\0").encode()


def _add(document: _Document, file: str, blocks: Iterable[bytes], folder: Folder) -> None:
    """Read one document into what is known."""
    images = {}
    for element in elements(blocks, ("Plate", "Image"), file):
        if element.tag == "Plate":
            _add_wells(document, file, element)
            continue
        image = images[element.get("ID", "")] = _image(element, file)
        document.planes += len(image.planes)
        if document.planes > MOST_PLANES_IN_ALL:
            msg = f"{file}: more than {MOST_PLANES_IN_ALL} planes; import part of the folder"
            raise InputError(msg)
    sources = {source for image in images.values() for *_, source, _ in image.planes}
    if len(sources) == 1 and not sources & folder.entries.keys() and file in folder.tiffs:
        # a file that was renamed still calls itself by its old name
        sources = {file}
        for image in images.values():
            image.planes = [(c, z, t, file, page) for c, z, t, _, page in image.planes]
    document.covered |= sources
    document.images |= {(file, key): image for key, image in images.items()}


def _add_wells(document: _Document, file: str, plate: Element) -> None:
    name = plate.get("Name") or plate.get("ID", "").replace(":", "")
    wells = document.wells.setdefault(name, {})
    for well in plate.iter("Well"):
        row, column = (_integer(well, key, None, file) for key in ("Row", "Column"))
        samples = sorted(well.iter("WellSample"), key=lambda s: _integer(s, "Index", 0, file))
        references = (sample.find("ImageRef") for sample in samples)
        images = [(file, r.get("ID", "")) for r in references if r is not None]
        wells.setdefault((row, column), []).extend(images)


def _image(element: Element, file: str) -> _Image:
    pixels = element.find("Pixels")
    if pixels is None:
        return _Image()
    sizes = {axis: _integer(pixels, f"Size{axis}", 1, file) for axis in "CZT"}
    channels = pixels.findall("Channel")
    samples = [_integer(channel, "SamplesPerPixel", 1, file) for channel in channels]
    count = len(samples) if sum(samples) == sizes["C"] and channels else sizes["C"]
    if count * sizes["Z"] * sizes["T"] > MOST_PLANES:
        msg = f"{file}: an image of {sizes} planes; expected {MOST_PLANES} or fewer"
        raise InputError(msg)
    names = [(c.get("Name") or "").strip() for c in channels[:count]]
    return _Image(
        channels=names + [""] * (count - len(names)),
        pixel_size_um=micrometres(
            pixels.get("PhysicalSizeX"), pixels.get("PhysicalSizeXUnit", "µm")
        ),
        planes=list(_planes(pixels, sizes | {"C": count}, file)),
    )


def _planes(
    pixels: Element, sizes: dict[str, int], file: str
) -> Iterator[tuple[int, int, int, str, int]]:
    """Yield channel, z, time, file and page of each plane, as the TiffData elements place them."""
    order = pixels.get("DimensionOrder", "XYCZT")[2:]
    if sorted(order) != ["C", "T", "Z"]:
        msg = f"{file}: DimensionOrder {pixels.get('DimensionOrder')!r}; expected such as 'XYCZT'"
        raise InputError(msg)
    total = sizes["C"] * sizes["Z"] * sizes["T"]
    # how far apart two neighbours along an axis are, the first of the order the nearest
    step = {order[0]: 1, order[1]: sizes[order[0]], order[2]: sizes[order[0]] * sizes[order[1]]}
    given = pixels.findall("TiffData")
    left = total
    for data in given:
        place = {axis: _integer(data, f"First{axis}", 0, file) for axis in "CZT"}
        start = sum(place[axis] * step[axis] for axis in "CZT")
        alone = len(given) == 1 and data.get("IFD") is None
        count = _integer(data, "PlaneCount", total - start if alone else 1, file)
        left -= count
        if any(place[axis] >= sizes[axis] for axis in "CZT") or start + count > total or left < 0:
            msg = f"{file}: TiffData elements place more planes than the image's {total}"
            raise InputError(msg)
        page = _integer(data, "IFD", 0, file)
        uuid = data.find("UUID")
        named = None if uuid is None else uuid.get("FileName")
        source = file if named is None else beside(file, named)
        for i in range(count):
            c, z, t = ((start + i) // step[axis] % sizes[axis] for axis in "CZT")
            yield c, z, t, source, page + i


def _integer(element: Element, key: str, default: int | None, file: str) -> int:
    text = element.get(key)
    if text is None and default is not None:
        return default
    if text is None or not re.fullmatch(r"[0-9]{1,9}", text):
        msg = f"{file}: {element.tag} has {key} {text!r}; expected a whole number"
        raise InputError(msg)
    return int(text)


def _plate(folder: Folder, document: _Document, name: str, notes: tuple[str, ...]) -> Found:
    planes: list[Plane] = []
    channels: dict[str, str] = {}
    sizes: set[float | None] = set()
    absent: list[str] = []
    for (row, column), references in document.wells[name].items():
        well = well_at(str(row + 1), str(column + 1))
        number = -1
        for reference in dict.fromkeys(references):
            image = document.images.get(reference)
            if image is None or not image.planes:
                absent.append(f"image {reference[1]!r} of well {well}")
                continue
            number += 1
            sizes.add(image.pixel_size_um)
            for c, z, time, file, page in image.planes:
                if file not in folder.entries:
                    absent.append(f"file {file} of well {well}")
                    continue
                channels.setdefault(f"c{c}", image.channels[c])
                source = Source(file, page)
                planes.append(Plane(well, str(number), f"c{c}", str(z), str(time), source))
    known = sorted(size for size in sizes if size is not None)
    told = list(notes)
    if absent:
        told.append(f"{len(absent)} things the metadata name are not there, such as {absent[0]}")
    if len(known) > 1:
        told.append(
            f"the metadata give pixel sizes of {', '.join(map(str, known))} µm: none is kept"
        )
    return Found(
        name=name,
        planes=tuple(planes),
        channel_names={key: text for key, text in channels.items() if text},
        pixel_size_um=known[0] if len(sizes) == 1 and known else None,
        notes=tuple(told),
        single_pages=False,
    )
