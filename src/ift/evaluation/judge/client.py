"""Requests to a judge: from the ledger where they were answered before, else from the server, with patience and within
the budget, several at a time.
"""

from __future__ import annotations

import math
import random
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

from ift.errors import ConfigError, MachineError, one_line
from ift.evaluation.judge.ledger import Budget, Ledger, OverBudgetError, estimated_tokens
from ift.evaluation.judge.problems import HOPELESS, REFUSED, cure_of, most_common, problem_of
from ift.evaluation.judge.servers import ChatServer, RefusedError, address, connect, over_openai_protocol
from ift.evaluation.judge.transport import NoReplyError, is_here
from ift.evaluation.judging import OnlyPlannedError, Reply, ReplyOptions, Request
from ift.progress import progress
from ift.settings import JudgeSettings

FIRST_WAIT, LONGEST_WAIT = 0.5, 60.0  # seconds before a request is tried again; doubled each time
LONGEST_RETRY_AFTER = 600.0  # a server that asks for more is not waited for
DOWN = 3  # requests in a row that stay without reply: the server is down
AS_SET = ReplyOptions()


def budget_of(settings: JudgeSettings) -> Budget:
    """Raises ConfigError where tokens may cost something and their price is not given, except for a dry run."""
    prices = settings.price_in, settings.price_out
    if None in prices and not settings.dry_run and settings.server == "openai" and not is_here(address(settings)):
        raise ConfigError(
            "judge.price_in, judge.price_out: not set (dollars for a million tokens; 0 for a server that costs nothing)"
        )
    return Budget(prices[0] or 0.0, prices[1] or 0.0, settings.max_cost, settings.max_tokens)


class Dispatcher:
    """Sends one request at a time for each thread that calls `reply`; all share its ledger, budget and patience."""

    def __init__(self, server: ChatServer, ledger: Ledger, budget: Budget, *, retries: int):
        self.server, self.ledger, self.budget, self.retries = server, ledger, budget, retries
        self.stop = threading.Event()
        self.without_reply = 0  # requests in a row that were given up
        self.last_problem = ""

    def reply(self, request: Request) -> Reply | None:
        """The reply, or None where there is none to be had now. Raises RefusedError, OverBudgetError, IftError."""
        known = self.ledger.get(request)
        if known is not None:
            return known
        for attempt in range(self.retries + 1):
            if self.stop.is_set():
                return None
            held = self.budget.hold(request)
            try:
                reply = self.server.ask(request)
            except NoReplyError as error:
                self.budget.settle(held, None, maybe_paid=error.maybe_paid)
                self.last_problem = one_line(str(error), 90)
                pause = min(FIRST_WAIT * 2**attempt, LONGEST_WAIT) * random.uniform(0.75, 1.25)
                pause = pause if error.wait is None else error.wait
                if attempt == self.retries or pause > LONGEST_RETRY_AFTER:
                    break
                self.stop.wait(pause)
                continue
            except RefusedError as error:
                self.budget.settle(held, None, maybe_paid=error.maybe_paid)
                self.without_reply = 0
                raise
            except BaseException:
                self.budget.settle(held, None)
                raise
            self.ledger.add(request, reply)
            self.budget.settle(held, reply)
            self.without_reply = 0
            return reply
        self.without_reply += 1
        if self.without_reply >= DOWN:
            self.stop.set()
        return None

    def in_parallel(self, work: Callable[[int], None], n: int, *, concurrency: int) -> None:
        """work(0) ... work(n - 1), several at a time. The first error stops all, as does Ctrl-C; replies are kept."""
        pool = ThreadPoolExecutor(concurrency, thread_name_prefix="judge")
        futures: Sequence[Future[None]] = [pool.submit(work, i) for i in range(n)]
        try:
            done, _ = wait(futures, return_when=FIRST_EXCEPTION)
            for future in done:
                future.result()
        finally:
            self.stop.set()
            pool.shutdown(wait=True, cancel_futures=True)


class RecordedJudge:
    """`ift.evaluation.judging.JudgeClient`: replies are kept in verdicts.jsonl of a folder, within judge.max_cost."""

    def __init__(self, folder: Path, settings: JudgeSettings, *, over_openai: bool = False):
        """over_openai: speak OpenAI's protocol to an Ollama server too. Raises ConfigError and MachineError."""
        self.settings = over_openai_protocol(settings) if over_openai else settings
        self.servers = {AS_SET: connect(self.settings)}
        self.budget = budget_of(self.settings)
        self.ledger = Ledger(folder / "verdicts.jsonl", self.servers[AS_SET].identities)
        self.refused, self.problem = 0, ""
        self.problems: Counter[str] = Counter()
        self.said = 0  # replies so far with text

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        for server in self.servers.values():
            server.close()
        self.ledger.close()

    @property
    def cure(self) -> str:
        return cure_of(most_common(self.problems), self.settings, self.budget.max_tokens)

    def price(self, prompt_tokens: int, reply_tokens: int) -> float:
        return self.budget.price(prompt_tokens, reply_tokens)

    def describe(self, options: ReplyOptions = AS_SET) -> dict[str, Any]:
        server = self._server(options)
        changes = {"changes": dict(server.changes)} if server.changes else {}
        return {"judge": {**server.identities[0], **changes}, **self.budget.totals()}

    def _server(self, options: ReplyOptions) -> ChatServer:
        if options not in self.servers:
            temperature = self.settings.temperature  # None: not sent, whoever asks for it
            if temperature is not None and options.temperature is not None:
                temperature = options.temperature
            changed = replace(self.settings, max_tokens=self._max_tokens(options), temperature=temperature)
            self.servers[options] = connect(changed, logprobs=options.logprobs)
        return self.servers[options]

    def _max_tokens(self, options: ReplyOptions) -> int:
        """As an evaluation asks, or more where the settings give more: a judge that thinks first needs it."""
        if options.max_tokens is None or options.logprobs is not None:
            return options.max_tokens or self.settings.max_tokens
        return max(options.max_tokens, self.settings.max_tokens)

    def replies(self, requests: Sequence[Request], options: ReplyOptions = AS_SET) -> list[Reply | None]:
        settings, budget, server = self.settings, self.budget, self._server(options)
        budget.max_tokens, self.ledger.identities = self._max_tokens(options), server.identities
        waiting = list(dict.fromkeys(requests))
        missing = [request for request in waiting if self.ledger.get(request) is None]
        self._check_cost(missing)
        replies: dict[Request, Reply | None] = {}
        dispatcher = Dispatcher(server, self.ledger, budget, retries=settings.retries)

        def work(number: int) -> None:
            request = waiting[number]
            try:
                reply = dispatcher.reply(request)
            except RefusedError as error:
                self.problem, replies[request] = one_line(str(error), 100), None
                self._count(f"{REFUSED}: {error}", dispatcher)
                return
            except OverBudgetError:
                dispatcher.last_problem = f"judge.max_cost={settings.max_cost:g} is reached"
                dispatcher.stop.set()
                return
            if reply is not None:
                replies[request] = reply
                self.said += bool(reply.text)
                self._count(problem_of(reply), dispatcher)
                advance(1)

        with progress("judged" if missing else None, len(waiting), "verdicts") as advance:
            dispatcher.in_parallel(work, len(waiting), concurrency=settings.concurrency)
        if self._is_hopeless():
            worst = one_line(most_common(self.problems), 100)
            raise MachineError(
                f"judge: none of its first {self.problems.total()} replies has text: {worst} ({self.cure})"
            )
        without = sum(request not in replies for request in waiting)
        if without:
            raise MachineError(
                f"judge: {without} of {len(waiting)} requests got no reply: {dispatcher.last_problem} "
                "(the same command goes on)"
            )
        self.refused += sum(reply is None for reply in replies.values())
        return [replies[request] for request in requests]

    def _count(self, problem: str, dispatcher: Dispatcher) -> None:
        self.problems[problem] += 1
        if self._is_hopeless():
            dispatcher.stop.set()

    def _is_hopeless(self) -> bool:
        return not self.said and min(self.problems.total(), self.budget.requests) >= HOPELESS

    def _check_cost(self, missing: Sequence[Request]) -> None:
        """Print what is to be sent. Raises OnlyPlannedError for a dry run, ConfigError where it may cost too much."""
        cost = sum(map(self.budget.estimate, missing))
        if missing:
            tokens = sum(map(estimated_tokens, missing))
            price = f", ${cost:.4f} at most" if cost else ""
            print(f"judge     requests: {len(missing):,}, tokens to send: about {tokens:,}{price}", flush=True)
        if self.settings.dry_run:
            raise OnlyPlannedError
        total, most = self.budget.spent + cost, self.settings.max_cost
        if total > most:
            raise ConfigError(
                f"judge.max_cost={most:g}: this may cost ${total:.2f} "
                f"(judge.max_cost={math.ceil(total)} allows it; eval.limit=N asks less)"
            )
