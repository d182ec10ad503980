"""What the project is for, on cells: the effect is there, its control is null, truth is found."""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from screens import config_of, screen_section, write_screen

from bgscale import open_results
from bgscale.config import RunConfig
from bgscale.run import Run, train_model
from bgscale.shifted import shift_shares
from bgscale.summary import tables

LOCALIZATIONS = (
    "cell periphery", "cytoplasm", "mitochondrion", "nucleus", "vacuolar membrane", "vacuole",
)  # fmt: skip
SCREEN = {
    "localizations": LOCALIZATIONS,
    "proteins_per_localization": 3,
    "mixed_proteins": 8,
    "fields_per_protein": 3,
    "cells_per_field": 40,
    "field_size_px": 400,
    "diffuse": 0.2,
}


def trained(folder: Path, scaling: str, **changes: object) -> tuple[RunConfig, Path]:
    """Simulate, train and run; return the config and the screen's folder."""
    screen = write_screen(folder / "screen", **{**SCREEN, **changes})
    config = config_of(
        screen,
        folder,
        screen={**screen_section(screen), "intensity_scaling": scaling},
        models={"tiny": {"weights": str(folder / "tiny.safetensors")}},
        donors={"windows_per_class": 120},
        classification={"crops_per_class": 100},
        proportions={"replicates": 20},
        training={"epochs": 20, "threads": 2},
        shard_cells=0,
    )
    train_model(config)
    Run.from_config(config).execute()
    return config, screen


@pytest.fixture(scope="module")
def real_wells(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunConfig, Path]:
    return trained(tmp_path_factory.mktemp("real"), "plate")


@pytest.mark.slow
def test_in_real_wells_the_background_helps_and_harms(real_wells: tuple[RunConfig, Path]) -> None:
    table = tables(real_wells[0].store)["tiny"]
    assert float(table["mean"].sel(setting="original")) > 0.9
    gap = table.sel(contrast="same - different")
    assert float(gap["difference"]) > 0.05
    assert float(gap["difference_low"]) > 0
    shares = shift_shares(open_results(real_wells[0].store), "tiny", setting="different")
    assert shares["share_significant_and_substantial"] > 0.25


@pytest.mark.slow
def test_in_a_mixed_culture_the_background_tells_nothing(tmp_path: Path) -> None:
    config, _ = trained(tmp_path, "none", neighbours="independent", mixed_proteins=0)
    table = tables(config.store)["tiny"]
    assert float(table["mean"].sel(setting="original")) > 0.85
    gap = table.sel(contrast="same - different")
    for folds in ("", "grouped_"):
        assert float(gap[f"{folds}difference_low"]) <= 0 <= float(gap[f"{folds}difference_high"])
    for setting in ("same", "different"):
        shares = shift_shares(open_results(config.store), "tiny", setting=setting)
        assert shares["tested"] == shares["proteins"]
        # a seam is there whatever the background, and may be significant
        assert shares["share_significant_and_substantial"] < 0.1


@pytest.mark.slow
def test_planted_proportions_are_found_again(real_wells: tuple[RunConfig, Path]) -> None:
    config, screen = real_wells
    made = open_results(config.store)["proportions/tiny"].sel(fit="matched", setting="masked")
    truth = pd.read_csv(screen / "truth" / "proportions.csv").pivot(
        index="protein", columns="localization", values="proportion"
    )
    truth = truth.reindex(columns=list(LOCALIZATIONS)).fillna(0.0)
    two = truth.index[(truth > 0).sum(axis=1) == 2]
    assert len(two) >= 3
    distances = []
    for protein in two:
        share = truth.loc[protein].to_numpy()
        mixture = made["mixture"].sel(protein=protein).to_numpy()
        one_hot = np.eye(len(share))[mixture.argmax()]
        prior = np.full(len(share), 1 / len(share))
        distances.append([np.abs(g - share).sum() / 2 for g in (mixture, one_hot, prior)])
    found, one_hot, prior = np.mean(distances, axis=0)
    assert found <= 0.15
    assert found < one_hot
    assert found < prior


@pytest.mark.slow
def test_the_papers_effect_on_real_cells(shared_data: Path, tmp_path: Path) -> None:
    sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
    from yeast_crops import evaluate

    crops = shared_data / "yeast_crops" / "crops.zip"
    # the benchmark takes three seeds
    found = evaluate(crops, tmp_path, seed=0, controls=False)
    assert found["original"] >= 0.95
    assert found["same"] >= 0.95
    assert found["same - different"] >= 0.05
