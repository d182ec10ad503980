"""Who writes: a process of a host, named so that another one can tell whether it still lives."""

import os
import re
import socket
from functools import lru_cache
from pathlib import Path

_PARTIAL = re.compile(r"\.(\d+)@([^/@]+)\.\d+\.partial$")


def host() -> str:
    """Return the name of this host, fit for the name of a file."""
    return re.sub(r"[^\w.-]", "_", socket.gethostname()) or "unknown"


@lru_cache(maxsize=1)
def machine() -> str:
    """Return what two processes have in common that can ask for each other by number.

    Containers can share the name of a host and not its processes.
    """
    parts = [host()]
    try:
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip())
        parts.append(os.readlink("/proc/self/ns/pid"))  # noqa: PTH115  it is no path
    except (OSError, ValueError):
        # not Linux: the name must do
        pass
    return "/".join(parts)


def started(pid: int) -> str:
    """Return when a process was started, in units of its own: numbers are given out again."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        return text.rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def lives(pid: int, since: str = "") -> bool:
    """Whether a process of this machine lives, and is the one that was started then."""
    if pid < 1:
        # groups of processes have such numbers
        return False
    if os.name == "nt":
        # signal 0 ends a process there
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        # another user's; or a number that no process can have
        return pid < 2**22
    return not since or started(pid) in ("", since)


def partial_name(name: str, number: int) -> str:
    """Return the name of a file while it is written, which says by whom."""
    return f"{name}.{os.getpid()}@{host()}.{number}.partial"


def is_left_over(name: str) -> bool:
    """Whether a file is half written, by nobody of whom this host knows that he goes on.

    Examples
    --------
    >>> is_left_over("zarr.json"), is_left_over("0.3f2a.partial")
    (False, True)
    """
    if not name.endswith(".partial"):
        return False
    writer = _PARTIAL.search(name)
    return writer is None or writer[2] != host() or not lives(int(writer[1]))
