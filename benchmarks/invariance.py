"""What keeps a model from reading the neighbours: each part by itself, on real cells.

    python benchmarks/invariance.py DATA [--seeds 3] [--simulated] [--json invariance.json]

About an hour of two cores in all.

DATA holds ``yeast_crops/crops.zip`` (from alexxijielu/paired_cell_inpainting). As in
``yeast_crops.py``: for each seed `tiny` is trained on fields 1 and 2, the protein as the class, and
evaluated on cells of fields 3 and 4 with donors from there; accuracies are over the pairs of
strains whose proteins differ in localization. Every row of the table is one way of training, or of
reading a trained model. The method was chosen on these cells; so plain and delivered are also
compared with the halves exchanged. With ``--simulated`` also on screens with known truth: whether
proteins shift, whether planted proportions are found, and what wrong masks do.
"""

import argparse
import json
import multiprocessing
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from invariance_simulated import ANSWERS, simulated
from machine import conditions
from yeast_crops import LOCALIZATIONS

from bgscale.config import PAPER_SETTINGS, RunConfig
from bgscale.run import Run, train_model, versions
from bgscale.screen import open_screen
from bgscale.summary import tables

SETTINGS = (*PAPER_SETTINGS, "background_only", "medium_only")
HALVES = ["1", "2"], ["3", "4"]
"""Fields to train on, fields to evaluate on."""
SHOWN = ("original", "same", "different", "gap", "cell_free", "background_only", "masked")


@dataclass(frozen=True)
class Row:
    """One way to train a model, or to read one.

    Parameters
    ----------
    training, model : mapping
        Keys of these sections of run.toml.
    weights_of : str
        The row whose weights it takes; empty: it is trained.
    """

    training: Mapping[str, Any] = field(default_factory=dict)
    model: Mapping[str, Any] = field(default_factory=dict)
    weights_of: str = ""


CROP_RANGE: dict[str, Any] = {"preprocess": ["minmax"]}
OWN_RANGE: dict[str, Any] = {"preprocess": ["minmax_inside"]}
"""Crops are scaled by the range of their centre cell; else neighbours set its grey level."""
OWN_PIXELS: dict[str, Any] = {"preprocess": ["minmax_inside", "mask"]}


def _invariant(
    model: Mapping[str, Any], *uses: str, consistency: float = 1.0, jitter: int = 0
) -> Row:
    training = {"mask_input": uses, "consistency": consistency, "mask_jitter_px": jitter}
    return Row({"invariant": True, **training}, model)


BOTH = "channel", "gate"
AVERAGED = "plain, averaged over 8 backgrounds"
ROWS = {
    "plain": Row(),
    "plain, gate at inference": Row(model={"mask_input": ["gate"]}, weights_of="plain"),
    AVERAGED: Row(model={"backgrounds": 8}, weights_of="plain"),
    "trained on masked crops": Row(model={"preprocess": ["minmax", "mask"]}),
    "swaps": _invariant(CROP_RANGE, consistency=0.0),
    "swaps + consistency": _invariant(CROP_RANGE),
    "swaps + consistency + gate": _invariant(CROP_RANGE, "gate"),
    "swaps + consistency + channel": _invariant(CROP_RANGE, "channel"),
    "swaps + consistency + channel + gate": _invariant(CROP_RANGE, *BOTH),
    "the same + jitter": _invariant(CROP_RANGE, *BOTH, jitter=2),
    "plain, own range": Row(model=OWN_RANGE),
    "the same + jitter, own range": _invariant(OWN_RANGE, *BOTH, jitter=2),
    "trained on masked crops, own range": Row(model=OWN_PIXELS),
    "the same + jitter, own range, masked": Row({"invariant": True}),
}
"""The last is what ``invariant = true`` means."""
DELIVERED = list(ROWS)[-1]
SIMULATED: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "plain": ({}, {}),
    AVERAGED: ({}, {"backgrounds": 8}),
    "trained on masked crops": ({}, {"preprocess": ["minmax", "mask"]}),
    "delivered": ({"invariant": True}, {}),
    "delivered, without jitter": ({"invariant": True, "mask_jitter_px": 0}, {}),
}
"""By name: keys of ``[training]`` and of the model's section."""


def evaluate(
    crops: Path, rows: Mapping[str, Row], halves: tuple[list[str], list[str]], seed: int
) -> dict[str, Any]:
    """Train and evaluate every row once; return their accuracies by setting."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        return _evaluate(crops, Path(folder), rows, halves, seed)


def _evaluate(
    crops: Path,
    folder: Path,
    rows: Mapping[str, Row],
    halves: tuple[list[str], list[str]],
    seed: int,
) -> dict[str, Any]:
    plate_map = folder / "platemap.csv"
    proteins = open_screen(crops, class_column="protein").proteins
    lines = [f"{protein},{LOCALIZATIONS.get(protein, protein)}" for protein in proteins]
    plate_map.write_text("\n".join(["protein,localization", *lines]) + "\n", encoding="utf-8")
    found: dict[str, Any] = {}
    cut = folder / f"cut{seed}.zarr"
    for number, (name, row) in enumerate(rows.items()):
        store = folder / f"row{number}.zarr"
        trained = list(rows).index(row.weights_of) if row.weights_of else number
        config = RunConfig.from_dict(
            {
                "store": str(store),
                "seed": seed,
                "settings": list(SETTINGS),
                "screen": {
                    "path": str(crops),
                    "plate_map": str(plate_map),
                    "class_column": "protein",
                    "intensity_scaling": "field",
                },
                "models": {
                    "tiny": {
                        "weights": str(folder / f"{seed}-{trained}.safetensors"), **row.model
                    }
                },
                "training": {"fields": halves[0], "seed": seed, "threads": 1, **row.training},
                "evaluation": {"fields": halves[1]},
            }
        )  # fmt: skip
        if not cut.exists():
            blank = config.model_copy(update={"store": str(cut), "models": RunConfig().models})
            Run.from_config(blank).execute(until="ranges")
        shutil.copytree(cut, store)
        shutil.copytree(cut.with_name(f"{cut.name}.progress"), f"{store}.progress")
        found[name] = {}
        if not row.weights_of:
            started = time.process_time()
            train_model(config)
            found[name]["training_s"] = time.process_time() - started
        Run.from_config(config).execute(until="evaluate")
        table = tables(config.store, differ_in="localization")["tiny"]
        found[name] |= {str(s): float(table["mean"].sel(setting=s)) for s in SETTINGS}
        found[name]["gap"] = found[name]["same"] - found[name]["different"]
        shutil.rmtree(store)
        print(seed, f"{name:<40}", *(f"{found[name][k]:.3f}" for k in SHOWN), flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", type=Path, help="folder with yeast_crops/crops.zip")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rows", default="", help="only these, divided by ';'; put into FILE")
    parser.add_argument("--simulated", action="store_true", help="a screen with known truth, too")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--json", type=Path, help="file to write")
    options = parser.parse_args()
    rows = {k: v for k, v in ROWS.items() if not options.rows or k in options.rows.split(";")}
    few = {k: v for k, v in rows.items() if k in ("plain", AVERAGED, DELIVERED)}
    planted = {k: v for k, v in SIMULATED.items() if not options.rows or k in rows}
    crops, seeds = options.data / "yeast_crops" / "crops.zip", range(options.seeds)
    spawned = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.processes, spawned) as pool:
        runs = [pool.submit(evaluate, crops, rows, HALVES, seed) for seed in seeds]
        turned = [pool.submit(evaluate, crops, few, HALVES[::-1], seed) for seed in seeds]
        known = [pool.submit(simulated, planted, seed) for seed in seeds if options.simulated]
        found = {
            name: [run.result() for run in each]
            for name, each in (("real", runs), ("halves exchanged", turned), ("simulated", known))
            if each
        }
    report: dict[str, Any] = {}
    if options.rows and options.json and options.json.exists():
        report = json.loads(options.json.read_text(encoding="utf-8"))
        for name, each in found.items():
            found[name] = [old | new for old, new in zip(report[name]["seeds"], each, strict=True)]
    for name, each in found.items():
        report[name] = {"mean": mean(each), "seeds": each}
        shown = [key for key in (*SHOWN, *ANSWERS) if key in next(iter(each[0].values()))]
        print(f"{name + ', mean of the seeds':<42}" + "".join(f"{key[-9:]:>10}" for key in shown))
        for row, values in report[name]["mean"].items():
            print(f"{row:<42}" + "".join(f"{values.get(key, np.nan):>10.3f}" for key in shown))
    if options.json:
        report |= {"versions": versions()} | conditions(threads=1, seeds=list(seeds))
        options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def mean(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the mean over runs of every number."""
    return {
        name: {key: float(np.mean([run[name][key] for run in runs])) for key in values}
        for name, values in runs[0].items()
    }


if __name__ == "__main__":
    main()
