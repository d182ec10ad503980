"""Models from files: what they compute, what is refused, and that opening one runs nothing."""

import copy
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from programs import Small, edit_pt2, onnx_model, write_onnx, write_pt2, write_spec
from screens import config_of

from bgscale import open_results
from bgscale.cli import main
from bgscale.config import RunConfig
from bgscale.errors import ConfigError, InputError
from bgscale.models import ModelSpec, load_model
from bgscale.models.check import made_up
from bgscale.models.preprocess import MODES, preprocess
from bgscale.models.program import Program, load_program
from bgscale.models.program_onnx import OnnxRunner, check_onnx
from bgscale.models.program_pt2 import OPERATORS, open_pt2
from bgscale.models.program_spec import read_spec_file
from bgscale.run import Run, engines
from bgscale.train import model_to_train

pytest.importorskip("onnx", reason="onnx builds the files of these tests")
pytest.importorskip("onnxruntime", reason="onnxruntime runs the files of these tests")


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the same small network as four programs; tests must not change it."""
    folder, network = tmp_path_factory.mktemp("programs"), Small().eval()
    write_spec(write_pt2(folder / "free.pt2", network))
    write_spec(write_pt2(folder / "fixed.pt2", network, batch=8))
    write_spec(write_onnx(folder / "free_onnx.onnx", onnx_model(network)))
    last = write_onnx(folder / "last.onnx", onnx_model(network, batch=4, layout="NHWC"))
    write_spec(last, input_layout="NHWC", output_layout="NHWC", layers={
        "profile": "out/profile:0", "conv": "maps_last"})  # fmt: skip
    return folder


NAMES = ["free", "fixed", "free_onnx", "last"]


def copied(source: Path, folder: Path) -> Path:
    target = folder / source.name
    target.write_bytes(source.read_bytes())
    return target


def expected(spec: ModelSpec, crops: np.ndarray, masks: np.ndarray, mode: str) -> dict[str, Any]:
    x = preprocess(torch.from_numpy(crops), torch.from_numpy(masks == 1), spec, mode)
    with torch.inference_mode():
        outputs = Small().eval()(x)
    return {"conv": outputs["conv"].amax((2, 3)).numpy(), "profile": outputs["profile"].numpy()}


# ---- what they compute


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("mode", MODES)
def test_a_program_gives_the_features_of_the_network_it_was_made_from(files, name, mode):
    model = load_model(str(files / f"{name}.toml"))
    crops, masks = made_up(model.spec, 11)
    wanted = expected(model.spec, crops, masks, mode)
    found = model.embed(crops, masks, mode)
    assert {k: v.shape for k, v in found.items()} == {"conv": (11, 6), "profile": (11, 5)}
    for layer, values in found.items():
        scale = np.abs(wanted[layer]).max()
        assert scale > 0.1
        np.testing.assert_allclose(values, wanted[layer], rtol=0, atol=1e-6 * scale)


def test_the_mean_of_a_map_is_taken_where_the_spec_says_so(tmp_path, files):
    spec = write_spec(copied(files / "last.onnx", tmp_path), pooling="mean",
                      input_layout="NHWC", output_layout="NHWC")  # fmt: skip
    model = load_model(str(spec))
    crops, _ = made_up(model.spec, 4)
    x = preprocess(torch.from_numpy(crops), None, model.spec)
    with torch.inference_mode():
        wanted = Small().eval()(x)["conv"].mean((2, 3)).numpy()
    np.testing.assert_allclose(model.embed(crops)["conv"], wanted, rtol=0, atol=1e-5)


def test_a_fixed_batch_is_the_micro_batch_and_a_free_one_is_the_specs(tmp_path, files):
    assert load_model(str(files / "fixed.toml")).spec.micro_batch == 8
    assert load_model(str(files / "last.toml")).spec.micro_batch == 4
    assert load_model(str(files / "free.toml")).spec.micro_batch == 64
    spec = write_spec(copied(files / "free_onnx.onnx", tmp_path), micro_batch=5)
    assert load_model(str(spec)).spec.micro_batch == 5
    spec = write_spec(copied(files / "fixed.pt2", tmp_path), micro_batch=5)
    with pytest.raises(ConfigError, match=r"fixed\.toml: .*\(8, 2, 64, 64\).*\(5, 2, 64, 64\)"):
        load_model(str(spec))


@pytest.mark.parametrize("name", NAMES)
def test_features_do_not_depend_on_the_number_of_threads(files, name):
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            model = load_model(str(files / f"{name}.toml"))
            found.append(model.embed(*made_up(model.spec, 9)))
    finally:
        torch.set_num_threads(before)
    for layer in found[0]:
        assert found[0][layer].tobytes() == found[1][layer].tobytes()


def test_all_that_the_spec_file_says_is_in_the_spec_and_so_in_the_token(tmp_path, files):
    program = copied(files / "free.pt2", tmp_path)
    first = load_model(str(write_spec(program))).spec.to_config()
    assert first["weights"] == "free.pt2"
    assert first["weights_sha256"] == read_spec_file(program.with_suffix(".toml")).sha256
    assert ModelSpec.from_config(json.loads(json.dumps(first))).to_config() == first
    for change in (
        {"channels": ["cytosol", "protein"]},
        {"preprocess": ["minmax", "standardise"]},
        {"masked_preprocess": ["minmax_inside", "mask"]},
        {"layers": {"conv": 0, "profile": 0}},
        {"output_layout": "NHWC", "layers": {"conv": 1, "profile": 1}},
        {"classification_layer": "profile"},
        {"profile_layer": "conv"},
        {"input_size_px": 80, "network_crop_px": 64},
        {"input_size_px": 80, "network_crop_px": 64, "views": "corners"},
        {"pooling": "mean"},
        {"micro_batch": 7},
        {"pixel_size_um": 0.3},
        {"licence": "MIT"},
        {"origin": "elsewhere"},
    ):
        assert load_model(str(write_spec(program, **change))).spec.to_config() != first, change


def test_specs_of_other_models_are_as_they_were():
    assert "program" not in load_model("tiny").spec.to_config()


def test_only_torch_runs_a_program():
    assert Program.backends == ("torch",)


def test_a_change_of_memory_format_does_not_break_views(tmp_path):
    class Views(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = torch.nn.Conv2d(2, 8, 3, stride=4)

        def forward(self, x):
            maps = self.conv(x)
            return {"conv": maps, "profile": maps.view(x.shape[0], -1)[:, :5]}

    network = Views().eval()
    spec = write_spec(write_pt2(tmp_path / "views.pt2", network))
    model = load_model(str(spec))
    crops, _ = made_up(model.spec, 3)
    x = preprocess(torch.from_numpy(crops), None, model.spec)
    with torch.inference_mode():
        wanted = network(x)["profile"].numpy()
    np.testing.assert_allclose(model.embed(crops)["profile"], wanted, rtol=0, atol=1e-5)


class Attends(torch.nn.Module):
    """A small vision transformer: patches, attention, layer norm."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = torch.nn.Conv2d(2, 16, 16, 16)
        self.place = torch.nn.Parameter(torch.randn(1, 17, 16))
        layer = torch.nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, activation="gelu")
        self.layers = torch.nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)

    def forward(self, x):
        tokens = self.patch(x).flatten(2).transpose(1, 2)
        start = self.place[:, :1].expand(tokens.shape[0], -1, -1)
        return self.layers(torch.cat([start, tokens], 1) + self.place)[:, 0]


class Squeezes(torch.nn.Module):
    """Residual, grouped and gated convolutions, group norm, resizing; a map and a unit vector."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Conv2d(2, 8, 7, 2, 3, bias=False)
        self.norm, self.group = torch.nn.BatchNorm2d(8), torch.nn.GroupNorm(2, 8)
        self.second = torch.nn.Conv2d(8, 8, 3, 1, 1, groups=4)
        self.gate = torch.nn.Sequential(
            torch.nn.AdaptiveAvgPool2d(1), torch.nn.Conv2d(8, 8, 1), torch.nn.SiLU(inplace=True)
        )
        self.dropout, self.dense = torch.nn.Dropout(0.3), torch.nn.Linear(8, 5)

    def forward(self, x):
        x = torch.nn.functional.max_pool2d(self.norm(self.first(x)).relu_(), 3, 2, 1)
        y = torch.nn.functional.hardswish(self.group(self.second(x)))
        x = x + y * self.gate(y)
        x = torch.nn.functional.interpolate(x, scale_factor=2.0, mode="bilinear")
        vector = self.dense(self.dropout(x.mean((2, 3))))
        return x, torch.nn.functional.normalize(vector)


@pytest.mark.parametrize("kind", [Attends, Squeezes])
@pytest.mark.parametrize("decomposed", [False, True])
def test_usual_networks_run_as_torch_runs_them(tmp_path, kind, decomposed):
    torch.manual_seed(1)
    network = kind().eval()
    program = write_pt2(tmp_path / "x.pt2", network, decomposed=decomposed)
    runner = open_pt2(program.read_bytes(), "x.pt2").to(memory_format=torch.channels_last)
    x = torch.randn(5, 2, 64, 64)
    with torch.inference_mode():
        found, wanted = runner(x), network(x)
    wanted = wanted if isinstance(wanted, tuple) else (wanted,)
    assert [p.shape for p in runner.facts.outputs] == [(None, *w.shape[1:]) for w in wanted]
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5)


# ---- a spec file that is wrong


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ({"chanels": ["protein"]}, ["unknown key 'model.chanels'", "did you mean 'channels'"]),
        ({"sha256": None}, ["'model.sha256' is missing"]),
        ({"sha256": "abc"}, ["expected 64 digits"]),
        ({"channels": ["protein", "gfp"]}, ["unknown channels 'gfp'", "protein"]),
        ({"channels": ["protein"]}, ["(free, 2, 64, 64)", "(64, 1, 64, 64)", "channels"]),
        ({"preprocess": ["minmx"]}, ["did you mean 'minmax'"]),
        ({"masked_preprocess": ["minmax"]}, ["expected 'mask' as the last"]),
        ({"layers": {"conv": 0, "profile": 2}}, ["no output 2", "it has 2: conv, profile"]),
        ({"layers": {"conv": 0, "profile": "profil"}}, ["did you mean 'profile'"]),
        ({"layers": {"a/b": 0}}, ["name 'a/b'"]),
        ({"profile_layer": "profil"}, ["did you mean 'profile'"]),
        ({"input_size_px": 60}, ["(free, 2, 64, 64)", "(64, 2, 60, 60)"]),
        ({"input_layout": "NHWC"}, ["(64, 64, 64, 2)", "input_layout = 'NHWC'"]),
        ({"pooling": "median"}, ["pooling", "median"]),
        ({"file": "free.h5"}, ["ends in .onnx or .pt2"]),
        ({"file": "fre.pt2"}, ["No such file", "did you mean 'free.pt2'"]),
    ],
)
def test_a_wrong_spec_file_is_one_clear_error(tmp_path, files, change, parts):
    spec = write_spec(copied(files / "free.pt2", tmp_path), **change)
    with pytest.raises(InputError) as error:
        load_model(str(spec))
    for part in parts:
        assert part in str(error.value)


def test_weights_and_classes_are_not_given_to_a_program(files):
    with pytest.raises(InputError, match="weights given for a program"):
        load_model(str(files / "free.toml"), weights="other.safetensors")
    with pytest.raises(ConfigError, match="weights of a program cannot be replaced"):
        load_model(str(files / "free.toml"), overrides={"weights": "other"})


@pytest.mark.parametrize("name", NAMES)
def test_another_file_than_the_specs_is_not_opened(tmp_path, files, name):
    original = next(files.glob(f"{name}.[op]*"))
    program = copied(original, tmp_path)
    spec = write_spec(program)
    data = bytearray(program.read_bytes())
    data[len(data) // 2] ^= 1
    program.write_bytes(data)
    with pytest.raises(InputError, match=r"SHA-256 .* its spec file says"):
        load_model(str(spec))


def test_a_spec_says_one_source():
    with pytest.raises(ConfigError, match="take out architecture and weights"):
        RunConfig.from_dict({"models": {"mine": {"spec": "a.toml", "weights": "w.safetensors"}}})
    with pytest.raises(ConfigError, match="take out architecture and weights"):
        RunConfig.from_dict({"models": {"mine": {"spec": "a.toml", "architecture": "pifia"}}})
    with pytest.raises(ConfigError, match=r"expected a \.toml file"):
        RunConfig.from_dict({"models": {"mine": {"spec": "a.onnx"}}})


# ---- ONNX files that are refused


def onnx_refused(model: Any) -> str:
    with pytest.raises(InputError) as error:
        check_onnx(model.SerializeToString(), "x.onnx")
    return str(error.value)


def test_external_data_are_refused_wherever_they_are():
    from onnx import TensorProto, helper

    def outside() -> Any:
        tensor = helper.make_tensor("w", TensorProto.FLOAT, [1], [1.0])
        entry = tensor.external_data.add()
        entry.key, entry.value = "location", "/etc/hostname"
        tensor.data_location = TensorProto.EXTERNAL
        return tensor

    model = onnx_model(Small())
    model.graph.initializer.append(outside())
    assert "external data" in onnx_refused(model)

    model = onnx_model(Small())
    model.graph.node.append(helper.make_node("Constant", [], ["k"], value=outside()))
    assert "external data" in onnx_refused(model)

    inner = helper.make_graph([], "inner", [], [], [outside()])
    model = onnx_model(Small())
    model.graph.node.append(
        helper.make_node("If", ["c"], ["r"], then_branch=inner, else_branch=inner)
    )
    assert "external data" in onnx_refused(model)

    model = onnx_model(Small())
    sparse = model.graph.sparse_initializer.add()
    sparse.values.CopyFrom(outside())
    assert "external data" in onnx_refused(model)

    model = onnx_model(Small())
    function = model.functions.add()
    function.node.append(helper.make_node("Constant", [], ["k"], value=outside()))
    assert "external data" in onnx_refused(model)

    # marked by its entries alone
    model = onnx_model(Small())
    model.graph.initializer.append(outside())
    model.graph.initializer[-1].data_location = TensorProto.DEFAULT
    assert "external data" in onnx_refused(model)


def test_operators_from_elsewhere_are_refused():
    from onnx import helper

    model = onnx_model(Small())
    model.graph.node.append(helper.make_node("Anything", ["x"], ["y"], domain="com.evil"))
    assert "'Anything' of 'com.evil'" in onnx_refused(model)
    check_onnx(onnx_model(Small()).SerializeToString(), "x.onnx")


@pytest.mark.parametrize("data", [b"", b"\x08", b"ORTM" * 40, b"\x3a\xff\xff", bytes(range(256))])
def test_what_is_no_onnx_file_is_said_so(tmp_path, data):
    program = tmp_path / "x.onnx"
    program.write_bytes(data)
    with pytest.raises(InputError, match=r"x\.onnx"):
        load_model(str(write_spec(program)))


def test_a_device_that_onnxruntime_has_not_is_no_other_one(files):
    with pytest.raises(InputError, match=r"device 'cuda'.*CPUExecutionProvider"):
        load_program(files / "free_onnx.toml", device="cuda")


def test_a_program_that_is_moved_does_not_stay_behind(files):
    _, network = load_program(files / "free_onnx.toml")
    with pytest.raises(InputError, match=r"device 'meta'.*CPUExecutionProvider"):
        network.to("meta")


@pytest.mark.parametrize("name", NAMES)
def test_a_program_can_be_copied(files, name):
    spec, network = load_program(files / f"{name}.toml")
    x, several = torch.rand(spec.micro_batch, 2, 64, 64), [copy.deepcopy(network)]
    if isinstance(network.runner, OnnxRunner):
        several.append(pickle.loads(pickle.dumps(network)))
        assert several[0].runner.session is not network.runner.session
    for again in several:
        for layer, values in network(x).items():
            assert torch.equal(again(x)[layer], values)


def test_where_onnxruntime_has_no_gpu_that_is_said_and_the_processor_can_be_asked_for(
    files, small_screen, tmp_path, monkeypatch
):
    def run(folder, **more):
        (tmp_path / folder).mkdir()
        models = {"mine": {"spec": str(files / "free_onnx.toml"), **more}}
        return Run.from_config(config_of(small_screen, tmp_path / folder, models=models))

    # torch's device of tensors without values stands for a GPU
    monkeypatch.setattr(engines, "best_device", lambda: "meta")
    there = run("there")
    assert "mine: torch, float32, on meta; a probe" in there.describe_plan()
    message = (
        r"cannot be run here by torch, float32, on meta \(program .*: device 'meta', but this "
        r'onnxruntime has .*; install onnxruntime-gpu, or run it on the processor: device = "cpu"'
    )
    with pytest.raises(InputError, match=message):
        there.execute(until="embed")
    here = run("here", device="cpu")
    assert "mine: torch, float32, on cpu; a probe" in here.describe_plan()
    here.execute(until="embed")
    assert here.store.attrs()["engines"]["mine"]["engine"]["device"] == "cpu"
    # another device is another engine
    assert not run("again", device="cuda")._engines
    assert engines.kept(run("other").config, here.store.attrs()["engines"])
    assert not engines.kept(run("else", device="cuda").config, here.store.attrs()["engines"])


# ---- .pt2 files that are refused, and what they must not run


class Payload:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


def json_of(change):
    def edit(data: bytes) -> bytes:
        value = json.loads(data)
        change(value)
        return json.dumps(value).encode()

    return edit


def pickled(sentinel: Path):
    return lambda data: pickle.dumps(Payload(sentinel))


def as_pickle(value: dict[str, Any]) -> None:
    first = next(iter(value["config"].values()))
    first["use_pickle"] = True


def path_of_first(program: Path) -> str:
    import zipfile

    with zipfile.ZipFile(program) as archive:
        name = next(n for n in archive.namelist() if n.endswith("model_weights_config.json"))
        config = json.loads(archive.read(name))["config"]
    return "data/weights/" + next(iter(config.values()))["path_name"]


def test_a_pickled_weight_is_refused_and_does_not_run(tmp_path, files):
    sentinel, program = tmp_path / "ran", copied(files / "free.pt2", tmp_path)
    edit_pt2(program, {
        "data/weights/model_weights_config.json": json_of(as_pickle),
        path_of_first(program): pickled(sentinel),
    })  # fmt: skip
    with pytest.raises(InputError, match="pickled"):
        load_model(str(write_spec(program)))
    assert not sentinel.exists()
    # the payload is live: torch's own loader runs it
    with pytest.raises(Exception):  # noqa: B017, PT011  whatever it makes of the None it gets
        torch.export.load(str(program))
    assert sentinel.exists()


def test_pickled_sample_inputs_are_never_opened(tmp_path, files):
    sentinel, program = tmp_path / "ran", copied(files / "free.pt2", tmp_path)
    edit_pt2(program, {"data/sample_inputs/model.pt": pickled(sentinel)})
    assert load_model(str(write_spec(program))).spec.layers == {"conv": 6, "profile": 5}
    assert not sentinel.exists()


@pytest.mark.parametrize("member", ["data/constants/custom_obj_0", "data/constants/opaque_obj_0"])
def test_pickled_constants_are_refused_and_do_not_run(tmp_path, files, member):
    sentinel, program = tmp_path / "ran", copied(files / "free.pt2", tmp_path)

    def add(value: dict[str, Any]) -> None:
        value["config"]["k"] = {
            "path_name": member.rsplit("/", 1)[1], "is_param": False, "use_pickle": True,
            "tensor_meta": None,
        }  # fmt: skip

    edit_pt2(program, {
        "data/constants/model_constants_config.json": json_of(add),
        member: pickled(sentinel),
    })  # fmt: skip
    with pytest.raises(InputError, match="pickled"):
        load_model(str(write_spec(program)))
    assert not sentinel.exists()


def first_call(change):
    def edit(value: dict[str, Any]) -> None:
        change(value["graph_module"]["graph"]["nodes"][0])

    return json_of(edit)


@pytest.mark.parametrize(
    "target",
    ["torch.os.system", "torch.ops.aten.save.default", "torch.ops.aten.from_file.default",
     "torch.ops.aten.rand.default", "torch.ops.other.conv2d.default", "torch.load", "exec",
     "#evil:run", "torch.ops.aten.conv2d.default.__call__"],
)  # fmt: skip
def test_a_call_that_is_not_a_listed_operator_is_refused(tmp_path, files, target):
    sentinel, program = tmp_path / "ran", copied(files / "free.pt2", tmp_path)

    def call(node: dict[str, Any]) -> None:
        node["target"] = target
        node["inputs"] = [{"name": "", "arg": {"as_string": f"touch {sentinel}"}, "kind": 1}]

    edit_pt2(program, {"models/model.json": first_call(call)})
    with pytest.raises(InputError, match="not among the operators"):
        load_model(str(write_spec(program)))
    assert not sentinel.exists()


def test_symbolic_sizes_are_not_evaluated(tmp_path, files):
    sentinel, program = tmp_path / "ran", copied(files / "free.pt2", tmp_path)
    code = f"__import__('pathlib').Path({str(sentinel)!r}).touch()"

    def edit(value: dict[str, Any]) -> None:
        graph = value["graph_module"]["graph"]
        for meta in graph["tensor_values"].values():
            for size in meta["sizes"]:
                if "as_expr" in size:
                    size["as_expr"]["expr_str"] = code

    edit_pt2(program, {"models/model.json": json_of(edit)})
    assert code in program.read_bytes().decode("latin-1")
    assert load_model(str(write_spec(program))).spec.layers == {"conv": 6, "profile": 5}
    assert not sentinel.exists()


def test_compiled_code_is_refused(tmp_path, files):
    program = copied(files / "free.pt2", tmp_path)
    edit_pt2(program, {"data/aotinductor/model/x.so": lambda _: b"\x7fELF"})
    with pytest.raises(InputError, match="compiled code"):
        load_model(str(write_spec(program)))


def test_a_network_in_training_mode_is_refused(tmp_path):
    spec = write_spec(write_pt2(tmp_path / "train.pt2", Small(dropout=0.5).train(), batch=4))
    with pytest.raises(InputError, match=r"model\.eval\(\)"):
        load_model(str(spec))
    only_dropout = Small(dropout=0.5).eval()
    only_dropout.dropout.train()
    spec = write_spec(write_pt2(tmp_path / "dropout.pt2", only_dropout))
    with pytest.raises(InputError, match=r"dropout.*train = True.*model\.eval"):
        load_model(str(spec))


@pytest.mark.parametrize(
    "change",
    [
        {"models/model.json": lambda data: b"{}"},
        {"models/model.json": lambda data: data[:-10]},
        {"models/other.json": lambda data: b"{}"},
        {"data/weights/model_weights_config.json": lambda data: b'{"config": {}}'},
        {"data/weights/weight_0": lambda data: data[:4]},
        {"data/weights/weight_0": lambda data: b""},
        {"models/model.json": json_of(lambda value: value["schema_version"].update(major=99))},
    ],
)
def test_a_damaged_program_is_one_clear_error(tmp_path, files, change):
    program = edit_pt2(copied(files / "free.pt2", tmp_path), change)
    with pytest.raises(InputError, match=r"free\.pt2"):
        load_model(str(write_spec(program)))


def test_what_is_no_program_is_said_so(tmp_path):
    program = tmp_path / "x.pt2"
    torch.save({"a": torch.zeros(3)}, program)
    with pytest.raises(InputError, match=r"not a torch\.export program"):
        load_model(str(write_spec(program)))
    program.write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"not a torch\.export program"):
        load_model(str(write_spec(program)))


def test_the_listed_operators_exist_and_none_writes_or_draws():
    for name in OPERATORS:
        packet = getattr(torch.ops.aten, name)
        for overload in packet.overloads():
            tags = getattr(packet, overload).tags
            # of dropout, which refuses to train, and of attention without dropout
            if torch.Tag.nondeterministic_seeded in tags:
                assert "dropout" in name or name == "scaled_dot_product_attention", name


# ---- a whole run, and the command line


@pytest.mark.parametrize("name", ["free", "free_onnx"])
def test_a_screen_goes_through_with_a_program(small_screen, tmp_path, files, name):
    program = copied(next(files.glob(f"{name}.[op]*")), tmp_path)
    spec = write_spec(program)
    config = config_of(
        small_screen,
        tmp_path,
        settings=["original", "masked"],
        models={"mine": {"spec": str(spec)}},
    )
    Run.from_config(config).execute()
    tree = open_results(config.store)
    (plate,) = tree["plates"].children
    node = tree[f"plates/{plate}/embeddings/mine"]
    features = node["profile"]["embedding"].to_numpy()
    assert features.shape[1:] == (2, 5)
    assert np.isfinite(features[node["missing"].to_numpy() == 0]).all()
    assert node.attrs["model"]["weights_sha256"] == read_spec_file(spec).sha256
    assert not node.attrs["random_weights"]
    assert {"conv", "profile"} == set(node.children)
    assert "accuracy" in tree["evaluation/mine"]
    with pytest.raises(ConfigError, match="cannot train them"):
        model_to_train(config)


def call(*arguments: object) -> Any:
    return CliRunner().invoke(main, [str(a) for a in arguments])


@pytest.mark.parametrize("name", ["free.pt2", "free_onnx.onnx", "last.onnx"])
def test_init_writes_a_spec_that_works(tmp_path, files, name):
    program, output = copied(files / name, tmp_path), tmp_path / "deep" / "mine.toml"
    output.parent.mkdir()
    assert call("models", "init", program, "-o", output).exit_code == 0
    text = output.read_text()
    assert 'file = "../' in text
    assert "(free, 2, 64, 64)" in text or "(4, 64, 64, 2)" in text
    assert load_model(str(output)).spec.channels == ("protein", "cytosol")
    again = call("models", "init", program, "-o", output)
    assert again.exit_code == 2
    assert "--force" in again.stderr
    assert call("models", "init", program, "-o", output, "--force").exit_code == 0


def test_paths_in_a_run_toml_are_from_its_folder(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text('[models.mine]\nspec = "deep/mine.toml"\n')
    assert RunConfig.from_toml(path).models["mine"].spec == str(tmp_path / "deep/mine.toml")
