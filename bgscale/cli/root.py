"""The group of commands, the options they share, and how an error ends one."""

import errno
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bgscale import __version__
from bgscale.errors import (
    EXIT_BAD_INPUT,
    EXIT_DISK,
    EXIT_SOME_FAILED,
    EXIT_TRY_AGAIN,
    BgscaleError,
)

if TYPE_CHECKING:
    from bgscale.run import Outcome

RUN_TOML = click.Path(path_type=Path, dir_okay=False)
STORE = click.Path(path_type=Path, file_okay=False)
FOLDER = click.Path(path_type=Path, file_okay=False)
TABLE = click.Path(path_type=Path, dir_okay=False)
DIFFER_IN = click.option(
    "--differ-in",
    metavar="COLUMN",
    default="",
    help="Only pairs of classes that differ in this column of the plate map.",
)


def cluster(default: str) -> Callable[..., Any]:
    """Return the option that says where units run."""
    return click.option(
        "--cluster",
        default=default,
        show_default=True,
        metavar="X",
        help="Where units run: serial (here, one after the other), local or local:N (N worker "
        "processes on this machine), a cluster profile (PROFILE.toml, as for SLURM), or a running "
        "Dask scheduler (tcp://HOST:PORT, tls://HOST:PORT, or its scheduler file, FILE.json).",
    )


class Group(click.Group):
    """Turns errors into one line and an exit code; lists commands in the order of use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the commands in the order of their use."""
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; what it raises on purpose ends it with one line."""
        try:
            return super().invoke(ctx)
        except BgscaleError as error:
            fail(str(error), error.exit_code)
        except KeyboardInterrupt:
            fail("interrupted; what was done is kept: run again to go on", EXIT_TRY_AGAIN)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                fail(f"no space left on the device: {error}; free some, then run again", EXIT_DISK)
            if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
                fail(f"cannot write: {error}; choose a target you may write to", EXIT_BAD_INPUT)
            raise


def fail(message: str, code: int) -> None:
    """Say what went wrong, and end."""
    click.echo(f"error: {message}", err=True)
    sys.exit(code)


def tell(message: str = "") -> None:
    """Say something to the person, not to a pipe."""
    click.echo(message, err=True)


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="bgscale")
def main() -> None:
    """Measure whether a single-cell embedding reads the neighbours.

    bgscale puts every cell of a screen on other backgrounds, embeds it again, and says how far
    classification and the localization proportions of each protein move.

    \b
    First look, nothing needed:    bgscale demo
    Your own plates or crops:      bgscale import phenix IMAGES plates (of microscope folders)
                                   bgscale init SCREEN, then edit run.toml and platemap.csv
                                   bgscale train run.toml
                                   bgscale run run.toml
                                   bgscale table results.zarr
    """  # noqa: D301  click needs the backspace character


def say_left_out(outcome: "Outcome") -> None:
    """Say what was set aside, or could not be used."""
    for counts, what in (
        (outcome.set_aside, f"of {outcome.cells} cells were set aside"),
        (outcome.unusable, f"of {outcome.cells} cells could not be used"),
        (outcome.failed_fields, "field(s) could not be used"),
    ):
        if counts:
            shown = ", ".join(f"{n} {text}" for text, n in counts.items())
            tell(f"{sum(counts.values())} {what}: {shown}")


def finish(outcome: "Outcome") -> None:
    """Say what was left out, and end with 3 if something was wrong with any of it."""
    say_left_out(outcome)
    if not outcome.is_complete:
        sys.exit(EXIT_SOME_FAILED)
