"""What a newcomer gets wrong: every command that answers from a store says it in one line."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from bgscale.cli import main
from bgscale.distribute.ledger import Ledger
from bgscale.errors import InputError
from bgscale.results import Store, location_of, open_results
from bgscale.schema import STORE_VERSION

COMMANDS: dict[str, tuple[str, ...]] = {
    "table": ("table", "{store}"),
    "controls": ("controls", "{store}"),
    "shifts": ("shifts", "{store}"),
    "quality": ("quality", "{store}"),
    "status": ("status", "{store}"),
    "query": ("query", "{store}"),
    "query cells": ("query", "{store}", "--cells"),
    "anndata": ("export", "anndata", "{store}", "{out}/cells.h5ad"),
    "parquet": ("export", "parquet", "{store}", "{out}/profiles"),
    "csv": ("export", "csv", "{store}", "{out}/tables"),
    "omezarr": ("export", "omezarr", "{store}", "{out}/plates"),
}
OF_MODELS = ("table", "controls", "shifts", "query", "query cells", "anndata", "parquet", "csv")
STAGE = {
    "table": "evaluate/tiny",
    "controls": "controls/tiny",
    "shifts": "discoveries/tiny",
    "quality": "gather/P2",
    "query": "shifts/tiny",
    "query cells": "predict/tiny/P2",
    "anndata": "embed/tiny/P2",
    "parquet": "embed/tiny/P1",
    "csv": "proportions/tiny",
}
"""A stage that each needs."""


def call(name: str, store: Path, out: Path, *more: str) -> Result:
    words = [word.format(store=store, out=out) for word in COMMANDS[name]]
    return CliRunner().invoke(main, [*words, *more])


def assert_one_clear_line(result: Result, *parts: str) -> None:
    """Assert that a command ended with 2 and one line that has these parts."""
    assert result.exit_code == 2, (result.output, result.exception)
    assert isinstance(result.exception, SystemExit)
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert result.stdout == ""
    for part in parts:
        assert part in line, line


def nowhere(folder: Path) -> Path:
    return folder / "none.zarr"


def empty(folder: Path) -> Path:
    (folder / "empty").mkdir()
    return folder / "empty"


def parent(folder: Path) -> Path:
    of_version(folder, STORE_VERSION)
    return folder


def of_version(folder: Path, version: int | None, **attrs: Any) -> Path:
    store = folder / "results.zarr"
    store.mkdir()
    known = {} if version is None else {"bgscale_store": version}
    text = json.dumps({"zarr_format": 3, "node_type": "group", "attributes": known | attrs})
    (store / "zarr.json").write_text(text)
    return store


MISTAKEN: dict[str, tuple[Callable[[Path], Path], tuple[str, ...]]] = {
    "nowhere": (nowhere, ("not a run store", "there is no such folder")),
    "empty": (empty, ("not a run store", "the folder is empty", "`bgscale run run.toml`")),
    "parent": (parent, ("did you mean", "results.zarr")),
    "plate": (
        lambda folder: of_version(folder, None, ome={"version": "0.5"}),
        ("OME-Zarr plate", "`bgscale info`"),
    ),
    "older": (
        lambda folder: of_version(folder, 1, versions={"bgscale": "0.0.1"}),
        ("store version 1 (made by bgscale 0.0.1)", "older bgscale", "run again"),
    ),
    "newer": (
        lambda folder: of_version(folder, 99),
        ("store version 99", f"reads {STORE_VERSION}", "pip install -U bgscale"),
    ),
}


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("mistake", MISTAKEN)
def test_what_is_no_store_of_this_version(mistake: str, name: str, tmp_path: Path) -> None:
    make, parts = MISTAKEN[mistake]
    assert_one_clear_line(call(name, make(tmp_path), tmp_path), *parts)


@pytest.mark.parametrize("name", [n for n in COMMANDS if n != "status"])
def test_a_run_that_has_only_begun(name: str, tmp_path: Path) -> None:
    store = of_version(
        tmp_path, STORE_VERSION, plates=["P1"], stages={}, planned=["proteins", "segment/P1"],
        config={"models": {"tiny": {}}},
    )  # fmt: skip
    result = call(name, store, tmp_path)
    assert_one_clear_line(result, "`bgscale run")
    assert not {p.name for p in tmp_path.iterdir()} - {"results.zarr"}


@pytest.fixture(scope="module")
def half(plates: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Store of a run of which one unit of each of some stages is not done."""
    copy = tmp_path_factory.mktemp("half") / "results.zarr"
    shutil.copytree(plates, copy)
    shutil.copytree(Ledger(str(plates)).folder, Ledger(str(copy)).folder)
    return copy


@pytest.mark.parametrize("name", STAGE)
def test_a_run_half_done_says_which_stage_is_missing(half: Path, tmp_path: Path, name: str) -> None:
    records = sorted((Ledger(str(half)).folder / "units" / STAGE[name]).glob("*.json"))
    kept = {record: record.read_bytes() for record in records}
    assert kept
    records[0].unlink()
    try:
        result = call(name, half, tmp_path)
        assert_one_clear_line(result, "not complete", f"{STAGE[name]} (", "`bgscale run`")
    finally:
        records[0].write_bytes(kept[records[0]])


@pytest.mark.parametrize("name", OF_MODELS)
def test_a_model_that_is_not_there(plates: Path, tmp_path: Path, name: str) -> None:
    result = call(name, plates, tmp_path, "--model", "tinny")
    assert_one_clear_line(result, "no model 'tinny' (did you mean 'tiny'?)", "there are tiny")


@pytest.mark.parametrize(
    ("name", "words", "says"),
    [
        ("shifts", ["--setting", "maskd"], "did you mean 'masked'"),
        ("query", ["--setting", "maskd"], "did you mean 'masked'"),
        ("query", ["--setting", "original"], "no setting 'original'"),
        ("query", ["--protein", "SIM01"], "no protein 'SIM01' (did you mean 'SIM0"),
        ("query", ["--localization", "nuceus"], "did you mean 'nucleus'"),
        ("query", ["--plate", "P11"], "no plate 'P11' (did you mean 'P1'?)"),
        ("query", ["--sort", "k1"], "no column 'k1' (did you mean 'kl'?)"),
        ("query", ["--well", "A01"], "give --cells as well"),
        ("query", ["--arrays"], "give --crops as well"),
        ("query", ["-o", "{store}/zarr.json"], "an input is never written to"),
        ("query", ["--crops", "{store}/crops"], "an input is never written to"),
        ("query", ["-o", "{out}/no/x.csv"], "there is no folder"),
        ("query", ["--crops", "{out}/no/crops"], "there is no folder"),
        ("query cells", ["--well", "Z99"], "no well 'Z99'"),
        ("query cells", ["--protein", "sim001"], "did you mean 'SIM001'"),
        ("anndata", ["--proteins", "SIM01"], "no protein 'SIM01' (did you mean 'SIM0"),
        ("anndata", ["--layer", "profil"], "no layer 'profil' (did you mean 'profile'?)"),
    ],
)
def test_a_name_or_place_that_is_not_there(
    plates: Path, tmp_path: Path, name: str, words: list[str], says: str
) -> None:
    more = [word.format(store=plates, out=tmp_path) for word in words]
    assert_one_clear_line(call(name, plates, tmp_path, *more), says)
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def two_models(plates: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Store of two models: one is embedded and classified on its first plate alone."""
    copy = tmp_path_factory.mktemp("two") / "results.zarr"
    shutil.copytree(plates, copy)
    config = Store(copy).attrs()["config"]
    models = {"tiny": config["models"]["tiny"], "other": config["models"]["tiny"]}
    Store(copy).update_attrs({"config": config | {"models": models}})
    for kind in ("embeddings", "predictions"):
        node = copy / "plates" / "P1" / kind
        shutil.copytree(node / "tiny", node / "other")
    return copy


@pytest.mark.parametrize(
    ("name", "words", "parts"),
    [
        ("query cells", [], ("which model? There are tiny, other",)),
        ("anndata", [], ("which model? There are tiny, other",)),
        ("table", ["--model", "other"], ("no evaluation of model 'other' yet",)),
        ("query", ["--model", "other"], ("no shifts of model 'other' yet",)),
        (
            "query cells",
            ["--model", "other"],
            ("no predictions of model 'other'", "plate P2", "of plate P1 there are"),
        ),
        ("anndata", ["--model", "other"], ("no embeddings of model 'other' for plate P2",)),
    ],
)
def test_two_models_with_different_cells(
    two_models: Path, tmp_path: Path, name: str, words: list[str], parts: tuple[str, ...]
) -> None:
    assert_one_clear_line(call(name, two_models, tmp_path, *words), *parts)


def test_the_plates_that_a_model_has_can_be_asked(two_models: Path, tmp_path: Path) -> None:
    words = ("--model", "other", "--plate", "P1")
    assert call("query cells", two_models, tmp_path, *words).exit_code == 0


def test_a_part_of_a_store_and_a_tree_of_unknown_origin(plates: Path) -> None:
    with pytest.raises(InputError, match=r"it is a part of .*results\.zarr"):
        open_results(plates / "plates" / "P1")
    tree = open_results(plates, nodes=["shifts/tiny", "no/such"])
    assert location_of(tree) == str(plates)
    assert [node.path for node in tree.leaves] == ["/shifts/tiny"]
    del tree.encoding["bgscale_store"]
    with pytest.raises(InputError, match=r"open it with bgscale\.open_results"):
        location_of(tree)
