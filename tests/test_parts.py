"""Several processes share a run by the ledger alone; the bytes are those of one."""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import work_units
from hypothesis import given
from hypothesis import strategies as st
from screens import config_of
from test_distribute import EVERY, Bench, give_up, plates
from test_run import assert_same_store

from bgscale.config import template
from bgscale.distribute.execute import run_units
from bgscale.distribute.ledger import Ledger
from bgscale.distribute.listener import Silent
from bgscale.distribute.parts import Part, dealt, present
from bgscale.distribute.units import Unit
from bgscale.errors import InputError, UnitError
from bgscale.results import Store
from bgscale.run import Run


class Several(Bench):
    """The bench, run by parts."""

    def part(self, part: Part, set_aside: Any = None, **job: Any) -> None:
        text = json.dumps({"store": str(self.store), **job})
        with present(str(self.store), part):
            run_units(
                work_units.write, self.units, text, ledger=self.ledger, listener=Silent(),
                part=part, set_aside=set_aside,
            )  # fmt: skip


def test_parts_divide_the_units(tmp_path: Path) -> None:
    bench = Several(tmp_path, None)
    parts = [Part(i, 3, look_every_s=0.01) for i in range(3)]
    with ExitStack() as all_there:
        for part in parts:
            all_there.enter_context(present(str(bench.store), part))
        threads = [threading.Thread(target=bench.part, args=[part]) for part in parts]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert bench.done == EVERY
    assert bench.attempts == EVERY


def test_what_parts_that_are_not_there_would_do_the_others_do(tmp_path: Path) -> None:
    bench = Several(tmp_path, None)
    bench.part(Part(1, 3, look_every_s=0.01))
    assert bench.done == EVERY
    assert bench.attempts == EVERY
    # who has ended is no longer there
    assert bench.ledger.place.names("parts") == set()


def test_a_part_that_has_died_is_waited_for_only_as_long_as_its_file_is_fresh(
    tmp_path: Path,
) -> None:
    bench = Several(tmp_path, None)
    bench.ledger.place.replace("parts/0-2", b"")
    share = Part(1, 2, look_every_s=0.01, gone_after_s=1.5)
    assert share.there(bench.ledger.place) == [0, 1]
    started = time.monotonic()
    bench.part(share)
    assert bench.done == EVERY
    first = min((bench.store.parent / "marks").glob("0.*"), key=lambda p: p.stat().st_mtime_ns)
    assert int(first.name.split(".")[2]) / 1e9 - started > 1.0


def test_a_part_does_not_try_again_what_failed(tmp_path: Path) -> None:
    bench = Several(tmp_path, None)
    with pytest.raises(UnitError, match="1 of 8"):
        bench.part(Part(0, 1, look_every_s=0.01), fail={"30": "error"})
    assert bench.attempts.count(30) == 1


@pytest.mark.parametrize("stages", [1, 2])
def test_parts_that_each_lose_a_unit_do_not_wait_for_each_other(
    tmp_path: Path, stages: int
) -> None:
    bench = Several(tmp_path, None)
    if stages == 2:
        bench.units = plates(40)
    parts = [Part(i, 2, look_every_s=0.01) for i in range(2)]
    how = {"set_aside": give_up, "fail": {"20": "error", "50": "error"}}
    with ExitStack() as all_there:
        for part in parts:
            all_there.enter_context(present(str(bench.store), part))
        threads = [
            threading.Thread(target=bench.part, args=[part], kwargs=how, daemon=True)
            for part in parts
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=30)
        assert not any(thread.is_alive() for thread in threads)
    assert bench.done == EVERY
    assert bench.attempts == EVERY
    assert [name for name, held in sorted(bench.content.items()) if held == b"lost"] == ["20", "50"]


def test_a_part_begins_no_stage_after_one_that_is_given_up(tmp_path: Path) -> None:
    bench = Several(tmp_path, None)
    bench.units = plates(400)
    part = Part(0, 2, look_every_s=0.01)
    fail = dict.fromkeys(["0", "20", "40", "60"], "error")
    with present(str(bench.store), Part(1, 2)), pytest.raises(UnitError, match="4 of 80"):
        bench.part(part, set_aside=give_up, fail=fail)
    assert bench.attempts == list(range(0, 400, 20))


def test_what_a_part_loses_is_counted_together(tmp_path: Path) -> None:
    # of its own, and one after the other of those that are not there
    bench = Several(tmp_path, None)
    fail = dict.fromkeys(map(str, EVERY), "error")
    with pytest.raises(UnitError, match="failed"):
        bench.part(Part(0, 4, look_every_s=0.01), set_aside=give_up, fail=fail)
    assert list(bench.content.values()).count(b"lost") <= 3


@pytest.mark.parametrize("set_aside", [give_up, None])
def test_what_another_part_has_done_well_has_not_failed(tmp_path: Path, set_aside: Any) -> None:
    bench = Several(tmp_path, None)

    def fails_late(unit: Unit, job: str) -> Any:
        if unit.start == 20:
            # while it fails here, the other one does it
            bench.ledger.complete(unit, *work_units.write(unit, job))
            raise OSError("gone for a while")
        return work_units.write(unit, job)

    text = json.dumps({"store": str(bench.store)})
    run_units(
        fails_late, bench.units, text, ledger=bench.ledger, listener=Silent(),
        part=Part(0, 2, look_every_s=0.01), set_aside=set_aside,
    )  # fmt: skip
    assert bench.done == EVERY
    assert b"lost" not in bench.content.values()


def test_a_unit_that_another_part_has_done_is_off_the_account(tmp_path: Path) -> None:
    bench = Several(tmp_path, None)
    bench.units = plates(400)
    # all that the first stage has left of its own is done by others, while it fails too often
    begun = 0

    def meanwhile(unit: Unit, job: str) -> Any:
        nonlocal begun
        begun += 1
        if begun == 4:
            for later in bench.units[8:40:2]:
                bench.ledger.complete(later, *work_units.write(later, job))
        raise OSError("gone for good")

    text = json.dumps({"store": str(bench.store)})
    with present(str(bench.store), Part(1, 2)), pytest.raises(UnitError, match="4 of 80"):
        run_units(
            meanwhile, bench.units, text, ledger=bench.ledger, listener=Silent(),
            part=Part(0, 2, look_every_s=0.01), set_aside=give_up,
        )  # fmt: skip
    assert begun == 4


def test_a_part_asks_for_the_records_of_others_only_when_it_must_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Several(tmp_path, None)
    bench.units = plates(400)
    asked: list[int] = []
    done = Ledger.done

    def counted(ledger: Ledger, units: Iterable[Unit]) -> set[Unit]:
        several = list(units)
        asked.append(len(several))
        return done(ledger, several)

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "done", counted)
        # alone it does its own units, and those of the three that are not there
        bench.part(Part(0, 4, look_every_s=0.01))
    assert bench.done == list(range(0, 800, 10))
    assert asked == [80, 0]


@given(
    count=st.integers(1, 6),
    gone=st.sets(st.integers(0, 5)),
    left=st.sets(st.integers(0, 99)),
)
def test_each_unit_falls_to_one_part_that_is_there(
    count: int, gone: set[int], left: set[int]
) -> None:
    there = [i for i in range(count) if i not in gone] or [0]
    parts = [Part(k, count) for k in there]
    taken = {part: dealt(sorted(left), part, there) for part in parts}
    assert sorted(i for several in taken.values() for i in several) == sorted(left)
    for part in parts:
        assert {i for i in left if part.owns(i)} <= set(taken[part])
        # whatever it knows to be done
        few = sorted(left)[::2]
        assert dealt(few, part, there) == [i for i in taken[part] if i in few]


@pytest.mark.parametrize("text", ["3/3", "1", "a/b", "-1/2", "1/0"])
def test_a_part_that_is_none(text: str) -> None:
    with pytest.raises(InputError, match="part"):
        Part.parse(text)


@pytest.mark.cluster
def test_parts_of_a_run_give_the_same_bytes(
    small_screen: Path, finished: Path, tmp_path: Path
) -> None:
    config = config_of(small_screen, tmp_path)
    run_toml = tmp_path / "run.toml"
    run_toml.write_text(template(config), encoding="utf-8")
    command = [sys.executable, "-m", "bgscale.cli", "run", str(run_toml), "--part"]
    processes = [
        subprocess.Popen([*command, f"{i}/2"], stderr=subprocess.PIPE, text=True) for i in range(2)
    ]
    said = [process.communicate()[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    assert_same_store(finished, Path(config.store))


def test_a_part_may_look_at_the_store_at_the_moment_another_one_makes_it(
    small_screen: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(small_screen, tmp_path)
    create = Store.create

    def looked_at(store: Store, attrs: Any) -> None:
        create(store, attrs)
        other = Run.from_config(config)
        other.check()
        assert not other.is_complete()
        assert other.plan()

    monkeypatch.setattr(Store, "create", looked_at)
    Run.from_config(config).execute(until="proteins")
