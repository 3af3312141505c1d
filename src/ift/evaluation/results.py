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

from ift.errors import DataError, one_line
from ift.run import RunFolder, read_json, read_jsonl


@dataclass(frozen=True)
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
    between = "" if score["low"] is None else f" ({score['low']:.3f} to {score['high']:.3f})"
    return f"{score['value']:.3f}{between}, n = {score['n']:,}"


def package_versions(*packages: str) -> dict[str, str]:
    """Of those that are installed."""
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def read_results(run: RunFolder) -> dict[str, dict[str, Any]]:
    """results.json of every known evaluation in a run folder, by name. Judges are `ift.evaluation.judge.run`'s to read.

    Raises DataError for a file that is not what an evaluation leaves.
    """
    found = {}
    for folder in sorted(run.evals.iterdir()) if run.evals.is_dir() else []:
        path = folder / "results.json"
        if folder.name.startswith("judge-") or not path.exists():
            continue
        try:
            results = read_json(path)
            scores = [asdict(Score(**score)) for score in results["scores"]]
            for score in scores:
                interval(score)
            found[folder.name] = {**results, "scores": scores, "notes": [str(note) for note in results["notes"]]}
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            what = one_line(f"{type(error).__name__}: {error}", 60)
            raise DataError(f"{path}: not what an evaluation leaves: {what} (delete it)") from error
    return found


# -- what judges left -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Judged:
    """What one judge said about a run: results.json, and the score of each answer by its key."""

    name: str
    results: dict[str, Any]
    scores: dict[str, float]
    reasons: dict[str, str]


def read_judgements(run: RunFolder) -> dict[str, Judged]:
    """Every judge's verdicts in a run folder, by name: score-llama3.3, pairwise-gpt-5-vs-b.

    Raises DataError for files that are not what a judge's run leaves.
    """
    found = {}
    for folder in sorted(run.evals.glob("judge-*")) if run.evals.is_dir() else []:
        if (folder / "results.json").exists() and (folder / "samples.jsonl").exists():
            name = folder.name.removeprefix("judge-")
            try:
                found[name] = _read_judged(name, folder)
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
                what = one_line(f"{type(error).__name__}: {error}", 60)
                raise DataError(f"{folder}: not what a judge's run leaves: {what} (delete it)") from error
    return found


SHOWN = ("mean", "low", "high", "scored", "rows")  # numbers of results.json that pages show
SHOWN_OF_PAIRS = ("wins", "ties", "losses", "orders_agree", "p")


def _read_judged(name: str, folder: Path) -> Judged:
    results, samples = read_json(folder / "results.json"), read_jsonl(folder / "samples.jsonl")
    results = dict.fromkeys((*SHOWN, "valid")) | results
    low, high = results["scale"]
    if not low < high or not isinstance(high - low, int):
        raise ValueError(f"scale {low} to {high}")
    for key in (*SHOWN, *(SHOWN_OF_PAIRS if "wins" in results else ())):
        if not isinstance(results[key] or 0, int | float):
            raise TypeError(f"{key} is no number")
    if results["valid"] not in (True, False, None):
        raise TypeError("valid")
    if "wins" in results and not (isinstance(results["judge"]["against"], str) and isinstance(results["verdict"], str)):
        raise TypeError("against, verdict")
    return Judged(
        name,
        results,
        {sample["key"]: float(sample["score"]) for sample in samples if sample["score"] is not None},
        {sample["key"]: str(sample["reason"]) for sample in samples if sample["reason"]},
    )
