"""aiohttp's server with our form of errors, also for what is no HTTP at all; its logs hold nothing of requests."""

from __future__ import annotations

import logging
from typing import Any

from aiohttp import web

from ift.apps.serving.problems import ApiError

HEADER_SECONDS = 10  # for a request's headers to arrive, and for a connection to be idle
LOG = logging.getLogger("ift.apps.serving")
LOG.addHandler(logging.NullHandler())
LOG.propagate = False  # aiohttp would log the line that it could not read


class Connection(web.RequestHandler):
    __slots__ = ()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """What is no request that can be read, and what went wrong outside of the handlers. It ends the connection."""
        if request.writer is not None and request.writer.output_size > 0:
            raise ConnectionError("a part of the answer is sent already")
        what = "not a request that can be read" if status < 500 else "the server failed"
        response = respond(ApiError(status, what))
        response.force_close()
        return response


class Listener(web.Server):
    def __call__(self) -> web.RequestHandler:
        return Connection(self, loop=self._loop, **self._kwargs)


class Runner(web.AppRunner):
    def __init__(self, app: web.Application):
        super().__init__(
            app,
            access_log=None,
            logger=LOG,
            handler_cancellation=True,  # a client that has left is heard of at once
            keepalive_timeout=HEADER_SECONDS,
            auto_decompress=False,  # bodies are small: a packed one is refused
            lingering_time=2,
            shutdown_timeout=0.5,  # answers on their way have been waited for before, unless somebody would not
        )

    async def _make_server(self) -> web.Server:
        made = await super()._make_server()
        options: dict[str, Any] = made._kwargs
        return Listener(
            made.request_handler,
            request_factory=made.request_factory,
            handler_cancellation=made.handler_cancellation,
            **options,
        )


def respond(error: ApiError) -> web.Response:
    return web.json_response(error.body, status=error.status, headers=error.headers)
