"""OpenAI Evals, the open-source package `evals`: its own evals by name, and those of one's own registries.

A registry is a folder with evals/*.yaml, data/ and modelgraded/*.yaml. Its files name classes; only six of the
package's own are ever built, and data is read below data/ alone. (OpenAI's hosted product of that name is another
thing, and is gone.) The package works in a process of its own, openai_evals_child.py: it makes a client with a key
when it is imported, and reads ~/.evals.
"""

from __future__ import annotations

import hashlib
import importlib.util
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from ift.data.reading.rows import Row
from ift.data.reading.values import kind_of
from ift.errors import ConfigError, DataError, MachineError, one_line
from ift.evaluation.journal import Journal
from ift.evaluation.judging import JudgeClient, OnlyPlannedError, ReplyOptions, Request
from ift.evaluation.packages.child import run_child
from ift.evaluation.recorded import Question, RecordedModel, note_unfit
from ift.evaluation.results import Outcome, Score, package_versions
from ift.evaluation.statistics import SHARE, UNBOUNDED, UNIT, mean_interval
from ift.evaluation.subject import Bench, Subject
from ift.settings import EvaluateSettings
from ift.text.conversations import ROLES, Conversation, conversation_of, join_neighbours

# what a registry may name as a class, and which of its arguments a file may give
FILES = frozenset({"samples_jsonl", "few_shot_jsonl"})
CLASSES: dict[str, frozenset[str]] = {
    "evals.elsuite.basic.match:Match": FILES | {"max_tokens", "num_few_shot"},
    "evals.elsuite.basic.includes:Includes": frozenset({"samples_jsonl", "ignore_case"}),
    "evals.elsuite.basic.fuzzy_match:FuzzyMatch": frozenset({"samples_jsonl", "max_tokens"}),
    "evals.elsuite.basic.json_match:JsonMatch": frozenset({"samples_jsonl", "max_tokens"}),
    "evals.elsuite.test.match:TestMatch": frozenset(),
    "evals.elsuite.modelgraded.classify:ModelBasedClassify": frozenset(
        {"samples_jsonl", "modelgraded_spec", "modelgraded_spec_args", "sample_kwargs", "eval_kwargs", "multicomp_n"}
        | {"eval_type", "match_fn", "metaeval"}
    ),
}
GRADED = frozenset(
    {"prompt", "choice_strings", "input_outputs", "eval_type", "choice_scores", "output_template", "key", "group"}
)
NAMES = {"example_user": "user", "example_assistant": "assistant"}  # few-shot turns in the package's data


@dataclass(frozen=True)
class Spec:
    """One eval as a registry has it, checked."""

    name: str  # test-match
    key: str  # test-match.s1.simple-v0, what the name stands for
    kind: str  # Match
    args: Mapping[str, Any]
    registry: Path
    samples: Path  # where its questions are, for messages
    modelgraded: tuple[str, Mapping[str, Any]] | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "key": self.key,
            "class": self.kind,
            "args": dict(self.args),
            "registry": str(self.registry),
            "samples": str(self.samples),
            "modelgraded": self.modelgraded,
        }


def check(settings: EvaluateSettings) -> list[Spec]:
    """The evals that are named. Raises ConfigError, DataError and MachineError for what is missing."""
    own = [Path(folder).absolute() for folder in settings.eval.registry]
    if not settings.eval.tasks:
        raise ConfigError("eval.tasks: none (name some of the registry's evals: eval.tasks=[test-match,born-first])")
    specs = [find_eval(name, [built_in(), *own]) for name in settings.eval.tasks]
    if any(spec.modelgraded for spec in specs) and not (settings.judge.model or settings.judge.replay):
        raise ConfigError("judge.model: not set (add judge.model=NAME, the judge's name on its server)")
    return specs


def evaluate(bench: Bench) -> Outcome | None:
    """Raises ConfigError, DataError and MachineError; answers and verdicts that came before an error are kept."""
    settings = bench.settings
    specs = check(settings)
    by_name = {spec.name: spec for spec in specs}
    judge: JudgeClient | None = None
    with ExitStack() as stack:
        if any(spec.modelgraded for spec in specs):  # an error now, before anything is answered
            judge = stack.enter_context(bench.open_judge(bench.folder, settings.judge))
        kept = stack.enter_context(Journal(bench.folder / "answers.jsonl"))
        contestants = {
            f"{subject.label} {prompt}": Contestant(subject, prompt, RecordedModel(bench, subject, kept))
            for subject in bench.subjects
            # a base model has no template of its own
            for prompt in (settings.eval.prompts if subject.takes_instructions else ["raw"])
        }
        try:
            runs = _run_package(bench, specs, contestants, judge)
        except OnlyPlannedError:
            return None
        if judge and not judge.said:
            raise MachineError(f"judge: none of its verdicts has any text ({judge.cure})")
        about = judge.describe() if judge else {}
    scores, samples = [], []
    for each in runs:
        contestant, spec = contestants[each["model"]], by_name[each["name"]]
        who = {"model": contestant.subject.label, "prompt": contestant.prompt}
        scores += _scores(spec, each, **who)
        samples += list(_samples(spec, each["events"], **who))
    reports = {f"{each['name']} ({each['model']})": _without_nan(each["report"]) for each in runs}
    unfit = note_unfit([contestant.answers for contestant in contestants.values()])
    return Outcome(
        scores=scores,
        samples=samples,
        versions=package_versions("evals") | _versions(specs) | {"template": _template(bench)},
        notes=[*_notes(bench, specs, judge), *unfit],
        about={**about, "reports": reports},
    )


@dataclass(frozen=True)
class Contestant:
    """A model in one form of prompt, and where its answers come from."""

    subject: Subject
    prompt: str  # raw or template
    answers: RecordedModel

    def reply_to(self, prompts: Sequence[Mapping[str, Any]], *, what: str) -> list[str]:
        raw = self.prompt == "raw"
        questions: list[Question] = [p["text"] if raw else as_row(p["prompt"], self.subject) for p in prompts]
        return self.answers(questions, what=what) if questions else []


def built_in() -> Path:
    """The package's own registry. Raises MachineError where the package is missing."""
    spec = importlib.util.find_spec("evals")
    if spec is None or not spec.submodule_search_locations:
        raise MachineError(
            'this needs the package evals (pip install "ift[openai_evals]" && pip install --no-deps evals)'
        )
    return Path(spec.submodule_search_locations[0]) / "registry"


# -- registries ----------------------------------------------------------------------------------------------------


def find_eval(name: str, registries: Sequence[Path]) -> Spec:
    """The eval that a name stands for. Raises ConfigError, DataError with the file that is wrong."""
    for registry in registries:
        if not (registry / "evals").is_dir():
            raise ConfigError(f"eval.registry: {registry} is no registry (it needs a folder evals/ with YAML files)")
    key, value, file, registry = _entry(name, registries, "evals")
    seen = {name}
    while isinstance(value, str) or "id" in value:  # an alias
        key = value if isinstance(value, str) else value["id"]
        if not isinstance(key, str) or key in seen:
            raise DataError(f"{file}: {name}: its id leads nowhere")
        seen.add(key)
        _, value, file, registry = _entry(key, registries, "evals")
    where = f"{file}: {key}"
    named = value.get("class")
    if not isinstance(named, str) or named not in CLASSES:
        kinds = ", ".join(each.partition(":")[2] for each in CLASSES)
        raise DataError(f"{where}: class {one_line(str(named), 60)} is none that is run ({kinds})")
    if len(key.split(".")) < 2:
        raise DataError(f"{where}: the name must be NAME.SPLIT (the package's rule)")
    args = value.get("args") or {}
    if not isinstance(args, dict) or not set(args) <= CLASSES[named]:
        allowed = ", ".join(sorted(CLASSES[named])) or "none"
        raise DataError(f"{where}: args are {one_line(str(list(args)), 60)}; there may be {allowed}")
    kind = named.partition(":")[2]
    files = {key: _data_file(registry, args[key], where) for key in FILES & set(args)}
    args |= {key: str(path) for key, path in files.items()}  # a relative one could be found elsewhere
    if kind != "TestMatch" and "samples_jsonl" not in args:
        raise DataError(f"{where}: no samples_jsonl (the file of its questions, below data/)")
    graded = None
    if kind == "ModelBasedClassify":
        graded = _graded(args, registries, where)
    return Spec(name, key, kind, args, registry, files.get("samples_jsonl", file), graded)


def _entry(name: str, registries: Sequence[Path], folder: str) -> tuple[str, Any, Path, Path]:
    """(name, value, file, registry) of what a YAML file of a registry calls so; only files with that word are read."""
    word = re.compile(rf"^['\"]?{re.escape(name)}['\"]?\s*:", re.MULTILINE)
    found: list[tuple[str, Any, Path, Path]] = []
    for registry in registries:
        for file in sorted((registry / folder).glob("*.yaml")):
            text = file.read_text(encoding="utf-8", errors="replace")
            if word.search(text):
                value = _read_yaml(text, file).get(name)
                if not isinstance(value, str | dict):
                    raise DataError(f"{file}: {name}: {kind_of(value)}, not an eval")
                found.append((name, value, file, registry))
    if not found:
        where = ", ".join(str(registry) for registry in registries[1:]) or "the package's registry"
        raise ConfigError(f"eval.tasks={name}: no such name in {where} (is it in one of eval.registry's folders?)")
    if len(found) > 1:
        raise DataError(f"{found[1][2]}: {name} is defined in {found[0][2]} too (rename one)")
    return found[0]


def _read_yaml(text: str, file: Path) -> dict[Any, Any]:
    try:
        value = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise DataError(f"{file}: not YAML of plain values: {one_line(str(error), 80)}") from error
    if not isinstance(value, dict):
        raise DataError(f"{file}: {kind_of(value)}, not names with their values")
    return value


def _data_file(registry: Path, given: Any, where: str) -> Path:
    """A file below the registry's data/, and nothing else: no other path, no address."""
    data = (registry / "data").resolve()
    path = (data / str(given)).resolve()
    if not isinstance(given, str) or "://" in given or not path.is_relative_to(data):
        raise DataError(f"{where}: {one_line(str(given), 60)} lies outside the registry's data folder")
    if not path.is_file():
        raise DataError(f"{where}: {path} is no file (data of the package is in its wheel, not in its repository)")
    return path


def _graded(args: Mapping[str, Any], registries: Sequence[Path], where: str) -> tuple[str, Mapping[str, Any]]:
    name = args.get("modelgraded_spec")
    if not isinstance(name, str):
        raise DataError(f"{where}: no modelgraded_spec (the name of a prompt in modelgraded/)")
    _, value, file, _ = _entry(name, registries, "modelgraded")
    if not isinstance(value, dict) or not set(value) <= GRADED:
        raise DataError(f"{file}: {name}: has more than a prompt for a grader has ({', '.join(sorted(GRADED))})")
    return name, value


# -- the package at work -------------------------------------------------------------------------------------------


def _run_package(
    bench: Bench, specs: Sequence[Spec], contestants: Mapping[str, Contestant], judge: JudgeClient | None
) -> list[dict[str, Any]]:
    """Report and events of each eval for each contestant, as openai_evals_child.py gives them."""

    def reply_to(message: Any) -> list[str]:
        label, prompts = message["model"], message["prompts"]
        places = {who: [i for i, prompt in enumerate(prompts) if prompt["who"] == who] for who in ("model", "judge")}
        to_model, to_judge = ([prompts[i] for i in places[who]] for who in ("model", "judge"))
        replies = contestants[label].reply_to(to_model, what=f"answered ({label})")
        replies += _judge_replies(bench, judge, to_judge)
        by_place = dict(zip(places["model"] + places["judge"], replies, strict=True))
        return [by_place[i] for i in range(len(prompts))]

    work = bench.folder / "package"
    work.mkdir(exist_ok=True)
    job = {
        "evals": [spec.to_json() for spec in specs],
        "models": list(contestants),
        "limit": bench.settings.eval.limit,
        "seed": bench.settings.seed,
    }
    environment = {"OPENAI_API_KEY": "unused", "EVALS_SEQUENTIAL": "1", "EVALS_SHOW_EVAL_PROGRESS": ""}
    module, extra = "ift.evaluation.packages.openai_evals_child", "openai_evals"
    runs: list[dict[str, Any]] = run_child(module, work, job, reply_to, extra=extra, **environment)
    return runs


def _judge_replies(bench: Bench, judge: JudgeClient | None, prompts: Sequence[Mapping[str, Any]]) -> list[str]:
    """The grader's replies, "" where it refused."""
    if not prompts or judge is None:
        return []
    longest = max([bench.settings.judge.max_tokens, *(p["max_tokens"] or 0 for p in prompts)])  # the eval says how long
    requests = [Request(tuple(_messages(p["prompt"]))) for p in prompts]
    replies = judge.replies(requests, ReplyOptions(max_tokens=longest))
    return [reply.text if reply else "" for reply in replies]


def _messages(prompt: Any) -> list[tuple[str, str]]:
    """(role, text) of a prompt, which is text or OpenAI's list of messages; few-shot turns get the role they show."""
    if isinstance(prompt, str):
        return [("user", prompt)]
    return [(NAMES.get(str(m.get("name")), str(m.get("role"))), str(m.get("content", ""))) for m in prompt]


def as_row(prompt: Any, subject: Subject) -> Row:
    """A prompt as a row for the model's template: system text, earlier turns, and the last instruction.

    Where the template has no place for a system text, it stands before the first instruction. Turns of one role in a
    row are one turn. A conversation that does not end with the user is one instruction.
    """
    assert subject.template
    messages = [(ROLES.get(role, "user"), text) for role, text in _messages(prompt)]
    system = ""
    while len(messages) > 1 and messages[0][0] == "system":
        system = "\n\n".join(filter(None, (system, messages.pop(0)[1])))
    turns = join_neighbours((role if role == "assistant" else "user", text) for role, text in messages)
    try:
        conversation = conversation_of(turns)
    except ValueError:
        conversation = Conversation("\n\n".join(text for _, text in turns))
    conversation = replace(conversation, system=system)
    if subject.template.missing_place(conversation):
        conversation = conversation.without_system()
    return Row(conversation.instruction, system=conversation.system, history=conversation.history, file="", number=1)


# -- scores ----------------------------------------------------------------------------------------------------------


def _scores(spec: Spec, run: Mapping[str, Any], *, model: str, prompt: str) -> list[Score]:
    """Every number of the package's report; a mean over single answers gets its interval from those."""
    of = [event["data"] for event in run["events"] if event["type"] == "metrics"]
    single: dict[str, list[float]] = {
        "accuracy": [float(e["data"]["correct"]) for e in run["events"] if e["type"] == "match"],
        **{
            name: [float(d[name]) for d in of if d.get(name) is not None] for name in ("f1_score", "score", "metascore")
        },
    }
    scales = {"accuracy": SHARE, "f1_score": UNIT}  # the others are as the eval's own file defines them
    headline = next((name for name in ("accuracy", "score", "metascore") if name in run["report"]), None)
    scores = []
    for name, value in run["report"].items():
        values = single.get(name, [])
        estimate = mean_interval(values, scales.get(name, UNBOUNDED))
        scores.append(
            Score(
                task=spec.name,
                metric=name,
                value=value if isinstance(value, int | float) else None,
                n=len(of) or len(single["accuracy"]),
                low=estimate.low,
                high=estimate.high,
                model=model,
                prompt=prompt,
                higher_is_better=name not in ("boostrap_std", "counts/__invalid__"),
                headline=name == headline or (headline is None and name.startswith("counts/")),
            )
        )
    return scores


def _samples(spec: Spec, events: Sequence[Mapping[str, Any]], *, model: str, prompt: str) -> Iterator[dict[str, Any]]:
    """One line for each question: prompt, response, the right answer, whether the response is right."""
    by_sample: dict[str, list[Mapping[str, Any]]] = {}
    for event in events:
        by_sample.setdefault(event["sample"], []).append(event)
    for name, parts in by_sample.items():
        replies = [part["data"] for part in parts if part["type"] == "sampling"]
        ours = [reply for reply in replies if reply["who"] == "model"]
        graded = [reply["sampled"] for reply in replies if reply["who"] == "judge"]
        sample: dict[str, Any] = {
            "task": spec.name,
            "sample": name,
            "prompt_messages": ours[0]["prompt"] if ours else None,
            "response": ours[0]["sampled"] if ours else None,
            **({"judge_reply": graded[0]} if graded else {}),
        }
        for part in parts:
            if part["type"] == "match":
                sample |= {key: part["data"][key] for key in ("expected", "picked", "correct")}
            elif part["type"] == "metrics":
                sample |= part["data"]
        yield sample | {"model": model, "prompt": prompt}


def _without_nan(report: Mapping[str, Any]) -> dict[str, Any]:
    """As JSON has it: the bootstrap of a single question gives nan."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in report.items()
    }


def _versions(specs: Sequence[Spec]) -> dict[str, str]:
    return {spec.key: hashlib.sha256(spec.samples.read_bytes()).hexdigest()[:12] for spec in specs}


def _template(bench: Bench) -> str:
    template = bench.tuned.template
    assert template
    return f"{template.name} {template.hash}"


def _notes(bench: Bench, specs: Sequence[Spec], judge: JudgeClient | None) -> list[str]:
    notes = []
    if bench.settings.eval.limit:
        notes.append(
            f"At most {bench.settings.eval.limit} questions of each, drawn by the package's own fixed shuffle."
        )
    if judge:
        graded = ", ".join(spec.name for spec in specs if spec.modelgraded)
        notes.append(f"{graded}: graded by {bench.settings.judge.model or bench.settings.judge.replay}.")
        if judge.refused:
            notes.append(f"The judge refused {judge.refused} requests; they count as the lowest choice.")
    kinds = Counter(spec.kind for spec in specs)
    if kinds["Match"] or kinds["TestMatch"]:
        notes.append("Match is right where the answer begins with the expected text, to the letter.")
    return notes
