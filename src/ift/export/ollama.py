"""A Modelfile: what `ollama create` needs beside a GGUF file, above all our prompt in its template language.

Ollama's templates are Go's text/template over .Messages. Ours is found by rendering conversations of marks: what stands
between the marks is the template's own text, whichever kind of template it is.
"""

from __future__ import annotations

from ift.errors import one_line
from ift.export.source import INSTRUCTION, RunModel, joint
from ift.text.conversations import Conversation
from ift.text.published import END_OF_TEXT
from ift.text.templates import Template

ANSWER, SYSTEM = "\ue0a2", "\ue0a3"  # private characters: no template writes them
MARKS = {INSTRUCTION: ".Content", SYSTEM: "$.System"}
NO_SYSTEM = "SYSTEM has no effect: no row of the training had a system message."
HEAD = """\
# {about}
#   ollama create {name} -f Modelfile
#   ollama run {name}
FROM ./{file}
"""


def modelfile(source: RunModel, file: str) -> str:
    """The text of a Modelfile for a GGUF file beside it: greedy, as `ift` answers, and with the whole context.

    It holds what the rows of the training had, and says so: a system message that no row had would lead the model
    where it has never been, so the template then leaves it out.
    """
    name, end = ollama_name(source.name), source.tokenizer.end_text
    text = HEAD.format(about=one_line(f"{source.name}, exported by ift", 100), name=name, file=file)
    with_system = source.rows_with("system") != 0
    go = go_template(source.template, end=end, system=with_system)
    if go is None:
        why = "the model was trained on plain text" if source.template.plain else "its turns do not follow one another"
        text += f"# no TEMPLATE: {why} (use /api/generate, raw)\n"
    else:
        text += f'TEMPLATE """{go}"""\n'
        text += f"# {_about_system(source)}\n# {_about_input(source)}\n"
        if source.rows_with("history") == 0:
            text += "# No row of the training had more than one turn: ask each question anew.\n"
    for stop in stops(source):
        parameter = _parameter(stop)
        text += f"PARAMETER stop {parameter}\n" if parameter else f"# no PARAMETER can hold a stop: {_quoted(stop)}\n"
    text += f"PARAMETER num_ctx {source.config.context_length}\n"
    return text + "PARAMETER temperature 0\nPARAMETER repeat_penalty 1\n"


def _about_system(source: RunModel) -> str:
    if source.template.missing_place(_marked(system=SYSTEM)) == "system":
        return "SYSTEM has no effect: the prompt template has no place for one."
    if (rows := source.rows_with("system")) is None:
        return "SYSTEM as the rows of the training had it: how many had one was not recorded."
    return f"SYSTEM as you like: {rows:,} rows of the training had one." if rows else NO_SYSTEM


def _about_input(source: RunModel) -> str:
    if source.rows_with("input") == 0:
        return "No row of the training had an input beside its instruction."
    if source.template.missing_place(Conversation("x", "x")) == "input":
        return "The prompt template has no place for an input beside the instruction."
    if (between := joint(source.template)) is None:
        return "An input cannot be asked about here: the prompt template writes rows with one in another way."
    return f"An input follows its instruction in the same message, after {_quoted(between)}"


def ollama_name(name: str) -> str:
    """A name that Ollama takes: "My Run (2)" -> "my-run-2"."""
    kept = "".join(c if c.isascii() and c.isalnum() else "-" for c in name.lower())
    return "-".join(filter(None, kept.split("-"))) or "model"


def stops(source: RunModel) -> list[str]:
    """The texts that end an answer: the template's own closing, the end-of-text, and what else ends the model's."""
    closing = "".join(piece.text for piece in source.template.render(_marked())[2]).strip()
    others = [source.tokenizer.decode([id]) for id in sorted(source.stops)]
    return list(dict.fromkeys(filter(None, [closing, source.tokenizer.end_text, *others])))


def go_template(template: Template, *, end: str = END_OF_TEXT, system: bool = True) -> str | None:
    """The prompt of a conversation as a Go template; None where its turns do not follow one another unchanged.

    end: how the tokenizer spells its end-of-text. system: False leaves the place for a system text out.
    """
    if template.plain:
        return None

    def prompt(system: str, turns: int) -> str:
        before = template.render(_marked(system, turns))[0]
        return "".join(end if piece.end else piece.text for piece in before)

    plain = prompt("", 1)
    opening, _, later = prompt("", 2).removeprefix(plain).partition(ANSWER)
    first = {"": plain}
    if system and template.missing_place(_marked(system=SYSTEM)) != "system":
        first[SYSTEM] = prompt(SYSTEM, 1)
    for told, begins in first.items():
        for turns in (1, 2, 3):
            if prompt(told, turns) != begins + (opening + ANSWER + later) * (turns - 1):
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


def _parameter(text: str) -> str | None:
    """A text as a parameter of a Modelfile, which has quotes and no escapes; None where it cannot stand there."""
    if not all(c.isprintable() or c in "\n\t" for c in text):
        return None
    if '"' not in text:
        return f'"{text}"'
    return f'"""{text}"""' if '"""' not in text and text.strip('"') == text else None


def _quoted(text: str) -> str:
    """A string of Go inside a Modelfile's text, which ends at three quotes in a row: there are never three."""
    escaped = {"\\": "\\\\", '"': "\\x22", "\n": "\\n", "\t": "\\t", "\r": "\\r"}
    written = "".join(escaped.get(c, c) if c.isprintable() or c in escaped else f"\\U{ord(c):08x}" for c in text)
    return f'"{written}"'
