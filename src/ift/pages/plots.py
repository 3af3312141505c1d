"""Pictures of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def plot_curves(metrics: list[dict[str, Any]], path: Path, *, best_step: int | None = None) -> None:
    """Train and validation loss over optimizer steps, with the tokens seen as a second scale above.

    metrics: the lines of metrics.jsonl.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter, MaxNLocator

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    train = [(m["step"], m["train/loss"]) for m in metrics if "train/loss" in m]
    val = [(m["step"], m["val/loss"]) for m in metrics if "val/loss" in m]
    if train:
        axes.plot(*zip(*train, strict=True), color="#7aa6d6", linewidth=1, label="training")
    if val:
        axes.plot(*zip(*val, strict=True), color="#c0392b", marker="o", markersize=4, label="validation")
    for step, loss in val:
        if step == best_step:
            label = f"best: {loss:.3f} at step {step}"
            axes.plot(step, loss, "o", markersize=11, markerfacecolor="none", color="#c0392b", label=label)
    axes.set_xlabel("optimizer steps")
    axes.set_ylabel("loss (nats per supervised token)")
    axes.set_ylim(0, 1.1 * max(loss for _, loss in train + val))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)

    steps, tokens = [m["step"] for m in metrics], [m["tokens"] for m in metrics]
    if steps and tokens[-1] > 0:
        rate = tokens[-1] / max(1, steps[-1])
        above = axes.secondary_xaxis("top", functions=(lambda x: x * rate, lambda x: x / rate))
        above.xaxis.set_major_formatter(EngFormatter())
        above.set_xlabel("tokens seen (without padding)")
    figure.savefig(path, dpi=120, format="png")
