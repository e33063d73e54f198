"""Endless answers that end, in good order, when the process stops."""

import asyncio
from collections.abc import AsyncIterator


class UntilStopped(AsyncIterator[bytes]):
    """Yields what `source` yields until that ends or `stopping` is set.

    Whoever waits in `source` then is cancelled, so a generator there runs its `finally`.
    """

    def __init__(self, source: AsyncIterator[bytes], stopping: asyncio.Event) -> None:
        self._source = source
        self._stopping = stopping

    async def __anext__(self) -> bytes:
        async with asyncio.TaskGroup() as group:
            stop = group.create_task(self._stopping.wait())
            step = group.create_task(self._next())
            await asyncio.wait({stop, step}, return_when=asyncio.FIRST_COMPLETED)
            stop.cancel()
            step.cancel()
        chunk = None if step.cancelled() else step.result()
        if chunk is None:
            raise StopAsyncIteration
        return chunk

    async def _next(self) -> bytes | None:
        return await anext(self._source, None)  # StopAsyncIteration cannot leave a task
