"""Carries a plan out: a unit of work per field, done in any order, kept by a ledger.

A field whose files are bad fails alone: it is recorded with its reason, and tried again by the next
import. A unit's token is a hash of all it reads, down to size and time of its files: what was
changed is done again, and nothing else.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from bgscale.distribute.execute import draining_signals, run_units
from bgscale.distribute.ledger import Ledger
from bgscale.distribute.listener import Listener, Silent
from bgscale.distribute.units import Unit
from bgscale.errors import FieldError, InputError
from bgscale.importers.folder import Layout, opened, read_page
from bgscale.importers.plan import ImportPlan, PlatePlan
from bgscale.ngff import create_plate, write_field
from bgscale.schema import Reason

if TYPE_CHECKING:
    import tifffile

    from bgscale.distribute.execute import Client

VERSION = 1
"""Raised when the same files start to give another plate."""
ZARR = ".zarr"
_WELL = re.compile(r"([A-Z]+)(.+)")
_Place = tuple[str, str, int]
"""Channel, file, page."""


@dataclass(frozen=True)
class ImportOutcome:
    """How an import ended.

    Parameters
    ----------
    written : int
        Fields that this import has written.
    failed : list of (field, reason)
        Full names of fields, "plate/well/field", and why they are not there.
    already : int
        Fields that an earlier import had written.
    plates : tuple of path
    """

    written: int
    failed: list[tuple[str, str]]
    already: int
    plates: tuple[Path, ...]


@dataclass(frozen=True)
class _Field:
    """What a unit does, as it stands in the list that workers read."""

    well: str
    name: str
    places: tuple[_Place, ...]
    problem: tuple[int, str] | None

    def token(self, shared: str, times: list[tuple[int, int]]) -> str:
        text = json.dumps([shared, self.well, self.name, self.places, self.problem, times])
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


class _Counts(Silent):
    """Passes on what is heard, and counts it."""

    def __init__(self, listener: Listener | None) -> None:
        self._listener = listener or Silent()
        self.written = self.already = 0
        self.failed: list[tuple[int, str, str]] = []

    def stage_started(self, stage: str, purpose: str, units: int, done: int) -> None:
        self.already += done
        self._listener.stage_started(stage, purpose, units, done)

    def unit_done(self, unit: Unit, summary: dict[str, Any]) -> None:
        if "reason" in summary:
            self.failed.append((unit.start, summary["field"], summary["text"]))
        else:
            self.written += 1
        self._listener.unit_done(unit, summary)

    def unit_failed(self, unit: Unit, error: str) -> None:
        self._listener.unit_failed(unit, error)

    def stage_finished(self, stage: str) -> None:
        self._listener.stage_finished(stage)


def run_import(
    plan: ImportPlan,
    out: str | Path,
    *,
    client: "Client | None" = None,
    listener: Listener | None = None,
) -> ImportOutcome:
    """Write the plates of a plan.

    Run again after an interruption it does what is missing, and tries again what has failed.

    Parameters
    ----------
    plan : ImportPlan
    out : path
        Folder that gets ``PLATE.zarr`` for each plate; for a single plate it can be a name with
        ``.zarr``, which is then the plate itself. Progress is kept beside it.
    client : distributed.Client, optional
        From `bgscale.connect`; None works here, one field after the other.
    listener : Listener, optional
        Hears of progress.

    Raises
    ------
    InputError
        The target is no place for these plates, or a file needs a package that is absent.
    UnitError, DiskFullError, InterruptedRunError
        See `bgscale.distribute.execute.run_units`.
    """
    out = Path(out)
    targets = _targets(plan, out)
    ledger = Ledger(str(out))
    counts = _Counts(listener)
    failed: list[tuple[str, str]] = []
    with draining_signals() as stop:
        for plate, target in zip(plan.plates, targets, strict=True):
            create_plate(target, name=plate.name, fields=plate.fields)
            units, job = _units(plan, plate, target, ledger)
            counts.failed = []
            run_units(
                work,
                units,
                job,
                ledger=ledger,
                client=client,
                listener=counts,
                purpose=f"import {plate.name}",
                stop=stop,
            )
            failed += [(name, text) for _, name, text in sorted(counts.failed)]
    return ImportOutcome(counts.written, failed, counts.already, tuple(targets))


def _targets(plan: ImportPlan, out: Path) -> list[Path]:
    if out.suffix == ZARR:
        if len(plan.plates) > 1:
            msg = f"{out} is one plate, {plan.root} has {len(plan.plates)}: give a folder instead"
            raise InputError(msg)
        return [out]
    if out.exists() and not out.is_dir():
        msg = f"{out} is a file: give a folder for the plates"
        raise InputError(msg)
    return [out / f"{plate.name}{ZARR}" for plate in plan.plates]


def _units(
    plan: ImportPlan, plate: PlatePlan, target: Path, ledger: Ledger
) -> tuple[list[Unit], str]:
    """Return the units of a plate, and the job that workers get: where the list of fields is."""
    size = plate.pixel_size_um
    what = {
        "version": VERSION,
        "plate": plate.name,
        "channels": plate.channels,
        "pixel_size_um": size,
        "shape": plate.shape,
        "dtype": plate.dtype.str,
        "single_pages": plate.single_pages,
    }
    shared = json.dumps(what, sort_keys=True)
    fields, units = [], []
    for index, (field, times) in enumerate(_fields(plate)):
        fields.append([field.well, field.name, field.places, field.problem])
        unit = Unit(f"import/{plate.name}", index, index + 1, field.token(shared, times))
        units.append(_untried(unit, ledger))
    where = {
        "root": str(plan.root.resolve()),
        "target": str(target.resolve()),
        "store": str(Path(ledger.store).resolve()),
    }
    text = json.dumps({**what, **where, "fields": fields})
    digest = hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
    path = ledger.folder.resolve() / "import" / f"{plate.name}.{digest}.json"
    _write(path, text)
    return units, json.dumps({"list": str(path)})


def _fields(plate: PlatePlan) -> Iterator[tuple[_Field, list[tuple[int, int]]]]:
    """Yield each field with size and time of the files it is made of."""
    columns = ["well", "field", "channel", "file", "page", "bytes", "modified_ns"]
    gathered: dict[tuple[str, str], tuple[list[_Place], list[tuple[int, int]]]] = {}
    rows = zip(*(plate.table[c].tolist() for c in columns), strict=True)
    for well, name, channel, file, page, size, modified in rows:
        places, times = gathered.setdefault((well, name), ([], []))
        places.append((channel, file, page))
        times.append((size, modified))
    for (well, name), (places, times) in gathered.items():
        problem = plate.problems.get((well, name))
        known = None if problem is None else (int(problem[0]), problem[1])
        yield _Field(well, name, tuple(places), known), times


def _untried(unit: Unit, ledger: Ledger) -> Unit:
    """Return the unit, under a new token where its last try has failed."""
    attempt = 0
    tried = unit
    while any("reason" in summary for summary in ledger.summaries([tried])):
        attempt += 1
        tried = Unit(unit.stage, unit.start, unit.stop, f"{unit.token}-{attempt}")
    return tried


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f"{path.name}.{os.getpid()}.partial")
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    except (FileExistsError, NotADirectoryError, PermissionError) as error:
        msg = f"cannot keep progress in {path.parent}: {error.strerror}"
        raise InputError(msg) from None


@lru_cache(maxsize=4)
def _job(path: str) -> dict[str, Any]:
    # the list can be long: it travels by the disk, once to each worker
    job: dict[str, Any] = json.loads(Path(path).read_text(encoding="utf-8"))
    return job


def work(unit: Unit, text: str) -> tuple[list[str], dict[str, Any]]:
    """Import one field; runs in the workers. A bad field is a summary with a reason."""
    job = _job(json.loads(text)["list"])
    well, name, places, problem = job["fields"][unit.start]
    target, store = Path(job["target"]), Path(job["store"])
    node = _node(target, well, name)
    full = f"{job['plate']}/{well}/{name}"
    try:
        if problem is not None:
            raise FieldError(*problem)
        layout = Layout((job["shape"][0], job["shape"][1]), np.dtype(job["dtype"]))
        image = read_field(
            Path(job["root"]), places, job["channels"], layout, single=job["single_pages"]
        )
    except FieldError as error:
        # what an earlier import made of other files must not stand for this field
        shutil.rmtree(node, ignore_errors=True)
        return [], {"field": full, "reason": int(error.reason), "text": str(error)}
    size = job["pixel_size_um"]
    write_field(target, well, name, image, channels=job["channels"], pixel_size_um=size)
    files = [str(p.relative_to(store)) for p in sorted(node.rglob("*")) if p.is_file()]
    return files, {"field": full}


def _node(target: Path, well: str, name: str) -> Path:
    fits = _WELL.fullmatch(well)
    if fits is None:
        msg = f"well {well!r}: expected row letters and a column"
        raise InputError(msg)
    return target / fits[1] / fits[2] / name


def read_field(
    root: Path, places: list[_Place], channels: list[str], layout: Layout, *, single: bool
) -> npt.NDArray[Any]:
    """Return a field; several planes of a channel are projected to their maximum.

    Parameters
    ----------
    root : path
    places : list of (channel, file, page)
    channels : list of str
    layout : Layout
        What every plane must have.
    single : bool
        Whether a file must have one page.

    Returns
    -------
    array (channel, y, x)
        In the layout's dtype.

    Raises
    ------
    FieldError
        A plane is damaged or of another layout, or a channel is absent.
    InputError
        A file is compressed in a way that needs imagecodecs.
    """
    image = np.zeros((len(channels), *layout.shape), layout.dtype)
    filled: set[str] = set()
    with ExitStack() as open_files:
        tiffs: dict[str, tifffile.TiffFile] = {}
        for channel, file, page in places:
            if file not in tiffs:
                # one at a time: a stack can be of more files than may be open
                open_files.close()
                tiffs = {file: open_files.enter_context(opened(root / file))}
            plane = read_page(tiffs[file], page, layout, single=single)
            into = image[channels.index(channel)]
            np.copyto(into, plane if channel not in filled else np.maximum(into, plane))
            filled.add(channel)
    absent = [channel for channel in channels if channel not in filled]
    if absent:
        raise FieldError(Reason.MISSING_CHANNEL, f"channel {absent[0]!r} is missing")
    return image
