"""MMLU, GLUE, SuperGLUE, BIG-bench Lite, SQuAD, TriviaQA and thousands more, through lm-evaluation-harness.

The harness words the questions, draws the solved ones before them and computes the numbers; this gives it our model and
the data, asks each question as the harness words it and inside the model's own template, and adds the intervals.
"""

from __future__ import annotations

import fnmatch
import hashlib
import math
import random
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ift.errors import ConfigError, missing_extra
from ift.evaluation.journal import Lines
from ift.evaluation.results import Outcome, Score, package_versions
from ift.evaluation.statistics import compare_pairs, holm, mean_interval
from ift.evaluation.subject import Bench, Subject
from ift.progress import progress

RESAMPLES = 1_000  # for the interval of a number that is no mean
FEW = 50  # kinds of values
TEXT = 8_000  # characters of a prompt in samples.jsonl; the end of a longer one
SUITES = ("glue", "superglue", "bigbench")  # evaluations of many tasks without an official number that we could give
BIGBENCH_LITE = 24
NOTES = {  # by the name of a task, or a pattern of names
    "squadv2": "squadv2: best_exact and best_f1 are with the best threshold on the likelihood of no answer, chosen on "
    "these questions; the other numbers count only an empty answer as none. Shares, not per cent.",
    "ift_squad": "ift_squad is SQuAD 1.1 in the words of the harness's squadv2. Shares, not per cent; questions of one "
    "passage are taken as independent.",
    "triviaqa": "triviaqa: one of the aliases, in whatever case and punctuation; the official script ignores articles "
    "too.",
    "cola": "GLUE has no test labels in public: its validation rows are asked, without STS-B and AX, so there is no "
    "official GLUE score here.",
    "multirc": 'multirc: the harness wants "no" after an answer that the data labels right, and "yes" after a wrong '
    "one; the number follows it.",
    "bigbench_*_generate_until": "BIG-bench tasks without choices count only the first of several right answers.",
}


def run(bench: Bench) -> Outcome:
    """Raises MachineError without the package, ConfigError for unknown tasks, DataError for data that is missing."""
    try:
        import lm_eval.evaluator
    except ModuleNotFoundError as error:
        raise missing_extra("lm-eval" if error.name == "lm_eval" else str(error.name), "eval") from error

    from ift.evaluation.harness import tasks as lm_tasks

    settings, cache = bench.settings.eval, bench.folder / "data"
    if not settings.tasks or not settings.prompts:
        key = "prompts" if settings.tasks else "tasks"
        raise ConfigError(f"eval.{key}=[]: nothing to ask (name one at least: eval.tasks=[hellaswag,arc_easy])")
    subjects = list(bench.subjects)  # a base model that is not there is told now, not after an hour
    with lm_tasks.quiet(), Lines(bench.folder / "answers.jsonl") as store:
        try:
            loaded = lm_tasks.load_tasks(
                settings.tasks,
                data_root=bench.data_root,
                offline=bench.settings.offline,
                cache=cache,
                what=f"{settings.name} data",
            )
            tasks, groups = loaded["tasks"], loaded["groups"]
            notes = set_few_shots(tasks, settings.num_fewshot)
            scores: list[Score] = []
            samples: list[dict[str, Any]] = []
            about: dict[str, Any] = {}
            for subject in subjects:
                for prompt in settings.prompts:
                    if prompt == "template" and subject.template is None:
                        notes.append("The base model has no prompt template: it is not asked in one.")
                        continue
                    draw_again(tasks)
                    lm = asking(subject, prompt, settings.generate.batch_size, store, settings.name)
                    found = lm_eval.evaluator.evaluate(
                        lm,
                        {"tasks": tasks, "groups": groups},
                        limit=settings.limit,
                        bootstrap_iters=0,  # the intervals are ours; its bootstrap forks, or takes minutes
                        apply_chat_template=prompt == "template",
                        fewshot_as_multiturn=True,
                    )
                    scores += scores_of(found, tasks, groups, settings.name, model=subject.label, prompt=prompt)
                    samples += samples_of(found, tasks, model=subject.label, prompt=prompt)
                    notes += cut(lm, subject.label, prompt, settings.num_fewshot)
                    about = about or described(found, tasks)
            members = {name: [task.task_name for task in group.get_all_tasks()] for name, group in groups.items()}
            differences = against_base(samples, scores, members)
            notes = [
                *left_out(about, settings.name, settings.limit),
                *notes,
                *told_of(differences),
                *said_of(tasks, scores),
            ]
        finally:
            shutil.rmtree(cache, ignore_errors=True)
    template = bench.tuned.template
    versions = package_versions("lm-eval", "datasets", "transformers", "torch")
    if template:
        versions |= {f"template {template.name}": template.hash}
    versions |= data_versions(about)
    more = {"against_base": differences} if differences else {}
    return Outcome(scores, samples, versions, notes, {"tasks": about, **more})


def set_few_shots(tasks: Mapping[str, Any], number: int | None) -> list[str]:
    """As `lm_eval.simple_evaluate` does: a task that is made for none keeps none. Returns what to say about that."""
    fixed = []
    for name, task in tasks.items():
        own = task.get_config("num_fewshot")
        if number is not None and own == 0 and number:
            fixed.append(name)
        elif number is not None or own is None:
            task.set_config(key="num_fewshot", value=number or 0)
    return [f"Asked without solved questions, as the task demands: {', '.join(fixed)}."] if fixed else []


def draw_again(tasks: Mapping[str, Any]) -> None:
    """The same solved questions for every model and prompt: those that `lm_eval.simple_evaluate` draws."""
    from lm_eval.defaults import DEFAULT_OTHER_SEED, DEFAULT_RANDOM_SEED

    random.seed(DEFAULT_RANDOM_SEED)
    np.random.seed(DEFAULT_OTHER_SEED)
    for task in tasks.values():
        task.set_fewshot_seed(seed=DEFAULT_OTHER_SEED)


def asking(subject: Subject, prompt: str, batch_size: int | None, store: Lines, what: str) -> Any:
    """The adapter, with a bar for each kind of request."""
    from ift.evaluation.harness.adapter import IftLM

    class WithBars(IftLM):
        asked = 0

        def _with_bar(self, kind: str, requests: Sequence[Any], unit: str) -> Any:
            self.asked += len(requests)
            who = "" if subject.label == "tuned" else f" {subject.label}"
            with progress(f"{what}{who} {prompt}", len(requests), unit) as self.advance:
                return getattr(super(), kind)(requests)

        def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
            return self._with_bar("loglikelihood", requests, "scored")

        def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = True) -> list[float]:
            return self._with_bar("loglikelihood_rolling", requests, "scored")

        def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = True) -> list[str]:
            return self._with_bar("generate_until", requests, "answers")

    return WithBars(subject, prompt=prompt, batch_size=batch_size, store=store)


# -- numbers -----------------------------------------------------------------------------------------------------------


def scores_of(
    found: Mapping[str, Any], tasks: Mapping[str, Any], groups: Mapping[str, Any], name: str, *, model: str, prompt: str
) -> list[Score]:
    """Every number of the harness with its interval; of groups, and of the suites that have none, the whole first."""
    from lm_eval.api.metrics import mean

    grouped = {task.task_name for group in groups.values() if group.has_aggregation for task in group.get_all_tasks()}
    suite = name in SUITES and len(tasks) > 1
    inner = {child.name for group in groups.values() for child in group.get_all_groups()}
    parts: list[Score] = []
    low: float | None
    high: float | None
    kept: dict[tuple[str, str], list[float]] = {}  # the values that a mean is of
    for task_name, task in tasks.items():
        filters = {sample["filter"] for sample in found["samples"][task_name]}
        for metric, filter_name, value in _numbers(found["results"][task_name]):
            values = [s[metric] for s in found["samples"][task_name] if s["filter"] == filter_name and metric in s]
            aggregate = task.aggregation().get(metric, mean)
            if aggregate is mean:
                kept[task_name, f"{metric},{filter_name}"] = [float(value) for value in values]
                estimate = mean_interval(values)
                low, high = estimate.low, estimate.high
            else:
                low, high = bootstrap_interval(aggregate, values)
            parts.append(
                Score(
                    task=task_name,
                    metric=metric if len(filters) == 1 else f"{metric} ({filter_name})",
                    value=float(value),
                    n=len(values),
                    low=low,
                    high=high,
                    higher_is_better=found["higher_is_better"].get(task_name, {}).get(metric) is not False,
                    headline=not (suite or task_name in grouped or (task_name == "squadv2" and "_" in metric)),
                    model=model,
                    prompt=prompt,
                )
            )
    wholes = []
    for group_name, group in groups.items():
        of_group = list(_numbers(found["results"].get(group_name, {})))
        for metric, filter_name, value in of_group:
            weighted = all(rule.weight_by_size for rule in group.aggregate_metric_list if rule.metric == metric)
            lists = [kept.get((task.task_name, f"{metric},{filter_name}"), []) for task in group.get_all_tasks()]
            pooled = [value for values in lists for value in values]
            low, high = _around_mean(lists, weighted)
            wholes.append(
                Score(
                    task=group_name,
                    metric=metric if [m for m, *_ in of_group].count(metric) == 1 else f"{metric} ({filter_name})",
                    value=float(value),
                    n=len(pooled),
                    low=low,
                    high=high,
                    higher_is_better=found["higher_is_better"].get(group_name, {}).get(metric) is not False,
                    headline=group_name not in inner,
                    model=model,
                    prompt=prompt,
                )
            )
    if suite:
        wholes.append(unofficial_mean(name, parts, model=model, prompt=prompt))
    return sorted(wholes, key=lambda score: not score.headline) + parts


def _numbers(results: Mapping[str, Any]) -> Iterator[tuple[str, str, Any]]:
    """metric, filter, value of what the harness keys "metric,filter"."""
    for key, value in results.items():
        metric, comma, filter_name = key.partition(",")
        if comma and not metric.endswith("_stderr") and isinstance(value, int | float | np.number):
            yield metric, filter_name, value


def _around_mean(lists: Sequence[Sequence[float]], weighted: bool) -> tuple[float | None, float | None]:
    """The interval of a group's number: of all its questions together, or of the mean of its tasks' means."""
    if not all(lists):
        return None, None
    if weighted:
        estimate = mean_interval([value for values in lists for value in values])
        return estimate.low, estimate.high
    spread = math.sqrt(sum(np.var(values, ddof=1) / len(values) for values in lists)) / len(lists)
    middle = float(np.mean([np.mean(values) for values in lists]))
    return middle - 1.96 * spread, middle + 1.96 * spread


def bootstrap_interval(aggregate: Callable[[Any], float], values: Sequence[Any]) -> tuple[float | None, float | None]:
    """95 % percentile interval of a number that is no mean, as F1 and Matthews' correlation are (Efron 1979).

    What is drawn is how often each different value occurs. Of few kinds of values, as pairs of right and said labels
    are, a draw that came before is not computed again.
    """
    if len(values) < 2:
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
    return float(low), float(high)


def _hashable(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return tuple(map(_hashable, value))
    return repr(value) if isinstance(value, dict) else value


def unofficial_mean(name: str, parts: Sequence[Score], *, model: str, prompt: str) -> Score:
    """The mean of the tasks' numbers: a task with two gives their mean, and MNLI's two halves are one task.

    Its interval takes the tasks as independent: squares of half the tasks' intervals are added.
    """
    by_task: dict[str, list[Score]] = defaultdict(list)
    for score in parts:
        by_task[score.task.removesuffix("_mismatch")].append(score)
    means = [np.mean([score.value for score in scores]) for scores in by_task.values()]
    halves = [
        np.mean([(score.high - score.low) / 2 for score in scores if score.high is not None and score.low is not None])
        for scores in by_task.values()
        if any(score.high is not None for score in scores)
    ]
    value = float(np.mean(means))
    half = math.sqrt(sum(half**2 for half in halves)) / len(means) if len(halves) == len(means) else math.nan
    asked = {score.task: score.n for score in parts}
    return Score(
        task=name,
        metric="unofficial_mean",
        value=value,
        n=sum(asked.values()),
        low=value - half,
        high=value + half,
        model=model,
        prompt=prompt,
    )


def against_base(
    samples: Sequence[Mapping[str, Any]], scores: Sequence[Score], groups: Mapping[str, Sequence[str]]
) -> list[dict[str, Any]]:
    """Tuned less base on the same questions, of each number that is a mean, of each group too; p adjusted by Holm.

    The base model is asked in the raw form; the tuned one in each that was asked for.
    """
    values: dict[tuple[str, str], dict[tuple[str, str], list[float]]] = defaultdict(lambda: defaultdict(list))
    for line in samples:
        for metric, value in line["metrics"].items():
            label = metric if "filter" not in line else f"{metric} ({line['filter']})"
            if isinstance(value, int | float):
                for name in (line["task"], *(group for group, members in groups.items() if line["task"] in members)):
                    values[line["model"], line["prompt_form"]][name, label].append(float(value))
    base = values.get(("base", "raw"))
    if base is None:
        return []
    higher = {(score.task, score.metric): score.higher_is_better for score in scores}
    keys = [
        (prompt, *key)
        for (model, prompt), tuned in values.items()
        for key in tuned
        if model == "tuned" and key in higher
    ]
    tests = holm({key: compare_pairs(base[key[1:]], values["tuned", key[0]][key[1:]]) for key in keys})
    return [
        {
            "task": task,
            "metric": metric,
            "prompt": prompt,
            **{name: _plain(getattr(tests[prompt, task, metric], name)) for name in ("difference", "low", "high")},
            **{name: getattr(tests[prompt, task, metric], name) for name in ("p", "n")},
            "verdict": tests[prompt, task, metric].verdict(higher_is_better=higher[task, metric]),
        }
        for prompt, task, metric in keys
    ]


def told_of(differences: Sequence[Mapping[str, Any]]) -> list[str]:
    """One sentence for all of them, which names those that are settled."""
    if not differences:
        return []
    parts = []
    for verdict in ("better", "worse"):
        named = [
            f"{each['task']} {each['metric']} {each['prompt']} ({each['difference']:+.3f})"
            for each in differences
            if each["verdict"] == verdict
        ]
        more = f" and {len(named) - 5} more" if len(named) > 5 else ""
        parts += [f"{verdict} in {', '.join(named[:5])}{more}"] if named else []
    unsettled = sum(each["verdict"] == "not settled" for each in differences)
    parts += [f"not settled in {unsettled}"] if unsettled else []
    return [f"Tuned against base on the same questions, {len(differences)} tests with Holm's p: {'; '.join(parts)}."]


# -- what was asked ----------------------------------------------------------------------------------------------------


def samples_of(
    found: Mapping[str, Any], tasks: Mapping[str, Any], *, model: str, prompt: str
) -> Iterator[dict[str, Any]]:
    """A line for each question.

    said      what the model wrote, or the continuation that it holds most likely
    written   the text as it came, where a filter of the task made `said` of it
    scored    [continuation, log-likelihood, whether each token was the model's first choice] of each that was scored
    """
    for name in tasks:
        filters = {sample["filter"] for sample in found["samples"][name]}
        for sample in found["samples"][name]:
            scored: list[list[Any]] = []
            written = None
            contexts = [str(arguments[0]) for arguments in sample["arguments"]]
            for arguments, (answer, *_) in zip(sample["arguments"], sample["resps"], strict=True):
                if isinstance(answer, str):
                    written = answer
                elif isinstance(answer, tuple | list):
                    whole = len(set(contexts)) == 1
                    text = str(arguments[1]) if whole else str(arguments[0]) + str(arguments[1])
                    scored.append([_end_of(text), float(answer[0]), bool(answer[1])])
                else:
                    scored.append([_end_of(str(arguments[0])), float(answer), False])
            said: Any = max(scored, key=lambda each: each[1])[0] if scored else None
            if written is not None:
                said = next((r for r in sample["filtered_resps"] if isinstance(r, str)), written)
            target = sample["target"]
            if isinstance(target, int) and written is None and target < len(scored):
                target = scored[target][0]
            yield {
                "task": name,
                "doc_id": sample["doc_id"],
                "model": model,
                "prompt_form": prompt,
                "prompt": _end_of(contexts[0]),
                "said": said,
                "target": _plain(target),
                "metrics": {metric: _plain(sample[metric]) for metric in sample["metrics"]},
                "scored": scored,
                **({"written": written} if written not in (None, said) else {}),
                **({"filter": sample["filter"]} if len(filters) > 1 else {}),
            }


def _end_of(text: str) -> str:
    return text if len(text) <= TEXT else "..." + text[-TEXT:]


def _plain(value: Any) -> Any:
    """As JSON can hold it."""
    if isinstance(value, np.generic | np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def described(found: Mapping[str, Any], tasks: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What decides each task's numbers besides the model."""
    from ift.evaluation.harness.tasks import revision_of

    return {
        name: {
            "version": str(found["versions"].get(name)),
            "data": task.DATASET_PATH,
            "config": task.DATASET_NAME,
            "revision": revision_of(task),
            "questions_hash": _hash(sample["doc_hash"] for sample in found["samples"][name]),
            "prompts_hash": _hash(sample["prompt_hash"] for sample in found["samples"][name]),
            "num_fewshot": task.get_config("num_fewshot"),
            "asked": found["n-samples"][name]["effective"],
            "of": found["n-samples"][name]["original"],
        }
        for name, task in tasks.items()
    }


def _hash(texts: Any) -> str:
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:12]


def data_versions(about: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Each data set with its commit on the Hub, or where that is unknown with a hash of the questions asked of it."""
    by_data: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for each in about.values():
        by_data[str(each["data"])].append(each)
    return {
        data: next((each["revision"][:12] for each in tasks if each["revision"]), None)
        or f"questions {_hash(each['questions_hash'] for each in tasks)}"
        for data, tasks in by_data.items()
    }


# -- what the numbers do not say ---------------------------------------------------------------------------------------


def left_out(about: Mapping[str, Mapping[str, Any]], name: str, limit: int | None) -> list[str]:
    notes = []
    asked, there = (sum(each[key] for each in about.values()) for key in ("asked", "of"))
    if asked < there:
        notes.append(f"The first {limit} questions of each task: {asked:,} of {there:,}. eval.limit=null asks all.")
    if name == "quick":
        from ift.evaluation.harness.tasks import SQUAD, data_of, often_asked

        suites = {"mmlu": "MMLU's", "glue": "GLUE's", "super-glue-lm-eval-v1": "SuperGLUE's"}
        missing = []
        for suite, whose in suites.items():
            members = set(data_of([suite], often_asked()))
            missing.append(f"{len(members - set(about))} of {whose} {len(members)} tasks")
        lite = sum(task.startswith("bigbench_") for task in about)
        missing.append(f"{BIGBENCH_LITE - lite} of BIG-bench Lite's {BIGBENCH_LITE}")
        missing += [task for task in (*SQUAD, "triviaqa") if task not in about]
        notes.append(f"A first look, too rough to compare models by. Left out: {', '.join(missing)}.")
    return notes


def cut(lm: Any, label: str, prompt: str, few_shots: int | None) -> list[str]:
    notes = []
    who = f"{'Tuned' if label == 'tuned' else 'Base'} model, {prompt}"
    if lm.truncated:
        solved = ", the solved questions first" if few_shots else ""
        notes.append(
            f"{who}: {lm.truncated:,} of {lm.asked:,} requests are longer than its {lm.max_length:,} positions and "
            f"lost their beginning{solved}."
        )
    if lm.shortened:
        notes.append(
            f"{who}: {lm.shortened:,} answers could be half its {lm.max_length:,} positions long, where the task "
            "allows more."
        )
    return notes


def said_of(tasks: Mapping[str, Any], scores: Sequence[Score]) -> list[str]:
    notes = [note for names, note in NOTES.items() if fnmatch.filter(tasks, names)]
    for score in scores:
        if score.metric == "unofficial_mean":
            notes.append("unofficial_mean is the plain mean of the tasks' numbers; nobody else publishes it.")
            break
    return notes
