"""Models side by side: accuracies of all of them, and how far two of them move the same proteins.

Owns what is drawn of a comparison, and computes none of it: that is `bgscale.comparison`'s.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import xarray as xr
from matplotlib.axes import Axes

from bgscale.errors import InputError
from bgscale.plot.chosen import changed_settings, known, read
from bgscale.plot.labels import Label, place
from bgscale.plot.style import (
    BLUE,
    FAINT,
    GREEN,
    INK,
    ORANGE,
    PURPLE,
    QUIET,
    RANDOM,
    SKY,
    VERMILLION,
    broken,
    legend_above,
    name_rows,
    panel,
    points_with_bars,
    spoken,
    styled,
    warn_of_random,
)
from bgscale.rows import GROUPED
from bgscale.shifted import shifted

COMPARED = {"accuracy": "setting", "difference": "contrast"}
"""What may be shown of a comparison, and over what."""
METRICS = {"kl": "KL(original || {}), nats", "total_variation": "total variation, original to {}"}
OF_MODELS = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY, INK)
"""Colours of models in their order; of more than seven they begin again."""
POINT_MM, LEAST_ROW_MM, FILLED = 1.9, 7.0, 0.76
"""Room of a point in a row; of a row; the part of a row that points fill."""
LEGEND_LETTERS = 30
FEW = 300
"""Proteins up to which points are opaque."""
NAMED = 12
FLOOR = 1e-4
"""Nats below which a KL is drawn at the edge: on a log scale nothing else would be seen."""


@styled
def comparison(found: xr.Dataset, *, variable: str = "accuracy", ax: Axes | None = None) -> Axes:
    """Plot accuracies of several models, or how much each loses to a background, side by side.

    Parameters
    ----------
    found : Dataset
        Of `bgscale.comparison.compare`.
    variable : {"accuracy", "difference"}
        Accuracy under each setting; or differences between settings, such as `same - different`.
    ax : Axes, optional
        Drawn on these; by default on those of a new figure, 89 mm wide.

    Returns
    -------
    Axes
        A row a setting or contrast, in it a point a model in the order of the comparison, with its
        95% interval: filled with the published folds, open with folds that hold out all cells of a
        protein (or well, or field) together, where all models have them.

    Raises
    ------
    InputError
        There is no such variable, or no value of it.
    """
    known("variable to compare", variable, COMPARED)
    dim = COMPARED[variable]
    rows, models = found[dim].to_numpy(), found["model"].to_numpy()
    prefixes = ("", *((GROUPED,) if f"{GROUPED}{variable}" in found else ()))
    if not any(np.isfinite(found[prefix + variable]).any() for prefix in prefixes):
        msg = f"the models have no {variable} to show, of {', '.join(map(str, models))}"
        raise InputError(msg)
    count = len(models) * len(prefixes)
    ax = panel(ax, height_mm=16 + 3 * len(models) + len(rows) * max(LEAST_ROW_MM, POINT_MM * count))
    if variable == "difference":
        ax.axvline(0, color=FAINT, linewidth=0.6, zorder=0)
    offsets = FILLED * ((np.arange(count) + 0.5) / count - 0.5)
    for m, name in enumerate(models):
        ink = of_model(m)
        for k, prefix in enumerate(prefixes):
            ends = ("", "_low", "_high")
            value, low, high = (
                found[f"{prefix}{variable}{end}"].sel(model=name).to_numpy() for end in ends
            )
            row = np.arange(len(rows)) + offsets[m * len(prefixes) + k]
            points_with_bars(ax, value, row, low, high, ink=ink, filled=not prefix)
        label = f"{name} ({RANDOM})" if bool(found["random_weights"].sel(model=name)) else name
        _key(ax, ink, broken(label, LEGEND_LETTERS))
    if len(prefixes) > 1:
        _key(ax, QUIET, "published folds")
        _key(ax, QUIET, spoken(found.attrs["grouped"]), filled=False)
    name_rows(ax, [spoken(row).replace(" - ", " − ") for row in rows])
    for line in range(1, len(rows)):
        ax.axhline(line - 0.5, color="#e5e5e5", linewidth=0.5, zorder=0)
    what = "mean accuracy" if variable == "accuracy" else "difference of accuracy"
    ax.set_xlabel(f"{what}, 95% interval (n = {found.attrs['localizations']} classes)")
    legend_above(ax, 2 if len(prefixes) > 1 else 1)
    return ax


@styled
def shift_comparison(
    tree: xr.DataTree,
    *,
    models: Sequence[str],
    setting: str = "different",
    fit: str = "fixed",
    metric: str = "kl",
    ax: Axes | None = None,
) -> Axes:
    """Plot how far each protein shifts by one model against how far it does by another.

    Parameters
    ----------
    tree : DataTree
        Of `open_results`.
    models : sequence of two str
        Along x and along y.
    setting : str
    fit : {"fixed", "matched"}
    metric : {"kl", "total_variation"}
    ax : Axes, optional
        Drawn on these; by default on those of a new figure, 89 mm wide.

    Returns
    -------
    Axes
        A point a protein that is tested for both, on log scales for KL; below the line the second
        model moves it less. Coloured are those that are significantly and substantially shifted,
        by which of the two; those that move farthest are named as far as there is room.

    Raises
    ------
    InputError
        Not two models; there is no such model, setting, fit or metric; or no protein was tested
        for both.
    """
    known("metric of shifts", metric, METRICS)
    if len(models) != 2:
        msg = f"expected two models to draw against each other, got {', '.join(models) or 'none'}"
        raise InputError(msg)
    frames, random = [], False
    for model in models:
        node = read(tree, "shifts", model, ("kl",))
        known("setting to compare with original", setting, changed_settings(node))
        random |= bool(node.attrs.get("random_weights"))
        frame = shifted(tree, model, setting=setting, fit=fit)
        frames.append(frame[frame["p"].notna()])
    names = frames[0].index.intersection(frames[1].index)
    if names.empty:
        msg = f"no protein was tested under {setting!r} for both {' and '.join(models)}"
        raise InputError(msg)
    one, other = (frame.loc[names] for frame in frames)
    x, y = (frame[metric].to_numpy(float) for frame in (one, other))
    if metric == "kl":
        x, y = np.maximum(x, FLOOR), np.maximum(y, FLOOR)
    sure = [(f["significant"] & f["substantial"]).to_numpy(bool) for f in (one, other)]
    ax = panel(ax, height_mm=96)
    _against_each_other(ax, x, y, sure, [broken(model) for model in models])
    ax.set_aspect("equal")
    _limits(ax, np.concatenate([x, y]), is_log=metric == "kl")
    what = METRICS[metric].format(spoken(setting))
    ax.set_xlabel(f"{what}: {broken(models[0])}\n(n = {len(names):,} proteins)")
    ax.set_ylabel(f"{what}: {broken(models[1])}")
    _legend_of_four(ax)
    warn_of_random(ax, {"random_weights": random})
    surest = np.argsort(-np.maximum(x, y), kind="stable")
    labels = [Label(str(names[k]), x[k], y[k]) for k in surest if sure[0][k] or sure[1][k]]
    place(ax, labels[:NAMED], np.c_[x, y])
    return ax


def of_model(place_of: int) -> str:
    """Return the colour of a model, by its place among those that are compared."""
    return OF_MODELS[place_of % len(OF_MODELS)]


def _key(ax: Axes, ink: str, label: str, *, filled: bool = True) -> None:
    """Put a point into the legend."""
    face = ink if filled else "white"
    ax.plot([], [], "o", markersize=4, color=ink, markeredgewidth=0.9, markerfacecolor=face,
            label=label)  # fmt: skip


def _against_each_other(
    ax: Axes,
    x: npt.NDArray[np.float64],
    y: npt.NDArray[np.float64],
    sure: Sequence[npt.NDArray[np.bool_]],
    names: Sequence[str],
) -> None:
    """Draw the points by which of two models shifts them surely: by neither first, below."""
    first, second = sure
    for which, ink, title in (
        (~first & ~second, "#9a9a9a", "neither"),
        (first & second, PURPLE, "both"),
        (first & ~second, of_model(0), f"{names[0]} alone"),
        (~first & second, of_model(1), f"{names[1]} alone"),
    ):
        ax.plot(
            x[which], y[which], "o", markersize=2.8, color=ink, markeredgewidth=0,
            alpha=0.85 if len(x) <= FEW else 0.5, label=f"{title} ({which.sum():,})",
        )  # fmt: skip


def _limits(ax: Axes, values: npt.NDArray[np.float64], *, is_log: bool) -> None:
    """Give both axes the same limits, and draw the line of what is equal."""
    if is_log:
        ax.set(xscale="log", yscale="log")
        low, high = float(values.min()) / 1.6, float(values.max()) * 1.6
        for axis in (ax.xaxis, ax.yaxis):
            axis.set_major_formatter(lambda value, _: f"{value:g}")
            axis.set_minor_formatter(lambda *_: "")
    else:
        low, high = 0.0, 1.06 * max(float(values.max()), 0.05)
    ax.plot([low, high], [low, high], color=FAINT, linewidth=0.6, zorder=0)
    ax.set(xlim=(low, high), ylim=(low, high))


def _legend_of_four(ax: Axes) -> None:
    ax.legend(
        loc="lower right", bbox_to_anchor=(1, 1), ncols=2, borderaxespad=0, handletextpad=0.1,
        columnspacing=1.0, title="shifted significantly and substantially by", title_fontsize=7,
        alignment="right",
    )  # fmt: skip
