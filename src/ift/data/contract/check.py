"""The data contract, a chunk of records at a time: rows, examples and the proof that each teaches what it should.

A `Checker` holds only its settings, so that it can be sent to another process; it needs no torch. What it returns is
arrays and text to be appended to the cache: a data set never stands in memory as a whole.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from ift.data.contract.examples import CUTS, Example, TooLong, broken_law, keep_a_part, make_example, what_keeps_a_part
from ift.data.contract.fewer_turns import count_turns
from ift.data.contract.hints import Found, hints
from ift.data.contract.twins import NgramIndex, band_hashes
from ift.data.reading.columns import Column, Columns
from ift.data.reading.published import FlatTree, flat_plan
from ift.data.reading.rows import BadRow, Dropped, NotLearnt, Reader, Row
from ift.errors import DataError, one_line
from ift.text.templates import FIELD, Template
from ift.text.tokenizers import Tokenizer

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
        ("has", "u1"),  # a bit for each of HAS
        ("digest", "u8", 2),
    ]
)
CUT = (None, *CUTS)
PROVED = 16  # one row in so many is encoded by the model's own library too, where tiktoken stands in for it
HAS = ("input", "system", "history")  # what some rows have and others not


@dataclass(frozen=True)
class Chunk:
    """Consecutive records of one source."""

    file: str
    source: int
    format: str | None  # what the source's first record is
    records: list[tuple[int, Any]]


@dataclass
class Warned:
    """Rows that a warning is about, and the place of the first as text."""

    example: str
    rows: list[int] = field(default_factory=list)  # numbers


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
    source: int = 0
    columns: dict[str, Column] = field(default_factory=dict)
    repaired: Counter[str] = field(default_factory=Counter)  # what was joined or left out of rows that were kept
    warnings: dict[str, Warned] = field(default_factory=dict)
    encoded_twice: int = 0  # rows that the model's own library encoded too


class Inexact(Exception):
    """tiktoken gives a text of the rows other tokens than the model's own library."""


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
    truncate: str = "end"  # which end of a prompt goes

    def __call__(self, chunk: Chunk) -> Checked:
        """Raises DataError where a row breaks the contract, or is too long and the policy is `error`; Inexact."""
        rows: list[tuple[Row, Any]] = []
        pairs: list[tuple[Row, Example]] = []
        dropped: list[Dropped] = []
        cut: list[dict[str, Any]] = []
        columns, repairs = Columns(), Counter[str]()
        told = False

        def drop(number: int, record: Any, error: Exception) -> None:
            reason = one_line(str(error), 300)  # the file's own names are in it, whatever they hold
            raw, marked = getattr(record, "raw", record), isinstance(error, NotLearnt)
            dropped.append(Dropped(chunk.file, number, reason, raw, marked))

        for number, record in chunk.records:
            try:
                rows.append((self._row(record, chunk, number, columns, repairs), record))
            except BadRow as error:
                drop(number, record, error)
        self.template.prepare([row for row, _ in rows])
        for row, record in rows:
            try:
                example = self._example(row)
                if example.truncated:
                    cut.append(self._what_was_cut(row, example))
                pairs.append((example.shorter or row, example))
            except (BadRow, TooLong) as error:
                drop(row.number, record, error)
                if isinstance(error, TooLong) and not told:  # the line on a refusal is about the first one
                    dropped[-1], told = replace(dropped[-1], helps=tuple(self._what_keeps_a_part(row))), True
        dropped.sort(key=lambda one: one.row)
        checked = self._pack(chunk, pairs)
        checked.dropped, checked.cut, checked.source = dropped, cut, chunk.source
        checked.columns, checked.repaired = columns.columns, repairs
        sample = pairs[::PROVED] if self.tokenizer.stands_in else []
        checked.encoded_twice = len(sample)
        self._refuse_other_tokens(example for _, example in sample)
        for row, _ in pairs:
            for warning, found in self._warnings(row):
                if warning not in checked.warnings:
                    checked.warnings[warning] = Warned(found.excerpt())
                checked.warnings[warning].rows.append(row.number)
            if self.evaluation is not None:
                for shared in self.evaluation.overlap(row.text)[:5]:
                    checked.overlaps.append({"file": row.file, "row": row.number, "evaluation_row": shared})
        return checked

    @cached_property
    def reader(self) -> Reader:
        return Reader(self.fields, ignore=self.ignore, turns=self.turns, plain=self.template.plain)

    def _row(self, record: Any, chunk: Chunk, number: int, columns: Columns, repairs: Counter[str]) -> Row:
        plan = self.reader.forms.plan(record) if isinstance(record, dict) else None
        if isinstance(record, FlatTree):
            return self._flat_tree(record, chunk, number, columns, repairs)
        if plan is not None:
            columns.count(record, plan)
            if plan.form is not None and chunk.format is not None and plan.form != chunk.format:
                raise BadRow(
                    f"{plan.form}, in a file of {chunk.format} rows (give each kind a file of its own: data.path=[A,B])"
                )
        row = self.reader.row(record, file=chunk.file, number=number, plan=plan, repairs=repairs)
        if plan is not None and (plan.unknown or plan.known):
            columns.look_at(record, plan, row)
        return row

    def _flat_tree(self, tree: FlatTree, chunk: Chunk, number: int, columns: Columns, repairs: Counter[str]) -> Row:
        """A row of several of the file's own: the columns are those of its messages."""
        plans = [flat_plan(tuple(message), frozenset(self.ignore)) for message in tree.messages]
        for message, plan in zip(tree.messages, plans, strict=True):
            columns.count(message, plan)
        for part, name in self.fields.items():
            if name and any(name in message for message in tree.messages):
                raise BadRow(
                    f"data.fields.{part}={name}: a flat file of messages is read by its own names (leave it out)"
                )
        row = self.reader.row(tree, file=chunk.file, number=number, repairs=repairs)
        for message, plan in zip(tree.messages, plans, strict=True):
            if plan.unknown:
                columns.look_at(message, plan, row)
        return row

    def _example(self, row: Row) -> Example:
        refusal = self.template.refusal(row)
        if refusal:
            raise BadRow(refusal)
        try:
            example = make_example(
                row,
                self.template,
                self.tokenizer,
                max_length=self.max_length,
                too_long=self.too_long,
                truncate=self.truncate,
            )
        except TooLong as error:
            if self.too_long == "error":
                ways = ["data.too_long=drop leaves it out", keep_a_part(self._what_keeps_a_part(row))]
                raise DataError(f"{row.file}:{row.number}: {error} ({'; '.join(filter(None, ways))})") from error
            raise
        broken = broken_law(example, self.tokenizer)
        if broken:
            self._refuse_other_tokens([example])
            raise DataError(
                f"{row.file}:{row.number}: {broken} (prompt {self.template.name}, tokenizer {self.tokenizer.name})"
            )
        return example

    def _refuse_other_tokens(self, examples: Iterable[Example]) -> None:
        text = self.tokenizer.differs(piece.text for example in examples for piece in example.pieces)
        if text:
            raise Inexact(text)

    def _what_keeps_a_part(self, row: Row) -> list[str]:
        return what_keeps_a_part(row, self.template, self.tokenizer, max_length=self.max_length)

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
                sum(bool(getattr(row, name)) << bit for bit, name in enumerate(HAS)),
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
        about = {"file": row.file, "row": row.number, "cut": example.truncated, "tokens": whole.tokens, "lost": lost}
        if example.shorter is not None:
            about["turns_lost"] = count_turns(row) - count_turns(example.shorter)
        return about

    def _warnings(self, row: Row) -> Iterator[tuple[str, Found]]:
        """What a person should look at, though the row is used as it stands."""
        text = row.text
        marker = next((marker for marker in self._markers if marker in text), "")
        if marker:
            at = text.index(marker)
            yield "spells a marker of the prompt template, which moves no boundary", Found(text, at, at + len(marker))
        written = self.tokenizer.written(text)
        if written != text.encode():
            pairs = enumerate(zip(text, written.decode(errors="replace"), strict=False))
            at = next((place for place, (a, b) in pairs if a != b), len(text) - 1)
            yield "has characters that the model's tokenizer writes in another way", Found(text, at, at + 1)
        yield from hints(row, text, own="\n".join(self._markers))

    @cached_property
    def _markers(self) -> list[str]:
        """The template's own words that stand around fields: what could look like a border inside a row's text."""
        literals = [part.strip() for segment in self.template.segments for part in FIELD.split(segment.text)[::2]]
        lines = {line for literal in literals for line in literal.splitlines() if not line.isalnum()}
        return sorted(line for line in lines if len(line) >= 5)
