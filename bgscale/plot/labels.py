"""Names beside points, none set on another name or point.

The one idea: a name takes the first place around its point that is free and inside the axes; where
none is, it is left out.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.transforms import Bbox

from bgscale.plot.style import QUIET, figure_of, plain

Floats: TypeAlias = npt.NDArray[np.float64]

NEAR_POINTS, FAR_POINTS = (4.0,), (11.0, 18.0, 26.0)
"""Distances of a name from its point; farther ones get a line to it."""
DIRECTIONS = (
    (-1.0, 0.0), (1.0, 0.0), (0.0, -1.0), (0.0, 1.0),
    (-0.7, -0.7), (0.7, -0.7), (-0.7, 0.7), (0.7, 0.7),
)  # fmt: skip
POINT_RADIUS, CROWDED_POINTS, GAP_POINTS = 2.4, 3.5, 2.0


class Label(NamedTuple):
    """A name and the point it belongs to, in data coordinates."""

    name: str
    x: float
    y: float


class _Box(NamedTuple):
    left: float
    bottom: float
    right: float
    top: float

    def meets(self, other: "_Box") -> bool:
        return (
            self.left < other.right
            and other.left < self.right
            and self.bottom < other.top
            and other.bottom < self.top
        )

    def holds(self, points: Floats, margin: float) -> bool:
        x, y = points.T
        inside = (x > self.left - margin) & (x < self.right + margin)
        return bool((inside & (y > self.bottom - margin) & (y < self.top + margin)).any())


@dataclass
class _Room:
    """What is where in the axes, in pixels."""

    pixel: float
    bounds: _Box
    points: Floats
    names: list[_Box]
    lines: list[Floats]

    def take(self, x: float, y: float, width: float, height: float) -> tuple[Floats, bool] | None:
        """Return the offset of the first free place, and whether it gets a line; None: is none."""
        near = np.hypot(*(self.points - [x, y]).T) < CROWDED_POINTS * self.pixel
        # beside a point among others it would not be clear whose name it is
        distances = FAR_POINTS if near.sum() > 1 else (*NEAR_POINTS, *FAR_POINTS)
        for distance in distances:
            for right, up in DIRECTIONS:
                away = np.array([right, up]) * distance * self.pixel
                offset = away + np.sign([right, up]) * [width / 2, height / 2]
                left, bottom = x + offset[0] - width / 2, y + offset[1] - height / 2
                box = _Box(left, bottom, left + width, bottom + height)
                far = distance in FAR_POINTS
                line = _line(np.array([x, y]), offset, height)
                if self._is_free(box) and not (far and self._crosses(line)):
                    gap = GAP_POINTS * self.pixel
                    self.names.append(box._replace(left=box.left - gap, right=box.right + gap))
                    self.lines += [line] if far else []
                    return offset, far
        return None

    def _is_free(self, box: _Box) -> bool:
        return (
            box.left >= self.bounds.left
            and box.right <= self.bounds.right
            and box.bottom >= self.bounds.bottom
            and box.top <= self.bounds.top
            and not any(box.meets(other) for other in self.names)
            and not any(box.holds(line, self.pixel) for line in self.lines)
            and not box.holds(self.points, POINT_RADIUS * self.pixel)
        )

    def _crosses(self, line: Floats) -> bool:
        return any(other.holds(line, self.pixel) for other in self.names)


def _line(start: Floats, offset: Floats, height: float) -> Floats:
    """Return pixels on the line from a point to its name."""
    length = max(float(np.hypot(*offset)), 1e-9)
    along: Floats = np.linspace(0, max(length - height, 0) / length, 24)[:, None]
    return start + along * offset


def place(ax: Axes, labels: Sequence[Label], points: Floats, *, size: float = 6.0) -> list[str]:
    """Name points; return the names for which there was a place.

    Parameters
    ----------
    ax : Axes
        With everything else on it and its limits final.
    labels : sequence of Label
        The most important first.
    points : array (point, 2), float64
        All points that a name must not cover, in data coordinates.
    size : float
        Of the letters, points.
    """
    figure = figure_of(ax)
    figure.draw_without_rendering()  # places are in pixels: the layout must be done
    pixel = figure.dpi / 72
    there = ax.transData.transform(points[np.isfinite(points).all(1)])
    legend = ax.get_legend()
    taken = [] if legend is None else [_box(legend.get_window_extent())]
    room = _Room(pixel, _box(ax.get_window_extent()), there, taken, [])
    named = []
    for label in labels:
        width, height = _extent(ax, label.name, size)
        x, y = ax.transData.transform((label.x, label.y))
        found = room.take(x, y, width, height)
        if found is None:
            continue
        offset, far = found
        line = {"arrowstyle": "-", "linewidth": 0.4, "color": QUIET, "shrinkA": 0, "shrinkB": 1.5}
        note = ax.annotate(
            plain(label.name), (label.x, label.y), xytext=tuple(offset / pixel),
            textcoords="offset points", ha="center", va="center", fontsize=size,
            arrowprops=line if far else None, annotation_clip=False,
        )  # fmt: skip
        note.set_in_layout(False)
        named.append(label.name)
    return named


def _extent(ax: Axes, name: str, size: float) -> tuple[float, float]:
    """Return width and height of a name in pixels."""
    text = ax.text(0, 0, plain(name), fontsize=size)
    box = text.get_window_extent()
    text.remove()
    return box.width, box.height


def _box(extent: Bbox) -> _Box:
    return _Box(extent.x0, extent.y0, extent.x1, extent.y1)
