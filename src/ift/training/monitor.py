"""`trainer.monitor`: the number by which one model is better than another."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ift.rules import MONITORS

if TYPE_CHECKING:
    import lightning as L


def monitored(trainer: L.Trainer, name: str) -> float:
    """Of the validation that has just ended, turned so that less is better; infinite where it was not measured."""
    value = trainer.callback_metrics.get(name)
    if value is None:
        return math.inf
    return float(value) if MONITORS[name] == "min" else -float(value)
