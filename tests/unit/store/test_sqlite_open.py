import asyncio
import sqlite3
import stat
from contextlib import closing
from pathlib import Path

import pytest

from appliance.core.errors import Conflict, Corrupt, Unavailable
from appliance.store import sqlite_file
from appliance.store.base import Statement
from appliance.store.sqlite import SqliteStore
from appliance.store.sqlite_file import TimeLimit
from tests.support.clock import ManualClock
from tests.unit.store.conftest import OpenSqlite
from tests.unit.store.rows import CREATE, add, names


async def test_only_the_owner_can_read_any_file_of_it(path: Path, open_sqlite: OpenSqlite) -> None:
    async with open_sqlite(path) as store:
        await store.batch([CREATE, add("a")])
        assert await names(store) == ["a"]
        modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
        private = dict.fromkeys(
            ("state.db", "state.db-shm", "state.db-wal", "state.db.lock", "state.db.open"), 0o600
        )
        assert modes == private
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


async def test_a_readable_file_is_made_private_again(path: Path, open_sqlite: OpenSqlite) -> None:
    async with open_sqlite(path):
        pass
    path.chmod(0o644)
    async with open_sqlite(path):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


async def test_the_schema_is_the_clusters_unless_told_otherwise(path: Path) -> None:
    store = await SqliteStore.open(path, clock=ManualClock())
    try:
        assert await store.query(Statement("SELECT count(*) AS n FROM operation")) == [{"n": 0}]
    finally:
        await store.close()


async def test_a_closed_store_refuses_work_and_closing_again_is_fine(
    path: Path, open_sqlite: OpenSqlite
) -> None:
    async with open_sqlite(path) as store:
        await store.batch([CREATE])
        await store.close()
        with pytest.raises(Unavailable, match="closed"):
            await store.batch([add("a")])
        with pytest.raises(Unavailable, match="closed"):
            await names(store)
        assert not path.with_name("state.db-wal").exists(), "the log was not folded in"


async def test_a_close_that_was_cancelled_can_be_repeated(
    path: Path, open_sqlite: OpenSqlite
) -> None:
    async with open_sqlite(path) as store:
        await store.batch([CREATE])
        with closing(sqlite3.connect(path)) as other:
            other.execute("BEGIN IMMEDIATE")
            writing = asyncio.create_task(store.batch([add("a")]))
            await asyncio.sleep(0)
            closing_it = asyncio.create_task(store.close())
            await asyncio.sleep(0)
            closing_it.cancel()
            with pytest.raises(asyncio.CancelledError):
                await closing_it
        await store.close()
        assert await writing == [1]
        async with open_sqlite(path) as again:
            assert await names(again) == ["a"]


class _SlowMachine(ManualClock):
    """A second passes between any two looks at it."""

    def monotonic(self) -> float:
        self._move_to(super().monotonic() + 1)
        return super().monotonic()


async def test_the_limit_of_a_statement_does_not_limit_the_check_of_a_large_file(
    path: Path, open_sqlite: OpenSqlite
) -> None:
    async with open_sqlite(path) as store:
        many = Statement(
            "INSERT INTO pair (name) WITH RECURSIVE n (i) AS"
            " (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 50000) SELECT i FROM n"
        )
        await store.batch([CREATE, many])
    large = await SqliteStore.open(path, clock=_SlowMachine(), migrations=(), statement_limit_s=0.5)
    await large.close()


async def test_a_second_opener_is_told_who_holds_it(path: Path, open_sqlite: OpenSqlite) -> None:
    async with open_sqlite(path):
        with pytest.raises(Conflict, match=r"held by process \d+") as held:
            async with open_sqlite(path):
                pytest.fail("opened twice")
        assert held.value.hint == "stop that process first"
    async with open_sqlite(path):
        pass


@pytest.mark.parametrize("name", ["a b.db", "what?.db", "100%.db", "#1.db", "ü.db", "x;y&z=.db"])
async def test_any_file_name_will_do(tmp_path: Path, open_sqlite: OpenSqlite, name: str) -> None:
    async with open_sqlite(tmp_path / name) as store:
        await store.batch([CREATE, add("a")])
    assert (tmp_path / name).exists()
    async with open_sqlite(tmp_path / name) as store:
        assert await names(store) == ["a"]


async def _fill(path: Path, open_sqlite: OpenSqlite) -> None:
    async with open_sqlite(path) as store:
        await store.batch([CREATE, *(add(f"{number:04}", "x" * 200) for number in range(500))])


async def _refused(path: Path, open_sqlite: OpenSqlite) -> Corrupt:
    """Open, expecting a refusal that changes nothing on disk and lets go of the lock."""
    before = path.read_bytes() if path.exists() else None
    for _ in range(2):
        with pytest.raises(Corrupt) as refused:
            async with open_sqlite(path):
                pytest.fail("a damaged state was opened")
    assert (path.read_bytes() if path.exists() else None) == before
    assert str(path) in refused.value.detail
    assert "restore the newest backup" in (refused.value.hint or "")
    return refused.value


async def test_something_else_than_a_database_is_refused(
    path: Path, open_sqlite: OpenSqlite
) -> None:
    path.parent.mkdir()
    path.write_text("This is not a database, but a letter.\n" * 1000)
    assert "not a database" in (await _refused(path, open_sqlite)).detail


async def test_an_empty_file_is_refused(path: Path, open_sqlite: OpenSqlite) -> None:
    """SQLite would start afresh, as if no state had ever been."""
    path.parent.mkdir()
    path.touch()
    assert "is empty" in (await _refused(path, open_sqlite)).detail


async def test_a_lost_file_beside_its_log_is_refused(path: Path, open_sqlite: OpenSqlite) -> None:
    """SQLite would delete the log, and with it the newest changes."""
    path.parent.mkdir(0o700)
    log = path.with_name("state.db-wal")
    log.write_bytes(b"changes")
    assert "is missing, but its log" in (await _refused(path, open_sqlite)).detail
    assert log.read_bytes() == b"changes"


@pytest.mark.parametrize("kept", [0.02, 0.5, 0.99])
async def test_a_truncated_file_is_refused(
    path: Path, open_sqlite: OpenSqlite, kept: float
) -> None:
    await _fill(path, open_sqlite)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * kept)])
    await _refused(path, open_sqlite)


@pytest.mark.parametrize("page", [0, 1, 2, -1])
async def test_a_page_overwritten_is_refused(
    path: Path, open_sqlite: OpenSqlite, page: int
) -> None:
    await _fill(path, open_sqlite)
    content = bytearray(path.read_bytes())
    start = page * 4096 if page >= 0 else len(content) - 4096
    content[start : start + 4096] = b"\xa5" * 4096
    path.write_bytes(content)
    await _refused(path, open_sqlite)


async def test_what_cannot_be_opened_is_unavailable(path: Path, open_sqlite: OpenSqlite) -> None:
    path.mkdir(parents=True)
    (path / "something").touch()
    with pytest.raises(Unavailable, match="cannot be used"):
        async with open_sqlite(path):
            pytest.fail("a directory was opened")


async def test_a_database_of_another_program_is_left_alone(
    path: Path, open_sqlite: OpenSqlite
) -> None:
    path.parent.mkdir()
    with closing(sqlite3.connect(path)) as foreign:
        foreign.execute("CREATE TABLE cluster (anything)")
    for _ in range(2):
        with pytest.raises(Corrupt, match="the database of another program"):
            await SqliteStore.open(path, clock=ManualClock())
    with closing(sqlite3.connect(path)) as foreign:
        assert foreign.execute("SELECT name FROM sqlite_master").fetchall() == [("cluster",)]


def test_each_commit_is_synced_and_references_are_checked(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    sqlite_file.create(path)
    limit = TimeLimit(ManualClock(), 1)
    with closing(sqlite_file.connect_writer(path, limit)) as writer:
        assert writer.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert writer.execute("PRAGMA synchronous").fetchone() == (2,), "FULL"
        assert writer.execute("PRAGMA foreign_keys").fetchone() == (1,)
    with (
        closing(sqlite_file.connect_reader(path, limit)) as reader,
        pytest.raises(sqlite3.OperationalError, match="readonly"),
    ):
        reader.execute("CREATE TABLE more (n)")
