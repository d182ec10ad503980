"""Experiment 2: how the proportions of each protein move between settings, and what is chance.

*Shifts* tests the proteins of a unit, with what `pooling` has gathered over all of them.
*Discoveries* needs every p: the false discovery rate over proteins.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from bgscale import proportions as kernels
from bgscale.distribute.units import Unit
from bgscale.proportions import Confusions, Pooled, ProportionState, ShiftReason, Shifts
from bgscale.proportions.classifier import one_thread
from bgscale.stages.cells import Done
from bgscale.stages.classifiers import FITS
from bgscale.stages.embedding import provenance
from bgscale.stages.job import Job
from bgscale.stages.pooling import POOLED, PROTEINS_A_UNIT, read_state, single_labels
from bgscale.stages.predictions import ON_ANOTHER

_NAN = float("nan")

Floats = npt.NDArray[np.float64]


def create_shifts(job: Job, name: str) -> None:
    """Create the shifts of each protein against `original`."""
    store, section = job.store, job.config.shifts
    node = f"shifts/{name}"
    coords = {
        "fit": FITS,
        "setting": job.config.settings,
        "protein": job.proteins,
        "localization": job.classes,
    }
    store.create_group(
        node,
        coords=coords,
        description="how each protein's proportions move against original, and what is chance",
        method={
            **section.model_dump(),
            "seed": job.config.seed,
            "replicates": job.config.proportions.replicates,
            "interval": kernels.INTERVAL,
            "null": "multivariate t, on the scale of the log ratio; its divergence is compared",
            "draws_if_rare": 10 * section.draws,
            "false_discovery": "Benjamini-Hochberg over the proteins of one fit and setting",
            "kl_interval": "shifts c d about which the divergence seen is no outlier",
            "proportion_interval": "t on the logit scale; of fresh fields, the classifier as it is",
            "corrected_interval": "draws of cells, fields, proteins of a class, classifiers",
        },
        **provenance(job, f"plates/{job.plates[0]}/embeddings/{name}"),
    )
    dims = {"fit": len(FITS), "setting": len(job.settings), "protein": len(job.proteins)}
    split = {**dims, "localization": len(job.classes)}
    chunk = {"protein": PROTEINS_A_UNIT}
    for variable, (units, text) in _BY_PROTEIN.items():
        store.create_array(
            f"{node}/{variable}", dims, "float64", chunk=chunk, fill=_NAN, units=units,
            long_name=text,
        )  # fmt: skip
    for variable, text in _BY_LOCALIZATION.items():
        store.create_array(
            f"{node}/{variable}", split, "float64", chunk=chunk, fill=_NAN, units="1",
            long_name=text,
        )  # fmt: skip
    for variable, text in _COUNTS.items():
        store.create_array(
            f"{node}/{variable}", dims, "int64", chunk=chunk, units="1", long_name=text
        )
    store.create_array(
        f"{node}/reason", dims, "uint8", chunk=chunk, fill=int(ShiftReason.NO_CELLS), units="",
        long_name="why a shift was not tested, or what its test lacks",
        names=[reason.name.lower() for reason in ShiftReason],
    )  # fmt: skip
    for variable, (dtype, text) in _DISCOVERIES.items():
        store.create_array(
            f"{node}/{variable}", dims, dtype, chunk={}, fill=_NAN if dtype == "float64" else 0,
            units="1", long_name=text,
        )  # fmt: skip


_BY_PROTEIN = {
    "kl": ("nat", "KL(original || setting) of the proportions"),
    "kl_corrected": ("nat", "KL less its mean where nothing moved"),
    "kl_low": ("nat", "lower bound of KL, 95%"),
    "kl_high": ("nat", "upper bound of KL, 95%"),
    "jensen_shannon": ("nat", "Jensen-Shannon divergence of the proportions"),
    "total_variation": ("1", "total variation distance of the proportions"),
    "standard_error": ("1", "of the shift: root of the sum of its variances"),
    "df": ("1", "degrees of freedom of the shift's variance"),
    "p": ("1", "p of no shift at all"),
    "p_substantial": ("1", "p of no shift beyond tau in total variation"),
}
_BY_LOCALIZATION = {
    "proportion": "mean softmax over the protein's cells",
    "proportion_low": "lower bound of the mean softmax of fresh fields, 95%",
    "proportion_high": "upper bound of the mean softmax of fresh fields, 95%",
    "corrected": "proportions corrected by the setting's own confusions; under original by those "
    "of cells among the protein's own",
    "corrected_low": "lower bound of the corrected proportion, 95%",
    "corrected_high": "upper bound of the corrected proportion, 95%",
}
_COUNTS = {
    "n_cells": "cells present under the setting and under original",
    "n_fields": "fields that have such cells",
    "draws": "draws of the null; 0: not tested",
}
_DISCOVERIES = {
    "q": ("float64", "false discovery rate at which there is a shift"),
    "q_substantial": ("float64", "false discovery rate at which there is a substantial shift"),
    "significant": ("uint8", "1: q is at most the false discovery rate asked for"),
    "substantial": ("uint8", "1: q_substantial is at most the false discovery rate asked for"),
}


_RATES = (("q", "p", "significant"), ("q_substantial", "p_substantial", "substantial"))


def shifts(job: Job, unit: Unit) -> Done:
    """Compare the proportions of some proteins with those under `original`, over the same cells."""
    name, store = unit.stage.split("/")[1], job.store
    shape = (len(FITS), len(job.settings), unit.stop - unit.start)
    out: dict[str, npt.NDArray[Any]] = {v: np.full(shape, np.nan) for v in _BY_PROTEIN}
    out |= {v: np.full((*shape, len(job.classes)), np.nan) for v in _BY_LOCALIZATION}
    out |= {v: np.zeros(shape, np.int64) for v in _COUNTS}
    out["reason"] = np.full(shape, ShiftReason.NO_CELLS, np.uint8)
    states = [read_state(job, name, f, unit.start, unit.stop) for f in range(len(FITS))]
    # a cell is scored by both fits, so that they have the same proteins
    codes = states[0].protein
    untested = 0
    if len(codes):
        with one_thread():
            here = [
                {v: values[f][:, codes - unit.start] for v, values in out.items()}
                for f in range(len(FITS))
            ]
            _test(job, name, states, here)
            for f, of_fit in enumerate(here):
                _bound(job, name, f, states[f], of_fit)
        for v, values in out.items():
            values[:, :, codes - unit.start] = np.stack([of_fit[v] for of_fit in here])
        untested = sum(int((of_fit["draws"][1:] == 0).sum()) for of_fit in here)
    region = [(0, len(FITS)), (0, len(job.settings)), (unit.start, unit.stop)]
    files = []
    for variable, values in out.items():
        files += store.write(f"shifts/{name}/{variable}", region, values)
    return files, {"proteins": unit.stop - unit.start, "untested": untested}


def _test(
    job: Job,
    name: str,
    states: Sequence[ProportionState],
    out: Sequence[dict[str, npt.NDArray[Any]]],
) -> None:
    """Fill in divergences, tests and their reasons: (setting, protein), by fit."""
    section = job.config.shifts
    estimated = [
        _estimated(job, name, f, s, o) for f, (s, o) in enumerate(zip(states, out, strict=True))
    ]
    for i, code in enumerate(states[0].protein):
        # dear, and the same for all fits and settings
        source = kernels.Draws(job.config.seed, name, job.proteins[code], len(job.classes))
        for found, of_fit in zip(estimated, out, strict=True):
            for s in range(1, len(job.settings)):
                tested = found.assess(s, i, source, tau=section.tau, draws=section.draws)
                if tested is None:
                    continue
                of_fit["p"][s, i], of_fit["p_substantial"][s, i] = tested.p, tested.p_substantial
                of_fit["kl_low"][s, i], of_fit["kl_high"][s, i] = tested.low, tested.high
                of_fit["kl_corrected"][s, i] = of_fit["kl"][s, i] - tested.null_mean
                of_fit["draws"][s, i] = tested.draws


def _estimated(
    job: Job, name: str, f: int, state: ProportionState, out: dict[str, npt.NDArray[Any]]
) -> Shifts:
    """Return the shifts of one fit, and fill in what is known without a test."""
    prior = Pooled(*(job.store.read(f"pooled/{name}/shift_{part}", f) for part in POOLED))
    found = kernels.estimate_shifts(state, prior, min_cells=job.config.shifts.min_cells)
    final = found.proportions
    out["kl"][:] = kernels.kl_divergence(final.baseline, final.mean)
    out["jensen_shannon"][:] = kernels.jensen_shannon(final.baseline, final.mean)
    out["total_variation"][:] = kernels.total_variation(final.baseline, final.mean)
    out["proportion"][:] = final.mean
    out["n_cells"][:], out["n_fields"][:] = final.n_cells, found.n_fields
    out["reason"][:] = found.reason
    known = np.isin(found.reason, kernels.TESTED)
    spread = np.sqrt(np.trace(found.covariance, axis1=-2, axis2=-1))
    out["standard_error"][known], out["df"][known] = spread[known], found.df[known]
    return found


def _bound(
    job: Job, name: str, f: int, state: ProportionState, out: dict[str, npt.NDArray[Any]]
) -> None:
    """Fill in the corrected proportions and all bounds: (setting, protein, localization)."""
    section, node = job.config.shifts, f"pooled/{name}"
    variance, df = (job.store.read(f"{node}/{v}", f)[:, state.protein] for v in ("variance", "df"))
    enough = out["n_cells"] >= section.min_cells
    low, high = kernels.logit_interval(out["proportion"], variance, df)
    out["proportion_low"][enough], out["proportion_high"][enough] = low[enough], high[enough]
    again = kernels.in_units(state.replicate_sums)
    again /= np.maximum(out["n_cells"], 1)[..., None, None]
    by_background = _by_background(job, name)
    for s, setting in enumerate(job.config.settings):
        confusions = _confusions(job, name)[f][s]
        if not np.isfinite(confusions.mean).all(1).any():
            continue
        of_protein = dict.fromkeys(range(len(state.protein)), confusions)
        out["corrected"][s] = kernels.correct_proportions(out["proportion"][s], confusions.mean)
        if setting == "original" and by_background is not None:
            # the one setting in which a protein's cells are among their own
            for i in np.flatnonzero(np.isfinite(out["proportion"][s]).all(1)).tolist():
                out["corrected"][s, i], seen = kernels.correct_among_own(
                    out["proportion"][s, i], by_background
                )
                of_protein[i] = confusions.moved_to(seen)
        for i in np.flatnonzero(enough[s]).tolist():
            protein = job.proteins[state.protein[i]]
            low, high = kernels.corrected_interval(
                out["proportion"][s, i],
                out["corrected"][s, i],
                variance[s, i],
                again[s, i],
                of_protein[i],
                key=(job.config.seed, name, FITS[f], setting, protein),
                draws=section.corrected_draws,
            )
            out["corrected_low"][s, i], out["corrected_high"][s, i] = low, high


def _by_background(job: Job, name: str) -> Floats | None:
    """Return the confusions by class of the background, where there are any."""
    if ON_ANOTHER not in job.config.settings:
        return None
    return np.asarray(job.store.read(f"pooled/{name}/background_confusion"), np.float64)


@lru_cache(maxsize=2)
def _confusions(job: Job, name: str) -> list[list[Confusions]]:
    """Return the confusions of each fit and setting, over all proteins.

    Kept: every unit of proteins asks for all of them.
    """
    read, node = job.store.read, f"pooled/{name}"
    return [
        [
            kernels.gather_confusions(
                read(f"proportions/{name}/proportion", f, s),
                read(f"proportions/{name}/n_cells", f, s),
                read(f"{node}/variance", f, s),
                single_labels(job),
                read(f"{node}/confusion", f, s),
                read(f"{node}/replicate_confusion", f, s),
            )
            for s in range(len(job.settings))
        ]
        for f in range(len(FITS))
    ]


def discoveries(job: Job, unit: Unit) -> Done:
    """Compute the false discovery rates, over the proteins of each fit and setting."""
    name, store = unit.stage.split("/")[1], job.store
    node, limit = f"shifts/{name}", job.config.shifts.false_discovery_rate
    files, count = [], {}
    for q, p, flag in _RATES:
        rate = kernels.false_discovery(store.read(f"{node}/{p}"))
        # NaN, which was not tested, is no discovery
        found = (rate <= limit).astype(np.uint8)
        files += store.write(f"{node}/{q}", [(0, len(FITS))], rate)
        files += store.write(f"{node}/{flag}", [(0, len(FITS))], found)
        count[flag] = int(found.sum())
    return files, count
