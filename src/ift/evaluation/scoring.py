"""Scores of answers against their references, for summary.json and for `eval=score`. Reads answers, loads no model.

exact_match  equal but for white space at the ends; in Unicode's composed form, without characters that nobody sees
rouge_l      F-measure of the longest common subsequence of words (Lin 2004), mean over rows
chrf         F of n-grams of characters (Popović 2015), of all rows together
bleu         of n-grams of words (Papineni et al. 2002), of all rows together

All are from 0 to 1. Rows without a reference are in none of them.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from statistics import median
from typing import Any

import numpy as np
import regex
from numpy.typing import ArrayLike, NDArray

from ift.errors import DataError
from ift.evaluation import ngrams
from ift.evaluation.answers import Answer, Answers, content_key
from ift.evaluation.overlap import CHARACTER, chunks, rouge_l, same, words
from ift.evaluation.results import Score, finite, write_results
from ift.evaluation.statistics import SHARE, UNIT, Scale, mean_interval
from ift.progress import progress
from ift.run import RunFolder, read_jsonl, read_object, write_json, write_jsonl

METRICS = {"exact_match": "exact match", "rouge_l": "ROUGE-L", "chrf": "chrF", "bleu": "BLEU"}
SCORING = {  # how each is counted, in a few words: numbers of another way are no numbers to compare with
    "exact_match": "NFC",
    "rouge_l": "Unicode words",
    "chrf": "chrF2 of sacrebleu",
    "bleu": "13a of sacrebleu with effective order",
}
COUNTED = ", ".join(f"{METRICS[name]} {how}" for name, how in SCORING.items())  # as summary.json has it
ROW = ("exact_match", "rouge_l", "chrf")  # of a single answer; its BLEU means nothing
FEWEST = 30  # rows; of fewer the interval of BLEU or chrF would not cover what it says
LONG = 20  # words; few good answers of more are equal to their reference
UNSPACED = regex.compile(f"(?V1){CHARACTER}")

RATES, COUNTS = ("end_rate", "repetition_rate"), ("responses", "scored", "response_tokens")
ENDS = ("low", "high")  # of an interval

Interval = tuple[float, float]


class Scored:
    """Rows with a reference, each counted once; scores of all of them or of some."""

    def __init__(self, pairs: Sequence[tuple[str, str]], *, what: str | None = None):
        """pairs: (response, reference). what: the title of a progress bar."""
        self.exact_match = np.array([float(same(*pair)) for pair in pairs])
        self.rouge_l = np.array([rouge_l(*pair) for pair in pairs])
        with progress(what, len(pairs), "answers", lasting=False) as advance:  # nearly all of the time
            self.bleu_counts, self.chrf_counts = ngrams.counted(pairs, advance)

    def of(self, rows: Sequence[int] | slice = slice(None)) -> dict[str, tuple[float, Interval | None]]:
        """Each metric over these rows, with its 95 % interval where one can be given."""
        return {
            "exact_match": _mean(self.exact_match[rows], SHARE),
            "rouge_l": _mean(self.rouge_l[rows], UNIT),
            "chrf": of_sums(ngrams.chrf, self.chrf_counts[rows]),
            "bleu": of_sums(ngrams.bleu, self.bleu_counts[rows]),
        }

    def row(self, i: int) -> dict[str, float]:
        """ROW of one row."""
        chrf = ngrams.chrf(self.chrf_counts[i])
        return dict(zip(ROW, map(float, (self.exact_match[i], self.rouge_l[i], chrf)), strict=True))


def _mean(values: ArrayLike, scale: Scale) -> tuple[float, Interval | None]:
    estimate = mean_interval(values, scale)
    return estimate.mean, (estimate.low, estimate.high) if estimate.has_interval else None


def of_sums(
    score: Callable[[ngrams.Counts], NDArray[np.float64]], counts: ngrams.Counts
) -> tuple[float, Interval | None]:
    """A score of summed counts and its 95 % interval: the jackknife (Tukey 1958) with Student's t, on log odds.

    The log odds keep the ends between 0 and 1, and cover better near them. None of fewer than FEWEST rows, and where no
    row makes a difference: then nothing is known of the spread.
    """
    from scipy import stats

    n, total = len(counts), counts.sum(axis=0)
    value = float(score(total))
    if n < FEWEST:
        return value, None
    middle, without = _log_odds(np.array(value)), _log_odds(score(total - counts))
    error = math.sqrt((n - 1) / n * float(((without - without.mean()) ** 2).sum()))
    if error < 1e-9:
        return value, None
    half = float(stats.t.ppf(0.975, n - 1)) * error
    low, high = (1 / (1 + math.exp(-(float(middle) + end))) for end in (-half, half))
    return value, (low, high)


def _log_odds(share: NDArray[np.float64]) -> NDArray[np.float64]:
    inside = np.clip(share, 1e-6, 1 - 1e-6)
    return np.log(inside / (1 - inside))


def score(responses: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Agreement with the references, and what the responses are like.

    responses, scored  all rows, and those with a reference
    exact_match, rouge_l, chrf, bleu  see above; None where no row has a reference
    response_tokens    mean over rows; None where the file does not say
    end_rate           share that the model ended by itself; None where the file does not say
    repetition_rate    mean share of 4-grams of words that occurred before in the same response
    NAME_low, NAME_high  95 % interval of each of these scores and rates, where one can be given
    scoring            how each score is counted
    score_notes        sentences on scores that mean little here, or ""
    """
    if not responses:
        return {}
    pairs = [(row["response"], row["reference"]) for row in responses if row["reference"].strip()]
    tokens = [row["response_tokens"] for row in responses if row["response_tokens"] is not None]
    ended = [float(row["stop_reason"] == "end") for row in responses if row["stop_reason"]]
    rates: dict[str, tuple[float | None, Interval | None]] = dict.fromkeys((*METRICS, *RATES), (None, None))
    if pairs:
        rates.update(Scored(pairs).of())
    if ended:
        rates["end_rate"] = _mean(ended, SHARE)
    rates["repetition_rate"] = _mean([repetition(row["response"]) for row in responses], UNIT)
    ends = {name: interval for name, (_, interval) in rates.items() if interval}
    return {
        "responses": len(responses),
        "scored": len(pairs),
        **{name: value for name, (value, _) in rates.items()},
        "response_tokens": sum(tokens) / len(tokens) if tokens else None,
        **{f"{name}_{end}": value for name, ends_of in ends.items() for end, value in zip(ENDS, ends_of, strict=True)},
        "scoring": COUNTED,
        "score_notes": " ".join(notes(pairs, len(responses))),
    }


def scores_of_run(run: RunFolder, responses: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What summary.json holds: the scores, and as clean_... those without rows that have a near twin in training.

    None of the latter where all rows or no row have one, since all say the same then.
    """
    leaked = leaks(run)
    clean = [row for row in responses if (row["file"], row["row"]) not in leaked]
    alone = score(clean) if len(clean) < len(responses) else {}
    return {
        **score(responses),
        **{f"clean_{key}": value for key, value in alone.items() if key not in ("scoring", "score_notes")},
    }


def with_scores(summary: Mapping[str, Any], scores: Mapping[str, Any]) -> dict[str, Any]:
    """A summary with these scores in the place of all that it had, those before an update by rescore_summary too."""
    names = (*METRICS, *RATES, *COUNTS, *(f"{name}_{end}" for name in (*METRICS, *RATES) for end in ENDS))
    old = {f"{before}{name}" for before in ("", "clean_", "earlier_", "earlier_clean_") for name in names}
    return {**{key: value for key, value in summary.items() if key not in old}, **scores}


def leaks(run: RunFolder) -> set[tuple[str, int]]:
    """Test and validation rows that have a near twin in training, by file and number."""
    return {(leak["file"], leak["row"]) for leak in read_jsonl(run.leaks)} if run.leaks.exists() else set()


def repetition(text: str, order: int = 4) -> float:
    """Share of a text's word n-grams that are repeats of an earlier one; 0 for a text too short to have any."""
    found = chunks(text)
    grams = [tuple(found[i : i + order]) for i in range(len(found) - order + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def notes(pairs: Sequence[tuple[str, str]], rows: int) -> list[str]:
    """Whole sentences on what these scores do not say. pairs: (response, reference) of the rows that have one."""
    n = len(pairs)
    if not n:
        return ["No answer has a reference: there is nothing to score against (ift review, or eval=judge)."]
    found = []
    if n < rows:
        found.append(f"{rows - n:,} of {rows:,} answers have no reference and are in no score.")
    references = [reference for _, reference in pairs]
    lengths = [len(words(reference)) for reference in references]
    of_one = sum(length < 2 for length in lengths)
    short = sum(len(ngrams.bleu_words(reference)) < ngrams.WORDS for reference in references)
    by_character = sum(UNSPACED.search(reference) is not None for reference in references)
    if median(lengths) > LONG:
        found.append(
            f"Exact match says little here: half of the references have {median(lengths):.0f} words or more, and a "
            "good answer may choose others."
        )
    if 2 * of_one >= n:
        found.append(f"ROUGE-L says little here: {of_one:,} of {n:,} references are one word, which is right or wrong.")
    if 2 * short >= n:
        found.append(
            f"BLEU says little here: it counts runs of up to {ngrams.WORDS} words, and {short:,} of {n:,} references "
            "have fewer."
        )
    if by_character:
        found.append(
            f"{by_character:,} of {n:,} references are in a script without spaces: ROUGE-L and BLEU count its "
            "characters."
        )
    return found


# -- the same answers again --------------------------------------------------------------------------------------------

NAME = "score"  # its folder in evals/
WHOLE, CLEAN = "responses", "without near twins"


def score_answers(answers: Answers, *, limit: int | None = None) -> dict[str, Any]:
    """Score answers into evals/score/results.json and samples.jsonl; return the results.

    limit: the first so many. Raises DataError where there is none.
    """
    start = time.perf_counter()
    rows = answers.rows[:limit]
    if not rows:
        raise DataError(f"{answers.name}: no answers to score")
    known = [row for row in rows if row.reference.strip()]
    scored = Scored([(row.response, row.reference) for row in known], what="scoring")
    scores = [
        _score(task, name, value, interval, len(places))
        for task, places in _parts(answers.run, known).items()
        for name, (value, interval) in scored.of(places).items()
    ]
    results = {
        "name": NAME,
        "scores": [asdict(finite(score)) for score in scores],
        "notes": notes([(row.response, row.reference) for row in known], len(rows)),
        "versions": {title: SCORING[name] for name, title in METRICS.items()},
        "limit": limit,
        "seconds": round(time.perf_counter() - start, 1),
    }
    folder = answers.run.evals / NAME
    folder.mkdir(parents=True, exist_ok=True)
    write_jsonl(folder / "samples.jsonl", _samples(rows, scored))
    write_results(folder / "results.json", results)
    return results


def _parts(run: RunFolder, rows: Sequence[Answer]) -> dict[str, list[int]]:
    """Places of all rows; of those without a near twin in training, where some have one; of each category."""
    if not rows:
        return {}
    leaked = leaks(run)
    clean = [i for i, row in enumerate(rows) if (row.file, row.row) not in leaked]
    categories: dict[str, list[int]] = {}
    for i, row in enumerate(rows):
        categories.setdefault(row.category, []).append(i)
    largest_first = sorted(categories.items(), key=lambda item: (-len(item[1]), item[0]))
    return {
        WHOLE: [*range(len(rows))],
        **({CLEAN: clean} if 0 < len(clean) < len(rows) else {}),
        **({f"category {name or '-'}": places for name, places in largest_first} if len(categories) > 1 else {}),
    }


def _score(task: str, metric: str, value: float, interval: Interval | None, n: int) -> Score:
    low, high = interval or (None, None)
    shown = task in (WHOLE, CLEAN)
    return Score(task=task, metric=metric, value=value, n=n, low=low, high=high, prompt="template", headline=shown)


def _samples(rows: Sequence[Answer], scored: Scored) -> Iterator[dict[str, Any]]:
    """A line for each row; it has no scores where it has no reference."""
    place, seen = 0, Counter[tuple[str, str]]()
    for row in rows:
        scores: Mapping[str, float] = {}
        if row.reference.strip():
            scores, place = scored.row(place), place + 1
        seen[row.question] += 1
        yield {
            "task": WHOLE,
            "doc_id": f"{content_key(*row.question)[:16]} {seen[row.question]}",  # the same in every run
            "model": "tuned",
            "prompt_form": "template",
            "prompt": f"{row.instruction}\n{row.input}".strip(),
            "target": row.reference,
            "response": row.response,
            "category": row.category,
            "metrics": scores,
            "key": row.key,
        }


def rescore_summary(answers: Answers) -> list[str]:
    """Bring scores in a run's summary.json that were counted another way up to today's; return lines that say so.

    What they were is kept in it as earlier_NAME. Nothing is changed where the summary has no scores, or those of
    other answers than are in responses.jsonl now.
    """
    run = answers.run
    summary, _ = read_object(run.summary, advice="")
    if "exact_match" not in summary or summary.get("scoring") == COUNTED:
        return []
    rows = answers.rows
    if summary.get("responses") != len(rows) or not _is_of(summary, rows):
        return [f"summary   {run.summary} keeps its scores: they are of other answers than responses.jsonl has now"]
    new = scores_of_run(run, [asdict(row) for row in rows])
    moved = {key: summary[key] for key in new if key in summary and summary[key] != new[key]}
    write_json(run.summary, {**with_scores(summary, new), **{f"earlier_{key}": was for key, was in moved.items()}})
    lines = [
        f"{METRICS[name]} was {moved[name]:.3f} and is {new[name]:.3f}"
        for name in METRICS
        if isinstance(moved.get(name), float) and isinstance(new[name], float)
    ]
    said = f"{', '.join(lines)} (before: earlier_...)" if lines else "nothing moved, chrF is new"
    return [f"summary   {run.summary} is counted anew: {said}"]


def _is_of(summary: Mapping[str, Any], rows: Sequence[Answer]) -> bool:
    """Whether earlier scores can be those of these rows: exact match was counted like this."""
    equal = sum(row.response.strip() == row.reference.strip() for row in rows)
    return "scoring" in summary or math.isclose(summary["exact_match"], equal / len(rows), abs_tol=1e-9)
