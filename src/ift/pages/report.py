"""report.html: one self-contained page on a run. It reads the files of the run folder and nothing else."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2

from ift.errors import warn
from ift.evaluation.people import rater_means, rater_pairs, read_ratings, right_share
from ift.evaluation.results import interval, read_judgements, read_results
from ift.evaluation.statistics import UNIT, mean_interval
from ift.forms import DATA_REPORT
from ift.pages.page import Page
from ift.pages.plots import plot_curves
from ift.run import DAMAGE, Problem, RunFolder, problem, read_object, read_objects, write_text

PAGE = Page("report", pictures=True)
SHOWN = 300  # responses on the page; responses.jsonl has them all
COPY, LINES = "bring it back from a copy, or delete it", "delete such lines"
TEXTS = ("instruction", "input", "reference", "response")


def write_report(run: RunFolder) -> None:
    """Draw curves.png and write the page. Files that a run does not have are left out of it.

    So is what is damaged: it is named on the page, and on stderr in a line for each file.
    """
    problems: list[Problem] = []

    def whole(found: tuple[Any, list[Problem]]) -> Any:
        problems.extend(found[1])
        return found[0]

    summary = whole(read_object(run.summary, advice=COPY))
    metrics = whole(read_objects(run.metrics, _is_drawn, advice=LINES))
    responses = whole(read_objects(run.responses, _has_texts, advice=LINES))
    samples = whole(read_objects(run.samples, lambda line: _has_texts(line) and "step" in line, advice=LINES))
    parts = {
        "summary": summary,
        "data": whole(read_object(run.data_report, DATA_REPORT, advice=COPY)),
        "config": whole(_config(run)),
        "curves": whole(_curves(run, metrics, summary.get("best_step"))),
        "samples": before_and_after(samples, summary.get("best_step")),
        "verdicts": whole(verdicts(run)),
        "benchmarks": whole(read_results(run)),
        "responses": responses[:SHOWN],
    }
    page = _rendered(run, parts, problems, more=max(0, len(responses) - SHOWN))
    for each in problems:
        warn(each)
    write_text(run.report, page.encode("utf-8", "replace").decode())  # half characters, which no file could hold


EMPTY: dict[str, Any] = {
    "summary": {}, "data": {}, "config": "", "curves": None, "samples": [], "verdicts": [], "benchmarks": {},
    "responses": [],
}  # fmt: skip
WRONG = (*DAMAGE, jinja2.TemplateRuntimeError)  # what a value of another kind raises in a template


def _rendered(run: RunFolder, parts: Mapping[str, Any], problems: list[Problem], *, more: int) -> str:
    """The page. Where something on it cannot be shown, each part is tried alone, and left out if it is the cause."""

    def render(shown: Mapping[str, Any]) -> str:
        named = [Problem(_inside(run, each.path), each.what, each.advice) for each in problems]
        return PAGE.render(title=run.path.name, problems=named, more=more, interval=interval, **{**EMPTY, **shown})

    try:
        return render(parts)
    except WRONG:
        shown = {}
        files = {"summary": run.summary, "data": run.data_report, "samples": run.samples, "responses": run.responses}
        for name, part in parts.items():
            try:
                render({name: part})
                shown[name] = part
            except WRONG as error:
                problems.append(problem(files.get(name, run.evals), error, COPY))
        return render(shown)


def _inside(run: RunFolder, path: Path) -> Path:
    return path.relative_to(run.path) if path.is_relative_to(run.path) else path


def _has_texts(line: Mapping[str, Any]) -> bool:
    return all(isinstance(line[name], str) for name in TEXTS)


def _is_drawn(line: Mapping[str, Any]) -> bool:
    """Whether a line of metrics.jsonl can be drawn: its losses may be NaN, its place may not."""
    place, losses = (line["step"], line["tokens"]), (line.get("train/loss", 0.0), line.get("val/loss", 0.0))
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in (*place, *losses))
    return numbers and all(math.isfinite(value) for value in place)


def _config(run: RunFolder) -> tuple[str, list[Problem]]:
    try:
        return (run.config.read_text(encoding="utf-8") if run.config.exists() else ""), []
    except DAMAGE as error:
        return "", [problem(run.config, error, COPY)]


def _curves(run: RunFolder, metrics: list[dict[str, Any]], best_step: int | None) -> tuple[str | None, list[Problem]]:
    """curves.png, drawn anew where there are numbers, as base64."""
    try:
        if metrics:
            plot_curves(metrics, run.curves, best_step=best_step)
        return (base64.b64encode(run.curves.read_bytes()).decode() if run.curves.exists() else None), []
    except DAMAGE as error:
        return None, [problem(run.curves, error, "look at metrics.jsonl")]


def verdicts(run: RunFolder) -> tuple[list[tuple[str, str, str]], list[Problem]]:
    """Who rated the answers: the judge or people, what they said with its 95 % interval, and how far to trust it."""
    found = []
    judgements, problems = read_judgements(run)
    for name, judged in judgements.items():
        r = judged.results
        low, high = r["scale"]
        mean = "–" if r["mean"] is None else f"{r['mean']:.2f}"
        mean += f" ({r['low']:.2f} to {r['high']:.2f})" if r["low"] is not None and r["high"] is not None else ""
        canaries = {True: "canaries in range", False: "INVALID: it failed its canaries", None: "without canaries"}
        said = f"{mean} on {low} to {high}, scored {r['scored']} of {r['rows']}"
        found.append((f"judge {name}", said, canaries[r["valid"]]))
    raters, damaged = read_ratings(run.ratings)
    rated = [*rater_means(raters, right_share).values()]
    if rated:
        e = mean_interval(rated, UNIT)
        interval = f" ({e.low:.1%} to {e.high:.1%})" if e.has_interval else ""
        found.append(("people", f"{e.mean:.1%}{interval} right, {e.n} rated", "partly counts half"))
    for pair in rater_pairs(raters):
        who, said = f"{pair.one} and {pair.other}", f"the same {pair.what} on {pair.same:.0%} of {pair.n} answers"
        found.append((who, said, "" if math.isnan(pair.kappa) else f"kappa {pair.kappa:.2f}"))
    return found, problems + damaged


def before_and_after(samples: list[dict[str, Any]], best_step: int | None) -> list[dict[str, Any]]:
    """The untuned model's answer and the best one's to each sample prompt."""
    first = [s for s in samples if s["step"] == 0]
    best = [s for s in samples if s["step"] == best_step]
    return [{**a, "untuned": a["response"], "tuned": b["response"]} for a, b in zip(first, best, strict=False)]
