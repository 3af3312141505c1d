"""How a run stands, by its files alone: no lock, no process is looked for, so it may train on any machine.

A training touches `.keeper` every twenty seconds as long as it lives, and writes metrics.jsonl at each step; when it
ends it leaves in summary.json how. Clocks of machines differ: what counts is when this process saw one of the files
change, and only at the first look how old they say they are.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ift import jobs
from ift.forms import DATA_REPORT
from ift.lock import KEEPER, SILENT
from ift.pages.configs import COPY, read_config
from ift.pages.metrics import Metrics, number
from ift.run import Problem, RunFolder, read_object

SIGHTS = 64  # moments of a training that are remembered for its speed
LEAST_WATCHED = 20.0  # seconds of watching after which that speed is believed
Signature = tuple[int, int, int] | None


@dataclass(frozen=True)
class Standing:
    """kind: starting, running, answering, finished, stopped, failed or silent. why: what there is to know, or ""."""

    kind: str
    why: str = ""

    @property
    def is_live(self) -> bool:
        return self.kind in ("starting", "running", "answering")


def standing(summary: Mapping[str, Any], note: Mapping[str, Any], *, begun: bool, silent: float) -> Standing:
    """How it stands.

    summary: of summary.json, {} while it trains; note: what the job told its sweep; silent: seconds without a sign.
    """
    status = summary.get("status")
    status = status if isinstance(status, str) else ""
    if status == "finished":
        reason = summary.get("stop_reason")
        return Standing("finished", reason if isinstance(reason, str) else "")
    if status.startswith("stopped"):
        return Standing("stopped", status)
    if status.startswith("failed"):
        return Standing("failed", status.removeprefix("failed: "))
    if not status and note.get("code") and isinstance(note.get("status"), str):
        kind = "stopped" if note["status"].startswith("stopped") else "failed"
        return Standing(kind, note["status"].removeprefix("failed: "))
    if silent >= SILENT:
        return Standing("silent", f"no sign of life for {age(silent)}")
    if status:
        return Standing("answering", status)
    return Standing("running") if begun else Standing("starting", "reading rows and measuring the untuned model")


def age(seconds: float) -> str:
    """In the largest unit of which there are two or more: 90 s is 90 s, 7,200 s is 2 h."""
    for unit, name in ((86_400, "days"), (3_600, "h"), (60, "min")):
        if seconds >= 2 * unit:
            return f"{seconds / unit:,.0f} {name}"
    return f"{seconds:.0f} s"


class LiveRun:
    """One run folder, looked at again and again. What has not changed is not read again."""

    def __init__(self, path: Path):
        self.folder = RunFolder(path)
        self.metrics = Metrics(self.folder.metrics)
        self.config: dict[str, str] = {}
        self.config_seen: Signature | Literal["never"] = "never"  # the config.yaml that was read; None: there was none
        self.summary: dict[str, Any] = {}
        self.problems: dict[str, list[Problem]] = {}
        self.there = True
        self.began = 0.0  # the time of config.yaml, by the clock of whoever wrote it
        self.state = Standing("starting")
        self._note: dict[str, Any] = {}
        self._summary_seen: Signature = None
        self.signs: tuple[Signature, ...] = ()  # of the files that a training writes
        self._changed = 0.0  # on this process's own clock, less the age at the first look
        self._sights: list[tuple[float, float]] = []  # of a training: when, and its step then
        self._rows_an_epoch: tuple[Signature, int | None] = (None, None)

    def look(self, *, now: float | None = None, clock: float | None = None) -> None:
        """The state now. now: on a clock that goes on evenly; clock: the time of day; both are this machine's."""
        now = time.monotonic() if now is None else now
        clock = time.time() if clock is None else clock
        run = self.folder
        config, summary, metrics, keeper, samples = (
            signature(path) for path in (run.config, run.summary, run.metrics, run.path / KEEPER, run.samples)
        )
        self.there = config is not None or metrics is not None or summary is not None
        if config:
            self.began = config[2] / 1e9
        if summary != self._summary_seen:
            self.summary, self.problems["summary"] = read_object(run.summary, advice=COPY)
            self._summary_seen = summary
        self._note = {} if self.summary else read_object(_note_of(run.path), advice="")[0]
        signs = (metrics, keeper, samples, summary, config)
        if not self.signs:
            newest = max((sign[2] / 1e9 for sign in signs if sign), default=clock)
            self._changed = now - max(0.0, clock - newest)  # a time to come is a clock that differs
        elif signs != self.signs:
            self._changed = now
        if not self.signs or metrics != self.signs[0]:
            self.metrics.look()
            self.metrics.glance()
        self.signs = signs
        begun = metrics is not None and metrics[1] > 0
        self.state = standing(self.summary, self._note, begun=begun, silent=now - self._changed)
        self._sight(now)

    def read_settings(self) -> bool:
        """Read config.yaml where it has changed; whether it had."""
        seen = signature(self.folder.config)
        if seen == self.config_seen:
            return False
        self.config, self.problems["config"] = read_config(self.folder)
        self.config_seen = seen
        return True

    # -- how far it is ------------------------------------------------------------------------------------------------

    @property
    def step(self) -> int:
        return int(number(self.metrics.now.get("step"), 0.0))

    def steps(self) -> int | None:
        """Of the whole training; None where that cannot be told."""
        if self.state.kind == "finished" and (steps := number(self.summary.get("steps"))):
            return int(steps)
        most = _number(self.config, "trainer.max_steps")
        epochs, epoch = _number(self.config, "trainer.max_epochs"), self._steps_of_an_epoch()
        ends = [end for end in (most, epochs * epoch if epochs and epoch else None) if end]
        if not ends or (most is None and epoch is None):
            return None
        return max(int(min(ends)), self.step)

    def _steps_of_an_epoch(self) -> int | None:
        """As metrics.jsonl shows when its second epoch has begun; before that as rows and batches give it."""
        if self.metrics.epoch:
            epoch, first = self.metrics.epoch
            return max(1, round((first - 1) / epoch))
        parts = [_number(self.config, f"trainer.{name}", 1.0) for name in ("devices", "nodes", "accumulate")]
        rows, batch = self._rows(), _number(self.config, "data.batch_size")
        if not rows or not batch or None in parts:
            return None
        in_a_step = batch * math.prod(part for part in parts if part)
        steps = rows / in_a_step
        steps = math.floor(steps) if self.config.get("data.drop_last") == "True" else math.ceil(steps)
        limit = self.config.get("trainer.limit_train_batches", "null")
        return steps if limit == "null" and steps else None

    def _rows(self) -> int | None:
        """Training rows of an epoch, by data_report.json."""
        seen = signature(self.folder.data_report)
        if seen != self._rows_an_epoch[0]:
            report, self.problems["report"] = read_object(self.folder.data_report, DATA_REPORT, advice=COPY)
            splits = report.get("splits")
            rows = number(report.get("rows_an_epoch")) or number(
                splits.get("train") if isinstance(splits, dict) else None
            )
            self._rows_an_epoch = (seen, int(rows) if rows else None)
        return self._rows_an_epoch[1]

    def seconds_left(self) -> float | None:
        """At the speed that this process saw, validations included; before it has seen enough, at that of the steps."""
        steps = self.steps()
        if self.state.kind != "running" or steps is None:
            return None
        per_step = self.metrics.seconds_per_step()
        if self._sights:
            (begin, first), (end, last) = self._sights[0], self._sights[-1]
            if end - begin >= LEAST_WATCHED and last > first:
                per_step = (end - begin) / (last - first)
        return None if per_step is None else (steps - self.step) * per_step

    def _sight(self, now: float) -> None:
        if self.metrics.behind:
            return
        step = self.step
        if self.state.kind != "running" or (self._sights and step < self._sights[-1][1]):
            self._sights = []
        elif not self._sights or step > self._sights[-1][1]:
            self._sights.append((now, step))
        if len(self._sights) > SIGHTS:
            del self._sights[: SIGHTS // 2]  # speed of late, not of the first hour


def signature(path: Path) -> Signature:
    """By which a file is another one; None where there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns


def _note_of(path: Path) -> Path:
    return path.parent / jobs.FOLDER / f"{path.name}.json"


def _number(config: Mapping[str, str], key: str, otherwise: float | None = None) -> float | None:
    value = config.get(key, "null")
    if value == "null":
        return otherwise
    return float(value) if re.fullmatch(r"\d{1,15}(\.\d+)?", value) else None
