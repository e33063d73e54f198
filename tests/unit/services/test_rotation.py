"""Rotation of the data key, killed at every write, alone and beside other writers."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from appliance.core import crypto
from appliance.core.clock import Clock
from appliance.core.errors import Corrupt, DeadlineExceeded, Unavailable
from appliance.core.secret import Secret
from appliance.model.principal import MASTER
from appliance.services.key_files import DataKey, KeyFiles
from appliance.services.secrets import Sealer
from appliance.store.base import Consistency, Row, Statement, Store
from appliance.store.sqlite import SqliteStore
from tests.support.clock import ManualClock
from tests.unit.services.house import House, build_house, open_house

OWNER = "agent/" + "a" * 24
SECRETS = {f"name-{number:03}": Secret(f"value-{number}") for number in range(120)}


class Killed(BaseException):
    """The process is gone: nothing in it may catch this."""


class Life:
    """Counts the writes of a process and ends it before or after one of them."""

    def __init__(self, dies_at: int | None = None) -> None:
        self.writes = 0
        self._dies_at = dies_at

    def point(self) -> None:
        self.writes += 1
        if self.writes - 1 == self._dies_at:
            raise Killed


class MortalStore:
    def __init__(self, store: Store, life: Life) -> None:
        self._store = store
        self._life = life

    async def query(
        self, statement: Statement, consistency: Consistency = Consistency.WEAK
    ) -> list[Row]:
        return await self._store.query(statement, consistency)

    async def batch(self, statements: Sequence[Statement]) -> list[int]:
        self._life.point()
        result = await self._store.batch(statements)
        self._life.point()
        return result

    async def close(self) -> None: ...


class MortalKeyFiles(KeyFiles):
    def __init__(self, directory: Path, life: Life) -> None:
        super().__init__(directory)
        self._life = life

    def pending(self) -> DataKey:
        self._life.point()
        key = super().pending()
        self._life.point()
        return key

    def promote(self, key_id: str) -> None:
        self._life.point()
        super().promote(key_id)
        self._life.point()

    def add(self, key: DataKey) -> None:
        self._life.point()
        super().add(key)
        self._life.point()

    def remove(self, key_id: str) -> bool:
        self._life.point()
        removed = super().remove(key_id)
        self._life.point()
        return removed


async def rotate(house: House, old_id: str) -> None:
    await house.rotation.activate(old_id)
    await house.rotation.reseal()
    await house.rotation.retire()


async def fill(house: House) -> None:
    await house.secrets.batch(
        lambda sealer: [sealer.put(OWNER, name, value) for name, value in SECRETS.items()]
    )


async def assert_readable(house: House) -> None:
    for name, value in SECRETS.items():
        assert await house.secrets.find(OWNER, name) == value


async def assert_only(house: House, key_id: str) -> None:
    """One key, in the database, in the files and under every secret."""
    keys = await house.store.query(Statement("SELECT id, state FROM data_key"))
    assert keys == [{"id": key_id, "state": "active"}]
    used = await house.store.query(Statement("SELECT DISTINCT data_key_id FROM secret"))
    assert used == [{"data_key_id": key_id}]
    assert [file.name for file in house.key_files] == [f"{key_id}.key"]


async def test_rotation_seals_everything_anew_and_deletes_the_old_key(house: House) -> None:
    await fill(house)
    old = await house.keyring.active()
    await rotate(house, old.id)
    new = await house.keyring.active()
    assert new.id != old.id
    await assert_readable(house)
    await assert_only(house, new.id)


async def test_a_repeated_rotation_of_the_same_key_changes_nothing(house: House) -> None:
    await fill(house)
    old = await house.keyring.active()
    await rotate(house, old.id)
    new = await house.keyring.active()
    await rotate(house, old.id)
    assert await house.keyring.active() == new


def _mortal(store: Store, directory: Path, clock: Clock, life: Life) -> House:
    files = MortalKeyFiles(directory / "keys/data", life)
    return build_house(MortalStore(store, life), directory, clock, files=files)


async def _writes_of_a_rotation(tmp_path: Path, clock: ManualClock) -> int:
    store = await SqliteStore.open(tmp_path / "count/state.db", clock=clock)
    try:
        house = await open_house(store, tmp_path / "count", clock)
        await fill(house)
        life = Life()
        mortal = _mortal(store, tmp_path / "count", clock, life)
        await rotate(mortal, (await house.keyring.active()).id)
        return life.writes
    finally:
        await store.close()


async def test_killed_before_and_after_every_write_a_rotation_is_finished_by_the_next(
    tmp_path: Path, clock: ManualClock
) -> None:
    """Singly and in pairs; after each death everything is readable, in the end the key is new."""
    points = await _writes_of_a_rotation(tmp_path, clock)
    assert points >= 18  # reseal pages, activation, promotion, retirement, removal
    store = await SqliteStore.open(tmp_path / "sweep/state.db", clock=clock)
    deaths = 0
    try:
        house = await open_house(store, tmp_path / "sweep", clock)
        await fill(house)
        for first in range(points):
            for second in (None, 0, 1, 2, 3, points - first - 1):
                old = (await house.keyring.active()).id
                for dies_at in (first, second):
                    if dies_at is None:
                        continue
                    mortal = _mortal(store, house.directory, clock, Life(dies_at))
                    try:
                        await rotate(mortal, old)
                    except Killed:
                        deaths += 1
                    await assert_readable(build_house(store, house.directory, clock))
                house = build_house(store, house.directory, clock)
                await rotate(house, old)
                assert (await house.keyring.active()).id != old
                await assert_readable(house)
                await assert_only(house, (await house.keyring.active()).id)
    finally:
        await store.close()
    assert deaths > points


async def test_the_file_of_a_new_key_is_there_before_its_row(house: House) -> None:
    old = await house.keyring.active()
    seen: list[bool] = []

    class Watching(MortalStore):
        async def batch(self, statements: Sequence[Statement]) -> list[int]:
            for statement in statements:
                if "INSERT INTO data_key (" in statement.sql:
                    new_id = statement.parameters[0]
                    seen.append(any(file.stem == new_id for file in house.key_files))
            return await super().batch(statements)

    watching = build_house(Watching(house.store, Life()), house.directory, house.clock)
    await watching.rotation.activate(old.id)
    assert seen == [True]


async def test_another_member_finishes_a_rotation_and_the_first_drops_its_file(
    house: House, tmp_path: Path
) -> None:
    await fill(house)
    second = build_house(house.store, tmp_path / "second", house.clock)
    await house.keyring.admit(second.node.public(), "two")
    await second.keyring.open("two")
    old = await house.keyring.active()
    await house.rotation.activate(old.id)
    await rotate(second, old.id)
    await assert_readable(second)
    await assert_readable(house)
    await house.keyring.purge_retired()
    assert old.id not in {file.stem for file in house.key_files + second.key_files}
    assert await house.keyring.active() == await second.keyring.active()


async def test_two_rotations_of_one_key_at_once_end_with_one_new_key(
    house: House, tmp_path: Path
) -> None:
    await fill(house)
    second = build_house(house.store, tmp_path / "second", house.clock)
    await house.keyring.admit(second.node.public(), "two")
    await second.keyring.open("two")
    old = await house.keyring.active()
    async with asyncio.TaskGroup() as group:
        group.create_task(rotate(house, old.id))
        group.create_task(rotate(second, old.id))
    new = await house.keyring.active()
    assert await second.keyring.active() == new
    used = await house.store.query(Statement("SELECT DISTINCT data_key_id FROM secret"))
    assert used == [{"data_key_id": new.id}]
    await assert_readable(house)
    await assert_readable(second)


async def test_writers_and_readers_go_on_during_rotations(house: House) -> None:
    await fill(house)

    async def write() -> None:
        for number in range(60):
            await house.secrets.put("cluster", f"w{number % 7}", Secret(f"{number}"))

    async def read() -> None:
        for _ in range(3):
            await assert_readable(house)

    async def rotate_often() -> None:
        for _ in range(4):
            await rotate(house, (await house.keyring.active()).id)

    async with asyncio.TaskGroup() as group:
        for work in (write, read, rotate_often):
            group.create_task(work())
    for number in range(53, 60):
        assert await house.secrets.find("cluster", f"w{number % 7}") == Secret(f"{number}")
    await rotate(house, (await house.keyring.active()).id)
    await assert_only(house, (await house.keyring.active()).id)


async def test_a_secret_written_with_a_retiring_key_is_sealed_anew_before_the_key_goes(
    house: House,
) -> None:
    """A writer may have looked up the key just before the rotation began."""
    await fill(house)
    old = await house.keyring.active()
    late = [Sealer(old).put(OWNER, "late", Secret("late"))]
    await house.rotation.activate(old.id)
    await house.rotation.reseal()
    await house.store.batch(late)
    await house.rotation.retire()
    assert await house.secrets.find(OWNER, "late") == Secret("late")
    await assert_only(house, (await house.keyring.active()).id)


async def test_a_secret_written_with_a_retired_key_is_refused_and_written_again(
    house: House,
) -> None:
    await fill(house)
    old = await house.keyring.active()
    late: list[Statement] = []

    class Slow(MortalStore):
        """A rotation happens between the writer's look-up and its write."""

        async def batch(self, statements: Sequence[Statement]) -> list[int]:
            if not late:
                late.extend(statements)
                await rotate(house, old.id)
            return await super().batch(statements)

    writer = build_house(Slow(house.store, Life()), house.directory, house.clock)
    await writer.secrets.put(OWNER, "late", Secret("late"))
    assert late[0].parameters[2] == old.id
    assert await house.secrets.find(OWNER, "late") == Secret("late")
    await assert_only(house, (await house.keyring.active()).id)


async def test_a_secret_that_nobody_can_read_is_named_and_keeps_its_key(house: House) -> None:
    await fill(house)
    old = await house.keyring.active()
    broken = crypto.to_base64(bytes(40))
    await house.store.batch(
        [Statement("UPDATE secret SET sealed = ? WHERE name = 'name-007'", (broken,))]
    )
    await house.rotation.activate(old.id)
    with pytest.raises(Corrupt, match="name-007") as raised:
        await house.rotation.reseal()
    assert "name-008" not in raised.value.detail
    used = await house.store.query(
        Statement("SELECT name FROM secret WHERE data_key_id = ?", (old.id,))
    )
    assert used == [{"name": "name-007"}]  # all others are done
    with pytest.raises(Corrupt):
        await house.rotation.retire()
    assert {key.id for key in await house.keyring.all()} >= {old.id}
    await house.secrets.put(OWNER, "name-007", SECRETS["name-007"])
    await house.rotation.retire()
    await assert_readable(house)
    await assert_only(house, (await house.keyring.active()).id)


async def test_an_activation_whose_answer_was_lost_is_not_made_twice(house: House) -> None:
    await fill(house)
    old = await house.keyring.active()

    class Deaf(MortalStore):
        async def batch(self, statements: Sequence[Statement]) -> list[int]:
            await super().batch(statements)
            raise DeadlineExceeded("the answer was lost")

    deaf = build_house(Deaf(house.store, Life()), house.directory, house.clock)
    with pytest.raises(DeadlineExceeded):
        await deaf.rotation.activate(old.id)
    again = build_house(house.store, house.directory, house.clock)
    await rotate(again, old.id)
    assert len(again.key_files) == 1
    await assert_readable(again)
    await assert_only(again, (await again.keyring.active()).id)


async def test_a_pending_key_that_the_database_already_moved_past_does_not_block(
    house: House, tmp_path: Path
) -> None:
    """Our answer was lost, and another member rotated again before we looked."""
    second = build_house(house.store, tmp_path / "second", house.clock)
    await house.keyring.admit(second.node.public(), "two")
    await second.keyring.open("two")
    await fill(house)
    old = await house.keyring.active()
    mortal = _mortal(house.store, house.directory, house.clock, Life(dies_at=3))
    with pytest.raises(Killed):
        await mortal.rotation.activate(old.id)
    assert [file.suffix for file in house.key_files].count(".new") == 1
    middle = await second.keyring.active()
    await second.keyring.replace_active(middle.id)
    house = build_house(house.store, house.directory, house.clock)
    await rotate(house, (await second.keyring.active()).id)
    await assert_readable(house)
    await assert_only(house, (await house.keyring.active()).id)


async def test_retirement_gives_up_for_now_when_writers_keep_coming(house: House) -> None:
    await fill(house)
    old = await house.keyring.active()
    late = [Sealer(old).put(OWNER, "late", Secret("late"))]

    class Busy(MortalStore):
        async def batch(self, statements: Sequence[Statement]) -> list[int]:
            if any("DELETE FROM data_key" in statement.sql for statement in statements):
                await super().batch(late)
            return await super().batch(statements)

    busy = build_house(Busy(house.store, Life()), house.directory, house.clock)
    await busy.rotation.activate(old.id)
    with pytest.raises(Unavailable):
        await busy.rotation.retire()
    await rotate(house, old.id)
    await assert_only(house, (await house.keyring.active()).id)


async def test_the_operation_names_and_locks_the_key_it_replaces(house: House) -> None:
    old = await house.keyring.active()
    submission = await house.rotation.submission(MASTER)
    assert submission.arguments.data_key_id == old.id
    assert submission.targets == (f"data_key/{old.id}",)
    assert submission.principal == "master"
    assert [step.name for step in submission.kind.steps] == ["activate", "reseal", "retire"]
