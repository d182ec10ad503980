"""What became of the units of some stages: which failed, and what follows from that.

A stage ends when none of its units is left. A few that failed are set aside then, where its stage
can mark what is lost, and the stage is complete; where more failed, it is given up, and the run
begins nothing more. So a run that is stopped later has settled what came before.
"""

import traceback
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from distributed import KilledWorker

from bgscale.distribute.units import Unit

SET_ASIDE_AT_MOST = 3
SET_ASIDE_SHARE = 0.05
"""Of the units of a stage, or `SET_ASIDE_AT_MOST`: where more fail, it is not a matter of units."""


@dataclass
class Stop:
    """Set by Ctrl-C or SIGTERM; the run drains. Without a lock: signal handlers set it."""

    requested: str = ""

    def request(self, reason: str) -> None:
        """Ask the run to finish the running units and end."""
        self.requested = reason

    def __bool__(self) -> bool:
        return bool(self.requested)


def few(units: int) -> float:
    """Return how many of a stage's units may be lost."""
    return max(SET_ASIDE_AT_MOST, SET_ASIDE_SHARE * units)


def said(cause: BaseException) -> str:
    """Return what was raised, in a line."""
    if isinstance(cause, KilledWorker):
        return "each worker that tried it was killed (out of memory?)"
    return "".join(traceback.format_exception_only(cause)).strip()


class Account:
    """Counts what is left of each stage.

    Parameters
    ----------
    units : sequence of Unit
        All, of some stages.
    mine : iterable of Unit
        Those that are left and that this process is to do. Others may do some of them, and it some
        of theirs.
    stop : Stop
        Asked to stop where a stage is given up.
    set_aside : callable, optional
        Makes do without a unit, for which it is given the reason; None: no unit can be lost.
    """

    def __init__(
        self,
        units: Sequence[Unit],
        mine: Iterable[Unit],
        stop: Stop,
        set_aside: Callable[[Unit, str], None] | None,
    ) -> None:
        self.sizes = Counter(unit.stage for unit in units)
        self._left = Counter(unit.stage for unit in mine)
        self._failed: dict[str, list[tuple[Unit, BaseException]]] = defaultdict(list)
        self._lost = Counter[str]()
        self._stop, self._set_aside = stop, set_aside

    @property
    def failures(self) -> list[tuple[Unit, BaseException]]:
        """Units that failed and were not set aside, each with what it raised."""
        return [failure for several in self._failed.values() for failure in several]

    @property
    def given_up(self) -> bool:
        """Whether more units of a stage failed than it can lose."""
        return any(self._too_many(stage) for stage in list(self._failed))

    def note(self, unit: Unit, failure: BaseException | None = None) -> bool:
        """Note what became of a unit; return whether its stage has ended well by that."""
        if failure is not None:
            self._failed[unit.stage].append((unit, failure))
        self._left[unit.stage] -= 1
        return self._left[unit.stage] <= 0 and self.settle([unit.stage])

    def settle(self, stages: Sequence[str] | None = None) -> bool:
        """Set aside what failed of some stages, by default of all; return whether all is well."""
        asked = list(self._failed) if stages is None else stages
        for stage in asked:
            failed = self._failed[stage]
            if self._too_many(stage):
                self._stop.request("failures")
            elif self._set_aside is not None and not self._stop:
                while failed:
                    unit, cause = failed[0]
                    self._set_aside(unit, said(cause))
                    self._lost[stage] += 1
                    del failed[0]
        return not any(self._failed[stage] for stage in asked)

    def _too_many(self, stage: str) -> bool:
        may = few(self.sizes[stage]) if self._set_aside is not None else 0
        return len(self._failed[stage]) + self._lost[stage] > may
