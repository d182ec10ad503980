"""What the settings do to cells: a montage."""

import numpy as np
import numpy.typing as npt
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bgscale.errors import InputError
from bgscale.plot.chosen import known
from bgscale.plot.style import DPI, INCHES_PER_MM, PAGE_MM, broken, spoken, styled
from bgscale.schema import CENTRE_CELL, Missing

LONGEST_COLUMN = 8
"""Classes beyond which a montage is set in two columns."""
MOST_SETTINGS_BESIDE = 7
"""Settings beyond which it is not."""
LETTER_MM, LINE_MM, GAP_MM = 1.5, 2.6, 0.7
LARGEST_MM = 17.0
NAME_LETTERS, HEAD_LETTERS = 12, 10
OUTLINE = "#ffcc00"


@styled
def settings(
    tree: xr.DataTree, *, channel: str = "protein", example: int = 0
) -> npt.NDArray[np.object_]:
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
    array (localization, setting) of Axes
        The grey scale of a row is that of the crop as imaged, so that a seam of scale would be
        seen. The outline is the centre cell.

    Raises
    ------
    InputError
        There is no such channel or example, or the run has not come so far.
    """
    if "sample" not in tree.children:
        msg = "no sample of cells in this store yet: `bgscale run` makes it"
        raise InputError(msg)
    sample = tree.children["sample"].to_dataset(inherit=False)
    known("channel", channel, sample["channel"].values)
    if not 0 <= example < sample.sizes["example"]:
        msg = f"no example {example}; there are 0 to {sample.sizes['example'] - 1}"
        raise InputError(msg)
    names, classes = sample["setting"].to_numpy(), sample["localization"].to_numpy()
    image = sample["image"].sel(channel=channel).isel(example=example).to_numpy()
    masks = sample["mask"].isel(example=example).to_numpy() == CENTRE_CELL
    missing = sample["missing"].isel(example=example).to_numpy()
    if not masks.any():
        msg = "the sample of cells is not made yet: `bgscale run` goes on with it"
        raise InputError(msg)
    blocks = 2 if len(classes) > LONGEST_COLUMN and len(names) <= MOST_SETTINGS_BESIDE else 1
    half = -(-len(classes) // blocks)
    rows = [broken(name, NAME_LETTERS, lines=3) for name in classes]
    heads = [broken(spoken(name), HEAD_LETTERS, lines=3) for name in names]
    beside = 3 + LETTER_MM * max(len(line) for text in rows for line in text.split("\n"))
    above = 2 + LINE_MM * max(text.count("\n") + 1 for text in heads)
    pitch = min((PAGE_MM / blocks - beside) / len(names), LARGEST_MM)
    wide, high = blocks * (beside + pitch * len(names)), above + pitch * half
    figure = Figure(figsize=(wide * INCHES_PER_MM, high * INCHES_PER_MM), dpi=DPI)
    axes = np.empty((len(classes), len(names)), np.object_)
    original = list(names).index("original")
    for k in range(len(classes)):
        block, row = divmod(k, half)
        low, top = np.percentile(image[k, original], [0.5, 99.7])
        for s in range(len(names)):
            left = block * (beside + pitch * len(names)) + beside + s * pitch
            size = pitch - GAP_MM
            place = left / wide, (high - above - (row + 1) * pitch + GAP_MM) / high
            ax = axes[k, s] = figure.add_axes((*place, size / wide, size / high))
            ax.set(xticks=[], yticks=[])
            ax.spines[:].set_visible(False)
            if missing[k, s] != Missing.PRESENT:
                reason = Missing(int(missing[k, s])).name.lower().replace("_", "\n")
                ax.text(0.5, 0.5, reason, ha="center", va="center", fontsize=5)
            else:
                _crop(ax, image[k, s], masks[k], (float(low), float(top)))
            if row == 0:
                ax.set_title(heads[s], fontsize=6, pad=2, linespacing=0.9)
            if s == 0:
                ax.set_ylabel(
                    rows[k], rotation=0, ha="right", va="center", labelpad=2,
                    fontsize=7, linespacing=1.0,
                )  # fmt: skip
    return axes


def _crop(
    ax: Axes,
    image: npt.NDArray[np.float32],
    mask: npt.NDArray[np.bool_],
    limits: tuple[float, float],
) -> None:
    ax.imshow(image, cmap="gray", vmin=limits[0], vmax=limits[1], interpolation="nearest")
    ax.contour(mask, levels=[0.5], colors=OUTLINE, linewidths=0.4)
