"""What holds on a GPU, with the tolerances that are stated; on a processor it holds as well.

``BGSCALE_TEST_GPU=1 pytest tests/test_gpu.py`` runs it on a GPU. All other tests hide GPUs.
"""

import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from screens import config_of
from test_composing import CPU
from test_engine import ARCHITECTURES, N, model_of, seen_by
from test_fit import TINY, InterruptedHereError, toy
from test_interior import of_pair, problem

from bgscale import open_results
from bgscale.config import RunConfig
from bgscale.evaluate.interior import hyperplanes
from bgscale.models.embedding import EmbeddingModel
from bgscale.models.engine import Engine, candidates, has_compiler
from bgscale.models.fit import FitConfig, fit
from bgscale.run import Run, engines
from bgscale.settings import SETTINGS
from bgscale.stages import embedding
from bgscale.stages.batches import Batches
from bgscale.stages.embedding import _read_and_swap
from bgscale.stages.job import Job

NO_GPU = "no GPU that torch can use; with one, set BGSCALE_TEST_GPU=1"
ON_GPU = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason=NO_GPU)]
DEVICES = ["cpu", pytest.param("cuda", marks=ON_GPU)]
COMPILED = ("tiny", "pifia")
"""Compiling takes long: the smallest, and one whose norms are folded."""
WAYS = [
    *((name, "torch", "cpu") for name in ARCHITECTURES),
    *(pytest.param(name, "torch", "cuda", marks=ON_GPU) for name in ARCHITECTURES),
    *(pytest.param(name, "compiled", "cuda", marks=ON_GPU) for name in COMPILED),
]
TOLERANCE = {"float32": 1e-4, "bfloat16": 3e-2, "float16": 5e-3}
"""Largest error of features by precision, of a layer's largest feature."""


@pytest.fixture(scope="module")
def crops() -> np.ndarray:
    rng = np.random.default_rng(2)
    smooth = rng.gamma(2.0, 100.0, (N, 2, 16, 16)).repeat(4, 2).repeat(4, 3)
    return (smooth + rng.normal(300, 10, (N, 2, 64, 64))).astype(np.uint16)


def assert_near(found: Any, expected: Any, tolerance: float) -> None:
    found, expected = np.asarray(found), np.asarray(expected)
    np.testing.assert_array_equal(np.isnan(found), np.isnan(expected))
    largest = np.nanmax(np.abs(expected))
    assert largest > 0
    assert np.nanmax(np.abs(found - expected)) <= tolerance * largest


@pytest.mark.filterwarnings("ignore:.*jit.script_method.*:DeprecationWarning")  # torch's own
@pytest.mark.filterwarnings("ignore:TensorFloat32 tensor cores:UserWarning")  # kept off on purpose
@pytest.mark.parametrize(("name", "backend", "device"), WAYS)
def test_features_are_those_of_the_reference(
    name: str, backend: str, device: str, crops: np.ndarray
) -> None:
    if backend == "compiled" and not has_compiler(device):
        pytest.skip("torch.compile: no C compiler")
    model = model_of(name)
    masks = np.ones((N, 64, 64), np.uint8)
    expected = model.embed(seen_by(model, crops), masks, "masked")
    for precision in ["float32", "bfloat16", *["float16"] * (device != "cpu")]:
        (engine,) = candidates(model, backend=backend, precision=precision, device=device)
        found = model.on(engine).embed(seen_by(model, crops), masks, "masked")
        for layer, values in found.items():
            assert_near(values, expected[layer], TOLERANCE[precision])


@pytest.mark.parametrize("device", DEVICES)
def test_crops_are_composed_to_the_bit(small_screen: Path, finished: Path, device: str) -> None:
    job = Job(config_of(small_screen, finished.parent, settings=list(SETTINGS)))
    model = model_of("tiny").on(Engine(device=device, micro_batch=48))
    channels = job.role_indices(model.spec.channels, who="")
    several = [setting for setting in SETTINGS.values() if setting.mode == "unmasked"]
    block, wanted = _read_and_swap(job, model, "crops", several, slice(0, 40))
    batches = Batches(job, model, block, wanted, channels)
    for start in range(0, len(batches), 48):
        each, runs = batches._runs(slice(start, min(start + 48, len(batches))))
        there, _ = batches._on_device(each, runs)
        assert there.device.type == device
        here, _ = batches._on_host(each, runs)
        np.testing.assert_array_equal(there.to(CPU).numpy(), here.to(CPU).numpy())


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("shards", "later"), [(1, 0), (8, 1)])
def test_a_run_has_the_same_donors_and_near_features_whatever_its_units(
    small_screen: Path,
    finished: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    device: str,
    shards: int,
    later: int,
) -> None:
    monkeypatch.setattr(engines, "best_device", lambda: device)
    monkeypatch.setattr(embedding, "shards_a_unit", lambda model: shards)
    monkeypatch.setattr(embedding, "blocks_begun_ahead", lambda model: later)
    models = {"tiny": {"seed": 1, "precision": "float32", "backend": "torch"}}
    run = Run.from_config(config_of(small_screen, tmp_path, models=models))
    run.execute(until="embed")
    node = "plates/crops/embeddings/tiny"
    tree, reference = open_results(tmp_path / "results.zarr")[node], open_results(finished)[node]
    assert tree.attrs["engine"]["device"] == device
    for name in ("donor", "donor_class", "missing", "uncovered"):
        np.testing.assert_array_equal(tree[name], reference[name], err_msg=name)
    name = "profile/embedding"
    assert_near(tree[name], reference[name], TOLERANCE["float32"])


EMBED = """
import json, sys
from bgscale.config import RunConfig
from bgscale.run import Run
Run.from_config(RunConfig.from_dict(json.loads(sys.argv[1]))).execute(until="embed")
"""


@pytest.mark.parametrize("device", DEVICES)
def test_features_are_the_same_bytes_whatever_the_units_and_in_another_process(
    small_screen: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str
) -> None:
    how = {"seed": 1, "precision": "float32", "backend": "torch", "micro_batch": 48}
    models = {"tiny": {**how, "device": device}}

    def config(name: str, **changes: Any) -> RunConfig:
        (tmp_path / name).mkdir()
        return config_of(small_screen, tmp_path / name, models=models, **changes)

    configs = {
        "reference": config("reference"),
        "small": config("small"),
        "large": config("large", shard_cells=128),
        "process": config("process"),
    }
    Run.from_config(configs["reference"]).execute(until="embed")
    command = [sys.executable, "-c", EMBED, json.dumps(configs["process"].to_config())]
    subprocess.run(command, check=True)
    monkeypatch.setattr(embedding, "shards_a_unit", lambda model: 3)
    Run.from_config(configs["large"]).execute(until="embed")
    monkeypatch.setattr(embedding, "shards_a_unit", lambda model: 1)
    Run.from_config(configs["small"]).execute(until="embed")
    found = {}
    for name, other in configs.items():
        node = open_results(other.store)["plates/crops/embeddings/tiny"]
        assert node.attrs["engine"]["device"] == device
        found[name] = node["profile/embedding"].to_numpy()
    assert np.isfinite(found["reference"]).any()
    for name, values in found.items():
        np.testing.assert_array_equal(values, found["reference"], err_msg=name)


@pytest.mark.parametrize("device", DEVICES)
def test_a_fit_learns_on_its_device_and_goes_on_from_its_checkpoint(
    tmp_path: Path, device: str
) -> None:
    images, target, field = toy()
    config = FitConfig(epochs=6, batch_size=16, threads=1, device=device)

    def interrupt(epoch: int, *_: object) -> None:
        if epoch == 2:
            raise InterruptedHereError

    how: dict[str, Any] = {"spec": TINY, "n_outputs": 2, "config": config}
    how["checkpoint"] = tmp_path / "checkpoint"
    with pytest.raises(InterruptedHereError):
        fit(images, target, field, **how, on_epoch=interrupt)
    seen: list[int] = []
    result = fit(images, target, field, **how, on_epoch=lambda epoch, *_: seen.append(epoch))
    assert seen == [3, 4, 5]
    accuracy = result.history[result.best_epoch].validation_accuracy
    assert accuracy is not None
    assert accuracy > 0.95
    assert {w.device.type for w in result.network.parameters()} == {device}
    there = EmbeddingModel(result.spec, result.network, device).embed(images)["profile"]
    here = EmbeddingModel(result.spec, copy.deepcopy(result.network), "cpu").embed(images)
    assert_near(there, here["profile"], TOLERANCE["float32"])


@pytest.mark.parametrize("device", DEVICES)
def test_hyperplanes_are_the_same(device: str) -> None:
    features, in_b, train = of_pair(*problem(0.2))
    expected = hyperplanes(features, in_b, train, penalty=1.0)
    where = "torch" if device == "cpu" else device
    found = hyperplanes(features, in_b, train, penalty=1.0, device=where)
    assert found.converged.all()
    np.testing.assert_allclose(found.coef, expected.coef, atol=1e-4 * np.abs(expected.coef).max())
