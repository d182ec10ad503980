"""Names beside points, none set on another name or point.

The one idea: a name takes the first place around its point that is free and inside the axes; where
none is, it is left out.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes

from bgscale.plot.style import QUIET, figure_of, plain

NEAR_POINTS, FAR_POINTS = (4.0,), (11.0, 18.0, 26.0)
"""Distances of a name from its point; farther ones get a line to it."""
DIRECTIONS = (
    (-1.0, 0.0), (1.0, 0.0), (0.0, -1.0), (0.0, 1.0),
    (-0.7, -0.7), (0.7, -0.7), (-0.7, 0.7), (0.7, 0.7),
)  # fmt: skip
POINT_RADIUS = 2.4


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

    def holds(self, points: npt.NDArray[np.float64], margin: float) -> bool:
        x, y = points.T
        inside = (x > self.left - margin) & (x < self.right + margin)
        return bool((inside & (y > self.bottom - margin) & (y < self.top + margin)).any())


def place(
    ax: Axes, labels: Sequence[Label], points: npt.NDArray[np.float64], *, size: float = 6.0
) -> list[str]:
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
    frame = ax.get_window_extent()
    bounds = _Box(frame.x0, frame.y0, frame.x1, frame.y1)
    legend = ax.get_legend()
    taken = [] if legend is None else [_box_of(legend.get_window_extent())]
    named = []
    for label in labels:
        width, height = _extent(ax, label.name, size)
        x, y = ax.transData.transform((label.x, label.y))
        spot = _free(x, y, width, height, pixel, bounds, taken, there)
        if spot is None:
            continue
        dx, dy, far = spot
        taken.append(_Box(x + dx - width / 2, y + dy - height / 2,
                          x + dx + width / 2, y + dy + height / 2))  # fmt: skip
        line = {"arrowstyle": "-", "linewidth": 0.4, "color": QUIET, "shrinkA": 0, "shrinkB": 1.5}
        note = ax.annotate(
            plain(label.name), (label.x, label.y), xytext=(dx / pixel, dy / pixel),
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


def _box_of(box: "object") -> _Box:
    return _Box(*(float(v) for v in np.asarray(box).ravel()))


def _free(
    x: float, y: float, width: float, height: float, pixel: float, bounds: _Box,
    taken: Sequence[_Box], points: npt.NDArray[np.float64],
) -> tuple[float, float, bool] | None:  # fmt: skip
    """Return the offset in pixels of the first free place, and whether it is far; or None."""
    for distance in (*NEAR_POINTS, *FAR_POINTS):
        for right, up in DIRECTIONS:
            dx = right * distance * pixel + np.sign(right) * width / 2
            dy = up * distance * pixel + np.sign(up) * height / 2
            box = _Box(x + dx - width / 2, y + dy - height / 2,
                       x + dx + width / 2, y + dy + height / 2)  # fmt: skip
            outside = (
                box.left < bounds.left or box.right > bounds.right
                or box.bottom < bounds.bottom or box.top > bounds.top
            )  # fmt: skip
            if outside or any(box.meets(other) for other in taken):
                continue
            if not box.holds(points, POINT_RADIUS * pixel):
                return float(dx), float(dy), distance in FAR_POINTS
    return None
