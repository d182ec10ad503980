"""Open a screen: plates or already cut crops, whichever the path is."""

from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

from bgscale.errors import InputError
from bgscale.ngff import find_plates, is_plate
from bgscale.screen.crops import Screen, open_crops
from bgscale.screen.plates import PlateScreen, open_plates

AnyScreen: TypeAlias = Screen | PlateScreen


def holds_plates(path: str | Path) -> bool:
    """Whether a path names OME-Zarr plates: by itself, by a glob, or in a folder of them."""
    text = str(path)
    if text.startswith("s3://") or any(c in text for c in "*?[") or ".zarr" in Path(text).suffixes:
        return True
    if not Path(text).is_dir():
        return False
    if is_plate(text):
        return True
    try:
        return bool(find_plates(text))
    except InputError:
        return False


def open_screen(
    path: str | Path,
    *,
    plate_map: str | Path | None = None,
    class_column: str = "localization",
    pattern: str | None = None,
    protein: str | int = "gfp",
    cytosol: str | int | None = "rfp",
    nucleus: str | int | None = None,
    mask: str | None = None,
    time: int = 0,
    z: str | int = "max",
    pixel_size_um: float | None = None,
    intensity_scaling: str = "plate",
    proteins: Sequence[str] | None = None,
    limit: int | None = None,
) -> AnyScreen:
    """Open OME-Zarr plates, or a folder or zip of already cut crops; nothing is written to it.

    Parameters
    ----------
    path : path
        Of plates: one, a glob, a folder that holds some, or ``s3://bucket/prefix``.
    plate_map : path, optional
        CSV with a row per plate and well, of crops per protein; not needed where `class_column` is
        "protein".
    class_column : str
    pattern : str, optional
        Of crops: "pci", "pifia", "bgscale", or a template with {protein}, {field}, {cell},
        {channel}; by default the named one that fits most files.
    protein, cytosol, nucleus : str or int, optional
        What the plates or files call these channels; of plates also their numbers.
    mask : str, optional
        Of crops: what mask files call their channel. With neither masks nor cytosol no cell can be
        found in them.
    time : int
        Of plates: which time point.
    z : {"max", "mean", "middle"} or int
        Of plates: how z is projected, or which plane.
    pixel_size_um : float, optional
        By default what the plates say.
    intensity_scaling : {"plate", "field", "none"}
        "field" where every field was scaled by itself, "none" where strains are mixed in a well.
    proteins : sequence of str, optional
        Only these.
    limit : int, optional
        At most so many crops, or fields of plates: as many of each protein, chosen by hash.

    Returns
    -------
    Screen or PlateScreen

    Raises
    ------
    InputError
        The screen or its plate map is wrong as a whole.
    """
    if limit is not None and limit < 0:
        msg = f"limit is {limit}; expected a number of cells, or 0 for all"
        raise InputError(msg)
    if intensity_scaling not in ("plate", "field", "none"):
        msg = f"intensity_scaling is {intensity_scaling!r}; expected 'plate', 'field' or 'none'"
        raise InputError(msg)
    roles = {"protein": protein, "cytosol": cytosol, "nucleus": nucleus, "mask": mask}
    opened_with = {
        "path": str(path),
        "plate_map": str(plate_map or ""),
        "class_column": class_column,
        "pattern": pattern or "",
        **{role: "" if name is None else str(name) for role, name in roles.items()},
        "time": time,
        "z": str(z),
        "pixel_size_um": pixel_size_um or 0.0,
        "intensity_scaling": intensity_scaling,
        "proteins": tuple(proteins or ()),
        "limit": limit or 0,
    }
    if holds_plates(path):
        return open_plates(str(path), opened_with)
    return open_crops(Path(path), opened_with)
