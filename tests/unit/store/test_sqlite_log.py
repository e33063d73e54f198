"""What a process that was killed leaves, and what then happens to its log."""

import os
import shutil
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Final

import pytest
import pytest_asyncio

from appliance.core.errors import Corrupt
from appliance.store.base import Statement
from appliance.store.migrate import shipped_migrations
from tests.support.faults import What, Where, breaks
from tests.unit.store.conftest import OpenSqlite
from tests.unit.store.rows import CREATE, add, names

NAMES: Final = [f"{number:03}" for number in range(50)]


@pytest_asyncio.fixture
async def left(path: Path, open_sqlite: OpenSqlite, tmp_path: Path) -> AsyncGenerator[Path]:
    """Return the database of a process that was killed, and that had committed `NAMES`."""
    async with open_sqlite(path) as store:
        await store.batch([CREATE])
        for name in NAMES:
            await store.batch([add(name, "x" * 500)])
        shutil.copytree(path.parent, tmp_path / "left", symlinks=True)
    yield tmp_path / "left" / "state.db"


def log_of(path: Path) -> Path:
    return path.with_name("state.db-wal")


def contents(path: Path) -> dict[str, bytes]:
    """Return all that counts: the index is made anew at each look, and the lock is a lock."""
    return {
        file.name: file.read_bytes()
        for file in path.parent.iterdir()
        if file.suffix not in (".db-shm", ".lock")
    }


async def refused(path: Path, open_sqlite: OpenSqlite) -> Corrupt:
    before = contents(path)
    for _ in range(2):
        with pytest.raises(Corrupt) as told:
            async with open_sqlite(path):
                pytest.fail("changes were lost, and nobody was told")
        assert contents(path) == before
    assert str(path) in told.value.detail
    assert "restore" in (told.value.hint or "")
    return told.value


async def test_what_is_left_whole_is_taken_up(left: Path, open_sqlite: OpenSqlite) -> None:
    async with open_sqlite(left) as store:
        assert await names(store) == NAMES


async def test_the_index_of_the_log_is_made_anew(left: Path, open_sqlite: OpenSqlite) -> None:
    left.with_name("state.db-shm").unlink()
    async with open_sqlite(left) as store:
        assert await names(store) == NAMES


def _flip(log: Path) -> None:
    content = bytearray(log.read_bytes())
    content[len(content) // 2] ^= 0x40
    log.write_bytes(content)


def _cut(share: float) -> Callable[[Path], None]:
    return lambda log: os.truncate(log, int(log.stat().st_size * share))


def _lose_both(log: Path) -> None:
    log.unlink()
    log.with_name("state.db-shm").unlink()


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(_cut(0.999), id="its end is cut"),
        pytest.param(_cut(0.3), id="it is cut"),
        pytest.param(_cut(0), id="it is empty"),
        pytest.param(
            _flip,
            id="a bit of it is flipped",
            marks=breaks(
                What.DATABASE,
                "a bit of its log is flipped after a kill -9",
                expected="Kahuna does not start, names the file and the next step,"
                " and changes nothing",
                where=Where.HOST,
            ),
        ),
        pytest.param(Path.unlink, id="it is gone"),
        pytest.param(_lose_both, id="it is gone with its index"),
    ],
)
async def test_a_log_that_lost_commits_is_refused(
    left: Path, open_sqlite: OpenSqlite, damage: Callable[[Path], None]
) -> None:
    damage(log_of(left))
    assert "the newest changes with it" in (await refused(left, open_sqlite)).detail


async def test_the_log_of_another_database_is_refused(
    left: Path, open_sqlite: OpenSqlite, tmp_path: Path
) -> None:
    other = tmp_path / "other" / "state.db"
    async with open_sqlite(other, shipped_migrations()):
        log_of(left).write_bytes(log_of(other).read_bytes())
    assert "belongs to another database" in (await refused(left, open_sqlite)).detail


async def test_the_log_of_another_database_beside_one_that_was_closed_is_refused(
    path: Path, open_sqlite: OpenSqlite, tmp_path: Path
) -> None:
    other = tmp_path / "other" / "state.db"
    async with open_sqlite(path, shipped_migrations()):
        pass
    async with open_sqlite(other, shipped_migrations()) as store:
        await store.batch([Statement("UPDATE schema_migration SET applied_at_ms = 1")])
        log_of(path).write_bytes(log_of(other).read_bytes())
    await refused(path, open_sqlite)


async def test_after_a_power_cut_the_log_counts_as_it_is(
    left: Path, open_sqlite: OpenSqlite
) -> None:
    """What was not synced was not acknowledged, and the index may be of any time."""
    left.with_name("state.db.open").write_text("another boot")
    _cut(0.5)(log_of(left))
    async with open_sqlite(left) as store:
        found = await names(store)
    assert 0 < len(found) < len(NAMES)
    assert found == NAMES[: len(found)]


async def test_a_close_that_ends_well_leaves_no_mark(path: Path, open_sqlite: OpenSqlite) -> None:
    async with open_sqlite(path) as store:
        await store.batch([CREATE])
        assert path.with_name("state.db.open").exists()
    assert not path.with_name("state.db.open").exists()
