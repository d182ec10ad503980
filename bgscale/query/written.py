"""Crops as files: a picture a cell, its settings side by side, or its arrays.

A file is named by protein and cell; whatever a protein is called, its file lies in the folder.
"""

import re
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt
import xarray as xr

from bgscale.errors import InputError
from bgscale.query.asking import ORIGINAL
from bgscale.schema import CENTRE_CELL, Missing

ENLARGED = 3
GAP_PX = 4
TITLE_PX = 16
GREY = 128
"""Of what is not there, and between the crops."""
OUTLINE = (0, 190, 255)
INK = (255, 255, 255)
DARKEST, BRIGHTEST = 0.5, 99.9
"""Percentiles of a cell's pixels that are black and white in its picture."""
LONGEST_NAME = 40

Format = Literal["png", "npz"]
Pixels = npt.NDArray[np.uint8]


def write_crops(dataset: xr.Dataset, folder: str | Path, *, format: Format = "png") -> list[Path]:
    """Write a file for each cell of `crops`.

    Parameters
    ----------
    dataset : Dataset
        As `crops` returns it.
    folder : path
        Made if it is not there; a file of the same cell is replaced.
    format : {"png", "npz"}
        A picture: a column a setting, a row a channel, in one grey scale a channel, the centre cell
        outlined; what is missing is grey, and said. Or the arrays of the dataset, by name
        (image, mask, missing, donor, ...), to be read by `numpy.load`.

    Returns
    -------
    list of path
        In the order of the cells: PROTEIN_CELL.png or .npz.

    Raises
    ------
    InputError
        Another format, or the folder cannot be one.
    """
    if format not in ("png", "npz"):
        msg = f"crops are written as png or npz; got {format!r}"
        raise InputError(msg)
    place = Path(folder)
    if place.exists() and not place.is_dir():
        msg = f"{place} is a file; expected a folder for crops"
        raise InputError(msg)
    place.mkdir(parents=True, exist_ok=True)
    written = []
    for i in range(dataset.sizes["cell"]):
        one = dataset.isel(cell=i)
        name = f"{file_name(str(one['protein'].item()))}_{one['cell'].item()}.{format}"
        written.append(place / name)
        if format == "png":
            found, data = cv2.imencode(".png", picture(one))
            assert found
            written[-1].write_bytes(data.tobytes())
        else:
            _save(one, dataset, written[-1])
    return written


def file_name(text: str) -> str:
    """Return a text as a part of a file name: letters, digits, and - for all else.

    Examples
    --------
    >>> file_name("../=NUP2 <b>"), file_name("ÅÄ")
    ('NUP2-b', 'x')
    """
    return re.sub("[^A-Za-z0-9]+", "-", text).strip("-")[:LONGEST_NAME] or "x"


def picture(one: xr.Dataset) -> Pixels:
    """Return one cell's crops: (y, x, 3), uint8, blue first as OpenCV has it."""
    image = one["image"].transpose("channel", "setting", "y", "x").to_numpy()
    names = [str(name) for name in one["setting"].to_numpy()]
    first = names.index(ORIGINAL) if ORIGINAL in names else 0
    inside = (one["mask"].to_numpy() == CENTRE_CELL).astype(np.uint8)
    size = (image.shape[3] * ENLARGED, image.shape[2] * ENLARGED)
    inside = cv2.resize(inside, size, interpolation=cv2.INTER_NEAREST)
    outline, _ = cv2.findContours(inside, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    columns = []
    for s, name in enumerate(names):
        code = Missing(int(one["missing"].to_numpy()[s]))
        tiles = [_titled(name, size[0])]
        for channel in image:
            tile = np.full((size[1], size[0], 3), GREY, np.uint8)
            if code == Missing.PRESENT:
                grey = cv2.resize(
                    _grey(channel[s], channel[first]), size, interpolation=cv2.INTER_NEAREST
                )
                tile = np.repeat(grey[..., None], 3, axis=2)
                cv2.drawContours(tile, outline, -1, OUTLINE, 1)
            else:
                _write(tile, code.name.lower().replace("_", " "), size[1] // 2)
            tiles.append(tile)
        columns.append(_joined(tiles, axis=0))
    return _joined(columns, axis=1)


def _grey(values: npt.NDArray[np.float32], reference: npt.NDArray[np.float32]) -> Pixels:
    """Return counts as grey, on the scale of a crop that shows the whole cell."""
    shown = reference if np.isfinite(reference).all() else values
    low, high = np.percentile(shown, [DARKEST, BRIGHTEST])
    share = (values - low) / max(high - low, 1e-6)
    grey: Pixels = np.rint(255 * np.clip(share, 0, 1)).astype(np.uint8)
    return grey


def _titled(text: str, width: int) -> Pixels:
    tile = np.full((TITLE_PX, width, 3), 0, np.uint8)
    _write(tile, text, TITLE_PX - 4)
    return tile


def _write(tile: Pixels, text: str, bottom: int) -> None:
    """Write a text on a tile; as small as it must be."""
    scale = 0.45
    (width, _), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)
    scale *= min(1.0, (tile.shape[1] - 4) / max(width, 1))
    at = (2, bottom)
    cv2.putText(tile, text, at, cv2.FONT_HERSHEY_SIMPLEX, scale, INK, 1, cv2.LINE_AA)


def _joined(tiles: list[Pixels], *, axis: int) -> Pixels:
    """Return tiles side by side, or below each other, with gaps."""
    parts: list[Pixels] = []
    for tile in tiles:
        if parts:
            shape = list(tile.shape)
            shape[axis] = GAP_PX
            parts.append(np.full(shape, GREY, np.uint8))
        parts.append(tile)
    return np.concatenate(parts, axis=axis)


def _save(one: xr.Dataset, dataset: xr.Dataset, path: Path) -> None:
    """Write a cell's arrays, and what they stand for; none of them is a pickle."""
    arrays = {str(name): values.to_numpy() for name, values in one.variables.items()}
    arrays |= {name: np.array(str(dataset.attrs[name])) for name in ("plate", "model")}
    np.savez_compressed(path, allow_pickle=False, **arrays)
