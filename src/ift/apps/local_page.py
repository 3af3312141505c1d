"""A page that this machine alone can see: the small server on the loopback address that each of them has.

What a page elsewhere could do to it, a browser of today would let it try: so each request must name this address as
its host, and each change must come from a page of this server. With a token, none but who was told the whole address
gets the page: other people on the same machine can reach the port as well.
"""

from __future__ import annotations

import hmac
import json
import webbrowser
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Protocol
from urllib.parse import parse_qs, urlsplit

from ift.errors import IftError, MachineError, one_line

LONGEST_BODY = 65_536  # bytes of a request


class LocalPage(Protocol):
    """policy: for the browser; page(): the HTML; posts: what each path does with the JSON value it is sent.

    An action returns what can be JSON, and raises ValueError for a value that it does not take.
    """

    @property
    def policy(self) -> str: ...
    @property
    def posts(self) -> Mapping[str, Callable[[Any], dict[str, Any]]]: ...
    def page(self) -> str: ...


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, app: LocalPage, port: int, *, token: str = ""):
        """Raises MachineError where the port is taken."""
        self.app, self.token = app, token
        try:
            super().__init__(("127.0.0.1", port), Handler)
        except (OSError, OverflowError) as error:
            raise MachineError(f"port {port}: {one_line(str(error), 80)} (--port 0 takes any free one)") from error
        self.port = self.server_address[1]
        self.hosts = {f"{name}:{self.port}" for name in ("127.0.0.1", "localhost")}
        self.policy = f"{app.policy}; frame-ancestors 'none'"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/" + (f"?token={self.token}" if self.token else "")

    def serve(self, *, browser: bool) -> None:
        """Until Ctrl-C."""
        print(f"open      {self.url}  (Ctrl-C ends)", flush=True)
        if browser:
            webbrowser.open(self.url)
        try:
            self.serve_forever()
        except KeyboardInterrupt:
            print()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that hangs up is no news."""


class Handler(BaseHTTPRequestHandler):
    server: Server
    timeout = 10  # seconds for a request to arrive
    server_version, sys_version = "ift", ""

    def do_GET(self) -> None:
        if self._refused():
            return
        asked = urlsplit(self.path)
        if asked.path == "/favicon.ico":
            self._answer(204, b"", "image/x-icon")
        elif asked.path != "/":
            self._answer(404, b"no such page\n")
        elif not self._is_told(parse_qs(asked.query).get("token", [""])[0]):
            self._answer(403, b"open the whole address that the command printed\n")
        else:
            self._answer(200, self.server.app.page().encode(), "text/html; charset=utf-8")

    def do_POST(self) -> None:
        if self._refused() or self._refused_change():
            return
        length = int(self.headers["Content-Length"])
        try:
            value = json.loads(self.rfile.read(length))
            if self.path not in self.server.app.posts:
                self._answer(404, b"no such page\n")
                return
            said = self.server.app.posts[self.path](value)
        except OSError as error:  # the disk, not the person
            self._answer(507, f"not saved: {error.strerror or error}\n".encode())
        except IftError as error:
            self._answer(500, f"{one_line(str(error))}\n".encode())
        except (ValueError, RecursionError) as error:
            self._answer(400, f"{one_line(str(error), 100)}\n".encode())
        else:
            self._answer(200, json.dumps(said).encode(), "application/json")

    def _is_told(self, token: str) -> bool:
        wanted = self.server.token
        return not wanted or hmac.compare_digest(token.encode("utf-8", "replace"), wanted.encode())

    def _refused(self) -> bool:
        """A name that someone else's DNS points here is not this machine's."""
        if self.headers.get("Host") in self.server.hosts and len(self.headers.get_all("Host", [])) == 1:
            return False
        self._answer(421, b"this server answers to its own address alone\n")
        return True

    def _refused_change(self) -> bool:
        """Only a page of this server may change anything, and only in a form that no plain link or form has."""
        length = self.headers.get("Content-Length", "")
        if self.headers.get("Origin") != f"http://{self.headers['Host']}":
            self._answer(403, b"not from a page of this server\n")
        elif not self._is_told(self.headers.get("X-Token", "")):
            self._answer(403, b"not from a page of this server: open the whole address that the command printed\n")
        elif self.headers.get("Content-Type") != "application/json":
            self._answer(415, b"JSON only\n")
        elif not (length.isascii() and length.isdigit()) or self.headers.get("Transfer-Encoding"):
            self._answer(411, b"how long is it?\n")
        elif len(length) > 9 or int(length) > LONGEST_BODY:
            self._answer(413, b"too long\n")
        else:
            return False
        return True

    def _answer(self, status: int, body: bytes, kind: str = "text/plain; charset=utf-8") -> None:
        self.send_response(status)
        headers = {
            "Content-Type": kind,
            "Content-Length": str(len(body)),
            "Content-Security-Policy": self.server.policy,
            "X-Content-Type-Options": "nosniff",
            "X-Frame-Options": "DENY",
            "Referrer-Policy": "no-referrer",
            "Cross-Origin-Resource-Policy": "same-origin",
            "Cross-Origin-Opener-Policy": "same-origin",
            "Cache-Control": "no-store",
            "Connection": "close",
        }
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        """Requests are no news; what they hold may come from a model."""
