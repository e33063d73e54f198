"""Steps that work: order, outputs, resumption, and what a create costs."""

import asyncio
import json

import pytest
import structlog

from appliance.core.errors import KowabungaError, NotFound
from appliance.core.logs import bound
from appliance.model.target import Fence, target
from appliance.operations.operation import State
from appliance.operations.step import OnFailure, OperationKind, Outputs, Step, StepContext
from appliance.store.base import Statement
from tests.support.logs import captured_logs
from tests.unit.operations.lab import (
    AGENT,
    PEEK,
    POKE,
    Arguments,
    Lab,
    Note,
    a_submission,
    kind_of,
    log,
    nothing,
    poke,
)

THING = target("thing", "1" * 24)


async def test_steps_run_in_order_and_read_the_outputs_of_earlier_ones(lab: Lab) -> None:
    async def first(context: StepContext[Arguments]) -> Note:
        return Note(f"{context.arguments.name} made")

    async def second(context: StepContext[Arguments]) -> Note:
        return Note(context.outputs.get("first", Note).text + " twice")

    seen: list[str] = []

    async def third(context: StepContext[Arguments]) -> None:
        seen.append(context.outputs.get("second", Note).text)

    kind = kind_of(Step("first", first), Step("second", second), Step("third", third))
    engine = await lab.engine(kind)
    operation = await lab.run(engine, a_submission(kind))
    assert operation.state is State.DONE
    assert operation.steps == ("first", "second", "third")
    assert seen == ["x made twice"]
    assert operation.problem is None
    assert operation.finished_at_ms is not None


async def test_the_desired_rows_are_written_with_the_operation_and_finish_with_its_end(
    lab: Lab,
) -> None:
    kind = kind_of(Step("only", nothing))
    engine = await lab.engine(kind)
    await lab.run(engine, a_submission(kind, statements=(log("desired"),)))
    assert await lab.log() == ["desired", "finish"]


@pytest.mark.parametrize("steps", [0, 1, 3])
async def test_a_create_costs_two_writes_and_one_per_step_but_the_last(
    lab: Lab, steps: int
) -> None:
    kind = kind_of(*(Step(f"step{n}", nothing) for n in range(steps)))
    engine = await lab.engine(kind)
    lab.store.batches.clear()
    await lab.run(engine, a_submission(kind))
    assert len(lab.store.batches) == max(steps, 1) + 1


async def test_a_successor_begins_at_the_first_step_without_a_row(lab: Lab) -> None:
    done: list[str] = []
    stuck = asyncio.Event()

    async def first(_: StepContext[Arguments]) -> Note:
        done.append("first")
        return Note("kept")

    async def second(context: StepContext[Arguments]) -> None:
        assert context.outputs.get("first", Note) == Note("kept")
        done.append("second")
        if len(done) == 2:
            await stuck.wait()

    kind = kind_of(Step("first", first), Step("second", second))
    engine = await lab.engine(kind)
    operation_id = await lab.do(engine.submit(a_submission(kind)))
    await lab.drive.until(lambda: len(done) == 2, time_passes=False)
    await lab.stop(engine)
    successor = await lab.engine(kind)
    operation = await lab.do(successor.wait(operation_id, 60))
    assert operation.state is State.DONE
    assert done == ["first", "second", "second"]


async def test_a_step_calls_agents_under_the_fence_of_its_target(lab: Lab) -> None:
    kind = kind_of(Step("poke", poke))
    engine = await lab.engine(kind)
    for _ in range(2):
        await lab.run(engine, a_submission(kind, THING))
    first, second = lab.agents.commands
    assert first is not None
    assert second is not None
    assert (first.target, first.fence) == (THING, Fence(7, 1))
    assert second.fence == Fence(7, 2)  # each operation has a higher one
    assert first.request_id != second.request_id


async def test_what_is_logged_on_the_way_names_the_operation_and_the_request(lab: Lab) -> None:
    async def tell(context: StepContext[Arguments]) -> Note:
        structlog.get_logger("a.driver").info("told")
        return await poke(context)

    kind = kind_of(Step("tell", tell))
    engine = await lab.engine(kind)
    with captured_logs() as out:
        with bound(request_id="r1"):
            operation_id = await lab.do(engine.submit(a_submission(kind)))
        await lab.do(engine.wait(operation_id, 60))
    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [(line["event"], line["operation_id"], line["request_id"]) for line in lines] == [
        ("told", operation_id, "r1"),
        ("operation_finished", operation_id, "r1"),
    ]
    (command,) = lab.agents.commands
    assert command is not None
    assert command.operation_id == operation_id


async def test_a_method_without_effect_needs_no_command(lab: Lab) -> None:
    async def peek(context: StepContext[Arguments]) -> Note:
        return await context.call(AGENT, PEEK, Note(""), target=THING)

    kind = kind_of(Step("peek", peek))
    engine = await lab.engine(kind)
    assert (await lab.run(engine, a_submission(kind, THING))).state is State.DONE
    assert lab.agents.commands == [None]


async def test_a_step_cannot_act_on_what_the_operation_does_not_lock(lab: Lab) -> None:
    async def stray(context: StepContext[Arguments]) -> Note:
        return await context.call(AGENT, POKE, Note(""), target=target("thing", "2" * 24))

    kind = kind_of(Step("stray", stray))
    engine = await lab.engine(kind)
    operation = await lab.run(engine, a_submission(kind, THING))
    assert operation.state is State.FAILED
    assert operation.problem is not None
    assert "not a target" in operation.problem.detail
    assert lab.agents.commands == []


async def test_a_step_may_read_the_store(lab: Lab) -> None:
    found: list[object] = []

    async def look(context: StepContext[Arguments]) -> None:
        found.extend(await context.query(Statement("SELECT entry FROM log")))

    kind = kind_of(Step("look", look))
    engine = await lab.engine(kind)
    await lab.run(engine, a_submission(kind, statements=(log("desired"),)))
    assert found == [{"entry": "desired"}]


def test_a_missing_output_is_none_or_an_error_as_asked() -> None:
    outputs = Outputs({})
    assert outputs.find("step", Note) is None
    with pytest.raises(NotFound, match="step"):
        outputs.get("step", Note)


def test_two_steps_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="two steps"):
        kind_of(Step("same", nothing), Step("same", nothing))


async def test_a_kind_without_hooks_writes_nothing_of_its_own(lab: Lab) -> None:
    async def fail(_: StepContext[Arguments]) -> None:
        raise KowabungaError("no")

    bare = OperationKind(
        name="bare", arguments=Arguments, steps=(Step("fail", fail),),
        on_failure=OnFailure.LEAVE, budget_s=1,
    )  # fmt: skip
    engine = await lab.engine(bare)
    assert (await lab.run(engine, a_submission(bare))).state is State.FAILED
    assert await lab.log() == []
