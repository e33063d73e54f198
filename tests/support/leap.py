"""A whole process in manual time: whenever nothing can happen, the clock leaps to its next alarm.

Nothing waits in real time, nothing is skipped and no deadline passes while there is work to do,
however slow the machine is. What threads and sockets do counts as work: the loop counts what it
gave to executors, a `LeapingStore` what it gave to the store.
"""

import asyncio
import heapq
import selectors
from collections import Counter
from collections.abc import Callable, Coroutine, Generator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from typing import Any, TypeVar

from appliance.store.base import Consistency, Row, Statement, Store
from tests.support.clock import ManualClock

T = TypeVar("T")


class LeapingClock(ManualClock):
    """Leaps on the loop of `run_leaping`; `busy` counts what it has to wait for."""

    def __init__(self, now_ms: int) -> None:
        super().__init__(now_ms)
        self.busy = 0

    @contextmanager
    def in_thread(self) -> Generator[None]:
        """Mark work that the loop cannot see."""
        self.busy += 1
        try:
            yield
        finally:
            self.busy -= 1

    def leap(self) -> bool:
        """Let time pass until the next alarm that anybody waits for; False: there is none."""
        while self._waiters:
            due, _, waiter = heapq.heappop(self._waiters)
            if not waiter.done():
                self._move_to(max(due, self._monotonic))
                waiter.set_result(None)
                return True
        return False


class _LeapingSelector(selectors.EpollSelector):
    """Asked to wait, it leaps instead, unless a thread is at work."""

    def __init__(self, clock: LeapingClock) -> None:
        super().__init__()
        self._clock = clock

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if ready or (timeout is not None and timeout <= 0):
            return ready
        if not self._clock.busy and self._clock.leap():
            return []  # somebody can go on
        return super().select(timeout)


class _LeapingLoop(asyncio.SelectorEventLoop):
    def __init__(self, clock: LeapingClock) -> None:
        super().__init__(_LeapingSelector(clock))
        self._clock = clock

    def run_in_executor(  # type: ignore[override]
        self,
        executor: Executor | None,
        func: Callable[..., T],
        *args: Any,  # noqa: ANN401
    ) -> "asyncio.Future[T]":
        future = super().run_in_executor(executor, func, *args)
        self._clock.busy += 1
        future.add_done_callback(self._returned)
        return future

    def _returned(self, _: "asyncio.Future[Any]") -> None:
        self._clock.busy -= 1


def run_leaping(clock: LeapingClock, main: Coroutine[Any, Any, T]) -> T:
    """Run a whole program in the time of this clock."""
    with asyncio.Runner(loop_factory=lambda: _LeapingLoop(clock)) as runner:
        return runner.run(main)


class LeapingStore:
    """A store whose threads the clock waits for; counts its queries by their SQL."""

    def __init__(self, store: Store, clock: LeapingClock) -> None:
        self.asked = Counter[str]()
        self._store = store
        self._clock = clock

    async def query(
        self, statement: Statement, consistency: Consistency = Consistency.WEAK
    ) -> list[Row]:
        self.asked[statement.sql] += 1
        with self._clock.in_thread():
            return await self._store.query(statement, consistency)

    async def batch(self, statements: Sequence[Statement]) -> list[int]:
        for statement in statements:
            self.asked[statement.sql] += 1
        with self._clock.in_thread():
            return await self._store.batch(statements)

    async def close(self) -> None:
        await self._store.close()
