"""The durable operations engine, as the rest of the package uses it.

Asks and answers about operations; the work itself is in `runner.py` and `worker.py`.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Final

import msgspec
import structlog

from appliance.core.clock import Clock
from appliance.core.errors import (
    Busy,
    Conflict,
    DeadlineExceeded,
    NotFound,
    Problem,
    Stale,
)
from appliance.core.ids import IdFactory
from appliance.operations import sql
from appliance.operations.equipment import EngineSettings, Equipment
from appliance.operations.intake import Intake
from appliance.operations.notices import Notices
from appliance.operations.operation import Abandoned, Operation, Origin, State, StepRecord
from appliance.operations.rows import StepRow, Template, decode_operation
from appliance.operations.runner import Runner
from appliance.operations.step import A, AnyKind, Lanes, OnFailure, Submission
from appliance.operations.vault import NoVault, Vault
from appliance.rpc.gateway import AgentGateway
from appliance.store.base import Consistency, Store, fetch, fetch_one

_WATCH_S: Final = 1.0
_ABANDONED: Final = "an operator abandoned it"
_WARNING: Final = (
    "what the steps made is left as it is, the object's row too, and a step that was under way may"
    " still have its effect: look at the targets, then delete or reconcile them"
)
_log: Final[structlog.stdlib.BoundLogger] = structlog.get_logger(__name__)


class Engine:
    def __init__(
        self,
        store: Store,
        gateway: AgentGateway,
        kinds: Sequence[AnyKind],
        *,
        clock: Clock,
        alone: bool = False,
        settings: EngineSettings | None = None,
        vault: Vault | None = None,
    ) -> None:
        """Prepare an engine; `run` makes it work.

        `alone` tells that no other process can have the store open, as with SQLite: claims that
        are not this engine's belong to the dead and are taken over without waiting. Without a
        `vault` no kind may need a secret.
        """
        self._new_id = IdFactory(clock)
        self._store = store
        self._clock = clock
        self._notices = Notices()
        chosen = settings or EngineSettings()
        self._equipment = Equipment(
            store=store,
            gateway=gateway,
            kinds={kind.name: kind for kind in kinds},
            clock=clock,
            engine_id=self._new_id(),
            settings=chosen,
            lanes=Lanes(chosen.calls_per_agent),
            vault=vault or NoVault(),
            announce=self._announce,
        )
        self._listener: Callable[[str], None] | None = None
        self._runner = Runner(self._equipment, self._notices, alone=alone)
        self._intake = Intake(self._equipment, self._runner, self._new_id)

    @property
    def engine_id(self) -> str:
        """Random per process: an engine that starts again is another one."""
        return self._equipment.engine_id

    async def run(self) -> None:
        """Work until cancelled; then let go of all claims so that a successor starts at once."""
        await self._runner.run()

    def agent_connected(self, agent_id: str) -> None:
        """Look at once for operations that wait for this agent."""
        _log.debug("operation_agent_connected", agent=agent_id)
        self._runner.wake()

    def on_finished(self, listener: Callable[[str], None]) -> None:
        """Call `listener`, which must not block or raise, with the id of each operation of ours.

        Once it has ended; a hint only: what ends while nobody listens is told to nobody. One
        listener: a new one takes the place of the old.
        """
        self._listener = listener

    # --- asking for work

    async def submit(self, submission: Submission[A]) -> str:
        """Write the submission and its operation, claimed by this engine, in one batch.

        Returns the id of the operation: an unfinished one with the same request key, if any.

        Raises:
            Busy: another operation holds a target; context: `target`, `operation`, `origin`.
            Unavailable: nothing was written.
            DeadlineExceeded: the outcome is unknown; context: `operation`. If it was written, the
                work goes on.
            KowabungaError: what the submission's own statements provoke; nothing was written.
        """
        return await self._intake.submit(submission)

    async def submit_when_free(
        self, prepare: Callable[[], Awaitable[Submission[A]]], timeout_s: float
    ) -> str:
        """Submit once no other operation holds the targets.

        `prepare` runs before each try, so that it decides on what the other operation left. A
        user's submission overrides reconciliation: that is cancelled, then waited for.

        Raises:
            Busy: still held when the time was up.
            KowabungaError: as `submit`, and whatever `prepare` raises.
        """
        end = self._clock.monotonic() + timeout_s
        while True:
            submission = await prepare()
            try:
                return await self.submit(submission)
            except Busy as busy:
                await self._override(submission, busy)
                try:
                    await self.wait(str(busy.context["operation"]), end - self._clock.monotonic())
                except DeadlineExceeded:
                    raise busy from None

    async def cancel(self, operation_id: str) -> None:
        """Ask for the work to be withdrawn: a create is undone, anything else stops.

        Once this returns, the operation cannot end as done. One that is being undone already
        stays so.

        Raises:
            NotFound: no such operation.
            Conflict: it is finished.
        """
        (changed,) = await self._store.batch([sql.request_cancel(operation_id)])
        if not changed:
            operation = await self._read(operation_id)
            if operation.finished:
                raise _finished(operation)
        self._runner.wake()

    async def cancel_and_wait(self, operation_id: str, timeout_s: float) -> Operation:
        """Cancel, and return the operation once nothing of it goes on.

        One that finished before it could be cancelled is returned as it is.

        Raises:
            NotFound: no such operation.
            DeadlineExceeded: still unfinished; the cancellation stays in force.
        """
        with suppress(Conflict):
            await self.cancel(operation_id)
        return await self.wait(operation_id, timeout_s)

    async def retry(self, operation_id: str, principal: str) -> str:
        """Try again now; return the id of the operation that does: a new one if it had ended.

        Raises:
            NotFound: no such operation.
            Conflict: it was done, undone or abandoned: there is nothing to try again.
            Busy: another operation holds a target of the failed one.
        """
        (changed,) = await self._store.batch([sql.nudge(operation_id)])
        if changed:
            self._runner.wake()
            return operation_id
        operation = await self._read(operation_id)
        row = await fetch_one(
            self._store, Template, sql.template(operation_id), f"operation {operation_id}"
        )
        kind = self._equipment.kinds.get(row.kind)
        ended = operation.state in (State.FAILED, State.CANCELLED)
        if kind is None or kind.on_failure is OnFailure.UNDO or not ended:
            raise Conflict(
                f"operation {operation_id} ({operation.kind}) is {operation.state} and cannot be"
                " tried again",
                hint="make the request again",
                operation=operation_id,
            )
        again = Submission(
            kind=kind,
            arguments=msgspec.json.decode(row.arguments, type=kind.arguments),
            targets=operation.targets,
            principal=principal,
        )
        return await self.submit(again)

    async def abandon(self, operation_id: str) -> Abandoned:
        """Let go of an unfinished operation: its targets are free, what exists is left.

        Raises:
            NotFound: no such operation.
            Conflict: it is finished.
        """
        problem = Problem("cancelled", _ABANDONED)
        try:
            await self._store.batch(sql.abandon(operation_id, problem, self._clock.now_ms()))
        except Stale as stale:
            raise _finished(await self._read(operation_id)) from stale
        self._runner.drop(operation_id)
        self._announce(operation_id)
        _log.warning("operation_abandoned", operation_id=operation_id)
        recorded = await fetch(
            self._store, StepRow, sql.steps(operation_id), Consistency.LINEARIZABLE
        )
        return Abandoned(
            operation=await self._read(operation_id),
            left=tuple(StepRecord(row.name, msgspec.Raw(row.output.encode())) for row in recorded),
            warning=_WARNING,
        )

    # --- looking

    async def get(self, operation_id: str) -> Operation:
        """Return the operation.

        Raises:
            NotFound: no such operation.
        """
        return await self._read(operation_id, Consistency.WEAK)

    async def find_unfinished(self, target: str) -> Operation | None:
        """Return the operation that holds the target."""
        holder = await self._intake.find_holder((target,))
        return None if holder is None else await self._read(holder.operation_id)

    async def wait(self, operation_id: str, timeout_s: float) -> Operation:
        """Return the operation once it is finished, whichever engine works on it.

        Raises:
            NotFound: no such operation.
            DeadlineExceeded: still unfinished; context: `operation`. The work goes on.
        """
        try:
            async with self._clock.timeout(max(timeout_s, 0)):
                with self._notices.about(operation_id) as notice:
                    if self._runner.works_on(operation_id):
                        await notice.wait()
                    while True:
                        notice.clear()
                        operation = await self.get(operation_id)
                        if operation.finished:
                            return operation
                        await notice.wait()
        except TimeoutError as late:
            raise DeadlineExceeded(
                f"operation {operation_id} is not finished after {timeout_s:g} s; it goes on",
                hint=f"look at it with: kowabunga operation show {operation_id}",
                operation=operation_id,
            ) from late

    async def watch(self, operation_id: str) -> AsyncGenerator[Operation]:
        """Yield the operation now, and when it has changed, until it is finished.

        Raises:
            NotFound: no such operation.
        """
        shown: Operation | None = None
        with self._notices.about(operation_id) as notice:
            while True:
                notice.clear()
                operation = await self.get(operation_id)
                if operation != shown:
                    yield operation
                    shown = operation
                if operation.finished:
                    return
                with suppress(TimeoutError):
                    async with self._clock.timeout(_WATCH_S):
                        await notice.wait()

    async def list(self, *, unfinished: bool = False, limit: int = 100) -> Sequence[Operation]:
        """Return the newest operations first."""
        rows = await self._store.query(sql.newest(limit, unfinished=unfinished))
        return [decode_operation(row) for row in rows]

    # --- inside

    def _announce(self, operation_id: str) -> None:
        self._notices.announce(operation_id)
        if self._listener is not None:
            self._listener(operation_id)

    async def _override(self, submission: Submission[A], busy: Busy) -> None:
        by_user = submission.origin is Origin.USER
        if by_user and busy.context["origin"] == Origin.RECONCILE.value:
            with suppress(NotFound, Conflict):
                await self.cancel(str(busy.context["operation"]))

    async def _read(
        self, operation_id: str, consistency: Consistency = Consistency.LINEARIZABLE
    ) -> Operation:
        rows = await self._store.query(sql.by_id(operation_id), consistency)
        if not rows:
            raise NotFound(f"operation {operation_id} does not exist", operation=operation_id)
        return decode_operation(rows[0])


def _finished(operation: Operation) -> Conflict:
    return Conflict(
        f"operation {operation.id} is finished: {operation.state}", operation=operation.id
    )
