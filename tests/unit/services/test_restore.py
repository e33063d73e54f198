"""A backup taken from a cloud that works, and put back after that has gone on."""

import asyncio
import os
import shutil
import sqlite3
import stat
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Final

import pytest

from appliance.core.aio import BlockingPool
from appliance.core.clock import SystemClock
from appliance.core.errors import Conflict, Corrupt, NotFound, Unavailable
from appliance.drivers.fake.world import World
from appliance.model.domain_state import DomainState
from appliance.resources.kompute import KOMPUTES
from appliance.services.restore import restore
from appliance.services.verify import verify_world
from appliance.store.backup import back_up
from appliance.store.base import Statement
from appliance.store.sqlite import SqliteStore
from tests.support.cloud import ASKED, Cloud, Nodes, build_cloud, furnish, kompute
from tests.support.faults import What, Where, breaks
from tests.unit.services.test_invariants import verify

CLOCK: Final = SystemClock()
_KILLED: Final = 9


@asynccontextmanager
async def running(directory: Path, nodes: Nodes) -> AsyncGenerator[Cloud]:
    """Run a Kahuna on the state in `directory`, before nodes that are there already."""
    store = await SqliteStore.open(directory / "state.db", clock=CLOCK)
    try:
        async with asyncio.TaskGroup() as group:
            cloud = build_cloud(store, nodes, CLOCK)
            engine = group.create_task(cloud.engine.run())
            await asyncio.sleep(0)
            try:
                if not await cloud.count("cluster"):
                    await store.batch(
                        [Statement("INSERT INTO cluster VALUES (1, ?, 1, 0)", ("c" * 24,))]
                    )
                    await furnish(cloud, hosts=1)
                for name, table in (("project", "project"), ("zone", "zone")):
                    setattr(cloud, name, str(await cloud.value(f"SELECT id FROM {table}")))
                cloud.agents = [str(await cloud.value("SELECT id FROM agent"))]
                yield cloud
            finally:
                engine.cancel()
    finally:
        await store.close()


@asynccontextmanager
async def machines(directory: Path) -> AsyncGenerator[Nodes]:
    with World() as world:
        keys = directory / "keys"
        keys.mkdir(mode=0o700, exist_ok=True)
        nodes = Nodes(keys, CLOCK, world)
        try:
            yield nodes
        finally:
            await nodes.close()


async def test_after_a_restore_what_it_does_not_know_is_told_and_goes_on(tmp_path: Path) -> None:
    file = tmp_path / "backup.db"
    async with machines(tmp_path) as nodes:
        async with running(tmp_path, nodes) as cloud:
            old = await cloud.add_kompute("old")
            back_up(tmp_path / "state.db", file)
            new = await cloud.add_kompute("new")
            stored = await cloud.catalog.get(KOMPUTES, str(old.id))
            begun = await cloud.compute.komputes.update(
                ASKED, str(stored.id), kompute("old", vcpus=4)
            )
            await begun.outcome()
            unknown = str(
                await cloud.value("SELECT id FROM instance WHERE kompute_id = ?", str(new.id))
            )
        restored = await restore(file, tmp_path / "state.db", CLOCK)
        assert (restored.instances, restored.unfinished, restored.lacking_keys) == (1, 0, ())
        async with running(tmp_path, nodes) as cloud:
            await cloud.reconcile()  # no agent takes Kahuna for stale: it brings back the old size
            assert (await cloud.catalog.get(KOMPUTES, str(old.id))).vcpus == 1
            verdict = await verify_world(cloud.store, cloud.nodes, cloud.compute.seeds)
            told = [(each.target.partition("/")[0], each.detail) for each in verdict.differences]
            assert sorted(told) == [
                ("image", "a seed image of nobody"),
                ("image", "a volume image of nobody"),
                ("instance", "a domain that no instance has"),
            ]
            alarms = [alarm.kind for alarm in await cloud.alarms.list()]
            assert sorted(alarms) == ["domain_unknown", "image_unknown", "image_unknown"]
            domain = await nodes[cloud.agents[0]].node.compute.get_domain(unknown)
            assert domain.state is DomainState.RUNNING


@breaks(
    What.DATABASE,
    "one backup is restored twice, on machines that know nothing of each other",
    expected="agents take what the second one asks for",
    where=Where.SIMULATED,
)
async def test_of_one_backup_the_second_restore_is_above_the_first(tmp_path: Path) -> None:
    """Each on a machine that knows nothing of the other; the agents know them all."""
    file = tmp_path / "backup.db"
    async with machines(tmp_path) as nodes:
        async with running(tmp_path, nodes) as cloud:
            made = await cloud.add_kompute("web")
            back_up(tmp_path / "state.db", file)
        for number in range(2):
            place = tmp_path / f"machine{number}"
            place.mkdir()
            restored = await restore(file, place / "state.db", CLOCK)
            assert len(restored.lacking_keys) == 1, "the key is on the other machine"
            async with running(place, nodes) as cloud:
                for vcpus in range(2, 5):
                    changed = kompute("web", vcpus=vcpus)
                    begun = await cloud.compute.komputes.update(ASKED, str(made.id), changed)
                    await begun.outcome()


@breaks(
    What.DATABASE,
    "a backup is restored that believes in a machine deleted since",
    expected="it is told, its disks are not made anew, and it can be deleted",
    where=Where.SIMULATED,
)
async def test_a_machine_that_was_deleted_since_is_told_and_not_made_anew(tmp_path: Path) -> None:
    file = tmp_path / "backup.db"
    async with machines(tmp_path) as nodes:
        async with running(tmp_path, nodes) as cloud:
            made = await cloud.add_kompute("web")
            back_up(tmp_path / "state.db", file)
            await (await cloud.compute.komputes.delete(ASKED, str(made.id))).outcome()
        await restore(file, tmp_path / "state.db", CLOCK)
        async with running(tmp_path, nodes) as cloud:
            await cloud.reconcile()
            problem = await cloud.value("SELECT problem FROM kompute WHERE phase = 'error'")
            assert "does not exist" in str(problem)
            assert await nodes[cloud.agents[0]].node.compute.list_domains() == []
            await (await cloud.compute.komputes.delete(ASKED, str(made.id))).outcome()
            await cloud.reconcile()
            assert (await verify_world(cloud.store, nodes, cloud.compute.seeds)).is_clean


@breaks(
    What.DATABASE,
    "an older copy of the database is put back by hand",
    expected="agents refuse its commands and name the restore, after which they take them",
    where=Where.SIMULATED,
)
async def test_an_older_state_put_back_by_hand_is_refused_until_it_is_restored(
    tmp_path: Path,
) -> None:
    file = tmp_path / "backup.db"

    async def resize(cloud: Cloud, kompute_id: str, vcpus: int) -> None:
        changed = kompute("web", vcpus=vcpus)
        await (await cloud.compute.komputes.update(ASKED, kompute_id, changed)).outcome()

    async with machines(tmp_path) as nodes:
        async with running(tmp_path, nodes) as cloud:
            kompute_id = str((await cloud.add_kompute("web")).id)
            back_up(tmp_path / "state.db", file)
            for vcpus in (2, 3, 4):
                await resize(cloud, kompute_id, vcpus)
        shutil.copy(file, tmp_path / "state.db")
        async with running(tmp_path, nodes) as cloud:
            with pytest.raises(Unavailable, match="is known here"):
                await resize(cloud, kompute_id, 5)
            (failed,) = (op for op in await cloud.engine.list() if op.kind == "kompute_update")
            assert failed.problem is not None
            assert "kowabunga state restore" in str(failed.problem.hint)
        await restore(tmp_path / "state.db", tmp_path / "state.db", CLOCK)
        async with running(tmp_path, nodes) as cloud:
            await resize(cloud, kompute_id, 6)
            assert (await verify_world(cloud.store, nodes, cloud.compute.seeds)).is_clean


@breaks(
    What.DATABASE,
    "a backup while others write",
    expected="each change is in it whole or not at all",
    where=Where.HOST,
)
async def test_a_backup_is_whole_while_others_write(tmp_path: Path) -> None:
    """Each batch writes two rows: no backup may hold one without the other."""
    store = await SqliteStore.open(tmp_path / "state.db", clock=CLOCK)
    pool = BlockingPool("backup", 1)
    number = 0

    async def write() -> None:
        nonlocal number
        while True:
            number += 1
            pair = [f"agent/{number:024x}", f"volume/{number:024x}"]
            await store.batch(
                [Statement("INSERT INTO target_fence VALUES (?, 1)", (target,)) for target in pair]
            )

    async with asyncio.TaskGroup() as group:
        writing = [group.create_task(write()) for _ in range(4)]
        for copy in range(5):
            before = number - len(writing)
            file = tmp_path / f"{copy}.db"
            await pool.run(60, back_up, tmp_path / "state.db", file)
            with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as connection:
                rows = connection.execute(
                    "SELECT substr(target, 1, 5), count(*) FROM target_fence GROUP BY 1"
                ).fetchall()
            counted = dict(rows)
            assert counted.get("agent", 0) == counted.get("volum", 0) >= before
            assert stat.S_IMODE(file.stat().st_mode) == 0o600
        for task in writing:
            task.cancel()
    pool.close()
    await store.close()


async def test_what_cannot_be_backed_up_leaves_nothing(tmp_path: Path) -> None:
    place = tmp_path / "backups"
    place.mkdir()
    with pytest.raises(NotFound, match="no database"):
        back_up(tmp_path / "state.db", place / "a.db")
    store = await SqliteStore.open(tmp_path / "state.db", clock=CLOCK)
    with pytest.raises(NotFound, match="no directory"):
        back_up(tmp_path / "state.db", tmp_path / "nowhere" / "a.db")
    (place / "a.db").write_text("precious")
    with pytest.raises(Conflict, match="exists already"):
        back_up(tmp_path / "state.db", place / "a.db")
    assert [(each.name, each.read_text()) for each in place.iterdir()] == [("a.db", "precious")]
    with pytest.raises(Conflict, match="held by process"):
        await restore(place / "a.db", tmp_path / "state.db", CLOCK)
    await store.close()


@pytest.fixture
def backed_up(tmp_path: Path) -> tuple[Path, Path]:
    """Return a backup, and the state that a Kahuna left when it was killed after one more."""

    async def make(directory: Path) -> None:
        async with machines(tmp_path) as nodes, running(directory, nodes) as cloud:
            await cloud.add_kompute("old")
            back_up(directory / "state.db", tmp_path / "backup.db")
            await cloud.add_kompute("new")
            shutil.copytree(directory, tmp_path / "left")

    (tmp_path / "state").mkdir()
    asyncio.run(make(tmp_path / "state"))
    return tmp_path / "backup.db", tmp_path / "left"


def damaged(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-4096:] = b"\xa5" * 4096
    file.write_bytes(content)


def newer(file: Path) -> None:
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("INSERT INTO schema_migration VALUES (9999, 'of_tomorrow', 'x', 0)")
        connection.commit()


def foreign(file: Path) -> None:
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("PRAGMA application_id = 1")


@breaks(
    What.DATABASE,
    "a backup that is damaged, foreign, missing or of a newer release",
    expected="it is not restored, and nothing has changed",
    where=Where.HOST,
)
@pytest.mark.parametrize("spoil", [damaged, newer, foreign, Path.unlink])
def test_a_bad_backup_changes_nothing(backed_up: tuple[Path, Path], spoil: object) -> None:
    file, state = backed_up
    assert callable(spoil)
    spoil(file)
    before = contents(state / "state.db")
    with pytest.raises((Conflict, Corrupt, NotFound)) as refused:
        asyncio.run(restore(file, state / "state.db", CLOCK))
    assert str(file) in refused.value.detail or "schema 9999" in refused.value.detail
    assert contents(state / "state.db") == before


def contents(path: Path) -> dict[str, bytes]:
    files = path.parent.iterdir()
    return {file.name: file.read_bytes() for file in files if file.suffix != ".lock"}


def _names(state: Path) -> list[str]:
    async def read() -> list[str]:
        store = await SqliteStore.open(state / "state.db", clock=CLOCK)
        try:
            rows = await store.query(Statement("SELECT name FROM kompute ORDER BY id"))
        finally:
            await store.close()
        return [str(row["name"]) for row in rows]

    return asyncio.run(read())


def _names_or_refusal(state: Path) -> list[str]:
    try:
        return _names(state)
    except Corrupt:
        return ["refused"]


_CHANGES: Final = {"os.link", "os.rename", "os.remove", "os.mkdir", "os.rmdir"}


def _die_in_restore(file: Path, state: Path, at: int) -> bool:
    """Restore in a process that dies at its n-th change of a name; tell whether it came to that."""
    child = os.fork()
    if child == 0:
        seen = 0

        def hook(event: str, arguments: tuple[object, ...]) -> None:
            nonlocal seen
            if event in _CHANGES and any(str(state) in str(each) for each in arguments):
                seen += 1
                if seen == at:
                    os._exit(_KILLED)

        sys.addaudithook(hook)
        asyncio.run(restore(file, state / "state.db", CLOCK))
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == _KILLED


@breaks(
    What.DATABASE,
    "kill -9 at each change of a restore",
    expected="the old state, the new one, or a refusal until the restore is repeated",
    where=Where.HOST,
)
def test_whoever_dies_in_a_restore_leaves_the_old_state_or_the_new(
    backed_up: tuple[Path, Path], tmp_path: Path
) -> None:
    file, left = backed_up
    outcomes = set()
    at = 0
    while True:
        at += 1
        state = tmp_path / f"try{at}"
        shutil.copytree(left, state)
        died = _die_in_restore(file, state, at)
        found = _names_or_refusal(state)
        if found == ["refused"]:
            asyncio.run(restore(file, state / "state.db", CLOCK))
            assert _names(state) == ["old"]
            assert not (state / "restoring").exists()
        outcomes.add(tuple(found))
        assert found in (["old", "new"], ["refused"], ["old"])
        if not died:
            assert found == ["old"]
            (aside,) = state.glob("replaced-*")
            assert _names(aside) == ["old", "new"]
            break
    assert outcomes == {("old", "new"), ("refused",), ("old",)}
    assert asyncio.run(verify(state / "state.db")) == []
