import os
import signal
import subprocess
import sys

import pytest

from ift import jobs
from ift.errors import ConfigError
from ift.run import RunFolder


def test_the_first_job_that_failed_gives_the_exit_code_by_number_not_by_name(tmp_path):
    jobs.begin(tmp_path)
    assert jobs.first_failure(tmp_path) == 0
    for name, code in (("10", 6), ("2", 3), ("1", 0), ("3", None)):
        jobs.note(tmp_path, name, choices="seed=1", code=code)
    assert list(jobs.notes(tmp_path)) == ["1", "2", "3", "10"]
    assert jobs.first_failure(tmp_path) == 3


def test_notes_of_the_sweep_typed_before_are_gone_and_a_damaged_one_says_nothing(tmp_path):
    jobs.note(tmp_path, "0", choices="", code=6)
    jobs.begin(tmp_path)
    (tmp_path / ".jobs/1.json").write_text('{"pid": 1')
    (tmp_path / ".jobs/2.json").write_text('{"pid": 1, "else": 2}')
    assert jobs.notes(tmp_path) == {}


def test_a_stop_reaches_the_jobs_that_run_in_other_processes_and_keeps_others_from_beginning(tmp_path):
    jobs.begin(tmp_path)
    code = "import sys, time; from ift import jobs; from pathlib import Path\n"
    code += "jobs.note(Path(sys.argv[1]), '1', choices=''); print(flush=True); time.sleep(60)"
    jobs.note(tmp_path, "0", choices="")  # in this process, which is not to be hit
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE) as child:
        child.stdout.readline()
        assert not jobs.is_stopped(tmp_path)
        jobs.stop(tmp_path)
        assert child.wait(60) == -signal.SIGTERM
    assert jobs.is_stopped(tmp_path)
    assert jobs.notes(tmp_path)["0"].pid == os.getpid()


def test_siblings_need_a_sweep(tmp_path):
    run = RunFolder(tmp_path / "sweep" / "0")
    jobs.refuse_without_siblings(run, None)
    with pytest.raises(ConfigError, match=r"siblings=3: means something in a sweep alone \(add -m, or leave it out\)"):
        jobs.refuse_without_siblings(run, 3)
    jobs.begin(tmp_path / "sweep")
    jobs.refuse_without_siblings(run, 3)
