"""What the names of crop files say: protein, field, number, channel; and which crops are used.

Owns the naming patterns and the table of crops. It opens no image.
"""

import re
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from bgscale import draw
from bgscale.errors import InputError, nearest
from bgscale.schema import natural
from bgscale.screen.files import SHOWN, CropFiles

PATTERNS = {
    "pci": "{protein}/{protein}_{field}_rfp_{cell}_{channel}.tif",
    "pifia": "{protein}/{protein}_{channel}_{cell}.tiff",
    "bgscale": "{protein}/{protein}_{field}_{cell}_{channel}.tif",
}
PLACEHOLDERS = {
    "plate": r"[^/]+?",
    "well": r"[^/]+?",
    "protein": r"[^/]+?",
    "field": r"[^/_]+?",
    "cell": r"\d+",
    "channel": r"[^/_]+?",
}
NO_FIELD = "1"
"""Field of crops whose names do not tell theirs: all of a protein are then one field."""
PLATE = "crops"
"""Name of the only plate of a crops screen."""


def _regex(pattern: str) -> re.Pattern[str]:
    """Return the expression of a template; a placeholder that comes again must agree."""
    template = PATTERNS.get(pattern, pattern)
    parts = re.split(r"\{(\w*)\}", template)
    known = ", ".join(f"{{{name}}}" for name in PLACEHOLDERS)
    seen: set[str] = set()
    expression = r"(?:[^/]+/)?"
    for i, part in enumerate(parts):
        if i % 2 == 0:
            expression += re.escape(part)
        elif part not in PLACEHOLDERS:
            msg = f"pattern {pattern!r}: unknown placeholder {{{part}}}; known: {known}"
            raise InputError(msg)
        else:
            expression += f"(?P={part})" if part in seen else f"(?P<{part}>{PLACEHOLDERS[part]})"
            seen.add(part)
    absent = [f"{{{name}}}" for name in ("protein", "cell", "channel") if name not in seen]
    if absent:
        named = ", ".join(PATTERNS)
        msg = f"pattern {pattern!r} lacks {', '.join(absent)}; named patterns: {named}"
        raise InputError(msg)
    return re.compile(re.sub(r"\\\.tiff?$", r"\\.tiff?", expression), re.IGNORECASE)


def match(files: CropFiles, pattern: str | None) -> tuple[str, list[dict[str, str]]]:
    """Return the pattern, and what it says of each file it fits."""
    tried = {name: _regex(name) for name in ([pattern] if pattern else PATTERNS)}
    found = {
        name: [
            fits.groupdict() | {"name": file}
            for file in files.sizes
            if (fits := expression.fullmatch(file))
        ]
        for name, expression in tried.items()
    }
    best = max(found, key=lambda name: len(found[name]))
    if not found[best]:
        looked = " or ".join(repr(PATTERNS.get(name, name)) for name in tried)
        there = ", ".join(list(files.sizes)[:SHOWN]) or "nothing"
        msg = (
            f"no file of {files.path} is named {looked}; there are {len(files.sizes)} files, such "
            f"as {there}: set screen.pattern (hidden files and links are left out)"
        )
        raise InputError(msg)
    return best, found[best]


def crop_table(path: Path, found: list[dict[str, str]], wanted: dict[str, str]) -> pd.DataFrame:
    """Return a row per crop with the file of each role, in natural order."""
    names = {channel: role for role, channel in wanted.items()}
    if len(names) < len(wanted):
        shown = ", ".join(f"screen.{role} {channel!r}" for role, channel in wanted.items())
        msg = f"each role needs a channel of its own, got {shown}"
        raise InputError(msg)
    there = dict.fromkeys(item["channel"] for item in found)
    for role, channel in wanted.items():
        if channel not in there:
            msg = (
                f"{path}: no file of channel {channel!r} (screen.{role})"
                f"{nearest(channel, there)}; the channels are {', '.join(there)}"
            )
            raise InputError(msg)
    crops: dict[tuple[str, str, str, int], dict[str, str]] = {}
    for item in found:
        if item["channel"] in names:
            well = "/".join(item[k] for k in ("plate", "well") if item.get(k)) or item["protein"]
            key = (item["protein"], well, item.get("field") or NO_FIELD, int(item["cell"]))
            twin = crops.setdefault(key, {}).setdefault(names[item["channel"]], item["name"])
            if twin != item["name"]:
                msg = (
                    f"{path}: {twin} and {item['name']} are the same cell and channel; remove one, "
                    "or tell them apart with screen.pattern"
                )
                raise InputError(msg)
    lacking = [(key, roles) for key, roles in crops.items() if len(roles) < len(wanted)]
    if lacking:
        shown = "; ".join(
            f"{next(iter(roles.values()))} has no {wanted[role]}"
            for _, roles in lacking[:SHOWN]
            for role in wanted
            if role not in roles
        )
        msg = f"{path}: {len(lacking)} crops lack a channel: {shown}; remove them or add the files"
        raise InputError(msg)
    order = sorted(crops, key=lambda key: (*map(natural, key[:3]), key[3]))
    rows = [(*key, *(crops[key][role] for role in wanted)) for key in order]
    columns = ["protein", "well", "field", "number", *(f"{role}_file" for role in wanted)]
    return pd.DataFrame(rows, columns=columns)


def subset(items: pd.DataFrame, proteins: Sequence[str] | None, limit: int | None) -> pd.DataFrame:
    """Return the crops of some proteins, at most `limit`, as many of each protein."""
    if proteins:
        known = items["protein"].unique().tolist()
        for name in proteins:
            if name not in known:
                msg = f"no protein {name!r} on the screen{nearest(name, known)}"
                raise InputError(msg)
        items = items[items["protein"].isin(proteins)]
    if limit and limit < len(items):
        wells, fields = items["well"].tolist(), items["field"].tolist()
        ids = draw.cell_ids(PLATE, wells, fields, items["number"].to_numpy())
        ranked = items.iloc[draw.order(0, "limit", ids)]
        turn = ranked.groupby("protein", sort=False).cumcount()
        kept = turn.sort_values(kind="stable").index[:limit]
        items = items.loc[sorted(kept)]
    return items.reset_index(drop=True)
