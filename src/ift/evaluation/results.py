"""The one form of what an evaluation leaves, written and read back. Into RUN/evals/NAME go

results.json    numbers with their 95 % intervals, what they were measured with, what was left out
samples.jsonl   one line for each question of each task: the prompt, the answer, what is right, and whether it was
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ift.forms import RESULTS
from ift.run import DAMAGE, Problem, RunFolder, problem, read_object, read_objects, write_json

# (task, metric) of means over tokens: of another tokenizer they are other numbers
PER_TOKEN = frozenset(
    [("test split", "loss")]
    + [("test", metric) for metric in ("perplexity", "accuracy", "calibration_error", "confidence", "answer_loss")]
)


@dataclass(frozen=True, kw_only=True)
class Score:
    """One number of one task. low and high are its 95 % interval; n the questions that it is of."""

    task: str  # mmlu_anatomy
    metric: str  # acc
    value: float | None  # None where it could not be computed
    n: int
    low: float | None = None
    high: float | None = None
    model: str = "tuned"  # or base: the pretrained model that training began with
    prompt: str = "raw"  # as the evaluation words it, or template: inside the model's own prompt template
    higher_is_better: bool = True
    headline: bool = True  # False: a part of another one, shown in a fold

    @property
    def per_token(self) -> bool:
        return (self.task, self.metric) in PER_TOKEN

    @property
    def key(self) -> str:
        """Unique within an evaluation: mmlu_anatomy/acc, mmlu_anatomy/acc/base/template."""
        parts = [self.task, self.metric, *([self.model] if self.model != "tuned" else [])]
        return "/".join([*parts, *([self.prompt] if self.prompt != "raw" else [])])


@dataclass(frozen=True)
class Outcome:
    """What an engine found."""

    scores: Sequence[Score]
    samples: Iterable[Mapping[str, Any]]
    versions: Mapping[str, str] = field(default_factory=dict)  # of packages, data, prompts: what decides the numbers
    notes: Sequence[str] = ()  # what was left out, what the numbers do not say: whole sentences
    about: Mapping[str, Any] = field(default_factory=dict)  # whatever else belongs into results.json


def finite(score: Score) -> Score:
    """JSON knows no nan: what could not be computed is null."""
    changed = {
        name: None
        for name in ("value", "low", "high")
        if (value := getattr(score, name)) is not None and not math.isfinite(value)
    }
    return Score(**{**asdict(score), **changed})


def show_scores(results: Mapping[str, Any]) -> list[str]:
    """The closing lines: each headline number with its interval, then what it does not say."""
    lines = []
    for score in results["scores"]:
        if score["headline"]:
            who = " ".join(filter(None, (score["model"].replace("tuned", ""), score["prompt"].replace("raw", ""))))
            task = score["task"] + (f" ({who})" if who else "")
            lines.append(f"{task:<28} {score['metric']:<20} {interval(score)}")
    return [*lines, *(f"note      {note}" for note in results["notes"])]


def numbers(results: Mapping[str, Any]) -> dict[str, Any]:
    """Each score by its key, and the notes: what W&B is given."""
    scores = [Score(**score) for score in results["scores"]]
    return {**{score.key: score.value for score in scores}, "notes": " ".join(results["notes"])}


def interval(score: Mapping[str, Any]) -> str:
    """0.263 (0.240 to 0.287), n = 1,200"""
    if score["value"] is None:
        return f"–, n = {score['n']:,}"
    ends = between(score["low"], score["high"], ".3f")
    return f"{score['value']:.3f}{f' ({ends})' if ends else ''}, n = {score['n']:,}"


def between(low: float | None, high: float | None, form: str) -> str:
    """An interval in words: 0.240 to 0.287; at least 0.240, where only that end is known; nothing where none is."""
    known = [end is not None and math.isfinite(end) for end in (low, high)]
    if all(known):
        return f"{low:{form}} to {high:{form}}"
    return f"at least {low:{form}}" if known[0] else f"at most {high:{form}}" if known[1] else ""


def package_versions(*packages: str) -> dict[str, str]:
    """Of those that are installed."""
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def write_results(path: Path, results: Mapping[str, Any]) -> None:
    """results.json of an evaluation or a judge."""
    write_json(path, RESULTS.stamped(results))


ADVICE = "delete it, or evaluate again"


def read_results(run: RunFolder) -> tuple[dict[str, dict[str, Any]], list[Problem]]:
    """results.json of every known evaluation in a run folder, by name; and those that are damaged, left out.

    Judges are not among them: see read_judgements.
    """
    found, problems = {}, []
    for path in _result_files(run):
        if path.parent.name.startswith("judge-"):
            continue
        results, wrong = read_object(path, RESULTS, advice=ADVICE)
        try:
            if not wrong:
                found[path.parent.name] = _checked(results)
        except DAMAGE as error:
            wrong = [problem(path, error, ADVICE)]
        problems += wrong
    return found, problems


def _result_files(run: RunFolder) -> list[Path]:
    folders = sorted(run.evals.iterdir()) if run.evals.is_dir() else []
    return [path for path in (folder / "results.json" for folder in folders) if path.exists()]


def _checked(results: Mapping[str, Any]) -> dict[str, Any]:
    """Results as pages show them. Raises one of DAMAGE where something that they show is of another kind."""
    scores = [asdict(Score(**score)) for score in results["scores"]]
    for score in scores:
        interval(score)
    notes, versions = results["notes"], results.get("versions", {})
    if not isinstance(notes, list) or not isinstance(versions, dict):
        raise TypeError("notes or versions")
    return {**results, "scores": scores, "notes": [str(note) for note in notes], "versions": versions}


# -- what judges left -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Judged:
    """What one judge said about a run: results.json, and the score of each answer by its key."""

    name: str
    results: dict[str, Any]
    scores: dict[str, float]
    reasons: dict[str, str]


def read_judgements(run: RunFolder) -> tuple[dict[str, Judged], list[Problem]]:
    """Every judge's verdicts in a run folder, by name: score-llama3.3, pairwise-gpt-5-vs-b; and what is damaged.

    A judge whose results.json is damaged is left out; of samples.jsonl only the lines that are.
    """
    found, problems = {}, []
    for path in _result_files(run):
        folder = path.parent
        if not folder.name.startswith("judge-") or not (folder / "samples.jsonl").exists():
            continue
        name = folder.name.removeprefix("judge-")
        results, wrong = read_object(path, RESULTS, advice=ADVICE)
        try:
            if not wrong:
                results = _checked_of_judge(results)
                samples, wrong = read_objects(folder / "samples.jsonl", _is_judged, advice=JUDGE_AGAIN)
                found[name] = Judged(
                    name,
                    results,
                    {sample["key"]: float(sample["score"]) for sample in samples if sample["score"] is not None},
                    {sample["key"]: str(sample["reason"]) for sample in samples if sample["reason"]},
                )
        except DAMAGE as error:
            wrong = [problem(path, error, ADVICE)]
        problems += wrong
    return found, problems


JUDGE_AGAIN = "the same eval=judge again writes it anew from verdicts.jsonl"
SHOWN = ("mean", "low", "high", "scored", "rows")  # numbers of results.json that pages show
SHOWN_OF_PAIRS = ("wins", "ties", "losses", "orders_agree", "p")


def _checked_of_judge(results: dict[str, Any]) -> dict[str, Any]:
    """Results as pages show them. Raises one of DAMAGE where something that they show is of another kind."""
    for key in (*SHOWN, "valid"):
        results.setdefault(key, None)
    low, high = results["scale"]
    if not low < high or not isinstance(high - low, int):
        raise ValueError(f"scale {low} to {high}")
    for key in (*SHOWN, *(SHOWN_OF_PAIRS if "wins" in results else ())):
        if not isinstance(results[key] or 0, int | float):
            raise TypeError(f"{key} is no number")
    if "wins" in results and results["p"] is None:
        raise TypeError("p is no number")
    if results["valid"] not in (True, False, None):
        raise TypeError("valid")
    if "wins" in results and not (isinstance(results["judge"]["against"], str) and isinstance(results["verdict"], str)):
        raise TypeError("against, verdict")
    return results


def _is_judged(sample: Mapping[str, Any]) -> bool:
    score, _ = sample["score"], sample["reason"]  # a line without them is none
    return isinstance(sample["key"], str) and (score is None or math.isfinite(score))
