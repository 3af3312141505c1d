"""Rows of instruction, input and output: records of any known form made into them, and those that cannot be.

Which form a record has and which column is used as what, `ift.data.reading.forms` decides.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from operator import attrgetter
from pathlib import Path
from typing import Any

from ift.data.demo import demo_rows
from ift.data.reading.forms import WEIGHTS, Forms, Plan
from ift.data.reading.json_records import decode
from ift.data.reading.messages import conversation_from, prompt_and_completion
from ift.data.reading.published import PUBLISHED
from ift.data.reading.turns import NothingLearnt
from ift.data.reading.values import HALF_CHARACTER, checked_text, holds, is_filled, kind_of, mark_of
from ift.data.reading.window import Unreadable
from ift.errors import DataError
from ift.run import read_jsonl
from ift.text.conversations import Conversation

RARE = ("system", "history", "category", "unlearnt", "unlearnt_parts", "chat")  # stored where they hold something
parts_of = attrgetter(*(field.name for field in fields(Conversation)))
NOTHING: Counter[str] = Counter()


@dataclass(frozen=True, slots=True, kw_only=True)
class Row(Conversation):
    """A conversation from a file, with its place there."""

    file: str
    number: int  # of the record in its file, from 1; the line for JSONL
    category: str = ""

    def to_json(self) -> dict[str, Any]:
        value: dict[str, Any] = {"instruction": self.instruction, "input": self.input, "output": self.output}
        value |= {"file": self.file, "number": self.number}
        return value | {name: given for name in RARE if (given := getattr(self, name))}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Row:
        return cls(**{name: _frozen(given) for name, given in value.items()})

    @property
    def prompt(self) -> str:
        """All text before the output; rows are compared by it. The bar before the input is there without one too.

        A row that is text alone has nothing before it, and is compared by that text.
        """
        if not (self.instruction or self.input or self.history):
            return " | ".join(filter(None, (self.system, self.output)))
        earlier = [text for turn in self.history for text in turn]
        return " | ".join([*filter(None, (self.system, *earlier)), self.instruction, self.input])

    @property
    def text(self) -> str:
        """All of its text, each part once."""
        is_alone = not (self.instruction or self.input or self.history)
        return self.prompt if is_alone else f"{self.prompt}\n{self.output}"

    @property
    def digest(self) -> bytes:
        """16 bytes of BLAKE2b over all that the model sees: equal for equal rows wherever they stand."""
        history = (text for turn in self.history for text in turn)
        texts = [self.instruction, self.input, self.output, self.system, *history]
        if self.chat or self.unlearnt or self.unlearnt_parts:  # rare, and another digest only where it is another row
            texts += [self.chat, json.dumps([self.unlearnt, self.unlearnt_parts])]
        return hashlib.blake2b("\0".join(texts).encode(), digest_size=16).digest()  # no text holds a NUL


@dataclass(frozen=True, slots=True)
class Dropped:
    """A row that is not used: where it stands, why, and what it was."""

    file: str
    row: int
    reason: str
    raw: Any
    marked: bool = False  # the file itself says that it is not to be learnt
    helps: tuple[str, ...] = ()  # of the first one of a chunk that is too long: the policies that keep a part of it

    def to_json(self) -> dict[str, Any]:
        """As a JSON file holds it: dates, bytes (Parquet) and NaN as their text, half characters as question marks."""
        text = json.dumps(self.raw, default=str, ensure_ascii=False).encode("utf-8", "replace")
        raw = json.loads(text, parse_constant=str)  # NaN, Infinity
        return {"file": self.file, "row": self.row, "reason": self.reason, "raw": raw}


class BadRow(ValueError):
    """Why a record is no row."""


class NotLearnt(BadRow):
    """Why a record that is a row is left out: the file itself says so."""


class Reader:
    """Makes rows of records.

    fields: the file's own names for parts of a row, None where its form decides; ignore: columns to leave out; turns:
    what to do with messages that are not in turn (error, merge, drop). plain: rows may be text alone, without a prompt.
    """

    def __init__(
        self,
        fields: Mapping[str, str | None],
        *,
        ignore: Collection[str] = (),
        turns: str = "error",
        plain: bool = False,
    ):
        self.forms = Forms(fields, ignore)
        self.turns, self.plain = turns, plain

    def form_of(self, record: Any) -> str | None:
        """The name of the form that a record's columns show, or None."""
        return self.forms.plan(record).form if isinstance(record, dict) else None

    def row(
        self, record: Any, *, file: str, number: int, plan: Plan | None = None, repairs: Counter[str] | None = None
    ) -> Row:
        """A record as a row; a missing or null input is an empty one. Raises BadRow with the reason if it is none.

        repairs: is counted up by what was left out of the row or joined in it.
        """
        if isinstance(record, Unreadable):
            raise BadRow(record.reason)
        if not isinstance(record, dict):
            given = self.forms.given
            first, last = given.get("instruction", "instruction"), given.get("output", "output")
            raise BadRow(f"{kind_of(record)}, not an object with {first} and {last}")
        plan = plan or self.forms.plan(record)
        if plan.form is None:
            raise BadRow(plan.problem)
        keys = plan.keys
        if plan.marks:
            _obey(record, plan, self.forms)
        repaired: Counter[str] = NOTHING
        try:
            if plan.form in PUBLISHED:
                conversation, repaired = self._published(record, plan.form, keys)
            elif "messages" in keys:
                conversation, repaired = self._messages(record, keys)
            else:
                conversation = self._texts(record, keys)
        except BadRow:
            raise
        except NothingLearnt as error:
            raise NotLearnt(str(error)) from error
        except ValueError as error:
            raise BadRow(str(error)) from error
        self._refuse_empty(conversation, plan)
        if repaired and repairs is not None:
            repairs.update(repaired)
        category = record[keys["category"]] if "category" in keys else ""
        category = category if isinstance(category, str) and not HALF_CHARACTER.search(category) else ""
        return Row(*parts_of(conversation), file=file, number=number, category=category)

    def _texts(self, record: Mapping[str, Any], keys: Mapping[str, str]) -> Conversation:
        if "tools" in keys and holds(record[keys["tools"]]):
            raise BadRow(
                f'"{keys["tools"]}" beside texts (write the row as messages, or '
                f"{self.forms.leave(keys['tools'])} leaves it out)"
            )
        return Conversation(
            _text(record, keys["instruction"]) if "instruction" in keys else "",
            _optional(record, keys.get("input")),
            _text(record, keys["output"]),
            _optional(record, keys.get("system")),
            _history(record[keys["history"]], keys["history"]) if "history" in keys else (),
        )

    def _published(
        self, record: Mapping[str, Any], form: str, keys: Mapping[str, str]
    ) -> tuple[Conversation, Counter[str]]:
        read, parts = PUBLISHED[form]
        conversation, repaired = read(*(record[keys[part]] for part in parts))
        for turn in conversation.turns():
            for text in (turn.instruction, turn.input, turn.output, turn.system):
                checked_text(text, "a text")
        system, given = (_optional(record, keys.get(part)) for part in ("system", "input"))
        if system:
            conversation = replace(conversation, system="\n\n".join(filter(None, (conversation.system, system))))
        if given:
            conversation = replace(conversation, input="\n\n".join(filter(None, (conversation.input, given))))
        return conversation, repaired

    def _messages(self, record: Mapping[str, Any], keys: Mapping[str, str]) -> tuple[Conversation, Counter[str]]:
        messages = record[keys["messages"]]
        if "output" in keys:
            answer = record[keys["output"]]
            if isinstance(answer, dict) and not any(isinstance(value, list) for value in answer.values()):
                answer = [answer]  # one message
            messages = prompt_and_completion(messages, answer)
        system, tools = (record[keys[part]] if part in keys else None for part in ("system", "tools"))
        conversation, repaired = conversation_from(
            messages,
            system=system if is_filled(system) else None,
            tools=tools if is_filled(tools) else None,
            turns=self.turns,
        )
        given = _optional(record, keys.get("input"))
        if given and conversation.chat:
            raise BadRow(f'"{keys["input"]}" beside messages with tools or reasoning (put it into the last question)')
        return (replace(conversation, input=given) if given else conversation), repaired

    def _refuse_empty(self, conversation: Conversation, plan: Plan) -> None:
        turns: Sequence[Any] = conversation.turns() if conversation.history else (conversation,)
        for turn in turns:
            if not turn.output.strip():
                raise BadRow(
                    "an answer is empty" if len(turns) > 1 else f'"{plan.keys.get("output", "output")}" is empty'
                )
            if not (self.plain or turn.instruction.strip() or turn.input.strip()):
                raise BadRow("an instruction is empty" if len(turns) > 1 else _no_prompt(plan))


def _no_prompt(plan: Plan) -> str:
    first = plan.keys.get("instruction")
    if first is None and "messages" not in plan.keys:
        return "text alone, without a prompt (prompt=none learns the whole text)"
    if first in (None, "instruction") or "input" in plan.keys:
        return f"{first or 'instruction'} and {plan.keys.get('input', 'input')} are empty"
    return f'"{first}" is empty (prompt=none learns rows without a prompt)'


def _obey(record: Mapping[str, Any], plan: Plan, forms: Forms) -> None:
    """Raises BadRow for a row with something that is no text, or with a mark that it is not to be learnt."""
    said: dict[bool, str] = {}  # whether the row is learnt, and the column that says so
    for mark, key in plan.marks:
        value = record[key]
        if not holds(value):
            continue
        leave = forms.leave(key)
        if mark == "media":
            raise BadRow(f'"{key}" holds something that is no text, and only text is learnt ({leave} leaves it out)')
        is_set = mark_of(value)
        if is_set is None:
            raise BadRow(
                f'"{key}" is {str(value)[:20]}: a row is learnt or not, 1 or 0 ({leave} learns every row alike)'
            )
        if mark == "label" and not is_set:
            raise BadRow(
                f'"{key}" is false: a KTO row whose answer is not wanted (data.max_dropped=1 leaves such rows out, '
                f"{leave} learns them as well)"
            )
        if mark == "weight":
            said[is_set == WEIGHTS[key.strip().casefold()]] = key
    if len(said) == 2:
        raise BadRow(
            f'"{said[True]}" says that the row is learnt, and "{said[False]}" that it is not '
            f"({forms.leave(said[False])} or {forms.leave(said[True])} goes by the other)"
        )
    if False in said:
        key = said[False]
        raise NotLearnt(f'"{key}" is {mark_of(record[key]):d}: the file says that the row is not to be learnt')


def _listed(value: Any, key: str) -> list[Any]:
    """A list, or the list that a text holds as JSON."""
    if isinstance(value, str):
        try:
            value = decode(value)
        except ValueError:
            raise BadRow(f'"{key}" is text, and no list in JSON') from None
    if not isinstance(value, list):
        raise BadRow(f'"{key}" is {kind_of(value)}, not a list')
    return value


def _history(value: Any, key: str) -> tuple[tuple[str, str], ...]:
    """Earlier turns as LLaMA-Factory has them: [[instruction, output], ...]."""
    if not is_filled(value):
        return ()
    pairs = _listed(value, key)
    for pair in pairs:
        if not isinstance(pair, list) or len(pair) != 2:
            raise BadRow(f'"{key}" is not a list of pairs of instruction and output')
    what = f'a text of "{key}"'
    return tuple((checked_text(instruction, what), checked_text(output, what)) for instruction, output in pairs)


def _frozen(value: Any) -> Any:
    """Lists of JSON as the tuples they were."""
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


def _text(record: Mapping[str, Any], key: str) -> str:
    return checked_text(record[key], f'"{key}"')


def _optional(record: Mapping[str, Any], key: str | None) -> str:
    value = None if key is None else record[key]
    return "" if value is None else checked_text(value, f'"{key}"')


def read_demo(n: int = 4000) -> list[Row]:
    return [
        Row(row["instruction"], row["input"], row["output"], file="demo", number=number, category=row["category"])
        for number, row in enumerate(demo_rows(n), start=1)
    ]


def read_stored_rows(path: Path) -> list[Row]:
    """Rows that a run kept in test.jsonl. Raises DataError where there are none."""
    if not path.exists():
        raise DataError(f"{path}: no such file (did the training run get past its data?)")
    return [Row.from_json(value) for value in read_jsonl(path)]
