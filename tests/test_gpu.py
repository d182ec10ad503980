"""What holds on a GPU, with the tolerances that are stated; on a processor it holds as well.

``BGSCALE_TEST_GPU=1 pytest tests/test_gpu.py`` runs it on a GPU. All other tests hide GPUs.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from screens import config_of
from test_composing import CPU
from test_engine import ARCHITECTURES, N, model_of, seen_by
from test_interior import of_pair, problem

from bgscale import open_results
from bgscale.evaluate.interior import hyperplanes
from bgscale.models.engine import Engine, candidates
from bgscale.run import Run, engines
from bgscale.settings import SETTINGS
from bgscale.stages import embedding
from bgscale.stages.batches import Batches
from bgscale.stages.embedding import _read_and_swap
from bgscale.stages.job import Job

NO_GPU = "no GPU that torch can use; with one, set BGSCALE_TEST_GPU=1"
GPU = pytest.param(
    "cuda",
    marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason=NO_GPU)],
)
DEVICES = ["cpu", GPU]
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


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_features_are_those_of_the_reference(name: str, device: str, crops: np.ndarray) -> None:
    model = model_of(name)
    masks = np.ones((N, 64, 64), np.uint8)
    expected = model.embed(seen_by(model, crops), masks, "masked")
    precisions = ["float32", "bfloat16", *["float16"] * (device != "cpu")]
    backends = ["torch", *["compiled"] * (device != "cpu")]
    for precision in precisions:
        for backend in backends:
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


@pytest.mark.parametrize("device", DEVICES)
def test_hyperplanes_are_the_same(device: str) -> None:
    features, in_b, train = of_pair(*problem(0.2))
    expected = hyperplanes(features, in_b, train, penalty=1.0)
    where = "torch" if device == "cpu" else device
    found = hyperplanes(features, in_b, train, penalty=1.0, device=where)
    assert found.converged.all()
    np.testing.assert_allclose(found.coef, expected.coef, atol=1e-4 * np.abs(expected.coef).max())
