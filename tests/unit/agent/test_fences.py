import asyncio
import sqlite3
from pathlib import Path

import pytest

from appliance.agent.fences import FenceBook
from appliance.core.errors import Corrupt, Stale, Unavailable
from appliance.model.target import Fence, target
from tests.support.faults import What, Where, breaks
from tests.support.synced import watch_syncs

INSTANCE = target("instance", "0" * 23 + "1")
OTHER = target("instance", "0" * 23 + "2")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "fences.db"


async def test_the_same_or_a_higher_fence_is_admitted_and_a_lower_one_is_stale(path: Path) -> None:
    async with FenceBook.open(path) as fences:
        await fences.admit(INSTANCE, Fence(1, 5))
        await fences.admit(INSTANCE, Fence(1, 5))
        with pytest.raises(Stale) as refusal:
            await fences.admit(INSTANCE, Fence(1, 4))
        assert refusal.value.context["target"] == INSTANCE
        await fences.admit(INSTANCE, Fence(1, 6))
        assert await fences.highest(INSTANCE) == Fence(1, 6)


async def test_a_higher_epoch_wins_over_any_fence_of_a_lower_one(path: Path) -> None:
    async with FenceBook.open(path) as fences:
        await fences.admit(INSTANCE, Fence(1, 1_000_000))
        await fences.admit(INSTANCE, Fence(2, 1))
        with pytest.raises(Stale):
            await fences.admit(INSTANCE, Fence(1, 2_000_000))


async def test_targets_do_not_share_a_fence(path: Path) -> None:
    async with FenceBook.open(path) as fences:
        await fences.admit(INSTANCE, Fence(1, 9))
        await fences.admit(OTHER, Fence(1, 1))
        assert await fences.highest(OTHER) == Fence(1, 1)


async def test_a_fence_is_in_the_file_before_admit_returns(path: Path) -> None:
    async with FenceBook.open(path) as fences:
        await fences.admit(INSTANCE, Fence(3, 4))
        reader = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
        try:
            assert reader.execute("SELECT target, epoch, fence FROM fence").fetchall() == [
                (INSTANCE, 3, 4)
            ]
        finally:
            reader.close()


async def test_many_admissions_at_once_share_commits_and_each_gets_its_own_verdict(
    path: Path,
) -> None:
    async with FenceBook.open(path) as fences:
        await fences.admit(OTHER, Fence(1, 5))
        commits: list[str] = []
        watch = fences._connection.set_trace_callback
        await fences._pool.run(5, watch, commits.append)
        async with asyncio.TaskGroup() as tasks:
            for number in range(500):
                tasks.create_task(fences.admit(target("volume", f"{number:024x}"), Fence(1, 1)))
            stale = tasks.create_task(is_stale(fences))
        assert await stale
        assert commits.count("COMMIT") <= 5
        assert await fences.highest(target("volume", f"{499:024x}")) == Fence(1, 1)


async def is_stale(fences: FenceBook) -> bool:
    try:
        await fences.admit(OTHER, Fence(1, 4))
    except Stale:
        return True
    return False


async def test_a_disk_that_refuses_admits_nobody(path: Path) -> None:
    async with FenceBook.open(path) as fences:
        await fences.admit(OTHER, Fence(1, 1))
        await fences._pool.run(5, fences._connection.execute, "DROP TABLE fence")
        with pytest.raises(Unavailable):
            await fences.admit(OTHER, Fence(1, 2))


async def test_fences_survive_a_restart(path: Path) -> None:
    async with FenceBook.open(path) as fences:
        await fences.admit(INSTANCE, Fence(1, 7))
    async with FenceBook.open(path) as fences:
        with pytest.raises(Stale):
            await fences.admit(INSTANCE, Fence(1, 6))


@pytest.fixture
def damaged(path: Path) -> Path:
    path.write_bytes(b"not a database at all" * 100)
    return path


async def test_a_damaged_file_stops_the_agent_instead_of_admitting_stale_commands(
    damaged: Path,
) -> None:
    with pytest.raises(Corrupt, match="damaged"):
        async with FenceBook.open(damaged):
            pass


@breaks(
    What.DATABASE,
    "the fences of an agent are emptied, or overwritten in part",
    expected="the agent does not start, names the file and the next step, and changes nothing",
    where=Where.HOST,
)
@pytest.mark.parametrize("spoil", ["empty", "page"])
async def test_a_book_that_lost_fences_stops_the_agent(path: Path, spoil: str) -> None:
    async with FenceBook.open(path) as book:
        for number in range(200):
            await book.admit(f"instance/{number:024x}", Fence(1, 1))
    content = bytearray(path.read_bytes())
    content[-4096:] = b"\xa5" * 4096
    path.write_bytes(b"" if spoil == "empty" else content)
    before = path.read_bytes()
    for _ in range(2):
        with pytest.raises(Corrupt, match=spoil if spoil == "empty" else "damaged") as told:
            async with FenceBook.open(path):
                pytest.fail("fences were lost, and nobody was told")
        assert "remove it only after" in (told.value.hint or "")
    assert path.read_bytes() == before


async def test_a_database_of_somebody_else_is_refused(path: Path) -> None:
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE theirs (x)")
    other.close()
    with pytest.raises(Corrupt, match="not a fence file"):
        async with FenceBook.open(path):
            pass


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


async def test_the_file_is_private(path: Path) -> None:
    async with FenceBook.open(path):
        assert mode(path) == 0o600


async def test_what_a_process_that_died_has_written_is_synced_before_it_is_relied_on(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = tmp_path / "left.db"
    async with FenceBook.open(path) as fences:
        await fences.admit(INSTANCE, Fence(1, 5))
        for suffix in ("", "-wal"):  # as they are when it is killed now
            Path(f"{left}{suffix}").write_bytes(Path(f"{path}{suffix}").read_bytes())
    synced = watch_syncs(monkeypatch)
    async with FenceBook.open(left) as fences:
        assert await fences.highest(INSTANCE) == Fence(1, 5)
        assert Path(f"{left}-wal") in synced
