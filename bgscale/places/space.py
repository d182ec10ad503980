"""Whether there is room: asked before a run starts, not found out hours later."""

import shutil
from pathlib import Path

from bgscale.errors import DiskFullError
from bgscale.places import is_remote

_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")


def human(count: float) -> str:
    """Return a number of bytes for people.

    Examples
    --------
    >>> human(999), human(20995200), human(0)
    ('999 B', '21 MB', '0 B')
    """
    size, unit = float(count), 0
    while size >= 999.5 and unit < len(_UNITS) - 1:
        size, unit = size / 1000, unit + 1
    return f"{size:.3g} {_UNITS[unit]}"


def check_space(path: str | Path, bytes_needed: int) -> None:
    """Raise where a run would fill the disk. A bucket has room.

    Parameters
    ----------
    path : str or path
        What will be written, such as the run store; it need not be there yet.
    bytes_needed : int
        What will be written in all, as far as it is not there yet.

    Raises
    ------
    DiskFullError
        Fewer bytes are free to this user. Quotas are not seen.
    """
    if is_remote(path):
        return
    folder = Path(path).absolute()
    while not folder.exists():
        folder = folder.parent
    total, _, free = shutil.disk_usage(folder)
    # a file system of no size, such as /proc, is refused when it is written to
    if total and free < bytes_needed:
        msg = (
            f"{path} needs {human(bytes_needed)}, and {human(free)} are free on the disk of "
            f"{folder}: free some, or choose another 'store'"
        )
        raise DiskFullError(msg)
