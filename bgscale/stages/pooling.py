"""What all proteins together tell of chance, for the tests and intervals of each.

The spread between fields, of which a protein alone has too few; and the confusions of
localizations, also by background. All sums are read once, some proteins at a time.
"""

from collections.abc import Iterator
from dataclasses import fields

import numpy as np
import numpy.typing as npt

from bgscale import proportions as kernels
from bgscale.distribute.units import Unit
from bgscale.proportions import Moments, ProportionState
from bgscale.stages.cells import Done
from bgscale.stages.classifiers import FITS
from bgscale.stages.embedding import provenance
from bgscale.stages.job import Job
from bgscale.stages.predictions import ON_ANOTHER, node_of

PROTEINS_A_UNIT = 64
POOLED = ("correlation", "df", "scale")
_NAN = float("nan")

Floats = npt.NDArray[np.float64]


def read_state(
    job: Job, name: str, f: int, start: int = 0, stop: int | None = None
) -> ProportionState:
    """Return the sums of one fit, over all proteins or those of a range."""
    node, span = f"proportions/{name}", slice(start, stop)
    field = job.store.read(f"{node}/field", f, 0, span)
    protein, slot = np.nonzero(field >= 0)
    group = np.stack([protein + start, field[protein, slot]], axis=1).astype(np.int64)
    seen = np.unique(protein)
    by_group = (
        job.store.read(f"{node}/{v}", f, slice(None), span)[:, protein, slot]
        for v in ("n", "sums", "baseline")
    )
    by_protein = (
        job.store.read(f"{node}/{v}", f, slice(None), span)[:, seen]
        for v in ("squares", "cross", "replicate_sums", "replicate_baseline")
    )
    return ProportionState(seen + start, group, *by_group, *by_protein)


def single_labels(job: Job) -> npt.NDArray[np.int64]:
    """Return the localization of each protein that has just one; -1 for the others."""
    return np.where(job.labels.sum(1) == 1, job.labels.argmax(1), -1)


def create_pooled(job: Job, name: str) -> None:
    """Create what is pooled over proteins."""
    store, k = job.store, len(job.classes)
    node = f"pooled/{name}"
    coords = {
        "fit": FITS,
        "setting": job.config.settings,
        "protein": job.proteins,
        "localization": job.classes,
        "localization_true": job.classes,
    }
    store.create_group(
        node,
        coords=coords,
        description="what all proteins together say of chance: spread between fields, confusions",
        min_cells=job.config.shifts.min_cells,
        **provenance(job, f"plates/{job.plates[0]}/embeddings/{name}"),
    )
    dims = {"fit": len(FITS), "setting": len(job.settings)}
    square = {"localization_true": k, "localization": k}
    again = {"replicate": job.config.proportions.replicates, **square}
    by_protein = {"protein": len(job.proteins), "localization": k}
    prior = "scaled inverse chi-square prior of a protein's spread between fields"
    for variable, (more, text) in {
        "shift_correlation": ({}, "correlation within fields of the cells' shifts, rho"),
        "shift_df": ({}, f"{prior}: degrees of freedom d0, of shifts"),
        "shift_scale": ({}, f"{prior}: scale s0, of shifts"),
        "level_correlation": ({}, "correlation within fields of the cells' softmax, rho"),
        "level_df": ({}, f"{prior}: degrees of freedom d0, of proportions"),
        "level_scale": ({}, f"{prior}: scale s0, of proportions"),
        "variance": (by_protein, "variance of the mean softmax by cells and fields"),
        "df": (by_protein, "degrees of freedom of that variance"),
        "confusion": (square, "out-of-fold mean softmax of cells of known class"),
        "replicate_confusion": (again, "the same by classifier replicate"),
    }.items():
        store.create_array(
            f"{node}/{variable}", {**dims, **more}, "float64", chunk={}, fill=_NAN, units="1",
            long_name=text,
        )  # fmt: skip
    if ON_ANOTHER in job.config.settings:
        cube = {"localization_true": k, "localization_background": k, "localization": k}
        store.create_array(
            f"{node}/background_confusion", cube, "float64", chunk={}, fill=_NAN, units="1",
            long_name="mean softmax under original of cells of one class among cells of another",
        )  # fmt: skip


def pooled(job: Job, unit: Unit) -> Done:
    """Gather over all proteins what their tests need of each other."""
    name, store = unit.stage.split("/")[1], job.store
    settings, k, proteins = len(job.settings), len(job.classes), len(job.proteins)
    repeats = job.config.proportions.replicates
    single, least = single_labels(job), job.config.shifts.min_cells
    out: dict[str, Floats] = {}

    def put(variable: str, f: int, value: Floats) -> None:
        out.setdefault(variable, np.full((len(FITS), *value.shape), np.nan))[f] = value

    for f in range(len(FITS)):
        shift, level, seen = [], [], []
        sums = np.zeros((settings, 1 + repeats, k, k), np.int64)
        cells = np.zeros((settings, k), np.int64)
        for state in _blocks(job, name, f):
            shift.append(kernels.shift_moments(state)[0])
            level.append(kernels.level_moments(state))
            seen.append(state.protein)
            target = single[state.protein]
            total = np.add.reduceat(
                state.sums, np.searchsorted(state.group[:, 0], state.protein), axis=1
            )
            for c in range(k):
                own = target == c
                sums[:, 0, c] += total[:, own].sum(1)
                sums[:, 1:, c] += state.replicate_sums[:, own].sum(1)
                cells[:, c] += level[-1].n_cells[:, own, 0].sum(1)
        for kind, found in (("shift", shift), ("level", level)):
            prior = kernels.pool(_joined(found), min_cells=least)
            for part in POOLED:
                put(f"{kind}_{part}", f, getattr(prior, part))
        variance, df = kernels.level_variance(_joined(level), prior)
        codes = np.concatenate(seen)
        for variable, values in (("variance", variance), ("df", df)):
            whole = np.full((settings, proteins, k), np.nan)
            whole[:, codes] = values
            put(variable, f, whole)
        count = np.where(cells > 0, cells, np.nan)[:, None, :, None]
        confusions = kernels.in_units(sums) / count
        put("confusion", f, confusions[:, 0])
        put("replicate_confusion", f, confusions[:, 1:])
    files = []
    for variable, values in out.items():
        files += store.write(f"pooled/{name}/{variable}", [(0, len(FITS))], values)
    if ON_ANOTHER in job.config.settings:
        # every classifier under original is the fixed one
        own = out["confusion"][FITS.index("fixed"), job.config.settings.index("original")]
        confusions = kernels.confusion_by_background(*read_by_background(job, name), own)
        files += store.write(f"pooled/{name}/background_confusion", [(0, k)], confusions)
    return files, {"proteins": proteins}


def _blocks(job: Job, name: str, f: int) -> Iterator[ProportionState]:
    """Yield the sums of all proteins that have cells, some at a time."""
    for start in range(0, len(job.proteins), PROTEINS_A_UNIT):
        stop = min(start + PROTEINS_A_UNIT, len(job.proteins))
        state = read_state(job, name, f, start, stop)
        if len(state.protein):
            yield state


def read_by_background(job: Job, name: str) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the sums of all shards by class of the cell and of its background."""
    found = []
    for variable in ("background_n", "background_sums"):
        by_plate = (job.store.read(f"{node_of(p, name)}/sums/{variable}") for p in job.plates)
        found.append(sum(np.asarray(one, np.int64).sum(0) for one in by_plate))
    return np.asarray(found[0]), np.asarray(found[1])


def _joined(moments: list[Moments]) -> Moments:
    """Return the moments of all proteins."""
    parts = (
        np.concatenate([getattr(one, field.name) for one in moments], axis=1)
        for field in fields(Moments)
    )
    return Moments(*parts)
