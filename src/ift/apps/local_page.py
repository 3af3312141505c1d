"""The small server behind each page that a person opens in the browser: on the loopback address of this machine alone.

A page from elsewhere that is open in the same browser could send requests to it. So each request must name this
machine as its host, and each change must come from a page of this server. Other people on the same machine can reach
the port as well: only who knows the token in the address that the command printed gets the page.

The port may be forwarded: any port of localhost reaches the page (ssh -L, VS Code), and a proxy under a name of its own
(Jupyter, code-server) does where that name was given as the page's address.
"""

from __future__ import annotations

import hmac
import json
import os
import secrets
import stat
import sys
import webbrowser
from collections.abc import Callable, Mapping
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import parse_qs, urlsplit

from ift.apps.hosts import Hosts, checked_address
from ift.errors import IftError, MachineError, one_line, report

LONGEST_BODY = 65_536  # bytes of a request
PLAIN_TEXT = "text/plain; charset=utf-8"
NOT_IN_A_FRAME = "frame-ancestors 'none'"  # a part of a policy that counts in a header alone


class Refused(Exception):
    """A request that a page's action does not take, in words for the person."""


class LocalPage(Protocol):
    """What a server needs: page() is the HTML, policy its Content-Security-Policy, posts the action of each path.

    An action gets the JSON value of a request and returns one; it raises Refused for a value that it does not take.
    """

    @property
    def policy(self) -> str: ...
    @property
    def posts(self) -> Mapping[str, Callable[[Any], dict[str, Any]]]: ...
    def page(self) -> str: ...


def kept_token(path: Path) -> str:
    """The secret in a page's address. It is kept, for its owner alone, so that open pages outlive their server.

    One that others can read or wrote is not used, and where none can be kept each start has its own.
    """
    for _ in range(2):
        with suppress(OSError, ValueError), path.open(encoding="ascii") as file:
            status = os.fstat(file.fileno())
            token = file.read(100).strip()
            ours = not hasattr(os, "getuid") or (status.st_uid == os.getuid() and not status.st_mode & 0o077)
            if stat.S_ISREG(status.st_mode) and ours and len(token) >= 32:
                return token
            path.unlink()
        token = secrets.token_urlsafe(24)
        partial = path.with_name(f"{path.name}.{os.getpid()}.part")
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                file.write(token)
            with suppress(FileExistsError):  # another server was faster: its token counts
                os.link(partial, path)
            partial.unlink()
    return token


class PageServer(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, app: LocalPage, port: int, *, token: str = "", address: str = ""):
        """address: that under which a proxy shows the page. Raises MachineError where the port is taken, ConfigError.

        Without a token the page is everyone's on this machine.
        """
        self.app, self.token, self.address = app, token, checked_address(address) if address else ""
        self.hosts = Hosts(self.address)
        try:
            super().__init__(("127.0.0.1", port), Handler)
        except (OSError, OverflowError) as error:
            raise MachineError(f"port {port}: {one_line(str(error), 80)} (--port 0 takes any free one)") from error
        self.port = self.server_address[1]
        self.policy = f"{app.policy}; {NOT_IN_A_FRAME}"

    @property
    def url(self) -> str:
        address = self.address or f"http://127.0.0.1:{self.port}/"
        return address + (f"?token={self.token}" if self.token else "")

    def serve(self, *, browser: bool) -> None:
        """Until Ctrl-C."""
        try:
            print(f"open      {self.url}  (Ctrl-C ends)", flush=True)
            if browser:
                webbrowser.open(self.url)
            self.serve_forever()
        except KeyboardInterrupt:  # from the moment on in which the line above says so
            print()

    def handle_error(self, request: Any, client_address: Any) -> None:
        error = sys.exception()
        if error and not isinstance(error, ConnectionError | TimeoutError):  # a browser that hangs up is no news
            report(error)


class Handler(BaseHTTPRequestHandler):
    server: PageServer
    timeout = 10  # seconds for a request to arrive
    server_version, sys_version = "ift", ""

    def do_GET(self) -> None:
        if self._refuse_host():
            return
        address = urlsplit(self.path)
        if address.path == "/favicon.ico":
            self._reply(204, b"", "image/x-icon")
        elif address.path != "/":
            self._reply(404, b"no such page\n")
        elif not self._has_token(parse_qs(address.query).get("token", [""])[0]):
            self._reply(403, b"open the whole address that the command printed\n")
        else:
            self._reply(*_outcome(lambda: self.server.app.page().encode(), "text/html; charset=utf-8"))

    def do_POST(self) -> None:
        if self._refuse_host() or self._refuse_change():
            return
        body = self.rfile.read(int(self.headers["Content-Length"]))
        action = self.server.app.posts.get(self.path)
        if action is None:
            self._reply(404, b"no such page\n")
        else:
            try:
                request = json.loads(body)
            except (ValueError, RecursionError):
                self._reply(400, b"not JSON\n")
                return
            self._reply(*_outcome(lambda: json.dumps(action(request)).encode(), "application/json"))

    def _has_token(self, token: str) -> bool:
        own = self.server.token
        return not own or hmac.compare_digest(token.encode("utf-8", "replace"), own.encode())

    def _refuse_host(self) -> bool:
        if self.server.hosts.has(self.headers.get("Host", "")) and len(self.headers.get_all("Host", [])) == 1:
            return False
        self._reply(421, b"this server answers to localhost alone (behind a proxy: --address https://HOST/PATH/)\n")
        return True

    def _refuse_change(self) -> bool:
        """Only a page of this server may change anything, and only in a form that no plain link or form has."""
        length = self.headers.get("Content-Length", "")
        if not self.server.hosts.is_origin(self.headers.get("Origin", ""), self.headers["Host"]):
            self._reply(403, b"not from a page of this server\n")
        elif not self._has_token(self.headers.get("X-Token", "")):
            self._reply(403, b"not from a page of this server: open the whole address that the command printed\n")
        elif self.headers.get("Content-Type") != "application/json":
            self._reply(415, b"JSON only\n")
        elif not (length.isascii() and length.isdigit()) or self.headers.get("Transfer-Encoding"):
            self._reply(411, b"a Content-Length is needed\n")
        elif len(length) > 9 or int(length) > LONGEST_BODY:
            self._reply(413, b"too long\n")
        else:
            return False
        return True

    def _reply(self, status: int, body: bytes, kind: str = PLAIN_TEXT) -> None:
        self.send_response(status)
        headers = {"Content-Type": kind, "Content-Length": str(len(body)), "Connection": "close"}
        headers |= page_headers(self.server.policy)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        """Requests are no news; what they hold may come from a model."""


def page_headers(policy: str) -> dict[str, str]:
    """What a browser is told about a page besides what the page itself says."""
    return {
        "Content-Security-Policy": policy,
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "DENY",
        "Referrer-Policy": "no-referrer",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cache-Control": "no-store",
    }


def _outcome(action: Callable[[], bytes], kind: str) -> tuple[int, bytes, str]:
    """Status, body and content type of what an action returns or raises; a problem is one line of plain text.

    What is not the person's mistake is also reported on the terminal: in one line, with IFT_DEBUG=1 as a traceback.
    """
    try:
        return 200, action(), kind
    except Refused as error:
        status, problem = 400, one_line(str(error), 100)
    except OSError as error:
        status, problem = 507, one_line(error.strerror or str(error))
        report(error)
    except IftError as error:
        status, problem = 500, one_line(str(error))
        report(error)
    except Exception as error:
        status, problem = 500, one_line(f"{type(error).__name__}: {error}")
        report(error)
    return status, f"{problem}\n".encode(errors="replace"), PLAIN_TEXT
