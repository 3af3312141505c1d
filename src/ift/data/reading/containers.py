"""Files to records: JSON, JSONL, CSV, TSV and Parquet, also gzipped, told apart by what is in them.

A file is streamed: whatever its size, a few MB of it are in memory. A record that can be stepped over comes as an
Unreadable in its place; everything else that is wrong with a file is a DataError, `PATH:ROW: what (what to do)`.
"""

from __future__ import annotations

import codecs
import csv
import errno
import gzip
import io
import itertools
import json
import os
import re
import stat
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ift.errors import DataError, missing_extra

SUFFIXES = (".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".parquet")  # in a folder; each may be followed by .gz
MAX_ROW = 1_000_000  # bytes of one record's text, in UTF-8
MAX_DEPTH = 64  # of lists and objects in one another, the row itself being the first
MAX_RATIO, MIN_BOMB = 200, 100_000_000  # gzip: this many times larger than its file and this many bytes is a bomb
CHUNK = 2**18  # bytes of a file at a time
HEAD = 4096  # bytes that tell what a file is
KEPT = 1000  # characters of a row that is too long

Advance = Callable[[int], None]
FindEnd = Callable[[str, int], int]  # (text, at) -> where something ends in text from `at` on, or -1


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A record that can be stepped over: why, and its text (the first 1,000 characters of one that is too long)."""

    reason: str
    raw: str


def data_files(paths: Sequence[str | Path]) -> list[Path]:
    """Files as they are; a folder stands for the data files in it, by name. Raises DataError where it holds none."""
    return [file for path in map(Path, paths) for file in (_files_in(path) if os.path.isdir(path) else [path])]


def _files_in(folder: Path) -> list[Path]:
    try:
        files = sorted(file for file in folder.iterdir() if not file.is_dir())
    except OSError as error:
        raise DataError(f"{folder}: cannot be read: {error.strerror}") from error
    # a hidden one is no data: macOS leaves a ._rows.json beside each rows.json
    found = [file for file in files if _suffix(file) in SUFFIXES and not file.name.startswith(".")]
    if not found:
        raise DataError(f"{folder}: no data files in this folder ({' '.join(SUFFIXES)}, or one of them with .gz)")
    return found


def _suffix(path: Path) -> str:
    """What the name says of the content: ".csv" for rows.CSV and rows.csv.gz."""
    return Path(path.name.lower().removesuffix(".gz")).suffix


def read_records(path: Path, advance: Advance = lambda n: None) -> Iterator[tuple[int, Any]]:
    """Number (from 1; the line for JSONL) and value of each record, an Unreadable where it can be stepped over.

    advance is called with the number of bytes of the file (packed ones for gzip) that were used up since the last
    call. Raises DataError where the file cannot be read on or holds no record.
    """
    _check_kind(path)
    try:
        raw = path.open("rb")
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    with raw:
        start = _read(path, raw.peek, 4)
        if start.startswith(b"PAR1"):
            yield from _parquet(path, advance)
        else:
            file = gzip.GzipFile(fileobj=raw) if start.startswith(b"\x1f\x8b") else raw
            head = _read(path, file.peek, HEAD)
            yield from _text_records(path, head, _chunks(path, file, raw, advance))


# ----------------------------------------------------------------------------------------------------------------------
# bytes


def _check_kind(path: Path) -> None:
    """Raises DataError for what is no file. Done before it is opened: opening a pipe waits for its other end."""
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        code = getattr(error, "errno", errno.ENOENT)
        if code == errno.ELOOP:
            raise DataError(f"{path}: a link that leads back to itself (check data.path)") from error
        if code not in (errno.ENOENT, errno.ENOTDIR):
            raise DataError(f"{path}: cannot be read: {os.strerror(code)}") from error
        if path.parts[:1] in (("http:",), ("https:",)):
            raise DataError(f"{path}: an address, not a file (download it first)") from error
        what = f"a link to {os.readlink(path)!r}, which is not there" if os.path.islink(path) else "no such file"
        raise DataError(f"{path}: {what} (check data.path)") from error
    if not stat.S_ISREG(mode):
        kinds = {stat.S_IFDIR: "folder", stat.S_IFIFO: "pipe", stat.S_IFSOCK: "socket"}
        kind = kinds.get(stat.S_IFMT(mode), "device")
        raise DataError(f"{path}: not a file but a {kind} (give one JSON, JSONL, CSV, TSV or Parquet file)")


def _chunks(
    path: Path, file: io.BufferedReader | gzip.GzipFile, raw: io.BufferedReader, advance: Advance
) -> Iterator[bytes]:
    """Bytes of `file`, which is `raw` itself or unpacks it. Raises DataError where they cannot be read or unpacked."""
    size, used, out = path.stat().st_size, 0, 0
    while chunk := _read(path, file.read, CHUNK):
        out += len(chunk)
        if file is not raw and out > max(MIN_BOMB, MAX_RATIO * size):
            raise DataError(f"{path}: a gzip bomb: {out:,} bytes so far out of {size:,} (is this the right file?)")
        yield chunk
        used, before = raw.tell(), used
        advance(used - before)
    advance(raw.tell() - used)


def _read(path: Path, read: Callable[[int], bytes], n: int) -> bytes:
    try:
        return read(n)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path}: broken gzip: {str(error)[:60]} (was it cut off?)") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error


MAGIC = {
    b"\x1f\x8b": "gzip inside gzip (unpack it once: gunzip)",
    b"PAR1": "Parquet inside gzip (unpack it: gunzip)",
    b"PK\x03\x04": "a zip or Excel file (export it as CSV)",
    b"\xd0\xcf\x11\xe0": "an Excel file (export it as CSV)",
    b"\x28\xb5\x2f\xfd": "compressed with zstd (run: zstd -d)",
    b"BZh": "compressed with bzip2 (run: bunzip2)",
    b"\xfd7zXZ": "compressed with xz (run: unxz)",
    b"%PDF": "a PDF, no rows of text (export them as CSV)",
    b"<?xml": "an XML page, not data (was the download an error page?)",
    b"version https://git-lfs": "a Git LFS pointer, not the data (run: git lfs pull)",
}
ENCODINGS = {  # by the mark a file begins with; the mark of UTF-32 begins with that of UTF-16
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
COMMENT = ("//", "/*", "#")
SKIPPED = codecs.BOM_UTF8 + b" \t\r\n"  # bytes that may stand before the first row


def _text_records(path: Path, head: bytes, chunks: Iterator[bytes]) -> Iterator[tuple[int, Any]]:
    """Records of JSON, JSONL, CSV or TSV. Raises DataError where the bytes are something else."""
    for magic, what in MAGIC.items():
        if head.startswith(magic):
            raise DataError(f"{path}: {what}")
    if head.lstrip(SKIPPED).lower().startswith((b"<!doctype", b"<html")):
        raise DataError(f"{path}: an HTML page, not data (was the download an error page?)")
    encoding = next((encoding for mark, encoding in ENCODINGS.items() if head.startswith(mark)), "utf-8-sig")
    if encoding == "utf-8-sig" and b"\0" in head[:HEAD]:
        if re.match(rb"[ -~]\0|\0[ -~]", head):
            unmarked = "UTF-16BE" if head[0] == 0 else "UTF-16LE"
            raise DataError(f"{path}: {unmarked} without its mark (run: iconv -f {unmarked} -t UTF-8)")
        if not head.lstrip(SKIPPED).startswith((b"[", b"{")):  # with them, the row that holds the NUL will be named
            raise DataError(f"{path}: a binary file, no rows of text (unpack it, or export its rows as JSONL or CSV)")

    window = _Window(_decoded(path, chunks, encoding))
    first = window.skip_space()
    if not first:
        raise DataError(f"{path}: no rows (the file is empty)")
    if first == "[":
        yield from _json_list(window, path)
    elif first == "{":
        yield from _json_lines(window, path)
    elif _suffix(path) in (".csv", ".tsv"):
        yield from _csv(window, path)
    else:
        begins = window.text[window.at : window.at + 20]
        what = f"neither JSON, JSONL, CSV, TSV nor Parquet (it begins {begins!r}) (a table's name ends in .csv or .tsv)"
        if begins.startswith("\ufeff"):
            what = "two byte order marks (take one out)"
        elif begins.startswith(COMMENT):
            what = "begins with a comment, which JSON does not have (take it out)"
        raise DataError(f"{path}:{window.line(window.at)}: {what}")


# ----------------------------------------------------------------------------------------------------------------------
# text


def _decoded(path: Path, chunks: Iterable[bytes], encoding: str) -> Iterator[str]:
    """Text in pieces, none of them empty or ending between \\r and \\n. Raises DataError where bytes are no text."""
    decoder = io.IncrementalNewlineDecoder(codecs.getincrementaldecoder(encoding)(), translate=False)
    read, line = 0, 1
    for chunk in itertools.chain(chunks, [b""]):  # the empty one says that it is over
        read += len(chunk)
        try:
            text = decoder.decode(chunk, final=not chunk)
        except UnicodeDecodeError as error:  # its object is the end of what was read
            line += error.object[: error.start].decode(error.encoding).count("\n")
            what = (
                f"byte {read - len(error.object) + error.start} is not {error.encoding.upper()} (convert it with iconv)"
            )
            if not chunk:
                what = "the file ends in the middle of a character (was it cut off?)"
            raise DataError(f"{path}:{line}: {what}") from error
        if "\0" in text:
            line += text.count("\n", 0, text.index("\0"))
            raise DataError(f"{path}:{line}: a NUL character, which no text has (is the file damaged?)")
        line += text.count("\n")
        if text:
            yield text


class _Window:
    """A stretch of a text that is read piece by piece: what is ahead of `at`, as far as it was asked for."""

    def __init__(self, pieces: Iterator[str]) -> None:
        self.pieces = pieces
        self.text, self.at = "", 0
        self.lines = 0  # before the text
        self.ended = False  # nothing comes after the text

    def grow(self) -> bool:
        """Twice as much ahead, so that what is tried again each time takes linear time; False at the end."""
        self.lines += self.text.count("\n", 0, self.at)
        ahead = [self.text[self.at :]]
        size, wanted = len(ahead[0]), max(1, 2 * len(ahead[0]))
        while size < wanted and (piece := next(self.pieces, "")):
            ahead.append(piece)
            size += len(piece)
        self.text, self.at = "".join(ahead), 0
        self.ended = size < wanted
        return len(ahead) > 1

    def line(self, at: int) -> int:
        return self.lines + self.text.count("\n", 0, at) + 1

    def skip_space(self) -> str:
        """The next character that is no white space, to which `at` moves; "" at the end."""
        while True:
            self.at = _end_of(_SPACE.match(self.text, self.at))
            if self.at < len(self.text):
                return self.text[self.at]
            if not self.grow():
                return ""

    def take(self, find_end: FindEnd) -> str | Unreadable:
        """Text up to its end or that of the file, to which `at` moves. Never held whole if it is too long."""
        text, size = "", 0
        while True:
            end = find_end(self.text, self.at)
            part = self.text[self.at : end if end >= 0 else len(self.text)]
            self.at += len(part)
            size += _bytes(part)
            text += part
            if size > MAX_ROW:
                text = text[:KEPT]
            if end >= 0 or not self.grow():
                return text if size <= MAX_ROW else _too_long(text, size)


_SPACE = re.compile(r"[ \t\r\n]*")  # of JSON: not U+00A0, not U+2028


def _bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())


def _too_long(text: str, size: int) -> Unreadable:
    return Unreadable(f"{size:,} bytes, more than {MAX_ROW:,} in one row", text[:KEPT])


def _lines(window: _Window, newline: re.Pattern[str]) -> Iterator[str | Unreadable]:
    """Lines with their ends; of one that is too long, no more than the beginning is held."""

    def find_end(text: str, at: int) -> int:
        found = newline.search(text, at)
        return found.start() if found else -1

    while window.at < len(window.text) or window.grow():
        line = window.take(find_end)
        end = newline.match(window.text, window.at)
        if end:
            window.at = end.end()
        yield line if isinstance(line, Unreadable) else line + (end[0] if end else "")


# ----------------------------------------------------------------------------------------------------------------------
# JSON


class _Unusable(ValueError):
    """A value that is no row, though JSON goes on behind it."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) < len(pairs):
        raise _Unusable(f'the key "{_most_common(key for key, _ in pairs)[:40]}" stands twice')
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


def _most_common(names: Iterable[str]) -> str:
    return Counter(names).most_common(1)[0][0]


def _json_lines(window: _Window, path: Path) -> Iterator[tuple[int, Any]]:
    records, first = 0, (0, "")
    for number, line in enumerate(_lines(window, re.compile("\n")), start=window.line(window.at)):
        text = line.raw if isinstance(line, Unreadable) else line.strip()
        if text:
            records += 1
            first = first if records > 1 else (number, text)
            yield number, line if isinstance(line, Unreadable) else _value(text, window, path, number, records == 1)
    if records == 1 and (key := _key_of_rows(first[1])) and key not in ('"messages"', '"conversations"'):  # one row
        raise _one_object(path, first[0], key)


def _value(line: str, window: _Window, path: Path, number: int, first: bool) -> Any:
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


def _json_list(window: _Window, path: Path) -> Iterator[tuple[int, Any]]:
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


UNSETTLED = 16  # characters: what is found so near to the end of the text may change with more of it (12 -> 12.5e3)


def _element(window: _Window, path: Path, number: int) -> Any:
    """The next element of a list, which is passed."""
    while True:
        problem = None
        try:
            value, at = _decode(window.text, window.at)
        except _Unusable as error:
            taken = window.take(_ElementEnd())
            return taken if isinstance(taken, Unreadable) else Unreadable(str(error), taken)
        except json.JSONDecodeError as error:
            problem, at = error, error.pos
        in_string = problem and problem.msg.startswith("Unterminated string")
        if window.ended or (at < len(window.text) - UNSETTLED and not in_string):
            break
        if len(window.text) - window.at > MAX_ROW + UNSETTLED:
            return window.take(_ElementEnd())  # an Unreadable: it is too long
        window.grow()
    if problem:
        if window.ended and _is_cut_off(problem):
            raise _cut_off(path, number) from problem
        raise _broken(window, path, number, problem.msg, at) from problem
    text, window.at = window.text[window.at : at], at
    return value if len(text) <= MAX_ROW // 4 or _bytes(text) <= MAX_ROW else _too_long(text, _bytes(text))


class _ElementEnd:
    """Where an element of a list ends: at the comma or bracket outside of its strings and brackets."""

    STRING = re.compile(r'[^"\\]*+(?:\\.[^"\\]*+)*+', re.DOTALL)
    MARK = re.compile(r'["\[\]{},]')

    def __init__(self) -> None:
        self.depth, self.in_string = 0, False
        self.escaped = False  # the text so far ends in a backslash

    def __call__(self, text: str, at: int) -> int:
        at, self.escaped = at + self.escaped, False
        while at < len(text):
            if self.in_string:
                at = _end_of(self.STRING.match(text, at))
                self.escaped = text[at:] == "\\"
                self.in_string = at == len(text) or self.escaped  # it goes on in the next text
                at += 1
                continue
            found = self.MARK.search(text, at)
            if not found:
                return -1
            at, mark = found.end(), found[0]
            if mark == '"':
                self.in_string = True
            elif mark in "[{":
                self.depth += 1
            elif self.depth == 0:
                return found.start()
            elif mark != ",":
                self.depth -= 1
        return -1


def _end_of(found: re.Match[str] | None) -> int:
    """Of a pattern that matches always, be it nothing."""
    assert found
    return found.end()


CUT_OFF = re.compile(r"[-+.eE]{0,2}|t(r(ue?)?)?|f(a(l(se?)?)?)?|n(u(ll?)?)?|u[0-9a-fA-F]{0,4}")


def _is_cut_off(error: json.JSONDecodeError) -> bool:
    """Whether JSON went wrong because its text ended: there is nothing more, or the beginning of something."""
    return error.msg.startswith("Unterminated string") or bool(CUT_OFF.fullmatch(error.doc[error.pos :].strip()))


def _cut_off(path: Path, number: int) -> DataError:
    return DataError(f"{path}:{number}: the file ends in the middle of this row (was it cut off?)")


def _broken(window: _Window, path: Path, number: int, what: str, at: int) -> DataError:
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


# ----------------------------------------------------------------------------------------------------------------------
# tables


def _check_columns(path: Path, names: Sequence[str]) -> None:
    if "" in names:
        raise DataError(f"{path}:1: column {names.index('') + 1} has no name (name it, or save without the index)")
    if len(set(names)) < len(names):
        raise DataError(f'{path}:1: the column "{_most_common(names)[:40]}" stands twice (rename one)')


def _no_rows(path: Path) -> DataError:
    return DataError(f"{path}: no rows (it has columns, and nothing in them)")


def _unless_too_long(record: dict[str, Any]) -> dict[str, Any] | Unreadable:
    size = sum(_bytes(value) for value in record.values() if isinstance(value, str))
    return _too_long(json.dumps(record, ensure_ascii=False, default=str), size) if size > MAX_ROW else record


def _csv(window: _Window, path: Path) -> Iterator[tuple[int, Any]]:
    window.at = window.text.rfind("\n", 0, window.at) + 1  # white space before a column's name is part of it
    delimiter = "\t" if _suffix(path) == ".tsv" else ","
    lines = _csv_lines(window)
    line, number = window.line(window.at), 0  # the line where the next row begins; rows so far
    csv.field_size_limit(MAX_ROW)
    try:
        header = next(lines)
        if re.fullmatch('sep=[^"]', header.rstrip("\r\n"), re.IGNORECASE):  # Excel's way to say it
            header, delimiter, line = next(lines, ""), header[4], line + 1
        elif delimiter not in header:  # as a table program saves it where a comma stands in numbers
            delimiter = max(delimiter + ",;\t", key=header.count)
        # strict: a quote that nothing closes is an error here, and not one field that swallows all rows after it
        reader = csv.DictReader(itertools.chain([header], lines), delimiter=delimiter, strict=True)
        _check_columns(path, [name.strip() for name in reader.fieldnames or [""]])
        begin, line = line, line + reader.line_num
        for number, record in enumerate(reader, start=1):
            if None in record:
                raise DataError(f"{path}:{number}: more columns than the header has (quote the text)")
            yield number, _unless_too_long(record)
            line = begin + reader.line_num
    except csv.Error as error:
        if "field larger" in str(error):
            what = f"a line or field of more than {MAX_ROW:,} bytes from line {line} on (is a quote not closed?)"
        else:
            what = f"broken CSV from line {line} on: {error} (is a quote not closed, or one inside a text not doubled?)"
        raise DataError(f"{path}:{number + 1}: {what}") from error
    if not number:
        raise _no_rows(path)


def _csv_lines(window: _Window) -> Iterator[str]:
    for line in _lines(window, re.compile("\r\n?|\n")):
        if isinstance(line, Unreadable):
            raise csv.Error("field larger than the limit")  # in the reader's words
        yield line


def _parquet(path: Path, advance: Advance) -> Iterator[tuple[int, Any]]:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise missing_extra("pyarrow", "parquet") from error
    size, number = path.stat().st_size, 0
    try:
        with pyarrow.parquet.ParquetFile(path, buffer_size=CHUNK) as file:  # else a column of a row group is read whole
            rows = max(1, file.metadata.num_rows)
            _check_columns(path, file.schema_arrow.names)
            for batch in file.iter_batches(batch_size=1000):
                for record in batch.to_pylist():
                    number += 1
                    yield number, _unless_too_long(record)
                advance(size * number // rows - size * (number - len(batch)) // rows)
    except (pyarrow.ArrowException, OSError, ValueError) as error:  # ValueError: text that is not UTF-8
        what = str(error).partition("\n")[0][:60]
        raise DataError(f"{path}: broken Parquet: {what} (was it cut off?)") from error
    if not number:
        raise _no_rows(path)
