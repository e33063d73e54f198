"""Fences are forgotten, and never given out a second time."""

import asyncio
from typing import Final

from appliance.operations.step import Step, StepContext
from tests.unit.operations.lab import Arguments, Lab, a_submission, kind_of, poke

_THING: Final = "thing/" + "1" * 24
_OTHER: Final = "thing/" + "2" * 24
_HOUR_S: Final = 3600.0
_FENCES: Final = "SELECT group_concat(target) AS targets FROM target_fence"


async def test_a_target_whose_fence_was_forgotten_goes_on_above_it(lab: Lab) -> None:
    kind = kind_of(Step("poke", poke))
    engine = await lab.engine(kind)
    for _ in range(3):
        await lab.run(engine, a_submission(kind, _THING))
    await lab.run(engine, a_submission(kind, _OTHER))
    await lab.let_pass(1.1 * _HOUR_S)
    assert await lab.value(_FENCES) is None
    await lab.run(engine, a_submission(kind, _THING))
    await lab.run(engine, a_submission(kind, _OTHER))
    fences = [command.fence.fence for command in lab.agents.commands if command is not None]
    assert fences == [1, 2, 3, 1, 4, 4]


async def test_a_fence_is_not_forgotten_while_somebody_works_under_it(lab: Lab) -> None:
    go_on = asyncio.Event()

    async def wait(_: StepContext[Arguments]) -> None:
        await go_on.wait()

    long_one = kind_of(Step("wait", wait), budget_s=2 * _HOUR_S)
    other = kind_of(Step("poke", poke), name="other")
    engine = await lab.engine(long_one, other)
    await lab.do(engine.submit(a_submission(long_one, _THING)))
    await lab.run(engine, a_submission(other, _OTHER))
    await lab.let_pass(1.1 * _HOUR_S)
    assert await lab.value(_FENCES) == _THING
