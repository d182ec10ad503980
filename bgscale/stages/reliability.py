"""Experiment 2: whether the softmax can be believed, from what the shards of cells have counted."""

import numpy as np
import xarray as xr

from bgscale import proportions as kernels
from bgscale.distribute.units import Unit
from bgscale.stages.cells import Done
from bgscale.stages.classifiers import FITS
from bgscale.stages.embedding import provenance
from bgscale.stages.job import Job
from bgscale.stages.predictions import read_counts


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
    # a fit at a time: the counts of all proteins are the most that a unit holds
    made, proteins = zip(*(_of_fit(job, name, fit) for fit in range(len(FITS))), strict=True)
    files = []
    for variable in kernels.DESCRIPTIONS:
        values = np.stack([dataset[variable].to_numpy() for dataset in made])
        files += store.write(f"reliability/{name}/{variable}", [(0, len(FITS))], values)
    return files, {"proteins": max(proteins)}


def _of_fit(job: Job, name: str, fit: int) -> tuple[xr.Dataset, int]:
    """Return the reliability of one fit, and of how many proteins it is."""
    counts, config = read_counts(job, name, fit), job.config
    found = kernels.reliability_of(
        counts, settings=config.settings, localizations=job.classes, seed=config.seed
    )
    return found, len(counts.protein)
