"""Workers as jobs of SLURM: a job is a worker, the scheduler runs in this process.

The number of jobs is fixed. A job ends a while before its walltime (the worker leaves, its unit is
done by another), or dies with its node; in both cases it is submitted again, so long as the run
goes on. Job scripts are dask-jobqueue's; the certificate they use lies in a private folder that all
nodes see, and goes with the run.
"""

import asyncio
import re
import shutil
import subprocess
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import dask
from dask_jobqueue.slurm import SLURMJob
from distributed import Scheduler, Security, SpecCluster
from distributed.core import Status
from distributed.utils import get_ip

from bgscale.distribute.profile import GPU, SlurmGroup, SlurmProfile, seconds_of
from bgscale.distribute.security import private_folder, temporary, write_files
from bgscale.errors import InputError

LOOK_EVERY_S = 30.0
RESUBMISSIONS = 60
"""A job that ends at once each time must not fill the cluster's queue for ever."""
FAILED_STARTS = 3
"""After so many jobs that ended before their worker came, there will be none."""
DEATH_TIMEOUT_S = 120
"""A worker that finds no scheduler for so long ends its job."""
PAUSES_S = (3.0, 10.0, 30.0)
"""Between attempts to submit, while SLURM's controller is busy."""
_QUIET = ("--no-dashboard", "--dashboard-address", "127.0.0.1:0")
"""Without the address, a worker without a dashboard still serves plain HTTP to everyone."""
_BUSY = re.compile("timed out|unable to contact|temporarily|try again", re.IGNORECASE)


class WorkerJob(SLURMJob):
    """A job of dask-jobqueue whose submission outlasts a busy controller."""

    async def _submit_job(self, script_filename: str) -> Any:
        for pause in (*PAUSES_S, None):
            try:
                return await super()._submit_job(script_filename)  # type: ignore[no-untyped-call]
            except RuntimeError as error:
                if pause is None or not _BUSY.search(str(error)):
                    # a cluster that closes minds jobs which neither run nor failed
                    self.status = Status.failed
                    raise
                await asyncio.sleep(pause)
        raise AssertionError


def worker_jobs(profile: SlurmProfile, security: Security | None) -> dict[str, dict[str, Any]]:
    """Return what each job is submitted with, by the name of its worker.

    Parameters
    ----------
    profile : SlurmProfile
    security : distributed.Security, optional
        A certificate that lies in files which the nodes see.
    """
    jobs: dict[str, dict[str, Any]] = {}
    for name, group in (("cpu", profile.workers.cpu), ("gpu", profile.workers.gpu)):
        if group is not None:
            options = _options(profile, name, group, security)
            jobs |= {f"{name}-{n}": options for n in range(group.count)}
    return {name: {"cls": WorkerJob, "options": options} for name, options in jobs.items()}


def _options(
    profile: SlurmProfile, kind: str, group: SlurmGroup, security: Security | None
) -> dict[str, Any]:
    life = ["--lifetime", f"{group.lifetime_s}s", "--lifetime-stagger", f"{group.stagger_s}s"]
    resources = ["--resources", f"{GPU}=1"] if kind == "gpu" else []
    gres = [f"--gres={group.gres}"] if group.gres else []
    return {
        "job_name": f"bgscale-{kind}",
        "cores": 1,
        "processes": 1,
        "job_cpu": group.cores,
        "memory": group.memory,
        "walltime": group.walltime,
        "queue": group.queue or None,
        "account": group.account or None,
        # the run submits a lost job again: one that SLURM brings back would be a second
        "job_extra_directives": ["--no-requeue", *gres, *group.directives],
        "job_script_prologue": list(group.prologue),
        "worker_extra_args": [*_QUIET, *life, *resources],
        "death_timeout": DEATH_TIMEOUT_S,
        "interface": profile.interface or None,
        "local_directory": f'"{profile.local_directory}"' if profile.local_directory else None,
        "log_directory": profile.log_directory,
        "python": profile.python or None,
        "protocol": "tls://" if security else None,
        "security": security,
    }


@contextmanager
def slurm_cluster(profile: SlurmProfile, tell: Callable[[str], None]) -> Iterator[SpecCluster]:
    """Start a scheduler here, submit the jobs, and keep their number until the block ends.

    Raises
    ------
    InputError
        SLURM is not here, or refuses a job.
    """
    for program in ("sbatch", "scancel", "squeue"):
        if shutil.which(program) is None:
            msg = f"no '{program}' here: a profile of kind 'slurm' needs a node that submits jobs"
            raise InputError(msg)
    security = temporary() if profile.security == "temporary" else None
    scheduler = {
        "interface": profile.interface or None,
        "host": None if profile.interface else get_ip(),  # type: ignore[no-untyped-call]
        "port": 0,
        "protocol": "tls://" if security else "tcp://",
        "security": security,
        "dashboard_address": f"127.0.0.1:{profile.dashboard_port}",
    }
    settings = {"distributed.scheduler.no-workers-timeout": f"{seconds_of(profile.wait)}s"}
    with private_folder(profile.shared_directory) as folder, dask.config.set(settings):
        jobs = worker_jobs(profile, write_files(security, folder) if security else None)
        try:
            cluster = SpecCluster(  # type: ignore[no-untyped-call]
                scheduler={"cls": Scheduler, "options": scheduler},
                workers=jobs,
                security=security,
                silence_logs=40,
                name="bgscale",
            )
        except RuntimeError as error:
            _, found, said = str(error).partition("stderr:\n")
            what = "SLURM refuses a worker job" if found else "cannot start a scheduler"
            msg = f"{what}: {' '.join((said or str(error)).split())}; see the cluster profile"
            raise InputError(msg) from None
        with cluster, Keeper(cluster, tell):
            tell(f"submitted {len(jobs)} worker jobs; they print into {profile.log_directory}")
            yield cluster


class Keeper:
    """Submits again, while its block lasts, the jobs whose worker is gone.

    Parameters
    ----------
    cluster : distributed.SpecCluster
        It forgets by itself a worker that has left; a job that ended before its worker came it
        does not notice.
    tell : callable
    """

    def __init__(self, cluster: SpecCluster, tell: Callable[[str], None]) -> None:
        self._cluster, self._tell = cluster, tell
        self._came: set[str] = set()
        self._submissions: Counter[str] = Counter()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="bgscale-keep-jobs", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _keep(self) -> None:
        while not self._over.wait(LOOK_EVERY_S):
            self.look()

    def look(self) -> None:
        """Submit what has ended; give up what ends again and again."""
        cluster = self._cluster
        for name in self._unstarted():
            self._submissions[name] += RESUBMISSIONS // FAILED_STARTS
            # what is not listed is opened again
            cluster.workers.pop(name, None)
        ended = sorted(set(cluster.worker_spec) - set(cluster.workers))
        for name in ended:
            self._submissions[name] += 1
            if self._submissions[name] > RESUBMISSIONS:
                self._tell(f"the job of worker {name} ends each time; it is not submitted again")
                del cluster.worker_spec[name]
        again = [name for name in ended if name in cluster.worker_spec]
        if again:
            self._tell(f"worker jobs have ended and are submitted again: {', '.join(again)}")
            # to the same number: opens what is missing
            cluster.scale(len(cluster.worker_spec))  # type: ignore[no-untyped-call]

    def _unstarted(self) -> set[str]:
        """Return the workers whose job has ended before they came."""
        jobs = {name: job.job_id for name, job in list(self._cluster.workers.items())}
        scheduler: Any = self._cluster.scheduler
        here = {state.name for state in list(scheduler.workers.values())}
        self._came |= {job for name, job in jobs.items() if job and name in here}
        awaited = {job: name for name, job in jobs.items() if job and job not in self._came}
        if not awaited:
            return set()
        command = ["squeue", "--noheader", "--format=%i", f"--jobs={','.join(awaited)}"]
        answer = subprocess.run(command, capture_output=True, text=True, check=False)
        # of a single job that it has forgotten SLURM says so; any other error is no evidence
        if answer.returncode and "Invalid job id" not in answer.stderr:
            return set()
        return {awaited[job] for job in set(awaited) - set(answer.stdout.split())}
