"""What keeps a network, while it is fitted, from reading the neighbours: other backgrounds.

Owns which backgrounds a training cell is shown on, how its mask is disturbed, and how far two
profiles of one cell are apart. Refuses to own the network and its optimizer: `fit.py`. The one
idea: where a background is of any class, whatever the cell's own, it tells nothing of the class,
so there is nothing in it to learn; and where a cell is shown on two backgrounds at once, what
differs between its two profiles is the backgrounds' doing, and can be made small.

Neighbours come in through the scaling as well: the range of a whole crop sets the grey level of the
cell in it. `OWN_PIXELS` takes the cell's own, and then leaves the background out; what is left of
it is what a wrong mask lets in, which is why masks are disturbed.

Every choice is a function of (seed, epoch, cell), so that an epoch can be repeated to the bit.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import max_pool2d

from bgscale import draw
from bgscale.errors import ConfigError
from bgscale.models.batches import Crops, IntArray
from bgscale.models.spec import MASK_USES, ModelSpec

OWN_PIXELS = ("minmax_inside", "mask")
"""What an invariant network sees unless its config says otherwise: the cell, by its own range."""
OWN, OTHER = 1, 2
"""The two backgrounds of a cell in a step: streams of the draw."""
_STEPS_SAID = {"minmax_inside": "for the range", "mask": "to leave the background out"}


@dataclass(frozen=True, kw_only=True)
class Invariance:
    """How a network is kept from reading backgrounds while it is fitted.

    Parameters
    ----------
    swap_share : float
        Share of the cells in a step that are shown on the background of a donor, [0, 1].
    consistency : float
        Weight of the difference between two profiles of a cell, on two backgrounds; 0: one
        background only.
    mask_jitter_px : int
        The network is shown masks that are so many pixels too large or too small, at most, and of
        every fourth cell one that reaches four times as far into the neighbours; where it, or its
        scaling, reads a mask.
    """

    swap_share: float = 1.0
    consistency: float = 1.0
    mask_jitter_px: int = 2

    def __post_init__(self) -> None:
        good = {
            "swap_share": 0 <= self.swap_share <= 1,
            "consistency": self.consistency >= 0,
            "mask_jitter_px": self.mask_jitter_px >= 0,
        }
        for name, is_good in good.items():
            if not is_good:
                msg = f"Invariance: {name} = {getattr(self, name)}; expected 0 or more"
                raise ConfigError(msg + (", at most 1" if name == "swap_share" else ""))

    def said(self, spec: ModelSpec) -> str:
        """Return the method in words, with what the network does with the mask."""
        parts = [f"swapped backgrounds (share {self.swap_share:g})"] if self.swap_share else []
        if self.consistency:
            parts.append(f"agreement of two backgrounds (weight {self.consistency:g})")
        uses = [f"as {use}" for use in MASK_USES if use in spec.mask_input]
        uses += [words for step, words in _STEPS_SAID.items() if step in spec.preprocess]
        if uses:
            parts.append(f"mask {', '.join(uses)} (jitter {self.mask_jitter_px} px)")
        return f"invariant: {', '.join(parts) or 'nothing'}"

    def to_config(self) -> dict[str, Any]:
        """Return it as plain JSON types."""
        return asdict(self)


class Lenders:
    """Cells that lend their backgrounds to one another.

    Parameters
    ----------
    rows : array (n,), int64
        Which of the crops.
    targets, groups : array (cell,), int64
        Class and field of every crop.
    """

    def __init__(self, rows: IntArray, targets: IntArray, groups: IntArray) -> None:
        self.rows = rows[np.lexsort((rows, groups[rows], targets[rows]))]
        self._targets, self._groups = targets, groups
        self._class = targets[self.rows]
        self._classes, self._first, self._sizes = np.unique(
            self._class, return_index=True, return_counts=True
        )
        # within a class the fields are sorted: a joint key finds a field's range
        self._width = 1 + int(groups[rows].max(initial=0))
        self._joint = self._class * self._width + groups[self.rows]
        self._place = np.full(len(targets), -1)
        self._place[self.rows] = np.arange(len(self.rows))

    def draw(self, cells: IntArray, seed: int, purpose: str, stream: int = 0) -> IntArray:
        """Return a donor for each cell: (n,), int64, a row of the crops.

        The class is drawn first, each as often as the other whatever the cell's own: only then
        does a background tell nothing of the cell on it. Then a donor of the class: of the cell's
        own class, one of another field if there is any, else another cell.

        Parameters
        ----------
        cells : array (n,), int64
            Rows of the crops, themselves lenders.
        seed : int
        purpose : str
        stream : int
            Numbers the draws of one cell.
        """
        ids = cells.astype(np.uint64)
        k = draw.integers(seed, f"{purpose}/class", ids, len(self._classes), stream)
        first, size = self._first[k], self._sizes[k]
        own = self._targets[cells] == self._classes[k]
        joint = self._targets[cells] * self._width + self._groups[cells]
        low = np.searchsorted(self._joint, joint, "left")
        high = np.searchsorted(self._joint, joint, "right")
        alone = high - low == size
        itself = self._place[cells]
        low, high = np.where(alone, itself, low), np.where(alone, itself + 1, high)
        skipped = np.where(own, high - low, 0)
        # a class of one cell lends to itself
        skipped = np.where(skipped == size, 0, skipped)
        place = first + draw.integers(seed, f"{purpose}/donor", ids, size - skipped, stream)
        place += np.where((skipped > 0) & (place >= low), skipped, 0)
        found: IntArray = self.rows[place]
        return found


def shown(
    data: Crops,
    cells: IntArray,
    lenders: Lenders,
    invariance: Invariance,
    spec: ModelSpec,
    *,
    seed: int,
    epoch: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return cells as a step shows them, once, or twice on two backgrounds.

    Parameters
    ----------
    data : Crops
    cells : array (n,), int64
    lenders : Lenders
    invariance : Invariance
    spec : ModelSpec
        Masks are disturbed where its network, or its scaling, reads them.
    seed, epoch : int

    Returns
    -------
    crops : tensor (views x n, channel, y, x), float32, counts
    masks : tensor (views x n, y, x), bool
    classes : tensor (views x n,), int64
    """
    crops, inside, target = data.take(cells)
    assert inside is not None
    ids, purpose, views = cells.astype(np.uint64), f"swap/{epoch}", []
    for stream in (OWN, OTHER) if invariance.consistency else (OWN,):
        donors = lenders.draw(cells, seed, purpose, stream)
        word = draw.integers(seed, f"{purpose}/share", ids, 1 << 20, stream)
        # of two backgrounds one at least is a donor's
        keeps = (word >= invariance.swap_share * (1 << 20)) & (stream == OWN)
        lent, _, _ = data.take(donors)
        kept = torch.from_numpy(keeps).to(crops.device)[:, None, None]
        view = swapped(crops, inside | kept, lent, data.scaling(cells, donors))
        mask = inside
        if spec.needs_mask and invariance.mask_jitter_px:
            visible = data.take_cells(np.where(keeps, cells, donors))
            code = draw.integers(seed, f"{purpose}/jitter", ids, 1 << 20, stream)
            mask = jittered(inside, visible, torch.from_numpy(code), invariance.mask_jitter_px)
        views.append((view, mask, target))
    together = [torch.cat(parts) for parts in zip(*views, strict=True)]
    return together[0], together[1], together[2]


def swapped(crops: Tensor, inside: Tensor, donors: Tensor, scale: Tensor | None) -> Tensor:
    """Return each cell on its donor's background: as `bgscale.settings.device.composed`.

    Parameters
    ----------
    crops, donors : tensor (n, channel, y, x), float32, counts
    inside : tensor (n, y, x), bool
    scale : tensor (n, channel, 3), float32, or None
        Low end of the donor's range, gain, low end of the cell's; None: as imaged.
    """
    if scale is not None:
        low, gain, high = scale[..., None, None].unbind(2)
        donors = (donors - low) * gain + high
    return torch.where(inside[:, None], crops, donors)


def jittered(inside: Tensor, cells: Tensor, code: Tensor, pixels: int) -> Tensor:
    """Return masks as a poor segmentation would give them.

    Each grows or shrinks by up to so many pixels; of every fourth cell it reaches four times as far
    into other cells besides, as if they had been taken for one.

    Parameters
    ----------
    inside, cells : tensor (n, y, x), bool
        The centre cell; all that are visible.
    code : tensor (n,), int64
        Random, 0 or more.
    pixels : int
    """
    code = code.to(inside.device)
    step = (code % (2 * pixels + 1) - pixels)[:, None, None]
    merged = ((code // (2 * pixels + 1)) % 4 == 0)[:, None, None]
    found, large, small = inside, inside, inside
    for i in range(1, pixels + 1):
        large, small = _grown(large), ~_grown(~small)
        found = torch.where(step >= i, large, torch.where(step <= -i, small, found))
    reach = inside
    for _ in range(4 * pixels):
        reach = reach | (_grown(reach) & cells)
    found = found | (reach & merged)
    # what shrinks away is left as it is
    return torch.where(found.any(2).any(1)[:, None, None], found, inside)


def _grown(mask: Tensor) -> Tensor:
    return max_pool2d(mask[:, None].float(), 3, stride=1, padding=1)[:, 0] > 0


def disagreement(read: Mapping[str, Tensor], spec: ModelSpec) -> Tensor:
    """Return the share of the variance of profiles that is between two backgrounds of one cell.

    0: the two are the same; 1: as far apart as those of any two cells. The mean of the layers that
    the experiments read.

    Parameters
    ----------
    read : mapping of str to tensor (2 n, width)
        Layers of the cells on one background, then of the same cells on the other.
    spec : ModelSpec
    """
    shares = []
    for layer in dict.fromkeys((spec.classification_layer, spec.profile_layer)):
        first, second = read[layer].float().chunk(2)
        spread = torch.cat([first, second]).var(0, unbiased=False).sum()
        between = (first - second).square().sum(1).mean() / 2
        shares.append(between / spread.clamp_min(torch.finfo(torch.float32).tiny))
    return torch.stack(shares).mean()


def check_ranges(ranges: npt.NDArray[np.float32] | None, shape: tuple[int, int]) -> None:
    """Refuse intensity ranges of another shape."""
    if ranges is not None and ranges.shape != (*shape, 2):
        msg = f"ranges have shape {ranges.shape}; expected {(*shape, 2)} (cell, channel, bound)"
        raise ConfigError(msg)
