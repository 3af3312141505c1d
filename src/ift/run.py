"""The run folder: where every file of a run lies, and how it gets there whole."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ift.errors import ConfigError, MachineError, one_line


class RunFolder:
    """Paths of one run. Files are written beside their name and renamed, so a reader never sees half of one."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.config = self.path / "config.yaml"
        self.data_report = self.path / "data_report.json"
        self.data_page = self.path / "data_report.html"
        self.rejected = self.path / "rejected.jsonl"
        self.cut = self.path / "cut.jsonl"
        self.leaks = self.path / "leaks.jsonl"
        self.overlaps = self.path / "overlaps.jsonl"
        self.test_rows = self.path / "test.jsonl"
        self.metrics = self.path / "metrics.jsonl"
        self.samples = self.path / "samples.jsonl"
        self.curves = self.path / "curves.png"
        self.checkpoints = self.path / "checkpoints"
        self.model = self.path / "model"
        self.responses = self.path / "responses.jsonl"
        self.ratings = self.path / "ratings.jsonl"
        self.summary = self.path / "summary.json"
        self.report = self.path / "report.html"
        self.evals = self.path / "evals"

    @classmethod
    def create(cls, path: str | Path) -> RunFolder:
        """Make the folder and try it for real. Raises ConfigError if it holds a run, MachineError if it cannot."""
        run = cls(path)
        if is_other_rank():
            return run
        if run.metrics.exists() or run.model.exists():  # a run that was refused before its first number left neither
            raise ConfigError(f"{run.path}: holds a run already (choose another output_dir)")
        try:
            run.path.mkdir(parents=True, exist_ok=True)
            write_text(run.path / ".probe", "can this folder be written?\n")
            (run.path / ".probe").unlink()
        except OSError as error:
            raise MachineError(
                f"{run.path}: cannot be written: {error.strerror} (choose another output_dir)"
            ) from error
        return run

    @contextmanager
    def outcome(self, **about: Any) -> Iterator[None]:
        """Around the work of a run: if it fails, summary.json says so and why, for the table of a sweep."""
        try:
            yield
        except BaseException as error:
            if self.path.is_dir():
                write_json(self.summary, {"status": f"failed: {one_line(str(error) or type(error).__name__)}", **about})
            raise

    @classmethod
    def open(cls, path: str | Path) -> RunFolder:
        """An existing run. Raises ConfigError where there is none."""
        run = cls(path)
        if not run.path.is_dir():
            raise ConfigError(f"{run.path}: no such run folder (give run=FOLDER, the output_dir of a training run)")
        return run


def is_other_rank() -> bool:
    """Whether this process helps with a run that rank 0 has begun (Lightning starts it so), before torch is there."""
    return os.environ.get("LOCAL_RANK", "0") != "0"


def write_text(path: Path, text: str) -> None:
    write_lines(path, [text])


def write_lines(path: Path, lines: Iterable[str]) -> None:
    partial = path.with_name(f"{path.name}.{os.getpid()}.part")
    with partial.open("w", encoding="utf-8") as file:
        file.writelines(lines)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, ensure_ascii=False, indent=2) + "\n")


def write_jsonl(path: Path, values: Iterable[Any]) -> None:
    write_lines(path, (json.dumps(value, ensure_ascii=False) + "\n" for value in values))


def read_jsonl(path: Path) -> list[Any]:
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file if line.strip()]


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
