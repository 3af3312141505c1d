"""`ift serve` under load: tokens per second of many at once against one at a time, and how long the first token takes.

python benchmarks/serving.py                                             32 at once, a model of the demo's size
python benchmarks/serving.py --model RUN                                 a model of one's own
python benchmarks/serving.py --model FOLDER --gguf FILE --python PYTHON  beside llama.cpp's server, 16 at once

Without --model the weights are fresh ones whose answers wander, so that none ends before its length: a trained demo
says five tokens.

alone     requests one after the other
together  the same requests, so many clients at once, each sending its next as soon as it has an answer
beside    llama.cpp's own server on the same weights and requests, by PYTHON's package xllamacpp

All are streams of greedy answers. Tokens are those that the servers count. Wall time is what a person sees, and means
something on an idle machine alone (close everything else; the load is printed); seconds of processor time of the server
per token mean something on a busy one too.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
from plan import make_plan
from side_by_side import environment

SUBJECTS = ("a lighthouse", "the number seven", "rain", "an old map", "two brothers", "bread", "a chess game", "Lisbon")
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass
class Measured:
    """firsts: seconds until the first token of each answer."""

    tokens: int = 0
    seconds: float = 0.0
    processor: float = 0.0
    firsts: list[float] = field(default_factory=list)

    def line(self, name: str) -> str:
        firsts = sorted(self.firsts)
        late = firsts[min(len(firsts) - 1, int(len(firsts) * 0.95))]
        return (
            f"{name:<10} {self.tokens:>6} tokens  {self.tokens / self.seconds:>8.1f} tokens/s  "
            f"{1000 * self.processor / self.tokens:>7.2f} ms of processor a token  "
            f"first token {statistics.median(firsts):.3f} s, 95 % within {late:.3f} s"
        )


class Running:
    """A server in a process of its own; a context manager."""

    def __init__(self, command: list[str], port: int, *, own: bool):
        self.command, self.port, self.own = command, port, own

    def __enter__(self) -> Running:
        self.process = subprocess.Popen(self.command, stdout=subprocess.DEVNULL, env=environment(own=self.own))
        return self

    def __exit__(self, *args: object) -> None:
        self.process.terminate()
        self.process.wait(60)

    def processor(self) -> float:
        """Seconds of processor time of the process so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    async def ready(self, session: aiohttp.ClientSession) -> str:
        """The first model's name, once the server answers."""
        while self.process.poll() is None:
            try:
                async with session.get(f"http://127.0.0.1:{self.port}/v1/models") as answer:
                    if answer.status == 200:  # llama.cpp's answers 503 while it loads
                        return (await answer.json())["data"][0]["id"]
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.5)
        raise SystemExit(f"{self.command[0]} has ended: {self.process.returncode}")

    async def measure(
        self, session: aiohttp.ClientSession, model: str, questions: list[str], at_once: int, size: int
    ) -> Measured:
        waiting, measured = list(reversed(questions)), Measured()

        async def client() -> None:
            while waiting:
                await self._ask(session, model, waiting.pop(), size, measured)

        begun, used = time.perf_counter(), self.processor()
        await asyncio.gather(*(client() for _ in range(at_once)))
        measured.seconds, measured.processor = time.perf_counter() - begun, self.processor() - used
        return measured

    async def _ask(
        self, session: aiohttp.ClientSession, model: str, question: str, size: int, measured: Measured
    ) -> None:
        value = {"model": model, "max_tokens": size, "temperature": 0, "stream": True}
        value["stream_options"] = {"include_usage": True}
        value["messages"] = [{"role": "user", "content": question}]
        begun, first = time.perf_counter(), True
        async with session.post(f"http://127.0.0.1:{self.port}/v1/chat/completions", json=value) as answer:
            assert answer.status == 200, await answer.text()
            async for line in answer.content:
                chunk = json.loads(line[6:]) if line.startswith(b"data: {") else {"choices": []}
                if first and any(choice["delta"].get("content") for choice in chunk["choices"]):
                    measured.firsts.append(time.perf_counter() - begun)
                    first = False
                measured.tokens += (chunk.get("usage") or {}).get("completion_tokens", 0)


async def measured_of(running: Running, ways: list[tuple[str, list[str], int]], size: int) -> list[Measured]:
    apart = aiohttp.TCPConnector(limit=0, force_close=True)  # llama.cpp's closes those that wait
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None), connector=apart) as session:
        model = await running.ready(session)
        await running.measure(session, model, ["Warm up."], 1, 4)
        return [await running.measure(session, model, asked, at_once, size) for _, asked, at_once in ways]


def fresh(folder: Path) -> str:
    """A model of conf/model/nano's size whose matrices are large enough that greedy answers wander."""
    sizes = {"n_layer": 3, "n_head": 4, "n_embd": 128, "context_length": 1024}
    once = {"batch_size": 8, "warmup": 0, "steps": 1, "rounds": 1, "lr": 1e-3, "seed": 1, "scale": 4.0}
    make_plan(folder / "fresh", rows=None, tokenizer="demo", sizes=sizes, **once)
    return str(folder / "fresh" / "model")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="what `ift serve` takes (a fresh model of the demo's size)")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--at-once", type=int, help="clients (32; 16 beside another server)")
    parser.add_argument("--requests", type=int, default=64)
    parser.add_argument("--alone", type=int, default=8, help="of them one at a time (%(default)s)")
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--gguf", type=Path, help="the same weights for llama.cpp")
    parser.add_argument("--python", default=sys.executable, help="of an environment that has xllamacpp")
    parser.add_argument("--port", type=int, default=8655)
    arguments = parser.parse_args()
    at_once, size = arguments.at_once or (16 if arguments.gguf else 32), arguments.new_tokens
    questions = [f"Write a long story about {SUBJECTS[n % 8]}, in {n + 3} chapters." for n in range(arguments.requests)]
    ways = [("alone", questions[: arguments.alone], 1), ("together", questions, at_once)]
    port = str(arguments.port)
    print(f"load      {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors before anything was started", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        model = arguments.model or fresh(Path(folder))
        served = [sys.executable, "-m", "ift.cli", "serve", model, "--port", port, "--accelerator", "cpu"]
        with Running([*served, "--precision", arguments.precision], arguments.port, own=True) as running:
            alone, together = asyncio.run(measured_of(running, ways, size))
    print(alone.line("alone"), together.line("together"), sep="\n", flush=True)
    wall = together.tokens / together.seconds / (alone.tokens / alone.seconds)
    processor = alone.processor / alone.tokens / (together.processor / together.tokens)
    print(
        f"{at_once} at once give {wall:.1f} times the tokens of one at a time; by processor time {processor:.1f} times"
    )
    if arguments.gguf:
        script = Path(__file__).parent / "contestants" / "llama_server.py"
        other = [arguments.python, str(script), str(arguments.gguf), port, str(at_once)]
        with Running(other, arguments.port, own=False) as running:
            (beside,) = asyncio.run(measured_of(running, ways[1:], size))
        print(beside.line("beside"))


if __name__ == "__main__":
    main()
