"""Is a run store whole? Its done-records against the files that are there.

A record says which files a unit wrote, how long they are and what their checksum is. What is
missing, torn or altered makes its unit a bad one; `mark` forgets bad units, and the next run does
exactly those again. No file outside the store is looked at, whatever a record says.
"""

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from bgscale.distribute.ledger import Ledger, checksum
from bgscale.distribute.units import Unit
from bgscale.places import Place, each
from bgscale.results import Store

Advance = Callable[[int, int], None]
"""Hears how many files were looked at, of how many."""
CHUNKS = "/c/"
"""Zarr keeps the chunks of an array below this."""
DEEP_READERS = 4


@dataclass(frozen=True)
class Finding:
    """Something that is wrong.

    Parameters
    ----------
    unit : Unit, optional
        Whose record is not borne out; None: the array or group itself is damaged.
    what : str
        The file, relative to the store; or the unit.
    problem : str
    """

    unit: Unit | None
    what: str
    problem: str


@dataclass
class Checked:
    """What was found of one stage.

    Parameters
    ----------
    stage : str
    units : int
        How many it has.
    recorded, files, bytes : int
        How many of them are recorded as done, and what these wrote.
    findings : list of Finding
    """

    stage: str
    units: int
    recorded: int = 0
    files: int = 0
    bytes: int = 0
    findings: list[Finding] = field(default_factory=list)

    @property
    def bad_units(self) -> list[Unit]:
        """The units that have to be done again, each once."""
        return list(dict.fromkeys(f.unit for f in self.findings if f.unit is not None))

    @property
    def is_damaged(self) -> bool:
        """Whether it has to be made anew as a whole: arrays or groups are gone."""
        return any(f.unit is None for f in self.findings)


@dataclass(frozen=True)
class Report:
    """What was found of a store.

    Parameters
    ----------
    store : str
    deep : bool
        Whether checksums were compared.
    stages : tuple of Checked
        In the order of the run.
    """

    store: str
    deep: bool
    stages: tuple[Checked, ...]

    @property
    def is_sound(self) -> bool:
        """Whether nothing is wrong."""
        return not any(stage.findings for stage in self.stages)

    def to_json(self) -> dict[str, Any]:
        """Return the report in plain JSON types."""
        stages = {
            s.stage: {
                "units": s.units,
                "recorded": s.recorded,
                "files": s.files,
                "bytes": s.bytes,
                "bad_units": len(s.bad_units),
                "damaged": s.is_damaged,
                "findings": [
                    {"unit": f.unit and f.unit.name, "what": f.what, "problem": f.problem}
                    for f in s.findings
                ],
            }
            for s in self.stages
        }
        return {"store": self.store, "deep": self.deep, "sound": self.is_sound, "stages": stages}


def verify(path: str | Path, *, deep: bool = False, advance: Advance | None = None) -> Report:
    """Compare the done-records of a run store with its files; changes nothing.

    Parameters
    ----------
    path : str or path
        A folder, or s3://bucket/prefix.
    deep : bool
        Read every file, and compare checksums.
    advance : callable, optional
        Hears of progress.

    Raises
    ------
    StoreMismatchError
        Not a run store, or one of another version.
    """
    store = Store(path)
    made: Mapping[str, Mapping[str, Any]] = store.attrs()["stages"]
    ledger = Ledger(store.location)
    stages = {name: Checked(name, int(entry["units"])) for name, entry in made.items()}
    # records of another token are never asked for
    units = [u for u in ledger.recorded() if u.token == made.get(u.stage, {}).get("token")]
    records = each(ledger.record, units, ledger.place.readers)
    known = dict(zip(units, records, strict=True))
    names = {name for record in records if record for name in record["files"]}
    inside = {name for name in names if not store.place.leads_out(name)}
    sizes = store.place.sizes(inside)
    whole: list[tuple[Unit, str, Mapping[str, int]]] = []
    for unit, record in known.items():
        stage = stages[unit.stage]
        stage.recorded += 1
        if record is None:
            stage.findings.append(Finding(unit, unit.name, "its record cannot be read"))
            continue
        for name, entry in record["files"].items():
            stage.files += 1
            stage.bytes += entry["bytes"]
            problem = _problem(name in inside, sizes.get(name), entry["bytes"])
            if problem:
                stage.findings.append(Finding(unit, name, problem))
            else:
                whole.append((unit, name, entry))
    if deep:
        for unit, name, problem in _altered(store.place, whole, advance):
            stages[unit.stage].findings.append(Finding(unit, name, problem))
    for stage_name, finding in _damaged(store.place, made, stages, known):
        stages[stage_name].findings.append(finding)
    return Report(store.location, deep, tuple(stages.values()))


def mark(report: Report) -> None:
    """Forget what is bad, so that the next run does it again, and nothing else.

    A unit loses its record. A stage whose arrays or groups are damaged is no longer entered as
    made: it is made anew, as a whole.
    """
    store, ledger = Store(report.store), Ledger(report.store)
    ledger.forget_units(unit for stage in report.stages for unit in stage.bad_units)
    damaged = [stage.stage for stage in report.stages if stage.is_damaged]
    if damaged:
        made = store.attrs()["stages"]
        store.update_attrs({"stages": {n: entry for n, entry in made.items() if n not in damaged}})
        for name in damaged:
            ledger.forget(name)


def _problem(is_inside: bool, size: int | None, recorded: int) -> str:  # noqa: FBT001
    if not is_inside:
        return "leads out of the store, and was not looked at"
    if size is None:
        return "is missing"
    return "" if size == recorded else f"has {size} bytes, recorded were {recorded}"


def _altered(
    place: Place, files: Sequence[tuple[Unit, str, Mapping[str, int]]], advance: Advance | None
) -> Iterator[tuple[Unit, str, str]]:
    """Yield the files that have another checksum than recorded, or cannot be read."""
    with ThreadPoolExecutor(min(place.readers, DEEP_READERS)) as threads:
        compare = partial(_compared, place)
        problems = threads.map(compare, (name for _, name, _ in files), (e for _, _, e in files))
        for count, ((unit, name, _), problem) in enumerate(zip(files, problems, strict=True), 1):
            if advance is not None:
                advance(count, len(files))
            if problem:
                yield unit, name, problem


def _compared(place: Place, name: str, entry: Mapping[str, int]) -> str:
    try:
        found = checksum(place, name)
    except OSError as error:
        return f"cannot be read: {error.strerror or error}"
    if found == entry:
        return ""
    return f"has CRC-32 {found['crc32']:08x}, recorded was {entry['crc32']:08x}"


def _damaged(
    place: Place,
    made: Mapping[str, Mapping[str, Any]],
    stages: Mapping[str, Checked],
    known: Mapping[Unit, Mapping[str, Any] | None],
) -> Iterator[tuple[str, Finding]]:
    """Yield the stages that have lost an array or a group, and which."""
    written: dict[str, set[str]] = defaultdict(set)
    for unit, record in known.items():
        for name in record["files"] if record else ():
            array, found, _ = name.partition(CHUNKS)
            if found and not place.leads_out(name):
                written[array].add(unit.stage)
    owned = {name: tuple(entry.get("nodes", ())) for name, entry in made.items()}
    groups = {above for array in written for above in _above(array)}
    for name, stage in stages.items():
        if stage.recorded == stage.units:
            groups |= {node for node in owned[name] if node not in written}
    expected = dict.fromkeys(sorted(groups), ("group", "array")) | dict.fromkeys(
        written, ("array",)
    )
    kinds = each(partial(_kind, place), expected, place.readers)
    for (node, kind), got in zip(expected.items(), kinds, strict=True):
        if got not in kind:
            problem = "has no metadata that can be read" if not got else f"is a {got}"
            finding = Finding(None, node, problem)
            yield from ((name, finding) for name in _owners(node, owned, written))


def _kind(place: Place, node: str) -> str:
    """Return whether a node is a group or an array, by its metadata; "" where they are not."""
    try:
        return str(json.loads(place.read(f"{node}/zarr.json") or b"")["node_type"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return ""


def _owners(
    node: str, owned: Mapping[str, Sequence[str]], written: Mapping[str, Iterable[str]]
) -> list[str]:
    """Return the stages that make a node: by what they own, else by what they wrote there."""
    owners = [name for name, nodes in owned.items() if any(_is_at(node, own) for own in nodes)]
    wrote = {name for array, names in written.items() if _is_at(array, node) for name in names}
    return owners or sorted(wrote)


def _is_at(node: str, other: str) -> bool:
    return node == other or node.startswith(f"{other}/") or other.startswith(f"{node}/")


def _above(node: str) -> Iterator[str]:
    parts = node.split("/")
    return ("/".join(parts[:i]) for i in range(1, len(parts)))
