"""Crops in, features out: a network with its spec, always run on batches of one size.

Owns the forward pass. Refuses to own where crops come from or where features go. The one idea: the
micro-batch is part of the engine. float32 features change in the last bits with the batch size, so
every pass has exactly `engine.micro_batch` crops, the last one filled up and cut off; the features
of a cell then do not depend on how the work was divided.
"""

import copy
from collections import deque
from collections.abc import Callable
from contextlib import nullcontext
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from bgscale.errors import InputError
from bgscale.models.backends import Answer, Runner, runner, torch_threads
from bgscale.models.engine import BACKENDS, Engine
from bgscale.models.preprocess import preprocess, reads_mask, steps_of
from bgscale.models.spec import ModelSpec
from bgscale.schema import CENTRE_CELL, OTHER_CELL

Batch: TypeAlias = Callable[[slice], tuple[Tensor, Tensor | None]]
"""Gives a whole micro-batch for some of the cells: crops in counts, and where their centre cells
are. What it holds beyond the slice may be anything finite."""

Features: TypeAlias = Callable[[], dict[str, npt.NDArray[np.float32]]]
"""Waits for features of some cells, by layer: (cell, width)."""


class EmbeddingModel:
    """A network that is ready to embed, with the spec that says what it expects.

    Parameters
    ----------
    spec : ModelSpec
    network : module
        From the registry's class of that architecture, in evaluation mode.
    device : str
        Where it runs. Never falls back to another.
    engine : Engine, optional
        How it runs; by default as it is written, on `device`.
    """

    def __init__(
        self, spec: ModelSpec, network: nn.Module, device: str = "cpu", engine: Engine | None = None
    ) -> None:
        self.spec, self.network = spec, network
        self.engine = engine or Engine(device=device, micro_batch=spec.micro_batch)
        self.device = torch.device(self.engine.device)
        if self.engine.is_reference:
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            network.eval()

    @property
    def runs_as_is(self) -> bool:
        """Whether nothing can be changed of how its network is run: programs from files."""
        return tuple(getattr(self.network, "backends", BACKENDS)) == ("torch",)

    def on(self, engine: Engine) -> "EmbeddingModel":
        """Return the same model, run by another engine."""
        network = self.network
        if torch.device(engine.device).type != self.device.type:
            network = copy.deepcopy(network)
        return EmbeddingModel(self.spec, network, engine=engine)

    def __repr__(self) -> str:
        return f"EmbeddingModel({self.spec.architecture!r}, weights={self.spec.weights!r})"

    @property
    def random_weights(self) -> bool:
        """Whether the network was never trained."""
        return self.spec.weights == "random"

    def reads_mask(self, mode: str) -> bool:
        """Whether a mode needs to know where the centre cell is."""
        return reads_mask(self.spec, mode)

    def embed(
        self,
        crops: npt.NDArray[Any],
        masks: npt.NDArray[Any] | None = None,
        mode: str = "unmasked",
    ) -> dict[str, npt.NDArray[np.float32]]:
        """Return the features of every crop, by layer.

        Parameters
        ----------
        crops : array (cell, channel, y, x), uint16 or float32, camera counts
            The spec's channels, in its order.
        masks : array (cell, y, x), uint8 or bool, optional
            1, or True, in the centre cell; other codes are background.
        mode : {"unmasked", "masked", "masked_mean"}
            "masked" is the setting; "masked_mean" scales as if unmasked, then masks.

        Returns
        -------
        dict of str to array (cell, width), float32
        """
        self._check(crops, masks)

        def batch(part: slice) -> tuple[Tensor, Tensor | None]:
            x = self._padded(crops[part], np.float32)
            if masks is None:
                return x, None
            return x, self._padded(masks[part] == CENTRE_CELL, np.bool_)

        return self.embed_batches(len(crops), batch, mode)

    def embed_batches(
        self, n: int, batch: Batch, mode: str = "unmasked"
    ) -> dict[str, npt.NDArray[np.float32]]:
        """Return the features of n crops that are made a micro-batch at a time, by layer.

        Parameters
        ----------
        n : int
        batch : callable
            Given a slice of ``[0, n)``, the crops (micro_batch, channel, y, x), float32, counts,
            and the centre cells (micro_batch, y, x), bool, or None; on the model's device.
        mode : {"unmasked", "masked", "masked_mean"}

        Returns
        -------
        dict of str to array (n, width), float32
        """
        return self.begin(n, batch, mode)()

    def begin(self, n: int, batch: Batch, mode: str = "unmasked") -> Features:
        """Begin with `embed_batches`; what is returned waits for the features.

        A GPU has been told everything by then, and computes. A processor has done it.
        """
        steps_of(self.spec, mode)
        size, at_once = self.engine.micro_batch, self._run.at_once
        features = {
            layer: torch.empty((n, width), dtype=torch.float32, device=self.device)
            for layer, width in self.spec.layers.items()
        }
        started: deque[tuple[slice, Answer]] = deque()

        def take() -> None:
            part, answer = started.popleft()
            read = answer()
            for layer, values in features.items():
                values[part] = read[layer][: part.stop - part.start]

        # torch's threads look for their next piece of work all the time, which takes a tenth of the
        # cores from micro-batches that are under way
        with torch_threads(1) if at_once > 1 else nullcontext():
            for start in range(0, n, size):
                part = slice(start, min(start + size, n))
                crops, masks = batch(part)
                if len(started) == at_once:
                    take()
                started.append((part, self._start(crops, masks, mode)))
            while started:
                take()
        # one copy at the end: a GPU would wait for each
        return _coming(features, self.device)

    @cached_property
    def _run(self) -> Runner:
        # not before it runs: who drives a run on GPUs may have none
        with torch.inference_mode(mode=False), torch.no_grad():
            return runner(self.network, self.spec, self.engine)

    def forward(self, crops: Tensor, masks: Tensor | None, mode: str) -> dict[str, Tensor]:
        """Return the layers of one micro-batch, on the device; as it is written also "logits".

        Parameters
        ----------
        crops : tensor (micro_batch, channel, y, x), float32, camera counts
        masks : tensor (micro_batch, y, x), bool, or None
        mode : {"unmasked", "masked", "masked_mean"}
        """
        return self._start(crops, masks, mode)()

    @torch.inference_mode()
    def _start(self, crops: Tensor, masks: Tensor | None, mode: str) -> Answer:
        x = preprocess(crops, masks, self.spec, mode)
        if x is crops:
            # of a model that takes counts: who gave them may use their memory again
            x = x.clone()
        edge, slack = self.spec.network_crop_px, self.spec.input_size_px - self.spec.network_crop_px
        if self.spec.views == "centre":
            return self._run.start(x[..., slack // 2 :, slack // 2 :][..., :edge, :edge])
        corners = [(slack // 2, slack // 2), (0, 0), (0, slack), (slack, 0), (slack, slack)]
        views = (x[..., y : y + edge, z : z + edge] for y, z in corners)
        read = [{k: v.clone() for k, v in self._run.start(view)().items()} for view in views]
        mean = {layer: torch.stack([r[layer] for r in read]).mean(0) for layer in read[0]}
        return lambda: mean

    def _padded(self, values: npt.NDArray[Any], dtype: npt.DTypeLike) -> Tensor:
        padded = np.zeros((self.engine.micro_batch, *values.shape[1:]), dtype)
        padded[: len(values)] = values
        return torch.from_numpy(padded).to(self.device)

    def _check(self, crops: npt.NDArray[Any], masks: npt.NDArray[Any] | None) -> None:
        size = self.spec.input_size_px
        expected = (len(self.spec.channels), size, size)
        if crops.ndim != 4 or crops.shape[1:] != expected:
            msg = (
                f"model {self.spec.architecture!r}: crops have shape {crops.shape}; expected "
                f"(cell, {', '.join(map(str, expected))}), channels {list(self.spec.channels)}: "
                f"cut crops of that size, or set the model's input_size_px"
            )
            raise InputError(msg)
        if masks is not None:
            check_masks(masks, (len(crops), size, size))


def _coming(features: dict[str, Tensor], device: torch.device) -> Features:
    """Return what waits until features have come from a device; it need do nothing else first."""
    if device.type != "cuda":
        return lambda: {layer: values.cpu().numpy() for layer, values in features.items()}
    pinned = {
        layer: torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
        for layer, values in features.items()
    }
    for layer, values in features.items():
        pinned[layer].copy_(values, non_blocking=True)
    # of what is begun after this, nothing is waited for
    copied = torch.cuda.current_stream(device).record_event()

    def come() -> dict[str, npt.NDArray[np.float32]]:
        copied.synchronize()
        return {layer: values.numpy() for layer, values in pinned.items()}

    return come


def check_masks(masks: npt.NDArray[Any], shape: tuple[int, int, int]) -> None:
    """Refuse masks of another shape, or coded another way (0/255), which would hide every cell."""
    if masks.shape != shape:
        msg = f"masks have shape {masks.shape}; expected {shape} (cell, y, x)"
        raise InputError(msg)
    if masks.size and masks.max() > OTHER_CELL:
        msg = f"masks hold the code {masks.max()}; expected 0 medium, 1 centre cell, 2 other cells"
        raise InputError(msg)
