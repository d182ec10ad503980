"""What keeps a model from reading the neighbours: each part by itself, on real cells.

    python benchmarks/invariance.py DATA [--seeds 3] [--simulated] [--json invariance.json]

DATA holds ``yeast_crops/crops.zip`` (from alexxijielu/paired_cell_inpainting). As in
``yeast_crops.py``: for each seed `tiny` is trained on fields 1 and 2, the protein as the class, and
evaluated on cells of fields 3 and 4 with donors from there; accuracies are over the pairs of
strains whose proteins differ in localization. Every row of the table is one way of training, or of
reading a trained model. With ``--simulated`` also on a screen with known truth: whether proteins
shift, whether planted proportions are found, and what wrong masks do.
"""

import argparse
import json
import platform
import shutil
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from invariance_simulated import simulated
from yeast_crops import LOCALIZATIONS

from bgscale.config import PAPER_SETTINGS, RunConfig
from bgscale.run import Run, train_model, versions
from bgscale.screen import open_screen
from bgscale.summary import tables

SETTINGS = (*PAPER_SETTINGS, "background_only", "medium_only")
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


def _invariant(**changes: Any) -> Row:
    return Row({"invariant": True, **changes})


NO_MASK: dict[str, Any] = {"mask_input": []}
ROWS = {
    "plain": Row(),
    "plain, gate at inference": Row(model={"mask_input": ["gate"]}, weights_of="plain"),
    "trained on masked crops": Row(model={"preprocess": ["minmax", "mask"]}),
    "swaps": _invariant(consistency=0.0, **NO_MASK),
    "swaps + consistency": _invariant(**NO_MASK),
    "swaps + consistency + gate": _invariant(mask_input=["gate"], mask_jitter_px=0),
    "swaps + consistency + channel": _invariant(mask_input=["channel"], mask_jitter_px=0),
    "swaps + consistency + channel + gate": _invariant(
        mask_input=["channel", "gate"], mask_jitter_px=0
    ),
    "delivered (+ jitter)": _invariant(),
}
"""The delivered one is what ``invariant = true`` means."""


def evaluate(crops: Path, folder: Path, rows: Mapping[str, Row], *, seed: int) -> dict[str, Any]:
    """Train and evaluate every row once; return their accuracies by setting."""
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
                "training": {"fields": ["1", "2"], "seed": seed, "threads": 1, **row.training},
                "evaluation": {"fields": ["3", "4"]},
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
    parser.add_argument("--rows", default="", help="only these, divided by ';'")
    parser.add_argument("--simulated", action="store_true", help="a screen with known truth, too")
    parser.add_argument("--json", type=Path, help="file to write")
    options = parser.parse_args()
    rows = {k: v for k, v in ROWS.items() if not options.rows or k in options.rows.split(";")}
    crops = options.data / "yeast_crops" / "crops.zip"
    with tempfile.TemporaryDirectory() as folder:
        runs = [evaluate(crops, Path(folder), rows, seed=seed) for seed in range(options.seeds)]
    means = {
        name: {key: float(np.mean([run[name][key] for run in runs])) for key in runs[0][name]}
        for name in rows
    }
    print(f"{'mean of the seeds':<42}" + "".join(f"{key[:9]:>10}" for key in SHOWN))
    for name, values in means.items():
        print(f"{name:<42}" + "".join(f"{values[key]:>10.3f}" for key in SHOWN))
    report: dict[str, Any] = {"mean": means, "seeds": runs}
    if options.simulated:
        with tempfile.TemporaryDirectory() as folder:
            report["simulated"] = simulated(Path(folder), seed=0, invariant={"invariant": True})
    if options.json:
        machine = f"{platform.machine()}, {platform.python_implementation()}"
        report |= {"machine": machine, "versions": versions()}
        options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
