"""The few asyncio tools that the rest of the package is allowed to build on.

`asyncio.create_task`, `gather` and `to_thread` are banned elsewhere: a task belongs to a
TaskGroup, and blocking code to a small pool of its own library.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Final, NoReturn, ParamSpec, TypeVar

import structlog

from appliance.core.clock import Clock
from appliance.core.errors import DeadlineExceeded, KowabungaError

P = ParamSpec("P")
R = TypeVar("R")
_log: Final[structlog.stdlib.BoundLogger] = structlog.get_logger(__name__)


class BlockingPool:
    """A small thread pool for one blocking library, so that a hung one stalls nobody else.

    A cancelled or timed-out wait does not stop the thread: every blocking library also needs a
    time limit of its own.
    """

    def __init__(self, name: str, workers: int) -> None:
        self._name = name
        self._executor = ThreadPoolExecutor(workers, thread_name_prefix=name)

    async def run(
        self, timeout_s: float | None, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs
    ) -> R:
        """Call `function` in the pool.

        Raises:
            DeadlineExceeded: `timeout_s` passed; the call may still be running.
        """
        loop = asyncio.get_running_loop()
        call = partial(function, *args, **kwargs)
        try:
            async with asyncio.timeout(timeout_s):
                return await loop.run_in_executor(self._executor, call)
        except TimeoutError as late:
            detail = f"{self._name} did not answer within {timeout_s} s"
            raise DeadlineExceeded(detail) from late

    def close(self) -> None:
        """Refuse new calls and drop those that have not started."""
        self._executor.shutdown(wait=False, cancel_futures=True)


@dataclass(frozen=True, slots=True)
class Backoff:
    """Exponential delays; each is drawn between half and the whole of its step."""

    first_s: float = 0.5
    factor: float = 2.0
    max_s: float = 30.0

    def delay_s(self, failures: int) -> float:
        """Return the pause after `failures` failures in a row (1 or more)."""
        whole = min(self.first_s * self.factor ** min(failures - 1, 32), self.max_s)
        return whole * random.uniform(0.5, 1.0)  # noqa: S311 - spreads load, protects nothing


async def supervise(
    name: str,
    service: Callable[[], Awaitable[None]],
    *,
    clock: Clock,
    backoff: Backoff | None = None,
    settled_after_s: float = 60.0,
) -> NoReturn:
    """Keep an eternal service running: log its end or failure, pause, start it again.

    A service that returns is reported like one that fails. Failures count anew once a run has
    lasted `settled_after_s`.
    """
    pauses = backoff or Backoff()
    failures = 0
    while True:
        started = clock.monotonic()
        try:
            await service()
            _log.error("service_ended", service=name)
        except KowabungaError as trouble:  # no fault of ours, and may last: a full disk, say
            _log.error("service_failed", service=name, problem=str(trouble))
        except Exception:
            _log.exception("service_failed", service=name)
        failures = 1 if clock.monotonic() - started >= settled_after_s else failures + 1
        await clock.sleep(pauses.delay_s(failures))
