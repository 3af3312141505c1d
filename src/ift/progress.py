"""A bar with speed and time left for anything long; without a terminal, one line when it is done."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress(
    what: str | None, total: int, unit: str, *, scale: float = 1, lasting: bool = True
) -> Iterator[Callable[..., None]]:
    """Yields a function to call with the amount just done, and a note that stands behind the bar from then on.

    Shown divided by scale, so that bytes can be seen as MB. lasting: a line stays when it is done, and is all that is
    printed where there is no terminal. Without a title nothing is shown.
    """
    if what is None:
        yield lambda amount, note="": None
        return
    from rich.console import Console  # imported late: an error is reported sooner without it
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console()
    columns = (
        TextColumn(what),
        BarColumn(),
        TextColumn(f"{{task.fields[done]}}/{total / scale:,.0f} {unit} {{task.fields[speed]}}"),
        TextColumn("{task.fields[note]}"),
        TimeRemainingColumn(),
    )
    start, done, noted = time.perf_counter(), 0, ""
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task("", total=total, done="0", speed="", note="")

        def advance(amount: int, note: str = "") -> None:
            nonlocal done, noted
            done += amount
            noted = note or noted
            speed = done / scale / (time.perf_counter() - start)
            bar.update(task, advance=amount, done=f"{done / scale:,.0f}", speed=f"{speed:.1f} {unit}/s", note=noted)

        yield advance
    if not lasting:
        return
    seconds = time.perf_counter() - start
    amount = done / scale
    speed = f"{amount / max(seconds, 1e-9):.1f} {unit}/s"
    console.print(
        f"{what:<9} {amount:,.0f} {unit} in {seconds:.1f} s ({speed})" + (f", {noted}" if noted else ""),
        highlight=False,
    )
