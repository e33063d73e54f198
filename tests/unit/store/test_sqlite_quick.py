"""What is read in a moment is read at once; nothing holds up the event loop."""

import asyncio
import sqlite3
from collections.abc import Generator
from contextlib import closing
from pathlib import Path

import pytest

from appliance.store import sqlite_file
from appliance.store.base import Statement
from appliance.store.sqlite_quick import QuickReader
from tests.unit.store.conftest import OpenSqlite
from tests.unit.store.rows import CREATE, add, names

_COUNT = (
    "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT ?)"
    " SELECT count(*) AS n FROM n"
)
_NAMES = Statement("SELECT name FROM pair")


@pytest.fixture
def quick(path: Path) -> Generator[QuickReader]:
    path.parent.mkdir()
    sqlite_file.create(path)
    with closing(QuickReader(path)) as quick:
        yield quick


def count_to(number: int) -> Statement:
    return Statement(_COUNT, (number,))


async def test_a_short_read_needs_no_thread_and_sees_the_last_write(
    path: Path, open_sqlite: OpenSqlite
) -> None:
    async with open_sqlite(path) as store:
        await store.batch([CREATE])
        threads, store._pool = store._pool, None  # type: ignore[assignment] # nobody is to use it
        for number in range(5):
            await store.batch([add(f"{number}")])
            assert len(await names(store)) == number + 1
        store._pool = threads
        assert await store.query(count_to(100_000)) == [{"n": 100_000}]


def test_a_long_read_is_left_to_a_thread_from_then_on(quick: QuickReader) -> None:
    assert quick.read(count_to(10)) == [{"n": 10}]
    assert quick.read(count_to(1_000_000_000_000)) is None
    assert quick.read(count_to(10)) is None
    assert quick.read(Statement("SELECT 1 AS one")) == [{"one": 1}]


def test_a_short_read_stays_one_however_often_it_is_done(quick: QuickReader) -> None:
    for _ in range(5_000):
        assert quick.read(count_to(10)) is not None


def test_a_lock_of_another_is_not_waited_for(path: Path, quick: QuickReader) -> None:
    assert quick.read(Statement("SELECT timeout FROM pragma_busy_timeout")) == [{"timeout": 0}]
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute(CREATE.sql)
        assert quick.read(_NAMES) == []
        other.execute("BEGIN EXCLUSIVE")
        assert quick.read(_NAMES) is None
        other.execute("COMMIT")
    assert quick.read(_NAMES) == []


def test_what_fails_is_told_by_the_thread(quick: QuickReader) -> None:
    assert quick.read(_NAMES) is None


async def test_others_have_their_turn_between_any_two_reads(
    path: Path, open_sqlite: OpenSqlite
) -> None:
    turns = 0

    async def take_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async with open_sqlite(path) as store:
        await store.batch([CREATE])
        async with asyncio.TaskGroup() as group:
            other = group.create_task(take_turns())
            for _ in range(100):
                await names(store)
            other.cancel()
    assert turns >= 100
