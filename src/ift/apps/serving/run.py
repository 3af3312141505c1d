"""`ift serve`: open the models, listen, and end without cutting an answer off."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Sequence

from aiohttp import web

from ift.apps.chat_page import ChatPage
from ift.apps.serving.connection import Runner
from ift.apps.serving.gate import Gate
from ift.apps.serving.models import Served
from ift.apps.serving.server import Api
from ift.apps.serving.worker import Worker
from ift.apps.speaker import ModelPlace
from ift.artifacts.bases import Bases
from ift.errors import MachineError, one_line

DRAIN_SECONDS = 120  # for answers that are on their way when the server is to end


def serve(
    places: Sequence[tuple[str, ModelPlace]],
    gate: Gate,
    *,
    host: str,
    port: int,
    accelerator: str = "auto",
    precision: str = "auto",
) -> None:
    """Until SIGTERM or Ctrl-C. Raises as opening the models does, and MachineError where the port is taken."""
    listening = listen(host, port)
    models, bases = [], Bases() if len(places) > 1 else None
    for name, place in places:
        print(f"loading   {name}", flush=True)
        models.append(Served.open(name, place, accelerator=accelerator, precision=precision, bases=bases))
    asyncio.run(_serve(models, gate, ChatPage(dict(places)), listening))


def listen(host: str, port: int) -> socket.socket:
    """Taken before the models are opened, which takes long: a taken port is known at once."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((host, port))
    except (OSError, OverflowError) as error:
        made.close()
        raise _taken(host, port, error) from error
    return made


def _taken(host: str, port: int, error: Exception) -> MachineError:
    return MachineError(f"{host}:{port}: {one_line(str(error), 80)} (--port 0 takes any free one)")


async def _serve(models: Sequence[Served], gate: Gate, page: ChatPage, listening: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    worker = Worker(models, loop.call_soon_threadsafe)
    api = Api(models, worker, gate, page, log=lambda line: print(line, flush=True))
    asked, again = asyncio.Event(), asyncio.Event()

    def end() -> None:
        (again if asked.is_set() else asked).set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, end)
    runner = Runner(api.app)
    await runner.setup()
    worker.start()
    try:
        host, port = listening.getsockname()[:2]
        site = web.SockSite(runner, listening)
        try:
            await site.start()
        except OSError as error:
            raise _taken(host, port, error) from error
        shown = f"[{host}]" if ":" in host else host
        print(f"chat      {gate.hosts.address or f'http://{shown}:{port}/'}  (in the browser)", flush=True)
        token = ", with the token as its key" if gate.token else ""
        print(f"serving   http://{shown}:{port}/v1{token}  (Ctrl-C ends)", flush=True)
        await asked.wait()
        print(f"ending    {api.requests} requests on their way (a second signal ends at once)", flush=True)
        api.draining = True
        await site.stop()
        await _drained(api, again)
    finally:
        worker.close()
        await runner.cleanup()
        api.close()


async def _drained(api: Api, again: asyncio.Event) -> None:
    """Wait for requests that are on their way, unless somebody asks a second time."""
    deadline = asyncio.get_running_loop().time() + DRAIN_SECONDS
    while api.requests and not again.is_set() and asyncio.get_running_loop().time() < deadline:
        await asyncio.sleep(0.05)
