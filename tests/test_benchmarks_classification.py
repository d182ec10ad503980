"""The benchmark of the solvers compares what it says."""

from pathlib import Path

import numpy as np
import pytest

from bgscale.evaluate import svm_accuracy

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(autouse=True)
def _benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_both_sets_are_measured_in_every_band_they_have() -> None:
    from classification import SOLVERS, bands, simulate

    features = simulate("typical", classes=4, crops=40)
    assert features.shape == (4, 40, 256)
    found = bands(features, a_band=1)
    assert sum(row["pairs"] for row in found["bands"].values()) == found["pairs"] == 6
    assert found["exact, share converged"] == 1.0
    for row in found["bands"].values():
        assert row["libsvm identical"]
        assert all(row["times published"][solver] > 0 for solver in SOLVERS)
        for run_on in row["agreement"].values():
            assert run_on["folds in which libsvm converged"] == 5
            assert abs(run_on["difference"]) <= 0.002


def test_the_published_loop_is_what_libsvm_repeats() -> None:
    from classification import published, simulate

    a, b = simulate("hard", classes=2, crops=50)
    expected = svm_accuracy(a, b, solver="libsvm").accuracy
    np.testing.assert_array_equal(published(a, b), expected)
