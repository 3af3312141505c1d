"""A server under load that is as bad as it gets: python -m tests.serving_soak RUN [--seconds 600] [--clients 32]

Starts `ift serve RUN`, asks some questions one at a time, and then the same ones from many clients at once: whole and
as streams, with and without log-probabilities, some of them leaving in the middle, some reading a few bytes a second.
Each greedy answer must be the one that was given alone. The last line is JSON: answers by status, wrong ones, memory.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import time
from collections import Counter
from pathlib import Path
from typing import Any

import aiohttp

QUESTIONS = [f"Question {number}: {'and ' * (number % 9)}what then?" for number in range(40)]
FINE = {200, 429, 503}


def body(question: str, max_tokens: int, **more: Any) -> dict[str, Any]:
    message = {"role": "user", "content": question}
    return {"model": "one", "messages": [message], "temperature": 0, "max_tokens": max_tokens, **more}


async def text_of(answer: aiohttp.ClientResponse, *, stream: bool, pause: float = 0.0) -> tuple[str, bool]:
    """The text of an answer, and whether it came to its end."""
    if not stream:
        return (await answer.json())["choices"][0]["message"]["content"], True
    text, ended = "", False
    async for line in answer.content:
        if pause:
            await asyncio.sleep(pause)
        if line.startswith(b"data: [DONE]"):
            return text, ended
        if line.startswith(b"data: "):
            (choice,) = json.loads(line[6:])["choices"]
            text, ended = text + (choice["delta"].get("content") or ""), ended or choice["finish_reason"] is not None
    return text, False


class Soak:
    def __init__(
        self, url: str, *, seconds: float, clients: int, slow: int, max_tokens: int, questions: int = 40, seed: int = 0
    ):
        self.questions = QUESTIONS[:questions]
        self.url, self.clients, self.slow, self.max_tokens = f"{url}/chat/completions", clients, slow, max_tokens
        self.seconds, self.random = seconds, random.Random(seed)
        self.statuses: Counter[int] = Counter()
        self.left = self.wrong = self.cut = 0
        self.alone: dict[str, str] = {}

    async def run(self) -> None:
        timeout = aiohttp.ClientTimeout(total=600)
        async with aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0)) as session:
            for question in self.questions:
                async with session.post(self.url, json=body(question, self.max_tokens)) as answer:
                    self.alone[question] = (await text_of(answer, stream=False))[0]
            self.end = time.monotonic() + self.seconds
            fast = (self._client(session, leaves=0.05) for _ in range(self.clients))
            await asyncio.gather(*fast, *(self._client(session, pause=0.05) for _ in range(self.slow)))

    async def _client(self, session: aiohttp.ClientSession, *, leaves: float = 0.0, pause: float = 0.0) -> None:
        while time.monotonic() < self.end:
            question, stream = self.random.choice(self.questions), bool(pause) or self.random.random() < 0.5
            more = {"logprobs": True, "top_logprobs": 3} if self.random.random() < 0.2 else {}
            asked = self._ask(session, body(question, self.max_tokens, stream=stream, **more), pause)
            if self.random.random() < leaves:
                try:
                    await asyncio.wait_for(asked, self.random.random() * 0.5)
                except TimeoutError:
                    self.left += 1
                continue
            try:
                status, text, ended = await asked
            except aiohttp.ClientError:
                self.cut += 1
                continue
            self.statuses[status] += 1
            if status == 200:
                self.cut += not ended
                self.wrong += text != self.alone[question]
            elif status in (429, 503):
                await asyncio.sleep(0.2)

    async def _ask(self, session: aiohttp.ClientSession, value: Any, pause: float) -> tuple[int, str, bool]:
        async with session.post(self.url, json=value) as answer:
            if answer.status != 200:
                await answer.read()
                return answer.status, "", True
            return answer.status, *await text_of(answer, stream=value["stream"], pause=pause)

    def report(self) -> dict[str, Any]:
        return {"statuses": dict(self.statuses), "wrong": self.wrong, "cut": self.cut, "left": self.left}


def soak(server: Any, **options: Any) -> dict[str, Any]:
    """What happened, with the server's memory after a third of the time as long again, and after all of it."""
    warm = Soak(server.url, **{**options, "seconds": options["seconds"] / 3})
    asyncio.run(warm.run())
    before = server.memory()
    full = Soak(server.url, **options, seed=1)
    asyncio.run(full.run())
    after = server.memory()
    found = full.report()
    return {**found, "memory": [before, after], "drift": round(after / before - 1, 4)}


def main() -> int:
    from tests.apps.serving.conftest import Server  # a folder without __init__.py is a package too

    parser = argparse.ArgumentParser(description="a server under load")
    parser.add_argument("run", type=Path)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--slow", type=int, default=100)
    parser.add_argument("--max-tokens", type=int, default=40)
    arguments = parser.parse_args()
    server = Server(f"one={arguments.run}")
    found = soak(
        server,
        seconds=arguments.seconds,
        clients=arguments.clients,
        slow=arguments.slow,
        max_tokens=arguments.max_tokens,
    )
    code, output = server.end()
    found |= {"exit": code, "tracebacks": output.count("Traceback")}
    print(json.dumps(found))
    fine = set(found["statuses"]) <= FINE and not (found["wrong"] or found["cut"] or code or found["tracebacks"])
    return 0 if fine else 1


if __name__ == "__main__":
    raise SystemExit(main())
