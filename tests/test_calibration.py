"""The tests of shifts hold their level on simulated screens, and find what is there."""

from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(autouse=True)
def _benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)


def test_null_proteins_are_rarely_rejected_and_not_because_nothing_ever_is() -> None:
    import calibration

    world = calibration.World(replicates=6)
    p, _, substantial = calibration.null(world, 5, fields=4, cells=60, proteins=80)
    # 11 or more of 80 at a level of .07 would be a chance of 2%
    assert (np.array(p) < 0.05).sum() <= 10
    assert (np.array(p) < 0.5).mean() > 0.25
    assert (np.array(substantial) < 0.05).sum() == 0
    shifted, *_ = calibration.power(world, 5, fields=4, cells=60, proteins=12, effect=0.8)
    assert (np.array(shifted) < 0.05).mean() > 0.8


def test_fresh_fields_lie_in_their_interval() -> None:
    import calibration

    world = calibration.World(replicates=0)
    held, width = calibration.coverage(world, 6, fields=4, cells=60, proteins=40)
    assert 0.88 <= np.mean(held) <= 0.99
    assert 0 < np.mean(width) < 0.2


def test_planted_proportions_come_back_without_the_bias_toward_the_middle() -> None:
    import calibration

    world = calibration.World(background=0.0, replicates=6)
    rows = calibration.planted(world, 7, fields=4, cells=60, proteins=40)
    figures = calibration.summarise(
        [("planted", world, 7, {"fields": 4, "cells": 60, "proteins": 40})], [rows]
    )["planted"][0]
    assert figures["mean_total_variation"] <= 0.1
    assert figures["mean_total_variation"] < figures["mean_total_variation_mean_softmax"]
    assert 0.9 <= figures["slope"] <= 1.1 > 1.1 * figures["slope_mean_softmax"]
    assert figures["coverage"] >= 0.88


def test_a_plan_names_every_part_and_its_quick_form_too() -> None:
    import calibration

    for quick in (True, False):
        assert {item[0] for item in calibration.plan(quick=quick)} == set(calibration.PARTS)
