"""Signals: before training the first one ends the process, in training only a flag goes up, where work allows it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ift import stops
from ift.errors import Stopped
from tests.running import ROOT, clean_environment, train


@pytest.mark.parametrize("number", stops.SIGNALS, ids=lambda number: number.name)
def test_before_training_a_signal_stops_the_process(number):
    before = signal.getsignal(number)
    words = rf"stopped by {number.name} before training began \(type the command again\)"
    with pytest.raises(Stopped, match=words), stops.listening():
        os.kill(os.getpid(), number)
    assert signal.getsignal(number) is before


def test_in_training_it_is_asked_for_and_comes_where_it_is_checked():
    with stops.listening(), stops.deferred("go on with: X"):
        stops.check("now")
        os.kill(os.getpid(), signal.SIGTERM)
        assert stops.received == "SIGTERM"
        with stops.held():  # one rank alone
            stops.check("now")
        with pytest.raises(Stopped, match=r"^stopped by SIGTERM after step 3 \(go on with: X\)$"):
            stops.check("after step 3")
    assert Stopped.exit_code == 75
    with stops.listening():
        assert stops.received is None


def test_work_that_is_deferred_inside_of_other_such_work_leaves_it_deferred():
    """Sample prompts are answered in the middle of training."""
    with stops.listening(), stops.deferred("go on with: X"):
        with stops.deferred():
            pass
        os.kill(os.getpid(), signal.SIGTERM)  # only noted
        with pytest.raises(Stopped, match=r"\(go on with: X\)$"):
            stops.check("after step 3")


SLOW = f"""
import pathlib, runpy, sys, time
import ift.evaluation.responses as responses

def respond(model, rows, *args, advance, **options):
    pathlib.Path("answering").touch()
    for _ in range(3000):
        time.sleep(0.02)
        advance(0)  # a batch is done
    return []

responses.respond = respond
sys.argv[0] = {str(ROOT / "evaluate.py")!r}
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_an_evaluation_stops_between_two_batches_and_says_how_to_go_on(tmp_path, warm, number):
    run = tmp_path / "run"
    assert train(f"output_dir={run}", "logger=none", run=warm.run).returncode == 0
    before = (run / "responses.jsonl").read_bytes()
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW, f"run={run}", "eval=responses"],
        cwd=tmp_path, env=clean_environment(), stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    while not (tmp_path / "answering").exists() and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 75, errors
    assert errors.splitlines()[-1] == f"ift: stopped by {number.name} while answering (type the command again)"
    assert "Traceback" not in errors
    assert (run / "responses.jsonl").read_bytes() == before


def test_an_error_handler_for_errors_does_not_take_a_stop_for_one():
    assert not issubclass(Stopped, Exception)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a process with its parent")
def test_a_process_that_helps_ends_with_the_one_it_helps():
    helper = "import os, time; from ift import stops; stops.end_with_parent(); "
    helper += "print(os.getpid(), flush=True); time.sleep(60)"
    parent = f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {helper!r}]); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True) as first:
        process = int(first.stdout.readline())
        first.kill()
    status = Path(f"/proc/{process}/status")
    for _ in range(200):
        if not status.exists() or "State:\tZ" in status.read_text():
            return
        time.sleep(0.05)
    os.kill(process, signal.SIGKILL)
    pytest.fail("it was left behind")


DEAF = """
import ctypes, sys
from ift import stops
stops.DEAF = float(sys.argv[1])
libc, mutex = ctypes.CDLL(None), ctypes.create_string_buffer(64)  # all zero: a mutex that is free
with stops.listening(), stops.deferred("go on with: X"), stops.heard_in_torch():
    print("deaf", flush=True)
    libc.pthread_mutex_lock(mutex), libc.pthread_mutex_lock(mutex)  # forever, and not in Python
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the mutex is glibc's")
@pytest.mark.parametrize(("patience", "signals"), [("0.2", 1), ("60", 2)])
def test_a_process_that_waits_inside_of_c_for_another_one_ends_all_the_same(patience, signals):
    with subprocess.Popen(
        [sys.executable, "-c", DEAF, patience], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "deaf\n"
        time.sleep(0.2)
        for _ in range(signals):
            process.send_signal(signal.SIGTERM)
            time.sleep(0.2)  # two that come together are one
        _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (
        75, "ift: stopped by SIGTERM while waiting for another process (go on with: X)\n",
    )  # fmt: skip


def test_work_that_hears_signals_is_left_alone_by_the_thread_that_listens(monkeypatch):
    monkeypatch.setattr(stops, "DEAF", 0.05)
    with stops.listening(), stops.deferred("go on with: X"), stops.heard_in_torch():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.5)
        assert stops.received == "SIGTERM"
