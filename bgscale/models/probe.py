"""Which engine is the fastest here: each runs a few micro-batches.

Owns the measurement and the choice. The one idea: of engines in the order from exact to less so, a
less exact one must be worth it, so that noise does not decide between equals.
"""

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch

from bgscale.errors import InputError
from bgscale.models.embedding import EmbeddingModel
from bgscale.models.engine import Engine

WORTH = 1.1
"""So many times faster, or the engine before it stays."""

PROBE_S = 0.5
PASSES_AT_MOST = 20
LARGEST_MICRO_BATCH = 2048
SHARE_OF_FREE_MEMORY = 0.5


def rates(
    model: EmbeddingModel, engines: Sequence[Engine], *, fill: bool = False
) -> dict[Engine, float]:
    """Return crops a second of each engine, from counts to features; 0: it cannot run the model.

    Parameters
    ----------
    model : EmbeddingModel
    engines : sequence of Engine
    fill : bool
        Try each with as many crops a pass as a GPU has memory for: those are returned.

    Raises
    ------
    InputError
        None of them can run the model here; it says why.
    """
    found, why = {}, []
    for engine in engines:
        ready, rate = engine, 0.0
        try:
            ready = sized(model, engine) if fill else engine
            rate = _rate(model.on(ready))
        # torch's: no memory, no kernel for this, and all that its compiler raises
        except (InputError, RuntimeError) as error:
            said = str(error).strip().splitlines() or [type(error).__name__]
            why.append(f"by {engine} ({said[0]})")
        found[ready] = rate
        _forget(engine)
    if not any(found.values()):
        msg = f"model {model.spec.architecture!r} cannot be run here {'; '.join(why)}"
        raise InputError(msg)
    return found


def fastest(found: Mapping[Engine, float]) -> Engine:
    """Return the engine to take, of some in the order from exact to less exact.

    Examples
    --------
    >>> exact, other = Engine(), Engine(backend="openvino")
    >>> fastest({exact: 100.0, other: 105.0}) == exact
    True
    >>> fastest({exact: 100.0, other: 150.0}) == other
    True
    """
    (best, rate), *others = found.items()
    for engine, crops_per_s in others:
        if crops_per_s > WORTH * rate:
            best, rate = engine, crops_per_s
    return best


def _rate(model: EmbeddingModel) -> float:
    size, edge = model.engine.micro_batch, model.spec.input_size_px
    shape = size, len(model.spec.channels), edge, edge
    # any picture will do, as long as it is not flat
    crops = (torch.arange(size * shape[1] * edge * edge) % 4093).float().view(shape)
    crops = crops.to(model.device)
    inside = None
    if model.reads_mask("unmasked"):
        inside = torch.ones((size, edge, edge), dtype=torch.bool, device=model.device)
    model.forward(crops, inside, "unmasked")
    passes: list[float] = []
    while len(passes) < PASSES_AT_MOST and sum(passes) < PROBE_S:
        started = time.perf_counter()
        read = model.forward(crops, inside, "unmasked")
        _ = next(iter(read.values())).cpu()
        passes.append(time.perf_counter() - started)
    return size / statistics.median(passes)


def sized(model: EmbeddingModel, engine: Engine) -> Engine:
    """Return the engine with as many crops a pass as a GPU has memory for; of processors as it is.

    A program from a file keeps its own: it may be fixed.
    """
    if not engine.device.startswith("cuda") or model.runs_as_is:
        return engine
    torch.cuda.reset_peak_memory_stats(engine.device)
    before = torch.cuda.memory_allocated(engine.device)
    _rate(model.on(engine))
    needed = torch.cuda.max_memory_allocated(engine.device) - before
    _forget(engine)
    free, _ = torch.cuda.mem_get_info(engine.device)
    return replace(engine, micro_batch=fitting(free, needed / engine.micro_batch))


def _forget(engine: Engine) -> None:
    """Give back the memory of a GPU that torch keeps for later."""
    if engine.device.startswith("cuda"):
        torch.cuda.empty_cache()


def fitting(free_bytes: float, bytes_per_crop: float) -> int:
    """Return the number of crops a pass, a power of two.

    Examples
    --------
    >>> fitting(8e9, 10e6)
    256
    """
    most = SHARE_OF_FREE_MEMORY * free_bytes / bytes_per_crop
    size = 64
    while 2 * size <= min(most, LARGEST_MICRO_BATCH):
        size *= 2
    return size
