"""Records of JSON: the lines of JSONL, the elements of one list, or the rows that one object holds, each decoded apart.

What is wrong with the text is a DataError that says what people wrote and JSON does not have. A value that is no row,
though JSON goes on behind it, comes as an Unreadable.
"""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Callable, Generator, Iterable, Iterator
from pathlib import Path
from typing import Any

from ift.data.reading import json_layouts
from ift.data.reading.window import (
    MAX_ROW,
    SPACE,
    Unreadable,
    Window,
    end_of,
    lines_of,
    most_common,
    too_long,
    utf8_size,
)
from ift.errors import DataError

Note = Callable[[str], None]  # called with the key of what stands beside the rows of a file
WHOLE = 200_000_000  # characters of one object that has to be read whole: its columns stand one after the other
FIRST_LINE = 2**18  # characters in which the first line must end for a file to be lists, one in each line
MAX_DEPTH = 64  # of lists and objects in one another, the row itself being the first
COMMENT = ("//", "/*", "#")


class _Unusable(ValueError):
    """A value that is no row, though JSON goes on behind it."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) < len(pairs):
        raise _Unusable(f'the key "{most_common(key for key, _ in pairs)[:40]}" stands twice')
    return record


_constants: list[str] = []  # NaN and the like, since they were last replaced


def _constant(name: str) -> float:
    _constants.append(name)
    return float(name)


def _with_nulls(value: Any, key: str = "") -> Any:
    """NaN, which pandas writes for an empty cell, as null. Raises _Unusable for an infinite number."""
    if isinstance(value, float) and math.isnan(value):
        return None
    if isinstance(value, float) and math.isinf(value):
        raise _Unusable(f'"{key[:40]}" is infinite, which is no JSON number')
    if isinstance(value, dict):
        return {name: _with_nulls(inside, name) for name, inside in value.items()}
    return [_with_nulls(inside, key) for inside in value] if isinstance(value, list) else value


DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_constant)
TOO_DEEP = f"nested deeper than {MAX_DEPTH}"


def _decode(text: str, at: int = 0) -> tuple[Any, int]:
    """The JSON value at `at`, and its end. Raises JSONDecodeError, or _Unusable for a value that cannot be a row."""
    try:
        value, end = DECODER.raw_decode(text, at)
    except RecursionError:
        raise _Unusable(TOO_DEEP) from None
    except (_Unusable, json.JSONDecodeError):
        raise
    except ValueError as error:
        raise _Unusable("a number of more than 4,300 digits") from error  # int() refuses it: it takes quadratic time
    # so many brackets are rare, so the depth is seldom looked at
    if text.count("[", at, end) + text.count("{", at, end) > MAX_DEPTH and _is_too_deep(value):
        raise _Unusable(TOO_DEEP)
    if _constants:
        _constants.clear()
        value = _with_nulls(value)
    return value, end


def decode(text: str) -> Any:
    """The JSON value that is all of a text. Raises JSONDecodeError, or another ValueError for what no row may hold."""
    text = text.strip(" \t\r\n")
    value, end = _decode(text)
    if end < len(text):
        raise json.JSONDecodeError("Extra data", text, end)
    return value


def _is_too_deep(value: Any) -> bool:
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [inner for outer in level for inner in _inside(outer)]
    return any(isinstance(value, list | dict) for value in level)


def _inside(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


# ----------------------------------------------------------------------------------------------------------------------
# objects


def json_objects(window: Window, path: Path, note: Note = lambda key: None) -> Iterator[tuple[int, Any]]:
    """Records of a text that begins with {: lines of JSONL, or one object. note: for the keys beside its rows."""
    try:
        first = _first_object(window, MAX_ROW)
    except _GoesOn:
        key, inside = _open_member(window)
        if inside is not None and json_layouts.is_list_of_rows(key, inside):
            yield from _rows_under_a_key(window, path, note)
            return
        first = _first_whole(window, path) if inside is not None else None
    if first is None or window.goes_on(first[1]):
        yield from json_lines(window, path)
    else:
        yield from _rows_in(window, path, *first, note)


def _rows_in(window: Window, path: Path, value: dict[str, Any], length: int, note: Note) -> Iterator[tuple[int, Any]]:
    """The rows of the only object of a file, or that object as its only row."""
    line, text = window.line(window.at), window.text[window.at : window.at + length]
    window.at += length
    try:
        layout = json_layouts.rows_of(value)
    except json_layouts.Ambiguous as error:
        raise DataError(f"{path}:{line}: one JSON object with {error}") from error
    if layout is None:
        size = utf8_size(text)
        yield line, value if size <= MAX_ROW else too_long(text, size)
        return
    rows, beside = layout
    number = 0
    for number, row in enumerate(rows, start=1):
        yield number, row
    if not number:
        raise DataError(f"{path}: no rows (an empty list)")
    for key in beside:
        note(key)


class _GoesOn(Exception):
    """An object does not end within a limit."""


def _first_object(window: Window, limit: int) -> tuple[dict[str, Any], int] | None:
    """The object that the window stands before and its length, or None if it is broken. Raises _GoesOn."""
    while True:
        try:
            value, end = _decode(window.text, window.at)
            return value, end - window.at
        except _Unusable:
            return None
        except json.JSONDecodeError as error:
            if window.ended or _is_certain(window, error.pos, error):
                return None
        if window.reached > limit:
            raise _GoesOn
        window.grow()


def _first_whole(window: Window, path: Path) -> tuple[dict[str, Any], int] | None:
    """The same for an object whose columns stand one after the other. Raises DataError where it is too large."""
    try:
        return _first_object(window, WHOLE)
    except _GoesOn:
        what = f"one JSON object of more than {WHOLE:,} characters whose rows do not stand one after the other"
        raise DataError(f"{path}: {what} (save it as JSONL, a row a line)") from None


def _open_member(window: Window) -> tuple[str, Any]:
    """The key of the first object whose value goes on behind the text so far, and the first value of the list that it
    holds: (key, None) where it holds none and the object may well be a row."""
    text, at, members = window.text, window.at + 1, dict[str, Any]()
    key, opened = "", -1
    try:
        while True:  # until the text ends
            key, at = _decode(text, _after_space(text, at))
            at = opened = _after_space(text, _after_space(text, at) + 1)  # behind the colon
            members[key], at = _decode(text, at)
            at = _after_space(text, at) + 1  # behind the comma
    except ValueError:
        if opened < 0 or json_layouts.is_row(members) or text[opened : opened + 1] not in ("[", "{"):
            return key, None
    try:
        first = _decode(text, _after_space(text, opened + 1))[0]
        return key, None if json_layouts.is_message(first) else first
    except ValueError:
        return key, [] if text[_after_space(text, opened + 1) :][:1] in ("[", "{") else None


def _after_space(text: str, at: int) -> int:
    return end_of(SPACE.match(text, at))


def _rows_under_a_key(window: Window, path: Path, note: Note) -> Iterator[tuple[int, Any]]:
    """The elements of the list of rows in an object, one after the other: the object may have any size."""
    numbers = itertools.count(1)
    holders: list[str] = []
    mark, number = "{", 1
    while mark in "{,":
        window.at += 1
        if window.skip_space() != '"':
            raise _broken(window, path, number, "Expecting property name enclosed in double quotes", window.at)
        key = _element(window, path, number)
        if isinstance(key, Unreadable) or window.skip_space() != ":":
            raise _broken(window, path, number, "Expecting ':' delimiter", window.at)
        window.at += 1
        if window.skip_space() == "[" and json_layouts.is_list_of_rows(key, _peek_inside(window)):
            holders.append(key)
            if len(holders) > 1:
                raise DataError(f"{path}:1: one JSON object with {json_layouts.several(holders)}")
            number = (yield from _elements(window, path, numbers)) or number
        else:
            window.take(_ElementEnd())
            note(key)
        mark = window.skip_space()
        if not mark:
            raise _cut_off(path, number)
    if mark != "}":
        raise _broken(window, path, number, "no comma or } after this value", window.at)
    window.at += 1
    if window.skip_space():
        raise DataError(f"{path}:{number}: text after the end of the object (one JSON object, or JSONL)")


def _peek_inside(window: Window) -> Any:
    """The first value of the list that the window stands before, or None if it has none that is a row."""
    window.reach(MAX_ROW)
    try:
        return _decode(window.text, _after_space(window.text, window.at + 1))[0]
    except ValueError:
        return None


# ----------------------------------------------------------------------------------------------------------------------
# lines


def json_lines(window: Window, path: Path) -> Iterator[tuple[int, Any]]:
    """A record from each line that is not empty."""
    records = 0
    for number, line in enumerate(lines_of(window, re.compile("\n")), start=window.line(window.at)):
        text = line.raw if isinstance(line, Unreadable) else line.strip()
        if text:
            records += 1
            yield number, line if isinstance(line, Unreadable) else _value(text, window, path, number, records == 1)


def _value(line: str, window: Window, path: Path, number: int, first: bool) -> Any:
    try:
        value = decode(line)
    except _Unusable as error:
        return Unreadable(str(error), line)
    except json.JSONDecodeError as error:
        after = window.skip_space()  # the first character of another line
        if first and after and error.pos == len(line) and (after != "{" or line[-1] in "[:"):  # a row is no line here
            raise _over_several_lines(line, window, path, number) from error
        if not after and _is_cut_off(error):
            raise _cut_off(path, number) from error
        raise DataError(f"{path}:{number}: broken JSON: {_reason(error)}") from error
    return value


def _over_several_lines(line: str, window: Window, path: Path, number: int) -> DataError:
    text = line + "\n" + window.text[window.at :]
    if re.search(r"^\}\s*\{", text, re.MULTILINE):
        return DataError(f"{path}:{number}: a row over several lines (one in each: jq -c . FILE)")
    try:
        _decode(text)
        what = "text after the end of the object"
    except _Unusable as error:
        what = str(error)
    except json.JSONDecodeError as error:
        if window.ended and _is_cut_off(error):
            return _cut_off(path, number)
        what = f"broken JSON in line {number + text.count(chr(10), 0, error.pos)}: {_reason(error)}"
        return DataError(f"{path}:{number}: {what}")
    return DataError(f"{path}:{number}: {what} (one JSON object or list, or JSONL)")


# ----------------------------------------------------------------------------------------------------------------------
# lists


def json_list(window: Window, path: Path) -> Iterator[tuple[int, Any]]:
    """The records of one list, which the window stands before, or of lists in lines.

    An element that is a list is one of three: messages of a conversation, rows (a list of lists of rows), or values
    whose names stand in the first list.
    """
    if _is_lists_in_lines(window):
        yield from _named(json_lines(window, path), path)
        return
    window.reach(2)
    inside = NESTED.match(window.text, window.at)
    if not inside:
        yield from _whole_list(window, path)
        return
    window.reach(MAX_ROW)
    first = _first_nested(window)
    if isinstance(first, dict) and first and not json_layouts.is_message(first):
        yield from _whole_list(window, path, nested=True)
    else:
        yield from _named(_whole_list(window, path), path)


NESTED = re.compile(r"\[\s*(\[|$)")  # $: nothing more is read so far


def _is_lists_in_lines(window: Window) -> bool:
    """Whether the first line is a whole list of values or messages, and another list follows it in the next line."""
    while (end := window.text.find("\n", window.at)) < 0 and window.reached < FIRST_LINE:
        if window.ended or not window.grow():
            return False
    line = window.text[window.at : max(end, window.at)]
    try:
        value, length = _decode(line.rstrip())
    except ValueError:
        return False
    if length < len(line.rstrip()) or any(
        isinstance(each, dict) and not json_layouts.is_message(each) for each in value
    ):
        return False
    if not window.goes_on(len(line)):
        return False
    return window.text[_after_space(window.text, window.at + len(line))] == "["


def _first_nested(window: Window) -> Any:
    """The first value of the first list in the list that the window stands before, or None."""
    text, at = window.text, _after_space(window.text, window.at + 1)
    if text[at : at + 1] != "[":
        return None
    try:
        return _decode(text, _after_space(text, at + 1))[0]
    except ValueError:
        return None


def _named(records: Iterator[tuple[int, Any]], path: Path) -> Iterator[tuple[int, Any]]:
    """Records that are lists as objects: a list of messages, or values by the names in the first list."""
    names: list[str] | None = None
    for number, value in records:
        if not isinstance(value, list):
            yield number, value
        elif value and all(json_layouts.is_message(message) for message in value):
            yield number, {"messages": value}
        elif names is not None:
            if len(value) != len(names):
                raise DataError(f"{path}:{number}: {len(value)} values for {len(names)} names (give one for each)")
            yield number, dict(zip(names, value, strict=True))
        elif all(isinstance(name, str) for name in value) and json_layouts.ROW_NAMES & {n.lower() for n in value}:
            names = value
        else:
            what = f"a list of {len(value)} values, which have no names"
            raise DataError(f'{path}:{number}: {what} (put their names before it: ["instruction", "output"])')


def _whole_list(window: Window, path: Path, *, nested: bool = False) -> Iterator[tuple[int, Any]]:
    """The elements of one list; nested: the elements of the lists in it. Nothing may stand behind it."""
    number = yield from _elements(window, path, itertools.count(1), nested=nested)
    if not number:
        raise DataError(f"{path}: no rows (an empty list)")
    if window.skip_space():
        raise DataError(f"{path}:{number}: text after the end of the list (one JSON list, or JSONL)")


def _elements(
    window: Window, path: Path, numbers: Iterator[int], *, nested: bool = False
) -> Generator[tuple[int, Any], None, int]:
    """The elements of the list that the window stands before, to which numbers are given; `at` moves behind it.

    Returns the last number, 0 where there are no elements.
    """
    window.at += 1
    if window.skip_space() == "]":
        window.at += 1
        return 0
    number = 0
    while True:
        if nested and window.skip_space() == "[":
            number = (yield from _elements(window, path, numbers)) or number
        else:
            number = next(numbers)
            if not window.skip_space():
                raise _cut_off(path, number)
            yield number, _element(window, path, number)
        mark = window.skip_space()
        if not mark:
            raise _cut_off(path, number)
        if mark not in ",]":
            raise _broken(window, path, number, "no comma or ] after this row", window.at)
        window.at += 1
        if mark == "]":
            return number
        after = window.skip_space()
        if after == "]":
            raise DataError(f"{path}:{number}: a comma before the closing ] (take it out)")


UNSETTLED = 16  # characters: what ends so near to the end of the text may go on in the next piece (12 -> 12.5e3)


def _element(window: Window, path: Path, number: int) -> Any:
    """The next element of a list, or an Unreadable in its place; `at` moves behind it.

    The decoder needs an element whole, so it tries again with more text until its result is certain.
    """
    while True:
        problem: json.JSONDecodeError | None = None
        try:
            value, end = _decode(window.text, window.at)
        except _Unusable as error:
            skipped = window.take(_ElementEnd())
            return skipped if isinstance(skipped, Unreadable) else Unreadable(str(error), skipped)
        except json.JSONDecodeError as error:
            problem, end = error, error.pos
        if window.ended or _is_certain(window, end, problem):
            break
        if len(window.text) - window.at > MAX_ROW + UNSETTLED:
            return window.take(_ElementEnd())  # an Unreadable: it is too long
        window.grow()
    if problem:
        if window.ended and _is_cut_off(problem):
            raise _cut_off(path, number) from problem
        raise _broken(window, path, number, problem.msg, end) from problem
    text, window.at = window.text[window.at : end], end
    return value if len(text) <= MAX_ROW // 4 or utf8_size(text) <= MAX_ROW else too_long(text, utf8_size(text))


def _is_certain(window: Window, end: int, problem: json.JSONDecodeError | None) -> bool:
    """Whether more text would change nothing: neither where the value ends nor what is wrong with it."""
    in_string = problem is not None and problem.msg.startswith("Unterminated string")
    return end < len(window.text) - UNSETTLED and not in_string


class _ElementEnd:
    """Finds where an element of a list ends: at the comma or bracket that is outside of its strings and brackets.

    For an element that the decoder cannot use or that is too long to be held. It is called with one stretch of the
    text after another, and remembers in between where it is.
    """

    MARK = re.compile(r'["\[\]{},]')
    STRING = re.compile(r'[^"\\]*+(?:\\.[^"\\]*+)*+', re.DOTALL)  # up to its quote, or a backslash at the text's end

    def __init__(self) -> None:
        self.depth = 0  # brackets that are open
        self.in_string = False
        self.after_backslash = False  # the text so far ended in one: the next character ends no string

    def __call__(self, text: str, at: int) -> int:
        while at < len(text):
            if self.in_string:
                at = self._leave_string(text, at)
                continue
            match = self.MARK.search(text, at)
            if not match:
                return -1
            mark, at = match[0], match.end()
            if mark == '"':
                self.in_string = True
            elif mark in "[{":
                self.depth += 1
            elif self.depth == 0:
                return match.start()
            elif mark in "]}":
                self.depth -= 1
        return -1

    def _leave_string(self, text: str, at: int) -> int:
        """Behind the string's closing quote, or the end of the text if the string goes on in the next."""
        at = end_of(self.STRING.match(text, at + self.after_backslash))
        self.in_string = text[at : at + 1] != '"'
        self.after_backslash = text[at : at + 1] == "\\"
        return at + 1


CUT_OFF = re.compile(r"[-+.eE]{0,2}|t(r(ue?)?)?|f(a(l(se?)?)?)?|n(u(ll?)?)?|u[0-9a-fA-F]{0,4}")


def _is_cut_off(error: json.JSONDecodeError) -> bool:
    """Whether JSON went wrong because its text ended: there is nothing more, or the beginning of something."""
    return error.msg.startswith("Unterminated string") or bool(CUT_OFF.fullmatch(error.doc[error.pos :].strip()))


def _cut_off(path: Path, number: int) -> DataError:
    return DataError(f"{path}:{number}: the file ends in the middle of this row (was it cut off?)")


def _broken(window: Window, path: Path, number: int, what: str, at: int) -> DataError:
    reason = _reason(json.JSONDecodeError(what, window.text, at))
    return DataError(f"{path}:{number}: broken JSON in line {window.line(at)}: {reason}")


def _reason(error: json.JSONDecodeError) -> str:
    """What stands there, for what people write and JSON does not have; the parser's own words for the rest."""
    here, before = error.doc[error.pos : error.pos + 9].rstrip(), error.doc[: error.pos].rstrip()[-1:]
    if here.startswith("'"):
        return "single quotes, which JSON does not have (write it with json.dumps)"
    if here.startswith(COMMENT):
        return "a comment, which JSON does not have (take it out)"
    if here.startswith(("}", "]")) and before == ",":
        return f"a comma before the closing {here[0]} (take it out)"
    if here.startswith(("None", "True", "False")):
        return "a Python value, which JSON does not have (write it with json.dumps)"
    if here == "," and error.msg == "Extra data":
        return "a comma after the row (take it out, or put all rows in [ ])"
    if error.msg.startswith("Illegal trailing comma"):  # in Python 3.13 and later
        return f"a comma before the closing {'}' if error.msg.endswith('object') else ']'} (take it out)"
    if here.startswith("\ufeff"):
        return "a byte order mark in the middle of the file (take it out)"
    return f"{error.msg.removesuffix(' at')}{f' at {here!r}' if here else ''} (write rows with json.dumps)"
