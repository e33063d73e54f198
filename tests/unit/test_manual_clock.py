import asyncio

from tests.support.clock import ManualClock


async def test_a_timeout_fires_when_the_test_moves_time() -> None:
    clock = ManualClock()
    outcomes: list[str] = []

    async def wait_for_ever() -> None:
        try:
            async with clock.timeout(5):
                await asyncio.Event().wait()
        except TimeoutError:
            outcomes.append("timed out")

    async with asyncio.TaskGroup() as group:
        group.create_task(wait_for_ever())
        await clock.advance(4.9)
        assert outcomes == []
        await clock.advance(0.2)
        assert outcomes == ["timed out"]
    assert round(clock.monotonic(), 6) == 5.1
