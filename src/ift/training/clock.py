"""Where the time of a run goes: at each moment of it one part is counted, so the parts of training add up to it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback

PARTS = ("steps", "validation", "samples", "saving", "waiting")  # of train_seconds
BEFORE = ("start", "untuned")  # until the first computation; the untuned model measured, answering and kept


class Clock(Callback):
    """The last of the callbacks, so that what the others do after a validation counts as theirs.

    steps       all that is nothing else
    validation  rows of the validation split, during training
    samples     the sample prompts answered
    saving      a checkpoint or a model copied in memory; written, where there is no memory for a copy
    waiting     for the thread that writes
    """

    def __init__(self, began: float | None = None):
        """began: when the work on this run began, by time.perf_counter(); None: when the process was started."""
        self._began: float | None = time.perf_counter() - process_seconds() if began is None else began
        self._seconds = dict.fromkeys((*BEFORE, *PARTS), 0.0)
        self._part: str | None = None
        self._since = 0.0

    def switch(self, part: str | None) -> str | None:
        """From now on time counts as this part (None: as none). Returns the part that it counted as until now."""
        now, before = time.perf_counter(), self._part
        if before is not None:
            self._seconds[before] += now - self._since
        self._part, self._since = part, now
        return before

    @contextmanager
    def spent(self, part: str) -> Iterator[None]:
        """Time in here, in training; before and after it, it belongs to what goes on there."""
        if self._part not in PARTS:
            yield
            return
        before = self.switch(part)
        try:
            yield
        finally:
            self.switch(before)

    @property
    def seconds(self) -> dict[str, float]:
        """By part, until now."""
        self.switch(self._part)
        return dict(self._seconds)

    @property
    def train_seconds(self) -> float:
        """Of training so far, stops left out."""
        seconds = self.seconds
        return sum(seconds[part] for part in PARTS)

    def go_on(self, seconds: Mapping[str, float]) -> None:
        """Add what a stopped run had come to."""
        for part, value in seconds.items():
            if part in self._seconds:
                self._seconds[part] += value

    # -- when ------------------------------------------------------------------------------------------------------

    def started(self) -> None:
        """The process is ready to compute. Counted once."""
        if self._began is not None:
            self._seconds["start"] += time.perf_counter() - self._began
            self._began = None

    def train(self) -> None:
        """Training begins, or goes on."""
        self.started()
        self.switch("steps")

    def on_validation_start(self, trainer: L.Trainer, module: Any) -> None:
        self.started()
        self.switch("untuned" if self._part is None else "validation")

    def on_validation_end(self, trainer: L.Trainer, module: Any) -> None:
        self.switch(None if self._part == "untuned" else "steps")

    def on_train_end(self, trainer: L.Trainer, module: Any) -> None:
        self.switch(None)


def process_seconds() -> float:
    """Since this process was started, its interpreter and imports included; 0 where the system does not tell."""
    try:
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        up = float(Path("/proc/uptime").read_text().split()[0])
        return max(0.0, up - int(fields[19]) / os.sysconf("SC_CLK_TCK"))  # proc(5): (22) starttime
    except (OSError, ValueError, IndexError):
        return 0.0
