"""Experiment 2: the classifiers of localization, each fitted without a fold of the proteins."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from bgscale import proportions as kernels
from bgscale.distribute.units import Unit
from bgscale.proportions import Folds, Panel
from bgscale.settings import Ints
from bgscale.stages.cells import Done
from bgscale.stages.choosing import choose, evaluated, evaluated_cells
from bgscale.stages.embedding import model_of, provenance
from bgscale.stages.job import Job

FITS = ("fixed", "matched")
"""Fitted on `original` and applied to all settings; fitted and applied within a setting."""
_CLASSIFIER_PARTS = ("coef", "intercept", "mean", "scale", "converged", "iterations", "prior")


@dataclass(frozen=True, eq=False)
class Groups:
    """The (protein, field) groups that have cells in the evaluation, and how they were dealt.

    Parameters
    ----------
    protein, field : array (group,), int64
        Sorted; fields of all plates, as `Job.everyone` has them.
    fields : int
        How many fields there are.
    folds : Folds
    """

    protein: Ints
    field: Ints
    fields: int
    folds: Folds

    def of(self, protein: Ints, field: Ints) -> Ints:
        """Return the group of each cell; all cells must be in one."""
        key = self.protein * self.fields + self.field
        return np.searchsorted(key, protein * self.fields + field).astype(np.int64)


@lru_cache(maxsize=2)
def groups_of(job: Job) -> Groups:
    """Return the groups of a job's cells; plate by plate, so that few cells are held at once."""
    counts = [job.field_count(plate) for plate in job.plates]
    fields, keys = sum(counts), []
    for plate, first in zip(job.plates, np.cumsum([0, *counts[:-1]]), strict=True):
        table = job.cells(plate)
        rows = evaluated(table)
        protein, field = table.cells.protein[rows], table.cells.field[rows]
        keys.append(np.unique(protein * fields + field + first))
    key = np.sort(np.concatenate(keys))
    protein, field = np.divmod(key, max(fields, 1))
    folds = kernels.assign_folds(
        job.proteins,
        job.labels,
        protein,
        field,
        seed=job.config.seed,
        n_folds=job.config.proportions.folds,
    )
    return Groups(protein, field, fields, folds)


def create_classifiers(job: Job, name: str) -> None:
    """Create the classifiers of localization: by setting they are fitted on, and fold."""
    store, section = job.store, job.config.proportions
    spec = model_of(job.text, name).spec
    folds = groups_of(job).folds
    node = f"classifiers/{name}"
    by_field = [c for c, flag in zip(job.classes, folds.by_field, strict=True) if flag]
    unlearnable = [c for c, flag in zip(job.classes, folds.learnable, strict=True) if not flag]
    store.create_group(
        node,
        coords={"setting": job.config.settings, "localization": job.classes},
        description="classifiers of localization on single-cell features; replicate 0 is the "
        "classifier itself, the others saw training proteins reweighted",
        layer=spec.profile_layer,
        hyperparameters=section.hyperparameters,
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
    shapes: dict[str, tuple[dict[str, int], str, str]] = {
        "coef": ({**localization, **feature}, "float64", "coefficients of standardised features"),
        "intercept": (localization, "float64", "intercepts; -inf: a class that is not learnable"),
        "mean": (feature, "float64", "what is taken off a feature"),
        "scale": (feature, "float64", "what it is then divided by"),
        "converged": ({}, "uint8", "whether the gradient fell below its bound"),
        "iterations": ({}, "int32", "iterations, or steps, of the solver"),
        "prior": (localization, "float64", "share of each class in the training, as weighted"),
    }
    for part, (more, dtype, text) in shapes.items():
        fill = float("nan") if dtype == "float64" else 0
        store.create_array(
            f"{node}/{part}", {**dims, **more}, dtype, chunk={"setting": 1}, fill=fill,
            units="1", long_name=text,
        )  # fmt: skip


def classifiers(job: Job, unit: Unit) -> Done:
    """Fit the classifiers on the cells of single-class proteins, under one setting."""
    name, s = unit.stage.split("/")[1], unit.start
    section, store = job.config.proportions, job.store
    layer = model_of(job.text, name).spec.profile_layer
    groups = groups_of(job)
    folds = groups.folds
    found, chosen = choose(
        job,
        lambda: (own for _, own in evaluated_cells(job, job.plates)),
        per_class=section.cells_per_class,
        per_field=section.cells_per_class,
        purpose="fit",
    )
    train = found.take(np.sort(np.concatenate(chosen)))
    features = job.read_rows(f"embeddings/{name}/{layer}/embedding", train.rows, s)
    present = np.isfinite(features).all(1)
    group = groups.of(train.cells.protein[present], train.cells.field[present])
    target, fold = folds.target[group], folds.fold[group]
    count = int(folds.fold.max()) + 1
    seen = [np.unique(target[(target >= 0) & (fold != f)]) for f in range(count)]
    if min(map(len, seen)) < 2:
        # too few cells have a background under this setting: no proportions, not no results
        return [], {"cells": int(present.sum()), "not_converged": 0}
    fitted = kernels.fit_out_of_fold(
        features[present],
        group,
        folds,
        weights=kernels.replicate_weights(
            folds, seed=job.config.seed, replicates=section.replicates
        ),
        penalty=section.penalty,
        hyperparameters=section.hyperparameters,
        seed=job.config.seed,
    )
    files = []
    for part in _CLASSIFIER_PARTS:
        path = f"classifiers/{name}/{part}"
        values = np.array([[getattr(c, part) for c in row] for row in fitted])
        files += store.write(path, [(s, s + 1)], values[None].astype(store.array(path).dtype))
    unconverged = sum(not c.converged for row in fitted for c in row)
    return files, {"cells": int(present.sum()), "not_converged": unconverged}


@lru_cache(maxsize=2)
def panels(job: Job, name: str) -> tuple[Panel, ...]:
    """Return the classifiers of a model by the setting they were fitted under."""
    parts = [job.store.read(f"classifiers/{name}/{part}") for part in _CLASSIFIER_PARTS[:4]]
    return tuple(kernels.panel_of(*(part[s] for part in parts)) for s in range(len(job.settings)))
