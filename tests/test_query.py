"""Queries: what is answered is what the store holds, and only the shards that hold it are read."""

import csv
import io
import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner, Result
from zarr.storage import LocalStore

from bgscale import query
from bgscale.cli import main
from bgscale.cli.queries import table_text
from bgscale.config import RunConfig
from bgscale.distribute.units import Unit
from bgscale.errors import InputError
from bgscale.export import choose
from bgscale.models.engine import Engine
from bgscale.query.written import GREY, file_name
from bgscale.results import Store, open_results
from bgscale.schema import CENTRE_CELL, Missing
from bgscale.settings import SETTINGS
from bgscale.shifted import shifted
from bgscale.stages import embedding
from bgscale.stages.batches import Batches
from bgscale.stages.job import Job, remember

ASKED = ["original", "same", "different", "cell_free", "masked"]
EMBEDDED = 64
"""Cells that are embedded anew under every setting."""


def call(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["query", *map(str, arguments)])


def answer(*arguments: object) -> pd.DataFrame:
    result = call(*arguments, "--csv")
    assert result.exit_code == 0, (result.output, result.exception)
    return pd.read_csv(io.StringIO(result.stdout), na_values=["NA"], keep_default_na=False)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Keys of the files that Zarr reads."""
    found: list[str] = []
    plain = LocalStore.get

    async def get(self: LocalStore, key: str, *arguments: Any, **named: Any) -> Any:
        found.append(key)
        return await plain(self, key, *arguments, **named)

    monkeypatch.setattr(LocalStore, "get", get)
    return found


def shards(reads: list[str], node: str) -> set[int]:
    """Return which shards of an array were read, along its first dim."""
    keys = [key.removeprefix(f"{node}/c/") for key in reads if key.startswith(f"{node}/c/")]
    return {int(key.split("/")[0]) for key in keys}


def of(store: Path, protein: str, plate: str) -> Any:
    """Return the rows of a protein's cells that can be used."""
    opened = Store(store)
    code = opened.attrs("proteins")["coords"]["protein"].index(protein)
    own, reason = (opened.read(f"plates/{plate}/cells/{n}") for n in ("protein", "reason"))
    return np.flatnonzero((own == code) & (reason == 0))


# proteins


def test_proteins_are_the_shifts_of_the_store(plates: Path) -> None:
    tree = open_results(plates)
    found = query.proteins(plates, setting=(), fit="matched")
    assert len(found) == 4 * tree["proteins"].sizes["protein"]
    for setting, own in found.groupby("setting"):
        plain = shifted(tree, "tiny", setting=str(setting), fit="matched")
        mine = own.set_index("protein").loc[plain.index]
        for name in ("n_cells", "kl", "kl_low", "kl_high", "total_variation", "p", "q", "reason"):
            assert mine[name].tolist() == pytest.approx(plain[name].tolist(), nan_ok=True), name
        for protein, row in mine.iterrows():
            p = tree["shifts/tiny"]["proportion"].sel(fit="matched", protein=protein)
            if not row["n_cells"]:
                assert row["top"] == ""
                continue
            assert row["top"] == p.sel(setting=setting).to_series().idxmax()
            assert row["share"] == p.sel(setting=setting).max()
            assert row["top_original"] == p.sel(setting="original").to_series().idxmax()
    again = query.proteins(tree, setting=(), fit="matched")
    pd.testing.assert_frame_equal(found, again)


@pytest.mark.parametrize(
    ("limits", "column"),
    [
        ({"min_kl": 0.0}, "kl"),
        ({"min_tv": 0.0}, "total_variation"),
        ({"max_q": 0.0}, "q"),
        ({"significant": True}, "significant"),
        ({"substantial": True}, "substantial"),
        ({"localization": "nucleus"}, "localization"),
        ({"protein": ["SIM002", "SIM001"]}, "protein"),
    ],
)
def test_every_threshold_keeps_its_proteins(
    plates: Path, limits: dict[str, Any], column: str
) -> None:
    every = query.proteins(plates, setting=())
    ((name, value),) = limits.items()
    if column in ("kl", "total_variation", "q"):
        value = float(every[column].median())
    found = query.proteins(plates, setting=(), **{name: value})
    expected = {
        "min_kl": lambda: every["kl"] >= value,
        "min_tv": lambda: every["total_variation"] >= value,
        "max_q": lambda: every["q"] <= value,
        "significant": lambda: every["significant"],
        "substantial": lambda: every["substantial"],
        "localization": lambda: every["localization"].str.split(";").map(lambda t: value in t),
        "protein": lambda: every["protein"].isin(value),
    }[name]()
    pd.testing.assert_frame_equal(found, every[expected.astype(bool)].reset_index(drop=True))
    assert len(found) < len(every)
    if name not in ("significant", "substantial"):
        assert len(found)
    assert column in found


def test_proteins_of_a_plate_have_cells_there(plates: Path) -> None:
    store = Store(plates)
    names = np.array(store.attrs("proteins")["coords"]["protein"])
    for plate in ("P1", "P2"):
        there = np.unique(store.read(f"plates/{plate}/cells/protein"))
        found = query.proteins(plates, plate=plate)
        assert set(found["protein"]) == set(names[there[there >= 0]])


# cells


def test_cells_are_what_the_store_holds(plates: Path) -> None:
    tree, store = open_results(plates), Store(plates)
    found = query.cells(plates, setting=["different", "masked"])
    exported = choose(plates)
    names = [name for _, block in exported.blocks() for name in block.ids.tolist()]
    assert [int(n, 16) for n in found["cell"][::2]] == names
    assert found.attrs["left_out"] == exported.left_out
    classes = np.array([*exported.localizations, ""])
    seen = 0
    for plate, own in found.groupby("plate"):
        softmax = tree[f"plates/{plate}/predictions/tiny"]["probability"].sel(fit="fixed")
        for setting, mine in own.groupby("setting"):
            rows = mine["row"].to_numpy()
            before, after = (softmax.sel(setting=s).to_numpy()[rows] for s in ("original", setting))
            there = np.isfinite(before).all(1) & np.isfinite(after).all(1)
            moved = before.argmax(1) != after.argmax(1)
            assert (mine["changed"].isna() == ~there).all()
            assert (mine["changed"][there].astype(bool) == moved[there]).all()
            assert (mine["predicted"][there] == classes[after.argmax(1)][there]).all()
            np.testing.assert_array_equal(mine["probability"][there], after.max(1)[there])
            node = f"plates/{plate}/embeddings/tiny"
            s = ASKED.index(str(setting))
            lent = store.read(f"{node}/donor_class")[rows, s]
            assert (mine["donor_localization"] == classes[lent]).all()
            missing = store.read(f"{node}/missing")[rows, s]
            assert ((mine["missing"] == "") == (missing == 0)).all()
            seen += int(there.sum())
    assert seen > 100


def test_changed_and_unchanged_part_the_cells(plates: Path) -> None:
    every = query.cells(plates, setting="different", fit="matched")
    moved, stayed = (
        query.cells(plates, setting="different", fit="matched", changed=c) for c in (True, False)
    )
    assert moved["changed"].all()
    assert not stayed["changed"].any()
    assert min(len(moved), len(stayed)) > 0
    assert len(moved) + len(stayed) == every["changed"].notna().sum()


def test_cells_of_a_protein_are_found_without_pixels_and_in_their_shards_only(
    plates: Path, reads: list[str]
) -> None:
    softmax = "plates/P1/predictions/tiny/probability"
    step = Store(plates).array(softmax).shards[0]
    rows = of(plates, "SIM001", "P1")
    reads.clear()
    found = query.cells(plates, protein="SIM001", plate="P1")
    assert found["row"].tolist() == rows.tolist()
    held = set((rows // step).tolist())
    assert shards(reads, softmax) == held
    assert shards(reads, "plates/P1/embeddings/tiny/donor") == held
    assert len(held) < -(-Store(plates).array(softmax).shape[0] // step)
    touched = {key.rsplit("/c/", 1)[0] for key in reads if "/c/" in key}
    assert not [node for node in touched if "image" in node or "mask" in node]
    assert not [node for node in touched if node.endswith("/embedding") or "P2" in node]


def test_wells_and_localizations_choose_cells(plates: Path) -> None:
    every = query.cells(plates)
    well = every["well"].iloc[0]
    one = query.cells(plates, well=well)
    pd.testing.assert_frame_equal(one, every[every["well"] == well].reset_index(drop=True))
    some = query.cells(plates, localization="nucleus")
    assert set(some["protein"]) < set(every["protein"])
    assert some["localization"].str.contains("nucleus").all()


# crops


@pytest.fixture(scope="module")
def composed(
    plates: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[tuple[int, str], Any]]:
    """Store of a plate that is embedded anew under every setting, and what its model was given."""
    copy = Path(shutil.copytree(plates, tmp_path_factory.mktemp("every") / "results.zarr"))
    plain = RunConfig.from_dict(Store(copy).attrs()["config"])
    config = plain.model_copy(update={"store": str(copy), "settings": tuple(SETTINGS)})
    engine = Engine.from_config(Store(copy).attrs("plates/P2/embeddings/tiny")["engine"])
    job = remember(Job(config, engines=(("tiny", engine),)))
    Store(copy).update_attrs({"config": config.to_config()})
    given: dict[tuple[int, str], Any] = {}

    class Recorded(Batches):
        def __call__(self, part: slice) -> Any:
            crops, inside = super().__call__(part)
            for j, i in enumerate(range(part.start, part.stop)):
                setting = self._wanted[self._which[i]][0].name
                cell = int(self._block.cells.ids[self._rows[i]])
                mask = None if inside is None else inside[j].numpy().copy()
                given[cell, setting] = crops[j].numpy().copy(), mask
            return crops, inside

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(embedding, "Batches", Recorded)
        embedding.create_embeddings(job, "tiny", "P2")
        embedding.embed(job, Unit("embed/tiny/P2", 0, EMBEDDED, "token"))
    return copy, given


def test_crops_are_what_the_model_was_given_to_the_bit(
    composed: tuple[Path, dict[tuple[int, str], Any]],
) -> None:
    store, given = composed
    rows = np.random.default_rng(0).permutation(EMBEDDED)
    dataset = query.crops(store, "P2", rows, model="tiny")
    assert dataset["setting"].to_numpy().tolist() == list(SETTINGS)
    masks = Store(store).read("plates/P2/crops/mask", slice(0, EMBEDDED))[rows]
    np.testing.assert_array_equal(dataset["mask"], masks)
    seen = dict.fromkeys(SETTINGS, 0)
    for i, name in enumerate(dataset["cell"].to_numpy()):
        for s, setting in enumerate(SETTINGS):
            here = dataset["image"].to_numpy()[i, s]
            if (int(name, 16), setting) not in given:
                assert dataset["missing"][i, s] != Missing.PRESENT
                assert np.isnan(here).all()
                continue
            crop, inside = given[int(name, 16), setting]
            if SETTINGS[setting].mode != "unmasked":
                crop = np.where(inside, crop, 0)
            np.testing.assert_array_equal(here, crop)
            seen[setting] += 1
    # a class has one protein on this plate, whose own cells are no donors
    assert seen.pop("same_plate_matched") == 0
    assert min(seen.values()) > 5, seen
    swapped = dataset["donor"].sel(setting="different").to_numpy() != 0
    lent = dataset["donor_localization"].sel(setting="different").to_numpy()
    assert ((lent != "") == swapped).all()


def test_settings_of_crops_come_in_the_order_asked(composed: tuple[Path, Any]) -> None:
    both = query.crops(composed[0], "P2", [3, 9], model="tiny", settings=["masked", "original"])
    every = query.crops(composed[0], "P2", [3, 9], model="tiny")
    assert both["setting"].to_numpy().tolist() == ["masked", "original"]
    for name in ("masked", "original"):
        np.testing.assert_array_equal(
            both["image"].sel(setting=name), every["image"].sel(setting=name)
        )
    assert query.crops(composed[0], "P2", [], model="tiny").sizes["cell"] == 0


def test_crops_read_only_the_shards_of_their_cells(plates: Path, reads: list[str]) -> None:
    step = Store(plates).array("plates/P1/crops/image").shards[0]
    reads.clear()
    query.crops(plates, "P1", [step + 1, step + 3], model="tiny", settings=["original"])
    assert shards(reads, "plates/P1/crops/image") == {1}
    assert not [key for key in reads if key.startswith(("donors/image", "windows/image"))]
    reads.clear()
    made = query.crops(
        plates, "P1", of(plates, "SIM001", "P1")[:2], model="tiny", settings=["same"]
    )
    classes = list(Store(plates).attrs("proteins")["coords"]["localization"])
    held = {classes.index(name) for name in made["donor_localization"].to_numpy().ravel()}
    assert shards(reads, "donors/image") == held


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"rows": [10**6]}, "there is no row 1000000"),
        ({"rows": [-1]}, "there is no row -1"),
        ({"rows": [0.5]}, "expected integers"),
        ({"rows": np.array([True, False])}, "expected integers"),
        ({"plate": "P3"}, "no plate 'P3'"),
        ({"model": "tinny"}, "no model 'tinny' (did you mean 'tiny'?)"),
        ({"settings": ["maskd"]}, "no setting 'maskd' (did you mean 'masked'?)"),
    ],
)
def test_crops_that_are_not_there(plates: Path, changes: dict[str, Any], says: str) -> None:
    asked = {"plate": "P1", "rows": [0], "model": "tiny", "settings": None, **changes}
    with pytest.raises(InputError) as caught:
        query.crops(plates, asked["plate"], asked["rows"], model=asked["model"],
                    settings=asked["settings"])  # fmt: skip
    assert says in str(caught.value)


def test_a_donor_that_is_no_more_is_said(plates: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(plates, tmp_path / "results.zarr"))
    store, ids = Store(copy), Store(copy).read("donors/id")
    store.write("donors/id", [(0, len(ids))], ids + np.uint64(1))
    with pytest.raises(InputError, match="drawn anew after this plate was embedded"):
        query.crops(copy, "P1", of(copy, "SIM001", "P1"), model="tiny", settings=["same"])


# files


def test_pictures_and_arrays_of_crops(composed: tuple[Path, Any], tmp_path: Path) -> None:
    dataset = query.crops(composed[0], "P2", np.arange(12), model="tiny", settings=ASKED)
    pictures = query.write_crops(dataset, tmp_path / "png")
    arrays = query.write_crops(dataset, tmp_path / "npz", format="npz")
    assert [p.stem for p in pictures] == [p.stem for p in arrays]
    present = (dataset["missing"] == 0).all("setting").to_numpy()
    assert present.any()
    for i, (path, file) in enumerate(zip(pictures, arrays, strict=True)):
        assert path.stem.endswith(f"_{dataset['cell'].to_numpy()[i]}")
        with np.load(file) as found:
            np.testing.assert_array_equal(found["image"], dataset["image"][i])
            assert found["setting"].tolist() == ASKED
        drawn = cv2.imread(str(path))
        width = drawn.shape[1] // 5
        first, last = drawn[100:, :width], drawn[100:, -width:]
        assert (first != last).any() or not present[i]
    masked = dataset["image"].sel(setting="masked").to_numpy()[present]
    outside = dataset["mask"].to_numpy()[present][:, None] != CENTRE_CELL
    assert not masked[np.broadcast_to(outside, masked.shape)].any()


def test_a_cell_without_a_crop_is_grey(composed: tuple[Path, Any], tmp_path: Path) -> None:
    rows = np.arange(EMBEDDED)
    dataset = query.crops(composed[0], "P2", rows, model="tiny", settings=["masked"])
    absent = np.flatnonzero(dataset["missing"].to_numpy()[:, 0])
    assert len(absent)
    (path,) = query.write_crops(dataset.isel(cell=absent[:1]), tmp_path)
    assert np.median(cv2.imread(str(path))) == GREY


@pytest.mark.parametrize(
    "name", ["../../etc", "<script>", "=1+1", "a/b\\c", "é", "", "NUL", "x" * 500, "a\x00b", "-rf"]
)
def test_a_file_name_is_harmless_whatever_the_protein(name: str) -> None:
    made = file_name(name)
    assert made
    assert len(made) <= 40
    assert set(made) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-")
    assert not made.startswith("-")


def test_a_place_or_format_that_will_not_do(composed: tuple[Path, Any], tmp_path: Path) -> None:
    dataset = query.crops(composed[0], "P2", [0], model="tiny", settings=["original"])
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="is a file"):
        query.write_crops(dataset, tmp_path / "file")
    with pytest.raises(InputError, match="png or npz; got 'tiff'"):
        query.write_crops(dataset, tmp_path, format="tiff")  # type: ignore[arg-type]


# the command


def test_the_command_says_what_python_says(plates: Path, tmp_path: Path) -> None:
    found = answer(plates, "--setting", "all", "--protein", "SIM001", "--protein", "SIM002")
    plain = query.proteins(plates, setting=(), protein=["SIM001", "SIM002"])
    assert found["kl"].tolist() == pytest.approx(plain["kl"].tolist())
    assert found["protein"].tolist() == plain["protein"].tolist()
    by_kl = answer(plates, "--sort", "-kl", "--limit", 3)["kl"]
    assert by_kl.tolist() == sorted(query.proteins(plates)["kl"], reverse=True)[:3]
    rows = json.loads(call(plates, "--protein", "SIM001", "--changed", "--json").stdout)
    cells = query.cells(plates, protein="SIM001", changed=True)
    assert [row["cell"] for row in rows] == cells["cell"].tolist()
    out = tmp_path / "cells.json"
    written = call(plates, "--protein", "SIM001", "--changed", "-o", out)
    assert written.exit_code == 0
    assert written.stdout == ""
    assert json.loads(out.read_text()) == rows


def test_thresholds_choose_the_proteins_of_cells(plates: Path) -> None:
    least = float(query.proteins(plates)["kl"].median())
    chosen = query.proteins(plates, min_kl=least)["protein"]
    found = answer(plates, "--cells", "--min-kl", least)
    assert set(found["protein"]) == set(chosen)
    assert len(chosen) < len(query.proteins(plates))


def test_crops_of_cells_that_changed(plates: Path, tmp_path: Path) -> None:
    out = tmp_path / "crops"
    result = call(plates, "--changed", "--limit", 3, "--crops", out)
    assert result.exit_code == 0, (result.output, result.exception)
    table = pd.read_csv(out / "cells.csv")
    assert sorted(table["file"]) == sorted(p.name for p in out.glob("*.png"))
    assert len(table) == 3
    assert table["changed"].all()
    assert call(plates, "--changed", "--crops", out).exit_code == 2
    arrays = tmp_path / "arrays"
    assert call(plates, "--unchanged", "--limit", 1, "--crops", arrays, "--arrays").exit_code == 0
    (file,) = arrays.glob("*.npz")
    with np.load(file) as found:
        assert found["setting"].tolist() == ["original", "masked"]


def test_no_answer_is_no_error(plates: Path) -> None:
    result = call(plates, "--min-kl", 1000)
    assert (result.exit_code, result.stdout) == (0, "")
    assert "no row" in result.stderr
    found = answer(plates, "--cells", "--min-kl", 1000)
    assert len(found) == 0
    assert list(found) == list(query.cells(plates, protein="SIM001"))
    assert json.loads(call(plates, "--min-kl", 1000, "--json").stdout) == []


def test_any_name_is_harmless_in_an_answer(plates: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(plates, tmp_path / "results.zarr"))
    names = list(Store(copy).attrs("proteins")["coords"]["protein"])
    odd = ["=1+1", "\x1b[31mred", '<script>"', "@x", *names[4:]]
    for node in ("proteins", "shifts/tiny"):
        coords = Store(copy).attrs(node)["coords"] | {"protein": odd}
        Store(copy).update_attrs({"coords": coords}, node)
    result = call(copy, "--csv")
    written = {row["protein"] for row in csv.DictReader(io.StringIO(result.stdout))}
    assert {"'=1+1", "'@x", '<script>"'} <= written
    shown = call(copy, "--limit", 0).stdout
    assert "\x1b" not in shown
    assert "\\x1b[31mred" in shown
    assert call(copy, "--protein", "=1+1").exit_code == 0


def test_a_table_fits_the_terminal_and_says_what_does_not(plates: Path) -> None:
    frame = query.proteins(plates)
    whole, none = table_text(frame, None)
    assert none == []
    assert len(whole.splitlines()) == len(frame) + 1
    for width in (20, 60, 100):
        text, left = table_text(frame, width)
        assert max(map(len, text.splitlines())) <= width
        assert text.split("\n")[0].split() + left == list(frame)


def test_the_benchmark_counts_the_shards_of_one_protein(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "benchmarks")
    from query import run  # type: ignore[attr-defined]

    # the command itself is tested above
    monkeypatch.setattr("subprocess.run", lambda *_, **__: None)
    found = run(tmp_path, 15_000, repetitions=1)
    assert found["cells"] == pytest.approx(15_000, rel=0.02)
    held = found["softmax_shards_of_the_protein"]
    assert held < found["softmax_shards"]
    files = found["cells_changed"]["files_read"]
    assert files["predictions/tiny/probability"] == held
    assert files["embeddings/tiny/donor"] == held
    assert files["cells/protein"] == found["softmax_shards"]
    assert found["proteins_all_settings"]["rows"] == 4
