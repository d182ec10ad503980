"""The demo's parts that a newcomer reads and looks at, on a small finished run."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bgscale import open_results, plot
from bgscale.config import RunConfig
from bgscale.demo import demo_config, demo_screen, planted_distances, simulate
from bgscale.errors import InputError
from bgscale.progress import Narrator
from bgscale.simulate import ScreenSpec
from bgscale.summary import most_shifted, pairs_that_differ, shift_summary, tables


def test_the_demo_is_what_it_says() -> None:
    spec = demo_screen(0, "same_strain")
    assert len(spec.localizations) == 15
    config = demo_config(spec)
    assert config.classification.crops_per_class == 100
    assert config.settings == RunConfig().settings


def test_a_demo_of_another_kind_is_refused_and_a_half_written_one_made_anew(
    tmp_path: Path,
) -> None:
    half = tmp_path / "screen.partial"
    half.mkdir()
    (half / "crops.zip").write_bytes(b"half")
    spec = ScreenSpec(localizations=("nucleus",), proteins_per_localization=1, mixed_proteins=0,
                      fields_per_protein=1, cells_per_field=5, field_size_px=200)  # fmt: skip
    narrator = Narrator(tmp_path)
    simulate(spec, tmp_path / "screen", narrator)
    assert sorted(p.name for p in tmp_path.glob("screen*")) == ["screen"]
    simulate(spec, tmp_path / "screen", narrator)
    with pytest.raises(InputError, match="another --folder"):
        simulate(replace(spec, seed=1), tmp_path / "screen", narrator)


def test_the_montage_shows_every_class_under_every_setting(finished: Path, tmp_path: Path) -> None:
    axes = plot.settings(open_results(finished))
    assert axes.shape == (4, 5)
    path = plot.save(axes, tmp_path / "settings.png")
    assert path.stat().st_size > 20_000


def test_the_accuracy_plot_has_a_point_a_class_and_setting(finished: Path) -> None:
    axis = plot.accuracy(open_results(finished), model="tiny")
    points = [np.asarray(c.get_offsets()) for c in axis.collections]
    assert [len(p) for p in points] == [4] * 4
    with pytest.raises(InputError, match="did you mean 'tiny'"):
        plot.accuracy(open_results(finished), model="tinny")


def test_the_most_shifted_proteins_come_first(finished: Path) -> None:
    tree = open_results(finished)
    shifted = most_shifted(tree, "tiny", setting="different", count=5)
    assert shifted["kl"].is_monotonic_decreasing
    assert len(shifted) == 5
    summary = shift_summary(tree, "tiny", setting="different", fit="fixed")
    assert summary["max"] == pytest.approx(shifted["kl"].iloc[0])


def test_planted_distances_know_one_hot_and_prior(small_screen: Path, finished: Path) -> None:
    truth = pd.read_csv(small_screen / "truth" / "proportions.csv")
    distances = planted_distances(open_results(finished), truth, "masked")
    assert ((distances >= 0) & (distances <= 1)).all(axis=None)
    np.testing.assert_allclose(distances["class prior"], 0.5)


def test_pairs_may_be_restricted_to_those_that_differ_in_a_column(finished: Path) -> None:
    tree = open_results(finished)
    differ = pairs_that_differ(tree, "localization")
    assert (differ == ~np.eye(4, dtype=bool)).all()
    assert not pairs_that_differ(tree, "plate").any()
    assert "only pairs" in tables(finished, differ_in="localization")["tiny"].attrs["note"]
