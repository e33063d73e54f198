import shutil
import sqlite3
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
import pytest_asyncio

from appliance.core.aio import BlockingPool
from appliance.core.errors import Conflict, Corrupt, Forbidden, Invalid, NotFound
from appliance.core.secret import Secret
from appliance.model.principal import MASTER
from appliance.services.cluster import Cluster, get_cluster
from appliance.services.recovery import Recovery
from appliance.services.secrets import CLUSTER
from appliance.store.base import Statement, Store
from appliance.store.sqlite import SqliteStore
from tests.support.clock import ManualClock
from tests.unit.services.house import House, build_house, open_house

PASSPHRASE = Secret("correct horse battery staple")


@pytest_asyncio.fixture
async def pool() -> AsyncGenerator[BlockingPool]:
    pool = BlockingPool("hashing", 1)
    yield pool
    pool.close()


@pytest_asyncio.fixture
async def restored(house: House, tmp_path: Path, clock: ManualClock) -> AsyncGenerator[SqliteStore]:
    """A backup of the house's database, alone in the state directory of a new machine."""
    await house.authority.ensure()
    await house.settings.set("smtp.password", "hunter2-hunter2", MASTER)
    await house.secrets.put(CLUSTER, "answer", Secret("42"))
    await house.keyring.replace_active((await house.keyring.active()).id)  # two keys in use
    await house.secrets.put(CLUSTER, "later", Secret("43"))
    fresh = tmp_path / "fresh"
    fresh.mkdir()
    source = sqlite3.connect(tmp_path / "state/state.db")
    target = sqlite3.connect(fresh / "state.db")
    source.backup(target)
    source.close()
    target.close()
    store = await SqliteStore.open(fresh / "state.db", clock=clock)
    yield store
    await store.close()


def recovery(house: House, pool: BlockingPool) -> Recovery:
    return Recovery(house.store, house.keyring, house.clock, pool)


async def restore(
    new: House, pool: BlockingPool, export: bytes, passphrase: Secret = PASSPHRASE
) -> Cluster:
    return await recovery(new, pool).restore(export, passphrase, new.node.public(), "one")


async def test_a_backup_and_the_export_make_every_secret_readable_on_a_new_machine(
    house: House, restored: SqliteStore, tmp_path: Path, pool: BlockingPool
) -> None:
    export = await recovery(house, pool).export(PASSPHRASE)
    before = await get_cluster(restored)
    new = build_house(restored, tmp_path / "fresh", house.clock)
    with pytest.raises(NotFound, match="cannot get data key"):
        await new.keyring.open("one")
    cluster = await restore(new, pool, export)
    assert cluster == Cluster(before.id, before.epoch + 1)
    # A process of its own, that finds nothing but the files and the database.
    started = build_house(restored, tmp_path / "fresh", house.clock)
    await started.keyring.open("one")
    assert await started.secrets.find(CLUSTER, "answer") == Secret("42")
    assert await started.secrets.find(CLUSTER, "later") == Secret("43")
    assert await started.secrets.find(CLUSTER, "smtp.password") == Secret("hunter2-hunter2")
    issued = await started.authority.ensure_server_certificate(tmp_path / "fresh/tls", ["one"])
    assert issued.renewed
    await _assert_nothing_unreadable(started, restored)
    # The new node took the place of the old one, and a rotation works as ever.
    assert await restored.query(Statement("SELECT id FROM node")) == [{"id": new.node.id}]
    await started.keyring.replace_active((await started.keyring.active()).id)
    await started.secrets.reseal()
    assert await started.keyring.retire_unused() == []
    await _assert_nothing_unreadable(started, restored)


async def test_an_interrupted_import_can_be_repeated(
    house: House, restored: SqliteStore, tmp_path: Path, pool: BlockingPool
) -> None:
    export = await recovery(house, pool).export(PASSPHRASE)
    new = build_house(restored, tmp_path / "fresh", house.clock)
    new.keyring.keep(await house.keyring.all())  # it died between the files and the rows
    first = await restore(new, pool, export)
    second = await restore(new, pool, export)
    assert second.epoch == first.epoch + 1
    await _assert_nothing_unreadable(new, restored)


async def test_the_export_hides_what_it_holds(
    house: House, restored: SqliteStore, pool: BlockingPool
) -> None:
    export = await recovery(house, pool).export(PASSPHRASE)
    cluster = await get_cluster(restored)
    for key in await house.keyring.all():
        assert key.id.encode() not in export
        assert key.key.reveal() not in export
    assert cluster.id.encode() not in export


async def test_a_wrong_passphrase_changes_nothing(
    house: House, restored: SqliteStore, tmp_path: Path, pool: BlockingPool
) -> None:
    export = await recovery(house, pool).export(PASSPHRASE)
    new = build_house(restored, tmp_path / "fresh", house.clock)
    await _refused(new, pool, export, (Forbidden, "passphrase is wrong"), Secret("correct horse."))


async def test_a_changed_byte_is_a_clear_error(
    house: House, restored: SqliteStore, tmp_path: Path, pool: BlockingPool
) -> None:
    export = await recovery(house, pool).export(PASSPHRASE)
    new = build_house(restored, tmp_path / "fresh", house.clock)
    position = export.index(b'"sealed"') + 40
    replacement = b"A" if export[position : position + 1] != b"A" else b"B"
    changed = export[:position] + replacement + export[position + 1 :]
    await _refused(new, pool, changed, (Forbidden, "file was changed"))
    await _refused(new, pool, export[:-40], (Invalid, "damaged"))
    await _refused(new, pool, b"", (Invalid, "not a file of kind"))


async def test_the_export_of_another_cluster_is_refused(
    house: House, restored: SqliteStore, tmp_path: Path, clock: ManualClock, pool: BlockingPool
) -> None:
    other_store = await SqliteStore.open(tmp_path / "other/state.db", clock=clock)
    try:
        other = await open_house(other_store, tmp_path / "other", clock)
        export = await recovery(other, pool).export(PASSPHRASE)
    finally:
        await other_store.close()
    new = build_house(restored, tmp_path / "fresh", house.clock)
    await _refused(new, pool, export, (Conflict, "belongs to cluster"))


async def test_an_export_older_than_a_key_of_the_backup_is_refused(
    house: House, tmp_path: Path, pool: BlockingPool, clock: ManualClock
) -> None:
    export = await recovery(house, pool).export(PASSPHRASE)
    await house.keyring.replace_active((await house.keyring.active()).id)
    new = build_house(house.store, tmp_path / "new", clock)
    await _refused(new, pool, export, (Invalid, "does not have data key"))


async def test_an_exchanged_authority_is_noticed(
    house: House, restored: SqliteStore, tmp_path: Path, pool: BlockingPool
) -> None:
    export = await recovery(house, pool).export(PASSPHRASE)
    await restored.batch([Statement("UPDATE certificate_authority SET certificate = 'forged'")])
    new = build_house(restored, tmp_path / "fresh", house.clock)
    await _refused(new, pool, export, (Corrupt, "not the one that was exported"))


async def test_a_short_passphrase_is_refused_and_not_shown(
    house: House, pool: BlockingPool
) -> None:
    with pytest.raises(Invalid, match="at least 12") as raised:
        await recovery(house, pool).export(Secret("hunter2"))
    assert "hunter2" not in f"{raised.value!r}{raised.value}{raised.value.context}"


async def test_without_the_export_a_backup_cannot_be_opened(
    house: House, restored: SqliteStore, tmp_path: Path
) -> None:
    """Not even with the old node's name; its node key would do, so that is 0600 and not in it."""
    new = build_house(restored, tmp_path / "fresh", house.clock)
    with pytest.raises(NotFound):
        await new.secrets.find(CLUSTER, "answer")
    shutil.copy(house.directory / "keys/node.key", tmp_path / "fresh/keys/node.key")
    with_node_key = build_house(restored, tmp_path / "fresh", house.clock)
    await with_node_key.keyring.open("one")
    assert await with_node_key.secrets.find(CLUSTER, "answer") == Secret("42")


async def _refused(
    new: House,
    pool: BlockingPool,
    export: bytes,
    refusal: tuple[type[Exception], str],
    passphrase: Secret = PASSPHRASE,
) -> None:
    error, text = refusal
    before = await get_cluster(new.store)
    with pytest.raises(error, match=text):
        await restore(new, pool, export, passphrase)
    assert await get_cluster(new.store) == before
    assert not (new.directory / "keys/data").exists()


async def _assert_nothing_unreadable(house: House, store: Store) -> None:
    rows = await store.query(Statement("SELECT owner, name FROM secret"))
    assert len(rows) >= 4
    for row in rows:
        assert await house.secrets.find(str(row["owner"]), str(row["name"])) is not None
