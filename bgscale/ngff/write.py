"""Writes plates: NGFF 0.5, Zarr v3, one shard a level and two levels, so that files stay few.

A field is written arrays first, its metadata last, and so is whole or absent. Fields share no file,
so that any number of processes may write fields of one plate; the plate's own metadata are written
once, by `create_plate`.
"""

import errno
import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec

from bgscale.errors import FieldError, InputError
from bgscale.ngff.checked import parse_json, safe_path
from bgscale.ngff.describe import (
    VERSION,
    halved_mean,
    multiscales_of,
    omero_of,
    plate_metadata,
    well_metadata,
)
from bgscale.ngff.metadata import well_name

CHUNK_PX = 1024
LARGEST_LABEL = 2**31 - 1
_WELL = re.compile(r"([A-Za-z]+)([0-9]+)")
_FIELD = re.compile(r"[A-Za-z0-9]+")


def create_plate(path: str | Path, *, name: str, fields: Mapping[str, Sequence[str]]) -> None:
    """Make a plate without images; one that is there and equal is left as it is.

    Parameters
    ----------
    path : path
        Folder of the plate, by custom ``NAME.zarr``.
    name : str
    fields : mapping of str to sequence of str
        Names of the fields, letters and digits, by the name of their well, as in "A01".

    Raises
    ------
    InputError
        A name is not allowed, the folder holds something else, or it cannot be written.
    """
    root = Path(path)
    wells = {_row_and_column(well): list(names) for well, names in fields.items()}
    if not wells or len(wells) < len(fields):
        msg = f"plate {name!r}: expected wells, each named once; got {', '.join(fields) or 'none'}"
        raise InputError(msg)
    for (row, column), names in wells.items():
        bad = [f for f in names if not _FIELD.fullmatch(f)]
        if bad or not names or len(set(names)) < len(names):
            msg = (
                f"plate {name!r}, well {row}{column}: fields {', '.join(map(repr, names)) or '-'}; "
                "expected names of letters and digits, each once"
            )
            raise InputError(msg)
    plate = plate_metadata(name, wells)
    try:
        there = _attributes(root)
        if there is None and root.exists() and _is_taken(root):
            msg = f"{root} is there and is no plate: choose another folder"
            raise InputError(msg)
        if there is not None and there != plate:
            msg = (
                f"{root} is there and holds another plate, or other wells: choose another folder, "
                "or remove it"
            )
            raise InputError(msg)
        if there is None:
            _write_group(root, plate)
        for (row, column), names in wells.items():
            if not (root / row / "zarr.json").is_file():
                _write_group(root / row, None)
            well = well_metadata(names)
            if _attributes(root / row / column) not in (None, well):
                msg = (
                    f"{root}: well {row}{column} is there with other fields: choose another folder"
                )
                raise InputError(msg)
            _write_group(root / row / column, well)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        msg = f"cannot write the plate {root}: {error.strerror or error}"
        raise InputError(msg) from None


def write_field(
    path: str | Path,
    well: str,
    field: str,
    image: npt.NDArray[Any],
    *,
    channels: Sequence[str],
    pixel_size_um: float | None,
) -> None:
    """Write one field of a plate; what was there of it, its labels too, is replaced.

    Parameters
    ----------
    path : path
        Of a plate that `create_plate` made.
    well, field : str
        As in `create_plate`.
    image : array (channel, y, x)
        Integers or floats.
    channels : sequence of str
        Name of each channel.
    pixel_size_um : float or None
        None: unknown; the metadata then give no unit.

    Raises
    ------
    InputError
        The plate has no such field, or the image is not what is expected.
    """
    node = field_folder(path, well, field)
    if image.ndim != 3 or image.dtype.kind not in "uif" or 0 in image.shape:
        msg = f"{node}: got {image.dtype} of shape {image.shape}; expected numbers (channel, y, x)"
        raise InputError(msg)
    if len(channels) != len(image):
        msg = f"{node}: got {len(channels)} names for {len(image)} channels"
        raise InputError(msg)
    _check_pixel_size(node, pixel_size_um)
    _remove(node)
    small = halved_mean(image)
    _write_level(node, "0", image, ("c", "y", "x"))
    _write_level(node, "1", small, ("c", "y", "x"))
    multiscales = multiscales_of(field, ("c", "y", "x"), pixel_size_um, shifted=True)
    _write_group(node, {"multiscales": multiscales, "omero": omero_of(channels, small)})


def write_labels(
    path: str | Path,
    well: str,
    field: str,
    labels: npt.NDArray[Any],
    *,
    name: str = "cells",
    pixel_size_um: float | None,
) -> None:
    """Write a label image of a field that is there; one of the same name is replaced.

    Parameters
    ----------
    path : path
    well, field : str
    labels : array (y, x), int
        0 where there is no label, of the field's size.
    name : str
    pixel_size_um : float or None

    Raises
    ------
    InputError
        There is no such field, or the labels are not what is expected.
    """
    node = field_folder(path, well, field)
    image = _attributes(node)
    if not image or "multiscales" not in image:
        msg = f"{node} is not written yet: write the field, then its labels"
        raise InputError(msg)
    shape = tuple(zarr.open_array(str(node / "0"), mode="r").shape[1:])
    if labels.dtype.kind not in "ui" or labels.shape != shape:
        msg = (
            f"{node}: got labels of {labels.dtype} and shape {labels.shape}; expected integers of "
            f"shape {shape}"
        )
        raise InputError(msg)
    if int(labels.min()) < 0 or int(labels.max()) > LARGEST_LABEL:
        msg = f"{node}: got labels {labels.min()} to {labels.max()}; expected 0 to {LARGEST_LABEL}"
        raise InputError(msg)
    if not _FIELD.fullmatch(name.replace("_", "").replace("-", "")):
        msg = f"labels are called {name!r}; expected letters, digits, '_' and '-'"
        raise InputError(msg)
    _check_pixel_size(node, pixel_size_um)
    group = node / "labels"
    known = (_attributes(group) or {}).get("labels", [])
    others = [label for label in known if label != name]
    # not listed while it is replaced: what is listed is whole
    _write_group(group, {"labels": others})
    _remove(group / name)
    kept = labels.astype(np.uint32 if labels.dtype.kind == "u" else np.int32)
    _write_level(group / name, "0", kept, ("y", "x"))
    _write_level(group / name, "1", np.ascontiguousarray(kept[::2, ::2]), ("y", "x"))
    multiscales = multiscales_of(name, ("y", "x"), pixel_size_um, shifted=False)
    source = {"source": {"image": "../../"}}
    _write_group(group / name, {"multiscales": multiscales, "image-label": source})
    _write_group(group, {"labels": [*others, name]})


def has_field(path: str | Path, well: str, field: str) -> bool:
    """Return whether a field is there, and so whole."""
    row, column = _row_and_column(well)
    return "multiscales" in (_attributes(Path(path) / row / column / field) or {})


def _row_and_column(well: str) -> tuple[str, str]:
    """Return row and column of a well, as canonical names have them."""
    found = _WELL.fullmatch(well)
    if not found:
        msg = f"well {well!r}; expected letters and a number, as in 'A01'"
        raise InputError(msg)
    return found[1], well_name("", found[2])


def _is_taken(folder: Path) -> bool:
    """Whether there is something in a folder other than what a killed writer left."""
    return not folder.is_dir() or any(p.suffix != ".partial" for p in folder.iterdir())


def _write_level(node: Path, name: str, data: npt.NDArray[Any], axes: Sequence[str]) -> None:
    """Write an array as one shard, empty chunks too: what is missing is then missing."""
    chunk = [1 if a == "c" else min(n, CHUNK_PX) for a, n in zip(axes, data.shape, strict=True)]
    shard = [-(-n // c) * c for n, c in zip(data.shape, chunk, strict=True)]
    item_bytes = data.dtype.itemsize
    array = zarr.create_array(
        store=str(node / name),
        shape=data.shape,
        dtype=data.dtype.newbyteorder("="),
        chunks=tuple(chunk),
        shards=tuple(shard),
        compressors=[
            BloscCodec(cname="zstd", clevel=3, shuffle="bitshuffle", typesize=item_bytes),
            Crc32cCodec(),
        ],
        fill_value=0,
        dimension_names=tuple(axes),
        zarr_format=3,
    )
    # `config=` of create_array is not heeded (zarr 3.1.6)
    array.with_config({"write_empty_chunks": True, "order": "C"})[...] = data


def _check_pixel_size(node: Path, size: float | None) -> None:
    if size is not None and not (np.isfinite(size) and size > 0):
        msg = f"{node}: pixel_size_um is {size}; expected a length above 0, or None"
        raise InputError(msg)


def field_folder(path: str | Path, well: str, field: str) -> Path:
    """Return the folder of a field that the plate names."""
    row, column = _row_and_column(well)
    folder = Path(path) / row / column
    listed = (_attributes(folder) or {}).get("well", {}).get("images", [])
    if field not in [image.get("path") for image in listed]:
        msg = f"{path} has no field {well}/{field}: name it in create_plate"
        raise InputError(msg)
    return folder / safe_path("field", field)


def _attributes(node: Path) -> dict[str, Any] | None:
    """Return the OME metadata of a group without their version; None where there is no group."""
    try:
        document = parse_json((node / "zarr.json").read_bytes())
    except FileNotFoundError:
        return None
    except FieldError as error:
        msg = f"{node}/zarr.json {error}"
        raise InputError(msg) from None
    attributes = document.get("attributes")
    ome = attributes.get("ome") if isinstance(attributes, dict) else None
    return {k: v for k, v in ome.items() if k != "version"} if isinstance(ome, dict) else {}


def _write_group(node: Path, ome: Mapping[str, Any] | None) -> None:
    """Write the metadata of a group at once: they are there or not, never half."""
    write_attributes(node, {} if ome is None else {"ome": {"version": VERSION, **ome}})


def write_attributes(node: Path, attributes: Mapping[str, Any]) -> None:
    """Make a group with these attributes, at once."""
    node.mkdir(parents=True, exist_ok=True)
    document = {"zarr_format": 3, "node_type": "group", "attributes": attributes}
    part = node / f"zarr.json.{os.getpid()}.partial"
    part.write_text(json.dumps(document, indent=1, allow_nan=False), encoding="utf-8")
    part.replace(node / "zarr.json")


def _remove(node: Path) -> None:
    """Remove a node, its metadata first."""
    (node / "zarr.json").unlink(missing_ok=True)
    if node.exists():
        shutil.rmtree(node)
