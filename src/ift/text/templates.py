"""Prompt templates as data: a list of segments, each with fields in braces and marked supervised or not.

One `Template` serves training, sampling, evaluation and export; it is saved with the model. It knows text only, no
tokens. Row text is put in the place of a field as it stands: braces inside it mean nothing. A conversation is its turns
one after the other, each in the same segments and each with its own end-of-text.

A template whose one field is {output} is for plain text: an end-of-text, the text, and its end.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import product
from typing import Any, NamedTuple

from ift.errors import ConfigError, WeightsError
from ift.text.conversations import Conversation, Turn

FIELD = re.compile(r"\{(instruction|input|output|system)\}")
WHEN = ("always", "input", "no_input", "system", "no_system", "later")
TURNS = ("all", "last")


@dataclass(frozen=True)
class Segment:
    text: str  # may hold {instruction}, {input}, {output} and {system}
    supervised: bool = False
    when: str = "always"  # words of WHEN, all of which must hold; system and no_system hold in a first turn only

    def applies(self, turn: Turn) -> bool:
        holds = {
            "always": True,
            "input": bool(turn.input),
            "no_input": not turn.input,
            "system": turn.first and bool(turn.system),
            "no_system": turn.first and not turn.system,
            "later": not turn.first,
        }
        return all(holds[word] for word in self.when.split())


class Piece(NamedTuple):
    """Rendered text, supervised or not. With end: no text, but the end-of-text after a turn.

    unlearnt: of an answer, and without a loss because its row says so. Where the last piece is, the end that follows it
    is not learnt either.
    """

    text: str
    supervised: bool
    end: bool = False
    unlearnt: bool = False


Parts = tuple[list[str], bool]  # text and names of fields in turn, as FIELD.split gives them; whether it is supervised
TurnParts = tuple[list[Parts], bool, list[Parts]]  # before the response, whether that is supervised, after it
Rendered = tuple[list[Piece], list[Piece], list[Piece]]  # before the last response, its parts, after it
Span = tuple[int, int]


@dataclass(frozen=True)
class Template:
    """
    mask=True keeps the loss on supervised segments; mask=False puts the prompt into the loss too.
    turns: whose responses are supervised in a conversation, `all` or the `last`.

    The prompt for inference is everything that stands before the last {output}, whatever is supervised.
    """

    name: str
    segments: tuple[Segment, ...]
    mask: bool = True
    turns: str = "all"

    def __post_init__(self) -> None:
        if self.turns not in TURNS:
            raise ConfigError(f"prompt.turns={self.turns}: must be one of {', '.join(TURNS)}")
        for segment in self.segments:
            words = segment.when.split()
            if not words or not set(words) <= set(WHEN):
                raise ConfigError(f"prompt.segments: when={segment.when}: must be of {', '.join(WHEN)} ({self.name})")
            if "{system}" in segment.text and "system" not in words:
                raise ConfigError(
                    f"prompt.segments: {{system}} must stand in a segment with when: system ({self.name})"
                )
        for given, system, first in product(("x", ""), ("", "x"), (True, False)):
            turn = Turn("x", given, "x", system if first else "", first)
            fields = [f for s in self.segments if s.applies(turn) for f in FIELD.findall(s.text)]
            rows = "with input" if given else "without input"
            if fields.count("output") != 1:
                raise ConfigError(f"prompt.segments: {{output}} must stand once in a row {rows} ({self.name})")
            if not self.plain and "instruction" not in fields[: fields.index("output")]:
                raise ConfigError(f"prompt.segments: {{instruction}} must stand before {{output}} ({self.name})")
            if not all(s.supervised for s in self.segments if s.applies(turn) and "{output}" in s.text):
                raise ConfigError(f"prompt.segments: the segment with {{output}} must be supervised ({self.name})")

    @classmethod
    def make(cls, name: str, segments: Iterable[Any], *, mask: bool, turns: str = "all") -> Template:
        """From settings or anything else with text, supervised and when."""
        return cls(name, tuple(Segment(s.text, s.supervised, s.when) for s in segments), mask, turns)

    @cached_property
    def plain(self) -> bool:
        """Whether it is for plain text: the one segment is {output} alone."""
        return [segment.text for segment in self.segments] == ["{output}"]

    def missing_place(self, conversation: Conversation) -> str | None:
        """What a conversation has and the template would leave out, or None."""
        if conversation.chat:
            return parts_of_chat(conversation)[0]
        fields = self._fields
        for field in ("system", "input", "instruction"):
            if field not in fields and getattr(conversation, field):
                return field
        return None

    @cached_property
    def _fields(self) -> frozenset[str]:
        return frozenset(field for segment in self.segments for field in FIELD.findall(segment.text))

    def prepare(self, conversations: Sequence[Conversation]) -> None:
        """Do at once, for conversations that will be rendered, what costs more one by one. Here that is nothing."""

    def refusal(self, conversation: Conversation) -> str | None:
        """Why a row cannot be learnt with this template, or None.

        Raises ConfigError where no row of its kind can be.
        """
        missing = self.missing_place(conversation)
        if missing:
            advice = ""
            if self.plain:
                advice = " (prompt=alpaca has one; this one is for plain text)"
            elif conversation.chat:
                advice = " (prompt=chat with a template that has one)"
            return f"the prompt template {self.name} has no place for its {missing}{advice}"
        if not (self.plain or conversation.instruction.strip() or conversation.input.strip() or conversation.chat):
            if conversation.history:
                return "a conversation whose last instruction is empty"
            return f"plain text without an instruction, and {self.name} needs one (prompt=none learns the whole text)"
        return self._nothing_learnt(conversation)

    def _nothing_learnt(self, conversation: Conversation) -> str | None:
        """With turns=last the last answer must bear a loss: no other does."""
        if self.mask and self.turns == "last" and conversation.unlearnt:
            answers = parts_of_chat(conversation)[1] if conversation.chat else len(conversation.history) + 1
            if answers - 1 in conversation.unlearnt:
                return "its last answer is marked as not to be learnt (prompt.turns=all learns the others)"
        return None

    def render(self, conversation: Conversation) -> tuple[list[Piece], Piece, list[Piece]]:
        """The pieces before the last response, that response, and those after it.

        The end-of-text of the last turn is not among them: whether it is learnt depends on the length too.
        """
        before, response, after = self._render(conversation)
        return before, Piece("".join(p.text for p in response), any(p.supervised for p in response)), join(after)

    def _render(self, conversation: Conversation) -> Rendered:
        before = [Piece("", False, end=True)] if self.plain else []
        *earlier, last = conversation.turns()
        for number, turn in enumerate(earlier):
            head, response, after = self._turn(turn, unlearnt(conversation, number))
            end = Piece("", self._parts_of(turn)[1], end=True)
            for piece in (*join(head), *join([*response, *as_last(response, [*after, end])])):
                learnt = piece.supervised and (self.turns == "all" or not self.mask)
                before.append(piece._replace(supervised=learnt))
        head, response, after = self._turn(last, unlearnt(conversation, len(earlier)))
        return [*before, *join(head)], response, as_last(response, after)

    def _turn(self, turn: Turn, marks: list[Span] | None) -> Rendered:
        """Before the response, its parts, and after it. marks: parts without a loss; None: the response has none."""
        before, supervised, after = self._parts_of(turn)
        heads = [Piece(_fill(parts, turn), mark) for parts, mark in before]
        if marks is None and self.mask:  # what the model would write before an answer is a part of it
            heads = [Piece(piece.text, False) for piece in heads]
        response = answer_pieces(turn.output, supervised, marks)
        return heads, response, [Piece(_fill(parts, turn), mark) for parts, mark in after]

    def _parts_of(self, turn: Turn) -> TurnParts:
        return self._parts_of_kinds[bool(turn.input), bool(turn.system), turn.first]

    @cached_property
    def _parts_of_kinds(self) -> dict[tuple[bool, bool, bool], TurnParts]:
        """The segments of each kind of turn (with input, with system, first): millions of rows are of few kinds."""
        kinds = list(product((True, False), (True, False), (True, False)))
        return {kind: self._parts(Turn("", "x" * kind[0], "", "x" * kind[1], kind[2])) for kind in kinds}

    def _parts(self, turn: Turn) -> TurnParts:
        before: list[Parts] = []
        after: list[Parts] = []
        response = True
        for segment in self.segments:
            if segment.applies(turn):
                supervised = segment.supervised or not self.mask
                head, marker, tail = segment.text.partition("{output}")
                (after if after else before).append((FIELD.split(head), supervised))
                if marker:
                    response = supervised
                    after.append((FIELD.split(tail), supervised))
        return before, response, after

    def pieces(self, conversation: Conversation) -> list[Piece]:
        """The whole conversation as training sees it."""
        before, response, after = self._render(conversation)
        return [*before, *join([*response, *after])]

    def prompt(self, conversation: Conversation) -> str:
        """What the model is given at inference, as text: all that stands before the last response."""
        return "".join(piece.text for piece in self.render(conversation)[0])

    def clean(self, text: str, conversation: Conversation) -> str:
        """A generated text as a response: without the template's own closing text and white space around it."""
        closing = "".join(piece.text for piece in self.render(conversation)[2])
        return text.strip().removesuffix(closing.strip()).strip() if closing.strip() else text.strip()

    def reference(self, conversation: Conversation) -> str:
        """What `clean` gives of the answer of a model that has learnt it: responses are compared with this.

        With calls of tools or reasoning that is how the template writes them, else the output as it stands.
        """
        if not conversation.chat:
            return conversation.output
        return self.clean(self.render(conversation)[1].text, conversation)

    @property
    def hash(self) -> str:
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()[:16]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: Any) -> Template:
        """Raises WeightsError where the value, read from a model folder, is no template."""
        try:
            segments = tuple(Segment(s["text"], bool(s["supervised"]), s["when"]) for s in value["segments"])
            return cls(str(value["name"]), segments, bool(value["mask"]), str(value["turns"]))
        except (KeyError, TypeError, ConfigError) as error:
            raise WeightsError(f"prompt.json: not a prompt template: {error}") from error


def _fill(parts: list[str], turn: Turn) -> str:
    """Text and names of fields in turn, with the turn's texts in the place of the names."""
    return "".join([getattr(turn, part) if i % 2 else part for i, part in enumerate(parts)])


def parts_of_chat(conversation: Conversation) -> tuple[str, int]:
    """What the messages of a conversation have besides texts of user and assistant in turn, and how many answers."""
    chat = json.loads(conversation.chat)
    messages = chat["messages"]
    answers = sum(message["role"] == "assistant" for message in messages)
    if any(message.get("tool_calls") for message in messages):
        return "tool calls", answers
    if any(message["role"] == "tool" for message in messages):
        return "tool results", answers
    if chat.get("tools"):
        return "tools", answers
    if any(message.get("reasoning_content") for message in messages):
        return "reasoning", answers
    return "order of turns", answers


def unlearnt(conversation: Conversation, answer: int) -> list[Span] | None:
    """The parts of an answer that bear no loss, in order; None where that is the whole of it."""
    if answer in conversation.unlearnt:
        return None
    if not conversation.unlearnt_parts:
        return []
    return sorted((begin, end) for number, begin, end in conversation.unlearnt_parts if number == answer)


def answer_pieces(text: str, supervised: bool, marks: list[Span] | None, begin: int = 0) -> list[Piece]:
    """An answer, or its text from `begin` on, in pieces with and without a loss; see `unlearnt`."""
    if marks == []:
        return [Piece(text, supervised)]
    if marks is None:
        return [Piece(text, False, unlearnt=True)]
    pieces, at = [], 0
    for first, last in marks:
        first, last = max(at, first - begin), min(len(text), last - begin)
        if first < last:
            pieces += [Piece(text[at:first], supervised), Piece(text[first:last], False, unlearnt=True)]
            at = last
    pieces.append(Piece(text[at:], supervised))
    return [piece for piece in pieces if piece.text]


def as_last(response: list[Piece], after: list[Piece]) -> list[Piece]:
    """What follows a response: without a loss where its last character has none, for the model then never ended it."""
    if response and response[-1].unlearnt:
        return [piece._replace(supervised=False, unlearnt=True) for piece in after]
    return after


def join(pieces: Iterable[Piece]) -> list[Piece]:
    """Neighbours with the same supervision as one piece, empty ones gone.

    Tokens may then span the border of two segments, but never that of what is supervised.
    """
    joined: list[Piece] = []
    for piece in pieces:
        text, supervised, end, unlearnt = piece
        if joined and not end:
            last = joined[-1]
            if last.supervised == supervised and last.unlearnt == unlearnt and not last.end:
                joined[-1] = Piece(last.text + text, supervised, False, unlearnt)
                continue
        if text or end:
            joined.append(piece)
    return joined
