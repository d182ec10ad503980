"""A run: a screen, a store and a config; planned, executed.

`execute` does what is missing. A store that was made by another config, or from another input, is
refused, with the list of what would be redone, unless asked to redo it. What follows from plates
that came later is not asked about.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from bgscale import pipeline
from bgscale.config import RunConfig, ScreenSection
from bgscale.distribute.cluster import gpu_resources
from bgscale.distribute.execute import draining_signals, thread_memory
from bgscale.distribute.ledger import Ledger
from bgscale.distribute.listener import Listener, Silent
from bgscale.distribute.lock import DEAD_AFTER_S, held
from bgscale.distribute.parts import Part, present
from bgscale.errors import InputError
from bgscale.models.engine import Engine
from bgscale.pipeline import Stage
from bgscale.places.space import check_space
from bgscale.results import Store
from bgscale.run import engines
from bgscale.run import growth as growing
from bgscale.run.costs import Costs, costs_of
from bgscale.run.estimate import sizes_of
from bgscale.run.groups import Means, do_group
from bgscale.run.outcome import Outcome, outcome, versions
from bgscale.run.plan import (
    StagePlan,
    check_memory,
    describe,
    left_to_write,
    notices,
    plan_stages,
)
from bgscale.run.rates import Rates
from bgscale.run.upkeep import forget, plain, state
from bgscale.screen import AnyScreen
from bgscale.stages.job import Job, remember

if TYPE_CHECKING:
    from bgscale.distribute.execute import Client
    from bgscale.distribute.units import Unit

PART_PATIENCE_S = 600.0
"""A part waits so long for another one that prepares a stage: it may have died meanwhile."""


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
        self._screen = screen
        self._failed: dict[str, list[int]] = {}
        self._lost: dict[str, list[Unit]] = {}
        self._engines: engines.Facts = {}
        self._lay_out()

    def _lay_out(self, *, redraw: bool = False, mended: Collection[str] = ()) -> None:
        """Work out stages and tokens, as the store that is there binds them."""
        attrs = self.store.attrs() if self.store.exists() else {"stages": {}}
        known = attrs.get("known")
        if known and self._screen.kind == "plates":
            self._screen = self._screen.continued(**known)
        self._lay_out_again = partial(self._lay_out, redraw=redraw, mended=mended)
        self._engines = engines.kept(self.config, attrs.get("engines", {}) | self._engines)
        job = self.job_of(self.config)
        before = growing.drawn_before(attrs, self._screen.plates)
        again = {*before.attempts, *mended}
        attempts = {n: before.attempts.get(n, 0) + (n in mended) for n in sorted(again)}
        bound = replace(before, attempts=attempts)
        free = replace(bound, drawn={}, proteins=0)
        stages = pipeline.stages(job, bound)
        if not growing.holds(stages, attrs["stages"], bound, mended):
            bound, stages = free, pipeline.stages(job, free)
        self._asked = set(growing.asked_about(stages, attrs["stages"], mended))
        if redraw and bound.drawn:
            bound, stages = free, pipeline.stages(job, free)
        tokens = {stage.name: stage.token for stage in stages}
        drawn = {plate: tokens[f"ranges/{plate}"] for plate in self._screen.plates}
        self._stages = stages
        self._growth = bound if bound.drawn else replace(
            bound, drawn=drawn, proteins=len(self._screen.proteins)
        )  # fmt: skip
        self._job = self.job_of(self.config, [(s.name, s.token) for s in self._stages])

    def job_of(self, config: RunConfig, tokens: Sequence[tuple[str, str]] = ()) -> Job:
        """Return a job on the screen that is open already."""
        job = self.plain_job(config)
        how = (
            (name, Engine.from_config(self._engines[name]["engine"]))
            if name in self._engines
            else (name, engines.expected(job, name))
            for name in config.models
        )
        job = Job(config, tuple(tokens), tuple(how))
        job.__dict__["screen"] = self._screen
        return job

    def plain_job(self, config: RunConfig) -> Job:
        """Return a job whose models have no engines: their weights need not be there yet."""
        job = Job(config)
        job.__dict__["screen"] = self._screen
        return job

    @classmethod
    def from_config(cls, config: RunConfig) -> Self:
        """Return the run of a config alone, as `bgscale run run.toml` does it."""
        return cls(Job(config).screen, config.store, config)

    @property
    def screen(self) -> AnyScreen:
        """The input."""
        return self._screen

    @property
    def stages(self) -> Sequence[Stage]:
        """The stages, in their order."""
        return self._stages

    @property
    def store(self) -> Store:
        """The run store."""
        return Store(self.config.store)

    @property
    def ledger(self) -> Ledger:
        """The done-records."""
        return Ledger(self.config.store)

    def _made(self) -> dict[str, dict[str, Any]]:
        """Return token and number of units of each stage that the store holds."""
        made: dict[str, dict[str, Any]] = self.store.attrs()["stages"]
        return made

    def outdated(self, until: str | None = None) -> list[str]:
        """Return the stages of the store that would be made anew."""
        if not self.store.exists():
            return []
        made = self._made()
        stages = self._until(until)
        return [s.name for s in stages if s.name in made and made[s.name]["token"] != s.token]

    def check(
        self,
        *,
        redo: bool = False,
        retry_failed: bool = False,
        redraw: bool = False,
        until: str | None = None,
    ) -> list[str]:
        """Raise what would stop `execute`, before anything is computed.

        Returns
        -------
        list of str
            Of `retry_failed`, the plates that will be made anew, and the stages of lost units.

        Raises
        ------
        InputError
            Fewer than two classes, where they are to be told apart.
        StoreMismatchError
            The store was made by another config, or from another input or plates that are gone,
            and not `redo`.
        """
        self._failed, self._lost = {}, {}
        if retry_failed and self.store.exists():
            self._failed, self._lost = growing.retried(self._job, self.store, self._stages)
        self._lay_out(redraw=redraw, mended=[*self._failed, *self._lost])
        classes = self.screen.classes
        if len(classes) < 2 and any(s.name == "donors" for s in self._until(until)):
            msg = (
                f"column {self.config.screen.class_column!r} has {len(classes)} class "
                f"({', '.join(classes)}); expected at least 2 to tell apart"
            )
            raise InputError(msg)
        if redo or not self.store.exists():
            return [*self._failed, *self._lost]
        asked = any(stage.name in self._asked for stage in self._until(until))
        redone = self.outdated(until) if asked else []
        growing.refuse_other(self.config, self.screen.plates, self.store.attrs(), redone)
        return [*self._failed, *self._lost]

    def notices(self) -> list[str]:
        """Return what a reader of the results must know before they are made."""
        return notices(self._job, [p for p in self.screen.plates if p not in self._growth.drawn])

    def plan(self) -> list[StagePlan]:
        """Return what is left to do; computes nothing.

        `units` is None where the number is known only when an earlier stage is complete.
        """
        made = self._made() if self.store.exists() else {}
        return plan_stages(self._job, self._stages, made, self.ledger)

    def costs(self, rates: Rates | None = None) -> Costs:
        """Return how long what is left takes: by this run's own units, `rates`, the package's."""
        return costs_of(self._job, self.plan(), self.ledger, rates)

    def describe_plan(self, costs: Costs | None = None) -> str:
        """Return the plan as text: what is there, what is to do, what to beware of."""
        lines = [f"screen  {self.config.screen.path}: {self.screen.summary()}"]
        lines.append(f"store   {self.config.store}")
        for name, engine in self._job.engines:
            chosen = "" if name in self._engines else "; a probe may choose another one"
            lines.append(f"model   {name}: {engine}{chosen}")
        lines += [f"note    {text}" for text in self.notices()]
        if self.outdated():
            why = "another config or input made" if self._asked else "made anew, with what is new"
            hint = " (--redo replaces them)" if self._asked else ""
            lines.append(f"{why}: {', '.join(self.outdated())}{hint}")
        costs = costs or self.costs()
        return "\n".join(
            [*lines, "", describe(costs.plan, sizes_of(self._job), costs.hours()), costs.total()]
        )

    def execute(
        self,
        client: "Client | None" = None,
        *,
        redo: bool = False,
        retry_failed: bool = False,
        redraw: bool = False,
        listener: Listener | None = None,
        until: str | None = None,
        part: Part | None = None,
        patience_s: float = 0.0,
    ) -> Outcome:
        """Do what is missing.

        Ctrl-C and SIGTERM drain: running units finish and are kept.

        Parameters
        ----------
        client : distributed.Client, optional
            From `bgscale.connect`; None runs the same functions here, one after the other.
        redo : bool
            Replace what another config has made.
        retry_failed : bool
            Try the fields again that failed, and make their plates anew where any of them can be
            used now. The donors stay.
        redraw : bool
            Draw donors and experiment 1's cells anew, from all plates.
        listener : Listener, optional
            Hears of progress.
        until : str, optional
            Kind of the last stage to do, such as "cut".
        part : Part, optional
            This process is one of several that share all units, without a scheduler.
        patience_s : float
            How long to wait for another run of the store to end.

        Raises
        ------
        StoreMismatchError
            The store was made by another config and `redo` is not set.
        InputError
            Another run is writing the store.
        InputError, UnitError, DiskFullError, InterruptedRunError
            See `bgscale.distribute.execute.run_units`.
        """
        if part is not None and (client is not None or redo or retry_failed or redraw):
            msg = (
                "a part of a run has no cluster, and does not redo, retry or redraw: do that in a "
                "run of its own, before its parts are started"
            )
            raise InputError(msg)
        listener = listener or Silent()
        self.check(redo=redo, retry_failed=retry_failed, redraw=redraw, until=until)
        if self.is_complete(until):
            return outcome(self.config.store)
        plan = [item for item in self.plan() if item.stage in {s.name for s in self._until(until)}]
        check_space(self.config.store, left_to_write(plan))
        check_memory(plan, thread_memory(client))
        gpu = gpu_resources(client)
        with draining_signals() as stop, ExitStack() as kept:
            # parts of a run hold the store only to begin, and to prepare a group of stages
            lock: Callable[[], AbstractContextManager[object]] = partial(
                held,
                self.config.store,
                notice=listener.notice,
                on_lost=stop.request,
                patience_s=max(patience_s, PART_PATIENCE_S if part else 0),
            )
            if part is None:
                kept.enter_context(lock())
                lock = nullcontext
            kept.enter_context(present(self.config.store, part))
            with lock():
                self._choose_engines(client, gpu, until, listener, redo=redo)
                self._begin(until, silent_s=DEAD_AFTER_S if part else 0)
            means = Means(listener, stop, lock, client, gpu, part)
            for group in pipeline.groups(self._until(until)):
                do_group(self.store, self._job, group, self._stages, means)
            if part is None:
                # of workers that were killed
                self.store.sweep()
        return outcome(self.config.store)

    def is_complete(self, until: str | None = None) -> bool:
        """Whether nothing is left to do or to write: then also a read-only store will do."""
        if not self.store.exists() or self.outdated(until):
            return False
        attrs = self.store.attrs()
        made, stages = attrs["stages"], self._until(until)
        facts = plain({k: v for k, v in self._facts().items() if k != "versions"})
        if any(attrs.get(k) != v for k, v in facts.items()):
            return False
        if not all(stage.name in made for stage in stages):
            return False
        units = [unit for stage in stages for unit in stage.units(self._job)]
        return len(self.ledger.done(units)) == len(units)

    def _choose_engines(
        self,
        client: "Client | None",
        gpu: Mapping[str, float] | None,
        until: str | None,
        listener: Listener,
        *,
        redo: bool,
    ) -> None:
        """Choose how models are run, where that is open, and lay the stages out by it."""
        if not any(stage.embeds for stage in self._until(until)):
            return
        # another part of the run may have decided meanwhile
        attrs = self.store.attrs() if self.store.exists() else {}
        known = engines.kept(self.config, attrs.get("engines", {}))
        if redo and client is None:
            known = {name: fact for name, fact in known.items() if engines.fits_here(fact)}
        missing = [name for name in self.config.models if name not in known]
        self._engines = known | engines.choose(self._job, missing, client, gpu)
        for name in missing:
            listener.notice(engines.said(name, self._engines[name]))
        self._lay_out_again()

    def _begin(self, until: str | None, silent_s: float) -> None:
        """Bring the store to where this run begins: without what it will make anew.

        What others write at the same time is spared for `silent_s`.
        """
        if not self.store.exists():
            # whole at once: another part may look at it at any moment
            self.store.create({"stages": {}, **plain(self._facts())})
        self.store.sweep(silent_s)
        self.ledger.sweep(silent_s)
        forget(self.store, self._stages, self.outdated(until), self.screen.plates)
        state(self.store, self._facts())
        growing.forget_retried(self._job, self.ledger, self._stages, self._failed, self._lost)
        remember(self._job)

    def _facts(self) -> dict[str, Any]:
        """Return what the root of the store says of its run."""
        screen = self.screen
        return {
            "plates": list(screen.plates),
            "known": {
                "plates": list(screen.plates),
                "proteins": list(screen.proteins),
                "classes": list(screen.classes),
            },
            "drawn": {"plates": dict(self._growth.drawn), "proteins": self._growth.proteins},
            "attempts": dict(self._growth.attempts),
            "samples": growing.samples(screen, self._growth),
            "config": self.config.to_config(),
            "engines": self._engines,
            "versions": versions(),
            "planned": [stage.name for stage in self._stages],
        }

    def _until(self, kind: str | None) -> list[Stage]:
        """Return the stages up to the last one of a kind."""
        if kind is None:
            return self._stages
        places = [i for i, s in enumerate(self._stages) if s.name.partition("/")[0] == kind]
        return self._stages[: places[-1] + 1]
