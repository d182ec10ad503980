"""Plates that are written: whole or absent, valid by others' rules, in few files."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from ngff_plates import IMAGES, own_plate

from bgscale.errors import FieldError, InputError
from bgscale.ngff import create_plate, has_field, open_plate, write_field, write_labels
from bgscale.schema import Reason


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """Write a plate of three fields in two wells, with labels."""
    return own_plate(tmp_path / "W.ome.zarr")


@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 40), st.integers(1, 40)),
    dtype=st.sampled_from(["u1", "u2", "i4", "f4"]),
    size_um=st.none() | st.floats(0.01, 10),
    seed=st.integers(0, 2**32 - 1),
)
def test_what_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory,
    shape: tuple[int, int, int],
    dtype: str,
    size_um: float | None,
    seed: int,
) -> None:
    path = tmp_path_factory.mktemp("written") / "P.zarr"
    # a channel of zeros too: empty chunks are written
    image = np.random.default_rng(seed).integers(0, 200, shape).astype(dtype)
    image[0] = 0
    names = [f"channel {i}" for i in range(shape[0])]
    create_plate(path, name="P", fields={"A01": ["f1"]})
    write_field(path, "A01", "f1", image, channels=names, pixel_size_um=size_um)
    plate = open_plate(path)
    (ref,) = plate.fields
    info = plate.image(ref)
    assert (info.channels, info.pixel_size_um, info.labels) == (tuple(names), size_um, ())
    found = plate.read(ref, channels=names[::-1])
    np.testing.assert_array_equal(found, image[::-1])
    assert found.dtype == image.dtype


def test_the_small_level_is_a_mean_and_odd_edges_stay(tmp_path: Path) -> None:
    path = tmp_path / "P.zarr"
    create_plate(path, name="P", fields={"A01": ["0"]})
    image = np.array([[[1, 2, 9], [3, 4, 9], [65535, 65533, 7]]], np.uint16)
    write_field(path, "A01", "0", image, channels=["g"], pixel_size_um=0.5)
    small = zarr.open_array(str(path / "A/01/0/1"), mode="r")
    np.testing.assert_array_equal(small[...], [[[2, 9], [65534, 7]]])
    group = json.loads((path / "A/01/0/zarr.json").read_text(encoding="utf-8"))
    _, second = group["attributes"]["ome"]["multiscales"][0]["datasets"]
    assert [t[t["type"]] for t in second["coordinateTransformations"]] == [
        [1, 1, 1],
        [0, 0.25, 0.25],
    ]


def test_a_field_has_five_files_and_large_images_several_chunks(tmp_path: Path) -> None:
    path = tmp_path / "P.zarr"
    create_plate(path, name="P", fields={"A01": ["0"]})
    image = np.zeros((2, 1100, 1030), np.uint8)
    write_field(path, "A01", "0", image, channels=["a", "b"], pixel_size_um=None)
    assert len([p for p in (path / "A/01/0").rglob("*") if p.is_file()]) == 5
    array = zarr.open_array(str(path / "A/01/0/0"), mode="r")
    assert (array.chunks, array.shards) == ((1, 1024, 1024), (2, 2048, 2048))
    plate = open_plate(path)
    assert not plate.read(plate.fields[0], channels=["b"]).any()


def test_labels_are_replaced_by_name(written: Path) -> None:
    more = np.full(IMAGES[0].shape[1:], 7, np.uint16)
    write_labels(written, "A01", "0", more, name="nuclei", pixel_size_um=0.25)
    write_labels(written, "A01", "0", more + 1, name="cells", pixel_size_um=0.25)
    plate = open_plate(written)
    assert plate.image(plate.fields[0]).labels == ("nuclei", "cells")
    for name, value in (("nuclei", 7), ("cells", 8)):
        found = plate.read_labels(plate.fields[0], name, shape=more.shape)
        assert np.unique(found).tolist() == [value]


def test_validators_and_readers_of_others_accept_what_is_written(written: Path) -> None:
    models = pytest.importorskip("ome_zarr_models", reason="ome-zarr-models is not installed")
    for node in ("", "A/01", "A/01/1", "B/12/0/labels/cells"):
        models.open_ome_zarr(str(written / node), version="0.5")
    ngio = pytest.importorskip("ngio", reason="ngio is not installed")
    plate = ngio.open_ome_zarr_plate(str(written))
    assert plate.wells_paths() == ["A/01", "B/12"]
    image = plate.get_image("B", "12", "0")
    assert image.list_labels() == ["cells"]
    np.testing.assert_array_equal(image.get_image().get_as_numpy(), IMAGES[2])
    assert image.get_image().pixel_size.y == 0.25


def test_the_schemas_of_the_format_hold(written: Path) -> None:
    pytest.importorskip("jsonschema", reason="ngff-zarr validates with jsonschema")
    ngff_zarr = pytest.importorskip("ngff_zarr", reason="ngff-zarr is not installed")
    plate = ngff_zarr.from_hcs_zarr(str(written), validate=True)
    assert [i.path for i in plate.get_well("A", "01").images] == ["0", "1"]
    read = ngff_zarr.from_ngff_zarr(str(written / "A/01/1"), validate=True)
    np.testing.assert_array_equal(np.asarray(read.images[0].data), IMAGES[1])
    ngff_zarr.from_ngff_zarr(str(written / "A/01/1/labels/cells"), validate=True)


def test_a_field_is_whole_or_absent(written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("bgscale.ngff.write.omero_of", killed)
        with pytest.raises(KeyboardInterrupt):
            write_field(written, "A01", "1", IMAGES[2], channels=["a", "b"], pixel_size_um=None)
    assert has_field(written, "A01", "0")
    assert not has_field(written, "A01", "1")
    half = open_plate(written).fields[1]
    with pytest.raises(FieldError, match=r"A/01/1: there is no zarr\.json") as caught:
        open_plate(written).image(half)
    assert caught.value.reason == Reason.METADATA
    write_field(written, "A01", "1", IMAGES[2], channels=["a", "b"], pixel_size_um=None)
    plate = open_plate(written)
    assert plate.image(half).labels == (), "labels of the image that was replaced"
    np.testing.assert_array_equal(plate.read(half, channels=["a", "b"]), IMAGES[2])


def test_making_a_plate_twice_is_fine_and_another_is_not(written: Path) -> None:
    before = {p: p.read_bytes() for p in written.rglob("*") if p.is_file()}
    create_plate(written, name="W", fields={"B12": ["0"], "A1": ["0", "1"]})
    assert {p: p.read_bytes() for p in written.rglob("*") if p.is_file()} == before
    (written / "B/12/zarr.json").unlink()
    create_plate(written, name="W", fields={"A01": ["0", "1"], "B12": ["0"]})
    assert open_plate(written).problems == ()
    for fields in ({"A01": ["0"], "B12": ["0"]}, {"A01": ["0", "1"]}):
        with pytest.raises(InputError, match="choose another folder"):
            create_plate(written, name="W", fields=fields)
    with pytest.raises(InputError, match="is no plate: choose another folder"):
        create_plate(written / "A/01/0/0/c", name="W", fields={"A01": ["0"]})


def field(path: Path, name: str = "0", size_um: float = 1, channels: str = "ab") -> None:
    write_field(path, "A01", name, IMAGES[0], channels=channels, pixel_size_um=size_um)


def labels(path: Path, pixels: np.ndarray[Any, Any]) -> None:
    write_labels(path, "A01", "0", pixels, pixel_size_um=1)


def plate(path: Path, **fields: list[str]) -> None:
    create_plate(path / "new.zarr", name="new", fields=fields)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda path: field(path, "7"), "no field A01/7: name it in create_plate"),
        (lambda path: field(path, channels="a"), "1 names for 2 channels"),
        (lambda path: field(path, size_um=0), "pixel_size_um is 0; expected a length above 0"),
        (lambda path: labels(path, IMAGES[0, 0] / 2), "expected integers"),
        (lambda path: labels(path, IMAGES[0, 0].astype(int) - 999), "expected 0 to 2147483647"),
        (lambda path: labels(path, IMAGES[0, 0, :9]), "expected integers of shape (75, 51)"),
        (lambda path: plate(path, **{"01A": ["0"]}), "well '01A'; expected letters and a number"),
        (lambda path: plate(path, A1=["0"], A01=["0"]), "each named once"),
        (lambda path: plate(path, A01=["../0"]), "expected names of letters and digits"),
    ],
)
def test_what_cannot_be_written_is_refused_before_anything_changes(
    written: Path, call: Callable[[Path], None], said: str
) -> None:
    before = {p: p.read_bytes() for p in written.rglob("*") if p.is_file()}
    with pytest.raises(InputError) as caught:
        call(written)
    assert said in str(caught.value)
    assert {p: p.read_bytes() for p in written.rglob("*") if p.is_file()} == before
