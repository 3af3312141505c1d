"""A package in a process of its own, for packages that write where they like and read keys from the environment.

The process has an empty home in one folder and writes nowhere else; it has no key and no network. It sends its
questions over a pipe, one line of JSON a message, and we answer. It ends when we end.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ift import errors
from ift.errors import IftError, MachineError, missing_extra, one_line

KEPT = ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "OMP_NUM_THREADS", "SYSTEMROOT")  # of our environment
NETWORK = ("socket.connect", "socket.bind", "socket.sendto", "socket.getaddrinfo")
CHANGES = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.utime")


def run_child(
    module: str, folder: Path, job: Any, answer: Callable[[Any], Any], *, extra: str, **environment: str
) -> Any:
    """Run `module`, whose main calls `serve`, in a folder; answer its questions, and return its result.

    What the package prints goes to folder/log.txt. extra: what to install where a package is missing. Raises the
    IftError that the child ended with, MachineError where it just ended.
    """
    home = folder / "home"
    (home / "tmp").mkdir(parents=True, exist_ok=True)
    source = str(Path(errors.__file__).parents[1])
    python_path = [source, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    env = {name: os.environ[name] for name in KEPT if name in os.environ}
    env |= {
        "HOME": str(home.absolute()),
        "TMPDIR": str((home / "tmp").absolute()),
        "USER": "ift",  # some ask for a name that a container need not have
        "PYTHONPATH": os.pathsep.join(str(Path(path).absolute()) for path in python_path),
        "PYTHONDONTWRITEBYTECODE": "1",  # nor beside the package
        "PYTHONUNBUFFERED": "1",  # the log is whole when it is killed
        "HF_HUB_OFFLINE": "1",
        "DO_NOT_TRACK": "1",
        **environment,
    }
    command = [sys.executable, "-P", "-m", module]
    with (
        (folder / "log.txt").open("w", encoding="utf-8") as log,
        subprocess.Popen(
            command, cwd=folder, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
        ) as child,
    ):
        try:
            return _talk(child, job, answer, folder, extra)
        finally:
            child.kill()  # it is done, or we are


def _talk(child: subprocess.Popen[str], job: Any, answer: Callable[[Any], Any], folder: Path, extra: str) -> Any:
    assert child.stdin
    assert child.stdout
    message = job
    while True:
        try:
            child.stdin.write(json.dumps(message) + "\n")
            child.stdin.flush()
        except OSError:
            pass  # it has ended, and its log says why
        line = child.stdout.readline()
        if not line:
            last = ((folder / "log.txt").read_text(errors="replace").strip().splitlines() or ["it printed nothing"])[-1]
            raise MachineError(f"{folder / 'log.txt'}: the package ended early: {one_line(last, 100)}")
        (kind, value), *_ = json.loads(line).items()
        if kind == "result":
            return value
        if kind == "error":
            name, text = value
            raise getattr(errors, name)(text)
        if kind == "missing":
            raise missing_extra(value, extra)
        message = answer(value)


def serve(work: Callable[[Any, Callable[[Any], Any]], Any]) -> None:
    """The child's main: send the result of `work(job, ask)`, where `ask(question)` gets an answer from the parent."""
    pipe = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # a package that prints is no message
    keep_inside(Path.cwd())

    def send(kind: str, value: Any) -> None:
        pipe.write(json.dumps({kind: value}, default=_as_json_value) + "\n")
        pipe.flush()

    def receive() -> Any:
        line = sys.stdin.readline()
        if not line:
            os._exit(1)  # the parent is gone
        return json.loads(line)

    def ask(question: Any) -> Any:
        send("ask", question)
        return receive()

    try:
        send("result", work(receive(), ask))
    except IftError as error:
        send("error", [type(error).__name__, str(error)])
    except ModuleNotFoundError as error:
        traceback.print_exc()
        send("missing", error.name)
    except Exception as error:
        traceback.print_exc()
        what = one_line(f"{type(error).__name__}: {error}", 90)
        send("error", ["MachineError", f"{Path.cwd() / 'log.txt'}: the package failed: {what}"])


def _as_json_value(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else str(value)  # numpy's numbers, paths


def keep_inside(folder: Path) -> None:
    """From here on this process writes only below a folder, and opens no connection. It cannot be undone.

    For packages that mean well: it sees what Python's own functions do, not what a library in C does.
    """
    inside = os.path.realpath(folder) + os.sep

    def watch(event: str, args: tuple[Any, ...]) -> None:
        if event in NETWORK:
            raise PermissionError(f"no network in this process ({event})")
        if event == "open":
            path, _, flags = args
            writes = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC)
            paths = [path] if writes else []
        else:
            paths = [path for path in args[:2] if isinstance(path, str | bytes)] if event in CHANGES else []
        for path in paths:
            if isinstance(path, str | bytes) and os.fsdecode(path) != os.devnull:
                real = os.path.realpath(os.fsdecode(path))
                if not (real + os.sep).startswith(inside):
                    raise PermissionError(13, "nothing is written outside the evaluation's folder", os.fsdecode(path))

    sys.addaudithook(watch)
