"""Published weights, turned into bgscale's own files.

`convert` reads a TensorFlow checkpoint or a Keras HDF5 file and writes safetensors with the model's
spec. Refuses to run what it reads: no pickle, no Keras model, no graph; arrays by name. The one
idea: a conversion either accounts for every array of the network or writes nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from bgscale.errors import InputError, nearest, nearest_file
from bgscale.models.convert.expectation import EXPECTATIONS, PERMUTATIONS
from bgscale.models.convert.source import Source
from bgscale.models.spec import ModelSpec

if TYPE_CHECKING:
    from bgscale.models.convert.expectation import Expectation
    from bgscale.models.convert.match import Match

__all__ = ["EXPECTATIONS", "Converted", "convert", "open_source"]

_HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
_SUFFIXES = (".h5", ".hdf5", ".keras", ".safetensors")
_OTHER_FORMATS = {
    b"PK\x03\x04": "a zip file (.keras, or torch's): save the weights as HDF5 (.h5)",
    b"\x80": "a pickle, which can run code",
}


@dataclass(frozen=True)
class Converted:
    """What came of a conversion.

    Parameters
    ----------
    spec : ModelSpec
        As it stands in the file.
    sha256 : str
        Of the file.
    notes : tuple of str
        What was matched otherwise than by name, filled, or left out.
    """

    spec: ModelSpec
    sha256: str
    notes: tuple[str, ...]


def open_source(path: str | Path, *, only_names: bool = False) -> Source:
    """Return what published weights hold, whichever format they are in.

    Parameters
    ----------
    path : path
        An HDF5 file; or a checkpoint's prefix, one of its files, or the folder that holds one.
    only_names : bool
        Names and shapes are enough; a checkpoint's data files may be missing.

    Raises
    ------
    InputError
    """
    path = Path(path)
    if path.suffix in _SUFFIXES and not path.exists():
        msg = f"no file {path}{nearest_file(path)}"
        raise InputError(msg)
    if path.suffix == ".safetensors":
        msg = f"{path} is a safetensors file already; expected a TensorFlow checkpoint or HDF5"
        raise InputError(msg)
    head = b""
    try:
        if path.is_file():
            with path.open("rb") as file:
                head = file.read(len(_HDF5_MAGIC))
    except OSError as error:
        msg = f"{path}: {error.strerror or error}"
        raise InputError(msg) from error
    if head == _HDF5_MAGIC:
        from bgscale.models.convert.hdf5 import open_hdf5

        return open_hdf5(path)
    for magic, what in _OTHER_FORMATS.items():
        if head.startswith(magic):
            msg = f"{path} is {what}; expected a TensorFlow checkpoint or a Keras HDF5 file"
            raise InputError(msg)
    from bgscale.models.convert.checkpoint import find_prefix, open_checkpoint

    return open_checkpoint(find_prefix(path), only_names=only_names)


def convert(
    model: str,
    source: str | Path,
    output: str | Path,
    *,
    classes: tuple[str, ...] = (),
    names: Mapping[str, str] | None = None,
) -> Converted:
    """Write published weights as a safetensors file that `load_model` and run.toml take.

    Parameters
    ----------
    model : {"pifia", "pci", "deeploc"}
    source : path
        See `open_source`.
    output : path
        A .safetensors file; one that is there is replaced.
    classes : tuple of str
        Names of the model's classes, in the order of its outputs.
    names : mapping of str to str, optional
        Name in the source -> our tensor, for what cannot be matched otherwise.

    Returns
    -------
    Converted

    Raises
    ------
    InputError
        The source does not hold this model, as a whole; nothing is written.
    """
    from bgscale.models import MODELS
    from bgscale.models.convert.match import match
    from bgscale.models.layers import build_network
    from bgscale.models.weights import load_state, save_weights

    if model not in EXPECTATIONS:
        known = list(EXPECTATIONS)
        msg = f"no published weights of model {model!r}{nearest(model, known)}; known: {known}"
        raise InputError(msg)
    output = Path(output)
    if output.suffix != ".safetensors" or not output.parent.is_dir():
        msg = (
            f"output {output}: expected a file that ends in .safetensors, in a folder that is there"
            f"{nearest_file(output.parent)}"
        )
        raise InputError(msg)
    expected = EXPECTATIONS[model]
    opened = open_source(source)
    matched = match(expected, opened, names)
    if classes and len(classes) != matched.n_outputs:
        has = f"{matched.n_outputs} outputs" if expected.head else "no outputs for classes"
        msg = f"{len(classes)} names of classes; {opened.path} has {has}"
        raise InputError(msg)
    kind = MODELS[model]
    spec = replace(
        kind.default_spec,
        n_outputs=matched.n_outputs,
        class_names=classes,
        licence=expected.licence,
        origin=f"{expected.source}; converted from {opened.format} {', '.join(opened.hashes())}",
    )
    network = build_network(kind, spec)
    import torch

    own = network.state_dict()
    arrays = _arrays(expected, opened, matched)
    # what the published network has no counterpart of: bgscale's own head of PCI
    extra = [k for k in own if k not in arrays and not k.endswith("num_batches_tracked")]
    notes = list(matched.notes)
    if extra:
        notes.append(f"zeros, as the published network has no classes: {', '.join(extra)}")
    state = {name: torch.from_numpy(array) for name, array in arrays.items()}
    load_state(network, state | {k: torch.zeros_like(own[k]) for k in extra}, str(opened.path))
    sha256 = save_weights(output, network, spec)
    spec = replace(spec, weights=output.name, weights_sha256=sha256)
    return Converted(spec, sha256, tuple(notes))


def _arrays(
    expected: "Expectation", source: Source, matched: "Match"
) -> dict[str, npt.NDArray[np.float32]]:
    """Return our tensors as arrays, read and turned round."""
    arrays = {}
    for tensor, (layer, part) in expected.tensors().items():
        if tensor in matched.filled:
            shape = layer.shape_of(part, matched.n_outputs)
            arrays[tensor] = np.full(shape, matched.filled[tensor], np.float32)
            continue
        name = matched.taken[tensor]
        array: npt.NDArray[Any] = source.read(name)
        if array.dtype.kind != "f":
            msg = f"{source.path}: {name!r} is {array.dtype}; expected floating point numbers"
            raise InputError(msg)
        array = array.astype(np.float32)
        if part == "variance" and bool((array < 0).any()):
            msg = f"{source.path}: {name!r} is taken for a variance, and has negative values"
            raise InputError(msg)
        axes = PERMUTATIONS.get((layer.kind, part))
        arrays[tensor] = np.ascontiguousarray(array if axes is None else array.transpose(axes))
    return arrays
