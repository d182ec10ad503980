"""The driver of deploy/kubernetes: what its start script does, and what its exit codes mean."""

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from deploy_files import DOCUMENTS, JOB, PODS, ROOT, command, container
from screens import config_of, write_screen

from bgscale.config import template


def fate(code: int) -> str:
    """Return what the Job does when `bgscale run` ends with a code."""
    if code in (0, 3):
        return "Complete"
    for rule in JOB["podFailurePolicy"]["rules"]:
        exits = rule.get("onExitCodes")
        if exits:
            assert exits["containerName"] == container(PODS["driver"])["name"]
            assert exits["operator"] == "In"
            if code in exits["values"]:
                return str(rule["action"])
    return "Count"


def test_exit_codes_end_or_repeat_the_job() -> None:
    fates = {code: fate(code) for code in (0, 1, 2, 3, 74, 75, 137)}
    assert fates == {
        0: "Complete", 3: "Complete", 2: "FailJob", 74: "FailJob", 75: "Ignore",
        1: "Count", 137: "Count",
    }  # fmt: skip
    assert JOB["backoffLimit"] > 0
    disrupted = {
        "action": "Ignore",
        "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}],
    }
    assert disrupted in JOB["podFailurePolicy"]["rules"]


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the driver's start script as a file."""
    assert command(PODS["driver"])[:2] == ["python", "/driver/driver.py"]
    [mount] = [m for m in container(PODS["driver"])["volumeMounts"] if m["name"] == "driver"]
    assert mount["mountPath"] == "/driver"
    path = tmp_path_factory.mktemp("driver") / "driver.py"
    text = DOCUMENTS["ConfigMap", "bgscale-driver"]["data"]["driver.py"]
    path.write_text(text, encoding="utf-8")
    return path


def test_the_start_script_has_the_style_of_the_package(script: Path) -> None:
    ruff = shutil.which("ruff", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    assert ruff is not None
    config = ["--config", str(ROOT / "pyproject.toml")]
    for words in (["check", "--ignore", "INP,D103"], ["format", "--check"]):
        done = subprocess.run([ruff, *words, *config, script], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


@contextmanager
def running(script: Path, code: str) -> Iterator["subprocess.Popen[str]"]:
    """Run the part of the script that runs a command, with Python code as the command."""
    start = "import sys, driver; sys.exit(driver.run([sys.executable, '-c', sys.argv[1]]))"
    process = subprocess.Popen(
        [sys.executable, "-c", start, code],
        cwd=script.parent,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with process:
        try:
            yield process
        finally:
            # its command, too, which a script that forgets it leaves behind
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.parametrize(
    ("ended", "said"), [(0, 0), (1, 1), (2, 2), (3, 0), (74, 74), (75, 75), (-9, 137)]
)
def test_the_start_script_ends_with_the_code_of_the_run(
    script: Path, ended: int, said: int
) -> None:
    code = f"import os; os._exit({ended})" if ended >= 0 else "import os; os.kill(os.getpid(), 9)"
    with running(script, code) as process:
        assert process.wait(60) == said


def test_the_start_script_lets_a_run_drain(script: Path) -> None:
    code = (
        "import signal, sys; signal.signal(signal.SIGTERM, lambda *_: (print('drained'), "
        "sys.exit(75))); print('ready', flush=True); signal.pause()"
    )
    with running(script, code) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 75
        assert process.stdout.read() == "drained\n"


class Clock:
    """Stands in for the module time: it passes when somebody sleeps."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def monotonic(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds


def waited(script: Path, asked: dict[str, int], arrivals: dict[str, list[float]]) -> float:
    """Return after how many seconds the run starts when workers arrive at these times."""
    spec = importlib.util.spec_from_file_location("driver", script)
    assert spec is not None
    assert spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    clock = Clock()

    class Client:
        def __init__(self, address: str, **_: object) -> None:
            assert address == "tcp://there:8786"

        def __enter__(self) -> "Client":
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def scheduler_info(self, n_workers: int) -> dict[str, Any]:
            assert n_workers == -1
            here = {
                f"{kind}{n}": {"resources": {"GPU": 1.0} if kind == "GPU" else {}}
                for kind, times in arrivals.items()
                for n, time_s in enumerate(times)
                if time_s <= clock.now_s
            }
            return {"workers": here}

    module.Client, module.time = Client, clock
    module.wait_for_workers("tcp://there:8786", asked)
    return clock.now_s


def test_the_run_starts_when_all_workers_are_there(script: Path) -> None:
    arrivals = {"CPU": [0.0, 30.0], "GPU": [400.0]}
    assert waited(script, {"CPU": 2, "GPU": 1}, arrivals) == 400


def test_after_ten_minutes_some_of_each_kind_will_do(script: Path) -> None:
    arrivals = {"CPU": [0.0], "GPU": [900.0]}
    assert 600 < waited(script, {"CPU": 4, "GPU": 0}, arrivals) < 610
    assert 900 <= waited(script, {"CPU": 4, "GPU": 2}, arrivals) < 910


def test_without_a_kind_of_worker_the_run_does_not_start(
    script: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        waited(script, {"CPU": 1, "GPU": 2}, {"CPU": [0.0]})
    # not a code of the policy: it counts
    assert fate(int(str(ended.value.code))) == "Count"
    assert "1 CPU and 2 GPU" in capsys.readouterr().err


@contextmanager
def started(*commands: list[str], folder: Path) -> Iterator[None]:
    """Run processes within the block."""
    processes = []
    for number, words in enumerate(commands):
        log = (folder / f"process-{number}.log").open("w")
        processes.append(subprocess.Popen(words, stdout=log, stderr=log, cwd=folder))
        log.close()
    try:
        yield
    finally:
        for process in reversed(processes):
            process.terminate()
        for process in processes:
            process.wait(60)


@pytest.mark.cluster
@pytest.mark.slow
def test_the_commands_of_the_documents_do_a_run(script: Path, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    run_toml = tmp_path / "run.toml"
    # the worker with a GPU has none here
    changes = {"settings": ["original", "masked"], "models": {"tiny": {"device": "cpu"}}}
    config = config_of(write_screen(tmp_path / "screen"), tmp_path, **changes)
    run_toml.write_text(template(config), encoding="utf-8")
    here = {
        "python": [sys.executable], "dask": [sys.executable, "-m", "dask"],
        "bgscale": [sys.executable, "-m", "bgscale.cli"], "/driver/driver.py": [str(script)],
        "/config/run.toml": [str(run_toml)], "/tmp": [str(tmp_path / "scratch")],
        "8786": [port, "--host", "127.0.0.1"], "127.0.0.1:8787": ["127.0.0.1:0"],
        "tcp://bgscale-scheduler:8786": [f"tcp://127.0.0.1:{port}"],
    }  # fmt: skip

    def local(name: str, worker: str = "") -> list[str]:
        words = [w.replace("$(DASK_WORKER_NAME)", worker) for w in command(PODS[name])]
        return [part for word in words for part in here.get(word, [word])]

    clusters = (local("scheduler"), local("worker", "cpu-1"), local("gpu worker", "gpu-1"))
    with started(*clusters, folder=tmp_path):
        driver = subprocess.run(
            local("driver"),
            env={**os.environ, "CPU_WORKERS": "1", "GPU_WORKERS": "1"},
            capture_output=True,
            text=True,
            timeout=300,
        )
    assert driver.returncode == 0, driver.stderr
    assert "waiting for 1 CPU and 1 GPU workers" in driver.stderr
    assert f"done: {config.store}" in driver.stderr
