"""What the soak would tell of a process that gathers memory, a rate that sinks, other bytes."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
RUNS = 40

OPENS = """
import slow_disk, sys
from pathlib import Path
waited = []
slow_disk.time.sleep = waited.append
slow_disk.slow_down()
slow, fast = map(Path, sys.argv[1:])
(fast / "a").write_text("1")
assert not waited
(slow / "a").write_text("1")
(slow / "a").rename(slow / "b")
(slow / "b").read_text()
list(slow.iterdir())
(slow / "b").unlink()
print(len(waited))
"""


@pytest.fixture(autouse=True)
def _path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)


def runs(*, mb: float = 0.0, seconds: float = 0.0) -> list[dict[str, Any]]:
    """Return runs of which each takes so much more memory and time than the one before."""
    held = {"pid": 1, "files": 5, "sockets": 2, "threads": 3}
    roles = ("driver", "scheduler", "nanny", "worker")
    return [
        {
            "kind": "plain", "screen": "crops", "s": 10 + seconds * n + 0.1 * (n % 3),
            "cpu_s": 8 + 0.1 * (n % 3), "hours": n / 60, "cells": 9, "killed": {},
            "begun_again": 0, "digest": "same", "findings": 0, "tasks_left": 0,
            "after": {
                "processes": {r: [held | {"rss_mb": 500 + mb * n + n % 5}] for r in roles},
                "not_ended": 0, "temporary_files": 1, "files_of_runs": 2,
            },
        }
        for n in range(RUNS)
    ]  # fmt: skip


def test_what_does_not_move_has_no_drift() -> None:
    from soak import summary

    found = summary(runs())
    assert found["runs"] == RUNS
    assert found["other_bytes"] == found["not_ended"] == 0
    drift = found["rates"]["plain"]
    for fit in (
        drift["drift_an_hour"], drift["busy_drift_an_hour"],
        found["processes"]["worker"]["late_mb_a_run"],
    ):  # fmt: skip
        assert fit["low"] <= 0 <= fit["high"]


def test_a_leak_a_drift_and_other_bytes_are_seen() -> None:
    from soak import summary

    rounds = runs(mb=2, seconds=0.1)
    rounds[7]["digest"], rounds[9]["after"]["not_ended"] = "another", 1
    found = summary(rounds)
    assert found["other_bytes"] == found["not_ended"] == 1
    worker = found["processes"]["worker"]
    assert worker["mb_by_thirds"] == [500, 500 + 2 * 13 + 3, 500 + 2 * 26 + 1, 500 + 2 * 39 + 4]
    leak = worker["late_mb_a_run"]
    assert leak["low"] <= 2 <= leak["high"]
    assert leak["low"] > 1.8
    # 60 runs an hour, each 0.1 s slower, of about 12 s
    drift = found["rates"]["plain"]["drift_an_hour"]
    assert drift["slope"] == pytest.approx(0.5, abs=0.03)
    busy = found["rates"]["plain"]["busy_drift_an_hour"]
    assert busy["low"] <= 0 <= busy["high"]


def test_the_report_has_a_line_for_each_run() -> None:
    from soak import written

    text = written(runs())
    report = json.loads(text)
    assert report["rounds"] == runs()
    assert report["summary"]["runs"] == RUNS
    assert sum(line.lstrip().startswith('{"kind"') for line in text.splitlines()) == RUNS


def test_a_process_that_was_killed_has_another_life() -> None:
    from soak import lives

    rounds = runs()
    for one in rounds[25:]:
        one["after"]["processes"]["worker"][0]["pid"] = 2
    assert [len(life) for life in lives(rounds, "worker")] == [25, RUNS - 25]


def test_a_file_on_the_slow_disk_is_waited_for_and_no_other(tmp_path: Path) -> None:
    slow, fast = tmp_path / "slow", tmp_path / "fast"
    slow.mkdir()
    fast.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", OPENS, str(slow), str(fast)], capture_output=True, text=True,
        check=True, env=os.environ | {"PYTHONPATH": str(BENCHMARKS), "SOAK_SLOW_FOLDER": str(slow)},
    )  # fmt: skip
    assert int(done.stdout) == 5
