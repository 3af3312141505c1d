"""Records of tables: CSV, TSV, text separated by semicolons or bars, Markdown.

What a table is stands in it, not in its name: what separates its columns, whether its first line has their names, what
quotes mean (quotes.py).
"""

from __future__ import annotations

import csv
import itertools
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ift.data.reading.json_layouts import INTEGER, ROW_NAMES
from ift.data.reading.quotes import NEWLINE, Evidence, are_signs, refuse_character, refuse_sign
from ift.data.reading.window import MAX_ROW, Unreadable, Window, lines_of, most_common, too_long, utf8_size
from ift.errors import DataError

DELIMITERS = "\t,;|"
SAMPLE = 2**18  # characters that tell how a table is written
QUOTED = 2**16  # characters from the first quote on that tell what quotes mean
LINES = 200  # of them that are split to see it


def check_columns(path: Path, names: Sequence[str]) -> None:
    if "" in names:
        raise DataError(f"{path}:1: column {names.index('') + 1} has no name (name it, or save without the index)")
    if len(set(names)) < len(names):
        raise DataError(f'{path}:1: the column "{most_common(names)[:40]}" stands twice (rename one)')


def no_rows(path: Path) -> DataError:
    return DataError(f"{path}: no rows (it has columns, and nothing in them)")


def unless_too_long(record: dict[str, Any]) -> dict[str, Any] | Unreadable:
    size = sum(utf8_size(value) for value in record.values() if isinstance(value, str))
    return too_long(json.dumps(record, ensure_ascii=False, default=str), size) if size > MAX_ROW else record


# ----------------------------------------------------------------------------------------------------------------------
# how a table is written


@dataclass(frozen=True)
class Style:
    """How a table is written."""

    delimiter: str
    declared: bool = False  # by a first line sep=;
    padded: bool = False  # a blank behind each delimiter belongs to no field
    markdown: bool = False
    index: bool = False  # the first column has the numbers of pandas' rows, and no name of its own


def style_of(window: Window, path: Path, *, named: bool) -> Style | None:
    """How the table is written that the window stands before, or None if it is none.

    named: it is called a table, so that one column is enough. Raises DataError where it is one without a header.
    """
    lines = _first_lines(window)
    if not lines:  # the first one is very long
        return Style(",") if named else None
    if re.fullmatch('sep=[^"]', lines[0], re.IGNORECASE):  # Excel's way to say it
        return Style(lines[0][4], declared=True)
    if len(lines) > 1 and "|" in lines[0] and "|" in lines[1] and RULE.fullmatch(lines[1]):
        return Style("|", markdown=True)
    delimiter, alike = _delimiter(lines)
    records = _split(lines, delimiter or ",")
    marks = delimiter if alike >= 0.5 else DELIMITERS  # of the title's line, or of the lines below it
    title = next((place for mark in marks if (place := _header_below(_split(lines, mark)))), 0)
    names = {cell.strip('" ').lower() for cell in re.split(r"[\t,;|]", lines[title])}
    if title and (named or ROW_NAMES & names):
        what = f"a title above the table, whose columns' names stand in line {_number(window, title)}"
        raise DataError(f"{path}:1: {what} (delete what stands above that line)")
    if not delimiter or alike < 0.5:
        return Style(delimiter or ",", padded=_fits_padded(lines, delimiter or ",")) if named else None
    if _is_headerless(records) and (named or (alike >= 0.9 and len(lines) > 2)):
        example = {2: "instruction, output", 3: "instruction, input, output"}.get(len(records[0]), "one for each")
        what = f"no header: the first line reads like a row and has no names for its {len(records[0])} columns"
        raise DataError(f"{path}:1: {what} (put a line with them above it: {example})")
    if not named and not all(len(cell) <= 60 and not _is_data(cell) for cell in records[0]):
        return None
    first = [record[0] for record in records[1:] if record]
    return Style(
        delimiter,
        padded=all(cell.startswith(" ") for cell in records[0][1:]) or _fits_padded(lines, delimiter),
        index=records[0][0].strip() in ("", "Unnamed: 0") and bool(first) and all(map(INTEGER.fullmatch, first)),
    )


RULE = re.compile(r"\s*\|?(\s*:?-+:?\s*\|)*\s*:?-*:?\s*")  # |---|:-:|
SENTENCE_ENDS = (".", "?", "!", "。", "？", "！")


def _first_lines(window: Window) -> list[str]:
    window.reach(SAMPLE)
    lines = NEWLINE.split(window.text[window.at : window.at + SAMPLE])
    if window.reached > SAMPLE or not window.ended:
        lines.pop()  # it goes on
    return [line for line in lines if line.strip()][:LINES]


def _number(window: Window, place: int) -> int:
    """The number of the line at this place (from 0) of those that are not blank."""
    lines = NEWLINE.split(window.text[window.at : window.at + SAMPLE])
    return [number for number, line in enumerate(lines, start=1) if line.strip()][place]


def _fits_padded(lines: Sequence[str], delimiter: str) -> bool:
    """Whether all records are as long as the header only if a blank before a quote belongs to no field: a, "b, c"."""
    if delimiter not in ",;" or not any(delimiter + ' "' in line for line in lines):
        return False
    columns = len(_split(lines[:1], delimiter)[0])
    as_they_are, padded = (_split(lines, delimiter, padded=padded) for padded in (False, True))
    return any(len(record) > columns for record in as_they_are) and all(len(record) <= columns for record in padded)


def _split(lines: Sequence[str], delimiter: str, *, padded: bool = False) -> list[list[str]]:
    """Records of lines, in the way of CSV."""
    try:
        reader = csv.reader((line + "\n" for line in lines), delimiter=delimiter, skipinitialspace=padded)
        return [record for record in reader if record]
    except csv.Error:  # a quote that swallows all the rest
        return [line.split(delimiter) for line in lines]


def _delimiter(lines: Sequence[str]) -> tuple[str, float]:
    """What separates columns ("" for nothing), and how many records have as many of them as the header."""
    best, most = "", (0.0, 0)
    for delimiter in DELIMITERS:
        counts = [len(record) for record in _split(lines, delimiter)]
        if counts[0] > 1:
            alike = counts.count(counts[0]) / len(counts)
            best, most = max((best, most), (delimiter, (round(alike, 1), counts[0])), key=lambda each: each[1])
    return best, most[0]


def _is_data(cell: str) -> bool:
    """Whether a cell reads like what stands in rows, not like a name: a sentence, JSON, a long text."""
    cell = cell.strip()
    return len(cell) > 60 or cell.endswith(SENTENCE_ENDS) or cell.startswith(("{", "["))


def _is_headerless(records: Sequence[Sequence[str]]) -> bool:
    """Whether the first record reads like those below it. A survey has questions as names, and no questions below."""
    header, rest = records[0], records[1:]
    if not rest or ROW_NAMES & {cell.strip().lower() for cell in header}:
        return False
    for place, cell in enumerate(header):
        column = [record[place] for record in rest if len(record) > place and record[place].strip()]
        if _is_data(cell) and sum(map(_is_data, column)) >= max(1, len(column) / 2):
            return True
    return False


def _header_below(records: Sequence[Sequence[str]]) -> int:
    """The place (from 0) of the names of columns where a title stands above them, else 0."""
    filled = [sum(bool(cell.strip()) for cell in record) for record in records]
    place = next((at for at, cells in enumerate(filled[1:6], start=1) if cells > 1), 0)
    columns, below = len(records[place]), records[place + 1 :]
    if (
        not place
        or not below
        or records[0][0].strip().lower() in ROW_NAMES
        or (filled[0] > 1 and len(records[0]) >= columns)
    ):
        return 0
    names = filled[place] >= max(2, columns - 1) and not any(map(_is_data, records[place]))
    return place if names and sum(len(record) == columns for record in below) >= 0.9 * len(below) else 0


# ----------------------------------------------------------------------------------------------------------------------
# rows


class _Lines:
    """Lines of a table with their ends, counted. Each of its iterators goes on where the one before it ended."""

    def __init__(self, window: Window):
        self.window, self.number = window, window.line(window.at) - 1  # of the last line that was given
        self.begin = self.number  # of the last line before this record
        self.record: list[str] = []  # its lines
        self._lines = lines_of(window, NEWLINE)
        self._held: str | None = None
        self.comma = False  # whether one stands before the first quote

    def all(self, *, kept: bool = False) -> Iterator[str]:
        """Each line that is left. kept: put into `record` too."""
        if self._held is not None:
            line, self._held = self._held, None
            self.number += 1
            if kept:
                self.record.append(line)
            yield line
        for each in self._lines:
            if isinstance(each, Unreadable):
                raise csv.Error("field larger than the limit")  # in the reader's words
            self.number += 1
            if kept:
                self.record.append(each)
            yield each

    def until_a_quote(self) -> Iterator[str]:
        for line in self.all():
            if '"' in line:
                self._held, self.number = line, self.number - 1
                return
            self.comma = self.comma or "," in line
            yield line

    def sample(self) -> tuple[str, bool]:
        """Whole lines that come next, and whether they are all that do."""
        self.window.reach(QUOTED)
        ahead = self.window.text[self.window.at : self.window.at + QUOTED]
        ends = self.window.ended and self.window.reached <= QUOTED
        text = (self._held or "") + ahead
        return (text, True) if ends else (text[: max(text.rfind("\n"), text.rfind("\r")) + 1], False)


def table_records(window: Window, path: Path, style: Style) -> Iterator[tuple[int, Any]]:
    """Each row of the table by the names of its columns, from 1 on. What a row does not reach is None."""
    lines, number = _Lines(window), 0
    csv.field_size_limit(MAX_ROW)
    try:
        if style.declared:
            next(lines.all(), "")
        rows = _markdown_rows(lines, path) if style.markdown else _rows(lines, path, style)
        header = next(rows, [])
        names = _names(header, path, style)
        columns, lines.begin = len(names), lines.number
        for row in rows:
            if len(row) != columns:
                if not row:
                    continue
                if any(cell.strip() for cell in row[columns:]):
                    raise DataError(f"{path}:{number + 1}: {_more(style, row, columns, len(header))}")
                row = [*row[:columns], *itertools.repeat(None, columns - len(row))]
            if not row[0].strip() and not any(cell and cell.strip() for cell in row):
                continue  # Excel writes ,, for a blank line
            number += 1
            if row == header:
                raise DataError(f"{path}:{number}: the header stands here again (take this line out)")
            yield number, unless_too_long(dict(zip(names, row, strict=True)))
            lines.begin = lines.number
    except csv.Error as error:
        line = lines.begin + 1
        if "field larger" in str(error):
            what = f"a line or field of more than {MAX_ROW:,} bytes from line {line} on (is a quote not closed?)"
        else:
            what = f"broken CSV from line {line} on: {error} (is a quote not closed, or one inside a text not doubled?)"
        raise DataError(f"{path}:{number + 1}: {what}") from error
    if not number:
        raise no_rows(path)


def _more(style: Style, row: Sequence[str], columns: int, named: int) -> str:
    """What is wrong with a row of more than so many columns. named: cells of the header, those without a name too."""
    if any(cell.strip() for cell in row[columns:named]) and not any(cell.strip() for cell in row[named:]):
        return f"column {columns + 1} holds text and has no name in the header (name it there, or take it out)"
    if style.markdown:
        advice = r"write \| for a bar in a text"
    elif style.delimiter not in ",;":
        advice = "does a text hold a delimiter? save the table as JSONL"
    elif any(cell.startswith(' "') for cell in row):
        advice = "take out the blank before a quote"
    else:
        advice = "quote the text"
    return f"more columns than the header has ({advice})"


def _names(header: Sequence[str], path: Path, style: Style) -> list[str]:
    """Names of columns without white space round them. Columns at the end without a name must stay empty."""
    names = [name.strip() for name in header]
    while len(names) > 1 and not names[-1]:
        names.pop()
    if style.index and "index" not in names:
        names[0] = "index"
    check_columns(path, names)
    return names


def _rows(lines: _Lines, path: Path, style: Style) -> Iterator[list[Any]]:
    """The header and the rows as lists. Until the first quote it does not matter what a quote means."""
    mark, number = style.delimiter, -1  # rows so far, the header not counted
    columns = 0
    for row in csv.reader(lines.until_a_quote(), delimiter=mark, quoting=csv.QUOTE_NONE, skipinitialspace=style.padded):
        columns = columns or len(row)
        number += bool(row)
        yield _unpadded(row, style)
    text, ends = lines.sample()
    if not text:
        return
    if not columns:  # quotes in the header
        columns = len(_split(NEWLINE.split(text, 1)[:1], mark)[0])
    quoted_header = number < 0 and text.count('"', 0, _end_of_line(text)) >= 2 * columns
    place = f"{path}:{max(1, number + 1)}"
    evidence = Evidence(text, mark, columns, lines.number + 1, ends=ends)
    evidence.bare_comma += lines.comma
    signs = are_signs(evidence, place, quoted_header=quoted_header, from_first_row=number <= 0)
    literal = {} if signs else {"quoting": csv.QUOTE_NONE}
    # strict: a quote that nothing closes is an error here, and not one field that swallows all rows after it
    reader = csv.reader(
        lines.all(kept=mark not in ",;"),
        delimiter=mark,
        strict=True,
        skipinitialspace=style.padded,
        **literal,  # type: ignore[arg-type]
    )
    for row in reader:
        number += bool(row)
        if lines.record:
            place, first = f"{path}:{max(1, number)}", lines.number - len(lines.record) + 1
            if not signs and '"' in lines.record[0]:
                refuse_sign(place, lines.record[0].rstrip("\r\n"), mark, columns, first)
            elif signs and len(lines.record) > 1:
                refuse_character(place, lines.record, mark, columns, first)
            lines.record.clear()
        yield _unpadded(row, style)


def _unpadded(row: list[str], style: Style) -> list[str]:
    return [cell.strip(" ") for cell in row] if style.padded and style.delimiter == "|" else row


def _end_of_line(text: str) -> int:
    match = NEWLINE.search(text)
    return match.start() if match else len(text)


def _markdown_rows(lines: _Lines, path: Path) -> Iterator[list[Any]]:
    r"""Cells of a table in Markdown, without the bars and blanks round them; \| is a bar in a text."""
    number = -1  # of the row, 0 being the header
    for place, line in enumerate(lines.all()):
        text = line.strip()
        if place == 1 or not text:
            continue  # |---|---|
        if "|" not in text:
            raise DataError(f"{path}:{max(1, number)}: line {lines.number} is no row of the table (take it out)")
        number += 1
        text = text.removeprefix("|")
        if text.endswith("|") and not text.endswith(r"\|"):
            text = text[:-1]
        yield [cell.strip().replace(r"\|", "|") for cell in re.split(r"(?<!\\)\|", text)]
