"""Which fields a plate has: what its metadata name, less what is not there.

Costs one file and one listing a well, and looks into no field. What is wrong with a well or field
is a `Problem`; the others stay usable.
"""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

from bgscale.errors import FieldError
from bgscale.ngff.documents import ome_of, within
from bgscale.ngff.files import Files
from bgscale.ngff.metadata import (
    FieldRef,
    Problem,
    field_path,
    well_fields,
    well_name,
    well_path,
)
from bgscale.schema import Reason, natural


def _wells(entries: Iterable[object]) -> tuple[list[tuple[str, str]], list[Problem]]:
    """Return canonical name and path of the wells by row and column, and what is wrong."""
    wells: dict[str, tuple[str, str, str]] = {}
    problems = []
    for entry in entries:
        try:
            path, row, column = well_path(entry)
        except FieldError as error:
            shown = entry.get("path") if isinstance(entry, dict) else entry
            problems.append(Problem(str(shown)[:40], "", Reason.METADATA, str(error)))
            continue
        name = well_name(row, column)
        if name in wells:
            other = "/".join(wells[name][1:])
            text = f"well {name} is named twice, as {other!r} and {path!r}: the first is used"
            problems.append(Problem(name, "", Reason.METADATA, text))
            continue
        wells[name] = (path, row, column)
    ordered = sorted(wells.items(), key=lambda w: (len(w[1][1]), w[1][1], natural(w[1][2])))
    return [(name, path) for name, (path, _, _) in ordered], problems


def _fields_of(
    files: Files, version: str, plate: str, well: str, path: str
) -> tuple[list[FieldRef], list[Problem]]:
    """Return the fields of a well in natural order, and what is wrong with it."""
    problems: list[Problem] = []

    def fault(field: str, text: str, reason: int = Reason.METADATA) -> None:
        problems.append(Problem(well, field, Reason(reason), text))

    try:
        ome = ome_of(files, path, version, f"{plate}/{path}")
        entries = within(f"{plate}/{path}", lambda: well_fields(ome))
        there = files.folders(path)
    except FieldError as error:
        fault("", str(error), error.reason)
        return [], problems
    except OSError as error:
        fault("", str(error), Reason.UNREADABLE)
        return [], problems
    names: list[str] = []
    for entry in entries:
        try:
            name = field_path(entry)
        except FieldError as error:
            fault("", f"{plate}/{path}: {error}")
            continue
        if name in names:
            fault(name, f"{plate}/{path}: field {name!r} is named twice: it is used once")
        elif name not in there:
            fault(name, f"{plate}/{path}: there is no field {name!r}, which the metadata name")
        else:
            names.append(name)
    if not entries:
        fault("", f"{plate}/{path}: the metadata name no field")
    names.sort(key=natural)
    return [FieldRef(plate, well, name, f"{path}/{name}") for name in names], problems


def list_fields(
    files: Files, version: str, plate: str, entries: Iterable[object]
) -> tuple[tuple[FieldRef, ...], tuple[Problem, ...]]:
    """Return the fields of a plate by row, column and field, and what is wrong.

    Parameters
    ----------
    files : Files
    version : str
    plate : str
        Its name.
    entries : iterable
        `plate.wells` of its metadata, unchecked.
    """
    wells, problems = _wells(entries)
    fields: list[FieldRef] = []
    with ThreadPoolExecutor(files.readers) as pool:
        opened = pool.map(lambda well: _fields_of(files, version, plate, *well), wells)
        for refs, faults in opened:
            fields += refs
            problems += faults
    return tuple(fields), tuple(problems)
