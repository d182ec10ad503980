"""The conformance check passes what keeps the rules and finds what breaks each of them."""

import json
import re
from importlib.metadata import EntryPoint

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from bgscale import registry
from bgscale.cli import main
from bgscale.errors import EXIT_BAD_INPUT, InputError
from bgscale.models import load_model
from bgscale.models.check import CHECKS, check_model
from bgscale.models.embedding import EmbeddingModel
from bgscale.models.engine import Engine
from bgscale.models.listing import listed
from bgscale.models.spec import ModelSpec
from bgscale.models.weights import save_weights

SPEC = ModelSpec(
    architecture="made_up",
    channels=("protein",),
    preprocess=("minmax",),
    masked_preprocess=("minmax", "mask"),
    layers={"profile": 2},
    classification_layer="profile",
    profile_layer="profile",
    micro_batch=8,
)


class Good(torch.nn.Module):
    """Mean and maximum of a crop."""

    default_spec = SPEC

    def __init__(self, spec: ModelSpec = SPEC) -> None:
        super().__init__()
        self.spec = spec
        self.scale = torch.nn.Parameter(torch.ones(1))

    @classmethod
    def widths(cls) -> dict[str, int]:
        return {"profile": 2}

    def forward(self, x):
        return {"profile": self.features(x) * self.scale}

    def features(self, x):
        return torch.stack([x.mean((1, 2, 3)), x[:, :, 20:40].amax((1, 2, 3))], dim=1)


class Chance(Good):
    """Never the same twice."""

    def features(self, x):
        return super().features(x) + torch.rand(1)


class Batch(Good):
    """Takes the mean of the batch away."""

    def features(self, x):
        return super().features(x) - super().features(x).mean(0)


class Place(Good):
    """Counts along the batch."""

    def features(self, x):
        return super().features(x) + torch.arange(len(x))[:, None]


class Divides(Good):
    """By nothing, where a crop is constant."""

    def features(self, x):
        return super().features(x) / x.std((1, 2, 3))[:, None]


class Blind(Good):
    """Sees nothing."""

    def features(self, x):
        return torch.ones(len(x), 2)


class Narrow(Good):
    """One feature for two."""

    def features(self, x):
        return super().features(x)[:, :1]


class Raises(Good):
    """Cannot run."""

    def features(self, x):
        raise RuntimeError("no such operator")


def failed(network, **changes):
    spec = ModelSpec.from_config(SPEC.to_config() | changes)
    return {c.name: c.detail for c in check_model(EmbeddingModel(spec, network)) if not c.passed}


def test_a_model_that_keeps_the_rules_passes_every_check():
    checks = check_model(EmbeddingModel(SPEC, Good()))
    assert [c.name for c in checks] == list(CHECKS)
    assert [c.name for c in checks if not c.passed] == []
    assert {c.name: c.detail for c in checks}["companions"].startswith("the same bytes")


@pytest.mark.parametrize("name", ["tiny", "pifia", "pci", "deeploc"])
def test_the_built_in_models_pass(name):
    model = load_model(name, n_outputs=3, overrides={"micro_batch": 8})
    assert [c for c in check_model(model) if not c.passed] == []


@pytest.mark.parametrize(
    ("network", "name", "part"),
    [
        (Chance, "repeats", "chance"),
        (Batch, "companions", "batch"),
        (Place, "companions", "place in the batch"),
        (Divides, "finite", "zero"),
        (Blind, "reads", "the same for four"),
        (Blind, "modes", "see its input"),
        (Narrow, "shapes", "profile has (8, 1), expected (8, 2)"),
        (Raises, "shapes", "no such operator"),
    ],
)
def test_each_broken_rule_is_found(network, name, part):
    assert part in failed(network())[name]


def test_what_masking_lets_through_is_found(monkeypatch):
    from bgscale.models import preprocess

    monkeypatch.setitem(preprocess._STEPS, "mask", lambda crops, masks: crops)
    found = failed(Good(), masked_preprocess=["minmax_inside", "mask"])
    assert "outside the cell" in found["masked"]


def test_the_scale_of_a_masked_crop_is_explained():
    def detail(**changes):
        spec = ModelSpec.from_config(SPEC.to_config() | changes)
        checks = {c.name: c for c in check_model(EmbeddingModel(spec, Good()))}
        assert checks["masked"].passed
        return checks["masked"].detail

    assert "minmax takes the scale from the whole crop" in detail()
    assert "whatever is outside" in detail(masked_preprocess=["minmax_inside", "mask"])


# ---- the command line


def call(*arguments):
    return CliRunner().invoke(main, [str(a) for a in arguments])


@pytest.fixture
def plugged(monkeypatch):
    plugins = [
        EntryPoint(name, f"test_model_check:{value}", "bgscale.models")
        for name, value in (("good", "Good"), ("chance", "Chance"), ("broken", "Missing"))
    ]
    monkeypatch.setattr(
        registry, "entry_points", lambda group: plugins if group == "bgscale.models" else []
    )


def test_the_table_lists_what_is_there_and_what_is_broken(plugged):
    assert [m.name for m in listed()] == [
        "tiny", "pifia", "pci", "deeploc", "broken", "chance", "good",
    ]  # fmt: skip
    printed = call("models")
    assert printed.exit_code == 0
    for part in (
        "pifia  (built in)",
        "protein + cytosol, 64x64, of which 60x60 px",
        "conv8 (256: classification), d2 (64: proportions)",
        "2,729,873 parameters",
        "good  (plug-in",
        "cannot be imported",
    ):
        assert part in printed.stdout
    rows = {row["name"]: row for row in json.loads(call("models", "--json").stdout)}
    assert rows["good"]["parameters"] == 1
    assert rows["tiny"]["spec"]["licence"] == "BSD-3-Clause"
    assert rows["broken"]["spec"] is None


def test_a_plug_in_is_checked_by_its_name(plugged):
    good = call("models", "check", "good")
    assert good.exit_code == 0
    assert len(good.stdout.splitlines()) == len(CHECKS)
    assert all(line.startswith("ok ") for line in good.stdout.splitlines())
    chance = call("models", "check", "chance")
    assert chance.exit_code == 1
    assert "FAILED  repeats" in chance.stdout
    rows = json.loads(call("models", "check", "chance", "--json").stdout)
    assert [row["name"] for row in rows if not row["passed"]] == [
        "repeats", "companions", "masked",
    ]  # fmt: skip
    assert call("models", "check", "broken").exit_code == 2


def test_a_weights_file_and_an_architecture_are_checked_and_shown(tmp_path):
    model = load_model("tiny", n_outputs=3, overrides={"micro_batch": 4})
    save_weights(tmp_path / "mine.safetensors", model.network, model.spec)
    assert call("models", "check", tmp_path / "mine.safetensors").exit_code == 0
    shown = json.loads(call("models", "show", tmp_path / "mine.safetensors").stdout)
    assert shown["weights"] == "mine.safetensors"
    assert shown["n_outputs"] == 3
    assert json.loads(call("models", "show", "tiny").stdout)["architecture"] == "tiny"
    missing = call("models", "check", "tinny")
    assert missing.exit_code == 2
    assert "did you mean 'tiny'" in missing.stderr


def test_weights_of_elsewhere_do_not_say_which_model_they_are_of(tmp_path):
    import safetensors.torch

    path = tmp_path / "other.safetensors"
    safetensors.torch.save_file({"a": torch.zeros(1)}, path)
    result = call("models", "check", path)
    assert result.exit_code == 2
    assert "give the architecture" in result.stderr


@pytest.mark.parametrize(
    ("device", "said"),
    [
        ("cuda", "torch .* sees 0 GPUs here; take 'cpu'"),
        ("cuda:1", "sees 0 GPUs here"),
        ("gpu", "expected 'cpu', 'cuda', or 'cuda:1'"),
        ("cuda:x", "expected 'cpu', 'cuda'"),
    ],
)
def test_a_device_that_is_not_there_is_bad_input(device, said, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    result = call("models", "check", "tiny", "--device", device)
    assert result.exit_code == EXIT_BAD_INPUT
    assert re.search(said, result.stderr)
    assert "Traceback" not in result.output
    # a model may be planned for a GPU where there is none; it is not run there
    if device == "cuda":
        model = load_model("tiny").on(Engine(device=device))
        with pytest.raises(InputError, match=said):
            model.embed(np.zeros((1, 2, 64, 64), np.uint16))
