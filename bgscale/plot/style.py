"""How figures look: column widths, sizes, colours, and how they are saved.

Owns what all figures share; refuses to own what they show. The one idea: a figure is made at the
size at which a journal prints it, so that 7 pt are 7 pt, and nothing global is changed: neither
matplotlib's settings nor its list of open figures.
"""

import textwrap
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeAlias, cast

import numpy as np
import numpy.typing as npt
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure, SubFigure

from bgscale.errors import InputError

Floats: TypeAlias = npt.NDArray[np.floating]

COLUMN_MM, PAGE_MM = 89.0, 183.0
"""Widths of a journal's column and page."""
INCHES_PER_MM = 1 / 25.4
ROW_MM, LINE_MM, LETTER_MM = 4.6, 2.7, 1.3
"""Least pitch of rows, and what a line and a letter of a name take."""
DPI, MOST_PIXELS, LONGEST_SIDE = 300, 60e6, 60_000
"""Of a PNG; a very large figure has fewer dots an inch, so that it can be drawn at all."""
INK, QUIET, FAINT = "#000000", "#666666", "#bbbbbb"
BLUE, SKY, GREEN, YELLOW, ORANGE, VERMILLION, PURPLE = (
    "#0072b2", "#56b4e9", "#009e73", "#f0e442", "#e69f00", "#d55e00", "#cc79a7",
)  # fmt: skip
COLOURS = {
    "original": INK,
    "same": BLUE,
    "different": VERMILLION,
    "cell_free": GREEN,
    "masked": QUIET,
    "self_swap": SKY,
    "background_only": PURPLE,
    "medium_only": ORANGE,
    "masked_mean": "#999999",
}
"""Okabe and Ito's colours, which the colour-blind can tell apart."""
LOSS_AND_GAIN = LinearSegmentedColormap.from_list(
    "loss and gain", ["#7a3500", VERMILLION, "#f3c9ac", "#ffffff", "#a9cfe6", BLUE, "#003f63"]
)
SHARES = LinearSegmentedColormap.from_list("shares", ["#ffffff", "#a9cfe6", BLUE, "#00263d"])
NAME_LETTERS, LONGEST_LINE, LONGEST_WORD = 18, 20, 26
"""Names longer than the first are broken into lines, words longer than the last in two."""
RANDOM = "random weights"
FORMATS = ("svg", "pdf", "png")
STYLE: dict[str, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["Arial", "Helvetica", "Liberation Sans", "DejaVu Sans"],
    "font.size": 7,
    "axes.labelsize": 7,
    "axes.titlesize": 7,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "legend.handlelength": 1.2,
    "axes.linewidth": 0.6,
    "axes.facecolor": "none",
    "axes.grid": False,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.labelpad": 3,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.minor.width": 0.4,
    "ytick.minor.width": 0.4,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "xtick.minor.size": 1.5,
    "ytick.minor.size": 1.5,
    "lines.linewidth": 1.0,
    "figure.facecolor": "white",
    "savefig.facecolor": "auto",
    "savefig.bbox": None,
    "text.usetex": False,
    # text stays text: it can be searched, edited, and read aloud
    "svg.fonttype": "none",
    "pdf.fonttype": 42,
    # the same figure has the same bytes
    "svg.hashsalt": "bgscale",
    "svg.id": None,
}
styled = rc_context(cast("Any", STYLE))
"""Decorator: what is drawn has this style, whatever the user's is, and leaves theirs alone."""


def panel(ax: Axes | None, *, width_mm: float = COLUMN_MM, height_mm: float = 66.0) -> Axes:
    """Return the axes given, or those of a new figure of this size."""
    if ax is not None:
        return ax
    size = width_mm * INCHES_PER_MM, height_mm * INCHES_PER_MM
    made: Axes = Figure(figsize=size, dpi=DPI, layout="constrained").subplots()
    return made


def figure_of(shown: Figure | SubFigure | Axes | npt.NDArray[np.object_]) -> Figure:
    """Return the figure that axes are in."""
    one: Any = shown.flat[0] if isinstance(shown, np.ndarray) else shown
    while not isinstance(one, Figure):
        one = one.figure
    return one


@styled
def save(
    shown: Figure | Axes | npt.NDArray[np.object_],
    path: str | Path,
    *,
    transparent: bool = False,
) -> Path:
    """Write a figure; the format is that of the file name: .svg, .pdf or .png.

    Text stays text in SVG and PDF, and the same figure has the same bytes.

    Parameters
    ----------
    shown : Figure, Axes or array of Axes
        What a function of `bgscale.plot` returns.
    path : str or path
    transparent : bool
        No white behind it.

    Returns
    -------
    path

    Raises
    ------
    InputError
        There is no such format or folder.
    """
    path = Path(path)
    kind = path.suffix.lower().removeprefix(".")
    if kind not in FORMATS:
        msg = f"{path}: no format {kind!r}; expected a file name that ends with one of "
        raise InputError(msg + ", ".join(f".{one}" for one in FORMATS))
    if not path.parent.is_dir():
        msg = f"{path}: there is no folder {path.parent}; make it first"
        raise InputError(msg)
    undated: dict[str, dict[str, Any]] = {
        "svg": {"Date": None},
        "pdf": {"CreationDate": None},
        "png": {},
    }
    figure = figure_of(shown)
    wide, high = figure.get_size_inches()
    dpi = min(DPI, (MOST_PIXELS / (wide * high)) ** 0.5, LONGEST_SIDE / max(wide, high))
    figure.savefig(path, format=kind, dpi=dpi, metadata=undated[kind], transparent=transparent)
    return path


def plain(text: object) -> str:
    """Return text that is drawn as it is: a dollar sign begins no formula."""
    return str(text).replace("$", r"\$")


def spoken(setting: object) -> str:
    """Return the name of a setting as a person reads it."""
    return plain(setting).replace("_", " ")


def broken(name: object, letters: int = NAME_LETTERS, *, lines: int = 2) -> str:
    r"""Return a name in lines; what is longer than all of them ends with an ellipsis.

    Examples
    --------
    >>> broken("nuclear periphery of all the cells in a crop")
    'nuclear periphery of\nall the cells in a…'
    >>> broken("mitochondrion", 8)
    'mitochondrion'
    """
    text = str(name)
    longest = max(map(len, text.split()), default=1)
    wide = max(letters, min(longest, LONGEST_WORD), min(-(-len(text) // lines), LONGEST_LINE))
    found = textwrap.wrap(text, wide, max_lines=lines, placeholder="…")
    return "\n".join(map(plain, found))


def colour(setting: str) -> str:
    """Return the colour of a setting; a variant of one has the same."""
    for base in (setting, setting.split("_dilated_")[0], setting.removesuffix("_plate_matched")):
        if base in COLOURS:
            return COLOURS[base]
    return "#8a6d3b"


def warn_of_random(ax: Axes, attrs: dict[Any, Any]) -> None:
    """Say it in the figure if the model has random weights."""
    if not attrs.get("random_weights"):
        return
    # a title would lie on the legend
    if ax.get_xlabel():
        ax.set_xlabel(f"{ax.get_xlabel()}\n{RANDOM}")
    else:
        ax.set_title(RANDOM, loc="left")


def row_mm(names: Iterable[object], least: float = ROW_MM) -> float:
    """Return the pitch of rows in which names have room."""
    return max([least, *(LINE_MM * (1 + broken(name).count("\n")) + 0.6 for name in names)])


def name_rows(ax: Axes, names: Iterable[object]) -> None:
    """Give each row, from the top, its name."""
    shown = [broken(name) for name in names]
    ax.set_yticks(range(len(shown)), shown, linespacing=0.95)
    ax.set_ylim(len(shown) - 0.5, -0.5)
    ax.tick_params(axis="y", length=0)
    ax.spines[["left", "top", "right"]].set_visible(False)


def legend_above(ax: Axes, columns: int) -> None:
    """Put the legend above the axes, from the right: on the left there is room above the names."""
    ax.legend(
        loc="lower right", bbox_to_anchor=(1, 1), ncols=columns, borderaxespad=0,
        handletextpad=0.1, columnspacing=1.0,
    )  # fmt: skip


def points_with_bars(
    ax: Axes,
    value: Floats,
    row: Floats,
    low: Floats,
    high: Floats,
    *,
    ink: str,
    label: str = "",
    filled: bool = True,
    upright: bool = False,
) -> None:
    """Draw values with their intervals, along rows or (upright) over columns; NaN is left out."""
    there = np.isfinite(low) & np.isfinite(high)
    lines = ax.vlines if upright else ax.hlines
    lines(row[there], low[there], high[there], color=ink, linewidth=0.9, zorder=2)
    x, y = (row, value) if upright else (value, row)
    face = ink if filled else "white"
    ax.plot(
        x, y, "o", markersize=3.2, color=ink, markerfacecolor=face, markeredgewidth=0.8,
        label=label or None, zorder=3,
    )  # fmt: skip


def counted(values: npt.ArrayLike) -> str:
    """Return a number, or the range of several.

    Examples
    --------
    >>> counted([85, 1094]), counted([3])
    ('85-1,094', '3')
    """
    found = np.asarray(values)
    low, high = int(found.min()), int(found.max())
    return f"{low:,}" if low == high else f"{low:,}-{high:,}"
