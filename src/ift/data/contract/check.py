"""The data contract, a chunk of records at a time: rows, examples and the proof that each teaches what it should.

A `Checker` holds only its settings, so that it can be sent to another process; it needs no torch. What it returns is
arrays and text to be appended to the cache: a data set never stands in memory as a whole.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from ift.data.contract.examples import Example, TooLong, broken_law, make_example
from ift.data.contract.twins import NgramIndex, band_hashes
from ift.data.reading.forms import Column, Columns
from ift.data.reading.rows import BadRow, Dropped, NotLearnt, Reader, Row
from ift.errors import DataError, one_line
from ift.text.templates import FIELD, Template
from ift.text.tokenizers import END_OF_TEXT, Tokenizer

INDEX = np.dtype(
    [  # one entry for each row that has an example
        ("length", "i4"),  # tokens
        ("targets", "i4"),  # of them with a loss, the end included
        ("text", "i4"),  # bytes of its line in rows.jsonl
        ("source", "i4"),
        ("number", "i8"),
        ("ends", "?"),
        ("cut", "u1"),  # index into CUT
        ("category", "i4"),  # -1: none
        ("digest", "u8", 2),
    ]
)
CUT = (None, "prompt", "response")
INVISIBLE = re.compile(  # not the joiners U+200C and U+200D: Persian and emoji need them
    "[\x01-\x08\x0b\x0c\x0e-\x1f\x7f\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u2069\ufeff]"
)
SECRET = re.compile(
    r"\bsk-[\w-]{20,}|\bAKIA[0-9A-Z]{16}\b|\bgh[pousr]_\w{36}|\bhf_[A-Za-z]{30,}|\bxox[abp]-[\w-]{10,}"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY"
)
# what each of these begins with, since a plain search is ten times faster than a pattern
SECRET_SIGNS = ("sk-", "AKIA", "ghp_", "gho_", "ghu_", "ghs_", "ghr_", "hf_", "xox", "PRIVATE KEY")
EMAIL = re.compile(r"[\w.+-]{1,64}@[\w-]{1,63}\.\w")  # bounded: else a long word is tried from each of its letters on
BLOB = 400  # characters without white space


@dataclass(frozen=True)
class Chunk:
    """Consecutive records of one source."""

    file: str
    source: int
    format: str | None  # what the source's first record is
    records: list[tuple[int, Any]]


@dataclass
class Checked:
    """What became of a chunk. Arrays and text are in the order of the rows."""

    index: np.ndarray  # (rows,) of INDEX
    ids: np.ndarray  # (tokens,) uint16 or uint32
    supervised: np.ndarray  # (tokens,) bool
    text: bytes  # the rows as JSON, a line each
    categories: list[str]
    bands: np.ndarray  # (rows, BANDS) uint64
    dropped: list[Dropped] = field(default_factory=list)
    cut: list[dict[str, Any]] = field(default_factory=list)
    overlaps: list[dict[str, Any]] = field(default_factory=list)
    warnings: dict[str, list[int]] = field(default_factory=dict)  # row numbers
    source: int = 0
    columns: dict[str, Column] = field(default_factory=dict)
    repaired: Counter[str] = field(default_factory=Counter)  # what was joined or left out of rows that were kept


@dataclass(frozen=True)
class Checker:
    template: Template
    tokenizer: Tokenizer
    fields: Mapping[str, str | None]
    max_length: int
    too_long: str
    evaluation: NgramIndex | None = None  # rows that must not be trained on
    ignore: tuple[str, ...] = ()  # columns to leave out
    turns: str = "error"

    def __call__(self, chunk: Chunk) -> Checked:
        """Raises DataError where a row breaks the contract, or is too long and the policy is `error`."""
        pairs: list[tuple[Row, Example]] = []
        dropped: list[Dropped] = []
        self.reader.repaired, columns = Counter(), Columns()
        for number, record in chunk.records:
            try:
                row = self._row(record, chunk, number, columns)
                pairs.append((row, self._example(row)))
            except (BadRow, TooLong) as error:
                reason = one_line(str(error), 300)  # the file's own names are in it, whatever they hold
                raw, marked = getattr(record, "raw", record), isinstance(error, NotLearnt)
                dropped.append(Dropped(chunk.file, number, reason, raw, marked))
        checked = self._pack(chunk, pairs)
        checked.dropped, checked.source = dropped, chunk.source
        checked.columns, checked.repaired = columns.columns, self.reader.repaired
        for row, example in pairs:
            for warning in self._warnings(row):
                checked.warnings.setdefault(warning, []).append(row.number)
            if example.truncated:
                checked.cut.append(self._what_was_cut(row, example))
            if self.evaluation is not None:
                for shared in self.evaluation.overlap(f"{row.prompt}\n{row.output}")[:5]:
                    checked.overlaps.append({"file": row.file, "row": row.number, "evaluation_row": shared})
        return checked

    @cached_property
    def reader(self) -> Reader:
        return Reader(self.fields, ignore=self.ignore, turns=self.turns, plain=self.template.name == "none")

    def _row(self, record: Any, chunk: Chunk, number: int, columns: Columns) -> Row:
        plan = self.reader.forms.plan(record) if isinstance(record, dict) else None
        if plan is not None:
            columns.count(record, plan)
            if plan.form is not None and chunk.format is not None and plan.form != chunk.format:
                raise BadRow(
                    f"{plan.form}, in a file of {chunk.format} rows (give each kind a file of its own: data.path=[A,B])"
                )
        row = self.reader.row(record, file=chunk.file, number=number, plan=plan)
        if plan is not None and (plan.unknown or plan.known):
            columns.look_at(record, plan, row)
        missing = self.template.missing_place(row)
        if missing:
            raise BadRow(f"the prompt template {self.template.name} has no place for its {missing}")
        return row

    def _example(self, row: Row) -> Example:
        try:
            example = make_example(
                row, self.template, self.tokenizer, max_length=self.max_length, too_long=self.too_long
            )
        except TooLong as error:
            if self.too_long == "error":
                raise DataError(f"{row.file}:{row.number}: {error} (data.too_long=drop leaves it out)") from error
            raise
        broken = broken_law(example, self.tokenizer)
        if broken:
            raise DataError(
                f"{row.file}:{row.number}: {broken} (prompt {self.template.name}, tokenizer {self.tokenizer.name})"
            )
        return example

    def _pack(self, chunk: Chunk, pairs: list[tuple[Row, Example]]) -> Checked:
        index = np.zeros(len(pairs), INDEX)
        categories = sorted({row.category for row, _ in pairs if row.category})
        lines = []
        for at, (row, example) in enumerate(pairs):
            line = json.dumps(row.to_json(), ensure_ascii=False).encode() + b"\n"
            lines.append(line)
            index[at] = (
                example.tokens,
                example.targets,
                len(line),
                chunk.source,
                row.number,
                example.ends,
                CUT.index(example.truncated),
                categories.index(row.category) if row.category else -1,
                np.frombuffer(row.digest, "u8"),
            )
        nothing = np.zeros(0, self.dtype)
        return Checked(
            index=index,
            ids=np.concatenate([nothing, *(example.ids for _, example in pairs)]).astype(self.dtype),
            supervised=np.concatenate([nothing.astype(bool), *(example.supervised for _, example in pairs)]),
            text=b"".join(lines),
            categories=categories,
            bands=band_hashes([row.prompt for row, _ in pairs]),
        )

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of stored ids: two bytes where the vocabulary allows it."""
        return np.dtype("u2" if self.tokenizer.vocab_size <= 2**16 else "u4")

    def _what_was_cut(self, row: Row, example: Example) -> dict[str, Any]:
        whole = make_example(row, self.template, self.tokenizer, max_length=2**31, too_long="error")
        lost = whole.tokens - example.tokens
        return {"file": row.file, "row": row.number, "cut": example.truncated, "tokens": whole.tokens, "lost": lost}

    def _warnings(self, row: Row) -> Iterator[str]:
        """What a person should look at, though the row is used as it stands."""
        text = f"{row.prompt}\n{row.output}"
        if row.output.strip() == row.instruction.strip():
            yield "the output repeats the instruction"
        if END_OF_TEXT in text:
            yield f"spells {END_OF_TEXT}, which stays ordinary text"
        if any(marker in text for marker in self._markers):
            yield "spells a marker of the prompt template, which moves no boundary"
        if not text.replace("\n", " ").isprintable() and INVISIBLE.search(text):
            yield "invisible or control characters"
        if any(sign in text for sign in SECRET_SIGNS) and SECRET.search(text):
            yield "what looks like a secret key"
        if "@" in text and EMAIL.search(text):
            yield "an e-mail address"
        if len(text) > BLOB and max(map(len, text.split())) > BLOB:
            yield f"{BLOB} characters without a break (encoded data?)"

    @cached_property
    def _markers(self) -> list[str]:
        """The template's own words that stand around fields: what could look like a border inside a row's text."""
        literals = [part.strip() for segment in self.template.segments for part in FIELD.split(segment.text)[::2]]
        lines = {line for literal in literals for line in literal.splitlines() if not line.isalnum()}
        return sorted(line for line in lines if len(line) >= 5)
