"""Run the units of stages, in a loop or on a Dask cluster: the same function, the same bytes.

The engine prints nothing. It reports to a `Listener`, keeps a bounded window of units in flight,
and drains when it is told to stop: no new units, running ones finish. A unit that cannot be done
(it raises, or kills its worker each time) is set aside where its stage can mark what is lost, and
the others go on.
"""

import errno
import signal
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from itertools import islice
from typing import Any, TypeAlias, TypeVar

from distributed import Client as Client
from distributed import KilledWorker, as_completed

from bgscale.distribute.account import Account, Stop, few, said
from bgscale.distribute.ledger import Files, Ledger
from bgscale.distribute.listener import Listener
from bgscale.distribute.lost import scheduler_needed
from bgscale.distribute.parts import Part, share
from bgscale.distribute.units import Unit
from bgscale.errors import BgscaleError, DiskFullError, InputError, InterruptedRunError, UnitError

UNITS_IN_FLIGHT_PER_THREAD = 3
WINDOW_LASTS_S = 10.0

Answer = TypeVar("Answer")

Work: TypeAlias = Callable[[Unit, str], tuple[Files, dict[str, Any]]]
"""Does a unit of the job (its JSON description); returns the files it wrote and a summary."""


@contextmanager
def draining_signals() -> Iterator[Stop]:
    """Within the block, the first Ctrl-C or SIGTERM drains; a second one interrupts at once."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def handle(number: int, _frame: object) -> None:
        if stop:
            raise KeyboardInterrupt
        stop.request(signal.Signals(number).name)

    before = {s: signal.signal(s, handle) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def do_unit(work: Work, unit: Unit, job: str, ledger: Ledger) -> dict[str, Any]:
    """Do one unit and record it; runs in the worker."""
    with _full_disk_said(unit.name):
        files, summary = work(unit, job)
        ledger.complete(unit, files, summary)
    return summary


@contextmanager
def _full_disk_said(what: str) -> Iterator[None]:
    try:
        yield
    except BgscaleError:
        raise
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            msg = f"no space left while writing {what}: free some, then run again"
            raise DiskFullError(msg) from error
        raise


def _nothing(stage: str) -> None:
    """Do nothing with a stage that is complete."""


def run_units(
    work: Work,
    units: Sequence[Unit],
    job: str,
    *,
    ledger: Ledger,
    client: Client | None = None,
    listener: Listener,
    called: str = "",
    purpose: str = "",
    stop: Stop | None = None,
    set_aside: Work | None = None,
    resources: Mapping[str, float] | None = None,
    part: Part | None = None,
    complete: Callable[[str], None] = _nothing,
) -> None:
    """Do the units that are not done yet.

    Parameters
    ----------
    work : callable
        A module-level function; see `Work`.
    units : sequence of Unit
        Of one stage, or of several that do not depend on each other, one after the other.
    job : str
        What every unit needs to know, as JSON; it is hashed and cached by the worker.
    client : distributed.Client, optional
        None runs them here, one after the other.
    called, purpose : str
        What the listener hears: a name, by default the stage's, and words for people.
    set_aside : callable, optional
        Marks what a unit would have written as lost, so that the stage is complete without it; runs
        here. Its summary says why, as "set_aside".
    resources : mapping, optional
        What a worker must have, such as {"GPU": 1}.
    part : Part, optional
        This process is one of several that share the units; without `client`.
    complete : callable, optional
        Is told the name of each stage that is complete: when it is, by a part when all are; not
        after a stop.

    Raises
    ------
    UnitError
        More units of a stage failed than could be set aside. Unless it was stopped meanwhile, the
        others of that stage have been done; when they were, nothing more was begun.
    InputError, DiskFullError
        As the unit raised it.
    InterruptedRunError
        `stop` was set: what was running has finished and is recorded. Or the scheduler is gone.
    """
    if not units:
        return
    done = ledger.done(units)
    todo = [unit for unit in units if unit not in done]
    called = called or units[0].stage
    listener.stage_started(called, purpose or called, len(units), len(units) - len(todo))
    # not `stop or Stop()`: a stop that nobody asked for is false
    stop = Stop() if stop is None else stop
    fatal: Exception | None = None

    def mark(unit: Unit, why: str) -> None:
        assert set_aside is not None
        # another part may have been luckier
        if part is None or not ledger.is_done(unit):
            marked = partial(_marked, set_aside, why)
            listener.unit_done(unit, do_unit(marked, unit, job, ledger))

    def settled(how: Callable[[], bool]) -> bool:
        nonlocal fatal
        try:
            return how()
        except Exception as error:  # noqa: BLE001  raised when what is running has finished
            fatal = fatal or error
            stop.request("error")
            return False

    def finish(stage: str) -> bool:
        with _full_disk_said(stage):
            complete(stage)
        return True

    mine = todo if part is None else [u for i, u in enumerate(units) if part.owns(i)]
    mark_it = None if set_aside is None else mark
    account = Account(units, [u for u in mine if u not in done], stop, mark_it)
    begun = {unit.stage for unit in todo}
    for stage in account.sizes:
        # what parts do is known only when all is done
        if stage not in begun and part is None and not stop:
            settled(partial(finish, stage))
    if client is not None:
        outcomes = _on_cluster(client, work, todo, job, ledger, stop, resources, account.sizes)
    elif part is not None:
        do = partial(_outcome_here, work, job=job, ledger=ledger)
        idle = partial(settled, account.settle)
        outcomes = share(units, done, ledger, part, do, stopped=lambda: bool(stop), idle=idle)
    else:
        outcomes = _here(work, todo, job, ledger, stop)
    for unit, outcome in outcomes:
        if isinstance(outcome, (InputError, DiskFullError, InterruptedRunError)):
            fatal = fatal or outcome
            stop.request("error")
            continue
        failed = isinstance(outcome, BaseException)
        if failed:
            listener.unit_failed(unit, said(outcome))
        elif outcome is not None:
            listener.unit_done(unit, outcome)
        note = partial(account.note, unit, outcome if failed else None)
        if settled(note) and part is None and not stop:
            settled(partial(finish, unit.stage))
    if part is not None and settled(account.settle) and not stop:
        for stage in account.sizes:
            settled(partial(finish, stage))
    listener.stage_finished(called)
    if fatal is not None:
        raise fatal
    if account.given_up:
        unit, cause = account.failures[0]
        msg = (
            f"{len(account.failures)} of {len(todo)} units failed; the first, {unit.name}: "
            f"{said(cause)}"
        )
        raise UnitError(msg) from cause
    if stop:
        msg = f"stopped by {stop.requested}; what was done is kept: run again to go on"
        raise InterruptedRunError(msg)


def _marked(set_aside: Work, why: str, unit: Unit, job: str) -> tuple[Files, dict[str, Any]]:
    files, summary = set_aside(unit, job)
    return files, {**summary, "set_aside": why}


def _here(
    work: Work, todo: Sequence[Unit], job: str, ledger: Ledger, stop: Stop
) -> Iterator[tuple[Unit, Any]]:
    for unit in todo:
        if stop:
            return
        yield unit, _outcome_here(work, unit, job=job, ledger=ledger)


def _outcome_here(work: Work, unit: Unit, *, job: str, ledger: Ledger) -> Any:
    try:
        return do_unit(work, unit, job, ledger)
    except Exception as error:  # noqa: BLE001  the caller sorts and raises it
        return error


def _on_cluster(
    client: Client,
    work: Work,
    todo: Sequence[Unit],
    job: str,
    ledger: Ledger,
    stop: Stop,
    resources: Mapping[str, float] | None,
    sizes: Mapping[str, int],
) -> Iterator[tuple[Unit, Any]]:
    batch = uuid.uuid4().hex
    do = partial(_do_unless_told, batch, work, job, ledger)
    flight = partial(_flight, client, do, batch=batch, stop=stop, resources=resources)
    killed = Counter[str]()
    blamed: list[tuple[Unit, Any]] = []
    for unit, outcome in flight(todo, _Window(client, resources).size):
        if not isinstance(outcome, KilledWorker):
            yield unit, outcome
            continue
        blamed.append((unit, outcome))
        killed[unit.stage] += 1
        if killed[unit.stage] > few(sizes[unit.stage]):
            yield from (one for one in blamed if one[0].stage == unit.stage)
            blamed = [one for one in blamed if one[0].stage != unit.stage]
    # Dask blames every unit that a lost worker held: alone, only the unit itself can have killed it
    if not stop:
        yield from flight([unit for unit, _ in blamed], lambda: 1)


def _flight(
    client: Client,
    do: Callable[[Unit], Any],
    todo: Sequence[Unit],
    size: Callable[[], int],
    *,
    batch: str,
    stop: Stop,
    resources: Mapping[str, float] | None,
) -> Iterator[tuple[Unit, Any]]:
    """Yield units and what became of them; no more than `size()` are in flight."""
    waiting = iter(todo)
    asked = dict(resources) if resources else None
    running: Any = as_completed(loop=client.loop)  # type: ignore[no-untyped-call]
    owners: dict[Any, Unit] = {}
    told = False

    def fill() -> None:
        with scheduler_needed(client):
            room = 0 if stop else max(size() - len(owners), 0)
            units = list(islice(waiting, room))
            if units:
                # one group of keys for all: of many small ones the scheduler would queue nothing
                keys = [f"{_do_unless_told.__name__}-{uuid.uuid4()}" for _ in units]
                futures = client.map(do, units, key=keys, pure=False, resources=asked)
                owners.update(zip(keys, units, strict=True))
                running.update(futures)

    fill()
    # what has finished meanwhile is taken together: each question to the scheduler costs about 1 ms
    for futures in running.batches():
        finished = [(future, owners.pop(future.key)) for future in futures]
        for unit, outcome in _outcomes(client, finished):
            if outcome is not None:
                yield unit, outcome
        for future in futures:
            future.release()
        fill()
        if stop and not told:
            told = True
            _tell(client, batch)


class _Window:
    """How many units may be in flight: workers come and go while a stage lasts."""

    def __init__(self, client: Client, resources: Mapping[str, float] | None) -> None:
        self._client, self._resources = client, resources
        self._size = self._asked = 0.0

    def size(self) -> int:
        if not self._asked or time.monotonic() - self._asked > WINDOW_LASTS_S:
            threads = max(_threads(self._client, self._resources), 1)
            self._size = threads * UNITS_IN_FLIGHT_PER_THREAD
            self._asked = time.monotonic()
        return int(self._size)


_TOLD: set[str] = set()
"""Batches of which this worker process begins no further unit."""


def _do_unless_told(
    batch: str, work: Work, job: str, ledger: Ledger, unit: Unit
) -> dict[str, Any] | None:
    return None if batch in _TOLD else do_unit(work, unit, job, ledger)


def _tell(client: Client, batch: str) -> None:
    """Let workers begin no further unit: a job that is told to end has a minute or so."""
    # what a worker that does not answer has in its queue is done as usual
    with suppress(InterruptedRunError), scheduler_needed(client):
        client.run(_hear, batch, on_error="ignore")


def _hear(batch: str) -> None:
    _TOLD.add(batch)


def ask(
    client: Client | None,
    question: Callable[..., Answer],
    *arguments: Any,
    resources: Mapping[str, float] | None = None,
) -> Answer:
    """Ask a worker that has these resources; without a client this process."""
    if client is None:
        return question(*arguments)
    asked = dict(resources) if resources else None
    with scheduler_needed(client):
        future = client.submit(question, *arguments, pure=False, resources=asked)
        return future.result()


def thread_memory(client: Client | None) -> float | None:
    """Return the memory that a unit has, in bytes: of a thread of the smallest worker."""
    if client is None:
        return None
    with scheduler_needed(client):
        workers = client.scheduler_info(n_workers=-1)["workers"].values()
    limits = [worker["memory_limit"] / worker["nthreads"] for worker in workers]
    return min((limit for limit in limits if limit), default=None)


def _threads(client: Client, resources: Mapping[str, float] | None) -> int:
    """Return how many units can run at once."""
    if not resources:
        return sum(client.nthreads().values())  # type: ignore[no-untyped-call]
    workers = client.scheduler_info(n_workers=-1)["workers"].values()
    return sum(
        min(int(worker["resources"].get(name, 0) // need) for name, need in resources.items())
        for worker in workers
    )


def _outcomes(client: Client, finished: Sequence[tuple[Any, Unit]]) -> Iterator[tuple[Unit, Any]]:
    """Yield what became of units that ended: summary, or what was raised; None: not begun."""
    good = {future.key: future for future, _ in finished if future.status == "finished"}
    with scheduler_needed(client):
        summaries = client.gather(good, errors="skip") if good else {}  # type: ignore[no-untyped-call]
    for future, unit in finished:
        outcome = summaries.get(future.key)
        if outcome is None:
            with scheduler_needed(client):
                outcome = _outcome(future)
        yield unit, outcome


def _outcome(future: Any) -> Any:
    """Return the unit's summary, or what it raised; None where it was not begun."""
    error = future.exception()
    if error is not None:
        return error
    try:
        return future.result()
    except Exception as broken:
        # a summary that is lost with its worker is made again, and then the unit may raise
        if future.status == "error":
            return broken
        raise
