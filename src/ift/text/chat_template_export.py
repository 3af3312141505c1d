"""Our prompt as a Jinja chat template, for transformers, vLLM and llama.cpp.

The frame of what is written stands in chat_template.jinja.j2, with << >> and <% %> for what is filled in here; the
segments are written as Jinja by this module.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import date
from functools import lru_cache
from pathlib import Path

import jinja2

from ift.text.chat_templates import SPECIAL, ChatTemplate
from ift.text.jinja_process import TODAY, Message, Request, render_apart
from ift.text.published import END_OF_TEXT
from ift.text.templates import FIELD, Template

CONDITIONS = {
    "input": "input",
    "no_input": "not input",
    "system": "loop.first and system",
    "no_system": "loop.first and not system",
    "later": "not loop.first",
}
FIELDS = {
    "instruction": "instruction",
    "input": "input",
    "system": "system",
    "output": 'text_of(answer["content"])',
}
EXPORTED = ("bos_token", "eos_token", "unk_token", "pad_token")  # that the exported tokenizer has: its end-of-text
# no {% break %} where the answer is missing: not every renderer of chat templates knows it
NO_ANSWER = "{%- else -%}{%- set asked = true -%}"
CLOCK = re.compile(r"""\bstrftime_now\(\s*("[^"\\]*"|'[^'\\]*')\s*\)""")
# programs give a content as text or as a list of parts
TEXT_OF = """\
{%- macro text_of(content) -%}
  {%- if content is string -%}{{- content -}}
  {%- elif content -%}
    {%- for part in content -%}
      {%- if part is string -%}{{- part -}}
      {%- elif part["text"] is string -%}{{- part["text"] -}}
      {%- else -%}{{- raise_exception("this model reads text alone") -}}{%- endif -%}
    {%- endfor -%}
  {%- endif -%}
{%- endmacro -%}"""
# before a template that takes text alone. Its last line ends in a tag, after which no line break is written.
TEXTS_OF = (
    TEXT_OF
    + """
{%- set texts = namespace(messages=[]) -%}
{%- for message in messages -%}
  {%- if not message["content"] or message["content"] is string -%}
    {%- set texts.messages = texts.messages + [message] -%}
  {%- else -%}
    {%- set texts.messages = texts.messages + [dict(message, content=text_of(message["content"]))] -%}
  {%- endif -%}
{%- endfor -%}
{%- set messages = texts.messages %}
"""
)
INSIDE = (
    r"""(?:"(?:\\.|[^"\\])*+"|'(?:\\.|[^'\\])*+'|[^"'%}]|%(?!\})|\}(?!\}))*+"""  # of a tag: texts, and all but its end
)
GENERATION = re.compile(
    r"\{\#.*?\#\}"
    r"|\{%[-+]?\s*raw\s*[-+]?%\}.*?\{%[-+]?\s*endraw\s*[-+]?%\}"
    r"|(?P<begin>\{%[-+]?\s*)(?P<end>end)?generation(?P<close>\s*[-+]?%\})"
    rf"|\{{%{INSIDE}%\}}|\{{\{{{INSIDE}\}}\}}",
    re.DOTALL,
)
PLAIN = '{{- raise_exception("this model was trained on plain text, without instructions") -}}'


def export_chat_template(
    template: Template, *, end: str = END_OF_TEXT, names: Mapping[str, str] | None = None, plain: bool = False
) -> str:
    """A Jinja template that gives the template's text: apply_chat_template makes our tokens of a conversation.

    end: how the tokenizer spells its end-of-text. names: the special tokens that it names (bos_token, eos_token ...);
    None: its end-of-text has all names. A model's own template with its own tokens is its source, unchanged but for a
    date of the clock. plain: without {% generation %}, a tag that transformers added to
    Jinja and most other readers refuse.

    A conversation ends after the last answer's eos_token, or with the generation prompt if the last message is a
    user's, whatever add_generation_prompt says. There are two differences that text alone cannot express. transformers
    encodes the text whole, we do so piece by piece: one of its tokens may span the border of an answer that begins with
    white space or punctuation. And a message that spells the end-of-text becomes that token, unless the caller gives
    sanitize_control_tokens=True.
    """
    source = _source_of(template, end, dict.fromkeys(EXPORTED, end) if names is None else names)
    return without_generation(source) if plain else source


def without_generation(source: str) -> str:
    """The template with {% if true %} in the place of {% generation %}, which writes the same in every Jinja."""

    def plain(tag: re.Match[str]) -> str:
        if tag["begin"] is None:
            return tag[0]
        return f"{tag['begin']}{'endif' if tag['end'] else 'if true'}{tag['close']}"

    return GENERATION.sub(plain, source)


def _source_of(template: Template, end: str, names: Mapping[str, str]) -> str:
    if isinstance(template, ChatTemplate):
        return _with_own_tokens(template, end, names)
    if template.plain:
        return PLAIN
    frame = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=False,  # the result is a template: the texts in it are JSON strings
        undefined=jinja2.StrictUndefined,
        block_start_string="<%",
        block_end_string="%>",
        variable_start_string="<<",
        variable_end_string=">>",
        comment_start_string="<#",
        comment_end_string="#>",
        trim_blocks=True,
        keep_trailing_newline=True,
    ).get_template("chat_template.jinja.j2")
    return frame.render(
        text_of=TEXT_OF,
        begin=_print(template.bos) if template.puts_bos else "",
        ends_itself=bool(template.ending),
        has_system=any("{system}" in segment.text for segment in template.segments),
        segments=[_segment(template, place) for place in range(len(template.segments))],
    )


def _with_own_tokens(template: ChatTemplate, end: str, names: Mapping[str, str]) -> str:
    """The source, for a tokenizer that names these special tokens.

    An end that the model has not becomes ours, and a date that it takes from the clock the date of training. All other
    special tokens that it names are spelled as in training, where they were the model's own or ordinary text.
    """
    special, source = dict(template.special), template.source
    known = {token.text for token in template.tokens}
    foreign = special.get("eos_token", "") if special.get("eos_token") not in known else ""
    if foreign:
        source = source.replace(foreign, json.dumps(end, ensure_ascii=False)[1:-1])
    today = date.fromisoformat(template.today or TODAY)  # the date in training, on every day
    source = CLOCK.sub(lambda call: json.dumps(today.strftime(call[1][1:-1]), ensure_ascii=False), source)
    # as the template was read in training, and as the exported tokenizer spells them
    trained = {name: end if special.get(name) == foreign != "" else special.get(name, "") for name in SPECIAL}
    lines = [
        f"{{% set {name} = {json.dumps(text, ensure_ascii=False)} %}}\n"  # the line's end goes with trim_blocks
        for name, text in trained.items()
        if text != names.get(name, "") and re.search(rf"\b{name}\b", source)
    ]
    own = "".join(lines) + (_print(template.bos) if template.puts_bos else "") + source
    if template.tokens or _takes_parts(template.source, template.special, template.today):
        return own  # what gives a model's own template lists of parts looks into its source for whether it takes them
    return TEXTS_OF + own


@lru_cache(maxsize=16)
def _takes_parts(source: str, special: tuple[tuple[str, str], ...], today: str) -> bool:
    """Whether a template writes a content that is a list with one text as it writes that text, whoever says it."""
    requests = []
    for roles in (("user", "assistant", "user"), ("system", "user")):
        texts: list[Message] = [{"role": role, "content": f"text {number}"} for number, role in enumerate(roles)]
        parts = [{**message, "content": [{"type": "text", "text": message["content"]}]} for message in texts]
        requests += [Request(messages, [(len(roles), True)]) for messages in (texts, parts)]
    renders = [one for [one] in render_apart(source, dict(special), requests, today=today or TODAY).renders]
    return all(text.problem or text == parts for text, parts in zip(renders[::2], renders[1::2], strict=True))


def _segment(template: Template, place: int) -> str:
    """A segment as Jinja. Where there is no answer yet, it ends before the output: from there on the model writes."""
    segment, with_output = template.segments[place], ["{output}" in segment.text for segment in template.segments]
    head, output, tail = segment.text.partition("{output}")
    ending = NO_ANSWER if place + 1 < len(with_output) else ""
    answer = f"{{%- if answer -%}}{_print(output + tail)}{ending}{{%- endif -%}}" if output else _print(tail)
    written = "\n  ".join(filter(None, (_print(head), answer)))
    conditions = [CONDITIONS[word] for word in segment.when.split() if word != "always"]
    conditions += ["not asked"] if any(with_output[:place]) else []
    return f"{{%- if {' and '.join(conditions)} -%}}{written}{{%- endif -%}}" if conditions else written


def _print(text: str) -> str:
    """A text with fields as Jinja that prints it. Literals are JSON, not in ASCII: Jinja reads no surrogate pairs."""
    parts = [
        FIELDS[part] if number % 2 else json.dumps(part, ensure_ascii=False)
        for number, part in enumerate(FIELD.split(text))
        if part
    ]
    return f"{{{{- {' ~ '.join(parts)} -}}}}" if parts else ""
