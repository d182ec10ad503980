"""The controls of experiment 1 in a run: what is stored, what a person reads, what is refused."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from screens import config_of

from bgscale.cli import main
from bgscale.controls import findings, groups_of, neighbours_of
from bgscale.errors import InputError
from bgscale.pipeline import stages
from bgscale.results import Store, open_results
from bgscale.run import Run
from bgscale.stages.job import Job
from bgscale.summary import tables


@pytest.fixture(scope="module")
def tree(finished):
    return open_results(finished)


def test_classifiers_of_original_say_on_original_what_the_evaluation_says(tree):
    evaluation, controls = tree["evaluation/tiny"], tree["controls/tiny"]
    at = {"setting": "original"}
    told = controls["transferred_decision"].sel(at)
    assert {0, 1} <= set(told.values.ravel().tolist())
    np.testing.assert_array_equal(told, evaluation["decision"].sel(at))
    np.testing.assert_allclose(controls["transferred"].sel(at), evaluation["accuracy"].sel(at))


def test_every_problem_of_the_evaluation_is_tested_and_each_background_in_conflict(tree):
    evaluation, controls = tree["evaluation/tiny"], tree["controls/tiny"]
    np.testing.assert_array_equal(
        np.isfinite(controls["transferred"]), np.isfinite(evaluation["accuracy"])
    )
    upper = np.triu(np.ones((4, 4), bool), 1)
    for setting in evaluation["setting"].values:
        each = bool(evaluation["each_background"].sel(setting=setting))
        there = np.isfinite(controls["conflict"].sel(setting=setting)).all("fold")
        np.testing.assert_array_equal(there, upper & each)


def test_decisions_are_those_that_the_accuracy_counts(tree):
    evaluation = tree["evaluation/tiny"].to_dataset()
    told = evaluation["decision"].sel(setting="same", background="own")
    mean = told.where(told >= 0).mean(("member", "draw"))
    np.testing.assert_allclose(
        mean, evaluation["accuracy"].sel(setting="same", background="own").mean("fold")
    )
    assert (evaluation["iterations"].where(evaluation["accuracy"].notnull(), 1) >= 0).all()


def test_proteins_are_held_out_together_beside_the_published_folds(tree):
    evaluation = tree["evaluation/tiny"].to_dataset()
    assert evaluation.attrs["groups"] == "protein"
    # two proteins a class make two folds
    filled = np.isfinite(evaluation["grouped_accuracy"]).sum("fold")
    problems = np.isfinite(evaluation["accuracy"]).all("fold")
    np.testing.assert_array_equal(filled, np.where(problems, 2, 0))
    codes = groups_of(tree, evaluation)
    np.testing.assert_array_equal(codes, tree["centres"]["protein"])


def test_the_table_shows_both_kinds_of_folds_and_the_controls(finished):
    made = tables(finished)["tiny"]
    assert made.attrs["rows"] == {
        "grouped_": "grouped by protein",
        "transferred_": "trained on original",
        "conflict_": "conflict",
    }
    same = made.sel(setting="same")
    assert len({float(same[p + "mean"]) for p in ("", "grouped_", "transferred_")}) == 3
    assert np.isnan(same["conflict_mean"])
    assert np.isfinite(made["conflict_mean"].sel(setting="different"))
    printed = CliRunner().invoke(main, ["table", str(finished)])
    assert printed.exit_code == 0
    for title in made.attrs["rows"].values():
        assert f"\n  {title}" in printed.output
    document = CliRunner().invoke(main, ["table", str(finished), "--json"]).output
    assert json.loads(document)["tiny"]["settings"]["same"]["grouped_mean"] == float(
        same["grouped_mean"]
    )


def test_the_command_says_what_was_found_in_words_and_in_json(finished):
    printed = CliRunner().invoke(main, ["controls", str(finished)])
    assert printed.exit_code == 0, printed.output
    for words in ("worst first", "taken for the class of their background", "neighbours"):
        assert words in printed.output
    found = CliRunner().invoke(main, ["controls", str(finished), "--json"]).output
    document = json.loads(found, parse_constant=lambda text: pytest.fail(text))
    assert set(document["tiny"]) == {
        "harm", "confusion", "sensitivity", "neighbours", "transferred", "conflict",
    }  # fmt: skip
    unknown = CliRunner().invoke(main, ["controls", str(finished), "--model", "tony"])
    assert unknown.exit_code != 0


def test_neighbours_are_those_of_the_cells_that_were_drawn(tree):
    evaluation = tree["evaluation/tiny"].to_dataset()
    counts, share = neighbours_of(tree)
    row = tree["centres"]["row"].to_numpy()
    mask = tree["plates/crops/crops"]["mask"].to_numpy()[row]
    np.testing.assert_allclose(share, (mask == 2).mean((2, 3)), atol=1e-6)
    np.testing.assert_array_equal(counts == 0, share == 0)
    assert (counts > 0).any()
    cells = findings(tree_path(tree))["tiny"]["neighbours"]["recall_by_neighbours_n_cells"]
    assert (cells.sum("neighbours") == evaluation.sizes["draw"] * 4).all()


def tree_path(tree):
    return tree.attrs["config"]["store"]


def test_what_is_asked_for_goes_into_the_tokens(small_screen, tmp_path):
    def tokens(**section):
        values = {"crops_per_class": 20, **section}
        job = Job(config_of(small_screen, tmp_path, classification=values))
        return {stage.name: stage.token for stage in stages(job)}

    plain = tokens()
    for change in ({"groups": "field"}, {"solver": "libsvm"}):
        other = tokens(**change)
        moved = [name for name in plain if plain[name] != other[name]]
        assert moved == ["evaluate/tiny", "controls/tiny"]


def test_wells_of_a_crops_screen_are_refused(small_screen, tmp_path):
    config = config_of(small_screen, tmp_path, classification={"groups": "well"})
    with pytest.raises(InputError, match="a screen of crops has no wells; expected auto, protein"):
        Run.from_config(config).plan()


def test_new_settings_in_a_run(small_screen, tmp_path):
    names = ["original", "different", "different_plate_matched", "masked", "masked_dilated_2"]
    config = config_of(
        small_screen, tmp_path, settings=names, classification={"crops_per_class": 5}
    )
    Run.from_config(config).execute(until="grid")
    grid = dict(zip(names, Store(config.store).read("grid/tiny/profile/embedding"), strict=True))
    # a crops screen is one plate
    np.testing.assert_array_equal(grid["different"], grid["different_plate_matched"])
    own = {name: grid[name][0] for name in ("original", "masked", "masked_dilated_2")}
    assert all(np.isfinite(values).all() for values in own.values())
    assert (own["masked"] != own["masked_dilated_2"]).any()
    assert (own["original"] != own["masked_dilated_2"]).any()
