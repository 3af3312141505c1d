"""How a run stands, by its files: what ended it, how far it is, and whether it still shows signs of life."""

import json
import os

import pytest

from ift.pages.live import LiveRun, age, standing
from ift.run import RunFolder, write_json

CONFIG = """\
data: {{batch_size: 10, drop_last: {drop}}}
trainer: {{max_epochs: 3, max_steps: {most}, devices: {devices}}}
"""


def make(folder, *, steps=4, drop="false", most="null", devices="1", status=None, rows=95):
    folder.mkdir(parents=True, exist_ok=True)
    run = RunFolder(folder)
    run.config.write_text(CONFIG.format(drop=drop, most=most, devices=devices))
    write_json(run.data_report, {"splits": {"train": rows}})
    lines = [
        {"step": s, "tokens": 10 * s, "epoch": 0, "train/loss": 1.0, "tokens_per_second": 20.0} for s in range(steps)
    ]
    run.metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
    if status:
        write_json(run.summary, {"status": status, "steps": 7, "stop_reason": "max_steps=7"})
    return run


def looked(run, **times):
    live = LiveRun(run.path)
    live.look(**times)
    live.read_settings()
    while live.metrics.behind:
        live.metrics.read()
    live.look(**times)
    return live


@pytest.mark.parametrize(
    ("status", "kind", "why"),
    [
        ("finished", "finished", "max_steps=7"),
        ("stopped by SIGTERM after step 3 of 9 (go on with: ...)", "stopped", "stopped by SIGTERM"),
        ("failed: step 3: loss nan (lower optim.lr)", "failed", "step 3: loss nan (lower optim.lr)"),
        ("trained; not answered yet", "answering", "trained; not answered yet"),
        (None, "running", ""),
        ({"a": 1}, "running", ""),
    ],
)
def test_summary_json_says_how_it_ended(tmp_path, status, kind, why):
    state = looked(make(tmp_path / "run", status=status)).state
    assert state.kind == kind
    assert state.why.startswith(why)


def test_a_job_that_was_refused_left_a_note_for_its_sweep():
    note = {"code": 2, "status": "failed: optim.lr=-1: must be above 0"}
    assert standing({}, note, begun=False, silent=9e9).why == "optim.lr=-1: must be above 0"
    assert standing({}, {"code": None, "status": ""}, begun=False, silent=0).kind == "starting"
    assert standing({"status": "finished"}, note, begun=True, silent=9e9).kind == "finished"


def test_silence_is_counted_from_the_last_change_of_any_file(tmp_path):
    run = make(tmp_path / "run")
    keeper = run.path / ".keeper"
    keeper.write_text("{}")
    for path in run.path.iterdir():
        os.utime(path, (1000, 1000))
    live = LiveRun(run.path)
    live.look(now=50.0, clock=1000 + 240)
    assert live.state.kind == "running"
    live.look(now=50.0 + 61, clock=0)  # the time of day is asked once
    assert (live.state.kind, live.state.why) == ("silent", "no sign of life for 5 min")
    os.utime(keeper, (1001, 1001))  # a sign of life, by a clock that is far behind
    live.look(now=200.0, clock=1e9)
    assert live.state.kind == "running"
    os.utime(keeper, (5e9, 5e9))
    live.look(now=501.0)
    live.look(now=800.0)
    assert live.state.kind == "running"
    live.look(now=801.5)
    assert live.state.kind == "silent"


def test_a_clock_that_is_ahead_is_no_silence_and_no_life_for_ever(tmp_path):
    run = make(tmp_path / "run")
    for path in run.path.iterdir():
        os.utime(path, (9000, 9000))
    live = LiveRun(run.path)
    live.look(now=0.0, clock=1000)
    assert live.state.kind == "running"
    live.look(now=299.0, clock=1299)
    assert live.state.kind == "running"
    live.look(now=301.0, clock=1301)
    assert live.state.kind == "silent"


@pytest.mark.parametrize(
    ("settings", "steps"),
    [
        ({}, 30),  # 95 rows in batches of 10, 3 epochs
        ({"drop": "true"}, 27),
        ({"most": "12"}, 12),
        ({"most": "500"}, 30),
        ({"devices": "2"}, 15),
        ({"devices": "auto"}, None),
        ({"devices": "auto", "most": "12"}, 12),
        ({"rows": None}, None),
        ({"status": "finished"}, 7),
    ],
)
def test_steps_of_the_whole_training(tmp_path, settings, steps):
    assert looked(make(tmp_path / "run", **settings)).steps() == steps


def test_the_second_epoch_shows_how_many_steps_one_has(tmp_path):
    run = make(tmp_path / "run", devices="auto")
    lines = [{"step": s, "epoch": 0 if s <= 8 else 1} for s in range(12)]
    run.metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert looked(run).steps() == 24


def test_time_left_is_that_of_the_steps_and_then_what_was_seen(tmp_path):
    run = make(tmp_path / "run", steps=5)
    live = looked(run, now=100.0)
    assert live.seconds_left() == 26 * 0.5  # 10 tokens at 20 a second
    with run.metrics.open("a") as file:
        file.write(json.dumps({"step": 5, "tokens": 50, "train/loss": 1.0, "tokens_per_second": 20.0}) + "\n")
        file.write(json.dumps({"step": 9, "tokens": 90, "train/loss": 1.0, "tokens_per_second": 20.0}) + "\n")
    live.look(now=125.0)
    while live.metrics.behind:
        live.metrics.read()
    live.look(now=125.0)
    assert live.seconds_left() == 21 * 25 / 5


def test_an_age_is_in_the_largest_unit_of_which_there_are_two():
    assert [age(s) for s in (0, 90, 119, 120, 7199, 7200, 172_800, 1e7)] == [
        "0 s", "90 s", "119 s", "2 min", "120 min", "2 h", "2 days", "116 days",
    ]  # fmt: skip


def test_a_folder_that_vanishes_is_not_there(tmp_path):
    run = make(tmp_path / "run")
    live = looked(run)
    assert live.there
    for path in [*run.path.iterdir()]:
        path.unlink()
    live.look()
    assert not live.there


@pytest.mark.parametrize("text", ["", "{", "[]", '{"status": 3}', "\0\0", '{"status": "finished", "stop_reason": []}'])
def test_a_damaged_summary_ends_nothing(tmp_path, text):
    run = make(tmp_path / "run")
    run.summary.write_text(text)
    assert looked(run).state.kind in ("running", "finished")
