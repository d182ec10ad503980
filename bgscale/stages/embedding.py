"""Embed every cell under every setting.

Synthetic crops are never stored: they are composed inside the unit, from a shard of crops and the
donor bank that the process holds.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from bgscale import embed as kernels
from bgscale import settings as swaps
from bgscale.config import ModelSection
from bgscale.distribute.ledger import Ledger
from bgscale.distribute.units import Unit
from bgscale.errors import InputError, UnitError
from bgscale.models import load_model, model_files
from bgscale.models.embedding import EmbeddingModel
from bgscale.models.engine import Engine, processor
from bgscale.results import INNER_CELLS
from bgscale.schema import Missing
from bgscale.settings import Setting
from bgscale.stages.averaging import averaged, mean, views
from bgscale.stages.batches import Batches, resident
from bgscale.stages.cells import Done, cell_ranges, shard_cells
from bgscale.stages.composing import Block, Swapped, bank_of, draw, swap
from bgscale.stages.job import Job, open_job
from bgscale.stages.overlap import ahead, behind

Shard: TypeAlias = tuple[slice, dict[str, npt.NDArray[Any]]]
"""Its rows, and its arrays by name."""
COMPOSED_AT_ONCE = 512
"""Cells whose micro-batches are composed together, on a processor."""
SHARDS_A_GPU_UNIT = 8
"""Enough that writing one shard is seldom waited for, few enough to be made again."""
BEFORE = "before"
FEATURE_CHUNK = 1024
"""Most cells of a chunk of features."""


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


@lru_cache(maxsize=8)  # three models, each as it is loaded and on its engine
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


def features(
    job: Job,
    model: EmbeddingModel,
    block: Block,
    wanted: Sequence[tuple[Setting, Swapped]],
    channels: Sequence[int],
) -> list[dict[str, npt.NDArray[np.float32]]]:
    """Embed the present cells of a block under some settings; the others are NaN.

    Where a setting is averaged over several backgrounds, features are the mean.

    Returns
    -------
    list of dict of str to array (cell, feature)
        By layer, for each of the settings.
    """
    return begin(job, model, block, wanted, channels)()


def begin(
    job: Job,
    model: EmbeddingModel,
    block: Block,
    wanted: Sequence[tuple[Setting, Swapped]],
    channels: Sequence[int],
) -> Callable[[], list[dict[str, npt.NDArray[np.float32]]]]:
    """Begin with `features`; what is returned waits for them."""
    kinds = [(setting.mode, setting.dilate_px) for setting, _ in wanted]
    begun = []
    for mode, pixels in dict.fromkeys(kinds):
        alike = [i for i, kind in enumerate(kinds) if kind == (mode, pixels)]
        masked = block.dilated(pixels)
        shown = [
            Batches(job, model, masked, view, channels)
            for view in views(job, [wanted[i] for i in alike])
        ]
        begun.append((alike, [model.begin(len(batches), batches, mode) for batches in shown]))

    def finish() -> list[dict[str, npt.NDArray[np.float32]]]:
        found: list[dict[str, npt.NDArray[np.float32]]] = [{} for _ in wanted]
        for alike, several in begun:
            ends = np.cumsum([len(wanted[i][1].rows) for i in alike])[:-1]
            for layer, values in mean(coming() for coming in several).items():
                for i, own in zip(alike, np.split(values, ends), strict=True):
                    swapped = wanted[i][1]
                    found[i][layer] = np.full((len(block.cells), own.shape[1]), np.nan, np.float32)
                    found[i][layer][swapped.rows] = own
        return found

    return finish


def feature_chunk(shard: int) -> int:
    """Return how many cells a chunk of features has, so that a shard is whole chunks.

    Examples
    --------
    >>> [feature_chunk(shard) for shard in (704, 1920, 1984, 4096)]
    [704, 960, 64, 1024]
    """
    of_rows = shard // INNER_CELLS
    most = min(FEATURE_CHUNK // INNER_CELLS, of_rows)
    return INNER_CELLS * next(n for n in range(most, 0, -1) if of_rows % n == 0)


def create_embeddings(job: Job, name: str, plate: str) -> None:
    """Create the embeddings of one model on one plate."""
    model, store = model_of(job.text, name), job.store
    node = f"plates/{plate}/embeddings/{name}"
    n = store.array(f"plates/{plate}/cells/id").shape[0]
    write = {"cell": shard_cells(job, n)}
    attrs = model_attrs(job, model, backgrounds=job.config.models[name].backgrounds)
    store.create_group(node, coords={"setting": job.config.settings}, **attrs)
    dims = {"cell": n, "setting": len(job.settings)}
    names: dict[str, Any] = {
        "donor_class": list(job.classes),
        "missing": {int(m): m.name.lower() for m in Missing},
    }
    for variable, (dtype, fill, text) in SWAP_VARIABLES.items():
        attrs = {"long_name": text} | ({"names": names[variable]} if variable in names else {})
        store.create_array(f"{node}/{variable}", dims, dtype, chunk=write, fill=fill, **attrs)
    chunk = {"cell": feature_chunk(write["cell"]), "setting": 1}
    for layer, width in model.spec.layers.items():
        store.create_group(f"{node}/{layer}", coords={"setting": job.config.settings})
        store.create_array(
            f"{node}/{layer}/embedding", {**dims, "feature": width}, "float32",
            chunk=chunk, shard=write, fill=float("nan"), long_name=f"features of layer {layer}",
        )  # fmt: skip


SWAP_VARIABLES = {
    "donor": ("uint64", 0, "identity of the donor; 0: none"),
    "donor_class": ("int16", -1, "class of the donor; -1: none"),
    "missing": ("uint8", 0, "why there is no value; 0: present"),
    "uncovered": ("int32", 0, "pixels of the donor's own centre cell that stay visible"),
}


def model_attrs(job: Job, model: EmbeddingModel, *, backgrounds: int = 0) -> dict[str, Any]:
    """Return what every output of a model says of it."""
    factor = kernels.zoom(model.spec, job.pixel_size_um)
    return {
        "model": model.spec.to_config(),
        "random_weights": model.random_weights,
        "crops_enlarged_by": factor,
        "engine": model.engine.to_config(),
        **({"backgrounds": backgrounds} if backgrounds else {}),
    }


def provenance(job: Job, node: str) -> dict[str, Any]:
    """Return what says of a result which model, with which weights, made its features."""
    attrs = job.store.attrs(node)
    # of a model that is not averaged nothing is said of backgrounds
    known = "model", "random_weights", "engine", "backgrounds"
    return {key: attrs[key] for key in known if key in attrs}


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

    They lie there while the stage is made anew with further settings. Who has read some of them
    calls `check_kept`.
    """
    node = f"{BEFORE}/{stage}"
    if not job.store.has(node):
        return node, {}
    return node, {name: i for i, name in enumerate(job.store.attrs(node)["coords"]["setting"])}


def check_kept(job: Job, before: str) -> None:
    """Raise where what `kept_before` has found was removed while it was read.

    A process that nobody has heard of for long may read it when others have done its units, too.
    Zarr reads what is gone as missing, which would be written over what they have written.
    """
    if not job.store.has(before):
        msg = f"{before} is gone: its stage was completed by others; this unit is one of theirs"
        raise UnitError(msg)


def lose_features(job: Job, unit: Unit) -> Done:
    """Mark the cells of a unit that cannot be done."""
    _, name, plate = unit.stage.split("/")
    # nothing is run: whatever the driver is, and whatever the workers are
    model, table = model_of(Job(job.config).text, name), job.cells(plate)
    step, files = shard_cells(job, len(table.cells)), []
    for start in range(unit.start, unit.stop, step):
        rows = slice(start, min(start + step, unit.stop))
        arrays = _empty(job, model, rows)
        missing = np.where(table.usable[rows], Missing.LOST, Missing.UNUSABLE)
        arrays["missing"][:] = missing[:, None]
        files += _write(job, f"plates/{plate}/embeddings/{name}", rows, arrays)
    return files, {"cells": unit.stop - unit.start, "settings": len(job.settings)}


def shards_a_unit(model: EmbeddingModel) -> int:
    """Return how many shards a unit embeds.

    A processor has one, for as many units as there are workers. A GPU is so quick that writing
    shows: it has several, and embeds the next while one is written.
    """
    return SHARDS_A_GPU_UNIT if model.device.type != "cpu" else 1


def cells_at_once(model: EmbeddingModel) -> int:
    """Return how many cells are read and composed together.

    Of a GPU so many that filling up the last micro-batch of each mode costs little.
    """
    few = 2 * model.engine.micro_batch
    return max(COMPOSED_AT_ONCE, few) if model.device.type != "cpu" else COMPOSED_AT_ONCE


def blocks_begun_ahead(model: EmbeddingModel) -> int:
    """Return how many blocks are begun before the features of one are asked for.

    A GPU goes on with the next, while its features are filled in; a processor has nothing to do
    meanwhile.
    """
    return int(model.device.type != "cpu")


def cells_a_unit(job: Job, name: str, plate: str) -> int:
    """Return how many cells of a plate a unit embeds."""
    shard = shard_cells(job, job.store.array(f"plates/{plate}/cells/id").shape[0])
    return shard * shards_a_unit(model_of(job.text, name))


def embed(job: Job, unit: Unit) -> Done:
    """Embed some shards of cells under every setting."""
    _, name, plate = unit.stage.split("/")
    node = f"plates/{plate}/embeddings/{name}"
    model, store, table = model_of(job.text, name), job.store, job.cells(plate)
    check_planned(job, node, model)
    channels = job.role_indices(model.spec.channels, who=f"model {name!r}")
    before, kept = kept_before(job, unit.stage)
    new = [s for s, setting in enumerate(job.settings) if setting.name not in kept]
    shard = shard_cells(job, len(table.cells))
    starts = range(unit.start, unit.stop, shard)
    shards = [slice(start, min(start + shard, unit.stop)) for start in starts]
    cut = [list(swaps.blocks(s.stop - s.start, cells_at_once(model))) for s in shards]
    if not new:
        cut = [[] for _ in shards]
    rows = [
        slice(whole.start + part.start, whole.start + part.stop)
        for whole, parts in zip(shards, cut, strict=True)
        for part in parts
    ]
    wanted = [job.settings[s] for s in new]
    read = partial(
        _read_and_swap, job, model, plate, wanted,
        backgrounds=job.config.models[name].backgrounds,
    )  # fmt: skip
    blocks = ahead(read, rows)

    def begun() -> Iterator[tuple[Callable[[], None], Shard | None]]:
        """Begin with block after block; with the last of a shard comes the shard."""
        for whole, parts in zip(shards, cut, strict=True):
            arrays = _empty(job, model, whole)
            for s, setting in enumerate(job.settings):
                if setting.name in kept:
                    for array, values in arrays.items():
                        values[:, s] = store.read(f"{before}/{array}", whole, kept[setting.name])
            if kept:
                check_kept(job, before)
            for part, (block, swapped) in zip(parts, blocks, strict=False):
                done = (whole, arrays) if part is parts[-1] else None
                yield _begin_block(job, model, block, new, swapped, channels, arrays, part), done
            if not parts:
                yield lambda: None, (whole, arrays)

    ledger, files = Ledger(store.location), {}

    def write(shard: Shard) -> None:
        # for good, and looked at for the record: a GPU would wait for that of all shards at the end
        files.update(ledger.settled(_write(job, node, *shard)))

    written: list[Future[None]] = []
    with ThreadPoolExecutor(1) as writer:
        for finish, done in behind(begun(), blocks_begun_ahead(model)):
            finish()
            if done is not None:
                # one is written while one is made, on a GPU two: no further one lies in memory
                for past in written:
                    past.result()
                written = [writer.submit(write, done)]
    for past in written:
        past.result()
    return files, {"cells": unit.stop - unit.start, "settings": len(job.settings)}


def _empty(job: Job, model: EmbeddingModel, rows: slice) -> dict[str, npt.NDArray[Any]]:
    """Return the arrays of some cells as if all were missing, by name."""
    shape = rows.stop - rows.start, len(job.settings)
    arrays: dict[str, npt.NDArray[Any]] = {
        f"{layer}/embedding": np.full((*shape, width), np.nan, np.float32)
        for layer, width in model.spec.layers.items()
    }
    for variable, (dtype, fill, _) in SWAP_VARIABLES.items():
        arrays[variable] = np.full(shape, fill, dtype)
    return arrays


def _begin_block(
    job: Job,
    model: EmbeddingModel,
    block: Block,
    places: Sequence[int],
    wanted: Sequence[tuple[Setting, Swapped]],
    channels: Sequence[int],
    arrays: dict[str, npt.NDArray[Any]],
    part: slice,
) -> Callable[[], None]:
    """Begin with the cells of a block under some settings; what is returned fills them in.

    The settings have these places in the arrays.
    """
    coming = begin(job, model, block, wanted, channels)

    def fill() -> None:
        for s, (_, swapped), made in zip(places, wanted, coming(), strict=True):
            for layer, values in made.items():
                arrays[f"{layer}/embedding"][part, s] = values
            for variable in SWAP_VARIABLES:
                arrays[variable][part, s] = getattr(swapped, variable)

    return fill


def _write(job: Job, node: str, rows: slice, arrays: dict[str, npt.NDArray[Any]]) -> list[str]:
    region = [(rows.start, rows.stop)]
    return [
        file
        for name, values in arrays.items()
        for file in job.store.write(f"{node}/{name}", region, values)
    ]


def _read_and_swap(
    job: Job,
    model: EmbeddingModel,
    plate: str,
    settings: Sequence[Setting],
    where: slice,
    *,
    backgrounds: int = 0,
) -> tuple[Block, list[tuple[Setting, Swapped]]]:
    """Return some cells of a plate, and where their backgrounds come from under some settings."""
    table = job.cells(plate)
    rows = np.arange(where.start, where.stop)
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
    if model.device.type != "cpu":
        # who computes need not wait while it is pinned; it travels behind the block before it
        resident(block.resident, model.device, image=block.image, mask=block.mask)
    banks = [(setting, bank_of(job, setting)) for setting in settings]
    found = [(s, swap(block, s, bank, draw(job, block, s, bank))) for s, bank in banks]
    if backgrounds:
        found = [(s, averaged(job, block, s, own, backgrounds=backgrounds)) for s, own in found]
    return block, found
