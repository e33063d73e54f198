"""The consoles of domains as byte streams: bytes go through unread, each way as fast as taken.

A screen may be watched by several; QEMU sees to that. A serial line has room for one, so whoever
comes last gets it: somebody who vanished without a word must not keep others out.
"""

import asyncio
import re
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Final

from appliance.agent.streams import StreamKind
from appliance.core.clock import Clock
from appliance.core.errors import Conflict, Forbidden, Unavailable
from appliance.model.compute import ComputeDriver, ConsoleKind
from appliance.rpc.stream import ByteStream

STUCK_S: Final = 60.0  # a guest that takes nothing any more must not keep the stream for ever
_CHUNK_BYTES: Final = 64 * 1024
_INSTANCE: Final = re.compile(r"instance/([0-9a-f]{24})")


def console_streams(driver: ComputeDriver, clock: Clock) -> dict[str, StreamKind]:
    """Return the stream kinds of consoles, by name; each is about "instance/ID"."""
    seats = _Seats()

    async def serve(kind: ConsoleKind, stream: ByteStream, about: str) -> None:
        domain_id = _domain_of(about)
        if kind is ConsoleKind.VNC:
            console = await driver.open_console(domain_id, kind)
            await _join(console, stream, asyncio.Event(), clock)
        else:
            async with seats.take(domain_id) as wanted:
                console = await driver.open_console(domain_id, kind)
                await _join(console, stream, wanted, clock)

    return {kind.value: partial(serve, kind) for kind in ConsoleKind}


class _Seat:
    """A place at a serial line: `wanted` by somebody else, `free` again."""

    def __init__(self) -> None:
        self.wanted: Final = asyncio.Event()
        self.free: Final = asyncio.Event()


class _Seats:
    """Who sits at each serial line."""

    def __init__(self) -> None:
        self._taken: dict[str, _Seat] = {}

    @asynccontextmanager
    async def take(self, domain_id: str) -> AsyncGenerator[asyncio.Event]:
        """Have the line for the life of the block; yields what is set when another wants it."""
        while (before := self._taken.get(domain_id)) is not None:
            before.wanted.set()
            await before.free.wait()
        seat = self._taken[domain_id] = _Seat()
        try:
            yield seat.wanted
        finally:
            del self._taken[domain_id]
            seat.free.set()


async def _join(
    console: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    stream: ByteStream,
    wanted: asyncio.Event,
    clock: Clock,
) -> None:
    """Carry both ways until either side ends, or somebody else wants the console.

    Raises:
        Conflict: somebody else does.
        Unavailable: the guest takes nothing any more.
    """
    reader, writer = console
    # A piece is read from the stream only when the one before has left us.
    writer.transport.set_write_buffer_limits(high=0)
    try:
        async with asyncio.TaskGroup() as group:
            inwards = group.create_task(_to_guest(stream, writer, clock))
            outwards = group.create_task(_from_guest(reader, stream))
            leaving = group.create_task(wanted.wait())
            tasks = {inwards, outwards, leaving}
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                task.cancel()
    finally:
        writer.transport.abort()
    if wanted.is_set():
        raise Conflict("somebody else has opened this serial line")
    if not inwards.cancelled() and inwards.result():
        raise Unavailable(f"the guest has taken nothing for {STUCK_S:g} s")


async def _to_guest(stream: ByteStream, writer: asyncio.StreamWriter, clock: Clock) -> bool:
    """Carry until either side ends; return whether the guest got stuck."""
    with suppress(Unavailable, ConnectionError):
        while data := await stream.read():
            writer.write(data)
            try:
                async with clock.timeout(STUCK_S):
                    await writer.drain()
            except TimeoutError:
                return True
    return False


async def _from_guest(reader: asyncio.StreamReader, stream: ByteStream) -> None:
    with suppress(Unavailable, ConnectionError):
        while data := await reader.read(_CHUNK_BYTES):
            await stream.write(data)
        await stream.write_eof()


def _domain_of(about: str) -> str:
    named = _INSTANCE.fullmatch(about)
    if named is None:
        raise Forbidden(f"a console is of an instance, not of {about}")
    return named[1]
