"""A store grows: other crops, later plates, mended fields; what is there stays as it is."""

import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from screens import config_of, plates_config, write_plate_screen, write_screen
from test_run import Counter, assert_same_store

from bgscale import open_results, pipeline
from bgscale.cli import main
from bgscale.config import RunConfig, template
from bgscale.errors import InterruptedRunError, StoreMismatchError, UnitError
from bgscale.results import Store
from bgscale.run import Run
from bgscale.run.upkeep import drop_aside
from bgscale.schema import Reason
from bgscale.stages import embedding

FIELDS = 22


@pytest.fixture(scope="module")
def screen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three plates; the first two have all localizations, the third proteins of its own."""
    folder = write_plate_screen(
        tmp_path_factory.mktemp("grows") / "screen", plates=3, proteins_per_localization=3
    )
    table = pd.read_csv(folder / "platemap.csv")
    # a new name that sorts before all others
    table.loc[(table["plate"] == "P3").idxmax(), "protein"] = "A00"
    table.to_csv(folder / "platemap.csv", index=False)
    return folder


@pytest.fixture
def grows(screen: Path, tmp_path: Path) -> Path:
    """Copy the screen; its third plate is not there yet."""
    folder = Path(shutil.copytree(screen, tmp_path / "screen"))
    (folder / "plates" / "P3.zarr").rename(tmp_path / "P3.zarr")
    return folder


def quick(folder: Path, tmp_path: Path, /, **changes: Any) -> RunConfig:
    return plates_config(folder, tmp_path, proportions={"folds": 2, "replicates": 0}, **changes)


def files_of(store: Path, node: str) -> dict[str, bytes]:
    folder = store / node
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        # predictions are made anew: further proteins are other classifiers
        if path.is_file() and "predictions" not in path.parts
    }


def test_another_crop_size_does_not_redo_segmentation(screen: Path, tmp_path: Path) -> None:
    Run.from_config(quick(screen, tmp_path)).execute(until="cut")
    run = Run.from_config(quick(screen, tmp_path, cells={"crop_size_px": 48}))
    with pytest.raises(StoreMismatchError, match="measure/P1"):
        run.check()
    counter = Counter()
    run.execute(until="cut", redo=True, listener=counter)
    assert "segment" not in counter.done
    assert counter.done["measure"] == FIELDS
    crops = open_results(tmp_path / "results.zarr")["plates/P2/crops"]["image"]
    assert crops.shape[-1] == 48


def test_a_plate_that_comes_later_moves_nobody(grows: Path, tmp_path: Path) -> None:
    config = quick(grows, tmp_path)
    store = Path(config.store)
    Run.from_config(config).execute()
    stays = [
        "donors",
        "windows",
        "centres",
        "grid",
        "evaluation",
        "sample",
        "plates/P1",
        "plates/P2",
    ]
    before = {node: files_of(store, node) for node in stays}
    early = open_results(store)["proportions/tiny"]["n_cells"].load()
    (tmp_path / "P3.zarr").rename(grows / "plates" / "P3.zarr")
    counter = Counter()
    run = Run.from_config(config)
    assert any("P3" in notice and "--redraw" in notice for notice in run.notices())
    run.execute(listener=counter)
    fields = open_results(store)["plates/P3/fields"].sizes["field"]
    assert counter.done["segment"] == fields < FIELDS // 2
    assert "bank" not in counter.done
    assert "grid" not in counter.done
    assert {node: files_of(store, node) for node in stays} == before
    tree = open_results(store)
    later = tree["proportions/tiny"]["n_cells"].sel(fit="fixed", setting="original")
    # codes of proteins stay: new ones come last, wherever their names sort
    assert later["protein"].to_numpy().tolist()[-3:] == ["A00", "SIM005", "SIM007"]
    assert later.sel(protein="A00") > 0
    assert (later.sel(protein=early["protein"]) >= early.sel(fit="fixed", setting="original")).all()
    donors = tree["plates/P3/embeddings/tiny"]["donor"].to_numpy()
    bank = [tree[node]["id"].to_numpy().ravel() for node in ("donors", "windows")]
    assert np.isin(donors[donors > 0], np.concatenate(bank)).all()
    again = Counter()
    Run.from_config(config).execute(listener=again)
    assert not again.done


def test_donors_are_redrawn_on_purpose(grows: Path, tmp_path: Path) -> None:
    config = quick(grows, tmp_path)
    Run.from_config(config).execute(until="bank")
    (tmp_path / "P3.zarr").rename(grows / "plates" / "P3.zarr")
    Run.from_config(config).execute(until="bank")
    tree = open_results(config.store)
    third = set(tree["plates/P3/cells"]["id"].to_numpy().tolist())
    assert not third & set(tree["donors"]["id"].to_numpy().ravel().tolist())
    counter = Counter()
    Run.from_config(config).execute(until="bank", redraw=True, listener=counter)
    assert "segment" not in counter.done
    tree = open_results(config.store)
    assert third & set(tree["donors"]["id"].to_numpy().ravel().tolist())
    assert not any("--redraw" in notice for notice in Run.from_config(config).notices())


def test_a_plate_that_is_gone_is_asked_about(grows: Path, tmp_path: Path) -> None:
    config = quick(grows, tmp_path)
    Run.from_config(config).execute(until="bank")
    (tmp_path / "P3.zarr").rename(grows / "plates" / "P3.zarr")
    Run.from_config(config).execute(until="bank")
    shutil.rmtree(grows / "plates" / "P3.zarr")
    with pytest.raises(StoreMismatchError, match="P3"):
        Run.from_config(config).execute(until="bank")
    Run.from_config(config).execute(until="bank", redo=True)
    assert sorted(open_results(config.store)["plates"].children) == ["P1", "P2"]


def damaged(grows: Path, tmp_path: Path) -> tuple[RunConfig, Path, Path]:
    """Take a chunk away before the run; return the config, and where from and whereto."""
    field = grows / "plates" / "P1.zarr" / "A" / "01" / "1"
    whole = Path(shutil.copytree(field, tmp_path / "whole"))
    shutil.rmtree(field / "0" / "c")
    return quick(grows, tmp_path), field, whole


def test_a_mended_field_is_retried_and_donors_stay(grows: Path, tmp_path: Path) -> None:
    config, field, whole = damaged(grows, tmp_path)
    run_toml = tmp_path / "run.toml"
    run_toml.write_text(template(config), encoding="utf-8")
    command = ["run", str(run_toml)]
    assert CliRunner().invoke(main, command).exit_code == 3
    bank = files_of(Path(config.store), "donors")
    cells = open_results(config.store)["plates/P1/cells"].sizes["cell"]
    still = CliRunner().invoke(main, [*command, "--retry-failed"])
    assert still.exit_code == 3
    assert "nothing that failed can be used now" in still.output
    shutil.rmtree(field)
    shutil.copytree(whole, field)
    # a run that is not asked to retry leaves it
    assert CliRunner().invoke(main, command).exit_code == 3
    result = CliRunner().invoke(main, [*command, "--retry-failed"])
    assert result.exit_code == 0, result.output
    assert "made anew: P1" in result.output
    tree = open_results(config.store)
    assert tree["plates/P1/cells"].sizes["cell"] > cells
    assert not tree["plates/P1/fields"]["reason"].to_numpy().any()
    assert files_of(Path(config.store), "donors") == bank
    counter = Counter()
    Run.from_config(config).execute(listener=counter)
    assert not counter.done


def test_a_field_lost_after_segmentation_costs_its_cells_alone(grows: Path, tmp_path: Path) -> None:
    config = quick(grows, tmp_path)
    field = grows / "plates" / "P1.zarr" / "A" / "01" / "1"
    Run.from_config(config).execute(until="gather")
    kept = (field / "0" / "c").rename(tmp_path / "lost")
    outcome = Run.from_config(config).execute()
    assert not outcome.is_complete
    cells = open_results(config.store)["plates/P1/cells"].to_dataset().load()
    lost = cells["reason"] == Reason.MISSING_CHUNKS
    names = np.array(cells["field"].attrs["names"])
    assert set(names[cells["field"][lost]]) == {"P1/A01/1"}
    kept.rename(field / "0" / "c")
    assert Run.from_config(config).execute(retry_failed=True).is_complete


def test_a_mended_crop_is_retried(tmp_path: Path) -> None:
    screen = write_screen(tmp_path / "screen")
    shutil.unpack_archive(screen / "crops.zip", screen / "crops")
    (screen / "crops.zip").unlink()
    crop = sorted((screen / "crops").rglob("*.tif*"))[0]
    whole = crop.read_bytes()
    crop.write_bytes(whole[: len(whole) // 2])
    config = config_of(screen, tmp_path)
    config = config.model_copy(
        update={"screen": config.screen.model_copy(update={"path": str(screen / "crops")})}
    )
    assert not Run.from_config(config).execute(until="bank").is_complete
    crop.write_bytes(whole)
    assert Run.from_config(config).execute(until="bank", retry_failed=True).is_complete


def test_a_further_setting_costs_itself_alone(
    small_screen: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = ["original", "different", "masked"]
    all_five = ["original", "same", "different", "cell_free", "masked"]
    config = config_of(small_screen, tmp_path, settings=few)
    Run.from_config(config).execute()
    embedded: list[str] = []
    plain = embedding.begin

    def counted(job: Any, model: Any, block: Any, wanted: Any, channels: Any) -> Any:
        embedded.extend(setting.name for setting, _ in wanted)
        return plain(job, model, block, wanted, channels)

    monkeypatch.setattr(embedding, "begin", counted)
    grown = config_of(small_screen, tmp_path, settings=all_five)

    class Stops(Counter):
        """Asks the run to end in the middle of the stage that is made anew."""

        def unit_done(self, unit: Any, summary: Any) -> None:
            super().unit_done(unit, summary)
            if self.done.get("embed") == 2:
                signal.raise_signal(signal.SIGTERM)

    with pytest.raises(InterruptedRunError):
        Run.from_config(grown).execute(listener=Stops())
    Run.from_config(grown).execute()
    assert set(embedded) == {"same", "cell_free"}
    assert not (tmp_path / "results.zarr" / "before").exists()
    (tmp_path / "fresh").mkdir()
    Run.from_config(config_of(small_screen, tmp_path / "fresh", settings=all_five)).execute()
    assert_same_store(tmp_path / "fresh" / "results.zarr", tmp_path / "results.zarr")
    with pytest.raises(StoreMismatchError, match="same, cell_free"):
        Run.from_config(config).execute()
    embedded.clear()
    Run.from_config(config).execute(redo=True)
    assert embedded == []


@pytest.mark.parametrize(
    ("kind", "last", "at"), [("embed", "uncovered", 1), ("grid", "missing", 0)]
)
def test_a_late_process_writes_nothing_once_what_was_put_aside_is_gone(
    small_screen: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    last: str,
    at: int,
) -> None:
    class Stops(Counter):
        """Asks the run to end in the middle of the stage."""

        def unit_done(self, unit: Any, summary: Any) -> None:
            super().unit_done(unit, summary)
            if self.done.get(kind) == 2:
                signal.raise_signal(signal.SIGTERM)

    Run.from_config(config_of(small_screen, tmp_path, settings=["original", "masked"])).execute()
    grown = config_of(small_screen, tmp_path, settings=["original", "masked", "cell_free"])
    run = Run.from_config(grown)
    with pytest.raises(InterruptedRunError):
        run.execute(listener=Stops())
    stage = next(stage for stage in run.stages if stage.name.startswith(kind))
    job = run.job_of(grown)
    unit = stage.units(job)[0]
    before = files_of(tmp_path / "results.zarr", stage.nodes[0])

    def read(store: Store, name: str, *selection: Any) -> Any:
        array = store.array(name)
        if name == f"before/{stage.name}/{last}" and selection[-1] == at:
            # others complete the stage after this array was opened
            drop_aside(store, stage)
        return np.asarray(array[selection or ...])

    monkeypatch.setattr(Store, "read", read)
    with pytest.raises(UnitError, match=f"before/{stage.name} is gone"):
        pipeline.work(unit, job.text)
    assert files_of(tmp_path / "results.zarr", stage.nodes[0]) == before


def test_what_is_left_of_a_killed_removal_goes_with_the_next(
    small_screen: Path, tmp_path: Path
) -> None:
    run = Run.from_config(config_of(small_screen, tmp_path))
    stage = next(stage for stage in run.stages if stage.name.startswith("embed"))
    store = Store(tmp_path / "results.zarr")
    store.place.replace(f"before/{stage.name}/profile/embedding/c/0/0/0", b"rest")
    drop_aside(store, stage)
    assert list(store.place.below("before")) == []


def test_settings_of_plates_that_were_complete_before_a_stop_are_kept(
    screen: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedded: list[tuple[str, int]] = []
    plain = embedding.begin

    def counted(job: Any, model: Any, block: Any, wanted: Any, channels: Any) -> Any:
        embedded.extend((setting.name, int(block.cells.field.min())) for setting, _ in wanted)
        return plain(job, model, block, wanted, channels)

    monkeypatch.setattr(embedding, "begin", counted)

    class Stops(Counter):
        """Asks the run to end when the first unit of the second plate is done."""

        def unit_done(self, unit: Any, summary: Any) -> None:
            super().unit_done(unit, summary)
            if unit.stage == "embed/tiny/P2":
                signal.raise_signal(signal.SIGTERM)

    names = ["original", "masked", "different", "cell_free"]
    Run.from_config(quick(screen, tmp_path, settings=names[:2])).execute()
    with pytest.raises(InterruptedRunError):
        Run.from_config(quick(screen, tmp_path, settings=names[:3])).execute(listener=Stops())
    # what the first plate had without the third setting is not kept twice
    before = tmp_path / "results.zarr" / "before" / "embed" / "tiny"
    assert sorted(path.name for path in before.iterdir() if path.is_dir()) == ["P2", "P3"]
    embedded.clear()
    config = quick(screen, tmp_path, settings=names)
    Run.from_config(config).execute(until="embed")
    job = Run.from_config(config).job_of(config)
    of_plate = [job.plate_of_field[first] for _, first in embedded]
    again = {(name, job.plates[p]) for (name, _), p in zip(embedded, of_plate, strict=True)}
    assert again == {
        ("cell_free", "P1"), ("cell_free", "P2"), ("cell_free", "P3"),
        ("different", "P2"), ("different", "P3"),
    }  # fmt: skip
    assert not [path for path in before.glob("*") if path.is_dir()]


def test_a_further_model_leaves_the_others(small_screen: Path, tmp_path: Path) -> None:
    Run.from_config(config_of(small_screen, tmp_path)).execute()
    models = {"tiny": {"seed": 1}, "other": {"seed": 2}}
    counter = Counter()
    run = Run.from_config(config_of(small_screen, tmp_path, models=models))
    before = files_of(tmp_path / "results.zarr", "donors")
    run.execute(listener=counter)
    shards = len(next(s for s in run.stages if s.name == "embed/other/crops").units(run._job))
    assert counter.done["embed"] == shards
    assert counter.done["shifts"] == 1
    assert files_of(tmp_path / "results.zarr", "donors") == before
