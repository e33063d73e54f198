"""A TCP proxy that misbehaves on command: holds, swallows, delays, cuts what passes through."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

_PIECE = 65536
_PIECES = 64  # under way; then the sender has to wait


@dataclass(eq=False)
class _Connection:
    """Both sockets of one connection, and whether anything passes."""

    writers: tuple[asyncio.StreamWriter, asyncio.StreamWriter]
    open: asyncio.Event = field(default_factory=asyncio.Event)

    def cut(self) -> None:
        self.open.set()
        for writer in self.writers:
            writer.transport.abort()


class Proxy:
    """Misbehaves as its attributes say.

    Attributes:
        swallowing: both sides believe that they are heard.
        delay_s: how long each piece of data takes, in both directions.
        trickle_s: the pause after each single byte for the side that dialled; 0: no pause.
    """

    def __init__(self, target_port: int, target: str = "127.0.0.1") -> None:
        self.port = 0
        self.accepted = 0
        self.swallowing = False
        self.delay_s = 0.0
        self.trickle_s = 0.0
        self._target = target, target_port
        self._connections: set[_Connection] = set()
        self._held = False

    def hold(self) -> None:
        """Let nothing pass until `release`; connections are still accepted."""
        self._held = True
        self.freeze()

    def freeze(self) -> None:
        """Do that to the connections of now alone."""
        for connection in self._connections:
            connection.open.clear()

    def release(self) -> None:
        self._held = False
        for connection in self._connections:
            connection.open.set()

    def cut(self) -> None:
        """Reset every connection without a word."""
        for connection in self._connections:
            connection.cut()

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        try:
            onward = await asyncio.open_connection(*self._target)
        except OSError:
            writer.transport.abort()
            return
        connection = _Connection((writer, onward[1]))
        if not self._held:
            connection.open.set()
        self._connections.add(connection)
        with suppress(asyncio.CancelledError):  # the server ends: so do we
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._pump(connection, reader, onward[1]))
                tasks.create_task(self._pump(connection, onward[0], writer))
        self._connections.discard(connection)

    async def _pump(
        self, connection: _Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        loop = asyncio.get_running_loop()
        under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_PIECES)
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._deliver(connection, under_way, writer))
                while True:
                    data = await reader.read(_PIECE)
                    await under_way.put((loop.time() + self.delay_s, data))
                    if not data:
                        break
        except* OSError:
            connection.cut()

    async def _deliver(
        self,
        connection: _Connection,
        under_way: asyncio.Queue[tuple[float, bytes]],
        writer: asyncio.StreamWriter,
    ) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due, data = await under_way.get()
            await asyncio.sleep(due - loop.time())
            await connection.open.wait()
            if not data:
                break
            if self.swallowing:
                continue
            if self.trickle_s and writer is connection.writers[0]:
                for byte in data:
                    writer.write(bytes([byte]))
                    await asyncio.sleep(self.trickle_s)
                    if writer.is_closing():
                        break
            else:
                writer.write(data)
            await writer.drain()
        if self.swallowing:
            writer.transport.abort()
        else:
            writer.close()


@asynccontextmanager
async def proxy_to(
    port: int, *, target: str = "127.0.0.1", own_port: int = 0
) -> AsyncGenerator[Proxy]:
    """Stand before a port, on a port of the loopback."""
    proxy = Proxy(port, target)
    server = await asyncio.start_server(proxy.carry, "127.0.0.1", own_port)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        proxy.release()
        proxy.trickle_s = 0
        proxy.cut()
        while proxy._connections:  # noqa: ASYNC110 - the tasks belong to asyncio's server
            await asyncio.sleep(0.001)
