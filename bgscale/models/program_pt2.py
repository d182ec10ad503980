"""torch.export programs (.pt2): read as data, and run without torch's own loader.

Owns the archive, the list of operators that may run, and running them in order. Refuses everything
else that such a file may hold: torch.export.load unpickles weights, constants and sample inputs,
loads compiled code, evaluates symbolic sizes with sympy and calls any function below `torch` by its
name (`torch.os` is one), so that opening a file is running it. The one idea: a network that was
exported for inference is a list of calls to functional aten operators on raw tensors, and that much
can be read and run here.

Weights are read from raw bytes. No symbolic expression is looked at: sizes come from the tensors.
"""

import io
import json
import operator
import re
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bgscale.errors import InputError
from bgscale.models.program_spec import Facts, Port

SCHEMA_MAJOR = 8
"""Version of the description of programs; torch 2.9 to 2.13 write it."""

OPERATORS = frozenset(
    """
    _adaptive_avg_pool2d _native_batch_norm_legit_no_training _safe_softmax _softmax _to_copy
    _unsafe_view abs adaptive_avg_pool1d adaptive_avg_pool2d adaptive_max_pool2d add add_ addmm
    alias amax amin arange avg_pool1d avg_pool2d baddbmm batch_norm bmm cat celu chunk clamp
    clamp_ clamp_max clamp_min clip clone concat constant_pad_nd contiguous conv1d conv2d
    convolution cumsum detach detach_ div div_ dropout dropout_ einsum elu elu_ eq erf exp
    expand expand_as feature_dropout flatten floor fmod full full_like ge gelu gelu_ glu
    group_norm gt hardsigmoid hardsigmoid_ hardswish hardswish_ hardtanh hardtanh_ index_select
    instance_norm layer_norm le leaky_relu leaky_relu_ lift_fresh_copy linalg_vector_norm linear
    log log1p log_softmax logical_and logical_not logical_or lt masked_fill matmul max
    max_pool1d max_pool2d max_pool2d_with_indices maximum mean min minimum mish mish_ mm movedim
    mul mul_ narrow native_group_norm native_layer_norm ne neg new_full new_ones new_zeros norm
    ones ones_like pad permute pixel_shuffle pixel_unshuffle pow prelu reciprocal
    reflection_pad2d relu relu6 relu6_ relu_ repeat replication_pad2d reshape roll rsqrt rsub
    scalar_tensor scaled_dot_product_attention select selu selu_ sigmoid sigmoid_ sign silu
    silu_ slice softmax softplus split split_with_sizes sqrt square squeeze stack std
    std_mean sub sub_ sum swapaxes sym_size t tanh tanh_ threshold to transpose tril triu
    type_as unbind unflatten unsqueeze upsample_bicubic2d upsample_bilinear2d upsample_nearest2d
    var var_mean view view_as where zeros zeros_like
    """.split()  # noqa: SIM905  two hundred quotes would hide the names
)
"""The aten operators that may run: functions of their tensors, without chance, files or state."""

_ASSERTIONS = frozenset(
    ("_assert_scalar", "_assert_tensor_metadata", "_assert_async", "sym_constrain_range",
     "sym_constrain_range_for_size")
)  # fmt: skip
_TRAINING_FLAGS = ("train", "training")
_SIZES = {
    f"_operator.{name}": getattr(operator, name)
    for name in ("add", "sub", "mul", "floordiv", "mod", "neg", "eq", "ne", "lt", "le", "gt", "ge")
}
"""Arithmetic of sizes, where the batch is free."""

_DTYPES = {
    1: torch.uint8, 2: torch.int8, 3: torch.int16, 4: torch.int32, 5: torch.int64,
    6: torch.float16, 7: torch.float32, 8: torch.float64, 12: torch.bool, 13: torch.bfloat16,
}  # fmt: skip
_MEMORY_FORMATS = {
    1: torch.contiguous_format, 2: torch.channels_last, 4: torch.preserve_format,
}  # fmt: skip
_STRIDED = 7
_PLAIN = ("as_int", "as_bool", "as_string", "as_ints", "as_bools", "as_strings")
_TARGET = re.compile(r"torch\.ops\.aten\.(\w+)\.(\w+)")
_CODE = ("data/aotinductor/", "data/executorch/", "data/mtia")
_OLD = ("serialized_exported_program.json", "serialized_state_dict.pt")


@dataclass(frozen=True)
class _Value:
    """A value that an earlier call has made."""

    name: str


class _Device:
    """Stands for the device that the program runs on, whatever it was exported on."""


@dataclass(frozen=True)
class _Call:
    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    results: Any
    last: tuple[str, ...]


def open_pt2(data: bytes, where: str) -> "Pt2Runner":
    """Return a torch.export program that is ready to run.

    Parameters
    ----------
    data : bytes
        The file; it has been hashed.
    where : str
        Its name, for messages.

    Raises
    ------
    InputError
        Not such a program, one that needs pickle or compiled code, one that was exported for
        training, or an operator that is not in `OPERATORS`.
    """
    try:
        members = _members(data, where)
        name = _only_model(members, where)
        program = json.loads(members[f"models/{name}.json"])
        major = program["schema_version"]["major"]
        if major != SCHEMA_MAJOR:
            msg = f"program {where}: version {major} of the format; known is {SCHEMA_MAJOR}"
            raise InputError(msg)
        module = program["graph_module"]
        tensors = _tensors(members, "weights", name, where)
        tensors |= _tensors(members, "constants", name, where)
        return Pt2Runner(module, tensors, where)
    except InputError:
        raise
    except zipfile.BadZipFile as error:
        msg = f"program {where}: not a torch.export program ({error})"
        raise InputError(msg) from error
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        msg = f"program {where}: cannot be read as a torch.export program ({error!r})"
        raise InputError(msg) from error


def _members(data: bytes, where: str) -> dict[str, bytes]:
    """Return the archive's files by their names below its one folder, without the pickles."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        infos = [info for info in archive.infolist() if not info.is_dir()]
        names = ["/".join(info.filename.split("/")[1:]) for info in infos]
        if len(set(names)) != len(names):
            msg = f"program {where}: two files of one name in it"
            raise InputError(msg)
        old = [name for info in infos if (name := info.filename.split("/")[-1]) in _OLD]
        if old or "archive_format" not in names:
            what = "of an early torch, with pickled weights" if old else "no archive_format in it"
            msg = (
                f"program {where}: not a torch.export program that can be read ({what}); load it "
                "where you trust it, and save it again with torch.export.save of torch 2.9 or later"
            )
            raise InputError(msg)
        code = [name for name in names if name.startswith(_CODE)]
        if code:
            msg = f"program {where} holds compiled code ({code[0]}), which bgscale does not run"
            raise InputError(msg)
        packed = [i.filename for i in infos if i.compress_type != zipfile.ZIP_STORED]
        if packed:
            msg = f"program {where}: {packed[0]} is compressed; torch.export.save never does that"
            raise InputError(msg)
        wanted = ("models/", "data/weights/", "data/constants/", "archive_")
        return {
            name: archive.read(info)
            for name, info in zip(names, infos, strict=True)
            if name.startswith(wanted)
        }


def _only_model(members: Mapping[str, bytes], where: str) -> str:
    found = [m.group(1) for n in members if (m := re.fullmatch(r"models/([^/]+)\.json", n))]
    if len(found) != 1:
        msg = f"program {where} holds {len(found)} programs ({', '.join(found)}); expected one"
        raise InputError(msg)
    if f"data/weights/{found[0]}.pt" in members or f"data/constants/{found[0]}.pt" in members:
        msg = (
            f"program {where} has pickled weights; load it where you trust it, and save it again "
            "with torch.export.save of torch 2.9 or later"
        )
        raise InputError(msg)
    return found[0]


def _tensors(members: Mapping[str, bytes], kind: str, name: str, where: str) -> dict[str, Tensor]:
    """Return the weights or the constants by their names, from raw bytes."""
    listed = json.loads(members[f"data/{kind}/{name}_{kind}_config.json"])["config"]
    tensors = {}
    for key, payload in listed.items():
        meta = payload["tensor_meta"]
        if payload["use_pickle"] or meta is None:
            msg = (
                f"program {where}: {key} is pickled, which bgscale never opens: plain tensors only"
            )
            raise InputError(msg)
        raw, dtype = members[f"data/{kind}/{payload['path_name']}"], _DTYPES[meta["dtype"]]
        if meta["layout"] != _STRIDED:
            msg = f"program {where}: {key} is not a dense tensor"
            raise InputError(msg)
        size = [int(s["as_int"]) for s in meta["sizes"]]
        if raw:
            flat = torch.frombuffer(bytearray(raw), dtype=dtype)
            stride = [int(s["as_int"]) for s in meta["strides"]]
            tensor = flat.as_strided(size, stride, int(meta["storage_offset"]["as_int"]))
        else:
            tensor = torch.zeros(size, dtype=dtype)
        tensors[key] = tensor
    return tensors


class Pt2Runner(nn.Module):
    """Runs the calls of an exported graph in order; returns its outputs.

    Parameters
    ----------
    module : mapping
        `graph_module` of the program's description.
    tensors : mapping of str to tensor
        Weights and constants by name.
    where : str
        The file, for messages.
    """

    def __init__(
        self, module: Mapping[str, Any], tensors: Mapping[str, Tensor], where: str
    ) -> None:
        super().__init__()
        self.where = where
        graph, signature = module["graph"], module["signature"]
        self._held: dict[str, str] = {}
        self._strides: dict[str, tuple[int, ...]] = {}
        inputs = []
        for given in signature["input_specs"]:
            ((kind, spec),) = given.items()
            if kind == "user_input":
                inputs.append(spec["arg"]["as_tensor"]["name"])
            elif kind in _HELD:
                self._hold(spec["arg"]["name"], tensors[spec[_HELD[kind]]])
            else:
                msg = f"program {where}: an input of the kind {kind!r}; expected crops alone"
                raise InputError(msg)
        changed = [k for given in signature["output_specs"] for k in given if k != "user_output"]
        if changed:
            msg = (
                f"program {where} changes its own state as it runs ({changed[0]}): it was exported "
                "for training; call model.eval() before torch.export.export"
            )
            raise InputError(msg)
        self._inputs = inputs
        outputs = [
            given["user_output"]["arg"]["as_tensor"]["name"] for given in signature["output_specs"]
        ]
        self._outputs = outputs
        self._calls = _calls(graph["nodes"], outputs, where)
        metas = graph["tensor_values"]
        names = _dictionary_keys(module, len(outputs)) or outputs
        self.facts = Facts(
            tuple(_port(name, metas[name]) for name in inputs),
            tuple(_port(n, metas[o]) for n, o in zip(names, outputs, strict=True)),
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return the outputs of one batch."""
        values: dict[str, Any] = {name: self._buffers[key] for name, key in self._held.items()}
        values[self._inputs[0]] = x
        for call in self._calls:
            args = [_given(a, values, x.device) for a in call.args]
            kwargs = {k: _given(a, values, x.device) for k, a in call.kwargs.items()}
            _keep(call.results, call.function(*args, **kwargs), values)
            for name in call.last:
                del values[name]
        return [values[name] for name in self._outputs]

    def _hold(self, name: str, tensor: Tensor) -> None:
        dense = tensor.is_contiguous() or (
            tensor.ndim == 4 and tensor.is_contiguous(memory_format=torch.channels_last)
        )
        tensor = tensor if dense else tensor.contiguous()
        self._held[name] = key = f"w{len(self._held)}"
        self.register_buffer(key, tensor)
        self._strides[key] = tensor.stride()

    def _apply(self, fn: Any, recurse: bool = True) -> Any:  # noqa: FBT001, FBT002  torch's own
        # views in the graph fit the exported strides: a change of memory format is undone
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for key, stride in self._strides.items():
            moved = self._buffers[key]
            if moved is not None and moved.stride() != stride:
                plain = torch.empty_strided(
                    moved.shape, stride, dtype=moved.dtype, device=moved.device
                )
                self._buffers[key] = plain.copy_(moved)
        return self


_HELD = {
    "parameter": "parameter_name",
    "buffer": "buffer_name",
    "tensor_constant": "tensor_constant_name",
}


def _calls(nodes: Sequence[Any], outputs: Sequence[str], where: str) -> list[_Call]:
    """Return the graph's calls, each with the values that nothing after it reads."""
    calls: list[_Call] = []
    needed = set(outputs)
    for node in reversed(nodes):
        found = _TARGET.fullmatch(node["target"])
        if found and found.group(1) in _ASSERTIONS:
            continue
        function, args, kwargs = _bound(node, found, where)
        results = [_names(output) for output in node["outputs"]]
        made = set(_flat(results))
        read = {v.name for v in _references([args, kwargs])}
        last = tuple(sorted((read | made) - needed))
        needed |= read
        calls.append(
            _Call(function, args, kwargs, results[0] if len(results) == 1 else results, last)
        )
    return calls[::-1]


def _bound(
    node: Any, found: "re.Match[str] | None", where: str
) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
    target = node["target"]
    given = [(i["name"], _argument(i["arg"])) for i in node["inputs"]]
    if target in _SIZES:
        return _SIZES[target], tuple(value for _, value in given), {}
    function = None
    if found and found.group(1) in OPERATORS:
        packet = getattr(torch.ops.aten, found.group(1))
        function = getattr(packet, found.group(2), None)
    if function is None:
        msg = (
            f"program {where} calls {target!r}, which is not among the operators that bgscale runs "
            "(bgscale.models.program_pt2.OPERATORS); export it as ONNX instead"
        )
        raise InputError(msg)
    named = dict(given)
    for flag in _TRAINING_FLAGS:
        if named.get(flag) is True:
            msg = (
                f"program {where} was exported for training ({target} with {flag} = True), so a "
                "crop's features depend on the others; call model.eval() before torch.export.export"
            )
            raise InputError(msg)
    args, kwargs = [], {}
    for parameter in function._schema.arguments:
        if parameter.name not in named:
            if parameter.kwarg_only:
                continue
            if not parameter.has_default_value():
                msg = f"{target} lacks {parameter.name}"
                raise ValueError(msg)
            args.append(parameter.default_value)
        elif parameter.kwarg_only:
            kwargs[parameter.name] = named.pop(parameter.name)
        else:
            args.append(named.pop(parameter.name))
    if named:
        msg = f"{target} has no {', '.join(named)}"
        raise ValueError(msg)
    return function, tuple(args), kwargs


def _argument(argument: Mapping[str, Any]) -> Any:
    """Return an argument as it is written: plain values, and `_Value` for what calls have made."""
    ((kind, value),) = argument.items()
    if kind in _PLAIN:
        return value
    if kind == "as_none":
        return None
    if kind == "as_float":
        return float(value)
    if kind == "as_floats":
        return [float(v) for v in value]
    if kind == "as_tensor":
        return _Value(value["name"])
    if kind == "as_tensors":
        return [_Value(v["name"]) for v in value]
    if kind in ("as_optional_tensor", "as_sym_int", "as_sym_float", "as_sym_bool"):
        return _either(value)
    if kind in ("as_optional_tensors", "as_sym_ints", "as_sym_floats", "as_sym_bools"):
        return [_either(v) for v in value]
    if kind == "as_scalar_type":
        return _DTYPES[value]
    if kind == "as_memory_format":
        return _MEMORY_FORMATS[value]
    if kind == "as_layout" and value == _STRIDED:
        return torch.strided
    if kind == "as_device":
        return _Device()
    msg = f"an argument of the kind {kind} ({value!r})"
    raise ValueError(msg)


def _either(value: Mapping[str, Any]) -> Any:
    """Return a value that is either written out or the name of one."""
    ((kind, inner),) = value.items()
    if kind == "as_name":
        return _Value(inner)
    if kind == "as_none":
        return None
    return _Value(inner["name"]) if kind == "as_tensor" else inner


def _names(output: Mapping[str, Any]) -> Any:
    """Return the names under which a call's result is kept; None where it is not."""
    ((kind, value),) = output.items()
    if kind in ("as_tensor",):
        return value["name"]
    if kind == "as_tensors":
        return [v["name"] for v in value]
    if kind == "as_none":
        return None
    if kind in ("as_sym_int", "as_sym_bool", "as_sym_float"):
        return value["as_name"]
    msg = f"a result of the kind {kind}"
    raise ValueError(msg)


def _keep(names: Any, result: Any, values: dict[str, Any]) -> None:
    if isinstance(names, str):
        values[names] = result
    elif names is not None:
        for name, one in zip(names, result, strict=True):
            _keep(name, one, values)


def _given(argument: Any, values: Mapping[str, Any], device: torch.device) -> Any:
    if isinstance(argument, _Value):
        return values[argument.name]
    if isinstance(argument, _Device):
        return device
    if isinstance(argument, list):
        return [_given(a, values, device) for a in argument]
    return argument


def _flat(names: Any) -> list[str]:
    if isinstance(names, str):
        return [names]
    return [] if names is None else [name for part in names for name in _flat(part)]


def _references(argument: Any) -> list[_Value]:
    if isinstance(argument, _Value):
        return [argument]
    if isinstance(argument, Mapping):
        argument = list(argument.values())
    if isinstance(argument, list | tuple):
        return [value for part in argument for value in _references(part)]
    return []


def _dictionary_keys(module: Mapping[str, Any], n: int) -> list[str]:
    """Return the keys of a program that returns a dictionary of tensors, or nothing."""
    for entry in module["module_call_graph"]:
        if entry["fqn"] == "" and entry.get("signature"):
            tree = json.loads(entry["signature"]["out_spec"])[1]
            if tree and tree.get("type") == "builtins.dict":
                keys = json.loads(tree["context"])
                if len(keys) == n and all(isinstance(key, str) for key in keys):
                    return list(keys)
    return []


def _port(name: str, meta: Mapping[str, Any]) -> Port:
    dtype = str(_DTYPES.get(meta["dtype"], "other")).removeprefix("torch.")
    return Port(name, tuple(size.get("as_int") for size in meta["sizes"]), dtype)
