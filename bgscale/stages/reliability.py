"""Experiment 2: whether the softmax can be believed, from what the shards of cells have counted."""

import numpy as np

from bgscale import proportions as kernels
from bgscale.distribute.units import Unit
from bgscale.stages.cells import Done
from bgscale.stages.classifiers import FITS
from bgscale.stages.embedding import provenance
from bgscale.stages.job import Job
from bgscale.stages.predictions import read_counts, shards_with


def create_reliability(job: Job, name: str) -> None:
    """Create the reliability of the classifiers, by fit and setting."""
    store, node = job.store, f"reliability/{name}"
    labels = (*job.classes, kernels.TOP)
    bins = kernels.N_BINS
    store.create_group(
        node,
        coords={
            "fit": FITS,
            "setting": job.config.settings,
            "label": labels,
            "bin": [b / bins for b in range(bins)],
        },
        description="of cells of single-class proteins, out of fold: what share is what the "
        "softmax says; every class has the same total weight",
        **provenance(job, f"plates/{job.plates[0]}/embeddings/{name}"),
    )
    dims = {"fit": len(FITS), "setting": len(job.settings), "label": len(labels)}
    for variable, text in kernels.DESCRIPTIONS.items():
        of_label = variable.startswith("calibration_error")
        counted = variable == "n_cells"
        store.create_array(
            f"{node}/{variable}",
            dims if of_label else {**dims, "bin": bins},
            "int64" if counted else "float64",
            chunk={},
            fill=0 if counted else float("nan"),
            units="1",
            long_name=text,
        )


def reliability(job: Job, unit: Unit) -> Done:
    """Add what all shards have counted, and divide."""
    name, store = unit.stage.split("/")[1], job.store
    found = [
        read_counts(job, name, plate, shard, span)
        for plate, shard, span, _ in shards_with(job, name, 0, len(job.proteins))
    ]
    whole = [kernels.ReliabilityCounts.total(of_fit) for of_fit in zip(*found, strict=True)]
    made = [
        kernels.reliability_of(
            counts, settings=job.config.settings, localizations=job.classes, seed=job.config.seed
        )
        for counts in whole
    ]
    files = []
    for variable in kernels.DESCRIPTIONS:
        values = np.stack([dataset[variable].to_numpy() for dataset in made])
        files += store.write(f"reliability/{name}/{variable}", [(0, len(FITS))], values)
    return files, {"proteins": len(whole[0].protein)}
