"""The command line: help for newcomers, results on stdout, one clear error and an exit code."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result
from screens import config_of, screen_section, write_screen

from bgscale import __version__
from bgscale.cli import main
from bgscale.config import RunConfig, template

COMMANDS = [
    "demo", "init", "info", "import", "map", "plan", "rates", "run", "status", "train", "verify",
    "table", "controls", "shifts", "donors", "quality", "compare", "plot", "export", "query",
    "report", "models", "weights",
]  # fmt: skip


def call(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


def toml(folder: Path, config: RunConfig) -> Path:
    path = folder / "run.toml"
    path.write_text(template(config), encoding="utf-8")
    return path


def assert_clear(result: Result, code: int, *parts: str) -> None:
    """Assert that the call ended with the code and one line of error that has these parts."""
    assert result.exit_code == code, (result.output, result.exception)
    assert result.exception is None or isinstance(result.exception, SystemExit)
    lines = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, result.stderr
    for part in parts:
        assert part in lines[0], lines[0]


def test_the_commands_are_those_of_the_design() -> None:
    assert list(main.commands) == COMMANDS


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_and_option_has_help(command: str) -> None:
    result = call(command, "--help")
    assert result.exit_code == 0
    assert len(main.commands[command].help or "") > 40
    for parameter in main.commands[command].params:
        if isinstance(parameter, click.Option):
            assert parameter.help, f"{command} {parameter.name}"


def test_help_does_not_wait_for_torch() -> None:
    code = "import sys, bgscale, bgscale.cli; print([m for m in ('torch', 'sklearn', 'matplotlib', "
    code += "'zarr', 'distributed', 'xarray') if m in sys.modules])"
    printed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert printed.stdout.strip() == "[]"


def test_the_package_runs_as_a_module() -> None:
    command = [sys.executable, "-m", "bgscale", "--version"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert printed == f"bgscale, version {__version__}\n"


def test_the_whole_way_of_a_newcomer(small_screen: Path, tmp_path: Path) -> None:
    crops = small_screen / "crops.zip"
    output = tmp_path / "run.toml"
    written = call("init", crops, "-o", output)
    assert written.exit_code == 0
    assert "guessed by their names: protein = 'gfp', cytosol = 'rfp'" in written.stderr
    assert_clear(call("init", crops, "-o", output), 2, "there already", "--force")
    config = RunConfig.from_toml(output)
    assert config.screen.mask == "mask"
    assert config.screen.nucleus == "nuc"
    assert len((tmp_path / "platemap.csv").read_text().splitlines()) == 11
    described = call("info", crops)
    assert described.exit_code == 0
    assert "10 proteins" in described.stdout
    assert json.loads(call("info", crops, "--json").stdout)["crops"] > 100
    # an unfilled template is bad input, not a run without classes
    assert_clear(call("plan", output), 2, "empty for every protein")
    (tmp_path / "platemap.csv").write_bytes((small_screen / "platemap.csv").read_bytes())
    assert "cut/crops" in call("plan", output).stdout


def test_train_run_table(small_screen: Path, tmp_path: Path) -> None:
    config = config_of(
        small_screen,
        tmp_path,
        models={"tiny": {"weights": str(tmp_path / "tiny.safetensors")}},
        training={"epochs": 2, "threads": 1},
    )
    path = toml(tmp_path, config)
    assert_clear(call("run", path), 2, "bgscale train")
    trained = call("train", path)
    assert trained.exit_code == 0, trained.stderr
    assert (tmp_path / "tiny.safetensors").exists()
    ran = call("run", path)
    assert ran.exit_code == 0, ran.stderr
    assert "random weights" not in ran.stderr
    printed = call("table", config.store)
    assert printed.exit_code == 0, printed.stderr
    assert "same - different" in printed.stdout
    assert "20 crops a class" in printed.stdout
    values = json.loads(call("table", config.store, "--json").stdout)["tiny"]
    assert set(values["settings"]) == set(config.settings)
    differ = call("table", config.store, "--differ-in", "plat")
    assert_clear(differ, 2, "no column 'plat' (did you mean 'plate'?)")
    assert_clear(call("table", config.store, "--model", "tinny"), 2, "did you mean 'tiny'?")
    stages = json.loads(call("status", config.store, "--json").stdout)["stages"]
    assert all(stage["done"] == stage["units"] for stage in stages.values())


def test_random_weights_are_said(small_screen: Path, finished: Path, tmp_path: Path) -> None:
    config = config_of(small_screen, finished.parent)
    assert "random weights" in call("run", toml(tmp_path, config)).stderr
    assert "random weights" in call("table", finished).stdout


def test_a_first_look_takes_few_cells(small_screen: Path, tmp_path: Path) -> None:
    path = toml(tmp_path, config_of(small_screen, tmp_path))
    printed = call("plan", path, "--limit", "40").stdout
    assert "results.look.zarr" in printed
    assert "40 crops of 10 proteins" in printed
    printed = call("plan", path, "--proteins", "SIM001,SIM003").stdout
    assert "of 2 proteins" in printed


def test_bad_crops_are_counted_and_the_run_ends_with_3(tmp_path: Path) -> None:
    screen = write_screen(tmp_path / "screen")
    archive = screen / "crops.zip"
    with zipfile.ZipFile(archive) as old:
        members = {name: old.read(name) for name in old.namelist()}
    gfp = [name for name in members if name.endswith("_gfp.tif")]
    members[gfp[0]] = members[gfp[0]][:200]
    members[gfp[5]] = b"this is no TIFF"
    mask = gfp[9].replace("_gfp", "_mask")
    members[mask] = members[mask][:-4096] + bytes(4096)
    with zipfile.ZipFile(archive, "w") as new:
        for name, data in members.items():
            new.writestr(name, data)
    config = config_of(screen, tmp_path)
    ran = call("run", toml(tmp_path, config))
    assert ran.exit_code == 3, ran.stderr
    assert "3 of" in ran.stderr
    assert "2 file or chunk is damaged, or is not a TIFF" in ran.stderr
    assert "1 no cell at the centre" in ran.stderr
    # told again, not forgotten
    assert call("run", toml(tmp_path, config)).exit_code == 3


def _bad(small: Path, folder: Path) -> dict[str, tuple[dict[str, Any], tuple[str, ...]]]:
    screen = screen_section(small)
    unknown = folder / "unknown.csv"
    unknown.write_text("protein,localization\nNOPE1,nucleus\n")
    return {
        "no screen": ({"screen": {**screen, "path": str(small / "crop.zip")}},
                      ("no such", "did you mean 'crops.zip'?")),
        "no match": ({"screen": {**screen, "pattern": "{protein}-{cell}-{channel}.tif"}},
                     ("no file", "SIM001")),
        "no class column": ({"screen": {**screen, "class_column": "location"}},
                            ("no column 'location'", "localization")),
        "unknown protein": ({"screen": {**screen, "plate_map": str(unknown)}}, ("'NOPE1'",)),
        "no channel": ({"screen": {**screen, "protein": "mcherry"}}, ("'mcherry'", "gfp")),
        "setting": ({"settings": ["original", "maskd"]}, ("maskd", "did you mean 'masked'?")),
        "architecture": ({"models": {"x": {"architecture": "pifa"}}},
                         ("pifa", "did you mean 'pifia'?")),
        "unwritable": ({"store": "/proc/bgscale/results.zarr"}, ("/proc/bgscale",)),
        "no store": ({"store": str(small)}, ("not a run store",)),
        "channels": ({"models": {"x": {"channels": ["protein", "nucleus"]}}}, ("nucleus",)),
    }  # fmt: skip


@pytest.mark.parametrize(
    "case",
    [
        "no screen", "no match", "no class column", "unknown protein", "no channel", "setting",
        "architecture", "unwritable", "no store", "channels",
    ],
)  # fmt: skip
def test_bad_input_is_one_clear_error(small_screen: Path, tmp_path: Path, case: str) -> None:
    changes, parts = _bad(small_screen, tmp_path)[case]
    path = toml(tmp_path, config_of(small_screen, tmp_path, **changes))
    assert_clear(call("run", path), 2, *parts)


def test_weights_that_do_not_fit_are_named(small_screen: Path, tmp_path: Path) -> None:
    from bgscale.models import load_model
    from bgscale.models.weights import save_weights

    model = load_model("tiny", n_outputs=3)
    weights = tmp_path / "tiny.safetensors"
    save_weights(weights, model.network, model.spec)
    models = {"pifia": {"architecture": "pifia", "weights": str(weights)}}
    path = toml(tmp_path, config_of(small_screen, tmp_path, models=models))
    assert_clear(call("run", path), 2, "tiny")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("sed = 1\n", ("unknown key 'sed'", "did you mean 'seed'?")),
        ("[screen]\npth = 'x'\n", ("unknown key 'screen.pth'", "did you mean 'path'?")),
        ("seed = -1\n", ("seed = -1",)),
        ("seed = \n", ("not TOML",)),
    ],
)
def test_a_bad_config_is_one_clear_error(tmp_path: Path, text: str, parts: tuple[str, ...]) -> None:
    path = tmp_path / "run.toml"
    path.write_text(text)
    assert_clear(call("run", path), 2, *parts)


def test_the_published_table_is_built_from_published_accuracies(shared_data: Path) -> None:
    folder = shared_data / "published" / "pci"
    printed = call("table", "--published", folder, "--aggregate", "published")
    assert printed.exit_code == 0, printed.stderr
    for figure in ("0.916 +/- 0.025", "0.869 +/- 0.029", "0.876 +/- 0.019", "0.930 +/- 0.016",
                   "0.772 +/- 0.026"):  # fmt: skip
        assert figure in printed.stdout
    printed = call("table", "--published", folder)
    for figure in ("0.919 +/- 0.017", "0.870 +/- 0.019", "0.873 +/- 0.020", "0.930 +/- 0.016",
                   "0.775 +/- 0.025"):  # fmt: skip
        assert figure in printed.stdout


def test_table_needs_one_source(tmp_path: Path) -> None:
    assert_clear(call("table"), 2, "STORE or --published")
    assert_clear(call("table", tmp_path), 2, "not a run store")
