"""End an await from outside without cancelling its task."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager


class Interrupt:
    """At most one block at a time runs under it; `fire` makes that block raise TimeoutError."""

    def __init__(self) -> None:
        self._running: asyncio.Timeout | None = None

    @asynccontextmanager
    async def block(self) -> AsyncGenerator[None]:
        async with asyncio.timeout(None) as running:
            self._running = running
            try:
                yield
            finally:
                self._running = None

    def fire(self) -> None:
        """Do nothing unless a block is running."""
        if self._running is not None:
            self._running.reschedule(asyncio.get_running_loop().time())
            self._running = None
