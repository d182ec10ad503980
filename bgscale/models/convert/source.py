"""A file of published weights, opened: its variables by name, and what their names tell.

Owns `Source` and the reading of names. Refuses to know a format (`checkpoint.py`, `hdf5.py`) or a
model (`expectation.py`). The one idea: every format comes down to arrays by name; the last words of
a name tell the part that an array plays in its layer, the words before it the layer.
"""

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy.typing as npt

PARTS = {
    "kernel": ("kernel", "weights", "weight", "w"),
    "bias": ("bias", "biases", "b"),
    "gamma": ("gamma", "scale"),
    "beta": ("beta", "offset"),
    "mean": ("moving_mean", "running_mean", "population_mean", "pop_mean", "mean"),
    "variance": (
        "moving_variance", "running_variance", "population_variance", "pop_variance", "variance",
        "moving_var", "running_var", "pop_var", "var", "running_std",
    ),
}  # fmt: skip
"""The part that a variable plays: how it is spelled, in lower case. Keras 1 kept the variance under
the name running_std."""

_PART_OF = {spelling: part for part, spellings in PARTS.items() for spelling in spellings}
_MOMENTS = {"squeeze": "mean", "squeeze_1": "variance"}
"""TensorFlow 1 names the moving average of a batch's moments by the operations that made them."""

_SPELLINGS = "|".join(sorted(_PART_OF, key=len, reverse=True))
_JOINED = re.compile(
    rf"(?P<first>{_SPELLINGS})_(?P<after>[a-z].*)|(?P<before>.*[a-z].*)_(?P<last>{_SPELLINGS})",
    re.IGNORECASE,
)
"""Part and layer in one word: W_conv1, conv1_weights."""

_OBJECT_BASED = (".ATTRIBUTES", "VARIABLE_VALUE")
_AVERAGE = "ExponentialMovingAverage"
_SLOT = re.compile(r"(Adam|AdamW|Momentum|RMSProp|Adagrad|Adadelta|Ftrl|AMSGrad)(_\d+)?")
_COUNTERS = {"save_counter", "global_step", "step", "iter", "beta1_power", "beta2_power"}


@dataclass(frozen=True)
class Variable:
    """One array of a source.

    Parameters
    ----------
    name : str
        Its full name in the file.
    shape : tuple of int
    words : tuple of str
        The words of its name that may name a layer, from outside in.
    layer : str
        The layer it belongs to, as the file calls it.
    part : str
        The part it plays in its layer; empty where its name does not tell.
    surplus : str
        Why it is no part of any network ("optimizer"); empty if it may be.
    """

    name: str
    shape: tuple[int, ...]
    words: tuple[str, ...]
    layer: str
    part: str
    surplus: str = ""


@dataclass(frozen=True)
class Source:
    """What a file, or the files of a checkpoint, hold.

    Parameters
    ----------
    path : path
        As it is said in messages.
    format : str
        "TensorFlow checkpoint", "Keras HDF5".
    files : tuple of path
        All that is read.
    variables : tuple of Variable
        In the order of the file if `in_order`, else sorted, numbers by value.
    read : callable
        Name -> array.
    in_order : bool
        Whether the order is that in which the network was built.
    inputs : mapping of str to list of str
        Layer -> the layers it reads, where the file says so.
    """

    path: Path
    format: str
    files: tuple[Path, ...]
    variables: tuple[Variable, ...]
    read: Callable[[str], npt.NDArray[Any]]
    in_order: bool = False
    inputs: Mapping[str, list[str]] = field(default_factory=dict)

    def hashes(self) -> list[str]:
        """Return the name and SHA-256 of each file that is read, as sha256sum gives it."""
        hashes = []
        for path in self.files:
            with path.open("rb") as file:
                sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            hashes.append(f"{path.name} sha256:{sha256}")
        return hashes


def variable(name: str, shape: tuple[int, ...]) -> Variable:
    """Return what the name of an array tells.

    Examples
    --------
    >>> variable("model/conv1/kernel/.ATTRIBUTES/VARIABLE_VALUE", (3, 3, 1, 64)).part
    'kernel'
    >>> one = variable("conv_1/weights/Variable", (3, 3, 2, 64))
    >>> one.layer, one.part
    ('conv_1', 'kernel')
    >>> one = variable("bn/conv_1/bn/moments/Squeeze_1/ExponentialMovingAverage", (64,))
    >>> one.words, one.part
    (('bn', 'conv_1', 'bn'), 'variance')
    >>> one = variable("W_conv1", (3, 3, 2, 64))
    >>> one.layer, one.part
    ('conv1', 'kernel')
    >>> variable("conv_1/weights/Variable/Adam_1", (3, 3, 2, 64)).surplus
    'optimizer'
    """
    words = [word for word in name.split("/") if word]
    surplus = _surplus(words)
    words = [word.partition(":")[0] for word in words if word not in _OBJECT_BASED]
    is_average = any(word.startswith(_AVERAGE) for word in words)
    words = [w for w in words if not w.startswith(_AVERAGE)]
    while len(words) > 1 and re.fullmatch(r"Variable(_\d+)?", words[-1]):
        words.pop()
    if not words:
        return Variable(name, shape, (), "", "", surplus)
    last, before = words[-1].lstrip("_").lower(), words[:-1]
    if before and last.startswith(f"{before[-1].lower()}_"):
        last = last.removeprefix(f"{before[-1].lower()}_")
    part = _MOMENTS.get(last, "") if is_average else ""
    part = part or _PART_OF.get(last, "")
    if not part and (joined := _JOINED.fullmatch(words[-1])):
        part = _PART_OF[(joined["first"] or joined["last"]).lower()]
        before = [*before, joined["after"] or joined["before"]]
    if is_average and part not in ("mean", "variance"):
        surplus = surplus or "moving averages of weights"
    if part:
        words = before
        while words and re.fullmatch(r"(moments|normalize)(_\d+)?", words[-1]):
            words = words[:-1]
    # a bare number tells nothing without the word before it
    layer = "/".join(words[-2:] if words and words[-1].isdecimal() else words[-1:])
    return Variable(name, shape, tuple(words), layer, part, surplus)


def _surplus(words: list[str]) -> str:
    stem = words[0] if words else ""
    if stem == "_CHECKPOINTABLE_OBJECT_GRAPH":
        return "object graph"
    if (
        ".OPTIMIZER_SLOT" in words
        or re.match(r"(_?optimizer|optimizer_weights|training)(_\d+)?$", stem)
        or _SLOT.fullmatch(words[-1])
    ):
        return "optimizer"
    if stem in _COUNTERS or words[-1] in {"biased", "local_step"}:
        return "counters"
    if "metrics" in words or "seed_generator" in words or "compile_metrics" in words:
        return "metrics and random states"
    return ""


def by_number(name: str) -> list[tuple[int, str]]:
    """Return the key that sorts names with their numbers by value: conv2d, conv2d_2, conv2d_10."""
    return [
        (int(piece), "") if piece.isdecimal() else (-1, piece)
        for piece in re.split(r"(\d+)", name)
        if piece
    ]
