"""Published data sets with a structure of their own: trees, instances, marked texts and segments to conversations.

OASST's trees   the best-ranked reply at every turn (the first where none is ranked) as far as an answer; the other
                replies are counted as not used
flat OASST      the messages of a tree, which stand together, as that tree: a row each; others stay a row a message
self-instruct   the first instance of an instruction; further ones are counted as not used
baize           the turns after [|Human|] and [|AI|]
segments        their texts one after the other, those of "label": false without a loss (axolotl's template-free rows)
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from typing import Any

from ift.data.reading.forms import IGNORED, Plan
from ift.data.reading.values import kind_of
from ift.text.conversations import Conversation, conversation_of

NOT_ON_THE_PATH = "replies of a tree that are not on its best-ranked path, and not used"
NOT_FIRST = "instances after the first of an instruction, not used"
SPEAKERS = {"prompter": "user", "assistant": "assistant"}
BAIZE = "The conversation between human and AI assistant."  # what its authors put before each
FLAT = {"message_id", "parent_id", "message_tree_id", "text", "role"}
RANKS = {"rank", "deleted"}  # which of several replies is taken


class FlatTree(dict[str, Any]):
    """A record of a tree, made of the messages of a flat file."""

    messages: Sequence[dict[str, Any]] = ()


@cache
def flat_plan(names: tuple[str, ...], ignore: frozenset[str]) -> Plan:
    """What becomes of the columns of messages of a flat file."""
    used = {name: "messages" for name in names if name in FLAT | RANKS}
    known = {name: IGNORED for name in names if name in ignore and name not in used}
    unknown = tuple(name for name in names if name not in used and name not in known)
    return Plan("oasst", used=used, known=known, unknown=unknown)


def of_tree(root: dict[str, Any]) -> tuple[Conversation, Counter[str]]:
    """The conversation on the best-ranked path of a tree. Raises ValueError where no answer is on it."""
    path: list[tuple[str, str]] = []
    message: Any = root
    while isinstance(message, dict):
        role, text = message.get("role"), message.get("text")
        if role not in SPEAKERS or not isinstance(text, str):
            raise ValueError("a message of the tree has no text or is of neither prompter nor assistant")
        path.append((SPEAKERS[role], text))
        message = next(iter(sorted(_replies(message), key=_rank)), None)
    while path and path[-1][0] == "user":
        path.pop()
    if not path:
        raise ValueError("a tree without an answer")
    unused = _size(root) - len(path)
    return conversation_of(path, answered=True), Counter({NOT_ON_THE_PATH: unused} if unused else {})


def _replies(message: dict[str, Any]) -> list[dict[str, Any]]:
    replies = message.get("replies")
    return [reply for reply in replies if isinstance(reply, dict)] if isinstance(replies, list) else []


def _rank(message: dict[str, Any]) -> tuple[bool, float]:
    """Of replies the order in which they are taken; sorting keeps that of the file where it is equal."""
    rank = message.get("rank")
    ranked = isinstance(rank, int | float) and not isinstance(rank, bool) and rank == rank
    return bool(message.get("deleted")) or not ranked, float(rank) if ranked else 0.0  # type: ignore[arg-type]


def _size(root: dict[str, Any]) -> int:
    waiting, size = [root], 0
    while waiting:
        waiting += _replies(waiting.pop())
        size += 1
    return size


def whole_trees(records: Iterable[tuple[int, Any]]) -> Iterator[tuple[int, Any]]:
    """Records as they are; but the messages of flat OASST files as trees, with the number of their first message.

    Messages of one tree that stand together and are no whole tree stay as they are.
    """
    tree: list[tuple[int, dict[str, Any]]] = []
    flat = None
    for at, record in records:
        if flat is None:
            flat = isinstance(record, dict) and record.keys() >= FLAT
        if not flat:
            yield at, record
            continue
        is_message = isinstance(record, dict) and record.keys() >= FLAT
        if tree and not (is_message and record["message_tree_id"] == tree[0][1]["message_tree_id"]):
            yield from _joined(tree)
            tree = []
        if not is_message:
            yield at, record
            continue
        tree.append((at, record))
    if tree:
        yield from _joined(tree)


def _joined(numbered: Sequence[tuple[int, dict[str, Any]]]) -> Sequence[tuple[int, dict[str, Any]]]:
    """The messages of a tree as the tree; as they stand, where they are not one whole tree."""
    messages = [message for _, message in numbered]
    if len(messages) == 1:
        return numbered
    by_id = {message["message_id"]: {**message, "replies": []} for message in messages}
    roots = []
    for message in by_id.values():
        parent = by_id.get(message["parent_id"])
        if parent is not None:
            parent["replies"].append(message)
        else:
            roots.append(message)
    if len(roots) != 1 or roots[0]["parent_id"] is not None:
        return numbered
    tree = FlatTree({"message_tree_id": roots[0]["message_tree_id"], "prompt": roots[0]})
    tree.messages = messages
    return [(numbered[0][0], tree)]


def of_instances(instruction: Any, instances: Any) -> tuple[Conversation, Counter[str]]:
    if not isinstance(instances, list) or not instances or not isinstance(instances[0], dict):
        raise ValueError('"instances" is not a list of objects with input and output')
    first = instances[0]
    further = [name for name in first if name not in ("input", "output", "instruction_with_input") and first[name]]
    if further:
        raise ValueError(f'an instance has "{further[0]}" too (write rows with instruction, input and output)')
    texts = {"instruction": instruction, "input": first.get("input") or "", "output": first.get("output")}
    for name, text in texts.items():
        if not isinstance(text, str):
            raise ValueError(f'"{name}" is {kind_of(text)}, not text')
    return Conversation(**texts), Counter({NOT_FIRST: len(instances) - 1} if len(instances) > 1 else {})


def of_marked_text(text: str) -> tuple[Conversation, Counter[str]]:
    """A conversation of the turns after [|Human|] and [|AI|]; a last turn that says nothing is left out."""
    head, *parts = re.split(r"\[\|(Human|AI)\|\]", text)
    turns = list(zip(parts[::2], (part.strip() for part in parts[1::2]), strict=True))
    while turns and (not turns[-1][1] or turns[-1][0] == "Human"):
        turns.pop()
    messages = [("user" if speaker == "Human" else "assistant", said) for speaker, said in turns]
    if head.strip() not in ("", BAIZE):
        messages.insert(0, ("system", head.strip()))
    return conversation_of(messages, answered=True), Counter()


def of_segments(segments: list[Any]) -> tuple[Conversation, Counter[str]]:
    text, unlearnt = "", []
    for number, segment in enumerate(segments, start=1):
        said = segment.get("text") if isinstance(segment, dict) else None
        label = segment.get("label") if isinstance(segment, dict) else None
        if not isinstance(said, str) or not isinstance(label, bool):
            raise ValueError(f"segment {number} is not an object with a text and a label that is true or false")
        if not label and said:
            unlearnt.append((0, len(text), len(text) + len(said)))
        text += said
    return Conversation("", output=text, unlearnt_parts=tuple(unlearnt)), Counter()


# what reads each, and the parts (see `ift.data.reading.forms`) that it is given
PUBLISHED: dict[str, tuple[Callable[..., tuple[Conversation, Counter[str]]], tuple[str, ...]]] = {
    "oasst": (of_tree, ("messages",)),
    "self-instruct": (of_instances, ("instruction", "output")),
    "baize": (of_marked_text, ("messages",)),
    "segments": (of_segments, ("output",)),
}
