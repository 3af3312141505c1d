"""The runs of a comparison, as their folders have them: answers, numbers, settings, verdicts, known evaluations.

Files that a run does not have are empty here; those that cannot be read are named and left out.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ift.errors import ConfigError
from ift.evaluation.answers import Answers, open_answers
from ift.evaluation.people import Raters, read_ratings
from ift.evaluation.questions import Questions, read_questions
from ift.evaluation.results import Judged, Score, read_judgements, read_results
from ift.evaluation.scoring import NAME as SCORED_AGAIN
from ift.pages.configs import COPY, read_config
from ift.run import Problem, RunFolder, read_object, read_objects

MOST_RUNS = 32  # as many as colour and form of a mark can tell apart
OF_ANSWERS = "score"  # scores of the run's own answers, which a comparison counts itself, on the rows that all answered


@dataclass(frozen=True)
class Known:
    """One known evaluation of a run: results.json, and by its key each score and the questions it is the mean of."""

    results: Mapping[str, Any]
    scores: Mapping[str, Score]
    questions: Mapping[str, Questions]


@dataclass(frozen=True)
class Run:
    name: str
    answers: Answers
    summary: Mapping[str, Any]
    config: Mapping[str, str]
    metrics: Sequence[Mapping[str, Any]]
    judged: Mapping[str, Judged]
    ratings: Raters
    known: Mapping[str, Known]
    problems: Sequence[Problem] = ()  # files that cannot be read, or not all of them


def open_runs(places: Sequence[str | Path], names: Sequence[str] | None = None) -> list[Run]:
    """names: other ones than the folders'. Raises ConfigError, and DataError where answers cannot be read."""
    if not 2 <= len(places) <= MOST_RUNS:
        raise ConfigError(f"ift compare: {len(places)} runs given (give 2 to {MOST_RUNS})")
    found = [_open(place) for place in places]
    names = names or names_apart([str(place) for place in places], [run.name for run in found])
    return [replace(run, name=name) for run, name in zip(found, names, strict=True)]


def _open(place: str | Path) -> Run:
    folder = RunFolder(place)
    begun = folder.metrics.exists() or folder.evals.is_dir() or folder.summary.exists()
    if folder.path.is_dir() and not folder.responses.exists() and begun:
        answers = Answers(folder.path.resolve().name, folder, [])  # it was stopped: its numbers can be compared
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
        config=whole(read_config(run)),
        metrics=whole(read_objects(run.metrics, advice="delete such lines")),
        judged=whole(read_judgements(run)),
        ratings=whole(read_ratings(run.ratings)),
        known=whole(_known(run)),
        problems=problems,
    )


def _known(run: RunFolder) -> tuple[dict[str, Known], list[Problem]]:
    """Of each evaluation the questions of the headline scores of the tuned model: they alone are tested."""
    results, problems = read_results(run)
    results.pop(SCORED_AGAIN, None)  # of the answers that are compared themselves
    found = {}
    for name, each in results.items():
        if name == OF_ANSWERS:
            continue
        scores = {score.key: score for score in (Score(**value) for value in each["scores"])}
        tested = [score for score in scores.values() if score.headline and score.model == "tuned"]
        questions, damaged = read_questions(run.evals / name, tested)
        problems = problems + damaged
        found[name] = Known(each, scores, questions)
    return found, problems


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
