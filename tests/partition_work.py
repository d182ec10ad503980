"""A driver whose units say on which host they are begun, and may wait there; for partitions."""

import os
import sys
import time
from pathlib import Path
from typing import Any

from bgscale import pipeline
from bgscale.distribute.units import Unit

GATED = "bank"
"""The stage whose units wait on a host with a gate, until it is open."""
GATE_LASTS_S = 120

_work = pipeline.work


def work(unit: Unit, text: str) -> Any:
    """Do a unit of a run, after it has been noted where it is begun."""
    folder, host = Path(os.environ["PARTITION_FOLDER"]), os.environ["PARTITION_HOST"]
    name = unit.name.replace("/", "~")
    (folder / "begun" / f"{name}.{host}.{time.monotonic_ns()}").touch()
    time.sleep(0.1)
    until = time.monotonic() + GATE_LASTS_S
    gate = folder / f"gate{host}"
    while unit.stage == GATED and gate.exists() and time.monotonic() < until:
        time.sleep(0.02)
    done = _work(unit, text)
    (folder / "written" / f"{name}.{host}.{time.monotonic_ns()}").touch()
    return done


if __name__ == "__main__":
    import partition_work

    from bgscale.cli import main

    # by the name that workers import it by
    pipeline.work = partition_work.work
    main(sys.argv[1:])
