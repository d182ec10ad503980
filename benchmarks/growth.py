"""How time, memory, files and tasks grow with the number of cells, from fields to shifted proteins.

    python benchmarks/growth.py FOLDER [--plates 1 2 3 5 10 20 30 100] [--json growth.json]

A plate of 50 proteins, some 10,000 cells in 150 fields, is simulated once, with 15 localizations;
the screens have it so many times, with hard links instead of copies, each plate with proteins of
its own. So the pixels repeat, the cells do not: identity, donors and folds are of the plate. Each
screen goes through the whole job, in a process of its own with a local cluster of two workers;
`tiny` with random weights stands for the network; donors, the crops of the classification and the
cells of the classifiers are as many on all screens (400, 200 and 400 a class), as on any large one.

By stage: the time of its units (`seconds`) and what the processor spent on them (`cpu_seconds`,
which is fitted: other work on the machine counts less there) as a fixed part plus a part that
grows as cells to an exponent, with 95% intervals; the time between its units, which is the
scheduler's and the driver's. Memory is the peak of each process. The 100 plates hold a million
cells: they take half an hour of two quiet cores and 35 GB. A screen that is in the JSON already is
not run again.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from distributed import Client
from machine import conditions
from scipy.optimize import least_squares
from scipy.stats import t as student

from bgscale import connect, ngff
from bgscale.config import RunConfig
from bgscale.distribute.ledger import Ledger
from bgscale.distribute.listener import Silent
from bgscale.run import Run, versions
from bgscale.simulate import ScreenSpec, write_plates

FIGURE = Path(__file__).parent / "figures" / "growth.png"
SPEC = ScreenSpec(
    proteins_per_localization=3, mixed_proteins=5, fields_per_protein=3, cells_per_field=68,
    field_size_px=560, diffuse=0.2,
)  # fmt: skip
NOTHING = 1e-3
"""A fixed part of a stage that is less than so much of its time on the smallest screen is none."""
LARGEST = 4
"""Stages that take most of the time have a line of their own in the figure."""


def screen_of(folder: Path, plates: int) -> Path:
    """Return a screen of so many plates, all links to the simulated one."""
    first = folder / "first"
    if not (first / "platemap.csv").exists():
        write_plates(SPEC, first, labels=False)
    screen = folder / f"screen{plates}"
    if (screen / "platemap.csv").exists():
        return screen
    rows = pd.read_csv(first / "platemap.csv")
    fields = [str(number) for number in range(SPEC.fields_per_protein)]
    tables = []
    for number in range(1, plates + 1):
        name, path = f"P{number}", screen / "plates" / f"P{number}.zarr"
        shutil.rmtree(path, ignore_errors=True)
        ngff.create_plate(path, name=name, fields=dict.fromkeys(rows["well"], fields))
        for source in sorted((first / "plates" / "P1.zarr").rglob("*")):
            target = path / source.relative_to(first / "plates" / "P1.zarr")
            if source.is_dir():
                target.mkdir(exist_ok=True)
            elif not target.exists():
                os.link(source, target)
        tables.append(rows.assign(plate=name, protein=rows["protein"] + f"of{name}"))
    pd.concat(tables).to_csv(screen / "platemap.csv", index=False)
    return screen


def config_of(folder: Path, plates: int, name: str = "results") -> RunConfig:
    """Return the config of the screen of so many plates."""
    screen = folder / f"screen{plates}"
    return RunConfig.from_dict(
        {
            "store": str(folder / f"{name}{plates}.zarr"),
            "screen": {
                "path": str(screen / "plates"), "plate_map": str(screen / "platemap.csv"),
                "nucleus": "nuc",
            },
            "donors": {"per_class": 400, "windows_per_class": 200},
            "classification": {"crops_per_class": 200},
            "proportions": {"cells_per_class": 400},
        }
    )  # fmt: skip


class Walls(Silent):
    """Hears how long each stage takes, with the time between its units, and looks at the workers.

    `memory` is the peak of any worker until the end of each stage, in MB.
    """

    def __init__(self, client: Client) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.memory: dict[str, float] = {}
        self._client = client
        self._began: dict[str, float] = {}

    def stage_started(self, stage: str, purpose: str, units: int, done: int) -> None:
        """Start the clock of a stage."""
        self._began[stage] = time.perf_counter()

    def stage_finished(self, stage: str) -> None:
        """Stop it."""
        name = stage.partition("/")[0]
        self.seconds[name] += time.perf_counter() - self._began.pop(stage)
        self.memory[name] = max(self._client.run(_peak_mb).values())


def measure(folder: Path, plates: int) -> dict[str, Any]:
    """Run a screen of so many plates; return what it took."""
    config = config_of(folder, plates)
    store = Path(config.store)
    started = time.perf_counter()
    run = Run.from_config(config)
    planned = time.perf_counter() - started
    with connect("local") as client:
        assert client is not None
        walls, started = Walls(client), time.perf_counter()
        outcome = run.execute(client, listener=walls)
        wall = time.perf_counter() - started
        workers = list(client.run(_peak_mb).values())
    stages: dict[str, dict[str, float]] = {}
    ledger = Ledger(str(store))
    for unit in ledger.recorded():
        done = (ledger.record(unit) or {}).get("summary", {})
        of = stages.setdefault(unit.stage.partition("/")[0], {"units": 0, "s": 0.0, "cpu_s": 0.0})
        of["units"] += 1
        of["s"] += done["seconds"]
        of["cpu_s"] += done["cpu_seconds"]
    for name, seconds in walls.seconds.items():
        stages[name] |= {"wall_s": seconds, "worker_mb": walls.memory[name]}
    return {
        "plates": plates,
        "cells": outcome.cells,
        "proteins": plates * (SPEC.proteins_per_localization * 15 + SPEC.mixed_proteins),
        "workers": len(workers),
        "open_s": planned,
        "wall_s": wall,
        "tasks": sum(int(stage["units"]) for stage in stages.values()),
        "worker_mb": workers,
        "driver_mb": _peak_mb(),
        "disk": {
            "results": _on_disk(store),
            "records": _on_disk(store.with_name(f"{store.name}.progress")),
        },
        "stages": stages,
    }


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000


def _on_disk(path: Path) -> dict[str, float]:
    sizes = [f.stat().st_size for f in path.rglob("*") if f.is_file()]
    return {"files": len(sizes), "mb": sum(sizes) / 1e6}


def fitted(cells: Sequence[float], seconds: Sequence[float]) -> dict[str, float] | None:
    """Return ``fixed + each * cells ** exponent``, by relative errors; None of too few screens.

    A fixed part that comes out as nothing is none, and is not counted as fitted.
    """
    n, y = np.asarray(cells, float), np.asarray(seconds, float)
    if len(n) < 4 or y.min() <= 0:
        return None

    def model(x: np.ndarray) -> np.ndarray:
        return x[2] + np.exp(x[0]) * (n / n[-1]) ** x[1]

    def without(x: np.ndarray) -> np.ndarray:
        return model(np.append(x, 0.0)) / y - 1

    start, low, high = [np.log(y[-1]), 1.0, 0.5 * y[0]], [-np.inf, 0, 0], [np.inf, 3, np.inf]
    found = least_squares(lambda x: model(x) / y - 1, start, bounds=(low, high))
    if found.x[2] < NOTHING * y[0]:
        found = least_squares(without, start[:2], bounds=(low[:2], high[:2]))
    freedom = len(n) - len(found.x)
    inverse = np.linalg.pinv(found.jac.T @ found.jac)
    half = np.sqrt(2 * found.cost / freedom * inverse[1, 1]) * student.ppf(0.975, freedom)
    each, exponent, fixed = [*found.x, 0.0][:3]
    return {
        "fixed_s": float(fixed),
        "us_a_cell": float(1e6 * np.exp(each) / n[-1]),
        "exponent": float(exponent),
        "low": float(exponent - half),
        "high": float(exponent + half),
    }


def constant(cells: Sequence[float], seconds: Sequence[float]) -> bool:
    """Whether a stage takes about as long whatever the cells, so that there is nothing to fit."""
    return bool(seconds[-1] / seconds[0] < (cells[-1] / cells[0]) ** 0.25)


def fits_of(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the fit of all stages together, and of each that grows."""
    cells = [run["cells"] for run in runs]
    by_stage = {name: [run["stages"][name]["cpu_s"] for run in runs] for name in runs[0]["stages"]}
    found: dict[str, Any] = {"all": fitted(cells, [taken_by_all(run) for run in runs])}
    for name, seconds in by_stage.items():
        if len(cells) > 1 and constant(cells, seconds):
            found[name] = {"constant_s": float(np.median(seconds))}
        else:
            found[name] = fitted(cells, seconds)
    growing = [by_stage[name] for name, fit in found.items() if name in by_stage and _grows(fit)]
    found["all that grow"] = fitted(cells, [sum(each) for each in zip(*growing, strict=True)])
    return found


def _grows(fit: Mapping[str, float] | None) -> bool:
    return fit is None or "constant_s" not in fit


def draw(runs: Sequence[Mapping[str, Any]], fits: Mapping[str, Any], path: Path) -> None:
    """Draw processor time by cells: all, the stages that grow, and those that do not together."""
    last = runs[-1]["stages"]
    cells = [run["cells"] for run in runs]
    grow = sorted(
        (name for name in last if _grows(fits[name])), key=lambda name: -last[name]["cpu_s"]
    )
    lines = {"all": list(last)} | {name: [name] for name in grow[:LARGEST]}
    lines["others that grow"] = grow[LARGEST:]
    lines["that do not grow"] = [name for name in last if name not in grow]
    figure, axes = plt.subplots(figsize=(6.4, 3.6), layout="constrained")
    for label, names in lines.items():
        taken = [sum(run["stages"][name]["cpu_s"] for name in names) for run in runs]
        axes.plot(cells, taken, "o-", ms=4, label=label, color="black" if label == "all" else None)
    ends = np.array([cells[0], cells[-1]])
    axes.plot(ends, 1.5 * ends * taken_by_all(runs[-1]) / ends[-1], ":", color="grey",
              label="in proportion to cells")  # fmt: skip
    axes.set(xscale="log", yscale="log", xlabel="cells", ylabel="processor time (s)")
    figure.legend(loc="outside right center", fontsize="small", frameon=False)
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def taken_by_all(run: Mapping[str, Any]) -> float:
    """Return the processor time of all units of a run, in seconds."""
    return float(sum(stage["cpu_s"] for stage in run["stages"].values()))


def show(runs: Sequence[Mapping[str, Any]], fits: Mapping[str, Any]) -> None:
    """Print the tables."""
    print(f"{'cells':>10}{'wall s':>9}{'cpu s':>9}{'busy':>7}{'tasks':>8}{'files':>8}{'GB':>7}"
          f"{'worker MB':>11}{'driver MB':>11}")  # fmt: skip
    for run in runs:
        units = sum(stage["s"] for stage in run["stages"].values())
        disk = run["disk"].values()
        print(
            f"{run['cells']:>10,}{run['wall_s']:>9.0f}{taken_by_all(run):>9.0f}"
            f"{units / run['wall_s'] / run['workers']:>7.0%}{run['tasks']:>8}"
            f"{sum(d['files'] for d in disk):>8}{sum(d['mb'] for d in disk) / 1e3:>7.1f}"
            f"{max(run['worker_mb']):>11.0f}{run['driver_mb']:>11.0f}"
        )
    print(f"\n{'stage':<16}{'fixed s':>10}{'us a cell':>11}{'exponent':>10}  95% interval")
    for name, fit in fits.items():
        if fit is None:
            print(f"{name:<16}{'-':>10}")
            continue
        if "constant_s" in fit:
            print(f"{name:<16}{fit['constant_s']:>10.2f}{'':>11}{'constant':>10}")
            continue
        print(f"{name:<16}{fit['fixed_s']:>10.2f}{fit['us_a_cell']:>11.1f}{fit['exponent']:>10.3f}"
              f"  {fit['low']:.3f} to {fit['high']:.3f}")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--plates", type=int, nargs="+", default=[1, 2, 3, 5, 10, 20, 30, 100])
    parser.add_argument("--json", type=Path, help="file to write, and to go on from")
    parser.add_argument("--keep", action="store_true", help="do not remove the stores")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    folder: Path = options.folder.resolve()
    if options.one:
        print(json.dumps(measure(folder, options.one)))
        return
    known = json.loads(options.json.read_text()) if options.json and options.json.exists() else {}
    runs = {run["plates"]: run for run in known.get("runs", [])}
    for plates in options.plates:
        if plates in runs:
            continue
        screen_of(folder, plates)
        command = [sys.executable, __file__, str(folder), "--one", str(plates)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        runs[plates] = json.loads(done.stdout.splitlines()[-1])
        if not options.keep:
            for path in folder.glob(f"*{plates}.*"):
                shutil.rmtree(path)
            shutil.rmtree(folder / f"screen{plates}")
        write(runs, options.json)
    write(runs, options.json)


def write(runs: Mapping[int, Mapping[str, Any]], path: Path | None) -> None:
    """Print what was measured so far, and keep it."""
    ordered = [runs[plates] for plates in sorted(runs)]
    fits = fits_of(ordered)
    show(ordered, fits)
    if path:
        report = {"runs": ordered, "fits": fits, "versions": versions()}
        report |= conditions(threads=1, seeds=[SPEC.seed])
        path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        draw(ordered, fits, FIGURE)


if __name__ == "__main__":
    main()
