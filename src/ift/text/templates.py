"""Prompt templates as data: a list of segments, each with fields in braces and marked supervised or not.

One `Template` serves training, sampling, evaluation and export; it is saved with the model. Row text is put in the
place of a field as it stands: braces inside it mean nothing. A conversation is its turns one after the other, each in
the same segments and each with its own end.

It knows text and the spellings of special tokens, no numbers. Made for a model (`with_tokens`), its own text holds the
model's special tokens wherever it spells them; a row that spells one says ordinary text. A turn ends with the first
special token that follows its answer, in a template without one with the end-of-text.

A template whose one field is {output} is for plain text: an end-of-text, the text, and its end.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, lru_cache
from itertools import product
from typing import Any, NamedTuple, Self

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


class Special(NamedTuple):
    """How a special token is spelled, and on which sides the tokenizer swallows the white space around it."""

    text: str
    lstrip: bool = False
    rstrip: bool = False


class Piece(NamedTuple):
    """Rendered text, supervised or not. With end: no text, but the end-of-text after a turn.

    special: the text is the spelling of one special token.
    unlearnt: of an answer, and without a loss because its row says so. Where the last piece is, the end that follows it
    is not learnt either.
    """

    text: str
    supervised: bool
    end: bool = False
    unlearnt: bool = False
    special: bool = False


Rendered = tuple[list[Piece], list[Piece], list[Piece]]  # before the last response, its parts, after it
Span = tuple[int, int]


class Part(NamedTuple):
    """Text between special tokens, or one of these."""

    text: list[str]  # text and names of fields in turn, as FIELD.split gives them; of a special token its spelling
    supervised: bool
    special: bool = False

    def fill(self, turn: Turn) -> Piece:
        """With the turn's texts in the place of the names."""
        text = "".join([getattr(turn, part) if i % 2 else part for i, part in enumerate(self.text)])
        return Piece(text, self.supervised, special=self.special)


class TurnParts(NamedTuple):
    before: list[Part]  # the response
    supervised: bool  # the response
    after: list[Part]  # what closes the response, without its end
    ending: str  # the special token that ends the turn; "": the end-of-text does
    rest: list[Part]  # after that, before another turn


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
    tokens: tuple[Special, ...] = field(default=(), kw_only=True)  # in its own text, of the model that it is made for
    bos: str = field(default="", kw_only=True)  # the special token that each text of that model begins with

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

    def with_tokens(self, known: Iterable[Special], bos: str = "") -> Self:
        """The template for a model that knows these special tokens, and begins each text with `bos`."""
        own = self.own_text
        tokens = tuple(sorted(one for one in known if one.text in own and not one.text.isspace()))
        return replace(self, tokens=tokens, bos=bos)

    @property
    def own_text(self) -> str:
        """All text that it may write besides that of rows."""
        return "\0".join(text for segment in self.segments for text in FIELD.split(segment.text)[::2])

    @property
    def puts_bos(self) -> bool:
        """Whether `bos` stands before a text because the template itself does not begin with it."""
        first = next(iter(replace(self, bos="").render(Conversation("x"))[0]), None)
        return bool(self.bos) and not (first and first.special and first.text == self.bos)

    @cached_property
    def ending(self) -> str:
        """The special token that ends a turn; "" where the end-of-text does.

        A template that ends some kinds of turns with one and others with another ends all with the end-of-text.
        """
        endings = {parts.ending for parts in self._parts_of_kinds.values()}
        return endings.pop() if len(endings) == 1 else ""

    @property
    def keeps_answers(self) -> bool:
        return True

    @cached_property
    def plain(self) -> bool:
        """Whether it is for plain text: the one segment is {output} alone."""
        return [segment.text for segment in self.segments] == ["{output}"]

    def missing_place(self, conversation: Conversation) -> str | None:
        """What a conversation has and the template would leave out, or None."""
        if conversation.chat:
            return parts_of_chat(conversation)[0]
        fields = self._fields
        for name in ("system", "input", "instruction"):
            if name not in fields and getattr(conversation, name):
                return name
        return None

    @cached_property
    def _fields(self) -> frozenset[str]:
        return frozenset(name for segment in self.segments for name in FIELD.findall(segment.text))

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
        before, response, after = self.parts(conversation)
        return before, Piece("".join(p.text for p in response), any(p.supervised for p in response)), after

    def parts(self, conversation: Conversation) -> Rendered:
        """As `render`, with the pieces of the response: what opens it may be special tokens."""
        before, response, after = self._render(conversation)
        return before, join(response), join(after)

    def _render(self, conversation: Conversation) -> Rendered:
        before = [Piece("", False, end=True)] if self.plain and not self.bos else []
        rest: list[Piece] = []  # after the end of the turn before
        *earlier, last = conversation.turns()
        for number, turn in enumerate(earlier):
            head, response, after = self._turn(turn, unlearnt(conversation, number))
            parts = self._parts_of(turn)
            ending = Piece(self.ending, parts.supervised, end=not self.ending, special=bool(self.ending))
            for piece in (*join([*rest, *head]), *join([*response, *as_last(response, [*after, ending])])):
                learnt = piece.supervised and (self.turns == "all" or not self.mask)
                before.append(piece._replace(supervised=learnt))
            rest = [part.fill(turn) for part in parts.rest] if self.ending else []
        head, response, after = self._turn(last, unlearnt(conversation, len(earlier)))
        return self._begin([*before, *join([*rest, *head])]), response, as_last(response, after)

    def _begin(self, pieces: list[Piece]) -> list[Piece]:
        """The pieces of a text, begun once with what the model begins each text with."""
        if not self.bos or (pieces and pieces[0].special and pieces[0].text == self.bos):
            return pieces
        return [Piece(self.bos, False, special=True), *pieces]

    def _turn(self, turn: Turn, marks: list[Span] | None) -> Rendered:
        """Before the response, its parts, and after it. marks: parts without a loss; None: the response has none."""
        parts = self._parts_of(turn)
        heads = [part.fill(turn) for part in parts.before]
        if marks is None and self.mask:  # what the model would write before an answer is a part of it
            heads = [piece._replace(supervised=False) for piece in heads]
        response = answer_pieces(turn.output, parts.supervised, marks)
        after = parts.after
        if not self.ending and parts.ending:
            after = [*after, Part([parts.ending], parts.supervised, special=True), *parts.rest]
        return heads, response, [part.fill(turn) for part in after]

    def _parts_of(self, turn: Turn) -> TurnParts:
        return self._parts_of_kinds[bool(turn.input), bool(turn.system), turn.first]

    @cached_property
    def _parts_of_kinds(self) -> dict[tuple[bool, bool, bool], TurnParts]:
        """The segments of each kind of turn (with input, with system, first): millions of rows are of few kinds."""
        kinds = list(product((True, False), (True, False), (True, False)))
        return {kind: self._parts(Turn("", "x" * kind[0], "", "x" * kind[1], kind[2])) for kind in kinds}

    def _parts(self, turn: Turn) -> TurnParts:
        before: list[Part] = []
        after: list[Part] = []
        response: bool | None = None
        for segment in self.segments:
            if segment.applies(turn):
                supervised = segment.supervised or not self.mask
                head, marker, tail = segment.text.partition("{output}")
                (before if response is None else after).extend(self._split(head, supervised))
                if marker:
                    response = supervised
                    after.extend(self._split(tail, supervised))
        assert response is not None  # __post_init__ looks
        at = next((number for number, part in enumerate(after) if part.special), len(after))
        if at == len(after) or any(part.text[1:] for part in after[:at]):
            return TurnParts(before, response, after, "", [])
        rest = [part if not self.mask else part._replace(supervised=False) for part in after[at + 1 :]]
        return TurnParts(before, response, after[:at], after[at].text[0], rest)

    def _split(self, text: str, supervised: bool) -> list[Part]:
        """Own text in parts, apart at its special tokens."""
        return [
            Part([own] if special else FIELD.split(own), supervised, special)
            for own, special in split_at(text, self.tokens)
        ]

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
        segments = [asdict(segment) for segment in self.segments]
        return {"name": self.name, "segments": segments, "mask": self.mask, "turns": self.turns, **self._tokens_json}

    @property
    def _tokens_json(self) -> dict[str, Any]:
        """Nothing where there are none, as in files of before there were any."""
        tokens = [special._asdict() for special in self.tokens]
        return {**({"tokens": tokens} if tokens else {}), **({"bos": self.bos} if self.bos else {})}

    @classmethod
    def from_json(cls, value: Any) -> Template:
        """Raises WeightsError where the value, read from a model folder, is no template."""
        try:
            segments = tuple(Segment(s["text"], bool(s["supervised"]), s["when"]) for s in value["segments"])
            return cls(str(value["name"]), segments, bool(value["mask"]), str(value["turns"]), **read_tokens(value))
        except (KeyError, TypeError, ConfigError) as error:
            raise WeightsError(f"prompt.json: not a prompt template: {error}") from error


def read_tokens(value: Mapping[str, Any]) -> dict[str, Any]:
    """What `with_tokens` put into a stored template. Raises KeyError or TypeError where it is something else."""
    tokens = tuple(Special(str(t["text"]), bool(t["lstrip"]), bool(t["rstrip"])) for t in value.get("tokens", ()))
    return {"tokens": tokens, "bos": str(value.get("bos", ""))}


def split_at(text: str, tokens: Sequence[Special]) -> list[tuple[str, bool]]:
    """A text cut at the special tokens that it spells, the longest first: each part, and whether it is one of them.

    White space that the tokenizer takes into a special token is gone.
    """
    if not tokens:
        return [(text, False)] if text else []
    parts: list[tuple[str, bool]] = []
    at = 0
    for match in pattern(tuple(tokens)).finditer(text):
        parts += [(text[at : match.start()], False), (match[match.lastindex or 0], True)]
        at = match.end()
    parts.append((text[at:], False))
    return [(part, special) for part, special in parts if part]


@lru_cache(maxsize=64)
def pattern(tokens: tuple[Special, ...]) -> re.Pattern[str]:
    """Finds each of them with the white space that it swallows; its group is the spelling alone."""
    longest = sorted(tokens, key=lambda token: -len(token.text))
    return re.compile("|".join(r"\s*" * t.lstrip + f"({re.escape(t.text)})" + r"\s*" * t.rstrip for t in longest))


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
        apart = piece.end or piece.special
        if joined and not apart:
            last = joined[-1]
            alike = last.supervised == piece.supervised and last.unlearnt == piece.unlearnt
            if alike and not (last.end or last.special):
                joined[-1] = last._replace(text=last.text + piece.text)
                continue
        if piece.text or apart:
            joined.append(piece)
    return joined
