"""Progress is log lines without a terminal, bars with one, and JSON lines always."""

import io
import json
from itertools import pairwise

import pytest
from rich.console import Console

from bgscale import progress
from bgscale.distribute.listener import Silent
from bgscale.distribute.units import plan_units
from bgscale.progress import Narrator

UNITS = plan_units("embed/[a]/crops", 30, 10, "t")


def narrate(narrator):
    """Narrate a stage of three units, of which one was done before, then a training and a task."""
    with narrator:
        narrator.stage_started("embed/[a]/crops", "Embedding with [a] :bug:", 3, 1)
        for unit in UNITS[1:]:
            narrator.unit_done(unit, {"cells": 10})
        narrator.stage_finished("embed/[a]/crops")
        narrator.epoch_done(5, 6, "loss [0.1]")
        narrator.epoch_done(6, 6, "loss [0.05]")
        with narrator.task("Counting") as advance:
            advance(1, 2)
            advance(2, 2)


def lines(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_without_a_terminal_there_are_plain_lines(tmp_path, monkeypatch):
    monkeypatch.setattr(progress, "LOG_INTERVAL_S", -1.0)
    stream = io.StringIO()
    narrate(Narrator(tmp_path, stream))
    said = stream.getvalue()
    assert "\x1b" not in said
    # names in brackets or between colons are said as they are
    assert said.splitlines()[0].endswith("Embedding with [a] :bug:: 3 units, 1 of them done before")
    assert [line.split(" ", 1)[1] for line in said.splitlines()[1:]] == [
        "Embedding with [a] :bug:: 2/3",
        "Embedding with [a] :bug:: 3/3",
        "train: epoch 5 of 6, loss [0.1]",
        "train: epoch 6 of 6, loss [0.05]",
        "Counting",
        "Counting: 1/2",
        "Counting: 2/2",
    ]


def test_lines_are_spared_within_the_interval(tmp_path, monkeypatch):
    monkeypatch.setattr(progress, "LOG_INTERVAL_S", 1e9)
    stream = io.StringIO()
    narrate(Narrator(tmp_path, stream))
    assert [line.split(" ", 1)[1] for line in stream.getvalue().splitlines()] == [
        "Embedding with [a] :bug:: 3 units, 1 of them done before",
        "train: epoch 6 of 6, loss [0.05]",
        "Counting",
    ]


def test_a_stage_that_is_complete_already_says_nothing(tmp_path):
    stream = io.StringIO()
    narrator = Narrator(tmp_path, stream)
    narrator.stage_started("s", "Done before", 3, 3)
    assert stream.getvalue() == ""


def test_every_event_is_a_json_line(tmp_path):
    narrate(Narrator(tmp_path / "made", io.StringIO()))
    events = lines(tmp_path / "made")
    assert [e["event"] for e in events] == [
        "run_started",
        "stage_started",
        "unit_done",
        "unit_done",
        "stage_finished",
        "epoch",
        "epoch",
    ]
    assert events[2]["unit"] == "embed/[a]/crops/000000010-000000020"
    assert events[2]["cells"] == 10
    assert events[4]["done"] == 3
    assert all(a["time"] <= b["time"] for a, b in pairwise(events))


def test_a_summary_cannot_hide_what_the_line_is(tmp_path):
    narrator = Narrator(tmp_path, io.StringIO())
    narrator.unit_done(UNITS[0], {"event": "x", "unit": "x", "time": "x"})
    _, event = lines(tmp_path)
    assert event["event"] == "unit_done"
    assert event["unit"] == UNITS[0].name
    assert isinstance(event["time"], float)


def test_a_second_narrator_goes_on_in_the_same_file(tmp_path):
    for _ in range(2):
        Narrator(tmp_path, io.StringIO()).stage_finished("s")
    assert [line["event"] for line in lines(tmp_path)] == ["run_started", "stage_finished"] * 2


def test_the_lines_of_a_store_are_beside_it(tmp_path):
    Narrator.of_store(str(tmp_path / "results.zarr")).stage_finished("s")
    assert (tmp_path / "results.zarr.progress" / "log.jsonl").is_file()
    assert not (tmp_path / "results.zarr").exists()


@pytest.fixture
def terminal(tmp_path, monkeypatch):
    """Return a narrator that takes its stream for a terminal, and the stream."""
    stream = io.StringIO()

    def console(**options):
        return Console(**options, force_terminal=True, width=100, color_system="standard")

    monkeypatch.setattr(progress, "Console", console)
    return Narrator(tmp_path, stream), stream


def test_on_a_terminal_there_are_bars_with_the_names_as_they_are(terminal, tmp_path):
    narrator, stream = terminal
    narrate(narrator)
    shown = stream.getvalue()
    assert "\x1b[" in shown
    assert "Embedding with [a] :bug:" in shown
    assert "3/3" in shown
    assert len(lines(tmp_path)) == 7


def test_a_training_that_goes_on_gets_a_bar_of_its_own(terminal):
    narrator, _ = terminal
    narrate(narrator)
    tasks = {task.description: (task.completed, task.total) for task in narrator._bars.tasks}
    assert tasks == {
        "Embedding with [a] :bug:": (3, 3),
        "train: loss [0.05]": (6, 6),
        "Counting": (2, 2),
    }


def test_bars_are_put_away_when_the_run_fails(terminal):
    narrator, stream = terminal

    def fail():
        with narrator:
            narrator.stage_started("s", "Working", 3, 0)
            raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        fail()
    # the cursor is shown again
    assert stream.getvalue().rstrip().endswith("\x1b[?25h")


def test_a_silent_listener_hears_everything_and_says_nothing(capsys):
    silent = Silent()
    silent.stage_started("s", "p", 1, 0)
    silent.unit_done(UNITS[0], {})
    silent.stage_finished("s")
    assert capsys.readouterr() == ("", "")
