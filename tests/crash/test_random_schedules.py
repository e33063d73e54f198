"""Two engines at once, and a random history of deaths, lost answers, cancellations and waits.

The sweeps go through every schedule of two accidents; this goes further, on fewer of them.
"""

import asyncio
import random
from contextlib import suppress

import pytest

from appliance.core.errors import DeadlineExceeded, KowabungaError
from appliance.core.ids import new_id
from appliance.operations.operation import State
from appliance.operations.step import OnFailure, OperationKind
from tests.crash.stage import Died, Incarnation, Stage, find_operation, staged
from tests.crash.world import CREATE, DELETE, Thing, exist_already, submission, violations
from tests.support.clock import settle

_SCHEDULES = 250
_LIKELIHOOD = 0.25  # of an accident at each point, while there may be more
_ACCIDENTS = 8


class Misfortune:
    """Lets accidents happen at random points, so many in all; then the luck turns."""

    def __init__(self, stage: Stage, chance: random.Random) -> None:
        self._stage = stage
        self._chance = chance
        self.left = _ACCIDENTS

    async def at(self, engine: Incarnation, point: str) -> None:
        if not self.left or self._chance.random() > _LIKELIHOOD:
            return
        self.left -= 1
        if point.endswith("commit") or self._chance.random() < 0.5:
            engine.die()
        await self._stage.agent.restart()
        raise DeadlineExceeded("no answer came")


async def _run(
    stage: Stage, kind: OperationKind[Thing], chance: random.Random, misfortune: Misfortune
) -> list[str]:
    thing = Thing(new_id())
    creating = kind.on_failure is OnFailure.UNDO
    stage.agent.faulty = {"name"} if creating and chance.random() < 0.3 else set()
    if not creating:
        await exist_already(stage.store, stage.agent, thing)

    def begin() -> Incarnation:
        engine = Incarnation(stage, misfortune.at)
        engine.start()
        return engine

    engines = [begin(), begin()]
    await settle()
    with suppress(Died):
        await engines[0].engine.submit(submission(kind, thing))
    operation = await find_operation(stage, thing)
    while operation is not None and not operation.state.finished:
        for place, engine in enumerate(engines):
            if engine.dead:
                await engine.bury()
                engines[place] = begin()
        await settle()
        if chance.random() < 0.1:
            with suppress(Died, KowabungaError):
                await chance.choice(engines).engine.cancel(operation.id)
        pause = asyncio.create_task(stage.clock.sleep(chance.uniform(0.1, 4)))
        await stage.drive.until(pause.done)
        operation = await find_operation(stage, thing)
    for engine in engines:
        await engine.bury()
    if operation is None:
        return await violations(stage.store, stage.agent, thing, "nothing" if creating else "ready")
    if creating:
        expected = "ready" if operation.state is State.DONE else "nothing"
    else:
        expected = "nothing" if operation.state is State.DONE else "error"
    return await violations(stage.store, stage.agent, thing, expected)


@pytest.mark.parametrize("kind", [CREATE, DELETE], ids=lambda kind: kind.name)
async def test_whatever_happens_the_end_is_the_desired_world_or_nothing_left(
    kind: OperationKind[Thing],
) -> None:
    wrong: dict[int, list[str]] = {}
    accidents = 0
    async with staged() as stage:
        for seed in range(_SCHEDULES):
            chance = random.Random(seed)
            misfortune = Misfortune(stage, chance)
            if problems := await _run(stage, kind, chance, misfortune):
                wrong[seed] = problems
            accidents += _ACCIDENTS - misfortune.left
    print(f"random schedules, {kind.name}: {_SCHEDULES} with {accidents} accidents")
    assert wrong == {}
    assert accidents > _SCHEDULES
