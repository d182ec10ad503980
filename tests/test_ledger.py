"""Records last, leftovers go, one run holds a store, and a disk that is too small is said so."""

import errno
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from buckets import wait_until
from hypothesis import given
from hypothesis import strategies as st

from bgscale.distribute import ledger as ledger_module
from bgscale.distribute import lock as lock_module
from bgscale.distribute.ledger import BOUND, Ledger
from bgscale.distribute.lock import DEAD_AFTER_S, LOCK, Holder, driver_of, held, holder_of
from bgscale.distribute.units import Unit, plan_units
from bgscale.errors import EXIT_DISK, DiskFullError, InputError
from bgscale.places import Folder, is_key, waiting
from bgscale.places.space import check_space
from bgscale.places.waiting import each
from bgscale.places.writer import host, is_left_over, lives, machine, partial_name, started
from bgscale.results import Store

UNITS = plan_units("embed/tiny", 60, 10, "t")


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    """Return the ledger of a store of which all units are done: a file each."""
    made = Ledger(str(tmp_path / "results.zarr"))
    for unit in UNITS:
        do(made, unit)
    return made


def do(ledger: Ledger, unit: Unit, content: bytes = b"12345") -> None:
    Folder(ledger.store).replace(f"a/c/{unit.start}", content)
    ledger.complete(unit, [f"a/c/{unit.start}"], {"cells": 10})


def files_of(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


def calls(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> list[Any]:
    """Return a list that grows by the first argument of each call of a method."""
    seen: list[Any] = []
    inner = getattr(owner, name)

    def counting(self: Any, *args: Any) -> Any:
        seen.append(args[0] if args else None)
        return inner(self, *args)

    monkeypatch.setattr(owner, name, counting)
    return seen


# records


def test_of_many_that_record_a_unit_one_does(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "progress")
    barrier = threading.Barrier(8)

    def create(number: int) -> bool:
        barrier.wait()
        return folder.create("units/one.json", b"%d" % number)

    with ThreadPoolExecutor(8) as threads:
        created = list(threads.map(create, range(8)))
    assert created.count(True) == 1
    assert folder.read("units/one.json") == b"%d" % created.index(True)
    assert files_of(folder.root) == {"units/one.json"}


def test_the_same_unit_done_twice_leaves_the_first_record_as_it_is(ledger: Ledger) -> None:
    (path,) = ledger.folder.rglob(f"{UNITS[0].name.rpartition('/')[2]}*")
    before = path.stat()
    do(ledger, UNITS[0])
    assert path.stat().st_ino == before.st_ino
    assert path.stat().st_mtime_ns == before.st_mtime_ns
    do(ledger, UNITS[0], b"other bytes")
    assert ledger.is_done(UNITS[0])
    assert json.loads(path.read_text())["files"]["a/c/0"]["bytes"] == 11
    assert len(files_of(ledger.folder)) == len(UNITS)


def test_without_hard_links_a_record_is_still_created_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    folder = Folder(tmp_path)
    assert folder.create("x", b"mine")
    assert not folder.create("x", b"yours")
    assert folder.create("x", b"mine")
    assert files_of(tmp_path) == {"x"}


@pytest.mark.parametrize("early", [False, True])
def test_data_and_their_folders_are_on_the_disk_before_the_record_and_it_before_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, early: bool
) -> None:
    store = Store(tmp_path / "results.zarr")
    store.create({})
    store.create_group("cells", coords={})
    store.create_array("cells/x", {"cell": 4}, "int32", chunk={})
    files = store.write("cells/x", [(0, 4)], store.read("cells/x"))
    events: list[str] = []
    fsync, link = os.fsync, os.link

    def named(handle: int) -> None:
        path = Path(f"/proc/self/fd/{handle}").readlink()
        events.append(str(path.relative_to(tmp_path)))
        fsync(handle)

    def linking(source: Path, target: Path) -> None:
        events.append("record")
        link(source, target)

    monkeypatch.setattr(os, "fsync", named)
    monkeypatch.setattr(os, "link", linking)
    ledger = Ledger(store.location)
    wrote = ledger.settled(files) if early else files
    ledger.complete(Unit("embed", 0, 4, "t"), wrote, {})
    # what a unit has had looked at while it went on is neither read nor flushed again
    assert events.count("results.zarr/cells/x/c/0") == 1
    at = events.index("record")
    before, after = events[:at], events[at + 1 :]
    assert set(before[:-1]) == {
        "results.zarr", "results.zarr/zarr.json", "results.zarr/cells",
        "results.zarr/cells/zarr.json", "results.zarr/cells/x", "results.zarr/cells/x/zarr.json",
        "results.zarr/cells/x/c", "results.zarr/cells/x/c/0",
    }  # fmt: skip
    assert before[-1].endswith(".partial")
    assert before.index("results.zarr/cells/x/c/0") < before.index("results.zarr/cells/x/c")
    assert set(after) == {f"results.zarr.progress{f}" for f in ("", "/units", "/units/embed")}
    (record,) = (tmp_path / "results.zarr.progress").rglob("*.json")
    assert json.loads(record.read_text())["files"] == ledger.settled(files)
    events.clear()
    store.flush(["cells"])
    assert {"results.zarr/zarr.json", "results.zarr/cells/x/zarr.json"} < set(events)


@given(
    done=st.sets(st.integers(0, 5)),
    bound=st.booleans(),
    lost=st.sets(st.integers(0, 5)),
    torn=st.sets(st.integers(0, 5)),
)
def test_units_that_are_done_are_those_of_which_each_is_done(
    tmp_path_factory: pytest.TempPathFactory,
    done: set[int],
    bound: bool,
    lost: set[int],
    torn: set[int],
) -> None:
    ledger = Ledger(str(tmp_path_factory.mktemp("any") / "results.zarr"))
    for i in done:
        do(ledger, UNITS[i])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ledger_module, "WORTH_BINDING", 0 if bound else 100)
        ledger.bind("embed/tiny")
    for i in lost & done:
        (Path(ledger.store) / f"a/c/{UNITS[i].start}").unlink()
    for i in torn & done:
        ledger.place.replace(f"units/{UNITS[i].name}.t.json", b'{"files": {"a/c/')
    expected = {UNITS[i] for i in done - lost - (set() if bound else torn)}
    assert ledger.done(UNITS) == expected
    if not bound:
        assert {u for u in UNITS if ledger.is_done(u)} == expected
    assert ledger.done([*UNITS, Unit("embed/tiny", 0, 10, "other")]) == expected


def test_before_a_stage_records_are_listed_once_and_only_those_there_are_read(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger.forget_units(UNITS[2:])
    listed = calls(monkeypatch, Folder, "names")
    read = calls(monkeypatch, Folder, "read")
    assert ledger.done(UNITS) == set(UNITS[:2])
    assert listed == ["units/embed/tiny"]
    assert len(read) == 2


def test_records_that_are_bound_are_one_read(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger.bind("embed/tiny")
    assert not (ledger.folder / "units/embed/tiny" / BOUND).exists()
    monkeypatch.setattr(ledger_module, "WORTH_BINDING", len(UNITS))
    ledger.bind("embed/tiny")
    read = calls(monkeypatch, Folder, "read")
    assert ledger.done(UNITS) == set(UNITS)
    assert read == [f"units/embed/tiny/{BOUND}"]
    assert ledger.count("embed/tiny", "t") == len(UNITS)
    assert ledger.recorded() == UNITS
    # a unit that was forgotten and is other now
    ledger.forget_units(UNITS[:1])
    assert ledger.done(UNITS) == set(UNITS[1:])
    do(ledger, UNITS[0], b"longer than before")
    assert ledger.done(UNITS) == set(UNITS)
    assert ledger.forget("embed/tiny") == len(UNITS)
    assert files_of(ledger.folder) == set()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"1\n", b'["a"]', b"\xff", b"[" * 10_000])
def test_bound_records_that_cannot_be_read_are_read_one_by_one(
    ledger: Ledger, content: bytes
) -> None:
    ledger.place.replace(f"units/embed/tiny/{BOUND}", content)
    assert ledger.done(UNITS) == set(UNITS)


@pytest.mark.parametrize(
    "name", ["../outside", "/etc/hostname", "a/../../outside", "link", "pipe", "", "a/c"]
)
def test_a_record_that_names_anything_but_a_file_of_the_store_is_not_borne_out(
    ledger: Ledger, name: str
) -> None:
    store = Path(ledger.store)
    (store.parent / "outside").write_bytes(b"12345")
    (store / "link").symlink_to(store.parent / "outside")
    os.mkfifo(store / "pipe")
    unit = Unit("embed/other", 0, 1, "t")
    for size in (0, 5, len(socket.gethostname()) + 1):
        record = {"files": {name: {"bytes": size, "crc32": 0}}, "summary": {}}
        ledger.place.replace(f"units/{unit.name}.t.json", json.dumps(record).encode())
        assert not ledger.is_done(unit)
        assert ledger.done([unit]) == set()
        assert ledger.summaries([unit]) == []


@given(st.text())
def test_a_key_stays_below_its_place(key: str) -> None:
    path = os.path.normpath(f"/place/{key}")
    if is_key(key):
        assert path == f"/place/{key}"
        assert path.startswith("/place/")


@pytest.mark.parametrize("seconds", [0.0, waiting.SLOW_S * 2])
def test_requests_are_answered_in_their_order_in_threads_or_not(
    seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = set()
    clock = iter([0.0, seconds * waiting.TRIED])
    monkeypatch.setattr(waiting.time, "perf_counter", lambda: next(clock))

    def ask(item: int) -> int:
        seen.add(threading.get_ident())
        return -item

    assert each(ask, range(50), 4) == [-i for i in range(50)]
    assert (len(seen) > 1) is (seconds > 0)


# leftovers


@pytest.fixture
def alive() -> Iterator[int]:
    """Return the number of a process that lives as long as the test."""
    with subprocess.Popen(["sleep", "60"]) as process:
        yield process.pid
        process.kill()


def test_what_is_left_over_is_swept_and_what_is_being_written_is_not(
    ledger: Ledger, alive: int
) -> None:
    store, name = Store(ledger.store), "units/embed/tiny/x.json"
    goes = [f"{name}.{2**22 + 1}@{host()}.0.partial", f"{name}.{alive}@another.host.7.partial"]
    stays = [f"{name}.{alive}@{host()}.0.partial", f"{name}.partially", name]
    before = files_of(ledger.folder)
    for partial in (*goes, *stays):
        (ledger.folder / partial).write_bytes(b"half a record")
    zarr = Path(ledger.store) / "a/c/0.0123456789abcdef.partial"
    zarr.write_bytes(b"half a shard")
    assert ledger.sweep() == len(goes)
    assert files_of(ledger.folder) == before | set(stays)
    assert store.sweep() == 1
    assert not zarr.exists()


def test_what_was_written_to_lately_can_be_spared(ledger: Ledger) -> None:
    store = Store(ledger.store)
    late, early = (Path(ledger.store) / f"a/c/0.{i}.partial" for i in range(2))
    for path, age_s in ((late, 10), (early, 400)):
        path.write_bytes(b"half a shard")
        modified = path.stat().st_mtime - age_s
        os.utime(path, (modified, modified))
    assert store.sweep(silent_s=DEAD_AFTER_S) == 1
    assert late.exists()
    assert not early.exists()
    assert store.sweep() == 1


def test_the_name_of_a_partial_file_says_who_writes_it() -> None:
    name = partial_name("x.json", 3)
    assert name == f"x.json.{os.getpid()}@{host()}.3.partial"
    assert not is_left_over(name)
    assert is_left_over(name.replace(host(), f"not.{host()}"))


@pytest.mark.parametrize("when", ["write", "fsync", "move"])
def test_a_write_that_fails_leaves_nothing(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    if when == "fsync":
        monkeypatch.setattr(os, "fsync", full)
    elif when == "move":
        monkeypatch.setattr(os, "link", full)
        monkeypatch.setattr(Path, "replace", full)
    content: Any = b"x" if when != "write" else "no bytes"
    before = files_of(ledger.folder)
    for write in (ledger.place.create, ledger.place.replace):
        with pytest.raises((OSError, TypeError)):
            write("units/new.json", content)
    assert files_of(ledger.folder) == before


def test_a_store_that_was_killed_while_it_was_made_is_made(tmp_path: Path) -> None:
    (tmp_path / "results.zarr").mkdir()
    (tmp_path / "results.zarr" / "zarr.0123.partial").write_bytes(b"{")
    store = Store(tmp_path / "results.zarr")
    store.create({"a": 1})
    assert store.attrs()["a"] == 1


# lock


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(lock_module, "SETTLE_S", 0.05)
    return str(tmp_path / "results.zarr")


def put(store: str, *, age_s: float = 0.0, **changes: Any) -> Path:
    """Write the lock of another run, that was renewed so long ago."""
    holder = Holder(**{**vars(Holder.here()), **changes})
    path = Ledger(store).folder / LOCK
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(holder.content)
    modified = path.stat().st_mtime - age_s
    os.utime(path, (modified, modified))
    return path


def refused(store: str) -> str:
    with pytest.raises(InputError) as caught, held(store):
        pass
    return str(caught.value)


def test_who_holds_a_store_is_told_to_whom_comes_second(store: str) -> None:
    assert driver_of(store) is None
    with held(store):
        said = refused(store)
        assert f"{store} is being written by another run (process {os.getpid()} on {host()}" in said
        assert "last heard of 0 s ago): wait for it or stop it" in said
        holder = driver_of(store)
        assert holder is not None
        assert holder.since in said
    assert driver_of(store) is None
    assert files_of(Ledger(store).folder) == set()


def test_a_lock_is_given_back_whatever_happens(store: str) -> None:
    with pytest.raises(ZeroDivisionError), held(store):
        1 / 0  # noqa: B018
    assert files_of(Ledger(store).folder) == set()
    assert not [t for t in threading.enumerate() if t.name == "bgscale-heartbeat"]


HOLDER_SCRIPT = """
import sys, time
from bgscale.distribute.lock import held
with held(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


def test_the_lock_of_a_killed_process_is_taken_over_at_once(store: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER_SCRIPT, store], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        assert f"process {process.pid} on" in refused(store)
        process.send_signal(signal.SIGKILL)
    said: list[str] = []
    with held(store, notice=said.append):
        assert len(said) == 1
        assert f"took {store} over from a run that has died (process {process.pid} on" in said[0]
    assert files_of(Ledger(store).folder) == set()


def test_a_number_that_was_given_out_again_is_another_process(store: str, alive: int) -> None:
    put(store, pid=alive, started=started(alive))
    refused(store)
    put(store, pid=alive, started="1")
    with held(store):
        pass


def test_elsewhere_a_run_is_dead_when_it_is_silent_for_long(store: str) -> None:
    gone = {"machine": "another", "host": "node7", "pid": 1}
    put(store, age_s=DEAD_AFTER_S - 60, **gone)
    assert "process 1 on node7" in refused(store)
    put(store, age_s=DEAD_AFTER_S + 1, **gone)
    said: list[str] = []
    with held(store, notice=said.append):
        assert "process 1 on node7" in said[0]
        assert "last heard of 301 s ago" in said[0]


@pytest.mark.parametrize("content", [b"", b"{torn", b"[]", b'{"pid": 1}', b"\xff\xfe"])
def test_a_lock_that_cannot_be_read_is_heeded_until_it_is_old(store: str, content: bytes) -> None:
    path = put(store)
    path.write_bytes(content)
    assert holder_of(content) is None
    assert driver_of(store) is None
    assert "a process that cannot be told from the lock" in refused(store)
    os.utime(path, (1, 1))
    with held(store):
        pass


def test_a_lock_with_a_pid_that_is_none_is_no_lock() -> None:
    values = vars(Holder.here())
    assert holder_of(json.dumps(values).encode()) == Holder.here().__class__(**values)
    assert holder_of(json.dumps({**values, "pid": "1"}).encode()) is None


def test_of_many_that_find_a_dead_run_one_takes_over(store: str) -> None:
    put(store, pid=2**22 + 1)
    barrier, over = threading.Barrier(6), threading.Event()
    outcomes: list[str] = []

    def drive() -> None:
        barrier.wait()
        try:
            with held(store):
                outcomes.append("held")
                over.wait(20)
        except InputError:
            outcomes.append("refused")

    threads = [threading.Thread(target=drive) for _ in range(6)]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(outcomes) == 6)
    over.set()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["held", *["refused"] * 5]


def test_a_holder_is_heard_of_again_and_again(store: str) -> None:
    path = Ledger(store).folder / LOCK
    with held(store, heartbeat_s=0.01):
        first = driver_of(store)
        assert first is not None
        wait_until(lambda: (now := driver_of(store)) and now.heartbeat > first.heartbeat)
        assert (now := driver_of(store)) is not None
        assert (now.owner, now.since) == (first.owner, first.since)
    assert not path.exists()


def test_one_that_was_taken_for_dead_hears_of_it_and_leaves_the_lock(store: str) -> None:
    lost: list[str] = []
    with held(store, on_lost=lost.append, heartbeat_s=0.01) as lock:
        put(store, owner="another", machine="another")
        wait_until(lambda: lost)
        assert lock.is_lost
    assert lost == ["another run, which has taken the store over"]
    holder = driver_of(store)
    assert holder is not None
    assert holder.owner == "another"


def test_a_holder_that_cannot_renew_for_long_gives_up(
    store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries: list[Any] = []
    lost: list[str] = []

    def fail(self: Folder, *_: object) -> bool:
        tries.append(1)
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(Folder, "swap", fail)
        with held(store, on_lost=lost.append, heartbeat_s=0.01) as lock:
            wait_until(lambda: len(tries) > 3)
            assert not lock.is_lost
            patch.setattr(lock_module, "DEAD_AFTER_S", 0.0)
            wait_until(lambda: lost)


def test_whoever_is_patient_waits_until_the_store_is_given_back(
    store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock_module, "PATIENCE_STEP_S", 0.01)
    waiting_for, given_back = threading.Event(), threading.Event()
    said: list[str] = []

    def first() -> None:
        with held(store):
            waiting_for.set()
            given_back.wait(20)

    def notice(text: str) -> None:
        said.append(text)
        given_back.set()

    thread = threading.Thread(target=first)
    thread.start()
    waiting_for.wait(20)
    with held(store, notice=notice, patience_s=20):
        assert len(said) == 1
        assert said[0].startswith("waiting: ")
    thread.join()


def test_a_place_that_cannot_be_written_is_bad_input(store: str) -> None:
    Path(f"{store}.progress").write_text("a file")
    assert "cannot write beside the run store, in" in refused(store)


def test_a_process_lives_or_does_not(alive: int) -> None:
    assert lives(os.getpid())
    assert lives(alive, started(alive))
    assert not lives(alive, "1")
    assert not lives(2**22 + 1)
    for number in (0, -1, -os.getpid(), 2**70):
        assert not lives(number)
    # of another user, or this one
    assert lives(1)
    assert host() in machine()


# space


def test_a_disk_that_is_too_small_is_said_before_the_start(tmp_path: Path) -> None:
    check_space(tmp_path / "not" / "yet" / "results.zarr", 1)
    check_space("s3://bucket/results.zarr", 10**18)
    with pytest.raises(
        DiskFullError, match=r"results.zarr needs 100 PB, and .* are free on the disk of /"
    ) as caught:
        check_space(tmp_path / "not" / "results.zarr", 10**17)
    assert caught.value.exit_code == EXIT_DISK
