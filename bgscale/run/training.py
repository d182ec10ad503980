"""Fit an embedding model on a screen's cells: cut them, as far as need be, then train."""

import json
from typing import TYPE_CHECKING

from bgscale.config import RunConfig
from bgscale.distribute.listener import Silent
from bgscale.distribute.training import together
from bgscale.progress import Narrator
from bgscale.run.run import Run
from bgscale.train import (
    Training,
    fit_config,
    is_for_workers,
    model_to_train,
    train,
    train_seated,
)

if TYPE_CHECKING:
    from bgscale.distribute.execute import Client


def train_model(
    config: RunConfig,
    client: "Client | None" = None,
    *,
    listener: Narrator | None = None,
    restart: bool = False,
    redo: bool = False,
) -> Training:
    """Cut the screen's cells, as far as that is not done, and fit a model on them.

    Parameters
    ----------
    config : RunConfig
        ``training`` says which model, on which fields, how long.
    client : distributed.Client, optional
        Its workers cut cells. Where ``training.parts`` is more than 1 they also share the fit, one
        part or more each; so they do where it needs a GPU and there is none here. Else the fit
        runs here.
    listener : Narrator, optional
    restart : bool
        Forget the checkpoint of an earlier training.
    redo : bool
        Cut the cells anew where another config has cut them.

    Raises
    ------
    InterruptedRunError
        A worker was lost while they trained: the checkpoint is kept, and with any number of
        workers, or none, the next call goes on from it to the same weights.
    """
    name = model_to_train(config)
    fit_config(config.training)
    untrained = config.models[name].model_copy(update={"weights": ""})
    run = Run.from_config(config.model_copy(update={"models": {name: untrained}}))
    # what is lent is scaled by the range of its protein
    until = "ranges" if config.training.invariant else "cut"
    run.execute(client, redo=redo, listener=listener, until=until)
    hear = listener.epoch_done if listener else None
    if client is None or not is_for_workers(config.training):
        return train(run.plain_job(config), restart=restart, on_epoch=hear)
    return together(
        client,
        train_seated,
        json.dumps({"config": config.to_config(), "restart": restart}),
        most=config.training.parts,
        gpu=config.training.device != "cpu",
        tell=(listener or Silent()).notice,
        hear=hear,
    )
