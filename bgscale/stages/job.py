"""What every unit of a run needs to know, opened once per process.

A `Job` travels as JSON text; workers keep the last ones. Nothing large travels: screen, donor bank
and models are opened by the process that uses them.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from bgscale.config import RunConfig
from bgscale.errors import InputError
from bgscale.results import Store
from bgscale.schema import CHANNEL_ROLES, Reason
from bgscale.screen import Screen, open_screen
from bgscale.settings import Cells, Pool, Setting, get_setting, pack


@dataclass(frozen=True, eq=False)
class Job:
    """A run config, the tokens of its stages, and what they open.

    The tokens are there so that a process which outlives a store does not serve an older one.
    """

    config: RunConfig
    tokens: tuple[tuple[str, str], ...] = ()

    @property
    def text(self) -> str:
        """The job as JSON."""
        return json.dumps({"config": self.config.to_config(), "tokens": self.tokens})

    @cached_property
    def store(self) -> Store:
        """The run store."""
        return Store(self.config.store)

    @cached_property
    def screen(self) -> Screen:
        """The input screen."""
        section = self.config.screen
        return open_screen(
            section.path,
            plate_map=section.plate_map or None,
            pattern=section.pattern or None,
            class_column=section.class_column,
            protein=section.protein,
            cytosol=section.cytosol or None,
            nucleus=section.nucleus or None,
            mask=section.mask or None,
            pixel_size_um=section.pixel_size_um or None,
            intensity_scaling=section.intensity_scaling,
            proteins=section.proteins or None,
            limit=section.limit or None,
        )

    @cached_property
    def settings(self) -> tuple[Setting, ...]:
        """The background settings, in the order of the config."""
        return tuple(get_setting(name) for name in self.config.settings)

    @cached_property
    def channels(self) -> tuple[str, ...]:
        """Roles of the channels that the crops have."""
        section = self.config.screen
        return tuple(role for role in CHANNEL_ROLES if getattr(section, role))

    @cached_property
    def plates(self) -> tuple[str, ...]:
        """Names of the plates; a crops screen is one."""
        return tuple(self.store.attrs()["plates"])

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes (localizations); of a screen that is open, also before a store."""
        if "screen" in self.__dict__:
            return self.screen.classes
        return tuple(self.store.attrs("proteins")["coords"]["localization"])

    @cached_property
    def proteins(self) -> tuple[str, ...]:
        """Names of the proteins."""
        if "screen" in self.__dict__:
            return self.screen.proteins
        return tuple(self.store.attrs("proteins")["coords"]["protein"])

    @cached_property
    def labels(self) -> npt.NDArray[np.bool_]:
        """Classes of each protein: (protein, localization)."""
        return self.store.read("proteins/label").astype(bool)

    @lru_cache(maxsize=8)  # noqa: B019  a job lives as long as its process
    def cells(self, plate: str) -> "PlateCells":
        """Return the cell table of a plate."""
        node = f"plates/{plate}/cells"
        column = {n: self.store.read(f"{node}/{n}") for n in ("id", "protein", "field", "reason")}
        protein = column["protein"].astype(np.int64)
        cells = Cells(column["id"], protein, column["field"].astype(np.int64), self.labels[protein])
        names = self.store.array(f"{node}/field").attrs["names"]
        here = self.in_fields(names, self.config.evaluation.fields, "evaluation.fields")
        return PlateCells(plate, cells, column["reason"] == Reason.OK, here[cells.field])

    @lru_cache(maxsize=3)  # noqa: B019
    def bank(self, node: str) -> "Bank":
        """Return the donor bank `node` ("donors", "windows") or the centres of experiment 1."""
        image, mask, ids, bounds = (
            self.store.read(f"{node}/{name}") for name in ("image", "mask", "id", "range")
        )
        return Bank(read_pool(self.store, node), ids, image, mask, bounds)

    @staticmethod
    def in_fields(names: Sequence[str], wanted: Sequence[str], key: str) -> npt.NDArray[np.bool_]:
        """Return which fields (plate/well/field) are among the wanted ones; none means all.

        Raises
        ------
        InputError
            A wanted field is nowhere on the screen.
        """
        labels = [name.rsplit("/", 1)[-1] for name in names]
        for field in wanted:
            if field not in labels:
                there = ", ".join(sorted(set(labels))[:8])
                msg = f"{key}: no field {field!r} on the screen; there are {there}"
                raise InputError(msg)
        return np.isin(labels, wanted) if wanted else np.ones(len(labels), bool)

    def role_indices(self, roles: Sequence[str], *, who: str) -> list[int]:
        """Return where the channels that a model reads stand in the crops."""
        missing = [role for role in roles if role not in self.channels]
        if missing:
            msg = (
                f"{who} reads the channels {', '.join(roles)}; the screen has "
                f"{', '.join(self.channels)}: set screen.{missing[0]} to the channel's name"
            )
            raise InputError(msg)
        return [self.channels.index(role) for role in roles]


@dataclass(frozen=True)
class PlateCells:
    """The cells of one plate.

    Parameters
    ----------
    plate : str
    cells : Cells
    usable : array (cell,), bool
        Reason code 0.
    evaluated : array (cell,), bool
        In a field that takes part in the evaluation.
    """

    plate: str
    cells: Cells
    usable: npt.NDArray[np.bool_]
    evaluated: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Bank:
    """Donor crops or cell-free windows, in memory.

    Parameters
    ----------
    pool : Pool
    ids : array (localization, slot), uint64
    image : array (localization, slot, channel, y, x)
    mask : array (localization, slot, y, x), uint8
    range : array (localization, slot, channel, bound), float32
    """

    pool: Pool
    ids: npt.NDArray[np.uint64]
    image: npt.NDArray[Any]
    mask: npt.NDArray[np.uint8]
    range: npt.NDArray[np.float32]

    @cached_property
    def packed(self) -> npt.NDArray[np.uint8]:
        """Their own centre cells, as bits: (localization, slot, byte), uint8."""
        return pack(self.mask)


def read_pool(store: Store, node: str) -> Pool:
    """Return who is in the bank `node`."""
    sizes, protein, field = (
        store.read(f"{node}/{name}").astype(np.int64) for name in ("size", "protein", "field")
    )
    return Pool(sizes, protein, field)


_JOBS: dict[str, Job] = {}
_JOBS_KEPT = 2


def open_job(text: str) -> Job:
    """Return the job of its JSON text, the same object for the same text in this process."""
    if text not in _JOBS:
        values = json.loads(text)
        tokens = tuple((name, token) for name, token in values["tokens"])
        remember(Job(RunConfig.from_dict(values["config"]), tokens))
    return _JOBS[text]


def remember(job: Job) -> Job:
    """Keep a job for the units that this process does; the oldest are dropped."""
    _JOBS[job.text] = job
    while len(_JOBS) > _JOBS_KEPT:
        del _JOBS[next(iter(_JOBS))]
    return job
