"""Prompt templates as data: a list of segments, each with fields in braces and marked supervised or not.

One `Template` serves training, sampling, evaluation and export; it is saved with the model. It knows text only, no
tokens. Row text is put in the place of a field as it stands: braces inside it mean nothing.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

from ift.errors import ConfigError, WeightsError

FIELD = re.compile(r"\{(instruction|input|output)\}")
WHEN = ("always", "input", "no_input")


class HasFields(Protocol):
    @property
    def instruction(self) -> str: ...
    @property
    def input(self) -> str: ...
    @property
    def output(self) -> str: ...


@dataclass(frozen=True)
class Segment:
    text: str  # may hold {instruction}, {input} and {output}
    supervised: bool = False
    when: str = "always"  # one of WHEN: for all rows, or only for those that have an input, or none

    def applies(self, row: HasFields) -> bool:
        return self.when == "always" or (self.when == "input") == bool(row.input)


@dataclass(frozen=True)
class Piece:
    """Rendered text with one answer to: may the loss ask for it?"""

    text: str
    supervised: bool


@dataclass(frozen=True)
class Template:
    """
    mask=True keeps the loss on supervised segments; mask=False puts the prompt into the loss too.

    The prompt for inference is everything that stands before {output}, whatever is supervised.
    """

    name: str
    segments: tuple[Segment, ...]
    mask: bool = True

    def __post_init__(self) -> None:
        for segment in self.segments:
            if segment.when not in WHEN:
                raise ConfigError(
                    f"prompt.segments: when={segment.when}: must be one of {', '.join(WHEN)} ({self.name})"
                )
        for when in ("input", "no_input"):
            fields = [f for s in self.segments if s.when in ("always", when) for f in FIELD.findall(s.text)]
            rows = "with input" if when == "input" else "without input"
            if fields.count("output") != 1:
                raise ConfigError(f"prompt.segments: {{output}} must stand once in a row {rows} ({self.name})")
            if "instruction" not in fields[: fields.index("output")]:
                raise ConfigError(f"prompt.segments: {{instruction}} must stand before {{output}} ({self.name})")
            if not all(s.supervised for s in self.segments if s.when in ("always", when) and "{output}" in s.text):
                raise ConfigError(f"prompt.segments: the segment with {{output}} must be supervised ({self.name})")

    @classmethod
    def make(cls, name: str, segments: Iterable[Any], *, mask: bool) -> Template:
        """From settings or anything else with text, supervised and when."""
        return cls(name, tuple(Segment(s.text, s.supervised, s.when) for s in segments), mask)

    def render(self, row: HasFields) -> tuple[list[Piece], Piece, list[Piece]]:
        """The pieces before the response, the response, and those after it."""
        before: list[Piece] = []
        after: list[Piece] = []
        response = None
        for segment in self.segments:
            if not segment.applies(row):
                continue
            supervised = segment.supervised or not self.mask
            head, marker, tail = segment.text.partition("{output}")
            (before if response is None else after).append(Piece(_fill(head, row), supervised))
            if marker:
                response = Piece(row.output, supervised)
                after.append(Piece(_fill(tail, row), supervised))
        assert response is not None  # __post_init__ saw to it
        return _join(before), response, _join(after)

    def pieces(self, row: HasFields) -> list[Piece]:
        """The whole row as training sees it."""
        before, response, after = self.render(row)
        return [*before, response, *after]

    def prompt(self, row: HasFields) -> str:
        """What the model is given at inference: all text before the response."""
        return "".join(piece.text for piece in self.render(row)[0])

    def clean(self, text: str, row: HasFields) -> str:
        """A generated text as a response: without the template's own closing text and white space around it."""
        closing = "".join(piece.text for piece in self.render(row)[2])
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
            return cls(str(value["name"]), segments, bool(value["mask"]))
        except (KeyError, TypeError, ConfigError) as error:
            raise WeightsError(f"prompt.json: not a prompt template: {error}") from error


def _fill(text: str, row: HasFields) -> str:
    return FIELD.sub(lambda match: str(getattr(row, match.group(1))), text)


def _join(pieces: Iterable[Piece]) -> list[Piece]:
    """Neighbours with the same supervision as one piece, empty ones gone: tokens may then span a segment border
    but never the border of what is supervised."""
    joined: list[Piece] = []
    for piece in pieces:
        if joined and joined[-1].supervised == piece.supervised:
            joined[-1] = replace(piece, text=joined[-1].text + piece.text)
        elif piece.text:
            joined.append(piece)
    return joined
