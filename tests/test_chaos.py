"""Whatever is killed, and however often: the same bytes, and little is done twice."""

import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from processes import end
from screens import config_of
from test_run import assert_same_store

from bgscale.config import template
from bgscale.run import status

KILLS = 20
SEED = 11
TARGETS = ("worker", "nanny", "scheduler", "driver")
THREADS = 2
DEADLINE_S = 420
TESTS = Path(__file__).parent


class Stage:
    """Scheduler, two workers with nannies, and a driver; what dies is started again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
        (folder / "marks").mkdir()
        self.environment = os.environ | {
            "PYTHONPATH": f"{TESTS}{os.pathsep}{TESTS.parent}",
            "CHAOS_MARKS": str(folder / "marks"),
            "DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "5s",
        }
        self.log = (folder / "log").open("wb")
        self.scheduler: subprocess.Popen[bytes] | None = None
        self.workers: list[subprocess.Popen[bytes] | None] = [None] * THREADS
        self.driver: subprocess.Popen[bytes] | None = None

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, *arguments], stdout=self.log, stderr=self.log, env=self.environment,
            cwd=self.folder,
        )  # fmt: skip

    def keep_up(self) -> None:
        """Start what is not there; a scheduler must answer before the others are started."""
        if self.scheduler is None or self.scheduler.poll() is not None:
            host, port = self.address.removeprefix("tcp://").split(":")
            self.scheduler = self.start(
                "-m", "dask", "scheduler", "--host", host, "--port", port, "--no-dashboard"
            )
            until = time.monotonic() + 60
            while not _answers(host, int(port)):
                assert time.monotonic() < until, "the scheduler does not start"
                time.sleep(0.1)
        for i, worker in enumerate(self.workers):
            if worker is None or worker.poll() is not None:
                self.workers[i] = self.start(
                    "-m", "dask", "worker", self.address, "--nthreads", "1", "--nworkers", "1",
                    "--host", "127.0.0.1", "--no-dashboard", "--memory-limit", "0",
                    "--local-directory", str(self.folder / f"scratch{i}"),
                )  # fmt: skip

    @property
    def begun(self) -> int:
        """How often a unit was begun."""
        return sum(1 for _ in (self.folder / "marks").iterdir())

    def drive(self, run_toml: Path) -> None:
        self.driver = self.start(
            str(TESTS / "chaos_work.py"), "run", str(run_toml), "--cluster", self.address
        )

    def kill(self, target: str, rng: random.Random) -> bool:
        """Kill one of them; False where there is none just now."""
        pid = None
        if target in ("worker", "nanny"):
            process = rng.choice(self.workers)
            if process is not None and process.poll() is None:
                pid = process.pid if target == "nanny" else _worker_of(process.pid)
        else:
            process = self.scheduler if target == "scheduler" else self.driver
            pid = process.pid if process is not None and process.poll() is None else None
        if pid is None:
            return False
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            return False
        return True

    def end(self) -> None:
        for process in (self.driver, *self.workers, self.scheduler):
            if process is not None:
                end(process)
        self.log.close()


def _answers(host: str, port: int) -> bool:
    with socket.socket() as knock:
        return knock.connect_ex((host, port)) == 0


def _worker_of(nanny: int) -> int | None:
    try:
        children = psutil.Process(nanny).children()
    except psutil.NoSuchProcess:
        return None
    # beside the worker a nanny may have a resource tracker
    found = [c.pid for c in children if "resource_tracker" not in " ".join(c.cmdline())]
    return found[0] if found else None


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    made = Stage(tmp_path)
    yield made
    made.end()


@pytest.mark.cluster
@pytest.mark.slow
def test_a_store_comes_out_the_same_whatever_is_killed(
    small_screen: Path, finished: Path, tmp_path: Path, stage: Stage
) -> None:
    rng = random.Random(SEED)
    killed: list[str] = []
    stores = 0
    before, units = 0, 0
    until = time.monotonic() + DEADLINE_S
    while len(killed) < KILLS or stores == 0:
        folder = tmp_path / f"run{stores}"
        folder.mkdir()
        config = config_of(small_screen, folder)
        run_toml = folder / "run.toml"
        run_toml.write_text(template(config), encoding="utf-8")
        stage.keep_up()
        stage.drive(run_toml)
        while True:
            assert time.monotonic() < until, (killed, stores, _tail(tmp_path / "log"))
            # a kill comes while units run: some have begun since the last one
            time.sleep(rng.uniform(0.0, 0.6) if stage.begun > before else 0.1)
            stage.keep_up()
            assert stage.driver is not None
            code = stage.driver.poll()
            if code == 0:
                break
            if code is not None:
                # killed, or it has lost its scheduler: try again
                assert code in (-signal.SIGKILL, 75), (code, _tail(tmp_path / "log"))
                stage.drive(run_toml)
            elif len(killed) < KILLS and stage.begun > before:
                target = TARGETS[len(killed) % len(TARGETS)]
                if stage.kill(target, rng):
                    killed.append(target)
                    before = stage.begun
        assert_same_store(finished, Path(config.store))
        stages = status(config.store)["stages"].values()
        assert all(entry["done"] == entry["units"] for entry in stages)
        units += sum(entry["units"] for entry in stages)
        stores += 1
    assert {killed.count(target) for target in TARGETS} <= {KILLS // 4, KILLS // 4 + 1}
    # a kill costs at most what was running
    assert 0 < stage.begun - units <= THREADS * len(killed)


def _tail(log: Path) -> str:
    return log.read_text(encoding="utf-8", errors="replace")[-3000:]
