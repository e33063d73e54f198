from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Protocol

import pytest

from appliance.store.migrate import Migration
from appliance.store.sqlite import SqliteStore
from tests.support.clock import ManualClock


class OpenSqlite(Protocol):
    def __call__(
        self, path: Path, migrations: Sequence[Migration] = ()
    ) -> AbstractAsyncContextManager[SqliteStore]: ...


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "state.db"


@pytest.fixture
def open_sqlite() -> OpenSqlite:
    @asynccontextmanager
    async def open_store(
        path: Path, migrations: Sequence[Migration] = ()
    ) -> AsyncGenerator[SqliteStore]:
        store = await SqliteStore.open(path, clock=ManualClock(), migrations=migrations)
        try:
            yield store
        finally:
            await store.close()

    return open_store
