"""What is written about plates: the metadata of plate, well and image, and the small level.

Pure: names and pixels in, plain JSON types and pixels out.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from bgscale.schema import natural

VERSION = "0.5"
COLORS = ("00FF00", "FF0000", "0000FF", "FFFF00", "FF00FF", "00FFFF", "FFFFFF")
"""Display colours of the channels, in turn."""
DISPLAYED_PERCENTILES = (1.0, 99.8)


def plate_metadata(name: str, wells: Mapping[tuple[str, str], Sequence[str]]) -> dict[str, Any]:
    """Return the metadata of a plate; its wells in the order of rows and columns."""
    rows = sorted({row for row, _ in wells}, key=lambda r: (len(r), r))
    columns = sorted({column for _, column in wells}, key=natural)
    entries = [
        {
            "path": f"{row}/{column}",
            "rowIndex": rows.index(row),
            "columnIndex": columns.index(column),
        }
        for row in rows
        for column in columns
        if (row, column) in wells
    ]
    return {
        "plate": {
            "name": name,
            "version": VERSION,
            "rows": [{"name": row} for row in rows],
            "columns": [{"name": column} for column in columns],
            "wells": entries,
            "field_count": max(map(len, wells.values())),
        }
    }


def well_metadata(fields: Sequence[str]) -> dict[str, Any]:
    """Return the metadata of a well."""
    images = [{"path": field} for field in sorted(fields, key=natural)]
    return {"well": {"images": images, "version": VERSION}}


def multiscales_of(
    name: str, axes: Sequence[str], pixel_size_um: float | None, *, shifted: bool
) -> list[dict[str, Any]]:
    """Return the metadata of two levels; `shifted`: a small pixel is the middle of four."""
    unit = {} if pixel_size_um is None else {"unit": "micrometer"}
    size = pixel_size_um or 1.0
    entries = [
        {"name": "c", "type": "channel"} if a == "c" else {"name": a, "type": "space", **unit}
        for a in axes
    ]
    datasets = []
    for level, factor in enumerate((1, 2)):
        scale = [1.0 if a == "c" else size * factor for a in axes]
        transforms: list[dict[str, Any]] = [{"type": "scale", "scale": scale}]
        if shifted and level:
            shift = [0.0 if a == "c" else size / 2 for a in axes]
            transforms.append({"type": "translation", "translation": shift})
        datasets.append({"path": str(level), "coordinateTransformations": transforms})
    return [{"name": name, "axes": entries, "datasets": datasets}]


def omero_of(channels: Sequence[str], image: npt.NDArray[Any]) -> dict[str, Any]:
    """Return names and display of the channels of an image (channel, y, x)."""
    entries = [
        {
            "label": str(name),
            "color": COLORS[i % len(COLORS)],
            "active": True,
            "window": _window(image[i]),
        }
        for i, name in enumerate(channels)
    ]
    return {"channels": entries}


def _window(plane: npt.NDArray[Any]) -> dict[str, float]:
    """Return what a viewer shows of a channel: range of the dtype or data, and percentiles."""
    values = plane[np.isfinite(plane)] if plane.dtype.kind == "f" else plane
    if not values.size:
        values = np.zeros(1)
    low, high = (float(v) for v in np.percentile(values, DISPLAYED_PERCENTILES))
    if plane.dtype.kind == "f":
        least, most = float(values.min()), float(values.max())
    else:
        least, most = (float(v) for v in (np.iinfo(plane.dtype).min, np.iinfo(plane.dtype).max))
    if high <= low:
        high = low + 1.0
    return {"min": least, "max": max(most, high), "start": low, "end": high}


def halved_mean(image: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return the mean of 2x2 pixels, of fewer at an odd edge: (channel, y/2, x/2), same dtype."""
    odd = [(0, 0), *((0, n % 2) for n in image.shape[1:])]
    even = np.pad(image, odd, mode="edge")
    wide = np.float64 if image.dtype.itemsize > 2 else np.float32
    quarters = [even[:, i::2, j::2].astype(wide) for i in (0, 1) for j in (0, 1)]
    mean = np.stack(quarters).mean(0, dtype=wide)
    return np.asarray(np.rint(mean) if image.dtype.kind in "ui" else mean).astype(image.dtype)
