"""Every implementation of Store, under one suite.

A new one adds a place and its name to the parameters below; no test changes.
"""

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Final

import pytest
import pytest_asyncio

from appliance.store.base import Statement, Store
from appliance.store.migrate import Migration
from appliance.store.sqlite import SqliteStore
from tests.support.clock import ManualClock

# Opens the state of this test with these migrations; again and again, if the test likes.
OpenStore = Callable[[Sequence[Migration]], AbstractAsyncContextManager[Store]]


@pytest.fixture(params=["sqlite"])
def open_store(request: pytest.FixtureRequest, tmp_path: Path) -> OpenStore:
    assert request.param == "sqlite"

    @asynccontextmanager
    async def open_sqlite(migrations: Sequence[Migration]) -> AsyncGenerator[Store]:
        path = tmp_path / "state.db"
        store = await SqliteStore.open(path, clock=ManualClock(), migrations=migrations)
        try:
            yield store
        finally:
            await store.close()

    return open_sqlite


# Every kind of constraint that the package may use.
_TABLES: Final = (
    Statement(
        "CREATE TABLE txn_guard"
        " (ok INTEGER NOT NULL CONSTRAINT txn_guard CHECK (ok = 1)) STRICT"
    ),
    Statement(
        "CREATE TABLE team (id TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE,"
        " size INTEGER NOT NULL DEFAULT 0 CHECK (size >= 0), note TEXT,"
        " CONSTRAINT small_if_noted CHECK (note IS NULL OR size < 1000)) STRICT"
    ),
    Statement(
        "CREATE TABLE member (team_id TEXT NOT NULL REFERENCES team (id), number INTEGER NOT NULL,"
        " PRIMARY KEY (team_id, number)) STRICT"
    ),
    Statement(
        "CREATE TABLE badge (team_id TEXT NOT NULL REFERENCES team (id) ON DELETE CASCADE,"
        " colour TEXT NOT NULL) STRICT"
    ),
    Statement("CREATE UNIQUE INDEX badge_colour ON badge (lower(colour))"),
)  # fmt: skip


@pytest_asyncio.fixture
async def store(open_store: OpenStore) -> AsyncGenerator[Store]:
    async with open_store(()) as store:
        await store.batch(_TABLES)
        yield store
