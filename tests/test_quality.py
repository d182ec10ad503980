"""Odd wells are flagged and explained, sound ones are not, and every well is in its place."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bgscale import plot
from bgscale.errors import InputError, SchemaError
from bgscale.quality import SATURATED_SHARE, Flag, format_quality, summarise, suspicious
from bgscale.schema import Reason

FIELDS_PER_WELL = 3


def plate(
    name: str = "P1", rows: int = 8, columns: int = 12, seed: int = 0, lamp: float = 1.0
) -> pd.DataFrame:
    """Return the fields of a sound plate, with the spread between wells that strains have."""
    rng = np.random.default_rng(seed)
    made = []
    for row in range(rows):
        for column in range(columns):
            growth, size = np.exp(0.3 * rng.standard_normal()), np.exp(0.04 * rng.standard_normal())
            tag = np.exp(0.8 * rng.standard_normal())
            for field in range(FIELDS_PER_WELL):
                cells = 1 + rng.poisson(80 * growth)
                made.append(
                    {
                        "plate": name,
                        "well": f"{chr(65 + row)}{column + 1:02d}",
                        "field": str(field),
                        "reason": int(Reason.OK),
                        "cells": cells,
                        "usable_cells": int(0.8 * cells),
                        "area_median_px": 800 * size * np.exp(0.02 * rng.standard_normal()),
                        "focus_protein": 0.02 * tag,
                        "focus_cytosol": 0.05 * np.exp(0.08 * rng.standard_normal()),
                        "saturated_protein": 0.0,
                        "saturated_cytosol": 1e-5,
                        "medium_protein": lamp * (110 + 5 * rng.standard_normal()),
                        "medium_cytosol": lamp * (150 + 5 * rng.standard_normal()),
                    }
                )
    return pd.DataFrame(made)


def spoil(fields: pd.DataFrame, well: str, **values: float) -> None:
    """Multiply columns of a well's fields."""
    here = fields["well"] == well
    for column, factor in values.items():
        fields[column] = fields[column].astype(float).where(~here, fields[column] * factor)


def flag_of(dataset: xr.Dataset, plate: str, well: str) -> Flag:
    one = dataset["flag"].sel(plate=plate, row=well[0], column=int(well[1:]))
    return Flag(int(one))


def spoiled() -> pd.DataFrame:
    """Return a plate with an odd well of every kind."""
    fields = plate()
    failed = (fields["well"] == "A02") | ((fields["well"] == "A03") & (fields["field"] == "1"))
    fields.loc[failed, "reason"] = int(Reason.MISSING_CHUNKS)
    fields.loc[failed, fields.columns[4:]] = np.nan
    spoil(fields, "B01", cells=0, usable_cells=0, area_median_px=np.nan, focus_cytosol=np.nan)
    spoil(fields, "B02", cells=0.05, focus_cytosol=0.9)
    spoil(fields, "B03", cells=12)
    spoil(fields, "C01", focus_cytosol=0.3, cells=0.05)
    spoil(fields, "C02", saturated_protein=0, saturated_cytosol=5000)
    spoil(fields, "D01", area_median_px=1.9)
    spoil(fields, "D02", medium_protein=4)
    return fields


EXPECTED = {
    "A02": (Flag.FAILED, "3 fields failed, none is left"),
    "A03": (Flag.SOME_FAILED, "1 of 3 fields failed"),
    "B01": (Flag.EMPTY, "no cells in 3 fields"),
    "B02": (Flag.FEW_CELLS, "cells a field, the plate's wells have"),
    "B03": (Flag.MANY_CELLS, "cells a field, the plate's wells have"),
    "C01": (Flag.OUT_OF_FOCUS, "in cytosol, the plate's wells have 0.0"),
    "C02": (Flag.SATURATED, "5.00% of the cytosol pixels are saturated"),
    "D01": (Flag.CELL_SIZE, "px, the plate's wells have 794"),
    "D02": (Flag.MEDIUM, "cytosol 15"),
}


def test_every_planted_defect_is_flagged_and_explained_and_nothing_else_is() -> None:
    found = suspicious(summarise(spoiled())).set_index("well")
    assert set(found.index) == set(EXPECTED)
    for well, (flag, words) in EXPECTED.items():
        assert found.loc[well, "flag"] == flag.text
        assert words in found.loc[well, "reason"]


def test_a_well_is_told_by_its_first_rule_and_explained_by_all() -> None:
    dataset = summarise(spoiled())
    odd = dataset["odd"].sel(plate="P1", row="C", column=1)
    assert odd["rule"].values[odd.values].tolist() == ["out of focus", "few cells"]
    assert suspicious(dataset).set_index("well").loc["C01", "reason"].count(";") == 1


@pytest.mark.parametrize("seed", range(5))
def test_a_sound_plate_has_no_odd_well(seed: int) -> None:
    assert suspicious(summarise(plate(rows=16, columns=24, seed=seed))).empty


def test_a_plate_is_judged_by_itself() -> None:
    both = pd.concat([plate("dim", seed=1), plate("bright", seed=2, lamp=6.0)])
    assert suspicious(summarise(both)).empty
    dim = both["plate"] == "dim"
    both.loc[dim & (both["well"] == "C03"), "medium_protein"] *= 6
    assert suspicious(summarise(both))[["plate", "well"]].to_numpy().tolist() == [["dim", "C03"]]


def test_the_focus_of_the_protein_is_compared_only_where_no_other_channel_is_there() -> None:
    fields = plate()
    fields.loc[fields["well"] == "C03", "focus_protein"] *= 1e-3
    assert suspicious(summarise(fields)).empty
    alone = fields.drop(columns=[c for c in fields if c.endswith("cytosol")])
    dataset = summarise(alone)
    assert dataset.attrs["focus_channel"] == "protein"
    assert flag_of(dataset, "P1", "C03") == Flag.OUT_OF_FOCUS


def test_a_blank_well_may_be_empty_and_no_well_is_compared_with_it() -> None:
    fields = plate()
    blank = fields["well"].str[0] < "G"
    fields.loc[blank, ["cells", "usable_cells"]] = 2
    fields.loc[fields["well"] == "A01", "cells"] = 0
    assert len(suspicious(summarise(fields))) > 20
    dataset = summarise(fields.assign(kind=np.where(blank, "blank", "sample")))
    assert suspicious(dataset).empty
    assert dataset["typical_cells"].item() > 50


def test_a_plate_of_few_wells_shows_only_the_plainly_odd() -> None:
    fields = plate(rows=1, columns=6)
    spoil(fields, "A03", focus_cytosol=0.5)
    spoil(fields, "A04", focus_cytosol=0.2)
    assert suspicious(summarise(fields))["well"].tolist() == ["A04"]


def test_sums_leave_out_failed_fields() -> None:
    fields = plate(rows=1, columns=1)
    fields["cells"], fields["usable_cells"] = [10, 20, 1000], [5, 6, 900]
    fields["area_median_px"] = [700.0, 800.0, 9.0]
    fields["reason"] = [0, 0, int(Reason.UNREADABLE)]
    one = summarise(fields).isel(plate=0, row=0, column=0)
    assert [int(one[n]) for n in ("cells", "usable_cells", "fields", "failed_fields")] == [
        30, 11, 3, 1,
    ]  # fmt: skip
    assert float(one["area_median"]) == 750


def test_the_saturation_of_a_whole_plate_is_told() -> None:
    fields = plate(rows=2, columns=2).assign(saturated_protein=2 * SATURATED_SHARE)
    assert set(suspicious(summarise(fields))["flag"]) == {"saturated"}


wells = st.lists(
    st.tuples(st.integers(0, 15), st.integers(1, 24)), min_size=1, max_size=20, unique=True
)


@settings(max_examples=30, deadline=None)
@given(wells, st.randoms(use_true_random=False))
def test_every_well_is_in_its_place_in_any_order_of_the_fields(
    places: list[tuple[int, int]], random: object
) -> None:
    names = [f"{chr(65 + row)}{column:02d}" for row, column in places]
    fields = plate(rows=16, columns=24)
    fields = fields[fields["well"].isin(names)].sample(frac=1, random_state=len(names))
    dataset = summarise(fields)
    assert dataset.sizes["row"] == 1 + max(row for row, _ in places)
    assert dataset.sizes["column"] == max(column for _, column in places)
    there = dataset["flag"] != Flag.NO_WELL
    assert sorted(dataset["well"].values[there.values[0]].tolist()) == sorted(names)
    assert (there == dataset["cells"].notnull()).all()
    total = fields.groupby("well")["cells"].sum()
    for name, (row, column) in zip(names, places, strict=True):
        found = dataset["cells"].sel(plate="P1", row=chr(65 + row), column=column)
        assert found.item() == total[name]


def test_wells_without_rows_and_columns_and_absurd_ones_have_rows_of_their_own() -> None:
    fields = plate(rows=1, columns=3)
    fields["well"] = fields["well"].replace({"A02": "Ax", "A03": "ZZ999"})
    dataset = summarise(fields)
    assert dataset["row"].values.tolist() == ["A", "Ax", "ZZ999"]
    assert dataset["cells"].notnull().sum() == 3
    fields["well"] = "mother machine"
    assert summarise(fields.drop_duplicates("field"))["well"].values.tolist() == [
        ["mother machine"]
    ]


def test_rows_beyond_z_are_named_as_on_the_plate() -> None:
    fields = plate(rows=1, columns=1).assign(well="AF48")
    dataset = summarise(fields)
    assert dataset.sizes["row"] == 32
    assert dataset["cells"].sel(row="AF", column=48).notnull().item()
    assert dataset["row"].values.tolist()[25:28] == ["Z", "AA", "AB"]


def test_the_text_has_a_line_a_plate_and_names_the_odd_wells() -> None:
    text = format_quality(summarise(pd.concat([spoiled(), plate("second", seed=3)])))
    lines = text.splitlines()
    assert [line.split()[0] for line in lines if not line.startswith(" ")] == [
        "plate", "P1", "second",
    ]  # fmt: skip
    assert "  few cells: B02" in lines
    assert lines[1].split()[1:4] == ["96", "288", "4"]
    assert max(map(len, lines)) <= 100


def test_codes_have_names_and_attributes_are_plain_json() -> None:
    dataset = summarise(plate(rows=1, columns=2))
    assert dataset["flag"].dtype == np.uint8
    names = dataset["flag"].attrs["names"]
    assert [names[flag] for flag in Flag] == [flag.text for flag in Flag]
    json.dumps([dataset.attrs, *(dataset[name].attrs for name in dataset.variables)])


def panels(figure: Figure) -> list[Axes]:
    """Return the axes that show a plate; the others are colour bars or empty."""
    return [axis for axis in figure.axes if axis.images]


def test_a_figure_has_a_panel_per_plate_and_variable_with_the_wells_in_their_places() -> None:
    dataset = summarise(pd.concat([spoiled(), plate("P2", seed=3, rows=5)]))
    figure = plot.quality(dataset, variable=["cells", "focus", "saturated"]).flat[0].figure
    assert [axis.get_title() for axis in panels(figure)] == ["P1"] * 3 + ["P2"] * 3
    axis = panels(figure)[0]
    shown = np.ma.filled(axis.images[0].get_array().astype(float), np.nan)
    np.testing.assert_array_equal(shown, dataset["cells"].sel(plate="P1"))
    assert [label.get_text() for label in axis.get_yticklabels()] == list("ABCDEFGH")
    assert [label.get_text() for label in axis.get_xticklabels()] == [str(n) for n in range(1, 13)]


def test_the_flagged_wells_and_no_others_are_framed() -> None:
    figure = plot.quality(summarise(spoiled())).flat[0].figure
    framed = {
        f"{chr(65 + round(y))}{round(x) + 1:02d}"
        for collection in panels(figure)[0].collections
        if not len(collection.get_facecolor())
        for x, y in collection.get_offsets()
    }
    assert framed == set(EXPECTED)
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert set(legend) == {flag.text for flag, _ in EXPECTED.values()}


def test_a_plate_of_thousands_of_wells_fits_a_page(tmp_path: Path) -> None:
    one = summarise(plate(rows=2, columns=24))
    tall = one.isel(row=np.arange(3000) % 2).assign_coords(row=[f"r{k}" for k in range(3000)])
    axes = plot.quality(tall)
    assert axes.flat[0].figure.get_figheight() < 11
    assert plot.save(axes, tmp_path / "tall.png").stat().st_size < 2_000_000


@pytest.mark.parametrize("variable", plot.PLATE_VARIABLES)
def test_plates_with_nothing_to_show_are_drawn_all_the_same(tmp_path: Path, variable: str) -> None:
    nothing = plate(rows=2, columns=3).assign(reason=int(Reason.UNREADABLE))
    for fields in (nothing, plate(rows=1, columns=1), plate("x" * 60, rows=1, columns=1)):
        assert plot.save(plot.quality(summarise(fields), variable=variable), tmp_path / "a.svg")


def test_an_unknown_variable_or_channel_of_a_figure_is_an_error() -> None:
    dataset = summarise(plate(rows=1, columns=1))
    with pytest.raises(InputError, match="did you mean 'cells'"):
        plot.quality(dataset, variable="cell")
    with pytest.raises(InputError, match="did you mean 'cytosol'"):
        plot.quality(dataset, variable="focus", channel="cytosl")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.drop(columns="cells"), "no column 'cells' (did you mean 'well'"),
        (lambda t: t.drop(columns="medium_cytosol"), "no column 'medium_cytosol'"),
        (lambda t: t.drop(columns=["focus_protein", "focus_cytosol"]), "no column 'focus_protein'"),
        (lambda t: pd.concat([t, t.iloc[:1]]), "P1/A01/0 twice"),
        (lambda t: t.iloc[:0], "is empty"),
        (lambda t: t.assign(reason=99), "unknown reason 99"),
    ],
)
def test_another_table_is_one_error_that_names_it(change: object, said: str) -> None:
    with pytest.raises(SchemaError) as caught:
        summarise(change(plate(rows=1, columns=1)))  # type: ignore[operator]
    assert said in str(caught.value)
