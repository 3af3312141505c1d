"""What is measured of runs that are compared, and which differences to the first run are settled.

A metric is a number for each row that all runs answered, or for each question of a known evaluation. Every difference
that is looked at is tested in pairs, and all tests of a page share one correction.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ift.errors import one_line
from ift.evaluation.answers import Answer, aligned
from ift.evaluation.ngrams import chrf, chrf_counts
from ift.evaluation.overlap import chunks, rouge_l, same
from ift.evaluation.people import NOTHING, UNNAMED, VERDICTS, Rating, rater_means, right_share, star_count
from ift.evaluation.questions import pair
from ift.evaluation.results import Score
from ift.evaluation.statistics import (
    POSITIVE,
    SHARE,
    UNBOUNDED,
    UNIT,
    Agreement,
    Difference,
    Estimate,
    Scale,
    agreement,
    by_category,
    compare_pairs,
    holm,
    length_adjusted_win_rate,
    mean_interval,
)
from ift.pages.runs import Known, Run

CHRF_ANSWERS = 6_000  # answers of all runs; chrF takes a millisecond or two of each, and of more than these minutes
PER_TOKEN = "it is per token, and the runs have not one tokenizer"
FEWEST = 5  # rows of a category that gets a mean of its own
Row = tuple[Answer | None, ...]  # of each run its answer; None where the run has none at all
SILENT = ("torch", "transformers", "datasets")  # versions that decide no number
NO_VALUE = Estimate(0, math.nan, math.nan, math.nan)


@dataclass(frozen=True)
class Metric:
    """One number for each run, and what it is the mean of. values[run][row or question] is None where there is none.

    estimates   what an evaluation says of each run; None where a metric is the mean of its values
    remarks     what there is to know about each run's number, or ""
    """

    name: str
    form: str  # of a mean, as format() takes it
    scale: Scale  # what each of the values can be
    better: int  # 1: higher is better, -1: lower, 0: neither
    values: Sequence[Sequence[float | None]]
    note: str = ""
    believed: bool = True  # a judge that failed its canaries settles nothing, nor does a loss of other tokens
    estimates: Sequence[Estimate] | None = None
    remarks: Sequence[str] = ()

    def estimate(self, run: int) -> Estimate:
        if self.estimates is not None:
            return self.estimates[run]
        return mean_interval([v for v in self.values[run] if v is not None], self.scale)

    @property
    def tested(self) -> bool:
        return bool(self.better) and self.believed


Tests = Mapping[tuple[str, int], Difference]  # by metric and run


@dataclass(frozen=True)
class Line:
    """A run's line under a metric: its mean, and for all but the first run what may be said of the difference."""

    run: int
    estimate: Estimate
    difference: Difference | None
    verdict: str  # better, worse, equal, not settled, or "" where there is nothing to say
    at_equal_length: float | None  # share of rows won, if both sides wrote equally long answers
    remark: str


# -- rows ------------------------------------------------------------------------------------------------------------


def common_rows(runs: Sequence[Run]) -> list[Row]:
    """The rows that all runs with answers answered, in the first one's order; none where fewer than two have any."""
    answered = [i for i, run in enumerate(runs) if run.answers.rows]
    if len(answered) < 2:
        return []
    place = {run: i for i, run in enumerate(answered)}
    found = aligned([runs[i].answers for i in answered])
    return [tuple(row[place[i]] if i in place else None for i in range(len(runs))) for row in found]


def asked(row: Row) -> Answer:
    """Any answer to a row: they share the question."""
    return next(answer for answer in row if answer is not None)


def row_metrics(runs: Sequence[Run], rows: Sequence[Row]) -> list[Metric]:
    """Every number that at least one run has on the common rows; people first, then judges."""

    def each(value: Any) -> list[list[float | None]]:
        return [
            [None if (answer := row[i]) is None else value(run, answer) for row in rows] for i, run in enumerate(runs)
        ]

    right, stars = ({run.name: rater_means(run.ratings, f) for run in runs} for f in (right_share, star_count))
    found = [
        Metric(
            "people: right",
            ".1%",
            UNIT,
            1,
            each(lambda run, a: right[run.name].get(a.key)),
            "partly counts half",
        ),
        Metric("people: stars", ".2f", Scale(1, 5), 1, each(lambda run, a: stars[run.name].get(a.key)), "1 to 5"),
    ]
    for name in sorted({name for run in runs for name in run.judged if "wins" not in run.judged[name].results}):
        judged = [run.judged[name].results for run in runs if name in run.judged]
        values = each(lambda run, a, name=name: _judged(run, name, a))
        note, believed = _trust(judged)
        scale = Scale(min(results["scale"][0] for results in judged), max(results["scale"][1] for results in judged))
        found.append(Metric(f"judge: {name}", ".2f", scale, 1, values, note, believed))
    if any(asked(row).reference.strip() for row in rows):
        found.append(Metric("exact match", ".1%", SHARE, 1, each(_against_reference(same))))
        found.append(Metric("ROUGE-L", ".3f", UNIT, 1, each(_against_reference(rouge_l))))
        if len(rows) * len(runs) <= CHRF_ANSWERS:
            chrf_of_row = _against_reference(lambda *pair: float(chrf(np.array(chrf_counts(*pair)))))
            found.append(Metric("chrF, row by row", ".3f", UNIT, 1, each(chrf_of_row), "mean over rows"))
    found.append(Metric("ended by itself", ".1%", SHARE, 1, each(lambda run, a: _share(a.stop_reason, "end"))))
    found.append(Metric("words", ".1f", POSITIVE, 0, each(_words), "no merit in itself"))
    return [metric for metric in found if any(v is not None for values in metric.values for v in values)]


def _judged(run: Run, name: str, answer: Answer) -> float | None:
    """What a judge gave an answer; nothing that is not on its scale."""
    if name not in run.judged:
        return None
    score, (low, high) = run.judged[name].scores.get(answer.key), run.judged[name].results["scale"]
    return score if score is not None and low <= score <= high else None


def _trust(judged: Sequence[Mapping[str, Any]]) -> tuple[str, bool]:
    """What to know of a judge's scores, and whether they may settle anything."""
    if any(results.get("valid") is False for results in judged):
        return "INVALID: this judge failed its canaries", False
    scales = list(dict.fromkeys(f"{r['scale'][0]:g} to {r['scale'][1]:g}" for r in judged))
    other = [key for key in ("model", "prompt", "temperature") if len({_judge(r, key) for r in judged}) > 1]
    if len(scales) > 1 or other:
        what = [*(["scale"] if len(scales) > 1 else []), *other]
        return f"not compared: these runs were judged with another {', '.join(what)}", False
    without = " without canaries" if any(results.get("valid") is None for results in judged) else ""
    return f"{scales[0]}{without}", True


def _judge(results: Mapping[str, Any], key: str) -> str:
    judge = results.get("judge")
    return str(judge.get(key)) if isinstance(judge, Mapping) and key in judge else ""


def ratings_of(run: Run, answer: Answer) -> list[tuple[str, Rating]]:
    """What people said of an answer; a rater is named where there are several."""
    names = {rater: f"{rater or UNNAMED}: " if len(run.ratings) > 1 else "" for rater in sorted(run.ratings)}
    found = [(name, run.ratings[rater].get(answer.key, NOTHING)) for rater, name in names.items()]
    return [(name, rating) for name, rating in found if rating]


def is_exact(answer: Answer) -> bool:
    return same(answer.response, answer.reference)


def _against_reference(measure: Callable[[str, str], float]) -> Callable[[Run, Answer], float | None]:
    """None where a row has no reference."""
    return lambda _, a: float(measure(a.response, a.reference)) if a.reference.strip() else None


def _words(_: Run, answer: Answer) -> float:
    return float(len(chunks(answer.response)))


def _share(value: str, wanted: str) -> float | None:
    return float(value == wanted) if value else None


# -- known evaluations -----------------------------------------------------------------------------------------------


def known_metrics(runs: Sequence[Run], *, other_tokens: bool = False) -> list[Metric]:
    """Each headline score of the tuned model that a run has, with the questions that the first run was asked.

    other_tokens: the runs have not one tokenizer, and no mean over tokens is compared.
    """
    return [_known_metric(runs, name, key, other_tokens=other_tokens) for name, key in headlines(runs)]


def headlines(runs: Sequence[Run]) -> list[tuple[str, str]]:
    """(evaluation, key of a score) of what is tested."""
    names = sorted({name for run in runs for name in run.known})
    return [
        (name, key)
        for name in names
        for key in dict.fromkeys(
            key
            for run in runs
            if name in run.known
            for key, score in run.known[name].scores.items()
            if score.headline and score.model == "tuned"
        )
    ]


def _known_metric(runs: Sequence[Run], name: str, key: str, *, other_tokens: bool) -> Metric:
    known = [run.known.get(name) for run in runs]
    scores = [None if each is None else each.scores.get(key) for each in known]
    score = next(score for score in scores if score is not None)
    questions = [None if each is None else each.questions.get(key) for each in known]
    first = questions[0] or {}
    values: list[list[float | None]] = [[question.value for question in first.values()]]
    remarks = [_no_questions(scores[0], bool(first))]
    for i in range(1, len(runs)):
        other = questions[i] or {}
        pairs = pair(first, other)
        both = set(pairs.both)
        values.append([other[question].value if question in both else None for question in first])
        remark = _no_questions(scores[i], bool(other))
        if first and other:
            alone = [*pairs.alone[0], *(question for question in pairs.alone[1] if question not in pairs.alone[0])]
            parts = [f"{len(alone):,} questions without a partner: {_some(alone)}"] if alone else []
            if pairs.reworded:
                parts.append(f"{pairs.reworded:,} of {len(both):,} questions were asked with another prompt")
            remark = "; ".join(parts)
        elif other and scores[0] is None:
            remark = f"{runs[0].name} has no such score"
        remarks.append(remark)
    apart = other_tokens and score.per_token
    versions = _other_versions([each for each in known if each is not None and key in each.scores], score.prompt)
    return Metric(
        name=score_name(name, score),
        form=_form([s.value for s in scores if s is not None]),
        scale=SHARE if {v for each in values for v in each} <= {0, 1, None} else UNBOUNDED,  # files do not say
        better=1 if score.higher_is_better else -1,
        values=values,
        note=f"not comparable: {PER_TOKEN}" if apart else versions,
        believed=not apart,
        estimates=[_estimate(each) for each in scores],
        remarks=remarks,
    )


def score_name(evaluation: str, score: Score) -> str:
    task = score.task if score.task == evaluation else f"{evaluation}: {score.task}"
    who = ", ".join([*(["base"] if score.model == "base" else []), *([score.prompt] if score.prompt != "raw" else [])])
    return f"{task} {score.metric}" + (f" ({who})" if who else "")


def _form(values: Sequence[float | None]) -> str:
    largest = max((abs(value) for value in values if value is not None), default=0)
    return ".3f" if largest <= 2 else ".1f" if largest < 1000 else ".0f"


def _estimate(score: Score | None) -> Estimate:
    if score is None or score.value is None:
        return NO_VALUE
    return Estimate(
        score.n,
        score.value,
        math.nan if score.low is None else score.low,
        math.nan if score.high is None else score.high,
    )


def _no_questions(score: Score | None, has_questions: bool) -> str:
    return "no test: samples.jsonl holds no questions that it is the mean of" if score and not has_questions else ""


def _some(names: Sequence[str]) -> str:
    return ", ".join(one_line(name, 40) for name in names[:3]) + (", ..." if len(names) > 3 else "")


def _other_versions(known: Sequence[Known], prompt: str) -> str:
    """What decides the numbers and is not the same for all runs that have them."""
    found = []
    for key in dict.fromkeys(key for each in known for key in each.results["versions"]):
        if key in SILENT or (key.startswith("template ") and prompt == "raw"):
            continue
        values = dict.fromkeys(str(each.results["versions"].get(key, "none")) for each in known)
        found += [f"{key} {' and '.join(values)}"] if len(values) > 1 else []
    for key in ("model", "prompt"):
        values = dict.fromkeys(_judge(each.results, key) for each in known)
        found += [f"judge {key} {' and '.join(values)}"] if len(values) > 1 else []
    return f"measured with other versions: {one_line('; '.join(found), 200)}" if found else ""


# -- tests -----------------------------------------------------------------------------------------------------------


def tests(measured: Sequence[Metric]) -> Tests:
    """The difference of every other run to the first, by metric and run; p values are for having looked at all."""
    found = {}
    for metric in measured:
        for other in range(1, len(metric.values)):
            rows, first, second = _both(metric, other)
            if rows and metric.tested:
                found[metric.name, other] = compare_pairs(first, second, metric.scale)
    return holm(found)  # type: ignore[return-value, arg-type]


def _both(metric: Metric, other: int) -> tuple[list[int], list[float], list[float]]:
    """Rows where the first and another run have a number, with both numbers."""
    pairs = zip(metric.values[0], metric.values[other], strict=True)
    found = [(row, a, b) for row, (a, b) in enumerate(pairs) if a is not None and b is not None]
    return [row for row, _, _ in found], [a for _, a, _ in found], [b for _, _, b in found]


def verdict(metric: Metric, test: Difference) -> str:
    """better or worse where the test supports it, equal where no row differs, else not settled."""
    if test.all_tied:
        return "equal"
    return test.verdict(higher_is_better=metric.better > 0)


def lines_of(metric: Metric, compared: Tests, rows: Sequence[Row]) -> Iterator[Line]:
    for i in range(len(metric.values)):
        test = compared.get((metric.name, i))
        adjusted = None
        if test and metric.name.startswith(("judge", "people")):
            both, first, second = _both(metric, i)
            won = [0.5 + 0.5 * ((b > a) - (b < a)) for a, b in zip(first, second, strict=True)]
            lengths = [[len(answer.response) for row in both if (answer := rows[row][run])] for run in (i, 0)]
            adjusted = length_adjusted_win_rate(won, *lengths)
        remark = metric.remarks[i] if metric.remarks else ""
        yield Line(i, metric.estimate(i), test, verdict(metric, test) if test else "", adjusted, remark)


# -- parts -----------------------------------------------------------------------------------------------------------


def pairwise(runs: Sequence[Run]) -> list[tuple[str, str, Mapping[str, Any]]]:
    """Verdicts of pairwise judges between two of these runs: (run, judge, results)."""
    names = {run.answers.name for run in runs}
    return [
        (run.name, name, judged.results)
        for run in runs
        for name, judged in run.judged.items()
        if "wins" in judged.results and judged.results.get("judge", {}).get("against") in names
    ]


def categories(
    measured: Sequence[Metric], rows: Sequence[Row]
) -> list[tuple[Metric, list[tuple[str, list[Estimate | None]]]]]:
    """For each metric the mean of each category and run; categories of a few rows are left out."""
    names = [asked(row).category for row in rows]
    if len(set(names)) < 2:
        return []
    tables = []
    for metric in measured:
        runs = []
        for values in metric.values:
            kept = [(v, name) for v, name in zip(values, names, strict=True) if v is not None]
            runs.append(by_category([v for v, _ in kept], [name or "none" for _, name in kept], metric.scale))
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
