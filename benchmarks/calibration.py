"""Whether the tests of shifts and the intervals of proportions are what they say.

Screens are simulated at the level of features, so that hundreds are cheap, and go through the
package's own classifiers (out of fold, with replicates), sums, variances, tests and intervals.

A cell's features are the sum of what its label, its protein, its field and itself give it, and of
``background`` times the same of the cell whose background it stands on: a model that sees it.
Labelled proteins train the classifiers. The others are mixtures of two labels; under a setting
each of their cells gets a background of

- the same protein, other fields: two independent draws of donors are compared, and every shift is
  chance. Donors of a field come from a few fields only, so that chance acts by field as well; or
- for ``effect`` of the cells, a cell of another label: a true shift.

Parts of the report: share of p < .05 of null proteins by fields and cells, also where classes have
three labelled proteins; false discovery proportion of screens with a fifth of shifted proteins;
power; coverage of the mean softmax of ten times fresh fields; planted proportions of two-label
proteins.

    python benchmarks/calibration.py [--quick] [--json FILE]
"""

import argparse
import json
import os
import platform
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import scipy
from machine import conditions

from bgscale import proportions as pr

MIN_CELLS = 20
TAU = 0.10


@dataclass(frozen=True)
class World:
    """How the cells of a simulated screen are made.

    Parameters
    ----------
    classes, features : int
    separation : float
        Distance of a class from the middle of all, in standard deviations of a cell.
    protein_sd, field_sd : float
        Of what a protein (by label) and a field give to all their cells, by feature.
    background : float
        Share of the background cell's features that the model sees.
    donor_fields : int
        Fields that lend backgrounds to the cells of one field under one setting.
    training_proteins, training_fields, training_cells : int
        Labelled proteins of a class, their fields, and cells of a field.
    folds : int
        Of the classifiers; with fewer labelled proteins of a class, its fields are dealt to them.
    """

    classes: int = 5
    features: int = 8
    separation: float = 3.0
    protein_sd: float = 0.25
    field_sd: float = 0.25
    background: float = 0.5
    donor_fields: int = 2
    training_proteins: int = 8
    training_fields: int = 4
    training_cells: int = 25
    folds: int = 2
    replicates: int = 20


FEW_PROTEINS = World(training_proteins=3, folds=5)
"""So few of a class that its fields are dealt to folds: proteins are scored by classifiers that saw
them."""


@dataclass(frozen=True)
class Screen:
    """A simulated screen after its classifiers: the sums, and the truth.

    Parameters
    ----------
    state : ProportionState
        Settings: a draw of donors, another one; the test proteins come after the labelled ones.
    target : array (protein,)
        Label of single-label proteins, -1 of the others.
    planted : array (protein, localization)
    shifted : array (protein,), bool
    fresh : array (setting, protein, localization)
        Mean softmax of ten times as many fresh fields; NaN if not asked for.
    by_background : tuple of arrays
        Of `proportions.sum_by_background`: labelled cells on backgrounds of another label.
    """

    state: pr.ProportionState
    target: np.ndarray
    planted: np.ndarray
    shifted: np.ndarray
    fresh: np.ndarray
    by_background: tuple[np.ndarray, np.ndarray]


class Maker:
    """Makes cells of one simulated screen."""

    def __init__(self, world: World, seed: int, proteins: int) -> None:
        self.world, self.rng = world, np.random.default_rng([seed, 20])
        centre = self.rng.normal(size=(world.classes, world.features))
        centre -= centre.mean(0)
        self.centre = world.separation * centre / np.linalg.norm(centre, axis=1, keepdims=True)
        self.own = world.protein_sd * self.rng.normal(
            size=(proteins, world.classes, world.features)
        )

    def cells(self, protein: Any, labels: np.ndarray, field: np.ndarray) -> np.ndarray:
        """Return features without background: of cells with these labels, and field effects."""
        noise = self.rng.normal(size=(len(labels), self.world.features))
        return self.centre[labels] + self.own[protein, labels] + field + noise

    def field(self, count: int) -> np.ndarray:
        """Return the effects of some fields."""
        return self.world.field_sd * self.rng.normal(size=(count, self.world.features))

    def labels(self, planted: np.ndarray, count: int) -> np.ndarray:
        """Return the labels of some cells."""
        return self.rng.choice(len(planted), count, p=planted)

    def in_place(self, protein: int, planted: np.ndarray, sizes: list[int]) -> np.ndarray:
        """Return cells on backgrounds of their own field."""
        out = []
        for size, effect in zip(sizes, self.field(len(sizes)), strict=True):
            cells = self.cells(protein, self.labels(planted, size), effect)
            seen = self.cells(protein, self.labels(planted, size), effect)
            out.append(cells + self.world.background * seen)
        return np.concatenate(out)

    def on_another(self, protein: int, label: int, sizes: list[int]) -> tuple[np.ndarray, ...]:
        """Return cells of one label on backgrounds of other labels, and those labels."""
        world, out, lent = self.world, [], []
        for size, own in zip(sizes, self.field(len(sizes)), strict=True):
            cells = self.cells(protein, np.full(size, label), own)
            others = np.delete(np.arange(world.classes), label)
            labels = self.rng.choice(others, size)
            # labelled proteins take turns
            donor = labels + world.classes * self.rng.integers(world.training_proteins, size=size)
            fields = self.field(world.donor_fields)[
                self.rng.integers(world.donor_fields, size=size)
            ]
            seen = self.cells(donor, labels, fields)
            out.append(cells + world.background * seen)
            lent.append(labels)
        return np.concatenate(out), np.concatenate(lent)

    def swapped(
        self, protein: int, planted: np.ndarray, sizes: list[int], effect: float
    ) -> np.ndarray:
        """Return cells under two draws of donors: (setting, cell, feature)."""
        world, out = self.world, []
        for size, own in zip(sizes, self.field(len(sizes)), strict=True):
            cells = self.cells(protein, self.labels(planted, size), own)
            settings = []
            for setting in range(2):
                lent = self.field(world.donor_fields)[
                    self.rng.integers(world.donor_fields, size=size)
                ]
                seen = self.cells(protein, self.labels(planted, size), lent)
                if setting and effect:
                    away = np.flatnonzero(self.rng.random(size) < effect)
                    others = np.flatnonzero(planted == 0)
                    label = self.rng.choice(others, len(away))
                    donor = int(self.rng.integers(len(self.own)))
                    seen[away] = self.cells(donor, label, lent[away])
                settings.append(cells + world.background * seen)
            out.append(np.stack(settings))
        return np.concatenate(out, axis=1)


def simulate(
    world: World,
    seed: int,
    *,
    sizes: list[list[int]],
    effects: Iterable[float],
    fresh: bool = False,
) -> Screen:
    """Make a screen of labelled proteins and of test proteins with these cells by field."""
    effects = list(effects)
    trained = world.classes * world.training_proteins
    maker = Maker(world, seed, trained + len(sizes))
    rng = np.random.default_rng([seed, 21])
    planted = np.zeros((trained + len(sizes), world.classes))
    planted[np.arange(trained), np.arange(trained) % world.classes] = 1
    for i in range(trained, len(planted)):
        a, b = rng.choice(world.classes, 2, replace=False)
        planted[i, a] = rng.uniform(0.1, 0.9)
        planted[i, b] = 1 - planted[i, a]
    labels = planted > 0
    cells, protein, field = [], [], []
    counts = [[world.training_cells] * world.training_fields] * trained + sizes
    for i, mine in enumerate(counts):
        if i < trained:
            x = maker.in_place(i, planted[i], mine)
            cells.append(np.stack([x, x]))
        else:
            cells.append(maker.swapped(i, planted[i], mine, effects[i - trained]))
        protein.append(np.full(sum(mine), i))
        field.append(np.repeat(np.arange(len(mine)) + 100 * i, mine))
    x, proteins, fields = np.concatenate(cells, 1), np.concatenate(protein), np.concatenate(field)
    pairs, group = np.unique(np.stack([proteins, fields]), axis=1, return_inverse=True)
    names = [f"P{i}" for i in range(len(planted))]
    folds = pr.assign_folds(names, labels, *pairs, seed=seed, n_folds=world.folds)
    weights = pr.replicate_weights(folds, seed=seed, replicates=world.replicates)
    train = proteins < trained
    fitted = pr.fit_out_of_fold(x[0, train], group.reshape(-1)[train], folds, weights=weights)
    fold = folds.fold[group.reshape(-1)]
    p = np.stack([pr.predict_out_of_fold(fitted, one, fold) for one in x])
    state = pr.accumulate(
        p[:, 0], np.ones(p[:, 0].shape[:2], bool), proteins, fields, replicates=p[:, 1:]
    )
    later = np.full((2, *planted.shape), np.nan)
    if fresh:
        for i in range(trained, len(planted)):
            more = maker.swapped(i, planted[i], counts[i] * 10, effects[i - trained])
            own = fitted[folds.fold[np.flatnonzero(pairs[0] == i)[0]]][0]
            later[:, i] = [pr.predict(own, one).mean(0) for one in more]
    classes = range(world.classes)
    by = [np.zeros((world.classes,) * d, np.int64) for d in (2, 3)]
    for i in range(trained):
        more, lent = maker.on_another(i, i % len(classes), counts[i])
        own = fitted[folds.fold[np.flatnonzero(pairs[0] == i)[0]]][0]
        found = pr.sum_by_background(
            pr.predict(own, more), np.full(len(more), i % len(classes)), lent
        )
        by = [a + b for a, b in zip(by, found, strict=True)]
    target = np.where(
        np.arange(len(planted)) < trained, np.arange(len(planted)) % world.classes, -1
    )
    shifted = np.concatenate([np.zeros(trained, bool), np.array(effects) > 0])
    return Screen(state, target, planted, shifted, later, (by[0], by[1]))


def assessed(screen: Screen, *, seed: int) -> dict[str, np.ndarray]:
    """Return what is told of the shifts of the test proteins, and p by draws that are added."""
    pooled = pr.pool(pr.shift_moments(screen.state)[0], min_cells=MIN_CELLS)
    shifts = pr.estimate_shifts(screen.state, pooled, min_cells=MIN_CELLS)
    out, added = [], []
    for i in np.flatnonzero(screen.target < 0):
        source = pr.Draws(seed, "calibration", f"P{i}", screen.planted.shape[1])
        out.append(shifts.assess(1, int(i), source, tau=TAU, draws=10_000))
        added.append(p_added(shifts, int(i), seed))
    names = ("p", "p_substantial", "low", "high", "null_mean")
    return {name: np.array([getattr(one, name) for one in out]) for name in names} | {
        "p_added": np.array(added)
    }


def p_added(shifts: pr.Shifts, i: int, seed: int) -> float:
    """Return p where draws are added to the proportions, and cut off at 0 and renormalised."""
    rng = np.random.default_rng([seed, i])
    before, after = shifts.proportions.baseline[1, i], shifts.proportions.mean[1, i]
    df, draws = shifts.df[1, i], 10_000
    values, vectors = np.linalg.eigh(shifts.covariance[1, i])
    normal = rng.normal(size=(draws, len(values))) * np.sqrt(np.maximum(values, 0))
    error = normal @ vectors.T * np.sqrt(df / rng.chisquare(df, draws))[:, None]
    a, b = ((before + after) / 2 + sign * error / 2 for sign in (-1, 1))
    a, b = (np.maximum(x, pr.KL_FLOOR) for x in (a, b))
    null = pr.kl_divergence(a, b)
    return float((1 + (null >= pr.kl_divergence(before, after)).sum()) / (1 + draws))


def null(world: World, seed: int, *, fields: int, cells: int, proteins: int) -> list[Any]:
    """Return p of null proteins, by both draws."""
    screen = simulate(world, seed, sizes=[[cells] * fields] * proteins, effects=[0.0] * proteins)
    found = assessed(screen, seed=seed)
    return [found["p"].tolist(), found["p_added"].tolist(), found["p_substantial"].tolist()]


def discovery(world: World, seed: int, *, proteins: int, effect: float) -> list[Any]:
    """Return false and all discoveries, and the shifts there were, of a screen of all sorts."""
    rng = np.random.default_rng([seed, 22])
    sizes = [[int(rng.choice([25, 50, 100]))] * int(rng.choice([2, 4, 8])) for _ in range(proteins)]
    effects = np.where(np.arange(proteins) % 5 == 0, effect, 0.0)
    screen = simulate(world, seed, sizes=sizes, effects=effects)
    q = pr.false_discovery(assessed(screen, seed=seed)["p"])
    found = q <= 0.05
    return [int((found & (effects == 0)).sum()), int(found.sum()), int((effects > 0).sum())]


def power(
    world: World, seed: int, *, fields: int, cells: int, proteins: int, effect: float
) -> list[Any]:
    """Return p of shifted proteins, by both draws, whether KL's interval held, and its truth."""
    sizes = [[cells] * fields] * proteins
    screen = simulate(world, seed, sizes=sizes, effects=[effect] * proteins, fresh=True)
    found = assessed(screen, seed=seed)
    truth = pr.kl_divergence(*screen.fresh[:, screen.target < 0])
    held = (found["low"] <= truth) & (truth <= found["high"])
    moved = pr.total_variation(*screen.fresh[:, screen.target < 0])
    return [x.tolist() for x in (found["p"], found["p_added"], held, moved)]


def coverage(world: World, seed: int, *, fields: int, cells: int, proteins: int) -> list[Any]:
    """Return how often the mean softmax of fresh fields lies in its interval, and the widths."""
    sizes = [[cells] * fields] * proteins
    screen = simulate(world, seed, sizes=sizes, effects=[0.0] * proteins, fresh=True)
    moments = pr.level_moments(screen.state)
    variance, df = pr.level_variance(moments, pr.pool(moments, min_cells=MIN_CELLS))
    own = screen.target < 0
    mean = screen.state.finalize().mean[0, own]
    low, high = pr.logit_interval(mean, variance[0, own], df[0, own])
    held = (low <= screen.fresh[0, own]) & (screen.fresh[0, own] <= high)
    return [held.ravel().tolist(), (high - low).ravel().tolist()]


def planted(world: World, seed: int, *, fields: int, cells: int, proteins: int) -> list[Any]:
    """Return planted and corrected shares of two-label proteins, and whether bounds held."""
    sizes = [[cells] * fields] * proteins
    screen = simulate(world, seed, sizes=sizes, effects=[0.0] * proteins)
    state, target = screen.state, screen.target
    moments = pr.level_moments(state)
    variance, _ = pr.level_variance(moments, pr.pool(moments, min_cells=MIN_CELLS))
    final = state.finalize()
    again = pr.in_units(state.replicate_sums[0]) / final.n_cells[0][:, None, None]
    # all labelled proteins have the same number of cells
    replicates = np.stack([again[target == c].mean(0) for c in range(world.classes)], axis=1)
    confusions = pr.gather_confusions(
        final.mean[0],
        final.n_cells[0],
        variance[0],
        target,
        pr.confusion(state, target)[0],
        replicates,
    )
    by_background = pr.confusion_by_background(*screen.by_background, confusions.mean)
    rows: list[list[Any]] = []
    for i in np.flatnonzero(target < 0):
        mean = final.mean[0, i]
        linear = pr.correct_proportions(mean, confusions.mean)
        best, seen = pr.correct_among_own(mean, by_background)
        own = confusions.moved_to(seen)
        low, high = pr.corrected_interval(
            mean, best, variance[0, i], again[i], own, key=(seed, int(i)), draws=200
        )
        truth = screen.planted[i]
        held = (low <= truth) & (truth <= high)
        rows.append([x.tolist() for x in (truth, best, mean, held, high - low, linear)])
    return rows


PARTS = {f.__name__: f for f in (null, discovery, power, coverage, planted)}


def plan(*, quick: bool) -> list[tuple[str, World, int, dict[str, Any]]]:
    """Return every simulated screen: part, world, seed and size."""
    world, few = World(), 1 if quick else 8
    todo: list[tuple[str, World, int, dict[str, Any]]] = []
    for fields in (2, 4, 8):
        for cells in (25, 150) if quick else (25, 150, 600):
            size = {"fields": fields, "cells": cells, "proteins": 20 if quick else 60}
            todo += [("null", world, seed, size) for seed in range(few)]
            if cells == 150:
                todo += [("null", FEW_PROTEINS, seed, size) for seed in range(few)]
    screens = 2 if quick else 200
    todo += [("discovery", world, s, {"proteins": 40, "effect": 0.5}) for s in range(screens)]
    for effect in (0.4,) if quick else (0.05, 0.1, 0.2, 0.4, 0.8):
        for fields, cells in ((4, 50),) if quick else ((2, 50), (4, 50), (8, 50), (4, 150)):
            size = {"fields": fields, "cells": cells, "proteins": 20 if quick else 60}
            size["effect"] = effect
            todo += [("power", world, seed, size) for seed in range(1 if quick else 2)]
    for fields, cells in ((4, 100),) if quick else ((2, 50), (4, 100), (8, 150)):
        size = {"fields": fields, "cells": cells, "proteins": 20 if quick else 40}
        todo += [("coverage", world, seed, size) for seed in range(1 if quick else 5)]
        for seen in (0.0, world.background):
            other = replace(world, background=seen)
            todo += [("planted", other, seed, size) for seed in range(1 if quick else 5)]
    return todo


def do(item: tuple[str, World, int, dict[str, Any]]) -> list[Any]:
    """Make and judge one screen."""
    part, world, seed, size = item
    return PARTS[part](world, seed, **size)


def summarise(
    todo: list[tuple[str, World, int, dict[str, Any]]], results: list[list[Any]]
) -> dict[str, list[dict[str, Any]]]:
    """Return the figures of each part, one row for each size."""
    groups: dict[str, dict[str, Any]] = {}
    for (part, world, _, size), result in zip(todo, results, strict=True):
        key = json.dumps([part, asdict(world), size])
        found = groups.setdefault(key, {"part": part, "world": world, "size": size, "made": []})
        found["made"].append(result)
    out: dict[str, list[dict[str, Any]]] = {part: [] for part in PARTS}
    for group in groups.values():
        row = {k: v for k, v in group["size"].items() if k != "proteins"}
        figures = FIGURES[group["part"]](group["made"])
        if group["part"] == "planted":
            row["background"] = group["world"].background
        if group["part"] == "null":
            row["training_proteins"] = group["world"].training_proteins
        out[group["part"]].append(row | figures)
    return out


def _null_figures(made: list[Any]) -> dict[str, Any]:
    p, added, substantial = (np.concatenate([m[i] for m in made]) for i in range(3))
    return {
        "proteins": len(p),
        "share_below_05": _rounded((p < 0.05).mean()),
        "share_below_05_added_draws": _rounded((added < 0.05).mean()),
        "share_substantial_below_05": _rounded((substantial < 0.05).mean()),
        "median_p": _rounded(np.median(p)),
    }


def _discovery_figures(made: list[Any]) -> dict[str, Any]:
    wrong, found, there = np.array(made).T
    return {
        "screens": len(made),
        "mean_false_discovery_proportion": _rounded((wrong / np.maximum(found, 1)).mean()),
        "share_of_shifts_found": _rounded((found - wrong).sum() / there.sum()),
    }


def _power_figures(made: list[Any]) -> dict[str, Any]:
    p, added, held, moved = (np.concatenate([m[i] for m in made]) for i in range(4))
    return {
        "proteins": len(p),
        "total_variation": _rounded(moved.mean()),
        "power_at_05": _rounded((p < 0.05).mean()),
        "power_at_05_added_draws": _rounded((added < 0.05).mean()),
        "kl_interval_coverage": _rounded(held.mean()),
    }


def _coverage_figures(made: list[Any]) -> dict[str, Any]:
    held, width = (np.concatenate([m[i] for m in made]) for i in range(2))
    return {
        "proportions": len(held),
        "coverage": _rounded(held.mean()),
        "width": _rounded(width.mean()),
    }


def _planted_figures(made: list[Any]) -> dict[str, Any]:
    truth, best, mean, held, width, linear = np.array(
        [row for m in made for row in m], float
    ).swapaxes(0, 1)
    there = truth > 0
    return {
        "proteins": len(truth),
        "mean_total_variation": _rounded(np.abs(best - truth).sum(1).mean() / 2),
        "mean_total_variation_same_confusions": _rounded(np.abs(linear - truth).sum(1).mean() / 2),
        "mean_total_variation_mean_softmax": _rounded(np.abs(mean - truth).sum(1).mean() / 2),
        "slope": _rounded(np.polyfit(truth[there], best[there], 1)[0]),
        "slope_mean_softmax": _rounded(np.polyfit(truth[there], mean[there], 1)[0]),
        "coverage": _rounded(held.mean()),
        "coverage_of_planted": _rounded(held[there].mean()),
        "coverage_of_absent": _rounded(held[~there].mean()),
        "width_of_planted": _rounded(width[there].mean()),
    }


FIGURES = {
    "null": _null_figures,
    "discovery": _discovery_figures,
    "power": _power_figures,
    "coverage": _coverage_figures,
    "planted": _planted_figures,
}


def _rounded(value: float) -> float:
    return round(float(value), 4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a small part of it, in seconds")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    # workers read it when they load NumPy
    os.environ["OPENBLAS_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = "1"
    start, todo = time.perf_counter(), plan(quick=options.quick)
    with get_context("spawn").Pool(min(os.cpu_count() or 1, 8)) as pool:
        results = pool.map(do, todo, chunksize=1)
    report = {
        **conditions(threads=1, seeds=sorted({seed for _, _, seed, _ in todo})),
        "versions": {
            "python": platform.python_version(), "numpy": np.__version__, "scipy": scipy.__version__
        },
        "quick": options.quick,
        "seconds": round(time.perf_counter() - start),
        "world": asdict(World()),
        "tau": TAU,
    } | summarise(todo, results)  # fmt: skip
    text = json.dumps(report, indent=1)
    if options.json:
        options.json.write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
