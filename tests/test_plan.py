"""What a run will need is said before it, and what cannot go well is refused."""

import collections
import shutil
from pathlib import Path

import pytest
from screens import config_of, plates_config, write_plate_screen

from bgscale.cli.root import EXIT_BAD_INPUT, EXIT_DISK
from bgscale.errors import DiskFullError, InputError
from bgscale.models import load_model
from bgscale.models.engine import Engine
from bgscale.run import Run
from bgscale.run.estimate import CUDA_BYTES, PROCESS_BYTES, needs
from bgscale.run.plan import check_memory, left_to_write
from bgscale.stages.job import Job


def written(store: Path, run: Run) -> dict[str, tuple[int, int]]:
    """Return bytes and files of each stage, as its done-records have them."""
    found = {}
    for stage in run.stages:
        files: dict[str, int] = {}
        for unit in stage.units(run._job):
            record = run.ledger.record(unit)
            assert record is not None
            files |= {name: entry["bytes"] for name, entry in record["files"].items()}
        found[stage.name] = sum(files.values()), len(files)
    return found


@pytest.mark.parametrize("kind", ["crops", "plates"])
def test_what_a_run_writes_is_known_before_it(
    kind: str, small_screen: Path, tmp_path: Path
) -> None:
    if kind == "crops":
        run = Run.from_config(config_of(small_screen, tmp_path))
    else:
        screen = write_plate_screen(tmp_path / "screen")
        run = Run.from_config(plates_config(screen, tmp_path, cells={"write_labels": True}))
    before = {item.stage: item.need for item in run.plan()}
    assert left_to_write(run.plan()) > 0
    run.execute()
    real = written(tmp_path / "results.zarr", run)
    for stage, (size, files) in real.items():
        # arrays of a few hundred bytes are mostly their own overhead
        if size > 100_000:
            assert size < 1.2 * before[stage].disk_bytes, stage
            assert before[stage].disk_bytes < 6 * size, stage
        assert files <= 1.5 * before[stage].files + 2, stage
    total = sum(size for size, _ in real.values())
    assert total < sum(need.disk_bytes for need in before.values()) < 3 * total
    assert left_to_write(run.plan()) == 0
    assert all(item.left == 0 for item in run.plan())


def test_of_a_run_on_a_gpu_the_host_holds_no_micro_batch(
    small_screen: Path, tmp_path: Path
) -> None:
    models = {"pifia": {"architecture": "pifia"}}
    run = Run.from_config(config_of(small_screen, tmp_path, models=models))
    weights = 4 * sum(w.numel() for w in load_model("pifia").network.parameters())

    def memory(engine: Engine, kind: str) -> int:
        job = Job(run.config, engines=(("pifia", engine),))
        (stage,) = (s for s in run.stages if s.name.startswith(f"{kind}/"))
        return needs(job, [stage])[stage.name].unit_bytes

    few, many = (Engine(device="cuda", micro_batch=n) for n in (256, 2048))
    # 4,096 crops of two channels of 64 x 64 pixels, a few times over: what was taken for the
    # memory of 2,048 crops in the network lies on the GPU
    block = 4096 * 64 * 64 * (2 * 2 + 1)
    least = CUDA_BYTES + weights + 2 * block
    assert least < memory(many, "embed") < least + 10 * block
    assert memory(Engine(micro_batch=2048), "embed") > 4 * memory(many, "embed")
    assert memory(few, "embed") < memory(many, "embed")
    # the classes' crops are few
    assert CUDA_BYTES + weights < memory(many, "grid") < CUDA_BYTES + 10 * weights
    # what a profile gives a worker unless asked
    assert PROCESS_BYTES + memory(many, "embed") < 4 * 2**30


def test_a_disk_without_room_is_found_before_the_start(
    small_screen: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = collections.namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 10**9, 10**6))
    run = Run.from_config(config_of(small_screen, tmp_path))
    with pytest.raises(DiskFullError, match="1 MB are free") as caught:
        run.execute()
    assert caught.value.exit_code == EXIT_DISK
    assert not (tmp_path / "results.zarr").exists()


def test_a_unit_that_no_worker_can_hold_is_refused(small_screen: Path, tmp_path: Path) -> None:
    plan = Run.from_config(config_of(small_screen, tmp_path)).plan()
    check_memory(plan, None)
    check_memory(plan, 8e9)
    with pytest.raises(InputError, match=r"a unit of .* needs about .*; |shard_cells") as caught:
        check_memory(plan, 4e8)
    assert caught.value.exit_code == EXIT_BAD_INPUT


def test_cells_that_are_not_found_yet_are_assumed_and_said(tmp_path: Path) -> None:
    run = Run.from_config(plates_config(write_plate_screen(tmp_path / "screen"), tmp_path))
    assert "assuming 250 a megapixel" in run.describe_plan()
    run.execute(until="cut")
    assert "assuming" not in run.describe_plan()
