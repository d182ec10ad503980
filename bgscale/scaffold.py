"""What a newcomer needs before a run: a config, a plate-map template, and a look at the screen."""

from pathlib import Path
from typing import Any

from bgscale.config import RunConfig, template
from bgscale.errors import InputError
from bgscale.screen import Screen, open_screen

EXAMPLE_MAP = """protein,localization
AAC1,mitochondrion
AAH1,cytoplasm;nucleus
XYZ1,
"""


def scaffold(screen: Path | None, output: Path, *, pattern: str, force: bool) -> list[Path]:
    """Write a commented run.toml and a plate-map template beside it; return their paths.

    Raises
    ------
    InputError
        One of them is there and `force` is not set, or the screen cannot be read.
    """
    plate_map = output.parent / "platemap.csv"
    for path in (output, plate_map):
        if path.exists() and not force:
            msg = f"{path} is there already: choose another --output, or give --force to replace it"
            raise InputError(msg)
    config, rows = RunConfig(), EXAMPLE_MAP
    if screen is not None:
        found = _open_any(screen, pattern)
        section = config.screen.model_copy(
            update={
                "path": _relative(screen, output.parent),
                "pattern": found.opened_with["pattern"] or pattern,
                **{role: found.opened_with[role] or "" for role in _ROLES},
            }
        )
        config = config.model_copy(update={"screen": section})
        rows = found.plate_map_template()
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(template(config), encoding="utf-8")
    plate_map.write_text(rows, encoding="utf-8")
    return [output, plate_map]


_ROLES = ("protein", "cytosol", "nucleus", "mask")


def _relative(path: Path, folder: Path) -> str:
    path, folder = path.resolve(), folder.resolve()
    return str(path.relative_to(folder)) if path.is_relative_to(folder) else str(path)


def _open_any(path: Path, pattern: str) -> Screen:
    raise NotImplementedError


def describe(path: Path, *, pattern: str = "") -> tuple[dict[str, Any], str]:
    """Return what a screen (or the screen of a run.toml) holds, as values and as text."""
    raise NotImplementedError
