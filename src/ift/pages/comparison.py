"""`ift compare RUN RUN...`: one self-contained page on what differs between runs, and which differences are settled.

Reads files of run folders and answers of other tools, never a model. The first run is the one that others are
compared with.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError  # type: ignore[import-untyped]

from ift.errors import ConfigError, one_line, warn
from ift.evaluation.answers import Answer, Answers, aligned, open_answers
from ift.evaluation.overlap import rouge_l, word_diff
from ift.evaluation.people import (
    NOTHING,
    UNNAMED,
    VERDICTS,
    Raters,
    Rating,
    rater_means,
    read_ratings,
    right_share,
    star_count,
)
from ift.evaluation.results import Judged, read_judgements
from ift.evaluation.statistics import (
    Agreement,
    Difference,
    Estimate,
    agreement,
    by_category,
    compare_pairs,
    holm,
    length_adjusted_win_rate,
    mean_interval,
)
from ift.forms import CONFIG
from ift.pages.page import Page
from ift.pages.plots import curves_drawing, finite
from ift.pages.same_rows import differ, letters
from ift.run import DAMAGE, Problem, RunFolder, problem, read_object, read_objects, write_text

MOST_RUNS = 8  # as many as can be told apart by colour
SHOWN = 500  # rows on the page; responses.jsonl has them all
FEWEST = 5  # rows of a category that gets a mean of its own
COPY = "bring it back from a copy, or delete it"


@dataclass(frozen=True)
class Run:
    """What there is of one run. Files that it does not have are empty here."""

    name: str
    answers: Answers
    summary: Mapping[str, Any]
    config: Mapping[str, str]
    metrics: Sequence[Mapping[str, Any]]
    judged: Mapping[str, Judged]
    ratings: Raters
    problems: Sequence[Problem] = ()  # files that cannot be read, or not all of them


@dataclass(frozen=True)
class Metric:
    """One number for each row and run. values[run][row] is None where there is none."""

    name: str
    form: str  # of a mean, as format() takes it
    better: int  # 1: higher is better, -1: lower, 0: neither
    values: Sequence[Sequence[float | None]]
    note: str = ""
    believed: bool = True  # a judge that failed its canaries settles nothing


@dataclass(frozen=True)
class Line:
    """A run's line under a metric: its mean, and for all but the first run what may be said of the difference."""

    run: int
    estimate: Estimate
    difference: Difference | None
    verdict: str  # better, worse, not settled, or "" where there is nothing to say
    at_equal_length: float | None  # share of rows won, if both sides wrote equally long answers


def compare(places: Sequence[str | Path], page: Path, *, names: Sequence[str] | None = None) -> list[str]:
    """Write the page; return the lines for the terminal. names: other ones than the folders'.

    Files that cannot be read are named on the page and on stderr, and the rest is compared. Raises ConfigError, and
    DataError where the answers themselves cannot be read.
    """
    runs = open_runs(places, names)
    for run in runs:
        for each in run.problems:
            warn(each)
    rows = aligned([run.answers for run in runs])
    measured = metrics(runs, rows)
    compared = tests(measured)
    text = Page("compare").render(
        runs=runs,
        rows=[_shown(runs, row, i, measured) for i, row in enumerate(rows[:SHOWN])],
        n_rows=len(rows),
        only_here=[len(run.answers.rows) - len(rows) for run in runs],
        metrics=list(zip(measured, [list(_lines(m, compared, rows)) for m in measured], strict=True)),
        n_tests=len(compared),
        pairs=_pairs(runs),
        categories=_categories(measured, rows),
        agreements=agreements(runs),
        curves=curves_drawing([run.metrics for run in runs]),
        differing=differing_keys(runs),
        numbers=_numbers(runs),
        tested=tested_apart(runs),
        dots=dots,
    )
    page.parent.mkdir(parents=True, exist_ok=True)
    write_text(page, text)
    return list(summary_lines(runs, rows, measured, compared))


# -- what there is ---------------------------------------------------------------------------------------------------


def open_runs(places: Sequence[str | Path], names: Sequence[str] | None = None) -> list[Run]:
    if not 2 <= len(places) <= MOST_RUNS:
        raise ConfigError(f"ift compare: {len(places)} runs given (give 2 to {MOST_RUNS})")
    found = [_open(place) for place in places]
    names = names or names_apart([str(place) for place in places], [run.name for run in found])
    return [replace(run, name=name) for run, name in zip(found, names, strict=True)]


def _open(place: str | Path) -> Run:
    folder = RunFolder(place)
    if folder.path.is_dir() and not folder.responses.exists() and folder.metrics.exists():
        answers = Answers(folder.path.resolve().name, folder, [])  # it was stopped: its curves can be compared
    else:
        answers = open_answers(place)
    run = answers.run
    problems: list[Problem] = []

    def whole(found: tuple[Any, list[Problem]]) -> Any:
        problems.extend(found[1])
        return found[0]

    return Run(
        name=answers.name,
        answers=answers,
        summary=whole(read_object(run.summary, advice=COPY)),
        config=whole(_config(run)),
        metrics=whole(read_objects(run.metrics, advice="delete such lines")),
        judged=whole(read_judgements(run)),
        ratings=whole(read_ratings(run.ratings)),
        problems=problems,
    )


def _config(run: RunFolder) -> tuple[dict[str, str], list[Problem]]:
    """Each setting as text, by its whole key, in today's form."""
    if not run.config.exists():
        return {}, []
    try:
        plain = OmegaConf.to_container(OmegaConf.load(run.config))
        if not isinstance(plain, dict):
            raise TypeError("no settings")
        return dict(_flat(CONFIG.current(plain, run.config))), []  # type: ignore[arg-type]
    except (*DAMAGE, YAMLError, OmegaConfBaseException) as error:
        return {}, [problem(run.config, error, COPY)]


def names_apart(places: Sequence[str], names: Sequence[str]) -> list[str]:
    """Names of runs, with as much of the folders above as it takes to tell equal ones apart."""
    parts = [Path(os.path.abspath(place)).parent.parts for place in places]
    for depth in range(1, 1 + max(map(len, parts), default=0)):
        if len(set(names)) == len(names):
            break
        names = [
            "/".join((*above[-depth:], name.rpartition("/")[2])) if names.count(name) > 1 else name
            for above, name in zip(parts, names, strict=True)
        ]
    return [f"{name} ({i + 1})" if names.count(name) > 1 else name for i, name in enumerate(names)]


def _flat(value: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _flat(inner, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, "null" if value is None else str(value)


# -- numbers of rows -------------------------------------------------------------------------------------------------


def metrics(runs: Sequence[Run], rows: Sequence[tuple[Answer, ...]]) -> list[Metric]:
    """Every number that at least one run has on the rows that all runs answered; people first, then judges."""

    def each(value: Any) -> list[list[float | None]]:
        return [[value(run, row[i]) for row in rows] for i, run in enumerate(runs)]

    right, stars = ({run.name: rater_means(run.ratings, f) for run in runs} for f in (right_share, star_count))
    judges = sorted({name for run in runs for name in run.judged if "wins" not in run.judged[name].results})
    found = [
        Metric(
            "people: right",
            ".1%",
            1,
            each(lambda run, a: right[run.name].get(a.key)),
            "partly counts half",
        ),
        Metric("people: stars", ".2f", 1, each(lambda run, a: stars[run.name].get(a.key)), "1 to 5"),
    ]
    for name in judges:
        results = [run.judged[name].results for run in runs if name in run.judged]
        believed = all(result.get("valid") is not False for result in results)
        low, high = results[0]["scale"]
        without = " without canaries" if any(result.get("valid") is None for result in results) else ""
        note = f"{low} to {high}{without}" if believed else "INVALID: this judge failed its canaries"
        values = each(lambda run, a, name=name: run.judged[name].scores.get(a.key) if name in run.judged else None)
        found.append(Metric(f"judge: {name}", ".2f", 1, values, note, believed))
    if any(a.reference.strip() for row in rows for a in row[:1]):
        found.append(Metric("exact match", ".1%", 1, each(lambda run, a: float(_same(a)))))
        found.append(Metric("ROUGE-L", ".3f", 1, each(lambda run, a: rouge_l(a.response, a.reference))))
    found.append(Metric("ended by itself", ".1%", 1, each(lambda run, a: _share(a.stop_reason, "end"))))
    found.append(Metric("words", ".1f", 0, each(lambda run, a: float(len(a.response.split()))), "no merit in itself"))
    return [metric for metric in found if any(v is not None for values in metric.values for v in values)]


def _ratings(run: Run, answer: Answer) -> list[tuple[str, Rating]]:
    """What people said of an answer; a rater is named where there are several."""
    names = {rater: f"{rater or UNNAMED}: " if len(run.ratings) > 1 else "" for rater in sorted(run.ratings)}
    found = [(name, run.ratings[rater].get(answer.key, NOTHING)) for rater, name in names.items()]
    return [(name, rating) for name, rating in found if rating]


def _same(answer: Answer) -> bool:
    return answer.response.strip() == answer.reference.strip()


def _share(value: str, wanted: str) -> float | None:
    return float(value == wanted) if value else None


def _both(metric: Metric, other: int) -> tuple[list[int], list[float], list[float]]:
    """Rows where the first and another run have a number, with both numbers."""
    pairs = zip(metric.values[0], metric.values[other], strict=True)
    found = [(row, a, b) for row, (a, b) in enumerate(pairs) if a is not None and b is not None]
    return [row for row, _, _ in found], [a for _, a, _ in found], [b for _, _, b in found]


def tests(measured: Sequence[Metric]) -> dict[tuple[str, int], Difference]:
    """The difference of every other run to the first, by metric and run; p values are for having looked at all."""
    found = {}
    for metric in measured:
        for other in range(1, len(metric.values)):
            rows, first, second = _both(metric, other)
            if rows and metric.better and metric.believed:
                found[metric.name, other] = compare_pairs(first, second)
    return holm(found)  # type: ignore[return-value, arg-type]


def _lines(
    metric: Metric, compared: Mapping[tuple[str, int], Difference], rows: Sequence[tuple[Answer, ...]]
) -> Iterator[Line]:
    for i, values in enumerate(metric.values):
        estimate = mean_interval([v for v in values if v is not None])
        test = compared.get((metric.name, i))
        adjusted = None
        if test and metric.name.startswith(("judge", "people")):
            both, first, second = _both(metric, i)
            won = [0.5 + 0.5 * ((b > a) - (b < a)) for a, b in zip(first, second, strict=True)]
            lengths = [[len(rows[row][run].response) for row in both] for run in (i, 0)]
            adjusted = length_adjusted_win_rate(won, *lengths)
        verdict = test.verdict(higher_is_better=metric.better > 0) if test else ""
        yield Line(i, estimate, test, verdict, adjusted)


def _pairs(runs: Sequence[Run]) -> list[tuple[str, str, Mapping[str, Any]]]:
    """Verdicts of pairwise judges between two of these runs: (run, judge, results)."""
    names = {run.answers.name for run in runs}
    return [
        (run.name, name, judged.results)
        for run in runs
        for name, judged in run.judged.items()
        if "wins" in judged.results and judged.results.get("judge", {}).get("against") in names
    ]


def _categories(
    measured: Sequence[Metric], rows: Sequence[tuple[Answer, ...]]
) -> list[tuple[Metric, list[tuple[str, list[Estimate | None]]]]]:
    """For each metric the mean of each category and run; categories of a few rows are left out."""
    names = [row[0].category for row in rows]
    if len(set(names)) < 2:
        return []
    tables = []
    for metric in measured:
        runs = []
        for values in metric.values:
            kept = [(v, name) for v, name in zip(values, names, strict=True) if v is not None]
            runs.append(by_category([v for v, _ in kept], [name or "none" for _, name in kept]))
        order = [name for name, e in max(runs, key=len).items() if e.n >= FEWEST]
        if metric.better and order:
            tables.append((metric, [(name, [run.get(name) for run in runs]) for name in order]))
    return tables


def agreements(runs: Sequence[Run]) -> list[tuple[str, str, str, Agreement]]:
    """(run, one rater, another rater, how far they agree) for judges and people that rated the same answers."""
    found = []
    for run in runs:
        raters = [*_raters(run)]
        for i, (one, first, levels) in enumerate(raters):
            for other, second, other_levels in raters[i + 1 :]:
                both = [key for key in first if key in second]
                alike = one.rpartition(": ")[2] == other.rpartition(": ")[2]  # verdicts with verdicts, stars with stars
                if len(both) > 1 and (alike or not (one.startswith("people") and other.startswith("people"))):
                    shares = [first[key] for key in both], [second[key] for key in both]
                    measured = agreement(*shares, levels=min(levels, other_levels))
                    found.append((run.name, one, other, measured))
    return found


def _raters(run: Run) -> Iterator[tuple[str, dict[str, float], int]]:
    """Who rated answers of a run: name, each answer's share of the scale by its key, steps of the scale."""
    for name, judged in run.judged.items():
        if "wins" not in judged.results:
            low, high = judged.results["scale"]
            yield f"judge {name}", {key: (v - low) / (high - low) for key, v in judged.scores.items()}, high - low + 1
    for rater, ratings in sorted(run.ratings.items()):
        who = f"people, {rater or UNNAMED}" if len(run.ratings) > 1 else "people"
        yield f"{who}: right", rater_means({rater: ratings}, right_share), len(VERDICTS)
        stars = rater_means({rater: ratings}, star_count)
        yield f"{who}: stars", {key: (n - 1) / 4 for key, n in stars.items()}, 5


# -- what is drawn ---------------------------------------------------------------------------------------------------


def _shown(runs: Sequence[Run], row: tuple[Answer, ...], i: int, measured: Sequence[Metric]) -> dict[str, Any]:
    """A row of the page: the reference, and each run's answer with its words marked and its numbers."""
    first = row[0]
    answers = []
    for j, (run, answer) in enumerate(zip(runs, row, strict=True)):
        _, pieces = word_diff(answer.reference, answer.response)
        reasons = [
            (name, judged.reasons[answer.key]) for name, judged in run.judged.items() if answer.key in judged.reasons
        ]
        answers.append(
            {
                "answer": answer,
                "pieces": pieces if answer.reference else [(True, answer.response)],
                "same": _same(answer),
                "ratings": _ratings(run, answer),
                "reasons": [(name, reason) for name, reason in reasons if reason],
                "numbers": [(metric.name, metric.form, metric.values[j][i]) for metric in measured],
            }
        )
    return {
        "number": i + 1,
        "question": first,
        "answers": answers,
        "differ": len({answer.response.strip() for answer in row}) > 1,
        # by metric: what the rows can be sorted by
        "first": [metric.values[0][i] for metric in measured],
        "gap": [_gap(metric, i) for metric in measured],
    }


def _gap(metric: Metric, row: int) -> float | None:
    """How much the last run's number is above the first's."""
    first, last = metric.values[0][row], metric.values[-1][row]
    return None if first is None or last is None else last - first


def dots(lines: Sequence[Line]) -> list[tuple[float, float, float]]:
    """Where low end, mean and high end of each line's interval stand, from 0 to 100, all on one scale."""
    estimates = [line.estimate for line in lines]
    ends = [end for e in estimates for end in (e.low, e.mean, e.high) if math.isfinite(end)]
    if not ends:
        return [(50.0, 50.0, 50.0)] * len(lines)
    low, high = min(ends), max(ends)
    room = (high - low) * 0.06 or 1.0

    def place(value: float) -> float:
        value = min(max(value if not math.isnan(value) else low, low), high)
        return round(100 * (value - low + room) / (high - low + 2 * room), 2)

    return [(place(e.low), place(e.mean), place(e.high)) for e in estimates]


def differing_keys(runs: Sequence[Run]) -> list[tuple[str, list[str]]]:
    """Settings in which the runs are not all alike; where a run's folder is stands in its name."""
    keys = {key for run in runs for key in run.config if key not in ("output_dir", "logger.run_name")}
    rows = [(key, [run.config.get(key, "–") for run in runs]) for key in sorted(keys)]
    return [(key, values) for key, values in rows if len(set(values)) > 1]


def tested_apart(runs: Sequence[Run]) -> list[str]:
    """A letter for each run, the same for those with the same test rows; empty where all of them have the same."""
    found = letters([run.answers.run for run in runs])
    return found if differ(found) else []


NUMBERS = {
    "val_loss": "validation loss",
    "test_loss": "test loss",
    "bleu": "BLEU",
    "best_step": "best step",
    "train_tokens": "tokens trained on",
    "train_seconds": "seconds of training",
    "tokens_per_second": "tokens a second",
    "parameters": "parameters",
}


def _numbers(runs: Sequence[Run]) -> list[tuple[str, list[float | None]]]:
    """Numbers of whole runs, which have no interval: one run is one draw of its seed."""
    rows = [(title, [finite(run.summary.get(key)) for run in runs]) for key, title in NUMBERS.items()]
    return [(title, values) for title, values in rows if any(value is not None for value in values)]


# -- what the terminal says ------------------------------------------------------------------------------------------


def say(metric: Metric, test: Difference) -> str:
    """A difference in words, and what it would take where this many rows do not settle it."""
    verdict = test.verdict(higher_is_better=metric.better > 0)
    form = metric.form.replace(".", "+.", 1) if metric.form[0] == "." else metric.form
    line = f"{test.difference:{form}} (95 %: {test.low:{form}} to {test.high:{form}}; p = {test.p:.2g})"
    if test.settled:
        return f"{verdict}: {line}"
    line = f"not settled: {line}"
    if test.rows_to_settle and test.rows_to_settle > test.n:
        line += f"; about {test.rows_to_settle:,} rows would settle it"
    return line


def summary_lines(
    runs: Sequence[Run],
    rows: Sequence[tuple[Answer, ...]],
    measured: Sequence[Metric],
    compared: Mapping[tuple[str, int], Difference],
) -> Iterator[str]:
    first = one_line(runs[0].name, 60)
    yield f"compared  {len(rows):,} rows that all {len(runs)} runs answered; differences are to {first}"
    if tested := tested_apart(runs):
        who = ", ".join(f"{letter or '?'} {one_line(run.name, 24)}" for letter, run in zip(tested, runs, strict=True))
        yield f"test rows differ ({who}): losses of whole runs are of different rows"
    for metric in measured:
        yield f"{metric.name}" + (f" ({metric.note})" if metric.note else "")
        for i, run in enumerate(runs):
            e = mean_interval([v for v in metric.values[i] if v is not None])
            if not e.n:
                yield f"  {one_line(run.name, 24):<24} -"
                continue
            mean = f"{e.mean:{metric.form}}"
            mean += f" ({e.low:{metric.form}} to {e.high:{metric.form}})" if e.n > 1 else ""
            test = compared.get((metric.name, i))
            yield f"  {one_line(run.name, 24):<24} {mean:<28} n {e.n:<5}" + (say(metric, test) if test else "")
