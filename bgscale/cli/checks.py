"""Commands that check what is there."""

import json
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bgscale.cli.root import STORE, main, tell
from bgscale.errors import EXIT_SOME_FAILED

if TYPE_CHECKING:
    from bgscale.verify import Checked, Report

SHOWN = 10


@main.command()
@click.argument("store", type=STORE)
@click.option("--deep", is_flag=True, help="Read every file, and compare checksums.")
@click.option("--dry-run", is_flag=True, help="Only tell; forget nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def verify(store: Path, deep: bool, dry_run: bool, as_json: bool) -> None:  # noqa: FBT001
    """Say whether all that a run has done is still there, as it was written.

    By the done-records: files that are missing or of another size, and with --deep of another
    checksum. Units with such files are forgotten, so that the next `bgscale run` does exactly those
    again. Ends with 3 if anything was bad.
    """
    from bgscale.distribute.lock import held
    from bgscale.places import spelled
    from bgscale.progress import Narrator
    from bgscale.results import Store
    from bgscale.verify import mark
    from bgscale.verify import verify as checked

    location = spelled(store)
    Store(location).attrs()
    lock = nullcontext() if dry_run else held(location, notice=tell)
    with lock, Narrator(Path()) as narrator, narrator.task("verify") as advance:
        report = checked(location, deep=deep, advance=advance)
        if not dry_run:
            mark(report)
    if as_json:
        click.echo(json.dumps(report.to_json(), indent=2))
    else:
        click.echo(_table(report))
    _conclude(report, dry_run=dry_run)


def _table(report: "Report") -> str:
    from bgscale.places.space import human

    lines = [f"{'stage':<32} {'done':>6} of {'units':>6} {'files':>8} {'size':>8} {'bad':>5}"]
    for s in report.stages:
        size, bad = human(s.bytes), "all" if s.is_damaged else len(s.bad_units)
        lines.append(
            f"{s.stage:<32} {s.recorded:>6} of {s.units:>6} {s.files:>8} {size:>8} {bad:>5}"
        )
    for s in report.stages:
        lines += _findings(s)
    return "\n".join(lines)


def _findings(stage: "Checked") -> list[str]:
    lines = [f"{stage.stage}: {f.what} {f.problem}" for f in stage.findings[:SHOWN]]
    more = len(stage.findings) - SHOWN
    return [*lines, f"{stage.stage}: and {more} more (--json lists all)"] if more > 0 else lines


def _conclude(report: "Report", *, dry_run: bool) -> None:
    how = "sizes and checksums" if report.deep else "sizes (--deep compares checksums too)"
    if report.is_sound:
        tell(f"{report.store} is sound, by {how}")
        return
    units = sum(len(s.bad_units) for s in report.stages if not s.is_damaged)
    anew = [s.stage for s in report.stages if s.is_damaged]
    bad = [f"{units} units are bad"] if units else []
    bad += [f"these stages have to be made anew: {', '.join(anew)}"] if anew else []
    hint = (
        "nothing was forgotten (--dry-run)"
        if dry_run
        else "their records are forgotten: the next `bgscale run` does exactly those again"
    )
    tell(f"{'; '.join(bad)}; {hint}")
    sys.exit(EXIT_SOME_FAILED)
