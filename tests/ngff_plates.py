"""Plates for tests: as the package writes them, and as other programs do."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from bgscale.ngff import create_plate, write_field, write_labels

AXES = {
    "t": {"name": "t", "type": "time"},
    "c": {"name": "c", "type": "channel"},
    "z": {"name": "z", "type": "space", "unit": "micrometer"},
    "y": {"name": "y", "type": "space", "unit": "nanometer"},
    "x": {"name": "x", "type": "space", "unit": "nanometer"},
}
LENGTHS = {"t": 2, "c": 3, "z": 5, "y": 40, "x": 30}
IMAGES = np.random.default_rng(3).integers(90, 4000, (3, 2, 75, 51)).astype(np.uint16)
"""Of the three fields that `own_plate` writes: (field, channel, y, x)."""


def write_group(folder: Path, attributes: dict[str, Any], version: str) -> None:
    """Write the metadata of a group as another program would."""
    folder.mkdir(parents=True, exist_ok=True)
    if version == "0.4":
        (folder / ".zgroup").write_text('{"zarr_format": 2}', encoding="utf-8")
        (folder / ".zattrs").write_text(json.dumps(attributes), encoding="utf-8")
        return
    document = {"zarr_format": 3, "node_type": "group"}
    document["attributes"] = {"ome": {"version": version, **attributes}}
    (folder / "zarr.json").write_text(json.dumps(document), encoding="utf-8")


def foreign_plate(
    root: Path, axes: str, *, version: str = "0.5", wells: tuple[str, ...] = ("A/1",), **how: Any
) -> np.ndarray[Any, Any]:
    """Write a plate of one field a well by other means than the package's; return its pixels."""
    shape = tuple(LENGTHS[a] for a in axes)
    pixels = np.random.default_rng(7).integers(1, 60000, shape).astype(how.pop("dtype", "u2"))
    entries = [{"path": well, "rowIndex": 0, "columnIndex": 0} for well in wells]
    write_group(root, {"plate": {"wells": entries, "version": version}}, version)
    scale = [500.0 if a in "yx" else 1.0 for a in axes]
    transforms = [{"type": "scale", "scale": scale}]
    datasets = [{"path": "s0", "coordinateTransformations": transforms}]
    for well in wells:
        write_group(root / well, {"well": {"images": [{"path": "0"}]}}, version)
        image = {"axes": [AXES[a] for a in axes], "datasets": datasets, "version": version}
        write_group(root / well / "0", {"multiscales": [image]}, version)
        three = {"dimension_names": tuple(axes)} if version == "0.5" else {}
        array = zarr.create_array(
            store=str(root / well / "0" / "s0"),
            shape=shape,
            dtype=pixels.dtype,
            chunks=tuple({"y": 16, "x": 16, "z": 2}.get(a, 1) for a in axes),
            zarr_format=2 if version == "0.4" else 3,
            **{**three, **how},
        )
        array[...] = pixels
    return pixels


def own_plate(path: Path) -> Path:
    """Write a plate of three fields in two wells, with labels."""
    create_plate(path, name="W", fields={"A01": ["0", "1"], "B12": ["0"]})
    fields = [("A01", "0"), ("A01", "1"), ("B12", "0")]
    for (well, field), image in zip(fields, IMAGES, strict=True):
        write_field(path, well, field, image, channels=["GFP", "RFP"], pixel_size_um=0.25)
        write_labels(path, well, field, (image[0] // 500).astype(np.int64), pixel_size_um=0.25)
    return path
