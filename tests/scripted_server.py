"""A server of OpenAI's API whose answers are written by a test: what a page does with them is what is tested."""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from ift.apps.local_page import Refused


@dataclass
class Script:
    """How a question is answered. status: of a refusal, with the error's fields; lost: the connection ends there."""

    pieces: Sequence[str] = ()
    logprobs: Sequence[float] = ()
    tokens: Sequence[bytes] = ()  # where they are not the pieces
    pause: float = 0.0  # seconds before each piece
    finish: str = "stop"
    status: int = 200
    error: dict[str, Any] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    lost: bool = False


class Scripted(ThreadingHTTPServer):
    """answer: the script of a request's body. `asked` holds all bodies, `left` how many clients went away."""

    daemon_threads = True

    def __init__(self, page: Any, models: Sequence[dict[str, Any]], answer: Callable[[dict[str, Any]], Script]):
        super().__init__(("127.0.0.1", 0), Handler)
        self.page, self.models, self.answer = page, models, answer
        self.asked: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.left = 0
        self.key = ""
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/"


class Handler(BaseHTTPRequestHandler):
    server: Scripted

    def log_message(self, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        if self.path == "/":
            policy = f"{self.server.page.policy}; frame-ancestors 'none'"
            self._reply(200, self.server.page.page().encode(), "text/html", {"Content-Security-Policy": policy})
        elif self.path == "/v1/models" and not self._refuse_key():
            self._json(200, {"object": "list", "data": list(self.server.models)})
        elif self.path != "/v1/models":
            self._reply(204, b"", "image/x-icon")

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self._refuse_key():
            return
        if self.path == "/review":
            try:
                self._json(200, self.server.page.review(body))
            except Refused as error:
                self._json(400, {"error": {"message": str(error)}})
            return
        self.server.asked.append(body)
        script = self.server.answer(body)
        if script.status != 200:
            self._json(script.status, {"error": script.error}, script.headers)
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        try:
            self._stream(script)
        except OSError:
            self.server.left += 1

    def _stream(self, script: Script) -> None:
        self._event({"role": "assistant", "content": ""})
        tokens = script.tokens or [piece.encode() for piece in script.pieces]
        for number, piece in enumerate(script.pieces):
            time.sleep(script.pause)
            mine = tokens[number : number + 1] if number < len(script.pieces) - 1 else tokens[number:]
            content = [
                {
                    "token": data.decode("utf-8", "replace"),
                    "bytes": list(data),
                    "logprob": script.logprobs[number] if script.logprobs else -0.01,
                    "top_logprobs": [{"token": "other", "bytes": None, "logprob": math.log(0.004)}],
                }
                for data in mine
            ]
            self._event({"content": piece}, {"content": content})
        if script.lost:
            return
        self._event({}, finish=script.finish)
        self._send({"choices": [], "usage": {"completion_tokens": len(tokens)}})
        self.wfile.write(b"data: [DONE]\n\n")

    def _event(self, delta: dict[str, Any], logprobs: Any = None, finish: str | None = None) -> None:
        self._send({"choices": [{"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": finish}]})

    def _send(self, value: dict[str, Any]) -> None:
        self.wfile.write(b": still here\n\ndata: " + json.dumps({"id": "x", **value}).encode() + b"\n\n")
        self.wfile.flush()

    def _refuse_key(self) -> bool:
        given = self.headers.get("Authorization")
        self.server.keys.append(given)
        if not self.server.key or given == f"Bearer {self.server.key}":
            return False
        self._json(401, {"error": {"message": "a key is needed"}})
        return True

    def _json(self, status: int, value: Any, headers: dict[str, str] | None = None) -> None:
        self._reply(status, json.dumps(value).encode(), "application/json", headers or {})

    def _reply(self, status: int, body: bytes, kind: str, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
