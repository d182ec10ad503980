"""Plates as seen from above."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from bgscale.errors import InputError, nearest
from bgscale.plot.style import DPI, FAINT, VERMILLION, plain, styled
from bgscale.quality import SATURATED_SHARE, Flag

BY_CHANNEL = ("focus", "saturated", "medium")
PLATE_VARIABLES = (
    "cells", "usable_cells", "fields", "failed_fields", "area_median", *BY_CHANNEL
)  # fmt: skip
BAR_INCHES, LABEL_INCHES = 0.75, 1.75
MOST_INCHES, FINEST_INCHES, LETTER_INCHES = 9.0, 0.05, 0.12
"""Height of a plate at most; pitch below which wells are not apart; height of a row's name."""
FLAG_MARKS = {
    Flag.FAILED: "X",
    Flag.EMPTY: "o",
    Flag.OUT_OF_FOCUS: "D",
    Flag.SATURATED: "*",
    Flag.FEW_CELLS: "v",
    Flag.MANY_CELLS: "^",
    Flag.CELL_SIZE: "s",
    Flag.MEDIUM: "P",
    Flag.SOME_FAILED: "x",
}


@styled
def quality(
    dataset: xr.Dataset, *, variable: str | Sequence[str] = "cells", channel: str | None = None
) -> npt.NDArray[np.object_]:
    """Show plates as seen from above, with the wells to look at marked.

    Parameters
    ----------
    dataset : Dataset
        Of `bgscale.quality.summarise`.
    variable : str or sequence of str
        What the colour shows: "cells", "usable_cells", "failed_fields", "area_median", "focus",
        "saturated" or "medium".
    channel : str, optional
        Of the last three; by default the one that focus is judged by.

    Returns
    -------
    array of Axes
        A panel per plate and variable: plates side by side, or below each other where there are
        several variables. One colour scale per variable, from its 2nd to its 98th percentile over
        all plates. A flagged well has a frame and the mark of its flag; a place without a well has
        a grey dot.
    """
    variables = [variable] if isinstance(variable, str) else list(variable)
    channel = channel or dataset.attrs["focus_channel"]
    for name in variables:
        if name not in PLATE_VARIABLES:
            msg = f"no variable {name!r} to show{nearest(name, PLATE_VARIABLES)}; there are "
            raise InputError(msg + ", ".join(PLATE_VARIABLES))
    if channel not in dataset["channel"]:
        known = dataset["channel"].to_numpy().tolist()
        msg = f"no channel {channel!r}{nearest(channel, known)}; there are {', '.join(known)}"
        raise InputError(msg)
    plates = dataset["plate"].to_numpy()
    rows, columns = dataset.sizes["row"], dataset.sizes["column"]
    pitch = float(np.clip(5.0 / max(columns, 1.4 * rows), 0.2, 0.4))
    pitch = min(pitch, MOST_INCHES / rows)
    wide, high = max(columns * pitch, 1.2) + 0.4, rows * pitch + 0.55
    several = len(variables) > 1
    across = len(variables) if several else min(len(plates), max(1, int(15 / wide)))
    down = len(plates) if several else -(-len(plates) // across)
    # the scale's label has to fit beside the plates
    high = max(high, LABEL_INCHES / down)
    size = across * wide + BAR_INCHES * len(variables), down * high + 0.4
    figure = Figure(figsize=size, dpi=DPI, layout="constrained")
    axes = figure.subplots(down, across, squeeze=False)
    for v, name in enumerate(variables):
        panels = axes[:, v] if several else axes.ravel()
        values = dataset[name].sel(channel=channel) if name in BY_CHANNEL else dataset[name]
        block = values.transpose("plate", "row", "column").to_numpy()
        low, top = np.percentile(
            block[np.isfinite(block)] if np.isfinite(block).any() else 0, [2, 98]
        )
        top = max(top, low + 0.02 * abs(low), SATURATED_SHARE)
        for p, axis in enumerate(panels):
            if p < len(plates):
                drawn = _plate(axis, dataset.isel(plate=p), block[p], (low, top), pitch)
            else:
                axis.set_axis_off()
        label = values.attrs["long_name"] + (f", {channel}" if name in BY_CHANNEL else "")
        units = values.attrs["units"]
        bar = figure.colorbar(
            drawn,
            ax=list(panels),
            extend="both",
            extendfrac=0.1 / (down * high),
            pad=0.01,
            aspect=down * high / 0.15,
            fraction=0.05,
        )
        bar.set_label(label if units == "1" else f"{label} ({units})", fontsize=8)
        bar.ax.tick_params(labelsize=7)
        bar.outline.set_visible(False)
    marked = [f for f in Flag if f.is_odd and (dataset["flag"] == f).any()]
    if marked:
        handles = [
            Line2D([], [], linestyle="", marker=FLAG_MARKS[f], color=VERMILLION, label=f.text)
            for f in marked
        ]
        figure.legend(
            handles=handles,
            loc="outside lower center",
            ncols=min(len(marked), max(1, int(size[0] / 1.1))),
            frameon=False,
            fontsize=8,
            handletextpad=0.2,
        )
    return axes


def _plate(
    axis: Axes, one: xr.Dataset, values: npt.NDArray[Any], limits: tuple[float, float], pitch: float
) -> Any:
    """Draw one plate; return what the colour bar needs."""
    rows, columns = values.shape
    # white is kept for what has no value
    colours = ListedColormap(colormaps["Blues"](np.linspace(0.12, 1, 256)))
    drawn = axis.imshow(values, cmap=colours, vmin=limits[0], vmax=limits[1])
    fine = pitch < FINEST_INCHES
    axis.set_aspect("auto" if fine else "equal")
    if not fine:
        axis.set_xticks(np.arange(columns + 1) - 0.5, minor=True)
        axis.set_yticks(np.arange(rows + 1) - 0.5, minor=True)
        axis.grid(which="minor", color="white", linewidth=8 * pitch)
    axis.tick_params(which="both", length=0, labelsize=7, pad=2)
    across = (1 if pitch > 0.25 else 2) if columns * pitch > 1.2 else -(-columns // 5)
    axis.set_xticks(range(0, columns, across), one["column"].to_numpy()[::across])
    down = max(1, int(np.ceil(LETTER_INCHES / pitch)))
    axis.set_yticks(range(0, rows, down), one["row"].to_numpy()[::down])
    axis.xaxis.tick_top()
    axis.set_title(plain(one["plate"].item()), fontsize=7)
    axis.spines[:].set_visible(False)
    flags = one["flag"].to_numpy()
    area = (72 * pitch) ** 2
    for flag in Flag:
        y, x = np.nonzero(flags == flag)
        if flag.is_odd:
            frame: dict[str, Any] = {"marker": "s", "facecolors": "none", "edgecolors": VERMILLION}
            axis.scatter(x, y, s=0.72 * area, linewidths=1.2, **frame)
            axis.scatter(x, y, s=0.15 * area, marker=FLAG_MARKS[flag], color=VERMILLION)
        elif flag is Flag.NO_WELL:
            axis.scatter(x, y, s=0.02 * area, marker=".", color=FAINT)
    return drawn
