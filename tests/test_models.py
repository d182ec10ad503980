"""What the models are, and that features depend on a cell's pixels and on nothing else."""

import json
from dataclasses import replace

import numpy as np
import pytest
import safetensors.torch
import torch

from bgscale.errors import ConfigError, InputError, UnknownNameError
from bgscale.models import MODELS, ModelSpec, load_model
from bgscale.models import preprocess as preprocessing
from bgscale.models.layers import build_network
from bgscale.models.preprocess import apply_steps, preprocess
from bgscale.models.spec import STEPS
from bgscale.models.weights import read_weights, save_weights

NAMES = ("tiny", "pifia", "pci", "deeploc")


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def counts(n, channels, *, seed=0, dtype=np.uint16):
    rng = np.random.default_rng(seed)
    return rng.gamma(2.0, 400.0, (n, channels, 64, 64)).round().astype(dtype)


def disc(n, radius=18):
    y, x = np.mgrid[:64, :64] - 31.5
    mask = np.where(y**2 + x**2 < radius**2, 1, 0).astype(np.uint8)
    mask[:4, :4] = 2
    return np.repeat(mask[None], n, axis=0)


def tensors(crops, masks):
    return torch.from_numpy(crops.astype(np.float32)), torch.from_numpy(masks == 1)


# ---- architectures


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("pifia", {"conv1": 64, "conv3": 128, "conv5": 256, "conv8": 256, "d1": 128, "d2": 64}),
        (
            "pci",
            {"conv1_1": 96, "conv2_1": 256, "conv3_1": 384, "conv4_1": 384, "conv5_1": 256},
        ),
        ("deeploc", {"conv2": 64, "conv4": 128, "conv5": 256, "fc1": 512, "fc2": 512}),
        ("tiny", {"conv1": 16, "conv6": 64, "profile": 64}),
    ],
)
def test_every_layer_that_can_be_read_has_its_published_width(name, layers):
    model = load_model(name, n_outputs=5, overrides={"micro_batch": 2, "layers": list(layers)})
    x = torch.zeros(2, len(model.spec.channels), *2 * [model.spec.network_crop_px])
    read = model.network(x)
    assert list(read) == [*layers, "logits"]
    assert {k: v.shape for k, v in read.items()} == {
        k: (2, w) for k, w in (layers | {"logits": 5}).items()
    }


def spatial_shapes(name, x):
    model = load_model(name, n_outputs=3)
    network, shapes = model.network, {}
    for stage, taps, output in network.run_stages(x):
        shapes[stage.conv] = (taps["conv"].shape[-1], output.shape[-1])
    return list(shapes.values())


def test_pifia_is_valid_convolutions_with_pooling_after_two_four_and_eight():
    assert spatial_shapes("pifia", torch.zeros(1, 1, 64, 64)) == [
        (62, 62), (60, 30), (28, 28), (26, 13), (11, 11), (9, 9), (7, 7), (5, 2),
    ]  # fmt: skip


def test_deeploc_pools_with_rounding_up():
    assert spatial_shapes("deeploc", torch.zeros(1, 2, 60, 60)) == [
        (60, 60), (60, 30), (30, 30), (30, 15), (15, 15), (15, 15), (15, 15), (15, 8),
    ]  # fmt: skip


def test_pci_is_same_convolutions_with_two_poolings():
    assert spatial_shapes("pci", torch.zeros(1, 2, 64, 64)) == [
        (64, 32), (32, 16), (16, 16), (16, 16), (16, 16),
    ]  # fmt: skip


def n_parameters(name, **options):
    return sum(p.numel() for p in load_model(name, **options).network.parameters())


def test_parameter_counts_are_those_of_the_published_layers():
    convolutions = 640 + 36_928 + 73_856 + 147_584 + 295_168 + 3 * 590_080
    norms = 2 * (2 * 64 + 2 * 128 + 4 * 256)
    dense = 1024 * 128 + 128 + 128 * 64 + 64 + 64 * 4049 + 4049
    assert n_parameters("pifia") == convolutions + norms + dense
    first = 2 * 9 * 64 + 64
    dense = 8 * 8 * 256 * 512 + 512 + 512 * 512 + 512 + 512 * 19 + 19 + 2 * (512 + 512 + 19)
    assert n_parameters("deeploc") == convolutions - 640 + first + norms + dense


def test_pifia_keys_are_the_names_of_the_published_checkpoint():
    keys = {key.split(".")[0] for key in load_model("pifia", n_outputs=2).network.state_dict()}
    numbered = range(1, 9)
    assert keys == {
        *(f"conv{i}" for i in numbered),
        *(f"bn{i}" for i in numbered),
        "d1",
        "d2",
        "d3",
    }


def test_batch_norms_have_keras_epsilon():
    for name in NAMES:
        norms = [
            m
            for m in load_model(name, n_outputs=2).network.modules()
            if isinstance(m, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d)
        ]
        assert norms
        assert {m.eps for m in norms} == {1e-3}


def test_deeploc_logits_come_after_a_batch_norm():
    network = load_model("deeploc", n_outputs=3).network
    with torch.no_grad():
        network.bn_fc3.weight.zero_()
        network.bn_fc3.bias.copy_(torch.tensor([1.0, 2.0, 3.0]))
        logits = network(torch.rand(2, 2, 60, 60))["logits"]
    assert logits.tolist() == [[1.0, 2.0, 3.0]] * 2


@pytest.mark.parametrize("name", ["pifia", "pci"])
def test_taps_and_pooling_are_what_their_names_say(name):
    first = load_model(name, n_outputs=2).network.stages[0]
    order = ("relu", "norm") if name == "pci" else ("norm", "relu")
    for pooling in ("max", "mean"):
        for tap in ("conv", "norm", "relu"):
            model = load_model(
                name,
                n_outputs=2,
                overrides={
                    "layers": [first.conv], "classification_layer": first.conv,
                    "profile_layer": first.conv, "pooling": pooling, "tap": tap,
                },
            )  # fmt: skip
            network = model.network
            norm = getattr(network, first.norm)
            norm.running_mean.fill_(0.05)
            x = torch.rand(2, len(model.spec.channels), 64, 64)
            with torch.inference_mode():
                y = getattr(network, first.conv)(x)
                for operation in () if tap == "conv" else order[: order.index(tap) + 1]:
                    y = norm(y) if operation == "norm" else y.clamp_min(0)
                expected = y.amax((2, 3)) if pooling == "max" else y.mean((2, 3))
                torch.testing.assert_close(network(x)[first.conv], expected)


def test_a_layer_that_does_not_exist_is_refused_with_the_nearest():
    with pytest.raises(ConfigError, match=r"conv9.*did you mean 'conv8'"):
        load_model("pifia", overrides={"layers": ["conv9", "conv8", "d2"]})


def test_an_unknown_model_is_refused_with_the_nearest():
    with pytest.raises(UnknownNameError, match="did you mean 'pifia'"):
        load_model("pifa")


# ---- random weights


def test_random_weights_are_a_function_of_the_seed_and_leave_torch_alone():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    a, b, c = (load_model("tiny", seed=s).network.state_dict() for s in (3, 3, 4))
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert not torch.equal(a["conv1.weight"], c["conv1.weight"])


def test_random_weights_are_these_on_every_machine():
    weight = load_model("tiny", seed=0).network.state_dict()["conv2.weight"].flatten()
    assert weight[:3].tolist() == [-0.17465096712112427, -0.009992185048758984, 0.13320252299308777]


# ---- embedding


@pytest.mark.parametrize("name", ["tiny", "pifia"])
def test_features_have_the_same_bits_for_every_unit_size_and_order(name):
    model = load_model(name, n_outputs=2, overrides={"micro_batch": 8})
    crops, masks = counts(21, len(model.spec.channels)), disc(21)
    whole = model.embed(crops, masks)
    for size in (1, 5, 8, 13):
        parts = [model.embed(crops[i : i + size], masks[i : i + size]) for i in range(0, 21, size)]
        for layer in whole:
            np.testing.assert_array_equal(np.concatenate([p[layer] for p in parts]), whole[layer])
    shuffled = np.random.default_rng(1).permutation(21)
    for layer, values in model.embed(crops[shuffled], masks[shuffled]).items():
        np.testing.assert_array_equal(values, whole[layer][shuffled])


@pytest.mark.parametrize("name", NAMES)
def test_a_model_returns_float32_features_of_its_layers_in_every_mode(name):
    model = load_model(name, n_outputs=2, overrides={"micro_batch": 2})
    crops, masks = counts(3, len(model.spec.channels)), disc(3)
    results = [model.embed(crops, masks, mode) for mode in preprocessing.MODES]
    for result in results:
        assert list(result) == list(model.spec.layers)
        for layer, values in result.items():
            assert values.shape == (3, model.spec.layers[layer])
            assert values.dtype == np.float32
            assert np.isfinite(values).all()
    layer = model.spec.classification_layer
    assert not np.array_equal(results[0][layer], results[1][layer])


def test_uint16_and_float32_counts_give_the_same_features():
    model = load_model("tiny")
    crops = counts(3, 2)
    np.testing.assert_array_equal(
        model.embed(crops)["profile"], model.embed(crops.astype(np.float32))["profile"]
    )


def test_no_cells_give_no_features():
    assert load_model("tiny").embed(counts(0, 2))["profile"].shape == (0, 64)


def test_deeploc_embeds_the_centre_or_the_mean_over_the_corners_too():
    crops = counts(2, 2)
    centre, corners = (
        load_model("deeploc", overrides={"micro_batch": 2, "views": v}).embed(crops)["conv5"]
        for v in ("centre", "corners")
    )
    outside = crops.copy()
    outside[:, :, 0, 20:30] = outside[:, :, 1, 20:30]
    changed = load_model("deeploc", overrides={"micro_batch": 2}).embed(outside)["conv5"]
    assert not np.array_equal(centre, corners)
    np.testing.assert_allclose(changed, centre, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize(
    ("crops", "masks", "message"),
    [
        (counts(2, 1), None, r"\(2, 1, 64, 64\).*\(cell, 2, 64, 64\)"),
        (counts(2, 2)[..., :60], None, "input_size_px"),
        (counts(2, 2), disc(3), r"masks have shape \(3, 64, 64\)"),
        (counts(2, 2), disc(2) * 127, "code 254"),
    ],
)
def test_crops_and_masks_that_do_not_fit_are_refused(crops, masks, message):
    with pytest.raises(InputError, match=message):
        load_model("tiny").embed(crops, masks)


def test_masked_without_masks_is_refused():
    with pytest.raises(InputError, match="need the masks"):
        load_model("tiny").embed(counts(1, 2), None, "masked")


# ---- preprocessing


def reference_minmax(crops):
    low, high = crops.min((2, 3), keepdims=True), crops.max((2, 3), keepdims=True)
    return (crops - low) / (high - low)


def reference_standardise(crops):
    mean = crops.mean((1, 2, 3), keepdims=True)
    sd = crops.std((1, 2, 3), keepdims=True)
    return (crops - mean) / np.maximum(sd, 1 / np.sqrt(crops[0].size))


def reference_percentile_range(crops):
    low, high = np.percentile(crops, [0.1, 99.9], axis=(2, 3), keepdims=True)
    width = high - low
    return (np.minimum(crops, high) - low) / np.where(width > 1, width, 1)


def reference_minmax_inside(crops, masks):
    out = np.empty(crops.shape)
    for i, j in np.ndindex(crops.shape[:2]):
        inside = crops[i, j][masks[i] == 1]
        out[i, j] = (crops[i, j] - inside.min()) / (inside.max() - inside.min())
    return out


@pytest.mark.parametrize("step", STEPS)
def test_each_step_equals_its_plain_reference(step):
    crops, masks = counts(4, 2), disc(4)
    exact = crops.astype(np.float64)
    expected = {
        "minmax": reference_minmax(exact),
        "minmax_inside": reference_minmax_inside(exact, masks),
        "percentile_range": reference_percentile_range(exact),
        "standardise": reference_standardise(exact),
        "mask": exact * (masks == 1)[:, None],
    }[step]
    result = apply_steps(*tensors(crops, masks), [step])
    assert result.dtype == torch.float32
    np.testing.assert_allclose(result.numpy(), expected, rtol=1e-5, atol=1e-5)


def test_percentile_range_does_not_divide_by_a_difference_of_one_or_less():
    crops = counts(2, 2) / np.float32(1e6)
    result = apply_steps(*tensors(crops, disc(2)), ["percentile_range"]).numpy()
    assert result.max() < 0.01
    np.testing.assert_allclose(
        result, reference_percentile_range(crops.astype(np.float64)), atol=1e-7
    )


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("value", [0.0, 1000.0])
def test_a_constant_crop_gives_no_nan(step, value):
    crops = torch.full((2, 2, 64, 64), value)
    for masks in (torch.ones(2, 64, 64), torch.zeros(2, 64, 64)):
        assert torch.isfinite(apply_steps(crops, masks.bool(), [step])).all()


def test_pifia_is_standardised_but_not_when_masked():
    spec = MODELS["pifia"].default_spec
    crops, masks = counts(3, 1), disc(3)
    exact = crops.astype(np.float64)
    np.testing.assert_allclose(
        preprocess(*tensors(crops, masks), spec).numpy(),
        reference_standardise(reference_minmax(exact)),
        atol=1e-5,
    )
    np.testing.assert_allclose(
        preprocess(*tensors(crops, masks), spec, "masked").numpy(),
        reference_minmax(exact) * (masks == 1)[:, None],
        atol=1e-6,
    )


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("mode", ["masked", "masked_mean"])
def test_masked_is_exactly_zero_outside_the_cell_and_scaled_before(name, mode):
    spec = MODELS[name].default_spec
    crops, masks = counts(3, len(spec.channels)), disc(3)
    result = preprocess(*tensors(crops, masks), spec, mode).numpy()
    outside = np.broadcast_to((masks != 1)[:, None], result.shape)
    assert (result[outside] == 0).all()
    names = spec.preprocess if mode == "masked_mean" else spec.masked_preprocess[:-1]
    scaled = apply_steps(*tensors(crops, masks), names).numpy()
    np.testing.assert_array_equal(result[~outside], scaled[~outside])


def test_a_model_scaled_and_masked_by_the_cell_alone_ignores_the_background_bit_for_bit():
    model = load_model("tiny", overrides={"preprocess": ["minmax_inside", "mask"]})
    crops, masks = counts(5, 2), disc(5)
    other = np.where((masks == 1)[:, None], crops, counts(5, 2, seed=9) * 7)
    np.testing.assert_array_equal(
        model.embed(crops, masks)["profile"], model.embed(other, masks)["profile"]
    )
    usual = load_model("tiny")
    assert not np.array_equal(
        usual.embed(crops, masks)["profile"], usual.embed(other, masks)["profile"]
    )


def test_unknown_steps_and_modes_are_refused_with_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'standardise'"):
        load_model("tiny", overrides={"preprocess": ["standardize"]})
    with pytest.raises(ConfigError, match="did you mean 'minmax'"):
        apply_steps(torch.zeros(1, 1, 4, 4), torch.zeros(1, 4, 4).bool(), ["minmx"])
    with pytest.raises(ConfigError, match="did you mean 'masked'"):
        load_model("tiny").embed(counts(1, 2), disc(1), "maskd")


# ---- spec


@pytest.mark.parametrize("name", NAMES)
def test_a_spec_survives_json(name):
    spec = replace(MODELS[name].default_spec, n_outputs=2, class_names=("a", "b"))
    assert ModelSpec.from_config(json.loads(json.dumps(spec.to_config()))) == spec


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"masked_preprocess": ["mask", "minmax"]}, "'mask' as the last step"),
        ({"channels": ["gfp"]}, "unknown channels 'gfp'"),
        ({"channels": []}, "one or more"),
        ({"pooling": "maximum"}, "unknown pooling"),
        ({"tap": "bn"}, "unknown tap"),
        ({"profile_layer": "profil"}, "did you mean 'profile'"),
        ({"micro_batch": 0}, "1 or more"),
        ({"network_crop_px": 65}, "at most input_size_px"),
        ({"class_names": ["a"]}, "1 class_names for n_outputs = 2"),
        ({"micro_bach": 3}, "did you mean 'micro_batch'"),
        ({"preprocess": "minmax"}, "sequence of names"),
    ],
)
def test_a_spec_that_makes_no_sense_is_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        load_model("tiny", n_outputs=2, overrides=changes)


# ---- weights files


def test_weights_survive_the_file_with_spec_and_hash(tmp_path):
    model = load_model("tiny", seed=5, n_outputs=2, overrides={"class_names": ["a", "b"]})
    path = tmp_path / "tiny.safetensors"
    sha256 = save_weights(path, model.network, model.spec)
    again = load_model("tiny", weights=path)
    assert again.spec == replace(model.spec, weights=path.name, weights_sha256=sha256)
    assert (model.random_weights, again.random_weights) == (True, False)
    crops = counts(4, 2)
    np.testing.assert_array_equal(again.embed(crops)["profile"], model.embed(crops)["profile"])
    assert save_weights(path, model.network, model.spec) == sha256
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_a_file_without_spec_or_step_counters_is_read_with_the_defaults(tmp_path):
    model = load_model("pci", n_outputs=2)
    state = {k: v.contiguous() for k, v in model.network.state_dict().items() if "tracked" not in k}
    path = tmp_path / "converted.safetensors"
    path.write_bytes(safetensors.torch.save(state))
    assert read_weights(path).spec is None
    again = load_model("pci", weights=path, n_outputs=2)
    assert again.spec.weights == "converted.safetensors"
    assert len(again.spec.weights_sha256) == 64


def test_weights_that_do_not_fit_name_the_first_keys_and_shapes(tmp_path):
    path = tmp_path / "w.safetensors"
    model = load_model("tiny", n_outputs=2)
    save_weights(path, model.network, model.spec)
    with pytest.raises(InputError, match=r"head\.weight is \(2, 64\), expected \(7, 64\)"):
        load_model("tiny", weights=path, n_outputs=7)
    with pytest.raises(InputError, match="of the model 'tiny'; expected 'pifia'"):
        load_model("pifia", weights=path)
    path.write_bytes(safetensors.torch.save({"conv9.weight": torch.zeros(2)}))
    with pytest.raises(InputError, match=r"missing: conv1\.weight.*unexpected: conv9\.weight"):
        load_model("tiny", weights=path)


def test_weights_with_nan_are_refused(tmp_path):
    path = tmp_path / "w.safetensors"
    model = load_model("tiny")
    model.network.head.bias.data.fill_(torch.nan)
    save_weights(path, model.network, model.spec)
    with pytest.raises(InputError, match=r"NaN or infinite: head\.bias"):
        load_model("tiny", weights=path)


def test_what_is_not_safetensors_is_refused(tmp_path):
    pickled = tmp_path / "weights.pt"
    torch.save({"a": torch.zeros(1)}, pickled)
    empty = tmp_path / "empty.safetensors"
    empty.touch()
    for path in (pickled, empty):
        with pytest.raises(InputError, match="not a safetensors file"):
            load_model("tiny", weights=path)
    with pytest.raises(InputError, match="No such file"):
        load_model("tiny", weights=tmp_path / "absent.safetensors")
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(safetensors.torch.save({"a": torch.zeros(1)}, {"bgscale_spec": "{"}))
    with pytest.raises(InputError, match="spec in its metadata"):
        load_model("tiny", weights=broken)


def test_a_network_of_another_package_needs_only_a_spec_and_layers():
    class Mean(torch.nn.Module):
        def __init__(self, spec):
            super().__init__()
            self.scale = torch.nn.Parameter(torch.ones(1))

        def forward(self, x):
            return {"mean": x.mean((2, 3)) * self.scale, "logits": x.mean((2, 3))}

    from bgscale.models.embedding import EmbeddingModel

    spec = replace(
        MODELS["tiny"].default_spec, architecture="mean", layers={"mean": 2},
        classification_layer="mean", profile_layer="mean",
    )  # fmt: skip
    features = EmbeddingModel(spec, build_network(Mean, spec)).embed(counts(3, 2))
    assert features["mean"].shape == (3, 2)
