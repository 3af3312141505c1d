"""Signals that ask a process to stop: SIGTERM, SIGUSR1, Ctrl-C. It ends with exit code 75, and a line how to go on.

Work that is `deferred` ends where it says so, between two pieces (training: after a step, which is saved). Anything
else ends at once. A second signal always ends the process at once.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from ift.errors import Stopped

SIGNALS = [signal.SIGINT, signal.SIGTERM] + ([signal.SIGUSR1] if hasattr(signal, "SIGUSR1") else [])
AGAIN = "type the command again"

received: str | None = None  # the name of the signal that came
_deferred = _held = False
_when, _hint = "", AGAIN


def _handle(number: int, frame: FrameType | None) -> None:
    global received
    if received is not None:
        os.write(2, f"ift: stopped at once; what was saved is whole ({_hint})\n".encode())
        os._exit(Stopped.exit_code)
    received = signal.Signals(number).name
    if not _deferred:
        raise stopped(_when)


@contextmanager
def listening(when: str = "before training began") -> Iterator[None]:
    """Around everything that a process does. when: what it is at where nothing is deferred, for the message."""
    global received, _when
    received, _when = None, when
    before = {number: signal.signal(number, _handle) for number in SIGNALS}
    try:
        yield
    finally:
        received = None
        for number, handler in before.items():
            signal.signal(number, handler)


def stopped(when: str) -> Stopped:
    return Stopped(f"stopped by {received or 'a signal to another process'} {when} ({_hint})")


def end_with_parent() -> None:
    """For a process that helps another: it is killed when its parent ends, for which torch would wait half an hour.

    Linux alone knows how (prctl(2)); elsewhere nothing is done.
    """
    if sys.platform == "linux":
        PR_SET_PDEATHSIG = 1  # of sys/prctl.h
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


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
