"""A driver whose units leave a mark when they are begun, and take a moment; for the chaos test."""

import os
import sys
import time
from pathlib import Path
from typing import Any

from bgscale import pipeline
from bgscale.distribute.units import Unit

_work = pipeline.work


def work(unit: Unit, text: str) -> Any:
    """Do a unit of a run, after it has been noted that it is begun."""
    name = f"{unit.name.replace('/', '~')}.{os.getpid()}.{time.monotonic_ns()}"
    (Path(os.environ["CHAOS_MARKS"]) / name).touch()
    time.sleep(0.3)
    return _work(unit, text)


if __name__ == "__main__":
    import chaos_work

    from bgscale.cli import main

    # by the name that workers import it by
    pipeline.work = chaos_work.work
    main(sys.argv[1:])
