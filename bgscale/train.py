"""Fit an embedding model on a screen's own cells, with PIFiA's pretext task.

The task: which protein does this crop show? The cells come from the run store, where `run` puts
them as well, so nothing is cut twice. The trained weights are a safetensors file with their spec.
Several processes can share the parts of each step: each reads the cells, the first one writes.

References
----------
Razdaibiedina et al. (2024), PIFiA: self-supervised approach for protein functional annotation from
single-cell imaging data. Mol Syst Biol 20:521-548.
"""

import json
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from bgscale import draw
from bgscale import embed as kernels
from bgscale.config import RunConfig, TrainingSection
from bgscale.errors import ConfigError, InputError, nearest
from bgscale.models import ModelSpec, load_model
from bgscale.models.engine import best_device, check_device
from bgscale.models.fit import FitConfig, fit
from bgscale.models.invariance import OWN_PIXELS, Invariance
from bgscale.models.parts import Team, joined
from bgscale.models.start import first_weights
from bgscale.models.weights import Weights, read_weights, save_weights
from bgscale.settings import Ints
from bgscale.stages.cells import cell_ranges
from bgscale.stages.job import Job

if TYPE_CHECKING:
    from bgscale.distribute.training import Seat


@dataclass(frozen=True)
class Training:
    """What a training saw and reached.

    Parameters
    ----------
    weights : path
    cells, held_out : int
        Cells of the training fields; those of them that were held out for the early stop.
    proteins : int
        That the model tells apart.
    epochs, best : int
        Epochs that were run, and the one that was kept.
    accuracy : float or None
        On the cells held out, of the epoch that was kept; of an invariant training the mean over
        their own background and another's.
    method : str
        What was done against backgrounds; empty: nothing.
    """

    weights: Path
    cells: int
    held_out: int
    proteins: int
    epochs: int
    best: int
    accuracy: float | None
    method: str = ""

    def __str__(self) -> str:
        reached = "" if self.accuracy is None else f", {self.accuracy:.1%} of held-out cells right"
        how = f" ({self.method})" if self.method else ""
        return (
            f"trained{how} on {self.cells - self.held_out} cells of {self.proteins} proteins, "
            f"held out {self.held_out} of other fields; epoch {self.best} of {self.epochs} kept"
            f"{reached}: {self.weights}"
        )


def model_to_train(config: RunConfig) -> str:
    """Return the name of the model that `training.model` asks for.

    Raises
    ------
    ConfigError
        It is not among the models, or several are there and none is named, or it has no
        ``weights`` to write to.
    """
    names = list(config.models)
    name = config.training.model or (names[0] if len(names) == 1 else "")
    if name not in config.models:
        asked = f"training.model = {name!r}{nearest(name, names)}" if name else "training.model"
        msg = f"{asked}: expected one of the models of this config: {', '.join(names)}"
        raise ConfigError(msg)
    if config.models[name].spec:
        msg = (
            f"models.{name} is a program from a file ({config.models[name].spec}): bgscale runs "
            "such models and cannot train them; name another in training.model"
        )
        raise ConfigError(msg)
    if not config.models[name].weights:
        msg = (
            f"models.{name}.weights is empty; set it to the file that training writes and runs "
            f'read, such as weights = "{name}.safetensors"'
        )
        raise ConfigError(msg)
    return name


def training_cells(job: Job) -> tuple[Ints, list[str]]:
    """Return rows and proteins of the cells to train on.

    Usable cells of the training fields, of each protein at most ``cells_per_protein`` by hash.
    """
    section, table = job.config.training, job.everyone
    names = job.field_names
    wanted = job.in_fields(names, section.fields, "training.fields")
    rows = np.flatnonzero(table.usable & wanted[table.cells.field])
    kept = []
    proteins = np.unique(table.cells.protein[rows])
    for protein in proteins:
        own = rows[table.cells.protein[rows] == protein]
        first = draw.order(section.seed, "train", table.cells.ids[own])[: section.cells_per_protein]
        kept.append(np.sort(own[first]))
    if len(kept) < 2:
        msg = f"{len(kept)} protein has usable cells in the training fields; expected at least 2"
        raise InputError(msg)
    return np.concatenate(kept), [job.proteins[p] for p in proteins]


def fit_config(section: TrainingSection) -> FitConfig:
    """Return how the fit is done.

    Raises
    ------
    ConfigError
        More parts than a step has crops for.
    """
    how = {f.name: getattr(section, f.name) for f in fields(FitConfig) if hasattr(section, f.name)}
    return FitConfig(**how, invariance=_invariance(section))


def is_for_workers(section: TrainingSection) -> bool:
    """Whether the workers of a cluster train: several parts, or a GPU that is not here."""
    return section.parts > 1 or (section.device != "cpu" and best_device() == "cpu")


def train_seated(seat: "Seat", text: str) -> Training:
    """Train as one of the processes of a training; the leader says how far it is.

    Parameters
    ----------
    seat : Seat
    text : str
        The run config and "restart", as JSON.
    """
    values = json.loads(text)
    job = Job(RunConfig.from_dict(values["config"]))
    with ExitStack() as stack:
        device = job.config.training.device
        # before the others are met, who would be told that one of them was lost
        check_device(device)
        if device != "cpu" and (count := torch.cuda.device_count()) > 1:
            # workers that were not given a GPU each take one each
            stack.enter_context(torch.cuda.device(seat.neighbours % count))
        together = joined(
            seat.rank, seat.size, host=seat.host, port=seat.port, listener=seat.listener(),
            interface=seat.interface(), device=device, stop=seat.stopped,
        )  # fmt: skip
        team = stack.enter_context(together)
        said = seat.say if team.leads else None
        return train(job, on_epoch=said, restart=values["restart"], team=team)


def train(
    job: Job,
    *,
    on_epoch: Callable[[int, int, str], None] | None = None,
    restart: bool = False,
    team: Team | None = None,
) -> Training:
    """Train the model that the config names and write its weights.

    Goes on from the checkpoint beside the weights when it is one of the same cells and config.

    Parameters
    ----------
    job : Job
        Its store holds the cells.
    on_epoch : callable, optional
        Hears of each epoch: its number, how many there may be, and losses as text.
    restart : bool
        Forget the checkpoint.
    team : Team, optional
        The processes that share it, each of which calls this; the leader writes.
    """
    config, section, team = job.config, job.config.training, team or Team()
    name = model_to_train(config)
    model = config.models[name]
    if section.device != "cpu" and best_device() == "cpu":
        msg = f"training.device = {section.device!r}: there is no GPU here; set it to 'cpu'"
        raise ConfigError(msg)
    rows, proteins = training_cells(job)
    table, invariance = job.everyone, _invariance(section)
    first = read_weights(section.start) if section.start else None
    spec = replace(
        _untrained(job.config, name, first, len(proteins)),
        class_names=tuple(proteins),
        pixel_size_um=job.pixel_size_um or None,
    )
    method = invariance.said(spec) if invariance else ""
    origin = f"trained by bgscale on {len(rows)} cells of {len(proteins)} proteins"
    origin += f", from {first.name} ({first.sha256[:12]})" if first else ""
    spec = replace(spec, origin=f"{origin}; {method}" if method else origin)
    channels = job.role_indices(spec.channels, who=f"model {name!r}")
    images, masks = (job.read_rows(f"crops/{array}", rows) for array in ("image", "mask"))
    images, masks = kernels.fit_window(images[:, channels], masks, size_px=spec.input_size_px)
    weights = Path(model.weights)
    checkpoint = weights.with_suffix(".checkpoint")
    if team.leads:
        weights.parent.mkdir(parents=True, exist_ok=True)
        if restart:
            checkpoint.unlink(missing_ok=True)

    def tell(epoch: int, loss: float, held_out: float | None, accuracy: float | None) -> None:
        text = f"loss {loss:.3f}"
        if held_out is not None and accuracy is not None:
            text += f", held out {held_out:.3f}, {accuracy:.1%} right"
        if on_epoch is not None:
            on_epoch(epoch + 1, section.epochs, text)

    scaled = job.config.screen.intensity_scaling != "none"
    result = fit(
        images,
        np.unique(table.cells.protein[rows], return_inverse=True)[1],
        table.cells.field[rows],
        spec=spec,
        n_outputs=len(proteins),
        config=fit_config(section),
        masks=masks,
        ranges=_ranges(job, rows)[:, channels] if invariance and scaled else None,
        start=first_weights(first, spec) if first else None,
        checkpoint=checkpoint,
        on_epoch=tell,
        team=team,
    )
    if team.leads:
        save_weights(weights, result.network, result.spec)
        checkpoint.unlink(missing_ok=True)
    accuracy = result.history[result.best_epoch].validation_accuracy
    held_out = int(result.validation.sum())
    epochs, best = len(result.history), result.best_epoch + 1
    return Training(weights, len(rows), held_out, len(proteins), epochs, best, accuracy, method)


def _invariance(section: TrainingSection) -> Invariance | None:
    if not section.invariant:
        return None
    return Invariance(**{f.name: getattr(section, f.name) for f in fields(Invariance)})


def _untrained(config: RunConfig, name: str, first: Weights | None, n_outputs: int) -> ModelSpec:
    """Return the spec of the model to train: the config's, or that of its first weights."""
    model, section = config.models[name], config.training
    changes = model.overrides()
    if section.invariant:
        changes.setdefault("mask_input", section.mask_input)
        changes.setdefault("preprocess", OWN_PIXELS)
        changes.setdefault("masked_preprocess", OWN_PIXELS)
    if first is None or first.spec is None:
        return load_model(
            model.architecture, seed=section.seed, n_outputs=n_outputs, overrides=changes or None
        ).spec
    if first.spec.architecture != model.architecture:
        msg = (
            f"training.start = {section.start!r} is of the model {first.spec.architecture!r}; "
            f"expected {model.architecture!r}, as models.{name}.architecture says"
        )
        raise InputError(msg)
    plain = {"n_outputs": n_outputs, "class_names": [], "weights": "random", "weights_sha256": ""}
    return ModelSpec.from_config(first.spec.to_config() | plain | changes)


def _ranges(job: Job, rows: Ints) -> npt.NDArray[np.float32]:
    """Return the intensity range of the protein of each cell: (cell, channel, bound), float32."""
    found = np.empty((len(rows), len(job.channels), 2), np.float32)
    for plate, here, own in job.parts(rows, "cells/id"):
        cells = job.cells(plate).cells.take(own)
        found[here] = cell_ranges(job, plate, cells.protein, cells.field)
    return found
