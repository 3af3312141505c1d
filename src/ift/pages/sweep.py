"""The end of a sweep: a table of every job, best validation loss first, and the page that compares the best of them."""

from __future__ import annotations

import csv
import io
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table as TerminalTable
from rich.text import Text

from ift.errors import IftError, one_line, warn
from ift.jobs import notes
from ift.pages.alike import differ, letters, tokenizers
from ift.pages.plots import finite, log_ticks, round_ticks
from ift.pages.tables import Cell, Column, Table, number_cell, text_cell
from ift.run import RunFolder, read_object, write_text

COLUMNS = (
    "job", "choices", "val_loss", "best_step", "test_loss", "exact_match", "train_seconds", "test_rows", "status",
    "tokenizer", "val_bits_per_byte", "test_bits_per_byte",
)  # fmt: skip
TOKENS = COLUMNS[-3:]  # shown where jobs have not one tokenizer
BY = {"val_loss": "validation loss", "val_bits_per_byte": "validation bits per byte"}


def sweep_table(folder: Path) -> list[dict[str, Any]]:
    """One dict with COLUMNS for each job folder, sorted by validation loss; jobs without one last.

    Where jobs have not one tokenizer, bits per byte of the validation rows decide, if all jobs that have a loss have
    them. test_rows is the same letter for jobs that were tested on the same rows. A job that was refused in the folder
    of another run has none of that run's numbers.
    """
    rows, ended = [], notes(folder)
    jobs = [path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")]  # .submitit
    jobs.sort(key=lambda p: (len(p.name), p.name))
    for job in jobs:
        summary, problems = read_object(job / "summary.json", advice="look at the run's folder")
        for each in problems:
            warn(each)
        note = ended.get(job.name)
        if note and note.code and summary.get("choices") != note.choices:  # it did not come to write one
            summary = {"status": note.status, "choices": note.choices}
        row = {column: _of_its_kind(column, summary.get(column)) for column in COLUMNS}
        row["status"] = row["status"] or ("summary.json is damaged" if problems or summary else "no summary")
        rows.append({**row, "job": job.name})
    runs = [RunFolder(job) for job in jobs]
    for row, letter, tokenizer in zip(rows, letters(runs), tokenizers(runs), strict=True):
        row["test_rows"], row["tokenizer"] = letter, tokenizer
    key = sorted_by(rows) or "val_loss"
    return sorted(rows, key=lambda row: (row[key] is None, row[key] or 0.0))


def sorted_by(rows: Sequence[Mapping[str, Any]]) -> str | None:
    """The number that says which job is best; None where tokenizers differ and bits per byte are not known of all."""
    if not differ([row["tokenizer"] for row in rows]):
        return "val_loss"
    measured = [row["val_bits_per_byte"] for row in rows if row["val_loss"] is not None]
    return "val_bits_per_byte" if measured and None not in measured else None


def _of_its_kind(column: str, value: Any) -> Any:
    """A cell of the table; None where a damaged summary holds something else."""
    kind = str if column in ("choices", "status", "tokenizer") else int | float
    return value if isinstance(value, kind) else None


def differing(rows: list[dict[str, Any]]) -> list[str]:
    """Of each job's overrides, those that not all jobs have: what the sweep is about."""
    choices = [(row["choices"] or "").split() for row in rows]
    shared = set.intersection(*(set(words) for words in choices)) if choices else set()
    return [" ".join(_short(word) for word in words if word not in shared) for words in choices]


def _short(override: str) -> str:
    """optim.lr=0.0024111449122 -> optim.lr=0.002411"""
    key, _, value = override.partition("=")
    return f"{key}={float(value):.4g}" if re.fullmatch(r"\d*\.\d{5,}(e-?\d+)?", value) else override


def without_groups(choices: list[str]) -> list[str]:
    """optim.lr=0.1 -> lr=0.1 as long as no other key of the sweep ends so: the table is narrow."""
    keys = {word.partition("=")[0] for words in choices for word in words.split()}
    last = Counter(key.rpartition(".")[2] for key in keys)

    def short(word: str) -> str:
        name = word.partition("=")[0].rpartition(".")[2]
        return word[word.index(name) :] if last[name] == 1 and "=" in word else word

    return [" ".join(short(word) for word in words.split()) for words in choices]


def show_sweep(folder: Path) -> None:
    """Print the table; write it as sweep.csv, and the page that compares the best jobs, into the sweep's folder."""
    if not folder.is_dir():
        return
    rows = sweep_table(folder)
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS)
    writer.writeheader()
    writer.writerows(rows)
    write_text(folder / "sweep.csv", text.getvalue())
    print(f"\n{len(rows)} jobs, {_order(sorted_by(rows))} ({folder / 'sweep.csv'})")
    several, other_tokens = differ([row["test_rows"] for row in rows]), differ([row["tokenizer"] for row in rows])
    table = TerminalTable(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    left_out = {*(() if several else ("test_rows",)), *(("test_loss",) if other_tokens else TOKENS)}
    shown = [column for column in COLUMNS if column not in left_out]
    for column in shown:
        heading = "train\ns" if column == "train_seconds" else column.replace("_", "\n")
        table.add_column(heading, overflow="fold", no_wrap=column not in ("choices", "tokenizer"))
    for row, choices in zip(rows, without_groups(differing(rows)), strict=True):
        cells = {**row, "choices": Text(choices), "status": _one_word(row["status"])}
        table.add_row(*(_cell(cells[column]) for column in shown))
    Console().print(table)
    if several:
        print("test rows differ: only jobs of one letter can be compared (give all the same rows and data.split_seed)")
    if other_tokens:
        print("tokenizers differ: losses per token of one tokenizer alone can be compared, bits per byte of all")
    for row in rows:
        if row["status"] != "finished":
            print(f"  job {row['job']} {row['status']}")
    write_comparison(folder, rows)


def _order(by: str | None) -> str:
    """What the first line says of the order."""
    return f"best {BY[by]} first" if by else "by validation loss, which is no order of merit: tokenizers differ"


def write_comparison(folder: Path, rows: list[dict[str, Any]]) -> None:
    """Compare the jobs that came to an end, the best one first: it is what the others are held against."""
    from ift.pages.comparison import compare
    from ift.pages.runs import MOST_RUNS

    named = zip(rows, differing(rows), strict=True)
    finished = [(row["job"], choices) for row, choices in named if row["status"] == "finished"][:MOST_RUNS]
    if len(finished) < 2:
        return
    page = folder / "compare.html"
    names = [" ".join(words) for words in finished]
    try:
        compare([folder / job for job, _ in finished], page, names=names, jobs=job_table(rows), plots=plots(rows))
    except IftError as error:
        print(f"  no comparison: {one_line(str(error))}")
    else:
        print(f"look at   {page}")


# -- what the page has of all jobs -----------------------------------------------------------------------------------

WIDTH, HEIGHT = 320, 190  # of a drawing
MOST_PLOTS = 12
NUMBERS = {"val_loss": -1, "best_step": 0, "test_loss": -1, "exact_match": 1, "train_seconds": 0}  # which is better
IN_BYTES = {"val_bits_per_byte": -1, "test_bits_per_byte": -1}


def varied(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[str | None]]:
    """Each setting that is not the same for all jobs, with each job's value as it was typed; None where it has none."""
    typed = [dict(word.partition("=")[::2] for word in (row["choices"] or "").split()) for row in rows]
    values = {
        key: [words.get(key) for words in typed] for key in dict.fromkeys(key for words in typed for key in words)
    }
    return {key: each for key, each in values.items() if len(set(each)) > 1}


def as_number(text: str | None) -> float | None:
    """Of a setting, or None for a word."""
    try:
        return finite(float(text)) if text is not None else None
    except ValueError:
        return None


def job_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """A line for each job: the settings in which jobs differ, a column each, and what came of them."""
    settings = varied(rows)
    are_numbers = {
        key: all(as_number(v) is not None for v in values if v is not None) for key, values in settings.items()
    }
    several, other_tokens = differ([row["test_rows"] for row in rows]), differ([row["tokenizer"] for row in rows])
    numbers = {**NUMBERS, "val_loss": 0, "test_loss": 0, **IN_BYTES} if other_tokens else NUMBERS
    columns = [Column("job"), *(Column(key, 0, are_numbers[key]) for key in settings)]
    columns += [Column(name.replace("_", " "), better, True) for name, better in numbers.items()]
    columns += [Column("test rows")] if several else []
    columns += [Column("tokenizer")] if other_tokens else []
    lines = []
    for i, row in enumerate(rows):
        cells = [text_cell(row["job"])]
        for key, values in settings.items():
            value = values[i]
            number = as_number(value) if are_numbers[key] else None
            cells.append(text_cell(value or "") if number is None else Cell(number, value or ""))
        cells += [number_cell(row[name], ".4g") for name in numbers]
        cells += [text_cell(row["test_rows"])] if several else []
        cells += [text_cell(row["tokenizer"])] if other_tokens else []
        lines.append([*cells, text_cell(row["status"])])
    return Table("jobs", f"All {len(rows)} jobs", [*columns, Column("status")], lines)


def plots(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Validation loss, or bits per byte, over each setting in which jobs differ, each of WIDTH x HEIGHT.

    None where jobs have not one tokenizer and bits per byte are not known of all.
    """
    by = sorted_by(rows)
    if by is None:
        return []
    losses = [finite(row[by]) for row in rows]
    found = [_plot(key, values, losses, rows, what=BY[by]) for key, values in varied(rows).items()]
    return [plot for plot in found if plot][:MOST_PLOTS]


def _plot(
    key: str,
    values: Sequence[str | None],
    losses: Sequence[float | None],
    rows: Sequence[Mapping[str, Any]],
    *,
    what: str,
) -> dict[str, Any] | None:
    points = [
        (value, loss, row)
        for value, loss, row in zip(values, losses, rows, strict=True)
        if value is not None and loss is not None
    ]
    if len({value for value, _, _ in points}) < 2:
        return None
    numbers = [as_number(value) for value, _, _ in points]
    if None in numbers:
        names = list(dict.fromkeys(value for value, _, _ in points))
        across = _Axis([0.5 + names.index(value) for value, _, _ in points], WIDTH, 0, len(names))
        x_ticks = [(across.place(0.5 + i), one_line(name, 60 // len(names) + 3)) for i, name in enumerate(names)]
    else:
        across = _Axis([number for number in numbers if number is not None], WIDTH)
        x_ticks = [(across.place(tick), f"{tick:g}") for tick in across.ticks(4)]
    up = _Axis([loss for _, loss, _ in points], HEIGHT)
    return {
        "title": f"{what} over {key}",
        "width": WIDTH,
        "height": HEIGHT,
        "x_ticks": x_ticks,
        "y_ticks": [(round(HEIGHT - up.place(tick), 1), f"{tick:g}") for tick in up.ticks(6)],
        "points": [
            (across.place(x), round(HEIGHT - up.place(loss), 1), f"job {row['job']}: {key}={value}, {loss:.4g}")
            for x, (value, loss, row) in zip(across.values, points, strict=True)
        ],
    }


class _Axis:
    """Numbers on a line of some length, logarithmic where they span more than a factor of 20."""

    def __init__(self, values: Sequence[float], length: float, low: float | None = None, high: float | None = None):
        self.values, self.length = values, length
        least, most = min(values) if low is None else low, max(values) if high is None else high
        self.logarithmic = least > 0 and most / least > 20
        span = self._of(most) - self._of(least)
        room = 0.0 if low is not None else span * 0.08 or abs(self._of(most)) * 0.1 or 1.0
        self.begin, self.end = self._of(least) - room, self._of(most) + room

    def _of(self, value: float) -> float:
        return math.log10(value) if self.logarithmic else value

    def place(self, value: float) -> float:
        return round((self._of(value) - self.begin) / (self.end - self.begin) * self.length, 1)

    def ticks(self, most: int) -> Iterator[float]:
        if not self.logarithmic:
            yield from round_ticks(self.begin, self.end, most)
            return
        ticks = log_ticks(10**self.begin, 10**self.end)
        powers = [tick for tick in ticks if math.log10(tick) == round(math.log10(tick))]
        yield from powers if len(powers) > 1 and len(ticks) > most else ticks


def _one_word(status: str) -> str:
    """Of a status, what the narrow column has room for: finished, failed, stopped ..."""
    return "damaged" if "damaged" in status else re.split(r":| by ", status)[0]


def _cell(value: Any) -> Any:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else value if isinstance(value, Text) else str(value)
