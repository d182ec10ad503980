"""Experiment 2: how far proteins shift, which do so surely, and where one protein goes."""

import numpy as np
import numpy.typing as npt
import xarray as xr
from matplotlib.axes import Axes
from scipy.stats import gaussian_kde

from bgscale.errors import InputError
from bgscale.plot.chosen import changed_settings, finite, known, pick, read
from bgscale.plot.labels import Label, place
from bgscale.plot.style import (
    FAINT,
    INK,
    QUIET,
    VERMILLION,
    broken,
    colour,
    counted,
    legend_above,
    name_rows,
    panel,
    plain,
    points_with_bars,
    spoken,
    styled,
    warn_of_random,
)
from bgscale.shifted import shift_shares, shifted

FEW = 300
"""Proteins up to which each is drawn."""
FEWEST_FOR_DENSITY = 8
HALF_WIDTH = 0.36
NAMED = 12
"""Proteins that a volcano names at most."""
MATTERS = 0.05
"""Share from which a localization is shown apart, under any setting."""
SHOWN_LOCALIZATIONS = 6
OTHER = "other"
SHARES_AT = 1.2
"""Across the axes, where shares are written."""
GOLDEN = 0.6180339887498949


@styled
def shift_distribution(
    tree: xr.DataTree, *, model: str, fit: str = "fixed", ax: Axes | None = None
) -> Axes:
    """Plot how the shifts of all proteins are distributed, under each setting.

    Parameters
    ----------
    tree : DataTree
        Of `open_results`.
    model : str
    fit : {"fixed", "matched"}
    ax : Axes, optional
        Drawn on these; by default on those of a new figure, 89 mm wide.

    Returns
    -------
    Axes
        As the paper's Figure 3A: KL(original || setting) on a log scale, a row a setting, with
        median (open) and quartiles (bar). Up to 300 proteins are points. On the right, the share of
        the tested proteins that is shifted significantly, and significantly and substantially.

    Raises
    ------
    InputError
        There is no such model or fit, or its shifts are not done yet.
    """
    shifts = pick(read(tree, "shifts", model, ("kl",)), fit=fit)
    settings = changed_settings(shifts)
    kl = shifts["kl"].sel(setting=settings).transpose("setting", "protein").to_numpy()
    there = finite(kl, f"shifts of {model!r}")
    positive = kl[there & (kl > 0)]
    lowest = float(positive.min()) if positive.size else 1e-10
    ax = panel(ax, height_mm=18 + 11.0 * len(settings))
    for row, setting in enumerate(settings):
        values = np.maximum(kl[row][there[row]], lowest)
        if len(values):
            _distribution(ax, row, values, colour(setting))
        shares = shift_shares(tree, model, setting=setting, fit=fit)
        keys = ("share_significant", "share_significant_and_substantial")
        text = " / ".join(f"{shares[key]:.0%}" for key in keys) if shares["tested"] else "untested"
        ax.text(SHARES_AT, row, text, transform=ax.get_yaxis_transform(), ha="center", va="center")
    head = "shifted\nsignificantly /\nand substantially"
    ax.text(SHARES_AT, -0.62, head, transform=ax.get_yaxis_transform(), ha="center", va="bottom",
            color=QUIET, linespacing=1.05)  # fmt: skip
    name_rows(ax, [spoken(s) for s in settings])
    ax.set_ylim(len(settings) - 0.5, -0.55)
    ax.set_xscale("log")
    ax.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    ax.set_xlabel(f"KL(original || setting), nats (n = {counted(there.sum(1))} proteins)")
    warn_of_random(ax, shifts.attrs)
    return ax


def _distribution(ax: Axes, row: int, values: npt.NDArray[np.float64], ink: str) -> None:
    """Draw density, points where they are few, and quartiles of one setting."""
    logs = np.log10(values)
    spread = HALF_WIDTH * np.ones(len(logs)) * 0.5
    if len(logs) >= FEWEST_FOR_DENSITY and np.ptp(logs) > 0:
        density = gaussian_kde(logs)
        grid = np.linspace(logs.min(), logs.max(), 160)
        height = density(grid)
        half = HALF_WIDTH * height / height.max()
        ax.fill_between(10**grid, row - half, row + half, color=ink, alpha=0.22, linewidth=0)
        spread = HALF_WIDTH * density(logs) / height.max()
    if len(logs) <= FEW:
        order = np.argsort(np.argsort(logs, kind="stable"))
        # neighbours in value are far apart across: no two points on each other, the same each time
        across = 2 * ((order * GOLDEN) % 1) - 1
        ax.plot(values, row + 0.85 * spread * across, "o", markersize=1.8, color=ink, alpha=0.75,
                markeredgewidth=0, gid="proteins")  # fmt: skip
    low, middle, high = np.quantile(values, [0.25, 0.5, 0.75])
    ax.plot([low, high], [row, row], color=INK, linewidth=2.2, solid_capstyle="butt", zorder=4,
            gid="quartiles")  # fmt: skip
    ax.plot(middle, row, "o", markersize=4.2, color=INK, markerfacecolor="white",
            markeredgewidth=0.9, zorder=5, gid="median")  # fmt: skip


@styled
def volcano(
    tree: xr.DataTree, *, model: str, setting: str, fit: str = "fixed", ax: Axes | None = None
) -> Axes:
    """Plot how far each protein shifts against how sure that is.

    Parameters
    ----------
    tree : DataTree
        Of `open_results`.
    model, setting : str
    fit : {"fixed", "matched"}
    ax : Axes, optional
        Drawn on these; by default on those of a new figure, 89 mm wide.

    Returns
    -------
    Axes
        A point a tested protein: total variation between `original` and the setting, and -log10 of
        q, the false discovery rate at which the shift is significant. Coloured are those that are
        significantly and substantially shifted; the surest of them are named as far as there is
        room.

    Raises
    ------
    InputError
        There is no such model, setting or fit, or no protein was tested.
    """
    shifts = read(tree, "shifts", model, ("kl",))
    known("setting to compare with original", setting, changed_settings(shifts))
    frame = shifted(tree, model, setting=setting, fit=fit)
    tested = frame[frame["p"].notna()]
    if tested.empty:
        reasons = ", ".join(f"{n} {why}" for why, n in frame["reason"].value_counts().items())
        msg = f"no protein was tested under {setting!r} ({reasons}): there is no volcano to draw"
        raise InputError(msg)
    x = tested["total_variation"].to_numpy(float)
    y = -np.log10(tested["q"].to_numpy(float))
    sure = (tested["significant"] & tested["substantial"]).to_numpy(bool)
    ax = panel(ax, height_mm=72)
    for which, ink, name in (
        (~sure, "#9a9a9a", "other"), (sure, VERMILLION, "significant and substantial"),
    ):  # fmt: skip
        ax.plot(
            x[which], y[which], "o", markersize=2.6, color=ink, markeredgewidth=0,
            alpha=0.8 if len(x) <= FEW else 0.45, label=f"{name} ({which.sum():,})",
        )  # fmt: skip
    rate = float(shifts.attrs["method"]["false_discovery_rate"])
    ax.axhline(-np.log10(rate), color=FAINT, linewidth=0.6, zorder=0)
    ax.margins(x=0.06)
    ax.set_xlim(left=0)
    ax.set_ylim(bottom=0, top=1.25 * max(float(y.max()), 1.5))
    ax.set_xlabel(f"total variation, original to {spoken(setting)} (n = {len(x):,} proteins)")
    ax.set_ylabel("−log10 q")
    legend_above(ax, 2)
    warn_of_random(ax, shifts.attrs)
    # many are as sure as so many draws can tell: of these the farthest
    surest = np.lexsort((-x, tested["q_substantial"].to_numpy(float)))
    labels = [Label(str(tested.index[k]), x[k], y[k]) for k in surest if sure[k]]
    place(ax, labels[:NAMED], np.c_[x, y])
    return ax


@styled
def proportions(
    tree: xr.DataTree, *, model: str, protein: str, fit: str = "fixed", ax: Axes | None = None
) -> Axes:
    """Plot where a protein is said to be, under every setting.

    Parameters
    ----------
    tree : DataTree
        Of `open_results`.
    model, protein : str
    fit : {"fixed", "matched"}
    ax : Axes, optional
        Drawn on these; by default on those of a new figure, 89 mm wide.

    Returns
    -------
    Axes
        A row a localization that matters under any setting (at least 5%, six at most), and the sum
        of all others; in it each setting's proportion (mean softmax, out of fold) with its 95%
        interval for fresh fields. Localizations of the plate map are bold.

    Raises
    ------
    InputError
        There is no such model, protein or fit, or its proportions are not done yet.
    """
    names = ("proportion", "proportion_low", "proportion_high", "n_cells")
    shifts = pick(read(tree, "shifts", model, names), fit=fit, protein=protein)
    settings = [str(s) for s in shifts["setting"].values]
    present = np.isfinite(shifts["proportion"].to_numpy()).all(1)
    if not present.any():
        msg = f"protein {protein!r} has no cells under any setting: `bgscale query` says why"
        raise InputError(msg)
    largest = shifts["proportion"].max("setting").to_numpy()
    order = np.argsort(-largest, kind="stable")
    kept = [k for k in order if largest[k] >= MATTERS][:SHOWN_LOCALIZATIONS] or [order[0]]
    label = tree.children["proteins"].to_dataset()["label"].sel(protein=protein).astype(bool)
    own = set(label["localization"].values[label.to_numpy()].tolist())
    classes = shifts["localization"].values
    rows = [broken(classes[k]) for k in kept]
    rest = np.delete(shifts["proportion"].to_numpy(), kept, axis=1)
    rows += [f"{OTHER} ({rest.shape[1]})"] if rest.shape[1] else []
    ax = panel(ax, height_mm=24 + len(rows) * max(9.0, 2.0 * len(settings)))
    offsets = np.linspace(-0.32, 0.32, len(settings)) if len(settings) > 1 else [0.0]
    row = np.arange(len(kept))
    for s, (setting, offset) in enumerate(zip(settings, offsets, strict=True)):
        at = shifts.isel(setting=s, localization=kept)
        points_with_bars(
            ax,
            at["proportion"].to_numpy(),
            row + offset,
            at["proportion_low"].to_numpy(),
            at["proportion_high"].to_numpy(),
            ink=colour(setting),
            label=spoken(setting),
        )
        if rest.shape[1]:
            ax.plot(
                rest[s].sum(), len(kept) + offset, "o", markersize=3.2, color=colour(setting),
                markerfacecolor="white", markeredgewidth=0.8, gid=OTHER,
            )  # fmt: skip
    for line in range(1, len(rows)):
        ax.axhline(line - 0.5, color="#e5e5e5", linewidth=0.5, zorder=0)
    ax.set_yticks(range(len(rows)), rows)
    for k, text in zip(kept, ax.get_yticklabels(), strict=False):
        text.set_fontweight("bold" if classes[k] in own else "normal")
    ax.set_ylim(len(rows) - 0.5, -0.5)
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    there = [shifts[f"proportion{end}"].isel(localization=kept) for end in ("", "_high")]
    ends = np.concatenate([*(one.to_numpy().ravel() for one in there), rest.sum(axis=1)])
    top = float(np.nanmax(ends))
    ax.set_xlim(-0.02 * top, min(1.04 * top, 1.02))
    cells = counted(shifts["n_cells"].to_numpy()[present])
    bold = "\nbold: annotated in the plate map" if own & set(classes[kept]) else ""
    ax.set_xlabel(f"proportion of {plain(protein)}\n95% interval, n = {cells} cells{bold}")
    legend_above(ax, 3)
    warn_of_random(ax, shifts.attrs)
    return ax
