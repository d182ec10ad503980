"""What is asked of a store by name: is it there, is it complete, and what is said of it."""

from collections.abc import Sequence
from typing import Any

from bgscale import __version__
from bgscale.distribute.ledger import Ledger
from bgscale.errors import InputError, nearest
from bgscale.results import Store


def pick(kind: str, wanted: str, known: Sequence[str]) -> str:
    """Return one of the known names: the wanted one, or the only one.

    Raises
    ------
    InputError
        There is no such name (the nearest is said), or several and none is named.
    """
    if wanted in known:
        return wanted
    have = ", ".join(known[:12]) + (", ..." if len(known) > 12 else "") or "none yet"
    if wanted:
        msg = f"no {kind} {wanted!r}{nearest(wanted, known)}; there are {have}"
        raise InputError(msg)
    if len(known) != 1:
        msg = f"which {kind}? There are {have}: name one"
        raise InputError(msg)
    return known[0]


def pick_all(kind: str, wanted: Sequence[str], known: Sequence[str]) -> tuple[str, ...]:
    """Return the wanted ones of the known names, in their order; all where none is named."""
    asked = {pick(kind, name, known) for name in wanted}
    return tuple(name for name in known if not wanted or name in asked)


def check_complete(store: Store, stages: Sequence[str]) -> None:
    """Raise unless these stages are complete, as far as the progress folder knows.

    A store that was moved without that folder has none of it, and is believed.

    Raises
    ------
    InputError
        A stage has units to do; all of them are named.
    """
    entries, ledger = store.attrs()["stages"], Ledger(store.location)
    if not any(ledger.count(name, entry["token"]) for name, entry in entries.items()):
        return
    left = []
    for stage in stages:
        entry = entries.get(stage)
        done = ledger.count(stage, entry["token"]) if entry else 0
        if entry is None or done < entry["units"]:
            left.append(f"{stage} ({done} of {entry['units'] if entry else '?'} units)")
    if left:
        shown = ", ".join(left[:4]) + (f" and {len(left) - 4} more" if len(left) > 4 else "")
        msg = (
            f"{store.location} is not complete: {shown}; `bgscale run` goes on with it, "
            "`bgscale status` says how far it is"
        )
        raise InputError(msg)


def provenance(store: Store, **more: Any) -> dict[str, Any]:
    """Return what an export says of where it comes from, as plain JSON types."""
    attrs = store.attrs()
    return {
        "bgscale": __version__,
        "store": store.location,
        **more,
        "config": attrs.get("config", {}),
        "versions": attrs.get("versions", {}),
        "tokens": {name: entry["token"] for name, entry in attrs["stages"].items()},
    }
