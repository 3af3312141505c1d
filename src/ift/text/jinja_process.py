"""Chat templates of strangers rendered, in Jinja's sandbox and in a process of its own with little time and memory.

`python -m ift.text.jinja_process` is that process: JSON on stdin and stdout, and of our environment only what Python
needs to start, so no keys. It imports little, since starting it is what costs: many conversations are one request.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import date
from typing import Any, NamedTuple

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from ift.errors import MachineError, one_line

OUTPUT_LIMIT = 1_000_000  # characters of a rendering
MEMORY_LIMIT = 1 << 29  # bytes of the process that renders
CPU_LIMIT = 2  # its seconds; a template needs milliseconds
A_SECOND = 50  # renderings that may take a second more
REQUEST_LIMIT = 2_000_000  # characters of messages that one process gets
TOO_MUCH = "needs more time, memory or text than a chat template may"
TODAY = "2024-07-26"  # for templates that print a date: Llama 3's default, and the same text on every day
KEPT = ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "SYSTEMROOT")  # of our environment
END = "\0"  # an end-of-text in a rendering: no text of a row holds this character
# methods and filters of texts that look for a text, or for characters at the ends
SEARCHES = frozenset(
    "split rsplit partition rpartition startswith endswith replace find rfind index rindex count".split()
)
STRIPS = frozenset("strip lstrip rstrip trim".split())
# names that templates look for in a message, not in its text
KEYS = frozenset(
    "role content tool_calls tool_call_id name reasoning_content reasoning thinking thought type text function "
    "arguments parameters description image images video audio documents prefix id".split()
)
ROLES = frozenset("system developer user assistant tool tool_results tool_response ipython function model".split())

Message = dict[str, Any]


class Request(NamedTuple):
    """A conversation, and which beginnings of it are to be rendered.

    cuts: (number of messages, whether the generation prompt follows them) of each rendering.
    """

    messages: Sequence[Message]
    cuts: Sequence[tuple[int, bool]]
    tools: Sequence[Any] | None = None


class Rendered(NamedTuple):
    """A text, as what it has in common with the first rendering of its request; or what is wrong instead of it."""

    common: int  # characters that it begins with like the first (0 for the first itself)
    rest: str
    problem: str = ""


class Looks(NamedTuple):
    """What a template looks for in texts: a text that has nothing of it is written as any other is."""

    inside: tuple[str, ...] = ()  # anywhere in a text
    equal: tuple[str, ...] = ()  # the whole text
    ends: str = ""  # characters, at the beginning and end

    def find(self, texts: Sequence[str]) -> bool:
        """Whether one of the texts has something of it."""
        if self.inside:
            together = "\n".join(texts)
            for part in self.inside:
                if part in together:  # across a border too, which is no harm
                    return True
        if self.ends and any(text and (text[0] in self.ends or text[-1] in self.ends) for text in texts):
            return True
        return any(text in texts for text in self.equal)


class Reply(NamedTuple):
    renders: list[list[Rendered]]  # as the requests and their cuts
    looks: Looks


# ----------------------------------------------------------------------------------------------------------------------
# our side


def render_apart(
    source: str, special: dict[str, str], requests: Sequence[Request], *, today: str = TODAY, mark: str = ""
) -> Reply:
    """The renderings of each conversation.

    special: the spelling of special tokens by their names (bos_token, eos_token ...), which a template may print.
    today: the date that a template is told, as ISO writes it; mark: text that stands for END in source and special.
    Raises MachineError where the process cannot do its work; what the template does wrong is in the result.
    """
    renders: list[list[Rendered]] = []
    looks = Looks()
    for part in _parts(requests):
        reply = _render_part(source, special, part, today, mark)
        renders += reply.renders
        looks = reply.looks
    return Reply(renders, looks)


def _parts(requests: Sequence[Request]) -> Iterator[list[Request]]:
    """The requests by what one process can take."""
    part: list[Request] = []
    size = 0
    for request in requests:
        length = len(json.dumps(request))
        if part and size + length > REQUEST_LIMIT:
            yield part
            part, size = [], 0
        part.append(request)
        size += length
    yield part


def _render_part(source: str, special: dict[str, str], part: list[Request], today: str, mark: str) -> Reply:
    seconds = CPU_LIMIT + sum(len(request.cuts) for request in part) // A_SECOND
    about = {"source": source, "special": special, "today": today, "mark": mark, "seconds": seconds}
    too_much = Reply([[Rendered(0, "", TOO_MUCH)] * len(request.cuts) for request in part], Looks())
    try:
        process = start(["-m", "ift.text.jinja_process"], json.dumps({**about, "requests": part}), seconds=seconds)
    except subprocess.TimeoutExpired:
        return too_much
    if process.returncode < 0:  # a signal: its processor time is spent
        return too_much
    if process.returncode:
        reason = one_line(process.stderr[-200:], 100)
        raise MachineError(f"the process that renders chat templates failed: {reason}")
    renders, (inside, equal, ends) = json.loads(process.stdout)
    looks = Looks(tuple(inside), tuple(equal), ends)
    return Reply([[Rendered(*rendered) for rendered in one] for one in renders], looks)


def start(arguments: Sequence[str], request: str, *, seconds: int = CPU_LIMIT) -> subprocess.CompletedProcess[str]:
    """Python with these arguments, the request on its stdin, to its end. Raises TimeoutExpired."""
    environment = {name: os.environ[name] for name in KEPT if name in os.environ}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    return subprocess.run(
        [sys.executable, "-P", *arguments],
        input=request,
        env=environment,
        timeout=20 * seconds,  # by the clock: the processor may be shared
        capture_output=True,
        text=True,
    )


# ----------------------------------------------------------------------------------------------------------------------
# the process


def _serve() -> None:
    """The process: a request on stdin, the renderings of each conversation and what is looked for on stdout."""
    _limit_memory()
    asked = json.load(sys.stdin)  # ours: only what follows is a stranger's
    _limit_time(asked["seconds"])
    requests = [Request(*request) for request in asked["requests"]]
    looks = Looks()
    try:
        environment = _environment(date.fromisoformat(asked["today"]))
        template = environment.from_string(asked["source"])
        looks = _looks(environment.parse(asked["source"]))
    except Exception as error:  # Python's own parser has limits besides Jinja's
        problem = Rendered(0, "", f"is not valid Jinja: {_reason(error)}")
        renders = [[problem] * len(request.cuts) for request in requests]
    else:
        renders = [_render_cuts(template, request, asked["special"], asked["mark"]) for request in requests]
    json.dump([renders, looks], sys.stdout)


def _limit_memory() -> None:
    with suppress(ImportError, ValueError, OSError):  # Windows has none of this, macOS no limit of memory
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT, MEMORY_LIMIT))


def _limit_time(seconds: int) -> None:
    with suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))


def _render_cuts(template: jinja2.Template, request: Request, special: dict[str, str], mark: str) -> list[Rendered]:
    renders: list[Rendered] = []
    for number, prompt in request.cuts:
        text, problem = _render(template, request, number, prompt, special)
        if mark and END in text:
            text, problem = "", "holds a NUL character"
        text = text.replace(mark, END) if mark else text
        common = _common(renders[0].rest, text) if renders else 0
        renders.append(Rendered(common, text[common:], problem))
    return renders


def _common(first: str, second: str) -> int:
    """How many characters two texts begin with alike."""
    low, high = 0, min(len(first), len(second))
    while low < high:  # the texts are alike up to `low`
        middle = (low + high + 1) // 2
        if first[low:middle] == second[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _render(
    template: jinja2.Template, request: Request, number: int, prompt: bool, special: dict[str, str]
) -> tuple[str, str]:
    text = ""
    try:
        for chunk in template.generate(
            messages=request.messages[:number],
            add_generation_prompt=prompt,
            tools=request.tools,
            documents=None,
            **special,
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


def _looks(tree: nodes.Template) -> Looks:
    """The texts that stand in comparisons and in calls of methods that search."""
    names: dict[str, list[str]] = {}
    for assign in tree.find_all(nodes.Assign):
        if isinstance(assign.target, nodes.Name) and isinstance(assign.node, nodes.Const):
            names.setdefault(assign.target.name, []).extend(_constants(assign.node, {}))
    inside: list[str] = []
    equal: list[str] = []
    ends: list[str] = []
    for compare in tree.find_all(nodes.Compare):
        sides = [compare.expr, *(operand.expr for operand in compare.ops)]
        for left, operand, right in zip(sides, compare.ops, sides[1:], strict=False):
            if operand.op in ("in", "notin"):
                inside += [text for text in _constants(left, names) if text not in KEYS]
                equal += _constants(right, names)
            else:
                for text, other in ((left, right), (right, left)):
                    (inside if _is_part(other) else equal).extend(_constants(text, names))
    calls = [(call.node.attr, call.args) for call in tree.find_all(nodes.Call) if isinstance(call.node, nodes.Getattr)]
    calls += [(filtered.name, filtered.args) for filtered in tree.find_all(nodes.Filter)]
    for name, arguments in calls:
        for argument in arguments[:1]:
            found = _constants(argument, names)
            if name in STRIPS:
                ends += found
            elif name in SEARCHES:
                inside += found
    equal = [text for text in equal if text not in ROLES | KEYS]
    return Looks(_unique(inside), _unique(equal), "".join(_unique(ends)))


def _is_part(node: nodes.Node) -> bool:
    """Whether an expression may be a part of a text: text[:7], text[0]."""
    if not isinstance(node, nodes.Getitem):
        return False
    return isinstance(node.arg, nodes.Slice) or (isinstance(node.arg, nodes.Const) and isinstance(node.arg.value, int))


def _constants(node: nodes.Node, names: dict[str, list[str]]) -> list[str]:
    """The texts that an expression is, or may be by the names that were set to one."""
    if isinstance(node, nodes.Const):
        return [node.value] if isinstance(node.value, str) else []
    if isinstance(node, nodes.Name):
        return names.get(node.name, [])
    if isinstance(node, nodes.Tuple | nodes.List):
        return [text for item in node.items for text in _constants(item, names)]
    return []


def _unique(texts: list[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(filter(None, texts)))


class _Generation(Extension):
    """{% generation %}, which marks answers for transformers: what stands inside is rendered as it is."""

    tags = {"generation"}  # noqa: RUF012 - Jinja's own interface

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _environment(today: date) -> ImmutableSandboxedEnvironment:
    """What transformers gives a template."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, "jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = lambda value, **options: json.dumps(value, **{"ensure_ascii": False, **options})
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = today.strftime
    return environment


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


if __name__ == "__main__":
    _serve()
