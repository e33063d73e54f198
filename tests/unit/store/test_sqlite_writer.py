import asyncio
import sqlite3
from collections.abc import AsyncGenerator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from appliance.core.errors import DeadlineExceeded, KowabungaError, Unavailable
from appliance.store import sqlite_file, sqlite_writer
from appliance.store.base import Statement
from appliance.store.sqlite import SqliteStore
from appliance.store.sqlite_file import TimeLimit
from appliance.store.sqlite_writer import Writer
from tests.support.clock import ManualClock
from tests.unit.store.conftest import OpenSqlite
from tests.unit.store.rows import CREATE, add, names


@pytest_asyncio.fixture
async def store(path: Path, open_sqlite: OpenSqlite) -> AsyncGenerator[SqliteStore]:
    async with open_sqlite(path) as store:
        await store.batch([CREATE])
        yield store


async def test_batches_that_wait_share_a_commit(path: Path, store: SqliteStore) -> None:
    before = store.commits
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        async with asyncio.TaskGroup() as group:
            for number in range(100):
                group.create_task(store.batch([add(f"{number}")]))
            await asyncio.sleep(0)
            other.execute("COMMIT")
    assert store.commits - before <= 2, "the first alone at most, then all the others"
    assert len(await names(store)) == 100


async def test_one_caller_gets_a_commit_for_each_batch(store: SqliteStore) -> None:
    before = store.commits
    for number in range(10):
        await store.batch([add(f"{number}")])
    assert store.commits - before == 10


async def test_a_group_is_bounded(path: Path, store: SqliteStore) -> None:
    """So the first of them does not wait for an endless train of others."""
    before = store.commits
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        async with asyncio.TaskGroup() as group:
            for number in range(10):
                batch = [add(f"{number}-{part}") for part in range(1024)]
                group.create_task(store.batch(batch))
            await asyncio.sleep(0)
            other.execute("COMMIT")
    assert 5 <= store.commits - before <= 6


async def test_too_many_waiting_batches_are_refused_at_once(path: Path, store: SqliteStore) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        callers = 2 * sqlite_writer.MAX_WAITING
        tasks = [asyncio.create_task(store.batch([add(f"{n}")])) for n in range(callers)]
        await asyncio.sleep(0)
        other.execute("COMMIT")
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    refused = [outcome for outcome in outcomes if isinstance(outcome, Unavailable)]
    # The writer had taken a group off the queue when it began to wait for the lock.
    assert sqlite_writer.MAX_WAITING // 2 <= len(refused) <= sqlite_writer.MAX_WAITING
    assert outcomes.count([1]) == callers - len(refused) == len(await names(store))


async def test_close_writes_what_waits(path: Path, open_sqlite: OpenSqlite) -> None:
    async with open_sqlite(path) as store:
        await store.batch([CREATE])
        tasks = [asyncio.create_task(store.batch([add(f"{number}")])) for number in range(20)]
        await asyncio.sleep(0)
        await store.close()
        assert [await task for task in tasks] == [[1]] * 20
    async with open_sqlite(path) as store:
        assert len(await names(store)) == 20


async def test_close_waits_for_reads_under_way(path: Path, open_sqlite: OpenSqlite) -> None:
    async with open_sqlite(path) as store:
        count = Statement(
            "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 50000)"
            " SELECT count(*) AS n FROM n"
        )
        tasks = [asyncio.create_task(store.query(count)) for _ in range(20)]
        await asyncio.sleep(0)
        await store.close()
        assert [await task for task in tasks] == [[{"n": 50000}]] * 20


class _FailingDisk(sqlite3.Connection):
    """Fails the statements it is told to, with the result code it is told to."""

    failures: dict[str, tuple[int, str]]

    def execute(self, sql: str, parameters: Any = ()) -> sqlite3.Cursor:  # noqa: ANN401 - typeshed's
        if failure := self.failures.pop(sql, None):
            error = sqlite3.OperationalError("disk I/O error")
            error.sqlite_errorcode, error.sqlite_errorname = failure
            raise error
        return super().execute(sql, parameters)


class _Bench:
    """A writer alone, over a disk that fails on demand."""

    def __init__(self, path: Path) -> None:
        sqlite_file.create(path)
        self.disk = sqlite3.connect(
            path, isolation_level=None, check_same_thread=False, factory=_FailingDisk
        )
        self.disk.failures = {}
        self.disk.execute("PRAGMA journal_mode = WAL")
        self.disk.execute(CREATE.sql)
        self.path = path
        self.writer = Writer(
            self.disk, TimeLimit(ManualClock(), 5), lambda error: sqlite_file.translate(error, path)
        )

    async def together(self, *batches: tuple[Statement, ...]) -> list[list[int] | BaseException]:
        """Submit batches so that they share a transaction."""
        with closing(sqlite3.connect(self.path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            tasks = [asyncio.create_task(self.writer.submit(batch)) for batch in batches]
            await asyncio.sleep(0)
            other.execute("COMMIT")
        return await asyncio.gather(*tasks, return_exceptions=True)

    def names(self) -> list[str]:
        with closing(sqlite3.connect(self.path)) as other:
            return [name for (name,) in other.execute("SELECT name FROM pair ORDER BY name")]


@pytest_asyncio.fixture
async def bench(tmp_path: Path) -> AsyncGenerator[_Bench]:
    bench = _Bench(tmp_path / "state.db")
    yield bench
    await bench.writer.close()


_WRITE = (sqlite3.SQLITE_IOERR_WRITE, "SQLITE_IOERR_WRITE")
_FSYNC = (sqlite3.SQLITE_IOERR_FSYNC, "SQLITE_IOERR_FSYNC")


async def test_a_failed_commit_fails_its_batch_and_the_writer_goes_on(bench: _Bench) -> None:
    bench.disk.failures["COMMIT"] = _WRITE
    with pytest.raises(Unavailable, match="cannot be used"):
        await bench.writer.submit((add("a"),))
    assert bench.names() == []
    assert await bench.writer.submit((add("b"),)) == [1]
    assert bench.names() == ["b"]


async def test_a_commit_that_fails_for_all_is_tried_for_each_alone(bench: _Bench) -> None:
    bench.disk.failures["COMMIT"] = _WRITE
    outcomes = await bench.together((add("a"),), (add("b"),), (add("c"),))
    # The first may have been taken alone, before the others came.
    assert outcomes.count([1]) >= 2
    assert bench.names() == [n for n, o in zip("abc", outcomes, strict=True) if o == [1]]


async def test_after_a_failed_sync_the_outcome_is_unknown(bench: _Bench) -> None:
    """The log may hold the commit: telling the callers "not written" could be a lie."""
    bench.disk.failures["COMMIT"] = _FSYNC
    with pytest.raises(DeadlineExceeded, match="outcome is unknown"):
        await bench.writer.submit((add("a"),))
    assert await bench.writer.submit((add("b"),)) == [1]


async def test_after_a_failed_sync_nobody_is_sent_again(bench: _Bench) -> None:
    bench.disk.failures["COMMIT"] = _FSYNC
    outcomes = await bench.together((add("a"),), (add("b"),), (add("c"),))
    unknown = [isinstance(outcome, DeadlineExceeded) for outcome in outcomes]
    # The first may have been taken alone: then it, or all the others, met the failure.
    assert unknown in ([True] * 3, [True, False, False])


async def test_a_rollback_that_fails_does_not_end_the_writer(bench: _Bench) -> None:
    bench.disk.failures |= {"COMMIT": _WRITE, "ROLLBACK": _WRITE}
    with pytest.raises(Unavailable):
        await bench.writer.submit((add("a"),))
    with pytest.raises(KowabungaError, match="within a transaction"):
        await bench.writer.submit((add("b"),))
    assert await bench.writer.submit((add("c"),)) == [1]
    assert bench.names() == ["c"]


@pytest.mark.parametrize("in_company", [True, False])
async def test_a_fault_of_python_fails_its_caller_only(bench: _Bench, *, in_company: bool) -> None:
    """The store checks values first; if it ever misses one, the writer must survive it."""
    faulty = Statement("INSERT INTO pair (name, filler) VALUES ('bad', ?)", (2**70,))
    company = [(add("a"),), (add("b"),)] if in_company else []
    *good, bad = await bench.together(*company, (faulty,))
    assert isinstance(bad, OverflowError)
    assert good == [[1]] * len(company)
    assert bench.names() == ["a", "b"][: len(company)]


def test_a_loop_that_ended_first_does_not_matter(tmp_path: Path) -> None:
    """A store that nobody closed: its thread ends quietly, as the process would."""

    async def forget() -> Writer:
        path = tmp_path / "state.db"
        bench = _Bench(path)
        await bench.writer.submit((add("a"),))
        return bench.writer

    writer = asyncio.run(forget())
    writer._queue.put(None)
