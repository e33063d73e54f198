"""Die before and after every commit and every driver call, singly and in pairs.

Whatever happens, an operation ends in exactly the desired world, or in nothing left behind. Lines
with the number of schedules are printed: run with `-s` to see them.
"""

from contextlib import suppress
from dataclasses import dataclass, field

from appliance.core.errors import DeadlineExceeded
from appliance.core.ids import new_id
from appliance.operations.operation import State
from appliance.operations.step import OnFailure, OperationKind
from tests.crash.stage import Died, Incarnation, Stage, find_operation, staged
from tests.crash.world import (
    CREATE,
    CREATE_FORGETFUL,
    DELETE,
    Thing,
    exist_already,
    submission,
    violations,
)
from tests.support.clock import settle

Plan = tuple[tuple[int, str], ...]  # what happens at which point of the schedule
_ACCIDENTS = {
    "before commit": ("engine dies",),
    "after commit": ("engine dies",),
    "before call": ("engine dies", "agent dies"),
    "after call": ("engine dies", "agent dies"),
}


@dataclass
class Schedule:
    """Counts the points of one run over all engines, and acts at the planned ones."""

    stage: Stage
    plan: Plan
    points: list[str] = field(default_factory=list)

    async def at(self, engine: Incarnation, point: str) -> None:
        self.points.append(point)
        accident = dict(self.plan).get(len(self.points) - 1)
        if accident == "engine dies":
            engine.die()
        if accident == "agent dies":
            await self.stage.agent.restart()
            raise DeadlineExceeded("no answer came")

    def with_one_more(self) -> list[Plan]:
        """Return this plan with an accident at each later point."""
        first = self.plan[-1][0] + 1 if self.plan else 0
        return [
            (*self.plan, (index, accident))
            for index in range(first, len(self.points))
            for accident in _ACCIDENTS[self.points[index]]
        ]


async def _run(
    stage: Stage, kind: OperationKind[Thing], plan: Plan, end: State
) -> tuple[Schedule, list[str]]:
    """Submit one operation, go through the plan, and return what is wrong in the end."""
    schedule = Schedule(stage, plan)
    thing = Thing(new_id())
    creating = kind.on_failure is OnFailure.UNDO
    if not creating:
        await exist_already(stage.store, stage.agent, thing)
    engine = await _begin(stage, schedule)
    with suppress(Died):
        await engine.engine.submit(submission(kind, thing))
    operation = await find_operation(stage, thing)
    while operation is not None and not operation.state.finished:
        if engine.dead:
            await engine.bury()
            engine = await _begin(stage, schedule)
        await engine.see_through(operation.id)
        operation = await find_operation(stage, thing)
    await engine.bury()
    if operation is None:
        return schedule, await violations(
            stage.store, stage.agent, thing, "nothing" if creating else "ready"
        )
    wrong = [] if operation.state is end else [f"ended {operation.state}, not {end}"]
    expected = {
        (True, State.DONE): "ready",
        (True, State.FAILED): "nothing",
        (False, State.DONE): "nothing",
        (False, State.FAILED): "error",
    }[creating, operation.state]
    return schedule, wrong + await violations(stage.store, stage.agent, thing, expected)


async def _begin(stage: Stage, schedule: Schedule) -> Incarnation:
    engine = Incarnation(stage, schedule.at)
    engine.start()
    await settle()
    return engine


async def _sweep(
    stage: Stage, kind: OperationKind[Thing], end: State, *, accidents: int = 2
) -> list[tuple[Plan, list[str]]]:
    """Run every plan of up to so many accidents; return the violations."""
    plans: list[Plan] = [()]
    found: list[tuple[Plan, list[str]]] = []
    counts = [0] * (accidents + 1)
    while plans:
        plan = plans.pop()
        schedule, wrong = await _run(stage, kind, plan, end)
        counts[len(plan)] += 1
        if wrong:
            found.append((plan, wrong))
        if len(plan) < accidents:
            plans.extend(schedule.with_one_more())
    print(f"crash sweep, {kind.name} {end}: {counts} schedules, {len(found)} violations")
    return found


async def test_a_create_survives_any_two_crashes() -> None:
    async with staged() as stage:
        assert await _sweep(stage, CREATE, State.DONE) == []


async def test_a_create_that_fails_leaves_nothing_after_any_two_crashes() -> None:
    async with staged() as stage:
        stage.agent.faulty.add("name")
        assert await _sweep(stage, CREATE, State.FAILED) == []


async def test_a_delete_survives_any_two_crashes() -> None:
    async with staged() as stage:
        assert await _sweep(stage, DELETE, State.DONE) == []


async def test_a_delete_that_fails_marks_its_object_after_any_two_crashes() -> None:
    async with staged() as stage:
        stage.agent.faulty.add("unimage")
        assert await _sweep(stage, DELETE, State.FAILED) == []


async def test_the_sweep_finds_a_step_that_is_not_idempotent() -> None:
    async with staged() as stage:
        stage.agent.idempotent = False
        assert await _sweep(stage, CREATE, State.DONE, accidents=1)


async def test_the_sweep_finds_an_undo_that_forgets_something() -> None:
    async with staged() as stage:
        stage.agent.faulty.add("name")
        assert await _sweep(stage, CREATE_FORGETFUL, State.FAILED, accidents=1)
