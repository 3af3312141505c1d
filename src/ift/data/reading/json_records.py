"""Records of JSON: the lines of JSONL, or the elements of one list, each decoded apart.

What is wrong with the text is a DataError that says what people wrote and JSON does not have. A value that is no row,
though JSON goes on behind it, comes as an Unreadable.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ift.data.reading.window import MAX_ROW, Unreadable, Window, end_of, lines_of, most_common, too_long, utf8_size
from ift.errors import DataError

MAX_DEPTH = 64  # of lists and objects in one another, the row itself being the first
COMMENT = ("//", "/*", "#")


class _Unusable(ValueError):
    """A value that is no row, though JSON goes on behind it."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) < len(pairs):
        raise _Unusable(f'the key "{most_common(key for key, _ in pairs)[:40]}" stands twice')
    return record


def _no_constant(name: str) -> None:
    raise _Unusable(f"{name} is no JSON number")


DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_no_constant)
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
    return value, end


def _is_too_deep(value: Any) -> bool:
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [inner for outer in level for inner in _inside(outer)]
    return any(isinstance(value, list | dict) for value in level)


def _inside(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def json_lines(window: Window, path: Path) -> Iterator[tuple[int, Any]]:
    """A record from each line that is not empty."""
    records, first = 0, (0, "")
    for number, line in enumerate(lines_of(window, re.compile("\n")), start=window.line(window.at)):
        text = line.raw if isinstance(line, Unreadable) else line.strip()
        if text:
            records += 1
            first = first if records > 1 else (number, text)
            yield number, line if isinstance(line, Unreadable) else _value(text, window, path, number, records == 1)
    if records == 1 and (key := _key_of_rows(first[1])) and key not in ('"messages"', '"conversations"'):  # one row
        raise _one_object(path, first[0], key)


def _value(line: str, window: Window, path: Path, number: int, first: bool) -> Any:
    try:
        value, end = _decode(line)
        if end < len(line):
            raise json.JSONDecodeError("Extra data", line, end)
    except _Unusable as error:
        return Unreadable(str(error), line)
    except json.JSONDecodeError as error:
        after = window.skip_space()  # the first character of another line
        if first and after and error.pos == len(line) and (after != "{" or line[-1] in "[:"):  # a row is no line here
            text = line + "\n" + window.text[window.at :]
            if re.search(r"^\}\s*\{", text, re.MULTILINE):
                raise DataError(f"{path}:{number}: a row over several lines (one in each: jq -c . FILE)") from error
            raise _one_object(path, number, _key_of_rows(text)) from error
        if not after and _is_cut_off(error):
            raise _cut_off(path, number) from error
        raise DataError(f"{path}:{number}: broken JSON: {_reason(error)}") from error
    return value


def json_list(window: Window, path: Path) -> Iterator[tuple[int, Any]]:
    """The elements of one list, which the window stands before."""
    window.at += 1
    if window.skip_space() == "]":
        raise DataError(f"{path}: no rows (an empty list)")
    for number in itertools.count(1):
        if not window.skip_space():
            raise _cut_off(path, number)
        yield number, _element(window, path, number)
        mark = window.skip_space()
        if not mark:
            raise _cut_off(path, number)
        if mark not in ",]":
            raise _broken(window, path, number, "no comma or ] after this row", window.at)
        window.at += 1
        after = window.skip_space()
        if mark == "]" and after:
            raise DataError(f"{path}:{number}: text after the end of the list (one JSON list, or JSONL)")
        if mark == "]":
            return
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


KEYS = re.compile(r'("[^"\\]*+(?:\\.[^"\\]*+)*+"?)(\s*:\s*\[\s*\{)?|[\[\]{}]', re.DOTALL)


def _key_of_rows(text: str) -> str | None:
    """The key, in quotes, under which an object holds a list of objects. The text may be the beginning of it."""
    depth = 0
    for match in KEYS.finditer(text):
        string, opens_list = match.groups()
        if opens_list and depth == 1:
            return string
        if opens_list:
            depth += 2
        elif not string:
            depth += 1 if match[0] in "[{" else -1
    return None


def _one_object(path: Path, number: int, key: str | None) -> DataError:
    inside = f"; its rows are under {key[:40]}" if key else ""
    return DataError(f"{path}:{number}: one JSON object, not a list of rows{inside} (save the list alone)")
