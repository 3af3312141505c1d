"""Which engine computes which evaluation, and the run of one. An engine has `run(bench) -> Outcome`, None if dry."""

from __future__ import annotations

import importlib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from ift.evaluation.results import Outcome, finite, write_results
from ift.evaluation.subject import Bench
from ift.run import RunFolder, write_jsonl
from ift.settings import EvaluateSettings

ENGINES = {  # eval.engine -> its module
    "lm_eval": "ift.evaluation.harness.run",
    "humaneval": "ift.evaluation.code.humaneval",
    "alpaca_eval": "ift.evaluation.packages.alpaca_eval",
    "openai_evals": "ift.evaluation.packages.openai_evals",
    "helm": "ift.evaluation.packages.helm",
    "arena": "ift.evaluation.arena.ratings",
}


def evaluate(settings: EvaluateSettings) -> dict[str, Any]:
    """Run the engine that the settings name and write both files; return results.json, {} after a dry run."""
    name = settings.eval.name
    run = RunFolder.open(settings.run)
    bench = Bench(run, settings)
    engine = importlib.import_module(ENGINES[settings.eval.engine])
    start = time.perf_counter()
    with without_network(settings.offline):
        outcome: Outcome | None = engine.run(bench)
    if outcome is None:  # it was only to say what it would do
        return {}
    scores = [finite(score) for score in outcome.scores]
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
    write_results(bench.folder / "results.json", results)
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
