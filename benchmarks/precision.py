"""What speed costs in accuracy: each engine beside the reference, torch in float32.

    python benchmarks/precision.py [--data DATA] [--simulated] [--models pifia pci deeploc tiny]
                                   [--backends torch openvino] [--folder DIR] [--json FILE]
                                   [--quick]

Each architecture is trained on fields 1 and 2 of a screen, by `bgscale train`; its features under
random weights would say little. Then one run per architecture on fields 3 and 4, in which the
engines are models beside each other: they see the same cells, donors and folds. Compared are

- features, by layer, of every cell under `original` and `masked`: the largest error, also as a
  share of the layer's largest feature, and the smallest cosine;
- experiment 1: the accuracy of each setting as `bgscale table` gives it, and how many of the
  decisions about held-out crops became wrong or right. Single crops near the boundary change sides
  for any reason, so also the mean over foldings of the same crops, in which that averages out;
  standard errors are from the changes by crop;
- experiment 2: the largest change of a predicted proportion.

A reduced precision is a default only where no setting's accuracy moves by 0.002 or more; that is
said of the table's accuracies and of their means over foldings. Float32 by another backend is the
control: its features differ in the last bits alone.

All of it takes some twenty minutes on two cores, most of it training; --models divides it.

The screen is that of four yeast strains, with the protein as the class: ``yeast_crops/crops.zip``
in DATA (from alexxijielu/paired_cell_inpainting), by default $BGSCALE_TEST_DATA or ../shared/data.
Where it is absent, or with --simulated, a simulated one of ten localizations: more pairs, and
accuracies further from the ceiling. FILE keeps what it has of the other screen, and of models that
are not measured again. Weights and stores in DIR are used again.
"""

import argparse
import json
import os
import tempfile
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from machine import machine as machine_here
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import StratifiedKFold
from sklearn.svm import SVC
from threadpoolctl import threadpool_limits

from bgscale.config import ClassificationSection, RunConfig
from bgscale.evaluate import TOLERANCE
from bgscale.models.engine import best_device, cpu_units, processor
from bgscale.results import open_results
from bgscale.run import Run, train_model, versions
from bgscale.screen import open_screen
from bgscale.simulate import ScreenSpec, write_crops
from bgscale.simulate.localizations import PATTERNS
from bgscale.summary import node, tables

LIMIT = 0.002
"""What an accuracy may move by; see `ConvNetwork.reduced_precision`."""

MODELS = ("pifia", "pci", "deeploc", "tiny")
REFERENCE = "torch-float32"
TRAINED_ON, EVALUATED_ON = ("1", "2"), ("3", "4")
COMPARED = ("original", "masked")
LARGE = {"epochs": 6, "batch_size": 16, "learning_rate": 1e-3}
TRAINING = {"pifia": LARGE, "pci": LARGE, "deeploc": LARGE, "tiny": {"epochs": 30}}
SIMULATED = tuple(PATTERNS)[:10]
FOLDINGS = 20
"""Shuffled ones, beside the table's."""


@dataclass(frozen=True)
class Study:
    """A screen, in two halves, and what of a run's config belongs to it."""

    name: str
    folder: Path
    train: Path
    test: Path
    screen: dict[str, Any]
    crops_per_class: int = 1000
    quick: bool = False


def yeast(crops: Path, folder: Path) -> Study:
    screen = {"plate_map": "", "class_column": "protein", "intensity_scaling": "field"}
    train, test = halves(crops, folder, class_column="protein")
    return Study("yeast crops", folder, train, test, screen)


def simulated(folder: Path, *, quick: bool) -> Study:
    spec = ScreenSpec(
        localizations=SIMULATED[:3] if quick else SIMULATED,
        proteins_per_localization=2,
        mixed_proteins=0,
        fields_per_protein=len(TRAINED_ON) + len(EVALUATED_ON),
        cells_per_field=20 if quick else 30,
        field_size_px=256 if quick else 320,
    )
    if not (folder / "simulated").exists():
        write_crops(spec, folder / "simulated", zipped=True)
    plate_map = str(folder / "simulated" / "platemap.csv")
    how = {"plate_map": plate_map, "mask": "mask", "pixel_size_um": spec.pixel_size_um}
    train, test = halves(
        folder / "simulated" / "crops.zip", folder, plate_map=plate_map, mask="mask"
    )
    name, crops_per_class = ("quick", 10) if quick else ("simulated", 40)
    return Study(name, folder, train, test, how, crops_per_class, quick)


def halves(crops: Path, folder: Path, **opening: str) -> tuple[Path, Path]:
    """Return archives with the crops of the fields to train on, and of those to evaluate on."""
    items = open_screen(crops, **opening).items
    columns = [column for column in items if column.endswith("_file")]
    paths = folder / "train.zip", folder / "test.zip"
    for path, fields in zip(paths, (TRAINED_ON, EVALUATED_ON), strict=True):
        names = items.loc[items["field"].isin(fields), columns].to_numpy().ravel()
        with zipfile.ZipFile(crops) as source, zipfile.ZipFile(path, "w") as target:
            for name in names:
                # with its date: the same archive each time
                target.writestr(source.getinfo(name), source.read(name))
    return paths


def engines_here(backends: Sequence[str]) -> list[tuple[str, str]]:
    """Return backend and precision of what this machine can run at speed, the reference first."""
    cuda = best_device() != "cpu"
    if not backends:
        backends = ["torch", *["openvino"] * (not cuda and find_spec("openvino") is not None)]
    precisions = ["float32"]
    if cuda or any(unit.endswith("bf16") for unit in cpu_units()):
        precisions.append("bfloat16")
    if cuda:
        precisions.append("float16")
    others = [(b, p) for p in precisions for b in backends if (b, p) != ("torch", "float32")]
    return [("torch", "float32"), *others]


def config_of(study: Study, architecture: str, **more: Any) -> RunConfig:
    return RunConfig.from_dict(
        {
            "donors": {"min_pool": 5 if study.quick else 20, "windows_per_class": 500},
            "classification": {"crops_per_class": study.crops_per_class},
            "proportions": {"replicates": 0},
            "training": {
                **TRAINING[architecture],
                "device": best_device(),
                **({"epochs": 2} if study.quick else {}),
                # the last epoch is kept: too few fields to hold some out
                "validation_fraction": 0.0,
            },
            "models": {
                "trained": {
                    "architecture": architecture,
                    "weights": str(_weights(study, architecture)),
                }
            },
        }
        | more
    )


def _weights(study: Study, architecture: str) -> Path:
    return study.folder / f"{architecture}.safetensors"


def train(study: Study, architecture: str) -> None:
    """Write the weights, unless they are there."""
    if _weights(study, architecture).exists():
        return
    screen = {**study.screen, "path": str(study.train)}
    store = str(study.folder / "train.zarr")
    print(train_model(config_of(study, architecture, screen=screen, store=store)))


def run(study: Study, architecture: str, engines: Sequence[tuple[str, str]]) -> RunConfig:
    """Run both experiments, each engine a model of its own in one store."""
    weights = str(_weights(study, architecture))
    section = {"architecture": architecture, "weights": weights}
    config = config_of(
        study,
        architecture,
        screen={**study.screen, "path": str(study.test)},
        store=str(study.folder / f"{architecture}.zarr"),
        models={f"{b}-{p}": {**section, "backend": b, "precision": p} for b, p in engines},
    )
    Run.from_config(config).execute()
    return config


def feature_errors(tree: xr.DataTree, name: str) -> dict[str, dict[str, dict[str, float]]]:
    """Return largest errors and smallest cosine, by layer and setting."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    plate = tree.attrs["plates"][0]
    exact, other = (tree[f"plates/{plate}/embeddings/{model}"] for model in (REFERENCE, name))
    for layer in exact.children:
        found[layer] = {}
        for setting in COMPARED:
            a, b = (
                t[layer]["embedding"].sel(setting=setting).to_numpy().astype(np.float64)
                for t in (exact, other)
            )
            present = np.isfinite(a).all(1)
            if not np.isfinite(b[present]).all():
                raise SystemExit(f"{name}, layer {layer}, {setting}: features that are not finite")
            found[layer][setting] = errors(a[present], b[present])
    return found


def errors(exact: np.ndarray, other: np.ndarray) -> dict[str, float]:
    """Return the largest errors and the smallest cosine of features (cell, feature)."""
    largest = float(np.abs(other - exact).max())
    norms = np.linalg.norm(exact, axis=1) * np.linalg.norm(other, axis=1)
    # cells without any feature in either have no angle between them
    both_zero = ~(exact.any(1) | other.any(1))
    cosine = np.where(both_zero, 1.0, (exact * other).sum(1) / np.where(norms > 0, norms, 1.0))
    return {
        "largest error": largest,
        "of the largest feature": largest / float(np.abs(exact).max()),
        "smallest cosine": float(cosine.min()),
    }


def decisions(
    tree: xr.DataTree, name: str, section: ClassificationSection
) -> dict[str, np.ndarray]:
    """Return, by setting, which held-out crops are told right: (folding, decision), bool.

    Of the problems that the table of accuracies is made of; the first folding is the table's.
    """
    grid = tree[f"grid/{name}"]
    layer = str(grid.attrs["model"]["classification_layer"])
    made = grid[layer]["embedding"]
    each = tree[f"evaluation/{name}"]["each_background"].to_numpy()
    told = {}
    for s, setting in enumerate(made["setting"].to_numpy()):
        features = made[s].to_numpy().astype(np.float64)
        right = [
            told_right(*(_present(features[background, k]) for k in pair), section)
            for background in (range(1, len(features)) if each[s] else (0,))
            for pair in combinations(range(features.shape[1]), 2)
            if background - 1 not in pair
        ]
        told[str(setting)] = np.concatenate(right, axis=1)
    return told


def _present(features: np.ndarray) -> np.ndarray:
    return features[np.isfinite(features).all(1)]


def told_right(
    a: np.ndarray, b: np.ndarray, section: ClassificationSection, foldings: int = FOLDINGS
) -> np.ndarray:
    """Return which crops an SVM tells right, each in the fold that holds it out."""
    cells, label = np.concatenate([a, b]), np.repeat([0, 1], [len(a), len(b)])
    gram = cells @ cells.T
    splits = [StratifiedKFold(section.folds)]
    splits += [
        StratifiedKFold(section.folds, shuffle=True, random_state=i) for i in range(foldings)
    ]
    right = np.zeros((len(splits), len(cells)), bool)
    for told, split in zip(right, splits, strict=True):
        for train_on, test_on in split.split(label, label):
            svc = SVC(
                kernel="precomputed",
                C=section.penalty,
                tol=TOLERANCE,
                max_iter=section.max_iterations,
            )
            svc.fit(gram[np.ix_(train_on, train_on)], label[train_on])
            told[test_on] = svc.predict(gram[np.ix_(test_on, train_on)]) == label[test_on]
    return right


def changes(before: np.ndarray, after: np.ndarray) -> dict[str, float]:
    """Return how decisions (folding, decision) changed, in the table's folding and on average."""
    worse, better = int((before & ~after)[0].sum()), int((~before & after)[0].sum())
    by_crop = after[1:].mean(0) - before[1:].mean(0)
    n = before.shape[1]
    return {
        "of": n,
        "now wrong": worse,
        "now right": better,
        "moves": round((better - worse) / n, 5),
        "standard error": round(float(np.sqrt(worse + better)) / n, 5),
        "foldings move": round(float(by_crop.mean()), 5),
        "foldings standard error": round(float(np.sqrt((by_crop**2).sum())) / n, 5),
    }


def compared(config: RunConfig, engines: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """Return what each engine changes, and whether a precision may be a default."""
    tree = open_results(config.store)
    means = {
        name: {str(s): float(table["mean"].sel(setting=s)) for s in table["setting"].to_numpy()}
        for name, table in tables(config.store).items()
    }
    exact = decisions(tree, REFERENCE, config.classification)
    found: dict[str, Any] = {
        "cells": int(tree["plates/" + tree.attrs["plates"][0]]["cells"].sizes["cell"]),
        "classes": tree["centres"].sizes["localization"],
        "crops a class": tree["centres"].sizes["draw"],
        "weights": str(tree[f"grid/{REFERENCE}"].attrs["model"]["origin"]),
        "reference": {setting: round(mean, 5) for setting, mean in means[REFERENCE].items()},
        "engines": {},
        "verdict": {},
    }
    for backend, precision in engines[1:]:
        name = f"{backend}-{precision}"
        other = decisions(tree, name, config.classification)
        moves = {s: round(mean - means[REFERENCE][s], 5) for s, mean in means[name].items()}
        changed = {s: changes(exact[s], other[s]) for s in exact}
        figures = {
            "features": _rounded(feature_errors(tree, name)),
            "accuracy": {setting: round(mean, 5) for setting, mean in means[name].items()},
            "moves": moves,
            "moves by": max(map(abs, moves.values())),
            "foldings move by": max(abs(c["foldings move"]) for c in changed.values()),
            "decisions": changed,
            "decisions of all settings": changes(*map(_joined, (exact, other))),
            "a proportion moves by": _rounded(proportion_changes(tree, name)),
        }
        found["engines"][f"{backend}, {precision}"] = figures
        so_far = found["verdict"].setdefault(precision, {"moves by": 0.0, "foldings move by": 0.0})
        found["verdict"][precision] = {key: max(so_far[key], figures[key]) for key in so_far}
    return found


def _joined(told: dict[str, np.ndarray]) -> np.ndarray:
    return np.concatenate(list(told.values()), axis=1)


def proportion_changes(tree: xr.DataTree, name: str) -> dict[str, float]:
    """Return the largest change of a predicted proportion, by fit."""
    exact, other = (node(tree, "proportions", n)["proportion"] for n in (REFERENCE, name))
    return {
        str(fit): float(np.abs(other - exact).sel(fit=fit).max()) for fit in exact["fit"].values
    }


def _rounded(values: Any) -> Any:
    """Return nested figures with six digits after the point, small ones with three that count."""
    if isinstance(values, dict):
        return {key: _rounded(value) for key, value in values.items()}
    return round(values, 6) if abs(values) > 1e-3 else float(f"{values:.3g}")


def lines(name: str, found: dict[str, Any]) -> Iterator[str]:
    """Yield a model's table."""
    accuracies = ", ".join(f"{s} {mean:.3f}" for s, mean in found["reference"].items())
    yield f"{name}: {found['weights']}; reference: {accuracies}"
    yield (
        f"  {'':<20}{'error':>9}{'of max':>9}{'1 - cosine':>12}{'changed':>9}{'of':>7}"
        f"{'moves by':>10}{'foldings':>10}{'proportion':>12}"
    )
    for engine, figures in found["engines"].items():
        errors = [e for by in figures["features"].values() for e in by.values()]
        told = figures["decisions of all settings"]
        yield (
            f"  {engine:<20}{max(e['largest error'] for e in errors):>9.2g}"
            f"{max(e['of the largest feature'] for e in errors):>9.2g}"
            f"{1 - min(e['smallest cosine'] for e in errors):>12.2g}"
            f"{told['now wrong'] + told['now right']:>9}{told['of']:>7}"
            f"{figures['moves by']:>10.5f}{figures['foldings move by']:>10.5f}"
            f"{max(figures['a proportion moves by'].values()):>12.4f}"
        )
    for precision, verdict in found["verdict"].items():
        yield f"  {precision}: accuracies {said(verdict['moves by'])}"
        yield f"    their means over {FOLDINGS} foldings {said(verdict['foldings move by'])}"


def said(moves_by: float) -> str:
    return f"move by {moves_by:.5f}, {'' if moves_by < LIMIT else 'not '}less than {LIMIT}"


def measure(
    study: Study, models: Sequence[str], engines: Sequence[tuple[str, str]]
) -> dict[str, Any]:
    """Train, run and compare; return the figures of all architectures."""
    found = {}
    with warnings.catch_warnings(), threadpool_limits(1, user_api="blas"):
        # how many fits converge is in the store
        warnings.simplefilter("ignore", ConvergenceWarning)
        for architecture in models:
            train(study, architecture)
            found[architecture] = compared(run(study, architecture, engines), engines)
            print("\n".join(lines(architecture, found[architecture])), flush=True)
    return found


def machine() -> dict[str, Any]:
    """Return what the figures depend on."""
    device = best_device()
    return machine_here() | {"device": device, "instructions": processor(device)}


def study_of(data: Path, root: Path, *, simulate: bool, quick: bool) -> Study:
    crops = data / "yeast_crops" / "crops.zip"
    if not (simulate or quick or crops.exists()):
        print(f"no {crops}: a simulated screen instead")
    real = crops.exists() and not (simulate or quick)
    folder = root / ("quick" if quick else "yeast_crops" if real else "simulated")
    folder.mkdir(parents=True, exist_ok=True)
    return yeast(crops, folder) if real else simulated(folder, quick=quick)


def main() -> None:
    beside = Path(__file__).parents[2] / "shared" / "data"
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--data", type=Path, default=Path(os.environ.get("BGSCALE_TEST_DATA", beside))
    )
    parser.add_argument("--simulated", action="store_true", help="a simulated screen instead")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS)
    parser.add_argument("--backends", nargs="+", help="by default those this machine is fast with")
    parser.add_argument("--folder", type=Path, help="weights and stores are kept there")
    parser.add_argument("--json", type=Path, help="file to write")
    parser.add_argument("--quick", action="store_true", help="tiny on a small simulated screen")
    options = parser.parse_args()
    models = ("tiny",) if options.quick else options.models
    engines = engines_here(options.backends or ())
    with tempfile.TemporaryDirectory() as temporary:
        root = options.folder or Path(temporary)
        study = study_of(options.data, root, simulate=options.simulated, quick=options.quick)
        found = measure(study, models, engines)
    if options.json:
        write(options.json, study, found, engines)


def write(
    path: Path, study: Study, found: dict[str, Any], engines: Sequence[tuple[str, str]]
) -> None:
    kept = json.loads(path.read_text("utf-8")) if path.exists() else {}
    packages = ["openvino"] * any(backend == "openvino" for backend, _ in engines)
    made = {
        "limit": LIMIT,
        "foldings": FOLDINGS,
        "trained on fields": list(TRAINED_ON),
        "evaluated on fields": list(EVALUATED_ON),
        "models": kept.get(study.name, {}).get("models", {}) | found,
        "machine": machine(),
        "versions": versions() | {name: version(name) for name in packages},
    }
    text = json.dumps(kept | {study.name: made}, indent=1) + "\n"
    path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
