"""The files of deploy/slurm on a real SLURM: the same bytes as a serial run, whatever dies."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import dask
import pytest
from mini_slurm import MiniSlurm, environment, mini_slurm, missing
from screens import config_of
from test_run import Counter, assert_same_store

from bgscale.config import template
from bgscale.distribute import slurm as slurm_module
from bgscale.distribute.cluster import connect
from bgscale.distribute.units import Unit
from bgscale.run import Run

ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")
FOLDER = Path(__file__).parents[1] / "deploy" / "slurm"

pytestmark = [pytest.mark.slow, pytest.mark.cluster]


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    if absent := missing():
        pytest.skip(f"no SLURM here: {', '.join(absent)} not installed")
    if os.geteuid() != 0:
        pytest.skip("a SLURM of its own needs root here")
    with mini_slurm(tmp_path_factory.mktemp("slurm")) as running:
        yield running


@pytest.fixture
def slurm(running):
    """Return a SLURM without jobs, all of its nodes up."""
    yield running
    running.run("scancel", "--user=root")
    running.wait(lambda: not running.run("squeue", "--noheader"))


class Submitted:
    """A batch job in a folder with a run.toml."""

    def __init__(self, slurm: MiniSlurm, folder: Path, *options: str, **variables: str) -> None:
        self.slurm, self.folder = slurm, folder
        env = environment(folder / "env")
        self.number = slurm.run(
            "sbatch", "--parsable", f"--chdir={folder}", "--mem-per-cpu=1G", "--time=20", *options,
            str(FOLDER / "run.sbatch"), BGSCALE_ENV=str(env), **variables,
        )  # fmt: skip

    @property
    def log(self) -> str:
        path = self.folder / f"bgscale-{self.number}.log"
        return path.read_text() if path.is_file() else ""

    @property
    def dask_log(self) -> str:
        path = self.folder / f"bgscale-{self.number}-dask.log"
        return path.read_text() if path.is_file() else ""

    @property
    def state(self) -> dict[str, str]:
        return self.slurm.job(self.number)

    @property
    def private(self) -> Path:
        return self.folder / f".bgscale-{self.number}"

    @property
    def records(self) -> list[Path]:
        return list((self.folder / "results.zarr.progress" / "units").rglob("*.json"))

    def wait_for_units(self, count: int) -> None:
        self._wait(lambda: len(self.records) >= count)

    def wait_for_state(self, state: str) -> None:
        self._wait(lambda: self.state["JobState"] == state, state)

    def _wait(self, what: Callable[[], bool], *fine: str) -> None:
        def reached() -> bool:
            state = self.state["JobState"]
            if state in ENDED and state not in fine:
                pytest.fail(f"{state}: {self.log}{self.dask_log[-3000:]}")
            return what()

        self.slurm.wait(reached, 120)

    def let_start(self) -> None:
        """Start a job that was put back into the queue; SLURM would hold it for two minutes."""
        self.wait_for_state("PENDING")
        # nodes that still end the last turn fail one that starts beside it
        self.slurm.wait(lambda: "comp" not in self.slurm.run("sinfo", "-hN", "-o", "%t").split())
        self.slurm.run("scontrol", "update", f"jobid={self.number}", "StartTime=now")


# the GPUs of these nodes are but numbers
MODELS = {"tiny": {"seed": 1, "device": "cpu"}}


@pytest.fixture
def folder(small_screen, tmp_path):
    config = config_of(small_screen, tmp_path, models=MODELS)
    (tmp_path / "run.toml").write_text(template(config))
    return tmp_path


def test_a_job_goes_on_after_its_walltime_and_after_a_node_has_died(slurm, folder, finished):
    # without GPUs: for a while SLURM may hold back steps on a node that is just back
    job = Submitted(slurm, folder, "--nodes=2", "--ntasks=2")
    job.wait_for_units(6)
    assert job.private.stat().st_mode & 0o777 == 0o700
    secret = [path for path in job.private.iterdir() if path.name != "profile.toml"]
    assert {path.stat().st_mode & 0o777 for path in secret} == {0o600}
    assert len(secret) == 4
    # the signal that SLURM sends before the walltime ends
    slurm.run("scancel", "--batch", "--signal=USR1", job.number)
    job.let_start()
    assert "run again to go on" in job.log
    assert "turn 1 has ended; the job goes back into the queue" in job.log
    assert not job.private.exists()
    assert "Traceback" not in job.log

    begun = len(job.records)
    job.wait_for_units(begun + 6)
    (other,) = set(slurm.nodes) - {job.state["BatchHost"]}
    slurm.kill_node(other)
    slurm.revive_node(other)
    job.let_start()
    job.wait_for_state("COMPLETED")
    assert job.state["Restarts"] == "2"
    assert_same_store(finished, folder / "results.zarr")
    assert not job.private.exists()
    assert "PRIVATE KEY" not in job.log + job.dask_log
    # what was finished in the first turn is not begun again
    assert job.log.count("classes of each protein: 1 units") == 1


def test_a_job_that_is_cancelled_does_not_come_back(slurm, folder):
    job = Submitted(slurm, folder, "--nodes=1", "--ntasks=2", "--gpus=1", GPU_WORKERS="1")
    job.wait_for_units(1)
    slurm.run("scancel", job.number)
    job.wait_for_state("CANCELLED")
    slurm.wait(lambda: not slurm.run("squeue", "--noheader"))
    assert job.state["JobState"] == "CANCELLED"
    assert job.state["Restarts"] == "0"
    assert not job.private.exists()


def test_bad_input_ends_a_job_with_its_code_and_it_does_not_come_back(slurm, folder):
    job = Submitted(slurm, folder, "--nodes=1", "--ntasks=1", RUN_TOML="rum.toml")
    job.wait_for_state("FAILED")
    assert job.state["ExitCode"] == "2:0"
    assert job.state["Restarts"] == "0"
    assert "error: cannot read rum.toml" in job.log


class Cancelling(Counter):
    """Lets one worker job die after some units."""

    def __init__(self, slurm: MiniSlurm, after: int) -> None:
        super().__init__()
        self._slurm, self._after, self.cancelled = slurm, after, ""

    def unit_done(self, unit: Unit, summary: dict) -> None:
        super().unit_done(unit, summary)
        if not self.cancelled and sum(self.done.values()) >= self._after:
            self.cancelled = self._slurm.run("squeue", "--noheader", "--format=%i").split()[0]
            self._slurm.run("scancel", self.cancelled)


PROFILE = """
kind = "slurm"
shared_directory = "."
[workers.cpu]
memory = "1 GiB"
walltime = "00:30:00"
[workers.gpu]
memory = "1 GiB"
walltime = "00:30:00"
prologue = ["echo prologue of $SLURM_JOB_NAME with GPU $CUDA_VISIBLE_DEVICES"]
"""


def test_worker_jobs_of_a_profile_are_replaced_when_they_end(
    slurm, folder, small_screen, finished, monkeypatch
):
    for name in ("SLURM_CONF", "PATH"):
        monkeypatch.setenv(name, slurm.env[name])
    # worker jobs import the tests' package as it is here
    monkeypatch.setenv("PYTHONPATH", str(FOLDER.parents[1]))
    monkeypatch.setattr(slurm_module, "LOOK_EVERY_S", 0.5)
    path = folder / "profile.toml"
    path.write_text(PROFILE)
    listener, heard = Cancelling(slurm, after=5), []
    with (
        dask.config.set({"distributed.deploy.lost-worker-timeout": "1s"}),
        connect(str(path), tell=heard.append) as client,
    ):
        config = config_of(small_screen, folder, models=MODELS)
        Run.from_config(config).execute(client, listener=listener)
        assert slurm.run("squeue", "--noheader", "--format=%i") != ""
    assert listener.cancelled
    assert any("have ended and are submitted again" in line for line in heard)
    assert_same_store(finished, folder / "results.zarr")
    printed = [p.read_text() for p in (folder / "slurm-logs").glob("bgscale-gpu-*.out")]
    assert any("prologue of bgscale-gpu with GPU 0" in text for text in printed)
    # nothing stays behind: no job, no certificate
    slurm.wait(lambda: not slurm.run("squeue", "--noheader"))
    assert list(folder.glob(".bgscale-*")) == []


def test_a_driver_that_is_told_to_end_while_jobs_queue_takes_them_back(slurm, folder):
    path = folder / "profile.toml"
    # more memory than any node has: the job queues for ever
    path.write_text('kind = "slurm"\n[workers.cpu]\nmemory = "1 GiB"\ndirectives = ["--hold"]\n')
    command = [sys.executable, "-m", "bgscale.cli", "run", "run.toml", "--cluster", str(path)]
    env = slurm.env | {"PYTHONPATH": str(FOLDER.parents[1])}
    with subprocess.Popen(
        command, cwd=folder, env=env, stderr=subprocess.PIPE, text=True
    ) as driver:
        slurm.wait(lambda: "bgscale" in slurm.run("squeue", "--noheader", "--format=%j"))
        driver.terminate()
        _, said = driver.communicate(timeout=60)
    assert driver.returncode == 75, said
    assert "stopped by SIGTERM" in said
    slurm.wait(lambda: not slurm.run("squeue", "--noheader"))


def test_a_refused_job_is_bad_input(slurm, folder, monkeypatch):
    for name in ("SLURM_CONF", "PATH"):
        monkeypatch.setenv(name, slurm.env[name])
    path = folder / "profile.toml"
    path.write_text('kind = "slurm"\nshared_directory = "."\n[workers.cpu]\nqueue = "fast"\n')
    with pytest.raises(ValueError, match="invalid partition specified: fast"), connect(str(path)):
        pass


def test_batch_scripts_are_sound():
    shellcheck = Path(sys.executable).with_name("shellcheck")
    if not shellcheck.exists():
        pytest.skip("shellcheck is not installed")
    scripts = sorted(map(str, FOLDER.glob("*.sbatch")))
    assert scripts
    found = subprocess.run(
        [shellcheck, "--severity=warning", *scripts], capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stdout


def test_tasks_of_an_array_share_a_run_without_a_scheduler(slurm, folder, finished):
    env = environment(folder / "env")
    # the third task starts when another one leaves: meanwhile the two do its share
    number = slurm.run(
        "sbatch", "--parsable", f"--chdir={folder}", "--mem-per-cpu=1G", "--time=20",
        "--array=0-2%2", str(FOLDER / "array.sbatch"), BGSCALE_ENV=str(env),
    )  # fmt: skip
    records = folder / "results.zarr.progress" / "units"
    slurm.wait(lambda: len(list(records.rglob("*.json"))) >= 6, 120)
    slurm.run("scancel", "--batch", "--signal=USR1", f"{number}_1")

    def log(task: int) -> str:
        path = folder / f"bgscale-{number}_{task}.log"
        return path.read_text() if path.is_file() else ""

    slurm.wait(lambda: "the task goes back into the queue" in log(1), 120)
    assert "run again to go on" in log(1)
    slurm.wait(lambda: slurm.job(f"{number}_1")["JobState"] == "PENDING", 60)
    slurm.run("scontrol", "update", f"jobid={number}_1", "StartTime=now")
    slurm.wait(lambda: not slurm.run("squeue", "--noheader", f"--jobs={number}"), 180)
    for task in range(3):
        assert slurm.job(f"{number}_{task}")["JobState"] == "COMPLETED", log(task)
        assert "Traceback" not in log(task)
    assert_same_store(finished, folder / "results.zarr")
