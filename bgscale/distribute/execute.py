"""Run the units of one stage, in a loop or on a Dask cluster: the same function, the same bytes.

The engine prints nothing. It reports to a `Listener`, keeps a bounded window of units in flight,
and drains when it is told to stop: no new units, running ones finish.
"""

import errno
import signal
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from distributed import Client as Client
from distributed import as_completed

from bgscale.distribute.ledger import Ledger
from bgscale.distribute.units import Unit
from bgscale.errors import BgscaleError, DiskFullError, InputError, InterruptedRunError, UnitError

UNITS_IN_FLIGHT_PER_THREAD = 3

Work: TypeAlias = Callable[[Unit, str], tuple[list[str], dict[str, Any]]]
"""Does a unit of the job (its JSON description); returns the files it wrote and a summary."""


class Listener(Protocol):
    """Hears what happens; the progress bar, the log and the tests' counters are listeners."""

    def stage_started(self, stage: str, purpose: str, units: int, done: int) -> None:
        """Hear of `units` in all, of which `done` were there already; `purpose` is for people."""

    def unit_done(self, unit: Unit, summary: dict[str, Any]) -> None:
        """Hear that a unit is complete."""

    def stage_finished(self, stage: str) -> None:
        """Hear that no unit of the stage is left, or that the run stops."""


@dataclass
class Stop:
    """Set by Ctrl-C or SIGTERM; the run drains. Without a lock: signal handlers set it."""

    requested: str = ""

    def request(self, reason: str) -> None:
        """Ask the run to finish the running units and end."""
        self.requested = reason

    def __bool__(self) -> bool:
        return bool(self.requested)


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
    try:
        files, summary = work(unit, job)
        ledger.complete(unit, files, summary)
    except BgscaleError:
        raise
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            msg = f"no space left while writing {unit.name}: free some, then run again"
            raise DiskFullError(msg) from error
        raise
    return summary


def run_units(
    work: Work,
    units: Sequence[Unit],
    job: str,
    *,
    ledger: Ledger,
    client: Client | None = None,
    listener: Listener,
    purpose: str = "",
    stop: Stop | None = None,
) -> None:
    """Do the units that are not done yet.

    Parameters
    ----------
    work : callable
        A module-level function; see `Work`.
    units : sequence of Unit
        Of one stage.
    job : str
        What every unit needs to know, as JSON; it is hashed and cached by the worker.
    client : distributed.Client, optional
        None runs them here, one after the other.

    Raises
    ------
    UnitError
        A unit failed; the others of the stage have been done.
    InputError, DiskFullError
        As the unit raised it.
    InterruptedRunError
        `stop` was set: what was running has finished and is recorded. Or the scheduler is gone.
    """
    if not units:
        return
    todo = [unit for unit in units if not ledger.is_done(unit)]
    stage = units[0].stage
    listener.stage_started(stage, purpose or stage, len(units), len(units) - len(todo))
    # not `stop or Stop()`: a stop that nobody asked for is false
    stop = Stop() if stop is None else stop
    outcomes = (
        _here(work, todo, job, ledger, stop)
        if client is None
        else _on_cluster(client, work, todo, job, ledger, stop)
    )
    failures: list[tuple[Unit, BaseException]] = []
    fatal: BgscaleError | None = None
    for unit, outcome in outcomes:
        if not isinstance(outcome, BaseException):
            listener.unit_done(unit, outcome)
        elif isinstance(outcome, (InputError, DiskFullError)):
            fatal = fatal or outcome
            stop.request("error")
        else:
            failures.append((unit, outcome))
    listener.stage_finished(stage)
    if fatal is not None:
        raise fatal
    if failures:
        unit, cause = failures[0]
        detail = "".join(traceback.format_exception_only(cause)).strip()
        msg = f"{len(failures)} of {len(todo)} units failed; the first, {unit.name}: {detail}"
        raise UnitError(msg) from cause
    if stop:
        msg = f"stopped by {stop.requested}; what was done is kept: run again to go on"
        raise InterruptedRunError(msg)


def _here(
    work: Work, todo: Sequence[Unit], job: str, ledger: Ledger, stop: Stop
) -> Iterator[tuple[Unit, Any]]:
    for unit in todo:
        if stop:
            return
        try:
            outcome: Any = do_unit(work, unit, job, ledger)
        except Exception as error:  # noqa: BLE001  the caller sorts and raises it
            outcome = error
        yield unit, outcome


def _on_cluster(
    client: Client, work: Work, todo: Sequence[Unit], job: str, ledger: Ledger, stop: Stop
) -> Iterator[tuple[Unit, Any]]:
    threads = sum(client.nthreads().values())  # type: ignore[no-untyped-call]
    window = max(threads, 1) * UNITS_IN_FLIGHT_PER_THREAD
    waiting = iter(todo)
    running: Any = as_completed(loop=client.loop)  # type: ignore[no-untyped-call]
    owners: dict[object, Unit] = {}

    def submit_next() -> None:
        unit = None if stop else next(waiting, None)
        if unit is not None:
            future = client.submit(do_unit, work, unit, job, ledger, pure=False)
            owners[future.key] = unit
            running.add(future)

    for _ in range(min(window, len(todo))):
        submit_next()
    for future in running:
        unit = owners.pop(future.key)
        yield unit, _outcome(future, unit)
        future.release()
        submit_next()


def _outcome(future: Any, unit: Unit) -> Any:
    """Return the unit's summary, or what it raised."""
    error = future.exception()
    if error is not None:
        return error
    lost = f"lost the Dask scheduler while {unit.name} ran; run again to go on"
    if future.status != "finished":
        raise InterruptedRunError(lost)
    try:
        return future.result()
    except OSError as broken:
        raise InterruptedRunError(lost) from broken
