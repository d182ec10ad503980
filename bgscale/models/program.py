"""A program from a file as a network: crops in, the layers of its spec out.

Owns what ONNX files and torch.export programs have in common: layouts, which output is which layer,
pooling, the fixed batch. Refuses to know either format: `program_onnx.py` and `program_pt2.py` do.
The one idea: whatever the file, it is a torch module of crops (micro_batch, channel, y, x) that
returns {layer: (n, width)}, so all that runs a model runs this one.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from bgscale.errors import ConfigError, InputError, nearest
from bgscale.models.program_spec import (
    MICRO_BATCH,
    Facts,
    Port,
    format_of,
    read_known_file,
    read_program_file,
    read_spec_file,
)
from bgscale.models.spec import ModelSpec

_OWN_KEYS = ("architecture", "program", "weights", "weights_sha256")


class Program(nn.Module):
    """A program's outputs as the layers of a spec.

    Parameters
    ----------
    spec : ModelSpec
        With `program`: layouts, and the output of each layer.
    runner : module
        Of crops in the program's layout; returns its outputs in order. Has `facts`.
    where : str
        The file, for messages.
    """

    backends: ClassVar = ("torch",)

    def __init__(self, spec: ModelSpec, runner: nn.Module, where: str) -> None:
        super().__init__()
        self.spec, self.runner, self.where = spec, runner, where
        facts: Facts = runner.facts  # type: ignore[assignment]
        outputs = spec.program["outputs"]
        self.positions = {
            layer: _position(outputs[layer], facts.outputs, where) for layer in spec.layers
        }
        space = {"NCHW": (2, 3), "NHWC": (1, 2)}
        self.space = space[spec.program["output_layout"]]

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Return the layers of the spec of (micro_batch, channel, y, x), float32."""
        x = x.contiguous()
        if self.spec.program["input_layout"] == "NHWC":
            x = x.permute(0, 2, 3, 1).contiguous()
        outputs = self.runner(x)
        return {
            layer: self._vector(layer, outputs[i], len(x)) for layer, i in self.positions.items()
        }

    def _vector(self, layer: str, value: Tensor, n: int) -> Tensor:
        if value.ndim not in (2, 4) or len(value) != n:
            msg = (
                f"program {self.where}: layer {layer!r} has the shape {tuple(value.shape)} for {n} "
                f"crops; expected ({n}, width), or a map such as ({n}, width, y, x)"
            )
            raise InputError(msg)
        value = value.float()
        if value.ndim == 2:
            return value
        return value.amax(self.space) if self.spec.pooling == "max" else value.mean(self.space)


def open_program(data: bytes, where: str, device: str) -> nn.Module:
    """Return a program's bytes as a module with `facts`; nothing of it runs but its operators."""
    if format_of(where) == "onnx":
        from bgscale.models.program_onnx import OnnxRunner

        return OnnxRunner(data, where, device)
    from bgscale.models.program_pt2 import open_pt2

    return open_pt2(data, where)


def facts_of(file: str | Path) -> tuple[Facts, bytes]:
    """Return what a program says of itself, and its bytes; for `bgscale models init`."""
    data = read_program_file(file)
    facts: Facts = open_program(data, str(file), "cpu").facts  # type: ignore[assignment]
    return facts, data


def load_program(
    path: str | Path, *, device: str = "cpu", overrides: Mapping[str, Any] | None = None
) -> tuple[ModelSpec, Program]:
    """Return the spec and the network of a spec file.

    Parameters
    ----------
    path : path
        The spec file.
    device : str
        Where it will run.
    overrides : mapping, optional
        Fields of `ModelSpec` that replace what the file says; `layers` may be a list of names.

    Raises
    ------
    ConfigError
        The spec file is wrong, or does not fit the program.
    InputError
        The program is missing, is another file than the spec's, or cannot be run safely.
    """
    section = read_spec_file(path)
    runner = open_program(read_known_file(section), section.file, device)
    facts: Facts = runner.facts  # type: ignore[assignment]
    fixed = facts.inputs[0].shape[0] if facts.inputs and facts.inputs[0].shape else None
    changes = dict(overrides or {})
    for key in _OWN_KEYS:
        if key in changes:
            msg = f"{path}: {key} of a program cannot be replaced"
            raise ConfigError(msg)
    if "layers" in changes:
        changes["layers"] = dict.fromkeys(changes["layers"], 1)
    try:
        spec = section.to_spec(micro_batch=section.micro_batch or fixed or MICRO_BATCH)
        spec = ModelSpec.from_config(spec.to_config() | changes)
        for layer in spec.layers:
            if layer not in section.layers:
                msg = f"unknown layer {layer!r}{nearest(layer, section.layers)}"
                raise ConfigError(msg)
        _check_input(facts, spec)
        network = Program(spec, runner, section.file).to(device).eval()
    except InputError as error:
        msg = f"{path}: {error}"
        raise type(error)(msg) from error
    spec = replace(spec, layers=_widths(network, device))
    network.spec = spec
    return spec, network


def _position(output: int | str, ports: tuple[Port, ...], where: str) -> int:
    names = [port.name for port in ports]
    if isinstance(output, int):
        if 0 <= output < len(ports):
            return output
        msg = f"program {where} has no output {output}; it has {len(ports)}: {', '.join(names)}"
        raise ConfigError(msg)
    if names.count(output) != 1:
        msg = (
            f"program {where} has no output {output!r}{nearest(output, names)}; it has: "
            f"{', '.join(names)}; a position, as 0, will do too"
        )
        raise ConfigError(msg)
    return names.index(output)


def _check_input(facts: Facts, spec: ModelSpec) -> None:
    edge, layout = spec.network_crop_px, spec.program["input_layout"]
    space = (edge, edge)
    image = (len(spec.channels), *space) if layout == "NCHW" else (*space, len(spec.channels))
    expected = (spec.micro_batch, *image)
    ports = facts.inputs
    if (
        len(ports) != 1
        or ports[0].dtype != "float32"
        or len(ports[0].shape) != 4
        or any(size not in (None, e) for size, e in zip(ports[0].shape, expected, strict=True))
    ):
        found = "; ".join(str(port) for port in ports) or "nothing"
        msg = (
            f"the program takes {found}; expected one input, float32 {expected} by micro_batch, "
            f"channels = {list(spec.channels)}, network_crop_px and input_layout = {layout!r}"
        )
        raise ConfigError(msg)


@torch.inference_mode()
def _widths(network: Program, device: str) -> dict[str, int]:
    """Return the width of each layer, found by running the program on zeros."""
    spec = network.spec
    edge = spec.network_crop_px
    zeros = torch.zeros(spec.micro_batch, len(spec.channels), edge, edge, device=device)
    try:
        return {layer: value.shape[1] for layer, value in network(zeros).items()}
    except InputError:
        raise
    except Exception as error:
        msg = (
            f"program {network.where} fails on {spec.micro_batch} crops of zeros: "
            f"{str(error).strip().splitlines()[0]}; does it work for this batch, size and device?"
        )
        raise InputError(msg) from error
