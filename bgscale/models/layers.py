"""What the convolutional networks here share: a stack of convolutions that can be read anywhere.

Owns the stack, the points where a layer is read, pooling over space and seeded first weights.
Refuses to own any one architecture's numbers: they are in its file, as data. The one idea: the
order of norm and ReLU differs between the networks, so a tap is named by the operation it follows.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import max_pool2d

from bgscale.draw import digest64, philox
from bgscale.errors import ConfigError, nearest
from bgscale.models.spec import ModelSpec

NORM_EPSILON = 1e-3
"""Keras' and the published networks'; torch's default is 1e-5."""


INSIDE = "inside"
"""Beside the taps of a network that is gated: where the centre cell is, at that size."""


@dataclass(frozen=True)
class Stage:
    """A 3x3 convolution with its batch norm, ReLU and, `pool`, 2x2 maximum pooling after them."""

    conv: str
    norm: str
    width: int
    pool: bool = False
    stride: int = 1


class ConvNetwork(nn.Module):
    """Base of the networks: builds the stages of a subclass and reads their layers.

    Parameters
    ----------
    spec : ModelSpec
        Number of channels and outputs, network crop, layers to read, pooling and tap.
    """

    default_spec: ClassVar[ModelSpec]
    stages: ClassVar[tuple[Stage, ...]]
    order: ClassVar[tuple[str, ...]] = ("norm", "relu")
    padding: ClassVar[int] = 1
    pool_rounds_up: ClassVar[bool] = False
    dense: ClassVar[dict[str, int]] = {}
    """Widths of the layers after the convolutions that can be read."""
    reduced_precision: ClassVar[tuple[str, ...]] = ()
    """In which its accuracies were shown to be the same: `benchmarks/precision.py`."""
    probed: ClassVar[bool] = True
    """Whether "auto" looks for what runs it faster than as it is written."""
    cut = False
    """Whether to stop after the last layer that is read, without "logits"."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.spec = spec
        widths = self.widths()
        for layer, width in spec.layers.items():
            if layer not in widths:
                known = list(widths)
                msg = (
                    f"model {spec.architecture!r} has no layer {layer!r}{nearest(layer, known)}; "
                    f"known: {known}"
                )
                raise ConfigError(msg)
            if width != widths[layer]:
                msg = f"layer {layer!r} of {spec.architecture!r}: width {width}, is {widths[layer]}"
                raise ConfigError(msg)
        self.gated = "gate" in spec.mask_input
        channels = len(spec.channels) + ("channel" in spec.mask_input)
        for stage in self.stages:
            conv = nn.Conv2d(channels, stage.width, 3, stride=stage.stride, padding=self.padding)
            self.add_module(stage.conv, conv)
            self.add_module(stage.norm, nn.BatchNorm2d(stage.width, eps=NORM_EPSILON))
            channels = stage.width
        self.pool = nn.MaxPool2d(2, ceil_mode=self.pool_rounds_up)

    @classmethod
    def widths(cls) -> dict[str, int]:
        """Return every layer that can be read, with its width, in order."""
        return {stage.conv: stage.width for stage in cls.stages} | cls.dense

    @classmethod
    def spatial_size(cls, size_px: int) -> int:
        """Return the edge in pixels of the last stage's output for an input of that edge."""
        for stage in cls.stages:
            size_px = (size_px + 2 * cls.padding - 3) // stage.stride + 1
            if stage.pool:
                size_px = (size_px + cls.pool_rounds_up) // 2
        if size_px < 1:
            msg = f"{cls.default_spec.architecture}: the crop is too small for its convolutions"
            raise ConfigError(msg)
        return size_px

    @classmethod
    def values_at_once(cls, channels: int, size_px: int) -> int:
        """Return how many values of one crop its largest stage holds: input, output, and a copy."""
        most = 0
        for stage in cls.stages:
            held = channels * size_px**2
            size_px = (size_px + 2 * cls.padding - 3) // stage.stride + 1
            most = max(most, held + 2 * stage.width * size_px**2)
            channels = stage.width
            if stage.pool:
                size_px = (size_px + cls.pool_rounds_up) // 2
        return most

    def run_stages(self, x: Tensor) -> Iterator[tuple[Stage, dict[str, Tensor], Tensor]]:
        """Yield each stage, its value at the taps (n, width, y, x), and its output after pooling.

        The ReLU overwrites its input unless that is the spec's tap: a fifth of the time goes into
        fresh memory otherwise. Of a gated network the taps have the centre cell, `INSIDE`, (n, 1,
        y, x), beside them, and the last output is zero outside it.
        """
        inside = x[:, -1:]
        if self.spec.mask_input and "channel" not in self.spec.mask_input:
            x = x[:, :-1]
        for stage in self.stages:
            before, x = "conv", getattr(self, stage.conv)(x)
            taps = {before: x}
            for operation in self.order:
                if operation == "norm":
                    x = getattr(self, stage.norm)(x)
                else:
                    x = x.relu() if before == self.spec.tap else x.relu_()
                taps[operation] = x
                before = operation
            if self.gated:
                inside = self._as_large(inside, stage)
                taps[INSIDE] = inside
                if stage is self.stages[-1]:
                    x = x * inside
            if stage.pool:
                x = self.pool(x)
                inside = self.pool(inside) if self.gated else inside
            yield stage, taps, x

    def _as_large(self, inside: Tensor, stage: Stage) -> Tensor:
        """Return the mask at the size of a convolution's output, pixel below pixel."""
        cut = 1 - self.padding
        inside = inside[..., cut : inside.shape[2] - cut, cut : inside.shape[3] - cut]
        if stage.stride == 1:
            return inside
        return max_pool2d(inside, stage.stride, ceil_mode=True)

    def read(self, taps: dict[str, Tensor]) -> Tensor:
        """Return a layer as a vector, as the spec says: (n, width)."""
        return over_space(taps, self.spec.tap, self.spec.pooling)

    def is_read(self, read: dict[str, Tensor]) -> bool:
        """Whether all that is asked for has been read, and the rest can be left out."""
        return self.cut and all(layer in read for layer in self.spec.layers)

    def in_order(self, read: dict[str, Tensor], logits: Tensor | None = None) -> dict[str, Tensor]:
        """Return the layers that the spec asks for, in its order, then "logits"."""
        asked = {layer: read[layer] for layer in self.spec.layers}
        return asked if logits is None else asked | {"logits": logits}


def over_space(taps: dict[str, Tensor], tap: str, pooling: str) -> Tensor:
    """Return the maximum or the mean of a tap over space, of a gated network over the cell alone.

    Where no pixel of the cell is left, the maximum is the least value of the crop, the mean zero.
    """
    value, inside = taps[tap], taps.get(INSIDE)
    if inside is None:
        return value.amax((2, 3)) if pooling == "max" else value.mean((2, 3))
    if pooling == "max":
        return torch.where(inside > 0, value, value.amin((2, 3), keepdim=True)).amax((2, 3))
    return (value * inside).sum((2, 3)) / inside.sum((2, 3)).clamp_min(1)


def flatten_channels_last(x: Tensor) -> Tensor:
    """Return (n, channel, y, x) as (n, y * x * channel).

    TensorFlow's order, so that the dense weights of a published checkpoint fit once transposed.
    """
    return x.permute(0, 2, 3, 1).flatten(1)


def build_network(kind: type[nn.Module], spec: ModelSpec) -> nn.Module:
    """Return a network with the random weights of `spec.seed`, the same on every machine.

    Convolutions and dense layers: He-uniform from Philox words, zero bias. Anything else keeps the
    constant it is built with. Torch's own generators are left as they were.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(spec.seed)
        network = kind(spec)
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            weight = module.weight.data
            bound = (6.0 / weight[0].numel()) ** 0.5
            uniform = _uniform(digest64(spec.seed, "weights", name), weight.numel())
            weight.copy_(torch.from_numpy((2 * uniform - 1) * np.float32(bound)).view_as(weight))
            if module.bias is not None:
                module.bias.data.zero_()
    return network.eval()


def _uniform(key: int, n: int) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    counter = np.arange(-(-n // 4), dtype=np.uint64)
    return (philox(key, counter).ravel()[:n] >> np.uint32(8)).astype(np.float32) / np.float32(2**24)
