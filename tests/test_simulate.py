"""Simulated screens: seeded, true to their labels, and independent where they say so."""

import zipfile
from dataclasses import fields, replace

import numpy as np
import pandas as pd
import pytest
import tifffile

from bgscale.errors import InputError
from bgscale.simulate import ScreenSpec, proteins, simulate_field, write_crops
from bgscale.simulate import field as field_module
from bgscale.simulate.colony import BUD_LIMIT, grow
from bgscale.simulate.localizations import PATTERNS
from bgscale.simulate.spec import stream

SMALL = ScreenSpec(
    localizations=("nucleus", "vacuole", "ER"),
    proteins_per_localization=2,
    mixed_proteins=2,
    fields_per_protein=1,
    cells_per_field=14,
    field_size_px=192,
    plates=2,
)
MIXED = replace(SMALL, neighbours="independent")


@pytest.fixture(scope="module")
def field():
    return simulate_field(SMALL, 0, 0)


@pytest.fixture(scope="module")
def colony():
    return grow(60, 400, 6.0, stream("test"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_crops(SMALL, tmp_path_factory.mktemp("screen"))


def test_a_field_depends_on_spec_well_and_field_only_not_on_order():
    asked = [(w, f) for w in range(3) for f in range(2)]
    there = {key: simulate_field(SMALL, *key) for key in asked}
    back = {key: simulate_field(SMALL, *key) for key in reversed(asked)}
    for key in asked:
        np.testing.assert_array_equal(there[key].image, back[key].image)
        np.testing.assert_array_equal(there[key].labels, back[key].labels)
        pd.testing.assert_frame_equal(there[key].cells, back[key].cells)
    images = [there[key].image.tobytes() for key in asked]
    assert len(set(images)) == len(images)


def test_adding_proteins_fields_or_cells_leaves_the_proteins_as_they_are():
    more = replace(SMALL, mixed_proteins=5, fields_per_protein=3, cells_per_field=5)
    pd.testing.assert_frame_equal(proteins(more).iloc[: len(proteins(SMALL))], proteins(SMALL))


def test_image_and_labels_have_the_promised_form(field):
    assert field.image.shape == (3, 192, 192)
    assert field.image.dtype == np.uint16
    assert field.labels.dtype == np.int32
    assert field.image.min() > 0


def test_cells_table_says_what_the_labels_show(field):
    cells = field.cells
    np.testing.assert_array_equal(np.unique(field.labels), [0, *cells["label"]])
    np.testing.assert_array_equal(np.bincount(field.labels.ravel())[1:], cells["area"])
    for cell in cells.itertuples():
        y, x = np.nonzero(field.labels == cell.label)
        assert (cell.y, cell.x) == pytest.approx((y.mean(), x.mean()))


def test_a_strain_shows_its_localizations_only():
    table = proteins(SMALL)
    for well, row in table.iterrows():
        cells = simulate_field(SMALL, well, 0).cells
        assert set(cells["protein"]) == {row["protein"]}
        assert set(cells["localization"]) <= set(row["localization"].split(";"))


def test_proportions_are_planted_and_cells_follow_them():
    table = proteins(SMALL)
    shares = table[list(SMALL.localizations)]
    np.testing.assert_allclose(shares.sum(axis=1), 1)
    labels = (shares > 0).sum(axis=1)
    assert (labels[:6] == 1).all()
    assert labels[6:].isin([2, 3]).all()
    assert (shares.to_numpy()[shares.to_numpy() > 0] > 0.1).all()
    carried, shown = field_module._tag(SMALL, 7, 20_000, stream("test"))
    assert (carried == 7).all()
    seen = np.bincount(shown, minlength=3) / len(shown)
    np.testing.assert_allclose(seen, shares.iloc[7], atol=0.015)


def test_classes_are_spread_over_plates():
    table = proteins(replace(SMALL, proteins_per_localization=4, plates=4))
    assert table.iloc[:12].groupby("plate")["localization"].nunique().tolist() == [3, 3, 3, 3]
    assert not table.duplicated(["plate", "well"]).any()


def test_a_mixed_culture_shows_the_same_outlines_as_the_strain_of_its_number():
    strain, mixed = simulate_field(SMALL, 1, 0), simulate_field(MIXED, 1, 0)
    np.testing.assert_array_equal(strain.labels, mixed.labels)
    assert strain.cells["protein"].nunique() == 1
    assert mixed.cells["protein"].nunique() > 1


def test_in_a_mixed_culture_neighbours_share_a_protein_no_more_than_by_chance():
    spec = replace(MIXED, mixed_proteins=0, plates=1)
    carried = field_module._tag(spec, 2, 6000, stream("pairs"))[0].reshape(-1, 2)
    chance = 1 / len(proteins(spec))
    assert np.mean(carried[:, 0] == carried[:, 1]) == pytest.approx(chance, abs=0.02)
    counts = np.bincount(carried.ravel(), minlength=len(proteins(spec)))
    assert counts / carried.size == pytest.approx(np.full(len(counts), chance), abs=0.02)


def test_a_mixed_culture_draws_from_its_own_plate():
    table = proteins(MIXED)
    for well in range(len(table)):
        of_plate = table.loc[table["plate"] == table["plate"][well], "protein"]
        assert set(simulate_field(MIXED, well, 0).cells["protein"]) <= set(of_plate)


def test_the_light_of_a_cell_stays_in_its_label(colony):
    shown = np.zeros(len(colony.cells), int)
    dim = np.full(len(colony.cells), 100.0)
    bright = dim.copy()
    bright[3] = 10_000.0
    one = field_module._light(SMALL, colony, shown, dim, stream("light"))
    other = field_module._light(SMALL, colony, shown, bright, stream("light"))
    changed = (one != other).any(axis=0)
    assert changed.any()
    assert (colony.labels[changed] == 4).all()


def test_the_haze_of_a_field_is_the_same_for_every_cell_in_it(colony):
    rng = np.random.default_rng(0)
    light = rng.random((3, *colony.labels.shape), dtype=np.float32) * (colony.labels > 0)
    swapped = light[:, ::-1, ::-1]
    occupied = colony.labels > 0
    np.testing.assert_allclose(
        field_module._haze(SMALL, light, occupied),
        field_module._haze(SMALL, np.ascontiguousarray(swapped), occupied),
        rtol=1e-4,
    )


def test_buds_that_share_their_mothers_label_are_small(colony):
    buds = [cell for cell in colony.cells if cell.bud is not None]
    assert 0.1 < len(buds) / len(colony.cells) < 0.6
    assert all(cell.bud[2] <= BUD_LIMIT * cell.radius * 1.3 for cell in buds)


@pytest.mark.parametrize("name", PATTERNS)
def test_every_localization_draws_light_in_the_cell(name, colony):
    for cell in colony.cells[:20]:
        light = PATTERNS[name](cell, stream(name))
        assert light.shape == cell.depth.shape
        assert light.dtype == np.float32
        assert np.isfinite(light).all()
        assert light.min() >= 0
        assert light[cell.depth > -2].sum() > 0.85 * light.sum()


@pytest.mark.parametrize(
    ("name", "where"),
    [
        ("nucleus", lambda cell: cell.nucleus_depth > 1),
        ("nucleolus", lambda cell: cell.nucleus_depth > 0),
        ("nuclear periphery", lambda cell: np.abs(cell.nucleus_depth) < 1),
        ("vacuole", lambda cell: cell.vacuole_depth > 1),
        ("vacuolar membrane", lambda cell: np.abs(cell.vacuole_depth) < 1),
        ("cell periphery", lambda cell: np.abs(cell.depth) < 1.5),
        ("actin", lambda cell: (cell.depth > 0) & (cell.depth < 3.5)),
    ],
)
def test_light_is_brightest_where_the_localization_says(name, where, colony):
    ratios = []
    for cell in colony.cells:
        light, inside = PATTERNS[name](cell, stream(name)), cell.depth > 0
        ratios.append(light[where(cell)].mean() / light[inside & ~where(cell)].mean())
    assert np.median(ratios) > 2


def test_two_spindle_poles_where_there_is_a_bud(colony):
    budded = next(cell for cell in colony.cells if cell.bud is not None)
    light = PATTERNS["spindle pole"](budded, stream("poles"))
    inner = light[1:-1, 1:-1]
    steps = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if dy or dx]
    around = [np.roll(light, step, (0, 1))[1:-1, 1:-1] for step in steps]
    peaks = (inner > 0.7) & (inner >= np.max(around, axis=0))
    assert peaks.sum() == 2


def test_most_crops_show_neighbours_as_real_ones_do():
    spec = ScreenSpec()
    found = simulate_field(spec, 0, 0)
    crops = [
        found.labels[int(c.y) - 32 : int(c.y) + 32, int(c.x) - 32 : int(c.x) + 32]
        for c in found.cells.itertuples()
        if min(c.y, c.x) >= 32 and max(c.y, c.x) < spec.field_size_px - 32
    ]
    crowded = [len(np.unique(crop)) > 2 for crop in crops]
    assert np.mean(crowded) > 0.8
    assert 0.15 < (found.labels > 0).mean() < 0.4


def test_crops_are_exact_windows_of_their_field(folder):
    truth = pd.read_csv(folder / "truth" / "cells.csv")
    table = proteins(SMALL)
    assert len(truth) > 20
    for well, protein in enumerate(table["protein"]):
        found = simulate_field(SMALL, well, 0)
        written = truth[truth["protein"] == protein]
        inside = found.cells.loc[
            found.cells[["y", "x"]].min(axis=1).ge(32) & found.cells[["y", "x"]].max(axis=1).lt(161)
        ]
        assert written["cell"].tolist() == inside["label"].tolist()
        for row in written.itertuples():
            window = np.s_[int(row.y) - 32 : int(row.y) + 32, int(row.x) - 32 : int(row.x) + 32]
            stem = f"{protein}/{protein}_0_{row.cell}"
            for channel, suffix in enumerate(("gfp", "rfp", "nuc")):
                crop = tifffile.imread(folder / f"{stem}_{suffix}.tif")
                assert crop.dtype == np.uint16
                np.testing.assert_array_equal(crop, found.image[channel][window])
            mask = tifffile.imread(folder / f"{stem}_mask.tif")
            labels = found.labels[window]
            np.testing.assert_array_equal(mask, np.where(labels == row.cell, 255, 0))
            assert row.neighbours == len(set(np.unique(labels)) - {0, row.cell})


def test_the_plate_map_and_the_planted_proportions_are_those_of_the_proteins(folder):
    table = proteins(SMALL)
    plate_map = pd.read_csv(folder / "platemap.csv")
    pd.testing.assert_frame_equal(
        plate_map, table[["protein", "localization", "plate", "well"]], check_dtype=False
    )
    shares = pd.read_csv(folder / "truth" / "proportions.csv")
    wide = shares.pivot_table(index="protein", columns="localization", values="proportion")
    expected = table.set_index("protein")[list(wide.columns)]
    np.testing.assert_allclose(wide.fillna(0).loc[expected.index], expected)
    assert shares["cells"].sum() == len(pd.read_csv(folder / "truth" / "cells.csv"))


def test_an_archive_holds_the_same_files_as_the_folder(folder, tmp_path):
    calls = []
    write_crops(SMALL, tmp_path / "z", zipped=True, progress=lambda d, t: calls.append((d, t)))
    with zipfile.ZipFile(tmp_path / "z" / "crops.zip") as archive:
        names = {p.relative_to(folder).as_posix() for p in folder.rglob("*.tif")}
        assert set(archive.namelist()) == names
        assert all(archive.read(name) == (folder / name).read_bytes() for name in names)
    assert calls == [(i + 1, 8) for i in range(8)]


def test_masks_may_be_left_out(tmp_path):
    few = replace(SMALL, proteins_per_localization=1, mixed_proteins=0)
    write_crops(few, tmp_path / "bare", masks=False)
    assert not list(tmp_path.rglob("*_mask.tif"))
    assert list(tmp_path.rglob("*_gfp.tif"))


def test_crops_of_a_mixed_culture_share_a_field_number_across_proteins(tmp_path):
    truth = pd.read_csv(write_crops(MIXED, tmp_path / "mixed") / "truth" / "cells.csv")
    assert truth.groupby("field")["protein"].nunique().max() > 1
    assert not truth.duplicated(["field", "cell"]).any()
    assert "well" not in pd.read_csv(tmp_path / "mixed" / "platemap.csv")


def test_a_folder_with_something_in_it_is_refused(folder):
    with pytest.raises(InputError, match="not an empty folder"):
        write_crops(SMALL, folder)


CHANGED = {
    "seed": 1, "localizations": ("Golgi", "vacuole", "ER"), "proteins_per_localization": 1,
    "mixed_proteins": 1, "fields_per_protein": 2, "cells_per_field": 9, "field_size_px": 200,
    "crop_size_px": 48, "neighbours": "independent", "plates": 1, "protein_counts": 900.0,
    "brightness_spread": 0.1, "cell_spread": 0.0, "diffuse": 0.0, "haze": 0.0,
    "illumination": 0.0, "plate_spread": 0.0, "camera_offset": 50.0, "counts_per_photon": 1.0,
    "read_noise": 1.0, "pixel_size_um": 0.2, "psf_um": 0.25,
}  # fmt: skip


@pytest.mark.parametrize("name", [field.name for field in fields(ScreenSpec)])
def test_every_option_changes_the_screen(name, folder, tmp_path):
    write_crops(replace(SMALL, **{name: CHANGED[name]}), tmp_path / "other")
    before, after = (
        {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file()}
        for root in (folder, tmp_path / "other")
    )
    assert before != after


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"localizations": ("nucleolous",)}, "did you mean 'nucleolus'"),
        ({"localizations": ()}, "one or more"),
        ({"localizations": ("ER", "ER")}, "different names"),
        ({"localizations": ("ER",)}, "mixed_proteins needs two"),
        ({"neighbours": "independant"}, "did you mean 'independent'"),
        ({"proteins_per_localization": 0, "mixed_proteins": 0}, "no protein"),
        ({"cells_per_field": 900}, "fit in a field"),
        ({"field_size_px": 32}, "field_size_px is 32; expected 64"),
        ({"crop_size_px": 63}, "even crop_size_px"),
        ({"haze": float("nan")}, "haze is nan"),
        ({"diffuse": 1.5}, "a share from 0 to 1"),
        ({"psf_um": 0.0}, "positive"),
        ({"plates": 0}, "plates is 0"),
    ],
)
def test_a_spec_that_makes_no_screen_is_refused_with_the_reason(change, message):
    with pytest.raises(InputError, match=message):
        replace(SMALL, **change)


def test_a_field_of_no_well_is_refused():
    with pytest.raises(InputError, match="wells are 0 to 7"):
        simulate_field(SMALL, 8, 0)
