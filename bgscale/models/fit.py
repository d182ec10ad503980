"""Fit a network to PIFiA's pretext task: to tell which protein a crop shows.

Owns the schedule, early stop and the checkpoint. Refuses to own where crops come from and where
weights go: arrays in, a network out. The one idea: every random choice is a function of (seed,
epoch), so an epoch can be repeated after an interruption, and a resumed fit ends with the same bits
as one that was never stopped. That holds for one device and one number of torch threads, since
training, unlike inference, depends on them: both are in the config.
"""

import hashlib
import io
import json
import math
import os
import pickle
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, astuple, dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from bgscale.draw import digest64
from bgscale.errors import ConfigError, InputError
from bgscale.models import MODELS
from bgscale.models.batches import BoolArray, Crops, IntArray, balanced, split_by_group
from bgscale.models.embedding import EmbeddingModel, check_masks
from bgscale.models.invariance import Invariance, Lenders, check_ranges
from bgscale.models.layers import build_network
from bgscale.models.objective import Objective
from bgscale.models.spec import ModelSpec
from bgscale.models.weights import load_state

__all__ = ["Epoch", "FitConfig", "FitResult", "fit", "split_by_group"]

WARM_UP_FRACTION = 0.2
"""Share of the steps in which the learning rate rises; then it falls to zero as a cosine."""

OnEpoch: TypeAlias = Callable[[int, float, float | None, float | None], None]


@dataclass(frozen=True, kw_only=True)
class FitConfig:
    """How a network is fitted; all of it can change the weights.

    Parameters
    ----------
    epochs : int
        Passes over the training cells, at most.
    batch_size : int
        Crops a step.
    learning_rate : float
        Peak of the schedule.
    weight_decay : float
        Decoupled, AdamW's.
    patience : int
        Stop after so many epochs without a lower validation loss.
    validation_fraction : float
        Share of each class's fields held out, in [0, 1).
    seed : int
        Of first weights, split, batches and augmentation.
    threads : int
        Torch threads: set for the fit, then put back. A small network gains little from more, and
        loses tenfold where the cores are shared.
    device : str
        Where it runs. The promise of equal bits is for "cpu".
    invariance : Invariance, optional
        How the network is kept from reading backgrounds; None: it may read them.
    """

    epochs: int = 30
    batch_size: int = 64
    learning_rate: float = 3e-3
    weight_decay: float = 1e-4
    patience: int = 8
    validation_fraction: float = 0.2
    seed: int = 0
    threads: int = 1
    device: str = "cpu"
    invariance: Invariance | None = None

    def __post_init__(self) -> None:
        bounds = {"epochs": 1, "batch_size": 2, "patience": 1, "threads": 1}
        for name, low in bounds.items():
            if getattr(self, name) < low:
                msg = f"FitConfig: {name} = {getattr(self, name)}; expected {low} or more"
                raise ConfigError(msg)
        if not 0 <= self.validation_fraction < 1:
            msg = f"FitConfig: validation_fraction = {self.validation_fraction}; expected [0, 1)"
            raise ConfigError(msg)


@dataclass(frozen=True)
class Epoch:
    """One line of a fit's history; no validation field, no validation figures."""

    epoch: int
    train_loss: float
    validation_loss: float | None
    validation_accuracy: float | None


@dataclass(frozen=True)
class FitResult:
    """A fitted network in evaluation mode, its spec, and how it came about.

    `validation` (n,), bool, marks the cells that were held out; `best_epoch` is the one whose
    weights were kept: of the lowest validation loss, or the last where nothing was held out.
    """

    network: nn.Module
    spec: ModelSpec
    history: tuple[Epoch, ...]
    best_epoch: int
    validation: BoolArray


def fit(
    images: npt.NDArray[Any],
    targets: npt.ArrayLike,
    groups: npt.ArrayLike,
    *,
    spec: ModelSpec,
    n_outputs: int,
    config: FitConfig | None = None,
    masks: npt.NDArray[Any] | None = None,
    ranges: npt.NDArray[np.float32] | None = None,
    start: Mapping[str, Tensor] | None = None,
    checkpoint: str | Path | None = None,
    on_epoch: OnEpoch | None = None,
) -> FitResult:
    """Fit the network of `spec` to tell the classes of crops apart.

    Parameters
    ----------
    images : array (n, channel, y, x), uint16 or float32, camera counts
        The spec's channels, in its order.
    targets : array (n,), int, [0, n_outputs)
        Class of each cell: its protein.
    groups : array (n,), int64
        Field of each cell; whole fields are held out.
    spec : ModelSpec
    n_outputs : int
        Number of classes.
    config : FitConfig, optional
    masks : array (n, y, x), uint8 or bool, optional
        1, or True, in the centre cell, 2 in others; for a spec that reads it, and to swap
        backgrounds.
    ranges : array (n, channel, 2), float32, optional
        Intensity range of the protein of each cell, by which lent backgrounds are scaled; None:
        they keep their counts.
    start : mapping of str to tensor, optional
        First weights; by default random ones of `config.seed`.
    checkpoint : path, optional
        Written after every epoch; a fit of the same crops and config goes on from it.
    on_epoch : callable, optional
        Called with epoch, training loss, validation loss and validation accuracy.

    Returns
    -------
    FitResult
    """
    config = config or FitConfig()
    target, group = np.asarray(targets, np.int64), np.asarray(groups, np.int64)
    spec = replace(spec, n_outputs=n_outputs, seed=config.seed)
    _check(images, target, group, masks, spec)
    check_ranges(ranges, images.shape[:2])
    if config.invariance is not None and masks is None:
        msg = "fit: no masks; to swap backgrounds, it must be known where the centre cells are"
        raise InputError(msg)
    held_out = split_by_group(target, group, config.validation_fraction, config.seed)
    data = Crops(images, masks, target, config.device, ranges)
    train, held = (Lenders(np.flatnonzero(which), target, group) for which in (~held_out, held_out))
    objective = Objective(data, train, held, spec, config.invariance, config.seed)
    network = build_network(MODELS[spec.architecture], spec)
    if start is not None:
        load_state(network, start, "first weights")
    state = _Fit(EmbeddingModel(spec, network, config.device), config)
    token = ""
    if checkpoint is not None:
        token = _token(images, target, group, masks, ranges, spec, config, start)
        state.read(Path(checkpoint), token)
    with _torch_threads(config.threads):
        while not state.finished():
            line = _epoch(state, objective)
            state.add(line)
            if checkpoint is not None:
                state.write(Path(checkpoint), token)
            if on_epoch is not None:
                on_epoch(*astuple(line))
    network.load_state_dict(state.best)
    spec = replace(spec, weights="fitted")
    return FitResult(network.eval(), spec, tuple(state.history), state.best_epoch, held_out)


class _Fit:
    """The state of a fit between two epochs; all of it goes into the checkpoint."""

    def __init__(self, model: EmbeddingModel, config: FitConfig) -> None:
        self.model, self.network, self.config = model, model.network, config
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
        )
        self.history: list[Epoch] = []
        self.best: dict[str, Tensor] = {}
        self.best_epoch = -1

    def finished(self) -> bool:
        """Whether the last epoch is done, or patience has run out."""
        done = len(self.history)
        validated = done > 0 and self.history[-1].validation_loss is not None
        out_of_patience = validated and done - 1 - self.best_epoch >= self.config.patience
        return done >= self.config.epochs or out_of_patience

    def add(self, line: Epoch) -> None:
        """Append an epoch; keep its weights if none before had a lower validation loss."""
        best = self.history[self.best_epoch].validation_loss if self.history else None
        self.history.append(line)
        if line.validation_loss is None or best is None or line.validation_loss < best:
            self.best_epoch = line.epoch
            self.best = {k: v.detach().clone() for k, v in self.network.state_dict().items()}

    def write(self, path: Path, token: str) -> None:
        """Replace the checkpoint as a whole."""
        content = {
            "token": token,
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "best": self.best,
            "best_epoch": self.best_epoch,
            "history": [asdict(line) for line in self.history],
        }
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            # written by Python: a full disk is then an OSError that says so
            buffer = io.BytesIO()
            torch.save(content, buffer)
            temporary.write_bytes(buffer.getbuffer())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)

    def read(self, path: Path, token: str) -> None:
        """Go on from a checkpoint, if there is one; refuse one of another fit."""
        if not path.exists():
            return
        try:
            content = torch.load(path, map_location=self.config.device, weights_only=True)
            same = content["token"] == token
        except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError, TypeError) as error:
            msg = f"checkpoint {path} cannot be read ({error}): delete it to start afresh"
            raise InputError(msg) from error
        if not same:
            msg = (
                f"checkpoint {path} belongs to a fit of other crops, another model or another "
                f"config: delete it to start afresh"
            )
            raise InputError(msg)
        self.network.load_state_dict(content["network"])
        self.optimizer.load_state_dict(content["optimizer"])
        self.best, self.best_epoch = content["best"], content["best_epoch"]
        self.history = [Epoch(**line) for line in content["history"]]


def _epoch(state: _Fit, objective: Objective) -> Epoch:
    epoch, config = len(state.history), state.config
    rng = np.random.Generator(np.random.Philox(key=digest64(config.seed, "epoch", epoch)))
    rows = balanced(np.sort(objective.train.rows), objective.data.targets, rng)
    batches = np.array_split(rows, -(-len(rows) // config.batch_size))
    n_steps = config.epochs * len(batches)
    state.network.train()
    losses = []
    for i, batch in enumerate(batches):
        share = _schedule((epoch * len(batches) + i + 0.5) / n_steps)
        for options in state.optimizer.param_groups:
            options["lr"] = config.learning_rate * share
        loss = objective.loss(state.network, batch, epoch, rng)
        state.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        state.optimizer.step()
        losses.append(loss.item() * len(batch))
    train_loss = math.fsum(losses) / len(rows)
    if not math.isfinite(train_loss):
        msg = f"training loss is {train_loss} in epoch {epoch}: lower learning_rate"
        raise InputError(msg)
    return Epoch(epoch, train_loss, *objective.validate(state.model))


def _schedule(progress: float) -> float:
    """Return the share of the peak learning rate at `progress` in (0, 1)."""
    if progress < WARM_UP_FRACTION:
        return progress / WARM_UP_FRACTION
    return 0.5 * (1 + math.cos(math.pi * (progress - WARM_UP_FRACTION) / (1 - WARM_UP_FRACTION)))


@contextmanager
def _torch_threads(n: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _token(
    images: npt.NDArray[Any],
    targets: IntArray,
    groups: IntArray,
    masks: npt.NDArray[Any] | None,
    ranges: npt.NDArray[np.float32] | None,
    spec: ModelSpec,
    config: FitConfig,
    start: Mapping[str, Tensor] | None,
) -> str:
    """Return a hash of everything that can change the weights."""
    how = asdict(config)
    if config.invariance is None:
        del how["invariance"]
    digest = hashlib.sha256(json.dumps([spec.to_config(), how], sort_keys=True).encode())
    arrays = [images, targets, groups] + ([] if masks is None else [masks])
    if ranges is not None and config.invariance is not None:
        arrays.append(ranges)
    arrays += [v.detach().cpu().numpy() for v in (start or {}).values()]
    for array in arrays:
        digest.update(f"{array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _check(
    images: npt.NDArray[Any],
    targets: IntArray,
    groups: IntArray,
    masks: npt.NDArray[Any] | None,
    spec: ModelSpec,
) -> None:
    size = spec.input_size_px
    expected = (len(targets), len(spec.channels), size, size)
    if images.shape != expected:
        msg = f"fit: images have shape {images.shape}; expected {expected} (cell, channel, y, x)"
        raise InputError(msg)
    if groups.shape != targets.shape:
        msg = f"fit: groups have shape {groups.shape}; expected {targets.shape}, as targets"
        raise InputError(msg)
    if masks is not None:
        check_masks(masks, (len(targets), size, size))
    if len(np.unique(targets)) < 2:
        msg = f"fit: {len(np.unique(targets))} class in {len(targets)} crops; expected two or more"
        raise InputError(msg)
    if targets.min() < 0 or targets.max() >= spec.n_outputs:
        msg = f"fit: targets span {targets.min()}..{targets.max()}; expected [0, {spec.n_outputs})"
        raise InputError(msg)
