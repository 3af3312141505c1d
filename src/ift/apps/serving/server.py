"""The routes: requests in, answers out, whole or as a stream. It reads HTTP and never touches a model."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from importlib.resources import files

from aiohttp import web

from ift.apps.chat_page import ChatPage
from ift.apps.local_page import NOT_IN_A_FRAME, Refused, page_headers
from ift.apps.serving import replies
from ift.apps.serving.choices import Order, Piece
from ift.apps.serving.connection import respond
from ift.apps.serving.counters import Counters
from ift.apps.serving.gate import Gate
from ift.apps.serving.models import Served
from ift.apps.serving.problems import ApiError, busy, ending
from ift.apps.serving.requests import ChatWanted, CompletionWanted, read_body, read_chat, read_completion
from ift.apps.serving.worker import Event, Failed, Job, Worker
from ift.errors import IftError, one_line, report

LONGEST_BODY = 1 << 20  # bytes
BODY_SECONDS = 30  # for a body to arrive
QUEUE = 64  # answers that wait for a slot, besides those that have one
SILENCE = 10  # seconds without a token after which a stream gets a comment
UNREAD = 1024  # pieces that a stream may be behind
WRITE_SECONDS = 30  # for a client to take a piece

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Inbox:
    """Events of one job on the HTTP side, in order.

    overflow: called once where more than UNREAD events wait to be taken
    """

    def __init__(self, answers: int, overflow: Callable[[], None]):
        self._events: deque[Event] = deque()
        self._open, self._overflow, self._more = answers, overflow, asyncio.Event()
        self._overflowed = False
        self.first: float | None = None  # when the first piece of an answer came
        self.tokens = 0

    @property
    def done(self) -> bool:
        """Whether all answers have ended."""
        return self._open == 0

    def put(self, event: Event) -> None:
        self.first = self.first or time.perf_counter()
        if isinstance(event, Failed):
            self._open = 0
        elif event.finish:
            self._open -= 1
            self.tokens += event.tokens
        self._events.append(event)
        self._more.set()
        if len(self._events) > UNREAD and not self._overflowed:
            self._overflowed = True
            self._overflow()

    async def pieces(self, silence: float | None = None) -> AsyncIterator[list[Piece]]:
        """What has come since the last look; an empty list after so many seconds of nothing. Raises ApiError."""
        while True:
            if not self._events:
                if self.done:
                    return
                self._more.clear()
                with suppress(TimeoutError):
                    async with asyncio.timeout(silence):
                        await self._more.wait()
            taken = list(self._events)
            self._events.clear()
            found = [event for event in taken if isinstance(event, Piece)]
            if found or not taken:
                yield found
            for event in taken:
                if isinstance(event, Failed):
                    raise ApiError(500, event.message)


class Api:
    """The application. `draining` is set by who ends the server: requests are then refused."""

    def __init__(
        self,
        models: Sequence[Served],
        worker: Worker,
        gate: Gate,
        page: ChatPage,
        log: Callable[[str], None] = print,
    ):
        self.models = {served.name: served for served in models}
        self.page = page
        self.worker, self.gate, self.log = worker, gate, log
        self.counters = Counters()
        self.open: Counter[str] = Counter()  # answers on their way or waiting, by model
        self.counters.watch(lambda: sum(self.open.values()))
        self.requests = 0  # on their way
        self.draining = False
        self._encoder = ThreadPoolExecutor(max_workers=1, thread_name_prefix="ift-encode")
        self.app = web.Application(middlewares=[self._around], client_max_size=LONGEST_BODY)
        self.app.add_routes(
            [
                web.get("/", self.show_page),
                web.post("/review", self.review),
                web.post("/v1/chat/completions", self.chat),
                web.post("/v1/completions", self.completions),
                web.get("/v1/models", self.list_models),
                web.get("/v1/models/{name:.+}", self.show_model),
                web.get("/health", self.health),
                web.get("/metrics", self.metrics),
                web.get("/openapi.json", self.openapi),
            ]
        )

    def close(self) -> None:
        self._encoder.shutdown(wait=False, cancel_futures=True)

    # -- around all routes ---------------------------------------------------------------------------------------------

    @web.middleware
    async def _around(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """The gate, errors in their form, a line of log without a word of the request."""
        start, status = time.perf_counter(), 499
        self.requests += 1
        try:
            response = await self._checked(request, handler)
            status = request.get("status", response.status)
            return response
        finally:
            self.requests -= 1
            resource = request.match_info.route.resource
            route = resource.canonical if resource else "unknown"
            self.counters.requests.labels(route, str(status)).inc()
            if route not in ("/health", "/metrics"):
                seconds = time.perf_counter() - start
                about = request.get("about", "")
                self.log(f"{time.strftime('%H:%M:%S')}  {request.method[:8]} {route} {status} {about}{seconds:.2f} s")

    async def _checked(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            self.gate.check(request)
            if self.draining:
                raise ending()
            return await handler(request)
        except ApiError as error:
            response = respond(error)
        except web.HTTPException as error:
            known = {404: "no such route", 405: "no such method here", 413: "the body is longer than 1 MiB"}
            response = respond(ApiError(error.status, known.get(error.status, error.reason)))
            if "Allow" in error.headers:
                response.headers["Allow"] = error.headers["Allow"]
        except ConnectionError:  # the client has left
            raise
        except Exception as error:
            report(error)
            response = respond(ApiError(500, "the server failed (see its log)"))
        if request.can_read_body and not request.content.is_eof():
            response.force_close()  # what is left of the body is not read
        return response

    # -- small routes --------------------------------------------------------------------------------------------------

    async def list_models(self, request: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [self._listed(one) for one in self.models.values()]})

    async def show_model(self, request: web.Request) -> web.Response:
        return web.json_response(self._listed(self._served(request.match_info["name"])))

    def _listed(self, served: Served) -> dict[str, object]:
        """review: answers of this model can be sent to /review."""
        return {**served.to_json(), "review": self.page.can_review(served.name)}

    async def health(self, request: web.Request) -> web.Response:
        return web.json_response({"status": "ok", "models": list(self.models)})

    async def metrics(self, request: web.Request) -> web.Response:
        return web.Response(body=self.counters.text(), headers={"Content-Type": "text/plain; version=0.0.4"})

    async def openapi(self, request: web.Request) -> web.Response:
        text = (files("ift.apps.serving") / "openapi.json").read_text(encoding="utf-8")
        return web.Response(text=text, content_type="application/json")

    # -- the chat page -------------------------------------------------------------------------------------------------

    async def show_page(self, request: web.Request) -> web.Response:
        headers = page_headers(f"{self.page.policy}; {NOT_IN_A_FRAME}")
        return web.Response(text=self.page.page(), content_type="text/html", headers=headers)

    async def review(self, request: web.Request) -> web.Response:
        value = await self._body(request)
        try:
            return web.json_response(await asyncio.to_thread(self.page.review, value))
        except Refused as error:
            raise ApiError(400, str(error)) from error
        except IftError as error:  # the run's folder is full or not ours, or a file in it is damaged
            report(error)
            raise ApiError(500, one_line(str(error))) from error

    # -- answers -------------------------------------------------------------------------------------------------------

    async def chat(self, request: web.Request) -> web.StreamResponse:
        wanted = read_chat(await self._body(request))
        served = self._served(wanted.model)
        with self._room(served, wanted.n):
            orders = await self._off_the_loop(lambda: served.chat_orders(wanted))
            prompt_tokens = len(orders[0].prompt)
            return await self._answer(request, served, wanted, orders, prompt_tokens)

    async def completions(self, request: web.Request) -> web.StreamResponse:
        wanted = read_completion(await self._body(request))
        served = self._served(wanted.model)
        with self._room(served, wanted.n * len(wanted.prompts)):
            orders = await self._off_the_loop(lambda: served.completion_orders(wanted))
            prompt_tokens = sum(len(order.prompt) for order in orders[:: wanted.n])
            return await self._answer(request, served, wanted, orders, prompt_tokens)

    async def _body(self, request: web.Request) -> dict[str, object]:
        if request.content_type != "application/json":
            raise ApiError(415, "the body must be JSON (Content-Type: application/json)")
        if request.headers.get("Content-Encoding", "identity") != "identity":
            raise ApiError(415, "a packed body is not taken (leave out Content-Encoding)")
        if (request.content_length or 0) > LONGEST_BODY:  # told before it comes
            raise web.HTTPRequestEntityTooLarge(LONGEST_BODY, request.content_length or 0)
        try:
            async with asyncio.timeout(BODY_SECONDS):
                return read_body(await request.read())
        except TimeoutError:
            raise ApiError(408, f"the body did not arrive within {BODY_SECONDS} s") from None

    def _served(self, name: str | None) -> Served:
        if name is None and len(self.models) == 1:
            return next(iter(self.models.values()))
        if name not in self.models:
            there = ", ".join(self.models)
            what = "model: must be given" if name is None else "model: no such model"
            raise ApiError(404, f"{what} (there is {there})", param="model", code="model_not_found")
        return self.models[name]

    @contextmanager
    def _room(self, served: Served, answers: int) -> Iterator[None]:
        """Raises ApiError where as many answers wait as may."""
        if self.open[served.name] >= self.worker.slots(served) + QUEUE:
            raise busy()
        self.open[served.name] += answers
        try:
            yield
        finally:
            self.open[served.name] -= answers

    async def _off_the_loop(self, make: Callable[[], list[Order]]) -> list[Order]:
        """Text becomes tokens in one thread of its own: a long one holds up no stream."""
        return await asyncio.get_running_loop().run_in_executor(self._encoder, make)

    async def _answer(
        self,
        request: web.Request,
        served: Served,
        wanted: ChatWanted | CompletionWanted,
        orders: Sequence[Order],
        prompt_tokens: int,
    ) -> web.StreamResponse:
        start = time.perf_counter()
        self.counters.unknown.inc(len(wanted.unknown))

        def give_up() -> None:  # nobody reads the stream: what would wait for them has no end
            if wanted.stream:
                self.worker.cancel(job)
                self._hang_up(request)

        inbox = Inbox(len(orders), give_up)
        job = Job(served, orders, inbox.put, wanted.stream)
        chat = isinstance(wanted, ChatWanted)
        head = replies.Head(
            id=f"{'chatcmpl' if chat else 'cmpl'}-{secrets.token_hex(12)}",
            created=int(time.time()),
            model=served.name,
            fingerprint=served.fingerprint,
            names=served.names if wanted.top is not None else (),
            token_bytes=served.token_bytes,
            chat=chat,
            usage=wanted.usage,
        )
        self.worker.submit(job)
        try:
            if wanted.stream:
                return await self._stream(request, head, inbox, len(orders), wanted.top is not None, prompt_tokens)
            pieces = [piece async for found in inbox.pieces() for piece in found]
            scored = wanted.top is not None
            value = replies.whole(head, pieces, answers=len(orders), scored=scored, prompt_tokens=prompt_tokens)
            return web.json_response(value)
        finally:
            if not inbox.done:
                self.worker.cancel(job)
            self._count(request, served, inbox, start, prompt_tokens, wanted)

    def _count(
        self,
        request: web.Request,
        served: Served,
        inbox: Inbox,
        start: float,
        prompt_tokens: int,
        wanted: ChatWanted | CompletionWanted,
    ) -> None:
        counters, name, now = self.counters, served.name, time.perf_counter()
        counters.prompt_tokens.labels(name).inc(prompt_tokens)
        counters.answer_tokens.labels(name).inc(inbox.tokens)
        counters.seconds.labels(name).observe(now - start)
        if inbox.first is not None:
            counters.first.labels(name).observe(inbox.first - start)
        unknown = f", {len(wanted.unknown)} unknown keys" if wanted.unknown else ""
        request["about"] = f"{name} {prompt_tokens}+{inbox.tokens} tokens{unknown} "

    async def _stream(
        self, request: web.Request, head: replies.Head, inbox: Inbox, answers: int, scored: bool, prompt_tokens: int
    ) -> web.StreamResponse:
        headers = {"Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-cache"}
        response = web.StreamResponse(headers={**headers, "X-Accel-Buffering": "no"})
        await response.prepare(request)
        try:
            await self._write(response, replies.opening(head, answers))
            async for found in inbox.pieces(SILENCE):
                events = [event for piece in found for event in replies.events(head, piece, scored=scored)]
                await self._write(response, events or [b": still working\n\n"])
            await self._write(response, replies.closing(head, prompt_tokens, inbox.tokens))
            await response.write_eof()
        except ApiError as error:  # its status was sent long ago
            await self._write(response, [replies.event(error.body)])
            request["status"] = error.status
        except TimeoutError:
            self._hang_up(request)
        return response

    def _hang_up(self, request: web.Request) -> None:
        """On a client that does not read."""
        self.counters.slow.inc()
        request["status"] = 499
        if request.transport is not None:
            request.transport.abort()

    async def _write(self, response: web.StreamResponse, events: Iterable[bytes]) -> None:
        async with asyncio.timeout(WRITE_SECONDS):
            data = b"".join(events)
            if data:
                await response.write(data)
