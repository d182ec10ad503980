"""The exact solver finds the optimum whatever the features, and is the same everywhere."""

import warnings

import numpy as np
import pytest
from sklearn.svm import SVC

from bgscale.evaluate import interior, published_folds, solvers, svm_accuracy
from bgscale.evaluate.interior import best_intercepts, factor, hyperplanes

SEPARATIONS = [0.0, 0.1, 0.3, 0.6, 3.0]


def problem(separation, *, cells=(60, 60), width=24, scale=1.0, seed=1):
    """Two classes of skewed non-negative features, as those of a network after its ReLU."""
    rng = np.random.Generator(np.random.Philox(key=[seed, int(100 * separation)]))
    a, b = (rng.gamma(1.0, 1.0, (n, width)) for n in cells)
    return scale * a, scale * (b + separation * rng.normal(size=width))


def of_pair(a, b):
    """Features, class and training sets of five folds."""
    held_out = published_folds(len(a), len(b), 5)
    train = held_out != np.arange(5)[:, None]
    return np.concatenate([a, b]), np.arange(len(held_out)) >= len(a), train


def objective(features, in_b, train, coef, intercept):
    value = features[train] @ coef + intercept
    loss = np.maximum(0.0, 1.0 - np.where(in_b[train], value, -value))
    return 0.5 * coef @ coef + loss.sum()


@pytest.mark.parametrize("separation", SEPARATIONS)
@pytest.mark.parametrize(
    ("cells", "width"), [((60, 60), 24), ((33, 71), 24), ((7, 300), 10), ((40, 40), 200)]
)
def test_hyperplanes_are_those_of_libsvm_run_to_a_small_tolerance(separation, cells, width):
    features, in_b, train = of_pair(*problem(separation, cells=cells, width=width, scale=0.3))
    found = hyperplanes(features, in_b, train, penalty=1.0)
    assert found.converged.all()
    for fold in range(5):
        svc = SVC(kernel="linear", tol=1e-6, max_iter=1_000_000).fit(
            features[train[fold]], in_b[train[fold]]
        )
        value = features @ found.coef[fold] + found.intercept[fold]
        np.testing.assert_allclose(value, svc.decision_function(features), atol=2e-3)
        told = value[~train[fold]] > 0
        np.testing.assert_array_equal(told, svc.predict(features[~train[fold]]))


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3, 1e6])
def test_no_other_hyperplane_is_better(scale):
    features, in_b, train = of_pair(*problem(0.2, scale=scale))
    found = hyperplanes(features, in_b, train, penalty=1.0)
    assert found.converged.all()
    rng = np.random.Generator(np.random.Philox(key=3))
    for fold in range(5):
        best = objective(features, in_b, train[fold], found.coef[fold], found.intercept[fold])
        for size in (1e-3, 1e-2, 0.1):
            coef = found.coef[fold] * (1.0 + size * rng.normal(size=24))
            intercept = best_intercepts(
                (features @ coef)[None], np.where(in_b, 1.0, -1.0), train[[fold]]
            )
            assert objective(features, in_b, train[fold], coef, intercept[0]) > best * (1 - 1e-7)


def test_scale_of_features_and_penalty_are_one():
    features, in_b, train = of_pair(*problem(0.3))
    plain = hyperplanes(features, in_b, train, penalty=1.0)
    scaled = hyperplanes(1e6 * features, in_b, train, penalty=1e-12)
    np.testing.assert_allclose(1e6 * scaled.coef, plain.coef, rtol=1e-3, atol=1e-5)
    other = hyperplanes(features, in_b, train, penalty=1e-3)
    assert np.abs(other.coef - plain.coef).max() > 0.1


def test_moving_all_cells_moves_no_decision():
    features, in_b, train = of_pair(*problem(0.3))
    values = []
    for moved in (features, features + 1e4):
        found = hyperplanes(moved, in_b, train, penalty=1.0)
        values.append(found.coef @ moved.T + found.intercept[:, None])
    np.testing.assert_allclose(*values, atol=1e-4)


def test_torch_gives_the_same_hyperplanes_as_numpy():
    features, in_b, train = of_pair(*problem(0.2))
    one = hyperplanes(features, in_b, train, penalty=1.0)
    other = hyperplanes(features, in_b, train, penalty=1.0, device="torch")
    assert other.converged.all()
    np.testing.assert_array_equal(one.steps, other.steps)
    np.testing.assert_allclose(one.coef, other.coef, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(one.intercept, other.intercept, rtol=1e-6, atol=1e-8)


def test_a_wider_gap_is_reached_earlier_and_no_steps_are_said():
    features, in_b, train = of_pair(*problem(0.2))
    near = hyperplanes(features, in_b, train, penalty=1.0)
    wide = hyperplanes(features, in_b, train, penalty=1.0, gap=1e-2)
    assert (wide.steps < near.steps).all()
    assert wide.converged.all()


@pytest.mark.parametrize("seed", [6, 9, 30])
def test_features_of_few_dimensions_and_a_large_scale_converge(seed):
    rng = np.random.default_rng(seed)
    latent = rng.normal(size=(200, 12))
    latent[100:, 0] += 1.5
    mixed = latent @ rng.normal(size=(12, 64)) + rng.normal(size=64)
    features = 3 * np.maximum(mixed, 0) + 0.05 * rng.normal(size=mixed.shape)
    found = hyperplanes(*of_pair(features[:100], features[100:]), penalty=1.0)
    assert found.converged.all()
    assert found.steps.max() < 25


def test_fits_that_run_out_of_steps_say_so(monkeypatch):
    monkeypatch.setattr(interior, "MAX_STEPS", 3)
    features, in_b, train = of_pair(*problem(0.2))
    found = hyperplanes(features, in_b, train, penalty=1.0)
    assert not found.converged.any()
    assert np.isfinite(found.coef).all()


def test_intercept_is_the_middle_of_the_best_ones():
    values = np.array([[-3.0, -2.0, 2.0, 4.0]])
    sign = np.array([-1.0, -1.0, 1.0, 1.0])
    train = np.ones((1, 4), bool)
    # kinks at 2, 1, -1, -3: no loss between -1 and 1
    np.testing.assert_array_equal(best_intercepts(values, sign, train), [0.0])
    train[0, 2] = False  # kinks at 2, 1, -3
    np.testing.assert_array_equal(best_intercepts(values, sign, train), [-1.0])


def test_factor_has_the_inner_products_it_is_made_of():
    a, _ = problem(0.0)
    made = factor(a @ a.T)
    assert made.shape == (60, 24)
    np.testing.assert_allclose(made @ made.T, a @ a.T, atol=1e-9)


# Odd features

E, WIDE = problem(0.0)[0], np.ones((1, 24))
ODD = {
    "all zero": (0 * E, 0 * E, 0.5),
    "constant": (0 * E + 7.5, 0 * E + 7.5, 0.5),
    "two points": (0 * E, 0 * E + 1.0, 1.0),
    "far apart": (E, E + 1e5, 1.0),
    "the same crops in both classes": (E, E, 0.5),
    "five crops many times": (np.repeat(E[:5], 12, axis=0), np.repeat(E[5:10], 12, axis=0), None),
    "large constant features": (np.hstack([E, 1e5 * E**0]), np.hstack([E + 0.2, 1e5 * E**0]), None),
    "copies of features": (np.hstack([E] * 4), np.hstack([E[::-1] + 0.2] * 4), None),
    "tiny": (1e-6 * E, 1e-6 * (E[::-1] + 0.2), None),
    "huge": (1e6 * E, 1e6 * (E[::-1] + 0.2), None),
    "few against many": (E[:5], np.tile(E, (16, 1)) + 0.2, None),
    "one feature": (E[:, :1], E[::-1, :1] + 1.0, None),
}  # fmt: skip


@pytest.mark.parametrize("patience", [(0.0, 0.0), solvers.PATIENCE])
@pytest.mark.parametrize("name", ODD)
def test_odd_features_give_a_converged_result(name, patience, monkeypatch):
    a, b, expected = ODD[name]
    monkeypatch.setattr(solvers, "PATIENCE", patience)
    if not patience[0]:
        monkeypatch.setattr(solvers, "FEWEST_ITERATIONS", 1)
    scores = svm_accuracy(a, b)
    assert scores.converged.all()
    assert np.isfinite(scores.accuracy).all()
    if expected is not None:
        np.testing.assert_array_equal(scores.accuracy, np.full(5, expected))


# Which solver


def run_out(separation):
    """Return a pair that takes libsvm more iterations than the other method's cost."""
    return problem(separation, scale=5.0, cells=(150, 150))


def test_hard_pairs_go_to_the_interior_point_method_and_easy_ones_stay():
    hard = svm_accuracy(*run_out(0.0))
    assert (hard.iterations < 50).all()
    assert hard.converged.all()
    assert not svm_accuracy(*run_out(0.0), solver="libsvm", max_iterations=1000).converged.any()
    a, b = problem(3.0)
    for one, other in zip(svm_accuracy(a, b), svm_accuracy(a, b, solver="libsvm"), strict=True):
        np.testing.assert_array_equal(one, other)


def test_pairs_with_few_support_vectors_are_left_to_libsvm_for_longer(monkeypatch):
    a, b = problem(0.6, cells=(150, 150), scale=5.0)
    iterations = svm_accuracy(a, b, solver="libsvm").iterations
    monkeypatch.setattr(solvers, "FEWEST_ITERATIONS", 1)
    between = (0.5 * iterations.min() / 24**2, 2.0 * iterations.max() / 24**2)
    monkeypatch.setattr(solvers, "PATIENCE", between)
    monkeypatch.setattr(solvers, "FEW_SUPPORT", 1.0)
    np.testing.assert_array_equal(svm_accuracy(a, b).iterations, iterations)
    monkeypatch.setattr(solvers, "FEW_SUPPORT", 0.0)
    scores = svm_accuracy(a, b)
    assert (scores.iterations < 50).all()
    assert scores.converged.all()


def test_iteration_limit_is_none_of_the_exact_solvers():
    for one, other in zip(
        svm_accuracy(*run_out(0.1)), svm_accuracy(*run_out(0.1), max_iterations=1), strict=True
    ):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("separation", SEPARATIONS)
def test_both_ways_of_the_exact_solver_agree(separation, monkeypatch):
    a, b = problem(separation, cells=(100, 100), scale=0.3)
    monkeypatch.setattr(solvers, "FEWEST_ITERATIONS", 1_000_000)
    by_libsvm = svm_accuracy(a, b, tolerance=1e-6)
    monkeypatch.setattr(solvers, "FEWEST_ITERATIONS", 1)
    monkeypatch.setattr(solvers, "PATIENCE", (0.0, 0.0))
    by_steps = svm_accuracy(a, b)
    assert (by_steps.iterations < 50).all()
    np.testing.assert_array_equal(by_steps.accuracy, by_libsvm.accuracy)


@pytest.mark.parametrize("separation", SEPARATIONS)
@pytest.mark.parametrize("quick", [0, 10**9])
@pytest.mark.parametrize("rounding", [0.0, 1e9])
def test_shortcuts_of_libsvm_change_nothing(separation, quick, rounding, monkeypatch):
    a, b = problem(separation, cells=(45, 80))
    b[70:] = b[:10]
    monkeypatch.setattr(solvers, "QUICK", quick)
    monkeypatch.setattr(solvers, "ROUNDING", rounding)
    scores = svm_accuracy(a, b, solver="libsvm")
    features, in_b, train = of_pair(a, b)
    for fold in range(5):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            svc = SVC(kernel="linear", max_iter=100_000).fit(
                features[train[fold]], in_b[train[fold]]
            )
        assert scores.accuracy[fold] == svc.score(features[~train[fold]], in_b[~train[fold]])
        assert scores.iterations[fold] == svc.n_iter_[0]
