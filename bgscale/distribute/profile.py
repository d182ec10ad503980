"""The cluster profile: where workers run and what they may take of a machine.

It is the second file of a run: the run config says what is computed, the profile with what, and
nothing here can change a result. A profile is one of three kinds, each with keys of its own:

- ``local``: processes of this machine, some of them with a GPU each;
- ``slurm``: jobs of a batch system, submitted from here and replaced when they end;
- ``scheduler``: a Dask scheduler that somebody else has started.

A worker has one thread, and a worker of the group ``gpu`` has one GPU: so a unit never waits for
another inside a worker, and what a worker may take is known before it starts.
"""

import re
from pathlib import Path
from typing import Any, Literal, Self

from dask.utils import parse_bytes
from pydantic import Field, ValidationInfo, field_validator, model_validator

from bgscale.errors import ConfigError, nearest
from bgscale.sections import Section, read_toml

GPU = "GPU"
"""The resource that workers of the group ``gpu`` have, one each."""

SHORTEST_WALLTIME_S = 600
LONGEST_DRAIN_S = 900


def seconds_of(time: str) -> int:
    """Return the seconds of a time as batch systems write it.

    Raises
    ------
    ValueError
        It is not ``[days-]hours:minutes:seconds``.

    Examples
    --------
    >>> seconds_of("04:00:00"), seconds_of("1-12:00:00")
    (14400, 129600)
    """
    match = re.fullmatch(r"(?:(\d{1,3})-)?(\d{1,3}):([0-5]?\d):([0-5]?\d)", time)
    if match is None:
        msg = f"expected [days-]hours:minutes:seconds, such as 04:00:00 or 1-12:00:00, got {time!r}"
        raise ValueError(msg)
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds


def _time(text: str, info: ValidationInfo) -> str:
    if text:
        try:
            seconds_of(text)
        except ValueError as error:
            msg = f"{info.field_name}: {error}"
            raise ValueError(msg) from None
    return text


def _memory(text: str, info: ValidationInfo) -> str:
    try:
        enough = not text or parse_bytes(text) >= 1e6
    except ValueError:
        enough = False
    if not enough:
        msg = f"{info.field_name}: expected a size such as '4 GiB', got {text!r}"
        raise ValueError(msg)
    return text


class LocalGroup(Section):
    """Workers of one kind on this machine."""

    count: int = Field(default=1, ge=1, description="worker processes")
    memory: str = Field(
        default="", description="of each, as '4 GiB'; empty: an even share of the machine's"
    )

    _sizes = field_validator("memory")(_memory)


class SlurmGroup(Section):
    """Jobs of one kind: a job is a worker."""

    count: int = Field(default=1, ge=1, description="jobs, each of them a worker")
    memory: str = Field(default="4 GiB", min_length=1, description="of each job")
    walltime: str = Field(default="04:00:00", description="of each job, hours:minutes:seconds")
    drain: str = Field(
        default="",
        description="how long before the end a job takes no further units: as long as the longest "
        "unit; empty: a tenth of the walltime, at most 15 minutes",
    )
    cores: int = Field(
        default=1, ge=1, description="cores to ask for, where there is a least; a worker uses one"
    )
    queue: str = Field(default="", description="partition; empty: the cluster's own choice")
    account: str = Field(default="", description="account that pays; empty: your own")
    gres: str = Field(default="", description="generic resources, as SLURM's --gres")
    directives: tuple[str, ...] = Field(
        default=(), description="further options of sbatch, as '--qos=long'"
    )
    prologue: tuple[str, ...] = Field(
        default=(), description="lines of shell before the worker starts, as 'module load cuda'"
    )

    _times = field_validator("walltime", "drain")(_time)
    _sizes = field_validator("memory")(_memory)

    @field_validator("directives")
    @classmethod
    def _options(cls, lines: tuple[str, ...]) -> tuple[str, ...]:
        for line in lines:
            if not line.startswith("-") or "\n" in line:
                msg = f"directives: expected an option of sbatch such as '--qos=long', got {line!r}"
                raise ValueError(msg)
        return lines

    @model_validator(mode="after")
    def _long_enough(self) -> Self:
        if seconds_of(self.walltime) < SHORTEST_WALLTIME_S:
            msg = f"walltime = {self.walltime}: expected ten minutes or more"
            raise ValueError(msg)
        if 3 * self.drain_s > seconds_of(self.walltime):
            msg = f"drain = {self.drain}: expected at most a third of the walltime {self.walltime}"
            raise ValueError(msg)
        return self

    @property
    def drain_s(self) -> int:
        """How long before the walltime a worker begins to leave, at the latest."""
        if self.drain:
            return seconds_of(self.drain)
        return min(seconds_of(self.walltime) // 10, LONGEST_DRAIN_S)

    @property
    def lifetime_s(self) -> int:
        """When a worker begins to leave, counted from its start, give or take `stagger_s`."""
        return seconds_of(self.walltime) - self.drain_s - self.stagger_s

    @property
    def stagger_s(self) -> int:
        """Jobs that began together do not end together."""
        return self.drain_s // 2


class SlurmGpuGroup(SlurmGroup):
    """Jobs with one GPU each."""

    gres: str = Field(default="gpu:1", description="one GPU, as 'gpu:1' or 'gpu:a100:1'")

    @field_validator("gres")
    @classmethod
    def _one_gpu(cls, gres: str) -> str:
        if not re.fullmatch(r"gpu(:[A-Za-z_][\w.-]*)?(:1)?", gres):
            msg = (
                f"workers.gpu.gres = {gres!r}: expected one GPU a worker, as 'gpu:1' or "
                "'gpu:a100:1'; several workers are 'count'"
            )
            raise ValueError(msg)
        return gres


class LocalWorkers(Section):
    """The groups of workers on this machine."""

    cpu: LocalGroup | None = None
    gpu: LocalGroup | None = None


class SlurmWorkers(Section):
    """The groups of worker jobs."""

    cpu: SlurmGroup | None = None
    gpu: SlurmGpuGroup | None = None


class _Profile(Section):
    """What profiles share."""

    def anchored(self, folder: Path) -> Self:
        """Return the profile with its relative paths taken from `folder`."""
        changed = {
            key: str(folder / path)
            for key in self._paths()
            if (path := getattr(self, key)) and path[0] not in "~$"
        }
        return self.model_copy(update=changed)

    @classmethod
    def _paths(cls) -> tuple[str, ...]:
        return ()

    @property
    def gpus(self) -> int:
        """How many workers have a GPU, or will have one."""
        return 0


class _Started(_Profile):
    """What profiles share whose scheduler runs in this process."""

    security: Literal["temporary", "none"] = Field(
        default="temporary",
        description="'temporary': workers and scheduler talk TLS with a certificate of this run; "
        "'none': anyone who reaches the scheduler can run code as you",
    )
    dashboard_port: int = Field(
        default=0,
        ge=0,
        le=65535,
        description="of Dask's dashboard, on 127.0.0.1 only (ssh -L shows it elsewhere); 0: any",
    )
    local_directory: str = Field(
        default="", description="scratch folder of workers on their node, as '$TMPDIR'; empty: /tmp"
    )


def _some(workers: LocalWorkers | SlurmWorkers) -> Any:
    if workers.cpu is None and workers.gpu is None:
        msg = "no workers: expected a table [workers.cpu], [workers.gpu], or both"
        raise ValueError(msg)
    return workers


class LocalProfile(_Started):
    """Worker processes on this machine."""

    kind: Literal["local"] = "local"
    wait: str = Field(
        default="00:02:00",
        min_length=1,
        description="a unit that no worker can do for so long ends with an error",
    )
    workers: LocalWorkers

    _times = field_validator("wait")(_time)
    _groups = field_validator("workers")(_some)

    @property
    def gpus(self) -> int:
        """How many workers have a GPU."""
        return self.workers.gpu.count if self.workers.gpu else 0


class SlurmProfile(_Started):
    """Worker jobs of SLURM; the scheduler runs where `bgscale run` does."""

    kind: Literal["slurm"] = "slurm"
    wait: str = Field(
        default="1-00:00:00",
        min_length=1,
        description="how long jobs may stand in the queue; a unit that no worker can do for so "
        "long ends with an error",
    )
    shared_directory: str = Field(
        default="~",
        min_length=1,
        description="folder that all nodes see; the run's certificate lies there, for you alone",
    )
    log_directory: str = Field(
        default="slurm-logs", min_length=1, description="what worker jobs print"
    )
    interface: str = Field(
        default="", description="network interface that nodes share, as 'ib0'; empty: the usual one"
    )
    python: str = Field(
        default="", description="Python of the workers; empty: the one that runs bgscale here"
    )
    workers: SlurmWorkers

    _times = field_validator("wait")(_time)
    _groups = field_validator("workers")(_some)

    @classmethod
    def _paths(cls) -> tuple[str, ...]:
        return ("shared_directory", "log_directory")

    @property
    def gpus(self) -> int:
        """How many workers have a GPU, or will have one."""
        return self.workers.gpu.count if self.workers.gpu else 0


class SchedulerProfile(_Profile):
    """A scheduler that runs already; its workers are its own affair."""

    kind: Literal["scheduler"] = "scheduler"
    address: str = Field(default="", description="as 'tls://host:8786'; empty: a scheduler file")
    scheduler_file: str = Field(default="", description="JSON that `dask scheduler` has written")
    ca_file: str = Field(
        default="", description="certificate authority (PEM); empty: as Dask's own configuration"
    )
    certificate: str = Field(default="", description="certificate of a client (PEM)")
    key: str = Field(default="", description="its private key (PEM), readable by you alone")
    gpu_workers: int = Field(
        default=0,
        ge=0,
        description="how many workers started with --resources GPU=1 there will be; 0: those that "
        "are there when a stage begins",
    )
    wait: str = Field(
        default="00:10:00", min_length=1, description="how long to wait for the first worker"
    )

    _times = field_validator("wait")(_time)

    @model_validator(mode="after")
    def _found(self) -> Self:
        if bool(self.address) == bool(self.scheduler_file):
            msg = "expected either 'address' or 'scheduler_file'"
            raise ValueError(msg)
        given = [bool(path) for path in (self.ca_file, self.certificate, self.key)]
        if any(given) and not all(given):
            msg = "expected 'ca_file', 'certificate' and 'key' together, or none of them"
            raise ValueError(msg)
        return self

    @classmethod
    def _paths(cls) -> tuple[str, ...]:
        return ("scheduler_file", "ca_file", "certificate", "key")

    @property
    def gpus(self) -> int:
        """How many workers have a GPU, or will have one."""
        return self.gpu_workers


Profile = LocalProfile | SlurmProfile | SchedulerProfile

_KINDS: dict[str, type[LocalProfile] | type[SlurmProfile] | type[SchedulerProfile]] = {
    "local": LocalProfile,
    "slurm": SlurmProfile,
    "scheduler": SchedulerProfile,
}


def profile_from_dict(values: dict[str, Any], *, origin: str = "profile") -> Profile:
    """Check the values of a profile.

    Raises
    ------
    ConfigError
        No kind or an unknown one, an unknown key (the nearest is named) or a wrong value.

    Examples
    --------
    >>> profile_from_dict({"kind": "local", "workers": {"cpu": {"count": 4}}}).workers.cpu.count
    4
    """
    kind = values.get("kind")
    if not isinstance(kind, str) or kind not in _KINDS:
        got = "no 'kind'" if kind is None else f"kind = {kind!r}{nearest(str(kind), _KINDS)}"
        msg = f"{origin}: {got}; expected one of {', '.join(_KINDS)}"
        raise ConfigError(msg)
    return _KINDS[kind].from_dict(values, origin=origin)


def read_profile(path: str | Path) -> Profile:
    """Read a profile; relative paths in it are taken from its folder.

    Raises
    ------
    ConfigError
        As `profile_from_dict`; or no such file, or not TOML.
    """
    path = Path(path)
    values = read_toml(path, "deploy/slurm/profile.toml is an example of a cluster profile")
    return profile_from_dict(values, origin=str(path)).anchored(path.parent)
