"""A clock that only moves when a test says so."""

import asyncio
import heapq
import itertools
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager


class ManualClock:
    """Implements `appliance.core.clock.Clock`; `advance` wakes sleepers in order of their time."""

    def __init__(self, now_ms: int = 1_800_000_000_000) -> None:
        self._now_ms = now_ms
        self._monotonic = 0.0
        self._order = itertools.count()
        self._waiters: list[tuple[float, int, asyncio.Future[None]]] = []

    def now_ms(self) -> int:
        return self._now_ms

    def monotonic(self) -> float:
        return self._monotonic

    def set_wall_clock(self, now_ms: int) -> None:
        """Jump the wall clock; the monotonic one does not notice."""
        self._now_ms = now_ms

    async def sleep(self, seconds: float) -> None:
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        await self._alarm(seconds)

    @asynccontextmanager
    async def timeout(self, seconds: float | None) -> AsyncGenerator[asyncio.Timeout]:
        async with asyncio.timeout(None) as limit:
            if seconds is None:
                yield limit
                return
            alarm = self._alarm(seconds)
            loop = asyncio.get_running_loop()
            alarm.add_done_callback(
                lambda done: None if done.cancelled() else limit.reschedule(loop.time())
            )
            try:
                yield limit
            finally:
                alarm.cancel()

    async def advance(self, seconds: float) -> None:
        """Move time on, letting everything that becomes due run before the next thing is due."""
        end = self._monotonic + seconds
        await settle()
        while self._waiters and self._waiters[0][0] <= end:
            due, _, waiter = heapq.heappop(self._waiters)
            self._move_to(max(due, self._monotonic))
            if not waiter.done():
                waiter.set_result(None)
                await settle()
        self._move_to(end)
        await settle()

    def _alarm(self, seconds: float) -> "asyncio.Future[None]":
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiters, (self._monotonic + seconds, next(self._order), waiter))
        return waiter

    def _move_to(self, monotonic: float) -> None:
        self._now_ms += round((monotonic - self._monotonic) * 1000)
        self._monotonic = monotonic


async def settle(rounds: int = 20) -> None:
    """Let every task that can run do so. Work in threads needs a condition to wait for instead."""
    for _ in range(rounds):
        await asyncio.sleep(0)
