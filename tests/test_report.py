"""The report: one harmless page, the same for the same store, that works in a browser."""

import base64
import gzip
import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pandas as pd
import pytest
import zarr
from click.testing import CliRunner

from bgscale import open_results, plot
from bgscale.cli import main
from bgscale.comparison import compare
from bgscale.errors import InputError, StoreMismatchError
from bgscale.lent import lent
from bgscale.report import compared, write
from bgscale.report.about import plates
from bgscale.report.figures import inline
from bgscale.report.gather import Model, gather, open_run
from bgscale.report.markup import data_block, tag
from bgscale.report.methods import methods, parameters
from bgscale.report.montage import GAP_PX, chosen_cells, outline, tiles
from bgscale.report.packed import BOUNDS, NONE, NUMBERS, most_shifted, protein_blocks, thousandths
from bgscale.report.side_by_side import side_by_side
from bgscale.report.words import digits, finding
from bgscale.schema import Missing, Reason
from bgscale.shifted import shift_shares

HOSTILE = (
    "<script>alert(1)</script>",
    "=HYPERLINK(\"http://x\")",
    "a'b\"c&amp;",
    "Ψ蛋白🧬",
    "</script><!--",
    "x%41/é#?&",
    "${7*7}",
)  # fmt: skip
HOSTILE_CLASS = "<b>vacuole</b> ${x}$"
FEW = {"montages": 3, "cells": 2}
CHROMIUM, DRIVER = "chromium", "chromedriver"


def block(page: str, name: str, dtype: str) -> np.ndarray[Any, Any]:
    """Return the numbers of a block of a page."""
    found = re.search(rf'<script type="text/plain" id="{name}">([^<]*)</script>', page)
    assert found, f"no block {name}"
    return np.frombuffer(gzip.decompress(base64.b64decode(found[1])), dtype)


def data(page: str, name: str = "data") -> dict[str, Any]:
    """Return the JSON of a block of a page."""
    found = re.search(rf'<script type="application/json" id="{name}">(.*?)</script>', page, re.S)
    assert found, f"no block {name}"
    values: dict[str, Any] = json.loads(found[1])
    return values


def renamed(store: Path, folder: Path, names: dict[str, str]) -> Path:
    """Copy a store without its ledger; names of it become others."""
    made = folder / "odd.zarr"
    shutil.copytree(store, made)
    for path in made.rglob("zarr.json"):
        text = path.read_text(encoding="utf-8")
        for old, new in names.items():
            text = text.replace(json.dumps(old), json.dumps(new))
        path.write_text(text, encoding="utf-8")
    return made


def with_second_model(store: Path) -> None:
    """Give a store a copy of its model, `second`, which loses 0.1 on original and has no gap."""
    for node in sorted(store.rglob("tiny")):
        if node.is_dir():
            shutil.copytree(node, node.with_name("second"))
    root = store / "zarr.json"
    about = json.loads(root.read_text(encoding="utf-8"))
    attrs = about["attributes"]
    attrs["config"]["models"]["second"] = attrs["config"]["models"]["tiny"]
    for name, entry in list(attrs["stages"].items()):
        if "/tiny" in name:
            attrs["stages"][name.replace("/tiny", "/second")] = entry
    attrs["planned"] = list(attrs["stages"])
    root.write_text(json.dumps(about), encoding="utf-8")
    settings = attrs["config"]["settings"]
    original, same, different = (settings.index(s) for s in ("original", "same", "different"))
    node = zarr.open_group(store, path="evaluation/second", mode="r+")
    for variable in ("accuracy", "grouped_accuracy"):
        values = node[variable][:]
        values[different, :, :, 1:] = values[same, :, :, :1]
        values[original] -= 0.1
        node[variable][:] = values
    # other proteins shift by it
    shifts = zarr.open_group(store, path="shifts/second", mode="r+")
    for variable in ("kl", "significant", "substantial"):
        shifts[variable][:] = shifts[variable][:][..., ::-1]


@pytest.fixture(scope="module")
def page(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Page of the small run."""
    out = write(finished, tmp_path_factory.mktemp("report") / "report.html", **FEW)
    return out.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def odd(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Page of a run with two models, whose proteins have names that are meant to do harm."""
    folder = tmp_path_factory.mktemp("odd")
    proteins = open_results(finished)["proteins"]["protein"].to_numpy().tolist()
    names = dict(zip(proteins, HOSTILE, strict=False)) | {"vacuolar membrane": HOSTILE_CLASS}
    store = renamed(finished, folder, names)
    with_second_model(store)
    return write(store, folder / "report.html", proteins=[HOSTILE[0]], **FEW)


@pytest.fixture(scope="module")
def model(finished: Path) -> Model:
    """Numbers of the small run."""
    return gather(open_run(finished), "tiny")


def test_the_same_store_gives_the_same_bytes_and_is_not_touched(
    finished: Path, page: str, tmp_path: Path
) -> None:
    before = {p: p.stat().st_mtime_ns for p in finished.rglob("*")}
    again = write(finished, tmp_path / "again.html", **FEW)
    assert again.read_text(encoding="utf-8") == page
    assert {p: p.stat().st_mtime_ns for p in finished.rglob("*")} == before
    assert [p.name for p in tmp_path.iterdir()] == ["again.html"]


def test_the_page_holds_all_it_shows_and_may_ask_for_nothing(page: str) -> None:
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)
    assert policy
    assert "default-src 'none'" in policy[1]
    assert "unsafe" not in policy[1]
    assert not re.search(r"""(?:src|href)=["'](?!data:|#)""", page)
    assert not re.search(r' style="|\son[a-z]+="', page)
    assert len(page) < 2_000_000


def test_what_the_page_says_is_what_the_library_says(
    finished: Path, model: Model, page: str
) -> None:
    run = open_run(finished)
    assert model.table is not None
    gap = model.table.sel(contrast="same - different")
    number = f"{abs(float(gap['difference'])):.3f}"
    assert number in finding(model)
    assert number in re.sub("−", "-", page)
    shares = shift_shares(open_results(finished), "tiny", setting="different")
    count = round(shares["share_significant_and_substantial"] * shares["tested"])
    tested = f"{count} of {shares['tested']} tested proteins shift substantially"
    assert (tested in page) == bool(shares["tested"])
    for setting in run.settings:
        mean = float(model.table["mean"].sel(setting=setting))
        assert f'<td class="number">{mean:.3f}<span' in page
    assert "Random weights" in page


def test_a_sentence_never_calls_chance_a_finding(model: Model) -> None:
    assert model.table is not None
    model = replace(model, table=model.table.copy(deep=True))
    assert model.table is not None
    at = {"contrast": "same - different"}
    for value, low, high, words in (
        (0.2, 0.1, 0.3, "falls by 0.200 [0.100, 0.300]"),
        (0.02, -0.01, 0.05, "cannot be told"),
        (-0.2, -0.3, -0.1, "rises by 0.200 [0.100, 0.300]"),
    ):
        for end, number in (("", value), ("_low", low), ("_high", high)):
            model.table[f"difference{end}"].loc[at] = number
        assert words in finding(model)


def test_a_gap_that_cannot_be_is_no_finding(model: Model) -> None:
    assert model.table is not None
    alone = {"preprocess": ["minmax_inside", "mask"], "masked_preprocess": ["mask"]}
    model = replace(model, table=model.table.copy(deep=True), spec={**model.spec, **alone})
    # figures that say otherwise are believed
    assert "by construction" not in finding(model)
    assert model.table is not None
    for end in ("", "_low", "_high"):
        model.table[f"difference{end}"].loc[{"contrast": "same - different"}] = 0.0
    assert "by construction" in finding(model)
    whole = {"preprocess": ["minmax", "mask"], "masked_preprocess": ["mask"]}
    assert "by construction" not in finding(replace(model, spec={**model.spec, **whole}))


def test_the_packed_numbers_are_those_of_the_store(finished: Path, page: str) -> None:
    tree = open_results(finished)
    shifts = tree["shifts/tiny"].to_dataset(inherit=False)
    facts = data(page)
    names, settings = facts["proteins"], facts["settings"]
    changed = [s for s in settings if s != "original"]
    numbers = block(page, "block-0-fixed-numbers", "<f4").reshape(len(NUMBERS), len(changed), -1)
    for k, name in enumerate(NUMBERS):
        expected = shifts[name].sel(fit="fixed", setting=changed, protein=names).to_numpy()
        np.testing.assert_array_equal(numbers[k], expected.astype(np.float32))
    shape = (len(BOUNDS), len(settings), len(facts["classes"]), len(names))
    proportions = block(page, "block-0-matched-proportions", "<u2").reshape(shape)
    expected = shifts["proportion"].sel(fit="matched", setting=settings, protein=names)
    expected = expected.transpose("setting", "localization", "protein").to_numpy()
    assert (proportions[0] == thousandths(expected)).all()
    there = proportions[0] != NONE
    np.testing.assert_allclose(proportions[0][there] / 1000, expected[there], atol=0.0006)


def test_missing_proportions_are_no_numbers() -> None:
    assert thousandths(np.array([np.nan, 0.0, 0.1234, 1.0])).tolist() == [NONE, 0, 123, 1000]


def test_sure_shifts_come_before_large_ones(finished: Path) -> None:
    shifts = open_results(finished)["shifts/tiny"].to_dataset(inherit=False).load().copy(deep=True)
    at = {"fit": "fixed", "setting": "different"}
    n = shifts.sizes["protein"]
    shifts["kl"].loc[at] = np.r_[5.0, 1.0, 2.0, np.nan, np.zeros(n - 4)]
    shifts["significant"].loc[at] = np.r_[0, 1, 1, np.zeros(n - 3)]
    shifts["substantial"].loc[at] = np.r_[0, 1, 0, np.zeros(n - 3)]
    assert most_shifted(shifts, "different", "fixed", 3) == [1, 2, 0]
    assert 3 not in most_shifted(shifts, "different", "fixed", n)
    with_gap = protein_blocks(shifts, shifts["setting"].to_numpy().tolist(), "fixed")
    assert np.isnan(
        np.frombuffer(gzip.decompress(base64.b64decode(with_gap["numbers"])), "<f4")
    ).any()


def test_montages_show_the_proteins_own_usable_cells(finished: Path, page: str) -> None:
    run = open_run(finished)
    chosen = chosen_cells(run, "tiny", [0, 3], 4)
    assert chosen == chosen_cells(run, "tiny", [3, 0], 4)
    for protein, cells in chosen.items():
        assert len(set(cells)) == 4
        for plate, row in cells:
            table = run.node(f"plates/{plate}/cells").isel(cell=row)
            assert int(table["protein"]) == protein
            assert int(table["reason"]) == Reason.OK
    shown = re.findall(r'id="montage-(\d+)"', page)
    shifts = run.node("shifts/tiny")
    assert [int(k) for k in shown] == most_shifted(shifts, "different", "fixed", 3)
    one = data(page, f"montage-{shown[0]}")
    assert base64.b64decode(one["image"])[8:12] == b"WEBP"
    assert one["settings"] == list(run.settings)
    assert len(one["outlines"]) == len(one["names"]) == len(one["donors"]) == 2


def test_a_tile_keeps_the_grey_scale_of_its_crop_as_imaged() -> None:
    image = np.full((1, 2, 8, 8), 50, np.float32)
    image[0, 0, :, :4] = 10
    image[0, 1] = 30
    missing = np.zeros((1, 2), np.uint8)
    picture = tiles(image, missing, 0)
    assert picture.shape == (2 * 8 + GAP_PX, 8)
    assert (picture[0, 0], picture[0, 7]) == (0, 255)
    assert 120 < picture[-1, 0] < 135
    missing[0, 1] = Missing.NO_DONOR
    assert (tiles(image, missing, 0)[-8:] == 128).all()


def test_an_outline_goes_round_every_pixel_of_the_cell() -> None:
    mask = np.zeros((5, 6), bool)
    mask[1:3, 2:5] = True
    steps = re.findall(r"M(\d+) (\d+)([HV])(\d+)", outline(mask))
    length = sum(int(stop) - int(x if way == "H" else y) for x, y, way, stop in steps)
    assert length == 2 * (2 + 3)


def test_every_parameter_and_hash_is_in_the_methods(
    finished: Path, model: Model, page: str
) -> None:
    run = open_run(finished)
    keys = {p.key for p in parameters(run.config)}
    assert {"seed", "shifts.tau", "models.tiny.architecture", "screen.path"} <= keys
    assert all(f"<code>{key}</code>" in page for key in keys)
    assert all(p.meaning for p in parameters(run.config))
    assert all(entry["token"] in page for entry in run.attrs["stages"].values())
    counts = dict.fromkeys(("cells", "usable", "fields", "proteins", "plates", "centres"), 7)
    text = " ".join(one.text for one in methods(run, [model], counts))
    for words in ("Gupta", "WEIGHTS ARE RANDOM", "seed 0", *run.settings, *run.attrs["versions"]):
        assert words in text or words in page
    # where a store lay is nobody's business
    assert str(finished.parent) not in page


def test_what_small_classes_and_donors_are_like_is_in_the_methods(
    finished: Path, model: Model, page: str
) -> None:
    run = open_run(finished)
    counts = dict.fromkeys(("cells", "usable", "fields", "proteins", "plates", "centres"), 7)
    text = " ".join(one.text for one in methods(run, [model], counts))
    assert run.tree["classifiers/tiny"].attrs["classes_dealt_by_field"] == list(run.classes)
    assert "Of all localizations, which have fewer proteins than there are folds" in text
    row = lent(finished).set_index(["setting", "localization"]).loc[("different", "all")]
    told = f"under different {int(row['donors']):,} donors ({int(row['proteins']):,} proteins"
    assert told in text
    often = f"{row['median_uses']:g} times each in the median, at most {int(row['most_uses']):,}"
    assert often in text
    assert "Who lent backgrounds, how often" in page
    assert "but under self_swap" not in text


def test_a_run_that_is_not_complete_is_said_and_what_there_is_is_shown(
    finished: Path, tmp_path: Path
) -> None:
    store = tmp_path / "half.zarr"
    shutil.copytree(finished, store)
    shutil.copytree(f"{finished}.progress", f"{store}.progress")
    for stage in ("shifts", "discoveries", "reliability"):
        shutil.rmtree(f"{store}.progress/units/{stage}")
    page = write(store, tmp_path / "report.html", **FEW).read_text(encoding="utf-8")
    assert "This run is not complete." in page
    assert "shifts/tiny" in page
    assert 'id="fig-accuracy-0"' in page
    assert 'id="fig-shifts-0"' not in page
    assert "tested proteins shift" not in page
    assert not re.search(r'id="(block|montage)-', page)


def test_each_figure_has_its_own_ids_and_its_names_are_text(odd: Path) -> None:
    page = odd.read_text(encoding="utf-8")
    ids = re.findall(r'\sid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    for key in ("table", "accuracy", "sensitivity", "shifts", "harm", "confusion", "neighbours"):
        for model in (0, 1):
            assert f'id="fig-{key}-{model}"' in page
    assert "&lt;b&gt;vacuole" in page
    assert HOSTILE_CLASS not in re.sub(r"<script.*?</script>", "", page, flags=re.S)
    assert [m["name"] for m in data(page)["models"]] == ["tiny", "second"]
    assert data(page)["proteins"][: len(HOSTILE)] == list(HOSTILE)


def test_models_stand_side_by_side_with_the_paired_differences_of_the_library(
    odd: Path, page: str
) -> None:
    shown = odd.read_text(encoding="utf-8")
    section = re.search(r'<section id="sec-models">(.*?)</section>', shown, re.S)
    assert section
    found = compare([odd.with_name("odd.zarr")])
    gap = {"model": "second", "contrast": "same - different"}
    masked = {"model": "second", "setting": "masked"}
    for prefix in ("", "grouped_"):
        assert float(found[f"{prefix}difference"].sel(gap)) == pytest.approx(0, abs=1e-9)
        paired = [
            float(found[f"{prefix}{of}_against{end}"].sel(at))
            for end in ("", "_low")
            for of, at in (("difference", gap), ("accuracy", masked))
        ]
        assert all(digits(value) in section[1] for value in paired), paired
    text = re.sub(r"<[^>]*>", "", section[1])
    for sentence in (compared.reading(found, "second"), compared.price(found, "second")):
        assert sentence in text
    for figure in ("models-accuracy", "models-difference", "models-shifts-1"):
        assert f'id="fig-{figure}"' in section[1]
    assert "not known" in text  # what a cell costs: this store has no records of its units
    assert "tiny, second: Random weights" in text
    # of one model there is nothing to compare
    assert "sec-models" not in page
    assert "side by side" not in re.sub(r"<(script|style)>.*?</\1>", "", page, flags=re.S)


def test_every_model_has_montages_of_its_own_most_shifted_proteins(odd: Path) -> None:
    run = open_run(odd.with_name("odd.zarr"))
    page = odd.read_text(encoding="utf-8")
    first, second = (
        most_shifted(run.node(f"shifts/{name}"), "different", "fixed", FEW["montages"])
        for name in run.models
    )
    assert set(first) != set(second)
    assert {int(k) for k in re.findall(r'id="montage-(\d+)"', page)} >= {*first, *second}


def test_the_verdict_goes_by_the_interval_of_the_paired_difference(odd: Path) -> None:
    found = compare([odd.with_name("odd.zarr")]).copy(deep=True)
    at = {"model": "second", "contrast": "same - different"}

    def told(gap: float, first: float, low: float, high: float) -> str:
        found["difference"].loc[at] = gap
        found["difference"].loc[{**at, "model": "tiny"}] = first
        for end, value in (("", gap - first), ("_low", low), ("_high", high)):
            found[f"difference_against{end}"].loc[at] = value
        return compared.reading(found, "second")

    assert "second reads the neighbours less than tiny, and not by chance: its gap" in told(
        0.01, 0.11, -0.12, -0.08
    )
    assert "smaller by 0.100 [0.080, 0.120]" in told(0.01, 0.11, -0.12, -0.08)
    assert "second reads the neighbours more than tiny" in told(0.2, 0.11, 0.05, 0.12)
    assert "cannot be told from chance" in told(0.01, 0.11, -0.21, 0.01)
    assert "without an interval" in told(0.01, 0.11, np.nan, np.nan)
    assert "reads the neighbours" not in told(-0.2, 0.05, -0.3, -0.2).split(". ")[0]
    original = {"model": "second", "setting": "original"}
    for end, value in (("", -0.1), ("_low", -0.15), ("_high", -0.05)):
        found[f"accuracy_against{end}"].loc[original] = value
    price = compared.price(found, "second")
    assert "with the published folds it is lower by 0.100 [0.050, 0.150]" in price
    assert f"folds {found.attrs['grouped']}" in price


def test_the_figures_of_two_models_are_among_all_figures(odd: Path) -> None:
    store = odd.with_name("odd.zarr")
    found = {one.name: one for one in plot.every(store) if one.figure in plot.FIGURES[-2:]}
    assert {"comparison-accuracy", "comparison-difference"} <= set(found)
    pairs = {name for name in found if name.startswith("shift_comparison-tiny-second-")}
    assert len(pairs) == 4
    assert found["comparison-difference"].draw().has_data()
    assert not [1 for one in plot.every(store, model="second") if one.name in found]


def test_what_is_not_complete_is_not_compared(odd: Path) -> None:
    run = open_run(odd.with_name("odd.zarr"))
    models = [gather(run, name) for name in run.models]
    half = replace(models[1], table=None, absent={"table": "not complete yet: evaluate/second"})
    assert "second: not complete yet: evaluate/second" in side_by_side(run, [models[0], half])
    without = side_by_side(run, [models[0], replace(models[1], shares={})])
    assert "fig-models-accuracy" in without
    assert "fig-models-shifts" not in without
    assert "shift substantially" not in without


def test_text_is_escaped_and_json_cannot_end_its_element() -> None:
    assert tag("p", "<", tag("b", '"'), title='"<') == '<p title="&quot;&lt;">&lt;<b>"</b></p>'
    text = data_block({"a": "</script><!--\u2028"})
    inner = text.removeprefix('<script type="application/json">').removesuffix("</script>")
    assert not set(inner) & set("<>&\u2028")
    assert json.loads(inner) == {"a": "</script><!--\u2028"}


def test_an_inline_figure_has_no_style_and_keeps_its_text() -> None:
    from matplotlib.figure import Figure

    axes = Figure(figsize=(2, 2)).subplots()
    axes.plot([0, 1], [0, 1])
    axes.set_xlabel("<i>share")
    svg = inline(axes, "one")
    assert svg == inline(axes, "one")
    assert "style" not in svg
    assert "&lt;i&gt;share</text>" in svg
    for target in re.findall(r'(?:href="|url\()#([^")]+)', svg):
        assert f'id="{target}"' in svg
    assert not set(re.findall(r'id="([^"]+)"', svg)) & set(
        re.findall(r'id="([^"]+)"', inline(axes, "two"))
    )


def test_many_wells_are_a_picture_and_wells_without_places_are_said(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = open_run(finished)
    for count, expected in ((500, 'src="data:image/png'), (60, "<svg"), (0, "are not drawn")):
        wells = [f"{'ABCDEFGHIJKLMNOPQRSTUVWXY'[k // 24]}{k % 24 + 1:02d}" for k in range(count)]
        table = pd.DataFrame({
            "plate": "P1", "well": wells or [f"strain {k}" for k in range(60)], "field": "1",
            "reason": 0, "cells": 80, "usable_cells": 70, "area_median_px": 800,
            "focus_protein": 0.1, "saturated_protein": 0.0, "medium_protein": 110.0,
        })  # fmt: skip
        monkeypatch.setattr("bgscale.report.about.field_table", lambda _, table=table: table)
        made = plates(run)
        assert expected in made
        assert len(made) < 600_000


def test_what_cannot_be_written_is_said_before_anything_is_made(
    finished: Path, tmp_path: Path
) -> None:
    out = tmp_path / "report.html"
    for wrong, words in (
        ({"model": "tinny"}, "did you mean 'tiny'"),
        ({"proteins": ["SIM01"]}, "did you mean 'SIM0"),
    ):
        with pytest.raises(InputError, match=words):
            write(finished, out, **wrong)
    with pytest.raises(InputError, match="no folder"):
        write(finished, tmp_path / "no" / "report.html")
    with pytest.raises(InputError, match="is a folder"):
        write(finished, tmp_path)
    with pytest.raises(InputError, match="file of this machine"):
        write(finished, "s3://bucket/report.html")
    with pytest.raises(StoreMismatchError):
        write(tmp_path, out)
    assert not list(tmp_path.iterdir())
    done = CliRunner().invoke(main, ["report", str(finished), "--model", "x", "-o", str(out)])
    assert done.exit_code == 2
    assert "Traceback" not in done.output


# ---- in a browser


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Headless Chromium that logs its console and its requests."""
    chromium, driver = shutil.which(CHROMIUM), shutil.which(DRIVER)
    if not chromium or not driver:
        pytest.skip(f"no {CHROMIUM} and {DRIVER} on the PATH")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in (
        "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync",
        "--window-size=1200,900", f"--user-data-dir={tmp_path_factory.mktemp('chromium')}",
    ):  # fmt: skip
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    with webdriver.Chrome(options=options, service=Service(driver)) as made:
        yield made


def opened(browser: Any, page: Path, fragment: str = "") -> Any:
    """Open a page afresh, and wait until its script is done."""
    from selenium.webdriver.support.ui import WebDriverWait

    browser.get("about:blank")
    browser.get_log("performance")
    browser.get_log("browser")
    browser.get(page.as_uri() + fragment)
    WebDriverWait(browser, 30).until(
        lambda b: b.execute_script("return document.documentElement.dataset.ready")
    )
    return browser


def requested(browser: Any) -> set[str]:
    """Return the addresses that were asked for since the page was opened."""
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    return {
        event["params"]["request"]["url"].split("#")[0]
        for event in events
        if event["method"] == "Network.requestWillBeSent"
    }


def names_in_table(browser: Any) -> list[str]:
    names: list[str] = browser.execute_script(
        "return [...document.querySelectorAll('#proteins tbody th')].map((e) => e.textContent)"
    )
    return names


def settle(browser: Any) -> None:
    """Wait for what a change of the address or of a choice has started."""
    browser.execute_async_script("const done = arguments[0]; setTimeout(() => done(), 120);")


def type_in(browser: Any, selector: str, text: str, event: str = "input") -> None:
    browser.execute_script(
        "const e = document.querySelector(arguments[0]); e.value = arguments[1];"
        "e.dispatchEvent(new Event(arguments[2], {bubbles: true}));",
        selector, text, event,
    )  # fmt: skip
    settle(browser)


def test_the_page_opens_without_errors_or_requests_and_shows_every_figure(
    browser: Any, odd: Path
) -> None:
    b = opened(browser, odd)
    outside = {url for url in requested(b) if not url.startswith(("data:", "about:", "blob:"))}
    assert outside == {odd.as_uri()}
    sizes = b.execute_script(
        "return [...document.querySelectorAll('main figure')].filter((f) => f.offsetParent)"
        ".map((f) => [f.id, ...(({width, height}) => [width, height])("
        "f.querySelector('svg, img').getBoundingClientRect())])"
    )
    assert {s[0] for s in sizes} >= {
        f"fig-{k}" for k in ("settings", "table-0", "accuracy-0", "shifts-0", "harm-0",
                             "neighbours-0", "reliability-original-0")
    }  # fmt: skip
    assert all(width > 100 and height > 60 for _, width, height in sizes), sizes
    images = b.execute_script(
        "return Promise.all([...document.images].map((i) => i.decode().then(() => i.naturalWidth)))"
    )
    pictures = odd.read_text(encoding="utf-8").count(' id="montage-')
    assert pictures > 3
    assert len(images) == 1 + pictures
    assert all(width > 64 for width in images)
    assert b.get_log("browser") == []


def test_the_search_finds_and_the_heads_sort(browser: Any, odd: Path) -> None:
    b = opened(browser, odd)
    proteins = data(odd.read_text(encoding="utf-8"))["proteins"]
    assert sorted(names_in_table(b)) == sorted(proteins)
    type_in(b, "#search", "蛋白")
    assert names_in_table(b) == ["Ψ蛋白🧬"]
    type_in(b, "#search", "nothing of the kind")
    assert names_in_table(b) == []
    assert b.find_element("id", "count").text == "no protein fits"
    type_in(b, "#search", "")
    values = []
    for _ in range(2):
        b.execute_script("document.querySelector('#proteins th[data-sort=kl] button').click()")
        shown = b.execute_script(
            "return [...document.querySelectorAll('#proteins tbody tr')]"
            ".map((r) => parseFloat(r.cells[3].firstChild.textContent))"
        )
        values.append([v for v in shown if v is not None])
    assert values[0] == sorted(values[0], reverse=True)
    assert values[1] == sorted(values[1])
    assert len(set(values[0])) > 3
    head = b.find_element("css selector", "#proteins th[data-sort=kl]")
    assert head.get_attribute("aria-sort") == "ascending"
    b.execute_script("document.querySelector('#proteins th[data-sort=name] button').click()")
    assert sorted(names_in_table(b)) == sorted(proteins)
    kinds = {}
    for setting in ("same", "masked"):
        type_in(b, "#sec-proteins [data-choose=setting]", setting, "change")
        kinds[setting] = b.execute_script(
            "return document.querySelector('#proteins tbody').textContent"
        )
    assert kinds["same"] != kinds["masked"]
    assert b.get_log("browser") == []


@pytest.mark.parametrize("name", HOSTILE)
def test_the_address_opens_a_protein_whatever_it_is_called(
    browser: Any, odd: Path, name: str
) -> None:
    b = opened(browser, odd, "#" + quote(name, safe=""))
    assert b.find_element("id", "protein").get_attribute("open") is not None
    assert b.find_element("id", "protein-name").text == name
    assert (
        b.execute_script("return document.querySelectorAll('main script, dialog script').length")
        == 0
    )
    link = b.execute_script(
        "const a = [...document.querySelectorAll('#proteins tbody a')]"
        ".find((e) => e.textContent === arguments[0]); return a.hash", name,
    )  # fmt: skip
    b.execute_script("document.getElementById('protein-close').click()")
    settle(b)
    assert b.find_element("id", "protein").get_attribute("open") is None
    b.execute_script("location.hash = arguments[0]", link)
    settle(b)
    assert b.find_element("id", "protein-name").text == name
    assert b.get_log("browser") == []


def test_a_protein_that_is_not_there_is_said_and_case_is_forgiven(browser: Any, odd: Path) -> None:
    b = opened(browser, odd, "#NOSUCH%3Cb%3E")
    assert "no protein NOSUCH<b>" in b.find_element("id", "not-found").text
    known = next(n for n in data(odd.read_text(encoding="utf-8"))["proteins"] if n not in HOSTILE)
    b = opened(browser, odd, f"#{known.lower()}")
    assert b.find_element("id", "protein-name").text == known


def test_models_are_switched(browser: Any, odd: Path) -> None:
    b = opened(browser, odd)
    shown = (
        "return [...document.querySelectorAll('main figure')].filter((f) => f.offsetParent)"
        ".map((f) => f.id)"
    )
    assert "fig-accuracy-0" in b.execute_script(shown)
    type_in(b, "nav [data-choose=model]", "1", "change")
    after = b.execute_script(shown)
    assert "fig-accuracy-1" in after
    assert "fig-accuracy-0" not in after
    assert "fig-models-accuracy" in after
    cards = (
        "return document.querySelectorAll('#most-shifted-list .portrait:first-child img').length"
    )
    assert b.execute_script(cards) == 1
    assert b.get_log("browser") == []


def test_no_formula_gets_into_the_csv_and_the_page_fits_a_phone(browser: Any, odd: Path) -> None:
    b = opened(browser, odd)
    assert '\n"\'=HYPERLINK(""http://x"")"' in "\n" + b.execute_script("return csv()")
    size = {"width": 390, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    b.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        assert b.execute_script("return document.body.scrollWidth") <= 390
    finally:
        b.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
