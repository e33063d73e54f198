"""Rotation of the data key, killed at every write, alone and beside other writers."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from appliance.core import crypto
from appliance.core.clock import Clock
from appliance.core.errors import Corrupt, DeadlineExceeded, NotFound, Unavailable
from appliance.core.secret import Secret
from appliance.model.agent import AgentType
from appliance.model.principal import MASTER
from appliance.operations.engine import Engine
from appliance.rpc.gateway import Command
from appliance.rpc.method import Method, P, R
from appliance.services.key_files import DataKey, KeyFiles
from appliance.services.keyring import PURGE_PERIOD_S
from appliance.services.secrets import Sealer
from appliance.store.base import Consistency, Row, Statement, Store
from tests.support.clock import ManualClock
from tests.unit.services.house import House, build_house

OWNER = "agent/" + "a" * 24
SECRETS = {f"name-{number:03}": Secret(f"value-{number}") for number in range(60)}


class Killed(BaseException):
    """The process is gone: nothing in it may catch this."""


class Life:
    """Counts the writes of a process and ends it before or after one of them."""

    def __init__(self, dies_at: int | None = None) -> None:
        self.points: list[str] = []
        self._dies_at = dies_at

    def point(self, what: str) -> None:
        self.points.append(what)
        if len(self.points) - 1 == self._dies_at:
            raise Killed(what)


class MortalStore:
    def __init__(self, store: Store, life: Life) -> None:
        self._store = store
        self._life = life

    async def query(
        self, statement: Statement, consistency: Consistency = Consistency.WEAK
    ) -> list[Row]:
        return await self._store.query(statement, consistency)

    async def batch(self, statements: Sequence[Statement]) -> list[int]:
        what = statements[-1].sql.split(" WHERE")[0]
        self._life.point(f"before {what}")
        result = await self._store.batch(statements)
        self._life.point(f"after {what}")
        return result

    async def close(self) -> None: ...


class MortalKeyFiles(KeyFiles):
    def __init__(self, directory: Path, life: Life) -> None:
        super().__init__(directory)
        self._life = life

    def pending(self) -> DataKey:
        self._life.point("before the new file")
        key = super().pending()
        self._life.point("after the new file")
        return key

    def promote(self, key_id: str) -> None:
        self._life.point("before promoting")
        super().promote(key_id)
        self._life.point("after promoting")

    def remove(self, key_id: str) -> None:
        self._life.point("before removing")
        super().remove(key_id)
        self._life.point("after removing")


async def rotate(house: House, old_id: str) -> None:
    await house.rotation.activate(old_id)
    await house.rotation.reseal()
    await house.rotation.retire()


async def fill(house: House) -> None:
    await house.secrets.batch(
        lambda sealer: [sealer.put(OWNER, name, value) for name, value in SECRETS.items()]
    )


async def assert_readable(house: House) -> None:
    rows = await house.store.query(
        Statement("SELECT name, data_key_id, sealed FROM secret WHERE owner = ?", (OWNER,))
    )
    found = {
        str(row["name"]): await house.secrets.open(OWNER, str(row["name"]), row) for row in rows
    }
    assert {name: found[name] for name in SECRETS} == SECRETS


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
    with pytest.raises(NotFound):  # not in memory either
        await house.keyring.get(old.id)


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


async def _points_of_a_rotation(house: House) -> list[str]:
    life = Life()
    old = await house.keyring.active()
    await rotate(_mortal(house.store, house.directory, house.clock, life), old.id)
    return life.points


async def test_killed_before_and_after_every_write_a_rotation_is_finished_by_the_next(
    house: House,
) -> None:
    """Singly and in pairs; after each death everything is readable, in the end the key is new."""
    store, clock = house.store, house.clock
    await fill(house)
    points = await _points_of_a_rotation(house)
    assert points == await _points_of_a_rotation(house)  # the same for each rotation below
    killed_at: list[str] = []
    for first in range(len(points)):
        for second in (None, *range(0, len(points), 4)):
            house = build_house(store, house.directory, clock)
            old = (await house.keyring.active()).id
            with pytest.raises(Killed) as death:
                await rotate(_mortal(store, house.directory, clock, Life(first)), old)
            killed_at.append(str(death.value))
            await assert_readable(build_house(store, house.directory, clock))
            if second is not None:
                # What is left to do may have fewer writes than that: then it ends well.
                with suppress(Killed):
                    await rotate(_mortal(store, house.directory, clock, Life(second)), old)
                await assert_readable(build_house(store, house.directory, clock))
            house = build_house(store, house.directory, clock)
            await rotate(house, old)
            assert (await house.keyring.active()).id != old
            await assert_readable(house)
            await assert_only(house, (await house.keyring.active()).id)
    assert set(killed_at) == set(points)
    assert {point.partition(" ")[2] for point in points} >= {
        "the new file", "promoting", "removing", "UPDATE secret SET data_key_id = ?, sealed = ?",
        "DELETE FROM txn_guard", "DELETE FROM data_key",
    }  # fmt: skip


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


async def test_a_running_member_drops_the_file_of_a_key_that_another_has_retired(
    house: House, clock: ManualClock, tmp_path: Path
) -> None:
    second = build_house(house.store, tmp_path / "second", house.clock)
    await house.keyring.admit(second.node.public(), "two")
    await second.keyring.open("two")
    old = await house.keyring.active()
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(house.rotation.run())
        await rotate(second, old.id)
        async with asyncio.timeout(60):
            while old.id in {file.stem for file in house.key_files}:
                await clock.advance(PURGE_PERIOD_S)
                await asyncio.sleep(0.01)  # the files are deleted after an answer of a thread
        running.cancel()


async def test_a_member_admitted_while_the_key_is_replaced_can_read_what_follows(
    house: House, tmp_path: Path
) -> None:
    """The new key came between the look at the keys and the member's row."""
    old = await house.keyring.active()
    second = build_house(house.store, tmp_path / "second", house.clock)

    class Slow(MortalStore):
        async def batch(self, statements: Sequence[Statement]) -> list[int]:
            await house.keyring.replace_active(old.id)
            return await super().batch(statements)

    slow = build_house(Slow(house.store, Life()), house.directory, house.clock)
    await slow.keyring.admit(second.node.public(), "two")
    await fill(house)
    await second.keyring.open("two")
    await assert_readable(second)


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
        for name, value in SECRETS.items():
            assert await house.secrets.find(OWNER, name) == value

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


async def test_a_secret_written_while_its_row_is_sealed_anew_is_not_lost(house: House) -> None:
    await fill(house)
    old = await house.keyring.active()
    renewed: list[Secret] = []

    class Slow(MortalStore):
        """A writer replaces a secret between the look of a reseal and its write."""

        async def batch(self, statements: Sequence[Statement]) -> list[int]:
            if not renewed and statements[0].sql.startswith("UPDATE secret"):
                renewed.append(Secret("renewed"))
                await house.secrets.put(OWNER, "name-003", renewed[0])
            return await super().batch(statements)

    await house.rotation.activate(old.id)
    slow = build_house(Slow(house.store, Life()), house.directory, house.clock)
    await slow.rotation.reseal()
    assert renewed == [await house.secrets.find(OWNER, "name-003")]


class Overtaken(MortalStore):
    """A whole rotation by another process happens right after one of our reads of `secret`."""

    def __init__(self, house: House, read: str) -> None:
        super().__init__(house.store, Life())
        self._house = house
        self._read = read
        self.overtaken = False

    async def query(
        self, statement: Statement, consistency: Consistency = Consistency.WEAK
    ) -> list[Row]:
        rows = await super().query(statement, consistency)
        if not self.overtaken and self._read in statement.sql:
            self.overtaken = True
            await rotate(self._house, (await self._house.keyring.active()).id)
        return rows


def _overtaken(house: House, read: str) -> tuple[House, Overtaken]:
    store = Overtaken(house, read)
    return build_house(store, house.directory, house.clock), store


async def test_a_reader_that_a_rotation_overtakes_reads_again(house: House) -> None:
    await fill(house)
    reader, store = _overtaken(house, "FROM secret WHERE owner")
    assert await reader.secrets.find(OWNER, "name-000") == SECRETS["name-000"]
    assert store.overtaken


async def test_a_taker_that_a_rotation_overtakes_takes_the_new_row(house: House) -> None:
    await fill(house)
    taker, store = _overtaken(house, "FROM secret WHERE owner")
    assert await taker.secrets.take(OWNER, "name-000") == SECRETS["name-000"]
    assert store.overtaken
    assert await house.secrets.find(OWNER, "name-000") is None


async def test_a_reseal_that_a_rotation_overtakes_leaves_those_rows_alone(house: House) -> None:
    await fill(house)
    old = await house.keyring.active()
    await house.keyring.replace_active(old.id)
    late, store = _overtaken(house, "FROM secret WHERE data_key_id IN")
    await late.rotation.reseal()
    assert store.overtaken
    await rotate(house, (await house.keyring.active()).id)
    await assert_readable(house)
    await assert_only(house, (await house.keyring.active()).id)


async def test_an_agent_that_says_hello_during_a_rotation_is_known(house: House) -> None:
    agent = await house.agents.register("node", AgentType.KAKTUS)
    await house.agents.issue_key(agent.id)
    key = await house.agents.collect_key(agent.id)
    asked, store = _overtaken(house, "LEFT JOIN secret")
    identity = await asked.agents.find(agent.id)
    assert store.overtaken
    assert identity is not None
    assert identity.verifier == crypto.derive_verifier(key.reveal_text())


async def test_a_taker_does_not_delete_a_newer_secret_than_it_returns(house: House) -> None:
    await house.secrets.put(OWNER, "key", Secret("old"))

    class Slow(MortalStore):
        async def batch(self, statements: Sequence[Statement]) -> list[int]:
            if await house.secrets.find(OWNER, "key") == Secret("old"):
                await house.secrets.put(OWNER, "key", Secret("new"))
            return await super().batch(statements)

    taker = build_house(Slow(house.store, Life()), house.directory, house.clock)
    assert await taker.secrets.take(OWNER, "key") == Secret("new")


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


class NoAgents:
    """A gateway without agents: a rotation needs none."""

    def reachable(self, agent_id: str) -> bool:
        return False

    async def call(
        self,
        agent_id: str,
        method: Method[P, R],
        params: P,
        *,
        timeout_s: float | None = None,
        command: Command | None = None,
    ) -> R:
        raise Unavailable(f"agent {agent_id} is not connected")


async def test_the_engine_carries_a_rotation_out(house: House) -> None:
    await fill(house)
    old = await house.keyring.active()
    kinds = [house.rotation.kind]
    engine = Engine(house.store, NoAgents(), kinds, clock=house.clock, alone=True)
    async with asyncio.TaskGroup() as group:
        running = group.create_task(engine.run())
        operation_id = await engine.submit(await house.rotation.submission(MASTER))
        operation = await engine.wait(operation_id, timeout_s=30)
        running.cancel()
    assert operation.state == "done"
    assert (await house.keyring.active()).id != old.id
    await assert_readable(house)
    await assert_only(house, (await house.keyring.active()).id)
