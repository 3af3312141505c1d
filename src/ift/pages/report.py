"""report.html: one self-contained page on a run. It reads the files of the run folder and nothing else."""

from __future__ import annotations

import base64
from typing import Any

from ift.evaluation.people import VERDICTS, Ratings
from ift.evaluation.results import interval, read_judgements, read_results
from ift.evaluation.statistics import mean_interval
from ift.pages.page import Page
from ift.pages.plots import plot_curves
from ift.run import RunFolder, read_json, read_jsonl, write_text

PAGE = Page("report", pictures=True)
SHOWN = 300  # responses on the page; responses.jsonl has them all


def write_report(run: RunFolder) -> None:
    """Draw curves.png and write the page. Files that a run does not have are left out of it."""
    metrics = read_jsonl(run.metrics) if run.metrics.exists() else []
    summary = read_json(run.summary) if run.summary.exists() else {}
    if metrics:
        plot_curves(metrics, run.curves, best_step=summary.get("best_step"))
    responses = read_jsonl(run.responses) if run.responses.exists() else []
    samples = read_jsonl(run.samples) if run.samples.exists() else []
    page = PAGE.render(
        title=run.path.name,
        summary=summary,
        data=read_json(run.data_report) if run.data_report.exists() else {},
        config=run.config.read_text(encoding="utf-8") if run.config.exists() else "",
        curves=base64.b64encode(run.curves.read_bytes()).decode() if run.curves.exists() else None,
        samples=before_and_after(samples, summary.get("best_step")),
        verdicts=verdicts(run),
        benchmarks=read_results(run),
        responses=responses[:SHOWN],
        more=max(0, len(responses) - SHOWN),
        interval=interval,
    )
    write_text(run.report, page)


def verdicts(run: RunFolder) -> list[tuple[str, str, str]]:
    """Who rated the answers: the judge or people, what they said with its 95 % interval, and how far to trust it."""
    found = []
    for name, judged in read_judgements(run).items():
        r = judged.results
        low, high = r["scale"]
        mean = "–" if r["mean"] is None else f"{r['mean']:.2f}"
        mean += f" ({r['low']:.2f} to {r['high']:.2f})" if r["low"] is not None else ""
        canaries = {True: "canaries in range", False: "INVALID: it failed its canaries", None: "without canaries"}
        said = f"{mean} on {low} to {high}, scored {r['scored']} of {r['rows']}"
        found.append((f"judge {name}", said, canaries[r["valid"]]))
    rated = [VERDICTS[r.verdict] for r in Ratings(run.ratings, read_only=True).now.values() if r.verdict]
    if rated:
        e = mean_interval(rated)
        interval = f" ({e.low:.1%} to {e.high:.1%})" if e.n > 1 else ""
        found.append(("people", f"{e.mean:.1%}{interval} right, {e.n} rated", "partly counts half"))
    return found


def before_and_after(samples: list[dict[str, Any]], best_step: int | None) -> list[dict[str, Any]]:
    """The untuned model's answer and the best one's to each sample prompt."""
    first = [s for s in samples if s["step"] == 0]
    best = [s for s in samples if s["step"] == best_step]
    return [{**a, "untuned": a["response"], "tuned": b["response"]} for a, b in zip(first, best, strict=False)]
