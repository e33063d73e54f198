import asyncio

import pytest

from appliance.core.errors import NotFound
from appliance.services.alarms import Alarm, Alarms
from appliance.store.sqlite import SqliteStore
from tests.support.clock import ManualClock

AGENT = "agent/" + "a" * 24


@pytest.fixture
def alarms(store: SqliteStore, clock: ManualClock) -> Alarms:
    return Alarms(store, clock)


async def test_an_alarm_raised_again_is_counted_and_keeps_its_beginning(
    alarms: Alarms, clock: ManualClock
) -> None:
    began = clock.now_ms()
    await alarms.raise_alarm("cloned_identity", AGENT, "boot a")
    await clock.advance(60)
    await alarms.raise_alarm("cloned_identity", AGENT, "boot b")
    assert await alarms.list() == [
        Alarm("cloned_identity", AGENT, "boot b", 2, began, began + 60_000)
    ]


async def test_alarms_raised_at_once_are_all_counted(alarms: Alarms) -> None:
    async with asyncio.TaskGroup() as group:
        for number in range(20):
            group.create_task(alarms.raise_alarm("cloned_identity", AGENT, f"boot {number}"))
    [alarm] = await alarms.list()
    assert alarm.count == 20


async def test_a_clock_that_jumps_back_does_not_move_the_last_time(
    alarms: Alarms, clock: ManualClock
) -> None:
    now_ms = clock.now_ms()
    await alarms.raise_alarm("cloned_identity", AGENT, "a")
    clock.set_wall_clock(0)
    await alarms.raise_alarm("cloned_identity", AGENT, "b")
    [alarm] = await alarms.list()
    assert (alarm.first_at_ms, alarm.last_at_ms) == (now_ms, now_ms)


async def test_the_latest_comes_first(alarms: Alarms, clock: ManualClock) -> None:
    for kind in ("first", "second", "third"):
        await alarms.raise_alarm(kind, AGENT, "")
        await clock.advance(1)
    await alarms.raise_alarm("first", AGENT, "")
    assert [alarm.kind for alarm in await alarms.list()] == ["first", "third", "second"]


async def test_a_cleared_alarm_is_gone_and_comes_back_anew(alarms: Alarms) -> None:
    await alarms.raise_alarm("cloned_identity", AGENT, "a")
    await alarms.raise_alarm("cloned_identity", AGENT, "a")
    await alarms.clear("cloned_identity", AGENT)
    assert await alarms.list() == []
    with pytest.raises(NotFound, match="cloned_identity"):
        await alarms.clear("cloned_identity", AGENT)
    await alarms.raise_alarm("cloned_identity", AGENT, "a")
    assert [alarm.count for alarm in await alarms.list()] == [1]
