"""Folders of each kind become plates: every pixel where its name or its metadata put it."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st

from bgscale.distribute.listener import Silent
from bgscale.errors import InterruptedRunError
from bgscale.importers import KINDS, Source, describe, plan_import, run_import
from bgscale.importers import run as import_run
from bgscale.importers.found import row_letters, well_at, well_called
from bgscale.importers.phenix import NAME
from bgscale.ngff import open_plate

SHAPE = (24, 32)


def image(*place: int, dtype: str = "uint16") -> np.ndarray:
    """Return an image that no other place has."""
    return np.random.default_rng(place).integers(1, 250, SHAPE).astype(dtype)


def write(path: Path, data: np.ndarray, **options) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, data, photometric="minisblack", **options)


def phenix(folder: Path, *, columns: int = 2, fields: int = 2, planes: int = 1) -> Path:
    """Write a folder as Harmony does, without an index."""
    for column, field, plane, channel in itertools.product(
        range(1, columns + 1), range(1, fields + 1), range(1, planes + 1), (1, 2)
    ):
        name = f"r02c{column:02d}f{field:02d}p{plane:02d}-ch{channel}sk1fk1fl1.tiff"
        write(folder / "Images" / name, image(column, field, plane, channel))
    return folder


def imported(plan, out: Path):
    """Import a plan of one plate and open the plate."""
    outcome = run_import(plan, out)
    assert outcome.failed == []
    plate = open_plate(outcome.plates[0])
    assert plate.problems == ()
    return plate


def pixels(plate, well: str, field: str, channel: str) -> np.ndarray:
    ref = next(r for r in plate.fields if (r.well, r.field) == (well, field))
    return plate.read(ref, channels=[channel])[0]


class Ear(Silent):
    """Hears which units are done; asks for a stop after some."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.done: list[str] = []
        self._stop_after = stop_after

    def unit_done(self, unit, summary) -> None:
        self.done.append(summary["field"])
        if len(self.done) == self._stop_after:
            import os
            import signal

            os.kill(os.getpid(), signal.SIGTERM)


def test_the_real_phenix_folder_is_imported_pixel_by_pixel(shared_data: Path, tmp_path: Path):
    folder = shared_data / "yeast_fields" / "images"
    plan = plan_import("phenix", folder, channels={"ch1": "GFP"}, pixel_size_um=0.19)
    text = describe(plan)
    for said in (
        "plate yeast_fields",
        "wells     1 (A01)",
        "fields    3 (3 a well)",
        "channels  GFP, ch2, ch3",
        "1080 x 1080 uint16, pixel size 0.19 µm",
        "9 planes of 9 files, 21 MB",
    ):
        assert said in text
    plate = imported(plan, tmp_path / "plates")
    assert [str(ref) for ref in plate.fields] == [f"yeast_fields/A01/{n}" for n in (1, 2, 3)]
    info = plate.image(plate.fields[0])
    assert (info.channels, info.pixel_size_um) == (("GFP", "ch2", "ch3"), pytest.approx(0.19))
    for field, (number, channel) in itertools.product(
        (1, 2, 3), enumerate(("GFP", "ch2", "ch3"), 1)
    ):
        file = folder / f"r01c01f{field:02d}p01-ch{number}sk1fk1fl1.tiff"
        np.testing.assert_array_equal(
            pixels(plate, "A01", str(field), channel), tifffile.imread(file)
        )


def test_the_cameras_resolution_is_not_the_pixel_size(shared_data: Path):
    # these TIFFs say 1550 pixels a centimetre: 6.45 µm, the camera's; the sample's is some 0.2 µm
    plan = plan_import("phenix", shared_data / "yeast_field")
    assert plan.plates[0].pixel_size_um is None
    assert "pixel size unknown: give it (--pixel-size)" in describe(plan)


def test_the_real_lzw_file_is_imported(shared_data: Path, tmp_path: Path):
    pytest.importorskip("imagecodecs", reason="the file is LZW-compressed")
    plate = imported(plan_import("phenix", shared_data / "yeast_field"), tmp_path / "one.zarr")
    file = next((shared_data / "yeast_field").glob("*.tiff"))
    np.testing.assert_array_equal(pixels(plate, "E05", "1", "ch2"), tifffile.imread(file))


INDEX = """<?xml version="1.0" encoding="utf-8"?>
<EvaluationInputData xmlns="http://www.perkinelmer.com/PEHH/HarmonyV6">
<Plates><Plate><PlateID>7</PlateID><Name>screen 1</Name></Plate></Plates>
<Maps><Map><Entry ChannelID="1"><FlatfieldProfile>none</FlatfieldProfile></Entry></Map>
<Map><Entry ChannelID="1"><ChannelName>EGFP</ChannelName>
<ImageResolutionX Unit="m">1.897912E-07</ImageResolutionX></Entry>
<Entry ChannelID="2"><ChannelName>mCherry</ChannelName>
<ImageResolutionX Unit="m">1.897912E-07</ImageResolutionX></Entry></Map></Maps>
<Images><Image Version="1"><id>0203K1F1P1R1</id><URL>oddly-named.tiff</URL><Row>2</Row><Col>3</Col>
<FieldID>1</FieldID><PlaneID>1</PlaneID><TimepointID>1</TimepointID><ChannelID>1</ChannelID></Image>
<Image Version="1"><URL>r02c09f01p01-ch1sk1fk1fl1.tiff</URL><Row>2</Row><Col>9</Col>
<FieldID>1</FieldID><PlaneID>1</PlaneID><TimepointID>1</TimepointID><ChannelID>1</ChannelID></Image>
</Images></EvaluationInputData>"""


def test_harmonys_index_gives_names_sizes_and_places(tmp_path: Path):
    folder = phenix(tmp_path / "measurement", columns=1, fields=1)
    write(folder / "Images" / "oddly-named.tiff", image(9))
    write(folder / "Images" / "r02c03f01p01-ch2sk1fk1fl1.tiff", image(10))
    (folder / "Images" / "Index.idx.xml").write_text(INDEX, encoding="utf-8")
    plan = plan_import("phenix", folder)
    plate = imported(plan, tmp_path / "out")
    assert plate.name == "screen 1"
    assert plate.image(plate.fields[0]).channels == ("EGFP", "mCherry")
    assert plate.image(plate.fields[0]).pixel_size_um == pytest.approx(0.1897912)
    np.testing.assert_array_equal(pixels(plate, "B03", "1", "EGFP"), image(9))
    assert "1 of 2 images of the index are not in the folder, such as r02c09f" in describe(plan)


def test_a_stack_is_projected_or_one_plane_is_chosen(tmp_path: Path):
    folder = phenix(tmp_path / "stack", columns=1, fields=1, planes=3)
    stack = [image(1, 1, plane, 1) for plane in (1, 2, 3)]
    highest = imported(plan_import("phenix", folder), tmp_path / "max")
    np.testing.assert_array_equal(pixels(highest, "B01", "1", "ch1"), np.max(stack, axis=0))
    middle = imported(plan_import("phenix", folder, z=1), tmp_path / "middle")
    np.testing.assert_array_equal(pixels(middle, "B01", "1", "ch1"), stack[1])
    assert "3 planes in z: their maximum is taken" in describe(plan_import("phenix", folder))


def test_channels_can_change_their_names_with_each_other(tmp_path: Path):
    plan = plan_import("phenix", phenix(tmp_path / "p"), channels={"1": "ch2", "ch2": "ch1"})
    plate = imported(plan, tmp_path / "out")
    np.testing.assert_array_equal(pixels(plate, "B01", "1", "ch2"), image(1, 1, 1, 1))


def test_two_measurements_are_two_plates(tmp_path: Path):
    for name in ("monday", "tuesday"):
        phenix(tmp_path / "screen" / name, columns=1, fields=1)
    plan = plan_import("phenix", tmp_path / "screen")
    outcome = run_import(plan, tmp_path / "out")
    assert [p.name for p in outcome.plates] == ["monday.zarr", "tuesday.zarr"]
    assert outcome.written == 2


UUID = "0A1B2C3D-0000-1111-2222-333344445555"
HTD = """"HTSInfoFile", Version 1.0\n"SiteSelection1", TRUE, TRUE\n"SiteSelection2", TRUE, FALSE
"NWavelengths", 2\n"WaveName1", "DAPI"\n"WaveName2", "FITC"\n"EndFile"\n"""
CALIBRATION = """<MetaData><PlaneInfo><prop id="spatial-calibration-state" type="bool" value="on"/>
<prop id="spatial-calibration-x" type="float" value="0.325"/>
<prop id="spatial-calibration-units" type="string" value="um"/></PlaneInfo></MetaData>"""


def test_imagexpress_names_protocol_and_calibration(tmp_path: Path):
    folder = tmp_path / "run"
    for well, site, wave in itertools.product(("A01", "H12"), (1, 2), (1, 2)):
        data = image(ord(well[0]), site, wave)
        # a UUID that begins with a digit stands right behind the number of the wavelength
        name = f"P7_{well}_s{site}_w{wave}{UUID}.tif"
        write(folder / "TimePoint_1" / name, data, description=CALIBRATION, metadata=None)
        write(folder / "TimePoint_1" / name.replace(UUID, f"_thumb{UUID}"), data[::4, ::4])
    (folder / "P7.HTD").write_text(HTD, encoding="latin-1")
    plan = plan_import("imagexpress", folder)
    text = describe(plan)
    assert "8 thumbnails are passed over" in text
    assert "the HTD file has 3 sites a well; 2 wells have fewer, such as A01 with 2" in text
    plate = imported(plan, tmp_path / "out")
    assert plate.name == "P7"
    assert plate.image(plate.fields[0]).channels == ("DAPI", "FITC")
    assert plate.image(plate.fields[0]).pixel_size_um == pytest.approx(0.325)
    np.testing.assert_array_equal(pixels(plate, "H12", "2", "FITC"), image(ord("H"), 2, 2))


def test_imagexpress_takes_the_stack_not_its_projection(tmp_path: Path):
    folder = tmp_path / "P1" / "TimePoint_1"
    write(folder / "P1_B02_w1.TIF", image(0) + 1000)
    for step in (1, 2, 10):
        write(folder / f"ZStep_{step}" / "P1_B02_w1.TIF", image(step))
    write(tmp_path / "P1" / "TimePoint_2" / "ZStep_1" / "P1_B02_w1.TIF", image(99))
    plan = plan_import("imagexpress", tmp_path / "P1", z=2)
    np.testing.assert_array_equal(
        pixels(imported(plan, tmp_path / "out"), "B02", "1", "w1"), image(10)
    )
    text = describe(plan)
    assert "1 projections beside stacks are passed over" in text
    assert "time point 1 of 2 is taken" in text


def test_one_protocols_prefix_on_all_plates_is_not_their_name(tmp_path: Path):
    for number in (20585, 20586):
        write(tmp_path / str(number) / "IXMtest_A01_s1_w1.tif", image(number))
    plan = plan_import("imagexpress", tmp_path)
    assert [plate.name for plate in plan.plates] == ["20585", "20586"]


PLATE = """<Plate ID="Plate:0" Name="ome plate"><Well ID="Well:0" Row="1" Column="2">
<WellSample ID="WellSample:1" Index="1"><ImageRef ID="Image:1"/></WellSample>
<WellSample ID="WellSample:0" Index="0"><ImageRef ID="Image:0"/></WellSample></Well></Plate>"""


def with_plate(path: Path, plate: str = PLATE) -> None:
    """Put a plate into the metadata that tifffile has written."""
    text = tifffile.tiffcomment(path)
    at = text.index("<Image ")
    tifffile.tiffcomment(path, (text[:at] + plate + text[at:]).encode())


@pytest.mark.parametrize("axes", ["CZYX", "ZCYX"])
def test_one_ome_tiff_of_a_plate(tmp_path: Path, axes: str):
    path = tmp_path / "in" / "all.ome.tiff"
    path.parent.mkdir()
    shape = tuple({"C": 2, "Z": 3, "Y": 24, "X": 32}[a] for a in axes)
    data = np.random.default_rng(1).integers(0, 9999, (2, *shape)).astype("uint16")
    metadata = {
        "axes": axes,
        "Channel": {"Name": ["nucleus", "tubulin"]},
        "PhysicalSizeX": 500,
        "PhysicalSizeXUnit": "nm",
    }
    with tifffile.TiffWriter(path, ome=True) as tiff:
        for one in data:
            tiff.write(one, photometric="minisblack", metadata=metadata)
    with_plate(path)
    plate = imported(plan_import("ometiff", tmp_path / "in", z=2), tmp_path / "out")
    assert [str(ref) for ref in plate.fields] == ["ome plate/B03/0", "ome plate/B03/1"]
    assert plate.image(plate.fields[0]).pixel_size_um == pytest.approx(0.5)
    for field, channel in itertools.product((0, 1), (0, 1)):
        expected = data[field].take(channel, axes.index("C"))[2]
        name = ("nucleus", "tubulin")[channel]
        np.testing.assert_array_equal(pixels(plate, "B03", str(field), name), expected)


def test_an_ome_companion_of_many_files(tmp_path: Path):
    folder = tmp_path / "in"
    data = {(field, c): image(field, c) for field in (0, 1) for c in (0, 1)}
    images = ""
    for field in (0, 1):
        parts = ""
        for c in (0, 1):
            write(folder / f"f{field}c{c}.tif", data[field, c], metadata=None)
            parts += (
                f'<TiffData IFD="0" PlaneCount="1" FirstC="{c}">'
                f'<UUID FileName="f{field}c{c}.tif">urn:uuid:{field}{c}</UUID></TiffData>'
            )
        images += (
            f'<Image ID="Image:{field}"><Pixels DimensionOrder="XYZTC" SizeX="32" SizeY="24" '
            f'SizeC="2" SizeZ="1" SizeT="1">{parts}</Pixels></Image>'
        )
    (folder / "plate.companion.ome").write_text(f'<OME xmlns="urn:x">{PLATE}{images}</OME>')
    plate = imported(plan_import("ometiff", folder, channels={"1": "DNA"}), tmp_path / "out")
    for (field, c), expected in data.items():
        np.testing.assert_array_equal(pixels(plate, "B03", str(field), ("c0", "DNA")[c]), expected)


def test_a_renamed_ome_tiff_is_still_itself(tmp_path: Path):
    for well, column in (("x", 2), ("y", 3)):
        path = tmp_path / "in" / f"{well}.ome.tif"
        write(path, image(column), ome=True)
        text = tifffile.tiffcomment(path).replace(
            "/></Pixels>", '><UUID FileName="before.ome.tif">urn:uuid:1</UUID></TiffData></Pixels>'
        )
        assert "before.ome.tif" in text
        tifffile.tiffcomment(path, text.encode())
        with_plate(path, PLATE.replace('Column="2"', f'Column="{column}"'))
    plate = imported(plan_import("ometiff", tmp_path / "in"), tmp_path / "out")
    np.testing.assert_array_equal(pixels(plate, "B03", "0", "c0"), image(2))
    np.testing.assert_array_equal(pixels(plate, "B04", "0", "c0"), image(3))


@pytest.mark.parametrize(
    ("pattern", "name"),
    [
        ("{plate}/r{row}c{column}f{field}-ch{channel}.tiff", "P/r03c04f07-chGFP.tif"),
        ("{plate}_*/{well}/{well}_{field}_{channel}.tif", "P_x9/C4/C4_7_GFP.tiff"),
        ("{row}{column}-t{time}z{z}_{field}_{channel}.tif", "c004-t1z1_07_GFP.tif"),
    ],
)
def test_templates(tmp_path: Path, pattern: str, name: str):
    write(tmp_path / "P" / name, image(4))
    plan = plan_import("template", tmp_path / "P", pattern=pattern)
    plate = imported(plan, tmp_path / "out")
    assert plate.name == "P"
    np.testing.assert_array_equal(pixels(plate, "C04", "7", "GFP"), image(4))


def test_an_interrupted_import_does_nothing_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    plan = plan_import("phenix", phenix(tmp_path / "p", columns=3), pixel_size_um=0.2)
    written = []
    monkeypatch.setattr(
        import_run,
        "write_field",
        lambda *args, _write=import_run.write_field, **kw: (
            written.append(args[1:3]),
            _write(*args, **kw),
        ),
    )
    with pytest.raises(InterruptedRunError):
        run_import(plan, tmp_path / "out", listener=Ear(stop_after=2))
    assert len(written) == 2
    outcome = run_import(plan, tmp_path / "out")
    assert (outcome.already, outcome.written) == (2, 4)
    assert sorted(written) == sorted(set(written))
    assert len(written) == 6
    again = run_import(plan, tmp_path / "out")
    assert (again.already, again.written, len(written)) == (6, 0, 6)


def test_only_what_was_changed_is_done_again(tmp_path: Path):
    folder = phenix(tmp_path / "p")
    run_import(plan_import("phenix", folder), tmp_path / "out")
    write(folder / "Images" / "r02c01f02p01-ch2sk1fk1fl1.tiff", image(77))
    ear = Ear()
    plan = plan_import("phenix", folder)
    run_import(plan, tmp_path / "out", listener=ear)
    assert ear.done == ["p/B01/2"]
    np.testing.assert_array_equal(
        pixels(open_plate(tmp_path / "out" / "p.zarr"), "B01", "2", "ch2"), image(77)
    )


def test_a_plan_reads_few_headers_of_many_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = phenix(tmp_path / "p", columns=20, fields=5)
    opened = []
    monkeypatch.setattr(
        tifffile.TiffFile,
        "__init__",
        lambda self, file, *args, _init=tifffile.TiffFile.__init__, **kw: (
            opened.append(file),
            _init(self, file, *args, **kw),
        )[0],
    )
    assert len(plan_import("phenix", folder).plates[0].table) == 200
    assert 1 < len(opened) <= 32


@pytest.mark.cluster
def test_a_cluster_writes_the_same_bytes(tmp_path: Path, cluster):
    plan = plan_import("phenix", phenix(tmp_path / "p"))
    run_import(plan, tmp_path / "here")
    run_import(plan, tmp_path / "there", client=cluster)
    one, two = (
        {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
        for folder in (tmp_path / "here", tmp_path / "there")
    )
    assert one == two
    assert len(one) > 4 * 3


@given(
    st.integers(1, 32),
    st.integers(1, 48),
    st.integers(1, 99),
    st.integers(1, 9),
    st.integers(1, 3),
)
def test_harmonys_names_with_any_number_of_digits(row, column, field, channel, width):
    name = f"r{row:0{width}}c{column:0{width}}f{field:0{width}}p1-ch{channel}sk1fk1fl1.tiff"
    fits = NAME.fullmatch(name)
    well = well_at(fits["row"], fits["column"])
    assert well == well_called(f"{row_letters(row).lower()}{column}") == f"{well:>3}"
    assert (int(fits["field"]), int(fits["channel"])) == (field, channel)


def test_each_kind_is_listed_and_a_source_is_a_file_and_a_page():
    assert all(callable(KINDS[kind]) for kind in KINDS)
    assert Source("a.tif") == Source("a.tif", 0)
