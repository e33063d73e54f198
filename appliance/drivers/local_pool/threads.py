"""A few threads for the blocking work of a pool.

Other than `core.aio.BlockingPool`, a call that is cancelled waits until its thread has ended: what
follows may then clean up, and a newer command never meets an older one still writing.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from threading import Event
from typing import Concatenate, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


class Threads:
    def __init__(self, name: str, workers: int) -> None:
        self._executor = ThreadPoolExecutor(workers, thread_name_prefix=name)

    async def run(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Call `function`, which must not take long, in a thread."""
        return await self._run(Event(), partial(function, *args, **kwargs))

    async def run_until(
        self, function: Callable[Concatenate[Event, P], R], *args: P.args, **kwargs: P.kwargs
    ) -> R:
        """Do the same for one that takes long; it must end early when its event is set."""
        stop = Event()
        return await self._run(stop, partial(function, stop, *args, **kwargs))

    async def _run(self, stop: Event, call: Callable[[], R]) -> R:
        job = self._executor.submit(call)
        waiting = asyncio.wrap_future(job)
        try:
            return await asyncio.shield(waiting)
        except asyncio.CancelledError:
            stop.set()
            if not job.cancel():
                while not waiting.done():
                    with suppress(asyncio.CancelledError):
                        await asyncio.wait({waiting})
            raise
        finally:
            # An error that comes after the cancellation has nobody left to hear it.
            if waiting.done() and not waiting.cancelled():
                waiting.exception()

    def close(self) -> None:
        self._executor.shutdown(wait=False)
