"""What quotes mean in a table: signs that hold a text together, or characters as others are.

In CSV a quote at the beginning of a field means that the text goes on to the next quote, over commas and line breaks.
In text separated by tabs it may be so too (Excel and pandas write it), or it may mean nothing; read the wrong way,
lines vanish inside a field. So the lines themselves are asked, from the first one with a quote on.
"""

from __future__ import annotations

import re
from collections import Counter

from ift.errors import DataError

NEWLINE = re.compile("\r\n?|\n")
ADVICE = "put quotes round all texts that hold one and double those inside, or save the table as JSONL"


class Evidence:
    """What lines say. The numbers are those of lines, 0 for none.

    sign: a text between quotes that needs them: it holds a delimiter, a line break or a doubled quote
    character: a quote that opens a field which nothing closes, or that swallows lines each of which is a row by itself
    """

    def __init__(self, text: str, delimiter: str, columns: int, line: int, *, ends: bool):
        """text: whole lines from number `line` on; ends: there is nothing behind them."""
        self.text, self.delimiter, self.columns, self.ends = text, delimiter, columns, ends
        self.sign = self.character = self.swallowed = 0
        self.needless: Counter[int] = Counter()  # texts between quotes that need none, by column
        self.bare: Counter[int] = Counter()  # texts without quotes round them, by column
        self.with_comma = self.bare_comma = self.bare_quote = self.empty = 0
        self._read(line)

    def _read(self, line: int) -> None:
        mark = re.escape(self.delimiter)
        between = re.compile(rf'"((?:[^"]++|"")*+)"(?=[{mark}\r\n]|\Z)')
        bare = re.compile(rf"[^{mark}\r\n]*+")
        text, at, begin, place = self.text, 0, 0, 0  # begin, place: of this record and of the field in it
        while at < len(text):
            start, quoted = at, between.match(text, at) if text[at] == '"' else None
            if quoted:
                self._between(quoted, begin, place, line)
                at = quoted.end()
            else:
                if text[at] == '"' and self._opens_nothing(begin, at):
                    self.character = self.character or line
                match = bare.match(text, at)
                at = match.end() if match else at
                self._bare(text[start:at], place)
            newline = NEWLINE.match(text, at)
            line += sum(1 for _ in NEWLINE.finditer(text, start, at)) + bool(newline)
            at = newline.end() if newline else at + 1
            begin, place = (at, 0) if newline else (begin, place + 1)
            if self.sign and (self.character or self.delimiter in ",;"):
                return

    def _between(self, quoted: re.Match[str], begin: int, place: int, line: int) -> None:
        inner = quoted[1]
        if "\n" in inner or "\r" in inner:
            lines = self._lines(begin, quoted.end())
            if '""' not in inner and self._are_rows(lines):
                self.character = self.character or line
                self.swallowed = self.swallowed or line + len(lines) - 1
            else:
                self.sign = self.sign or line
        elif self.delimiter in inner or '""' in inner:
            self.sign = self.sign or line
        elif not inner:
            self.empty += 1
        else:
            self.needless[place] += 1
            self.with_comma += "," in inner

    def _bare(self, field: str, place: int) -> None:
        if field.strip():
            self.bare[place] += 1
            self.bare_comma += "," in field
            self.bare_quote += '"' in field

    def _opens_nothing(self, begin: int, at: int) -> bool:
        """Whether the quote at `at` is a character: the lines up to its pair, or all lines, are rows without it."""
        closing = self.text.find('"', at + 1)
        if closing >= 0:
            return self._are_rows(self._lines(begin, closing))
        lines = self._lines(begin, len(self.text))
        return self._are_rows(lines) and (self.ends or len(lines) > 2)  # a long text may go on in what is not seen

    def _lines(self, begin: int, at: int) -> list[str]:
        """Lines from that which begins at `begin` to that in which `at` lies."""
        end = NEWLINE.search(self.text, at)
        return NEWLINE.split(self.text[begin : end.start() if end else len(self.text)].rstrip("\r\n"))

    def _are_rows(self, lines: list[str]) -> bool:
        return all(line.count(self.delimiter) == self.columns - 1 for line in lines)


def are_signs(evidence: Evidence, place: str, *, quoted_header: bool, from_first_row: bool) -> bool:
    """Whether quotes hold texts together. Raises DataError, which begins with `place`, where that cannot be told.

    quoted_header: the names of all columns stand between quotes; from_first_row: the evidence begins at the first row.
    """
    if evidence.sign and evidence.character:
        raise conflict(place, evidence.character, evidence.sign)
    if evidence.delimiter in ",;":
        if evidence.swallowed and not (evidence.needless or quoted_header):
            lines = f"lines up to {evidence.swallowed}, each a row by itself"
            what = f"the quote in line {evidence.character} swallows {lines}"
            raise DataError(f'{place}: {what} (close it; a quote that is meant stands twice: "")')
        return True
    if evidence.sign or evidence.character:
        return bool(evidence.sign)
    if quoted_header or (
        from_first_row and any(n > 1 and not evidence.bare[at] for at, n in evidence.needless.items())
    ):
        return True
    # Excel puts quotes round each text with a comma or a quote, and round no other
    others = sum(evidence.needless.values()) - evidence.with_comma
    if evidence.with_comma:
        return not (others or evidence.bare_comma or evidence.bare_quote)
    return bool(evidence.empty) and not (others or evidence.bare_quote)  # "" for an empty text, and nothing else


def conflict(place: str, character: int, sign: int) -> DataError:
    return DataError(
        f"{place}: the quote in line {character} is a character, that in line {sign} holds a text together ({ADVICE})"
    )


def refuse_sign(place: str, text: str, delimiter: str, columns: int, line: int) -> None:
    """Raise DataError where a line with a quote does not fit a table whose quotes are characters."""
    if text.count(delimiter) != columns - 1:
        what = f"line {line} holds a quote and has {text.count(delimiter) + 1} of {columns} columns"
        raise DataError(f"{place}: {what}, though quotes mean nothing above ({ADVICE})")
    if '""' in text:
        evidence = Evidence(text, delimiter, columns, line, ends=True)
        if evidence.sign and not evidence.character:
            what = f"line {line} doubles a quote inside a text, though quotes mean nothing above"
            raise DataError(f"{place}: {what} ({ADVICE})")


def refuse_character(place: str, lines: list[str], delimiter: str, columns: int, line: int) -> None:
    """Raise DataError where a record over several lines does not fit a table whose quotes hold texts together."""
    if all(text.count(delimiter) == columns - 1 for text in lines) and not any('""' in text for text in lines):
        what = f"the quote in line {line} swallows lines up to {line + len(lines) - 1}, each a row by itself"
        raise DataError(f"{place}: {what} ({ADVICE})")
