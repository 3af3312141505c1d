"""Jinja chat templates of Hugging Face tokenizer folders: read in the place of segments, and segments written as one.

A row's text never goes through Jinja. The template is rendered once for each shape of conversation (system text or
none, number of turns) with marks in the place of the texts, and cut at the marks; what lies between them is the
template's own text, and the rows' texts are put between it afterwards. So no text of a row can become template syntax
or an end-of-text, or move a border of what is supervised.

Templates come from strangers: they are rendered in Jinja's sandbox, in a process of its own with little time and memory
(`python -m ift.text.chat_templates`, JSON on stdin and stdout).
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import Any

import jinja2
from jinja2.ext import Extension
from jinja2.nodes import Node
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from ift.errors import ConfigError, MachineError, WeightsError, one_line
from ift.text.conversations import HasFields, turns_of
from ift.text.templates import FIELD, TURNS, Piece, Segment, Template, join

SOURCE_LIMIT = 100_000  # characters of a template
OUTPUT_LIMIT = 1_000_000  # characters of a rendering
MEMORY_LIMIT = 1 << 29  # bytes of the process that renders
CPU_LIMIT = 2  # its seconds; a template needs milliseconds
BLOCK = 8  # numbers of turns rendered by one process: starting it is what costs
SPECIAL = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
TOO_MUCH = "needs more time, memory or text than a chat template may"
PAD = "\x1f"  # white space to strip(), which no template writes: where it is gone, the template strips the text
TODAY = datetime(2024, 7, 26)  # for templates that print a date: Llama 3's default, and the same text on every day

Rendered = tuple[str, str]  # a text, and what is wrong instead of it


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
            from ift.text.tokenizers import END_OF_TEXT  # here, since the process that renders must start quickly

            config = {"bos_token": END_OF_TEXT, "eos_token": END_OF_TEXT, "unk_token": END_OF_TEXT, **config}
        spelled = {name: config.get(name) for name in SPECIAL}
        spelled = {name: token.get("content") if isinstance(token, dict) else token for name, token in spelled.items()}
        special = tuple((name, token) for name, token in spelled.items() if isinstance(token, str) and token)
        return cls(folder.resolve().name, mask, turns, source=_source(folder, config), special=special)

    def missing_place(self, row: HasFields) -> str | None:
        return "system" if row.system and self._system_has_no_place else None

    def render(self, row: HasFields) -> tuple[list[Piece], Piece, list[Piece]]:
        texts = _texts(row)
        shape = self._shape_of(row)
        pieces = [part if isinstance(part, Piece) else part.fill(next(texts)) for part in shape.before]
        learnt = self.turns == "all"
        # joined first: with mask=False too, no token spans the border between a prompt and its answer
        before = [replace(piece, supervised=not self.mask or (piece.supervised and learnt)) for piece in join(pieces)]
        response = Piece(shape.opening + shape.answer.fill(next(texts)).text, supervised=True)
        return before, response, join([Piece(shape.closing, supervised=True)])

    def clean(self, text: str, row: HasFields) -> str:
        opening = self._shape_of(row).opening
        return super().clean(text.strip().removeprefix(opening.strip()), row)

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
        found = _shapes(self.source, self.special, 0)[True, 1]
        return isinstance(found, str) and found.startswith(("raises", "leaves out"))

    def _shape_of(self, row: HasFields) -> Shape:
        return self._shape(bool(row.system), len(row.history) + 1)

    def _shape(self, system: bool, turns: int) -> Shape:
        found = _shapes(self.source, self.special, (turns - 1) // BLOCK)[system, turns]
        if isinstance(found, str):
            raise self._error(found)
        return found

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


def _texts(row: HasFields) -> Iterator[str]:
    """The contents of the messages that a row is."""
    if row.system:
        yield row.system
    for turn in turns_of(row):
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
    rendered = iter(_rendered(source, special, [part for all in roles.values() for part in (all, all[:-1])]))
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
    starts, asked = _cut(prompt, roles[:-1])
    *earlier, last, tail = literals
    opening = last.removeprefix(starts[-1])
    if [*earlier, starts[-1] + opening] != [*starts[:-1], last] or asked != slots[:-1] or (eos and eos in opening):
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
        literal, found, text = text.partition(_mark(number))
        if not found:
            raise _Problem(f"puts the {role}'s text in another place of the conversation")
        literals.append(literal.removesuffix(PAD))
        slots.append(Slot(literal == literals[-1], not text.startswith(PAD), role == "assistant"))
        text = text.removeprefix(PAD)
    return [*literals, text], slots


# ----------------------------------------------------------------------------------------------------------------------
# rendering, in a process of its own


def _rendered(source: str, special: tuple[tuple[str, str], ...], conversations: list[list[str]]) -> list[Rendered]:
    """Each conversation of marks, given by its roles, as text; what ends in a user's turn has the generation prompt."""
    messages = [
        [{"role": role, "content": f"{PAD}{_mark(number)}{PAD}"} for number, role in enumerate(roles)]
        for roles in conversations
    ]
    request = json.dumps({"source": source, "special": dict(special), "conversations": messages})
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-P", "-m", "ift.text.chat_templates"]
    limit = 20 * CPU_LIMIT  # by the clock: the processor may be shared
    try:
        process = subprocess.run(command, input=request, env=environment, timeout=limit, capture_output=True, text=True)
    except subprocess.TimeoutExpired:
        return [("", TOO_MUCH)] * len(conversations)
    if process.returncode < 0:  # a signal: its processor time is spent
        return [("", TOO_MUCH)] * len(conversations)
    if process.returncode:
        said = one_line(process.stderr[-200:], 100)
        raise MachineError(f"the process that renders chat templates failed: {said}")
    return [(text, problem) for text, problem in json.loads(process.stdout)]


def _serve() -> None:
    """The process: {source, special, conversations} on stdin, [text, problem] for each conversation on stdout."""
    _limit_resources()
    request = json.load(sys.stdin)
    answers: list[Rendered] = []
    try:
        template = _environment().from_string(request["source"])
    except Exception as error:  # Python's own parser has limits besides Jinja's
        answers = [("", f"is not valid Jinja: {_said(error)}")] * len(request["conversations"])
    else:
        answers = [_render(template, messages, request["special"]) for messages in request["conversations"]]
    json.dump(answers, sys.stdout)


def _limit_resources() -> None:
    with suppress(ImportError, ValueError, OSError):  # Windows has none of this, macOS no limit of memory
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_CPU, (CPU_LIMIT, CPU_LIMIT))
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT, MEMORY_LIMIT))


def _render(template: jinja2.Template, messages: list[dict[str, str]], special: dict[str, str]) -> Rendered:
    prompt = messages[-1]["role"] != "assistant"
    text = ""
    try:
        for chunk in template.generate(
            messages=messages, add_generation_prompt=prompt, tools=None, documents=None, **special
        ):
            text += chunk
            if len(text) > OUTPUT_LIMIT:
                return "", TOO_MUCH
    except MemoryError:
        return "", TOO_MUCH
    except Exception as error:  # whatever Python raises inside an expression
        return "", f"raises {_said(error)}"
    return text, ""


def _said(error: Exception) -> str:
    return one_line(f"{type(error).__name__}: {error}", 80)


class _Generation(Extension):
    """{% generation %}, which marks answers for transformers: what stands inside is rendered as it is."""

    tags = {"generation"}  # noqa: RUF012 - Jinja's own interface

    def parse(self, parser: Parser) -> list[Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _environment() -> ImmutableSandboxedEnvironment:
    """What transformers gives a template."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, "jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = lambda value, **options: json.dumps(value, **{"ensure_ascii": False, **options})
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = TODAY.strftime
    return environment


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


# ----------------------------------------------------------------------------------------------------------------------
# segments as a chat template

CONDITIONS = {
    "input": 'user["input"]',
    "no_input": 'not user["input"]',
    "system": "loop.first and system",
    "no_system": "loop.first and not system",
    "later": "not loop.first",
}
FIELDS = {
    "instruction": 'user["content"]',
    "input": 'user["input"]',
    "system": "system",
    "output": 'answer["content"]',
}
START = """\
{#- The layout this model was trained with, by ift. A user message may have an "input" beside its "content". -#}
{%- set system = messages[0]["content"] if messages[0]["role"] == "system" else "" -%}
{%- set turns = messages[1:] if messages[0]["role"] == "system" else messages -%}
"""
NO_SYSTEM = """\
{%- if system -%}{{- raise_exception("this model was trained without system messages") -}}{%- endif -%}
"""
TURN = """\
{%- for user in turns[::2] -%}
  {%- set asked = false -%}
  {%- set answer = turns[loop.index0 * 2 + 1] -%}
  {%- if user["role"] != "user" or (answer and answer["role"] != "assistant") -%}
    {{- raise_exception("messages must be of user and assistant in turn") -}}
  {%- endif -%}
"""
# no {% break %} where the answer is missing: not every renderer of chat templates knows it
ASKED = "{%- else -%}{%- set asked = true -%}"
END = """\
  {%- if answer -%}{{- eos_token -}}{%- endif -%}
{%- endfor -%}
"""


def export_chat_template(template: Template) -> str:
    """A Jinja template that gives the template's text: apply_chat_template makes our tokens of a conversation.

    A conversation ends after the last answer's eos_token, or with the generation prompt if the last message is a
    user's, whatever add_generation_prompt says. There are two differences that text alone cannot express. transformers
    encodes the text whole, we do so piece by piece: one of its tokens may span the border of an answer that begins with
    white space or punctuation. And a message that spells the end-of-text becomes that token, unless the caller gives
    sanitize_control_tokens=True.
    """
    if isinstance(template, ChatTemplate):
        return _with_own_tokens(template)
    has_system = any("{system}" in segment.text for segment in template.segments)
    lines = "".join(f"  {_segment(template, place)}\n" for place in range(len(template.segments)))
    return START + ("" if has_system else NO_SYSTEM) + TURN + lines + END


def _with_own_tokens(template: ChatTemplate) -> str:
    """The source, for a tokenizer whose one special token is our end-of-text.

    Its end becomes ours; other special tokens that it names stay the ordinary text that they were in training.
    """
    from ift.text.tokenizers import END_OF_TEXT

    special = dict(template.special)
    end, source = special.get("eos_token", ""), template.source
    if end and end != END_OF_TEXT:
        source = source.replace(end, END_OF_TEXT)
    wanted = {name: END_OF_TEXT if special.get(name) == end != "" else special.get(name, "") for name in SPECIAL}
    given = {name: END_OF_TEXT if name in ("bos_token", "eos_token", "unk_token") else "" for name in SPECIAL}
    lines = [
        f"{{% set {name} = {json.dumps(text, ensure_ascii=False)} %}}\n"  # the line's end goes with trim_blocks
        for name, text in wanted.items()
        if text != given[name] and re.search(rf"\b{name}\b", source)
    ]
    return "".join(lines) + source


def _segment(template: Template, place: int) -> str:
    """What follows the output is left out where there is no answer yet: then the model writes from there on."""
    segment, with_output = template.segments[place], ["{output}" in segment.text for segment in template.segments]
    head, output, tail = segment.text.partition("{output}")
    ending = ASKED if place + 1 < len(with_output) else ""
    answer = f"{{%- if answer -%}}{_print(output + tail)}{ending}{{%- endif -%}}" if output else _print(tail)
    written = "\n  ".join(filter(None, (_print(head), answer)))
    conditions = [CONDITIONS[word] for word in segment.when.split() if word != "always"]
    conditions += ["not asked"] if any(with_output[:place]) else []
    return f"{{%- if {' and '.join(conditions)} -%}}{written}{{%- endif -%}}" if conditions else written


def _print(text: str) -> str:
    """Literals are JSON strings, which Jinja reads alike; ASCII it would not: it knows no surrogate pairs."""
    parts = [
        FIELDS[part] if number % 2 else json.dumps(part, ensure_ascii=False)
        for number, part in enumerate(FIELD.split(text))
        if part
    ]
    return f"{{{{- {' ~ '.join(parts)} -}}}}" if parts else ""


if __name__ == "__main__":
    _serve()
