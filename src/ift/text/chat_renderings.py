"""Conversations that a chat template renders whole: with tools, calls, reasoning, or a text that it looks into.

Where the answers stand is found by rendering the beginnings of the conversation too.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from ift.errors import ConfigError
from ift.text.chat_shapes import CLOSES, OPENS, OTHERWISE, Own, Problem
from ift.text.conversations import Conversation
from ift.text.jinja_process import END, TODAY, Message, Rendered, Request, render_apart
from ift.text.templates import Piece, Special, answer_pieces, as_last, join, unlearnt
from ift.text.templates import Rendered as Pieces

if TYPE_CHECKING:
    from ift.text.chat_templates import ChatTemplate

HIDDEN = secrets.token_hex(16)  # no text of a row can spell it


class Empty(Problem):
    """An answer of which nothing is written."""


class Changed(Problem):
    """An earlier answer stands in a conversation in another way than as its last one."""


def render_whole(template: ChatTemplate, chats: Sequence[str]) -> list[dict[tuple[int, bool], Rendered]]:
    """For each conversation its renderings by (number of messages, whether the generation prompt follows)."""
    mark = secrets.token_hex(16)  # stands for eos_token meanwhile: no text of a row can spell it
    special, source = dict(template.special), template.source
    eos = special.get("eos_token", "")
    if eos:
        source = source.replace(eos, mark)
        special = {name: mark if token == eos else token for name, token in special.items()}
    requests = []
    for chat in map(json.loads, chats):
        messages = [_inert(message, template) for message in chat["messages"]]
        cuts = {(len(messages), False): None}
        for number in _answers(messages) if template._every else [len(messages) - 1]:
            cuts |= {(number, True): None, (number + 1, False): None}
        requests.append(Request(messages, list(cuts), chat.get("tools") or None))
    reply = render_apart(source, special, requests, today=template.today or TODAY, mark=mark)
    pairs = zip(requests, reply.renders, strict=True)
    return [dict(zip(request.cuts, renders, strict=True)) for request, renders in pairs]


def _inert(message: Message, template: ChatTemplate) -> Message:
    """A message whose texts spell no special token of the model: what is found in a rendering is the template's own.

    An answer with a whole thought keeps what the template looks for in it ("</think>"), for it writes that itself. One
    that only speaks of "<think>" has none: the template would let that stand.
    """
    thinks = message["role"] == "assistant" and CLOSES.strip() in str(message.get("content"))
    looked_for = template._looks.inside if thinks else ()
    hidden = [(token.text, name) for token, name in _hidden(template.tokens) if token.text not in looked_for]

    def inert(value: Any) -> Any:
        if isinstance(value, str):
            for spelled, name in hidden:
                value = value.replace(spelled, name)
            return value
        if isinstance(value, dict):
            return {key: inert(inner) for key, inner in value.items()}
        return [inert(inner) for inner in value] if isinstance(value, list) else value

    return {key: value if key == "role" else inert(value) for key, value in message.items()} if hidden else message


def _hidden(tokens: Sequence[Special]) -> list[tuple[Special, str]]:
    """Special tokens, the longest first, and what stands for a row's text that spells one while it is rendered."""
    named = [(token, f"{HIDDEN}{number}q") for number, token in enumerate(tokens)]
    return sorted(named, key=lambda one: -len(one[0].text))


def shown(text: str, tokens: Sequence[Special]) -> str:
    """A rendered text with all texts of rows as they are."""
    if HIDDEN in text:
        for token, name in _hidden(tokens):
            text = text.replace(name, token.text)
    return text


def _answers(messages: Sequence[Message]) -> list[int]:
    return [number for number, message in enumerate(messages) if message["role"] == "assistant"]


class Rendering:
    """A conversation as its template renders it, and where the answers stand in that. Raises Problem."""

    def __init__(self, template: ChatTemplate, chat: str, renders: dict[tuple[int, bool], Rendered]):
        self.template, self.renders = template, renders
        value = json.loads(chat)
        self.messages: list[Message] = value["messages"]
        self.answers = _answers(self.messages)
        if not self.answers or self.answers[-1] != len(self.messages) - 1:
            raise Problem("is given a conversation that does not end in an answer")
        whole = renders[len(self.messages), False]
        if whole.problem:
            raise Problem(whole.problem)
        self.text = whole.rest
        self.usual = template._shape(False, 1)  # what stands after an answer
        eos = dict(template.special).get("eos_token", "")
        self.eos = next((token for token in template.tokens if token.text == eos), None)
        self.own = Own(END, tuple(token for token in template.tokens if token != self.eos))
        self.thought = self.usual.thought  # begun by the generation prompt
        self.ending = END if template.ending in ("", eos) else template.ending  # as it is spelled in the text

    def pieces(self, conversation: Conversation) -> Pieces:
        before: list[Piece] = []
        at = 0
        for number in range(len(self.answers) - 1) if self.template._every else ():
            try:
                begin, end, ended = self._place(number)
            except Changed:
                if not self.template.mask and number in conversation.unlearnt:
                    raise
                continue  # it bears no loss: a row of which it should is refused
            before += self._prompt(at, begin)
            response, closing = self._answer(conversation, number, begin, end)
            ending = [piece._replace(supervised=True) for piece in self._own_pieces(self.ending)] if ended else []
            answer = join([*response, *closing, *as_last(response, ending)])
            before += self.template._with_loss(answer, answer=True)
            at = end + len(self.ending) * ended
        number = len(self.answers) - 1
        begin, end, _ = self._place(number)
        response, closing = self._answer(conversation, number, begin, end)
        if self.thought:
            learnt = number not in conversation.unlearnt
            closes = CLOSES.rstrip() if self.text.startswith("\n", begin) else CLOSES  # a row's own empty line serves
            thinks = [Piece(self._last_thought(), learnt), *self.own.pieces(closes, supervised=learnt)]
            response = [*(piece._replace(unlearnt=not learnt) for piece in thinks), *response]
        opens = self.template._with_loss(self.own.pieces(self.thought), answer=False)
        return join([*before, *self._prompt(at, begin), *opens]), response, closing

    def refusal(self, conversation: Conversation) -> str | None:
        """Why the conversation cannot be learnt as it is rendered, or None."""
        missing = self._left_out()
        if missing:
            return self.template._no_place(missing)
        try:
            self.pieces(conversation)
        except Empty:  # an earlier answer that is nothing but calls
            if not any(message.get("tool_calls") for message in self.messages):
                raise
            return self.template._no_place("tool calls")
        if self.template.mask and self.template.turns == "all" and not self._is_open():
            for number in range(len(self.answers) - 1):
                try:
                    if number not in conversation.unlearnt:
                        self._place(number)
                except Changed:
                    if self.template._shape(False, 2).changes:  # so it is with all conversations
                        raise ConfigError(self.template._only_last) from None
                    return self.template._only_last
        return None

    def _place(self, number: int) -> tuple[int, int, bool]:
        """Where an answer with what closes it begins and ends, and whether an end-of-text follows."""
        message, is_last = self.answers[number], number == len(self.answers) - 1
        prompt, alone = self.renders[message, True], self.renders[message + 1, False]
        for rendered in (prompt, alone):
            if rendered.problem:
                raise Problem(rendered.problem)
        begin = prompt.common
        if prompt.rest != self.thought or (not is_last and (self.thought or alone.common < begin)):
            if is_last:
                raise Problem("writes a generation prompt that is not what stands before an answer")
            raise Changed(OTHERWISE)
        own = self.text[begin:] if is_last else self.text[begin : alone.common] + alone.rest
        text, ended, _ = own.partition(self.ending)
        if not ended:
            text = text.removesuffix(self.usual.after)
            if self.template.ending and is_last:
                raise Problem(f"does not end this answer with {self.template.ending} as it ends others")
        end = begin + len(text)
        follows = self.text.startswith(self.ending, end)
        closes = bool(self.usual.answer.closing[0].text.strip())
        if not self.text.startswith(text, begin) or (ended and not follows and not closes):
            raise Changed(OTHERWISE)
        if not text and not (is_last and self._is_open()):
            raise Empty("writes nothing for an answer")
        return begin, end, follows

    def _is_open(self) -> bool:
        """Whether the conversation is to be answered: its last answer is empty."""
        last = self.messages[-1]
        return not (last["content"] or last.get("tool_calls") or last.get(self.template._reasoning))

    def _last_thought(self) -> str:
        """The last answer's reasoning, which it has of its own or before its text."""
        last = self.messages[-1]
        before, ends, _ = last["content"].partition(CLOSES.strip())
        thought: str = last.get(self.template._reasoning) or (before if ends else "")
        return OPENS.sub("", thought, count=1).strip("\n")

    def _thinks(self) -> str:
        """What stands before the last answer's text though the template leaves it out."""
        return f"{self.thought}{self._last_thought()}{CLOSES}" if self.thought else ""

    def _prompt(self, begin: int, end: int) -> list[Piece]:
        return self.template._with_loss(join(self._own_pieces(self.text[begin:end])), answer=False)

    def _own_pieces(self, text: str) -> list[Piece]:
        """A part of the rendering, with special tokens and ends where the template wrote them."""
        known = Piece(self.eos.text, False, special=True) if self.eos else Piece("", False, end=True)
        return [
            known if piece.end else piece if piece.special else piece._replace(text=self._shown(piece.text))
            for piece in self.own.pieces(text)
        ]

    def _shown(self, text: str) -> str:
        return shown(text, self.template.tokens)

    def _answer(self, conversation: Conversation, number: int, begin: int, end: int) -> tuple[list[Piece], list[Piece]]:
        """The parts of an answer, and what closes it."""
        text, closing = self.text[begin:end], self.usual.answer.closing[0].text
        closing = closing if text.endswith(closing) else ""
        parts = self._own_pieces(text.removesuffix(closing))
        marks = unlearnt(conversation, number)
        spelled = "".join(part.text for part in parts)
        at = self._offset(spelled, self.messages[self.answers[number]]["content"]) if marks else 0
        response: list[Piece] = []
        for part in parts:
            pieces = answer_pieces(part.text, True, marks, at)
            response += [piece._replace(end=part.end, special=part.special) for piece in pieces]
            at += len(part.text)
        return response, as_last(response, [Piece(closing, True)] if closing else [])

    def _offset(self, text: str, content: str) -> int:
        """What to take off a place in an answer's content for its place in the rendered text."""
        for kept in (content, content.strip()):
            if text.endswith(kept) or text.count(kept) == 1:
                return content.index(kept) - text.rindex(kept)
        raise Problem(
            "writes an answer in another way than as it stands, and a part of it is marked as not to be learnt"
        )

    def _left_out(self) -> str | None:
        """What the conversation has and its rendering has not, or None.

        What a template leaves out of an earlier turn by its own rule is fine, be it reasoning.
        """
        last = self.messages[-1]
        try:
            begin, _, _ = self._place(len(self.answers) - 1)
        except Empty:
            return "tool calls" if last.get("tool_calls") else "answer"
        for message in self.messages:
            where = self._thinks() + self._shown(self.text[begin:] if message is last else self.text)
            names = [call["function"]["name"] for call in message.get("tool_calls", ())]
            given = [text for call in message.get("tool_calls", ()) for text in _leaves(call["function"]["arguments"])]
            if not _all_in([*names, *given], where):
                return "tool calls"
            if not _all_in(self._parts(message, every=message is last), where):
                if names:
                    return "text beside a tool call"
                whole = len(self._parts(message, every=True)) == 1
                what = {"tool": "tool results", "assistant": "answer" if whole else "reasoning"}
                return what.get(message["role"], message["role"])
        if not _all_in([last.get(self.template._reasoning, "")], self._thinks() + self._shown(self.text[begin:])):
            return "reasoning"
        return None

    def _parts(self, message: Message, *, every: bool) -> list[str]:
        """A message's text, cut where the template may cut it; of an earlier answer what stands last."""
        inside = self.template._looks.inside
        parts = re.split("|".join(map(re.escape, inside)), message["content"]) if inside else [message["content"]]
        return parts if every or message["role"] != "assistant" else parts[-1:]


def _leaves(value: Any) -> Iterator[str]:
    """The texts in a call's arguments, names too."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield name
            yield from _leaves(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _leaves(inner)
    elif isinstance(value, str):
        yield value


def _all_in(texts: Iterable[str], where: str) -> bool:
    """Whether each text stands there, as it is or as a string of JSON, white space around it aside."""
    bare = filter(None, (text.strip() for text in texts))
    return all(text in where or json.dumps(text, ensure_ascii=False)[1:-1] in where for text in bare)
