"""Cells as a model saw them: crops under every setting, composed again from the store alone.

Composed crops are never stored. What made them is: the crop and its mask, the intensity ranges of
proteins, the bank of donors, and which donor each cell got. So nothing is drawn here, and the
pixels are those that were embedded, to the bit.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from bgscale import embed as kernels
from bgscale import settings as swaps
from bgscale.asked import check_complete, goes_on, pick, pick_all
from bgscale.config import RunConfig
from bgscale.draw import cell_names
from bgscale.errors import InputError
from bgscale.results import Store
from bgscale.schema import CENTRE_CELL, Missing, Reason
from bgscale.settings import Cells, Ints, Setting
from bgscale.stages.cells import cell_ranges
from bgscale.stages.composing import Block, swap
from bgscale.stages.job import Job

Floats = npt.NDArray[np.float32]
BANKS = {"crop": "donors", "window": "windows"}
NO_DONOR = ""


def crops(
    store: str | Path,
    plate: str,
    rows: npt.ArrayLike,
    *,
    model: str,
    settings: Sequence[str] | None = None,
) -> xr.Dataset:
    """Return cells as a model saw them under some settings.

    Many cells in one call cost less than many calls.

    Parameters
    ----------
    store : str or path
    plate : str
    rows : array (cell,), int
        Of the plate's cell table, in any order.
    model : str
    settings : sequence of str, optional
        In the order wanted; by default all of the run.

    Returns
    -------
    Dataset
        image (cell, setting, channel, y, x), float32: counts, before the model's preprocessing, in
        the channels that it reads and in its window; zero outside the centre cell where the
        setting masks, NaN where the cell has no crop. mask (cell, y, x), uint8: 0 medium, 1
        centre cell, 2 other cells. missing (cell, setting), uint8: `bgscale.schema.Missing`. donor
        (cell, setting), uint64, 0: none; donor_localization (cell, setting), text, "": none.
        Coordinates of cell: its name, as in exports, row, field, protein.

    Raises
    ------
    InputError
        No such store, plate, model, setting or row, or the plate is not embedded yet.
    """
    opened = Store(store)
    plate = pick("plate", plate, opened.attrs()["plates"])
    node = f"plates/{plate}/embeddings/{model}"
    if not opened.has(node):
        pick("model", model, list(opened.attrs().get("config", {}).get("models", {})))
        msg = f"{opened.location} has no {node} yet: {goes_on(opened)}"
        raise InputError(msg)
    check_complete(opened, [f"embed/{model}/{plate}"])
    about = opened.attrs(node)
    known = about["coords"]["setting"]
    if settings is not None:
        pick_all("setting", settings, known)
    names = list(known if settings is None else settings)
    job = _job_of(opened)
    spec, factor = about["model"], about["crops_enlarged_by"]
    channels = np.array(job.role_indices(spec["channels"], who=f"model {model!r}"))
    place = _checked(rows, opened.array(f"plates/{plate}/cells/id").shape[0], plate)
    block = _block(job, plate, place)
    at = [known.index(name) for name in names]
    stored = {n: opened.read_rows(f"{node}/{n}", place)[:, at] for n in _STORED}
    size = spec["input_size_px"]
    image = np.full((len(place), len(names), len(channels), size, size), np.nan, np.float32)
    of_name = {setting.name: setting for setting in job.settings}
    for s, name in enumerate(names):
        own = {key: values[:, s] for key, values in stored.items()}
        present = np.flatnonzero(own["missing"] == Missing.PRESENT)
        if len(present):
            setting, masked = of_name[name], block.dilated(of_name[name].dilate_px)
            made = _compose(opened, masked, setting, own, present, channels)
            mask = masked.mask[present]
            made, inside = kernels.fit_window(made, mask, size_px=size, factor=factor)
            shown = (inside == CENTRE_CELL)[:, None] | (setting.mode == "unmasked")
            image[present, s] = np.where(shown, made, np.float32(0))
    blank = np.empty((len(place), 0, *block.mask.shape[1:]), np.float32)
    _, mask = kernels.fit_window(blank, block.mask, size_px=size, factor=factor)
    classes = np.array([*opened.array(f"{node}/donor_class").attrs["names"], NO_DONOR])
    fields = np.array(opened.array(f"plates/{plate}/cells/field").attrs["names"])
    proteins = np.array([*job.proteins, NO_DONOR])
    pixels, under = ("y", "x"), ("cell", "setting")
    return xr.Dataset(
        {
            "image": ((*under, "channel", *pixels), image, {"units": "counts"}),
            "mask": (("cell", *pixels), mask),
            "missing": (under, stored["missing"], {"names": _MISSING}),
            "donor": (under, stored["donor"]),
            "donor_localization": (under, classes[stored["donor_class"]]),
        },
        coords={
            "cell": np.array(cell_names(block.cells.ids), "U16"),
            "setting": np.array(names, str),
            "channel": np.array(spec["channels"], str),
            "row": ("cell", place),
            "field": ("cell", fields[block.cells.field]),
            "protein": ("cell", proteins[block.cells.protein]),
        },
        attrs={"store": opened.location, "plate": plate, "model": model},
    )


_STORED = ("missing", "donor", "donor_class")
_MISSING = {int(m): m.name.lower() for m in Missing}


def _job_of(store: Store) -> Job:
    """Return the run of a store, wherever the store lies now."""
    config = RunConfig.from_dict(store.attrs()["config"])
    return Job(config.model_copy(update={"store": store.location}))


def _checked(rows: npt.ArrayLike, n: int, plate: str) -> Ints:
    """Return rows of a table of n cells as an array."""
    place = np.asarray(rows)
    if not place.size:
        return np.empty(0, np.int64)
    if place.ndim != 1 or place.dtype.kind not in "iu":
        msg = f"rows: got {place.dtype} of shape {place.shape}; expected integers of one dim"
        raise InputError(msg)
    outside = place[(place < 0) | (place >= n)]
    if len(outside):
        msg = f"rows: plate {plate!r} has {n} cells, from row 0; there is no row {outside[0]}"
        raise InputError(msg)
    return place.astype(np.int64)


def _block(job: Job, plate: str, rows: Ints) -> Block:
    """Return cells of a plate; their field codes are those of the plate."""
    ids, protein, field, reason = (
        job.store.read_rows(f"plates/{plate}/cells/{name}", rows)
        for name in ("id", "protein", "field", "reason")
    )
    protein, field = protein.astype(np.int64), field.astype(np.int64)
    return Block(
        Cells(ids, protein, field, job.labels_of(protein)),
        job.store.read_rows(f"plates/{plate}/crops/image", rows),
        job.store.read_rows(f"plates/{plate}/crops/mask", rows),
        cell_ranges(job, plate, protein, field),
        (reason == Reason.OK) & (protein >= 0),
    )


def _compose(
    store: Store,
    block: Block,
    setting: Setting,
    stored: dict[str, npt.NDArray[Any]],
    rows: Ints,
    channels: Ints,
) -> Floats:
    """Return the cells that are there under a setting: (n, channel, y, x), as the run did."""
    if not setting.swaps:
        refilled = swap(block, setting, None, None).image
        image = block.image if refilled is None else refilled
        return np.asarray(image[rows[:, None], channels], np.float32)
    bank = BANKS[setting.source]
    lent, bounds = _lent(store, bank, stored["donor"][rows], stored["donor_class"][rows])
    scale = None
    if setting.scale:
        scale = swaps.scaling(block.range[rows[:, None], channels], bounds[:, channels])
    out = np.empty((len(rows), len(channels), *block.mask.shape[1:]), np.float32)
    each = np.arange(len(rows))
    swaps.compose_into(out, block.image, block.mask, lent, rows, each, channels, scale)
    return out


def _lent(
    store: Store, bank: str, donor: npt.NDArray[np.uint64], donor_class: npt.NDArray[np.int16]
) -> tuple[npt.NDArray[Any], Floats]:
    """Return the crop of each donor, and the intensity range of its protein."""
    ids, bounds = store.read(f"{bank}/id"), store.read(f"{bank}/range")
    images = store.array(f"{bank}/image")
    lent = np.empty((len(donor), *images.shape[2:]), images.dtype)
    found = np.empty((len(donor), *bounds.shape[2:]), np.float32)
    for k in np.unique(donor_class).tolist():
        own = np.flatnonzero(donor_class == k)
        order = np.argsort(ids[k], kind="stable")
        slot = order[np.minimum(np.searchsorted(ids[k], donor[own], sorter=order), len(order) - 1)]
        lost = donor[own][(ids[k, slot] != donor[own]) | (k < 0)]
        if len(lost):
            msg = (
                f"{store.location}: donor {cell_names(lost[:1])[0]} is not in {bank}: the donors "
                "were drawn anew after this plate was embedded; `bgscale run` embeds it again"
            )
            raise InputError(msg)
        unique, back = np.unique(slot, return_inverse=True)
        lent[own] = np.asarray(images.oindex[k, unique])[back]
        found[own] = bounds[k, slot]
    return lent, found
