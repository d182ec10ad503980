"""torch.export programs (.pt2): read as data, and run without torch's own loader.

Owns the list of operators that may run, and running them in order. Refuses everything else:
torch.export.load unpickles weights, constants and sample inputs, loads compiled code, evaluates
symbolic sizes with sympy and calls any function below `torch` by its name (`torch.os` is one), so
that opening a file is running it. The one idea: a network that was exported for inference is a list
of calls to functional aten operators on raw tensors, and that much can be read and run here.

No symbolic expression is looked at: sizes come from the tensors.
"""

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
from bgscale.models.program_archive import DTYPES, STRIDED, read_archive
from bgscale.models.program_spec import Facts, Port

OPERATORS = frozenset(
    """
    _adaptive_avg_pool2d _native_batch_norm_legit_no_training _safe_softmax _softmax _to_copy
    _unsafe_view _weight_norm abs adaptive_avg_pool1d adaptive_avg_pool2d adaptive_max_pool1d
    adaptive_max_pool2d add add_ addcdiv addcmul addmm alias all amax amin any arange argmax
    argmin argsort atan atan2 avg_pool1d avg_pool2d baddbmm batch_norm bitwise_and bitwise_not
    bitwise_or bitwise_xor bmm cat ceil celu channel_shuffle chunk clamp clamp_ clamp_max
    clamp_min clip clone col2im concat constant_pad_nd contiguous conv1d conv2d conv3d
    conv_transpose1d conv_transpose2d convolution cos cosh cosine_similarity cumprod cumsum
    detach detach_ diagonal div div_ dot dropout dropout_ einsum elu elu_ embedding eq erf exp
    exp2 expand expand_as expm1 feature_dropout flatten flip floor floor_divide fmod frac full
    full_like gather ge gelu gelu_ glu group_norm gt hardsigmoid hardsigmoid_ hardswish
    hardswish_ hardtanh hardtanh_ hypot im2col index index_fill index_select instance_norm
    isfinite isinf isnan layer_norm le leaky_relu leaky_relu_ lerp lift_fresh_copy
    linalg_vector_norm linear log log10 log1p log2 log_softmax logaddexp logical_and logical_not
    logical_or logsumexp lt masked_fill matmul max max_pool1d max_pool2d max_pool2d_with_indices
    maximum mean meshgrid min minimum mish mish_ mm movedim mul mul_ mv nan_to_num narrow
    native_channel_shuffle native_group_norm native_layer_norm ne neg new_full new_ones
    new_zeros norm ones ones_like outer pad permute pixel_shuffle pixel_unshuffle pow prelu prod
    ravel reciprocal reflection_pad2d relu relu6 relu6_ relu_ remainder repeat replication_pad2d
    reshape rms_norm roll rot90 round rsqrt rsub scalar_tensor scaled_dot_product_attention
    select selu selu_ sigmoid sigmoid_ sign silu silu_ sin sinh slice softmax softplus sort
    split split_with_sizes sqrt square squeeze squeeze_ stack std std_mean sub sub_ sum swapaxes
    swapdims sym_size t tan tanh tanh_ tensor_split threshold tile to topk transpose tril triu
    trunc type_as unbind unflatten unfold unsafe_chunk unsafe_split unsqueeze unsqueeze_
    upsample_bicubic2d upsample_bilinear2d upsample_nearest2d var var_mean view view_as where
    zeros zeros_like
    """.split()  # noqa: SIM905  all those quotes would hide the names
)
"""The aten operators that may run: functions of their tensors, without chance, files or state."""

_ASSERTIONS = frozenset(
    ("_assert_scalar", "_assert_tensor_metadata", "_assert_async", "sym_constrain_range",
     "sym_constrain_range_for_size")
)  # fmt: skip
_TRAINING_FLAGS = ("train", "training", "dropout_p")
_SIZES = {
    f"_operator.{name}": getattr(operator, name)
    for name in ("add", "sub", "mul", "floordiv", "mod", "neg", "eq", "ne", "lt", "le", "gt", "ge")
}
"""Arithmetic of sizes, where the batch is free."""

_MEMORY_FORMATS = {
    1: torch.contiguous_format, 2: torch.channels_last, 4: torch.preserve_format,
}  # fmt: skip
_PLAIN = ("as_int", "as_bool", "as_string", "as_ints", "as_bools", "as_strings")
_TARGET = re.compile(r"torch\.ops\.aten\.(\w+)\.(\w+)")


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
        archive = read_archive(data, where)
        return Pt2Runner(archive.module, archive.tensors, where)
    except InputError:
        raise
    except zipfile.BadZipFile as error:
        msg = f"program {where}: not a torch.export program ({error})"
        raise InputError(msg) from error
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        msg = f"program {where}: cannot be read as a torch.export program ({error!r})"
        raise InputError(msg) from error


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
        if named.get(flag):
            msg = (
                f"program {where} was exported for training ({target}, {flag} = {named[flag]}): "
                "there is chance in it, or a crop's features depend on the others; call "
                "model.eval() before torch.export.export"
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
        return DTYPES[value]
    if kind == "as_memory_format":
        return _MEMORY_FORMATS[value]
    if kind == "as_layout" and value == STRIDED:
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
    dtype = str(DTYPES.get(meta["dtype"], "other")).removeprefix("torch.")
    return Port(name, tuple(size.get("as_int") for size in meta["sizes"]), dtype)
