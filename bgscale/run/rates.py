"""What an amount of each stage takes, where that was measured, and by whom.

Owns rates: seconds of one core (of one GPU) for an amount of a stage, each with its source. They
come from the records of units that are done, from a file that a user has made of a store of theirs
(`bgscale rates`), or from the file of the package, which `benchmarks/rates.py` makes. What nobody
has measured has no rate, and is said to be unknown.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import date
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from pydantic import Field

from bgscale.distribute.ledger import Ledger
from bgscale.errors import InputError, nearest
from bgscale.models.embedding import EmbeddingModel
from bgscale.models.engine import Engine, processor
from bgscale.run.amounts import UNITS
from bgscale.sections import Section
from bgscale.stages.embedding import model_of
from bgscale.stages.job import Job

if TYPE_CHECKING:
    from bgscale.run.plan import StagePlan

LOOKED_AT = 64
"""Records of a stage that are read for its rate; a proteome has a hundred thousand."""
ALIKE = 0.02
"""Networks whose multiply-adds differ by less are taken for the same."""


class StageRate(Section):
    """What an amount of one kind of stage takes of a core."""

    stage: str = Field(min_length=1, description="kind of the stage, as 'segment'")
    seconds: float = Field(ge=0, description="of one core, for one of `per`")
    per: str = Field(description="what is counted, as 'megapixel'")
    source: str = Field(min_length=1, description="where it was measured")


class NetworkRate(Section):
    """What embedding a crop takes of a core, or of a GPU."""

    architecture: str = Field(min_length=1, description="of the model")
    engine: str = Field(min_length=1, description="as 'openvino, bfloat16, on cpu'")
    device: Literal["cpu", "gpu"] = Field(description="whose seconds they are")
    multiply_adds: float | None = Field(default=None, gt=0, description="of a crop, if counted")
    seconds: float = Field(gt=0, description="of one core or GPU, for a crop")
    source: str = Field(min_length=1, description="where it was measured")


class ClusterRate(Section):
    """What distributing costs."""

    unit_seconds: float = Field(ge=0, description="scheduler and record, for each unit in turn")
    ratio: float = Field(gt=0, description="time of a cluster by that of as many lone processes")
    processes: int = Field(ge=1, description="so many were compared")
    source: str = Field(min_length=1, description="where it was measured")


class Rates(Section):
    """Rates of one machine."""

    measured: str = Field(min_length=1, description="date, as 2026-11-22")
    version: str = Field(min_length=1, description="of bgscale")
    processor: str = Field(min_length=1, description="kind of processor, or of GPU")
    made_by: str = Field(min_length=1, description="command")
    stages: tuple[StageRate, ...] = ()
    networks: tuple[NetworkRate, ...] = ()
    cluster: ClusterRate | None = None


class Found(NamedTuple):
    """A rate that holds for a stage: seconds an amount, and what to say of its source."""

    seconds: float
    source: str


@cache
def packaged() -> Rates:
    """Return the rates that come with the package."""
    text = (files("bgscale.run") / "rates.json").read_text(encoding="utf-8")
    return _checked(json.loads(text), "bgscale/run/rates.json")


def load_rates(path: str | Path) -> Rates:
    """Return the rates of a file.

    Raises
    ------
    InputError
        It cannot be read, is not JSON, or is not what `bgscale rates` writes.
    """
    advice = f"`bgscale rates STORE -o {path}` writes one from a finished store"
    try:
        values = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        msg = f"cannot read {path}: {error.strerror}; {advice}"
        raise InputError(msg) from None
    except (ValueError, RecursionError) as error:
        msg = f"{path} is not JSON: {error}; {advice}"
        raise InputError(msg) from None
    if not isinstance(values, dict):
        msg = f"{path}: got {type(values).__name__}, expected an object with 'stages'; {advice}"
        raise InputError(msg)
    return _checked(values, str(path))


def _checked(values: dict[str, Any], origin: str) -> Rates:
    found = Rates.from_dict(values, origin=origin)
    for rate in found.stages:
        if rate.stage not in UNITS:
            msg = (
                f"{origin}: unknown stage {rate.stage!r}{nearest(rate.stage, UNITS)}; expected "
                f"one of {', '.join(UNITS)}"
            )
            raise InputError(msg)
        if rate.per != UNITS[rate.stage]:
            msg = (
                f"{origin}: stage {rate.stage!r} is by {rate.per!r}; this version counts it by "
                f"{UNITS[rate.stage]!r}: measure again with `bgscale rates`"
            )
            raise InputError(msg)
    return found


def of_store(store: str, *, clock: Literal["wall", "cpu"] = "wall") -> Rates:
    """Return the rates of the units that a run store holds.

    Raises
    ------
    InputError
        It is no run store, its screen is gone or another one, or none of its units was timed.
    """
    from bgscale.config import RunConfig
    from bgscale.results import Store
    from bgscale.run.run import Run

    attrs = Store(store).attrs()
    config = RunConfig.from_dict(attrs["config"], origin=store)
    run = Run.from_config(config.model_copy(update={"store": store}))
    name = Path(store).name
    how = {"made_by": f"bgscale rates {name}", "source": name}
    found = measured(run._job, run.plan(), run.ledger, clock=clock, **how)
    if not (found.stages or found.networks):
        msg = (
            f"{store}: no unit that is done says how long it took; expected a store that this "
            "version has run, with its records beside it and the screen it was made from"
        )
        raise InputError(msg)
    return found


def measured(
    job: Job,
    plan: Sequence["StagePlan"],
    ledger: Ledger,
    *,
    made_by: str,
    source: str,
    clock: Literal["wall", "cpu"] = "wall",
) -> Rates:
    """Return what the units that are done have taken.

    A unit occupies a core for as long as it lasts, and more than one where its threads were busy; a
    GPU for as long as it lasts, whatever its host's threads did.

    Parameters
    ----------
    job : Job
    plan : sequence of StagePlan
        Of a store, with the units of it that are done.
    ledger : Ledger
    made_by, source : str
        Said of all rates; of each also how many units it is of.
    clock : {"wall", "cpu"}
        "cpu" counts the processor's time alone, so that other work on the machine does not matter;
        not of a GPU.
    """
    from bgscale import __version__

    engines: dict[str, Engine] = {}
    spent: dict[tuple[str, str], list[tuple[float, float, int]]] = {}
    for item in plan:
        how: Literal["wall", "cpu", "gpu"] = clock
        if item.amount.embeds:
            engine = dict(job.engines).get(item.amount.model, Engine())
            engines[item.amount.model] = engine
            how = clock if engine.device == "cpu" else "gpu"
        timed = _timed(item, ledger, how)
        if timed is not None:
            key = item.amount.kind, item.amount.model if item.amount.embeds else ""
            spent.setdefault(key, []).append(timed)
    stages, networks = [], []
    kinds: dict[str, None] = {}
    for (kind, model), parts in spent.items():
        seconds, work, count = (sum(column) for column in zip(*parts, strict=True))
        said = f"{source}, {count} unit{'s' * (count != 1)}"
        if kind == "embed" and seconds > 0:
            networks.append(_network_rate(model_of(job.text, model), seconds / work, said))
            kinds[engines[model].processor or processor()] = None
        elif kind != "grid":
            stages.append(
                StageRate(stage=kind, seconds=seconds / work, per=UNITS[kind], source=said)
            )
    return Rates(
        measured=date.today().isoformat(),
        version=__version__,
        processor="; ".join(({processor(): None} if stages else {}) | kinds) or processor(),
        made_by=made_by,
        stages=tuple(stages),
        networks=tuple(networks),
    )


def _timed(
    item: "StagePlan", ledger: Ledger, clock: Literal["wall", "cpu", "gpu"]
) -> tuple[float, float, int] | None:
    """Return seconds, work and number of some units of a stage; None: none of them was timed."""
    places = np.linspace(0, max(len(item.finished) - 1, 0), LOOKED_AT).astype(int).tolist()
    some = [item.finished[i] for i in sorted(set(places))] if item.finished else []
    records = [done for done in ledger.summaries(some) if "seconds" in done]
    if not records or not item.amount.work or not item.length:
        return None
    share = sum(unit.stop - unit.start for unit in some) / item.length
    seconds = sum(_seconds(done, clock) for done in records)
    return seconds, item.amount.work * share * len(records) / len(some), len(records)


def _seconds(done: Mapping[str, Any], clock: Literal["wall", "cpu", "gpu"]) -> float:
    wall, busy = float(done["seconds"]), float(done.get("cpu_seconds", 0.0))
    return {"wall": max(wall, busy), "cpu": busy, "gpu": wall}[clock]


def _network_rate(model: EmbeddingModel, seconds: float, source: str) -> NetworkRate:
    return NetworkRate(
        architecture=model.spec.architecture,
        engine=str(model.engine),
        device="gpu" if model.engine.device.startswith("cuda") else "cpu",
        multiply_adds=multiply_adds(model),
        seconds=seconds,
        source=source,
    )


def multiply_adds(model: EmbeddingModel) -> float | None:
    """Return the multiply-adds of embedding a crop; None where they cannot be counted."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    edge = model.spec.network_crop_px
    x = torch.zeros(1, model.spec.n_inputs, edge, edge)
    for weights in model.network.parameters():
        # where it has run
        x = x.to(weights.device)
        break
    try:
        with torch.inference_mode(), FlopCounterMode(display=False) as counter:
            model.network(x)
    except (RuntimeError, TypeError, ValueError, NotImplementedError):
        return None
    views = 1 if model.spec.views == "centre" else 5
    return views * counter.get_total_flops() / 2 or None


def stage_rate(kind: str, known: Sequence[Rates]) -> Found | None:
    """Return the rate of a stage in which no network runs, from the first that has it."""
    for rates in known:
        for rate in rates.stages:
            if rate.stage == kind:
                return Found(rate.seconds, rate.source)
    return None


def network_rate(
    model: EmbeddingModel, engine: Engine, device: Literal["cpu", "gpu"], known: Sequence[Rates]
) -> Found | None:
    """Return what a crop takes of a core, or of a GPU; None: nothing like it was measured.

    The same network by the same engine, from the first that has it; else by another engine; else
    the network whose multiply-adds are nearest, scaled by them. What is not the same is said.
    """
    rates = [rate for some in known for rate in some.networks if rate.device == device]
    count = multiply_adds(model) if rates else None
    alike = [r for r in rates if r.architecture == model.spec.architecture and _alike(r, count)]
    asked = str(engine)
    for rate in alike:
        if rate.engine == asked:
            return Found(rate.seconds, f"{rate.source}, {rate.engine}")
    if alike:
        # a probe takes the fastest of a GPU's; what this processor does without is slower
        near = (min if device == "gpu" else max)(alike, key=lambda rate: rate.seconds)
        said = "" if device == "gpu" else "by another engine: "
        return Found(near.seconds, f"{near.source}, {said}{near.engine}")
    counted = [(r, r.multiply_adds) for r in rates if r.multiply_adds]
    same = [(r, n) for r, n in counted if r.engine == asked] or counted
    if count is None or not same:
        return None
    rate, theirs = min(same, key=lambda pair: abs(np.log(pair[1] / count)))
    told = f"scaled by multiply-adds from {rate.architecture} ({rate.source}, {rate.engine})"
    return Found(rate.seconds * count / theirs, told)


def _alike(rate: NetworkRate, count: float | None) -> bool:
    if rate.multiply_adds is None or count is None:
        return True
    return abs(rate.multiply_adds / count - 1) < ALIKE
