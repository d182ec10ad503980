"""One of several processes that share the units of stages, without a scheduler among them.

Each does every n-th unit, and those of processes that are not there: not started yet, or dead. Who
is there is known by a file of each, beside the store, which a thread renews. What they have done is
known by the ledger alone; a unit that two do is written twice, with the same bytes, unless one of
them cannot do it.
"""

import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from bgscale.distribute.ledger import Ledger
from bgscale.distribute.units import Unit
from bgscale.errors import BgscaleError, InputError
from bgscale.places import Place

FOLDER = "parts"
RENEW_EVERY_S = 15.0
GONE_AFTER_S = 75.0
"""A part whose file was not renewed for so long is not there."""
LOOK_EVERY_S = 2.0


@dataclass(frozen=True)
class Part:
    """Process `index` of `count`, counted from 0."""

    index: int
    count: int
    look_every_s: float = LOOK_EVERY_S
    gone_after_s: float = GONE_AFTER_S

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            msg = f"part {self.index}/{self.count}: expected the first number from 0 to count - 1"
            raise InputError(msg)

    @classmethod
    def parse(cls, text: str) -> "Part":
        """Return the part of "I/N".

        Raises
        ------
        InputError
            Not of this form, or I is not below N.
        """
        index, _, count = text.partition("/")
        if not (index.isdecimal() and count.isdecimal()):
            msg = f"part {text!r}: expected I/N, such as 0/8"
            raise InputError(msg)
        return cls(int(index), int(count))

    def owns(self, i: int) -> bool:
        """Whether the i-th of all units is its own."""
        return i % self.count == self.index

    @property
    def _key(self) -> str:
        return f"{FOLDER}/{self.index}-{self.count}"

    def there(self, place: Place) -> list[int]:
        """Return the parts that are there, in order; this one is."""
        now, found = place.now(), {self.index}
        for name in place.names(FOLDER):
            index, _, count = name.partition("-")
            if index.isdecimal() and count == str(self.count):
                modified = place.modified(f"{FOLDER}/{name}")
                if modified is not None and now - modified < self.gone_after_s:
                    found.add(int(index))
        return sorted(found)


@contextmanager
def present(store: str, part: Part | None) -> Iterator[None]:
    """Let the other parts know, for the length of a ``with`` block, that this one is there."""
    if part is None:
        yield
        return
    place, ended = Ledger(store).place, threading.Event()

    def renew() -> None:
        while True:
            # a network that is gone for a while: the others do what is left
            with suppress(OSError, BgscaleError):
                place.replace(part._key, b"")
            if ended.wait(min(RENEW_EVERY_S, part.gone_after_s / 4)):
                return

    place.replace(part._key, b"")
    thread = threading.Thread(target=renew, name="bgscale-part", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        with suppress(OSError, BgscaleError):
            place.delete([part._key])


def share(
    units: Sequence[Unit],
    done: Collection[Unit],
    ledger: Ledger,
    part: Part,
    do: Callable[[Unit], Any],
    *,
    stopped: Callable[[], bool],
    idle: Callable[[], object],
) -> Iterator[tuple[Unit, Any]]:
    """Yield each unit that this process does, with its outcome.

    Own units come first; they are nobody else's. Of one that another part has done the outcome is
    None, also where it has failed here. Then, one after the other, come those of parts that are not
    there, until these are. Ends when all units are done, or have failed here, or it is told to
    stop.

    Parameters
    ----------
    units : sequence of Unit
        All that the parts share.
    done : collection of Unit
        Those that are done already.
    ledger : Ledger
    part : Part
    do : callable
        Does a unit, and records it; what it raises it returns.
    stopped : callable
        Whether to begin no further unit.
    idle : callable
        Called before this process waits for others: they may wait for what has failed here.
    """
    place = ledger.place

    def outcome(unit: Unit) -> Any:
        made = do(unit)
        return None if isinstance(made, Exception) and ledger.is_done(unit) else made

    ended = {i for i, unit in enumerate(units) if unit in done}
    own = [i for i in range(len(units)) if part.owns(i) and i not in ended]
    for i in own:
        if stopped():
            return
        yield units[i], None if ledger.is_done(units[i]) else outcome(units[i])
    ended.update(own)
    while not stopped():
        left = [i for i in range(len(units)) if i not in ended]
        taken = dealt(left, part, part.there(place))[:1]
        if taken and not ledger.is_done(units[taken[0]]):
            yield units[taken[0]], outcome(units[taken[0]])
            ended.update(taken)
            continue
        if not taken:
            idle()
        known = ledger.done(units[i] for i in left)
        ended |= {i for i in left if units[i] in known}
        if len(ended) == len(units):
            return
        if not taken:
            time.sleep(part.look_every_s)


def dealt(left: Sequence[int], part: Part, there: Sequence[int]) -> list[int]:
    """Return which of the units that are left fall to a part: its own, and its share of nobody's.

    The share does not depend on what is left, of which each part knows something else.

    Examples
    --------
    >>> dealt(range(8), Part(0, 4), there=[0, 1, 2, 3])
    [0, 4]
    >>> dealt(range(8), Part(0, 4), there=[0, 2])
    [0, 4, 5, 7]
    >>> dealt(range(8), Part(2, 4), there=[0, 2])
    [1, 2, 3, 6]
    """
    return [i for i in left if _taker(i, part.count, there) == part.index]


def _taker(i: int, count: int, there: Sequence[int]) -> int:
    """Return the part that does a unit: its owner, or whose turn it is where that is not there."""
    turn, owner = divmod(i, count)
    return owner if owner in there else there[(turn + owner) % len(there)]
