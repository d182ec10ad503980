"""Engines change how fast features come, and no more than they say; each is chosen once."""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from screens import config_of

from bgscale.errors import InputError, StoreMismatchError
from bgscale.models import engine as engine_module
from bgscale.models import load_model, probe
from bgscale.models.backends import prepared, runner
from bgscale.models.engine import Engine, candidates, processor
from bgscale.run import Run, engines
from bgscale.schema import Missing
from bgscale.stages import embedding

ARCHITECTURES = ("tiny", "pifia", "pci", "deeploc")
FLOAT32 = Engine(backend="openvino", micro_batch=16)
BFLOAT16 = Engine(backend="openvino", precision="bfloat16", micro_batch=16)
TORCH_BFLOAT16 = Engine(precision="bfloat16", micro_batch=16)
ENGINES = (FLOAT32, BFLOAT16, TORCH_BFLOAT16)
N = 20


def model_of(name, **overrides):
    """Return a model as if it had been trained: its norms shift and scale."""
    model = load_model(name, seed=3, overrides={"micro_batch": 16, **overrides})
    rng = np.random.default_rng(5)
    for module in model.network.modules():
        if isinstance(module, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d):
            for values, low, high in (
                (module.running_mean, -0.3, 0.3), (module.running_var, 0.5, 1.5),
                (module.weight.data, 0.7, 1.3), (module.bias.data, -0.2, 0.2),
            ):  # fmt: skip
                values.copy_(torch.from_numpy(rng.uniform(low, high, values.shape)))
    return model


@pytest.fixture(scope="module")
def crops():
    rng = np.random.default_rng(2)
    smooth = rng.gamma(2.0, 100.0, (N, 2, 16, 16)).repeat(4, 2).repeat(4, 3)
    return (smooth + rng.normal(300, 10, (N, 2, 64, 64))).astype(np.uint16)


@pytest.fixture(scope="module")
def masks():
    return (np.hypot(*np.mgrid[-32:32, -32:32]) < 15)[None].repeat(N, 0).astype(np.uint8)


def seen_by(model, crops):
    return crops[:, : len(model.spec.channels)]


# the same features


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_engines_give_the_features_of_the_reference(name, crops, masks):
    model = model_of(name)
    for mode in ("unmasked", "masked"):
        expected = model.embed(seen_by(model, crops), masks, mode)
        for engine in ENGINES:
            features = model.on(engine).embed(seen_by(model, crops), masks, mode)
            assert list(features) == list(model.spec.layers)
            for layer, values in features.items():
                largest = np.abs(expected[layer]).max()
                error = np.abs(values - expected[layer]).max() / largest
                assert values.dtype == np.float32
                assert error < (1e-5 if engine.precision == "float32" else 3e-2)
                # and rounding is there where it was asked for
                assert error > 1e-4 or engine.precision == "float32"


@pytest.mark.skipif(not engine_module.has_compiler(), reason="torch.compile: no C++ compiler")
@pytest.mark.filterwarnings("ignore:.*jit.script_method.*:DeprecationWarning")  # torch's own
def test_a_compiled_network_gives_the_features_of_the_reference(crops, masks):
    model = model_of("tiny")
    expected = model.embed(seen_by(model, crops), masks, "masked")
    compiled = model.on(replace(model.engine, backend="compiled"))
    for layer, values in compiled.embed(seen_by(model, crops), masks, "masked").items():
        assert np.abs(values - expected[layer]).max() < 1e-5 * np.abs(expected[layer]).max()


@pytest.mark.parametrize("tap", ["conv", "norm", "relu"])
@pytest.mark.parametrize("name", ["deeploc", "pci"])
def test_folding_leaves_what_is_read_as_it_was(name, tap, crops):
    layers = {"classification_layer": "conv2" if name == "deeploc" else "conv3_1"}
    layers["profile_layer"] = layers["classification_layer"]
    model = model_of(name, tap=tap, layers=[layers["profile_layer"]], pooling="mean", **layers)
    expected = model.embed(seen_by(model, crops))
    for layer, values in model.on(FLOAT32).embed(seen_by(model, crops)).items():
        np.testing.assert_allclose(values, expected[layer], rtol=1e-4, atol=1e-5)


def test_the_mean_over_views_is_the_same(crops):
    model = model_of("deeploc", views="corners")
    expected = model.embed(seen_by(model, crops))
    for layer, values in model.on(FLOAT32).embed(seen_by(model, crops)).items():
        np.testing.assert_allclose(values, expected[layer], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("name", "layer"), [("pifia", "conv8"), ("deeploc", "conv5")])
def test_nothing_is_computed_after_the_last_layer_that_is_read(name, layer):
    only = {"layers": [layer], "classification_layer": layer, "profile_layer": layer}
    network = prepared(model_of(name, **only).network)
    ran = []
    for part, module in network.named_modules():
        module.register_forward_hook(lambda *_, part=part: ran.append(part))
    spec = network.spec
    read = network(torch.zeros(1, len(spec.channels), spec.network_crop_px, spec.network_crop_px))
    assert list(read) == [layer]
    assert layer in ran
    convolutions = [f"conv{i}" for i in range(1, 9)]
    assert [p for p in ran if p in convolutions] == convolutions[: convolutions.index(layer) + 1]
    assert not [p for p in ran if p.startswith(("d", "fc"))]


@pytest.mark.parametrize("engine", [replace(e, micro_batch=8) for e in ENGINES], ids=str)
@pytest.mark.parametrize("name", ["pifia", "pci"])
def test_the_features_of_a_crop_do_not_depend_on_the_others(name, engine, crops):
    model = model_of(name).on(engine)
    together = model.embed(seen_by(model, crops))
    apart = model.embed(seen_by(model, crops)[5:8])
    turned = model.embed(seen_by(model, crops)[::-1])
    for layer, values in together.items():
        np.testing.assert_array_equal(apart[layer], values[5:8])
        np.testing.assert_array_equal(turned[layer], values[::-1])


@pytest.mark.parametrize("engine", ENGINES, ids=str)
def test_the_features_do_not_depend_on_the_number_of_threads(engine, crops):
    found, before = [], torch.get_num_threads()
    try:
        for threads in 1, 2, 3:
            torch.set_num_threads(threads)
            # its dense layers are long sums
            model = model_of("deeploc").on(engine)
            found.append(model.embed(seen_by(model, crops).repeat(2, axis=0)))
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        for layer, values in found[0].items():
            np.testing.assert_array_equal(values, other[layer])


def test_torch_keeps_to_one_thread_while_micro_batches_are_under_way(crops):
    seen, before = [], torch.get_num_threads()
    images = torch.from_numpy(crops[:16, :1].astype(np.float32))

    def batch(part):
        seen.append(torch.get_num_threads())
        return images, None

    try:
        torch.set_num_threads(2)
        for engine in FLOAT32, TORCH_BFLOAT16:
            model_of("pifia").on(engine).begin(16, batch)()
            assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert seen == [1, 2]


def test_threads_of_a_worker_do_not_mix_their_crops(crops):
    model = model_of("tiny").on(FLOAT32)
    several = [seen_by(model, np.roll(crops, n, axis=0)).repeat(3, axis=0) for n in range(4)]
    expected = [model.embed(one)["profile"] for one in several]
    with ThreadPoolExecutor(4) as threads:
        for _ in range(5):
            found = list(threads.map(lambda one: model.embed(one)["profile"], several))
            for values, alone in zip(found, expected, strict=True):
                np.testing.assert_array_equal(values, alone)


# on a device


def plain_model():
    """Return a model of operations that torch's device of tensors without values knows."""
    model = load_model("tiny", overrides={"micro_batch": 16})
    model.network = Plain()
    return model


class Plain(torch.nn.Module):
    """A convolution and its mean."""

    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(2, 64, 3)

    def forward(self, x):
        return {"profile": self.conv(x).mean((2, 3))}


META = Engine(device="meta", micro_batch=16)


def test_weights_that_go_to_a_device_with_the_first_crops_can_still_be_trained():
    model = plain_model().on(META)
    model.forward(torch.zeros(16, 2, 64, 64, device="meta"), None, "unmasked")
    weights = list(model.network.parameters())
    assert {(w.device.type, w.is_inference()) for w in weights} == {("meta", False)}


def test_a_runner_has_its_network_on_its_device():
    model = plain_model()
    runner(model.network, model.spec, META)
    assert {w.device.type for w in model.network.parameters()} == {"meta"}


# which engine


@pytest.fixture
def machine(monkeypatch):
    """Return a function that gives this machine other abilities."""

    def of(*, units=(), installed=True):
        monkeypatch.setattr(engine_module, "cpu_units", lambda: list(units))
        found = object() if installed else None
        monkeypatch.setattr(engine_module, "find_spec", lambda _: found)

    return of


def kinds(found):
    return [(e.backend, e.precision) for e in found]


def test_what_is_tried_is_what_the_machine_and_the_network_allow(machine, monkeypatch):
    model = model_of("pifia")
    monkeypatch.setattr(type(model.network), "reduced_precision", ("bfloat16",))
    exact = [("torch", "float32"), ("openvino", "float32")]
    machine(units=["amx_bf16"])
    assert kinds(candidates(model)) == [*exact, ("torch", "bfloat16"), ("openvino", "bfloat16")]
    machine(units=[])
    assert kinds(candidates(model)) == exact
    machine(units=["avx512_bf16"], installed=False)
    assert kinds(candidates(model)) == [("torch", "float32"), ("torch", "bfloat16")]
    assert kinds(candidates(model, backend="torch", precision="float32")) == exact[:1]
    monkeypatch.setattr(type(model.network), "reduced_precision", ())
    assert kinds(candidates(model)) == exact[:1]
    # what is asked for is done
    assert kinds(candidates(model, precision="bfloat16")) == [("torch", "bfloat16")]


def test_a_small_network_is_run_as_it_is_unless_asked_otherwise(machine):
    machine(units=["amx_bf16"])
    assert kinds(candidates(model_of("tiny"))) == [("torch", "float32")]
    asked = candidates(model_of("tiny"), backend="openvino", precision="bfloat16")
    assert kinds(asked) == [("openvino", "bfloat16")]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"backend": "openvino"}, "'openvino' is not installed: pip install 'bgscale"),
        ({"precision": "float16"}, "precision 'float16' is for GPUs"),
        ({"backend": "compiled"}, "'compiled' needs a C"),
        ({"backend": "compiled", "device": "cuda"}, "'compiled' needs a C compiler"),
        ({"backend": "openvino", "device": "cuda"}, "'openvino' is for processors"),
        ({"backend": "torch", "device": "cuda"}, "device 'cuda': torch .* sees 0 GPUs here"),
    ],
)
def test_what_cannot_be_run_is_refused(machine, asked, message, monkeypatch):
    monkeypatch.setattr(engine_module, "has_compiler", lambda *_: False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    machine(installed=False)
    with pytest.raises(InputError, match=message):
        candidates(model_of("pifia"), **asked)


def test_a_program_is_run_as_it_is():
    model = model_of("pifia")
    model.network.backends = ("torch",)
    assert kinds(candidates(model)) == [("torch", "float32")]
    for asked in ({"backend": "openvino"}, {"precision": "bfloat16"}):
        with pytest.raises(InputError, match="it runs only as it is"):
            candidates(model, **asked)


def test_an_engine_survives_json():
    assert Engine.from_config(json.loads(json.dumps(BFLOAT16.to_config()))) == BFLOAT16


def test_the_probe_runs_each_engine_and_leaves_out_what_fails(monkeypatch):
    model = model_of("tiny")
    monkeypatch.setattr(probe, "PROBE_S", 0.01)
    found = probe.rates(model, [model.engine, FLOAT32])
    assert all(rate > 0 for rate in found.values())

    def broken(*_):
        raise InputError("OpenVINO cannot convert it")

    monkeypatch.setattr("bgscale.models.backends._converted", broken)
    assert probe.rates(model, [model.engine, FLOAT32])[FLOAT32] == 0
    assert probe.fastest({model.engine: 5.0, FLOAT32: 0.0}) == model.engine


def test_an_engine_that_fails_where_it_is_tried_is_left_out_and_if_all_fail_that_is_said(
    monkeypatch,
):
    model, engines_here = model_of("tiny"), [Engine(micro_batch=16), TORCH_BFLOAT16]
    monkeypatch.setattr(probe, "PROBE_S", 0.01)
    failing = {TORCH_BFLOAT16}
    plain = probe.EmbeddingModel.forward

    def forward(self, *arguments):
        if self.engine in failing:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to\nallocate")
        return plain(self, *arguments)

    monkeypatch.setattr(probe.EmbeddingModel, "forward", forward)
    found = probe.rates(model, engines_here)
    assert found[TORCH_BFLOAT16] == 0
    assert probe.fastest(found) == engines_here[0]
    failing.add(engines_here[0])
    message = (
        r"model 'tiny' cannot be run here by torch, float32, on cpu \(CUDA out of memory. Tried to"
        r"\); by torch, bfloat16, on cpu \(CUDA"
    )
    with pytest.raises(InputError, match=message):
        probe.rates(model, engines_here)


def test_engines_of_a_gpu_are_tried_with_as_many_crops_as_it_has_memory_for(monkeypatch):
    model = model_of("tiny")
    engines_there = [Engine(device="cuda", precision=p) for p in ("float32", "bfloat16", "float16")]
    tried, emptied = [], []

    def rate(ready):
        tried.append((ready.engine.precision, ready.engine.micro_batch))
        if ready.engine.precision == "bfloat16":
            raise torch.OutOfMemoryError("CUDA out of memory")
        return 5.0

    monkeypatch.setattr(probe, "_rate", rate)
    monkeypatch.setattr(type(model), "on", lambda self, engine: SimpleNamespace(engine=engine))
    memory = {
        "reset_peak_memory_stats": None,
        "memory_allocated": 2**30,
        "max_memory_allocated": 2**30 + 64 * 2**20,
        "mem_get_info": (2**30, 2**34),
    }
    for name, value in memory.items():
        monkeypatch.setattr(torch.cuda, name, lambda *_, value=value: value)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: emptied.append(len(tried)))
    found = probe.rates(model, engines_there, fill=True)
    assert tried == [
        ("float32", 64), ("float32", 512), ("bfloat16", 64), ("float16", 64), ("float16", 512),
    ]  # fmt: skip
    assert [(e.precision, e.micro_batch, rate) for e, rate in found.items()] == [
        ("float32", 512, 5.0), ("bfloat16", 64, 0.0), ("float16", 512, 5.0),
    ]  # fmt: skip
    # neither what one has left nor what failed counts for the next one
    assert emptied == [1, 2, 3, 4, 5]


def test_a_network_that_openvino_cannot_convert_is_named():
    class Odd(torch.nn.Module):
        def forward(self, x):
            return {"profile": torch.linalg.eigvals(x[:, 0]).real.contiguous()}

    model = model_of("tiny")
    model.network = Odd()
    with pytest.raises(InputError, match="model 'tiny': OpenVINO cannot convert it"):
        model.on(FLOAT32).forward(torch.zeros(16, 2, 64, 64), None, "unmasked")


# the engine of a run


def chosen_for(monkeypatch, engine, tried):
    """Let the probe find an engine, and note that it was asked."""

    def choose(text, name):
        tried.append(name)
        return {"engine": engine.to_config(), "crops_per_s": {str(engine): 7.0}}

    monkeypatch.setattr(engines, "chosen", choose)


HERE = {"micro_batch": 64, "processor": processor()}


def test_a_run_keeps_the_engine_that_its_first_run_has_chosen(small_screen, tmp_path, monkeypatch):
    tried: list[str] = []
    config = config_of(small_screen, tmp_path)
    chosen_for(monkeypatch, Engine(precision="bfloat16", **HERE), tried)
    run = Run.from_config(config)
    run.execute(until="embed")
    assert tried == ["tiny"]
    node = "plates/crops/embeddings/tiny"
    assert run.store.attrs(node)["engine"]["precision"] == "bfloat16"
    before = run.store.read(f"{node}/profile/embedding", slice(0, 50))
    chosen_for(monkeypatch, Engine(**HERE), tried)
    again = Run.from_config(config)
    assert again.is_complete("embed")
    again.execute(until="grid")
    assert tried == ["tiny"]
    assert run.store.attrs("grid/tiny")["engine"]["precision"] == "bfloat16"
    np.testing.assert_array_equal(run.store.read(f"{node}/profile/embedding", slice(0, 50)), before)


def test_another_engine_is_another_config(small_screen, tmp_path):
    config = config_of(small_screen, tmp_path)
    Run.from_config(config).execute(until="embed")
    other = config_of(small_screen, tmp_path, models={"tiny": {"seed": 1, "precision": "bfloat16"}})
    with pytest.raises(StoreMismatchError, match="embed/tiny/crops"):
        Run.from_config(other).execute(until="embed")
    Run.from_config(other).execute(until="embed", redo=True)
    attrs = Run.from_config(other).store.attrs("plates/crops/embeddings/tiny")
    assert attrs["engine"]["precision"] == "bfloat16"


def test_a_worker_of_another_kind_is_refused_and_redo_takes_it(small_screen, tmp_path, monkeypatch):
    config = config_of(small_screen, tmp_path)
    run = Run.from_config(config)
    run.execute(until="embed")
    other = "x86_64 AVX2"
    for module in (embedding, engines, engine_module):
        monkeypatch.setattr(module, "processor", lambda _device="cpu": other)
    for path in (tmp_path / "results.zarr.progress").rglob("units/embed/**/*.json"):
        path.unlink()
    with pytest.raises(InputError, match="this worker is 'x86_64 AVX2'"):
        Run.from_config(config).execute(until="embed")
    Run.from_config(config).execute(until="embed", redo=True)
    attrs = run.store.attrs("plates/crops/embeddings/tiny")
    assert attrs["engine"]["processor"] == other


def test_what_only_the_workers_can_run_is_planned_here_and_asked_of_them(
    small_screen, tmp_path, monkeypatch
):
    models = {"tiny": {"seed": 1, "precision": "float16"}}
    config = config_of(small_screen, tmp_path, models=models)
    run = Run.from_config(config)
    assert "tiny: torch, float16" in run.describe_plan()
    run.check()
    # here there is no GPU, and nothing is begun
    monkeypatch.setattr(engines, "best_device", lambda: "cpu")
    with pytest.raises(InputError, match="precision 'float16' is for GPUs"):
        run.execute()
    assert not run.store.exists()


def test_a_worker_that_should_have_a_gpu_and_sees_none_is_no_processor_for_it(
    small_screen, tmp_path, monkeypatch
):
    asked = []

    def ask(client, question, *arguments, resources=None):
        asked.append(resources)
        return question(*arguments)

    monkeypatch.setattr(engines, "ask", ask)
    monkeypatch.setattr(engines, "best_device", lambda: "cpu")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2")
    job = Run.from_config(config_of(small_screen, tmp_path))._job
    message = (
        r"a worker on \S+ should have a GPU, but torch \S+ sees none there \(CUDA_VISIBLE_DEVICES "
        r"= '2'\): give it .*models.tiny.device = \"cpu\""
    )
    with pytest.raises(InputError, match=message):
        engines.choose(job, ["tiny"], None, {"GPU": 1})
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    with pytest.raises(InputError, match=r"CUDA_VISIBLE_DEVICES is not set"):
        engines.check_gpu("tiny")
    assert engines.choose(job, ["tiny"], None, None)["tiny"]["engine"]["device"] == "cpu"
    # who asks for a processor needs no worker with a GPU, neither to choose nor to embed
    models = {"tiny": {"seed": 1, "device": "cpu"}}
    job = Run.from_config(config_of(small_screen, tmp_path, models=models))._job
    asked.clear()
    assert engines.choose(job, ["tiny"], None, {"GPU": 1})["tiny"]["engine"]["device"] == "cpu"
    assert asked == [None]
    assert engines.needed_by(job, "tiny", {"GPU": 1}) is None
    there = replace(job, engines=(("tiny", Engine(device="cuda")),))
    assert engines.needed_by(there, "tiny", {"GPU": 1}) == {"GPU": 1}


@pytest.mark.cluster
def test_the_probe_runs_where_the_model_will_run(cluster, small_screen, tmp_path):
    run = Run.from_config(config_of(small_screen, tmp_path))
    answers = engines.choose(run._job, ["tiny"], cluster, None)
    assert Engine.from_config(answers["tiny"]["engine"]) == Engine(**HERE)


@pytest.mark.cluster
def test_reduced_precision_gives_the_same_bytes_whatever_workers_and_units(
    cluster, small_screen, tmp_path
):
    def embedded(name, client=None, **changes):
        (tmp_path / name).mkdir()
        how = {"seed": 1, "backend": "openvino", "precision": "bfloat16"}
        config = config_of(small_screen, tmp_path / name, models={"tiny": how}, **changes)
        run = Run.from_config(config)
        run.execute(client, until="grid")
        node = "plates/crops/embeddings/tiny/profile/embedding"
        return run.store.read(node), run.store.read("grid/tiny/profile/embedding")

    serial = embedded("serial")
    assert np.isfinite(serial[0]).any()
    for other in (
        embedded("workers", cluster),
        embedded("units", shard_cells=128),
    ):
        for mine, theirs in zip(serial, other, strict=True):
            np.testing.assert_array_equal(mine, theirs)


def test_who_drives_a_run_on_gpus_needs_none(small_screen, tmp_path, monkeypatch):
    config = config_of(small_screen, tmp_path)
    Run.from_config(config).execute(until="bank")
    fact = {"engine": Engine(device="cuda", processor="a GPU").to_config(), "crops_per_s": {}}
    monkeypatch.setattr(engines, "choose", lambda job, names, *_: dict.fromkeys(names, fact))
    given = {}

    def given_to_workers(work, units, text, **how):
        given.update(dict.fromkeys(units, (text, how["set_aside"])))

    monkeypatch.setattr("bgscale.run.groups.run_units", given_to_workers)
    run = Run.from_config(config)
    run.execute(until="grid")
    embed = [unit for unit in given if unit.stage == "embed/tiny/crops"]
    # eight shards of 64 cells each
    assert [unit.start for unit in embed] == list(range(0, embed[-1].stop, 512))
    assert "torch, float32, on cuda" in Run.from_config(config).describe_plan()
    # and marks what no worker could do
    text, set_aside = given[embed[0]]
    set_aside(embed[0], text)
    missing = run.store.read("plates/crops/embeddings/tiny/missing")[: embed[0].stop]
    assert set(missing.ravel().tolist()) <= {Missing.LOST, Missing.UNUSABLE}
    assert Missing.LOST in missing
