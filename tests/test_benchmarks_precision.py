"""The benchmark of precision counts what it says."""

from pathlib import Path

import numpy as np
import pytest

from bgscale.config import ClassificationSection
from bgscale.evaluate import svm_accuracy

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(autouse=True)
def _benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)


def test_decisions_are_those_behind_the_accuracies() -> None:
    from precision import told_right

    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(30, 8)), rng.normal(0.5, 1, size=(25, 8))
    right = told_right(a, b, ClassificationSection(), foldings=2)
    sizes = [len(fold) for fold in np.array_split(np.arange(55), 5)]
    assert 0.5 < right[0].mean() < 1
    assert right[0].mean() == pytest.approx(np.average(svm_accuracy(a, b).accuracy, weights=sizes))


def test_errors_are_the_largest_of_all_cells() -> None:
    from precision import errors

    exact = np.array([[3.0, 4.0], [0.0, 0.0], [8.0, 0.0]])
    found = errors(exact, np.array([[4.0, 3.0], [0.0, 0.0], [8.0, 0.0]]))
    assert found["largest error"] == 1.0
    assert found["of the largest feature"] == 1 / 8
    assert found["smallest cosine"] == pytest.approx(24 / 25)
    assert errors(exact, exact)["smallest cosine"] == 1.0


def test_a_feature_that_vanishes_has_no_cosine_left() -> None:
    from precision import errors

    found = errors(np.array([[1.0, 0.0], [1.0, 1.0]]), np.array([[0.0, 0.0], [1.0, 1.0]]))
    assert found["smallest cosine"] == 0.0


def test_changes_in_both_directions_are_counted() -> None:
    from precision import changes

    first = np.array([True, True, False, False, True])
    other = np.array([True, False, True, True, True])
    found = changes(np.stack([first] * 3), np.stack([other, first, other]))
    assert (found["now wrong"], found["now right"], found["of"]) == (1, 2, 5)
    assert found["moves"] == pytest.approx(1 / 5)
    assert found["standard error"] == pytest.approx(3**0.5 / 5, abs=1e-5)
    # the foldings after the first: three crops changed in one of two
    assert found["foldings move"] == pytest.approx(0.5 / 5)
    assert found["foldings standard error"] == pytest.approx((3 / 4) ** 0.5 / 5, abs=1e-5)
