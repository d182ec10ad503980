"""Experiment 1: pairs of classes told apart."""

import numpy as np
from threadpoolctl import threadpool_limits

from bgscale import evaluate as svm
from bgscale.distribute.units import Unit
from bgscale.schema import OWN_BACKGROUND
from bgscale.stages.cells import Done
from bgscale.stages.embedding import grid_problems, model_of, provenance
from bgscale.stages.job import Job


def create_evaluation(job: Job, name: str) -> None:
    """Create the accuracies of all pairs of classes."""
    store, classes = job.store, job.classes
    coords = {
        "setting": job.config.settings,
        "localization_a": classes,
        "localization_b": classes,
        "background": (OWN_BACKGROUND, *classes),
        "each_background": ("setting", [s.each_background for s in job.settings]),
    }
    node = f"evaluation/{name}"
    store.create_group(node, coords=coords, **provenance(job, f"grid/{name}"))
    dims = {
        "setting": len(job.settings),
        "localization_a": len(classes),
        "localization_b": len(classes),
        "background": len(classes) + 1,
        "fold": job.config.classification.folds,
    }
    chunk = {"setting": 1, "background": 1}
    for variable, dtype, fill, text in (
        ("accuracy", "float64", float("nan"), "share of held-out crops that are classified right"),
        ("converged", "uint8", 0, "whether the solver converged before its cap"),
    ):
        store.create_array(
            f"{node}/{variable}", dims, dtype, chunk=chunk, fill=fill, long_name=text, units="1"
        )


def evaluate(job: Job, unit: Unit) -> Done:
    """Cross-validate all pairs of classes under one setting and background."""
    name = unit.stage.split("/")[1]
    layer = model_of(job.text, name).spec.classification_layer
    section, store = job.config.classification, job.store
    s, b = grid_problems(job)[unit.start]
    # how a product is split over threads changes its last bits
    with threadpool_limits(1, user_api="blas"):
        scores = svm.classify(
            store.read(f"grid/{name}/{layer}/embedding", s, b),
            localizations=job.classes,
            folds=section.folds,
            penalty=section.penalty,
            max_iterations=section.max_iterations,
        )
    n = len(job.classes)
    region = [(s, s + 1), (0, n), (0, n), (b, b + 1)]
    accuracy, converged = (
        values[None, :, :, None] for values in (scores.accuracy, scores.converged.astype(np.uint8))
    )
    files = store.write(f"evaluation/{name}/accuracy", region, accuracy)
    files += store.write(f"evaluation/{name}/converged", region, converged)
    fits = int(np.isfinite(accuracy).sum())
    return files, {"fits": fits, "converged": int(converged.sum())}
