"""Columns that nothing reads: counted and named, and judged: one that reads like a part of a row stops the run.

A column is judged by its values, in a sample of each chunk: texts of some words that stand nowhere else in their row
are parts of a prompt; labels, numbers, links and copies are not. Names of known parts are never labels.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from ift.data.reading.forms import IGNORED, Plan
from ift.data.reading.names import (
    SYSTEMS,
    folded_name,
    is_answer_name,
    is_metadata_name,
    is_option_name,
    is_part_name,
    is_reasoning_name,
    setting,
    spelled,
)
from ift.data.reading.values import DENSE, LONG, WORD, is_filled, is_long, is_wordy, texts_in
from ift.text.conversations import Conversation

LOOKED_AT = 100  # values of a column in each chunk
SHOWN = 100  # characters of an example
ENOUGH = 5  # texts that are more than a slip
FEW = 5  # rows of a file in which one cannot tell texts from labels, unless they are long
# texts that other programs put around a row, and that say nothing about it
TEMPLATE = re.compile(
    r"<\|[^|<>]{0,30}\|>|\[/?INST\]|<</?SYS>>|</?s>|<(start|end)_of_turn>"
    r"|^(below is|these are) an instruction that describes a task.{0,90}?appropriately completes the request\."
    r"|a chat between a curious (user|human) and an artificial intelligence assistant\..{0,90}?questions\."
    r"|cutting knowledge date: [\w ]{3,20} today date: \d+ \w{3} \d{4}"
    r"|you are (qwen, created by alibaba cloud\. you are )?a helpful(, respectful and honest)? (ai )?assistant\."
    r"|(#+ *|\b)(instruction|input|response|user|human|assistant|question|answer|system|gpt|context|q|a) *:"
    r"|(?<=\|>) ?(system|user|assistant)\b",
    re.IGNORECASE,
)


@dataclass
class Column:
    """What is known of a column over some rows: counts add up over chunks."""

    name: str
    used: str | None = None
    why: str = ""
    rows: int = 0  # where it holds something
    example: str = ""
    seen: int = 0  # values that were looked at, of columns that nothing reads
    texts: int = 0  # of them such as stand in prompts, and not elsewhere in their row
    different: int = 0  # of these
    copies: int = 0  # such as stand elsewhere in their row
    long: int = 0  # of the texts: with more words than a label has
    more: int = 0  # of the texts: that are what is left of a value that holds a part of its row
    lists: int = 0  # that are no plain text

    def add(self, other: Column) -> None:
        self.used, self.why = self.used or other.used, self.why or other.why
        self.example = self.example or other.example
        for count in ("rows", "seen", "texts", "different", "copies", "long", "more", "lists"):
            setattr(self, count, getattr(self, count) + getattr(other, count))

    @property
    def reads_like_a_prompt(self) -> bool:
        """Whether it holds texts that stand nowhere else in their rows and that are no labels.

        No labels are texts of a column with the name of a part, long ones, and short ones that are mostly different.
        Their number decides, not their share: a passage may stand in few rows.
        """
        if self.used or self.why or not self.texts:
            return False
        if is_metadata_name(self.name) and (self.lists or self.long * 2 <= self.texts):
            return False
        if self.is_options:
            return self.texts * 2 > self.seen
        if is_part_name(self.name):
            return True
        if self.long >= ENOUGH or self.long * 100 >= self.seen > 0 < self.long:
            return True
        if self.seen < FEW and len(self.example) < 2 * 20:
            return False  # one cannot tell texts from labels
        many = self.texts * 3 >= self.seen or self.different >= ENOUGH
        return many and self.different * 2 > self.texts

    @property
    def is_options(self) -> bool:
        return is_option_name(self.name)

    def to_json(self) -> dict[str, Any]:
        """As data_report.json has it: half characters, which UTF-8 does not have, as question marks."""
        value: dict[str, Any] = {"name": _in_utf8(self.name), "used": self.used, "rows": self.rows}
        if not self.used:
            value["why"] = self.why or self._reason()
            if self.example:
                value["example"] = _in_utf8(self.example)
        return value

    def _reason(self) -> str:
        if not self.rows:
            return "empty"
        if is_metadata_name(self.name) and not self.reads_like_a_prompt:
            return "about the row"
        if self.reads_like_a_prompt:
            return "reads like a part of the prompt"
        return "a copy of what is used" if self.copies * 2 > self.seen else "labels, numbers, names or links"


class Columns:
    """The columns of a chunk's records."""

    def __init__(self) -> None:
        self.columns: dict[str, Column] = {}
        self._plans: dict[int, Plan] = {}  # held, so that no other gets the same number
        self._texts: dict[str, set[str]] = {}

    def count(self, record: Mapping[str, Any], plan: Plan) -> None:
        columns = self.columns
        if id(plan) not in self._plans:
            self._plans[id(plan)] = plan
            for name in record:
                column = columns.setdefault(name, Column(name))
                column.used = column.used or plan.used.get(name)
                column.why = column.why or plan.known.get(name, "")
        for name, value in record.items():
            if value or is_filled(value):
                columns[name].rows += 1

    def look_at(self, record: Mapping[str, Any], plan: Plan, row: Conversation) -> None:
        """Judge the columns that nothing reads, of a record that became this row: they may be copies of parts of it."""
        parts: list[str] | None = None
        for name in (*plan.unknown, *plan.known):
            column, value = self.columns[name], record[name]
            if column.seen >= LOOKED_AT and (
                type(value) not in (str, list, dict)
                or len(value) < 20  # short as labels are, like many before it
                or column.texts + column.copies >= LOOKED_AT
            ):
                continue
            if not is_filled(value):
                continue
            column.seen += 1
            leaves = list(texts_in(value))
            text = " ".join(leaves)
            if not column.example:
                column.example = (text or str(value))[:SHOWN]
            if not text:
                continue
            by_name = column.is_options or is_part_name(name)
            if not (
                is_wordy(text)
                or (by_name and WORD.search(text) and (" " in text.strip() or DENSE.search(text)))
                or (column.is_options and text.strip())
            ):
                continue
            if parts is None:
                parts = [row.instruction, row.input, row.system, *chain.from_iterable(row.history), row.output]
                parts = [" ".join(part.split()) for part in parts if part.strip()]
            if column.is_options:
                left = "" if _holds_options(parts[:-1], leaves) else text
            else:
                left = " ".join(filter(None, (_beyond(" ".join(leaf.split()), parts) for leaf in leaves)))
            if not left or not (by_name or is_wordy(left)) or (left != text and not is_wordy(left)):
                column.copies += 1
                continue
            column.texts += 1
            column.long += is_long(left) and (len(left) > 4 * LONG[0] or not is_metadata_name(name))
            column.more += len(left) < len(" ".join(text.split()))
            column.lists += not isinstance(value, str)
            said = self._texts.setdefault(name, set())
            if left not in said:
                said.add(left)
                column.different += 1


def _beyond(text: str, parts: Sequence[str]) -> str:
    """What a text says that no part of its row says, without the words of a template; nothing where it is a copy."""
    if any(text in part for part in parts):
        return ""
    held, left = False, text
    for part in sorted(parts, key=len, reverse=True):
        if is_wordy(part):
            held = held or part in left
            left = left.replace(part, " ")
        else:  # a short one: once, and as a word
            left, count = re.subn(rf"(?<!\w){re.escape(part)}(?!\w)", " ", left, count=1)
            held = held or (count > 0 and " " in part)
    return " ".join(TEMPLATE.sub(" ", left).split()) if held else text


def _holds_options(parts: Sequence[str], leaves: Sequence[str]) -> bool:
    """Whether the choices stand in the prompt already."""
    whole = "\n".join(parts)
    return all(re.search(rf"(?<!\w){re.escape(' '.join(leaf.split()))}(?!\w)", whole) for leaf in leaves)


def unread(files: Sequence[tuple[str, Mapping[str, Column]]]) -> str | None:
    """The line on the first column that nothing reads though it reads like a part of a row, or None.

    files: the name of each and its columns. What leaves out names all such columns, and those that are left out now.
    """
    stop: list[tuple[str, Mapping[str, Column], Column]] = []
    for file, columns in files:
        found = [column for column in columns.values() if column.reads_like_a_prompt]
        letters = [column for column in found if len(folded_name(column.name)) == 1]
        stop += [(file, columns, column) for column in found if len(letters) > 1 or column not in letters]
    if not stop:
        return None
    ignored = [name for _, columns in files for name, column in columns.items() if column.why == IGNORED]
    names = list(dict.fromkeys([*ignored, *(column.name for *_, column in stop)]))
    several = len({column.name for *_, column in stop}) > 1
    leave = f"{setting('data.ignore', names)} leaves {'all such columns' if several else 'it'} out"
    file, columns, column = stop[0]
    what, key = f'{file}: column "{spelled(column.name)}" is not used, and reads like', column.name
    uses = {other.used: other.name for other in columns.values() if other.used and other.rows}
    if column.is_options and column.lists * 2 <= column.texts:
        return f"{what} a choice of the question (write the choices into the question, or {leave})"
    if is_reasoning_name(key):
        return f"{what} a part of the answer (write it into the answer, or {leave})"
    if column.more * 2 > column.texts:
        return f"{what} the row and more (write what is more into the question, or {leave})"
    if is_answer_name(key) and column.lists * 2 <= column.texts:
        answer = setting("data.fields.output", key)
        return f"{what} another answer ({answer} learns it instead, {leave})"
    if column.lists * 2 > column.texts:
        return f"{what} a part of the prompt (it is no plain text: write it into the question, or {leave})"
    if folded_name(key) in SYSTEMS and "system" not in uses:
        return f"{what} a part of the prompt ({setting('data.fields.system', key)} uses it, {leave})"
    how = f"{setting('data.fields.input', key)} uses it"
    if "input" in uses:
        how += f' in the place of "{spelled(uses["input"])}"'
    return f"{what} a part of the prompt ({how}, {leave})"


def _in_utf8(text: str) -> str:
    return text.encode("utf-8", "replace").decode()
