"""A crops screen opens from folder and zip, is never written to, and says what is wrong with it."""

import io
import logging
import pickle
import shutil
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tifffile

from bgscale.errors import InputError
from bgscale.schema import Reason
from bgscale.screen import Screen, channel_names, open_screen
from bgscale.simulate import ScreenSpec, write_crops

TEMPLATE = "{protein}/{protein}_{field}_{cell}_{channel}.tif"


def pixels(name: str, shape: tuple[int, ...] = (64, 64), dtype: Any = np.uint16) -> Any:
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    return rng.integers(1, 200, shape).astype(dtype)


def tiff(image: npt.NDArray[Any], **options: Any) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, image, **options)
    return file.getvalue()


def put(folder: Path, name: str, content: npt.NDArray[Any] | bytes) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else tiff(content))
    return path


def make(
    folder: Path,
    template: str = TEMPLATE,
    *,
    proteins: tuple[str, ...] = ("P1", "P2"),
    cells: int = 3,
    channels: tuple[str, ...] = ("gfp", "rfp"),
    dtype: Any = np.uint16,
) -> Path:
    for protein in proteins:
        for cell in range(1, cells + 1):
            for channel in channels:
                name = template.format(protein=protein, field=1, cell=cell, channel=channel)
                put(folder, name, pixels(name, dtype=dtype))
    return folder


def zipped(folder: Path, target: Path, *, under: str = "") -> Path:
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.rglob("*"), reverse=True):
            if path.is_file():
                archive.write(path, under + path.relative_to(folder).as_posix())
    return target


def opened(path: Path, **options: Any) -> Screen:
    return open_screen(path, **{"class_column": "protein", **options})


def everything(screen: Screen) -> Any:
    return screen.read(np.arange(len(screen.items)))


def message(path: Path, **options: Any) -> str:
    with pytest.raises(InputError) as caught:
        opened(path, **options)
    return str(caught.value)


# What is a screen


@pytest.mark.parametrize("kind", ["folder", "zip", "zip with a folder", "folder in a folder"])
def test_the_same_crops_come_from_a_folder_and_a_zip(tmp_path: Path, kind: str) -> None:
    plain = make(tmp_path / "plain")
    path = {
        "folder": lambda: plain,
        "zip": lambda: zipped(plain, tmp_path / "a.zip"),
        "zip with a folder": lambda: zipped(plain, tmp_path / "a.zip", under="my crops/"),
        "folder in a folder": lambda: make(tmp_path / "outer" / "inner").parent,
    }[kind]()
    screen, expected = opened(path), opened(plain)
    assert screen.proteins == ("P1", "P2")
    assert screen.items.iloc[:, :4].equals(expected.items.iloc[:, :4])
    assert (screen.cell_ids == expected.cell_ids).all()
    if kind != "folder in a folder":
        assert (everything(screen).image == everything(expected).image).all()
    assert (everything(screen).reason == 0).all()


def test_the_published_crops_open_as_they_are(shared_data: Path) -> None:
    screen = opened(shared_data / "yeast_crops" / "crops.zip")
    assert screen.opened_with["pattern"] == "pci"
    counts = {"AAC1": 366, "AAC3": 416, "AAH1": 203, "AAP1": 308}
    assert screen.facts()["proteins"] == counts
    assert screen.crop_shape == (64, 64)
    assert screen.dtype == np.float32
    assert screen.channels == ("protein", "cytosol")
    assert len(screen.field_names()) == 16
    assert "1293 crops of 4 proteins, 16 fields, 64x64 float32" in screen.summary()
    rows = np.array([1292, 0, 700])
    block = screen.read(rows)
    assert (block.reason == 0).all()
    assert 0 <= block.image.min() < block.image.max() <= 1
    with zipfile.ZipFile(shared_data / "yeast_crops" / "crops.zip") as archive:
        name = screen.items["cytosol_file"][1292]
        assert (tifffile.imread(io.BytesIO(archive.read(name))) == block.image[0, 1]).all()


def test_a_simulated_screen_opens_with_its_plate_map(tmp_path: Path) -> None:
    spec = ScreenSpec(
        localizations=("ER", "nucleus"), proteins_per_localization=1, mixed_proteins=1,
        fields_per_protein=1, cells_per_field=12, field_size_px=256,
    )  # fmt: skip
    folder = write_crops(spec, tmp_path / "s", zipped=True)
    screen = open_screen(
        folder / "crops.zip", plate_map=folder / "platemap.csv", nucleus="nuc", mask="mask"
    )
    assert screen.classes == ("ER", "nucleus")
    assert screen.channels == ("protein", "cytosol", "nucleus")
    assert screen.plate_map.labels.tolist() == [[True, False], [False, True], [True, True]]
    block = everything(screen)
    assert block.image.shape[1:] == (3, 64, 64)
    assert block.image.dtype == np.uint16
    assert (block.mask[:, 32, 32] == 255).all()


@pytest.mark.parametrize(
    ("pattern", "template"),
    [
        ("pci", "{protein}/{protein}_{field}_rfp_{cell}_{channel}.tif"),
        ("bgscale", TEMPLATE),
        ("pifia", "{protein}/{protein}_{channel}_{cell}.tiff"),
    ],
)
@pytest.mark.parametrize("suffix", [".tif", ".tiff", ".TIF"])
def test_named_patterns_are_found_out_and_can_be_named(
    tmp_path: Path, pattern: str, template: str, suffix: str
) -> None:
    path = make(tmp_path, template.rsplit(".", 1)[0] + suffix)
    assert opened(path).opened_with["pattern"] == pattern
    assert len(opened(path, pattern=pattern).items) == 6
    assert channel_names(path) == ["gfp", "rfp"]


def test_a_pifia_folder_has_masks_and_no_fields(tmp_path: Path) -> None:
    layout = "{protein}/{protein}_{channel}_{cell}.tiff"
    make(tmp_path, layout, channels=("ch1", "ch2", "ch3"), proteins=("HHF1",))
    mask = np.zeros((64, 64), np.uint8)
    mask[20:40, 20:40] = 255
    for cell in range(1, 4):
        put(tmp_path, f"HHF1/HHF1_mask_{cell}.tiff", mask)
    screen = opened(tmp_path, protein="ch1", cytosol=None, mask="mask")
    assert screen.field_names() == ["crops/HHF1/1"]
    assert screen.channels == ("protein",)
    assert (everything(screen).mask == mask).all()
    both = opened(tmp_path, protein="ch1", cytosol="ch3", nucleus="ch2", mask="mask")
    assert both.channels == ("protein", "cytosol", "nucleus")
    assert everything(both).image.shape == (3, 3, 64, 64)


def test_a_template_says_how_files_are_named(tmp_path: Path) -> None:
    make(tmp_path / "flat", "{channel}-{protein}-c{cell}.tif")
    screen = opened(tmp_path / "flat", pattern="{channel}-{protein}-c{cell}.tif")
    assert screen.proteins == ("P1", "P2")
    for well in ("A01", "A02"):
        for cell in (1, 2):
            for channel in ("gfp", "rfp"):
                put(tmp_path, f"wells/{well}/P_{cell}_{channel}.tif", pixels(f"{well}{cell}"))
    screen = opened(tmp_path / "wells", pattern="{well}/{protein}_{cell}_{channel}.tif")
    assert screen.items["well"].tolist() == ["A01", "A01", "A02", "A02"]
    assert len(set(screen.cell_ids.tolist())) == 4


def test_crops_come_in_natural_order_however_they_are_listed(tmp_path: Path) -> None:
    for protein in ("P10", "P2"):
        for field in (10, 9):
            for cell in (11, 2):
                for channel in ("rfp", "gfp"):
                    name = f"{protein}/{protein}_{field}_{cell}_{channel}.tif"
                    put(tmp_path / "a", name, pixels(name))
    screen = opened(tmp_path / "a")
    assert screen.proteins == ("P2", "P10")
    assert screen.items["field"].tolist() == ["9", "9", "10", "10"] * 2
    assert screen.items["number"].tolist() == [2, 11] * 4
    # a zip lists its files in the order they were put in, here backwards
    other = opened(zipped(tmp_path / "a", tmp_path / "a.zip"))
    assert other.items.equals(screen.items)
    assert other.field_names() == screen.field_names()
    assert other.field_codes.tolist() == screen.field_codes.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert screen.protein_codes.tolist() == [0] * 4 + [1] * 4


def test_a_read_only_folder_opens_and_nothing_in_it_changes(tmp_path: Path) -> None:
    folder = make(tmp_path / "a")
    before = {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in folder.rglob("*")}
    for path in (folder / "P1", folder):
        path.chmod(0o555)
    screen = opened(folder)
    everything(screen)
    screen.identity()
    assert {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in folder.rglob("*")} == before
    for path in (folder, folder / "P1"):
        path.chmod(0o755)


@pytest.mark.parametrize(
    ("dtype", "kept"),
    [(np.uint8, "uint16"), (np.uint16, "uint16"), (np.float32, "float32"), (np.float64, "float32"),
     (np.int16, "float32"), (">u2", "uint16"), (">f4", "float32")],
)  # fmt: skip
def test_counts_are_kept_as_uint16_or_float32(tmp_path: Path, dtype: Any, kept: str) -> None:
    image = pixels("a", dtype=np.uint8).astype(dtype)
    order = ">" if str(dtype).startswith(">") else "<"
    for channel in ("gfp", "rfp"):
        put(tmp_path, f"P/P_1_1_{channel}.tif", tiff(image, byteorder=order))
    screen = opened(tmp_path)
    assert screen.dtype == kept
    block = everything(screen)
    assert block.image.dtype == kept
    assert (block.image[0, 0] == image).all()


def test_compressed_and_oblong_crops_are_read(tmp_path: Path) -> None:
    for cell in range(5):
        for channel in ("gfp", "rfp"):
            image = pixels(f"{cell}{channel}", (48, 60))
            put(tmp_path, f"P/P_1_{cell}_{channel}.tif", tiff(image, compression="zlib"))
    screen = opened(tmp_path)
    assert screen.crop_shape == (48, 60)
    assert (everything(screen).reason == 0).all()


def test_hidden_files_and_links_are_left_out(tmp_path: Path) -> None:
    folder = make(tmp_path / "a", cells=2)
    outside = make(tmp_path / "outside", proteins=("P9",))
    put(folder, "P1/._P1_1_1_gfp.tif", b"resource fork")
    put(folder, ".snapshot/P8/P8_1_1_gfp.tif", pixels("x"))
    shutil.copytree(folder / "P1", folder / ".trash" / "P1")
    (folder / "P9").symlink_to(outside / "P9")
    (folder / "P1" / "P1_1_7_gfp.tif").symlink_to(outside / "P9" / "P9_1_1_gfp.tif")
    (folder / "loop").symlink_to(folder)
    screen = opened(folder)
    assert screen.proteins == ("P1", "P2")
    assert len(screen.items) == 4
    with zipfile.ZipFile(zipped(make(tmp_path / "b"), tmp_path / "b.zip"), "a") as archive:
        archive.writestr("__MACOSX/P1/._P1_1_1_gfp.tif", b"")
        archive.writestr(".cache/P1/P1_1_1_gfp.tif", b"")
    assert len(opened(tmp_path / "b.zip").items) == 6


# Identity, subsets


def test_a_copy_elsewhere_has_the_same_identity(tmp_path: Path) -> None:
    folder = make(tmp_path / "a")
    identity = opened(folder).identity()
    shutil.copytree(folder, tmp_path / "far" / "b")
    assert opened(tmp_path / "far" / "b").identity() == identity
    assert opened(zipped(folder, tmp_path / "a.zip")).identity() == identity
    put(folder, "notes.txt", b"not a crop")
    assert opened(folder).identity() == identity


@pytest.mark.parametrize("kind", ["folder", "zip"])
@pytest.mark.parametrize("change", ["pixel", "size", "more", "fewer", "name", "role"])
def test_a_changed_file_changes_the_identity(tmp_path: Path, change: str, kind: str) -> None:
    def identity(**options: Any) -> str:
        path = zipped(folder, tmp_path / "a.zip") if kind == "zip" else folder
        return opened(path, **options).identity()

    folder = make(tmp_path / "a")
    before = identity()
    first = folder / "P1" / "P1_1_1_gfp.tif"
    if change == "pixel":
        content = bytearray(first.read_bytes())
        content[-1] ^= 1
        first.write_bytes(content)
    elif change == "size":
        first.write_bytes(first.read_bytes() + b"\0")
    elif change == "more":
        make(folder, cells=4)
    elif change == "fewer":
        for path in folder.glob("P1/P1_1_1_*"):
            path.unlink()
    elif change == "name":
        for channel in ("gfp", "rfp"):
            (folder / f"P1/P1_1_1_{channel}.tif").rename(folder / f"P1/P1_1_9_{channel}.tif")
    swapped = {"protein": "rfp", "cytosol": "gfp"} if change == "role" else {}
    assert identity(**swapped) != before


def test_another_process_opens_the_same_screen(tmp_path: Path) -> None:
    screen = opened(make(tmp_path / "a"), limit=4)
    again = pickle.loads(pickle.dumps(screen))
    assert again.identity() == screen.identity()
    assert (everything(again).image == everything(screen).image).all()
    arguments = {k: v or None for k, v in screen.opened_with.items()}
    assert open_screen(**arguments).identity() == screen.identity()


def test_only_some_proteins_are_opened_and_their_cells_keep_their_identity(tmp_path: Path) -> None:
    folder = make(tmp_path, proteins=("P1", "P2", "P3"))
    text = "protein,localization\nP3,ER\nP2,Golgi\nP1,nucleus\n"
    (tmp_path / "map.csv").write_text(text)
    whole = open_screen(folder, plate_map=tmp_path / "map.csv")
    some = open_screen(folder, plate_map=tmp_path / "map.csv", proteins=["P3", "P1"])
    assert some.proteins == ("P1", "P3")
    assert some.classes == ("ER", "nucleus")
    assert set(some.cell_ids.tolist()) < set(whole.cell_ids.tolist())
    assert "did you mean 'P1'" in message(folder, proteins=["P11"])


def test_a_limit_takes_as_many_of_each_protein_whatever_the_order(tmp_path: Path) -> None:
    folder = make(tmp_path / "a", cells=7)
    make(folder, proteins=("P3",), cells=2)
    screen = opened(folder, limit=10)
    assert screen.items.groupby("protein").size().tolist() == [4, 4, 2]
    assert sorted(screen.items["number"][:4]) == screen.items["number"][:4].tolist()
    backwards = opened(zipped(folder, tmp_path / "a.zip"), limit=10)
    assert backwards.items.equals(screen.items)
    alone = opened(folder, limit=4, proteins=["P1"])
    assert alone.cell_ids.tolist() == screen.cell_ids[:4].tolist()
    fewer = opened(folder, limit=6)
    assert set(fewer.cell_ids.tolist()) < set(screen.cell_ids.tolist())
    assert len(opened(folder, limit=99).items) == 16
    assert len(opened(folder, limit=0).items) == 16
    assert "limit is -3" in message(folder, limit=-3)


# Bad input: one clear error


def test_an_absent_screen_is_named_with_the_nearest_that_is_there(tmp_path: Path) -> None:
    make(tmp_path / "crops")
    assert "did you mean 'crops'" in message(tmp_path / "crop")
    assert "no such folder or zip" in message(tmp_path / "no" / "such" / "place")


def test_a_file_that_is_no_zip_is_an_error(tmp_path: Path) -> None:
    put(tmp_path, "crops.zip", b"PK\x03\x04 cut off")
    put(tmp_path, "one.tif", pixels("one"))
    for name in ("crops.zip", "one.tif"):
        said = message(tmp_path / name)
        assert name in said
        assert "expected a folder or a zip" in said


def test_where_no_file_fits_it_is_said_what_was_looked_for_and_what_is_there(
    tmp_path: Path,
) -> None:
    for i in range(5):
        put(tmp_path, f"image{i}.tif", pixels("a"))
    said = message(tmp_path)
    assert "{protein}/{protein}_{field}_{cell}_{channel}.tif" in said
    assert "image0.tif, image1.tif, image2.tif" in said
    assert "5 files" in said
    assert "{protein}_{cell}" in message(tmp_path, pattern="{protein}_{cell}_{channel}.tif")
    (tmp_path / "empty").mkdir()
    assert "nothing" in message(tmp_path / "empty")
    with pytest.raises(InputError, match="no file of"):
        channel_names(tmp_path / "empty")


def test_a_wrong_template_says_what_is_wrong(tmp_path: Path) -> None:
    make(tmp_path)
    assert "unknown placeholder {gene}" in message(tmp_path, pattern="{gene}_{cell}_{channel}.tif")
    assert "lacks {channel}" in message(tmp_path, pattern="{protein}_{cell}.tif")
    assert "named patterns: pci" in message(tmp_path, pattern="pfia")


@pytest.mark.parametrize(
    ("odd", "said"),
    [
        (lambda: pixels("o", (60, 64)), "60x64 uint16"),
        (lambda: pixels("o", dtype=np.float32), "64x64 float32"),
        (lambda: pixels("o", dtype=np.uint8), "64x64 uint8"),
        (lambda: pixels("o", (2, 64, 64)), "2x64x64 uint16"),
        (lambda: pixels("o", (64, 64, 3), np.uint8), "64x64x3 uint8"),
    ],
)
def test_crops_of_several_kinds_are_no_screen(
    tmp_path: Path, odd: Callable[[], Any], said: str
) -> None:
    folder = make(tmp_path)
    put(folder, "P2/P2_1_2_gfp.tif", odd())
    found = message(folder)
    assert said in found
    assert "64x64 uint16" in found
    assert "P2/P2_1_2_gfp.tif" in found


@pytest.mark.parametrize("shape", [(2, 64, 64), (64, 64, 3)])
def test_several_channels_in_a_file_are_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    for channel in ("gfp", "rfp"):
        put(tmp_path, f"P/P_1_1_{channel}.tif", pixels("a", shape, np.uint8))
    assert "expected one grey image per file" in message(tmp_path)


def test_a_crop_without_one_of_its_channels_is_an_error(tmp_path: Path) -> None:
    folder = make(tmp_path)
    (folder / "P1" / "P1_1_2_rfp.tif").unlink()
    assert "1 crops lack a channel: P1/P1_1_2_gfp.tif has no rfp" in message(folder)


def test_an_unknown_channel_says_which_there_are(tmp_path: Path) -> None:
    said = message(make(tmp_path), protein="GFP", nucleus="dapi")
    assert "'GFP' (screen.protein) (did you mean 'gfp'?); the channels are gfp, rfp" in said
    assert "channel of its own" in message(tmp_path, cytosol="gfp")


def test_neither_masks_nor_cytosol_is_an_error(tmp_path: Path) -> None:
    assert "neither masks nor a cytosol" in message(make(tmp_path), cytosol=None)


def test_two_files_of_the_same_crop_are_an_error(tmp_path: Path) -> None:
    folder = make(tmp_path)
    put(folder, "P1/P1_1_01_gfp.tif", pixels("twin"))
    assert "P1/P1_1_01_gfp.tif and P1/P1_1_1_gfp.tif are the same cell" in message(folder)


def test_masks_of_another_size_than_the_crops_are_an_error(tmp_path: Path) -> None:
    folder = make(tmp_path, cells=1)
    for protein in ("P1", "P2"):
        put(folder, f"{protein}/{protein}_1_1_mask.tif", pixels("m", (32, 32), np.uint8))
    assert "is 32x32; the crops are 64x64" in message(folder, mask="mask")


def test_files_that_are_no_tiff_at_all_are_an_error(tmp_path: Path) -> None:
    for channel in ("gfp", "rfp"):
        put(tmp_path, f"P/P_1_1_{channel}.tif", b"hello")
    assert "none of the files that fit the pattern is a sound TIFF" in message(tmp_path)


def test_a_compression_that_cannot_be_read_is_said_on_opening(tmp_path: Path) -> None:
    packed = tiff(pixels("a"), compression="zlib")
    tags = (259).to_bytes(2, "little") + (3).to_bytes(2, "little") + (1).to_bytes(4, "little")
    at = packed.index(tags) + 8
    jpeg_xl = packed[:at] + (50002).to_bytes(2, "little") + packed[at + 2 :]
    for channel in ("gfp", "rfp"):
        put(tmp_path, f"P/P_1_1_{channel}.tif", jpeg_xl)
    said = message(tmp_path)
    assert "imagecodecs" in said or "none of the files" in said


@pytest.mark.parametrize("given", [None, ""])
def test_without_a_plate_map_the_class_must_be_the_protein(tmp_path: Path, given: Any) -> None:
    folder = make(tmp_path)
    said = message(folder, plate_map=given, class_column="localization")
    assert 'screen.class_column = "protein"' in said
    assert opened(folder, plate_map=given).classes == ("P1", "P2")


def test_a_plate_map_must_fit_the_screen(tmp_path: Path) -> None:
    folder = make(tmp_path / "a")
    plate_map = tmp_path / "map.csv"
    plate_map.write_text("protein,localization\nP1,ER\nP2,Golgi\nP3,ER\n")
    options = {"plate_map": plate_map, "class_column": "localization"}
    assert "'P3'" in message(folder, **options)
    plate_map.write_text("protein,localization\nP1,ER\n")
    assert "'P2'" in message(folder, **options)
    plate_map.write_text("protein,place\nP1,ER\nP2,ER\n")
    assert "it has protein, place" in message(folder, **options)


def test_an_unknown_scaling_is_an_error(tmp_path: Path) -> None:
    assert "expected 'plate', 'field' or 'none'" in message(
        make(tmp_path), intensity_scaling="well"
    )


def test_the_template_of_the_plate_map_has_a_row_per_protein(tmp_path: Path) -> None:
    text = opened(make(tmp_path)).plate_map_template()
    assert text == "protein,localization\nP1,\nP2,\n"


# A bad item: its reason, and zeros


def lying(rows: int, columns: int) -> bytes:
    """Return a TIFF whose header asks for another size than its pixels have."""
    sound = bytearray(tiff(pixels("lie"), metadata=None))
    for tag, value in ((256, columns), (257, rows)):
        for kind in (3, 4):
            head = tag.to_bytes(2, "little") + kind.to_bytes(2, "little") + b"\1\0\0\0"
            at = sound.find(head)
            if at >= 0:
                sound[at + 2 : at + 12] = (
                    (4).to_bytes(2, "little") + b"\1\0\0\0" + value.to_bytes(4, "little")
                )
    return bytes(sound)


def spoilt(image: npt.NDArray[np.float32], value: float) -> npt.NDArray[np.float32]:
    out = image.copy()
    out[5, 7] = value
    return out


BAD: dict[str, tuple[Callable[[], bytes], Reason]] = {
    "zero bytes": (lambda: b"", Reason.UNREADABLE),
    "text": (lambda: b"this is not an image\n" * 400, Reason.UNREADABLE),
    "zeros": (lambda: bytes(16640), Reason.UNREADABLE),
    "gigabytes": (lambda: lying(200_000, 200_000), Reason.UNREADABLE),
    "more rows": (lambda: lying(4096, 64), Reason.UNREADABLE),
    "fewer rows": (lambda: lying(32, 64), Reason.WRONG_SHAPE),
    "no rows": (lambda: lying(0, 64), Reason.UNREADABLE),
    "NaN": (lambda: tiff(spoilt(pixels("n", dtype=np.float32), np.nan)), Reason.NOT_FINITE),
    "infinite": (lambda: tiff(spoilt(pixels("n", dtype=np.float32), np.inf)), Reason.NOT_FINITE),
    "constant": (lambda: tiff(np.full((64, 64), 7, np.float32)), Reason.CONSTANT),
    "black": (lambda: tiff(np.zeros((64, 64), np.float32)), Reason.CONSTANT),
    "same bytes, other size": (
        lambda: tiff(pixels("s", (32, 128), np.float32)),
        Reason.WRONG_SHAPE,
    ),
    "same bytes, other dtype": (lambda: tiff(pixels("s", dtype=np.uint32)), Reason.WRONG_SHAPE),
    "other dtype": (lambda: tiff(pixels("s", dtype=np.uint16)), Reason.WRONG_SHAPE),
    "two pages": (lambda: tiff(pixels("s", (2, 64, 64), np.float32)), Reason.WRONG_SHAPE),
    "colours": (lambda: tiff(pixels("s", (64, 64, 3), np.uint8)), Reason.WRONG_SHAPE),
    "complex": (lambda: tiff(pixels("s", dtype=np.complex64)), Reason.UNREADABLE),
}  # fmt: skip


@pytest.mark.parametrize("channel", ["gfp", "rfp"])
@pytest.mark.parametrize("name", BAD)
def test_a_bad_crop_gets_its_reason_and_zeros(
    tmp_path: Path, name: str, channel: str, caplog: pytest.LogCaptureFixture
) -> None:
    folder = make(tmp_path, dtype=np.float32)
    screen = opened(folder)
    expected = everything(screen).image
    content, reason = BAD[name]
    put(folder, f"P1/P1_1_2_{channel}.tif", content())
    with caplog.at_level(logging.DEBUG):
        block = everything(screen)
    assert block.reason.tolist() == [0, reason, 0, 0, 0, 0]
    assert not block.image[1].any()
    kept = block.reason == 0
    assert (block.image[kept] == expected[kept]).all()
    assert not [r for r in caplog.records if r.name == "tifffile" and r.levelno >= logging.WARNING]


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_a_tiff_cut_off_anywhere_is_unreadable(tmp_path: Path, compression: str | None) -> None:
    folder = make(tmp_path, cells=1, proteins=("P1",))
    screen = opened(folder)
    sound = tiff(pixels("c"), compression=compression)
    lengths = [*range(0, 300, 7), len(sound) // 2, len(sound) - 1000, len(sound) - 64]
    for length in lengths:
        put(folder, "P1/P1_1_1_gfp.tif", sound[:length])
        assert everything(screen).reason.tolist() == [Reason.UNREADABLE], length


def test_a_tiff_with_bytes_changed_anywhere_never_raises(tmp_path: Path) -> None:
    folder = make(tmp_path, proteins=("P1",), cells=40)
    screen = opened(folder)
    rng = np.random.default_rng(0)
    for turn in range(6):
        for cell in range(1, 41):
            content = bytearray(tiff(pixels("c"), compression="zlib" if turn % 2 else None))
            for _ in range(3):
                content[rng.integers(400)] = rng.integers(256)
            put(folder, f"P1/P1_1_{cell}_gfp.tif", bytes(content))
        block = everything(screen)
        assert not block.image[block.reason != 0].any()


def test_values_too_large_for_float32_are_not_finite(tmp_path: Path) -> None:
    folder = make(tmp_path, dtype=np.float64)
    screen = opened(folder)
    put(folder, "P1/P1_1_1_gfp.tif", pixels("a", dtype=np.float64) * 1e300)
    assert everything(screen).reason[0] == Reason.NOT_FINITE


def test_a_vanished_file_is_unreadable_and_a_vanished_screen_an_error(tmp_path: Path) -> None:
    folder = make(tmp_path / "a")
    screen = opened(folder)
    (folder / "P1" / "P1_1_1_gfp.tif").unlink()
    assert everything(screen).reason.tolist() == [Reason.UNREADABLE, 0, 0, 0, 0, 0]
    shutil.rmtree(folder)
    with pytest.raises(InputError, match="no such folder"):
        everything(screen)


def test_bad_crops_do_not_keep_a_screen_from_opening_wherever_they_are(tmp_path: Path) -> None:
    folder = make(tmp_path)
    # the first file of the only size there is: nothing may be concluded from it
    size = (folder / "P1" / "P1_1_1_gfp.tif").stat().st_size
    put(folder, "P1/P1_1_1_gfp.tif", bytes(size))
    put(folder, "P1/P1_1_2_gfp.tif", b"")
    put(folder, "P1/P1_1_3_rfp.tif", lying(200_000, 200_000))
    put(folder, "P2/P2_1_1_rfp.tif", b"text")
    screen = opened(folder)
    assert screen.crop_shape == (64, 64)
    assert everything(screen).reason.tolist() == [1, 1, 1, 1, 0, 0]


def test_a_bad_mask_file_makes_its_crop_unusable(tmp_path: Path) -> None:
    folder = make(tmp_path, proteins=("P1",), channels=("gfp", "rfp", "mask"))
    screen = opened(folder, mask="mask")
    put(folder, "P1/P1_1_1_mask.tif", b"")
    put(folder, "P1/P1_1_2_mask.tif", np.zeros((64, 64), np.uint8))
    labels = np.full((64, 64), 70_000, np.int32)
    put(folder, "P1/P1_1_3_mask.tif", labels)
    block = everything(screen)
    # an empty mask is a mask: that it has no cell is for the segmentation to say
    assert block.reason.tolist() == [Reason.UNREADABLE, 0, 0]
    assert block.mask.reshape(3, -1).max(1).tolist() == [0, 0, 70_000]
    assert not block.image[0].any()


def test_a_damaged_zip_entry_is_unreadable(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for cell in range(3):
            for channel in ("gfp", "rfp"):
                name = f"P/P_1_{cell}_{channel}.tif"
                archive.writestr(name, tiff(pixels(name)))
    screen = opened(path)
    content = bytearray(path.read_bytes())
    content[content.index(b"P/P_1_1_gfp.tif") + 2000] ^= 255
    path.write_bytes(content)
    assert everything(screen).reason.tolist() == [0, Reason.UNREADABLE, 0]


def test_reading_no_crops_gives_no_rows(tmp_path: Path) -> None:
    block = opened(make(tmp_path)).read(np.array([], np.int64))
    assert block.image.shape == (0, 2, 64, 64)
    assert block.reason.shape == (0,)
