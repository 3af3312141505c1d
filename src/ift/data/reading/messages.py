"""A record's list of messages, in the spellings that people have, as a conversation.

roles         "role", "from", "speaker" or the like, by any name that text/conversations.py knows, as USER or gpt
texts         "content", "value", "text" or "parts": a text, or a list of parts that are text
lists         of messages; as JSON in a text; {"from": [...], "value": [...]}; texts alone, user and assistant in turn;
              turns of two, {"human": ..., "assistant": ...} or [question, answer]
tools         "tool_calls", "function_call"; Anthropic's tool_use, tool_result; ShareGPT's function_call, observation
reasoning     "reasoning_content", "reasoning", "thinking", parts of these types, Harmony's channel "analysis"
marks         which answers bear no loss: "weight", "train", "loss_weight" and others of MARKS; "train_detail"

What a key of a message holds is carried, is known to be no part of what is said (HARMLESS), is short as a label is, or
is an error that names it. What is not carried is counted, but for HARMLESS keys without a text of some words.
A null is an absent key: columns of Parquet have one wherever another row has something.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

from ift.data.reading.json_records import decode
from ift.data.reading.names import ROLE_KEYS
from ift.data.reading.turns import Said, conversation_in_order, joined, united
from ift.data.reading.values import checked_text, is_wordy, kind_of, texts_in
from ift.text.conversations import ROLES, Conversation, Message, conversation_of, role_of

LIST_OF_OBJECTS = re.compile(r"\s*\[\s*\{")
TEXT_KEYS = ("content", "value", "text", "parts", "message", "utterance")
REASONING_KEYS = ("reasoning_content", "reasoning", "thinking", "thought")
CALL_KEYS = ("tool_calls", "function_call")
DETAIL_KEYS = ("train_detail", "training_detail")
# a mark of a message or a part, and what its 1 or true says: that it is learnt, or that it is not
MARKS = {
    **dict.fromkeys(("weight", "train", "training", "trainable", "loss", "loss_weight", "loss_scale", "learn"), True),
    "masked": False,
}
LIKE_A_MARK = re.compile("(?<![a-z])(train|loss|mask|weight|learn|supervis)", re.IGNORECASE)
# what is known to be about a message and no part of what it says
HARMLESS = frozenset(
    "id uuid name user user_id tool_name tool_call_id call_id tool_use_id message_id parent_id parent conversation_id "
    "turn turn_id turn_identifier index idx position timestamp date time created created_at create_time updated_at "
    "update_time lang language locale country state hashed_ip header source url model model_name type object status "
    "channel recipient content_type end_turn constrain finish_reason stop_reason stop_sequence logprobs usage tokens "
    "num_tokens n_tokens token_count token_ids metadata meta annotations citations cache_control signature toxic "
    "toxicity redacted moderation openai_moderation detoxify rank score rating quality labels emojis review_count "
    "review_result deleted synthetic likes prefix partial is_error hash".split()
)
# what is a part of what is said, however short
SPOKEN = frozenset(
    "refusal audio image images image_url video videos file files attachment attachments document documents context "
    "input arguments tools functions reasoning_details".split()
)
# keys of an object that is a whole turn, and whose they are
TURN_KEYS = {
    "system": "system",
    **dict.fromkeys(("human", "user", "input", "instruction", "question", "prompt"), "user"),
    **dict.fromkeys(("assistant", "gpt", "bot", "output", "answer", "response", "completion"), "assistant"),
}
KNOWN = HARMLESS.union(ROLE_KEYS, TEXT_KEYS, REASONING_KEYS, CALL_KEYS, DETAIL_KEYS, MARKS)
PLAIN_KEYS = HARMLESS.difference(("channel", "recipient")).union("role content from value".split())
TEXT_PARTS = ("text", "input_text", "output_text")
CALL_PARTS = ("tool_use", "tool_call")
ARGUMENT_KEYS = ("arguments", "parameters", "args", "input")
# a kind of part of a content, and the keys that hold what it says
PARTS = {
    **dict.fromkeys(TEXT_PARTS, ("text", "value", "content")),
    **dict.fromkeys(("thinking", "reasoning"), ("thinking", "reasoning", "value", "text", "content")),
    **dict.fromkeys(CALL_PARTS, ("value",)),
    "tool_result": ("content", "value", "text"),
}
EMPTY_SYSTEM = ("empty system text left out",)  # a template may have a default for where there is none
NULL_IN_SCHEMA = ("default", "const", "example")  # keywords of JSON Schema whose value can be null


def conversation_from(
    messages: Any, *, system: Any = None, tools: Any = None, turns: str = "error"
) -> tuple[Conversation, Counter[str]]:
    """A record's messages, in any spelling people have, as a conversation that ends in an answer.

    system, tools: what stands beside the messages in the record: a text, a list, or JSON in a text.
    turns: what becomes of turns out of order, see conversation_in_order; the Counter says how often it was done.

    Marks. An answer is learnt unless it says otherwise: weight, train, training, loss, loss_weight 0 or false, masked
    true. train_detail lists parts, {"begin_offset", "end_offset", "train"}: characters from begin_offset to end_offset,
    both included; what stands in no part with "train": true bears no loss. A part of a content list can have a mark of
    its own. Other weights than 0 and 1, and a user's text that is to be learnt, are errors.

    Raises ValueError with the reason as the end of a sentence, which names the message by its number from 1.
    """
    plain = None if tools else _plain(messages, system)
    if plain is not None:
        try:
            conversation = conversation_of(plain, answered=True)
            return conversation, Counter(EMPTY_SYSTEM if plain[0] == ("system", "") else ())
        except ValueError:  # out of order
            pass
    try:
        return _conversation(messages, system, tools, turns)
    except RecursionError:
        raise ValueError("its messages are nested too deeply") from None


def is_messages(value: Any) -> bool:
    """Whether it looks like messages: a list with objects that have a role, its JSON, or lists in an object."""
    if isinstance(value, str):
        return bool(LIST_OF_OBJECTS.match(value)) and any(
            f'"{key}"' in value or f"'{key}'" in value for key in ROLE_KEYS
        )
    if isinstance(value, list):
        return bool(value) and isinstance(value[0], dict) and any(key in value[0] for key in ROLE_KEYS)
    return isinstance(value, dict) and any(isinstance(value.get(key), list | str) for key in ROLE_KEYS)


def prompt_and_completion(prompt: Any, completion: Any) -> list[Any]:
    """The messages of a prompt and those of its completion as one list; either may be a text (TRL's formats).

    A prompt is no completion: an answer that stands in it bears no loss, unless a mark of its own says so.
    """
    before = _listed(prompt) if is_messages(prompt) or not isinstance(prompt, str) else [_as_message("user", prompt)]
    if is_messages(completion) or not isinstance(completion, str):
        after = _listed(completion)
    else:
        after = [_as_message("assistant", completion)]
    return [*(_unmarked_answer(message) for message in before), *after]


def _plain(messages: Any, system: Any) -> list[Message] | None:
    """The messages where each is a role and a text and nothing else that matters, as almost all are; else None."""
    if type(messages) is not list:
        return None
    plain: list[Message] = []
    for message in messages:
        if type(message) is not dict or (len(message) != 2 and not _is_plain(message)):
            return None
        role, text = message.get("role"), message.get("content")
        if role is None:
            role, text = message.get("from"), message.get("value")
        if type(role) is not str or type(text) is not str or role not in ROLES:
            return None
        if "\0" in text or not text.isascii():
            checked_text(text, f"message {len(plain) + 1}")
        plain.append((ROLES[role], text))
    if system and plain:
        if type(system) is not str or plain[0][0] == "system" or system.lstrip()[:1] in ("[", "{"):
            return None
        plain.insert(0, ("system", checked_text(system, "the system text")))
    return plain


def _is_plain(message: dict[Any, Any]) -> bool:
    """Whether the rest of a message with a role and a text is nulls and what does not matter."""
    for key, value in message.items():
        if value is not None and (key not in PLAIN_KEYS or (key in HARMLESS and _has_words(value))):
            return False
    one = message.get("role") is None or (message.get("from") is None and message.get("value") is None)
    return one and (message.get("from") is None or message.get("content") is None)


def _conversation(messages: Any, system: Any, tools: Any, turns: str) -> tuple[Conversation, Counter[str]]:
    listed = _listed(messages, turns)
    if _has_filled_null(tools) or any(map(_has_null_calls, listed)):
        listed, tools = _without_nulls(listed), _without_nulls(tools)
    said: list[Said] = []
    for number, message in enumerate(listed, start=1):
        for one in _said(message, number):
            follows = bool(said) and said[-1].goes_on and one.role == "assistant"
            said[-1:] = [joined(said[-1], one)] if follows else [*said[-1:], one]
    beside = _system_text(system)
    own = said[0].text.strip() if said and said[0].role == "system" else ""
    if own and beside.strip() not in ("", own) and turns == "error":
        raise ValueError(
            "a system text stands beside the messages and another in message 1 "
            "(data.turns=merge joins them, data.turns=drop keeps that of the messages)"
        )
    if beside and (not own or beside.strip() not in ("", own)):
        if said and said[0].role == "system" and not own:
            del said[0]
        said.insert(0, Said(role="system", number=0, text=beside))  # before another it is a neighbour of one role
    conversation, repaired = conversation_in_order(said, tools=_tools(tools), turns=turns)
    return conversation, repaired + _unused(listed)


# -- lists -------------------------------------------------------------------------------------------------------------


def _listed(messages: Any, turns: str = "error") -> list[Any]:
    """Messages, one an element, by whatever means they are listed."""
    if isinstance(messages, str):
        messages = _from_json(messages, "the messages are text that")
    if isinstance(messages, dict):
        messages = _across(messages)
    if not isinstance(messages, list):
        raise ValueError(f"the messages are {kind_of(messages)}, not a list")
    if messages and all(isinstance(message, str) for message in messages):
        return _of_texts(messages, turns)
    listed: list[Any] = []
    for number, message in enumerate(messages, start=1):
        if isinstance(message, list):
            listed += _of_pair(message, number)
        elif isinstance(message, dict) and all(message.get(key) is None for key in (*ROLE_KEYS, *TEXT_KEYS, "type")):
            listed += _of_turn(message)
        else:
            listed.append(message)
    return listed


def _across(columns: Mapping[str, Any]) -> list[Any]:
    """Messages of an object of lists; an object with a role is one message."""
    lists = {key: value for key, value in columns.items() if value is not None}
    if any(isinstance(lists.get(key), str) for key in ROLE_KEYS):
        return [dict(columns)]
    if not any(key in lists for key in ROLE_KEYS) or not all(isinstance(value, list) for value in lists.values()):
        raise ValueError("the messages are an object, not a list")
    lengths = {key: len(value) for key, value in lists.items()}
    if len(set(lengths.values())) > 1:
        shown = ", ".join(f'"{key[:30]}" {length}' for key, length in list(lengths.items())[:4])
        raise ValueError(f"the lists of its messages are of different lengths: {shown}")
    return [dict(zip(lists, values, strict=True)) for values in zip(*lists.values(), strict=True)]


def _of_texts(texts: Sequence[str], turns: str) -> list[Any]:
    """Texts without roles: user and assistant in turn (LIMA). Texts that are JSON of messages are those messages."""
    if all(is_messages(f"[{text}") for text in texts):
        return [_from_json(text, f"message {number} is text that") for number, text in enumerate(texts, start=1)]
    if len(texts) % 2 and (turns == "error" or len(texts) == 1):
        advice = " (data.turns=drop leaves it out)" if len(texts) > 1 else ""
        read = f"{_many(len(texts), 'text')} without roles, read as user and assistant in turn"
        raise ValueError(f"{read}: the last one has no answer{advice}")
    return [_as_message(("user", "assistant")[i % 2], text) for i, text in enumerate(texts)]


def _of_pair(pair: Sequence[Any], number: int) -> list[Any]:
    """[role, text] as a message, or [question, answer] as two."""
    if len(pair) != 2 or not all(isinstance(text, str) for text in pair):
        raise ValueError(f"message {number} is a list, not an object or a question and its answer")
    if pair[0].strip().lower() in ROLES:
        return [_as_message(*pair)]
    return [_as_message("user", pair[0]), _as_message("assistant", pair[1])]


def _of_turn(turn: Mapping[str, Any]) -> list[Any]:
    """The messages of an object that is a turn; what else it has goes to the last of them. Others as they are."""
    given = {TURN_KEYS[key]: key for key in turn if key in TURN_KEYS and turn[key] not in (None, "")}
    if not given or len(given) < sum(key in TURN_KEYS and turn[key] not in (None, "") for key in turn):
        return [turn]
    rest = {key: value for key, value in turn.items() if key not in TURN_KEYS}
    messages = [_as_message(role, turn[given[role]]) for role in ("system", "user", "assistant") if role in given]
    return [*messages[:-1], {**rest, **messages[-1]}]


def _as_message(role: str, text: Any) -> dict[str, Any]:
    return {"role": role, "content": text}


def _unmarked_answer(message: Any) -> Any:
    if not isinstance(message, dict) or any(message.get(key) is not None for key in (*MARKS, *DETAIL_KEYS)):
        return message
    names = [str(message[key]) for key in ROLE_KEYS if message.get(key) is not None]
    try:
        answer = bool(names) and role_of(names[0], 1) in ("assistant", "call")
    except ValueError:
        return message
    return {**message, "train": False} if answer else message


# -- a message ---------------------------------------------------------------------------------------------------------


def _said(message: Any, number: int) -> list[Said]:
    """What a message says: one, or with Anthropic's results of tools in a user's message several."""
    where = f"message {number}"
    if not isinstance(message, dict):
        raise ValueError(f"{where} is {kind_of(message)}, not an object")
    role = _role(message, number)
    for key, value in message.items():
        if key not in KNOWN and value is not None:
            _must_not_matter(key, value, where)
    content = _only(message, TEXT_KEYS, where)
    one = Said(role="assistant" if role == "call" else role, number=number)
    said = [one]
    calls = [call for key in CALL_KEYS for call in _calls(message.get(key), where)]
    if role == "call":
        calls += _calls(content or "", where, must=not calls)
    elif role == "tool" and not isinstance(content, str | None) and not _is_parts(content):
        one.text = _as_json(content, where)  # a result that is an object
    elif isinstance(content, dict) and content.get("parts") is not None:
        said = _of_parts(content["parts"], one, where)
    elif isinstance(content, list):
        said = _of_parts(content, one, where)
    elif content is not None:
        one.text = checked_text(content, where)
    one = said[-1]
    one.calls = [*one.calls, *calls]
    reasoning = _only(message, REASONING_KEYS, where)
    if reasoning:
        if one.reasoning and one.reasoning != reasoning:
            raise ValueError(f"{where} has reasoning beside its parts and another among them")
        one.reasoning = checked_text(reasoning, f"the reasoning of {where}")
    _take_channel(message, one, where)
    if content is None and not (one.calls or one.reasoning):
        one.absent = _absent(message, where)
    if one.role != "assistant" and (one.calls or one.reasoning):
        raise ValueError(f"{where} is of {one.role} and has {'calls of tools' if one.calls else 'reasoning'}")
    if one.role == "tool":
        one.call_id = one.call_id or str(message.get("tool_call_id") or message.get("call_id") or "")
        one.name = str(message.get("name") or message.get("tool_name") or "").removeprefix("functions.")
    _take_marks(message, said, where)
    return said


def _role(message: Mapping[str, Any], number: int) -> str:
    names = [message[key] for key in ROLE_KEYS if message.get(key) is not None]
    name = names[0] if names else None
    if not isinstance(name, str):
        raise ValueError(f"message {number} is of {kind_of(name)}, not of system, user or assistant")
    role = role_of(name, number)
    for other in names[1:]:  # a name of the speaker may stand beside the role
        if isinstance(other, str) and ROLES.get(other.strip().lower(), role) != role:
            raise ValueError(f"message {number} is of {name[:30]!r} and of {other[:30]!r}")
    return role


def _only(holder: Mapping[str, Any], keys: Sequence[str], where: str) -> Any:
    """The value under whichever of the keys has one; an empty one where none has more, None where all are null."""
    found, key_found = None, ""
    for key in keys:
        value = holder.get(key)
        if value is None or (found not in (None, "", []) and value in ("", [], found)):
            continue
        if found not in (None, "", []):
            raise ValueError(f'{where} has "{key_found}" and "{key}", and they differ')
        found, key_found = value, key
    return found


def _absent(message: Mapping[str, Any], where: str) -> str:
    if any(key in message for key in TEXT_KEYS):
        return f"{where} is null, not text"
    has = ", ".join(str(key)[:40] for key in list(message)[:6])
    return f'{where} has no "content" (it has: {has})'


def _must_not_matter(key: Any, value: Any, where: str) -> None:
    """Raises ValueError where an unknown key reads like a mark, or like a part of what is said."""
    name = str(key)[:40]
    if LIKE_A_MARK.search(name):
        raise ValueError(f'{where} has "{name}", which is no known mark ("train": false marks an answer as not learnt)')
    label = isinstance(value, bool | int | float) or (
        isinstance(value, str) and key not in SPOKEN and len(value) <= 40 and value.count(" ") < 3
    )
    if value and not label:
        raise ValueError(
            f'{where} has "{name}", which nothing carries (take it out of the rows where it does not matter)'
        )


def _unused(messages: Sequence[Any]) -> Counter[str]:
    """What nothing carries of messages that can be read, by key."""
    unused: Counter[str] = Counter()
    for message in messages:
        content = _only(message, TEXT_KEYS, "")
        parts = content if isinstance(content, list) else ()
        for holder in (message, *(part for part in parts if isinstance(part, dict))):
            for key, value in holder.items():
                if _has_words(value) if key in HARMLESS else value and holder is message and key not in KNOWN:
                    unused[f'message key "{str(key)[:40]}" not used'] += 1
    return unused


def _has_words(value: Any) -> bool:
    if type(value) is str:  # quick: this is asked of every message of many files
        return (value.count(" ") > 2 or not value.isascii()) and is_wordy(value)
    return any(map(is_wordy, islice(texts_in(value), 100)))  # log probabilities have thousands


# -- parts of a content ------------------------------------------------------------------------------------------------


def _is_parts(content: Any) -> bool:
    return isinstance(content, list) and all(
        isinstance(part, dict) and ("type" in part or list(part) == ["text"]) for part in content
    )


def _of_parts(parts: Any, one: Said, where: str) -> list[Said]:
    """What the parts of a content say: their texts without anything between, in one message with its calls."""
    said: list[Said] = []
    hidden: list[tuple[int, int]] = []
    for part in parts if isinstance(parts, list) else [parts]:
        if isinstance(part, str):
            part = {"type": "text", "text": part}
        if not isinstance(part, dict):
            raise ValueError(f"{where} has parts that are {kind_of(part)}, not objects")
        kind = part.get("type") or ("text" if part.get("text") is not None else next(iter(part), "nothing"))
        learnt = _mark(part, f"a part of {where}")
        begin = len(one.text)
        if kind in TEXT_PARTS and not one.calls:
            one.text += checked_text(_only(part, PARTS[kind], f"a part of {where}"), where)
            if learnt is False and one.role == "assistant":
                hidden.append((begin, len(one.text)))
        elif kind in ("thinking", "reasoning") and not one.text and not one.calls and one.role == "assistant":
            thought = _only(part, PARTS[kind], f"a part of {where}")
            one.reasoning = "\n\n".join(filter(None, (one.reasoning, checked_text(thought, where))))
        elif kind in CALL_PARTS and one.role == "assistant":
            given = part.get("value") or {key: value for key, value in part.items() if key not in MARKS}
            one.calls += _calls(given, where, must=True)
        elif kind == "tool_result" and one.role in ("user", "tool"):
            said += [one] if one.text else []
            said.append(_result(part, one.number, where))
            one = Said(role="user", number=one.number)
        elif kind in (*TEXT_PARTS, "thinking", "reasoning"):
            raise ValueError(
                f'{where} has a part "{kind}" after a text or a call, where no template has a place for it'
            )
        else:
            raise ValueError(f'{where} has parts that are not text: "{str(kind)[:30]}" (which nothing carries)')
        if learnt is False and kind not in TEXT_PARTS:
            raise ValueError(
                f"{where} has a mark on a part that is not text (only a text or a whole answer can have one)"
            )
        if learnt and one.role != "assistant":
            raise ValueError(_asks_too_much(one.role, where))
        keys = ARGUMENT_KEYS if kind in CALL_PARTS and not part.get("value") else PARTS[kind]
        for key, value in part.items():
            if value is not None and not (key in HARMLESS or key in MARKS or key in keys):
                _must_not_matter(key, value, f"a part of {where}")
    one.unlearnt = united(hidden)
    return [*said, one] if one.text or not said else said


def _result(part: Mapping[str, Any], number: int, where: str) -> Said:
    given = _only(part, PARTS["tool_result"], where)
    one = Said(role="tool", number=number, call_id=str(part.get("tool_use_id") or part.get("tool_call_id") or ""))
    if isinstance(given, str | None):
        one.text = checked_text(given or "", where)
    elif _is_parts(given):
        one = _of_parts(given, one, where)[-1]
    else:
        one.text = _as_json(given, where)
    return one


def _system_text(system: Any) -> str:
    """A system text that stands beside messages: text, or parts that are text, or the JSON of these."""
    if isinstance(system, str) and system.lstrip()[:1] in ("[", "{"):
        try:
            parts = decode(system)
        except ValueError:
            parts = None
        system = parts if _is_parts(parts) else system
    if isinstance(system, dict):
        system = system.get("parts", [system])
    if isinstance(system, list):
        return "".join(said.text for said in _of_parts(system, Said(role="system", number=0), "the system text"))
    return "" if system is None else checked_text(system, "the system text")


# -- tools -------------------------------------------------------------------------------------------------------------


def _calls(given: Any, where: str, *, must: bool = False) -> list[dict[str, Any]]:
    """Calls of tools in OpenAI's form, with their arguments as an object. must: there has to be one."""
    if isinstance(given, str) and (given.strip() or must):
        given = _from_json(given, f"{where} calls a tool in a text that")
    if isinstance(given, dict):
        given = [given] if must or any(given.values()) else []
    if given in (None, "", []) and not must:
        return []
    if not isinstance(given, list) or not given:
        raise ValueError(f"{where} calls a tool by {kind_of(given)}, not by an object with name and arguments")
    return [_call(call, where) for call in given]


def _call(given: Any, where: str) -> dict[str, Any]:
    if isinstance(given, str):
        given = _from_json(given, f"{where} calls a tool in a text that")
    function = given.get("function") if isinstance(given, dict) else None
    function = function if isinstance(function, dict) else given
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(name, str) or not name:
        raise ValueError(f"{where} calls a tool without a name")
    arguments = _only(function, ARGUMENT_KEYS, f"the call of {name[:40]} in {where}")
    if isinstance(arguments, str):
        arguments = _from_json(arguments, f"{where} calls {name[:40]} with arguments that") if arguments.strip() else {}
    if not isinstance(arguments, dict | None):
        raise ValueError(f"{where} calls {name[:40]} with arguments that are {kind_of(arguments)}, not an object")
    outer = {key: value for key, value in given.items() if key != "function"} if function is not given else {}
    inner = {key: value for key, value in function.items() if key not in ARGUMENT_KEYS}
    for key, value in [*outer.items(), *inner.items()]:
        if value is not None and key not in HARMLESS:
            _must_not_matter(key, value, f"a call in {where}")
    identity = {"id": checked_text(str(given["id"]), where)} if given.get("id") else {}
    called = {"name": checked_text(name, where), "arguments": _checked(arguments or {}, where)}
    return {"type": "function", **identity, "function": called}


def _tools(tools: Any) -> list[Any]:
    """Tools in OpenAI's form: {"type": "function", "function": {"name", "description", "parameters"}}."""
    if isinstance(tools, str):
        tools = _from_json(tools, '"tools" is text that') if tools.strip() else None
    if isinstance(tools, dict):
        tools = [tools] if tools else None
    if not isinstance(tools, list | None):
        raise ValueError(f'"tools" is {kind_of(tools)}, not a list')
    return [_tool(tool, f"tool {number}") for number, tool in enumerate(tools or [], start=1)]


def _tool(given: Any, where: str) -> dict[str, Any]:
    if isinstance(given, str):
        given = _from_json(given, f"{where} is text that")
    if not isinstance(given, dict):
        raise ValueError(f"{where} is {kind_of(given)}, not an object")
    outer, function = dict(given), given.get("function")
    if function is None:  # Anthropic's, or OpenAI's functions
        outer, function = {"type": "function"}, {key: value for key, value in given.items() if key != "type"}
    if isinstance(function, str):
        function = _from_json(function, f"{where} is text that")
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise ValueError(f"{where} has no name")
    function = {"parameters" if key == "input_schema" else key: value for key, value in function.items()}
    if isinstance(function.get("parameters"), str):
        function["parameters"] = _from_json(function["parameters"], f"{where} has parameters in a text that")
    return _checked({**outer, "type": "function", "function": function}, where)


def _has_filled_null(value: Any) -> bool:
    """Whether schemas of tools have a null that JSON Schema cannot have: columns of Parquet were filled up with it."""
    if isinstance(value, dict):
        return any(
            (inner is None and key not in NULL_IN_SCHEMA) or _has_filled_null(inner) for key, inner in value.items()
        )
    return isinstance(value, list) and any(_has_filled_null(inner) for inner in value if inner is not None)


def _has_null_calls(message: Any) -> bool:
    """Whether a message that can have no calls has a null in their place: columns of Parquet were filled up."""
    if not isinstance(message, dict) or message.get("tool_calls", "") is not None:
        return False
    role = next((message[key] for key in ROLE_KEYS if message.get(key) is not None), None)
    return isinstance(role, str) and ROLES.get(role.strip().lower()) != "assistant"


def _without_nulls(value: Any) -> Any:
    """The same without nulls, those in texts of JSON excepted: no column was filled up with these."""
    if isinstance(value, dict):
        return {key: _without_nulls(inner) for key, inner in value.items() if inner is not None}
    return [_without_nulls(inner) for inner in value] if isinstance(value, list) else value


def _take_channel(message: Mapping[str, Any], one: Said, where: str) -> None:
    """Harmony's channels: reasoning and calls are messages of their own there, before the text that they belong to."""
    channel, recipient = message.get("channel"), message.get("recipient")
    if one.role != "assistant" or channel not in ("analysis", "commentary"):
        return
    if isinstance(recipient, str) and recipient.startswith("functions."):
        one.calls += _calls({"name": recipient.removeprefix("functions."), "arguments": one.text}, where)
        one.text = ""
        return
    if recipient not in (None, "", "all", "user", "assistant"):
        raise ValueError(f"{where} is for {str(recipient)[:40]!r}, and only calls of functions are carried")
    if one.unlearnt and channel == "analysis":
        raise ValueError(
            f"{where} has a mark on a part of its reasoning (only a whole answer or its text can have one)"
        )
    one.goes_on = not one.calls
    if channel == "analysis" and not one.reasoning:
        one.reasoning, one.text = one.text, ""


# -- marks -------------------------------------------------------------------------------------------------------------


def _mark(holder: Mapping[str, Any], where: str) -> bool | None:
    """Whether what it stands on is learnt; None where there is no mark."""
    if MARKS.keys().isdisjoint(holder):
        return None
    learnt: bool | None = None
    for key, says in MARKS.items():
        value = holder.get(key)
        if value is None:
            continue
        if not isinstance(value, bool | int | float) or value not in (0, 1):
            raise ValueError(f'{where} has "{key}" {str(value)[:20]}: neither 0 nor 1 (there is no part of a loss)')
        if learnt not in (None, bool(value) == says):
            raise ValueError(f'{where} has marks that say the opposite of each other, "{key}" among them')
        learnt = bool(value) == says
    return learnt


def _take_marks(message: Mapping[str, Any], said: Sequence[Said], where: str) -> None:
    learnt, one = _mark(message, where), said[-1]
    detail = _only(message, DETAIL_KEYS, where)
    kept = bytearray(b"\0" * len(one.text))  # 1: a character that a part asks to learn
    if not isinstance(detail, list | None):
        detail = [detail]
    for part in detail or ():
        begin, end, train = _span(part, len(one.text), where)
        if train:
            kept[begin:end] = b"\1" * (end - begin)
    if one.role != "assistant":
        if learnt or any(kept):
            raise ValueError(_asks_too_much(one.role, where))
        return
    if detail:
        if one.unlearnt:
            raise ValueError(f"{where} has marks on its parts and a train_detail")
        one.unlearnt = tuple(match.span() for match in re.finditer(b"\0+", bytes(kept)))
    one.learnt = learnt is not False
    if one.is_plain and one.text and one.unlearnt == ((0, len(one.text)),):
        one.learnt, one.unlearnt = False, ()


def _span(part: Any, length: int, where: str) -> tuple[int, int, bool]:
    """Begin, end (not included any more) and train of a part of train_detail."""
    values = [part.get(key) if isinstance(part, dict) else None for key in ("begin_offset", "end_offset", "train")]
    begin, end, train = values
    if type(begin) is not int or type(end) is not int or not isinstance(train, bool | int) or train not in (0, 1):
        raise ValueError(f"{where} has a train_detail that is no list of begin_offset, end_offset and train")
    if not 0 <= begin <= end < length:
        raise ValueError(f"{where} has a train_detail from {begin} to {end}, and its text has {length} characters")
    return begin, end + 1, bool(train)


def _asks_too_much(role: str, where: str) -> str:
    return (
        f"{where} is of {role} and marked to be learnt: only answers can be "
        "(leave the mark out; prompt.mask=false learns all prompts)"
    )


# -- values ------------------------------------------------------------------------------------------------------------


def _from_json(text: str, what: str) -> Any:
    """The value of a text of JSON. what: how the sentence begins that says why it is none."""
    try:
        return decode(text)
    except json.JSONDecodeError as error:
        if re.match(r"\s*[\[{][\s\[{]*'", text):
            reason = "is Python's spelling, not JSON (write it with json.dumps(...), not str(...))"
        else:
            reason = f"is no JSON ({error.msg} at character {error.pos + 1})"
        raise ValueError(f"{what} {reason}") from error
    except ValueError as error:  # a key twice, NaN
        raise ValueError(f"{what} cannot be used: {error}") from error


def _as_json(value: Any, where: str) -> str:
    try:
        return checked_text(json.dumps(value, ensure_ascii=False), where)
    except TypeError as error:
        raise ValueError(f"{where} holds what JSON cannot hold: {error}") from error


def _checked(value: Any, where: str) -> Any:
    """The same as plain objects and lists, every text of it checked."""
    if isinstance(value, dict):
        return {checked_text(key, f"a key in {where}"): _checked(inner, where) for key, inner in value.items()}
    if isinstance(value, list):
        return [_checked(inner, where) for inner in value]
    return checked_text(value, where) if isinstance(value, str) else value


def _many(count: int, what: str) -> str:
    return f"{count} {what}{'s' if count != 1 else ''}"
