"""Experiment 1 on the page: the table of settings and models, differences, each localization."""

import math
from collections.abc import Mapping, Sequence
from functools import partial

import xarray as xr

from bgscale import plot
from bgscale.report import words
from bgscale.report.blocks import by_model, grid, lacking, said
from bgscale.report.figures import figure
from bgscale.report.gather import Model, Run
from bgscale.report.markup import Child, Markup, join, tag

_OF_A_CELL = ("mean", "published_error", "low", "high")


def tables(run: Run, models: Sequence[Model]) -> Markup:
    """Return the table of all models, the differences between settings, and a figure of each."""
    shown = {one.name: one.table for one in models if one.table is not None}
    parts: list[Child] = []
    if shown:
        notes = [
            tag("li", f"{name}: {line}")
            for name, table in shown.items()
            for line in table.attrs["note"].splitlines()
        ]
        parts += [
            said(words.HOW_TOLD_APART),
            _accuracies(run, shown),
            tag("ul", notes, class_="notes"),
            tag("h3", "Differences between settings"),
            _contrasts(shown),
        ]
    return join([*parts, by_model(models, partial(_means, run))])


def _means(run: Run, i: int, model: Model) -> Child:
    if model.table is None:
        return lacking(model, "table", "No table of accuracies")
    n = len(run.classes)
    return figure(
        f"table-{i}",
        "Mean accuracy under each setting",
        f"Mean accuracy of {model.name} under each setting with its 95% interval; {n} classes, "
        f"{words.pairs(n)}.",
        partial(plot.table, run.tree, model=model.name),
    )


def _accuracies(run: Run, tables: Mapping[str, xr.Dataset]) -> Markup:
    settings = list(run.settings)
    head = [tag("th", "Model", scope="col")]
    head += [tag("th", s.replace("_", " "), scope="col", class_="number") for s in settings]
    rows = []
    for model, table in tables.items():
        found = table.reindex(setting=settings)
        titles = {"": f"{model}, folds as published", **table.attrs["rows"]}
        for prefix, title in titles.items():
            own = found[[prefix + name for name in _OF_A_CELL]].to_array().transpose("setting", ...)
            cells = [
                tag("td", words.estimate(*map(float, values)), class_="number")
                for values in own.to_numpy()
            ]
            kind = "further" if prefix else "of-model"
            rows.append(tag("tr", tag("th", title, scope="row"), cells, class_=kind))
    made = tag("table", tag("thead", tag("tr", head)), tag("tbody", rows))
    return tag("div", made, class_="scroll", tabindex="0", role="group", aria_label="accuracies")


def _contrasts(tables: Mapping[str, xr.Dataset]) -> Markup:
    rows: list[Sequence[Child]] = []
    for model, table in tables.items():
        for prefix, title in {"": "as published", **table.attrs["rows"]}.items():
            for contrast in table["contrast"].to_numpy():
                at = table.sel(contrast=contrast)
                ends = (float(at[f"{prefix}difference_{end}"]) for end in ("low", "high"))
                value = float(at[f"{prefix}difference"])
                if math.isfinite(value):
                    name = words.contrast(str(contrast))
                    between = words.interval(*ends)
                    rows.append([model, name, title, words.digits(value), between])
    return grid(["Model", "Contrast", "Folds", "Difference", "95% interval"], rows, numbers=2)


def classes(run: Run, i: int, model: Model) -> Child:
    """Return the paper's Figure 2, and what each localization loses."""
    if model.table is None:
        return lacking(model, "table", "No accuracies by localization")
    n = len(run.classes)
    against = figure(
        f"accuracy-{i}",
        "Accuracy with modified against original background",
        "Accuracy with modified background against accuracy with the original, each point a "
        f"localization (n = {n}); below the diagonal the modified background does harm.",
        partial(plot.accuracy, run.tree, model=model.name),
    )
    losses = figure(
        f"sensitivity-{i}",
        "Loss of accuracy of each localization",
        f"What each localization (n = {n}) loses, with the 95% interval over the other classes.",
        partial(plot.sensitivity, run.tree, model=model.name),
    )
    return tag("div", against, losses, class_="pair")
