"""What a run will need: units, bytes on the disk, files, and memory, before it has begun.

From shapes alone; nothing is read but metadata. Where cells are not found yet, their number is
assumed. What arrays shrink to on the disk was measured on the demo's store
(`python -m bgscale.cli demo`), to be rounded up.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from bgscale.models.embedding import EmbeddingModel
from bgscale.pipeline import Stage
from bgscale.proportions import DRAWS, N_BINS
from bgscale.stages import banks, cells, fields
from bgscale.stages.embedding import cells_at_once, model_of, shards_a_unit
from bgscale.stages.gathering import found_columns
from bgscale.stages.grid import grid_problems
from bgscale.stages.job import Job
from bgscale.stages.pooling import PROTEINS_A_UNIT
from bgscale.stages.proportions import proteins_a_unit

CELLS_PER_MEGAPIXEL = 250
"""Assumed where fields are not segmented yet: real wells of yeast hold 200 to 300."""
PROCESS_BYTES = 500_000_000
"""A worker with its libraries and a small model, before any unit."""
CUDA_BYTES = 1_500_000_000
"""Assumed of a process that computes on a GPU, beside that: CUDA's context and its libraries."""
FIELDS_A_PROTEIN = 4
"""Assumed of the fields of a protein that lie in one shard of cells."""
VALUES_PER_PIXEL = 200
"""float32 values a pixel of a crop that a network of unknown layers holds at once."""
SCRATCH = 2.5
"""So many times what a network holds it takes, with the working memory of its convolutions."""
_SHRINKS = {
    "image": 0.6, "mask": 0.07, "label": 0.06, "table": 0.03, "feature": 0.9, "sum": 0.8,
    "other": 1.0,
}  # fmt: skip


@dataclass(frozen=True)
class Need:
    """What a stage needs.

    Parameters
    ----------
    units : int
    disk_bytes, files : int
        What it writes in all.
    unit_bytes : int
        Memory of one unit, beside `PROCESS_BYTES` and what the process keeps.
    """

    units: int
    disk_bytes: int
    files: int
    unit_bytes: int


@dataclass(frozen=True)
class Sizes:
    """What the needs of a screen follow from.

    Parameters
    ----------
    fields, cells : dict of str to int
        By plate.
    assumed : bool
        Whether the number of cells is assumed, not counted.
    channels, itemsize : int
    field_px, crop_px : int
        Pixels of a field (0: a crops screen), of a crop.
    """

    fields: Mapping[str, int]
    cells: Mapping[str, int]
    assumed: bool
    channels: int
    itemsize: int
    field_px: int
    crop_px: int


def sizes_of(job: Job) -> Sizes:
    """Return the sizes of a screen: counted where that is done already, else assumed."""
    screen, channels = job.screen, len(job.channels)
    if screen.kind == "crops":
        y, x = screen.crop_shape
        found = {screen.plates[0]: len(screen.items)}
        return Sizes({}, found, False, channels, screen.dtype.itemsize, 0, y * x)  # noqa: FBT003
    layout = screen.layouts[screen.plates[0]]
    field_px = layout.shape[0] * layout.shape[1]
    count = {plate: len(refs) for plate, refs in screen.fields.items()}
    cells_of, assumed = {}, False
    for plate in screen.plates:
        known = f"plates/{plate}/cells/id"
        if job.store.exists() and job.store.has(known):
            cells_of[plate] = int(job.store.array(known).shape[0])
        else:
            assumed = True
            cells_of[plate] = math.ceil(count[plate] * field_px / 1e6 * CELLS_PER_MEGAPIXEL)
    size = job.config.cells.crop_size_px
    return Sizes(count, cells_of, assumed, channels, layout.dtype.itemsize, field_px, size * size)


def needs(job: Job, stages: Sequence[Stage]) -> dict[str, Need]:
    """Return what each stage needs."""
    sizes = sizes_of(job)
    return {stage.name: _need(job, sizes, stage.name) for stage in stages}


def _need(job: Job, sizes: Sizes, name: str) -> Need:
    kind, *rest = name.split("/")
    if kind in ("segment", "labels", "measure"):
        return _of_fields(job, sizes, kind, rest[0])
    if kind in ("gather", "cut", "ranges"):
        return _of_cells(job, sizes, kind, rest[0])
    if kind == "embed":
        return _embedded(job, sizes, *rest)
    if kind == "predict":
        return _predicted(job, sizes, *rest)
    if kind in ("grid", "evaluate", "controls", "classifiers", "proportions", "reliability"):
        return _of_model(job, sizes, kind, rest[0])
    if kind in ("pooled", "shifts", "discoveries"):
        return _of_model(job, sizes, kind, rest[0])
    classes, crop = len(job.screen.classes), _crop_bytes(sizes)
    slots = bank_slots(job, sizes)
    if kind == "donors":
        # tables of one plate, and of all fields of a protein as many cells as it might give
        of_protein = math.ceil(sum(sizes.fields.values()) / len(job.screen.proteins)) or 1
        left = min(classes * max(slots) * of_protein, sum(sizes.cells.values()))
        memory = 120 * (max(sizes.cells.values()) + left)
        return Need(1, classes * sum(slots) * 40, 24, memory)
    if kind == "bank":
        units = len(banks.BANKS) * classes
        return Need(
            units, _disk(classes * sum(slots) * crop, "image"), 2 * units, max(slots) * crop
        )
    return Need(1, _disk(classes * 2 * len(job.settings) * crop * 2, "image"), 6, 50_000_000)


def bank_slots(job: Job, sizes: Sizes) -> tuple[int, int, int]:
    """Return donors, windows and centre cells of a class: what is asked for, or what there is."""
    section, classes = job.config.donors, len(job.screen.classes)
    some = math.ceil(sum(sizes.cells.values()) / classes)
    wanted = section.per_class, section.windows_per_class, job.config.classification.crops_per_class
    donors, windows, centres = (min(count, some) for count in wanted)
    return donors, windows, centres


def _crop_bytes(sizes: Sizes) -> int:
    return sizes.crop_px * (sizes.channels * sizes.itemsize + 1)


def proteins_on(job: Job, plate: str) -> int:
    """Return how many proteins a plate has."""
    if job.screen.kind == "crops":
        return len(job.screen.proteins)
    return int((np.unique(job.screen.field_proteins(plate)) >= 0).sum())


def _disk(raw: float, what: str) -> int:
    return math.ceil(raw * _SHRINKS[what])


def _of_fields(job: Job, sizes: Sizes, kind: str, plate: str) -> Need:
    count, step = sizes.fields[plate], fields.field_step(job, plate)
    units = -(-count // step)
    image = sizes.field_px * sizes.channels * sizes.itemsize
    if kind == "segment":
        labels = sizes.field_px * 2
        # the default segmenter holds some twenty float32 images of a field
        memory = step * labels + 80 * sizes.field_px + image
        return Need(units, _disk(count * labels, "label"), 2 * units, memory)
    if kind == "labels":
        # two levels each of one channel and of int32 labels, compressed as the plates are
        disk = _disk(1.25 * count * sizes.field_px * (sizes.itemsize + 1), "image")
        return Need(units, disk, 10 * count, 3 * image)
    columns = len(found_columns(job))
    table = fields.cell_room((sizes.field_px, 1)) * columns * 8
    slots = max(job.config.cells.windows_per_field, 1)
    windows = slots * sizes.crop_px * sizes.channels * sizes.itemsize
    disk = _disk(count * table, "table") + _disk(count * windows, "image")
    return Need(units, disk, 16 * units, step * (table + windows) + 40 * sizes.field_px + image)


def _of_cells(job: Job, sizes: Sizes, kind: str, plate: str) -> Need:
    count = sizes.cells[plate]
    shard = cells.shard_cells(job, count)
    shards = -(-count // shard)
    if kind == "gather":
        return Need(1, 110 * count, 20 * shards, 500 * count)
    if kind == "ranges":
        groups = proteins_on(job, plate)
        units = -(-groups // cells.RANGE_GROUPS)
        pixels = cells.RANGE_CELLS * sizes.crop_px * sizes.channels * (sizes.itemsize + 8)
        return Need(units, groups * 24, units + 3, pixels + 40 * count)
    image = sizes.crop_px * sizes.channels * sizes.itemsize
    disk = _disk(count * image, "image") + _disk(count * sizes.crop_px, "mask")
    extra = sizes.field_px * (sizes.channels * sizes.itemsize + 6)
    # of crops screens the cell table too is written here
    files = 11 if job.screen.kind == "crops" else 3
    return Need(shards, disk + 60 * count, files * shards, 2 * shard * _crop_bytes(sizes) + extra)


def _embedded(job: Job, sizes: Sizes, model: str, plate: str) -> Need:
    spec, count = model_of(job.text, model).spec, sizes.cells[plate]
    shard, settings = cells.shard_cells(job, count), len(job.settings)
    shards = -(-count // shard)
    width = sum(spec.layers.values()) * 4
    network = _network_bytes(model_of(job.text, model))
    block = _block_bytes(sizes, model_of(job.text, model), settings * width)
    disk = _disk(count * settings * width, "feature") + count * settings * 15
    # one shard is made, and of another what is written and its encoded form
    several = shards_a_unit(model_of(job.text, model))
    held = (2 if several == 1 else 3) * shard * settings * width
    bank = _bank_bytes(job, sizes)
    sent = _sent_from(model_of(job.text, model), bank)
    memory = held + block + network + bank + sent + 60 * count
    return Need(-(-shards // several), disk, (len(spec.layers) + 4) * shards, memory)


def _predicted(job: Job, sizes: Sizes, model: str, plate: str) -> Need:
    spec, count = model_of(job.text, model).spec, sizes.cells[plate]
    section, classes, settings = job.config.proportions, len(job.screen.classes), len(job.settings)
    shard = cells.shard_cells(job, count)
    shards, width = -(-count // shard), spec.layers[spec.profile_layer]
    # proteins of a shard: its share of the screen's, and those that begin or end in it
    proteins = len(job.screen.proteins)
    slots = min(proteins, math.ceil(proteins * shard / max(sum(sizes.cells.values()), 1)) + 2)
    fits = 2 * settings
    sums = classes * (classes + 2 * section.replicates + 1 + 2 * FIELDS_A_PROTEIN) * 8
    counts = (classes + 1) * N_BINS * 12
    each = settings * width * 12 + (fits + 2) * classes * 28
    panels = settings * section.folds * (1 + section.replicates) * classes * width * 8 * 2
    memory = shard * each + 3 * slots * fits * (sums + counts) + panels + 100 * count
    disk = _disk(4 * count * fits * classes, "feature") + _disk(shards * slots * fits * sums, "sum")
    return Need(shards, disk + shards * slots * fits * counts // 20, 14 * shards, memory)


def _block_bytes(sizes: Sizes, model: EmbeddingModel, features: int) -> int:
    """Return the memory of the blocks of cells that are worked on; of `features` bytes a cell."""
    at_once = cells_at_once(model)
    if model.device.type == "cpu":
        return at_once * sizes.crop_px * (sizes.channels * (sizes.itemsize + 12) + 2)
    raw, composed = at_once * _crop_bytes(sizes), 12 * sizes.crop_px * sizes.channels
    # one is read, one begun and one finished; what does not fit the window is composed here
    travels = _sent_from(model, raw) + _sent_from(model, at_once * features)
    return 3 * raw + 2 * travels + model.engine.micro_batch * composed


def _sent_from(model: EmbeddingModel, size: int) -> int:
    """Return the memory that so many bytes are sent to a GPU from: torch pins powers of two."""
    return 0 if model.device.type == "cpu" or not size else 1 << (size - 1).bit_length()


def _network_bytes(model: EmbeddingModel) -> int:
    """Return the memory of a network that runs: its weights, and a micro-batch.

    On a GPU the micro-batch lies there; the host has the weights, and what CUDA takes of it.
    """
    import torch

    from bgscale.models.layers import ConvNetwork

    network, spec = model.network, model.spec
    # as it is written, and as it runs
    weights = 8 * sum(parameter.numel() for parameter in network.parameters())
    if model.device.type != "cpu":
        return weights + CUDA_BYTES
    values = VALUES_PER_PIXEL * spec.network_crop_px**2
    if isinstance(network, ConvNetwork):
        values = network.values_at_once(len(spec.channels), spec.network_crop_px)
    crops = SCRATCH * model.engine.micro_batch
    if model.engine.backend == "openvino":
        # a micro-batch a thread, of less working memory each
        crops *= (1 + torch.get_num_threads()) / 2
    return int(weights + crops * values * 4)


def _bank_bytes(job: Job, sizes: Sizes) -> int:
    """Return the memory of the donor banks that a process keeps."""
    donors, windows, _ = bank_slots(job, sizes)
    sources = {setting.source for setting in job.settings}
    if any(section.backgrounds for section in job.config.models.values()):
        sources.add("crop")
    slots = donors * ("crop" in sources) + windows * ("window" in sources)
    return len(job.screen.classes) * slots * (_crop_bytes(sizes) + sizes.crop_px // 4)


def _of_model(job: Job, sizes: Sizes, kind: str, model: str) -> Need:
    spec = model_of(job.text, model).spec
    settings, classes = len(job.settings), len(job.screen.classes)
    draws, section = bank_slots(job, sizes)[2], job.config.proportions
    problems = len(grid_problems(job))
    folds, width = job.config.classification.folds, spec.layers[spec.classification_layer]
    crops = classes * draws * width * 4
    if kind == "grid":
        network = _network_bytes(model_of(job.text, model))
        centres = classes * draws * _crop_bytes(sizes)
        bank = _bank_bytes(job, sizes)
        sent = _sent_from(model_of(job.text, model), bank + centres // classes)
        memory = 2 * crops + network + centres + bank + sent
        return Need(problems, _disk(problems * crops, "feature"), 3 * problems, memory)
    if kind == "evaluate":
        values = settings * classes * classes * (classes + 1) * folds
        told = settings * classes * classes * (classes + 1) * 2 * draws
        fitted = classes * classes * folds * (width + 1) * 8
        inner = 8 * classes * draws * draws
        memory = 6 * crops + inner + 64 * draws * draws + 4 * fitted + told // settings
        disk = 26 * values + _disk(told, "label") + fitted // 2
        return Need(problems, disk, 6 * problems + 2, memory)
    if kind == "controls":
        values = settings * classes * classes * (classes + 1) * folds * 8
        told = settings * classes * classes * (classes + 2) * 2 * draws
        memory = 3 * (classes + 1) * crops + 3 * told // settings + 64 * draws * draws
        return Need(settings, values + _disk(told, "label"), 5 * settings, memory)
    fits = settings * (section.folds + 1) * (1 + section.replicates)
    profile = spec.layers[spec.profile_layer]
    if kind == "classifiers":
        train = min(section.cells_per_class * classes, sum(sizes.cells.values()))
        memory = train * (settings + 6) * profile * 4
        return Need(settings, 8 * fits * classes * profile, 6 * settings, memory)
    proteins, everyone = len(job.screen.proteins), sum(sizes.cells.values())
    sums = 2 * settings * proteins * classes * (classes + 2 * section.replicates + 20) * 8
    if kind == "proportions":
        units = -(-proteins // proteins_a_unit(proteins))
        # of its cells, one fit and setting at a time; of their sums, three copies
        memory = 20 * everyone + 8 * classes * everyone // units + 3 * sums // units
        return Need(units, sums, 11 * units, memory)
    counted = 2 * settings * (classes + 1) * N_BINS * 8
    if kind == "reliability":
        draws = 3 * (DRAWS + 1) * (classes + 1) * N_BINS * 8
        # of one fit, cells and their confidence; the weights of the proteins, twice
        memory = (counted + 2 * (DRAWS + 1) * 8) * proteins + draws
        return Need(1, 5 * counted, 8, memory)
    told, units = 2 * settings * proteins * 8, -(-proteins // PROTEINS_A_UNIT)
    if kind == "pooled":
        again = 2 * settings * section.replicates * classes**2 * 8
        return Need(1, 2 * told * classes + again, 11, 3 * sums // units + 12 * told * classes)
    if kind == "shifts":
        draws = 30 * 10_000 * (classes + 1) * 8
        disk = told * (13 + 6 * classes)
        return Need(units, disk, 27 * units, 3 * sums // units + 4 * told * classes + draws)
    return Need(1, 3 * told, 4, 4 * told)
