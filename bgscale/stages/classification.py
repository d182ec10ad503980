"""Experiment 1: pairs of classes told apart."""

import numpy as np
from threadpoolctl import threadpool_limits

from bgscale import evaluate as svm
from bgscale.distribute.units import Unit
from bgscale.schema import OWN_BACKGROUND
from bgscale.stages.cells import Done
from bgscale.stages.embedding import model_of, provenance
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
    for variable, dtype, fill, text in (
        ("accuracy", "float64", float("nan"), "share of held-out crops that are classified right"),
        ("converged", "uint8", 0, "whether the solver converged before its cap"),
    ):
        store.create_array(
            f"{node}/{variable}", dims, dtype, chunk={"localization_a": 1}, fill=fill,
            long_name=text, units="1",
        )  # fmt: skip


def evaluate(job: Job, unit: Unit) -> Done:
    """Cross-validate all problems of one class against those after it."""
    name, a = unit.stage.split("/")[1], unit.start
    layer = model_of(job.text, name).spec.classification_layer
    section, store = job.config.classification, job.store
    # a pair (a, b) needs class a and those after it, not the whole grid
    block = store.array(f"grid/{name}/{layer}/embedding")[:, :, a:]
    filler = np.zeros((*block.shape[:2], a, *block.shape[3:]), block.dtype)
    grid = np.concatenate([filler, block], axis=2)
    features = {
        setting.name: grid[s, 1:] if setting.each_background else grid[s, 0]
        for s, setting in enumerate(job.settings)
    }
    # how a product is split over threads changes its last bits
    with threadpool_limits(1, user_api="blas"):
        row = svm.sweep_row(
            a,
            features,
            localizations=job.classes,
            folds=section.folds,
            penalty=section.penalty,
            max_iterations=section.max_iterations,
        )
    region = [(0, len(job.settings)), (a, a + 1)]
    accuracy, converged = row.accuracy[:, None], row.converged[:, None].astype(np.uint8)
    files = store.write(f"evaluation/{name}/accuracy", region, accuracy)
    files += store.write(f"evaluation/{name}/converged", region, converged)
    fits = int(np.isfinite(accuracy).sum())
    return files, {"fits": fits, "converged": int(converged.sum())}
