"""Whether the softmax can be believed."""

import xarray as xr
from matplotlib.axes import Axes

from bgscale.plot.chosen import finite, pick, read
from bgscale.plot.style import (
    FAINT,
    colour,
    panel,
    points_with_bars,
    spoken,
    styled,
    warn_of_random,
)
from bgscale.proportions import TOP

HIGHEST_BAR = 0.16
"""Of the axes, that of the bin with most cells."""


@styled
def reliability(
    tree: xr.DataTree,
    *,
    model: str,
    fit: str = "fixed",
    setting: str = "original",
    ax: Axes | None = None,
) -> Axes:
    """Plot what share of the cells are what the softmax says they are.

    Parameters
    ----------
    tree : DataTree
        Of `open_results`.
    model : str
    fit : {"fixed", "matched"}
    setting : str
    ax : Axes, optional
        Drawn on these; by default on those of a new figure, 89 mm wide.

    Returns
    -------
    Axes
        Of cells of proteins with one localization, scored out of fold: by the softmax of the
        localization that a cell is given most of, the share for which it is the right one, with 95%
        intervals over proteins. Bars at the bottom are the cells of each bin. On the diagonal the
        softmax is right as often as it says.

    Raises
    ------
    InputError
        There is no such model, fit or setting, or its reliability is not done yet.
    """
    names = (
        "observed", "observed_low", "observed_high", "confidence", "n_cells",
        "calibration_error", "calibration_error_low", "calibration_error_high",
    )  # fmt: skip
    found = pick(read(tree, "reliability", model, names), fit=fit, setting=setting, label=TOP)
    finite(found["observed"].to_numpy(), f"reliability of {model!r} under {setting!r}")
    ax = panel(ax, height_mm=80)
    ax.plot([0, 1], [0, 1], color=FAINT, linewidth=0.6, zorder=0)
    cells = found["n_cells"].to_numpy()
    edges = found["bin"].to_numpy()
    width = 1 / len(edges)
    ax.bar(edges, HIGHEST_BAR * cells / cells.max(), width, align="edge", color="#dcdcdc",
           edgecolor="white", linewidth=0.5, zorder=1)  # fmt: skip
    most = int(cells.argmax())
    ax.text(edges[most] + width / 2, HIGHEST_BAR + 0.012, f"{cells[most]:,}", ha="center",
            va="bottom", fontsize=6, color="#666666")  # fmt: skip
    confidence = found["confidence"].to_numpy()
    ax.plot(confidence, found["observed"], color=colour(setting), linewidth=0.6, alpha=0.5)
    points_with_bars(
        ax,
        found["observed"].to_numpy(),
        confidence,
        found["observed_low"].to_numpy(),
        found["observed_high"].to_numpy(),
        ink=colour(setting),
        upright=True,
    )
    error, low, high = (float(found[f"calibration_error{end}"]) for end in ("", "_low", "_high"))
    ax.text(0.03, 0.97, f"calibration error {error:.3f}\n[{low:.3f}, {high:.3f}]", va="top")
    ax.set(
        xlim=(0, 1),
        ylim=(0, 1),
        aspect="equal",
        xlabel=f"softmax, {spoken(setting)} (n = {int(cells.sum()):,} cells)",
        ylabel="share of cells told right, 95% interval",
    )
    warn_of_random(ax, found.attrs)
    return ax
