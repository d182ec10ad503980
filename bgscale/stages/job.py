"""What every unit of a run needs to know, opened once per process.

A `Job` travels as JSON text; workers keep the last ones. Nothing large travels: screen, donor bank
and models are opened by the process that uses them.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from bgscale.config import RunConfig
from bgscale.errors import InputError
from bgscale.models.engine import Engine
from bgscale.results import Store
from bgscale.schema import CHANNEL_ROLES, Reason
from bgscale.screen import AnyScreen, open_screen
from bgscale.settings import RIM_PX, Cells, Ints, Pool, Setting, get_setting, pack

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class Job:
    """A run config, the tokens of its stages, how its models are run, and what they open.

    The tokens are there so that a process which outlives a store does not serve an older one. A
    model without an engine is run as it is written.
    """

    config: RunConfig
    tokens: tuple[tuple[str, str], ...] = ()
    engines: tuple[tuple[str, Engine], ...] = ()

    @property
    def text(self) -> str:
        """The job as JSON."""
        engines = {name: engine.to_config() for name, engine in self.engines}
        return json.dumps(
            {"config": self.config.to_config(), "tokens": self.tokens, "engines": engines}
        )

    @cached_property
    def store(self) -> Store:
        """The run store."""
        return Store(self.config.store)

    @cached_property
    def screen(self) -> AnyScreen:
        """The input screen."""
        section = self.config.screen
        opened = open_screen(
            section.path,
            plate_map=section.plate_map or None,
            pattern=section.pattern or None,
            class_column=section.class_column,
            protein=section.protein,
            cytosol=section.cytosol or None,
            nucleus=section.nucleus or None,
            mask=section.mask or None,
            time=section.time,
            z=section.z,
            pixel_size_um=section.pixel_size_um or None,
            intensity_scaling=section.intensity_scaling,
            proteins=section.proteins or None,
            limit=section.limit or None,
        )
        known = self.store.attrs().get("known") if self.store.exists() else None
        return opened.continued(**known) if known and opened.kind == "plates" else opened

    @cached_property
    def settings(self) -> tuple[Setting, ...]:
        """The background settings, in the order of the config."""
        found = (get_setting(name) for name in self.config.settings)
        if self.config.screen.intensity_scaling == "none":
            found = (replace(setting, scale=False) for setting in found)
        return tuple(found)

    @cached_property
    def channels(self) -> tuple[str, ...]:
        """Roles of the channels that the crops have."""
        section = self.config.screen
        return tuple(role for role in CHANNEL_ROLES if getattr(section, role))

    @cached_property
    def pixel_size_um(self) -> float:
        """Size of a pixel: what the config says, else what the plates say; 0: not known."""
        if self.config.screen.pixel_size_um or self.screen.kind == "crops":
            return self.config.screen.pixel_size_um
        sizes = {round(layout.pixel_size_um, 6) for layout in self.screen.layouts.values()}
        if len(sizes) > 1:
            shown = ", ".join(f"{size:g}" for size in sorted(sizes))
            msg = f"plates of several pixel sizes ({shown} um): run them apart"
            raise InputError(msg)
        return sizes.pop()

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
        protein, field = column["protein"].astype(np.int64), column["field"].astype(np.int64)
        cells = Cells(column["id"], protein, field, self.labels_of(protein))
        names = self.store.array(f"{node}/field").attrs["names"]
        here = self.in_fields(names, self.config.evaluation.fields)
        usable = (column["reason"] == Reason.OK) & (protein >= 0)
        return PlateCells(plate, cells, usable, here[field])

    def labels_of(self, protein: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """Return the classes of each cell's protein; of none (-1) no class."""
        return self.labels[protein] & (protein >= 0)[:, None]

    @cached_property
    def drawn_plates(self) -> tuple[str, ...]:
        """The plates that donors and experiment 1's cells are drawn from: the first ones."""
        return self.plates[: len(self.store.attrs()["drawn"]["plates"])]

    @cached_property
    def everyone(self) -> "PlateCells":
        """The cells of all plates, one plate after the other; so are their field codes.

        For a process that holds all cells anyway; others go plate by plate.
        """
        plates = self.plates
        self.in_fields(self.field_names, self.config.evaluation.fields, "evaluation.fields")
        sizes = [self.store.array(f"plates/{plate}/cells/id").shape[0] for plate in plates]
        starts = np.cumsum([0, *sizes]).tolist()
        n = starts[-1]
        ids, protein, field = np.empty(n, np.uint64), np.empty(n, np.int64), np.empty(n, np.int64)
        labels = np.empty((n, len(self.classes)), np.bool_)
        usable, evaluated = np.empty(n, np.bool_), np.empty(n, np.bool_)
        # plate by plate, so that no second copy of all is held
        for i, plate in enumerate(plates):
            table, here = self.cells(plate), slice(starts[i], starts[i + 1])
            ids[here], protein[here] = table.cells.ids, table.cells.protein
            field[here] = table.cells.field + self.first_fields[plate]
            labels[here] = table.cells.labels
            usable[here], evaluated[here] = table.usable, table.evaluated
        return PlateCells("", Cells(ids, protein, field, labels), usable, evaluated)

    def field_count(self, plate: str) -> int:
        """Return how many fields a plate has."""
        return len(self.store.array(f"plates/{plate}/cells/field").attrs["names"])

    @cached_property
    def field_names(self) -> list[str]:
        """Full names of the fields of all plates: plate/well/field."""
        names = (self.store.array(f"plates/{p}/cells/field").attrs["names"] for p in self.plates)
        return [name for own in names for name in own]

    @cached_property
    def first_fields(self) -> dict[str, int]:
        """Code that the first field of each plate has among those of all plates."""
        starts = np.cumsum([0, *(self.field_count(plate) for plate in self.plates)])
        return dict(zip(self.plates, starts[:-1].tolist(), strict=True))

    @cached_property
    def plate_of_field(self) -> Ints:
        """Number of the plate of each field code of all plates: (field,), int64."""
        return np.repeat(np.arange(len(self.plates)), [self.field_count(p) for p in self.plates])

    @property
    def has_windows(self) -> bool:
        """Whether cell-free windows were found in fields; crops screens have none."""
        return self.store.has(f"plates/{self.plates[0]}/windows")

    def parts(self, rows: Ints, sized_by: str = "cells/id") -> list[tuple[str, Ints, Ints]]:
        """Return, by plate, which of these rows of all plates it holds, and its own numbers.

        `sized_by` names the array whose length is a plate's number of rows.
        """
        sizes = [self.store.array(f"plates/{p}/{sized_by}").shape[0] for p in self.plates]
        starts = np.cumsum([0, *sizes])
        owner = np.searchsorted(starts, rows, "right") - 1
        found = []
        for i, plate in enumerate(self.plates):
            here = np.flatnonzero(owner == i)
            if len(here):
                found.append((plate, here, rows[here] - starts[i]))
        return found

    def read_rows(
        self, name: str, rows: Ints, *at: int, sized_by: str = "cells/id"
    ) -> npt.NDArray[Any]:
        """Return rows of all plates of an array that each has, such as "crops/image".

        `at` is where on the dims that follow.
        """
        like = self.store.array(f"plates/{self.plates[0]}/{name}")
        out = np.empty((len(rows), *like.shape[1 + len(at) :]), like.dtype)
        for plate, here, own in self.parts(rows, sized_by):
            out[here] = self.store.read_rows(f"plates/{plate}/{name}", own, *at)
        return out

    @lru_cache(maxsize=3)  # noqa: B019
    def bank(self, node: str) -> "Bank":
        """Return the donor bank `node` ("donors", "windows") or the centres of experiment 1."""
        image, mask, ids, bounds = (
            self.store.read(f"{node}/{name}") for name in ("image", "mask", "id", "range")
        )
        return Bank(read_pool(self.store, node), ids, image, mask, bounds)

    @staticmethod
    def in_fields(
        names: Sequence[str], wanted: Sequence[str], key: str = ""
    ) -> npt.NDArray[np.bool_]:
        """Return which fields (plate/well/field) are among the wanted ones; none means all.

        Raises
        ------
        InputError
            A wanted field is nowhere among them, and `key` says where it was asked for.
        """
        labels = [name.rsplit("/", 1)[-1] for name in names]
        for field in wanted:
            if key and field not in labels:
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

    @property
    def donors(self) -> npt.NDArray[Any]:
        """All slots, one after the other: (localization * slot, channel, y, x)."""
        return self.image.reshape(-1, *self.image.shape[2:])

    @cached_property
    def resident(self) -> dict[str, "Tensor"]:
        """What lies on a device already, by its name."""
        return {}

    @cached_property
    def packed(self) -> npt.NDArray[np.uint64]:
        """Their own centre cells, as bits: (localization, slot, word), uint64."""
        return pack(self.mask)

    @cached_property
    def packed_with_rim(self) -> npt.NDArray[np.uint64]:
        """The same with the rim that their blur lights."""
        return pack(self.mask, rim_px=RIM_PX)


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
        engines = tuple((n, Engine.from_config(how)) for n, how in values["engines"].items())
        remember(Job(RunConfig.from_dict(values["config"]), tokens, engines))
    return _JOBS[text]


def remember(job: Job) -> Job:
    """Keep a job for the units that this process does; the oldest are dropped."""
    _JOBS[job.text] = job
    while len(_JOBS) > _JOBS_KEPT:
        del _JOBS[next(iter(_JOBS))]
    return job
