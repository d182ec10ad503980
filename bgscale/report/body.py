"""The order of the page: its sections, and the list of contents.

What differs between models has a part for each, of which the script shows one.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple

from bgscale.report.about import methods_section, plates, what_was_run
from bgscale.report.accuracies import classes, tables
from bgscale.report.backgrounds import harm, neighbours, reliability
from bgscale.report.blocks import by_model
from bgscale.report.gather import Model, Run
from bgscale.report.markup import Markup, tag
from bgscale.report.proteins import most_shifted, proteins, shifts
from bgscale.report.side_by_side import side_by_side


class Section(NamedTuple):
    """A section: where links lead, what the list of contents says, its heading, what is in it."""

    key: str
    short: str
    title: str
    content: Markup


def sections(run: Run, models: Sequence[Model], counts: Mapping[str, int]) -> list[Section]:
    """Return the sections of the page, in their order."""
    each = partial(by_model, models)
    found = [
        Section("run", "Run", "What was run", what_was_run(run, counts)),
        Section("table", "Table", "Are localizations told apart?", tables(run, models)),
    ]
    if len(models) > 1:
        content = side_by_side(run, models)
        found.append(Section("models", "Models", "Models side by side", content))
    found += [
        Section("classes", "Classes", "Which localizations lose",
                each(partial(classes, run))),
        Section("shifts", "Shifts", "How far proteins shift", each(partial(shifts, run))),
        Section("proteins-most", "Most shifted", "The most shifted proteins",
                most_shifted(run, models)),
        Section("harm", "Harm", "Which backgrounds do the harm", each(partial(harm, run))),
        Section("neighbours", "Neighbours", "Is it the neighbours?",
                each(partial(neighbours, run))),
    ]  # fmt: skip
    if run.is_of_plates:
        found.append(Section("plates", "Plates", "Quality of the plates", plates(run)))
    found += [
        Section("reliability", "Reliability", "Can the proportions be believed?",
                each(partial(reliability, run))),
        Section("proteins", "Proteins", "All proteins", proteins(run, models)),
        Section("methods", "Methods", "Methods", methods_section(run, models, counts)),
    ]  # fmt: skip
    return found


def navigation(parts: Sequence[Section], models: Sequence[Model]) -> Markup:
    """Return the list of contents, and with several models the switch between them."""
    links = [tag("a", part.short, href=f"#sec-{part.key}") for part in parts]
    switch = None
    if len(models) > 1:
        options = [tag("option", one.name, value=i) for i, one in enumerate(models)]
        chooser = tag("select", options, data_choose="model")
        switch = tag("label", "Model ", chooser)
    return tag("nav", tag("div", links, switch), aria_label="contents")


def as_section(part: Section) -> Markup:
    """Return a section with its heading."""
    return tag("section", tag("h2", part.title), part.content, id=f"sec-{part.key}")
