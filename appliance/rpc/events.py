"""Events of one session: bounded, rate-limited, and only about the agent's own objects.

A flood costs the flooding agent its own events and nobody anything else: what exceeds the rate is
counted and dropped before any query.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

import msgspec
import structlog

from appliance.core.clock import Clock
from appliance.core.errors import KowabungaError
from appliance.rpc.directory import AgentDirectory
from appliance.rpc.methods import Event

EventHandler = Callable[[str, Event], Awaitable[None]]
Alarm = Callable[[str, str, str], Awaitable[None]]
"""Raise an alarm: kind, target, detail."""

_log: Final[structlog.stdlib.BoundLogger] = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class EventLimits:
    """What one agent may send."""

    per_s: float = 20.0
    burst: int = 200
    queued: int = 256
    handling_s: float = 10.0


@dataclass(slots=True)
class EventCounters:
    delivered: int = 0
    over_rate: int = 0
    malformed: int = 0
    unauthorised: int = 0
    failed: int = 0


class TokenBucket:
    """Admits `per_s` on average and `burst` at once."""

    def __init__(self, per_s: float, burst: int, clock: Clock) -> None:
        self._per_s = per_s
        self._burst = float(burst)
        self._clock = clock
        self._tokens = float(burst)
        self._filled_at = clock.monotonic()

    def take(self) -> bool:
        now = self._clock.monotonic()
        self._tokens = min(self._burst, self._tokens + (now - self._filled_at) * self._per_s)
        self._filled_at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


class EventFeed:
    """From one session's notifications to the handler, in order."""

    def __init__(
        self,
        agent_id: str,
        directory: AgentDirectory,
        *,
        handler: EventHandler,
        alarm: Alarm,
        clock: Clock,
        limits: EventLimits,
        rate: TokenBucket,
    ) -> None:
        """Make a feed; `rate` is the agent's, whatever number of sessions it has."""
        self.counters: Final = EventCounters()
        self._agent_id = agent_id
        self._directory = directory
        self._handler = handler
        self._alarm = alarm
        self._clock = clock
        self._limits = limits
        self._rate = rate
        self._queue: asyncio.Queue[Event | None] = asyncio.Queue()

    def offer(self, raw: msgspec.Raw) -> None:
        """Take one event from the wire, or count why not; never waits."""
        if not self._rate.take() or self._queue.qsize() >= self._limits.queued:
            self.counters.over_rate += 1
            return
        try:
            event = msgspec.json.decode(raw, type=Event)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            self.counters.malformed += 1
            return
        self._queue.put_nowait(event)

    def finish(self) -> None:
        """Let `run` return once what was taken has been delivered."""
        self._queue.put_nowait(None)

    async def run(self) -> None:
        while (event := await self._queue.get()) is not None:
            try:
                async with self._clock.timeout(self._limits.handling_s):
                    await self._deliver(event)
            except (KowabungaError, TimeoutError) as error:
                # Events are hints: reconciliation finds what a lost one told.
                self.counters.failed += 1
                _log.warning("event_lost", agent=self._agent_id, kind=event.kind, error=str(error))
            except Exception:  # a bug in a handler must not cost the agent its session
                self.counters.failed += 1
                _log.exception("event_handler_failed", agent=self._agent_id, kind=event.kind)

    async def _deliver(self, event: Event) -> None:
        if await self._directory.may_speak(self._agent_id, event.target):
            await self._handler(self._agent_id, event)
            self.counters.delivered += 1
            return
        self.counters.unauthorised += 1
        if self.counters.unauthorised == 1:  # one alarm a session: the counter tells the rest
            await self._alarm(
                "event_unauthorised",
                f"agent/{self._agent_id}",
                f"sent an event ({event.kind}) about {event.target}, which is not its own",
            )
