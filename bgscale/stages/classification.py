"""Experiment 1: pairs of classes told apart, and what else their classifiers say.

`evaluate` cross-validates all pairs under one setting and background, with the published folds and
with grouped ones. `controls` tests what was fitted on `original` under every setting, and sets each
class on the other's background; it needs no new features.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from bgscale import evaluate as svm
from bgscale.distribute.units import Unit
from bgscale.errors import InputError
from bgscale.schema import OWN_BACKGROUND
from bgscale.stages.cells import Done
from bgscale.stages.embedding import model_of, provenance
from bgscale.stages.grid import grid_problems
from bgscale.stages.job import Job

PAIR = ("localization_a", "localization_b")
_EVALUATED: dict[str, tuple[str, float, str]] = {
    "accuracy": ("float64", np.nan, "share of held-out crops that are classified right"),
    "converged": ("uint8", 0, "whether the solver reached its tolerance"),
    "iterations": ("int64", -1, "iterations of the solver; -1: no problem"),
    "grouped_accuracy": ("float64", np.nan, "the same with folds that divide no group"),
    "grouped_converged": ("uint8", 0, "whether the solver reached its tolerance, grouped folds"),
}
_DECISION = "whether a held-out crop was told right: 1, 0; -1: none; member 0 is of a, 1 of b"
_FITTED = {
    "coef": "hyperplane fitted on original, raw features",
    "intercept": "of the hyperplane; features @ coef + intercept > 0 says b",
}


def check_groups(job: Job) -> None:
    """Refuse groups that the screen does not have.

    Raises
    ------
    InputError
        Wells of a crops screen.
    """
    if job.config.classification.groups == "well" and job.screen.kind == "crops":
        msg = (
            "classification.groups = 'well': a screen of crops has no wells; expected auto, "
            "protein, field or none"
        )
        raise InputError(msg)


def grouping_of(job: Job) -> svm.Grouping:
    """Return which of experiment 1's cells are held out together."""
    protein, field = (job.store.read(f"centres/{n}").astype(np.int64) for n in ("protein", "field"))
    wells = job.store.has(f"plates/{job.plates[0]}/fields")
    codes = svm.codes_of(protein, field, job.field_names, wells=wells)
    return svm.grouping(job.config.classification.groups, codes, localizations=job.classes)


def _coords(job: Job) -> dict[str, Any]:
    return {
        "setting": job.config.settings,
        "localization_a": job.classes,
        "localization_b": job.classes,
        "background": (OWN_BACKGROUND, *job.classes),
        "each_background": ("setting", [s.each_background for s in job.settings]),
        "member": ("a", "b"),
    }


def _dims(job: Job, name: str) -> dict[str, int]:
    """Return the sizes of all dims of the two nodes."""
    spec = model_of(job.text, name).spec
    return {
        "setting": len(job.settings),
        "localization_a": len(job.classes),
        "localization_b": len(job.classes),
        "background": len(job.classes) + 1,
        "member": 2,
        "draw": int(job.store.array("centres/id").shape[1]),
        "fold": job.config.classification.folds,
        "feature": spec.layers[spec.classification_layer],
    }


def create_evaluation(job: Job, name: str) -> None:
    """Create the accuracies of all pairs of classes, and what was said of each cell."""
    store, node, grouping = job.store, f"evaluation/{name}", grouping_of(job)
    section = job.config.classification
    store.create_group(
        node,
        coords=_coords(job),
        description="experiment 1: linear SVMs between all pairs of classes",
        solver=section.solver,
        groups=grouping.kind,
        groups_asked=section.groups,
        groups_note=grouping.note,
        **provenance(job, f"grid/{name}"),
    )
    sizes = _dims(job, name)
    chunk = {"setting": 1, "background": 1}

    def create(variable: str, dims: tuple[str, ...], dtype: str, fill: float, text: str) -> None:
        store.create_array(
            f"{node}/{variable}", {dim: sizes[dim] for dim in dims}, dtype,
            chunk=chunk, fill=fill, long_name=text, units="1",
        )  # fmt: skip

    for variable, (dtype, fill, text) in _EVALUATED.items():
        create(variable, ("setting", *PAIR, "background", "fold"), dtype, fill, text)
    of_cells = ("setting", *PAIR, "background", "member", "draw")
    create("decision", of_cells, "int8", -1, _DECISION)
    create("coef", (*PAIR, "fold", "feature"), "float64", np.nan, _FITTED["coef"])
    create("intercept", (*PAIR, "fold"), "float64", np.nan, _FITTED["intercept"])


def evaluate(job: Job, unit: Unit) -> Done:
    """Cross-validate all pairs of classes under one setting and background."""
    name = unit.stage.split("/")[1]
    section, store, n = job.config.classification, job.store, len(job.classes)
    s, b = grid_problems(job)[unit.start]
    # how a product is split over threads changes its last bits
    with threadpool_limits(1, user_api="blas"):
        scores = svm.classify(
            _grid(job, name, s, b),
            localizations=job.classes,
            solver=section.solver,
            groups=grouping_of(job).codes,
            folds=section.folds,
            penalty=section.penalty,
            max_iterations=section.max_iterations,
        )
    region, node = [(s, s + 1), (0, n), (0, n), (b, b + 1)], f"evaluation/{name}"
    files = []
    for variable in (*_EVALUATED, "decision"):
        dtype = store.array(f"{node}/{variable}").dtype
        values = getattr(scores, variable).astype(dtype)[None, :, :, None]
        files += store.write(f"{node}/{variable}", region, values)
    if job.settings[s].name == "original":
        for variable in _FITTED:
            files += store.write(f"{node}/{variable}", [(0, n)], getattr(scores, variable))
    fits = int(np.isfinite(scores.accuracy).sum())
    return files, {"fits": fits, "converged": int(scores.converged.sum())}


def _grid(job: Job, name: str, s: int, b: int) -> npt.NDArray[np.float32]:
    """Return the features of experiment 1's cells: (localization, draw, feature)."""
    layer = model_of(job.text, name).spec.classification_layer
    return job.store.read(f"grid/{name}/{layer}/embedding", s, b)


def create_controls(job: Job, name: str) -> None:
    """Create what classifiers of `original` say under each setting, and conflicts of classes."""
    store, node = job.store, f"controls/{name}"
    attrs = store.attrs(f"evaluation/{name}")
    kept = ("solver", "groups", "groups_note", "model", "random_weights", "engine")
    store.create_group(
        node,
        coords=_coords(job),
        description="experiment 1: classifiers of original tested on other backgrounds; each class "
        "on the other's background (conflict)",
        **{key: attrs[key] for key in kept},
    )
    sizes, problem = _dims(job, name), ("setting", *PAIR)
    of_cells = ("member", "draw")
    for variable, dims, dtype, fill, text in (
        ("transferred", (*problem, "background", "fold"), "float64", np.nan,
         "share of held-out crops that classifiers fitted on original tell right"),
        ("transferred_decision", (*problem, "background", *of_cells), "int8", -1, _DECISION),
        ("conflict", (*problem, "fold"), "float64", np.nan,
         "share told right with a on b's backgrounds against b on a's"),
        ("conflict_converged", (*problem, "fold"), "uint8", 0,
         "whether the solver reached its tolerance"),
        ("conflict_decision", (*problem, *of_cells), "int8", -1, _DECISION),
    ):  # fmt: skip
        store.create_array(
            f"{node}/{variable}", {dim: sizes[dim] for dim in dims}, dtype,
            chunk={"setting": 1}, fill=fill, long_name=text, units="1",
        )  # fmt: skip


def controls(job: Job, unit: Unit) -> Done:
    """Test under one setting what was fitted on `original`; set classes on each other's ground."""
    name, s = unit.stage.split("/")[1], unit.start
    section, store, node = job.config.classification, job.store, f"controls/{name}"
    coef, intercept = (store.read(f"evaluation/{name}/{v}") for v in _FITTED)
    original = _grid(job, name, job.config.settings.index("original"), 0)
    present = np.asarray(np.isfinite(original).all(axis=2))
    arrays = ("transferred", "transferred_decision", "conflict", "conflict_converged",
              "conflict_decision")  # fmt: skip
    found = {}
    for variable in arrays:
        array = store.array(f"{node}/{variable}")
        found[variable] = np.full((1, *array.shape[1:]), array.fill_value, array.dtype)
    # settings without a background of each class have the own one
    backgrounds = [b for setting, b in grid_problems(job) if setting == s]
    blocks = []
    with threadpool_limits(1, user_api="blas"):
        for b in backgrounds:
            blocks.append(_grid(job, name, s, b))
            moved = svm.transferred(blocks[-1], coef, intercept, present=present)
            found["transferred"][0, :, :, b] = moved.accuracy
            found["transferred_decision"][0, :, :, b] = moved.decision
        if job.settings[s].each_background:
            against = svm.conflict(
                np.stack(blocks),
                localizations=job.classes,
                solver=section.solver,
                folds=section.folds,
                penalty=section.penalty,
                max_iterations=section.max_iterations,
            )
            found["conflict"][0] = against.accuracy
            found["conflict_converged"][0] = against.converged
            found["conflict_decision"][0] = against.decision
    files = []
    for variable, values in found.items():
        files += store.write(f"{node}/{variable}", [(s, s + 1)], values)
    return files, {"backgrounds": len(backgrounds)}
