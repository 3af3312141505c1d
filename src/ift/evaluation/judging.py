"""A judge as the engines see it: requests in, replies out. Which server replies, and how, only judge/ knows.

`engines.py` gives each engine the two functions below, so that no engine imports the judge's.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, Protocol, Self, TypeAlias

from ift.settings import JudgeSettings

if TYPE_CHECKING:  # it reads files of many kinds, and what a command lacks is told before any is read
    from ift.evaluation.answers import Answers

Messages = tuple[tuple[str, str], ...]  # (role, text)


@dataclass(frozen=True)
class Request:
    messages: Messages
    row: int | None = None  # only for stored replies, which may know no more than the place of their row

    @property
    def digest(self) -> str:
        return digest(self.messages)


@dataclass(frozen=True)
class Reply:
    """text: what the judge says, without the thoughts of a model that thinks first; "" where it says nothing."""

    text: str
    prompt_tokens: int = 0
    reply_tokens: int = 0
    first: tuple[tuple[str, float], ...] = ()  # what its first token might have been, with log probabilities
    end: str = ""  # why it ends: stop, length, content_filter, tool_calls, or a word of the server's own
    thoughts: str = ""
    instead: str = ""  # what came in the place of text: a refusal, or calls of tools as JSON

    @property
    def cut_off(self) -> bool:
        """The judge had no more tokens, so its last word or number may be half of one."""
        return self.end == "length"


@dataclass(frozen=True)
class ReplyOptions:
    """How the judge is to reply where that differs from its settings; None: as in the settings."""

    max_tokens: int | None = None  # judge.max_tokens where that is more, unless only the first tokens count (logprobs)
    temperature: float | None = None
    logprobs: int | None = None  # so many of the likeliest first tokens come with the reply


class OnlyPlannedError(Exception):
    """judge.dry_run=true: the plan was printed, and nothing was sent."""


class JudgeClient(Protocol):
    """An open connection to a judge. Every reply is on disk before it is returned, and none is paid for twice."""

    refused: int  # requests so far that the judge refused to answer
    problem: str  # why it refused the last one
    said: int  # replies so far with any text

    @property
    def cure(self) -> str:
        """What most likely helps where no reply says anything, by all replies so far."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *error: object) -> None: ...

    def replies(self, requests: Sequence[Request], options: ReplyOptions = ...) -> list[Reply | None]:
        """A reply to each, in order; None where the judge refuses. Equal requests are sent once.

        Raises ConfigError where this may cost more than judge.max_cost, OnlyPlannedError for a dry run, and
        MachineError where replies are missing; those that came are kept.
        """
        ...

    def price(self, prompt_tokens: int, reply_tokens: int) -> float:
        """Dollars."""
        ...

    def describe(self, options: ReplyOptions = ...) -> dict[str, Any]:
        """For results.json: who judged, how many requests and tokens it took, what it cost."""
        ...


class OpenJudge(Protocol):
    def __call__(self, folder: Path, settings: JudgeSettings, *, over_openai: bool = False) -> JudgeClient:
        """Replies are kept in folder/verdicts.jsonl. over_openai: use OpenAI's protocol with an Ollama server too.

        Raises ConfigError and MachineError for what is missing, before anything is sent.
        """
        ...


# judge one run's answers beside those that settings.against names, and keep the verdicts in the run folder; None for a
# dry run
JudgePairs: TypeAlias = "Callable[[Answers, JudgeSettings], Mapping[str, Any] | None]"


def no_judge(*_: Any, **__: Any) -> NoReturn:
    """In the place of both functions where a bench was built without them."""
    raise RuntimeError("this bench has no judge (ift.evaluation.engines.open_bench gives it one)")


def digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
