"""Workers of this machine: a process each, one thread; GPU workers have a GPU each, others none."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any

import dask
from distributed import Nanny, Scheduler, SpecCluster
from distributed.system import MEMORY_LIMIT

from bgscale.distribute.profile import GPU, LocalGroup, LocalProfile, seconds_of
from bgscale.distribute.security import temporary
from bgscale.errors import InputError

LOOPBACK = "127.0.0.1"
TUNED = {
    # Dask's own makes every large array new memory of the system: embedding takes twice as long
    "distributed.nanny.pre-spawn-environ.MALLOC_TRIM_THRESHOLD_": None,
    # of each connection's last messages, kept for debugging: with its unit each holds the job
    "distributed.admin.low-level-log-length": 50,
    # how often processes look at themselves: at Dask's own rates, 4 % of a core each
    "distributed.admin.tick.interval": "200ms",
    "distributed.admin.system-monitor.interval": "2s",
    "distributed.worker.memory.monitor-interval": "500ms",
    # the call stacks of an hour, of which it keeps one a second: they fill memory as a run goes on
    "distributed.worker.profile.enabled": False,
}


@contextmanager
def local_cluster(profile: LocalProfile) -> Iterator[SpecCluster]:
    """Start scheduler and workers on this machine; they listen on loopback only.

    Raises
    ------
    InputError
        More GPU workers than GPUs that torch can use.
    """
    security = temporary() if profile.security == "temporary" else None
    protocol = "tls://" if security else "tcp://"
    shared = {"host": LOOPBACK, "protocol": protocol, "security": security}
    scheduler = shared | {
        "port": 0,
        # any free port: none given would take 8787, and warn where a second run has it
        "dashboard_address": f"{LOOPBACK}:{profile.dashboard_port}",
    }
    settings = TUNED | {
        "distributed.worker.daemon": True,
        "distributed.scheduler.no-workers-timeout": f"{seconds_of(profile.wait)}s",
    }
    with (
        dask.config.set(settings),
        SpecCluster(  # type: ignore[no-untyped-call]
            scheduler={"cls": Scheduler, "options": scheduler},
            workers=_workers(profile, shared),
            security=security,
            silence_logs=40,
            name="bgscale",
        ) as cluster,
    ):
        yield cluster


def _workers(profile: LocalProfile, shared: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return what each worker is started with, by its name."""
    groups = profile.workers
    count = sum(group.count for group in (groups.cpu, groups.gpu) if group)
    every = shared | {
        "nthreads": 1,
        "dashboard": False,
        "silence_logs": 40,
        "local_directory": os.path.expandvars(profile.local_directory) or None,
    }
    workers: dict[str, dict[str, Any]] = {}
    if groups.cpu:
        # those that embed on a GPU that they share would take each other's memory
        hidden = {"env": {"CUDA_VISIBLE_DEVICES": ""}}
        options = every | hidden | {"memory_limit": _memory(groups.cpu, count)}
        workers |= {f"cpu-{n}": options for n in range(groups.cpu.count)}
    if groups.gpu:
        options = every | {"memory_limit": _memory(groups.gpu, count), "resources": {GPU: 1}}
        for n, device in enumerate(_devices(groups.gpu.count)):
            workers[f"gpu-{n}"] = options | {"env": {"CUDA_VISIBLE_DEVICES": device}}
    return {name: {"cls": Nanny, "options": options} for name, options in workers.items()}


def _memory(group: LocalGroup, workers: int) -> str | int:
    return group.memory or MEMORY_LIMIT // workers


def gpus_here() -> int:
    """Return how many GPUs this process may use."""
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def _devices(count: int) -> list[str]:
    """Return a GPU for each worker, of those that this process may use."""
    visible, found = os.environ.get("CUDA_VISIBLE_DEVICES"), gpus_here()
    if count > found:
        told = "" if visible is None else f" (CUDA_VISIBLE_DEVICES={visible!r})"
        msg = (
            f"workers.gpu: {count} workers, but torch {version('torch')} sees {found} GPUs here"
            f"{told}; one GPU is one worker"
        )
        raise InputError(msg)
    if visible is None:
        return [str(n) for n in range(count)]
    return [device.strip() for device in visible.split(",") if device.strip()][:count]
