"""MMLU, GLUE, SuperGLUE, BIG-bench Lite, SQuAD, TriviaQA and thousands more, through lm-evaluation-harness.

The harness words the questions, draws the solved ones before them and computes the numbers. Ours are the model, the
data, the model's own prompt template around each question, and the intervals (scores.py).
"""

from __future__ import annotations

import fnmatch
import importlib.util
import random
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ift.errors import ConfigError, missing_extra
from ift.evaluation.against_base import against_base, note_differences
from ift.evaluation.harness.data import asks_ifeval, check_data, check_ifeval, ready_for_ifeval
from ift.evaluation.harness.samples import data_versions, described, samples_of
from ift.evaluation.harness.scores import scale_of, scores_of
from ift.evaluation.journal import Journal
from ift.evaluation.results import Outcome, Score, package_versions
from ift.evaluation.subject import Bench, Subject
from ift.progress import progress
from ift.settings import EvaluateSettings

BIGBENCH_LITE = 24  # tasks
NOTES = {  # by the name of a task, or a pattern of names
    "squadv2": "squadv2: best_exact and best_f1 are with the best threshold on the likelihood of no answer, chosen on "
    "these questions; the other numbers count only an empty answer as none. Shares, not per cent.",
    "ift_squad": "ift_squad is SQuAD 1.1 in the words of the harness's squadv2. Shares, not per cent; questions of one "
    "passage are taken as independent.",
    "triviaqa": "triviaqa: one of the aliases, in whatever case and punctuation; the official script ignores articles "
    "too.",
    "cola": "GLUE has no test labels in public: its validation rows are asked, without STS-B and AX, so there is no "
    "official GLUE score here.",
    "multirc": 'multirc: the harness expects "no" after an answer that the data labels right, and "yes" after a wrong '
    "one; the number follows it.",
    "bigbench_*_generate_until": "BIG-bench tasks without choices count only the first of several right answers.",
}


def check(settings: EvaluateSettings) -> None:
    """Raises MachineError without the package, ConfigError for nothing to ask, DataError for data that is missing."""
    if importlib.util.find_spec("lm_eval") is None:
        raise missing_extra("lm-eval", "eval")
    wanted = settings.eval
    if not wanted.tasks or not wanted.prompts:
        key = "prompts" if wanted.tasks else "tasks"
        raise ConfigError(f"eval.{key}=[]: nothing to ask (name one at least: eval.tasks=[hellaswag,arc_easy])")
    root = Path(settings.data_root).absolute() if settings.data_root else None
    check_data(wanted.tasks, data_root=root, offline=settings.offline)
    if asks_ifeval(wanted.tasks):
        check_ifeval(data_root=root, offline=settings.offline)


def evaluate(bench: Bench) -> Outcome:
    """Raises what `check` does, and ConfigError for unknown tasks."""
    check(bench.settings)
    if asks_ifeval(bench.settings.eval.tasks):
        ready_for_ifeval(bench.data_root)
    try:
        import lm_eval.evaluator
    except ModuleNotFoundError as error:
        raise missing_extra("lm-eval" if error.name == "lm_eval" else str(error.name), "eval") from error

    from ift.evaluation.harness import tasks as lm_tasks

    settings, cache = bench.settings.eval, bench.folder / "data"
    subjects = list(bench.subjects)  # a base model that is missing is an error now, not after an hour
    with lm_tasks.quiet(), Journal(bench.folder / "answers.jsonl") as store:
        try:
            loaded = lm_tasks.load_tasks(
                settings.tasks,
                data_root=bench.data_root,
                offline=bench.settings.offline,
                cache=cache,
                title=f"{settings.name} data",
            )
            tasks, groups = loaded["tasks"], loaded["groups"]
            notes = set_few_shots(tasks, settings.num_fewshot)
            scores: list[Score] = []
            samples: list[dict[str, Any]] = []
            about: dict[str, Any] = {}
            for subject in subjects:
                for prompt in settings.prompts:
                    if prompt == "template" and not subject.takes_instructions:
                        notes.append(f"The {subject.label} model has no prompt template: it is not asked in one.")
                        continue
                    draw_again(tasks)
                    lm = adapter_for(
                        subject, prompt, batch_size=settings.generate.batch_size, store=store, title=settings.name
                    )
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
                    notes += note_cuts(lm, subject.label, prompt, settings.num_fewshot)
                    about = about or described(found, tasks)
            members = {name: [task.task_name for task in group.get_all_tasks()] for name, group in groups.items()}
            differences = against_base(samples, scores, members, scale_of=scale_of)
            notes = [
                *note_left_out(about, settings.name, settings.limit),
                *notes,
                *note_differences(differences),
                *note_tasks(tasks, scores),
            ]
        finally:
            shutil.rmtree(cache, ignore_errors=True)
    template = bench.tuned.template
    versions = package_versions("lm-eval", "datasets", "transformers", "torch")
    if template:
        versions |= {f"template {template.name}": template.hash}
    return Outcome(
        scores=scores,
        samples=samples,
        versions=versions | data_versions(about),
        notes=notes,
        about={"tasks": about, **({"against_base": differences} if differences else {})},
    )


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


def adapter_for(subject: Subject, prompt: str, *, batch_size: int | None, store: Journal, title: str) -> Any:
    """The model as the harness takes one, with a progress bar for each kind of request."""
    from ift.evaluation.harness.adapter import IftLM

    class WithBars(IftLM):
        request_count = 0  # so far

        def _with_bar(self, kind: str, requests: Sequence[Any], unit: str) -> Any:
            self.request_count += len(requests)
            who = "" if subject.label == "tuned" else f" {subject.label}"
            with progress(f"{title}{who} {prompt}", len(requests), unit) as self.advance:
                return getattr(super(), kind)(requests)

        def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
            return self._with_bar("loglikelihood", requests, "scored")

        def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = True) -> list[float]:
            return self._with_bar("loglikelihood_rolling", requests, "scored")

        def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = True) -> list[str]:
            return self._with_bar("generate_until", requests, "answers")

    return WithBars(subject, prompt=prompt, batch_size=batch_size, store=store)


# -- notes: what was left out, what the numbers do not say -------------------------------------------------------------


def note_left_out(about: Mapping[str, Mapping[str, Any]], name: str, limit: int | None) -> list[str]:
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


def note_cuts(lm: Any, label: str, prompt: str, few_shots: int | None) -> list[str]:
    notes = []
    who = f"{'Tuned' if label == 'tuned' else 'Base'} model, {prompt}"
    if lm.truncated:
        solved = ", the solved questions first" if few_shots else ""
        notes.append(
            f"{who}: {lm.truncated:,} of {lm.request_count:,} requests are longer than its {lm.max_length:,} positions "
            f"and lost their beginning{solved}."
        )
    if lm.shortened:
        notes.append(
            f"{who}: {lm.shortened:,} answers could be half its {lm.max_length:,} positions long, where the task "
            "allows more."
        )
    return notes


def note_tasks(tasks: Mapping[str, Any], scores: Sequence[Score]) -> list[str]:
    notes = [note for names, note in NOTES.items() if fnmatch.filter(tasks, names)]
    for score in scores:
        if score.metric == "unofficial_mean":
            notes.append("unofficial_mean is the plain mean of the tasks' numbers; nobody else publishes it.")
            break
    return notes
