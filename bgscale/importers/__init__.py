"""Folders as microscopes write them, turned into OME-Zarr plates.

An importer knows one way to name files. What it finds is planned, shown and carried out in one way:
`plan_import`, `describe`, `run_import`.

Examples
--------
>>> list(KINDS)
['phenix', 'imagexpress', 'ometiff', 'template']
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from bgscale.errors import InputError
from bgscale.importers.describe import describe
from bgscale.importers.folder import Folder
from bgscale.importers.found import Source
from bgscale.importers.plan import ImportPlan, PlatePlan, plan_plates
from bgscale.importers.run import ImportOutcome, run_import
from bgscale.registry import Registry

__all__ = [
    "KINDS",
    "ImportOutcome",
    "ImportPlan",
    "PlatePlan",
    "Source",
    "describe",
    "plan_import",
    "run_import",
]

KINDS = Registry(
    "kind of folder",
    {
        name: f"bgscale.importers.{name}:find"
        for name in ("phenix", "imagexpress", "ometiff", "template")
    },
)
"""Kind -> function of (Folder, pattern) that returns what it found."""


def plan_import(
    kind: str,
    folder: str | Path,
    *,
    pattern: str | None = None,
    channels: Mapping[str, str] | None = None,
    pixel_size_um: float | None = None,
    z: str | int = "max",
    time: int = 0,
    plate: str | None = None,
) -> ImportPlan:
    """Look at a folder and say what an import would do; writes nothing and reads few headers.

    Parameters
    ----------
    kind : str
        One of `KINDS`.
    folder : path
    pattern : str, optional
        How files are named, for the kind "template".
    channels : mapping of str to str, optional
        Channel as the files name it -> its name on the plate.
    pixel_size_um : float, optional
        Replaces what the metadata say.
    z : "max" or int
        Maximum over all planes, or one of them, from 0.
    time : int
        Time point, from 0.
    plate : str, optional
        Name of the plate, where the folder holds one.

    Raises
    ------
    InputError
        Unknown kind, no such files, two files for one plane, metadata that cannot be trusted.
    """
    find = KINDS[kind]
    if pattern and kind != "template":
        msg = f"a pattern is for the kind 'template'; the files of {kind!r} have names of their own"
        raise InputError(msg)
    listed = Folder(folder)
    found = find(listed, pattern)
    if plate is not None:
        if len(found) > 1:
            names = ", ".join(one.name for one in found[:3])
            msg = f"{folder} holds {len(found)} plates ({names}): one name is not enough"
            raise InputError(msg)
        found = [replace(found[0], name=plate)]
    plans = plan_plates(
        listed, found, channels=channels or {}, pixel_size_um=pixel_size_um, z=z, time=time
    )
    return ImportPlan(kind, Path(folder), tuple(plans), _passed_over(listed, plans))


def _passed_over(folder: Folder, plans: list[PlatePlan]) -> tuple[str, ...]:
    """Return a note on TIFF files that no plate reads."""
    used = {file for plan in plans for file in plan.table["file"]}
    others = [name for name in folder.tiffs if name not in used]
    if not others:
        return ()
    return (f"{len(others)} TIFF files are not read, such as {others[0]}",)
