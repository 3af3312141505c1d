"""Where a program that a model wrote may run: never in this process, and only behind a wall that was tried just now.

    landlock      Linux 5.13 and later; no root, no package: of all files only Python's own library can be opened
    namespaces    Linux where users may make namespaces; no root, no package: a root that holds nothing else
    bubblewrap    where `bwrap` is installed
    container     where docker or podman runs, from an image that has Python 3.11 or later

Behind each of them a program can only read, compute and end: a seccomp filter lets through the system calls that this
takes, and limits of time, memory and files hold. sandbox_inside.py is what runs there, and says how the
verdict is kept out of a program's reach. What is not kept apart: the kernel itself, and whether a file exists, which
Landlock lets a program see.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from ift.errors import MachineError, one_line
from ift.settings import SandboxSettings

BOOT = (  # a bare interpreter reads what it is to be from its standard input
    "import os\n"
    "def take(n):\n"
    "    parts = b''\n"
    "    while len(parts) < n:\n"
    "        part = os.read(0, n - len(parts))\n"
    "        if not part: os._exit(0)\n"
    "        parts += part\n"
    "    return parts\n"
    "exec(compile(take(int.from_bytes(take(8), 'big')), 'sandbox', 'exec'))\n"
)
BARE = ("-I", "-S", "-B", "-c", BOOT)  # no environment variable, no user's folder, no other packages, nothing written
START = 30.0  # seconds until a sandbox must stand: a container may be slow
GRACE = 5.0  # seconds after a program's time in which its end must be told
RESTARTS = 3  # times in a row that a sandbox may be lost


class NotHere(Exception):
    """A kind of sandbox that this machine does not have, and why."""


@dataclass(frozen=True)
class ProgramResult:
    """What became of a program. why: empty where it passed; it may quote the program, so it is hostile text."""

    passed: bool
    why: str
    seconds: float


@dataclass(frozen=True)
class Start:
    """How an interpreter is started behind a wall."""

    command: tuple[str, ...]
    wall: str  # that it puts up itself: landlock or namespaces; outside: it is behind one already
    name: str  # for results.json
    environment: Mapping[str, str]
    stop: tuple[str, ...] = ()  # a command that ends it for certain, where killing its processes does not


def _linux() -> None:
    if sys.platform != "linux":
        raise NotHere("needs Linux")


def _interpreter() -> str:
    return os.path.realpath(sys.executable)  # without a virtual environment's packages


def landlock(settings: SandboxSettings) -> Start:
    _linux()
    return Start((_interpreter(), *BARE), "landlock", "landlock", {})


def namespaces(settings: SandboxSettings) -> Start:
    _linux()
    return Start((_interpreter(), *BARE), "namespaces", "namespaces", {})


def bubblewrap(settings: SandboxSettings) -> Start:
    _linux()
    program = shutil.which("bwrap")
    if program is None:
        raise NotHere("no bwrap on the PATH")
    base = os.path.realpath(sys.base_prefix)
    command = [program, "--unshare-all", "--cap-drop", "ALL", "--ro-bind", "/usr", "/usr"]
    for path in ("/lib", "/lib64"):
        if os.path.islink(path):
            command += ["--symlink", os.readlink(path), path]
        elif os.path.isdir(path):
            command += ["--ro-bind", path, path]
    if not Path(base).is_relative_to("/usr"):
        command += ["--ro-bind", base, base]
    for folder in _packages(base):
        command += ["--tmpfs", folder]
    command += ["--dev", "/dev", "--chdir", "/", _interpreter(), *BARE]
    version = subprocess.run([program, "--version"], capture_output=True, text=True, check=False).stdout.strip()
    return Start(tuple(command), "outside", version or "bubblewrap", {})


def _packages(base: str) -> list[str]:
    """Folders of packages in what bubblewrap shows: one of them may hold the problems with their solutions."""
    roots = [Path(base), Path("/usr"), Path("/usr/local")]
    patterns = ("lib*/python3*/site-packages", "lib*/python3*/dist-packages")
    found = {path for root in roots for pattern in patterns for path in root.glob(pattern)}
    found |= {Path(path).resolve() for path in sys.path if path.endswith(("site-packages", "dist-packages"))}
    shown = (Path(base), Path("/usr"), Path("/lib"), Path("/lib64"))
    return sorted(str(p) for p in found if p.is_dir() and not p.is_symlink() and any(map(p.is_relative_to, shown)))


def container(settings: SandboxSettings) -> Start:
    if settings.image is None:
        raise NotHere("eval.sandbox.image is not set")
    programs = [found for name in ("docker", "podman") if (found := shutil.which(name))]
    if not programs:
        raise NotHere("neither docker nor podman on the PATH")
    for program in programs:  # the one that runs, and has the image: nothing is fetched
        try:
            look = subprocess.run(
                [program, "image", "inspect", settings.image],
                capture_output=True,
                text=True,
                timeout=START,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            why = str(error)
            continue
        if look.returncode == 0:
            break
        why = look.stderr.strip().split("\n")[-1]
    else:
        raise NotHere(f"{Path(program).name}: {why}")
    name = f"ift-{secrets.token_hex(8)}"
    command = [
        *(program, "run", "--rm", "--interactive", "--name", name, "--pull", "never", "--network", "none"),
        *("--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--pids-limit", "32"),
        *("--memory", f"{3 * settings.megabytes}m", "--user", "65534:65534", "--workdir", "/"),
        *("--entrypoint", "python3", settings.image, *BARE),
    ]
    said = f"{Path(program).name} {settings.image}"
    return Start(tuple(command), "outside", said, dict(os.environ), (program, "rm", "--force", name))


KINDS: dict[str, Callable[[SandboxSettings], Start]] = {
    "landlock": landlock,
    "namespaces": namespaces,
    "bubblewrap": bubblewrap,
    "container": container,
}


class Sandbox:
    """One interpreter behind a wall, which takes programs one after the other. A context manager; not for two threads.

    Raises NotHere where the wall cannot be put up.
    """

    def __init__(self, kind: str, settings: SandboxSettings):
        self.kind, self.settings, self.lost = kind, settings, 0
        self.held_against: tuple[str, ...] = ()  # what was tried at the start
        self.process: subprocess.Popen[bytes] | None = None
        self._start()

    def _start(self) -> None:
        self.start = KINDS[self.kind](self.settings)
        try:
            self.process = subprocess.Popen(
                self.start.command,
                env=dict(self.start.environment),
                cwd="/",
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,  # Ctrl-C is ours to hear; and all that it starts can be killed as a group
            )
        except OSError as error:
            raise NotHere(one_line(str(error), 80)) from error
        with self._killed_after(START):
            asked = {"wall": self.start.wall, "memory": self.settings.megabytes << 20}
            first = self._ask(_with_length(_inside()) + _with_length(json.dumps(asked).encode()))
            answer = first or self._line() or {}
        if answer.get("kind") != "ready":
            said = answer.get("why") or self._last_words() or "it does not start"
            self.close()
            raise NotHere(one_line(str(said), 100))
        self.python = answer["python"]
        wall = f" ({answer['wall']})" if answer["wall"] else ""
        self.name = f"{self.start.name}{wall}, seccomp, rlimits"

    def _ask(self, data: bytes) -> dict[str, Any] | None:
        """Send; None, or the answer of one that ended before it had read all."""
        assert self.process
        assert self.process.stdin
        try:
            self.process.stdin.write(data)
            self.process.stdin.flush()
        except BrokenPipeError:
            return self._line() or {}
        return None

    def _line(self) -> dict[str, Any] | None:
        """What the interpreter says next; None where it has ended."""
        assert self.process
        assert self.process.stdout
        line = self.process.stdout.readline(4097)
        try:
            value = json.loads(line) if line.endswith(b"\n") else None
        except ValueError:
            return None
        return value if isinstance(value, dict) else None

    def _last_words(self) -> str:
        assert self.process
        assert self.process.stderr
        self._kill()
        return self.process.stderr.read(4000).decode(errors="replace").strip().split("\n")[-1]

    def judge(
        self, source: str, entry_point: str, setup: str, test: str, *, seconds: float | None = None
    ) -> ProgramResult:
        """Run a program and let a problem's check call its function.

        source      the program's text; nothing in it is trusted
        entry_point the name of its function
        setup       text that the check may take names from; not the program's
        test        text that defines check(candidate), which raises where the program is wrong
        seconds     for all of it; None: as the settings have it

        Raises MachineError where the sandbox is lost again and again.
        """
        limit = self.settings.seconds if seconds is None else seconds
        program = json.dumps({"source": source, "entry_point": entry_point}).encode()
        check = json.dumps({"setup": setup, "test": test, "entry_point": entry_point}).encode()
        if self.process is None:
            try:
                self._start()
            except NotHere as error:
                raise MachineError(f"the sandbox {self.kind} was lost and does not start again: {error}") from error
        with self._killed_after(limit + GRACE):
            line = self._ask(struct.pack(">QQd", len(program), len(check), limit) + program + check)
            report: dict[str, Any] | None = None
            end: dict[str, Any] | None = None
            while end is None:
                line = line or self._line()
                if not line:
                    break
                if line.get("kind") == "report" and report is None:
                    report = line
                elif line.get("kind") == "end":
                    end = line
                line = None
        if end is None:
            return self._restarted()
        self.lost = 0
        return _verdict(report, end, limit)

    def _restarted(self) -> ProgramResult:
        self._kill()
        self.close()
        self.lost += 1
        if self.lost >= RESTARTS:
            raise MachineError(f"the sandbox {self.kind} was lost {self.lost} times in a row (is there memory left?)")
        return ProgramResult(False, "the sandbox was lost", 0.0)

    @contextmanager
    def _killed_after(self, seconds: float) -> Iterator[None]:
        timer = threading.Timer(seconds, self._kill)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def _kill(self) -> None:
        """Everything behind the wall, and the wall."""
        if self.process is None:
            return
        if self.start.stop:
            with suppress(OSError, subprocess.TimeoutExpired):
                subprocess.run(self.start.stop, capture_output=True, timeout=START, check=False)
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)

    def close(self) -> None:
        if self.process is None:
            return
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            assert stream
            with suppress(BrokenPipeError):
                stream.close()
        try:
            self.process.wait(1)  # without its standard input it ends by itself
        except subprocess.TimeoutExpired:
            self._kill()
            self.process.wait()
        self.process = None

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


@cache
def _inside() -> bytes:
    return Path(__file__).with_name("sandbox_inside.py").read_bytes()


def _with_length(data: bytes) -> bytes:
    return struct.pack(">Q", len(data)) + data


def _verdict(report: Mapping[str, Any] | None, end: Mapping[str, Any], limit: float) -> ProgramResult:
    """Right is a program only if its check called it, ended without an error in time, and said so itself."""
    seconds = float(end["seconds"])
    if report and report["passed"] is True and report["calls"] > 0 and end["checker"] == 0 and end["ended"]:
        return ProgramResult(True, "", seconds)
    if not end["ended"]:
        return ProgramResult(False, f"not done after {limit:g} s", seconds)
    if report is None:
        return ProgramResult(False, f"the check was ended ({_status(end['checker'])})", seconds)
    if report["passed"]:
        return ProgramResult(False, "the check called nothing", seconds)
    why = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(report["why"]))  # no control characters
    return ProgramResult(False, f"{why} ({_status(end['program'])})" if why == "the program ended" else why, seconds)


def _status(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"


# -- which one -----------------------------------------------------------------------------------------------------


def open_sandbox(settings: SandboxSettings) -> Sandbox:
    """The first kind that stands and holds, or the one that is asked for. Raises MachineError where there is none.

    Why a kind that stands before the chosen one was not taken is printed.
    """
    for kind in list(KINDS) if settings.kind == "auto" else [settings.kind]:
        try:
            return tried(kind, settings)
        except NotHere as error:
            if settings.kind == kind:
                raise MachineError(f"eval.sandbox.kind={kind}: cannot be used here: {one_line(str(error))}") from error
            print(f"no sandbox {kind}: {one_line(str(error))}", flush=True)
    raise MachineError(
        "eval.sandbox.kind=auto: nothing here keeps such programs in, as said above "
        "(install bubblewrap, or set eval.sandbox.image for docker or podman)"
    )


def tried(kind: str, settings: SandboxSettings) -> Sandbox:
    """A sandbox that has just held against a program that tries to get out. Raises NotHere."""
    with ExitStack() as stack:
        sandbox = stack.enter_context(Sandbox(kind, settings))
        leaks = holes(sandbox)
        if leaks:
            raise NotHere(f"it does not hold: {', '.join(leaks)}")
        stack.pop_all()
        sandbox.held_against = tuple(PROBES)
        return sandbox


# Each is the body of a function that ends without an error only where the program got what it must not get
PROBES = {
    "a file can be read": "open({secret!r}).read(1)",
    "a file can be written": "open({folder!r} + '/new', 'w')",
    "a file can be changed": "os.chmod({secret!r}, 0o777)",
    "a file can be removed": "os.unlink({secret!r})",
    "a folder can be listed": "os.listdir({folder!r})",
    "a folder can be made": "os.mkdir({folder!r} + '/more')",
    "a socket can be opened": "socket.socket()",
    "a socket can be connected": "socket.create_connection(('127.0.0.1', {port}), 1)",
    "a Unix socket can be opened": "socket.socket(socket.AF_UNIX)",
    "the environment can be seen": "next(iter(os.environ))",
    "this process can be seen": "open('/proc/{pid}/environ', 'rb').read(1)",
    "a signal can be sent": "os.kill({pid}, 0)",
    "a signal can be sent to its parent": "os.kill(os.getppid(), 0)",
    "a process can be made": "os._exit(0) if os.fork() == 0 else None",
    "a program can be started": "os.posix_spawn({python!r}, ['python', '-c', ''], {{}})",
    "a thread can be made": "_thread.start_new_thread(int, ())",
    "memory has no limit": "bytearray({memory})",
}


def holes(sandbox: Sandbox) -> list[str]:
    """What a program got that it must not get, by trying; and whether right and wrong are told apart. Empty is good."""
    with tempfile.TemporaryDirectory(prefix="ift-probe-") as folder, socket.create_server(("127.0.0.1", 0)) as server:
        secret = Path(folder, "secret")
        secret.write_text(secrets.token_hex(16))
        places = {"secret": str(secret), "folder": folder, "port": server.getsockname()[1], "pid": os.getpid()}
        places |= {"python": _interpreter(), "memory": (sandbox.settings.megabytes + 64) << 20}
        lines = ["import _thread, os, socket", "def probe(name):"]
        for what, body in PROBES.items():
            lines.append(f"    if name == {what!r}:\n        {body.format(**places)}\n        return True")
        program = "\n".join(lines)
        found = []
        for what in PROBES:
            check = f"def check(probe):\n    assert probe({what!r}) is True"
            if sandbox.judge(program, "probe", "", check).passed:
                found.append(what)
        if os.listdir(folder) != ["secret"] or secret.stat().st_mode & 0o777 == 0o777:
            found.append("files were changed")
    twice, check = "def twice(x):\n    return ", "def check(twice):\n    assert twice(21) == 42"
    if not sandbox.judge(twice + "x * 2", "twice", "", check).passed:
        found.append(f"a right program fails ({sandbox.judge(twice + 'x * 2', 'twice', '', check).why})")
    if sandbox.judge(twice + "x + 2", "twice", "", check).passed:
        found.append("a wrong program passes")
    if sandbox.judge("def twice(x):\n    while True: pass", "twice", "", check, seconds=0.2).passed:
        found.append("a program without an end passes")
    return found
