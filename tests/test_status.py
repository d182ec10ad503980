"""How far a run is can be asked from outside, also while it works."""

import json
import time
from pathlib import Path

import pytest
from click.testing import CliRunner
from screens import config_of, plates_config, write_plate_screen

from bgscale.cli import main
from bgscale.distribute.lock import held
from bgscale.distribute.units import Unit
from bgscale.progress import Narrator
from bgscale.run import Run, status


def test_a_run_that_works_says_who_and_how_fast(small_screen: Path, tmp_path: Path) -> None:
    config = config_of(small_screen, tmp_path)
    run = Run.from_config(config)
    with Narrator.of_store(config.store) as narrator:
        run.execute(until="cut", listener=narrator)
    assert status(config.store)["driver"] is None
    assert status(config.store)["running"] is None
    assert "no run works on it now" in CliRunner().invoke(main, ["status", config.store]).output
    stage = next(s for s in run.stages if s.name == "cut/crops")
    done = stage.units(run._job)
    run.ledger.forget_units(done[1:])
    with held(config.store), Narrator.of_store(config.store) as narrator:
        narrator.stage_started("cut/crops", "cells", len(done), 0)
        narrator.unit_failed(Unit("cut/crops", 64, 128, "t"), "OSError: gone")
        narrator.unit_failed(Unit("cut/crops", 128, 192, "t"), "OSError: gone too")
        found = json.loads(CliRunner().invoke(main, ["status", config.store, "--json"]).output)
        said = CliRunner().invoke(main, ["status", config.store]).output
    assert found["running"]["stage"] == "cut/crops"
    assert found["running"]["units_a_minute"] > 0
    assert found["running"]["seconds_left"] is not None
    assert found["stages"]["cut/crops"]["done"] == 1
    assert [failure["unit"] for failure in found["failures"]] == [
        "cut/crops/000000064-000000128", "cut/crops/000000128-000000192",
    ]  # fmt: skip
    assert "run by process" in said
    assert "units a minute" in said
    assert "OSError: gone too" in said


def test_of_a_stage_that_plates_share_all_units_count(tmp_path: Path) -> None:
    config = plates_config(write_plate_screen(tmp_path / "screen"), tmp_path)
    run = Run.from_config(config)
    run.execute(until="cut")
    stages = [stage for stage in run.stages if stage.name.startswith("cut/")]
    units = [unit for stage in stages for unit in stage.units(run._job)]
    assert {unit.stage for unit in units} == {"cut/P1", "cut/P2"}
    run.ledger.forget_units(units[-2:])
    with held(config.store), Narrator.of_store(config.store) as narrator:
        narrator.stage_started("cut", "cells: cut", len(units), 0)
        time.sleep(0.2)
        found = status(config.store)["running"]
    assert found["stage"] == "cut"
    done = len(units) - 2
    assert done > 0
    rate = found["units_a_minute"] / 60
    assert rate <= done / 0.2
    assert found["seconds_left"] == pytest.approx(2 / rate, abs=0.6)


def test_the_log_of_a_store_in_a_bucket_lies_here(tmp_path: Path) -> None:
    from bgscale.progress import log_file

    assert log_file("s3://bucket/a/results.zarr") == Path("results.zarr.progress/log.jsonl")
    assert log_file(tmp_path / "r.zarr") == tmp_path / "r.zarr.progress" / "log.jsonl"


def test_only_the_first_failure_of_a_kind_is_said_and_all_are_logged(
    tmp_path: Path, capsys: object
) -> None:
    import io

    stream = io.StringIO()
    with Narrator(tmp_path, stream) as narrator:
        for start in (0, 64, 128):
            narrator.unit_failed(Unit("embed/tiny/P1", start, start + 64, "t"), "KilledWorker: x")
        narrator.unit_failed(Unit("cut/P1", 0, 64, "t"), "OSError: y")
    assert stream.getvalue().count("cannot be done") == 2
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["event"] for line in lines] == ["run_started"] + ["unit_failed"] * 4
