"""Experiment 2: every cell scored out of fold, and what its shard adds to each protein's sums.

A unit reads the features of its shard once and leaves two things: the softmax of each cell, and
integer sums by protein and field. Whoever gathers them reads no feature. A shard has few proteins,
but which is known only from the cell table: so its sums lie in slots, as many as the shard with
the most proteins (or fields) needs, in the order of the codes.
"""

from collections.abc import Iterator
from dataclasses import fields as fields_of
from functools import lru_cache
from itertools import groupby
from typing import Any

import numpy as np
import numpy.typing as npt

from bgscale import proportions as kernels
from bgscale.distribute.units import Unit
from bgscale.proportions import ProportionState, ReliabilityCounts
from bgscale.settings import Ints
from bgscale.stages.cells import Done, shard_cells
from bgscale.stages.choosing import evaluated
from bgscale.stages.classifiers import FITS, groups_of, panels
from bgscale.stages.embedding import feature_chunk, model_of, provenance
from bgscale.stages.job import Job

SLOTS_A_CHUNK = 8
"""Slots that are read together: a protein lies in one, or two, of a shard's chunks."""
NONE = -1
"""Code of a slot that nothing lies in."""
ON_ANOTHER = "different"
"""The setting whose cells tell how a class is confused on the background of another."""
_KEYS = ("protein", "field_protein", "field")
_BY_FIELD = ("n", "sums", "baseline")


def node_of(plate: str, name: str) -> str:
    """Return where the predictions of a model for the cells of a plate lie."""
    return f"plates/{plate}/predictions/{name}"


def target_of(job: Job) -> Ints:
    """Return the class each protein is trained as; -1: several, none, or not learnable."""
    single = np.where(job.labels.sum(axis=1) == 1, job.labels.argmax(axis=1), -1)
    learnable = groups_of(job).folds.learnable
    return np.where((single >= 0) & learnable[single], single, -1).astype(np.int64)


def slots(job: Job, plate: str) -> tuple[int, int]:
    """Return the most proteins, and the most (protein, field) groups, of any shard of a plate."""
    table = job.cells(plate)
    rows = evaluated(table)
    size = shard_cells(job, len(table.cells))
    protein = rows // size * len(job.proteins) + table.cells.protein[rows]
    group = protein * job.field_count(plate) + table.cells.field[rows]
    widths = []
    for code, by in ((protein, 1), (group, job.field_count(plate))):
        shard = np.unique(code) // (len(job.proteins) * by)
        widths.append(int(np.bincount(shard, minlength=1).max()))
    return max(widths[0], 1), max(widths[1], 1)


def create_predictions(job: Job, name: str, plate: str) -> None:
    """Create the softmax of a plate's cells, and the sums of its shards."""
    store, k, node = job.store, len(job.classes), node_of(plate, name)
    n = store.array(f"plates/{plate}/cells/id").shape[0]
    write = shard_cells(job, n)
    coords = {"fit": FITS, "setting": job.config.settings, "localization": job.classes}
    known = provenance(job, f"plates/{plate}/embeddings/{name}")
    store.create_group(
        node,
        coords=coords,
        description="each cell's localization, by classifiers that omit its protein's fold",
        **known,
    )
    fit = {"fit": len(FITS), "setting": len(job.settings)}
    store.create_array(
        f"{node}/probability",
        {"cell": n, **fit, "localization": k},
        "float32",
        chunk={"cell": feature_chunk(write), "fit": 1, "setting": 1},
        shard={"cell": write},
        fill=float("nan"),
        units="1",
        long_name="softmax; NaN: not evaluated, missing under the setting, or no classifier",
    )
    store.create_group(
        f"{node}/sums",
        coords=coords | {"label": (*job.classes, kernels.TOP)},
        description="what each shard of cells adds to the sums of its proteins, in slots",
        sum_scale=kernels.SUM_SCALE,
        confidence_scale=kernels.CONFIDENCE_SCALE,
    )
    proteins, groups = slots(job, plate)
    by = {"protein_slot": proteins, "field_slot": groups}
    last = {"localization": k}
    again = {"replicate": job.config.proportions.replicates, **last}
    boxes = {"bin": kernels.N_BINS}
    steps, share = f"1/{kernels.SUM_SCALE}", f"1/{kernels.CONFIDENCE_SCALE}"
    shards = {"shard": -(-n // write)}
    codes: dict[str, tuple[str, str]] = {
        "protein": ("protein_slot", "code of the protein; -1: nothing in the slot"),
        "field_protein": ("field_slot", "code of the protein; -1: nothing in the slot"),
        "field": ("field_slot", "code of the field on its plate; -1: nothing in the slot"),
    }
    for variable, (slot, text) in codes.items():
        store.create_array(
            f"{node}/sums/{variable}", {**shards, slot: by[slot]}, "int32", chunk={"shard": 1},
            fill=NONE, units="1", long_name=text,
        )  # fmt: skip
    sums: dict[str, tuple[str, dict[str, int], str, str, str]] = {
        "n": ("field_slot", {}, "int64", "1", "cells"),
        "sums": ("field_slot", last, "int64", steps, "sum of p"),
        "baseline": ("field_slot", last, "int64", steps, "sum of p under original, same cells"),
        "squares": ("protein_slot", last, "int64", steps, "sum of p squared"),
        "cross": (
            "protein_slot", {**last, "localization_2": k}, "int64", steps, "sum of delta delta^T",
        ),
        "replicate_sums": (
            "protein_slot", again, "int64", steps, "sum of p by classifier replicate",
        ),
        "replicate_baseline": (
            "protein_slot", again, "int64", steps, "the same under original, same cells",
        ),
        "bin_cells": (
            "protein_slot", {"label": k + 1, **boxes}, "int32", "1",
            "cells by confidence, of single-class proteins",
        ),
        "bin_confidence": (
            "protein_slot", {"label": k + 1, **boxes}, "int64", share, "sum of their confidence",
        ),
        "bin_correct": (
            "protein_slot", boxes, "int32", "1", "of them those whose top class is right",
        ),
    }  # fmt: skip
    for variable, (slot, more, dtype, units, text) in sums.items():
        store.create_array(
            f"{node}/sums/{variable}", {**shards, **fit, slot: by[slot], **more}, dtype,
            chunk={"shard": 1, slot: SLOTS_A_CHUNK}, shard={"shard": 1}, units=units,
            long_name=text,
        )  # fmt: skip
    if ON_ANOTHER in job.config.settings:
        _create_by_background(job, node, shards)


def _create_by_background(job: Job, node: str, shards: dict[str, int]) -> None:
    """Create the sums by class of the cell and of its background."""
    k, whom = len(job.classes), f"single-class proteins under {ON_ANOTHER}"
    pair = {**shards, "localization_true": k, "localization_background": k}
    job.store.create_array(
        f"{node}/sums/background_n", pair, "int64", chunk={"shard": 1}, units="1",
        long_name=f"cells of {whom}, by class of their background",
    )  # fmt: skip
    job.store.create_array(
        f"{node}/sums/background_sums", {**pair, "localization": k}, "int64", chunk={"shard": 1},
        units=f"1/{kernels.SUM_SCALE}", long_name=f"sum of p of the fixed classifier, of {whom}",
    )  # fmt: skip


def predict(job: Job, unit: Unit) -> Done:
    """Score the cells of one shard under every setting and fit, and sum them."""
    _, name, plate = unit.stage.split("/")
    store, node, groups = job.store, node_of(plate, name), groups_of(job)
    layer = model_of(job.text, name).spec.profile_layer
    table = job.cells(plate)
    here = slice(unit.start, unit.stop)
    cells = np.flatnonzero((table.usable & table.evaluated)[here])
    protein, field = (values[here][cells] for values in (table.cells.protein, table.cells.field))
    features = store.read(f"plates/{plate}/embeddings/{name}/{layer}/embedding", here)[cells]
    group = groups.of(protein, field + job.first_fields[plate])
    probability, states = kernels.score_settings(
        panels(job, name),
        [[s if fit == "matched" else 0 for s in range(len(job.settings))] for fit in FITS],
        features,
        groups.folds.fold[group],
        protein,
        field,
    )
    target = target_of(job)[protein]
    present = np.isfinite(probability[..., 0])
    counts = [
        kernels.count_reliability(p, target, seen, protein)
        for p, seen in zip(probability, present, strict=True)
    ]
    whole = np.full((unit.stop - unit.start, *probability.shape[:2], len(job.classes)), np.nan)
    whole[cells] = np.moveaxis(probability, 2, 0)
    region = [(unit.start, unit.stop)]
    files = store.write(f"{node}/probability", region, whole.astype(np.float32))
    shard = unit.start // shard_cells(job, len(table.cells))
    for variable, values in _in_slots(job, f"{node}/sums", states, counts).items():
        files += store.write(f"{node}/sums/{variable}", [(shard, shard + 1)], values[None])
    if ON_ANOTHER in job.config.settings:
        s = job.config.settings.index(ON_ANOTHER)
        lent = store.read(f"plates/{plate}/embeddings/{name}/donor_class", here, s)[cells]
        by = kernels.sum_by_background(probability[FITS.index("fixed"), s], target, lent)
        for variable, values in zip(("background_n", "background_sums"), by, strict=True):
            files += store.write(f"{node}/sums/{variable}", [(shard, shard + 1)], values[None])
    return files, {"cells": len(cells)}


def _in_slots(
    job: Job, node: str, states: list[ProportionState], counts: list[ReliabilityCounts]
) -> dict[str, npt.NDArray[Any]]:
    """Return the sums of each fit as the arrays of a shard: (fit, setting, slot, ...)."""
    state = states[0]
    keys = {
        "protein": state.protein,
        "field_protein": state.group[:, 0],
        "field": state.group[:, 1],
    }
    out: dict[str, npt.NDArray[Any]] = {}
    for variable, values in keys.items():
        out[variable] = np.full(job.store.array(f"{node}/{variable}").shape[1:], NONE, np.int32)
        out[variable][: len(values)] = values
    place = np.searchsorted(state.protein, counts[0].protein)
    every = {f.name: slice(None, len(state.group)) for f in fields_of(state)[2:5]}
    every |= {f.name: slice(None, len(state.protein)) for f in fields_of(state)[5:]}
    found: dict[str, list[tuple[Any, npt.NDArray[Any]]]] = {
        variable: [(where, getattr(s, variable)) for s in states]
        for variable, where in every.items()
    }
    for variable in ("cells", "confidence", "correct"):
        found[f"bin_{variable}"] = [(place, getattr(c, variable)) for c in counts]
    for variable, by_fit in found.items():
        array = job.store.array(f"{node}/{variable}")
        out[variable] = np.zeros(array.shape[1:], array.dtype)
        for f, (where, values) in enumerate(by_fit):
            out[variable][f][:, where] = values
    return out


def shards_with(
    job: Job, name: str, start: int, stop: int
) -> Iterator[tuple[str, int, slice, slice]]:
    """Yield plate, shard, and the slots in which proteins from `start` to before `stop` lie."""
    for plate, (protein, owner, _) in _codes_of(job, name).items():
        wanted = (protein >= start) & (protein < stop)
        for shard in np.flatnonzero(wanted.any(axis=1)).tolist():
            by = (wanted[shard], (owner[shard] >= start) & (owner[shard] < stop))
            span, among = ((int(w.argmax()), int(w.sum())) for w in by)
            yield plate, shard, slice(span[0], sum(span)), slice(among[0], sum(among))


@lru_cache(maxsize=2)
def _codes_of(job: Job, name: str) -> dict[str, tuple[Ints, Ints, Ints]]:
    """Return, by plate, who lies in each slot of its sums: `_KEYS`, each (shard, slot).

    Kept: every unit of proteins asks every plate.
    """
    found = {}
    for plate in job.plates:
        node = f"{node_of(plate, name)}/sums"
        protein, owner, field = (job.store.read(f"{node}/{variable}") for variable in _KEYS)
        found[plate] = protein, owner, field
    return found


def read_sums(
    job: Job, name: str, start: int, stop: int
) -> Iterator[tuple[str, list[ProportionState]]]:
    """Yield plate and sums, by fit, of each shard with proteins from `start` to before `stop`.

    The codes of fields are those of all plates.
    """
    variables = [f.name for f in fields_of(ProportionState)[2:]]
    shards = shards_with(job, name, start, stop)
    for plate, of_plate in groupby(shards, key=lambda found: found[0]):
        node = f"{node_of(plate, name)}/sums"
        arrays = {variable: job.store.array(f"{node}/{variable}") for variable in variables}
        codes = _codes_of(job, name)[plate]
        for _, shard, proteins, groups in of_plate:
            where = proteins, groups, groups
            by_protein, owner, field = (
                values[shard, span].astype(np.int64)
                for values, span in zip(codes, where, strict=True)
            )
            group = np.stack([owner, field + job.first_fields[plate]], axis=1)
            values = {
                v: np.asarray(array[shard, :, :, groups if v in _BY_FIELD else proteins])
                for v, array in arrays.items()
            }
            states = [
                ProportionState(by_protein, group, **{v: array[f] for v, array in values.items()})
                for f in range(len(FITS))
            ]
            yield plate, states


def read_counts(job: Job, name: str, fit: int) -> ReliabilityCounts:
    """Return the counts of all single-class proteins under one fit, added up plate by plate."""
    target, codes = target_of(job), _codes_of(job, name)
    every = np.unique(np.concatenate([protein.ravel() for protein, _, _ in codes.values()]))
    known = every[every != NONE].astype(np.int64)
    known = known[target[known] >= 0]
    sums: dict[str, Ints] = {}
    for plate, (protein, _, _) in codes.items():
        for variable in ("cells", "confidence", "correct"):
            array = job.store.array(f"{node_of(plate, name)}/sums/bin_{variable}")
            # (shard, setting, slot, ...)
            found = array[:, fit]
            if variable not in sums:
                shape = found.shape[1], len(known), *found.shape[3:]
                sums[variable] = np.zeros(shape, np.int64)
            whole = sums[variable]
            for here, own in zip(found, protein, strict=True):
                slot = np.flatnonzero(np.isin(own, known))
                # in a shard a protein has one slot
                whole[:, np.searchsorted(known, own[slot])] += here[:, slot]
    return ReliabilityCounts(known, target[known], **sums)
