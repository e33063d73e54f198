"""Faults on demand: the handle by which tests and `kowabunga sim` trouble a simulated node.

Faults belong to the process, not to the world: they end with it.
"""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from appliance.core.clock import Clock
from appliance.core.errors import DriverError, KowabungaError


@dataclass(slots=True)
class Failure:
    """Waits for its calls; `left`: for how many, None: for all."""

    method: str | None
    left: int | None
    after_effect: bool
    error: type[KowabungaError]

    def matches(self, method: str, *, after_effect: bool) -> bool:
        return self.method in (None, method) and self.after_effect is after_effect


class Faults:
    """The faults of one node. Methods bear the names of the agent protocol, "compute.reboot"."""

    def __init__(self, clock: Clock, *, latency_s: float = 0.0) -> None:
        """`latency_s`: what each call takes before it has its effect."""
        self._clock = clock
        self._latency_s = latency_s
        self._factor = 1.0
        self._failures: list[Failure] = []
        self._cut = asyncio.Event()
        self._mended = asyncio.Event()
        self._mended.set()

    @property
    def factor(self) -> float:
        """How many times slower than normal the node is."""
        return self._factor

    @property
    def is_cut(self) -> bool:
        return self._cut.is_set()

    @property
    def failures(self) -> Sequence[Failure]:
        """What still waits for its calls."""
        return tuple(self._failures)

    def fail(
        self,
        *,
        method: str | None = None,
        times: int | None = 1,
        after_effect: bool = False,
        error: type[KowabungaError] = DriverError,
    ) -> None:
        """Let the next calls fail.

        Args:
            method: only calls of this method; None: of any.
            times: how many; None: all until `mend`.
            after_effect: do the work, then fail: the caller cannot know.
            error: what is raised.
        """
        self._failures.append(Failure(method, times, after_effect, error))

    def slow(self, factor: float) -> None:
        """Let everything take `factor` times as long from now on."""
        self._factor = factor

    def cut(self) -> None:
        """Cut the node off the network: whoever plays its agent leaves until `mend`.

        The node itself, and what runs on it, goes on.
        """
        self._mended.clear()
        self._cut.set()

    def mend(self) -> None:
        """End every fault."""
        self._failures.clear()
        self._factor = 1.0
        self._cut.clear()
        self._mended.set()

    async def wait_until_cut(self) -> None:
        await self._cut.wait()

    async def wait_until_mended(self) -> None:
        """Return once the node is not cut off."""
        await self._mended.wait()

    @asynccontextmanager
    async def around(self, method: str) -> AsyncGenerator[None]:
        """Delay and maybe fail the call of `method` whose effect is the block."""
        if self._latency_s > 0:
            await self._clock.sleep(self._latency_s * self._factor)
        self._raise_due(method, after_effect=False)
        yield
        self._raise_due(method, after_effect=True)

    def _raise_due(self, method: str, *, after_effect: bool) -> None:
        for failure in self._failures:
            if not failure.matches(method, after_effect=after_effect):
                continue
            if failure.left is not None:
                failure.left -= 1
                if not failure.left:
                    self._failures.remove(failure)
            when = "after" if after_effect else "before"
            raise failure.error(f"{method} failed {when} its effect: a fault was injected")
