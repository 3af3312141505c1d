"""Ratings of answers by people: RUN/ratings.jsonl, to which lines are only ever added, and the same as CSV.

A line holds the key of an answer (of its content: see `Answer.key`) and what holds from then on:

    {"key": "...", "verdict": "right", "stars": 4, "comment": "...", "unix_time": 1.0}

verdict is right, partly, wrong or null; stars are 1 to 5 or null. The last line on a key counts. A line with
"undo": true takes back the newest line that has not been taken back.
"""

from __future__ import annotations

import csv
import io
import json
import os
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ift.data.reading.window import MAX_ROW
from ift.errors import DataError
from ift.evaluation.answers import Answer
from ift.run import Problem, problem, write_text

VERDICTS = {"right": 1.0, "partly": 0.5, "wrong": 0.0}
LONGEST_COMMENT = 5000  # characters
CSV_COLUMNS = ("key", "instruction", "input", "reference", "response", "verdict", "stars", "comment")


@dataclass(frozen=True, slots=True)
class Rating:
    verdict: str | None = None
    stars: int | None = None
    comment: str = ""

    def __bool__(self) -> bool:
        return self != Rating()

    @classmethod
    def checked(cls, value: Mapping[str, Any]) -> Rating:
        """From anywhere. Raises ValueError with what is wrong."""
        verdict, stars, comment = value.get("verdict"), value.get("stars"), value.get("comment") or ""
        if verdict is not None and verdict not in VERDICTS:
            raise ValueError("verdict must be right, partly, wrong or empty")
        if stars is not None and (isinstance(stars, bool) or stars not in (1, 2, 3, 4, 5)):
            raise ValueError("stars must be 1, 2, 3, 4, 5 or empty")
        if not isinstance(comment, str) or len(comment) > LONGEST_COMMENT:
            raise ValueError(f"comment must be text of at most {LONGEST_COMMENT:,} characters")
        return cls(verdict, None if stars is None else int(stars), comment.encode("utf-8", "replace").decode())


class Ratings:
    """A ratings.jsonl. When `set` returns, the rating is on disk; half a line from a crash is cut off at opening."""

    def __init__(self, path: Path, *, read_only: bool = False):
        """Raises DataError for a line that is no rating; read_only makes no file where there is none."""
        self.path, self.lock = path, threading.Lock()
        self.now: dict[str, Rating] = {}
        self.steps: list[tuple[str, Rating, float]] = []  # of each line that still counts: key, what was before, when
        whole = 0
        lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
        for number, line in enumerate(lines, start=1):
            if not line.endswith(b"\n"):
                break
            try:
                self._apply(json.loads(line))
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
                raise DataError(f"{path}:{number}: not a rating (delete this line): {error}") from error
            whole += len(line)
        if read_only:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        self.file = path.open("ab")
        self.file.truncate(whole)

    def close(self) -> None:
        self.file.close()

    def set(self, key: str, rating: Rating) -> None:
        """Nothing is written where nothing changes, so that each undo is seen."""
        with self.lock:
            if rating != self.now.get(key, Rating()):
                self._write({"key": key, **asdict(rating)})

    def undo(self) -> str | None:
        """Take the newest rating back; the key that it was of, or None where there is none."""
        with self.lock:
            if not self.steps:
                return None
            key = self.steps[-1][0]
            self._write({"key": key, "undo": True})
            return key

    def _write(self, value: dict[str, Any]) -> None:
        value = {**value, "unix_time": round(time.time(), 3)}
        self.file.write(json.dumps(value).encode() + b"\n")
        self.file.flush()
        os.fsync(self.file.fileno())
        self._apply(value)

    def _apply(self, value: dict[str, Any]) -> None:
        if value.get("undo"):
            key, before, _ = self.steps.pop() if self.steps else (value["key"], Rating(), 0.0)
            self.now[key] = before
            return
        key = value["key"]
        if not isinstance(key, str):
            raise TypeError("key is not text")
        rating = Rating.checked(value)
        self.steps.append((key, self.now.get(key, Rating()), float(value.get("unix_time", 0.0))))
        self.now[key] = rating


def read_ratings(path: Path) -> tuple[dict[str, Rating], list[Problem]]:
    """What holds of each answer, by its key; nothing where the file is damaged, since a later line may undo one."""
    try:
        return Ratings(path, read_only=True).now, []
    except DataError as error:
        line = str(error).removeprefix(f"{path}:").partition(":")[0]
        return {}, [Problem(path, f"line {line} is no rating, so none is shown", "delete this line")]
    except OSError as error:
        return {}, [problem(path, error, "bring it back from a copy, or delete it")]


# ----------------------------------------------------------------------------------------------------------------------
# CSV. A spreadsheet takes a cell that begins with = + - @ for a formula, and model output may be one on purpose. Such
# cells, and those that begin with an apostrophe already, get one apostrophe in front, which reading takes off again.

DANGEROUS = ("=", "+", "-", "@", "\t", "\r", "\n", "'", "＝", "＋", "－", "＠")


def harmless(cell: str) -> str:
    return "'" + cell if cell.startswith(DANGEROUS) else cell


def restored(cell: str) -> str:
    return cell[1:] if cell.startswith("'") and cell[1:].startswith(DANGEROUS) else cell


def write_csv(path: Path, rows: Iterable[Answer], ratings: Mapping[str, Rating]) -> int:
    """Every answer with its rating, or blank for a person to fill in; return how many are rated."""
    text = io.StringIO()
    writer = csv.DictWriter(text, CSV_COLUMNS)  # its own line ends: with "\n" alone, a cell's "\r" would not be quoted
    writer.writeheader()
    rated = 0
    for row in rows:
        rating = ratings.get(row.key, Rating())
        rated += bool(rating)
        cells = {name: getattr(row, name) for name in ("key", "instruction", "input", "reference", "response")}
        cells |= {"verdict": rating.verdict or "", "stars": str(rating.stars or ""), "comment": rating.comment}
        writer.writerow({name: harmless(cell) for name, cell in cells.items()})
    write_text(path, text.getvalue())
    return rated


def read_csv(path: Path, rows: Iterable[Answer]) -> dict[str, Rating]:
    """The ratings that a CSV holds on these answers, blank ones left out.

    Raises DataError with the line for what is no rating, and for answers that this run does not have: after new
    answers were generated, ratings of the old ones mean nothing.
    """
    known = {row.key for row in rows}
    found = {}
    csv.field_size_limit(MAX_ROW)  # of the whole process: what the reader of rows takes, an export may hold
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:  # spreadsheets put a mark in front
            reader = csv.DictReader(file)
            missing = [name for name in ("key", "verdict", "stars", "comment") if name not in (reader.fieldnames or ())]
            if missing:
                raise DataError(f'{path}:1: no column "{missing[0]}" (ift review RUN --export FILE makes such a file)')
            for row in reader:
                where = f"{path}:{reader.line_num}"
                cells = {name: restored(row[name] or "").strip() for name in ("key", "verdict", "stars", "comment")}
                rating = _from_cells(cells, where)
                if rating and cells["key"] not in known:
                    raise DataError(f"{where}: rates an answer that this run does not have (are the responses newer?)")
                if rating:
                    found[cells["key"]] = rating
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    except (csv.Error, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not a CSV in UTF-8: {error}") from error
    return found


def _from_cells(cells: Mapping[str, str], where: str) -> Rating:
    try:
        stars = float(cells["stars"]) if cells["stars"] else None  # spreadsheets write 4.0
        return Rating.checked(
            {"verdict": cells["verdict"].lower() or None, "stars": stars, "comment": cells["comment"]}
        )
    except ValueError as error:
        what = error if "must be" in str(error) else "stars must be 1, 2, 3, 4, 5 or empty"
        raise DataError(f"{where}: {what}") from error
