"""Under what conditions a benchmark ran: processor, cores, memory, threads, seeds.

Every script writes this into its JSON, beside the versions that `bgscale.run.versions` gives. The
name of the host is not among it.
"""

import os
import platform
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

CPUINFO = Path("/proc/cpuinfo")


def processor_name() -> str:
    """Return what the processor calls itself; its architecture where it does not say."""
    rows = CPUINFO.read_text(encoding="utf-8").splitlines() if CPUINFO.exists() else []
    named = (row.partition(":")[2].strip() for row in rows if row.startswith("model name"))
    return next(named, "") or platform.processor() or platform.machine()


def memory_gib() -> float | None:
    """Return the machine's memory; None where the system does not say."""
    try:
        pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None
    return round(pages * size / 2**30, 1)


def machine() -> dict[str, Any]:
    """Return processor, cores, memory, system and Python."""
    return {
        "processor": processor_name(),
        "architecture": platform.machine(),
        "cores": os.cpu_count(),
        "memory_gib": memory_gib(),
        "system": platform.system(),
        "python": platform.python_version(),
    }


def conditions(*, threads: int, seeds: Sequence[int]) -> dict[str, Any]:
    """Return the machine, how many threads each process had, and the seeds of all that was drawn.

    Parameters
    ----------
    threads : int
    seeds : sequence of int
        Where there is none, as everything measured is given: empty.
    """
    return {"machine": machine(), "threads": threads, "seeds": list(seeds)}


def spread(values: Sequence[float], digits: int = 2) -> dict[str, Any]:
    """Return the median of repetitions, the lowest and the highest of them, and each."""
    return {
        "median": round(statistics.median(values), digits),
        "lowest": round(min(values), digits),
        "highest": round(max(values), digits),
        "each": [round(value, digits) for value in values],
    }
