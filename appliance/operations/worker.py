"""One worker carries one operation to its end, under one claim.

Correct wherever it dies: `run` may begin anew at any time from what the store says, every write is
guarded by the claim and every effect by a fence.
"""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Any, Final, TypeVar

import msgspec
import structlog

from appliance.core.errors import Cancelled, DeadlineExceeded, KowabungaError, Problem, Stale
from appliance.core.logs import bound
from appliance.operations.claim import Claim, ClaimLost, Job
from appliance.operations.equipment import Equipment
from appliance.operations.interrupt import Interrupt
from appliance.operations.operation import State
from appliance.operations.step import AgentOutOfReach, OnFailure, StepContext, Tries
from appliance.store.base import Statement

R = TypeVar("R")
_log: Final[structlog.stdlib.BoundLogger] = structlog.get_logger(__name__)


class _GiveUp(Exception):
    """No further try forward: undo or leave."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.detail)
        self.problem = problem


class _OwnTimeoutError(Exception):
    """A step raised TimeoutError itself: a bug, not to be taken for a limit of ours."""


class Worker:
    def __init__(self, equipment: Equipment, claim: Claim) -> None:
        self._equipment = equipment
        self._clock = equipment.clock
        self.claim: Final = claim
        self._tries = Tries()
        self._cancel_requested = False
        self._nudges: int | None = None  # None: not read yet
        self._nudged = False
        self._trying = Interrupt()
        self._pausing = Interrupt()
        self._reported: set[str] = set()

    def notice(self, *, cancel_requested: bool, nudges: int) -> None:
        """Take in what others asked for: a cancelled step ends at once, a nudge ends a pause."""
        if cancel_requested and not self._cancel_requested:
            self._cancel_requested = True
            self._trying.fire()
            self._wake()
        if self._nudges is not None and nudges > self._nudges:
            self._nudges = nudges
            self._wake()

    async def run(self) -> None:
        """Work until the operation is finished, handed over, or lost to another engine.

        Trouble with the store, or a fault of ours, makes it begin anew after a pause. Whatever is
        logged meanwhile, by a step too, names the operation.
        """
        with bound(operation_id=self.claim.operation_id):
            await self._persist()

    async def _persist(self) -> None:
        failures = 0
        while True:
            try:
                await self._work()
            except ClaimLost:
                _log.warning("operation_claim_lost", claim=self.claim.number)
            except Exception as error:
                failures += 1
                if isinstance(error, KowabungaError) and error.retryable:
                    _log.warning("operation_interrupted", problem=str(error))
                else:
                    _log.exception("operation_stuck")
                    await self._show_stuck(error)
                await self._pause(self._equipment.settings.undo_backoff.delay_s(failures))
                continue
            return

    async def _show_stuck(self, error: Exception) -> None:
        """Let whoever looks at the operation see it; what is wrong now, the next try meets too."""
        trouble = (
            error
            if isinstance(error, KowabungaError)
            else KowabungaError(
                f"it cannot go on: {type(error).__name__}",
                hint=f"a fault of the program: its log tells more of {self.claim.operation_id}",
            )
        )
        with suppress(ClaimLost, KowabungaError):
            await self.claim.show(trouble)

    async def _work(self) -> None:
        job = await self._load()
        try:
            if job.state is State.COMPENSATING:
                await self._compensate(job)
                return
            try:
                await self._forward(job)
            except _GiveUp as end:
                await self._give_up(job, end.problem)
        except AgentOutOfReach as away:
            await self.claim.release(away)
            _log.info("operation_released", needs_agent=away.agent_id)

    async def _load(self) -> Job:
        job = await self.claim.load()
        self._cancel_requested = job.cancel_requested
        self._nudges = job.nudges
        return job

    # --- forward

    async def _forward(self, job: Job) -> None:
        """Do the steps without a row; the last record rides in the batch that finishes."""
        unwritten = list[Statement]()
        for number, step in enumerate(job.kind.steps):
            if step.name in job.outputs:
                continue
            if unwritten:
                await self.claim.commit(*unwritten)
            encoded = job.outputs.record(step.name, await self._until_done(job, number))
            unwritten = [self.claim.step_record(number, step.name, encoded)]
        try:
            finishing = job.kind.finish(job.arguments, job.outputs)
            await self.claim.finish(job, (*unwritten, *finishing), State.DONE, None)
        except Exception as error:
            trouble = await self._judge(job, error, "finish")
            if trouble.retryable:
                raise
            reason = _withdrawn() if self._cancel_requested else trouble
            raise _GiveUp(reason.to_problem()) from error
        _log.info("operation_finished", kind=job.kind.name, state=State.DONE.value)

    async def _until_done(self, job: Job, number: int) -> msgspec.Struct | None:
        step = job.kind.steps[number]
        failures = 0
        while True:
            self._check_wanted(job, step.name)
            try:
                async with self._trying.block(), self._clock.timeout(self._left_s(job)):
                    return await self._attempt(job, f"do{number}", step.do)
            except TimeoutError:  # a cancellation, or the budget: a timer may be a moment early
                trouble: KowabungaError = DeadlineExceeded(f"{step.name} was still not done")
            except Exception as error:
                trouble = await self._judge(job, error, step.name)
            if not trouble.retryable:
                job.attempts += 1
                raise _GiveUp(trouble.to_problem())
            job.problem = trouble.to_problem()
            self._check_wanted(job, step.name)
            if isinstance(trouble, AgentOutOfReach):
                raise trouble
            failures += 1
            await self._record_failure(job, trouble)
            delay_s = self._equipment.settings.do_backoff.delay_s(failures)
            await self._pause(min(delay_s, self._left_s(job)))

    def _check_wanted(self, job: Job, where: str) -> None:
        """Give up once the work is withdrawn or its time is used up."""
        if self._cancel_requested:
            raise _GiveUp(_withdrawn().to_problem())
        if self._left_s(job) > 0:
            return
        budget = f"{job.budget_ms / 1000:g} s"
        last = job.problem or DeadlineExceeded(f"{where} was not done").to_problem()
        raise _GiveUp(
            msgspec.structs.replace(last, detail=f"gave up after {budget}: {last.detail}")
        )

    def _left_s(self, job: Job) -> float:
        return (job.budget_ms - self.claim.elapsed_ms()) / 1000

    # --- ends other than done

    async def _give_up(self, job: Job, problem: Problem) -> None:
        _log.warning("operation_gave_up", kind=job.kind.name, problem=problem.detail)
        if job.kind.on_failure is OnFailure.LEAVE:
            await self._insist(job, "mark_failed", partial(self._finish_left, job, problem))
        else:
            await self._compensate(await self.claim.turn_back(job, problem))

    async def _compensate(self, job: Job) -> None:
        """Undo every step in reverse, recorded or not: an effect may exist without its row."""
        for number, step in reversed(tuple(enumerate(job.kind.steps))):
            if step.undo is not None:
                undo = partial(self._attempt, job, f"undo{number}", step.undo)
                await self._insist(job, step.name, undo)
        await self._insist(job, "withdraw", partial(self._finish_undone, job))

    async def _insist(self, job: Job, where: str, action: Callable[[], Awaitable[None]]) -> None:
        """Repeat until it works or an operator abandons the operation; the problem is visible."""
        failures = 0
        while True:
            try:
                await action()
            except Exception as error:
                trouble = await self._judge(job, error, where)
            else:
                return
            if isinstance(trouble, AgentOutOfReach):
                raise trouble
            failures += 1
            await self._record_failure(job, trouble)
            await self._pause(self._equipment.settings.undo_backoff.delay_s(failures))

    async def _finish_left(self, job: Job, problem: Problem) -> None:
        marks = job.kind.mark_failed(job.arguments, problem)
        await self.claim.finish(job, marks, self._failed_state(), problem)

    async def _finish_undone(self, job: Job) -> None:
        withdrawals = job.kind.withdraw(job.arguments)
        await self.claim.finish(job, withdrawals, self._failed_state(), job.failure)

    def _failed_state(self) -> State:
        return State.CANCELLED if self._cancel_requested else State.FAILED

    # --- single acts

    async def _attempt(
        self, job: Job, purpose: str, action: Callable[[StepContext[Any]], Awaitable[R]]
    ) -> R:
        context = StepContext(
            operation_id=self.claim.operation_id,
            arguments=job.arguments,
            outputs=job.outputs,
            clock=self._clock,
            request_prefix=f"{self.claim.operation_id}.{self.claim.number}.{purpose}",
            tries=self._tries,
            fences=job.fences,
            store=self._equipment.store,
            gateway=self._equipment.gateway,
            lanes=self._equipment.lanes,
            vault=self._equipment.vault,
        )
        try:
            return await action(context)
        except Exception as error:
            self._tries.failed()
            if isinstance(error, TimeoutError):
                raise _OwnTimeoutError from error
            raise

    async def _judge(self, job: Job, error: Exception, where: str) -> KowabungaError:
        """Say what a failure means; what nobody raised on purpose is a bug, and permanent."""
        if isinstance(error, Stale):
            await self._load()  # a takeover ends here; else a guard of the kind's own failed
        if isinstance(error, KowabungaError):
            return error
        if where not in self._reported:
            self._reported.add(where)
            _log.error("operation_bug", kind=job.kind.name, step=where, exc_info=error)
        return KowabungaError(
            f"{where} failed unexpectedly: {type(error).__name__}",
            hint=f"a fault of the program: its log tells more of {self.claim.operation_id}",
        )

    async def _record_failure(self, job: Job, trouble: KowabungaError) -> None:
        await self.claim.record_failure(job, trouble)
        _log.warning("operation_try_failed", attempts=job.attempts, problem=trouble.detail)

    async def _pause(self, seconds: float) -> None:
        if not self._nudged:
            with suppress(TimeoutError):
                async with self._pausing.block():
                    await self._clock.sleep(seconds)
        self._nudged = False

    def _wake(self) -> None:
        self._nudged = True
        self._pausing.fire()


def _withdrawn() -> Cancelled:
    return Cancelled("the request was withdrawn")
