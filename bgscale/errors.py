"""What can go wrong, as types: each carries the exit code the command line ends with.

Every class is also a built-in exception, so that callers who do not know bgscale can still
catch what they expect. Messages say what, where, got, expected, and what to do.
"""

import difflib
from collections.abc import Iterable
from pathlib import Path

EXIT_DONE = 0
EXIT_FAILURE = 1
EXIT_BAD_INPUT = 2
EXIT_SOME_FAILED = 3
EXIT_DISK = 74
EXIT_TRY_AGAIN = 75


class BgscaleError(Exception):
    """Base of all errors that bgscale raises on purpose."""

    exit_code = EXIT_FAILURE


class InputError(BgscaleError, ValueError):
    """The screen, plate map, weights or an argument is wrong as a whole."""

    exit_code = EXIT_BAD_INPUT


class ConfigError(InputError):
    """A run config has an unknown key or a value out of bounds."""


class SchemaError(InputError):
    """A dataset does not have the variables, dims or dtypes that its spec asks for."""


class AlignmentError(InputError):
    """A write does not cover whole shards, so that two writers could meet in one file."""


class UnknownNameError(InputError, LookupError):
    """A name is not in its registry."""


class StoreMismatchError(InputError):
    """A run store was made by another config or another version."""


class UnitError(BgscaleError, RuntimeError):
    """A unit of work failed; says its stage and region."""


class FieldError(BgscaleError, ValueError):
    """One field cannot be used; it is marked with the reason and the run goes on.

    Parameters
    ----------
    reason : int
        `bgscale.schema.Reason` code.
    message : str
    """

    exit_code = EXIT_BAD_INPUT

    def __init__(self, reason: int, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class DiskFullError(BgscaleError, OSError):
    """No space left on the device; what was finished stays valid."""

    exit_code = EXIT_DISK


class InterruptedRunError(BgscaleError, RuntimeError):
    """The run was asked to stop (Ctrl-C, SIGTERM) and drained; another run goes on."""

    exit_code = EXIT_TRY_AGAIN


def nearest(name: str, known: Iterable[str]) -> str:
    """Return " (did you mean 'x'?)" for the known name nearest to `name`, or "".

    Examples
    --------
    >>> nearest("maskd", ["original", "masked"])
    " (did you mean 'masked'?)"
    >>> nearest("zzz", ["original"])
    ''
    """
    names = list(known)
    folded = {n.casefold(): n for n in names}
    match = difflib.get_close_matches(name.casefold(), list(folded), n=1, cutoff=0.5)
    return f" (did you mean {folded[match[0]]!r}?)" if match else ""


def nearest_file(path: Path) -> str:
    """Return `nearest` of the names that lie where `path` should."""
    try:
        return nearest(path.name, [p.name for p in path.parent.iterdir()])
    except OSError:
        return ""
