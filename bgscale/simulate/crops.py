"""A simulated crops screen on disk: one small TIFF per cell and channel, plate map, truth.

This module owns the files, named as such data sets are handed out. It draws nothing: every crop is
an exact window of a field.
"""

import io
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pandas as pd
import tifffile

from bgscale.errors import InputError
from bgscale.simulate.field import CHANNELS, Field, simulate_field
from bgscale.simulate.spec import INDEPENDENT, SAME_STRAIN, ScreenSpec, proteins

Put: TypeAlias = Callable[[str, npt.NDArray[np.generic]], None]


def write_crops(
    spec: ScreenSpec,
    folder: str | Path,
    *,
    masks: bool = True,
    zipped: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write a crops screen as such data sets are handed out, with its plate map and its truth.

    One TIFF per cell and channel, `{protein}/{protein}_{field}_{cell}_{gfp,rfp,nuc,mask}.tif`, in
    `folder` or in its `crops.zip`; `platemap.csv`; `truth/cells.csv`; `truth/proportions.csv`
    (planted shares and the cells written). A crop is the window [int(y) - half, int(y) + half) of
    its field; cells whose window leaves the field are not written. In a mixed culture `field`
    counts through the wells, so that crops of one field of view share it whatever their protein.

    Parameters
    ----------
    spec : ScreenSpec
    folder : path
        Made if need be; must be empty.
    masks : bool
        Also write masks: 255 in the centre cell, else 0.
    zipped : bool
        One uncompressed archive instead of many files.
    progress : callable, optional
        Called with (fields done, fields in all).

    Returns
    -------
    Path
        The folder.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        msg = f"{folder} is not an empty folder: crops of two screens would mix; name another"
        raise InputError(msg)
    (folder / "truth").mkdir(parents=True)
    table = proteins(spec)
    total = len(table) * spec.fields_per_protein
    truth = []
    with _sink(folder, zipped=zipped) as put:
        for number in range(total):
            well, within = divmod(number, spec.fields_per_protein)
            field = simulate_field(spec, well, within)
            name = number if spec.neighbours == INDEPENDENT else within
            truth.append(_put_crops(spec, field, name, put, masks=masks))
            if progress is not None:
                progress(number + 1, total)
    cells = pd.concat(truth, ignore_index=True)
    cells.insert(1, "plate", cells["protein"].map(table.set_index("protein")["plate"]))
    cells.to_csv(folder / "truth" / "cells.csv", index=False)
    shares = table.melt("protein", list(spec.localizations), "localization", "proportion")
    written = cells.groupby(["protein", "localization"]).size().rename("cells").reset_index()
    shares = shares[shares["proportion"] > 0].merge(written, how="left").fillna({"cells": 0})
    shares = shares.astype({"cells": int}).sort_values("protein", kind="stable")
    shares.to_csv(folder / "truth" / "proportions.csv", index=False)
    # A protein of a mixed culture has no well of its own.
    columns = ["protein", "localization", "plate"]
    columns += ["well"] if spec.neighbours == SAME_STRAIN else []
    table[columns].to_csv(folder / "platemap.csv", index=False)
    return folder


def _put_crops(
    spec: ScreenSpec, field: Field, number: int, put: Put, *, masks: bool
) -> pd.DataFrame:
    """Hand the field's crops to `put`; return the truth of those that were written."""
    half = spec.crop_size_px // 2
    corners = field.cells[["y", "x"]].to_numpy().astype(np.int64) - half
    within = (corners >= 0) & (corners + 2 * half <= spec.field_size_px)
    fits = np.flatnonzero(within.all(axis=1))
    cells = field.cells.iloc[fits].rename(columns={"label": "cell"})
    neighbours = []
    for (top, left), cell, protein in zip(
        corners[fits].tolist(), cells["cell"], cells["protein"], strict=True
    ):
        window = (slice(top, top + 2 * half), slice(left, left + 2 * half))
        stem = f"{protein}/{protein}_{number}_{cell}"
        for channel, suffix in enumerate(CHANNELS):
            put(f"{stem}_{suffix}.tif", field.image[channel][window])
        around = field.labels[window]
        if masks:
            put(f"{stem}_mask.tif", np.where(around == cell, 255, 0).astype(np.uint8))
        neighbours.append(len(np.setdiff1d(around, [0, cell])))
    cells = cells.assign(field=number, neighbours=neighbours)
    return cells[["protein", "field", "cell", "localization", "y", "x", "area", "neighbours"]]


@contextmanager
def _sink(folder: Path, *, zipped: bool) -> Iterator[Put]:
    """Yield a function that stores an image under a name, in a folder or in its archive."""
    if zipped:
        with zipfile.ZipFile(folder / "crops.zip", "w", zipfile.ZIP_STORED) as archive:
            # A fixed date: the same screen is the same file.
            yield lambda name, image: archive.writestr(zipfile.ZipInfo(name), _tiff(image))
        return
    made: set[Path] = set()

    def write(name: str, image: npt.NDArray[np.generic]) -> None:
        path = folder / name
        if path.parent not in made:
            path.parent.mkdir(exist_ok=True)
            made.add(path.parent)
        path.write_bytes(_tiff(image))

    yield write


def _tiff(image: npt.NDArray[np.generic]) -> bytes:
    before, after = _tiff_frame(image.shape, image.dtype.str)
    return before + image.tobytes() + after


@lru_cache(maxsize=8)
def _tiff_frame(shape: tuple[int, ...], dtype: str) -> tuple[bytes, bytes]:
    """Return what a TIFF of this shape and dtype has before and after its pixels.

    tifffile needs a millisecond per file, most of a simulation's time; the frame does not change.
    """
    file = io.BytesIO()
    tifffile.imwrite(file, np.zeros(shape, dtype), photometric="minisblack", metadata=None)
    file.seek(0)
    with tifffile.TiffFile(file) as tiff:
        start, size = tiff.pages[0].dataoffsets[0], tiff.pages[0].databytecounts[0]
    whole = file.getvalue()
    return whole[:start], whole[start + size :]
