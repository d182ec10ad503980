"""One field of view: what its cells carry, their light, the optics and the camera.

What is drawn for where the cells lie is drawn apart from what they carry: a well and a mixed
culture of the same number show the same outlines, differently tagged.

What is exact: the light of a cell stays inside its own label; what the optics spread beyond it is
cut off. A pixel outside holds medium, haze, noise and other cells. Haze follows where cells are,
scaled by the mean light of the whole field. So in a mixed culture (`neighbours="independent"`) the
background of a crop tells nothing about the protein of its centre cell, but for that cell's share
of the mean, one in the number of cells.
"""

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import ndimage

from bgscale.errors import InputError
from bgscale.simulate.colony import Colony, grow
from bgscale.simulate.localizations import PATTERNS, Image
from bgscale.simulate.spec import INDEPENDENT, ScreenSpec, protein_table, stream

HAZE_RADIUS_UM = 2.5
CHANNELS = {"gfp": "protein", "rfp": "cytosol", "nuc": "nucleus"}
"""Channels of an image in their order: suffix of the crop file, role."""
MEDIUM_COUNTS = (45.0, 40.0, 35.0)
AUTOFLUORESCENCE_COUNTS = 45.0
LOOSE_LIGHT = np.float32(0.5)
"""Light of a protein that is all in the cytosol, relative to where it is concentrated."""
GRAIN, GRAIN_UM = 0.1, 0.3
"""Unevenness of what fills a cell: relative standard deviation, and its size."""
CYTOSOL_COUNTS, NUCLEUS_COUNTS = 900.0, 1800.0

Rng: TypeAlias = np.random.Generator
Ints: TypeAlias = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Field:
    """One field of view and its truth.

    Parameters
    ----------
    image : array (channel, y, x), uint16, camera counts
        Channels protein, cytosol, nucleus.
    labels : array (y, x), int32
        0 in the medium, else the cell's label.
    cells : DataFrame
        One row per label: label, y, x (middle of its visible pixels), protein, localization,
        area (pixels).
    """

    image: npt.NDArray[np.uint16]
    labels: npt.NDArray[np.int32]
    cells: pd.DataFrame


def simulate_field(spec: ScreenSpec, well: int, field: int) -> Field:
    """Render one field of view.

    Parameters
    ----------
    spec : ScreenSpec
    well : int
        Row of `proteins(spec)`. In a mixed culture it only numbers the fields of a plate.
    field : int
        From 0; fields beyond `fields_per_protein` may be asked for.

    Returns
    -------
    Field

    Examples
    --------
    >>> spec = ScreenSpec(field_size_px=256, cells_per_field=20)
    >>> field = simulate_field(spec, well=0, field=0)
    >>> field.image.shape, field.image.dtype.name, field.cells["localization"].unique().tolist()
    ((3, 256, 256), 'uint16', ['actin'])
    """
    table = protein_table(spec)
    if not 0 <= well < len(table) or field < 0:
        msg = f"no field {field} in well {well}: wells are 0 to {len(table) - 1}, fields from 0"
        raise InputError(msg)
    colony = grow(
        spec.cells_per_field,
        spec.field_size_px,
        1 / spec.pixel_size_um,
        stream(spec.seed, "place", well, field),
    )
    carried, shown = _tag(spec, well, len(colony.cells), stream(spec.seed, "tag", well, field))
    brightness = table["brightness"].to_numpy()[carried]
    light = _light(spec, colony, shown, brightness, stream(spec.seed, "light", well, field))
    margin = slice(colony.patch_px, -colony.patch_px)
    occupied = colony.labels > 0
    inner = np.ascontiguousarray(light[:, margin, margin])
    plate = str(table["plate"].iloc[well])
    haze = _haze(spec, light, occupied)[:, margin, margin]
    image = _expose(spec, plate, inner + haze, stream(spec.seed, "camera", well, field))
    labels, kept, middles, areas = _visible(colony.labels[margin, margin])
    cells = pd.DataFrame(
        {
            "label": np.arange(1, len(kept) + 1, dtype=np.int32),
            "y": middles[:, 0],
            "x": middles[:, 1],
            "protein": table["protein"].to_numpy()[carried[kept]],
            "localization": np.array(spec.localizations, object)[shown[kept]],
            "area": areas,
        }
    )
    return Field(image, labels, cells)


def _tag(spec: ScreenSpec, well: int, count: int, rng: Rng) -> tuple[Ints, Ints]:
    """Draw each cell's protein (row of the table) and localization (code): two (cell,) int64."""
    table = protein_table(spec)
    carried = np.full(count, well)
    if spec.neighbours == INDEPENDENT:
        of_plate = np.flatnonzero(table["plate"] == table["plate"].iloc[well])
        carried = of_plate[rng.integers(len(of_plate), size=count)]
    upper = table[list(spec.localizations)].to_numpy().cumsum(axis=1)[carried]
    # The last bound is 1 up to rounding; a draw above it must not fall off the end.
    shown = (rng.random(count)[:, None] >= upper[:, :-1]).sum(axis=1)
    return carried, shown


def _light(
    spec: ScreenSpec,
    colony: Colony,
    shown: Ints,
    brightness: npt.NDArray[np.float64],
    rng: Rng,
) -> Image:
    """Return the light of the cells through the optics: (channel, y, x) float32, counts."""
    count, side = len(colony.cells), colony.patch_px
    patches = np.empty((count, len(CHANNELS), side, side), np.float32)
    # Shares are spread widely: some cells show their localization clearly, some hardly.
    loose = np.full(count, np.float32(spec.diffuse))
    if 0 < spec.diffuse < 1:
        shape = 1.2 / (1 - spec.diffuse)
        loose = rng.beta(shape * spec.diffuse, 1.2, count).astype(np.float32)
    varied = np.exp(spec.cell_spread * rng.standard_normal((3, count)))
    for i, cell in enumerate(colony.cells):
        tagged = (1 - loose[i]) * PATTERNS[spec.localizations[shown[i]]](cell, rng)
        tagged += loose[i] * LOOSE_LIGHT * cell.cytoplasm
        patches[i, 0] = brightness[i] * varied[0, i] * tagged + AUTOFLUORESCENCE_COUNTS * cell.body
        patches[i, 1] = CYTOSOL_COUNTS * varied[1, i] * cell.cytoplasm
        patches[i, 2] = NUCLEUS_COUNTS * varied[2, i] * (cell.nucleoplasm + 0.06 * cell.cytoplasm)
    blur = spec.psf_um / spec.pixel_size_um * rng.uniform(0.9, 1.15)
    patches = ndimage.gaussian_filter(patches, (0, 0, blur, blur), truncate=3.0)
    # Cells lie at different heights: each is its sharp and its blurred picture in some proportion.
    soft = ndimage.gaussian_filter(patches, (0, 0, 2 * blur, 2 * blur), truncate=2.5)
    height = np.float32(0.9) * rng.beta(1.0, 2.5, count).astype(np.float32)[:, None, None, None]
    patches += height * (soft - patches)
    patches *= colony.own[:, None]
    light = np.zeros((len(CHANNELS), *colony.labels.shape), np.float32)
    for (y, x), patch in zip(colony.corners, patches, strict=True):
        light[:, y : y + side, x : x + side] += patch
    grain = ndimage.gaussian_filter(
        rng.standard_normal(light.shape[1:], dtype=np.float32), GRAIN_UM / spec.pixel_size_um
    )
    light *= 1 + np.float32(GRAIN) * grain / grain.std()
    return light


def _haze(spec: ScreenSpec, light: Image, occupied: npt.NDArray[np.bool_]) -> Image:
    """Return out-of-focus light, the mean light of the cells spread around where cells are."""
    coarse = 4
    rows, columns = (-n % coarse for n in occupied.shape)
    blocks = np.pad(occupied.astype(np.float32), ((0, rows), (0, columns)))
    blocks = blocks.reshape(blocks.shape[0] // coarse, coarse, -1, coarse).mean(axis=(1, 3))
    wide = HAZE_RADIUS_UM / spec.pixel_size_um / coarse
    spread = ndimage.zoom(
        ndimage.gaussian_filter(blocks, wide), coarse, order=1, grid_mode=True, mode="nearest"
    )[: occupied.shape[0], : occupied.shape[1]]
    mean = light.sum(axis=(1, 2)) / np.float32(max(occupied.sum(), 1))
    haze: Image = np.float32(spec.haze) * mean[:, None, None] * spread
    return haze


def _expose(spec: ScreenSpec, plate: str, light: Image, rng: Rng) -> npt.NDArray[np.uint16]:
    """Return camera counts: lamp, medium and illumination of the plate, photons, read noise."""
    of_plate = stream(spec.seed, "plate", plate)
    lamp, medium = np.exp(spec.plate_spread * of_plate.standard_normal((2, 3, 1, 1)))
    axis = np.linspace(-1, 1, light.shape[-1], dtype=np.float32)
    cy, cx = of_plate.uniform(-0.3, 0.3, 2).astype(np.float32)
    falloff = ((axis[:, None] - cy) ** 2 + (axis[None] - cx) ** 2) / (
        (1 + abs(cy)) ** 2 + (1 + abs(cx)) ** 2
    )
    medium = medium * np.array(MEDIUM_COUNTS)[:, None, None]
    medium *= np.exp(0.05 * rng.standard_normal((3, 1, 1)))
    expected = (light + medium.astype(np.float32)) * lamp.astype(np.float32)
    expected *= 1 - np.float32(spec.illumination) * falloff
    # Photons in their normal limit: medium alone gives some twenty a pixel.
    variance = np.float32(spec.counts_per_photon) * expected + np.float32(spec.read_noise) ** 2
    noise = rng.standard_normal(expected.shape, dtype=np.float32) * np.sqrt(variance)
    counts = np.rint(np.float32(spec.camera_offset) + expected + noise)
    image: npt.NDArray[np.uint16] = np.clip(counts, 0, np.iinfo(np.uint16).max).astype(np.uint16)
    return image


def _visible(
    canvas: npt.NDArray[np.int32],
) -> tuple[npt.NDArray[np.int32], Ints, npt.NDArray[np.float64], Ints]:
    """Return the visible cells, numbered from 1: labels, indices kept, middles (y, x), areas."""
    size = canvas.shape[0]
    rows, columns = np.nonzero(canvas)
    found = canvas[rows, columns]
    areas = np.bincount(found)
    kept = np.flatnonzero(areas)
    sums = [np.bincount(found, weights=axis)[kept] for axis in (rows, columns)]
    lookup = np.zeros(int(canvas.max()) + 1, np.int32)
    lookup[kept] = np.arange(1, len(kept) + 1)
    middles = np.stack(sums, axis=-1) / areas[kept, None]
    return lookup[canvas].reshape(size, size), kept - 1, middles, areas[kept].astype(np.int64)
