"""The numbers of the harness with their intervals: of tasks, of groups and of suites."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ift.evaluation.results import Score
from ift.evaluation.statistics import SHARE, UNBOUNDED, UNIT, Estimate, Scale, mean_interval, mean_of_means

RESAMPLES = 1_000  # for the interval of a number that is no mean
FEWEST = 50  # questions; of 10 to 30 the percentiles of F1 cover 50 to 94 % where 95 % is said, of 50 some 94 %
FEW = 50  # different values; of so few, a draw often comes up again
FROM_0_TO_1 = ("acc", "acc_norm", "acc_bytes", "accuracy", "exact_match", "em", "f1")  # of each question
SUITES = ("glue", "superglue", "bigbench")  # of many tasks, without an official number that we could give

Interval = tuple[float | None, float | None]


@dataclass(frozen=True)
class Number:
    """One number of the harness, and the values of the questions that it is computed from."""

    task: str  # or a group
    metric: str
    value: float
    values: Sequence[Sequence[Any]]  # one list for a task; for a group, one for each of its tasks
    aggregate: Callable[[Any], float] | None  # makes the number of a task's values; None for a mean
    weighted: bool  # a mean over all questions; False: of a group, the mean of its tasks' means
    higher_is_better: bool
    headline: bool

    @property
    def interval(self) -> Interval:
        if self.aggregate is not None:
            return bootstrap_interval(self.aggregate, [value for values in self.values for value in values])
        return mean_of_lists_interval(self.values, self.metric, weighted=self.weighted)


def scores_of(
    found: Mapping[str, Any], tasks: Mapping[str, Any], groups: Mapping[str, Any], name: str, *, model: str, prompt: str
) -> list[Score]:
    """Every number of the harness with its interval; of groups, and of the suites that have none, the whole first.

    found: what `lm_eval.evaluator.evaluate` returns; name: of the evaluation.
    """
    suite = name in SUITES and len(tasks) > 1
    of_tasks = list(_task_numbers(found, tasks, groups, suite=suite))
    of_groups = list(_group_numbers(found, groups))
    wholes: list[Score] = []
    parts: list[Score] = []
    for scores, numbers in ((wholes, of_groups), (parts, of_tasks)):
        for number in numbers:
            low, high = number.interval
            scores.append(
                Score(
                    task=number.task,
                    metric=number.metric,
                    value=number.value,
                    n=sum(map(len, number.values)),
                    low=low,
                    high=high,
                    model=model,
                    prompt=prompt,
                    higher_is_better=number.higher_is_better,
                    headline=number.headline,
                )
            )
    if suite:
        wholes.append(unofficial_mean(name, parts, model=model, prompt=prompt))
    return sorted(wholes, key=lambda score: not score.headline) + parts


def _task_numbers(
    found: Mapping[str, Any], tasks: Mapping[str, Any], groups: Mapping[str, Any], *, suite: bool
) -> Iterator[Number]:
    grouped = {task.task_name for group in groups.values() if group.has_aggregation for task in group.get_all_tasks()}
    for name, task in tasks.items():
        several_filters = len({sample["filter"] for sample in found["samples"][name]}) > 1
        for metric, filter_name, value in _numbers(found["results"][name]):
            yield Number(
                task=name,
                metric=f"{metric} ({filter_name})" if several_filters else metric,
                value=float(value),
                values=[_values(found, name, metric, filter_name)],
                aggregate=_aggregate(task, metric),
                weighted=True,
                higher_is_better=_higher_is_better(found, name, metric),
                headline=not (suite or name in grouped or (name == "squadv2" and "_" in metric)),
            )


def _group_numbers(found: Mapping[str, Any], groups: Mapping[str, Any]) -> Iterator[Number]:
    inner = {child.name for group in groups.values() for child in group.get_all_groups()}
    for name, group in groups.items():
        numbers = list(_numbers(found["results"].get(name, {})))
        metrics = [metric for metric, *_ in numbers]
        for metric, filter_name, value in numbers:
            yield Number(
                task=name,
                metric=f"{metric} ({filter_name})" if metrics.count(metric) > 1 else metric,
                value=float(value),
                values=[
                    _values(found, task.task_name, metric, filter_name) if _aggregate(task, metric) is None else []
                    for task in group.get_all_tasks()
                ],
                aggregate=None,
                weighted=all(rule.weight_by_size for rule in group.aggregate_metric_list if rule.metric == metric),
                higher_is_better=_higher_is_better(found, name, metric),
                headline=name not in inner,
            )


def _values(found: Mapping[str, Any], task: str, metric: str, filter_name: str) -> list[Any]:
    """Of each question, in order."""
    samples = found["samples"][task]
    return [sample[metric] for sample in samples if sample["filter"] == filter_name and metric in sample]


def _aggregate(task: Any, metric: str) -> Callable[[Any], float] | None:
    from lm_eval.api.metrics import mean

    aggregate: Callable[[Any], float] = task.aggregation().get(metric, mean)
    return None if aggregate is mean else aggregate


def _higher_is_better(found: Mapping[str, Any], name: str, metric: str) -> bool:
    return found["higher_is_better"].get(name, {}).get(metric) is not False


def _numbers(results: Mapping[str, Any]) -> Iterator[tuple[str, str, Any]]:
    """metric, filter, value of what the harness keys "metric,filter"."""
    for key, value in results.items():
        metric, comma, filter_name = key.partition(",")
        if comma and not metric.endswith("_stderr") and isinstance(value, int | float | np.number):
            yield metric, filter_name, value


# -- intervals -----------------------------------------------------------------------------------------------------


def scale_of(metric: str, values: Sequence[float]) -> Scale:
    """What a question's number can be; a metric that is not known to be between 0 and 1 may be anything."""
    name, inside = metric.partition(" (")[0], all(0 <= value <= 1 for value in values)
    if not inside or (name not in FROM_0_TO_1 and not name.endswith("_acc")):
        return UNBOUNDED
    return SHARE if all(value in (0, 1) for value in values) else UNIT


def mean_of_lists_interval(lists: Sequence[Sequence[float]], metric: str, *, weighted: bool) -> Interval:
    """Of the mean of all values together (weighted), or of the mean of the lists' means; None where a list is empty."""
    if not all(lists):
        return None, None
    together = [value for values in lists for value in values]
    scale = scale_of(metric, together)
    estimate = (
        mean_interval(together, scale)
        if weighted
        else mean_of_means([mean_interval(values, scale) for values in lists])
    )
    return estimate.low, estimate.high


def bootstrap_interval(aggregate: Callable[[Any], float], values: Sequence[Any]) -> Interval:
    """95 % percentile interval of a number that is no mean, such as F1 or Matthews' correlation (Efron 1979).

    Each draw is how often each different value occurs. Where there are few different values, such as pairs of labels, a
    draw that came up before is not computed again. None of fewer than FEWEST questions, nor where all draws give the
    same number: then they say nothing of how far it may be off.
    """
    if len(values) < FEWEST:
        return None, None
    kinds = {_hashable(value): value for value in values}
    place = {kind: number for number, kind in enumerate(kinds)}
    different = list(kinds.values())
    chances = np.bincount([place[_hashable(value)] for value in values]) / len(values)
    draws = np.random.default_rng(0)
    known: dict[bytes, float] = {}
    numbers = []
    for _ in range(RESAMPLES):
        times = draws.multinomial(len(values), chances)
        number = known.get(times.tobytes())
        if number is None:
            number = float(aggregate([different[kind] for kind in np.repeat(np.arange(len(different)), times)]))
            if len(different) <= FEW:
                known[times.tobytes()] = number
        numbers.append(number)
    low, high = np.nanquantile(numbers, (0.025, 0.975))
    return (float(low), float(high)) if low < high else (None, None)


def _hashable(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return tuple(map(_hashable, value))
    return repr(value) if isinstance(value, dict) else value


# -- over several tasks ----------------------------------------------------------------------------------------------


def unofficial_mean(name: str, parts: Sequence[Score], *, model: str, prompt: str) -> Score:
    """The mean of the tasks' numbers: a task with two gives their mean, and MNLI's two halves are one task.

    Its interval takes the tasks as independent, and the two numbers of one task as if they always erred together.
    """
    by_task: dict[str, list[Score]] = defaultdict(list)
    for score in parts:
        by_task[score.task.removesuffix("_mismatch")].append(score)
    mean = mean_of_means([_mean_estimate(scores) for scores in by_task.values()])
    questions = {score.task: score.n for score in parts}
    return Score(
        task=name,
        metric="unofficial_mean",
        value=mean.mean,
        n=sum(questions.values()),
        low=mean.low,
        high=mean.high,
        model=model,
        prompt=prompt,
    )


def _mean_estimate(scores: Sequence[Score]) -> Estimate:
    """Means of a task's values, low ends and high ends; of those that have none, nan."""
    value, low, high = (
        float(np.mean([math.nan if (number := getattr(score, name)) is None else number for score in scores]))
        for name in ("value", "low", "high")
    )
    return Estimate(scores[0].n, value, low, high)
