"""Experiment 2: how the proportions of each protein move between settings."""

import numpy as np

from bgscale import proportions as kernels
from bgscale.distribute.units import Unit
from bgscale.proportions import ProportionState
from bgscale.stages.cells import Done
from bgscale.stages.classifiers import FITS
from bgscale.stages.embedding import provenance
from bgscale.stages.job import Job


def read_state(job: Job, name: str, f: int) -> ProportionState:
    """Return the sums of one fit over all proteins."""
    node = f"proportions/{name}"
    field = job.store.read(f"{node}/field", f, 0)
    protein, slot = np.nonzero(field >= 0)
    group = np.stack([protein, field[protein, slot]], axis=1).astype(np.int64)
    seen = np.unique(protein)
    by_group = (
        job.store.read(f"{node}/{v}", f)[:, protein, slot] for v in ("n", "sums", "baseline")
    )
    by_protein = (
        job.store.read(f"{node}/{v}", f)[:, seen]
        for v in ("squares", "cross", "replicate_sums", "replicate_baseline")
    )
    return ProportionState(seen, group, *by_group, *by_protein)


def create_shifts(job: Job, name: str) -> None:
    """Create the shifts of each protein against `original`."""
    store, k = job.store, len(job.classes)
    node = f"shifts/{name}"
    coords = {
        "fit": FITS,
        "setting": job.config.settings,
        "protein": job.proteins,
        "localization": job.classes,
        "localization_true": job.classes,
    }
    store.create_group(
        node, coords=coords, **provenance(job, f"plates/{job.plates[0]}/embeddings/{name}")
    )
    dims = {"fit": len(FITS), "setting": len(job.settings)}
    protein = {**dims, "protein": len(job.proteins)}
    for variable, (shape, units, text) in {
        "kl": (protein, "nat", "KL(original || setting) of the proportions"),
        "jensen_shannon": (protein, "nat", "Jensen-Shannon divergence of the proportions"),
        "total_variation": (protein, "1", "total variation distance of the proportions"),
        "corrected": (
            {**protein, "localization": k},
            "1",
            "proportions corrected by the setting's own confusions",
        ),
        "confusion": (
            {**dims, "localization_true": k, "localization": k},
            "1",
            "out-of-fold mean softmax of cells of known class",
        ),
    }.items():
        store.create_array(
            f"{node}/{variable}", shape, "float64", chunk={}, fill=float("nan"), units=units,
            long_name=text,
        )  # fmt: skip


def shifts(job: Job, unit: Unit) -> Done:
    """Compare each protein's proportions with those under `original`, over the same cells."""
    name = unit.stage.split("/")[1]
    store, settings, classes = job.store, len(job.settings), len(job.classes)
    shape = (len(FITS), settings, len(job.proteins))
    out = {v: np.full(shape, np.nan) for v in ("kl", "jensen_shannon", "total_variation")}
    out["corrected"] = np.full((*shape, classes), np.nan)
    out["confusion"] = np.full((*shape[:2], classes, classes), np.nan)
    single = np.where(job.labels.sum(1) == 1, job.labels.argmax(1), -1)
    for f in range(len(FITS)):
        state = read_state(job, name, f)
        final = state.finalize()
        out["kl"][f][:, state.protein] = kernels.kl_divergence(final.baseline, final.mean)
        out["jensen_shannon"][f][:, state.protein] = kernels.jensen_shannon(
            final.baseline, final.mean
        )
        out["total_variation"][f][:, state.protein] = kernels.total_variation(
            final.baseline, final.mean
        )
        out["confusion"][f] = kernels.confusion(state, single[state.protein])
        for s in range(settings):
            if np.isfinite(out["confusion"][f, s]).all(1).any():
                out["corrected"][f, s, state.protein] = kernels.correct_proportions(
                    final.mean[s], out["confusion"][f, s]
                )
    files = []
    for variable, values in out.items():
        files += store.write(f"shifts/{name}/{variable}", [(0, len(FITS))], values)
    return files, {"proteins": len(job.proteins)}
