"""How each model of a run is run: as its store says, as the config asks, or as a probe finds.

Owns when an engine is chosen: once, where the model will run, when its first run begins. What was
chosen stands in the store; later runs take it from there.
"""

import os
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from bgscale.config import RunConfig
from bgscale.distribute.execute import ask
from bgscale.errors import InputError
from bgscale.models.engine import Engine, best_device, candidates, processor
from bgscale.stages.embedding import model_of
from bgscale.stages.job import Job

if TYPE_CHECKING:
    from bgscale.distribute.execute import Client

Facts = dict[str, dict[str, Any]]
"""Of each model: its engine, and the crops a second of all that were tried."""


def kept(config: RunConfig, facts: Mapping[str, Any]) -> Facts:
    """Return what the store says of models whose config still asks for that."""
    found: Facts = {}
    for name, fact in facts.items():
        section, engine = config.models.get(name), fact["engine"]
        if section is None:
            continue
        size = section.micro_batch
        asked = {key: getattr(section, key) for key in ("device", "backend", "precision")}
        same = all(wanted in ("auto", engine[key]) for key, wanted in asked.items())
        if same and (not size or size == engine["micro_batch"]):
            found[name] = dict(fact)
    return found


def expected(job: Job, name: str) -> Engine:
    """Return the engine that a probe of this machine would likely choose.

    What this machine cannot run, the workers may: whether they can is seen when they are asked.
    """
    try:
        return _candidates(job, name)[-1]
    except InputError:
        section = job.config.models[name]
        usual = {"device": "cpu", "backend": "torch", "precision": "float32"}
        asked = {key: getattr(section, key) for key in usual}
        return Engine(**usual | {key: how for key, how in asked.items() if how != "auto"})


def chosen(text: str, name: str) -> dict[str, Any]:
    """Return the fastest engine of this process's machine; runs where the model will run."""
    from bgscale.models.probe import fastest, rates
    from bgscale.stages.job import open_job

    model, job = model_of(text, name), open_job(text)
    engines = _candidates(job, name)
    fill = not job.config.models[name].micro_batch
    # the only one that a processor has is taken untried
    alone = len(engines) == 1 and engines[0].device == "cpu"
    found = {engines[0]: 0.0} if alone else rates(model, engines, fill=fill)
    speeds = {str(engine): round(rate, 1) for engine, rate in found.items() if rate}
    return {"engine": fastest(found).to_config(), "crops_per_s": speeds}


def choose(
    job: Job,
    names: Sequence[str],
    client: "Client | None",
    resources: Mapping[str, float] | None,
) -> Facts:
    """Return the engines of some models, tried where they will run.

    Raises
    ------
    InputError
        A worker that should have a GPU sees none; or none of a model's engines can run it there.
    """
    text, found = Job(job.config).text, {}
    for name in names:
        needed = None if job.config.models[name].device == "cpu" else resources
        if needed:
            ask(client, check_gpu, name, resources=needed)
        found[name] = ask(client, chosen, text, name, resources=needed)
    return found


def check_gpu(name: str) -> None:
    """Raise where this process is a worker that should have a GPU, and sees none."""
    if best_device() != "cpu":
        return
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    told = "is not set" if visible is None else f"= {visible!r}"
    msg = (
        f"a worker on {platform.node()} should have a GPU, but torch {version('torch')} sees none "
        f"there (CUDA_VISIBLE_DEVICES {told}): give it a torch with CUDA and a GPU, or set "
        f'models.{name}.device = "cpu"'
    )
    raise InputError(msg)


def needed_by(job: Job, name: str, gpu: Mapping[str, float] | None) -> Mapping[str, float] | None:
    """Return what a worker must have to run a model: a GPU, unless it runs on a processor."""
    return None if dict(job.engines)[name].device == "cpu" else gpu


def fits_here(fact: Mapping[str, Any]) -> bool:
    """Whether an engine was chosen for a processor like this one."""
    engine = Engine.from_config(fact["engine"])
    if engine.device != "cpu" and best_device() == "cpu":
        return False
    return processor(engine.device) == engine.processor


def said(name: str, fact: Mapping[str, Any]) -> str:
    """Return the choice in words."""
    engine = Engine.from_config(fact["engine"])
    speeds = [f"{rate:,.0f} crops/s {how}" for how, rate in fact["crops_per_s"].items()]
    tried = f" (tried: {'; '.join(speeds)})" if len(speeds) > 1 else ""
    return f"model {name!r} is run by {engine}{tried}"


def _candidates(job: Job, name: str) -> list[Engine]:
    section = job.config.models[name]
    device = best_device() if section.device == "auto" else section.device
    plain = model_of(Job(job.config).text, name)
    return candidates(plain, backend=section.backend, precision=section.precision, device=device)
