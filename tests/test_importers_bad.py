"""What an import refuses as a whole, and what fails one field alone."""

import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from bgscale.errors import FieldError, InputError, UnknownNameError
from bgscale.importers import describe, plan_import, run_import
from bgscale.importers.folder import Layout, layout_of, opened, read_page
from bgscale.importers.markup import elements
from bgscale.ngff import open_plate
from bgscale.schema import Reason

SHAPE = (24, 32)
LAYOUT = Layout(SHAPE, np.dtype("uint16"))


def image(seed: int = 0, shape: tuple[int, ...] = SHAPE, dtype: str = "uint16") -> np.ndarray:
    return np.random.default_rng(seed).integers(1, 250, shape).astype(dtype)


def write(path: Path, data: np.ndarray, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    options = {"photometric": "minisblack"} | options
    tifffile.imwrite(path, data, **options)
    return path


def phenix(folder: Path, fields: int = 8, channels: int = 2) -> Path:
    for field in range(1, fields + 1):
        for channel in range(1, channels + 1):
            write(folder / file_of(field, channel), image(10 * field + channel))
    return folder


def file_of(field: int, channel: int = 1) -> str:
    return f"r01c01f{field:02d}p01-ch{channel}sk1fk1fl1.tiff"


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def no_tiff(path: Path) -> None:
    path.write_bytes(b"this is no image")


def empty(path: Path) -> None:
    path.write_bytes(b"")


def smaller(path: Path) -> None:
    write(path, image(shape=(12, 16)))


def brighter(path: Path) -> None:
    write(path, image(dtype="float32"))


def coloured(path: Path) -> None:
    write(path, image(shape=(*SHAPE, 3), dtype="uint8"), photometric="rgb")


def several(path: Path) -> None:
    write(path, image(shape=(3, *SHAPE)))


def header_too_large(path: Path) -> None:
    tag(path, 257, 2**20)


def no_strips(path: Path) -> None:
    tag(path, 279, 0)


def tag(path: Path, code: int, value: int) -> None:
    with tifffile.TiffFile(path, mode="r+") as tiff:
        tiff.pages.first.tags[code].overwrite(value)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (cut_off, "cut off"),
        (no_tiff, "not a TIFF"),
        (empty, "not a TIFF"),
        (smaller, "is 12 x 16 uint16; the plate's images are 24 x 32 uint16"),
        (brighter, "is 24 x 32 float32; the plate's images are 24 x 32 uint16"),
        (coloured, "expected one grey image"),
        (several, "has 3 pages; expected one image a file"),
        (header_too_large, "bytes"),
        (no_strips, "part of the image is not in the file"),
        (Path.unlink, "No such file"),
    ],
)
def test_a_bad_file_fails_its_field_alone(tmp_path: Path, spoil, said: str):
    folder = phenix(tmp_path / "p")
    plan = plan_import("phenix", folder)
    spoil(folder / file_of(3, 2))
    outcome = run_import(plan, tmp_path / "out")
    assert outcome.written == 7
    ((field, why),) = outcome.failed
    assert field == "p/A01/3"
    assert said in why
    assert file_of(3, 2) in why
    plate = open_plate(tmp_path / "out" / "p.zarr")
    assert [ref.field for ref in plate.fields] == ["1", "2", "4", "5", "6", "7", "8"]
    assert [problem.field for problem in plate.problems] == ["3"]


def test_a_mended_file_is_imported_by_the_next_import(tmp_path: Path):
    folder = phenix(tmp_path / "p")
    sound = (folder / file_of(3)).read_bytes()
    no_tiff(folder / file_of(3))
    plan = plan_import("phenix", folder)
    for _ in range(2):
        outcome = run_import(plan, tmp_path / "out")
        assert [name for name, _ in outcome.failed] == ["p/A01/3"]
    (folder / file_of(3)).write_bytes(sound)
    # even by the plan that was made when it was bad
    outcome = run_import(plan, tmp_path / "out")
    assert (outcome.written, outcome.already, outcome.failed) == (1, 7, [])


def test_a_field_that_fails_now_does_not_keep_its_old_image(tmp_path: Path):
    folder = phenix(tmp_path / "p")
    run_import(plan_import("phenix", folder), tmp_path / "out")
    cut_off(folder / file_of(3))
    run_import(plan_import("phenix", folder), tmp_path / "out")
    fields = [ref.field for ref in open_plate(tmp_path / "out" / "p.zarr").fields]
    assert "3" not in fields
    assert len(fields) == 7


def test_missing_channels_and_planes_are_known_before(tmp_path: Path):
    folder = phenix(tmp_path / "p")
    (folder / file_of(3, 2)).unlink()
    for field in (1, 2, 4, 5, 6, 7):
        for plane in (1, 2):
            name = file_of(field).replace("p01", f"p{plane:02d}")
            write(folder / name, image(field + plane))
    plan = plan_import("phenix", folder)
    text = describe(plan)
    assert "2 fields cannot be imported" in text
    assert "A01/3: channel 'ch1' has 1 of 2 planes" in text
    assert "A01/8: channel 'ch1' has 1 of 2 planes" in text
    problems = {field: reason for (_, field), (reason, _) in plan.plates[0].problems.items()}
    assert problems == {"3": Reason.MISSING_CHUNKS, "8": Reason.MISSING_CHUNKS}
    (folder / file_of(5, 2)).unlink()
    problem = plan_import("phenix", folder).plates[0].problems["A01", "5"]
    assert problem == (Reason.MISSING_CHANNEL, "channel 'ch2' is missing")
    assert len(run_import(plan_import("phenix", folder), tmp_path / "out").failed) == 3


def test_two_files_for_one_plane_are_both_named(tmp_path: Path):
    folder = phenix(tmp_path / "p")
    write(folder / file_of(3).replace("f03", "f3"), image())
    with pytest.raises(InputError) as error:
        plan_import("phenix", folder)
    assert file_of(3) in str(error.value)
    assert file_of(3).replace("f03", "f3") in str(error.value)


DTD = b"""<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b "bbbb"><!ENTITY c "&b;&b;&b;">]>
<EvaluationInputData><Plates><Plate><Name>&c;</Name></Plate></Plates></EvaluationInputData>"""


def test_a_dtd_is_refused_wherever_it_stands(tmp_path: Path):
    folder = phenix(tmp_path / "p")
    (folder / "Index.xml").write_bytes(DTD)
    with pytest.raises(InputError, match=r"Index.xml has a document type declaration"):
        plan_import("phenix", folder)
    with pytest.raises(InputError, match="document type declaration"):
        list(elements([b"<!DOCTYPE a SYSTEM 'file:///etc/passwd'><a/>"], ["a"], "x"))
    ome = '<?xml version="1.0"?><!DOCTYPE OME [<!ENTITY b "b">]><OME>&b;</OME>'
    write(tmp_path / "o" / "a.ome.tif", image(), description=ome, metadata=None)
    with pytest.raises(InputError, match="document type declaration"):
        plan_import("ometiff", tmp_path / "o")


@given(st.binary(max_size=60), st.integers(0, 200))
def test_broken_xml_is_an_input_error(noise: bytes, at: int):
    sound = b"<a><b c='1'>text</b></a>"
    broken = sound[:at] + noise + sound[at:]
    try:
        found = list(elements([broken[:7], broken[7:]], ["b"], "x"))
    except InputError:
        return
    assert all(element.tag == "b" for element in found)


def test_xml_nested_without_end_is_refused():
    with pytest.raises(InputError, match="nested more than 200 deep"):
        list(elements([b"<a>" * 1000], ["b"], "x"))


OME = """<OME><Plate ID="Plate:0" Name="p"><Well Row="{row}" Column="0">
<WellSample Index="0"><ImageRef ID="Image:0"/></WellSample></Well></Plate>
<Image ID="Image:0"><Pixels DimensionOrder="XYZTC" SizeC="{channels}" SizeZ="1" SizeT="1">
<TiffData IFD="0" PlaneCount="{count}"><UUID FileName="{name}">urn:uuid:1</UUID></TiffData>
</Pixels></Image></OME>"""


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"name": "../../secret.tif"}, r"'\.\./\.\./secret.tif': expected a file below the same"),
        ({"name": "/etc/passwd"}, "expected a file below the same folder"),
        ({"name": "C:\\x.tif"}, "expected a file below the same folder"),
        ({"count": "2"}, "place more planes than the image's 1"),
        ({"channels": "999999999", "count": "999999999"}, "expected 100000 or fewer"),
        ({"row": "-1"}, "expected a whole number"),
        ({"row": "5000"}, "row 5001: expected 1"),
        ({"name": "absent.tif"}, "none of its files is in"),
    ],
)
def test_ome_metadata_that_cannot_be_right(tmp_path: Path, changed: dict[str, str], said: str):
    values = {"name": "a.tif", "count": "1", "channels": "1", "row": "0"} | changed
    write(tmp_path / "in" / "a.tif", image(), metadata=None)
    (tmp_path / "in" / "x.companion.ome").write_text(OME.format(**values))
    with pytest.raises(InputError, match=said):
        plan_import("ometiff", tmp_path / "in")


def test_harmonys_index_cannot_lead_out_of_the_folder(tmp_path: Path):
    folder = phenix(tmp_path / "p", fields=1)
    tags = "".join(
        f"<{t}>1</{t}>" for t in ("Row", "Col", "FieldID", "PlaneID", "TimepointID", "ChannelID")
    )
    (folder / "Index.xml").write_text(f"<a><Image><URL>../x.tiff</URL>{tags}</Image></a>")
    with pytest.raises(InputError, match=r"Index.xml names a file '\.\./x.tiff'"):
        plan_import("phenix", folder)


def test_links_are_left_out_and_odd_plate_names_stay_in_the_target(tmp_path: Path):
    real = write(tmp_path / "elsewhere" / file_of(1), image())
    folder = tmp_path / "in"
    write(folder / file_of(2), image(2))
    (folder / file_of(1)).symlink_to(real)
    plan = plan_import("phenix", folder, plate="../../away")
    assert plan.plates[0].fields == {"A01": ["2"]}
    (plate,) = run_import(plan, tmp_path / "out").plates
    assert plate.parent == tmp_path / "out"
    assert "the plate '../../away' is called '_.._away'" in describe(plan)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"channels": {"ch3": "x"}}, "no channel 'ch3'.*did you mean.*there are ch1, ch2"),
        ({"channels": {"ch1": "x", "ch2": "x"}}, "'x' is no name of one channel"),
        ({"z": 1}, "has 1 planes in z; there is no number 1"),
        ({"z": "mean"}, "expected 'max' or the number"),
        ({"time": 1}, "has 1 time points; there is no number 1"),
        ({"pixel_size_um": 0.0}, "expected a positive number"),
        ({"pattern": "{well}.tif"}, "a pattern is for the kind 'template'"),
    ],
)
def test_choices_that_do_not_fit_the_folder(tmp_path: Path, options, said: str):
    with pytest.raises(InputError, match=said):
        plan_import("phenix", phenix(tmp_path / "p", fields=1), **options)


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        (None, "needs a pattern"),
        ("{wel}.tif", "unknown placeholder {wel}; known: {plate}"),
        ("{row}_{field}.tif", "expected {well}, or {row} and {column}"),
        ("{well}_{row}{column}.tif", "expected {well}, or {row} and {column}"),
        ("../{well}.tif", "without '..'"),
        ("{well}-{field}.tif", "no file of .* is named '{well}-{field}.tif'; there are 2 files"),
    ],
)
def test_templates_that_cannot_be_used(tmp_path: Path, pattern, said: str):
    with pytest.raises(InputError, match=said.replace("{", r"\{")):
        plan_import("template", phenix(tmp_path / "p", fields=1), pattern=pattern)


def test_folders_and_kinds_that_are_not_there(tmp_path: Path):
    (tmp_path / "images").mkdir()
    with pytest.raises(InputError, match=r"no such folder \(did you mean 'images'\?\)"):
        plan_import("phenix", tmp_path / "imags")
    with pytest.raises(UnknownNameError, match="did you mean 'phenix'"):
        plan_import("phoenix", tmp_path / "images")
    for kind in ("phenix", "imagexpress", "ometiff"):
        with pytest.raises(InputError, match="there are 0 files, such as nothing"):
            plan_import(kind, tmp_path / "images")


def test_targets_that_cannot_be(tmp_path: Path):
    folder = phenix(tmp_path / "p", fields=1)
    plan = plan_import("phenix", folder)
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="is a file: give a folder"):
        run_import(plan, tmp_path / "file")
    run_import(plan, tmp_path / "out")
    write(folder / file_of(1).replace("c01", "c02"), image())
    with pytest.raises(InputError, match="choose another folder"):
        run_import(plan_import("phenix", folder), tmp_path / "out")


def test_compressed_files_without_imagecodecs_are_one_clear_error(tmp_path: Path):
    pytest.importorskip("imagecodecs", reason="only it writes LZW")
    write(tmp_path / "p" / file_of(1), image(), compression="lzw")
    program = (
        "import sys; sys.modules['imagecodecs'] = None\n"
        "from bgscale.importers import plan_import\n"
        "try: plan_import('phenix', sys.argv[1])\n"
        "except ValueError as error: print(type(error).__name__, error)"
    )
    said = subprocess.run(
        [sys.executable, "-c", program, tmp_path / "p"], capture_output=True, text=True, check=True
    ).stdout
    assert said.startswith("InputError")
    assert "compressed (LZW), which needs another package: pip install imagecodecs" in said


def test_a_small_image_cannot_ask_for_a_huge_tile(tmp_path: Path):
    path = write(tmp_path / "a.tif", image(), tile=(16, 16), compression="zlib")
    tag(path, 322, 2**16)
    tag(path, 323, 2**16)
    with pytest.raises(FieldError) as error, opened(path) as tiff:
        layout_of(tiff, 0, single=True)
    assert error.value.reason == Reason.TOO_LARGE


@settings(max_examples=300)
@given(
    st.sampled_from([None, "zlib", "lzw"]),
    st.integers(0, 400),
    st.binary(min_size=1, max_size=8),
    st.integers(0, 200),
)
def test_a_damaged_tiff_is_read_in_its_layout_or_fails_its_field(
    tmp_path_factory: pytest.TempPathFactory, compression, at: int, noise: bytes, cut: int
):
    if compression == "lzw":
        pytest.importorskip("imagecodecs", reason="only it writes LZW")
    path = tmp_path_factory.mktemp("damaged") / "a.tif"
    write(path, image(), compression=compression)
    content = bytearray(path.read_bytes())
    content[at : at + len(noise)] = noise
    path.write_bytes(content[: len(content) - cut])
    found = None
    with suppress(FieldError), opened(path) as tiff:
        found = read_page(tiff, 0, LAYOUT, single=True)
    assert found is None or (found.shape, found.dtype) == (SHAPE, LAYOUT.dtype)
