"""Folders whose file names follow a template that the user gives."""

import re

from bgscale.errors import InputError
from bgscale.importers.folder import Folder
from bgscale.importers.found import ONLY, Found, Plane, Source, field_called, well_at, well_called

EXAMPLE = "{plate}/r{row}c{column}f{field}-ch{channel}.tiff"
KEYS = {
    "plate": r"[^/]+?",
    "row": r"[A-Za-z]{1,2}|\d{1,3}",
    "column": r"\d{1,3}",
    "well": r"[A-Za-z]{1,2}[-_ ]?\d{1,3}",
    "field": r"[^/_]+?",
    "channel": r"[^/_]+?",
    "z": r"\d+",
    "time": r"\d+",
}


def expression(pattern: str) -> re.Pattern[str]:
    """Return the regular expression of a template.

    A placeholder that comes again must agree; ``*`` stands for anything within a name.

    Raises
    ------
    InputError
        Unknown placeholders, no well, or a path that leaves the folder.

    Examples
    --------
    >>> expression("{well}_*_w{channel}.tif").fullmatch("A1_s_w2.TIF").groupdict()
    {'well': 'A1', 'channel': '2'}
    """
    parts = re.split(r"\{(\w*)\}", pattern)
    seen: set[str] = set()
    made = ""
    for i, part in enumerate(parts):
        if i % 2 == 0:
            made += "[^/]*".join(map(re.escape, part.split("*")))
        elif part not in KEYS:
            known = ", ".join(f"{{{key}}}" for key in KEYS)
            msg = f"pattern {pattern!r}: unknown placeholder {{{part}}}; known: {known}, and *"
            raise InputError(msg)
        else:
            made += f"(?P={part})" if part in seen else f"(?P<{part}>{KEYS[part]})"
            seen.add(part)
    if pattern.startswith("/") or ".." in pattern.split("/"):
        msg = f"pattern {pattern!r}: expected a path within the folder, without '..'"
        raise InputError(msg)
    if ("well" in seen) == bool(seen & {"row", "column"}) or len(seen & {"row", "column"}) == 1:
        msg = f"pattern {pattern!r}: expected {{well}}, or {{row}} and {{column}}: {EXAMPLE!r}"
        raise InputError(msg)
    return re.compile(re.sub(r"\\\.tiff?$", r"\\.tiff?", made), re.IGNORECASE)


def find(folder: Folder, pattern: str | None = None) -> list[Found]:
    """Return the plates whose files are named by the template."""
    if not pattern:
        msg = f"importing by template needs a pattern (--pattern), such as {EXAMPLE!r}"
        raise InputError(msg)
    fitting = expression(pattern)
    plates: dict[str, list[Plane]] = {}
    for name in folder.tiffs:
        if fits := fitting.fullmatch(name):
            place = fits.groupdict()
            plate = place.get("plate") or folder.named("")
            plates.setdefault(plate, []).append(_plane(name, place))
    if not plates:
        raise folder.nothing_found(repr(pattern))
    return [Found(name, tuple(planes)) for name, planes in plates.items()]


def _plane(name: str, place: dict[str, str]) -> Plane:
    well = (
        well_called(place["well"])
        if "well" in place
        else well_at(place["row"], str(int(place["column"])))
    )
    return Plane(
        well=well,
        field=field_called(place.get("field", ONLY)),
        channel=place.get("channel", ONLY),
        z=place.get("z", ONLY),
        time=place.get("time", ONLY),
        source=Source(name),
    )
