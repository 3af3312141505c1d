"""A first real run: a small pretrained model, tuned on real rows, and what that changed.

ift real                                        some minutes on two cores; it goes on where it was stopped
ift real data.path=FILE                         your own rows
ift real model=qwen3-0.6b trainer.max_epochs=3  any setting of train.py

Each step is a command that could be typed: train.py experiment=real, then evaluate.py eval=before_after, and eval=quick
for both models where the Hub is reached.
"""

from __future__ import annotations

import importlib.util
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from ift.artifacts.smollm2 import NAME, smollm2
from ift.data.small_talk import WHEEL, small_talk
from ift.errors import ConfigError, one_line
from ift.evaluation.results import between
from ift.run import RunFolder, read_json, read_jsonl

FOLDER = Path("runs/real")
FORMS = {  # (task, metric) of eval=before_after -> its name here, and how it is printed
    ("test split", "loss"): ("loss of the reference", ".3f"),
    ("test split", "exact_match"): ("exact match", ".1%"),
    ("test split", "rouge_l"): ("ROUGE-L", ".3f"),
    ("test split", "chrf"): ("chrF", ".3f"),
    ("general text", "bits_per_byte"): ("general text, bits per byte", ".3f"),
}
SHOWN = 3  # answers of each model


def real(words: Sequence[str]) -> int:
    """Fetch, train, evaluate, show. words: settings of train.py. Returns the exit code of what did not end well."""
    given = {word.lstrip("+").partition("=")[0]: word.partition("=")[2] for word in words}
    if unknown := [word for word in words if "=" not in word]:
        raise ConfigError(f"{unknown[0]}: settings are typed KEY=VALUE (ift real --help shows how)")
    run = RunFolder(given.get("output_dir") or (f"runs/{datetime.now():%Y-%m-%d/%H-%M-%S}" if words else FOLDER))
    defaults = ["experiment=real", f"output_dir={run.path}"]
    on_hub = False  # as far as is known: what is not fetched here says nothing of it
    if not given.keys() & {"model", "model.pretrained"}:
        place, whence = smollm2()
        on_hub = place == NAME
        print(f"model     {NAME}, {whence}", flush=True)
        defaults.append(f"model.pretrained={place}")
    if not given.keys() & {"data", "data.path", "data.hub"}:
        path = small_talk()
        print(f"rows      {path}, of the package {WHEEL}", flush=True)
        defaults.append(f"data.path={path}")
    words = [word for word in words if not word.startswith("output_dir=")]
    if code := _command("train", [*defaults, *words]):
        return code
    evaluations = [["eval=before_after"]]
    if on_hub and importlib.util.find_spec("lm_eval") is not None:
        evaluations.append(["eval=quick", "eval.base=true"])
    codes = [_command("evaluate", [f"run={run.path}", *evaluation]) for evaluation in evaluations]
    if codes[0] == 0:
        print("", *show(run), sep="\n", flush=True)
    return codes[0]  # quick says itself what it lacks


def _command(name: str, words: Sequence[str]) -> int:
    """A command in a process of its own, which hears what stops this one, and ends as it does then."""
    print(f"\n$ {shlex.join(['ift', name, *words])}", flush=True)
    with subprocess.Popen([sys.executable, "-m", f"ift.commands.{name}", *words]) as child:
        before = signal.signal(signal.SIGTERM, lambda *_: child.terminate())
        try:
            return _waited(child.wait)
        finally:
            signal.signal(signal.SIGTERM, before)


def _waited(wait: Callable[[], int]) -> int:
    """What a process ends with. Ctrl-C goes to all of a terminal's processes: this one lets the other end."""
    while True:
        try:
            return wait()
        except KeyboardInterrupt:
            continue


def show(run: RunFolder) -> list[str]:
    """Before and after: each number of both models with its interval and the test of their difference, and answers."""
    summary, results = read_json(run.summary), read_json(run.evals / "before_after" / "results.json")
    rows = [("", "before (95 %)", "after (95 %)", "change (95 %)")]
    rows.append(("validation loss", _number(summary, "untuned_val_loss"), _number(summary, "val_loss"), ""))
    scores = {(score["task"], score["metric"], score["model"]): score for score in results["scores"]}
    tests = {(each["task"], each["metric"]): each for each in results["against_base"]}
    for (task, metric), (name, form) in FORMS.items():
        if (task, metric, "base") in scores:
            before, after = (_score(scores[task, metric, model], form) for model in ("base", "tuned"))
            rows.append((name, before, after, _change(tests.get((task, metric), {}), form)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return [*lines, *_answers(run), "", f"look at   {run.report}"]


def _number(summary: Mapping[str, Any], key: str) -> str:
    value = summary.get(key)
    return "–" if value is None else f"{value:.3f}"


def _score(score: Mapping[str, Any], form: str) -> str:
    if score["value"] is None:
        return "–"
    ends = between(score["low"], score["high"], form)
    return format(score["value"], form) + (f" ({ends})" if ends else "")


def _change(test: Mapping[str, Any], form: str) -> str:
    if not test:
        return ""
    ends = "" if test["low"] is None else f" ({test['low']:+{form}} to {test['high']:+{form}})"
    return f"{test['difference']:+{form}}{ends}, p = {test['p']:.2g}: {test['verdict']}"


def _answers(run: RunFolder) -> list[str]:
    """The same prompts to both models, spread over the test split."""
    lines = [line for line in read_jsonl(run.evals / "before_after" / "samples.jsonl") if "said" in line]
    base, tuned = ([line for line in lines if line["model"] == model] for model in ("base", "tuned"))
    step = max(1, len(base) // SHOWN)
    shown: list[str] = []
    for before, after in list(zip(base, tuned, strict=True))[::step][:SHOWN]:
        shown += ["", f"  {one_line(before['instruction'], 110)}"]
        shown += [f"  | {one_line(before['input'], 110)}"] if before["input"] else []
        shown += [f"  before    {one_line(before['said'], 100)}", f"  after     {one_line(after['said'], 100)}"]
        shown += [f"  wanted    {one_line(before['target'], 100)}"]
    return shown
