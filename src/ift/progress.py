"""A bar with speed and time left for anything long; without a terminal, one line when it is done."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


@contextmanager
def progress(what: str | None, total: int, unit: str) -> Iterator[Callable[[int], None]]:
    """Yields a function to call with the number of units just done. Without a title nothing is shown."""
    if what is None:
        yield lambda count: None
        return
    console = Console()
    columns = (
        TextColumn(what),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit + " {task.fields[speed]}"),
        TimeRemainingColumn(),
    )
    start, done = time.perf_counter(), 0
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task("", total=total, speed="")

        def advance(count: int) -> None:
            nonlocal done
            done += count
            bar.update(task, advance=count, speed=f"{done / (time.perf_counter() - start):.1f}/s")

        yield advance
    seconds = time.perf_counter() - start
    console.print(f"{what:<9} {done:,} {unit} in {seconds:.1f} s ({done / max(seconds, 1e-9):.1f}/s)", highlight=False)
