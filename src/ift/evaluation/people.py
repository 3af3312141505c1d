"""Ratings of answers by people: RUN/ratings.jsonl, to which lines are only ever added, and the same as CSV.

A line holds the key of an answer (of its content: see `Answer.key`), who rates it and what they say from then on:

    {"key": "...", "rater": "anna", "verdict": "right", "stars": 4, "comment": "...", "id": "...", "unix_time": 1.0}

verdict is right, partly, wrong or null; stars are 1 to 5 or null. Of each rater the last line on a key counts. A line
with "undo": ID takes back the line of that id. Earlier releases wrote neither rater nor id: such lines are those of a
rater without a name, their ids are their numbers in the file (#1), and "undo": true takes back the newest of all lines
that has not been taken back.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
import threading
import time
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, BinaryIO, cast

from filelock import FileLock

from ift.data.reading.window import MAX_ROW
from ift.errors import DataError, MachineError
from ift.evaluation.answers import Answer
from ift.run import Problem, problem, write_text

VERDICTS = {"right": 1.0, "partly": 0.5, "wrong": 0.0}
LONGEST_COMMENT = 5000  # characters
LONGEST_NAME = 60  # characters of a rater's
UNNAMED = "unnamed"  # how pages call the rater without a name, which is "" in the file
CSV_COLUMNS = ("key", "instruction", "input", "reference", "response", "verdict", "stars", "comment", "rater")


@dataclass(frozen=True, slots=True)
class Rating:
    verdict: str | None = None
    stars: int | None = None
    comment: str = ""

    def __bool__(self) -> bool:
        return self != NOTHING

    @classmethod
    def checked(cls, value: Mapping[str, Any]) -> Rating:
        """From anywhere. Raises ValueError with what is wrong."""
        verdict, stars, comment = value.get("verdict"), value.get("stars"), value.get("comment")
        comment = "" if comment is None else comment
        if verdict is not None and (not isinstance(verdict, str) or verdict not in VERDICTS):
            raise ValueError("verdict must be right, partly, wrong or empty")
        if stars is not None and (isinstance(stars, bool) or stars not in (1, 2, 3, 4, 5)):
            raise ValueError("stars must be 1, 2, 3, 4, 5 or empty")
        if not isinstance(comment, str) or len(comment) > LONGEST_COMMENT:
            raise ValueError(f"comment must be text of at most {LONGEST_COMMENT:,} characters")
        return cls(verdict, None if stars is None else int(stars), comment.encode("utf-8", "replace").decode())


NOTHING = Rating()
Raters = Mapping[str, Mapping[str, Rating]]  # name of a rater -> key of an answer -> what holds


def checked_rater(name: Any) -> str:
    """A rater's name as it is kept: "" is the rater without a name. Raises ValueError for what is no name."""
    if not isinstance(name, str):
        raise ValueError("a rater's name must be text")
    name = unicodedata.normalize("NFC", " ".join(name.split()))  # the same name from another keyboard
    if len(name) > LONGEST_NAME or not name.isprintable():
        raise ValueError(f"a rater's name must be text of at most {LONGEST_NAME} characters")
    return "" if name == UNNAMED else name


@dataclass(frozen=True, slots=True)
class Step:
    """A line that rates, and has not been taken back."""

    id: str
    rater: str
    key: str
    rating: Rating
    unix_time: float


class Ratings:
    """A ratings.jsonl. When a method returns, what it wrote is on disk. Other threads and processes may write as well.

    raters   what holds now, by rater and key
    steps    the lines that have not been taken back, by id, oldest first
    changes  (rater, key) of everything that changed, oldest first: a page asks for those since it last looked
    """

    inode: int  # of the file
    end: int  # bytes of it that are taken in
    lines: int

    def __init__(self, path: Path, *, read_only: bool = False):
        """Raises DataError for a line that is no rating. Unless read_only, half a line from a crash is cut off.

        Raises MachineError where the file cannot be written.
        """
        self.path, self.lock = path, threading.RLock()
        self.file_lock = FileLock(path.with_suffix(".lock"))
        self._forget()
        if read_only:
            self.catch_up()
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with self._alone():
                pass
        except OSError as error:
            raise MachineError(f"{path}: cannot be written: {error.strerror} (ratings are kept there)") from error

    def rating(self, rater: str, key: str) -> Rating:
        return self.raters.get(rater, {}).get(key, NOTHING)

    def change(self, rater: str, key: str, fields: Mapping[str, tuple[Any, Any]], *, id: str) -> bool:
        """Change some fields of a rating, each from what the person saw to what it shall be.

        False, and nothing is written, where a field is something else by now. What has been written under this id is
        not written again: a page may send it twice. Raises ValueError for what is no rating.
        """
        with self._alone() as file:
            if id in self.ids:
                return True
            now = self.rating(rater, key)
            if any(getattr(now, name) not in (before, after) for name, (before, after) in fields.items()):
                return False
            changed = Rating.checked({**asdict(now), **{name: after for name, (_, after) in fields.items()}})
            if changed != now:
                self._write(file, [_line(rater, key, changed, id)])
            return True

    def undo(self, rater: str, id: str) -> bool:
        """Take back the line of that id; False where it is another rater's, or no longer the newest on its answer."""
        with self._alone() as file:
            step = self.steps.get(id)
            if step is None:
                return id in self.ids
            if step.rater != rater or self.stacks[rater, step.key][-1] is not step:
                return False
            self._write(file, [{"key": step.key, "rater": rater, "undo": id}])
            return True

    def put(self, rater: str, key: str, rating: Rating, *, id: str) -> None:
        """A rating as it is, whatever was there; once for each id."""
        with self._alone() as file:
            if id not in self.ids:
                self._write(file, [_line(rater, key, rating, id)])

    def set(self, key: str, rating: Rating, rater: str = "") -> None:
        self.set_all({key: rating}, rater)

    def set_all(self, given: Mapping[str, Rating], rater: str = "") -> None:
        """Many at a time, synced together. Nothing is written where nothing changes."""
        with self._alone() as file:
            lines = [
                _line(rater, key, rating, os.urandom(8).hex())
                for key, rating in given.items()
                if rating != self.rating(rater, key)
            ]
            self._write(file, lines)

    def catch_up(self) -> None:
        """Take in what others have written."""
        with self.lock:
            try:
                status = self.path.stat()
            except FileNotFoundError:
                if self.end:
                    self._forget()
                return
            if (status.st_ino, status.st_size) != (self.inode, self.end):
                with self.path.open("rb") as file:
                    self._take_in(file)

    @contextmanager
    def _alone(self) -> Iterator[BinaryIO]:
        """Keep the file to this thread: every line of it is taken in, and no half line stands at its end."""
        with self.lock, self.file_lock, self.path.open("a+b", buffering=0) as opened:
            file = cast(BinaryIO, opened)
            self._take_in(file)
            file.truncate(self.end)  # half a line, of a process that was killed
            yield file

    def _take_in(self, file: BinaryIO) -> None:
        status = os.fstat(file.fileno())
        if status.st_ino != self.inode or status.st_size < self.end:  # another file has taken the place
            self._forget()
            self.inode = status.st_ino
        file.seek(self.end)
        for line in file.read().splitlines(keepends=True):
            if not line.endswith(b"\n"):
                break
            try:
                self._apply(json.loads(line))
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
                where = f"{self.path}:{self.lines + 1}"
                raise DataError(f"{where}: not a rating (delete this line): {error}") from error
            self.end += len(line)
            self.lines += 1

    def _write(self, file: BinaryIO, values: Iterable[dict[str, Any]]) -> None:
        stamped = [{**value, "unix_time": round(time.time(), 3)} for value in values]
        data = memoryview(b"".join(json.dumps(value).encode() + b"\n" for value in stamped))
        size = len(data)
        try:
            while data:
                data = data[file.write(data) :]
            os.fsync(file.fileno())
        except OSError:
            file.truncate(self.end)
            raise
        for value in stamped:
            self._apply(value)
        self.end += size
        self.lines += len(stamped)

    def _forget(self) -> None:
        self.inode, self.end, self.lines = -1, 0, 0
        self.raters: dict[str, dict[str, Rating]] = {}
        self.steps: dict[str, Step] = {}
        self.stacks: dict[tuple[str, str], list[Step]] = {}  # of each rater and key, the newest last
        self.ids: set[str] = set()
        self.changes: list[tuple[str, str]] = []

    def _apply(self, value: dict[str, Any]) -> None:
        if value.get("undo"):
            self._take_back(value["undo"])
            return
        key, rater = value["key"], checked_rater(value.get("rater", ""))
        if not isinstance(key, str):
            raise TypeError("key is not text")
        when = float(value.get("unix_time", 0.0))
        step = Step(str(value.get("id") or f"#{self.lines + 1}"), rater, key, Rating.checked(value), when)
        self.ids.add(step.id)
        self.steps[step.id] = step
        self.stacks.setdefault((rater, key), []).append(step)
        self._now(step)

    def _take_back(self, id: str | bool) -> None:
        if id is True:  # by an earlier release
            id = next(reversed(self.steps), "")
        step = self.steps.pop(str(id), None)
        if step:
            self.stacks[step.rater, step.key].remove(step)
            self._now(step)

    def _now(self, step: Step) -> None:
        """What holds of the answer of a step that came or went."""
        stack = self.stacks[step.rater, step.key]
        self.raters.setdefault(step.rater, {})[step.key] = stack[-1].rating if stack else NOTHING
        self.changes.append((step.rater, step.key))


def _line(rater: str, key: str, rating: Rating, id: str) -> dict[str, Any]:
    return {"key": key, **({"rater": rater} if rater else {}), **asdict(rating), "id": id}


def read_ratings(path: Path) -> tuple[Raters, list[Problem]]:
    """What holds of each rater; nothing where the file is damaged, since a later line may undo one."""
    try:
        raters = Ratings(path, read_only=True).raters
    except DataError as error:
        line = str(error).removeprefix(f"{path}:").partition(":")[0]
        return {}, [Problem(path, f"line {line} is no rating, so none is shown", "delete this line")]
    except OSError as error:
        return {}, [problem(path, error, "bring it back from a copy, or delete it")]
    given = {rater: {key: rating for key, rating in ratings.items() if rating} for rater, ratings in raters.items()}
    return {rater: ratings for rater, ratings in given.items() if ratings}, []


# -- several raters ---------------------------------------------------------------------------------------------------


def right_share(rating: Rating) -> float | None:
    return VERDICTS[rating.verdict] if rating.verdict else None


def star_count(rating: Rating) -> float | None:
    return None if rating.stars is None else float(rating.stars)


def rater_means(raters: Raters, number: Callable[[Rating], float | None]) -> dict[str, float]:
    """Of each answer that has one, the mean of its raters' numbers: an answer counts once, however many rated it."""
    found: dict[str, list[float]] = {}
    for ratings in raters.values():
        for key, rating in ratings.items():
            if (value := number(rating)) is not None:
                found.setdefault(key, []).append(value)
    return {key: math.fsum(values) / len(values) for key, values in found.items()}


@dataclass(frozen=True)
class RaterPair:
    """How far two raters agree on the answers that both gave a verdict, or both gave stars."""

    one: str
    other: str
    what: str  # verdicts or stars
    n: int
    same: float  # share of the answers
    kappa: float  # Cohen's with quadratic weights; nan where chance alone would agree on all


def rater_pairs(raters: Raters) -> list[RaterPair]:
    """Every two raters who rated at least two answers in common."""
    from ift.evaluation.statistics import cohen_kappa

    found = []
    for one, other in combinations(sorted(raters), 2):
        for what, number in (("verdicts", right_share), ("stars", star_count)):
            both = [
                (first, second)
                for key, rating in raters[one].items()
                if (first := number(rating)) is not None
                and (second := number(raters[other].get(key, NOTHING))) is not None
            ]
            if len(both) > 1:
                same = sum(first == second for first, second in both) / len(both)
                kappa = cohen_kappa(*zip(*both, strict=True), quadratic=True)
                found.append(RaterPair(one or UNNAMED, other or UNNAMED, what, len(both), same, kappa))
    return found


# ----------------------------------------------------------------------------------------------------------------------
# CSV. A spreadsheet takes a cell that begins with = + - @ for a formula, and model output may be one on purpose. Such
# cells, and those that begin with an apostrophe already, get one apostrophe in front, which reading takes off again.

DANGEROUS = ("=", "+", "-", "@", "\t", "\r", "\n", "'", "＝", "＋", "－", "＠")


def harmless(cell: str) -> str:
    return "'" + cell if cell.startswith(DANGEROUS) else cell


def restored(cell: str) -> str:
    return cell[1:] if cell.startswith("'") and cell[1:].startswith(DANGEROUS) else cell


def write_csv(path: Path, rows: Iterable[Answer], raters: Raters) -> int:
    """Every answer with its ratings, one line each, or blank for a person to fill in; return how many are rated."""
    text = io.StringIO()
    writer = csv.DictWriter(text, CSV_COLUMNS)  # its own line ends: with "\n" alone, a cell's "\r" would not be quoted
    writer.writeheader()
    rated = 0
    for row in rows:
        texts = {name: getattr(row, name) for name in ("key", "instruction", "input", "reference", "response")}
        given = [(rater, rating) for rater in sorted(raters) if (rating := raters[rater].get(row.key, NOTHING))]
        rated += bool(given)
        for rater, rating in given or [("", NOTHING)]:
            cells = texts | {"verdict": rating.verdict or "", "stars": str(rating.stars or "")}
            cells |= {"comment": rating.comment, "rater": rater}
            writer.writerow({name: harmless(cell) for name, cell in cells.items()})
    write_text(path, text.getvalue())
    return rated


def read_csv(path: Path, rows: Iterable[Answer]) -> dict[str, dict[str, Rating]]:
    """The ratings that a CSV holds on these answers, by rater ("" where none is named) and key; blank ones left out.

    Raises DataError with the line for what is no rating, and for answers that this run does not have: after new
    answers were generated, ratings of the old ones mean nothing.
    """
    known = {row.key for row in rows}
    found: dict[str, dict[str, Rating]] = {}
    csv.field_size_limit(MAX_ROW)  # of the whole process: what the reader of rows takes, an export may hold
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:  # spreadsheets put a mark in front
            reader = csv.DictReader(file)
            missing = [name for name in ("key", "verdict", "stars", "comment") if name not in (reader.fieldnames or ())]
            if missing:
                raise DataError(f'{path}:1: no column "{missing[0]}" (ift review RUN --export FILE makes such a file)')
            for row in reader:
                where = f"{path}:{reader.line_num}"
                names = ("key", "verdict", "stars", "comment", "rater")  # earlier releases wrote no rater
                cells = {name: restored(row.get(name) or "").strip() for name in names}
                rater, rating = _from_cells(cells, where)
                if rating and cells["key"] not in known:
                    raise DataError(f"{where}: rates an answer that this run does not have (are the responses newer?)")
                if rating:
                    found.setdefault(rater, {})[cells["key"]] = rating
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    except (csv.Error, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not a CSV in UTF-8: {error}") from error
    return found


def _from_cells(cells: Mapping[str, str], where: str) -> tuple[str, Rating]:
    try:
        stars = float(cells["stars"]) if cells["stars"] else None  # spreadsheets write 4.0
        rating = Rating.checked(
            {"verdict": cells["verdict"].lower() or None, "stars": stars, "comment": cells["comment"]}
        )
        return checked_rater(cells["rater"]), rating
    except ValueError as error:
        what = error if "must be" in str(error) else "stars must be 1, 2, 3, 4, 5 or empty"
        raise DataError(f"{where}: {what}") from error
