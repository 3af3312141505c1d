"""How the threads that compute wait for one another beside other programs.

Products run on threads of OpenMP, which meet at a barrier after each one. A thread that is early spins there for some
milliseconds: on an idle machine the quickest way to wait. Where another program wants the processor, the thread that is
late is the one that has none, and the others spin its time away: beside one busy program a small training took four
to six times as long (benchmarks/busy.py). So the waiting follows what the machine is doing: see `watch`.
"""

from __future__ import annotations

import ctypes
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

SECONDS = 1.0  # between two looks at the machine
MARGIN = 0.3  # processors: what a desktop, a logger or this look itself takes is no other program
LLVM_MILLISECONDS = 1  # that a thread spins; the library's own are 200
SET_BY_USER = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")


def cores() -> int:
    """Those it may use, where the system tells; a container or a scheduler may give it fewer than there are."""
    return len(_processors()) or os.cpu_count() or 1


def _processors() -> set[int]:
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()


def share_threads(ranks: int = 1) -> None:
    """Threads of this process on a CPU that has so many processes of one run, each a model's own; then `watch`.

    One process has them all, whatever the size of its model: on an idle machine two were quicker than one from a width
    of 32 on (docs/log.md, 2026-11-29). What the user has decided by a variable of OpenMP stays.
    """
    import torch

    if ranks > 1 and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, torch.get_num_threads() // ranks))
    if torch.get_num_threads() > 1 and not any(name in os.environ for name in SET_BY_USER):
        watch(torch.get_num_threads())


_watcher: threading.Thread | None = None  # in a process that was forked it is no longer alive


def watch(threads: int) -> None:
    """Have the OpenMP threads of this process give way where others want the processors. Called by who computes.

    GNU's: a thread looks once a second. LLVM's and Intel's take their bound from the thread that computes alone, and
    give way while they spin: they get a bound that always holds. Nothing is done where it cannot be known.
    """
    global _watcher
    libraries = loaded_libraries()
    for path in libraries:
        if Path(path).name.startswith(("libiomp5", "libomp")):
            ctypes.CDLL(path).kmp_set_blocktime(LLVM_MILLISECONDS)
    gnu = gnu_waiting(libraries)
    if gnu and busy_seconds(_processors()) is not None and not (_watcher and _watcher.is_alive()):
        _watcher = threading.Thread(target=_watch, args=(threads, gnu), name="ift-watch", daemon=True)
        _watcher.start()


def _watch(threads: int, give_way: Callable[[bool], None]) -> None:
    gives_way = False
    before = _look()
    while True:
        time.sleep(SECONDS)
        now = _look()
        seconds, busy, own = (b - a for a, b in zip(before, now, strict=True))
        before = now
        crowded = is_crowded(threads, others=(busy - own) / seconds, processors=len(_processors()))
        if crowded != gives_way:
            give_way(crowded)
            gives_way = crowded


def _look() -> tuple[float, float, float]:
    return time.monotonic(), busy_seconds(_processors()) or 0.0, time.process_time()


def is_crowded(threads: int, *, others: float, processors: int) -> bool:
    """Whether threads that compute must share processors. others: how many of these other programs keep busy."""
    return threads + others > processors + MARGIN


def busy_seconds(processors: set[int], stat: Path = Path("/proc/stat")) -> float | None:
    """Seconds that these processors have worked for any program, all together; None where the system does not tell.

    The columns of proc_stat(5) but idle and iowait, and steal, which no program here has; time of guests is counted in
    user and nice already.
    """
    try:
        lines = stat.read_text().splitlines()
    except OSError:
        return None
    ticks = 0
    for line in lines:
        name, *columns = line.split()
        if name.startswith("cpu") and name[3:].isdigit() and int(name[3:]) in processors:
            user, nice, system, _, _, irq, softirq = (int(column) for column in columns[:7])
            ticks += user + nice + system + irq + softirq
    return ticks / os.sysconf("SC_CLK_TCK")


# -- the library that is loaded ----------------------------------------------------------------------------------------


def loaded_libraries(maps: Path = Path("/proc/self/maps")) -> list[str]:
    """Paths of the shared libraries in this process; none where the system does not tell."""
    try:
        lines = maps.read_text().splitlines()
    except OSError:
        return []
    return sorted({line.split(maxsplit=5)[-1] for line in lines if ".so" in line})


def gnu_waiting(libraries: list[str]) -> Callable[[bool], None] | None:
    """What makes the threads of GNU's OpenMP give way (True) or spin again (False); None where it is not loaded.

    It has no call for that, but a thread spins 100 times instead of 300,000 while there are more threads than
    processors, and the idle ones of every pool count (gomp_managed_threads in its team.c and wait.h). So a thread of
    ours that holds a pool, and sleeps, makes all others give way; when it ends, they spin again.
    """
    gnu = [ctypes.CDLL(path) for path in libraries if Path(path).name.startswith("libgomp")]  # scikit-learn has its own
    nothing = ctypes.cast(ctypes.CDLL(None).free, ctypes.c_void_p)  # free(NULL), on each thread of the pool
    release = threading.Event()

    def hold(event: threading.Event) -> None:
        for library in gnu:
            library.GOMP_parallel(nothing, None, ctypes.c_uint(cores() + 1), ctypes.c_uint(0))
        event.wait()

    def give_way(crowded: bool) -> None:
        nonlocal release
        if crowded:
            release = threading.Event()
            threading.Thread(target=hold, args=(release,), name="ift-give-way", daemon=True).start()
        else:
            release.set()

    return give_way if gnu else None
