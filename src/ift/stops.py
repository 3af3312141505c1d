"""Signals that ask a process to stop: SIGTERM, SIGUSR1, Ctrl-C. It ends with exit code 75, and a line how to go on.

Work that is `deferred` ends where it says so, between two pieces (training: after a step, which is saved). Anything
else ends at once. A second signal always ends the process at once.
"""

from __future__ import annotations

import ctypes
import math
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from ift.errors import Stopped

SIGNALS = [signal.SIGINT, signal.SIGTERM] + ([signal.SIGUSR1] if hasattr(signal, "SIGUSR1") else [])
AGAIN = "type the command again"
DEAF = 20.0  # seconds that the main thread may leave a first signal unheard: launchers kill after 30

received: str | None = None  # the name of the signal that came
_deferred = _held = False
_heard = 0  # signals
_pass_on: Callable[[], None] | None = None  # what a signal does where the work is that of other processes
_when, _hint = "", AGAIN


def _handle(number: int, frame: FrameType | None) -> None:
    global received, _heard
    _heard += 1
    if received is not None:
        os.write(2, f"ift: stopped at once; what was saved is whole ({_hint})\n".encode())
        os._exit(Stopped.exit_code)
    received = signal.Signals(number).name
    if _pass_on is not None:
        _pass_on()
    elif not _deferred:
        raise stopped(_when)


@contextmanager
def listening(when: str = "before training began") -> Iterator[None]:
    """Around everything that a process does. when: what it is at where nothing is deferred, for the message."""
    global received, _when, _pass_on
    received, _when = None, when
    before = {number: signal.signal(number, _handle) for number in SIGNALS}
    try:
        yield
    finally:
        received = _pass_on = None
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def listening_to_parent() -> Iterator[None]:
    """The same for a process that works for another: it is asked to stop when that one ends, in whatever way.

    Ctrl-C, which reaches all processes of a terminal, is for the other one to pass on: a second signal would end this
    process at once.
    """
    with listening():
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        end_with_parent(signal.SIGTERM)
        yield


def pass_on(to: Callable[[], None], hint: str) -> None:
    """From now on a signal is passed on to other processes, and this one waits for them. hint: how to go on then."""
    global _pass_on, _hint
    _pass_on, _hint = to, hint


def stopped(when: str) -> Stopped:
    return Stopped(f"stopped by {received or 'a signal to another process'} {when} ({_hint})")


def end_with_parent(number: int = signal.SIGKILL) -> None:
    """For a process that helps another: it is killed when its parent ends, for which torch would wait half an hour.

    Linux alone knows how (prctl(2)); elsewhere nothing is done.
    """
    if sys.platform == "linux":
        PR_SET_PDEATHSIG = 1  # of sys/prctl.h
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number)


@contextmanager
def heard_in_torch(needed: bool = True) -> Iterator[None]:
    """Around what may wait inside of torch for another process, where Python hears no signal.

    Then another thread ends this process: DEAF seconds after a first signal, at once after a second one.
    """
    if not needed:
        yield
        return
    ear, mouth = os.pipe()
    os.set_blocking(mouth, False)
    before = signal.set_wakeup_fd(mouth, warn_on_full_buffer=False)
    listener = threading.Thread(target=_end_if_deaf, args=(ear, _heard), name="ift-stops", daemon=True)
    listener.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        os.close(mouth)  # which ends the thread
        listener.join()
        os.close(ear)


def _end_if_deaf(ear: int, heard: int) -> None:
    """heard: signals that the main thread had heard before the first that comes here."""
    end, name = math.inf, ""
    while True:
        ready, _, _ = select.select([ear], [], [], None if end == math.inf else 0.1)
        number = os.read(ear, 1) if ready else b"\0"
        if not number:
            return
        if number[0] in SIGNALS:
            heard, name = heard + 1, signal.Signals(number[0]).name
            end = time.monotonic() + (DEAF if end == math.inf else 0.5)
        if _heard >= heard:
            end = math.inf
        elif time.monotonic() > end:
            os.write(2, f"ift: stopped by {name} while waiting for another process ({_hint})\n".encode())
            os._exit(Stopped.exit_code)


@contextmanager
def deferred(hint: str = AGAIN) -> Iterator[None]:
    """Around what stops only where it says so, by check() or by looking at `received`. hint: how to go on then."""
    global _deferred, _hint
    before, (_deferred, _hint) = (_deferred, _hint), (True, hint)
    try:
        yield
    finally:
        _deferred, _hint = before


@contextmanager
def held() -> Iterator[None]:
    """Around what one rank does alone: it may not stop before the others know."""
    global _held
    before, _held = _held, True
    try:
        yield
    finally:
        _held = before


def check(when: str) -> None:
    """Raises Stopped if a signal came: between two pieces of work that can be done again."""
    if received is not None and not _held:
        raise stopped(when)
