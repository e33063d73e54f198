"""Consoles as streams: both ways, at the guest's pace, to the end of either side."""

import asyncio
import socket
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager
from typing import cast

import pytest

from appliance.agent.consoles import STUCK_S, console_streams
from appliance.agent.streams import StreamKind
from appliance.core.errors import Conflict, Forbidden, KowabungaError, NotFound, Unavailable
from appliance.model.compute import ComputeDriver, ConsoleKind
from appliance.rpc.memory import MemoryTransport
from appliance.rpc.stream import ByteStream
from tests.support.clock import ManualClock
from tests.support.wait import until

DOMAIN = "d" * 24
ABOUT = f"instance/{DOMAIN}"
BOTH = list(ConsoleKind)


class Machine:
    """A driver of one domain whose consoles the test plays from inside."""

    def __init__(self) -> None:
        self.opened: list[socket.socket] = []
        self.kinds: list[ConsoleKind] = []
        self.refusal: KowabungaError | None = None

    async def open_console(
        self, domain_id: str, kind: ConsoleKind
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        assert domain_id == DOMAIN
        if self.refusal is not None:
            raise self.refusal
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        self.opened.append(theirs)
        self.kinds.append(kind)
        return await asyncio.open_connection(sock=ours)

    async def receive(self, number: int = -1) -> bytes:
        loop = asyncio.get_running_loop()
        return await loop.sock_recv(self.opened[number], 1 << 16)

    async def send(self, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self.opened[-1], data)


class World:
    def __init__(self, machine: Machine) -> None:
        self.clock = ManualClock()
        self.machine = machine
        self.kinds = console_streams(cast("ComputeDriver", machine), self.clock)

    @asynccontextmanager
    async def user(
        self, kind: ConsoleKind, about: str = ABOUT
    ) -> AsyncGenerator[tuple[ByteStream, "asyncio.Task[KowabungaError | None]"]]:
        """Hold a user's end of a stream, and the serving of the other one."""
        near, far = MemoryTransport.pair(capacity=2)
        serving = asyncio.create_task(_serve(self.kinds[kind], ByteStream(far), about))
        try:
            yield ByteStream(near), serving
        finally:
            await near.close(1000, "")
            await serving


async def _serve(kind: StreamKind, stream: ByteStream, about: str) -> KowabungaError | None:
    try:
        await kind(stream, about)
    except KowabungaError as error:
        return error
    return None


@pytest.fixture
def world() -> Generator[World]:
    world = World(Machine())
    yield world
    for end in world.machine.opened:
        end.close()


@pytest.mark.parametrize("kind", BOTH)
async def test_bytes_go_both_ways_unchanged(world: World, kind: ConsoleKind) -> None:
    everything = bytes(range(256))
    async with world.user(kind) as (stream, _):
        await stream.write(everything)
        await until(lambda: world.machine.opened)
        assert await world.machine.receive() == everything
        await world.machine.send(everything)
        assert await stream.read() == everything
    assert world.machine.kinds == [kind]


@pytest.mark.parametrize("kind", BOTH)
async def test_the_end_of_the_domain_ends_the_stream_in_order(
    world: World, kind: ConsoleKind
) -> None:
    async with world.user(kind) as (stream, serving):
        await until(lambda: world.machine.opened)
        await world.machine.send(b"bye")
        world.machine.opened[0].close()
        assert await stream.read() == b"bye"
        assert await stream.read() == b""
        assert await serving is None


@pytest.mark.parametrize("kind", BOTH)
async def test_a_user_who_leaves_ends_the_console(world: World, kind: ConsoleKind) -> None:
    async with world.user(kind):
        await until(lambda: world.machine.opened)
    assert await world.machine.receive() == b""


@pytest.mark.parametrize("kind", BOTH)
async def test_a_user_who_does_not_read_holds_the_guest_up(world: World, kind: ConsoleKind) -> None:
    piece, sent = b"x" * 65536, 0
    async with world.user(kind) as (stream, _):
        await until(lambda: world.machine.opened)
        sending = world.machine.opened[0]
        try:
            while True:
                sent += sending.send(piece)
                for _ in range(100):
                    await asyncio.sleep(0)
                assert sent < 16 << 20, "the guest is never held up"
        except BlockingIOError:
            pass
        got = 0
        while got < sent:
            got += len(await stream.read())
        assert got == sent


async def test_a_guest_that_takes_nothing_holds_the_user_up_and_then_loses_him(
    world: World,
) -> None:
    async with world.user(ConsoleKind.SERIAL) as (stream, serving):

        async def type_for_ever() -> None:
            while True:
                await stream.write(b"x" * 65536)

        typing = asyncio.create_task(type_for_ever())
        await until(lambda: world.machine.opened)
        await world.clock.advance(STUCK_S - 1)
        assert not typing.done()
        assert not serving.done()
        while not serving.done():  # the last piece may have left meanwhile
            await world.clock.advance(STUCK_S)
        assert isinstance(serving.result(), Unavailable)
        typing.cancel()


async def test_a_serial_line_belongs_to_whoever_came_last(world: World) -> None:
    machine = world.machine
    async with world.user(ConsoleKind.SERIAL) as (_, first):
        await until(lambda: machine.opened)
        async with (
            world.user(ConsoleKind.SERIAL) as (_, second),
            world.user(ConsoleKind.SERIAL) as (stream, third),
        ):
            assert isinstance(await first, Conflict)
            assert isinstance(await second, Conflict)
            await stream.write(b"hello")
            await until(lambda: len(machine.opened) == 3)
            assert await machine.receive() == b"hello"
            assert not third.done()
            assert [await machine.receive(number) for number in (0, 1)] == [b"", b""]


async def test_a_serial_line_is_free_again_after_a_refusal(world: World) -> None:
    world.machine.refusal = NotFound("no such domain")
    async with world.user(ConsoleKind.SERIAL) as (_, serving):
        assert isinstance(await serving, NotFound)
    world.machine.refusal = None
    async with world.user(ConsoleKind.SERIAL) as (stream, _):
        await stream.write(b"hello")
        await until(lambda: world.machine.opened)
        assert await world.machine.receive() == b"hello"


async def test_a_screen_may_have_several_watchers(world: World) -> None:
    async with world.user(ConsoleKind.VNC) as (_, first), world.user(ConsoleKind.VNC) as (_, other):
        await until(lambda: len(world.machine.opened) == 2)
        assert not first.done()
        assert not other.done()


@pytest.mark.parametrize("about", [f"agent/{DOMAIN}", "instance/x", f"instance/{DOMAIN}/x", ""])
async def test_consoles_are_of_instances_only(world: World, about: str) -> None:
    async with world.user(ConsoleKind.VNC, about) as (_, serving):
        assert isinstance(await serving, Forbidden)
    assert not world.machine.opened
