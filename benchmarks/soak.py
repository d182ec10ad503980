"""A day in production: screens one after another, with kills and a slow disk, and what that leaves.

    OMP_NUM_THREADS=1 python benchmarks/soak.py FOLDER [--hours 1] [--json soak.json]

Three small simulated screens go through the whole job again and again, driven by this one process,
on a scheduler and two workers that live on from run to run. In the first part runs are plain, or
their store is on a slow disk (see `slow_disk`); nothing is killed, so that what a process gathers
would be seen. After that every other run has something killed without a warning: workers, nannies
and the scheduler every few seconds, or the driver, a command of its own then, twice. Every store
must come out the same to the byte as the first of its screen, and pass `bgscale verify`.

After each run: memory, open files, sockets and threads of each process, processes that nobody
ended, tasks that the scheduler still has, temporary files. Drift is the Theil-Sen slope over the
runs of one kind, with its 95% interval: over the whole time of the seconds that a run takes (`s`),
and of those that its units keep a processor busy (`cpu_s`, which other work on the machine moves
less). Memory is looked at in the longest life of a process: what it is at the beginning and after
each third, and its drift in the last third: what is kept of past runs is bounded, and is full some
fifty runs later; what leaks goes on growing.
"""

import argparse
import gc
import hashlib
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from machine import conditions
from scipy.stats import theilslopes
from slow_disk import FOLDER, slow_down
from soak_cluster import Cluster, Killer, held

from bgscale import connect
from bgscale.config import RunConfig, template
from bgscale.distribute.ledger import Ledger
from bgscale.errors import BgscaleError, InputError, InterruptedRunError
from bgscale.run import Run, versions
from bgscale.simulate import ScreenSpec, write_crops, write_plates
from bgscale.verify import verify

FIGURE = Path(__file__).parent / "figures" / "soak.png"
CALM = 0.4
"""Part of the time in which nothing is killed."""
KINDS = ("plain", "killed", "slow", "driver killed")
SMALL = {
    "localizations": ("cytoplasm", "nucleus", "mitochondrion"), "proteins_per_localization": 2,
    "mixed_proteins": 2, "fields_per_protein": 2, "cells_per_field": 22, "field_size_px": 288,
}  # fmt: skip
SCREENS = {
    "two plates": ScreenSpec(**SMALL, plates=2),
    "one plate": ScreenSpec(**SMALL, seed=1),
    "crops": ScreenSpec(**SMALL, seed=2),
}
WARM = 2 / 3
"""Part of a process's life that is not fitted: modules are imported, caches fill."""
PATIENCE_S = 120.0


def write_screens(folder: Path) -> None:
    """Write the screens that are not there."""
    for name, spec in SCREENS.items():
        if (folder / name / "platemap.csv").exists():
            continue
        if name == "crops":
            write_crops(spec, folder / name, zipped=True)
        else:
            write_plates(spec, folder / name, labels=False)


def config_of(screen: Path, store: Path) -> RunConfig:
    """Return a quick config of a screen."""
    if screen.name == "crops":
        section = {"path": str(screen / "crops.zip"), "mask": "mask"}
    else:
        section = {"path": str(screen / "plates"), "nucleus": "nuc"}
    return RunConfig.from_dict(
        {
            "store": str(store),
            "shard_cells": 64,
            "screen": section | {"plate_map": str(screen / "platemap.csv")},
            "donors": {"per_class": 24, "windows_per_class": 24, "min_pool": 5},
            "classification": {"crops_per_class": 20},
            "proportions": {"folds": 3, "replicates": 2},
        }
    )


def digest(store: Path) -> str:
    """Return a checksum of all files of a store but the root's attributes, which name its place."""
    found = hashlib.sha256()
    for path in sorted(p for p in store.rglob("*") if p.is_file() and p != store / "zarr.json"):
        found.update(path.relative_to(store).as_posix().encode())
        found.update(path.read_bytes())
    return found.hexdigest()


def one_run(cluster: Cluster, screen: Path, store: Path, kind: str, seed: int) -> dict[str, Any]:
    """Do a run, whatever is killed meanwhile; return what it took and whether it is whole."""
    config, killed, again, tasks = config_of(screen, store), {}, 0, 0
    cluster.keep_up()
    killer = Killer(cluster, seed)
    started = time.perf_counter()
    if kind == "killed":
        killer.start()
    if kind == "driver killed":
        killed = {"driver": _kill_drivers(cluster, config, store, random.Random(seed))}
    while True:
        try:
            with connect(cluster.address) as client:
                outcome = Run.from_config(config).execute(client, patience_s=PATIENCE_S)
                if client is not None and kind != "killed":
                    tasks = client.run_on_scheduler(_tasks)
            break
        except (InterruptedRunError, InputError):
            # the scheduler has gone, or is not there yet; of an error that stays there is no end
            again += 1
            if again > 50:
                raise
            cluster.keep_up()
    seconds = time.perf_counter() - started
    if kind == "killed":
        killer.end()
        killed = dict(killer.killed)
    bad = sum(len(stage.findings) for stage in verify(store, deep=True).stages)
    return {
        "kind": kind, "screen": screen.name, "s": seconds, "cpu_s": _busy(store),
        "cells": outcome.cells,
        "killed": killed, "begun_again": again, "digest": digest(store), "findings": bad,
        "tasks_left": tasks,
    }  # fmt: skip


def _busy(store: Path) -> float:
    """Return how many seconds the units of a store kept a processor busy."""
    ledger = Ledger(str(store))
    records = (ledger.record(unit) or {} for unit in ledger.recorded())
    return float(sum(record["summary"]["cpu_seconds"] for record in records))


def _tasks(dask_scheduler: Any) -> int:
    return len(dask_scheduler.tasks)


def _kill_drivers(cluster: Cluster, config: RunConfig, store: Path, rng: random.Random) -> int:
    """Start the command that runs a screen, twice, and kill it in the middle; return how often."""
    path, killed = store.with_name("run.toml"), 0
    path.write_text(template(config), encoding="utf-8")
    for _ in range(2):
        driver = cluster.start("-m", "bgscale", "run", str(path), "--cluster", cluster.address)
        try:
            code = driver.wait(rng.uniform(4, 9))
        except subprocess.TimeoutExpired:
            driver.send_signal(signal.SIGKILL)
            driver.wait()
            killed += 1
        else:
            if code:
                msg = f"the driver ended with exit code {code}: see {cluster.log.name}"
                raise BgscaleError(msg)
    return killed


def state(cluster: Cluster, runs: Path) -> dict[str, Any]:
    """Return what this process and those of the cluster hold just now, and what lies about."""
    gc.collect()
    found = cluster.processes()
    roles = {"driver": [os.getpid()]} | {k: v for k, v in found.items() if k != "other"}
    return {
        "processes": {role: [held(pid) for pid in sorted(pids)] for role, pids in roles.items()},
        "not_ended": len(found["other"]),
        "temporary_files": cluster.left_files(),
        "files_of_runs": sum(1 for _ in runs.rglob("*")),
    }


def slope(x: Sequence[float], y: Sequence[float]) -> dict[str, float] | None:
    """Return the Theil-Sen slope and its 95% interval; None of fewer than eight points."""
    if len(x) < 8:
        return None
    each, _, low, high = theilslopes(y, x)
    return {"slope": float(each), "low": float(low), "high": float(high)}


def drift(rounds: Sequence[dict[str, Any]], key: str) -> dict[str, float] | None:
    """Return how runs of one kind change in an hour, as a share of the median of their screen."""
    by_screen: dict[str, list[float]] = {}
    for one in rounds:
        by_screen.setdefault(one["screen"], []).append(one[key])
    medians = {screen: statistics.median(values) for screen, values in by_screen.items()}
    relative = [one[key] / medians[one["screen"]] for one in rounds]
    return slope([one["hours"] for one in rounds], relative)


def lives(rounds: Sequence[dict[str, Any]], role: str) -> list[list[tuple[float, dict[str, Any]]]]:
    """Return what each process of a role held, by hours, the longest life first."""
    found: dict[int, list[tuple[float, dict[str, Any]]]] = {}
    for one in rounds:
        for process in one["after"]["processes"][role]:
            found.setdefault(process["pid"], []).append((one["hours"], process))
    return sorted(found.values(), key=len, reverse=True)


def summary(rounds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return what the soak has shown."""
    first = {one["screen"]: one["digest"] for one in reversed(rounds)}
    rates = {
        kind: {
            "runs": len(of),
            "median_s": statistics.median(one["s"] for one in of),
            "drift_an_hour": drift(of, "s"),
            "busy_drift_an_hour": drift(of, "cpu_s"),
        }
        for kind in KINDS
        if (of := [one for one in rounds if one["kind"] == kind])
    }
    memory = {}
    for role in ("driver", "scheduler", "nanny", "worker"):
        life = [process for _, process in lives(rounds, role)[0]]
        mb = [process["rss_mb"] for process in life]
        late = mb[int(WARM * len(mb)) :]
        memory[role] = {
            "runs": len(life),
            "mb_by_thirds": [mb[round(part * (len(mb) - 1) / 3)] for part in range(4)],
            "late_mb_a_run": slope([float(n) for n in range(len(late))], late),
            "first": life[0],
            "last": life[-1],
        }
    last = rounds[-1]["after"]
    return {
        "runs": len(rounds),
        "hours": rounds[-1]["hours"],
        "kills": sum(sum(one["killed"].values()) for one in rounds),
        "other_bytes": sum(one["digest"] != first[one["screen"]] for one in rounds),
        "findings": sum(one["findings"] for one in rounds),
        "tasks_left": max(one["tasks_left"] for one in rounds),
        "not_ended": max(one["after"]["not_ended"] for one in rounds),
        "temporary_files": [rounds[0]["after"]["temporary_files"], last["temporary_files"]],
        "files_of_runs": [rounds[0]["after"]["files_of_runs"], last["files_of_runs"]],
        "rates": rates,
        "processes": memory,
    }


def written(rounds: Sequence[dict[str, Any]]) -> str:
    """Return the report as JSON, with a line for each run."""
    report = {"summary": summary(rounds), "versions": versions()}
    report |= conditions(threads=1, seeds=[0]) | {"rounds": "HERE"}
    lines = ",\n  ".join(json.dumps(one) for one in rounds)
    return json.dumps(report, indent=1).replace('"HERE"', f"[\n  {lines}\n ]") + "\n"


def draw(rounds: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw seconds of each run, and memory of each process."""
    figure, (above, below) = plt.subplots(
        2, 1, figsize=(5.2, 4.6), layout="constrained", sharex=True
    )
    for kind in KINDS:
        of = [one for one in rounds if one["kind"] == kind]
        above.plot([o["hours"] * 60 for o in of], [o["s"] for o in of], ".", ms=4, label=kind)
    above.set(ylabel="seconds of a run", yscale="log")
    for color, role in zip(("C3", "C4", "C5"), ("driver", "scheduler", "worker"), strict=True):
        for n, life in enumerate(lives(rounds, role)):
            below.plot(
                [hours * 60 for hours, _ in life], [p["rss_mb"] for _, p in life], ".-", ms=2, lw=1,
                color=color, label=None if n else role,
            )  # fmt: skip
    below.set(xlabel="minutes", ylabel="memory (MB)", ylim=(0, None))
    for axes in (above, below):
        axes.legend(fontsize="small", frameon=False, ncols=4, loc="upper center",
                    bbox_to_anchor=(0.5, 1.16))  # fmt: skip
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def show(found: dict[str, Any]) -> None:
    """Print what was found."""
    print(
        f"{found['runs']} runs in {found['hours']:.2f} h, {found['kills']} kills: "
        f"{found['other_bytes']} with other bytes, {found['findings']} findings of verify"
    )
    print(f"tasks left {found['tasks_left']}, processes not ended {found['not_ended']}, temporary "
          f"files {found['temporary_files']}, files of runs {found['files_of_runs']}")  # fmt: skip
    print(f"\n{'kind':<15}{'runs':>6}{'median s':>10}  drift an hour, 95% interval: of the run, "
          "of its units' processor time")  # fmt: skip
    for kind, rate in found["rates"].items():
        said = (_said(rate[key], 100, "%") for key in ("drift_an_hour", "busy_drift_an_hour"))
        print(f"{kind:<15}{rate['runs']:>6}{rate['median_s']:>10.1f}  " + ", ".join(said))
    print(f"\n{'process':<11}{'runs':>6}{'MB by thirds':>21}"
          f"{'files':>9}{'sockets':>9}{'threads':>9}  a run, late")  # fmt: skip
    for role, of in found["processes"].items():
        first, last = of["first"], of["last"]
        pairs = [f"{first[key]}-{last[key]}" for key in ("files", "sockets", "threads")]
        columns = "".join(f"{pair:>9}" for pair in pairs)
        mb = " ".join(f"{value:.0f}" for value in of["mb_by_thirds"])
        print(
            f"{role:<11}{of['runs']:>6}{mb:>21}{columns}  " + _said(of["late_mb_a_run"], 1, " MB")
        )


def _said(fit: dict[str, float] | None, times: float, unit: str) -> str:
    if fit is None:
        return "-"
    each, low, high = (times * fit[key] for key in ("slope", "low", "high"))
    return f"{each:+.2f}{unit} ({low:+.2f} to {high:+.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--hours", type=float, default=1.0)
    parser.add_argument("--json", type=Path, help="file to write")
    options = parser.parse_args()
    folder: Path = options.folder.resolve()
    write_screens(folder)
    runs = folder / "runs"
    shutil.rmtree(runs, ignore_errors=True)
    slow = runs / "slow"
    slow.mkdir(parents=True)
    os.environ[FOLDER] = str(slow)
    slow_down()
    cluster, rounds = Cluster(folder / "cluster", slow), []
    began, names = time.perf_counter(), list(SCREENS)
    try:
        while (hours := (time.perf_counter() - began) / 3600) < options.hours:
            n = len(rounds)
            calm = hours < CALM * options.hours
            kind = KINDS[2 * (n % 2)] if calm else KINDS[n % len(KINDS)]
            place = (slow if kind == "slow" else runs / "plain") / str(n)
            place.mkdir(parents=True)
            screen = folder / names[n // 2 % len(names)]
            done = one_run(cluster, screen, place / "results.zarr", kind, seed=n)
            shutil.rmtree(place)
            rounds.append(done | {"hours": hours, "after": state(cluster, runs)})
            print(
                f"{hours:7.3f} h  {kind:<14}{screen.name:<11}{done['s']:6.1f} s  {done['killed']}"
            )
            if options.json:
                options.json.write_text(written(rounds), encoding="utf-8")
    except BgscaleError as error:
        raise SystemExit(f"error: {error}") from None
    finally:
        cluster.end()
    left = cluster.processes()
    show(summary(rounds))
    print(f"processes after the end: {sum(len(pids) for pids in left.values())}")
    if options.json:
        draw(rounds, FIGURE)


if __name__ == "__main__":
    main()
