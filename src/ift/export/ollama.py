"""A Modelfile: what `ollama create` needs beside a GGUF file, above all our prompt in its template language.

Ollama's templates are Go's text/template over .Messages. Ours is found by rendering conversations of marks: what stands
between the marks is the template's own text, whichever kind of template it is.
"""

from __future__ import annotations

from ift.errors import one_line
from ift.export.source import RunModel
from ift.text.conversations import Conversation
from ift.text.templates import Template
from ift.text.tokenizers import END_OF_TEXT

INSTRUCTION, ANSWER, SYSTEM = "\ue0a1", "\ue0a2", "\ue0a3"  # private characters: no template writes them
MARKS = {INSTRUCTION: ".Content", SYSTEM: "$.System"}
HEAD = """\
# {about}
#   ollama create {name} -f Modelfile
#   ollama run {name}
FROM ./{file}
"""


def modelfile(source: RunModel, file: str) -> str:
    """The text of a Modelfile for a GGUF file beside it: greedy, as `ift` answers, and with the whole context."""
    name = ollama_name(source.name)
    text = HEAD.format(about=one_line(f"{source.name}, exported by ift", 100), name=name, file=file)
    go = go_template(source.template)
    if go is None:
        why = "the model was trained on plain text" if source.template.plain else "its turns do not follow one another"
        text += f"# no TEMPLATE: {why} (use /api/generate, raw)\n"
    else:
        text += f'TEMPLATE """{go}"""\n'
        if source.template.missing_place(_marked(system=SYSTEM)) == "system":
            text += "# SYSTEM has no effect: the model was trained without system messages\n"
        else:
            text += "# SYSTEM as you like: the model was trained with system messages too\n"
    for stop in stops(source.template):
        text += f"PARAMETER stop {_quoted(stop)}\n"
    text += f"PARAMETER num_ctx {source.config.context_length}\n"
    text += "PARAMETER temperature 0\nPARAMETER repeat_penalty 1\n"
    return text.replace(END_OF_TEXT, source.tokenizer.end_text)


def ollama_name(name: str) -> str:
    """A name that Ollama takes: "My Run (2)" -> "my-run-2"."""
    kept = "".join(c if c.isascii() and c.isalnum() else "-" for c in name.lower())
    return "-".join(filter(None, kept.split("-"))) or "model"


def stops(template: Template) -> list[str]:
    """The texts that end an answer: the template's own closing, and the end-of-text."""
    closing = "".join(piece.text for piece in template.render(_marked())[2]).strip()
    return [*filter(None, [closing]), END_OF_TEXT]


def go_template(template: Template) -> str | None:
    """The prompt of a conversation as a Go template; None where its turns do not follow one another unchanged."""
    if template.plain:
        return None
    plain = _prompt(template, system="", turns=1)
    opening, _, later = _prompt(template, system="", turns=2).removeprefix(plain).partition(ANSWER)
    first = {"": plain}
    if template.missing_place(_marked(system=SYSTEM)) != "system":
        first[SYSTEM] = _prompt(template, system=SYSTEM, turns=1)
    for system, begins in first.items():
        for turns in (1, 2, 3):
            if _prompt(template, system=system, turns=turns) != begins + (opening + ANSWER + later) * (turns - 1):
                return None
    begin = _go(plain)
    if SYSTEM in first:
        begin = f"{{{{- if $.System -}}}}{_go(first[SYSTEM])}{{{{- else -}}}}{begin}{{{{- end -}}}}"
    return (
        "{{- $first := true -}}{{- range .Messages -}}"
        '{{- if eq .Role "user" -}}'
        f"{{{{- if $first -}}}}{begin}{{{{- $first = false -}}}}{{{{- else -}}}}{_go(later)}{{{{- end -}}}}"
        f'{{{{- else if eq .Role "assistant" -}}}}{_go(opening)}{{{{- .Content -}}}}'
        "{{- end -}}{{- end -}}"
    )


def _marked(system: str = "", turns: int = 1) -> Conversation:
    """A conversation of marks."""
    earlier = ((INSTRUCTION, ANSWER),) * (turns - 1)
    return Conversation(INSTRUCTION, output=ANSWER, system=system, history=earlier)


def _prompt(template: Template, *, system: str, turns: int) -> str:
    before = template.render(_marked(system, turns))[0]
    return "".join(END_OF_TEXT if piece.end else piece.text for piece in before)


def _go(text: str) -> str:
    """Text with marks as actions that print it."""
    parts, literal = [], ""
    for character in text:
        if character in MARKS:
            parts += [_quoted(literal)] if literal else []
            parts.append(MARKS[character])
            literal = ""
        else:
            literal += character
    parts += [_quoted(literal)] if literal else []
    return "".join(f"{{{{- {part} -}}}}" for part in parts)


def _quoted(text: str) -> str:
    """A string of Go, and of a Modelfile, which ends at three quotes in a row: there are never three."""
    escaped = {"\\": "\\\\", '"': "\\x22", "\n": "\\n", "\t": "\\t", "\r": "\\r"}
    written = "".join(escaped.get(c, c) if c.isprintable() or c in escaped else f"\\U{ord(c):08x}" for c in text)
    return f'"{written}"'
