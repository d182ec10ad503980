"""What limits each stage: where its time goes, beside what the machine can do.

    OMP_NUM_THREADS=1 python benchmarks/limits.py FOLDER [--json limits.json]

The plate of `growth.py` (50 proteins, some 10,000 cells in 150 fields) goes through the whole job
in this process, on one thread. While a stage runs, a thread looks every 5 ms at what the other one
is doing: `where` is the innermost function of bgscale, `in` the library that it has called. Read
and written are the bytes of system calls, also those that the page cache answers.

Limits are measured in the same run: a copy of memory, matrix products in float32 and float64,
CRC-32 and a write to the disk that is waited for. A stage is given the time of its limits: its
bytes, copied once and summed, its writes waited for, of `embed` and `grid` the multiply-adds of the
network, of `classifiers` those of its loss. Of the others the arithmetic is not counted: `why` says
what they do with their time where it is more than twice the limit.
"""

import argparse
import json
import os
import sys
import tempfile
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from growth import config_of, screen_of
from machine import conditions

from bgscale.distribute.listener import Silent
from bgscale.distribute.units import Unit
from bgscale.models import load_model
from bgscale.proportions import classifier
from bgscale.run import Run, versions

EVERY_S = 0.005
SHOWN, WIDTHS = 3, (7, 9, 10, 9, 10)
FACTOR = 2
"""Of a stage that takes more than so many times its limit it is said why."""
WHY = {
    "evaluate": "SVMs: the arithmetic of libsvm and of the interior-point method is not counted",
    "grid": "the network, and looking which donors leave least of their own cells to be seen",
    "classifiers": "products of 15 rows, at half the rate of square ones; replicates copy cells",
    "shifts": "draws of the null, up to 100,000 a test, each through exp and log, not counted",
    "controls": "SVMs of classes on each other's background, and their folds, not counted",
    "measure": "planes are read by zarr chunk by chunk; the measuring of pixels is not counted",
    "segment": "planes are read by zarr chunk by chunk; the finding of cells is not counted",
    "cut": "zarr reads planes and writes crops chunk by chunk, 0.3 ms a cell in all",
    "bank": "donors lie scattered: for each a chunk of 64 cells is read and decoded",
    "proportions": "expectation maximisation of mixtures, not counted, and small reads by zarr",
    "predict": "small files, each made by zarr and waited for; the scoring is not counted",
    "ranges": "percentiles of all crops, not counted",
    "sample": "the banks are read whole for a few crops",
}
SMALL_S = 1.0
"""A shorter stage opens and writes arrays, a millisecond or two each."""


class Watched(Silent):
    """Watches the thread that runs, stage by stage."""

    def __init__(self) -> None:
        self.stages: dict[str, dict[str, Any]] = {}
        self.grid_crops = 0
        self._main = threading.get_ident()
        self._stage = ""
        self._before: tuple[float, float, dict[str, int]] = (0.0, 0.0, {})
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def stage_started(self, stage: str, purpose: str, units: int, done: int) -> None:
        """Begin to count."""
        name = stage.partition("/")[0]
        empty = {"wall_s": 0.0, "cpu_s": 0.0, "read_mb": 0.0, "written_mb": 0.0}
        self.stages.setdefault(name, empty | {"where": Counter(), "in": Counter()})
        self._before = time.perf_counter(), time.process_time(), _io()
        self._stage = name

    def unit_done(self, unit: Unit, summary: dict[str, Any]) -> None:
        """Count the crops that experiment 1 has embedded."""
        if self._stage == "grid":
            self.grid_crops += summary["crops"]

    def stage_finished(self, stage: str) -> None:
        """Add what the stage took."""
        of, self._stage = self.stages[self._stage], ""
        wall, cpu, io = self._before
        of["wall_s"] += time.perf_counter() - wall
        of["cpu_s"] += time.process_time() - cpu
        for name, key in (("read_mb", "rchar"), ("written_mb", "wchar")):
            of[name] += (_io()[key] - io[key]) / 1e6

    def end(self) -> None:
        """Stop watching."""
        self._ended.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._ended.wait(EVERY_S):
            frame = sys._current_frames().get(self._main)
            if frame is not None and self._stage:
                where, library = _place(frame)
                of = self.stages[self._stage]
                of["where"][where] += 1
                of["in"][library] += 1


def _place(frame: FrameType) -> tuple[str, str]:
    """Return the innermost function of bgscale, and the library that it has called."""
    library, step = "", frame
    while True:
        module = str(step.f_globals.get("__name__", ""))
        if module.startswith("bgscale"):
            return f"{module.removeprefix('bgscale.')}.{step.f_code.co_name}", library or "bgscale"
        library = module.partition(".")[0] if module else library
        if step.f_back is None:
            return "-", library
        step = step.f_back


def _io() -> dict[str, int]:
    lines = Path("/proc/self/io").read_text(encoding="ascii").splitlines()
    return {key: int(value) for key, value in (line.split(": ") for line in lines)}


def limits() -> dict[str, float]:
    """Return what this machine does on one thread: GB/s, and multiply-adds a second in float32."""
    data = np.random.default_rng(0).integers(0, 255, 64_000_000, np.uint8)
    target = np.empty_like(data)
    single = torch.randn(2048, 2048)
    double = np.random.default_rng(0).random((1024, 1024))

    def written() -> None:
        with tempfile.NamedTemporaryFile(dir=".") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())

    return {
        "copy_gb_s": data.nbytes / 1e9 / _best(lambda: np.copyto(target, data)),
        "crc_gb_s": data.nbytes / 1e9 / _best(lambda: zlib.crc32(data)),
        "disk_gb_s": data.nbytes / 1e9 / _best(written),
        "float32_multiply_adds_s": 2048**3 / _best(lambda: single @ single),
        "float64_multiply_adds_s": 1024**3 / _best(lambda: double @ double),
    }


def _best(do: Callable[[], object], repeats: int = 5) -> float:
    taken = []
    for _ in range(repeats):
        started = time.perf_counter()
        do()
        taken.append(time.perf_counter() - started)
    return min(taken)


def at_least(stage: dict[str, Any], can: dict[str, float], single: float, double: float) -> float:
    """Return the seconds that a stage's bytes and multiply-adds take at the limits."""
    read, written = stage["read_mb"] / 1e3, stage["written_mb"] / 1e3
    moved = (read + written) / can["copy_gb_s"]
    # what is written is read back for its checksum, and waited for
    kept = written / can["crc_gb_s"] + written / can["disk_gb_s"]
    computed = single / can["float32_multiply_adds_s"] + double / can["float64_multiply_adds_s"]
    return moved + kept + computed


def counted_losses() -> Counter[str]:
    """Count the multiply-adds of the classifiers' loss from here on: two products each."""
    counted: Counter[str] = Counter()
    loss = classifier._loss

    def counting(flat: Any, design: Any, *others: Any) -> Any:
        counted["classifiers"] += 2 * flat.size * design.shape[1]
        return loss(flat, design, *others)

    classifier._loss = counting
    return counted


def multiply_adds() -> float:
    """Return the multiply-adds of a crop in `tiny`."""
    from torch.utils.flop_counter import FlopCounterMode

    model = load_model("tiny")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.network(torch.zeros(1, model.spec.n_inputs, 64, 64))
    return float(counter.get_total_flops()) / 2


def show(stages: dict[str, dict[str, Any]], can: dict[str, float]) -> None:
    """Print the stages, the longest first."""
    print("limits: " + ", ".join(f"{name} {value:.3g}" for name, value in can.items()))
    heads = zip(("cpu s", "limit s", "times", "read MB", "write MB"), WIDTHS, strict=True)
    print(f"{'stage':<12}" + "".join(f"{h:>{w}}" for h, w in heads) + "  where (in)")
    for name, stage in sorted(stages.items(), key=lambda item: -item[1]["cpu_s"]):
        figures = (
            f"{stage['cpu_s']:.1f}", f"{stage['limit_s']:.2f}", f"{stage['times']:.1f}",
            f"{stage['read_mb']:.0f}", f"{stage['written_mb']:.0f}",
        )  # fmt: skip
        said, within = (
            ", ".join(f"{k} {share:.0%}" for k, share in stage[key].items())
            for key in ("where", "in")
        )
        line = "".join(f"{f:>{w}}" for f, w in zip(figures, WIDTHS, strict=True))
        print(f"{name:<12}{line}  {said} ({within})")
        if stage.get("why"):
            print(f"{'':<14}{stage['why']}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--json", type=Path, help="file to write")
    options = parser.parse_args()
    folder: Path = options.folder.resolve()
    torch.set_num_threads(1)
    screen_of(folder, 1)
    can, double, watched = limits(), counted_losses(), Watched()
    try:
        outcome = Run.from_config(config_of(folder, 1, "limits")).execute(listener=watched)
    finally:
        watched.end()
    each = multiply_adds()
    single = {"embed": 5 * outcome.cells * each, "grid": watched.grid_crops * each}
    for name, stage in watched.stages.items():
        stage["limit_s"] = at_least(stage, can, single.get(name, 0.0), double[name])
        stage["times"] = stage["cpu_s"] / stage["limit_s"]
        if stage["times"] > FACTOR:
            small = stage["cpu_s"] < SMALL_S
            stage["why"] = "under a second: arrays are opened" if small else WHY.get(name, "")
        for key in ("where", "in"):
            total = stage[key].total() or 1
            stage[key] = {k: round(n / total, 3) for k, n in stage[key].most_common(SHOWN)}
    show(watched.stages, can)
    if options.json:
        report = {"cells": outcome.cells, "limits": can, "stages": watched.stages}
        report |= {"versions": versions()} | conditions(threads=1, seeds=[0])
        text = json.dumps(report, indent=1)
        options.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
