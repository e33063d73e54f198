"""Steps that fail: retries, budgets, undoing, leaving, bugs, and a store in trouble."""

import asyncio
from contextlib import AbstractAsyncContextManager

import pytest
from structlog.testing import capture_logs

from appliance.core.errors import (
    Conflict,
    DeadlineExceeded,
    DriverError,
    InsufficientResource,
    KowabungaError,
    Stale,
    Unavailable,
)
from appliance.operations.operation import Operation, State
from appliance.operations.step import OnFailure, OperationKind, Step, StepContext
from appliance.store.base import Statement, guard
from tests.support.drive import JumpingClock
from tests.unit.operations.lab import Arguments, Fault, Lab, a_submission, kind_of, log, nothing

_NEVER = Statement("SELECT 0")


class Flaky:
    """A step that fails so often before it works, and an undo that does the same."""

    def __init__(self, error: Exception, *, times: int = 10**9, undo_times: int = 0) -> None:
        self.error = error
        self.left = times
        self.undo_left = undo_times
        self.calls: list[str] = []

    async def do(self, _: StepContext[Arguments]) -> None:
        self.calls.append("do")
        if self.left:
            self.left -= 1
            raise self.error

    async def undo(self, _: StepContext[Arguments]) -> None:
        self.calls.append("undo")
        if self.undo_left:
            self.undo_left -= 1
            raise self.error

    def kind(
        self, *, on_failure: OnFailure = OnFailure.UNDO, budget_s: float = 60
    ) -> OperationKind[Arguments]:
        return kind_of(Step("flaky", self.do, self.undo), on_failure=on_failure, budget_s=budget_s)


def code(operation: Operation) -> str:
    assert operation.problem is not None
    return operation.problem.code


async def test_a_retryable_error_is_tried_again_after_growing_pauses(lab: Lab) -> None:
    flaky = Flaky(Unavailable("busy"), times=4)
    kind = flaky.kind()
    engine = await lab.engine(kind)
    began = lab.clock.monotonic()
    operation = await lab.run(engine, a_submission(kind))
    assert operation.state is State.DONE
    assert operation.attempts == 4
    # 0.5 + 1 + 2 + 4 s, each drawn between its half and its whole
    assert 3.75 <= lab.clock.monotonic() - began <= 8.5


async def test_failures_so_far_are_visible_while_it_is_retried(lab: Lab) -> None:
    kind = Flaky(Unavailable("the pool is busy")).kind()
    engine = await lab.engine(kind)
    operation_id = await lab.do(engine.submit(a_submission(kind)))
    operation = await lab.until_state(engine, operation_id, lambda o: o.attempts == 2)
    assert operation.state is State.RUNNING
    assert operation.problem is not None
    assert operation.problem.detail == "the pool is busy"


async def test_a_permanent_error_of_a_create_undoes_every_step_in_reverse(lab: Lab) -> None:
    order: list[str] = []

    def step(name: str, error: Exception | None = None) -> Step[Arguments]:
        async def do(_: StepContext[Arguments]) -> None:
            if error is not None:
                raise error

        async def undo(_: StepContext[Arguments]) -> None:
            order.append(name)

        return Step(name, do, undo)

    kind = kind_of(
        step("a"), Step("plain", nothing), step("b", DriverError("refused")), step("never done")
    )
    engine = await lab.engine(kind)
    operation = await lab.run(engine, a_submission(kind, statements=(log("desired"),)))
    assert order == ["never done", "b", "a"]
    assert operation.state is State.FAILED
    assert code(operation) == "driver_failed"
    assert operation.attempts == 1
    assert await lab.log() == ["desired", "withdraw"]


async def test_undoing_runs_under_new_fences_so_that_a_late_command_is_refused(lab: Lab) -> None:
    fences: list[int] = []

    async def do(context: StepContext[Arguments]) -> None:
        fences.extend(fence.fence for fence in context.fences.values())
        raise DriverError("no")

    async def undo(context: StepContext[Arguments]) -> None:
        fences.extend(fence.fence for fence in context.fences.values())

    kind = kind_of(Step("step", do, undo))
    engine = await lab.engine(kind)
    await lab.run(engine, a_submission(kind))
    assert fences == [1, 2]


async def test_a_failed_update_keeps_its_desired_values_and_is_marked(lab: Lab) -> None:
    flaky = Flaky(DriverError("refused"))
    kind = flaky.kind(on_failure=OnFailure.LEAVE)
    engine = await lab.engine(kind)
    operation = await lab.run(engine, a_submission(kind, statements=(log("desired"),)))
    assert operation.state is State.FAILED
    assert flaky.calls == ["do"]
    assert await lab.log() == ["desired", "mark_failed driver_failed"]


@pytest.mark.parametrize("jump_ms", [-3_600_000, 0, 365 * 86_400_000])
async def test_the_budget_is_elapsed_time_whatever_the_wall_clock_says(
    lab: Lab, jump_ms: int
) -> None:
    kind = Flaky(Unavailable("still busy")).kind(budget_s=20)
    engine = await lab.engine(kind)
    began = lab.clock.monotonic()
    operation_id = await lab.do(engine.submit(a_submission(kind)))
    await lab.until_state(engine, operation_id, lambda o: o.attempts == 2)
    lab.clock.set_wall_clock(lab.clock.now_ms() + jump_ms)
    operation = await lab.do(engine.wait(operation_id, 1e6))
    assert operation.state is State.FAILED
    assert lab.clock.monotonic() - began == pytest.approx(20, abs=1)
    assert operation.problem is not None
    assert operation.problem.detail == "gave up after 20 s: still busy"
    assert code(operation) == "unavailable"


async def test_a_step_that_never_returns_is_ended_by_the_budget(lab: Lab) -> None:
    async def hang(_: StepContext[Arguments]) -> None:
        await asyncio.Event().wait()

    kind = kind_of(Step("hang", hang), budget_s=20)
    engine = await lab.engine(kind)
    operation = await lab.run(engine, a_submission(kind))
    assert operation.state is State.FAILED
    assert code(operation) == "deadline_exceeded"
    assert operation.problem is not None
    assert "hang" in operation.problem.detail


class _EarlyTimers:
    """A clock like that of uvloop, whose timers may be a millisecond early."""

    def __init__(self, clock: JumpingClock) -> None:
        self.now_ms = clock.now_ms
        self.monotonic = clock.monotonic
        self.sleep = clock.sleep
        self._clock = clock

    def timeout(self, seconds: float | None) -> AbstractAsyncContextManager[object]:
        return self._clock.timeout(None if seconds is None else seconds - 0.001)


async def test_a_budget_whose_timer_is_early_is_no_bug_of_the_step(lab: Lab) -> None:
    async def hang(_: StepContext[Arguments]) -> None:
        await asyncio.Event().wait()

    kind = kind_of(Step("hang", hang), budget_s=20)
    engine = await lab.engine(kind, clock=_EarlyTimers(lab.clock))
    operation = await lab.run(engine, a_submission(kind))
    assert code(operation) == "deadline_exceeded"


async def test_the_budget_is_used_up_by_all_workers_together(lab: Lab) -> None:
    kind = Flaky(Unavailable("still busy")).kind(budget_s=60)
    began = lab.clock.monotonic()
    engine = await lab.engine(kind)
    operation_id = await lab.do(engine.submit(a_submission(kind)))
    for _ in range(3):
        await lab.let_pass(12)
        await lab.stop(engine)
        engine = await lab.engine(kind)
    await lab.do(engine.wait(operation_id, 1e6))
    assert lab.clock.monotonic() - began == pytest.approx(60, abs=4)


async def test_a_budget_spent_before_a_step_began_names_that_step(lab: Lab) -> None:
    async def slow(_: StepContext[Arguments]) -> None:
        await lab.clock.sleep(9.9999)

    kind = kind_of(Step("slow", slow), Step("next", nothing), budget_s=10)
    engine = await lab.engine(kind)
    lab.store.faults.append(Fault("operation_step", Unavailable("no leader")))
    operation = await lab.run(engine, a_submission(kind))
    assert operation.state is State.FAILED
    assert operation.problem is not None
    assert operation.problem.detail == "gave up after 10 s: slow was not done"


async def test_a_bug_in_a_step_is_logged_once_with_its_traceback_and_permanent(lab: Lab) -> None:
    flaky = Flaky(ZeroDivisionError("secret"), undo_times=3)
    kind = flaky.kind()
    engine = await lab.engine(kind)
    with capture_logs() as logs:
        operation = await lab.run(engine, a_submission(kind))
    assert operation.state is State.FAILED
    assert code(operation) == "internal"
    assert operation.problem is not None
    assert "secret" not in operation.problem.detail
    assert flaky.calls == ["do", "undo", "undo", "undo", "undo"]
    bugs = [entry for entry in logs if entry["event"] == "operation_bug"]
    assert [entry["exc_info"] for entry in bugs] == [flaky.error]


async def test_a_timeout_of_the_steps_own_is_a_bug(lab: Lab) -> None:
    kind = Flaky(TimeoutError()).kind()
    engine = await lab.engine(kind)
    assert code(await lab.run(engine, a_submission(kind))) == "internal"


async def test_an_undo_that_fails_is_retried_for_ever_and_visible(lab: Lab) -> None:
    flaky = Flaky(DriverError("disk refuses"), undo_times=40)
    kind = flaky.kind(budget_s=5)
    engine = await lab.engine(kind)
    began = lab.clock.monotonic()
    operation_id = await lab.do(engine.submit(a_submission(kind)))
    stuck = await lab.until_state(engine, operation_id, lambda o: o.attempts == 5)
    assert stuck.state is State.COMPENSATING
    assert stuck.problem is not None
    assert stuck.problem.detail == "disk refuses"
    operation = await lab.do(engine.wait(operation_id, 1e6))
    assert operation.state is State.FAILED
    assert flaky.calls.count("undo") == 41
    assert lab.clock.monotonic() - began < 41 * 60  # the pause never exceeds a minute


async def test_what_was_wrong_first_is_the_problem_of_a_finished_create(lab: Lab) -> None:
    async def do(_: StepContext[Arguments]) -> None:
        raise InsufficientResource("no host fits")

    undo = Flaky(Unavailable("agent busy"), undo_times=1)
    kind = kind_of(Step("place", do, undo.undo))
    engine = await lab.engine(kind)
    assert code(await lab.run(engine, a_submission(kind))) == "insufficient_resource"


async def test_a_withdrawal_that_the_store_refuses_is_retried_and_visible(lab: Lab) -> None:
    kind = Flaky(DriverError("no")).kind()
    engine = await lab.engine(kind)
    lab.store.faults.append(Fault("INSERT INTO log", Conflict("still referred to")))
    operation = await lab.run(engine, a_submission(kind))
    assert operation.state is State.FAILED
    assert operation.attempts == 2
    assert await lab.log() == ["withdraw"]


async def test_a_finish_that_the_store_refuses_undoes_a_create(lab: Lab) -> None:
    kind = kind_of(Step("only", nothing))
    engine = await lab.engine(kind)
    lab.store.faults.append(Fault("INSERT INTO log", Conflict("name taken")))
    operation = await lab.run(engine, a_submission(kind))
    assert operation.state is State.FAILED
    assert code(operation) == "conflict"
    assert await lab.log() == ["withdraw"]


async def test_a_guard_of_the_kinds_own_that_fails_is_permanent(lab: Lab) -> None:
    opened, closed = guard(_NEVER)
    kind = OperationKind(
        name="guarded",
        arguments=Arguments,
        steps=(),
        on_failure=OnFailure.LEAVE,
        budget_s=5,
        finish=lambda _arguments, _outputs: (opened, closed),
    )
    engine = await lab.engine(kind)
    operation = await lab.run(engine, a_submission(kind))
    assert operation.state is State.FAILED
    assert code(operation) == "stale"


async def test_an_agent_that_knows_a_higher_fence_ends_it_when_the_claim_still_holds(
    lab: Lab,
) -> None:
    kind = Flaky(Stale("a higher fence is known")).kind()
    engine = await lab.engine(kind)
    assert code(await lab.run(engine, a_submission(kind))) == "stale"


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("text", ["operation_step", "finished_at_ms = ?"])
async def test_trouble_with_the_store_makes_the_worker_begin_anew(
    lab: Lab, text: str, after: bool
) -> None:
    kind = kind_of(Step("a", nothing), Step("b", nothing))
    engine = await lab.engine(kind)
    error = DeadlineExceeded("no answer") if after else Unavailable("no leader")
    lab.store.faults.append(Fault(text, error, after=after))
    operation = await lab.run(engine, a_submission(kind))
    assert operation.state is State.DONE
    assert await lab.log() == ["finish"]


async def test_a_fault_of_the_engine_is_logged_and_the_worker_begins_anew(lab: Lab) -> None:
    kind = kind_of(Step("a", nothing), Step("b", nothing))
    engine = await lab.engine(kind)
    lab.store.faults.append(Fault("operation_step", KowabungaError("impossible")))
    with capture_logs() as logs:
        operation = await lab.run(engine, a_submission(kind))
    assert operation.state is State.DONE
    assert "operation_stuck" in [entry["event"] for entry in logs]


async def test_an_operation_that_cannot_be_read_shows_it_and_can_be_abandoned(lab: Lab) -> None:
    kind = Flaky(Unavailable("away")).kind(budget_s=1e6)
    first = await lab.engine(kind)
    operation_id = await lab.do(first.submit(a_submission(kind)))
    await lab.kill(first)
    await lab.store.real.batch([Statement("UPDATE operation SET arguments = '[]'")])
    engine = await lab.engine(kind, alone=True)
    stuck = await lab.until_state(
        engine,
        operation_id,
        lambda operation: operation.problem is not None and operation.problem.code == "corrupt",
    )
    assert stuck.problem is not None
    assert "cannot read the operation" in stuck.problem.detail
    assert "abandon" in (stuck.problem.hint or "")
    abandoned = await lab.do(engine.abandon(operation_id))
    assert abandoned.operation.state is State.ABANDONED


async def test_a_fault_of_the_engine_is_shown_while_it_lasts(lab: Lab) -> None:
    kind = kind_of(Step("a", nothing), Step("b", nothing), budget_s=1e6)
    engine = await lab.engine(kind)
    impossible = KowabungaError("impossible")
    lab.store.faults.extend(Fault("INSERT INTO operation_step", impossible) for _ in range(9))
    operation_id = await lab.do(engine.submit(a_submission(kind)))
    shown = await lab.until_state(engine, operation_id, lambda one: one.problem is not None)
    assert shown.problem is not None
    assert shown.problem.detail == "impossible"
    operation = await lab.do(engine.wait(operation_id, 1e6))
    assert operation.state is State.DONE
