"""Pause workers at driver calls, let others take over and end the work, then let them go on.

A paused worker is frozen like a stopped process: no beat, no poll. When it resumes it knows
nothing of what happened; its observers stay frozen until it has ended by itself, so that only the
fence and the guard can stop it. Lines with the number of schedules are printed: run with `-s`.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from appliance.core.ids import new_id
from appliance.operations.operation import State
from appliance.operations.step import OnFailure, OperationKind
from tests.crash.stage import Incarnation, Stage, find_operation, staged
from tests.crash.world import (
    CREATE,
    DELETE,
    NoFence,
    Thing,
    exist_already,
    submission,
    violations,
)
from tests.support.clock import settle

Plan = tuple[int, ...]  # at which of its driver points each engine in turn is paused
Meanwhile = Callable[[Incarnation, str], Awaitable[None]]


@dataclass
class Pause:
    """Freezes an engine the moment it passes its n-th point before or after a driver call."""

    at_point: int | None
    passed: int = 0

    async def at(self, engine: Incarnation, point: str) -> None:
        if not point.endswith("call"):
            return
        self.passed += 1
        if self.passed - 1 == self.at_point:
            engine.freeze()
            await engine.working.wait()


@dataclass
class Sweep:
    stage: Stage
    kind: OperationKind[Thing]
    guarded: bool = True
    meanwhile: Meanwhile | None = None  # what a second engine is asked to do after the first pause
    runs: int = 0
    found: list[tuple[Plan, list[str]]] = field(default_factory=list)

    async def run_all(self, end: State, *, pauses: int = 3) -> list[tuple[Plan, list[str]]]:
        """Run every plan of up to so many pauses, in both orders of resuming."""
        plans: list[Plan] = [()]
        while plans:
            plan = plans.pop()
            for newest_first in (False, True) if len(plan) > 1 else (False,):
                points, wrong = await self._run(plan, end, newest_first=newest_first)
                self.runs += 1
                if wrong:
                    self.found.append((plan, wrong))
            if len(plan) < pauses:
                plans.extend((*plan, point) for point in range(points))
        print(f"stale workers, {self.kind.name} {end}: {self.runs} schedules", end=", ")
        print(f"{len(self.found)} violations")
        return self.found

    async def _run(self, plan: Plan, end: State, *, newest_first: bool) -> tuple[int, list[str]]:
        """Return how many driver points the last engine passed, and what is wrong in the end."""
        stage = self.stage
        thing = Thing(new_id())
        creating = self.kind.on_failure is OnFailure.UNDO
        if not creating:
            await exist_already(stage.store, stage.agent, thing)
        pauses = [Pause(point) for point in (*plan, None)]
        engines = [Incarnation(stage, pause.at, guarded=self.guarded) for pause in pauses]
        operation_id = ""
        for number, engine in enumerate(engines):
            engine.start()
            await settle()
            if number == 0:
                operation_id = await engine.engine.submit(submission(self.kind, thing))
            elif number == 1 and self.meanwhile is not None:
                await self.meanwhile(engine, operation_id)
            await engine.see_through(operation_id)
        for engine in reversed(engines[:-1]) if newest_first else engines[:-1]:
            engine.working.set()
            await engine.until_idle(operation_id)
        for engine in engines:
            await engine.bury()
        operation = await find_operation(stage, thing)
        assert operation is not None
        expected = {
            (True, State.DONE): "ready",
            (False, State.DONE): "nothing",
        }.get((creating, operation.state), "nothing" if creating else "error")
        wrong = await violations(stage.store, stage.agent, thing, expected)
        if operation.state is not end and (self.meanwhile is None or plan):
            wrong.append(f"ended {operation.state}, not {end}")
        return pauses[-1].passed, wrong


async def _cancel(engine: Incarnation, operation_id: str) -> None:
    await engine.engine.cancel(operation_id)


async def test_stale_workers_of_a_create_change_nothing() -> None:
    async with staged() as stage:
        assert await Sweep(stage, CREATE).run_all(State.DONE) == []


async def test_stale_workers_of_a_create_that_fails_leave_nothing() -> None:
    async with staged() as stage:
        stage.agent.faulty.add("name")
        assert await Sweep(stage, CREATE).run_all(State.FAILED, pauses=2) == []


async def test_stale_workers_of_a_create_that_was_cancelled_leave_nothing() -> None:
    async with staged() as stage:
        sweep = Sweep(stage, CREATE, meanwhile=_cancel)
        assert await sweep.run_all(State.CANCELLED, pauses=2) == []


async def test_stale_workers_of_a_delete_change_nothing() -> None:
    async with staged() as stage:
        assert await Sweep(stage, DELETE).run_all(State.DONE) == []


async def test_the_sweep_finds_an_agent_without_its_fence() -> None:
    async with staged(NoFence) as stage:
        stage.agent.faulty.add("name")
        assert await Sweep(stage, CREATE).run_all(State.FAILED, pauses=1)


async def test_the_sweep_finds_an_engine_without_its_guard() -> None:
    async with staged() as stage:
        sweep = Sweep(stage, CREATE, guarded=False, meanwhile=_cancel)
        assert await sweep.run_all(State.CANCELLED, pauses=1)
