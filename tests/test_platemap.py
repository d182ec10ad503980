"""A plate map is right as a whole, or is one clear error."""

from pathlib import Path

import pytest

from bgscale.errors import InputError
from bgscale.platemap import protein_as_class, read_plate_map

PROTEINS = ("AAC1", "AAC3", "AAP1")
SOUND = "protein,localization\nAAC1,ER\nAAC3,Golgi\nAAP1,ER;nucleus\n"


def written(folder: Path, text: str | bytes, name: str = "platemap.csv") -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_classes_come_in_the_order_of_the_map_and_labels_in_that_of_the_screen(
    tmp_path: Path,
) -> None:
    text = "protein,localization,note\nAAP1,nucleus; ER,x\nAAC3,Golgi,\nAAC1,ER,y\n"
    table = read_plate_map(written(tmp_path, text), "localization", PROTEINS)
    assert table.classes == ("nucleus", "ER", "Golgi")
    assert table.labels.tolist() == [[0, 1, 0], [0, 0, 1], [1, 1, 0]]
    assert table.columns["note"] == ["y", "", "x"]


def test_an_empty_class_is_no_class_also_where_the_line_ends_early(tmp_path: Path) -> None:
    text = "protein,localization\nAAC1,ER\nAAC3\n\nAAP1,  \n"
    table = read_plate_map(written(tmp_path, text), "localization", PROTEINS)
    assert table.labels.sum(1).tolist() == [1, 0, 0]


def test_names_that_look_like_missing_values_and_numbers_are_names(tmp_path: Path) -> None:
    text = "protein,localization\nNA,null\n007,nan\n"
    table = read_plate_map(written(tmp_path, text), "localization", ("NA", "007"))
    assert table.classes == ("null", "nan")


def test_blanks_a_byte_order_mark_and_windows_line_ends_do_not_matter(tmp_path: Path) -> None:
    windows = "\ufeff" + SOUND.replace("\n", "\r\n").replace(",", " , ")
    found = read_plate_map(written(tmp_path, windows), "localization", PROTEINS)
    plain = read_plate_map(written(tmp_path, SOUND), "localization", PROTEINS)
    assert found.identity() == plain.identity()


def test_a_protein_may_stand_in_several_wells_with_its_classes_in_any_order(tmp_path: Path) -> None:
    text = "well,protein,localization\nA1,P,ER;Golgi\nA2,P,Golgi;ER\n"
    table = read_plate_map(written(tmp_path, text), "localization", ("P",))
    assert table.labels.tolist() == [[True, True]]


def test_any_column_can_be_the_class(tmp_path: Path) -> None:
    text = "protein,localization,plate\nAAC1,ER,p1\nAAC3,ER,p2\nAAP1,ER,p1\n"
    path = written(tmp_path, text)
    assert read_plate_map(path, "plate", PROTEINS).classes == ("p1", "p2")
    assert read_plate_map(path, "protein", PROTEINS).classes == PROTEINS


def test_the_map_of_some_proteins_leaves_out_the_classes_of_the_others(tmp_path: Path) -> None:
    table = read_plate_map(written(tmp_path, SOUND), "localization", PROTEINS)
    some = table.of([2, 0])
    assert some.classes == ("ER", "nucleus")
    assert some.columns["protein"] == ["AAP1", "AAC1"]
    assert some.labels.tolist() == [[True, True], [True, False]]
    assert protein_as_class(PROTEINS).of([1]).classes == ("AAC3",)


def test_the_class_identity_hangs_on_classes_and_the_identity_on_every_column(
    tmp_path: Path,
) -> None:
    def read(text: str) -> tuple[str, str]:
        table = read_plate_map(written(tmp_path, text), "localization", PROTEINS)
        return table.class_identity(), table.identity()

    header, *rows = SOUND.splitlines()
    noted = "\n".join([header + ",note", *(row + ",x" for row in rows)])
    sound, other, more = read(SOUND), read(SOUND.replace("Golgi", "bud neck")), read(noted)
    assert sound[0] == more[0]
    assert sound[1] != more[1]
    assert sound[0] != other[0]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "it is empty"),
        ("\n \n", "it is empty"),
        (b"\x89PNG\r\n\x1a\n\x00\x00\xff\xfe", "expected CSV text"),
        (b"PK\x00\x00\x00,\x00\n", "binary"),
        ("protein,localisation\nAAC1,ER\n", "did you mean 'localisation'"),
        ("gene,localization\nAAC1,ER\n", "no column 'protein'"),
        ("protein;localization\nAAC1;ER\n", "no column 'protein'"),
        ("protein,localization,localization\nAAC1,ER,ER\n", "two columns"),
        ("protein,localization\nAAC1,ER,Golgi\n", "line 2 has 3 cells, the header 2"),
        ('protein,localization\nAAC1,"ER\n', "cannot read"),
        (SOUND + "AAC2,ER\n", "'AAC2' (did you mean"),
        (SOUND + ",ER\n", "not on the screen: ''"),
        (SOUND.replace("AAC3,Golgi\n", ""), "1 proteins of the screen have no row: 'AAC3'"),
        ("protein,localization\n", "3 proteins of the screen have no row"),
        (SOUND + "\nAAC1,ER\n", "line 6 repeats protein 'AAC1'"),
        ("well,protein,localization\n1,AAC1,ER\n2,AAC1,Golgi\n1,AAC3,ER\n1,AAP1,ER", "'Golgi'"),
        ("protein,localization\nAAC1,\nAAC3,\nAAP1,\n", "empty for every protein"),
        (SOUND.replace("ER;nucleus", "ER;;nucleus"), "'ER;;nucleus'"),
        (SOUND.replace("ER;nucleus", "ER;ER"), "'ER;ER'"),
    ],
)
def test_a_wrong_map_is_one_error_that_names_it(
    tmp_path: Path, text: str | bytes, said: str
) -> None:
    path = written(tmp_path, text)
    with pytest.raises(InputError) as caught:
        read_plate_map(path, "localization", PROTEINS)
    assert said in str(caught.value)
    assert str(path) in str(caught.value)


def test_an_absent_map_is_named_with_the_file_that_is_there(tmp_path: Path) -> None:
    written(tmp_path, SOUND)
    with pytest.raises(InputError, match=r"did you mean 'platemap.csv'"):
        read_plate_map(tmp_path / "plate_map.csv", "localization", PROTEINS)
    with pytest.raises(InputError, match="cannot read"):
        read_plate_map(tmp_path, "localization", PROTEINS)
