"""How each model of a run is run: as its store says, as the config asks, or as a probe finds.

Owns when an engine is chosen: once, where the model will run, when its first run begins. What was
chosen stands in the store; later runs take it from there.
"""

from collections.abc import Mapping, Sequence
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
        asked = {"backend": section.backend, "precision": section.precision}
        same = all(wanted in ("auto", engine[key]) for key, wanted in asked.items())
        if same and (not size or size == engine["micro_batch"]):
            found[name] = dict(fact)
    return found


def expected(job: Job, name: str) -> Engine:
    """Return the engine that a probe of this machine would likely choose.

    What this machine cannot run, the workers may: whether they can is seen when they are asked.
    """
    try:
        return _candidates(job, name, best_device())[-1]
    except InputError:
        section = job.config.models[name]
        backend = "torch" if section.backend == "auto" else section.backend
        precision = "float32" if section.precision == "auto" else section.precision
        return Engine(backend=backend, precision=precision)


def chosen(text: str, name: str) -> dict[str, Any]:
    """Return the fastest engine of this process's machine; runs where the model will run."""
    from bgscale.models.probe import fastest, rates
    from bgscale.stages.job import open_job

    model, job = model_of(text, name), open_job(text)
    engines = _candidates(job, name, best_device())
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
    """Return the engines of some models, tried where they will run."""
    text = Job(job.config).text
    return {name: ask(client, chosen, text, name, resources=resources) for name in names}


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


def _candidates(job: Job, name: str, device: str) -> list[Engine]:
    section = job.config.models[name]
    plain = model_of(Job(job.config).text, name)
    return candidates(plain, backend=section.backend, precision=section.precision, device=device)
