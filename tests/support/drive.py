"""Manual time that passes by itself whenever nothing else can happen."""

import asyncio
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager

from appliance.store.base import Consistency, Row, Statement, Store
from tests.support.clock import ManualClock, settle


class JumpingClock(ManualClock):
    async def jump(self) -> None:
        """Advance to the next alarm that anybody still waits for."""
        due = [at for at, _, waiter in self._waiters if not waiter.done()]
        if due:
            await self.advance(max(min(due) - self.monotonic(), 0))


class Drive:
    """Lets things happen until a condition holds; work in threads must be told of."""

    def __init__(self, clock: JumpingClock) -> None:
        self._clock = clock
        self._in_threads = 0
        self._returned = 0
        self._threads_idle = asyncio.Event()

    @contextmanager
    def in_thread(self) -> Generator[None]:
        """Mark work that a manual clock cannot see."""
        self._in_threads += 1
        self._threads_idle.clear()
        try:
            yield
        finally:
            self._in_threads -= 1
            self._returned += 1
            if not self._in_threads:
                self._threads_idle.set()

    async def until(self, condition: Callable[[], object], *, time_passes: bool = True) -> None:
        """Return once nothing more can happen and the condition holds; let time pass for it."""
        for _ in range(100_000):
            returned = self._returned
            await settle(8)
            if self._in_threads:
                await self._threads_idle.wait()
            elif returned != self._returned:
                continue  # a thread came back in between: what follows from it has yet to happen
            elif condition():
                return
            elif time_passes:
                await self._clock.jump()
        raise AssertionError("this never came true")


class DrivenStore:
    """A store whose threads the drive waits for."""

    def __init__(self, store: Store, drive: Drive) -> None:
        self._store = store
        self._drive = drive

    async def query(
        self, statement: Statement, consistency: Consistency = Consistency.WEAK
    ) -> list[Row]:
        with self._drive.in_thread():
            return await self._store.query(statement, consistency)

    async def batch(self, statements: Sequence[Statement]) -> list[int]:
        with self._drive.in_thread():
            return await self._store.batch(statements)

    async def close(self) -> None:
        await self._store.close()
