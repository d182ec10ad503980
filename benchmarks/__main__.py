"""The suite of benchmarks: lists them, runs them, and writes the README's table of their ratios.

    python -m benchmarks                             # what there is, what it needs, how long
    python -m benchmarks run [NAMES] [--quick] [--data DATA]
    python -m benchmarks table [--check]

`run` leaves a log and a JSON of each in ``benchmark-runs``, and ends with 1 if one has failed. What
is to be quoted is copied from there to the folder ``benchmarks`` and committed; `table` reads that.
"""

import argparse
import difflib
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.suite import BENCHMARKS, REPOSITORY, Benchmark, Places, run, why_not
from benchmarks.table import README, replaced, table

LOG_LINES = 15


def listing() -> str:
    """Return what there is, as text."""
    lines = []
    for one in BENCHMARKS:
        quick = "" if one.quick is None else "; --quick"
        figures = "" if one.json.exists() else "; no figures committed"
        needs = f"; needs {one.needs}" if one.needs else ""
        lines += [f"{one.name:<16}{one.purpose}", f"{'':<16}  {one.takes}{quick}{needs}{figures}"]
    return "\n".join(lines)


def run_them(chosen: Sequence[Benchmark], places: Places, *, quick: bool) -> int:
    """Run, say how each ended, and return the exit code."""
    failed = []
    for ended in run(chosen, places, quick=quick):
        if ended.skipped:
            print(f"{ended.name:<16}skipped: {ended.skipped}", flush=True)
            continue
        print(f"{ended.name:<16}{ended.seconds:>8.1f} s   exit {ended.code}", flush=True)
        if ended.code:
            failed.append(ended.name)
            log = places.results / f"{ended.name}.log"
            last = log.read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_LINES:]
            print("\n".join(f"    {line}" for line in [*last, f"all of it: {log}"]), flush=True)
    print(f"logs and figures: {places.results}")
    if failed:
        print(f"failed: {', '.join(failed)}")
    return 1 if failed else 0


def tabulate(readme: Path, *, check: bool) -> int:
    """Write the table into the README, or say where the two disagree; return the exit code."""
    text = readme.read_text(encoding="utf-8")
    made = replaced(text, table())
    if made == text:
        print(f"{readme.name}: its table is that of the committed JSON")
        return 0
    if not check:
        readme.write_text(made, encoding="utf-8")
        print(f"{readme.name}: written")
        return 0
    lines = (part.splitlines(keepends=True) for part in (text, made))
    sys.stdout.writelines(difflib.unified_diff(*lines, readme.name, "committed JSON", n=0))
    print(f"{readme.name}: its table is not that of the committed JSON: python -m benchmarks table")
    return 1


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=(__doc__ or ""))
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    commands = parser.add_subparsers(dest="command", metavar="[run | table]")
    runs = commands.add_parser("run", help="run benchmarks, one after another")
    runs.add_argument("names", nargs="*", help="which; else all that can be run")
    runs.add_argument("--quick", action="store_true", help="a little of each, to see that it works")
    runs.add_argument("--data", type=Path, help="folder of third-party data sets")
    runs.add_argument("--environments", type=Path, help="where peers are installed and kept")
    runs.add_argument("--folder", type=Path, default=Path("benchmark-runs"), help="logs, JSON")
    tables = commands.add_parser("table", help="write the README's table from the committed JSON")
    tables.add_argument("--check", action="store_true", help="write nothing; 1 if it differs")
    tables.add_argument("--readme", type=Path, default=REPOSITORY / README, help="the file")
    asked = parser.parse_args(arguments)
    if asked.command == "table":
        return tabulate(asked.readme, check=asked.check)
    if asked.command is None:
        print(listing())
        return 0
    known = {one.name: one for one in BENCHMARKS}
    unknown = [name for name in asked.names if name not in known]
    if unknown:
        runs.error(f"no benchmark {', '.join(unknown)}; there are {', '.join(known)}")
    if asked.data and not asked.data.is_dir():
        runs.error(f"--data: no folder {asked.data}")
    data, environments = (path and path.resolve() for path in (asked.data, asked.environments))
    places = Places(asked.folder.resolve(), data, environments)
    for name in asked.names:
        reason = why_not(known[name], places, quick=asked.quick)
        if reason:
            runs.error(f"{name}: {reason}")
    chosen = [known[name] for name in asked.names] or BENCHMARKS
    return run_them(chosen, places, quick=asked.quick)


if __name__ == "__main__":
    sys.exit(main())
