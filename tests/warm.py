"""python warm.py MODULE...: imports these modules once, then starts Python programs that find them imported.

A start is a fork: a process with its own arguments, working directory, environment and files for stdout and stderr,
which runs the program as Python itself would and ends as Python ends. tests/running.py tells it what to start.
"""

import gc
import importlib
import json
import os
import runpy
import signal
import sys
from pathlib import Path


def wait_for_a_start() -> dict:
    """Fork for each line of stdin, one at a time, and answer with the exit code; returns in the new process alone."""
    while line := sys.stdin.readline():
        start = json.loads(line)
        process = os.fork()
        if process == 0:
            return start
        _, status = os.waitpid(process, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)
    sys.exit()


def become(start: dict) -> None:
    """Run the command `python *start["command"]` to its end, which is an exception as a rule: SystemExit."""
    signal.alarm(start["timeout"])  # kills a process that does not listen to it
    files = (os.open(os.devnull, os.O_RDONLY), *(os.open(start[name], os.O_WRONLY) for name in ("stdout", "stderr")))
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    os.chdir(start["cwd"])
    os.environ.clear()
    os.environ.update(start["environment"])
    program, *words = start["command"]
    if program == "-m":
        program, *words = words
        sys.path[0] = os.getcwd()
        sys.argv = [program, *words]
        runpy.run_module(program, run_name="__main__", alter_sys=True)
    else:
        program = os.path.abspath(program)
        sys.path[0] = os.path.dirname(program)
        sys.argv = [program, *words]
        runpy.run_path(program, run_name="__main__")


if __name__ == "__main__":
    for name in sys.argv[1:]:
        importlib.import_module(name)
    names = [file.read_text().strip() for file in Path("/proc/self/task").glob("*/comm")]
    threads = [name for name in names if name != "jemalloc_bg_thd"]  # pyarrow's, which knows what a fork is
    assert len(threads) < 2, "a thread's locks would stay shut in a fork"
    gc.freeze()  # what was imported stays shared memory
    become(wait_for_a_start())
