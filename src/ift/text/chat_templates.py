"""Jinja chat templates of Hugging Face tokenizer folders, in the place of segments.

A row's text never goes through Jinja. The template is rendered once for each shape of conversation (system text or
none, number of turns) with marks in the place of the texts, and cut at the marks; what lies between them is the
template's own text, and the rows' texts are put between it afterwards. So no text of a row can become template syntax
or an end-of-text, or move a border of what is supervised.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import Any

from ift.errors import ConfigError, WeightsError
from ift.text.conversations import Conversation
from ift.text.jinja_process import Rendered, render_apart
from ift.text.templates import TURNS, Piece, Segment, Template, join
from ift.text.tokenizers import END_OF_TEXT

SOURCE_LIMIT = 100_000  # characters of a template
BLOCK = 8  # numbers of turns rendered by one process: starting it is what costs
SPECIAL = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
PAD = "\x1f"  # white space to strip(), which no template writes: where it is gone, the template strips the text


@dataclass(frozen=True)
class Slot:
    """Where the text of a message goes, and on which sides the template strips it of white space."""

    left: bool
    right: bool
    supervised: bool  # an answer

    def fill(self, text: str) -> Piece:
        text = text.lstrip() if self.left else text
        return Piece(text.rstrip() if self.right else text, self.supervised)


@dataclass(frozen=True)
class Shape:
    """What the template makes of all conversations of one shape."""

    before: tuple[Piece | Slot, ...]  # up to the end of the generation prompt
    opening: str  # between the generation prompt and the answer: for the model to write ("" in most templates)
    answer: Slot
    closing: str  # between the answer and its end-of-text


@dataclass(frozen=True)
class ChatTemplate(Template):
    """A Jinja chat template with the interface of a `Template`: the text transformers' apply_chat_template gives.

    An input goes to its user message: instruction, an empty line, input. Where the template strips a message, so do we.

    eos_token in the template's own text is the end-of-text token wherever it stands, so bos_token is it too if spelled
    the same (GPT-2). Any other special token is ordinary text. Supervised are an answer, the text up to its eos_token
    and that, and text that stands between the generation prompt and the answer, since the model must write it
    (Llama 2's space). Where no eos_token follows, the supervised closing is the text after the last answer without
    white space at its end (ChatML's <|im_end|>); then earlier turns have no end of their own, as in the template.
    The last turn ends with its closing: what the template writes after that is dropped.

    Raises ConfigError where the template fails or does not give each text of a conversation back, once and in order.
    """

    segments: tuple[Segment, ...] = field(default=(), init=False, compare=False)  # own texts of two turns, to look at
    source: str = field(kw_only=True)
    special: tuple[tuple[str, str], ...] = field(kw_only=True)  # (name, spelling) of special tokens

    def __post_init__(self) -> None:
        if self.turns not in TURNS:
            raise ConfigError(f"prompt.turns={self.turns}: must be one of {', '.join(TURNS)}")
        if len(self.source) > SOURCE_LIMIT:
            raise self._error(f"has more than {SOURCE_LIMIT:,} characters")
        for system, turns in ((False, 1), (True, 1), (False, 2)):
            if not (system and self._system_has_no_place):
                shape = self._shape(system, turns)
        own = tuple(Segment(part.text) for part in shape.before if isinstance(part, Piece) and part.text)
        object.__setattr__(self, "segments", own)  # the dataclass is frozen

    @classmethod
    def from_folder(cls, folder: Path, *, mask: bool = True, turns: str = "all") -> ChatTemplate:
        """chat_template.jinja, else what tokenizer_config.json calls chat_template. Raises ConfigError without one."""
        config = {**_read_json(folder / "special_tokens_map.json"), **_read_json(folder / "tokenizer_config.json")}
        if str(config.get("tokenizer_class", "")).startswith("GPT2"):  # its class brings these along
            config = {"bos_token": END_OF_TEXT, "eos_token": END_OF_TEXT, "unk_token": END_OF_TEXT, **config}
        spelled = {name: config.get(name) for name in SPECIAL}
        spelled = {name: token.get("content") if isinstance(token, dict) else token for name, token in spelled.items()}
        special = tuple((name, token) for name, token in spelled.items() if isinstance(token, str) and token)
        return cls(folder.resolve().name, mask, turns, source=_source(folder, config), special=special)

    def missing_place(self, conversation: Conversation) -> str | None:
        return "system" if conversation.system and self._system_has_no_place else None

    def render(self, conversation: Conversation) -> tuple[list[Piece], Piece, list[Piece]]:
        texts = _texts(conversation)
        shape = self._shape_of(conversation)
        pieces = [part if isinstance(part, Piece) else part.fill(next(texts)) for part in shape.before]
        learnt = self.turns == "all"
        # joined first: with mask=False too, no token spans the border between a prompt and its answer
        before = [replace(piece, supervised=not self.mask or (piece.supervised and learnt)) for piece in join(pieces)]
        response = Piece(shape.opening + shape.answer.fill(next(texts)).text, supervised=True)
        return before, response, join([Piece(shape.closing, supervised=True)])

    def clean(self, text: str, conversation: Conversation) -> str:
        opening = self._shape_of(conversation).opening
        return super().clean(text.strip().removeprefix(opening.strip()), conversation)

    def to_json(self) -> dict[str, Any]:
        own = {"chat_template": self.source, "special": dict(self.special)}
        return {"name": self.name, **own, "mask": self.mask, "turns": self.turns}

    @classmethod
    def from_json(cls, value: Any) -> ChatTemplate:
        """Raises WeightsError where the value, read from a model folder, is no chat template."""
        try:
            special = tuple((str(name), str(token)) for name, token in value["special"].items())
            source = str(value["chat_template"])
            return cls(str(value["name"]), bool(value["mask"]), str(value["turns"]), source=source, special=special)
        except (AttributeError, KeyError, TypeError, ConfigError) as error:
            raise WeightsError(f"prompt.json: not a chat template: {error}") from error

    @property
    def _system_has_no_place(self) -> bool:
        """Many templates raise an exception on a system message, some leave it out."""
        shape = _shapes(self.source, self.special, 0)[True, 1]
        return isinstance(shape, str) and shape.startswith(("raises", "leaves out"))

    def _shape_of(self, conversation: Conversation) -> Shape:
        return self._shape(bool(conversation.system), len(conversation.history) + 1)

    def _shape(self, system: bool, turns: int) -> Shape:
        shape = _shapes(self.source, self.special, (turns - 1) // BLOCK)[system, turns]
        if isinstance(shape, str):
            raise self._error(shape)
        return shape

    def _error(self, problem: str) -> ConfigError:
        return ConfigError(f"prompt.chat_template: {self.name} {problem} (take another, or prompt.segments)")


def template_from(settings: Any) -> Template:
    """From settings with name, mask, turns, segments and chat_template (a tokenizer folder, or None for segments)."""
    if settings.chat_template is not None:
        return ChatTemplate.from_folder(Path(settings.chat_template), mask=settings.mask, turns=settings.turns)
    if not settings.segments:
        raise ConfigError("prompt.segments: none, and no prompt.chat_template (give one of the two)")
    return Template.make(settings.name, settings.segments, mask=settings.mask, turns=settings.turns)


def read_template(value: Any) -> Template:
    """From the prompt.json of a model folder. Raises WeightsError where the value is no template of either kind."""
    kind = ChatTemplate if isinstance(value, dict) and "chat_template" in value else Template
    return kind.from_json(value)


def _texts(conversation: Conversation) -> Iterator[str]:
    """The contents of a conversation's messages."""
    if conversation.system:
        yield conversation.system
    for turn in conversation.turns():
        yield "\n\n".join(filter(None, (turn.instruction, turn.input)))
        yield turn.output


def _source(folder: Path, config: dict[str, Any]) -> str:
    path = folder / "chat_template.jinja"
    if path.exists():
        try:
            with path.open(encoding="utf-8") as file:
                return file.read(SOURCE_LIMIT + 1)
        except (OSError, ValueError) as error:
            raise ConfigError(f"{path}: cannot be read: {error}") from error
    source = config.get("chat_template")
    if isinstance(source, list):
        named = {item.get("name"): item.get("template") for item in source if isinstance(item, dict)}
        source = named.get("default")
    if not isinstance(source, str):
        raise ConfigError(
            f"prompt.chat_template={folder}: no chat template (needs chat_template.jinja, or chat_template in "
            "tokenizer_config.json)"
        )
    return source


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read as JSON: {error}") from error
    return {key: value[key] for key in value if value[key] is not None} if isinstance(value, dict) else {}


# ----------------------------------------------------------------------------------------------------------------------
# what a template writes around the texts


class _Problem(ValueError):
    """What a template does wrong, as the end of a sentence about it."""


@lru_cache(maxsize=256)
def _shapes(source: str, special: tuple[tuple[str, str], ...], block: int) -> dict[tuple[bool, int], Shape | str]:
    """(system, turns) -> its shape, or what is wrong with it, for the numbers of turns in a block."""
    numbers = range(block * BLOCK + 1, (block + 1) * BLOCK + 1)
    roles = {key: ["system"] * key[0] + ["user", "assistant"] * key[1] for key in product((False, True), numbers)}
    conversations = [_marked(part) for whole in roles.values() for part in (whole, whole[:-1])]
    rendered = iter(render_apart(source, dict(special), conversations))
    shapes: dict[tuple[bool, int], Shape | str] = {}
    for key, (full, prompt) in zip(roles, zip(rendered, rendered, strict=True), strict=True):
        try:
            shapes[key] = _read_shape(full, prompt, roles[key], dict(special).get("eos_token", ""))
        except _Problem as problem:
            shapes[key] = str(problem)
    return shapes


def _read_shape(full: Rendered, prompt: Rendered, roles: list[str], eos: str) -> Shape:
    """full: the whole conversation; prompt: with the generation prompt in the place of the last answer."""
    literals, slots = _cut(full, roles)
    starts, prompt_slots = _cut(prompt, roles[:-1])
    *earlier, last, tail = literals
    opening = last.removeprefix(starts[-1])
    same_texts = [*earlier, starts[-1] + opening] == [*starts[:-1], last]
    if not same_texts or prompt_slots != slots[:-1] or (eos and eos in opening):
        raise _Problem("writes a generation prompt that is not what stands before an answer")
    closing = tail.partition(eos)[0] if eos and eos in tail else tail.rstrip()
    parts: list[Piece | Slot] = []
    for previous, role, literal, slot in zip(["", *roles[:-1]], roles, literals[:-1], slots, strict=True):
        if previous == "assistant":
            closed, literal = _split_closing(literal, closing, eos)
            parts += closed
        own = literal.removesuffix(opening) if role == "assistant" else literal
        parts += [*_with_ends(own, eos), Piece(literal[len(own) :], True), slot]
    return Shape(tuple(parts[:-2]), opening, slots[-1], closing)


def _split_closing(text: str, closing: str, eos: str) -> tuple[list[Piece], str]:
    """What ends an earlier answer, and the rest, which belongs to the next turn."""
    if eos and eos in text:
        closing, _, rest = text.partition(eos)
        return [Piece(closing, True), Piece("", True, end=True)], rest
    if not text.startswith(closing):
        raise _Problem("closes an earlier answer by other text than the last one")
    return [Piece(closing, True)], text.removeprefix(closing)


def _with_ends(text: str, eos: str) -> Iterator[Piece]:
    for number, part in enumerate(text.split(eos) if eos else [text]):
        if number:
            yield Piece("", False, end=True)
        yield Piece(part, False)


def _mark(number: int) -> str:
    """Text that nothing but strip() leaves as it is: not lower(), tojson, escape or a replaced line break."""
    return f"<é&\"'\\\nM{number}Zq>"


def _marked(roles: list[str]) -> list[dict[str, str]]:
    """A conversation of marks."""
    return [{"role": role, "content": f"{PAD}{_mark(number)}{PAD}"} for number, role in enumerate(roles)]


def _cut(rendered: Rendered, roles: list[str]) -> tuple[list[str], list[Slot]]:
    """The texts around the marks of the messages, one more than there are marks, and the marks' own places."""
    text, problem = rendered
    if problem:
        raise _Problem(problem)
    for number, role in enumerate(roles):
        if _mark(number) not in text:
            changed = f"m{number}z" in text.lower()
            raise _Problem(f"{'changes' if changed else 'leaves out'} the {role}'s text")
        if text.count(_mark(number)) > 1:
            raise _Problem(f"repeats the {role}'s text")
    literals: list[str] = []
    slots: list[Slot] = []
    for number, role in enumerate(roles):
        literal, mark, text = text.partition(_mark(number))
        if not mark:
            raise _Problem(f"puts the {role}'s text in another place of the conversation")
        literals.append(literal.removesuffix(PAD))
        slots.append(Slot(literal == literals[-1], not text.startswith(PAD), role == "assistant"))
        text = text.removeprefix(PAD)
    return [*literals, text], slots
