"""A run: a screen, a store and a config; planned, executed, looked at.

`execute` does what is missing. A store that was made by another config is refused, with the list of
what would be redone, unless asked to redo it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from bgscale import pipeline
from bgscale.config import RunConfig, ScreenSection
from bgscale.distribute.execute import Listener, draining_signals, run_units
from bgscale.distribute.ledger import Ledger
from bgscale.errors import InputError, StoreMismatchError
from bgscale.pipeline import Stage
from bgscale.progress import Narrator, Silent
from bgscale.results import Store
from bgscale.schema import Reason
from bgscale.screen import AnyScreen
from bgscale.stages.embedding import model_attrs, model_of
from bgscale.stages.job import Job, remember
from bgscale.train import Training, model_to_train, train

if TYPE_CHECKING:
    from bgscale.distribute.execute import Client


_NODE_OF = {
    "embed": "plates/{2}/embeddings/{1}",
    "grid": "grid/{1}",
    "evaluate": "evaluation/{1}",
    "classifiers": "classifiers/{1}",
    "proportions": "proportions/{1}",
    "shifts": "shifts/{1}",
}
"""Where stages of a model keep what they make."""


@dataclass(frozen=True)
class StagePlan:
    """What is left to do of one stage."""

    stage: str
    purpose: str
    units: int | None
    done: int


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Parameters
    ----------
    store : path
    cells : int
        Cells of the screen.
    unusable : dict of str to int
        Cells that something was wrong with, by reason.
    set_aside : dict of str to int
        Cells that are left out by rule, such as those the border of a field cuts.
    failed_fields : dict of str to int
        Fields of plates that could not be used, or are not there, by reason.
    """

    store: Path
    cells: int
    unusable: dict[str, int]
    set_aside: dict[str, int]
    failed_fields: dict[str, int]

    @property
    def is_complete(self) -> bool:
        """Whether nothing was wrong with any field or cell."""
        return not (self.unusable or self.failed_fields)


class Run:
    """A screen analysed by a config into a store.

    Parameters
    ----------
    screen : Screen or PlateScreen
        From `open_screen`; it replaces what the config says of the screen.
    store : str or path
        Folder of the run store; it replaces the config's.
    config : RunConfig, optional
        By default all defaults: the model `tiny` with random weights.

    Raises
    ------
    InputError
        Unknown settings, models or channels, weights that do not fit; nothing was computed.
    """

    def __init__(
        self, screen: AnyScreen, store: str | Path, config: RunConfig | None = None
    ) -> None:
        section = ScreenSection(**screen.opened_with)
        changed = {"screen": section, "store": str(store)}
        self.config = (config or RunConfig()).model_copy(update=changed)
        self._stages = pipeline.stages(_with_screen(Job(self.config), screen))
        tokens = tuple((stage.name, stage.token) for stage in self._stages)
        self._job = _with_screen(Job(self.config, tokens), screen)

    @classmethod
    def from_config(cls, config: RunConfig) -> Self:
        """Return the run of a config alone, as `bgscale run run.toml` does it."""
        return cls(Job(config).screen, config.store, config)

    @property
    def screen(self) -> AnyScreen:
        """The input."""
        return self._job.screen

    @property
    def stages(self) -> Sequence[Stage]:
        """The stages, in their order."""
        return self._stages

    @property
    def store(self) -> Store:
        """The run store."""
        return self._job.store

    @property
    def ledger(self) -> Ledger:
        """The done-records."""
        return Ledger(self.config.store)

    def _made(self) -> dict[str, dict[str, Any]]:
        """Return token and number of units of each stage that the store holds."""
        made: dict[str, dict[str, Any]] = self.store.attrs()["stages"]
        return made

    def outdated(self, until: str | None = None) -> list[str]:
        """Return the stages of the store that were made by another config."""
        if not self.store.exists():
            return []
        made = self._made()
        stages = self._until(until)
        return [s.name for s in stages if s.name in made and made[s.name]["token"] != s.token]

    def check(self, *, redo: bool = False, until: str | None = None) -> None:
        """Raise what would stop a run, before anything is computed.

        Raises
        ------
        InputError
            Fewer than two classes, where they are to be told apart.
        StoreMismatchError
            The store was made by another config, and not `redo`.
        """
        classes = self.screen.classes
        if len(classes) < 2 and any(s.name == "donors" for s in self._until(until)):
            msg = (
                f"column {self.config.screen.class_column!r} has {len(classes)} class "
                f"({', '.join(classes)}); expected at least 2 to tell apart"
            )
            raise InputError(msg)
        outdated = self.outdated(until)
        if outdated and not redo:
            msg = (
                f"{self.store.path} was made by another config; these stages would be redone: "
                f"{', '.join(outdated)}. Run again with --redo to replace them, or choose another "
                "'store'"
            )
            raise StoreMismatchError(msg)

    def notices(self) -> list[str]:
        """Return what a reader of the results must know before they are made."""
        found = []
        if self.screen.kind == "plates" and not self._job.pixel_size_um:
            found.append(
                "the plates do not say how large a pixel is: cells are looked for as if it were "
                "0.2 um; set screen.pixel_size_um"
            )
        for name in self.config.models:
            attrs = model_attrs(self._job, model_of(self._job.text, name))
            if attrs["random_weights"]:
                found.append(
                    f"model {name!r} has random weights: its figures say nothing of a trained one"
                )
            if attrs["crops_enlarged_by"] != 1:
                factor = attrs["crops_enlarged_by"]
                found.append(f"model {name!r}: crops are enlarged {factor:.3g} times for it")
        return found

    def plan(self) -> list[StagePlan]:
        """Return what is left to do; computes nothing.

        `units` is None where the number is known only when an earlier stage is complete.
        """
        made = self._made() if self.store.exists() else {}
        plans = []
        for stage in self._stages:
            try:
                units = stage.units(self._job)
            except (OSError, StoreMismatchError):
                plans.append(StagePlan(stage.name, stage.purpose, None, 0))
                continue
            ready = made.get(stage.name, {}).get("token") == stage.token
            done = sum(map(self.ledger.is_done, units)) if ready else 0
            plans.append(StagePlan(stage.name, stage.purpose, len(units), done))
        return plans

    def describe_plan(self) -> str:
        """Return the plan as text: what is there, what is to do, what to beware of."""
        lines = [f"screen  {self.config.screen.path}: {self.screen.summary()}"]
        lines.append(f"store   {self.store.path}")
        lines += [f"note    {text}" for text in self.notices()]
        if self.outdated():
            lines.append(
                f"another config made: {', '.join(self.outdated())} (--redo replaces them)"
            )
        lines.append("")
        for plan in self.plan():
            units = "?" if plan.units is None else str(plan.units)
            lines.append(f"{plan.stage:<32}{plan.done:>6} of {units:>6} units done  {plan.purpose}")
        return "\n".join(lines)

    def execute(
        self,
        client: "Client | None" = None,
        *,
        redo: bool = False,
        listener: Listener | None = None,
        until: str | None = None,
    ) -> Outcome:
        """Do what is missing.

        Ctrl-C and SIGTERM drain: running units finish and are kept.

        Parameters
        ----------
        client : distributed.Client, optional
            From `bgscale.connect`; None runs the same functions here, one after the other.
        redo : bool
            Replace what another config has made.
        listener : Listener, optional
            Hears of progress.
        until : str, optional
            Kind of the last stage to do, such as "cut".

        Raises
        ------
        StoreMismatchError
            The store was made by another config and `redo` is not set.
        InputError, UnitError, DiskFullError, InterruptedRunError
            See `bgscale.distribute.execute.run_units`.
        """
        self.check(redo=redo, until=until)
        if not self.store.exists():
            self.store.create({"stages": {}})
        self.store.sweep()
        self._forget(self.outdated(until))
        for plate in set(self.store.attrs().get("plates", [])) - set(self.screen.plates):
            self.store.remove(f"plates/{plate}")
        planned = [stage.name for stage in self._stages]
        self.store.update_attrs(
            {
                "plates": list(self.screen.plates),
                "config": self.config.to_config(),
                "versions": versions(),
                "planned": planned,
            }
        )
        remember(self._job)
        with draining_signals() as stop:
            for stage in self._until(until):
                self._prepare(stage)
                run_units(
                    pipeline.work,
                    stage.units(self._job),
                    self._job.text,
                    ledger=self.ledger,
                    client=client,
                    listener=listener or Silent(),
                    purpose=stage.purpose,
                    stop=stop,
                )
        return outcome(self.store)

    def _until(self, kind: str | None) -> list[Stage]:
        """Return the stages up to the last one of a kind."""
        kinds = [stage.name.partition("/")[0] for stage in self._stages]
        return self._stages if kind is None else self._stages[: kinds.index(kind) + 1]

    def _prepare(self, stage: Stage) -> None:
        """Create the stage's arrays, once; it is entered as made when all are there."""
        made = self._made()
        if made.get(stage.name, {}).get("token") != stage.token:
            for node in stage.nodes:
                self.store.remove(node)
            self.ledger.forget(stage.name)
            stage.prepare(self._job)
            units = len(stage.units(self._job))
            made[stage.name] = {"token": stage.token, "units": units, "purpose": stage.purpose}
            # in the order of the stages, whatever was redone: equal runs have equal stores
            ordered = {s.name: made.pop(s.name) for s in self._stages if s.name in made} | made
            self.store.update_attrs({"stages": ordered})

    def _forget(self, outdated: Sequence[str]) -> None:
        made = self._made()
        if "bank" in outdated:
            # results of models that this config no longer has would stand on other donors
            known = {stage.name for stage in self._stages}
            for name in [n for n in made if n not in known]:
                parts = name.split("/")
                self.ledger.forget(name)
                if parts[0] in _NODE_OF:
                    self.store.remove(_NODE_OF[parts[0]].format(*parts))
                del made[name]
        for stage in self._stages:
            if stage.name in outdated:
                self.ledger.forget(stage.name)
                for node in stage.nodes:
                    self.store.remove(node)
        kept = {name: entry for name, entry in made.items() if name not in outdated}
        self.store.update_attrs({"stages": kept})


def _with_screen(job: Job, screen: AnyScreen) -> Job:
    """Return the job with a screen that is open already."""
    job.__dict__["screen"] = screen
    return job


def train_model(
    config: RunConfig,
    client: "Client | None" = None,
    *,
    listener: Narrator | None = None,
    restart: bool = False,
    redo: bool = False,
) -> Training:
    """Cut the screen's cells, as far as that is not done, and fit a model on them.

    Parameters
    ----------
    config : RunConfig
        ``training`` says which model, on which fields, how long.
    client : distributed.Client, optional
        Cuts cells; the fit runs here.
    listener : Narrator, optional
    restart : bool
        Forget the checkpoint of an earlier training.
    redo : bool
        Cut the cells anew where another config has cut them.
    """
    name = model_to_train(config)
    untrained = config.models[name].model_copy(update={"weights": ""})
    run = Run.from_config(config.model_copy(update={"models": {name: untrained}}))
    run.execute(client, redo=redo, listener=listener, until="cut")
    job = _with_screen(Job(config), run.screen)
    return train(job, restart=restart, on_epoch=listener.epoch_done if listener else None)


def outcome(store: Store) -> Outcome:
    """Return how many cells a store has, and what of cells and fields cannot be used, by reason."""
    cells = np.zeros(max(Reason) + 1, np.int64)
    fields = np.zeros_like(cells)
    for plate in store.attrs()["plates"]:
        if store.has(f"plates/{plate}/cells"):
            cells += np.bincount(store.read(f"plates/{plate}/cells/reason"), minlength=len(cells))
        if store.has(f"plates/{plate}/fields"):
            missing = [p["reason"] for p in store.attrs(f"plates/{plate}/fields")["problems"]]
            reason = store.read(f"plates/{plate}/fields/reason")
            fields += np.bincount([*reason, *missing], minlength=len(cells))
    bad = [r for r in Reason if r.is_failure]
    return Outcome(
        store.path,
        int(cells.sum()),
        {r.text: int(cells[r]) for r in bad if cells[r]},
        {r.text: int(cells[r]) for r in Reason if r and r not in bad and cells[r]},
        {r.text: int(fields[r]) for r in bad if fields[r]},
    )


def versions() -> dict[str, str]:
    """Return the versions of what computes."""
    from importlib.metadata import version

    names = ("bgscale", "numpy", "torch", "zarr", "scikit-learn", "scikit-image", "dask", "xarray")
    return {name: version(name) for name in names}


def status(path: str | Path) -> dict[str, Any]:
    """Return, per stage of a store, how many units there are and are done, by the ledger alone."""
    store, ledger = Store(path), Ledger(str(path))
    attrs = store.attrs()
    stages: dict[str, dict[str, Any]] = {
        name: {**entry, "done": ledger.count(name, entry["token"])}
        for name, entry in attrs["stages"].items()
    }
    # how many units these have is known when the stage before is complete
    ahead = (name for name in attrs.get("planned", []) if name not in stages)
    stages |= {name: {"token": None, "units": None, "purpose": "", "done": 0} for name in ahead}
    return {"store": str(store.path), "stages": stages}
