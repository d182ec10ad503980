"""How far another donor bank moves the proportions: whether a bank is large enough.

    python benchmarks/second_bank.py FOLDER [--quick] [--json second_bank.json]

A screen with known truth is simulated; `tiny` is trained on it and sees the background. It is run
with banks of several sizes and, for each, with other donors (`donors.bank`), all else the same.
Backgrounds are drawn from the bank, cell by cell, so a second bank changes both which donors there
are and which of them each cell gets. What the latter alone does is told by cells: the standard
error of a protein's mean shift, which stands beside.

By size and setting: how often a donor is used; largest and root mean square change of a proportion
between two banks, over proteins and localizations; the standard error of the shift by cells; and by
how much KL(original || setting) changes in the median of proteins, beside its median.
"""

import argparse
import json
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
from machine import conditions

from bgscale import connect, open_results
from bgscale.config import RunConfig
from bgscale.lent import ALL, lent
from bgscale.proportions import kl_divergence
from bgscale.run import Run, train_model, versions
from bgscale.simulate import ScreenSpec, write_plates

SETTINGS = ("same", "different", "cell_free")
LOCALIZATIONS = (
    "cell periphery", "cytoplasm", "mitochondrion", "nucleus", "vacuolar membrane", "vacuole",
)  # fmt: skip


def spec_of(*, quick: bool) -> ScreenSpec:
    """Return what is simulated: 24 proteins of 1,200 cells."""
    return ScreenSpec(
        localizations=LOCALIZATIONS, proteins_per_localization=3, mixed_proteins=6,
        fields_per_protein=3 if quick else 20, cells_per_field=60, field_size_px=520, diffuse=0.2,
    )  # fmt: skip


def config_of(folder: Path, donors: int, bank: int) -> RunConfig:
    """Return the config of a run with banks of so many donors a class."""
    screen = folder / "screen"
    return RunConfig.from_dict(
        {
            "store": str(folder / "results.zarr"),
            "settings": ["original", *SETTINGS],
            "screen": {
                "path": str(screen / "plates"), "plate_map": str(screen / "platemap.csv"),
                "nucleus": "nuc",
            },
            "models": {"tiny": {"weights": str(folder / "tiny.safetensors")}},
            "donors": {"per_class": donors, "windows_per_class": donors, "bank": bank},
            "classification": {"crops_per_class": 20},
            "proportions": {"replicates": 2},
            "training": {"epochs": 5, "threads": 2},
        }
    )  # fmt: skip


def proportions(config: RunConfig) -> dict[str, np.ndarray]:
    """Return the proportions of each setting: (protein, localization); with errors by cells."""
    node = open_results(config.store)["proportions/tiny"].to_dataset().sel(fit="fixed")
    found = {s: node["proportion"].sel(setting=s).to_numpy() for s in ("original", *SETTINGS)}
    n = node["n_cells"].to_numpy()[..., None]
    sums = (
        node["sums"].sum("protein_field").to_numpy()
        - node["baseline"].sum("protein_field").to_numpy()
    )
    scale = node.attrs["sum_scale"]
    squares = np.diagonal(node["cross"].to_numpy(), axis1=-2, axis2=-1) / scale
    error = np.sqrt(np.maximum(squares / n - (sums / scale / n) ** 2, 0) / n)
    for s, setting in enumerate(config.settings):
        found[f"error {setting}"] = error[s]
    return found


def compared(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> dict[str, Any]:
    """Return how far proportions under each setting are apart."""
    out = {}
    for setting in SETTINGS:
        moved = np.abs(second[setting] - first[setting])
        kl = [kl_divergence(one["original"], one[setting]) for one in (first, second)]
        out[setting] = {
            "largest_change": round(float(moved.max()), 4),
            "rms_change": round(float(np.sqrt((moved**2).mean())), 4),
            "rms_standard_error_by_cells": round(
                float(np.sqrt((first[f"error {setting}"] ** 2).mean())), 4
            ),
            "median_kl": round(float(np.median(kl[0])), 4),
            "median_change_of_kl": round(float(np.median(np.abs(kl[1] - kl[0]))), 4),
        }
    return out


def main() -> None:
    """Run with two banks of each size, and print how far the proportions are apart."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--donors", type=int, nargs="+", default=[50, 200, 1000])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    folder: Path = args.folder
    started, spec = time.perf_counter(), spec_of(quick=args.quick)
    if not (folder / "screen" / "platemap.csv").exists():
        shutil.rmtree(folder / "screen", ignore_errors=True)
        write_plates(spec, folder / "screen", labels=False)
    sizes = [50] if args.quick else args.donors
    if not (folder / "tiny.safetensors").exists():
        train_model(config_of(folder, sizes[0], 0))
    rows = []
    with connect("local:2") as client:
        for donors in sizes:
            made = []
            for bank in (0, 1):
                config = config_of(folder, donors, bank)
                Run.from_config(config).execute(client, redo=True, until="proportions")
                made.append(proportions(config))
                cells = int(open_results(config.store)["plates/P1/cells"].sizes["cell"])
                used = lent(config.store).set_index(["setting", "localization"])
            for setting, found in compared(*made).items():
                uses = float(used.loc[(setting, ALL), "median_uses"])
                rows.append({"donors": donors, "setting": setting, "median_uses": uses, **found})
                print(json.dumps(rows[-1]))
    result = {
        **conditions(threads=1, seeds=[spec.seed]),
        "versions": versions(),
        "seconds": round(time.perf_counter() - started),
        "cells": cells,
        "rows": rows,
    }
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
