"""One process keeps a run folder, wherever the others are; a process that was killed keeps none."""

import json
import os
import subprocess
import sys
import time

import pytest

from ift import lock
from ift.errors import ConfigError

HOLD = "import sys, time; from pathlib import Path; from ift import lock\n"
HOLD += "with lock.kept(Path(sys.argv[1])): print('kept', flush=True); time.sleep(60)"


def named(folder, **changes):
    name = {"host": "another", "pid": 12, "job": None, "began": 0.0, **changes}
    (folder / lock.KEEPER).write_text(json.dumps(name))


def test_another_process_of_this_host_is_refused_by_its_name_until_it_is_killed(tmp_path):
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "kept\n"
        assert lock.is_kept(tmp_path)
        words = rf"another process trains here \(process {process.pid} on {lock.host()}\) \(wait, or choose"
        with pytest.raises(ConfigError, match=words), lock.kept(tmp_path):
            pass
        process.kill()
    assert (tmp_path / lock.KEEPER).exists()
    assert not lock.is_kept(tmp_path)
    with lock.kept(tmp_path):
        assert json.loads((tmp_path / lock.KEEPER).read_text())["pid"] == os.getpid()
    assert not (tmp_path / lock.KEEPER).exists()


def test_a_process_of_another_host_is_refused_though_its_flock_is_not_seen_here(tmp_path):
    named(tmp_path)
    (tmp_path / lock.LOCK).touch()
    assert lock.is_kept(tmp_path)
    words = r"another process trains here: process 12 on another \(wait"
    with pytest.raises(ConfigError, match=words), lock.kept(tmp_path):
        pass
    assert json.loads((tmp_path / lock.KEEPER).read_text())["host"] == "another"


def test_one_that_was_silent_for_long_is_told_with_the_file_to_remove(tmp_path):
    named(tmp_path)
    (tmp_path / lock.LOCK).touch()
    long_ago = time.time() - 3600
    os.utime(tmp_path / lock.KEEPER, (long_ago, long_ago))
    assert not lock.is_kept(tmp_path)
    with (
        pytest.raises(ConfigError, match=r"process 12 on another trained here, silent for 60 min \(if .*: rm .*keeper"),
        lock.kept(tmp_path),
    ):
        pass
    (tmp_path / lock.KEEPER).unlink()
    with lock.kept(tmp_path):
        pass
    assert [path.name for path in tmp_path.iterdir()] == [lock.LOCK]


def test_a_job_that_slurm_began_again_on_another_node_takes_its_folder_back(tmp_path, monkeypatch):
    named(tmp_path, job="77")
    monkeypatch.setenv("SLURM_JOB_ID", "78")
    with pytest.raises(ConfigError), lock.kept(tmp_path):
        pass
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    with lock.kept(tmp_path):
        assert json.loads((tmp_path / lock.KEEPER).read_text())["host"] == lock.host()


def test_it_gives_signs_of_life(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "BEAT", 0.02)
    with lock.kept(tmp_path):
        os.utime(tmp_path / lock.KEEPER, (0, 0))
        end = time.monotonic() + 10
        while (tmp_path / lock.KEEPER).stat().st_mtime == 0:
            assert time.monotonic() < end
            time.sleep(0.01)


def test_a_name_that_cannot_be_read_is_that_of_another_host(tmp_path):
    (tmp_path / lock.KEEPER).write_text("{")
    with pytest.raises(ConfigError, match="a process on another host"), lock.kept(tmp_path):
        pass
