"""Where units run: nowhere special (None), or a Dask cluster on this machine or elsewhere."""

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from distributed import Client, Security, SpecCluster, WorkerPlugin
from distributed.comm.addressing import get_address_host_port
from distributed.utils import silence_logging_cmgr

from bgscale.distribute.lost import closed_at_last, scheduler_needed
from bgscale.distribute.profile import (
    GPU,
    LocalProfile,
    Profile,
    SchedulerProfile,
    SlurmProfile,
    profile_from_dict,
    read_profile,
    seconds_of,
)
from bgscale.distribute.security import address_in, from_files
from bgscale.errors import InputError, InterruptedRunError

CONNECT_TIMEOUT_S = 10
LOOK_EVERY_S = 5.0
TELL_AFTER_S = 20.0
_EXPECTED_GPUS = "bgscale-gpu-workers"


def _nothing(message: str) -> None:
    del message


@contextmanager
def connect(
    cluster: str = "local", *, tell: Callable[[str], None] = _nothing
) -> Iterator[Client | None]:
    """Open a client for the length of a ``with`` block.

    Parameters
    ----------
    cluster : str
        ``"serial"``: no cluster (None); ``"local"`` or ``"local:N"``: N single-threaded worker
        processes on this machine, by default one a core, of which the first have a GPU each, as
        far as there are GPUs; ``"tcp://host:port"`` or
        ``"tls://host:port"``: a scheduler; ``"NAME.json"``: the file that a scheduler has written;
        ``"NAME.toml"``: a cluster profile, see `bgscale.distribute.profile`.
    tell : callable, optional
        Hears what a person who waits wants to know.

    Notes
    -----
    Worker processes import the script that starts them: call this under
    ``if __name__ == "__main__":``. A scheduler that runs already is reached with the certificates
    of the profile, or of Dask's own configuration (``distributed.comm.tls``).

    Raises
    ------
    InputError
        Not one of these, a profile that is wrong, nobody answers at the address, or SLURM refuses
        the jobs.
    InterruptedRunError
        No worker came within the time the profile gives them.
    """
    if cluster == "serial":
        yield None
        return
    profile = _profile(cluster)
    with ExitStack() as stack:
        if isinstance(profile, SchedulerProfile):
            client = stack.enter_context(_scheduler(profile))
            _first_worker(client, profile, tell)
        elif isinstance(profile, SlurmProfile):
            client = stack.enter_context(_slurm(profile, tell))
        else:
            client = stack.enter_context(_local(profile))
        if profile.gpus:
            with scheduler_needed(client):
                client.set_metadata(_EXPECTED_GPUS, profile.gpus)  # type: ignore[no-untyped-call]
        yield client


def gpu_resources(client: Client | None) -> dict[str, float] | None:
    """Return the resources that a unit must ask for to run on a GPU worker.

    Parameters
    ----------
    client : distributed.Client, optional
        None, as for a serial run, has no workers.

    Returns
    -------
    dict or None
        For `Client.submit`; None where the cluster has no GPU workers. A profile that names GPU
        workers has them from the start, also while their jobs stand in a queue: else the first
        units would silently go to a processor.
    """
    if client is None:
        return None
    with scheduler_needed(client):
        if client.get_metadata(_EXPECTED_GPUS, 0):  # type: ignore[no-untyped-call]
            return {GPU: 1}
        workers = client.scheduler_info(n_workers=-1)["workers"].values()
    return {GPU: 1} if any(worker["resources"].get(GPU) for worker in workers) else None


class _Uninterrupted(WorkerPlugin):
    """A terminal sends Ctrl-C to every process: the run drains, so its workers must live on."""

    name = "bgscale-uninterrupted"

    def setup(self, worker: object) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def _profile(cluster: str) -> Profile:
    """Return the profile that a short name means, or that lies in a file."""
    if cluster == "local" or cluster.startswith("local:"):
        from bgscale.distribute.local import gpus_here

        count = _processes(cluster)
        gpu = min(count, gpus_here())
        counts = {"cpu": count - gpu, "gpu": gpu}
        workers = {group: {"count": number} for group, number in counts.items() if number}
        return profile_from_dict({"kind": "local", "workers": workers})
    if "://" in cluster:
        return profile_from_dict({"kind": "scheduler", "address": cluster})
    if cluster.endswith(".json"):
        return profile_from_dict({"kind": "scheduler", "scheduler_file": cluster})
    if cluster.endswith(".toml"):
        return read_profile(cluster)
    msg = (
        f"cluster {cluster!r}: expected 'serial', 'local', 'local:N', 'tcp://host:port', "
        "'tls://host:port', a scheduler file (.json) or a cluster profile (.toml)"
    )
    raise InputError(msg)


def workers_of(cluster: str, *, known: bool = False) -> tuple[int, int]:
    """Return how many workers a cluster will have, and how many of them with a GPU.

    Parameters
    ----------
    cluster : str
        As `connect` takes it.
    known : bool
        The number of workers is known from elsewhere, 0 will do.

    Raises
    ------
    InputError
        Not a cluster, a profile that is wrong, or a scheduler, whose workers are its own affair.
    """
    if cluster == "serial":
        return 1, 0
    profile = _profile(cluster)
    if isinstance(profile, SchedulerProfile):
        if not known:
            msg = f"cluster {cluster!r} does not say how many workers it has: give --workers"
            raise InputError(msg)
        return 0, profile.gpus
    groups = profile.workers
    cpu = groups.cpu.count if groups.cpu else 0
    # a worker with a GPU does the units of processors, too
    return cpu + profile.gpus, profile.gpus


def _processes(cluster: str) -> int:
    _, _, number = cluster.partition(":")
    if not number:
        affine = hasattr(os, "sched_getaffinity")
        return len(os.sched_getaffinity(0)) if affine else os.cpu_count() or 1
    if not number.isdigit() or int(number) < 1:
        msg = f"cluster {cluster!r}: expected a number of processes after 'local:', such as local:2"
        raise InputError(msg)
    return int(number)


@contextmanager
def _local(profile: LocalProfile) -> Iterator[Client]:
    from bgscale.distribute.local import local_cluster

    with local_cluster(profile) as cluster, _client(cluster) as client:
        client.register_plugin(_Uninterrupted())
        yield client


@contextmanager
def _scheduler(profile: SchedulerProfile) -> Iterator[Client]:
    address = profile.address or address_in(Path(profile.scheduler_file).expanduser())
    security = (
        from_files(profile.ca_file, profile.certificate, profile.key) if profile.ca_file else None
    )
    try:
        # a Client that cannot parse its address hangs for 20 s when it is collected
        get_address_host_port(address, strict=True)
        client = _client(address, security)
    except (OSError, ValueError) as error:
        msg = f"no Dask scheduler answers at {address!r}: {error}"
        raise InputError(msg) from None
    except (TypeError, RuntimeError) as error:
        if "TLS" not in str(error) and "encrypt" not in str(error):
            raise
        msg = (
            f"the Dask scheduler at {address!r} wants another kind of connection: {error}; give "
            "'ca_file', 'certificate' and 'key' in a cluster profile, or set Dask's own "
            "distributed.comm.tls"
        )
        raise InputError(msg) from None
    # a lost scheduler is said by the run, in words
    with (
        silence_logging_cmgr(logging.CRITICAL, root="distributed.client"),
        closed_at_last(client),
    ):
        yield client


@contextmanager
def _slurm(profile: SlurmProfile, tell: Callable[[str], None]) -> Iterator[Client]:
    try:
        from bgscale.distribute import slurm
    except ModuleNotFoundError as error:
        msg = f"a profile of kind 'slurm' needs {error.name}: pip install 'bgscale[jobqueue]'"
        raise InputError(msg) from None
    with (
        _ended_by_sigterm(),
        slurm.slurm_cluster(profile, tell) as cluster,
        _client(cluster) as client,
    ):

        def ended() -> str:
            if cluster.worker_spec:
                return ""
            return f"no worker job lives; see what they print into {profile.log_directory}"

        _first_worker(client, profile, tell, ended)
        yield client


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """Within the block SIGTERM raises, as Ctrl-C does: jobs that still queue are taken back."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(_number: int, _frame: object) -> None:
        msg = "stopped by SIGTERM; what was done is kept: run again to go on"
        raise InterruptedRunError(msg)

    before = signal.signal(signal.SIGTERM, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _first_worker(
    client: Client,
    profile: SchedulerProfile | SlurmProfile,
    tell: Callable[[str], None],
    ended: Callable[[], str] = str,
) -> None:
    """Return when there is a worker; `ended` says why there will be none, or nothing."""
    started = time.monotonic()
    said = False
    while not _has_workers(client):
        waited = time.monotonic() - started
        if reason := ended():
            raise InputError(reason)
        if waited > seconds_of(profile.wait):
            msg = f"no worker came within {profile.wait}; run again to go on"
            raise InterruptedRunError(msg)
        if waited > TELL_AFTER_S and not said:
            tell(f"waiting for the first worker, for {profile.wait} at most")
            said = True
        time.sleep(min(LOOK_EVERY_S, 0.1 + waited))


def _has_workers(client: Client) -> bool:
    with scheduler_needed(client):
        return bool(client.nthreads())  # type: ignore[no-untyped-call]


def _client(target: str | SpecCluster, security: Security | None = None) -> Client:
    return Client(target, timeout=CONNECT_TIMEOUT_S, security=security, set_as_default=False)  # type: ignore[no-untyped-call]
