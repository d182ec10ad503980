"""Pieces that several sections of the page are made of: tables, and what is said of nothing."""

from collections.abc import Callable, Sequence

from bgscale.report.gather import Model
from bgscale.report.markup import Child, Markup, join, tag

RANDOM = "Random weights: these figures say nothing of a trained model."


def said(text: Child) -> Markup:
    """Return a paragraph."""
    return tag("p", text)


def lacking(model: Model, part: str, what: str) -> Markup:
    """Return what stands in the place of a part that is not there: why."""
    return tag("p", f"{what}: {model.absent[part]}.", class_="absent")


def grid(heads: Sequence[str], rows: Sequence[Sequence[Child]], *, numbers: int = 0) -> Markup:
    """Return a table; the last `numbers` columns are of numbers."""
    first = len(heads) - numbers

    def kind(k: int) -> str | None:
        return "number" if k >= first else None

    head = [tag("th", text, scope="col", class_=kind(k)) for k, text in enumerate(heads)]
    body = [
        tag("tr", [
            tag("td" if k else "th", cell, class_=kind(k), scope=None if k else "row")
            for k, cell in enumerate(row)
        ])
        for row in rows
    ]  # fmt: skip
    table = tag("table", tag("thead", tag("tr", head)), tag("tbody", body))
    return tag("div", table, class_="scroll", tabindex="0", role="group", aria_label=heads[0])


def by_model(models: Sequence[Model], made: Callable[[int, Model], Child]) -> Markup:
    """Return the part of each model; the first is shown until another is chosen."""
    parts = []
    for i, one in enumerate(models):
        warned = tag("p", tag("strong", RANDOM), class_="warning") if one.random_weights else None
        parts.append(tag("div", warned, made(i, one), data_model=i, hidden=i > 0))
    return join(parts)
