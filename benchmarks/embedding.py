"""Embedding: the engines beside eager torch, a whole unit beside its network, and composition.

    python benchmarks/embedding.py [--quick] [--models pifia,pci] [--part unit] [--device cuda]
        [--json FILE]

*Network.* Crops a second of each model on prepared tensors, all threads: eager torch in float32 as
one would write it (logits and all; TF32 on a GPU as torch has it), and every engine that this
machine can run. In turn, medians. Beside it the limit: what the same engines reach where nothing is
done but to convolve 256 channels into 256 (twelve times, 3 x 3, 16 x 16 pixels), the fastest of
each precision, in arithmetic operations a second. An engine's share is that of what the network
takes of them, up to the last layer that is read.

*Unit.* A simulated screen of crops as camera counts is run up to its donor bank. Then the units of
`embed`, serial: crops read from the store, donors drawn, five settings composed, scaled, embedded,
features written and recorded. Beside it, in turn, the bare network of the same engine on as many
prepared tensors of that size: the share says what all the rest costs. Shards hold 1,024 cells;
those of a large screen, and here on a GPU, hold 4,096. There the store has each cell as often as it
takes for eight units; and of the time also the share in which the GPU computes: that of its
kernels, once more with a profiler.

*Composition.* The five settings of the same cells in memory, by plain numpy in the words of the
protocol (float32, three swaps of which two are scaled, the crop itself, and the masked crop) and by
bgscale, one thread each.

Weights are random: they do not change the time.
"""

import argparse
import copy
import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import conditions
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from bgscale.config import RunConfig
from bgscale.distribute.execute import run_units
from bgscale.distribute.ledger import Ledger
from bgscale.distribute.listener import Silent
from bgscale.distribute.units import Unit, plan_units
from bgscale.models import load_model
from bgscale.models.backends import Runner, prepared, runner
from bgscale.models.embedding import EmbeddingModel
from bgscale.models.engine import Engine, candidates, has_compiler, processor
from bgscale.models.probe import sized
from bgscale.models.spec import ModelSpec
from bgscale.pipeline import work
from bgscale.run import Run, versions
from bgscale.settings import compose_into, scaling
from bgscale.simulate import ScreenSpec, write_crops
from bgscale.stages import cells as stored
from bgscale.stages.embedding import SHARDS_A_GPU_UNIT, create_embeddings
from bgscale.stages.job import Job

PARTS = ("network", "unit", "composition")
MODELS = ("pifia", "pci", "deeploc")
SETTINGS = 5
WIDE = 256
SHARD_CELLS = 1024
GPU_UNITS = 8
"""Of fewer the first and the last, which wait for others, would be what is measured."""
MB = 1e6
FLAGS = (
    (torch.backends.cudnn, "allow_tf32"),
    (torch.backends.cuda.matmul, "allow_tf32"),
    (torch.backends.cudnn, "deterministic"),
    (torch.backends.cudnn, "benchmark"),
)
"""How torch computes on GPUs; bgscale sets them."""
TORCHS_OWN = [getattr(module, name) for module, name in FLAGS]


@contextmanager
def left_alone() -> Iterator[None]:
    """Within the block torch computes on GPUs as it does unless it is told otherwise."""
    told = [getattr(module, name) for module, name in FLAGS]
    try:
        for (module, name), value in zip(FLAGS, TORCHS_OWN, strict=True):
            setattr(module, name, value)
        yield
    finally:
        for (module, name), value in zip(FLAGS, told, strict=True):
            setattr(module, name, value)


def alternating(
    ways: dict[str, Callable[[], float]], repetitions: int
) -> dict[str, dict[str, float]]:
    """Measure in turn; return median, lowest and highest of what each returns."""
    found: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(repetitions):
        for name in list(ways)[:: -1 if number % 2 else 1]:
            found[name].append(ways[name]())
    return {
        name: {
            "median": round(statistics.median(values), 1),
            "lowest": round(min(values), 1),
            "highest": round(max(values), 1),
        }
        for name, values in found.items()
    }


def waited(device: torch.device) -> None:
    """Return when a GPU has done what it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def passes(run: Runner, x: torch.Tensor, count: int) -> float:
    """Return crops a second over so many micro-batches, as many at once as the runner takes."""
    started: list[Callable[[], Any]] = []
    begun = time.perf_counter()
    with torch.inference_mode():
        for _ in range(count):
            if len(started) == run.at_once:
                started.pop(0)()
            started.append(run.start(x))
        for answer in started:
            answer()
    waited(x.device)
    return count * len(x) / (time.perf_counter() - begun)


def prepared_tensors(model: EmbeddingModel) -> torch.Tensor:
    """Return a micro-batch of what the network reads."""
    generator = torch.Generator().manual_seed(0)
    edge = model.spec.network_crop_px
    shape = model.engine.micro_batch, len(model.spec.channels), edge, edge
    return torch.rand(shape, generator=generator).to(model.device)


def engines_of(model: EmbeddingModel, device: str) -> list[Engine]:
    """Return every engine that this machine can run, whether or not it is a default.

    The last one is the one that whole units are timed with.
    """
    if device != "cpu":
        found = [
            candidates(model, backend=backend, precision=precision, device=device)[0]
            for precision in ("float32", "float16", "bfloat16")
            for backend in ["compiled"] * has_compiler(device) + ["torch"]
        ]
        # all as many crops a pass, for which the exact ones need most memory
        exact = next(engine for engine in found if engine.is_reference)
        size = sized(model, exact).micro_batch
        return [replace(engine, micro_batch=size) for engine in found]
    precisions = ["float32"]
    if any("bf16" in unit for unit in processor().split()):
        precisions.append("bfloat16")
    found = [e for p in precisions for e in candidates(model, precision=p)]
    if not has_compiler():
        return found
    compiled = (candidates(model, backend="compiled", precision=p) for p in precisions)
    return [e for several in compiled for e in several] + found


def bare(model: EmbeddingModel, engine: Engine) -> Runner:
    """Return the network of an engine, ready."""
    with torch.no_grad():
        return runner(model.network, model.spec, engine)


class Convolutions(nn.Module):
    """A network that only convolves, as wide as the widest layers of the others."""

    def __init__(self) -> None:
        super().__init__()
        several = (nn.Conv2d(WIDE, WIDE, 3, padding=1) for _ in range(12))
        self.convolutions = nn.Sequential(*several)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return something of the last one, so that nothing is left out."""
        return {"mean": self.convolutions(x.expand(-1, WIDE, -1, -1)).mean((2, 3))}

    @classmethod
    def model(cls) -> EmbeddingModel:
        """Return it with a spec."""
        spec = ModelSpec(
            architecture="convolutions",
            channels=("protein",),
            preprocess=("minmax",),
            masked_preprocess=("minmax", "mask"),
            layers={"mean": WIDE},
            classification_layer="mean",
            profile_layer="mean",
            input_size_px=16,
            network_crop_px=16,
        )
        return EmbeddingModel(spec, cls().eval())


def operations(model: EmbeddingModel) -> float:
    """Return the arithmetic operations of a crop, up to the last layer that is read."""
    edge = model.spec.network_crop_px
    x = torch.zeros(1, model.spec.n_inputs, edge, edge)
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        prepared(model.network)(x)
    return float(counter.get_total_flops())


def limit(device: str, *, count: int, repetitions: int) -> dict[str, Any]:
    """Return operations a second of the fastest convolutions, in billions, by precision."""
    model = Convolutions.model()
    engines = engines_of(model, device)
    x = prepared_tensors(model.on(engines[-1]))
    each = operations(model) / 1e9
    ways = {engine: bare(model.on(engine), engine) for engine in engines}
    for run in ways.values():
        passes(run, x, 2)
    rates = alternating(
        {str(e): lambda run=run: each * passes(run, x, count) for e, run in ways.items()},
        repetitions,
    )
    found: dict[str, Any] = {}
    for engine in engines:
        row = {"engine": str(engine), "billions a second": rates[str(engine)]}
        best = found.setdefault(engine.precision, row)
        if rates[str(engine)]["median"] > best["billions a second"]["median"]:
            found[engine.precision] = row
    return found


def networks(
    model: EmbeddingModel,
    device: str,
    most: dict[str, Any],
    *,
    count: int,
    repetitions: int,
) -> dict[str, Any]:
    """Compare the engines with eager torch, and with the limit."""
    engines = engines_of(model, device)
    x = prepared_tensors(model.on(engines[-1]))
    plain = copy.deepcopy(model.network).to(x.device, memory_format=torch.contiguous_format)

    def eager_torch(x: torch.Tensor) -> dict[str, torch.Tensor]:
        with left_alone():
            read: dict[str, torch.Tensor] = plain(x)
        return read

    ways: dict[str, Runner] = {"eager torch, float32": Runner(eager_torch)}
    ways |= {str(engine): bare(model.on(engine), engine) for engine in engines}
    for run in ways.values():
        passes(run, x, 2)
    rates = alternating(
        {name: lambda run=run: passes(run, x, count) for name, run in ways.items()}, repetitions
    )
    eager = rates["eager torch, float32"]["median"]
    each = operations(model) / 1e9
    can = {str(e): most[e.precision]["billions a second"]["median"] for e in engines}
    can["eager torch, float32"] = most["float32"]["billions a second"]["median"]
    return {
        name: row | {
            "times eager": round(row["median"] / eager, 2),
            "share of the limit": round(each * row["median"] / can[name], 3),
        }
        for name, row in rates.items()
    }  # fmt: skip


def simulate(folder: Path, cells: int) -> Path:
    """Write a crops screen with masks, of 20 fields with so many cells each."""
    spec = ScreenSpec(
        localizations=("cell periphery", "cytoplasm", "nucleus", "vacuolar membrane"),
        proteins_per_localization=2,
        mixed_proteins=2,
        fields_per_protein=2,
        cells_per_field=cells,
        field_size_px=max(256, int(61.8 * cells**0.5)),
    )
    return write_crops(spec, folder / "screen", zipped=True)


def begun(folder: Path, screen: Path, model: str, engine: Engine) -> Run:
    """Return a run that has done all that comes before embedding."""
    section = {"path": "crops.zip", "plate_map": "platemap.csv"}
    how = {"backend": engine.backend, "precision": engine.precision}
    values = {
        "store": str(folder / f"{model}.zarr"),
        "screen": {key: str(screen / value) for key, value in section.items()} | {"mask": "mask"},
        "models": {model: {"architecture": model, **how}},
        "donors": {"per_class": 200, "windows_per_class": 50, "min_pool": 5},
        "shard_cells": SHARD_CELLS if engine.device == "cpu" else 4 * SHARD_CELLS,
    }
    run = Run.from_config(RunConfig.from_dict(values))
    run.execute(until="bank")
    return run


def repeated(run: Run, times: int) -> tuple[Job, list[Unit]]:
    """Let the store have every cell so often, each beside itself; return what embeds them all.

    Nothing is simulated, cut or drawn again: only the units of `embed` may be done after that.
    """
    (name,) = run.config.models
    # a process keeps the cells of a job: this one is another
    job = run.job_of(run.config, [(s.name, f"{s.token}-{times}") for s in run.stages])
    store, node = run.store, "plates/crops"
    parts: Mapping[str, Any] = {"cells": stored._COLUMNS, "crops": ("image", "mask")}
    names = [f"{node}/{part}/{array}" for part, arrays in parts.items() for array in arrays]
    values = {array: store.read(array) for array in names}
    n = times * len(values[f"{node}/cells/id"])
    stored.create_table(job, "crops", n, stored._COLUMNS, job.screen.field_names())
    stored.create_crops(job, "crops", n, job.screen.crop_shape, job.screen.dtype)
    step = stored.shard_cells(job, n)
    for start in range(0, n, step):
        stop = min(start + step, n)
        rows = np.arange(start, stop) // times
        for array, few in values.items():
            store.write(array, [(start, stop)], few[rows])
    create_embeddings(job, name, "crops")
    (stage,) = (stage for stage in run.stages if stage.name.startswith("embed/"))
    return job, plan_units(stage.name, n, stage.write_size(job), stage.token)


def units(run: Run, repetitions: int) -> dict[str, Any]:
    """Compare the units of `embed` with their bare network."""
    (name,) = run.config.models
    run.execute(until="embed")
    stage = next(stage for stage in run.stages if stage.name.startswith("embed/"))
    job = run.job_of(run.config, [(s.name, s.token) for s in run.stages])
    whole = stage.units(job)
    if dict(job.engines)[name].device != "cpu":
        wanted = GPU_UNITS * SHARDS_A_GPU_UNIT * stored.shard_cells(job, 0)
        job, whole = repeated(run, -(-wanted // whole[-1].stop))
    cells = sum(unit.stop - unit.start for unit in whole)
    usable = int((run.store.read("plates/crops/cells/reason") == 0).sum())
    model = load_model(name).on(dict(job.engines)[name])
    x, network = prepared_tensors(model), bare(model, model.engine)
    count = -(-usable * SETTINGS // len(x))

    def store_to_store() -> float:
        run.ledger.forget_units(whole)
        started = time.perf_counter()
        run_units(work, whole, job.text, ledger=Ledger(run.config.store), listener=Silent())
        return usable * SETTINGS / (time.perf_counter() - started)

    passes(network, x, 2)
    store_to_store()
    rates = alternating(
        {"units": store_to_store, "network": lambda: passes(network, x, count)}, repetitions
    )
    written = sum(
        path.stat().st_size
        for path in (Path(run.config.store) / f"plates/crops/embeddings/{name}").rglob("*")
        if path.is_file()
    )
    return {
        "engine": str(model.engine),
        "cells": cells,
        "usable": usable,
        "units": len(whole),
        "crops": usable * SETTINGS,
        "written MB": round(written / MB, 1),
        **({"GPU computes": computing(store_to_store)} if model.device.type == "cuda" else {}),
        "store to store": rates["units"],
        "bare network": rates["network"],
        "share": round(rates["units"]["median"] / rates["network"]["median"], 3),
    }


def computing(do: Callable[[], float]) -> float:
    """Return the share of the time in which a GPU computes: that of its kernels."""
    started = time.perf_counter()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        do()
    wall = time.perf_counter() - started
    kernels = sum(event.self_device_time_total for event in profile.key_averages())
    return round(kernels / 1e6 / wall, 3)


def plainly(
    image: np.ndarray,
    inside: np.ndarray,
    banks: dict[str, np.ndarray],
    picked: dict[str, np.ndarray],
    ranges: np.ndarray,
    bounds: dict[str, np.ndarray],
) -> list[np.ndarray]:
    """Compose the five settings in numpy."""
    centre = image.astype(np.float32)
    made = [centre]
    for name, rows in picked.items():
        background = banks[name][rows].astype(np.float32)
        if name in bounds:
            old, new = (b[..., None, None] for b in (bounds[name][rows], ranges))
            gain = (new[:, :, 1] - new[:, :, 0]) / (old[:, :, 1] - old[:, :, 0])
            background = (background - old[:, :, 0]) * gain + new[:, :, 0]
        made.append(np.where(inside[:, None], centre, background))
    made.append(np.where(inside[:, None], centre, np.float32(0)))
    return made


def composition(cells: int, repetitions: int, block: int = 512) -> dict[str, Any]:
    """Compare both ways of composing, on the same cells."""
    rng = np.random.default_rng(0)
    image = rng.integers(100, 4000, (cells, 2, 64, 64), np.uint16)
    centre = np.hypot(*np.mgrid[-32:32, -32:32]) < 15
    mask = np.where(centre, 1, rng.integers(0, 3, (cells, 64, 64)) // 2 * 2).astype(np.uint8)
    bank = rng.integers(100, 4000, (3000, 2, 64, 64), np.uint16)
    names = ("same", "different", "cell_free")
    banks = dict.fromkeys(names, bank)
    picked = {name: rng.integers(0, len(bank), cells) for name in names}
    low = rng.uniform(90, 110, (len(bank), 2, 1))
    own = np.concatenate([low, low + 3000], -1).astype(np.float32)
    bounds = dict.fromkeys(names[:2], own)
    ranges = own[rng.integers(0, len(bank), cells)]
    out, zero = np.empty((64, 2, 64, 64), np.float32), np.zeros((1, 2, 64, 64), np.uint16)
    channels = np.arange(2)

    def numpy() -> float:
        started = time.perf_counter()
        for start in range(0, cells, block):
            part = slice(start, start + block)
            several = {name: rows[part] for name, rows in picked.items()}
            plainly(image[part], mask[part] == 1, banks, several, ranges[part], bounds)
        return cells / (time.perf_counter() - started)

    def ours(check: list[np.ndarray] | None = None) -> float:
        started = time.perf_counter()
        for start in range(0, cells, len(out)):
            rows = np.arange(start, min(start + len(out), cells))
            made = out[: len(rows)]
            made[:] = image[rows]
            for name in names:
                donors = picked[name][rows]
                scale = scaling(ranges[rows], bounds[name][donors]) if name in bounds else None
                compose_into(made, image, mask, bank, rows, donors, channels, scale)
                if check is not None:
                    check.append(made.copy())
            nothing = np.zeros(len(rows), np.int64)
            compose_into(made, image, mask, zero, rows, nothing, channels)
        return cells / (time.perf_counter() - started)

    few: list[np.ndarray] = []
    ours(few)
    expected = plainly(
        image[:64], mask[:64] == 1, banks, {n: r[:64] for n, r in picked.items()}, ranges[:64],
        bounds,
    )  # fmt: skip
    assert all(np.array_equal(a, b) for a, b in zip(few[:3], expected[1:4], strict=True))
    rates = alternating({"numpy": numpy, "bgscale": ours}, repetitions)
    ratio = rates["bgscale"]["median"] / rates["numpy"]["median"]
    return {"cells": cells, "cells a second": rates, "times numpy": round(ratio, 1)}


def show(report: dict[str, Any]) -> None:
    """Print what was found."""
    for precision, most in report.get("limit", {}).items():
        figure = f"{most['billions a second']['median']:>10,.0f} billion operations a second"
        print(f"limit, {precision:<31}{figure}, {most['engine']}")
    for name, rows in report.get("network", {}).items():
        print(f"\n{name:<38}{'crops/s':>10}{'times eager':>14}{'of the limit':>14}")
        for way, row in rows.items():
            print(f"  {way:<36}{row['median']:>10,.0f}{row['times eager']:>14.2f}", end="")
            print(f"{row['share of the limit']:>14.0%}")
    for name, unit in report.get("unit", {}).items():
        print(f"\n{name}, {unit['engine']}")
        for way in ("bare network", "store to store"):
            print(f"  {way:<36}{unit[way]['median']:>10,.0f} crops/s")
        print(f"  share {unit['share']:.1%}")
        if "GPU computes" in unit:
            print(f"  the GPU computes in {unit['GPU computes']:.1%} of the time")
    if "composition" in report:
        rates = report["composition"]
        print(f"\ncomposition of five settings: {rates['times numpy']} times numpy")
        for way, row in rates["cells a second"].items():
            print(f"  {way:<36}{row['median']:>10,.0f} cells/s")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few crops, once")
    parser.add_argument("--models", default=",".join(MODELS), help="which, with commas")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where they run")
    parser.add_argument("--cells", type=int, default=42, help="cells a field, for whole units")
    parser.add_argument(
        "--part", choices=PARTS, action="append", help="only this; of --json the others stay"
    )
    parser.add_argument("--json", type=Path, help="file to write")
    parser.add_argument("--folder", type=Path, help="where to work, instead of a temporary folder")
    options = parser.parse_args()
    if options.device == "cpu":
        # a run takes a GPU where it sees one
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    repetitions = 1 if options.quick else 3
    parts = options.part or PARTS
    report: dict[str, Any] = {}
    if options.json and options.part and options.json.exists():
        report = json.loads(options.json.read_text(encoding="utf-8"))
    report |= {part: {} for part in parts}
    busy = os.getloadavg()
    folder = Path(tempfile.mkdtemp(prefix="bgscale-embedding-", dir=options.folder))
    try:
        if "composition" in parts:
            report["composition"] = composition(512 if options.quick else 4096, repetitions)
        if "unit" in parts:
            screen = simulate(folder, 14 if options.quick else options.cells)
        count = 2 if options.quick else 8
        if "network" in parts:
            report["limit"] = limit(options.device, count=4 * count, repetitions=repetitions)
        for name in options.models.split(","):
            model = load_model(name)
            if "network" in parts:
                report["network"][name] = networks(
                    model, options.device, report["limit"], count=count, repetitions=repetitions
                )
            if "unit" in parts:
                # the last one is of reduced precision where there are units for it
                run = begun(folder, screen, name, engines_of(model, options.device)[-1])
                report["unit"][name] = units(run, repetitions)
                shutil.rmtree(run.config.store)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    report |= {
        "processor": processor(options.device),
        "load_average": {"start": busy, "end": os.getloadavg()},
        "versions": versions(),
    }
    report |= conditions(threads=torch.get_num_threads(), seeds=[0])
    show(report)
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
