"""Where the time of training goes, measured by Lightning's profilers or by torch's, into RUN/profile."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.profilers import AdvancedProfiler, Profiler, SimpleProfiler
from torch.profiler import profile, schedule

RECORDED = 3  # steps: a trace of all would be huge
ROWS = 50  # of the table, the operators that took longest first


def open_profiler(kind: str | None, folder: Path) -> Profiler | None:
    """Lightning's, which writes a file for validation, training and test each; None for the other kinds."""
    if kind not in ("simple", "advanced"):
        return None
    folder.mkdir(exist_ok=True)
    kinds = {"simple": SimpleProfiler, "advanced": AdvancedProfiler}
    return kinds[kind](dirpath=folder, filename=kind)


class Trace(L.Callback):
    """A few training steps as torch sees them: a table, and a trace that opens in Perfetto (https://ui.perfetto.dev).

    Lightning's own PyTorchProfiler begins and ends within the optimizer's step, whose record is open at that time:
    torch then writes to memory that is gone, and now and then the process ends with a segmentation fault. Here a
    recording begins and ends between two batches.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.profile: profile | None = None

    def on_train_start(self, trainer: L.Trainer, module: Any) -> None:
        left = trainer.max_steps - trainer.global_step
        if left == 0:
            return
        self.folder.mkdir(exist_ok=True)
        before = int(left > RECORDED + 1)  # the first steps are slower than others: left out where there are enough
        plan = schedule(wait=before, warmup=before, active=min(left, RECORDED), repeat=1)
        self.profile = profile(schedule=plan, on_trace_ready=lambda done: self._write(done, trainer.global_rank))
        self.profile.start()

    def on_train_batch_end(self, *_: Any) -> None:
        if self.profile:
            self.profile.step()

    def on_train_end(self, trainer: L.Trainer, module: Any) -> None:
        self._stop()

    def on_exception(self, trainer: L.Trainer, module: Any, exception: BaseException) -> None:
        self._stop()

    def _stop(self) -> None:
        if self.profile:
            self.profile.stop()
            self.profile = None

    def _write(self, done: profile, rank: int) -> None:
        table = done.key_averages().table(sort_by="self_cpu_time_total", row_limit=ROWS)
        (self.folder / f"pytorch-{rank}.txt").write_text(table)
        done.export_chrome_trace(str(self.folder / f"pytorch-{rank}.json"))
