"""In a sweep, a job that falls behind the others ends early: the median rule."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import lightning as L
from lightning.pytorch.callbacks import Callback

from ift.rules import MONITORS
from ift.run import RunFolder


class EndBehindSiblings(Callback):
    """Ends a job of a sweep whose best validation is worse than the median of its siblings' best ones by then.

    After Golovin et al. 2017, Google Vizier, section 3.1.2, with the best value so far instead of the running mean, as
    a validation loss that falls has little use for its past. "By then" is at as many training tokens, so jobs of other
    batch sizes are siblings too; jobs with other validation rows or another tokenizer are none, since their losses
    cannot be compared. Whoever has not come as far is not counted. What siblings did is read from their metrics.jsonl,
    so it works for jobs of any launcher, on any machine that sees the folder.

    least: how many siblings there must be
    """

    reason: str | None = None

    def __init__(self, run: RunFolder, monitor: str, least: int):
        self.run, self.monitor, self.least = run, monitor, least
        self.sign = -1.0 if MONITORS[monitor] == "max" else 1.0
        self.best = math.inf  # less is better, whatever the monitor

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best = state_dict["best"]

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not trainer.global_step or self.monitor not in trainer.callback_metrics:
            return
        value = self.sign * float(trainer.callback_metrics[self.monitor])
        self.best = min(self.best, value) if math.isfinite(value) else self.best
        behind = self._behind(cast(Any, pl_module).tokens_seen) if trainer.is_global_zero else None
        self.reason = trainer.strategy.broadcast(behind)  # siblings write meanwhile: one rank looks for all
        if self.reason is not None:
            trainer.should_stop = True

    def _behind(self, tokens: int) -> str | None:
        """Why this job ends here; None where it goes on."""
        theirs = [best for path in siblings(self.run) if (best := self._best_by(path, tokens)) is not None]
        if len(theirs) < self.least:
            return None
        median = statistics.median(theirs)
        if self.best <= median:
            return None
        return (
            f"behind its siblings: best {self.monitor} {self.sign * self.best:.4g}, the median of {len(theirs)} others "
            f"after as many tokens is {self.sign * median:.4g}"
        )

    def _best_by(self, run: RunFolder, tokens: int) -> float | None:
        """The best value of a sibling by so many tokens, less is better; None where it has not come as far."""
        found, came_as_far = math.inf, False
        for line in _lines(run.metrics):
            at = line.get("tokens")
            if not isinstance(at, int | float):
                continue
            came_as_far = came_as_far or at >= tokens
            value = line.get(self.monitor)
            if at <= tokens and line.get("step") and isinstance(value, int | float) and math.isfinite(value):
                found = min(found, self.sign * value)
        return found if came_as_far and math.isfinite(found) else None


def siblings(run: RunFolder) -> Sequence[RunFolder]:
    """The other jobs of a run's sweep that have the same validation rows, as the same tokens."""
    mine = _fingerprint(run)
    others = (RunFolder(path) for path in sorted(run.path.parent.iterdir()) if path.is_dir() and path != run.path)
    return [other for other in others if other.metrics.exists() and mine and _fingerprint(other) == mine]


def _fingerprint(run: RunFolder) -> str | None:
    """Of all rows as tokens, from data_report.json; None where it cannot be read."""
    with suppress(OSError, ValueError, AttributeError):
        found = json.loads(run.data_report.read_text(encoding="utf-8")).get("fingerprint")
        return found if isinstance(found, str) else None
    return None


def _lines(path: Path) -> list[dict[str, Any]]:
    """Whole lines of a file that somebody else may be writing."""
    lines = []
    with suppress(OSError):
        for line in path.read_bytes().splitlines():
            with suppress(ValueError):
                value = json.loads(line)
                if isinstance(value, dict):
                    lines.append(value)
    return lines
