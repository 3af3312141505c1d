"""A text file read piece by piece: its decoding, a window that moves over it, and the limit of a record's length."""

from __future__ import annotations

import codecs
import io
import itertools
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ift.errors import DataError

MAX_ROW = 1_000_000  # bytes of one record's text, in UTF-8
KEPT = 1000  # characters of a record that is too long

FindEnd = Callable[[str, int], int]  # (text, at) -> where something ends in text from `at` on, or -1


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A record that can be stepped over: why, and its text (the first 1,000 characters of one that is too long)."""

    reason: str
    raw: str


def decoded(path: Path, chunks: Iterable[bytes], encoding: str) -> Iterator[str]:
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


class Window:
    """The part of a text that is in memory: from somewhere before `at`, the place reached, to what was read last."""

    def __init__(self, pieces: Iterator[str]) -> None:
        self.pieces = pieces
        self.text, self.at = "", 0
        self.lines = 0  # before the text
        self.ended = False  # nothing comes after the text

    def grow(self) -> bool:
        """Read until twice as much lies ahead, and drop what lies behind; False at the end of the text.

        Twice, so that a parser that starts again each time takes linear time all the same.
        """
        self.lines += self.text.count("\n", 0, self.at)
        ahead = [self.text[self.at :]]
        size, enough = len(ahead[0]), max(1, 2 * len(ahead[0]))
        while size < enough and (piece := next(self.pieces, "")):
            ahead.append(piece)
            size += len(piece)
        self.text, self.at = "".join(ahead), 0
        self.ended = size < enough
        return len(ahead) > 1

    def reach(self, size: int) -> None:
        """Have so many characters ahead, or all that are left. `at` stays where it is in the text."""
        while self.reached < size and not self.ended and self.grow():
            pass

    @property
    def reached(self) -> int:
        """Characters of the text that lie ahead."""
        return len(self.text) - self.at

    def goes_on(self, length: int) -> bool:
        """Whether anything but white space stands behind the next so many characters."""
        while True:
            if end_of(SPACE.match(self.text, self.at + length)) < len(self.text):
                return True
            if self.ended or not self.grow():
                return False

    def line(self, at: int) -> int:
        return self.lines + self.text.count("\n", 0, at) + 1

    def skip_space(self) -> str:
        """The next character that is no white space, to which `at` moves; "" at the end."""
        while True:
            self.at = end_of(SPACE.match(self.text, self.at))
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
            size += utf8_size(part)
            text += part
            if size > MAX_ROW:
                text = text[:KEPT]
            if end >= 0 or not self.grow():
                return text if size <= MAX_ROW else too_long(text, size)


SPACE = re.compile(r"[ \t\r\n]*")  # of JSON: not U+00A0, not U+2028


def utf8_size(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())


def too_long(text: str, size: int) -> Unreadable:
    return Unreadable(f"{size:,} bytes, more than {MAX_ROW:,} in one row", text[:KEPT])


def lines_of(window: Window, newline: re.Pattern[str]) -> Iterator[str | Unreadable]:
    """Lines with their ends; of one that is too long, no more than the beginning is held."""

    def find_end(text: str, at: int) -> int:
        match = newline.search(text, at)
        return match.start() if match else -1

    while window.at < len(window.text) or window.grow():
        text, at = window.text, window.at
        for match in newline.finditer(text, at):  # lines that are whole in the text, which are nearly all
            if match.start() - at > MAX_ROW // 4:
                break
            line, at = text[at : match.end()], match.end()
            window.at = at
            yield line
            if window.text is not text:  # who took the line has read on
                break
        if window.text is not text or window.at == len(text):
            continue
        taken = window.take(find_end)
        end = newline.match(window.text, window.at)
        if end:
            window.at = end.end()
        yield taken if isinstance(taken, Unreadable) else taken + (end[0] if end else "")


def end_of(match: re.Match[str] | None) -> int:
    """Of a pattern that always matches, if only the empty text."""
    assert match
    return match.end()


def most_common(names: Iterable[str]) -> str:
    return Counter(names).most_common(1)[0][0]
