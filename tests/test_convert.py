"""Published weights: networks built in TensorFlow, saved, converted, and every layer compared."""

import importlib.util
import itertools
import json
import os
import shutil
import subprocess
import sys
import tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

from bgscale.cli import main
from bgscale.errors import InputError
from bgscale.models import MODELS, load_model
from bgscale.models.convert import EXPECTATIONS, convert, open_source
from bgscale.models.convert.expectation import OUR_NAMES
from bgscale.models.convert.match import match
from bgscale.models.layers import build_network
from bgscale.models.spec import TAPS
from bgscale.models.weights import load_state, read_weights

TOLERANCE = 1e-4
SCRIPT = Path(__file__).with_name("published_networks.py")
HAS_TENSORFLOW = importlib.util.find_spec("tensorflow") is not None
needs_tensorflow = pytest.mark.skipif(
    not HAS_TENSORFLOW, reason="no TensorFlow: pip install 'bgscale[weights]'"
)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the three networks as TensorFlow saved them, and what their layers gave."""
    if not HAS_TENSORFLOW:
        pytest.skip("no TensorFlow: pip install 'bgscale[weights]'")
    folder = tmp_path_factory.mktemp("published")
    quiet = {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "2"}
    made = subprocess.run(
        [sys.executable, str(SCRIPT), str(folder)],
        env=os.environ | quiet,
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stderr[-3000:]
    return folder


def call(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


def refused(*arguments: object) -> str:
    """Return the one line of error of a call that ends with 2."""
    result = call(*arguments)
    assert result.exit_code == 2, (result.output, result.exception)
    assert isinstance(result.exception, SystemExit)
    lines = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, result.stderr
    return lines[0]


def compare(path: Path, model: str, expected: Path) -> int:
    """Assert that every layer is as TensorFlow gave it, at every tap; return how many."""
    theirs = dict(np.load(expected))
    crops = torch.from_numpy(theirs.pop("input").transpose(0, 3, 1, 2).copy())
    weights, kind = read_weights(path), MODELS[model]
    assert weights.spec is not None
    spec = replace(weights.spec, layers=kind.widths())
    network = build_network(kind, spec)
    load_state(network, weights.state, str(path))
    compared = set()
    for tap, pooling in itertools.product(TAPS, ("max", "mean")):
        network.spec = replace(spec, tap=tap, pooling=pooling)
        with torch.inference_mode():
            read = network(crops)
        for layer, values in read.items():
            key = f"{layer}.{tap}.{pooling}"
            key = key if key in theirs else layer
            if key in theirs:
                assert theirs[key].std() > 0.01, f"{key} is constant: it tells nothing"
                assert np.abs(values.numpy() - theirs[key]).max() < TOLERANCE, key
                compared.add(key)
    assert compared == set(theirs)
    return len(compared)


# ---- what TensorFlow saved is what bgscale computes


@needs_tensorflow
@pytest.mark.parametrize(
    ("model", "source", "expected", "how"),
    [
        ("pifia", "pifia/weights", "pifia", ""),
        ("pci", "pci_whole.h5", "pci", "by the graph of the model"),
        ("pci", "pci_unscaled.h5", "pci_unscaled", "ones, as the file has none: bn1_1.weight"),
        ("deeploc", "deeploc", "deeploc", "left out, optimizer"),
    ],
)
def test_every_layer_of_converted_weights_is_as_in_tensorflow(
    published: Path, tmp_path: Path, model: str, source: str, expected: str, how: str
) -> None:
    output = tmp_path / "converted.safetensors"
    made = convert(model, published / source, output)
    assert how in "; ".join(made.notes)
    n_compared = compare(output, model, published / f"{expected}.npz")
    assert n_compared == {"pifia": 8 * 6 + 3, "pci": 5 * 6, "deeploc": 8 * 6 + 3}[model]
    weights = read_weights(output)
    assert weights.spec == made.spec
    assert weights.sha256 == made.sha256


@needs_tensorflow
@pytest.mark.parametrize(
    ("model", "source", "same_as", "how"),
    [
        ("pifia", "pifia_training", "pifia", "left out, optimizer"),
        ("pifia", "pifia_keras/weights.index", "pifia", "by order and shape"),
        ("pifia", "pifia.h5", "pifia", ""),
        ("pci", "pci_keras2.h5", "pci_whole.h5", "by their place behind the convolutions"),
        ("pci", "pci_legacy.h5", "pci_whole.h5", "by their place behind the convolutions"),
        ("pci", "pci.weights.h5", "pci_whole.h5", "by order and shape"),
        ("deeploc", "deeploc_v1/model.ckpt-9500", "deeploc", "left out, counters: global_step"),
    ],
)
def test_every_format_of_a_network_gives_the_same_tensors(
    published: Path, tmp_path: Path, model: str, source: str, same_as: str, how: str
) -> None:
    made = convert(model, published / source, tmp_path / "a.safetensors")
    assert how in "; ".join(made.notes)
    convert(model, published / same_as, tmp_path / "b.safetensors")
    a, b = (read_weights(tmp_path / f"{name}.safetensors").state for name in "ab")
    assert set(a) == set(b)
    assert all(torch.equal(a[name], b[name]) for name in a)


@needs_tensorflow
def test_a_wrong_layer_would_be_seen(published: Path, tmp_path: Path) -> None:
    """The comparison can fail: two batch norms of one width, exchanged."""
    import safetensors.torch

    output = tmp_path / "pci.safetensors"
    convert("pci", published / "pci_keras2.h5", output)
    state = read_weights(output).state
    for part in OUR_NAMES["norm"].values():
        a, b = f"bn3_1.{part}", f"bn4_1.{part}"
        state[a], state[b] = state[b], state[a]
    network = build_network(MODELS["pci"], MODELS["pci"].default_spec)
    load_state(network, state, "exchanged")
    safetensors.torch.save_file(network.state_dict(), output)
    with pytest.raises(AssertionError):
        compare(output, "pci", published / "pci.npz")


@needs_tensorflow
def test_the_spec_says_where_the_weights_come_from(published: Path, tmp_path: Path) -> None:
    source = published / "pci_whole.h5"
    spec = convert("pci", source, tmp_path / "pci.safetensors").spec
    sha256 = subprocess.run(["sha256sum", source], capture_output=True, text=True, check=True)
    assert f"pci_whole.h5 sha256:{sha256.stdout.split()[0]}" in spec.origin
    assert (spec.licence, spec.n_outputs, spec.weights) == ("GPL-2.0", 1, "pci.safetensors")
    spec = convert("deeploc", published / "deeploc", tmp_path / "deeploc.safetensors").spec
    assert spec.origin.count("sha256:") == 2
    assert "model.ckpt-9500.index" in spec.origin
    assert "model.ckpt-9500.data-00000-of-00001" in spec.origin
    assert (spec.licence, spec.n_outputs, spec.channels) == (
        "BSD-3-Clause", 19, ("protein", "cytosol"),
    )  # fmt: skip


@needs_tensorflow
def test_converted_weights_load_and_embed_as_any_others(published: Path, tmp_path: Path) -> None:
    output = tmp_path / "pifia.safetensors"
    assert call("weights", "convert", "pifia", published / "pifia", "-o", output).exit_code == 0
    model = load_model("pifia", weights=output, overrides={"micro_batch": 2})
    assert not model.random_weights
    crops = np.random.default_rng(0).gamma(2.0, 400.0, (2, 1, 64, 64)).astype(np.uint16)
    features = model.embed(crops)
    assert {layer: values.shape for layer, values in features.items()} == {
        "conv8": (2, 256), "d2": (2, 64),
    }  # fmt: skip
    with pytest.raises(InputError, match="is of the model 'pifia'; expected 'deeploc'"):
        load_model("deeploc", weights=output)


# ---- the published index


@needs_tensorflow
def test_the_published_index_is_what_is_expected_of_pifia(shared_data: Path) -> None:
    index = shared_data / "pifia_checkpoint" / "pifia_weights_i0.index"
    if not index.is_file():
        pytest.skip(f"no {index}")
    source = open_source(index, only_names=True)
    matched = match(EXPECTATIONS["pifia"], source)
    names = {v.name for v in source.variables}
    assert names - set(matched.taken.values()) == {"_CHECKPOINTABLE_OBJECT_GRAPH"}
    assert matched.n_outputs == 4049
    assert not matched.filled
    shapes = {v.name: v.shape for v in source.variables}
    network = build_network(MODELS["pifia"], MODELS["pifia"].default_spec)
    own = {k: v for k, v in network.state_dict().items() if not k.endswith("tracked")}
    assert set(matched.taken) == set(own)
    suffix = "/.ATTRIBUTES/VARIABLE_VALUE"
    for tensor, (layer, part) in EXPECTATIONS["pifia"].tensors().items():
        key = {"mean": "moving_mean", "variance": "moving_variance"}.get(part, part)
        assert matched.taken[tensor] == f"{layer.ours}/{key}{suffix}"
        assert shapes[matched.taken[tensor]] == layer.shape_of(part, 4049)
        assert own[tensor].numel() == np.prod(shapes[matched.taken[tensor]])


@needs_tensorflow
def test_the_networks_of_these_tests_are_saved_under_the_published_names(
    published: Path, shared_data: Path
) -> None:
    index = shared_data / "pifia_checkpoint" / "pifia_weights_i0.index"
    if not index.is_file():
        pytest.skip(f"no {index}")
    theirs = open_source(index, only_names=True)
    ours = open_source(published / "pifia")
    assert {v.name: v.shape for v in ours.variables} == {v.name: v.shape for v in theirs.variables}


def test_an_index_alone_is_not_enough(shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "pifia_checkpoint"
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    for source in (folder, folder / "pifia_weights_i0", folder / "pifia_weights_i0.index"):
        message = refused("weights", "convert", "pifia", source, "-o", tmp_path / "p.safetensors")
        assert "the data file is missing" in message
        assert "pifia_weights_i0.data-00000-of-00001" in message
    assert not list(tmp_path.iterdir())


# ---- names that do not tell


@needs_tensorflow
def test_two_possible_answers_are_an_error_that_a_table_of_names_solves(
    published: Path, tmp_path: Path
) -> None:
    source, output = published / "pci_whole_weights.h5", tmp_path / "pci.safetensors"
    message = refused("weights", "convert", "pci", source, "-o", output)
    assert "ways" in message
    assert "--names" in message
    assert not output.exists()
    theirs = open_source(published / "pci_whole.h5")
    matched = match(EXPECTATIONS["pci"], theirs)
    layer_of = {v.name: v.layer for v in theirs.variables}
    norms = [layer for layer in EXPECTATIONS["pci"].layers if layer.kind == "norm"]
    pairs = [(layer_of[matched.taken[one.tensor("mean")]], one.ours) for one in norms]
    for file, lines in (
        ("names.toml", [f'"{a}" = "{b}"' for a, b in pairs]),
        ("names.csv", ["theirs,ours", *(f"{a},{b}" for a, b in pairs)]),
    ):
        names = tmp_path / file
        names.write_text("\n".join(lines), encoding="utf-8")
        made = call("weights", "convert", "pci", source, "-o", output, "--names", names)
        assert made.exit_code == 0, made.stderr
    assert compare(output, "pci", published / "pci.npz") == 30


@needs_tensorflow
def test_vectors_without_names_are_not_guessed(published: Path, tmp_path: Path) -> None:
    source, output = published / "pci_unscaled.weights.h5", tmp_path / "pci.safetensors"
    message = refused("weights", "convert", "pci", source, "-o", output)
    assert "do not tell what they are" in message
    names = tmp_path / "names.csv"
    lines = []
    for i, number in enumerate(("1_1", "2_1", "3_1", "4_1", "5_1")):
        layer = "layers/batch_normalization" + (f"_{i}" if i else "")
        for j, part in enumerate(("bias", "running_mean", "running_var")):
            lines.append(f"{layer}/vars/{j},bn{number}.{part}")
    names.write_text("\n".join(lines), encoding="utf-8")
    assert call("weights", "convert", "pci", source, "-o", output, "--names", names).exit_code == 0
    assert compare(output, "pci", published / "pci_unscaled.npz") == 30


@needs_tensorflow
@pytest.mark.parametrize(
    ("line", "parts"),
    [
        ("conv_1/weights/Variabel,conv1.weight", ["has no", "did you mean 'conv_1/weights"]),
        ("conv_1/weights/Variable,conv1.wieght", ["no tensor", "did you mean 'conv1.weight'"]),
        ("conv_1/weights/Variable,conv1.weight,x", ["expected their name and ours"]),
        ("a,b\na,c", ["twice"]),
        ("", ["is empty"]),
    ],
)
def test_a_wrong_table_of_names_says_what_is_wrong(
    published: Path, tmp_path: Path, line: str, parts: list[str]
) -> None:
    names = tmp_path / "names.csv"
    names.write_text(line, encoding="utf-8")
    message = refused(
        "weights", "convert", "deeploc", published / "deeploc", "-o",
        tmp_path / "d.safetensors", "--names", names,
    )  # fmt: skip
    assert all(part in message for part in parts), message


# ---- small files, made here


def write_hdf5(path: Path, arrays: dict[str, np.ndarray]) -> Path:
    """Write what Keras 2's save_weights writes: {layer/weight: array}."""
    h5py = pytest.importorskip("h5py", reason="no h5py: pip install 'bgscale[weights]'")
    layers = list(dict.fromkeys(name.partition("/")[0] for name in arrays))
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [layer.encode() for layer in layers]
        for layer in layers:
            group = file.create_group(layer)
            names = [n for n in arrays if n.partition("/")[0] == layer]
            group.attrs["weight_names"] = [f"{n}:0".encode() for n in names]
            for name in names:
                group[f"{name}:0"] = arrays[name]
    return path


def arrays_of(model: str, n_outputs: int = 5) -> dict[str, np.ndarray]:
    """Return arrays under the layers' own names, as a published file has them."""
    rng = np.random.default_rng(0)
    spelled = {"mean": "moving_mean", "variance": "moving_variance"}
    return {
        f"{layer.ours}/{spelled.get(part, part)}": rng.uniform(
            0.1, 1.0, layer.shape_of(part, n_outputs)
        ).astype(np.float32)
        for layer, part in EXPECTATIONS[model].tensors().values()
    }


def test_names_alone_are_enough_and_the_head_says_how_many_classes(tmp_path: Path) -> None:
    source = write_hdf5(tmp_path / "pifia.h5", arrays_of("pifia", n_outputs=7))
    classes = tmp_path / "classes.txt"
    classes.write_text("\n".join(f"YAL00{i}W" for i in range(7)) + "\n", encoding="utf-8")
    output = tmp_path / "p.safetensors"
    made = call("weights", "convert", "pifia", source, "-o", output, "--classes", classes)
    assert made.exit_code == 0, made.stderr
    printed = {"models": {"pifia": {"architecture": "pifia", "weights": str(output)}}}
    assert tomllib.loads(made.stdout) == printed
    spec = read_weights(output).spec
    assert spec is not None
    assert spec.n_outputs == 7
    assert spec.class_names == tuple(f"YAL00{i}W" for i in range(7))
    classes.write_text("a\nb\n", encoding="utf-8")
    message = refused("weights", "convert", "pifia", source, "-o", output, "--classes", classes)
    assert "2 names of classes" in message
    assert "7 outputs" in message


def test_one_error_lists_all_that_does_not_fit(tmp_path: Path) -> None:
    arrays = arrays_of("deeploc")
    del arrays["conv3/kernel"], arrays["bn5/moving_mean"]
    arrays["conv4/bias"] = np.zeros(3, np.float32)
    arrays["attention/kernel"] = np.zeros((3, 3, 64, 128), np.float32)
    source = write_hdf5(tmp_path / "deeploc.h5", arrays)
    message = refused("weights", "convert", "deeploc", source, "-o", tmp_path / "d.safetensors")
    for part in (
        "2 missing: conv3.weight, bn5.running_mean", "1 unexpected: attention/kernel:0",
        "conv4/conv4/bias:0 is (3,), expected (128,)", "--names",
    ):  # fmt: skip
        assert part.replace("attention/kernel", "attention/attention/kernel") in message or (
            part in message
        ), message
    assert not (tmp_path / "d.safetensors").exists()


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (lambda a: a.fill(np.nan), "NaN or infinite"),
        (lambda a: a.fill(-1.0), "negative"),
    ],
)
def test_impossible_values_are_refused(tmp_path: Path, change: object, part: str) -> None:
    arrays = arrays_of("pci", n_outputs=1)
    change(arrays["bn2_1/moving_variance"])  # type: ignore[operator]
    source = write_hdf5(tmp_path / "pci.h5", arrays)
    assert part in refused("weights", "convert", "pci", source, "-o", tmp_path / "p.safetensors")


def test_a_part_of_its_own_layer_that_is_not_understood_is_refused(tmp_path: Path) -> None:
    arrays = arrays_of("pci", n_outputs=1)
    arrays["conv2_1/mystery"] = np.zeros(256, np.float32)
    source = write_hdf5(tmp_path / "pci.h5", arrays)
    message = refused("weights", "convert", "pci", source, "-o", tmp_path / "p.safetensors")
    assert "conv2_1/mystery" in message


def test_two_encoders_of_one_spelling_are_not_guessed(tmp_path: Path) -> None:
    arrays = arrays_of("pci", n_outputs=1)
    both = {f"model_{i}/{name}": array for i in (1, 2) for name, array in arrays.items()}
    source, output = write_hdf5(tmp_path / "pci.h5", both), tmp_path / "p.safetensors"
    message = refused("weights", "convert", "pci", source, "-o", output)
    assert "2 variables may be conv1_1.weight: model_1/model_1/conv1_1/kernel:0, model_2" in message


def test_one_branch_of_two_is_told_by_the_other_one_having_other_names(tmp_path: Path) -> None:
    arrays = arrays_of("pci", n_outputs=1)
    other = {f"target_{name}": array + 1 for name, array in arrays.items()}
    source = write_hdf5(tmp_path / "pci.h5", other | arrays)
    made = convert("pci", source, tmp_path / "p.safetensors")
    assert "no part of this network: target_conv1_1" in "; ".join(made.notes)
    state = read_weights(tmp_path / "p.safetensors").state
    assert np.array_equal(state["bn3_1.running_mean"], arrays["bn3_1/moving_mean"])


def test_a_lost_layer_is_not_replaced_by_a_stray_one(tmp_path: Path) -> None:
    arrays = arrays_of("pci", n_outputs=1)
    renamed = {k.replace("bn4_1", "batch_normalization_4"): v for k, v in arrays.items()}
    source = write_hdf5(tmp_path / "pci.h5", renamed)
    message = refused("weights", "convert", "pci", source, "-o", tmp_path / "p.safetensors")
    assert "4 missing: bn4_1.weight" in message


# ---- what is no source at all


@pytest.mark.parametrize(
    ("name", "content", "parts"),
    [
        ("w.h5", b"\x89HDF\r\n\x1a\n" + bytes(100), ["cannot be read as a Keras HDF5 file"]),
        ("w.keras", b"PK\x03\x04" + bytes(100), ["a zip file", ".h5"]),
        ("w.pkl", b"\x80\x04" + bytes(100), ["pickle"]),
    ],
)
def test_files_of_other_formats_are_refused(
    tmp_path: Path, name: str, content: bytes, parts: list[str]
) -> None:
    (tmp_path / name).write_bytes(content)
    message = refused(
        "weights", "convert", "pci", tmp_path / name, "-o", tmp_path / "p.safetensors"
    )
    assert all(part in message for part in parts), message


@needs_tensorflow
def test_what_tensorflow_cannot_read_is_one_line(published: Path, tmp_path: Path) -> None:
    (tmp_path / "weights").write_bytes(b"no checkpoint at all")
    message = refused(
        "weights", "convert", "pifia", tmp_path / "weights", "-o", tmp_path / "p.safetensors"
    )
    assert "cannot be read as a TensorFlow checkpoint" in message
    damaged = tmp_path / "damaged"
    shutil.copytree(published / "pifia", damaged)
    data = damaged / "weights.data-00000-of-00001"
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 1
    data.write_bytes(content)
    message = refused("weights", "convert", "pifia", damaged, "-o", tmp_path / "p.safetensors")
    assert "cannot be read" in message
    assert "damaged" in message
    (damaged / "weights.index").write_bytes(b"no index" * 40)
    message = refused("weights", "convert", "pifia", damaged, "-o", tmp_path / "p.safetensors")
    assert "cannot be read as a TensorFlow checkpoint" in message


def test_folders_and_paths_that_hold_no_one_checkpoint(tmp_path: Path) -> None:
    output = ("-o", tmp_path / "p.safetensors")
    assert "no checkpoint" in refused("weights", "convert", "pifia", tmp_path, *output)
    (tmp_path / "a-1.index").touch()
    (tmp_path / "a-2.index").touch()
    message = refused("weights", "convert", "pifia", tmp_path, *output)
    assert "2 checkpoints (a-1, a-2); name one" in message
    message = refused("weights", "convert", "pifia", tmp_path / "a-3", *output)
    assert "did you mean 'a-" in message
    (tmp_path / "a-2.data-00001-of-00002").touch()
    message = refused("weights", "convert", "pifia", tmp_path / "a-2", *output)
    assert "a-2.data-00000-of-00002" in message
    (tmp_path / "model.h5").touch()
    message = refused("weights", "convert", "pci", tmp_path / "modle.h5", *output)
    assert "no file" in message
    assert "did you mean 'model.h5'?" in message
    message = refused("weights", "convert", "pci", output[1], *output)
    assert "no file" in message


def test_the_output_is_a_safetensors_file_in_a_folder_that_is_there(tmp_path: Path) -> None:
    source = write_hdf5(tmp_path / "pci.h5", arrays_of("pci", n_outputs=1))
    for output in (tmp_path / "p.h5", tmp_path / "none" / "p.safetensors"):
        message = refused("weights", "convert", "pci", source, "-o", output)
        assert "ends in .safetensors" in message


@pytest.mark.parametrize(("module", "name"), [("h5py", "x.h5"), ("tensorflow", "x.index")])
def test_a_missing_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, name: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    (tmp_path / name).write_bytes(b"\x89HDF\r\n\x1a\n" if module == "h5py" else b"")
    (tmp_path / "x.data-00000-of-00001").touch()
    message = refused(
        "weights", "convert", "pci", tmp_path / name, "-o", tmp_path / "p.safetensors"
    )
    assert "pip install 'bgscale[weights]'" in message


# ---- looking at files


def test_show_tells_model_origin_hash_and_tensors(tmp_path: Path) -> None:
    source = write_hdf5(tmp_path / "pci.h5", arrays_of("pci", n_outputs=1))
    output = tmp_path / "pci.safetensors"
    made = convert("pci", source, output)
    printed = call("weights", "show", output).stdout
    for part in (made.sha256, "GPL-2.0", "pci.h5 sha256:", "conv4_1.weight", "384 x 384 x 3 x 3"):
        assert part in printed
    values = json.loads(call("weights", "show", output, "--json").stdout)
    assert values["sha256"] == made.sha256
    assert values["spec"] == made.spec.to_config()
    shapes = {one["name"]: one["shape"] for one in values["tensors"]}
    assert shapes["conv1_1.weight"] == [96, 2, 3, 3]
    unconverted = json.loads(call("weights", "show", source, "--json").stdout)
    assert {"name": "conv1_1/conv1_1/kernel:0", "shape": [3, 3, 2, 96]} in unconverted["tensors"]
    assert "Keras HDF5" in call("weights", "show", source).stdout


def test_show_says_that_a_foreign_file_has_no_spec(tmp_path: Path) -> None:
    import safetensors.torch

    path = tmp_path / "foreign.safetensors"
    safetensors.torch.save_file({"a": torch.zeros(2, 3)}, path)
    assert "none: not written by bgscale" in call("weights", "show", path).stdout
    assert "expected a safetensors file" in refused("weights", "show", tmp_path / "no.safetensors")


@pytest.mark.parametrize("command", ["convert", "show"])
def test_every_command_and_option_has_help(command: str) -> None:
    result = call("weights", command, "--help")
    assert result.exit_code == 0
    weights = main.commands["weights"]
    for parameter in weights.commands[command].params:  # type: ignore[attr-defined]
        if parameter.param_type_name == "option":
            assert parameter.help
    assert call("weights", "convert", "resnet", "x").exit_code == 2
