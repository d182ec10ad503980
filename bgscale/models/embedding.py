"""Crops in, features out: a network with its spec, always run on batches of one size.

Owns the forward pass. Refuses to own where crops come from or where features go. The one idea: the
micro-batch is part of the model. float32 features change in the last bits with the batch size, so
every pass has exactly `spec.micro_batch` crops, the last one padded with zeros and cut off; the
features of a cell then do not depend on how the work was divided.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from bgscale.errors import InputError
from bgscale.models.preprocess import preprocess, steps_of
from bgscale.models.spec import ModelSpec
from bgscale.schema import CENTRE_CELL, OTHER_CELL


class EmbeddingModel:
    """A network that is ready to embed, with the spec that says what it expects.

    Parameters
    ----------
    spec : ModelSpec
    network : module
        From the registry's class of that architecture, in evaluation mode.
    device : str
        Where it runs. Never falls back to another.
    """

    def __init__(self, spec: ModelSpec, network: nn.Module, device: str = "cpu") -> None:
        self.spec = spec
        self.device = torch.device(device)
        network.to(self.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.network = network.eval()

    def __repr__(self) -> str:
        return f"EmbeddingModel({self.spec.architecture!r}, weights={self.spec.weights!r})"

    @property
    def random_weights(self) -> bool:
        """Whether the network was never trained."""
        return self.spec.weights == "random"

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
        steps_of(self.spec, mode)
        n, size = len(crops), self.spec.micro_batch
        features = {
            layer: np.empty((n, width), np.float32) for layer, width in self.spec.layers.items()
        }
        for start in range(0, n, size):
            stop = min(start + size, n)
            x = self._padded(crops[start:stop], np.float32)
            inside = None
            if masks is not None:
                inside = self._padded(masks[start:stop] == CENTRE_CELL, np.bool_)
            read = self.forward(x, inside, mode)
            for layer, values in features.items():
                values[start:stop] = read[layer][: stop - start].cpu().numpy()
        return features

    @torch.inference_mode()
    def forward(self, crops: Tensor, masks: Tensor | None, mode: str) -> dict[str, Tensor]:
        """Return layers and "logits" of one micro-batch, on the device.

        Parameters
        ----------
        crops : tensor (micro_batch, channel, y, x), float32, camera counts
        masks : tensor (micro_batch, y, x), bool, or None
        mode : {"unmasked", "masked", "masked_mean"}
        """
        x = preprocess(crops, masks, self.spec, mode)
        edge, slack = self.spec.network_crop_px, self.spec.input_size_px - self.spec.network_crop_px
        corners = [(slack // 2, slack // 2)]
        if self.spec.views == "corners":
            corners += [(0, 0), (0, slack), (slack, 0), (slack, slack)]
        views = [x[..., y : y + edge, z : z + edge] for y, z in corners]
        read = [self.network(v.contiguous(memory_format=torch.channels_last)) for v in views]
        if len(read) == 1:
            return read[0]  # type: ignore[no-any-return]
        return {layer: torch.stack([r[layer] for r in read]).mean(0) for layer in read[0]}

    def _padded(self, values: npt.NDArray[Any], dtype: npt.DTypeLike) -> Tensor:
        padded = np.zeros((self.spec.micro_batch, *values.shape[1:]), dtype)
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


def check_masks(masks: npt.NDArray[Any], shape: tuple[int, int, int]) -> None:
    """Refuse masks of another shape, or coded another way (0/255), which would hide every cell."""
    if masks.shape != shape:
        msg = f"masks have shape {masks.shape}; expected {shape} (cell, y, x)"
        raise InputError(msg)
    if masks.size and masks.max() > OTHER_CELL:
        msg = f"masks hold the code {masks.max()}; expected 0 medium, 1 centre cell, 2 other cells"
        raise InputError(msg)
