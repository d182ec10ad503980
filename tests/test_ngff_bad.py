"""Plates that are wrong, hostile or half written: a clear error or a reason each, never a crash."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ngff_plates import foreign_plate

from bgscale.errors import FieldError, InputError
from bgscale.ngff import (
    create_plate,
    find_plates,
    open_plate,
    write_field,
    write_labels,
)
from bgscale.ngff.files import S3Files
from bgscale.schema import Reason

FIELD, ARRAY, LABELS = "A/01/0", "A/01/0/0", "A/01/0/labels/cells"
IMAGE = np.random.default_rng(5).integers(90, 4000, (2, 40, 30)).astype(np.uint16)


@pytest.fixture
def plate(tmp_path: Path) -> Path:
    """Write a plate of one well with two fields, the first with labels."""
    path = tmp_path / "W.zarr"
    create_plate(path, name="W", fields={"A01": ["0", "1"]})
    for field in ("0", "1"):
        write_field(path, "A01", field, IMAGE, channels=["GFP", "RFP"], pixel_size_um=0.25)
    write_labels(path, "A01", "0", IMAGE[0] // 500, pixel_size_um=0.25)
    return path


def ome(document: dict[str, Any]) -> dict[str, Any]:
    """Return the OME part of a document."""
    found: dict[str, Any] = document["attributes"]["ome"]
    return found


def first(document: dict[str, Any]) -> dict[str, Any]:
    """Return the first multiscale image of a document."""
    found: dict[str, Any] = ome(document)["multiscales"][0]
    return found


def edit(file: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change a metadata file."""
    document = json.loads(file.read_text(encoding="utf-8"))
    change(document)
    file.write_text(json.dumps(document), encoding="utf-8")


def use_all(path: Path) -> None:
    """Open a plate and read all there is of it."""
    opened = open_plate(path)
    for ref in opened.fields:
        info = opened.image(ref)
        image = opened.read(ref, channels=[0])
        for name in info.labels:
            opened.read_labels(ref, name, shape=image.shape[1:])


FIELD_FAULTS: dict[str, tuple[str, Callable[[dict[str, Any]], object], Reason, str]] = {
    "a plane of 2**29 pixels": (
        ARRAY,
        lambda d: d.update(shape=[2, 2**15, 2**14]),
        Reason.TOO_LARGE,
        "shape (2, 32768, 16384) is larger than allowed",
    ),
    "chunks above 1 GiB": (
        ARRAY,
        lambda d: (
            d["codecs"][0]["configuration"].update(chunk_shape=[2, 2**15, 2**15])
            or d["chunk_grid"]["configuration"].update(chunk_shape=[2, 2**15, 2**15])
        ),
        Reason.TOO_LARGE,
        "allowed are 1073741824: write smaller chunks",
    ),
    "a shard whose index is above 1 GiB": (
        ARRAY,
        lambda d: (
            d["codecs"][0]["configuration"].update(chunk_shape=[1, 1, 1])
            or d["chunk_grid"]["configuration"].update(chunk_shape=[2, 2**15, 2**14])
        ),
        Reason.TOO_LARGE,
        "the index of a shard",
    ),
    "axes without y": (
        FIELD,
        lambda d: first(d)["axes"][1].update(name="q"),
        Reason.METADATA,
        "axis 'q'; expected t, c, z, y, x",
    ),
    "two axes for three dimensions": (
        FIELD,
        lambda d: (
            [first(d)["axes"].pop(0)]
            and [
                t.update(scale=[1, 1])
                for s in first(d)["datasets"]
                for t in s["coordinateTransformations"]
                if "scale" in t
            ]
        ),
        Reason.METADATA,
        "there are 2 axes (y, x); the array has 3",
    ),
    "other dimension names": (
        ARRAY,
        lambda d: d.update(dimension_names=["c", "x", "y"]),
        Reason.METADATA,
        "dimension_names are c, x, y; the axes are c, y, x",
    ),
    "a dtype that is no number": (
        ARRAY,
        lambda d: d.update(data_type="string"),
        Reason.METADATA,
        "data_type is 'string'; expected a number",
    ),
    "a codec that runs code": (
        ARRAY,
        lambda d: d["codecs"][0]["configuration"]["codecs"].append({"name": "numcodecs.pickle"}),
        Reason.METADATA,
        "codec 'pickle' is not run",
    ),
    "an array outside": (
        FIELD,
        lambda d: first(d)["datasets"][0].update(path="../../../secret"),
        Reason.METADATA,
        "datasets[0].path is '../../../secret'",
    ),
    "an array that is not there": (
        FIELD,
        lambda d: first(d)["datasets"][0].update(path="9"),
        Reason.METADATA,
        "there is no array '9', which its metadata name",
    ),
    "a scale of nothing": (
        FIELD,
        lambda d: first(d)["datasets"][0]["coordinateTransformations"][0].update(scale=[1, 0, 1]),
        Reason.METADATA,
        "expected lengths above 0",
    ),
    "more names than channels": (
        FIELD,
        lambda d: ome(d)["omero"]["channels"].append({"label": "BFP"}),
        Reason.METADATA,
        "omero names 3 channels; the array has 2 channels",
    ),
    "a version to come": (
        FIELD,
        lambda d: ome(d).update(version="0.6"),
        Reason.METADATA,
        "is OME-Zarr '0.6'; expected a version of up to 0.5",
    ),
    "labels outside": (
        "A/01/0/labels",
        lambda d: ome(d).update(labels=["../../1"]),
        Reason.LABELS,
        "'../../1'; expected names",
    ),
    "labels that are not there": (
        "A/01/0/labels",
        lambda d: ome(d).update(labels=["nuclei"]),
        Reason.LABELS,
        "A/01/0/labels/nuclei: there is no zarr.json",
    ),
    "float labels": (
        f"{LABELS}/0",
        lambda d: d.update(data_type="float32"),
        Reason.LABELS,
        "got 40x30 float32, 1 channels; expected 40x30 of integers",
    ),
    "labels of another size": (
        f"{LABELS}/0",
        lambda d: d.update(shape=[40, 29]),
        Reason.LABELS,
        "got 40x29 uint32",
    ),
}


@pytest.mark.parametrize("fault", FIELD_FAULTS)
def test_a_bad_field_has_its_reason_and_the_others_are_read(plate: Path, fault: str) -> None:
    node, change, reason, said = FIELD_FAULTS[fault]
    edit(plate / node / "zarr.json", change)
    with pytest.raises(FieldError) as caught:
        use_all(plate)
    assert said in str(caught.value)
    assert caught.value.reason == reason
    assert str(caught.value).startswith("W/A")
    opened = open_plate(plate)
    np.testing.assert_array_equal(opened.read(opened.fields[1], channels=["RFP"]), IMAGE[1:])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda d: ome(d).pop("plate"), "metadata has no 'plate'"),
        (lambda d: ome(d)["plate"].update(wells=[]), "plate.wells is empty"),
        (lambda d: ome(d)["plate"].update(wells={"path": "A/01"}), "plate.wells is an object"),
        (lambda d: d["attributes"].update(ome=3), "attributes.ome is 3; expected an object"),
        (lambda d: ome(d).update(version="0.6rc1"), "is OME-Zarr '0.6rc1'"),
    ],
)
def test_a_bad_plate_is_refused_as_a_whole(
    plate: Path, change: Callable[[dict[str, Any]], object], said: str
) -> None:
    edit(plate / "zarr.json", change)
    with pytest.raises(InputError) as caught:
        open_plate(plate)
    assert said in str(caught.value)
    assert str(plate) in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b"[" * 100_000, b'{"a": 1e'])
def test_what_is_no_json_is_refused(plate: Path, content: bytes) -> None:
    (plate / FIELD / "zarr.json").write_bytes(content)
    with pytest.raises(FieldError, match="W/A/01/0") as caught:
        use_all(plate)
    assert caught.value.reason == Reason.METADATA
    (plate / "zarr.json").write_bytes(content)
    with pytest.raises(InputError, match=r"zarr\.json"):
        open_plate(plate)


def test_bad_wells_and_fields_are_problems_of_their_own(plate: Path) -> None:
    def add_wells(document: dict[str, Any]) -> None:
        paths = ["../A", "/etc/x", "A/01/0", "A/01", "A/1", "C/07", "B//2"]
        ome(document)["plate"]["wells"] += [{"path": p} for p in paths] + [{"path": 3}, "D/1"]

    def add_fields(document: dict[str, Any]) -> None:
        paths = ["0", "..", "/etc", "2", "1/0", ""]
        ome(document)["well"]["images"] += [{"path": p} for p in paths] + [{}]

    edit(plate / "zarr.json", add_wells)
    edit(plate / "A/01/zarr.json", add_fields)
    opened = open_plate(plate)
    assert [ref.path for ref in opened.fields] == ["A/01/0", "A/01/1"]
    assert {p.reason for p in opened.problems} == {Reason.METADATA}
    wells = [p for p in opened.problems if p.text.startswith(("path of", "entry of", "plate.w"))]
    assert len(wells) == 6
    assert [p.well for p in opened.problems if "named twice, as" in p.text] == ["A01", "A01"]
    (missing,) = (p for p in opened.problems if p.well == "C07")
    assert missing.text.startswith("W/C/07: there is no zarr.json")
    fields = [p for p in opened.problems if p.text.startswith("W/A/01: ")]
    assert sorted(p.field for p in fields) == ["", "", "", "", "", "0", "2"]


@pytest.mark.parametrize("link", ["A/01/zarr.json", FIELD, ARRAY, f"{ARRAY}/c/0/0/0", LABELS])
def test_links_out_of_the_plate_are_not_followed(plate: Path, link: str) -> None:
    outside = plate.parent / "outside"
    shutil.move(plate / link, outside)
    (plate / link).symlink_to(outside)
    said = "leads out of the plate"
    if link == "A/01/zarr.json":
        assert said in open_plate(plate).problems[0].text
        return
    with pytest.raises(FieldError, match=said) as caught:
        use_all(plate)
    assert caught.value.reason == Reason.UNREADABLE
    (plate / link).unlink()
    shutil.move(outside, plate / "kept")
    (plate / link).symlink_to(plate / "kept")
    use_all(plate)


def test_a_pipe_is_no_chunk(plate: Path) -> None:
    chunk = plate / ARRAY / "c/0/0/0"
    chunk.unlink()
    os.mkfifo(chunk)
    with pytest.raises(FieldError, match="no plain file"):
        use_all(plate)


def test_damage_is_found_and_named(plate: Path) -> None:
    chunk = plate / ARRAY / "c/0/0/0"
    sound = chunk.read_bytes()
    flipped = bytearray(sound)
    flipped[100] ^= 1
    for content, said in {
        bytes(flipped): "cannot be read",
        sound[: len(sound) // 2]: "A/01/0/0",
        sound[:10]: "it is cut short",
        b"": "it is cut short",
        sound + b"\0" * 200_000: "its metadata allow",
    }.items():
        chunk.write_bytes(content)
        with pytest.raises(FieldError, match=said) as caught:
            use_all(plate)
        assert caught.value.reason == Reason.UNREADABLE
    chunk.unlink()
    with pytest.raises(FieldError, match=r"chunk A/01/0/0/c/0/0/0 is missing") as caught:
        use_all(plate)
    assert caught.value.reason == Reason.MISSING_CHUNKS


def test_chunks_missing_inside_a_shard_are_missing(tmp_path: Path) -> None:
    how = {"shards": (3, 48, 32), "config": {"write_empty_chunks": False}}
    foreign_plate(tmp_path / "P.zarr", "cyx", **how)
    array = zarr.open_array(str(tmp_path / "P.zarr/A/1/0/s0"), mode="r+")
    array[1, :16, :16] = 0
    opened = open_plate(tmp_path / "P.zarr")
    assert opened.read(opened.fields[0], channels=[0, 2]).all()
    with pytest.raises(FieldError, match="1 of the 6 chunks") as caught:
        opened.read(opened.fields[0], channels=[1])
    assert caught.value.reason == Reason.MISSING_CHUNKS


def test_absent_chunks_of_labels_hold_no_label(plate: Path) -> None:
    shutil.rmtree(plate / LABELS / "0/c")
    opened = open_plate(plate)
    assert not opened.read_labels(opened.fields[0], "cells", shape=(40, 30)).any()


NUMBERS = (0, -1, 1, 1.5, 1e300, 2**63, 10**4000, True, None)
TEXTS = ("", "..", "/etc", "0", "\ud800", "\0", "|O", "float32", "x" * 5000)
NESTED: tuple[Any, ...] = ([], [1], ["y", "x"], {}, {"a": 1}, [[]], [{}], {"id": "pickle"})
VALUES = st.sampled_from([*NUMBERS, *TEXTS, *NESTED])


@pytest.mark.parametrize("version", ["0.4", "0.5"])
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_metadata_can_raise_anything_else(
    tmp_path: Path, version: str, data: st.DataObject
) -> None:
    path = tmp_path / "P.zarr"
    if not path.exists():
        foreign_plate(path, "tczyx", version=version)
    files = sorted(p for p in path.rglob("*") if p.name in ("zarr.json", ".zattrs", ".zarray"))
    file = data.draw(st.sampled_from(files))
    text = file.read_text(encoding="utf-8")
    document = json.loads(text)
    at: Any = document
    while True:
        keys = list(at) if isinstance(at, dict) else list(range(len(at)))
        if not keys:
            return
        key = data.draw(st.sampled_from(keys))
        if not isinstance(at[key], dict | list) or not at[key] or data.draw(st.booleans()):
            break
        at = at[key]
    at[key] = data.draw(VALUES)
    file.write_text(json.dumps(document), encoding="utf-8")
    try:
        use_all(path)
        said = "nothing of weight was changed"
    except (FieldError, InputError) as error:
        said = str(error)
    finally:
        file.write_text(text, encoding="utf-8")
    assert 10 < len(said) < 2000


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("W.zar", "did you mean 'W.zarr'?); expected an OME-Zarr plate"),
        ("W.zarr/A/01/0", "an image, not a plate"),
        ("empty", "no Zarr metadata"),
        ("*.tif", "expected an OME-Zarr plate, a folder of plates, or a glob"),
        ("gs://bucket/x", "gs:// cannot be read"),
        ("s3://", "names no bucket"),
    ],
)
def test_what_is_no_plate_is_said(
    plate: Path, monkeypatch: pytest.MonkeyPatch, pattern: str, said: str
) -> None:
    monkeypatch.chdir(plate.parent)
    Path("empty").mkdir()
    with pytest.raises(InputError) as caught:
        find_plates(pattern)
    assert said in str(caught.value)


def test_without_obstore_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "obstore.store", None)
    with pytest.raises(InputError, match=r"bgscale\[s3\]"):
        S3Files("s3://bucket/plate.zarr")
