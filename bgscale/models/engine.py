"""How a network is run: on which device, by which backend, in which precision, how many at once.

Owns `Engine`, what a machine can run, and the choice among that. The one idea: an engine is chosen
once, when a run is planned, and is then part of what the features are: float32 results differ in
their last bits between backends and instruction sets, reduced precision by up to a hundredth. So it
stands in the store, and a worker of another kind is refused rather than mixed in.
"""

import os
import platform
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Self

from bgscale.errors import InputError

if TYPE_CHECKING:
    from bgscale.models.embedding import EmbeddingModel

BACKENDS = ("torch", "openvino", "compiled")
PRECISIONS = ("float32", "bfloat16", "float16")
_UNITS = ("amx_bf16", "avx512_bf16", "amx_fp16")
"""Parts of a processor that compute in reduced precision: they round in their own ways."""

_FOUND = {
    "avx512_bf16": "_is_avx512_bf16_supported",
    "amx_bf16": "_is_amx_tile_supported",
    "amx_fp16": "_is_amx_fp16_supported",
}


@dataclass(frozen=True, kw_only=True)
class Engine:
    """How a network is run.

    Parameters
    ----------
    backend : {"torch", "openvino", "compiled"}
        "torch" in float32 runs the network as it is written: the reference.
    precision : {"float32", "bfloat16", "float16"}
        Of the network; preprocessing is float32, and so are the features that come out.
    device : str
        "cpu" or "cuda".
    micro_batch : int
        Crops a forward pass, always.
    processor : str
        Kind of processor it was chosen for; see `processor`.

    Examples
    --------
    >>> str(Engine(backend="openvino", precision="bfloat16"))
    'openvino, bfloat16, on cpu'
    """

    backend: str = "torch"
    precision: str = "float32"
    device: str = "cpu"
    micro_batch: int = 64
    processor: str = ""

    def __str__(self) -> str:
        return f"{self.backend}, {self.precision}, on {self.device}"

    @property
    def is_reference(self) -> bool:
        """Whether it runs the network as it is written."""
        return self.backend == "torch" and self.precision == "float32"

    def to_config(self) -> dict[str, Any]:
        """Return the engine as plain JSON types."""
        return asdict(self)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Return the engine of `to_config`."""
        return cls(**config)


def processor(device: str = "cpu") -> str:
    """Return the kind of processor, as far as results depend on it: instruction sets, or the GPU.

    Examples
    --------
    >>> processor().split()[0] == platform.machine()
    True
    """
    import torch

    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    return " ".join([platform.machine(), torch.backends.cpu.get_cpu_capability(), *cpu_units()])


def cpu_units() -> list[str]:
    """Return which parts of this processor compute in reduced precision."""
    import torch

    return [unit for unit in _UNITS if getattr(torch.cpu, _FOUND[unit], bool)()]


def best_device() -> str:
    """Return "cuda" where there is a GPU that this process may use, else "cpu"."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def check_device(device: str) -> None:
    """Raise where this process has no such device.

    Raises
    ------
    InputError
        It is the name of none, or there are fewer GPUs.
    """
    import torch

    try:
        asked = torch.device(device)
    except RuntimeError as error:
        msg = f"device {device!r}: expected 'cpu', 'cuda', or 'cuda:1' for the second GPU"
        raise InputError(msg) from error
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if asked.type == "cuda" and (asked.index or 0) >= count:
        found = f"torch {torch.__version__} sees {count} GPUs here"
        msg = f"device {device!r}: {found}; take 'cpu', or a machine and a torch with CUDA"
        raise InputError(msg)


def candidates(
    model: "EmbeddingModel", *, backend: str = "auto", precision: str = "auto", device: str = "cpu"
) -> list[Engine]:
    """Return the engines among which a probe chooses, the most exact first.

    "auto" takes what this machine has: OpenVINO where it is installed, and bfloat16 where the
    processor has units for it and the model's accuracies were shown not to suffer
    (`reduced_precision` of its network). A model that runs only as it is has one engine.

    Parameters
    ----------
    model : EmbeddingModel
    backend : {"auto", "torch", "openvino", "compiled"}
        "compiled" (`torch.compile`) is taken only when asked for: it needs a compiler, of C++ or
        on a GPU of C, and every process some seconds of it.
    precision : {"auto", "float32", "bfloat16", "float16"}
    device : str

    Raises
    ------
    InputError
        What was asked for cannot be run here.
    """
    allowed = getattr(model.network, "backends", BACKENDS)
    cuda = device.startswith("cuda")
    if not getattr(model.network, "probed", True) and not cuda:
        backend = "torch" if backend == "auto" else backend
        precision = "float32" if precision == "auto" else precision
    backends = [backend]
    if backend == "auto":
        backends = ["torch"] + ["openvino"] * (not cuda and find_spec("openvino") is not None)
        backends = [name for name in backends if name in allowed]
    precisions = [precision]
    if precision == "auto":
        shown = getattr(model.network, "reduced_precision", ())
        fit = ["bfloat16"] if cuda or _has_bfloat16() else []
        precisions = ["float32", *(p for p in fit if p in shown and not model.runs_as_is)]
    for name in backends:
        _refuse_backend(name, allowed, model, cuda=cuda)
    for name in precisions:
        _refuse_precision(name, model, cuda=cuda)
    check_device(device)
    shared: dict[str, Any] = {
        "device": device, "micro_batch": model.spec.micro_batch, "processor": processor(device)
    }  # fmt: skip
    return [Engine(backend=b, precision=p, **shared) for p in precisions for b in backends]


def has_compiler(device: str = "cpu") -> bool:
    """Return whether there is a compiler as `torch.compile` needs it: of C++, for GPUs of C."""
    cuda = device.startswith("cuda")
    own, *others = ("CC", "gcc", "clang") if cuda else ("CXX", "g++", "clang++")
    return any(shutil.which(name) for name in (os.environ.get(own, ""), *others) if name)


def _has_bfloat16() -> bool:
    return any(unit.endswith("bf16") for unit in cpu_units())


def _refuse_backend(
    name: str, allowed: tuple[str, ...], model: "EmbeddingModel", *, cuda: bool
) -> None:
    who = f"model {model.spec.architecture!r}"
    if name not in allowed:
        msg = f"{who}: backend {name!r}; it runs only as it is: expected {', '.join(allowed)}"
        raise InputError(msg)
    if name == "openvino" and cuda:
        msg = f"{who}: backend 'openvino' is for processors, and this is a GPU: take 'auto'"
        raise InputError(msg)
    if name == "openvino" and find_spec("openvino") is None:
        msg = f"{who}: backend 'openvino' is not installed: pip install 'bgscale[openvino]'"
        raise InputError(msg)
    if name == "compiled" and not has_compiler("cuda" if cuda else "cpu"):
        which = "C compiler (gcc, clang or $CC)" if cuda else "C++ compiler (g++, clang++ or $CXX)"
        msg = f"{who}: backend 'compiled' needs a {which}: take 'auto'"
        raise InputError(msg)


def _refuse_precision(name: str, model: "EmbeddingModel", *, cuda: bool) -> None:
    who = f"model {model.spec.architecture!r}"
    if name != "float32" and model.runs_as_is:
        msg = f"{who}: precision {name!r}; it runs only as it is: expected 'float32'"
        raise InputError(msg)
    if name == "float16" and not cuda:
        msg = f"{who}: precision 'float16' is for GPUs: take 'bfloat16', 'float32' or 'auto'"
        raise InputError(msg)
