"""Experiment 2: the classifiers of localization, and the proportions of each protein."""

from typing import Any

import numpy as np
import numpy.typing as npt

from bgscale import proportions as kernels
from bgscale.distribute.units import Unit
from bgscale.proportions import Classifier, Folds, ProportionState
from bgscale.settings import Ints, select_donors
from bgscale.stages.cells import Done
from bgscale.stages.embedding import model_of, provenance
from bgscale.stages.job import Job, PlateCells

PROTEINS_A_UNIT = 64
FITS = ("fixed", "matched")
_CLASSIFIER_PARTS = ("coef", "intercept", "mean", "scale", "converged", "iterations")


def evaluated_cells(job: Job) -> tuple[PlateCells, Ints]:
    """Return the cell table and the rows that take part in the evaluation."""
    table = job.everyone
    return table, np.flatnonzero(table.usable & table.evaluated)


def protein_fields(job: Job) -> tuple[Ints, Ints, Ints]:
    """Return the (protein, field) groups that have cells, sorted, and the group of each row.

    Rows that take part in the evaluation; the others have group -1.
    """
    table, rows = evaluated_cells(job)
    pairs = np.stack([table.cells.protein[rows], table.cells.field[rows]])
    groups, code = np.unique(pairs, axis=1, return_inverse=True)
    of_row = np.full(len(table.cells), -1, np.int64)
    of_row[rows] = code.reshape(-1)
    return groups[0], groups[1], of_row


def folds_of(job: Job) -> tuple[Folds, Ints]:
    """Return the folds, and each cell's (protein, field) group."""
    protein, field, of_row = protein_fields(job)
    folds = kernels.assign_folds(
        job.proteins,
        job.labels,
        protein,
        field,
        seed=job.config.seed,
        n_folds=job.config.proportions.folds,
    )
    return folds, of_row


def create_classifiers(job: Job, name: str) -> None:
    """Create the classifiers of localization: by setting they are fitted on, and fold."""
    store, section = job.store, job.config.proportions
    spec = model_of(job.text, name).spec
    folds, _ = folds_of(job)
    node = f"classifiers/{name}"
    by_field = [c for c, flag in zip(job.classes, folds.by_field, strict=True) if flag]
    unlearnable = [c for c, flag in zip(job.classes, folds.learnable, strict=True) if not flag]
    store.create_group(
        node,
        coords={"setting": job.config.settings, "localization": job.classes},
        layer=spec.profile_layer,
        classes_dealt_by_field=by_field,
        classes_not_learnable=unlearnable,
        **provenance(job, f"plates/{job.plates[0]}/embeddings/{name}"),
    )
    dims = {
        "setting": len(job.settings),
        "fold": int(folds.fold.max()) + 1,
        "replicate": 1 + section.replicates,
    }
    feature = {"feature": spec.layers[spec.profile_layer]}
    localization = {"localization": len(job.classes)}
    shapes: dict[str, tuple[dict[str, int], str]] = {
        "coef": ({**localization, **feature}, "float64"),
        "intercept": (localization, "float64"),
        "mean": (feature, "float64"),
        "scale": (feature, "float64"),
        "converged": ({}, "uint8"),
        "iterations": ({}, "int32"),
    }
    for part, (more, dtype) in shapes.items():
        fill = float("nan") if dtype == "float64" else 0
        store.create_array(
            f"{node}/{part}", {**dims, **more}, dtype, chunk={"setting": 1}, fill=fill
        )


def classifiers(job: Job, unit: Unit) -> Done:
    """Fit the classifiers on the cells of single-class proteins, under one setting."""
    name, s = unit.stage.split("/")[1], unit.start
    section, store = job.config.proportions, job.store
    layer = model_of(job.text, name).spec.profile_layer
    table, rows = evaluated_cells(job)
    folds, group = folds_of(job)
    chosen = select_donors(
        table.cells.take(rows),
        per_class=section.cells_per_class,
        per_field=section.cells_per_class,
        seed=job.config.seed,
        purpose="fit",
    )
    train = np.sort(rows[np.concatenate(chosen)])
    features = job.read_rows(f"embeddings/{name}/{layer}/embedding", train)[:, s]
    present = np.isfinite(features).all(1)
    target, fold = (a[group[train][present]] for a in (folds.target, folds.fold))
    count = int(folds.fold.max()) + 1
    seen = [np.unique(target[(target >= 0) & (fold != f)]) for f in range(count)]
    if min(map(len, seen)) < 2:
        # too few cells have a background under this setting: no proportions, not no results
        return [], {"cells": int(present.sum()), "not_converged": 0}
    fitted = kernels.fit_out_of_fold(
        features[present],
        group[train][present],
        folds,
        weights=kernels.replicate_weights(
            folds, seed=job.config.seed, replicates=section.replicates
        ),
        penalty=section.penalty,
    )
    files = []
    for part in _CLASSIFIER_PARTS:
        path = f"classifiers/{name}/{part}"
        values = np.array([[getattr(c, part) for c in row] for row in fitted])
        files += store.write(path, [(s, s + 1)], values[None].astype(store.array(path).dtype))
    unconverged = sum(not c.converged for row in fitted for c in row)
    return files, {"cells": int(present.sum()), "not_converged": unconverged}


def read_classifiers(job: Job, name: str, s: int) -> list[list[Classifier]]:
    """Return the classifiers that were fitted under setting s: fold, then replicate."""
    parts = [job.store.read(f"classifiers/{name}/{part}", s) for part in _CLASSIFIER_PARTS]
    folds, replicates = parts[0].shape[:2]
    return [
        [
            Classifier(
                parts[0][f, r],
                parts[1][f, r],
                parts[2][f, r],
                parts[3][f, r],
                bool(parts[4][f, r]),
                int(parts[5][f, r]),
            )
            for r in range(replicates)
        ]
        for f in range(folds)
    ]


def create_proportions(job: Job, name: str) -> None:
    """Create the proportions, and the sums that they and all their tests come from."""
    store, k = job.store, len(job.classes)
    protein, _, _ = protein_fields(job)
    width = int(np.bincount(protein).max())
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
            chunk={"protein": PROTEINS_A_UNIT},
            fill=float("nan") if dtype == "float64" else 0,
            units=units,
            long_name=text,
        )


def proportions(job: Job, unit: Unit) -> Done:
    """Score the cells of some proteins out of fold, and sum."""
    name = unit.stage.split("/")[1]
    store, classes = job.store, len(job.classes)
    layer = model_of(job.text, name).spec.profile_layer
    table, rows = evaluated_cells(job)
    folds, group = folds_of(job)
    protein = table.cells.protein[rows]
    rows = rows[(protein >= unit.start) & (protein < unit.stop)]
    features = job.read_rows(f"embeddings/{name}/{layer}/embedding", rows)
    present = np.isfinite(features).all(2).T
    replicates = job.config.proportions.replicates
    shape = (len(FITS), len(job.settings), unit.stop - unit.start, classes)
    out: dict[str, npt.NDArray[Any]] = {"mixture": np.full(shape, np.nan)}
    for f, fit in enumerate(FITS):
        p = np.zeros((len(job.settings), 1 + replicates, len(rows), classes))
        here = present.copy()
        for s in range(len(job.settings)):
            fitted = read_classifiers(job, name, s if fit == "matched" else 0)
            # a classifier that could not be fitted is NaN
            here[s] &= bool(np.isfinite(fitted[0][0].coef).all())
            seen = np.flatnonzero(here[s])
            p[s][:, seen] = kernels.predict_out_of_fold(
                fitted, features[seen, s], folds.fold[group[rows[seen]]]
            )
            for protein in np.unique(table.cells.protein[rows]):
                own = seen[table.cells.protein[rows[seen]] == protein]
                out["mixture"][f, s, protein - unit.start] = kernels.mixture(p[s, 0, own])
        state = kernels.accumulate(
            p[:, 0],
            here,
            table.cells.protein[rows],
            table.cells.field[rows],
            replicates=p[:, 1:],
        )
        for variable, values in _dense(state, unit, job, name).items():
            block = out.setdefault(variable, np.zeros((len(FITS), *values.shape), values.dtype))
            block[f] = values
    region = [(0, len(FITS)), (0, len(job.settings)), (unit.start, unit.stop)]
    files = []
    for variable, values in out.items():
        files += store.write(f"proportions/{name}/{variable}", region, values)
    return files, {"cells": len(rows)}


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
