"""A driver whose scheduler is gone says so in one line, at whatever moment it notices."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from test_distribute import SCHEDULER_SCRIPT
from tornado.util import TimeoutError as TornadoTimeoutError

from bgscale.distribute.execute import _outcome
from bgscale.distribute.lost import LOST, closed_at_last
from bgscale.errors import EXIT_TRY_AGAIN, InterruptedRunError

TESTS = Path(__file__).parent

DRIVER_SCRIPT = """
    import json, os, signal, sys, time
    import work_units
    from bgscale.distribute import cluster
    from bgscale.distribute.execute import draining_signals, run_units, thread_memory
    from bgscale.distribute.ledger import Ledger
    from bgscale.distribute.listener import Silent
    from bgscale.distribute.units import plan_units
    from bgscale.errors import BgscaleError

    address, scheduler, store, moment, pause = sys.argv[1:]

    def reached(name):
        if name == moment:
            os.kill(int(scheduler), signal.SIGKILL)
            time.sleep(float(pause))

    class Reaching(Silent):
        def stage_started(self, *_):
            reached("stage started")

        def unit_done(self, *_):
            reached("unit done")

    if __name__ == "__main__":
        # so long a client looks for its scheduler, then it closes itself
        cluster.CONNECT_TIMEOUT_S = 2
        try:
            with cluster.connect(address) as client, draining_signals() as stop:
                reached("connected")
                cluster.gpu_resources(client)
                thread_memory(client)
                run_units(
                    work_units.write, plan_units("write", 80, 4, "token"),
                    json.dumps({"store": store, "seconds": 0.1}),
                    ledger=Ledger(store), client=client, listener=Reaching(), stop=stop,
                )
        except BgscaleError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(error.exit_code)
"""


@pytest.mark.cluster
@pytest.mark.parametrize(
    ("moment", "pause_s"),
    [("connected", 0), ("stage started", 0), ("stage started", 4), ("unit done", 0)],
)
def test_a_driver_that_lost_its_scheduler_says_one_line(
    tmp_path: Path, moment: str, pause_s: int
) -> None:
    scheduler, driver = tmp_path / "scheduler.py", tmp_path / "driver.py"
    scheduler.write_text(textwrap.dedent(SCHEDULER_SCRIPT).format(tests=str(TESTS)))
    driver.write_text(textwrap.dedent(DRIVER_SCRIPT))
    store = tmp_path / "results.zarr"
    store.mkdir()
    environment = os.environ | {"PYTHONPATH": f"{TESTS}{os.pathsep}{TESTS.parent}"}
    with subprocess.Popen(
        [sys.executable, str(scheduler)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment,
    ) as process:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        command = [sys.executable, driver, address, str(process.pid), store, moment, str(pause_s)]
        done = subprocess.run(
            command, capture_output=True, text=True, env=environment, timeout=120, check=False
        )
        process.kill()
    assert done.stderr == (
        "error: lost the Dask scheduler; what was done is kept: run again to go on\n"
    )
    assert done.returncode == EXIT_TRY_AGAIN


class SearchingClient:
    """A client that is closed while it looks for its scheduler, as Dask's then raises."""

    status = "running"

    def close(self) -> None:
        self.status = "closing"
        raise TornadoTimeoutError("Connecting Timeout")


def test_closing_a_client_that_still_looks_hides_nothing() -> None:
    with pytest.raises(InterruptedRunError, match="lost the Dask scheduler"):  # noqa: SIM117
        with closed_at_last(SearchingClient()):
            raise InterruptedRunError(LOST)


class Remade:
    """A future whose summary was lost with its worker; the unit, tried again, raises."""

    status = "finished"

    def exception(self) -> None:
        return None

    def result(self) -> None:
        self.status = "error"
        raise OSError("the bucket is gone")


def test_what_a_unit_raises_when_its_summary_is_made_again_is_the_units() -> None:
    error = _outcome(Remade())
    assert isinstance(error, OSError)
    assert str(error) == "the bucket is gone"
