"""Structured nonsense over real WebSockets, both ways, after a hello that is in order."""

import asyncio
import json
import os
import random
import struct
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import strategies as st
from litestar import Litestar
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from appliance.agent.client import AgentClient
from appliance.agent.dial import WebSocketDialer, WebSocketTransport
from appliance.agent.dispatch import Dispatcher
from appliance.agent.fences import FenceBook
from appliance.agent.simulated import simulated_handlers
from appliance.api.agents import agent_socket
from appliance.api.guards import guard_by
from appliance.api.listener import Limits, Listener, bind_tcp
from appliance.core.aio import Backoff
from appliance.core.errors import KowabungaError
from appliance.drivers.fake.node import NodeTraits, SimulatedNode
from appliance.drivers.fake.world import World
from appliance.model.agent import AgentType
from appliance.rpc.hello import greet
from appliance.rpc.hub import Hub
from appliance.rpc.method import Nothing
from appliance.rpc.methods import AGENT_PING, METHODS
from appliance.rpc.transport import STREAM_SUBPROTOCOL, CloseCode, Transport, TransportClosed
from tests.support.faults import LONG, What, Where, breaks
from tests.support.fuzz import JSON, examples, for_long
from tests.support.fuzz_structs import almost, fitting
from tests.support.rpc import AGENT, OTHER, SYSTEM_CLOCK, Directory, Recorder, greeting, no_users
from tests.support.wait import until

Json = Any  # what a JSON text may hold
ROUNDS: Final = 40  # of some frames each, on a connection of their own

IDS: Final = st.sampled_from([None, 0, 1, 2, 3, 2**53 - 1, 2**53, -1, 0.5, "1", [1], 10**400])
COMMAND: Final = {
    "request_id": "r.1",
    "target": "instance/" + "a" * 24,
    "fence": {"epoch": 1, "fence": 1},
}


@st.composite
def frames(draw: st.DrawFn) -> Json:
    """A call, a notification or an answer: of a method that is declared, more or less."""
    method = draw(st.sampled_from(sorted(METHODS)))
    if draw(st.booleans()):
        frame: Json = {
            "jsonrpc": "2.0",
            "id": draw(IDS),
            "method": method,
            "params": {
                "deadline_ms": draw(st.sampled_from([0, 1, 1000, 24 * 3600 * 1000])),
                "command": draw(st.sampled_from([None, COMMAND])),
                "arguments": draw(fitting(METHODS[method].params)),
            },
        }
        if draw(st.booleans()):
            del frame["id"]
    else:
        problem = {"code": draw(st.sampled_from(["stale", "x", ""])), "detail": "\x1b[2J"}
        frame = {"jsonrpc": "2.0", "id": draw(IDS)} | draw(
            st.one_of(
                fitting(METHODS[method].result).map(lambda result: {"result": result}),
                JSON.map(lambda result: {"result": result}),
                st.just({"error": {"code": -32000, "message": "no", "data": problem}}),
                JSON.map(lambda error: {"error": error}),
            )
        )
    return (
        almost(frame, random.Random(draw(st.integers(0, 2**32)))) if draw(st.booleans()) else frame
    )


BATCHES: Final = st.lists(frames().map(json.dumps), min_size=1, max_size=8)
ODD_TEXTS: Final = [
    "", "{", "[]", "\x00", "[" * 100_000, '{"id":' * 50_000, '{"jsonrpc":"2.0","id":' + "9" * 5000,
    '{"jsonrpc":"2.0","id":1,"id":2,"method":"agent.ping"}', '"\\ud800"', "NaN", "\ufeff{}",
    '{"jsonrpc":"2.0","method":"session.event","params":{"arguments":' + "[" * 60_000,
]  # fmt: skip


class QuickBackoff(Backoff):
    def delay_s(self, failures: int) -> float:
        del failures
        return 0.01


@dataclass
class Server:
    """A real Kahuna's socket, and one sane agent that must not notice anything."""

    hub: Hub
    directory: Directory
    url: str
    recorder: Recorder = field(default_factory=Recorder)

    async def is_well(self) -> bool:
        return await self.hub.call(OTHER, AGENT_PING, Nothing()) == Nothing()


@asynccontextmanager
async def serving() -> AsyncGenerator[Server]:
    directory, recorder = Directory(), Recorder()
    hub = Hub(
        directory, kahuna="k1", clock=SYSTEM_CLOCK, alarm=recorder.alarm, on_event=recorder.event
    )
    app = Litestar(
        [agent_socket(hub, lambda: b"")], guards=[guard_by(no_users)], logging_config=None
    )
    sock = bind_tcp("127.0.0.1", 0)
    listener = Listener(app, sock, limits=Limits(graceful_stop_s=2))
    url = f"ws://127.0.0.1:{sock.getsockname()[1]}"
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(listener.serve())
        await listener.listening.wait()
        yield Server(hub, directory, url, recorder)
        running.cancel()


@asynccontextmanager
async def agent(
    directory: Path, server: Server, agent_id: str, dialer: WebSocketDialer
) -> AsyncGenerator[None]:
    """A whole agent before a simulated node, connected."""
    async with AsyncExitStack() as stack:
        world = stack.enter_context(World())
        node = SimulatedNode(agent_id, world, clock=SYSTEM_CLOCK, traits=NodeTraits(latency_s=0))
        handlers = simulated_handlers(
            node, AgentType.KAKTUS, version="1", boot_id="b", send_event=lambda _: None
        )
        fences = await stack.enter_async_context(FenceBook.open(directory / f"{agent_id}.db"))
        dispatcher = await stack.enter_async_context(Dispatcher(handlers, fences))
        tasks = await stack.enter_async_context(asyncio.TaskGroup())
        client = AgentClient(
            [server.url],
            greeting(server.directory.add(agent_id), agent_id=agent_id),
            dispatcher,
            dialer=dialer,
            clock=SYSTEM_CLOCK,
            stream_kinds={},
            backoff=QuickBackoff(),
        )
        running = tasks.create_task(client.run())
        await until(lambda: server.hub.reachable(agent_id))
        yield
        running.cancel()


@asynccontextmanager
async def greeted(server: Server) -> AsyncGenerator[ClientConnection]:
    """A socket whose owner has proven to be an agent."""
    credential = server.directory.add(AGENT)
    # It offers to compress, which nobody must take up.
    async with connect(server.url + "/ws", max_size=None) as raw:
        assert raw.response is not None
        assert "Sec-WebSocket-Extensions" not in raw.response.headers
        await greet(WebSocketTransport(raw, text=True), greeting(credential))
        yield raw


async def read_all(raw: ClientConnection) -> None:
    with suppress(ConnectionClosed):
        async for _ in raw:
            pass


@breaks(
    What.INPUT,
    "an agent that proves itself, then sends calls, events and answers that almost fit",
    expected="Kahuna answers or closes; other agents notice nothing",
    where=Where.HOST,
)
@for_long
async def test_an_agent_that_goes_mad_over_a_real_socket(tmp_path: Path) -> None:
    batches = [*([text] for text in ODD_TEXTS), *examples(BATCHES, ROUNDS)]
    async with serving() as server, agent(tmp_path, server, OTHER, WebSocketDialer(None)):
        for batch in batches:
            async with greeted(server) as raw, asyncio.TaskGroup() as tasks:
                reading = tasks.create_task(read_all(raw))
                with suppress(ConnectionClosed):
                    for text in batch:
                        await raw.send(text)
                    await raw.send(["", text[:1], text[1:]])  # in fragments
                assert await server.is_well()
                await raw.close()
                await reading
        await until(lambda: not server.hub.reachable(AGENT))
        assert await server.is_well()
    assert all(sender == AGENT for sender, _ in server.recorder.events)


def header(opcode: int, length: int, *, final: bool = True, reserved: int = 0) -> bytes:
    """Return the head of a frame as RFC 6455, 5.2, has it, with a mask that changes nothing."""
    first = (0x80 if final else 0) | reserved | opcode
    return struct.pack("!BBQ", first, 0x80 | 127, length) + bytes(4)


@breaks(
    What.INPUT,
    "frames that WebSocket forbids: compressed, binary, not UTF-8, too large, out of order",
    expected="Kahuna closes with the code that says why; other agents notice nothing",
    where=Where.HOST,
)
@pytest.mark.parametrize(
    ("data", "codes"),
    [
        pytest.param(header(1, 4, reserved=0x40) + b"\x00\x00\xff\xff", {1002}, id="compressed"),
        pytest.param(header(2, 2) + b"{}", {CloseCode.UNSUPPORTED_DATA}, id="binary"),
        pytest.param(header(1, 2) + b"\xff\xfe", {1007}, id="no UTF-8"),
        pytest.param(header(1, 3) + b"\xed\xa0\x80", {1007}, id="half of a pair"),
        pytest.param(header(1, 2**62), {1009}, id="4 exabytes"),
        pytest.param(header(1, 2**63 + 1), {1002, 1009}, id="a sign as length"),
        # None: whoever is cut off while he sends may not hear why.
        pytest.param(header(1, 700_000, final=False) + b"x" * 700_000
                     + header(0, 700_000) + b"x" * 700_000, {1009, None}, id="fragments"),
        pytest.param(header(0, 1) + b"x", {1002}, id="goes on with nothing"),
        pytest.param(header(3, 0), {1002}, id="unknown kind"),
        pytest.param(header(9, 200) + b"x" * 200, {1002}, id="a long ping"),
        pytest.param(header(8, 1) + b"x", {1002}, id="half of a close code"),
        pytest.param(b"\x81\x02{}", {1002}, id="no mask"),
    ],
)  # fmt: skip
async def test_what_no_websocket_may_send(
    tmp_path: Path, data: bytes, codes: set[int | None]
) -> None:
    async with serving() as server, agent(tmp_path, server, OTHER, WebSocketDialer(None)):
        async with greeted(server) as raw:
            raw.transport.write(data)
            await read_all(raw)
            closing = raw.protocol.close_rcvd
            assert (None if closing is None else closing.code) in codes
        assert await server.is_well()


@breaks(
    What.INPUT,
    "a stream socket that begins with anything but its token, or has another protocol",
    expected="closed; other agents notice nothing",
    where=Where.HOST,
)
@pytest.mark.parametrize(
    "first",
    [b"", b"{}", b"\0", b"[" * 100_000, b"\xff" * 100, os.urandom(64), b"x" * (2**20 + 1), "{}",
     json.dumps({"agent_id": "a" * 24, "token": "\ud800"}).encode(),
     json.dumps({"agent_id": "a" * 24, "token": "x" * 43}).encode()],
    ids=range(10),
)  # fmt: skip
async def test_a_stream_without_its_token(tmp_path: Path, first: bytes | str) -> None:
    async with serving() as server, agent(tmp_path, server, OTHER, WebSocketDialer(None)):
        async with connect(server.url + "/ws", subprotocols=[STREAM_SUBPROTOCOL]) as raw:  # type: ignore[list-item]
            with suppress(ConnectionClosed):
                await raw.send(first)
            await read_all(raw)
            assert raw.close_code != 1000
        with suppress(InvalidHandshake):  # or it is served as RPC, and says no hello
            async with connect(server.url + "/ws", subprotocols=["x"]):  # type: ignore[list-item]
                pass
        assert await server.is_well()


class MadKahuna(WebSocketDialer):
    """Dials the real one, and lets it say more than it does, once it has proven itself."""

    def __init__(self, batches: list[list[str]]) -> None:
        super().__init__(None)
        self.batches = batches

    @asynccontextmanager
    async def dial(self, url: str, *, stream: bool = False) -> AsyncIterator[Any]:
        async with super().dial(url, stream=stream) as transport:
            yield MadTransport(transport, self.batches.pop()) if self.batches else transport


class MadTransport:
    def __init__(self, transport: Transport, batch: list[str]) -> None:
        self._transport = transport
        self._batch = batch
        self._heard = 0
        self.address = transport.address
        self.certificate_sha256 = transport.certificate_sha256

    async def send(self, frame: bytes) -> None:
        await self._transport.send(frame)

    async def receive(self) -> bytes:
        if self._heard < 2:  # the challenge and the proof
            self._heard += 1
            return await self._transport.receive()
        if self._batch:
            return self._batch.pop(0).encode()
        # What it said has ids of its own: the real one could not go on here.
        raise TransportClosed(CloseCode.ABNORMAL, "enough")

    async def close(self, code: int, reason: str) -> None:
        await self._transport.close(code, reason)


@breaks(
    What.INPUT,
    "a Kahuna that proves itself, then sends calls and answers that almost fit",
    expected="the agent answers or closes, comes back and does what it is told",
    where=Where.HOST,
)
@for_long
async def test_a_kahuna_that_goes_mad_over_a_real_socket(tmp_path: Path) -> None:
    dialer = MadKahuna([*([text] for text in ODD_TEXTS), *examples(BATCHES, ROUNDS)])
    async with serving() as server, agent(tmp_path, server, OTHER, dialer):
        await until(lambda: not dialer.batches, timeout_s=3000 if LONG else 60)
        async with asyncio.timeout(60):  # the session that was mad last may still end
            while not await answers(server):  # noqa: ASYNC110 - any condition
                await asyncio.sleep(0.01)


async def answers(server: Server) -> bool:
    try:
        return await server.is_well()
    except KowabungaError:
        return False
