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


STAGES = {
    "evaluation": ("evaluate",),
    "controls": ("evaluate", "controls"),
    "proportions": ("proportions",),
    "reliability": ("reliability",),
    "shifts": ("proportions", "shifts", "discoveries"),
}
"""Which stages make what a model has at the top of a store."""


def models_with(store: Store, kind: str, model: str = "") -> list[str]:
    """Return the models that have results of a kind, complete; `model`, if given, alone.

    Parameters
    ----------
    store : Store
    kind : str
        One of `STAGES`.
    model : str

    Raises
    ------
    InputError
        There is no such model (the nearest is said), or its stages are not complete: which is
        said, and what goes on with it.
    """
    attrs = store.attrs()
    planned = {*attrs.get("planned", []), *attrs.get("stages", {})}
    known = list(attrs.get("config", {}).get("models", {}))
    wanted = [pick("model", model, known)] if model else known
    there = [name for name in wanted if store.has(f"{kind}/{name}")]
    if not there:
        whose = f"of model {model!r} " if model else ""
        msg = f"{store.location} has no {kind} {whose}yet: {goes_on(store)}"
        raise InputError(msg)
    left = {
        name: missing_stages(store, [s for k in STAGES[kind] if (s := f"{k}/{name}") in planned])
        for name in there
    }
    if any(left.values()):
        shown = [stage for stages in left.values() for stage in stages]
        whole = [name for name in there if not left[name]]
        hint = f"; --model {whole[0]} is complete" if whole else ""
        raise InputError(_not_complete(store, shown) + hint)
    return there


def goes_on(store: Store) -> str:
    """Return at which stage a run is, and what goes on with it."""
    attrs, ledger = store.attrs(), Ledger(store.location)
    entries = attrs.get("stages", {})
    for stage in attrs.get("planned", entries):
        entry = entries.get(stage)
        done = ledger.count(stage, entry["token"]) if entry else 0
        if entry is None or done < entry["units"]:
            at = f"the run is at {stage} ({done} of {entry['units'] if entry else '?'} units); "
            break
    else:
        at = ""
    return f"{at}`bgscale run run.toml` goes on with it, `bgscale status` says how far it is"


def missing_stages(store: Store, stages: Sequence[str]) -> list[str]:
    """Return which of these stages are not complete, as far as the progress folder knows.

    A store that was moved without that folder has none of it, and is believed.
    """
    entries, ledger = store.attrs().get("stages", {}), Ledger(store.location)
    if not any(ledger.count(name, entry["token"]) for name, entry in entries.items()):
        return []
    left = []
    for stage in stages:
        entry = entries.get(stage)
        done = ledger.count(stage, entry["token"]) if entry else 0
        if entry is None or done < entry["units"]:
            left.append(f"{stage} ({done} of {entry['units'] if entry else '?'} units)")
    return left


def _not_complete(store: Store, left: Sequence[str]) -> str:
    shown = ", ".join(left[:4]) + (f" and {len(left) - 4} more" if len(left) > 4 else "")
    return (
        f"{store.location} is not complete: {shown}; `bgscale run` goes on with it, "
        "`bgscale status` says how far it is"
    )


def check_complete(store: Store, stages: Sequence[str]) -> None:
    """Raise unless these stages are complete, as far as the progress folder knows.

    A store that was moved without that folder has none of it, and is believed.

    Raises
    ------
    InputError
        A stage has units to do; all of them are named.
    """
    left = missing_stages(store, stages)
    if left:
        raise InputError(_not_complete(store, left))


def provenance(store: Store, **more: Any) -> dict[str, Any]:
    """Return what an export says of where it comes from, as plain JSON types."""
    attrs = store.attrs()
    return {
        "bgscale": __version__,
        "store": store.location,
        **more,
        "config": attrs.get("config", {}),
        "versions": attrs.get("versions", {}),
        "tokens": {n: entry["token"] for n, entry in attrs.get("stages", {}).items()},
    }
