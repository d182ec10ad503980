"""Exports: what other programs open is what the store holds; nothing half, nothing silent."""

import csv
import json
import shutil
import sys
import warnings
from pathlib import Path
from typing import Any

import anndata
import click
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

import bgscale as bg
from bgscale.cli import main
from bgscale.controls import findings
from bgscale.distribute.ledger import Ledger
from bgscale.errors import InputError
from bgscale.export import choose, to_anndata, to_csv, to_parquet
from bgscale.export.profiles import about_of, column_name
from bgscale.export.tables import harmless, write_csv
from bgscale.export.target import ABOUT
from bgscale.results import Store, open_results

SETTINGS = ["original", "same", "different", "cell_free", "masked"]
EMBEDDING = "plates/crops/embeddings/tiny/profile/embedding"


def call(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


def assert_refused(result: Result, *parts: str) -> None:
    assert result.exit_code == 2, (result.output, result.exception)
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    for part in parts:
        assert part in line, line


def read(path: Path) -> Any:
    opener = anndata.read_h5ad if path.suffix == ".h5ad" else anndata.read_zarr
    return opener(path)


@pytest.fixture(scope="module")
def h5ad(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("exports") / "cells.h5ad"
    result = call("export", "anndata", finished, out)
    assert result.exit_code == 0, result.output
    assert "random weights" in result.stderr
    return out


@pytest.fixture(scope="module")
def profiles(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("exports") / "profiles"
    assert call("export", "parquet", finished, out).exit_code == 0
    return out


@pytest.fixture(scope="module")
def folder(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("exports") / "tables"
    result = call("export", "csv", finished, out)
    assert result.exit_code == 0, (result.output, result.exception)
    return out


def test_anndata_holds_what_the_store_holds(finished: Path, h5ad: Path) -> None:
    store, data = Store(finished), read(h5ad)
    usable = np.flatnonzero(store.read("plates/crops/cells/reason") == 0)
    features = store.read(EMBEDDING)[usable]
    assert data.shape == features[:, 0].shape
    assert len(usable) > 100
    for s, setting in enumerate(SETTINGS):
        np.testing.assert_array_equal(data.obsm[setting], features[:, s])
    np.testing.assert_array_equal(data.X, features[:, 0])
    ids = store.read("plates/crops/cells/id")[usable]
    assert [int(name, 16) for name in data.obs_names] == ids.tolist()
    assert data.obs_names.is_unique
    for name in ("area", "neighbours", "neighbour_area", "number"):
        stored = store.read(f"plates/crops/cells/{name}")[usable]
        np.testing.assert_array_equal(data.obs[name], stored)
        assert data.obs[name].dtype == stored.dtype
    proteins = store.attrs("proteins")["coords"]["protein"]
    codes = store.read("plates/crops/cells/protein")[usable]
    assert data.obs["protein"].tolist() == [proteins[c] for c in codes]
    labels = open_results(finished)["proteins"]["label"].to_pandas()
    for protein, text in data.obs[["protein", "localization"]].drop_duplicates().to_numpy():
        assert set(text.split(";")) == set(labels.columns[labels.loc[protein] == 1])
    assert isinstance(data.obs["localization"].dtype, pd.CategoricalDtype)
    missing = store.read("plates/crops/embeddings/tiny/missing")[usable]
    assert ((data.obs["missing_masked"] == "present") == (missing[:, 4] == 0)).all()
    assert data.var_names[3] == "tiny_profile_3"


def test_anndata_says_where_it_comes_from(finished: Path, h5ad: Path) -> None:
    about = json.loads(read(h5ad).uns["bgscale"])
    assert about["config"] == Store(finished).attrs()["config"]
    assert about["settings"] == SETTINGS
    assert about["embedding"]["random_weights"]
    assert set(about["tokens"]) >= {"embed/tiny/crops"}


def test_zarr_and_hdf5_hold_the_same(finished: Path, h5ad: Path, tmp_path: Path) -> None:
    out = tmp_path / "cells.zarr"
    assert call("export", "anndata", finished, out).exit_code == 0
    one, other = read(h5ad), read(out)
    pd.testing.assert_frame_equal(one.obs, other.obs)
    pd.testing.assert_frame_equal(one.var, other.var)
    np.testing.assert_array_equal(one.X, other.X)
    for setting in SETTINGS:
        np.testing.assert_array_equal(one.obsm[setting], other.obsm[setting])
    assert one.uns["bgscale"] == other.uns["bgscale"]
    assert call("export", "anndata", finished, out, "--overwrite").exit_code == 0


def test_scanpy_takes_it(h5ad: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # those of scanpy's own imports
        scanpy = pytest.importorskip("scanpy", reason="scanpy is not installed")
        data = scanpy.read_h5ad(h5ad)
        scanpy.pp.pca(data, n_comps=5)
        mean = scanpy.get.aggregate(data, by="protein", func="mean", obsm="masked")
    assert data.obsm["X_pca"].shape == (data.n_obs, 5)
    assert set(mean.obs["protein"]) == set(data.obs["protein"])


def test_cells_are_streamed_shard_by_shard(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[tuple[int, int]] = []
    plain = Store.read

    def counted(self: Store, name: str, *selection: Any) -> Any:
        if name == EMBEDDING:
            reads.append((selection[0].start, selection[0].stop))
        return plain(self, name, *selection)

    monkeypatch.setattr(Store, "read", counted)
    selection = choose(finished)
    shard = Store(finished).array(EMBEDDING).shards[0]
    assert selection.n_cells > 2 * shard
    to_anndata(selection, tmp_path / "all.h5ad")
    assert max(stop - start for start, stop in reads) <= shard
    assert len(reads) == len(SETTINGS) * len(set(reads)) == len(SETTINGS) * 3
    one, own = selection.proteins[0], Store(finished).read("plates/crops/cells/protein") == 0
    reads.clear()
    to_anndata(choose(finished, proteins=[one], settings=["masked"]), tmp_path / "one.h5ad")
    assert len(reads) == len(np.unique(np.flatnonzero(own) // shard)) < 3
    data = read(tmp_path / "one.h5ad")
    assert set(data.obs["protein"]) == {one}
    assert [name for name in data.obsm if "probability" not in name] == ["masked"]
    np.testing.assert_array_equal(data.X, data.obsm["masked"])


def test_softmax_of_cells_goes_along(finished: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(finished, tmp_path / "copy.zarr"))
    store, node = Store(copy), "plates/crops/predictions/tiny"
    cells, classes = store.array("plates/crops/cells/id").shape[0], 4
    if not store.has(node):
        names = store.attrs("proteins")["coords"]["localization"]
        fits = ["fixed", "matched"]
        coords = {"fit": fits, "setting": SETTINGS, "localization": names}
        store.create_group(node, coords=coords)
        dims = {"cell": cells, "fit": 2, "setting": 5, "localization": classes}
        store.create_array(f"{node}/probability", dims, "float32", chunk={"cell": 64})
        values = np.random.default_rng(0).dirichlet(np.ones(classes), (cells, 2, 5))
        store.write(f"{node}/probability", [(0, cells)], values.astype(np.float32))
    selection = choose(copy, settings=["masked"])
    to_anndata(selection, tmp_path / "cells.h5ad")
    data = read(tmp_path / "cells.h5ad")
    usable = store.read("plates/crops/cells/reason") == 0
    kept = store.read(f"{node}/probability")[usable]
    np.testing.assert_array_equal(data.obsm["probability_matched_masked"], kept[:, 1, 4])
    assert data.uns["localizations"].tolist() == list(selection.localizations)
    to_parquet(selection, tmp_path / "profiles")
    frame = pd.read_parquet(tmp_path / "profiles" / "masked")
    name = f"Metadata_Probability_fixed_{selection.localizations[1]}"
    np.testing.assert_array_equal(frame[name], kept[:, 0, 4, 1])


def test_columns_of_the_plate_map_go_along_whatever_their_names(
    finished: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(finished, tmp_path / "copy.zarr"))
    proteins = Store(copy).attrs("proteins")["coords"]["protein"]
    odd = ["_index", "area", "a/b", "a_b", "missing_masked", "", "=1"]
    columns = {name: [f"{name} {i}" for i in range(len(proteins))] for name in odd}
    Store(copy).update_attrs({"plate_map": {"protein": proteins, **columns}}, "proteins")
    names = ["map__index", "map_area", "a_b", "a_b_", "map_missing_masked", "map_", "=1"]
    selection = choose(copy)
    for suffix in (".h5ad", ".zarr"):
        to_anndata(selection, tmp_path / f"cells{suffix}")
        obs = read(tmp_path / f"cells{suffix}").obs
        for name, given in zip(names, odd, strict=True):
            expected = [f"{given} {proteins.index(p)}" for p in obs["protein"]]
            assert obs[name].tolist() == expected
        assert obs["area"].dtype == np.int32
    to_parquet(selection, tmp_path / "profiles")
    frame = pd.read_parquet(tmp_path / "profiles" / "original")
    assert set(frame["Metadata_AB"].str[:3]) == {"a/b"}
    assert set(frame["Metadata_AB_"].str[:3]) == {"a_b"}
    to_csv(copy, tmp_path / "tables")
    found = pd.read_csv(tmp_path / "tables" / "proteins.csv")
    assert found["'=1"].tolist() == [f"'=1 {i}" for i in range(len(proteins))]


def test_parquet_is_what_pycytominer_takes(finished: Path, h5ad: Path, profiles: Path) -> None:
    data = read(h5ad)
    assert sorted(p.name for p in profiles.iterdir()) == sorted([*SETTINGS, ABOUT])
    for setting in SETTINGS:
        frame = pd.read_parquet(profiles / setting)
        present = (data.obs[f"missing_{setting}"] == "present").to_numpy()
        features = [c for c in frame.columns if not c.startswith("Metadata_")]
        assert features == data.var_names.tolist()
        np.testing.assert_array_equal(frame[features], data.obsm[setting][present])
        assert np.isfinite(frame[features]).all().all()
        assert frame["Metadata_Cell"].tolist() == data.obs_names[present].tolist()
        for name in ("plate", "well", "field", "protein", "localization", "area"):
            assert frame[column_name(name)].tolist() == data.obs[name][present].tolist()
        assert set(frame["Metadata_Setting"]) == {setting}
    file = profiles / "masked" / "crops.parquet"
    assert pq.ParquetFile(file).num_row_groups == 3
    assert about_of(file)["setting"] == "masked"


def test_csv_holds_what_the_store_holds(finished: Path, folder: Path) -> None:
    tree = open_results(finished)
    found = pd.read_csv(folder / "proportions.csv")
    stored = tree["proportions/tiny"]["proportion"].to_series().rename("stored").reset_index()
    keys = ["fit", "setting", "protein", "localization"]
    both = found.merge(stored, on=keys, validate="one_to_one")
    assert len(both) == len(stored) == len(found)
    np.testing.assert_array_equal(both["proportion"], both["stored"])
    cells = tree["proportions/tiny"]["n_cells"].to_series()
    assert (found.groupby(keys[:3])["n_cells"].first() == cells.reindex_like(
        found.groupby(keys[:3])["n_cells"].first()
    )).all()  # fmt: skip
    kl = pd.read_csv(folder / "shifts.csv").set_index(keys[:3])["kl"]
    pd.testing.assert_series_equal(
        kl.sort_index(), tree["shifts/tiny"]["kl"].to_series().sort_index(), check_dtype=False
    )
    accuracy = pd.read_csv(folder / "accuracy.csv")
    dataset = tree["evaluation/tiny"].to_dataset()
    assert accuracy["accuracy"].notna().sum() == np.isfinite(dataset["accuracy"]).sum()
    assert set(accuracy.loc[accuracy["setting"] == "masked", "background"]) == {"own"}
    table = pd.read_csv(folder / "table.csv", index_col="setting")["mean"]
    means = accuracy.groupby("setting")["accuracy"].mean()
    assert table["masked"] == pytest.approx(means["masked"])
    assert set(pd.read_csv(folder / "table.csv")["aggregate"]) == {"symmetric"}
    assert {p.name for p in folder.iterdir()} >= {"contrasts.csv", "confusion.csv", "proteins.csv"}


def test_csv_holds_what_the_controls_say(finished: Path, folder: Path) -> None:
    found = findings(finished)["tiny"]
    harm = pd.read_csv(folder / "harm_by_setting_localization_background.csv")
    stored = found["harm"]["change"].to_series().rename("stored").reset_index()
    both = harm.merge(stored, on=["setting", "localization", "background"], validate="one_to_one")
    assert len(both) == len(stored) == len(harm)
    np.testing.assert_allclose(both["change"], both["stored"], rtol=1e-15)
    assert set(harm["change_reason"]) <= set(found["harm"]["change_reason"].attrs["names"].values())
    assert set(harm["model"]) == {"tiny"}
    names = {path.name for path in folder.glob("*_by_*.csv")}
    assert names >= {
        "neighbours_by_setting_neighbours.csv",
        "sensitivity_by_contrast_localization.csv",
    }


def test_csv_has_names_not_codes(finished: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(finished, tmp_path / "copy.zarr"))
    store, shape = Store(copy), Store(copy).array("shifts/tiny/kl").shape
    dims = dict(zip(("fit", "setting", "protein"), shape, strict=True))
    store.create_array("shifts/tiny/why", dims, "uint8", chunk={}, names=["tested", "no_cells"])
    codes = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape) % 2
    store.write("shifts/tiny/why", [(0, 2)], codes)
    to_csv(copy, tmp_path / "tables")
    names = pd.read_csv(tmp_path / "tables" / "shifts.csv")["why"].tolist()
    assert names == ["tested", "no_cells"] * (codes.size // 2)


def test_csv_says_what_it_leaves_out(finished: Path, folder: Path) -> None:
    about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
    assert "proportions/tiny/sums" in about["not_exported"]
    assert "proportions/tiny/proportion" not in about["not_exported"]
    every = {
        f"{node}/tiny/{name}"
        for node in ("evaluation", "proportions", "shifts")
        for name in open_results(finished)[f"{node}/tiny"].to_dataset().data_vars
    }
    columns = {
        column
        for path in folder.glob("*.csv")
        for column in pd.read_csv(path, nrows=0).columns
    }  # fmt: skip
    for name in every - set(about["not_exported"]):
        assert any(column.startswith(name.rpartition("/")[2]) for column in columns), name


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1"])
def test_a_text_is_no_formula(name: str) -> None:
    assert harmless(name) == "'" + name


def test_csv_survives_any_name(tmp_path: Path) -> None:
    names = ["=cmd|' /C calc'!A0", 'a"b,c', "<script>", "Ünïcode µ", "two\nlines", "NUP2"]
    frame = pd.DataFrame({"protein": names, "=kl": [-1.5, np.nan, 1e-300, 0.1, 1 / 3, 2.0]})
    write_csv(frame, tmp_path / "x.csv")
    with (tmp_path / "x.csv").open(encoding="utf-8", newline="") as handle:
        rows = list(csv.reader(handle))
    assert rows[0] == ["protein", "'=kl"]
    assert [row[0] for row in rows[1:]] == ["'" + names[0], *names[1:]]
    assert rows[1][1] == "-1.5"
    assert rows[2][1] == "NA"
    assert [float(row[1]) for row in rows[3:]] == [1e-300, 0.1, 1 / 3, 2.0]


@pytest.mark.parametrize(
    ("option", "value", "parts"),
    [
        ("--model", "tyni", ["no model 'tyni'", "did you mean 'tiny'?"]),
        ("--layer", "profil", ["no layer 'profil'", "did you mean 'profile'?"]),
        ("--settings", "original,maskd", ["no setting 'maskd'", "did you mean 'masked'?"]),
        ("--proteins", "SIM001,SIM0002", ["no protein 'SIM0002'", "did you mean 'SIM002'?"]),
        ("--plates", "cropz", ["no plate 'cropz'", "did you mean 'crops'?"]),
    ],
)
@pytest.mark.parametrize("kind", ["anndata", "parquet"])
def test_a_name_that_is_not_there(
    finished: Path, tmp_path: Path, kind: str, option: str, value: str, parts: list[str]
) -> None:
    assert_refused(call("export", kind, finished, tmp_path / "o.h5ad", option, value), *parts)
    assert not list(tmp_path.iterdir())


def test_csv_of_a_model_that_is_not_there(finished: Path, tmp_path: Path) -> None:
    result = call("export", "csv", finished, tmp_path / "o", "--model", "tyni")
    assert_refused(result, "did you mean 'tiny'?")


def test_what_is_there_is_kept(finished: Path, h5ad: Path, profiles: Path, tmp_path: Path) -> None:
    before = h5ad.read_bytes()
    assert_refused(call("export", "anndata", finished, h5ad), "is there", "--overwrite")
    assert h5ad.read_bytes() == before
    assert_refused(call("export", "parquet", finished, profiles), "is there", "--overwrite")
    assert call("export", "parquet", finished, profiles, "--overwrite").exit_code == 0
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("the only copy", encoding="utf-8")
    for kind in ("parquet", "csv"):
        result = call("export", kind, finished, mine, "--overwrite")
        assert_refused(result, "no export has made")
    assert (mine / "thesis.txt").is_file()


def test_an_export_that_fails_leaves_nothing_half(finished: Path, tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        if done > total // 2:
            raise KeyboardInterrupt

    selection, out = choose(finished), tmp_path / "cells.h5ad"
    out.write_text("as it was", encoding="utf-8")
    with pytest.raises(KeyboardInterrupt):
        to_anndata(selection, out, overwrite=True, progress=stop)
    with pytest.raises(KeyboardInterrupt):
        to_parquet(selection, tmp_path / "profiles", progress=stop)
    assert [p.name for p in tmp_path.iterdir()] == ["cells.h5ad"]
    assert out.read_text(encoding="utf-8") == "as it was"


@pytest.mark.parametrize(
    ("out", "part"),
    [
        ("cells.csv", ".h5ad or .zarr"),
        ("nowhere/cells.h5ad", "no folder"),
        ("s3://bucket/cells.h5ad", "s3://bucket/cells.h5ad: exports are written to a folder"),
    ],
)
def test_a_place_that_will_not_do(finished: Path, tmp_path: Path, out: str, part: str) -> None:
    place = out if "://" in out else tmp_path / out
    assert_refused(call("export", "anndata", finished, place), part)


def test_the_store_is_not_written_to(finished: Path) -> None:
    for out in (finished / "x.zarr", finished, finished.parent):
        result = call("export", "csv", finished, out, "--overwrite")
        assert_refused(result, "overlap")


def test_a_run_that_is_not_complete(finished: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(finished, tmp_path / "results.zarr"))
    choose(copy)  # without its progress folder a store is believed
    shutil.copytree(Ledger(str(finished)).folder, Ledger(str(copy)).folder)
    choose(copy)
    units = Ledger(str(copy)).folder / "units"
    for stage, kind, out in (
        ("shifts/tiny", "csv", "tables"),
        ("embed/tiny/crops", "anndata", "cells.h5ad"),
        ("embed/tiny/crops", "parquet", "profiles"),
    ):
        for record in sorted((units / stage).glob("*.json"))[:1]:
            record.unlink()
        result = call("export", kind, copy, tmp_path / out)
        assert_refused(result, "not complete", f"{stage} (", "`bgscale run`")
        assert not (tmp_path / out).exists()


def test_no_store(tmp_path: Path) -> None:
    for kind in ("anndata", "parquet", "csv", "omezarr"):
        out = tmp_path / "o.h5ad"
        assert_refused(call("export", kind, tmp_path / "no.zarr", out), "not a run store")


@pytest.mark.parametrize(("kind", "package"), [("anndata", "h5py"), ("parquet", "pyarrow")])
def test_a_package_that_is_not_there(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    result = call("export", kind, finished, tmp_path / "o.h5ad")
    assert_refused(result, f"needs {package}", "pip install 'bgscale[export]'")
    assert not list(tmp_path.iterdir())


def test_crops_have_no_fields(finished: Path, tmp_path: Path) -> None:
    result = call("export", "omezarr", finished, tmp_path / "o")
    assert_refused(result, "a screen of crops has no fields")


def test_all_in_python(finished: Path, tmp_path: Path) -> None:
    cells = bg.export.choose(finished, settings=["original", "masked"], proteins=["SIM002"])
    bg.export.to_anndata(cells, tmp_path / "one.h5ad")
    assert set(read(tmp_path / "one.h5ad").obs["protein"]) == {"SIM002"}
    with pytest.raises(InputError, match="did you mean 'masked'"):
        choose(finished, settings=["maskd"])
    rows = to_csv(finished, tmp_path / "tables")
    for name, count in rows.items():
        assert len(pd.read_csv(tmp_path / "tables" / name)) == count > 0


@pytest.mark.parametrize("kind", ["anndata", "csv", "omezarr", "parquet"])
def test_every_option_has_help(kind: str) -> None:
    result = call("export", kind, "--help")
    assert result.exit_code == 0
    command = main.commands["export"].commands[kind]  # type: ignore[attr-defined]
    options = [p for p in command.params if isinstance(p, click.Option)]
    assert options
    assert all(option.help for option in options)
