"""What every known evaluation shares: the model it asks, the one form of its result, and where that goes.

An engine is a module beside this one with `run(bench) -> Outcome`, None after a dry run. Into RUN/evals/NAME go

    results.json    numbers with their 95 % intervals, what they were measured with, what was left out
    samples.jsonl   one line for each question of each task: what was asked, said, wanted, and whether it was right
"""

from __future__ import annotations

import importlib
import math
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ift.errors import ConfigError, DataError, one_line
from ift.progress import progress
from ift.run import RunFolder, read_json, write_json, write_jsonl
from ift.settings import EvaluateSettings, GenerateSettings

if TYPE_CHECKING:
    import torch

    from ift.data.prompts import Template
    from ift.data.tokenizer import Tokenizer
    from ift.model.gpt import GPT


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


@dataclass(frozen=True)
class Subject:
    """A model that is asked. template: the one it was tuned with; None for a base model."""

    label: str  # tuned or base
    model: GPT
    tokenizer: Tokenizer
    template: Template | None

    @property
    def device(self) -> torch.device:
        return self.model.wte.weight.device

    def complete(
        self,
        prompts: Sequence[str],
        settings: GenerateSettings,
        *,
        stop: Sequence[str] = (),
        seed: int = 0,
        what: str | None = None,
    ) -> list[str]:
        """What the model writes after each text, up to the first of the stop strings; texts are ordinary text.

        A prompt that leaves no room for max_new_tokens loses its beginning. what: the title of a progress bar.
        """
        from ift.generation.decode import Sampling, generate

        room = self.model.config.context_length - settings.max_new_tokens
        if room < 1:
            raise ConfigError(
                f"eval.generate.max_new_tokens={settings.max_new_tokens}: the model has "
                f"{self.model.config.context_length} positions, and the prompt needs some"
            )
        ids = [self.tokenizer.encode(prompt)[-room:] or [self.tokenizer.end_of_text] for prompt in prompts]
        longest = max((len(text.encode()) for text in stop), default=0) + 4  # a token has at least a byte

        def ends(so_far: list[int]) -> bool:
            return any(text in self.tokenizer.decode(so_far[-longest:]) for text in stop)

        with progress(what, len(prompts), "answers") as advance:
            generated = generate(
                self.model,
                ids,
                end_of_text=self.tokenizer.end_of_text,
                max_new_tokens=settings.max_new_tokens,
                sampling=Sampling(settings.temperature, settings.top_k, settings.top_p, seed),
                batch_size=settings.batch_size,
                until=ends if stop else None,
                progress=advance,
            )
        texts = [self.tokenizer.decode(answer.ids) for answer in generated]
        for text in stop:
            texts = [said.split(text)[0] for said in texts]
        return texts


class Bench:
    """What an engine works with. Models are loaded when they are first asked for."""

    def __init__(self, run: RunFolder, settings: EvaluateSettings):
        self.run, self.settings = RunFolder(run.path.absolute()), settings  # an engine may change the working directory
        self.folder = self.run.evals / settings.eval.name
        self.data_root = Path(settings.data_root).absolute() if settings.data_root else None
        if self.data_root and not self.data_root.is_dir():
            raise ConfigError(f"data_root={settings.data_root}: no such folder (it holds a local mirror of the data)")

    @cached_property
    def tuned(self) -> Subject:
        """The run's best model, in the precision of the settings."""
        from ift.training.model_folder import load_model_folder

        model, tokenizer, template = load_model_folder(self.run.model)
        return Subject("tuned", self._placed(model), tokenizer, template)

    @cached_property
    def base(self) -> Subject:
        """The pretrained model that training began with. Raises ConfigError for a run that began from scratch."""
        from ift.model.weights import build_model, plan_model
        from ift.settings import load_settings

        settings = load_settings(self.run.config).model
        if settings.pretrained is None:
            raise ConfigError(f"eval.base=true: {self.run.path} was trained from scratch (it has no base model)")
        tokenizer = self.tuned.tokenizer
        config, weights = plan_model(settings, vocab_size=tokenizer.vocab_size)
        return Subject("base", self._placed(build_model(config, weights)), tokenizer, None)

    @property
    def subjects(self) -> Iterator[Subject]:
        """The tuned model, and the base model beside it when that is asked for."""
        yield self.tuned
        if self.settings.eval.base:
            yield self.base

    def _placed(self, model: GPT) -> GPT:
        from ift.model.linear import compute_in
        from ift.training.machine import choose_device

        device = choose_device(self.settings.accelerator, self.settings.precision, n_embd=model.config.n_embd)
        model.to(device.torch_device).eval()
        compute_in(model, device.dtype)
        return model


def benchmark(settings: EvaluateSettings) -> dict[str, Any]:
    """Run the engine that the settings name, write both files, the page and W&B; return results.json, {} if dry."""
    from ift.evaluation.report import write_report
    from ift.training.loggers import log_evaluation

    name = settings.eval.name
    run = RunFolder.open(settings.run)
    bench = Bench(run, settings)
    engine = importlib.import_module(f"ift.evaluation.{settings.eval.engine}")  # one of those that settings.RULES knows
    start = time.perf_counter()
    with without_network(settings.offline):
        outcome: Outcome | None = engine.run(bench)
    if outcome is None:  # it was only to say what it would do
        return {}
    scores = [_finite(score) for score in outcome.scores]
    results = {
        "name": name,
        "scores": [asdict(score) for score in scores],
        "notes": list(outcome.notes),
        "versions": dict(outcome.versions),
        "limit": settings.eval.limit,
        "seconds": round(time.perf_counter() - start, 1),
        **outcome.about,
    }
    samples = list(outcome.samples)
    bench.folder.mkdir(parents=True, exist_ok=True)
    write_jsonl(bench.folder / "samples.jsonl", samples)
    write_json(bench.folder / "results.json", results)
    for line in show_scores(results):
        print(line)
    print(f"look at   {run.report}")
    write_report(run)
    numbers = {score.key: score.value for score in scores}
    log_evaluation(run, name, {**numbers, "notes": " ".join(outcome.notes)}, samples)
    return results


@contextmanager
def without_network(offline: bool) -> Iterator[None]:
    """offline: the Hub's libraries, here and in child processes, are told to use what lies on this machine."""
    before = dict(os.environ)
    if offline:
        os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
        os.environ |= {"HF_EVALUATE_OFFLINE": "1", "HF_UPDATE_DOWNLOAD_COUNTS": "0", "DO_NOT_TRACK": "1"}
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _finite(score: Score) -> Score:
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


def benchmarks(run: RunFolder) -> dict[str, dict[str, Any]]:
    """results.json of every known evaluation in a run folder, by name. Judges are `ift.evaluation.judge`'s to read.

    Raises DataError for a file that is not what `benchmark` leaves.
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
