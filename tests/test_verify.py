"""What was lost, torn or altered is found, told and done again; nothing else is, or looked at."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from screens import config_of
from test_run import Counter, assert_same_store

from bgscale.cli import main
from bgscale.distribute.ledger import Ledger
from bgscale.distribute.lock import LOCK, held
from bgscale.distribute.units import plan_units
from bgscale.errors import EXIT_BAD_INPUT, EXIT_DONE, EXIT_SOME_FAILED, StoreMismatchError
from bgscale.places import Folder
from bgscale.results import Store
from bgscale.run import Run
from bgscale.verify import Report, mark, verify

CUT = plan_units("cut/P1", 30, 10, "t1")
EMBED = plan_units("embed/tiny/P1", 30, 10, "t2")
NODES = {"cut/P1": ["plates/P1/crops"], "embed/tiny/P1": ["plates/P1/embeddings/tiny"]}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Return a store of two stages of three units, of which all are done but one."""
    made = Store(tmp_path / "results.zarr")
    stages = {
        name: {"token": token, "units": 3, "nodes": NODES[name]}
        for name, token in (("cut/P1", "t1"), ("embed/tiny/P1", "t2"))
    }
    made.create({"stages": stages})
    for units, node in ((CUT, "plates/P1/crops"), (EMBED[:2], "plates/P1/embeddings/tiny")):
        made.create_group(node, coords={})
        made.create_array(f"{node}/x", {"cell": 30}, "int32", chunk={"cell": 10})
        for unit in units:
            values = np.arange(unit.start, unit.stop, dtype=np.int32)
            files = made.write(f"{node}/x", [(unit.start, unit.stop)], values)
            Ledger(made.location).complete(unit, files, {})
    return made


CROPS = "plates/P1/crops/x/c"
FEATURES = "plates/P1/embeddings/tiny/x/c"


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def unreadable(path: Path) -> None:
    path.unlink()
    path.mkdir()


def problems(report: Report) -> dict[str, list[str]]:
    return {s.stage: [f"{f.what} {f.problem}" for f in s.findings] for s in report.stages}


def call(*arguments: object) -> Result:
    result = CliRunner().invoke(main, ["verify", *map(str, arguments)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.output
    return result


def snapshot(folder: Path) -> dict[Path, bytes]:
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_store_that_is_whole_is_sound(store: Store) -> None:
    said: list[tuple[int, int]] = []
    before = snapshot(store.path.parent)
    for deep in (False, True):
        report = verify(store.path, deep=deep, advance=lambda *at: said.append(at))
        assert report.is_sound
        assert [(s.stage, s.recorded, s.units, s.files) for s in report.stages] == [
            ("cut/P1", 3, 3, 3),
            ("embed/tiny/P1", 2, 3, 2),
        ]
    assert said == [(i, 5) for i in range(1, 6)]
    mark(report)
    assert snapshot(store.path.parent) == before


@pytest.mark.parametrize(
    ("damage", "is_deep", "says"),
    [
        (Path.unlink, False, "is missing"),
        (lambda p: p.write_bytes(b"torn"), False, "has 4 bytes, recorded were"),
        (lambda p: p.write_bytes(p.read_bytes() + b"x"), False, "bytes, recorded were"),
        (unreadable, False, "is missing"),
        (flip, True, "has CRC-32"),
    ],
    ids=["missing", "torn", "longer", "folder", "altered"],
)
def test_damaged_files_make_their_units_bad_and_no_others(
    store: Store, damage: Callable[[Path], None], is_deep: bool, says: str
) -> None:
    damage(store.path / CROPS / "1")
    assert verify(store.path).is_sound is is_deep
    report = verify(store.path, deep=True)
    (found,) = problems(report)["cut/P1"]
    assert found.startswith(f"{CROPS}/1 ")
    assert says in found
    assert problems(report)["embed/tiny/P1"] == []
    ledger = Ledger(store.location)
    mark(report)
    assert ledger.recorded() == [CUT[0], CUT[2], *EMBED[:2]]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b'{"files": {"a": 1}}', b"\xff"])
def test_a_record_that_cannot_be_read_makes_its_unit_bad(store: Store, content: bytes) -> None:
    ledger = Ledger(store.location)
    ledger.place.replace(f"units/{EMBED[1].name}.t2.json", content)
    report = verify(store.path)
    assert problems(report)["embed/tiny/P1"] == [f"{EMBED[1].name} its record cannot be read"]
    mark(report)
    assert ledger.recorded() == [*CUT, EMBED[0]]


@pytest.mark.parametrize(
    "name", ["../secret", "/etc/passwd", "a/../../secret", "link", "plates/P1/away/secret", ""]
)
def test_no_file_outside_the_store_is_looked_at(
    store: Store, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    outside = store.path.parent
    (outside / "secret").write_bytes(b"secret")
    (store.path / "link").symlink_to(outside / "secret")
    (store.path / "plates/P1/away").symlink_to(outside)
    record = {"files": {name: {"bytes": 6, "crc32": 0x5D1A8C3B}}, "summary": {}}
    ledger = Ledger(store.location)
    ledger.place.replace(f"units/{EMBED[1].name}.t2.json", json.dumps(record).encode())
    opened: list[Path] = []
    inner = os.open

    def noting(path: Any, *args: Any, **kwargs: Any) -> int:
        opened.append(Path(path))
        return inner(path, *args, **kwargs)

    monkeypatch.setattr(os, "open", noting)
    report = verify(store.path, deep=True)
    assert opened
    allowed = (store.path, ledger.folder)
    assert [p for p in opened if not any(p.resolve().is_relative_to(a) for a in allowed)] == []
    assert problems(report)["embed/tiny/P1"] == [
        f"{name} leads out of the store, and was not looked at"
    ]
    mark(report)
    assert ledger.recorded() == [*CUT, EMBED[0]]
    assert (outside / "secret").read_bytes() == b"secret"


def test_links_within_a_store_are_followed_no_further_than_it(store: Store) -> None:
    moved = store.path / "plates/P1/kept"
    (store.path / CROPS).rename(moved)
    (store.path / CROPS).symlink_to(moved)
    assert verify(store.path, deep=True).is_sound
    linked = store.path.parent / "linked.zarr"
    linked.symlink_to(store.path)
    shutil.copytree(f"{store.path}.progress", f"{linked}.progress")
    assert verify(linked, deep=True).is_sound


@pytest.mark.parametrize(
    ("node", "damaged"),
    [
        ("plates/P1/crops/x", ["cut/P1"]),
        ("plates/P1/crops", ["cut/P1"]),
        ("plates/P1/embeddings/tiny/x", ["embed/tiny/P1"]),
        ("plates/P1", ["cut/P1", "embed/tiny/P1"]),
    ],
)
@pytest.mark.parametrize("content", [None, b"{torn", b"{}"])
def test_what_has_lost_its_metadata_is_made_anew_by_its_stage(
    store: Store, node: str, damaged: list[str], content: bytes | None
) -> None:
    path = store.path / node / "zarr.json"
    path.unlink() if content is None else path.write_bytes(content)
    report = verify(store.path)
    assert [s.stage for s in report.stages if s.is_damaged] == damaged
    mark(report)
    assert [n for n in NODES if n not in store.attrs()["stages"]] == damaged
    assert {u.stage for u in Ledger(store.location).recorded()} == set(NODES) - set(damaged)


def test_an_array_that_became_a_group_is_damaged(store: Store) -> None:
    group = (store.path / "plates/P1/crops/zarr.json").read_bytes()
    (store.path / "plates/P1/crops/x/zarr.json").write_bytes(group)
    assert problems(verify(store.path))["cut/P1"] == ["plates/P1/crops/x is a group"]


def test_what_a_complete_stage_owns_must_be_there_written_or_not(store: Store) -> None:
    stages = store.attrs()["stages"]
    for name in stages:
        stages[name]["nodes"] = [*NODES[name], f"more/{name.split('/')[0]}"]
    store.update_attrs({"stages": stages})
    report = verify(store.path)
    # of the other stage a unit is missing: it may come
    assert problems(report) == {
        "cut/P1": ["more/cut has no metadata that can be read"],
        "embed/tiny/P1": [],
    }


def test_records_of_another_token_or_stage_are_nobodys(store: Store) -> None:
    ledger = Ledger(store.location)
    for unit in (*plan_units("cut/P1", 10, 10, "old"), *plan_units("gone", 10, 10, "t1")):
        ledger.place.replace(f"units/{unit.name}.{unit.token}.json", b"{torn")
    ledger.place.replace("units/notes.json", b"mine")
    assert verify(store.path).is_sound


def test_what_is_no_store_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreMismatchError):
        verify(tmp_path)
    result = call(tmp_path / "none.zarr")
    assert result.exit_code == EXIT_BAD_INPUT
    assert not (tmp_path / "none.zarr.progress").exists()


# the command


def test_the_command_tells_forgets_and_ends_with_3(store: Store) -> None:
    ledger = Ledger(store.location)
    sound = call(store.path)
    assert sound.exit_code == EXIT_DONE
    assert "is sound, by sizes (--deep compares checksums too)" in sound.stderr
    assert call(store.path, "--deep").exit_code == EXIT_DONE
    flip(store.path / CROPS / "1")
    (store.path / FEATURES / "0").unlink()
    assert call(store.path, "--deep", "--dry-run").exit_code == EXIT_SOME_FAILED
    assert len(ledger.recorded()) == 5
    values = json.loads(call(store.path, "--deep", "--dry-run", "--json").stdout)
    assert values["sound"] is False
    assert values["stages"]["cut/P1"]["bad_units"] == 1
    (finding,) = values["stages"]["embed/tiny/P1"]["findings"]
    assert finding == {"unit": EMBED[0].name, "what": f"{FEATURES}/0", "problem": "is missing"}
    result = call(store.path, "--deep")
    assert result.exit_code == EXIT_SOME_FAILED
    rows = [line.split() for line in result.stdout.splitlines()]
    assert rows[1] == ["cut/P1", "3", "of", "3", "3", rows[1][5], "B", "1"]
    assert rows[2] == ["embed/tiny/P1", "2", "of", "3", "2", rows[2][5], "B", "1"]
    assert "2 units are bad; their records are forgotten: the next `bgscale run`" in result.stderr
    assert ledger.recorded() == [CUT[0], CUT[2], EMBED[1]]
    # what is forgotten is to do, no longer bad
    assert call(store.path, "--deep").exit_code == EXIT_DONE
    assert not (ledger.folder / LOCK).exists()


def test_many_findings_are_told_in_few_lines(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bgscale.cli.checks.SHOWN", 1)
    shutil.rmtree(store.path / CROPS)
    (store.path / "plates/P1/embeddings/tiny/zarr.json").unlink()
    result = call(store.path, "--dry-run")
    assert result.stdout.count("is missing") == 1
    assert "cut/P1: and 2 more (--json lists all)" in result.stdout
    assert "3 units are bad; these stages have to be made anew: embed/tiny/P1" in result.stderr
    assert "nothing was forgotten" in result.stderr


def test_a_store_that_a_run_writes_is_left_to_it(store: Store) -> None:
    with held(store.location):
        refused = call(store.path)
        assert refused.exit_code == EXIT_BAD_INPUT
        assert "is being written by another run" in refused.stderr
        assert call(store.path, "--dry-run").exit_code == EXIT_DONE


def test_a_file_that_cannot_be_read_is_bad(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = Folder.blocks

    def broken(self: Folder, key: str) -> Any:
        if key.endswith("crops/x/c/2"):
            raise OSError(5, "Input/output error")
        return inner(self, key)

    monkeypatch.setattr(Folder, "blocks", broken)
    report = verify(store.path, deep=True)
    assert problems(report)["cut/P1"] == [f"{CROPS}/2 cannot be read: Input/output error"]


def test_the_next_run_does_what_was_bad_and_nothing_else(
    small_screen: Path, finished: Path, tmp_path: Path
) -> None:
    store = tmp_path / "results.zarr"
    shutil.copytree(finished, store)
    shutil.copytree(f"{finished}.progress", f"{store}.progress")
    flip(store / "plates/crops/crops/image/c/1/0/0/0")
    (store / "plates/crops/embeddings/tiny/profile/embedding/c/0/0/0").write_bytes(b"torn")
    (store / "evaluation/tiny/zarr.json").unlink()
    assert call(store, "--deep").exit_code == EXIT_SOME_FAILED
    counter = Counter()
    Run.from_config(config_of(small_screen, tmp_path)).execute(listener=counter)
    assert counter.done == {"cut": 1, "embed": 1, "evaluate": 11}
    assert_same_store(finished, store)
    assert call(store, "--deep").exit_code == EXIT_DONE
