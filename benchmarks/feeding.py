"""What a GPU can be fed: whole units of `embed` on a device that takes no time.

    python benchmarks/feeding.py [--quick] [--models pifia,pci] [--json FILE]

A GPU is so quick that the host may be what limits it, and that can be measured without one. Torch's
device "meta" has shapes and no values: crops are read, donors drawn, blocks sent, kernels launched
and features written as on a GPU, and nothing is computed. What comes back is noise, which is
written in full.

By model: crops a second from store to store (zarr takes all cores, torch one thread), processor
time by crop, and what parts of it take alone: reading and drawing, writing, and launching the
network, which "meta" does in Python and a GPU does not.
Micro-batches of 2,048, shards of 4,096 cells, as on a large screen; five settings; weights are
random.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import conditions, spread

from bgscale.config import RunConfig
from bgscale.distribute.units import plan_units
from bgscale.models.engine import Engine, processor
from bgscale.run import Run, versions
from bgscale.simulate import ScreenSpec, write_crops
from bgscale.stages import embedding
from bgscale.stages.job import Job, remember

MODELS = ("pifia", "pci", "deeploc")
MICRO_BATCH = 2048
SHARD_CELLS = 4096
PLATE = "crops"
NOISE = 2**22
PARTS = ("read and drawn", "written", "launched")


def begun(folder: Path, *, quick: bool) -> Run:
    """Simulate a screen of crops and return a run that has done all that comes before embedding."""
    spec = ScreenSpec(
        localizations=("cell periphery", "cytoplasm", "nucleus", "vacuolar membrane"),
        proteins_per_localization=2,
        mixed_proteins=2,
        fields_per_protein=2 if quick else 6,
        cells_per_field=14 if quick else 150,
        field_size_px=256 if quick else 800,
    )
    screen = write_crops(spec, folder / "screen", zipped=True)
    section = {"path": "crops.zip", "plate_map": "platemap.csv"}
    values = {
        "store": str(folder / "results.zarr"),
        "screen": {key: str(screen / value) for key, value in section.items()} | {"mask": "mask"},
        "models": {name: {"architecture": name} for name in MODELS},
        "donors": {"per_class": 200, "windows_per_class": 50, "min_pool": 5},
        "shard_cells": SHARD_CELLS,
    }
    run = Run.from_config(RunConfig.from_dict(values))
    run.execute(until="bank")
    return run


@contextmanager
def noise_comes_back() -> Iterator[None]:
    """Let features that are asked of "meta" be noise, which is as hard to write."""
    noise = torch.randn(NOISE, generator=torch.Generator().manual_seed(0))
    plain = torch.Tensor.cpu

    def cpu(tensor: torch.Tensor, *how: Any, **more: Any) -> torch.Tensor:
        if tensor.device.type != "meta":
            return plain(tensor, *how, **more)
        n = tensor.numel()
        return noise.repeat(-(-n // NOISE))[:n].view(tensor.shape)

    torch.Tensor.cpu = cpu  # type: ignore[method-assign]
    try:
        yield
    finally:
        torch.Tensor.cpu = plain  # type: ignore[method-assign]


def clocked(do: Callable[[], object], crops: int, repetitions: int) -> dict[str, Any]:
    """Return crops a second, and microseconds of processor a crop."""
    do()
    rates, busy = [], []
    for _ in range(repetitions):
        started, spent = time.perf_counter(), time.process_time()
        do()
        rates.append(crops / (time.perf_counter() - started))
        busy.append(1e6 * (time.process_time() - spent) / crops)
    return {"crops_s": spread(rates, 0), "us_a_crop": round(statistics.median(busy), 2)}


def fed(run: Run, name: str, repetitions: int) -> dict[str, Any]:
    """Return how fast one process feeds a model, and its parts."""
    engine = Engine(
        precision="bfloat16", device="meta", micro_batch=MICRO_BATCH, processor=processor()
    )
    job = remember(Job(run.config, engines=((name, engine),)))
    model, node = embedding.model_of(job.text, name), f"plates/{PLATE}/embeddings/{name}"
    cells = len(job.cells(PLATE).cells)
    crops = cells * len(job.settings)
    embedding.create_embeddings(job, name, PLATE)
    stage, size = f"embed/{name}/{PLATE}", embedding.cells_a_unit(job, name, PLATE)
    units = plan_units(stage, cells, size, "feeding")
    step = embedding.cells_at_once(model)
    blocks = [slice(start, min(start + step, cells)) for start in range(0, cells, step)]
    shards = [slice(s, min(s + SHARD_CELLS, cells)) for s in range(0, cells, SHARD_CELLS)]
    rng = np.random.default_rng(0)
    made = [embedding._empty(job, model, rows) for rows in shards]
    for arrays in made:
        for layer in model.spec.layers:
            features = arrays[f"{layer}/embedding"]
            features[:] = rng.standard_normal(features.shape, np.float32)

    def read() -> None:
        for rows in blocks:
            embedding._read_and_swap(job, model, PLATE, job.settings, rows)

    def write() -> None:
        for rows, arrays in zip(shards, made, strict=True):
            embedding._write(job, node, rows, arrays)

    def launch() -> None:
        edge = model.spec.input_size_px
        x = torch.empty((MICRO_BATCH, len(model.spec.channels), edge, edge), device="meta")
        for _ in range(-(-crops // MICRO_BATCH)):
            model.forward(x, None, "unmasked")

    def whole() -> None:
        for unit in units:
            embedding.embed(job, unit)

    return {
        "cells": cells,
        "features": sum(model.spec.layers.values()),
        "store to store": clocked(whole, crops, repetitions),
        "read and drawn": clocked(read, crops, repetitions),
        "written": clocked(write, crops, repetitions),
        "launched": clocked(launch, crops, repetitions),
    }


def show(models: dict[str, Any]) -> None:
    """Print what was found."""
    heads = "".join(f"{part:>16}" for part in PARTS)
    print(f"{'':<10}{'features':>9}{'crops/s':>10}{'us a crop':>11}; of it{heads}")
    for name, of in models.items():
        parts = "".join(f"{of[part]['us_a_crop']:>16.1f}" for part in PARTS)
        whole = of["store to store"]
        print(
            f"{name:<10}{of['features']:>9}{whole['crops_s']['median']:>10,.0f}"
            f"{whole['us_a_crop']:>11.1f}       {parts}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few crops, once")
    parser.add_argument("--models", default=",".join(MODELS), help="which, with commas")
    parser.add_argument("--json", type=Path, help="file to write")
    options = parser.parse_args()
    # what the host does beside zarr's own threads is one thread's work
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="bgscale-feeding-") as folder, noise_comes_back():
        run = begun(Path(folder), quick=options.quick)
        repetitions = 1 if options.quick else 5
        models = {name: fed(run, name, repetitions) for name in options.models.split(",")}
    show(models)
    if options.json:
        report = {"micro_batch": MICRO_BATCH, "models": models, "versions": versions()}
        report |= conditions(threads=1, seeds=[0])
        options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
