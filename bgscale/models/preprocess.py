"""From camera counts to what a network sees: the scaling steps, and their order by mode.

Owns the steps that `spec.STEPS` names. Refuses to own composition: a swapped crop comes in
composed, in counts, like any other. The one idea: a model's scaling is a list of steps that work on
each crop by itself, so that nothing depends on which crops share a batch. A constant crop becomes
zeros.

A masked crop is scaled before it is masked: its outside is then exactly zero whatever the scaling.
"""

from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from bgscale.errors import ConfigError, InputError, nearest
from bgscale.models.spec import STEPS, STEPS_OF_THE_MASK, ModelSpec

MODES = ("unmasked", "masked", "masked_mean")
LOW_FRACTION, HIGH_FRACTION = 0.001, 0.999
"""DeepLoc's range: the 0.1 and 99.9 percentiles."""

Step: TypeAlias = Callable[[Tensor, Tensor], Tensor]


def _minmax(crops: Tensor, masks: Tensor) -> Tensor:
    low, high = torch.aminmax(crops.flatten(2), dim=2)
    return _to_range(crops, low[..., None, None], high[..., None, None])


def _minmax_inside(crops: Tensor, masks: Tensor) -> Tensor:
    inside = masks[:, None].expand_as(crops)
    low = crops.masked_fill(~inside, torch.inf).amin((2, 3), keepdim=True)
    high = crops.masked_fill(~inside, -torch.inf).amax((2, 3), keepdim=True)
    filled = masks.any(2).any(1)[:, None, None, None]
    zero = torch.zeros_like(low)
    return _to_range(crops, torch.where(filled, low, zero), torch.where(filled, high, zero))


def _to_range(crops: Tensor, low: Tensor, high: Tensor) -> Tensor:
    width = high - low
    return (crops - low) / torch.where(width > 0, width, torch.ones_like(width))


def _percentile_range(crops: Tensor, masks: Tensor) -> Tensor:
    values = crops.flatten(2)
    low, high = _quantile(values, LOW_FRACTION), _quantile(values, HIGH_FRACTION)
    width = high - low
    divisor = torch.where(width > 1, width, torch.ones_like(width))
    return (torch.minimum(crops, high) - low) / divisor


def _quantile(values: Tensor, fraction: float) -> Tensor:
    """Return the quantile of values (n, channel, pixel), linear: (n, channel, 1, 1).

    Of thousands of pixels it takes the few from the nearer end: sorting them all takes longer than
    a network.
    """
    last = values.shape[2] - 1
    below = int(fraction * last)
    above = min(below + 1, last)
    if below < last - below:
        few = values.topk(above + 1, dim=2, largest=False).values
        left, right = few[..., below], few[..., above]
    else:
        few = values.topk(last - below + 1, dim=2).values
        left, right = few[..., last - below], few[..., last - above]
    return (left + (right - left) * (fraction * last - below))[..., None, None]


def _standardise(crops: Tensor, masks: Tensor) -> Tensor:
    values = crops.flatten(1)
    mean = values.mean(1, keepdim=True)
    deviation = (values - mean).square().mean(1, keepdim=True).sqrt()
    values = (values - mean) / deviation.clamp_min(values.shape[1] ** -0.5)
    return values.view_as(crops)


def _mask(crops: Tensor, masks: Tensor) -> Tensor:
    return crops.masked_fill(~masks[:, None], 0)


_STEPS: dict[str, Step] = dict(
    zip(STEPS, (_minmax, _minmax_inside, _percentile_range, _standardise, _mask), strict=True)
)


def steps_of(spec: ModelSpec, mode: str) -> tuple[str, ...]:
    """Return the names of the steps of a mode, in order.

    "masked_mean" is the control in which a crop is scaled as if it were not masked, then masked.
    """
    if mode not in MODES:
        msg = f"unknown preprocessing mode {mode!r}{nearest(mode, MODES)}; known: {list(MODES)}"
        raise ConfigError(msg)
    if mode == "masked":
        return spec.masked_preprocess
    return (*spec.preprocess, "mask") if mode == "masked_mean" else spec.preprocess


def reads_mask(spec: ModelSpec, mode: str) -> bool:
    """Whether the steps of a mode, or the network, need to know where the centre cell is."""
    return bool(spec.mask_input or STEPS_OF_THE_MASK & set(steps_of(spec, mode)))


def apply_steps(crops: Tensor, masks: Tensor, names: Sequence[str]) -> Tensor:
    """Return the crops after the named steps.

    Parameters
    ----------
    crops : tensor (n, channel, y, x), float32, camera counts
    masks : tensor (n, y, x), bool
        The centre cell.
    names : sequence of str
        Steps: `minmax`, each crop and channel to [0, 1]; `minmax_inside`, the same by the range of
        the centre cell's pixels; `percentile_range`, each channel clipped above at its 99.9
        percentile, less its 0.1 percentile, over their difference where that exceeds 1;
        `standardise`, (x - mean) / max(sd, 1 / sqrt(number of values)) over all values of a crop;
        `mask`, zero outside the centre cell.

    Returns
    -------
    tensor (n, channel, y, x), float32
    """
    for name in names:
        if name not in _STEPS:
            msg = f"unknown preprocessing step {name!r}{nearest(name, STEPS)}; known: {list(STEPS)}"
            raise ConfigError(msg)
        crops = _STEPS[name](crops, masks)
    return crops


def preprocess(
    crops: Tensor, masks: Tensor | None, spec: ModelSpec, mode: str = "unmasked"
) -> Tensor:
    """Return crops as the model of `spec` wants them, before its network crop is cut.

    Parameters
    ----------
    crops : tensor (n, channel, y, x), float32, camera counts
        The spec's channels, in its order.
    masks : tensor (n, y, x), bool, or None
        The centre cell; None where no step of the mode reads it.
    mode : {"unmasked", "masked", "masked_mean"}

    Returns
    -------
    tensor (n, channel, y, x), float32
        Where the spec has a `mask_input`, the centre cell is the last channel, as 0 and 1.
    """
    names = steps_of(spec, mode)
    if masks is None:
        if reads_mask(spec, mode):
            who = f"model {spec.architecture!r}, mode {mode!r}"
            uses = [*names, *(f"mask_input {use}" for use in spec.mask_input)]
            msg = f"{who}: steps {uses} need the masks"
            raise InputError(msg)
        masks = torch.ones(0, dtype=torch.bool)
    seen = apply_steps(crops, masks, names)
    return torch.cat([seen, masks[:, None].to(seen.dtype)], 1) if spec.mask_input else seen
