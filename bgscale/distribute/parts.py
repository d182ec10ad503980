"""One of several processes that share the units of a stage, without a scheduler among them.

Each does every n-th unit, and those of processes that are not there: not started yet, or dead. Who
is there is known by a file of each, beside the store, which a thread renews. What they have done is
known by the ledger alone; a unit that two do is written twice, with the same bytes.
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
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
    ledger: Ledger,
    part: Part,
    do: Callable[[Unit], Any],
    stopped: Callable[[], bool],
) -> Iterator[tuple[Unit, Any]]:
    """Yield each unit that this process does, with its outcome; return when all are done.

    Parameters
    ----------
    units : sequence of Unit
        Of one stage, all of them.
    ledger : Ledger
    part : Part
    do : callable
        Does a unit, and records it; what it raises it returns.
    stopped : callable
        Whether to begin no further unit.
    """
    place = ledger.place
    failed: set[Unit] = set()
    while not stopped():
        done = ledger.done(units) | failed
        left = [i for i, unit in enumerate(units) if unit not in done]
        if not left:
            return
        mine = dealt(left, part, part.there(place))
        if not mine:
            time.sleep(part.look_every_s)
        # own units are nobody else's; others' only until they are there
        own = [i for i in mine if i % part.count == part.index]
        for i in own or mine[:1]:
            if stopped():
                return
            if not ledger.is_done(units[i]):
                outcome = do(units[i])
                if isinstance(outcome, BaseException):
                    failed.add(units[i])
                yield units[i], outcome


def dealt(left: Sequence[int], part: Part, there: Sequence[int]) -> list[int]:
    """Return which of the units that are left fall to a part.

    Examples
    --------
    >>> dealt(range(8), Part(0, 4), there=[0, 1, 2, 3])
    [0, 4]
    >>> dealt(range(8), Part(0, 4), there=[0, 2])
    [0, 1, 4, 5]
    """
    present = set(there)
    orphans = [i for i in left if i % part.count not in present]
    taken = set(orphans[list(there).index(part.index) :: len(there)])
    return [i for i in left if i % part.count == part.index or i in taken]
