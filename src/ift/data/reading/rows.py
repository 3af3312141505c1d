"""Rows of instruction, input and output: records of any known format made into them, and those that cannot be.

Formats, told apart by the names in a record:

alpaca         {"instruction", "input", "output"}, by whatever names data.fields gives them; with "system" or without
prompt         {"prompt", "completion"}
messages       {"messages": [{"role": "system"|"user"|"assistant", "content"}, ...]}       as OpenAI's
conversations  {"conversations": [{"from": "system"|"human"|"gpt", "value"}, ...]}         as ShareGPT's
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from ift.data.demo import demo_rows
from ift.data.reading.window import Unreadable
from ift.errors import DataError
from ift.run import read_jsonl
from ift.text.conversations import Conversation, Message, conversation_of, role_of

RARE = ("system", "history", "category", "unlearnt", "unlearnt_parts", "chat")  # stored where they hold something
PARTS = tuple(field.name for field in fields(Conversation))
HALF_CHARACTER = re.compile("[\ud800-\udfff]")  # JSON can spell one: "\ud83d" without its second half
# what other data sets call a field: for the hint in a message, never to guess in silence
SYNONYMS = {
    "instruction": ("prompt", "question", "query", "ask", "problem", "user", "request", "q"),
    "output": ("completion", "response", "answer", "reply", "target", "chosen", "assistant", "solution", "a"),
}


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

        Plain text, which has nothing before it, is compared as a whole.
        """
        earlier = [text for turn in self.history for text in turn]
        if not (self.instruction or self.input or earlier):
            return self.output
        return " | ".join([*filter(None, (self.system, *earlier)), self.instruction, self.input])

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

    def to_json(self) -> dict[str, Any]:
        """As a UTF-8 file can hold it: dates and bytes (Parquet) as their text, half characters as question marks."""
        text = json.dumps(self.raw, default=str, ensure_ascii=False).encode("utf-8", "replace")
        return {"file": self.file, "row": self.row, "reason": self.reason, "raw": json.loads(text)}


class BadRow(ValueError):
    """Why a record is no row."""


def format_of(record: Any, fields: Mapping[str, str]) -> str | None:
    """The name of the format that a record's keys show, or None."""
    if not isinstance(record, dict):
        return None
    for name in ("messages", "conversations"):
        if isinstance(record.get(fields[name]), list):
            return name
    if fields["instruction"] in record and fields["output"] in record:
        return "alpaca"
    return "prompt" if "prompt" in record and "completion" in record else None


def make_row(record: Any, fields: Mapping[str, str], *, file: str, number: int) -> Row:
    """A record as a row. A missing or null input is an empty one. Raises BadRow with the reason where it is none.

    fields: the file's own names for instruction, input, output, system, category, messages and conversations.
    """
    if isinstance(record, Unreadable):
        raise BadRow(record.reason)
    if not isinstance(record, dict):
        raise BadRow(f"{kind_of(record)}, not an object with {fields['instruction']} and {fields['output']}")
    kind = format_of(record, fields)
    for key in (fields["messages"], fields["conversations"]):
        if kind is None and key in record and fields["instruction"] not in record:
            raise BadRow(f'"{key}" is {kind_of(record[key])}, not a list of messages')
    if kind == "prompt":
        fields = {**fields, "instruction": "prompt", "output": "completion"}
    if kind in ("messages", "conversations"):
        conversation = _conversation(record, fields[kind])
    else:
        conversation = Conversation(
            _text(record, fields, "instruction"),
            output=_text(record, fields, "output"),
            system=_text(record, fields, "system", optional=True),
            input=_text(record, fields, "input", optional=True),
        )
    turns = conversation.turns()
    for turn in turns:
        if not turn.output.strip():
            raise BadRow(f'"{fields["output"]}" is empty' if len(turns) == 1 else "an answer is empty")
        if not turn.instruction.strip() and not turn.input.strip():
            raise BadRow("instruction and input are empty" if len(turns) == 1 else "an instruction is empty")
    category = record.get(fields["category"])
    category = category if isinstance(category, str) and not HALF_CHARACTER.search(category) else ""
    return Row(*(getattr(conversation, name) for name in PARTS), file=file, number=number, category=category)


def _frozen(value: Any) -> Any:
    """Lists of JSON as the tuples they were."""
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


def _text(record: Mapping[str, Any], fields: Mapping[str, str], name: str, *, optional: bool = False) -> str:
    key = fields[name]
    value = record.get(key)
    if value is None and optional:
        return ""
    if key not in record:
        has = ", ".join(_spelled(k) for k in list(record)[:6]) or "no fields"
        raise BadRow(f'no "{key}" (it has: {has}; set data.fields.{_likely(name, record)})')
    return _checked(value, f'"{key}"')


def _checked(value: Any, what: str) -> str:
    if not isinstance(value, str):
        raise BadRow(f"{what} is {kind_of(value)}, not text")
    if not value.isascii() and HALF_CHARACTER.search(value):
        raise BadRow(f"{what} holds half a character (a lone surrogate, no text in UTF-8)")
    if "\0" in value:
        raise BadRow(f"{what} holds a NUL character (is it text?)")
    return value


def _likely(name: str, record: Mapping[str, Any]) -> str:
    """A field and the key that the person may mean by it, for the hint."""
    keys = {str(key).strip().lower(): _spelled(key) for key in record}
    for known in (name, *SYNONYMS.get(name, ())):
        if known in keys:
            return f"{name}={keys[known]}"
    talk = next((_spelled(key) for key, value in record.items() if isinstance(value, list) and _is_talk(value)), None)
    return f"messages={talk}" if talk else f"{name}=..."


def _spelled(key: Any) -> str:
    """A key for a message; in quotes where one would not see the white space around it."""
    text = str(key)[:40]
    return text if text == text.strip() else f'"{text}"'


def _is_talk(messages: list[Any]) -> bool:
    first = messages[0] if messages else None
    return isinstance(first, dict) and ("role" in first or "from" in first)


def _conversation(record: Mapping[str, Any], key: str) -> Conversation:
    """The conversation of a list of messages. OpenAI's and ShareGPT's spelling may be mixed."""
    try:
        messages = [_message(message, number) for number, message in enumerate(record[key], start=1)]
        conversation = conversation_of(messages, answered=True)
    except ValueError as error:
        raise BadRow(str(error)) from error
    system = record.get("system")  # ShareGPT's other place for it
    if isinstance(system, str) and messages[0][0] != "system":
        conversation = replace(conversation, system=_checked(system, "the system text"))
    return conversation


def _message(message: Any, number: int) -> Message:
    if not isinstance(message, dict):
        raise BadRow(f"message {number} is {kind_of(message)}, not an object")
    role = message.get("role", message.get("from"))
    if not isinstance(role, str):
        raise BadRow(f"message {number} is of {kind_of(role)}, not of system, user or assistant")
    role = role_of(role, number)
    content = message.get("content", message.get("value"))
    if isinstance(content, list):  # OpenAI's parts
        if not all(isinstance(part, dict) and part.get("type") == "text" for part in content):
            raise BadRow(f"message {number} has parts that are not text")
        content = "".join(_checked(part.get("text"), f"message {number}") for part in content)
    return role, _checked(content, f"message {number}")


def kind_of(value: Any) -> str:
    if value is None:
        return "null"
    names = {bool: "true or false", int: "a number", float: "a number", str: "text", list: "a list", dict: "an object"}
    return names.get(type(value), type(value).__name__)


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
