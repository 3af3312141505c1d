"""The run folder: where every file of a run lies, and how it gets there whole."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ift.errors import ConfigError, MachineError, Stopped, one_line


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
        self.wandb_id = self.path / "wandb_id"
        self.samples = self.path / "samples.jsonl"
        self.curves = self.path / "curves.png"
        self.checkpoints = self.path / "checkpoints"
        self.model = self.path / "model"
        self.responses = self.path / "responses.jsonl"
        self.ratings = self.path / "ratings.jsonl"
        self.summary = self.path / "summary.json"
        self.report = self.path / "report.html"
        self.evals = self.path / "evals"

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Make the folder, try it for real, and keep it to this process: its lock ends with the process, killed or not.

        Raises MachineError if it cannot be written, ConfigError if another process writes it. Ranks other than the
        first help the process that has the lock.
        """
        if is_other_rank():
            yield
            return
        lock = FileLock(self.path / ".lock", timeout=0)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            write_text(self.path / ".probe", "can this folder be written?\n")
            (self.path / ".probe").unlink()
            lock.acquire()
        except Timeout as error:
            raise ConfigError(
                f"{self.path}: another process trains here (wait, or choose another output_dir)"
            ) from error
        except OSError as error:
            raise MachineError(
                f"{self.path}: cannot be written: {error.strerror} (choose another output_dir)"
            ) from error
        try:
            yield
        finally:
            lock.release()

    @property
    def begun(self) -> bool:
        """Whether a run has left numbers here. (One that was refused before its first number has not.)"""
        return self.metrics.exists() or self.model.exists() or self.checkpoints.exists()

    @property
    def finished(self) -> bool:
        return self.summary.exists() and read_json(self.summary).get("status") == "finished"

    @contextmanager
    def outcome(self, **about: Any) -> Iterator[None]:
        """Around the work of a run: if it ends early, summary.json says so and why, for the table of a sweep."""
        try:
            yield
        except BaseException as error:
            if self.path.is_dir() and not is_other_rank():
                what = one_line(str(error) or type(error).__name__)
                status = what if isinstance(error, Stopped) else f"failed: {what}"
                with suppress(OSError):  # the disk may be what failed: the error matters, not this
                    write_json(self.summary, {"status": status, **about})
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
