"""Signals that ask a run to stop: SIGTERM, SIGUSR1, Ctrl-C. Training ends its step and writes it down; then exit 75.

Before training there is nothing to keep, so the first signal ends the process; a second one always does.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from ift.errors import Stopped

SIGNALS = [signal.SIGINT, signal.SIGTERM] + ([signal.SIGUSR1] if hasattr(signal, "SIGUSR1") else [])

asked: str | None = None  # the name of the signal that came
_deferred = _held = False
_hint = "type the command again"


def _handle(number: int, frame: FrameType | None) -> None:
    global asked
    if asked is not None:
        os.write(2, b"ift: stopped at once; the last checkpoint is whole (go on with resume=RUN)\n")
        os._exit(Stopped.exit_code)
    asked = signal.Signals(number).name
    if not _deferred:
        raise stopped("before training began")


@contextmanager
def listening() -> Iterator[None]:
    """Around everything that a process does."""
    global asked
    asked = None
    before = {number: signal.signal(number, _handle) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def stopped(when: str) -> Stopped:
    return Stopped(f"stopped by {asked or 'a signal to another process'} {when} ({_hint})")


@contextmanager
def deferred(hint: str) -> Iterator[None]:
    """Around what stops only where it says so, by check() or by looking at `asked`. hint: how to go on then."""
    global _deferred, _hint
    before, _deferred, _hint = _hint, True, hint
    try:
        yield
    finally:
        _deferred, _hint = False, before


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
    """Raises Stopped if that was asked for: between two pieces of work that can be done again."""
    if asked is not None and not _held:
        raise stopped(when)
