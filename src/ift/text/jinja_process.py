"""Chat templates of strangers rendered, in Jinja's sandbox and in a process of its own with little time and memory.

`python -m ift.text.jinja_process` is that process: JSON on stdin and stdout, and of our environment only what Python
needs to start, so no keys. It imports little, since starting it is what costs.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime

import jinja2
from jinja2.ext import Extension
from jinja2.nodes import Node
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from ift.errors import MachineError, one_line

OUTPUT_LIMIT = 1_000_000  # characters of a rendering
MEMORY_LIMIT = 1 << 29  # bytes of the process that renders
CPU_LIMIT = 2  # its seconds; a template needs milliseconds
TOO_MUCH = "needs more time, memory or text than a chat template may"
TODAY = datetime(2024, 7, 26)  # for templates that print a date: Llama 3's default, and the same text on every day
KEPT = ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "SYSTEMROOT")  # of our environment

Rendered = tuple[str, str]  # a text, and what is wrong instead of it


# ----------------------------------------------------------------------------------------------------------------------
# our side


def render_apart(source: str, special: dict[str, str], conversations: Sequence[list[dict[str, str]]]) -> list[Rendered]:
    """Each conversation, a list of messages, as text; one that ends in a user's message has the generation prompt.

    special: the spelling of special tokens by their names (bos_token, eos_token ...), which a template may print.
    Raises MachineError where the process cannot do its work; what the template does wrong is in the result.
    """
    request = json.dumps({"source": source, "special": special, "conversations": conversations})
    try:
        process = start(["-m", "ift.text.jinja_process"], request)
    except subprocess.TimeoutExpired:
        return [("", TOO_MUCH)] * len(conversations)
    if process.returncode < 0:  # a signal: its processor time is spent
        return [("", TOO_MUCH)] * len(conversations)
    if process.returncode:
        reason = one_line(process.stderr[-200:], 100)
        raise MachineError(f"the process that renders chat templates failed: {reason}")
    return [(text, problem) for text, problem in json.loads(process.stdout)]


def start(arguments: Sequence[str], request: str) -> subprocess.CompletedProcess[str]:
    """Python with these arguments, the request on its stdin, to its end. Raises TimeoutExpired."""
    environment = {name: os.environ[name] for name in KEPT if name in os.environ}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    return subprocess.run(
        [sys.executable, "-P", *arguments],
        input=request,
        env=environment,
        timeout=20 * CPU_LIMIT,  # by the clock: the processor may be shared
        capture_output=True,
        text=True,
    )


# ----------------------------------------------------------------------------------------------------------------------
# the process


def _serve() -> None:
    """The process: {source, special, conversations} on stdin, [text, problem] for each conversation on stdout."""
    _limit_resources()
    request = json.load(sys.stdin)
    answers: list[Rendered] = []
    try:
        template = _environment().from_string(request["source"])
    except Exception as error:  # Python's own parser has limits besides Jinja's
        answers = [("", f"is not valid Jinja: {_reason(error)}")] * len(request["conversations"])
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
        return "", f"raises {_reason(error)}"
    return text, ""


def _reason(error: Exception) -> str:
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


if __name__ == "__main__":
    _serve()
