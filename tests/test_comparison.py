"""Models side by side: paired on the same cells, and refused where they are not."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import zarr
from click.testing import CliRunner

from bgscale.cli import main
from bgscale.comparison import compare
from bgscale.errors import InputError


@pytest.fixture(scope="module")
def stores(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two runs of one screen; in the second, different does no harm and original costs 0.1."""
    folder = tmp_path_factory.mktemp("comparison")
    paths = folder / "plain.zarr", folder / "blind.zarr"
    for path in paths:
        shutil.copytree(finished, path)
        shutil.copytree(f"{finished}.progress", f"{path}.progress")
    node = zarr.open_group(paths[1], path="evaluation/tiny", mode="r+")
    names = json.loads((finished / "zarr.json").read_text())["attributes"]["config"]["settings"]
    original, same, different = (names.index(s) for s in ("original", "same", "different"))
    for variable in ("accuracy", "grouped_accuracy"):
        values = node[variable][:]
        values[different, :, :, 1:] = values[same, :, :, :1]
        values[original] -= 0.1
        node[variable][:] = values
    return paths


def test_differences_are_paired_and_their_intervals_those_of_differences(stores) -> None:
    found = compare(stores)
    assert found["model"].values.tolist() == ["plain:tiny", "blind:tiny"]
    plain, blind = (found.sel(model=name) for name in found["model"].values)
    for prefix in ("", "grouped_"):
        cost = blind[f"{prefix}accuracy_against"].sel(setting="original")
        assert float(cost) == pytest.approx(-0.1, abs=1e-6)
        gap = "same - different"
        assert float(blind[f"{prefix}difference"].sel(contrast=gap)) == pytest.approx(0, abs=1e-9)
        less = float(blind[f"{prefix}difference_against"].sel(contrast=gap))
        assert less == pytest.approx(-float(plain[f"{prefix}difference"].sel(contrast=gap)))
        low, high = (
            float(blind[f"{prefix}difference_against{end}"].sel(contrast=gap))
            for end in ("_low", "_high")
        )
        before = [
            float(plain[f"{prefix}difference{end}"].sel(contrast=gap)) for end in ("_low", "_high")
        ]
        # the second gap is 0 in all, so the interval is that of the first, turned round
        assert [low, high] == pytest.approx([-before[1], -before[0]])
    assert (plain["accuracy_against"] == 0).all()


def test_shares_cost_and_what_a_model_knows_are_said(stores) -> None:
    found = compare(stores)
    assert (found["seconds_per_cell"] > 0).all()
    assert (found["tested"].sel(setting="original").isnull()).all()
    assert (found["tested"].sel(setting="masked") > 0).all()
    assert found["random_weights"].all()
    assert (found["known_proteins"] == 0).all()


def test_the_command_prints_a_column_a_model_and_json(stores) -> None:
    paths = [str(path) for path in stores]
    shown = CliRunner().invoke(main, ["compare", *paths])
    assert shown.exit_code == 0, shown.output
    assert "plain:tiny" in shown.stdout
    against = [line for line in shown.stdout.splitlines() if "against plain:tiny" in line]
    assert any("-0.100" in line for line in against)
    assert "random weights" in shown.stdout
    alone = CliRunner().invoke(main, ["compare", paths[0], "--json"])
    figures = json.loads(alone.stdout)["models"]["tiny"]
    assert 0 < figures["accuracy"]["original"] <= 1
    assert figures["shifted_substantial"]["fixed, original"] is None


def test_models_of_other_cells_classes_or_names_are_refused(stores, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no model 'tini' to compare; there are plain:tiny"):
        compare(stores, models=["tini"])
    other = Path(shutil.copytree(stores[0], tmp_path / "other.zarr"))
    ids = zarr.open_group(other, path="centres", mode="r+")["id"]
    ids[:] = ids[:] + np.uint64(1)
    with pytest.raises(InputError, match="classify different cells") as caught:
        compare([stores[0], other])
    assert "same seed" in str(caught.value)
    with pytest.raises(InputError, match="two stores are called plain"):
        compare([stores[0], stores[0]])
    failed = CliRunner().invoke(main, ["compare", str(stores[0]), str(other)])
    assert failed.exit_code == 2
    assert "Traceback" not in failed.output
