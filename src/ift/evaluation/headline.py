"""The numbers of a run with their 95 % intervals, as few as a model card shows. Needs no torch."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from ift.errors import IftError
from ift.evaluation.answers import read_answers
from ift.evaluation.results import Score, read_judgements, read_results
from ift.evaluation.scoring import NAME as SCORED_AGAIN
from ift.evaluation.scoring import Scored
from ift.progress import progress
from ift.run import RunFolder

TEST_SPLIT = "test split"
MANY = 1_000  # answers whose scoring takes seconds


def headline(run: RunFolder) -> list[dict[str, Any]]:
    """Scores as results.json has them: of the answers to test rows, of judges, and of known evaluations.

    What is missing or damaged is left out: each is on the run's page, which says so.
    """
    evaluations, _ = read_results(run)
    evaluations.pop(SCORED_AGAIN, None)  # these very answers
    known = [score for results in evaluations.values() for score in results["scores"] if score["headline"]]
    return [*map(asdict, _of_answers(run)), *map(asdict, _of_judges(run)), *known]


def _of_answers(run: RunFolder) -> list[Score]:
    if not run.responses.exists():
        return []
    try:
        answers = [answer for answer in read_answers(run.responses) if answer.reference.strip()]
    except IftError:
        return []
    if not answers:
        return []
    with progress("scoring" if len(answers) >= MANY else None, len(answers), "answers") as advance:
        scores = Scored([(answer.response, answer.reference) for answer in answers]).of()
        advance(len(answers))
    return [
        Score(task=TEST_SPLIT, metric=name, value=value, n=len(answers), low=low, high=high)
        for name, (value, interval) in scores.items()
        for low, high in [interval or (None, None)]
    ]


def _of_judges(run: RunFolder) -> list[Score]:
    found, _ = read_judgements(run)
    scores = []
    for judged in found.values():
        mean, low, high = (judged.results[key] for key in ("mean", "low", "high"))
        if mean is not None and judged.results["scored"]:
            begin, end = judged.results["scale"]
            metric = f"mean from {begin} to {end}"
            scores.append(
                Score(
                    task=f"judge {judged.name}",
                    metric=metric,
                    value=mean,
                    n=judged.results["scored"],
                    low=low,
                    high=high,
                )
            )
    return scores
