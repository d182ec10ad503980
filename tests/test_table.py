"""The published folders reproduce the published table; bad folders are refused by line."""

import csv
import json
import re
import shutil

import numpy as np
import pytest
import xarray as xr

from bgscale.errors import InputError
from bgscale.evaluate import accuracy_dataset
from bgscale.table import format_table, read_published, table, to_json

COLUMNS = ["original", "masked", "cell_free", "same", "different"]
PAPER = {
    ("pifia", "published"): [
        "0.946 +/- 0.020",
        "0.883 +/- 0.023",
        "0.902 +/- 0.017",
        "0.939 +/- 0.013",
        "0.843 +/- 0.022",
    ],
    ("pifia", "symmetric"): [
        "0.950 +/- 0.012",
        "0.884 +/- 0.018",
        "0.900 +/- 0.017",
        "0.939 +/- 0.013",
        "0.842 +/- 0.023",
    ],
    ("pci", "published"): [
        "0.916 +/- 0.025",
        "0.869 +/- 0.029",
        "0.876 +/- 0.019",
        "0.930 +/- 0.016",
        "0.772 +/- 0.026",
    ],
    ("pci", "symmetric"): [
        "0.919 +/- 0.017",
        "0.870 +/- 0.019",
        "0.873 +/- 0.020",
        "0.930 +/- 0.016",
        "0.775 +/- 0.025",
    ],
}
CLASSES = ["vacuole", "actin", "ER", "Golgi"]


@pytest.fixture
def folder(tmp_path):
    """Write a published folder of four classes, not in the order of the alphabet."""
    pairs = [(a, b) for i, a in enumerate(CLASSES) for b in CLASSES[i + 1 :]]
    for s, name in enumerate(("base", "mask", "same", "batch", "diff")):
        with (tmp_path / f"results_{name}.csv").open("w", newline="") as file:
            out = csv.writer(file)
            each = name in ("batch", "diff")
            out.writerow(["Location1", "Location2", *["Background"] * each, "Accuracy", "StdDev"])
            for p, (a, b) in enumerate(pairs):
                for k, g in enumerate(CLASSES if each else [""]):
                    accuracy = f"{0.5 + 0.05 * s + 0.03 * p + 0.01 * k * (p % 3):.3f}"
                    out.writerow([a, b, *[g] * each, accuracy, 0.01])
    return tmp_path


def edit(folder, name, change):
    path = folder / f"results_{name}.csv"
    lines = path.read_text().splitlines()
    change(lines)
    path.write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize(("model", "aggregate"), PAPER)
def test_published_figures_to_the_last_digit(shared_data, model, aggregate):
    t = table(read_published(shared_data / "published" / model), aggregate=aggregate)
    row = t.sel(setting=COLUMNS)
    got = [
        f"{mean:.3f} +/- {error:.3f}"
        for mean, error in zip(row["mean"].values, row["published_error"].values, strict=True)
    ]
    assert got == PAPER[model, aggregate]
    text = format_table({model: t}, title="published")
    assert re.split(r"\s{2,}", text.splitlines()[4]) == [model, *PAPER[model, aggregate]]
    counts = [14, 14, 15, 15, 15] if aggregate == "published" else [15] * 5
    np.testing.assert_array_equal(t["localizations"].sel(setting=COLUMNS), counts)
    assert t.attrs["note"] == ""


@pytest.mark.parametrize(("model", "expected"), [("pifia", 0.107), ("pci", 0.144)])
def test_published_contrast_of_original_and_different(shared_data, model, expected):
    t = table(read_published(shared_data / "published" / model))
    assert round(float(t["difference"].sel(contrast="original - different")), 3) == expected


@pytest.mark.parametrize("model", ["pifia", "pci"])
def test_jackknife_errors_are_about_twice_the_published_ones(shared_data, model):
    t = table(read_published(shared_data / "published" / model))
    ratio = t["jackknife_error"] / t["published_error"]
    assert ((ratio > 2.1) & (ratio < 2.25)).all()


@pytest.mark.parametrize("aggregate", ["symmetric", "published"])
def test_the_order_of_the_rows_does_not_matter(folder, aggregate):
    expected = read_published(folder)
    assert list(expected["localization_a"].values) == CLASSES
    for seed, name in enumerate(("base", "mask", "same", "batch", "diff")):
        shuffle = np.random.Generator(np.random.Philox(key=seed)).permutation

        def change(lines, shuffle=shuffle):
            lines[1:] = shuffle(lines[1:]).tolist()

        edit(folder, name, change)
    shuffled = read_published(folder)
    xr.testing.assert_identical(shuffled, expected)
    xr.testing.assert_identical(
        table(shuffled, aggregate=aggregate), table(expected, aggregate=aggregate)
    )


def test_values_stand_where_their_names_say(folder):
    ds = read_published(folder)
    pair = ds["accuracy"].sel(localization_a="actin", localization_b="Golgi", fold=0)
    assert float(pair.sel(setting="same", background="own")) == 0.72
    assert float(pair.sel(setting="different", background="ER")) == 0.84
    assert np.isnan(pair.sel(setting="different", background="own"))
    sd = ds["fold_sd"].sel(localization_a="actin", localization_b="Golgi", background="own")
    assert float(sd.sel(setting="same")) == 0.01


def test_spaces_blank_lines_a_byte_order_mark_and_a_missing_deviation_are_harmless(folder):
    expected = read_published(folder)
    edit(
        folder,
        "base",
        lambda lines: lines.__setitem__(
            slice(1, None), [" " + line.replace(",", " , ") for line in lines[1:]]
        ),
    )
    edit(folder, "same", lambda lines: lines.insert(3, ",,,"))
    mask = folder / "results_mask.csv"
    mask.write_text("\ufeff" + mask.read_text(), encoding="utf-8")
    edit(
        folder,
        "diff",
        lambda lines: lines.__setitem__(slice(None), [line.rpartition(",")[0] for line in lines]),
    )
    xr.testing.assert_equal(read_published(folder)["accuracy"], expected["accuracy"])


def test_equal_repeats_are_left_out_with_a_note_and_missing_pairs_are_counted(folder):
    expected = read_published(folder)
    edit(folder, "diff", lambda lines: lines.append(lines[5]))
    ds = read_published(folder)
    xr.testing.assert_equal(ds, expected)
    assert ds.attrs["note"] == "results_diff.csv: 1 repeated rows, equal to the first, left out"
    edit(folder, "same", lambda lines: lines.pop(2))
    assert "same: 1 of 6 problems missing" in table(read_published(folder)).attrs["note"]


def test_pairs_in_contradicting_orders_are_noted(folder):
    def swap(lines):
        lines[1] = ",".join([*reversed(lines[1].split(",")[:2]), *lines[1].split(",")[2:]])

    expected = read_published(folder)
    edit(folder, "same", swap)
    ds = read_published(folder)
    assert "contradicting orders" in ds.attrs["note"]
    assert "contradicting orders" in format_table(table(ds), title="T")
    xr.testing.assert_equal(ds, expected)


BAD_LINES = [
    ("ER,Golgi,1.2,0.01", r"results_same.csv, line 8: Accuracy is '1.2'; expected a number from 0"),
    ("ER,Golgi,nan,0.01", "Accuracy is 'nan'"),
    ("ER,Golgi,,0.01", "Accuracy is ''"),
    ("ER,Golgi,high,0.01", "Accuracy is 'high'"),
    ("ER,Golgi,0.8,-1", "StdDev is '-1'"),
    ("ER,Golgi,0.8", "line 8 has 3 values; expected 4"),
    ("ER,,0.8,0.01", "Location2 is empty"),
    ("ER,ER,0.8,0.01", "pairs 'ER' with itself"),
    ("ER,Glogi,0.8,0.01", r"'Glogi' is not a localization.*did you mean 'Golgi'"),
    ("Golgi,ER,0.123,0.01", "lines 7 and 8 give two accuracies for Golgi and ER"),
]


@pytest.mark.parametrize(("line", "message"), BAD_LINES)
def test_a_bad_line_is_refused_by_its_number(folder, line, message):
    edit(folder, "same", lambda lines: lines.append(line))
    with pytest.raises(InputError, match=message):
        read_published(folder)


def test_an_unknown_background_is_refused(folder):
    edit(folder, "diff", lambda lines: lines.append("ER,Golgi,cortex,0.8,0.01"))
    with pytest.raises(InputError, match="'cortex' is not a localization"):
        read_published(folder)


def test_an_incomplete_folder_is_refused_with_what_is_there(folder, tmp_path):
    (folder / "results_mask.csv").unlink()
    with pytest.raises(InputError, match=r"results_mask.csv not found; got results_base.csv, res"):
        read_published(folder)
    with pytest.raises(InputError, match="got no folder"):
        read_published(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="got no CSV file"):
        read_published(tmp_path / "empty")


def test_files_that_are_not_tables_are_refused(folder):
    path = folder / "results_diff.csv"
    shutil.copy(folder / "results_same.csv", path)
    with pytest.raises(InputError, match="Background not found"):
        read_published(folder)
    path.write_text("")
    with pytest.raises(InputError, match="has columns none"):
        read_published(folder)
    path.write_text("Location1,Location2,Background,Accuracy,StdDev\n")
    with pytest.raises(InputError, match="has no rows"):
        read_published(folder)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="cannot read"):
        read_published(folder)


def test_text_of_several_models_is_aligned_and_says_what_is_missing(folder):
    t = table(read_published(folder))
    two = format_table({"pifia": t, "a long name": t.sel(setting=["same", "masked"])}, title="T")
    lines = two.splitlines()
    assert lines[0] == "T"
    assert lines[3].split() == COLUMNS
    start = lines[3].index("masked")
    assert {line[start : start + 2] for line in (lines[4], lines[6])} == {"0."}
    assert lines[6].split()[3:6] == ["none", "+/-", "none"]
    assert "pifia: symmetric aggregate, 4 classes" in lines
    assert "same - different" in two
    assert two.endswith("\n")
    assert not any(line != line.rstrip() for line in lines)


def test_text_shows_controls_and_notes():
    n = 3
    accuracy = np.full((3, n, n, 1 + n, 1), np.nan)
    accuracy[:, 0, 1, 0], accuracy[:, 0, 2, 0], accuracy[:, 1, 2, 0] = 0.9, 0.8, 0.7
    accuracy[2] = accuracy[2] * 0.5 + 0.3
    ds = accuracy_dataset(
        accuracy,
        settings=["different", "background_only", "medium_only"],
        localizations=list("abc"),
        each_background=["different"],
    )
    text = format_table(table(ds), title="T")
    assert "neighbours' share of what the background tells  0.333" in text
    assert "note: different: 3 of 3 problems missing" in text


def test_json_is_plain_and_keeps_every_figure(folder):
    t = table(read_published(folder))
    document = json.loads(json.dumps(to_json(t), allow_nan=False))
    same = document["settings"]["same"]
    assert same["mean"] == float(t["mean"].sel(setting="same"))
    assert same["problems"] == dict.fromkeys(CLASSES, 3)
    assert set(document["contrasts"]) == {"same - different", "original - different"}
    assert document["aggregate"] == "symmetric"
    assert document["notes"] == []
    assert document["neighbour_share"]["share"] is None
