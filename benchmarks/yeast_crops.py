"""The paper's effect on real cells: four yeast strains, the protein as the class.

    python benchmarks/yeast_crops.py DATA [--seeds 3] [--json yeast_crops.json]

DATA holds ``yeast_crops/crops.zip`` (from alexxijielu/paired_cell_inpainting). For each seed: train
`tiny` on fields 1 and 2, evaluate on cells of fields 3 and 4, donors from there as well; then the
accuracies over the pairs of strains whose proteins differ in localization, and the mean over seeds.
Of the first seed also what the second experiment says: in what share of its cells each protein is
told as itself, and whether that has shifted.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from machine import machine

from bgscale import open_results
from bgscale.config import PAPER_SETTINGS, RunConfig
from bgscale.run import Run, train_model, versions
from bgscale.screen import open_screen
from bgscale.summary import node, tables
from bgscale.table import neighbour_share

CONTROLS = (
    "self_swap", "background_only", "medium_only", "masked_mean", "masked_dilated_2",
    "masked_dilated_4",
)  # fmt: skip
SHIFTED = ("self_swap", "same", "different", "cell_free", "masked")
LOCALIZATIONS = {
    "AAC1": "mitochondrion",
    "AAC3": "mitochondrion",
    "AAH1": "cytoplasm;nucleus",
    "AAP1": "cytoplasm;nucleus",
}
"""Huh et al. 2003; a strain that is not here counts as a localization of its own."""


def evaluate(crops: Path, folder: Path, *, seed: int, controls: bool = True) -> dict[str, float]:
    """Train and evaluate once; return accuracies by setting, and contrasts."""
    proteins = open_screen(crops, class_column="protein").proteins
    plate_map = folder / "platemap.csv"
    rows = [f"{protein},{LOCALIZATIONS.get(protein, protein)}" for protein in proteins]
    plate_map.write_text("\n".join(["protein,localization", *rows]) + "\n", encoding="utf-8")
    config = RunConfig.from_dict(
        {
            "store": str(folder / f"seed{seed}.zarr"),
            "seed": seed,
            "settings": [*PAPER_SETTINGS, *(CONTROLS if controls else ())],
            "screen": {
                "path": str(crops),
                "plate_map": str(plate_map),
                "class_column": "protein",
                "intensity_scaling": "field",
            },
            "models": {"tiny": {"weights": str(folder / f"tiny{seed}.safetensors")}},
            "training": {"fields": ["1", "2"], "seed": seed},
            "evaluation": {"fields": ["3", "4"]},
        }
    )
    train_model(config)
    Run.from_config(config).execute()
    table = tables(config.store, differ_in="localization")["tiny"]
    found = {str(s): float(table["mean"].sel(setting=s)) for s in table["setting"].values}
    found |= {str(c): float(table["difference"].sel(contrast=c)) for c in table["contrast"].values}
    if controls:
        found["neighbour share"] = float(neighbour_share(table)["share"])
    return found


def shifts(store: Path) -> pd.DataFrame:
    """Return, by protein and setting, the share of cells told as the protein, and its shift."""
    tree = open_results(store)
    # the protein is the class here, so each is a localization of its own
    moved, made = (node(tree, kind, "tiny").sel(fit="fixed") for kind in ("shifts", "proportions"))
    rows = []
    for protein in moved["protein"].values:
        for setting in SHIFTED:
            at = {"protein": protein, "localization": protein}
            one = moved.sel(setting=setting, protein=protein)
            before, after = (made["proportion"].sel(setting=s, **at) for s in ("original", setting))
            low, high = (moved[f"proportion_{end}"].sel(setting=setting, **at) for end in
                         ("low", "high"))  # fmt: skip
            row = {"protein": str(protein), "setting": setting, "cells": int(one["n_cells"])}
            row |= {"original": float(before), "share": float(after)}
            row |= {"low": float(low), "high": float(high)}
            row |= {name: float(one[name]) for name in ("kl", "kl_low", "kl_high", "p", "q")}
            rows.append(row | {"substantial": bool(one["substantial"])})
    return pd.DataFrame(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", type=Path, help="folder with yeast_crops/crops.zip")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="file to write")
    options = parser.parse_args()
    runs: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(options.seeds):
            crops = options.data / "yeast_crops" / "crops.zip"
            runs.append(evaluate(crops, Path(folder), seed=seed))
        moved = shifts(Path(folder) / "seed0.zarr")
    print(f"{'':<24}" + "".join(f"seed {seed:<4}" for seed in range(options.seeds)) + "mean")
    means: dict[str, Any] = {}
    for key in runs[0]:
        values = [run[key] for run in runs]
        means[key] = float(np.mean(values))
        print(f"{key:<24}" + "".join(f"{v:<9.3f}" for v in values) + f"{means[key]:.3f}")
    print("\nshare of a protein's cells that is told as the protein, classifier fitted on original")
    print(moved.round(3).to_string(index=False))
    if options.json:
        report = {"mean": means, "seeds": runs, "shifts": moved.to_dict("records")}
        report |= {"machine": machine(), "threads": torch.get_num_threads()}
        report |= {"versions": versions()}
        options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
