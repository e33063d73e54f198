"""What happens to a state under our feet: cut logs, rotten pages, full disks, foreign locks."""

import asyncio
import shutil
import sqlite3
import subprocess
from collections.abc import AsyncGenerator, Generator
from contextlib import closing
from pathlib import Path

import pytest
import pytest_asyncio

from appliance.core.errors import Corrupt, Unavailable
from appliance.store.base import Statement
from appliance.store.migrate import shipped_migrations
from appliance.store.sqlite import SqliteStore
from appliance.store.verify import verify
from tests.support.clock import ManualClock
from tests.support.needs import need_root
from tests.unit.store.conftest import OpenSqlite
from tests.unit.store.rows import CREATE, add, names


@pytest_asyncio.fixture
async def store(path: Path, open_sqlite: OpenSqlite) -> AsyncGenerator[SqliteStore]:
    async with open_sqlite(path) as store:
        await store.batch([CREATE])
        yield store


async def test_of_a_log_cut_anywhere_whole_batches_remain(
    tmp_path: Path, path: Path, store: SqliteStore, open_sqlite: OpenSqlite
) -> None:
    """SQLite keeps no length of its log elsewhere: a cut loses the end, but tears nothing."""
    for number in range(20):
        await store.batch([add(f"{number:02}-{half}", "x" * 3000) for half in (1, 2)])
    log = path.with_name("state.db-wal").read_bytes()
    seen = set()
    for part in range(21):
        copy = tmp_path / f"copy{part}" / "state.db"
        copy.parent.mkdir()
        shutil.copy(path, copy)
        copy.with_name("state.db-wal").write_bytes(log[: len(log) * part // 20])
        async with open_sqlite(copy) as cut:
            tables = await cut.query(Statement("SELECT name FROM sqlite_master"))
            found = await names(cut) if tables else []
            assert found == [f"{n:02}-{half}" for n in range(len(found) // 2) for half in (1, 2)]
            seen.add(len(found))
    assert max(seen) == 40
    assert len(seen) > 10


async def test_a_page_that_rots_while_we_run_is_told(
    path: Path, store: SqliteStore, open_sqlite: OpenSqlite
) -> None:
    await store.batch([
        Statement("CREATE TABLE txn_guard (ok INTEGER) STRICT"),
        *(add(f"{number:04}", "x" * 400) for number in range(10_000)),
    ])  # fmt: skip
    await store.close()
    async with open_sqlite(path) as reopened:
        with path.open("r+b") as file:
            file.seek(8 * 4096)
            file.write(b"\xa5" * (path.stat().st_size - 16 * 4096))
        with pytest.raises(Corrupt, match="is damaged") as rotten:
            await reopened.query(Statement("SELECT sum(length(filler)) AS n FROM pair"))
        assert "restore" in (rotten.value.hint or "")
        with pytest.raises(Corrupt):
            await reopened.batch([Statement("UPDATE pair SET filler = filler || 'y'")])
        findings = await verify(reopened)
        assert any(finding.startswith("Page ") for finding in findings)
        assert all("\n" not in finding for finding in findings)


async def test_verify_finds_broken_references(path: Path, open_sqlite: OpenSqlite) -> None:
    async with open_sqlite(path, shipped_migrations()):
        pass
    with closing(sqlite3.connect(path)) as careless:  # foreign keys are off by default
        careless.execute("INSERT INTO operation_target VALUES ('volume/1', 'no such operation', 1)")
        careless.execute("INSERT INTO data_key_wrap VALUES ('no key', 'no node', 'x')")
        careless.commit()
    async with open_sqlite(path, shipped_migrations()) as store:
        assert sorted(await verify(store)) == [
            "data_key_wrap row 1 refers to a row that is not in data_key",
            "data_key_wrap row 1 refers to a row that is not in node",
            "operation_target row 1 refers to a row that is not in operation",
        ]


async def test_verify_reports_a_read_that_fails_on_damage(path: Path, store: SqliteStore) -> None:
    class Rotten:
        async def query(self, *_: object) -> list[dict[str, str | int | None]]:
            raise Corrupt("the disk is rotten")

        async def batch(self, _: object) -> list[int]:
            raise AssertionError("verify only reads")

        async def close(self) -> None: ...

    assert await verify(Rotten()) == ["the disk is rotten"] * 3


@pytest.fixture
def small_disk(tmp_path: Path) -> Generator[Path]:
    need_root()
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "kowabunga-test", disk], check=True)
    yield disk
    subprocess.run(["umount", disk], check=True)


async def test_a_full_disk_refuses_writes_reads_on_and_recovers(
    small_disk: Path, open_sqlite: OpenSqlite
) -> None:
    async with open_sqlite(small_disk / "state" / "state.db") as store:
        await store.batch([CREATE, add("first")])
        ballast = small_disk / "ballast"
        ballast.write_bytes(bytes(400_000))
        written = ["first"]

        async def fill() -> None:
            for number in range(1000):
                await store.batch([add(f"{number:04}", "x" * 10_000), add(f"{number:04}b")])
                written.extend([f"{number:04}", f"{number:04}b"])

        with pytest.raises(Unavailable, match="no space left") as full:
            await fill()
        assert full.value.hint == "free some space"
        assert 1 < len(written) < 1000
        assert await names(store) == sorted(written)
        ballast.unlink()
        await store.batch([add("later", "x" * 10_000)])
        assert await names(store) == sorted([*written, "later"])
    async with open_sqlite(small_disk / "state" / "state.db") as store:
        assert await names(store) == sorted([*written, "later"])


async def test_on_a_full_disk_a_fat_batch_does_not_fail_a_thin_neighbour(
    path: Path, store: SqliteStore
) -> None:
    (pages,) = store._writer._connection.execute("PRAGMA page_count").fetchone()
    store._writer._connection.execute(f"PRAGMA max_page_count = {pages + 4}")
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")  # makes those that follow come together
        async with asyncio.TaskGroup() as group:
            thin = [group.create_task(store.batch([add("thin1")]))]
            fat = group.create_task(_unavailable(store, [add("fat", "x" * 100_000), add("fat2")]))
            thin += [group.create_task(store.batch([add(f"thin{n}")])) for n in (2, 3)]
            await asyncio.sleep(0)
            other.execute("COMMIT")
    assert "no space left" in fat.result().detail
    assert all(task.result() == [1] for task in thin)
    assert await names(store) == ["thin1", "thin2", "thin3"]


async def _unavailable(store: SqliteStore, batch: list[Statement]) -> Unavailable:
    with pytest.raises(Unavailable) as refused:
        await store.batch(batch)
    return refused.value


async def test_a_lock_held_by_another_program_is_told_and_passes(
    path: Path, store: SqliteStore
) -> None:
    store._writer._connection.execute("PRAGMA busy_timeout = 1")
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        async with asyncio.TaskGroup() as group:
            refused = [
                group.create_task(_unavailable(store, [add(f"{number}")])) for number in range(3)
            ]
        assert {task.result().detail for task in refused} == {
            f"{path} is locked by another program"
        }
        assert await names(store) == [], "reads go on"
        other.execute("COMMIT")
    await store.batch([add("a")])
    assert await names(store) == ["a"]


async def test_a_runaway_statement_is_stopped_and_hurts_nobody(path: Path) -> None:
    clock = _HastyClock()
    store = await SqliteStore.open(path, clock=clock, migrations=(), statement_limit_s=5)
    endless = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) "
    try:
        await store.batch([CREATE])
        clock.hasty = True
        with pytest.raises(Unavailable, match="too long"):
            await store.query(Statement(endless + "SELECT count(*) AS n FROM n"))
        write = Statement(endless + "INSERT INTO pair (name) SELECT max(i) FROM n")
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            async with asyncio.TaskGroup() as group:
                before = group.create_task(store.batch([add("before")]))
                stopped = group.create_task(_unavailable(store, [add("lost"), write]))
                after = group.create_task(store.batch([add("after")]))
                await asyncio.sleep(0)
                other.execute("COMMIT")
        assert "too long" in stopped.result().detail
        assert before.result() == after.result() == [1]
        assert await names(store) == ["after", "before"]
    finally:
        await store.close()


class _HastyClock(ManualClock):
    """A second passes with each look at it: time flies while SQLite works."""

    hasty = False

    def monotonic(self) -> float:
        if self.hasty:
            self._monotonic += 1
        return super().monotonic()
