"""A cloud whose clock is set between whatever is done: reconciliation finds nothing to mend."""

from collections.abc import AsyncGenerator
from pathlib import Path

import msgspec
import pytest
import pytest_asyncio

from appliance.core.clock import SystemClock
from appliance.resources.instance_work import PowerAction
from appliance.resources.kompute import KOMPUTES
from appliance.services.verify import verify_world
from appliance.store.sqlite import SqliteStore
from tests.support.cloud import ASKED, Cloud, CountedStore, cloud_on
from tests.support.faults import What, Where, breaks

HOUR_MS = 3_600_000
YEAR_MS = 366 * 24 * HOUR_MS


class SetClock(SystemClock):
    """A clock whose wall time is set; the rest goes on."""

    ahead_ms = 0

    def now_ms(self) -> int:
        return super().now_ms() + self.ahead_ms


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


@pytest_asyncio.fixture
async def cloud(tmp_path: Path, clock: SetClock) -> AsyncGenerator[Cloud]:
    store = await SqliteStore.open(tmp_path / "state.db", clock=clock)
    async with cloud_on(CountedStore(store), tmp_path, clock, hosts=2) as cloud:
        yield cloud
    await store.close()


async def check(cloud: Cloud) -> None:
    """Compare everything; nothing differs, so nothing was mended but bridges of no machine."""
    for agent_id in cloud.agents:
        await cloud.compute.reconciler.look(agent_id)
    assert (await verify_world(cloud.store, cloud.nodes, cloud.compute.seeds)).is_clean
    mended = "SELECT COUNT(*) FROM operation WHERE origin = 'reconcile' AND kind <> 'bridges_mend'"
    assert await cloud.value(mended) == 0
    assert await cloud.value("SELECT COUNT(*) FROM alarm") == 0


@breaks(
    What.CLOCK,
    "the clock of a Kahuna is set between all steps of the life of a machine",
    expected="each ends as usual; reconciliation finds nothing to mend and nothing to report",
    where=Where.SIMULATED,
)
@pytest.mark.parametrize("jump_ms", [YEAR_MS, -HOUR_MS])
async def test_a_clock_that_is_set_between_all_steps_makes_no_difference(
    cloud: Cloud, clock: SetClock, jump_ms: int
) -> None:
    made = await cloud.add_kompute("web")
    web = str(made.id)
    clock.ahead_ms = jump_ms
    await check(cloud)
    grown = msgspec.structs.replace(made, vcpus=made.vcpus + 1, name="web-2")
    await (await cloud.compute.komputes.update(ASKED, web, grown)).outcome()
    clock.ahead_ms = 0
    await check(cloud)
    for action in (PowerAction.STOP, PowerAction.START, PowerAction.REBOOT):
        clock.ahead_ms = jump_ms - clock.ahead_ms
        await (await cloud.compute.machines.act(ASKED, KOMPUTES, web, action)).outcome()
        await check(cloud)
    other = await cloud.add_kompute("other")
    clock.ahead_ms = jump_ms - clock.ahead_ms
    await (await cloud.compute.komputes.delete(ASKED, web)).outcome()
    await check(cloud)
    assert await cloud.catalog.list_ids(KOMPUTES) == [other.id]
