"""ONNX files: looked at before they are opened, and run by onnxruntime.

Owns the inspection of the file's bytes and the session. Refuses files that would make the runtime
read other files (external data) or need operators from elsewhere: what is hashed is all that runs.
The one idea: an ONNX file is a tree of fields; those that hold tensors and operators are few, and
are walked here before the runtime sees any of it.

References
----------
The field numbers are those of onnx.proto, version 3 of the ONNX intermediate representation.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from bgscale.errors import InputError
from bgscale.models.program_spec import Facts, Port

OWN_DOMAINS = ("", "ai.onnx", "ai.onnx.ml")
"""Operators that every onnxruntime brings along; others are code from elsewhere."""

MAX_DEPTH = 32

# what lies in what: (message, field number) -> message
_INSIDE = {
    ("model", 7): "graph",
    ("model", 25): "function",
    ("graph", 1): "node",
    ("graph", 5): "tensor",
    ("graph", 15): "sparse",
    ("function", 7): "node",
    ("function", 11): "attribute",
    ("node", 5): "attribute",
    ("attribute", 5): "tensor",
    ("attribute", 6): "graph",
    ("attribute", 10): "tensor",
    ("attribute", 11): "graph",
    ("attribute", 22): "sparse",
    ("attribute", 23): "sparse",
    ("sparse", 1): "tensor",
    ("sparse", 2): "tensor",
}
_EXTERNAL_DATA, _DATA_LOCATION = 13, 14
_NODE_TYPE, _NODE_DOMAIN = 4, 7
_FUNCTION_DOMAIN = 10
_TRAINING = 20


def check_onnx(data: bytes, where: str) -> None:
    """Refuse an ONNX file that is not complete in itself.

    Raises
    ------
    InputError
        Not an ONNX file; tensors in other files; operators of a foreign domain; a training graph.
    """
    own = set(OWN_DOMAINS)
    try:
        model = memoryview(data)
        for number, value in _fields(model):
            if ("model", number) in _INSIDE and number == 25 and isinstance(value, memoryview):
                own |= {_text(v) for n, v in _fields(value) if n == _FUNCTION_DOMAIN}
        _walk(model, "model", own, where, depth=0)
    except (ValueError, IndexError) as error:
        if isinstance(error, InputError):
            raise
        msg = f"program {where}: not an ONNX file ({error})"
        raise InputError(msg) from error


def _walk(message: memoryview, kind: str, own: set[str], where: str, *, depth: int) -> None:
    if depth > MAX_DEPTH:
        msg = f"more than {MAX_DEPTH} graphs within each other"
        raise ValueError(msg)
    operator, domain = "", ""
    for number, value in _fields(message):
        inside = _INSIDE.get((kind, number))
        if inside is not None:
            if not isinstance(value, memoryview):
                msg = f"field {number} of a {kind} is no message"
                raise ValueError(msg)
            _walk(value, inside, own, where, depth=depth + 1)
        elif kind == "tensor" and (
            number == _EXTERNAL_DATA or (number == _DATA_LOCATION and value != 0)
        ):
            msg = (
                f"program {where} keeps weights in another file (external data), which its hash "
                "does not cover; save it as one file (onnx.save with save_as_external_data=False)"
            )
            raise InputError(msg)
        elif kind == "model" and number == _TRAINING:
            msg = f"program {where} holds a training graph; export the network for inference"
            raise InputError(msg)
        elif kind == "node" and number == _NODE_TYPE:
            operator = _text(value)
        elif kind == "node" and number == _NODE_DOMAIN:
            domain = _text(value)
    if domain not in own:
        msg = (
            f"program {where} needs the operator {operator!r} of {domain!r}, which is code from "
            f"elsewhere; bgscale runs the standard operators only: export it with these"
        )
        raise InputError(msg)


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Yield the number and value of each field of a protocol-buffers message."""
    at, end = 0, len(message)
    while at < end:
        key, at = _varint(message, at)
        number, wire = key >> 3, key & 7
        value: int | memoryview
        if wire == 0:
            value, at = _varint(message, at)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
            value, at = message[at : at + size], at + size
        elif wire == 2:
            size, at = _varint(message, at)
            value, at = message[at : at + size], at + size
        else:
            msg = f"wire type {wire} at byte {at}"
            raise ValueError(msg)
        if number == 0 or at > end:
            msg = f"a field ends outside its message at byte {at}"
            raise ValueError(msg)
        yield number, value


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    msg = f"a number does not end at byte {at}"
    raise ValueError(msg)


def _text(value: int | memoryview) -> str:
    if isinstance(value, int):
        msg = "a name is a number"
        raise ValueError(msg)
    return bytes(value).decode("utf-8")


class OnnxRunner(nn.Module):
    """An ONNX file that is ready to run; returns its outputs in order.

    Parameters
    ----------
    data : bytes
        The file; it has been hashed, and is inspected here.
    where : str
        Its name, for messages.
    device : str
        "cpu" or "cuda"; never another than asked for. Moved to another, or copied, it is opened
        again.
    """

    def __init__(self, data: bytes, where: str, device: str) -> None:
        super().__init__()
        check_onnx(data, where)
        self.data, self.where, self.device = data, where, torch.device(device)
        self.session = _session(data, where, self.device)
        self.facts = Facts(
            tuple(_port(p) for p in self.session.get_inputs()),
            tuple(_port(p) for p in self.session.get_outputs()),
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return the outputs of one batch, on its device."""
        values = self.session.run(None, {self.facts.inputs[0].name: x.cpu().numpy()})
        return [torch.from_numpy(value).to(x.device) for value in values]

    def __reduce__(self) -> tuple[type["OnnxRunner"], tuple[bytes, str, str]]:
        # a session can be neither copied nor pickled
        return type(self), (self.data, self.where, str(self.device))

    def _apply(self, fn: Any, recurse: bool = True) -> Any:  # noqa: FBT001, FBT002  torch's own
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        device = fn(torch.empty(0, device=self.device)).device
        if device.type != self.device.type:
            self.session = _session(self.data, self.where, device)
            self.device = device
        return self


def _session(data: bytes, where: str, device: torch.device) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        msg = f'program {where}: ONNX files need onnxruntime: pip install "bgscale[onnx]"'
        raise InputError(msg) from error
    provider: Any = "CPUExecutionProvider"
    if device.type != "cpu":
        provider = "CUDAExecutionProvider"
        available = onnxruntime.get_available_providers()
        if device.type != "cuda" or provider not in available:
            msg = (
                f"program {where}: device {str(device)!r}, but this onnxruntime has "
                f"{', '.join(available)}; install onnxruntime-gpu, or run it on the processor: "
                'device = "cpu"'
            )
            raise InputError(msg)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.use_deterministic_compute = True
    options.log_severity_level = 3
    # waiting threads would take the cores from the processes beside this one
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # the bytes were inspected as ONNX: the runtime must not take them for its own format
    options.add_session_config_entry("session.load_model_format", "ONNX")
    named: Any = provider
    if device.type == "cuda":
        # its own would try what is fast just then, and shorten float32 to 10 bits
        exact = {"cudnn_conv_algo_search": "HEURISTIC", "use_tf32": "0"}
        named = (provider, {"device_id": device.index or 0, **exact})
    try:
        session = onnxruntime.InferenceSession(data, options, providers=[named])
    except Exception as error:
        msg = f"program {where}: onnxruntime cannot open it: {str(error).strip().splitlines()[0]}"
        raise InputError(msg) from error
    session.disable_fallback()
    if provider not in session.get_providers():
        msg = f"program {where}: onnxruntime cannot use {device}; it would run on the CPU"
        raise InputError(msg)
    return session


def _port(port: Any) -> Port:
    shape = tuple(size if isinstance(size, int) else None for size in port.shape)
    kind = port.type.removeprefix("tensor(").removesuffix(")")
    dtype = {"float": "float32", "double": "float64"}.get(kind, kind)
    return Port(port.name, shape, dtype)
