"""A run store in a bucket is as one in a folder: same bytes, same ledger, one run at a time."""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from buckets import BUCKET, endpoint, proxied, use

from bgscale.distribute.ledger import Ledger
from bgscale.distribute.lock import LOCK, Holder, held
from bgscale.distribute.units import Unit, plan_units
from bgscale.errors import (
    EXIT_BAD_INPUT,
    EXIT_TRY_AGAIN,
    InputError,
    InterruptedRunError,
    SchemaError,
    StoreMismatchError,
)
from bgscale.places import Place, bucket, is_remote, place_at, spelled
from bgscale.results import Store, open_results
from bgscale.verify import mark, verify


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with endpoint() as found:
        yield found


@pytest.fixture
def s3(address: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """Location that no other test uses, in a bucket of a good endpoint."""
    use(monkeypatch, address)
    own = hashlib.blake2b(request.node.name.encode(), digest_size=8).hexdigest()
    return f"s3://{BUCKET}/{own}/results.zarr"


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let pauses between tries be short, and few."""
    monkeypatch.setattr(bucket, "FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr(bucket, "LONGEST_PAUSE_S", 0.01)
    bucket._opened.cache_clear()
    yield
    bucket._opened.cache_clear()


@pytest.fixture(params=["folder", "bucket"])
def location(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "folder":
        return str(tmp_path / "results.zarr")
    return str(request.getfixturevalue("s3"))


@pytest.fixture
def place(location: str) -> Place:
    return place_at(location)


# places


def test_what_is_written_is_there_and_nothing_else(place: Place) -> None:
    place.replace("a/b c/100%", b"one")
    place.replace("a/b c/d/e", b"")
    place.replace("a/ü+~#?", b"three")
    place.replace("ab/x", b"no neighbour of a")
    assert place.read("a/b c/100%") == b"one"
    assert place.read("a/b c/d/e") == b""
    assert place.read("a/none") is None
    assert place.read("a/b c") is None
    assert place.names("a") == {"ü+~#?"}
    assert place.names("a/b c") == {"100%"}
    assert place.names("none") == set()
    assert sorted(place.below("a")) == ["a/b c/100%", "a/b c/d/e", "a/ü+~#?"]
    place.remove("a")
    assert list(place.below("a")) == []
    assert place.read("ab/x") == b"no neighbour of a"
    place.delete(["ab/x", "ab/x", "ab/none"])
    assert place.read("ab/x") is None


def test_of_a_folder_that_is_removed_the_files_right_in_it_go_first(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    # sorts after what lies below
    held = ["a/x/c/0", "a/x/zarr.json", "a/zarr.json"]
    for key in held:
        place.replace(key, b"{}")
    delete = type(place).delete

    def cut_short(self: Any, keys: Iterable[str]) -> None:
        delete(self, keys)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(type(place), "delete", cut_short)
        with pytest.raises(KeyboardInterrupt):
            place.remove("a")
    assert sorted(place.below("a")) == held[:2]
    place.remove("a")
    assert list(place.below("a")) == []


@pytest.mark.parametrize("step", range(10))
def test_a_move_that_is_cut_short_leaves_one_whole_folder(
    s3: str, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = place_at(s3)
    assert isinstance(place, bucket.Bucket)
    held = {"a/zarr.json": b"{}", "a/x/zarr.json": b"[]", "a/x/c/0": b"0", "a/x/c/1": b"1"}
    for key, content in held.items():
        place.replace(key, content)
    asked, delete, steps = bucket.Bucket._asked, bucket.Bucket.delete, iter(range(100))

    def cut_short(self: bucket.Bucket, what: Callable[[], Any]) -> Any:
        if next(steps) == step:
            raise KeyboardInterrupt
        return asked(self, what)

    def one_by_one(self: bucket.Bucket, keys: Iterable[str]) -> None:
        # as thousands go in several requests
        for key in keys:
            delete(self, [key])

    with monkeypatch.context() as patch:
        patch.setattr(bucket.Bucket, "_asked", cut_short)
        patch.setattr(bucket.Bucket, "delete", one_by_one)
        with suppress(KeyboardInterrupt):
            place.move("a", "b")
    found = {top: sorted(place.below(top)) for top in "ab"}
    whole = [top for top in "ab" if f"{top}/zarr.json" in found[top]]
    assert whole
    for top in whole:
        assert found[top] == sorted(f"{top}{key[1:]}" for key in held)
    if next(steps) <= step:
        # it was not cut short
        assert found["a"] == []


@pytest.mark.parametrize("number", [3, 60])
def test_sizes_are_those_of_files_that_are_there(place: Place, number: int) -> None:
    keys = [f"a/c/{i}/0" for i in range(number)]
    for i, key in enumerate(keys):
        place.replace(key, b"x" * i)
    sizes = place.sizes([*keys, "a/c/none", "b/none", "../results.zarr/a/c/0/0", "/etc/hostname"])
    assert [sizes.pop(key) for key in keys] == list(range(number))
    assert len(sizes) == 4
    assert set(sizes.values()) == {None}


def test_a_file_is_created_once(place: Place) -> None:
    assert place.create("lock", b"mine")
    assert not place.create("lock", b"yours")
    assert place.read("lock") == b"mine"
    # one's own answer may have been lost
    assert place.create("lock", b"mine")
    assert place.swap("lock", b"mine", b"later")
    assert not place.swap("lock", b"mine", b"too late")
    assert not place.swap("none", b"", b"x")
    assert place.read("lock") == b"later"
    assert list(place.names("lock")) == []


def test_a_place_has_a_clock(place: Place) -> None:
    before = place.now()
    place.replace("x", b"")
    modified = place.modified("x")
    assert modified is not None
    assert before - 1 <= modified <= place.now() + 1
    assert place.modified("none") is None
    assert sorted(place.below("x")) == []


def test_content_comes_in_pieces_and_missing_content_is_an_error(place: Place) -> None:
    content = np.random.default_rng(0).bytes(3 * 2**20 + 5)
    place.replace("x", content)
    blocks = list(place.blocks("x"))
    assert len(blocks) > 1
    assert b"".join(blocks) == content
    with pytest.raises(FileNotFoundError):
        list(place.blocks("none"))


@pytest.mark.parametrize("key", ["../x", "/x", "a/../../x", "a//b", "", "."])
def test_keys_lead_nowhere_else(place: Place, key: str) -> None:
    assert place.leads_out(key)
    assert place.sizes([key]) == {key: None}


def test_a_path_of_an_address_is_the_address() -> None:
    assert spelled(Path("s3://bucket/a/results.zarr")) == "s3://bucket/a/results.zarr"
    assert is_remote(Path("s3://bucket/a"))
    assert not is_remote("results.zarr")


@pytest.mark.parametrize("location", ["s3://", "s3://bucket", "s3://bucket/", "s3://bucket/a/../b"])
def test_an_address_must_name_a_place_in_a_bucket(location: str) -> None:
    with pytest.raises(InputError, match="expected s3://bucket/prefix"):
        Store(location)
    with pytest.raises(InputError, match=r"gs:// is not known; expected a folder or s3://"):
        Store("gs://bucket/results.zarr")


# stores


def filled(location: str) -> Store:
    """Return a store with an array of 300 cells in three shards, each with its record."""
    store = Store(location)
    store.create({"stages": {"embed": {"token": "t", "units": 3, "nodes": ["cells"]}}})
    store.create_group("cells", coords={"setting": ["original", "masked"]}, description="d")
    dims = {"cell": 300, "setting": 2}
    chunk, shard = {"cell": 64}, {"cell": 128}
    store.create_array("cells/x", dims, "float32", chunk=chunk, shard=shard, units="1")
    for unit in plan_units("embed", 300, 128, "t"):
        values = np.arange(unit.start * 2, unit.stop * 2, dtype=np.float32).reshape(-1, 2)
        files = store.write("cells/x", [(unit.start, unit.stop)], values)
        Ledger(location).complete(unit, files, {"cells": unit.stop - unit.start})
    return store


def test_a_store_in_a_bucket_has_the_bytes_of_one_in_a_folder(s3: str, tmp_path: Path) -> None:
    filled(s3)
    local = filled(str(tmp_path / "results.zarr"))
    for beside in ("", ".progress"):
        folder = Path(f"{local.location}{beside}")
        there = place_at(f"{s3}{beside}")
        files = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file()}
        tops = {name.split("/")[0] for name in files}
        found = {k for top in tops for k in there.below(top)} | {t for t in tops if t in files}
        assert found == set(files)
        assert [k for k, path in files.items() if there.read(k) != path.read_bytes()] == []


def test_a_store_reads_what_it_wrote(location: str) -> None:
    store = filled(location)
    expected = np.arange(600, dtype=np.float32).reshape(-1, 2)
    assert (store.read("cells/x") == expected).all()
    assert (store.read("cells/x", slice(100, 200), 1) == expected[100:200, 1]).all()
    rows = np.array([299, 0, 128, 0])
    assert (store.read_rows("cells/x", rows) == expected[rows]).all()
    assert store.has("cells")
    assert store.has("cells/x")
    assert not store.has("none")
    store.update_attrs({"more": 1}, "cells")
    assert store.attrs("cells")["more"] == 1
    tree = open_results(Path(location))
    assert tree["cells"]["x"].dims == ("cell", "setting")
    assert tree["cells"]["setting"].to_numpy().tolist() == ["original", "masked"]
    assert (tree["cells/x"].to_numpy() == expected).all()
    assert store.sweep() == 0
    store.flush(["cells"])
    with pytest.raises(SchemaError):
        store.write("cells/x", [(0, 128)], np.zeros((1, 2), np.float32))
    store.remove("cells/x")
    assert store.has("cells")
    assert not store.has("cells/x")
    with pytest.raises(FileNotFoundError):
        store.read("cells/x")


def test_what_is_no_store_is_said_to_be_none(location: str) -> None:
    store = Store(location)
    assert not store.exists()
    # a bucket has no folders that could be missing
    found = "there is no such folder" if not is_remote(location) else "it has no zarr"
    with pytest.raises(StoreMismatchError, match=f"is not a run store of bgscale: {found}"):
        open_results(location)
    store.place.replace("notes.txt", b"mine")
    with pytest.raises(InputError, match="is there and is not a run store: choose another"):
        store.create({})
    store.place.replace("zarr.json", b"{torn")
    with pytest.raises(StoreMismatchError, match="is not a run store"):
        store.attrs()


def test_a_store_in_a_bucket_has_no_folder(s3: str) -> None:
    with pytest.raises(InputError, match="lies in a bucket"):
        Store(s3).path  # noqa: B018
    with pytest.raises(InputError, match=r"results.zarr.progress lies in a bucket"):
        Ledger(s3).folder  # noqa: B018


# ledger and lock


def test_done_is_what_has_a_record_that_is_borne_out(location: str) -> None:
    store, ledger = filled(location), Ledger(location)
    units = plan_units("embed", 300, 128, "t")
    assert ledger.done(units) == set(units)
    assert ledger.summaries(units) == [{"cells": 128}, {"cells": 128}, {"cells": 44}]
    assert ledger.count("embed", "t") == 3
    store.place.delete(["cells/x/c/0/0"])
    store.place.replace("cells/x/c/1/0", b"short")
    assert ledger.done(units) == {units[2]}
    assert [ledger.is_done(u) for u in units] == [False, False, True]
    assert len(ledger.summaries(units)) == 1
    ledger.forget_units(units[2:])
    assert ledger.done(units) == set()
    assert ledger.forget("embed") == 2
    assert ledger.recorded() == []


def test_the_first_record_of_a_unit_stays(location: str) -> None:
    store, ledger = filled(location), Ledger(location)
    unit = plan_units("embed", 300, 128, "t")[0]
    ledger.complete(unit, ["cells/x/c/0/0"], {"cells": -1})
    assert ledger.summaries([unit]) == [{"cells": 128}]
    store.place.replace("cells/x/c/0/0", b"other bytes")
    ledger.complete(unit, ["cells/x/c/0/0"], {"cells": -1})
    assert ledger.summaries([unit]) == [{"cells": -1}]
    with pytest.raises(FileNotFoundError):
        ledger.complete(Unit("embed", 0, 1, "t"), ["cells/none"], {})


def test_damage_is_found_and_forgotten(location: str) -> None:
    store, ledger = filled(location), Ledger(location)
    units = plan_units("embed", 300, 128, "t")
    assert verify(location, deep=True).is_sound
    store.place.delete(["cells/x/c/0/0"])
    content = bytearray(store.place.read("cells/x/c/1/0") or b"")
    content[10] ^= 1
    store.place.replace("cells/x/c/1/0", bytes(content))
    assert verify(location).stages[0].bad_units == units[:1]
    report = verify(location, deep=True)
    assert report.stages[0].bad_units == units[:2]
    mark(report)
    assert ledger.recorded() == units[2:]
    store.place.delete(["cells/x/zarr.json"])
    mark(verify(location))
    assert store.attrs()["stages"] == {}
    assert ledger.recorded() == []


def test_a_second_run_of_a_store_is_refused(location: str) -> None:
    said: list[str] = []
    with held(location, notice=said.append) as lock:
        lock.renew()
        with (
            pytest.raises(InputError, match="is being written by another run") as caught,
            held(location),
        ):
            pass
        assert caught.value.exit_code == EXIT_BAD_INPUT
        assert not lock.is_lost
    with held(location, notice=said.append):
        pass
    assert said == []
    assert Ledger(location).place.read(LOCK) is None


def test_the_lock_of_a_dead_run_is_taken_over(location: str) -> None:
    place = Ledger(location).place
    here = Holder.here()
    dead = Holder(**{**vars(here), "pid": 2**22 + 1})
    place.replace(LOCK, dead.content)
    said: list[str] = []
    with held(location, notice=said.append) as lock:
        # and the dead one, should it come back, has lost it
        assert not place.swap(LOCK, dead.content, b"mine again")
        lock.renew()
        assert not lock.is_lost
    assert len(said) == 1
    assert f"process {2**22 + 1} on {here.host}" in said[0]


# bad endpoints


@pytest.mark.parametrize("how", ["503", "late", "torn"])
def test_every_third_request_may_fail(
    s3: str, address: str, quick: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    with proxied(address, how=how) as proxy:
        use(monkeypatch, proxy.address)
        store, ledger = filled(s3), Ledger(s3)
        units = plan_units("embed", 300, 128, "t")
        assert ledger.done(units) == set(units)
        assert verify(s3, deep=True).is_sound
        with held(s3) as lock:
            for _ in range(6):
                lock.renew()
            assert not lock.is_lost
        tree = open_results(s3)
        values = tree["cells/x"].to_numpy()
        store.remove("cells")
        assert not store.has("cells/x")
        assert proxy.failed > 20
    assert (values == filled(str(tmp_path / "r.zarr")).read("cells/x")).all()


def test_an_endpoint_that_does_not_answer_is_try_again(
    s3: str, address: str, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with proxied(address, every=0) as proxy:
        use(monkeypatch, proxy.address)
        store, ledger = filled(s3), Ledger(s3)
        array = open_results(s3)["cells/x"]
        proxy.every, before = 1, len(proxy.requests)
        unit = Unit("embed", 0, 128, "t")
        for ask in (
            store.exists,
            store.attrs,
            lambda: store.has("cells"),
            lambda: store.read("cells/x"),
            lambda: store.write("cells/x", [(0, 128)], np.zeros((128, 2), np.float32)),
            lambda: store.remove("cells"),
            lambda: store.update_attrs({"a": 1}),
            lambda: ledger.is_done(unit),
            lambda: ledger.done([unit]),
            lambda: ledger.complete(unit, ["cells/x/c/0/0"], {}),
            lambda: ledger.forget("embed"),
            lambda: held(s3).__enter__(),
            lambda: verify(s3),
            lambda: open_results(s3),
            array.to_numpy,
        ):
            with pytest.raises(InterruptedRunError, match=r"does not answer.*run again") as caught:
                ask()
            assert caught.value.exit_code == EXIT_TRY_AGAIN
            tries = len(proxy.requests) - before
            assert tries >= bucket.MAX_RETRIES + 1
            assert "hush" not in str(caught.value)
            before = len(proxy.requests)
        proxy.every = 0
        assert ledger.is_done(unit)


def test_an_endpoint_that_refuses_is_bad_input(
    s3: str, address: str, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with proxied(address, every=1, how="403") as proxy:
        use(monkeypatch, proxy.address)
        with pytest.raises(InputError, match=r"403.*those of the AWS_\* variables"):
            Store(s3).exists()
        # asking again would not help
        assert len(proxy.requests) == 1
    use(monkeypatch, address)
    for ask in (
        lambda: Store("s3://no-such-bucket/results.zarr").create({}),
        lambda: held("s3://no-such-bucket/results.zarr").__enter__(),
    ):
        with pytest.raises(InputError, match=r"no-such-bucket.*(bucket|404)"):
            ask()


def test_done_is_one_listing_of_the_records_and_one_of_each_array(
    s3: str, address: str, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, ledger = Store(s3), Ledger(s3)
    store.create({})
    units = plan_units("embed", 300, 1, "t")
    for unit in units[:290]:
        store.place.replace(f"a/c/{unit.start}", b"x")
        files = f'{{"a/c/{unit.start}": {{"bytes": 1, "crc32": 0}}}}'
        ledger.place.replace(f"units/{unit.name}.t.json", f'{{"files": {files}}}'.encode())
    ledger.bind("embed")
    with proxied(address, every=0) as proxy:
        use(monkeypatch, proxy.address)
        assert ledger.done(units) == set(units[:290])
        assert len(proxy.requests) == 3
        # records, what they claim, files
        assert proxy.count("GET", "list-type=2") == 2
        assert proxy.count("GET", "bound.jsonl") == 1
        store.place.delete(["a/c/7"])
        assert ledger.done(units) == set(units[:290]) - {units[7]}
