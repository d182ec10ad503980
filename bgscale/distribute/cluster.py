"""Where units run: nowhere special (None), or a Dask cluster on this machine or elsewhere."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import dask
from distributed import Client, LocalCluster

from bgscale.errors import InputError


@contextmanager
def connect(cluster: str = "local") -> Iterator[Client | None]:
    """Open a client for the length of a ``with`` block.

    Parameters
    ----------
    cluster : str
        ``"serial"``: no cluster (None); ``"local"`` or ``"local:N"``: N single-threaded worker
        processes on this machine, by default one a core; ``"tcp://host:port"``: a running scheduler.

    Raises
    ------
    InputError
        Not one of these, or nobody answers at the address.
    """
    if cluster == "serial":
        yield None
    elif cluster == "local" or cluster.startswith("local:"):
        with _local(_processes(cluster)) as local, Client(local, set_as_default=False) as client:
            yield client
    elif "://" in cluster:
        try:
            client = Client(cluster, timeout="10s", set_as_default=False)
        except (OSError, ValueError) as error:
            msg = f"no Dask scheduler answers at {cluster!r}: {error}"
            raise InputError(msg) from None
        with client:
            yield client
    else:
        msg = f"cluster {cluster!r}: expected 'serial', 'local', 'local:N' or 'tcp://host:port'"
        raise InputError(msg)


def _processes(cluster: str) -> int:
    _, _, number = cluster.partition(":")
    if not number:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if not number.isdigit() or int(number) < 1:
        msg = f"cluster {cluster!r}: expected a number of processes after 'local:', such as local:2"
        raise InputError(msg)
    return int(number)


def _local(processes: int) -> LocalCluster:
    with dask.config.set({"distributed.worker.daemon": True}):
        return LocalCluster(
            n_workers=processes,
            threads_per_worker=1,
            processes=True,
            host="127.0.0.1",
            dashboard_address=None,
            silence_logs=40,
        )
