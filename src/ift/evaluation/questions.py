"""Known evaluations question by question: what each engine's samples.jsonl says, so that runs can be compared in pairs.

A line of samples.jsonl belongs to one question, asked of one model in one form of prompt:

    {"task", "doc_id", "model", "prompt_form", "prompt", "target", "metrics": {"acc": 1.0}, "filter"}
    humaneval: a line for each attempt, with "right"; alpaca_eval: "preference"; helm, openai_evals: numbers by name

Only a number that is the mean of its questions can be tested in pairs: `read_questions` checks that it is.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ift.errors import one_line
from ift.evaluation.results import ADVICE, Score
from ift.run import DAMAGE, Problem, problem

NEAR = 1e-6  # a score is the mean of its questions if it is this near to it (files hold rounded numbers)
IDS = ("doc_id", "id", "sample", "question_id")


@dataclass(frozen=True, slots=True)
class Question:
    """What one model got at one question. prompt and right: hashes of what it was asked and of what is right."""

    value: float
    prompt: bytes
    right: bytes


Questions = Mapping[str, Question]  # by name: "mmlu_anatomy 12"


def read_questions(folder: Path, scores: Sequence[Score]) -> tuple[dict[str, Questions], list[Problem]]:
    """For each score, by its key, every question that it is the mean of; scores that are no such mean are left out.

    folder: evals/NAME. Lines that are damaged are left out and named, and so is a score that then is no mean any more.
    """
    path = folder / "samples.jsonl"
    wanted = {re.sub(r"^pass@\d+$", "right", score.metric) for score in scores}
    found: dict[tuple[str, str, str, str], dict[str, _Lines]] = defaultdict(dict)
    damaged, first = 0, 0
    try:
        with path.open("rb") as file:
            for number, text in enumerate(file, start=1):
                if not text.strip():
                    continue
                try:
                    for task, metric, model, form, name, question in _of_line(json.loads(text)):
                        if metric in wanted:
                            lines = found[task, metric, model, form].setdefault(name, _Lines(question))
                            lines.values.append(question.value)
                except DAMAGE:
                    damaged, first = damaged + 1, first or number
    except OSError as error:
        return {}, [] if isinstance(error, FileNotFoundError) else [problem(path, error, ADVICE)]
    what = f"line {first} is damaged" + (f", and {damaged - 1:,} more" if damaged > 1 else "")
    problems = [Problem(path, f"{what}: questions of these lines are in no test", ADVICE)] if damaged else []
    questions: dict[str, Questions] = {
        score.key: own for score in scores if (own := _questions_of(score, found)) is not None
    }
    return questions, problems


@dataclass(frozen=True)
class Pairs:
    """The questions of one run beside those of another.

    both      names of questions that both were asked, in the first one's order
    alone     names of questions that only the first, only the second was asked; or that are not the same question
    reworded  how many of both were asked with another prompt
    """

    both: Sequence[str]
    alone: tuple[Sequence[str], Sequence[str]]
    reworded: int


def pair(first: Questions, second: Questions) -> Pairs:
    """A question is the same where its task and id are, and what is right."""
    both = [name for name, one in first.items() if name in second and one.right == second[name].right]
    known = set(both)
    alone = [name for name in first if name not in known], [name for name in second if name not in known]
    reworded = sum(first[name].prompt != second[name].prompt for name in both)
    return Pairs(both, (alone[0], alone[1]), reworded)


# -- lines of every engine -------------------------------------------------------------------------------------------


class _Lines:
    """All lines of one question: the values of its attempts."""

    __slots__ = ("question", "values")

    def __init__(self, question: Question):
        self.question = question
        self.values: list[float] = []


def _of_line(line: Mapping[str, Any]) -> Iterator[tuple[str, str, str, str, str, Question]]:
    """(task, metric, model, prompt form, name of the question, what it got). Raises one of DAMAGE for another line."""
    form = str(next((line[key] for key in ("prompt_form", "prompt_kind") if key in line), line.get("prompt", "raw")))
    model, task = str(line["model"]), str(line.get("task", ""))
    number = next((str(line[key]) for key in IDS if key in line), None)
    prompt, right = _text(line, "prompt_messages", "prompt"), _text(line, "target", "expected", "reference")
    values: Mapping[str, Any]
    if isinstance(line.get("metrics"), Mapping):
        suffix = f" ({line['filter']})" if "filter" in line else ""
        values = {f"{metric}{suffix}": value for metric, value in line["metrics"].items()}
    elif "attempt" in line:
        task, number, prompt = "humaneval", task, _text(line, "asked")
        values = {"right": line["right"]}
    elif "preference" in line:
        task, prompt = "alpaca_eval", _text(line, "instruction") + "\0" + _text(line, "input")
        values = {"win_rate": None if line["preference"] is None else 100 * (line["preference"] - 1)}
    else:
        values = {**line, "accuracy": line.get("correct", line.get("accuracy"))}
    name = f"{task} {one_line(prompt, 40)} {_digest(prompt).hex()}" if number is None else f"{task} {number}"
    for metric, value in values.items():
        if isinstance(value, int | float) and math.isfinite(value):
            yield task, metric, model, form, name, Question(float(value), _digest(prompt), _digest(right))


def _text(line: Mapping[str, Any], *names: str) -> str:
    value = next((line[name] for name in names if name in line), "")
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "replace")).digest()[:8]


# -- whose mean a score is -------------------------------------------------------------------------------------------


def _questions_of(
    score: Score, found: Mapping[tuple[str, str, str, str], Mapping[str, _Lines]]
) -> dict[str, Question] | None:
    """The questions of a task, or of a group all its tasks', if the score is their mean."""
    if score.value is None:
        return None
    at = re.fullmatch(r"pass@(\d+)", score.metric)
    metric, k = ("right", int(at[1])) if at else (score.metric, 0)
    tasks = [task for task, *rest in found if rest == [metric, score.model, score.prompt]]
    parts = [task for task in tasks if task.startswith(f"{score.task}_")]
    for members in ([score.task],) if score.task in tasks else (parts, tasks):
        questions = {
            name: Question(_at_k(lines.values, k) if k else _mean(lines.values), lines.question.prompt, right)
            for task in members
            for name, lines in found.get((task, metric, score.model, score.prompt), {}).items()
            for right in [lines.question.right]
        }
        if len(questions) == score.n and _is_near(_mean([q.value for q in questions.values()]), score.value):
            return questions
    return None


def _is_near(value: float, other: float) -> bool:
    return abs(value - other) <= NEAR * max(1.0, abs(other))


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else math.nan


def _at_k(right: Sequence[float], k: int) -> float:
    """The chance that one of k attempts is right, without bias (Chen et al. 2021)."""
    n, c = len(right), int(sum(right))
    return 1 - math.comb(n - c, k) / math.comb(n, k) if n >= k else math.nan
