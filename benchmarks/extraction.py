"""Extraction: from images and masks to crops on the disk, beside scPortrait, and cells at borders.

    python benchmarks/extraction.py [--environments DIR] [--quick] [--without-peer] [--json FILE]

Simulated fields of 1024 x 1024 pixels, three channels and some 150 clustered cells, with their true
masks, as OME-Zarr for bgscale and as what scPortrait loads. Both make crops of 64 x 64 pixels and
their masks, compressed: bgscale of 16-bit counts, unmasked; scPortrait of 16-bit floats, times the
mask. Each is one process, bound to the same core. They take turns, and reported are cells a second
of the processor's time, as medians over repetitions, and the median of the ratios within one.

*Cutting*: bgscale's units of `cut`, which read images, masks and the table of cells, cut and write;
of scPortrait what it logs as loading images and masks, and its loop over cells. *Loop*: the same
units beside that loop alone, which has everything in memory. *Whole*: a run of bgscale from nothing
to crops (masks read, cells measured, windows without cells, crops), beside the whole of
scPortrait's `extract`, field by field.

*Borders*: scPortrait leaves out cells whose centre is within half a crop of the border. bgscale
cuts all of them, and sets aside those that the border itself cuts. Of cells that both have, the
masks are compared, shifted by at most a pixel: centres are rounded otherwise.

scPortrait (1.8.0) is installed, from PyPI, into an environment below DIR, once; without DIR into a
temporary one. Its own code runs there: `extraction_peer.py`.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from machine import conditions, spread

PEER = "scportrait==1.8.0"
SEED, CROP_PX, MASKS = 0, 64, "truth"
SHARD_CELLS = 4096
"""As on a large screen; smaller shards have more fields at their ends, which are read twice."""
BUSY_LOAD = 1.5
ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "NUMBA_NUM_THREADS": "1",
    "OPENCV_FOR_THREADS_NUM": "1",
    "ZARR_THREADING__MAX_WORKERS": "1",
}
SAME_MASK = 0.9
PARTS = ("cutting", "loop", "whole")


def install(folder: Path) -> Path:
    """Return the Python of the peer's environment, made if it is not there."""
    home = folder / PEER.replace("==", "-")
    python = home / "bin" / "python"
    if (home / "complete").exists():
        return python
    print(f"installing {PEER} into {home}", flush=True)
    shutil.rmtree(home, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
    constraints = home / "constraints.txt"
    # of the same build: by itself it would bring torch for graphics cards, gigabytes of it
    constraints.write_text(f"torch=={version('torch')}\n", encoding="utf-8")
    command = [str(python), "-m", "pip", "install", "-c", str(constraints), PEER]
    subprocess.run(command, check=True, stdout=sys.stderr)
    (home / "complete").touch()
    return python


@contextmanager
def peer(python: Path, fields: Path) -> Iterator[subprocess.Popen[str]]:
    """Start the peer, and end it."""
    script = Path(__file__).with_name("extraction_peer.py")
    with (fields / "peer.log").open("w", encoding="utf-8") as log:
        process = subprocess.Popen(
            [str(python), str(script), str(fields)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True,
        )  # fmt: skip
        try:
            yield process
        finally:
            if process.stdin:
                process.stdin.close()
            process.wait()


def answer(process: subprocess.Popen[str], fields: Path, ask: str = "") -> dict[str, Any]:
    """Return what the peer says, after it was asked."""
    assert process.stdin
    assert process.stdout
    if ask:
        process.stdin.write(f"{ask}\n")
        process.stdin.flush()
    line = process.stdout.readline()
    if not line:
        log = (fields / "peer.log").read_text(encoding="utf-8")
        raise RuntimeError(f"the peer has ended:\n{log[-3000:]}")
    said: dict[str, Any] = json.loads(line)
    return said


def simulate(folder: Path, *, quick: bool) -> int:
    """Write the fields for both; return how many cells their masks have."""
    import numpy as np

    from bgscale.simulate import ScreenSpec, simulate_field, write_plates

    spec = ScreenSpec(
        seed=SEED,
        localizations=("cell periphery", "cytoplasm", "nucleus", "vacuolar membrane"),
        proteins_per_localization=1,
        mixed_proteins=0,
        fields_per_protein=1 if quick else 2,
        cells_per_field=40 if quick else 150,
        field_size_px=512 if quick else 1024,
    )
    write_plates(spec, folder / "screen")
    cells = 0
    for index in range(4 * spec.fields_per_protein):
        field = simulate_field(spec, *divmod(index, spec.fields_per_protein))
        labels = field.labels.astype(np.int32)
        np.savez(folder / f"field-{index:02d}.npz", image=field.image, labels=labels)
        cells += len(np.unique(labels)) - 1
    return cells


def whole(folder: Path) -> Any:
    """Run from nothing to crops; return the run."""
    from bgscale.config import RunConfig
    from bgscale.run import Run

    store = folder / "results.zarr"
    for made in (store, store.with_name(f"{store.name}.progress")):
        shutil.rmtree(made, ignore_errors=True)
    screen = folder / "screen"
    section = {
        "path": str(screen / "plates" / "*.zarr"), "plate_map": str(screen / "platemap.csv"),
        "nucleus": "nuc",
    }  # fmt: skip
    config = RunConfig.from_dict(
        {
            "store": str(store),
            "shard_cells": SHARD_CELLS,
            "screen": section,
            "cells": {"labels": MASKS, "crop_size_px": CROP_PX},
        }
    )
    run = Run.from_config(config)
    run.execute(until="cut")
    return run


def cut_again(run: Any) -> None:
    """Do the units of `cut` once more."""
    from bgscale.distribute.execute import run_units
    from bgscale.distribute.ledger import Ledger
    from bgscale.distribute.listener import Silent
    from bgscale.pipeline import work

    job = run.job_of(run.config, [(s.name, s.token) for s in run.stages])
    units = [u for s in run.stages if s.name.startswith("cut/") for u in s.units(job)]
    run.ledger.forget_units(units)
    run_units(work, units, job.text, ledger=Ledger(run.config.store), listener=Silent())


def agreement(run: Any, folder: Path) -> dict[str, Any]:
    """Compare the masks of the crops of cells that both have."""
    import numpy as np

    (plate,) = run.screen.plates
    at = f"plates/{plate}"
    field, number = (run.store.read(f"{at}/cells/{name}") for name in ("field", "number"))
    ours, same, compared = run.store.read(f"{at}/crops/mask") == 1, 0, 0
    fields = sorted(folder.glob("cells-*.npz"))
    for index, path in enumerate(fields):
        made = np.load(path)
        here = np.flatnonzero(field == index)
        row = dict(zip(number[here].tolist(), here.tolist(), strict=True))
        for cell, mask in zip(made["cell"].tolist(), made["mask"], strict=True):
            own = ours[row[cell]]
            shifted = (np.roll(own, (y, x), (0, 1)) for y in (-1, 0, 1) for x in (-1, 0, 1))
            overlaps = [(mask & other).sum() / (mask | other).sum() for other in shifted]
            compared, same = compared + 1, same + (max(overlaps) > SAME_MASK)
    return {"cells of both": compared, f"masks overlap by more than {SAME_MASK}": int(same)}


def borders(run: Any) -> dict[str, int]:
    """Return how many cells bgscale has cut, and how many it sets aside as cut by the border."""
    from bgscale.schema import Reason

    (plate,) = run.screen.plates
    reason = run.store.read(f"plates/{plate}/cells/reason")
    return {
        "cut": len(reason),
        "set aside, as the border cuts them": int((reason == Reason.CUT_BY_BORDER).sum()),
        "set aside for other reasons": int(
            ((reason != Reason.OK) & (reason != Reason.CUT_BY_BORDER)).sum()
        ),
    }


def compared(
    folder: Path, process: subprocess.Popen[str] | None, repetitions: int
) -> dict[str, Any]:
    """Let both do all fields, in turn."""
    rates: dict[tuple[str, str], list[float]] = defaultdict(list)

    def ours() -> Any:
        started = time.process_time()
        run = whole(folder)
        middle = time.process_time()
        cut_again(run)
        ended = time.process_time()
        cells = borders(run)["cut"]
        rates["whole", "bgscale"].append(cells / (middle - started))
        for part in ("cutting", "loop"):
            rates[part, "bgscale"].append(cells / (ended - middle))
        return run

    def theirs() -> dict[str, Any]:
        assert process
        said = answer(process, folder, "go")
        took = {"whole": said["whole_s"], "loop": said["loop_s"]}
        took["cutting"] = said["load_s"] + said["loop_s"]
        for part, seconds in took.items():
            rates[part, "scPortrait"].append(said["cells"] / seconds)
        return said

    found: dict[str, Any] = {}
    for number in range(1 + repetitions):
        for way in (ours, theirs)[:: -1 if number % 2 else 1]:
            if way is ours or process:
                found[way.__name__] = way()
        if number == 0:
            # imports and compilation
            rates.clear()
    report: dict[str, Any] = {"cells": {"bgscale": borders(found["ours"])}}
    for part in PARTS:
        ways = {way: rates[part, way] for way in ("bgscale", "scPortrait") if rates[part, way]}
        report[part] = {way: spread(values, 0) for way, values in ways.items()}
        if process:
            pairs = zip(ways["bgscale"], ways["scPortrait"], strict=True)
            report[part]["times scPortrait"] = spread([a / b for a, b in pairs])
    if process:
        report["cells"]["scPortrait"] = {"extracted": found["theirs"]["cells"]}
        report["cells"] |= agreement(found["ours"], folder)
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--environments", type=Path, help="where the peer is installed and kept")
    parser.add_argument("--quick", action="store_true", help="four small fields, once")
    parser.add_argument("--without-peer", action="store_true", help="bgscale alone")
    parser.add_argument("--json", type=Path, help="file to write")
    options = parser.parse_args()
    busy, repetitions = os.getloadavg(), 1 if options.quick else 5
    os.environ.update(ONE_THREAD)
    folder = Path(tempfile.mkdtemp(prefix="bgscale-extraction-"))
    try:
        python = None
        if not options.without_peer:
            python = install((options.environments or folder).absolute())
        if hasattr(os, "sched_setaffinity"):
            # the peer inherits it
            os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
        from bgscale.run import versions

        cells = simulate(folder, quick=options.quick)
        report: dict[str, Any] = {
            "fields": len(list(folder.glob("field-*.npz"))), "clock": "processor time",
            "repetitions": repetitions, "versions": versions(),
        }  # fmt: skip
        if python:
            with peer(python, folder) as process:
                peers = answer(process, folder)
                found = compared(folder, process, repetitions)
            report["versions"] |= {"scportrait": peers["scportrait"]}
            report["versions of the peer's environment"] = peers
            made = found["cells"]["scPortrait"]
            made["left out at the border"] = cells - made["extracted"]
            made["share left out"] = round(1 - made["extracted"] / cells, 4)
        else:
            found = compared(folder, None, repetitions)
        found["cells"]["in the masks"] = cells
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    report = found | report | conditions(threads=1, seeds=[SEED])
    report |= {
        "busy": max(busy[0], os.getloadavg()[0] - 1) > BUSY_LOAD,
        "load_average": {"start": busy, "end": os.getloadavg()},
    }
    print(json.dumps({key: report[key] for key in ("cells", *PARTS)}, indent=1))
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
