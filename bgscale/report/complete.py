"""Whether a run is complete, and what of it could not be used: from its store and its ledger.

The one idea: what a stage makes is shown only where all its units are done, so that an array that
is half filled is never taken for a result.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bgscale.distribute.ledger import Ledger
from bgscale.run import Outcome, outcome, status
from bgscale.schema import Reason


@dataclass(frozen=True)
class Completeness:
    """How far a run is.

    Parameters
    ----------
    stages : dict of str to (int, int or None)
        Units done and all units of each stage in its order; None: not known yet.
    purposes : dict of str to str
        What each stage is for, where it has begun.
    known : bool
        Whether the ledger is there; without it what the store has is believed.
    running : str or None
        Who runs it now.
    lost : dict of str to str
        Units that were set aside, with the reason.
    outcome : Outcome
        Cells and fields that could not be used, by reason.
    """

    stages: dict[str, tuple[int, int | None]]
    purposes: dict[str, str]
    known: bool
    running: str | None
    lost: dict[str, str]
    outcome: Outcome

    def done(self, *stages: str) -> bool:
        """Whether these stages are complete; one that this run does not have is no hindrance."""
        return all(
            stage not in self.stages or self._is_done(*self.stages[stage]) for stage in stages
        )

    def missing(self, stages: Sequence[str] = ()) -> list[str]:
        """Return which stages (of all, by default) are not complete."""
        asked = stages or tuple(self.stages)
        return [s for s in asked if s in self.stages and not self._is_done(*self.stages[s])]

    @property
    def is_complete(self) -> bool:
        """Whether every stage is."""
        return not self.missing()

    def _is_done(self, done: int, units: int | None) -> bool:
        return units is not None and (not self.known or done >= units)


def completeness(store: str | Path) -> Completeness:
    """Return how far the run of a store is, and what it could not use.

    Raises
    ------
    StoreMismatchError
        Not a run store, or one of another version.
    """
    found = status(store)
    stages = {name: (one["done"], one["units"]) for name, one in found["stages"].items()}
    ended = outcome(store)
    # a proteome has a hundred thousand records: they are read where something was lost alone
    is_lost = any(Reason.LOST.text in of for of in (ended.unusable, ended.failed_fields))
    return Completeness(
        stages,
        {name: one["purpose"] for name, one in found["stages"].items()},
        any(done for done, _ in stages.values()),
        found["driver"],
        _lost(Ledger(found["store"]), found["stages"]) if is_lost else {},
        ended,
    )


def _lost(ledger: Ledger, stages: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Return the units of this config that were set aside, with what they died of."""
    found = {}
    for unit in ledger.recorded():
        if stages.get(unit.stage, {}).get("token") != unit.token:
            continue
        record = ledger.record(unit)
        if record and "set_aside" in record["summary"]:
            found[unit.name] = str(record["summary"]["set_aside"])
    return found
