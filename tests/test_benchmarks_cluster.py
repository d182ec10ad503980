"""The benchmark of distribution measures what it says, on little of it."""

from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.mark.cluster
def test_a_small_load_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    from cluster import load

    from bgscale.distribute.execute import UNITS_IN_FLIGHT_PER_THREAD

    found = load(tmp_path, 300)
    assert 0 < found["futures_at_most"] <= 2 * UNITS_IN_FLIGHT_PER_THREAD
    # a scheduler forgets a moment later than its client
    assert 0 < found["tasks_at_most"] <= 4 * UNITS_IN_FLIGHT_PER_THREAD
    assert found["job_bytes"] < found["task_bytes"] < found["job_bytes"] + 2_000
    records = (tmp_path / "cluster.zarr.progress").rglob("units/segment/P001/*.json")
    assert sum(1 for _ in records) == 300
