"""What a simulated screen is: its settings, and its proteins with their planted proportions.

This module owns every number that can change a pixel, and refuses settings that make no screen. It
draws no cell. The one idea: a protein is a function of (seed, name), so that adding proteins,
fields or cells leaves the others as they are.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pandas as pd

from bgscale.draw import digest64
from bgscale.errors import InputError, nearest
from bgscale.simulate.colony import CELL_DIAMETER_UM
from bgscale.simulate.localizations import PATTERNS

SAME_STRAIN, INDEPENDENT = "same_strain", "independent"


@dataclass(frozen=True)
class ScreenSpec:
    """What to simulate; everything that can change a pixel.

    Parameters
    ----------
    seed : int
    localizations : sequence of str
        Names of drawings in `localizations.PATTERNS`.
    proteins_per_localization, mixed_proteins : int
        Proteins with one localization, for each of them; proteins with two or three.
    fields_per_protein, cells_per_field : int
        Cells count where their centre lies in the field; those cut by its edge come on top.
    field_size_px, crop_size_px : int
    neighbours : {"same_strain", "independent"}
        Whether the cells of a field carry one protein, or each its own out of the plate's.
    plates : int
        Proteins are dealt to plates; plates differ in lamp, medium, focus and illumination.
    protein_counts, brightness_spread, cell_spread : float
        Median camera counts of a protein where it is brightest; standard deviations of the
        logarithm of brightness between proteins and between cells.
    diffuse : float
        Mean share, from cell to cell, of the protein that is spread through the cytosol instead
        of being at its localization: what makes some cells hard to tell.
    haze : float
        Out-of-focus light, as a share of the mean light of the cells.
    illumination : float
        Share of the light that is missing in the corners of a field.
    plate_spread : float
        Standard deviation of the logarithm of what differs between plates.
    camera_offset, counts_per_photon, read_noise : float
        Counts; counts; counts.
    pixel_size_um, psf_um : float
        The second is the standard deviation of a point in focus.
    """

    seed: int = 0
    localizations: Sequence[str] = tuple(PATTERNS)
    proteins_per_localization: int = 4
    mixed_proteins: int = 10
    fields_per_protein: int = 4
    cells_per_field: int = 80
    field_size_px: int = 512
    crop_size_px: int = 64
    neighbours: str = SAME_STRAIN
    plates: int = 1
    protein_counts: float = 300.0
    brightness_spread: float = 0.5
    cell_spread: float = 0.3
    diffuse: float = 0.35
    haze: float = 0.15
    illumination: float = 0.25
    plate_spread: float = 0.15
    camera_offset: float = 100.0
    counts_per_photon: float = 2.0
    read_noise: float = 6.0
    pixel_size_um: float = 0.17
    psf_um: float = 0.17

    def __post_init__(self) -> None:
        object.__setattr__(self, "localizations", tuple(self.localizations))
        _check(self)


def _check(spec: ScreenSpec) -> None:
    if not spec.localizations or len(set(spec.localizations)) < len(spec.localizations):
        msg = f"localizations must be one or more different names, got {spec.localizations}"
        raise InputError(msg)
    for name in spec.localizations:
        if name not in PATTERNS:
            msg = f"no drawing of localization {name!r}{nearest(name, PATTERNS)}; there are "
            raise InputError(msg + ", ".join(PATTERNS))
    if spec.neighbours not in (SAME_STRAIN, INDEPENDENT):
        known = (SAME_STRAIN, INDEPENDENT)
        msg = f"neighbours is {spec.neighbours!r}{nearest(spec.neighbours, known)}; expected "
        raise InputError(msg + " or ".join(map(repr, known)))
    for name, least in {
        "proteins_per_localization": 0, "mixed_proteins": 0, "fields_per_protein": 1,
        "cells_per_field": 1, "crop_size_px": 8, "field_size_px": spec.crop_size_px, "plates": 1,
        "brightness_spread": 0, "cell_spread": 0, "diffuse": 0, "haze": 0, "illumination": 0,
        "plate_spread": 0, "camera_offset": 0, "read_noise": 0,
    }.items():  # fmt: skip
        value = getattr(spec, name)
        if not (np.isfinite(value) and value >= least):
            msg = f"{name} is {value}; expected {least} or more"
            raise InputError(msg)
    for name in ("protein_counts", "counts_per_photon", "pixel_size_um", "psf_um"):
        if not (np.isfinite(getattr(spec, name)) and getattr(spec, name) > 0):
            msg = f"{name} is {getattr(spec, name)}; expected a positive number"
            raise InputError(msg)
    if spec.diffuse > 1:
        msg = f"diffuse is {spec.diffuse}; expected a share from 0 to 1"
        raise InputError(msg)
    if spec.illumination >= 1 or spec.crop_size_px % 2:
        msg = f"expected illumination below 1 and an even crop_size_px, got {spec.illumination} "
        raise InputError(msg + f"and {spec.crop_size_px}")
    if spec.mixed_proteins and len(spec.localizations) < 2:
        msg = "mixed_proteins needs two localizations or more: add some, or set it to 0"
        raise InputError(msg)
    if not spec.mixed_proteins and not spec.proteins_per_localization:
        msg = "no protein: set proteins_per_localization or mixed_proteins"
        raise InputError(msg)
    room = 0.5 * (spec.field_size_px * spec.pixel_size_um) ** 2
    if spec.cells_per_field * CELL_DIAMETER_UM**2 > room:
        most = int(room / CELL_DIAMETER_UM**2)
        msg = f"cells_per_field is {spec.cells_per_field}, but {most} fit in a field of "
        msg += f"{spec.field_size_px} px: take fewer cells or a larger field_size_px"
        raise InputError(msg)


def stream(*purpose: object) -> np.random.Generator:
    """Return the random numbers of one purpose."""
    return np.random.Generator(np.random.Philox(key=digest64("simulate", *purpose)))


def proteins(spec: ScreenSpec) -> pd.DataFrame:
    """Return the screen's proteins, one row each; row numbers are the wells of `simulate_field`.

    Returns
    -------
    DataFrame
        protein, plate, well, localization (several joined by ";"), brightness (counts), and one
        column per localization: the share of the protein's cells that show it.

    Examples
    --------
    >>> spec = ScreenSpec(localizations=("ER", "Golgi"), mixed_proteins=1)
    >>> proteins(spec)[["protein", "plate", "localization"]].iloc[[0, 4, 8]]
      protein plate localization
    0  SIM001    P1           ER
    4  SIM005    P1        Golgi
    8  SIM009    P1     ER;Golgi
    """
    return protein_table(spec).copy()


@lru_cache(maxsize=8)
def protein_table(spec: ScreenSpec) -> pd.DataFrame:
    """Return the table of `proteins`, made once and shared: not to be changed."""
    names = spec.localizations
    single = len(names) * spec.proteins_per_localization
    taken = [0] * spec.plates
    rows = []
    for number in range(single + spec.mixed_proteins):
        protein = f"SIM{number + 1:03d}"
        rng = stream(spec.seed, "protein", protein)
        shares = np.zeros(len(names))
        # A class's proteins go to plates in turn, so that plate and class are not confounded.
        if number < single:
            which, turn = divmod(number, spec.proteins_per_localization)
            shares[which] = 1.0
            plate = (which + turn) % spec.plates
        else:
            several = int(rng.integers(2, 4)) if len(names) > 2 else 2
            chosen = rng.choice(len(names), several, replace=False)
            shares[chosen] = np.round(0.15 + (1 - 0.15 * several) * rng.dirichlet([1] * several), 3)
            shares[chosen[0]] += 1 - shares.sum()
            plate = number % spec.plates
        row, column = divmod(taken[plate], 24)
        taken[plate] += 1
        rows.append(
            {
                "protein": protein,
                "plate": f"P{plate + 1}",
                "well": f"{_row_name(row)}{column + 1:02d}",
                "localization": ";".join(n for n, s in zip(names, shares, strict=True) if s),
                "brightness": spec.protein_counts
                * np.exp(spec.brightness_spread * rng.standard_normal()),
                **dict(zip(names, shares, strict=True)),
            }
        )
    return pd.DataFrame(rows)


def _row_name(row: int) -> str:
    letter = chr(ord("A") + row % 26)
    return letter if row < 26 else _row_name(row // 26 - 1) + letter
