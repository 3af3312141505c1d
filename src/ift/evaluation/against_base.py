"""Tuned against base on the same questions: what tuning taught, and what was forgotten for it."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

from ift.evaluation.results import Score
from ift.evaluation.statistics import Difference, Scale, compare_pairs, holm

SHOWN = 5  # differences that a sentence names


def against_base(
    samples: Sequence[Mapping[str, Any]],
    scores: Sequence[Score],
    groups: Mapping[str, Sequence[str]],
    *,
    scale_of: Callable[[str, Sequence[float]], Scale],
    base_prompt: str = "raw",
) -> list[dict[str, Any]]:
    """Tuned less base, question by question, of each number that is a mean, of each group too.

    samples: lines with task, doc_id, model, prompt_form and metrics; groups: name -> its tasks
    scale_of: metric, and the numbers of both models -> what such a number can be
    base_prompt: the form in which the base model was prompted; each form of the tuned one is compared with that

    p is Holm's over the headline numbers, and over all others by themselves: a suite of many parts would otherwise
    hide what happened to the whole.
    """
    values: dict[tuple[str, str], dict[tuple[str, str], dict[Any, float]]] = defaultdict(lambda: defaultdict(dict))
    for line in samples:
        for metric, value in line["metrics"].items():
            label = metric if "filter" not in line else f"{metric} ({line['filter']})"
            if isinstance(value, int | float):
                for name in (line["task"], *(group for group, members in groups.items() if line["task"] in members)):
                    question = line["task"], line["doc_id"]
                    values[line["model"], line["prompt_form"]][name, label][question] = float(value)
    base = values.get(("base", base_prompt))
    if base is None:
        return []
    known = {(score.task, score.metric): score for score in scores}
    differences: dict[tuple[str, str, str], Difference] = {}
    for (model, prompt), tuned in values.items():
        for key in tuned if model == "tuned" else ():
            both = [question for question in tuned[key] if question in base.get(key, {})]
            if key in known and both:
                first, second = ([measured[key][question] for question in both] for measured in (base, tuned))
                differences[prompt, *key] = compare_pairs(first, second, scale_of(key[1], [*first, *second]))
    tests: dict[Hashable, Difference] = {}
    for headline in (True, False):
        tests |= holm({key: each for key, each in differences.items() if known[key[1:]].headline == headline})
    return [
        {
            "task": task,
            "metric": metric,
            "prompt": prompt,
            **{name: _finite(getattr(tests[prompt, task, metric], name)) for name in ("difference", "low", "high")},
            **{name: getattr(tests[prompt, task, metric], name) for name in ("p", "n")},
            "verdict": tests[prompt, task, metric].verdict(higher_is_better=known[task, metric].higher_is_better),
            "headline": known[task, metric].headline,
        }
        for prompt, task, metric in differences
    ]


def note_differences(differences: Sequence[Mapping[str, Any]]) -> list[str]:
    """The closing line: the headline numbers by name, settled or not, and of their parts those that are settled."""
    notes = []
    for headline in (True, False):
        family = [each for each in differences if each["headline"] == headline]
        if not family:
            continue
        parts = []
        for verdict in ("better", "worse", "not settled"):
            found = [each for each in family if each["verdict"] == verdict]
            if not found:
                continue
            largest = sorted(found, key=lambda each: -abs(each["difference"]))[:SHOWN]
            more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
            names = ", ".join(map(_named, largest)) + more
            if verdict == "not settled":
                names = f"{len(found)}: {names}" if headline else str(len(found))
            parts.append(f"{verdict} in {names}")
        what = "Tuned against base on the same questions" if headline else "Their parts"
        tests = f"{len(family)} tests with Holm's p" if len(family) > 1 else "one test"
        notes.append(f"{what}, {tests}: {'; '.join(parts)}.")
    return notes


def _named(each: Mapping[str, Any]) -> str:
    low, high = each["low"], each["high"]
    interval = "" if low is None or high is None else f", {low:+.3f} to {high:+.3f}"
    return (
        f"{each['task']} {each['metric']} {each['prompt']} ({each['difference']:+.3f}{interval}, p = {each['p']:.2g})"
    )


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
