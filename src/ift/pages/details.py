"""What a page tells of one run beside its curves: how it ended, its sample answers as they change, its data report."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from ift.forms import DATA_REPORT
from ift.pages.configs import COPY
from ift.pages.live import LiveRun, Signature, signature
from ift.pages.metrics import number
from ift.run import DAMAGE, Problem, read_object, read_objects
from ift.text.printable import printable

FACTS = {  # of summary.json: how each is called, and how it is written
    "best_step": ("best step", ",.0f"),
    "val_loss": ("validation loss", ".4g"),
    "untuned_val_loss": ("validation loss, untuned", ".4g"),
    "test_loss": ("test loss", ".4g"),
    "val_accuracy": ("token accuracy", ".1%"),
    "exact_match": ("exact match", ".1%"),
    "rouge_l": ("ROUGE-L", ".3f"),
    "train_seconds": ("seconds of training", ",.0f"),
    "train_tokens": ("tokens", ",.0f"),
    "tokens_per_second": ("tokens per second", ",.0f"),
    "peak_memory_bytes": ("memory at most, GB", ",.2f"),
    "parameters": ("parameters", ",.0f"),
}
GIGA = {"peak_memory_bytes": 1e9}
QUESTIONS, MOMENTS = 16, 24  # sample rows, and answers to each, that a page shows
LONGEST = 1_500  # characters of a text
LARGEST = 64 << 20  # bytes of samples.jsonl that are read
WHAT = ("instruction", "input", "reference")


class Details:
    """Of a run that a page shows whole. Files are read again when they have changed."""

    def __init__(self, run: LiveRun):
        self.run, self.key = run, ""
        self.content: dict[str, Any] = {}
        self._seen: tuple[Signature, ...] = (None,)

    def look(self) -> None:
        folder = self.run.folder
        seen = tuple(map(signature, (folder.summary, folder.samples, folder.data_report)))
        if seen == self._seen:
            return
        problems: list[Problem] = []
        samples: list[dict[str, Any]] = []
        if seen[1] and seen[1][1] > LARGEST:
            problems.append(
                Problem(folder.samples, f"{seen[1][1]:,} bytes are too many for this page", "open the file")
            )
        else:
            samples, problems = read_objects(folder.samples, _is_answer, advice="delete such lines")
        report, damaged = read_object(folder.data_report, DATA_REPORT, advice=COPY)
        lines, wrong = _report_lines(self.run, report)
        self.content = {
            "facts": facts(self.run.summary),
            "samples": by_question(samples),
            "data": lines,
            "problems": [printable(str(each)) for each in (*problems, *damaged, *wrong)],
        }
        self._seen, self.key = seen, secrets.token_hex(8)


def facts(summary: Mapping[str, Any]) -> list[list[str]]:
    """Name and value of each number of summary.json that a person looks for."""
    found = []
    for key, (name, form) in FACTS.items():
        value = number(summary.get(key))
        if value is not None:
            found.append([name, format(value / GIGA.get(key, 1), form)])
    return found


def by_question(samples: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Each question with its answers by step. Of many answers the first, the last and some between are kept."""
    asked: dict[tuple[str, ...], dict[int, dict[str, Any]]] = {}
    for sample in samples:
        question = tuple(str(sample.get(name) or "") for name in WHAT)
        if question in asked or len(asked) < QUESTIONS:
            answer = {"response": _cut(sample["response"]), "loss": number(sample.get("loss"))}
            asked.setdefault(question, {})[int(sample["step"])] = answer  # of a step that was taken again, the last
    return [
        {
            **dict(zip(WHAT, map(_cut, question), strict=True)),
            "answers": [{"step": step, **answers[step]} for step in spread(sorted(answers), MOMENTS)],
            "left_out": max(0, len(answers) - MOMENTS),
        }
        for question, answers in asked.items()
    ]


def spread(steps: Sequence[int], most: int) -> list[int]:
    """At most so many of them, evenly, the first and the last among them: spread([0, 1, 2, 3, 4], 3) is [0, 2, 4]."""
    if len(steps) <= most:
        return list(steps)
    return [steps[round(i * (len(steps) - 1) / (most - 1))] for i in range(most)]


def _is_answer(sample: Mapping[str, Any]) -> bool:
    return number(sample.get("step")) is not None and isinstance(sample.get("response"), str)


def _cut(text: str) -> str:
    text = text.encode("utf-8", "replace").decode()
    return printable(text[:LONGEST]) + (f" … {len(text) - LONGEST:,} more characters" if len(text) > LONGEST else "")


def _report_lines(run: LiveRun, report: dict[str, Any]) -> tuple[list[str], list[Problem]]:
    """The lines that training printed before its first step."""
    if not report:
        return [], []
    from ift.data.show import show_report  # it takes as long to import as all the rest of this page

    try:
        return [printable(line) for line in show_report(report, run.folder.path)], []
    except DAMAGE as error:  # it is JSON, and not all that a report has
        return [], [Problem(run.folder.data_report, f"not a whole report ({type(error).__name__})", COPY)]
