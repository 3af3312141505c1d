"""Ranks that begin seconds apart agree by files; nobody waits for one that ended, and all hear signals."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from datetime import datetime

import pytest

from ift import meeting
from ift.errors import MachineError
from ift.launch import Launch
from ift.run import write_json
from tests.running import clean_environment

RANK = """
    import json, os, sys, time
    from pathlib import Path
    from ift import launch, meeting, stops
    from ift.errors import MachineError, Stopped
    rank, folder = int(os.environ["RANK"]), Path(sys.argv[1])
    with stops.listening():
        try:
            meeting.meet(folder, limit=20)
            {work}
        except (MachineError, Stopped) as error:
            print(error)
            sys.exit(getattr(error, "exit_code", 1))
        finally:
            meeting.leave()
"""


def start(folder, rank, work, *, world=2, **changes):
    number = {"RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(world)}
    number |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500", "TORCHELASTIC_RUN_ID": "none"}
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(RANK).format(work=work), str(folder)],
        env={**clean_environment(), **number, **changes}, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


def end(*processes):
    return [(process.communicate(timeout=60)[0].strip(), process.returncode) for process in processes]


AGREE = 'print(meeting.moment(), meeting.agreed("word", rank * 10), meeting.address()); meeting.all_here("end")'


def test_three_ranks_in_any_order_take_over_what_the_first_decided_and_leave_nothing(tmp_path):
    late = [start(tmp_path, 2, AGREE, world=3), start(tmp_path, 1, AGREE, world=3)]
    time.sleep(0.5)
    said = end(start(tmp_path, 0, AGREE, world=3), *late)
    assert {code for _, code in said} == {0}
    assert len({line for line, _ in said}) == 1
    moment, time_of_day, word = said[0][0].split()[:3]
    assert datetime.fromisoformat(f"{moment} {time_of_day}") <= datetime.now()
    assert word == "0"
    assert list(tmp_path.iterdir()) == []


def test_what_a_start_that_was_killed_left_behind_is_not_believed(tmp_path):
    """torchrun on one node gives every start the same name."""
    ranks = [start(tmp_path, rank, "time.sleep(60)") for rank in (0, 1)]
    while not list(tmp_path.glob(".ranks-*/all.json")):
        time.sleep(0.05)
    (old,) = tmp_path.glob(".ranks-*/all.json")
    before = json.loads(old.read_text())["decided"]["moment"]
    for process in ranks:
        process.kill()
    second = start(tmp_path, 1, AGREE)
    time.sleep(0.5)
    assert second.poll() is None  # the number of the first start is there, and its answer
    said = end(start(tmp_path, 0, AGREE), second)
    assert len({line for line, _ in said}) == 1
    assert before.replace("T", " ") not in said[0][0]


def test_nobody_waits_for_a_rank_that_failed(tmp_path):
    work = 'meeting.failed("no rows") if rank == 0 else meeting.agreed("rows", None)'
    (first, second) = end(start(tmp_path, 0, work), start(tmp_path, 1, work))
    assert first == ("", 0)
    assert second == ("rank 0 of this run ended: see its error (then type the command again)", 5)
    work = 'meeting.failed("no GPU") if rank == 1 else meeting.all_here("training")'
    (first, second) = end(start(tmp_path, 0, work), start(tmp_path, 1, work))
    assert first == ("rank 1 of this run ended: see its error (then type the command again)", 5)


def test_a_rank_that_waits_hears_a_signal(tmp_path):
    waits = start(tmp_path, 1, "pass")
    while not list(tmp_path.glob(".ranks-*")):
        time.sleep(0.05)
    time.sleep(0.3)
    waits.send_signal(signal.SIGTERM)
    assert end(waits) == [("stopped by SIGTERM before training began (type the command again)", 75)]


def test_an_error_that_the_first_rank_had_is_not_reported_twice(monkeypatch, tmp_path):
    monkeypatch.setattr(meeting, "_notes", tmp_path)
    monkeypatch.setattr(meeting, "is_other_rank", lambda: True)
    write_json(tmp_path / "0-failed-0.json", {"what": "optim.lr: no such key"})
    assert meeting.said_by_the_first("optim.lr: no such key")
    assert not meeting.said_by_the_first("no GPU")


def test_a_rank_that_never_comes_is_one_line_with_what_to_look_at(monkeypatch, tmp_path):
    monkeypatch.setattr(meeting, "here", lambda: Launch("torchrun", 0, 2, 0, 2, "a"))
    with pytest.raises(MachineError, match=r"rank 1 of 2 did not come in 0 s \(did it end\? is the folder shared"):
        meeting.meet(tmp_path, limit=0.2)
    monkeypatch.setattr(meeting, "here", lambda: Launch("torchrun", 1, 2, 1, 2, "b"))
    with pytest.raises(MachineError, match="the first process did not come in 0 s"):
        meeting.meet(tmp_path, limit=0.2)


def test_one_process_alone_meets_nobody(tmp_path, monkeypatch):
    monkeypatch.setattr(meeting, "here", Launch)
    meeting.meet(tmp_path)
    assert meeting.agreed("word", 3) == 3
    meeting.all_here("training")
    assert list(tmp_path.iterdir()) == []


def test_lightnings_ranks_take_over_the_moment_and_begin_with_the_job_that_started_them(monkeypatch, tmp_path):
    monkeypatch.setenv(meeting.MOMENT, "2026-11-29T10:11:12")
    monkeypatch.setenv(meeting.JOB, "1")
    monkeypatch.setattr(meeting, "here", lambda: Launch("lightning", 1, 2, 1, 2))
    monkeypatch.setattr(meeting, "is_other_rank", lambda: True)
    meeting.meet(tmp_path)
    assert f"{meeting.moment():%Y-%m-%d/%H-%M-%S}" == "2026-11-29/10-11-12"
    assert os.environ[meeting.MOMENT] == "2026-11-29T10:11:12"
    assert [meeting.begin_job(number) for number in (0, 1, 2)] == [False, True, True]
