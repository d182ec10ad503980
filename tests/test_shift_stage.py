"""Shifts of a finished run: every protein has a test or a reason, however it was divided."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from click.testing import CliRunner
from screens import config_of, write_screen

from bgscale import open_results
from bgscale.cli import main
from bgscale.distribute.listener import Silent
from bgscale.distribute.units import Unit
from bgscale.errors import InputError
from bgscale.proportions import (
    ShiftReason,
    confusion_by_background,
    correct_among_own,
    false_discovery,
    sum_by_background,
)
from bgscale.run import Run
from bgscale.shifted import shift_shares, shifted
from bgscale.stages import pooling, proportions, shifts

SIZES: dict[str, Any] = {
    "settings": ["original", "same", "different", "masked"],
    "proportions": {"folds": 3, "replicates": 3},
    "classification": {"crops_per_class": 5},
}


class Counter(Silent):
    """Counts the units that were done, by kind of stage."""

    def __init__(self) -> None:
        self.done: dict[str, int] = {}

    def unit_done(self, unit: Unit, summary: dict[str, Any]) -> None:
        kind = unit.stage.partition("/")[0]
        self.done[kind] = self.done.get(kind, 0) + 1


@pytest.fixture(scope="module")
def screen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Crops of twice as many cells: enough for tests."""
    folder = tmp_path_factory.mktemp("shifts")
    return write_screen(
        folder, proteins_per_localization=3, cells_per_field=24, fields_per_protein=2
    )


@pytest.fixture(scope="module")
def store(screen: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = config_of(screen, tmp_path_factory.mktemp("store"), **SIZES)
    Run.from_config(config).execute()
    return Path(config.store)


def dataset(store: Path) -> xr.Dataset:
    return open_results(store)["shifts/tiny"].to_dataset(inherit=False).load()


def test_every_shift_is_tested_or_has_a_reason(store: Path) -> None:
    ds = dataset(store)
    tested = np.isin(ds["reason"], [ShiftReason.TESTED, ShiftReason.ONE_FIELD])
    assert tested[:, 1:].sum() >= 10
    for name in ("p", "p_substantial", "q", "q_substantial", "kl_low", "kl_high", "kl_corrected"):
        np.testing.assert_array_equal(np.isfinite(ds[name]), tested, err_msg=name)
    assert (ds["reason"].isel(setting=0) == ShiftReason.REFERENCE).any()
    few = ds["reason"] == ShiftReason.FEW_CELLS
    assert (ds["n_cells"].where(few) < 20).sum() == few.sum()
    assert ((ds["p"] > 0) & (ds["p"] <= 1)).to_numpy()[tested].all()
    assert (ds["draws"].to_numpy()[tested] >= 10_000).all()


def test_rates_are_over_the_proteins_of_one_fit_and_setting(store: Path) -> None:
    ds = dataset(store)
    np.testing.assert_array_equal(ds["q"], false_discovery(ds["p"]))
    np.testing.assert_array_equal(ds["q_substantial"], false_discovery(ds["p_substantial"]))
    np.testing.assert_array_equal(ds["significant"], (ds["q"] <= 0.05).astype(np.uint8))
    assert (ds["p_substantial"] >= ds["p"] - 0.02).where(ds["p"].notnull(), True).all()


def test_bounds_stand_beside_their_estimates(store: Path) -> None:
    ds = dataset(store)
    enough = (ds["n_cells"] >= 20).broadcast_like(ds["proportion"])
    for name in ("proportion", "corrected"):
        low, high = ds[f"{name}_low"], ds[f"{name}_high"]
        assert (np.isfinite(low) == enough).all()
        assert ((low <= ds[name] + 1e-12) & (ds[name] <= high + 1e-12)).where(enough, True).all()
        assert 0.01 < float((high - low).mean()) < 0.9
    for variable in ds.data_vars.values():
        assert variable.attrs["long_name"]
        assert "units" in variable.attrs
    assert ds.attrs["method"]["tau"] == 0.1


def test_confusions_by_background_are_those_of_single_class_cells_under_different(
    store: Path,
) -> None:
    tree = open_results(store)
    labels = tree["proteins"]["label"].to_numpy()
    single = np.where(labels.sum(1) == 1, labels.argmax(1), -1)
    counts, sums = 0, np.zeros(())
    for plate in tree["plates"].children:
        p = tree[f"plates/{plate}/predictions/tiny/probability"].sel(
            fit="fixed", setting="different"
        )
        donor = tree[f"plates/{plate}/embeddings/tiny/donor_class"].sel(setting="different")
        own = single[tree[f"plates/{plate}/cells/protein"].to_numpy()]
        n, found = sum_by_background(p.to_numpy(), own, donor.to_numpy())
        counts, sums = counts + n, sums + found
    pooled = tree["pooled/tiny"].to_dataset(inherit=False).load()
    own = pooled["confusion"].sel(fit="fixed", setting="original").to_numpy()
    expected = confusion_by_background(np.asarray(counts), sums, own)
    assert np.diag(counts).sum() == 0 < np.asarray(counts).sum()
    np.testing.assert_allclose(pooled["background_confusion"], expected, atol=1e-6)
    ds = dataset(store)
    mean, corrected = (ds[v].sel(fit="fixed") for v in ("proportion", "corrected"))
    for i in np.flatnonzero(ds["n_cells"][0, 0] >= 20):
        best, _ = correct_among_own(mean.sel(setting="original")[i], expected)
        np.testing.assert_allclose(corrected.sel(setting="original")[i], best, atol=1e-3)


def test_units_and_shards_of_proteins_change_nothing(
    screen: Path, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proportions, "PROTEINS_A_CHUNK", 3)
    for module in (pooling, shifts):
        monkeypatch.setattr(module, "PROTEINS_A_UNIT", 3)
    config = config_of(screen, tmp_path, **SIZES)
    Run.from_config(config).execute()
    for node in ("shifts/tiny", "pooled/tiny"):
        a, b = (
            open_results(path)[node].to_dataset(inherit=False).load()
            for path in (store, config.store)
        )
        for name in a.data_vars:
            np.testing.assert_array_equal(a[name], b[name], err_msg=str(name))


def test_the_options_of_shifts_change_them_and_redo_nothing_before(
    screen: Path, store: Path, tmp_path: Path
) -> None:
    before = dataset(store)
    shutil.copytree(store, tmp_path / "results.zarr")
    shutil.copytree(f"{store}.progress", tmp_path / "results.zarr.progress")
    cells = before["n_cells"].where(before["p"].notnull())
    options = {
        "tau": 0.01,
        "min_cells": int(cells.median()) + 1,
        "false_discovery_rate": 0.6,
        "draws": 20_000,
        "corrected_draws": 60,
    }
    config = config_of(screen, tmp_path, **SIZES, shifts=options)
    counter = Counter()
    Run.from_config(config).execute(redo=True, listener=counter)
    assert set(counter.done) == {"pooled", "shifts", "discoveries"}
    after = dataset(Path(config.store))
    both = after["p"].notnull() & before["p"].notnull()
    assert 0 < int(both.sum()) < int(before["p"].notnull().sum())
    assert (after["p_substantial"] < before["p_substantial"]).where(both, False).any()
    assert (after["draws"].to_numpy()[both.to_numpy()] >= 20_000).all()
    assert (after["corrected_low"] != before["corrected_low"]).where(both, False).any()
    np.testing.assert_array_equal(after["significant"], (after["q"] <= 0.6).astype(np.uint8))


def test_shares_are_of_what_was_tested(store: Path) -> None:
    tree = open_results(store)
    frame = shifted(tree, "tiny", setting="masked")
    shares = shift_shares(tree, "tiny", setting="masked")
    tested = frame["p"].notna()
    assert shares["tested"] + sum(shares["untested"].values()) == shares["proteins"] == len(frame)
    assert shares["share_significant"] == pytest.approx(frame["significant"][tested].mean())
    assert shares["share_significant_and_substantial"] <= shares["share_significant"]
    assert frame["q_substantial"].dropna().is_monotonic_increasing
    with pytest.raises(InputError, match="did you mean 'masked'"):
        shifted(tree, "tiny", setting="maskd")


def test_the_command_prints_tests_and_shares(store: Path) -> None:
    told = CliRunner().invoke(main, ["shifts", str(store), "--setting", "masked", "--count", "3"])
    assert told.exit_code == 0, told.output
    for word in ("q_substantial", "proteins tested", "KL above 1.747 nat"):
        assert word in told.output
    as_json = CliRunner().invoke(main, ["shifts", str(store), "--json"])
    assert json.loads(as_json.stdout)["tiny"]["tested"] > 0
