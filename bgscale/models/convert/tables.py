"""The two small text files that a conversion may be given: names of classes, names of variables.

Owns their reading. Refuses to know whether they fit: `match.py`, `ModelSpec`.
"""

import csv
import io
import tomllib
from pathlib import Path
from typing import Any

from bgscale.errors import InputError, nearest_file

_HEADERS = (("theirs", "ours"), ("name", "tensor"))


def read_classes(path: Path) -> tuple[str, ...]:
    """Return the names of classes, one a line, in the order of the network's outputs."""
    names = [line.strip() for line in _text(path).splitlines()]
    while names and not names[-1]:
        names.pop()
    if not names or not all(names):
        what = f"line {names.index('') + 1} is empty" if names else "it is empty"
        msg = f"classes file {path}: {what}; expected the name of a class on each line"
        raise InputError(msg)
    return tuple(names)


def read_names(path: Path) -> dict[str, str]:
    """Return their name -> our name, from a TOML table or a CSV of two columns.

    Raises
    ------
    InputError
        It cannot be read, or says something twice.
    """
    if path.suffix.lower() == ".toml":
        try:
            table = tomllib.loads(_text(path))
        except tomllib.TOMLDecodeError as error:
            msg = f"names file {path}: {error}; expected lines such as {_EXAMPLE}"
            raise InputError(msg) from error
        pairs: list[tuple[Any, ...]] = list(table.items())
    else:
        rows = [row for row in csv.reader(io.StringIO(_text(path))) if any(row)]
        pairs = [tuple(cell.strip() for cell in row) for row in rows]
        if pairs and pairs[0] in _HEADERS:
            pairs = pairs[1:]
    names: dict[str, str] = {}
    for pair in pairs:
        if len(pair) != 2 or not all(isinstance(value, str) and value for value in pair):
            msg = f"names file {path}: {pair!r}; expected their name and ours, as {_EXAMPLE}"
            raise InputError(msg)
        if pair[0] in names:
            msg = f"names file {path}: {pair[0]!r} stands there twice"
            raise InputError(msg)
        names[pair[0]] = pair[1]
    if not names:
        msg = f"names file {path} is empty; expected their names and ours, as {_EXAMPLE}"
        raise InputError(msg)
    return names


_EXAMPLE = '"conv_1/weights/Variable" = "conv1.weight" (.toml) or the same with a comma (.csv)'


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        msg = f"{path}: {reason}{nearest_file(path)}; expected a text file"
        raise InputError(msg) from error
