"""One process's share of the work: claims operations, runs their workers, shows life.

Every process runs one; none leads. Which of them works on an operation is decided by the store
alone, by claims that expire on the monotonic clock of whoever observes them. What a worker does is
not known here.
"""

import asyncio
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import structlog

from appliance.core.aio import Backoff, supervise
from appliance.core.errors import KowabungaError, Stale, Unavailable
from appliance.operations import sql
from appliance.operations.claim import Claim
from appliance.operations.equipment import Equipment
from appliance.operations.notices import Notices
from appliance.operations.operation import State
from appliance.operations.rows import Unfinished
from appliance.operations.worker import Worker
from appliance.store.base import Statement, fetch

_RELEASE_LIMIT_S: Final = 5.0
# When an agent comes back, thousands may be due at once: the rest is left to the next poll, so that
# the store has room for others.
_CLAIMS_AT_ONCE: Final = 512
_log: Final[structlog.stdlib.BoundLogger] = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Held:
    worker: Worker
    task: asyncio.Task[None]


@dataclass(frozen=True, slots=True)
class _Sight:
    """Since when, on our clock, a row has looked like this."""

    mark: tuple[int, int]  # (claim, beat)
    since: float


class Runner:
    def __init__(self, equipment: Equipment, notices: Notices, *, alone: bool) -> None:
        self._equipment = equipment
        self._store = equipment.store
        self._clock = equipment.clock
        self._settings = equipment.settings
        self._notices = notices
        self._alone = alone
        self._group: asyncio.TaskGroup | None = None
        self._held: dict[str, _Held] = {}
        self._arriving: set[str] = set()  # claimed, or being claimed, by us; no worker yet
        self._sights: dict[str, _Sight] = {}
        self._began, self._began_ms = equipment.clock.monotonic(), equipment.clock.now_ms()
        self._looked_at = self._began
        self._woken = asyncio.Event()

    async def run(self) -> None:
        """Work until cancelled, then release every claim."""
        backoff = Backoff(max_s=self._settings.claim_s / 3)
        claims: list[Claim] = []
        try:
            async with asyncio.TaskGroup() as group:
                for name, service in (
                    ("operation_poll", self._poll_forever),
                    ("operation_beat", self._beat_forever),
                    ("operation_prune", self._prune_forever),
                ):
                    eternal = supervise(name, service, clock=self._clock, backoff=backoff)
                    group.create_task(eternal, name=name)
                self._group = group
                try:
                    await asyncio.Event().wait()
                finally:
                    self._group = None
                    claims = [held.worker.claim for held in self._held.values()]
        except asyncio.CancelledError:
            await self._release(claims)
            raise

    def wake(self) -> None:
        """Look at the unfinished operations now instead of at the next poll."""
        self._woken.set()

    def works_on(self, operation_id: str) -> bool:
        return operation_id in self._held

    async def create(self, operation_id: str, statements: list[Statement]) -> None:
        """Write a new operation that this engine claims, and begin to work on it.

        Raises:
            Unavailable: the engine is not running.
            KowabungaError: as `Store.batch`. If the outcome is unknown and the operation turns out
                to exist, the next poll begins to work on it.
        """
        if self._group is None:
            raise Unavailable("the operations engine is not running", hint="try again")
        self._arriving.add(operation_id)
        try:
            await self._store.batch(statements)
            self._start(Claim(self._equipment, operation_id, 1, fresh=True))
        finally:
            self._arriving.discard(operation_id)

    def drop(self, operation_id: str) -> None:
        """Stop the worker, if it is ours, of an operation that is not ours any more."""
        held = self._held.pop(operation_id, None)
        if held is not None:
            held.task.cancel()

    # --- workers

    def _start(self, claim: Claim) -> None:
        if self._group is None:
            return  # shutting down: the claim is released, or expires
        worker = Worker(self._equipment, claim)
        task = self._group.create_task(worker.run(), name=f"operation {claim.operation_id}")
        held = self._held[claim.operation_id] = _Held(worker, task)
        task.add_done_callback(lambda _: self._forget(claim.operation_id, held))

    def _forget(self, operation_id: str, held: _Held) -> None:
        if self._held.get(operation_id) is held:
            del self._held[operation_id]

    # --- observing

    async def _poll_forever(self) -> None:
        while True:
            self._woken.clear()
            await self._poll()
            with suppress(TimeoutError):
                async with self._clock.timeout(self._settings.poll_s):
                    await self._woken.wait()

    async def _poll(self) -> None:
        busy = self._arriving.union(self._held)
        rows = await fetch(self._store, Unfinished, sql.UNFINISHED)
        now = self._clock.monotonic()
        if now - self._looked_at > max(self._settings.claim_s / 3, 2 * self._settings.poll_s):
            # We saw nothing in between, and perhaps no owner could show its life either.
            self._sights.clear()
        self._looked_at = now
        self._sights = {row.id: self._sight(row, now) for row in rows}
        waited = list[tuple[Unfinished, int]]()
        for row in rows:
            held = self._held.get(row.id)
            if held is not None and row.claim <= held.worker.claim.number:
                held.worker.notice(cancel_requested=row.cancel_requested, nudges=row.nudges)
                continue
            self.drop(row.id)  # if we held it: somebody claimed it after us
            # While the rows were on their way, what was busy may have finished, and what is in them
            # may be a submission whose answer has yet to reach us.
            known = row.id in busy or row.id in self._arriving
            if not known and row.kind in self._equipment.kinds:
                unchanged_s = now - self._sights[row.id].since
                elapsed_ms = row.elapsed_ms + round(unchanged_s * 1000)
                self._consider(row, unchanged_s, elapsed_ms)
                idle = row.claimed_by is None and row.id not in self._arriving
                if idle and unchanged_s >= self._settings.claim_s:
                    waited.append((row, elapsed_ms))
        self._notices.announce_all_but({row.id for row in rows})
        await self._charge(waited, now)

    def _sight(self, row: Unfinished, now: float) -> _Sight:
        mark = (row.claim, row.beat)
        before = self._sights.get(row.id)
        return before if before is not None and before.mark == mark else _Sight(mark, now)

    def _consider(self, row: Unfinished, unchanged_s: float, elapsed_ms: int) -> None:
        """Give a worker to an operation that has none here, if that is due."""
        if row.claimed_by == self._equipment.engine_id:
            # The batch that claimed it had an unknown outcome, or its worker was cut short.
            self._start(Claim(self._equipment, row.id, row.claim, elapsed_ms=elapsed_ms))
        elif self._may_claim(row, unchanged_s, elapsed_ms):
            self._spawn(row.id, self._claim(row, elapsed_ms))

    def _may_claim(self, row: Unfinished, unchanged_s: float, elapsed_ms: int) -> bool:
        if len(self._arriving) >= _CLAIMS_AT_ONCE:
            return False
        if row.claimed_by is not None:
            return self._alone or unchanged_s >= self._settings.claim_s
        if row.needs_agent is None or self._equipment.gateway.reachable(row.needs_agent):
            return True
        # Giving up needs no agent; undoing does.
        unwanted = row.cancel_requested or elapsed_ms >= row.budget_ms
        return row.state is State.RUNNING and unwanted

    def _spawn(self, operation_id: str, work: Coroutine[Any, Any, None]) -> None:
        assert self._group is not None  # only its own tasks come here
        self._arriving.add(operation_id)
        task = self._group.create_task(self._contain(work), name=f"claim {operation_id}")
        task.add_done_callback(lambda _: self._arriving.discard(operation_id))

    async def _contain(self, work: Coroutine[Any, Any, None]) -> None:
        """Leave it to the next poll to try again."""
        try:
            await work
        except Stale:
            pass  # somebody was faster
        except Exception:
            _log.exception("operation_claim_failed")

    async def _claim(self, row: Unfinished, elapsed_ms: int) -> None:
        await self._store.batch(sql.take(row, self._equipment.engine_id, elapsed_ms))
        _log.info("operation_claimed", operation_id=row.id, before=row.claimed_by)
        self._start(Claim(self._equipment, row.id, row.claim + 1, elapsed_ms=elapsed_ms))

    async def _charge(self, waited: Sequence[tuple[Unfinished, int]], now: float) -> None:
        """Make the time that was waited durable, all in one batch; from `now` on it counts anew."""
        await self._store.batch([sql.count_waiting(row, elapsed_ms) for row, elapsed_ms in waited])
        for row, _ in waited:
            self._sights[row.id] = _Sight((row.claim, row.beat + 1), now)

    # --- showing life

    async def _beat_forever(self) -> None:
        while True:
            await self._clock.sleep(self._settings.claim_s / 3)
            await self._beat()

    async def _beat(self) -> None:
        """Beat for all workers in one batch; those whose claim is lost are stopped."""
        held = dict(self._held)
        changed = await self._store.batch([h.worker.claim.beat() for h in held.values()])
        for (operation_id, one), count in zip(held.items(), changed, strict=True):
            if not count and self._held.get(operation_id) is one:
                _log.warning("operation_claim_lost", operation_id=operation_id)
                self.drop(operation_id)

    async def _release(self, claims: Sequence[Claim]) -> None:
        """Let successors start at once; failing that, they wait until the claims expire."""
        beats = [claim.beat() for claim in claims]
        try:
            async with self._clock.timeout(_RELEASE_LIMIT_S):
                await self._store.batch([*beats, sql.release_all(self._equipment.engine_id)])
        except (KowabungaError, TimeoutError):
            _log.warning("operation_claims_not_released")

    async def _prune_forever(self) -> None:
        """Forget what is old by the wall clock, and also if that has not jumped since we started.

        Not at once: a clock that is wrong at the start of a machine is often put right soon.
        """
        while True:
            await self._clock.sleep(self._settings.prune_s)
            passed_ms = round((self._clock.monotonic() - self._began) * 1000)
            now_ms = min(self._clock.now_ms(), self._began_ms + passed_ms)
            before_ms = now_ms - round(self._settings.keep_finished_s * 1000)
            while await self._store.batch([sql.prune(before_ms)]) == [sql.PRUNED_AT_ONCE]:
                pass
            while (await self._store.batch(sql.forget_fences()))[-1] == sql.PRUNED_AT_ONCE:
                pass
