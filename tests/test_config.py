"""The run config checks itself, documents itself, and says what is wrong in words."""

import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgscale.config import (
    CONTROL_SETTINGS,
    PAPER_SETTINGS,
    ModelSection,
    RunConfig,
    template,
)
from bgscale.errors import ConfigError
from bgscale.sections import Section
from bgscale.settings import SETTINGS


def keys(model):
    """Every key that a value can be given to: [(table, key)]."""
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            yield from ((name, key) for key in field.annotation.model_fields)
        elif name == "models":
            yield from (("models.tiny", key) for key in ModelSection.model_fields)
        else:
            yield "", name


def message(values):
    with pytest.raises(ConfigError) as caught:
        RunConfig.from_dict(values, origin="run.toml")
    return str(caught.value)


def test_the_template_documents_every_key_in_the_line_above_it():
    table, before, documented = "", "", {}
    for line in template().splitlines():
        if line.startswith("["):
            table = line.strip("[]")
            assert before.startswith("# "), f"[{table}] is not explained"
        elif line and not line.startswith("#"):
            key = line.split(" = ")[0]
            assert before.startswith("# "), f"{table}.{key} is not explained"
            assert len(before) > len("# so"), f"{table}.{key} is not explained"
            documented[table, key] = before
        before = line
    assert set(documented) == set(keys(RunConfig))


def test_every_option_of_the_template_is_one_line():
    options = [line for line in template().splitlines() if line and line[0] not in "#["]
    assert all(" = " in line for line in options)
    assert len(options) == len(list(keys(RunConfig)))


def test_the_template_reads_back_as_the_defaults():
    assert RunConfig.from_dict(tomllib.loads(template())) == RunConfig()


names = st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9_.-]{0,8}\Z")
texts = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=10)


@given(
    st.builds(
        RunConfig,
        store=texts,
        seed=st.integers(0, 2**63 - 1),
        models=st.dictionaries(
            names,
            st.builds(ModelSection, weights=texts, channels=st.lists(texts, max_size=3).map(tuple)),
            min_size=1,
            max_size=3,
        ),
    ),
    st.floats(1e-12, 1e12),
)
def test_any_config_survives_the_template_and_json(config, penalty):
    section = config.classification.model_copy(update={"penalty": penalty})
    config = config.model_copy(update={"classification": section})
    assert RunConfig.from_dict(tomllib.loads(template(config))) == config
    assert RunConfig.from_dict(config.to_config()) == config


def test_a_changed_value_shows_its_default_in_the_template():
    assert "(default: 0)\nseed = 7" in template(RunConfig(seed=7))


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"sed": 1}, "unknown key 'sed' (did you mean 'seed'?); known: store, seed,"),
        ({"donors": {"per_clas": 1}}, "unknown key 'donors.per_clas' (did you mean 'per_class'?)"),
        ({"models": {"m": {"wieghts": ""}}}, "'models.m.wieghts' (did you mean 'weights'?)"),
        ({"screen": {"mask_": "x"}}, "unknown key 'screen.mask_' (did you mean 'mask'?)"),
        ({"training": {"epoch": 1}}, "unknown key 'training.epoch' (did you mean 'epochs'?)"),
        # a model may be called like a table
        ({"models": {"donors": {"sed": 1}}}, "'models.donors.sed' (did you mean 'seed'?)"),
    ],
)
def test_an_unknown_key_names_the_nearest_of_its_table(values, says):
    assert says in message(values)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"seed": "7"}, 'seed = "7": expected an integer'),
        ({"seed": True}, "seed = true: expected an integer"),
        ({"seed": 1.5}, "seed = 1.5: expected an integer"),
        ({"screen": {"path": 3}}, "screen.path = 3: expected a string"),
        ({"screen": 3}, "screen = 3: expected a table"),
        ({"models": 3}, "models = 3: expected a table"),
        ({"models": {"m": 3}}, "models.m = 3: expected a table"),
        ({"settings": "original"}, 'settings = "original": expected a list'),
        ({"settings": ["original", 3]}, "settings.1 = 3: expected a string"),
        ({"classification": {"penalty": "a"}}, 'classification.penalty = "a": expected a number'),
    ],
)
def test_a_value_of_another_type_is_an_error_and_never_converted(values, says):
    assert message(values) == f"run.toml: {says}"


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"seed": -1}, "seed = -1: expected 0 or more"),
        ({"store": ""}, 'store = "": expected a string that is not empty'),
        ({"donors": {"per_class": 0}}, "donors.per_class = 0: expected 1 or more"),
        ({"classification": {"penalty": 0}}, "classification.penalty = 0: expected more than 0.0"),
        ({"classification": {"folds": 1}}, "classification.folds = 1: expected 2 or more"),
        (
            {"classification": {"penalty": float("inf")}},
            "classification.penalty = Infinity: expected a finite number",
        ),
        (
            {"training": {"validation_fraction": 1.0}},
            "training.validation_fraction = 1.0: expected less than 1.0",
        ),
        ({"shard_cells": 8192}, "shard_cells = 8192: expected 4096 or less"),
        ({"shard_cells": 100}, "shard_cells = 100: expected a multiple of 64"),
        ({"models": {}}, "models = {}: expected 1 or more of them"),
        (
            {"screen": {"intensity_scaling": "well"}},
            "screen.intensity_scaling = \"well\": expected 'plate', 'field' or 'none'",
        ),
    ],
)
def test_a_value_out_of_bounds_says_what_was_expected(values, says):
    assert message(values) == f"run.toml: {says}"


def test_a_model_name_that_cannot_be_a_folder_is_an_error():
    assert "models: name '../up'; expected letters" in message({"models": {"../up": {}}})


def test_all_mistakes_are_said_at_once():
    said = message({"seed": -1, "donors": {"per_class": 0}, "sed": 1})
    assert "seed = -1" in said
    assert "donors.per_class" in said
    assert "unknown key 'sed'" in said


def test_original_moves_to_the_front_and_is_never_missing_or_double():
    config = RunConfig.from_dict({"settings": ["masked", "original", "same"]})
    assert config.settings == ("original", "masked", "same")
    assert "'original' is missing" in message({"settings": ["masked"]})
    assert "named twice: same" in message({"settings": ["original", "same", "same"]})


def test_a_config_made_in_python_is_checked_like_a_file():
    assert RunConfig(settings=("masked", "original")).settings == ("original", "masked")
    with pytest.raises(ValueError, match="'original' is missing"):
        RunConfig(settings=("masked",))
    with pytest.raises(ValueError, match="a multiple of 64"):
        RunConfig(shard_cells=1)


def test_the_settings_that_the_config_names_are_all_there_are():
    assert set(PAPER_SETTINGS + CONTROL_SETTINGS) == set(SETTINGS)
    assert RunConfig().settings == PAPER_SETTINGS


def test_relative_paths_are_taken_from_the_folder_of_the_file(tmp_path):
    (tmp_path / "run.toml").write_text(
        'store = "out.zarr"\n[screen]\npath = "/data/crops.zip"\nplate_map = "s3://bucket/map.csv"\n'
        '[models.a]\nweights = "w.safetensors"\n[models.b]\n',
        encoding="utf-8",
    )
    config = RunConfig.from_toml(tmp_path / "run.toml")
    assert config.store == str(tmp_path / "out.zarr")
    assert config.screen.path == "/data/crops.zip"
    assert config.screen.plate_map == "s3://bucket/map.csv"
    assert config.models["a"].weights == str(tmp_path / "w.safetensors")
    assert config.models["b"].weights == ""


def test_a_file_that_is_missing_or_no_toml_is_said_with_its_path(tmp_path):
    with pytest.raises(ConfigError, match=r"cannot read .*none.toml: No such file.*bgscale init"):
        RunConfig.from_toml(tmp_path / "none.toml")
    with pytest.raises(ConfigError, match=r"cannot read .*: Is a directory"):
        RunConfig.from_toml(tmp_path)
    path = tmp_path / "run.toml"
    path.write_text("seed = \n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"run.toml is not TOML: .*line 1"):
        RunConfig.from_toml(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"run.toml is not TOML: "):
        RunConfig.from_toml(path)


def test_a_byte_order_mark_is_no_mistake(tmp_path):
    (tmp_path / "run.toml").write_bytes(b"\xef\xbb\xbfseed = 3\n")
    assert RunConfig.from_toml(tmp_path / "run.toml").seed == 3


def test_overrides_of_a_model_keep_the_mask_step_last_when_masked():
    section = ModelSection(channels=("protein",), preprocess=("mask", "standardise"), micro_batch=8)
    assert section.overrides() == {
        "channels": ("protein",),
        "preprocess": ("mask", "standardise"),
        "masked_preprocess": ("standardise", "mask"),
        "micro_batch": 8,
    }
    assert ModelSection().overrides() == {}
