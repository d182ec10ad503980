"""Fitting: it learns, no field is on both sides, and an interruption changes no bit."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from bgscale.errors import ConfigError, InputError
from bgscale.models import MODELS, backends, load_model
from bgscale.models.batches import N_ORIENTATIONS, augmented, balanced
from bgscale.models.embedding import EmbeddingModel
from bgscale.models.fit import FitConfig, fit, split_by_group
from bgscale.models.objective import Objective
from bgscale.models.weights import save_weights

TINY = MODELS["tiny"].default_spec
SHORT = FitConfig(epochs=3, batch_size=16, threads=1)


def toy(n=120, *, seed=0):
    """Cells whose protein fills them or rings them: (n, 2, 64, 64), classes, fields."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:64, :64] - 31.5
    radius = np.hypot(y, x)
    patterns = np.stack([radius < 14, (radius > 10) & (radius < 17)])
    target = rng.integers(2, size=n)
    protein = 100 + 400 * patterns[target] + rng.normal(0, 60, (n, 64, 64))
    cytosol = 100 + 400 * (radius < 17) + rng.normal(0, 60, (n, 64, 64))
    images = np.stack([protein, cytosol], axis=1).clip(0).round().astype(np.uint16)
    field = target * 10 + rng.integers(4, size=n)
    return images, target, field


def same_state(a, b):
    a, b = a.network.state_dict(), b.network.state_dict()
    return list(a) == list(b) and all(torch.equal(a[k], b[k]) for k in a)


class InterruptedHereError(Exception):
    """What a kill between two epochs looks like."""


# ---- learning


def test_fit_learns_a_toy_problem_and_its_features_separate_new_cells():
    from sklearn.svm import SVC

    images, target, field = toy()
    seen = []
    config = FitConfig(epochs=6, batch_size=16, threads=1)
    result = fit(
        images, target, field, spec=TINY, n_outputs=2, config=config,
        on_epoch=lambda *line: seen.append(line),
    )  # fmt: skip
    best = result.history[result.best_epoch]
    assert best.validation_accuracy > 0.95
    assert best.validation_loss == min(line.validation_loss for line in result.history)
    assert [line[0] for line in seen] == list(range(len(result.history)))
    assert seen[-1][2] == result.history[-1].validation_loss
    assert result.spec.n_outputs == 2
    model = EmbeddingModel(result.spec, result.network)
    assert not model.random_weights
    new, truth, _ = toy(60, seed=1)
    svm = SVC(kernel="linear").fit(model.embed(images)["profile"], target)
    assert svm.score(model.embed(new)["profile"], truth) > 0.95


@pytest.mark.parametrize("name", ["pifia", "pci", "deeploc"])
def test_every_architecture_can_be_fitted(name):
    spec = replace(MODELS[name].default_spec, micro_batch=4)
    images, target, field = toy(12)
    config = FitConfig(epochs=1, batch_size=6, threads=1)
    images = images[:, : len(spec.channels)]
    result = fit(images, target, field, spec=spec, n_outputs=2, config=config)
    first = load_model(name, n_outputs=2).network.state_dict()
    key = next(iter(first))
    assert not torch.equal(first[key], result.network.state_dict()[key])
    assert np.isfinite(result.history[0].train_loss)


def test_a_fit_depends_on_data_seed_and_config_only():
    images, target, field = toy(60)
    torch.manual_seed(1)
    first = fit(images, target, field, spec=TINY, n_outputs=2, config=SHORT)
    torch.manual_seed(2)
    again = fit(images, target, field, spec=TINY, n_outputs=2, config=SHORT)
    other = fit(images, target, field, spec=TINY, n_outputs=2, config=replace(SHORT, seed=1))
    assert same_state(first, again)
    assert first.history == again.history
    assert not same_state(first, other)


def test_threads_are_put_back_and_torch_generators_left_alone():
    before = torch.get_num_threads(), torch.get_rng_state()
    images, target, field = toy(30)
    config = replace(SHORT, epochs=1, threads=before[0] % 2 + 1)
    fit(images, target, field, spec=TINY, n_outputs=2, config=config)
    assert torch.get_num_threads() == before[0]
    assert torch.equal(torch.get_rng_state(), before[1])


def test_early_stop_restores_the_best_epoch():
    images, target, field = toy(60)
    shuffled = np.random.default_rng(0).permutation(target)
    config = FitConfig(epochs=12, batch_size=16, patience=2, threads=1)
    result = fit(images, shuffled, field, spec=TINY, n_outputs=2, config=config)
    assert result.best_epoch == len(result.history) - 3
    losses = [line.validation_loss for line in result.history]
    assert np.argmin(losses) == result.best_epoch


def test_without_held_out_cells_the_last_epoch_is_kept():
    images, target, _ = toy(40)
    result = fit(images, target, target, spec=TINY, n_outputs=2, config=SHORT)
    assert not result.validation.any()
    assert result.best_epoch == 2
    assert result.history[-1].validation_loss is None


def test_a_fit_can_start_from_given_weights():
    images, target, field = toy(40)
    start = load_model("tiny", seed=9, n_outputs=2).network.state_dict()
    config = replace(SHORT, epochs=1)
    one = fit(images, target, field, spec=TINY, n_outputs=2, config=config, start=start)
    two = fit(images, target, field, spec=TINY, n_outputs=2, config=config)
    assert not same_state(one, two)
    with pytest.raises(InputError, match=r"first weights does not fit Tiny.*head\.weight"):
        fit(images, target, field, spec=TINY, n_outputs=3, config=config, start=start)


def test_a_model_that_reads_only_the_cell_needs_masks_and_ignores_the_background():
    spec = replace(TINY, preprocess=("minmax_inside", "mask"))
    images, target, field = toy(40)
    y, x = np.mgrid[:64, :64] - 31.5
    masks = np.repeat((np.hypot(y, x) < 17)[None].astype(np.uint8), 40, axis=0)
    other = np.where(masks[:, None] == 1, images, 7 * images[::-1])
    fitted = [
        fit(i, target, field, spec=spec, n_outputs=2, config=SHORT, masks=masks)
        for i in (images, other)
    ]
    assert same_state(*fitted)
    with pytest.raises(InputError, match="need the masks"):
        fit(images, target, field, spec=spec, n_outputs=2, config=SHORT)


def test_fitted_weights_survive_their_file(tmp_path):
    images, target, field = toy(40)
    result = fit(images, target, field, spec=TINY, n_outputs=2, config=replace(SHORT, epochs=1))
    save_weights(tmp_path / "w.safetensors", result.network, result.spec)
    expected = EmbeddingModel(result.spec, result.network).embed(images)["profile"]
    model = load_model("tiny", weights=tmp_path / "w.safetensors")
    np.testing.assert_array_equal(model.embed(images)["profile"], expected)


# ---- interruption


@pytest.mark.parametrize("stop_after", [0, 1])
def test_a_resumed_fit_ends_with_the_bits_of_an_uninterrupted_one(tmp_path, stop_after):
    images, target, field = toy(60)
    whole = fit(images, target, field, spec=TINY, n_outputs=2, config=SHORT)
    path = tmp_path / "fit.checkpoint"

    def stop(epoch, *_):
        if epoch == stop_after:
            raise InterruptedHereError

    arguments = {"spec": TINY, "n_outputs": 2, "config": SHORT, "checkpoint": path}
    with pytest.raises(InterruptedHereError):
        fit(images, target, field, **arguments, on_epoch=stop)
    epochs = []
    resumed = fit(images, target, field, **arguments, on_epoch=lambda e, *_: epochs.append(e))
    assert epochs == list(range(stop_after + 1, 3))
    assert same_state(whole, resumed)
    assert whole.history == resumed.history
    finished = fit(images, target, field, **arguments, on_epoch=stop)
    assert same_state(whole, finished)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_a_checkpoint_of_another_fit_or_a_damaged_one_is_refused(tmp_path):
    images, target, field = toy(40)
    path = tmp_path / "fit.checkpoint"
    config = replace(SHORT, epochs=1)
    arguments = {"spec": TINY, "n_outputs": 2, "checkpoint": path}
    fit(images, target, field, **arguments, config=config)
    with pytest.raises(InputError, match="other crops, another model or another config"):
        fit(images, target, field, **arguments, config=replace(config, seed=1))
    with pytest.raises(InputError, match="other crops"):
        fit(images + 1, target, field, **arguments, config=config)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(InputError, match="delete it to start afresh"):
        fit(images, target, field, **arguments, config=config)


# ---- split, balance, augmentation


@pytest.mark.parametrize("n_fields", [1, 2, 3, 8, 20])
@pytest.mark.parametrize("fraction", [0.0, 0.2, 0.9])
def test_no_field_is_on_both_sides_and_every_class_keeps_one(n_fields, fraction):
    rng = np.random.default_rng(n_fields)
    target = np.sort(rng.integers(5, size=400))
    field = target * 100 + np.arange(400) % n_fields
    held_out = split_by_group(target, field, fraction, seed=0)
    assert not set(field[held_out]) & set(field[~held_out])
    for c in range(5):
        fields, out = np.unique(field[target == c]), np.unique(field[(target == c) & held_out])
        assert len(fields) == n_fields
        expected = max(round(fraction * n_fields), 1) if fraction else 0
        assert len(out) == min(expected, n_fields - 1)


def test_the_split_depends_on_fields_not_on_the_order_of_cells():
    _, target, field = toy(200)
    shuffled = np.random.default_rng(1).permutation(200)
    split = split_by_group(target, field, 0.25, seed=0)
    np.testing.assert_array_equal(
        split_by_group(target[shuffled], field[shuffled], 0.25, seed=0), split[shuffled]
    )
    splits = {tuple(split_by_group(target, field, 0.25, seed=s)) for s in range(5)}
    assert len(splits) > 1


def test_a_field_that_several_classes_share_is_held_out_only_if_all_can_spare_it():
    target = np.array([0, 0, 0, 1])
    field = np.array([-5, 2, 3, 3])
    for seed in range(10):
        held_out = split_by_group(target, field, 0.5, seed)
        assert not held_out[3]
        assert held_out.tolist() == [True, True, False, False]


def test_an_epoch_shows_every_class_equally_often_and_rare_cells_repeat():
    target = np.array([0] * 90 + [1] * 6 + [2] * 24)
    rows = balanced(np.arange(120), target, np.random.default_rng(0))
    assert np.bincount(target[rows]).tolist() == [40, 40, 40]
    assert len(set(rows[target[rows] == 0])) == 40
    assert set(rows[target[rows] == 1]) == set(range(90, 96))


def test_augmentation_shows_each_of_eight_orientations_and_nothing_else():
    spec = replace(TINY, channels=("protein",), input_size_px=4, network_crop_px=4)
    crop = torch.arange(16.0).reshape(1, 1, 4, 4)
    shown = augmented(crop.repeat(100, 1, 1, 1), spec, np.random.default_rng(0))
    expected = {
        tuple(part.flatten().tolist())
        for k in range(4)
        for part in (torch.rot90(crop, k, (2, 3)), torch.rot90(crop, k, (2, 3)).flip(3))
    }
    assert {tuple(s.flatten().tolist()) for s in shown} == expected
    assert len(expected) == N_ORIENTATIONS


# ---- devices


def flags():
    """Return how torch is told to compute on GPUs."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    return {
        "tf32": cudnn.allow_tf32,
        "matmul_tf32": matmul.allow_tf32,
        "deterministic": cudnn.deterministic,
        "benchmark": cudnn.benchmark,
    }


def set_flags(*, tf32, matmul_tf32, deterministic, benchmark):
    torch.backends.cudnn.allow_tf32 = tf32
    torch.backends.cuda.matmul.allow_tf32 = matmul_tf32
    torch.backends.cudnn.deterministic = deterministic
    torch.backends.cudnn.benchmark = benchmark


def test_a_fit_has_its_weights_where_its_crops_are(monkeypatch):
    """Shown on torch's device of tensors without values: a step there would have no loss."""
    where = set()

    def loss(self, network, cells, epoch, rng):
        crops, *_ = self.data.take(cells)
        where.update(t.device.type for t in (crops, *network.parameters(), *network.buffers()))
        raise InterruptedHereError

    monkeypatch.setattr(Objective, "loss", loss)
    images, target, field = toy(12)
    with pytest.raises(InterruptedHereError):
        fit(images, target, field, spec=TINY, n_outputs=2, config=replace(SHORT, device="meta"))
    assert where == {"meta"}


def test_a_fit_on_a_gpu_keeps_to_float32_from_its_first_step(monkeypatch):
    monkeypatch.setattr(backends, "check_device", lambda device: None)
    monkeypatch.setattr(torch.nn.Module, "to", lambda self, *where, **how: self)
    seen = []

    def loss(*_):
        seen.append(flags())
        raise InterruptedHereError

    monkeypatch.setattr(Objective, "loss", loss)
    images, target, field = toy(12)
    before = flags()
    try:
        set_flags(tf32=True, matmul_tf32=True, deterministic=False, benchmark=True)
        with pytest.raises(InterruptedHereError):
            fit(images, target, field, spec=TINY, n_outputs=2, config=replace(SHORT, device="cuda"))
    finally:
        set_flags(**before)
    expected = {"tf32": False, "matmul_tf32": False, "deterministic": True, "benchmark": False}
    assert seen == [expected]


def test_a_fit_on_a_device_that_is_not_here_says_so(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    images, target, field = toy(12)
    with pytest.raises(InputError, match=r"device 'cuda': torch .* sees 0 GPUs here"):
        fit(images, target, field, spec=TINY, n_outputs=2, config=replace(SHORT, device="cuda"))


# ---- refusals


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": np.zeros((6, 1, 64, 64))}, r"\(6, 1, 64, 64\); expected \(6, 2, 64, 64\)"),
        ({"targets": np.zeros(6, int)}, "1 class in 6 crops"),
        ({"targets": np.arange(6)}, r"targets span 0\.\.5; expected \[0, 2\)"),
        ({"groups": np.zeros(5, int)}, "groups have shape"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(changes, message):
    arrays = {
        "images": np.zeros((6, 2, 64, 64)), "targets": np.arange(6) % 2, "groups": np.zeros(6, int),
    } | changes  # fmt: skip
    with pytest.raises(InputError, match=message):
        fit(**arrays, spec=TINY, n_outputs=2, config=SHORT)


@pytest.mark.parametrize(
    "changes", [{"epochs": 0}, {"batch_size": 1}, {"validation_fraction": 1.0}, {"threads": 0}]
)
def test_a_config_out_of_bounds_is_refused(changes):
    with pytest.raises(ConfigError, match=next(iter(changes))):
        FitConfig(**changes)
