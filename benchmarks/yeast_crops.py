"""The paper's effect on real cells: four yeast strains, the protein as the class.

    python benchmarks/yeast_crops.py DATA [--seeds 3] [--json yeast_crops.json]

DATA holds ``yeast_crops/crops.zip`` (from alexxijielu/paired_cell_inpainting). For each seed: train
`tiny` on fields 1 and 2, evaluate on cells of fields 3 and 4, donors from there as well; then the
accuracies over the pairs of strains whose proteins differ in localization, and the mean over seeds.
"""

import argparse
import json
import platform
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from bgscale.config import CONTROL_SETTINGS, PAPER_SETTINGS, RunConfig
from bgscale.run import Run, train_model, versions
from bgscale.screen import open_screen
from bgscale.summary import tables
from bgscale.table import neighbour_share

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
            "settings": [*PAPER_SETTINGS, *(CONTROL_SETTINGS if controls else ())],
            "screen": {
                "path": str(crops),
                "plate_map": str(plate_map),
                "class_column": "protein",
                "intensity_scaling": "field",
            },
            "models": {"tiny": {"weights": str(folder / f"tiny{seed}.safetensors")}},
            "training": {"fields": ["1", "2"], "seed": seed},
            "evaluation": {"fields": ["3", "4"]},
            "proportions": {"replicates": 2},
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
    print(f"{'':<24}" + "".join(f"seed {seed:<4}" for seed in range(options.seeds)) + "mean")
    means: dict[str, Any] = {}
    for key in runs[0]:
        values = [run[key] for run in runs]
        means[key] = float(np.mean(values))
        print(f"{key:<24}" + "".join(f"{v:<9.3f}" for v in values) + f"{means[key]:.3f}")
    if options.json:
        machine = f"{platform.machine()}, {platform.python_implementation()}"
        report = {"mean": means, "seeds": runs, "machine": machine, "versions": versions()}
        options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
