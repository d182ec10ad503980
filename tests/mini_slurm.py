"""A real SLURM on this machine, for tests: a controller and nodes that are processes.

Everything lies in one folder: key, configuration, state and logs; it listens on loopback, and ends
with the block. The nodes have one pretend GPU each, which is a number to SLURM and no hardware.
"""

import contextlib
import getpass
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "squeue", "scancel")

CONFIG = """
ClusterName=bgscale
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={controller}
SlurmUser={user}
SlurmdUser={user}
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
ReturnToService=2
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=2
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
JobRequeue=1
KillWait=30
InactiveLimit=0
MinJobAge=300
SlurmctldTimeout=30
SlurmdTimeout=60
GresTypes=gpu
DefMemPerCPU=512
"""


def missing() -> list[str]:
    """Return the programs of SLURM that are not installed."""
    path = os.pathsep.join([os.environ["PATH"], "/usr/sbin", "/usr/local/sbin"])
    return [name for name in PROGRAMS if shutil.which(name, path=path) is None]


class MiniSlurm:
    """A running SLURM of `nodes` nodes n1, n2, ... in `folder`."""

    def __init__(self, folder: Path, nodes: int) -> None:
        self.folder = folder
        self.nodes = [f"n{i}" for i in range(1, nodes + 1)]
        self.env = os.environ | {
            "SLURM_CONF": str(folder / "slurm.conf"),
            "PATH": os.pathsep.join([os.environ["PATH"], "/usr/sbin", "/usr/local/sbin"]),
        }

    def run(self, *command: str, check: bool = True, **options: str) -> str:
        """Run one of SLURM's commands; return what it prints."""
        done = subprocess.run(
            command, env=self.env | options, capture_output=True, text=True, check=False
        )
        if check and done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr}{self.log()}")
        return done.stdout.strip()

    def log(self) -> str:
        """Return the end of the controller's log."""
        with contextlib.suppress(OSError):
            return "\n".join((self.folder / "slurmctld.log").read_text().splitlines()[-20:])
        return ""

    def job(self, number: str) -> dict[str, str]:
        """Return what SLURM knows of a job."""
        text = self.run("scontrol", "show", "job", number)
        return dict(re.findall(r"(\w+)=(\S*)", text))

    def wait(self, what: Callable[[], object], seconds: float = 60) -> None:
        """Return when `what` is true."""
        until = time.monotonic() + seconds
        while not what():
            if time.monotonic() > until:
                raise TimeoutError(self.run("squeue", check=False) + "\n" + self.log())
            time.sleep(0.1)

    def start_node(self, node: str) -> None:
        """Start a node."""
        subprocess.run(["slurmd", "-N", node], env=self.env, check=True)

    def revive_node(self, node: str) -> None:
        """Bring a node back that had died."""
        self.start_node(node)
        # refused where the controller has noticed by itself
        self.run("scontrol", "update", f"nodename={node}", "state=resume", check=False)
        state = ("sinfo", "--noheader", f"--nodes={node}", "--format=%t")
        self.wait(lambda: self.run(*state) in ("idle", "mix", "alloc"))

    def kill_node(self, node: str) -> None:
        """Let a node die: its daemon, and all that its jobs had started there."""
        pid = int((self.folder / f"slurmd-{node}.pid").read_text())
        doomed = [psutil.Process(pid), *(p for p in self.processes() if _node_of(p) == node)]
        for process in doomed:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.run("scontrol", "update", f"nodename={node}", "state=down", "reason=killed")

    def processes(self) -> list[psutil.Process]:
        """Return the processes that jobs of this SLURM have started."""
        mine = str(self.folder / "slurm.conf")
        return [p for p in psutil.process_iter() if _environ(p).get("SLURM_CONF") == mine]


def _environ(process: psutil.Process) -> dict[str, str]:
    try:
        return process.environ()
    except (psutil.Error, OSError):
        return {}


def _node_of(process: psutil.Process) -> str | None:
    return _environ(process).get("SLURMD_NODENAME")


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


@contextmanager
def mini_slurm(folder: Path, nodes: int = 2) -> Iterator[MiniSlurm]:
    """Start a SLURM in `folder`; all its processes end with the block."""
    slurm = MiniSlurm(folder, nodes)
    controller, *ports = _free_ports(nodes + 1)
    (folder / "state").mkdir(parents=True)
    (folder / "spool").mkdir()
    folder.chmod(0o755)
    key = folder / "munge.key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o400)
    cpus, memory = os.cpu_count() or 1, psutil.virtual_memory().total // 2**20 // (nodes + 1)
    lines = [CONFIG.format(folder=folder, user=getpass.getuser(), controller=controller)]
    lines += [
        f"NodeName={node} NodeHostname={socket.gethostname()} NodeAddr=127.0.0.1 Port={port} "
        f"CPUs={cpus} RealMemory={memory} Gres=gpu:1 State=UNKNOWN"
        for node, port in zip(slurm.nodes, ports, strict=True)
    ]
    names = ",".join(slurm.nodes)
    lines.append(f"PartitionName=main Nodes={names} Default=YES MaxTime=INFINITE State=UP")
    (folder / "slurm.conf").write_text("\n".join(lines))
    (folder / "gres.conf").write_text(f"NodeName={names} Name=gpu File=/dev/null\n")
    (folder / "cgroup.conf").write_text("CgroupAutomount=no\n")
    munge = {
        "--key-file": "munge.key",
        "--socket": "munge.sock",
        "--pid-file": "munged.pid",
        "--log-file": "munged.log",
        "--seed-file": "munge.seed",
    }
    try:
        options = [f"{option}={folder / name}" for option, name in munge.items()]
        subprocess.run(["munged", "--force", *options], env=slurm.env, check=True)
        subprocess.run(["slurmctld"], env=slurm.env, check=True)
        for node in slurm.nodes:
            slurm.start_node(node)
        idle = ("sinfo", "--noheader", "--Node", "--states=idle")
        slurm.wait(lambda: len(slurm.run(*idle, check=False).splitlines()) == nodes)
        yield slurm
    finally:
        slurm.run("scancel", f"--user={getpass.getuser()}", check=False)
        with contextlib.suppress(TimeoutError):
            slurm.wait(lambda: not slurm.run("squeue", "--noheader", check=False), 20)
        daemons = [f"slurmd-{node}" for node in slurm.nodes]
        for name in (*daemons, "slurmctld", "munged"):
            with contextlib.suppress(OSError, ValueError):
                os.kill(int((folder / f"{name}.pid").read_text()), signal.SIGTERM)
        for process in slurm.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()


def environment(folder: Path) -> Path:
    """Make what looks like a virtual environment to a batch script: this Python's programs."""
    activate = folder / "bin" / "activate"
    activate.parent.mkdir(parents=True)
    programs = Path(sys.executable).parent
    source = Path(__file__).parents[1]
    activate.write_text(f'export PATH="{programs}:$PATH" PYTHONPATH="{source}"\n')
    return folder
