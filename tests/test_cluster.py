"""Profiles say what workers may take; what bgscale starts is for this user and this machine."""

import base64
import os
import stat
import subprocess
import sys
import tomllib
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
import torch
from distributed.scheduler import NoValidWorkerError
from hypothesis import given
from hypothesis import strategies as st
from screens import config_of

from bgscale.distribute import cluster as cluster_module
from bgscale.distribute import local, security, slurm
from bgscale.distribute.cluster import _profile, connect, gpu_resources, workers_of
from bgscale.distribute.profile import (
    SlurmGroup,
    profile_from_dict,
    read_profile,
    seconds_of,
)
from bgscale.errors import ConfigError, InputError, InterruptedRunError
from bgscale.progress import Narrator
from bgscale.run import Run

REPOSITORY = Path(__file__).parents[1]
EXAMPLE = REPOSITORY / "deploy" / "slurm" / "profile.toml"


def profile(**values):
    return profile_from_dict(values, origin="p.toml")


def message(**values):
    with pytest.raises(ConfigError) as caught:
        profile(**values)
    return str(caught.value)


# profiles


def uncommented(text):
    """Return the example with the keys switched on that it shows as comments."""
    lines = []
    for line in text.splitlines():
        shown = line.removeprefix("# ")
        lines.append(shown if shown.startswith("[") or " = " in shown else line)
    return "\n".join(lines)


@pytest.mark.parametrize("change", [str, uncommented], ids=["as it is", "all switched on"])
def test_the_example_is_a_profile(change):
    text = EXAMPLE.read_text()
    values = tomllib.loads(change(text))
    found = profile_from_dict(values)
    assert found.kind == "slurm"
    assert found.workers.cpu.count == 16
    assert found.gpus == (0 if change is str else 2)
    assert (len(values) > 4) == (change is uncommented)


CPU = {"cpu": {"count": 2}}


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({}, "p.toml: no 'kind'; expected one of local, slurm, scheduler"),
        ({"kind": "slrm"}, "kind = 'slrm' (did you mean 'slurm'?)"),
        ({"kind": 3}, "kind = 3"),
        ({"kind": "local"}, "'workers' is missing"),
        ({"kind": "local", "workers": {}}, "expected a table [workers.cpu], [workers.gpu]"),
        ({"kind": "local", "workers": {"cpus": {}}}, "(did you mean 'cpu'?); known: cpu, gpu"),
        ({"kind": "local", "workers": {"cpu": 3}}, "workers.cpu = 3: expected a table"),
        (
            {"kind": "local", "workers": {"cpu": {"cuont": 3}}},
            "unknown key 'workers.cpu.cuont' (did you mean 'count'?); known: count, memory",
        ),
        ({"kind": "local", "workers": {"cpu": {"count": 0}}}, "count = 0: expected 1 or more"),
        # keys of another kind are unknown to this one
        ({"kind": "local", "workers": CPU, "interface": "ib0"}, "unknown key 'interface'"),
        (
            {"kind": "local", "workers": {"cpu": {"walltime": "1:00:00"}}},
            "unknown key 'workers.cpu.walltime'",
        ),
        ({"kind": "slurm", "workers": {"cpu": {"memory": "4 cats"}}}, "a size such as '4 GiB'"),
        ({"kind": "slurm", "workers": {"cpu": {"memory": "4"}}}, "a size such as '4 GiB'"),
        ({"kind": "slurm", "workers": {"cpu": {"walltime": "90"}}}, "hours:minutes:seconds"),
        ({"kind": "slurm", "workers": {"cpu": {"walltime": "00:05:00"}}}, "ten minutes or more"),
        (
            {"kind": "slurm", "workers": {"cpu": {"walltime": "1:00:00", "drain": "0:21:00"}}},
            "drain = 0:21:00: expected at most a third of the walltime 1:00:00",
        ),
        ({"kind": "slurm", "workers": {"gpu": {"gres": "gpu:2"}}}, "one GPU a worker"),
        ({"kind": "slurm", "workers": {"gpu": {"gres": "gpu:a100:4"}}}, "one GPU a worker"),
        ({"kind": "slurm", "workers": {"gpu": {"gres": ""}}}, "one GPU a worker"),
        (
            {"kind": "slurm", "workers": {"cpu": {"directives": ["#SBATCH --qos=x"]}}},
            "an option of sbatch such as '--qos=long'",
        ),
        ({"kind": "slurm", "workers": CPU, "security": "off"}, "expected 'temporary' or 'none'"),
        ({"kind": "slurm", "workers": CPU, "wait": ""}, "wait"),
        ({"kind": "scheduler"}, "expected either 'address' or 'scheduler_file'"),
        ({"kind": "scheduler", "address": "tls://a:1", "scheduler_file": "s.json"}, "either"),
        ({"kind": "scheduler", "address": "tls://a:1", "key": "k.pem"}, "together"),
    ],
)
def test_a_wrong_profile_says_what_is_wrong(values, says):
    assert says in message(**values)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("kind = ", "is not TOML"),
        ('kind = "local"\nworkers.cpu.count = "2"\n', 'count = "2": expected an integer'),
        (None, "cannot read .*: No such file.*deploy/slurm/profile.toml is an example"),
    ],
)
def test_a_profile_that_cannot_be_read_is_bad_input(tmp_path, text, says):
    path = tmp_path / "p.toml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError, match=says), connect(str(path)):
        pass


def test_paths_of_a_profile_are_taken_from_its_folder(tmp_path):
    path = tmp_path / "p.toml"
    path.write_text('kind = "slurm"\nlog_directory = "logs"\n[workers.cpu]\n')
    assert read_profile(path).log_directory == str(tmp_path / "logs")
    assert read_profile(path).shared_directory == "~"
    path.write_text('kind = "scheduler"\nscheduler_file = "/a/s.json"\nca_file = ""\n')
    assert read_profile(path).scheduler_file == "/a/s.json"


def test_times_may_be_written_as_times_of_toml(tmp_path):
    path = tmp_path / "p.toml"
    path.write_text('kind = "slurm"\nworkers.cpu.walltime = 04:30:00\n')
    assert seconds_of(read_profile(path).workers.cpu.walltime) == 16_200


@given(st.integers(600, 2_000_000), st.floats(0, 1 / 3))
def test_workers_leave_before_the_walltime_and_not_all_at_once(walltime, share):
    def time(seconds):
        return f"{seconds // 86400}-{seconds // 3600 % 24}:{seconds // 60 % 60}:{seconds % 60}"

    drain = int(walltime * share)
    group = SlurmGroup(walltime=time(walltime), drain=time(drain) if drain else "")
    latest = group.lifetime_s + group.stagger_s
    assert group.lifetime_s - group.stagger_s > 0
    assert latest <= walltime - group.drain_s
    assert group.drain_s == drain or not drain
    assert group.drain_s > 0


# jobs of SLURM, without one


def script(**values):
    """Return the job scripts of a profile, by worker."""
    jobs = slurm.worker_jobs(profile(kind="slurm", **values), None)
    return {
        name: job["cls"]("tcp://10.0.0.1:8786", name=name, **job["options"]).job_script()
        for name, job in jobs.items()
    }


def test_job_scripts_say_what_the_profile_says(tmp_path):
    logs = str(tmp_path / "logs")
    made = script(
        log_directory=logs,
        interface="lo",
        local_directory="$TMPDIR",
        python="/opt/python",
        workers={
            "cpu": {
                "count": 2,
                "memory": "6 GiB",
                "walltime": "1-00:00:00",
                "cores": 2,
                "queue": "medium",
                "account": "lab",
                "directives": ["--qos=long"],
                "prologue": ["module load python", "source env/bin/activate"],
            },
            "gpu": {"gres": "gpu:a100:1"},
        },
    )
    assert sorted(made) == ["cpu-0", "cpu-1", "gpu-0"]
    lines = made["cpu-1"].splitlines()
    directives = [line.removeprefix("#SBATCH ") for line in lines if line.startswith("#SBATCH")]
    assert directives == [
        "-J bgscale-cpu", f"-e {logs}/bgscale-cpu-%J.err", f"-o {logs}/bgscale-cpu-%J.out",
        "-p medium", "-A lab", "-n 1", "--cpus-per-task=2", "--mem=6G", "-t 1-00:00:00",
        "--no-requeue", "--qos=long",
    ]  # fmt: skip
    assert lines[-3:-1] == ["module load python", "source env/bin/activate"]
    command = lines[-1]
    assert command.startswith("/opt/python -m distributed.cli.dask_worker tcp://10.0.0.1:8786 ")
    for part in (
        "--name cpu-1", "--nthreads 1", "--memory-limit 6.00GiB", "--nanny", "--interface lo",
        '--local-directory "$TMPDIR"', "--lifetime 85050s", "--lifetime-stagger 450s",
        "--death-timeout 120", "--no-dashboard --dashboard-address 127.0.0.1:0",
    ):  # fmt: skip
        assert f"{part} " in command + " ", part
    assert "GPU" not in command
    gpu = made["gpu-0"]
    assert "#SBATCH --gres=gpu:a100:1\n" in gpu
    assert "--resources GPU=1" in gpu
    assert "--nthreads 1 " in gpu


def test_a_job_script_names_the_certificate_and_does_not_hold_it(tmp_path):
    files = security.write_files(security.temporary(), tmp_path)
    jobs = slurm.worker_jobs(
        profile(kind="slurm", log_directory=str(tmp_path), workers={"cpu": {}}), files
    )
    options = jobs["cpu-0"]["options"]
    text = slurm.WorkerJob("tls://10.0.0.1:8786", name="cpu-0", **options).job_script()
    assert f"--tls-key {tmp_path / 'key.pem'}" in text
    assert f"--tls-ca-file {tmp_path / 'certificate.pem'}" in text
    assert "--protocol tls://" in text
    assert "BEGIN" not in text


@pytest.fixture
def batch(tmp_path, monkeypatch):
    """Pretend programs of SLURM: sbatch does what the test says, squeue knows no job."""
    folder = tmp_path / "bin"
    folder.mkdir()

    def install(sbatch):
        for name, text in (("sbatch", sbatch), ("squeue", ""), ("scancel", "")):
            program = folder / name
            program.write_text(f"#!/bin/bash\necho {name} >> {tmp_path}/calls\n{text}\n")
            program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
        path = tmp_path / "p.toml"
        path.write_text('kind = "slurm"\nshared_directory = "."\ninterface = "lo"\n[workers.cpu]\n')
        return str(path)

    monkeypatch.setattr(slurm, "PAUSES_S", (0.01, 0.01))
    monkeypatch.setattr(slurm, "LOOK_EVERY_S", 0.02)
    monkeypatch.setattr(cluster_module, "LOOK_EVERY_S", 0.02)
    return install


def calls(tmp_path):
    return (tmp_path / "calls").read_text().split()


@pytest.mark.cluster
def test_a_job_that_slurm_refuses_is_bad_input_in_its_words(batch, tmp_path):
    path = batch("echo 'sbatch: error: invalid partition specified: fast' >&2; exit 1")
    says = r"SLURM refuses a worker job: sbatch: error: invalid partition specified: fast; see"
    with pytest.raises(InputError, match=says), connect(path):
        pass
    assert calls(tmp_path).count("sbatch") == 1
    assert list(tmp_path.glob(".bgscale-*")) == []


@pytest.mark.cluster
def test_a_busy_controller_is_asked_again(batch, tmp_path):
    path = batch("echo 'error: Socket timed out on send/recv operation' >&2; exit 1")
    with pytest.raises(InputError, match="timed out"), connect(path):
        pass
    assert calls(tmp_path).count("sbatch") == 3


@pytest.mark.cluster
def test_jobs_that_end_before_their_worker_comes_are_given_up(batch, tmp_path):
    path = batch("echo Submitted batch job 7")
    heard = []
    with (
        pytest.raises(InputError, match=r"no worker job lives; see what they print into .*slurm-l"),
        connect(path, tell=heard.append),
    ):
        pass
    assert calls(tmp_path).count("sbatch") == slurm.FAILED_STARTS
    assert heard[0].startswith("submitted 1 worker jobs")
    assert heard[1] == "worker jobs have ended and are submitted again: cpu-0"
    assert heard[-1] == "the job of worker cpu-0 ends each time; it is not submitted again"
    assert list(tmp_path.glob(".bgscale-*")) == []


def test_without_slurm_a_slurm_profile_is_bad_input(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="no 'sbatch' here"), connect(str(EXAMPLE)):
        pass


# certificates


def modes(folder):
    return {p.name: stat.S_IMODE(p.stat().st_mode) for p in [folder, *folder.iterdir()]}


def test_a_certificate_is_for_its_owner_alone(tmp_path):
    before = os.umask(0)
    try:
        security.write_configured(tmp_path / "private")
    finally:
        os.umask(before)
    assert modes(tmp_path / "private") == {
        "private": 0o700, "certificate.pem": 0o600, "key.pem": 0o600, "dask.yaml": 0o600,
    }  # fmt: skip
    text = (tmp_path / "private" / "dask.yaml").read_text()
    assert "BEGIN" not in text
    with pytest.raises(InputError, match="expected a new folder"):
        security.write_configured(tmp_path / "private")


def test_a_key_that_others_can_read_is_refused(tmp_path):
    security.write_files(security.temporary(), tmp_path)
    key = tmp_path / "key.pem"
    key.chmod(0o640)
    ca = tmp_path / "certificate.pem"
    with pytest.raises(InputError, match=r"others can read the private key \(mode 640\)"):
        security.from_files(ca, ca, key)
    with pytest.raises(InputError, match="no certificate file"):
        security.from_files(ca, ca, tmp_path / "other.pem")


def test_two_runs_have_two_keys():
    keys = [security.temporary().get_tls_config_for_role("worker")["key"] for _ in range(2)]
    assert keys[0] != keys[1]


# workers of this machine


def facts():
    return {
        "pid": os.getpid(),
        "device": os.environ.get("CUDA_VISIBLE_DEVICES"),
        "arguments": [a for p in _family() for a in p.cmdline()],
        "environment": [v for p in _family() for v in p.environ().values()],
    }


def _family():
    own = psutil.Process()
    return [own, *own.parents()[:1]]


LOCAL = """
kind = "local"
wait = "00:00:01"
[workers.cpu]
memory = "1 GiB"
[workers.gpu]
count = 2
memory = "2 GiB"
"""


@pytest.mark.cluster
def test_units_for_a_gpu_go_to_workers_with_one_of_their_own(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5,7")
    monkeypatch.setattr(local, "gpus_here", lambda: 3)
    path = tmp_path / "p.toml"
    path.write_text(LOCAL)
    with connect(str(path)) as client:
        info = client.scheduler_info(n_workers=-1)["workers"].values()
        assert {w["name"]: (w["nthreads"], w["resources"], w["memory_limit"]) for w in info} == {
            "cpu-0": (1, {}, 2**30),
            "gpu-0": (1, {"GPU": 1}, 2**31),
            "gpu-1": (1, {"GPU": 1}, 2**31),
        }
        assert gpu_resources(client) == {"GPU": 1}
        ask = gpu_resources(client)
        made = [client.submit(facts, resources=ask, pure=False) for _ in range(8)]
        assert {found["device"] for found in client.gather(made)} == {"3", "5"}
        # who has none of its own takes none of another's
        other = client.submit(facts, workers=["cpu-0"], pure=False).result()
        assert other["device"] == ""
        # more than any worker has: an error, not a wait for ever
        with pytest.raises(NoValidWorkerError, match="GPU"):
            client.submit(abs, 1, resources={"GPU": 2}).result(timeout=30)


@pytest.mark.parametrize(
    ("visible", "count", "message"),
    [
        ("0", 1, r"sees 1 GPUs here \(CUDA_VISIBLE_DEVICES='0'\)"),
        # named, but there is none, or a torch without CUDA
        ("0,1", 0, r"sees 0 GPUs here \(CUDA_VISIBLE_DEVICES='0,1'\)"),
        (None, 0, "sees 0 GPUs here; one GPU is one worker"),
    ],
)
def test_more_gpu_workers_than_gpus_are_bad_input(tmp_path, monkeypatch, visible, count, message):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    path = tmp_path / "p.toml"
    path.write_text(LOCAL)
    message = rf"workers.gpu: 2 workers, but torch \S+ {message}"
    with pytest.raises(InputError, match=message), connect(str(path)):
        pass


@pytest.mark.parametrize(("gpus", "expected"), [(0, (4, 0)), (1, (4, 1)), (2, (4, 2)), (8, (4, 4))])
def test_of_the_processes_of_this_machine_one_embeds_for_each_gpu(monkeypatch, gpus, expected):
    monkeypatch.setattr(local, "gpus_here", lambda: gpus)
    # cores and GPUs, as plans count them
    assert workers_of("local:4") == expected
    groups = _profile("local:4").workers
    found = [group.count if group else 0 for group in (groups.cpu, groups.gpu)]
    assert found == [4 - expected[1], expected[1]]


@pytest.mark.cluster
def test_without_gpu_workers_units_ask_for_nothing(cluster):
    assert gpu_resources(cluster) is None
    assert gpu_resources(None) is None


@pytest.mark.cluster
def test_the_key_of_a_run_is_in_no_log_file_argument_or_environment(small_screen, tmp_path, capfd):
    config = config_of(small_screen, tmp_path)
    with connect("local:1") as client, Narrator.of_store(config.store) as narrator:
        role = client.security.get_tls_config_for_role("worker")
        Run.from_config(config).execute(client, listener=narrator, until="cut")
        seen = client.submit(facts, pure=False).result()
        with pytest.raises(ZeroDivisionError):
            client.submit(divmod, 1, 0).result()
    assert role["key"].startswith("-----BEGIN PRIVATE KEY-----")
    # any line of it, as it is or encoded once more
    secrets = [line.encode() for line in role["key"].splitlines()[1:-1]]
    secrets += [base64.b64encode(role["key"].encode())[:60], b"PRIVATE KEY"]
    files = [p for p in tmp_path.rglob("*") if p.is_file()]
    assert len(files) > 20
    said = capfd.readouterr()
    texts = [said.out, said.err, *seen["arguments"], *seen["environment"]]
    everything = [*(text.encode() for text in texts), *(path.read_bytes() for path in files)]
    assert [secret for secret in secrets for text in everything if secret in text] == []


# schedulers that run already


@contextmanager
def scheduler(folder, *, workers=1, **environment):
    """Start a scheduler and workers by Dask's own command line; yield the scheduler file."""
    path = folder / "scheduler.json"
    env = os.environ | {"PYTHONPATH": str(REPOSITORY)} | environment
    place = ["--host", "127.0.0.1", "--scheduler-file", str(path)]
    quiet = ["--dashboard-address", "127.0.0.1:0"]
    commands = [["scheduler", *place, "--port", "0", *quiet]]
    commands += [["worker", *place, "--nthreads", "1", "--no-nanny", *quiet]] * workers
    log = (folder / "log").open("w")
    processes = [
        subprocess.Popen([sys.executable, "-m", "dask", *command], env=env, stderr=log)
        for command in commands
    ]
    try:
        with log:
            cluster_wait(path, processes[0])
            yield path
    finally:
        for process in processes:
            process.kill()
            process.wait()


def cluster_wait(path, process):
    while not (path.is_file() and path.stat().st_size):
        assert process.poll() is None, (path.parent / "log").read_text()


@pytest.mark.cluster
def test_a_scheduler_file_with_certificates_of_a_batch_script(tmp_path):
    private = tmp_path / "private"
    command = [sys.executable, "-m", "bgscale.distribute.security", str(private)]
    subprocess.run(command, check=True)
    with scheduler(private, DASK_CONFIG=str(private / "dask.yaml")) as path:
        assert '"tls://127.0.0.1:' in path.read_text()
        with pytest.raises(InputError, match="certificate"), connect(str(path)):
            pass
        toml = private / "p.toml"
        text = 'kind = "scheduler"\nscheduler_file = "scheduler.json"\ngpu_workers = 1\n'
        text += 'ca_file = "certificate.pem"\ncertificate = "certificate.pem"\nkey = "key.pem"\n'
        toml.write_text(text)
        with connect(str(toml)) as client:
            assert client.submit(abs, -3).result() == 3
            # said by the profile, though none is here yet
            assert gpu_resources(client) == {"GPU": 1}
        # another run's certificate opens nothing
        security.write_configured(private / "other")
        for name in ("certificate.pem", "key.pem"):
            text = text.replace(f'"{name}"', f'"other/{name}"')
        toml.write_text(text)
        with pytest.raises(InputError, match=r"no Dask scheduler answers"), connect(str(toml)):
            pass
    assert subprocess.run(command, check=False, capture_output=True).returncode == 1


@pytest.mark.cluster
def test_a_scheduler_without_workers_is_waited_for_and_then_tried_again(tmp_path, monkeypatch):
    monkeypatch.setattr(cluster_module, "TELL_AFTER_S", 0)
    heard = []
    with scheduler(tmp_path, workers=0) as path:
        toml = tmp_path / "p.toml"
        toml.write_text(f'kind = "scheduler"\nscheduler_file = "{path}"\nwait = "00:00:01"\n')
        with (
            pytest.raises(InterruptedRunError, match="no worker came within 00:00:01; run again"),
            connect(str(toml), tell=heard.append),
        ):
            pass
    assert heard == ["waiting for the first worker, for 00:00:01 at most"]


@pytest.mark.parametrize(
    ("content", "mode", "says"),
    [
        (None, 0o600, "cannot read the scheduler file .*: No such file"),
        ("", 0o600, "is no scheduler file"),
        ("[]", 0o600, "is no scheduler file"),
        ('{"id": 1}', 0o600, "is no scheduler file"),
        ('{"address": "tcp://127.0.0.1:1"}', 0o666, "anyone can write it; chmod 600"),
    ],
)
def test_a_scheduler_file_that_cannot_be_trusted_is_bad_input(tmp_path, content, mode, says):
    path = tmp_path / "s.json"
    if content is not None:
        path.write_text(content)
        path.chmod(mode)
    with pytest.raises(InputError, match=says), connect(str(path)):
        pass
