"""A run over three hosts, one of which is cut off in the middle: it ends, and the same bytes."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from hosts import Hosts
from partition_work import GATED
from processes import end
from screens import config_of
from test_run import assert_same_store

from bgscale.config import RunConfig, template
from bgscale.distribute.execute import UNITS_IN_FLIGHT_PER_THREAD
from bgscale.run import status

TESTS = Path(__file__).parent
DRIVER, CUT_OFF, OTHER = 1, 2, 3
PORT = 8786
DEADLINE_S = 120
GIVEN_UP_AFTER = "12s"
"""By the machinery of TCP: a heartbeat would be missed by a worker that imports much as well."""
NOTICES_AFTER = "60s"
"""The host that is cut off: it works on, as if nothing had happened."""


class Rack:
    """Scheduler and driver on one host, a worker with its nanny on each of two others."""

    def __init__(self, folder: Path, hosts: Hosts, kept: ExitStack) -> None:
        self.folder, self.hosts = folder, hosts
        self._kept = kept
        self._log = kept.enter_context((folder / "log").open("wb"))
        for name in ("begun", "written"):
            (folder / name).mkdir()
        address = f"tcp://{hosts.address(DRIVER)}:{PORT}"
        self.start(
            DRIVER, "-m", "dask", "scheduler", "--host", hosts.address(DRIVER),
            "--port", str(PORT), "--no-dashboard",
        )  # fmt: skip
        for host in (CUT_OFF, OTHER):
            self.start(
                host, "-m", "dask", "worker", address, "--host", hosts.address(host),
                "--nthreads", "1", "--nworkers", "1", "--no-dashboard", "--memory-limit", "0",
                "--local-directory", str(folder / f"scratch{host}"),
            )  # fmt: skip
        self._address = address

    def start(self, host: int, *arguments: str) -> subprocess.Popen[bytes]:
        environment = os.environ | {
            "DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "5s",
            "DASK_DISTRIBUTED__COMM__TIMEOUTS__TCP": (
                NOTICES_AFTER if host == CUT_OFF else GIVEN_UP_AFTER
            ),
            "PYTHONPATH": f"{TESTS}{os.pathsep}{TESTS.parent}",
            "PARTITION_FOLDER": str(self.folder),
            "PARTITION_HOST": str(host),
        }  # fmt: skip
        process = subprocess.Popen(
            self.hosts.command(host, sys.executable, *arguments),
            stdout=self._log, stderr=self._log, env=environment, cwd=self.folder,
        )  # fmt: skip
        self._kept.callback(end, process)
        return process

    def drive(self, config: RunConfig) -> None:
        """Begin the run, when both workers are there to share it."""
        came = f"Starting established connection to {self._address}"
        self.until(lambda: self.said(came) == 2, "no two workers")
        run_toml = self.folder / "run.toml"
        run_toml.write_text(template(config), encoding="utf-8")
        work = str(TESTS / "partition_work.py")
        self.driver = self.start(DRIVER, work, "run", str(run_toml), "--cluster", self._address)

    def said(self, text: str) -> int:
        return (self.folder / "log").read_text(encoding="utf-8", errors="replace").count(text)

    def marks(self, kind: str, *, host: int | None = None, stage: str = "") -> list[str]:
        """Return the units that were begun or written on a host, in that order."""
        found = [path.name.rsplit(".", 2) for path in (self.folder / kind).iterdir()]
        return [
            unit
            for unit, where, _ in sorted(found, key=lambda mark: int(mark[2]))
            if host in (None, int(where)) and unit.startswith(stage)
        ]

    def until(self, true: Callable[[], object], what: str) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while not true():
            assert time.monotonic() < deadline, (what, self.tail)
            time.sleep(0.05)

    @property
    def tail(self) -> str:
        return (self.folder / "log").read_text(encoding="utf-8", errors="replace")[-3000:]


@pytest.fixture
def rack(tmp_path: Path) -> Iterator[Rack]:
    with Hosts(3) as hosts, ExitStack() as kept:
        yield Rack(tmp_path, hosts, kept)


def assert_complete(rack: Rack, finished: Path, config: RunConfig) -> None:
    """Assert that a run ended well, as if nothing had happened, and did little twice."""
    rack.until(lambda: rack.driver.poll() is not None, "the run does not end")
    assert rack.driver.returncode == 0, rack.tail
    assert_same_store(finished, Path(config.store))
    stages = status(config.store)["stages"].values()
    assert all(entry["done"] == entry["units"] for entry in stages)
    # what the lost worker had, running or in its queue
    twice = len(rack.marks("begun")) - sum(entry["units"] for entry in stages)
    assert 1 <= twice <= UNITS_IN_FLIGHT_PER_THREAD


@pytest.mark.cluster
@pytest.mark.slow
def test_a_host_that_comes_back_finishes_what_others_have_done_and_harms_nothing(
    small_screen: Path, finished: Path, tmp_path: Path, rack: Rack
) -> None:
    config = config_of(small_screen, tmp_path)
    gate = tmp_path / f"gate{CUT_OFF}"
    gate.touch()
    rack.drive(config)
    rack.until(lambda: rack.marks("begun", host=CUT_OFF, stage=GATED), "it begins no unit")
    rack.hosts.cut(CUT_OFF)
    (held,) = rack.marks("begun", host=CUT_OFF, stage=GATED)
    rack.until(lambda: held in rack.marks("written", host=OTHER), "the host is not given up")
    # it does not know, and writes the same unit again
    gate.unlink()
    rack.until(lambda: held in rack.marks("written", host=CUT_OFF), "it does not go on")
    rack.hosts.heal(CUT_OFF)
    assert rack.driver.poll() is None
    assert_complete(rack, finished, config)


@pytest.mark.cluster
@pytest.mark.slow
def test_a_host_that_never_comes_back_is_done_without(
    small_screen: Path, finished: Path, tmp_path: Path, rack: Rack
) -> None:
    config = config_of(small_screen, tmp_path)
    rack.drive(config)
    rack.until(lambda: rack.marks("begun", host=CUT_OFF, stage=GATED), "it begins no unit")
    rack.hosts.cut(CUT_OFF)
    had = len(rack.marks("begun", host=CUT_OFF))
    assert_complete(rack, finished, config)
    later = rack.marks("begun", host=CUT_OFF)[had:]
    assert len(later) < UNITS_IN_FLIGHT_PER_THREAD
    assert all(unit.startswith(GATED) for unit in later)
