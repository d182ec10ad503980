"""What a newcomer needs before a run: a config, a plate-map template, and a look at the screen."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bgscale.config import RunConfig, template
from bgscale.errors import InputError
from bgscale.schema import Reason
from bgscale.screen import Screen, channel_names, open_screen
from bgscale.stages.job import Job

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
    """Open a screen of which only the naming pattern is known, if that."""
    channels = channel_names(path, pattern or None)
    chosen: dict[str, Any] = {
        role: next((c for c in channels if c in known), None) for role, known in _USUAL.items()
    }
    if not chosen["protein"]:
        msg = (
            f"{path}: cannot tell which of the channels {', '.join(channels)} is which: run "
            "`bgscale init` without SCREEN and fill in run.toml"
        )
        raise InputError(msg)
    return open_screen(path, pattern=pattern or None, class_column="protein", **chosen)


_USUAL = {
    "protein": ("gfp", "GFP", "ch1"),
    "cytosol": ("rfp", "RFP", "ch3"),
    "nucleus": ("nuc", "dapi", "bfp", "ch2"),
    "mask": ("mask",),
}
"""What the known data sets call their channels."""


def describe(path: Path, *, pattern: str = "") -> tuple[dict[str, Any], str]:
    """Return what a screen (or the screen of a run.toml) holds, as values and as text."""
    if path.suffix == ".toml":
        screen = Job(RunConfig.from_toml(path)).screen
    else:
        screen = _open_any(path, pattern)
    facts = screen.facts()
    by_protein = screen.items.groupby("protein", sort=False)
    lines = [screen.summary(), f"files    {facts['pattern']}"]
    lines += [f"channel  {role}: {name}" for role, name in facts["channels"].items()]
    lines.append(
        f"masks    {facts['masks'] or 'none: cells are segmented from the cytosol channel'}"
    )
    if path.suffix == ".toml":
        lines += [f"class    {c}: {n} proteins" for c, n in facts["classes"].items()]
    lines += ["", f"{'protein':<16}{'fields':>8}{'crops':>8}"]
    for name, rows in by_protein:
        lines.append(f"{name:<16}{rows['field'].nunique():>8}{len(rows):>8}")
    sample = screen.read(_spread(len(screen.items)))
    bad = int((sample.reason != Reason.OK).sum())
    facts["sampled"], facts["sampled_unusable"] = len(sample.reason), bad
    lines += ["", f"{bad} of {len(sample.reason)} crops looked at cannot be used"]
    for reason in Reason:
        count = int((sample.reason == reason).sum())
        if reason and count:
            lines.append(f"  {count} {reason.text}")
    return facts, "\n".join(lines)


def _spread(n: int, count: int = 256) -> npt.NDArray[np.int64]:
    return np.unique(np.linspace(0, n - 1, min(n, count)).astype(np.int64))
