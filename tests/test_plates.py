"""The whole flow from plates: exact windows, real background, failures marked, same bytes."""

import json
import shutil
import signal
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from distributed import Client
from screens import plates_config, write_plate_screen
from test_run import Counter, assert_same_store

from bgscale import fields, ngff, open_results, open_screen
from bgscale.cli import main
from bgscale.config import RunConfig, template
from bgscale.distribute.listener import Silent
from bgscale.distribute.units import Unit
from bgscale.errors import InputError, InterruptedRunError
from bgscale.models import load_model
from bgscale.quality import summarise
from bgscale.run import Run
from bgscale.schema import Reason
from bgscale.screen import PlateScreen
from bgscale.stages.embedding import _read_and_swap
from bgscale.stages.job import Job
from bgscale.summary import field_table

MOST_PIXEL_READS = 3.7
"""Of a field: once to segment it, once to measure it, once or twice to cut it (a shard may end
within it)."""


@pytest.fixture(scope="module")
def screen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_plate_screen(tmp_path_factory.mktemp("plates") / "screen")


@pytest.fixture(scope="module")
def store(screen: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = plates_config(screen, tmp_path_factory.mktemp("run"))
    outcome = Run.from_config(config).execute()
    assert outcome.is_complete
    return Path(config.store)


@pytest.fixture
def copied(screen: Path, tmp_path: Path) -> Path:
    """Copy the screen, to be damaged."""
    return Path(shutil.copytree(screen, tmp_path / "screen"))


def test_the_draw_knows_the_field_of_a_cell_among_those_of_all_plates(store: Path) -> None:
    job = Job(RunConfig.from_dict(open_results(store).attrs["config"]))
    pool = job.bank("donors").pool
    for number, plate in enumerate(job.plates):
        block, _ = _read_and_swap(job, load_model("tiny"), plate, [], slice(0, 30))
        codes = set(block.cells.field.tolist())
        assert {job.field_names[code].split("/")[0] for code in codes} == {plate}
        assert set(job.plate_of_field[list(codes)].tolist()) == {number}
    lent = job.plate_of_field[pool.field[pool.field >= 0]]
    assert set(lent.tolist()) == set(range(len(job.plates)))


def opened(folder: Path, **how: Any) -> PlateScreen:
    how = {"plate_map": folder / "platemap.csv", "nucleus": "nuc"} | how
    found = open_screen(folder / "plates", **how)
    assert isinstance(found, PlateScreen)
    return found


def test_a_run_from_plates_gives_the_whole_result(store: Path, screen: Path) -> None:
    tree = open_results(store)
    assert tree.attrs["plates"] == ["P1", "P2"]
    accuracy = tree["evaluation/tiny"]["accuracy"]
    assert np.isfinite(accuracy.sel(setting="masked", background="own")).any()
    proportions = tree["proportions/tiny"]["proportion"].sel(fit="fixed", setting="original")
    assert sorted(proportions["protein"].values) == sorted(
        pd.read_csv(screen / "platemap.csv")["protein"]
    )
    assert np.isfinite(proportions).all()


def test_most_cells_are_those_that_were_planted(store: Path, screen: Path) -> None:
    truth = pd.read_csv(screen / "truth" / "cells.csv", dtype={"field": str})
    tree, near = open_results(store), 0
    found = 0
    for plate in ("P1", "P2"):
        cells = tree[f"plates/{plate}/cells"].to_dataset().load()
        names = np.array(cells["field"].attrs["names"])[cells["field"]]
        for (well, field), planted in truth[truth["plate"] == plate].groupby(["well", "field"]):
            here = names == f"{plate}/{well}/{field}"
            apart = np.hypot(
                cells["y"].to_numpy()[here][:, None] - planted["y"].to_numpy(),
                cells["x"].to_numpy()[here][:, None] - planted["x"].to_numpy(),
            )
            near += int((apart.min(1) < 4).sum())
            found += int(here.sum())
    assert abs(found - len(truth)) < 0.1 * len(truth)
    assert near > 0.9 * found


def test_crops_are_exact_windows_of_their_fields(store: Path, screen: Path) -> None:
    tree, fields = open_results(store), opened(screen)
    cells = tree["plates/P2/cells"].to_dataset().load()
    crops = tree["plates/P2/crops"].to_dataset().load()
    labels = tree["plates/P2/labels"]["label"].to_numpy()
    size = crops.sizes["y"]
    seen_padding = False
    for i in range(0, cells.sizes["cell"], 7):
        f = int(cells["field"][i])
        image = fields.read("P2", f)
        top, left = (int(cells[axis][i]) - size // 2 for axis in "yx")
        rows, columns = (np.arange(a, a + size) for a in (top, left))
        within = np.ix_(
            (rows >= 0) & (rows < image.shape[1]), (columns >= 0) & (columns < image.shape[2])
        )
        crop, mask = crops["image"][i].to_numpy(), crops["mask"][i].to_numpy()
        window = (slice(max(top, 0), top + size), slice(max(left, 0), left + size))
        assert (crop[:, *within] == image[:, *window]).all()
        here = labels[f][window]
        expected = np.where(here == int(cells["number"][i]), 1, 2 * (here > 0))
        assert (mask[within] == expected).all()
        outside = size * size - here.size
        assert int(cells["padded_area"][i]) == outside
        seen_padding |= outside > 0
    assert seen_padding


def test_windows_are_real_background(store: Path, screen: Path) -> None:
    tree, fields = open_results(store), opened(screen)
    windows = tree["plates/P1/windows"].to_dataset().load()
    labels = tree["plates/P1/labels"]["label"].to_numpy()
    size, margin = windows.sizes["y"], tree.attrs["config"]["cells"]["margin_px"]
    present = np.flatnonzero(windows["present"])
    assert len(present) > 20
    for w in present:
        f, top, left = (int(windows[name][w]) for name in ("field", "top", "left"))
        image = fields.read("P1", f)[:, top : top + size, left : left + size]
        assert (windows["image"][w] == image).all()
        near = [slice(max(a - margin, 0), a + size + margin) for a in (top, left)]
        assert not labels[f][tuple(near)].any()
    bank = tree["windows"].to_dataset().load()
    assert not bank["mask"].any()
    kept = {crop.tobytes() for crop in windows["image"].to_numpy()[present]}
    kept |= {crop.tobytes() for crop in tree["plates/P2/windows"]["image"].to_numpy()}
    for k, count in enumerate(bank["size"].to_numpy()):
        assert all(crop.tobytes() in kept for crop in bank["image"].to_numpy()[k, :count])


def test_donors_come_from_all_plates_and_lie_within_their_fields(store: Path) -> None:
    tree = open_results(store)
    cells = {
        int(i): (plate, int(pad))
        for plate in ("P1", "P2")
        for i, pad in zip(
            tree[f"plates/{plate}/cells"]["id"].to_numpy(),
            tree[f"plates/{plate}/cells"]["padded_area"].to_numpy(),
            strict=True,
        )
    }
    donors = tree["donors"]
    ids = donors["id"].to_numpy()[donors["row"].to_numpy() >= 0].tolist()
    assert {cells[i][0] for i in ids} == {"P1", "P2"}
    assert all(cells[i][1] == 0 for i in ids)
    centres = {int(i) for i in tree["centres"]["id"].to_numpy().ravel()}
    assert any(cells[i][1] > 0 for i in centres)


@pytest.mark.cluster
def test_two_processes_give_the_same_bytes(
    screen: Path, store: Path, tmp_path: Path, cluster: Client
) -> None:
    config = plates_config(screen, tmp_path)
    Run.from_config(config).execute(cluster)
    assert_same_store(store, Path(config.store))


def test_plates_go_together_and_a_run_that_stops_among_them_goes_on(
    store: Path, screen: Path, tmp_path: Path
) -> None:
    class Heard(Silent):
        def __init__(self, stop_in: str) -> None:
            self.stages: dict[str, list[int]] = {}
            self._stop_in = stop_in

        def stage_started(self, stage: str, purpose: str, units: int, done: int) -> None:
            self.stages[stage] = [units, done]

        def unit_done(self, unit: Unit, summary: dict[str, Any]) -> None:
            # the first unit of the second plate: its second one is not begun
            if unit.stage == self._stop_in:
                signal.raise_signal(signal.SIGTERM)

    config = plates_config(screen, tmp_path, cells={"write_labels": True})
    run = Run.from_config(config)
    heard = Heard("embed/tiny/P2")
    with pytest.raises(InterruptedRunError):
        run.execute(listener=heard)
    assert list(heard.stages) == [
        "proteins", "segment", "labels", "measure", "gather", "cut", "ranges", "donors", "bank",
        "sample", "embed/tiny",
    ]  # fmt: skip
    units = {s.name: s.units(run._job) for s in run.stages if s.name.startswith("embed/tiny/")}
    first, second = units.values()
    assert heard.stages["embed/tiny"] == [len(first) + len(second), 0]
    assert len(second) > 1
    heard = Heard("")
    run.execute(listener=heard)
    assert heard.stages["embed/tiny"] == [len(first) + len(second), len(first) + 1]
    assert heard.stages["segment"][0] == heard.stages["segment"][1] > 0
    node = "plates/P2/embeddings/tiny/profile/embedding"
    np.testing.assert_array_equal(
        open_results(config.store)[node].to_numpy(), open_results(store)[node].to_numpy()
    )


def test_pixels_of_a_field_are_read_a_few_times_and_only_once_to_open(
    screen: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: dict[str, int] = {}
    plain = ngff.Plate.read

    def counted(self: ngff.Plate, ref: ngff.FieldRef, **how: Any) -> Any:
        reads[f"{ref.plate}/{ref.path}"] = reads.get(f"{ref.plate}/{ref.path}", 0) + 1
        return plain(self, ref, **how)

    monkeypatch.setattr(ngff.Plate, "read", counted)
    config = plates_config(screen, tmp_path)
    counter = Counter()
    run = Run.from_config(config)
    # two of each plate, for its identity
    assert sum(reads.values()) == 4
    reads.clear()
    run.execute(until="cut", listener=counter)
    fields = sum(len(refs) for refs in opened(screen).fields.values())
    assert len(reads) == fields
    assert sum(reads.values()) <= MOST_PIXEL_READS * fields
    assert counter.done["segment"] == counter.done["measure"] == fields
    assert counter.done["gather"] == 2
    for plate in ("P1", "P2"):
        # the crops of every plate are there when `until` ends, not those of the first alone
        assert (
            open_results(config.store)[f"plates/{plate}/crops"]["image"]
            .to_numpy()
            .any((1, 2, 3))
            .all()
        )
    Run.from_config(config).execute(until="cut", listener=counter)
    assert counter.done["segment"] == fields


def test_other_pixels_are_another_plate(copied: Path) -> None:
    before = opened(copied).identity("P1")
    for i, ref in enumerate(opened(copied).fields["P1"]):
        image = np.random.default_rng(i).integers(90, 900, (3, 288, 288)).astype(np.uint16)
        ngff.write_field(
            copied / "plates" / "P1.zarr", ref.well, ref.field, image,
            channels=["gfp", "rfp", "nuc"], pixel_size_um=0.17,
        )  # fmt: skip
    assert opened(copied).identity("P1") != before


def test_label_images_of_the_plate_are_used_when_asked_for(screen: Path, tmp_path: Path) -> None:
    config = plates_config(screen, tmp_path, cells={"labels": "truth", "border_px": 0})
    outcome = Run.from_config(config).execute(until="cut")
    truth = pd.read_csv(screen / "truth" / "cells.csv")
    assert outcome.cells == len(truth)
    assert outcome.set_aside.keys() <= {Reason.DEBRIS.text}
    cells = open_results(config.store)["plates/P1/cells"].to_dataset().load()
    expected = truth[truth["plate"] == "P1"]
    assert sorted(cells["y"].to_numpy().round(6)) == sorted(expected["y"].round(6))


def test_labels_are_written_as_a_plate_of_their_own(screen: Path, tmp_path: Path) -> None:
    config = plates_config(screen, tmp_path, cells={"write_labels": True})
    Run.from_config(config).execute(until="gather")
    plate = ngff.open_plate(tmp_path / "results.labels" / "P1.zarr")
    kept = open_results(config.store)["plates/P1/labels"]["label"].to_numpy()
    for i, ref in enumerate(plate.fields):
        labels = plate.read_labels(ref, "cells", shape=kept.shape[1:])
        assert (labels == kept[i]).all()
    assert "cells" not in opened(screen).handles["P1"].image(plate.fields[0]).labels


def _lose_chunk(field: Path) -> None:
    shutil.rmtree(field / "0" / "c")


def _damage_chunk(field: Path) -> None:
    chunk = next(p for p in (field / "0" / "c").rglob("*") if p.is_file())
    data = bytearray(chunk.read_bytes())
    data[100:200] = b"\xff" * 100
    chunk.write_bytes(bytes(data))


def _other_shape(field: Path) -> None:
    plate, well, name = field.parents[2], field.parts[-3] + field.parts[-2], field.name
    image = np.arange(3 * 99 * 99, dtype=np.uint16).reshape(3, 99, 99)
    ngff.write_field(plate, well, name, image, channels=["gfp", "rfp", "nuc"], pixel_size_um=0.17)


def _other_channel(field: Path) -> None:
    meta = json.loads((field / "zarr.json").read_text(encoding="utf-8"))
    meta["attributes"]["ome"]["omero"]["channels"][1]["label"] = "other"
    (field / "zarr.json").write_text(json.dumps(meta), encoding="utf-8")


def _constant(field: Path) -> None:
    plate, well, name = field.parents[2], field.parts[-3] + field.parts[-2], field.name
    image = np.full((3, 288, 288), 7, np.uint16)
    ngff.write_field(plate, well, name, image, channels=["gfp", "rfp", "nuc"], pixel_size_um=0.17)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (_lose_chunk, Reason.MISSING_CHUNKS),
        (_damage_chunk, Reason.UNREADABLE),
        (_other_shape, Reason.WRONG_SHAPE),
        (_other_channel, Reason.MISSING_CHANNEL),
        (_constant, Reason.CONSTANT),
        (shutil.rmtree, Reason.METADATA),
    ],
)
def test_a_bad_field_is_marked_and_the_run_goes_on(
    copied: Path, tmp_path: Path, damage: Callable[[Path], None], reason: Reason
) -> None:
    damage(copied / "plates" / "P1.zarr" / "A" / "01" / "1")
    run_toml = tmp_path / "run.toml"
    config = plates_config(copied, tmp_path, proportions={"folds": 2, "replicates": 0})
    run_toml.write_text(template(config), encoding="utf-8")
    result = CliRunner().invoke(main, ["run", str(run_toml)])
    assert result.exit_code == 3, result.output
    assert f"1 field(s) could not be used: 1 {reason.text}" in result.output
    tree = open_results(config.store)
    assert np.isfinite(
        tree["proportions/tiny"]["proportion"].sel(fit="fixed", setting="original")
    ).all()


def test_a_plate_without_a_cell_is_no_accident(
    copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plate = copied / "plates" / "P3.zarr"
    ngff.create_plate(plate, name="P3", fields={"A01": ["0"], "A02": ["0"]})
    rng = np.random.default_rng(0)
    for well in ("A01", "A02"):
        image = rng.normal(110, 6, (3, 288, 288)).astype(np.uint16)
        ngff.write_field(
            plate, well, "0", image, channels=["gfp", "rfp", "nuc"], pixel_size_um=0.17
        )
    table = pd.read_csv(copied / "platemap.csv").assign(kind="")
    table.loc[len(table)] = ["P3", "A01", "SIM001", "cytoplasm", ""]
    table.loc[len(table)] = ["P3", "A02", "", "", "blank"]
    table.to_csv(copied / "platemap.csv", index=False)
    few = plates_config(copied, tmp_path, settings=["original", "masked"])
    assert Run.from_config(few).execute().is_complete
    killed = Run.from_config(plates_config(copied, tmp_path))
    with monkeypatch.context() as patch:
        # when all that the further settings need was put aside, and before it is said
        patch.setattr("bgscale.run.upkeep.state", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            killed.execute()
    outcome = Run.from_config(plates_config(copied, tmp_path)).execute()
    assert outcome.is_complete
    # nothing is left of what was put aside for the further settings
    assert not (tmp_path / "results.zarr" / "before").exists()
    fields = open_results(tmp_path / "results.zarr")["plates/P3/fields"]
    assert fields["cells"].to_numpy().tolist() == [0, 0]
    assert fields["protein"].to_numpy().tolist()[1] == -1


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("P1,H12,SIM001,cytoplasm\n", "H12"),
        ("P1,A01,SIM001,cytoplasm\n", "repeats"),
    ],
)
def test_a_map_that_does_not_fit_the_plates_is_an_error(copied: Path, line: str, said: str) -> None:
    with (copied / "platemap.csv").open("a") as file:
        file.write(line)
    with pytest.raises(InputError, match=said):
        opened(copied)


def test_a_well_without_a_row_is_an_error(copied: Path) -> None:
    table = pd.read_csv(copied / "platemap.csv")
    table.iloc[1:].to_csv(copied / "platemap.csv", index=False)
    with pytest.raises(InputError, match="blank"):
        opened(copied)


def test_a_first_look_takes_few_fields_or_proteins(screen: Path) -> None:
    assert sum(map(len, opened(screen, limit=5).fields.values())) == 5
    one = opened(screen, proteins=["SIM003"])
    assert one.proteins == ("SIM003",)
    assert sum(map(len, one.fields.values())) == 2


def test_wrong_options_are_errors(screen: Path, tmp_path: Path) -> None:
    for cells, said in (
        ({"segmenter": "yeest"}, "yeast"),
        ({"options": {"diametre_um": 3.0}}, "diameter_um"),
        ({"options": {"diameter_um": -3.0}}, "positive"),
        ({"crop_size_px": 63}, "crop_size_px"),
        ({"crop_size_px": 300}, "288x288"),
        ({"windows_per_field": 0}, "cell_free"),
    ):
        with pytest.raises(InputError, match=said):
            Run.from_config(plates_config(screen, tmp_path, cells=cells))
    with pytest.raises(InputError, match=r"screen\.time = 3"):
        opened(screen, time=3)
    with pytest.raises(InputError, match="so are all"):
        opened(screen, protein="GPF")
    with pytest.raises(InputError, match="plate"):
        open_screen(tmp_path / "nothing" / "*.zarr", class_column="protein")


def test_info_and_quality_speak_of_plates(screen: Path, store: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["info", str(screen / "plates")])
    assert result.exit_code == 0, result.output
    assert "2 plates, 8 wells, 16 fields" in result.output
    assert "truth" in result.output
    picture = tmp_path / "quality.png"
    result = CliRunner().invoke(main, ["quality", str(store), "-o", str(picture)])
    assert result.exit_code == 0, result.output
    assert picture.stat().st_size > 5000


def test_init_writes_a_template_of_the_wells(screen: Path, tmp_path: Path) -> None:
    made = tmp_path / "run.toml"
    result = CliRunner().invoke(main, ["init", str(screen / "plates"), "-o", str(made)])
    assert result.exit_code == 0, result.output
    rows = pd.read_csv(tmp_path / "platemap.csv")
    assert len(rows) == 8
    assert {"plate", "well", "protein", "localization"} <= set(rows.columns)


def test_a_phenix_folder_becomes_a_screen(shared_data: Path, tmp_path: Path) -> None:
    images = shared_data / "yeast_fields" / "images"
    names = ["--channel", "1=GFP", "--channel", "2=nuclei", "--channel", "3=cytosol"]
    call = [
        "import",
        "phenix",
        str(images),
        str(tmp_path / "plates"),
        "--pixel-size",
        "0.2",
        *names,
    ]
    dry = CliRunner().invoke(main, [*call, "--dry-run"])
    assert dry.exit_code == 0, dry.output
    assert "1080 x 1080 uint16" in dry.output
    assert not (tmp_path / "plates").exists()
    assert CliRunner().invoke(main, call).exit_code == 0
    found = open_screen(
        tmp_path / "plates", class_column="protein", protein="GFP", cytosol="cytosol",
        nucleus="nuclei",
    )  # fmt: skip
    run = Run(found, tmp_path / "results.zarr")
    outcome = run.execute(until="cut")
    assert outcome.is_complete
    assert outcome.cells > 600


def test_the_third_party_plates_are_screens(shared_data: Path, tmp_path: Path) -> None:
    names = {"protein": "GFP", "cytosol": "cyto_farRed", "nucleus": "nuclear_RFP"}
    cells = {}
    for name in ("ngio_cyclenet_v0.5", "iohub_cyclenet_v0.4"):
        path = shared_data / "plates" / f"{name}.zarr"
        found = open_screen(path, class_column="protein", pixel_size_um=0.2, **names)
        assert sum(map(len, found.fields.values())) == 4
        cells[name] = Run(found, tmp_path / f"{name}.run").execute(until="gather").cells
    # the same pixels, by two writers
    assert len(set(cells.values())) == 1
    by_number = open_screen(
        shared_data / "plates" / "bioformats2raw-plate.zarr", class_column="protein", protein=0,
        cytosol=None,
    )  # fmt: skip
    assert by_number.read("bioformats2raw-plate", 0).shape == (1, 512, 512)


def test_a_screen_lies_on_an_object_store(
    screen: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    obstore = pytest.importorskip("obstore", reason="the extra s3 is not installed")
    server = pytest.importorskip("moto.server", reason="moto is not installed")
    endpoint = server.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    endpoint.start()
    try:
        host, port = endpoint.get_host_and_port()
        for key, value in {
            "AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_ALLOW_HTTP": "true",
            "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x",
            "AWS_DEFAULT_REGION": "us-east-1",
        }.items():  # fmt: skip
            monkeypatch.setenv(key, value)
        urllib.request.urlopen(
            urllib.request.Request(f"http://{host}:{port}/screens", method="PUT")
        ).close()
        bucket = obstore.store.from_url("s3://screens")
        for path in (screen / "plates").rglob("*"):
            if path.is_file():
                key = path.relative_to(screen).as_posix()
                obstore.put(bucket, key, path.read_bytes())
        remote = open_screen(
            "s3://screens/plates/*.zarr", plate_map=screen / "platemap.csv", nucleus="nuc"
        )
        local = opened(screen)
        assert remote.plates == local.plates
        assert (remote.read("P2", 3) == local.read("P2", 3)).all()
        assert remote.identity("P1") == local.identity("P1")
    finally:
        endpoint.stop()


def test_label_images_that_are_not_there_are_an_error_at_once(screen: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="did you mean 'truth'"):
        Run.from_config(plates_config(screen, tmp_path, cells={"labels": "thruth"}))


def test_another_plate_map_does_not_redo_segmentation(copied: Path, tmp_path: Path) -> None:
    config = plates_config(copied, tmp_path)
    Run.from_config(config).execute(until="cut")
    table = pd.read_csv(copied / "platemap.csv")
    table["protein"] = "X" + table["protein"]
    table.to_csv(copied / "platemap.csv", index=False)
    run = Run.from_config(config)
    assert "segment/P1" not in run.outdated()
    assert "gather/P1" in run.outdated()
    counter = Counter()
    run.execute(until="cut", redo=True, listener=counter)
    assert "segment" not in counter.done
    protein = open_results(config.store)["plates/P1/cells"]["protein"]
    assert protein.attrs["names"][0] == "XSIM001"


def test_an_odd_first_field_does_not_condemn_the_others(copied: Path) -> None:
    _other_shape(copied / "plates" / "P1.zarr" / "A" / "01" / "0")
    assert opened(copied).layouts["P1"].shape == (288, 288)
    (copied / "plates" / "P1.zarr" / "A" / "01" / "0" / "zarr.json").write_text("{")
    result = CliRunner().invoke(main, ["info", str(copied / "plates")])
    assert result.exit_code == 0, result.output
    assert "1 of 16 fields looked at cannot be used" in result.output


def test_labels_without_medium_keep_all_their_cells(copied: Path, tmp_path: Path) -> None:
    plate = copied / "plates" / "P1.zarr"
    labels = np.full((288, 288), 5)
    labels[100:200, 100:200] = 9
    ngff.write_labels(plate, "A01", "0", labels, name="truth", pixel_size_um=0.17)
    Run.from_config(plates_config(copied, tmp_path, cells={"labels": "truth"})).execute(
        until="segment"
    )
    kept = open_results(tmp_path / "results.zarr")["plates/P1/labels"]["label"][0].to_numpy()
    assert (kept == np.where(labels == 5, 1, 2)).all()


class BrokenSegmenter:
    """A plug-in that fails on bright fields and leaves a gap in its labels on others."""

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "BrokenSegmenter":
        return cls()

    def to_config(self) -> dict[str, Any]:
        return {}

    def __call__(self, image: Any, **how: Any) -> Any:
        if image.sum() % 2:
            msg = "out of memory on the card"
            raise RuntimeError(msg)
        return np.full(image.shape[1:], 7, np.int32)


def test_a_failing_plug_in_fails_its_field_alone(
    screen: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(fields.SEGMENTERS._paths, "broken", "test_plates:BrokenSegmenter")
    config = plates_config(screen, tmp_path, cells={"segmenter": "broken"})
    outcome = Run.from_config(config).execute(until="cut")
    assert outcome.failed_fields == {Reason.LABELS.text: 16}
    with pytest.raises(InputError, match="no cell that can be used"):
        Run.from_config(config).execute()


def test_a_plate_that_is_gone_leaves_the_store(copied: Path, tmp_path: Path) -> None:
    config = plates_config(copied, tmp_path)
    Run.from_config(config).execute(until="gather")
    shutil.rmtree(copied / "plates" / "P2.zarr")
    Run.from_config(config).execute(until="gather", redo=True)
    assert list(open_results(config.store)["plates"].children) == ["P1"]


def test_quality_shows_wells_that_are_missing(copied: Path, tmp_path: Path) -> None:
    shutil.rmtree(copied / "plates" / "P1.zarr" / "A" / "02")
    shutil.rmtree(copied / "plates" / "P1.zarr" / "A" / "01" / "1")
    config = plates_config(copied, tmp_path)
    outcome = Run.from_config(config).execute(until="gather")
    assert sum(outcome.failed_fields.values()) == 2
    dataset = summarise(field_table(config.store))
    plate = dataset.sel(plate="P1", row="A")
    assert plate["failed_fields"].sel(column=[1, 2]).to_numpy().tolist() == [1, 1]


def test_an_unknown_pixel_size_is_said(copied: Path, tmp_path: Path) -> None:
    assert not any("pixel" in n for n in Run.from_config(plates_config(copied, tmp_path)).notices())
    for plate in ("P1", "P2"):
        for meta in (copied / "plates" / f"{plate}.zarr").glob("*/*/*/zarr.json"):
            text = meta.read_text(encoding="utf-8").replace('"micrometer"', '"parsec"')
            meta.write_text(text, encoding="utf-8")
    run = Run.from_config(plates_config(copied, tmp_path))
    assert any("screen.pixel_size_um" in notice for notice in run.notices())
