import asyncio

import pytest

from appliance.core.errors import NotFound
from appliance.services.cluster import ensure_cluster, get_cluster, raise_epoch
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
