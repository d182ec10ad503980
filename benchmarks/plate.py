"""A plate from microscope files to crops: speed, traffic, and that memory does not grow with it.

    python benchmarks/plate.py [--quick] [--json plate.json] [--folder DIR]

Simulates a 384-well plate of 4 fields as an Opera Phenix folder (2.4 GB, with what is made of it
about 4 GB at a time, 6 GB where --folder keeps all; --quick: 24 wells of 2 fields). Then imports
it, finds its cells, measures, gathers and cuts them, each step in a process of its own, serial,
with one thread. The same for every fourth well: the peak memory of both is compared. Units are of
the same size in both, 16 fields and as many cells as the default gives the full plate; the few
fields of --quick make smaller ones.

Rates are of wall time, which other work on the machine lengthens; `cpu` is what the step used.
`read` and `written` count calls, also those that the page cache answers, and what the ledger reads
back for its checksums.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bgscale.distribute.listener import Silent
from bgscale.distribute.units import Unit

STEPS = ("import", "segment", "measure", "gather", "cut")
CHANNELS = ("gfp", "rfp", "nuc")
PLATE = "phenix"
LOCALIZATIONS = 15
MB = 1e6
ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENCV_FOR_THREADS_NUM": "1",
    "ZARR_THREADING__MAX_WORKERS": "1",
}


@dataclass(frozen=True)
class Size:
    """A plate; `every` takes only each so many-th of its wells."""

    wells: int
    fields_per_well: int
    every: int
    shard_cells: int

    @property
    def fields(self) -> int:
        """Number of fields."""
        return self.wells // self.every * self.fields_per_well

    @property
    def name(self) -> str:
        """Wells by fields, for the names of folders."""
        return f"{self.wells // self.every}x{self.fields_per_well}"


class Counted(Silent):
    """Counts units by kind of stage."""

    def __init__(self) -> None:
        self.units: dict[str, int] = {}

    def unit_done(self, unit: Unit, summary: dict[str, Any]) -> None:
        """Count a unit."""
        del summary
        kind = unit.stage.partition("/")[0]
        self.units[kind] = self.units.get(kind, 0) + 1


def simulate(size: Size, folder: Path) -> Path:
    """Write the plate as Harmony names images, unless it is there; return its folder."""
    import tifffile

    from bgscale.simulate import ScreenSpec, simulate_field

    images = folder / f"images-{size.name}"
    if images.exists():
        return images
    several, mixed = divmod(size.wells, LOCALIZATIONS)
    spec = ScreenSpec(
        proteins_per_localization=several, mixed_proteins=mixed, cells_per_field=50,
        fields_per_protein=size.fields_per_well,
    )  # fmt: skip
    part = folder / f"{images.name}.partial"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    for well in range(size.wells):
        for field in range(size.fields_per_well):
            image = simulate_field(spec, well, field).image
            for channel, plane in enumerate(image, start=1):
                tifffile.imwrite(part / _file_name(well, field, channel), plane)
    part.rename(images)
    return images


def _file_name(well: int, field: int, channel: int) -> str:
    row, column = divmod(well, 24)
    return f"r{row + 1:02d}c{column + 1:02d}f{field + 1:02d}p01-ch{channel}sk1fk1fl1.tiff"


def _some_wells(images: Path, size: Size, folder: Path) -> Path:
    """Return a folder of links to the images of some of the wells."""
    some = folder / f"images-{size.name}"
    shutil.rmtree(some, ignore_errors=True)
    some.mkdir()
    for well in range(0, size.wells, size.every):
        for field in range(size.fields_per_well):
            for channel in range(1, len(CHANNELS) + 1):
                name = _file_name(well, field, channel)
                # not symbolic: an import leaves those out
                (some / name).hardlink_to(images / name)
    return some


def _import(folder: Path, images: Path, size: Size) -> Callable[[], Counted]:
    from bgscale.importers import plan_import, run_import

    del size

    def work() -> Counted:
        counted = Counted()
        names = {f"ch{i}": name for i, name in enumerate(CHANNELS, start=1)}
        plan = plan_import("phenix", images, channels=names, pixel_size_um=0.17, plate=PLATE)
        outcome = run_import(plan, folder / f"{PLATE}.zarr", listener=counted)
        assert not outcome.failed, outcome.failed[:3]
        return counted

    return work


def _execute(folder: Path, size: Size, step: str) -> Callable[[], Counted]:
    from bgscale.config import RunConfig
    from bgscale.run import Run

    screen = {
        "path": str(folder / f"{PLATE}.zarr"),
        "plate_map": "",
        "class_column": "protein",
        "nucleus": "nuc",
    }
    values = {
        "store": str(folder / "results.zarr"), "shard_cells": size.shard_cells, "screen": screen,
    }  # fmt: skip
    config = RunConfig.from_dict(values)

    def work() -> Counted:
        counted = Counted()
        outcome = Run.from_config(config).execute(listener=counted, until=step)
        assert not outcome.failed_fields, outcome.failed_fields
        return counted

    return work


def _traffic() -> tuple[int, int]:
    """Return bytes that this process has read and written; zeros where that is not known."""
    try:
        lines = Path("/proc/self/io").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0, 0
    counts = dict(line.split(": ") for line in lines)
    return int(counts["rchar"]), int(counts["wchar"])


def _peak_bytes() -> int:
    """Return the peak memory of this process."""
    try:
        # maxrss starts from the peak of the process that started this one
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024
    except OSError:
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def measure(step: str, folder: Path, images: Path, size: Size) -> dict[str, Any]:
    """Do one step in this process, which has done nothing else."""
    work = _import(folder, images, size) if step == "import" else _execute(folder, size, step)
    at_start, (read, written) = _peak_bytes(), _traffic()
    wall, cpu = time.perf_counter(), time.process_time()
    counted = work()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    now_read, now_written = _traffic()
    return {
        "wall_s": round(wall, 2),
        "cpu_s": round(cpu, 2),
        "units": counted.units[step],
        "read_mb": round((now_read - read) / MB, 1),
        "written_mb": round((now_written - written) / MB, 1),
        "imported_mb": round(at_start / MB, 1),
        "peak_mb": round(_peak_bytes() / MB, 1),
    }


def _in_a_process(step: str, folder: Path, images: Path, size: Size) -> dict[str, Any]:
    numbers = [size.wells, size.fields_per_well, size.every, size.shard_cells]
    command = [sys.executable, __file__, "--step", step, "--folder", str(folder)]
    command += ["--images", str(images), "--size", ",".join(map(str, numbers))]
    done = subprocess.run(command, env=os.environ | ONE_THREAD, stdout=subprocess.PIPE, check=True)
    measured: dict[str, Any] = json.loads(done.stdout)
    return measured


def _on_disk(path: Path) -> dict[str, Any]:
    sizes = [p.stat().st_size for p in path.rglob("*") if p.is_file()]
    return {"files": len(sizes), "mb": round(sum(sizes) / MB, 1)}


def run(size: Size, images: Path, folder: Path, *, keep: bool) -> dict[str, Any]:
    """Do all steps for a plate of one size; return what was measured."""
    from bgscale.run import outcome

    folder.mkdir(parents=True, exist_ok=True)
    plate, results = folder / f"{PLATE}.zarr", folder / "results.zarr"
    for made in (plate, results):
        for path in (made, made.with_name(f"{made.name}.progress")):
            shutil.rmtree(path, ignore_errors=True)
    report: dict[str, Any] = {"wells": size.wells // size.every, "fields": size.fields}
    report["disk"] = {"images": _on_disk(images)}
    steps = {}
    for step in STEPS:
        steps[step] = _in_a_process(step, folder, images, size)
        if step == "import" and not keep:
            shutil.rmtree(images)
    report["cells"] = cells = outcome(results).cells
    for measured in steps.values():
        measured["fields_per_s"] = round(size.fields / measured["wall_s"], 2)
        measured["cells_per_s"] = round(cells / measured["wall_s"], 1)
    for made in (plate, results):
        report["disk"] |= {made.name: _on_disk(made)}
        progress = made.with_name(f"{made.name}.progress")
        report["disk"] |= {progress.name: _on_disk(progress)}
    if not keep:
        shutil.rmtree(folder)
    return report | {"steps": steps}


def show(reports: list[dict[str, Any]]) -> None:
    """Print the table."""
    columns = {
        "wall_s": "wall s", "cpu_s": "cpu s", "fields_per_s": "fields/s", "cells_per_s": "cells/s",
        "units": "units", "read_mb": "read MB", "written_mb": "written MB",
        "imported_mb": "imports MB", "peak_mb": "peak MB",
    }  # fmt: skip
    for report in reports:
        print(f"{report['wells']} wells, {report['fields']} fields, {report['cells']} cells")
        print(f"{'':<8}" + "".join(f"{title:>12}" for title in columns.values()))
        for step, measured in report["steps"].items():
            print(f"{step:<8}" + "".join(f"{measured[key]:>12}" for key in columns))
        sizes = [f"{name} {d['mb']:g} MB, {d['files']} files" for name, d in report["disk"].items()]
        print("on disk: " + "; ".join(sizes) + "\n")


def ratios(reports: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Return, by step, how the peak memory of the larger plate compares with the smaller's."""
    found = {}
    for step in STEPS:
        small, large = (report["steps"][step]["peak_mb"] for report in reports)
        found[step] = {"ratio": round(large / small, 3), "more_mb": round(large - small, 1)}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="24 wells of 2 fields, and 6 wells")
    parser.add_argument("--json", type=Path, help="file to write")
    parser.add_argument("--folder", type=Path, help="where to work; then everything is kept")
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    parser.add_argument("--images", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--size", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        size = Size(*map(int, options.size.split(",")))
        print(json.dumps(measure(options.step, options.folder, options.images, size)))
        return
    from machine import conditions

    from bgscale.run import versions

    full = (24, 2) if options.quick else (384, 4)
    shard_cells = 192 if options.quick else 4096
    large, small = (Size(*full, every, shard_cells) for every in (1, 4))
    keep = options.folder is not None
    if keep:
        options.folder.mkdir(parents=True, exist_ok=True)
    folder = options.folder or Path(tempfile.mkdtemp(prefix="bgscale-plate-"))
    try:
        images = simulate(large, folder)
        some = _some_wells(images, small, folder)
        # the small one first: without --folder its files are gone before there are the large ones
        reports = [
            run(small, some, folder / small.name, keep=keep),
            run(large, images, folder / large.name, keep=keep),
        ]
    finally:
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)
    show(reports)
    compared = ratios(reports)
    print(f"peak memory, {reports[1]['fields']} fields against {reports[0]['fields']}")
    for step, found in compared.items():
        print(f"{step:<8}{found['ratio']:>12} times, {found['more_mb']:+} MB")
    if options.json:
        report: dict[str, Any] = {"plates": reports, "peak_memory": compared}
        report |= conditions(threads=1, seeds=[0])
        text = json.dumps(report | {"versions": versions()}, indent=1)
        options.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
