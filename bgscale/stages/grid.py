"""Embed the crops of experiment 1, and keep a few of them for the eye.

Each class's centre cells on backgrounds of every class, dealt so that comparing them tells of
backgrounds alone.
"""

import numpy as np

from bgscale import settings as swaps
from bgscale.distribute.units import Unit
from bgscale.schema import CENTRE_CELL, OWN_BACKGROUND
from bgscale.settings import Cells, Donors, Setting
from bgscale.stages import embedding
from bgscale.stages.averaging import averaged
from bgscale.stages.cells import Done
from bgscale.stages.composing import Block, bank_of, compose, draw, swap
from bgscale.stages.job import Bank, Job

SAMPLED_CELLS = 2
"""Cells of each class whose composed crops are kept for the eye."""


def deal(job: Job, setting: Setting, k: int, background: int) -> Donors | None:
    """Deal the donors of class `background` to experiment 1's cells of class k."""
    bank, centres = bank_of(job, setting), job.bank("centres")
    if bank is None:
        return None
    return swaps.deal_donors(
        setting,
        centre_block(job, centres, k, slice(None)).cells,
        bank.pool,
        localization=background,
        seed=job.config.seed,
        folds=job.config.classification.folds,
        covered=setting.source == "crop" and job.config.donors.candidates > 1,
        own_bits=centres.packed[k],
        donor_bits=bank.packed_with_rim[background],
        plate_of=job.plate_of_field,
    )


def centre_block(job: Job, centres: Bank, k: int, part: slice) -> Block:
    """Return some of experiment 1's centre cells of class k."""
    protein = centres.pool.protein[k, part]
    cells = Cells(centres.ids[k, part], protein, centres.pool.field[k, part], job.labels[protein])
    return Block(
        cells,
        centres.image[k, part],
        centres.mask[k, part],
        centres.range[k, part],
        np.ones(len(cells), bool),
    )


def grid_problems(job: Job) -> list[tuple[int, int]]:
    """Return (setting, background) of each block of experiment 1; background 0 is the own one."""
    return [
        (s, b)
        for s, setting in enumerate(job.settings)
        for b in (range(1, len(job.classes) + 1) if setting.each_background else (0,))
    ]


def create_grid(job: Job, name: str) -> None:
    """Create the features of experiment 1's crops."""
    model, store = embedding.model_of(job.text, name), job.store
    classes = job.classes
    draws = store.array("centres/id").shape[1]
    coords = {
        "setting": job.config.settings,
        "background": (OWN_BACKGROUND, *classes),
        "localization": classes,
    }
    backgrounds = job.config.models[name].backgrounds
    attrs = embedding.model_attrs(job, model, backgrounds=backgrounds)
    store.create_group(f"grid/{name}", coords=coords, **attrs)
    dims = {
        "setting": len(job.settings),
        "background": len(classes) + 1,
        "localization": len(classes),
        "draw": draws,
    }
    chunk = {"setting": 1, "background": 1}
    for variable in ("donor", "missing"):
        dtype, fill, text = embedding.SWAP_VARIABLES[variable]
        store.create_array(
            f"grid/{name}/{variable}", dims, dtype, chunk=chunk, fill=fill, long_name=text
        )
    layer = model.spec.classification_layer
    store.create_group(f"grid/{name}/{layer}", coords=coords)
    store.create_array(
        f"grid/{name}/{layer}/embedding", {**dims, "feature": model.spec.layers[layer]}, "float32",
        chunk=chunk, fill=float("nan"), long_name=f"features of layer {layer}",
    )  # fmt: skip


def grid(job: Job, unit: Unit) -> Done:
    """Embed the centre cells of all classes under one setting and background."""
    name = unit.stage.split("/")[1]
    model, store, centres = embedding.model_of(job.text, name), job.store, job.bank("centres")
    embedding.check_planned(job, f"grid/{name}", model)
    s, b = grid_problems(job)[unit.start]
    setting = job.settings[s]
    backgrounds = job.config.models[name].backgrounds
    channels = job.role_indices(model.spec.channels, who=f"model {name!r}")
    classes, draws = centres.ids.shape
    layer = model.spec.classification_layer
    values = np.full((classes, draws, model.spec.layers[layer]), np.nan, np.float32)
    donor = np.zeros((classes, draws), np.uint64)
    missing = np.zeros((classes, draws), np.uint8)
    bank = bank_of(job, setting)
    before, kept = embedding.kept_before(job, unit.stage)
    if setting.name in kept:
        at = kept[setting.name], b
        values = store.read(f"{before}/{layer}/embedding", *at)
        donor, missing = (store.read(f"{before}/{name}", *at) for name in ("donor", "missing"))
        embedding.check_kept(job, before)
    for k in [] if setting.name in kept else range(classes):
        dealt = deal(job, setting, k, b - 1 if b else k)
        for part in swaps.blocks(draws, embedding.cells_at_once(model)):
            block = centre_block(job, centres, k, part)
            drawn = None if dealt is None else dealt.take(part)
            swapped = swap(block, setting, bank, drawn)
            if backgrounds:
                # other backgrounds in each problem: what they leave is chance, not a fault of one
                swapped = averaged(
                    job, block, setting, swapped, backgrounds=backgrounds, stream=f"grid/{b}"
                )
            (read,) = embedding.features(job, model, block, [(setting, swapped)], channels)
            values[k, part] = read[layer]
            donor[k, part], missing[k, part] = swapped.donor, swapped.missing
    region = [(s, s + 1), (b, b + 1)]
    files = []
    for path, block_values in (
        (f"grid/{name}/{layer}/embedding", values),
        (f"grid/{name}/donor", donor),
        (f"grid/{name}/missing", missing),
    ):
        files += store.write(path, region, block_values[None, None])
    return files, {"crops": int((missing == 0).sum())}


def create_sample(job: Job) -> None:
    """Create the sample of composed crops that is kept for the eye."""
    store, classes = job.store, job.classes
    _, draws, channels, y, x = store.array("centres/image").shape
    coords = {"localization": classes, "setting": job.config.settings, "channel": job.channels}
    store.create_group("sample", coords=coords, description="composed crops, for the eye")
    dims = {"localization": len(classes), "example": min(SAMPLED_CELLS, draws)}
    image = {**dims, "setting": len(job.settings), "channel": channels, "y": y, "x": x}
    store.create_array("sample/image", image, "float32", chunk={}, units="counts")
    store.create_array("sample/mask", {**dims, "y": y, "x": x}, "uint8", chunk={})
    store.create_array(
        "sample/missing", {**dims, "setting": len(job.settings)}, "uint8", chunk={},
        long_name="why there is no crop; 0: present",
    )  # fmt: skip


def sample(job: Job, unit: Unit) -> Done:
    """Compose a few centre cells of each class under every setting."""
    del unit
    store, centres = job.store, job.bank("centres")
    examples = slice(0, store.array("sample/image").shape[1])
    channels = np.arange(len(job.channels))
    image = np.zeros(store.array("sample/image").shape, np.float32)
    missing = np.zeros(store.array("sample/missing").shape, np.uint8)
    for k in range(len(job.classes)):
        block = centre_block(job, centres, k, examples)
        for s, setting in enumerate(job.settings):
            bank = bank_of(job, setting)
            drawn = draw(job, block, setting, bank)
            swapped = swap(block, setting, bank, drawn)
            rows = swapped.rows
            crops = np.zeros_like(image[k, rows, s])
            masked = block.dilated(setting.dilate_px)
            compose(masked, setting, bank, swapped, rows=rows, channels=channels, out=crops)
            inside = (masked.mask[rows] == CENTRE_CELL)[:, None] | (setting.mode == "unmasked")
            image[k, rows, s] = np.where(inside, crops, 0)
            missing[k, :, s] = swapped.missing
    files = []
    for name, values in (
        ("image", image), ("mask", centres.mask[:, examples]), ("missing", missing)
    ):  # fmt: skip
        files += store.write(f"sample/{name}", [(0, len(job.classes))], values)
    return files, {}
