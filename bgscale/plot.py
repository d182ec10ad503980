"""Figures from a results tree alone; each returns a matplotlib figure, and shows nothing itself."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr
from matplotlib import colormaps
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from bgscale.accuracy import Aggregate, table
from bgscale.errors import InputError, nearest
from bgscale.quality import SATURATED_SHARE, Flag
from bgscale.schema import CENTRE_CELL, Missing
from bgscale.summary import node

LABEL_GAP = 0.012
"""Accuracies nearer than this are not both labelled."""
LONGEST_COLUMN = 8
"""Classes beyond which a montage is set in two columns."""
COLOURS = {
    "same": "#0072b2",
    "different": "#d55e00",
    "cell_free": "#009e73",
    "masked": "#666666",
    "self_swap": "#56b4e9",
    "background_only": "#cc79a7",
    "medium_only": "#e69f00",
    "masked_mean": "#999999",
}
"""Okabe and Ito's colours, which the colour-blind can tell apart."""
BY_CHANNEL = ("focus", "saturated", "medium")
PLATE_VARIABLES = (
    "cells", "usable_cells", "fields", "failed_fields", "area_median", *BY_CHANNEL
)  # fmt: skip
BAR_INCHES = 0.75
MARK_COLOUR = "#d55e00"
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


def settings(tree: xr.DataTree, *, channel: str = "protein", example: int = 0) -> Figure:
    """Show one cell of each class under every setting.

    Parameters
    ----------
    tree : DataTree
        Of `open_results`.
    channel : str
        Role of the channel shown.
    example : int
        Which of the sampled cells of each class.

    Returns
    -------
    matplotlib.figure.Figure
        A row a class; the grey scale of a row is that of the crop as imaged, so that a seam of
        scale would be seen. The outline is the centre cell.
    """
    sample = tree["sample"].to_dataset()
    names, classes = sample["setting"].to_numpy(), sample["localization"].to_numpy()
    image = sample["image"].sel(channel=channel).isel(example=example).to_numpy()
    masks = sample["mask"].isel(example=example).to_numpy() == CENTRE_CELL
    missing = sample["missing"].isel(example=example).to_numpy()
    half = -(-len(classes) // 2) if len(classes) > LONGEST_COLUMN else len(classes)
    blocks = -(-len(classes) // half)
    size = 1.0 * len(names) * blocks + 1.3 * blocks, 1.0 * half + 0.3
    figure = Figure(figsize=size, dpi=150)
    original = list(names).index("original")
    for k, name in enumerate(classes):
        block, row = divmod(k, half)
        low, high = np.percentile(image[k, original], [0.5, 99.7])
        for s, setting in enumerate(names):
            left = (block * (len(names) + 1.3) + 1.3 + s) / size[0]
            bottom = (half - row - 1) / size[1]
            axis = figure.add_axes((left, bottom, 0.97 / size[0], 0.97 / size[1]))
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
            if missing[k, s] != Missing.PRESENT:
                reason = Missing(int(missing[k, s])).name.lower().replace("_", " ")
                axis.text(0.5, 0.5, reason, ha="center", va="center", fontsize=6)
            else:
                axis.imshow(image[k, s], cmap="gray", vmin=low, vmax=high, interpolation="nearest")
                axis.contour(masks[k], levels=[0.5], colors="#ffcc00", linewidths=0.5)
            if row == 0:
                axis.set_title(setting.replace("_", " "), fontsize=8, pad=3)
            if s == 0:
                axis.set_ylabel(
                    name.replace(" ", "\n"), rotation=0, ha="right", va="center", fontsize=8
                )
    return figure


def accuracy(tree: xr.DataTree, *, model: str, aggregate: Aggregate = "symmetric") -> Figure:
    """Plot accuracy with modified background against accuracy with the original, per class.

    Parameters
    ----------
    tree : DataTree
    model : str
    aggregate : {"symmetric", "published"}

    Returns
    -------
    matplotlib.figure.Figure
        The paper's Figure 2: below the diagonal the modified background did harm.
    """
    rows = table(node(tree, "evaluation", model), aggregate=aggregate)["localization_mean"]
    shown = [s for s in ("same", "different", "cell_free", "masked") if s in rows["setting"]]
    original = rows.sel(setting="original").to_numpy()
    figure = Figure(figsize=(5.2, 4.6), dpi=150, layout="constrained")
    axis = figure.subplots()
    values = [rows.sel(setting=s).to_numpy() for s in shown]
    finite = np.concatenate([original, *values])
    finite = finite[np.isfinite(finite)]
    low = np.floor(20 * finite.min(initial=0.9)) / 20 - 0.01
    axis.plot([low, 1.005], [low, 1.005], color="#bbbbbb", linewidth=0.8, zorder=0)
    for name, y in zip(shown, values, strict=True):
        axis.scatter(
            original, y, s=18, color=COLOURS[name], label=name.replace("_", " "), alpha=0.9
        )
    if "different" in shown:
        _label_worst(
            axis, rows["localization"].to_numpy(), original, values[shown.index("different")]
        )
    axis.set(
        xlim=(low, 1.005),
        ylim=(low, 1.005),
        aspect="equal",
        xlabel="accuracy with original background",
        ylabel="accuracy with modified background",
        title=f"{model}: each point is a class",
    )
    axis.legend(frameon=False, fontsize=8, loc="upper left")
    axis.spines[["top", "right"]].set_visible(False)
    return figure


def _label_worst(
    axis: Any, names: npt.NDArray[Any], x: npt.NDArray[Any], y: npt.NDArray[Any], count: int = 3
) -> None:
    """Name the classes that lose most."""
    named: list[float] = []
    for k in np.argsort(y - x):
        # names of points at one height would be set on top of each other
        crowded = any(abs(y[k] - other) < LABEL_GAP for other in named)
        if len(named) < count and np.isfinite(y[k]) and not crowded:
            named.append(float(y[k]))
            axis.annotate(
                names[k],
                (x[k], y[k]),
                xytext=(-6, -3),
                textcoords="offset points",
                ha="right",
                fontsize=7,
            )


def quality(
    dataset: xr.Dataset, *, variable: str | Sequence[str] = "cells", channel: str | None = None
) -> Figure:
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
    matplotlib.figure.Figure
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
    wide, high = max(columns * pitch, 1.2) + 0.4, max(rows * pitch, 1.2) + 0.55
    several = len(variables) > 1
    across = len(variables) if several else min(len(plates), max(1, int(15 / wide)))
    down = len(plates) if several else -(-len(plates) // across)
    size = across * wide + BAR_INCHES * len(variables), down * high + 0.4
    figure = Figure(figsize=size, dpi=150, layout="constrained")
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
            Line2D([], [], linestyle="", marker=FLAG_MARKS[f], color=MARK_COLOUR, label=f.text)
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
    return figure


def _plate(
    axis: Any, one: xr.Dataset, values: npt.NDArray[Any], limits: tuple[float, float], pitch: float
) -> Any:
    """Draw one plate; return what the colour bar needs."""
    rows, columns = values.shape
    # white is kept for what has no value
    colours = ListedColormap(colormaps["Blues"](np.linspace(0.12, 1, 256)))
    drawn = axis.imshow(values, cmap=colours, vmin=limits[0], vmax=limits[1], aspect="equal")
    axis.set_xticks(np.arange(columns + 1) - 0.5, minor=True)
    axis.set_yticks(np.arange(rows + 1) - 0.5, minor=True)
    axis.grid(which="minor", color="white", linewidth=8 * pitch)
    axis.tick_params(which="both", length=0, labelsize=7, pad=2)
    every = 1 if pitch > 0.25 else 2
    axis.set_xticks(range(0, columns, every), one["column"].to_numpy()[::every])
    axis.set_yticks(range(rows), one["row"].to_numpy())
    axis.xaxis.tick_top()
    axis.set_title(str(one["plate"].item()), fontsize=9)
    axis.spines[:].set_visible(False)
    flags = one["flag"].to_numpy()
    area = (72 * pitch) ** 2
    for flag in Flag:
        y, x = np.nonzero(flags == flag)
        if flag.is_odd:
            frame = {"marker": "s", "facecolors": "none", "edgecolors": MARK_COLOUR}
            axis.scatter(x, y, s=0.72 * area, linewidths=1.2, **frame)
            axis.scatter(x, y, s=0.15 * area, marker=FLAG_MARKS[flag], color=MARK_COLOUR)
        elif flag is Flag.NO_WELL:
            axis.scatter(x, y, s=0.02 * area, marker=".", color="#bbbbbb")
    return drawn


def save(figure: Figure, path: str | Path) -> Path:
    """Write a figure; the format is that of the file name."""
    path = Path(path)
    figure.savefig(path)
    return path
