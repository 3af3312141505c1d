"""The runs of a comparison, as their folders have them: answers, numbers, settings, verdicts, known evaluations.

Files that a run does not have are empty here; those that cannot be read are named and left out.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError  # type: ignore[import-untyped]

from ift.errors import ConfigError
from ift.evaluation.answers import Answers, open_answers
from ift.evaluation.people import Raters, read_ratings
from ift.evaluation.questions import Questions, read_questions
from ift.evaluation.results import Judged, Score, read_judgements, read_results
from ift.evaluation.scoring import NAME as SCORED_AGAIN
from ift.forms import CONFIG
from ift.run import DAMAGE, Problem, RunFolder, problem, read_object, read_objects

MOST_RUNS = 32  # as many as colour and form of a mark can tell apart
COPY = "bring it back from a copy, or delete it"
OF_ANSWERS = "score"  # scores of the run's own answers, which a comparison counts itself, on the rows that all answered
PLACES = ("output_dir", "logger.run_name")  # settings that differ in every two runs and decide nothing


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
        config=whole(_config(run)),
        metrics=whole(read_objects(run.metrics, advice="delete such lines")),
        judged=whole(read_judgements(run)),
        ratings=whole(read_ratings(run.ratings)),
        known=whole(_known(run)),
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


def _flat(value: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _flat(inner, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, "null" if value is None else str(value)


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


def differing_keys(runs: Sequence[Run]) -> list[tuple[str, list[str]]]:
    """Settings in which the runs are not all alike; where a run's folder is stands in its name."""
    keys = {key for run in runs for key in run.config if key not in PLACES}
    rows = [(key, [run.config.get(key, "–") for run in runs]) for key in sorted(keys)]
    return [(key, values) for key, values in rows if len(set(values)) > 1]
