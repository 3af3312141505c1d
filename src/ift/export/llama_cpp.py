"""llama.cpp's own programs, where they are installed: llama-quantize makes the smaller types, llama-server answers, and
convert_hf_to_gguf.py reads folders of every family.

They are looked for in the folder that LLAMA_CPP names (that of the programs, or of the sources after a build), else on
PATH. The one door to them.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ift.errors import ConfigError, MachineError, one_line

# what llama-quantize makes without being shown texts (an importance matrix), by its own names
QUANTIZED = (
    "q2_k", "q3_k_s", "q3_k_m", "q3_k_l", "q4_0", "q4_1", "q4_k_s", "q4_k_m", "q5_0", "q5_1", "q5_k_s", "q5_k_m",
    "q6_k", "iq4_nl", "iq4_xs",
)  # fmt: skip
VARIABLE = "LLAMA_CPP"
CONVERTER = "convert_hf_to_gguf.py"
OUTTYPES = {"fp32": "f32", "bf16": "bf16", "fp16": "f16", "q8_0": "q8_0"}  # as the converter calls them
START_SECONDS, ANSWER_SECONDS = 300, 600  # a large model is read from the disk first


def program(name: str) -> Path | None:
    """Where llama-quantize or llama-server is. Raises MachineError where LLAMA_CPP names a folder without it."""
    given = os.environ.get(VARIABLE)
    if not given:
        found = shutil.which(name)
        return Path(found) if found else None
    for folder in (Path(given), Path(given, "bin"), Path(given, "build", "bin")):
        if found := shutil.which(name, path=str(folder)):
            return Path(found)
    raise MachineError(f"{VARIABLE}={given}: no {name} in it (the folder of llama.cpp's programs)")


def needed(name: str, *, why: str, advice: str) -> Path:
    """Raises MachineError with what to install where the program is missing."""
    found = program(name)
    if found is None:
        raise MachineError(
            f"{why}: needs llama.cpp's {name} (install llama.cpp, or set {VARIABLE} to the folder of it; {advice})"
        )
    return found


def quantize(quantizer: Path, file: Path, target: Path, dtype: str) -> None:
    """A GGUF file in fp32 as one of a QUANTIZED type. Raises MachineError with the program's last words."""
    command = [str(quantizer), str(file), str(target), dtype.upper()]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", stdin=subprocess.DEVNULL)
    except OSError as error:
        raise MachineError(f"{quantizer}: cannot be started: {error.strerror or error}") from error
    if done.returncode or not target.exists():
        raise MachineError(f"--dtype {dtype}: {quantizer.name} failed: {_last_words(done.stderr or done.stdout)}")


def converter() -> list[str] | None:
    """The command of llama.cpp's converter. That of its sources runs in this Python, which has what it imports."""
    given = os.environ.get(VARIABLE)
    if given:
        folder = Path(given).absolute()
        for place in (folder, folder / "bin", *folder.parents[:2]):  # the sources, where build/bin is named
            if (place / CONVERTER).is_file():
                return [sys.executable, str(place / CONVERTER)]
    found = shutil.which(CONVERTER)
    return [found] if found else None


def needed_converter(family: str) -> list[str]:
    """Raises MachineError with where to get the converter where it is missing."""
    found = converter()
    if found is None:
        raise MachineError(
            f"--to gguf: {family} needs llama.cpp's {CONVERTER} (git clone https://github.com/ggml-org/llama.cpp, "
            f"then set {VARIABLE} to that folder; --to hf needs nothing)"
        )
    return found


def convert(command: Sequence[str], folder: Path, target: Path, dtype: str, about: dict[str, str]) -> None:
    """A Hugging Face folder as a GGUF file. about: keys of the file and what they say.

    Raises ConfigError where llama.cpp does not know the model or its tokenizer, MachineError where the converter lacks
    a package or fails otherwise, with its last words. Nothing is fetched, and no code of the folder runs.
    """
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "ignore"}
    with tempfile.TemporaryDirectory() as scratch:
        metadata = Path(scratch, "metadata.json")
        metadata.write_text(json.dumps(about), encoding="utf-8")
        asked = [*command, str(folder), "--outfile", str(target), "--outtype", OUTTYPES[dtype]]
        asked += ["--metadata", str(metadata), "--model-name", about["general.name"]]
        try:
            done = subprocess.run(
                asked, capture_output=True, text=True, errors="replace", stdin=subprocess.DEVNULL, env=environment
            )
        except OSError as error:
            raise MachineError(f"{command[0]}: cannot be started: {error.strerror or error}") from error
    if done.returncode == 0 and target.exists():
        return
    words = _last_words(done.stderr or done.stdout)
    if "pre-tokenizer was not recognized" in words:
        raise ConfigError(
            "--to gguf: llama.cpp does not know the way in which this tokenizer cuts text (take --to hf; "
            "vLLM and transformers read it)"
        )
    if "tokenizer.model" in words:
        raise ConfigError(
            "--to gguf: llama.cpp's converter reads this family's vocabulary from a tokenizer.model, which the run "
            "does not hold (take --to hf; with the base's tokenizer.model in that folder the converter takes it)"
        )
    if "not supported" in words:
        raise ConfigError(f"--to gguf: llama.cpp's converter: {words} (take --to hf, or a newer llama.cpp)")
    package = re.search(r"No module named '([\w.-]+)'", words)
    if package:
        name = package[1].split(".")[0]
        raise MachineError(f"--to gguf: llama.cpp's converter needs the package {name} (pip install {name})")
    raise MachineError(f"--to gguf: {CONVERTER} failed: {words}")


def _last_words(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return one_line(lines[-1], 150) if lines else "it said nothing"


class Server:
    """llama-server with one model, for this process alone: on this machine's own address, with a key of its own.

    Its answers are greedy and its cache is in fp32, so that what parts is the file and not the program's settings.
    """

    def __init__(self, executable: Path, file: Path, *, context_length: int):
        self.executable, self.file, self.context_length = executable, file, context_length
        self.key = secrets.token_hex(16)
        # no proxy: the server is on this machine
        self.opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def __enter__(self) -> Self:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.address = f"http://127.0.0.1:{port}"
        self.log = tempfile.TemporaryFile()
        options = ["--host", "127.0.0.1", "--port", str(port), "-c", str(self.context_length), "-np", "1", "--jinja"]
        options += ["-ctk", "f32", "-ctv", "f32", "-fa", "off"]
        try:
            self.process = subprocess.Popen(
                [str(self.executable), "-m", str(self.file), *options],
                env={**os.environ, "LLAMA_API_KEY": self.key},  # a list of arguments is for all to see
                stdin=subprocess.DEVNULL,
                stdout=self.log,
                stderr=subprocess.STDOUT,
            )
        except OSError as error:
            raise MachineError(f"{self.executable}: cannot be started: {error.strerror or error}") from error
        try:
            self._wait()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._stop()

    def prompt(self, messages: Sequence[dict[str, Any]], tools: Sequence[Any] = ()) -> list[int]:
        """The tokens that the file's own chat template and vocabulary make of messages."""
        asked = {"messages": messages, **({"tools": tools} if tools else {})}
        text = self._ask("/apply-template", asked)["prompt"]
        return self.tokens(text, special=True)

    def tokens(self, text: str, *, special: bool = False) -> list[int]:
        """special: whether the spelling of a token that controls becomes that token, as in a rendered template."""
        asked = {"content": text, "add_special": False, "parse_special": special}
        return [int(token) for token in self._ask("/tokenize", asked)["tokens"]]

    def answer(self, prompt: Sequence[int], limit: int) -> list[int]:
        """At most `limit` tokens after a prompt, each the likeliest."""
        asked = {"prompt": list(prompt), "n_predict": limit, "temperature": 0, "return_tokens": True}
        return [int(token) for token in self._ask("/completion", {**asked, "cache_prompt": False})["tokens"]]

    def _wait(self) -> None:
        until = time.monotonic() + START_SECONDS
        while time.monotonic() < until:
            if self.process.poll() is not None:
                break
            try:
                with self.opener.open(f"{self.address}/health", timeout=5):
                    return
            except OSError:  # not yet there, or 503 while the model is read
                time.sleep(0.05)
        self.log.seek(0)
        words = _last_words(self.log.read().decode(errors="replace"))
        raise MachineError(f"{self.executable.name} did not start with {self.file.name}: {words}")

    def _stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.log.close()

    def _ask(self, path: str, value: dict[str, Any]) -> dict[str, Any]:
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {self.key}"}
        request = urllib.request.Request(self.address + path, json.dumps(value).encode(), headers)
        try:
            with self.opener.open(request, timeout=ANSWER_SECONDS) as reply:
                read: dict[str, Any] = json.load(reply)
                return read
        except urllib.error.HTTPError as error:
            raise MachineError(f"{self.executable.name} {path}: {one_line(error.read(2000).decode(), 150)}") from error
        except (OSError, ValueError) as error:
            raise MachineError(f"{self.executable.name} {path}: {one_line(str(error), 150)}") from error
