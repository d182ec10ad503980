"""Several processes share a run by the ledger alone; the bytes are those of one."""

import json
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import work_units
from screens import config_of
from test_distribute import EVERY, Bench
from test_run import assert_same_store

from bgscale.config import template
from bgscale.distribute.execute import run_units
from bgscale.distribute.listener import Silent
from bgscale.distribute.parts import Part, present
from bgscale.errors import InputError, UnitError
from bgscale.results import Store
from bgscale.run import Run


class Several(Bench):
    """The bench, run by parts."""

    def part(self, part: Part, **job: Any) -> None:
        text = json.dumps({"store": str(self.store), **job})
        with present(str(self.store), part):
            run_units(
                work_units.write, self.units, text, ledger=self.ledger, listener=Silent(),
                part=part,
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
