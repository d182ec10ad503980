"""The README's table of ratios, made from the JSON that is committed beside the scripts.

A row is what was measured, the peer, both figures and their ratio, which is above 1 where bgscale
is the faster. Figures are medians with the lowest and the highest repetition, as far as the JSON
has them; what it lacks is said, never filled in.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
README = "README.md"
BEGIN, END = "<!-- benchmarks -->", "<!-- end benchmarks -->"
SOURCES = (
    "segmentation", "extraction", "embedding", "classification", "proportions", "cluster",
)  # fmt: skip
MODELS = {"pifia": "PIFiA", "pci": "PCI", "deeploc": "DeepLoc"}


@dataclass(frozen=True)
class Figure:
    """A median, and between which values repetitions lie where that is known."""

    median: float
    lowest: float | None = None
    highest: float | None = None

    def __str__(self) -> str:
        if self.lowest is None or self.highest is None:
            return number(self.median)
        return f"{number(self.median)} ({number(self.lowest)} to {number(self.highest)})"

    def inverse(self) -> "Figure":
        """Return one over it."""
        if self.lowest is None or self.highest is None:
            return Figure(1 / self.median)
        return Figure(1 / self.median, 1 / self.highest, 1 / self.lowest)


@dataclass(frozen=True)
class Row:
    """A row of the table."""

    what: str
    peer: str
    theirs: Figure
    ours: Figure
    ratio: Figure
    source: str


def number(value: float) -> str:
    """Return a figure as it is printed, to the digits that the JSON can have."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 2 else f"{value:.2f}"


def figure(of: Any) -> Figure:
    """Return what the JSON has: a number, or a median with its spread."""
    if isinstance(of, dict):
        return Figure(of["median"], of.get("lowest"), of.get("highest"))
    return Figure(of)


def segmentation(report: dict[str, Any]) -> Iterator[Row]:
    ways = report["methods"]
    yield Row(
        "cells found, ms a field of 1024 x 1024 pixels, one core", "plain scikit-image",
        figure(ways["scikit-image"]["ms"]), figure(ways["bgscale"]["ms"]),
        figure(report["times faster"]), "segmentation",
    )  # fmt: skip


def extraction(report: dict[str, Any]) -> Iterator[Row]:
    peer = f"scPortrait {report['versions']['scportrait']}"
    for part, what in (
        ("cutting", "crops cut, from store to store, cells a second of one core"),
        ("loop", "the same, beside its loop over what it has in memory"),
        ("whole", "from images and masks to crops, a project a field, cells a second of one core"),
    ):
        row = report[part]
        theirs, ours = figure(row["scPortrait"]), figure(row["bgscale"])
        yield Row(what, peer, theirs, ours, figure(row["times scPortrait"]), "extraction")


def embedding(report: dict[str, Any]) -> Iterator[Row]:
    eager = "eager torch, float32"
    for model, ways in report["network"].items():
        for precision in ("float32", "bfloat16"):
            way = f"openvino, {precision}, on cpu"
            if way in ways:
                yield Row(
                    f"{MODELS[model]}, {precision}, crops a second", eager, figure(ways[eager]),
                    figure(ways[way]), figure(ways[way]["times eager"]), "embedding",
                )  # fmt: skip
    for model, unit in report["unit"].items():
        yield Row(
            f"{MODELS[model]} from store to store, five settings, crops a second",
            "its bare network, bfloat16", figure(unit["bare network"]),
            figure(unit["store to store"]), figure(unit["share"]), "embedding",
        )  # fmt: skip
    rates = report["composition"]["cells a second"]
    yield Row(
        "five settings composed, cells a second of one core", "numpy", figure(rates["numpy"]),
        figure(rates["bgscale"]), figure(report["composition"]["times numpy"]), "embedding",
    )  # fmt: skip


def classification(report: dict[str, Any]) -> Iterator[Row]:
    for name, said in (("typical", "mean accuracy {}"), ("hard", "mean accuracy {}")):
        part = report[name]
        block, mean = part["whole block"], f"{part['accuracy']['mean']:.2f}"
        for solver in ("libsvm", "exact"):
            by_band = [row["times published"][solver] for row in part["bands"].values()]
            ratio = Figure(block["times published"][solver], min(by_band), max(by_band))
            yield Row(
                f"{part['pairs']} SVM problems, {said.format(mean)}, `{solver}`, s of one core",
                "scikit-learn's SVC, as published", figure(block["s"]["published"]),
                figure(block["s"][solver]), ratio, "classification",
            )  # fmt: skip


def proportions(report: dict[str, Any]) -> Iterator[Row]:
    fit = report["published"]
    yield Row(
        f"softmax regression on {fit['cells']:,} cells, s of one core", "DataLoader loop",
        figure(fit["loop_s"]), figure(fit["bgscale_s"]), figure(fit["times_faster"]),
        "proportions",
    )  # fmt: skip


def cluster(report: dict[str, Any]) -> Iterator[Row]:
    part = report["overhead"]
    ways = {}
    for way in ("serial", "cluster"):
        each = part[way]["each_work_s"]
        ways[way] = Figure(part[way]["work_s"], min(each), max(each))
    ratio = Figure(part["ratio"], min(part["ratios"]), max(part["ratios"]))
    yield Row(
        f"the same units by {part['processes']} local workers, s", "serial processes",
        ways["serial"], ways["cluster"], ratio.inverse(), "cluster",
    )  # fmt: skip


def rows(reports: dict[str, dict[str, Any]]) -> list[Row]:
    """Return all rows, in the order of a run."""
    makers = (segmentation, extraction, embedding, classification, proportions, cluster)
    return [row for make in makers for row in make(reports[make.__name__])]


def conditions(report: dict[str, Any]) -> str:
    """Return in words where figures come from, with what the JSON does not hold."""
    said = report.get("machine", {})
    if isinstance(said, str):
        return f"{said}; nothing else recorded"
    known = {"processor": report.get("processor")} | said
    known |= {key: report[key] for key in ("threads", "seeds") if key in report}
    seeds, memory = known.get("seeds"), known.get("memory_gib")
    parts = {
        "processor": known.get("processor"),
        "cores": known.get("cores"),
        "memory": f"{memory} GiB" if memory else None,
        "threads": known.get("threads"),
        "seeds": None if seeds is None else " ".join(map(str, seeds)) or "none",
    }
    words = [f"{name} {value}" for name, value in parts.items() if value is not None]
    missing = ", ".join(name for name, value in parts.items() if value is None)
    words += [f"{missing} not recorded"] if missing else []
    words += ["on a busy machine"] if report.get("busy") else []
    return "; ".join(words)


def committed() -> dict[str, dict[str, Any]]:
    """Return the reports that the table is made of."""
    return {
        name: json.loads((HERE / f"{name}.json").read_text(encoding="utf-8")) for name in SOURCES
    }


def table(reports: dict[str, dict[str, Any]] | None = None) -> str:
    """Return the table in Markdown, with the conditions of each script below it."""
    reports = committed() if reports is None else reports
    lines = ["| what | peer | peer's | bgscale's | times as fast | by |", "| --- " * 6 + "|"]
    lines += [
        f"| {r.what} | {r.peer} | {r.theirs} | {r.ours} | {r.ratio} | `{r.source}` |"
        for r in rows(reports)
    ]
    lines += ["", "Each is measured by `python benchmarks/NAME.py`:", ""]
    lines += [
        f"- [`{name}`](benchmarks/{name}.json): {conditions(reports[name])}" for name in SOURCES
    ]
    return "\n".join(lines)


def replaced(text: str, made: str) -> str:
    """Return a README with this table between its markers.

    Raises
    ------
    ValueError
        If the markers are not there once each, in their order.
    """
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        msg = f"expected {BEGIN} and, after it, {END}, once each: write them where the table goes"
        raise ValueError(msg)
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n{made}\n{END}{rest.split(END)[1]}"
