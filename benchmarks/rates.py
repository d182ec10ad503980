"""What each stage costs: the rates that `bgscale plan` takes where nobody has measured better.

    OMP_NUM_THREADS=1 python benchmarks/rates.py FOLDER [--json bgscale/run/rates.json]

A simulated screen of 231 proteins in 693 fields is run from fields to shifts with `tiny`, in this
process, on one thread; what its units took is what `bgscale rates` reads out of any finished store.
Taken is the processor's time, so that other work on the machine does not count. The other networks
are measured by `benchmarks/embedding.py` (crops a second, from store to store), what a unit costs
the scheduler by `benchmarks/cluster.py`: both are read from their JSON beside this file. Run again,
it does what is missing.
"""

import argparse
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from bgscale.config import RunConfig, template
from bgscale.demo import demo_screen, simulate
from bgscale.models import load_model
from bgscale.progress import Narrator
from bgscale.run import Run
from bgscale.run.rates import multiply_adds, of_store
from bgscale.simulate.spec import SAME_STRAIN

HERE = Path(__file__).parent
PROTEINS_A_LOCALIZATION, MIXED, FIELDS, CELLS, CROPS = 14, 21, 3, 14, 400


def store(folder: Path) -> Path:
    """Simulate the screen and run it, as far as that is not done yet; return the store."""
    spec = replace(
        demo_screen(0, SAME_STRAIN),
        plates=1,
        proteins_per_localization=PROTEINS_A_LOCALIZATION,
        mixed_proteins=MIXED,
        fields_per_protein=FIELDS,
        cells_per_field=CELLS,
        field_size_px=256,
    )
    folder.mkdir(parents=True, exist_ok=True)
    config = RunConfig.from_dict(
        {
            "screen": {
                "path": "screen/plates", "plate_map": "screen/platemap.csv", "nucleus": "nuc"
            },
            "shard_cells": 1024,
            "classification": {"crops_per_class": CROPS},
        },
        origin="benchmark",
    )  # fmt: skip
    (folder / "run.toml").write_text(template(config), encoding="utf-8")
    config = RunConfig.from_toml(folder / "run.toml")
    with Narrator.of_store(config.store) as narrator:
        if not (folder / "screen" / "platemap.csv").exists():
            simulate(spec, folder / "screen", narrator)
        Run.from_config(config).execute(listener=narrator)
    return Path(config.store)


def networks() -> list[dict[str, Any]]:
    """Return what `embedding.py` has measured, as core-seconds a crop from store to store.

    Its units are of one engine of each model; the other engines are taken to lose the same share
    of their network's rate to the rest of the work.
    """
    report = json.loads((HERE / "embedding.json").read_text(encoding="utf-8"))
    found = []
    for name, engines in report["network"].items():
        unit, count = report["unit"][name], multiply_adds(load_model(name))
        for engine, rate in engines.items():
            if engine.startswith("eager"):
                continue
            whole = engine == unit["engine"]
            crops = unit["store to store"]["median"] if whole else rate["median"] * unit["share"]
            found.append(
                {
                    "architecture": name,
                    "engine": engine,
                    "device": "cpu",
                    "multiply_adds": count,
                    "seconds": report["threads"] / crops,
                    "source": "benchmarks/embedding.json",
                }
            )
    return found


def cluster() -> dict[str, Any]:
    """Return what `cluster.py` has measured."""
    report = json.loads((HERE / "cluster.json").read_text(encoding="utf-8"))
    return {
        "unit_seconds": report["load"]["ms_per_unit"] / 1000,
        "ratio": report["overhead"]["ratio"],
        "processes": report["overhead"]["processes"],
        "source": "benchmarks/cluster.json",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if os.environ.get("OMP_NUM_THREADS") != "1":
        parser.error("expected OMP_NUM_THREADS=1 in the environment: rates are of one core")
    torch.set_num_threads(1)
    own = of_store(str(store(options.folder)), clock="cpu")
    values = own.model_dump(mode="json")
    for rate in [*values["stages"], *values["networks"]]:
        count = rate["source"].rpartition(", ")[2]
        rate["source"] = f"benchmarks/rates.py, {count}"
    values["networks"] += networks()
    values |= {"made_by": "benchmarks/rates.py, processor time of one thread", "cluster": cluster()}
    for rate in [*values["stages"], *values["networks"]]:
        rate["seconds"] = float(f"{rate['seconds']:.4g}")
        print(f"{rate.get('stage') or rate['architecture']:<14}{rate['seconds']:>12g}  {rate}")
    if options.json:
        options.json.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
