"""Jinja chat templates of Hugging Face tokenizer folders, in the place of segments.

A row's text never goes through Jinja where it need not. The template is rendered once for each shape of conversation
(system text or none, number of turns) with marks in the place of the texts, and cut at the marks; what lies between
them is the template's own text, and the rows' texts are put between it afterwards. So no text of a row can become
template syntax or an end-of-text, or move a border of what is supervised.

Two kinds of rows are rendered themselves (`chat_renderings`): those with tools, calls of them or reasoning, and those
with a text in which the template looks for something ("</think>"). While these are rendered, the template's end-of-text
and what a row spells like a special token are unguessable texts, so that the one is never taken for the other.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

from ift.errors import ConfigError, WeightsError
from ift.text.chat_renderings import Rendering, render_whole, shown
from ift.text.chat_shapes import BLOCK, CLOSES, OTHERWISE, Answer, Problem, Shape, Shapes, Slot, shapes_of
from ift.text.conversations import Conversation
from ift.text.jinja_process import END, TODAY, Looks, Rendered
from ift.text.published import END_OF_TEXT
from ift.text.templates import (
    TURNS,
    Piece,
    Segment,
    Template,
    join,
    read_tokens,
    unlearnt,
)
from ift.text.templates import Rendered as Pieces

SOURCE_LIMIT = 100_000  # characters of a template
TEMPLATE_FILES = ("chat_template.jinja", "tokenizer_config.json", "special_tokens_map.json")  # that may hold one
SAMPLE = 32  # rows
KEPT_RENDERINGS = 2_000  # conversations whose renderings are kept at hand
SPECIAL = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
REASONING = ("reasoning_content", "thinking", "reasoning", "thought")  # what templates call it in a message
NOTHING = Looks()
_sampled: set[tuple[Any, ...]] = set()  # templates whose first plain rows were rendered, and were as they should be
_kept: dict[tuple[tuple[Any, ...], str], dict[tuple[int, bool], Rendered]] = {}  # the last renderings of this process


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

    A generation prompt may begin a thought of which nothing stands before an answer (DeepSeek-R1's "<think>"). What is
    learnt then ends that thought before the answer, as the model writes it: with the row's reasoning, or with none.

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

    @property
    def keeps_answers(self) -> bool:
        """Whether an earlier answer stands in a conversation as it stood when it was the last."""
        return not self._shape(False, 2).changes

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
            rest = shown(whole.rest, self.tokens)
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
        if not conversation.output:  # to be answered: nothing is learnt
            return False
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
            rendered = render_whole(self, missing)
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
        return shapes_of(self.source, self.special, self.today, self.tokens, block)

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
