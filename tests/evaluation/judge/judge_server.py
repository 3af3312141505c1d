"""A judge's server on this machine, for tests: it answers like OpenAI or like Ollama, and fails as it is told."""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from ift.evaluation.judging import Request

FAULTS = ("429", "500", "503", "timeout", "cut", "half", "reset")


@dataclass(frozen=True)
class Raw:
    """A reply byte for byte. body: what is no bytes is sent as JSON. drip: seconds between two bytes of the body."""

    body: Any = b""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    chunked: bool = False
    drip: float = 0.0
    slow_head: bool = False  # the head a byte at a time as well
    promised: int = 0  # bytes more than come
    close: bool = False  # the connection, after the reply, without a word about it
    pays: bool = False  # whether a service would charge for it


class JudgeServer(ThreadingHTTPServer):
    """reply(body): the text; fault(digest, attempt): what goes wrong with that attempt, or None.
    first(body): log probabilities of the reply's first token, for those who ask; None: it gives none.
    raw(path, body, attempt): the reply in the place of the usual one, or None.

    asked     digest of every request's messages, in order
    answered  how often each digest got a whole reply
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(
        self,
        reply: Callable[[dict[str, Any]], str],
        fault: Callable[[str, int], str | None] = lambda digest, attempt: None,
        delay: float = 0.0,
        first: Callable[[dict[str, Any]], dict[str, float]] | None = None,
        raw: Callable[[str, dict[str, Any], int], Raw | None] = lambda path, body, attempt: None,
    ):
        super().__init__(("127.0.0.1", 0), Handler)
        self.reply, self.fault, self.delay, self.first = reply, fault, delay, first
        self.raw = raw
        self.lock = threading.Lock()
        self.asked: list[str] = []
        self.bodies: list[dict[str, Any]] = []
        self.answered: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self.thread = threading.Thread(target=self.serve_forever, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def __enter__(self) -> JudgeServer:
        self.thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.shutdown()
        self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that time out or are killed hang up."""


class Handler(BaseHTTPRequestHandler):
    server: JudgeServer
    protocol_version = "HTTP/1.1"  # connections are kept
    disable_nagle_algorithm = True  # head and body are two writes: on a kept connection the second would wait 40 ms

    def log_message(self, *args: Any) -> None:
        pass

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        digest = Request(tuple((m["role"], m["content"]) for m in body["messages"])).digest
        server = self.server
        with server.lock:
            attempt = server.asked.count(digest)
            server.asked.append(digest)
            server.bodies.append({**body, "authorization": self.headers.get("Authorization")})
            fault = server.fault(digest, attempt)
            if fault:
                server.faults[fault] += 1
        time.sleep(server.delay)
        raw = server.raw(self.path, body, attempt)
        if raw:
            if raw.pays:
                with server.lock:
                    server.answered[digest] += 1
            self.send_raw(raw)
            return
        if fault and fault.isdigit():
            self.say(int(fault), {"error": {"message": "not now"}}, {"Retry-After": "0.01"} if fault == "429" else {})
            return
        if fault == "timeout":
            time.sleep(2.0)
            self.close_connection = True
            return
        if fault == "reset":
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
            return
        text = server.reply(body)
        if self.path == "/api/chat":
            value: dict[str, Any] = {"message": {"role": "assistant", "content": text}}
            value |= {"prompt_eval_count": 100, "eval_count": 3, "done": True}
        else:
            value = {
                "id": "1",
                "object": "chat.completion",
                "created": 0,
                "model": body["model"],
                "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
                "usage": {"prompt_tokens": 100, "completion_tokens": 3, "total_tokens": 103},
            }
            if server.first and body.get("logprobs"):
                tops = [{"token": t, "logprob": p, "bytes": None} for t, p in server.first(body).items()]
                value["choices"][0]["logprobs"] = {"content": [{**tops[0], "top_logprobs": tops}] if tops else []}
        data = json.dumps(value).encode()
        if fault == "cut":  # fewer bytes than were promised
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data[: len(data) // 2])
            self.close_connection = True
            return
        if fault == "half":  # as many bytes as were promised, but half of the object
            data = data[: len(data) // 2]
        self.say(200, data)
        if not fault:
            with server.lock:
                server.answered[digest] += 1

    def send_raw(self, raw: Raw) -> None:
        data = raw.body if isinstance(raw.body, bytes) else json.dumps(raw.body).encode()
        self.send_response(raw.status)
        for name, text in {"Content-Type": "application/json", **raw.headers}.items():
            self.send_header(name, text)
        if raw.chunked:
            self.send_header("Transfer-Encoding", "chunked")
            pieces = [data[:7], data[7:]] if len(data) > 7 else [data]
            data = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces if piece) + b"0\r\n\r\n"
        else:
            self.send_header("Content-Length", str(len(data) + raw.promised))
        if raw.slow_head:
            data, self._headers_buffer = b"".join(self._headers_buffer) + b"\r\n" + data, []
        else:
            self.end_headers()
        if raw.drip:
            for place in range(len(data)):
                time.sleep(raw.drip)
                self.wfile.write(data[place : place + 1])
        else:
            self.wfile.write(data)
        self.close_connection = bool(raw.close or raw.promised)

    def say(self, status: int, value: Any, headers: dict[str, str] | None = None) -> None:
        data = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        for name, text in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, text)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def data_of(body: dict[str, Any]) -> dict[str, Any]:
    """The material of a request, as the judge sees it."""
    text = body["messages"][1]["content"]
    return json.loads(re.search(r"<<<material (\w+)>>>\n(.*)\n<<<end of material \1>>>", text, re.DOTALL).group(2))


def honest(body: dict[str, Any]) -> str:
    """A judge that knows: 90 for the reference, a number in the answer is its score, 0 otherwise."""
    data = data_of(body)
    if data["response"] == data.get("reference"):
        return "90"
    found = re.search(r"worth (\d+)", data["response"])
    return found.group(1) if found else "0"
