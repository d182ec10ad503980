"""What a network reads next, composed from a block of crops and the donor bank where it is read.

Synthetic crops are never stored, and never lie in memory all at once. On a processor each
micro-batch is composed into the same memory, which stays in its cache; on a GPU from crops, masks
and bank that lie there. What goes there goes once a block: nothing is sent for a micro-batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from bgscale import embed as kernels
from bgscale.schema import CENTRE_CELL
from bgscale.settings import Ints, Setting
from bgscale.stages.composing import Block, Swapped, bank_of, compose, scale_of
from bgscale.stages.job import Job

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from bgscale.models.embedding import EmbeddingModel


class Batches:
    """Gives a model the crops of a block under some settings: `models.embedding.Batch`.

    One setting after the other, as one row of crops: few micro-batches are filled up.

    Parameters
    ----------
    job : Job
    model : EmbeddingModel
    block : Block
    wanted : sequence of (Setting, Swapped)
        Settings of one mode and one dilation, which the block's masks have.
    channels : sequence of int
        Those that the model reads, of the screen's.
    """

    def __init__(
        self,
        job: Job,
        model: "EmbeddingModel",
        block: Block,
        wanted: Sequence[tuple[Setting, Swapped]],
        channels: Sequence[int],
    ) -> None:
        self._model, self._block, self._channels = model, block, np.asarray(channels)
        self._wanted = [(setting, swapped, bank_of(job, setting)) for setting, swapped in wanted]
        self._rows = np.concatenate([swapped.rows for _, swapped in wanted])
        self._which = np.repeat(np.arange(len(wanted)), [len(s.rows) for _, s in wanted])
        self._factor = kernels.zoom(model.spec, job.pixel_size_um)
        self._masked = model.reads_mask(wanted[0][0].mode)
        window = model.spec.input_size_px
        self._fits = self._factor == 1.0 and block.mask.shape[1:] == (window, window)

    def __len__(self) -> int:
        """Return how many crops there are."""
        return len(self._rows)

    @cached_property
    def _out(self) -> npt.NDArray[np.float32]:
        size = self._model.engine.micro_batch, len(self._channels), *self._block.mask.shape[1:]
        return np.empty(size, np.float32)

    def __call__(self, part: slice) -> tuple["Tensor", "Tensor | None"]:
        """Return a micro-batch: crops in counts, and where their centre cells are.

        It is filled up with crops of its own.
        """
        each, runs = self._runs(part)
        if self._fits and self._model.device.type != "cpu":
            return self._on_device(each, runs)
        return self._on_host(each, runs)

    def _runs(self, part: slice) -> tuple[Ints, list[slice]]:
        """Return which crops make a whole micro-batch, and its pieces of one setting each."""
        each = np.resize(np.arange(part.start, part.stop), self._model.engine.micro_batch)
        ends = [*(np.flatnonzero(np.diff(self._which[each])) + 1).tolist(), len(each)]
        return each, [slice(a, b) for a, b in zip([0, *ends[:-1]], ends, strict=True)]

    def _on_host(self, each: Ints, runs: Sequence[slice]) -> tuple["Tensor", "Tensor | None"]:
        import torch

        rows = self._rows[each]
        for run in runs:
            setting, swapped, bank = self._wanted[self._which[each[run.start]]]
            compose(
                self._block, setting, bank, swapped,
                rows=rows[run], channels=self._channels, out=self._out[run],
            )  # fmt: skip
        crops, masks = kernels.fit_window(
            self._out,
            self._block.mask[rows],
            size_px=self._model.spec.input_size_px,
            factor=self._factor,
        )
        inside = torch.from_numpy(masks == CENTRE_CELL) if self._masked else None
        there = self._model.device
        return torch.from_numpy(crops).to(there), None if inside is None else inside.to(there)

    def _on_device(self, each: Ints, runs: Sequence[slice]) -> tuple["Tensor", "Tensor | None"]:
        import torch

        from bgscale.settings.device import to_device

        first, rows = int(each[0]), self._rows_there
        if len(each) and int(each[-1]) - first == len(each) - 1:
            at = rows[first : first + len(each)]
        else:  # the last micro-batch is filled up with its first crops
            at = rows[to_device(each, self._model.device)]
        made = [self._run_on_device(at[run], int(self._which[each[run.start]])) for run in runs]
        crops = torch.cat(made) if len(made) > 1 else made[0]
        mask = self._held["mask"]
        return crops, mask[at] == CENTRE_CELL if self._masked else None

    @cached_property
    def _rows_there(self) -> "Tensor":
        from bgscale.settings.device import to_device

        return to_device(self._rows, self._model.device)

    @cached_property
    def _channels_there(self) -> "Tensor":
        from bgscale.settings.device import to_device

        return to_device(self._channels, self._model.device)

    @cached_property
    def _held(self) -> dict[str, "Tensor"]:
        block = self._block
        return resident(block.resident, self._model.device, image=block.image, mask=block.mask)

    @cached_property
    def _sources(self) -> "list[_Source]":
        """What each setting composes from: sent once a block, not once a micro-batch."""
        from bgscale.settings.device import to_device

        found = []
        for setting, swapped, bank in self._wanted:
            there, image = self._model.device, self._held["image"]
            if swapped.image is not None:
                image = to_device(swapped.image, there)
            source = _Source(image)
            if bank is not None:
                every = np.arange(len(swapped.place))
                scale = scale_of(self._block, setting, bank, swapped, every, self._channels)
                source = _Source(
                    image,
                    resident(bank.resident, there, image=bank.donors)["image"],
                    to_device(swapped.place, there),
                    None if scale is None else to_device(scale, there),
                )
            found.append(source)
        return found

    def _run_on_device(self, at: "Tensor", which: int) -> "Tensor":
        from bgscale.settings.device import composed, counts

        source, channels = self._sources[which], self._channels_there
        if source.bank is None or source.donors is None:
            return counts(source.image[at[:, None], channels])
        scale = None if source.scale is None else source.scale[at]
        mask, donors = self._held["mask"], source.donors[at]
        return composed(source.image, mask, source.bank, at, donors, channels, scale)


@dataclass(frozen=True)
class _Source:
    """What a setting composes from, on a device; without a bank the crop itself.

    `image` and `bank` as stored; `donors` (cell,) their places, `scale` (cell, channel, 3).
    """

    image: "Tensor"
    bank: "Tensor | None" = None
    donors: "Tensor | None" = None
    scale: "Tensor | None" = None


def resident(
    held: dict[str, "Tensor"], device: "torch.device", **arrays: npt.NDArray[Any]
) -> dict[str, "Tensor"]:
    """Return arrays on a device, where they stay for as long as `held` does."""
    from bgscale.settings.device import to_device

    for name, values in arrays.items():
        if name not in held or held[name].device.type != device.type:
            held[name] = to_device(values, device)
    return held
