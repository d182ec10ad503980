"""Where the cells of a simulated field lie, and the anatomy of each: the geometry, without light.

This module owns placement, shape and labels. What a protein looks like in a cell is in
`localizations`; light, optics and camera are in `field`. The one idea: cells are laid down one
after another, most of them touching one that is there, which is how a colony looks on the bottom of
a well; where outlines meet, a pixel goes to the cell it lies deeper in.

What is a cell: a bud of up to `BUD_LIMIT` of its mother's diameter is part of the mother; a larger
one has left her and is a cell of its own, as a daughter beside her mother.
"""

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from bgscale.simulate.localizations import Anatomy

CELL_DIAMETER_UM = 5.2
WALL_UM = 0.3
"""The membrane lies this far inside the outline that a mask shows: cell wall and blur."""
BUD_LIMIT = 0.6
BUDDED, DAUGHTERS, ALONE = 0.35, 0.25, 0.22
"""Shares of cells with a bud, of small cells beside another, of cells that start a cluster."""
ATTEMPTS = 60
"""Per cell: where a place is not found in so many draws, the field stays emptier."""

Circle: TypeAlias = tuple[float, float, float]
"""y, x, radius in pixels."""


@dataclass(frozen=True)
class Colony:
    """The cells of one field.

    Parameters
    ----------
    labels : array (y, x), int32
        The field with a margin of one patch at each side; cell i has label i + 1.
    cells : list of Anatomy
    corners : array (cell, 2), int64
        First row and column of each cell's patch in `labels`.
    own : array (cell, patch_y, patch_x), bool
        Pixels of the patch that carry the cell's label.
    """

    labels: npt.NDArray[np.int32]
    cells: list[Anatomy]
    corners: npt.NDArray[np.int64]
    own: npt.NDArray[np.bool_]

    @property
    def patch_px(self) -> int:
        """Side of a patch, and width of the margin."""
        return int(self.own.shape[-1])


@dataclass(frozen=True)
class _Outline:
    """A cell before its inside is drawn: ellipse of the mother, and bud, label included."""

    centre: tuple[float, float]
    axes: tuple[float, float]
    angle: float
    pole: float
    bud: Circle | None

    def circles(self) -> list[Circle]:
        mother = (*self.centre, float(np.sqrt(self.axes[0] * self.axes[1])))
        return [mother] if self.bud is None else [mother, self.bud]

    def bounds(self) -> tuple[npt.NDArray[np.float64], float]:
        """Return middle (y, x) and half the side of a square that holds the cell."""
        circles = np.array([(*self.centre, self.axes[0]), self.bud or (*self.centre, 0.0)])
        low = (circles[:, :2] - circles[:, 2:]).min(axis=0)
        high = (circles[:, :2] + circles[:, 2:]).max(axis=0)
        return (low + high) / 2, float((high - low).max()) / 2


def grow(count: int, size_px: int, um: float, rng: np.random.Generator) -> Colony:
    """Lay down cells until `count` of them have their centre in a field.

    Parameters
    ----------
    count : int
    size_px : int
        Side of the field.
    um : float
        Pixels per micrometre.
    rng : Generator
    """
    outlines = _place(count, size_px, um, rng)
    bounds = [outline.bounds() for outline in outlines]
    half = int(np.ceil(max(reach for _, reach in bounds))) + 2
    labels = np.zeros((size_px + 4 * half,) * 2, np.int32)
    deepest = np.full(labels.shape, -WALL_UM * um, np.float32)
    corners = np.array([np.floor(middle).astype(int) + half for middle, _ in bounds])
    cells = []
    for number, (outline, (middle, _)) in enumerate(zip(outlines, bounds, strict=True)):
        grid = np.arange(2 * half) - half
        y = (grid + np.floor(middle[0]) - middle[0]).astype(np.float32)[:, None]
        x = (grid + np.floor(middle[1]) - middle[1]).astype(np.float32)[None]
        cell = _anatomy(outline, middle, y, x, um, rng)
        cells.append(cell)
        window = _window(corners[number], 2 * half)
        deeper = cell.depth > deepest[window]
        deepest[window][deeper] = cell.depth[deeper]
        labels[window][deeper] = number + 1
    own = np.stack([labels[_window(c, 2 * half)] == i + 1 for i, c in enumerate(corners)])
    return Colony(labels, cells, corners, own)


def _window(corner: npt.NDArray[np.int64], side: int) -> tuple[slice, slice]:
    return (slice(corner[0], corner[0] + side), slice(corner[1], corner[1] + side))


def _place(count: int, size_px: int, um: float, rng: np.random.Generator) -> list[_Outline]:
    radius = CELL_DIAMETER_UM / 2 * um
    taken = np.empty((0, 3))
    outlines: list[_Outline] = []
    inside = 0
    for _ in range(ATTEMPTS * count):
        small = rng.random() < DAUGHTERS
        own = radius * np.exp(0.13 * rng.standard_normal())
        own *= rng.uniform(BUD_LIMIT, 0.85) if small else 1.0
        if len(taken) == 0 or (rng.random() < ALONE and not small):
            y, x = rng.uniform(-radius, size_px + radius, 2)
        else:
            beside = taken[rng.integers(len(taken))]
            way = rng.uniform(0, 2 * np.pi)
            apart = (beside[2] + own) * rng.uniform(0.97, 1.12)
            y, x = beside[:2] + apart * np.array([np.sin(way), np.cos(way)])
        if not -radius <= min(y, x) <= max(y, x) <= size_px + radius:
            continue
        outline = _outline((float(y), float(x)), own, rng, budded=not small)
        circles = np.array(outline.circles())
        gap = np.hypot(*(circles[:, None, :2] - taken[None, :, :2]).T).T
        if np.any(gap < 0.95 * (circles[:, None, 2] + taken[None, :, 2])):
            continue
        taken = np.concatenate([taken, circles])
        outlines.append(outline)
        inside += bool(min(y, x) >= 0 and max(y, x) < size_px)
        if inside == count:
            break
    return outlines


def _outline(
    centre: tuple[float, float], radius: float, rng: np.random.Generator, *, budded: bool
) -> _Outline:
    stretch = np.sqrt(rng.uniform(1.0, 1.3))
    axes = (radius * stretch, radius / stretch)
    angle, pole = rng.uniform(0, np.pi), rng.uniform(0, 2 * np.pi)
    bud = None
    if budded and rng.random() < BUDDED / (1 - DAUGHTERS):
        size = radius * rng.uniform(0.3, BUD_LIMIT)
        out = np.array([np.sin(pole + angle), np.cos(pole + angle)])
        edge = radius * np.hypot(np.cos(pole) * stretch, np.sin(pole) / stretch)
        y, x = np.array(centre) + (edge + 0.75 * size) * out
        bud = (float(y), float(x), float(size))
    return _Outline(centre, axes, angle, pole, bud)


def _anatomy(
    outline: _Outline,
    middle: npt.NDArray[np.float64],
    y: npt.NDArray[np.float32],
    x: npt.NDArray[np.float32],
    um: float,
    rng: np.random.Generator,
) -> Anatomy:
    """Draw what is inside an outline; coordinates are from the middle of the patch."""
    wall = WALL_UM * um
    cy, cx = np.array(outline.centre) - middle
    long, short = (axis - wall for axis in outline.axes)
    cos, sin = np.float32(np.cos(outline.angle)), np.float32(np.sin(outline.angle))
    dy, dx = y - np.float32(cy), x - np.float32(cx)
    along, across = dy * sin + dx * cos, dy * cos - dx * sin
    radius = float(np.sqrt(long * short))
    outside = np.hypot(along / np.float32(long), across / np.float32(short))
    depth = np.float32(radius) * (1 - outside)
    bud = None
    if outline.bud is not None:
        by, bx = np.array(outline.bud[:2]) - middle
        # A small bud keeps its wall thinner, so that some of it is inside.
        size = max(outline.bud[2] - wall, 0.6 * outline.bud[2])
        bud = (float(by), float(bx), float(size))
        depth = np.maximum(depth, np.float32(size) - np.hypot(y - bud[0], x - bud[1]))
    unfilled = Anatomy(
        y, x, depth.astype(np.float32), (float(cy), float(cx)), (long, short), outline.angle,
        outline.pole, bud, (0.0, 0.0, 0.0), np.empty((0, 3)), um,
    )  # fmt: skip
    # In a budding cell the nucleus moves to the neck; the vacuole takes the other side.
    side = outline.pole + rng.normal(0, 0.5) if bud else rng.uniform(0, 2 * np.pi)
    size = radius * rng.uniform(0.34, 0.42)
    ny, nx = unfilled.shell(side, rng.uniform(0.2, 0.5))
    vacuoles = []
    lobes = int(rng.choice([1, 2, 3], p=[0.55, 0.3, 0.15]))
    for lobe in range(lobes):
        share = rng.uniform(0.32, 0.6) if lobes == 1 else rng.uniform(0.22, 0.36)
        spread = (lobe - (lobes - 1) / 2) * 1.5 + rng.normal(0, 0.2)
        vy, vx = unfilled.shell(side + np.pi + spread, (0.86 - share) * rng.uniform(0.75, 1.0))
        vacuoles.append((vy, vx, share * radius))
    return Anatomy(
        y, x, unfilled.depth, unfilled.centre, unfilled.axes, unfilled.angle, unfilled.pole, bud,
        (float(ny), float(nx), float(size)), np.array(vacuoles), um,
    )  # fmt: skip
