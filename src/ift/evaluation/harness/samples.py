"""Questions and answers as lines of samples.jsonl, and a description of the data they come from."""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

TEXT = 8_000  # characters of a prompt in samples.jsonl; the end of a longer one


def samples_of(
    found: Mapping[str, Any], tasks: Mapping[str, Any], *, model: str, prompt: str
) -> Iterator[dict[str, Any]]:
    """A line for each question.

    said      the text that the model wrote, or the continuation that it finds most likely
    written   the text as it came, where a filter of the task made `said` of it
    scored    [continuation, log-likelihood, whether each token was the model's first choice] of each that was scored
    """
    for name in tasks:
        filters = {sample["filter"] for sample in found["samples"][name]}
        for sample in found["samples"][name]:
            scored: list[list[Any]] = []
            written = None
            contexts = [str(arguments[0]) for arguments in sample["arguments"]]
            for arguments, (answer, *_) in zip(sample["arguments"], sample["resps"], strict=True):
                if isinstance(answer, str):
                    written = answer
                elif isinstance(answer, tuple | list):
                    whole = len(set(contexts)) == 1
                    text = str(arguments[1]) if whole else str(arguments[0]) + str(arguments[1])
                    scored.append([_end_of(text), float(answer[0]), bool(answer[1])])
                else:
                    scored.append([_end_of(str(arguments[0])), float(answer), False])
            said: Any = max(scored, key=lambda each: each[1])[0] if scored else None
            if written is not None:
                said = next((r for r in sample["filtered_resps"] if isinstance(r, str)), written)
            target = sample["target"]
            if isinstance(target, int) and written is None and target < len(scored):
                target = scored[target][0]
            yield {
                "task": name,
                "doc_id": sample["doc_id"],
                "model": model,
                "prompt_form": prompt,
                "prompt": _end_of(contexts[0]),
                "said": said,
                "target": as_json(target),
                "metrics": {metric: as_json(sample[metric]) for metric in sample["metrics"]},
                "scored": scored,
                **({"written": written} if written not in (None, said) else {}),
                **({"filter": sample["filter"]} if len(filters) > 1 else {}),
            }


def _end_of(text: str) -> str:
    return text if len(text) <= TEXT else "..." + text[-TEXT:]


def as_json(value: Any) -> Any:
    """As JSON can hold it."""
    if isinstance(value, np.generic | np.ndarray):
        return as_json(value.tolist())
    if isinstance(value, list | tuple):
        return [as_json(each) for each in value]
    if isinstance(value, dict):
        return {str(key): as_json(each) for key, each in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def described(found: Mapping[str, Any], tasks: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Everything that decides a task's numbers, except the model."""
    from ift.evaluation.harness.tasks import revision_of

    return {
        name: {
            "version": str(found["versions"].get(name)),
            "data": task.DATASET_PATH,
            "config": task.DATASET_NAME,
            "revision": revision_of(task),
            "questions_hash": _hash(sample["doc_hash"] for sample in found["samples"][name]),
            "prompts_hash": _hash(sample["prompt_hash"] for sample in found["samples"][name]),
            "num_fewshot": task.get_config("num_fewshot"),
            "asked": found["n-samples"][name]["effective"],
            "of": found["n-samples"][name]["original"],
        }
        for name, task in tasks.items()
    }


def _hash(texts: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:12]


def data_versions(about: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Each data set with its commit on the Hub, or where that is unknown with a hash of the questions asked of it."""
    by_data: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for each in about.values():
        by_data[str(each["data"])].append(each)
    return {
        data: next((each["revision"][:12] for each in tasks if each["revision"]), None)
        or f"questions {_hash(each['questions_hash'] for each in tasks)}"
        for data, tasks in by_data.items()
    }
