"""Loss curves: what is drawn of a run's metrics, once, for curves.png and for the pages; and round numbers for axes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ift.pages.palette import LIGHT

POINTS = 300  # of a training curve; more are averaged
WIDTH, HEIGHT = 960, 300  # of the drawing on a page
Point = tuple[float, float]  # step, loss


@dataclass(frozen=True)
class LossCurves:
    """The losses of some runs over optimizer steps, with the axes that they share."""

    runs: list[tuple[list[Point], list[Point]]]  # training and validation
    right: float  # the last step
    low: float
    high: float
    logarithmic: bool

    def x_ticks(self, most: int = 8) -> list[float]:
        return round_ticks(0, self.right, most, whole=True)

    @property
    def y_ticks(self) -> list[float]:
        return log_ticks(self.low, self.high) if self.logarithmic else round_ticks(self.low, self.high, 6)


def loss_curves(runs: Sequence[Sequence[Mapping[str, Any]]]) -> LossCurves | None:
    """What is drawn of the lines of metrics.jsonl of some runs; None where no line has a finite loss."""
    curves = [(_averaged(_points(lines, "train/loss")), _points(lines, "val/loss")) for lines in runs]
    every = [point for train, val in curves for point in (*train, *val)]
    if not every:
        return None
    right = max(step for step, _ in every) or 1
    low, high = min(loss for _, loss in every), max(loss for _, loss in every)
    logarithmic = low > 0 and high / low > 20  # else the runs would be told apart in their first steps alone
    if logarithmic:
        low, high = low / 1.2, high * 1.2
    else:
        low, high = (0.0 if 0 <= low < high / 2 else low - (high - low) * 0.1), high + abs(high) * 0.05 or 1.0
    return LossCurves(curves, right, low, high, logarithmic)


def curves_drawing(
    runs: Sequence[Sequence[Mapping[str, Any]]], *, width: int = WIDTH, height: int = HEIGHT
) -> dict[str, Any] | None:
    """The curves as points of a drawing of that size, from its upper left corner; None where there are none."""
    curves = loss_curves(runs)
    if curves is None:
        return None
    scale = math.log if curves.logarithmic else float
    bottom, top = scale(curves.low), scale(curves.high)

    def place(point: Point) -> Point:
        step, loss = point
        return round(step / curves.right * width, 1), round((top - scale(loss)) / (top - bottom) * height, 1)

    def line(points: Sequence[Point]) -> str:
        return " ".join(f"{x},{y}" for x, y in map(place, points))

    return {
        "width": width,
        "height": height,
        "runs": [
            {
                "train": line(train),
                "val": line(val),
                "dots": [(*place(point), *point) for point in val],
                "best": min(val, key=lambda point: point[1], default=None),
            }
            for train, val in curves.runs
        ],
        "x_ticks": [(place((tick, curves.low))[0], f"{tick:,.0f}") for tick in curves.x_ticks(width // 120)],
        "y_ticks": [(place((0, tick))[1], f"{tick:g}") for tick in curves.y_ticks],
        "logarithmic": curves.logarithmic,
    }


def plot_curves(metrics: Sequence[Mapping[str, Any]], path: Path, *, best_step: int | None = None) -> None:
    """The curves of one run as a PNG, with the tokens seen as a second scale above; no file where there are none."""
    curves = loss_curves([metrics])
    if curves is None:
        return

    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter, NullFormatter, NullLocator

    [(train, val)] = curves.runs
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    if train:
        axes.plot(*zip(*train, strict=True), color=LIGHT["bar"], linewidth=1, label="training")
    if val:
        axes.plot(*zip(*val, strict=True), color=LIGHT["r1"], marker="o", markersize=4, label="validation")
    for step, loss in val:
        if step == best_step:
            label = f"best: {loss:.3f} at step {step:.0f}"
            axes.plot(step, loss, "o", markersize=11, markerfacecolor="none", color=LIGHT["r1"], label=label)
    axes.set_xlabel("optimizer steps")
    axes.set_ylabel("loss (nats per supervised token)")
    if curves.logarithmic:
        axes.set_yscale("log")
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_ylim(curves.low, curves.high)
    axes.set_yticks(curves.y_ticks, [f"{tick:g}" for tick in curves.y_ticks])
    axes.set_xticks(curves.x_ticks(), [f"{tick:,.0f}" for tick in curves.x_ticks()])
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)

    last = metrics[-1]
    last_step, tokens = finite(last.get("step")), finite(last.get("tokens"))
    if last_step is not None and tokens is not None and tokens > 0:
        rate: Any = tokens / max(1, last_step)
        above = axes.secondary_xaxis("top", functions=(lambda x: x * rate, lambda x: x / rate))
        above.xaxis.set_major_formatter(EngFormatter())
        above.set_xlabel("tokens seen (without padding)")
    figure.savefig(path, dpi=120, format="png")


def _points(lines: Sequence[Mapping[str, Any]], key: str) -> list[Point]:
    points = [(finite(line.get("step")), finite(line.get(key))) for line in lines]
    return [(step, loss) for step, loss in points if step is not None and loss is not None and step >= 0]


def _averaged(points: list[Point]) -> list[Point]:
    size = math.ceil(len(points) / POINTS) or 1
    groups = [points[i : i + size] for i in range(0, len(points), size)]
    groups = [group for group in groups if 2 * len(group) > size]  # a few points at the end would swing by chance
    return [(sum(s for s, _ in g) / len(g), sum(v for _, v in g) / len(g)) for g in groups]


def finite(value: Any) -> float | None:
    """A number that can be drawn, or None for anything else that a file may hold."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def round_ticks(low: float, high: float, most: int, *, whole: bool = False) -> list[float]:
    """Round numbers from low to high, at most so many: round_ticks(0, 1.2, 4) is [0, 0.5, 1].

    whole: for counts, which have no halves: round_ticks(0, 1.2, 4, whole=True) is [0, 1].
    """
    if not high > low:
        return [low]
    power = 10 ** math.floor(math.log10((high - low) / most))
    if whole:
        power = max(power, 1)
    step = next(s * power for s in (1, 2, 5, 10, 20) if (high - low) / (s * power) <= most - 1)
    first = math.ceil(low / step)
    return [round(k * step, 12) for k in range(first, first + most + 1) if k * step <= high]


def log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 of each power of ten from low to high; powers alone where that is many: log_ticks(0.04, 3)."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps = (1, 2, 5) if high / low < 1e4 else (1,)
    return [t for t in (round(s * 10.0**k, 12) for k in powers for s in steps) if low <= t <= high]
