"""Who hears what a run does. The engine itself prints nothing."""

from typing import Any, Protocol

from bgscale.distribute.units import Unit


class Listener(Protocol):
    """Hears what happens; the progress bar, the log and the tests' counters are listeners."""

    def stage_started(self, stage: str, purpose: str, units: int, done: int) -> None:
        """Hear of `units` in all, of which `done` were there already; `purpose` is for people.

        `stage` is "cut" where that of several plates begins, "cut/P1" where it is of one.
        """

    def unit_done(self, unit: Unit, summary: dict[str, Any]) -> None:
        """Hear that a unit is complete."""

    def unit_failed(self, unit: Unit, error: str) -> None:
        """Hear that a unit cannot be done, and why."""

    def notice(self, text: str) -> None:
        """Hear what a person who waits wants to know."""

    def stage_finished(self, stage: str) -> None:
        """Hear that no unit of the stage is left, or that the run stops."""


class Silent:
    """A listener that says nothing; others are made of it."""

    def stage_started(self, stage: str, purpose: str, units: int, done: int) -> None:
        """Hear of `units` in all, of which `done` were there already; `purpose` is for people."""

    def unit_done(self, unit: Unit, summary: dict[str, Any]) -> None:
        """Hear that a unit is complete."""

    def unit_failed(self, unit: Unit, error: str) -> None:
        """Hear that a unit cannot be done, and why."""

    def notice(self, text: str) -> None:
        """Hear what a person who waits wants to know."""

    def stage_finished(self, stage: str) -> None:
        """Hear that no unit of the stage is left, or that the run stops."""
