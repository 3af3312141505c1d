"""The parts of a run's time: one at each moment, so that those of training add up to it."""

import json
import os
import subprocess
import sys
import time

import pytest

from ift.training import clock as clocks
from ift.training.clock import BEFORE, PARTS, Clock, process_seconds


@pytest.fixture
def at(monkeypatch):
    """A clock that a test turns: at(3) makes it three seconds later."""
    now = 100.0

    def later(seconds):
        nonlocal now
        now += seconds

    monkeypatch.setattr(clocks.time, "perf_counter", lambda: now)
    return later


def test_each_second_is_one_parts(at):
    clock = Clock(began=90.0)
    at(2), clock.on_validation_start(None, None)  # 12 seconds after the run began: the untuned model
    with clock.spent("samples"):  # which its answers are a part of
        at(5)
    clock.on_validation_end(None, None)
    at(1), clock.train()  # between validation and training: nobody's
    at(10)
    with clock.spent("saving"):
        at(3)
        with clock.spent("waiting"):
            at(0.5)
    at(4), clock.on_validation_start(None, None)
    at(6)
    with clock.spent("samples"):
        at(7)
    clock.on_validation_end(None, None)
    at(1), clock.on_train_end(None, None)
    with clock.spent("waiting"):  # behind training
        at(50)
    assert clock.seconds == {
        "start": 12.0, "untuned": 5.0, "steps": 15.0, "validation": 6.0, "samples": 7.0, "saving": 3.0, "waiting": 0.5
    }  # fmt: skip
    assert clock.train_seconds == 31.5


def test_a_run_that_goes_on_adds_to_what_it_was(at):
    clock = Clock(began=100.0)
    clock.go_on({"steps": 20.0, "saving": 2.0, "a part of a later release": 9.0})
    clock.train(), at(3)
    assert (clock.seconds["steps"], clock.train_seconds) == (23.0, 25.0)


def test_an_error_ends_a_part(at):
    clock = Clock(began=100.0)
    clock.train()

    def fail():
        with clock.spent("saving"):
            at(1)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    at(2)
    assert (clock.seconds["saving"], clock.seconds["steps"]) == (1.0, 2.0)


@pytest.mark.skipif(sys.platform != "linux", reason="proc(5) is Linux's")
def test_a_process_knows_when_it_was_started():
    """The other process sleeps for 0.3 seconds; systems count hundredths."""
    code = "import time; time.sleep(0.3)\nfrom ift.training.clock import process_seconds\nprint(process_seconds())"
    begin = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ)
    assert 0.28 < float(done.stdout) < time.perf_counter() - begin + 0.05
    assert process_seconds() > 0


def test_summary_says_where_the_time_of_a_real_run_went(tmp_path, warm):
    from tests.running import train

    done = train(f"output_dir={tmp_path / 'run'}", "logger=none", run=warm.run)
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    parts = {part: summary[f"{part}_seconds"] for part in PARTS}
    assert sum(parts.values()) == pytest.approx(summary["train_seconds"], abs=1e-9)
    assert all(summary[f"{part}_seconds"] > 0 for part in (*BEFORE, "steps", "validation", "samples", "saving"))
    report = (tmp_path / "run/report.html").read_text()
    assert "Where the time went" in report
