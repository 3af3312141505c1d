"""A server in a process of its own, with two tiny models whose answers vary; a token for every byte."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ift.apps.serving.models import Served
from ift.apps.speaker import ModelPlace
from tests.running import ROOT, clean_environment

CONTEXT = 256


class Server:
    """`ift serve` in a process of its own, from the moment on that it listens."""

    def __init__(self, *words: str, **environment: str):
        handle, name = tempfile.mkstemp(prefix="ift-serve-")  # no pipe: one that is full holds the server up
        self.output = Path(name)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "ift.cli", "serve", *words, "--port", "0", "--accelerator", "cpu"],
            cwd=ROOT,
            env={**clean_environment(), "PYTHONPATH": str(ROOT / "src"), **environment},
            stdout=handle,
            stderr=subprocess.STDOUT,
        )
        os.close(handle)
        while not (line := next((line for line in self.lines() if line.startswith("serving")), "")):
            assert self.process.poll() is None, "".join(self.lines())
            time.sleep(0.05)
        self.port = int(line.split("/v1")[0].rpartition(":")[2])

    def lines(self) -> list[str]:
        """What it printed so far, in whole lines."""
        text = self.output.read_text()
        return [line for line in text.splitlines(keepends=True) if line.endswith("\n")]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def ask(self, path: str, body: Any = None, *, timeout: float = 60, **headers: str) -> tuple[int, Any]:
        """Status and JSON value of an answer. body: None for GET; bytes as they are."""
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        url = f"http://127.0.0.1:{self.port}{path}"
        request = urllib.request.Request(url, data, {"Content-Type": "application/json", **named})
        try:
            with urllib.request.urlopen(request, timeout=timeout) as answer:
                status, content = answer.status, answer.read()
        except urllib.error.HTTPError as error:
            status, content = error.code, error.read()
        return status, json.loads(content) if content[:1] in (b"{", b"[") else content.decode()

    def metric(self, name: str) -> float:
        text = self.ask("/metrics")[1]
        return sum(float(line.split()[-1]) for line in text.splitlines() if line.split("{")[0].split()[0] == name)

    def memory(self) -> int:
        """Resident bytes."""
        pages = Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGESIZE")

    def end(self, number: int = signal.SIGTERM) -> tuple[int, str]:
        """Exit code and all that was printed."""
        self.process.send_signal(number)
        code = self.process.wait(60)
        output = "".join(self.lines())
        self.output.unlink()
        return code, output


def make_served(folder: Path, tokenizer: Any, *, seed: int, context: int = CONTEXT) -> Path:
    """A run whose model has weights so large that its answers vary, and some end early."""
    import torch

    from ift.artifacts.model_folder import save_model_folder
    from ift.model.config import GPTConfig
    from ift.model.gpt import GPT
    from ift.text.templates import Segment, Template

    torch.manual_seed(seed)
    model = GPT(GPTConfig(257, context, 2, 2, 32))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.15)
    segments = (
        Segment("S: {system}\n", when="system"),
        Segment("U: {instruction}\nA: "),
        Segment("{output}\n", supervised=True),
    )
    folder.mkdir()
    save_model_folder(folder / "model", model, tokenizer, Template("plain", segments))
    return folder


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory, byte_tokenizer: Any) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("served")
    return tuple(make_served(folder / name, byte_tokenizer, seed=seed) for name, seed in (("one", 1), ("two", 2)))


@pytest.fixture(scope="session")
def server(runs: tuple[Path, Path]) -> Iterator[Server]:
    server = Server(*map(str, runs))
    yield server
    code, output = server.end()
    assert code == 0, output
    assert "Traceback" not in output, output


@pytest.fixture(scope="session")
def served(runs: tuple[Path, Path]) -> Served:
    """The first of the two in this process."""
    return Served.open("one", ModelPlace("one", runs[0] / "model"), accelerator="cpu", precision="fp32")


@pytest.fixture(scope="session")
def start() -> Callable[..., Any]:
    return Server
