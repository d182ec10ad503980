"""Which plates a name stands for: a plate, a folder of plates, a glob, on disk or in a bucket."""

import glob
import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from bgscale.errors import FieldError, InputError, nearest
from bgscale.ngff.documents import read_root
from bgscale.ngff.files import S3, files_at
from bgscale.ngff.metadata import ome_attributes
from bgscale.ngff.read import plate_name
from bgscale.schema import natural

SHOWN = 5
_MAGIC = re.compile(r"[*?\[]")


def is_plate(location: str | Path) -> bool:
    """Return whether there is an OME-Zarr plate, by the metadata of its root.

    Raises
    ------
    InputError
        An address that cannot be read, or obstore is absent.
    """
    files = files_at(str(location))
    try:
        found = read_root(files, str(location))
        return found is not None and "plate" in ome_attributes(found[1], found[0])
    except (FieldError, InputError):
        return False


def find_plates(pattern: str | Path | Sequence[str | Path]) -> list[str]:
    """Return the locations of plates.

    Parameters
    ----------
    pattern : str, path, or a sequence of these
        A plate, a folder or prefix that holds plates, or a glob of these; also s3://bucket/...

    Returns
    -------
    list of str
        In natural order of each pattern, each plate once.

    Raises
    ------
    InputError
        Nothing is there, what is there is no plate, or two plates have one name.
    """
    patterns = [pattern] if isinstance(pattern, str | Path) else list(pattern)
    if not patterns:
        msg = "no plates are named: give a plate, a folder of plates, or a glob"
        raise InputError(msg)
    found = [place for one in patterns for place in _expanded(_bare(str(one)))]
    named: dict[str, str] = {}
    for place in dict.fromkeys(found):
        other = named.setdefault(plate_name(place), place)
        if other != place:
            msg = f"two plates are called {plate_name(place)!r}: {other} and {place}: rename one"
            raise InputError(msg)
    return list(named.values())


def _bare(pattern: str) -> str:
    """Return a pattern without slashes at its end, where they are not all of it."""
    bare = pattern.rstrip("/")
    return pattern if not bare or bare.endswith(":") else bare


def _expanded(pattern: str) -> list[str]:
    """Return the plates of one pattern."""
    if is_plate(pattern):
        return [pattern]
    matches = _matches(pattern)
    if not matches:
        folder, _, last = pattern.rpartition("/")
        there = sorted(_below(folder), key=natural)
        shown = ", ".join(there[:SHOWN]) or "nothing"
        msg = (
            f"no plates at {pattern}{nearest(last, there)}; expected an OME-Zarr plate, a folder "
            f"of plates, or a glob; in {folder or '.'} there is: {shown}"
        )
        raise InputError(msg)
    plates: list[str] = []
    for match in matches:
        if is_plate(match):
            plates.append(match)
        else:
            below = sorted(_below(match), key=natural)
            plates += [place for name in below if is_plate(place := f"{match}/{name}")]
    if not plates:
        said = "; ".join(f"{match}: {_what(match)}" for match in matches[:SHOWN])
        msg = f"no OME-Zarr plates at {pattern} ({said}); expected plates, or a folder of plates"
        raise InputError(msg)
    return plates


def _matches(pattern: str) -> list[str]:
    """Return the folders that a pattern stands for, itself where it is one."""
    if not pattern.startswith(S3):
        if Path(pattern).is_dir():
            return [pattern]
        there = glob.glob(pattern, recursive=True)  # noqa: PTH207  keeps how the user wrote it
        return sorted((p for p in there if Path(p).is_dir()), key=natural)
    bucket, *pieces = pattern.removeprefix(S3).split("/")
    found = [S3 + bucket]
    for piece in pieces:
        if _MAGIC.search(piece):
            names = ((place, name) for place in found for name in _below(place))
            found = [f"{place}/{name}" for place, name in names if fnmatchcase(name, piece)]
        else:
            found = [f"{place}/{piece}" for place in found]
    return sorted((p for p in found if _below(p)), key=natural)


def _below(place: str) -> set[str]:
    """Return the names of the folders right below a place."""
    try:
        return files_at(place or ".").folders("")
    except (OSError, InputError):
        return set()


def _what(place: str) -> str:
    """Return what is at a place that is no plate."""
    try:
        found = read_root(files_at(place), place)
        if found is None:
            return "no Zarr metadata"
        keys = ome_attributes(found[1], found[0])
    except (FieldError, InputError) as error:
        return str(error)
    if "multiscales" in keys:
        return "an image, not a plate"
    return "Zarr, but no plate"
