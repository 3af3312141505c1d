"""What a client asks for: JSON of OpenAI's API to a value with everything decided, or an ApiError. Needs no model.

What cannot be done here and would change the answer is refused by its name. Keys that nobody knows are counted and
otherwise left alone, as OpenAI's own clients send new ones every year.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from ift.apps.serving.problems import ApiError, unsupported, wrong
from ift.text.conversations import Conversation, conversation_of, join_neighbours

MOST_MESSAGES = 1024
MOST_PROMPTS = 128
MOST_CHOICES = 16  # n
MOST_TOKENS = 65_536  # n x prompts x max_tokens of a request
MOST_STOPS, LONGEST_STOP = 4, 256
MOST_LOGPROBS = 20
CHAT_TOKENS = 512  # of an answer where nothing is said of it, as in `ift chat`
COMPLETION_TOKENS = 16  # the same for /v1/completions: what OpenAI's API has
ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
# what is refused, unless it has a value that changes nothing
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "logit_bias": ({},),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "reasoning_effort": ("none",),
    "verbosity": ("medium",),
    "web_search_options": (),
    "best_of": (1,),
    "suffix": ("",),
    "min_p": (0,),
    "min_tokens": (0,),
    "ignore_eos": (False,),
    "store": (False,),
    "prompt_logprobs": (),
    "guided_json": (),
    "guided_regex": (),
    "guided_choice": (),
    "guided_grammar": (),
    "structured_outputs": (),
    "add_generation_prompt": (True,),
    "continue_final_message": (False,),
    "chat_template": (),
    "length_penalty": (1,),
    "use_beam_search": (False,),
}
SILENT = {  # about the caller and the service, never about the answer
    *("user", "metadata", "service_tier", "safety_identifier", "prompt_cache_key", "parallel_tool_calls"),
    "prompt_cache_retention",
}
COMMON = {
    *("model", "max_tokens", "n", "stop", "temperature", "top_p", "top_k", "repetition_penalty", "seed"),
    *("stream", "stream_options", "logprobs"),
}


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """How answers are to be made.

    max_tokens  None: as long as the kind of request has it
    seed        None: another answer each time
    top         how many of the likeliest tokens stand beside each token; None: no log-probabilities
    usage       a stream ends with the count of its tokens
    unknown     keys that mean nothing here
    """

    model: str | None
    max_tokens: int | None
    max_tokens_name: str
    n: int
    stop: tuple[str, ...]
    temperature: float
    top_p: float | None
    top_k: int | None
    repetition_penalty: float | None
    seed: int | None
    top: int | None
    stream: bool
    usage: bool
    unknown: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class ChatWanted(Wanted):
    conversation: Conversation


@dataclass(frozen=True, kw_only=True)
class CompletionWanted(Wanted):
    """prompts: texts, or ids of tokens. echo: each answer begins with its prompt."""

    prompts: tuple[str | tuple[int, ...], ...]
    echo: bool


def read_body(body: bytes) -> dict[str, Any]:
    """The JSON object of a request. Raises ApiError for anything else, also for NaN and halves of characters."""

    def refuse(name: str) -> NoReturn:
        raise ValueError(f"{name} is no JSON")

    try:
        value = json.loads(body.decode("utf-8"), parse_constant=refuse)
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except RecursionError:
        raise ApiError(400, "the body is nested too deeply") from None
    except UnicodeError:
        raise ApiError(400, "the body holds text that is no Unicode (half of a surrogate pair, or no UTF-8)") from None
    except ValueError:
        raise ApiError(400, "the body is no JSON") from None
    if not isinstance(value, dict):
        raise ApiError(400, "the body must be a JSON object")
    return value


def read_chat(value: Mapping[str, Any]) -> ChatWanted:
    top: int | None = None
    if _flag(value, "logprobs"):
        top = _whole(value, "top_logprobs", 0, MOST_LOGPROBS) or 0
    elif value.get("top_logprobs") is not None:
        raise wrong("top_logprobs", "needs logprobs=true beside it")
    if value.get("max_tokens") is not None and value.get("max_completion_tokens") is not None:
        raise wrong("max_tokens", "max_completion_tokens says the same: give one of the two")
    name = "max_completion_tokens" if value.get("max_completion_tokens") is not None else "max_tokens"
    conversation = _conversation(value)
    own = {"messages", "top_logprobs", "max_completion_tokens"}
    return ChatWanted(conversation=conversation, **_common(value, own, name, top, prompts=1))


def read_completion(value: Mapping[str, Any]) -> CompletionWanted:
    if isinstance(value.get("logprobs"), bool):
        raise wrong("logprobs", f"must be a whole number from 0 to {MOST_LOGPROBS}")
    top = _whole(value, "logprobs", 0, MOST_LOGPROBS)
    prompts, echo = _prompts(value), _flag(value, "echo")
    common = _common(value, {"prompt", "echo"}, "max_tokens", top, prompts=len(prompts), least=0 if echo else 1)
    return CompletionWanted(prompts=prompts, echo=echo, **common)


def _common(
    value: Mapping[str, Any], own: set[str], max_tokens: str, top: int | None, *, prompts: int, least: int = 1
) -> dict[str, Any]:
    known = COMMON | own
    for name, neutral in NEUTRAL.items():
        given = value.get(name)
        if name not in known and given is not None and not any(_same(given, one) for one in neutral):
            raise unsupported(name)
    model = value.get("model")
    if model is not None and not isinstance(model, str):
        raise wrong("model", "must be the name of a model")
    stream = _flag(value, "stream")
    n, limit = _whole(value, "n", 1, MOST_CHOICES) or 1, _whole(value, max_tokens, least, MOST_TOKENS)
    if n * prompts * (limit or 0) > MOST_TOKENS:
        raise wrong(max_tokens, f"n x prompts x {max_tokens} must be {MOST_TOKENS} or less")
    top_p = _number(value, "top_p", 0, 1)
    if top_p == 0:
        raise wrong("top_p", "must be above 0 (temperature=0 takes the likeliest token)")
    repetition_penalty = _number(value, "repetition_penalty", 0, 10)
    if repetition_penalty == 0:
        raise wrong("repetition_penalty", "must be above 0")
    temperature = _number(value, "temperature", 0, 2)
    top_k = _whole(value, "top_k", -1, 10**9)
    return {
        "model": model,
        "max_tokens": limit,
        "max_tokens_name": max_tokens,
        "n": n,
        "stop": _stop(value),
        "temperature": 1.0 if temperature is None else temperature,
        "top_p": None if top_p == 1 else top_p,
        "top_k": top_k if top_k and top_k > 0 else None,
        "repetition_penalty": None if repetition_penalty == 1 else repetition_penalty,
        "seed": _whole(value, "seed", -(2**63), 2**63 - 1),
        "top": top,
        "stream": stream,
        "usage": _usage(value, stream=stream),
        "unknown": tuple(name for name in value if name not in known and name not in NEUTRAL and name not in SILENT),
    }


def _same(given: Any, neutral: Any) -> bool:
    """Equal, and true is not 1; 0.0 is 0."""
    return isinstance(given, bool) == isinstance(neutral, bool) and given == neutral


def _flag(value: Mapping[str, Any], name: str) -> bool:
    given = value.get(name)
    if given is not None and not isinstance(given, bool):
        raise wrong(name, "must be true or false")
    return bool(given)


def _whole(value: Mapping[str, Any], name: str, least: int, most: int) -> int | None:
    given = value.get(name)
    if given is None:
        return None
    if isinstance(given, bool) or not isinstance(given, int) or not least <= given <= most:
        raise wrong(name, f"must be a whole number from {least} to {most}")
    return given


def _number(value: Mapping[str, Any], name: str, least: float, most: float) -> float | None:
    given = value.get(name)
    if given is None:
        return None
    right = isinstance(given, int | float) and not isinstance(given, bool) and least <= given <= most
    if not right or not math.isfinite(given):
        raise wrong(name, f"must be a number from {least} to {most}")
    return float(given)


def _stop(value: Mapping[str, Any]) -> tuple[str, ...]:
    given = value.get("stop")
    stops = [] if given is None else [given] if isinstance(given, str) else given
    right = isinstance(stops, list) and len(stops) <= MOST_STOPS
    if not right or not all(isinstance(one, str) and 0 < len(one) <= LONGEST_STOP for one in stops):
        raise wrong("stop", f"must be a text or up to {MOST_STOPS}, of 1 to {LONGEST_STOP} characters each")
    return tuple(stops)


def _usage(value: Mapping[str, Any], *, stream: bool) -> bool:
    options = value.get("stream_options")
    if options is None:
        return False
    if not stream:
        raise wrong("stream_options", "needs stream=true beside it")
    if not isinstance(options, dict):
        raise wrong("stream_options", "must be an object")
    for name in options:
        if name not in ("include_usage", "include_obfuscation"):
            raise wrong(f"stream_options.{name[:40]}", "no such option")
    if options.get("include_obfuscation"):
        raise unsupported("stream_options.include_obfuscation")
    given = options.get("include_usage")
    if given is not None and not isinstance(given, bool):
        raise wrong("stream_options.include_usage", "must be true or false")
    return bool(given)


# -- messages ----------------------------------------------------------------------------------------------------------


def _conversation(value: Mapping[str, Any]) -> Conversation:
    given = value.get("messages")
    if not isinstance(given, list) or not 1 <= len(given) <= MOST_MESSAGES:
        raise wrong("messages", f"must be a list of 1 to {MOST_MESSAGES} messages")
    messages = [_message(one, f"messages[{number}]") for number, one in enumerate(given)]
    try:
        return conversation_of(join_neighbours(messages))
    except ValueError as error:
        raise wrong("messages", f"{error}") from None


def _message(given: Any, place: str) -> tuple[str, str]:
    if not isinstance(given, dict):
        raise wrong(place, "must be an object with role and content")
    role = given.get("role")
    if not isinstance(role, str) or role not in ROLES:
        if role in ("tool", "function"):
            raise unsupported(f"{place}.role", "messages of tools are not supported by this server")
        raise wrong(f"{place}.role", "must be one of system, developer, user, assistant")
    for name in ("tool_calls", "function_call", "audio"):
        if given.get(name):
            raise unsupported(f"{place}.{name}")
    return ROLES[role], _content(given.get("content"), f"{place}.content")


def _content(given: Any, place: str) -> str:
    if isinstance(given, str):
        return given
    if not isinstance(given, list) or not given:
        raise wrong(place, "must be a text or a list of parts")
    texts = []
    for number, part in enumerate(given):
        kind = part.get("type") if isinstance(part, dict) else None
        if isinstance(kind, str) and kind != "text":
            raise unsupported(f"{place}[{number}].type", "parts other than text are not supported by this server")
        if kind is None or not isinstance(part.get("text"), str):
            raise wrong(f"{place}[{number}]", 'must be {"type": "text", "text": "..."}')
        texts.append(part["text"])
    return "".join(texts)


# -- prompts -----------------------------------------------------------------------------------------------------------


def _prompts(value: Mapping[str, Any]) -> tuple[str | tuple[int, ...], ...]:
    given = value.get("prompt")
    if isinstance(given, str):
        return (given,)
    if not isinstance(given, list) or not given:
        raise wrong("prompt", "must be a text, token ids, or a list of these")
    if _is_ids(given):
        return (tuple(given),)
    if len(given) > MOST_PROMPTS:
        raise wrong("prompt", f"holds {len(given)} prompts ({MOST_PROMPTS} at most)")
    return tuple(_prompt(one, number) for number, one in enumerate(given))


def _prompt(given: Any, number: int) -> str | tuple[int, ...]:
    if isinstance(given, str):
        return given
    if isinstance(given, list) and given and _is_ids(given):
        return tuple(given)
    raise wrong(f"prompt[{number}]", "must be a text or a list of token ids that is not empty")


def _is_ids(given: Sequence[Any]) -> bool:
    return all(isinstance(one, int) and not isinstance(one, bool) for one in given)
