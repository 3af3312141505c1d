"""Servers that a judge runs on: OpenAI's protocol, Ollama's, and stored replies. Knows no grammar and keeps nothing."""

from __future__ import annotations

import email.utils
import hashlib
import http.client
import ipaddress
import json
import os
import time
import urllib.error
import urllib.request
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from ift.errors import ConfigError, DataError, MachineError, missing_extra, one_line
from ift.evaluation.judge.ledger import reply_of
from ift.evaluation.judging import Reply, Request
from ift.run import read_json
from ift.settings import JudgeSettings


class NoReplyError(Exception):
    """No reply this time, perhaps the next. maybe_paid: the server may have done the work and charge for it."""

    def __init__(self, why: str, *, wait: float | None = None, maybe_paid: bool = False):
        super().__init__(why)
        self.wait, self.maybe_paid = wait, maybe_paid


class RefusedError(Exception):
    """The server will not answer this request, now or later."""


class ChatServer(Protocol):
    identity: dict[str, Any]  # all that may change a reply, except the messages

    def ask(self, request: Request) -> Reply: ...


def connect(settings: JudgeSettings, *, logprobs: int | None = None) -> ChatServer:
    """The server that was chosen. logprobs: see OpenAICompatible, the only one that can give them.

    Raises ConfigError or MachineError with what to set.
    """
    if settings.server == "replay":
        if not settings.replay:
            raise ConfigError("judge.replay: not set (add judge.replay=FILE, the stored replies)")
        return Replay(Path(settings.replay))
    if not settings.model:
        raise ConfigError("judge.model: not set (add judge.model=NAME, the judge's name on its server)")
    if settings.server == "ollama":
        return Ollama(settings)
    return OpenAICompatible(settings, logprobs=logprobs)


def over_openai_protocol(settings: JudgeSettings) -> JudgeSettings:
    """The same server through OpenAI's protocol, which Ollama speaks below /v1."""
    if settings.server != "ollama":
        return settings
    url = address(settings)
    return replace(settings, server="openai", base_url=url if url.endswith("/v1") else f"{url}/v1")


def address(settings: JudgeSettings) -> str:
    """Where requests go. Raises ConfigError for what is no address, or holds a password."""
    default = {"ollama": "http://127.0.0.1:11434", "openai": "https://api.openai.com/v1"}
    url = settings.base_url or default.get(settings.server, "")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        raise ConfigError("judge.base_url: not an address (http://127.0.0.1:8000/v1)")
    if parts.username or parts.password or parts.query:
        raise ConfigError(f"judge.base_url: must hold no key (export it as {settings.key_variable})")
    return url.rstrip("/")


def is_here(url: str) -> bool:
    """Whether an address is this machine's own, where tokens cost nothing."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class OpenAICompatible:
    """OpenAI, Anthropic's and other services of that kind, vLLM, llama.cpp, LM Studio, Ollama's /v1."""

    def __init__(self, settings: JudgeSettings, *, logprobs: int | None = None):
        """logprobs: ask for so many likeliest first tokens too."""
        try:
            import openai
        except ImportError as error:
            raise missing_extra("openai", "judge") from error
        url = address(settings)
        key = os.environ.get(settings.key_variable)
        if not key and not is_here(url):
            raise MachineError(f"{settings.key_variable}: no key in this environment variable (export it for {url})")
        # one policy for trying again, for every kind of server: ours
        self.client = openai.OpenAI(base_url=url, api_key=key or "none", timeout=settings.timeout, max_retries=0)
        self.errors = openai
        self.options: dict[str, Any] = {"model": settings.model, "seed": settings.seed}
        if settings.reasoning:  # such models set their own temperature, and count their thoughts as reply
            self.options["max_completion_tokens"] = settings.max_tokens
        else:
            self.options |= {"max_tokens": settings.max_tokens, "temperature": settings.temperature}
        if logprobs:
            self.options |= {"logprobs": True, "top_logprobs": logprobs}
        self.identity = {"server": "openai", "base_url": url, **self.options}

    def ask(self, request: Request) -> Reply:
        messages: Any = [{"role": role, "content": text} for role, text in request.messages]
        try:
            done = self.client.chat.completions.create(messages=messages, stream=False, **self.options)
        except self.errors.APIStatusError as error:
            raise from_status(error.status_code, error.response.headers.get("retry-after"), str(error)) from error
        except self.errors.APIConnectionError as error:  # a time-out, a reply that was cut off, no one there
            cause = error.__cause__
            maybe_paid = "Connect" not in type(cause).__name__
            raise NoReplyError(str(cause or error) or type(error).__name__, maybe_paid=maybe_paid) from error
        except (self.errors.APIError, ValueError) as error:  # half a JSON object
            raise NoReplyError(f"unreadable reply: {error}", maybe_paid=True) from error
        try:
            text = done.choices[0].message.content or ""
            usage = done.usage
            tokens = (done.choices[0].logprobs and done.choices[0].logprobs.content) or []
            first = tuple((top.token, float(top.logprob)) for token in tokens[:1] for top in token.top_logprobs)
            counts = (int(usage.prompt_tokens), int(usage.completion_tokens)) if usage else (0, 0)
            return Reply(text, *counts, first)
        except (AttributeError, IndexError, TypeError, ValueError) as error:
            raise NoReplyError("a reply without choices", maybe_paid=True) from error


class Ollama:
    """Ollama's own interface: only there can the context be set, and a longer prompt is cut without a word."""

    def __init__(self, settings: JudgeSettings):
        self.url, self.timeout = address(settings), settings.timeout
        self.options = {
            "temperature": settings.temperature,
            "seed": settings.seed,
            "num_ctx": settings.context_length,
            "num_predict": settings.max_tokens,
        }
        self.model = settings.model
        self.identity = {"server": "ollama", "base_url": self.url, "model": self.model, **self.options}

    def ask(self, request: Request) -> Reply:
        messages = [{"role": role, "content": text} for role, text in request.messages]
        body = {"model": self.model, "messages": messages, "stream": False, "options": self.options}
        post = urllib.request.Request(
            f"{self.url}/api/chat",
            data=json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(post, timeout=self.timeout) as response:
                value = json.load(response)
            text = value["message"]["content"]
            if not isinstance(text, str):
                raise TypeError("content is not text")
            return Reply(text, int(value.get("prompt_eval_count") or 0), int(value.get("eval_count") or 0))
        except urllib.error.HTTPError as error:
            with error:
                reply = error.read(2000).decode("utf-8", "replace")
            if error.code == 404:
                raise MachineError(f"{self.url}: {reply or 'not found'} (ollama pull {self.model})") from error
            raise from_status(error.code, error.headers.get("Retry-After"), reply) from error
        except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError, RecursionError) as error:
            raise NoReplyError(str(error) or type(error).__name__, maybe_paid=True) from error


class Replay:
    """Stored replies. A list of scores or texts goes with the rows by place; a verdicts.jsonl goes by content."""

    def __init__(self, path: Path):
        self.by_row: list[Any] = []
        self.by_content: dict[str, Reply] = {}
        if not path.is_file():
            raise ConfigError(f"{path}: no such file (judge.replay takes a JSON list or a verdicts.jsonl)")
        try:
            if path.suffix == ".jsonl":
                self.by_content = {line["request"]: reply_of(line) for line in map(json.loads, path.open("rb"))}
            else:
                self.by_row = read_json(path)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise DataError(f"{path}: not stored replies (a JSON list, or a verdicts.jsonl)") from error
        if not isinstance(self.by_row, list):
            raise DataError(f"{path}: not a list of replies (a JSON list, or a verdicts.jsonl)")
        content = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
        self.identity = {"server": "replay", "file": path.stem, "content": content}

    def ask(self, request: Request) -> Reply:
        if request.digest in self.by_content:
            return self.by_content[request.digest]
        if request.row is not None and request.row < len(self.by_row) and self.by_row[request.row] is not None:
            return Reply(str(self.by_row[request.row]))
        raise RefusedError("no stored reply")


def from_status(status: int, retry_after: str | None, body: str) -> Exception:
    """What an HTTP status means for this request and for the next."""
    body = one_line(body, 120)
    if status in (408, 409, 425, 429) or status >= 500:
        return NoReplyError(f"HTTP {status}: {body}", wait=read_retry_after(retry_after))
    if status in (400, 413, 422):
        return RefusedError(f"HTTP {status}: {body}")
    hints = {401: "is the key right?", 403: "may this key use this model?", 404: "is judge.model right?"}
    return MachineError(f"judge: HTTP {status}: {body} ({hints.get(status, 'is judge.base_url right?')})")


def read_retry_after(value: str | None) -> float | None:
    """Seconds to wait, from a number of seconds or a date; None where there is neither."""
    if not value:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
        except (ValueError, TypeError, OverflowError):
            return None
    return max(0.0, seconds) if seconds == seconds else None
