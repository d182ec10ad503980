"""A whole proteome on paper: planned, what it costs, and its units run with nothing to do.

    python benchmarks/whole_proteome.py [--quick] [--json FILE] [--folder DIR]

4,000 proteins in two wells each, 16 fields a well: 128,000 fields of 560 x 560 pixels on 21 plates,
which at 250 cells a megapixel hold 10 million cells; three networks (`whole_proteome.toml`). The
screen is metadata alone: no field has pixels, and the first of each plate stands for the others.

*Plan.* `Run` is opened and planned, in a process that did nothing else. *Costs.* The cost sheet of
that plan, by the rates of the package. *Units.* As many units as the plan has, of its stages in
their order, with the run's own job, go through the engine on a cluster of two local processes;
they leave a record and do nothing else. Memory is that of the process that drives, in which the
scheduler runs, after each tenth. Then `Ledger.done` looks at all records.
"""

import argparse
import json
import os
import resource
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from bgscale import ngff, pipeline
from bgscale.config import RunConfig
from bgscale.distribute.units import Unit, plan_units
from bgscale.run import Run, StagePlan, versions
from bgscale.run.costs import Costs, sheet
from bgscale.simulate.localizations import PATTERNS

PROTEINS, WELLS_A_PROTEIN, FIELDS_A_WELL, WELLS_A_PLATE, FIELD_PX = 4000, 2, 16, 384, 560
ROWS, COLUMNS = "ABCDEFGHIJKLMNOP", 24
PROCESSES = 2
CONFIG = Path(__file__).with_suffix(".toml")


def write_screen(folder: Path, proteins: int) -> None:
    """Write plates without pixels, and their plate map."""
    places = [f"{row}{column:02d}" for row in ROWS for column in range(1, COLUMNS + 1)]
    classes, fields = list(PATTERNS), [str(n) for n in range(FIELDS_A_WELL)]
    lines, wells = ["plate,well,protein,localization"], proteins * WELLS_A_PROTEIN
    empty = np.zeros((3, FIELD_PX, FIELD_PX), np.uint16)
    for first in range(0, wells, WELLS_A_PLATE):
        name = f"P{first // WELLS_A_PLATE + 1:02d}"
        here = places[: min(WELLS_A_PLATE, wells - first)]
        path = folder / "plates" / f"{name}.zarr"
        ngff.create_plate(path, name=name, fields=dict.fromkeys(here, fields))
        for n, well in enumerate(here):
            number = (first + n) // WELLS_A_PROTEIN
            lines.append(f"{name},{well},G{number:04d},{classes[number % len(classes)]}")
            for field in fields:
                (path / well[0] / well[1:] / field).mkdir(parents=True, exist_ok=True)
        ngff.write_field(
            path, here[0], "0", empty, channels=["gfp", "rfp", "nuc"], pixel_size_um=0.2
        )
    (folder / "platemap.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    shutil.copy(CONFIG, folder / "run.toml")


def peak_mb() -> float:
    """Return the largest memory that this process has had."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3, 1)


def planned(folder: Path) -> tuple[Run, Costs, dict[str, Any]]:
    """Open and plan the run; return also how long that took."""
    started = time.perf_counter()
    run = Run.from_config(RunConfig.from_toml(folder / "run.toml"))
    opened = time.perf_counter()
    costs = run.costs()
    done = time.perf_counter()
    print(run.describe_plan(costs))
    needs = [item.need for item in costs.plan]
    return run, costs, {
        "open_s": round(opened - started, 2),
        "plan_and_costs_s": round(done - opened, 2),
        "peak_mb": peak_mb(),
        "stages": len(costs.plan),
        "units": sum(need.units for need in needs),
        "disk_tb": round(sum(need.disk_bytes for need in needs) / 1e12, 3),
        "files": sum(need.files for need in needs),
        "largest_unit_gb": round(max(need.unit_bytes for need in needs) / 1e9, 2),
        "fields": sum(len(refs) for refs in run.screen.fields.values()),
        "cells": int(sum(item.amount.work for item in costs.plan if item.amount.kind == "cut")),
        "proteins": len(run.screen.proteins),
        "plates": len(run.screen.plates),
    }  # fmt: skip


def units_of(item: StagePlan) -> list[Unit]:
    """Return as many units as a stage will have."""
    return plan_units(item.stage, item.need.units, 1, "0" * 16)


def executed(run: Run, plan: list[StagePlan], store: Path) -> dict[str, Any]:
    """Run the units of a plan on two local processes, doing nothing."""
    # a worker could not find what belongs to the script itself
    from cluster import Watch, nothing, resident_mb

    from bgscale.distribute.cluster import connect
    from bgscale.distribute.execute import run_units
    from bgscale.distribute.ledger import Ledger

    store.mkdir()
    items = {item.stage: item for item in plan}
    ledger, text = Ledger(str(store)), run._job.text
    total = sum(item.need.units for item in plan)
    with connect(f"local:{PROCESSES}") as client:
        watch, before = Watch(client, total), resident_mb()
        wall, cpu = time.perf_counter(), time.process_time()
        for group in pipeline.groups(run.stages):
            units = [unit for stage in group for unit in units_of(items[stage.name])]
            run_units(nothing, units, text, ledger=ledger, client=client, listener=watch)
            for stage in group:
                ledger.bind(stage.name)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    started = time.perf_counter()
    assert len(ledger.done([unit for item in plan for unit in units_of(item)])) == total
    return {
        "units": total,
        "stages": len(plan),
        "processes": PROCESSES,
        "wall_s": round(wall, 1),
        "ms_per_unit": round(1e3 * wall / total, 2),
        "driver_and_scheduler_cpu_ms_per_unit": round(1e3 * cpu / total, 2),
        "futures_at_most": watch.futures,
        "tasks_at_most": watch.tasks,
        "task_bytes": watch.task_bytes,
        "job_bytes": len(text),
        "resident_mb": {"0": before, **{str(n): mb for n, mb in watch.resident_mb.items()}},
        "done_s": round(time.perf_counter() - started, 2),
    }


def costed(costs: Costs) -> dict[str, Any]:
    """Return the cost sheet by stage, summed over plates: core-hours, and their source."""
    found: dict[str, dict[str, Any]] = {}
    for cost in costs.stages:
        name = f"{cost.kind}/{cost.model}" if cost.model else cost.kind
        entry = found.setdefault(name, {"core_hours": 0.0, "source": "not measured"})
        if cost.core is None:
            entry["core_hours"] = None
        else:
            entry["core_hours"] += cost.core.seconds / 3600
            entry["source"] = cost.core.source
    for entry in found.values():
        if entry["core_hours"] is not None:
            entry["core_hours"] = round(entry["core_hours"], 2)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="40 proteins")
    parser.add_argument("--json", type=Path, help="file to write")
    parser.add_argument("--folder", type=Path, help="where to work, instead of a temporary folder")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="bgscale-whole-", dir=options.folder))
    try:
        started = time.perf_counter()
        write_screen(folder, 40 if options.quick else PROTEINS)
        wrote = time.perf_counter() - started
        run, costs, plan = planned(folder)
        text = sheet(costs)
        print(f"\n{text}\n", flush=True)
        done = executed(run, list(costs.plan), folder / "nothing.zarr")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    report = {
        "screen_written_s": round(wrote, 1),
        "plan": plan,
        "costs": costed(costs),
        "sheet": text.splitlines(),
        "units": done,
        "cores": os.cpu_count(),
        "load_average": os.getloadavg(),
        "versions": versions(),
    }
    for key, value in {**plan, **done}.items():
        print(f"{key:<40}{value}")
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
