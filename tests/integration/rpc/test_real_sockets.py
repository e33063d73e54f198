"""The real agent client and the real server over TLS, through a proxy that misbehaves."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from appliance.agent.dial import WebSocketDialer
from appliance.core import x509
from appliance.core.errors import DeadlineExceeded, Unavailable
from appliance.model.agent import CredentialKind
from appliance.model.target import Fence
from appliance.rpc.gateway import Command
from appliance.rpc.hello import Refused, greet
from appliance.rpc.hub import HubLimits
from appliance.rpc.method import Nothing
from appliance.rpc.methods import AGENT_PING
from appliance.rpc.strangers import StrangerLimits
from appliance.rpc.stream import ByteStream
from appliance.rpc.transport import CloseCode, Transport
from tests.integration.rpc.harness import (
    QUICK,
    VOLUME,
    Kahuna,
    World,
    agent,
    caught,
    command,
    connected,
)
from tests.support.faults import What, Where, breaks
from tests.support.rpc import AGENT, greeting
from tests.support.wait import until


@pytest.mark.parametrize("kind", [CredentialKind.HMAC, CredentialKind.ED25519])
async def test_a_session_over_tls_carries_calls(kahuna: Kahuna, kind: CredentialKind) -> None:
    async with kahuna.serving():
        credential = kahuna.directory.add(kind=kind)
        dialer = WebSocketDialer(kahuna.ca_file)
        async with agent(kahuna.path, credential, dialer, kahuna.url()):
            await until(lambda: kahuna.hub.reachable(AGENT))
            assert await kahuna.hub.call(AGENT, AGENT_PING, Nothing()) == Nothing()


async def test_a_thousand_calls_are_in_flight_over_tls(kahuna: Kahuna) -> None:
    world = World()
    async with kahuna.serving(), connected(kahuna, world=world), asyncio.TaskGroup() as tasks:
        requests = [Command(str(n), f"volume/{n:024x}", Fence(1, 1)) for n in range(1000)]
        calls = [tasks.create_task(caught(kahuna, request)) for request in requests]
        await until(lambda: world.effects == 1000)
        world.gate.set()
        assert [await call for call in calls] == [None] * 1000


async def test_the_hello_is_bound_to_the_certificate(kahuna: Kahuna) -> None:
    """A machine in the middle with a certificate of the same CA gets no session."""
    async with kahuna.serving():
        credential = kahuna.directory.add()
        kahuna.fingerprint = b"m" * 32  # the certificate that the real Kahuna would have
        async with WebSocketDialer(kahuna.ca_file).dial(kahuna.url()) as transport:
            assert len(transport.certificate_sha256) == 32
            with pytest.raises(Refused) as refused:
                await greet(transport, greeting(credential))
    assert refused.value.code is CloseCode.UNAUTHENTICATED


async def test_a_server_of_another_ca_is_not_talked_to(kahuna: Kahuna, tmp_path: Path) -> None:
    other = tmp_path / "other"
    write_authority(other)
    async with kahuna.serving():
        with pytest.raises(Unavailable, match="certificate verify failed"):
            async with WebSocketDialer(other).dial(kahuna.url()):
                pass


async def test_an_owners_certificate_is_trusted_without_the_root_it_comes_from(
    kahuna: Kahuna,
) -> None:
    async with (
        kahuna.serving(),
        WebSocketDialer(kahuna.path / "server.pem").dial(kahuna.url()) as transport,
    ):
        assert transport.certificate_sha256 == kahuna.fingerprint


def write_authority(path: Path) -> None:
    path.write_text(x509.make_authority("other").certificate_pem)


async def test_a_revocation_closes_the_socket_at_once(kahuna: Kahuna) -> None:
    async with kahuna.serving(), connected(kahuna) as (client, proxy):
        kahuna.directory.agents.clear()
        kahuna.hub.disconnect(AGENT, "revoked")
        await until(lambda: client.connected == 0)
        await until(lambda: proxy.accepted >= 3)  # it tries again, in vain
        assert not kahuna.hub.reachable(AGENT)


async def test_a_kahuna_that_restarts_gets_its_agents_back(kahuna: Kahuna) -> None:
    async with kahuna.serving():
        credential = kahuna.directory.add()
    url, dialer = kahuna.url(), WebSocketDialer(kahuna.ca_file)
    async with agent(kahuna.path, credential, dialer, url) as client:
        for name in ("k1", "k2"):
            async with kahuna.serving(name):
                await until(lambda: kahuna.hub.reachable(AGENT))
                assert await kahuna.hub.call(AGENT, AGENT_PING, Nothing()) == Nothing()
            await until(lambda: client.connected == 0)


async def test_a_half_open_connection_is_noticed_and_replaced(kahuna: Kahuna) -> None:
    world = World()
    kahuna.limits, kahuna.agent_limits = HubLimits(peer=QUICK), QUICK
    async with (
        kahuna.serving(),
        connected(kahuna, world=world) as (_, proxy),
        asyncio.TaskGroup() as tasks,
    ):
        call = tasks.create_task(caught(kahuna, command("a")))
        await until(lambda: world.effects == 1)
        proxy.swallowing = True  # a firewall forgot the connection
        error = await call
        assert isinstance(error, DeadlineExceeded)
        assert error.context["reason"] == "unknown_outcome"
        proxy.swallowing = False
        await until(lambda: kahuna.hub.reachable(AGENT))
        world.gate.set()
        assert await caught(kahuna, command("a")) is None
        assert world.effects == 1


async def test_a_cut_connection_loses_no_effect_and_repeats_none(kahuna: Kahuna) -> None:
    world = World()
    async with (
        kahuna.serving(),
        connected(kahuna, world=world) as (_, proxy),
        asyncio.TaskGroup() as tasks,
    ):
        call = tasks.create_task(caught(kahuna, command("a")))
        await until(lambda: world.effects == 1)
        proxy.cut()
        assert isinstance(await call, DeadlineExceeded)
        await until(lambda: kahuna.hub.reachable(AGENT))
        repeat = tasks.create_task(caught(kahuna, command("a")))
        world.gate.set()
        assert await repeat is None
        assert world.effects == 1
        assert await caught(kahuna, command("a")) is None
        assert world.effects == 1


@breaks(
    What.NETWORK, "an answer comes after its deadline",
    expected="it is ignored, and the session goes on", where=Where.HOST,
)  # fmt: skip
async def test_a_delayed_answer_that_comes_too_late_is_ignored(kahuna: Kahuna) -> None:
    world = World()
    world.gate.set()
    async with kahuna.serving(), connected(kahuna, world=world) as (_, proxy):
        peer = kahuna.hub._current[AGENT].peer
        proxy.hold()
        error = await caught(kahuna, command("a"), timeout_s=0.1)
        assert isinstance(error, DeadlineExceeded)
        proxy.release()
        await until(lambda: peer.counters.late_answers == 1)
        assert await caught(kahuna, command("b")) is None


class Duplicating:
    """A transport that repeats every frame after the hello, in both directions."""

    def __init__(self, inner: Transport) -> None:
        self.address = inner.address
        self.certificate_sha256 = inner.certificate_sha256
        self._inner = inner
        self._sent = 0
        self._received = 0
        self._again: bytes | None = None

    async def send(self, frame: bytes) -> None:
        self._sent += 1
        await self._inner.send(frame)
        if self._sent > 2:
            await self._inner.send(frame)

    async def receive(self) -> bytes:
        if self._again is not None:
            frame, self._again = self._again, None
            return frame
        frame = await self._inner.receive()
        self._received += 1
        if self._received > 2:
            self._again = frame
        return frame

    async def close(self, code: int, reason: str) -> None:
        await self._inner.close(code, reason)


class DuplicatingDialer(WebSocketDialer):
    @asynccontextmanager
    async def dial(self, url: str, *, stream: bool = False) -> AsyncGenerator[Transport]:  # type: ignore[override] # wraps
        async with super().dial(url, stream=stream) as transport:
            yield Duplicating(transport)


@breaks(
    What.NETWORK, "every frame arrives twice", expected="nothing is done twice", where=Where.HOST
)
async def test_duplicated_frames_run_nothing_twice(plain: Kahuna) -> None:
    world = World()
    world.gate.set()
    async with plain.serving():
        credential = plain.directory.add()
        dialer = DuplicatingDialer(None)
        async with agent(plain.path, credential, dialer, plain.url(), world=world):
            await until(lambda: plain.hub.reachable(AGENT))
            for number in range(20):
                assert await caught(plain, command(str(number))) is None
            assert await plain.hub.call(AGENT, AGENT_PING, Nothing()) == Nothing()
        assert world.effects == 20


async def test_a_stream_runs_over_its_own_socket(kahuna: Kahuna) -> None:
    async def echo(stream: ByteStream, about: str) -> None:
        assert about == VOLUME
        while piece := await stream.read():
            await stream.write(piece)
        await stream.write_eof()

    async with kahuna.serving(), connected(kahuna, kinds={"echo": echo}) as (_, proxy):
        before = proxy.accepted
        async with kahuna.hub.open_stream(AGENT, "echo", VOLUME) as stream:
            assert proxy.accepted == before + 1
            for size in (1, 70_000, 200_000):
                await stream.write(b"x" * size)
                got = 0
                while got < size:
                    got += len(await stream.read())
                assert got == size
            await stream.write_eof()
            assert await stream.read() == b""


async def test_a_stream_that_nobody_reads_makes_its_writer_wait(kahuna: Kahuna) -> None:
    written = 0

    async def pour(stream: ByteStream, _: str) -> None:
        nonlocal written
        while True:
            await stream.write(b"x" * 65536)
            written += 1

    async with (
        kahuna.serving(),
        connected(kahuna, kinds={"pour": pour}),
        kahuna.hub.open_stream(AGENT, "pour", VOLUME) as stream,
    ):
        stalled, seen = 0, -1
        while stalled < 50:
            stalled, seen = (stalled + 1 if written == seen else 0), written
            await kahuna.hub.call(AGENT, AGENT_PING, Nothing())
        stop = written
        for _ in range(stop + 10):
            await stream.read()
        await until(lambda: written > stop)


async def test_too_large_a_message_closes_with_1009(plain: Kahuna) -> None:
    async with plain.serving(), connect(plain.url() + "/ws", max_size=None) as raw:
        await raw.send("x" * (1024 * 1024 + 1))
        with pytest.raises(ConnectionClosed) as closed:
            await raw.recv()
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == CloseCode.MESSAGE_TOO_BIG


async def test_a_binary_frame_on_the_rpc_socket_closes_with_1003(plain: Kahuna) -> None:
    async with plain.serving(), connect(plain.url() + "/ws") as raw:
        await raw.send(b"{}")
        with pytest.raises(ConnectionClosed) as closed:
            await raw.recv()
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == CloseCode.UNSUPPORTED_DATA


async def test_a_refusal_is_told_by_its_close_code_too(plain: Kahuna) -> None:
    async with plain.serving(), connect(plain.url() + "/ws") as raw:
        await raw.send('{"jsonrpc":"2.0","id":0,"method":"session.prove","params":{}}')
        answer = msgspec.json.decode(await raw.recv())
        assert answer["error"]["data"]["context"]["reason"] == "bad_hello"
        with pytest.raises(ConnectionClosed) as closed:
            await raw.recv()
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == CloseCode.BAD_HELLO


async def test_one_socket_too_many_is_refused_before_the_upgrade(plain: Kahuna) -> None:
    plain.limits = HubLimits(strangers=StrangerLimits(per_address=1))
    async with plain.serving(), connect(plain.url() + "/ws"):
        await until(lambda: not plain.hub.has_room_for("127.0.0.1:1"))
        with pytest.raises(InvalidStatus) as refused:
            await connect(plain.url() + "/ws")
    assert refused.value.response.status_code == 403


async def test_agents_are_served_on_their_path_only(plain: Kahuna) -> None:
    async with plain.serving():
        with pytest.raises(InvalidStatus):
            await connect(plain.url() + "/elsewhere")
