"""Small networks as files: ONNX files, torch.export programs and their spec files, for tests."""

import hashlib
import io
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bgscale.sections import as_toml


class Small(nn.Module):
    """Two convolutions and a dense layer: a map of 6, a profile of 5."""

    def __init__(self, channels: int = 2, *, dropout: float = 0.0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.first = nn.Conv2d(channels, 4, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.second = nn.Conv2d(4, 6, 3, stride=2)
        self.dropout = nn.Dropout(dropout)
        self.dense = nn.Linear(6, 5)
        for value in self.parameters():
            value.data.normal_(generator=generator)
        self.norm.running_mean.normal_(generator=generator)
        self.norm.running_var.uniform_(0.5, 2.0, generator=generator)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        maps = self.second(self.norm(self.first(x)).relu()).relu()
        profile = self.dense(self.dropout(maps.mean((2, 3))).view(x.shape[0], 6))
        return {"conv": maps, "profile": profile}


def write_pt2(
    path: Path, network: nn.Module, *, batch: int | None = None, decomposed: bool = False
) -> Path:
    """Export a network of two channels; `batch` None leaves the batch free."""
    example = torch.zeros(batch or 3, 2, 64, 64)
    free = {"x": {0: torch.export.Dim("n", max=4096)}} if batch is None else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(network, (example,), dynamic_shapes=free)
        if decomposed:
            program = program.run_decompositions()
        torch.export.save(program, str(path))
    return path


def edit_pt2(path: Path, changes: dict[str, Callable[[bytes], bytes]]) -> Path:
    """Rewrite members of a .pt2 by the end of their names; a name not there is added."""
    with zipfile.ZipFile(path) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    root = next(iter(members)).split("/")[0]
    for name, change in changes.items():
        full = f"{root}/{name}"
        members[full] = change(members.get(full, b""))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    path.write_bytes(buffer.getvalue())
    return path


def onnx_model(network: Small, *, batch: int | str = "n", layout: str = "NCHW") -> Any:
    """Return the network as an ONNX model, written node by node."""
    from onnx import TensorProto, helper, numpy_helper

    weights = {
        name: numpy_helper.from_array(value.detach().numpy(), name)
        for name, value in network.state_dict().items()
        if value.ndim
    }
    nodes = [
        helper.make_node("Conv", ["x", "first.weight", "first.bias"], ["a"],
                         kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization",
                         ["a", "norm.weight", "norm.bias", "norm.running_mean", "norm.running_var"],
                         ["b"], epsilon=1e-5),
        helper.make_node("Relu", ["b"], ["c"]),
        helper.make_node("Conv", ["c", "second.weight", "second.bias"], ["d"],
                         kernel_shape=[3, 3], strides=[2, 2]),
        helper.make_node("Relu", ["d"], ["maps"]),
        helper.make_node("GlobalAveragePool", ["maps"], ["e"]),
        helper.make_node("Flatten", ["e"], ["f"]),
        helper.make_node("Gemm", ["f", "dense.weight", "dense.bias"], ["out/profile:0"], transB=1),
    ]  # fmt: skip
    channels = network.first.in_channels
    shape, maps = [batch, channels, 64, 64], [batch, 6, 15, 15]
    name, wanted = "x", "maps"
    if layout == "NHWC":
        nodes = [
            helper.make_node("Transpose", ["crops"], ["x"], perm=[0, 3, 1, 2]),
            *nodes,
            helper.make_node("Transpose", ["maps"], ["maps_last"], perm=[0, 2, 3, 1]),
        ]
        shape, maps = [batch, 64, 64, channels], [batch, 15, 15, 6]
        name, wanted = "crops", "maps_last"
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)],
        [
            helper.make_tensor_value_info(wanted, TensorProto.FLOAT, maps),
            helper.make_tensor_value_info("out/profile:0", TensorProto.FLOAT, [batch, 5]),
        ],
        list(weights.values()),
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def write_onnx(path: Path, model: Any) -> Path:
    path.write_bytes(model.SerializeToString())
    return path


def write_spec(program: Path, **changes: Any) -> Path:
    """Write a spec file for a program of `Small`; None takes a key out."""
    values = {
        "file": program.name,
        "sha256": hashlib.sha256(program.read_bytes()).hexdigest(),
        "channels": ["protein", "cytosol"],
        "layers": {"conv": 0, "profile": 1},
        "classification_layer": "conv",
        "profile_layer": "profile",
        "licence": "BSD-3-Clause",
        "origin": "made up",
        **changes,
    }
    lines = [f"{k} = {as_toml(v)}" for k, v in values.items() if v is not None]
    path = program.with_suffix(".toml")
    path.write_text("\n".join(["[model]", *lines]) + "\n", encoding="utf-8")
    return path
