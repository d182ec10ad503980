"""Units cover a stage, records say what is done, and every way of running them does the same."""

import errno
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import dask
import psutil
import pytest
import work_units
from distributed import KilledWorker, LocalCluster
from hypothesis import given
from hypothesis import strategies as st

from bgscale.distribute import cluster as cluster_module
from bgscale.distribute import execute
from bgscale.distribute.account import Stop
from bgscale.distribute.cluster import connect
from bgscale.distribute.execute import draining_signals, run_units
from bgscale.distribute.ledger import Ledger
from bgscale.distribute.listener import Silent
from bgscale.distribute.units import Unit, plan_units
from bgscale.errors import (
    EXIT_DISK,
    EXIT_TRY_AGAIN,
    AlignmentError,
    DiskFullError,
    InputError,
    InterruptedRunError,
    UnitError,
)

TESTS = Path(__file__).parent

# units


@given(st.integers(0, 10_000), st.integers(1, 5_000))
def test_units_cover_a_stage_exactly_and_begin_at_shards(length, size):
    units = plan_units("cut/crops", length, size, "t")
    assert sum(u.stop - u.start for u in units) == length
    assert [u.start for u in units] == list(range(0, length, size))
    assert all(a.stop == b.start for a, b in pairwise(units))
    assert len({u.name for u in units}) == len(units)


def test_names_of_units_sort_as_their_regions():
    names = [u.name for u in plan_units("s", 2_000_000, 999, "t")]
    assert names == sorted(names)


def test_a_write_size_of_nothing_is_refused():
    with pytest.raises(AlignmentError, match="stage 'cut': write size 0; expected 1 or more"):
        plan_units("cut", 10, 0, "t")


# ledger


@pytest.fixture
def ledger(tmp_path):
    return Ledger(str(tmp_path / "results.zarr"))


@pytest.fixture
def unit(ledger):
    """Return a unit that is done, with two files."""
    folder = Path(ledger.store)
    folder.mkdir()
    (folder / "a").write_bytes(b"12345")
    (folder / "b").write_bytes(b"")
    unit = Unit("cut/crops", 0, 128, "token")
    ledger.complete(unit, ["b", "a"], {"cells": 3})
    return unit


def test_a_record_holds_region_token_files_and_checksums(ledger, unit):
    (path,) = ledger.folder.rglob("*.json")
    assert path.parent == ledger.folder / "units" / "cut" / "crops"
    record = json.loads(path.read_text())
    assert record["region"] == [0, 128]
    assert record["token"] == "token"
    # crc32 of "12345"
    assert record["files"] == {
        "a": {"bytes": 5, "crc32": 0xCBF53A1C},
        "b": {"bytes": 0, "crc32": 0},
    }
    assert ledger.is_done(unit)
    assert ledger.summaries([unit]) == [{"cells": 3}]
    assert ledger.count("cut/crops", "token") == 1


def test_there_is_no_record_without_the_data(ledger):
    unit = Unit("cut", 0, 1, "t")
    with pytest.raises(FileNotFoundError):
        ledger.complete(unit, ["missing"], {})
    assert not ledger.folder.exists()


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder, record: (folder / "a").write_bytes(b"1234"),
        lambda folder, record: (folder / "b").unlink(),
        lambda folder, record: record.write_text(record.read_text()[:-20]),
        lambda folder, record: record.write_text("[]"),
        lambda folder, record: record.write_text("{}"),
        lambda folder, record: record.write_bytes(b"\xff\x00"),
        lambda folder, record: record.unlink(),
    ],
    ids=["shorter", "gone", "torn", "list", "empty", "binary", "no record"],
)
def test_a_unit_whose_files_or_record_are_damaged_is_not_done(ledger, unit, damage):
    (record,) = ledger.folder.rglob("*.json")
    damage(Path(ledger.store), record)
    assert not ledger.is_done(unit)
    assert ledger.summaries([unit]) == []


def test_a_unit_of_another_token_or_region_is_not_done(ledger, unit):
    assert not ledger.is_done(Unit("cut/crops", 0, 128, "other"))
    assert not ledger.is_done(Unit("cut/crops", 0, 64, "token"))
    assert not ledger.is_done(Unit("cut", 0, 128, "token"))
    assert ledger.count("cut/crops", "other") == 0


def test_forgetting_a_stage_leaves_the_stages_below_it(ledger, unit):
    below = Unit("cut/crops/more", 0, 1, "token")
    ledger.complete(below, ["a"], {})
    assert ledger.forget("cut/crops") == 1
    assert not ledger.is_done(unit)
    assert ledger.is_done(below)
    assert ledger.forget("cut/crops") == 0


def test_a_unit_done_twice_has_one_record_and_no_leftovers(ledger, unit):
    ledger.complete(unit, ["a"], {"cells": 4})
    assert len([p for p in ledger.folder.rglob("*") if p.is_file()]) == 1
    assert ledger.summaries([unit]) == [{"cells": 4}]


# execute


class Heard(Silent):
    """Notes what it hears."""

    def __init__(self, stop=None, after=0):
        self.events, self._stop, self._after = [], stop, after
        self.failed = {}

    def stage_started(self, stage, purpose, units, done):
        self.events.append(("started", stage, purpose, units, done))

    def unit_done(self, unit, summary):
        self.events.append(("done", unit.start, summary["items"]))
        if self._stop is not None and len(self.done) == self._after:
            self._stop.request("SIGTERM")

    def unit_failed(self, unit, error):
        self.failed[unit.start] = error

    def stage_finished(self, stage):
        self.events.append(("finished", stage))

    @property
    def done(self):
        return [event[1] for event in self.events if event[0] == "done"]


class Bench:
    """A store in a temporary folder, eight units, and a way to run them."""

    def __init__(self, folder, client):
        self.client = client
        self.store = folder / "results.zarr"
        self.store.mkdir()
        self.ledger = Ledger(str(self.store))
        self.units = plan_units("write", 80, 10, "token")

    def run(
        self, *, stop=None, after=0, units=None, set_aside=None, called="", complete=None, **job
    ):
        heard = Heard(stop, after)
        self.heard = heard
        text = json.dumps({"store": str(self.store), **job})
        run_units(
            work_units.write,
            self.units if units is None else units,
            text,
            ledger=self.ledger,
            client=self.client,
            listener=heard,
            called=called,
            purpose="Writing",
            stop=stop,
            set_aside=set_aside,
            complete=complete or (lambda stage: None),
        )
        return heard

    @property
    def attempts(self):
        """Units that were begun, each as often as it was."""
        marks = self.store.parent / "marks"
        return sorted(int(p.name.split(".")[0]) for p in marks.glob("*"))

    @property
    def processes(self):
        return {p.name.split(".")[1] for p in (self.store.parent / "marks").glob("*")}

    @property
    def done(self):
        return [u.start for u in self.units if self.ledger.is_done(u)]

    @property
    def content(self):
        return {p.name: p.read_bytes() for p in (self.store / "out").glob("*")}


EVERY = list(range(0, 80, 10))


def give_up(unit, job):
    """Mark a unit as lost, as a stage does that can."""
    store = Path(json.loads(job)["store"])
    (store / "out").mkdir(exist_ok=True)
    (store / "out" / str(unit.start)).write_bytes(b"lost")
    return [f"out/{unit.start}"], {"items": 0}


@pytest.fixture(params=["serial", pytest.param("cluster", marks=pytest.mark.cluster)])
def bench(request, tmp_path):
    client = None if request.param == "serial" else request.getfixturevalue("cluster")
    return Bench(tmp_path, client)


def test_each_unit_is_done_exactly_once(bench):
    heard = bench.run()
    assert bench.attempts == EVERY
    assert bench.done == EVERY
    assert bench.content == {str(k): bytes(range(k, k + 10)) for k in EVERY}
    assert heard.events[0] == ("started", "write", "Writing", 8, 0)
    assert heard.events[-1] == ("finished", "write")
    assert sorted(heard.done) == EVERY
    if bench.client is None:
        assert bench.processes == {str(os.getpid())}
    else:
        assert str(os.getpid()) not in bench.processes


def test_done_units_are_skipped_and_others_are_not(bench):
    bench.run(units=bench.units[:3])
    (bench.store / "out" / "10").write_bytes(b"torn")
    heard = bench.run()
    assert heard.events[0] == ("started", "write", "Writing", 8, 2)
    assert bench.attempts == sorted([*EVERY, 10])
    assert bench.run().done == []
    assert bench.attempts == sorted([*EVERY, 10])


def test_a_failing_unit_lets_the_others_finish_and_is_named_with_its_cause(bench):
    with pytest.raises(UnitError) as caught:
        bench.run(fail={"20": "error", "50": "error"})
    said = str(caught.value)
    assert "2 of 8 units failed" in said
    firsts = [f"write/{k:09d}-{k + 10:09d}: ValueError: unit at {k} is cursed" for k in (20, 50)]
    assert any(first in said for first in firsts)
    assert isinstance(caught.value.__cause__, ValueError)
    assert bench.done == [k for k in EVERY if k not in (20, 50)]
    assert bench.heard.events[-1] == ("finished", "write")
    bench.run()
    assert bench.done == EVERY


@pytest.mark.parametrize("kind", ["stubborn", "two", "io"])
def test_whatever_a_unit_raises_arrives_as_a_unit_error(bench, kind):
    says = {"stubborn": "not to be pickled", "two": "a hole in the bucket", "io": "Input/output"}
    with pytest.raises(UnitError, match=f"write/000000030-000000040: .*{says[kind]}"):
        bench.run(fail={"30": kind})
    assert len(bench.done) == 7


def test_wrong_input_is_passed_on_and_ends_the_stage(bench):
    with pytest.raises(InputError, match=r"^the plate map is wrong$"):
        bench.run(fail={"0": "input"})
    assert 0 not in bench.done
    if bench.client is None:
        assert bench.attempts == [0]


def test_a_full_disk_ends_the_run_and_what_is_done_stays_done(bench):
    with pytest.raises(DiskFullError, match="no space left while writing write/0000000") as caught:
        bench.run(fail={"30": "disk"}, slow={"0": 1.0})
    assert caught.value.exit_code == EXIT_DISK
    done = bench.done
    # what was begun finishes, such as the slow one; what stood in its worker's queue is not begun
    assert done == [k for k in bench.attempts if k != 30]
    assert 0 in done
    if bench.client is None:
        assert done == [0, 10, 20]
    bench.run()
    assert bench.done == EVERY
    assert bench.attempts == sorted([*EVERY, 30])


def test_a_stop_drains_and_the_second_run_goes_on(bench):
    bench.units = plan_units("write", 240, 10, "token")
    stop = Stop()
    with pytest.raises(InterruptedRunError, match=r"stopped by SIGTERM.*run again") as caught:
        bench.run(stop=stop, after=2, seconds=0.02)
    assert caught.value.exit_code == EXIT_TRY_AGAIN
    begun = bench.attempts
    # all that was begun is done, and not much was begun after the stop
    assert bench.done == begun
    assert 2 <= len(begun) <= 2 + (0 if bench.client is None else 2 * 3)
    bench.run()
    assert bench.attempts == list(range(0, 240, 10))
    assert bench.done == bench.attempts


def test_a_stop_before_the_first_unit_begins_none(bench):
    stop = Stop()
    stop.request("SIGINT")
    with pytest.raises(InterruptedRunError):
        bench.run(stop=stop)
    assert bench.attempts == []


def test_no_units_are_no_stage(bench):
    assert bench.run(units=[]).events == []


@pytest.mark.cluster
def test_a_worker_keeps_memory_for_its_next_array(cluster):
    # Dask's threshold doubles the time of embedding
    assert set(cluster.run(os.getenv, "MALLOC_TRIM_THRESHOLD_").values()) == {None}


@pytest.mark.cluster
def test_no_more_than_a_window_of_units_is_in_flight(cluster, tmp_path, monkeypatch):
    bench = Bench(tmp_path, cluster)
    bench.units = plan_units("write", 250, 5, "token")
    in_flight, most = set(), []
    submit = cluster.map

    def counting(*args, **kwargs):
        futures = submit(*args, **kwargs)
        in_flight.update(future.key for future in futures)
        most.extend([len(in_flight)] * len(futures))
        return futures

    class Counting(Heard):
        def unit_done(self, unit, summary):
            super().unit_done(unit, summary)
            in_flight.pop()

    monkeypatch.setattr(cluster, "map", counting)
    monkeypatch.setattr(sys.modules[__name__], "Heard", Counting)
    bench.run()
    assert len(most) == 50
    assert max(most) == 2 * execute.UNITS_IN_FLIGHT_PER_THREAD
    assert cluster.cluster.scheduler.transition_log.maxlen < 100
    # nor is anything kept of what was done
    deadline = time.monotonic() + 10
    while cluster.futures and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not cluster.futures


@pytest.mark.cluster
def test_a_unit_whose_worker_is_killed_is_done_by_another(cluster, tmp_path):
    bench = Bench(tmp_path, cluster)
    bench.run(fail={"30": "die"})
    assert bench.done == EVERY
    assert bench.attempts.count(30) == 2
    cluster.wait_for_workers(2)


SCHEDULER_SCRIPT = """
    import sys
    sys.path.insert(0, {tests!r})
    from distributed import LocalCluster

    if __name__ == "__main__":
        with LocalCluster(
            n_workers=1, threads_per_worker=1, host="127.0.0.1", dashboard_address="127.0.0.1:0"
        ) as local:
            print(local.scheduler_address, flush=True)
            sys.stdin.read()
"""


@pytest.mark.cluster
def test_a_unit_that_kills_each_worker_is_set_aside_and_the_others_go_on(cluster, tmp_path):
    bench = Bench(tmp_path, cluster)
    heard = bench.run(fail={"30": "kill"}, set_aside=give_up)
    assert sorted(heard.done) == EVERY
    assert heard.failed == {30: "each worker that tried it was killed (out of memory?)"}
    assert bench.content["30"] == b"lost"
    # the first try and three more, among others and then alone
    assert bench.attempts.count(30) == 8
    (unit,) = (u for u in bench.units if u.start == 30)
    assert "killed" in bench.ledger.record(unit)["summary"]["set_aside"]
    assert bench.run(fail={"30": "kill"}, set_aside=give_up).done == []


@pytest.mark.cluster
def test_units_that_only_waited_at_a_killed_worker_are_not_blamed(cluster, tmp_path, monkeypatch):
    # each worker holds several at once, as one with resources does
    monkeypatch.setattr(cluster.cluster.scheduler, "WORKER_SATURATION", float("inf"))
    bench = Bench(tmp_path, cluster)
    heard = bench.run(fail={"0": "kill"}, set_aside=give_up)
    assert list(heard.failed) == [0]
    assert bench.done == EVERY
    assert bench.content["0"] == b"lost"
    assert list(bench.content.values()).count(b"lost") == 1


def test_a_unit_that_raises_is_set_aside_where_its_stage_can_lose_it(bench):
    bench.run(fail={"30": "error"}, set_aside=give_up)
    assert bench.done == EVERY
    assert bench.content["30"] == b"lost"


def test_where_most_units_fail_none_is_set_aside(bench):
    with pytest.raises(UnitError, match="4 of 8 units failed"):
        bench.run(fail=dict.fromkeys(["0", "10", "20", "30"], "error"), set_aside=give_up)
    assert bench.done == EVERY[4:]


def plates(length, *, size=10):
    """Units of the same stage of two plates; those of the second begin at `length`."""
    one = plan_units("write/A", length, size, "token")
    two = plan_units("write/B", length, size, "token")
    return [*one, *(replace(u, start=u.start + length, stop=u.stop + length) for u in two)]


def test_stages_that_do_not_depend_on_each_other_go_together(bench):
    bench.units = plates(40)
    # on two workers each waits for the other: a unit of the one stage for one of the other
    meet = {} if bench.client is None else {"meet": ["30", "40"]}
    heard = bench.run(called="write", **meet)
    assert heard.events[0] == ("started", "write", "Writing", 8, 0)
    assert heard.events[-1] == ("finished", "write")
    assert bench.done == EVERY
    assert bench.attempts == EVERY
    assert {unit.stage for unit in bench.ledger.recorded()} == {"write/A", "write/B"}


def test_of_several_stages_each_may_lose_a_few_units(bench):
    bench.units = plates(40)
    # more in all than one stage may lose
    fail = dict.fromkeys(["0", "10", "20", "50", "60"], "error")
    bench.run(fail=fail, set_aside=give_up)
    assert bench.done == EVERY
    assert [int(name) for name, held in sorted(bench.content.items()) if held == b"lost"] == [
        0, 10, 20, 50, 60,
    ]  # fmt: skip


def test_after_a_stage_that_is_given_up_no_other_is_begun(bench):
    bench.units = plates(400)
    fail = dict.fromkeys(["0", "10", "20", "30"], "error")
    with pytest.raises(UnitError, match="4 of 80 units failed"):
        bench.run(fail=fail, set_aside=give_up, seconds=0.02)
    # all others of its stage are done, and what was begun beside its last ones
    assert set(range(40, 400, 10)) <= set(bench.done)
    assert bench.done == [k for k in bench.attempts if k >= 40]
    assert len(bench.done) - 36 <= (0 if bench.client is None else 2 * 3)
    with pytest.raises(UnitError, match="1 of "):
        bench.run(fail={"0": "error"})
    bench.run()
    assert bench.done == list(range(0, 800, 10))


def test_what_a_stage_has_lost_is_settled_when_it_ends(bench):
    bench.units = plates(400)
    ended = []
    # the second stage is given up; what the first one has lost is set aside by then
    fail = dict.fromkeys(["0", "400", "410", "420", "430"], "error")
    with pytest.raises(UnitError, match="4 of 80 units failed"):
        bench.run(fail=fail, set_aside=give_up, complete=ended.append)
    assert bench.content["0"] == b"lost"
    assert ended == ["write/A"]
    assert sorted(bench.run(complete=ended.append).done) == [400, 410, 420, 430]
    assert ended == ["write/A", "write/A", "write/B"]


def test_a_stop_is_no_failure_and_leaves_what_was_lost_before_settled(bench):
    bench.units = plates(400)
    stop = Stop()
    fail = dict.fromkeys(["0", "400"], "error")
    with pytest.raises(InterruptedRunError):
        # in the middle of the second stage
        bench.run(stop=stop, after=55, fail=fail, set_aside=give_up, seconds=0.01)
    assert bench.content["0"] == b"lost"
    # its stage has not ended: it is tried again
    assert 400 in bench.attempts
    assert "400" not in bench.content
    bench.run(set_aside=give_up)
    assert bench.content["400"] == bytes(k % 256 for k in range(400, 410))
    assert bench.attempts.count(0) == 1


def test_no_room_to_set_a_unit_aside_is_a_full_disk(bench):
    def full(unit, job):
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(DiskFullError):
        bench.run(fail={"30": "error"}, set_aside=full)
    assert bench.done == [k for k in EVERY if k != 30]
    assert bench.heard.events[-1] == ("finished", "write")


def test_what_goes_wrong_with_a_complete_stage_is_raised_when_all_have_drained(bench):
    bench.units = plates(200)

    def broken(stage):
        raise OSError(errno.EIO, "Input/output error")

    with pytest.raises(OSError, match="Input/output"):
        bench.run(complete=broken, seconds=0.02)
    # all that was begun is done by then
    assert bench.done == bench.attempts
    assert set(bench.done) >= set(range(0, 200, 10))
    assert len(bench.done) < 40
    assert bench.heard.events[-1] == ("finished", "write/A")

    def full(stage):
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(DiskFullError, match="write/A"):
        bench.run(complete=full)


def test_no_stage_is_finished_by_a_run_that_was_told_to_stop(bench):
    # its store may be another run's by then
    ended, stop = [], Stop()
    with pytest.raises(InterruptedRunError):
        bench.run(stop=stop, after=8, complete=ended.append)
    assert bench.done == EVERY
    assert ended == []
    bench.run(complete=ended.append)
    assert ended == ["write"]


def test_of_the_few_that_are_left_all_that_are_blamed_are_tried_alone(tmp_path, monkeypatch):
    # 4 of the 100 units that a stage has: as many may be lost, though not of 4
    bench = Bench(tmp_path, None)
    bench.units = plan_units("write", 1000, 10, "token")
    bench.run(units=bench.units[:-4])
    tried = []

    def flight(client, do, todo, size, **_):
        tried.append([unit.start for unit in todo])
        for unit in todo:
            yield unit, do(unit) if len(tried) > 1 else KilledWorker("key", None, 3)

    monkeypatch.setattr(execute, "_flight", flight)
    bench.client = object()
    bench.run(set_aside=give_up)
    assert tried == [[960, 970, 980, 990]] * 2
    assert b"lost" not in bench.content.values()
    # nor have they failed where the run was stopped meanwhile
    bench.ledger.forget_units(bench.units[-4:])
    tried.clear()
    stop = Stop()
    stop.request("SIGTERM")
    with pytest.raises(InterruptedRunError):
        bench.run(stop=stop, set_aside=give_up)


def test_where_units_of_a_stage_kill_their_workers_the_run_ends_after_it(tmp_path, monkeypatch):
    tried = []

    def flight(client, do, todo, size, *, stop, **_):
        tried.append(len(todo))
        for unit in todo:
            if stop:
                return
            yield unit, KilledWorker("key", None, 3) if unit.start < 40 else do(unit)

    monkeypatch.setattr(execute, "_flight", flight)
    bench = Bench(tmp_path, object())
    bench.units = plates(400)
    with pytest.raises(UnitError, match=r"4 of 80 units failed; .*was killed"):
        bench.run(set_aside=give_up)
    # none was tried again alone
    assert tried == [80]
    assert bench.done == list(range(40, 400, 10))


@pytest.mark.cluster
def test_a_drain_takes_back_what_no_worker_has_begun(cluster, tmp_path):
    bench, stop = Bench(tmp_path, cluster), Stop()
    with pytest.raises(InterruptedRunError):
        bench.run(stop=stop, after=1, seconds=1.0)
    # of two workers: the first unit, the one beside it, and what they had begun by then
    assert len(bench.attempts) <= 4
    assert bench.attempts == bench.done


@pytest.mark.cluster
def test_a_lost_scheduler_ends_the_run_with_try_again(tmp_path):
    script = tmp_path / "scheduler.py"
    script.write_text(textwrap.dedent(SCHEDULER_SCRIPT).format(tests=str(TESTS)))
    bench = Bench(tmp_path, None)
    with (
        dask.config.set({"distributed.comm.timeouts.connect": "1s"}),
        subprocess.Popen(
            [sys.executable, str(script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=os.environ | {"PYTHONPATH": str(TESTS.parent)},
        ) as process,
        connect(process.stdout.readline().strip()) as bench.client,
        pytest.raises(InterruptedRunError, match=r"lost the Dask scheduler.*run again"),
    ):
        bench.run(fail={"30": "lose"}, scheduler=process.pid)
    assert set(bench.done) == {0, 10, 20}


SERIAL_SCRIPT = """
    import json, sys
    sys.path.insert(0, {tests!r})
    import work_units
    from bgscale.distribute.cluster import connect
    from bgscale.distribute.execute import draining_signals, run_units
    from bgscale.distribute.ledger import Ledger
    from bgscale.distribute.units import plan_units
    from bgscale.errors import BgscaleError
    from bgscale.distribute.listener import Silent

    class Ready(Silent):
        def unit_done(self, unit, summary):
            print("done", flush=True)

    if __name__ == "__main__":
        with connect({where!r}) as client, draining_signals() as stop:
            try:
                run_units(
                    work_units.write, plan_units("write", 240, 4, "token"), {job!r},
                    ledger=Ledger({store!r}), client=client, listener=Ready(), stop=stop,
                )
            except BgscaleError as error:
                print(error, file=sys.stderr)
                sys.exit(error.exit_code)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("where", ["serial", pytest.param("local:2", marks=pytest.mark.cluster)])
def test_ctrl_c_and_sigterm_to_a_process_drain_and_end_with_75(tmp_path, where, number):
    bench = Bench(tmp_path, None)
    bench.units = plan_units("write", 240, 4, "token")
    store = str(bench.store)
    job = json.dumps({"store": store, "seconds": 0.1})
    script = tmp_path / "script.py"
    text = textwrap.dedent(SERIAL_SCRIPT)
    script.write_text(text.format(tests=str(TESTS), job=job, store=store, where=where))
    with subprocess.Popen(
        [sys.executable, str(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=os.environ | {"PYTHONPATH": str(TESTS.parent)},
    ) as process:
        try:
            assert process.stdout.readline() == "done\n"
            # a terminal sends Ctrl-C to all processes of the group, a batch system to the first
            if number == signal.SIGINT:
                os.killpg(process.pid, number)
            else:
                os.kill(process.pid, number)
            _, said = process.communicate(timeout=60)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == EXIT_TRY_AGAIN, said
    assert f"stopped by {number.name}" in said
    assert "Traceback" not in said
    assert 1 <= len(bench.done) < 60
    assert bench.done == bench.attempts


def test_a_second_signal_interrupts_at_once():
    before = signal.getsignal(signal.SIGINT)
    with draining_signals() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.requested == "SIGINT"
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGINT) is before


# connect


def test_serial_is_no_client():
    with connect("serial") as client:
        assert client is None


@pytest.mark.parametrize(
    "name",
    ["", "Serial", "dask", "local:0", "local:x", "local:-1", "foo://a:1", "tcp://", "tcp://a"],
)
def test_a_bad_cluster_name_is_bad_input_and_says_what_is_expected(name):
    with pytest.raises(InputError, match=r"expected|no Dask scheduler answers at"), connect(name):
        pass


def test_a_dead_address_is_bad_input_within_the_timeout(monkeypatch):
    monkeypatch.setattr(cluster_module, "CONNECT_TIMEOUT_S", 1)
    address = "tcp://127.0.0.1:1"
    says = f"no Dask scheduler answers at '{address}'"
    with pytest.raises(InputError, match=says), connect(address):
        pass


@pytest.mark.cluster
def test_a_running_scheduler_is_used_and_left_running():
    with LocalCluster(
        n_workers=1, threads_per_worker=1, processes=True, host="127.0.0.1",
        dashboard_address="127.0.0.1:0",
    ) as running:  # fmt: skip
        for _ in range(2):
            with connect(running.scheduler_address) as client:
                assert client.submit(abs, -3).result() == 3


@pytest.mark.cluster
def test_a_scheduler_with_certificates_is_not_reached_without(cluster):
    with pytest.raises(InputError, match="certificate"), connect(cluster.scheduler.address):
        pass


@pytest.mark.cluster
def test_a_local_cluster_listens_on_this_machine_only(cluster):
    assert sorted(cluster.nthreads().values()) == [1, 1]
    own = psutil.Process()
    listening = [
        socket.laddr.ip
        for process in [own, *own.children(recursive=True)]
        for socket in process.net_connections(kind="inet")
        if socket.status == psutil.CONN_LISTEN
    ]
    assert len(listening) >= 3
    assert set(listening) <= {"127.0.0.1", "::1"}


@pytest.mark.cluster
def test_a_second_local_cluster_beside_the_first_is_no_trouble(cluster):
    with connect("local:1") as second:
        assert second.scheduler.address != cluster.scheduler.address
