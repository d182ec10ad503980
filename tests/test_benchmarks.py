"""The suite of benchmarks: its list is whole, quick runs run, and the README's table is theirs."""

import json
import runpy
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
FOLDER = REPOSITORY / "benchmarks"
QUICK = ("segmentation", "extraction", "feeding", "proportions", "query")
"""Need nothing but bgscale, and seconds."""
TOO_SLOW = {
    "plate": "three steps for each of two plates, each in a process of its own",
    "embedding": "compiles three networks",
    "precision": "trains a network",
    "classification": "libsvm run on until it converges",
    "cluster": "starts clusters",
    "calibration": "starts processes; its parts have tests of their own",
    "soak": "starts a cluster, and kills it; its parts have tests of their own",
    "second_bank": "trains a network, and starts a cluster",
    "whole_proteome": "starts a cluster",
}
"""Have a quick run as well, but not of seconds; that they load and explain themselves is tested."""


@pytest.fixture(autouse=True)
def _paths(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(FOLDER)
    monkeypatch.syspath_prepend(REPOSITORY)


def test_every_script_is_listed_once_and_says_what_it_is_for() -> None:
    from benchmarks.suite import BENCHMARKS, NOT_BENCHMARKS

    listed = [one.name for one in BENCHMARKS]
    assert sorted([*listed, *NOT_BENCHMARKS]) == sorted(path.stem for path in FOLDER.glob("*.py"))
    assert all(one.purpose.endswith(".") and one.takes for one in BENCHMARKS)
    assert {one.name for one in BENCHMARKS if one.quick is not None} == {*QUICK, *TOO_SLOW}


def test_the_table_of_the_readme_is_that_of_the_committed_json(
    capsys: pytest.CaptureFixture[str],
) -> None:
    from benchmarks.__main__ import main

    assert main(["table", "--check"]) == 0, capsys.readouterr().out


def test_a_figure_that_is_not_in_the_json_is_found_and_mended(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from benchmarks.__main__ import main
    from benchmarks.table import committed, number

    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    faster = number(committed()["embedding"]["composition"]["times numpy"])
    assert text.count(f"| {faster} | `embedding` |") == 1
    copy = tmp_path / "README.md"
    copy.write_text(text.replace(f"| {faster} | `embed", "| 99.9 | `embed"), encoding="utf-8")
    check = ["table", "--check", "--readme", str(copy)]
    assert main(check) == 1
    assert "-| five settings composed" in capsys.readouterr().out
    assert main(["table", "--readme", str(copy)]) == 0
    assert main(check) == 0
    assert copy.read_text(encoding="utf-8") == text


def test_the_table_shows_spread_where_there_is_some_and_says_what_is_missing() -> None:
    from benchmarks.machine import conditions, spread
    from benchmarks.table import Figure, figure
    from benchmarks.table import conditions as in_words

    assert str(figure(spread([4.0, 3.0, 8.0]))) == "4.0 (3.0 to 8.0)"
    assert str(figure(5.5)) == "5.5"
    assert str(Figure(0.5, 0.25, 1.0).inverse()) == "2.0 (1.00 to 4.0)"
    assert str(Figure(12345.6)) == "12,346"
    here = in_words(conditions(threads=1, seeds=[0, 7]))
    assert "threads 1; seeds 0 7" in here
    assert "not recorded" not in here
    lacking = "processor x86_64; threads 2; cores, memory, seeds not recorded"
    assert in_words({"processor": "x86_64", "threads": 2}) == lacking
    assert in_words({"machine": "x86_64, CPython"}) == "x86_64, CPython; nothing else recorded"


def test_the_machine_has_no_name() -> None:
    import platform

    from benchmarks.machine import machine

    assert platform.node() not in json.dumps(machine()).split('"')


def test_a_benchmark_that_fails_does_not_end_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from benchmarks import suite
    from benchmarks.__main__ import run_them

    monkeypatch.setattr(suite, "HERE", tmp_path)
    wrong = 'print("so far")\nraise SystemExit("it broke")\n'
    (tmp_path / "wrong.py").write_text(wrong, encoding="utf-8")
    right = "import pathlib, sys\npathlib.Path(sys.argv[-1]).write_text(str(sys.argv[1:-2]))\n"
    (tmp_path / "right.py").write_text(right, encoding="utf-8")
    chosen = [
        suite.Benchmark("wrong", "no time"),
        suite.Benchmark("right", "no time", with_data=("--data", suite.DATA)),
        suite.Benchmark("choosy", "no time", (suite.DATA,), needs="DATA/cells"),
        suite.Benchmark("slow", "a day", quick=None),
    ]
    results = tmp_path / "results"
    assert run_them(chosen, suite.Places(results), quick=True) == 1
    said = capsys.readouterr().out
    assert "it broke" in said
    assert "failed: wrong\n" in said
    assert "it needs DATA/cells: --data DATA" in said
    assert "slow            skipped: it has no quick run" in said
    assert (results / "wrong.log").read_text(encoding="utf-8") == "so far\nit broke\n"
    assert (results / "right.json").read_text(encoding="utf-8") == "['--quick']"
    assert run_them(chosen[1:2], suite.Places(results, data=tmp_path), quick=False) == 0
    assert (results / "right.json").read_text(encoding="utf-8") == f"['--data', '{tmp_path}']"


@pytest.mark.parametrize(
    "arguments",
    [["run", "segmentatoin"], ["run", "yeast_crops"], ["run", "--data", "no-such-folder"]],
)
def test_what_cannot_be_run_is_refused_before_anything_is(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    from benchmarks.__main__ import main

    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert "error" in capsys.readouterr().err


@pytest.mark.slow
def test_the_quick_ones_run_and_write_under_what_conditions(tmp_path: Path) -> None:
    from benchmarks.__main__ import main

    assert main(["run", *QUICK, "--quick", "--folder", str(tmp_path)]) == 0
    for name in QUICK:
        report = json.loads((tmp_path / f"{name}.json").read_text(encoding="utf-8"))
        assert report["machine"]["cores"] > 0
        assert report["threads"] == 1
        assert report["seeds"]
        assert report["versions"]["numpy"]


@pytest.mark.parametrize(
    "name",
    [*TOO_SLOW, "report", "yeast_crops", "invariance", "growth", "rates", "limits", "proteome"],
)
def test_those_that_are_not_run_load_and_explain_themselves(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    with pytest.raises(SystemExit, match="0"):
        runpy.run_path(str(FOLDER / f"{name}.py"), run_name="__main__")
    assert "usage" in capsys.readouterr().out
