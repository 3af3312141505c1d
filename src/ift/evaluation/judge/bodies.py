"""What servers send, as replies: the shapes that content, thoughts, token counts and errors have in practice.

Content is text, null, a number, an object, or a list of parts. Thoughts of a model that thinks first stand in a field
of their own (reasoning_content, reasoning, thinking), in a part, or in the content before </think>, whose opening the
server may have put into the prompt. They are kept, and never part of a reply's text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from ift.evaluation.judging import Reply

ENDS = {  # words of other services, in lower case
    **dict.fromkeys(("max_tokens", "model_length", "max_length"), "length"),
    **dict.fromkeys(("safety", "refusal", "blocklist", "prohibited_content", "recitation"), "content_filter"),
    "function_call": "tool_calls",
}
MOST_TOKENS = 10**9  # a larger count is no count
THOUGHTS = ("reasoning_content", "reasoning", "thinking")  # names of the field
_TAG = r"(?:think|thinking|thought|thoughts|reasoning|seed:think)"
_OPEN, _CLOSE = rf"(?:<{_TAG}>|\[THINK\]|◁think▷)", rf"(?:</{_TAG}>|\[/THINK\]|◁/think▷)"
BLOCK = re.compile(rf"\s*{_OPEN}(.*?){_CLOSE}", re.DOTALL)
OPEN, CLOSE = re.compile(rf"\s*{_OPEN}"), re.compile(_CLOSE)
FINAL = re.compile(r".*<\|channel\|>final(?:\s+<\|constrain\|>\w+)?<\|message\|>(.*)\Z", re.DOTALL)  # gpt-oss, unparsed
END_OF_MESSAGE = re.compile(r"<\|(?:end|return|start|call)\|>.*\Z", re.DOTALL)


def split_thoughts(text: str) -> tuple[str, str]:
    """(thoughts, the rest). Thoughts that do not end leave no rest."""
    if "<|channel|>" in text:
        final = FINAL.match(text)
        return (text[: final.start(1)], END_OF_MESSAGE.sub("", final.group(1)).strip()) if final else (text, "")
    thoughts, place = [], 0
    while block := BLOCK.match(text, place):
        thoughts.append(block.group(1).strip())
        place = block.end()
    rest = text[place:]
    if OPEN.match(rest):
        return "\n".join([*thoughts, rest.strip()]), ""
    ends = list(CLOSE.finditer(rest)) if not thoughts else []
    if len(ends) == 1 and not re.search(_OPEN, rest):  # its opening stands at the end of the prompt
        return rest[: ends[0].start()].strip(), rest[ends[0].end() :].strip()
    return "\n".join(thoughts), rest.strip() if thoughts else rest


def text_of(content: Any) -> tuple[str, str]:
    """(text, thoughts in parts of their own) of a message's content. Raises nothing, whatever it is."""
    if content is None:
        return "", ""
    if isinstance(content, str):
        return content, ""
    if isinstance(content, list):
        parts = [_part(part) for part in content]
        texts = [text for text, _ in parts if text]  # on lines of their own: no number is made of two
        return "\n".join(texts), "\n".join(thoughts for _, thoughts in parts if thoughts)
    return _part(content) if isinstance(content, dict) else (json.dumps(content), "")


def _part(part: Any) -> tuple[str, str]:
    """A part of a content list; an object that is none is what it says as JSON."""
    if not isinstance(part, dict):
        return text_of(part)
    kind = str(part.get("type", ""))
    if "thinking" in kind or "reasoning" in kind:
        inside = next((part[name] for name in (*THOUGHTS, "text", "summary", "content") if part.get(name)), "")
        return "", "".join(text_of(inside))
    if kind == "refusal":
        return "", ""
    for name in ("text", "content", "value"):
        if name in part and (kind or name == "text"):
            return text_of(part[name])
    return (json.dumps(part), "") if not kind else ("", "")


def reply_from(
    message: Mapping[str, Any],
    *,
    end: Any = "",
    tokens: tuple[Any, Any] = (None, None),
    first: tuple[tuple[str, float], ...] = (),
) -> Reply:
    """A chat message as a reply. tokens: of the prompt and of the reply, as counted by the server, or anything."""
    text, in_parts = text_of(message.get("content"))
    in_text, text = split_thoughts(text)
    apart = next((message[name] for name in THOUGHTS if message.get(name)), None)
    thoughts = [each for each in ("".join(text_of(apart)), in_parts, in_text) if each]
    calls = message.get("tool_calls") or message.get("function_call")
    refusal = message.get("refusal") or next(
        (p.get("refusal") for p in _list(message.get("content")) if isinstance(p, dict) and p.get("type") == "refusal"),
        "",
    )
    instead = text_of(refusal)[0] if refusal else json.dumps(calls) if calls else ""
    counts = count_of(tokens[0]), count_of(tokens[1])
    return Reply(
        text=clean(text),
        # half a count is none: what cannot be counted is taken at its dearest
        prompt_tokens=counts[0] or 0 if None not in counts else 0,
        reply_tokens=counts[1] or 0 if None not in counts else 0,
        first=first,
        end=ENDS.get(clean(str(end or "")).lower(), clean(str(end or ""))),
        thoughts=clean("\n".join(thoughts)),
        instead=clean(instead),
    )


def reply_from_line(line: Mapping[str, Any]) -> Reply:
    """The reply in a line of verdicts.jsonl, also of an earlier release. Raises KeyError, TypeError and ValueError."""
    counts = (line.get("prompt_tokens"), line.get("reply_tokens"))
    first = tuple((str(token), float(logprob)) for token, logprob in line.get("first") or ())
    text, thoughts = line["text"], line.get("thoughts")
    if not thoughts:  # earlier releases kept content as it came
        kept = reply_from({"content": text})
        text, thoughts = kept.text, kept.thoughts
    return Reply(
        text=str(text),
        prompt_tokens=count_of(counts[0]) or 0,
        reply_tokens=count_of(counts[1]) or 0,
        first=first,
        end=str(line.get("end") or ""),
        thoughts=str(thoughts),
        instead=str(line.get("instead") or ""),
    )


def count_of(value: Any) -> int | None:
    """A number of tokens as servers write it; None for anything else."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 10:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MOST_TOKENS:
        return None
    return int(value)


def tokens_of(usage: Any) -> tuple[Any, Any]:
    """Tokens of the prompt and of the reply, by the names that services give them."""
    if not isinstance(usage, dict):
        return None, None
    return usage.get("prompt_tokens", usage.get("input_tokens")), usage.get(
        "completion_tokens", usage.get("output_tokens")
    )


def first_of(logprobs: Any) -> tuple[tuple[str, float], ...]:
    """What the first token might have been, with log probabilities; () where a server gives none that can be read."""
    try:
        tops = logprobs["content"][0]["top_logprobs"]
        return tuple((clean(str(top["token"])), float(top["logprob"])) for top in tops)
    except (KeyError, IndexError, TypeError, ValueError):
        return ()


def error_in(value: Any) -> tuple[str, Any]:
    """(message, code) of a body that says what went wrong, in the forms that servers give it; ("", None) where none."""
    if not isinstance(value, dict):
        return "", None
    error = next((value[name] for name in ("error", "errors", "detail", "message") if value.get(name)), None)
    if error is None:
        return "", None
    code, more = value.get("code"), value.get("message")
    if isinstance(error, str) and isinstance(more, str) and more not in error:
        error = f"{error}: {more}"
    if isinstance(error, list) and len(error) == 1:
        error = error[0]
    if isinstance(error, dict):
        code = error.get("code") or error.get("type") or code
        said = error.get("message") or error.get("msg") or error
        where = error.get("loc") or error.get("param")
        where = ".".join(map(str, where)) if isinstance(where, list) else where
        words = said if isinstance(said, str) else json.dumps(said)
        error = f"{where}: {words}" if where and str(where) not in words else words
    return clean(error if isinstance(error, str) else json.dumps(error)), code


def clean(text: str) -> str:
    """Without halves of characters, which no file takes."""
    return text.encode("utf-8", "replace").decode()


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
