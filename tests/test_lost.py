"""A unit that cannot be done costs what it would have made, and is made good later."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from screens import config_of, plates_config, write_plate_screen
from test_run import Counter

from bgscale import open_results
from bgscale.cli import main
from bgscale.config import RunConfig, template
from bgscale.distribute.lock import held
from bgscale.errors import InputError, UnitError
from bgscale.pipeline import stage as stage_module
from bgscale.run import Run
from bgscale.schema import Missing, Reason


@pytest.fixture(scope="module")
def plates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_plate_screen(tmp_path_factory.mktemp("lost") / "screen")


def cursed(monkeypatch: pytest.MonkeyPatch, stage: str, start: int) -> None:
    """Let the unit of a stage raise."""
    work = stage_module._WORK[stage.partition("/")[0]]

    def fail(job: Any, unit: Any) -> Any:
        if unit.stage == stage and unit.start == start:
            msg = "no memory left on this worker"
            raise MemoryError(msg)
        return work(job, unit)

    monkeypatch.setitem(stage_module._WORK, stage.partition("/")[0], fail)


@pytest.mark.parametrize("stage", ["segment/P1", "measure/P1", "cut/P1"])
def test_a_lost_unit_of_fields_or_cells_is_marked_and_made_good(
    plates: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    config = plates_config(plates, tmp_path)
    with monkeypatch.context() as patch:
        cursed(patch, stage, 0)
        outcome = Run.from_config(config).execute(until="bank")
    assert not outcome.is_complete
    counts = outcome.unusable if stage == "cut/P1" else outcome.failed_fields
    assert list(counts) == [Reason.LOST.text]
    cells = open_results(config.store)["plates/P1/cells"].to_dataset().load()
    lost = cells["reason"] == Reason.LOST
    assert bool(lost.any()) == (stage == "cut/P1")
    donors = open_results(config.store)["donors"]["id"].to_numpy()
    assert not np.isin(cells["id"].to_numpy()[lost], donors).any()
    # left alone until it is asked for
    assert not Run.from_config(config).execute(until="bank").is_complete
    assert Run.from_config(config).execute(until="bank", retry_failed=True).is_complete
    assert (open_results(config.store)["donors"]["id"].to_numpy() == donors).all()


def test_a_lost_shard_of_crops_or_features_is_marked_and_made_good(
    small_screen: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(small_screen, tmp_path)
    with monkeypatch.context() as patch:
        cursed(patch, "embed/tiny/crops", 64)
        outcome = Run.from_config(config).execute()
    assert outcome.unusable == {Reason.LOST.text: 64}
    tree = open_results(config.store)
    missing = tree["plates/crops/embeddings/tiny"]["missing"].to_numpy()
    assert (missing[64:128] == Missing.LOST).all()
    assert not (missing == Missing.LOST).any(1)[128:].any()
    counter = Counter()
    assert Run.from_config(config).execute(retry_failed=True, listener=counter).is_complete
    # one shard, and what is gathered from all
    assert counter.done["embed"] == 1
    assert {"classifiers", "proportions", "shifts"} <= set(counter.done)
    assert "grid" not in counter.done
    assert_same_arrays(finished, Path(config.store))


def assert_same_arrays(expected: Path, store: Path) -> None:
    """Compare all shards: what the root says of retries may differ."""
    for folder in (expected, store):
        assert folder.is_dir()
    names = [p.relative_to(expected) for p in expected.rglob("*") if "c" in p.parts and p.is_file()]
    assert len(names) > 50
    for name in names:
        assert (expected / name).read_bytes() == (store / name).read_bytes(), name


def test_a_lost_shard_of_a_crops_screen(
    small_screen: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(small_screen, tmp_path)
    with monkeypatch.context() as patch:
        cursed(patch, "cut/crops", 64)
        assert Run.from_config(config).execute(until="cut").unusable == {Reason.LOST.text: 64}
    assert Run.from_config(config).execute(until="cut", retry_failed=True).is_complete


def test_what_all_results_hang_on_cannot_be_lost(
    small_screen: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(small_screen, tmp_path)
    cursed(monkeypatch, "bank", 1)
    with pytest.raises(UnitError, match="no memory left"):
        Run.from_config(config).execute()


def test_a_second_run_of_a_store_is_refused(small_screen: Path, tmp_path: Path) -> None:
    config = config_of(small_screen, tmp_path)
    run = Run.from_config(config)
    with held(config.store), pytest.raises(InputError, match=f"process {os.getpid()}"):
        run.execute(until="cut")
    run.execute(until="cut")


@pytest.fixture
def read_only(finished: Path, small_screen: Path) -> Iterator[RunConfig]:
    """Take the write permission from everything below a finished run."""
    folders = [finished.parent, *(p for p in finished.parent.rglob("*") if p.is_dir())]
    modes = {folder: stat.S_IMODE(folder.stat().st_mode) for folder in folders}
    for folder in folders:
        folder.chmod(0o555)
    yield config_of(small_screen, finished.parent)
    for folder, mode in modes.items():
        folder.chmod(mode)


def test_a_finished_store_may_be_read_only(
    read_only: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # root may write anywhere: that nothing is written is seen by what is called
    def refuse(*args: Any, **how: Any) -> Any:
        msg = "wrote to a finished store"
        raise AssertionError(msg)

    monkeypatch.setattr("bgscale.results.Store.update_attrs", refuse)
    monkeypatch.setattr("bgscale.run.run.held", refuse)
    run_toml = tmp_path / "run.toml"
    run_toml.write_text(template(read_only), encoding="utf-8")
    result = CliRunner().invoke(main, ["run", str(run_toml)])
    assert result.exit_code == 0, result.output
