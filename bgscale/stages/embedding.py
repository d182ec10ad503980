"""Embed every cell under every setting, and the crops of experiment 1.

Synthetic crops are never stored: they are composed inside the unit, from a shard of crops and the
donor bank that the process holds.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from bgscale import embed as kernels
from bgscale import settings as swaps
from bgscale.config import ModelSection
from bgscale.distribute.units import Unit
from bgscale.errors import InputError
from bgscale.models import load_model, model_files
from bgscale.models.embedding import EmbeddingModel
from bgscale.models.engine import Engine, processor
from bgscale.schema import CENTRE_CELL, OWN_BACKGROUND, Missing
from bgscale.settings import Cells, Donors, Setting
from bgscale.stages.cells import Done, cell_ranges, shard_cells
from bgscale.stages.composing import Batches, Block, Swapped, bank_of, compose, draw, swap
from bgscale.stages.job import Bank, Job, open_job

T = TypeVar("T")
R = TypeVar("R")
COMPOSED_AT_ONCE = 512
BEFORE = "before"
FEATURE_CHUNK = 1024
SAMPLED_CELLS = 2
"""Cells of each class whose composed crops are kept for the eye."""


def model_of(text: str, name: str) -> EmbeddingModel:
    """Return a model of the job, loaded once a process and again when its file has changed."""
    job = open_job(text)
    section = job.config.models[name]
    if section.weights and not Path(section.weights).is_file():
        msg = (
            f"models.{name}.weights: no file {section.weights}; `bgscale train run.toml` writes "
            'it, weights = "" means random weights'
        )
        raise InputError(msg)
    files = [file.stat() for file in model_files(section.spec, section.weights) if file.exists()]
    version = tuple((stat.st_mtime_ns, stat.st_size, stat.st_ino) for stat in files)
    return _model_of(section, version, dict(job.engines).get(name))


@lru_cache(maxsize=4)
def _model_of(
    section: ModelSection, version: tuple[tuple[int, ...], ...], engine: Engine | None
) -> EmbeddingModel:
    if engine is not None:
        return _model_of(section, version, None).on(engine)
    return load_model(
        section.spec or section.architecture,
        weights=section.weights or None,
        seed=section.seed,
        overrides=section.overrides() or None,
    )


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


def features(
    job: Job,
    model: EmbeddingModel,
    block: Block,
    wanted: Sequence[tuple[Setting, Swapped]],
    channels: Sequence[int],
) -> list[dict[str, npt.NDArray[np.float32]]]:
    """Embed the present cells of a block under some settings; the others are NaN.

    Returns
    -------
    list of dict of str to array (cell, feature)
        By layer, for each of the settings.
    """
    found: list[dict[str, npt.NDArray[np.float32]]] = [{} for _ in wanted]
    kinds = [(setting.mode, setting.dilate_px) for setting, _ in wanted]
    for mode, pixels in dict.fromkeys(kinds):
        alike = [i for i, kind in enumerate(kinds) if kind == (mode, pixels)]
        masked = block.dilated(pixels)
        batches = Batches(job, model, masked, [wanted[i] for i in alike], channels)
        ends = np.cumsum([len(wanted[i][1].rows) for i in alike])[:-1]
        for layer, values in model.embed_batches(len(batches), batches, mode).items():
            for i, own in zip(alike, np.split(values, ends), strict=True):
                swapped = wanted[i][1]
                found[i][layer] = np.full((len(block.cells), own.shape[1]), np.nan, np.float32)
                found[i][layer][swapped.rows] = own
    return found


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
        "engine": model.engine.to_config(),
    }


def provenance(job: Job, node: str) -> dict[str, Any]:
    """Return what says of a result which model, with which weights, made its features."""
    attrs = job.store.attrs(node)
    return {key: attrs[key] for key in ("model", "random_weights", "engine")}


def check_planned(job: Job, node: str, model: EmbeddingModel) -> None:
    """Refuse to mix features of two kinds of processor, or of two weights, in one array."""
    attrs = job.store.attrs(node)
    if attrs["model"] != json.loads(json.dumps(model.spec.to_config())):
        msg = f"the weights of {node} have changed since it was planned: run with --redo"
        raise InputError(msg)
    planned, here = attrs["engine"], processor(model.engine.device)
    if planned["processor"] != here:
        msg = (
            f"{node} was planned for {planned['processor']!r}, this worker is {here!r}: their "
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
    parts = [] if lost or not new else list(swaps.blocks(n, COMPOSED_AT_ONCE))
    for part, (block, drawn) in zip(
        parts, ahead(partial(_read_and_draw, job, plate, unit.start, new), parts), strict=True
    ):
        wanted = [
            (setting, swap(block, setting, bank_of(job, setting), donors))
            for (_, setting), donors in zip(new, drawn, strict=True)
        ]
        read = features(job, model, block, wanted, channels)
        for (s, _), (_, swapped), made in zip(new, wanted, read, strict=True):
            for layer, values in made.items():
                layers[layer][part, s] = values
            for variable in _SWAP_VARIABLES:
                records[variable][part, s] = getattr(swapped, variable)
    region = [(unit.start, unit.stop)]
    files = [f for v, values in records.items() for f in store.write(f"{node}/{v}", region, values)]
    for layer, values in layers.items():
        files += store.write(f"{node}/{layer}/embedding", region, values)
    return files, {"cells": n, "settings": len(settings)}


def _read_and_draw(
    job: Job, plate: str, start: int, settings: Sequence[tuple[int, Setting]], part: slice
) -> tuple[Block, list[Donors | None]]:
    """Return some cells of a unit, and their donors under these settings."""
    table = job.cells(plate)
    rows = np.arange(start + part.start, start + part.stop)
    where = slice(rows[0], rows[-1] + 1)
    cells = table.cells.take(rows)
    # the bank's fields are those of all plates
    first = int(np.searchsorted(job.plate_of_field, job.plates.index(plate)))
    block = Block(
        replace(cells, field=cells.field + first),
        job.store.read(f"plates/{plate}/crops/image", where),
        job.store.read(f"plates/{plate}/crops/mask", where),
        cell_ranges(job, plate, table.cells.protein[rows], table.cells.field[rows]),
        table.usable[rows],
    )
    return block, [draw(job, block, setting, bank_of(job, setting)) for _, setting in settings]


def ahead(read: Callable[[T], R], items: Sequence[T]) -> Iterator[R]:
    """Yield what is read of each item, in order; the next is read while one is worked on."""
    if not items:
        return
    with ThreadPoolExecutor(1) as reader:
        following = reader.submit(read, items[0])
        for item in items[1:]:
            found = following.result()
            following = reader.submit(read, item)
            yield found
        yield following.result()


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
            swapped = swap(block, setting, bank, drawn)
            (read,) = features(job, model, block, [(setting, swapped)], channels)
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
