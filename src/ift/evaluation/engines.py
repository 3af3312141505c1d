"""Which engine computes which evaluation, and a run of one: the only module that knows them all.

Each has `evaluate(bench) -> Outcome`, or None after a dry run, and `check(settings)`, which raises in an instant what
`evaluate` would raise for settings, packages and data that are missing. They know nothing of each other: one that needs
a judge gets it with its bench.
"""

from __future__ import annotations

import importlib
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ift.errors import WeightsError
from ift.evaluation.results import Outcome, finite, write_results
from ift.evaluation.subject import Bench, base_of, no_mirror
from ift.run import RunFolder, write_jsonl
from ift.settings import EvaluateSettings, JudgeSettings

if TYPE_CHECKING:
    from ift.evaluation.answers import Answers
    from ift.evaluation.judging import JudgeClient

ENGINES = {  # eval.engine -> its module
    "lm_eval": "ift.evaluation.harness.run",
    "before_after": "ift.evaluation.before_after",
    "humaneval": "ift.evaluation.code.humaneval",
    "alpaca_eval": "ift.evaluation.packages.alpaca_eval",
    "openai_evals": "ift.evaluation.packages.openai_evals",
    "helm": "ift.evaluation.packages.helm",
    "arena": "ift.evaluation.arena.ratings",
    "calibration": "ift.evaluation.calibration",
    "mt_bench": "ift.evaluation.mt_bench",
}
WITHOUT_MODEL = ("judge", "score", "arena")  # they read answers, or votes on them
OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_EVALUATE_OFFLINE": "1",
    "HF_UPDATE_DOWNLOAD_COUNTS": "0",
    "DO_NOT_TRACK": "1",
}


def open_bench(settings: EvaluateSettings) -> Bench:
    """Raises ConfigError for a folder that is no run."""
    return Bench(RunFolder.open(settings.run), settings, open_judge=_open_judge, judge_pairs=_judge_pairs)


# the judge's modules are imported where one is opened: what a command lacks is told before that


def _open_judge(folder: Path, settings: JudgeSettings, *, over_openai: bool = False) -> JudgeClient:
    from ift.evaluation.judge.client import RecordedJudge

    return RecordedJudge(folder, settings, over_openai=over_openai)


def _judge_pairs(answers: Answers, settings: JudgeSettings) -> Mapping[str, Any] | None:
    from ift.evaluation.judge.run import judge_answers

    return judge_answers(answers, settings)


def check(settings: EvaluateSettings) -> None:
    """Raises IftError for the first thing that an evaluation lacks. Loads no model and imports no torch."""
    run = RunFolder.open(settings.run)
    if not run.model.is_dir() and settings.eval.engine not in WITHOUT_MODEL:
        raise WeightsError(f"{run.model}: no such folder (give the output_dir of a training run)")
    if settings.data_root and not Path(settings.data_root).is_dir():
        raise no_mirror(settings.data_root)
    if settings.eval.base:
        base_of(run)
    if settings.eval.engine == "judge":
        from ift.evaluation.judge.client import budget_of
        from ift.evaluation.judge.servers import connect

        budget_of(settings.judge)
        connect(settings.judge)
    elif settings.eval.engine in ENGINES:
        importlib.import_module(ENGINES[settings.eval.engine]).check(settings)


def run_engine(settings: EvaluateSettings) -> dict[str, Any]:
    """Run the engine that the settings name and write both files; return results.json, {} after a dry run."""
    bench = open_bench(settings)
    with without_network(settings.offline):  # before the import: libraries read these variables once
        engine = importlib.import_module(ENGINES[settings.eval.engine])
        start = time.perf_counter()
        outcome: Outcome | None = engine.evaluate(bench)
    if outcome is None:
        return {}
    results = {
        "name": settings.eval.name,
        "scores": [asdict(finite(score)) for score in outcome.scores],
        "notes": list(outcome.notes),
        "versions": dict(outcome.versions),
        "limit": settings.eval.limit,
        "seconds": round(time.perf_counter() - start, 1),
        **outcome.about,
    }
    samples = list(outcome.samples)
    bench.folder.mkdir(parents=True, exist_ok=True)
    write_jsonl(bench.folder / "samples.jsonl", samples)
    write_results(bench.folder / "results.json", results)
    return results


@contextmanager
def without_network(offline: bool) -> Iterator[None]:
    """offline: environment variables let the Hub's libraries, here and in child processes, use local files only.

    Only these variables are set and set back, one by one: other threads never see an environment without the rest.
    """
    changes = OFFLINE if offline else {}
    before = {name: os.environ.get(name) for name in changes}
    try:
        os.environ.update(changes)
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
