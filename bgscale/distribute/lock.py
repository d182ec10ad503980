"""One run at a time writes a store: a lock beside it, which says who holds it and that he lives.

The lock is a file that is created exclusively and renewed by a thread of its holder's. Who finds it
tells him from a dead one: on the same machine by his process, from elsewhere by how long ago the
file was renewed, by the clock of the place itself. A lock keeps two runs from undoing each other's
stages; that a unit done twice does no harm is not its business.
"""

import errno
import json
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any

from bgscale.distribute.ledger import Ledger
from bgscale.errors import BgscaleError, InputError
from bgscale.places import Place
from bgscale.places.writer import host, lives, machine, started

LOCK = "driver.lock"
HEARTBEAT_S = 30.0
DEAD_AFTER_S = 300.0
"""Somewhere else a holder is given up when his lock was not renewed for so long."""
SETTLE_S = 0.5
"""After a lock was taken over in a folder: two may have done so, and the last one has it."""
PATIENCE_STEP_S = 5.0
ATTEMPTS = 5


@dataclass(frozen=True)
class Holder:
    """Who holds a lock.

    Parameters
    ----------
    host, pid : str, int
        Where the run is driven from.
    machine, started : str
        Which numbers of processes are this one's, and which of several with this number it is.
    owner : str
        Random; tells one holding from another.
    since, heartbeat : str
        When the lock was taken and last renewed, by the holder's clock.
    """

    host: str
    pid: int
    machine: str
    started: str
    owner: str
    since: str
    heartbeat: str

    @classmethod
    def here(cls) -> "Holder":
        """Return this process as a holder."""
        pid, now = os.getpid(), _now()
        return cls(host(), pid, machine(), started(pid), secrets.token_hex(8), now, now)

    @property
    def content(self) -> bytes:
        """What the lock file holds."""
        return json.dumps(asdict(self), indent=1).encode()

    @property
    def is_gone(self) -> bool:
        """Whether the process is known to be dead: it is of this machine, and not there."""
        return self.machine == machine() and not lives(self.pid, self.started)

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.since}"


def holder_of(content: bytes | None) -> Holder | None:
    """Return who a lock file names; None where it cannot be read."""
    try:
        values: dict[str, Any] = json.loads(content or b"")
        known = Holder(**values)
    except (ValueError, TypeError, RecursionError):
        return None
    kinds = {name: int if name == "pid" else str for name in values}
    return known if all(type(values[name]) is kind for name, kind in kinds.items()) else None


def driver_of(store: str) -> Holder | None:
    """Return who drives a run of a store now, as `bgscale status` says it."""
    place = Ledger(store).place
    content = place.read(LOCK)
    holder = holder_of(content)
    return None if holder is None or holder.is_gone else holder


class Lock:
    """A lock that this process holds.

    Parameters
    ----------
    place : Place
        Of the records beside the store.
    holder : Holder
    """

    def __init__(self, place: Place, holder: Holder) -> None:
        self._place, self._holder = place, holder
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self.is_lost = False

    def renew(self) -> None:
        """Say that the holder lives; the lock is lost where it is another's."""
        later = replace(self._holder, heartbeat=_now())
        if self._place.swap(LOCK, self._holder.content, later.content):
            self._holder = later
        else:
            self.is_lost = True

    def keep(self, on_lost: Callable[[str], None], heartbeat_s: float) -> None:
        """Renew the lock from now on, in a thread."""

        def beat() -> None:
            renewed = time.monotonic()
            while not self._ended.wait(heartbeat_s):
                try:
                    self.renew()
                    renewed = time.monotonic()
                except (OSError, BgscaleError):
                    # a full disk or a network that is gone for a while
                    self.is_lost = time.monotonic() - renewed > DEAD_AFTER_S
                if self.is_lost:
                    on_lost("another run, which has taken the store over")
                    return

        self._thread = threading.Thread(target=beat, name="bgscale-heartbeat", daemon=True)
        self._thread.start()

    def release(self) -> None:
        """Give the lock back, if it is still held."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
        # what cannot be given back now is found dead later
        with suppress(OSError, BgscaleError):
            if not self.is_lost and self._place.read(LOCK) == self._holder.content:
                self._place.delete([LOCK])


@contextmanager
def held(
    store: str,
    *,
    notice: Callable[[str], None] = lambda text: None,
    on_lost: Callable[[str], None] = lambda reason: None,
    patience_s: float = 0.0,
    heartbeat_s: float = HEARTBEAT_S,
) -> Iterator[Lock]:
    """Hold a store for the length of a ``with`` block.

    Parameters
    ----------
    store : str
        Folder of the run store, or s3://bucket/prefix; it need not be there yet.
    notice : callable
        Hears that the lock of a dead run was taken over, or is waited for.
    on_lost : callable
        Hears, in another thread, that the lock was lost: such as `Stop.request`. It happens to a
        machine that slept, or was cut off, for longer than `DEAD_AFTER_S`.
    patience_s : float
        How long to wait for another run; a job that is started again can come before the old one
        is known to be dead.
    heartbeat_s : float
        How often the lock is renewed.

    Raises
    ------
    InputError
        Another run holds the store; says who. Or nothing can be written beside it.
    """
    ledger = Ledger(store)
    place, holder = ledger.place, Holder.here()
    deadline = time.monotonic() + patience_s
    refusal = _taken(store, place, holder, notice)
    if refusal and patience_s > 0:
        notice(f"waiting: {refusal}")
    while refusal:
        left = deadline - time.monotonic()
        if left <= 0:
            raise InputError(refusal)
        time.sleep(min(PATIENCE_STEP_S, left))
        refusal = _taken(store, place, holder, notice)
    lock = Lock(place, holder)
    lock.keep(on_lost, heartbeat_s)
    try:
        yield lock
    finally:
        lock.release()


def _taken(store: str, place: Place, mine: Holder, notice: Callable[[str], None]) -> str:
    """Take the lock; return why it cannot be had, or ""."""
    refusal = ""
    for _ in range(ATTEMPTS):
        try:
            if place.create(LOCK, mine.content):
                return ""
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise
            msg = f"cannot write beside the run store, in {place.location}: {error.strerror}"
            raise InputError(msg) from None
        content, modified = place.read(LOCK), place.modified(LOCK)
        if content is None or modified is None:
            # given back between the two looks
            continue
        holder, silent_s = holder_of(content), max(place.now() - modified, 0.0)
        who = str(holder) if holder else "a process that cannot be told from the lock"
        heard = f"last heard of {silent_s:.0f} s ago"
        refusal = (
            f"{store} is being written by another run ({who}, {heard}): wait for it or stop it. "
            f"A run elsewhere that has died is noticed after {DEAD_AFTER_S:.0f} s"
        )
        if not (holder and holder.is_gone) and silent_s <= DEAD_AFTER_S:
            return refusal
        if place.swap(LOCK, content, mine.content):
            time.sleep(SETTLE_S)
            if place.read(LOCK) == mine.content:
                notice(f"took {store} over from a run that has died ({who}, {heard})")
                return ""
    return refusal or f"{store} is taken and given back by other runs all the time; run again"


def _now() -> str:
    return datetime.now().astimezone().isoformat(timespec="milliseconds")
