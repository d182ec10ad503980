"""How far a run is, also while it works and from another machine: by store, ledger and log."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bgscale.distribute.ledger import Ledger
from bgscale.distribute.lock import driver_of
from bgscale.places import spelled
from bgscale.progress import log_file
from bgscale.results import Store

FAILURES_SHOWN = 5


def status(path: str | Path) -> dict[str, Any]:
    """Return how far the run of a store is.

    Parameters
    ----------
    path : str or path
        Of the run store.

    Returns
    -------
    dict
        ``stages``: by name, its token, units (None: not known yet), those done, purpose;
        ``driver``: who runs it now, or None; ``running``: the stage that is worked on, such as
        "cut" for that of all plates, with units a minute and seconds left (None: not known yet), or
        None; ``failures``: the last of this run, each with its unit and error.
    """
    store, ledger = Store(path), Ledger(spelled(path))
    attrs = store.attrs()
    stages: dict[str, dict[str, Any]] = {
        name: {
            "token": entry["token"], "units": entry["units"], "purpose": entry["purpose"],
            "done": ledger.count(name, entry["token"]),
        }
        for name, entry in attrs["stages"].items()
    }  # fmt: skip
    # how many units these have is known when the stage before is complete
    ahead = (name for name in attrs.get("planned", []) if name not in stages)
    stages |= {name: {"token": None, "units": None, "purpose": "", "done": 0} for name in ahead}
    driver = driver_of(ledger.store)
    events = list(_events(log_file(path)))
    return {
        "store": ledger.store,
        "driver": str(driver) if driver else None,
        "running": _running(stages, events) if driver else None,
        "failures": [
            {"unit": event["unit"], "error": event["error"]}
            for event in events
            if event["event"] == "unit_failed"
        ][-FAILURES_SHOWN:],
        "stages": stages,
    }


def _events(log: Path) -> Iterator[dict[str, Any]]:
    """Yield the events of the last run; a line that is being written is passed over."""
    found: list[dict[str, Any]] = []
    try:
        lines = log.read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if event.get("event") == "run_started":
            found = []
        found.append(event)
    yield from found


def _running(
    stages: dict[str, dict[str, Any]], events: list[dict[str, Any]]
) -> dict[str, Any] | None:
    started = [event for event in events if event.get("event") == "stage_started"]
    if not started:
        return None
    last = started[-1]
    # of one stage, or of the same of each plate
    names = [n for n in stages if n == last["stage"] or n.startswith(f"{last['stage']}/")]
    if not names:
        return None
    several = [stages[name] for name in names]
    units = sum(stage["units"] or 0 for stage in several)
    done = sum(stage["done"] for stage in several)
    elapsed = max(time.time() - last["time"], 1e-3)
    rate = (done - last["done"]) / elapsed
    left = (units - done) / rate if rate > 0 and units else None
    return {
        "stage": last["stage"],
        "units_a_minute": round(60 * rate, 2),
        "seconds_left": None if left is None else round(left),
    }
