"""A table of a page, and the same table as CSV, Markdown and LaTeX: what is shown and what is exported are one thing.

Texts come from rows, models and names that anyone may have chosen. So none of the three holds a formula, markup or a
command that a text brought along, and what shows nothing or turns the text around is shown by its number.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ift.evaluation.people import harmless
from ift.run import write_text
from ift.text.printable import printable

NOTHING = "–"


@dataclass(frozen=True)
class Cell:
    """value: what is sorted and exported; text: what is shown; note: smaller, behind it; chip: a word with a colour.

    low and high are the 95 % interval of a number, where it has one. run: of the run that it names, its place.
    """

    value: float | str | None
    text: str
    note: str = ""
    chip: str = ""
    low: float | None = None
    high: float | None = None
    run: int | None = None

    @property
    def whole(self) -> str:
        """All that it says, on one line."""
        note = f"({self.note})" if self.text and self.note else self.note
        return " ".join(" ".join(filter(None, (self.text, note, self.chip))).split())

    @property
    def key(self) -> str:
        """What a page sorts by: a number, a text, or nothing."""
        return "" if self.value is None else repr(self.value) if isinstance(self.value, float) else str(self.value)


@dataclass(frozen=True)
class Column:
    """better: 1 where higher is better, -1 where lower is; a page sorts by the best first. numeric: of its cells."""

    title: str
    better: int = 0
    numeric: bool = False


@dataclass(frozen=True)
class Table:
    """name: of its files; title: what it is of."""

    name: str
    title: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]

    @property
    def exports(self) -> list[tuple[str, str, str]]:
        """(what it is called, the ending of its file, text)."""
        return [("CSV", "csv", self.csv()), ("Markdown", "md", self.markdown()), ("LaTeX", "tex", self.latex())]

    def csv(self) -> str:
        """Numbers in full; a column whose cells have intervals is three columns."""
        spread = [any(row[i].low is not None for row in self.rows) for i in range(len(self.columns))]
        out = io.StringIO()
        writer = csv.writer(out)  # its own line ends: with "\n" alone, a cell's "\r" would not be quoted
        header: list[str] = []
        for column, three in zip(self.columns, spread, strict=True):
            header += [column.title, *([f"{column.title} low", f"{column.title} high"] if three else [])]
        writer.writerow([harmless(printable(title)) for title in header])
        for row in self.rows:
            cells: list[str] = []
            for cell, three in zip(row, spread, strict=True):
                cells += [_plain(cell.value), *([_plain(cell.low), _plain(cell.high)] if three else [])]
            writer.writerow(cells)
        return out.getvalue()

    def markdown(self) -> str:
        """GitHub's tables."""
        lines = [[column.title for column in self.columns], *([cell.whole for cell in row] for row in self.rows)]
        texts = ["| " + " | ".join(map(as_markdown, line)) + " |" for line in lines]
        rule = "|" + "|".join(" ---: " if column.numeric else " --- " for column in self.columns) + "|"
        return "\n".join([texts[0], rule, *texts[1:]]) + "\n"

    def latex(self) -> str:
        """A tabular with the rules of booktabs."""
        form = "".join("r" if column.numeric else "l" for column in self.columns)
        lines = [[column.title for column in self.columns], *([cell.whole for cell in row] for row in self.rows)]
        texts = [" & ".join(map(as_latex, line)) + r" \\" for line in lines]
        head = [r"% \usepackage{booktabs}", rf"\begin{{tabular}}{{{form}}}", r"\toprule"]
        return "\n".join([*head, texts[0], r"\midrule", *texts[1:], r"\bottomrule", r"\end{tabular}"]) + "\n"


def write_tables(folder: Path, tables: Sequence[Table]) -> None:
    """FOLDER/NAME.csv, NAME.md and NAME.tex of each table."""
    folder.mkdir(parents=True, exist_ok=True)
    for table in tables:
        for _, ending, text in table.exports:
            write_text(folder / f"{table.name}.{ending}", text)


def text_cell(text: str, *, run: int | None = None) -> Cell:
    return Cell(text, text or NOTHING, run=run)


def number_cell(value: float | None, form: str) -> Cell:
    """A number as format() writes it, or a dash; what is no finite number is none."""
    if value is None or not math.isfinite(value):
        return Cell(None, NOTHING)
    return Cell(float(value), format(value, form))


def _plain(value: float | str | None) -> str:
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return ""
    return harmless(printable(value)) if isinstance(value, str) else f"{value:.10g}"


MARKDOWN = re.compile(r"([\\`*_{}\[\]#|~$])")


def as_markdown(text: str) -> str:
    """One line that Markdown shows as it is: no markup, no HTML, no link."""
    line = " ".join(printable(text).split())
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    line = re.sub(r"(?i)(https?|ftp|mailto):", r"\1&#58;", MARKDOWN.sub(r"\\\1", line))  # else GitHub makes a link
    return re.sub(r"(?i)\bwww\.", "www&#46;", line).replace("@", "&#64;")


LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "%": r"\%", "_": r"\_",
    "^": r"\textasciicircum{}", "~": r"\textasciitilde{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': r"\textquotedbl{}", "`": r"\textasciigrave{}", "−": r"$-$", NOTHING: "--",
    "[": "{[}", "]": "{]}",  # behind \\ a bracket would be a length
}  # fmt: skip


def as_latex(text: str) -> str:
    """One line that LaTeX sets as it is: no command, no comment, no end of the cell."""
    line = re.sub(r"(?<![\w)])-(?=\d)", "−", " ".join(printable(text).split()))  # before a number it is a minus
    return "".join(LATEX.get(character, character) for character in line)
