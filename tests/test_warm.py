"""A start by a fork cannot be told from a start of Python: what is proved with the one holds for the other."""

import subprocess
import sys

import pytest

from tests.running import Warm, run

PROGRAMS = {
    "what it is told": "print(sys.argv[1:], os.getcwd(), sys.path[0], __name__, __file__, os.environ['WORD'])",
    "its files": "print(repr(sys.stdin.read()), sys.stdout.isatty(), sys.stdout.encoding, sys.stderr.encoding)",
    "its open files": "print(sorted(os.listdir('/proc/self/fd')))",
    "its first words": "print('a', end=''); print('b', file=sys.stderr, end=''); sys.stdout.buffer.write(b'c\\r\\n')",
    "no exit code": "sys.exit()",
    "an exit code": "print(1); sys.exit(75)",
    "words for an exit code": "sys.exit('why')",
    "a sudden end": "print('never seen'); os._exit(3)",
    "a signal": "os.kill(os.getpid(), 15)",
    "its last words": "import atexit; atexit.register(print, 'last'); print('first')",
    "a thread that is late": "import threading, time; threading.Timer(0.1, print, ['late']).start(); print('main')",
    "a module that it changes": "import json; print(hasattr(json, 'mine')); json.mine = 1",
    "a stdout that is shut": "os.close(1)\ntry: print('unheard', flush=True)\nexcept OSError as e: sys.exit(e.errno)",
}


@pytest.fixture(scope="module")
def warm():
    warm = Warm("json")
    yield warm
    warm.close()


def seen(done: subprocess.CompletedProcess) -> tuple[int, str, str]:
    return done.returncode, done.stdout, done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
@pytest.mark.parametrize("what", PROGRAMS)
@pytest.mark.parametrize("start", [["program.py"], ["-m", "program"]], ids=["file", "module"])
def test_a_fork_is_told_prints_and_returns_what_a_process_does(what, start, warm, tmp_path):
    (tmp_path / "program.py").write_text(f"import os, sys\n{PROGRAMS[what]}\n")
    command = [*start, "--key=value", "caf\udce9 日"]
    alone = seen(run(*command, cwd=tmp_path, WORD="é"))
    assert [seen(warm.run(*command, cwd=tmp_path, WORD="é")) for _ in range(2)] == [alone, alone]


def test_an_error_nobody_foresaw_is_a_traceback(warm, tmp_path):
    (tmp_path / "program.py").write_text("1 / 0")
    done = warm.run("program.py", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("Traceback (most recent call last):\n")
    assert done.stderr.endswith("\nZeroDivisionError: division by zero\n")


def test_a_program_that_does_not_end_is_killed(warm, tmp_path):
    (tmp_path / "program.py").write_text("import time; print('begun', flush=True); time.sleep(60)")
    with pytest.raises(subprocess.TimeoutExpired) as caught:
        warm.run("program.py", cwd=tmp_path, timeout=1)
    assert caught.value.stdout == "begun\n"
