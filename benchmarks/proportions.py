"""Proportions: the published fit beside a DataLoader loop, the converged fit, and cells a second.

    python benchmarks/proportions.py [--quick] [--json proportions.json]

*Published fit.* Softmax regression of 15 classes on 64 features by Adam (learning rate 1e-3,
batches of 128, cross entropy, no penalty), as one would write it (`DataLoader` of a
`TensorDataset`, `num_workers=0`, shuffled; `nn.Linear`; `torch.optim.Adam`) and by bgscale, over
the same cells, one thread each: more do not help steps so small. Both give the cross entropy over
all cells at the end; speeds are compared only where the losses agree within 1%.

*Converged fit.* One fold's classifier on balanced cells, and a replicate that starts from it.

*Scoring.* A shard of cells: five settings, both fits, 5 folds, with the classifier's 20 replicates,
softmax and all sums; microseconds a cell, setting and fit, on one thread.

*Mixtures.* Maximum-likelihood shares of one protein's cells.

Features are Gaussian about class centres: times do not depend on what they are, iterations of the
converged fit do.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import conditions, spread
from threadpoolctl import threadpool_limits

from bgscale import proportions as pr
from bgscale.run import versions

CLASSES, FEATURES, FOLDS, SETTINGS, REPLICATES = 15, 64, 5, 5, 20
EPOCHS, BATCH, RATE = 5, 128, 1e-3
SAME_LOSS = 0.01


def cells(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return features (cell, feature), float32, and classes."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(CLASSES, FEATURES))
    t = rng.integers(0, CLASSES, count)
    x = rng.normal(size=(count, FEATURES)).astype(np.float32)
    x *= np.float32(3)
    x += centres[t].astype(np.float32)
    return x, t


def loss(x: np.ndarray, t: np.ndarray, coef: np.ndarray, intercept: np.ndarray) -> float:
    """Return the mean cross entropy."""
    total = 0.0
    for at in range(0, len(x), 100_000):
        z = x[at : at + 100_000].astype(np.float64) @ coef.T + intercept
        z -= z.max(axis=1, keepdims=True)
        own = z[np.arange(len(z)), t[at : at + 100_000]]
        total += float((np.log(np.exp(z).sum(axis=1)) - own).sum())
    return total / len(x)


def loader_loop(x: np.ndarray, t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Fit as one would write it."""
    torch.manual_seed(0)
    data = torch.utils.data.TensorDataset(torch.from_numpy(x), torch.from_numpy(t))
    loader = torch.utils.data.DataLoader(data, batch_size=BATCH, shuffle=True, num_workers=0)
    layer = torch.nn.Linear(FEATURES, CLASSES)
    adam = torch.optim.Adam(layer.parameters(), lr=RATE)
    entropy = torch.nn.CrossEntropyLoss()
    for _ in range(EPOCHS):
        for batch, target in loader:
            adam.zero_grad()
            entropy(layer(batch), target).backward()
            adam.step()
    return layer.weight.detach().numpy(), layer.bias.detach().numpy()


def seconds(work: Callable[[], Any]) -> tuple[float, Any]:
    """Return how long something takes, and what it returns."""
    begun = time.perf_counter()
    made = work()
    return time.perf_counter() - begun, made


def published(count: int, repetitions: int) -> dict[str, Any]:
    """Compare the two fits, in turn."""
    x, t = cells(count)
    pr.fit_published(x[:1000], t[:1000], n_localizations=CLASSES, seed=0)
    times: dict[str, list[float]] = {"loop": [], "bgscale": []}
    for _ in range(repetitions):
        took, (weight, bias) = seconds(lambda: loader_loop(x, t))
        times["loop"].append(took)
        took, fit = seconds(lambda: pr.fit_published(x, t, n_localizations=CLASSES, seed=0))
        times["bgscale"].append(took)
    theirs, ours = loss(x, t, weight, bias), loss(x, t, fit.coef, fit.intercept)
    if abs(theirs - ours) > SAME_LOSS * theirs:
        msg = f"losses {theirs:.4f} and {ours:.4f} differ by more than {SAME_LOSS:.0%}"
        raise RuntimeError(msg)
    return {
        "cells": count,
        "steps": fit.iterations,
        "loop_s": spread(times["loop"]),
        "bgscale_s": spread(times["bgscale"]),
        "times_faster": spread(np.divide(times["loop"], times["bgscale"]).tolist(), 1),
        "loop_loss": round(theirs, 4),
        "bgscale_loss": round(ours, 4),
    }


def converged(per_class: int, repetitions: int) -> dict[str, Any]:
    """Time a classifier and a replicate."""
    x, t = cells(per_class * CLASSES)
    weights = np.random.default_rng(1).poisson(1, len(x))
    first, again = [], []
    for _ in range(repetitions):
        took, fit = seconds(lambda: pr.fit_classifier(x, t, n_localizations=CLASSES))
        first.append(took)
        took, replicate = seconds(
            lambda start=fit: pr.fit_classifier(
                x,
                t,
                n_localizations=CLASSES,
                weights=weights,
                start=start,
                tolerance=pr.REPLICATE_TOLERANCE,
            )
        )
        again.append(took)
    return {
        "cells": len(x),
        "fit_s": round(statistics.median(first), 2),
        "iterations": fit.iterations,
        "replicate_s": round(statistics.median(again), 2),
        "replicate_iterations": replicate.iterations,
        "converged": fit.converged and replicate.converged,
    }


def scoring(count: int, repetitions: int) -> dict[str, Any]:
    """Time a shard."""
    rng = np.random.default_rng(0)
    shape = FOLDS, 1 + REPLICATES, CLASSES
    stacked = [
        pr.panel_of(
            0.3 * rng.normal(size=(*shape, FEATURES)),
            rng.normal(size=shape),
            np.zeros((*shape[:2], FEATURES)),
            np.ones((*shape[:2], FEATURES)),
        )
        for _ in range(SETTINGS)
    ]
    x = rng.normal(size=(count, SETTINGS, FEATURES)).astype(np.float32)
    protein = np.sort(rng.integers(0, 20, count))
    field = protein * 4 + rng.integers(0, 4, count)
    fits = [[0] * SETTINGS, list(range(SETTINGS))]
    took = [
        seconds(lambda: pr.score_settings(stacked, fits, x, protein % FOLDS, protein, field))[0]
        for _ in range(1 + repetitions)
    ][1:]
    median = statistics.median(took)
    return {
        "cells": count,
        "us_a_cell_setting_fit": round(1e6 * median / count / SETTINGS / len(fits), 2),
        "cells_a_second": round(count / median),
    }


def mixtures(count: int, repetitions: int) -> dict[str, Any]:
    """Time the shares of a protein's cells."""
    p = np.random.default_rng(0).dirichlet(np.full(CLASSES, 0.3), count).astype(np.float32)
    took = [seconds(lambda: pr.mixture(p))[0] for _ in range(repetitions)]
    return {"cells": count, "ms": round(1e3 * statistics.median(took), 2)}


def main() -> None:
    """Run, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small, to see that it works")
    parser.add_argument("--json", type=Path, help="where to write what was measured")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    quick = chosen.quick
    found: dict[str, Any] = conditions(threads=1, seeds=[0, 1, 99]) | {"versions": versions()}
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "published": lambda: published(10_000 if quick else 1_000_000, 1 if quick else 3),
        "converged": lambda: converged(200 if quick else 4000, 1 if quick else 3),
        "scoring": lambda: scoring(512 if quick else 4096, 1 if quick else 9),
        "mixture": lambda: mixtures(2500, 1 if quick else 9),
    }
    for name, part in parts.items():
        with threadpool_limits(1, user_api="blas"):
            found[name] = part()
        print(name, json.dumps(found[name]), flush=True)
    if chosen.json:
        chosen.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
