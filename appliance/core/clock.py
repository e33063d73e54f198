"""Time as a dependency, so that tests and simulations own it.

Wall clocks stamp rows and certificates. They decide only over what outlives a process: keys with
an expiry date, tokens in rows, old history; and they jump. Every other wait, expiry and deadline
goes by the monotonic clock of the process that observes it.
"""

import asyncio
import time
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    def now_ms(self) -> int:
        """Return wall-clock UTC in milliseconds since 1970: it may jump either way."""
        ...

    def monotonic(self) -> float:
        """Return seconds that never run backwards; comparable within this process only."""
        ...

    async def sleep(self, seconds: float) -> None: ...

    def timeout(self, seconds: float | None) -> AbstractAsyncContextManager[object]:
        """Raise TimeoutError inside the block once `seconds` have passed; None never does."""
        ...


class SystemClock:
    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def timeout(self, seconds: float | None) -> AbstractAsyncContextManager[object]:
        return asyncio.timeout(seconds)


def rfc3339(at_ms: int) -> str:
    """Return a stamp as people and logs read it, in UTC."""
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
