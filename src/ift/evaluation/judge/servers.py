"""Servers that a judge runs on: OpenAI's protocol, Ollama's, and stored replies. Knows no grammar and keeps nothing."""

from __future__ import annotations

import email.utils
import hashlib
import json
import os
import re
import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from ift.errors import ConfigError, DataError, MachineError, one_line
from ift.evaluation.judge.bodies import error_in, first_of, reply_from, reply_from_line, text_of, tokens_of
from ift.evaluation.judge.transport import (
    NobodyThereError,
    NoReplyError,
    Response,
    TooLargeError,
    Transport,
    is_here,
)
from ift.evaluation.judging import Reply, Request
from ift.run import read_json
from ift.settings import JudgeSettings

MORE_TOKENS = "max_completion_tokens"  # the newer name of max_tokens, which some models insist on


class RefusedError(Exception):
    """The server will not answer this request, now or later."""

    def __init__(self, why: str, *, maybe_paid: bool = False, whole: str = ""):
        super().__init__(why)
        self.maybe_paid, self.whole = maybe_paid, whole  # the server's words before they were shortened


class WrongPlaceError(MachineError):
    """Something is there, but no judge below this address."""


class ChatServer(Protocol):
    # All that may change a reply, except the messages. More than one where addresses lead to the same server: replies
    # are kept under the first and looked for under each.
    identities: list[dict[str, Any]]
    # Settings that were sent in another way, because the server refused them; None: left out.
    changes: dict[str, Any]

    def ask(self, request: Request) -> Reply:
        """Raises NoReplyError, RefusedError, and MachineError where no request will be answered."""
        ...

    def close(self) -> None: ...


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
    """Where requests go: the part of the address before the protocol's own paths, of which some people give too much.

    Raises ConfigError for what is no address, or holds a password.
    """
    default = {"ollama": "http://127.0.0.1:11434", "openai": "https://api.openai.com/v1"}
    url = (settings.base_url or default.get(settings.server, "")).strip()
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0 or re.search(r"\s", url):
        raise ConfigError("judge.base_url: not an address (http://127.0.0.1:8000/v1)")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ConfigError(f"judge.base_url: must hold no key (export it as {settings.key_variable})")
    url = url.rstrip("/")
    if settings.server == "ollama":
        return re.sub(r"(/v1|/api|/api/chat|/api/generate)\Z", "", url)
    url = re.sub(r"/(chat/)?completions\Z", "", url)
    return re.sub(r"(/v1){2,}\Z", "/v1", url)


class _OverHttp:
    """What both protocols share: the connection, and what a failure means."""

    start_hint = "is it started? judge.base_url=http://HOST:PORT/v1 names another"
    path_hint = "is judge.base_url right? Most end in /v1"
    model_hint = "is judge.model right?"

    def __init__(self, settings: JudgeSettings, *, key: str = ""):
        self.url, self.key = address(settings), key
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self.transport = Transport(self.url, timeout=settings.timeout, headers=headers)
        self.lock = threading.Lock()
        self.replied = False  # so far; until then a fault is more likely a wrong address than a passing trouble
        self.changes: dict[str, Any] = {}

    def close(self) -> None:
        self.transport.close()

    def change(self, name: str, value: Any, what: str) -> None:
        self.changes[name] = value
        print(f"judge     {what}", flush=True)

    def post(self, url: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """The reply's JSON object. Raises NoReplyError, RefusedError and MachineError."""
        try:
            response = self.transport.post(url, body)
        except NobodyThereError as error:
            if self.replied:
                raise
            raise MachineError(f"judge: {error} ({self.way_there(str(error))})") from error
        except TooLargeError as error:
            raise RefusedError(str(error), maybe_paid=True) from error
        value = _json(response)
        message, code = error_in(value)
        if 300 <= response.status < 400:
            raise self.moved(response)
        if not 200 <= response.status < 300:
            raise self.failure(response.status, message or _plain(response.text), code, response)
        if isinstance(value, dict) and (value.get("choices") or isinstance(value.get("message"), dict)):
            return value
        if message:  # a failure that calls itself a success
            raise self.failure(_status(code, message), message, code, response)
        if _is_page(response.text) and not self.replied:
            raise WrongPlaceError(f"judge: {url}: a page for people, not a judge ({self.path_hint})")
        if isinstance(value, dict):
            return value
        raise NoReplyError(f"unreadable reply: {self.hide(_plain(response.text)) or 'nothing'}", maybe_paid=True)

    def way_there(self, why: str) -> str:
        """What to do where there is no connection."""
        if "certificate" in why.lower():
            return "export SSL_CERT_FILE=FILE with the certificate of who signed it"
        if "WRONG_VERSION" in why or "wrong version" in why:
            return "http:// in the place of https://?"
        if self.transport.proxy:
            return f"export NO_PROXY={self.transport.server.hostname} to go around it"
        return self.start_hint

    def moved(self, response: Response) -> MachineError:
        place = one_line(response.header("Location"), 100)
        place = re.sub(r"/(chat/completions|api/chat)/?\Z", "", place)
        return MachineError(
            f"judge: HTTP {response.status}: {self.url} has moved, and the key is not sent after it "
            f"(judge.base_url={place or 'its new address'})"
        )

    def failure(self, status: int, message: str, code: Any, response: Response) -> Exception:
        """What a failure means for this request and for the next. status: HTTP's, or what an error with 200 means."""
        message = self.hide(message)
        said = f"HTTP {response.status}: {one_line(message, 120)}"
        wait = wait_of(response, message)
        if is_spent(status, message, code, wait):
            return MachineError(f"judge: {said} (nothing is left on the account; once it is, the same command goes on)")
        if status in (408, 409, 425, 429) or status >= 500:
            return NoReplyError(said, wait=wait)
        if status in (400, 413, 422) or (status == 403 and MODERATED.search(message)):
            return RefusedError(said, whole=message)
        if status == 404 and self.lacks_model(message, response):
            return MachineError(f"judge: {said} ({self.model_hint})")
        if status in (404, 405):
            return WrongPlaceError(f"judge: {self.url}: {said} ({self.path_hint})")
        hints = {401: "is the key right?", 403: "may this key use this model?", 407: "is the proxy's password right?"}
        return MachineError(f"judge: {said} ({hints.get(status, 'is judge.base_url right?')})")

    def lacks_model(self, message: str, response: Response) -> bool:
        return "model" in message.lower()

    def hide(self, text: str) -> str:
        """Some servers repeat the key in what they say."""
        return text.replace(self.key, "***") if self.key else text


class OpenAICompatible(_OverHttp):
    """OpenAI, Anthropic's and other services of that kind, vLLM, llama.cpp, LM Studio, Ollama's /v1."""

    def __init__(self, settings: JudgeSettings, *, logprobs: int | None = None):
        """logprobs: ask for so many likeliest first tokens too."""
        key = os.environ.get(settings.key_variable, "").strip()
        url = address(settings)
        if not key and not is_here(url) and not settings.dry_run:
            raise MachineError(f"{settings.key_variable}: no key in this environment variable (export it for {url})")
        if not (key.isascii() and key.isprintable()):
            raise MachineError(f"{settings.key_variable}: holds characters that no key has (export it again)")
        super().__init__(settings, key=key)
        self.options: dict[str, Any] = {"model": settings.model, "seed": settings.seed}
        if settings.reasoning:  # such models set their own temperature, and count their thoughts as reply
            self.options[MORE_TOKENS] = settings.max_tokens
        else:
            self.options |= {"max_tokens": settings.max_tokens, "temperature": settings.temperature}
        if logprobs:
            self.options |= {"logprobs": True, "top_logprobs": logprobs}
        self.options = {name: value for name, value in self.options.items() if value is not None}
        identity: dict[str, Any] = {"server": "openai", "base_url": self.url, **self.options}
        self.identities = [identity, {**identity, "base_url": _with_or_without_v1(self.url)}]

    def ask(self, request: Request) -> Reply:
        messages = [{"role": role, "content": text} for role, text in request.messages]
        while True:  # each refusal changes one thing, and nothing is changed twice
            url, options = self.url, self.options
            try:
                value = self.post(f"{url}/chat/completions", {**options, "messages": messages, "stream": False})
                break
            except RefusedError as error:
                if not self.adapt(error.whole, options):
                    raise
            except WrongPlaceError:
                if not self.find(url):
                    raise
        choice = _choice(value)
        end = choice.get("finish_reason")
        message, _ = error_in({"error": choice.get("error")})
        if message or end == "error":
            raise NoReplyError(f"broken off by the server: {one_line(message, 80)}", maybe_paid=True)
        self.replied = True
        first = first_of(choice.get("logprobs"))
        return _reply(choice["message"], end=end, tokens=tokens_of(value.get("usage")), first=first)

    def adapt(self, refusal: str, sent: dict[str, Any]) -> bool:
        """Whether a refused request is worth sending again: what the server does not take is sent in another way."""
        name = unknown_option(refusal, sent)
        with self.lock:
            if name is None or self.options is not sent:  # the latter: another thread was here
                return name is not None
            rest = {key: value for key, value in sent.items() if key != name}
            other = {"max_tokens": MORE_TOKENS, MORE_TOKENS: "max_tokens"}.get(name)
            if other is None:
                self.options = rest
                what = f"the server takes no {name}: it is left out (judge.{name}=null says so from the start)"
                self.change(name, None, what)
                return True
            if other in self.changes:  # it was sent by its other name before
                return False
            self.options = {**rest, other: sent[name]}
            self.change(name, other, f"the server takes no {name}: {other} is sent in its place")
            return True

    def find(self, tried: str) -> bool:
        """Whether the same server may have its interface below /v1, or not there."""
        with self.lock:
            if self.url == tried and not self.replied and "base_url" not in self.changes:
                self.url = _with_or_without_v1(tried)
                what = f"no judge at {tried}: {self.url} is tried (judge.base_url={self.url} says so from the start)"
                self.change("base_url", self.url, what)
            return self.url != tried


def _reply(message: Mapping[str, Any], **more: Any) -> Reply:
    try:
        return reply_from(message, **more)
    except RecursionError as error:
        raise NoReplyError("unreadable reply: nested too deep", maybe_paid=True) from error


def _choice(value: Mapping[str, Any]) -> dict[str, Any]:
    """The first choice with a message. Raises NoReplyError where there is none."""
    choices = value.get("choices")
    for choice in choices if isinstance(choices, list) else []:
        if isinstance(choice, dict):
            if isinstance(choice.get("message"), dict):
                return choice
            if isinstance(choice.get("text"), str):  # of the older interface
                return {**choice, "message": {"content": choice["text"]}}
    raise NoReplyError("a reply without choices", maybe_paid=True)


def _with_or_without_v1(url: str) -> str:
    return url.removesuffix("/v1") if url.endswith("/v1") else f"{url}/v1"


class Ollama(_OverHttp):
    """Ollama's own interface: only there can the context be set, and a longer prompt is cut without a word."""

    start_hint = "ollama serve starts it; judge.base_url=http://HOST:PORT names another"
    path_hint = "is this Ollama? For other servers: judge.server=openai"

    def __init__(self, settings: JudgeSettings):
        super().__init__(settings)
        self.model = settings.model
        self.model_hint = f"ollama pull {self.model}"
        options: dict[str, Any] = {
            "temperature": settings.temperature,
            "seed": settings.seed,
            "num_ctx": settings.context_length,
            "num_predict": settings.max_tokens,
        }
        self.options = {name: value for name, value in options.items() if value is not None}
        self.identities: list[dict[str, Any]] = [
            {"server": "ollama", "base_url": self.url, "model": self.model, **self.options}
        ]

    def ask(self, request: Request) -> Reply:
        messages = [{"role": role, "content": text} for role, text in request.messages]
        body = {"model": self.model, "messages": messages, "stream": False, "options": self.options}
        value = self.post(f"{self.url}/api/chat", body)
        message, end = value.get("message"), value.get("done_reason")
        if not isinstance(message, dict) or end in ("load", "unload"):
            raise NoReplyError("a reply without a message", maybe_paid=True)
        self.replied = True
        return _reply(message, end=end, tokens=(value.get("prompt_eval_count"), value.get("eval_count")))

    def lacks_model(self, message: str, response: Response) -> bool:
        value = _json(response)
        return isinstance(value, dict) and "error" in value and "unexpected endpoint" not in message.lower()


class Replay:
    """Stored replies. A list of scores or texts goes with the rows by place; a verdicts.jsonl goes by content."""

    def __init__(self, path: Path):
        self.by_row: list[Any] = []
        self.by_content: dict[str, Reply] = {}
        if not path.is_file():
            raise ConfigError(f"{path}: no such file (judge.replay takes a JSON list or a verdicts.jsonl)")
        try:
            if path.suffix == ".jsonl":
                self.by_content = _stored_by_content(path)
            else:
                self.by_row = read_json(path)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise DataError(f"{path}: not stored replies (a JSON list, or a verdicts.jsonl)") from error
        if not isinstance(self.by_row, list):
            raise DataError(f"{path}: not a list of replies (a JSON list, or a verdicts.jsonl)")
        content = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
        self.identities: list[dict[str, Any]] = [{"server": "replay", "file": path.stem, "content": content}]
        self.changes: dict[str, Any] = {}

    def ask(self, request: Request) -> Reply:
        if request.digest in self.by_content:
            return self.by_content[request.digest]
        if request.row is not None and request.row < len(self.by_row) and self.by_row[request.row] is not None:
            return Reply(_stored(self.by_row[request.row]))
        raise RefusedError("no stored reply")

    def close(self) -> None:
        pass


# -- what a failure says -------------------------------------------------------------------------------------------

SPENT = re.compile(
    r"insufficient[ _-]*(quota|credits?|balance|funds)|billing[ _]hard[ _]limit|credit balance is too low",
    re.IGNORECASE,
)
MODERATED = re.compile(r"moderat|flagged|safety|content policy", re.IGNORECASE)
OVER_QUOTA = re.compile(r"exceeded your current quota|quota (is |was )?(exceeded|exhausted)", re.IGNORECASE)
NOT_TAKEN = re.compile(
    r"unsupported|not (be )?support|n't support|unknown|unrecogni[sz]ed|unexpected|extra|not (permitted|allowed)|"
    r"not (a )?valid|deprecated|only the default|cannot be set|no such|instead|additional propert",
    re.IGNORECASE,
)
OF_SIZE = re.compile(r"too (large|long|big|many)|at most|maximum|exceed|greater than|less than", re.IGNORECASE)
AGAIN_IN = re.compile(r"(?:retry|try again) (?:in|after) (?:(\d+)m(?!s))?\s*(?:([\d.]+)\s*(ms|s))?", re.IGNORECASE)
OPTIONS = ("seed", "temperature", MORE_TOKENS, "max_tokens")  # the last but one is also named as the cure of the last


def is_spent(status: int, message: str, code: Any, wait: float | None) -> bool:
    """Whether nothing will be answered before somebody pays. A quota that comes back by itself has a time to wait."""
    if status == 402 or SPENT.search(f"{code} {message}"):
        return True
    return status in (403, 429) and wait is None and bool(OVER_QUOTA.search(message))


def unknown_option(refusal: str, sent: Mapping[str, Any]) -> str | None:
    """The option that a server does not take, by the words of its refusal; None where they name none."""
    if not NOT_TAKEN.search(refusal):
        return None
    named = [name for name in OPTIONS if name in sent and re.search(rf"(?<![a-z_]){name}(?![a-z_])", refusal)]
    if not named or ("tokens" in named[0] and OF_SIZE.search(refusal)):
        return None
    return named[0]


def wait_of(response: Response, message: str) -> float | None:
    """Seconds that a server asks to be left alone, by its headers or else by its words."""
    in_ms = read_retry_after(response.header("retry-after-ms"))
    if in_ms is not None:
        return in_ms / 1000
    by_header = read_retry_after(response.header("Retry-After"))
    found = AGAIN_IN.search(message)
    if by_header is not None or not found or not any(found.groups()):
        return by_header
    minutes, number, unit = found.groups()
    seconds = read_retry_after(number) or 0.0
    return 60.0 * float(minutes or 0) + (seconds / 1000 if unit == "ms" else seconds)


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


def _json(response: Response) -> Any:
    """None where it is no JSON, whatever it calls itself."""
    try:
        return json.loads(response.text)
    except (ValueError, RecursionError):
        return None


def _status(code: Any, message: str) -> int:
    """The HTTP status that an error means which came with 200."""
    if re.fullmatch("[45][0-9][0-9]", str(code)):
        return int(code)
    words = f"{code} {message}".lower()
    if "not found" in words or "unexpected endpoint" in words:  # the latter is LM Studio's
        return 404
    return 429 if "rate" in words and "limit" in words else 500


def _is_page(text: str) -> bool:
    return text.lstrip()[:200].lower().startswith(("<!doctype", "<html"))


def _plain(text: str) -> str:
    """The words of a page of HTML, or of anything else."""
    text = re.sub(r"(?is)<(script|style).*?</\1>|<[^>]*>", " ", text[:20_000]) if _is_page(text) else text[:2000]
    return one_line(text, 120)


def _stored_by_content(path: Path) -> dict[str, Reply]:
    """Of a verdicts.jsonl, the lines that can be read. Raises ValueError where there is none."""
    found = {}
    with path.open("rb") as file:
        for line in file:
            try:
                value = json.loads(line)
                found[str(value["request"])] = reply_from_line(value)
            except (ValueError, KeyError, TypeError, RecursionError):
                continue
    if not found:
        raise ValueError("no replies")
    return found


def _stored(value: Any) -> str:
    return text_of(value)[0] if isinstance(value, list | dict) else str(value)
