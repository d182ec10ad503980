"""Plates out again: the pixels the run saw, its labels, and tables that ngio opens."""

import shutil
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
from screens import plates_config, write_plate_screen

from bgscale.errors import InputError
from bgscale.export import choose, to_anndata, to_omezarr
from bgscale.export.target import ABOUT
from bgscale.ngff import open_plate
from bgscale.results import Store, open_results
from bgscale.run import Run
from bgscale.schema import Reason

FIELDS = ["0", "1"]


@pytest.fixture(scope="module")
def screen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    few = {"mixed_proteins": 0, "plates": 1, "cells_per_field": 12}
    return write_plate_screen(tmp_path_factory.mktemp("plates") / "screen", **few)


@pytest.fixture(scope="module")
def store(screen: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = plates_config(
        screen,
        tmp_path_factory.mktemp("run"),
        settings=["original", "masked"],
        donors={"per_class": 8, "windows_per_class": 8, "min_pool": 2},
        classification={"crops_per_class": 8, "folds": 2},
        proportions={"folds": 2, "replicates": 2},
    )
    Run.from_config(config).execute()
    return Path(config.store)


@pytest.fixture(scope="module")
def copied(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("exports") / "plates"
    made = to_omezarr(store, out)
    assert made.fields == len(Store(store).attrs("plates/P1/fields")["coords"]["field"])
    assert made.cells == Store(store).array("plates/P1/cells/id").shape[0]
    assert made.left_out == {}
    return out


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_pixels_and_labels_are_those_of_the_run(screen: Path, store: Path, copied: Path) -> None:
    before, after = open_plate(screen / "plates" / "P1.zarr"), open_plate(copied / "P1.zarr")
    names = Store(store).attrs("plates/P1/fields")["coords"]["field"]
    assert [str(ref) for ref in after.fields] == names
    channels: list[str | int] = ["gfp", "rfp", "nuc"]
    for i, (one, other) in enumerate(zip(before.fields, after.fields, strict=True)):
        image = before.read(one, channels=channels, time=0, z="max")
        np.testing.assert_array_equal(after.read(other, channels=channels, time=0, z="max"), image)
        labels = after.read_labels(other, "cells", shape=image.shape[1:], time=0, z="max")
        np.testing.assert_array_equal(labels, Store(store).read("plates/P1/labels/label", i))
        assert after.image(other).pixel_size_um == before.image(one).pixel_size_um


def test_ngio_opens_the_tables(store: Path, copied: Path) -> None:
    ngio = pytest.importorskip("ngio", reason="ngio is not installed")
    plate = ngio.open_ome_zarr_plate(str(copied / "P1.zarr"))
    cells = open_results(store)["plates/P1/cells"].to_dataset().load()
    names = np.array(cells["field"].attrs["names"])[cells["field"]]
    seen = 0
    for ref in open_plate(copied / "P1.zarr").fields:
        image = plate.get_image(*ref.path.split("/"))
        own = cells.isel(cell=names == str(ref))
        assert image.list_tables() == ["cells", "proportions"]
        assert image.list_labels() == ["cells"]
        table = image.get_table("cells")
        assert table.reference_label == "cells"
        frame = table.dataframe
        assert frame.index.name == "label"
        assert frame.index.tolist() == own["number"].to_numpy().tolist()
        labels = np.unique(image.get_label("cells").get_as_numpy())
        assert set(labels) - {0} == set(frame.index)
        for name in ("area", "y", "x", "neighbours"):
            np.testing.assert_array_equal(frame[name], own[name])
        texts = [Reason(int(code)).text for code in own["reason"]]
        assert frame["reason"].tolist() == texts
        seen += len(frame)
    assert seen == cells.sizes["cell"] > 50


def test_proportions_of_fields_add_up_to_those_of_proteins(store: Path, copied: Path) -> None:
    frames = [pd.read_parquet(path) for path in copied.rglob("tables/proportions/table.parquet")]
    table = pd.concat(frames)
    table["sum"] = table["proportion"] * table["cells"]
    keys = ["fit", "setting", "protein", "localization"]
    sums = table.groupby(keys)[["sum", "cells"]].sum()
    stored = open_results(store)["proportions/tiny"]["proportion"].to_series()
    mean = (sums["sum"] / sums["cells"]).reindex(stored.index)
    assert np.isfinite(stored).all()
    np.testing.assert_allclose(mean, stored, rtol=1e-9)


def test_the_input_is_only_read(screen: Path, store: Path, tmp_path: Path) -> None:
    before = files(screen)
    to_omezarr(store, tmp_path / "plates")
    assert files(screen) == before
    for out in (screen / "plates" / "new", screen / "plates", store / "new"):
        with pytest.raises(InputError, match="overlap"):
            to_omezarr(store, out, overwrite=True)
    assert files(screen) == before
    assert (tmp_path / "plates" / ABOUT).is_file()


def test_plates_that_have_moved(screen: Path, store: Path, tmp_path: Path) -> None:
    moved = Path(shutil.copytree(screen / "plates", tmp_path / "moved"))
    one = to_omezarr(store, tmp_path / "a", screen=str(moved))
    assert one.fields > 4
    with pytest.raises(InputError, match=r"no such|nothing|not|found"):
        to_omezarr(store, tmp_path / "b", screen=str(tmp_path / "nowhere"))
    assert not (tmp_path / "b").exists()


def test_other_plates_of_that_name_are_refused(screen: Path, store: Path, tmp_path: Path) -> None:
    other = {"mixed_proteins": 0, "plates": 1, "cells_per_field": 12, "seed": 5}
    write_plate_screen(tmp_path / "other", **other)
    with pytest.raises(InputError, match="other pixels than the run saw"):
        to_omezarr(store, tmp_path / "o", screen=str(tmp_path / "other" / "plates"))
    assert not (tmp_path / "o").exists()


def test_cells_that_cannot_be_used_are_exported_on_demand(store: Path, tmp_path: Path) -> None:
    usable, every = choose(store), choose(store, everything=True)
    assert sum(usable.left_out.values()) == every.n_cells - usable.n_cells > 0
    assert usable.left_out == {Reason.CUT_BY_BORDER.text: every.n_cells - usable.n_cells}
    to_anndata(every, tmp_path / "cells.h5ad")
    data: Any = anndata.read_h5ad(tmp_path / "cells.h5ad")
    cut = (data.obs["reason"] == Reason.CUT_BY_BORDER.text).to_numpy()
    assert cut.sum() == every.n_cells - usable.n_cells
    assert np.isnan(data.obsm["masked"][cut]).all()
    assert np.isfinite(data.obsm["masked"][~cut]).all()
    assert (data.obs["well"].cat.categories == sorted(set(data.obs["well"]))).all()
    cells = open_results(store)["plates/P1/cells"].to_dataset()
    np.testing.assert_array_equal(data.obs["x"], cells["x"])
    assert set(data.obs["field"]) == set(FIELDS)
