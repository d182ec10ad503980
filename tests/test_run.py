"""The whole flow on a small screen: same bytes however it is run, and nothing done twice."""

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from distributed import Client
from screens import LOCALIZATIONS, config_of, screen_section

from bgscale import open_results, open_screen
from bgscale.config import RunConfig, template
from bgscale.distribute.ledger import Ledger
from bgscale.distribute.listener import Silent
from bgscale.distribute.units import Unit
from bgscale.errors import DiskFullError, InputError, StoreMismatchError
from bgscale.evaluate.folds import draw_folds
from bgscale.models import load_model
from bgscale.models.weights import save_weights
from bgscale.results import Store
from bgscale.run import Run, status
from bgscale.stages import embedding
from bgscale.summary import tables


class Counter(Silent):
    """Counts the units that were done, by kind of stage."""

    def __init__(self) -> None:
        self.done: dict[str, int] = {}

    def unit_done(self, unit: Unit, summary: dict[str, Any]) -> None:
        kind = unit.stage.partition("/")[0]
        self.done[kind] = self.done.get(kind, 0) + 1


def files_of(store: Path) -> dict[str, bytes]:
    """Return all files of a store but the root's attributes, which hold its own path."""
    return {
        path.relative_to(store).as_posix(): path.read_bytes()
        for path in sorted(store.rglob("*"))
        if path.is_file() and path != store / "zarr.json"
    }


def assert_same_store(a: Path, b: Path) -> None:
    first, second = files_of(a), files_of(b)
    assert len(first) > 100
    assert sorted(first) == sorted(second)
    assert [name for name in first if first[name] != second[name]] == []


def values_of(store: Path) -> dict[str, np.ndarray]:
    """Return every array of a store by its name."""
    tree = open_results(store)
    return {
        f"{node.path}/{name}": variable.to_numpy()
        for node in tree.subtree
        for name, variable in node.to_dataset(inherit=False).data_vars.items()
    }


def test_a_run_gives_every_node_of_the_store(finished: Path) -> None:
    tree = open_results(finished)
    assert {"proteins", "plates", "donors", "windows", "centres", "sample"} <= set(tree.children)
    assert tree["evaluation/tiny"]["accuracy"].dims == (
        "setting", "localization_a", "localization_b", "background", "fold",
    )  # fmt: skip
    assert list(tree["shifts/tiny"]["setting"].values) == [
        "original", "same", "different", "cell_free", "masked",
    ]  # fmt: skip
    kl = tree["shifts/tiny"]["kl"].sel(fit="fixed", setting="masked").to_series().nlargest(3)
    assert (kl > 0).all()
    assert bool(tree["evaluation/tiny"].attrs["random_weights"])


def test_original_shifts_by_nothing_against_itself(finished: Path) -> None:
    kl = open_results(finished)["shifts/tiny"]["kl"].sel(setting="original")
    assert float(np.abs(kl).max()) == 0


def test_proportions_are_shares(finished: Path) -> None:
    made = open_results(finished)["proportions/tiny"].to_dataset()
    for name in ("proportion", "mixture"):
        np.testing.assert_allclose(made[name].sum("localization"), 1, atol=1e-9)
    assert int(made["n_cells"].min()) > 0


def test_every_pair_has_the_problems_of_the_protocol(finished: Path) -> None:
    accuracy = open_results(finished)["evaluation/tiny"]["accuracy"].mean("fold")
    k = len(LOCALIZATIONS)
    counts = np.isfinite(accuracy).sum(["localization_a", "localization_b", "background"])
    pairs = k * (k - 1) // 2
    assert counts.to_series().to_dict() == {
        "original": pairs, "same": pairs, "masked": pairs,
        "different": pairs * k, "cell_free": pairs * k,
    }  # fmt: skip


def test_a_second_run_does_nothing(small_screen: Path, finished: Path) -> None:
    counter = Counter()
    config = config_of(small_screen, finished.parent)
    before = files_of(finished)
    Run.from_config(config).execute(listener=counter)
    assert counter.done == {}
    assert files_of(finished) == before


@pytest.mark.cluster
def test_two_processes_give_the_same_bytes(
    small_screen: Path, finished: Path, tmp_path: Path, cluster: Client
) -> None:
    config = config_of(small_screen, tmp_path)
    Run.from_config(config).execute(cluster)
    assert_same_store(finished, Path(config.store))


def test_other_unit_sizes_give_the_same_values(
    small_screen: Path, finished: Path, tmp_path: Path
) -> None:
    config = config_of(small_screen, tmp_path, shard_cells=192)
    run = Run.from_config(config)
    run.execute()
    first, second = values_of(finished), values_of(Path(config.store))
    assert sorted(first) == sorted(second)
    by_shard = [name for name in first if "/predictions/tiny/sums/" in name]
    assert len(by_shard) == 15
    for name in set(first) - set(by_shard):
        values = first[name]
        np.testing.assert_array_equal(values, second[name], err_msg=name)


def test_chunks_of_features_divide_shards_of_any_size(
    small_screen: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # as with a plate of 30,000 cells: its shards have 1,920, a chunk at most 1,024
    monkeypatch.setattr(embedding, "FEATURE_CHUNK", 128)
    config = config_of(small_screen, tmp_path, shard_cells=192)
    Run.from_config(config).execute()
    for name in ("plates/crops/embeddings/tiny/profile/embedding", "proportions/tiny/proportion"):
        found, expected = (open_results(store)[name] for store in (config.store, finished))
        np.testing.assert_array_equal(found, expected, err_msg=name)
    assert all(shard % embedding.feature_chunk(shard) == 0 for shard in range(64, 4097, 64))


def test_a_screen_opened_in_python_gives_the_same_bytes(
    small_screen: Path, finished: Path, tmp_path: Path
) -> None:
    config = config_of(small_screen, tmp_path)
    screen = open_screen(
        small_screen / "crops.zip",
        plate_map=small_screen / "platemap.csv",
        mask="mask",
        protein="gfp",
        cytosol="rfp",
    )
    Run(screen, tmp_path / "results.zarr", config).execute()
    assert_same_store(finished, tmp_path / "results.zarr")


def write_toml(config: RunConfig, folder: Path) -> Path:
    path = folder / "run.toml"
    path.write_text(template(config), encoding="utf-8")
    return path


def start(path: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "bgscale.cli", "run", str(path)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def wait_for_units(store: Path, count: int) -> None:
    """Return when so many units of a run are done."""
    folder = store.with_name(store.name + ".progress") / "units"
    for _ in range(1200):
        if len(list(folder.rglob("*.json"))) >= count:
            return
        time.sleep(0.05)
    pytest.fail(f"fewer than {count} units were done")


def test_a_killed_run_goes_on_and_gives_the_same_bytes(
    small_screen: Path, finished: Path, tmp_path: Path
) -> None:
    config = config_of(small_screen, tmp_path)
    store = Path(config.store)
    path = write_toml(config, tmp_path)
    total = sum(stage["units"] for stage in status(finished)["stages"].values())
    half = store / "plates/crops/crops/image/c/0/0/0/0.abc.partial"
    for units in (3, total // 3):
        process = start(path)
        wait_for_units(store, units)
        process.kill()
        process.communicate()
        half.write_bytes(b"half a shard")
    counter = Counter()
    Run.from_config(config).execute(listener=counter)
    assert 0 < sum(counter.done.values()) <= total - total // 3
    assert_same_store(finished, store)


def test_ctrl_c_drains_and_the_next_run_goes_on(
    small_screen: Path, finished: Path, tmp_path: Path
) -> None:
    config = config_of(small_screen, tmp_path)
    process = start(write_toml(config, tmp_path))
    wait_for_units(Path(config.store), 4)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 75, errors
    assert "run again to go on" in errors
    assert "Traceback" not in errors
    Run.from_config(config).execute()
    assert_same_store(finished, Path(config.store))


def test_a_lost_shard_is_made_again(small_screen: Path, finished: Path, tmp_path: Path) -> None:
    store = tmp_path / "results.zarr"
    shutil.copytree(finished, store)
    shutil.copytree(f"{finished}.progress", f"{store}.progress")
    lost = store / "plates/crops/embeddings/tiny/profile/embedding/c/0/0/0"
    lost.unlink()
    counter = Counter()
    Run.from_config(config_of(small_screen, tmp_path)).execute(listener=counter)
    assert counter.done == {"embed": 1}
    assert_same_store(finished, store)


def test_another_config_is_refused_and_redone_on_demand(
    small_screen: Path, finished: Path, tmp_path: Path
) -> None:
    store = tmp_path / "results.zarr"
    shutil.copytree(finished, store)
    shutil.copytree(f"{finished}.progress", f"{store}.progress")
    changed = config_of(small_screen, tmp_path, proportions={"folds": 3, "replicates": 1})
    with pytest.raises(StoreMismatchError, match=r"classifiers/tiny, predict/tiny/crops, .*--redo"):
        Run.from_config(changed).execute()
    counter = Counter()
    Run.from_config(changed).execute(redo=True, listener=counter)
    assert set(counter.done) == {
        "classifiers", "predict", "proportions", "reliability", "pooled", "shifts", "discoveries",
    }  # fmt: skip


def test_a_store_of_another_version_is_refused(
    small_screen: Path, finished: Path, tmp_path: Path
) -> None:
    store = tmp_path / "results.zarr"
    shutil.copytree(finished, store)
    Store(store).update_attrs({"bgscale_store": 99})
    with pytest.raises(StoreMismatchError, match="version 99"):
        Run.from_config(config_of(small_screen, tmp_path)).execute()


def test_a_model_that_looks_inside_the_mask_only_sees_no_background(
    small_screen: Path, tmp_path: Path
) -> None:
    inside = {"architecture": "tiny", "preprocess": ["minmax_inside", "mask"]}
    config = config_of(small_screen, tmp_path, models={"inside": inside})
    Run.from_config(config).execute()
    features = open_results(config.store)["plates/crops/embeddings/inside/profile"]["embedding"]
    original = features.sel(setting="original").to_numpy()
    present = np.isfinite(features).all(["setting", "feature"]).to_numpy()
    assert present.sum() > 100
    for setting in ("same", "different", "cell_free"):
        np.testing.assert_array_equal(
            features.sel(setting=setting).to_numpy()[present], original[present]
        )


def test_controls_run_like_any_setting(small_screen: Path, tmp_path: Path) -> None:
    settings = ["original", "self_swap", "background_only", "medium_only", "masked_mean"]
    config = config_of(small_screen, tmp_path, settings=settings)
    Run.from_config(config).execute()
    tree = open_results(config.store)
    missing = tree["plates/crops/embeddings/tiny"]["missing"]
    assert (missing.sel(setting=["original", "masked_mean"]) == 0).all()
    sample = tree["sample"].to_dataset()
    centre = (sample["mask"] == 1).to_numpy()[:, :, None, None]
    image = sample["image"].to_numpy()
    foreground = np.where(centre, image, 0)
    for s in (settings.index("self_swap"), settings.index("masked_mean")):
        np.testing.assert_array_equal(foreground[:, :, s], foreground[:, :, 0])
    removed = settings.index("background_only")
    assert not np.array_equal(foreground[:, :, removed], foreground[:, :, 0])


def test_the_centre_cell_is_the_same_in_every_setting(finished: Path) -> None:
    sample = open_results(finished)["sample"].to_dataset().load()
    centre = (sample["mask"] == 1).to_numpy()[:, :, None, None]
    image = sample["image"].to_numpy()
    foreground = np.where(centre, image, 0)
    for s in range(image.shape[2]):
        np.testing.assert_array_equal(foreground[:, :, s], foreground[:, :, 0])
    outside = np.where(centre, 0, image)[:, :, -1]
    assert str(sample["setting"].values[-1]) == "masked"
    assert (outside == 0).all()


def test_donors_follow_the_protocol(finished: Path) -> None:
    tree = open_results(finished)
    cells = tree["plates/crops/cells"].to_dataset()
    made = tree["plates/crops/embeddings/tiny"].to_dataset()
    label = tree["proteins"]["label"].to_numpy().astype(bool)
    own = label[cells["protein"].to_numpy()]
    ids = cells["id"].to_numpy()
    protein_of = dict(zip(ids.tolist(), cells["protein"].to_numpy().tolist(), strict=True))
    for setting, inside in (("same", True), ("different", False), ("cell_free", False)):
        one = made.sel(setting=setting)
        chosen = one["donor_class"].to_numpy()
        rows = np.flatnonzero(one["missing"].to_numpy() == 0)
        assert len(rows) == len(ids)
        assert (own[rows, chosen[rows]] == inside).all()
        donors = [protein_of[int(d)] for d in one["donor"].to_numpy()[rows]]
        assert (np.array(donors) != cells["protein"].to_numpy()[rows]).all()


def test_evaluation_keeps_to_its_fields(small_screen: Path, tmp_path: Path) -> None:
    config = config_of(
        small_screen,
        tmp_path,
        evaluation={"fields": ["1"]},
        classification={"crops_per_class": 8},
        donors={"per_class": 20, "windows_per_class": 20, "min_pool": 4},
    )
    Run.from_config(config).execute()
    tree = open_results(config.store)
    names = tree["plates/crops/cells"]["field"].attrs["names"]
    for bank in ("donors", "windows", "centres"):
        fields = tree[bank]["field"].to_numpy()
        assert {names[f].rsplit("/", 1)[-1] for f in np.unique(fields[fields >= 0])} == {"1"}


def test_a_donor_stands_behind_one_fold_of_all_classes(small_screen: Path, tmp_path: Path) -> None:
    config = config_of(
        small_screen,
        tmp_path,
        settings=["original", "same", "different"],
        classification={"crops_per_class": 18},
        donors={"per_class": 40, "windows_per_class": 24, "min_pool": 5},
    )
    Run.from_config(config).execute(until="evaluate")
    tree = open_results(config.store)
    draws = tree["centres"].sizes["draw"]
    held_out = draw_folds(draws, 5)
    for block in tree["grid/tiny"]["donor"].to_numpy().reshape(-1, 4, draws):
        fold_of: dict[int, set[int]] = {}
        for donors in block:
            for member, donor in itertools.product(range(2), np.unique(donors[donors > 0])):
                folds = held_out[member, donors == donor]
                fold_of.setdefault(int(donor), set()).update(folds.tolist())
        assert all(len(folds) == 1 for folds in fold_of.values())
    assert draws == 15
    assert (
        "15 crops a class: a multiple of the 5 folds" in tables(config.store)["tiny"].attrs["note"]
    )


def test_a_full_disk_ends_with_74_and_loses_nothing(
    small_screen: Path, finished: Path, tmp_path: Path
) -> None:
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4M", "tmpfs", str(small)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("cannot mount a small file system here")
    try:
        config = config_of(small_screen, small)
        with pytest.raises(DiskFullError) as caught:
            Run.from_config(config).execute()
        assert caught.value.exit_code == 74
        subprocess.run(["mount", "-o", "remount,size=200M", str(small)], check=True)
        Run.from_config(config).execute()
        assert_same_store(finished, Path(config.store))
    finally:
        subprocess.run(["umount", "-l", str(small)], check=True)


def test_a_class_with_fewer_cells_than_folds_is_an_error(
    small_screen: Path, tmp_path: Path
) -> None:
    config = config_of(
        small_screen,
        tmp_path,
        screen={**screen_section(small_screen), "limit": 30},
        donors={"per_class": 4, "min_pool": 1, "windows_per_class": 4},
        classification={"folds": 9},
    )
    with pytest.raises(InputError, match="folds need at least"):
        Run.from_config(config).execute()


def test_a_setting_without_any_donor_is_missing_and_the_others_are_there(
    small_screen: Path, tmp_path: Path
) -> None:
    config = config_of(
        small_screen,
        tmp_path,
        settings=["original", "same", "self_swap"],
        evaluation={"fields": ["1"]},
        classification={"crops_per_class": 8},
        donors={"per_class": 20, "windows_per_class": 20, "min_pool": 4},
        proportions={"folds": 2, "replicates": 1},
    )
    Run.from_config(config).execute()
    tree = open_results(config.store)
    kl = tree["shifts/tiny"]["kl"]
    assert np.isfinite(kl.sel(setting="same")).all()
    matched = kl.sel(setting="self_swap", fit="matched")
    assert np.isnan(matched).all()
    n_cells = tree["proportions/tiny"]["n_cells"]
    assert (n_cells.sel(setting="self_swap") == 0).all()
    assert (n_cells.sel(setting="same") > 0).all()


def test_new_weights_in_the_same_file_are_seen(small_screen: Path, tmp_path: Path) -> None:
    weights = tmp_path / "tiny.safetensors"
    config = config_of(small_screen, tmp_path, models={"tiny": {"weights": str(weights)}})
    for seed in (0, 1):
        model = load_model("tiny", seed=seed, n_outputs=3)
        save_weights(weights, model.network, model.spec)
        run = Run.from_config(config)
        assert ("embed/tiny/crops" in run.outdated()) == (seed == 1)
        run.execute(redo=True)


def test_a_model_that_is_gone_leaves_nothing_on_other_donors(
    small_screen: Path, tmp_path: Path
) -> None:
    both = {"tiny": {"seed": 1}, "old": {"seed": 2}}
    Run.from_config(config_of(small_screen, tmp_path, models=both)).execute()
    fewer = config_of(small_screen, tmp_path, classification={"crops_per_class": 10})
    Run.from_config(fewer).execute(redo=True)
    tree = open_results(fewer.store)
    for kind in ("grid", "evaluation", "proportions", "shifts", "plates/crops/embeddings"):
        assert list(tree[kind].children) == ["tiny"]


def test_status_names_what_has_not_begun(small_screen: Path, tmp_path: Path) -> None:
    config = config_of(small_screen, tmp_path)
    Run.from_config(config).execute(until="cut")
    stages = status(config.store)["stages"]
    assert stages["cut/crops"]["done"] == stages["cut/crops"]["units"]
    assert stages["shifts/tiny"]["units"] is None


def test_an_unknown_field_is_an_error(small_screen: Path, tmp_path: Path) -> None:
    config = config_of(small_screen, tmp_path, evaluation={"fields": ["7"]})
    with pytest.raises(InputError, match=r"evaluation.fields: no field '7' on the screen"):
        Run.from_config(config).execute()


def test_too_few_donors_are_an_error_that_says_what_to_do(
    small_screen: Path, tmp_path: Path
) -> None:
    config = config_of(small_screen, tmp_path, donors={"min_pool": 1000})
    with pytest.raises(InputError, match=r"donor pool for class .* need at least 1000: lower"):
        Run.from_config(config).execute()


def test_the_plan_counts_units_and_computes_nothing(small_screen: Path, tmp_path: Path) -> None:
    run = Run.from_config(config_of(small_screen, tmp_path))
    plans = {plan.stage: plan for plan in run.plan()}
    assert plans["cut/crops"].units == -(-len(run.screen.items) // 64)
    assert plans["grid/tiny"].units == 3 + 2 * len(LOCALIZATIONS)
    assert list(tmp_path.iterdir()) == []


def test_the_store_is_described(finished: Path) -> None:
    tree = open_results(finished)
    assert isinstance(tree, xr.DataTree)
    config = RunConfig.from_dict(tree.attrs["config"])
    assert config.settings[0] == "original"
    assert tree.attrs["versions"]["bgscale"]
    for node in tree.subtree:
        for name, variable in node.to_dataset(inherit=False).data_vars.items():
            assert variable.dims, (node.path, name)
    json.dumps(tree.attrs)


def test_of_a_unit_of_several_shards_each_is_on_the_disk_before_the_unit_ends(
    finished: Path, small_screen: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedding, "shards_a_unit", lambda model: 2)
    events: list[tuple[str, Any]] = []
    settled, complete = Ledger.settled, Ledger.complete
    main = threading.current_thread()

    def settling(self: Ledger, files: Any) -> Any:
        assert threading.current_thread() is not main
        events.append(("settled", sorted(files)))
        return settled(self, files)

    def completing(self: Ledger, unit: Unit, files: Any, summary: dict[str, Any]) -> None:
        if unit.stage.startswith("embed/"):
            events.append(("recorded", sorted(files)))
            assert isinstance(files, dict)
        complete(self, unit, files, summary)

    monkeypatch.setattr(Ledger, "settled", settling)
    monkeypatch.setattr(Ledger, "complete", completing)
    run = Run.from_config(config_of(small_screen, tmp_path))
    run.execute(until="embed")
    # three shards: two are a unit, and the last one is another
    assert [what for what, _ in events] == ["settled", "settled", "recorded", "settled", "recorded"]
    first, second, both, *_ = (files for _, files in events)
    assert both == sorted([*first, *second])
    node = "plates/crops/embeddings/tiny"
    values = open_results(run.config.store)[node]["profile/embedding"].to_numpy()
    expected = open_results(finished)[node]["profile/embedding"].to_numpy()
    np.testing.assert_array_equal(values, expected)
    assert len(run.ledger.recorded()) == len(run.ledger.done(run.ledger.recorded()))
