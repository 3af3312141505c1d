"""One answer on its way: tokens come in, pieces of text with what was likely go out."""

from __future__ import annotations

import codecs
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from ift.apps.speaker import Trimmed
from ift.generation.engine import Generated
from ift.generation.likely import Likely
from ift.generation.sampling import Sampling
from ift.generation.streaming import TextStream

FINISH = {"end": "stop", "stop": "stop", "length": "length", "context": "length", "cancelled": "stop"}


@dataclass(frozen=True)
class Scored:
    """A token of an answer. offset: characters of the answer's text before it."""

    token: int
    logprob: float | None
    top: list[tuple[int, float]]
    offset: int


@dataclass(frozen=True)
class Piece:
    """What came of answer number `index`; finish is the reason where it has ended, and tokens then how many it has."""

    index: int
    text: str = ""
    scores: list[Scored] = field(default_factory=list)
    finish: str | None = None
    tokens: int = 0


@dataclass(frozen=True, kw_only=True)
class Order:
    """What one answer is made from. trim: white space around it is left out, as templates have their answers.

    echo       the prompt's own text stands before the answer
    beginning  tokens at the beginning of the prompt that no text gave
    """

    index: int
    prompt: Sequence[int]
    max_tokens: int
    sampling: Sampling
    stops: tuple[str, ...]
    trim: bool
    top: int | None = None
    echo: str | None = None
    beginning: int = 0


class Choice:
    """An order that is being answered. `emit` gets its pieces, the last one with the reason of its end."""

    def __init__(self, order: Order, decode_bytes: Callable[[list[int]], bytes], emit: Callable[[Piece], None]):
        self.order, self.decode_bytes, self.emit = order, decode_bytes, emit
        self.ended = False
        self._new = ""
        self._scores: deque[tuple[int, Scored]] = deque()  # each with the bytes before its token
        self._offsets = Offsets(decode_bytes)
        self._shown = 0  # bytes of text that left the stream
        self._trimmed = Trimmed(self._add) if order.trim else None
        self._text = TextStream(decode_bytes, order.stops, self._show)

    def echo(self, likely: Sequence[Likely]) -> None:
        """The prompt itself, with how likely its tokens were where that is asked for."""
        order = self.order
        scores = []
        if order.top is not None:
            for number, token in enumerate(order.prompt):
                offset = 0 if number < order.beginning else self._offsets.add(token)
                found = likely[number - 1] if number else Likely(token, 0.0, [])
                scores.append(Scored(token, found.logprob if number else None, found.top, offset))
        self._offsets.restart(len(order.echo or ""))
        self.emit(Piece(order.index, order.echo or "", scores))

    def on_likely(self, likely: Likely) -> None:
        begin = self._offsets.bytes
        scored = Scored(likely.token, likely.logprob, likely.top, self._offsets.add(likely.token))
        self._scores.append((begin, scored))

    def until(self, ids: list[int]) -> bool:
        stopped = self._text(ids)
        self._flush()
        return stopped

    def on_end(self, answer: Generated) -> None:
        self._text.end()
        self._flush(last=not self._text.stopped)
        self.ended = True
        self.emit(Piece(self.order.index, finish=FINISH[answer.stop_reason], tokens=len(answer.ids)))

    def _show(self, text: str) -> None:
        self._shown += len(text.encode())
        if self._trimmed:
            self._trimmed(text)
        else:
            self._add(text)

    def _add(self, text: str) -> None:
        self._new += text

    def _flush(self, *, last: bool = False) -> None:
        """Hand on new text, and the tokens whose text it is."""
        scores = []
        while self._scores and (last or self._scores[0][0] < self._shown):
            scores.append(self._scores.popleft()[1])
        if self._new or scores:
            text, self._new = self._new, ""
            self.emit(Piece(self.order.index, text, scores))


class Offsets:
    """Where tokens begin in their text: in characters, and in bytes."""

    def __init__(self, decode_bytes: Callable[[list[int]], bytes]):
        self.decode_bytes = decode_bytes
        self.restart(0)

    def restart(self, characters: int) -> None:
        self.characters, self.bytes = characters, 0
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def add(self, token: int) -> int:
        """Characters before the token."""
        before, data = self.characters, self.decode_bytes([token])
        self.characters += len(self._decoder.decode(data))
        self.bytes += len(data)
        return before
