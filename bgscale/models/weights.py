"""Weights files: safetensors, with the model's spec as JSON in the file's own metadata.

Owns reading, writing and checking of weights. Refuses pickle in any form: a weights file is data,
and opening it must never run code. The one idea: what is hashed is what is read, and what does not
fit an architecture says which tensor.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from bgscale.errors import InputError
from bgscale.models.spec import ModelSpec

_METADATA_KEY = "bgscale_spec"
_COUNTER = "num_batches_tracked"
_SHOWN = 3


@dataclass(frozen=True)
class Weights:
    """A weights file's content: tensors by name, the spec it was saved with, name and SHA-256.

    The spec is None where the file was not written by bgscale.
    """

    state: dict[str, Tensor]
    spec: ModelSpec | None
    name: str
    sha256: str


def save_weights(path: str | Path, network: nn.Module, spec: ModelSpec) -> str:
    """Write a network's tensors and its spec; return the file's SHA-256.

    The file is replaced as a whole: a reader sees the old one or the new one.
    """
    path = Path(path)
    saved = replace(spec, weights=path.name, weights_sha256="")
    state = {
        name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()
    }
    data = safetensors.torch.save(
        state, {_METADATA_KEY: json.dumps(saved.to_config(), sort_keys=True)}
    )
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return hashlib.sha256(data).hexdigest()


def read_weights(path: str | Path) -> Weights:
    """Read a safetensors file; anything else raises `InputError`."""
    path = Path(path)
    try:
        data = path.read_bytes()
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError) as error:
        msg = f"weights file {path}: {error.strerror or error}; expected a safetensors file"
        raise InputError(msg) from error
    try:
        state = safetensors.torch.load(data)
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        text = header.get("__metadata__", {}).get(_METADATA_KEY)
        spec = None if text is None else ModelSpec.from_config(json.loads(text))
    except SafetensorError as error:
        msg = (
            f"weights file {path}: not a safetensors file ({error}); bgscale reads no "
            f"other format: `bgscale weights convert` turns published TensorFlow and Keras "
            f"weights into it, safetensors.torch.save_file those of torch"
        )
        raise InputError(msg) from error
    except (ValueError, AttributeError) as error:
        msg = f"weights file {path}: the model spec in its metadata cannot be read ({error})"
        raise InputError(msg) from error
    sha256 = hashlib.sha256(data).hexdigest()
    if spec is not None:
        spec = replace(spec, weights=path.name, weights_sha256=sha256)
    return Weights(state, spec, path.name, sha256)


def load_state(network: nn.Module, state: Mapping[str, Tensor], origin: str) -> None:
    """Copy tensors into a network; what does not fit raises `InputError` and changes nothing.

    Parameters
    ----------
    network : module
    state : mapping of str to tensor
        By the network's own names. Batch norm's step counters may be missing: nothing reads them.
    origin : str
        Where the tensors come from, for the message.
    """
    own = network.state_dict()
    missing = [k for k in own if k not in state and not k.endswith(_COUNTER)]
    unexpected = [k for k in state if k not in own]
    shapes = [
        f"{k} is {tuple(state[k].shape)}, expected {tuple(v.shape)}"
        for k, v in own.items()
        if k in state and state[k].shape != v.shape
    ]
    not_finite = [k for k, v in state.items() if not bool(torch.isfinite(v.float()).all())]
    faults = [
        f"{what}: {', '.join(names[:_SHOWN])}" + (", ..." if len(names) > _SHOWN else "")
        for what, names in (
            ("missing", missing),
            ("unexpected", unexpected),
            ("shapes", shapes),
            ("NaN or infinite", not_finite),
        )
        if names
    ]
    if faults:
        msg = f"{origin} does not fit {type(network).__name__}: {'; '.join(faults)}"
        raise InputError(msg)
    network.load_state_dict({**own, **state})
