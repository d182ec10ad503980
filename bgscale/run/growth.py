"""What later runs of a store keep of earlier ones, and what they ask about before they redo it.

A store grows: plates come later, failed fields are mended. Its donors do not move: the bank and
experiment 1's cells stay those of the plates that were there when they were drawn.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from bgscale.config import RunConfig
from bgscale.distribute.ledger import Ledger
from bgscale.distribute.units import Unit
from bgscale.errors import FieldError, StoreMismatchError
from bgscale.pipeline import Growth, Stage, plate_of
from bgscale.results import Store
from bgscale.schema import Reason
from bgscale.screen import AnyScreen, PlateScreen
from bgscale.stages.job import Job

Made = Mapping[str, Mapping[str, Any]]
"""Token, recipe, inputs and number of units of each stage that a store holds."""
_UP_TO_DONORS = ("proteins", "segment", "measure", "gather", "cut", "ranges", "donors")


def asked_about(stages: Sequence[Stage], made: Made, mended: Collection[str] = ()) -> list[str]:
    """Return the stages that another config, or another input, has made.

    What merely follows is not among them: plates that came later, cells of mended fields.
    Of `mended` plates the input may be another one.
    """
    found = []
    for stage in stages:
        old = made.get(stage.name)
        if old is None or old["token"] == stage.token:
            continue
        same = old["inputs"] == stage.inputs or plate_of(stage.name) in mended
        if old["recipe"] != stage.recipe or not same:
            found.append(stage.name)
    return found


def holds(stages: Sequence[Stage], made: Made, growth: Growth, mended: Collection[str]) -> bool:
    """Whether the donors that were drawn once are still those of this screen and config."""
    for name in asked_about(stages, made, mended):
        plate = plate_of(name)
        if name.split("/")[0] in _UP_TO_DONORS and (not plate or plate in growth.drawn):
            return False
    return True


def refuse_other(
    config: RunConfig, plates: Collection[str], attrs: Mapping[str, Any], redone: Sequence[str]
) -> None:
    """Raise where a store was made otherwise than a run would go on with it.

    Parameters
    ----------
    config : RunConfig
    plates : collection of str
        Of the screen.
    attrs : mapping
        Of the store.
    redone : sequence of str
        The stages that would be redone, where that is asked about.

    Raises
    ------
    StoreMismatchError
        By another config, from another input, with settings or plates that are gone.
    """
    if redone:
        msg = (
            f"{config.store} was made by another config, or from another input; these "
            f"stages would be redone: {', '.join(redone)}. Run again with --redo to replace "
            "them, or choose another 'store'"
        )
        raise StoreMismatchError(msg)
    fewer = [s for s in attrs["config"]["settings"] if s not in config.settings]
    if fewer and any(name.startswith(("embed/", "grid/")) for name in attrs["stages"]):
        msg = (
            f"{config.store} holds settings that the config no longer has: "
            f"{', '.join(fewer)}. Keep them, or run again with --redo to remove what they made"
        )
        raise StoreMismatchError(msg)
    gone = sorted(set(attrs.get("plates", [])) - set(plates))
    if gone:
        msg = (
            f"{config.store} holds plates that are no longer on the screen: "
            f"{', '.join(gone)}. Bring them back, or run again with --redo to remove them"
        )
        raise StoreMismatchError(msg)


def drawn_before(attrs: Mapping[str, Any], plates: Collection[str]) -> Growth:
    """Return what the attributes of a store say of earlier runs.

    Donors that no run has drawn yet, or from a plate that is gone, bind nobody.
    """
    record, kept = attrs.get("drawn"), {k: attrs.get(k, {}) for k in ("attempts", "samples")}
    if record is None or "donors" not in attrs["stages"] or set(record["plates"]) - set(plates):
        return Growth(**kept)
    return Growth(record["plates"], record["proteins"], **kept)


def failed(store: Store) -> dict[str, list[int]]:
    """Return the plates on which something failed, each with the codes of its failed fields.

    Of crops screens the rows of the failed crops.
    """
    found: dict[str, set[int]] = {}
    bad = [int(r) for r in Reason if r.is_failure]
    for plate in store.attrs()["plates"]:
        node = f"plates/{plate}"
        codes: set[int] = set()
        known = False
        if store.has(f"{node}/labels/reason"):
            codes |= set(np.flatnonzero(np.isin(store.read(f"{node}/labels/reason"), bad)).tolist())
        if store.has(f"{node}/fields"):
            reason = store.read(f"{node}/fields/reason")
            codes |= set(np.flatnonzero(np.isin(reason, bad)).tolist())
            known = bool(store.attrs(f"{node}/fields")["problems"])
        if store.has(f"{node}/cells"):
            rows = np.flatnonzero(np.isin(store.read(f"{node}/cells/reason"), bad))
            fields = store.has(f"{node}/fields")
            codes |= set((store.read(f"{node}/cells/field")[rows] if fields else rows).tolist())
        if codes or known:
            found[plate] = codes
    return {plate: sorted(codes) for plate, codes in found.items()}


def lost_units(ledger: Ledger, units: Iterable[Unit]) -> list[Unit]:
    """Return the units that were set aside."""
    records = ((unit, ledger.record(unit)) for unit in units)
    return [unit for unit, record in records if record and "set_aside" in record["summary"]]


def retried(
    job: Job, store: Store, stages: Sequence[Stage]
) -> tuple[dict[str, list[int]], dict[str, list[Unit]]]:
    """Return what a retry makes anew.

    Returns
    -------
    failures : dict of str to list of int
        Those of the plates on which some of them can be used now.
    lost : dict of str to list of Unit
        By stage, the units of `embed` that were set aside.
    """
    failures, made, ledger = failed(store), store.attrs()["stages"], Ledger(store.location)
    lost = {
        stage.name: units
        for stage in stages
        if stage.name in made
        and stage.name.startswith("embed/")
        and (units := lost_units(ledger, stage.units(job)))
    }
    good = mended(job.screen, store, failures)
    for stage in stages:
        old = made.get(stage.name)
        if old is not None and old["inputs"] != stage.inputs:
            good |= {plate_of(stage.name)} & set(failures)
    return {plate: failures[plate] for plate in sorted(good)}, lost


def forget_retried(
    job: Job,
    ledger: Ledger,
    stages: Sequence[Stage],
    failures: Mapping[str, Sequence[int]],
    lost: Mapping[str, Sequence[Unit]],
) -> None:
    """Forget that the units are done in which something failed; see `retried`."""
    for units in lost.values():
        ledger.forget_units(units)
    for stage in stages:
        kind, plate = stage.name.split("/")[0], plate_of(stage.name)
        if kind in ("segment", "labels") and plate in failures:
            fields = failures[plate]
            units = stage.units(job)
            ledger.forget_units(u for u in units if any(u.start <= f < u.stop for f in fields))


def samples(screen: AnyScreen, before: Growth) -> dict[str, dict[str, int]]:
    """Return checksums of some fields of each plate, those that were known kept."""
    if screen.kind == "crops":
        return {}
    return {plate: screen.samples(plate, before.samples.get(plate)) for plate in screen.plates}


def mended(screen: AnyScreen, store: Store, failures: Mapping[str, Sequence[int]]) -> set[str]:
    """Return the plates on which some of what failed can be used now, or may be.

    Whether a field can be read is tried; whether its cells are found now is known only afterwards.
    """
    found = set()
    for plate, codes in failures.items():
        if plate not in screen.plates:
            continue
        if screen.kind == "crops":
            good = bool(codes) and bool((screen.read(np.array(codes)).reason == Reason.OK).any())
        else:
            of_labels = store.read(f"plates/{plate}/labels/reason") == Reason.LABELS
            good = any(
                of_labels[f] or _can_be_read(screen, plate, f)
                for f in codes
                if f < len(of_labels) and f < len(screen.fields[plate])
            )
        if good:
            found.add(plate)
    return found


def _can_be_read(screen: PlateScreen, plate: str, code: int) -> bool:
    try:
        screen.read(plate, code)
    except FieldError:
        return False
    return True
