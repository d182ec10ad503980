"""What distribution costs: a scheduler with 128,000 units, and a cluster beside serial processes.

    python benchmarks/cluster.py [--quick] [--part load] [--json cluster.json] [--folder DIR]

*Load.* A stage of 128,000 units that do nothing, as if each of the 128,000 fields of a proteome
were a unit of its own (a run takes up to 16 fields at a time), goes through the engine on a cluster
of two local processes; the job's text is as long as that of a run of so many plates. Every unit
leaves its record: the same without a cluster, for some of the units, says what records cost.
Memory is that of the process that drives, in which the scheduler runs too, while it goes on: it
must not grow with the units.

*Overhead.* A simulated crops screen, from its crops to the features, the stages one after the
other. Two serial processes that take every other unit of each stage and meet at its end, by a
barrier of the operating system, are as good as two processes can be; `--part 0/2` and `1/2` do the
same, but look for each other every two seconds, and two halves of a screen would have other donors.
Beside them a cluster of two local processes: both run the same units of the same stages, in
processes with one thread which have loaded everything. Compared are sums of the stages' wall times,
as medians over alternating repetitions; how long it takes to start is given apart. CPU time, of
scheduler and driver too, says the same where other work on the machine lengthens wall times.
"""

import argparse
import json
import multiprocessing
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bgscale.distribute.listener import Silent
from bgscale.distribute.units import Unit, plan_units

FIELDS, FIELDS_A_PLATE = 128_000, 1_536
STAGES_OF_A_PLATE = ("segment", "measure", "gather", "cut", "ranges", "embed/tiny")
LOOKS = 10
LOOK_EVERY = 50
WITHOUT_CLUSTER = 2_000
UNTIL = "embed"
PROCESSES = 2
MB = 1e6
ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENCV_FOR_THREADS_NUM": "1",
    "ZARR_THREADING__MAX_WORKERS": "1",
}


def nothing(unit: Unit, job: str) -> tuple[list[str], dict[str, Any]]:
    """Do a unit's work."""
    del unit, job
    return [], {"fields": 1}


class Watch(Silent):
    """Looks, now and then, at what a client and its scheduler hold."""

    def __init__(self, client: Any, units: int) -> None:
        self._client, self._every = client, max(units // LOOKS, 1)
        self._done = self.futures = self.tasks = self.task_bytes = 0
        self.resident_mb: dict[int, float] = {}

    def unit_done(self, unit: Unit, summary: dict[str, Any]) -> None:
        """Count, and look."""
        del unit, summary
        self._done += 1
        if self._done % LOOK_EVERY == 0:
            self.futures = max(self.futures, len(self._client.futures))
            self.tasks = max(self.tasks, len(self._client.cluster.scheduler.tasks))
        if self._done % self._every == 0:
            self.resident_mb[self._done] = resident_mb()
            tasks = list(self._client.cluster.scheduler.tasks.values())
            self.task_bytes = max([self.task_bytes, *map(_task_bytes, tasks)])


def _task_bytes(task: Any) -> int:
    import cloudpickle

    return len(cloudpickle.dumps(task.run_spec)) if task.run_spec is not None else 0


def resident_mb() -> float:
    """Return the memory of this process; 0 where that is not known."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        return 0.0
    return round(pages * os.sysconf("SC_PAGE_SIZE") / MB, 1)


def job_text(fields: int) -> str:
    """Return a job as long as that of a run of so many fields."""
    from bgscale.config import RunConfig

    plates = -(-fields // FIELDS_A_PLATE)
    tokens = [
        (f"{kind}/P{n:03d}", f"{n:016x}") for kind in STAGES_OF_A_PLATE for n in range(plates)
    ]
    return json.dumps({"config": RunConfig().to_config(), "tokens": tokens})


def load(folder: Path, fields: int) -> dict[str, Any]:
    """Plan and run `fields` units on two local processes; in a process that did nothing else."""
    # a worker could not find what belongs to the script itself
    from cluster import nothing as work

    from bgscale.distribute.cluster import connect
    from bgscale.distribute.execute import run_units
    from bgscale.distribute.ledger import Ledger

    stage, job = "segment/P001", job_text(FIELDS)
    started = time.perf_counter()
    units = plan_units(stage, fields, 1, "0" * 16)
    planned = time.perf_counter() - started
    some = units[:: max(fields // WITHOUT_CLUSTER, 1)]
    (folder / "serial.zarr").mkdir(parents=True)
    (folder / "cluster.zarr").mkdir()
    started = time.perf_counter()
    ledger = Ledger(str(folder / "serial.zarr"))
    run_units(work, some, job, ledger=ledger, listener=Silent())
    alone_ms = 1e3 * (time.perf_counter() - started) / len(some)
    ledger = Ledger(str(folder / "cluster.zarr"))
    with connect(f"local:{PROCESSES}") as client:
        watch, before = Watch(client, fields), resident_mb()
        wall, cpu, own = time.perf_counter(), time.process_time(), time.thread_time()
        run_units(work, units, job, ledger=ledger, client=client, listener=watch)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        own = time.thread_time() - own
    started = time.perf_counter()
    assert len(ledger.done(units)) == fields
    looked = time.perf_counter() - started
    ledger.bind(stage)
    started = time.perf_counter()
    assert len(ledger.done(units)) == fields
    return {
        "units": fields,
        "plan_s": round(planned, 3),
        "wall_s": round(wall, 1),
        "units_per_s": round(fields / wall, 1),
        "ms_per_unit": round(1e3 * wall / fields, 3),
        "driver_and_scheduler_cpu_ms_per_unit": round(1e3 * cpu / fields, 3),
        "of_which_driver_ms": round(1e3 * own / fields, 3),
        "record_alone_ms": round(alone_ms, 3),
        "futures_at_most": watch.futures,
        "tasks_at_most": watch.tasks,
        "task_bytes": watch.task_bytes,
        "job_bytes": len(job),
        "resident_mb": {"0": before, **{str(n): mb for n, mb in watch.resident_mb.items()}},
        "done_s": round(looked, 2),
        "done_bound_s": round(time.perf_counter() - started, 2),
    }


def simulate(folder: Path, *, quick: bool) -> Path:
    """Write a crops screen and the store of a run that has done its first stage."""
    from bgscale.config import RunConfig
    from bgscale.run import Run
    from bgscale.simulate import ScreenSpec, write_crops

    spec = ScreenSpec(
        localizations=("cell periphery", "cytoplasm", "nucleus", "vacuolar membrane"),
        proteins_per_localization=2 if quick else 5,
        mixed_proteins=2 if quick else 4,
        fields_per_protein=2 if quick else 4,
        cells_per_field=20 if quick else 42,
        field_size_px=400,
    )
    screen = write_crops(spec, folder / "screen", zipped=True)
    section = {"path": "crops.zip", "plate_map": "platemap.csv", "mask": "mask"}
    values = {
        "store": str(folder / "begun.zarr"),
        "shard_cells": 64,
        "screen": {key: str(screen / v) if "." in v else v for key, v in section.items()},
        "models": {"tiny": {"seed": 1}},
        "donors": {"per_class": 200, "windows_per_class": 50, "min_pool": 5},
    }
    Run.from_config(RunConfig.from_dict(values)).execute(until="proteins")
    path = folder / "run.json"
    path.write_text(json.dumps(values), encoding="utf-8")
    return path


def _prepared(path: Path, store: Path) -> tuple[Any, list[Any]]:
    """Load all that the work needs; return the job and the stages that are left."""
    import torch

    from bgscale import pipeline
    from bgscale.config import RunConfig
    from bgscale.run import Run

    torch.set_num_threads(1)
    values = json.loads(path.read_text(encoding="utf-8")) | {"store": str(store)}
    run = Run.from_config(RunConfig.from_dict(values))
    job = run.job_of(run.config, [(s.name, s.token) for s in run.stages])
    assert pipeline.work
    kinds = [stage.name.partition("/")[0] for stage in run.stages]
    return job, list(run.stages[1 : kinds.index(UNTIL) + 1])


def load_all(path: Path, store: Path) -> None:
    """Bring a worker to where the serial processes begin."""
    _prepared(path, store)


def serial(path: Path, store: Path, index: int, meet: Any, answers: Any) -> None:
    """Do every other unit of each stage, as one of the serial processes."""
    from bgscale.distribute.execute import run_units
    from bgscale.distribute.ledger import Ledger
    from bgscale.pipeline import work

    job, stages = _prepared(path, store)
    times: dict[str, float] = {}
    meet.wait()
    ready, cpu = time.monotonic(), time.process_time()
    for stage in stages:
        if index == 0:
            stage.prepare(job)
        meet.wait()
        started = time.perf_counter()
        units = stage.units(job)[index::PROCESSES]
        run_units(work, units, job.text, ledger=Ledger(str(store)), listener=Silent())
        meet.wait()
        times[stage.name] = time.perf_counter() - started
    answers.put((ready, times, time.process_time() - cpu))


def cluster(path: Path, store: Path, answers: Any) -> None:
    """Do the same units on a cluster of two local processes."""
    from cluster import _cpu_s
    from cluster import load_all as load_in_worker

    from bgscale.distribute.cluster import connect
    from bgscale.distribute.execute import run_units
    from bgscale.distribute.ledger import Ledger
    from bgscale.pipeline import work

    job, stages = _prepared(path, store)
    times: dict[str, float] = {}
    with connect(f"local:{PROCESSES}") as client:
        assert client is not None
        client.run(load_in_worker, path, store)
        ready, cpu = time.monotonic(), time.process_time() + sum(client.run(_cpu_s).values())
        for stage in stages:
            stage.prepare(job)
            started = time.perf_counter()
            run_units(
                work, stage.units(job), job.text,
                ledger=Ledger(str(store)), client=client, listener=Silent(),
            )  # fmt: skip
            times[stage.name] = time.perf_counter() - started
        cpu = time.process_time() + sum(client.run(_cpu_s).values()) - cpu
    answers.put((ready, times, cpu))


def _cpu_s() -> float:
    # the clock itself is a built-in, which Dask cannot ask for a parameter of its own
    return time.process_time()


def _in_processes(path: Path, folder: Path, way: str) -> dict[str, Any]:
    """Do the work in one way, into a store of its own; return times in seconds."""
    store = folder / f"{way}.zarr"
    progress = "{}.zarr.progress".format
    shutil.copytree(folder / "begun.zarr", store)
    shutil.copytree(folder / progress("begun"), folder / progress(way))
    context = multiprocessing.get_context("spawn")
    answers, meet = context.Queue(), context.Barrier(PROCESSES)
    with _environment(ONE_THREAD):
        started = time.monotonic()
        if way == "cluster":
            several = [context.Process(target=cluster, args=(path, store, answers))]
        else:
            every = [(path, store, index, meet, answers) for index in range(PROCESSES)]
            several = [context.Process(target=serial, args=arguments) for arguments in every]
        for process in several:
            process.start()
    said = [answers.get(timeout=900) for _ in several]
    ready, times, _ = said[0]
    for process in several:
        process.join()
        assert process.exitcode == 0, process.exitcode
    shutil.rmtree(store)
    shutil.rmtree(folder / progress(way))
    return {
        "start_s": ready - started,
        "stages": times,
        "work_s": sum(times.values()),
        "cpu_s": sum(cpu for *_, cpu in said),
    }


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(values)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def overhead(folder: Path, repetitions: int, *, quick: bool) -> dict[str, Any]:
    """Compare both ways, in turn."""
    path = simulate(folder, quick=quick)
    found: dict[str, list[dict[str, Any]]] = {"serial": [], "cluster": []}
    for number in range(repetitions):
        for way in list(found)[:: -1 if number % 2 else 1]:
            found[way].append(_in_processes(path, folder, way))
    report: dict[str, Any] = {"processes": PROCESSES, "repetitions": repetitions}
    for way, several in found.items():
        report[way] = {
            "work_s": round(statistics.median(one["work_s"] for one in several), 2),
            "each_work_s": [round(one["work_s"], 2) for one in several],
            "cpu_s": round(statistics.median(one["cpu_s"] for one in several), 2),
            "start_s": round(statistics.median(one["start_s"] for one in several), 2),
            "stages_s": {
                stage: round(statistics.median(one["stages"][stage] for one in several), 3)
                for stage in several[0]["stages"]
            },
        }
    pairs = zip(found["cluster"], found["serial"], strict=True)
    ratios = [mine["work_s"] / theirs["work_s"] for mine, theirs in pairs]
    # within a repetition: the machine's own pace changes between them
    report["ratio"] = round(statistics.median(ratios), 3)
    report["cpu_ratio"] = round(report["cluster"]["cpu_s"] / report["serial"]["cpu_s"], 3)
    report["ratios"] = [round(ratio, 3) for ratio in ratios]
    return report


def _load_in_a_process(folder: Path, fields: int) -> dict[str, Any]:
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    process = context.Process(target=_answer_load, args=(folder, fields, answers))
    process.start()
    measured: dict[str, Any] = answers.get(timeout=3600)
    process.join()
    return measured


def _answer_load(folder: Path, fields: int, answers: Any) -> None:
    answers.put(load(folder, fields))


def show_overhead(compared: dict[str, Any]) -> None:
    """Print how both ways compare."""
    print(f"{'stage':<24}{'serial s':>10}{'cluster s':>10}")
    for stage, seconds in compared["serial"]["stages_s"].items():
        print(f"{stage:<24}{seconds:>10.2f}{compared['cluster']['stages_s'][stage]:>10.2f}")
    for key, title in (("work_s", "all stages"), ("cpu_s", "CPU of that"), ("start_s", "to start")):
        print(f"{title:<24}{compared['serial'][key]:>10.2f}{compared['cluster'][key]:>10.2f}")
    print(f"ratio {compared['ratio']}, of CPU time {compared['cpu_ratio']}")
    print(f"of repetitions {compared['ratios']}\n", flush=True)


def show_load(measured: dict[str, Any]) -> None:
    """Print what so many units cost."""
    for key, value in measured.items():
        print(f"{key:<40}{value}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="2,000 units, a small screen, once")
    parser.add_argument(
        "--part", choices=("overhead", "load"), action="append",
        help="only this one; of --json the other one stays",
    )  # fmt: skip
    parser.add_argument("--json", type=Path, help="file to write")
    parser.add_argument("--folder", type=Path, help="where to work, instead of a temporary folder")
    options = parser.parse_args()
    from machine import conditions

    from bgscale.run import versions

    parts = options.part or ("overhead", "load")
    report: dict[str, Any] = {}
    if options.json and options.part and options.json.exists():
        report = json.loads(options.json.read_text(encoding="utf-8"))
    folder = Path(tempfile.mkdtemp(prefix="bgscale-cluster-", dir=options.folder))
    try:
        for part in parts:
            started, busy = time.perf_counter(), os.getloadavg()
            if part == "overhead":
                found = overhead(folder, 1 if options.quick else 5, quick=options.quick)
                show_overhead(found)
            else:
                found = _load_in_a_process(folder / "load", 2_000 if options.quick else FIELDS)
                show_load(found)
            found["load_average"] = {"start": busy, "end": os.getloadavg()}
            found["took_s"] = round(time.perf_counter() - started)
            report[part] = found
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    report |= {"versions": versions()} | conditions(threads=1, seeds=[0, 1])
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
