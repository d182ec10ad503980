"""Experiment 2: how the proportions of each protein move between settings, and what is chance.

Three stages. *Pooled* gathers what single proteins cannot tell: the spread between fields and the
confusions of localizations; it reads all sums once, some proteins at a time. *Shifts* tests the
proteins of a unit. *Discoveries* needs every p: the false discovery rate over proteins.
"""

from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import numpy as np
import numpy.typing as npt

from bgscale import proportions as kernels
from bgscale.distribute.units import Unit
from bgscale.proportions import Confusions, Moments, Pooled, ProportionState, ShiftReason
from bgscale.proportions.classifier import one_thread
from bgscale.stages.cells import Done
from bgscale.stages.classifiers import FITS
from bgscale.stages.embedding import provenance
from bgscale.stages.job import Job

PROTEINS_A_UNIT = 64
_NAN = float("nan")
_POOLED = ("correlation", "df", "scale")

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
            for part in _POOLED:
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
    return files, {"proteins": proteins}


def _blocks(job: Job, name: str, f: int) -> Iterator[ProportionState]:
    """Yield the sums of all proteins that have cells, some at a time."""
    for start in range(0, len(job.proteins), PROTEINS_A_UNIT):
        stop = min(start + PROTEINS_A_UNIT, len(job.proteins))
        state = read_state(job, name, f, start, stop)
        if len(state.protein):
            yield state


def _joined(moments: list[Moments]) -> Moments:
    """Return the moments of all proteins."""
    parts = (
        np.concatenate([getattr(one, field.name) for one in moments], axis=1)
        for field in fields(Moments)
    )
    return Moments(*parts)


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
    "corrected": "proportions corrected by the setting's own confusions",
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
    untested = 0
    with one_thread():
        for f in range(len(FITS)):
            state = read_state(job, name, f, unit.start, unit.stop)
            if not len(state.protein):
                continue
            here = {v: values[f][:, state.protein - unit.start] for v, values in out.items()}
            _test(job, name, f, state, here)
            _bound(job, name, f, state, here)
            for v, values in here.items():
                out[v][f][:, state.protein - unit.start] = values
            untested += int((here["draws"][1:] == 0).sum())
    region = [(0, len(FITS)), (0, len(job.settings)), (unit.start, unit.stop)]
    files = []
    for variable, values in out.items():
        files += store.write(f"shifts/{name}/{variable}", region, values)
    return files, {"proteins": unit.stop - unit.start, "untested": untested}


def _test(
    job: Job, name: str, f: int, state: ProportionState, out: dict[str, npt.NDArray[Any]]
) -> None:
    """Fill in divergences, tests and their reasons: (setting, protein)."""
    section = job.config.shifts
    prior = Pooled(*(job.store.read(f"pooled/{name}/shift_{part}", f) for part in _POOLED))
    found = kernels.estimate_shifts(state, prior, min_cells=section.min_cells)
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
    for i, code in enumerate(state.protein):
        source = kernels.Draws(job.config.seed, name, job.proteins[code], len(job.classes))
        for s in range(1, len(job.settings)):
            tested = found.assess(s, i, source, tau=section.tau, draws=section.draws)
            if tested is None:
                continue
            out["p"][s, i], out["p_substantial"][s, i] = tested.p, tested.p_substantial
            out["kl_low"][s, i], out["kl_high"][s, i] = tested.low, tested.high
            out["kl_corrected"][s, i] = out["kl"][s, i] - tested.null_mean
            out["draws"][s, i] = tested.draws


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
    for s, setting in enumerate(job.config.settings):
        confusions = _confusions(job, name, f, s)
        if not np.isfinite(confusions.mean).all(1).any():
            continue
        out["corrected"][s] = kernels.correct_proportions(out["proportion"][s], confusions.mean)
        for i in np.flatnonzero(enough[s]):
            protein = job.proteins[state.protein[i]]
            low, high = kernels.corrected_interval(
                out["proportion"][s, i],
                out["corrected"][s, i],
                variance[s, i],
                again[s, i],
                confusions,
                key=(job.config.seed, name, FITS[f], setting, protein),
                draws=section.corrected_draws,
            )
            out["corrected_low"][s, i], out["corrected_high"][s, i] = low, high


def _confusions(job: Job, name: str, f: int, s: int) -> Confusions:
    """Return the confusions of one fit and setting, over all proteins."""
    read, node = job.store.read, f"pooled/{name}"
    return kernels.gather_confusions(
        read(f"proportions/{name}/proportion", f, s),
        read(f"proportions/{name}/n_cells", f, s),
        read(f"{node}/variance", f, s),
        single_labels(job),
        read(f"{node}/confusion", f, s),
        read(f"{node}/replicate_confusion", f, s),
    )


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
