"""Embed every cell under every setting, and the crops of experiment 1.

Synthetic crops are never stored: they are composed inside the unit, from a shard of crops and the
donor bank that the process holds.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bgscale import embed as kernels
from bgscale import settings as swaps
from bgscale.config import ModelSection
from bgscale.crops import fill_with_medium
from bgscale.distribute.units import Unit
from bgscale.errors import InputError
from bgscale.models import load_model, model_files
from bgscale.models.embedding import EmbeddingModel
from bgscale.schema import CENTRE_CELL, MEDIUM, OWN_BACKGROUND, Missing
from bgscale.settings import Cells, Donors, Setting
from bgscale.stages.cells import Done, cell_ranges, shard_cells
from bgscale.stages.job import Bank, Job, open_job

COMPOSED_AT_ONCE = 512
BEFORE = "before"
FEATURE_CHUNK = 1024
SAMPLED_CELLS = 2
"""Cells of each class whose composed crops are kept for the eye."""


def model_of(text: str, name: str) -> EmbeddingModel:
    """Return a model of the job, loaded once a process and again when its file has changed."""
    section = open_job(text).config.models[name]
    if section.weights and not Path(section.weights).is_file():
        msg = (
            f"models.{name}.weights: no file {section.weights}; `bgscale train run.toml` writes "
            'it, weights = "" means random weights'
        )
        raise InputError(msg)
    files = [file.stat() for file in model_files(section.spec, section.weights) if file.exists()]
    version = tuple((stat.st_mtime_ns, stat.st_size, stat.st_ino) for stat in files)
    return _model_of(section, version)


@lru_cache(maxsize=4)
def _model_of(section: ModelSection, version: tuple[tuple[int, ...], ...]) -> EmbeddingModel:
    del version
    return load_model(
        section.spec or section.architecture,
        weights=section.weights or None,
        seed=section.seed,
        overrides=section.overrides() or None,
    )


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


@dataclass(frozen=True)
class Swapped:
    """Crops under one setting, and where their backgrounds come from.

    Parameters
    ----------
    crops : array (cell, channel, y, x), float32
        Undefined where missing.
    missing : array (cell,), uint8
        `schema.Missing` codes.
    donor : array (cell,), uint64
        Identity of the donor; 0 where there is none.
    donor_class : array (cell,), int16
    uncovered : array (cell,), int32
        Pixels of the donor's centre cell that stay visible.
    """

    crops: npt.NDArray[np.float32]
    missing: npt.NDArray[np.uint8]
    donor: npt.NDArray[np.uint64]
    donor_class: npt.NDArray[np.int16]
    uncovered: npt.NDArray[np.int32]


def swap(
    block: Block,
    setting: Setting,
    bank: Bank | None,
    drawn: Donors | None,
    *,
    channels: Sequence[int],
) -> Swapped:
    """Return these channels of the block's crops under a setting, on the donors drawn for it."""
    n = len(block.cells)
    missing = np.where(block.usable, Missing.PRESENT, Missing.UNUSABLE).astype(np.uint8)
    donor, donor_class = np.zeros(n, np.uint64), np.full(n, -1, np.int16)
    uncovered = np.zeros(n, np.int32)
    crops = block.image[:, channels].astype(np.float32)
    if setting.refill:
        holes = block.mask == CENTRE_CELL if setting.refill == "centre" else block.mask != MEDIUM
        for i in np.flatnonzero(block.usable):
            filled = fill_with_medium(
                block.image[i],
                hole=holes[i],
                mask=block.mask[i],
                cell=int(block.cells.ids[i]),
            )
            if filled is None:
                missing[i] = Missing.NO_MEDIUM
            else:
                crops[i] = filled[list(channels)]
    if bank is not None and drawn is not None:
        missing = np.where(block.usable, drawn.missing, missing)
        rows = np.flatnonzero(missing == Missing.PRESENT)
        place = drawn.localization[rows], drawn.slot[rows]
        each = (*(index[:, None] for index in place), np.asarray(channels)[None])
        crops[rows] = swaps.compose(
            crops[rows],
            block.mask[rows],
            bank.image[each],
            centre_range=block.range[rows][:, channels] if setting.scale else None,
            donor_range=bank.range[each] if setting.scale else None,
        )
        donor[rows], donor_class[rows] = bank.ids[place], drawn.localization[rows]
        uncovered[rows] = swaps.uncovered_px(block.mask[rows], bank.mask[place])
    return Swapped(crops, missing, donor, donor_class, uncovered)


def draw(job: Job, block: Block, setting: Setting, bank: Bank | None) -> Donors | None:
    """Draw a donor for each cell of a block, where the setting has any.

    Of ``donors.candidates`` donors, each drawn uniformly, the one is taken whose own centre cell
    the foreground covers best, the first of several.
    """
    if bank is None:
        return None
    seed = job.config.seed
    drawn = swaps.draw_donors(setting, block.cells, bank.pool, seed=seed)
    rows = np.flatnonzero(drawn.missing == Missing.PRESENT)
    if setting.source != "crop" or not len(rows):
        return drawn
    own, slot = swaps.pack(block.mask[rows]), drawn.slot.copy()
    k = drawn.localization[rows]
    fewest = swaps.uncovered_bits(own, bank.packed_with_rim[k, slot[rows]])
    for candidate in range(1, job.config.donors.candidates):
        again = swaps.draw_donors(
            setting, block.cells, bank.pool, seed=seed, candidate=candidate
        ).slot[rows]
        uncovered = swaps.uncovered_bits(own, bank.packed_with_rim[k, again])
        better = uncovered < fewest
        slot[rows[better]], fewest[better] = again[better], uncovered[better]
    return Donors(drawn.localization, slot, drawn.missing)


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
    )


def bank_of(job: Job, setting: Setting) -> Bank | None:
    """Return the bank that a setting draws from."""
    node = {"own": None, "crop": "donors", "window": "windows"}[setting.source]
    return None if node is None else job.bank(node)


def features(
    job: Job, model: EmbeddingModel, block: Block, swapped: Swapped, setting: Setting
) -> dict[str, npt.NDArray[np.float32]]:
    """Embed the present cells of a block; the others are NaN: layer -> (cell, feature)."""
    spec = model.spec
    rows = np.flatnonzero(swapped.missing == Missing.PRESENT)
    factor = kernels.zoom(spec, job.pixel_size_um)
    crops, masks = kernels.fit_window(
        swapped.crops[rows],
        block.mask[rows],
        size_px=spec.input_size_px,
        factor=factor,
    )
    out = {}
    for layer, values in model.embed(crops, masks, mode=setting.mode).items():
        out[layer] = np.full((len(swapped.missing), values.shape[1]), np.nan, np.float32)
        out[layer][rows] = values
    return out


def create_embeddings(job: Job, name: str, plate: str) -> None:
    """Create the embeddings of one model on one plate."""
    model, store = model_of(job.text, name), job.store
    node = f"plates/{plate}/embeddings/{name}"
    n = store.array(f"plates/{plate}/cells/id").shape[0]
    write = {"cell": shard_cells(job, n)}
    store.create_group(node, coords={"setting": job.config.settings}, **model_attrs(job, model))
    dims = {"cell": n, "setting": len(job.settings)}
    names: dict[str, Any] = {
        "donor_class": list(job.classes),
        "missing": {int(m): m.name.lower() for m in Missing},
    }
    for variable, (dtype, fill, text) in _SWAP_VARIABLES.items():
        attrs = {"long_name": text} | ({"names": names[variable]} if variable in names else {})
        store.create_array(f"{node}/{variable}", dims, dtype, chunk=write, fill=fill, **attrs)
    chunk = {"cell": min(FEATURE_CHUNK, write["cell"]), "setting": 1}
    for layer, width in model.spec.layers.items():
        store.create_group(f"{node}/{layer}", coords={"setting": job.config.settings})
        store.create_array(
            f"{node}/{layer}/embedding", {**dims, "feature": width}, "float32",
            chunk=chunk, shard=write, fill=float("nan"), long_name=f"features of layer {layer}",
        )  # fmt: skip


_SWAP_VARIABLES = {
    "donor": ("uint64", 0, "identity of the donor; 0: none"),
    "donor_class": ("int16", -1, "class of the donor; -1: none"),
    "missing": ("uint8", 0, "why there is no value; 0: present"),
    "uncovered": ("int32", 0, "pixels of the donor's own centre cell that stay visible"),
}


def model_attrs(job: Job, model: EmbeddingModel) -> dict[str, Any]:
    """Return what every output of a model says of it."""
    factor = kernels.zoom(model.spec, job.pixel_size_um)
    return {
        "model": model.spec.to_config(),
        "random_weights": model.random_weights,
        "crops_enlarged_by": factor,
        "processor": processor(),
        "precision": "float32",
    }


def processor() -> str:
    """Return backend and instruction set: float32 results differ between instruction sets."""
    import torch

    return f"torch-cpu-{torch.backends.cpu.get_cpu_capability()}"


def check_planned(job: Job, node: str, model: EmbeddingModel) -> None:
    """Refuse to mix features of two kinds of processor, or of two weights, in one array."""
    attrs = job.store.attrs(node)
    if attrs["model"] != json.loads(json.dumps(model.spec.to_config())):
        msg = f"the weights of {node} have changed since it was planned: run with --redo"
        raise InputError(msg)
    planned = attrs["processor"]
    if planned != processor():
        msg = (
            f"{node} was planned for {planned}, this worker is {processor()}: their float32 "
            "features differ in the last bits; use workers of one kind, or run with --redo"
        )
        raise InputError(msg)


def kept_before(job: Job, stage: str) -> tuple[str, dict[str, int]]:
    """Return where an earlier run's values of a stage lie, and the place of each setting there.

    They lie there while the stage is made anew with further settings.
    """
    node = f"{BEFORE}/{stage}"
    if not job.store.has(node):
        return node, {}
    return node, {name: i for i, name in enumerate(job.store.attrs(node)["coords"]["setting"])}


def lose_features(job: Job, unit: Unit) -> Done:
    """Mark the cells of a unit that cannot be done."""
    return embed(job, unit, lost=True)


def embed(job: Job, unit: Unit, *, lost: bool = False) -> Done:
    """Embed one shard of cells under every setting; or mark them as lost."""
    _, name, plate = unit.stage.split("/")
    node = f"plates/{plate}/embeddings/{name}"
    model, store, table = model_of(job.text, name), job.store, job.cells(plate)
    check_planned(job, node, model)
    channels = job.role_indices(model.spec.channels, who=f"model {name!r}")
    n, settings = unit.stop - unit.start, job.settings
    layers = {
        layer: np.full((n, len(settings), width), np.nan, np.float32)
        for layer, width in model.spec.layers.items()
    }
    records = {
        variable: np.full((n, len(settings)), fill, dtype)
        for variable, (dtype, fill, _) in _SWAP_VARIABLES.items()
    }
    if lost:
        usable = table.usable[unit.start : unit.stop]
        records["missing"][:] = np.where(usable, Missing.LOST, Missing.UNUSABLE)[:, None]
    before, kept = kept_before(job, unit.stage)
    if lost:
        kept = {}
    whole = slice(unit.start, unit.stop)
    arrays = {f"{layer}/embedding": values for layer, values in layers.items()} | records
    for s, setting in enumerate(settings):
        if setting.name in kept:
            for array, values in arrays.items():
                values[:, s] = store.read(f"{before}/{array}", whole, kept[setting.name])
    new = [(s, setting) for s, setting in enumerate(settings) if setting.name not in kept]
    for part in [] if lost or not new else swaps.blocks(n, COMPOSED_AT_ONCE):
        rows = np.arange(unit.start + part.start, unit.start + part.stop)
        block = Block(
            table.cells.take(rows),
            store.read(f"plates/{plate}/crops/image", slice(rows[0], rows[-1] + 1)),
            store.read(f"plates/{plate}/crops/mask", slice(rows[0], rows[-1] + 1)),
            cell_ranges(job, plate, table.cells.protein[rows], table.cells.field[rows]),
            table.usable[rows],
        )
        for s, setting in new:
            bank = bank_of(job, setting)
            drawn = draw(job, block, setting, bank)
            swapped = swap(block, setting, bank, drawn, channels=channels)
            for layer, values in features(job, model, block, swapped, setting).items():
                layers[layer][part, s] = values
            for variable in _SWAP_VARIABLES:
                records[variable][part, s] = getattr(swapped, variable)
    region = [(unit.start, unit.stop)]
    files = [f for v, values in records.items() for f in store.write(f"{node}/{v}", region, values)]
    for layer, values in layers.items():
        files += store.write(f"{node}/{layer}/embedding", region, values)
    return files, {"cells": n, "settings": len(settings)}


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
    model, store = model_of(job.text, name), job.store
    classes = job.classes
    draws = store.array("centres/id").shape[1]
    coords = {
        "setting": job.config.settings,
        "background": (OWN_BACKGROUND, *classes),
        "localization": classes,
    }
    store.create_group(f"grid/{name}", coords=coords, **model_attrs(job, model))
    dims = {
        "setting": len(job.settings),
        "background": len(classes) + 1,
        "localization": len(classes),
        "draw": draws,
    }
    chunk = {"setting": 1, "background": 1}
    for variable in ("donor", "missing"):
        dtype, fill, text = _SWAP_VARIABLES[variable]
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
    model, store, centres = model_of(job.text, name), job.store, job.bank("centres")
    check_planned(job, f"grid/{name}", model)
    s, b = grid_problems(job)[unit.start]
    setting = job.settings[s]
    channels = job.role_indices(model.spec.channels, who=f"model {name!r}")
    classes, draws = centres.ids.shape
    layer = model.spec.classification_layer
    values = np.full((classes, draws, model.spec.layers[layer]), np.nan, np.float32)
    donor = np.zeros((classes, draws), np.uint64)
    missing = np.zeros((classes, draws), np.uint8)
    bank = bank_of(job, setting)
    before, kept = kept_before(job, unit.stage)
    if setting.name in kept:
        at = kept[setting.name], b
        values = store.read(f"{before}/{layer}/embedding", *at)
        donor, missing = (store.read(f"{before}/{name}", *at) for name in ("donor", "missing"))
    for k in [] if setting.name in kept else range(classes):
        dealt = deal(job, setting, k, b - 1 if b else k)
        for part in swaps.blocks(draws, COMPOSED_AT_ONCE):
            block = centre_block(job, centres, k, part)
            drawn = None if dealt is None else dealt.take(part)
            swapped = swap(block, setting, bank, drawn, channels=channels)
            values[k, part] = features(job, model, block, swapped, setting)[layer]
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
    channels = range(len(job.channels))
    image = np.zeros(store.array("sample/image").shape, np.float32)
    missing = np.zeros(store.array("sample/missing").shape, np.uint8)
    for k in range(len(job.classes)):
        block = centre_block(job, centres, k, examples)
        for s, setting in enumerate(job.settings):
            bank = bank_of(job, setting)
            drawn = draw(job, block, setting, bank)
            swapped = swap(block, setting, bank, drawn, channels=channels)
            inside = (block.mask == CENTRE_CELL)[:, None] | (setting.mode == "unmasked")
            image[k, :, s] = np.where(inside, swapped.crops, 0)
            missing[k, :, s] = swapped.missing
    files = []
    for name, values in (
        ("image", image), ("mask", centres.mask[:, examples]), ("missing", missing)
    ):  # fmt: skip
        files += store.write(f"sample/{name}", [(0, len(job.classes))], values)
    return files, {}
