"""The seam between generating and judging: a file of answers, from this project or from another tool. Needs no torch.

A run's `responses.jsonl` has one JSON object a line:

    instruction, input   the prompt; input is "" where there is none
    reference            an answer known to be good; "" where none is known
    response             the model's answer
    category             what kind of row it is, or ""
    stop_reason          end (by itself), length (max_new_tokens), context (the model's context was full)
    prompt_tokens, response_tokens
    file, row            where the row stood

Only instruction and response must be there. Two layouts of other tools are read as they are, JSON or JSONL:

    AlpacaEval           instruction, output, generator (output is the response)
    LLMs-from-scratch    instruction, input, output and "model_response", or "model 1 response", "model 2 response"
                         (output is the reference; FILE#model 2 response takes one of several)

Text in such a file comes from models: nothing here or further on takes it for anything but text.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ift.data.reading.containers import read_records
from ift.data.reading.values import kind_of
from ift.data.reading.window import Unreadable
from ift.errors import ConfigError, DataError
from ift.run import RunFolder

# a line of responses.jsonl; other tools' files may lack what stands after response
COLUMNS = (
    "instruction",
    "input",
    "reference",
    "response",
    "stop_reason",
    "prompt_tokens",
    "response_tokens",
    "file",
    "row",
    "category",
)


@dataclass(frozen=True, slots=True)
class Answer:
    """One line: prompt, reference and response."""

    instruction: str
    input: str
    reference: str
    response: str
    category: str = ""
    stop_reason: str = ""
    response_tokens: int | None = None
    file: str = ""  # of the row, and its number there
    row: int | None = None

    @property
    def question(self) -> tuple[str, str]:
        return self.instruction, self.input

    @property
    def key(self) -> str:
        """Of the content: verdicts on an answer hold as long as it says the same."""
        return content_key(self.instruction, self.input, self.reference, self.response)


def content_key(*texts: str) -> str:
    digest = hashlib.sha256()
    for text in texts:
        data = text.encode("utf-8")
        digest.update(len(data).to_bytes(8, "big") + data)  # "ab","c" is not "a","bc"
    return digest.hexdigest()[:32]


@dataclass(frozen=True)
class Answers:
    """All answers of a run, or of a file from elsewhere; verdicts on them are kept in `run`."""

    name: str
    run: RunFolder
    rows: Sequence[Answer]


def open_answers(where: str | Path) -> Answers:
    """A run folder, or a file as FILE or FILE#COLUMN. What is written about FILE.json lies beside it, in FILE.ift.

    Raises ConfigError where there is nothing, DataError where it cannot be read or holds no answers.
    """
    path, column = Path(where), None
    if not path.exists() and "#" in str(where):
        file, _, column = str(where).rpartition("#")
        path = Path(file)
    if path.is_dir():
        run = RunFolder(path)
        if not run.responses.exists():
            raise DataError(f"{run.responses}: no such file (ift evaluate run={path} eval=responses writes it)")
        return Answers(path.resolve().name, run, read_answers(run.responses))
    if not path.exists():
        raise ConfigError(f"{path}: no such run folder or file of answers (give the output_dir of a training run)")
    name = path.stem if column is None else f"{path.stem} {column}"
    beside = path.with_name(re.sub(r"[^\w.-]+", "-", name) + ".ift")
    return Answers(name, RunFolder(beside), read_answers(path, column))


def read_answers(path: Path, column: str | None = None) -> list[Answer]:
    """Every record of a file. column: the response's name where a file has several.

    Raises DataError with file and record, and what to do.
    """
    return [_answer(record, column, f"{path}:{number}") for number, record in read_records(path)]


def _answer(record: Any, column: str | None, where: str) -> Answer:
    if isinstance(record, Unreadable):
        raise DataError(f"{where}: {record.reason} (every answer must be readable)")
    if not isinstance(record, dict):
        raise DataError(f"{where}: {kind_of(record)}, not an object with instruction and response")
    column = column or _response_column(record, where)
    known = column == "output"  # then no reference stands under that name
    reference = record.get("reference", "" if known else record.get("output", ""))
    return Answer(
        instruction=_text(record, "instruction", where),
        input=_text(record, "input", where, optional=True),
        reference=_text({"reference": reference}, "reference", where, optional=True),
        response=_text(record, column, where),
        category=_text(record, "category", where, optional=True),
        stop_reason=_text(record, "stop_reason", where, optional=True),
        response_tokens=_count(record, "response_tokens"),
        file=_text(record, "file", where, optional=True),
        row=_count(record, "row"),
    )


def _response_column(record: Mapping[str, Any], where: str) -> str:
    for name in ("response", "model_response"):
        if name in record:
            return name
    several = [name for name in record if re.fullmatch(r"model \d+ response", name)]
    if len(several) == 1:
        return several[0]
    if several:
        raise DataError(f"{where}: answers of {len(several)} models (give FILE#{several[0]} for one of them)")
    if "output" in record and "generator" in record:
        return "output"
    names = ", ".join(map(str, list(record)[:6]))
    raise DataError(f'{where}: no "response" (it has: {names}; FILE#NAME takes it from another column)')


def _text(record: Mapping[str, Any], name: str, where: str, *, optional: bool = False) -> str:
    value = record.get(name)
    if value is None and optional:
        return ""
    if not isinstance(value, str):
        kind = kind_of(value) if name in record else "missing"
        raise DataError(f'{where}: "{name}" is {kind}, not text')
    return value.encode("utf-8", "replace").decode()  # half characters, which no file could hold


def _count(record: Mapping[str, Any], name: str) -> int | None:
    value = record.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def aligned(runs: Sequence[Answers]) -> list[tuple[Answer, ...]]:
    """The rows that all runs answered, as one tuple of answers each, in the order of the first run.

    Rows are the same if instruction and input are; where one occurs several times, the first goes with the first.
    """
    by_question = [dict(_numbered(run.rows)) for run in runs]
    return [
        tuple(answers[question] for answers in by_question)
        for question in by_question[0]
        if all(question in answers for answers in by_question)
    ]


def _numbered(rows: Sequence[Answer]) -> Iterator[tuple[tuple[str, str, int], Answer]]:
    seen: Counter[tuple[str, str]] = Counter()
    for row in rows:
        yield (*row.question, seen[row.question]), row
        seen[row.question] += 1
