"""Where units run: nowhere special (None), or a Dask cluster on this machine or elsewhere."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import dask
from distributed import Client, LocalCluster, WorkerPlugin
from distributed.comm.addressing import get_address_host_port

from bgscale.errors import InputError

CONNECT_TIMEOUT_S = 10


@contextmanager
def connect(cluster: str = "local") -> Iterator[Client | None]:
    """Open a client for the length of a ``with`` block.

    Parameters
    ----------
    cluster : str
        ``"serial"``: no cluster (None); ``"local"`` or ``"local:N"``: N single-threaded worker
        processes on this machine, by default one a core; ``"tcp://host:port"``: a scheduler.

    Notes
    -----
    Worker processes import the script that starts them: call this under
    ``if __name__ == "__main__":``.

    Raises
    ------
    InputError
        Not one of these, or nobody answers at the address.
    """
    if cluster == "serial":
        yield None
    elif cluster == "local" or cluster.startswith("local:"):
        with _local(_processes(cluster)) as local, _client(local) as client:
            client.register_plugin(_Uninterrupted())
            yield client
    elif "://" in cluster:
        try:
            # a Client that cannot parse its address hangs for 20 s when it is collected
            get_address_host_port(cluster, strict=True)
            client = _client(cluster)
        except (OSError, ValueError) as error:
            msg = f"no Dask scheduler answers at {cluster!r}: {error}"
            raise InputError(msg) from None
        with client:
            yield client
    else:
        msg = f"cluster {cluster!r}: expected 'serial', 'local', 'local:N' or 'tcp://host:port'"
        raise InputError(msg)


class _Uninterrupted(WorkerPlugin):
    """A terminal sends Ctrl-C to every process: the run drains, so its workers must live on."""

    name = "bgscale-uninterrupted"

    def setup(self, worker: object) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def _client(target: str | LocalCluster) -> Client:
    return Client(target, timeout=CONNECT_TIMEOUT_S, set_as_default=False)  # type: ignore[no-untyped-call]


def _processes(cluster: str) -> int:
    _, _, number = cluster.partition(":")
    if not number:
        affine = hasattr(os, "sched_getaffinity")
        return len(os.sched_getaffinity(0)) if affine else os.cpu_count() or 1
    if not number.isdigit() or int(number) < 1:
        msg = f"cluster {cluster!r}: expected a number of processes after 'local:', such as local:2"
        raise InputError(msg)
    return int(number)


def _local(processes: int) -> LocalCluster:
    with dask.config.set({"distributed.worker.daemon": True}):
        return LocalCluster(  # type: ignore[no-untyped-call]
            n_workers=processes,
            threads_per_worker=1,
            processes=True,
            host="127.0.0.1",
            # any free port: None would take 8787, and warn where a second run has it
            dashboard_address="127.0.0.1:0",
            silence_logs=40,
        )
