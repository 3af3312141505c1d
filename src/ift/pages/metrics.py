"""The numbers of a run as they grow: metrics.jsonl is read on from where the last look ended, and kept in few buckets.

A page is a thousand pixels wide, and a run may have a million steps. So lines next to each other share a bucket, of
which the least, the largest and the mean value are kept: a spike of one step stays visible however long the run is.
When all buckets are full, pairs of them become one. What is kept of a run does not grow with its steps.

The last line of the file is never final: a training writes it again with the numbers of its validation, and a run that
goes on cuts off what came after its checkpoint. So it is read anew each time, and so is the whole file where the line
before it is no longer what it was.
"""

from __future__ import annotations

import json
import math
import re
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ift.run import DAMAGE

MOST = 600  # buckets; a drawing has not many more pixels
PIECE = 1 << 18  # bytes that are read at a time, and the most that a line may have
MOST_NAMES, LONGEST_NAME = 48, 80  # of numbers, and characters of a name: a file may hold anything
TAIL, LAST = 1 << 14, 3  # bytes in which the last lines are looked for, and how many
LARGEST = 1e30  # sums of larger numbers do not fit: a curve has a gap there
AXES = ("step", "tokens", "seconds")
NO_SERIES = {*AXES, "supervised_tokens", "epoch"}
NUMBER = rb"[-+.0-9eE]+"  # and no more: what only looks like one is found when it is converted
Floats = npt.NDArray[np.float64]
Row = dict[str, Any]


class Column:
    """Of one number, in each bucket: the least, the largest, their sum and how many there are."""

    def __init__(self) -> None:
        self.low = np.full(MOST, np.nan, np.float32)
        self.high = np.full(MOST, np.nan, np.float32)
        self.sum = np.zeros(MOST, np.float32)
        self.count = np.zeros(MOST, np.int32)

    def add(self, values: Floats, starts: npt.NDArray[np.intp], buckets: npt.NDArray[np.intp]) -> None:
        """values[starts[i] : starts[i + 1]] go into the bucket buckets[i]; NaN is no value."""
        there = np.abs(values) < LARGEST
        values = np.where(there, values, np.nan)
        self.low[buckets] = np.fmin(self.low[buckets], np.fmin.reduceat(values, starts))
        self.high[buckets] = np.fmax(self.high[buckets], np.fmax.reduceat(values, starts))
        self.sum[buckets] += np.add.reduceat(np.where(there, values, 0.0), starts)
        self.count[buckets] += np.add.reduceat(there.astype(np.int32), starts)

    def halve(self) -> None:
        half = MOST // 2
        self.low[:half], self.low[half:] = np.fmin(self.low[::2], self.low[1::2]), np.nan
        self.high[:half], self.high[half:] = np.fmax(self.high[::2], self.high[1::2]), np.nan
        self.sum[:half], self.sum[half:] = self.sum[::2] + self.sum[1::2], 0
        self.count[:half], self.count[half:] = self.count[::2] + self.count[1::2], 0


class Metrics:
    """Of one metrics.jsonl. `read` goes on reading; everything else says what has been read by then."""

    def __init__(self, path: Path):
        self.path = path
        self.changes = 0  # how often something was read
        self.generation = 0  # changes when buckets that somebody may have are no longer right
        self._seen: tuple[int, int, int] | None = None  # the file as it was when all of it had been read
        self._forget()

    def _forget(self) -> None:
        self.changes += 1
        self.generation += 1
        self.width = 1  # lines of a bucket
        self.lines = 0  # final ones
        self.damaged = 0
        self.columns: dict[str, Column] = {}
        self.axes = {name: np.zeros(MOST) for name in AXES}
        self.last: Row = {}  # every number at its last line that has it
        self.tail: Row = {}  # the same of the end of the file, as long as not all before it has been read
        self.best: dict[str, tuple[float, float]] = {}  # of each loss the least, and its step
        self.epoch: tuple[int, int] | None = None  # the first epoch but 0 that began, and its first step
        self._offset = 0  # of the first byte that is not final
        self._before = b""  # the bytes before it: the end of a line
        self._last_line: Row | None = None
        self._tokens = self._seconds = 0.0
        self._skipping = False  # inside a line that is too long to be one
        self.behind = True  # not all of the file has been read

    # -- reading -----------------------------------------------------------------------------------------------------

    def look(self) -> bool:
        """Whether the file is another than when all of it had been read; then there is something to `read`."""
        seen = self._status()
        if seen != self._seen:
            self.behind = True
        return self.behind

    def _status(self) -> tuple[int, int, int] | None:
        try:
            status = self.path.stat()
        except OSError:
            return None
        return status.st_ino, status.st_size, status.st_mtime_ns

    def glance(self) -> None:
        """The numbers of the last lines alone, for a list of many runs: `read` comes to them later."""
        try:
            with self.path.open("rb") as file:
                size = file.seek(0, 2)
                if (self.lines or self._last_line) and size - self._offset <= PIECE:  # the next `read` has them
                    return
                file.seek(max(0, size - TAIL))
                text = file.read(TAIL)
        except OSError:
            return
        lines = text.split(b"\n")[0 if size <= TAIL else 1 : -1]
        for row in parsed(lines[-LAST:])[0]:
            self.tail |= {name: value for name, value in row.items() if number(value) is not None}

    def read_on(self, until: float) -> None:
        """To the end of the file, or until that moment (of time.monotonic); one piece is read in any case."""
        while self.behind:
            self.read()
            if time.monotonic() >= until:
                return

    def read(self) -> None:
        """At most one piece more of the file. A file that is not there, or cannot be read, has no lines."""
        seen = self._status()
        if seen is None:
            if self.lines or self.last or self.tail:
                self._forget()
            self._seen, self.behind = None, False
            return
        try:
            with self.path.open("rb") as file:
                file.seek(self._offset - len(self._before))
                if file.read(len(self._before)) != self._before or seen[1] < self._offset:
                    self._forget()
                    file.seek(0)
                piece = file.read(PIECE)
        except OSError:
            self.behind = False
            return
        at_end = self._offset + len(piece) >= seen[1]
        self._take(piece, at_end)
        self.behind = not at_end
        if at_end:
            self._seen, self.tail = seen, {}

    def _take(self, piece: bytes, at_end: bool) -> None:
        """Lines that end in this piece; all but the last of the file are final."""
        self.changes += 1
        end = piece.rfind(b"\n") + 1
        last = piece.rfind(b"\n", 0, end - 1) + 1 if at_end and end else end  # where the line begins that is not final
        if not end and len(piece) == PIECE:  # no line is so long
            self._skipping, last, self._last_line = True, len(piece), None
        else:
            lines = piece[:last].split(b"\n")
            if self._skipping and last:
                self.damaged += 1
                lines, self._skipping = lines[1:], False
            columns, damaged = columns_of(lines)
            self.damaged += damaged
            if columns:
                self._keep(columns)
            pending = [] if self._skipping else parsed([piece[last:end]])[0]
            self._last_line = pending[0] if pending else None
        self._offset += last
        self._before = (self._before + piece[:last])[-64:]

    # -- keeping -----------------------------------------------------------------------------------------------------

    def _keep(self, values: dict[str, Floats]) -> None:
        lines = len(values["step"])
        seconds = self._elapsed(values)
        self._note(values)
        done = 0
        while done < lines:
            room = MOST * self.width - self.lines
            if not room:
                self._halve()
                continue
            upto = min(lines, done + room)
            self._fill({name: v[done:upto] for name, v in values.items()}, seconds[done:upto])
            done = upto

    def _elapsed(self, values: dict[str, Floats]) -> Floats:
        """Seconds of training up to each line: tokens of its step by tokens per second. Validation is not in them."""
        tokens, speed = (values.get(name) for name in ("tokens", "tokens_per_second"))
        if tokens is None or speed is None:
            return np.full(len(values["step"]), self._seconds)
        known = np.where(np.isnan(tokens), -np.inf, tokens)
        known = np.maximum.accumulate(np.concatenate([[self._tokens], known]))
        took = np.diff(known) / np.where(speed > 0, speed, np.inf)
        seconds = self._seconds + np.cumsum(np.where(np.isfinite(took), took, 0.0))
        self._tokens, self._seconds = float(known[-1]), float(seconds[-1])
        return seconds

    def _note(self, values: dict[str, Floats]) -> None:
        steps = values["step"]
        for name, each in values.items():
            there = np.flatnonzero(np.isfinite(each))
            if not len(there):
                continue
            self.last[name] = float(each[there[-1]])
            if name.endswith("loss"):
                least = there[np.argmin(each[there])]
                if name not in self.best or each[least] < self.best[name][0]:
                    self.best[name] = float(each[least]), float(steps[least])
        if self.epoch is None and "epoch" in values:
            begun = np.flatnonzero(values["epoch"] >= 1)
            if len(begun) and (self.lines or begun[0]):  # a file that begins in a later epoch says nothing of its steps
                self.epoch = int(values["epoch"][begun[0]]), int(steps[begun[0]])

    def _fill(self, values: dict[str, Floats], seconds: Floats) -> None:
        """Into buckets that have room."""
        places = (self.lines + np.arange(len(seconds))) // self.width
        starts = np.flatnonzero(np.diff(places, prepend=-1))
        buckets = places[starts]
        ends = np.append(starts[1:], len(places)) - 1
        for name, each in values.items():
            if name in NO_SERIES or not np.isfinite(each).any():
                continue
            if name not in self.columns:
                if len(self.columns) >= MOST_NAMES:
                    continue
                self.columns[name] = Column()
            self.columns[name].add(each, starts, buckets)
        self.axes["step"][buckets] = values["step"][ends]
        self.axes["seconds"][buckets] = seconds[ends]
        tokens = values.get("tokens")
        if tokens is not None:
            self.axes["tokens"][buckets] = np.where(np.isnan(tokens[ends]), self.axes["tokens"][buckets], tokens[ends])
        self.lines += len(seconds)

    def _halve(self) -> None:
        half = MOST // 2
        for axis in self.axes.values():
            axis[:half], axis[half:] = axis[1::2].copy(), 0
        for each in self.columns.values():
            each.halve()
        self.width *= 2
        self.generation += 1

    # -- what has been read -------------------------------------------------------------------------------------------

    @property
    def names(self) -> list[str]:
        """Of the numbers that a curve can be drawn of."""
        line = self._last_line or {}
        more = [name for name in line if name not in NO_SERIES and number(line[name]) is not None]
        return [*dict.fromkeys([*self.columns, *more])][:MOST_NAMES]

    @property
    def now(self) -> Row:
        """Each number as the end of the file has it."""
        line = self._last_line or {}
        return self.tail or {**self.last, **{name: value for name, value in line.items() if number(value) is not None}}

    def least(self, name: str) -> tuple[float, float] | None:
        """Of a loss the least value and its step; None where it has none."""
        line = self._last_line or {}
        value = number(line.get(name))
        here = [] if value is None else [(value, float(line["step"]))]
        return min([*([self.best[name]] if name in self.best else []), *here], default=None, key=lambda pair: pair[0])

    @property
    def full(self) -> int:
        """Buckets that nothing is added to any more, unless the generation changes."""
        return self.lines // self.width

    def seconds_per_step(self) -> float | None:
        """Of training alone, over the last tenth of what has been read; None where speed is not known."""
        end = -(-self.lines // self.width) - 1
        if end < 1:
            return None
        begin = max(0, min(end - 10, end * 9 // 10))
        step, seconds = self.axes["step"], self.axes["seconds"]
        steps, took = step[end] - step[begin], seconds[end] - seconds[begin]
        return float(took / steps) if steps > 0 and took > 0 else None

    def curves(self, names: Sequence[str], *, since: int = 0) -> dict[str, Any]:
        """For JSON: the buckets from `since` on, the last line as one more.

        step, tokens, seconds: at the end of each bucket. Of each name a list of means; where a bucket may hold several
        lines, lists of the least and largest values too. null where a bucket has no such number.
        """
        end = -(-self.lines // self.width)
        axes = {name: _plain(self.axes[name][since:end], 9) for name in AXES}
        found = {}
        for name in names:
            each = self.columns.get(name)
            if each is None:
                nothing: list[float | None] = [None] * (end - since)
                series = {"mean": nothing, **({"low": [*nothing], "high": [*nothing]} if self.width > 1 else {})}
            else:
                count = each.count[since:end]
                mean = np.where(count > 0, each.sum[since:end] / np.maximum(count, 1), np.nan)
                series = {"mean": _plain(mean)}
                if self.width > 1:
                    series |= {"low": _plain(each.low[since:end]), "high": _plain(each.high[since:end])}
            found[name] = series
        if (line := self._last_line) is not None:
            needed: list[str] = [name for name in ("step", "tokens", "tokens_per_second") if name in line]
            values: dict[str, Floats] = {name: column([line], name) for name in needed}
            before = self._tokens, self._seconds
            seconds = self._elapsed(values)
            self._tokens, self._seconds = before
            tokens = number(line.get("tokens"), before[0])
            place = {"step": values["step"][0], "tokens": tokens, "seconds": seconds[0]}
            for name in AXES:
                axes[name] += _plain(np.array([place[name]]), 9)
            for name in names:
                value = _plain(np.array([number(line.get(name), math.nan)]))
                for points in found[name].values():
                    points += value
        known = {"generation": self.generation, "changes": self.changes}
        return {**known, "since": since, "full": self.full, "axes": axes, "series": found}


def columns_of(lines: Sequence[bytes]) -> tuple[dict[str, Floats], int]:
    """Of each name its numbers in these lines, NaN where a line has none; and how many lines are no JSON with a step.

    Most lines of a run have the same names in the same order. Those are turned into numbers at once, at three times the
    speed of a JSON reader; `in_one_layout` says which. All others go through one.
    """
    lines = [line for line in map(bytes.strip, lines) if line]
    places, names, numbers = in_one_layout(lines)
    is_other = np.ones(len(lines), dtype=bool)
    is_other[places] = False
    others = np.flatnonzero(is_other)
    rows = [_row(lines[i]) for i in others]
    found = {name: np.full(len(lines), np.nan) for name in names}
    for name, values in zip(names, numbers.T, strict=True):
        found[name][places] = values
    for shape in {tuple(row) for row in rows if row}:
        for name in shape:
            if name not in found and len(name) <= LONGEST_NAME and len(found) < 4 * MOST_NAMES:
                found[name] = np.full(len(lines), np.nan)
    for name, values in found.items():
        values[others] = column([row or {} for row in rows], name)
        values[~np.isfinite(values)] = np.nan
    whole = np.isfinite(found["step"]) if "step" in found else np.zeros(len(lines), dtype=bool)
    damaged = len(lines) - int(whole.sum())
    if damaged:
        found = {name: values[whole] for name, values in found.items()}
    return (found if whole.any() else {}), damaged


def in_one_layout(lines: Sequence[bytes]) -> tuple[npt.NDArray[np.intp], list[str], Floats]:
    """The lines that have the names of the last one in its order, each with a number.

    places (N,) in `lines`, the names (K), and their numbers (N, K); N is 0 where lines are not like that.
    """
    last = _row(lines[-1]) if lines else None
    nothing: tuple[npt.NDArray[np.intp], list[str], Floats] = np.empty(0, dtype=np.intp), [], np.empty((0, 0))
    if not last or "step" not in last or len(last) > MOST_NAMES or any(len(name) > LONGEST_NAME for name in last):
        return nothing
    keys = [re.escape(json.dumps(name).encode()) for name in last]
    pattern = re.compile(rb"\{" + b", ".join(key + b": (" + NUMBER + b")" for key in keys) + rb"\}")
    matches = [pattern.fullmatch(line) for line in lines]
    places = [i for i, match in enumerate(matches) if match]
    text = b",".join([b",".join(match.groups()) for match in matches if match])
    if not places:
        return nothing
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", DeprecationWarning)  # NumPy's way before 2.3 to say that one is no number
            numbers = np.fromstring(text, sep=",")
    except (ValueError, DeprecationWarning):
        return nothing
    return np.array(places), [*last], numbers.reshape(len(places), len(last))


def parsed(lines: Sequence[bytes]) -> tuple[list[Row], int]:
    """The JSON objects with a step among these lines, and how many others there are. Empty lines are none."""
    lines = [line for line in map(bytes.strip, lines) if line]
    rows = [row for line in lines if (row := _row(line)) and number(row.get("step")) is not None]
    return rows, len(lines) - len(rows)


def _row(line: bytes) -> Row | None:
    try:
        value = json.loads(line)
    except DAMAGE:
        return None
    return value if isinstance(value, dict) else None


def number(value: Any, otherwise: Any = None) -> Any:
    """A finite number as a float; `otherwise` for anything else that a file may hold."""
    try:
        is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        return float(value) if is_number else otherwise
    except OverflowError:
        return otherwise


def column(rows: Sequence[Row], name: str) -> Floats:
    """Of each row its number of that name; NaN where it has none."""
    values = [row.get(name) for row in rows]
    if not {*map(type, values)} <= {float, int, type(None)}:
        values = [number(value) for value in values]
    try:
        found = np.array(values, dtype=np.float64)
    except OverflowError:
        found = np.array([number(value) for value in values], dtype=np.float64)
    return np.where(np.isfinite(found), found, np.nan)


def _plain(values: npt.NDArray[Any], digits: int = 6) -> list[float | None]:
    """For JSON: so many digits of each, None for NaN."""
    values = values.astype(np.float64)
    with np.errstate(all="ignore"):
        power = np.where(values == 0, 1, np.floor(np.log10(np.abs(values))))
        scale = 10.0 ** (digits - 1 - power)
        rounded = np.where(np.isfinite(scale) & (scale > 0), np.round(values * scale) / scale, values)
    return [value if math.isfinite(value) else None for value in rounded.tolist()]
