"""Training that does not see the neighbours: backgrounds, masks, and what is done with them."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from screens import config_of

from bgscale.cli import main
from bgscale.config import RunConfig, template
from bgscale.errors import ConfigError, InputError
from bgscale.models import MODELS, load_model
from bgscale.models.batches import Crops
from bgscale.models.check import check_model, made_up
from bgscale.models.embedding import EmbeddingModel
from bgscale.models.engine import Engine, best_device
from bgscale.models.fit import FitConfig, fit
from bgscale.models.invariance import Invariance, Lenders, disagreement, jittered, shown
from bgscale.models.layers import build_network
from bgscale.models.preprocess import preprocess
from bgscale.models.spec import ModelSpec
from bgscale.models.start import first_weights
from bgscale.models.weights import read_weights, save_weights
from bgscale.run import train_model
from bgscale.settings import compose

TINY = MODELS["tiny"].default_spec
AWARE = replace(TINY, mask_input=("channel", "gate"))
INVARIANT = FitConfig(epochs=3, batch_size=16, threads=1, invariance=Invariance())
BOTH = {"mask_input": ("channel", "gate")}


def screen(n=64, *, seed=0, channels=2, size=64):
    """Cells of two classes that look alike but for their neighbours: each class has its own.

    Images, classes, fields, masks. Of a cell itself only a faint ring tells its class.
    """
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    radius = np.hypot(y, x)
    target = np.arange(n) % 2
    masks = np.zeros((n, size, size), np.uint8)
    images = rng.normal(100, 8, (n, channels, size, size))
    for i in range(n):
        angle = rng.uniform(0, 2 * np.pi)
        off = 0.36 * size * np.array([np.sin(angle), np.cos(angle)])
        near = np.hypot(y - off[0], x - off[1])
        masks[i][near < size * 0.17] = 2
        masks[i][radius < size * 0.2] = 1
        ring = (near > size * 0.1) if target[i] else (near < size * 0.08)
        images[i] += 900 * (ring & (masks[i] == 2))
        own = (radius > size * 0.13) if target[i] else (radius < size * 0.12)
        images[i] += 120 + 500 * (own & (masks[i] == 1))
    field = target * 10 + (np.arange(n) // 2) % 4
    return images.clip(0).round().astype(np.uint16), target, field, masks


@pytest.fixture(scope="module")
def cells():
    return screen()


def same_state(a, b):
    a, b = a.network.state_dict(), b.network.state_dict()
    return list(a) == list(b) and all(torch.equal(a[k], b[k]) for k in a)


# ---- who lends


def test_a_background_is_of_every_class_alike_and_never_the_cells_own():
    rng = np.random.default_rng(0)
    target, group = rng.integers(4, size=4000), rng.integers(3, size=4000)
    group += 10 * target
    rows = np.flatnonzero(rng.random(4000) < 0.7)
    lenders = Lenders(rows, target, group)
    donors = lenders.draw(rows, 7, "swap")
    assert np.isin(donors, rows).all()
    counts = np.zeros((4, 4))
    np.add.at(counts, (target[rows], target[donors]), 1)
    # 700 draws a row, a standard deviation of 0.016
    np.testing.assert_allclose(counts / counts.sum(1, keepdims=True), 0.25, atol=0.08)
    assert not (group[donors] == group[rows]).any()
    # all other fields of the own class lend
    own = target[donors] == target[rows]
    assert len(set(zip(group[rows][own], group[donors][own], strict=True))) == 4 * 3 * 2


def test_in_a_class_of_one_field_another_cell_lends_and_a_lone_cell_lends_to_itself():
    target, group = np.array([0, 0, 0, 1]), np.array([5, 5, 5, 9])
    lenders = Lenders(np.arange(4), target, group)
    for stream in range(50):
        donors = lenders.draw(np.arange(4), 0, "swap", stream)
        assert (donors[:3] != np.arange(3)).all()
    lent = {int(lenders.draw(np.array([0]), 0, "swap", s)[0]) for s in range(50)}
    assert lent == {1, 2, 3}
    assert {int(lenders.draw(np.array([3]), 0, "swap", s)[0]) for s in range(50)} == {0, 1, 2, 3}


def test_donors_are_a_function_of_seed_epoch_and_cell():
    target, group = np.arange(40) % 2, np.arange(40) % 8
    lenders = Lenders(np.arange(40), target, group)
    again = Lenders(np.random.default_rng(0).permutation(40), target, group)
    whole = lenders.draw(np.arange(40), 1, "swap/0")
    some = np.array([30, 3, 17])
    np.testing.assert_array_equal(again.draw(some, 1, "swap/0"), whole[some])
    for changed in ((2, "swap/0", 0), (1, "swap/1", 0), (1, "swap/0", 1)):
        assert (lenders.draw(np.arange(40), *changed) != whole).any()


# ---- what is shown


def test_swapped_crops_are_those_of_the_settings_to_the_bit(cells):
    images, target, field, masks = cells
    rng = np.random.default_rng(0)
    low = rng.uniform(50, 150, (len(images), 2, 1))
    ranges = np.concatenate([low, low + rng.uniform(0, 800, low.shape)], axis=2)
    ranges = ranges.astype(np.float32)
    ranges[5] = 7
    data = Crops(images, masks, target, "cpu", ranges)
    rows = np.arange(len(images))
    lenders = Lenders(rows, target, field)
    how = Invariance(consistency=0)
    crops, inside, classes = shown(data, rows, lenders, how, TINY, seed=3, epoch=2)
    donors = lenders.draw(rows, 3, "swap/2", 1)
    expected = compose(
        images, masks, images[donors], centre_range=ranges, donor_range=ranges[donors]
    )
    np.testing.assert_array_equal(crops.numpy(), expected)
    np.testing.assert_array_equal(inside.numpy(), masks == 1)
    np.testing.assert_array_equal(classes.numpy(), target)


def test_a_share_is_swapped_and_of_two_backgrounds_one_always_is(cells):
    images, target, field, masks = cells
    data = Crops(images, masks, target, "cpu")
    rows = np.arange(len(images))
    lenders = Lenders(rows, target, field)

    def kept(**changes):
        how = Invariance(**changes)
        crops, _, _ = shown(data, rows, lenders, how, TINY, seed=0, epoch=0)
        same = (crops.numpy() == np.tile(images, (len(crops) // len(rows), 1, 1, 1))).all((1, 2, 3))
        return [float(part.mean()) for part in np.split(same, len(crops) // len(rows))]

    assert kept(swap_share=0.0, consistency=0) == [1.0]
    assert kept(swap_share=1.0, consistency=0) == [0.0]
    assert 0.2 < kept(swap_share=0.5, consistency=0)[0] < 0.8
    assert kept(swap_share=0.0, consistency=1) == [1.0, 0.0]
    assert kept(swap_share=1.0, consistency=1) == [0.0, 0.0]


def test_masks_are_too_large_too_small_or_merged_and_never_empty():
    inside = torch.zeros(400, 32, 32, dtype=torch.bool)
    inside[:, 12:20, 12:20] = True
    inside[399] = False
    inside[399, 3, 3] = True
    others = torch.zeros_like(inside)
    others[:, 12:20, 20:30] = True
    found = jittered(inside, others | inside, torch.arange(400), 2)
    area = found[:399].sum((1, 2)).numpy()
    plain = [side**2 for side in (4, 6, 8, 10, 12)]
    assert set(plain) <= set(area.tolist())
    merged = (found & others)[:399].sum((1, 2)).numpy() > 12 * 2
    assert 0.2 < merged.mean() < 0.3
    # eight pixels into the neighbour, and no farther
    assert not found[:399, :, 28:].any()
    assert found.any(2).any(1).all()


def test_disagreement_is_zero_for_equal_profiles_and_one_for_unrelated_ones():
    rng = np.random.default_rng(0)
    a, b = (torch.from_numpy(rng.normal(3, 2, (500, 64)).astype(np.float32)) for _ in "ab")
    assert disagreement({"profile": torch.cat([a, a])}, TINY) == 0
    assert abs(disagreement({"profile": torch.cat([a, b])}, TINY) - 1) < 0.05
    scaled = disagreement({"profile": 9 * torch.cat([a, (a + b) / 2])}, TINY)
    torch.testing.assert_close(scaled, disagreement({"profile": torch.cat([a, (a + b) / 2])}, TINY))


# ---- the mask in the network


@pytest.mark.parametrize("name", ["tiny", "pifia", "pci", "deeploc"])
def test_a_network_that_reads_the_mask_keeps_what_a_model_must(name):
    model = load_model(name, overrides={"micro_batch": 2, **BOTH})
    assert [check.detail for check in check_model(model) if not check.passed] == []


@pytest.mark.parametrize("name", ["tiny", "pifia", "pci", "deeploc"])
@pytest.mark.parametrize("engine", [{"backend": "openvino"}, {"precision": "bfloat16"}])
def test_engines_agree_on_a_network_that_reads_the_mask(name, engine):
    if "backend" in engine:
        pytest.importorskip("openvino")
    model = load_model(name, overrides={"micro_batch": 2, **BOTH})
    crops, masks = made_up(model.spec, 2)
    expected = model.embed(crops, masks)
    found = model.on(Engine(micro_batch=2, **engine)).embed(crops, masks)
    tolerance = 1e-4 if "backend" in engine else 3e-2
    for layer, values in expected.items():
        np.testing.assert_allclose(found[layer], values, atol=tolerance * np.abs(values).max())


@pytest.mark.parametrize("name", ["tiny", "pifia", "pci", "deeploc"])
def test_a_gate_keeps_out_what_the_convolutions_do_not_carry_in(name):
    overrides = {"micro_batch": 2, "preprocess": ()}
    gated = load_model(name, overrides={**overrides, "mask_input": ("gate",)})
    crops, masks = (values[:1] for values in made_up(gated.spec, 1))
    masks = np.zeros_like(masks)
    masks[:, 36:40, 36:40] = 1
    other = crops.copy()
    # beyond the reach of what convolutions see from the cell
    other[..., 2:4, 2:4] += 5000
    plain = load_model(name, overrides=overrides)
    layer = gated.spec.classification_layer
    changed = [
        np.abs(m.embed(crops, masks)[layer] - m.embed(other, masks)[layer]).max()
        for m in (gated, plain)
    ]
    assert changed[0] == 0
    assert changed[1] > 0


def test_the_mask_lies_below_its_pixels_where_convolutions_cut_the_edge():
    # a crop that is bright inside the cell alone: gated features are those of the plain network
    # at its maximum, unless the mask has slipped
    read = {"layers": ["conv2"], "classification_layer": "conv2", "profile_layer": "conv2"}
    scaling = {"micro_batch": 2, "preprocess": (), "pooling": "mean"}
    plain = load_model("pifia", overrides=read | scaling)
    spec = replace(plain.spec, mask_input=("gate",))
    gated = EmbeddingModel(spec, build_network(MODELS["pifia"], spec))
    assert same_state(plain, gated)
    crops = np.zeros((1, 1, 64, 64), np.float32)
    masks = np.zeros((1, 64, 64), np.uint8)
    masks[0, 5:9, 40:44] = 1
    crops[0, 0, 5:9, 40:44] = 100
    # all that is not zero lies within two pixels of the cell, so a mask that wide misses nothing
    wide = np.zeros_like(masks)
    wide[0, 3:11, 38:46] = 1
    everywhere = plain.embed(crops)["conv2"] * 60 * 60
    np.testing.assert_allclose(gated.embed(crops, wide)["conv2"] * 64, everywhere, rtol=1e-4)
    wide = np.roll(wide, 1, axis=2)
    assert not np.allclose(gated.embed(crops, wide)["conv2"] * 64, everywhere, rtol=1e-3)


def test_a_spec_without_a_mask_is_as_it_was_and_one_with_it_needs_masks():
    assert "mask_input" not in TINY.to_config()
    assert ModelSpec.from_config(AWARE.to_config()) == AWARE
    assert AWARE.n_inputs == 3
    assert TINY.n_inputs == 2
    assert AWARE.needs_mask
    crops = torch.zeros(1, 2, 64, 64)
    with pytest.raises(InputError, match=r"mask_input channel.*need the masks"):
        preprocess(crops, None, AWARE)
    with pytest.raises(ConfigError, match=r"unknown mask_input 'chanel'.*'channel'"):
        replace(TINY, mask_input=("chanel",))


# ---- fitting


@pytest.mark.parametrize("name", ["pifia", "pci", "deeploc"])
def test_every_architecture_can_be_fitted_so(name):
    images, target, field, masks = screen(12, channels=len(MODELS[name].default_spec.channels))
    spec = replace(MODELS[name].default_spec, **BOTH)
    config = replace(INVARIANT, epochs=1, batch_size=6)
    result = fit(images, target, field, spec=spec, n_outputs=2, config=config, masks=masks)
    fresh = build_network(MODELS[name], result.spec).state_dict()
    changed = [k for k, v in result.network.state_dict().items() if not torch.equal(v, fresh[k])]
    assert all(f"{stage.conv}.weight" in changed for stage in result.network.stages[:4])
    assert np.isfinite(result.history[0].train_loss)


def test_what_neighbours_tell_is_not_learnt(cells):
    images, target, field, masks = cells
    new, truth, _, new_masks = screen(64, seed=1)
    # each cell among the neighbours of the other class
    partner = np.arange(64) ^ 1
    foreign = compose(new, new_masks, new[partner])
    right, moved = {}, {}
    for name, invariance, spec in (
        ("plain", None, TINY), ("swaps", Invariance(consistency=0), TINY),
        ("delivered", Invariance(), AWARE),
    ):  # fmt: skip
        config = replace(INVARIANT, epochs=8, invariance=invariance)
        result = fit(images, target, field, spec=spec, n_outputs=2, config=config, masks=masks)
        model = EmbeddingModel(replace(result.spec, micro_batch=64), result.network)
        read = [
            model.forward(torch.from_numpy(x.astype(np.float32)),
                          torch.from_numpy(new_masks == 1), "unmasked")
            for x in (new, foreign)
        ]  # fmt: skip
        right[name] = float((read[1]["logits"].argmax(1).numpy() == truth).mean())
        both = {"profile": torch.cat([one["profile"] for one in read])}
        moved[name] = float(disagreement(both, spec))
        assert result.history[-1].train_loss < result.history[0].train_loss
    assert right["plain"] < 0.3
    assert right["swaps"] > 0.9
    assert right["delivered"] > 0.9
    assert moved["delivered"] < 0.5 * moved["swaps"] < 0.5 * moved["plain"]


def test_a_fit_depends_on_each_option(cells):
    images, target, field, masks = (values[:24] for values in cells)
    ranges = np.tile(np.float32([100, 900]), (24, 2, 1)) * (1 + target[:, None, None])

    def fitted(*, spec=AWARE, scaled=False, **changes):
        how = replace(Invariance(), **changes)
        config = replace(INVARIANT, epochs=1, invariance=how)
        return fit(
            images, target, field, spec=spec, n_outputs=2, config=config, masks=masks,
            ranges=ranges.astype(np.float32) if scaled else None,
        )  # fmt: skip

    first = fitted()
    assert same_state(first, fitted())
    for changes in (
        {"swap_share": 0.0}, {"consistency": 3.0}, {"mask_jitter_px": 0}, {"scaled": True},
    ):  # fmt: skip
        assert not same_state(first, fitted(**changes)), changes
    # without a mask to read, there is none to disturb
    blind = fitted(spec=TINY)
    assert same_state(blind, fitted(spec=TINY, mask_jitter_px=0))


def test_a_resumed_fit_ends_with_the_same_bits(tmp_path, cells):
    images, target, field, masks = (values[:32] for values in cells)
    path = tmp_path / "fit.checkpoint"

    class KilledError(Exception):
        pass

    def stop(epoch, *_):
        if epoch == 0:
            raise KilledError

    arguments = {"spec": AWARE, "n_outputs": 2, "config": INVARIANT, "masks": masks}
    whole = fit(images, target, field, **arguments)
    with pytest.raises(KilledError):
        fit(images, target, field, **arguments, checkpoint=path, on_epoch=stop)
    resumed = fit(images, target, field, **arguments, checkpoint=path)
    assert same_state(whole, resumed)
    assert whole.history == resumed.history
    other = replace(INVARIANT, invariance=Invariance(consistency=2.0))
    with pytest.raises(InputError, match="another config"):
        fit(images, target, field, **arguments | {"config": other}, checkpoint=path)


def test_without_masks_nothing_can_be_swapped(cells):
    images, target, field, _ = cells
    with pytest.raises(InputError, match="where the centre cells are"):
        fit(images, target, field, spec=TINY, n_outputs=2, config=INVARIANT)
    with pytest.raises(ConfigError, match=r"swap_share = 1\.5"):
        Invariance(swap_share=1.5)


# ---- from given weights


@pytest.mark.parametrize("name", ["tiny", "pifia", "pci", "deeploc"])
def test_a_network_that_now_reads_the_mask_begins_with_the_features_it_had(tmp_path, name):
    model = load_model(name, seed=5, n_outputs=3, overrides={"micro_batch": 4})
    path = tmp_path / "given.safetensors"
    save_weights(path, model.network, model.spec)
    spec = replace(model.spec, mask_input=("channel",), n_outputs=7, seed=1)
    network = build_network(MODELS[name], spec)
    network.load_state_dict(first_weights(read_weights(path), spec))
    crops, masks = made_up(spec, 4)
    expected = model.embed(crops)
    for layer, values in EmbeddingModel(spec, network).embed(crops, masks).items():
        np.testing.assert_allclose(values, expected[layer], atol=1e-5 * np.abs(values).max())


def test_a_head_of_the_same_classes_is_kept_and_one_of_others_begins_afresh(tmp_path):
    spec = replace(TINY, n_outputs=2, class_names=("A", "B"))
    network = build_network(MODELS["tiny"], spec)
    save_weights(tmp_path / "w.safetensors", network, spec)
    given = read_weights(tmp_path / "w.safetensors")
    kept = first_weights(given, replace(spec, seed=9))
    assert torch.equal(kept["head.weight"], given.state["head.weight"])
    others = first_weights(given, replace(spec, seed=9, class_names=("A", "C")))
    assert not torch.equal(others["head.weight"], given.state["head.weight"])
    assert torch.equal(others["profile.weight"], given.state["profile.weight"])


def test_weights_keep_that_their_network_reads_the_mask(tmp_path, cells):
    images, target, field, masks = (values[:16] for values in cells)
    config = replace(INVARIANT, epochs=1)
    result = fit(images, target, field, spec=AWARE, n_outputs=2, config=config, masks=masks)
    save_weights(tmp_path / "w.safetensors", result.network, result.spec)
    expected = EmbeddingModel(result.spec, result.network).embed(images, masks)["profile"]
    model = load_model("tiny", weights=tmp_path / "w.safetensors")
    assert model.reads_mask("unmasked")
    np.testing.assert_array_equal(model.embed(images, masks)["profile"], expected)
    wrong = {"mask_input": ("gate",)}
    with pytest.raises(InputError, match=r"conv1\.weight is \(16, 3, 3, 3\), expected \(16, 2"):
        load_model("tiny", weights=tmp_path / "w.safetensors", overrides=wrong)


# ---- on a screen


def test_a_screen_is_trained_so_and_gone_on_from(small_screen, tmp_path):
    weights, first = tmp_path / "tiny.safetensors", tmp_path / "first.safetensors"
    how = {"epochs": 1, "threads": 1, "cells_per_protein": 8}
    path = {"models": {"tiny": {"weights": str(weights)}}, "training": how}
    toml = tmp_path / "run.toml"
    toml.write_text(template(config_of(small_screen, tmp_path, **path)), encoding="utf-8")
    printed = CliRunner().invoke(main, ["train", str(toml), "--invariant"])
    assert printed.exit_code == 0, printed.stderr
    spec = read_weights(weights).spec
    said = Invariance().said(spec)
    assert "to leave the background out (jitter 2 px)" in said
    assert f"trained ({said})" in printed.stderr
    assert spec.mask_input == RunConfig().training.mask_input
    assert spec.preprocess == spec.masked_preprocess == ("minmax_inside", "mask")
    assert spec.origin.endswith(said)
    weights.rename(first)

    def trained(**changes):
        path["training"] = how | {"start": str(first)} | changes
        return train_model(config_of(small_screen, tmp_path, **path))

    assert trained().method == ""
    # what it learnt to read it goes on reading
    assert read_weights(weights).spec.mask_input == spec.mask_input
    assert "from first.safetensors" in read_weights(weights).spec.origin
    one = weights.read_bytes()
    trained(start="")
    assert weights.read_bytes() != one
    path["models"]["tiny"]["preprocess"] = ["minmax_inside"]
    trained(start="", invariant=True)
    assert read_weights(weights).spec.preprocess == ("minmax_inside",), "as its section says"
    if best_device() == "cpu":
        with pytest.raises(ConfigError, match="there is no GPU here"):
            trained(device="cuda")
    path["models"]["tiny"]["architecture"] = "pci"
    with pytest.raises(InputError, match="of the model 'tiny'; expected 'pci'"):
        trained()
