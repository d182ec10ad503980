"""What a run takes is said with the source of each rate; what nobody measured is not made up."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from screens import plates_config, write_plate_screen

from bgscale.cli import main
from bgscale.cli.root import EXIT_BAD_INPUT
from bgscale.config import RunConfig, template
from bgscale.distribute.ledger import Ledger
from bgscale.errors import BgscaleError, InputError
from bgscale.models import load_model
from bgscale.models.engine import Engine
from bgscale.run import Run, costs
from bgscale.run.amounts import UNITS, Amount
from bgscale.run.costs import Cost, Costs, Machine, asked_machine, hours, seconds_on, sheet
from bgscale.run.estimate import Need
from bgscale.run.plan import StagePlan
from bgscale.run.rates import (
    ClusterRate,
    Found,
    NetworkRate,
    Rates,
    StageRate,
    load_rates,
    measured,
    multiply_adds,
    network_rate,
    of_store,
    packaged,
    stage_rate,
)
from bgscale.stages.job import Job

ABOUT = {"measured": "2026-01-01", "version": "1", "processor": "x", "made_by": "a test"}


def rates_of(**values: Any) -> Rates:
    return Rates(**{**ABOUT, **values})


def network(name: str, engine: str = "torch, float32, on cpu", **values: Any) -> NetworkRate:
    device = "cpu" if engine.endswith("cpu") else "gpu"
    some = {"seconds": 0.5, "source": f"of {name}", **values}
    return NetworkRate(architecture=name, engine=engine, device=device, **some)


def cost(
    seconds: float | None, *, units: int = 10, gpu: float | None = None, **values: Any
) -> Cost:
    core = None if seconds is None else Found(seconds, "here")
    card = None if gpu is None else Found(gpu, "a card")
    some = {"stage": "cut/P1", "kind": "cut", "model": "", "embeds": False, **values}
    return Cost(**some, units=units, core=core, gpu=card, disk_bytes=10)


@pytest.fixture(scope="module")
def own(finished: Path) -> Rates:
    return of_store(str(finished))


def test_a_stage_takes_as_many_rounds_as_its_units_need() -> None:
    # ten units of 6 s: 4 workers need three rounds, 64 workers one
    def seconds(machine: Machine) -> float | None:
        return seconds_on(machine, [cost(60.0)])

    assert seconds(Machine(1)) == pytest.approx(60)
    assert seconds(Machine(4)) == pytest.approx(18)
    assert seconds(Machine(64)) == pytest.approx(6)
    assert seconds_on(Machine(4), [cost(None)]) is None
    assert seconds_on(Machine(4), [cost(None, units=0)]) == 0


def test_units_shorter_than_the_scheduler_needs_wait_for_it() -> None:
    cluster = ClusterRate(unit_seconds=0.005, ratio=1.0, processes=2, source="a test")
    short = cost(1.0, units=1000)
    assert seconds_on(Machine(64), [short], cluster) == pytest.approx(5)
    # a single process has no scheduler
    assert seconds_on(Machine(1), [short], cluster) == pytest.approx(1)


def test_with_gpus_these_alone_embed() -> None:
    embed = cost(8000.0, units=16, gpu=80.0, kind="embed", model="m", embeds=True)
    assert seconds_on(Machine(16), [embed]) == pytest.approx(500)
    # of a GPU eight shards are a unit: two units of 40 s
    assert seconds_on(Machine(16, 1), [embed]) == pytest.approx(80)
    assert seconds_on(Machine(16, 8), [embed]) == pytest.approx(40)
    unknown = cost(8000.0, kind="embed", embeds=True)
    assert seconds_on(Machine(16, 1), [unknown]) is None
    assert seconds_on(Machine(16, 1), [embed, unknown]) is None
    assert seconds_on(Machine(1, 1), [cost(60.0, gpu=1.0)]) == pytest.approx(60)


def test_the_units_of_all_plates_go_together() -> None:
    plates = [cost(6.0, units=1, stage=f"gather/P{n}", kind="gather") for n in range(9)]
    assert seconds_on(Machine(1), plates) == pytest.approx(54)
    assert seconds_on(Machine(4), plates) == pytest.approx(18)
    assert seconds_on(Machine(64), plates) == pytest.approx(6)
    # a plate that is done takes no part
    assert seconds_on(Machine(4), [*plates[:8], cost(None, units=0)]) == pytest.approx(12)
    # another stage waits, even where workers have nothing to do
    other = cost(60.0, kind="ranges", stage="ranges/P0")
    assert Costs([], [*plates, other], None, "x").seconds_on(Machine(64)) == pytest.approx(12)
    # on GPUs three units of eight shards of each plate, 30 s each
    embed = [cost(None, units=20, gpu=90.0, kind="embed", model="m", embeds=True) for _ in range(4)]
    assert seconds_on(Machine(1, 8), embed) == pytest.approx(60)


def test_a_plan_gives_each_plate_its_part_of_the_hours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(costs, "this_machine", lambda: Machine(2))
    some = [
        cost(7200.0, units=2, stage="cut/P1"),
        cost(3600.0, units=1, stage="cut/P2"),
        cost(0.0, units=0, stage="cut/P3"),
        cost(None, units=1, stage="shifts/m", kind="shifts", model="m"),
        cost(None, units=0, stage="predict/m/P1", kind="predict", model="m"),
        cost(None, units=4, stage="predict/m/P2", kind="predict", model="m"),
    ]
    # three units of an hour on two cores: two rounds
    assert Costs([], some, None, "x").hours() == {
        "cut/P1": "1.3", "cut/P2": "0.67", "cut/P3": "0", "shifts/m": "?", "predict/m/P1": "0",
        "predict/m/P2": "?",
    }  # fmt: skip


def test_what_is_not_known_is_said_in_its_line_and_in_the_sum() -> None:
    stages = [
        cost(7200.0, units=2),
        cost(3600.0, units=1, kind="embed", model="m", embeds=True),
        cost(None, kind="shifts", model="m"),
    ]
    lines = sheet(Costs([], stages, None, "x"), Machine(3, 2)).splitlines()
    rows = {line.split()[0]: line for line in lines if line}
    assert lines[0].split()[-2:] == ["measured", "in"]
    assert "3 cores + 2 GPUs" in lines[0]
    assert rows["cut"].split()[:6] == ["cut", "2", "-", "10", "B", "1"]
    assert "GPU: not measured" in rows["embed/m"]
    assert rows["shifts/m"].rstrip().endswith("not measured")
    assert rows["shifts/m"].split()[1] == "?"
    assert any(line.startswith("in all") and "3 + ?" in line for line in lines)
    assert "?: nothing like shifts/m was measured." in lines
    assert "? with GPUs: not measured on any: embed/m." in lines
    asked_already = sheet(Costs([], stages, None, "x"), Machine(64, 1)).splitlines()
    assert asked_already[0].count("64 cores + 1 GPU ") == 1
    total = Costs([], stages, None, "x").total()
    assert "without shifts/m, not known" in total


def test_what_was_measured_here_goes_before_a_file_and_that_before_the_package() -> None:
    here, file = (
        rates_of(stages=[StageRate(stage="cut", seconds=s, per="cell", source=name)])
        for s, name in ((1.0, "here"), (2.0, "file"))
    )
    base = packaged()
    assert stage_rate("cut", [here, file, base]) == (1.0, "here")
    assert stage_rate("cut", [rates_of(), file, base]) == (2.0, "file")
    assert "benchmarks/" in (stage_rate("cut", [rates_of(), base]) or Found(0, "")).source
    assert stage_rate("cut", [rates_of()]) is None


def test_the_package_has_a_rate_of_every_stage_and_of_every_network_of_its_own() -> None:
    base = packaged()
    optional = {"labels"}
    assert {rate.stage for rate in base.stages} | {"embed", "grid"} | optional == set(UNITS)
    assert {rate.architecture for rate in base.networks} == {"tiny", "pifia", "pci", "deeploc"}
    assert base.cluster is not None
    # no GPU was measured
    assert {rate.device for rate in base.networks} == {"cpu"}


def test_an_unknown_network_is_scaled_by_its_multiply_adds() -> None:
    model = load_model("tiny")
    count = multiply_adds(model)
    assert count is not None
    engine = model.engine
    same = rates_of(networks=[network("tiny", multiply_adds=count)])
    assert network_rate(model, engine, "cpu", [same]) == (0.5, "of tiny, torch, float32, on cpu")
    # the network whose multiply-adds are nearest, four times as many
    others = [network("large", multiply_adds=40 * count), network("near", multiply_adds=4 * count)]
    found = network_rate(model, engine, "cpu", [rates_of(networks=others)])
    assert found is not None
    assert found.seconds == pytest.approx(0.125)
    assert "scaled by multiply-adds from near" in found.source
    # the same name, but another network
    found = network_rate(model, engine, "cpu", [rates_of(networks=[others[1], *same.networks])])
    assert found == (0.5, "of tiny, torch, float32, on cpu")
    uncounted = rates_of(networks=[network("large")])
    assert network_rate(model, engine, "cpu", [uncounted]) is None
    assert network_rate(model, engine, "gpu", [same]) is None


def test_another_engine_is_said() -> None:
    model = load_model("tiny")
    known = [
        rates_of(
            networks=[
                network("tiny", "openvino, float32, on cpu", seconds=0.1),
                network("tiny", "compiled, float32, on cpu", seconds=0.3),
                network("tiny", "torch, bfloat16, on cuda", seconds=0.001),
            ]
        )
    ]
    found = network_rate(model, Engine(), "cpu", known)
    assert found is not None
    assert found.seconds == 0.3
    assert "by another engine: compiled, float32, on cpu" in found.source
    card = network_rate(model, Engine(), "gpu", known)
    assert card == (0.001, "of tiny, torch, bfloat16, on cuda")


def test_multiply_adds_are_those_of_the_layers() -> None:
    import torch

    model = load_model("tiny")
    found = []

    def count(layer: Any, taken: Any, given: Any) -> None:
        found.append(given.numel() * layer.weight[0].numel())

    kinds = (torch.nn.Conv2d, torch.nn.Linear)
    for layer in model.network.modules():
        if isinstance(layer, kinds):
            layer.register_forward_hook(count)
    edge = model.spec.network_crop_px
    with torch.inference_mode():
        model.network(torch.zeros(1, len(model.spec.channels), edge, edge))
    assert multiply_adds(load_model("tiny")) == sum(found)
    # the mask is one more channel of the first layer
    aware = multiply_adds(load_model("tiny", overrides={"mask_input": ("channel",)}))
    assert aware is not None
    assert aware > sum(found)


def test_units_that_are_done_are_measured_by_hand(tmp_path: Path) -> None:
    ledger = Ledger(str(tmp_path / "store"))
    (tmp_path / "store").mkdir()
    from bgscale.distribute.units import plan_units

    units = plan_units("cut/P1", 100, 10, "t")
    for unit, wall, busy in zip(units[:3], (1.0, 2.0, 3.0), (0.5, 4.0, 3.0), strict=True):
        ledger.complete(unit, [], {"seconds": wall, "cpu_seconds": busy})
    ledger.complete(units[3], [], {})
    need = Need(10, 0, 0, 0)
    item = StagePlan(
        "cut/P1", "", 10, 4, need, Amount("cut", "", 500.0), 100, tuple(units[:4])
    )  # fmt: skip
    how: dict[str, Any] = {"made_by": "a test", "source": "here"}
    job: Any = None
    # three of ten units were timed, 150 cells: a busy second thread counts
    (rate,) = measured(job, [item], ledger, **how).stages
    assert rate.seconds == pytest.approx((1 + 4 + 3) / 150)
    assert (rate.per, rate.source) == ("cell", "here, 3 units")
    (rate,) = measured(job, [item], ledger, clock="cpu", **how).stages
    assert rate.seconds == pytest.approx(7.5 / 150)


def test_a_gpu_is_measured_by_the_clock_whatever_its_host_did(tmp_path: Path) -> None:
    ledger = Ledger(str(tmp_path / "store"))
    (tmp_path / "store").mkdir()
    from bgscale.distribute.units import plan_units

    units = plan_units("embed/tiny/P1", 20, 10, "t")
    for unit, wall, busy in zip(units, (1.0, 2.0), (3.5, 9.0), strict=True):
        ledger.complete(unit, [], {"seconds": wall, "cpu_seconds": busy})
    need, amount = Need(2, 0, 0, 0), Amount("embed", "tiny", 100.0)
    item = StagePlan("embed/tiny/P1", "", 2, 2, need, amount, 20, tuple(units))
    how: dict[str, Any] = {"made_by": "a test", "source": "here"}

    def found(engine: Engine, clock: Any) -> Rates:
        job = Job(RunConfig(), engines=(("tiny", engine),))
        return measured(job, [item], ledger, clock=clock, **how)

    there, here = Engine(device="cuda", processor="a card"), Engine(processor="a core")
    for clock in ("wall", "cpu"):
        rates = found(there, clock)
        assert rates.processor == "a card"
        (network,) = rates.networks
        assert (network.device, network.seconds) == ("gpu", pytest.approx(3 / 100))
    rates = found(here, "wall")
    assert rates.processor == "a core"
    assert rates.networks[0].seconds == pytest.approx(12.5 / 100)


def test_a_finished_store_tells_its_rates(own: Rates, finished: Path) -> None:
    assert {rate.stage for rate in own.stages} >= {"cut", "predict", "shifts"}
    assert all("results.zarr, " in rate.source for rate in own.stages)
    (tiny,) = own.networks
    assert tiny.architecture == "tiny"
    run = _run(finished)
    spent = [
        done["seconds"]
        for stage in run.stages
        if stage.name.startswith("cut/")
        for done in run.ledger.summaries(stage.units(run._job))
    ]
    cells = len(run.screen.items) if run.screen.kind == "crops" else 0
    (cut,) = (rate for rate in own.stages if rate.stage == "cut")
    # the processor may have been busy for longer than the clock says
    assert sum(spent) / cells <= cut.seconds < 10 * sum(spent) / cells
    # nothing is left of it
    assert run.costs().seconds_on(Machine(1)) == 0


def test_costs_follow_the_cells(tmp_path: Path) -> None:
    screens = [
        write_plate_screen(tmp_path / str(n), fields_per_protein=n, cells_per_field=5)
        for n in (1, 3)
    ]
    found = []
    for number, screen in enumerate(screens):
        costs = Run.from_config(plates_config(screen, tmp_path / f"run{number}")).costs()
        by: dict[str, float] = {}
        for item in costs.stages:
            assert item.core is not None, item.stage
            by[item.kind] = by.get(item.kind, 0.0) + item.core.seconds
        found.append(by)
    few, many = found
    for kind in ("segment", "measure", "cut", "embed", "predict"):
        assert many[kind] / few[kind] == pytest.approx(3, rel=0.01), kind
    for kind in ("shifts", "proportions", "pooled"):
        assert many[kind] == pytest.approx(few[kind]), kind


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda v: "{", "is not JSON"),
        (lambda v: [], "expected an object"),
        (lambda v: {**v, "speed": 1}, "unknown key 'speed'"),
        (lambda v: {k: x for k, x in v.items() if k != "processor"}, "'processor' is missing"),
        (lambda v: {**v, "stages": [stage(stage="segmentation")]}, "unknown stage 'segmentation'"),
        (lambda v: {**v, "stages": [stage(per="pixel")]}, "this version counts it by 'cell'"),
        (lambda v: {**v, "stages": [stage(seconds=-1)]}, "0 or more"),
        (lambda v: {**v, "stages": [stage(seconds="fast")]}, "a number"),
    ],
)
def test_a_wrong_file_of_rates_is_refused_in_words(
    change: Callable[[dict[str, Any]], Any], said: str, tmp_path: Path
) -> None:
    path = tmp_path / "rates.json"
    changed = change(dict(ABOUT))
    path.write_text(changed if isinstance(changed, str) else json.dumps(changed))
    with pytest.raises(BgscaleError, match=said) as caught:
        load_rates(path)
    assert caught.value.exit_code == EXIT_BAD_INPUT
    assert str(path) in str(caught.value)


def stage(**changes: Any) -> dict[str, Any]:
    return {"stage": "cut", "seconds": 1.0, "per": "cell", "source": "a test", **changes}


def test_a_file_of_rates_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot read .*bgscale rates STORE"):
        load_rates(tmp_path / "none.json")


def test_the_machine_is_what_the_user_or_the_profile_says(tmp_path: Path) -> None:
    assert asked_machine("", 0, 0) is None
    assert asked_machine("", 12, 3) == Machine(12, 3)
    assert asked_machine("local:5", 0, 0) == Machine(5)
    profile = tmp_path / "profile.toml"
    profile.write_text(
        'kind = "slurm"\n[workers.cpu]\ncount = 30\n[workers.gpu]\ncount = 2\n', encoding="utf-8"
    )
    assert asked_machine(str(profile), 0, 0) == Machine(32, 2)
    assert asked_machine(str(profile), 40, 0) == Machine(40, 2)
    with pytest.raises(InputError, match="give --workers"):
        asked_machine("tcp://10.0.0.1:8786", 0, 0)
    assert asked_machine("tcp://10.0.0.1:8786", 7, 0) == Machine(7)


def test_plan_and_rates_as_commands(finished: Path, own: Rates, tmp_path: Path) -> None:
    def call(*arguments: object) -> Any:
        return CliRunner().invoke(main, [str(a) for a in arguments])

    file, toml = tmp_path / "rates.json", tmp_path / "run.toml"
    written = call("rates", finished, "-o", file)
    assert written.exit_code == 0, written.output
    assert load_rates(file).stages
    config = _run(finished).config.model_copy(update={"store": str(tmp_path / "new.zarr")})
    toml.write_text(template(config), encoding="utf-8")
    plain = call("plan", toml)
    assert plain.exit_code == 0, plain.output
    assert "hours on the" in plain.stdout
    assert "core-hours" not in plain.stdout
    finished_toml = tmp_path / "finished.toml"
    finished_toml.write_text(template(_run(finished).config), encoding="utf-8")
    assert call("plan", finished_toml).stdout.endswith("nothing is left to do\n")
    told = call("plan", toml, "--rates", file, "--workers", 3)
    assert told.exit_code == 0, told.output
    assert "3 cores" in told.stdout
    *_, line = (row for row in told.stdout.splitlines() if row.startswith("shifts/tiny  "))
    assert "results.zarr, " in line
    refused = call("plan", toml, "--rates", toml)
    assert refused.exit_code == EXIT_BAD_INPUT
    assert "is not JSON" in refused.stderr
    assert call("rates", tmp_path, "-o", file).exit_code == EXIT_BAD_INPUT


def _run(store: Path) -> Run:
    from bgscale.config import RunConfig
    from bgscale.results import Store

    config = RunConfig.from_dict(Store(str(store)).attrs()["config"])
    return Run.from_config(config.model_copy(update={"store": str(store)}))


def test_hours_are_written_for_people() -> None:
    assert [hours(s) for s in (0, 3, 360, 5400, 90_000, 3_600_000, None)] == [
        "0", "<0.01", "0.1", "1.5", "25.0", "1,000", "?",
    ]  # fmt: skip
