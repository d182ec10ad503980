"""Which backgrounds do the harm, and whether neighbours do it."""

import numpy as np
import numpy.typing as npt
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.colors import Colormap, ListedColormap

from bgscale import dependence
from bgscale.controls import groups_of, neighbours_of
from bgscale.errors import InputError
from bgscale.plot.chosen import finite, pick, read
from bgscale.plot.style import (
    COLUMN_MM,
    INK,
    LETTER_MM,
    LONGEST_WORD,
    LOSS_AND_GAIN,
    PAGE_MM,
    SHARES,
    broken,
    colour,
    legend_above,
    panel,
    points_with_bars,
    spoken,
    styled,
    warn_of_random,
)
from bgscale.summary import node

SHOWN = ("original", "same", "different", "cell_free", "masked")
NO_CELL = "#e3e3e3"
"""Colour of where there is nothing to tell."""
SCALE_MM, LABELS_MM = 23.0, 13.0
"""Room beside and below a heatmap, names not counted."""
LEAST_MM, MOST_MM = 2.6, 8.0
"""Pitch of its rows."""
STRIP_GAP = 0.4
"""Rows between the heatmap and its strip."""


@styled
def harm(
    tree: xr.DataTree, *, model: str, setting: str = "different", ax: Axes | None = None
) -> Axes:
    """Show what each background takes from the accuracy of each class.

    Parameters
    ----------
    tree : DataTree
        Of `open_results`.
    model : str
    setting : str
        One with each background: "different", "cell_free" and their variants.
    ax : Axes, optional
        Drawn on these; by default on those of a new figure, 89 mm wide.

    Returns
    -------
    Axes
        Row: class of the centre cell; column: class of the background; colour: accuracy on this
        background less that of the same pairs as imaged. The strip below is over all pairs. A dot
        says that the 95% interval includes zero.

    Raises
    ------
    InputError
        There is no such model or setting, or there are fewer than three classes.
    """
    evaluation = read(tree, "evaluation", model, ("accuracy", "each_background"))
    found = _with_each_background(dependence.background_harm(evaluation), setting)
    change = found["change"].transpose("localization", "background").to_numpy()
    overall = found["overall"].to_numpy()
    if not np.isfinite(change).any():
        msg = (
            f"{setting!r} of {model!r} has no background outside a pair of classes: that takes "
            "three localizations"
        )
        raise InputError(msg)
    top = float(np.nanmax(np.abs([*change.ravel(), *overall])))
    limits = (-max(top, 0.01), max(top, 0.01))
    names = found["localization"].values
    ax = _square(ax, names, strip=True)
    _cells(ax, change, 0.0, LOSS_AND_GAIN, limits)
    drawn = _cells(ax, overall[None], len(names) + STRIP_GAP, LOSS_AND_GAIN, limits)
    for kind, first in (("change", 0.0), ("overall", len(names) + STRIP_GAP)):
        low, high = (np.atleast_2d(found[f"{kind}_{end}"].to_numpy()) for end in ("low", "high"))
        _dots(ax, (low <= 0) & (high >= 0), first)
    _name_both(ax, names, "95% interval includes 0", strip="all pairs")
    _bar(ax, drawn, "change of accuracy")
    warn_of_random(ax, evaluation.attrs)
    return ax


@styled
def confusion(
    tree: xr.DataTree, *, model: str, setting: str = "different", ax: Axes | None = None
) -> Axes:
    """Show how often a cell is taken for the class of its background.

    Parameters
    ----------
    tree : DataTree
        Of `open_results`.
    model : str
    setting : str
        One with each background: "different", "cell_free" and their variants.
    ax : Axes, optional
        Drawn on these; by default on those of a new figure, 89 mm wide.

    Returns
    -------
    Axes
        Row: class of the centre cell; column: class of the background; colour: share of the cells
        that classifiers of crops as imaged take for the background's class (the choice is between
        the two). A dot says that it is not surely more than as imaged: the 95% interval of the
        excess, cell by cell, includes zero.

    Raises
    ------
    InputError
        There is no such model or setting, or the controls are not done yet.
    """
    evaluation = read(tree, "evaluation", model, ("decision", "each_background"))
    controls = read(tree, "controls", model, ("transferred_decision", "each_background"))
    whole = node(tree, "evaluation", model)
    made = dependence.background_confusion(evaluation, controls, groups=groups_of(tree, whole))
    found = _with_each_background(made, setting)
    share = found["told_as_background"].transpose("localization", "background").to_numpy()
    finite(share, f"confusions of {model!r} under {setting!r}")
    names = found["localization"].values
    ax = _square(ax, names, strip=False)
    drawn = _cells(ax, share, 0.0, SHARES, (0.0, 1.0))
    low = found["excess_low"].transpose("localization", "background").to_numpy()
    _dots(ax, low <= 0, 0.0)
    _name_both(ax, names, "not surely more than as imaged")
    _bar(ax, drawn, "share of cells told as\nthe background's class")
    warn_of_random(ax, evaluation.attrs)
    return ax


def _with_each_background(found: xr.Dataset, setting: str) -> xr.Dataset:
    if not found.sizes["setting"]:
        msg = (
            "no setting of this run has each background: name different or cell_free in run.toml "
            "(settings) and `bgscale run`"
        )
        raise InputError(msg)
    return pick(found, setting=setting)


def _square(ax: Axes | None, names: npt.NDArray[np.str_], *, strip: bool) -> Axes:
    """Return axes for a heatmap of classes with these names."""
    longest = max(len(_on_a_line(name)) for name in names)
    beside, below = SCALE_MM + LETTER_MM * longest, LABELS_MM + LETTER_MM * longest
    width = float(np.clip(beside + LEAST_MM * len(names), COLUMN_MM, PAGE_MM))
    pitch = min((width - beside) / len(names), MOST_MM)
    rows = len(names) + (1 + STRIP_GAP if strip else 0)
    return panel(ax, width_mm=width, height_mm=below + rows * pitch)


def _on_a_line(name: object) -> str:
    """Return a name of a row or column of a heatmap, where there is room for one line."""
    return broken(name, LONGEST_WORD, lines=1)


def _cells(
    ax: Axes,
    values: npt.NDArray[np.float64],
    first: float,
    colours: Colormap,
    limits: tuple[float, float],
) -> QuadMesh:
    """Draw values as squares, NaN in grey."""
    rows, columns = values.shape
    x, y = np.arange(columns + 1) - 0.5, first + np.arange(rows + 1) - 0.5
    absent = np.where(np.isfinite(values), np.nan, 1.0)
    if np.isfinite(absent).any():
        grey = ListedColormap([NO_CELL])
        ax.pcolormesh(x, y, np.ma.masked_invalid(absent), cmap=grey, edgecolors="white",
                      linewidth=0.4)  # fmt: skip
    return ax.pcolormesh(
        x, y, np.ma.masked_invalid(values), cmap=colours, vmin=limits[0], vmax=limits[1],
        edgecolors="white", linewidth=0.4,
    )  # fmt: skip


def _dots(ax: Axes, where: npt.NDArray[np.bool_], first: float) -> None:
    y, x = np.nonzero(where)
    ax.plot(x, y + first, "o", markersize=1.1, color=INK, markeredgewidth=0, gid="dots")


def _name_both(ax: Axes, names: npt.NDArray[np.str_], dots: str, *, strip: str = "") -> None:
    count = len(names)
    rows, ticks = [_on_a_line(n) for n in names], [float(k) for k in range(count)]
    if strip:
        rows, ticks = [*rows, strip], [*ticks, count + STRIP_GAP]
    ax.set_xticks(range(count), [_on_a_line(n) for n in names], rotation=90, rotation_mode="anchor",
                  ha="right", va="center")  # fmt: skip
    ax.set_yticks(ticks, rows)
    ax.set(xlim=(-0.5, count - 0.5), ylim=(ticks[-1] + 0.5, -0.5), aspect="equal")
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    ax.set_xlabel(f"background\n(dot: {dots})")
    ax.set_ylabel("centre cell")


def _bar(ax: Axes, drawn: QuadMesh, label: str) -> None:
    bar = ax.figure.colorbar(drawn, ax=ax, shrink=0.75, aspect=16, pad=0.02)
    bar.set_label(label)
    bar.outline.set_visible(False)


@styled
def neighbours(tree: xr.DataTree, *, model: str, ax: Axes | None = None) -> Axes:
    """Plot the share of cells that are told right, by the neighbours that they were imaged with.

    Parameters
    ----------
    tree : DataTree
        Of `open_results`.
    model : str
    ax : Axes, optional
        Drawn on these; by default on those of a new figure, 183 mm wide.

    Returns
    -------
    Axes
        By number of neighbours on the left, by the share of the window that they cover on the
        right, with 95% intervals (cells of a protein, well or field taken together). Cells without
        neighbours (shaded) are the control: their own background is medium.

    Raises
    ------
    InputError
        There is no such model, or its evaluation is not done yet.
    """
    evaluation = read(tree, "evaluation", model, ("decision", "each_background"))
    whole = node(tree, "evaluation", model)
    counts, share = neighbours_of(tree)
    found = dependence.by_neighbours(
        evaluation, neighbours=counts, share=share, groups=groups_of(tree, whole)
    )
    settings = [s for s in SHOWN if s in found["setting"].values]
    ax = panel(ax, width_mm=PAGE_MM, height_mm=66)
    offsets = np.linspace(-0.26, 0.26, len(settings)) if len(settings) > 1 else [0.0]
    first, ticks, texts = 0.0, [], []
    for dim, title in (
        ("neighbours", "neighbours in the crop, and cells (n)"),
        ("share", "share of the crop that neighbours cover, and cells (n)"),
    ):
        name, labels = f"recall_by_{dim}", found[dim].values
        place = first + np.arange(len(labels))
        for setting, offset in zip(settings, offsets, strict=True):
            at = found.sel(setting=setting)
            value = at[name].to_numpy()
            ax.plot(place + offset, value, color=colour(setting), linewidth=0.6, alpha=0.5)
            points_with_bars(
                ax, value, place + offset, at[f"{name}_low"].to_numpy(),
                at[f"{name}_high"].to_numpy(), ink=colour(setting), upright=True,
                label=spoken(setting) if not first else "",
            )  # fmt: skip
        cells = found[f"{name}_n_cells"].max("setting").to_numpy()
        shown = [_percent(str(label)) if dim == "share" else str(label) for label in labels]
        texts += [f"{text}\n({n:,})" for text, n in zip(shown, cells, strict=True)]
        ticks += place.tolist()
        ax.axvspan(first - 0.45, first + 0.45, color="#f0f0f0", zorder=0, linewidth=0)
        middle = float(place.mean())
        ax.annotate(
            title, (middle, 0), xytext=(0, -25), xycoords=ax.get_xaxis_transform(),
            textcoords="offset points", ha="center", va="top", annotation_clip=False,
        )  # fmt: skip
        first = place[-1] + 1.6
    ax.set_xticks(ticks, texts)
    ax.tick_params(axis="x", length=0)
    ax.set_xlim(-0.6, ticks[-1] + 0.6)
    ax.set_ylabel("share of cells told right, 95% interval")
    legend_above(ax, len(settings))
    warn_of_random(ax, evaluation.attrs)
    return ax


def _percent(label: str) -> str:
    """Return a bin of shares, "0.1-0.2", as "10-20%"."""
    return "-".join(f"{100 * float(edge):g}" for edge in label.split("-")) + "%"
