"""What a place is that was taken for a run store of this version, and what to do then."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bgscale.places import Bucket, Place
from bgscale.schema import STORE_VERSION

NAMED = 3
"""Run stores below a folder that are named."""


def instead_of_a_store(place: Place) -> str:
    """Return what is at a place without a zarr.json, and what to give instead."""
    if isinstance(place, Bucket):
        return "it has no zarr.json; expected the 'store' of a run.toml"
    path = Path(place.location)
    if not path.exists():
        return "there is no such folder; expected the 'store' of a run.toml"
    if not path.is_dir():
        return "it is a file; expected the folder that run.toml names as 'store'"
    items = sorted(path.iterdir())
    inside = [item.name for item in items if _is_store(item)]
    if inside:
        shown = ", ".join(str(path / name) for name in inside[:NAMED])
        return f"it has no zarr.json; did you mean {shown}, in it?"
    if not items:
        return "the folder is empty: `bgscale run run.toml` fills it, or give the 'store' of a run"
    if (path / ".zattrs").exists() or (path / ".zgroup").exists():
        return (
            "it is a Zarr v2 hierarchy, such as an OME-Zarr plate: `bgscale info` looks at screens"
        )
    return "it has no zarr.json; expected the 'store' of a run.toml"


def of_another_version(location: str, attrs: Mapping[str, Any]) -> str:
    """Return what is said of a hierarchy with these attributes, which this bgscale cannot read."""
    got = attrs.get("bgscale_store")
    if got is None:
        inside = [str(folder) for folder in Path(location).parents if _is_store(folder)]
        if inside:
            return f"{location} is not a run store of bgscale: it is a part of {inside[0]}"
        kind = "it is an OME-Zarr plate or image" if "ome" in attrs else "another program made it"
        return (
            f"{location} is not a run store of bgscale: {kind}; expected the 'store' of a "
            "run.toml; `bgscale info` looks at screens"
        )
    version = attrs.get("versions")
    made_by = version.get("bgscale") if isinstance(version, Mapping) else None
    by = f" (made by bgscale {made_by})" if made_by else ""
    said = f"{location} has store version {got}{by}, this bgscale reads {STORE_VERSION}: "
    if isinstance(got, int) and got > STORE_VERSION:
        return f"{said}it is of a newer bgscale; upgrade with `pip install -U bgscale`"
    return (
        f"{said}it is of an older bgscale; choose another 'store' in run.toml and run again, or "
        "use the bgscale that made it"
    )


def _is_store(path: Path) -> bool:
    file = path / "zarr.json"
    try:
        return path.is_dir() and '"bgscale_store"' in file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return False
