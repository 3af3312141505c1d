"""Who may ask: the host that a request names, the page that it comes from, the token that it knows."""

from __future__ import annotations

import hmac
import ipaddress
import os
import socket
import stat
from dataclasses import dataclass
from pathlib import Path

from aiohttp import web

from ift.apps.hosts import PORT, Hosts, checked_address
from ift.apps.serving.problems import ApiError
from ift.errors import ConfigError, warn

OPEN = ("/", "/health")  # without a token: they say nothing of a model
SHORTEST_TOKEN = 22  # characters: 128 bits in base64
VARIABLE = "IFT_SERVE_TOKEN"


@dataclass(frozen=True)
class Gate:
    """
    token      what a request must know; "": nothing
    elsewhere  other machines reach the server: it then has more names than this machine's own
    """

    hosts: Hosts
    token: str
    elsewhere: bool

    @classmethod
    def of(cls, host: str, *, address: str, token: str) -> Gate:
        """For a server that listens on `host`. Raises ConfigError where others would reach it without a token."""
        elsewhere = not is_loopback(host)
        if elsewhere and not token:
            raise ConfigError(
                f"--host {host}: other machines reach it, so it needs a token (--token-file FILE, or {VARIABLE})"
            )
        names = {host.lower(), socket.gethostname().lower(), socket.getfqdn().lower()} if elsewhere else set()
        return cls(Hosts(checked_address(address) if address else "", frozenset(names)), token, elsewhere)

    def check(self, request: web.Request) -> None:
        """Raises ApiError for a request that is not for this server or not from who may ask."""
        hosts, origins = request.headers.getall("Host", []), request.headers.getall("Origin", [])
        if len(hosts) != 1:
            raise ApiError(400, "a request must name its Host once")
        if not (self.hosts.has(hosts[0]) or (self.elsewhere and _is_ip(hosts[0]))):
            raise ApiError(421, "this server does not have the host of this request (behind a proxy: --address)")
        if origins and (len(origins) > 1 or not self.hosts.is_origin(origins[0], hosts[0])):
            raise ApiError(403, "not from a page of this server", kind="permission_error")
        if self.token and request.path not in OPEN and not self._knows_token(request):
            error = ApiError(401, "no token, or not the right one (Authorization: Bearer)", code="invalid_api_key")
            error.headers["WWW-Authenticate"] = "Bearer"
            raise error

    def _knows_token(self, request: web.Request) -> bool:
        given = request.headers.getall("Authorization", [])
        kind, _, token = given[0].partition(" ") if len(given) == 1 else ("", "", "")
        same = hmac.compare_digest(token.strip().encode("utf-8", "surrogateescape"), self.token.encode())
        return same and kind.lower() == "bearer"


def read_token(file: Path | None) -> str:
    """From a file, else from the environment, whence it is taken: no other process that we start will have it.

    Raises ConfigError for a file that cannot be read and for a token that could be guessed.
    """
    token, where = os.environ.pop(VARIABLE, "").strip(), VARIABLE
    if file is not None:
        where = f"--token-file {file}"
        try:
            token = file.read_text(encoding="utf-8").strip()
            if os.name == "posix" and file.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH):
                warn(f"{where}: others on this machine can read it (chmod 600 {file})")
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "no text"
            raise ConfigError(f"{where}: cannot be read: {why}") from error
        if not token:
            raise ConfigError(f"{where}: it is empty (openssl rand -base64 32 > {file})")
    if token and (len(token) < SHORTEST_TOKEN or not token.isprintable() or " " in token):
        raise ConfigError(
            f"{where}: the token must have {SHORTEST_TOKEN} characters or more, and no spaces (openssl rand -base64 32)"
        )
    return token


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _is_ip(host: str) -> bool:
    """Whether a Host is a number: nobody's DNS can point a number here."""
    try:
        ipaddress.ip_address(PORT.sub("", host).strip("[]"))
    except ValueError:
        return False
    return True
