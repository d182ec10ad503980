"""Experiment 2 on the page: how far proteins shift, which most, and the table of all.

What is said of single proteins is drawn by the page's script; here are the places where it goes.
"""

from collections.abc import Sequence
from functools import partial

from bgscale import plot
from bgscale.report import words
from bgscale.report.blocks import grid, lacking, said
from bgscale.report.figures import figure
from bgscale.report.gather import FITS, ORIGINAL, Model, Run
from bgscale.report.markup import Child, Markup, join, tag


def shifts(run: Run, i: int, model: Model) -> Child:
    """Return the paper's Figure 3A, and how many proteins shift by test and by size."""
    if not model.has_shifts:
        return lacking(model, "shifts", "No shifts")
    tested = max(of["tested"] for of in model.shares.values())
    drawn = figure(
        f"shifts-{i}",
        "Distribution of shifts",
        f"KL(original || setting) of the proportions of each protein (n = {tested:,} tested), "
        "fixed classifier, with quartiles, and the shares that are significantly and "
        "substantially shifted.",
        partial(plot.shift_distribution, run.tree, model=model.name),
    )
    rows: list[Sequence[Child]] = []
    for (setting, fit), of in model.shares.items():
        median, low, high = (words.digits(of["kl"][q], 2) for q in ("median", "q25", "q75"))
        shares = (
            words.percent(of[f"share_{kind}"])
            for kind in ("significant", "significant_and_substantial", "with_large_kl")
        )
        tested_of = f"{of['tested']:,} of {of['proteins']:,}"
        name = setting.replace("_", " ")
        rows.append([name, fit, tested_of, *shares, f"{median} ({low} to {high})"])
    heads = ["Against original", "Classifier", "Tested", "Significant", "Substantial",
             "Large KL", "Median KL (quartiles)"]  # fmt: skip
    tau = run.config["shifts"]["tau"]
    return [
        said(words.shifted(model, run)),
        drawn,
        grid(heads, rows, numbers=5),
        tag("p", words.how_shifted(run.config["shifts"], tau), class_="notes"),
    ]


def most_shifted(run: Run, models: Sequence[Model]) -> Markup:
    """Return the place of the most shifted proteins, which the script draws."""
    if not any(one.has_shifts for one in models):
        return _without_shifts(models)
    text = (
        "Substantially shifted ones first, then by KL. Dots are the proportions under each "
        "setting, lines their 95% intervals in fresh fields; beside them a few of the protein's "
        "own cells, the centre cell outlined."
    )
    more = tag("button", "Show more", type="button", id="most-shifted-more", hidden=True)
    return join([
        _without_shifts(models),
        tag("div", said(text), _controls(run, search=False),
            tag("div", id="most-shifted-list"), more, class_="needs-shifts"),
    ])  # fmt: skip


def proteins(run: Run, models: Sequence[Model]) -> Markup:
    """Return the place of the table of all proteins, which the script fills."""
    if not any(one.has_shifts for one in models):
        return _without_shifts(models)
    heads = (
        ("name", "Protein", ""), ("label", "Localization", ""),
        ("cells", "Cells", "number on-wide"),
        ("kl", "KL (nat)", "number"), ("tv", "Total variation", "number"),
        ("q", "q", "number on-wide"), ("", "Shift", ""), ("", "What moved most", "on-wide"),
    )  # fmt: skip
    head = [
        tag("th", tag("button", text, type="button") if key else text, scope="col",
            data_sort=key or None, class_=kind or None)
        for key, text, kind in heads
    ]  # fmt: skip
    pages = tag(
        "div",
        tag("button", "Previous", type="button", id="page-before"),
        tag("button", "Next", type="button", id="page-after"),
        tag("span", id="count", aria_live="polite"),
        tag("button", "Save as CSV", type="button", id="save-table", class_="save"),
        class_="controls",
    )
    caption = tag("caption", "Shifts of all proteins", class_="small", hidden=True)
    table = tag("table", caption, tag("thead", tag("tr", head)), tag("tbody"), id="proteins",
                class_="wide")  # fmt: skip
    missing = tag("p", id="not-found", class_="warning", role="alert", hidden=True)
    held = tag("div", table, class_="scroll", tabindex="0", role="group", aria_label="proteins")
    shown = tag("div", _controls(run, search=True), held, pages, class_="needs-shifts")
    return join([_without_shifts(models), missing, shown])


def _controls(run: Run, *, search: bool) -> Markup:
    settings = [tag("option", s.replace("_", " "), value=s) for s in run.settings if s != ORIGINAL]
    fits = [tag("option", fit, value=fit) for fit in FITS]
    parts = []
    if search:
        kinds = (("all", "all proteins"), ("significant", "significantly shifted"),
                 ("substantial", "substantially shifted"), ("untested", "not tested"))  # fmt: skip
        parts += [
            tag("label", "Search ", tag("input", type="search", id="search", autocomplete="off",
                                        placeholder="protein or localization")),
            tag("label", "Show ", tag("select", [tag("option", t, value=k) for k, t in kinds],
                                      id="kind")),
        ]  # fmt: skip
    parts += [
        tag("label", "Setting ", tag("select", settings, data_choose="setting")),
        tag("label", "Classifier ", tag("select", fits, data_choose="fit")),
    ]
    return tag("div", parts, class_="controls", role="search" if search else None)


def _without_shifts(models: Sequence[Model]) -> Markup:
    parts = [
        tag("div", None if one.has_shifts else lacking(one, "shifts", "No shifts"), data_model=i,
            hidden=i > 0)
        for i, one in enumerate(models)
    ]  # fmt: skip
    return join(parts)
