"""The benchmark of embedding fills a GPU with cells that it has, and leaves torch alone."""

from pathlib import Path

import numpy as np
import pytest
import torch
from screens import config_of

from bgscale.distribute.execute import run_units
from bgscale.distribute.ledger import Ledger
from bgscale.distribute.listener import Silent
from bgscale.models.engine import Engine
from bgscale.pipeline import work
from bgscale.run import Run

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(autouse=True)
def _benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)


def test_cells_that_are_repeated_are_embedded_as_often(small_screen: Path, tmp_path: Path) -> None:
    from embedding import repeated

    run = Run.from_config(config_of(small_screen, tmp_path))
    run.execute(until="embed")
    arrays = ("profile/embedding", "donor", "missing")
    before = {a: run.store.read(f"plates/crops/embeddings/tiny/{a}") for a in arrays}
    n = len(before["donor"])
    job, units = repeated(run, 3)
    assert units[-1].stop == 3 * n
    run.ledger.forget_units(units)
    run_units(work, units, job.text, ledger=Ledger(run.config.store), listener=Silent())
    for array, values in before.items():
        found = run.store.read(f"plates/crops/embeddings/tiny/{array}")
        np.testing.assert_array_equal(found, values.repeat(3, axis=0))


def test_eager_torch_is_measured_as_torch_has_it() -> None:
    from embedding import FLAGS, TORCHS_OWN, left_alone

    before = [getattr(module, name) for module, name in FLAGS]
    told = [not value for value in TORCHS_OWN]
    try:
        for (module, name), value in zip(FLAGS, told, strict=True):
            setattr(module, name, value)
        with left_alone():
            assert [getattr(module, name) for module, name in FLAGS] == TORCHS_OWN
        assert [getattr(module, name) for module, name in FLAGS] == told
    finally:
        for (module, name), value in zip(FLAGS, before, strict=True):
            setattr(module, name, value)


def test_engines_are_compared_where_their_networks_are() -> None:
    from embedding import Convolutions, bare, prepared_tensors

    # torch's device of tensors without values stands for a GPU
    engine = Engine(device="meta", micro_batch=4)
    model = Convolutions.model().on(engine)
    read = bare(model, engine).start(prepared_tensors(model))()
    found = [*model.network.parameters(), *read.values()]
    assert {values.device for values in found} == {torch.device("meta")}
