"""What a network sees while it is fitted: which cells, how often, and in what orientation.

Owns the split by field, the balance of the classes and the augmentation. Refuses to own the network
and its optimizer: `fit.py`. The one idea: cells of one field share illumination, focus and
neighbours, so a field is on one side of the split as a whole, or the held-out cells tell nothing.
"""

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bgscale.draw import order
from bgscale.models.spec import ModelSpec
from bgscale.schema import CENTRE_CELL, MEDIUM

N_ORIENTATIONS = 8
"""Quarter turns of a crop and of its mirror image."""

IntArray: TypeAlias = npt.NDArray[np.int64]
BoolArray: TypeAlias = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Crops:
    """Crops in counts, with their masks (or None) and classes, given out by row.

    `ranges` (cell, channel, bound), float32, is what donors are scaled by; None: as imaged.
    """

    images: npt.NDArray[Any]
    masks: npt.NDArray[Any] | None
    targets: IntArray
    device: str
    ranges: npt.NDArray[np.float32] | None = None

    def take(self, rows: IntArray) -> tuple[Tensor, Tensor | None, Tensor]:
        """Return crops (n, channel, y, x), float32; centre cells, bool, or None; classes (n,)."""
        crops = torch.from_numpy(self.images[rows].astype(np.float32)).to(self.device)
        inside = None
        if self.masks is not None:
            inside = torch.from_numpy(self.masks[rows] == CENTRE_CELL).to(self.device)
        return crops, inside, torch.from_numpy(self.targets[rows]).to(self.device)

    def take_cells(self, rows: IntArray) -> Tensor:
        """Return where cells are, centre cells and others: (n, y, x), bool."""
        assert self.masks is not None
        return torch.from_numpy(self.masks[rows] != MEDIUM).to(self.device)

    def scaling(self, rows: IntArray, donors: IntArray) -> Tensor | None:
        """Return what maps donors onto the ranges of cells: `bgscale.settings.compose.scaling`."""
        if self.ranges is None:
            return None
        low, high = (self.ranges[which] for which in (donors, rows))
        spans = low[..., 1] - low[..., 0], high[..., 1] - high[..., 0]
        ranged = spans[0] > 0
        gain = np.where(ranged, spans[1], 1) / np.where(ranged, spans[0], 1)
        scale = np.stack([low[..., 0], gain.astype(np.float32), high[..., 0]], axis=-1)
        return torch.from_numpy(scale).to(self.device)


def split_by_group(targets: IntArray, groups: IntArray, fraction: float, seed: int) -> BoolArray:
    """Return which cells are held out, so that no field is on both sides: (n,), bool.

    Of a class with F fields, `fraction` x F are held out, rounded, at least one and never all; of
    a class with one field, none. Which ones is a hash of seed and field, whatever the order of
    the cells. A field that shows several classes is held out only if all of them can spare it.

    Parameters
    ----------
    targets : array (n,), int64
        Class of each cell.
    groups : array (n,), int64
        Field of each cell.
    fraction : float, [0, 1)
    seed : int

    Examples
    --------
    >>> split_by_group(np.array([0, 0, 1]), np.array([7, 8, 9]), 0.2, seed=0)
    array([False,  True, False])
    """
    pairs = np.unique(np.stack([groups, targets], axis=1), axis=0)
    fields, first = np.unique(pairs[:, 0], return_index=True)
    classes, n_fields = np.unique(pairs[:, 1], return_counts=True)
    wanted = np.minimum(np.maximum(np.rint(fraction * n_fields), 1), n_fields - 1)
    spare = dict(zip(classes.tolist(), wanted.tolist(), strict=True))
    shown = dict(zip(fields.tolist(), np.split(pairs[:, 1], first[1:]), strict=True))
    held_out = []
    for field in fields[order(seed, "validation field", fields.astype(np.uint64))].tolist():
        if fraction > 0 and all(spare[c] > 0 for c in shown[field].tolist()):
            held_out.append(field)
            for c in shown[field].tolist():
                spare[c] -= 1
    return np.isin(groups, held_out)


def balanced(rows: IntArray, targets: IntArray, rng: np.random.Generator) -> IntArray:
    """Return as many rows, shuffled, equally many of each class; rare ones repeat."""
    rows = rows[np.argsort(targets[rows], kind="stable")]
    members = np.split(rows, np.flatnonzero(np.diff(targets[rows])) + 1)
    quota = -(-len(rows) // len(members))
    drawn = [
        np.concatenate([rng.permutation(m) for _ in range(-(-quota // len(m)))])[:quota]
        for m in members
    ]
    return rng.permutation(np.concatenate(drawn))[: len(rows)]


def augmented(x: Tensor, spec: ModelSpec, rng: np.random.Generator, *, views: int = 1) -> Tensor:
    """Return the crops in random orientations, each cut to the network crop at random.

    They may be several views of the same cells, one after the other: those are turned alike.
    """
    slack = spec.input_size_px - spec.network_crop_px
    y, z = rng.integers(slack + 1, size=2)
    x = x[..., y : y + spec.network_crop_px, z : z + spec.network_crop_px]
    orientation = np.tile(rng.integers(N_ORIENTATIONS, size=len(x) // views), views)
    turned = torch.empty_like(x, memory_format=torch.channels_last)
    for code in range(N_ORIENTATIONS):
        chosen = torch.from_numpy(np.flatnonzero(orientation == code)).to(x.device)
        part = torch.rot90(x[chosen], code % 4, (2, 3))
        turned[chosen] = part.flip(3) if code >= 4 else part
    return turned
