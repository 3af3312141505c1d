"""Jinja chat templates of Hugging Face tokenizer folders, in the place of segments.

A row's text never goes through Jinja where it need not. The template is rendered once for each shape of conversation
(system text or none, number of turns) with marks in the place of the texts, and cut at the marks; what lies between
them is the template's own text, and the rows' texts are put between it afterwards. So no text of a row can become
template syntax or an end-of-text, or move a border of what is supervised.

Two kinds of rows are rendered themselves: those with tools, calls of them or reasoning, and those with a text in which
the template looks for something ("</think>"). Their answers are found by rendering the beginnings of a conversation
too, and the template's end-of-text is an unguessable text while it is rendered, so that a row cannot spell it.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from functools import cached_property, lru_cache
from itertools import islice, product
from pathlib import Path
from typing import Any, NamedTuple

from ift.errors import ConfigError, WeightsError
from ift.text.conversations import Conversation
from ift.text.jinja_process import END, TODAY, Looks, Message, Rendered, Request, render_apart
from ift.text.templates import (
    TURNS,
    Piece,
    Segment,
    Span,
    Special,
    Template,
    answer_pieces,
    as_last,
    join,
    pattern,
    read_tokens,
    split_at,
    unlearnt,
)
from ift.text.templates import Rendered as Pieces
from ift.text.tokenizers import END_OF_TEXT

SOURCE_LIMIT = 100_000  # characters of a template
TEMPLATE_FILES = ("chat_template.jinja", "tokenizer_config.json", "special_tokens_map.json")  # that may hold one
SAMPLE = 32  # rows
KEPT_RENDERINGS = 2_000  # conversations whose renderings are kept at hand
BLOCK = 8  # numbers of turns rendered by one process: starting it is what costs
SPECIAL = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
REASONING = ("reasoning_content", "thinking", "reasoning", "thought")  # what templates call it in a message
OTHERWISE = "writes an earlier answer in another way once a turn follows"
OPENS, CLOSES = re.compile(r"<think>\n*"), "\n</think>\n\n"  # a thought that a generation prompt begins (DeepSeek-R1)
HIDDEN = secrets.token_hex(16)  # no text of a row can spell it
TOOL = "toolM0Zq"  # a tool's name: the template carries tools where it writes this
NOTHING = Looks()
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


@dataclass(frozen=True)
class ChatTemplate(Template):
    """A Jinja chat template with the interface of a `Template`: the text transformers' apply_chat_template gives.

    An input goes to its user message: instruction, an empty line, input. Where the template strips a message, so do we.

    Special tokens of the model that the template's own text spells are these tokens. Of a model that has none of that
    name, eos_token is the end-of-text wherever it stands, so bos_token is it too if spelled the same (GPT-2), and any
    other is ordinary text. Supervised are an answer, the text up to its end and that, and what stands between the
    generation prompt and the answer, since the model must write it (Llama 2's space). It ends with the first special
    token after it (ChatML's <|im_end|>), or eos_token. Where neither follows, the supervised closing is the text after
    the last answer without white space at its end; then earlier turns have no end of their own, as in the template.
    The last turn ends with its closing: what the template writes after that is dropped.

    today: the date that the template is told, "" for one that takes none or was stored before dates were.

    Raises ConfigError where the template fails or does not give each text of a conversation back, once and in order.
    """

    segments: tuple[Segment, ...] = field(default=(), init=False, compare=False)  # own texts of two turns, to look at
    source: str = field(kw_only=True)
    special: tuple[tuple[str, str], ...] = field(kw_only=True)  # (name, spelling) of special tokens
    today: str = field(default="", kw_only=True)

    def __post_init__(self) -> None:
        if self.turns not in TURNS:
            raise ConfigError(f"prompt.turns={self.turns}: must be one of {', '.join(TURNS)}")
        if len(self.source) > SOURCE_LIMIT:
            raise self._error(f"has more than {SOURCE_LIMIT:,} characters")
        for system, turns in ((False, 1), (True, 1), (False, 2)):
            if not (system and self._system_has_no_place):
                shape = self._shape(system, turns)
                if shape.changes not in ("", OTHERWISE) and self.turns == "all":
                    raise self._error(shape.changes)
                if shape.ending != self.ending:
                    raise self._error("ends a turn with one special token and another with another")
        own = tuple(Segment(part.text) for part in shape.before if isinstance(part, Piece) and part.text)
        object.__setattr__(self, "segments", own)  # the dataclass is frozen

    @classmethod
    def from_folder(cls, folder: Path, *, mask: bool = True, turns: str = "all", name: str = "") -> ChatTemplate:
        """A model folder's own: chat_template.jinja, else what tokenizer_config.json calls chat_template.

        name: what it is called, by default as the folder is. A folder that was written here says in prompt.json what
        its template was in training, date and special tokens included. Raises ConfigError without one.
        """
        stored = _read_json(folder / "prompt.json")
        if "chat_template" in stored:
            return replace(cls.from_json(stored), mask=mask, turns=turns)
        config = {**_read_json(folder / "special_tokens_map.json"), **_read_json(folder / "tokenizer_config.json")}
        if str(config.get("tokenizer_class", "")).startswith("GPT2"):  # its class brings these along
            config = {"bos_token": END_OF_TEXT, "eos_token": END_OF_TEXT, "unk_token": END_OF_TEXT, **config}
        spelled = {name: config.get(name) for name in SPECIAL}
        spelled = {name: token.get("content") if isinstance(token, dict) else token for name, token in spelled.items()}
        special = tuple((name, token) for name, token in spelled.items() if isinstance(token, str) and token)
        source = _source(folder, config)
        if source is None:
            raise ConfigError(
                f"prompt.chat_template={folder}: no chat template (needs chat_template.jinja, or chat_template in "
                "tokenizer_config.json)"
            )
        today = TODAY if "strftime_now" in source else ""
        return cls(name or folder.resolve().name, mask, turns, source=source, special=special, today=today)

    @cached_property
    def plain(self) -> bool:
        return False

    @property
    def own_text(self) -> str:
        """Its source, and what it makes of parts of it: "<|" ~ message.role ~ "|>"."""
        shapes = [self._shape(False, 2), *([] if self._system_has_no_place else [self._shape(True, 1)])]
        literals = ["".join("\0" if isinstance(p, Slot | Answer) else p.text for p in shape.before) for shape in shapes]
        opening = [piece.text for shape in shapes for piece in shape.answer.opening]
        closing = [piece.text for shape in shapes for piece in shape.answer.closing]
        return "\0".join((self.source, *(token for _, token in self.special), *literals, *opening, *closing))

    @cached_property
    def ending(self) -> str:
        return self._shape(False, 1).ending

    def missing_place(self, conversation: Conversation) -> str | None:
        return "system" if conversation.system and self._system_has_no_place and not conversation.chat else None

    def prepare(self, conversations: Sequence[Conversation]) -> None:
        """Render all that are rendered themselves, in as few processes as can be. The ones before are forgotten.

        Of the others the first ones are rendered too: what a template does with a text may not be seen in its source.
        Raises ConfigError where one of them is not what its shape says.
        """
        _kept.clear()
        itself = [self._is_rendered(one) for one in conversations]
        sample: list[Conversation] = []
        if self._about not in _sampled:
            others = (one for one, whole in zip(conversations, itself, strict=True) if not whole)
            sample = [one for one in islice(others, SAMPLE) if super(ChatTemplate, self).refusal(one) is None]
        chosen = [one for one, whole in zip(conversations, itself, strict=True) if whole]
        self._render_chats([_chat_of(one, self._reasoning) for one in (*chosen, *sample)])
        for conversation in sample:
            chat = _chat_of(conversation, self._reasoning)
            whole = _kept[self._about, chat][len(json.loads(chat)["messages"]), False]
            before, response, closing = self._by_shape(conversation)
            text = "".join(END if self._ends(piece) else piece.text for piece in (*before, *response, *closing))
            if thought := self._shape_of(conversation).thought:  # of which the template writes nothing
                text = text.replace(thought + CLOSES, "")
            rest = _shown(whole.rest, self.tokens)
            if whole.problem or not self._bare(rest).startswith(self._bare(text)):
                raise self._error("writes some texts in another way than others, by a rule that is not seen in it")
        if sample:
            _sampled.add(self._about)

    def _ends(self, piece: Piece) -> bool:
        """Whether it stands where the template writes its eos_token."""
        return piece.end or (piece.special and piece.text == dict(self.special).get("eos_token"))

    def _bare(self, text: str) -> str:
        """Without the white space that special tokens may swallow."""
        return "".join(text.split()) if any(token.lstrip or token.rstrip for token in self.tokens) else text

    def refusal(self, conversation: Conversation) -> str | None:
        if not self._is_rendered(conversation):
            refused = super().refusal(conversation)
            if refused is None and self._learns_earlier(conversation) and self._shape_of(conversation).changes:
                raise ConfigError(self._only_last)
            return refused
        try:
            if not self._shapes(0).carries_tools and conversation.chat and json.loads(conversation.chat).get("tools"):
                return self._no_place("tools")
            return self._nothing_learnt(conversation) or self._rendering(conversation).refusal(conversation)
        except Problem as problem:
            return f"the template {self.name} {problem}"

    def _render(self, conversation: Conversation) -> Pieces:
        if self._is_rendered(conversation):
            try:
                before, response, after = self._rendering(conversation).pieces(conversation)
            except Problem as problem:
                raise self._error(str(problem)) from problem
        else:
            before, response, after = self._by_shape(conversation)
        return self._begin(before), response, after

    def _by_shape(self, conversation: Conversation) -> Pieces:
        texts = iter(_texts(conversation))
        shape = self._shape_of(conversation)
        before: list[Piece] = []
        prompt: list[Piece] = []
        number = 0
        for part in shape.before:
            if isinstance(part, Answer):
                response, closing = part.pieces(next(texts), unlearnt(conversation, number))
                # joined apart: with mask=False too, no token spans the border between a prompt and its answer
                before += self._with_loss(join(prompt), answer=False)
                before += self._with_loss(join([*response, *closing]), answer=True)
                prompt, number = [], number + 1
            else:
                prompt.append(part if isinstance(part, Piece) else Piece(part.fill(next(texts))[0], False))
        before += self._with_loss(join(prompt), answer=False)
        return before, *shape.answer.pieces(next(texts), unlearnt(conversation, number))

    def _with_loss(self, pieces: list[Piece], *, answer: bool) -> list[Piece]:
        """The pieces of a prompt or of an earlier answer, supervised as the settings say."""
        learnt = not self.mask or (answer and self.turns == "all")
        return [piece._replace(supervised=learnt and not piece.unlearnt) for piece in pieces]

    def clean(self, text: str, conversation: Conversation) -> str:
        if self._is_rendered(conversation):  # of its answer no more is known than that it ends as others do
            conversation = Conversation("x")
        opening = "".join(piece.text for piece in self._shape_of(conversation).answer.opening)
        return super().clean(text.strip().removeprefix(opening.strip()), conversation)

    def to_json(self) -> dict[str, Any]:
        own: dict[str, Any] = {"chat_template": self.source, "special": dict(self.special)}
        if self.today:
            own["today"] = self.today
        return {"name": self.name, **own, "mask": self.mask, "turns": self.turns, **self._tokens_json}

    @classmethod
    def from_json(cls, value: Any) -> ChatTemplate:
        """Raises WeightsError where the value, read from a model folder, is no chat template."""
        try:
            special = tuple((str(name), str(token)) for name, token in value["special"].items())
            source, today = str(value["chat_template"]), str(value.get("today", ""))
            date.fromisoformat(today or TODAY)
            name, mask, turns = str(value["name"]), bool(value["mask"]), str(value["turns"])
            return cls(name, mask, turns, source=source, special=special, today=today, **read_tokens(value))
        except (AttributeError, KeyError, TypeError, ValueError, ConfigError) as error:
            raise WeightsError(f"prompt.json: not a chat template: {error}") from error

    @property
    def _system_has_no_place(self) -> bool:
        """Many templates raise an exception on a system message, some leave it out."""
        shape = self._shapes(0).shapes[True, 1]
        return isinstance(shape, str) and shape.startswith(("raises", "leaves out"))

    @cached_property
    def _reasoning(self) -> str:
        """What the template calls reasoning."""
        return next((name for name in REASONING if re.search(rf"\b{name}\b", self.source)), REASONING[0])

    def _no_place(self, missing: str) -> str:
        advice = "prompt.chat_template=FOLDER of a model that has one"
        return f"the prompt template {self.name} has no place for its {missing} ({advice})"

    @property
    def _only_last(self) -> str:
        return (
            f"prompt.turns=all: the template {self.name} {OTHERWISE} "
            "(prompt.turns=last learns the last answer of each row)"
        )

    def _learns_earlier(self, conversation: Conversation) -> bool:
        answers = range(len(conversation.history))
        return self.mask and self.turns == "all" and any(number not in conversation.unlearnt for number in answers)

    def _is_rendered(self, conversation: Conversation) -> bool:
        """Whether a conversation is rendered itself, not by its shape."""
        if conversation.chat:
            return True
        looks = self._looks
        return looks != NOTHING and looks.find(_texts(conversation))

    @cached_property
    def _looks(self) -> Looks:
        return self._shapes(0).looks

    @property
    def _every(self) -> bool:
        """Whether it matters where earlier answers stand."""
        return not self.mask or self.turns == "all"

    def _rendering(self, conversation: Conversation) -> Rendering:
        chat = _chat_of(conversation, self._reasoning)
        self._render_chats([chat])
        return Rendering(self, chat, _kept[self._about, chat])

    def _render_chats(self, chats: Sequence[str]) -> None:
        """Those that are not at hand, together."""
        about = self._about
        if len(_kept) > KEPT_RENDERINGS:
            _kept.clear()
        missing = list(dict.fromkeys(chat for chat in chats if (about, chat) not in _kept))
        if missing:
            rendered = _render_whole(self, missing)
            _kept.update(((about, chat), renders) for chat, renders in zip(missing, rendered, strict=True))

    @property
    def _about(self) -> tuple[Any, ...]:
        """All that a rendering depends on besides its messages."""
        return self.source, self.special, self.today, self.tokens, self._every

    def _shape_of(self, conversation: Conversation) -> Shape:
        return self._shape(bool(conversation.system), len(conversation.history) + 1)

    def _shape(self, system: bool, turns: int) -> Shape:
        shape = self._shapes((turns - 1) // BLOCK).shapes[system, turns]
        if isinstance(shape, str):
            raise self._error(shape)
        return shape

    def _shapes(self, block: int) -> Shapes:
        return _shapes(self.source, self.special, self.today, self.tokens, block)

    def _error(self, problem: str) -> ConfigError:
        return ConfigError(f"prompt.chat_template: {self.name} {problem} (prompt=alpaca or another prompt=NAME)")


def template_from(settings: Any) -> Template:
    """From settings with name, mask, turns, segments and chat_template: a folder, or for segments None.

    "auto" is None here: a model that has a template of its own is known to `ift.artifacts.model_template` alone.
    """
    if settings.chat_template not in (None, "auto"):
        return ChatTemplate.from_folder(Path(settings.chat_template), mask=settings.mask, turns=settings.turns)
    if not settings.segments:
        raise ConfigError("prompt.segments: none, and no prompt.chat_template (give one of the two)")
    return Template.make(settings.name, settings.segments, mask=settings.mask, turns=settings.turns)


def read_template(value: Any) -> Template:
    """From the prompt.json of a model folder. Raises WeightsError where the value is no template of either kind."""
    kind = ChatTemplate if isinstance(value, dict) and "chat_template" in value else Template
    return kind.from_json(value)


def _chat_of(conversation: Conversation, reasoning: str) -> str:
    """The messages and tools of a conversation as JSON, in the words of a template."""
    if conversation.chat and reasoning == REASONING[0]:
        return conversation.chat
    if not conversation.chat:
        system = ["system"] if conversation.system else []
        roles = [*system, *["user", "assistant"] * (len(conversation.history) + 1)]
        texts = zip(roles, _texts(conversation), strict=True)
        return json.dumps({"messages": [{"role": role, "content": text} for role, text in texts]})
    chat = json.loads(conversation.chat)
    for message in chat["messages"]:
        if REASONING[0] in message:
            message[reasoning] = message.pop(REASONING[0])
    return json.dumps(chat)


def _texts(conversation: Conversation) -> list[str]:
    """The contents of a conversation's messages."""
    texts = [conversation.system] if conversation.system else []
    for turn in conversation.history:
        texts += turn
    user = "\n\n".join(filter(None, (conversation.instruction, conversation.input)))
    return [*texts, user, conversation.output]


def has_chat_template(folder: Path) -> bool:
    """Raises ConfigError where a file that may hold one cannot be read."""
    return _source(folder, _read_json(folder / "tokenizer_config.json")) is not None


def _source(folder: Path, config: dict[str, Any]) -> str | None:
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
    return source if isinstance(source, str) else None


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


class Problem(ValueError):
    """What a template does wrong, as the end of a sentence about it."""


class Shapes(NamedTuple):
    """What a template makes of conversations of a number of turns, and what it does with their texts."""

    shapes: dict[tuple[bool, int], Shape | str]  # (system, turns) -> its shape, or what is wrong with it
    looks: Looks
    carries_tools: bool


@lru_cache(maxsize=256)
def _shapes(
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


# ----------------------------------------------------------------------------------------------------------------------
# conversations that are rendered themselves

_sampled: set[tuple[Any, ...]] = set()  # templates whose first plain rows were rendered, and were as they should be
_kept: dict[tuple[tuple[Any, ...], str], dict[tuple[int, bool], Rendered]] = {}  # the last renderings of this process


class Empty(Problem):
    """An answer of which nothing is written."""


class Changed(Problem):
    """An earlier answer stands in a conversation in another way than as its last one."""


def _render_whole(template: ChatTemplate, chats: Sequence[str]) -> list[dict[tuple[int, bool], Rendered]]:
    """For each conversation its renderings by (number of messages, whether the generation prompt follows)."""
    mark = secrets.token_hex(16)  # stands for eos_token meanwhile: no text of a row can spell it
    special, source = dict(template.special), template.source
    eos = special.get("eos_token", "")
    if eos:
        source = source.replace(eos, mark)
        special = {name: mark if token == eos else token for name, token in special.items()}
    requests = []
    for chat in map(json.loads, chats):
        messages = [_inert(message, template) for message in chat["messages"]]
        cuts = {(len(messages), False): None}
        for number in _answers(messages) if template._every else [len(messages) - 1]:
            cuts |= {(number, True): None, (number + 1, False): None}
        requests.append(Request(messages, list(cuts), chat.get("tools") or None))
    reply = render_apart(source, special, requests, today=template.today or TODAY, mark=mark)
    pairs = zip(requests, reply.renders, strict=True)
    return [dict(zip(request.cuts, renders, strict=True)) for request, renders in pairs]


def _inert(message: Message, template: ChatTemplate) -> Message:
    """A message whose texts spell no special token of the model: what is found in a rendering is the template's own.

    An answer keeps what the template looks for in it ("</think>"), for it writes that itself.
    """
    looked_for = template._looks.inside if message["role"] == "assistant" else ()
    hidden = [(token.text, name) for token, name in _hidden(template.tokens) if token.text not in looked_for]

    def inert(value: Any) -> Any:
        if isinstance(value, str):
            for spelled, name in hidden:
                value = value.replace(spelled, name)
            return value
        if isinstance(value, dict):
            return {key: inert(inner) for key, inner in value.items()}
        return [inert(inner) for inner in value] if isinstance(value, list) else value

    return {key: value if key == "role" else inert(value) for key, value in message.items()} if hidden else message


def _hidden(tokens: Sequence[Special]) -> list[tuple[Special, str]]:
    """Special tokens, the longest first, and what stands for a row's text that spells one while it is rendered."""
    named = [(token, f"{HIDDEN}{number}q") for number, token in enumerate(tokens)]
    return sorted(named, key=lambda one: -len(one[0].text))


def _shown(text: str, tokens: Sequence[Special]) -> str:
    """A rendered text with all texts of rows as they are."""
    if HIDDEN in text:
        for token, name in _hidden(tokens):
            text = text.replace(name, token.text)
    return text


def _answers(messages: Sequence[Message]) -> list[int]:
    return [number for number, message in enumerate(messages) if message["role"] == "assistant"]


class Rendering:
    """A conversation as its template renders it, and where the answers stand in that. Raises Problem."""

    def __init__(self, template: ChatTemplate, chat: str, renders: dict[tuple[int, bool], Rendered]):
        self.template, self.renders = template, renders
        value = json.loads(chat)
        self.messages: list[Message] = value["messages"]
        self.answers = _answers(self.messages)
        if not self.answers or self.answers[-1] != len(self.messages) - 1:
            raise Problem("is given a conversation that does not end in an answer")
        whole = renders[len(self.messages), False]
        if whole.problem:
            raise Problem(whole.problem)
        self.text = whole.rest
        self.usual = template._shape(False, 1)  # what stands after an answer
        eos = dict(template.special).get("eos_token", "")
        self.eos = next((token for token in template.tokens if token.text == eos), None)
        self.own = Own(END, tuple(token for token in template.tokens if token != self.eos))
        self.thought = self.usual.thought  # begun by the generation prompt
        self.thought_ends = f"{self._last_thought()}{CLOSES}" if self.thought else ""  # what the template leaves out
        self.ending = END if template.ending in ("", eos) else template.ending  # as it is spelled in the text

    def pieces(self, conversation: Conversation) -> Pieces:
        before: list[Piece] = []
        at = 0
        for number in range(len(self.answers) - 1) if self.template._every else ():
            try:
                begin, end, ended = self._place(number)
            except Changed:
                if not self.template.mask and number in conversation.unlearnt:
                    raise
                continue  # it bears no loss: a row of which it should is refused
            before += self._prompt(at, begin)
            response, closing = self._answer(conversation, number, begin, end)
            ending = [piece._replace(supervised=True) for piece in self._own_pieces(self.ending)] if ended else []
            answer = join([*response, *closing, *as_last(response, ending)])
            before += self.template._with_loss(answer, answer=True)
            at = end + len(self.ending) * ended
        number = len(self.answers) - 1
        begin, end, _ = self._place(number)
        response, closing = self._answer(conversation, number, begin, end)
        if self.thought:
            learnt = number not in conversation.unlearnt
            thinks = [Piece(self._last_thought(), learnt), *self.own.pieces(CLOSES, supervised=learnt)]
            response = [*(piece._replace(unlearnt=not learnt) for piece in thinks), *response]
        opens = self.template._with_loss(self.own.pieces(self.thought), answer=False)
        return join([*before, *self._prompt(at, begin), *opens]), response, closing

    def refusal(self, conversation: Conversation) -> str | None:
        """Why the conversation cannot be learnt as it is rendered, or None."""
        missing = self._left_out()
        if missing:
            return self.template._no_place(missing)
        self.pieces(conversation)
        if self.template.mask and self.template.turns == "all":
            for number in range(len(self.answers) - 1):
                try:
                    if number not in conversation.unlearnt:
                        self._place(number)
                except Changed:
                    if self.template._shape(False, 2).changes:  # so it is with all conversations
                        raise ConfigError(self.template._only_last) from None
                    return self.template._only_last
        return None

    def _place(self, number: int) -> tuple[int, int, bool]:
        """Where an answer with what closes it begins and ends, and whether an end-of-text follows."""
        message, is_last = self.answers[number], number == len(self.answers) - 1
        prompt, alone = self.renders[message, True], self.renders[message + 1, False]
        for rendered in (prompt, alone):
            if rendered.problem:
                raise Problem(rendered.problem)
        begin = prompt.common
        if prompt.rest != self.thought or (not is_last and (self.thought or alone.common < begin)):
            if is_last:
                raise Problem("writes a generation prompt that is not what stands before an answer")
            raise Changed(OTHERWISE)
        own = self.text[begin:] if is_last else self.text[begin : alone.common] + alone.rest
        text, ended, _ = own.partition(self.ending)
        if not ended:
            text = text.removesuffix(self.usual.after)
            if self.template.ending and is_last:
                raise Problem(f"does not end this answer with {self.template.ending} as it ends others")
        end = begin + len(text)
        follows = self.text.startswith(self.ending, end)
        closes = bool(self.usual.answer.closing[0].text.strip())
        if not self.text.startswith(text, begin) or (ended and not follows and not closes):
            raise Changed(OTHERWISE)
        if not text:
            raise Empty("writes nothing for an answer")
        return begin, end, follows

    def _last_thought(self) -> str:
        """The last answer's reasoning, which it has of its own or before its text."""
        last = self.messages[-1]
        before, ends, _ = last["content"].partition(CLOSES.strip())
        thought: str = last.get(self.template._reasoning) or (before if ends else "")
        return OPENS.sub("", thought, count=1).strip("\n")

    def _prompt(self, begin: int, end: int) -> list[Piece]:
        return self.template._with_loss(join(self._own_pieces(self.text[begin:end])), answer=False)

    def _own_pieces(self, text: str) -> list[Piece]:
        """A part of the rendering, with special tokens and ends where the template wrote them."""
        known = Piece(self.eos.text, False, special=True) if self.eos else Piece("", False, end=True)
        return [
            known if piece.end else piece if piece.special else piece._replace(text=self._shown(piece.text))
            for piece in self.own.pieces(text)
        ]

    def _shown(self, text: str) -> str:
        return _shown(text, self.template.tokens)

    def _answer(self, conversation: Conversation, number: int, begin: int, end: int) -> tuple[list[Piece], list[Piece]]:
        """The parts of an answer, and what closes it."""
        text, closing = self.text[begin:end], self.usual.answer.closing[0].text
        closing = closing if text.endswith(closing) else ""
        parts = self._own_pieces(text.removesuffix(closing))
        marks = unlearnt(conversation, number)
        spelled = "".join(part.text for part in parts)
        at = self._offset(spelled, self.messages[self.answers[number]]["content"]) if marks else 0
        response: list[Piece] = []
        for part in parts:
            pieces = answer_pieces(part.text, True, marks, at)
            response += [piece._replace(end=part.end, special=part.special) for piece in pieces]
            at += len(part.text)
        return response, as_last(response, [Piece(closing, True)] if closing else [])

    def _offset(self, text: str, content: str) -> int:
        """What to take off a place in an answer's content for its place in the rendered text."""
        for kept in (content, content.strip()):
            if text.endswith(kept) or text.count(kept) == 1:
                return content.index(kept) - text.rindex(kept)
        raise Problem(
            "writes an answer in another way than as it stands, and a part of it is marked as not to be learnt"
        )

    def _left_out(self) -> str | None:
        """What the conversation has and its rendering has not, or None.

        What a template leaves out of an earlier turn by its own rule is fine, be it reasoning.
        """
        last = self.messages[-1]
        try:
            begin, _, _ = self._place(len(self.answers) - 1)
        except Empty:
            return "tool calls" if last.get("tool_calls") else "answer"
        for message in self.messages:
            where = self.thought + self.thought_ends + self._shown(self.text[begin:] if message is last else self.text)
            names = [call["function"]["name"] for call in message.get("tool_calls", ())]
            given = [text for call in message.get("tool_calls", ()) for text in _leaves(call["function"]["arguments"])]
            if not _all_in([*names, *given], where):
                return "tool calls"
            if not _all_in(self._parts(message, every=message is last), where):
                if names:
                    return "text beside a tool call"
                whole = len(self._parts(message, every=True)) == 1
                what = {"tool": "tool results", "assistant": "answer" if whole else "reasoning"}
                return what.get(message["role"], message["role"])
        if not _all_in([last.get(self.template._reasoning, "")], self.thought_ends + self._shown(self.text[begin:])):
            return "reasoning"
        return None

    def _parts(self, message: Message, *, every: bool) -> list[str]:
        """A message's text, cut where the template may cut it; of an earlier answer what stands last."""
        inside = self.template._looks.inside
        parts = re.split("|".join(map(re.escape, inside)), message["content"]) if inside else [message["content"]]
        return parts if every or message["role"] != "assistant" else parts[-1:]


def _leaves(value: Any) -> Iterator[str]:
    """The texts in a call's arguments, names too."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield name
            yield from _leaves(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _leaves(inner)
    elif isinstance(value, str):
        yield value


def _all_in(texts: Iterable[str], where: str) -> bool:
    """Whether each text stands there, as it is or as a string of JSON, white space around it aside."""
    bare = filter(None, (text.strip() for text in texts))
    return all(text in where or json.dumps(text, ensure_ascii=False)[1:-1] in where for text in bare)
