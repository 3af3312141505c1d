"""Real processes that start in a tenth of a second: forked from one that has its imports done.

`Warm(MODULE, ...)` starts that one (python -m tests.warm MODULE ...). It imports the modules, then reads a line of
JSON for each start and answers with a line when what it started has ended. A start is a process with its own
arguments, working directory, environment and files for stdout and stderr; it runs the program as Python itself would
and ends as Python ends. It can be killed from outside after some seconds, kill itself at the n-th call of a function,
or be several ranks at once. What an import does is not seen, nor a variable that is read by an import or by Python
itself: for these there is tests.running.run.
"""

from __future__ import annotations

import gc
import importlib
import json
import math
import os
import resource
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tests.running import ROOT, clean_environment

GRACE = 10  # seconds that a rank may live on when another was killed or ended early


class Warm:
    """Starts Python programs, one start after the other."""

    def __init__(self, *modules: str, **environment: str):
        self.environment = environment
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.warm", *modules],
            cwd=ROOT,
            env={**clean_environment(), **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C is the tests' to hear; without them it finds its stdin closed, and ends
        )

    def run(
        self, *command: str, cwd: Path = ROOT, timeout: float = 900, **environment: str
    ) -> subprocess.CompletedProcess:
        """What tests.running.run does. Raises subprocess.TimeoutExpired after so many seconds."""
        with tempfile.TemporaryDirectory(prefix="ift-start-") as folder:
            files = {name: Path(folder, name) for name in ("stdout", "stderr")}
            end = self.start(command, **files, cwd=cwd, timeout=timeout, environment=environment)
            out, errors = (file.read_text() for file in files.values())
        if end["hung"]:
            raise subprocess.TimeoutExpired(command, timeout, out, errors)
        return subprocess.CompletedProcess(command, end["codes"][0], out, errors)

    def start(
        self,
        command: Sequence[str],
        *,
        stdout: Path,
        stderr: Path,
        cwd: Path = ROOT,
        timeout: float = 900,
        environment: dict[str, str] | None = None,
        **plan: Any,
    ) -> dict[str, Any]:
        """One start, to its end.

        stdout, stderr: files to append to; may be the same one
        plan:
            ranks: so many processes at once, with the variables by which Lightning knows them
            kill, term: seconds after which a process gets SIGKILL or SIGTERM; which: the ranks that do, [0] by default
            at: [function, n, signal]: the process sends itself the signal at the n-th call of "module:name";
                again: a second signal right after it
            first: [function, arguments]: "module:name" is called with these keywords before the program
            rank: the one that `at` and `first` are for, 0 by default
            limit: bytes that a file may have: the kernel refuses more, as a full disk does
            fsync: False: nothing is flushed to the disk, which only a loss of power would show
            teardown: False: the process ends without Python's own end, which takes a second where torch is imported

        Returns codes (the exit code of each rank, -9 where SIGKILL ended it), seconds, hung (it was killed since the
        time was over), swept (a rank was killed since it outlived another that had been).
        """
        order = {
            "command": list(command),
            "cwd": str(cwd),
            "environment": {**clean_environment(), **self.environment, **(environment or {})},
            "timeout": timeout,
            "stdout": str(stdout),
            "stderr": str(stderr),
            **plan,
        }
        assert self.process.stdin
        assert self.process.stdout
        print(json.dumps(order), file=self.process.stdin, flush=True)
        answer = self.process.stdout.readline()
        assert answer, "the process that is to be forked has ended"
        return json.loads(answer)

    def close(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        assert self.process.wait(60) == 0


# -- the process that is forked ---------------------------------------------------------------------------------------


def wait_for_a_start() -> tuple[dict[str, Any], int]:
    """Fork for each line of stdin and answer; returns in the new processes alone, with the order and their rank."""
    while line := sys.stdin.readline():
        order = json.loads(line)
        if (ranks := order.get("ranks", 1)) > 1:
            order["environment"] |= {
                "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "GLOO_SOCKET_IFNAME": "lo",
                "NODE_RANK": "0", "WORLD_SIZE": str(ranks),
            }  # fmt: skip
        processes: dict[int, int] = {}
        for rank in range(ranks):
            process = os.fork()
            if process == 0:
                return order, rank
            processes[process] = rank
        print(json.dumps(watch(processes, order)), flush=True)
    sys.exit()


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def watch(processes: dict[int, int], order: dict[str, Any]) -> dict[str, Any]:
    """Send what is due to the processes (id -> rank) until all of them have ended."""
    start = time.monotonic()
    due = [(order[name], number) for name, number in (("kill", 9), ("term", 15)) if name in order]
    ends = {"hung": start + order["timeout"], "swept": math.inf}  # then all that are left are killed
    reached = dict.fromkeys(ends, False)
    codes: dict[int, int] = {}

    def send(number: int, ranks: Iterable[int]) -> None:
        for process, rank in processes.items():
            if rank in ranks and rank not in codes:
                os.kill(process, number)

    while True:
        process, status = os.waitpid(-1, os.WNOHANG)
        if process in processes:
            code = codes[processes[process]] = os.waitstatus_to_exitcode(status)
            if len(codes) == len(processes):
                break
            if code:  # as launchers do: another rank may wait for this one
                ends["swept"] = min(ends["swept"], time.monotonic() + GRACE)
        now = time.monotonic()
        for seconds, number in [each for each in due if now - start >= each[0]]:
            due.remove((seconds, number))
            send(number, order.get("which", [0]))
        for why in [why for why, end in ends.items() if now > end]:
            reached[why], ends[why] = True, math.inf
            send(signal.SIGKILL, range(len(processes)))
        time.sleep(0.001)
    return {"codes": [codes[rank] for rank in sorted(codes)], "seconds": time.monotonic() - start, **reached}


# -- a new process ----------------------------------------------------------------------------------------------------


def become(order: dict[str, Any], rank: int) -> None:
    """Run the command `python *order["command"]` to its end, which is an exception as a rule: SystemExit."""
    os.setsid()
    appended = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    files = (os.open(os.devnull, os.O_RDONLY), *(os.open(order[name], appended) for name in ("stdout", "stderr")))
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    os.chdir(order["cwd"])
    os.environ.clear()
    os.environ.update(order["environment"])
    if order.get("ranks", 1) > 1:
        os.environ["LOCAL_RANK"] = str(rank)
    program, *words = order["command"]
    if is_module := program == "-m":
        program, *words = words
        sys.path[0] = os.getcwd()
    else:
        program = os.path.abspath(program)
        sys.path[0] = os.path.dirname(program)
    sys.argv = [program, *words]
    prepare(order, rank)
    if is_module:
        runpy.run_module(program, run_name="__main__", alter_sys=True)
    else:
        runpy.run_path(program, run_name="__main__")


def prepare(order: dict[str, Any], rank: int) -> None:
    """What makes this start another one than the command alone would be."""
    if not order.get("fsync", True):
        os.fsync = lambda descriptor: None
    if "limit" in order:
        resource.setrlimit(resource.RLIMIT_FSIZE, (order["limit"], resource.RLIM_INFINITY))
    if rank == order.get("rank", 0):
        if "at" in order:
            signal_at_call(*order["at"], order.get("again"))
        if "first" in order:
            place, arguments = order["first"]
            holder, name = find(place)
            getattr(holder, name)(**arguments)


def find(place: str) -> tuple[Any, str]:
    """ "package.module:Class.name": the object that holds the name, and the name."""
    module, _, path = place.partition(":")
    *holders, name = path.split(".")
    holder = importlib.import_module(module)
    for each in holders:
        holder = getattr(holder, each)
    return holder, name


def signal_at_call(place: str, number: int, send: int, again: int | None = None) -> None:
    """Make this process send itself a signal (and another) when a function is called for the n-th time."""
    holder, name = find(place)
    real, calls = getattr(holder, name), 0

    def counted(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == number:
            for each in (send, again):
                if each is not None:
                    os.kill(os.getpid(), each)
                if again is not None and threading.current_thread() is not threading.main_thread():
                    time.sleep(0.3)  # the main thread hears them, and two that come at once are one to it
        return real(*args, **kwargs)

    setattr(holder, name, counted)


def end_at_once(order: dict[str, Any], rank: int) -> None:
    """`become`, then the end of the process without Python's own."""
    code = 0
    try:
        become(order, rank)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        if not isinstance(end.code, int | None):
            print(end.code, file=sys.stderr)
    except BaseException:
        code = 1
        sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
    finally:
        sys.stdout.flush(), sys.stderr.flush()
        os._exit(code)


def main() -> None:
    for name in sys.argv[1:]:
        importlib.import_module(name)
    names = [file.read_text().strip() for file in Path("/proc/self/task").glob("*/comm")]
    threads = [name for name in names if name != "jemalloc_bg_thd"]  # pyarrow's, which knows what a fork is
    assert len(threads) < 2, "a thread's locks would stay shut in a fork"
    gc.freeze()  # what was imported stays shared memory
    order, rank = wait_for_a_start()
    (become if order.get("teardown", True) else end_at_once)(order, rank)


if __name__ == "__main__":
    main()
