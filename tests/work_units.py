"""Units of work for the tests: what they did is counted by files, in whatever process it was."""

import errno
import json
import os
import signal
import time
from pathlib import Path

from bgscale.errors import InputError


class Stubborn(Exception):
    """Cannot be pickled, like one that holds an open file."""

    def __reduce__(self):
        raise TypeError("cannot pickle a file")


class TwoArguments(Exception):
    """Can be pickled but not unpickled: a common accident."""

    def __init__(self, what, where):
        super().__init__(f"{what} in {where}")


def write(unit, job):
    """Write one file of the store, note that it was done, and fail as the job says."""
    job = json.loads(job)
    store = Path(job["store"])
    marks = store.parent / "marks"
    marks.mkdir(exist_ok=True)
    (marks / f"{unit.start}.{os.getpid()}.{time.monotonic_ns()}").touch()
    meet = job.get("meet", [])
    deadline = time.monotonic() + 20
    while str(unit.start) in meet and not all(list(marks.glob(f"{m}.*")) for m in meet):
        if time.monotonic() > deadline:
            raise TimeoutError("nobody came")
        time.sleep(0.01)
    time.sleep(job.get("slow", {}).get(str(unit.start), job.get("seconds", 0)))
    kind = job.get("fail", {}).get(str(unit.start))
    if kind == "error":
        raise ValueError(f"unit at {unit.start} is cursed")
    if kind == "input":
        raise InputError("the plate map is wrong")
    if kind == "disk":
        raise OSError(errno.ENOSPC, "No space left on device")
    if kind == "io":
        raise OSError(errno.EIO, "Input/output error")
    if kind == "stubborn":
        raise Stubborn("not to be pickled")
    if kind == "two":
        raise TwoArguments("a hole", "the bucket")
    if kind == "die" and len(list(marks.glob(f"{unit.start}.*"))) == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "lose":
        os.kill(job["scheduler"], signal.SIGKILL)
        time.sleep(60)
    name = f"out/{unit.start}"
    (store / "out").mkdir(parents=True, exist_ok=True)
    (store / name).write_bytes(bytes(k % 256 for k in range(unit.start, unit.stop)))
    return [name], {"items": unit.stop - unit.start}
