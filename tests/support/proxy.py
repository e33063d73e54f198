"""A TCP proxy that misbehaves on command: holds, swallows or cuts what passes through it."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress


class Proxy:
    """`held`: nothing passes until `release`; `swallowing`: both sides believe they are heard."""

    def __init__(self, target_port: int) -> None:
        self.port = 0
        self.accepted = 0
        self.swallowing = False
        self._target_port = target_port
        self._open = asyncio.Event()
        self._open.set()
        self._writers: set[asyncio.StreamWriter] = set()

    def hold(self) -> None:
        self._open.clear()

    def release(self) -> None:
        self._open.set()

    def cut(self) -> None:
        """Reset every connection without a word."""
        for writer in self._writers:
            writer.transport.abort()

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        try:
            onward = await asyncio.open_connection("127.0.0.1", self._target_port)
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, onward[1]}
        with suppress(asyncio.CancelledError):  # the server ends: so do we
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._pump(reader, onward[1]))
                tasks.create_task(self._pump(onward[0], writer))
        self._writers -= {writer, onward[1]}

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                await self._open.wait()
                if not self.swallowing:
                    writer.write(data)
                    await writer.drain()
        except OSError:
            pass
        finally:
            if self.swallowing:
                writer.transport.abort()
            else:
                writer.close()


@asynccontextmanager
async def proxy_to(port: int) -> AsyncGenerator[Proxy]:
    proxy = Proxy(port)
    server = await asyncio.start_server(proxy.carry, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        proxy.release()
        proxy.cut()
        while proxy._writers:  # noqa: ASYNC110 - the tasks belong to asyncio's server
            await asyncio.sleep(0.001)
