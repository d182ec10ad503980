"""A plan as text: what `bgscale import --dry-run` prints."""

from collections import Counter

from bgscale.importers.plan import ImportPlan, PlatePlan

SHOWN = 5
_BYTE_UNITS = ("B", "kB", "MB", "GB", "TB")


def describe(plan: ImportPlan) -> str:
    """Return a table per plate, and what is odd about it.

    Parameters
    ----------
    plan : ImportPlan

    Returns
    -------
    str
        Lines of at most about 100 characters, as long as names allow.
    """
    lines = [f"{plan.kind}  {plan.root}"]
    lines += [f"note: {text}" for text in plan.notes]
    for plate in plan.plates:
        lines += ["", *_plate(plate)]
    return "\n".join(lines)


def _plate(plate: PlatePlan) -> list[str]:
    fields = plate.fields
    total = sum(map(len, fields.values()))
    files = plate.table.drop_duplicates("file")
    size = "unknown" if plate.pixel_size_um is None else f"{plate.pixel_size_um:g} µm"
    rows = {
        "wells": f"{len(fields)} ({_span(list(fields))})",
        "fields": _fields_a_well(fields),
        "channels": ", ".join(plate.channels),
        "images": f"{plate.shape[0]} x {plate.shape[1]} {plate.dtype}, pixel size {size}",
        "read": f"{len(plate.table)} planes of {len(files)} files, "
        f"{_bytes(int(files['bytes'].sum()))}",
        "written": f"{total - len(plate.problems)} fields, "
        f"{_bytes((total - len(plate.problems)) * plate.field_bytes)} before compression",
    }
    lines = [f"plate {plate.name}", *(f"  {name:<10}{text}" for name, text in rows.items())]
    lines += [f"  note: {text}" for text in plate.notes]
    failing = [f"{well}/{name}: {text}" for (well, name), (_, text) in plate.problems.items()]
    if failing:
        lines.append(f"  {len(failing)} fields cannot be imported:")
        lines += [f"    {text}" for text in failing[:SHOWN]]
    if len(failing) > SHOWN:
        lines.append(f"    and {len(failing) - SHOWN} more")
    return lines


def _span(wells: list[str]) -> str:
    shown = wells if len(wells) <= SHOWN else [*wells[: SHOWN - 1], "...", wells[-1]]
    return ", ".join(shown)


def _fields_a_well(fields: dict[str, list[str]]) -> str:
    """Return how many fields wells have, and which wells have fewer than most."""
    counts = Counter(map(len, fields.values()))
    usual = max(counts, key=lambda n: (counts[n], n))
    text = f"{sum(map(len, fields.values()))} ({usual} a well)"
    others = [f"{well} {len(names)}" for well, names in fields.items() if len(names) != usual]
    return f"{text}, but {_span(others)}" if others else text


def _bytes(count: int) -> str:
    """Return a number of bytes for people.

    Examples
    --------
    >>> _bytes(999), _bytes(20995200)
    ('999 B', '21 MB')
    """
    size, unit = float(count), 0
    while size >= 999.5 and unit < len(_BYTE_UNITS) - 1:
        size, unit = size / 1000, unit + 1
    return f"{size:.3g} {_BYTE_UNITS[unit]}"
