"""Asking the engine: attaching, busy targets, waiting, cancelling, retrying, abandoning."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec
import pytest

from appliance.core.errors import (
    Busy,
    Cancelled,
    Conflict,
    DeadlineExceeded,
    DriverError,
    NotFound,
    Unavailable,
    from_problem,
)
from appliance.core.ids import new_id
from appliance.model.target import Fence, target
from appliance.operations.operation import Operation, Origin, State
from appliance.operations.step import (
    Lanes,
    OnFailure,
    OperationKind,
    Outputs,
    Step,
    StepContext,
    Submission,
    Tries,
)
from appliance.operations.vault import NoVault
from appliance.store.base import Statement
from tests.unit.operations.lab import (
    AGENT,
    POKE,
    Agents,
    Arguments,
    Fault,
    Lab,
    Note,
    a_submission,
    kind_of,
    log,
    nothing,
    poke,
)
from tests.unit.operations.test_claims import Gate


class BusyDisk(DriverError):
    retryable = True


Ask = Callable[[], Coroutine[Any, Any, object]]
THING = target("thing", "1" * 24)
OTHER = target("thing", "2" * 24)


async def _ready(submission: Submission[Arguments]) -> Submission[Arguments]:
    return submission


# --- the same request, and busy targets


async def test_the_same_unfinished_request_attaches_and_writes_nothing(lab: Lab) -> None:
    gate = Gate()
    kind = gate.kind()
    engine = await lab.engine(kind)
    first = await lab.do(engine.submit(a_submission(kind, THING, request_key="k")))
    # A repeated POST brings a new object id, and a name that is taken by then.
    again = a_submission(kind, OTHER, request_key="k", statements=(log("again"),))
    assert await lab.do(engine.submit(again)) == first
    assert await lab.log() == []
    gate.open.set()
    await lab.do(engine.wait(first, 10))
    assert await lab.do(engine.submit(again)) != first


async def test_a_target_that_is_worked_on_is_busy_and_names_the_other_operation(lab: Lab) -> None:
    gate = Gate()
    kind = gate.kind()
    engine = await lab.engine(kind)
    first = await lab.do(engine.submit(a_submission(kind, THING, OTHER)))
    with pytest.raises(Busy) as caught:
        await lab.do(engine.submit(a_submission(kind, OTHER, statements=(log("no"),))))
    assert caught.value.context == {"target": OTHER, "operation": first, "origin": "user"}
    assert await lab.log() == []
    found = await lab.do(engine.find_unfinished(THING))
    assert found is not None
    assert found.id == first
    assert await lab.do(engine.find_unfinished(target("thing", "3" * 24))) is None


async def test_a_conflict_of_the_callers_own_statements_is_the_callers(lab: Lab) -> None:
    kind = kind_of(Step("only", nothing))
    engine = await lab.engine(kind)
    twice = Statement(
        "INSERT INTO cluster (singleton, id, epoch, created_at_ms) SELECT * FROM cluster"
    )
    with pytest.raises(Conflict, match="singleton"):
        await lab.do(engine.submit(a_submission(kind, statements=(twice,))))


@pytest.mark.parametrize("columns", ["operation.request_key", "operation_target.target"])
async def test_what_was_in_the_way_and_is_gone_by_now_is_no_obstacle(
    lab: Lab, columns: str
) -> None:
    kind = kind_of(Step("only", nothing))
    engine = await lab.engine(kind)
    clash = Conflict("taken", constraint="unique", columns=columns)
    lab.store.faults.append(Fault("INSERT INTO operation ", clash))
    operation = await lab.run(engine, a_submission(kind, request_key="k"))
    assert operation.state is State.DONE


async def test_another_request_waits_for_a_busy_target_and_decides_anew(lab: Lab) -> None:
    gate = Gate()
    slow, quick = gate.kind(), kind_of(Step("only", nothing), name="quick")
    engine = await lab.engine(slow, quick)
    first = await lab.do(engine.submit(a_submission(slow, THING)))
    prepared: list[str] = []

    async def prepare() -> Submission[Arguments]:
        holder = await engine.find_unfinished(THING)
        prepared.append("busy" if holder is not None else "free")
        return a_submission(quick, THING)

    waiting = asyncio.create_task(engine.submit_when_free(prepare, 60))
    await lab.let_pass(10)
    assert not waiting.done()
    gate.open.set()
    await lab.drive.until(waiting.done)
    assert waiting.result() != first
    assert prepared == ["busy", "free"]


async def test_a_busy_target_is_waited_for_up_to_the_callers_deadline(lab: Lab) -> None:
    kind = Gate().kind()
    engine = await lab.engine(kind)
    first = await lab.do(engine.submit(a_submission(kind, THING)))
    began = lab.clock.monotonic()
    with pytest.raises(Busy) as caught:
        await lab.do(engine.submit_when_free(lambda: _ready(a_submission(kind, THING)), 30))
    assert lab.clock.monotonic() - began == pytest.approx(30, abs=1)
    assert caught.value.context["operation"] == first


async def test_a_users_request_overrides_reconciliation(lab: Lab) -> None:
    gate = Gate()
    repair, update = gate.kind(OnFailure.LEAVE), kind_of(Step("only", nothing), name="update")
    engine = await lab.engine(repair, update)
    first = await lab.do(engine.submit(a_submission(repair, THING, origin=Origin.RECONCILE)))
    began = lab.clock.monotonic()
    second = await lab.do(engine.submit_when_free(lambda: _ready(a_submission(update, THING)), 30))
    assert lab.clock.monotonic() - began < 1
    assert (await lab.do(engine.get(first))).state is State.CANCELLED
    assert (await lab.do(engine.wait(second, 10))).state is State.DONE


async def test_reconciliation_overrides_nobody(lab: Lab) -> None:
    repair = Gate().kind(OnFailure.LEAVE)
    engine = await lab.engine(repair)
    submission = a_submission(repair, THING, origin=Origin.RECONCILE)
    first = await lab.do(engine.submit(submission))
    with pytest.raises(Busy):
        await lab.do(engine.submit_when_free(lambda: _ready(submission), 5))
    assert (await lab.do(engine.get(first))).state is State.RUNNING


@pytest.mark.parametrize("fault", ["kind", "target", "reconcile"])
async def test_a_submission_that_makes_no_sense_is_refused(lab: Lab, fault: str) -> None:
    kind = kind_of(Step("only", nothing))
    engine = await lab.engine(kind)
    submission = {
        "kind": a_submission(kind_of(Step("only", nothing))),
        "target": Submission(kind=kind, arguments=Arguments(), targets=(), principal="master"),
        "reconcile": a_submission(kind, origin=Origin.RECONCILE),
    }[fault]
    with pytest.raises(ValueError, match=kind.name):
        await engine.submit(submission)


# --- waiting and looking


async def test_waiting_ends_with_its_deadline_and_names_the_operation(lab: Lab) -> None:
    kind = Gate().kind()
    engine = await lab.engine(kind)
    operation_id = await lab.do(engine.submit(a_submission(kind)))
    with pytest.raises(DeadlineExceeded) as caught:
        await lab.do(engine.wait(operation_id, 30))
    assert caught.value.context == {"operation": operation_id}
    assert (await lab.do(engine.get(operation_id))).state is State.RUNNING


async def test_waiting_ends_for_an_operation_that_another_engine_finishes(lab: Lab) -> None:
    gate = Gate()
    kind = gate.kind()
    owner, other = await lab.engine(kind), await lab.engine(kind)
    operation_id = await lab.do(owner.submit(a_submission(kind)))
    waiting = asyncio.create_task(other.wait(operation_id, 60))
    await lab.let_pass(5)
    gate.open.set()
    began = lab.clock.monotonic()
    await lab.drive.until(waiting.done)
    assert waiting.result().state is State.DONE
    assert lab.clock.monotonic() - began <= 2


@pytest.mark.parametrize("ask", ["get", "wait", "cancel", "retry", "abandon"])
async def test_an_unknown_operation_does_not_exist(lab: Lab, ask: str) -> None:
    engine = await lab.engine(kind_of())
    unknown = new_id()
    asked: dict[str, Ask] = {
        "get": lambda: engine.get(unknown),
        "wait": lambda: engine.wait(unknown, 5),
        "cancel": lambda: engine.cancel(unknown),
        "retry": lambda: engine.retry(unknown, "master"),
        "abandon": lambda: engine.abandon(unknown),
    }
    with pytest.raises(NotFound, match=unknown):
        await lab.do(asked[ask]())


async def test_watching_shows_each_change_until_the_end(lab: Lab) -> None:
    gate = Gate()
    kind = kind_of(Step("first", nothing), Step("gate", gate.do))
    engine = await lab.engine(kind)
    operation_id = await lab.do(engine.submit(a_submission(kind)))
    shown: list[Operation] = []

    async def watch() -> None:
        async for operation in engine.watch(operation_id):
            shown.append(operation)  # noqa: PERF401 - looked at while it grows

    watching = asyncio.create_task(watch())
    await lab.let_pass(5)
    assert shown[-1].steps == ("first",)
    gate.open.set()
    await lab.drive.until(watching.done)
    assert [operation.state for operation in shown[-2:]] == [State.RUNNING, State.DONE]
    assert len(shown) <= 3


async def test_lists_show_the_newest_first_and_the_unfinished_alone_if_asked(lab: Lab) -> None:
    gate = Gate()
    slow, quick = gate.kind(), kind_of(Step("only", nothing), name="quick")
    engine = await lab.engine(slow, quick)
    first = await lab.do(engine.submit(a_submission(slow)))
    second = (await lab.run(engine, a_submission(quick))).id
    assert [o.id for o in await lab.do(engine.list())] == [second, first]
    assert [o.id for o in await lab.do(engine.list(unfinished=True))] == [first]
    assert [o.id for o in await lab.do(engine.list(limit=1))] == [second]


async def test_one_who_stops_waiting_does_not_disturb_another(lab: Lab) -> None:
    gate = Gate()
    kind = gate.kind()
    engine = await lab.engine(kind)
    operation_id = await lab.do(engine.submit(a_submission(kind)))
    patient = [asyncio.create_task(engine.wait(operation_id, 60)) for _ in range(2)]
    with pytest.raises(DeadlineExceeded):
        await lab.do(engine.wait(operation_id, 1))
    gate.open.set()
    await lab.drive.until(lambda: all(task.done() for task in patient))
    assert [task.result().state for task in patient] == [State.DONE, State.DONE]


# --- cancelling


async def test_cancelling_a_create_ends_its_step_at_once_and_undoes_it(lab: Lab) -> None:
    gate = Gate()
    undone: list[str] = []

    async def undo(_: StepContext[Arguments]) -> None:
        undone.append("gate")

    kind = kind_of(Step("gate", gate.do, undo))
    engine = await lab.engine(kind)
    operation_id = await lab.do(engine.submit(a_submission(kind, statements=(log("desired"),))))
    await lab.drive.until(lambda: gate.entered, time_passes=False)
    began = lab.clock.monotonic()
    operation = await lab.do(engine.cancel_and_wait(operation_id, 30))
    assert lab.clock.monotonic() == began
    assert operation.state is State.CANCELLED
    assert operation.problem is not None
    assert isinstance(from_problem(operation.problem), Cancelled)
    assert undone == ["gate"]
    assert await lab.log() == ["desired", "withdraw"]


async def test_another_engine_notices_a_cancellation_within_a_second(lab: Lab) -> None:
    gate = Gate()
    kind = gate.kind()
    owner, other = await lab.engine(kind), await lab.engine(kind)
    operation_id = await lab.do(owner.submit(a_submission(kind)))
    await lab.drive.until(lambda: gate.entered, time_passes=False)
    began = lab.clock.monotonic()
    await lab.do(other.cancel(operation_id))
    await lab.drive.until(lambda: gate.cancelled)
    assert lab.clock.monotonic() - began <= 1


async def test_cancelling_an_update_stops_its_retries(lab: Lab) -> None:
    async def fail(_: StepContext[Arguments]) -> None:
        raise Unavailable("busy")

    kind = kind_of(Step("fail", fail), on_failure=OnFailure.LEAVE, budget_s=3600)
    engine = await lab.engine(kind)
    operation_id = await lab.do(engine.submit(a_submission(kind)))
    await lab.until_state(engine, operation_id, lambda o: o.attempts >= 7)
    began = lab.clock.monotonic()
    operation = await lab.do(engine.cancel_and_wait(operation_id, 30))
    assert operation.state is State.CANCELLED
    assert lab.clock.monotonic() == began  # the pause was ended
    assert await lab.log() == ["mark_failed cancelled"]


async def test_an_operation_that_waits_for_its_agent_can_be_cancelled(lab: Lab) -> None:
    kind = kind_of(Step("poke", poke), on_failure=OnFailure.LEAVE, budget_s=3600)
    lab.agents.connected.clear()
    engine = await lab.engine(kind)
    operation_id = await lab.do(engine.submit(a_submission(kind)))
    await lab.until_state(engine, operation_id, lambda o: o.needs_agent is not None)
    operation = await lab.do(engine.cancel_and_wait(operation_id, 5))
    assert operation.state is State.CANCELLED


async def test_what_was_accepted_as_cancelled_cannot_end_as_done(lab: Lab) -> None:
    kind = kind_of(Step("only", nothing))
    engine = await lab.engine(kind)
    lab.store.faults.append(Fault("finished_at_ms = ?", Unavailable("no leader")))
    operation_id = await lab.do(engine.submit(a_submission(kind)))
    await lab.store.batch([Statement("UPDATE operation SET cancel_requested = 1")])
    operation = await lab.do(engine.wait(operation_id, 60))
    assert operation.state is State.CANCELLED
    assert await lab.log() == ["withdraw"]


async def test_a_cancellation_between_the_last_step_and_the_end_undoes(lab: Lab) -> None:
    async def cancelled_meanwhile(_: StepContext[Arguments]) -> None:
        await lab.store.batch([Statement("UPDATE operation SET cancel_requested = 1")])

    kind = kind_of(Step("only", cancelled_meanwhile))
    engine = await lab.engine(kind)
    operation = await lab.run(engine, a_submission(kind))
    assert operation.state is State.CANCELLED
    assert operation.problem is not None
    assert operation.problem.code == "cancelled"


async def test_a_finished_operation_cannot_be_cancelled_or_abandoned(lab: Lab) -> None:
    kind = kind_of(Step("only", nothing))
    engine = await lab.engine(kind)
    operation = await lab.run(engine, a_submission(kind))
    with pytest.raises(Conflict, match="finished: done"):
        await lab.do(engine.cancel(operation.id))
    with pytest.raises(Conflict, match="finished: done"):
        await lab.do(engine.abandon(operation.id))
    assert await lab.do(engine.cancel_and_wait(operation.id, 5)) == operation


async def test_cancelling_what_is_being_undone_lets_it_go_on(lab: Lab) -> None:
    async def fail(_: StepContext[Arguments]) -> None:
        raise DriverError("no")

    async def undo(_: StepContext[Arguments]) -> None:
        if not gate.open.is_set():
            raise Unavailable("busy")

    gate = Gate()
    kind = kind_of(Step("fail", fail, undo))
    engine = await lab.engine(kind)
    operation_id = await lab.do(engine.submit(a_submission(kind)))
    await lab.until_state(engine, operation_id, lambda o: o.state is State.COMPENSATING)
    await lab.do(engine.cancel(operation_id))
    gate.open.set()
    operation = await lab.do(engine.wait(operation_id, 60))
    assert operation.state is State.FAILED


# --- retry and abandon


async def test_retrying_an_unfinished_operation_ends_its_pause(lab: Lab) -> None:
    calls: list[float] = []

    async def fail(_: StepContext[Arguments]) -> None:
        calls.append(lab.clock.monotonic())
        raise Unavailable("busy")

    kind = kind_of(Step("fail", fail), budget_s=3600)
    owner, other = await lab.engine(kind), await lab.engine(kind)
    operation_id = await lab.do(owner.submit(a_submission(kind)))
    await lab.until_state(owner, operation_id, lambda o: o.attempts >= 7)
    before, now = len(calls), lab.clock.monotonic()
    assert await lab.do(other.retry(operation_id, "master")) == operation_id
    await lab.drive.until(lambda: len(calls) > before)
    assert calls[-1] - now <= 1


async def test_retrying_while_a_step_runs_saves_the_pause_after_it(lab: Lab) -> None:
    gate = Gate()

    async def fail_once(context: StepContext[Arguments]) -> None:
        await gate.do(context)
        if gate.entered == 1:
            raise Unavailable("busy")

    kind = kind_of(Step("fail", fail_once))
    engine = await lab.engine(kind)
    operation_id = await lab.do(engine.submit(a_submission(kind)))
    await lab.drive.until(lambda: gate.entered, time_passes=False)
    await lab.do(engine.retry(operation_id, "master"))
    await lab.drive.until(lambda: True)
    gate.open.set()
    began = lab.clock.monotonic()
    assert (await lab.do(engine.wait(operation_id, 60))).attempts == 1
    assert lab.clock.monotonic() == began


async def test_retrying_a_failed_update_submits_it_again(lab: Lab) -> None:
    faulty = True

    async def maybe(_: StepContext[Arguments]) -> None:
        if faulty:
            raise DriverError("no")

    kind = kind_of(Step("maybe", maybe), on_failure=OnFailure.LEAVE)
    engine = await lab.engine(kind)
    failed = await lab.run(engine, a_submission(kind, THING))
    faulty = False
    again = await lab.do(engine.retry(failed.id, "local/uid:0"))
    operation = await lab.do(engine.wait(again, 10))
    assert again != failed.id
    assert operation.state is State.DONE
    assert operation.targets == (THING,)
    assert operation.principal == "local/uid:0"


async def test_what_was_undone_or_done_is_not_retried(lab: Lab) -> None:
    async def fail(_: StepContext[Arguments]) -> None:
        raise DriverError("no")

    create = kind_of(Step("fail", fail))
    update = kind_of(Step("only", nothing), name="update", on_failure=OnFailure.LEAVE)
    engine = await lab.engine(create, update)
    for kind in (create, update):
        ended = await lab.run(engine, a_submission(kind))
        with pytest.raises(Conflict, match="make the request again"):
            await lab.do(engine.retry(ended.id, "master"))


async def test_a_kind_that_is_no_longer_known_is_not_retried(lab: Lab) -> None:
    async def fail(_: StepContext[Arguments]) -> None:
        raise DriverError("no")

    kind = kind_of(Step("fail", fail), on_failure=OnFailure.LEAVE)
    ended = await lab.run(await lab.engine(kind), a_submission(kind))
    with pytest.raises(Conflict):
        await lab.do((await lab.engine()).retry(ended.id, "master"))


async def test_abandoning_frees_the_targets_and_tells_what_is_left(lab: Lab) -> None:
    gate = Gate()

    async def made(_: StepContext[Arguments]) -> Note:
        return Note("image-1")

    kind = kind_of(Step("image", made), Step("gate", gate.do))
    engine = await lab.engine(kind)
    operation_id = await lab.do(engine.submit(a_submission(kind, THING)))
    await lab.drive.until(lambda: gate.entered, time_passes=False)
    abandoned = await lab.do(engine.abandon(operation_id))
    assert abandoned.operation.state is State.ABANDONED
    assert abandoned.operation.targets == (THING,)
    assert [(record.name, bytes(record.output)) for record in abandoned.left] == [
        ("image", b'{"text":"image-1"}')
    ]
    assert "left as it is" in abandoned.warning
    assert msgspec.json.encode(abandoned)
    await lab.drive.until(lambda: gate.cancelled == 1, time_passes=False)
    assert await lab.log() == []
    assert await lab.value("SELECT fence FROM target_fence") == 2  # the old worker's is void
    gate.open.set()
    assert (await lab.run(engine, a_submission(kind, THING))).state is State.DONE


async def test_a_worker_elsewhere_stops_when_its_operation_is_abandoned(lab: Lab) -> None:
    gate = Gate()
    kind = gate.kind()
    owner, other = await lab.engine(kind), await lab.engine(kind)
    operation_id = await lab.do(owner.submit(a_submission(kind)))
    await lab.drive.until(lambda: gate.entered, time_passes=False)
    await lab.do(other.abandon(operation_id))
    began = lab.clock.monotonic()
    await lab.drive.until(lambda: gate.cancelled == 1)
    assert lab.clock.monotonic() - began <= 5


async def test_an_undo_that_never_works_can_be_abandoned_and_keeps_its_first_problem(
    lab: Lab,
) -> None:
    async def fail(_: StepContext[Arguments]) -> None:
        raise DriverError("never works")

    kind = kind_of(Step("fail", fail, fail))
    engine = await lab.engine(kind)
    operation_id = await lab.do(engine.submit(a_submission(kind)))
    await lab.until_state(engine, operation_id, lambda o: o.attempts >= 3)
    abandoned = await lab.do(engine.abandon(operation_id))
    assert abandoned.operation.problem is not None
    assert abandoned.operation.problem.detail == "never works"


# --- request ids


async def _request_ids(lab: Lab, answers: list[Exception | None]) -> list[str]:
    """Poke two agents per try; the second answers by the list. Return the ids it got."""
    agents = Agents(connected={AGENT})
    got: list[str] = []

    async def answer(_: str) -> Note:
        command = agents.commands[-1]
        assert command is not None
        got.append(command.request_id)
        if len(agents.commands) % 2 == 0:
            error = answers.pop(0)
            if error is not None:
                raise error
        return Note("done")

    async def both(context: StepContext[Arguments]) -> None:
        for text in ("one", "two"):
            await context.call(AGENT, POKE, Note(text), target=THING)

    agents.answer = answer
    kind: OperationKind[Arguments] = kind_of(Step("both", both))
    engine = await lab.engine(kind, agents=agents)
    await lab.run(engine, a_submission(kind, THING))
    return got


async def test_a_repeat_keeps_its_request_ids_while_an_outcome_is_unknown(lab: Lab) -> None:
    ids = await _request_ids(lab, [DeadlineExceeded("?"), Unavailable("queue full"), None])
    assert ids[0:2] == ids[2:4] == ids[4:6]
    assert ids[0] != ids[1]


@pytest.mark.parametrize("error", [Unavailable("agent busy"), BusyDisk("disk busy")])
async def test_a_new_try_after_a_known_failure_has_new_request_ids(
    lab: Lab, error: Exception
) -> None:
    ids = await _request_ids(lab, [error, None])
    assert len(set(ids)) == 4


async def test_an_agent_that_vanishes_leaves_an_earlier_call_in_doubt(lab: Lab) -> None:
    agents = Agents()
    tries = Tries()
    answers: list[Exception] = [DeadlineExceeded("?"), Unavailable("no session")]

    async def answer(agent_id: str) -> Note:
        if len(answers) == 1:
            agents.connected.discard(agent_id)
        raise answers.pop(0)

    agents.answer = answer
    for _ in range(2):
        context = StepContext(
            operation_id="1" * 24,
            arguments=Arguments(),
            outputs=Outputs({}),
            clock=lab.clock,
            request_prefix="p",
            tries=tries,
            fences={THING: Fence(1, 1)},
            store=lab.store,
            gateway=agents,
            lanes=Lanes(1),
            vault=NoVault(),
        )
        with pytest.raises((Unavailable, DeadlineExceeded)):
            await context.call(AGENT, POKE, Note("x"), target=THING)
        tries.failed()
    assert tries.number == 0
    first, second = (command.request_id for command in agents.commands if command)
    assert first == second


async def test_the_same_call_twice_in_one_step_is_two_requests(lab: Lab) -> None:
    async def twice(context: StepContext[Arguments]) -> None:
        for _ in range(2):
            await context.call(AGENT, POKE, Note("same"), target=THING)

    kind = kind_of(Step("twice", twice))
    engine = await lab.engine(kind)
    await lab.run(engine, a_submission(kind, THING))
    first, second = (command.request_id for command in lab.agents.commands if command)
    assert first != second
