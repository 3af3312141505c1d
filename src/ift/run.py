"""The run folder: where every file of a run lies, and how it gets there whole."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ift import lock
from ift.errors import ConfigError, MachineError, Stopped, one_line
from ift.forms import Form
from ift.launch import is_other_rank


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
        """Make the folder, try it for real, and keep it to this process.

        Raises MachineError if it cannot be written, ConfigError if another process writes it. Ranks other than the
        first help the process that has the lock.
        """
        if is_other_rank():
            yield
            return
        with ExitStack() as stack:
            try:
                self.path.mkdir(parents=True, exist_ok=True)
                write_text(self.path / ".probe", "can this folder be written?\n")
                (self.path / ".probe").unlink()
                stack.enter_context(lock.kept(self.path))
            except OSError as error:
                raise MachineError(
                    f"{self.path}: cannot be written: {error.strerror} (choose another output_dir)"
                ) from error
            yield

    @property
    def begun(self) -> bool:
        """Whether a run has left numbers here. (One that was refused before its first number has not.)"""
        return self.metrics.exists() or self.model.exists() or self.checkpoints.exists()

    @property
    def finished(self) -> bool:
        """Whether the work is done. A summary that cannot be read says nothing: the last steps are done again."""
        return read_object(self.summary, advice="")[0].get("status") == "finished"

    def state(self) -> tuple[str, int]:
        """How the run stands, in a line, and an exit code: 0 finished, 75 stopped (it can go on), else 1."""
        if lock.is_kept(self.path):
            return "running", 1
        status = read_object(self.summary, advice="")[0].get("status")
        if status == "finished":
            return status, 0
        if isinstance(status, str) and status.startswith("stopped by"):
            return status, Stopped.exit_code
        if isinstance(status, str) and status.startswith("failed"):
            return status, 1
        if not self.begun:
            return "not begun", 1
        return f"killed: go on with: ift train resume={self.path}", 1

    @contextmanager
    def outcome(self, **about: Any) -> Iterator[None]:
        """Around the work of a run: if it ends early, summary.json says so and why, for the table of a sweep.

        A finished run that was to go on longer and is refused stays what it was.
        """
        finished = self.summary.read_bytes() if self.finished else None
        if finished is None and not is_other_rank():
            self.summary.unlink(missing_ok=True)  # of how it ended before: a kill writes nothing
        try:
            yield
        except BaseException as error:
            untouched = finished is not None and self.finished and self.summary.read_bytes() == finished
            if self.path.is_dir() and not is_other_rank() and not untouched:
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


# -- files that may be damaged ----------------------------------------------------------------------------------------

# what reading and checking a damaged file raises
DAMAGE = (OSError, ValueError, KeyError, TypeError, AttributeError, ArithmeticError, RecursionError, ConfigError)


@dataclass(frozen=True)
class Problem:
    """A file of a run that cannot be read, or not all of it. What can be read is used all the same."""

    path: Path
    what: str
    advice: str

    def __str__(self) -> str:
        return f"{self.path}: {self.what} ({self.advice})"


def problem(path: Path, error: BaseException, advice: str) -> Problem:
    """What an error of DAMAGE says about a file."""
    if isinstance(error, ConfigError):  # of a later release: it names the file and says what to do
        what, _, advice = str(error).removeprefix(f"{path}: ").removesuffix(")").rpartition(" (")
        return Problem(path, what, advice)
    if isinstance(error, OSError):
        return Problem(path, f"cannot be read: {error.strerror or error}", advice)
    if isinstance(error, UnicodeDecodeError):
        return Problem(path, "cannot be read: it is not text in UTF-8", advice)
    if isinstance(error, RecursionError):
        return Problem(path, "cannot be read: too many brackets inside each other", advice)
    what = "cannot be read" if isinstance(error, json.JSONDecodeError) else "not what was written here"
    return Problem(path, f"{what}: {one_line(f'{type(error).__name__}: {error}', 80)}", advice)


def read_object(path: Path, form: Form | None = None, *, advice: str) -> tuple[dict[str, Any], list[Problem]]:
    """The JSON object of a file, in today's form; {} where there is no such file, and where it cannot be read."""
    if not path.exists():
        return {}, []
    try:
        value = read_json(path)
        if not isinstance(value, dict):
            raise TypeError(f"{type(value).__name__}, not an object")
        return (form.current(value, path) if form else value), []
    except DAMAGE as error:
        return {}, [problem(path, error, advice)]


def read_objects(
    path: Path, is_whole: Callable[[dict[str, Any]], bool] = lambda value: True, *, advice: str
) -> tuple[list[dict[str, Any]], list[Problem]]:
    """The JSON objects of a file, one a line, that are whole; the first line that is not names the problem."""
    try:
        found, left_out = whole_objects(path.read_bytes() if path.exists() else b"", is_whole)
    except OSError as error:
        return [], [problem(path, error, advice)]
    if not left_out:
        return found, []
    what = f"line {left_out[0]} is damaged" + (f", and {len(left_out) - 1:,} more" if len(left_out) > 1 else "")
    return found, [Problem(path, f"{what}; {len(found):,} lines are shown", advice)]


def whole_objects(
    content: bytes, is_whole: Callable[[dict[str, Any]], bool] = lambda value: True
) -> tuple[list[dict[str, Any]], list[int]]:
    """The JSON objects of a file's bytes that are whole, and the numbers of the lines that are not, from 1 on."""
    found: list[dict[str, Any]] = []
    left_out: list[int] = []
    for number, line in enumerate(content.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
            whole = isinstance(value, dict) and is_whole(value)
        except DAMAGE:
            whole = False
        if whole:
            found.append(value)
        else:
            left_out.append(number)
    return found, left_out
