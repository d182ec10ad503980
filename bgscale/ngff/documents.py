"""The metadata files of a plate: which file a node has in which version, read and parsed.

A file that cannot be read or is no JSON is a `FieldError` that says where; one that is not there is
None, where that may be.
"""

from collections.abc import Callable
from typing import Any, TypeVar

from bgscale.errors import FieldError, InputError
from bgscale.ngff.checked import Json, parse_json, wrong
from bgscale.ngff.files import Files
from bgscale.ngff.metadata import ome_attributes
from bgscale.schema import Reason

GROUP_FILE = {"0.4": ".zattrs", "0.5": "zarr.json"}
ARRAY_FILE = {"0.4": ".zarray", "0.5": "zarr.json"}
T = TypeVar("T")


def json_of(files: Files, key: str, where: str) -> dict[str, Any] | None:
    """Return the JSON of a file, None where it is not there."""
    try:
        content = files.read(key)
    except (OSError, ValueError) as error:
        msg = f"{where}: {key} cannot be read: {error}"
        raise FieldError(Reason.UNREADABLE, msg) from None
    return None if content is None else within(f"{where}: {key}", lambda: parse_json(content))


def ome_of(files: Files, path: str, version: str, where: str) -> Json:
    """Return the OME metadata of a group that must be there."""
    document = json_of(files, f"{path}/{GROUP_FILE[version]}", where)
    if document is None:
        msg = f"{where}: there is no {GROUP_FILE[version]}, which the metadata above ask for"
        raise wrong(msg)
    return within(where, lambda: ome_attributes(document, version))


def within(where: str, step: Callable[[], T]) -> T:
    """Run a step; a fault of its says where."""
    try:
        return step()
    except FieldError as error:
        msg = f"{where}: {error}"
        raise FieldError(error.reason, msg) from error.__cause__


def read_root(files: Files, where: str) -> tuple[str, dict[str, Any]] | None:
    """Return version and metadata of the root of an OME-Zarr; None where there are none.

    Raises
    ------
    InputError
        They cannot be read, or are no JSON.
    """
    for version, file in sorted(GROUP_FILE.items(), reverse=True):
        try:
            document = json_of(files, file, where)
        except FieldError as error:
            raise InputError(str(error)) from None
        if document is not None:
            return version, document
    return None
