"""Experiment 2: the proportions of each protein, from what the shards of cells have summed.

No feature is read: sums are added, and shares of mixtures come from the softmax of the cells.
"""

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from bgscale import proportions as kernels
from bgscale.distribute.units import Unit
from bgscale.proportions import ProportionState
from bgscale.results import rows_of
from bgscale.settings import Ints
from bgscale.stages.cells import MIN_SHARDS, Done
from bgscale.stages.choosing import evaluated
from bgscale.stages.classifiers import FITS, groups_of
from bgscale.stages.embedding import provenance
from bgscale.stages.job import Job
from bgscale.stages.predictions import node_of, read_sums

Floats: TypeAlias = npt.NDArray[np.float64]

PROTEINS_A_CHUNK = 64
CHUNKS_A_UNIT = 8


def proteins_a_unit(proteins: int) -> int:
    """Return how many proteins a unit gathers: whole chunks, fewer on small screens.

    A unit reads all plates that any of its proteins lies on, which on a large screen may be most.

    Examples
    --------
    >>> [proteins_a_unit(n) for n in (50, 1000, 4000, 100_000)]
    [64, 64, 192, 512]
    """
    chunks = proteins // (MIN_SHARDS * PROTEINS_A_CHUNK)
    return PROTEINS_A_CHUNK * min(max(chunks, 1), CHUNKS_A_UNIT)


def create_proportions(job: Job, name: str) -> None:
    """Create the proportions, and the sums that they and all their tests come from."""
    store, k = job.store, len(job.classes)
    width = int(np.bincount(groups_of(job).protein).max())
    coords = {
        "fit": FITS,
        "setting": job.config.settings,
        "protein": job.proteins,
        "localization": job.classes,
    }
    node = f"proportions/{name}"
    store.create_group(
        node,
        coords=coords,
        description="where each protein is, out of fold, and the sums that its tests come from",
        sum_scale=kernels.SUM_SCALE,
        **provenance(job, f"plates/{job.plates[0]}/embeddings/{name}"),
    )
    dims = {"fit": len(FITS), "setting": len(job.settings), "protein": len(job.proteins)}
    slot, last = {"protein_field": width}, {"localization": k}
    again = {"replicate": job.config.proportions.replicates, **last}
    steps = f"1/{kernels.SUM_SCALE}"
    for variable, (more, dtype, units, text) in {
        "proportion": (last, "float64", "1", "mean softmax over the protein's cells"),
        "mixture": (last, "float64", "1", "shares that the cells are most likely drawn from"),
        "n_cells": ({}, "int64", "1", "cells present under the setting and under original"),
        "field": (slot, "int32", "", "code of the field; -1: none"),
        "n": (slot, "int64", "1", "cells by field"),
        "sums": ({**slot, **last}, "int64", steps, "sum of p by field"),
        "baseline": ({**slot, **last}, "int64", steps, "sum of p under original, same cells"),
        "squares": (last, "int64", steps, "sum of p squared"),
        "cross": ({**last, "localization_2": k}, "int64", steps, "sum of delta delta^T"),
        "replicate_sums": (again, "int64", steps, "sum of p by classifier replicate"),
        "replicate_baseline": (again, "int64", steps, "the same under original, same cells"),
    }.items():
        store.create_array(
            f"{node}/{variable}",
            {**dims, **more},
            dtype,
            chunk={"protein": PROTEINS_A_CHUNK},
            fill=float("nan") if dtype == "float64" else 0,
            units=units,
            long_name=text,
        )


def proportions(job: Job, unit: Unit) -> Done:
    """Add the sums of some proteins, and find the mixtures their cells are drawn from."""
    name, store = unit.stage.split("/")[1], job.store
    zero = ProportionState.zero(
        len(job.settings), len(job.classes), job.config.proportions.replicates
    )
    plates, found = [], [[zero] * len(FITS)]
    for plate, of_shard in read_sums(job, name, unit.start, unit.stop):
        plates.append(plate)
        found.append(of_shard)
    states = [_added(of_fit) for of_fit in zip(*found, strict=True)]
    mixtures = _mixtures(job, name, unit, list(dict.fromkeys(plates)))
    out: dict[str, npt.NDArray[Any]] = {"mixture": mixtures}
    for f, state in enumerate(states):
        for variable, values in _dense(state, unit, job, name).items():
            block = out.setdefault(variable, np.zeros((len(FITS), *values.shape), values.dtype))
            block[f] = values
    region = [(0, len(FITS)), (0, len(job.settings)), (unit.start, unit.stop)]
    files = []
    for variable, values in out.items():
        files += store.write(f"proportions/{name}/{variable}", region, values)
    return files, {"cells": int(states[0].n[0].sum())}


def _added(states: Sequence[ProportionState]) -> ProportionState:
    """Return the sums over all, added by twos: one by one the whole would be copied each time."""
    if len(states) == 1:
        return states[0]
    half = len(states) // 2
    return _added(states[:half]) + _added(states[half:])


def _mixtures(job: Job, name: str, unit: Unit, plates: Sequence[str]) -> npt.NDArray[np.float64]:
    """Return the mixture of each protein of a unit: (fit, setting, protein, localization).

    One fit and setting of the unit's cells is held at a time. No other plates are read than those
    that hold its proteins: there may be hundreds, and as many units.
    """
    shape = len(FITS), len(job.settings), unit.stop - unit.start, len(job.classes)
    out = np.full(shape, np.nan)
    rows, owner, field = [], [], []
    if not plates:
        return out
    for plate in plates:
        table = job.cells(plate)
        own = evaluated(table)
        protein = table.cells.protein[own]
        own = own[(protein >= unit.start) & (protein < unit.stop)]
        rows.append((job.store.array(f"{node_of(plate, name)}/probability"), own))
        owner.append(table.cells.protein[own])
        field.append(table.cells.field[own] + job.first_fields[plate])
    # cells of a protein in the order of plates and rows, whatever the shards
    protein = np.concatenate(owner)
    order = np.argsort(protein, kind="stable")
    codes, starts = np.unique(protein[order], return_index=True)
    known = _priors(job, name, protein, np.concatenate(field))
    for f, s in np.ndindex(shape[:2]):
        softmax = np.concatenate([rows_of(array, own, f, s) for array, own in rows])
        for code, cells in zip(codes, np.split(order, starts[1:]), strict=True):
            mine = softmax[cells]
            present = np.isfinite(mine).all(axis=1)
            prior = None if known is None else known[0][f, s][known[1][cells[present]]]
            out[f, s, code - unit.start] = kernels.mixture(mine[present], prior)
    return out


def _priors(job: Job, name: str, protein: Ints, field: Ints) -> tuple[Floats, Ints] | None:
    """Return how common classes were where classifiers were trained; None: equally.

    Returns
    -------
    array (fit, setting, fold, localization), float64
    array (cell,), int64
        The fold that each cell is left out with.
    """
    if job.config.proportions.hyperparameters != "published":
        return None
    groups = groups_of(job)
    matched = job.store.read(f"classifiers/{name}/prior")[:, :, 0]
    fixed = np.broadcast_to(matched[job.config.settings.index("original")], matched.shape)
    return np.stack([fixed, matched]), groups.folds.fold[groups.of(protein, field)]


def _dense(state: ProportionState, unit: Unit, job: Job, name: str) -> dict[str, npt.NDArray[Any]]:
    """Return a state's sums by (setting, protein of the unit, field slot)."""
    settings, classes = len(job.settings), len(job.classes)
    size = unit.stop - unit.start
    width = job.store.array(f"proportions/{name}/field").shape[-1]
    place = state.protein - unit.start
    group_place = state.group[:, 0] - unit.start
    slot = np.arange(len(state.group)) - np.searchsorted(state.group[:, 0], state.group[:, 0])
    final = state.finalize()
    out: dict[str, npt.NDArray[Any]] = {
        "proportion": np.full((settings, size, classes), np.nan),
        "n_cells": np.zeros((settings, size), np.int64),
        "field": np.full((settings, size, width), -1, np.int32),
    }
    out["proportion"][:, place], out["n_cells"][:, place] = final.mean, final.n_cells
    out["field"][:, group_place, slot] = state.group[:, 1].astype(np.int32)
    for variable in ("n", "sums", "baseline"):
        values = getattr(state, variable)
        out[variable] = np.zeros((settings, size, width, *values.shape[2:]), np.int64)
        out[variable][:, group_place, slot] = values
    for variable in ("squares", "cross", "replicate_sums", "replicate_baseline"):
        values = getattr(state, variable)
        out[variable] = np.zeros((settings, size, *values.shape[2:]), np.int64)
        out[variable][:, place] = values
    return out
