"""report.html: one self-contained page on a run. It reads the files of the run folder and nothing else."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import jinja2

from ift.data.page import page_environment
from ift.evaluation.plots import plot_curves
from ift.run import RunFolder, read_json, read_jsonl, write_text

SHOWN = 300  # responses on the page; responses.jsonl has them all


def write_report(run: RunFolder) -> None:
    """Draw curves.png and write the page. Files that a run does not have are left out of it."""
    metrics = read_jsonl(run.metrics) if run.metrics.exists() else []
    summary = read_json(run.summary) if run.summary.exists() else {}
    if metrics:
        plot_curves(metrics, run.curves, best_step=summary.get("best_step"))
    responses = read_jsonl(run.responses) if run.responses.exists() else []
    samples = read_jsonl(run.samples) if run.samples.exists() else []
    page = (
        _environment()
        .get_template("report.html.j2")
        .render(
            title=run.path.name,
            summary=summary,
            data=read_json(run.data_report) if run.data_report.exists() else {},
            config=run.config.read_text(encoding="utf-8") if run.config.exists() else "",
            curves=base64.b64encode(run.curves.read_bytes()).decode() if run.curves.exists() else None,
            samples=before_and_after(samples, summary.get("best_step")),
            responses=responses[:SHOWN],
            more=max(0, len(responses) - SHOWN),
        )
    )
    write_text(run.report, page)


def before_and_after(samples: list[dict[str, Any]], best_step: int | None) -> list[dict[str, Any]]:
    """The untuned model's answer and the best one's to each sample prompt."""
    first = [s for s in samples if s["step"] == 0]
    best = [s for s in samples if s["step"] == best_step]
    return [{**a, "untuned": a["response"], "tuned": b["response"]} for a, b in zip(first, best, strict=False)]


def _environment() -> jinja2.Environment:
    environment = page_environment(Path(__file__).parent)
    environment.filters["number"] = lambda value, form: "–" if value is None else format(value, form)
    return environment
