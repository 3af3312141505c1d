"""report.html: one self-contained page on a run. It reads the files of the run folder and nothing else."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from ift.errors import warn
from ift.evaluation.answers import content_key
from ift.evaluation.overlap import rouge_l, same
from ift.evaluation.people import Raters, rater_means, rater_pairs, read_ratings, right_share
from ift.evaluation.results import Judged, interval, read_judgements, read_results
from ift.evaluation.scoring import ENDS, METRICS, RATES
from ift.evaluation.statistics import SHARE, UNIT, Estimate, Scale, mean_interval
from ift.forms import DATA_REPORT
from ift.pages import before_after
from ift.pages.before_after import Pair
from ift.pages.model_facts import model_facts
from ift.pages.page import Page
from ift.pages.plots import curves_drawing, finite, plot_curves
from ift.run import DAMAGE, Problem, RunFolder, problem, read_object, read_objects, write_text

PAGE = Page("report")
SHOWN, TEXT = 1000, 1_500_000  # answers on the page, and characters of them; responses.jsonl has them all
LONGEST = 8_000  # characters of one text; of a longer one the page shows the beginning
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
    judged, damaged = read_judgements(run)
    raters, damaged_ratings = read_ratings(run.ratings)
    problems += damaged + damaged_ratings
    answers = [_answer(line, judged, raters) for line in bounded(responses)]
    pairs, where = whole(_pairs(run, summary.get("best_step")))
    parts = {
        "summary": summary,
        "between": intervals(summary, responses),
        "data": whole(read_object(run.data_report, DATA_REPORT, advice=COPY)),
        "config": whole(_config(run)),
        "curves": whole(_curves(run, metrics, summary.get("best_step"))),
        "pairs": before_and_after(pairs, where),
        "verdicts": verdicts(judged, raters),
        "benchmarks": whole(read_results(run)),
        "times": times(summary),
        "answers": answers,
        "model": model_facts(run),
    }
    page = _rendered(run, parts, problems, more=len(responses) - len(answers), judges=sorted(_scorers(judged)))
    for each in problems:
        warn(each)
    write_text(run.report, page.encode("utf-8", "replace").decode())  # half characters, which no file could hold


EMPTY: dict[str, Any] = {
    "summary": {}, "between": {}, "data": {}, "config": "", "curves": None, "pairs": None, "verdicts": [],
    "benchmarks": {}, "times": [], "answers": [], "model": {},
}  # fmt: skip
WRONG = (*DAMAGE, jinja2.TemplateRuntimeError)  # what a value of another kind raises in a template


def _rendered(
    run: RunFolder, parts: Mapping[str, Any], problems: list[Problem], *, more: int, judges: Sequence[str]
) -> str:
    """The page. Where something on it cannot be shown, each part is tried alone, and left out if it is the cause."""

    def render(shown: Mapping[str, Any]) -> str:
        named = [Problem(_inside(run, each.path), each.what, each.advice) for each in problems]
        values = {"title": run.path.name, "problems": named, "more": more, "judges": judges, "interval": interval}
        return PAGE.render(**values, **{**EMPTY, **shown})

    try:
        return render(parts)
    except WRONG:
        shown = {}
        files = {
            "summary": run.summary,
            "times": run.summary,
            "data": run.data_report,
            "pairs": run.samples,
            "answers": run.responses,
        }
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


def _curves(
    run: RunFolder, metrics: list[dict[str, Any]], best_step: int | None
) -> tuple[list[dict[str, Any]] | None, list[Problem]]:
    """The drawing for a wide page and the one for a phone; curves.png beside it is drawn anew."""
    if not metrics:
        return None, []
    drawn = [curves_drawing([metrics]), curves_drawing([metrics], width=480, height=300)]
    shown = [each for each in drawn if each] or None
    try:
        plot_curves(metrics, run.curves, best_step=best_step)
    except DAMAGE as error:
        return shown, [problem(run.curves, error, "look at metrics.jsonl")]
    return shown, []


# -- numbers with their intervals --------------------------------------------------------------------------------------


TIMES = {  # key of summary.json without its _seconds -> words; those of training, then those before it
    "steps": "training steps",
    "validation": "validation",
    "samples": "sample answers",
    "saving": "saving, in the way of the steps",
    "waiting": "waiting for the disk",
    "start": "before training: start",
    "untuned": "before training: the untuned model",
}


def times(summary: Mapping[str, Any]) -> list[tuple[str, float, float]]:
    """Where the time went: words, seconds and percent of all of it. Nothing for a run of an earlier release."""
    found = {words: finite(summary.get(f"{key}_seconds")) for key, words in TIMES.items()}
    known = {words: seconds for words, seconds in found.items() if seconds is not None and seconds >= 0}
    total = sum(known.values())
    return [(words, seconds, 100 * seconds / total) for words, seconds in known.items()] if total > 0 else []


def intervals(summary: Mapping[str, Any], responses: Sequence[Mapping[str, Any]]) -> dict[str, tuple[float, float]]:
    """The 95 % interval of each score that has one: as the summary has it, else of the rows.

    Runs of earlier releases have none in their summary. Those get one of the rows, where it is an interval of the same
    number: counted in another way, or over other rows, it would not be.
    """
    found = {
        key: (low, high)
        for key in (*METRICS, *RATES)
        for low, high in [[finite(summary.get(f"{key}_{end}")) for end in ENDS]]
        if low is not None and high is not None
    }
    by_row: dict[str, tuple[Callable[[Any], float], Scale]] = {
        "exact_match": (lambda r: float(same(r["response"], r["reference"])), SHARE),
        "rouge_l": (lambda r: rouge_l(r["response"], r["reference"]), UNIT),
        "end_rate": (lambda r: float(r.get("stop_reason") == "end"), SHARE),
    }
    missing = [key for key in by_row if key not in found]
    for key in missing if responses and summary.get("responses") == len(responses) else ():
        number, scale = by_row[key]
        e, value = mean_interval([number(r) for r in responses], scale), finite(summary.get(key))
        if value is not None and math.isclose(e.mean, value, abs_tol=1e-6) and e.has_interval:
            found[key] = e.low, e.high
    return found


def verdicts(judged: Mapping[str, Judged], raters: Raters) -> list[tuple[str, str, str]]:
    """Who rated the answers: the judge or people, what they said with its 95 % interval, and how far to trust it."""
    found = []
    for name, judge in judged.items():
        r = judge.results
        low, high = r["scale"]
        mean = "–" if r["mean"] is None else f"{r['mean']:.2f}"
        mean += f" ({r['low']:.2f} to {r['high']:.2f})" if r["low"] is not None and r["high"] is not None else ""
        canaries = {True: "canaries in range", False: "INVALID: it failed its canaries", None: "without canaries"}
        said = f"{mean} on {low} to {high}, scored {r['scored']} of {r['rows']}"
        found.append((f"judge {name}", said, canaries[r["valid"]]))
    rated = [*rater_means(raters, right_share).values()]
    if rated:
        e = mean_interval(rated, UNIT)
        found.append(("people", f"{e.mean:.1%}{_between(e)} right, {e.n} rated", "partly counts half"))
    for pair in rater_pairs(raters):
        who, said = f"{pair.one} and {pair.other}", f"the same {pair.what} on {pair.same:.0%} of {pair.n} answers"
        found.append((who, said, "" if math.isnan(pair.kappa) else f"kappa {pair.kappa:.2f}"))
    return found


def _between(e: Estimate) -> str:
    return f" ({e.low:.1%} to {e.high:.1%})" if e.has_interval else ""


# -- answers -----------------------------------------------------------------------------------------------------------


def _answer(line: Mapping[str, Any], judged: Mapping[str, Judged], raters: Raters) -> dict[str, Any]:
    """An answer to the test split with all that the page shows of it and can sort it by."""
    texts = {name: line[name] for name in TEXTS}
    key = content_key(*texts.values())
    is_same = same(texts["response"], texts["reference"])
    stop, category = (value if isinstance(value := line.get(name), str) else "" for name in ("stop_reason", "category"))
    ratings = [(rater, given[key]) for rater, given in sorted(raters.items()) if key in given]
    return {
        **texts,
        "category": category,
        "stop": "" if stop in ("", "end") else stop,
        "rouge_l": rouge_l(texts["response"], texts["reference"]) if texts["reference"].strip() else None,
        "same": is_same,
        "judged": {name: judge.scores[key] for name, judge in judged.items() if key in judge.scores},
        "ratings": ratings,
        "kinds": [
            *(["exact" if is_same else "differs"] if texts["reference"].strip() else []),
            *(["cut"] if stop not in ("", "end") else []),
            *{rating.verdict for _, rating in ratings if rating.verdict},
        ],
    }


def _scorers(judged: Mapping[str, Judged]) -> set[str]:
    """The judges that gave each answer a score, by which the list can be sorted."""
    return {name for name, judge in judged.items() if "wins" not in judge.results and judge.scores}


def bounded(lines: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """As many of the first as a page can hold: a run of any size has a page that opens at once."""
    kept: list[dict[str, Any]] = []
    size = 0
    for line in lines[:SHOWN]:
        size += sum(min(len(line[name]), LONGEST) for name in TEXTS)
        if kept and size > TEXT:
            break
        kept.append(line)
    return kept


def _pairs(run: RunFolder, best_step: Any) -> tuple[tuple[list[Pair], str], list[Problem]]:
    """What both models answered, and in which file it stands."""
    evaluated = run.evals / "before_after" / "samples.jsonl"
    if evaluated.exists():
        lines, problems = read_objects(
            evaluated, _is_pair, advice="python evaluate.py eval=before_after writes it anew"
        )
        return (before_after.of_evaluation(lines), "the test split"), problems
    lines, problems = read_objects(run.samples, lambda line: _has_texts(line) and "step" in line, advice=LINES)
    return (before_after.of_samples(lines, best_step), "validation rows that training answers as it goes"), problems


def _is_pair(line: Mapping[str, Any]) -> bool:
    texts = ("instruction", "input", "target", "said", "model")
    return (
        isinstance(line["doc_id"], int)
        and isinstance(line["metrics"], dict)
        and ("text" in line or all(isinstance(line[name], str) for name in texts))
    )


def before_and_after(pairs: Sequence[Pair], where: str) -> dict[str, Any] | None:
    """What the page shows of the pairs: numbers with tests, a bar for each, and as many texts as it can hold.

    Of many, those where tuning hurt or helped most.
    """
    if not pairs:
        return None
    rows = before_after.shown(pairs)
    by_change = sorted(rows, key=lambda row: -abs(row.change or 0.0))
    kept: set[int] = set()
    size = 0
    for row in by_change[: SHOWN // 2]:
        pair = row.pair
        size += sum(min(len(text), LONGEST) for text in (pair.instruction, pair.reference, pair.untuned, pair.tuned))
        if kept and size > TEXT // 2:
            break
        kept.add(id(row))
    return {
        "rows": [row for row in rows if id(row) in kept],
        "n": len(rows),
        "where": where,
        "kinds": Counter(row.kind for row in rows),
        "measures": before_after.measures(rows),
        "bars": before_after.bars(rows),
    }
