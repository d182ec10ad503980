"""Features averaged over several random backgrounds: of a model that cannot be trained again.

Owns which backgrounds stand behind a cell, and the mean. Each setting's crop is put on the
backgrounds of `[models.NAME] backgrounds` donors, and the features are their mean. Of the
setting's own background nothing is left then: the settings differ by the chance of the draw alone.
Each setting therefore draws by itself; were the donors the same, the settings would agree to the
bit, however much the mean still hangs on its donors. Settings that mask have no background to
average: they are as without this.

A mean takes away what differs from donor to donor, and shows all the better what they have in
common. So nothing behind a cell may come from anything but the cell: classes are drawn without
regard to its own, and donors are mapped onto the range of its own pixels. That of its protein,
which `same` and `different` map onto, is the brightness of other cells, and tells classes apart
even of cells that are all of one shape and one grey level.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from bgscale import settings as swaps
from bgscale.schema import Missing
from bgscale.settings import AVERAGED, Setting
from bgscale.stages.composing import Block, Swapped
from bgscale.stages.job import Job

View: TypeAlias = list[tuple[Setting, Swapped]]
Features: TypeAlias = Mapping[str, npt.NDArray[np.float32]]


def averaged(
    job: Job,
    block: Block,
    setting: Setting,
    swapped: Swapped,
    *,
    backgrounds: int,
    stream: str = "",
) -> Swapped:
    """Return a block under a setting, with the donors over which its features are averaged.

    They are drawn as those of `different` (another protein, and of ``donors.candidates`` the one
    whose own centre cell is covered best), but of every class equally often, and from all plates.
    What is said of the setting's own donor stays.

    Parameters
    ----------
    job : Job
    block : Block
    setting : Setting
    swapped : Swapped
    backgrounds : int
        Of each cell.
    stream : str
        Tells draws of the same cells under the same setting apart.

    Returns
    -------
    Swapped
        A cell that has no donor of one of the classes is missing.
    """
    if setting.mode != "unmasked":
        return swapped
    bank, seed, purpose = job.bank("donors"), job.config.seed, f"average/{setting.name}/{stream}"
    localization = swaps.spread_classes(
        block.cells.ids, len(bank.pool.sizes), backgrounds=backgrounds, seed=seed, purpose=purpose
    ).ravel()
    cells = swaps.on_backgrounds(block.cells, backgrounds=backgrounds, seed=seed, purpose=purpose)
    slots = swaps.draw_of_classes(
        cells, bank.pool, localization, seed=seed, purpose=purpose,
        candidates=job.config.donors.candidates,
    )  # fmt: skip
    own = np.tile(swaps.pack(block.mask), (backgrounds, 1))
    slot = swaps.best_covered(own, bank.packed_with_rim, localization, slots)
    shape = backgrounds, len(block.cells)
    place = np.where(slot < 0, -1, localization * bank.ids.shape[1] + slot).reshape(shape)
    lacking = (place < 0).any(0) & (swapped.missing == Missing.PRESENT)
    missing = np.where(lacking, Missing.NO_DONOR, swapped.missing).astype(np.uint8)
    own_block = block.dilated(setting.dilate_px)
    if swapped.image is not None:
        own_block = replace(own_block, image=swapped.image)
    return replace(swapped, missing=missing, averaged=place, range=own_block.own_range)


def views(job: Job, wanted: Sequence[tuple[Setting, Swapped]]) -> list[View]:
    """Return what is embedded of a block under some settings of one mode, one pass after the other.

    One pass; or where they are averaged, one on the first of each cell's backgrounds, and so on.
    """
    places = [swapped.averaged for _, swapped in wanted]
    if places[0] is None:
        return [list(wanted)]
    scale = job.config.screen.intensity_scaling != "none"
    return [
        [
            (
                replace(AVERAGED, scale=scale, mode=setting.mode, dilate_px=setting.dilate_px),
                replace(swapped, place=place[j]),
            )
            for (setting, swapped), place in zip(wanted, places, strict=True)
            if place is not None
        ]
        for j in range(len(places[0]))
    ]


def mean(made: Iterable[Features]) -> dict[str, npt.NDArray[np.float32]]:
    """Return the mean of features by layer, float32, added in the order they come.

    Examples
    --------
    >>> mean([{"profile": np.ones(2, np.float32)}, {"profile": np.zeros(2, np.float32)}])
    {'profile': array([0.5, 0.5], dtype=float32)}
    """
    total: dict[str, npt.NDArray[np.float32]] = {}
    count = 0
    for features in made:
        count += 1
        for layer, values in features.items():
            total[layer] = total[layer] + values if layer in total else values
    if count == 1:
        return total
    return {layer: values / np.float32(count) for layer, values in total.items()}
