"""The end of a sweep: a table of every job, best validation loss first, and the page that compares the best."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ift.errors import IftError, one_line, warn
from ift.jobs import notes
from ift.pages.same_rows import differ, letters
from ift.run import RunFolder, read_object, write_text

COLUMNS = (
    "job", "choices", "val_loss", "best_step", "test_loss", "exact_match", "train_seconds", "test_rows", "status",
)  # fmt: skip


def sweep_table(folder: Path) -> list[dict[str, Any]]:
    """One dict with COLUMNS for each job folder, sorted by validation loss; jobs without one last.

    test_rows is the same letter for jobs that were tested on the same rows. A job that was refused in the folder of
    another run has none of that run's numbers.
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
    for row, letter in zip(rows, letters([RunFolder(job) for job in jobs]), strict=True):
        row["test_rows"] = letter
    return sorted(rows, key=lambda row: (row["val_loss"] is None, row["val_loss"] or 0.0))


def _of_its_kind(column: str, value: Any) -> Any:
    """A cell of the table; None where a damaged summary holds something else."""
    kind = str if column in ("choices", "status") else int | float
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
    print(f"\n{len(rows)} jobs, best validation loss first ({folder / 'sweep.csv'})")
    several = differ([row["test_rows"] for row in rows])
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    shown = [column for column in COLUMNS if column != "test_rows" or several]
    for column in shown:
        heading = "train\ns" if column == "train_seconds" else column.replace("_", "\n")
        table.add_column(heading, overflow="fold", no_wrap=column != "choices")
    for row, choices in zip(rows, without_groups(differing(rows)), strict=True):
        cells = {**row, "choices": Text(choices), "status": _one_word(row["status"])}
        table.add_row(*(_cell(cells[column]) for column in shown))
    Console().print(table)
    if several:
        print("test rows differ: only jobs of one letter can be compared (give all the same rows and data.split_seed)")
    for row in rows:
        if row["status"] != "finished":
            print(f"  job {row['job']} {row['status']}")
    write_comparison(folder, rows)


def write_comparison(folder: Path, rows: list[dict[str, Any]]) -> None:
    """Compare the jobs that came to an end, the best one first: it is what the others are held against."""
    from ift.pages.comparison import MOST_RUNS, compare

    named = zip(rows, differing(rows), strict=True)
    finished = [(row["job"], choices) for row, choices in named if row["status"] == "finished"][:MOST_RUNS]
    if len(finished) < 2:
        return
    page = folder / "compare.html"
    try:
        compare([folder / job for job, _ in finished], page, names=[" ".join(words) for words in finished])
    except IftError as error:
        print(f"  no comparison: {one_line(str(error))}")
    else:
        print(f"look at   {page}")


def _one_word(status: str) -> str:
    """Of a status, what the narrow column has room for: finished, failed, stopped ..."""
    return "damaged" if "damaged" in status else re.split(r":| by ", status)[0]


def _cell(value: Any) -> Any:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else value if isinstance(value, Text) else str(value)
