"""A record's list of messages as a conversation."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ift.text.conversations import ROLES, Conversation, Message, conversation_of, role_of

HALF_CHARACTER = re.compile("[\ud800-\udfff]")  # JSON can spell one: "\ud83d" without its second half
ROLE_KEYS = ("role", "from")


def conversation_from(
    messages: Any, *, system: Any = None, tools: Any = None, turns: str = "error"
) -> tuple[Conversation, Counter[str]]:
    """The conversation of a list of messages. Raises ValueError with the reason."""
    listed = _listed(messages)
    pairs = [_message(message, number) for number, message in enumerate(listed, start=1)]
    conversation = conversation_of(pairs, answered=True)
    if system and not conversation.system:
        conversation = replace(conversation, system=_text(system, "the system text"))
    answers = [message for message, (role, _) in zip(listed, pairs, strict=True) if role == "assistant"]
    unlearnt = tuple(i for i, message in enumerate(answers) if message.get("train") is False)
    return replace(conversation, unlearnt=unlearnt), Counter()


def is_messages(value: Any) -> bool:
    """Whether it looks like messages: a list with objects that have a role, or the JSON of one."""
    if isinstance(value, str):
        return value.lstrip()[:1] in ("[", "{") and any(f'"{key}"' in value for key in ROLE_KEYS)
    if isinstance(value, list):
        return bool(value) and isinstance(value[0], Mapping) and any(key in value[0] for key in ROLE_KEYS)
    return isinstance(value, Mapping) and any(isinstance(value.get(key), list | str) for key in ROLE_KEYS)


def prompt_and_completion(prompt: Any, completion: Any) -> list[Any]:
    """The messages of a prompt, whose answers bear no loss, and those of its completion as one list."""
    before = [{"role": "user", "content": prompt}] if isinstance(prompt, str) and not is_messages(prompt) else prompt
    text = isinstance(completion, str) and not is_messages(completion)
    after = [{"role": "assistant", "content": completion}] if text else completion
    marked = [
        {**m, "train": False}
        if isinstance(m, dict) and ROLES.get(str(m.get("role", m.get("from")))) == "assistant"
        else m
        for m in _listed(before)
    ]
    return [*marked, *_listed(after)]


def _listed(messages: Any) -> list[Any]:
    if isinstance(messages, str):
        messages = json.loads(messages)
    if not isinstance(messages, list):
        raise ValueError(f"the messages are {kind_of(messages)}, not a list")
    return messages


def _message(message: Any, number: int) -> Message:
    if not isinstance(message, dict):
        raise ValueError(f"message {number} is {kind_of(message)}, not an object")
    role = message.get("role", message.get("from"))
    if not isinstance(role, str):
        raise ValueError(f"message {number} is of {kind_of(role)}, not of system, user or assistant")
    role = role_of(role, number)
    return role, _text(message.get("content", message.get("value", message.get("parts"))), f"message {number}")


def _text(value: Any, what: str) -> str:
    if isinstance(value, dict) and "parts" in value:
        value = value["parts"]
    if isinstance(value, list):
        if not all(isinstance(part, dict) and isinstance(part.get("text"), str) for part in value):
            raise ValueError(f"{what} has parts that are not text")
        value = "".join(part["text"] for part in value)
    return checked_text(value, what)


def checked_text(value: Any, what: str) -> str:
    """A value as text that UTF-8 can hold. Raises ValueError where it is none."""
    if not isinstance(value, str):
        raise ValueError(f"{what} is {kind_of(value)}, not text")
    if not value.isascii() and HALF_CHARACTER.search(value):
        raise ValueError(f"{what} holds half a character (a lone surrogate, no text in UTF-8)")
    if "\0" in value:
        raise ValueError(f"{what} holds a NUL character (is it text?)")
    return value


def kind_of(value: Any) -> str:
    names = {bool: "true or false", int: "a number", float: "a number", str: "text", list: "a list", dict: "an object"}
    return "null" if value is None else names.get(type(value), type(value).__name__)
