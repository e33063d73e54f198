from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
import pytest_asyncio

from appliance.store.sqlite import SqliteStore
from tests.support.clock import ManualClock
from tests.support.small_cloud import Cloud
from tests.unit.services.house import House, open_house


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest_asyncio.fixture
async def store(tmp_path: Path, clock: ManualClock) -> AsyncGenerator[SqliteStore]:
    store = await SqliteStore.open(tmp_path / "state" / "state.db", clock=clock)
    yield store
    await store.close()


@pytest_asyncio.fixture
async def house(store: SqliteStore, tmp_path: Path, clock: ManualClock) -> House:
    return await open_house(store, tmp_path / "state", clock)


@pytest.fixture
def cloud(house: House) -> Cloud:
    return Cloud(house.store, house.secrets, house.clock)
