"""What a newcomer needs before a run: a config, a plate-map template, and a look at the screen."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bgscale.config import ModelSection, RunConfig, template
from bgscale.errors import FieldError, InputError
from bgscale.schema import Reason
from bgscale.screen import (
    AnyScreen,
    PlateScreen,
    Screen,
    channel_names,
    holds_plates,
    open_screen,
    plate_channels,
)
from bgscale.stages.job import Job

CROPS_LOOKED_AT = 256
FIELDS_LOOKED_AT = 12
"""Of each plate."""
SHOWN = 12
EXAMPLE_MAP = """protein,localization
AAC1,mitochondrion
AAH1,cytoplasm;nucleus
XYZ1,
"""


def scaffold(screen: str | None, output: Path, *, pattern: str, force: bool) -> list[Path]:
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
        models = {"tiny": ModelSection(weights="tiny.safetensors")}
        config = config.model_copy(update={"screen": section, "models": models})
        rows = found.plate_map_template()
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(template(config), encoding="utf-8")
    plate_map.write_text(rows, encoding="utf-8")
    return [output, plate_map]


_ROLES = ("protein", "cytosol", "nucleus", "mask")


def _relative(location: str, folder: Path) -> str:
    if "://" in location:
        return location
    path, folder = Path(location).resolve(), folder.resolve()
    return str(path.relative_to(folder)) if path.is_relative_to(folder) else str(path)


def _open_any(path: str, pattern: str) -> AnyScreen:
    """Open a screen of which only the naming pattern is known, if that."""
    plates = holds_plates(path)
    channels = plate_channels(path) if plates else channel_names(path, pattern or None)
    chosen = _roles_of(channels)
    if plates and not chosen["protein"]:
        # a plate may say nothing of its channels: they have numbers
        numbers = map(str, range(len(channels)))
        chosen = dict.fromkeys(_USUAL) | dict(zip(_BY_NUMBER, numbers, strict=False))
    if not chosen["protein"]:
        msg = (
            f"{path}: cannot tell which of the channels {', '.join(channels)} is which: run "
            "`bgscale init` without SCREEN and fill in run.toml"
        )
        raise InputError(msg)
    if plates:
        chosen["mask"] = None
    return open_screen(path, pattern=pattern or None, class_column="protein", **chosen)  # type: ignore[arg-type]


_USUAL = {
    "mask": ("mask",),
    "nucleus": ("nuc", "dapi", "bfp", "hoechst", "ch2"),
    "cytosol": ("cyto", "rfp", "tdtomato", "mcherry", "ch3"),
    "protein": ("gfp", "protein", "neongreen", "yfp", "ch1"),
}
"""What channels are usually called, or begin or end with."""
_BY_NUMBER = ("protein", "cytosol", "nucleus")


def describe(path: str, *, pattern: str = "") -> tuple[dict[str, Any], str]:
    """Return what a screen (or the screen of a run.toml) holds, as values and as text."""
    mapped = path.endswith(".toml")
    screen = Job(RunConfig.from_toml(path)).screen if mapped else _open_any(path, pattern)
    facts = screen.facts()
    lines = [screen.summary()]
    lines += [f"channel  {role}: {name}" for role, name in facts["channels"].items()]
    lines += _of_crops(screen, facts) if screen.kind == "crops" else _of_plates(screen, facts)
    if mapped:
        counts = zip(screen.classes, screen.plate_map.labels.sum(0).tolist(), strict=True)
        lines += ["", *(f"class    {name}: {count} proteins" for name, count in counts)]
    return facts, "\n".join(lines)


def _of_crops(screen: Screen, facts: dict[str, Any]) -> list[str]:
    """Return lines on the files, the proteins, and crops that cannot be used."""
    none = "none: cells are segmented from the cytosol channel"
    lines = [f"files    {facts['pattern']}", f"masks    {facts['masks'] or none}"]
    lines += ["", f"{'protein':<16}{'fields':>8}{'crops':>8}"]
    for name, rows in screen.items.groupby("protein", sort=False):
        lines.append(f"{name:<16}{rows['field'].nunique():>8}{len(rows):>8}")
    sample = screen.read(_spread(len(screen.items), CROPS_LOOKED_AT))
    return lines + _looked_at(sample.reason, "crops", facts)


def _of_plates(screen: PlateScreen, facts: dict[str, Any]) -> list[str]:
    """Return lines on each plate, and fields that cannot be used."""
    lines = ["", f"{'plate':<28}{'NGFF':>6}{'wells':>7}{'fields':>8}  {'size':<12}{'um/px':>7}"]
    reasons, texts = [], []
    for name, plate in facts["plates"].items():
        shape, size = "x".join(map(str, plate["shape"])), plate["pixel_size_um"]
        shown = f"{size:.4g}" if size else "?"
        lines.append(
            f"{name:<28}{plate['version']:>6}{plate['wells']:>7}{plate['fields']:>8}  {shape:<12}"
            f"{shown:>7}"
        )
        texts += [f"{name}: {problem['text']}" for problem in plate["problems"]]
        for i in _spread(plate["fields"], FIELDS_LOOKED_AT):
            try:
                screen.read(name, int(i))
                reasons.append(Reason.OK)
            except FieldError as error:
                reasons.append(Reason(error.reason))
                texts.append(str(error))
    first = next(iter(facts["plates"].values()))
    lines += ["", f"channels there: {', '.join(first['channels']) or 'without names: use numbers'}"]
    lines.append(f"label images  : {', '.join(first['labels']) or 'none'}")
    if first["axes"].get("t", 1) > 1:
        lines.append(f"time          : point {first['time']} of {first['axes']['t']} is read")
    if first["axes"].get("z", 1) > 1:
        lines.append(f"z             : {first['z']} of {first['axes']['z']} planes is read")
    lines += _looked_at(np.array(reasons), "fields", facts)
    facts["found_wrong"] = texts
    more = f"  ... and {len(texts) - SHOWN} more" if len(texts) > SHOWN else ""
    return [*lines, *(f"  {text}" for text in texts[:SHOWN]), *([more] if more else [])]


def _roles_of(channels: list[str]) -> dict[str, str | None]:
    """Guess which channel has which role; none has two."""
    chosen: dict[str, str | None] = dict.fromkeys(_USUAL)
    for role, usual in _USUAL.items():
        left = [c for c in channels if c and c not in chosen.values()]
        fits = (c for name in usual for c in left if name in c.lower())
        chosen[role] = next(fits, None)
    return chosen


def _looked_at(reason: npt.NDArray[Any], what: str, facts: dict[str, Any]) -> list[str]:
    bad = int((reason != Reason.OK).sum())
    facts["sampled"], facts["sampled_unusable"] = len(reason), bad
    lines = ["", f"{bad} of {len(reason)} {what} looked at cannot be used"]
    counts = ((r, int((reason == r).sum())) for r in Reason if r)
    return lines + [f"  {count} {r.text}" for r, count in counts if count]


def _spread(n: int, count: int) -> npt.NDArray[np.int64]:
    return np.unique(np.linspace(0, n - 1, min(n, count)).astype(np.int64))
