"""How a tagged protein looks in a budding-yeast cell: one drawing for each of 15 localizations.

This module owns the anatomy of one cell (membrane, bud, nucleus, vacuoles) and the light of the
protein in it, in a patch. It refuses to own fields, brightness, optics and noise: `field` does.
The one idea: a drawing is a sum of filled compartments, shells around them and spots. All take
their shapes from the same anatomy, so that a nuclear ring surrounds the nucleus of the nucleus
channel and a vacuole fills the hole of the cytosol channel.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Image: TypeAlias = npt.NDArray[np.float32]
Points: TypeAlias = npt.NDArray[np.float64]
"""(point, 2): y, x in pixels from the middle of the patch."""

MEMBRANE_WIDTH_UM = 0.11
SPOT_WIDTH_UM = 0.12
"""Below the resolution of the microscope: such a spot is as small as the optics let it be."""


@dataclass(frozen=True)
class Anatomy:
    """One cell in its patch.

    Parameters
    ----------
    y, x : arrays (y, 1) and (1, x), float32, pixels
        Coordinates from the middle of the patch.
    depth : array (y, x), float32, pixels
        Distance inside the plasma membrane, negative outside; mother and bud together.
    centre, axes, angle : (y, x) pixels; (long, short) semi-axes, pixels; radians
        Ellipse of the mother.
    pole : float, radians
        Where on that ellipse the bud sits, or would grow.
    bud : (y, x, radius) in pixels, or None
    nucleus : (y, x, radius), pixels
    vacuoles : array (vacuole, 3), float64, pixels
        y, x, radius.
    um : float
        Pixels per micrometre.
    """

    y: Image
    x: Image
    depth: Image
    centre: tuple[float, float]
    axes: tuple[float, float]
    angle: float
    pole: float
    bud: tuple[float, float, float] | None
    nucleus: tuple[float, float, float]
    vacuoles: Points
    um: float

    def shell(self, theta: npt.ArrayLike, fraction: npt.ArrayLike = 1.0) -> Points:
        """Return the mother's points at angles `theta` and at a fraction of the way out."""
        turn, out = np.asarray(theta, np.float64), np.asarray(fraction, np.float64)
        u, v = self.axes[0] * np.cos(turn) * out, self.axes[1] * np.sin(turn) * out
        cos, sin = np.cos(self.angle), np.sin(self.angle)
        points = [self.centre[0] + u * sin + v * cos, self.centre[1] + u * cos - v * sin]
        return np.stack(np.broadcast_arrays(*points), axis=-1)

    def on_envelope(self, turn: npt.NDArray[np.float64]) -> Points:
        """Return the points of the nuclear envelope in the directions `turn`, radians."""
        y, x, radius = self.nucleus
        return np.stack([y + radius * np.sin(turn), x + radius * np.cos(turn)], axis=-1)

    @cached_property
    def radius(self) -> float:
        """Mean radius of the mother, pixels."""
        return float(np.sqrt(self.axes[0] * self.axes[1]))

    @cached_property
    def body(self) -> Image:
        """Share of each pixel inside the membrane."""
        return filled(self.depth)

    @cached_property
    def nucleus_depth(self) -> Image:
        """Distance inside the nuclear envelope, pixels."""
        return self._disc(*self.nucleus)

    @cached_property
    def nucleoplasm(self) -> Image:
        """Share of each pixel inside the nucleus."""
        return filled(self.nucleus_depth)

    @cached_property
    def vacuole_depths(self) -> list[Image]:
        """Distance inside each vacuole, pixels; the nucleus dents it."""
        room = np.minimum(-self.nucleus_depth, self.depth) - np.float32(1)
        return [np.minimum(self._disc(*vacuole), room) for vacuole in self.vacuoles]

    @cached_property
    def vacuole_depth(self) -> Image:
        """Distance inside the nearest vacuole, pixels."""
        deepest: Image = np.maximum.reduce(self.vacuole_depths)
        return deepest

    @cached_property
    def lumen(self) -> Image:
        """Share of each pixel inside a vacuole."""
        return filled(self.vacuole_depth)

    @cached_property
    def cytoplasm(self) -> Image:
        """Light of the cytosol: more where the cell is thick, some above and below a vacuole."""
        thick = np.sqrt(np.clip(self.depth / np.float32(0.6 * self.radius), 0, 1))
        light: Image = self.body * (np.float32(0.5) + np.float32(0.5) * thick)
        return light * (1 - np.float32(0.75) * self.lumen)

    def _disc(self, y: float, x: float, radius: float) -> Image:
        away = np.hypot(self.y - np.float32(y), self.x - np.float32(x))
        inside: Image = np.float32(radius) - away
        return inside


def filled(depth: Image) -> Image:
    """Return the share of each pixel that is inside, from the distance inside in pixels."""
    share: Image = np.clip(depth + np.float32(0.5), 0, 1)
    return share


def _membrane(depth: Image, width_px: float) -> Image:
    light: Image = np.exp(-0.5 * (depth / np.float32(width_px)) ** 2)
    return light


def _spots(cell: Anatomy, at: Points, amplitude: npt.ArrayLike, width_um: npt.ArrayLike) -> Image:
    """Sum Gaussian spots, `amplitude` high before the optics blur them."""
    gauss = -0.5 / (np.broadcast_to(width_um, len(at))[:, None] * cell.um) ** 2
    rows = np.exp(gauss * (cell.y.T - at[:, :1]) ** 2)
    columns = np.exp(gauss * (cell.x - at[:, 1:]) ** 2)
    rows *= np.broadcast_to(amplitude, len(at))[:, None]
    return (rows.T @ columns).astype(np.float32)


def _scatter(
    cell: Anatomy, where: npt.NDArray[np.bool_], count: int, rng: np.random.Generator
) -> Points:
    """Draw points uniformly over the pixels of a region; none where the region is empty."""
    pixels = np.flatnonzero(where)
    if not len(pixels):
        return np.empty((0, 2))
    rows, columns = np.divmod(pixels[rng.integers(len(pixels), size=count)], where.shape[1])
    at = np.stack([cell.y[rows, 0], cell.x[0, columns]], axis=-1)
    return at + rng.uniform(-0.5, 0.5, at.shape)


def _tubule(
    cell: Anatomy, length_um: float, inner: float, outer: float, rng: np.random.Generator
) -> Points:
    """Walk along the mother between two fractions of its radius, a point every 0.1 um."""
    steps = max(int(length_um / 0.1), 3)
    turn = 0.1 * cell.um / (0.7 * cell.radius) * rng.choice([-1.0, 1.0])
    theta = rng.uniform(0, 2 * np.pi) + turn * np.arange(steps)
    wave = np.sin(np.linspace(0, rng.uniform(1, 5), steps) + rng.uniform(0, 2 * np.pi))
    return cell.shell(theta, (inner + outer) / 2 + (outer - inner) / 2 * wave)


def _cytosolic(cell: Anatomy, margin_um: float) -> npt.NDArray[np.bool_]:
    """Where an organelle has room: inside the cell, outside nucleus and vacuoles."""
    room = (cell.depth > margin_um * cell.um) & (cell.nucleus_depth < 0)
    free: npt.NDArray[np.bool_] = room & (cell.vacuole_depth < 0)
    return free


def _patchy(cell: Anatomy, contrast: float, rng: np.random.Generator) -> Image:
    """Return a factor that varies around the cell, for membranes that are not even."""
    theta = np.arctan2(cell.y - np.float32(cell.centre[0]), cell.x - np.float32(cell.centre[1]))
    turns, starts = rng.integers(2, 9, 3), rng.uniform(0, 6.3, 3)
    waves = [
        np.sin(np.float32(k) * theta + np.float32(s)) for k, s in zip(turns, starts, strict=True)
    ]
    factor: Image = np.clip(1 + np.float32(contrast / 1.7) * np.add.reduce(waves), 0, None)
    return factor


def actin(cell: Anatomy, rng: np.random.Generator) -> Image:
    """Draw cortical patches, most of them in the bud or at the pole, and faint cables."""
    cortex = (cell.depth > 0.05 * cell.um) & (cell.depth < 0.55 * cell.um)
    count = int(rng.integers(9, 17))
    y, x, radius = cell.bud or (*cell.shell(cell.pole), 0.7 * cell.radius)
    polar = cortex & (np.hypot(cell.y - y, cell.x - x) < radius + 0.3 * cell.um)
    at = np.concatenate(
        [_scatter(cell, polar, count * 2 // 3, rng), _scatter(cell, cortex, count // 2, rng)]
    )
    light = _spots(cell, at, rng.uniform(0.6, 1.8, len(at)), 0.16)
    for side in rng.uniform(-1.0, 1.0, int(rng.integers(2, 5))):
        way = np.linspace(0.95, -0.7, 24)[:, None]
        start, end = cell.shell(cell.pole), cell.shell(cell.pole + np.pi + side)
        bow = 0.15 * side * (1 - way**2) * cell.radius
        light += _spots(cell, (start + end) / 2 + (start - end) / 2 * way + bow, 0.14, 0.1)
    return light + 0.12 * cell.cytoplasm


def bud_neck(cell: Anatomy, rng: np.random.Generator) -> Image:
    """Draw a ring, seen from the side, where the bud meets the mother; else its scar."""
    half_um = rng.uniform(0.4, 0.6)
    if cell.bud is None:
        reach = half_um * cell.um / cell.radius
        at = cell.shell(cell.pole + np.linspace(-reach, reach, 7), 0.95)
        bar = np.full(7, rng.uniform(0.35, 0.9))
    else:
        neck = cell.shell(cell.pole)
        along = np.array([cell.bud[0], cell.bud[1]]) - neck
        across = np.array([-along[1], along[0]]) / max(float(np.hypot(*along)), 1e-6)
        at = neck + across * np.linspace(-half_um, half_um, 7)[:, None] * cell.um
        bar = np.array([1.4, 1.0, 0.6, 0.5, 0.6, 1.0, 1.4])
    return _spots(cell, at, bar, 0.13) + np.float32(rng.uniform(0.08, 0.16)) * cell.cytoplasm


def cell_periphery(cell: Anatomy, rng: np.random.Generator) -> Image:
    """Draw the plasma membrane, mother and bud, slightly uneven."""
    membrane = _membrane(cell.depth - 0.5, MEMBRANE_WIDTH_UM * cell.um)
    return 1.3 * membrane * _patchy(cell, 0.25, rng) + 0.16 * cell.cytoplasm


def cytoplasm(cell: Anatomy, rng: np.random.Generator) -> Image:
    """Fill everything but vacuoles; a little less in the nucleus."""
    return 0.8 * cell.cytoplasm * (1 - np.float32(rng.uniform(0.0, 0.3)) * cell.nucleoplasm)


def endosome(cell: Anatomy, rng: np.random.Generator) -> Image:
    """Draw few, uneven, rather large puncta, most of them beside a vacuole."""
    room = _cytosolic(cell, 0.25)
    near = room & (cell.vacuole_depth > -0.6 * cell.um)
    count = int(rng.integers(2, 5))
    at = np.concatenate(
        [_scatter(cell, near, count, rng), _scatter(cell, room, int(rng.integers(1, 3)), rng)]
    )
    light = _spots(cell, at, rng.uniform(0.5, 1.5, len(at)), rng.uniform(0.18, 0.3, len(at)))
    light += 0.18 * _membrane(cell.vacuole_depth, MEMBRANE_WIDTH_UM * cell.um)
    return light + 0.16 * cell.cytoplasm


def er(cell: Anatomy, rng: np.random.Generator) -> Image:
    """Draw the nuclear envelope, broken cortical sheets, and tubules between the two."""
    width = MEMBRANE_WIDTH_UM * cell.um
    cortical = _membrane(cell.depth - 0.2 * cell.um, width) * _patchy(cell, 0.8, rng)
    light: Image = 1.1 * _membrane(cell.nucleus_depth, width) + 0.75 * cortical
    for _ in range(int(rng.integers(1, 4))):
        angle = rng.uniform(0, 2 * np.pi)
        way = np.linspace(0, 1, 14)[:, None]
        start = np.array(cell.nucleus[:2])
        light += _spots(cell, start + (cell.shell(angle, 0.93) - start) * way, 0.3, 0.1)
    return light + 0.12 * cell.cytoplasm


def golgi(cell: Anatomy, rng: np.random.Generator) -> Image:
    """Draw several puncta and short cisternae all over the cytoplasm."""
    at = _scatter(cell, _cytosolic(cell, 0.3), int(rng.integers(5, 11)), rng)
    tilt = rng.uniform(0, np.pi, len(at))
    half = np.stack([np.sin(tilt), np.cos(tilt)], axis=-1) * 0.13 * cell.um
    amplitude = rng.uniform(0.4, 1.1, len(at))
    both = np.concatenate([at - half, at + half])
    light = _spots(cell, both, np.tile(amplitude, 2), 0.14)
    return light + 0.2 * cell.cytoplasm


def mitochondrion(cell: Anatomy, rng: np.random.Generator) -> Image:
    """Draw tubules along the cortex, thicker here and there."""
    light: Image = np.float32(0.1) * cell.cytoplasm
    for _ in range(int(rng.integers(2, 5))):
        at = _tubule(cell, rng.uniform(1.5, 5.5), rng.uniform(0.45, 0.75), 0.88, rng)
        beads = 1 + 0.6 * np.sin(np.arange(len(at)) * rng.uniform(0.15, 0.5) + rng.uniform(0, 6.3))
        light += _spots(cell, at, 0.5 * rng.uniform(0.6, 1.2) * beads, 0.12)
    if cell.bud is not None:
        y, x, radius = cell.bud
        turn = rng.uniform(0, 2 * np.pi) + np.linspace(0, rng.uniform(1.5, 4), 10)
        at = np.stack([y + 0.6 * radius * np.sin(turn), x + 0.6 * radius * np.cos(turn)], axis=-1)
        light += _spots(cell, at, 0.5, 0.12)
    return light


def nucleus(cell: Anatomy, rng: np.random.Generator) -> Image:
    """Fill the nucleoplasm; some protein stays in the cytoplasm."""
    return cell.nucleoplasm + np.float32(rng.uniform(0.06, 0.2)) * cell.cytoplasm


def nuclear_periphery(cell: Anatomy, rng: np.random.Generator) -> Image:
    """Draw a beaded ring around the nucleus."""
    ring = 0.9 * _membrane(cell.nucleus_depth, MEMBRANE_WIDTH_UM * cell.um)
    pores = cell.on_envelope(rng.uniform(0, 2 * np.pi, int(rng.integers(4, 9))))
    return ring + _spots(cell, pores, 0.6, SPOT_WIDTH_UM) + 0.12 * cell.cytoplasm


def nucleolus(cell: Anatomy, rng: np.random.Generator) -> Image:
    """Fill a crescent at one side of the nucleus, as a rule away from the bud."""
    y, x, radius = cell.nucleus
    away = cell.pole + np.pi + cell.angle + rng.normal(0, 0.5)
    ahead = (cell.y - y) * np.sin(away) + (cell.x - x) * np.cos(away)
    start = rng.uniform(0.0, 0.3) * radius
    crescent = cell.nucleoplasm * filled((ahead - start).astype(np.float32))
    light: Image = 1.2 * crescent + 0.15 * cell.nucleoplasm
    return light + 0.08 * cell.cytoplasm


def spindle_pole(cell: Anatomy, rng: np.random.Generator) -> Image:
    """Draw one dot on the nuclear envelope, two once a bud is there."""
    turn = np.array([cell.pole + cell.angle + rng.normal(0, 0.4)])
    if cell.bud is not None or rng.random() < 0.15:
        turn = np.append(turn, turn[0] + rng.uniform(1.2, np.pi))
    spots = _spots(cell, cell.on_envelope(turn), rng.uniform(1.6, 2.8), 0.13)
    light: Image = spots + 0.08 * cell.nucleoplasm
    return light + 0.12 * cell.cytoplasm


def peroxisome(cell: Anatomy, rng: np.random.Generator) -> Image:
    """Draw sharp dots of even brightness, near the cortex."""
    room = _cytosolic(cell, 0.25) & (cell.depth < 1.2 * cell.um)
    at = _scatter(cell, room, int(rng.integers(3, 9)), rng)
    return _spots(cell, at, rng.uniform(1.3, 1.9, len(at)), SPOT_WIDTH_UM) + 0.08 * cell.cytoplasm


def vacuolar_membrane(cell: Anatomy, rng: np.random.Generator) -> Image:
    """Draw rings around the vacuoles, brighter where two of them meet."""
    width = MEMBRANE_WIDTH_UM * cell.um
    ring: Image = np.add.reduce([_membrane(depth, width) for depth in cell.vacuole_depths])
    haze = np.float32(rng.uniform(0.05, 0.15))
    return 1.2 * ring + haze * (cell.cytoplasm + cell.lumen)


def vacuole(cell: Anatomy, rng: np.random.Generator) -> Image:
    """Fill the inside of the vacuoles."""
    return 0.9 * cell.lumen + np.float32(rng.uniform(0.06, 0.16)) * cell.cytoplasm


PATTERNS: dict[str, Callable[[Anatomy, np.random.Generator], Image]] = {
    "actin": actin,
    "bud neck": bud_neck,
    "cell periphery": cell_periphery,
    "cytoplasm": cytoplasm,
    "endosome": endosome,
    "ER": er,
    "Golgi": golgi,
    "mitochondrion": mitochondrion,
    "nucleus": nucleus,
    "nuclear periphery": nuclear_periphery,
    "nucleolus": nucleolus,
    "spindle pole": spindle_pole,
    "peroxisome": peroxisome,
    "vacuolar membrane": vacuolar_membrane,
    "vacuole": vacuole,
}
"""Name to drawing, in the published order; the light is about 1 where it is brightest."""
