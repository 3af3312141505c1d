"""The program in a chat model's answer to a HumanEval problem.

Which of several code blocks counts: the last complete one that defines the function, so a correction replaces what it
corrects. LiveCodeBench reads the last block too; OpenAI's simple-evals reads the first, and so misses corrections.
What tries the function out below it (asserts, prints, a main guard) is left out, as EvalPlus's `sanitize` does: it is
no part of the answer, and would end the program.

Nothing of an answer is parsed as Python or run here: it may be anything. Time grows in proportion to its length.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

TAB = 4  # columns
OPENING = re.compile(r"(?P<fence>(?<!`)`{3,}+|(?<![^ ])~{3,}+)(?P<info>[^`~]*+)\Z")
LANGUAGE = re.compile(r"\s*\{?\.?(?:python3?|py3?|python\d?\.\d+)?\}?(?:\s|\Z)", re.IGNORECASE)
INLINE = re.compile(r"```(?:python3?\s|py\s)?([^`]+)```")
THOUGHTS = re.compile(r"<(/?)(?:think|thinking|thought|thoughts|reasoning)>", re.IGNORECASE)
CODE = re.compile(
    r"(?:async\s+)?def\s+\w+\s*[(\[]|class\s+\w+\s*[(:\[]|import\s+\w|from\s+[\w.]+\s+import\b|@\w|#|[\])}]"
    r"|\w[\w.]*(?:\[[^\]]*\])?\s*(?::\s*[\w.]+(?:\[[^=\n]*\])?\s*|[-+*/|&%])?=(?!=)"
)
# spaces that Python takes for none; they come with answers that passed through a web page
SPACES = str.maketrans(dict.fromkeys("\xa0\u2002\u2003\u2007\u2009\u202f\u3000", " ") | dict.fromkeys("\u200b\ufeff"))
QUOTED = re.compile(
    r'"""(?:\\.|[^\\])*?(?:"""|\\?\Z)'
    r"|'''(?:\\.|[^\\])*?(?:'''|\\?\Z)"
    r'|"(?:[^"\\\n]|\\.)*+"?'
    r"|'(?:[^'\\\n]|\\.)*+'?",
    re.DOTALL,
)
FUTURE = re.compile(r"from\s+__future__\s+import\b")


@dataclass(frozen=True)
class Block:
    """What stands between two fences."""

    text: str
    closed: bool


def extract_program(answer: str, *, prompt: str, entry_point: str) -> str:
    """The whole program: what the problem's prompt has above its function, then the answer's function.

    An answer with the body alone is put below the prompt. The function may stand in a class, as LeetCode has it: then
    it is called on a new object each time.
    """
    define = re.compile(
        rf"^ *(?:async +)?def +{re.escape(entry_point)}\b|^{re.escape(entry_point)} *(?::[^=\n]*)?=(?!=)",
        re.MULTILINE,
    )
    text = _plain_spaces(_without_thoughts(answer.replace("\r\n", "\n").replace("\r", "\n")))
    prose, blocks = _split(text)
    complete = [block.text for block in blocks if block.closed and define.search(block.text)]
    if not complete:
        complete = [block.text for block in blocks if define.search(block.text)]
    if complete:
        return _below_helpers(_without_margin(complete[-1].split("\n")), prompt, entry_point, define)
    if define.search(prose):
        lines = prose.split("\n")
        first = next(i for i, line in enumerate(lines) if line.strip() and CODE.match(line.lstrip()))
        lines = _until(_without_margin(lines[first:]), lambda line: not CODE.match(line))
        return _below_helpers(lines, prompt, entry_point, define)
    bodies = [block.text for block in blocks if re.search(r"^ *(?:return|yield|pass)\b", block.text, re.MULTILINE)]
    if not bodies:
        bodies = [block.text for block in blocks[:1] if block.text.strip()]
    return prompt + "\n".join(_body((bodies or [prose])[-1].split("\n"))) + "\n"


# -- from an answer to lines of code ----------------------------------------------------------------------------------


def _without_thoughts(text: str) -> str:
    """What stands behind the last thought; nothing where the model was cut off while it thought."""
    closing = [match for match in THOUGHTS.finditer(text) if match.group(1)]
    if closing:
        text = text[closing[-1].end() :]
    opening = THOUGHTS.search(text)
    return text[: opening.start()] if opening else text


def _plain_spaces(text: str) -> str:
    """Indentation in spaces; outside of quotes, no space that Python does not know."""
    parts, done = [], 0
    for quoted in QUOTED.finditer(text):
        parts += [text[done : quoted.start()].translate(SPACES), quoted.group()]
        done = quoted.end()
    lines = "".join([*parts, text[done:].translate(SPACES)]).split("\n")
    for number, line in enumerate(lines):
        bare = line.lstrip()
        lines[number] = line[: len(line) - len(bare)].translate(SPACES).expandtabs(TAB) + bare
    return "\n".join(lines)


def _split(text: str) -> tuple[str, list[Block]]:
    """The text outside of code fences, and the blocks between them.

    A fence closes where a line begins or ends with it, as long as it is not indented like code: fences in a docstring
    are text. One that opens behind code and is never used closed a block whose opening stood in the prompt.
    """
    prose: list[str] = []
    blocks: list[Block] = []
    inside: list[str] | None = None
    fence, margin = "", 0
    for line in text.split("\n"):
        if inside is not None:
            bare = line.strip()
            begins = bare.startswith(fence) and _indent(line) < margin + TAB
            if not begins and not (bare.endswith(fence) and not bare.startswith(fence)):
                inside.append(line)
                continue
            if not begins:
                inside.append(line.rstrip().removesuffix(fence))
            blocks.append(Block("\n".join(inside), closed=True))
            inside = None
            if not re.fullmatch(r"[\w+#.-]+", bare.lstrip(fence[0]).strip()):
                continue  # else it is the next one that opens, and this one was never closed
        if inline := INLINE.search(line):
            blocks.append(Block(inline.group(1), closed=True))
        elif opening := OPENING.search(line):
            prose.append(line[: opening.start()])
            fence, info, margin = opening["fence"], opening["info"], _indent(line)
            code = info[known.end() :] if (known := LANGUAGE.match(info)) else info
            inside = [code] if CODE.match(code) else []
        else:
            prose.append(line)
    if inside is not None:
        blocks.append(Block("\n".join(inside), closed=False))
    return "\n".join(prose), blocks


def _without_margin(lines: list[str]) -> list[str]:
    margin = min((_indent(line) for line in lines if line.strip()), default=0)
    return [line[margin:] for line in lines]


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _until(lines: list[str], ends: Callable[[str], bool]) -> list[str]:
    """The lines before the first that begins at the margin and at which it ends."""
    found = (i for i, line in enumerate(lines) if line.strip() and _indent(line) == 0 and ends(line))
    return lines[: next(found, len(lines))]


# -- from lines of code to a program ----------------------------------------------------------------------------------


def _below_helpers(lines: list[str], prompt: str, entry_point: str, define: re.Pattern[str]) -> str:
    """A whole function below the imports and helpers of the problem; `from __future__` lines above both."""
    lines = list(_without_trials(lines, entry_point, define))
    future = [line for line in lines if FUTURE.match(line)]
    rest = [line for line in lines if not FUTURE.match(line)]
    above = prompt[: [match.start() for match in define.finditer(prompt)][-1]]
    program = "".join(f"{line}\n" for line in future) + above + "\n" + "\n".join(rest).strip("\n") + "\n"
    if owner := _class_of(rest, define):
        program += f"\n\ndef {entry_point}(*arguments):\n    return {owner}().{entry_point}(*arguments)\n"
    return program


def _class_of(lines: list[str], define: re.Pattern[str]) -> str | None:
    """The class that the function is a method of; None where it stands by itself."""
    owner = found = None
    for line in lines:
        if line.strip() and _indent(line) == 0:
            match = re.match(r"class\s+(\w+)", line)
            owner = match.group(1) if match else None
        if define.match(line):
            if owner is None:
                return None
            found = owner
    return found


def _without_trials(lines: list[str], entry_point: str, define: re.Pattern[str]) -> Iterator[str]:
    """Without statements at the margin that only try the function out, and what these would import."""
    name = re.escape(entry_point)
    trial = re.compile(
        rf"if\s+__name__\b|assert\b|print\s*\(|(?:{name}|check|main|test\w*|run_tests?)\s*\("
        r"|(?:unittest|doctest|pytest)\.\w|(?:import|from)\s+(?:unittest|doctest|pytest)\b|class\s+\w+\(unittest\."
    )
    calls = re.compile(rf"\b(?:assert\b|(?:print|input|{name})\s*\()")
    defined = False
    for statement in _statements(lines):
        block = re.match(r"(?:for|while|with|try)\b", statement[0])
        result = defined and re.match(r"\w[\w, ]*=(?!=)", statement[0])  # of a call, for the trials below it
        if not (trial.match(statement[0]) or ((block or result) and any(map(calls.search, statement)))):
            yield from statement
        defined = defined or any(map(define.match, statement))


def _statements(lines: list[str]) -> list[list[str]]:
    """Each line at the margin with the lines below it that belong to it."""
    statements: list[list[str]] = []
    for line in lines:
        begins = line.strip() and _indent(line) == 0 and not re.match(r"[\])}]|(?:else|elif|except|finally)\b", line)
        if begins or not statements:
            statements.append([])
        statements[-1].append(line)
    return statements


def _body(lines: list[str]) -> list[str]:
    """The body of a function, indented, up to the prose behind it.

    An answer loses the white space at its ends, and so the indentation of its first line alone: that line is put back
    to where the others are. Under a line that opens a block, the next one is deeper in any case.
    """
    lines = lines[next((i for i, line in enumerate(lines) if line.strip()), len(lines)) :]
    if not lines:
        return []
    if _indent(lines[0]):
        return _until(lines, lambda line: True)
    others = [_indent(line) for line in lines[1:] if line.strip()]
    margin = min(others, default=0)
    opens = lines[0].rstrip().endswith(":")
    if margin and (not opens or others[0] > margin):
        return [" " * margin + lines[0], *lines[1:]]
    return [" " * TAB + line for line in lines]
