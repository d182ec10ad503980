"""A plate map by well fits the opened plates well for well, or is one clear error."""

from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgscale.errors import InputError
from bgscale.platemap import (
    WellMap,
    canonical_well,
    every_well,
    read_well_map,
    well_map_template,
)
from bgscale.schema import natural

ONE = [("P1", "A01"), ("P1", "A02"), ("P1", "B10")]
TWO = [*ONE, ("P2", "A01")]
SOUND = (
    "plate,well,protein,localization,kind\n"
    "P1,A01,YAL10,ER,\nP1,A02,YAL2,Golgi;ER,sample\nP1,B10,,,blank\nP2,A01,YAL2,ER;Golgi,control\n"
)


def read(
    folder: Path, text: str, wells: list[tuple[str, str]], column: str = "localization"
) -> WellMap:
    path = folder / "platemap.csv"
    path.write_text(text, encoding="utf-8")
    return read_well_map(path, column, wells)


def test_each_well_of_the_screen_has_its_protein_or_is_a_blank(tmp_path: Path) -> None:
    found = read(tmp_path, SOUND, TWO)
    assert found.proteins == ("YAL2", "YAL10")
    assert found.protein_of == dict(zip(TWO, [1, 0, -1, 0], strict=True))
    assert list(found.protein_of) == TWO
    assert list(found.kind_of.values()) == ["sample", "sample", "blank", "control"]
    assert found.control.tolist() == [True, False]
    assert found.map.classes == ("ER", "Golgi")
    assert found.map.labels.tolist() == [[True, True], [True, False]]


def test_columns_are_kept_by_well_and_joined_by_protein(tmp_path: Path) -> None:
    text = "well,protein,localization,replicate\nA1,Q,ER;Golgi,1\nA2,P,ER,1\nB10,Q,Golgi;ER,2\n"
    found = read(tmp_path, text, ONE)
    assert found.columns["replicate"] == ["1", "1", "2"]
    assert found.columns["plate"] == ["P1"] * 3
    assert found.map.columns["protein"] == ["P", "Q"]
    assert found.map.columns["replicate"] == ["1", "1;2"]
    assert found.map.columns["well"] == ["A02", "A01;B10"]
    assert found.map.columns["localization"] == ["ER", "ER;Golgi"]


@pytest.mark.parametrize("spelled", ["A1", "a01", "A01", "a1", "A001"])
def test_a_well_may_be_spelled_in_any_usual_way(tmp_path: Path, spelled: str) -> None:
    found = read(tmp_path, f"well,protein,localization\n{spelled},P,ER\n", [("P1", "A01")])
    assert found.protein_of == {("P1", "A01"): 0}


@given(st.integers(0, 31), st.integers(1, 48))
def test_canonical_wells_stay_as_they_are_and_meet_all_spellings(row: int, column: int) -> None:
    letters = ("A" if row >= 26 else "") + chr(ord("A") + row % 26)
    name = f"{letters}{column:02d}"
    assert canonical_well(name) == name
    assert canonical_well(f"{letters.lower()}{column}") == name


def test_the_map_of_a_large_screen_serves_some_of_its_plates(tmp_path: Path) -> None:
    found = read(tmp_path, SOUND, ONE)
    assert found.passed_over == 1
    assert found.control.tolist() == [False, False]
    noisy = SOUND + "P3,A01,,,\nP3,A01,YAL2,nucleus,nonsense\n"
    again = read(tmp_path, noisy, ONE)
    assert again.passed_over == 3
    assert again.identity() == found.identity()


def test_blanks_that_were_not_imaged_are_passed_over(tmp_path: Path) -> None:
    found = read(tmp_path, SOUND + "P1,H12,,,blank\n", TWO)
    assert found.passed_over == 1
    assert list(found.protein_of) == TWO


def test_plates_may_be_named_as_their_folders_are(tmp_path: Path) -> None:
    text = SOUND.replace("P1,", "P1.ome.zarr,").replace("P2,", "P2.zarr,")
    assert read(tmp_path, text, TWO).identity() == read(tmp_path, SOUND, TWO).identity()


def test_the_identity_hangs_on_what_is_in_which_well(tmp_path: Path) -> None:
    sound = read(tmp_path, SOUND, TWO).identity()
    for other in (
        SOUND.replace("ER,\n", ",\n"),
        SOUND.replace("control", ""),
        SOUND.replace("YAL10,ER", "YAL2,ER;Golgi"),
    ):
        assert read(tmp_path, other, TWO).identity() != sound


def test_the_order_of_the_rows_does_not_matter(tmp_path: Path) -> None:
    header, *rows = SOUND.splitlines()
    turned = "\n".join([header, *reversed(rows)])
    assert read(tmp_path, turned, TWO).identity() == read(tmp_path, SOUND, TWO).identity()


def test_the_protein_can_be_the_class(tmp_path: Path) -> None:
    found = read(tmp_path, SOUND, TWO, "protein")
    assert found.map.classes == found.proteins
    assert found.map.labels.tolist() == [[True, False], [False, True]]


def test_the_map_of_some_proteins_holds_their_wells_alone(tmp_path: Path) -> None:
    text = SOUND + "P2,A02,YAL3,bud neck,\n"
    found = read(tmp_path, text, [*TWO, ("P2", "A02")])
    some = found.of([2, 0])
    assert some.proteins == ("YAL10", "YAL2")
    assert some.protein_of == {("P1", "A01"): 0, ("P1", "A02"): 1, ("P2", "A01"): 1}
    assert some.control.tolist() == [False, True]
    assert some.map.classes == ("ER", "Golgi")
    assert some.columns["protein"] == ["YAL10", "YAL2", "YAL2"]
    assert found.of([0, 1, 2]).map.identity() == found.map.identity()


def test_without_a_map_every_well_is_its_own(tmp_path: Path) -> None:
    found = every_well([("P10", "A01"), ("P2", "A01")])
    assert found.proteins == ("P2/A01", "P10/A01")
    assert found.protein_of == {("P10", "A01"): 1, ("P2", "A01"): 0}
    assert found.map.labels.sum() == 2
    assert found.of([1]).columns["protein"] == ["P10/A01"]


def test_parquet_serves_as_csv_does(tmp_path: Path) -> None:
    path = tmp_path / "map.parquet"
    pd.DataFrame({"well": ["A1"], "protein": ["P"], "localization": ["ER"]}).to_parquet(path)
    assert read_well_map(path, "localization", [("P1", "A01")]).proteins == ("P",)


def test_the_template_names_every_well_and_asks_to_be_filled_in(tmp_path: Path) -> None:
    text = well_map_template(TWO)
    with pytest.raises(InputError, match=r"line 2 \(and 3 more\) has no protein"):
        read(tmp_path, text, TWO)
    filled = text.replace(",,,\n", ",P,ER,\n")
    assert list(read(tmp_path, filled, TWO).protein_of) == TWO


def test_names_with_commas_come_through_the_template(tmp_path: Path) -> None:
    wells = [('plate "1", red', "A01")]
    text = well_map_template(wells).replace(",,,", ',"ARG5,6",ER,')
    assert read(tmp_path, text, wells).proteins == ("ARG5,6",)


@given(st.lists(st.text("A01-9", max_size=6), unique=True))
def test_natural_order_puts_numbers_in_order(names: list[str]) -> None:
    ordered = sorted(names, key=natural)
    assert sorted(ordered) == sorted(names)
    assert sorted(["f10", "f2", "f1"], key=natural) == ["f1", "f2", "f10"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (SOUND.replace("well", "position"), "no column 'well'"),
        (SOUND.replace("protein", "gene"), "no column 'protein'"),
        (SOUND.replace("localization", "location"), "did you mean 'location'"),
        (SOUND.replace("plate", "batch"), "no column 'plate', and 2 plates are opened"),
        (SOUND.replace("P2", "Plate2"), "1 of 2 opened plates have no row: 'P2' (did you mean"),
        (SOUND.replace("P1,A02", ",A02"), "line 3 has no plate"),
        (SOUND.replace("P1,A02", "P1,"), "line 3 has no well"),
        (SOUND.replace("P1,A02", "P1,A20"), "line 3: plate 'P1' has no well 'A20' (did you mean"),
        (SOUND + "P1,C1,X,ER,\nP1,C2,X,ER,\n", "line 6 and 1 more: plate 'P1' has no well 'C01'"),
        (SOUND.replace("P1,A02,YAL2,Golgi;ER,sample\n", ""), "1 of 4 wells have no row: P1/A02"),
        (SOUND.replace("P1,B10,,,blank\n", ""), "an empty protein and the kind 'blank'"),
        (SOUND + "P1,a1,YAL10,ER,\n", "line 6 repeats plate 'P1', well 'A01' of line 2"),
        (SOUND.replace("control", "contrl"), "line 5 has the kind 'contrl' (did you mean"),
        (SOUND.replace(",,,blank", ",,,"), "line 4 has no protein"),
        (SOUND.replace(",,,blank", ",YAL7,,blank"), "line 4 is a blank with the protein 'YAL7'"),
        (SOUND.replace("ER;Golgi", "Golgi"), "'Golgi;ER' in line 3 and 'Golgi' in line 5"),
        (SOUND.replace("ER;Golgi", "ER;;Golgi"), "'ER;;Golgi'"),
        (SOUND.replace("Golgi;ER", "").replace("ER;Golgi", "").replace("ER", ""), "is empty for"),
        (SOUND.replace("\nP2", "\n\nP2") + "P2,A2,,,\n", "line 7 has no protein"),
    ],
)
def test_a_wrong_map_is_one_error_that_names_it(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(InputError) as caught:
        read(tmp_path, text, TWO)
    assert said in str(caught.value)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_map_of_blanks_alone_is_an_error(tmp_path: Path) -> None:
    text = "well,protein,localization,kind\nA1,,,blank\n"
    with pytest.raises(InputError, match="no well of the screen has a protein"):
        read(tmp_path, text, [("P1", "A01")])
