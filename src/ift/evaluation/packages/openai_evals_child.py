"""OpenAI Evals' package at work, in a process that `openai_evals.py` starts: its eval classes, reports and bootstrap.

An eval asks for one completion at a time, and our model answers many at once. So each eval is run again until it has no
new prompt: the first run collects the prompts, in the last one all answers are there, and only that one counts.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ift.errors import DataError, MachineError, one_line
from ift.evaluation.packages.child import serve

ROUNDS = 4  # a prompt to the model, one to the judge about its answer; none of the classes here needs more


def work(job: Mapping[str, Any], ask: Callable[[Any], Any]) -> list[dict[str, Any]]:
    """Each eval's {"report": {...}, "events": [...]}, for each model in turn.

    evals    [{name, class, args, registry, modelgraded: [name, spec] or null, samples}] as `openai_evals.Spec` has them
    models   labels; limit: samples of each eval or null; seed: of the package's bootstrap
    """
    return [found for model in job["models"] for found in _run_evals(model, job, ask)]


def _run_evals(model: str, job: Mapping[str, Any], ask: Callable[[Any], Any]) -> list[dict[str, Any]]:
    answers: dict[str, str] = {}
    found: dict[int, dict[str, Any]] = {}
    for _ in range(ROUNDS):
        prompts: dict[str, dict[str, Any]] = {}  # that have no answer yet
        for number, spec in enumerate(job["evals"]):
            if number not in found:
                result = _run_eval(spec, job, answers, prompts)
                if result is not None:
                    found[number] = result
        if not prompts:
            return [{"model": model, "name": job["evals"][number]["name"], **found[number]} for number in sorted(found)]
        replies = ask({"model": model, "prompts": list(prompts.values())})
        answers |= dict(zip(prompts, replies, strict=True))
    raise MachineError(f"{job['evals'][-1]['name']}: it asks something new each time")


def _run_eval(
    spec: Mapping[str, Any], job: Mapping[str, Any], answers: Mapping[str, str], prompts: dict[str, dict[str, Any]]
) -> dict[str, Any] | None:
    """One run of one eval with the answers so far; prompts without one go into `prompts`, and the result is None.

    Only real answers are sent to the judge.
    """
    import evals
    from evals.base import RunSpec
    from evals.prompt.base import CompletionPrompt
    from evals.record import LocalRecorder, record_sampling
    from evals.registry import Registry

    class Result(evals.CompletionResult):
        def __init__(self, text: str):
            self.text = text

        def get_completions(self) -> list[str]:
            return [self.text]

    without: set[str] = set()  # who has an unanswered prompt: model, judge

    def completion(who: str) -> Callable[..., Result]:
        def complete(prompt: Any, **options: Any) -> Result:
            text = CompletionPrompt(prompt).to_formatted_prompt()
            key = json.dumps([who, prompt], sort_keys=True)
            if key not in answers and (who == "model" or "model" not in without):
                prompts[key] = {"who": who, "prompt": prompt, "text": text, "max_tokens": options.get("max_tokens")}
            if key not in answers:
                without.add(who)
            sampled = answers.get(key, "")
            record_sampling(prompt=prompt, sampled=sampled, who=who)
            return Result(sampled)

        return complete

    evals.eval.set_max_samples(job["limit"])
    registry = Registry([spec["registry"]])
    if spec["modelgraded"]:
        name, graded = spec["modelgraded"]
        registry.__dict__["_modelgraded_specs"] = {name: json.loads(json.dumps(graded))}
    base, split = spec["key"].split(".")[:2]
    recorder = LocalRecorder(
        re.sub(r"[^\w.-]+", "-", spec["name"]) + ".record.jsonl",
        RunSpec(
            completion_fns=["ift"], eval_name=spec["key"], base_eval=base, split=split, run_config={}, created_by=""
        ),
    )
    functions = [completion("model"), *([completion("judge")] if spec["modelgraded"] else [])]
    try:
        each = _class(spec["class"])(
            completion_fns=functions,
            name=spec["key"],
            eval_registry_path=Path(spec["registry"]),
            registry=registry,
            **spec["args"],
        )
        random.seed(job["seed"])  # its bootstrap takes the process's own generator
        report = each.run(recorder)
    except (AssertionError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise DataError(f"{spec['samples']}: {one_line(f'{type(error).__name__}: {error}', 100)}") from error
    if without:
        return None
    recorder.record_final_report(report)
    recorder.flush_events()
    events: Sequence[Any] = recorder._events
    return {
        "report": dict(report),
        "events": [{"sample": e.sample_id, "type": e.type, "data": e.data} for e in events],
    }


def _class(name: str) -> Any:
    """One of the package's own classes. Names from files were compared with these before; none is ever imported."""
    from evals.elsuite.basic.fuzzy_match import FuzzyMatch
    from evals.elsuite.basic.includes import Includes
    from evals.elsuite.basic.json_match import JsonMatch
    from evals.elsuite.basic.match import Match
    from evals.elsuite.modelgraded.classify import ModelBasedClassify
    from evals.elsuite.test.match import TestMatch

    classes = [Match, Includes, FuzzyMatch, JsonMatch, ModelBasedClassify, TestMatch]
    return {each.__name__: each for each in classes}[name]


if __name__ == "__main__":
    serve(work)
