"""What may be read and written under one claim of one operation.

Every write is guarded: once the claim is lost nothing changes any more. Decides nothing: that is
`worker.py`; makes no claim: that is `runner.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from appliance.core.errors import Corrupt, KowabungaError, Problem, Stale
from appliance.model.target import Fence
from appliance.operations import sql
from appliance.operations.equipment import Equipment
from appliance.operations.operation import State
from appliance.operations.rows import Claimed, StepRow, decode_problem
from appliance.operations.step import AgentOutOfReach, AnyKind, Outputs
from appliance.store.base import Consistency, Statement, fetch


class ClaimLost(Exception):
    """Somebody else works on the operation, or it is finished: not a line more from here."""


@dataclass(slots=True)
class Job:
    """The operation as read under the claim, and what has been learnt since."""

    kind: AnyKind
    arguments: Any  # of the type that the kind names
    state: State
    fences: dict[str, Fence]
    outputs: Outputs
    budget_ms: int
    attempts: int
    problem: Problem | None
    failure: Problem | None
    cancel_requested: bool
    nudges: int


class Claim:
    def __init__(
        self,
        equipment: Equipment,
        operation_id: str,
        number: int,
        *,
        elapsed_ms: int = 0,
        fresh: bool = False,
    ) -> None:
        """Stand for a claim that the store already shows.

        `elapsed_ms` was spent before it. A `fresh` operation has no recorded step yet.
        """
        self._equipment = equipment
        self._store = equipment.store
        self._clock = equipment.clock
        self.operation_id: Final = operation_id
        self.number: Final = number
        self._elapsed_before_ms = elapsed_ms
        self._began = self._clock.monotonic()
        self._fresh = fresh

    def elapsed_ms(self) -> int:
        """Return the time spent on the operation, over all claims, by monotonic clocks."""
        own_ms = round((self._clock.monotonic() - self._began) * 1000)
        return self._elapsed_before_ms + own_ms

    async def load(self) -> Job:
        """Read the operation, its fences and its recorded steps.

        Raises:
            ClaimLost: the claim does not hold any more.
            Corrupt: the rows say what this release does not understand.
        """
        try:
            return await self._load()
        except msgspec.MsgspecError as error:
            raise Corrupt(
                f"this release cannot read the operation: {error}",
                hint="run the release that began it, or abandon it and look after what it left",
            ) from error

    async def _load(self) -> Job:
        rows = await fetch(
            self._store,
            Claimed,
            sql.claimed(self.operation_id, self.number, self._equipment.engine_id),
            Consistency.LINEARIZABLE,
        )
        if not rows:
            raise ClaimLost
        recorded: list[StepRow] = []
        if not self._fresh:
            recorded = await fetch(
                self._store, StepRow, sql.steps(self.operation_id), Consistency.LINEARIZABLE
            )
        self._fresh = False
        first = rows[0]
        kind = self._equipment.kinds[first.kind]
        return Job(
            kind=kind,
            arguments=msgspec.json.decode(first.arguments, type=kind.arguments),
            state=first.state,
            fences={row.target: Fence(row.epoch, row.fence) for row in rows},
            outputs=Outputs({row.name: row.output for row in recorded}),
            budget_ms=first.budget_ms,
            attempts=first.attempts,
            problem=decode_problem(first.problem),
            failure=decode_problem(first.failure),
            cancel_requested=first.cancel_requested,
            nudges=first.nudges,
        )

    def beat(self) -> Statement:
        """Return the statement that shows life and changes no row once the claim is lost."""
        return sql.beat(
            self.operation_id, self.number, self._equipment.engine_id, self.elapsed_ms()
        )

    def step_record(self, number: int, name: str, output: str) -> Statement:
        """Return the record of a step that is done, for a `commit` or for `finish`."""
        return sql.record_step(self.operation_id, number, name, output, self._clock.now_ms())

    async def commit(self, *statements: Statement) -> None:
        """Write under the claim.

        Raises:
            ClaimLost: nothing was written.
        """
        try:
            await self._write(statements)
        except Stale as stale:
            raise ClaimLost from stale

    async def show(self, trouble: KowabungaError) -> None:
        """Show why nothing can be tried at all; raises as `commit` does."""
        await self.commit(
            sql.show_problem(self.operation_id, trouble.to_problem(), self.elapsed_ms())
        )

    async def record_failure(self, job: Job, trouble: KowabungaError) -> None:
        """Count a failed try and show why."""
        job.attempts += 1
        job.problem = trouble.to_problem()
        await self.commit(
            sql.record_failure(self.operation_id, job.attempts, job.problem, self.elapsed_ms())
        )

    async def turn_back(self, job: Job, failure: Problem) -> Job:
        """Begin to undo, under new fences; return the operation as it stands then."""
        await self.commit(
            *sql.compensate(self.operation_id, job.attempts, failure, self.elapsed_ms())
        )
        return await self.load()

    async def release(self, away: AgentOutOfReach) -> None:
        """Hand over to an engine that reaches the agent, which may be this one later."""
        await self.commit(
            sql.release(self.operation_id, away.agent_id, away.to_problem(), self.elapsed_ms())
        )

    async def finish(
        self, job: Job, statements: Sequence[Statement], state: State, problem: Problem | None
    ) -> None:
        """Write the end, together with the kind's own statements.

        Raises:
            Stale: the claim is lost, a guard among `statements` failed, or the state is `done`
                and a cancellation was accepted.
        """
        end = sql.finish(
            self.operation_id,
            state,
            attempts=job.attempts,
            problem=problem,
            elapsed_ms=self.elapsed_ms(),
            now_ms=self._clock.now_ms(),
        )
        await self._write((*statements, *end), unless_cancelled=state is State.DONE)
        self._equipment.announce(self.operation_id)

    async def _write(
        self, statements: Sequence[Statement], *, unless_cancelled: bool = False
    ) -> None:
        await self._store.batch(
            sql.guarded(
                self.operation_id,
                self.number,
                self._equipment.engine_id,
                statements,
                unless_cancelled=unless_cancelled,
            )
        )
