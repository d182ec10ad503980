"""Keep a store in step with its stages: create what they write, remove what is outdated."""

import json
from collections.abc import Sequence
from typing import Any

from bgscale.distribute.ledger import Ledger
from bgscale.pipeline import Stage, plate_of
from bgscale.results import Store
from bgscale.run.growth import Made
from bgscale.stages.embedding import BEFORE
from bgscale.stages.job import Job

_NODE_OF = {
    "embed": "plates/{2}/embeddings/{1}",
    "grid": "grid/{1}",
    "evaluate": "evaluation/{1}",
    "controls": "controls/{1}",
    "classifiers": "classifiers/{1}",
    "predict": "plates/{2}/predictions/{1}",
    "proportions": "proportions/{1}",
    "reliability": "reliability/{1}",
    "pooled": "pooled/{1}",
    "shifts": "shifts/{1}",
}
"""Where stages of a model keep what they make."""


def plain(facts: Any) -> Any:
    """Return facts as they are read back from a store."""
    return json.loads(json.dumps(facts))


def state(store: Store, facts: dict[str, Any]) -> None:
    """Write what the root of a store does not say already: a finished one may be read-only."""
    attrs = store.attrs()
    facts = plain(facts)
    if any(attrs.get(name) != value for name, value in facts.items()):
        store.update_attrs(facts)


def forget(
    store: Store, stages: Sequence[Stage], outdated: Sequence[str], plates: Sequence[str]
) -> None:
    """Remove what a run will make anew, and what belongs to plates that are gone.

    What a stage with more settings can go on from is put aside.
    """
    ledger, attrs = Ledger(store.location), store.attrs()
    made: dict[str, Any] = attrs["stages"]
    if "bank" in outdated:
        # results of models that this config no longer has would stand on other donors
        known = {stage.name for stage in stages}
        for name in [n for n in made if n not in known]:
            kind, *rest = name.split("/")
            ledger.forget(name)
            if kind in _NODE_OF:
                store.remove(_NODE_OF[kind].format(kind, *rest))
            del made[name]
    for plate in set(attrs.get("plates", [])) - set(plates):
        store.remove(f"plates/{plate}")
        for name in [n for n in made if plate_of(n) == plate]:
            ledger.forget(name)
            del made[name]
    for stage in stages:
        if stage.name in outdated:
            _put_aside(store, ledger, stage, made)
            ledger.forget(stage.name)
            for node in stage.nodes:
                store.remove(node)
    state(store, {"stages": {n: entry for n, entry in made.items() if n not in outdated}})


def _put_aside(store: Store, ledger: Ledger, stage: Stage, made: Made) -> None:
    old, before = made[stage.name], f"{BEFORE}/{stage.name}"
    kept = store.has(before) and store.attrs(before).get("core") == stage.core
    whole = old.get("core") == stage.core and (
        ledger.count(stage.name, old["token"]) == old["units"]
    )
    # it is not there where a run has died that had put it aside
    if stage.keeps_settings and whole and store.has(stage.nodes[0]):
        # with all that was put aside before it
        store.remove(before)
        store.update_attrs({"core": stage.core}, node=stage.nodes[0])
        store.move(stage.nodes[0], before)
    elif not kept:
        store.remove(before)


def drop_aside(store: Store, stage: Stage) -> None:
    """Remove what was put aside, when the stage is complete."""
    before = f"{BEFORE}/{stage.name}"
    # of one that was killed while it did so the rest is left
    if stage.keeps_settings and _holds(store, before):
        store.remove(before)
        if not _holds(store, BEFORE):
            store.remove(BEFORE)


def _holds(store: Store, folder: str) -> bool:
    return next(iter(store.place.below(folder)), None) is not None


def prepare(store: Store, job: Job, stage: Stage, stages: Sequence[Stage]) -> None:
    """Create the stage's arrays, once; it is entered as made when all are there.

    `stages` are all of the run.
    """
    made: dict[str, Any] = store.attrs()["stages"]
    # another part may have done it since we looked
    if made.get(stage.name, {}).get("token") == stage.token:
        return
    for node in stage.nodes:
        store.remove(node)
    Ledger(store.location).forget(stage.name)
    stage.prepare(job)
    units = len(stage.units(job))
    # before they are entered as made: a done-record lasts only where its array does
    store.flush(stage.nodes)
    made[stage.name] = {
        "token": stage.token, "recipe": stage.recipe, "inputs": stage.inputs, "core": stage.core,
        "units": units, "purpose": stage.purpose, "nodes": list(stage.nodes),
    }  # fmt: skip
    # in the order of the stages, whatever was redone: equal runs have equal stores
    ordered = {s.name: made.pop(s.name) for s in stages if s.name in made} | made
    store.update_attrs({"stages": ordered})
