"""Embedding models by name: an architecture, its weights, and what it expects.

Networks come from a registry; other packages add theirs through the entry-point group
`bgscale.models`: a torch module class with `default_spec` (a `ModelSpec`) and `widths()` (every
layer that can be read), built from a spec, returning {layer: (n, width)} and "logits". Any other
network comes as an ONNX file or a torch.export program, with a spec file that names its layers.
Torch is imported when a model is loaded, not before.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bgscale.errors import InputError
from bgscale.models.spec import ModelSpec
from bgscale.registry import Registry

if TYPE_CHECKING:
    from bgscale.models.embedding import EmbeddingModel

__all__ = ["MODELS", "ModelSpec", "load_model", "model_files"]

SPEC_ENDING, WEIGHTS_ENDING = ".toml", ".safetensors"

MODELS = Registry(
    "model",
    {
        "tiny": "bgscale.models.tiny:Tiny",
        "pifia": "bgscale.models.pifia:Pifia",
        "pci": "bgscale.models.pci:Pci",
        "deeploc": "bgscale.models.deeploc:Deeploc",
    },
    group="bgscale.models",
)


def load_model(
    name: str,
    *,
    weights: str | Path | None = None,
    seed: int = 0,
    n_outputs: int | None = None,
    device: str = "cpu",
    overrides: Mapping[str, Any] | None = None,
) -> "EmbeddingModel":
    """Return a model that is ready to embed.

    Parameters
    ----------
    name : str
        tiny, pifia, pci, deeploc, or a plug-in's name; or a file that says which: the spec file of
        a program (.toml), or weights that bgscale wrote (.safetensors).
    weights : path, optional
        A safetensors file; without one, random weights of `seed`. A file that bgscale wrote brings
        its own spec along.
    seed : int
        Of random weights; unused with a file.
    n_outputs : int, optional
        Classes of the pretext task; None is what the file or the architecture says.
    device : str
        "cpu", "cuda", "cuda:1".
    overrides : mapping, optional
        Fields of `ModelSpec` that replace the model's own; `layers` may be a list of names.

    Returns
    -------
    EmbeddingModel

    Raises
    ------
    InputError
        There is no such model, file or device, or they do not fit each other.

    Examples
    --------
    >>> model = load_model("tiny", overrides={"micro_batch": 8})
    >>> import numpy as np
    >>> crops = np.zeros((3, len(model.spec.channels), 64, 64), np.uint16)
    >>> model.embed(crops)["profile"].shape
    (3, 64)
    """
    from bgscale.models.embedding import EmbeddingModel
    from bgscale.models.engine import check_device
    from bgscale.models.layers import build_network
    from bgscale.models.weights import load_state, read_weights

    check_device(device)
    if name.endswith(SPEC_ENDING):
        return _from_spec_file(name, weights, n_outputs, device, overrides)
    if name.endswith(WEIGHTS_ENDING) and weights is None:
        name, weights = _architecture_of(name), name
    kind = MODELS[name]
    spec: ModelSpec = replace(kind.default_spec, seed=seed)
    file = None if weights is None else read_weights(weights)
    if file is not None:
        spec = file.spec or replace(spec, weights=file.name, weights_sha256=file.sha256)
        if spec.architecture != name:
            msg = f"weights file {weights} is of the model {spec.architecture!r}; expected {name!r}"
            raise InputError(msg)
    changes = dict(overrides or {})
    if n_outputs is not None:
        changes["n_outputs"] = n_outputs
    if "layers" in changes and not isinstance(changes["layers"], Mapping):
        changes["layers"] = {layer: kind.widths().get(layer, 0) for layer in changes["layers"]}
    spec = ModelSpec.from_config(spec.to_config() | changes)
    network = build_network(kind, spec)
    if file is not None:
        load_state(network, file.state, f"weights file {weights}")
    return EmbeddingModel(spec, network, device)


def model_files(name: str, weights: str) -> list[Path]:
    """Return the files that a model is read from: weights, or spec file and program."""
    if not name.endswith(SPEC_ENDING):
        return [Path(weights)] if weights else []
    from bgscale.models.program_spec import read_spec_file

    return [Path(name), Path(read_spec_file(name).file)]


def _from_spec_file(
    path: str,
    weights: str | Path | None,
    n_outputs: int | None,
    device: str,
    overrides: Mapping[str, Any] | None,
) -> "EmbeddingModel":
    from bgscale.models.embedding import EmbeddingModel
    from bgscale.models.program import load_program

    if weights is not None or n_outputs is not None:
        what = "weights" if weights is not None else "n_outputs"
        msg = f"{path}: {what} given for a program from a file, which brings its own"
        raise InputError(msg)
    spec, network = load_program(path, device=device, overrides=overrides)
    return EmbeddingModel(spec, network, device)


def _architecture_of(path: str) -> str:
    from bgscale.models.weights import read_weights

    spec = read_weights(path).spec
    if spec is None:
        msg = (
            f"weights file {path} does not say which model it is of: bgscale did not write it; "
            "give the architecture, and this file as weights"
        )
        raise InputError(msg)
    return spec.architecture
