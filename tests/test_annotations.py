"""Published localizations are read as published, and reach the rows they belong to."""

import gzip
import lzma
from pathlib import Path

import pandas as pd
import pytest

from bgscale.annotations import AMBIGUOUS, HUH2003, annotate, huh2003
from bgscale.errors import InputError
from bgscale.platemap import read_plate_map

PUBLISHED = ("yORF", "gene name", "abundance", AMBIGUOUS, *HUH2003)
PROTOCOL = (
    "actin", "bud neck", "cell periphery", "cytoplasm", "endosome", "ER", "Golgi", "mitochondrion",
    "nucleus", "nuclear periphery", "nucleolus", "spindle pole", "peroxisome", "vacuolar membrane",
    "vacuole",
)  # fmt: skip


def table(separator: str = ",", header: tuple[str, ...] = PUBLISHED) -> str:
    """Return a table as published: five proteins, one with two places and one with none."""
    places = {
        ("YAL001C", "TFC3"): ("nucleus", "cytoplasm"),
        ("YAL002W", "VPS8"): ("endosome",),
        ("YHR047C", "AAP1'"): ("cytoplasm", AMBIGUOUS),
        ("YIL154C", "IMP2'"): ("cytoplasm",),
        ("YAR003W", ""): (),
    }
    lines = [separator.join(header)]
    for (orf, gene), here in places.items():
        cells = ["T" if name in here else "F" for name in (AMBIGUOUS, *HUH2003)]
        lines.append(separator.join([orf, gene, "125", *cells]))
    return "\n".join(lines) + "\n"


@pytest.fixture
def known(tmp_path: Path) -> pd.DataFrame:
    path = tmp_path / "huh.csv"
    path.write_text(table(), encoding="utf-8")
    return huh2003(path)


def test_the_classes_of_the_protocol_are_categories_of_the_table_by_name() -> None:
    assert set(PROTOCOL) < set(HUH2003)


def test_the_published_table_has_the_published_counts(shared_data: Path) -> None:
    path = shared_data / "annotations" / "yeastgfp.csv.xz"
    found = huh2003(path, drop=(AMBIGUOUS,))
    number = found["localization"].str.split(";").map(lambda names: len([n for n in names if n]))
    assert len(found) == found["orf"].nunique() == 4155
    assert (number == 1).sum() == 2749
    assert number.between(2, 5).sum() == 1245
    assert (found["gene"] == "").sum() == 837
    places = found.set_index("gene")["localization"]
    assert places["AAC1"] == places["AAC3"] == "mitochondrion"
    assert places["AAH1"] == places["AAP1"] == "cytoplasm;nucleus"
    everything = set(";".join(huh2003(path)["localization"]).split(";")) - {""}
    assert everything == {*HUH2003, AMBIGUOUS}


def test_places_come_in_one_order_and_only_stray_quotes_are_taken_off(known: pd.DataFrame) -> None:
    assert known["orf"].tolist() == ["YAL001C", "YAL002W", "YHR047C", "YIL154C", "YAR003W"]
    assert known["gene"].tolist() == ["TFC3", "VPS8", "AAP1", "IMP2'", ""]
    assert known["localization"].tolist() == [
        "cytoplasm;nucleus", "endosome", "cytoplasm;ambiguous", "cytoplasm", "",
    ]  # fmt: skip


def test_the_table_is_read_however_it_was_saved(tmp_path: Path, known: pd.DataFrame) -> None:
    dotted = tuple(name.replace(" ", ".").upper() for name in PUBLISHED)
    for name, data in {
        "a.tsv": table("\t").replace("\n", "\r\n").encode(),
        "a.csv": b"\xef\xbb\xbf" + table(header=dotted).replace(",F", ",FALSE").encode(),
        "a.csv.gz": gzip.compress(table().encode()),
        "a.csv.xz": lzma.compress(table().encode()),
    }.items():
        (tmp_path / name).write_bytes(data)
        pd.testing.assert_frame_equal(huh2003(tmp_path / name), known)


def test_places_that_are_dropped_are_left_out(tmp_path: Path, known: pd.DataFrame) -> None:
    fewer = huh2003(tmp_path / "huh.csv", drop=(AMBIGUOUS, "nucleus"))
    assert fewer["localization"].tolist()[:3] == ["cytoplasm", "endosome", "cytoplasm"]
    with pytest.raises(InputError, match="did you mean 'nucleolus'"):
        huh2003(tmp_path / "huh.csv", drop=("nucleolis",))


def test_rows_are_found_by_frame_or_gene_and_the_rest_is_reported(
    tmp_path: Path, known: pd.DataFrame
) -> None:
    path, out = tmp_path / "platemap.csv", tmp_path / "out.csv"
    path.write_text(
        "well,protein,note\nA1,tfc3,x\nA2,YAL002W,\nA3,AAP1',z\nA4,YAR003W,\nA5,GFP0,\nA6,tfc3,\n"
        "A7,IMP2,\nA8,,\n",
        encoding="utf-8",
    )
    told = annotate(path, known, out)
    read = pd.read_csv(out, dtype=str, keep_default_na=False)
    assert read.columns.tolist() == ["well", "protein", "note", "localization"]
    assert read["localization"].tolist() == [
        "cytoplasm;nucleus", "endosome", "cytoplasm;ambiguous", "", "", "cytoplasm;nucleus", "", "",
    ]  # fmt: skip
    assert read["note"].tolist()[:3] == ["x", "", "z"]
    assert (told.column, told.matched, told.kept) == ("protein", 4, 0)
    assert told.without == ("YAR003W",)
    assert told.unmatched == ("GFP0", "IMP2")
    assert str(told) == (
        "4 of 6 names in the column 'protein' were found\n"
        "1 have no localization: YAR003W\n2 not found: GFP0, IMP2"
    )


def test_a_class_that_the_map_states_is_kept(tmp_path: Path, known: pd.DataFrame) -> None:
    path = tmp_path / "platemap.csv"
    path.write_text("protein,localization\nTFC3,nucleus\nVPS8,\n", encoding="utf-8")
    told = annotate(path, known, path)
    assert told.kept == 1
    assert read_plate_map(path, "localization", ("TFC3", "VPS8")).classes == ("nucleus", "endosome")
    annotate(path, known, path, class_column="huh")
    assert read_plate_map(path, "huh", ("TFC3", "VPS8")).labels.sum(1).tolist() == [2, 1]


def test_the_column_of_names_is_found_or_given(tmp_path: Path, known: pd.DataFrame) -> None:
    path, out = tmp_path / "platemap.csv", tmp_path / "out.csv"
    path.write_text("protein,strain,parent\ns1,YAL001C,VPS8\ns2,YAL002W,wt\n", encoding="utf-8")
    assert annotate(path, known, out).column == "strain"
    told = annotate(path, known, out, column="parent")
    assert (told.matched, told.unmatched) == (1, ("wt",))


def test_a_gene_that_names_two_frames_is_taken_for_neither(
    tmp_path: Path, known: pd.DataFrame
) -> None:
    path = tmp_path / "platemap.csv"
    path.write_text("protein\nTWIN\nYAL001C\n", encoding="utf-8")
    twins = known.assign(gene=["TWIN", "TWIN", "", "", ""])
    assert annotate(path, twins, tmp_path / "out.csv").unmatched == ("TWIN",)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "it is empty"),
        ("protein,localization\nAAC1,ER\n", "no column 'yORF'"),
        (table().replace("gene name", "name"), "no column 'gene name'"),
        (table().replace("bud neck", "bud neckk"), "'bud neck' (did you mean 'bud neckk'?)"),
        (table().replace("T,", "maybe,", 1), "row 2 has 'maybe' in the column 'cytoplasm'"),
        (table().replace("YAL002W", "YAL001C"), "row 3 repeats yORF YAL001C"),
        (table().replace("YAL002W", ""), "row 3 has no yORF"),
        (table() + "YAL003W,EFB1\n", "row 7 has 2 cells, the header 26"),
    ],
)
def test_another_table_is_one_error_that_names_it(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "huh.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError) as caught:
        huh2003(path)
    assert said in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("name", ["huh.csv.xz", "huh.csv.gz", "huh.csv"])
def test_a_damaged_table_is_one_error(tmp_path: Path, name: str) -> None:
    whole = lzma.compress(table().encode()) if name.endswith("xz") else gzip.compress(b"a,b\n" * 99)
    (tmp_path / name).write_bytes(whole[:40] + b"\xff")
    with pytest.raises(InputError, match="cannot read the table"):
        huh2003(tmp_path / name)
    with pytest.raises(InputError, match=rf"did you mean '{name}'"):
        huh2003(tmp_path / f"x{name}")


def test_a_map_without_known_names_is_an_error(tmp_path: Path, known: pd.DataFrame) -> None:
    path = tmp_path / "platemap.csv"
    path.write_text("protein,strain\nGFP1,a\nGFP2,b\n", encoding="utf-8")
    with pytest.raises(InputError, match="no column of protein, strain holds names"):
        annotate(path, known, tmp_path / "out.csv")
    with pytest.raises(InputError, match="no name of the column 'protein' is known"):
        annotate(path, known, tmp_path / "out.csv", column="protein")
    with pytest.raises(InputError, match="did you mean 'strain'"):
        annotate(path, known, tmp_path / "out.csv", column="strains")
    assert not (tmp_path / "out.csv").exists()
