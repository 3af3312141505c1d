"""What runs inside a sandbox: for each program one process that runs it, and another one that checks it.

sandbox.py hands this text to a bare interpreter (python -I -S -B, no environment), so it needs Python's
own library alone and imports nothing of ift. That interpreter walls itself in, or is walled in already, and then
forks for each program

    A   runs the program and answers calls of its function: arguments in, a value out, both as plain data
    B   runs the problem's check, where the function is a stand-in that asks A; B alone says how the check ended

A never holds the check, nor a descriptor that leads anywhere but to its own two pipes: it is forked before the check
is read, and B reads it from the parent itself. What A sends becomes exact built-in types in B, so an object that
claims to equal everything cannot be sent. A and B can only read, compute and end (see ALLOWED): no file can be
written, no process, thread or socket made, no signal sent, whoever the user is.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import gc
import json
import math
import os
import random
import resource
import select
import signal
import struct
import sys
import time
from collections.abc import Callable, Iterator
from decimal import Decimal
from fractions import Fraction
from typing import Any

# Programs may import whatever lies in Python's library. These are there at once, with what they link to
READY = (
    "array ast base64 bisect bz2 calendar cmath collections contextlib copy dataclasses datetime difflib enum "
    "functools hashlib heapq inspect itertools lzma numbers operator pprint queue re secrets statistics string "
    "textwrap threading traceback types typing unicodedata uuid zlib"
).split()
LONGEST = 16 << 20  # bytes of a value that B takes
SAID = 300  # characters of a reason
LATE = 70  # exit code of a process that could not wall itself in: it has run nothing


class Refused(Exception):
    """The kernel does not give what a wall needs."""


# -- plain data between A and B ------------------------------------------------------------------------------------


def encode(value: Any) -> Any:
    """A value as JSON of exact built-in types; an instance of a subclass as its base, an iterator as what it gives.

    Anything else keeps only the name of its type: on the other side it equals nothing.
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return int.__int__(value)
    if isinstance(value, float):
        return float.__float__(value)
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, list):
        return [encode(item) for item in value]
    if isinstance(value, dict):
        return {"dict": [[encode(key), encode(item)] for key, item in value.items()]}
    for name, group in (("tuple", tuple), ("set", set), ("frozenset", frozenset)):
        if isinstance(value, group):
            return {name: [encode(item) for item in value]}
    if isinstance(value, bytes | bytearray):
        return {"bytes" if isinstance(value, bytes) else "bytearray": bytes(value).hex()}
    if isinstance(value, complex):
        return {"complex": [value.real, value.imag]}
    if isinstance(value, range):
        return {"range": [value.start, value.stop, value.step]}
    if isinstance(value, Decimal):
        return {"decimal": str(value)}
    if isinstance(value, Fraction):
        return {"fraction": [value.numerator, value.denominator]}
    if isinstance(value, Iterator):
        return {"iterator": [encode(item) for item in value]}
    return {"other": type(value).__name__[:SAID]}


class Other:
    """A value of a type that does not pass between the two processes."""

    def __init__(self, name: str):
        self.name = name

    def __repr__(self) -> str:
        return f"<{self.name}>"


def _all(items: Any) -> list[Any]:
    return [decode(item) for item in _is(list, items)]


def _is(kind: type, value: Any) -> Any:
    if type(value) is not kind:
        raise ValueError(f"a {type(value).__name__} where a {kind.__name__} belongs")
    return value


def _exactly(kind: type, count: int, items: Any) -> list[Any]:
    if len(_is(list, items)) != count:
        raise ValueError(f"{len(items)} items where {count} belong")
    return [_is(kind, item) for item in items]


def _pair(item: Any) -> tuple[Any, Any]:
    if len(_is(list, item)) != 2:
        raise ValueError("an entry of a dict is a key and a value")
    return item[0], item[1]


DECODERS: dict[str, Callable[[Any], Any]] = {
    "tuple": lambda items: tuple(_all(items)),
    "set": lambda items: set(_all(items)),
    "frozenset": lambda items: frozenset(_all(items)),
    "dict": lambda items: {decode(key): decode(item) for key, item in map(_pair, _is(list, items))},
    "bytes": lambda text: bytes.fromhex(_is(str, text)),
    "bytearray": lambda text: bytearray.fromhex(_is(str, text)),
    "complex": lambda items: complex(*_exactly(float, 2, items)),
    "range": lambda items: range(*_exactly(int, 3, items)),
    "decimal": lambda text: Decimal(_is(str, text)),
    "fraction": lambda items: Fraction(*_exactly(int, 2, items)),
    "iterator": lambda items: iter(_all(items)),
    "other": lambda name: Other(_is(str, name)),
}


def decode(value: Any) -> Any:
    """What `encode` was given, of exact built-in types only. Raises ValueError or TypeError for anything else."""
    if isinstance(value, dict):
        ((tag, content),) = value.items()
        if tag not in DECODERS:
            raise ValueError(f"no such kind of value: {tag[:20]}")
        return DECODERS[tag](content)
    return [decode(item) for item in value] if isinstance(value, list) else value


def take(descriptor: int, count: int) -> bytes:
    """Exactly so many bytes. Raises EOFError."""
    parts: list[bytes] = []
    while count:
        part = os.read(descriptor, min(count, 1 << 20))
        if not part:
            raise EOFError
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


def give(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def receive(descriptor: int) -> Any:
    (length,) = struct.unpack(">Q", take(descriptor, 8))
    if length > LONGEST:
        raise ValueError("a value that is too large")
    return json.loads(take(descriptor, length))


def send(descriptor: int, value: Any) -> None:
    data = json.dumps(value).encode()
    give(descriptor, struct.pack(">Q", len(data)) + data)


def tell(kind: str, **about: Any) -> None:
    """A line for the parent, in one write: whole or not there."""
    data = json.dumps({"kind": kind, **about}).encode() + b"\n"
    assert len(data) <= 4096
    os.write(1, data)


def described(error: BaseException) -> str:
    """The error of a program may be hostile too: nothing of it is trusted, not even that it can be shown."""
    try:
        return f"{type(error).__name__}: {error}"[:SAID].encode("ascii", "backslashreplace").decode()[:SAID]
    except BaseException:
        return "an exception that cannot be shown"


# -- A and B -------------------------------------------------------------------------------------------------------


def run_program(source: str, entry_point: str, calls: int, returns: int) -> None:
    """A: run the text of a program, then answer calls of its function until there are no more."""
    problem, namespace = "", dict[str, Any]()
    function: Any = None
    try:
        exec(compile(source, "program", "exec"), namespace)
        function = namespace[entry_point]
    except BaseException as error:
        problem = described(error)
    while True:
        arguments = decode(receive(calls))
        try:
            answer = {"raised": problem} if problem else {"value": encode(function(*arguments))}
            data = json.dumps(answer).encode()
        except BaseException as error:
            data = json.dumps({"raised": described(error)}).encode()
        give(returns, struct.pack(">Q", len(data)) + data)


class Candidate:
    """B's stand-in for the function of the program."""

    def __init__(self, calls: int, returns: int):
        self.calls, self.returns, self.count = calls, returns, 0

    def __call__(self, *arguments: Any) -> Any:
        self.count += 1
        try:
            send(self.calls, encode(arguments))
            answer = receive(self.returns)
        except (EOFError, BrokenPipeError) as error:
            raise Ended("the program ended") from error
        except (ValueError, RecursionError, MemoryError) as error:
            raise Ended(f"no value came back ({described(error)})") from error
        if type(answer) is dict and list(answer) == ["value"]:
            try:
                return decode(answer["value"])
            except (ValueError, TypeError, ArithmeticError, RecursionError, MemoryError) as error:
                raise Ended(f"no value came back ({described(error)})") from error
        raise Ended(str(answer["raised"]) if type(answer) is dict and list(answer) == ["raised"] else "no value")


class Ended(Exception):
    """A call that gave no value."""


def check_program(task: dict[str, str], candidate: Candidate) -> dict[str, Any]:
    """B: run the problem's check; what became of it.

    The check sees the problem's own text with its known solution, for what it takes from there besides the function;
    under the function's name it sees the program's.
    """
    namespace: dict[str, Any] = {}
    try:
        exec(compile(task["setup"], "problem", "exec"), namespace)
        exec(compile(task["test"], "check", "exec"), namespace)
        namespace[task["entry_point"]] = candidate
        namespace["check"](candidate)
    except AssertionError as error:
        why = f"wrong answer: {described(error).removeprefix('AssertionError: ')}".removesuffix(": ")
        return {"passed": False, "why": why[:SAID], "calls": candidate.count}
    except Ended as error:
        return {"passed": False, "why": f"{error}"[:SAID], "calls": candidate.count}
    except BaseException as error:
        return {"passed": False, "why": f"the check ended: {described(error)}"[:SAID], "calls": candidate.count}
    return {"passed": True, "why": "", "calls": candidate.count}


# -- what A and B may ask of the kernel ----------------------------------------------------------------------------

# name: number on x86_64, on aarch64; None: not there. Whatever is not named gets EPERM, so what a later kernel adds too
ALLOWED: dict[str, tuple[int | None, int | None]] = {
    "read": (0, 63), "write": (1, 64), "close": (3, 57), "fstat": (5, 80), "lseek": (8, 62), "readv": (19, 65),
    "writev": (20, 66), "pread64": (17, 67), "newfstatat": (262, 79), "statx": (332, 291), "stat": (4, None),
    "lstat": (6, None), "access": (21, None), "faccessat": (269, 48), "faccessat2": (439, 439),
    "getdents64": (217, 61), "getcwd": (79, 17), "dup": (32, 23), "poll": (7, None), "ppoll": (271, 73),
    "select": (23, None), "pselect6": (270, 72), "mmap": (9, 222), "mprotect": (10, 226), "munmap": (11, 215),
    "mremap": (25, 216), "brk": (12, 214), "madvise": (28, 233), "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135), "rt_sigreturn": (15, 139), "sigaltstack": (131, 132), "restart_syscall": (219, 128),
    "nanosleep": (35, 101), "clock_nanosleep": (230, 115), "clock_gettime": (228, 113), "clock_getres": (229, 114),
    "gettimeofday": (96, 169), "time": (201, None), "times": (100, 153), "getrusage": (98, 165), "futex": (202, 98),
    "sched_yield": (24, 124), "getpid": (39, 172), "gettid": (186, 178), "getppid": (110, 173), "getuid": (102, 174),
    "geteuid": (107, 175), "getgid": (104, 176), "getegid": (108, 177), "uname": (63, 160), "sysinfo": (99, 179),
    "getrandom": (318, 278), "exit": (60, 93), "exit_group": (231, 94),
}  # fmt: skip
OPENS = {"open": (2, None, 1), "openat": (257, 56, 2)}  # and the argument with the flags, none of which may be here:
WRITING = 0o1 | 0o2 | 0o100 | 0o200 | 0o1000 | 0o2000 | 0o20000 | 0o20000000  # WRONLY RDWR CREAT ... ASYNC TMPFILE
FCNTL = (72, 25)  # F_SETOWN and F_SETSIG send signals to others, so:
FCNTL_COMMANDS = (fcntl.F_DUPFD, fcntl.F_GETFD, fcntl.F_SETFD, fcntl.F_GETFL, fcntl.F_DUPFD_CLOEXEC)
# column above, AUDIT_ARCH_..., the numbers of seccomp and pivot_root
PROCESSORS = {"x86_64": (0, 0xC000003E, 317, 155), "aarch64": (1, 0xC00000B7, 277, 41)}

EPERM_RETURN, ALLOW_RETURN, KILL_RETURN = 0x00050000 | 1, 0x7FFF0000, 0x80000000
LOAD, EQUAL, ANY_BIT, RETURN = 0x20, 0x15, 0x45, 0x06


def filter_program(machine: str) -> list[tuple[int, int, int, int]]:
    """A seccomp filter as instructions (code, jump if true, jump if false, operand) of classic BPF.

    Raises Refused for a processor whose numbers are not known.
    """
    if machine not in PROCESSORS:
        raise Refused(f"no list of system calls for the processor {machine}")
    column, architecture, _, _ = PROCESSORS[machine]
    number, processor = (
        0,
        4,
    )  # offsets in struct seccomp_data: the call's number, the architecture; arguments from 16 on

    def argument(index: int) -> int:
        return 16 + 8 * index

    tests = [(n[column], "allow") for n in ALLOWED.values()]
    tests += [(o[column], name) for name, o in OPENS.items()] + [(FCNTL[column], "fcntl")]
    lines: list[tuple[int, str | None, str | None, int]] = [
        (LOAD, None, None, processor), (EQUAL, None, "kill", architecture), (LOAD, None, None, number)
    ]  # fmt: skip
    lines += [(EQUAL, label, None, known) for known, label in tests if known is not None]
    lines.append((RETURN, None, None, EPERM_RETURN))
    labels: dict[str, int] = {}
    for name, (*numbers, flags) in OPENS.items():
        if numbers[column] is not None:
            labels[name] = len(lines)
            lines += [(LOAD, None, None, argument(flags)), (ANY_BIT, "deny", "allow", WRITING)]
    labels["fcntl"] = len(lines)
    lines.append((LOAD, None, None, argument(1)))
    lines += [(EQUAL, "allow", None, command) for command in FCNTL_COMMANDS]
    for name, value in (("deny", EPERM_RETURN), ("allow", ALLOW_RETURN), ("kill", KILL_RETURN)):
        labels[name] = len(lines)
        lines.append((RETURN, None, None, value))

    def jump(label: str | None, at: int) -> int:
        return 0 if label is None else labels[label] - at - 1

    return [(code, jump(yes, i), jump(no, i), operand) for i, (code, yes, no, operand) in enumerate(lines)]


class Kernel:
    """System calls that Python has no function for. Each raises OSError."""

    def __init__(self) -> None:
        self.libc = ctypes.CDLL(None, use_errno=True)
        self.machine = os.uname().machine

    def checked(self, result: int, what: str) -> int:
        if result < 0:
            error = ctypes.get_errno()
            raise OSError(error, f"{what}: {os.strerror(error)}")
        return result

    def call(self, what: str, number: int, *arguments: Any) -> int:
        plain = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
        return self.checked(self.libc.syscall(ctypes.c_long(number), *plain), what)

    def prctl(self, option: int, value: int) -> None:
        self.checked(self.libc.prctl(option, *map(ctypes.c_ulong, (value, 0, 0, 0))), f"prctl {option}")

    def mount(self, source: str, target: str, kind: str | None, flags: int, data: str = "") -> None:
        texts = [None if text is None else text.encode() for text in (source, target, kind)]
        done = self.libc.mount(*texts, ctypes.c_ulong(flags), data.encode())
        self.checked(done, f"mount {target}")

    def drop_capabilities(self) -> None:
        header, none = struct.pack("=Ii", 0x20080522, 0), bytes(24)
        self.checked(self.libc.capset(header, none), "capset")

    def filter(self, program: list[tuple[int, int, int, int]]) -> None:
        packed = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *line) for line in program))
        whole = struct.pack("@HP", len(program), ctypes.addressof(packed))
        self.call("seccomp", PROCESSORS[self.machine][2], 1, 0, ctypes.c_char_p(whole))


SET_PDEATHSIG, SET_DUMPABLE, SET_NO_NEW_PRIVS = 1, 4, 38


def confine(kernel: Kernel, seconds: float, memory: int, descriptors: dict[int, int], keeper: int) -> None:
    """Make this process harmless for good. descriptors: {what it shall be: what it is}; all others are closed.

    memory: bytes of address space. Raises OSError; then nothing may be run.
    """
    moved = {number: fcntl.fcntl(old, fcntl.F_DUPFD, 64) for number, old in descriptors.items()}
    for number in range(max(descriptors) + 1):
        os.dup2(moved.get(number, NOTHING), number)
    os.closerange(max(descriptors) + 1, 4096)
    processor = math.ceil(seconds) + 1  # whole seconds; the parent limits wall-clock time
    limits = {
        resource.RLIMIT_CPU: processor, resource.RLIMIT_AS: memory, resource.RLIMIT_FSIZE: 0, resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NOFILE: 32, resource.RLIMIT_NPROC: 1, resource.RLIMIT_MEMLOCK: 0, resource.RLIMIT_MSGQUEUE: 0,
    }  # fmt: skip
    for which, value in limits.items():
        resource.setrlimit(which, (value, value))
    kernel.drop_capabilities()
    kernel.prctl(SET_DUMPABLE, 0)
    kernel.prctl(SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != keeper:
        os._exit(LATE)
    kernel.prctl(SET_NO_NEW_PRIVS, 1)
    kernel.filter(filter_program(kernel.machine))
    random.seed()  # the two processes come of one: neither is to know what the other one draws


NOTHING = -1  # /dev/null, opened before there are walls


# -- walls ---------------------------------------------------------------------------------------------------------


def library() -> tuple[list[str], list[str]]:
    """The folders of Python's own library, and what others installed within them: that stays hidden."""
    folders: list[str] = []
    for path in sorted({os.path.realpath(path) for path in sys.path if os.path.isdir(path)}):
        if not any(path.startswith(folder + "/") for folder in folders):
            folders.append(path)
    hidden = [os.path.join(folder, name) for folder in folders for name in ("site-packages", "dist-packages")]
    return folders, [path for path in hidden if os.path.isdir(path)]


def wall_of_landlock(kernel: Kernel) -> str:
    """Of all files only Python's own library can be opened, and only to be read (Linux 5.13 and later)."""
    abi = kernel.libc.syscall(ctypes.c_long(444), None, ctypes.c_long(0), ctypes.c_long(1))
    if abi < 1:
        raise Refused(f"the kernel has no Landlock ({os.strerror(ctypes.get_errno())})")
    every = (1 << (13 + (abi >= 2) + (abi >= 3) + (abi >= 5))) - 1  # file system rights that this kernel knows
    fields = [every, *([0b11] if abi >= 4 else []), *([0b11] if abi >= 6 else [])]  # TCP; abstract sockets, signals
    attributes = struct.pack(f"={len(fields)}Q", *fields)
    rules = kernel.call("landlock_create_ruleset", 444, ctypes.c_char_p(attributes), len(attributes), 0)
    read_file, read_folder = 1 << 2, 1 << 3

    def allow(path: str, rights: int) -> None:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
        rule = struct.pack("=Qi", rights, descriptor)
        kernel.call("landlock_add_rule", 445, rules, 1, ctypes.c_char_p(rule), 0)
        os.close(descriptor)

    folders, hidden = library()
    for folder in folders:
        allow(folder, read_folder)  # names can be listed below it, hidden ones too; they cannot be opened
        for entry in os.scandir(folder):
            if entry.path not in hidden and not entry.is_symlink():
                allow(entry.path, read_file | read_folder if entry.is_dir() else read_file)
    kernel.prctl(SET_NO_NEW_PRIVS, 1)
    kernel.call("landlock_restrict_self", 446, rules, 0)
    os.close(rules)
    return f"ABI {abi}"


def wall_of_namespaces(kernel: Kernel) -> str:
    """A user, mount, process, network and IPC namespace of its own, in a root that holds Python's library alone.

    Returns in a new process, the first of its namespace: when it ends, so does all in there.
    """
    newns, newuts, newipc, newuser, newpid, newnet = (1 << bit for bit in (17, 26, 27, 28, 29, 30))
    nosuid, nodev, noexec, remount, bind, recursive, private = 2, 4, 8, 32, 4096, 16384, 1 << 18
    user, group = os.getuid(), os.getgid()
    folders, hidden = library()
    every = newns | newuts | newipc | newuser | newpid | newnet
    kernel.checked(kernel.libc.unshare(ctypes.c_int(every)), "unshare")
    for name, text in (("setgroups", "deny"), ("uid_map", f"65534 {user} 1"), ("gid_map", f"65534 {group} 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)
    kernel.mount("none", "/", None, recursive | private)
    opened = [os.open(folder, os.O_PATH | os.O_CLOEXEC) for folder in folders]
    root = "/tmp"
    kernel.mount("none", root, "tmpfs", nosuid | nodev | noexec, "size=64k,mode=755")
    for folder, descriptor in zip(folders, opened, strict=True):
        os.makedirs(root + folder)
        kernel.mount(f"/proc/self/fd/{descriptor}", root + folder, None, bind | recursive)
        locked = os.statvfs(root + folder).f_flag & (1 | 2 | 4 | 8 | 1024 | 2048 | 4096)  # they may not be taken away
        bits = {1: 1, 2: 2, 4: 4, 8: 8, 1024: 1024, 2048: 2048, 4096: 1 << 21}  # MS_RELATIME is another bit
        kept = sum(flag for bit, flag in bits.items() if locked & bit)
        kernel.mount("none", root + folder, None, remount | bind | 1 | nosuid | nodev | kept)
        os.close(descriptor)
    for path in hidden:
        kernel.mount("none", root + path, "tmpfs", 1 | nosuid | nodev | noexec, "size=4k,mode=755")
    os.chdir(root)
    kernel.call("pivot_root", PROCESSORS[kernel.machine][3], ctypes.c_char_p(b"."), ctypes.c_char_p(b"."))
    kernel.checked(kernel.libc.umount2(b".", 2), "umount")
    kernel.mount("none", "/", None, remount | bind | 1 | nosuid | nodev | noexec)
    os.chdir("/")
    inner = os.fork()
    if inner:
        os.closerange(0, 64)
        _, status = os.waitpid(inner, 0)
        os._exit(os.waitstatus_to_exitcode(status) & 0xFF)
    kernel.prctl(SET_PDEATHSIG, signal.SIGKILL)
    return "user, mount, process, network, IPC"


WALLS: dict[str, Callable[[Kernel], str]] = {
    "landlock": wall_of_landlock,
    "namespaces": wall_of_namespaces,
    "outside": lambda kernel: "",  # who started this interpreter put it up
}


# -- the server ----------------------------------------------------------------------------------------------------


def serve(kernel: Kernel, memory: int) -> None:
    """Programs from descriptor 0, what became of them to descriptor 1, until there are no more."""
    me = os.getpid()
    while True:
        try:
            length, check_length, seconds = struct.unpack(">QQd", take(0, 24))
        except EOFError:
            return
        task = json.loads(take(0, length))
        calls_out, calls_in = os.pipe()  # B writes into calls_in, A reads from calls_out
        returns_out, returns_in = os.pipe()
        begun = time.monotonic()
        program = os.fork()
        if program == 0:
            try:
                confine(kernel, seconds, memory, {3: calls_out, 4: returns_in}, me)
                run_program(task["source"], task["entry_point"], 3, 4)
            except EOFError:
                os._exit(0)
            finally:
                os._exit(LATE)
        for descriptor in (calls_out, returns_in):
            os.close(descriptor)
        alive_out, alive_in = os.pipe()
        checker = os.fork()
        if checker == 0:
            try:
                text = take(0, check_length)  # from the parent itself: the one who forks never sees it
                os.write(alive_in, b"r")
                confine(kernel, seconds, memory, {1: 1, 3: calls_in, 4: returns_out, 5: alive_in}, me)
                tell("report", **check_program(json.loads(text), Candidate(3, 4)))
                os._exit(0)
            finally:
                os._exit(LATE)
        for descriptor in (calls_in, returns_out, alive_in):
            os.close(descriptor)
        was_read, ended = watch(alive_out, begun + seconds)
        os.close(alive_out)
        statuses = {}
        for name, pid in (("program", program), ("checker", checker)):
            os.kill(pid, signal.SIGKILL)
            _, status = os.waitpid(pid, 0)
            statuses[name] = os.waitstatus_to_exitcode(status)
        if not was_read:  # part of it lies unread in the pipe: nothing that comes after it could be understood
            os._exit(LATE)
        tell("end", ended=ended, seconds=time.monotonic() - begun, **statuses)


def watch(descriptor: int, until: float) -> tuple[bool, bool]:
    """Wait for the checker, which holds the other end: whether it read its check, and whether it ended in time."""
    poll, was_read = select.poll(), False
    poll.register(descriptor, select.POLLIN)
    while (left := until - time.monotonic()) > 0:
        if poll.poll(left * 1000):
            if not os.read(descriptor, 1):
                return was_read, True
            was_read = True
    return was_read, False


def main() -> None:
    global NOTHING
    (length,) = struct.unpack(">Q", take(0, 8))
    asked = json.loads(take(0, length))
    try:
        for name in READY:
            try:
                __import__(name)
            except ImportError:
                continue
        NOTHING = fcntl.fcntl(os.open("/dev/null", os.O_RDWR), fcntl.F_DUPFD, 200)
        with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
            file.write("1000")  # where memory runs out, these processes go first and not the one with the model
        os.environ.clear()
        os.chdir("/")
        os.umask(0o077)
        sys.set_int_max_str_digits(0)
        kernel = Kernel()
        filter_program(kernel.machine)
        wall = WALLS[asked["wall"]](kernel)
        kernel.prctl(SET_DUMPABLE, 0)  # nobody of the same user may look into it, nor into what it forks
    except (OSError, Refused, AttributeError) as error:
        tell("refused", why=described(error))
        return
    os.dup2(NOTHING, 2)
    version = sys.version.split()[0]
    tell("ready", wall=wall, python=version)
    gc.collect()
    gc.freeze()  # a fork shares all of it, and keeps it shared
    serve(kernel, asked["memory"])


if __name__ == "__main__":
    main()
