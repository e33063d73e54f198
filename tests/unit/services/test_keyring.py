import asyncio
import stat
from pathlib import Path

import pytest

from appliance.core import crypto
from appliance.core.errors import Conflict, Corrupt, Forbidden, NotFound
from appliance.core.secret import Secret
from appliance.services.node_identity import NodePublic
from appliance.services.secrets import CLUSTER
from appliance.store.base import Statement
from appliance.store.sqlite import SqliteStore
from tests.support.clock import ManualClock
from tests.unit.services.house import House, build_house, open_house


async def test_the_first_start_makes_one_active_key_in_a_private_file(house: House) -> None:
    [file] = house.key_files
    assert file.name == f"{(await house.keyring.active()).id}.key"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700


async def test_a_restart_keeps_the_key(house: House) -> None:
    again = build_house(house.store, house.directory, house.clock)
    await again.keyring.open("one")
    assert await again.keyring.active() == await house.keyring.active()
    assert len(house.key_files) == 1


async def test_a_copy_that_an_interrupted_write_left_is_cleared_away(house: House) -> None:
    [file] = house.key_files
    file.with_name(f".{file.name}.abcdefgh").write_bytes(file.read_bytes())
    await house.keyring.open("one")
    assert house.key_files == [file]


async def test_a_lost_key_file_comes_back_by_the_node_key(house: House) -> None:
    active = await house.keyring.active()
    house.key_files[0].unlink()
    again = build_house(house.store, house.directory, house.clock)
    await again.keyring.open("one")
    assert await again.keyring.active() == active
    assert len(house.key_files) == 1


async def test_a_new_member_needs_only_its_node_key(house: House, tmp_path: Path) -> None:
    await house.secrets.put(CLUSTER, "answer", Secret("42"))
    second = build_house(house.store, tmp_path / "second", house.clock)
    with pytest.raises(NotFound) as raised:
        await second.keyring.open("two")
    assert "recovery export" in str(raised.value.hint)
    await house.keyring.admit(second.node.public(), "two")
    await second.keyring.open("two")
    assert await second.secrets.find(CLUSTER, "answer") == Secret("42")
    assert [file.name for file in second.key_files] == [file.name for file in house.key_files]


async def test_two_nodes_that_found_a_cluster_end_with_one_key(
    store: SqliteStore, tmp_path: Path, clock: ManualClock
) -> None:
    houses = [build_house(store, tmp_path / name, clock) for name in "abc"]
    for house in houses:  # all are members before any key exists
        await house.keyring.admit(house.node.public(), house.directory.name)
    async with asyncio.TaskGroup() as group:
        for house in houses:
            group.create_task(house.keyring.open(house.directory.name))
    keys = [await house.keyring.active() for house in houses]
    assert keys == [keys[0]] * 3
    assert len(await store.query(Statement("SELECT id FROM data_key"))) == 1


async def test_a_member_that_joins_while_a_key_is_made_gets_that_key(
    house: House, tmp_path: Path
) -> None:
    old = await house.keyring.active()
    second = build_house(house.store, tmp_path / "second", house.clock)
    async with asyncio.TaskGroup() as group:
        group.create_task(house.keyring.replace_active(old.id))
        group.create_task(house.keyring.admit(second.node.public(), "two"))
    await second.keyring.open("two")
    assert await second.keyring.all() == await house.keyring.all()
    assert len(await second.keyring.all()) == 2


async def test_names_and_key_pairs_belong_to_one_node(house: House, tmp_path: Path) -> None:
    second = build_house(house.store, tmp_path / "second", house.clock)
    with pytest.raises(Conflict, match="another node"):
        await house.keyring.admit(second.node.public(), "one")
    mine, other = house.node.public(), second.node.public()
    clone = NodePublic(mine.id, other.signing_key, other.sealing_key)
    with pytest.raises(Conflict, match="another key pair"):
        await house.keyring.admit(clone, "one")


async def test_a_node_may_change_its_name(house: House) -> None:
    await house.keyring.open("renamed")
    assert await house.store.query(Statement("SELECT name FROM node")) == [{"name": "renamed"}]


async def test_a_key_file_that_others_can_read_is_refused(house: House) -> None:
    house.key_files[0].chmod(0o640)
    again = build_house(house.store, house.directory, house.clock)
    with pytest.raises(Forbidden, match="chmod 600"):
        await again.keyring.open("one")


@pytest.mark.parametrize("content", [b"", b"\xff", crypto.to_base64(bytes(32)).encode()])
async def test_a_key_file_with_another_content_is_refused(house: House, content: bytes) -> None:
    house.key_files[0].write_bytes(content)
    again = build_house(house.store, house.directory, house.clock)
    with pytest.raises(Corrupt, match="data key"):
        await again.keyring.open("one")


async def test_a_wrap_of_another_key_is_refused(house: House) -> None:
    active = await house.keyring.active()
    house.key_files[0].unlink()
    planted = crypto.wrap(
        crypto.random_key(),
        crypto.from_base64(house.node.public().sealing_key),
        crypto.context_of("data key", active.id, house.node.id),
    )
    change = "UPDATE data_key_wrap SET wrapped = ?"
    await house.store.batch([Statement(change, (crypto.to_base64(planted),))])
    again = build_house(house.store, house.directory, house.clock)
    with pytest.raises(Corrupt, match="another key"):
        await again.keyring.open("one")


async def test_what_it_shows_has_no_key(house: House) -> None:
    active = await house.keyring.active()
    assert crypto.to_base64(active.key.reveal()) not in repr(active)
    assert "***" in repr(active)


async def test_open_houses_share_nothing_but_the_store(house: House, tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        await open_house(house.store, tmp_path / "stranger", house.clock, "stranger")
    assert len(await house.store.query(Statement("SELECT id FROM node"))) == 1
