"""A supervised service is started again, and its log stays readable whatever ails it."""

import asyncio

import pytest

from appliance.core.aio import supervise
from appliance.core.errors import Unavailable
from tests.support.clock import ManualClock
from tests.support.logs import captured_logs
from tests.support.wait import until


@pytest.mark.parametrize(
    ("trouble", "is_traced"),
    [(Unavailable("the disk is full"), False), (ValueError("a bug"), True)],
)
async def test_trouble_that_lasts_is_told_in_a_line_and_a_bug_with_its_place(
    trouble: Exception, *, is_traced: bool
) -> None:
    clock, starts = ManualClock(), list[None]()

    async def service() -> None:
        starts.append(None)
        raise trouble

    with captured_logs() as log:
        running = asyncio.get_running_loop().create_task(
            supervise("poll", service, clock=clock), name="supervised"
        )
        await until(lambda: len(starts) == 1)
        await clock.advance(30)
        await until(lambda: len(starts) >= 2)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
    assert str(trouble) in log.getvalue()
    assert ("Traceback" in log.getvalue()) is is_traced
