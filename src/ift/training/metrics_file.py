"""The run's own record: metrics.jsonl, which every other logger mirrors, and metrics.csv, the same as a table."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only

from ift.errors import WeightsError, refused_by_disk
from ift.run import read_jsonl, write_text


class InRunFolder(Logger):
    """What Lightning asks of a logger and a run folder says elsewhere."""

    version = "0"

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Nothing: config.yaml holds them."""


class MetricsFile(InRunFolder):
    """metrics.jsonl: one line a step with every number of that step. The truth that W&B mirrors.

    Training, validation and test of one step arrive one after the other; the line is written when the next step
    begins, and whenever Lightning asks for it. Lines that the disk refuses are kept and tried again with the next.
    """

    def __init__(self, path: Path):
        super().__init__()
        self.path = path
        self._step: int | None = None
        self._values: dict[str, Any] = {}
        self._begin = path.stat().st_size if path.exists() else 0  # of this step's line in the file
        self._refused = b""  # lines before it that are not in the file yet
        self._told = False

    name = "metrics"

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        if step != self._step:
            self.save()
            line = self._line()
            self._begin += len(line)
            if self._told:
                self._refused += line
            self._step, self._values = step, {}
        self._values |= metrics

    def _line(self) -> bytes:
        return (json.dumps({"step": self._step, **self._values}) + "\n").encode() if self._values else b""

    @rank_zero_only
    def save(self) -> None:
        """Write the line of this step, in the place of the one that an earlier call wrote for it."""
        if not self._values:
            return
        try:
            self._write()
            self._refused, self._told = b"", False
        except OSError as error:
            if not self._told:
                print(f"ift: {refused_by_disk(error, str(self.path))}: training goes on", flush=True)
            self._told = True

    def _write(self, *, flush: bool = False) -> None:
        with self.path.open("ab", buffering=0) as file:
            file.truncate(self._begin - len(self._refused))
            rest = self._refused + self._line()
            while rest:
                rest = rest[file.write(rest) :]
            if flush:
                os.fsync(file.fileno())

    @rank_zero_only
    def flush(self) -> None:
        """Every line so far is on the disk; raises OSError where it refuses."""
        self._write(flush=True)
        self._refused, self._told = b"", False

    def position(self) -> dict[str, Any]:
        """What a run needs that goes on from here."""
        return {"begin": self._begin, "step": self._step, "values": self._values}

    @rank_zero_only
    def go_back(self, position: Mapping[str, Any]) -> None:
        """Cut off what came after a position. Raises WeightsError where lines before it are missing."""
        size = self.path.stat().st_size if self.path.exists() else 0
        if size < position["begin"]:
            raise WeightsError(
                f"{self.path}: {size} bytes, but the checkpoint follows on {position['begin']} (was it cut?)"
            )
        self._begin, self._step, self._values = position["begin"], position["step"], dict(position["values"])
        self._refused = b""
        self.save()

    @rank_zero_only
    def finalize(self, status: str) -> None:
        self.save()


class MetricsTable(InRunFolder):
    """metrics.csv: metrics.jsonl as a table, a row a step, for spreadsheets; written anew at each validation.

    It is made from metrics.jsonl, so a run that goes on has each step once in it.
    """

    def __init__(self, metrics: MetricsFile):
        super().__init__()
        self.metrics, self.path = metrics, metrics.path.with_suffix(".csv")

    name = "csv"

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        if any(name.startswith(("val/", "test/")) for name in metrics):
            self.write()

    @rank_zero_only
    def finalize(self, status: str) -> None:
        self.write()

    def write(self) -> None:
        """Every step so far. A disk that refuses is one line; the next time is another try."""
        try:
            self.metrics.save()
            if self.metrics.path.exists():
                write_text(self.path, as_table(read_jsonl(self.metrics.path)))
        except (OSError, ValueError) as error:
            what = refused_by_disk(error, str(self.path)) if isinstance(error, OSError) else f"{self.path}: {error}"
            print(f"ift: {what}: training goes on", flush=True)


def as_table(rows: list[dict[str, Any]]) -> str:
    """Rows as CSV: their names in the order in which they come up, an empty cell where a row has no such number."""
    names = dict.fromkeys(name for row in rows for name in row)
    text = io.StringIO()
    table = csv.DictWriter(text, names, lineterminator="\n")
    table.writeheader()
    table.writerows(
        {name: json.dumps(value) if isinstance(value, list) else value for name, value in row.items()} for row in rows
    )
    return text.getvalue()
