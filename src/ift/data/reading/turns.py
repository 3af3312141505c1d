"""Messages in one spelling as a conversation: the order of turns, which answers bear a loss, and their numbers."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ift.text.conversations import Conversation, conversation_of

# role -> the roles that may stand right before it; "" is the beginning
AFTER = {
    "system": ("",),
    "user": ("", "system", "assistant", "tool"),
    "assistant": ("user", "tool"),
    "tool": ("assistant", "tool"),
}


class NothingLearnt(ValueError):
    """The marks of a conversation say that none of its answers is to be learnt."""


@dataclass(slots=True, kw_only=True)
class Said:
    """One message: who says what, and whether it is learnt."""

    role: str  # system, user, assistant, tool
    number: int  # of the message in its record, from 1
    text: str = ""
    reasoning: str = ""  # what the assistant thinks before the text
    calls: list[dict[str, Any]] = field(default_factory=list)  # of tools, after the text
    call_id: str = ""  # of the call that a tool's result answers
    name: str = ""  # of that tool
    learnt: bool = True
    unlearnt: tuple[tuple[int, int], ...] = ()  # (begin, end): characters of a learnt text without a loss, in order
    goes_on: bool = False  # the assistant's next message is the rest of this one
    absent: str = ""  # why there is no text where there should be one

    @property
    def is_empty(self) -> bool:
        return not (self.calls or self.reasoning or self.text.strip())

    @property
    def is_plain(self) -> bool:
        return not (self.calls or self.reasoning or self.role == "tool")

    @property
    def shown(self) -> str:
        """What a person reads of it."""
        if self.text.strip() or not self.calls:
            return self.text
        return json.dumps([call["function"] for call in self.calls], ensure_ascii=False)

    def to_json(self) -> dict[str, Any]:
        value: dict[str, Any] = {"role": self.role, "content": self.text}
        more = {"reasoning_content": self.reasoning, "tool_calls": self.calls}
        more |= {"tool_call_id": self.call_id, "name": self.name}
        return value | {key: given for key, given in more.items() if given}


def conversation_in_order(
    messages: Sequence[Said], *, tools: Sequence[Any] = (), turns: str = "error"
) -> tuple[Conversation, Counter[str]]:
    """Messages as a conversation that ends in an answer, and how often each repair was made.

    In order are: a system text or none; then questions, each with its answer; results of tools stand between the
    answer that calls and the next one. What is not in order, by `turns`:

    error   a ValueError
    merge   neighbours of one role are one message with an empty line between. A system text in the middle stands with
            the question beside it: after the question that still waits for its answer, else before the next one.
    drop    of neighbours of one role the last one stays, and a system text in the middle is left out.

    merge and drop leave out: an answer before the first question, what follows the last answer, the result of a tool
    that no answer called, and messages without text.

    Raises ValueError, with the reason as the end of a sentence: NothingLearnt where all answers are marked so.
    """
    repaired: Counter[str] = Counter()
    if turns == "error":
        _must_be_in_order(messages)
    else:
        messages = _repaired(messages, turns == "merge", repaired)
    answers = [message for message in messages if message.role == "assistant"]
    unlearnt = tuple(number for number, answer in enumerate(answers) if not answer.learnt)
    if len(unlearnt) == len(answers):
        raise NothingLearnt("no answer of it is to be learnt (weight, train or loss_weight is 0 for all)")
    parts = tuple((n, *part) for n, answer in enumerate(answers) if answer.learnt for part in answer.unlearnt)
    if tools or not all(message.is_plain for message in messages):
        conversation = _with_chat(messages, tools)
    else:
        conversation = conversation_of([(message.role, message.text) for message in messages], answered=True)
    if unlearnt or parts:
        conversation = replace(conversation, unlearnt=unlearnt, unlearnt_parts=parts)
    return conversation, repaired


def joined(first: Said, second: Said) -> Said:
    """Two messages of one role as one, with an empty line between their texts; what bears no loss stays so.

    The empty line bears a loss where both texts beside it do.
    Raises ValueError where the one message would say things in another order, or could not keep the marks.
    """
    where = f"messages {first.number} and {second.number} follow each other"
    if (first.calls and (second.text or second.reasoning)) or (first.text and second.reasoning):
        raise ValueError(f"{where}, and calls or reasoning stand between their texts (data.turns=drop keeps the last)")
    if first.learnt != second.learnt and not (first.is_plain and second.is_plain):
        raise ValueError(f"{where}, and only one is to be learnt, of more than text (data.turns=drop keeps the last)")
    gap = "\n\n" if first.text and second.text else ""
    begin = len(first.text) + len(gap)
    one = replace(
        first,
        text=first.text + gap + second.text,
        reasoning="\n\n".join(filter(None, (first.reasoning, second.reasoning))),
        calls=first.calls + second.calls,
        learnt=first.learnt or second.learnt,
        unlearnt=(),
        goes_on=second.goes_on,
    )
    if one.learnt and one.role == "assistant":
        parts = list(first.unlearnt if first.learnt else [(0, len(first.text))])
        after = second.unlearnt if second.learnt else ((0, len(second.text)),)
        if gap and ((parts and parts[-1][1] == len(first.text)) or (after and not after[0][0])):
            parts.append((len(first.text), begin))
        parts += [(begin + left, begin + right) for left, right in after]
        one.unlearnt = united(parts)
    return one


def united(parts: Sequence[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Spans in order, those that touch as one, without the empty ones."""
    spans: list[tuple[int, int]] = []
    for begin, end in parts:
        if spans and spans[-1][1] == begin:
            spans[-1] = (spans[-1][0], end)
        elif begin < end:
            spans.append((begin, end))
    return tuple(spans)


def _must_be_in_order(messages: Sequence[Said]) -> None:
    for message in messages:
        if message.absent:
            raise ValueError(message.absent)
    last = ""
    for message in messages:
        if last not in AFTER[message.role]:
            raise _disorder(messages, message.number)
        last = message.role
    if last != "assistant":
        raise _disorder(messages, messages[-1].number if messages else 0)


def _disorder(messages: Sequence[Said], number: int = 0) -> ValueError:
    roles = [message.role for message in messages]
    roles = roles[1:] if roles[:1] == ["system"] else roles
    shown = ", ".join(roles[:5]) or "none"
    reason = f"turns are {shown}, not user and assistant in turn, assistant last"
    if number and "user" in roles and "assistant" in roles[roles.index("user") :]:  # something is left of it
        reason += f" (message {number} is out of place; data.turns=merge or drop repairs it)"
    return ValueError(reason)


def _repaired(messages: Sequence[Said], merge: bool, repaired: Counter[str]) -> list[Said]:
    kept: list[Said] = []
    waiting: list[Said] = []  # system texts from the middle, for the next question
    for message in messages:
        role, last = message.role, kept[-1].role if kept else ""
        if message.is_empty and role != "tool":
            repaired["empty message left out"] += 1
        elif role == "system" and last not in ("", "system"):
            if merge and last != "user":
                waiting.append(message)
                continue
            repaired["system text moved" if merge else "system text left out"] += 1
            if merge:
                kept[-1] = joined(kept[-1], message)
        elif role == "assistant" and last in ("", "system"):
            repaired["answer before a question left out"] += 1
        elif role == "tool" and last not in AFTER["tool"]:
            repaired["tool result without a call left out"] += 1
        else:
            if role == "user" and waiting:
                repaired["system text moved"] += len(waiting)
                message = replace(message, text="\n\n".join(said.text for said in (*waiting, message)))
                waiting = []
            if role != last or role == "tool":
                kept.append(message)
            else:
                repaired["neighbours merged" if merge else "neighbours left out"] += 1
                kept[-1] = joined(kept[-1], message) if merge else message
    while kept and kept[-1].role in ("user", "tool"):
        what = "question" if kept.pop().role == "user" else "tool result"
        repaired[f"{what} after the last answer left out"] += 1
    if waiting:
        repaired["system text left out"] += len(waiting)
    if not kept or kept[-1].role != "assistant":
        raise _disorder(messages)
    return kept


def _with_chat(messages: Sequence[Said], tools: Sequence[Any]) -> Conversation:
    """The messages as JSON, and the texts that a person reads: an answer stands after what was said since the last.

    The instruction is the last user's text, and the input what tools have given since.
    """
    pairs: list[tuple[str, str]] = []
    question = ""
    said: list[str] = []
    results: list[str] = []
    if messages[0].role == "system" and messages[0].is_empty:
        messages = messages[1:]
    for message in messages:
        if message.role != "system" and message.role != "tool" and message.is_empty:
            raise ValueError(f"message {message.number} is empty")
        if message.role == "user":
            question, results = message.text, []
        elif message.role == "tool":
            results.append(message.text)
        if message.role == "assistant":
            pairs.append(("\n\n".join(said) or question, message.shown))
            said = []
        elif message.role != "system" and message.text.strip():
            said.append(message.text)
    try:
        value = {"messages": [message.to_json() for message in messages], "tools": list(tools)}
        chat = json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:  # dates and bytes of Parquet, NaN
        raise ValueError(f"its tools or calls hold what JSON cannot hold: {error}") from error
    system = messages[0].text if messages[0].role == "system" else ""
    return Conversation(
        question,
        "\n\n".join(text for text in results if text.strip()),
        pairs[-1][1],
        system,
        tuple(pairs[:-1]),
        chat=chat,
    )
