"""Who works on an operation: claims, takeovers, releases, and waiting for an agent."""

import asyncio
from collections.abc import Sequence

import pytest
from structlog.testing import capture_logs

from appliance.core.errors import (
    DeadlineExceeded,
    KowabungaError,
    NotFound,
    Unavailable,
)
from appliance.operations import sql
from appliance.operations.equipment import EngineSettings
from appliance.operations.operation import State
from appliance.operations.step import OnFailure, OperationKind, Step, StepContext
from appliance.store.base import Consistency, Row, Statement
from tests.unit.operations.lab import (
    AGENT,
    OTHER_AGENT,
    POKE,
    Agents,
    Arguments,
    Fault,
    Lab,
    LabStore,
    Note,
    a_submission,
    is_in,
    kind_of,
    nothing,
    poke,
)


class Gate:
    """A step that waits to be let through; each try by whichever engine is counted."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.entered = 0
        self.cancelled = 0

    async def do(self, _: StepContext[Arguments]) -> None:
        self.entered += 1
        try:
            await self.open.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise

    def kind(self, on_failure: OnFailure = OnFailure.UNDO) -> OperationKind[Arguments]:
        return kind_of(Step("gate", self.do), on_failure=on_failure, budget_s=3600)


async def _begun(lab: Lab, gate: Gate, times: int = 1) -> None:
    await lab.drive.until(lambda: gate.entered == times, time_passes=False)


async def test_the_accepting_engine_claims_its_operation_in_the_same_batch(lab: Lab) -> None:
    gate = Gate()
    kind = gate.kind()
    engine = await lab.engine(kind)
    lab.store.batches.clear()
    operation = await lab.do(engine.get(await lab.do(engine.submit(a_submission(kind)))))
    assert operation.claimed_by == engine.engine_id
    assert len(lab.store.batches) == 1


async def test_a_claim_whose_owner_lives_is_never_taken_over(lab: Lab) -> None:
    gate = Gate()
    kind = gate.kind()
    owner = await lab.engine(kind)
    other = await lab.engine(kind)
    operation_id = await lab.do(owner.submit(a_submission(kind)))
    await lab.let_pass(120)
    assert (await lab.do(other.get(operation_id))).claimed_by == owner.engine_id
    assert gate.entered == 1


async def test_a_claim_that_shows_no_life_is_taken_over_after_its_period(lab: Lab) -> None:
    gate = Gate()
    kind = gate.kind()
    dead = await lab.engine(kind)
    operation_id = await lab.do(dead.submit(a_submission(kind)))
    await lab.kill(dead)
    died = lab.clock.monotonic()
    other = await lab.engine(kind)
    await lab.drive.until(lambda: gate.entered == 2)
    assert 15 <= lab.clock.monotonic() - died <= 17
    taken = await lab.do(other.get(operation_id))
    assert taken.claimed_by == other.engine_id
    assert await lab.value("SELECT fence FROM operation_target") == 2
    assert int(str(await lab.value("SELECT elapsed_ms FROM operation"))) >= 15_000


class _LastMomentStore(LabStore):
    """Has the owner of every claim show life just before anybody takes it over."""

    async def batch(self, statements: Sequence[Statement]) -> list[int]:
        if any("claim = claim + 1" in statement.sql for statement in statements):
            with self.drive.in_thread():
                await self.real.batch([Statement("UPDATE operation SET beat = beat + 1")])
        return await super().batch(statements)


async def test_a_claim_whose_owner_shows_life_at_the_last_moment_is_not_taken_over(
    lab: Lab,
) -> None:
    gate = Gate()
    kind = gate.kind()
    dead = await lab.engine(kind)
    operation_id = await lab.do(dead.submit(a_submission(kind)))
    await lab.kill(dead)
    observer = await lab.engine(kind, store=_LastMomentStore(lab.store.real, lab.drive))
    await lab.let_pass(40)
    assert gate.entered == 1
    assert (await lab.do(observer.get(operation_id))).claimed_by == dead.engine_id


class _LeaderlessStore(LabStore):
    leaderless = False

    async def query(
        self, statement: Statement, consistency: Consistency = Consistency.WEAK
    ) -> list[Row]:
        if self.leaderless:
            raise Unavailable("no leader")
        return await super().query(statement, consistency)

    async def batch(self, statements: Sequence[Statement]) -> list[int]:
        if self.leaderless and statements:
            raise Unavailable("no leader")
        return await super().batch(statements)


@pytest.mark.parametrize("since_s", [5, 6, 7, 8, 9])
async def test_time_in_which_nobody_could_show_life_does_not_count_against_a_claim(
    lab: Lab, since_s: int
) -> None:
    gate = Gate()
    kind = gate.kind()
    store = _LeaderlessStore(lab.store.real, lab.drive)
    engine = await lab.engine(kind, store=store)
    await lab.engine(kind, store=store)
    operation_id = await lab.do(engine.submit(a_submission(kind)))
    await lab.let_pass(since_s)
    store.leaderless = True
    await lab.let_pass(25)
    store.leaderless = False
    await lab.let_pass(20)
    assert gate.entered == 1
    assert (await lab.do(engine.get(operation_id))).claimed_by == engine.engine_id


async def test_an_engine_alone_on_its_store_does_not_wait_for_the_dead(lab: Lab) -> None:
    gate = Gate()
    kind = gate.kind()
    dead = await lab.engine(kind)
    await lab.do(dead.submit(a_submission(kind)))
    await lab.kill(dead)
    await lab.engine(kind, alone=True)
    await _begun(lab, gate, 2)


async def test_a_clean_stop_releases_claims_so_that_a_successor_starts_at_once(lab: Lab) -> None:
    gate = Gate()
    kind = gate.kind()
    first = await lab.engine(kind)
    operation_id = await lab.do(first.submit(a_submission(kind)))
    await _begun(lab, gate)
    await lab.stop(first)
    assert gate.cancelled == 1
    other = await lab.engine(kind)
    await _begun(lab, gate, 2)
    gate.open.set()
    assert (await lab.do(other.wait(operation_id, 10))).state is State.DONE


@pytest.mark.parametrize("error", [Unavailable("no leader"), KowabungaError("gone")])
async def test_a_stop_that_cannot_release_says_so(lab: Lab, error: KowabungaError) -> None:
    engine = await lab.engine(kind_of())
    lab.store.faults.append(Fault("claimed_by = NULL", error))
    with capture_logs() as logs:
        await lab.stop(engine)
    assert "operation_claims_not_released" in [entry["event"] for entry in logs]


async def test_a_worker_that_lost_its_claim_is_stopped_by_the_next_beat(lab: Lab) -> None:
    gate = Gate()
    kind = gate.kind()
    engine = await lab.engine(kind)
    await lab.do(engine.submit(a_submission(kind)))
    await _begun(lab, gate)
    await lab.store.real.batch([Statement("UPDATE operation SET claim = 0, claimed_by = 'other'")])
    await lab.drive.until(lambda: gate.cancelled == 1)
    assert gate.entered == 1


async def test_a_worker_is_stopped_once_another_claim_is_seen(lab: Lab) -> None:
    gate = Gate()
    kind = gate.kind()
    engine = await lab.engine(kind, settings=EngineSettings(claim_s=3600))
    await lab.do(engine.submit(a_submission(kind)))
    await _begun(lab, gate)
    await lab.store.real.batch(
        [Statement("UPDATE operation SET claim = claim + 1, claimed_by = 'other'")]
    )
    await lab.drive.until(lambda: gate.cancelled == 1)
    assert gate.entered == 1


@pytest.mark.parametrize("lost", ["claimed_by = 'other'", "claim = claim + 1"])
async def test_a_worker_that_lost_its_claim_writes_nothing(lab: Lab, lost: str) -> None:
    gate = Gate()
    kind = kind_of(Step("gate", gate.do), Step("next", nothing))
    engine = await lab.engine(kind)
    operation_id = await lab.do(engine.submit(a_submission(kind)))
    await _begun(lab, gate)
    await lab.store.real.batch([Statement(f"UPDATE operation SET {lost}")])
    gate.open.set()
    with capture_logs() as logs:
        await lab.drive.until(
            lambda: "operation_claim_lost" in [entry["event"] for entry in logs], time_passes=False
        )
    assert (await lab.do(engine.get(operation_id))).steps == ()


async def test_a_worker_whose_claim_is_gone_before_it_begins_does_nothing(lab: Lab) -> None:
    gate = Gate()
    kind = gate.kind()
    engine = await lab.engine(kind)
    stolen = Statement("UPDATE operation SET claimed_by = 'other'")
    with capture_logs() as logs:
        await lab.do(engine.submit(a_submission(kind, statements=(stolen,))))
        await lab.drive.until(lambda: True)
    assert "operation_claim_lost" in [entry["event"] for entry in logs]
    assert gate.entered == 0


async def test_two_engines_that_see_a_free_operation_claim_it_once(lab: Lab) -> None:
    gate = Gate()
    kind = gate.kind()
    first = await lab.engine(kind)
    await lab.do(first.submit(a_submission(kind)))
    others = [await lab.engine(kind) for _ in range(3)]
    await _begun(lab, gate)
    await lab.stop(first)
    await lab.let_pass(5)
    assert gate.entered == 2
    assert await lab.value("SELECT claim FROM operation") == 2
    assert len(others) == 3


async def test_an_engine_leaves_kinds_alone_that_it_does_not_know(lab: Lab) -> None:
    gate = Gate()
    kind = gate.kind()
    newer = await lab.engine(kind)
    operation_id = await lab.do(newer.submit(a_submission(kind)))
    await lab.stop(newer)
    older = await lab.engine()
    await lab.let_pass(60)
    operation = await lab.do(older.get(operation_id))
    assert operation.state is State.RUNNING
    assert operation.claimed_by is None


async def test_a_claim_that_fails_is_tried_again(lab: Lab) -> None:
    gate = Gate()
    kind = gate.kind()
    first = await lab.engine(kind)
    await lab.do(first.submit(a_submission(kind)))
    await _begun(lab, gate)
    await lab.stop(first)
    lab.store.faults.append(Fault("claim = claim + 1", Unavailable("no leader")))
    await lab.engine(kind)
    await lab.drive.until(lambda: gate.entered == 2)


async def test_a_submission_whose_answer_was_lost_is_worked_on(lab: Lab) -> None:
    kind = kind_of(Step("only", nothing))
    engine = await lab.engine(kind)
    lab.store.faults.append(
        Fault("INSERT INTO operation ", DeadlineExceeded("no answer"), after=True)
    )
    assert (await lab.run(engine, a_submission(kind))).state is State.DONE


class _LateStore(LabStore):
    """Holds back the answers to polls and to submissions until told otherwise."""

    def __init__(self, lab: Lab) -> None:
        super().__init__(lab.store.real, lab.drive)
        self.polling = asyncio.Event()
        self.polls_go_on = asyncio.Event()
        self.answers_go_on = asyncio.Event()

    async def query(
        self, statement: Statement, consistency: Consistency = Consistency.WEAK
    ) -> list[Row]:
        if statement is sql.UNFINISHED:
            self.polling.set()
            await self.polls_go_on.wait()
        return await super().query(statement, consistency)

    async def batch(self, statements: Sequence[Statement]) -> list[int]:
        changed = await super().batch(statements)
        if any("INSERT INTO operation (" in statement.sql for statement in statements):
            await self.answers_go_on.wait()
        return changed


async def test_a_poll_that_sees_a_submission_before_its_answer_gives_it_no_second_worker(
    lab: Lab,
) -> None:
    gate = Gate()
    kind = gate.kind()
    store = _LateStore(lab)
    engine = await lab.engine(kind, store=store)
    await lab.drive.until(store.polling.is_set)
    submitting = asyncio.create_task(engine.submit(a_submission(kind)))
    await lab.drive.until(lambda: store.batches, time_passes=False)
    store.polls_go_on.set()
    await lab.let_pass(3)
    store.answers_go_on.set()
    await lab.drive.until(submitting.done, time_passes=False)
    assert gate.entered == 1


@pytest.mark.parametrize("readable", [True, False])
async def test_a_submission_of_unknown_outcome_names_its_operation(
    lab: Lab, *, readable: bool
) -> None:
    kind = kind_of(Step("only", nothing))
    engine = await lab.engine(kind)
    if not readable:
        lab.store.faults.append(Fault("AS steps", Unavailable("no leader")))
    lab.store.faults.append(Fault("INSERT INTO operation ", DeadlineExceeded("no answer")))
    with pytest.raises(DeadlineExceeded, match="may or may not have begun") as caught:
        await lab.do(engine.submit(a_submission(kind)))
    with pytest.raises(NotFound):
        await lab.do(engine.get(str(caught.value.context["operation"])))


async def test_nothing_is_accepted_while_the_engine_does_not_run(lab: Lab) -> None:
    kind = kind_of(Step("only", nothing))
    engine = await lab.engine(kind)
    await lab.stop(engine)
    with pytest.raises(Unavailable):
        await engine.submit(a_submission(kind))


async def test_a_submission_that_lands_while_the_engine_stops_is_left_to_a_successor(
    lab: Lab,
) -> None:
    kind = kind_of(Step("only", nothing))
    engine = await lab.engine(kind)
    submitting = asyncio.create_task(engine.submit(a_submission(kind)))
    await asyncio.sleep(0)
    await lab.stop(engine)
    await lab.drive.until(submitting.done)
    operation_id = submitting.result()
    successor = await lab.engine(kind)
    assert (await lab.do(successor.wait(operation_id, 60))).state is State.DONE


# --- agents out of reach


async def test_an_operation_is_released_until_its_agent_is_reachable(lab: Lab) -> None:
    kind = kind_of(Step("poke", poke), budget_s=3600)
    lab.agents.connected.clear()
    engine = await lab.engine(kind)
    operation_id = await lab.do(engine.submit(a_submission(kind)))
    waiting = await lab.until_state(engine, operation_id, lambda o: o.needs_agent is not None)
    assert waiting.needs_agent == AGENT
    assert waiting.claimed_by is None
    assert waiting.problem is not None
    assert waiting.problem.code == "unavailable"
    await lab.let_pass(60)
    lab.agents.connected.add(AGENT)
    began = lab.clock.monotonic()
    engine.agent_connected(AGENT)
    await lab.drive.until(lambda: lab.agents.commands, time_passes=False)
    assert lab.clock.monotonic() == began  # the connection was enough, no poll was due
    assert (await lab.do(engine.wait(operation_id, 10))).state is State.DONE


async def test_an_engine_that_reaches_the_agent_takes_over_from_one_that_does_not(
    lab: Lab,
) -> None:
    kind = kind_of(Step("poke", poke))
    near = Agents()
    away = await lab.engine(kind, agents=Agents(connected=set()))
    await lab.engine(kind, agents=near)
    operation = await lab.run(away, a_submission(kind))
    assert operation.state is State.DONE
    assert len(near.commands) == 1
    assert lab.clock.monotonic() < 3


async def test_an_agent_that_vanishes_during_a_call_releases_the_operation(lab: Lab) -> None:
    async def vanish(agent_id: str) -> Note:
        lab.agents.connected.discard(agent_id)
        raise Unavailable("no session")

    lab.agents.answer = vanish
    kind = kind_of(Step("poke", poke))
    engine = await lab.engine(kind)
    operation_id = await lab.do(engine.submit(a_submission(kind)))
    operation = await lab.until_state(engine, operation_id, lambda o: o.claimed_by is None)
    assert operation.needs_agent == AGENT


async def test_waiting_for_an_agent_uses_up_the_budget_of_a_create(lab: Lab) -> None:
    async def undo(context: StepContext[Arguments]) -> None:
        await poke(context)

    kind = kind_of(Step("poke", poke, undo), budget_s=40)
    lab.agents.connected = {OTHER_AGENT}
    engine = await lab.engine(kind)
    began = lab.clock.monotonic()
    operation_id = await lab.do(engine.submit(a_submission(kind)))
    undoing = await lab.until_state(
        engine, operation_id, lambda o: o.state is State.COMPENSATING and o.claimed_by is None
    )
    assert lab.clock.monotonic() - began == pytest.approx(40, abs=3)
    assert undoing.needs_agent == AGENT  # undoing waits for it too
    await lab.let_pass(600)
    assert not (await lab.do(engine.get(operation_id))).finished
    lab.agents.connected.add(AGENT)
    operation = await lab.do(engine.wait(operation_id, 60))
    assert operation.state is State.FAILED
    assert operation.problem is not None
    assert operation.problem.detail == f"gave up after 40 s: agent {AGENT} is not connected"
    assert len(lab.agents.commands) == 1  # only the undo: nothing was ever done


async def test_waiting_for_an_agent_uses_up_the_budget_of_an_update(lab: Lab) -> None:
    kind = kind_of(Step("poke", poke), on_failure=OnFailure.LEAVE, budget_s=40)
    lab.agents.connected.clear()
    engine = await lab.engine(kind)
    operation = await lab.run(engine, a_submission(kind))
    assert operation.state is State.FAILED
    assert await lab.log() == ["mark_failed unavailable"]


async def test_time_that_nobody_worked_is_charged_once_though_many_observe_it(lab: Lab) -> None:
    kind = kind_of(Step("poke", poke), on_failure=OnFailure.LEAVE, budget_s=100)
    lab.agents.connected.clear()
    engines = [await lab.engine(kind) for _ in range(3)]
    began = lab.clock.monotonic()
    operation = await lab.run(engines[0], a_submission(kind))
    assert operation.state is State.FAILED
    assert lab.clock.monotonic() - began == pytest.approx(100, abs=5)


async def test_time_that_nobody_worked_is_kept_when_the_observers_restart(lab: Lab) -> None:
    kind = kind_of(Step("poke", poke), on_failure=OnFailure.LEAVE, budget_s=100)
    lab.agents.connected.clear()
    engine = await lab.engine(kind)
    began = lab.clock.monotonic()
    operation_id = await lab.do(engine.submit(a_submission(kind)))
    for _ in range(3):
        await lab.let_pass(17)
        await lab.stop(engine)
        engine = await lab.engine(kind)
    await lab.do(engine.wait(operation_id, 1e6))
    assert lab.clock.monotonic() - began == pytest.approx(100, abs=6)


# --- bounds


class _BusyStore(LabStore):
    """Counts how many claims are being written at once."""

    claims = 0
    most_claims = 0

    async def batch(self, statements: Sequence[Statement]) -> list[int]:
        claiming = any("claim = claim + 1" in statement.sql for statement in statements)
        self.claims += claiming
        self.most_claims = max(self.most_claims, self.claims)
        try:
            return await super().batch(statements)
        finally:
            self.claims -= claiming


async def _that_wait(lab: Lab, kind: OperationKind[Arguments], count: int) -> None:
    """Leave so many operations behind that wait for an agent."""
    engine = await lab.engine(kind)
    lab.agents.connected.clear()
    for _ in range(count):
        await lab.do(engine.submit(a_submission(kind)))
    await lab.let_pass(1)
    await lab.stop(engine)


async def test_many_operations_that_wait_are_charged_in_one_batch(lab: Lab) -> None:
    kind = kind_of(Step("poke", poke), budget_s=3600)
    await _that_wait(lab, kind, 20)
    await lab.engine(kind)
    lab.store.batches.clear()
    await lab.let_pass(20)
    assert [len(batch) for batch in lab.store.batches if batch] == [20]


async def test_many_operations_that_become_due_leave_room_in_the_store(lab: Lab) -> None:
    kind = kind_of(Step("poke", poke), budget_s=3600)
    await _that_wait(lab, kind, 600)
    store = _BusyStore(lab.store.real, lab.drive)
    await lab.engine(kind, store=store)
    lab.agents.connected.add(AGENT)
    await lab.let_pass(10)
    assert await lab.value("SELECT count(*) FROM operation WHERE state = 'done'") == 600
    assert store.most_claims == 512


async def test_an_agent_that_hangs_fills_its_own_lane_and_no_other(lab: Lab) -> None:
    lab.agents.connected.add(OTHER_AGENT)
    answers = asyncio.Event()

    async def answer(agent_id: str) -> Note:
        if agent_id == AGENT:
            await answers.wait()
        return Note("done")

    async def poke_other(context: StepContext[Arguments]) -> Note:
        (locked,) = context.fences
        return await context.call(OTHER_AGENT, POKE, Note("poke"), target=locked)

    lab.agents.answer = answer
    hanging = kind_of(Step("poke", poke), name="hanging", budget_s=3600)
    other = kind_of(Step("poke", poke_other), name="other", budget_s=3600)
    engine = await lab.engine(hanging, other, settings=EngineSettings(calls_per_agent=2))
    ids = [await lab.do(engine.submit(a_submission(hanging))) for _ in range(5)]
    await lab.drive.until(lambda: len(lab.agents.commands) == 2, time_passes=False)
    assert (await lab.run(engine, a_submission(other))).state is State.DONE
    assert len(lab.agents.commands) == 2 + 1
    answers.set()
    for operation_id in ids:
        assert (await lab.do(engine.wait(operation_id, 10))).state is State.DONE


async def test_a_poll_that_fails_is_repeated(lab: Lab) -> None:
    kind = kind_of(Step("only", nothing))
    engine = await lab.engine(kind)
    lab.store.faults.append(Fault("nudges FROM operation", Unavailable("no leader")))
    await lab.let_pass(5)
    operation_id = await lab.do(engine.submit(a_submission(kind)))
    assert is_in(State.DONE)(await lab.do(engine.wait(operation_id, 60)))
