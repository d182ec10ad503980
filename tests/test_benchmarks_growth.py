"""The fit of how stages grow finds what was put in: a fixed part, an exponent of the rest."""

from pathlib import Path

import numpy as np
import pytest

CELLS = np.array([1e4, 3e4, 1e5, 3e5, 1e6])


@pytest.fixture(autouse=True)
def _path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "benchmarks")


@pytest.mark.parametrize("exponent", [1.0, 1.3])
@pytest.mark.parametrize("fixed", [0.0, 20.0])
def test_exponent_and_fixed_part_are_found(exponent: float, fixed: float) -> None:
    from growth import fitted

    noise = 1 + 0.01 * np.array([1, -1, 0.5, -1, 1])
    found = fitted(CELLS, (fixed + 10 * (CELLS / CELLS[0]) ** exponent) * noise)
    assert found is not None
    assert found["low"] <= exponent <= found["high"]
    assert found["exponent"] == pytest.approx(exponent, abs=0.02)
    assert found["fixed_s"] == pytest.approx(fixed, abs=1.5)


def test_what_does_not_grow_is_not_fitted() -> None:
    from growth import constant, fits_of

    runs = [
        {
            "cells": n,
            "stages": {"embed": {"cpu_s": 1e-3 * n}, "evaluate": {"cpu_s": 60 + 5 * (i % 2)}},
        }
        for i, n in enumerate(CELLS)
    ]
    fits = fits_of(runs)
    assert fits["evaluate"] == {"constant_s": 60}
    assert fits["embed"]["exponent"] == pytest.approx(1)
    assert fits["all that grow"] == pytest.approx(fits["embed"])
    assert not constant(CELLS, 1e-3 * CELLS)


def test_too_few_screens_have_no_exponent() -> None:
    from growth import fitted

    assert fitted(CELLS[:3], CELLS[:3]) is None
