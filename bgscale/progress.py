"""What a person sees while a run works: bars on a terminal, else log lines; JSON lines always."""

import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self, TextIO

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from bgscale.distribute.ledger import Ledger
from bgscale.distribute.listener import Silent
from bgscale.distribute.units import Unit
from bgscale.places import is_remote, spelled

LOG_INTERVAL_S = 10.0


def log_file(store: str | Path) -> Path:
    """Return the file with the JSON lines of the runs of a store."""
    location = Ledger(spelled(store)).location
    folder = Path(location.rpartition("/")[2]) if is_remote(location) else Path(location)
    return folder / "log.jsonl"


class Narrator(Silent):
    """Tells a run's progress on stderr, and keeps it as JSON lines.

    Parameters
    ----------
    log : path
        Folder that gets ``log.jsonl``.
    stream : text file, optional
        By default stderr; bars where it is a terminal, else a line a stage and every ten seconds.
    """

    def __init__(self, log: Path, stream: TextIO | None = None) -> None:
        self._log = log / "log.jsonl"
        # names of models and proteins are no markup: "[a]" is said as it is
        self._console = Console(
            file=stream or sys.stderr, highlight=False, markup=False, emoji=False
        )
        self._bars: Progress | None = None
        self._task: TaskID | None = None
        self._units = self._done = 0
        self._purpose = ""
        self._started = self._said = 0.0
        self._failures: set[tuple[str, str]] = set()
        self._began = False

    @classmethod
    def of_store(cls, store: str) -> Self:
        """Return a narrator that keeps its lines in the progress folder of a store.

        Of a store in a bucket, whose files cannot grow, in a folder of that name here.
        """
        return cls(log_file(store).parent)

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._bars = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                console=self._console,
            )
            self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bars is not None:
            self._bars.stop()

    def stage_started(self, stage: str, purpose: str, units: int, done: int) -> None:
        """Open a bar, or say that the stage starts."""
        self._units, self._done = units, done
        self._started = self._said = time.monotonic()
        self._purpose = purpose
        if self._bars is not None:
            self._task = self._bars.add_task(purpose, total=units, completed=done)
        elif done < units:
            already = f", {done} of them done before" if done else ""
            self._say(f"{purpose}: {units} units{already}")
        self._write("stage_started", stage=stage, units=units, done=done)

    def unit_done(self, unit: Unit, summary: dict[str, Any]) -> None:
        """Advance."""
        self._done += 1
        if self._bars is not None and self._task is not None:
            self._bars.update(self._task, completed=self._done)
        elif time.monotonic() - self._said > LOG_INTERVAL_S:
            self._say(f"{self._purpose}: {self._done}/{self._units}")
            self._said = time.monotonic()
        self._write("unit_done", **{**summary, "unit": unit.name})

    def notice(self, text: str) -> None:
        """Say it."""
        self._say(text)
        self._write("notice", text=text)

    def unit_failed(self, unit: Unit, error: str) -> None:
        """Say the first failure of each kind, with its unit; the log has all."""
        kind = unit.stage.partition("/")[0], error.partition(":")[0]
        if kind not in self._failures:
            self._failures.add(kind)
            self._say(f"unit {unit.name} cannot be done: {error}")
        self._write("unit_failed", unit=unit.name, error=error)

    def stage_finished(self, stage: str) -> None:
        """Write how long it took."""
        elapsed = round(time.monotonic() - self._started, 3)
        self._task = None
        self._write("stage_finished", stage=stage, done=self._done, seconds=elapsed)

    def epoch_done(self, epoch: int, epochs: int, text: str) -> None:
        """Say that an epoch of a training is complete."""
        if self._bars is not None:
            if self._task is None or epoch == 1:
                self._task = self._bars.add_task("train", total=epochs)
            self._bars.update(self._task, completed=epoch, description=f"train: {text}")
        elif epoch in (1, epochs) or time.monotonic() - self._said > LOG_INTERVAL_S:
            self._say(f"train: epoch {epoch} of {epochs}, {text}")
            self._said = time.monotonic()
        self._write("epoch", epoch=epoch, text=text)

    @contextmanager
    def task(self, purpose: str) -> Iterator[Callable[[int, int], None]]:
        """Yield a callback (done, total) for work that is no stage."""

        def advance(done: int, total: int) -> None:
            if self._bars is not None:
                if self._task is None:
                    self._task = self._bars.add_task(purpose, total=total)
                self._bars.update(self._task, completed=done)
            elif time.monotonic() - self._said > LOG_INTERVAL_S:
                self._say(f"{purpose}: {done}/{total}")
                self._said = time.monotonic()

        self._task = None
        self._said = time.monotonic()
        if self._bars is None:
            self._say(purpose)
        yield advance
        self._task = None

    def _say(self, text: str) -> None:
        self._console.print(f"{time.strftime('%H:%M:%S')} {text}", soft_wrap=True)

    def _write(self, event: str, /, **values: Any) -> None:
        self._log.parent.mkdir(parents=True, exist_ok=True)
        if not self._began:
            # not before there is anything to say: a finished store may be read-only
            self._began = True
            self._write("run_started", host=platform.node(), pid=os.getpid())
        line = json.dumps({**values, "time": round(time.time(), 3), "event": event})
        with self._log.open("a", encoding="utf-8") as handle:
            handle.write(line + "\n")
