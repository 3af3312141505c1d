"""The end of a sweep: a table of every job, best validation loss first, and the page that compares the best."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path
from typing import Any

from ift.errors import IftError, one_line, warn
from ift.run import read_object, write_text

COLUMNS = ("job", "choices", "val_loss", "best_step", "test_loss", "exact_match", "train_seconds", "status")


def sweep_table(folder: Path) -> list[dict[str, Any]]:
    """One dict with COLUMNS for each job folder, sorted by validation loss; jobs without one last."""
    rows = []
    for job in sorted(
        (path for path in folder.iterdir() if path.is_dir() and path.name[0] != "."),
        key=lambda p: (len(p.name), p.name),
    ):
        summary, problems = read_object(job / "summary.json", advice="look at the run's folder")
        for each in problems:
            warn(each)
        row = {column: _of_its_kind(column, summary.get(column)) for column in COLUMNS}
        row["status"] = row["status"] or ("summary.json is damaged" if problems or summary else "no summary")
        rows.append({**row, "job": job.name})
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


def show_sweep(folder: Path) -> None:
    """Print the table; write it as sweep.csv, and the page that compares the best jobs, into the sweep's folder."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    if not folder.is_dir():
        return
    rows = sweep_table(folder)
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS)
    writer.writeheader()
    writer.writerows(rows)
    write_text(folder / "sweep.csv", text.getvalue())
    print(f"\n{len(rows)} jobs, best validation loss first ({folder / 'sweep.csv'})")
    table = Table(box=box.SIMPLE_HEAD)
    for column in COLUMNS:
        table.add_column(column.replace("_", " "), overflow="fold", min_width=4)
    for row, choices in zip(rows, differing(rows), strict=True):
        shown = {**row, "choices": choices, "status": row["status"].split(":")[0]}
        table.add_row(*(_cell(shown[column]) for column in COLUMNS))
    Console().print(table)
    for row in rows:
        if row["status"].startswith("failed"):
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


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
