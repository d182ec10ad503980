"""JSON that is not trusted: a value of the expected type, or a `FieldError` that says what it is.

Pure. Who calls adds the file. Nothing is ever made as large as a number in a file asks for.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from bgscale.errors import FieldError
from bgscale.schema import Reason

LARGEST_NUMBER = 2**62
Json = Mapping[str, Any]
NAMES: dict[type, str] = {
    dict: "an object",
    list: "a list",
    str: "text",
    bool: "true or false",
}


def wrong(message: str, reason: Reason = Reason.METADATA) -> FieldError:
    """Return the error to raise."""
    return FieldError(reason, message)


def parse_json(content: bytes) -> dict[str, Any]:
    """Return the JSON object of a metadata file."""
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as error:
        msg = f"is no JSON: {error or 'nested too deep'}"
        raise wrong(msg) from None
    if not isinstance(document, dict):
        msg = f"holds {kind_of(document)}; expected an object"
        raise wrong(msg)
    return document


def kind_of(value: object) -> str:
    """Return what a value is, for a message."""
    shown = repr(value)
    return NAMES.get(type(value), shown if len(shown) < 40 else "a number")


def item(where: str, document: Json, key: str, kind: type, default: Any = ...) -> Any:
    """Return a value of the expected type; without a default it must be there."""
    value = document.get(key, default)
    if value is ...:
        msg = f"{where} has no {key!r}"
        raise wrong(msg)
    if value is not default and not isinstance(value, kind):
        expected = NAMES[kind]
        msg = f"{where}.{key} is {kind_of(value)}; expected {expected}"
        raise wrong(msg)
    return value


def objects(where: str, values: Sequence[object]) -> list[Json]:
    """Return a list of which every entry is an object."""
    for i, value in enumerate(values):
        if not isinstance(value, dict):
            msg = f"{where}[{i}] is {kind_of(value)}; expected an object"
            raise wrong(msg)
    return list(values)  # type: ignore[arg-type]


def whole_numbers(where: str, values: Sequence[object], length: int | None = None) -> list[int]:
    """Return whole numbers of at least 1, as shapes have."""
    for value in values:
        if type(value) is not int or not 1 <= value <= LARGEST_NUMBER:
            msg = f"{where} is {str(values)[:80]}; expected whole numbers of at least 1"
            raise wrong(msg)
    if length is not None and len(values) != length:
        msg = f"{where} has {len(values)} entries; expected {length}, one per axis"
        raise wrong(msg)
    return list(values)  # type: ignore[arg-type]


def safe_path(where: str, path: str) -> str:
    """Return a path that stays below where it starts, or raise."""
    pieces = path.split("/")
    bad = any(p in ("", ".", "..") for p in pieces)
    # no backslash, no control character, and no half of a surrogate pair: no file has such a name
    if bad or re.search(r"[\\\x00-\x1f\x7f\ud800-\udfff]", path) or len(path) > 1024:
        msg = f"{where} is {path[:80]!r}; expected names joined by '/', none of them empty or '..'"
        raise wrong(msg)
    return path
