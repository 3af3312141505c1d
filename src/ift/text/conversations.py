"""A conversation: what a prompt template renders. It knows no file, no template and no tokens."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

# the names that formats and programs give to the three roles, in small letters
ROLES = {
    **dict.fromkeys(("system", "developer", "sys"), "system"),
    **dict.fromkeys(("user", "human", "prompter", "usr", "customer"), "user"),
    **dict.fromkeys(("assistant", "gpt", "model", "bot", "chatgpt", "chatbot", "ai", "agent", "llm"), "assistant"),
    **dict.fromkeys(("bing", "bard", "claude", "gemini", "gpt4", "gpt-4"), "assistant"),
}
# and to messages that are not said by one of them: a tool's result, and an assistant's call of a tool
TOOL_ROLES = {
    **dict.fromkeys(("tool", "function", "observation", "ipython", "environment"), "tool"),
    **dict.fromkeys(("tool_response", "tool_result", "function_response", "function_result"), "tool"),
    **dict.fromkeys(("function_call", "tool_call"), "call"),
}
Message = tuple[str, str]  # role (system, user or assistant) and text


@dataclass(frozen=True, slots=True)
class Turn:
    """One instruction and its response. Only the first turn of a conversation can have a system text."""

    instruction: str
    input: str
    output: str
    system: str = ""
    first: bool = True


@dataclass(frozen=True, slots=True)
class Conversation:
    """The last instruction and its response, the output, and what came before. To be answered: the output is empty.

    unlearnt        answers that stand in the text and bear no loss, by number: 0 is the oldest, len(history) the output
    unlearnt_parts  (answer, begin, end): characters of an answer that bear no loss
    chat            the messages as JSON, {"messages": [...], "tools": [...]}, where they are more than the texts of
                    user and assistant in turn: tools, calls of them, their results, reasoning. A chat template renders
                    these; answers are then numbered by the assistant's messages, and the fields above hold the texts
                    that a person reads and that rows are compared by.
    """

    instruction: str
    input: str = ""
    output: str = ""
    system: str = ""
    history: tuple[tuple[str, str], ...] = ()  # (instruction, output) of the earlier turns, oldest first
    unlearnt: tuple[int, ...] = ()
    unlearnt_parts: tuple[tuple[int, int, int], ...] = ()
    chat: str = ""

    def turns(self) -> list[Turn]:
        """Oldest first; a conversation without a history is one turn."""
        turns = [(instruction, "", output) for instruction, output in self.history]
        turns.append((self.instruction, self.input, self.output))
        return [Turn(*turn, "" if i else self.system, not i) for i, turn in enumerate(turns)]

    def without_system(self) -> Conversation:
        """The same with its system text before the first instruction, for a template that has no place for one."""
        if not self.system:
            return self
        if not self.history:
            return replace(self, instruction=f"{self.system}\n\n{self.instruction}", system="")
        (instruction, output), *later = self.history
        return replace(self, history=((f"{self.system}\n\n{instruction}", output), *later), system="")


def role_of(name: str, number: int) -> str:
    """The role of message `number` by any of its names, in any case: system, user, assistant, tool or call (of a tool).

    Raises ValueError where it is none of these.
    """
    small = name.strip().lower()
    role = ROLES.get(small) or TOOL_ROLES.get(small.replace("-", "_").replace(" ", "_"))
    if role is None:
        raise ValueError(f"message {number} is of {name[:30]!r}, not of system, user or assistant")
    return role


def conversation_of(messages: Sequence[Message], *, answered: bool = False) -> Conversation:
    """Messages as a conversation: a system text or none, then user and assistant in turn.

    answered: the last message is the assistant's and becomes the output. Else it is the user's, and is to be answered.
    Raises ValueError, with the reason as the end of a sentence, where they are no such conversation.
    """
    system = messages[0][1] if messages and messages[0][0] == "system" else ""
    turns = messages[1:] if messages and messages[0][0] == "system" else messages
    roles, texts = [role for role, _ in turns], [text for _, text in turns]
    pairs, left = divmod(len(roles), 2)
    if not roles or roles != ["user", "assistant"] * pairs + ["user"] * left or answered == bool(left):
        shown, last = ", ".join(roles[:5]) or "none", "assistant" if answered else "user"
        raise ValueError(f"turns are {shown}, not user and assistant in turn, {last} last")
    output = texts.pop() if answered else ""
    history = tuple(zip(texts[:-1:2], texts[1:-1:2], strict=True))
    return Conversation(texts[-1], output=output, system=system, history=history)


def join_neighbours(messages: Iterable[Message]) -> list[Message]:
    """Messages of one role that follow each other as one message, with an empty line between their texts."""
    joined: list[Message] = []
    for role, text in messages:
        if joined and joined[-1][0] == role:
            joined[-1] = (role, f"{joined[-1][1]}\n\n{text}")
        else:
            joined.append((role, text))
    return joined
