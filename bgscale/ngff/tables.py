"""Tables of a field, as Fractal and ngio lay them out: a Parquet file in a group that says of what.

A table is written before it is listed: what is listed is whole.
"""

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bgscale.errors import InputError
from bgscale.ngff.write import field_folder, write_attributes

FILE = "table.parquet"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


def write_table(
    path: str | Path,
    well: str,
    field: str,
    content: bytes,
    *,
    name: str,
    labels: str = "",
    about: Mapping[str, Any] | None = None,
) -> None:
    """Write a table of a field that is there; one of the same name is replaced.

    Parameters
    ----------
    path : path
        Of a plate that `create_plate` made.
    well, field : str
    content : bytes
        A Parquet file. Of a table of labels, its column "label" is their number.
    name : str
    labels : str
        Label image whose labels are the rows; by default the table is of something else.
    about : mapping, optional
        Further attributes.

    Raises
    ------
    InputError
        There is no such field, or the name is not allowed.
    """
    node = field_folder(path, well, field)
    if not _NAME.fullmatch(name):
        msg = f"a table is called {name!r}; expected letters, digits, '_' and '-'"
        raise InputError(msg)
    group = node / "tables"
    known = _listed(group)
    others = [other for other in known if other != name]
    write_attributes(group, {"tables": others})
    if (group / name).exists():
        shutil.rmtree(group / name)
    kind: dict[str, Any] = {"type": "generic_table"}
    if labels:
        kind = {
            "type": "feature_table",
            "region": {"path": f"../labels/{labels}"},
            "instance_key": "label",
            "index_key": "label",
            "index_type": "int",
        }
    write_attributes(
        group / name, {**(about or {}), **kind, "table_version": "1", "backend": "parquet"}
    )
    (group / name / FILE).write_bytes(content)
    write_attributes(group, {"tables": [*others, name]})


def _listed(group: Path) -> list[str]:
    """Return the tables that a group lists."""
    try:
        document = json.loads((group / "zarr.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return []
    return list(document["attributes"]["tables"])
