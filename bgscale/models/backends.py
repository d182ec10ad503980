"""Networks made ready to be run by an engine: folded, cut, cast, converted.

Owns what makes the same network faster: batch norm folded into the convolution before it, nothing
computed after the last layer that is read, memory laid out by channel, reduced precision, and
OpenVINO. Refuses to own the choice: `engine.py`. Every runner takes a whole micro-batch, and gives
float32.
"""

import copy
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import cycle
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from bgscale.errors import InputError
from bgscale.models.engine import Engine, check_device
from bgscale.models.layers import ConvNetwork
from bgscale.models.spec import ModelSpec

Answer: TypeAlias = Callable[[], dict[str, Tensor]]
"""Waits for a micro-batch; returns its layers (micro_batch, width), float32. To be asked once,
before so many others are started as the runner does at a time."""


class Runner:
    """A network that is ready: each micro-batch is started, and asked for later.

    Parameters
    ----------
    run : callable
        Takes (micro_batch, channel, y, x), float32; returns its layers.
    """

    at_once = 1
    """Micro-batches that may be started before the first one is asked for."""

    def __init__(self, run: Callable[[Tensor], dict[str, Tensor]]) -> None:
        self._run = run

    def start(self, x: Tensor) -> Answer:
        """Begin with a micro-batch, which must not change until it is asked for."""
        read = self._run(x)
        return lambda: read


_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_OPENVINO = {"float32": "f32", "bfloat16": "bf16"}


def runner(network: nn.Module, spec: ModelSpec, engine: Engine) -> Runner:
    """Return the network, ready to be run by the engine.

    As it is written it is moved to the engine's device itself; by other engines a copy is.

    Raises
    ------
    InputError
        There is no such device here, or the backend cannot convert this network.
    """
    layers = list(spec.layers)
    if engine.is_reference:
        return _as_written(moved(network, engine.device))
    if engine.backend == "openvino":
        return _OpenVino(network, layers, spec, engine)
    dtype = _DTYPES[engine.precision]
    ready = moved(prepared(network), engine.device).to(dtype)
    ready.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    cut: Callable[[Tensor], tuple[Tensor, ...]] = _Read(ready, layers)
    if engine.backend == "compiled":
        cut = _compiled(cut)

    def run(x: Tensor) -> dict[str, Tensor]:
        values = cut(x.to(dtype).contiguous(memory_format=torch.channels_last))
        return {layer: value.float() for layer, value in zip(layers, values, strict=True)}

    return Runner(run)


def moved(network: nn.Module, device: str) -> nn.Module:
    """Return the network on a device, which from then on computes as it is told to.

    Raises
    ------
    InputError
        There is no such device here.
    """
    check_device(device)
    if device.startswith("cuda"):
        # GPUs shorten float32 to 10 bits in convolutions unless told otherwise
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
        # else cuDNN may sum in another order each time, or try and take what is fast just then
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    # tensors that inference mode has made can never be trained
    with torch.inference_mode(mode=False):
        return network.to(device)


def _as_written(network: nn.Module) -> Runner:
    def run(x: Tensor) -> dict[str, Tensor]:
        read: dict[str, Tensor] = network(x.contiguous(memory_format=torch.channels_last))
        return read

    return Runner(run)


class _Read(nn.Module):
    """A network that returns only the layers that are read, in order."""

    def __init__(self, network: nn.Module, layers: Sequence[str]) -> None:
        super().__init__()
        self.network, self.layers = network, layers

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        read = self.network(x)
        return tuple(read[layer] for layer in self.layers)


def prepared(network: nn.Module) -> nn.Module:
    """Return a copy in evaluation mode, cut after the last layer read, batch norm folded.

    Batch norm is folded where it follows the convolution at once, and no layer is read in between:
    not in PCI, where it follows the ReLU.
    """
    network = copy.deepcopy(network).eval().requires_grad_(requires_grad=False)
    if not isinstance(network, ConvNetwork):
        return network
    network.cut = True
    if network.order[0] != "norm" or network.spec.tap == "conv":
        return network
    for stage in network.stages:
        folded = fuse_conv_bn_eval(getattr(network, stage.conv), getattr(network, stage.norm))
        setattr(network, stage.conv, folded)
        setattr(network, stage.norm, nn.Identity())
    return network


def _compiled(network: Callable[[Tensor], tuple[Tensor, ...]]) -> Callable[..., Any]:
    # a second batch size would compile it again; and there is none
    return torch.compile(network, dynamic=False, options={"freezing": True})


@contextmanager
def torch_threads(n: int) -> Iterator[None]:
    """Within the block, torch's own steps have so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _OpenVino(Runner):
    """A converted network, of which each of torch's threads does a micro-batch of its own.

    One micro-batch on several threads would be as fast, but sums in dense layers would depend on
    their number.
    """

    def __init__(
        self, network: nn.Module, layers: Sequence[str], spec: ModelSpec, engine: Engine
    ) -> None:
        import openvino

        self.at_once = torch.get_num_threads()
        settings = {
            "INFERENCE_PRECISION_HINT": _OPENVINO[engine.precision],
            "INFERENCE_NUM_THREADS": self.at_once,
            "NUM_STREAMS": self.at_once,
            "ENABLE_CPU_PINNING": False,
        }
        graph = _converted(network, layers, spec, engine.micro_batch)
        self._model = openvino.Core().compile_model(graph, "CPU", settings)
        self._layers = layers
        # workers may have several threads, and a process has one of each model
        self._own = threading.local()

    def start(self, x: Tensor) -> Answer:
        """Begin with a micro-batch on a thread that has none."""
        request, crops = self._free_request(), x.contiguous().numpy()
        request.start_async([crops], share_inputs=True)

        def answer() -> dict[str, Tensor]:
            request.wait()
            # the request's own memory, which its next micro-batch overwrites
            return {
                layer: torch.from_numpy(request.get_output_tensor(i).data)
                for i, layer in enumerate(self._layers)
            }

        return answer

    def _free_request(self) -> Any:
        """Return the request of this thread that was asked for longest ago."""
        if not hasattr(self._own, "requests"):
            several = (self._model.create_infer_request() for _ in range(self.at_once))
            self._own.requests = cycle(list(several))
        return next(self._own.requests)


def _converted(network: nn.Module, layers: Sequence[str], spec: ModelSpec, size: int) -> Any:
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    shape = [size, spec.n_inputs, spec.network_crop_px, spec.network_crop_px]
    # converting with openvino.convert_model would report its use to its makers
    converter = FrontEndManager().load_by_framework("pytorch")
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            decoder = TorchScriptPythonDecoder(
                _Read(prepared(network), layers), example_input=torch.zeros(shape)
            )
            graph = converter.convert(converter.load(decoder))
    except Exception as error:
        reason = str(error).strip().splitlines()
        msg = (
            f"model {spec.architecture!r}: OpenVINO cannot convert it "
            f'({reason[0] if reason else type(error).__name__}); set backend = "torch"'
        )
        raise InputError(msg) from error
    graph.reshape({0: shape})
    return graph
