"""Figures from a results tree alone; each returns a matplotlib figure, and shows nothing itself."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr
from matplotlib.figure import Figure

from bgscale.accuracy import Aggregate, table
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


def save(figure: Figure, path: str | Path) -> Path:
    """Write a figure; the format is that of the file name."""
    path = Path(path)
    figure.savefig(path)
    return path
