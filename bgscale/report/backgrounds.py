"""What the controls say on the page: which backgrounds, which neighbours, which confidence."""

from functools import partial

from bgscale import plot
from bgscale.report import words
from bgscale.report.blocks import lacking, said
from bgscale.report.figures import figure
from bgscale.report.gather import HEADLINE, ORIGINAL, Model, Run
from bgscale.report.markup import Child, tag


def harm(run: Run, i: int, model: Model) -> Child:
    """Return which background takes what from which localization."""
    if model.findings is None:
        return lacking(model, "findings", "No controls")
    setting = HEADLINE if HEADLINE in run.settings else run.setting
    n = len(run.classes)
    change = figure(
        f"harm-{i}",
        "Change of accuracy by localization and background",
        f"Accuracy of each localization (row, n = {n}) on each background (column), less that of "
        "the same pairs as imaged.",
        partial(plot.harm, run.tree, model=model.name, setting=setting),
    )
    taken = figure(
        f"confusion-{i}",
        "Cells taken for the class of their background",
        "Share of the cells of a localization (row) that a classifier of crops as imaged takes for "
        "the class of their background (column); dots: not surely more than as imaged.",
        partial(plot.confusion, run.tree, model=model.name, setting=setting),
    )
    told = words.harm(model.findings["harm"], setting)
    return [said(told), tag("div", change, taken, class_="pair")]


def neighbours(run: Run, i: int, model: Model) -> Child:
    """Return how cells are told by how many neighbours they have."""
    if model.findings is None:
        return lacking(model, "findings", "No controls")
    found = model.findings["neighbours"]
    cells = int(found["recall_by_neighbours_n_cells"].isel(setting=0).sum())
    drawn = figure(
        f"neighbours-{i}",
        "Cells told right, by their neighbours",
        f"Share of cells told right (n = {cells:,}) by how many neighbours they were imaged with; "
        f"cells without neighbours are the control. Intervals: {found.attrs['intervals']}.",
        partial(plot.neighbours, run.tree, model=model.name),
    )
    return [said(words.neighbours(found)), drawn]


def reliability(run: Run, i: int, model: Model) -> Child:
    """Return whether the softmax can be believed, as imaged and on other backgrounds."""
    if "reliability" in model.absent:
        return lacking(model, "reliability", "No reliability")
    found = run.node(f"reliability/{model.name}").sel(label="top")
    drawn = []
    for setting in dict.fromkeys(name for name in (ORIGINAL, run.setting) if name):
        cells = int(found["n_cells"].sel(fit="fixed", setting=setting).sum())
        name = setting.replace("_", " ")
        text = (
            "Of cells that are given a class with this confidence, the share that is of it; "
            f"{name}, fixed classifier, n = {cells:,} cells of proteins with one localization, "
            "each class with the same weight."
        )
        draw = partial(plot.reliability, run.tree, model=model.name, setting=setting)
        drawn.append(figure(f"reliability-{setting}-{i}", f"Reliability, {name}", text, draw))
    told = words.reliability(found, run.settings)
    return [said(told), tag("div", drawn, class_="pair")]
