"""The same composition on a GPU, where crops, masks and the donor bank lie.

Owns what `compose_into` does, in torch: the same values, to the bit. Counts lie on the device as
they are stored, two bytes each; they become float32 a micro-batch at a time.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bgscale.schema import CENTRE_CELL


def to_device(values: npt.NDArray[Any], device: torch.device) -> Tensor:
    """Return an array on a device; uint16 as int16 of the same bits, which every device indexes."""
    values = np.ascontiguousarray(values)
    tensor = torch.from_numpy(values.view(np.int16) if values.dtype == np.uint16 else values)
    if device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def counts(stored: Tensor) -> Tensor:
    """Return what `to_device` has stored as float32."""
    if stored.dtype == torch.int16:
        stored = stored.to(torch.int32) & 0xFFFF
    return stored.float()


def composed(
    image: Tensor,
    mask: Tensor,
    bank: Tensor,
    rows: Tensor,
    donors: Tensor,
    channels: Tensor,
    scale: Tensor | None = None,
) -> Tensor:
    """Return cells ``rows`` on ``donors`` of the bank: (n, channel, y, x), float32.

    Parameters
    ----------
    image : tensor (cell, channel of the screen, y, x)
    mask : tensor (cell, y, x), uint8
    bank : tensor (donor, channel of the screen, y, x)
    rows, donors, channels : tensor, int64
    scale : tensor (n, channel, 3), float32, optional
        See `settings.compose.scaling`.
    """
    background = counts(bank[donors[:, None], channels])
    if scale is not None:
        low, gain, high = scale[..., None, None].unbind(2)
        background = (background - low) * gain + high
    inside = (mask[rows] == CENTRE_CELL)[:, None]
    return torch.where(inside, counts(image[rows[:, None], channels]), background)
