"""One of several processes that share the units of a stage, without a scheduler among them.

Each does every n-th unit, then waits for the others, by the ledger alone. Where nothing more comes
of them (a node has died), it does what they have left, beginning at another place than the others
do. A unit that two do is written twice with the same bytes.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from bgscale.distribute.ledger import Ledger
from bgscale.distribute.units import Unit
from bgscale.errors import InputError

LOOK_EVERY_S = 2.0
PATIENCE_S = 60.0
PATIENCE_UNITS = 5
"""The others are waited for as long as so many of the slowest own unit take, `PATIENCE_S` at
least, from the last unit that any of them has finished."""


@dataclass(frozen=True)
class Part:
    """Process `index` of `count`, counted from 0."""

    index: int
    count: int
    look_every_s: float = LOOK_EVERY_S
    patience_s: float = PATIENCE_S

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
    slowest = 0.0
    failed: set[Unit] = set()

    def timed(unit: Unit) -> Any:
        nonlocal slowest
        started = time.monotonic()
        outcome = do(unit)
        slowest = max(slowest, time.monotonic() - started)
        if isinstance(outcome, BaseException):
            failed.add(unit)
        return outcome

    done = ledger.done(units)
    for unit in units[part.index :: part.count]:
        if stopped():
            return
        if unit not in done:
            yield unit, timed(unit)
    # the others begin their search for left units elsewhere
    turn = part.index * len(units) // part.count
    order = [*units[turn:], *units[:turn]]
    before, since = -1, time.monotonic()
    while not stopped():
        done = ledger.done(units)
        left = [unit for unit in order if unit not in done and unit not in failed]
        if not left:
            return
        if len(done) != before:
            before, since = len(done), time.monotonic()
        if time.monotonic() - since > max(part.patience_s, PATIENCE_UNITS * slowest):
            yield left[0], timed(left[0])
        else:
            time.sleep(part.look_every_s)
