"""Experiment 1: accuracy of each class and setting, and what each class loses."""

import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from bgscale import dependence
from bgscale.accuracy import Aggregate
from bgscale.accuracy import table as table_of
from bgscale.errors import InputError
from bgscale.plot.chosen import changed_settings, finite, read
from bgscale.plot.labels import Label, place
from bgscale.plot.style import (
    BLUE,
    FAINT,
    QUIET,
    VERMILLION,
    colour,
    legend_above,
    name_rows,
    panel,
    plain,
    points_with_bars,
    row_mm,
    spoken,
    styled,
    warn_of_random,
)
from bgscale.rows import GROUPED, full_table
from bgscale.summary import node

SHOWN = ("same", "different", "cell_free", "masked")
"""Settings of the paper's figure; of others only where none of these is there."""
NAMED = 4
"""Classes that are named: those that lose most."""
ACCURACIES = ("accuracy", "converged", "each_background")
GROUPED_ACCURACIES = ("grouped_accuracy", "grouped_converged")


@styled
def accuracy(
    tree: xr.DataTree, *, model: str, aggregate: Aggregate = "symmetric", ax: Axes | None = None
) -> Axes:
    """Plot accuracy with modified background against accuracy with the original, per class.

    Parameters
    ----------
    tree : DataTree
        Of `open_results`.
    model : str
    aggregate : {"symmetric", "published"}
    ax : Axes, optional
        Drawn on these; by default on those of a new figure, 89 mm wide.

    Returns
    -------
    Axes
        The paper's Figure 2: each point is a class, and below the diagonal the modified background
        did harm. The classes that lose most under `different` are named.

    Raises
    ------
    InputError
        There is no such model, or its evaluation is not done yet.
    """
    evaluation = read(tree, "evaluation", model, ACCURACIES)
    rows = table_of(evaluation, aggregate=aggregate)["localization_mean"]
    changed = changed_settings(evaluation)
    shown = [s for s in SHOWN if s in changed] or changed
    original = rows.sel(setting="original").to_numpy()
    values = {s: rows.sel(setting=s).to_numpy() for s in shown}
    there = finite(original + np.array(list(values.values())), f"accuracies of {model!r}").any(0)
    ax = panel(ax, height_mm=84)
    every = np.concatenate([original[there], *(v[there] for v in values.values())])
    low = np.floor(20 * np.nanmin(every)) / 20 - 0.01
    ax.plot([low, 1.005], [low, 1.005], color=FAINT, linewidth=0.6, zorder=0)
    for name, y in values.items():
        ax.scatter(
            original, y, s=14, color=colour(name), label=spoken(name), alpha=0.9, linewidths=0
        )
    ax.set(
        xlim=(low, 1.005),
        ylim=(low, 1.005),
        aspect="equal",
        xlabel=f"accuracy, original background (n = {there.sum()} classes)",
        ylabel="accuracy, modified background",
    )
    ax.legend(loc="upper left", handletextpad=0.2, borderaxespad=0.1)
    warn_of_random(ax, evaluation.attrs)
    worst = values.get("different", values[shown[0]])
    order = [k for k in np.argsort(worst - original)[:NAMED] if np.isfinite(worst[k])]
    labels = [Label(str(rows["localization"].values[k]), original[k], worst[k]) for k in order]
    place(ax, labels, np.concatenate([np.c_[original, y] for y in values.values()]))
    return ax


@styled
def table(
    tree: xr.DataTree, *, model: str, aggregate: Aggregate = "symmetric", ax: Axes | None = None
) -> Axes:
    """Plot the mean accuracy of each setting, with its 95% interval.

    Parameters
    ----------
    tree : DataTree
        Of `open_results`.
    model : str
    aggregate : {"symmetric", "published"}
    ax : Axes, optional
        Drawn on these; by default on those of a new figure, 89 mm wide.

    Returns
    -------
    Axes
        A row a setting: filled with the published folds, open with folds that hold out all cells of
        a protein (or well, or field) together, where the run has them. The interval is a jackknife
        over classes; there is none with fewer than three.

    Raises
    ------
    InputError
        There is no such model, or its evaluation is not done yet.
    """
    there = node(tree, "evaluation", model).data_vars
    grouped = tuple(name for name in GROUPED_ACCURACIES if name in there)
    evaluation = read(tree, "evaluation", model, ACCURACIES + grouped)
    made = full_table(evaluation, aggregate=aggregate)
    settings = made["setting"].values
    finite(made["mean"].to_numpy(), f"accuracies of {model!r}")
    kinds = {"": "published folds"}
    if GROUPED in made.attrs["rows"]:
        kinds[GROUPED] = str(made.attrs["rows"][GROUPED])
    ax = panel(ax, height_mm=14 + 7.0 * len(settings))
    step = 0.15 if len(kinds) > 1 else 0.0
    for (prefix, title), offset in zip(kinds.items(), (-step, step), strict=False):
        mean, low, high = (
            made[prefix + n].to_numpy().astype(float) for n in ("mean", "low", "high")
        )
        for i, setting in enumerate(settings):
            points_with_bars(
                ax, mean[i : i + 1], np.array([i + offset]), low[i : i + 1], high[i : i + 1],
                ink=colour(setting), filled=not prefix,
            )  # fmt: skip
        ax.plot(
            [], [], "o", markersize=4, color=QUIET, markeredgewidth=0.9,
            markerfacecolor="white" if prefix else QUIET, label=plain(title),
        )  # fmt: skip
    name_rows(ax, [spoken(s) for s in settings])
    count = int(made["localizations"].max())
    ax.set_xlabel(f"mean accuracy, 95% interval (n = {count} classes)")
    ax.grid(axis="x", color="#e5e5e5", linewidth=0.5)
    if len(kinds) > 1:
        legend_above(ax, 2)
    warn_of_random(ax, evaluation.attrs)
    return ax


@styled
def sensitivity(tree: xr.DataTree, *, model: str, ax: Axes | None = None) -> Axes:
    """Plot the accuracy that each class loses when its background is of another class.

    Parameters
    ----------
    tree : DataTree
        Of `open_results`.
    model : str
    ax : Axes, optional
        Drawn on these; by default on those of a new figure, 89 mm wide.

    Returns
    -------
    Axes
        A row a class, those that lose most on top: `same - different` and `original - different`
        (the first two contrasts of `bgscale.dependence.sensitivity`), with 95% intervals.

    Raises
    ------
    InputError
        There is no such model, its evaluation is not done yet, or the run lacks the settings.
    """
    names = ("accuracy", "decision", "each_background")
    evaluation = read(tree, "evaluation", model, names)
    found = dependence.sensitivity(evaluation)
    contrasts = [str(c) for c in found["contrast"].values[:2]]
    if not contrasts:
        shown = ", ".join(map(str, evaluation["setting"].values))
        msg = f"no settings to compare among {shown}: sensitivity needs original or same, and "
        raise InputError(msg + "different: name them in run.toml (settings) and `bgscale run`")
    values = found["accuracy_difference"].sel(contrast=contrasts).to_numpy()
    finite(values, f"differences of accuracy of {model!r}")
    order = np.argsort(-np.nan_to_num(values[0], nan=-np.inf), kind="stable")
    classes = found["localization"].values[order]
    ax = panel(ax, height_mm=15 + row_mm(classes) * len(classes))
    step = 0.16 if len(contrasts) > 1 else 0.0
    ax.axvline(0, color=FAINT, linewidth=0.6, zorder=0)
    for contrast, offset, ink in zip(contrasts, (-step, step), (BLUE, VERMILLION), strict=False):
        at = found.sel(contrast=contrast).isel(localization=order)
        points_with_bars(
            ax,
            at["accuracy_difference"].to_numpy(),
            np.arange(len(classes)) + offset,
            at["accuracy_difference_low"].to_numpy(),
            at["accuracy_difference_high"].to_numpy(),
            ink=ink,
            label=spoken(contrast).replace(" - ", " − "),
        )
    name_rows(ax, classes)
    ax.set_xlabel("loss of accuracy, 95% interval")
    legend_above(ax, 2)
    warn_of_random(ax, evaluation.attrs)
    return ax
