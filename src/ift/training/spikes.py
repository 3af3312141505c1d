"""A loss far above those before it is printed with its rows: bad data shows so."""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Sequence
from functools import partial
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback

from ift.training.metrics_file import MetricsFile
from ift.training.ranks import gather_rows

LOOK_BACK, AT_LEAST = 128, 32  # losses before a step that it is compared with
SPIKE = 6.0  # standard deviations above their mean


class Spikes(Callback):
    """Prints each spike of the training loss, and notes it with its rows in metrics.jsonl, under its own step."""

    def __init__(self, metrics: MetricsFile):
        self.metrics = metrics
        self.losses: deque[float] = deque(maxlen=LOOK_BACK)

    def state_dict(self) -> dict[str, Any]:
        return {"losses": list(self.losses)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.losses = deque(state["losses"], maxlen=LOOK_BACK)

    def setup(self, trainer: L.Trainer, module: Any, stage: str) -> None:
        if stage == "fit":  # from the module: on a GPU the loss of a step is known one step later
            module.step_listeners.append(partial(self.look, trainer))

    def look(self, trainer: L.Trainer, step: int, loss: float, rows: list[int]) -> None:
        """rows: of this rank. Every rank has the same loss, so all of them come to gather_rows or none."""
        far = deviations(loss, self.losses)
        if math.isfinite(loss):
            self.losses.append(loss)
        if far < SPIKE:
            return
        rows = gather_rows(trainer, rows)
        self.metrics.log_metrics({"loss_deviations": far, "rows": rows}, step=step)
        if trainer.is_global_zero:
            shown = ", ".join(map(str, rows[:8])) + (", ..." if len(rows) > 8 else "")
            print(
                f"ift: step {step}: loss {loss:.3f} is {far:.0f} standard deviations above the last "
                f"{len(self.losses) - 1} (rows {shown})",
                flush=True,
            )


def deviations(loss: float, before: Sequence[float]) -> float:
    """How many standard deviations a loss lies above those before it; 0 while they are too few to tell."""
    if len(before) < AT_LEAST or not math.isfinite(loss):
        return 0.0
    spread = statistics.stdev(before)
    return (loss - statistics.fmean(before)) / spread if spread > 0 else 0.0
