"""The fences of an agent on a disk without room: what cannot be kept is not done."""

from collections.abc import Generator
from pathlib import Path

import pytest

from appliance.agent.fences import FenceBook
from appliance.core.errors import Stale, Unavailable
from appliance.model.target import Fence, target
from tests.support.faults import What, Where, breaks
from tests.support.small_disk import SmallDisk, small_disk

FULL = breaks(
    What.DISK,
    "disk with an agent's fences full or read-only",
    expected="commands are refused with the file and the next step, and nothing is done; stale"
    " ones stay refused; once there is space all goes on",
    where=Where.HOST,
)
OLD, NEW = Fence(1, 1), Fence(1, 2)


@pytest.fixture
def disk(tmp_path: Path) -> Generator[SmallDisk]:
    with small_disk(tmp_path / "agent", "4m") as mounted:
        yield mounted


def instance(number: int) -> str:
    return target("instance", f"{number:024x}")


async def admit_until_full(fences: FenceBook) -> int:
    for number in range(100_000):
        try:
            await fences.admit(instance(number), NEW)
        except Unavailable:
            break
    with pytest.raises(Unavailable, match=r"fences\.db.*free some space"):
        await fences.admit(instance(number), NEW)
    return number


@FULL
async def test_what_cannot_be_kept_is_not_admitted(disk: SmallDisk) -> None:
    path = disk.path / "fences.db"
    async with FenceBook.open(path) as fences:
        disk.fill()
        admitted = await admit_until_full(fences)
        for number in range(admitted):
            with pytest.raises(Stale):
                await fences.admit(instance(number), OLD)
        assert await fences.highest(instance(admitted)) is None
        disk.relieve()
        await fences.admit(instance(admitted), NEW)
    async with FenceBook.open(path) as fences:
        for number in range(admitted + 1):
            assert await fences.highest(instance(number)) == NEW


@FULL
async def test_a_disk_without_room_is_not_taken_for_damage(disk: SmallDisk) -> None:
    """Whoever believes that the file is damaged removes it, and the fences with it."""
    path = disk.path / "fences.db"
    disk.fill()
    with pytest.raises((Unavailable, OSError), match=r"space|full"):
        async with FenceBook.open(path):
            pass
    disk.relieve()
    async with FenceBook.open(path) as fences:
        await fences.admit(instance(1), NEW)
    disk.remount("ro")
    with pytest.raises((Unavailable, OSError), match=r"[Rr]ead-?only"):
        async with FenceBook.open(path):
            pass
    disk.remount("rw")
    async with FenceBook.open(path) as fences:
        with pytest.raises(Stale):
            await fences.admit(instance(1), OLD)
