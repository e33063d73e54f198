"""Calls per second from Kahuna to an agent over real sockets, against a bare WebSocket echo.

Both ends of both run in this process, on the same uvicorn and the same client library, so the
ratio says what our protocol adds: JSON-RPC, deadlines, queues, dispatch.
"""

import asyncio
import tempfile
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import structlog
import uvloop
from litestar import Litestar
from websockets.asyncio.client import connect

from appliance.agent.client import AgentClient
from appliance.agent.dial import WebSocketDialer
from appliance.agent.dispatch import Dispatcher
from appliance.agent.fences import FenceBook
from appliance.agent.handlers import base_handlers
from appliance.api.agents import agent_socket
from appliance.api.listener import Limits, Listener, bind_tcp
from appliance.model.agent import AgentType
from appliance.rpc.hub import Hub
from appliance.rpc.method import Nothing
from appliance.rpc.methods import AGENT_PING
from tests.support.rpc import AGENT, SYSTEM_CLOCK, Directory, Recorder, greeting
from tests.support.wait import until

_CALLS: Final = 4000
_IN_FLIGHT: Final = 64
_ROUNDS: Final = 5
_FRAME: Final = (
    '{"jsonrpc":"2.0","id":1234,"method":"agent.ping",'
    '"params":{"deadline_ms":2000,"command":null,"arguments":{}}}'
)


def run() -> dict[str, float]:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    with tempfile.TemporaryDirectory() as directory:
        return uvloop.run(_measure(Path(directory)))


async def _measure(directory: Path) -> dict[str, float]:
    best: dict[str, float] = {}
    async with _bare_echo() as bare, _agent(directory) as hub:

        async def call() -> None:
            await hub.call(AGENT, AGENT_PING, Nothing())

        # In turns, and the best of each: noise of the machine falls on all alike.
        for _ in range(_ROUNDS):
            for name, rate in {
                "bare_echo_per_s": await _rate(1, bare),
                "rpc_per_s": await _rate(1, call),
                "bare_echo_64_per_s": await _rate(_IN_FLIGHT, bare),
                "rpc_64_per_s": await _rate(_IN_FLIGHT, call),
            }.items():
                best[name] = max(rate, best.get(name, 0.0))
    best["ratio"] = best["rpc_per_s"] / best["bare_echo_per_s"]
    best["ratio_64"] = best["rpc_64_per_s"] / best["bare_echo_64_per_s"]
    return best


async def _rate(in_flight: int, call: Callable[[], Awaitable[None]]) -> float:
    async def repeat() -> None:
        for _ in range(_CALLS // in_flight):
            await call()

    began = time.perf_counter()
    async with asyncio.TaskGroup() as tasks:
        for _ in range(in_flight):
            tasks.create_task(repeat())
    return _CALLS / (time.perf_counter() - began)


@asynccontextmanager
async def _bare_echo() -> AsyncGenerator[Callable[[], Awaitable[None]]]:
    async def app(scope: Any, receive: Any, send: Any) -> None:  # noqa: ANN401 - raw ASGI
        await receive()
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": message["text"]})

    async with (
        _serving(app) as port,
        connect(f"ws://127.0.0.1:{port}", compression=None, ping_interval=None) as socket,
        asyncio.TaskGroup() as tasks,
    ):
        waiting: asyncio.Queue[asyncio.Future[None]] = asyncio.Queue()

        async def read() -> None:
            while True:
                await socket.recv()
                waiting.get_nowait().set_result(None)

        async def call() -> None:
            answered = asyncio.get_running_loop().create_future()
            waiting.put_nowait(answered)
            await socket.send(_FRAME)
            await answered

        reading = tasks.create_task(read())
        yield call
        reading.cancel()


@asynccontextmanager
async def _agent(directory: Path) -> AsyncGenerator[Hub]:
    agents, recorder = Directory(), Recorder()
    hub = Hub(agents, kahuna="bench", clock=SYSTEM_CLOCK, alarm=recorder.alarm)
    app = Litestar([agent_socket(hub, lambda: b"")], logging_config=None)
    handlers = base_handlers(AGENT, AgentType.KAKTUS, version="1", boot_id="boot-1")
    async with (
        _serving(app) as port,
        FenceBook.open(directory / "fences.db") as fences,
        Dispatcher(handlers, fences) as dispatcher,
        asyncio.TaskGroup() as tasks,
    ):
        client = AgentClient(
            [f"ws://127.0.0.1:{port}"],
            greeting(agents.add()),
            dispatcher,
            dialer=WebSocketDialer(None),
            clock=SYSTEM_CLOCK,
            stream_kinds={},
        )
        running = tasks.create_task(client.run())
        await until(lambda: hub.reachable(AGENT))
        yield hub
        running.cancel()


@asynccontextmanager
async def _serving(app: Any) -> AsyncGenerator[int]:  # noqa: ANN401 - any ASGI application
    sock = bind_tcp("127.0.0.1", 0)
    port: int = sock.getsockname()[1]
    listener = Listener(app, sock, limits=Limits())
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(listener.serve())
        await listener.listening.wait()
        yield port
        running.cancel()
