"""Fit a network to PIFiA's pretext task: to tell which protein a crop shows.

Owns the schedule, early stop and the checkpoint. Refuses to own where crops come from and where
weights go: arrays in, a network out. The one idea: every random choice is a function of (seed,
epoch), so an epoch can be repeated after an interruption, and a resumed fit ends with the same bits
as one that was never stopped. That holds for one device, one number of torch threads and one number
of parts of a step, since training, unlike inference, depends on them: all are in the config. How
many processes share the parts changes nothing: `parts.py`.
"""

import hashlib
import io
import json
import math
import os
import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from bgscale.draw import digest64
from bgscale.errors import ConfigError, InputError
from bgscale.models import MODELS
from bgscale.models.backends import moved, torch_threads
from bgscale.models.batches import BoolArray, Crops, IntArray, balanced, split_by_group
from bgscale.models.embedding import EmbeddingModel, check_masks
from bgscale.models.engine import processor
from bgscale.models.invariance import Invariance, Lenders, check_ranges
from bgscale.models.layers import build_network
from bgscale.models.objective import Objective
from bgscale.models.parts import Team, gradients
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
        Where it runs, all of it. The promise of equal bits is for "cpu".
    invariance : Invariance, optional
        How the network is kept from reading backgrounds; None: it may read them.
    parts : int
        Each step is the mean of so many parts of its batch, which processes can share.
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
    parts: int = 1

    def __post_init__(self) -> None:
        bounds = {"epochs": 1, "batch_size": 2, "patience": 1, "threads": 1, "parts": 1}
        for name, low in bounds.items():
            if getattr(self, name) < low:
                msg = f"FitConfig: {name} = {getattr(self, name)}; expected {low} or more"
                raise ConfigError(msg)
        if not 0 <= self.validation_fraction < 1:
            msg = f"FitConfig: validation_fraction = {self.validation_fraction}; expected [0, 1)"
            raise ConfigError(msg)
        if 2 * self.parts > self.batch_size:
            msg = (
                f"parts = {self.parts} of a step with batch_size = {self.batch_size}: expected 2 "
                "crops or more in each; lower parts or raise batch_size"
            )
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
    team: Team | None = None,
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
    team : Team, optional
        The processes that share the parts of each step, all of which call this with the same
        arguments; the leader alone reads and writes the checkpoint. By default this one is alone.

    Returns
    -------
    FitResult
        The same in every process.
    """
    config, team = config or FitConfig(), team or Team()
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
    # before the optimiser, whose state lies where the weights do
    moved(network, config.device)
    state = _Fit(EmbeddingModel(spec, network, config.device), config)
    token = ""
    if checkpoint is not None or team.size > 1:
        token = _token(images, target, group, masks, ranges, spec, config, start)
    mine = Path(checkpoint) if checkpoint is not None and team.leads else None
    if mine is not None:
        state.read(mine, token)
    if team.size > 1:
        _begin_together(state, token, team)
    with torch_threads(config.threads):
        while not state.finished():
            line = _epoch(state, objective, team)
            state.add(line)
            if mine is not None:
                state.write(mine, token)
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

    def packed(self, token: str) -> memoryview:
        """Return the state as the content of a checkpoint."""
        content = {
            "token": token,
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "best": self.best,
            "best_epoch": self.best_epoch,
            "history": [asdict(line) for line in self.history],
        }
        buffer = io.BytesIO()
        torch.save(content, buffer)
        return buffer.getbuffer()

    def take(self, content: Mapping[str, Any]) -> None:
        """Go on from an opened checkpoint."""
        self.network.load_state_dict(content["network"])
        self.optimizer.load_state_dict(content["optimizer"])
        self.best, self.best_epoch = content["best"], content["best_epoch"]
        self.history = [Epoch(**line) for line in content["history"]]

    def write(self, path: Path, token: str) -> None:
        """Replace the checkpoint as a whole."""
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            # written by Python: a full disk is then an OSError that says so
            temporary.write_bytes(self.packed(token))
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
        self.take(content)


def _begin_together(state: _Fit, token: str, team: Team) -> None:
    """Let all begin where the leader does, and refuse if they would not do the same."""
    team.meet()
    kind = processor(state.config.device)
    team.check_alike({"cells, model and config": token[:12], "kind of processor": kind})
    content = team.from_leader(bytes(state.packed(token)) if team.leads else b"")
    if not team.leads:
        where = state.config.device
        state.take(torch.load(io.BytesIO(content), map_location=where, weights_only=True))


def _epoch(state: _Fit, objective: Objective, team: Team) -> Epoch:
    epoch, config = len(state.history), state.config
    rng, *more = (
        np.random.Generator(np.random.Philox(key=digest64(config.seed, "epoch", epoch, *part)))
        for part in [(), *((n,) for n in range(1, config.parts))]
    )
    rows = balanced(np.sort(objective.train.rows), objective.data.targets, rng)
    batches = np.array_split(rows, -(-len(rows) // config.batch_size))
    _check_parts(batches, config)
    n_steps = config.epochs * len(batches)
    state.network.train()
    losses = []
    for i, batch in enumerate(batches):
        share = _schedule((epoch * len(batches) + i + 0.5) / n_steps)
        for options in state.optimizer.param_groups:
            options["lr"] = config.learning_rate * share
        cells = np.array_split(batch, config.parts)
        # a part has its own stream: whether others are done here as well does not move it
        parts = [
            partial(objective.loss, state.network, own, epoch, stream)
            for own, stream in zip(cells, [rng, *more], strict=True)
        ]
        loss = gradients(state.network, parts, [len(own) / len(batch) for own in cells], team)
        state.optimizer.step()
        losses.append(loss * len(batch))
    train_loss = math.fsum(losses) / len(rows)
    if not math.isfinite(train_loss):
        msg = f"training loss is {train_loss} in epoch {epoch}: lower learning_rate"
        raise InputError(msg)
    found = objective.validate(state.model) if team.leads else (None, None)
    # who was told to stop meanwhile has left, and would be waited for
    team.go_on()
    team.meet()
    found = json.loads(team.from_leader(json.dumps(found).encode()))
    return Epoch(epoch, train_loss, *found)


def _check_parts(batches: Sequence[IntArray], config: FitConfig) -> None:
    smallest = min(len(batch) for batch in batches)
    if config.parts > 1 and smallest < 2 * config.parts:
        msg = (
            f"parts = {config.parts}, but a step has {smallest} crops: expected 2 or more in each "
            "part; lower parts"
        )
        raise InputError(msg)


def _schedule(progress: float) -> float:
    """Return the share of the peak learning rate at `progress` in (0, 1)."""
    if progress < WARM_UP_FRACTION:
        return progress / WARM_UP_FRACTION
    return 0.5 * (1 + math.cos(math.pi * (progress - WARM_UP_FRACTION) / (1 - WARM_UP_FRACTION)))


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
    if config.parts == 1:
        del how["parts"]
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
