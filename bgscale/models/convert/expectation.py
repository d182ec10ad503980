"""What the published files hold, as data: the layers of each model, their shapes and spellings.

Owns the tables and how one of their arrays becomes one of our tensors. Refuses to read any file.
The one idea: a layer is looked for by name, then by order and shape, so its table says both.

TensorFlow keeps the kernel of a convolution as (y, x, in, out) and of a dense layer as (in, out);
torch wants (out, in, y, x) and (out, in).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from types import MappingProxyType

KINDS = ("conv", "dense", "norm")

OUR_NAMES: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "conv": {"kernel": "weight", "bias": "bias"},
        "dense": {"kernel": "weight", "bias": "bias"},
        "norm": {
            "gamma": "weight",
            "beta": "bias",
            "mean": "running_mean",
            "variance": "running_var",
        },
    }
)
"""By kind of layer: the part that a variable plays -> what torch calls it."""

PERMUTATIONS = {("conv", "kernel"): (3, 2, 0, 1), ("dense", "kernel"): (1, 0)}
"""The axes of their array in the order of ours; all others have one axis."""

FILLED = {"gamma": 1.0, "bias": 0.0}
"""What a part is that a layer was built without."""


@dataclass(frozen=True)
class Layer:
    """One layer of a published network.

    Parameters
    ----------
    ours : str
        Our module.
    kind : {"conv", "dense", "norm"}
    shape : tuple of int or None
        Of its kernel, as TensorFlow keeps it, or of a batch norm's vectors; None is the number of
        classes.
    spelling : str
        Regular expression of the names that it goes by; a batch norm also goes by `after`'s.
    after : str
        Of a batch norm, our name of the layer before it.
    """

    ours: str
    kind: str
    shape: tuple[int | None, ...]
    spelling: str
    after: str = ""

    def tensor(self, part: str) -> str:
        """Return our name of a part: "conv1.weight"."""
        return f"{self.ours}.{OUR_NAMES[self.kind][part]}"

    def shape_of(self, part: str, n_outputs: int) -> tuple[int, ...]:
        """Return the shape of a part as TensorFlow keeps it, for a number of classes."""
        shape = self.shape if part == "kernel" else self.shape[-1:]
        return tuple(n_outputs if size is None else size for size in shape)

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Return whether a kernel, or a batch norm's vector, of that shape may be this layer's."""
        return len(shape) == len(self.shape) and all(
            own in (None, size) for own, size in zip(self.shape, shape, strict=True)
        )


@dataclass(frozen=True)
class Expectation:
    """What a published file of one model holds.

    Parameters
    ----------
    model : str
        Our name of it.
    layers : tuple of Layer
        In the order of the network.
    head : str
        The layer with one output a class; empty where the published network has no classes.
    may_lack : frozenset of str
        Parts that a layer may have been built without.
    is_whole : bool
        Whether the file holds nothing else. If not, what is left (a decoder) is left out, and said.
    licence, source : str
        Of the published weights.
    """

    model: str
    layers: tuple[Layer, ...]
    head: str
    may_lack: frozenset[str]
    is_whole: bool
    licence: str
    source: str

    def layer(self, ours: str) -> Layer:
        """Return the layer of that module."""
        return next(layer for layer in self.layers if layer.ours == ours)

    def tensors(self) -> dict[str, tuple[Layer, str]]:
        """Return our tensors, each with its layer and the part it plays."""
        return {
            layer.tensor(part): (layer, part)
            for layer in self.layers
            for part in OUR_NAMES[layer.kind]
        }


def _norm(ours: str, layer: Layer, number: str) -> Layer:
    # batch_normalization_1, dense_1 and the like are numbered by Keras from 0 or 1: no names
    spelling = rf"(bn|batch_?norm)_?{number}|{layer.spelling}_(bn|batch_?norm)"
    return Layer(ours, "norm", layer.shape[-1:], spelling, after=layer.ours)


def _convolutions(numbers: Mapping[str, int], channels: int) -> tuple[Layer, ...]:
    """Return conv and batch norm of each number; `numbers` says the widths."""
    layers = []
    for number, width in numbers.items():
        conv = Layer(f"conv{number}", "conv", (3, 3, channels, width), rf"conv_?{number}")
        layers += [conv, _norm(f"bn{number}", conv, number)]
        channels = width
    return tuple(layers)


_EIGHT = {str(i): w for i, w in enumerate((64, 64, 128, 128, 256, 256, 256, 256), start=1)}

_PIFIA_DENSE = tuple(
    Layer(f"d{i}", "dense", shape, rf"d_?{i}")
    for i, shape in enumerate(pairwise((2 * 2 * 256, 128, 64, None)), start=1)
)


def _deeploc_dense() -> tuple[Layer, ...]:
    layers = []
    for i, shape in enumerate(pairwise((8 * 8 * 256, 512, 512, None)), start=1):
        spelling = rf"fc_?{i}" + ("|final_layer|logits|output" if i == 3 else "")
        dense = Layer(f"fc{i}", "dense", shape, f"({spelling})")
        layers += [dense, _norm(f"bn_fc{i}", dense, f"fc_?{i}")]
    return tuple(layers)


EXPECTATIONS = {
    expectation.model: expectation
    for expectation in (
        Expectation(
            model="pifia",
            layers=_convolutions(_EIGHT, channels=1) + _PIFIA_DENSE,
            head="d3",
            may_lack=frozenset({"gamma"}),
            is_whole=True,
            licence="MIT",
            source="arazd/pifia; Mol Syst Biol 2024;20:521",
        ),
        Expectation(
            model="pci",
            layers=_convolutions(
                {"1_1": 96, "2_1": 256, "3_1": 384, "4_1": 384, "5_1": 256}, channels=2
            ),
            head="",
            may_lack=frozenset({"gamma", "bias"}),
            is_whole=False,
            licence="GPL-2.0",
            source="alexxijielu/paired_cell_inpainting; PLoS Comput Biol 2019;15:e1007348",
        ),
        Expectation(
            model="deeploc",
            layers=_convolutions(_EIGHT, channels=2) + _deeploc_dense(),
            head="fc3",
            may_lack=frozenset({"gamma"}),
            is_whole=True,
            licence="BSD-3-Clause",
            source="okraus/DeepLoc; Mol Syst Biol 2017;13:924",
        ),
    )
}
"""By our name of the model."""
