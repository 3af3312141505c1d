"""A start by a fork cannot be told from a start of Python: what is proved with the one holds for the other."""

import signal
import subprocess
import sys

import pytest

from tests.running import run
from tests.warm import Warm

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


# -- what a plan adds: several ranks, signals, a disk that is full -----------------------------------------------------

WORKER = """
import json, os, sys, time
class Work:
    def step(self, number): os.write(1, f"{os.environ.get('LOCAL_RANK')} {number}\\n".encode())  # whole, beside others
"""


@pytest.fixture
def start(warm, tmp_path):
    """start(program, **plan): how it ended, and what it printed."""

    def start(program, **plan):
        (tmp_path / "work.py").write_text(WORKER)
        (tmp_path / "program.py").write_text(f"from work import *\n{program}\n")
        log = tmp_path / "log"
        log.unlink(missing_ok=True)
        end = warm.start([str(tmp_path / "program.py")], stdout=log, stderr=log, **{"timeout": 20, **plan})
        return {**end, "output": log.read_text()}

    return start


STEPS = "for i in range(5): Work().step(i)"


def test_a_process_is_killed_from_outside_after_so_many_seconds(start):
    end = start("time.sleep(60)", kill=0.2)
    assert end["codes"] == [-9]
    assert 0.2 <= end["seconds"] < 10
    assert start("import signal; signal.signal(15, lambda *_: sys.exit(75)); time.sleep(60)", term=0.2)["codes"] == [75]


def test_a_process_sends_itself_a_signal_at_the_nth_call_of_a_function(start):
    end = start(STEPS, at=["work:Work.step", 3, int(signal.SIGKILL)])
    assert (end["codes"], end["output"]) == ([-9], "None 0\nNone 1\n")
    listen = "import signal; signal.signal(15, lambda *_: print('heard', flush=True))\n"
    end = start(listen + STEPS, at=["work:Work.step", 5, 15], again=15)
    assert (end["codes"], end["output"].count("heard")) == ([0], 2)


def test_ranks_know_each_other_and_one_of_them_is_hit(start):
    names = ("LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    say = f"os.write(1, (' '.join(os.environ[name] for name in {names}) + '\\n').encode())"
    end = start(f"{say}; sys.exit(int(os.environ['LOCAL_RANK']))", ranks=2)
    one, other = sorted(end["output"].splitlines())
    assert (end["codes"], end["hung"], end["swept"]) == ([0, 1], False, False)
    assert one[:15] == "0 0 2 127.0.0.1"
    assert other == "1" + one[1:]  # the same port too

    end = start(STEPS, ranks=2, rank=1, at=["work:Work.step", 2, int(signal.SIGKILL)])
    assert end["codes"] == [0, -9]
    assert sorted(end["output"].splitlines()) == ["0 0", "0 1", "0 2", "0 3", "0 4", "1 0"]

    wait = "time.sleep(60 if os.environ['LOCAL_RANK'] == '1' else 0.1)"
    assert start(wait, ranks=2, kill=0.2, which=[1])["codes"] == [0, -9]


def test_a_rank_that_outlives_a_killed_one_is_killed_after_some_seconds(start):
    end = start("time.sleep(60)", ranks=2, kill=0.1, timeout=50)
    assert (end["codes"], end["swept"], end["hung"]) == ([-9, -9], True, False)
    assert 10 < end["seconds"] < 30


def test_a_start_that_hangs_is_killed_with_all_its_ranks(start):
    end = start("time.sleep(60)", ranks=2, timeout=0.5)
    assert (end["codes"], end["hung"], end["swept"]) == ([-9, -9], True, False)


def test_what_is_called_first_can_change_the_program(start):
    end = start("print(repr(json.dumps(1)))", first=["tests.test_warm:number_all", {"number": 7}])
    assert end["output"] == "7\n"


def number_all(*, number):
    """What test_what_is_called_first calls, in the new process."""
    import json

    json.dumps = lambda value: number


def test_a_file_has_a_limit_and_a_flush_can_be_left_out(start):
    write = "with open('written', 'wb', buffering=0) as file: print(file.write(b'x' * 2000)), file.write(b'x')"
    end = start(f"os.chdir(os.path.dirname(__file__))\n{write}", limit=1000)
    assert end["output"].startswith("1000\n")  # bytes
    assert end["codes"] == [1]
    assert "OSError: [Errno 27] File too large" in end["output"]
    assert start("os.fsync(12345)")["codes"] == [1]  # no such file
    assert start("os.fsync(12345)", fsync=False)["codes"] == [0]


@pytest.mark.parametrize("teardown", [True, False])
@pytest.mark.parametrize(
    ("program", "code", "last"),
    [
        ("sys.exit()", 0, ""),
        ("sys.exit(75)", 75, ""),
        ("sys.exit('why')", 1, "why\n"),
        ("print('no newline', end='')", 0, "no newline"),
        ("1 / 0", 1, "ZeroDivisionError: division by zero\n"),
    ],
)
def test_without_pythons_own_end_only_that_is_missing(start, teardown, program, code, last):
    end = start(f"import atexit; atexit.register(print, 'last words')\n{program}", teardown=teardown)
    assert end["codes"] == [code]
    output = end["output"]
    assert ("last words\n" in output) == teardown
    assert output.replace("last words\n", "").endswith(last)
