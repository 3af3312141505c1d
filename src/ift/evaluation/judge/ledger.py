"""The judge's replies so far, and what more may cost. A reply is on disk before it is used: none is paid for twice."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ift.errors import refused_by_disk
from ift.evaluation.journal import Journal
from ift.evaluation.judge.bodies import reply_from_line
from ift.evaluation.judging import Reply, Request, digest


class Ledger(Journal):
    """verdicts.jsonl: one line for each reply, under a key made of the judge's identity and the request."""

    def __init__(self, path: Path, identities: Sequence[Mapping[str, Any]]):
        """identities: of one and the same judge, the first for new lines. Raises MachineError as Journal does."""
        self.identities = identities
        self.replies: dict[str, Reply] = {}
        super().__init__(path)

    def read_line(self, line: bytes) -> dict[str, Any] | None:
        value = super().read_line(line)
        try:
            if value is not None:
                self.replies[value["key"]] = reply_from_line(value)
        except (ValueError, KeyError, TypeError):
            return None
        return value

    def get(self, request: Request) -> Reply | None:
        known = (self.replies.get(_key(identity, request)) for identity in self.identities)
        return next((reply for reply in known if reply is not None), None)

    def add(self, request: Request, reply: Reply) -> None:
        key = _key(self.identities[0], request)
        more = {"first": reply.first, "end": reply.end, "thoughts": reply.thoughts, "instead": reply.instead}
        line = {
            "request": request.digest,
            "text": reply.text,
            "prompt_tokens": reply.prompt_tokens,
            "reply_tokens": reply.reply_tokens,
            **{name: value for name, value in more.items() if value},
            "unix_time": round(time.time(), 3),
        }
        try:
            self.put(key, line)
        except OSError as error:
            raise refused_by_disk(error, str(self.path)) from error
        self.replies[key] = reply


def _key(identity: Mapping[str, Any], request: Request) -> str:
    return digest([identity, request.digest, request.row])


class OverBudgetError(Exception):
    """The next request might cost more than is left."""


@dataclass
class Budget:
    """What was spent and what is in flight, in dollars, kept under a limit. Prices are of a million tokens."""

    price_in: float
    price_out: float
    limit: float
    max_tokens: int
    prompt_tokens: int = 0
    reply_tokens: int = 0
    requests: int = 0
    spent: float = 0.0
    held: float = 0.0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def estimate(self, request: Request) -> float:
        """The most that a request costs, as long as a token has three bytes or more."""
        return self.price(estimated_tokens(request), self.max_tokens)

    def hold(self, request: Request) -> float:
        """Set aside what a request may cost. Raises OverBudgetError if that is over the limit."""
        cost = self.estimate(request)
        with self.lock:
            if self.spent + self.held + cost > self.limit + 1e-12:
                raise OverBudgetError
            self.held += cost
            self.requests += 1
        return cost

    def settle(self, held: float, reply: Reply | None, *, maybe_paid: bool = False) -> None:
        """Put the real cost in the place of what was held; without a reply, all of it if it may have been paid."""
        with self.lock:
            self.held -= held
            if reply is None:
                self.spent += held if maybe_paid else 0.0
                return
            counted = bool(reply.prompt_tokens)
            self.spent += self.price(reply.prompt_tokens, reply.reply_tokens) if counted else held
            self.prompt_tokens += reply.prompt_tokens
            self.reply_tokens += reply.reply_tokens

    def price(self, prompt_tokens: int, reply_tokens: int) -> float:
        return (prompt_tokens * self.price_in + reply_tokens * self.price_out) / 1e6

    def totals(self) -> dict[str, Any]:
        """For results.json."""
        return {
            "requests": self.requests,
            "prompt_tokens": self.prompt_tokens,
            "reply_tokens": self.reply_tokens,
            "cost": round(self.spent, 6),
        }


def estimated_tokens(request: Request) -> int:
    """Of the prompt, on the high side: tokens of common vocabularies have three bytes or more on average."""
    return sum(len(text.encode()) // 3 + 8 for _, text in request.messages)
