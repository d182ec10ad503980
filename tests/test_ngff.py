"""OME-Zarr plates: those of others open, others open what is written, few files are touched."""

import pickle
import shutil
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from ngff_plates import foreign_plate, own_plate

from bgscale.errors import FieldError, InputError
from bgscale.ngff import (
    Plate,
    create_plate,
    find_plates,
    is_plate,
    open_plate,
    well_name,
    write_field,
)
from bgscale.ngff.files import LocalFiles
from bgscale.ngff.read import KEPT_FIELDS
from bgscale.schema import Reason

CYCLENET_CHANNELS = ("GFP", "nuclear_RFP", "cyto_farRed")
CYCLENET_FIELDS = ["A01/0", "A01/1", "A01/2", "B01/0"]


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """Write a plate of three fields in two wells, with labels."""
    return own_plate(tmp_path / "W.ome.zarr")


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Keys of the metadata files that are read, and of the folders that are listed, in order."""
    keys: list[str] = []
    read, folders = LocalFiles.read, LocalFiles.folders

    def counted_read(self: LocalFiles, key: str) -> bytes | None:
        keys.append(key)
        return read(self, key)

    def counted_folders(self: LocalFiles, key: str) -> set[str]:
        keys.append(f"{key}/")
        return folders(self, key)

    monkeypatch.setattr(LocalFiles, "read", counted_read)
    monkeypatch.setattr(LocalFiles, "folders", counted_folders)
    return keys


def test_the_metadata_that_are_kept_are_of_so_many_fields_of_all_plates(
    written: Path, reads: list[str]
) -> None:
    plate = open_plate(written)
    plate.image(plate.fields[0])
    read_once = len(reads)
    plate.image(plate.fields[0])
    assert len(reads) == read_once
    for _ in range(-(-KEPT_FIELDS // len(plate.fields))):
        other = open_plate(written)
        for field in other.fields:
            other.image(field)
    reads.clear()
    plate.image(plate.fields[0])
    assert reads


@pytest.mark.parametrize(
    ("name", "version", "fields", "channels", "size_um", "labels"),
    [
        ("ngio_cyclenet_v0.5", "0.5", CYCLENET_FIELDS, CYCLENET_CHANNELS, 0.1, ("cells",)),
        ("iohub_cyclenet_v0.4", "0.4", CYCLENET_FIELDS, CYCLENET_CHANNELS, 1.0, ()),
        ("bioformats2raw-plate", "0.4", ["A01/0", "B01/0"], ("",), 1.0, ()),
    ],
)
def test_plates_of_other_writers_open(
    shared_data: Path,
    name: str,
    version: str,
    fields: list[str],
    channels: tuple[str, ...],
    size_um: float,
    labels: tuple[str, ...],
) -> None:
    location = shared_data / "plates" / f"{name}.zarr"
    plate = open_plate(location)
    assert (plate.name, plate.version, plate.problems) == (name, version, ())
    assert [str(ref) for ref in plate.fields] == [f"{name}/{field}" for field in fields]
    for ref in plate.fields:
        info = plate.image(ref)
        assert (info.channels, info.pixel_size_um, info.labels) == (channels, size_um, labels)
        stored = np.asarray(zarr.open_array(str(location / info.path), mode="r")[...])
        image = plate.read(ref, channels=range(len(channels)))
        assert image.dtype == info.dtype == stored.dtype
        np.testing.assert_array_equal(image, stored.reshape(image.shape))
        assert image.any()
        for label in labels:
            path = location / ref.path / "labels" / label / "0"
            found = plate.read_labels(ref, label, shape=image.shape[1:])
            np.testing.assert_array_equal(found, zarr.open_array(str(path), mode="r")[...])
            assert found.dtype == np.int32
            assert found.max() > 100


@pytest.mark.parametrize("version", ["0.4", "0.5"])
@pytest.mark.parametrize("axes", ["cyx", "tcyx", "tczyx", "zyx", "czyx", "yx"])
@pytest.mark.parametrize("column", ["1", "01"])
def test_every_order_of_axes_reads_as_channel_y_x(
    tmp_path: Path, version: str, axes: str, column: str
) -> None:
    pixels = foreign_plate(tmp_path / "P.zarr", axes, version=version, wells=(f"C/{column}",))
    plate = open_plate(tmp_path / "P.zarr")
    (ref,) = plate.fields
    assert (ref.well, ref.path) == ("C01", f"C/{column}/0")
    info = plate.image(ref)
    assert (info.axes, info.shape, info.pixel_size_um) == (tuple(axes), pixels.shape, 0.5)
    full = pixels[tuple(slice(None) if a in axes else None for a in "tczyx")]
    channels, time = ([2, 0] if "c" in axes else [0]), full.shape[0] - 1
    stack = full[time, channels]
    expected = {
        "max": stack.max(1),
        "mean": np.rint(stack.mean(1)).astype(np.uint16),
        "middle": stack[:, stack.shape[1] // 2],
        0: stack[:, 0],
    }
    for z, planes in expected.items():
        found = plate.read(ref, channels=channels, time=time, z=z)
        np.testing.assert_array_equal(found, planes, err_msg=f"z={z}")
        assert found.dtype == np.uint16


@pytest.mark.parametrize(
    "how",
    [
        {"dtype": ">u2", "version": "0.4"},
        {"dtype": "f4", "version": "0.4", "order": "F"},
        {"chunk_key_encoding": {"name": "default", "separator": "."}},
        {"chunk_key_encoding": {"name": "v2", "separator": "/"}},
        {"shards": {"shape": (3, 48, 32), "index_location": "start"}},
        {"shards": (1, 16, 32)},
    ],
    ids=lambda how: str(next(iter(how.values()))),
)
def test_every_layout_of_chunks_reads_the_same(tmp_path: Path, how: dict[str, Any]) -> None:
    pixels = foreign_plate(tmp_path / "P.zarr", "cyx", **how)
    plate = open_plate(tmp_path / "P.zarr")
    found = plate.read(plate.fields[0], channels=[1])
    np.testing.assert_array_equal(found, pixels[1:2])
    assert found.dtype.isnative


@pytest.mark.parametrize(("version", "roots"), [("0.4", 2), ("0.5", 1)])
def test_opening_reads_one_file_a_well_and_none_of_a_field(
    tmp_path: Path, reads: list[str], version: str, roots: int
) -> None:
    wells = tuple(f"{row}/{column}" for row in "ABC" for column in (1, 2, 10))
    foreign_plate(tmp_path / "P.zarr", "cyx", version=version, wells=wells)
    plate = open_plate(tmp_path / "P.zarr")
    assert len(plate.fields) == len(wells)
    files = [key for key in reads if not key.endswith("/")]
    assert len(files) == roots + len(wells)
    assert sorted(reads) == sorted({*reads}), "something is read twice"
    assert not [key for key in reads if key.count("/") > 2]
    again: Plate = pickle.loads(pickle.dumps(plate))
    assert again.fields == plate.fields
    assert len(reads) == roots + 2 * len(wells), "a pickled plate is read again"
    info = plate.image(plate.fields[0])
    count = len(reads)
    assert plate.image(plate.fields[0]) == info
    plate.read(plate.fields[0], channels=[0])
    assert len(reads) == count, "metadata of a field are read twice"


def test_wells_and_fields_come_in_natural_order(tmp_path: Path) -> None:
    path = tmp_path / "P.zarr"
    create_plate(path, name="P", fields={w: ["10", "2"] for w in ("AA01", "B10", "B2", "A01")})
    for well in ("A01", "B02", "B10", "AA01"):
        for field in ("2", "10"):
            write_field(
                path, well, field, np.ones((1, 4, 4), np.uint8), channels=["g"], pixel_size_um=None
            )
    names = [f"{ref.well}/{ref.field}" for ref in open_plate(path).fields]
    wells = ["A01", "B02", "B10", "AA01"]
    assert names == [f"{well}/{field}" for well in wells for field in ("2", "10")]
    assert well_name("B", "2") == well_name("B", "02") == "B02"


def test_only_the_chunks_that_are_needed_are_looked_at(tmp_path: Path) -> None:
    pixels = foreign_plate(tmp_path / "P.zarr", "cyx")
    shutil.rmtree(tmp_path / "P.zarr/A/1/0/s0/c/1")
    plate = open_plate(tmp_path / "P.zarr")
    found = plate.read(plate.fields[0], channels=[2, 0])
    np.testing.assert_array_equal(found, pixels[[2, 0]])
    with pytest.raises(FieldError, match=r"A/1/0/s0/c/1/0/0 is missing") as caught:
        plate.read(plate.fields[0], channels=[1])
    assert caught.value.reason == Reason.MISSING_CHUNKS


def test_plates_are_found_by_name_folder_and_glob(
    written: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = written.parent
    second = folder / "V10 [a].zarr"
    foreign_plate(second, "cyx", version="0.4")
    foreign_plate(folder / "V2.zarr", "cyx")
    (folder / "notes").mkdir()
    everything = [str(folder / "V2.zarr"), str(second), str(written)]
    assert find_plates(folder) == find_plates(f"{folder}/") == everything
    assert find_plates(f"{folder}/V*") == everything[:2]
    assert find_plates([second, f"{folder}/*.zarr"]) == [str(second), everything[0], str(written)]
    monkeypatch.chdir(folder)
    assert find_plates("W.ome.zarr") == ["W.ome.zarr"]
    assert Path(open_plate("W.ome.zarr").location).is_absolute()
    assert is_plate(written)
    assert not is_plate(written / "A/01/0")


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Start an S3 server with a bucket, which the AWS_* variables point to."""
    pytest.importorskip("obstore", reason="reading s3:// needs obstore")
    moto = pytest.importorskip("moto.server", reason="the S3 server is moto's, with flask")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    variables = {
        "AWS_ACCESS_KEY_ID": "none",
        "AWS_SECRET_ACCESS_KEY": "none",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ALLOW_HTTP": "true",
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    request = urllib.request.Request(f"http://{host}:{port}/screens", method="PUT")
    urllib.request.urlopen(request).close()
    yield "screens"
    server.stop()


def test_a_plate_in_a_bucket_reads_as_on_disk(written: Path, bucket: str) -> None:
    import obstore
    from obstore.store import S3Store

    store = S3Store(bucket, prefix="2024/run 1")
    for file in written.rglob("*"):
        if file.is_file():
            obstore.put(store, f"W.ome.zarr/{file.relative_to(written)}", file.read_bytes())
    location = f"s3://{bucket}/2024/run 1/W.ome.zarr"
    for pattern in (location, f"s3://{bucket}/2024/run 1/", f"s3://{bucket}/20*/*/W*"):
        assert find_plates(pattern) == [location]
    plate, local = pickle.loads(pickle.dumps(open_plate(location))), open_plate(written)
    assert (plate.name, plate.fields, plate.problems) == ("W", local.fields, ())
    for ref in plate.fields:
        info = plate.image(ref)
        assert info == local.image(ref)
        for names in (["RFP"], ["GFP", "RFP"]):
            remote = plate.read(ref, channels=names)
            np.testing.assert_array_equal(remote, local.read(ref, channels=names))
        labels = plate.read_labels(ref, "cells", shape=info.shape[1:])
        np.testing.assert_array_equal(labels, local.read_labels(ref, "cells", shape=info.shape[1:]))
    obstore.delete(store, "W.ome.zarr/A/01/0/0/c/0/0/0")
    with pytest.raises(FieldError) as caught:
        plate.read(plate.fields[0], channels=["GFP"])
    assert caught.value.reason == Reason.MISSING_CHUNKS
    with pytest.raises(InputError, match="there is: run 1"):
        find_plates(f"s3://{bucket}/2024/run 2")
    with pytest.raises(InputError, match=r"neither zarr\.json nor \.zattrs"):
        open_plate(f"s3://{bucket}/2024/none.zarr")


def test_channels_are_found_by_name_case_and_index(tmp_path: Path) -> None:
    path = tmp_path / "P.zarr"
    create_plate(path, name="P", fields={"A01": ["0"]})
    names = ["GFP", "gfp", "RFP", "DAPI", "DAPI"]
    write_field(path, "A01", "0", np.ones((5, 4, 4), np.uint8), channels=names, pixel_size_um=None)
    plate = open_plate(path)
    (ref,) = plate.fields
    assert plate.channel_indices(ref, ["gfp", "GFP", "rfp", 4]) == [1, 0, 2, 4]
    for name, said in {
        "Gfp": "2 channels called 'Gfp'",
        "DAPI": "2 channels called 'DAPI'",
        "RPF": "no channel 'RPF' (did you mean 'RFP'?); it has: GFP, gfp, RFP",
        5: "no channel 5: there are 5, from 0",
        -1: "no channel -1",
    }.items():
        with pytest.raises(FieldError) as caught:
            plate.channel_indices(ref, [name])
        assert said in str(caught.value)
        assert caught.value.reason == Reason.MISSING_CHANNEL


def test_two_plates_of_one_name_are_refused(written: Path) -> None:
    other = written.parent / "again/W.zarr"
    shutil.copytree(written, other)
    with pytest.raises(InputError, match="two plates are called 'W'"):
        find_plates([written, other])


def test_times_and_planes_that_are_not_there_are_said(written: Path) -> None:
    opened = open_plate(written)
    for how in ({"time": 1}, {"z": 2}, {"z": -1}):
        with pytest.raises(FieldError, match="there are 1, from 0") as caught:
            opened.read(opened.fields[0], channels=[0], **how)
        assert caught.value.reason == Reason.WRONG_SHAPE
    with pytest.raises(InputError, match="z is 'sum'; expected one of max, mean, middle"):
        opened.read(opened.fields[0], channels=[0], z="sum")
    with pytest.raises(FieldError, match="did you mean 'cells'"):
        opened.read_labels(opened.fields[0], "cell", shape=(75, 51))
