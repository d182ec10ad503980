"""What the JSON of an OME-Zarr plate says: parsed, checked, never trusted.

Pure: JSON in, small frozen objects out. Every wrong type, name or size is a `FieldError` that says
what stands where and what was expected; who calls adds the file.
"""

import math
import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from bgscale.ngff.checked import Json, item, kind_of, objects, safe_path, wrong
from bgscale.schema import Reason

VERSIONS = ("0.4", "0.5")
AXES = ("t", "c", "z", "y", "x")
LARGEST_SCALE = 1e12
UM_PER_UNIT = {
    "angstrom": 1e-4,
    "picometer": 1e-6,
    "nanometer": 1e-3,
    "micrometer": 1.0,
    "micron": 1.0,
    "um": 1.0,
    "µm": 1.0,
    "μm": 1.0,
    "nm": 1e-3,
    "mm": 1e3,
    "millimeter": 1e3,
    "centimeter": 1e4,
    "meter": 1e6,
    "inch": 25400.0,
}


@dataclass(frozen=True)
class FieldRef:
    """One field of a plate.

    Parameters
    ----------
    plate : str
    well : str
        Canonical name, as in "A01".
    field : str
        Its path inside the well.
    path : str
        Its path inside the plate, as the plate writes it: "A/1/0".
    """

    plate: str
    well: str
    field: str
    path: str

    def __str__(self) -> str:
        return f"{self.plate}/{self.well}/{self.field}"


@dataclass(frozen=True)
class Problem:
    """A well or field that the metadata name and that cannot be used.

    Parameters
    ----------
    well, field : str
        The well's path where it has no name; field "" stands for the whole well.
    reason : Reason
    text : str
    """

    well: str
    field: str
    reason: Reason
    text: str


@dataclass(frozen=True)
class ImageInfo:
    """What one field holds.

    Parameters
    ----------
    axes : tuple of str
        "t", "c", "z", "y", "x" in the array's order.
    shape : tuple of int
    dtype : dtype
        In native byte order.
    channels : tuple of str
        Their names, "" where unnamed; empty where there is neither a channel axis nor a name.
    pixel_size_um : float or None
        In y; None where no scale or no unit of length is given.
    labels : tuple of str
        Names of the label images.
    levels : int
    path : str
        Of the array at full resolution, in the plate.
    """

    axes: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    channels: tuple[str, ...]
    pixel_size_um: float | None
    labels: tuple[str, ...]
    levels: int
    path: str


@dataclass(frozen=True)
class Multiscale:
    """The `multiscales` entry of an image or label image.

    Parameters
    ----------
    axes : tuple of str
        "t", "c", "z", "y", "x" in the array's order.
    named : tuple of str
        The same as the metadata call them.
    datasets : tuple of str
        Paths of the levels, full resolution first.
    pixel_size_um : float or None
    """

    axes: tuple[str, ...]
    named: tuple[str, ...]
    datasets: tuple[str, ...]
    pixel_size_um: float | None


def well_name(row: str, column: str) -> str:
    """Return the canonical name of a well.

    Examples
    --------
    >>> well_name("A", "1"), well_name("A", "01"), well_name("AA", "3"), well_name("A", "x")
    ('A01', 'A01', 'AA03', 'Ax')
    """
    return f"{row}{int(column):02d}" if _is_number(column) else f"{row}{column}"


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 19


def ome_attributes(document: Json, version: str) -> Json:
    """Return the OME part of a group's metadata: all of `.zattrs`, "attributes.ome" since 0.5."""
    if version == "0.4":
        return document
    attributes = item("zarr.json", document, "attributes", dict, {})
    ome: Json = item("attributes", attributes, "ome", dict)
    check_version(ome.get("version"))
    return ome


def check_version(said: object) -> None:
    """Raise where metadata say that they are of a version that is not known."""
    if said is None or re.match(r"0\.[1-5](?![0-9])", str(said)):
        return
    msg = f"is OME-Zarr {repr(said)[:40]}; expected a version of up to {VERSIONS[-1]}"
    raise wrong(msg)


def plate_wells(ome: Json) -> list[object]:
    """Return the entries of a plate's wells, unchecked: one that is wrong costs one well only."""
    plate = item("metadata", ome, "plate", dict)
    check_version(plate.get("version"))
    wells: list[object] = item("plate", plate, "wells", list)
    if not wells:
        msg = "plate.wells is empty; expected the wells of the plate"
        raise wrong(msg)
    return wells


def well_path(entry: object) -> tuple[str, str, str]:
    """Return path, row and column of an entry of `plate.wells`."""
    (well,) = objects("plate.wells", [entry])
    path = safe_path("path of a well", item("entry of plate.wells", well, "path", str))
    row, _, column = path.partition("/")
    if not column or "/" in column:
        msg = f"path of a well is {path!r}; expected row and column, as in 'A/1'"
        raise wrong(msg)
    return path, row, column


def well_fields(ome: Json) -> list[object]:
    """Return the entries of a well's fields, unchecked."""
    fields: list[object] = item("well", item("metadata", ome, "well", dict), "images", list)
    return fields


def field_path(entry: object) -> str:
    """Return the path in an entry of `well.images`."""
    (image,) = objects("well.images", [entry])
    path = safe_path("path of a field", item("entry of well.images", image, "path", str))
    if "/" in path:
        msg = f"path of a field is {path!r}; expected one name"
        raise wrong(msg)
    return path


def multiscale(ome: Json) -> Multiscale:
    """Return the first `multiscales` entry of an image or label image."""
    entries = objects("multiscales", item("metadata", ome, "multiscales", list))
    if not entries:
        msg = "multiscales is empty; expected an image"
        raise wrong(msg)
    check_version(entries[0].get("version"))
    axes, named, units = _axes(entries[0])
    datasets = objects("datasets", item("multiscales[0]", entries[0], "datasets", list))
    if not datasets:
        msg = "multiscales[0].datasets is empty; expected the levels of the image"
        raise wrong(msg)
    paths = [
        safe_path(f"datasets[{i}].path", item(f"datasets[{i}]", dataset, "path", str))
        for i, dataset in enumerate(datasets)
    ]
    y = axes.index("y")
    scales = (
        _scale("scale of datasets[0]", datasets[0], len(axes)),
        _scale("scale of multiscales[0]", entries[0], len(axes)),
    )
    factor = UM_PER_UNIT.get(units[y])
    known = [scale[y] for scale in scales if scale]
    size = None if factor is None or not known else math.prod(known) * factor
    return Multiscale(axes, named, tuple(paths), size)


def _axes(entry: Json) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """Return the axes, what the metadata call them, and their units."""
    # 0.1 and 0.2 have none, they are always these; in 0.3 they are names only
    listed = item("multiscales[0]", entry, "axes", list, list(AXES))
    axes = objects("axes", [{"name": a} if isinstance(a, str) else a for a in listed])
    found, named, units = [], [], []
    for axis in axes:
        name = item("entry of axes", axis, "name", str)
        kind = item("entry of axes", axis, "type", str, None)
        short = name.lower()
        if short not in AXES:
            short = {"time": "t", "channel": "c"}.get(kind or "", short)
        if short not in AXES or short in found:
            msg = f"axis {name[:40]!r}; expected {', '.join(AXES)}, each at most once"
            raise wrong(msg)
        found.append(short)
        named.append(name)
        units.append(item("entry of axes", axis, "unit", str, None) or "")
    if "y" not in found or "x" not in found:
        msg = f"axes are {', '.join(found) or 'none'}; expected y and x among them"
        raise wrong(msg)
    return tuple(found), tuple(named), tuple(units)


def _scale(where: str, node: Json, axes: int) -> list[float] | None:
    """Return the scale among coordinate transformations, None where there is none."""
    key = "coordinateTransformations"
    for transform in objects(key, item(where, node, key, list, None) or []):
        if transform.get("type") != "scale" or "scale" not in transform:
            continue
        scale = item(where, transform, "scale", list)
        for value in scale:
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not number or not 1 / LARGEST_SCALE <= value <= LARGEST_SCALE:
                msg = f"{where} is {str(scale)[:80]}; expected lengths above 0"
                raise wrong(msg)
        if len(scale) != axes:
            msg = f"{where} has {len(scale)} entries; expected {axes}, one per axis"
            raise wrong(msg)
        return [float(value) for value in scale]
    return None


def channel_names(ome: Json, count: int | None) -> tuple[str, ...]:
    """Return the names of the channels that `omero` gives; `count` is None without such an axis."""
    omero = item("metadata", ome, "omero", dict, None) or {}
    entries = objects("omero.channels", item("omero", omero, "channels", list, None) or [])
    if len(entries) > (1 if count is None else count):
        axis = "no channel axis" if count is None else f"{count} channels"
        msg = f"omero names {len(entries)} channels; the array has {axis}"
        raise wrong(msg)
    names = [item("entry of omero.channels", e, "label", str, None) or "" for e in entries]
    return (*names, *[""] * ((count or 0) - len(names)))


def label_names(ome: Json) -> tuple[str, ...]:
    """Return the paths that the `labels` group lists."""
    names = item("metadata", ome, "labels", list, None) or []
    for name in names:
        if not isinstance(name, str):
            msg = f"labels holds {kind_of(name)}; expected names"
            raise wrong(msg)
    return tuple(dict.fromkeys(safe_path("entry of labels", name) for name in names))
