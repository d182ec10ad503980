"""Fit an embedding model on a screen's cells: cut them, as far as need be, then train."""

from typing import TYPE_CHECKING

from bgscale.config import RunConfig
from bgscale.progress import Narrator
from bgscale.run.run import Run
from bgscale.train import Training, model_to_train, train

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
        Cuts cells; the fit runs here.
    listener : Narrator, optional
    restart : bool
        Forget the checkpoint of an earlier training.
    redo : bool
        Cut the cells anew where another config has cut them.
    """
    name = model_to_train(config)
    untrained = config.models[name].model_copy(update={"weights": ""})
    run = Run.from_config(config.model_copy(update={"models": {name: untrained}}))
    # what is lent is scaled by the range of its protein
    until = "ranges" if config.training.invariant else "cut"
    run.execute(client, redo=redo, listener=listener, until=until)
    job = run.plain_job(config)
    return train(job, restart=restart, on_epoch=listener.epoch_done if listener else None)
