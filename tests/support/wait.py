"""Wait for a condition instead of a time."""

import asyncio
from collections.abc import Callable


async def until(condition: Callable[[], object], *, within_s: float = 20.0) -> None:
    """Return as soon as the condition holds; give threads and sockets the time they need."""
    async with asyncio.timeout(within_s):
        while not condition():  # noqa: ASYNC110 - any condition; nobody sets an event for it
            await asyncio.sleep(0.001)
