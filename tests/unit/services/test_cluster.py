import asyncio

import pytest

from appliance.core.errors import NotFound
from appliance.core.ids import IdFactory
from appliance.services.cluster import ensure_cluster, get_cluster, keep_order, raise_epoch
from appliance.store.base import Statement
from appliance.store.sqlite import SqliteStore
from tests.support.clock import ManualClock


async def test_two_founders_agree_on_one_cluster(store: SqliteStore, clock: ManualClock) -> None:
    async with asyncio.TaskGroup() as group:
        founders = [group.create_task(ensure_cluster(store, clock)) for _ in range(5)]
    assert {founder.result() for founder in founders} == {await get_cluster(store)}
    assert (await get_cluster(store)).epoch == 1


async def test_the_epoch_only_rises(store: SqliteStore, clock: ManualClock) -> None:
    founded = await ensure_cluster(store, clock)
    assert (await raise_epoch(store)).epoch == 2
    assert (await raise_epoch(store)).epoch == 3
    assert await ensure_cluster(store, clock) == await get_cluster(store)
    assert (await get_cluster(store)).id == founded.id


async def test_an_empty_store_has_no_cluster(store: SqliteStore) -> None:
    with pytest.raises(NotFound):
        await get_cluster(store)


async def test_new_ids_come_after_those_that_a_clock_ahead_has_made(
    store: SqliteStore, clock: ManualClock
) -> None:
    ahead, ids = IdFactory(ManualClock(clock.now_ms() + 366 * 86_400_000)), IdFactory(clock)
    await keep_order(store, ids)  # there is nothing yet
    for name in ("region", "later"):
        await store.batch(
            [
                Statement(
                    "INSERT INTO region (id, name, description, domain, created_at_ms,"
                    " updated_at_ms) VALUES (?, ?, '', 'x', 0, 0)",
                    (newest := ahead(), name),
                )
            ]
        )
    assert ids() < newest
    await keep_order(store, ids)
    assert ids() > newest
