"""Models side by side on the page: figures, paired differences, proteins, and what a cell costs.

Owns what is shown of a comparison; its numbers are those of `bgscale.comparison`. What is not
complete is not compared, and why is said.
"""

from collections.abc import Sequence
from functools import partial

import numpy as np
import xarray as xr

from bgscale import plot
from bgscale.comparison import compare
from bgscale.errors import InputError
from bgscale.report import compared, words
from bgscale.report.blocks import RANDOM, grid, said
from bgscale.report.figures import figure
from bgscale.report.gather import ORIGINAL, Model, Run
from bgscale.report.markup import Child, Markup, join, tag
from bgscale.rows import GROUPED

MOST_DRAWN = 1_000
"""Proteins beyond which the scatter is a picture: drawn one by one they would be most of it."""


def side_by_side(run: Run, models: Sequence[Model]) -> Markup:
    """Return the comparison of all models with the first."""
    lacking = [f"{one.name}: {one.absent['table']}" for one in models if one.table is None]
    if lacking:
        return _absent("; ".join(lacking))
    try:
        found = compare([run.store], models=[one.name for one in models])
    except InputError as error:
        # where the store lies is not for the page
        return _absent(str(error).replace(str(run.store), run.name))
    found = without_shifts(found, [one.name for one in models if not one.has_shifts])
    first, *others = models
    random = ", ".join(one.name for one in models if one.random_weights)
    parts: list[Child] = [
        tag("p", tag("strong", f"{random}: {RANDOM}"), class_="warning") if random else None,
        *(_verdict(found, run, one.name) for one in others),
        tag("p", compared.HOW_COMPARED, class_="notes"),
        tag("div", _figures(found, len(run.classes)), class_="pair"),
        tag("h3", f"Paired differences to {first.name}"),
        *(_differences(found, one.name) for one in others),
        tag("h3", "Proteins, and what a cell costs"),
        _of_models(found, run, models),
        tag("div", _scatters(run, first, others), class_="pair"),
    ]
    return join(parts)


def without_shifts(found: xr.Dataset, models: Sequence[str]) -> xr.Dataset:
    """Return a comparison without the shifts of models whose shifts are not complete."""
    there = ~found["model"].isin(list(models))
    names = ("tested", "shifted_significant", "shifted_substantial")
    return found.assign({name: found[name].where(there) for name in names})


def _absent(why: str) -> Markup:
    return tag("p", f"The models are not compared yet. {why}.", class_="absent")


def _verdict(found: xr.Dataset, run: Run, model: str) -> Markup:
    told = (
        compared.reading(found, model),
        compared.price(found, model),
        compared.shifts(found, model, run.setting),
    )
    return said(" ".join(filter(None, told)))


def _figures(found: xr.Dataset, classes: int) -> list[Markup]:
    grouped = f"{GROUPED}accuracy" in found
    folds = f"; open: with folds {found.attrs['grouped']}" if grouped else ""
    of = f"{classes} classes, {words.pairs(classes)}"
    texts = {
        "accuracy": ("Accuracy of the models under each setting",
                     f"Mean accuracy of each model under each setting, with 95% interval{folds}; "
                     f"{of}. Chance is 0.5."),
        "difference": ("What each model loses to a background",
                       f"Difference of accuracy between settings by each model, with 95% "
                       f"interval{folds}; {of}. A model that saw the centre cell alone would lie "
                       "at 0."),
    }  # fmt: skip
    return [
        figure(
            f"models-{variable}", title, text, partial(plot.comparison, found, variable=variable)
        )
        for variable, (title, text) in texts.items()
        if np.isfinite(found[variable]).any()
    ]


def _differences(found: xr.Dataset, model: str) -> Markup:
    """Return by how much a model's figures exceed the first one's, in each kind of folds."""
    kinds = {"": "published folds", GROUPED: found.attrs["grouped"]}
    kinds = {prefix: title for prefix, title in kinds.items() if f"{prefix}accuracy" in found}
    rows: list[Sequence[Child]] = []
    names = [*found["contrast"].to_numpy(), *found["setting"].to_numpy()]
    for name in map(str, names):
        shown = words.contrast(name) if " - " in name else f"accuracy, {name.replace('_', ' ')}"
        cells = [_difference(compared.figure_of(found, model, name, prefix)) for prefix in kinds]
        rows.append([shown, *cells])
    heads = [f"{model} {words.MINUS} {found.attrs['against']}", *kinds.values()]
    return grid(heads, rows, numbers=len(kinds))


def _difference(one: compared.Figure | None) -> Child:
    if one is None:
        return words.NONE
    between = words.interval(one.more_low, one.more_high)
    return [words.digits(one.more), tag("span", between, class_="interval")]


def _of_models(found: xr.Dataset, run: Run, models: Sequence[Model]) -> Markup:
    changed = [s for s in run.settings if s != ORIGINAL]
    rows: list[Sequence[Child]] = []
    for one in models:
        at = found.sel(model=one.name)
        cells: list[Child] = []
        for setting in changed:
            sure = compared.shifted(found, one.name, setting, "significant")
            more = tag("span", f"significantly {sure}", class_="interval")
            count = compared.shifted(found, one.name, setting)
            cells.append(count if count == words.NONE else [count, more])
        known = f"{int(at['known_proteins']):,}"
        rows.append([one.name, *cells, known, compared.cost(float(at["seconds_per_cell"]))])
    heads = ["Model", *(f"Shifted, {s.replace('_', ' ')}" for s in changed), "Trained on",
             "ms a cell"]  # fmt: skip
    text = (
        "Shifted: how many of the tested proteins are significantly and substantially shifted, by "
        "fixed classifiers. Trained on: how many of the screen's proteins the model was trained to "
        "tell apart. ms a cell: what one process took in this run to embed a cell under all "
        f"{len(run.settings)} settings, on whatever it ran."
    )
    return join([grid(heads, rows, numbers=len(heads) - 1), tag("p", text, class_="notes")])


def _scatters(run: Run, first: Model, others: Sequence[Model]) -> list[Markup]:
    """Return how far each protein shifts by the first model, and by each of the others."""
    made = []
    for i, other in enumerate(others, start=1):
        if not (first.has_shifts and other.has_shifts):
            continue
        name = words.spoken(run.setting)
        made.append(
            figure(
                f"models-shifts-{i}",
                f"Shifts of proteins by {other.name} against {first.name}",
                f"Each point is a protein: KL(original || setting) under {name} by {first.name}, "
                f"and by {other.name}; below the line {other.name} moves it less. Fixed "
                "classifiers; a KL is biased upward where cells are few, by both alike.",
                partial(plot.shift_comparison, run.tree, models=(first.name, other.name),
                        setting=run.setting),
                pixels=len(run.proteins) > MOST_DRAWN,
            )
        )  # fmt: skip
    return made
