"""Cells on other backgrounds: who lends to each, and the pixels of some.

What a network reads is composed a micro-batch at a time: `stages.batches`.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from bgscale import settings as swaps
from bgscale.crops import fill_with_medium, intensity_range
from bgscale.schema import CENTRE_CELL, MEDIUM, Missing
from bgscale.settings import Cells, Donors, Ints, Setting, dilate
from bgscale.stages.job import Bank, Job

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Block:
    """Cells that are composed and embedded together.

    Parameters
    ----------
    cells : Cells
    image : array (cell, channel, y, x)
    mask : array (cell, y, x), uint8
    range : array (cell, channel, bound), float32
    usable : array (cell,), bool
    """

    cells: Cells
    image: npt.NDArray[Any]
    mask: npt.NDArray[np.uint8]
    range: npt.NDArray[np.float32]
    usable: npt.NDArray[np.bool_]

    @cached_property
    def resident(self) -> dict[str, "Tensor"]:
        """What lies on a device already, by its name."""
        return {}

    @cached_property
    def packed(self) -> npt.NDArray[np.uint64]:
        """The centre cells, as bits: (cell, word), uint64."""
        return swaps.pack(self.mask)

    @cached_property
    def own_range(self) -> npt.NDArray[np.float32]:
        """Intensity range of each centre cell's own pixels: (cell, channel, bound), float32."""
        found = np.zeros((*self.image.shape[:2], 2), np.float32)
        for i, inside in enumerate(self.mask == CENTRE_CELL):
            if inside.any():
                found[i] = intensity_range(self.image[i][None, :, inside])
        return found

    @cached_property
    def _dilated(self) -> dict[int, "Block"]:
        return {}

    def dilated(self, pixels: int) -> "Block":
        """Return the block with centre cells that reach so many pixels farther; 0: as it is."""
        if not pixels:
            return self
        if pixels not in self._dilated:
            self._dilated[pixels] = replace(self, mask=dilate(self.mask, pixels))
        return self._dilated[pixels]


@dataclass(frozen=True)
class Swapped:
    """A block under one setting: where its backgrounds come from.

    Parameters
    ----------
    missing : array (cell,), uint8
        `schema.Missing` codes.
    donor : array (cell,), uint64
        Identity of the donor; 0 where there is none.
    donor_class : array (cell,), int16
    uncovered : array (cell,), int32
        Pixels of the donor's centre cell that stay visible.
    place : array (cell,), int64
        Of the donor in its bank; -1 where there is none.
    image : array (cell, channel, y, x), optional
        Refilled crops, where the setting refills; undefined where missing.
    averaged : array (background, cell), int64, optional
        Places of the donors over whose backgrounds features are averaged; None: they are those of
        one crop.
    range : array (cell, channel, bound), float32, optional
        What donors are mapped onto, where that is not the range of the cell's protein.
    """

    missing: npt.NDArray[np.uint8]
    donor: npt.NDArray[np.uint64]
    donor_class: npt.NDArray[np.int16]
    uncovered: npt.NDArray[np.int32]
    place: Ints
    image: npt.NDArray[Any] | None = None
    averaged: Ints | None = None
    range: npt.NDArray[np.float32] | None = None

    @property
    def rows(self) -> Ints:
        """Which cells are there."""
        return np.flatnonzero(self.missing == Missing.PRESENT)


def bank_of(job: Job, setting: Setting) -> Bank | None:
    """Return the bank that a setting draws from."""
    node = {"own": None, "crop": "donors", "window": "windows"}[setting.source]
    return None if node is None else job.bank(node)


def draw(job: Job, block: Block, setting: Setting, bank: Bank | None) -> Donors | None:
    """Draw a donor for each cell of a block, where the setting has any.

    Of ``donors.candidates`` donors, each drawn uniformly, the one is taken whose own centre cell
    the foreground covers best, the first of several.
    """
    if bank is None:
        return None
    drawn, slots = swaps.draw_candidates(
        setting, block.cells, bank.pool, seed=job.config.seed, plate_of=job.plate_of_field,
        candidates=job.config.donors.candidates if setting.source == "crop" else 1,
    )  # fmt: skip
    if len(slots) == 1:
        return drawn
    k = drawn.localization
    slot = swaps.best_covered(block.packed, bank.packed_with_rim, k, slots)
    return Donors(k, slot, drawn.missing)


def swap(block: Block, setting: Setting, bank: Bank | None, drawn: Donors | None) -> Swapped:
    """Return where the block's backgrounds come from under a setting, of the donors drawn."""
    n = len(block.cells)
    missing = np.where(block.usable, Missing.PRESENT, Missing.UNUSABLE).astype(np.uint8)
    donor, donor_class = np.zeros(n, np.uint64), np.full(n, -1, np.int16)
    uncovered, place = np.zeros(n, np.int32), np.full(n, -1, np.int64)
    image = _refilled(block, setting, missing) if setting.refill else None
    if bank is not None and drawn is not None:
        missing = np.where(block.usable, drawn.missing, missing)
        rows = np.flatnonzero(missing == Missing.PRESENT)
        lent = drawn.localization[rows], drawn.slot[rows]
        donor[rows], donor_class[rows] = bank.ids[lent], drawn.localization[rows]
        own = block.dilated(setting.dilate_px).packed[rows]
        uncovered[rows] = swaps.uncovered_bits(own, bank.packed[lent])
        place[rows] = np.ravel_multi_index(lent, bank.ids.shape)
    return Swapped(missing, donor, donor_class, uncovered, place, image)


def _refilled(block: Block, setting: Setting, missing: npt.NDArray[np.uint8]) -> npt.NDArray[Any]:
    """Return the crops with their cells replaced by medium; notes where there is too little."""
    image = block.image.copy()
    holes = block.mask == CENTRE_CELL if setting.refill == "centre" else block.mask != MEDIUM
    for i in np.flatnonzero(block.usable):
        filled = fill_with_medium(
            block.image[i], hole=holes[i], mask=block.mask[i], cell=int(block.cells.ids[i])
        )
        if filled is None:
            missing[i] = Missing.NO_MEDIUM
        else:
            image[i] = filled
    return image


def compose(
    block: Block,
    setting: Setting,
    bank: Bank | None,
    swapped: Swapped,
    *,
    rows: Ints,
    channels: Ints,
    out: npt.NDArray[np.float32],
) -> None:
    """Fill `out` (n, channel, y, x) with cells that are there, under a setting.

    The block's masks are those that the setting wants: `Block.dilated`.
    """
    image = block.image if swapped.image is None else swapped.image
    if bank is None:
        out[:] = image[rows[:, None], channels]
        return
    scale = scale_of(block, setting, bank, swapped, rows, channels)
    place = swapped.place[rows]
    swaps.compose_into(out, image, block.mask, bank.donors, rows, place, channels, scale)


def scale_of(
    block: Block, setting: Setting, bank: Bank, swapped: Swapped, rows: Ints, channels: Ints
) -> npt.NDArray[np.float32] | None:
    """Return what maps the donors of some cells onto their ranges: `settings.scaling`.

    None where a setting takes donors as imaged. Of a cell without a donor it means nothing.
    """
    if not setting.scale:
        return None
    bounds = bank.range.reshape(-1, *bank.range.shape[2:])
    lent = bounds[swapped.place[rows][:, None], channels]
    bounds_of = block.range if swapped.range is None else swapped.range
    return swaps.scaling(bounds_of[rows[:, None], channels], lent)
