"""Dial a hub of the same process: how simulated agents speak the real protocol."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from appliance.rpc.hub import Hub
from appliance.rpc.memory import MemoryTransport
from appliance.rpc.transport import CloseCode


class LocalDialer:
    """A Dialer whose every address leads to `hub`."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    def check(self, url: str) -> str:
        return url

    @asynccontextmanager
    async def dial(self, url: str, *, stream: bool = False) -> AsyncGenerator[MemoryTransport]:
        del url
        ours, theirs = MemoryTransport.pair()
        failed: Exception | None = None
        async with asyncio.TaskGroup() as serving:
            serving.create_task(
                self._hub.serve_stream(theirs) if stream else self._hub.serve(theirs)
            )
            try:
                yield ours
            except Exception as error:  # raised below: a task group would wrap it
                failed = error
            finally:
                await ours.close(CloseCode.NORMAL, "")
        if failed is not None:
            raise failed
