"""What a chat template writes around the texts of a conversation, by its shape: a system text or none, and its turns.

Marks are rendered in the place of the texts, and the rendering is cut at the marks.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import product
from typing import NamedTuple

from ift.text.jinja_process import TODAY, Looks, Message, Rendered, Request, render_apart
from ift.text.templates import Piece, Span, Special, answer_pieces, as_last, pattern, split_at

BLOCK = 8  # numbers of turns rendered by one process: starting it is what costs
OTHERWISE = "writes an earlier answer in another way once a turn follows"
OPENS, CLOSES = re.compile(r"<think>\n*"), "\n</think>\n\n"  # a thought that a generation prompt begins (DeepSeek-R1)
TOOL = "toolM0Zq"  # a tool's name: the template carries tools where it writes this
PAD = "\x1f"  # white space to strip(), which no template writes: where it is gone, the template strips the text


@dataclass(frozen=True)
class Slot:
    """Where the text of a message goes, and on which sides the template strips it of white space."""

    left: bool
    right: bool

    def fill(self, text: str) -> tuple[str, int]:
        """The text as it stands there, and how many characters it lost at its beginning."""
        kept = text.lstrip() if self.left else text
        return kept.rstrip() if self.right else kept, len(text) - len(kept)


@dataclass(frozen=True)
class Answer:
    """An answer with what the model writes around it."""

    opening: tuple[Piece, ...]  # between the generation prompt and the answer (none in most templates)
    slot: Slot
    closing: tuple[Piece, ...]

    def pieces(self, text: str, marks: list[Span] | None) -> tuple[list[Piece], list[Piece]]:
        """The answer, and what ends it."""
        filled, lost = self.slot.fill(text)
        opening = [piece._replace(supervised=marks is not None, unlearnt=marks is None) for piece in self.opening]
        response = [*opening, *answer_pieces(filled, True, marks, lost)]
        return response, as_last(response, list(self.closing))


@dataclass(frozen=True)
class Shape:
    """What the template makes of all conversations of one shape."""

    before: tuple[Piece | Slot | Answer, ...]  # up to the end of the generation prompt
    answer: Answer  # without its end
    ending: str  # the special token that ends a turn; "": the end-of-text does
    after: str  # white space that the template writes after a last answer without an end
    changes: str = ""  # what the template does to an earlier answer that it does not do to a last one
    thought: str = ""  # the beginning of a thought that ends the generation prompt and stands before no answer


class Problem(ValueError):
    """What a template does wrong, as the end of a sentence about it."""


class Shapes(NamedTuple):
    """What a template makes of conversations of a number of turns, and what it does with their texts."""

    shapes: dict[tuple[bool, int], Shape | str]  # (system, turns) -> its shape, or what is wrong with it
    looks: Looks
    carries_tools: bool


@lru_cache(maxsize=256)
def shapes_of(
    source: str, special: tuple[tuple[str, str], ...], today: str, tokens: tuple[Special, ...], block: int
) -> Shapes:
    """For the numbers of turns in a block."""
    numbers = range(block * BLOCK + 1, (block + 1) * BLOCK + 1)
    roles = {key: ["system"] * key[0] + ["user", "assistant"] * key[1] for key in product((False, True), numbers)}
    requests = [Request(_marked(whole), [(len(whole), False), (len(whole) - 1, True)]) for whole in roles.values()]
    tool = {"type": "function", "function": {"name": TOOL, "description": TOOL, "parameters": {"type": "object"}}}
    requests.append(Request(_marked(["user", "assistant"]), [(2, False)], [tool]))
    reply = render_apart(source, dict(special), requests, today=today or TODAY)
    *renders, [with_tools] = reply.renders
    shapes: dict[tuple[bool, int], Shape | str] = {}
    starts: dict[tuple[bool, int], list[str]] = {}  # the template's own texts up to a generation prompt
    own = Own(dict(special).get("eos_token", ""), tokens)
    for key, (full, prompt) in zip(roles, renders, strict=True):
        prompt = Rendered(0, full.rest[: prompt.common] + prompt.rest, prompt.problem)
        try:
            shape, starts[key] = _read_shape(full, prompt, roles[key], own)
            earlier = starts.get((key[0], key[1] - 1), [])
            begin = starts[key][: len(earlier)]
            if earlier and (begin[:-1] != earlier[:-1] or not begin[-1].startswith(earlier[-1])):
                shape = replace(shape, changes=OTHERWISE)
            shapes[key] = shape
        except Problem as problem:
            shapes[key] = str(problem)
    return Shapes(shapes, reply.looks, bool(with_tools.problem) or TOOL in with_tools.rest)


class Own(NamedTuple):
    """A template's own text in pieces, apart at its special tokens and at the ends that it writes."""

    eos: str  # how it spells an end-of-text
    tokens: tuple[Special, ...]  # that the model has; eos may be among them

    def pieces(self, text: str, *, supervised: bool = False) -> list[Piece]:
        end = Special(self.eos)
        known = any(token.text == self.eos for token in self.tokens)
        parts = split_at(text, self.tokens if known or not self.eos else (*self.tokens, end))
        return [
            Piece("", supervised, end=True)
            if special and part == self.eos and not known
            else Piece(part, supervised, special=special)
            for part, special in parts
        ]

    def closing(self, text: str, marker: Piece) -> tuple[list[Piece], int] | None:
        """What ends an answer by this end or special token, all supervised, and how long that is; None without it."""
        spelled = self.eos if marker.end else marker.text
        token = next((token for token in self.tokens if token.text == spelled), Special(spelled))
        found = pattern((token,)).search(text) if spelled else None
        if found is None:
            return None
        marker = marker._replace(supervised=True)
        return [*(self.pieces(text[: found.start()], supervised=True) or [Piece("", True)]), marker], found.end()

    @property
    def end(self) -> Piece:
        known = any(token.text == self.eos for token in self.tokens)
        return Piece(self.eos, True, special=True) if known else Piece("", True, end=True)


def _read_shape(full: Rendered, prompt: Rendered, roles: list[str], own: Own) -> tuple[Shape, list[str]]:
    """full: the whole conversation; prompt: with the generation prompt in the place of the last answer."""
    literals, slots = _cut(full, roles)
    starts, prompt_slots = _cut(prompt, roles[:-1])
    *earlier, last, tail = literals
    thought = starts[-1][len(last) :] if starts[-1].startswith(last) else ""
    if OPENS.fullmatch(thought):
        opening, last = CLOSES, starts[-1] + CLOSES
    else:
        opening, thought = last.removeprefix(starts[-1]), ""
    same_texts = [*earlier, starts[-1] + opening] == [*starts[:-1], last]
    if not same_texts or prompt_slots != slots[:-1] or (own.eos and own.eos in opening):
        raise Problem("writes a generation prompt that is not what stands before an answer")
    marker = next((piece for piece in own.pieces(tail) if piece.end or piece.special), None)
    ended = own.closing(tail, marker) if marker else None
    closing = "".join(piece.text for piece in ended[0][:-1]) if ended else tail.rstrip()
    opens = tuple(own.pieces(opening, supervised=True))
    parts: list[Piece | Slot | Answer] = []
    changes, rest = "", 0
    for number, (role, slot) in enumerate(zip(roles[:-1], slots, strict=False)):
        literal = literals[number][rest:]  # without what ends the answer before it
        if role != "assistant":
            parts += [*own.pieces(literal), slot]
            rest = 0
            continue
        head = literal.removesuffix(opening)
        pieces, rest = _split_closing(literals[number + 1], closing, own, marker)
        if pieces is None:
            changes = "closes an earlier answer by other text than the last one"
        elif head + opening != literal or (ended and not closing.strip() and not _is_end(pieces[-1])):
            changes = changes or OTHERWISE
        its_own = opens if literal[len(head) :] else ()
        parts += [*own.pieces(head), Answer(its_own, slot, tuple(pieces or ()))]
    parts += own.pieces(starts[-1])
    answer = Answer(opens, slots[-1], (Piece(closing, True),))
    ending = marker.text if marker and marker.special else ""
    return Shape(tuple(parts), answer, ending, "" if ended else tail[len(closing) :], changes, thought), starts


def _is_end(piece: Piece) -> bool:
    return piece.end or piece.special


def _split_closing(text: str, closing: str, own: Own, marker: Piece | None) -> tuple[list[Piece] | None, int]:
    """What ends an earlier answer, and how long that is; what follows belongs to the next turn."""
    for end in (marker, own.end):
        ended = own.closing(text, end) if end else None
        if ended:
            return ended
    if not text.startswith(closing):
        return None, 0
    return [Piece(closing, True)], len(closing)


def _mark(number: int) -> str:
    """Text that nothing but strip() leaves as it is: not lower(), tojson, escape or a replaced line break."""
    return f"<é&\"'\\\nM{number}Zq>"


def _marked(roles: list[str]) -> list[Message]:
    """A conversation of marks."""
    return [{"role": role, "content": f"{PAD}{_mark(number)}{PAD}"} for number, role in enumerate(roles)]


def _cut(rendered: Rendered, roles: list[str]) -> tuple[list[str], list[Slot]]:
    """The texts around the marks of the messages, one more than there are marks, and the marks' own places."""
    _, text, problem = rendered
    if problem:
        raise Problem(problem)
    for number, role in enumerate(roles):
        if _mark(number) not in text:
            changed = f"m{number}z" in text.lower()
            raise Problem(f"{'changes' if changed else 'leaves out'} the {role}'s text")
        if text.count(_mark(number)) > 1:
            raise Problem(f"repeats the {role}'s text")
    literals: list[str] = []
    slots: list[Slot] = []
    for number, role in enumerate(roles):
        literal, mark, text = text.partition(_mark(number))
        if not mark:
            raise Problem(f"puts the {role}'s text in another place of the conversation")
        literals.append(literal.removesuffix(PAD))
        slots.append(Slot(literal == literals[-1], not text.startswith(PAD)))
        text = text.removeprefix(PAD)
    return [*literals, text], slots
