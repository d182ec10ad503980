"""The run store: whole shards or nothing, read back lazily, and damage is noticed."""

import errno
import json

import numpy as np
import pytest
import xarray as xr
from zarr.storage import LocalStore

from bgscale.errors import AlignmentError, InputError, SchemaError, StoreMismatchError
from bgscale.results import Store, open_results


@pytest.fixture
def store(tmp_path):
    made = Store(tmp_path / "results.zarr")
    made.create({"config": {"seed": 1}})
    made.create_group("cells", coords={"setting": ["original", "masked"]}, description="d")
    return made


@pytest.fixture
def sharded(store):
    """300 x 2 x 5, shards of 128 cells in chunks of 64."""
    store.create_array(
        "cells/embedding",
        {"cell": 300, "setting": 2, "feature": 5},
        "float32",
        chunk={"cell": 64},
        shard={"cell": 128},
        fill=float("nan"),
        units="1",
    )
    return store


def files(store):
    return {str(p.relative_to(store.path)) for p in store.path.rglob("*") if p.is_file()}


def block(n, value=1.0):
    return np.full((n, 2, 5), value, np.float32)


# making one


def test_a_folder_that_holds_something_else_is_refused_and_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"is there and is not a run store: choose another"):
        Store(tmp_path).create({})
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]


def test_a_store_is_made_with_its_version_in_one_step(tmp_path, monkeypatch):
    monkeypatch.setattr("zarr.core.attributes.Attributes.update", lambda *_: 1 / 0)
    Store(tmp_path).create({"config": 1})
    assert Store(tmp_path).attrs()["config"] == 1


def test_an_empty_folder_will_do(tmp_path):
    Store(tmp_path).create({})
    assert Store(tmp_path).exists()


def test_a_target_that_cannot_be_written_is_bad_input(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match=r"cannot write the run store .*: Not a directory"):
        Store(tmp_path / "file" / "results.zarr").create({})
    with pytest.raises(InputError, match="is not a run store"):
        Store(tmp_path / "file").create({})

    def refuse(*_, **__):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("zarr.create_group", refuse)
    with pytest.raises(InputError, match="Read-only file system"):
        Store(tmp_path / "new.zarr").create({})


def test_a_full_disk_is_not_called_bad_input(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("zarr.create_group", refuse)
    with pytest.raises(OSError, match="No space left") as caught:
        Store(tmp_path / "new.zarr").create({})
    assert not isinstance(caught.value, InputError)


def test_a_store_of_another_version_or_none_is_refused(store, tmp_path):
    assert store.attrs()["config"] == {"seed": 1}
    store.update_attrs({"bgscale_store": 99})
    with pytest.raises(StoreMismatchError, match="has store version 99, this bgscale reads 2"):
        store.attrs()
    with pytest.raises(StoreMismatchError, match="store version 99"):
        open_results(store.path)
    with pytest.raises(StoreMismatchError, match="is not a run store"):
        open_results(tmp_path / "none.zarr")
    (store.path / "zarr.json").write_text("{torn")
    with pytest.raises(StoreMismatchError, match="is not a run store"):
        store.attrs()


# writing


@pytest.mark.parametrize(
    ("region", "says"),
    [
        ([(0, 100)], r"axis 0: region \[0, 100\) of length 300 .* starts 0 and ends 100 past"),
        ([(64, 128)], "starts 64 and ends 0 past"),
        ([(1, 300)], "starts 1 and ends 0 past"),
        ([(0, 128), (0, 1)], r"axis 1: region \[0, 1\)"),
        ([(0, 384)], r"region \[0, 384\) of length 300"),
        ([(128, 128)], r"region \[128, 128\)"),
        ([(-128, 128)], r"region \[-128, 128\)"),
    ],
)
def test_a_write_that_does_not_cover_whole_shards_is_refused(sharded, region, says):
    before = files(sharded)
    start, stop = region[0]
    data = block(max(stop - start, 0))[:, : region[1][1] if len(region) > 1 else None]
    with pytest.raises(AlignmentError, match=says):
        sharded.write("cells/embedding", region, data)
    assert files(sharded) == before


def test_a_block_of_another_shape_is_refused(sharded):
    with pytest.raises(SchemaError, match=r"got a block of shape \(1, 2, 5\).*\(128, 2, 5\)"):
        sharded.write("cells/embedding", [(0, 128)], block(1))


def test_the_files_a_write_names_are_the_files_it_made(sharded):
    before = files(sharded)
    written = sharded.write("cells/embedding", [(0, 256)], block(256))
    written += sharded.write("cells/embedding", [(256, 300)], block(44))
    assert len(written) == 3
    assert files(sharded) - before == set(written)


def test_a_shard_of_zeros_or_of_the_fill_value_is_stored(sharded):
    for value in (0.0, float("nan")):
        (name,) = sharded.write("cells/embedding", [(0, 128)], block(128, value))
        assert (sharded.path / name).is_file()
        (sharded.path / name).unlink()


def test_what_is_written_is_read_back(sharded):
    data = np.random.default_rng(0).random((300, 2, 5), np.float32)
    for start in (0, 128, 256):
        stop = min(start + 128, 300)
        sharded.write("cells/embedding", [(start, stop)], data[start:stop])
    assert (sharded.read("cells/embedding") == data).all()
    assert (sharded.read("cells/embedding", slice(100, 200), 1) == data[100:200, 1]).all()
    rows = np.array([299, 0, 128, 0])
    assert (sharded.read_rows("cells/embedding", rows) == data[rows]).all()
    assert sharded.read_rows("cells/embedding", rows[:0]).shape == (0, 2, 5)


def test_an_array_with_an_empty_dim_has_nothing_to_write(store):
    store.create_array("cells/none", {"cell": 3, "replicate": 0}, "float32", chunk={"cell": 2})
    assert store.write("cells/none", [(0, 2)], np.zeros((2, 0), np.float32)) == []
    assert store.read("cells/none").shape == (3, 0)


@pytest.mark.parametrize("place", [0, 100, -1])
def test_a_flipped_byte_is_an_error_on_reading(sharded, place):
    data = np.random.default_rng(0).random((128, 2, 5), np.float32)
    (name,) = sharded.write("cells/embedding", [(0, 128)], data)
    content = bytearray((sharded.path / name).read_bytes())
    content[place] ^= 1
    (sharded.path / name).write_bytes(content)
    with pytest.raises(ValueError, match="checksum"):
        sharded.read("cells/embedding")


@pytest.mark.parametrize("old", [b"", b"torn", bytes(100), b"x" * 10_000, "cut", "altered"])
@pytest.mark.parametrize("start", [0, 128, 256])
def test_a_shard_is_written_whatever_was_there(sharded, old, start):
    stop = min(start + 128, 300)
    data = np.random.default_rng(0).random((stop - start, 2, 5), np.float32)
    (name,) = sharded.write("cells/embedding", [(start, stop)], data)
    path = sharded.path / name
    first = path.read_bytes()
    if old == "cut":
        old = first[: len(first) // 2]
    elif old == "altered":
        old = first[:100] + bytes([first[100] ^ 1]) + first[101:]
    path.write_bytes(old)
    assert sharded.write("cells/embedding", [(start, stop)], data) == [name]
    assert path.read_bytes() == first


def test_a_write_that_fails_removes_nothing(sharded, monkeypatch):
    (name,) = sharded.write("cells/embedding", [(0, 128)], block(128))
    first = (sharded.path / name).read_bytes()

    async def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(LocalStore, "set", full)
    with pytest.raises(OSError, match="No space left"):
        sharded.write("cells/embedding", [(0, 128)], block(128))
    assert (sharded.path / name).read_bytes() == first


def test_a_group_made_again_forgets_what_was_in_it(sharded):
    sharded.create_group("cells", coords={})
    assert sharded.has("cells")
    assert not sharded.has("cells/embedding")


# reading


def test_dims_carry_their_names_and_others_stand_beside_them(store):
    store.create_group(
        "proteins",
        coords={"protein": ["P1", "P2", "P3"], "orf": ("protein", ["A", "B", "C"]), "fold": [0, 1]},
        description="who",
    )
    store.create_array("proteins/n", {"protein": 3}, "int32", chunk={}, names=["x"])
    dataset = open_results(store.path)["proteins"].to_dataset()
    assert dataset.protein.to_numpy().tolist() == ["P1", "P2", "P3"]
    assert dataset.orf.dims == ("protein",)
    assert dataset.n.sel(protein="P2").orf == "B"
    # no variable has the dim fold
    assert "fold" not in dataset.coords
    assert dataset.attrs == {"description": "who"}
    assert dataset.n.attrs["names"] == ["x"]


def test_a_dim_of_two_names_is_not_taken_for_a_further_coordinate(sharded):
    dataset = open_results(sharded.path)["cells"].to_dataset()
    assert dataset.setting.to_numpy().tolist() == ["original", "masked"]
    assert dataset.embedding.dims == ("cell", "setting", "feature")


def test_integers_stay_integers_and_zero_is_a_value(store):
    store.create_array("cells/reason", {"cell": 3}, "uint8", chunk={})
    store.write("cells/reason", [(0, 3)], np.array([0, 1, 0], np.uint8))
    reason = open_results(store.path)["cells/reason"]
    assert reason.dtype == np.uint8
    assert reason.to_numpy().tolist() == [0, 1, 0]


def test_opening_reads_no_data(sharded, monkeypatch):
    sharded.write("cells/embedding", [(0, 128)], block(128))
    keys = []
    get = LocalStore.get

    async def counting(self, key, *args, **kwargs):
        keys.append(key)
        return await get(self, key, *args, **kwargs)

    monkeypatch.setattr(LocalStore, "get", counting)
    tree = open_results(sharded.path)
    assert isinstance(tree, xr.DataTree)
    chunks = [key for key in keys if "/c/" in key]
    assert keys
    assert chunks == []
    # one row is one shard: its index and one chunk
    assert (tree["cells/embedding"][5] == 1).all()
    assert {key for key in keys if "/c/" in key} == {"cells/embedding/c/0/0/0"}


def test_attributes_are_plain_json(store):
    meta = json.loads((store.path / "cells" / "zarr.json").read_text())
    assert meta["zarr_format"] == 3
    assert meta["attributes"]["coords"] == {"setting": ["original", "masked"]}
