"""What a prompt template renders: a conversation, as its turns. It knows no file, no template and no tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


class HasFields(Protocol):
    @property
    def instruction(self) -> str: ...
    @property
    def input(self) -> str: ...
    @property
    def output(self) -> str: ...
    @property
    def system(self) -> str: ...
    @property
    def history(self) -> tuple[tuple[str, str], ...]: ...


@dataclass(frozen=True, slots=True)
class Turn:
    """One instruction and its response. Only the first turn of a conversation can have a system text."""

    instruction: str
    input: str
    output: str
    system: str = ""
    first: bool = True


def turns_of(row: HasFields) -> list[Turn]:
    """The conversation of a row, oldest turn first; a row without a history is one turn."""
    turns = [(instruction, "", output) for instruction, output in row.history]
    turns.append((row.instruction, row.input, row.output))
    return [Turn(*turn, "" if i else row.system, not i) for i, turn in enumerate(turns)]


@dataclass(frozen=True, slots=True)
class Conversation:
    """An instruction and what came before it, from anywhere. A row of a file is one, with its provenance."""

    instruction: str
    input: str = ""
    output: str = ""
    system: str = ""
    history: tuple[tuple[str, str], ...] = ()  # (instruction, output) of the earlier turns, oldest first
