"""Keras' HDF5 files, read as arrays by name: whole models, `save_weights`, and `.weights.h5`.

Owns the three layouts. Refuses to build a Keras object from a file: a model's config can hold code.
That config is read as JSON all the same, for one fact: which layer reads which, since a batch norm
is often called batch_normalization_7.
"""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bgscale.errors import InputError
from bgscale.models.convert.source import Source, Variable, by_number, variable

_NUMBERED = re.compile(r"(?P<layer>.*)/vars/(?P<i>\d+)")
_KERNEL_NDIMS = (2, 4)


def open_hdf5(path: Path) -> Source:
    """Return what a Keras HDF5 file holds.

    Raises
    ------
    InputError
        It is damaged, holds no arrays, or h5py is not installed.
    """
    try:
        import h5py
    except ImportError as error:
        msg = f"reading the HDF5 file {path} needs h5py: pip install 'bgscale[weights]'"
        raise InputError(msg) from error

    try:
        with h5py.File(path, "r") as file:
            variables, in_order = _variables(file)
            inputs = _inputs(file)
    except (OSError, LookupError, RuntimeError, TypeError, ValueError, AttributeError) as error:
        msg = f"{path} cannot be read as a Keras HDF5 file ({error})"
        raise InputError(msg) from error

    def read(name: str) -> npt.NDArray[Any]:
        try:
            with h5py.File(path, "r") as file:
                return np.asarray(file[name])
        except (OSError, KeyError, RuntimeError, ValueError) as error:
            msg = f"{path}: {name!r} cannot be read ({error}); the file is damaged: get it again"
            raise InputError(msg) from error

    return Source(
        path=path,
        format="Keras HDF5",
        files=(path,),
        variables=variables,
        read=read,
        in_order=in_order,
        inputs=inputs,
    )


def _variables(file: Any) -> tuple[tuple[Variable, ...], bool]:
    """Return the arrays, and whether they are in the order in which the network was built."""
    prefix = "model_weights/" if "model_weights" in file else ""
    root = file[prefix or "/"]
    layers = _names(root, "layer_names")
    if layers:
        found = []
        for layer in layers:
            for weight in _names(root[layer], "weight_names"):
                name = f"{prefix}{layer}/{weight}"
                found.append(variable(f"{layer}/{weight}", tuple(file[name].shape)))
        return tuple(_renamed(v, f"{prefix}{v.name}") for v in found), True
    import h5py

    names: list[str] = []

    def collect(name: str, item: object) -> None:
        if isinstance(item, h5py.Dataset):
            names.append(name)

    root.visititems(collect)
    plain: list[Variable] = []
    numbered: dict[str, list[str]] = {}
    for name in sorted(names, key=by_number):
        match = _NUMBERED.fullmatch(name)
        if match:
            numbered.setdefault(match["layer"], []).append(name)
        else:
            plain.append(_renamed(variable(name, tuple(root[name].shape)), f"{prefix}{name}"))
    for layer, of_layer in numbered.items():
        plain += _of_layer(root, layer, of_layer, prefix)
    return tuple(plain), False


def _of_layer(root: Any, layer: str, names: list[str], prefix: str) -> list[Variable]:
    """Return the arrays of a layer that Keras 3 keeps as vars/0, vars/1, ..., without names.

    Their order is that in which the layer made them: kernel, bias; gamma, beta, mean, variance.
    Three vectors are a batch norm without gamma or one without beta: nothing tells which.
    """
    shapes = [tuple(root[name].shape) for name in names]
    if len(shapes[0]) in _KERNEL_NDIMS:
        parts = ["kernel", "bias"]
    elif len(names) == 4:
        parts = ["gamma", "beta", "mean", "variance"]
    else:
        parts = []
    given = root[layer]["vars"].attrs.get("name", "")
    title = given.decode() if isinstance(given, bytes) else str(given)
    words = tuple(word for word in layer.split("/") if word) + ((title,) if title else ())
    surplus = variable(f"{layer}/vars", ()).surplus
    return [
        Variable(
            f"{prefix}{name}",
            shape,
            words,
            title or layer,
            parts[i] if i < len(parts) else "",
            surplus,
        )
        for i, (name, shape) in enumerate(zip(names, shapes, strict=True))
    ]


def _renamed(one: Variable, name: str) -> Variable:
    return replace(one, name=name)


def _names(group: Any, key: str) -> list[str]:
    """Return a list of names from the attributes; Keras cuts long ones into key0, key1, ..."""
    pieces = [key] if key in group.attrs else []
    while not pieces or pieces[-1] != key:
        following = f"{key}{len(pieces)}"
        if following not in group.attrs:
            break
        pieces.append(following)
    return [
        name.decode() if isinstance(name, bytes) else str(name)
        for piece in pieces
        for name in group.attrs[piece]
    ]


def _inputs(file: Any) -> dict[str, list[str]]:
    """Return the layers that each layer reads, from the config of a whole model; {} without one."""
    text = file.attrs.get("model_config")
    if text is None:
        return {}
    try:
        config = json.loads(text)
    except ValueError:
        return {}
    found: dict[str, list[str]] = {}
    twice: set[str] = set()
    _walk(config, found, twice)
    # of two layers with one name nothing is known
    return {layer: inputs for layer, inputs in found.items() if layer not in twice}


def _walk(model: Any, found: dict[str, list[str]], twice: set[str]) -> None:
    config = model.get("config") if isinstance(model, dict) else None
    layers = config.get("layers") if isinstance(config, dict) else config
    if not isinstance(layers, list):
        return
    is_sequence = model.get("class_name") == "Sequential"
    before: list[str] = []
    for layer in layers:
        if not isinstance(layer, dict) or not isinstance(layer.get("config"), dict):
            continue
        name = str(layer.get("name") or layer["config"].get("name"))
        if name in found:
            twice.add(name)
        found[name] = before if is_sequence else _read_by(layer.get("inbound_nodes"))
        before = [name]
        if "layers" in layer["config"]:
            _walk(layer, found, twice)


def _read_by(nodes: Any) -> list[str]:
    """Return the names in `inbound_nodes`: ["conv1", 0, 0, {}] in Keras 2, a history in Keras 3."""
    if isinstance(nodes, dict):
        history = nodes.get("keras_history")
        if isinstance(history, list) and history:
            return [str(history[0])]
        return [name for value in nodes.values() for name in _read_by(value)]
    if isinstance(nodes, list):
        if len(nodes) >= 3 and isinstance(nodes[0], str) and isinstance(nodes[1], int):
            return [nodes[0]]
        return [name for value in nodes for name in _read_by(value)]
    return []
