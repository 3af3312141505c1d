"""Prompt templates as data: a list of segments, each with fields in braces and marked supervised or not.

One `Template` serves training, sampling, evaluation and export; it is saved with the model. It knows text only, no
tokens. Row text is put in the place of a field as it stands: braces inside it mean nothing. A conversation is its turns
one after the other, each in the same segments and each with its own end-of-text.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import product
from typing import Any

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


@dataclass(frozen=True)
class Piece:
    """Rendered text, supervised or not. With end: no text, but the end-of-text after a turn."""

    text: str
    supervised: bool
    end: bool = False


Parts = tuple[list[str], bool]  # text and names of fields in turn, as FIELD.split gives them; whether it is supervised
TurnParts = tuple[list[Parts], bool, list[Parts]]  # before the response, whether that is supervised, after it


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
            if "instruction" not in fields[: fields.index("output")]:
                raise ConfigError(f"prompt.segments: {{instruction}} must stand before {{output}} ({self.name})")
            if not all(s.supervised for s in self.segments if s.applies(turn) and "{output}" in s.text):
                raise ConfigError(f"prompt.segments: the segment with {{output}} must be supervised ({self.name})")

    @classmethod
    def make(cls, name: str, segments: Iterable[Any], *, mask: bool, turns: str = "all") -> Template:
        """From settings or anything else with text, supervised and when."""
        return cls(name, tuple(Segment(s.text, s.supervised, s.when) for s in segments), mask, turns)

    def missing_place(self, conversation: Conversation) -> str | None:
        """The field that a conversation has and the template would leave out, or None."""
        for field in ("system", "input"):
            if getattr(conversation, field) and not any(f"{{{field}}}" in segment.text for segment in self.segments):
                return field
        return None

    def render(self, conversation: Conversation) -> tuple[list[Piece], Piece, list[Piece]]:
        """The pieces before the last response, that response, and those after it.

        The end-of-text of the last turn is not among them: whether it is learnt depends on the length too.
        """
        *earlier, last = conversation.turns()
        history = [piece for turn in earlier for piece in self._earlier(turn)]
        before, response, after = self._turn(last)
        return [*history, *join(before)], response, join(after)

    def _turn(self, turn: Turn) -> tuple[list[Piece], Piece, list[Piece]]:
        before, supervised, after = self._parts_of_kinds[bool(turn.input), bool(turn.system), turn.first]
        return (
            [Piece(_fill(parts, turn), mark) for parts, mark in before],
            Piece(turn.output, supervised),
            [Piece(_fill(parts, turn), mark) for parts, mark in after],
        )

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

    def _earlier(self, turn: Turn) -> Iterator[Piece]:
        before, response, after = self._turn(turn)
        for piece in (*join(before), *join([response, *after]), Piece("", response.supervised, end=True)):
            yield replace(piece, supervised=piece.supervised and (self.turns == "all" or not self.mask))

    def pieces(self, conversation: Conversation) -> list[Piece]:
        """The whole conversation as training sees it."""
        before, response, after = self.render(conversation)
        return [*before, *join([response, *after])]

    def prompt(self, conversation: Conversation) -> str:
        """What the model is given at inference, as text: all that stands before the last response."""
        return "".join(piece.text for piece in self.render(conversation)[0])

    def clean(self, text: str, conversation: Conversation) -> str:
        """A generated text as a response: without the template's own closing text and white space around it."""
        closing = "".join(piece.text for piece in self.render(conversation)[2])
        return text.strip().removesuffix(closing.strip()).strip() if closing.strip() else text.strip()

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


def join(pieces: Iterable[Piece]) -> list[Piece]:
    """Neighbours with the same supervision as one piece, empty ones gone.

    Tokens may then span the border of two segments, but never that of what is supervised.
    """
    joined: list[Piece] = []
    for piece in pieces:
        if joined and joined[-1].supervised == piece.supervised and not (joined[-1].end or piece.end):
            joined[-1] = Piece(joined[-1].text + piece.text, piece.supervised)
        elif piece.text or piece.end:
            joined.append(piece)
    return joined
