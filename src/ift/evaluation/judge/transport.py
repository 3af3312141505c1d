"""One HTTP request and the whole of its reply: by a deadline, up to a size, and to no other host. Knows no protocol.

Connections are kept for the next request. Variables like HTTPS_PROXY and NO_PROXY count, except for a server on this
machine. No redirect is followed: it could lead the key to another host.
"""

from __future__ import annotations

import base64
import http.client
import io
import ipaddress
import json
import os
import selectors
import socket
import ssl
import threading
import time
import urllib.request
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

from ift.errors import ConfigError

LONGEST_CONNECT = 15.0  # seconds until there is a connection, of all that a reply may take
LARGEST = 8 * 2**20  # bytes of a reply, unpacked
CHUNK = 65536
UNPACK = {"gzip": 31, "x-gzip": 31, "deflate": 47}  # Content-Encoding -> wbits of zlib


class NoReplyError(Exception):
    """No reply this time, perhaps the next. maybe_paid: the server may have done the work and charge for it."""

    def __init__(self, why: str, *, wait: float | None = None, maybe_paid: bool = False):
        super().__init__(why)
        self.wait, self.maybe_paid = wait, maybe_paid


class NobodyThereError(NoReplyError):
    """No connection: nothing was sent."""


class TooLargeError(Exception):
    """The reply is larger than LARGEST, and would be so again."""


@dataclass(frozen=True)
class Response:
    status: int
    headers: Mapping[str, str]
    body: bytes

    def header(self, name: str) -> str:
        return next((value for key, value in self.headers.items() if key.lower() == name.lower()), "")

    @property
    def text(self) -> str:
        """utf-8-sig: some servers begin with a byte order mark."""
        return self.body.decode("utf-8-sig", "replace")


class Transport:
    """POST requests to one server, from any thread."""

    def __init__(self, url: str, *, timeout: float, headers: Mapping[str, str]):
        """timeout: seconds for a whole reply. Raises ConfigError for a proxy that cannot be used."""
        self.server, self.timeout = urlsplit(url), timeout
        self.proxy, self.proxy_name = proxy_for(url)
        self.headers = {"Content-Type": "application/json", "Accept": "application/json", **headers}
        self.headers |= {"Accept-Encoding": "gzip", "User-Agent": "ift"}
        self.certificates = _certificates() if self.server.scheme == "https" else None
        self.idle: list[_Connection | _SecureConnection] = []
        self.lock = threading.Lock()

    def post(self, url: str, value: Any) -> Response:
        """url: on the same server. Raises NoReplyError and TooLargeError."""
        parts = urlsplit(url)
        until = time.monotonic() + self.timeout
        connection = self._connection(until)
        try:
            response = self._exchange(connection, parts, json.dumps(value).encode())
        except TimeoutError as error:
            connection.close()
            raise NoReplyError(f"no whole reply within judge.timeout={self.timeout:g}", maybe_paid=True) from error
        except (OSError, http.client.HTTPException, ValueError, zlib.error) as error:
            connection.close()
            raise NoReplyError(f"the reply broke off ({error or type(error).__name__})", maybe_paid=True) from error
        except BaseException:
            connection.close()
            raise
        with self.lock:
            self.idle.append(connection)
        return response

    def close(self) -> None:
        with self.lock:
            for connection in self.idle:
                connection.close()
            self.idle.clear()

    def _connection(self, until: float) -> _Connection | _SecureConnection:
        """One that is open: kept from an earlier request, or new."""
        with self.lock:
            while self.idle:
                connection = self.idle.pop()
                if connection.is_open():
                    connection.until(until)
                    return connection
                connection.close()
        connection = self._new_connection(min(LONGEST_CONNECT, self.timeout))
        where = f"the proxy of {self.proxy_name}" if self.proxy else self.server.netloc
        try:
            connection.connect()
        except TimeoutError as error:
            connection.close()
            raise NobodyThereError(f"no connection to {where} within {connection.timeout:g} s") from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            connection.close()
            why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            raise NobodyThereError(f"no connection to {where}: {why or type(error).__name__}") from error
        connection.until(until)
        return connection

    def _new_connection(self, timeout: float) -> _Connection | _SecureConnection:
        near = self.proxy or self.server
        host, port = near.hostname or "", near.port
        if self.certificates is None:
            return _Connection(host, port or 80, timeout=timeout)
        port = port or (80 if self.proxy else 443)
        secure = _SecureConnection(host, port, timeout=timeout, context=self.certificates)
        if self.proxy:
            secure.set_tunnel(self.server.hostname or "", self.server.port or 443, _proxy_key(self.proxy))
        return secure

    def _exchange(self, connection: _Connection | _SecureConnection, parts: SplitResult, data: bytes) -> Response:
        target = parts.path or "/"
        headers = dict(self.headers)
        if self.proxy and self.server.scheme == "http":
            target = f"http://{parts.netloc}{target}"
            headers |= _proxy_key(self.proxy)
        connection.request("POST", target, data, headers)
        with connection.getresponse() as response:
            body = _read(response)
            if response.will_close:
                connection.close()
            return Response(response.status, dict(response.headers.items()), body)


def _read(response: http.client.HTTPResponse) -> bytes:
    """The body, unpacked. Raises TooLargeError, and IncompleteRead where bytes that were promised are missing."""
    encoding = response.headers.get("Content-Encoding", "").strip().lower()
    if encoding not in ("", "identity", *UNPACK):
        raise ValueError(f"packed as {encoding[:20]}")
    unpack = zlib.decompressobj(UNPACK[encoding]) if encoding in UNPACK else None
    body = bytearray()
    while chunk := response.read(CHUNK):
        while chunk:
            body += unpack.decompress(chunk, LARGEST + 1) if unpack else chunk
            if len(body) > LARGEST:
                raise TooLargeError(f"a reply of more than {LARGEST // 2**20} MiB")
            chunk = unpack.unconsumed_tail if unpack else b""
    if response.length or (unpack and not unpack.eof):
        raise http.client.IncompleteRead(bytes(body[:0]), response.length)
    return bytes(body)


# -- connections ---------------------------------------------------------------------------------------------------


class _TimedSocket:
    """A connected socket, as http.client uses one, whose reads and writes all end by one moment."""

    def __init__(self, sock: socket.socket):
        self.sock, self.until = sock, float("inf")

    def arm(self) -> None:
        left = self.until - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self.sock.settimeout(min(left, threading.TIMEOUT_MAX))

    def sendall(self, data: Any) -> None:
        self.arm()
        self.sock.sendall(data)

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(_TimedReader(self))

    def close(self) -> None:
        self.sock.close()


class _TimedReader(io.RawIOBase):
    def __init__(self, timed: _TimedSocket):
        self.timed = timed
        self.raw = timed.sock.makefile("rb", buffering=0)  # the socket stays open until this is closed

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self.timed.arm()
        return self.raw.readinto(buffer)

    def close(self) -> None:
        self.raw.close()
        super().close()


class _Timed:
    """What both kinds of connection have in common."""

    sock: Any

    def connect(self) -> None:
        super().connect()  # type: ignore[misc]
        self.sock = _TimedSocket(self.sock)

    def until(self, moment: float) -> None:
        self.sock.until = moment

    def is_open(self) -> bool:
        """A server that closed a connection made it readable: there is an end to be read."""
        if self.sock is None:
            return False
        with selectors.DefaultSelector() as selector:
            selector.register(self.sock.sock, selectors.EVENT_READ)
            return not selector.select(0)


class _Connection(_Timed, http.client.HTTPConnection):
    pass


class _SecureConnection(_Timed, http.client.HTTPSConnection):
    pass


def _certificates() -> ssl.SSLContext:
    """The machine's own; certifi's where Python was installed without any."""
    context = ssl.create_default_context()
    if not context.cert_store_stats()["x509_ca"] and not os.environ.get("SSL_CERT_DIR"):
        try:
            import certifi

            context.load_verify_locations(certifi.where())
        except ImportError:
            pass
    return context


# -- addresses and proxies -----------------------------------------------------------------------------------------


def is_here(url: str) -> bool:
    """Whether an address is this machine's own, where tokens cost nothing and no proxy leads."""
    host = (urlsplit(url).hostname or "").rstrip(".")
    try:
        ip = ipaddress.ip_address(host)
        return ip.is_loopback or ip.is_unspecified
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def proxy_for(url: str) -> tuple[SplitResult | None, str]:
    """The proxy that leads to an address, and the variable that names it. Raises ConfigError for a kind not known."""
    parts = urlsplit(url)
    proxies = urllib.request.getproxies()
    scheme = parts.scheme if proxies.get(parts.scheme) else "all"
    named = proxies.get(scheme)
    if not named or is_here(url) or _goes_direct(parts, proxies.get("no", "")):
        return None, ""
    name = f"{scheme.upper()}_PROXY"
    try:
        proxy = urlsplit(named if "://" in named else f"http://{named}")
        usable = proxy.scheme == "http" and bool(proxy.hostname) and proxy.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise ConfigError(f"{name}: not a proxy that can be used here (http://HOST:PORT; NO_PROXY={parts.hostname})")
    return proxy, name


def _goes_direct(parts: SplitResult, no_proxy: str) -> bool:
    """By the machine's rules, and by networks in NO_PROXY like 10.0.0.0/8, which Python's own rules do not know."""
    host = parts.hostname or ""
    if urllib.request.proxy_bypass(f"{host}:{parts.port}" if parts.port else host):
        return True
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        return False
    for entry in no_proxy.split(","):
        try:
            if ip in ipaddress.ip_network(entry.strip(), strict=False):
                return True
        except ValueError:
            continue
    return False


def _proxy_key(proxy: SplitResult) -> dict[str, str]:
    if not proxy.username:
        return {}
    words = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
    return {"Proxy-Authorization": "Basic " + base64.b64encode(words.encode()).decode()}
