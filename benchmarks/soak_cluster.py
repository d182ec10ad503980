"""The cluster that `soak` keeps up and kills: a scheduler and two workers with their nannies.

Also what each process holds: memory, files, sockets, threads. Every process that comes of the soak
carries a mark in its environment, so that one that nobody ended is found.
"""

import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
from slow_disk import FOLDER

HERE = Path(__file__).parent
MARK = "SOAK"
WORKERS = 2
TARGETS = ("worker", "worker", "nanny", "scheduler")
START_S = 60.0


class Cluster:
    """What dies of it is started again by `keep_up`.

    Parameters
    ----------
    folder : Path
        For logs, scratch and temporary files.
    slow : Path
        What lies in here is on a slow disk.
    """

    def __init__(self, folder: Path, slow: Path) -> None:
        self.folder, self.temporary = folder, folder / "tmp"
        self.temporary.mkdir(parents=True, exist_ok=True)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        self.address = f"tcp://127.0.0.1:{self._port}"
        self.mark = uuid.uuid4().hex
        self.environment = os.environ | {
            MARK: self.mark,
            FOLDER: str(slow),
            "TMPDIR": str(self.temporary),
            "DASK_DISTRIBUTED__WORKER__PRELOAD": str(HERE / "slow_disk.py"),
        }
        self.log = (folder / "cluster.log").open("wb")
        self._scheduler: subprocess.Popen[bytes] | None = None
        self._workers: list[subprocess.Popen[bytes] | None] = [None] * WORKERS
        self._held = threading.Lock()

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start Python with arguments, as a process of the soak."""
        return subprocess.Popen(
            [sys.executable, *arguments], stdout=self.log, stderr=self.log, env=self.environment
        )

    def keep_up(self) -> None:
        """Start what is not there; return when the scheduler answers."""
        with self._held:
            if self._scheduler is None or self._scheduler.poll() is not None:
                self._scheduler = self.start(
                    "-m", "dask", "scheduler", "--host", "127.0.0.1", "--port", str(self._port),
                    "--no-dashboard",
                )  # fmt: skip
                until = time.monotonic() + START_S
                while not self._answers():
                    if time.monotonic() > until:
                        msg = f"the scheduler does not start: see {self.log.name}"
                        raise TimeoutError(msg)
                    time.sleep(0.1)
            for n, worker in enumerate(self._workers):
                if worker is None or worker.poll() is not None:
                    self._workers[n] = self.start(
                        "-m", "dask", "worker", self.address, "--nthreads", "1", "--nworkers", "1",
                        "--host", "127.0.0.1", "--no-dashboard",
                        "--local-directory", str(self.folder / f"scratch{n}"),
                    )  # fmt: skip

    def _answers(self) -> bool:
        with socket.socket() as knock:
            return knock.connect_ex(("127.0.0.1", self._port)) == 0

    def kill(self, target: str, rng: random.Random) -> bool:
        """Kill one of its processes without a warning; False where there is none just now."""
        process = self._scheduler if target == "scheduler" else rng.choice(self._workers)
        if process is None or process.poll() is not None:
            return False
        pid = _worker_of(process.pid) if target == "worker" else process.pid
        if pid is None:
            return False
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            return False
        return True

    def processes(self) -> dict[str, list[int]]:
        """Return the processes of the soak but this one, by what they are."""
        found: dict[str, list[int]] = {"scheduler": [], "nanny": [], "worker": [], "other": []}
        nannies = {p.pid for p in self._workers if p is not None}
        for process in psutil.process_iter():
            try:
                # what has ended and was not waited for has no environment
                if process.environ().get(MARK) != self.mark:
                    continue
                command, parent = " ".join(process.cmdline()), process.ppid()
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
            if self._scheduler is not None and process.pid == self._scheduler.pid:
                kind = "scheduler"
            elif process.pid in nannies:
                kind = "nanny"
            elif parent in nannies and "resource_tracker" in command:
                continue
            else:
                kind = "worker" if parent in nannies else "other"
            found[kind].append(process.pid)
        return found

    def left_files(self) -> int:
        """Return how many temporary files and folders of workers lie about."""
        scratch = sum(1 for f in self.folder.glob("scratch*/*/*") if not f.name.startswith("."))
        return sum(1 for _ in self.temporary.iterdir()) + scratch

    def end(self) -> None:
        """Ask all to end, nannies first; kill what has not after a while."""
        running = [p for p in (*self._workers, self._scheduler) if p is not None]
        for process in running:
            process.terminate()
        for process in running:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.log.close()


class Killer(threading.Thread):
    """Kills a process of the cluster every few seconds, and has it started again."""

    def __init__(self, cluster: Cluster, seed: int) -> None:
        super().__init__(daemon=True)
        self.killed: Counter[str] = Counter()
        self._cluster, self._rng = cluster, random.Random(seed)
        self._ended = threading.Event()

    def run(self) -> None:
        """Kill until it is ended."""
        while not self._ended.wait(self._rng.uniform(2, 8)):
            target = self._rng.choice(TARGETS)
            if self._cluster.kill(target, self._rng):
                self.killed[target] += 1
                time.sleep(0.2)
            self._cluster.keep_up()

    def end(self) -> None:
        """Kill no more; the cluster is whole again."""
        self._ended.set()
        self.join()
        self._cluster.keep_up()


def held(pid: int) -> dict[str, Any]:
    """Return what a process holds: memory in MB, open files, sockets, threads."""
    process = psutil.Process(pid)
    targets = []
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            targets.append(str(entry.readlink()))
        except OSError:
            continue
    sockets = sum(target.startswith("socket:") for target in targets)
    return {
        "pid": pid,
        "rss_mb": process.memory_info().rss / 1e6,
        "files": len(targets) - sockets,
        "sockets": sockets,
        "threads": process.num_threads(),
    }


def _worker_of(nanny: int) -> int | None:
    try:
        children = psutil.Process(nanny).children()
        # beside the worker a nanny has a resource tracker
        found = [c.pid for c in children if "resource_tracker" not in " ".join(c.cmdline())]
    except psutil.NoSuchProcess:
        return None
    return found[0] if found else None
