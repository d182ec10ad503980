"""The run itself on the page: its title, whether it is complete, its plates, how it was done."""

from collections.abc import Mapping, Sequence
from functools import partial

import pandas as pd

from bgscale import plot
from bgscale.quality import LARGEST_PLATE, summarise, suspicious
from bgscale.report import montage, words
from bgscale.report.blocks import RANDOM, grid, said
from bgscale.report.figures import figure
from bgscale.report.gather import Model, Run
from bgscale.report.markup import Child, Markup, join, tag
from bgscale.report.methods import REFERENCES, methods, parameters
from bgscale.settings import get_setting
from bgscale.summary import field_table

WELLS_SHOWN = 12
STAGES_SHOWN = 8
MOST_DRAWN_WELLS = 400
"""Beyond so many, plates are a picture: drawn well by well they would be most of the page."""


def counted(run: Run) -> dict[str, int]:
    """Return the sizes of a run that the page speaks of."""
    fields = [
        run.node(f"plates/{plate}/fields").sizes["field"]
        for plate in run.plates
        if run.has(f"plates/{plate}/fields")
    ]
    return {
        "proteins": len(run.proteins),
        "classes": len(run.classes),
        "plates": len(run.plates),
        "fields": sum(fields),
        "cells": run.complete.outcome.cells,
        "usable": run.usable_cells(),
        "centres": run.node("centres").sizes["draw"] if run.has("centres") else 0,
    }


def header(run: Run, models: Sequence[Model], counts: Mapping[str, int]) -> Markup:
    """Return the title: what was found, in a sentence, and what the reader must know first."""
    size = ", ".join(
        f"{counts[key]:,} {what}" for key, what in (("proteins", "proteins"), ("cells", "cells"))
    )
    where = f", {words.count(counts['plates'], 'plate')}" if run.is_of_plates else ""
    kicker = tag("p", f"bgscale report of {run.name}: {size}{where}", class_="kicker")
    if len(models) == 1:
        title = words.finding(models[0])
        lines = [tag("p", words.beside(models[0]), class_="lead")]
    else:
        title = f"What a background of another localization does to {len(models)} models"
        lines = [
            tag("p", tag("strong", f"{one.name}: "), words.finding(one), class_="lead")
            for one in models
        ]
    return tag("header", kicker, tag("h1", title), lines, _warnings(run, models))


def _warnings(run: Run, models: Sequence[Model]) -> list[Markup]:
    found = []
    if not run.complete.is_complete:
        missing = run.complete.missing()
        total = len(run.complete.stages)
        text = (
            f" {total - len(missing)} of {words.count(total, 'stage')} are done; the first that is "
            f"not: {missing[0]}. What is complete is shown, the rest is named where it is missing. "
        )
        by = "A run works on it now." if run.complete.running else ""
        go_on = by or "bgscale run goes on with it."
        found.append(
            tag("p", tag("strong", "This run is not complete."), text, go_on, class_="warning")
        )
    for one in models:
        if one.random_weights:
            text = f"{one.name}: {RANDOM}" if len(models) > 1 else RANDOM
            found.append(tag("p", tag("strong", text), class_="warning"))
    limits = words.limits(run)
    if limits:
        found.append(tag("p", tag("strong", "A part of the screen alone: "), limits,
                         class_="warning"))  # fmt: skip
    return found


def what_was_run(run: Run, counts: Mapping[str, int]) -> Markup:
    """Return what the screen is, what of it could not be used, and what the settings are."""
    ended, complete = run.complete.outcome, run.complete
    state = (
        "All of its stages are complete."
        if complete.is_complete
        else f"Not complete: {words.listed(complete.missing(), STAGES_SHOWN)}."
    )
    parts = [said(f"{words.screen(run, counts)} {state}")]
    rows: list[Sequence[Child]] = []
    for what, of in (
        ("field could not be used", ended.failed_fields),
        ("cell could not be used", ended.unusable),
        ("cell set aside by rule", ended.set_aside),
    ):
        rows += [[what, reason, f"{n:,}"] for reason, n in of.items()]
    if rows:
        parts.append(grid(["What", "Reason", "Number"], rows, numbers=1))
    else:
        parts.append(said("Every field and cell could be used."))
    if complete.lost:
        lost = [[name, why] for name, why in complete.lost.items()]
        text = f"{words.count(len(lost), 'unit')} of work could not be done, and was set aside:"
        parts += [said(text), grid(["Unit", "It ended with"], lost)]
    settings = [[name.replace("_", " "), get_setting(name).description] for name in run.settings]
    parts.append(tag("h3", "The settings"))
    held = "The centre cell is held fixed; its background is changed, and it is embedded again."
    parts.append(said(held))
    parts.append(grid(["Setting", "Background"], settings))
    if run.shows("sample", "sample"):
        shown = run.classes[: montage.SAMPLE_CLASSES]
        label = f"A cell of each of {len(shown)} localizations under {len(settings)} settings"
        text = (
            f"{label}, from left: {', '.join(shown)}. Each cell keeps the grey scale of its crop "
            "as imaged; the outline is the centre cell."
        )
        holder = tag("div", data_picture="sample", data_label=label)
        parts.append(tag("figure", holder, tag("figcaption", text), id="fig-settings"))
    return join(parts)


def plates(run: Run) -> Markup:
    """Return which wells to look at, and the plates as seen from above."""
    missing = run.complete.missing([f"measure/{plate}" for plate in run.plates])
    if missing:
        return tag("p", f"No quality yet: {', '.join(missing)} not complete.", class_="absent")
    dataset = summarise(field_table(run.store))
    odd = suspicious(dataset)
    wells = int((dataset["fields"] > 0).sum())
    rows: Sequence[Sequence[Child]] = odd.astype(str).to_numpy().tolist()
    parts: list[Child] = [said(words.wells(len(odd), wells))]
    if rows:
        heads = ["Plate", "Well", "Flag", "What is odd"]
        shown = grid(heads, rows[:WELLS_SHOWN])
        rest = f" The first {WELLS_SHOWN} are listed." if len(rows) > WELLS_SHOWN else ""
        parts += [shown, tag("p", f"`bgscale quality` lists all.{rest}", class_="small")]
    if dataset.sizes["row"] > LARGEST_PLATE[0]:
        # wells that are not named by row and column would have a row each
        text = "The plates are not drawn: their wells are not in rows and columns."
        return join([*parts, tag("p", text, class_="absent")])
    focus = dataset.attrs["focus_channel"]
    drawn = [
        figure(
            f"quality-{variable}",
            f"Plates: {what}",
            f"Plates as seen from above: {what} (n = {wells:,} wells). A well to look at has a "
            "frame and the mark of its flag.",
            partial(plot.quality, dataset, variable=variable),
            pixels=wells > MOST_DRAWN_WELLS,
        )
        for variable, what in (("cells", "cells"), ("focus", f"focus measure, {focus}"))
    ]
    return join([*parts, *drawn])


def methods_section(run: Run, models: Sequence[Model], counts: Mapping[str, int]) -> Markup:
    """Return the methods in words, the references, every parameter and every token."""
    parts: list[Child] = []
    for one in methods(run, models, counts):
        parts += [tag("h3", one.heading), tag("p", one.text)]
    parts.append(tag("h3", "References"))
    parts.append(tag("ul", [tag("li", text) for text in REFERENCES], class_="notes"))
    keys: list[Sequence[Child]] = [
        [tag("code", p.key), tag("code", p.value), p.meaning] for p in parameters(run.config)
    ]
    tokens: list[Sequence[Child]] = [
        [name, tag("code", entry["token"]), f"{entry['units']}", entry["purpose"]]
        for name, entry in run.attrs["stages"].items()
    ]
    if run.lent is not None:
        table = grid(["Setting", *_LENT.values()], _lent(run.lent), numbers=len(_LENT) - 1)
        parts.append(tag("details", tag("summary", "Who lent backgrounds, how often"), table))
    for title, heads, rows in (
        ("Every parameter of the run", ["Key", "Value", "Meaning"], keys),
        ("Tokens of the stages", ["Stage", "Token", "Units", "Purpose"], tokens),
    ):
        parts.append(tag("details", tag("summary", title), grid(heads, rows)))
    return join(parts)


_LENT = {
    "localization": "Localization of the donor",
    "cells": "Cells",
    "donors": "Donors",
    "in_bank": "In the bank",
    "proteins": "Proteins",
    "fields": "Fields",
    "median_uses": "Median uses of one",
    "most_uses": "Most uses",
}


def _lent(frame: pd.DataFrame) -> list[Sequence[Child]]:
    """Return the rows of the table of donors."""
    return [
        [
            str(one["setting"]).replace("_", " "),
            *(
                value if isinstance(value, str) else f"{value:,.6g}".replace("nan", words.NONE)
                for value in (one[key] for key in _LENT)
            ),
        ]
        for one in frame.to_dict("records")
    ]
