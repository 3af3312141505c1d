"""Conversations with fewer turns: the marks and messages of the turns that stay, answers numbered anew.

A turn is a user's message, or several in a row, with all that follows up to the next one: answers, calls of tools and
their results. A system text at the beginning belongs to no turn and stays.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, TypeVar

from ift.text.conversations import Conversation

Message = dict[str, Any]
T = TypeVar("T", bound=Conversation)  # a row stays a row


def count_turns(conversation: Conversation) -> int:
    """How many turns can be dropped one by one, the last one counted."""
    if not conversation.chat:
        return len(conversation.history) + 1
    return len(_split(json.loads(conversation.chat)["messages"])[1])


def only_turns(conversation: T, begin: int, end: int) -> T:
    """The turns begin to end - 1, at least one. Marks of answers that are gone are gone too."""
    if conversation.chat:
        return _only_messages(conversation, begin, end)
    *history, (instruction, output) = [*conversation.history, (conversation.instruction, conversation.output)][
        begin:end
    ]
    return replace(
        _with_marks(conversation, begin, end),
        instruction=instruction,
        input=conversation.input if end > len(conversation.history) else "",
        output=output,
        history=tuple(history),
    )


def _only_messages(conversation: T, begin: int, end: int) -> T:
    chat = json.loads(conversation.chat)
    system, turns = _split(chat["messages"])
    kept = turns[begin:end]
    chat["messages"] = [*system, *_flat(kept)]
    before = _answers(_flat(turns[:begin]))
    shorter = replace(
        _with_marks(conversation, before, before + _answers(_flat(kept))),
        chat=json.dumps(chat, ensure_ascii=False),
        history=conversation.history[begin : end - 1],
    )
    if end == len(turns):
        return shorter
    asked = "\n\n".join(message["content"] for message in kept[-1] if message["role"] == "user")
    answers = [message for message in kept[-1] if message["role"] == "assistant"] or [{"content": ""}]
    calls = answers[-1].get("tool_calls")
    output = answers[-1]["content"] or (json.dumps(calls, ensure_ascii=False) if calls else "")
    return replace(shorter, instruction=asked, input="", output=output)


def _split(messages: list[Message]) -> tuple[list[Message], list[list[Message]]]:
    """System messages at the beginning, and the turns after them."""
    first = next((place for place, message in enumerate(messages) if message["role"] != "system"), len(messages))
    turns: list[list[Message]] = []
    role = ""
    for message in messages[first:]:
        if not turns or (message["role"] == "user" != role):
            turns.append([])
        turns[-1].append(message)
        role = message["role"]
    return messages[:first], turns


def _flat(turns: Iterable[list[Message]]) -> list[Message]:
    return [message for turn in turns for message in turn]


def _answers(messages: Iterable[Message]) -> int:
    return sum(message["role"] == "assistant" for message in messages)


def _with_marks(conversation: T, begin: int, end: int) -> T:
    """With the marks of the answers begin to end - 1, which are numbered from 0 now."""
    parts = conversation.unlearnt_parts
    return replace(
        conversation,
        unlearnt=tuple(answer - begin for answer in conversation.unlearnt if begin <= answer < end),
        unlearnt_parts=tuple((answer - begin, start, stop) for answer, start, stop in parts if begin <= answer < end),
    )
